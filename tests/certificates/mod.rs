//! Certificates for tests: an authority, and what it signs.

#![allow(unreachable_pub, reason = "shared by several test files")]

use std::fs;
use std::path::{Path, PathBuf};

use quorate::transport::TlsConfig;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair,
};

/// An authority with a key of its own.
pub struct Authority {
    certificate: Certificate,
    key: KeyPair,
}

/// The files that a node reads.
pub struct Files {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Authority { certificate, key }
    }

    /// Writes a certificate for `name`, its key, and the authority's certificate into `dir`.
    pub fn issue(&self, dir: &Path, name: &str) -> Files {
        self.issue_to(dir, name, &[])
    }

    /// The same, to a subject of these parts.
    pub fn issue_to(&self, dir: &Path, name: &str, subject: &[(DnType, &str)]) -> Files {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if !subject.is_empty() {
            params.distinguished_name = DistinguishedName::new();
        }
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params
            .signed_by(&key, &self.certificate, &self.key)
            .unwrap();
        let files = Files::at(dir);
        fs::write(&files.authority, self.certificate.pem()).unwrap();
        fs::write(&files.certificate, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}

impl Files {
    /// Those that were issued into `dir`.
    pub fn at(dir: &Path) -> Files {
        Files {
            authority: dir.join("authority.pem"),
            certificate: dir.join("certificate.pem"),
            key: dir.join("key.pem"),
        }
    }

    pub fn config(&self) -> TlsConfig {
        TlsConfig::from_pem_files(&self.authority, &self.certificate, &self.key).unwrap()
    }
}

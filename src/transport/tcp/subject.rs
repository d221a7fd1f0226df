//! Whom a certificate is about: its subject as RFC 2253 writes it, as Java does
//! (`X500Principal.getName`), so that ACLs of the scheme `x509` name the same one everywhere.
//!
//! Pure. It trusts nothing: that the certificate is valid others have seen.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Ia5StringRef, PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::{Decode as _, Encode as _, Tag, Tagged as _};

/// The names that RFC 2253 gives to attributes; others have none.
const NAMES: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

/// The subject of a certificate; `None` where it isn't one that can be read.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let names = certificate.tbs_certificate.subject.0;
    // The most particular first.
    let names: Option<Vec<String>> = names
        .iter()
        .rev()
        .map(|name| {
            let parts: Option<Vec<String>> = name.0.iter().map(attribute).collect();
            Some(parts?.join("+"))
        })
        .collect();
    Some(names?.join(","))
}

fn attribute(attribute: &AttributeTypeAndValue) -> Option<String> {
    let oid = attribute.oid.to_string();
    let name = NAMES.iter().find(|(known, _)| *known == oid);
    match (name, text(attribute)) {
        (Some((_, name)), Some(text)) => Some(format!("{name}={}", escaped(&text))),
        (name, _) => {
            let name = name.map_or(oid.as_str(), |(_, name)| name);
            let der = attribute.value.to_der().ok()?;
            let mut hex = format!("{name}=#");
            for byte in der {
                let _ = write!(hex, "{byte:02x}");
            }
            Some(hex)
        }
    }
}

/// The value where it is text of a kind that certificates have.
fn text(attribute: &AttributeTypeAndValue) -> Option<String> {
    let value = &attribute.value;
    let text = match value.tag() {
        Tag::Utf8String => value.decode_as::<Utf8StringRef<'_>>().ok()?.as_str(),
        Tag::PrintableString => value.decode_as::<PrintableStringRef<'_>>().ok()?.as_str(),
        Tag::Ia5String => value.decode_as::<Ia5StringRef<'_>>().ok()?.as_str(),
        Tag::TeletexString => value.decode_as::<TeletexStringRef<'_>>().ok()?.as_str(),
        _ => return None,
    };
    Some(text.to_string())
}

/// RFC 2253, section 2.4.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (at, character) in text.chars().enumerate() {
        let is_special = matches!(character, ',' | '+' | '"' | '\\' | '<' | '>' | ';');
        let is_edge_space = character == ' ' && (at == 0 || at == last);
        if is_special || is_edge_space || (character == '#' && at == 0) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn subject_of(names: &[(DnType, &str)]) -> Option<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        subject(params.self_signed(&key).unwrap().der())
    }

    #[test]
    fn a_subject_is_written_from_its_end() {
        let names = [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Example"),
            (DnType::CommonName, "worker"),
        ];
        assert_eq!(
            subject_of(&names).as_deref(),
            Some("CN=worker,O=Example,C=DE")
        );
    }

    #[test]
    fn what_would_be_misread_is_escaped() {
        let names = [(DnType::CommonName, "#a, b+c=\"d\\e\" ")];
        let expected = r#"CN=\#a\, b\+c=\"d\\e\"\ "#;
        assert_eq!(subject_of(&names).as_deref(), Some(expected));
    }

    #[test]
    fn an_attribute_without_a_name_is_its_number_and_its_bytes() {
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        assert_eq!(
            subject_of(&[(email, "a@b")]).as_deref(),
            Some("1.2.840.113549.1.9.1=#0c03614062")
        );
    }

    #[test]
    fn what_is_no_certificate_has_no_subject() {
        assert_eq!(subject(&CertificateDer::from(vec![0x30, 0x03, 1])), None);
        assert_eq!(subject(&CertificateDer::from(Vec::new())), None);
    }
}

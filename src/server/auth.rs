//! From what a client says of itself to identities (ZooKeeper's authentication providers).

use std::net::IpAddr;

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

use crate::AuthId;

/// The identities that a token proves: none where it proves nothing.
pub(super) fn identities(
    scheme: &str,
    token: &[u8],
    address: IpAddr,
    super_digest: Option<&str>,
) -> Vec<AuthId> {
    match scheme {
        "ip" => vec![of_address(address)],
        "digest" => {
            let digest = digest(&String::from_utf8_lossy(token));
            let is_super = super_digest == Some(digest.as_str());
            let identity = AuthId::new("digest", digest);
            if is_super {
                vec![AuthId::new("super", ""), identity]
            } else {
                vec![identity]
            }
        }
        _ => Vec::new(),
    }
}

/// Where a client comes from.
pub(super) fn of_address(address: IpAddr) -> AuthId {
    AuthId::new("ip", address.to_canonical().to_string())
}

/// `DigestAuthenticationProvider.generateDigest`, of `user:password` or whatever else was given.
fn digest(user_and_password: &str) -> String {
    let user = user_and_password.split(':').next().unwrap_or_default();
    let hash = Sha1::digest(user_and_password);
    let hash = base64::engine::general_purpose::STANDARD.encode(hash);
    format!("{user}:{hash}")
}

/// What `whoAmI` calls an identity.
pub(super) fn user_name(identity: &AuthId) -> &str {
    match identity.scheme.as_str() {
        "digest" => identity.id.split(':').next().unwrap_or_default(),
        _ => &identity.id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_digest_is_zookeepers() {
        let known = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";
        let proven = identities("digest", b"super:test", HERE, None);
        assert_eq!(proven, [AuthId::new("digest", known)]);
        let proven = identities("digest", b"super:test", HERE, Some(known));
        assert_eq!(proven[0], AuthId::new("super", ""));
        assert!(identities("digest", b"super:tost", HERE, Some(known)).len() == 1);
    }

    #[test]
    fn an_unknown_scheme_proves_nothing() {
        assert!(identities("world", b"anyone", HERE, None).is_empty());
        assert!(identities("super", b"", HERE, None).is_empty());
        assert!(identities("x509", b"CN=me", HERE, None).is_empty());
    }

    #[test]
    fn an_address_is_the_same_over_both_protocols() {
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(of_address(mapped), AuthId::new("ip", "10.0.0.1"));
    }
}

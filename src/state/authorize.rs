//! Who may do what: ACLs checked against identities, and ACLs made sure of before they are stored.
//!
//! Pure functions (ZooKeeper's `checkACL`, `fixupACL` and the `ip` and `digest` providers). They know
//! neither znodes nor sessions. An ACL is never inherited.

use std::net::IpAddr;

use crate::acl::{Acl, AuthId, Permissions};
use crate::error::{Error, Result};
use crate::state::settings::Settings;

/// Whether an ACL lets somebody with these identities do any of `wanted`.
pub(crate) fn allows(acl: &[Acl], wanted: Permissions, identities: &[AuthId]) -> bool {
    identities.iter().any(|identity| identity.scheme == "super")
        || acl.iter().any(|entry| {
            entry.permissions.0 & wanted.0 != 0
                && (is_anyone(&entry.id)
                    || identities
                        .iter()
                        .any(|identity| matches(&entry.id, identity)))
        })
}

fn is_anyone(id: &AuthId) -> bool {
    id.scheme == "world" && id.id == "anyone"
}

fn matches(entry: &AuthId, identity: &AuthId) -> bool {
    entry.scheme == identity.scheme
        && match entry.scheme.as_str() {
            "ip" => Network::parse(&entry.id)
                .zip(identity.id.parse().ok())
                .is_some_and(|(network, address)| network.contains(address)),
            _ => entry.id == identity.id,
        }
}

/// The ACL to be stored for the one given: each entry once, `auth` replaced by every identity that
/// the session has proven.
///
/// # Errors
/// [`Error::InvalidAcl`] when it is empty or too long, or an entry makes no sense.
pub(crate) fn expand(
    path: &str,
    acl: &[Acl],
    identities: &[AuthId],
    settings: &Settings,
) -> Result<Vec<Acl>> {
    let invalid = |reason: String| Error::InvalidAcl {
        path: path.to_string(),
        reason,
    };
    let limit = settings.acl_entries_max as usize;
    if acl.is_empty() {
        return Err(invalid("it is empty".to_string()));
    }
    if acl.len() > limit {
        return Err(invalid(format!(
            "{} entries are over the limit of {limit}",
            acl.len()
        )));
    }
    let mut expanded = Vec::with_capacity(acl.len());
    for (at, entry) in acl.iter().enumerate() {
        if acl[..at].contains(entry) {
            continue;
        }
        if entry.id.scheme == "auth" {
            let proven = identities
                .iter()
                .filter(|identity| settings.authenticates(&identity.scheme));
            let before = expanded.len();
            expanded.extend(proven.map(|identity| Acl::new(entry.permissions, identity.clone())));
            if expanded.len() == before {
                return Err(invalid(
                    "auth, but the session has proven no identity".to_string(),
                ));
            }
        } else if is_valid(&entry.id, settings) {
            expanded.push(entry.clone());
        } else {
            return Err(invalid(format!(
                "{}:{} is no identity",
                entry.id.scheme, entry.id.id
            )));
        }
        if expanded.len() > limit {
            return Err(invalid(format!(
                "its entries are over the limit of {limit}, auth expanded"
            )));
        }
    }
    Ok(expanded)
}

fn is_valid(id: &AuthId, settings: &Settings) -> bool {
    match id.scheme.as_str() {
        "world" => id.id == "anyone",
        "ip" => Network::parse(&id.id).is_some(),
        "digest" => is_digest(&id.id),
        // Nobody can be named `super` in an ACL: it is over all of them.
        "super" | "auth" => false,
        scheme => settings.authenticates(scheme) && !id.id.is_empty(),
    }
}

/// Exactly a user and a hash, as Java splits them: empty parts at the end don't count.
fn is_digest(id: &str) -> bool {
    id.trim_end_matches(':').split(':').count() == 2
}

/// What an id of the scheme `ip` names: an address, or all that share its first bits.
struct Network {
    address: IpAddr,
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(width), |bits| bits.parse().ok())?;
        (bits <= width).then_some(Network { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        // A shift by the whole width is no shift in Rust: 0 bits match everything.
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differing = u32::from(network) ^ u32::from(address);
                differing.checked_shr(32 - self.bits).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differing = u128::from(network) ^ u128::from(address);
                differing.checked_shr(128 - self.bits).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// An ACL as somebody sees it who may read it but not change it: digests lose their hash.
pub(crate) fn masked(acl: &[Acl]) -> Vec<Acl> {
    let mask = |entry: &Acl| match entry.id.id.split_once(':') {
        Some((user, _)) if entry.id.scheme == "digest" => Acl::new(
            entry.permissions,
            AuthId::new("digest", format!("{user}:x")),
        ),
        _ => entry.clone(),
    };
    acl.iter().map(mask).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(permissions: Permissions, scheme: &str, id: &str) -> Acl {
        Acl::new(permissions, AuthId::new(scheme, id))
    }

    #[test]
    fn a_permission_is_given_by_an_entry_that_matches_the_identity() {
        let acl = [
            entry(Permissions::READ, "world", "anyone"),
            entry(Permissions::WRITE, "digest", "ann:hash"),
        ];
        let ann = [AuthId::new("digest", "ann:hash")];
        let bob = [AuthId::new("digest", "bob:hash")];
        assert!(allows(&acl, Permissions::READ, &[]));
        assert!(allows(&acl, Permissions::WRITE, &ann));
        assert!(!allows(&acl, Permissions::WRITE, &bob));
        assert!(!allows(&acl, Permissions::ADMIN, &ann));
        assert!(
            allows(&acl, Permissions::ADMIN | Permissions::READ, &bob),
            "either will do"
        );
    }

    #[test]
    fn super_may_do_everything() {
        assert!(allows(&[], Permissions::ADMIN, &[AuthId::new("super", "")]));
    }

    #[test]
    fn an_ip_entry_matches_its_whole_network() {
        for (network, address, expected) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "10.9.9.9", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/0", "192.168.0.1", true),
            ("10.0.0.128/25", "10.0.0.127", false),
            ("10.0.0.128/25", "10.0.0.200", true),
            ("fe80::/10", "fe80::1", true),
            ("fe80::/10", "ff80::1", false),
            ("::/0", "10.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
        ] {
            let acl = [entry(Permissions::READ, "ip", network)];
            let caller = [AuthId::new("ip", address)];
            assert_eq!(
                allows(&acl, Permissions::READ, &caller),
                expected,
                "{network} {address}"
            );
        }
    }

    #[test]
    fn an_entry_that_names_nobody_is_refused() {
        let settings = Settings {
            auth_schemes: vec!["spiffe".into()],
            ..Settings::default()
        };
        for (scheme, id, valid) in [
            ("world", "anyone", true),
            ("world", "everyone", false),
            ("digest", "ann:hash", true),
            ("digest", "ann", false),
            ("digest", "ann:", false),
            ("digest", "a:b:c", false),
            ("ip", "10.0.0.1", true),
            ("ip", "10.0.0.0/33", false),
            ("ip", "10.0.0", false),
            ("ip", "::1/128", true),
            ("ip", "::1/129", false),
            ("x509", "CN=ann", true),
            ("x509", "", false),
            ("spiffe", "spiffe://a", true),
            ("sasl", "ann", false),
            ("super", "ann", false),
            ("", "", false),
        ] {
            let result = expand("/a", &[entry(Permissions::ALL, scheme, id)], &[], &settings);
            assert_eq!(result.is_ok(), valid, "{scheme}:{id}");
        }
        assert!(matches!(
            expand("/a", &[], &[], &settings),
            Err(Error::InvalidAcl { .. })
        ));
    }

    #[test]
    fn auth_stands_for_every_identity_that_proves_something() {
        let settings = Settings::default();
        let auth = Acl::creator_all();
        let ip = AuthId::new("ip", "10.0.0.1");
        let ann = AuthId::new("digest", "ann:hash");
        let zoe = AuthId::new("digest", "zoe:hash");
        let root = AuthId::new("super", "");
        assert!(expand("/a", &auth, &[], &settings).is_err());
        assert!(expand("/a", &auth, std::slice::from_ref(&ip), &settings).is_err());
        assert_eq!(
            expand(
                "/a",
                &auth,
                &[zoe.clone(), ip, root, ann.clone()],
                &settings
            ),
            Ok(vec![
                Acl::new(Permissions::ALL, zoe),
                Acl::new(Permissions::ALL, ann)
            ])
        );
    }

    #[test]
    fn an_acl_has_each_entry_once_and_is_bounded() {
        let settings = Settings {
            acl_entries_max: 2,
            ..Settings::default()
        };
        let open = Acl::open().remove(0);
        assert_eq!(
            expand("/a", &[open.clone(), open.clone()], &[], &settings),
            Ok(Acl::open())
        );
        let three = [open.clone(), open.clone(), open];
        assert!(expand("/a", &three, &[], &settings).is_err());
    }

    #[test]
    fn a_masked_digest_shows_its_user_only() {
        let acl = [
            entry(Permissions::ALL, "digest", "ann:hash"),
            entry(Permissions::READ, "ip", "::1"),
        ];
        assert_eq!(
            masked(&acl),
            [
                entry(Permissions::ALL, "digest", "ann:x"),
                entry(Permissions::READ, "ip", "::1")
            ]
        );
    }
}

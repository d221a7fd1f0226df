//! Who may do what to a znode (ZooKeeper's `ACL`, `Id` and `Perms`).

use std::fmt;
use std::ops::BitOr;

use base64::Engine as _;
use sha1::{Digest as _, Sha1};

/// A set of permissions (ZooKeeper's numbers).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Permissions(pub u32);

impl Permissions {
    /// None at all.
    pub const NONE: Permissions = Permissions(0);
    /// To read data and to list children.
    pub const READ: Permissions = Permissions(1);
    /// To set data.
    pub const WRITE: Permissions = Permissions(2);
    /// To create children.
    pub const CREATE: Permissions = Permissions(4);
    /// To delete children.
    pub const DELETE: Permissions = Permissions(8);
    /// To set the ACL.
    pub const ADMIN: Permissions = Permissions(16);
    /// All five.
    pub const ALL: Permissions = Permissions(31);

    /// Whether all of `other` are among these.
    pub const fn contains(self, other: Permissions) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Permissions {
    type Output = Permissions;
    fn bitor(self, other: Permissions) -> Permissions {
        Permissions(self.0 | other.0)
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(1, 'r'), (2, 'w'), (4, 'c'), (8, 'd'), (16, 'a')] {
            write!(f, "{}", if self.0 & bit != 0 { letter } else { '-' })?;
        }
        Ok(())
    }
}

/// An identity: what a session has proven to be, or whom an ACL entry speaks of.
///
/// An ACL entry matches an identity of the same scheme whose id is equal; `world:anyone` matches
/// everyone, and an entry of the scheme `ip` may name a network (`10.0.0.0/8`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AuthId {
    /// `world`, `auth`, `digest`, `ip`, `x509`, `super`, or one that the host adds.
    pub scheme: String,
    /// What the scheme says: `anyone`, `user:base64(sha1(user:password))`, an address, ...
    pub id: String,
}

impl AuthId {
    /// An identity of any scheme.
    pub fn new(scheme: impl Into<String>, id: impl Into<String>) -> AuthId {
        AuthId {
            scheme: scheme.into(),
            id: id.into(),
        }
    }

    /// `world:anyone`.
    pub fn anyone() -> AuthId {
        AuthId::new("world", "anyone")
    }

    /// The digest identity of a user and a password
    /// (ZooKeeper's `DigestAuthenticationProvider.generateDigest`).
    pub fn digest(user: &str, password: &str) -> AuthId {
        let hash = Sha1::digest(format!("{user}:{password}"));
        let hash = base64::engine::general_purpose::STANDARD.encode(hash);
        AuthId::new("digest", format!("{user}:{hash}"))
    }
}

/// One entry of an access control list: whom it speaks of and what they may do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Acl {
    /// What is allowed.
    pub permissions: Permissions,
    /// To whom.
    pub id: AuthId,
}

impl Acl {
    /// Any entry.
    pub fn new(permissions: Permissions, id: AuthId) -> Acl {
        Acl { permissions, id }
    }

    /// Everybody may do everything (`OPEN_ACL_UNSAFE`).
    pub fn open() -> Vec<Acl> {
        vec![Acl::new(Permissions::ALL, AuthId::anyone())]
    }

    /// Everybody may read (`READ_ACL_UNSAFE`).
    pub fn read_only() -> Vec<Acl> {
        vec![Acl::new(Permissions::READ, AuthId::anyone())]
    }

    /// Whoever the creating session has proven to be may do everything (`CREATOR_ALL_ACL`).
    pub fn creator_all() -> Vec<Acl> {
        vec![Acl::new(Permissions::ALL, AuthId::new("auth", ""))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_zookeepers() {
        // Known from ZooKeeper's documentation of the super user.
        let id = AuthId::digest("super", "test");
        assert_eq!(
            (id.scheme.as_str(), id.id.as_str()),
            ("digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
        );
    }

    #[test]
    fn permissions_print_as_letters() {
        assert_eq!(
            format!("{:?}", Permissions::READ | Permissions::ADMIN),
            "r---a"
        );
        assert!(Permissions::ALL.contains(Permissions::CREATE));
        assert!(!Permissions::READ.contains(Permissions::READ | Permissions::WRITE));
    }
}

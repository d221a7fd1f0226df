//! One version of one znode.
//!
//! Versions are immutable once published and shared between the table, readers and snapshots; a new one
//! shares path, data and children with the one before. It does not know what its ACL number stands for.

use std::fmt;
use std::sync::Arc;

use super::children::ChildNames;
use crate::ids::{SessionId, Zxid};
use crate::path::ZnodePath;
use crate::stat::Stat;

/// A znode as of the write `changed`.
//
// A million of these are the tree, so the size counts: 112 bytes. What a look-up and a replacement touch
// stands first, to share a cache line with the reference counts before it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Znode {
    /// Where it is. Shared with the parent's children.
    pub(crate) path: ZnodePath,
    /// The write that made this version, of whatever kind: create, set data, set ACL, or the create or
    /// delete of a child.
    pub(crate) changed: Zxid,
    /// Its children, kept by the tree.
    pub(super) children: ChildNames,
    /// Its data.
    pub(crate) data: Arc<[u8]>,
    /// The write that created it.
    pub(crate) czxid: Zxid,
    /// The write that last set its data.
    pub(crate) mzxid: Zxid,
    /// The write that last created or deleted a child of it; its own create before that. Kept by the
    /// tree.
    pub(crate) pzxid: Zxid,
    /// When it was created, in milliseconds since the Unix epoch.
    pub(crate) ctime_ms: i64,
    /// When its data was last set.
    pub(crate) mtime_ms: i64,
    /// What it vanishes with.
    pub(crate) owner: Owner,
    /// How often its data was set.
    pub(crate) version: i32,
    /// How many children were ever created in it, as stored: the number of the next sequential child,
    /// not what a client sees. Kept by the tree.
    pub(crate) cversion: i32,
    /// How often its ACL was set.
    pub(crate) aversion: i32,
    /// Its ACL, as a number in the table of ACLs.
    pub(crate) acl: u32,
}

impl Znode {
    /// The first version of a znode, made by the write `zxid` at `time_ms`.
    pub(crate) fn created(
        path: ZnodePath,
        data: &[u8],
        zxid: Zxid,
        time_ms: i64,
        owner: Owner,
        acl: u32,
    ) -> Znode {
        Znode {
            path,
            changed: zxid,
            children: ChildNames::default(),
            data: Arc::from(data),
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime_ms: time_ms,
            mtime_ms: time_ms,
            owner,
            version: 0,
            cversion: 0,
            aversion: 0,
            acl,
        }
    }

    /// Its children.
    pub(crate) fn children(&self) -> &ChildNames {
        &self.children
    }

    /// The bytes of its path and data.
    pub(super) fn bytes(&self) -> u64 {
        (self.path.as_str().len() + self.data.len()) as u64
    }

    /// Its stat as a client sees it: containers and TTL znodes have no owner, and the version of the
    /// children counts their deletions as well (ZooKeeper's `DataNode.copyStat`).
    pub(crate) fn stat(&self) -> Stat {
        let children_count = self.children.len() as u32;
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            pzxid: self.pzxid,
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            cversion: self
                .cversion
                .wrapping_mul(2)
                .wrapping_sub(children_count as i32),
            aversion: self.aversion,
            ephemeral_owner: self.owner.session(),
            data_length: self.data.len() as u32,
            children_count,
        }
    }
}

/// What a znode vanishes with: nothing, a session, its last child, or its time. ZooKeeper keeps the four
/// in one number, `ephemeralOwner`, and so do its snapshots and ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Owner(i64);

/// The high byte of a TTL znode's owner (ZooKeeper's `EphemeralType.EXTENDED_MASK`).
const EXTENDED: u64 = 0xff00_0000_0000_0000;

impl Owner {
    /// A persistent znode's.
    pub(crate) const NONE: Owner = Owner(0);
    /// A container's.
    pub(crate) const CONTAINER: Owner = Owner(i64::MIN);
    /// The longest time to live, in milliseconds: 40 bits.
    pub(crate) const TTL_MS_MAX: i64 = 0xff_ffff_ffff;

    /// An ephemeral znode's.
    ///
    /// # Panics
    /// If the session's id is the number of a container or of a TTL znode: no session may get such an
    /// id.
    pub(crate) fn ephemeral(session: SessionId) -> Owner {
        let owner = Owner(session.0);
        assert!(owner.session() == session, "{session} is no session's id");
        owner
    }

    /// A TTL znode's.
    ///
    /// # Panics
    /// If the time is not within 1 to [`Owner::TTL_MS_MAX`].
    pub(crate) fn ttl(ttl_ms: i64) -> Owner {
        assert!(
            (1..=Owner::TTL_MS_MAX).contains(&ttl_ms),
            "a TTL of {ttl_ms} ms"
        );
        Owner((EXTENDED | ttl_ms as u64) as i64)
    }

    /// From the number in a snapshot.
    pub(crate) const fn from_raw(raw: i64) -> Owner {
        Owner(raw)
    }

    /// The number for a snapshot.
    pub(crate) const fn as_raw(self) -> i64 {
        self.0
    }

    /// The session of an ephemeral znode; [`SessionId::NONE`] of any other.
    pub(crate) fn session(self) -> SessionId {
        if self.is_container() || self.ttl_ms().is_some() {
            SessionId::NONE
        } else {
            SessionId(self.0)
        }
    }

    /// Whether it is an ephemeral znode's.
    pub(crate) fn is_ephemeral(self) -> bool {
        self.session() != SessionId::NONE
    }

    /// Whether it is a container's.
    pub(crate) fn is_container(self) -> bool {
        self == Owner::CONTAINER
    }

    /// The time to live of a TTL znode, in milliseconds.
    pub(crate) fn ttl_ms(self) -> Option<i64> {
        let raw = self.0 as u64;
        (raw & EXTENDED == EXTENDED).then_some((raw & Owner::TTL_MS_MAX as u64) as i64)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ttl_ms() {
            Some(ttl_ms) => write!(f, "Owner(ttl {ttl_ms} ms)"),
            None if self.is_container() => write!(f, "Owner(container)"),
            None => write!(f, "Owner({:#x})", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn znode(owner: Owner) -> Znode {
        let path = ZnodePath::parse("/a").unwrap();
        Znode::created(path, b"abc", Zxid(7), 1000, owner, 2)
    }

    #[test]
    fn a_client_sees_an_owner_only_of_an_ephemeral() {
        for (owner, seen) in [
            (Owner::NONE, 0),
            (Owner::CONTAINER, 0),
            (Owner::ttl(1), 0),
            (Owner::ttl(Owner::TTL_MS_MAX), 0),
            (Owner::ephemeral(SessionId(0x1234)), 0x1234),
            (
                Owner::ephemeral(SessionId(-0x7000_0000_0000_0000)),
                -0x7000_0000_0000_0000,
            ),
        ] {
            assert_eq!(znode(owner).stat().ephemeral_owner, SessionId(seen));
        }
        assert_eq!(Owner::ttl(5).as_raw() as u64, 0xff00_0000_0000_0005);
        assert_eq!(Owner::CONTAINER.as_raw() as u64, 0x8000_0000_0000_0000);
        assert_eq!(Owner::from_raw(Owner::ttl(77).as_raw()).ttl_ms(), Some(77));
    }

    #[test]
    fn the_version_of_the_children_counts_creates_and_deletes() {
        let mut znode = znode(Owner::NONE);
        znode.cversion = 5;
        znode.children.insert(ZnodePath::parse("/a/b").unwrap());
        // Five were created, one is left, so four were deleted.
        assert_eq!(znode.stat().cversion, 9);
        znode.cversion = i32::MIN;
        assert_eq!(znode.stat().cversion, -1);
    }

    #[test]
    fn a_version_of_a_znode_is_small() {
        assert!(size_of::<Znode>() <= 112, "{}", size_of::<Znode>());
    }
}

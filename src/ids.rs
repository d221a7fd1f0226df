//! The newtypes of every identifier. They are plain words: none of them knows how it is made.

use std::fmt;
use std::num::NonZeroU64;

/// The id of one node (one replica) in a cluster: any number but 0.
///
/// An id names one disk for ever. A node that has lost its disk comes back under a new id, because
/// the promises (votes, acknowledged entries) made under the old one can no longer be kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU64);

impl NodeId {
    /// The node id `id`, or `None` for 0, which names no node.
    pub const fn new(id: u64) -> Option<NodeId> {
        match NonZeroU64::new(id) {
            Some(id) => Some(NodeId(id)),
            None => None,
        }
    }

    /// The number behind the id; never 0.
    pub const fn as_u64(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($number:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    };
}

number_id! {
    /// The id of a cluster, made once when it is bootstrapped and carried by every message and
    /// every storage: what has another cluster's id is refused.
    ClusterId(u64), "{:016x}"
}

number_id! {
    /// The id of a session: unique in the life of the cluster, 0 is nobody.
    ///
    /// The number is what ZooKeeper calls `sessionId` and what `ephemeralOwner` shows.
    SessionId(i64), "{:#x}"
}

number_id! {
    /// The number of a write in the one order that all replicas apply (ZooKeeper's transaction id).
    ///
    /// It counts operations, not log entries. A failed write uses one up as well.
    Zxid(u64), "{}"
}

impl SessionId {
    /// Nobody: the owner of everything that isn't ephemeral, and the author of internal requests.
    pub const NONE: SessionId = SessionId(0);
}

/// The number of times that a znode's data (or ACL) was set: the condition of a conditional write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub i32);

impl Version {
    /// Matches every version (ZooKeeper's -1): the write is unconditional.
    pub const ANY: Version = Version(-1);

    /// Whether a znode that stands at `found` satisfies this condition.
    pub const fn matches(self, found: i32) -> bool {
        self.0 == Version::ANY.0 || self.0 == found
    }
}

impl From<i32> for Version {
    fn from(version: i32) -> Version {
        Version(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Version::ANY {
            f.write_str("any")
        } else {
            write!(f, "{}", self.0)
        }
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

//! What is known of a znode besides its data (ZooKeeper's `Stat`).

use crate::ids::{SessionId, Zxid};

/// The facts about a znode, as of one zxid. Times are milliseconds since the Unix epoch, stamped by
/// the leader.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct Stat {
    /// The write that created it.
    pub czxid: Zxid,
    /// The write that last set its data.
    pub mzxid: Zxid,
    /// The write that last created or deleted a child of it.
    pub pzxid: Zxid,
    /// When it was created, in milliseconds.
    pub ctime_ms: i64,
    /// When its data was last set, in milliseconds.
    pub mtime_ms: i64,
    /// How often its data was set.
    pub version: i32,
    /// How often a child was created or deleted.
    pub cversion: i32,
    /// How often its ACL was set.
    pub aversion: i32,
    /// The session that it vanishes with; [`SessionId::NONE`] when it isn't ephemeral.
    pub ephemeral_owner: SessionId,
    /// The length of its data, in bytes.
    pub data_length: u32,
    /// The number of its children.
    pub children_count: u32,
}

impl Stat {
    /// Whether it vanishes with a session.
    pub fn is_ephemeral(&self) -> bool {
        self.ephemeral_owner != SessionId::NONE
    }
}

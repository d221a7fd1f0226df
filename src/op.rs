//! The writes that go through the log, and their results.

use bytes::Bytes;

use crate::acl::{Acl, AuthId, Permissions};
use crate::error::Error;
use crate::ids::{NodeId, SessionId, Version, Zxid};
use crate::stat::Stat;

/// How a znode is created (ZooKeeper's `CreateMode`, flags 0 to 6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum CreateMode {
    /// Stays until it is deleted.
    #[default]
    Persistent,
    /// Vanishes with the session that created it.
    Ephemeral,
    /// Persistent, and gets a number of ten digits appended, higher than any before under its parent.
    PersistentSequential,
    /// Ephemeral and sequential.
    EphemeralSequential,
    /// Deleted by the cluster some time after its last child has gone.
    Container,
    /// Deleted by the cluster when it has no children and was not set for `ttl_ms`.
    PersistentWithTtl {
        /// 1 to 2^40 - 1 milliseconds.
        ttl_ms: i64,
    },
    /// With a time to live, and sequential.
    PersistentSequentialWithTtl {
        /// 1 to 2^40 - 1 milliseconds.
        ttl_ms: i64,
    },
}

impl CreateMode {
    /// Whether a number is appended to the path.
    pub fn is_sequential(self) -> bool {
        matches!(
            self,
            CreateMode::PersistentSequential
                | CreateMode::EphemeralSequential
                | CreateMode::PersistentSequentialWithTtl { .. }
        )
    }

    /// Whether the znode belongs to its session.
    pub fn is_ephemeral(self) -> bool {
        matches!(
            self,
            CreateMode::Ephemeral | CreateMode::EphemeralSequential
        )
    }

    /// The time to live, in milliseconds, where the mode has one.
    pub fn ttl_ms(self) -> Option<i64> {
        match self {
            CreateMode::PersistentWithTtl { ttl_ms }
            | CreateMode::PersistentSequentialWithTtl { ttl_ms } => Some(ttl_ms),
            _ => None,
        }
    }
}

/// A write. Paths are as the caller gave them: the state machine checks them, in ZooKeeper's order
/// of checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Create {
        path: String,
        data: Bytes,
        acl: Vec<Acl>,
        mode: CreateMode,
    },
    Delete {
        path: String,
        version: Version,
    },
    SetData {
        path: String,
        data: Bytes,
        version: Version,
    },
    SetAcl {
        path: String,
        acl: Vec<Acl>,
        version: Version,
    },
    /// Only inside a multi.
    Check {
        path: String,
        version: Version,
    },
    /// All or none. Holds Create, Delete, SetData and Check only.
    Multi(Vec<Op>),
    /// Makes a session, attached to `owner`; its id is the zxid of this write. While the session lives,
    /// doing it again with the same password gives the same session.
    OpenSession {
        password: Password,
        timeout_ms: u32,
        owner: NodeId,
    },
    /// Attaches the request's session to `owner`; whoever had it before is refused from now on. Done
    /// again with the same nonce it gives the same attachment, or is refused once another came after.
    AttachSession {
        password: Password,
        timeout_ms: u32,
        owner: NodeId,
        nonce: u64,
    },
    /// Ends the request's session, at its own wish.
    CloseSession,
    /// Adds an identity that the origin node has verified to the request's session.
    AddAuth(AuthId),
    /// Internal, by the leader: ends a session that wasn't heard from.
    ExpireSession {
        session: SessionId,
        /// Which attachment of it was silent: once it is attached elsewhere it is alive again.
        attachment: u32,
    },
    /// Internal, by the leader: deletes a container or a TTL znode, if it is still due at the
    /// entry's time and is still the one created by `czxid`.
    Reap {
        path: String,
        czxid: Zxid,
    },
}

/// The largest operation, in bytes: with others in its batch it still fits into one message.
pub(crate) const OP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What proves that a caller may have a session: 16 bytes of the operating system's randomness.
pub(crate) type Password = [u8; 16];

/// Whose word it is that a session is alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Keeper {
    /// The node's: as long as it runs.
    #[default]
    Node,
    /// The host's: as often as it says so.
    Host,
}

/// A write with what makes it happen exactly once and in its session's order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    /// Whose write it is; [`SessionId::NONE`] for the leader's internal ones.
    pub session: SessionId,
    /// Which attachment of the session made it: counts `AttachSession`s. A write of an earlier
    /// attachment is refused as moved.
    pub attachment: u32,
    /// Its place among the session's writes: 1, 2, 3, ... in all attachments together. 0 for
    /// `OpenSession`, `AttachSession` and internal requests, which are idempotent by themselves.
    pub sequence: u64,
    /// All of the session's writes up to this one have been answered: their kept results can go.
    pub answered: u64,
    /// What to do.
    pub op: Op,
}

/// What a successful write gives back.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum OpResult {
    /// The path made, with its number where the mode is sequential, and its stat.
    Created {
        /// The path.
        path: String,
        /// The new znode's stat.
        stat: Stat,
    },
    /// Deleted.
    Deleted,
    /// The stat after the data was set.
    DataSet(Stat),
    /// The stat after the ACL was set.
    AclSet(Stat),
    /// The version was as expected.
    Checked,
    /// The results of a multi, one for each operation.
    Multi(Vec<OpResult>),
    /// The session was opened or attached.
    Session {
        /// The session's id.
        id: SessionId,
        /// Which attachment this is.
        attachment: u32,
        /// The sequence of the session's last write applied: the next is one more.
        sequence: u64,
        /// The session's timeout in milliseconds.
        timeout_ms: u32,
    },
    /// The session was closed, or an identity added.
    Done,
}

/// The outcome of a write at its zxid.
pub(crate) type Outcome = Result<OpResult, Error>;

/// What came of a request that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Applied {
    /// It took effect (or failed) now, as this zxid.
    Now { zxid: Zxid, outcome: Outcome },
    /// It took effect before. The result is there as long as the origin hadn't said that it has it.
    Before(Option<(Zxid, Outcome)>),
    /// Refused without a zxid: an earlier write of the session is missing.
    Gap { expected: u64 },
    /// Refused without a zxid: the session is not there, or attached elsewhere, or the password is
    /// wrong.
    Refused(Error),
}

/// A read, answered from one state of the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ReadOp {
    Exists {
        path: String,
    },
    Data {
        path: String,
    },
    Children {
        path: String,
    },
    Acl {
        path: String,
    },
    /// The session's own ephemerals whose path begins with `prefix`: text, not components.
    Ephemerals {
        prefix: String,
    },
    /// The number of all descendants.
    AllChildrenNumber {
        path: String,
    },
    /// Whether the session may do any of these at the znode.
    Allowed {
        path: String,
        permissions: Permissions,
    },
    /// Data and Children only, each with its own result.
    Multi(Vec<ReadOp>),
}

/// What happened to a znode (ZooKeeper's `EventType`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[non_exhaustive]
pub enum EventKind {
    /// It was created.
    NodeCreated,
    /// It was deleted.
    NodeDeleted,
    /// Its data was set.
    NodeDataChanged,
    /// A child of it was created or deleted.
    NodeChildrenChanged,
}

/// A change to the tree, as `apply` reports it: one for each znode created, set or deleted, in order.
/// That a parent's children changed follows from it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The write that made it.
    pub zxid: Zxid,
    /// Created, deleted or data changed.
    pub kind: EventKind,
    /// Which znode.
    pub path: crate::path::ZnodePath,
    /// The ACL of the znode, as of the change; of a deleted one its last. None where it is the open one.
    pub acl: EventAcl,
    /// That of its parent, where the parent's list of children has changed.
    pub parent_acl: EventAcl,
}

/// Who may hear of a change: whoever may read the znode. None is everybody.
pub(crate) type EventAcl = Option<std::sync::Arc<[crate::acl::Acl]>>;

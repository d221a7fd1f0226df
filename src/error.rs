//! The one error of all operations, with ZooKeeper's names.

use crate::ids::{NodeId, SessionId, Version};

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed.
///
/// Three questions have an answer for every value: [`Error::code`] is what a ZooKeeper client would
/// see, [`Error::is_retryable`] says whether the same call may succeed later, and
/// [`Error::outcome_unknown`] says whether a write may have happened all the same. Where the latter is
/// false the write certainly did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no znode at the path (ZooKeeper's NoNode, -101).
    #[error("no znode at {path}")]
    NoNode {
        /// The path asked for, or the parent of the one to be created.
        path: String,
    },
    /// There is a znode at the path already (NodeExists, -110).
    #[error("a znode exists at {path} already")]
    NodeExists {
        /// The path.
        path: String,
    },
    /// The condition on the version does not hold (BadVersion, -103).
    #[error("{path} has version {found}, not {expected}")]
    BadVersion {
        /// The path.
        path: String,
        /// The version that the caller named.
        expected: Version,
        /// The version that the znode has.
        found: i32,
    },
    /// The znode has children (NotEmpty, -111).
    #[error("{path} has {children} children and can't be deleted")]
    NotEmpty {
        /// The path.
        path: String,
        /// How many.
        children: usize,
    },
    /// An ephemeral znode has no children (NoChildrenForEphemerals, -108).
    #[error("{parent} is ephemeral and can't have children")]
    NoChildrenForEphemerals {
        /// The would-be parent.
        parent: String,
    },
    /// The session lacks a permission (NoAuth, -102).
    #[error("no permission to {permission} on {path}")]
    NoAuth {
        /// The path whose ACL was asked.
        path: String,
        /// What it would take: "read", "write", "create", "delete" or "admin".
        permission: &'static str,
    },
    /// The ACL is empty, or an entry makes no sense (InvalidACL, -114).
    #[error("invalid ACL for {path}: {reason}")]
    InvalidAcl {
        /// The path.
        path: String,
        /// Which entry, and why.
        reason: String,
    },
    /// The path is not a path (BadArguments, -8).
    #[error("invalid path {path:?}: {reason}")]
    InvalidPath {
        /// What was given, cut after 256 characters.
        path: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// An argument makes no sense (BadArguments, -8).
    #[error("bad arguments: {reason}")]
    BadArguments {
        /// Which, and why.
        reason: String,
    },
    /// Something is larger than its limit (BadArguments, -8).
    #[error("{what} of {found} is over the limit of {limit}")]
    TooLarge {
        /// What: e.g. "data in bytes", "operations in a multi".
        what: &'static str,
        /// The size found.
        found: u64,
        /// The size allowed.
        limit: u64,
    },
    /// A hard quota would be exceeded (QuotaExceeded, -125).
    #[error("{path} would exceed the {what} quota of {quota_path}: {found} of {limit}")]
    QuotaExceeded {
        /// The path written.
        path: String,
        /// The path that the quota is set on.
        quota_path: String,
        /// "count" or "bytes".
        what: &'static str,
        /// What the usage would have been.
        found: i64,
        /// What is allowed.
        limit: i64,
    },
    /// The operation does not exist here, or is switched off (Unimplemented, -6).
    #[error("not available: {what}")]
    Unimplemented {
        /// What.
        what: &'static str,
    },
    /// An operation of a multi after the one that failed; it was not tried
    /// (RuntimeInconsistency, -2).
    #[error("not tried: an earlier operation of the multi failed")]
    RuntimeInconsistency,
    /// An operation of a multi failed, so none of them happened. Its own code is that operation's.
    #[error("operation {index} of the multi failed, none happened: {error}")]
    Multi {
        /// Which operation failed, counted from 0.
        index: usize,
        /// Why.
        error: Box<Error>,
    },
    /// The session is gone: closed, or expired because its node wasn't heard from (SessionExpired,
    /// -112). The operation did not happen.
    #[error("session {session} has expired or was closed")]
    SessionExpired {
        /// The session.
        session: SessionId,
    },
    /// The session is attached elsewhere by now (SessionMoved, -118). The operation did not happen.
    #[error("session {session} has moved to another node")]
    SessionMoved {
        /// The session.
        session: SessionId,
    },
    /// The password is not the session's (AuthFailed, -115).
    #[error("wrong password for session {session}")]
    WrongPassword {
        /// The session.
        session: SessionId,
    },
    /// Credentials were refused (AuthFailed, -115).
    #[error("authentication by {scheme:?} failed: {reason}")]
    AuthFailed {
        /// The scheme.
        scheme: String,
        /// Why.
        reason: String,
    },
    /// There is no such watch (NoWatcher, -121).
    #[error("no such watch on {path}")]
    NoWatcher {
        /// The path.
        path: String,
    },
    /// A bounded queue is full; the operation did not happen (ThrottledOp, -127). Try again later.
    #[error("{queue} is full ({limit})")]
    Overloaded {
        /// Which queue.
        queue: &'static str,
        /// How much it holds.
        limit: usize,
    },
    /// The time given has passed. For a write that was already called the outcome is not decided by
    /// this: it goes on (RequestTimeout, -122).
    #[error("not done within the time given")]
    Timeout,
    /// The node stopped, or the session was lost, before the outcome was known. The write may or may
    /// not have happened (ConnectionLoss, -4).
    #[error("outcome unknown: {reason}")]
    OutcomeUnknown {
        /// What came between.
        reason: &'static str,
    },
    /// The node is stopped or stopping, and the operation did not happen (ConnectionLoss, -4).
    #[error("the node has stopped: {reason}")]
    Stopped {
        /// Why, where that is known.
        reason: String,
    },
    /// The read was called between two writes of its session, and its node has skipped the state
    /// between them by installing a snapshot. Read again (ConnectionLoss, -4).
    #[error("the state that the read was to see was skipped by a snapshot: read again")]
    Skipped,
    /// Another change of membership is in progress (ReconfigInProgress, -14).
    #[error("a change of membership is in progress")]
    ReconfigInProgress,
    /// A learner that lacks too many entries to be given a vote, or has yet to receive its first snapshot:
    /// the cluster might have to wait for it (NewConfigNoQuorum, -13). Nothing was changed; it may have
    /// caught up later.
    #[error(
        "node {node} lacks {entries} entries: it may lack {limit}, and must have its first snapshot"
    )]
    LearnerBehind {
        /// The learner.
        node: NodeId,
        /// How many entries of the leader's log it is not known to have.
        entries: u64,
        /// How many it may lack (`NodeBuilder::promotion_lag_max`).
        limit: u64,
    },
    /// The leader has not heard of the node for a while, so it is given neither a vote nor leadership; nor is
    /// a voter taken away without which too many of the others would be silent (NewConfigNoQuorum, -13).
    /// Nothing was changed.
    #[error("node {node} has been silent")]
    MemberSilent {
        /// The node.
        node: NodeId,
    },
    /// The node is neither a voter nor a learner of the cluster (BadArguments, -8).
    #[error("node {node} is not a member of the cluster")]
    NotAMember {
        /// The node.
        node: NodeId,
    },
    /// Without its last voter a cluster could decide nothing any more (BadArguments, -8). To end a
    /// cluster, shut its nodes down.
    #[error("node {node} is the last voter and can't be removed")]
    LastVoter {
        /// The node.
        node: NodeId,
    },
    /// Leadership was not handed over within an election timeout; the old leader goes on
    /// (NewConfigNoQuorum, -13). The other may still take over, if the word to do so reaches it late.
    #[error("leadership could not be handed over to node {to}")]
    TransferFailed {
        /// To whom.
        to: NodeId,
    },
    /// The session is a read-only one of its node alone: it writes nothing, and no barrier reaches the
    /// cluster (NotReadOnly, -119).
    #[error("the session is read-only")]
    NotReadOnly,
    /// This node was removed from its cluster and has stopped (ConnectionLoss, -4). The operation did
    /// not happen.
    #[error("the node was removed from its cluster")]
    Removed,
    /// Our own invariant does not hold (SystemError, -1). Please report it.
    #[error("internal error: {reason}")]
    System {
        /// What was seen.
        reason: String,
    },
}

impl Error {
    /// ZooKeeper's number for it (`KeeperException.Code`).
    pub fn code(&self) -> i32 {
        match self {
            Error::System { .. } => -1,
            Error::RuntimeInconsistency => -2,
            Error::OutcomeUnknown { .. }
            | Error::Stopped { .. }
            | Error::Skipped
            | Error::Removed => -4,
            Error::Unimplemented { .. } => -6,
            Error::InvalidPath { .. }
            | Error::BadArguments { .. }
            | Error::TooLarge { .. }
            | Error::NotAMember { .. }
            | Error::LastVoter { .. } => -8,
            Error::LearnerBehind { .. }
            | Error::MemberSilent { .. }
            | Error::TransferFailed { .. } => -13,
            Error::ReconfigInProgress => -14,
            Error::NoNode { .. } => -101,
            Error::NoAuth { .. } => -102,
            Error::BadVersion { .. } => -103,
            Error::NoChildrenForEphemerals { .. } => -108,
            Error::NodeExists { .. } => -110,
            Error::NotEmpty { .. } => -111,
            Error::SessionExpired { .. } => -112,
            Error::InvalidAcl { .. } => -114,
            Error::WrongPassword { .. } | Error::AuthFailed { .. } => -115,
            Error::SessionMoved { .. } => -118,
            Error::NotReadOnly => -119,
            Error::NoWatcher { .. } => -121,
            Error::Timeout => -122,
            Error::QuotaExceeded { .. } => -125,
            Error::Overloaded { .. } => -127,
            Error::Multi { error, .. } => error.code(),
        }
    }

    /// Whether the same call, unchanged, may succeed later without anything else being done. Where
    /// [`Error::outcome_unknown`] is also true a retry may do the write twice.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Error::Overloaded { .. }
                | Error::Timeout
                | Error::OutcomeUnknown { .. }
                | Error::ReconfigInProgress
                | Error::Skipped
                | Error::LearnerBehind { .. }
                | Error::MemberSilent { .. }
                | Error::TransferFailed { .. }
        )
    }

    /// Whether a write that failed with this may have happened all the same.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Error::OutcomeUnknown { .. } | Error::Timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multi_has_the_code_of_the_operation_that_failed() {
        let error = Error::Multi {
            index: 2,
            error: Box::new(Error::NodeExists { path: "/a".into() }),
        };
        assert_eq!(error.code(), -110);
        assert!(error.to_string().contains("operation 2"));
        assert!(error.to_string().contains("/a"));
    }

    #[test]
    fn only_a_lost_answer_leaves_the_outcome_unknown() {
        let lost = Error::OutcomeUnknown {
            reason: "the node stopped",
        };
        assert!(lost.outcome_unknown() && lost.is_retryable());
        let full = Error::Overloaded {
            queue: "requests",
            limit: 8,
        };
        assert!(!full.outcome_unknown() && full.is_retryable());
        let missing = Error::NoNode { path: "/a".into() };
        assert!(!missing.outcome_unknown() && !missing.is_retryable());
    }
}

//! What a replica gives out: what is to be done, and what applying has brought about.
//!
//! Plain data; what leads to it stands in the parent.

use std::time::Duration;

use bytes::Bytes;

use super::inputs::Ticket;
use super::transfer::{SnapshotRead, SnapshotStage};
use crate::consensus::StepError;
use crate::error::{Error, Result};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::{Change, Outcome};
use crate::proto::Rules;
use crate::state::ReadResult;
use crate::storage::{Configuration, SnapshotWriter, StorageError, WriteBatch};
use crate::transport::Lane;

/// Something to be done. The order is that of [`Replica::poll`].
pub(crate) enum Output {
    /// Send to a node.
    Send {
        to: NodeId,
        lane: Lane,
        payload: Bytes,
    },
    /// Send to a node that doesn't know its cluster yet.
    Welcome { to: NodeId, payload: Bytes },
    /// Make durable, after all before it; then [`Input::Persisted`].
    Write {
        number: u64,
        /// Publish this received snapshot first.
        publish: Option<Box<dyn SnapshotWriter>>,
        batch: WriteBatch,
    },
    /// Read a piece of our snapshot; then [`Input::SnapshotRead`].
    ReadSnapshot(SnapshotRead),
    /// Stop reading for this transfer.
    EndRead { transfer: u64 },
    /// Stage a piece of a received snapshot; then [`Input::SnapshotStaged`].
    StageSnapshot(SnapshotStage),
    /// Forget the log up to and including this index.
    Compact { index: u64 },
    /// The node can't go on.
    Fail(Failure),
}

/// Why a node can't go on.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Consensus(#[from] StepError),
    /// An entry of the log can't be understood: written by a newer program.
    #[error("entry {index} of the log can't be applied: {reason}")]
    Entry { index: u64, reason: String },
    /// The leader's snapshot was made by a newer program.
    #[error(
        "the snapshot at {index} can't be used: it follows rules {found}, this node knows {known}"
    )]
    Snapshot {
        index: u64,
        found: Rules,
        known: Rules,
    },
    /// This node is no member any more. No failure, but it ends the node as well.
    #[error("it was removed from the cluster")]
    Removed,
}

/// What applying has brought about, since it was last taken. The driver fires watches by `changes`,
/// publishes the state, and only then gives the answers.
#[derive(Default)]
pub(crate) struct Effects {
    /// Something was applied: there is something to publish, even if it is only a zxid.
    pub applied: bool,
    /// What happened to the tree, in order.
    pub changes: Vec<Change>,
    /// A snapshot has replaced the tree: what changed is to be found by comparing.
    pub replaced: bool,
    /// Answers, in order.
    pub answers: Vec<(Ticket, Answer)>,
    /// What has become of sessions attached here.
    pub sessions: Vec<SessionChange>,
    /// What has become of the cluster, in order.
    pub events: Vec<NodeEvent>,
    /// What an operator may want to know. Nobody waits for it.
    pub notices: Vec<Notice>,
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        !self.applied
            && self.changes.is_empty()
            && !self.replaced
            && self.answers.is_empty()
            && self.sessions.is_empty()
            && self.events.is_empty()
    }
}

/// An answer to a call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A write was applied, as this zxid.
    Write { zxid: Zxid, outcome: Outcome },
    /// A read, as of this zxid.
    Read {
        zxid: Zxid,
        result: Result<ReadResult>,
    },
    /// A barrier was passed, with everything up to this zxid applied.
    Barrier { zxid: Zxid },
    /// A session was opened or attached.
    Session {
        id: SessionId,
        attachment: u32,
        timeout_ms: u32,
        certain_until: Duration,
    },
    /// A change of membership or of leadership has happened.
    Members(Configuration),
    /// The call failed.
    Failed(Error),
}

impl Answer {
    /// Why the call failed, if it did.
    pub(crate) fn error(&self) -> Option<&Error> {
        match self {
            Answer::Write { outcome, .. } => outcome.as_ref().err(),
            Answer::Read { result, .. } => result.as_ref().err(),
            Answer::Failed(error) => Some(error),
            Answer::Barrier { .. } | Answer::Session { .. } | Answer::Members(_) => None,
        }
    }
}

/// What has become of the cluster, as this node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NodeEvent {
    /// Another leader, another term, or none.
    LeaderChanged { leader: Option<NodeId>, term: u64 },
    /// Somebody else takes part.
    MembershipChanged(Configuration),
    /// The state was replaced by a snapshot.
    SnapshotInstalled { index: u64 },
}

/// Something that happened here and that nothing depends on: for the host's log and its metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// This leader has proposed so many operations as one log entry.
    Proposed { ops: usize },
    /// This leader has ended a session that was silent.
    SessionExpired { session: SessionId },
    /// This leader begins to send a snapshot.
    SendingSnapshot { to: NodeId, index: u64 },
    /// It has sent it, or given up.
    SnapshotSent {
        to: NodeId,
        index: u64,
        /// As far as that is known.
        bytes: Option<u64>,
        took: Duration,
        arrived: bool,
    },
}

/// What has become of a session attached here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SessionChange {
    pub session: SessionId,
    pub attachment: u32,
    pub event: SessionEvent,
}

/// An event in a session's life, as its node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionEvent {
    /// The leader has heard of it: it can't be expired before this (monotonic) moment.
    Certain { until: Duration },
    /// The leader can't be reached.
    Suspended,
    /// It may have been expired, or was.
    Lost,
    /// It is attached elsewhere.
    Moved,
    /// It was closed.
    Closed,
    /// Nobody here can use it, and it is left to its silence.
    Left,
}

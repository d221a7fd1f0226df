//! What a replica takes in: its options, and everything that can happen to it.
//!
//! Plain data; what is made of it stands in the parent.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::membership_message::MembershipRequest;
use crate::ids::{ClusterId, NodeId, SessionId};
use crate::op::{Keeper, Password, ReadOp};
use crate::proto::Rules;
use crate::state::RestoredState;
use crate::storage::{SnapshotMeta, SnapshotWriter};

/// Names a call that waits for its answer; the driver gives it out and never uses it twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Ticket(pub u64);

/// What a replica does by itself, in numbers.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaOptions {
    /// This node.
    pub id: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The name that whoever would join the cluster must know.
    pub cluster_name: String,
    /// The log entry as of which this node, which has joined and has nothing yet, was no member; else 0.
    pub joined_as_of: u64,
    /// How many entries a learner may lack that is given a vote.
    pub promotion_lag_max: u64,
    /// Random, and new at every start of the node.
    pub boot_nonce: u32,
    /// The newest rules that this node follows.
    pub rules_max: Rules,
    /// The time between two ticks of the consensus core.
    pub tick: Duration,
    /// The longest time without a leader before an election begins.
    pub election_timeout: Duration,
    /// The most writes that one session may have unanswered.
    pub session_writes_max: usize,
    /// The most reads of one session that may wait for its writes.
    pub session_reads_max: usize,
    /// The most barriers and linearizable reads that may wait.
    pub barriers_max: usize,
    /// The most sessions attached here.
    pub sessions_max: usize,
    /// Where a batch ends, in bytes of operations: one log entry is no larger than this and one
    /// operation.
    pub batch_bytes_max: usize,
    /// Log bytes after which a snapshot is taken.
    pub snapshot_log_bytes: u64,
    /// Entries before a snapshot that are kept for slow followers.
    pub log_entries_kept: u64,
    /// How often containers and TTL znodes are looked through.
    pub reap_interval: Duration,
    /// The most znodes reaped at a time.
    pub reap_max: usize,
}

/// Something that has happened.
pub(crate) enum Input {
    /// A message has come from another node.
    Peer { from: NodeId, payload: Bytes },
    /// A connection with another node has broken; it may be dead.
    Disconnected { peer: NodeId },
    /// Open a session here.
    Open {
        ticket: Ticket,
        password: Password,
        timeout_ms: u32,
        keeper: Keeper,
    },
    /// Attach a session here, wherever it was.
    Attach {
        ticket: Ticket,
        session: SessionId,
        password: Password,
        timeout_ms: u32,
        /// Random: tells a repetition from a second attempt.
        nonce: u64,
        keeper: Keeper,
    },
    /// The host has heard of the client whose session this is, which it keeps alive itself.
    Touch { session: SessionId, attachment: u32 },
    /// A write of a session attached here; `op` is encoded.
    Write {
        ticket: Ticket,
        session: SessionId,
        attachment: u32,
        op: Bytes,
    },
    /// Nobody waits any more for the sessions that these calls have asked for.
    Withdraw { tickets: BTreeSet<Ticket> },
    /// Nobody at this node can use a session any more, however many of its writes are unanswered.
    Abandon {
        ticket: Ticket,
        session: SessionId,
        attachment: u32,
        abandonment: Abandonment,
    },
    /// A read that must see its session's earlier writes, which may be under way.
    Read {
        ticket: Ticket,
        session: SessionId,
        attachment: u32,
        read: ReadOp,
    },
    /// A barrier, and then a read if there is one: linearizable.
    Barrier {
        ticket: Ticket,
        session: SessionId,
        attachment: u32,
        read: Option<ReadOp>,
    },
    /// Change who takes part, or who leads.
    Membership {
        ticket: Ticket,
        request: MembershipRequest,
    },
    /// The writes up to and including this number are durable.
    Persisted { number: u64 },
    /// Time has passed; comes at least once a tick.
    Tick,
    /// A snapshot of ours was published, or could not be: the next one is due when it would have been.
    SnapshotTaken { meta: SnapshotMeta, published: bool },
    /// A piece of our snapshot was read for a follower.
    SnapshotRead {
        transfer: u64,
        offset: u64,
        piece: Option<(u64, Bytes)>,
    },
    /// A piece of a received snapshot was staged.
    SnapshotStaged {
        transfer: u64,
        offset: u64,
        outcome: Staged,
    },
}

/// What becomes of a session that nobody at its node can use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Abandonment {
    /// Nobody elsewhere can, either: it is closed.
    Close,
    /// Whoever has its credentials may attach it: it is left to its silence.
    Leave,
}

/// What staging a piece of a snapshot came to.
pub(crate) enum Staged {
    /// More pieces are expected.
    Underway,
    /// It was the last one: the whole is read and ready to be published.
    Whole(Box<ReceivedSnapshot>),
    /// It can't be used.
    Failed,
}

/// A received snapshot: read, and written but not published.
pub(crate) struct ReceivedSnapshot {
    pub meta: SnapshotMeta,
    pub state: RestoredState,
    pub writer: Box<dyn SnapshotWriter>,
}

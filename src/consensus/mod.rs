//! The pluggable core that makes replicas agree on one log.
//!
//! Floor 2, sans-IO: a core takes proposals, messages, ticks and word that a write is durable, and
//! gives out what to write, send and apply. It has no clock, no thread, no socket; randomness is a
//! seed. It carries opaque bytes and knows nothing of znodes. Given the same calls in the same order
//! it gives the same answers, byte for byte.

mod raft;
mod single;
#[cfg(test)]
mod tests;

use bytes::Bytes;

#[cfg(any(test, feature = "testing"))]
pub(crate) use self::raft::message_seeds;
pub use self::raft::{COMMAND_BYTES_MAX, RaftCore, RaftOptions};
pub use self::single::SingleVoterCore;
use crate::NodeId;
use crate::storage::{Configuration, LogEntry, SnapshotMeta, StorageError, WriteBatch};

/// What a node is in its term (Raft paper, section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks for votes, or asks whether it would get them (pre-vote).
    Candidate,
    /// Leads the term.
    Leader,
    /// Gets the log without a vote.
    Learner,
}

/// A core's position, to be read after any call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConsensusStatus {
    /// What this node is.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// The leader of `term`, where it is known.
    pub leader: Option<NodeId>,
    /// The highest index known to be committed.
    pub commit: u64,
    /// The last index in this node's log, durable or not.
    pub last_index: u64,
    /// Whether a leader has committed an entry of its own term, so that barriers can be answered
    /// (Raft's dissertation, section 6.4).
    pub leads_with_commit: bool,
    /// Whether leadership is being handed over: proposals are dropped meanwhile.
    pub transferring: bool,
}

/// How far a leader knows another node to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerProgress {
    /// The node.
    pub node: NodeId,
    /// The last entry known to be durable there.
    pub matched: u64,
    /// Whether it was heard from within the last election timeout.
    pub recently_active: bool,
}

/// One step of a change of membership. Several in one proposal happen together (joint consensus).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MembershipChange {
    /// Adds a node that gets the log but doesn't vote, or takes a voter's vote.
    AddLearner(NodeId),
    /// Makes a node a voter, whether it was a learner or is new.
    AddVoter(NodeId),
    /// Takes a node out, voter or learner.
    Remove(NodeId),
}

/// Why a core did not take a proposal. Nothing was appended: it certainly did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// Only the leader proposes.
    #[error("not the leader (leader: {leader:?})")]
    NotLeader {
        /// The leader, where it is known.
        leader: Option<NodeId>,
    },
    /// The core takes none just now: leadership is being handed over, too much is uncommitted, the
    /// command is larger than a message, or the storage has failed.
    #[error("proposal dropped: {reason}")]
    Dropped {
        /// Which of these.
        reason: &'static str,
    },
    /// A barrier before the leader has committed an entry of its own term.
    #[error("the leader has not committed an entry of its term yet")]
    NoCommitInTerm,
    /// Another change of membership is in flight or not applied yet.
    #[error("a change of membership is in progress")]
    MembershipChangeInProgress,
    /// The change makes no sense.
    #[error("invalid change of membership: {reason}")]
    InvalidMembershipChange {
        /// Why: e.g. it would remove the last voter.
        reason: String,
    },
}

/// Why a core did not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The bytes are not a message of this core, or not one that a peer may send. The message is
    /// dropped; the core is unharmed.
    #[error("malformed consensus message from node {from}: {reason}")]
    Malformed {
        /// Who sent it.
        from: NodeId,
        /// What is wrong with it.
        reason: String,
    },
    /// The message proves that this node has forgotten what it once acknowledged (the leader holds
    /// as durable here an entry that isn't there). The node must stop: taking part again under its id
    /// can make two leaders.
    #[error(
        "this node has lost entry {acknowledged}, which it once acknowledged: its log ends at {last_index}"
    )]
    Amnesia {
        /// The index that the leader knows to be durable here.
        acknowledged: u64,
        /// The last index in this node's log.
        last_index: u64,
    },
}

/// A snapshot that a leader wants sent, because the entries that `to` lacks are compacted away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotSend {
    /// To whom.
    pub to: NodeId,
    /// Which one: the storage's published snapshot at the time of the call. Should a newer one be
    /// published before it is read, [`Consensus::snapshot_sent`] with false starts over.
    pub meta: SnapshotMeta,
    /// The message to be stepped at `to` once the snapshot's bytes are there.
    pub message: Bytes,
}

/// What is to be done now. The caller takes the fields in the order in which they stand.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    /// Numbers the writes: consecutive. See [`Consensus::persisted`].
    pub number: u64,
    /// To be sent at once, before `write` is durable. What must wait for a write comes in a later
    /// `Ready`, after [`Consensus::persisted`].
    pub messages: Vec<(NodeId, Bytes)>,
    /// Snapshots to be sent.
    pub snapshots: Vec<SnapshotSend>,
    /// A received snapshot that the core has accepted: publish it, then load it. It comes before
    /// `write` and `committed`.
    pub install: Option<SnapshotMeta>,
    /// To be made durable. Even when empty the number is to be reported by
    /// [`Consensus::persisted`], in order.
    pub write: WriteBatch,
    /// Committed entries, consecutive, each once, durable here. Apply them, then call
    /// [`Consensus::applied`].
    pub committed: Vec<LogEntry>,
    /// The configuration in force after `committed` (or `install`), where it changed.
    pub configuration: Option<Configuration>,
    /// Confirmed barriers: `(barrier, index)`. Whoever has applied `index` has seen every write that
    /// was acknowledged before [`Consensus::barrier`] was called.
    pub barriers: Vec<(u64, u64)>,
}

/// A consensus core.
///
/// # What the caller guarantees
/// - After any other call, [`Consensus::ready`] is called until it returns `None`.
/// - Each `Ready` is carried out in order; its `write` is made durable in order, and reported by
///   [`Consensus::persisted`]. Many may be under way at once.
/// - A core is made from a storage that holds a first snapshot at index 1 or later, and may read from
///   that storage at any time.
///
/// # What you guarantee
/// - A vote or an acknowledgement leaves only after the write it speaks of was reported persisted.
/// - An entry is given out as committed only when a quorum holds it durably.
/// - A core that isn't in its own configuration, since it joins and has nothing yet, votes for nobody and
///   confirms no barrier: others may take it for a former member of its id, whose promises it doesn't know.
/// - Same calls, same answers.
///
/// # Errors
/// None is fatal but [`StepError::Amnesia`]. Bytes from outside never panic.
///
/// # After a crash
/// A core made anew from the same storage goes on, given what the storage made durable.
///
/// # Threads
/// `Send`; used by one thread at a time.
pub trait Consensus: Send {
    /// Appends a command to the log, if this node leads. Success means that it was appended here,
    /// not that it will be committed.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::Dropped`].
    fn propose(&mut self, data: Bytes) -> Result<(), ProposeError>;

    /// Takes a message of a peer.
    ///
    /// # Errors
    /// See [`StepError`].
    fn step(&mut self, from: NodeId, message: &[u8]) -> Result<(), StepError>;

    /// Takes the message of a [`SnapshotSend`], now that the snapshot itself is here: it stands for
    /// `meta`. Where the core accepts it the next `Ready` says [`Ready::install`]; where it has been
    /// overtaken, nothing comes of it.
    ///
    /// [`Consensus::step`] refuses such a message: without its snapshot there would be nothing to
    /// install.
    ///
    /// # Errors
    /// [`StepError::Malformed`] where the message is not of this snapshot.
    fn step_snapshot(
        &mut self,
        from: NodeId,
        message: &[u8],
        meta: &SnapshotMeta,
    ) -> Result<(), StepError>;

    /// One tick of the logical clock has passed.
    fn tick(&mut self);

    /// Starts a read barrier (Raft's dissertation, section 6.4): a round that confirms this node's
    /// leadership. Comes back in [`Ready::barriers`], or never, when leadership is lost meanwhile: the
    /// caller tries again with a fresh number. `barrier` is never used twice in a term.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::NoCommitInTerm`], [`ProposeError::Dropped`] where
    /// too many barriers wait.
    fn barrier(&mut self, barrier: u64) -> Result<(), ProposeError>;

    /// Proposes a change of membership: all of `changes` together, by joint consensus where it needs
    /// one, left by itself.
    ///
    /// # Errors
    /// [`ProposeError::MembershipChangeInProgress`], [`ProposeError::InvalidMembershipChange`],
    /// [`ProposeError::NotLeader`], [`ProposeError::Dropped`].
    fn change_membership(&mut self, changes: &[MembershipChange]) -> Result<(), ProposeError>;

    /// Hands leadership over to `to`, a voter. Gives up by itself after an election timeout.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`], [`ProposeError::InvalidMembershipChange`] where `to` is no voter.
    fn transfer_leadership(&mut self, to: NodeId) -> Result<(), ProposeError>;

    /// Starts an election now, subject to pre-vote. Does nothing on a leader or a learner.
    fn campaign(&mut self);

    /// What is to be done now; `None` when nothing is.
    fn ready(&mut self) -> Option<Ready>;

    /// The writes of every `Ready` up to and including `number` are durable.
    fn persisted(&mut self, number: u64);

    /// Every entry up to and including `index` is applied.
    fn applied(&mut self, index: u64);

    /// The snapshot asked for by a [`SnapshotSend`] has arrived (true) or was given up (false).
    fn snapshot_sent(&mut self, to: NodeId, arrived: bool);

    /// `to` can't be reached just now: send it less until it is heard from.
    fn unreachable(&mut self, to: NodeId);

    /// A connection with `peer` that was in use has broken: it may be dead. A hint, which may be wrong;
    /// whoever follows `peer` may look for another leader before the election timeout.
    fn disconnected(&mut self, peer: NodeId) {
        self.unreachable(peer);
    }

    /// Where the core stands.
    fn status(&self) -> ConsensusStatus;

    /// The configuration in force.
    fn configuration(&self) -> Configuration;

    /// How far the others are; empty unless this node leads. Sorted by node.
    fn progress(&self) -> Vec<PeerProgress>;

    /// The failure of the storage that stopped this core, where a read failed: it gives out nothing
    /// any more, and the node must stop.
    fn failure(&self) -> Option<StorageError> {
        None
    }

    /// The index that a snapshot must reach for a follower that waits for one: the published one is
    /// too old, or its configuration doesn't name the follower. The caller takes a new one.
    fn snapshot_wanted(&self) -> Option<u64> {
        None
    }
}

//! One replica: the join of consensus and state machine, without threads, sockets or files.
//!
//! Floor 3, sans-IO. [`Replica::handle`] takes what has happened and the time, [`Replica::poll`] gives
//! out what is to be done; nothing else changes a replica. The same inputs give the same outputs.
//!
//! A write comes in at the node that its session is attached to (its *origin*), travels to the leader,
//! into the log in a batch with others, and is answered by the origin when the origin applies it:
//!
//! ```text
//! handle(Write) → origin → (Forward) → leader → consensus → storage → committed → apply → Answer
//! ```

mod apply;
mod barriers;
mod leader;
mod liveness;
mod message;
mod origin;
mod snapshots;
mod tracker;
mod transfer;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

pub(crate) use message::PeerMessage;
pub(crate) use transfer::{CHUNK_BYTES, SnapshotRead, SnapshotStage};

use barriers::{OriginBarriers, Waiter};
use leader::Leadership;
use origin::{DeferredRead, Origin};

use crate::clock::Now;
use crate::consensus::{Consensus, ConsensusStatus, MembershipChange, StepError};
use crate::error::{Error, Result};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::{Change, Op, Outcome, Password, ReadOp};
use crate::proto::{self, records::RequestRecord};
use crate::state::{Frozen, ReadResult, RestoredState, State};
use crate::storage::{Configuration, SnapshotMeta, SnapshotWriter, StorageError, WriteBatch};

/// Names a call that waits for its answer; the driver gives it out and never uses it twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Ticket(pub u64);

/// What a replica does by itself, in numbers.
#[derive(Clone, Debug)]
pub(crate) struct ReplicaOptions {
    /// This node.
    pub id: NodeId,
    /// Random, and new at every start of the node.
    pub boot_nonce: u32,
    /// The time between two ticks of the consensus core.
    pub tick: Duration,
    /// The longest time without a leader before an election begins.
    pub election_timeout: Duration,
    /// The most writes that one session may have unanswered.
    pub session_writes_max: usize,
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
    /// Open a session here.
    Open {
        ticket: Ticket,
        password: Password,
        timeout_ms: u32,
    },
    /// Attach a session here, wherever it was.
    Attach {
        ticket: Ticket,
        session: SessionId,
        password: Password,
        timeout_ms: u32,
        /// Random: tells a repetition from a second attempt.
        nonce: u64,
    },
    /// A write of a session attached here; `op` is encoded.
    Write {
        ticket: Ticket,
        session: SessionId,
        attachment: u32,
        op: Bytes,
    },
    /// Close a session that nobody can use any more, however many of its writes are unanswered.
    Abandon {
        ticket: Ticket,
        session: SessionId,
        attachment: u32,
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
    /// Change who takes part.
    ChangeMembership {
        ticket: Ticket,
        changes: Vec<MembershipChange>,
    },
    /// Hand leadership over.
    TransferLeadership { ticket: Ticket, to: NodeId },
    /// The writes up to and including this number are durable.
    Persisted { number: u64 },
    /// Time has passed; comes at least once a tick.
    Tick,
    /// A snapshot of ours was published, or failed and will be tried again.
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

/// Something to be done. The order is that of [`Replica::poll`].
pub(crate) enum Output {
    /// Send to a node.
    Send { to: NodeId, payload: Bytes },
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
}

impl Effects {
    pub(crate) fn is_empty(&self) -> bool {
        !self.applied
            && self.changes.is_empty()
            && !self.replaced
            && self.answers.is_empty()
            && self.sessions.is_empty()
    }
}

/// An answer to a call.
#[derive(Debug)]
pub(crate) enum Answer {
    /// A write was applied.
    Write(Outcome),
    /// A read, as of this zxid.
    Read {
        zxid: Zxid,
        result: Result<ReadResult>,
    },
    /// A barrier was passed.
    Barrier,
    /// A session was opened or attached.
    Session {
        id: SessionId,
        attachment: u32,
        timeout_ms: u32,
        certain_until: Duration,
    },
    /// A change of membership or of leadership was taken in.
    Proposed,
    /// The call failed.
    Failed(Error),
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
}

/// See the module's text.
pub(crate) struct Replica {
    options: ReplicaOptions,
    core: Box<dyn Consensus>,
    state: State,
    /// What the core last said of itself, to notice changes.
    status: ConsensusStatus,
    configuration: Configuration,
    applied_index: u64,
    applied_term: u64,
    origin: Origin,
    barriers: OriginBarriers,
    leadership: Leadership,
    liveness: liveness::Liveness,
    snapshots: snapshots::Snapshots,
    outputs: VecDeque<Output>,
    effects: Effects,
    next_core_tick: Duration,
    /// A proposal was dropped by the core: send everything again at the next tick.
    resend_at_tick: bool,
    failed: bool,
    now: Now,
}

impl Replica {
    /// A replica whose state is that of the storage's snapshot, described by `meta`.
    pub(crate) fn new(
        options: ReplicaOptions,
        core: Box<dyn Consensus>,
        state: State,
        meta: &SnapshotMeta,
        now: Now,
    ) -> Replica {
        let mut replica = Replica {
            origin: Origin::default(),
            barriers: OriginBarriers::new(options.boot_nonce),
            leadership: Leadership::default(),
            liveness: liveness::Liveness::default(),
            snapshots: snapshots::Snapshots::new(options.boot_nonce),
            outputs: VecDeque::new(),
            effects: Effects::default(),
            // Nothing yet, so that a core that leads from its start is seen to begin a term.
            status: ConsensusStatus::default(),
            configuration: meta.configuration.clone(),
            applied_index: meta.index,
            applied_term: meta.term,
            next_core_tick: now.monotonic + options.tick,
            resend_at_tick: false,
            failed: false,
            options,
            core,
            state,
            now,
        };
        replica.pump();
        replica
    }

    /// Takes in what has happened. Call [`Replica::poll`] until it returns `None` afterwards; several
    /// inputs may be handled before.
    pub(crate) fn handle(&mut self, input: Input, now: Now) {
        self.now = now;
        if self.failed {
            return;
        }
        match input {
            Input::Peer { from, payload } => self.on_peer(from, &payload),
            Input::Open {
                ticket,
                password,
                timeout_ms,
            } => {
                let owner = self.options.id;
                let op = Op::OpenSession {
                    password,
                    timeout_ms,
                    owner,
                };
                self.open(ticket, SessionId::NONE, (password, None), &op);
            }
            Input::Attach {
                ticket,
                session,
                password,
                timeout_ms,
                nonce,
            } => {
                let owner = self.options.id;
                let op = Op::AttachSession {
                    password,
                    timeout_ms,
                    owner,
                    nonce,
                };
                self.open(ticket, session, (password, Some(nonce)), &op);
            }
            Input::Write {
                ticket,
                session,
                attachment,
                op,
            } => self.write(ticket, session, attachment, op),
            Input::Abandon {
                ticket,
                session,
                attachment,
            } => self.abandon(ticket, session, attachment),
            Input::Read {
                ticket,
                session,
                attachment,
                read,
            } => self.read(
                session,
                attachment,
                DeferredRead {
                    ticket,
                    read: Some(read),
                },
            ),
            Input::Barrier {
                ticket,
                session,
                attachment,
                read,
            } => self.barrier(
                session,
                attachment,
                Waiter {
                    ticket,
                    session,
                    read,
                },
            ),
            Input::ChangeMembership { ticket, changes } => {
                let result = self.core.change_membership(&changes);
                self.answer_proposal(ticket, result);
            }
            Input::TransferLeadership { ticket, to } => {
                let result = self.core.transfer_leadership(to);
                self.answer_proposal(ticket, result);
            }
            Input::Persisted { number } => {
                self.core.persisted(number);
                self.pump();
            }
            Input::Tick => self.tick(),
            Input::SnapshotTaken { meta, published } => self.on_snapshot_taken(meta, published),
            Input::SnapshotRead {
                transfer,
                offset,
                piece,
            } => self.on_snapshot_read(transfer, offset, piece),
            Input::SnapshotStaged {
                transfer,
                offset,
                outcome,
            } => self.on_snapshot_staged(transfer, offset, outcome),
        }
    }

    /// What is to be done next. What the inputs since the last call have brought together (a batch, a
    /// round of barriers) goes out here, so that it is shared.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.failed {
            return None;
        }
        self.send_unsent();
        self.send_barriers();
        self.propose_batch();
        self.begin_barrier_round();
        self.pump();
        self.outputs.pop_front()
    }

    /// What applying has brought about since the last call.
    pub(crate) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Makes all that is applied visible to readers.
    pub(crate) fn publish(&mut self) {
        self.state.publish();
    }

    /// The state machine, to look into.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Where the consensus core stands.
    pub(crate) fn consensus_status(&self) -> &ConsensusStatus {
        &self.status
    }

    /// Who takes part, as of the applied index.
    pub(crate) fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The last entry applied.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// How many sessions are attached here.
    pub(crate) fn sessions_attached(&self) -> usize {
        self.origin.len()
    }

    /// When time alone will make the replica do something.
    pub(crate) fn next_tick(&self) -> Duration {
        self.next_core_tick
    }

    /// A snapshot to be written in the background, if one is due. To be called when everything applied
    /// is published.
    pub(crate) fn take_due_snapshot(&mut self) -> Option<(SnapshotMeta, Frozen)> {
        self.due_snapshot()
    }

    /// The node stops: every call that still waits gets its answer.
    pub(crate) fn stop(&mut self, reason: &str) -> Effects {
        self.failed = true;
        let stopped = || {
            Answer::Failed(Error::Stopped {
                reason: reason.to_string(),
            })
        };
        let (sessions, openings) = self.origin.take_all();
        for (session, local) in sessions {
            self.effects.sessions.push(SessionChange {
                session,
                attachment: local.attachment,
                event: SessionEvent::Lost,
            });
            for (ticket, maybe_happened) in local.into_ends() {
                let answer = if maybe_happened {
                    Answer::Failed(Error::OutcomeUnknown {
                        reason: "the node stopped",
                    })
                } else {
                    stopped()
                };
                self.effects.answers.push((ticket, answer));
            }
        }
        for opening in openings {
            self.effects.answers.push((opening.ticket, stopped()));
        }
        for waiter in self.barriers.take_all() {
            self.effects.answers.push((waiter.ticket, stopped()));
        }
        self.take_effects()
    }

    // ---- Requests of this node's clients ------------------------------------------------------

    fn open(
        &mut self,
        ticket: Ticket,
        session: SessionId,
        (password, nonce): (Password, Option<u64>),
        op: &Op,
    ) {
        if self.origin.len_with_openings() >= self.options.sessions_max {
            let full = Error::Overloaded {
                queue: "sessions of this node",
                limit: self.options.sessions_max,
            };
            return self.answer(ticket, Answer::Failed(full));
        }
        let request = RequestRecord {
            session: session.0,
            op: proto::encode_op(op),
            ..Default::default()
        };
        let now = self.now.monotonic;
        self.origin.open(password, nonce, ticket, request, now);
    }

    fn write(&mut self, ticket: Ticket, session: SessionId, attachment: u32, op: Bytes) {
        let limit = self.options.session_writes_max;
        match self.origin.attached(session, attachment) {
            Err(error) => self.answer(ticket, Answer::Failed(error)),
            Ok(local) if local.pending_len() >= limit => {
                let queue = "unanswered writes of the session";
                self.answer(ticket, Answer::Failed(Error::Overloaded { queue, limit }));
            }
            Ok(_) => self.origin.push_write(session, ticket, op),
        }
    }

    fn abandon(&mut self, ticket: Ticket, session: SessionId, attachment: u32) {
        match self.origin.attached(session, attachment) {
            Err(error) => self.answer(ticket, Answer::Failed(error)),
            Ok(_) => {
                let op = proto::encode_op(&Op::CloseSession);
                self.origin.push_write(session, ticket, op);
            }
        }
    }

    fn read(&mut self, session: SessionId, attachment: u32, read: DeferredRead) {
        match self.origin.attached(session, attachment) {
            Err(error) => self.answer(read.ticket, Answer::Failed(error)),
            Ok(local) => {
                if let Err(read) = local.defer(read) {
                    self.answer_read(session, read);
                }
            }
        }
    }

    fn barrier(&mut self, session: SessionId, attachment: u32, waiter: Waiter) {
        if let Err(error) = self.origin.attached(session, attachment) {
            return self.answer(waiter.ticket, Answer::Failed(error));
        }
        let limit = self.options.barriers_max;
        if self.barriers.len() >= limit {
            let queue = "read barriers";
            return self.answer(
                waiter.ticket,
                Answer::Failed(Error::Overloaded { queue, limit }),
            );
        }
        self.barriers.push(waiter);
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.effects.answers.push((ticket, answer));
    }

    fn answer_read(&mut self, session: SessionId, read: DeferredRead) {
        let answer = match read.read {
            None => Answer::Barrier,
            Some(op) => Answer::Read {
                zxid: self.state.zxid(),
                result: self.state.read(session, &op),
            },
        };
        self.answer(read.ticket, answer);
    }

    fn answer_proposal(
        &mut self,
        ticket: Ticket,
        result: std::result::Result<(), crate::consensus::ProposeError>,
    ) {
        use crate::consensus::ProposeError;
        let answer = match result {
            Ok(()) => Answer::Proposed,
            Err(ProposeError::MembershipChangeInProgress) => {
                Answer::Failed(Error::ReconfigInProgress)
            }
            Err(error) => Answer::Failed(Error::BadArguments {
                reason: error.to_string(),
            }),
        };
        self.answer(ticket, answer);
    }

    // ---- Messages -----------------------------------------------------------------------------

    fn on_peer(&mut self, from: NodeId, payload: &Bytes) {
        // What can't be read is dropped, as the network could have dropped it.
        let Ok(message) = PeerMessage::decode(payload) else {
            return;
        };
        match message {
            PeerMessage::Consensus(bytes) => {
                let stepped = self.core.step(from, &bytes);
                self.stepped(stepped);
            }
            PeerMessage::Forward(requests) => self.on_peers_forward(from, requests),
            PeerMessage::Barrier { id, sessions } => self.on_barrier(from, id, sessions),
            PeerMessage::BarrierReply { id, index, gone } => {
                self.on_barrier_reply(id, index, &gone);
            }
            PeerMessage::SnapshotChunk(chunk) => self.on_snapshot_chunk(from, chunk),
            PeerMessage::SnapshotAck(ack) => self.on_snapshot_ack(from, ack),
        }
    }

    /// The core has taken a message, or refused it.
    fn stepped(&mut self, stepped: std::result::Result<(), StepError>) {
        match stepped {
            Ok(()) | Err(StepError::Malformed { .. }) => self.pump(),
            Err(error) => self.fail(Failure::Consensus(error)),
        }
    }

    fn send(&mut self, to: NodeId, message: PeerMessage) {
        self.outputs.push_back(Output::Send {
            to,
            payload: message.encode(),
        });
    }

    /// Stops for good: nothing is acknowledged any more.
    fn fail(&mut self, failure: Failure) {
        self.failed = true;
        self.outputs.clear();
        self.outputs.push_back(Output::Fail(failure));
    }

    // ---- Time ---------------------------------------------------------------------------------

    fn tick(&mut self) {
        let now = self.now.monotonic;
        let mut ticked = false;
        while self.next_core_tick <= now {
            self.core.tick();
            self.next_core_tick += self.options.tick;
            if !ticked {
                ticked = true;
                continue;
            }
            // The node was stalled: ticks that nobody could have answered do not count, or every
            // pause would start an election.
            if self.next_core_tick <= now {
                self.next_core_tick = now + self.options.tick;
            }
        }
        if !ticked {
            return;
        }
        self.pump();
        let retry_before = now.saturating_sub(self.options.election_timeout);
        if std::mem::take(&mut self.resend_at_tick) {
            self.origin.resend_all();
        } else if !self.leads() {
            self.origin.resend_sent_before(retry_before);
        }
        self.barriers.retry_sent_before(retry_before);
        self.tick_liveness();
        self.tick_leader();
        self.tick_snapshots();
    }

    fn leads(&self) -> bool {
        self.status.role == crate::consensus::Role::Leader
    }

    // ---- The core -----------------------------------------------------------------------------

    /// Carries out all that the core has ready, and notices what changed about it.
    fn pump(&mut self) {
        while !self.failed
            && let Some(ready) = self.core.ready()
        {
            for (to, bytes) in ready.messages {
                self.send(to, PeerMessage::Consensus(bytes));
            }
            for send in ready.snapshots {
                self.begin_transfer(send);
            }
            let publish = ready.install.and_then(|meta| self.install(meta));
            self.outputs.push_back(Output::Write {
                number: ready.number,
                publish,
                batch: ready.write,
            });
            self.apply(ready.committed);
            if let Some(configuration) = ready.configuration {
                self.configuration = configuration;
            }
            for (round, index) in ready.barriers {
                self.on_round_confirmed(round, index);
            }
        }
        if let Some(failure) = self.core.failure() {
            return self.fail(Failure::Storage(failure));
        }
        let status = self.core.status();
        if status != self.status {
            let before = std::mem::replace(&mut self.status, status);
            self.on_status(&before);
        }
    }

    fn on_status(&mut self, before: &ConsensusStatus) {
        let led = before.role == crate::consensus::Role::Leader;
        let new_leader = before.leader != self.status.leader || before.term != self.status.term;
        if led && (!self.leads() || before.term != self.status.term) {
            self.end_leadership();
        }
        if new_leader && self.status.leader.is_some() {
            self.origin.resend_all();
            self.barriers.retry_sent_before(Duration::MAX);
            self.liveness.touch_at_once();
        }
        let ready_before = led && before.leads_with_commit && before.term == self.status.term;
        if self.leads() && self.status.leads_with_commit && !ready_before {
            self.begin_leadership();
        }
    }
}

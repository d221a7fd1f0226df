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
mod disk;
mod inputs;
mod joining;
mod leader;
mod liveness;
mod membership;
mod membership_message;
mod message;
mod origin;
mod outputs;
mod rules;
mod snapshots;
#[cfg(test)]
mod tests;
mod tracker;
mod transfer;
#[cfg(any(test, feature = "testing"))]
mod witness;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

pub(crate) use inputs::{Abandonment, Input, ReceivedSnapshot, ReplicaOptions, Staged, Ticket};
pub use membership_message::Reconfiguration;
pub(crate) use membership_message::{
    Join, JoinOutcome, JoinReply, MembershipRequest, NAME_BYTES_MAX, Welcome,
};
pub(crate) use message::PeerMessage;
#[cfg(any(test, feature = "testing"))]
pub(crate) use message::SnapshotChunk;
pub(crate) use outputs::{
    Answer, Effects, Failure, NodeEvent, Notice, Output, SessionChange, SessionEvent,
};
pub(crate) use transfer::{CHUNK_BYTES, SnapshotRead, SnapshotStage};
#[cfg(any(test, feature = "testing"))]
pub(crate) use witness::{AppliedEntry, AppliedWrite, Witness};

use barriers::{OriginBarriers, Waiter};
use leader::Leadership;
use origin::{Deferral, DeferredRead, Origin};

use crate::clock::Now;
use crate::consensus::{Consensus, ConsensusStatus, PeerProgress, StepError};
use crate::error::Error;
use crate::ids::{NodeId, SessionId};
use crate::op::{Keeper, Op, Password};
use crate::proto::{self, records::RequestRecord};
use crate::state::{Frozen, State};
use crate::storage::{Configuration, SnapshotMeta};

/// For how many election timeouts the opening of a session that was withdrawn is remembered, in case it
/// comes: its session is closed then. After that, silence ends it.
const WITHDRAWN: u32 = 10;

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
    rules: rules::MembersRules,
    liveness: liveness::Liveness,
    snapshots: snapshots::Snapshots,
    membership: membership::Membership,
    disk: disk::Disk,
    outputs: VecDeque<Output>,
    effects: Effects,
    next_core_tick: Duration,
    /// A proposal was dropped by the core: send everything again at the next tick.
    resend_at_tick: bool,
    failed: bool,
    now: Now,
    /// Where what is applied is written down, for whoever checks it.
    #[cfg(any(test, feature = "testing"))]
    witness: Option<Witness>,
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
            rules: rules::MembersRules::new(options.rules_max),
            liveness: liveness::Liveness::default(),
            snapshots: snapshots::Snapshots::new(options.boot_nonce),
            membership: membership::Membership::new(options.boot_nonce),
            disk: disk::Disk::default(),
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
            #[cfg(any(test, feature = "testing"))]
            witness: None,
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
                keeper,
            } => {
                let owner = self.options.id;
                let op = Op::OpenSession {
                    password,
                    timeout_ms,
                    owner,
                };
                self.open(ticket, SessionId::NONE, (password, None), keeper, &op);
            }
            Input::Attach {
                ticket,
                session,
                password,
                timeout_ms,
                nonce,
                keeper,
            } => {
                let owner = self.options.id;
                let op = Op::AttachSession {
                    password,
                    timeout_ms,
                    owner,
                    nonce,
                };
                self.open(ticket, session, (password, Some(nonce)), keeper, &op);
            }
            Input::Write {
                ticket,
                session,
                attachment,
                op,
            } => self.write(ticket, session, attachment, op),
            Input::Touch {
                session,
                attachment,
            } => {
                if let Ok(local) = self.origin.attached(session, attachment) {
                    local.heard = true;
                }
            }
            Input::Withdraw { tickets } => {
                let forgotten = self.origin.withdraw(&tickets, now.monotonic);
                self.answer_forgotten(forgotten);
            }
            Input::Abandon {
                ticket,
                session,
                attachment,
                abandonment,
            } => self.abandon(ticket, (session, attachment), abandonment),
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
            Input::Membership { ticket, request } => self.ask_membership(ticket, request),
            Input::Persisted { number } => {
                self.disk.persisted(number);
                self.core.persisted(number);
                self.pump();
            }
            Input::Disconnected { peer } => {
                self.core.disconnected(peer);
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
        self.send_membership();
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

    /// Whether this node takes part, as of the applied index.
    pub(crate) fn is_member(&self) -> bool {
        self.configuration.is_member(self.options.id)
    }

    /// How far a leader knows the others to be; empty on every other node.
    pub(crate) fn progress(&self) -> Vec<PeerProgress> {
        self.core.progress()
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

    /// What is published, for a backup; `None` while another has it. To be called when everything applied
    /// is published.
    pub(crate) fn freeze(&mut self) -> Option<(SnapshotMeta, Frozen)> {
        let frozen = self.state.freeze()?;
        Some((self.applied_meta(), frozen))
    }

    /// The node stops: every call that still waits gets its answer.
    pub(crate) fn stop(&mut self, error: &Error) -> Effects {
        self.failed = true;
        let stopped = || Answer::Failed(error.clone());
        let unknown = || {
            let reason = "the node stopped";
            Answer::Failed(Error::OutcomeUnknown { reason })
        };
        self.end_membership(error);
        let (sessions, openings) = self.origin.take_all();
        for (session, local) in sessions {
            self.effects.sessions.push(SessionChange {
                session,
                attachment: local.attachment,
                event: SessionEvent::Lost,
            });
            for (ticket, maybe_happened) in local.into_ends() {
                let answer = if maybe_happened { unknown() } else { stopped() };
                self.effects.answers.push((ticket, answer));
            }
        }
        for opening in openings {
            let answer = if opening.ever_sent {
                unknown()
            } else {
                stopped()
            };
            self.effects.answers.push((opening.ticket, answer));
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
        keeper: Keeper,
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
        self.origin
            .open((password, nonce), ticket, request, keeper, now);
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

    fn abandon(
        &mut self,
        ticket: Ticket,
        (session, attachment): (SessionId, u32),
        abandonment: Abandonment,
    ) {
        if let Err(error) = self.origin.attached(session, attachment) {
            return self.answer(ticket, Answer::Failed(error));
        }
        match abandonment {
            Abandonment::Close => {
                let op = proto::encode_op(&Op::CloseSession);
                self.origin.push_write(session, ticket, op);
            }
            Abandonment::Leave => {
                let reason = "nobody waits for it";
                self.end_session(
                    session,
                    SessionEvent::Left,
                    Error::OutcomeUnknown { reason },
                );
                let zxid = self.state.zxid();
                self.answer(ticket, Answer::Barrier { zxid });
            }
        }
    }

    /// Answers calls that nobody waits for, so that nothing of them is left.
    fn answer_forgotten(&mut self, tickets: Vec<Ticket>) {
        for ticket in tickets {
            self.answer(ticket, Answer::Failed(Error::Timeout));
        }
    }

    fn read(&mut self, session: SessionId, attachment: u32, read: DeferredRead) {
        match self.origin.attached(session, attachment) {
            Err(error) => self.answer(read.ticket, Answer::Failed(error)),
            Ok(_) => self.read_behind_writes(session, read),
        }
    }

    /// Answers a read of a session here when the writes that were called before it are applied.
    fn read_behind_writes(&mut self, session: SessionId, read: DeferredRead) {
        let limit = self.options.session_reads_max;
        let Some(local) = self.origin.session_mut(session) else {
            let error = Error::SessionExpired { session };
            return self.answer(read.ticket, Answer::Failed(error));
        };
        match local.defer(read, limit) {
            Deferral::Waits => {}
            Deferral::Nothing(read) => self.answer_read(session, read),
            Deferral::Full(read) => {
                let queue = "reads behind the session's writes";
                let full = Error::Overloaded { queue, limit };
                self.answer(read.ticket, Answer::Failed(full));
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
            None => Answer::Barrier {
                zxid: self.state.zxid(),
            },
            Some(op) => Answer::Read {
                zxid: self.state.zxid(),
                result: self.state.read(session, &op),
            },
        };
        self.answer(read.ticket, answer);
    }

    // ---- Messages -----------------------------------------------------------------------------

    fn on_peer(&mut self, from: NodeId, payload: &Bytes) {
        // What can't be read is dropped, as the network could have dropped it.
        let Ok((message, rules)) = PeerMessage::decode(payload) else {
            return;
        };
        self.hear_rules(from, rules);
        if message.speaks_as_member() {
            self.tell_stranger(from);
        }
        match message {
            PeerMessage::Consensus(bytes) => {
                self.hear(from);
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
            PeerMessage::Membership(ask) => self.on_membership(from, ask),
            PeerMessage::MembershipReply(reply) => self.on_membership_reply(reply),
            PeerMessage::NotMember { index } => self.on_not_member(from, index),
            PeerMessage::Inquiry => {}
            PeerMessage::Join(join) => self.on_join(from, join),
            PeerMessage::JoinReply(reply) => self.on_join_reply(reply),
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
            lane: message.lane(),
            payload: message.encode(self.options.rules_max),
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
        self.tick_disk();
        let retry_before = now.saturating_sub(self.options.election_timeout);
        if std::mem::take(&mut self.resend_at_tick) {
            self.origin.resend_all();
        } else if !self.leads() {
            self.origin.resend_sent_before(retry_before);
        }
        let withdrawn_before = now.saturating_sub(self.options.election_timeout * WITHDRAWN);
        let forgotten = self.origin.forget_withdrawn_before(withdrawn_before);
        self.answer_forgotten(forgotten);
        self.retry_barriers(retry_before);
        self.tick_membership();
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
            self.disk.gave_out(ready.number, &ready.write);
            self.outputs.push_back(Output::Write {
                number: ready.number,
                publish,
                batch: ready.write,
            });
            self.apply(ready.committed);
            if let Some(configuration) = ready.configuration {
                self.set_configuration(configuration);
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
        self.leave_if_removed();
    }

    fn on_status(&mut self, before: &ConsensusStatus) {
        let led = before.role == crate::consensus::Role::Leader;
        let new_leader = before.leader != self.status.leader || before.term != self.status.term;
        if led && (!self.leads() || before.term != self.status.term) {
            self.end_leadership();
        }
        if new_leader {
            self.effects.events.push(NodeEvent::LeaderChanged {
                leader: self.status.leader,
                term: self.status.term,
            });
        }
        if new_leader && self.status.leader.is_some() {
            self.notice_leader();
            self.origin.resend_all();
            self.retry_barriers(Duration::MAX);
            self.liveness.touch_at_once();
        }
        let ready_before = led && before.leads_with_commit && before.term == self.status.term;
        if self.leads() && self.status.leads_with_commit && !ready_before {
            self.begin_leadership();
        }
    }
}

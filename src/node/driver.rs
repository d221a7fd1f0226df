//! The one loop that drives a replica.
//!
//! [`Driver::turn`] is one pass: drain what has come, let the replica handle it, carry out what it
//! gives out, fire watches, publish the tree, answer. The node's thread repeats it; a simulator may
//! call it with a clock of its own; nothing else drives a replica.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use slab::Slab;

use super::calls::{Abandoned, Asked, Call, Command, FrozenState, Value};
use super::compare::differences;
use super::members::Members;
use super::shared::{NodeShared, QueueDepths, Role, SessionHandle, SessionShared};
use super::telling::Cause;
use super::unfired::Unfired;
use super::watches::{WatchQueue, WatchTable};
use super::workers::{Done, SnapshotJob, WriteJob};
use crate::acl::Acl;
use crate::clock::Now;
use crate::error::Error;
use crate::ids::{ClusterId, NodeId, SessionId};
use crate::observe::{self, CallKind, Stopwatch};
use crate::path::ZnodePath;
use crate::replica::{
    Answer, Effects, Failure, Input, Output, Replica, SessionEvent, Staged, Ticket,
};
use crate::state::State;
use crate::state::may_read;
use crate::transport::{Message, Transport};

/// How much one turn takes from each queue, so that no queue starves another.
const DRAIN_MAX: usize = 4096;

/// How often a node's status shows what is too dear to be looked at in every turn.
const SELDOM: Duration = Duration::from_millis(10);

/// The most backups that may wait to be begun.
const BACKUPS_MAX: usize = 16;

/// The queues into and out of a driver.
pub(crate) struct Queues {
    pub commands: Receiver<Command>,
    pub peers: Receiver<(NodeId, bytes::Bytes)>,
    /// The bytes of what waits there.
    pub peer_bytes: Arc<AtomicUsize>,
    /// Peers whose connection has broken.
    pub disconnected: Receiver<NodeId>,
    pub done: Receiver<Done>,
    pub writes: Sender<WriteJob>,
    pub snapshots: Sender<SnapshotJob>,
}

/// A replica with its queues.
pub(crate) struct Driver {
    id: NodeId,
    cluster: ClusterId,
    replica: Replica,
    queues: Queues,
    transport: Arc<dyn Transport>,
    shared: Arc<NodeShared>,
    calls: Slab<Call>,
    sessions: BTreeMap<SessionId, Arc<SessionShared>>,
    /// Who waits for the state to be frozen; one at a time has it.
    backups: VecDeque<Call>,
    next_seldom_report: Duration,
    /// The role and the rules that the host's log has heard of.
    told: (Role, u32),
    stopped: bool,
}

impl Driver {
    pub(crate) fn new(
        id: NodeId,
        cluster: ClusterId,
        replica: Replica,
        queues: Queues,
        transport: Arc<dyn Transport>,
        shared: Arc<NodeShared>,
    ) -> Driver {
        let told = (Role::default(), replica.state().rules().number());
        let mut driver = Driver {
            id,
            cluster,
            replica,
            queues,
            transport,
            shared,
            calls: Slab::new(),
            sessions: BTreeMap::new(),
            backups: VecDeque::new(),
            next_seldom_report: Duration::ZERO,
            told,
            stopped: false,
        };
        // Nobody is to see a status from before the first turn.
        let now = driver.shared.clock.now();
        driver.report(now);
        driver
    }

    /// One pass. Returns false when the node has stopped, for good.
    pub(crate) fn turn(&mut self, now: Now) -> bool {
        if self.stopped {
            return false;
        }
        for _ in 0..DRAIN_MAX {
            match self.queues.done.try_recv() {
                Ok(done) => self.on_done(done, now),
                Err(_) => break,
            }
        }
        for _ in 0..DRAIN_MAX {
            match self.queues.peers.try_recv() {
                Ok((from, payload)) => {
                    let bytes = payload.len();
                    self.queues.peer_bytes.fetch_sub(bytes, Ordering::AcqRel);
                    self.replica.handle(Input::Peer { from, payload }, now);
                }
                Err(_) => break,
            }
        }
        // Behind what they said before.
        for _ in 0..DRAIN_MAX {
            match self.queues.disconnected.try_recv() {
                Ok(peer) => self.replica.handle(Input::Disconnected { peer }, now),
                Err(_) => break,
            }
        }
        let mut drained = false;
        for _ in 0..DRAIN_MAX {
            match self.queues.commands.try_recv() {
                Ok(command) => self.on_command(command, now),
                Err(_) => {
                    drained = true;
                    break;
                }
            }
        }
        if drained {
            // Behind every call that was made before.
            for abandoned in self.shared.take_abandoned() {
                self.on_command(Command::Abandon(abandoned), now);
            }
        }
        if now.monotonic >= self.replica.next_tick() {
            let tickets = self.tickets_for_nobody();
            if !tickets.is_empty() {
                self.replica.handle(Input::Withdraw { tickets }, now);
            }
            self.replica.handle(Input::Tick, now);
        }
        while !self.stopped
            && let Some(output) = self.replica.poll()
        {
            self.carry_out(output);
        }
        let effects = self.replica.take_effects();
        self.settle(effects);
        self.take_snapshot();
        self.report(now);
        !self.stopped
    }

    /// Whether somebody waits for an answer of this node's, which will bring work soon.
    pub(crate) fn expects_work(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Whether another turn would find something at once.
    pub(crate) fn has_work(&self) -> bool {
        !self.queues.done.is_empty()
            || !self.queues.peers.is_empty()
            || !self.queues.disconnected.is_empty()
            || !self.queues.commands.is_empty()
    }

    /// When the next turn is due though nothing has come.
    pub(crate) fn next_turn(&self) -> Duration {
        self.replica.next_tick()
    }

    fn stop_because(&mut self, reason: &str, cause: Cause) {
        let reason = reason.to_string();
        self.stop(&Error::Stopped { reason }, cause);
    }

    /// Ends the node: every call gets its answer.
    pub(crate) fn stop(&mut self, error: &Error, cause: Cause) {
        if self.stopped {
            return;
        }
        self.stopped = true;
        // First, so that whoever finds its session lost finds why.
        self.shared.set_stopped(error, cause);
        let effects = self.replica.stop(error);
        self.settle(effects);
        while let Ok(command) = self.queues.commands.try_recv() {
            let kind = command.kind();
            if let Some(call) = command.into_call() {
                self.shared.fail(call, kind, error.clone());
            }
        }
        for call in self.calls.drain().chain(self.backups.drain(..)) {
            let kind = call.kind().unwrap_or(CallKind::Backup);
            self.shared.fail(call, kind, error.clone());
        }
        let mut table = self.shared.watches.lock();
        for session in std::mem::take(&mut self.sessions).into_values() {
            session.set(SessionEvent::Lost, &mut table);
        }
    }

    /// The replica, to look into.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The replica, for whoever lets it write down what it applies.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn replica_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }

    /// What waits in the node's queues.
    pub(crate) fn queue_depths(&self) -> QueueDepths {
        QueueDepths {
            requests: self.queues.commands.len(),
            peer_messages: self.queues.peers.len(),
            writes: self.queues.writes.len(),
            snapshots: self.queues.snapshots.len(),
            calls: self.calls.len(),
        }
    }

    fn ticket(&mut self, mut call: Call, kind: CallKind) -> Ticket {
        call.take(kind);
        Ticket(self.calls.insert(call) as u64)
    }

    /// The calls that ask for sessions that nobody waits for any more.
    fn tickets_for_nobody(&self) -> BTreeSet<Ticket> {
        let calls = self.calls.iter();
        let for_nobody = calls.filter(|(_, call)| call.asks_for_nobody());
        for_nobody
            .map(|(number, _)| Ticket(number as u64))
            .collect()
    }

    fn on_command(&mut self, command: Command, now: Now) {
        if self.stopped {
            return;
        }
        let kind = command.kind();
        if let Command::Open { call, .. } | Command::Attach { call, .. } = &command
            && call.asks_for_nobody()
        {
            return;
        }
        let input = match command {
            Command::Open {
                password,
                timeout_ms,
                keeper,
                call,
            } => {
                let ticket = self.ticket(call, kind);
                Input::Open {
                    ticket,
                    password,
                    timeout_ms,
                    keeper,
                }
            }
            Command::Attach {
                session,
                password,
                timeout_ms,
                nonce,
                keeper,
                call,
            } => {
                let ticket = self.ticket(call, kind);
                Input::Attach {
                    ticket,
                    session,
                    password,
                    timeout_ms,
                    nonce,
                    keeper,
                }
            }
            Command::Write {
                session,
                attachment,
                op,
                call,
            } => {
                let ticket = self.ticket(call, kind);
                Input::Write {
                    ticket,
                    session,
                    attachment,
                    op,
                }
            }
            Command::Read {
                session,
                attachment,
                read,
                call,
            } => {
                let ticket = self.ticket(call, kind);
                Input::Read {
                    ticket,
                    session,
                    attachment,
                    read,
                }
            }
            Command::Barrier {
                session,
                attachment,
                read,
                call,
            } => {
                let ticket = self.ticket(call, kind);
                Input::Barrier {
                    ticket,
                    session,
                    attachment,
                    read,
                }
            }
            Command::Membership { request, call } => {
                self.shared.telling.membership_asked(&request);
                let ticket = self.ticket(call, kind);
                Input::Membership { ticket, request }
            }
            Command::Freeze { call } => {
                if self.backups.len() < BACKUPS_MAX {
                    self.backups.push_back(call);
                } else {
                    let full = Error::Overloaded {
                        queue: "backups",
                        limit: BACKUPS_MAX,
                    };
                    self.shared.fail(call, kind, full);
                }
                return;
            }
            Command::Abandon(Abandoned {
                session,
                attachment,
                abandonment,
            }) => {
                let ticket = self.ticket(Call::new().0, kind);
                Input::Abandon {
                    ticket,
                    session,
                    attachment,
                    abandonment,
                }
            }
            Command::Stop => return self.stop_because("it was shut down", Cause::Wanted),
            Command::Touch {
                session,
                attachment,
            } => Input::Touch {
                session,
                attachment,
            },
        };
        self.replica.handle(input, now);
    }

    fn on_done(&mut self, done: Done, now: Now) {
        let telling = &self.shared.telling;
        let input = match done {
            Done::Persisted { number, written } => {
                telling.wrote(written);
                Input::Persisted { number }
            }
            Done::Compacted { index } => return telling.compacted(index),
            Done::SnapshotTaken {
                meta,
                published,
                bytes,
                took,
            } => {
                telling.snapshot_taken(meta.index, published, bytes, took);
                Input::SnapshotTaken { meta, published }
            }
            Done::SnapshotRead {
                transfer,
                offset,
                piece,
            } => Input::SnapshotRead {
                transfer,
                offset,
                piece,
            },
            Done::SnapshotStaged {
                transfer,
                offset,
                outcome,
                took,
            } => {
                if let Staged::Whole(received) = &outcome {
                    telling.snapshot_received(received.meta.index, offset, took);
                }
                Input::SnapshotStaged {
                    transfer,
                    offset,
                    outcome,
                }
            }
            Done::Failed(error) => {
                telling.storage_failed(&error);
                return self.stop_because(&error.to_string(), Cause::Failure);
            }
        };
        self.replica.handle(input, now);
    }

    fn carry_out(&mut self, output: Output) {
        // A worker whose queue is gone has failed, and its report says why.
        match output {
            Output::Send { to, lane, payload } => {
                let message = Message::new(self.cluster, self.id, to, payload);
                let meters = &self.shared.telling.meters;
                meters.sent(lane as usize, message.encoded_len());
                self.transport.send(message.with_lane(lane));
            }
            Output::Write {
                number,
                publish,
                batch,
            } => {
                let _ = self.queues.writes.send(WriteJob::Write {
                    number,
                    publish,
                    batch,
                });
            }
            Output::Compact { index } => {
                let _ = self.queues.writes.send(WriteJob::Compact { index });
            }
            Output::ReadSnapshot(read) => {
                let _ = self.queues.snapshots.send(SnapshotJob::Read(read));
            }
            Output::EndRead { transfer } => {
                let _ = self
                    .queues
                    .snapshots
                    .send(SnapshotJob::EndRead { transfer });
            }
            Output::StageSnapshot(stage) => {
                let _ = self.queues.snapshots.send(SnapshotJob::Stage(stage));
            }
            Output::Welcome { to, payload } => {
                let nobodys = ClusterId(0);
                self.transport
                    .send(Message::new(nobodys, self.id, to, payload));
            }
            Output::Fail(Failure::Removed) => self.stop(&Error::Removed, Cause::Wanted),
            Output::Fail(failure) => {
                if let Failure::Storage(error) = &failure {
                    self.shared.telling.storage_failed(error);
                }
                self.stop_because(&failure.to_string(), Cause::Failure);
            }
        }
    }

    /// Events first, then the tree, then the answers: nobody reads a change, or is told that it was
    /// made, before its watchers have it in their queues. A read that sets a watch comes between the
    /// changes that it has seen and those that it hasn't.
    fn settle(&mut self, effects: Effects) {
        for notice in &effects.notices {
            self.shared.telling.noticed(notice);
        }
        if effects.is_empty() {
            return;
        }
        let mut opened = BTreeMap::new();
        {
            let shared = self.shared.clone();
            let mut table = shared.watches.lock();
            let differing;
            let mut unfired = if effects.replaced {
                // Comes to the present state, which the changes since the snapshot are part of.
                let asked = self.paths_asked(&effects.answers);
                differing = differences(&table, asked, shared.reader(), self.replica.state());
                Unfired::compared(&differing)
            } else {
                Unfired::applied(&effects.changes)
            };
            for (ticket, answer) in &effects.answers {
                if let Some(call) = self.calls.get(ticket.0 as usize) {
                    if let Some((watch, read)) = call.watch_set(answer) {
                        unfired.fire_through(read, &mut table, &may_hear(self.replica.state()));
                        table.add(&watch.queue, &watch.path, watch.kind, read);
                    }
                    if let Some(asked) = call.asked()
                        && let Some(session) = self.begin_session(asked, answer, &mut table)
                    {
                        let node = shared.clone();
                        let handle = SessionHandle::untaken(node, session, asked.untaken);
                        opened.insert(*ticket, handle);
                    }
                }
            }
            unfired.fire_rest(&mut table, &may_hear(self.replica.state()));
            self.replica.publish();
            for change in &effects.sessions {
                self.tell_session(change, &mut table);
            }
        }
        for event in effects.events {
            self.shared.telling.happened(&event);
            self.shared.events.tell(event.into());
        }
        let now = Stopwatch::start();
        for (ticket, answer) in effects.answers {
            let call = self.calls.remove(ticket.0 as usize);
            if let Some(kind) = call.kind() {
                self.shared.tell_answer(&call, kind, answer.error(), now);
            }
            match opened.remove(&ticket) {
                None => call.answer(answer),
                Some(handle) => call.give(Value::Session(handle)),
            }
        }
    }

    /// What the watches that these answers set are on.
    fn paths_asked(&self, answers: &[(Ticket, Answer)]) -> Vec<ZnodePath> {
        let watches = answers.iter().filter_map(|(ticket, answer)| {
            let (watch, _) = self.calls.get(ticket.0 as usize)?.watch_set(answer)?;
            Some(watch.path.clone())
        });
        watches.collect()
    }

    /// Begins to write a snapshot, if one is due, or has it hastened. All that is applied is published by now.
    fn take_snapshot(&mut self) {
        if !self.stopped
            && !self.backups.is_empty()
            && let Some((meta, frozen)) = self.replica.freeze()
            && let Some(call) = self.backups.pop_front()
        {
            let zxid = self.replica.state().zxid();
            let now = Stopwatch::start();
            self.shared.tell_answer(&call, CallKind::Backup, None, now);
            call.give(Value::Frozen(Box::new(FrozenState { meta, zxid, frozen })));
        }
        if !self.stopped
            && let Some((meta, frozen)) = self.replica.take_due_snapshot()
        {
            let job = SnapshotJob::Take { meta, frozen };
            let _ = self.queues.snapshots.send(job);
        }
        if !self.stopped && self.replica.hastens_snapshot() {
            let _ = self.queues.snapshots.send(SnapshotJob::Hasten);
        }
    }

    fn tell_session(&mut self, change: &crate::replica::SessionChange, table: &mut WatchTable) {
        let Some(session) = self.sessions.get(&change.session) else {
            return;
        };
        if session.attachment != change.attachment {
            return;
        }
        session.set(change.event, table);
        // When the node stops that says it all.
        if !self.stopped {
            let telling = &self.shared.telling;
            telling.session_changed(change.session, change.event);
        }
        if !matches!(
            change.event,
            SessionEvent::Certain { .. } | SessionEvent::Suspended
        ) {
            self.sessions.remove(&change.session);
        }
    }

    /// A session is attached here from now on. It hears of its end from then on, also where that
    /// came in the same turn.
    fn begin_session(
        &mut self,
        asked: Asked,
        answer: &Answer,
        table: &mut WatchTable,
    ) -> Option<Arc<SessionShared>> {
        let &Answer::Session {
            id,
            attachment,
            timeout_ms,
            certain_until,
        } = answer
        else {
            return None;
        };
        let Asked {
            password, keeper, ..
        } = asked;
        self.shared.telling.session_opened(id, timeout_ms);
        let session =
            SessionShared::new(id, password, attachment, timeout_ms, certain_until, keeper);
        if let Some(before) = self.sessions.insert(id, session.clone()) {
            before.set(SessionEvent::Moved, table);
            let telling = &self.shared.telling;
            telling.session_changed(id, SessionEvent::Moved);
        }
        Some(session)
    }

    /// What others may know of this node.
    fn report(&mut self, now: Now) {
        if self.stopped {
            return;
        }
        let replica = &self.replica;
        let status = replica.consensus_status();
        let is_member = replica.is_member();
        let role = match status.role {
            crate::consensus::Role::Leader => Role::Leader,
            crate::consensus::Role::Candidate => Role::Candidate,
            _ if !is_member => Role::Joining,
            crate::consensus::Role::Learner => Role::Learner,
            _ => Role::Follower,
        };
        self.tell_changes(role, status.term);
        let replica = &self.replica;
        let status = replica.consensus_status();
        let seldom = now.monotonic >= self.next_seldom_report;
        if seldom {
            self.next_seldom_report = now.monotonic + SELDOM;
        }
        let depths = self.queue_depths();
        self.shared.update_status(|shown| {
            let mut moved = false;
            let news = (shown.role, shown.term) != (role, status.term);
            shown.role = role;
            shown.term = status.term;
            shown.leader = status.leader;
            shown.commit_index = status.commit;
            shown.applied_index = replica.applied_index();
            shown.zxid = replica.state().zxid();
            shown.znodes = replica.state().znodes_count();
            shown.rules = replica.state().rules().number();
            shown.data_bytes = replica.state().data_bytes();
            shown.soft_quota_exceeded = replica.state().soft_quota_exceeded();
            shown.sessions = replica.state().sessions_count();
            shown.sessions_attached = replica.sessions_attached();
            let settings = replica.state().settings();
            shown.session_timeouts_ms = (
                settings.session_timeout_min_ms,
                settings.session_timeout_max_ms,
            );
            let configuration = replica.configuration();
            let changed = shown.voters != configuration.voters
                || shown.learners != configuration.learners
                || shown.is_joint == configuration.voters_outgoing.is_empty();
            if changed {
                shown.voters.clone_from(&configuration.voters);
                shown.learners.clone_from(&configuration.learners);
                shown.is_joint = !configuration.voters_outgoing.is_empty();
            }
            // How far each one is takes a look at every one of them: not at each turn.
            if seldom || changed || news {
                let members = Members::from(configuration.clone());
                let members = members.statuses(replica);
                moved = shown.members != members;
                shown.members = members;
            }
            shown.queues = depths;
            moved
        });
        if seldom {
            let mut table = self.shared.watches.lock();
            table.report_missed();
            let watches = table.len();
            drop(table);
            self.shared.update_status(|shown| {
                shown.watches = watches;
                if observe::ON {
                    self.shared.telling.measured(shown);
                }
                false
            });
        }
    }

    /// Tells of what has changed since it was last looked at.
    fn tell_changes(&mut self, role: Role, term: u64) {
        let rules = self.replica.state().rules().number();
        let (role_before, rules_before) = std::mem::replace(&mut self.told, (role, rules));
        if role != role_before {
            let telling = &self.shared.telling;
            telling.role_changed(role_before, role, term);
        }
        if rules != rules_before {
            self.shared.telling.rules_changed(rules);
        }
    }
}

/// Whose watcher may hear of a change of a znode with such an ACL, by what is applied.
fn may_hear(state: &State) -> impl Fn(&WatchQueue, &[Acl]) -> bool + '_ {
    |queue, acl| match queue.stranger() {
        Some(stranger) => may_read(&stranger.identities(), acl),
        None => state.may_read(queue.session(), acl),
    }
}

//! How a simulation goes on: from one event to the next.

use std::cmp::Reverse;
use std::time::Duration;

use super::invariants::{Invariants, Turn};
use super::machine::{Machine, NAME, NotStarted, Process, Worked, voters_of};
use super::repair;
use super::trace::TraceDetail;
use super::world::Order;
use super::{FaultKind, JoinsLater, Simulation};
use crate::clock::Clock as _;
use crate::consensus::Role;
use crate::node::{Node, NodeHandle};
use crate::testing::history::Change;
use crate::testing::oracle::Violation;
use crate::transport::Message;

/// The longest time that a message takes while the network is well.
const MESSAGE: Duration = Duration::from_micros(500);
/// The longest time that a disk takes while it is well.
const WRITE: Duration = Duration::from_micros(400);
/// More than a disk can be at.
pub(super) const ALL_STEPS: u64 = 1 << 40;
/// Messages under way; one more is lost.
const UNDER_WAY_MAX: usize = 200_000;

/// Something that happens at a moment.
pub(super) struct Scheduled {
    pub(super) at: Duration,
    /// What is planned first for a moment happens first.
    number: u64,
    pub(super) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Scheduled) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub(super) enum Event {
    Deliver(Message),
    /// A node's transport notices that its connection with another is broken.
    Disconnected {
        node: u64,
        peer: u64,
    },
    Start(u64),
    Resume(u64),
    Mend(u64),
    /// A fault strikes, if faults haven't changed since.
    Fault {
        kind: FaultKind,
        epoch: u64,
    },
}

impl Simulation {
    pub(super) fn plan(&mut self, at: Duration, event: Event) {
        self.next_number += 1;
        let number = self.next_number;
        self.events.push(Reverse(Scheduled { at, number, event }));
    }

    /// Goes to the next moment at which anything happens, `end` at the latest.
    pub(super) fn step(&mut self, end: Duration) {
        self.run_tasks();
        let before = self.now();
        let mut next = end;
        if let Some(Reverse(scheduled)) = self.events.peek() {
            next = next.min(scheduled.at);
        }
        if let Some(((at, _), _)) = self.world.shared.timers.borrow().first_key_value() {
            next = next.min(*at);
        }
        for machine in self.machines.values() {
            if let Some(at) = machine.next(before) {
                next = next.min(at);
            }
        }
        let now = next.max(before);
        self.time.set(now);
        while let Some(Reverse(scheduled)) = self.events.peek()
            && scheduled.at <= now
            && let Some(Reverse(scheduled)) = self.events.pop()
        {
            self.happen(scheduled.event);
        }
        self.wake_sleepers(now);
        let due: Vec<u64> = self
            .machines
            .values()
            .filter(|machine| machine.next(now).is_some_and(|at| at <= now))
            .map(|machine| machine.id)
            .collect();
        for id in due {
            self.work(id);
        }
        self.run_tasks();
    }

    fn wake_sleepers(&mut self, now: Duration) {
        loop {
            let mut timers = self.world.shared.timers.borrow_mut();
            let Some(first) = timers.first_entry().filter(|entry| entry.key().0 <= now) else {
                return;
            };
            let waker = first.remove();
            drop(timers);
            waker.wake();
        }
    }

    /// Lets tasks run until none is ready.
    pub(super) fn run_tasks(&mut self) {
        loop {
            let spawned = std::mem::take(&mut *self.world.shared.spawned.borrow_mut());
            for (node, work) in spawned {
                if node.is_none_or(|node| self.world.node(node).is_some()) {
                    self.executor.spawn(node, work);
                }
            }
            self.carry_out_orders();
            let machines = &self.machines;
            let stands_still = |node: u64| {
                machines
                    .get(&node)
                    .is_some_and(|machine| machine.paused_until.is_some())
            };
            if !self.executor.run_one(stands_still) {
                break;
            }
        }
        self.look_at_guards();
    }

    fn carry_out_orders(&mut self) {
        let orders = std::mem::take(&mut *self.world.shared.orders.borrow_mut());
        for order in orders {
            match order {
                Order::Join(id) => {
                    if self.machines.contains_key(&id) {
                        self.end_process(id, ALL_STEPS, Process::Down);
                    }
                    self.add_machine(id, JoinsLater::Yes);
                    self.world
                        .shared
                        .nodes
                        .borrow_mut()
                        .entry(id)
                        .or_default()
                        .removed = false;
                    self.start_node(id);
                }
                Order::CutOff(id, time) => self.cut_off_for(id, time),
                Order::Retire(id) => {
                    self.end_process(id, ALL_STEPS, Process::Removed);
                    self.world
                        .shared
                        .nodes
                        .borrow_mut()
                        .entry(id)
                        .or_default()
                        .retired = true;
                }
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(message) => {
                let (from, to) = (message.from().as_u64(), message.to().as_u64());
                if self.wire.reaches(from, to)
                    && let Some(inbox) = self.wire.inbox(to)
                {
                    inbox.deliver(message);
                }
            }
            Event::Disconnected { node, peer } => {
                if let Some(inbox) = self.wire.inbox(node) {
                    inbox.disconnected(super::wire::node_id(peer));
                }
            }
            Event::Start(id) => self.start_node(id),
            Event::Resume(id) => {
                let now = self.now();
                if let Some(machine) = self.machines.get_mut(&id)
                    && machine.paused_until.is_some_and(|until| until <= now)
                {
                    machine.paused_until = None;
                    self.note(&format!("node {id} goes on"));
                    self.executor.resume();
                }
            }
            Event::Mend(cut) => {
                self.wire.mend(cut);
                self.note(&format!("cut {cut} is mended"));
            }
            Event::Fault { kind, epoch } if epoch == self.faults_epoch => self.strike(kind),
            Event::Fault { .. } => {}
        }
    }

    /// Something for the reader of the trace and of the history.
    pub(super) fn note(&mut self, text: &str) {
        let now = self.now();
        self.trace.note(now, text);
        self.world.recorder().note(text);
    }

    // ---- Processes ----------------------------------------------------------------------------

    /// Starts a node's process, if there is none.
    pub(super) fn start_node(&mut self, id: u64) {
        let retired = |view: &super::world::NodeView| view.retired;
        if self
            .world
            .shared
            .nodes
            .borrow()
            .get(&id)
            .is_some_and(retired)
        {
            return;
        }
        let now = self.now();
        let seed = self.boot_random.number();
        let base = self
            .boot_random
            .between(Duration::ZERO, Duration::from_secs(600));
        let others: Vec<u64> = self
            .machines
            .keys()
            .copied()
            .filter(|&other| other != id)
            .collect();
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        if !matches!(machine.process, Process::Down) {
            return;
        }
        machine.clock.reboot(base);
        let builder = Node::builder(id)
            .cluster(NAME)
            .tick(Duration::from_millis(20))
            .election_ticks(10)
            .session_timeouts(Duration::from_millis(500), Duration::from_secs(40))
            .reap_interval(Duration::from_secs(5));
        let builder = (self.configure)(builder);
        let builder = match machine.joins {
            true => builder.join(others.iter().copied()),
            false => builder.voters(self.founders.iter().copied()),
        };
        let started = machine.start(builder, &self.wire, others, now, seed);
        let flipped = machine.disk.flipped;
        match started {
            Ok(()) if matches!(machine.process, Process::Joining(_)) => {
                self.note(&format!("node {id} asks to join"));
            }
            Ok(()) => {
                self.note(&format!("node {id} starts"));
                self.show(id);
                self.damage.take_if(|(damaged, _)| *damaged == id);
                if let Some(program) = self.program.clone() {
                    drop(self.world.spawn_on(id, program(self.world(), id)));
                }
            }
            Err(NotStarted::Storage(reason)) if flipped => {
                machine.process = Process::Damaged;
                self.note(&format!("node {id} refuses to start: {reason}"));
                self.replace(id, repair::Membership::Member);
            }
            Err(NotStarted::Storage(reason)) => {
                machine.disk.kill();
                self.note(&format!("node {id} can't start: {reason}"));
                self.plan(now + Duration::from_secs(1), Event::Start(id));
            }
            Err(NotStarted::Unexpected(reason)) => {
                let line = format!("node {id}: {reason}");
                self.broken(&Violation::new(
                    "a node can't start on its own disk",
                    [line],
                ));
            }
        }
    }

    /// Has a node replaced whose disk is lost, or that was removed.
    fn replace(&mut self, id: u64, membership: repair::Membership) {
        let lock = self.damage.take_if(|(damaged, _)| *damaged == id);
        let lock = lock.map(|(_, lock)| lock);
        drop(
            self.world
                .spawn(repair::repair(self.world(), id, membership, lock)),
        );
    }

    /// Tells tasks that a node's process is there, or no more.
    fn show(&mut self, id: u64) {
        let handle = self
            .machines
            .get(&id)
            .and_then(Machine::up)
            .map(|up| NodeHandle::on(up.parts.shared.clone()));
        self.world
            .shared
            .nodes
            .borrow_mut()
            .entry(id)
            .or_default()
            .handle = handle;
    }

    /// A node's process is gone, with all tasks in it; its disk comes `steps` operations further.
    pub(super) fn end_process(&mut self, id: u64, steps: u64, then: Process) {
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let up = machine.up().is_some();
        if up {
            self.executor.drop_tasks_of(id);
            let node = super::wire::node_id(id);
            self.world.recorder().node_ended(node);
        }
        machine.end(&self.wire, steps, then);
        // What it had sent is on its way.
        self.carry(id);
        self.show(id);
    }

    // ---- Work ---------------------------------------------------------------------------------

    /// Lets a machine do what is due.
    fn work(&mut self, id: u64) {
        let now = self.now();
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let slow = machine.slow_until > now;
        let random = &mut self.disk_random;
        let latency = || {
            let most = if slow {
                Duration::from_millis(300)
            } else {
                WRITE
            };
            random.between(Duration::from_micros(20), most)
        };
        if matches!(machine.process, Process::Joining(_)) {
            match machine.ask(&self.wire, now) {
                Ok(false) => {}
                Ok(true) => self.start_node(id),
                Err(error) => {
                    let line = format!("node {id}: {error}");
                    self.broken(&Violation::new("a node may not join", [line]));
                }
            }
            return self.carry(id);
        }
        let worked = machine.work(now, latency);
        self.carry(id);
        self.observe(id, &worked);
        if let Some(reason) = worked.stopped {
            self.on_stopped(id, &reason);
        }
    }

    fn on_stopped(&mut self, id: u64, reason: &str) {
        self.note(&format!("node {id} stops: {reason}"));
        let now = self.now();
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let removed = machine
            .up()
            .is_some_and(|up| up.parts.shared.status().role == crate::node::Role::Removed);
        if removed {
            self.end_process(id, 0, Process::Removed);
            self.world
                .shared
                .nodes
                .borrow_mut()
                .entry(id)
                .or_default()
                .removed = true;
            // A request to remove it that was repeated may come after it has joined again.
            if !self.world.members_are_changing() {
                self.replace(id, repair::Membership::Removed);
            }
            return;
        }
        if machine.disk.excuse.is_none() {
            let line = format!("node {id}: {reason}");
            self.broken(&Violation::new(
                "a node stops though nothing was wrong with it",
                [line],
            ));
        }
        self.end_process(id, 0, Process::Down);
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.disk.kill();
        }
        let pause = self
            .boot_random
            .between(Duration::from_millis(200), Duration::from_secs(3));
        self.plan(now + pause, Event::Start(id));
    }

    /// Takes what was sent onto the wire.
    fn carry(&mut self, id: u64) {
        let now = self.now();
        for message in self.wire.take_sent() {
            self.messages += 1;
            let to = message.to().as_u64();
            let checksum = u64::from(crc32fast::hash(message.payload()));
            self.trace
                .add(TraceDetail::Everything, now, &[id, to, checksum], || {
                    let length = message.payload().len();
                    format!("node {id} sends {length} bytes to {to}, checksum {checksum:08x}")
                });
            let random = &mut self.network_random;
            let has = |kind| self.faults.contains(kind);
            let lost = has(FaultKind::Loss) && random.one_in(20);
            let twice = has(FaultKind::Duplication) && random.one_in(20);
            for kind in [(FaultKind::Loss, lost), (FaultKind::Duplication, twice)] {
                if kind.1 {
                    self.counts.count(kind.0);
                }
            }
            for _ in 0..u8::from(!lost) + u8::from(twice) {
                let random = &mut self.network_random;
                let most = match self.faults.contains(FaultKind::Delay) {
                    false => MESSAGE,
                    true if random.one_in(200) => {
                        self.counts.count(FaultKind::Delay);
                        Duration::from_secs(3)
                    }
                    true => Duration::from_millis(20),
                };
                let delay = random.between(Duration::from_micros(30), most);
                if self.events.len() < UNDER_WAY_MAX {
                    self.plan(now + delay, Event::Deliver(message.clone()));
                }
            }
        }
    }

    // ---- What is seen -------------------------------------------------------------------------

    fn check(&self, check: Result<(), Violation>) {
        if let Err(violation) = check {
            self.broken(&violation);
        }
    }

    /// Holds what a node has done against the invariants, and writes down what became of the tree.
    fn observe(&mut self, id: u64, worked: &Worked) {
        let check = self.invariants.on_appended(id, &worked.appended);
        self.check(check);
        if !worked.turned {
            return;
        }
        self.turns += 1;
        let now = self.now();
        let Some(machine) = self.machines.get_mut(&id) else {
            return;
        };
        let boot = machine.boots;
        let Process::Up(up) = &mut machine.process else {
            return;
        };
        let witness = up.parts.driver.replica_mut().take_witness();
        let mut voters = up.voters.clone();
        let disks = self
            .machines
            .iter()
            .map(|(&id, machine)| (id, &machine.disk.promised))
            .collect();
        let Some(machine) = self.machines.get(&id) else {
            return;
        };
        let Some(up) = machine.up() else {
            return;
        };
        let replica = up.parts.driver.replica();
        let clock = machine.clock.now().monotonic;
        let (certain, core_members) = (replica.certain_sessions(), replica.core_configuration());
        let state = replica.state();
        let status = replica.consensus_status();
        voters.extend(voters_of(replica.configuration()));
        let may_have_changed =
            !witness.changes.is_empty() || !witness.ended.is_empty() || witness.skipped.is_some();
        let (mut owners, mut sessions) = (Vec::new(), Vec::new());
        if may_have_changed {
            owners = state.ephemeral_owners();
            sessions.extend(state.sessions().map(|(id, _)| id));
        }
        // A digest takes a walk through the tree.
        let digest = (!witness.writes.is_empty() && state.zxid().0.is_multiple_of(64))
            .then(|| state.digest());
        let turn = Turn {
            node: id,
            boot,
            clock,
            joined_as_of: machine.joined_as_of,
            stall: replica.stall(),
            role: status.role,
            term: status.term,
            commit: status.commit,
            last_index: status.last_index,
            applied_index: replica.applied_index(),
            zxid: state.zxid(),
            voters: &voters,
            members: replica.configuration(),
            core_members: &core_members,
            entries: &witness.entries,
            writes: &witness.writes,
            tree_digest: state.tree_digest(),
            digest,
            owners: &owners,
            sessions: &sessions,
            certain: &certain,
            expired: &witness.expired,
            proposed_to_expire: &witness.proposed_to_expire,
            disks: &disks,
            queues: up.parts.driver.queue_depths(),
        };
        let (term, commit, zxid) = (turn.term, turn.commit, turn.zxid);
        let leads = turn.role == Role::Leader;
        let role = turn.role;
        let check = Invariants::on_turn(&mut self.invariants, &turn);
        self.check(check);
        self.trace.add(
            TraceDetail::Everything,
            now,
            &[id, role as u64, term, commit, zxid.0],
            || format!("node {id} turns: {role:?} of term {term}, commit {commit}, zxid {zxid}"),
        );
        if leads && self.leader != Some((id, term)) {
            self.leader = Some((id, term));
            self.note(&format!("node {id} leads term {term}"));
        }
        self.record(id, witness);
    }

    fn record(&mut self, id: u64, witness: crate::replica::Witness) {
        let node = super::wire::node_id(id);
        if let Some((from, to)) = witness.skipped {
            self.world.recorder().skipped(node, from, to);
            self.note(&format!("node {id} goes from {from} to {to} by a snapshot"));
        }
        if !witness.changes.is_empty() {
            let changes = witness.changes.into_iter().map(|(change, owner)| {
                Change::new(change.zxid, change.kind, change.path.as_str(), owner)
            });
            self.world.recorder().applied(node, changes);
        }
        for (session, zxid) in witness.ended {
            self.world.recorder().session_ended(session, Some(zxid));
            let now = self.now();
            self.trace
                .add(TraceDetail::Notable, now, &[id, zxid.0], || {
                    format!("node {id} applies the end of session {session} as {zxid}")
                });
        }
    }

    fn look_at_guards(&mut self) {
        let mut guards = self.world.shared.guards.borrow_mut();
        if guards.is_empty() {
            return;
        }
        guards.retain(|observed| observed.guard.strong_count() > 0);
        let mut held = Vec::new();
        let mut check = Ok(());
        for observed in guards.iter_mut() {
            if std::mem::take(&mut observed.is_new) {
                let grown = self.invariants.on_guard(&observed.lock, observed.token);
                check = check.and(grown);
            }
            if let Some(guard) = observed.guard.upgrade()
                && guard.is_held()
            {
                held.push((&observed.lock[..], observed.token));
            }
        }
        let check = check.and_then(|()| self.invariants.on_held(&held));
        drop(guards);
        self.check(check);
    }
}

//! Faults: when they strike, and what they do. Each kind draws from chance of its own, so that one kind
//! more or less leaves the others where they were.

use std::time::Duration;

use super::clock::RATE_MAX_PPM;
use super::machine::{Process, voters_of};
use super::random::Random;
use super::running::{ALL_STEPS, Event};
use super::wire::between;
use super::{FaultKind, Faults, Simulation};

const MILLISECOND: Duration = Duration::from_millis(1);

/// In how many steps of its disk a process is, at most, when it ends.
const STEPS_MAX: u64 = 8;

/// What becomes of what a process has written and not synced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unsynced {
    Stays,
    MayBeLost,
}

/// What faults do, and what a test may do by hand.
impl Simulation {
    /// From now on these faults strike, and no others. What is broken stays so: see
    /// [`Simulation::heal`].
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults_epoch += 1;
        self.faults = faults;
        let kinds: Vec<_> = self
            .faults
            .kinds()
            .filter(|kind| !kind.is_weather())
            .collect();
        for kind in kinds {
            self.plan_fault(kind);
        }
    }

    fn plan_fault(&mut self, kind: FaultKind) {
        let pause = self.faults.pause * 2;
        let pause = self.chance(kind).between(Duration::ZERO, pause);
        let epoch = self.faults_epoch;
        self.plan(self.now() + pause, Event::Fault { kind, epoch });
    }

    fn chance(&mut self, kind: FaultKind) -> &mut Random {
        self.fault_randoms
            .entry(kind)
            .or_insert_with(|| Random::new(0))
    }

    /// No faults from now on: everybody reaches everybody, goes on, and is started where it is down.
    /// Nodes whose disks are lost are replaced, which takes a while. Clocks stay as they are.
    pub fn heal(&mut self) {
        self.set_faults(Faults::none());
        self.note("all faults are healed");
        self.wire.mend_all();
        for id in self.ids() {
            self.resume(id);
            if let Some(machine) = self.machines.get_mut(&id) {
                machine.disk.heal();
                machine.slow_until = Duration::ZERO;
            }
            self.start_node(id);
        }
    }

    /// The nodes that there are machines for, up or not, sorted.
    pub fn ids(&self) -> Vec<u64> {
        self.machines.keys().copied().collect()
    }

    /// The node that believes to lead the highest term.
    pub fn leader(&self) -> Option<u64> {
        let statuses = self.machines.values().filter_map(|machine| {
            let status = machine.up()?.parts.driver.replica().consensus_status();
            (status.role == crate::consensus::Role::Leader).then_some((status.term, machine.id))
        });
        statuses.max().map(|(_, id)| id)
    }

    /// Kills a node's process, in the middle of whatever it is at. It stays down until
    /// [`Simulation::restart`]; what it has written stays.
    pub fn crash(&mut self, id: u64) {
        let steps = self.chance(FaultKind::Crash).below(STEPS_MAX);
        self.end(id, steps, Unsynced::Stays);
    }

    /// Takes the power from a node's machine: of what was not synced any part may be lost.
    pub fn lose_power(&mut self, id: u64) {
        let steps = self.chance(FaultKind::PowerLoss).below(STEPS_MAX);
        self.end(id, steps, Unsynced::MayBeLost);
    }

    fn end(&mut self, id: u64, steps: u64, unsynced: Unsynced) {
        self.end_process(id, steps, Process::Down);
        let random = self
            .fault_randoms
            .entry(FaultKind::PowerLoss)
            .or_insert_with(|| Random::new(0));
        if let Some(machine) = self.machines.get_mut(&id) {
            match unsynced {
                Unsynced::Stays => machine.disk.kill(),
                Unsynced::MayBeLost => machine.disk.lose_power(random),
            }
        }
    }

    /// Starts a node that is down.
    pub fn restart(&mut self, id: u64) {
        self.start_node(id);
    }

    /// Lets a node's process stand still, as SIGSTOP does, with the tasks in it.
    pub fn pause(&mut self, id: u64) {
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.paused_until = Some(Duration::MAX);
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self, id: u64) {
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.paused_until = None;
        }
        self.executor.resume();
    }

    /// Nothing gets from one node to the other any more, until [`Simulation::reconnect`].
    pub fn cut(&mut self, from: u64, to: u64) {
        self.next_number += 1;
        self.wire.cut(self.next_number, [(from, to)]);
    }

    /// Cuts a node off from all others, until [`Simulation::reconnect`].
    pub fn isolate(&mut self, id: u64) {
        self.next_number += 1;
        let others: Vec<_> = self
            .ids()
            .into_iter()
            .filter(|&other| other != id)
            .collect();
        self.wire.cut(self.next_number, between(&[id], &others));
    }

    pub(super) fn cut_off_for(&mut self, id: u64, time: Duration) {
        self.isolate(id);
        let cut = self.next_number;
        self.note(&format!("node {id} is cut off, by cut {cut}"));
        self.plan(self.now() + time, Event::Mend(cut));
    }

    /// Everybody reaches everybody.
    pub fn reconnect(&mut self) {
        self.wire.mend_all();
    }

    // ---- By chance ----------------------------------------------------------------------------

    /// A fault of this kind strikes, and the next one is planned.
    pub(super) fn strike(&mut self, kind: FaultKind) {
        if self.do_harm(kind) {
            self.counts.count(kind);
        }
        self.plan_fault(kind);
    }

    /// False where there was nothing to harm.
    fn do_harm(&mut self, kind: FaultKind) -> bool {
        let ids = self.live();
        if ids.is_empty() {
            return false;
        }
        let now = self.now();
        let random = self.chance(kind);
        let id = *random.pick(&ids);
        match kind {
            FaultKind::OneWay => {
                let other = *random.pick(&ids);
                let long = random.between(MILLISECOND * 100, MILLISECOND * 3_000);
                other != id && self.cut_for(kind, vec![(id, other)], long)
            }
            FaultKind::Partition | FaultKind::Bridge => self.part(kind, &ids),
            FaultKind::Disconnection => {
                let peer = *random.pick(&ids);
                self.plan(now, Event::Disconnected { node: id, peer });
                peer != id
            }
            FaultKind::Crash | FaultKind::PowerLoss => {
                // Now and then all at once, as where a data centre goes dark.
                let all = random.one_in(10);
                for id in ids.into_iter().filter(|&other| all || other == id) {
                    self.crash_for_a_while(kind, id);
                }
                true
            }
            FaultKind::Pause => {
                let long = random.between(MILLISECOND * 50, MILLISECOND * 8_000);
                self.pause_for(id, now + long)
            }
            FaultKind::ClockDrift => {
                let rate = random.below(2 * RATE_MAX_PPM as u64 + 1) as i64 - RATE_MAX_PPM;
                self.note(&format!("node {id}'s clock is off by {rate} ppm"));
                self.machines.get(&id).is_some_and(|machine| {
                    machine.clock.set_rate(rate);
                    true
                })
            }
            FaultKind::WallClockJump => {
                let by_ms = random.below(2 * 86_400_000) as i64 - 86_400_000;
                self.note(&format!("node {id}'s wall clock jumps by {by_ms} ms"));
                self.machines.get(&id).is_some_and(|machine| {
                    machine.clock.jump(by_ms);
                    true
                })
            }
            FaultKind::FlippedBit => self.flip_bit(id),
            _ => self.harm_disk(kind, id),
        }
    }

    /// Those whose processes are there, or will be.
    fn live(&self) -> Vec<u64> {
        let gone = |process: &Process| matches!(process, Process::Removed | Process::Damaged);
        let machines = self.machines.values();
        let live = machines.filter(|machine| !gone(&machine.process));
        live.map(|machine| machine.id).collect()
    }

    fn cut_for(&mut self, kind: FaultKind, pairs: Vec<(u64, u64)>, long: Duration) -> bool {
        self.next_number += 1;
        let cut = self.next_number;
        self.note(&format!("{kind}: cut {cut} parts {pairs:?}"));
        self.wire.cut(cut, pairs);
        self.plan(self.now() + long, Event::Mend(cut));
        true
    }

    fn part(&mut self, kind: FaultKind, ids: &[u64]) -> bool {
        let random = self.chance(kind);
        let long = random.between(MILLISECOND * 200, MILLISECOND * 5_000);
        let mut groups = [Vec::new(), Vec::new()];
        let mut shuffled = ids.to_vec();
        for place in (1..shuffled.len()).rev() {
            shuffled.swap(place, random.index(place + 1));
        }
        let bridge = (kind == FaultKind::Bridge)
            .then(|| shuffled.pop())
            .flatten();
        if shuffled.len() < 2 {
            return false;
        }
        let first = 1 + random.index(shuffled.len() - 1);
        groups[0].extend(&shuffled[..first]);
        groups[1].extend(&shuffled[first..]);
        for group in &mut groups {
            group.extend(bridge);
        }
        self.cut_for(kind, between(&groups[0], &groups[1]), long)
    }

    fn crash_for_a_while(&mut self, kind: FaultKind, id: u64) {
        let peers = self.ids();
        let now = self.now();
        let random = self.chance(kind);
        let steps = random.below(STEPS_MAX);
        let long = random.between(Duration::ZERO, MILLISECOND * 3_000);
        // A process that dies closes its connections; a machine without power doesn't.
        let noticed = kind == FaultKind::Crash && random.one_in(2);
        self.note(&format!("{kind}: node {id} ends"));
        let unsynced = match kind {
            FaultKind::PowerLoss => Unsynced::MayBeLost,
            _ => Unsynced::Stays,
        };
        self.end(id, steps, unsynced);
        for node in peers.into_iter().filter(|&peer| noticed && peer != id) {
            self.plan(now + MILLISECOND, Event::Disconnected { node, peer: id });
        }
        self.plan(now + long, Event::Start(id));
    }

    fn pause_for(&mut self, id: u64, until: Duration) -> bool {
        let Some(machine) = self.machines.get_mut(&id) else {
            return false;
        };
        if machine.up().is_none() {
            return false;
        }
        machine.paused_until = machine.paused_until.max(Some(until));
        self.note(&format!("pause: node {id} stands still"));
        self.plan(until, Event::Resume(id));
        true
    }

    fn harm_disk(&mut self, kind: FaultKind, id: u64) -> bool {
        let now = self.now();
        let random = self.chance(kind);
        let long = random.between(MILLISECOND * 500, MILLISECOND * 5_000);
        let left_bytes = random.below(32 << 10);
        let Some(machine) = self.machines.get_mut(&id) else {
            return false;
        };
        if machine.up().is_none() || machine.disk.excuse.is_some() {
            return false;
        }
        let harmed = match kind {
            FaultKind::SlowDisk => {
                machine.slow_until = now + long;
                true
            }
            FaultKind::FailedWrite => machine.disk.fail(0, "a write fails"),
            FaultKind::FailedSync => machine.disk.fail(1, "a sync fails"),
            FaultKind::FullDisk => machine.disk.fill_up(left_bytes),
            _ => false,
        };
        if harmed {
            self.note(&format!("{kind}: node {id}'s disk"));
        }
        harmed
    }

    /// Only where all others' disks are sound and enough of them are left to go on without this one.
    fn flip_bit(&mut self, id: u64) -> bool {
        let sound = |(other, machine): (&u64, &super::Machine)| {
            let whole = matches!(machine.process, Process::Up(_) | Process::Down);
            *other == id || (whole && !machine.disk.flipped)
        };
        let best = self.machines.values().filter_map(|machine| {
            let replica = machine.up()?.parts.driver.replica();
            Some((replica.applied_index(), voters_of(replica.configuration())))
        });
        let Some((_, voters)) = best.max_by_key(|(index, _)| *index) else {
            return false;
        };
        let enough = voters.len() == 1 && voters[0].len() >= 3 && voters[0].contains(&id);
        let up = self
            .machines
            .get(&id)
            .is_some_and(|machine| machine.up().is_some());
        if !enough || !up || self.damage.is_some() || !self.machines.iter().all(sound) {
            return false;
        }
        let Some(lock) = self.world.try_members_lock() else {
            return false;
        };
        // Killed, not without power: then the fence remembers all that was acknowledged.
        self.end(id, ALL_STEPS, Unsynced::Stays);
        let now = self.now();
        let random = self
            .fault_randoms
            .entry(FaultKind::FlippedBit)
            .or_insert_with(|| Random::new(0));
        let flipped = self
            .machines
            .get_mut(&id)
            .is_some_and(|machine| machine.disk.flip_bit(random));
        self.note(&format!("flipped-bit: node {id}'s disk"));
        self.damage = flipped.then_some((id, lock));
        self.plan(now + MILLISECOND * 300, Event::Start(id));
        flipped
    }
}

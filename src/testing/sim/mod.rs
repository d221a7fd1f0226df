//! A whole cluster in one thread, from one seed: the production code of all floors through
//! `Driver::turn`, with a virtual clock, a network that loses, repeats, delays and reorders, disks that
//! are slow, and nodes that crash at any step.
//!
//! Time moves from one event to the next. Everything random comes from the seed, so that the same seed
//! gives the same trace.

mod checks;
mod scenarios;
mod workload;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::clock::{Clock, Now};
use crate::ids::NodeId;
use crate::node::snapshotter::Snapshotter;
use crate::node::workers::{self, Done, SnapshotJob, WriteJob, Written};
use crate::node::{Assembly, Node, NodeBuilder, NodeShared};
use crate::storage::Memory;
use crate::transport::{Inbox, Local, Message, Transport, TransportError};

/// What can go wrong, and how often.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// One message in so many is lost; 0: none.
    pub lose: u32,
    /// One message in so many comes twice; 0: none.
    pub repeat: u32,
    /// The longest time that a message takes, in microseconds; different times reorder.
    pub delay_us: u64,
    /// The longest time that a sync takes, in microseconds.
    pub sync_us: u64,
    /// The mean time between two crashes, in milliseconds; 0: none.
    pub crash_ms: u64,
    /// The mean time between two partitions, in milliseconds; 0: none.
    pub partition_ms: u64,
}

impl Faults {
    pub(super) const NONE: Faults = Faults {
        lose: 0,
        repeat: 0,
        delay_us: 500,
        sync_us: 200,
        crash_ms: 0,
        partition_ms: 0,
    };

    pub(super) const ALL: Faults = Faults {
        lose: 20,
        repeat: 20,
        delay_us: 20_000,
        sync_us: 10_000,
        crash_ms: 3_000,
        partition_ms: 2_000,
    };
}

/// The virtual time, shared with every node's clock.
#[derive(Clone, Default)]
struct SimClock(Arc<Mutex<Duration>>);

impl Clock for SimClock {
    fn now(&self) -> Now {
        let monotonic = *self.0.lock();
        Now {
            monotonic,
            wall_ms: 1_600_000_000_000 + monotonic.as_millis() as i64,
        }
    }
}

/// Messages sent since the simulation last looked, and whom they may reach.
#[derive(Default)]
struct Wire {
    sent: Vec<Message>,
    inboxes: BTreeMap<NodeId, Arc<dyn Inbox>>,
}

#[derive(Clone)]
struct Endpoint {
    id: NodeId,
    wire: Arc<Mutex<Wire>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({})", self.id)
    }
}

impl Transport for Endpoint {
    fn start(&self, _: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.wire.lock().inboxes.insert(self.id, inbox);
        Ok(())
    }

    fn send(&self, message: Message) {
        self.wire.lock().sent.push(message);
    }

    fn stop(&self) {
        self.wire.lock().inboxes.remove(&self.id);
    }
}

/// A node that is up.
struct Up {
    parts: Assembly,
    snapshotter: Snapshotter,
    /// Jobs that the disk works on, and when each is done.
    writes: std::collections::VecDeque<(Duration, WriteJob)>,
    snapshots: std::collections::VecDeque<(Duration, SnapshotJob)>,
    next_turn: Duration,
    /// Stopped by a signal: its threads stand still, its memory stays.
    paused: bool,
}

impl Up {
    fn report(&self, done: Done) {
        let reports = &self.parts.reports;
        reports.report(done).expect("its driver is there");
    }
}

/// What happens at a moment.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Deliver(u64),
    Crash,
    Restart(u64),
    Partition,
    Heal,
}

type Configure = fn(NodeBuilder) -> NodeBuilder;

/// See the module's text.
pub(super) struct Sim {
    pub rng: SmallRng,
    faults: Faults,
    clock: SimClock,
    wire: Arc<Mutex<Wire>>,
    nodes: BTreeMap<u64, Option<Up>>,
    disks: BTreeMap<u64, Memory>,
    configure: Configure,
    happenings: BinaryHeap<Reverse<(Duration, u64, Happening)>>,
    /// Messages under way, by the number in their happening.
    under_way: BTreeMap<u64, Message>,
    /// Pairs that can't reach each other, one way.
    cut: Vec<(NodeId, NodeId)>,
    next_number: u64,
    starts: u32,
    /// A running hash of everything that happened: equal for equal seeds.
    pub trace: u64,
}

impl Sim {
    pub(super) fn new(seed: u64, nodes: u64, faults: Faults, configure: Configure) -> Sim {
        let mut sim = Sim {
            rng: SmallRng::seed_from_u64(seed),
            faults,
            clock: SimClock::default(),
            wire: Arc::default(),
            nodes: (1..=nodes).map(|id| (id, None)).collect(),
            disks: (1..=nodes).map(|id| (id, Memory::new())).collect(),
            configure,
            happenings: BinaryHeap::new(),
            under_way: BTreeMap::new(),
            cut: Vec::new(),
            next_number: 0,
            starts: 0,
            trace: 0,
        };
        for id in 1..=nodes {
            sim.start(id);
        }
        sim.schedule_faults();
        sim
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
        self.schedule_faults();
    }

    pub(super) fn now(&self) -> Duration {
        *self.clock.0.lock()
    }

    pub(super) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// What a client of node `id` uses; `None` while the node is down.
    pub(super) fn node(&self, id: u64) -> Option<Arc<NodeShared>> {
        Some(self.nodes[&id].as_ref()?.parts.shared.clone())
    }

    /// The node that believes to lead the highest term.
    pub(super) fn leader(&self) -> Option<u64> {
        self.up()
            .map(|(id, up)| (up.parts.shared.status(), id))
            .filter(|(status, _)| status.role == crate::Role::Leader)
            .max_by_key(|(status, _)| status.term)
            .map(|(_, id)| id)
    }

    fn up(&self) -> impl Iterator<Item = (u64, &Up)> {
        self.nodes
            .iter()
            .filter_map(|(id, up)| Some((*id, up.as_ref()?)))
    }

    pub(super) fn driver(&self, id: u64) -> &crate::node::driver::Driver {
        &self.nodes[&id].as_ref().expect("it is up").parts.driver
    }

    pub(super) fn is_up(&self, id: u64) -> bool {
        self.nodes[&id].is_some()
    }

    fn start(&mut self, id: u64) {
        self.starts += 1;
        let endpoint = Endpoint {
            id: NodeId::new(id).unwrap(),
            wire: self.wire.clone(),
        };
        let builder = Node::builder(id)
            .voters(self.ids())
            .storage(self.disks[&id].clone())
            .transport(endpoint)
            .clock(self.clock.clone())
            .seed(self.rng.r#gen())
            .boot_nonce(self.starts);
        let parts = (self.configure)(builder)
            .assemble()
            .expect("a node starts from its own disk");
        let clock = Arc::new(self.clock.clone());
        let snapshotter = Snapshotter::new(parts.storage.clone(), clock);
        let up = Up {
            parts,
            snapshotter,
            writes: Default::default(),
            snapshots: Default::default(),
            next_turn: self.now(),
            paused: false,
        };
        self.nodes.insert(id, Some(up));
    }

    /// The node is gone at once; what its disk had not synced is lost, and so is what it knew.
    pub(super) fn crash(&mut self, id: u64) {
        if let Some(up) = self.nodes.insert(id, None).flatten() {
            up.parts.transport.stop();
            // Its clients' calls end with the process that they were in.
            drop(up);
        }
    }

    /// Stops a node's threads, as SIGSTOP does, or lets them go on.
    pub(super) fn pause(&mut self, id: u64, paused: bool) {
        let up = self.nodes.get_mut(&id).and_then(Option::as_mut);
        up.expect("it is up").paused = paused;
    }

    pub(super) fn restart(&mut self, id: u64) {
        if !self.is_up(id) {
            self.start(id);
        }
    }

    /// Nothing passes from `from` to `to` any more.
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.cut
            .push((NodeId::new(from).unwrap(), NodeId::new(to).unwrap()));
    }

    pub(super) fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            if other != id {
                self.cut(id, other);
                self.cut(other, id);
            }
        }
    }

    /// No faults from now on: everybody is up and reaches everybody.
    pub(super) fn heal(&mut self) {
        self.faults = Faults::NONE;
        self.cut.clear();
        for id in self.ids() {
            self.restart(id);
        }
    }

    pub(super) fn reconnect(&mut self) {
        self.cut.clear();
    }

    fn at(&mut self, at: Duration, happening: Happening) {
        self.next_number += 1;
        self.happenings
            .push(Reverse((at, self.next_number, happening)));
    }

    fn schedule_faults(&mut self) {
        let now = self.now();
        if self.faults.crash_ms > 0 {
            let pause = self.rng.gen_range(0..self.faults.crash_ms * 2);
            self.at(now + Duration::from_millis(pause), Happening::Crash);
        }
        if self.faults.partition_ms > 0 {
            let pause = self.rng.gen_range(0..self.faults.partition_ms * 2);
            self.at(now + Duration::from_millis(pause), Happening::Partition);
        }
    }

    /// Goes on until `end`, calling `each` after every step.
    pub(super) fn run_until(&mut self, end: Duration, mut each: impl FnMut(&mut Sim)) {
        while self.now() < end {
            self.step(end);
            each(self);
        }
    }

    /// Goes on until the condition holds, at most for `most`.
    pub(super) fn run_while(
        &mut self,
        most: Duration,
        mut condition: impl FnMut(&mut Sim) -> bool,
    ) {
        let end = self.now() + most;
        while condition(self) {
            assert!(self.now() < end, "nothing has come of it after {most:?}");
            self.step(end);
        }
    }

    /// The next moment at which anything happens.
    fn step(&mut self, end: Duration) {
        let mut next = end;
        if let Some(Reverse((at, _, _))) = self.happenings.peek() {
            next = next.min(*at);
        }
        for (_, up) in self.up().filter(|(_, up)| !up.paused) {
            let disk = up.writes.front().map(|(at, _)| *at);
            let snapshots = up.snapshots.front().map(|(at, _)| *at);
            for at in [Some(up.next_turn), disk, snapshots].into_iter().flatten() {
                next = next.min(at);
            }
            if up.parts.driver.has_work() {
                next = self.now();
            }
        }
        let now = next.max(self.now());
        *self.clock.0.lock() = now;
        while let Some(Reverse((at, _, _))) = self.happenings.peek()
            && *at <= now
        {
            let Reverse((_, _, happening)) = self.happenings.pop().expect("it was just seen");
            self.happen(happening);
        }
        for id in self.ids() {
            self.work(id);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver(number) => {
                let message = self.under_way.remove(&number).expect("delivered once");
                let inbox = self.wire.lock().inboxes.get(&message.to()).cloned();
                if !self.cut.contains(&(message.from(), message.to()))
                    && let Some(inbox) = inbox
                {
                    inbox.deliver(message);
                }
            }
            Happening::Crash if self.faults.crash_ms > 0 => {
                let id = self.pick();
                self.crash(id);
                let pause = self.rng.gen_range(0..3_000);
                self.at(
                    self.now() + Duration::from_millis(pause),
                    Happening::Restart(id),
                );
                let pause = self.rng.gen_range(0..self.faults.crash_ms * 2);
                self.at(self.now() + Duration::from_millis(pause), Happening::Crash);
            }
            Happening::Restart(id) => self.restart(id),
            Happening::Partition if self.faults.partition_ms > 0 => {
                let (a, b) = (self.pick(), self.pick());
                match self.rng.gen_range(0..3) {
                    0 => self.isolate(a),
                    _ => self.cut(a, b),
                }
                let pause = self.rng.gen_range(0..2_000);
                self.at(self.now() + Duration::from_millis(pause), Happening::Heal);
            }
            Happening::Heal => {
                self.cut.clear();
                if self.faults.partition_ms > 0 {
                    let pause = self.rng.gen_range(0..self.faults.partition_ms * 2);
                    self.at(
                        self.now() + Duration::from_millis(pause),
                        Happening::Partition,
                    );
                }
            }
            Happening::Crash | Happening::Partition => {}
        }
    }

    pub(super) fn pick(&mut self) -> u64 {
        let ids = self.ids();
        ids[self.rng.gen_range(0..ids.len())]
    }

    /// Lets a node's disk and loop do what is due.
    fn work(&mut self, id: u64) {
        let now = self.now();
        let Some(Some(up)) = self.nodes.get_mut(&id) else {
            return;
        };
        if up.paused {
            return;
        }
        while up.writes.front().is_some_and(|(at, _)| *at <= now) {
            let (_, job) = up.writes.pop_front().expect("it was just seen");
            let storage = &up.parts.storage;
            match job {
                WriteJob::Write {
                    number,
                    publish,
                    batch,
                } => {
                    workers::write(storage, publish, &batch).expect("the disk is sound");
                    // The virtual clock stands still meanwhile.
                    let written = Written {
                        entries: batch.entries.len(),
                        bytes: 0,
                        took: Duration::ZERO,
                    };
                    up.report(Done::Persisted { number, written });
                }
                WriteJob::Compact { index } => storage.compact(index).expect("the disk is sound"),
            }
        }
        while up.snapshots.front().is_some_and(|(at, _)| *at <= now) {
            let (_, job) = up.snapshots.pop_front().expect("it was just seen");
            if let Some(done) = up.snapshotter.run(job) {
                up.report(done);
            }
        }
        if up.next_turn <= now || up.parts.driver.has_work() {
            let runs = up.parts.driver.turn(self.clock.now());
            assert!(
                runs,
                "node {id} has stopped: {:?}",
                up.parts.shared.status().stopped
            );
            up.next_turn = up
                .parts
                .driver
                .next_turn()
                .max(now + Duration::from_micros(1));
            let zxid = up.parts.driver.state().zxid().0;
            for seen in [now.as_nanos() as u64, id, zxid] {
                self.trace = mix(self.trace, &seen.to_be_bytes());
            }
        }
        if up.writes.is_empty() {
            // Whatever has come while the disk was busy shares one sync.
            let done_at = now + Duration::from_micros(self.rng.gen_range(0..=self.faults.sync_us));
            up.writes
                .extend(up.parts.writes.try_iter().map(|job| (done_at, job)));
        }
        for job in up.parts.snapshots.try_iter() {
            let delay = self.rng.gen_range(0..=self.faults.sync_us);
            let after = up.snapshots.back().map_or(now, |(at, _)| *at);
            up.snapshots
                .push_back((after.max(now) + Duration::from_micros(delay), job));
        }
        self.carry();
    }

    /// Takes what was sent onto the wire.
    fn carry(&mut self) {
        let sent = std::mem::take(&mut self.wire.lock().sent);
        for message in sent {
            let lost = self.faults.lose > 0 && self.rng.gen_ratio(1, self.faults.lose);
            let twice = self.faults.repeat > 0 && self.rng.gen_ratio(1, self.faults.repeat);
            for _ in 0..u8::from(!lost) + u8::from(twice) {
                let delay = self.rng.gen_range(0..=self.faults.delay_us);
                self.next_number += 1;
                let number = self.next_number;
                self.under_way.insert(number, message.clone());
                let at = self.now() + Duration::from_micros(delay);
                self.happenings
                    .push(Reverse((at, number, Happening::Deliver(number))));
            }
            let seen = (message.from().as_u64() << 8) + message.to().as_u64();
            self.trace = mix(self.trace, &seen.to_be_bytes());
        }
    }
}

/// FNV-1a, continued.
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

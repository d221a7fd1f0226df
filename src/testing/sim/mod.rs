//! A whole cluster in one thread, from one seed: for hosts that test their own coordination code under
//! faults, and for this crate's own tests.
//!
//! The nodes are production code, turned by [`Simulation`] instead of by their threads. Time is virtual and
//! moves from one event to the next, so that a minute takes a moment; the network, the disks and the clocks
//! are simulated, and fail as [`Faults`] says. Everything random follows from the seed: the same seed gives
//! the same trace, byte for byte, so that what was found once is found again.
//!
//! # How to test a host's code
//! It is async code, spawned by [`Simulation::spawn`] (somebody outside the cluster, who outlives every
//! crash), [`Simulation::spawn_on`] or [`Simulation::program`] (inside a node's process, with which it
//! stands still and ends). It opens sessions on [`World::node`] as on a [`crate::Node`]; sessions, watchers
//! and recipes are what they are in production. But nothing may block: a `wait` for an answer would wait
//! for ever, as the cluster only goes on while the simulation does. Await instead, and sleep by
//! [`World::sleep`]. What reads real clocks, draws from the operating system's randomness, or has its order
//! from a `std` hash map makes the simulation differ from run to run.
//!
//! ```
//! use std::time::Duration;
//! use quorate::testing::sim::{Faults, Simulation};
//! use quorate::{CreateMode, recipes::Lock};
//!
//! let mut simulation = Simulation::builder(7).nodes(3).faults(Faults::network()).start();
//! let world = simulation.world();
//! let acquired = simulation.spawn(async move {
//!     let (_, node) = world.any_node().await;
//!     let session = node.session().open().await?;
//!     let guard = Lock::new(&session, "/locks/printer").acquire().await?;
//!     world.sleep(Duration::from_millis(200)).await;
//!     guard.release().await
//! });
//! simulation.wait(acquired).expect("it was no node's")?;
//! # Ok::<(), quorate::Error>(())
//! ```
//!
//! # What is checked
//! After every turn of every node, the invariants of Raft and of the tree: one leader in a term, logs that
//! match, no committed entry missing at a later leader or not durable on a majority, equal states, no
//! write twice, no ephemeral without its session, no two guards of a lock. A breach panics, and names the
//! seed. What clients see is judged by the [oracles](super::oracle), if it is recorded with
//! [`World::recorder`]. The [`workloads`] do so; the example `simulate` runs them for as long as one likes.
//!
//! # What is not simulated
//! Threads: a node's loop, its writer and its readers never run at the same time. Bytes on a wire: peers
//! hand each other whole messages. Slow processors: a turn takes ten microseconds.

mod clock;
mod disk;
mod executor;
mod faults;
mod injection;
mod invariants;
mod machine;
mod random;
mod repair;
mod running;
#[cfg(test)]
mod scenarios;
mod trace;
mod wire;
pub mod workloads;
mod world;

use std::collections::{BTreeMap, BinaryHeap};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

pub use disk::Store;
pub use executor::Task;
pub use faults::{FaultCounts, FaultKind, Faults};
pub use random::Random;
pub use trace::TraceDetail;
pub use world::{MemberChange, MembersLock, Sleep, World};

use clock::{NodeClock, TrueTime};
use disk::Disk;
use executor::Executor;
use invariants::Invariants;
use machine::{Machine, Process};
use running::Scheduled;
use trace::Trace;
use wire::Wire;

use crate::node::NodeBuilder;
use crate::testing::history::FinalZnode;
use crate::testing::oracle::Violation;

/// How long [`Simulation::wait`] lets the cluster go on before it gives up.
const PATIENCE: Duration = Duration::from_secs(600);

type Configure = Rc<dyn Fn(NodeBuilder) -> NodeBuilder>;
type Program = Rc<dyn Fn(World, u64) -> Pin<Box<dyn Future<Output = ()>>>>;

/// Makes a [`Simulation`].
#[must_use = "nothing happens before `start`"]
pub struct SimulationBuilder {
    seed: u64,
    nodes: u64,
    faults: Faults,
    store: Store,
    detail: TraceDetail,
    configure: Configure,
}

impl std::fmt::Debug for SimulationBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulationBuilder")
            .field("seed", &self.seed)
            .field("nodes", &self.nodes)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl SimulationBuilder {
    /// With how many voters the cluster begins, whose ids count from 1: 3 unless told.
    pub fn nodes(mut self, nodes: u64) -> SimulationBuilder {
        self.nodes = nodes.max(1);
        self
    }

    /// What goes wrong from the beginning: nothing unless told.
    pub fn faults(mut self, faults: Faults) -> SimulationBuilder {
        self.faults = faults;
        self
    }

    /// What the nodes store their log in: [`crate::storage::Log`] on simulated files unless told, where
    /// the feature `log` is there.
    pub fn store(mut self, store: Store) -> SimulationBuilder {
        self.store = store;
        self
    }

    /// How much of the trace is kept as text: nothing unless told.
    pub fn trace(mut self, detail: TraceDetail) -> SimulationBuilder {
        self.detail = detail;
        self
    }

    /// Sets options of every node, each time that it starts. Storage, transport, clock, voters and
    /// randomness are the simulation's; it begins with a tick of 20 ms, an election timeout of 10 ticks,
    /// and sessions of half a second and more.
    pub fn configure(
        mut self,
        configure: impl Fn(NodeBuilder) -> NodeBuilder + 'static,
    ) -> SimulationBuilder {
        self.configure = Rc::new(configure);
        self
    }

    /// Starts the nodes, at the beginning of time.
    pub fn start(self) -> Simulation {
        let time = TrueTime::default();
        let random = |purpose| Random::of(self.seed, purpose);
        let mut simulation = Simulation {
            world: World::new(time.clone(), random(1)),
            network_random: random(2),
            disk_random: random(3),
            boot_random: random(4),
            fault_randoms: FaultKind::ALL
                .iter()
                .map(|&kind| (kind, random(100 + kind as u64)))
                .collect(),
            seed: self.seed,
            founders: (1..=self.nodes).collect(),
            configure: self.configure,
            store: self.store,
            time,
            wire: Wire::default(),
            machines: BTreeMap::new(),
            executor: Executor::default(),
            program: None,
            events: BinaryHeap::new(),
            next_number: 0,
            faults: Faults::none(),
            faults_epoch: 0,
            counts: FaultCounts::default(),
            damage: None,
            invariants: Invariants::default(),
            leader: None,
            turns: 0,
            messages: 0,
            trace: Trace::new(self.detail),
        };
        for id in 1..=self.nodes {
            simulation.add_machine(id, JoinsLater::No);
        }
        for id in 1..=self.nodes {
            simulation.start_node(id);
        }
        simulation.set_faults(self.faults);
        simulation
    }
}

/// How a machine's node begins on an empty disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JoinsLater {
    /// As one of the first voters.
    No,
    /// By asking the others.
    Yes,
}

/// A simulated cluster: see the module's text.
pub struct Simulation {
    seed: u64,
    world: World,
    founders: Vec<u64>,
    configure: Configure,
    store: Store,
    time: TrueTime,
    wire: Wire,
    machines: BTreeMap<u64, Machine>,
    executor: Executor,
    program: Option<Program>,
    /// What happens when, the next on top.
    events: BinaryHeap<std::cmp::Reverse<Scheduled>>,
    next_number: u64,
    faults: Faults,
    /// Counts the changes of `faults`: what was planned under others doesn't happen.
    faults_epoch: u64,
    counts: FaultCounts,
    /// Held from the damage of a disk until its node has started again or was replaced.
    damage: Option<(u64, MembersLock)>,
    network_random: Random,
    disk_random: Random,
    boot_random: Random,
    fault_randoms: BTreeMap<FaultKind, Random>,
    invariants: Invariants,
    /// The last leader that was seen, and its term.
    leader: Option<(u64, u64)>,
    turns: u64,
    messages: u64,
    trace: Trace,
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("seed", &self.seed)
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

/// All of these panic when an invariant is broken: the text names the seed, the time, and what was seen.
impl Simulation {
    /// Begins to make a simulation, all of whose chance follows from `seed`.
    pub fn builder(seed: u64) -> SimulationBuilder {
        SimulationBuilder {
            seed,
            nodes: 3,
            faults: Faults::none(),
            store: Store::default(),
            detail: TraceDetail::default(),
            configure: Rc::new(|builder| builder),
        }
    }

    /// What tasks see of the simulation.
    pub fn world(&self) -> World {
        self.world.clone()
    }

    /// The time since the beginning.
    pub fn now(&self) -> Duration {
        self.time.get()
    }

    // ---- Tasks --------------------------------------------------------------------------------

    /// [`World::spawn`].
    pub fn spawn<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.world.spawn(future)
    }

    /// [`World::spawn_on`].
    pub fn spawn_on<T: 'static>(
        &mut self,
        node: u64,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        self.world.spawn_on(node, future)
    }

    /// Runs a host's program in the process of every node, from now on and whenever one starts: it is
    /// given the node's id.
    pub fn program<F: Future<Output = ()> + 'static>(
        &mut self,
        program: impl Fn(World, u64) -> F + 'static,
    ) {
        let program: Program = Rc::new(move |world, id| Box::pin(program(world, id)));
        for id in self.world.nodes() {
            let work = program(self.world(), id);
            drop(self.world.spawn_on(id, work));
        }
        self.program = Some(program);
    }

    // ---- Time ---------------------------------------------------------------------------------

    /// Lets the cluster go on until the future is there: an answer, a task, or any other.
    ///
    /// # Panics
    /// When that takes longer than ten minutes of the simulation's time.
    pub fn wait<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let end = self.now() + PATIENCE;
        loop {
            self.run_tasks();
            if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            if self.now() >= end {
                self.give_up(PATIENCE);
            }
            self.step(end);
        }
    }

    /// Lets the cluster go on for so long.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now() + time;
        while self.now() < end {
            self.step(end);
        }
        self.run_tasks();
    }

    /// Lets the cluster go on until the condition holds, which is asked after every event.
    ///
    /// # Panics
    /// When that takes longer than `most`.
    pub fn run_until(&mut self, most: Duration, mut condition: impl FnMut(&World) -> bool) {
        let end = self.now() + most;
        let world = self.world();
        while !condition(&world) {
            if self.now() >= end {
                self.give_up(most);
            }
            self.step(end);
        }
    }

    fn give_up(&self, most: Duration) -> ! {
        let lines = self
            .machines
            .values()
            .map(|machine| match &machine.process {
                Process::Up(up) => format!("{:?}", up.parts.shared.status()),
                Process::Down => format!("node {} is down", machine.id),
                Process::Joining(_) => format!("node {} joins", machine.id),
                Process::Damaged => format!("node {}'s disk is damaged", machine.id),
                Process::Removed => format!("node {} was removed", machine.id),
            });
        self.broken(&Violation::new(
            "nothing has come of it",
            std::iter::once(format!("after {most:?}")).chain(lines),
        ))
    }

    /// A promise is broken.
    fn broken(&self, violation: &Violation) -> ! {
        panic!("seed {}, at {:?}: {violation}", self.seed, self.now())
    }

    // ---- What was seen ------------------------------------------------------------------------

    /// How often each kind of fault has struck.
    pub fn faults_injected(&self) -> &FaultCounts {
        &self.counts
    }

    /// How many turns nodes have made, and how many messages they have sent.
    pub fn turns_and_messages(&self) -> (u64, u64) {
        (self.turns, self.messages)
    }

    /// A number of everything that has happened: the same in every run of a seed.
    pub fn trace_number(&self) -> u64 {
        self.trace.number()
    }

    /// What has happened, one line each, as far as it was to be kept: [`SimulationBuilder::trace`].
    pub fn trace(&self) -> &str {
        self.trace.text()
    }

    /// Asserts that all nodes that have applied the same hold the same, and that each tree is sound.
    pub fn check_replicas(&self) {
        let mut digests = BTreeMap::new();
        for machine in self.machines.values() {
            let Some(up) = machine.up() else { continue };
            let state = up.parts.driver.replica().state();
            if let Err(flaw) = state.check_invariants() {
                let line = format!("node {}: {flaw}", machine.id);
                self.broken(&Violation::new("a tree is not sound", [line]));
            }
            let (zxid, digest) = (state.zxid(), state.digest());
            let (first, known) = *digests.entry(zxid).or_insert((machine.id, digest));
            if known != digest {
                let line = format!("nodes {first} and {} differ at zxid {zxid}", machine.id);
                self.broken(&Violation::new("replicas have diverged", [line]));
            }
        }
    }

    /// The whole tree as the node has it that has applied the most, without the system's part of it.
    pub fn tree(&self) -> BTreeMap<String, FinalZnode> {
        let states = self.machines.values().filter_map(|machine| {
            let state = machine.up()?.parts.driver.replica().state();
            Some((state.zxid(), state))
        });
        let Some((_, state)) = states.max_by_key(|(zxid, _)| *zxid) else {
            return BTreeMap::new();
        };
        let znodes = state.walk().filter(|znode| {
            let path = znode.path.as_str();
            path != "/" && path != "/zookeeper" && !path.starts_with("/zookeeper/")
        });
        znodes
            .map(|znode| {
                let found = FinalZnode::new(&znode.data[..], znode.stat());
                (znode.path.as_str().to_string(), found)
            })
            .collect()
    }

    // ---- Machines -----------------------------------------------------------------------------

    fn add_machine(&mut self, id: u64, joins: JoinsLater) {
        let base = self.boot_random.between(Duration::ZERO, PATIENCE);
        // A node that begins anew on another disk has been started before.
        let boots = self.machines.get(&id).map_or(0, |before| before.boots);
        let machine = Machine {
            id,
            disk: Disk::new(self.store),
            clock: NodeClock::new(self.time.clone(), base),
            process: Process::Down,
            boots,
            joins: joins == JoinsLater::Yes,
            joined_as_of: None,
            slow_until: Duration::ZERO,
            paused_until: None,
        };
        self.machines.insert(id, machine);
    }
}

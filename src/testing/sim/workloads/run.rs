//! A plan, carried out.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::super::clock::DRIFT_DIVISOR;
use super::super::{Faults, Simulation, World};
use super::client::{Pace, Person, Script, live, prepare};
use super::{
    Failure, Plan, Report, Workload, absences, bank, compare_and_set, ephemerals, locks,
    membership, mixed, registers, sequential, snapshots, watchers,
};
use crate::node::NodeBuilder;
use crate::testing::history::{Bounds, PhaseKind, Recorder};
use crate::testing::oracle;

const SECOND: Duration = Duration::from_secs(1);

/// How long after the last fault everybody must be answered.
const RECOVERY: Duration = Duration::from_secs(15);
/// How long after its timeout a session may live when nothing is wrong any more.
const EXPIRY: Duration = Duration::from_secs(6);
/// How long after the last fault the replacement of a node may go on.
const REPLACED: Duration = Duration::from_secs(60);

impl Workload {
    fn script(self) -> Script {
        match self {
            Workload::Registers | Workload::Membership => registers::step,
            Workload::CompareAndSet => compare_and_set::step,
            Workload::Bank => bank::step,
            Workload::Sequential => sequential::step,
            Workload::Ephemerals => ephemerals::step,
            Workload::Locks => locks::step,
            Workload::Watchers => watchers::step,
            Workload::Snapshots => snapshots::step,
            Workload::Absences => absences::step,
            Workload::Mixed => mixed::step,
        }
    }

    fn pace(self) -> Pace {
        match self {
            Workload::Absences => absences::PACE,
            _ => Pace::default(),
        }
    }

    fn configure(self) -> fn(NodeBuilder) -> NodeBuilder {
        match self {
            Workload::Snapshots | Workload::Absences | Workload::Mixed => snapshots::configure,
            _ => |builder| builder,
        }
    }

    /// What is there before anything goes wrong.
    fn znodes(self) -> Vec<(String, String)> {
        let parents = [
            "/r", "/c", "/bank", "/q", "/e", "/w", "/big", "/locks", "/fenced",
        ];
        let mut znodes: Vec<_> = parents.map(|path| (path.to_string(), String::new())).into();
        let zeros = registers::PATHS.iter().chain(&locks::FENCED);
        znodes.extend(zeros.map(|path| (path.to_string(), "0".to_string())));
        znodes.extend(["/big/0", "/big/1"].map(|path| (path.to_string(), "0".to_string())));
        let accounts = bank::ACCOUNTS.iter();
        znodes.extend(accounts.map(|path| (path.to_string(), bank::BEGINNING.to_string())));
        znodes
    }

    fn changes_members(self) -> bool {
        matches!(self, Workload::Membership | Workload::Mixed)
    }
}

impl Plan {
    /// Carries it out, and has what clients saw judged.
    ///
    /// # Errors
    /// What was found: the first broken promise.
    pub fn run(&self) -> Result<Report, Box<Failure>> {
        let mut simulation = Simulation::builder(self.seed)
            .nodes(self.nodes)
            .store(self.store)
            .trace(self.trace)
            .configure(self.workload.configure())
            .start();
        let recorder = simulation.world().recorder().clone();
        let carried_out = catch_unwind(AssertUnwindSafe(|| {
            self.carry_out(&mut simulation);
            let history = recorder.history();
            if let Err(violation) = oracle::check(&history) {
                panic!("seed {}: {violation}", self.seed);
            }
            let (turns, messages) = simulation.turns_and_messages();
            Report {
                ops: history
                    .calls
                    .iter()
                    .filter(|call| call.outcome.has_happened())
                    .count()
                    + history.holds.len(),
                simulated: simulation.now(),
                faults: simulation.faults_injected().clone(),
                turns,
                messages,
                trace_number: simulation.trace_number(),
                trace: simulation.trace().to_string(),
                history,
            }
        }));
        // Tasks and nodes of a run that has failed may fail again when they end.
        let ended = catch_unwind(AssertUnwindSafe(|| drop(simulation)));
        carried_out
            .and_then(|report| ended.map(|()| report))
            .map_err(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text =
                    text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
                Box::new(Failure {
                    found: text.unwrap_or_else(|| "it panicked without a word".to_string()),
                    history: recorder.history(),
                })
            })
    }

    fn carry_out(&self, simulation: &mut Simulation) {
        let world = simulation.world();
        let recorder = world.recorder().clone();
        set_bounds(&recorder);
        let stop = Rc::new(Cell::new(false));
        let first = Person::new(1_000, 1, Pace::default(), stop.clone());
        simulation.wait(prepare(world.clone(), first, self.workload.znodes()));
        let sum = bank::BEGINNING * bank::ACCOUNTS.len() as i64;
        recorder.ledger(bank::ACCOUNTS.map(str::to_string), sum);

        recorder.phase(PhaseKind::Faulty);
        simulation.set_faults(self.faults.clone());
        let people: Vec<_> = (0..self.clients)
            .map(|number| Person::new(number, self.steps, self.workload.pace(), stop.clone()))
            .collect();
        let mut tasks: Vec<_> = people
            .iter()
            .map(|person| world.spawn(live(world.clone(), person.clone(), self.workload.script())))
            .collect();
        if self.workload.changes_members() {
            let operator = membership::operate(world.clone(), self.nodes, stop.clone());
            tasks.push(world.spawn(operator));
        }
        if self.workload == Workload::Absences {
            tasks.push(world.spawn(absences::operate(world.clone(), stop.clone())));
        }
        simulation.run_for(self.faulty);

        simulation.set_faults(Faults::none());
        simulation.heal();
        recorder.phase(PhaseKind::Healed);
        stop.set(true);
        let healed = simulation.now();
        simulation.run_until(RECOVERY, |_| {
            tasks[..self.clients].iter().all(|task| task.is_finished())
        });
        let probe = Person::new(1_001, 1, Pace::default(), Rc::new(Cell::new(false)));
        let served = world.spawn(live(world.clone(), probe, registers::write));
        simulation.run_until(RECOVERY, |_| served.is_finished());
        let everything = |world: &World| {
            !world.members_are_changing() && tasks.iter().all(|task| task.is_finished())
        };
        simulation.run_until(REPLACED, everything);
        let least = healed + RECOVERY + SECOND;
        simulation.run_for(least.saturating_sub(simulation.now()));
        simulation.run_until(RECOVERY, |world| {
            let zxid = |id| world.node(id).map(|node| node.zxid());
            let zxids: Vec<_> = world.nodes().into_iter().map(zxid).collect();
            zxids.windows(2).all(|pair| pair[0] == pair[1])
        });
        simulation.check_replicas();
        // What a recipe has made was not written down.
        if self.workload != Workload::Locks {
            recorder.tree(simulation.tree());
        }
        check_fenced(&people);
    }
}

fn set_bounds(recorder: &Recorder) {
    recorder.set_bounds(Bounds {
        clock_drift_divisor: DRIFT_DIVISOR,
        expiry: EXPIRY,
        recovery: RECOVERY,
        ..Bounds::default()
    });
}

/// Writes that a lock's guard was checked in happen in the order of the tokens.
fn check_fenced(people: &[Rc<Person>]) {
    let mut writes: Vec<_> = people
        .iter()
        .flat_map(|person| person.fenced.borrow().clone())
        .collect();
    writes.sort_unstable();
    for pair in writes.windows(2) {
        let ([(lock, _, token), (other, _, later)], pair) = ([pair[0], pair[1]], pair);
        assert!(
            lock != other || token <= later,
            "a stale holder's guarded write has happened: {pair:?}"
        );
    }
}

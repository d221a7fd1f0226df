//! Workloads: clients that do one kind of thing, while faults strike, and have what they saw judged.
//!
//! A [`Plan`] says everything that a run follows from. It is run to its end by [`Plan::run`]: first without
//! faults, to make the znodes that clients share; then under faults; then the faults are healed, and the
//! cluster must serve again and answer everybody within a bounded time. The history is judged by all
//! [oracles](crate::testing::oracle).

mod absences;
mod bank;
mod client;
mod compare_and_set;
mod ephemerals;
mod locks;
mod membership;
mod mixed;
mod registers;
mod run;
mod sequential;
mod shrink;
mod snapshots;
mod watchers;

use std::fmt;
use std::time::Duration;

use super::{FaultCounts, Faults, Random, Store, TraceDetail};
use crate::testing::history::History;

pub use shrink::Shrunk;

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Workload {
    /// Sets and reads of a few znodes, pipelined and not, of every consistency.
    Registers,
    /// Conditional sets, creations and deletions of znodes that all clients want.
    CompareAndSet,
    /// Transfers between accounts by multi, and multi-reads of all of them.
    Bank,
    /// Sequential creates, listings, and deletions of the first.
    Sequential,
    /// Ephemerals that come and go with sessions that end, expire and move.
    Ephemerals,
    /// [`crate::recipes::Lock`], with guarded writes.
    Locks,
    /// Watches of every kind over znodes that change all the time.
    Watchers,
    /// Data of some size and almost no log: whoever is away catches up by snapshots.
    Snapshots,
    /// Nodes are cut off for long, with sessions and watches that may outlive that, and come back by a
    /// snapshot. Votes are taken from them before, now and then, and given back.
    Absences,
    /// Nodes join, get a vote, are replaced and removed, while registers are used.
    Membership,
    /// Everything at once.
    Mixed,
}

impl Workload {
    /// All workloads.
    pub const ALL: [Workload; 11] = [
        Workload::Registers,
        Workload::CompareAndSet,
        Workload::Bank,
        Workload::Sequential,
        Workload::Ephemerals,
        Workload::Locks,
        Workload::Watchers,
        Workload::Snapshots,
        Workload::Absences,
        Workload::Membership,
        Workload::Mixed,
    ];

    /// Its name, as the runner `simulate` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Registers => "registers",
            Workload::CompareAndSet => "compare-and-set",
            Workload::Bank => "bank",
            Workload::Sequential => "sequential",
            Workload::Ephemerals => "ephemerals",
            Workload::Locks => "locks",
            Workload::Watchers => "watchers",
            Workload::Snapshots => "snapshots",
            Workload::Absences => "absences",
            Workload::Membership => "membership",
            Workload::Mixed => "mixed",
        }
    }

    /// The workload with this name.
    pub fn from_name(name: &str) -> Option<Workload> {
        Workload::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything that a run follows from: two runs of equal plans are the same.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// What all chance follows from.
    pub seed: u64,
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong.
    pub faults: Faults,
    /// How many voters the cluster begins with.
    pub nodes: u64,
    /// What they store their log in.
    pub store: Store,
    /// How many clients there are.
    pub clients: usize,
    /// How many steps each client takes at most; a step is one call or a few.
    pub steps: usize,
    /// For how long faults strike.
    pub faulty: Duration,
    /// How much of the trace is kept.
    pub trace: TraceDetail,
}

impl Plan {
    /// A plan of this workload with all faults; the seed also decides the numbers of nodes and clients,
    /// the store, and for how long it goes.
    pub fn new(workload: Workload, seed: u64) -> Plan {
        let mut random = Random::of(seed, 5);
        let store = match random.below(5) {
            0 => Store::Memory,
            _ => Store::default(),
        };
        Plan {
            seed,
            workload,
            faults: match workload {
                // Who is away for long meets them all the same.
                Workload::Absences => Faults::all().every(Duration::from_secs(24)),
                _ => Faults::all(),
            },
            nodes: if random.one_in(4) { 5 } else { 3 },
            store,
            clients: 3 + random.index(3),
            steps: 60,
            faulty: Duration::from_secs(match workload {
                Workload::Absences => 30 + random.below(30),
                _ => 10 + random.below(15),
            }),
            trace: TraceDetail::None,
        }
    }

    /// The options of the runner `simulate` that give this plan.
    pub fn options(&self) -> String {
        let store = match self.store {
            Store::Memory => "memory",
            #[cfg(feature = "log")]
            Store::Log => "log",
        };
        format!(
            "--seed {} --workload {} --faults {} --nodes {} --store {store} --clients {} --steps {} --seconds {}",
            self.seed,
            self.workload,
            self.faults.names(),
            self.nodes,
            self.clients,
            self.steps,
            self.faulty.as_secs()
        )
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The calls that were answered with success.
    pub ops: usize,
    /// The time that was simulated.
    pub simulated: Duration,
    /// How often faults have struck.
    pub faults: FaultCounts,
    /// How many turns nodes have made.
    pub turns: u64,
    /// How many messages they have sent.
    pub messages: u64,
    /// A number of everything that has happened.
    pub trace_number: u64,
    /// The trace, as far as it was to be kept.
    pub trace: String,
    /// What clients did and saw.
    pub history: History,
}

/// What a run has found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Failure {
    /// Which promise is broken, and how it was seen.
    pub found: String,
    /// What clients did and saw until then.
    pub history: History,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.found)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_keeps_its_promises_under_all_faults_and_repeats_itself() {
        for workload in Workload::ALL {
            let plan = Plan {
                trace: TraceDetail::Everything,
                ..Plan::new(workload, 1)
            };
            let run = || match plan.run() {
                Ok(report) => report,
                Err(failure) => panic!("{}\n{failure}\n{}", plan.options(), failure.history),
            };
            let (first, second) = (run(), run());
            assert!(first.ops > 20, "{workload}: hardly anything was done");
            assert_eq!(first.trace_number, second.trace_number, "{workload}");
            assert!(first.trace == second.trace, "{workload}: the traces differ");
            assert_eq!(first.history.to_string(), second.history.to_string());
        }
    }
}

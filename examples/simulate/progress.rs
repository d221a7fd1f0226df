//! How far the runs have come, and what they have done.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use quorate::testing::sim::FaultCounts;
use quorate::testing::sim::workloads::{Plan, Report};

/// How often it is shown.
const SHOWN_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Progress {
    begun: Instant,
    runs: usize,
    sums: Mutex<Sums>,
}

#[derive(Default)]
struct Sums {
    runs: usize,
    ops: usize,
    simulated: Duration,
    turns: u64,
    faults: FaultCounts,
    workloads: BTreeMap<&'static str, usize>,
    shown: Duration,
}

impl Progress {
    pub(crate) fn new(runs: usize) -> Progress {
        Progress {
            begun: Instant::now(),
            runs,
            sums: Mutex::default(),
        }
    }

    pub(crate) fn add(&self, plan: &Plan, report: &Report) {
        let mut sums = self.sums.lock().unwrap();
        sums.runs += 1;
        sums.ops += report.ops;
        sums.simulated += report.simulated;
        sums.turns += report.turns;
        sums.faults.add(&report.faults);
        *sums.workloads.entry(plan.workload.name()).or_default() += 1;
        let elapsed = self.begun.elapsed();
        if elapsed >= sums.shown + SHOWN_EVERY {
            sums.shown = elapsed;
            println!("seed {}: {}", plan.seed, self.line(&sums));
        }
    }

    fn line(&self, sums: &Sums) -> String {
        let minutes = self.begun.elapsed().as_secs_f64() / 60.0;
        let hours = sums.simulated.as_secs_f64() / 3600.0;
        format!(
            "{} of {} runs, {:.0} a minute; {hours:.2} simulated hours, {:.2} a minute; \
             {} operations, {:.0} a minute; {} turns",
            sums.runs,
            self.runs,
            sums.runs as f64 / minutes,
            hours / minutes,
            sums.ops,
            sums.ops as f64 / minutes,
            sums.turns
        )
    }

    pub(crate) fn show_end(&self) {
        let sums = self.sums.lock().unwrap();
        println!("{}", self.line(&sums));
        println!("faults: {}", sums.faults);
        let workloads = sums.workloads.iter();
        let runs: Vec<_> = workloads
            .map(|(name, runs)| format!("{name} {runs}"))
            .collect();
        println!("clean: {}", runs.join(", "));
    }
}

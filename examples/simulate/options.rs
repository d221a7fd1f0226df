//! What the command line says.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use quorate::testing::sim::workloads::{Plan, Workload};
use quorate::testing::sim::{Faults, Store};

/// How many seeds of each workload are run unless told: a matter of seconds, also without optimisation.
const SEEDS: u64 = 2;

/// What an option changes of a plan.
type Change = Box<dyn Fn(&mut Plan)>;

/// See the program's text.
pub(crate) struct Options {
    pub(crate) one: Option<Plan>,
    pub(crate) trace: bool,
    pub(crate) jobs: usize,
    seeds: u64,
    from: u64,
    workloads: Vec<Workload>,
    faults: Option<Faults>,
    limit: Option<Duration>,
}

impl Options {
    pub(crate) fn parse(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Options, lexopt::Error> {
        let mut options = Options {
            one: None,
            trace: false,
            jobs: std::thread::available_parallelism().map_or(1, |jobs| jobs.get()),
            seeds: SEEDS,
            from: 1,
            workloads: Workload::ALL.to_vec(),
            faults: None,
            limit: None,
        };
        let mut seed = None;
        let mut changes: Vec<Change> = Vec::new();
        let mut parser = lexopt::Parser::from_args(arguments);
        while let Some(argument) = parser.next()? {
            match argument {
                Long("seeds") => options.seeds = parser.value()?.parse()?,
                Long("from") => options.from = parser.value()?.parse()?,
                Long("seed") => seed = Some(parser.value()?.parse()?),
                Long("jobs") => options.jobs = parser.value()?.parse()?,
                Long("minutes") => {
                    let minutes: u64 = parser.value()?.parse()?;
                    options.limit = Some(Duration::from_secs(60 * minutes));
                }
                Long("trace") => options.trace = true,
                Long("workload") => {
                    let name = parser.value()?.string()?;
                    let workload = Workload::from_name(&name);
                    options.workloads = vec![workload.ok_or(format!("no workload {name:?}"))?];
                }
                Long("faults") => {
                    let names = parser.value()?.string()?;
                    let faults = Faults::from_names(&names);
                    options.faults = Some(faults.ok_or(format!("no faults {names:?}"))?);
                }
                Long("nodes") => {
                    let nodes = parser.value()?.parse()?;
                    changes.push(Box::new(move |plan| plan.nodes = nodes));
                }
                Long("store") => {
                    let store = match parser.value()?.string()?.as_str() {
                        "memory" => Store::Memory,
                        _ => Store::default(),
                    };
                    changes.push(Box::new(move |plan| plan.store = store));
                }
                Long("clients") => {
                    let clients = parser.value()?.parse()?;
                    changes.push(Box::new(move |plan| plan.clients = clients));
                }
                Long("steps") => {
                    let steps = parser.value()?.parse()?;
                    changes.push(Box::new(move |plan| plan.steps = steps));
                }
                Long("seconds") => {
                    let seconds = parser.value()?.parse()?;
                    let faulty = Duration::from_secs(seconds);
                    changes.push(Box::new(move |plan| plan.faulty = faulty));
                }
                _ => return Err(argument.unexpected()),
            }
        }
        if let Some(seed) = seed {
            let mut plan = options.plan(options.workloads[0], seed);
            changes.iter().for_each(|change| change(&mut plan));
            options.one = Some(plan);
        } else if !changes.is_empty() {
            return Err("these options go with --seed".into());
        }
        Ok(options)
    }

    fn plan(&self, workload: Workload, seed: u64) -> Plan {
        let mut plan = Plan::new(workload, seed);
        if let Some(faults) = &self.faults {
            plan.faults = faults.clone().as_often_as(&plan.faults);
        }
        plan
    }

    /// Every workload with a seed before any with the next.
    pub(crate) fn plans(&self) -> impl Iterator<Item = Plan> + '_ {
        (self.from..self.from + self.seeds).flat_map(move |seed| {
            let workloads = self.workloads.iter();
            workloads.map(move |&workload| self.plan(workload, seed))
        })
    }

    pub(crate) fn is_over(&self, begun: Instant) -> bool {
        self.limit.is_some_and(|limit| begun.elapsed() > limit)
    }
}

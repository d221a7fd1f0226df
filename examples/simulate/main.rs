//! Runs simulated clusters under faults, one seed after another, and has what clients saw judged.
//!
//! ```sh
//! cargo run --release --features testing --example simulate -- --seeds 1000 --from 1
//! cargo run --release --features testing --example simulate -- --workload locks --faults network,pause
//! cargo run --release --features testing --example simulate -- --seed 17 --workload bank --trace
//! ```
//!
//! `--seeds N` how many seeds of each workload, `--from N` the first one, `--workload W` one workload
//! instead of all, `--faults F` a preset (none, network, crashes, disks, clocks, all) or kinds with commas,
//! `--jobs N` so many at a time, `--minutes N` ends after so many. `--seed N` runs one, and takes
//! `--nodes`, `--store`, `--clients`, `--steps` and `--seconds`, too, as a failure names them; `--trace`
//! shows what happens in it. Without options it runs a few seeds of each workload.
//!
//! A run that fails is made smaller, and the command is shown that repeats it. The exit code is 1 then.

mod options;
mod progress;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use options::Options;
use progress::Progress;
use quorate::testing::sim::TraceDetail;
use quorate::testing::sim::workloads::{Failure, Plan};

/// How many runs are spent on making a failure smaller.
const SHRINKING_RUNS_MAX: usize = 300;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // What a run finds is told once, and not by each of the runs that make it smaller.
    std::panic::set_hook(Box::new(|_| {}));
    match &options.one {
        Some(plan) => run_one(plan, &options),
        None => run_many(&options),
    }
}

fn run_one(plan: &Plan, options: &Options) -> ExitCode {
    let mut plan = plan.clone();
    if options.trace {
        plan.trace = TraceDetail::Notable;
    }
    println!("{}", plan.options());
    match plan.run() {
        Ok(report) => {
            if options.trace {
                println!("{}\n{}", report.history, report.trace);
            }
            println!(
                "nothing found: {} operations in {:.1} s, {} turns, {} messages, trace {:016x}\n{}",
                report.ops,
                report.simulated.as_secs_f64(),
                report.turns,
                report.messages,
                report.trace_number,
                report.faults
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            if options.trace {
                println!("{}", failure.history);
            }
            println!("FAILED: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run_many(options: &Options) -> ExitCode {
    let plans: Vec<Plan> = options.plans().collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let begun = Instant::now();
    let progress = Progress::new(plans.len());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) && !options.is_over(begun) {
                    let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    match plan.run() {
                        Ok(report) => progress.add(plan, &report),
                        // The first one is told; the others end.
                        Err(failure) if !failed.swap(true, Ordering::Relaxed) => {
                            tell(plan, *failure);
                        }
                        Err(_) => {}
                    }
                }
            });
        }
    });
    progress.show_end();
    if failed.load(Ordering::Relaxed) {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn tell(plan: &Plan, failure: Failure) {
    println!("\nFAILED: {failure}");
    println!("repeat: simulate -- {} --trace", plan.options());
    let shrunk = plan.shrink(failure, SHRINKING_RUNS_MAX);
    println!(
        "\nsmallest found in {} runs: {}\n{}",
        shrunk.runs, shrunk.failure, shrunk.failure.history
    );
    println!("repeat: simulate -- {} --trace", shrunk.plan.options());
}

//! Copies the tree of a live ZooKeeper into a quorate cluster, or back: both are spoken to by ZooKeeper's
//! protocol.
//!
//! ```sh
//! cargo run --release --example import_zookeeper -- --from zookeeper:2181 --to 127.0.0.1:2181 --counters
//! ```
//!
//! It goes through both trees at once and repairs what differs, until a whole pass finds nothing that does:
//! that pass is the proof. What it can't repair it names, and exits with 1.

mod client;
mod copying;
mod options;
mod record;

use std::error::Error;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use copying::{Copying, Progress};
use options::Options;

fn main() {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return print!("{}", options::HELP),
        Err(error) => {
            eprintln!("import_zookeeper: {error}\n\n{}", options::HELP);
            std::process::exit(2);
        }
    };
    match import(&options) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(error) => {
            eprintln!("import_zookeeper: {error}");
            std::process::exit(1);
        }
    }
}

/// Whether the trees are the same in the end.
fn import(options: &Options) -> Result<bool, Box<dyn Error>> {
    let begun = Instant::now();
    let mut said = begun;
    let quiet = options.quiet;
    let mut copying = Copying::connect(options)?;
    let outcome = copying.run(&mut |progress: &Progress| {
        if !quiet && (progress.is_last || said.elapsed() >= Duration::from_secs(1)) {
            said = Instant::now();
            let end = if std::io::stderr().is_terminal() && !progress.is_last {
                '\r'
            } else {
                '\n'
            };
            eprint!("{progress}{end}");
        }
    })?;
    for difference in &outcome.differences {
        eprintln!("differs: {difference}");
    }
    print!("{outcome}");
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    Ok(outcome.differences.is_empty())
}

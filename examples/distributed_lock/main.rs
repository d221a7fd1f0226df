//! A lock that survives its leader.
//!
//! Three nodes in one process, each with its own directory, and four contenders who take turns. Mid-way
//! the leader is stopped: the work goes on under a new one, and whoever had a session on the stopped
//! node attaches it to another. Then the stopped node comes back from its disk and catches up. At the
//! end the tree proves that no two critical sections overlapped; the program fails if it doesn't.
//!
//! `cargo run --release --example distributed_lock -- [--data DIR] [--storage log|sled|memory]`
//!
//! Without `--data` the directories are temporary. With it a second run goes on from the first's data.

mod cluster;
mod contender;
mod options;
mod proof;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use quorate::{CreateMode, Session};

use cluster::Cluster;
use contender::{Contender, Story};
use options::Options;

/// Nothing here takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

const NAMES: [&str; 4] = ["anna", "ben", "carl", "dora"];
const TURNS_EACH: u32 = 9;

fn main() -> ExitCode {
    match Options::parse().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), AnyError> {
    println!("Three nodes, keeping their data in {}", options.stores);
    let cluster = Arc::new(Cluster::start(options.stores)?);
    println!("Node {} leads.\n", cluster.leader()?);
    prepare(&cluster.open_session(1)?)?;

    let (stories, story) = mpsc::channel();
    for (name, at) in NAMES.into_iter().zip([1, 2, 3, 1]) {
        let contender = Contender::new(name, at, cluster.clone(), stories.clone())?;
        std::thread::spawn(move || contender.run(TURNS_EACH));
    }
    drop(stories);

    let turns = TURNS_EACH as usize * NAMES.len();
    tell(&story, turns / 3)?;
    let leader = cluster.leader()?;
    println!("\nStopping node {leader}, which leads.\n");
    cluster.stop(leader);
    let stopped_at = Instant::now();
    tell(&story, 1)?;
    let elected = cluster.leader()?;
    println!(
        "\nNode {elected} leads; the work went on after {:?}.\n",
        stopped_at.elapsed()
    );
    tell(&story, turns / 3)?;
    println!("\nStarting node {leader} again, from its own data.");
    cluster.start_node(leader)?;
    println!("{}\n", cluster.catch_up(leader)?);
    tell(&story, usize::MAX)?;

    let summary = proof::prove(&cluster.open_session(leader)?)?;
    println!("\n{summary}");
    Ok(())
}

/// Makes what the work needs, unless an earlier run has.
fn prepare(session: &Session) -> Result<(), AnyError> {
    for (path, data) in [(contender::SECTIONS, ""), (contender::COUNTER, "0")] {
        match session
            .create(path, data, CreateMode::Persistent)
            .wait_timeout(PATIENCE)
        {
            Ok(_) | Err(quorate::Error::NodeExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (counter, _) = session.get(contender::COUNTER).wait()?;
    println!(
        "The counter stands at {}.",
        String::from_utf8_lossy(&counter)
    );
    Ok(())
}

/// Tells what happens, until so many more critical sections are finished, or all are.
fn tell(stories: &Receiver<Story>, mut sections: usize) -> Result<(), AnyError> {
    while sections > 0 {
        match stories.recv_timeout(PATIENCE) {
            Ok(Story::Finished(line)) => {
                println!("{line}");
                sections -= 1;
            }
            Ok(Story::Said(line)) => println!("{line}"),
            Ok(Story::Failed(name, error)) => return Err(format!("{name}: {error}").into()),
            Err(RecvTimeoutError::Timeout) => {
                return Err("nothing has happened for too long".into());
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
    Ok(())
}

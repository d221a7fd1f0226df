//! What a user notices when a process dies: three processes over TCP on loopback, default settings, the log
//! store.
//!
//! *Failover*: from SIGKILL of the leader until the next write is acknowledged, called on a follower; and
//! from SIGSTOP, where no connection closes. *Catch-up*: how long it takes until a follower of a million
//! znodes that has lost its disk has all of them again, and what becomes of the writers' 99th percentile
//! meanwhile.
//!
//! `cargo bench --bench failover`; `-- killed`, `-- stopped`, `-- catch-up` for a part. A main of its own:
//! criterion knows no processes.

#![allow(missing_docs)]

mod support;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate::{CreateMode, Session, Version};
use support::cluster::{Cluster, node_id, path_of};
use support::{Times, process, windowed};

const PATIENCE: Duration = Duration::from_secs(120);
const DATA_BYTES: usize = 128;

struct Sizes {
    rounds: usize,
    stops: usize,
    znodes: usize,
    writing: Duration,
}

fn main() {
    if process::is_child() {
        return process::run();
    }
    let sizes = match support::measuring() {
        true => Sizes {
            rounds: 100,
            stops: 30,
            znodes: 1_000_000,
            writing: Duration::from_secs(10),
        },
        false => Sizes {
            rounds: 1,
            stops: 1,
            znodes: 2_000,
            writing: Duration::from_millis(100),
        },
    };
    if support::wanted("killed") {
        failover("killed", sizes.rounds);
    }
    if support::wanted("stopped") {
        failover("stopped", sizes.stops);
    }
    if support::wanted("catch-up") {
        catch_up(&sizes);
    }
}

/// A leader is lost so many times; how long until the next write is acknowledged.
fn failover(how: &str, rounds: usize) {
    let mut cluster = Cluster::start("log");
    let session = cluster.session();
    let created = session.create("/bench", "", CreateMode::Persistent);
    created.wait().expect("it is created");
    let mut gaps = Times::default();
    for _ in 0..rounds {
        let at = cluster.follow();
        // Somewhere between two heartbeats, whichever it is.
        windowed(200, 8, |_| session.set("/bench", "before", Version::ANY));
        gaps.timed(|| {
            match how {
                "killed" => cluster.others[at].kill(),
                _ => cluster.others[at].stop(),
            }
            let mut set = session.set("/bench", "after", Version::ANY);
            set.wait_timeout(PATIENCE).expect("it is set");
        });
        match how {
            "killed" => cluster.restart(at, false),
            _ => cluster.others[at].resume(),
        }
    }
    println!(
        "leader {how}, {rounds} times: writes resumed after p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, at most {:.0} ms",
        gaps.percentile(50) / 1e3,
        gaps.percentile(90) / 1e3,
        gaps.percentile(99) / 1e3,
        gaps.percentile(100) / 1e3,
    );
}

/// A follower loses its disk: removed, joined, added and given a vote, while writers go on.
fn catch_up(sizes: &Sizes) {
    let mut cluster = Cluster::start("log");
    cluster.lead();
    let session = cluster.session();
    let leaves = support::leaf_paths(sizes.znodes);
    let paths = support::with_parents(&leaves);
    let data = support::data(DATA_BYTES);
    windowed(paths.len(), 1000, |number| {
        session.create(paths[number], &data, CreateMode::Persistent)
    });
    cluster.level();
    println!(
        "catch-up of a follower of {} znodes that has lost its disk",
        sizes.znodes
    );
    println!("  outstanding            writes/s  p50 us  p99 us  max us  p99 ratio");
    for outstanding in [1, 100] {
        // What the filling has left to do, such as snapshots, is over.
        std::thread::sleep(sizes.writing / 2);
        cluster.lead();
        let stop = AtomicBool::new(false);
        let alone = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&session, &leaves, outstanding, &stop));
            std::thread::sleep(sizes.writing);
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("it writes")
        });
        line(outstanding, "without", &alone, None);
        stop.store(false, Ordering::Relaxed);
        let (beside, steps) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&session, &leaves, outstanding, &stop));
            let steps = lose_a_disk(&mut cluster);
            stop.store(true, Ordering::Relaxed);
            (writer.join().expect("it writes"), steps)
        });
        line(outstanding, "during", &beside, Some(&alone));
        println!("          {steps}");
    }
}

fn lose_a_disk(cluster: &mut Cluster) -> String {
    cluster.others[1].kill();
    let id = cluster.others[1].id;
    std::fs::remove_dir_all(path_of(cluster.dir.path(), id)).expect("a directory to wipe");
    let node = node_id(id);
    let begun = Instant::now();
    insist(|| cluster.node.remove(node).wait_timeout(PATIENCE));
    cluster.restart(1, true);
    insist(|| cluster.node.add_learner(node).wait_timeout(PATIENCE));
    let added = begun.elapsed();
    cluster.others[1].reaches(cluster.node.zxid().0);
    let has_all = begun.elapsed();
    insist(|| cluster.node.promote(node).wait_timeout(PATIENCE));
    format!(
        "removed, joined and added after {:.2} s, has everything after {:.2} s, a voter again after {:.2} s",
        added.as_secs_f64(),
        has_all.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    )
}

/// Asks again while the answer is that it is not yet so.
fn insist<T>(mut ask: impl FnMut() -> quorate::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(
                error.is_retryable() && Instant::now() < deadline,
                "refused: {error}"
            ),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes until it is told to stop. How long each took, and all together.
fn write(
    session: &Session,
    leaves: &[String],
    outstanding: usize,
    stop: &AtomicBool,
) -> (Times, Duration) {
    let data = support::data(DATA_BYTES);
    let mut times = Times::default();
    let mut flying = VecDeque::new();
    let begun = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) || !flying.is_empty() {
        if !stop.load(Ordering::Relaxed) {
            // A prime step walks over all of them.
            number = (number + 7_919) % leaves.len();
            let pending = session.set(&leaves[number], &data, Version::ANY);
            flying.push_back((Instant::now(), pending));
        }
        if (flying.len() >= outstanding || stop.load(Ordering::Relaxed))
            && let Some((start, pending)) = flying.pop_front()
        {
            pending.wait().expect("it is set");
            times.push(start.elapsed());
        }
    }
    (times, begun.elapsed())
}

fn line(
    outstanding: usize,
    name: &str,
    found: &(Times, Duration),
    base: Option<&(Times, Duration)>,
) {
    let (times, whole) = found;
    let p99 = times.percentile(99);
    let ratio = base.map_or(String::new(), |(base, _)| {
        format!("{:9.2}", p99 / base.percentile(99))
    });
    println!(
        "  {outstanding:11}  {name:8} {:10.0}  {:6.0}  {p99:6.0}  {:6.0}  {ratio}",
        times.len() as f64 / whole.as_secs_f64(),
        times.percentile(50),
        times.percentile(100),
    );
}

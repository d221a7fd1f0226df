//! Writes while a snapshot of a million znodes is taken and written: one voter on the log store. Does
//! their 99th percentile stay within twice that without?
//!
//! `cargo bench --bench snapshot`. Beside it, bare appends with and without another thread that writes
//! as many bytes as a snapshot to the same disk: what the disk alone makes of it. A main of its own:
//! criterion knows no percentiles, and nothing of what goes on meanwhile.

#![allow(missing_docs)]

mod support;

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate::storage::{Log, LogOptions};
use quorate::{CreateMode, Node, Session, Version};
use support::{Bare, Counting, Counts, Times, windowed};

const DATA_BYTES: usize = 128;

fn main() {
    let (znodes, time, log_bytes) = if support::measuring() {
        (1_000_000, Duration::from_secs(20), 8 << 20)
    } else {
        (2_000, Duration::from_millis(100), 64 << 10)
    };
    let dir = support::directory();
    let leaves = support::leaf_paths(znodes);
    let store = Log::open(dir.path().join("node"), LogOptions::default()).expect("it opens");
    let (counting, counts) = Counting::new(Box::new(store));
    let node = Node::builder(1)
        .storage(counting)
        .snapshot_log_bytes(log_bytes)
        .start()
        .expect("it starts");
    let session = node.session().open().wait().expect("it opens");
    let paths = support::with_parents(&leaves);
    let data = support::data(DATA_BYTES);
    windowed(paths.len(), 1000, |number| {
        session.create(paths[number], &data, CreateMode::Persistent)
    });
    while counts.snapshotting() {
        std::thread::sleep(Duration::from_millis(10));
    }

    println!(
        "writes beside snapshots of {} znodes, log store",
        paths.len()
    );
    println!("  outstanding            writes  p50 us  p99 us  max us  p99 ratio");
    for outstanding in [1, 100, 1000] {
        let begin = Instant::now();
        let before = snapshots(&counts);
        let (alone, beside) = writes(&session, &leaves, outstanding, time, &counts);
        let taken = snapshots(&counts).0 - before.0;
        let each_ms = beside.1.as_millis() / u128::from(taken.max(1));
        line(outstanding, "without", &alone, None);
        line(outstanding, "during", &beside.0, Some(&alone));
        println!(
            "               {taken} snapshots in {:.0} s, each of {} MB took {each_ms} ms",
            begin.elapsed().as_secs_f64(),
            (snapshots(&counts).1 - before.1) / taken.max(1) / 1_000_000
        );
    }
    let bytes = snapshots(&counts).1 / snapshots(&counts).0.max(1);
    bare(dir.path(), bytes as usize, time / 4);
}

fn snapshots(counts: &Counts) -> (u64, u64) {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    (load(&counts.snapshots), load(&counts.snapshot_bytes))
}

fn line(outstanding: usize, name: &str, times: &Times, base: Option<&Times>) {
    let p99 = times.percentile(99);
    let ratio = base.map_or(String::new(), |base| {
        format!("{:9.2}", p99 / base.percentile(99))
    });
    println!(
        "  {outstanding:11}  {name:8} {:8}  {:6.0}  {p99:6.0}  {:6.0}  {ratio}",
        times.len(),
        times.percentile(50),
        times.percentile(100),
    );
}

/// Writes for so long; those without a snapshot at either end, and the others with the time that
/// snapshots took.
fn writes(
    session: &Session,
    leaves: &[String],
    outstanding: usize,
    time: Duration,
    counts: &Counts,
) -> (Times, (Times, Duration)) {
    let data = support::data(DATA_BYTES);
    let (mut alone, mut beside) = (Times::default(), Times::default());
    let mut flying = VecDeque::new();
    let begin = Instant::now();
    let mut number = 0;
    let (mut last, mut snapshotting_for) = (begin, Duration::ZERO);
    while begin.elapsed() < time {
        // A prime step walks over all of them.
        number = (number + 7_919) % leaves.len();
        let pending = session.set(&leaves[number], &data, Version::ANY);
        flying.push_back((Instant::now(), counts.snapshotting(), pending));
        if flying.len() >= outstanding {
            let (start, snapshotting, pending) = flying.pop_front().expect("not empty");
            pending.wait().expect("it is set");
            let now = Instant::now();
            if snapshotting || counts.snapshotting() {
                beside.push(now - start);
                snapshotting_for += now - last;
            } else {
                alone.push(now - start);
            }
            last = now;
        }
    }
    for (_, _, pending) in flying {
        pending.wait().expect("it is set");
    }
    (alone, (beside, snapshotting_for))
}

/// What the disk alone does: bare appends, first alone, then beside a large file being written.
fn bare(dir: &std::path::Path, bytes: usize, time: Duration) {
    let mut file = Bare::create(&dir.join("bare"));
    let data = support::data(256);
    let mut appends = |name: &str, base: Option<&Times>| {
        let mut times = Times::default();
        let begin = Instant::now();
        while begin.elapsed() < time {
            times.timed(|| file.append(&data));
        }
        line(1, name, &times, base);
        times
    };
    println!(
        "bare appends of 256 bytes, alone and beside another thread that writes a file of {bytes} bytes"
    );
    let alone = appends("without", None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = support::data(256 * 1024);
            while !stop.load(Ordering::Relaxed) {
                let mut large = std::fs::File::create(dir.join("large")).expect("a file");
                for _ in 0..bytes.div_ceil(chunk.len()) {
                    large.write_all(&chunk).expect("written");
                }
                large.sync_all().expect("synced");
            }
        });
        appends("during", Some(&alone));
        stop.store(true, Ordering::Relaxed);
    });
}

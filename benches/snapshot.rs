//! Writes while a snapshot of a million znodes is taken and written: one voter, in memory and on the log
//! store. Does their 99th percentile stay within twice that without?
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

use quorate::storage::{Log, LogOptions, Memory, Storage};
use quorate::{CreateMode, Node, Session, Version};
use support::{Bare, Counting, Counts, Times, windowed};

const DATA_BYTES: usize = 128;

struct Sizes {
    znodes: usize,
    time: Duration,
    /// Log between two snapshots, by store, with one write outstanding and with many: so much that about half
    /// of the time none is taken.
    log_bytes: [[u64; 2]; 2],
}

fn main() {
    let sizes = if support::measuring() {
        Sizes {
            znodes: 1_000_000,
            time: Duration::from_secs(30),
            log_bytes: [[64 << 20, 512 << 20], [16 << 20, 512 << 20]],
        }
    } else {
        Sizes {
            znodes: 2_000,
            time: Duration::from_millis(100),
            log_bytes: [[64 << 10, 1 << 20]; 2],
        }
    };
    println!(
        "writes beside snapshots of {} znodes, one voter",
        sizes.znodes
    );
    println!("  store   outstanding            writes  p50 us  p99 us  max us  p99 ratio");
    let mut snapshot_bytes = 0;
    for (store, log_bytes) in ["memory", "log"].into_iter().zip(sizes.log_bytes) {
        for (outstanding, log_bytes) in [1, 1000].into_iter().zip(log_bytes) {
            snapshot_bytes = measure(store, outstanding, log_bytes, &sizes).max(snapshot_bytes);
        }
    }
    let dir = support::directory();
    bare(dir.path(), snapshot_bytes as usize, sizes.time / 2);
}

/// Returns the size of a snapshot, in bytes.
fn measure(store: &str, outstanding: usize, log_bytes: u64, sizes: &Sizes) -> u64 {
    let dir = support::directory();
    let open: Box<dyn Storage> = match store {
        "memory" => Box::new(Memory::new()),
        _ => Box::new(Log::open(dir.path(), LogOptions::default()).expect("it opens")),
    };
    let (counting, counts) = Counting::new(open);
    let node = Node::builder(1)
        .storage(counting)
        .snapshot_log_bytes(log_bytes)
        .start()
        .expect("it starts");
    let session = node.session().open().wait().expect("it opens");
    let leaves = support::leaf_paths(sizes.znodes);
    let paths = support::with_parents(&leaves);
    let data = support::data(DATA_BYTES);
    windowed(paths.len(), 1000, |number| {
        session.create(paths[number], &data, CreateMode::Persistent)
    });
    while counts.snapshotting() {
        std::thread::sleep(Duration::from_millis(10));
    }

    let before = snapshots(&counts);
    let (alone, (beside, took)) = writes(&session, &leaves, outstanding, sizes.time, &counts);
    let taken = snapshots(&counts).0 - before.0;
    let bytes = (snapshots(&counts).1 - before.1) / taken.max(1);
    line(store, outstanding, "without", &alone, None);
    line(store, outstanding, "during", &beside, Some(&alone));
    println!(
        "          {taken} snapshots of {} MB, each in {} ms",
        bytes / 1_000_000,
        took.as_millis() / u128::from(taken.max(1)),
    );
    bytes
}

fn snapshots(counts: &Counts) -> (u64, u64) {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    (load(&counts.snapshots), load(&counts.snapshot_bytes))
}

fn line(store: &str, outstanding: usize, name: &str, times: &Times, base: Option<&Times>) {
    let p99 = times.percentile(99);
    let ratio = base.map_or(String::new(), |base| {
        format!("{:9.2}", p99 / base.percentile(99))
    });
    println!(
        "  {store:6}  {outstanding:11}  {name:8} {:8}  {:6.0}  {p99:6.0}  {:6.0}  {ratio}",
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
        line("bare", 1, name, &times, base);
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

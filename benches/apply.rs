//! The state machine alone, a million znodes: what a set costs with the view published once per batch,
//! what a read of the view costs, what a snapshot costs, and how many bytes a znode takes. Against a
//! `std::collections::HashMap<String, Vec<u8>>` of the same paths in the same run.
//!
//! `cargo bench --features testing --bench apply`. The ratios are printed; the criterion benchmarks
//! after them compare one change with another. Criterion can't set two things against each other in
//! one run, nor count bytes, so the table is made here.

#![allow(missing_docs)]

mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use quorate::testing::bench::{Published, Snapshot, StateMachine};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Of each znode: what ZooKeeper's figure of 430 bytes was measured with.
const DATA: [u8; 100] = [7; 100];
/// Writes between two publishes.
const BATCH: usize = 256;
/// A figure is the best of so many rounds: the machine may be busy with other things.
const ROUNDS: usize = 9;

fn main() {
    let znodes = if support::measuring() {
        1_000_000
    } else {
        5_000
    };
    let leaves = support::leaf_paths(znodes);
    let mut machine = StateMachine::default();
    memory(&mut machine, &leaves);
    table(&mut machine, &leaves);
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    criteria(&mut criterion, &mut machine, &leaves);
    criterion.final_summary();
}

fn live_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn memory(machine: &mut StateMachine, leaves: &[String]) {
    let paths = support::with_parents(leaves);
    let before = live_bytes();
    for batch in paths.chunks(BATCH) {
        let writes = machine.creations(batch.iter().map(|path| (*path, &DATA[..])));
        machine.apply(&writes);
    }
    let own: usize = paths.iter().map(|path| path.len() + DATA.len()).sum();
    let each = |bytes: usize, count: usize| (bytes - own) as f64 / count as f64;
    println!(
        "bytes on the heap per znode beyond its path and data, {} znodes",
        machine.znodes_count()
    );
    println!(
        "  state machine {:6.1}",
        each(live_bytes() - before, paths.len())
    );
    let before = live_bytes();
    let map = hash_map(paths.iter().copied());
    println!(
        "  std HashMap   {:6.1}",
        each(live_bytes() - before, map.len())
    );
}

fn hash_map<'a>(paths: impl Iterator<Item = &'a str>) -> HashMap<String, Vec<u8>> {
    paths
        .map(|path| (path.to_string(), DATA.to_vec()))
        .collect()
}

/// The best time of one operation, in nanoseconds; `run` returns what a round took.
fn best(operations: usize, mut run: impl FnMut() -> Duration) -> f64 {
    (0..ROUNDS)
        .map(|_| run().as_nanos() as f64 / operations as f64)
        .fold(f64::INFINITY, f64::min)
}

fn table(machine: &mut StateMachine, leaves: &[String]) {
    let mut rng = StdRng::seed_from_u64(1);
    let random: Vec<&str> = (0..leaves.len() / 4)
        .map(|_| leaves.choose(&mut rng).expect("some").as_str())
        .collect();
    let mut map = hash_map(leaves.iter().map(String::as_str));
    let published = machine.published();

    let map_get = best(random.len(), || map_gets(&map, &random));
    let map_set = best(random.len(), || map_sets(&mut map, &random));
    println!("nanoseconds per operation (ratio to std HashMap), {BATCH} sets per publish");
    println!("  std HashMap              get {map_get:6.0}         set {map_set:6.0}");
    let get = best(random.len(), || gets(&published, &random));
    let mut longest = Duration::ZERO;
    let set = best(random.len(), || sets(machine, &random, &mut longest));
    println!(
        "  state machine            get {get:6.0} ({:4.2})  set {set:6.0} ({:4.2}), longest batch {longest:?}",
        get / map_get,
        set / map_set
    );

    let (send, receive) = std::sync::mpsc::sync_channel::<Snapshot>(0);
    std::thread::scope(|scope| {
        let encoder = scope.spawn(move || {
            let mut times = support::Times::default();
            let mut bytes = 0;
            for snapshot in receive {
                bytes = times.timed(|| snapshot.encode());
            }
            (times, bytes)
        });
        let mut longest = Duration::ZERO;
        let set = best(random.len(), || {
            freeze(machine, &send);
            sets(machine, &random, &mut longest)
        });
        println!(
            "  beside a snapshot                           set {set:6.0} ({:4.2}), longest batch {longest:?}",
            set / map_set
        );
        let get = best(random.len(), || {
            freeze(machine, &send);
            gets(&published, &random)
        });
        println!(
            "  beside a snapshot        get {get:6.0} ({:4.2})",
            get / map_get
        );
        drop(send);
        let (times, bytes) = encoder.join().expect("it encodes");
        println!(
            "a snapshot of {} bytes is encoded in {:.0} ms beside sets and reads (median of {})",
            bytes,
            times.percentile(50) / 1000.0,
            times.len()
        );
    });
}

/// Sees to it that a snapshot is being encoded.
fn freeze(machine: &mut StateMachine, encoder: &std::sync::mpsc::SyncSender<Snapshot>) {
    if let Some(snapshot) = machine.freeze() {
        encoder.send(snapshot).expect("the encoder lives");
    }
}

fn map_gets(map: &HashMap<String, Vec<u8>>, paths: &[&str]) -> Duration {
    let start = Instant::now();
    for path in paths {
        black_box(map.get(*path).expect("it is there"));
    }
    start.elapsed()
}

fn map_sets(map: &mut HashMap<String, Vec<u8>>, paths: &[&str]) -> Duration {
    let start = Instant::now();
    for path in paths {
        *map.get_mut(*path).expect("it is there") = DATA.to_vec();
    }
    start.elapsed()
}

fn gets(published: &Published, paths: &[&str]) -> Duration {
    let start = Instant::now();
    for path in paths {
        black_box(published.get((*path).to_string()));
    }
    start.elapsed()
}

/// Applies the sets, batch by batch; making the requests is not counted.
fn sets(machine: &mut StateMachine, paths: &[&str], longest: &mut Duration) -> Duration {
    let mut sum = Duration::ZERO;
    for batch in paths.chunks(BATCH) {
        let writes = machine.sets(batch.iter().map(|path| (*path, &DATA[..])));
        let start = Instant::now();
        machine.apply(&writes);
        let time = start.elapsed();
        sum += time;
        *longest = time.max(*longest);
    }
    sum
}

fn criteria(criterion: &mut Criterion, machine: &mut StateMachine, leaves: &[String]) {
    let mut rng = StdRng::seed_from_u64(2);
    criterion.bench_function("apply 256 sets and publish", |bencher| {
        bencher.iter_custom(|rounds| {
            let (mut sum, mut ignored) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..rounds {
                let paths: Vec<&str> = (0..BATCH)
                    .map(|_| leaves.choose(&mut rng).expect("some").as_str())
                    .collect();
                sum += sets(machine, &paths, &mut ignored);
            }
            sum
        });
    });
    let published = machine.published();
    criterion.bench_function("read data and stat", |bencher| {
        bencher.iter_batched(
            || leaves.choose(&mut rng).expect("some").clone(),
            |path| published.get(path),
            BatchSize::SmallInput,
        );
    });
}

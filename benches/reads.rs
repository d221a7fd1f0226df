//! What reads and watches cost on a running node: local reads of a million znodes on one and two
//! threads, also beside writes and beside a snapshot, against look-ups in a std `HashMap` of the same
//! paths in the same run; linearizable reads on leader and follower; one change to 1,000 watchers.
//!
//! `cargo bench --bench reads`. The tables are made here, since criterion can't set two things against
//! each other in one run; the criterion benchmarks after them compare one change with another.

#![allow(missing_docs)]

mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::Criterion;
use quorate::storage::Memory;
use quorate::{CreateMode, Node, Session, Version, WatchKind};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use support::{Counting, Counts, Times, windowed};

const DATA: [u8; 100] = [7; 100];
/// Reads that are timed together.
const BATCH: usize = 1000;
const WATCHERS: usize = 1000;

struct Sizes {
    znodes: usize,
    batches: usize,
    barriers: usize,
    changes: usize,
}

fn main() {
    let sizes = if support::measuring() {
        Sizes {
            znodes: 1_000_000,
            batches: 2000,
            barriers: 20_000,
            changes: 300,
        }
    } else {
        Sizes {
            znodes: 2_000,
            batches: 3,
            barriers: 50,
            changes: 2,
        }
    };
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    local(&sizes, &mut criterion);
    barriers(&sizes);
    watches(&sizes);
    criterion.final_summary();
}

fn local(sizes: &Sizes, criterion: &mut Criterion) {
    let leaves = support::leaf_paths(sizes.znodes);
    let (counting, counts) = Counting::new(Box::new(Memory::new()));
    let node = Node::builder(1)
        .storage(counting)
        .start()
        .expect("it starts");
    let session = node.session().open().wait().expect("it opens");
    let paths = support::with_parents(&leaves);
    windowed(paths.len(), 1000, |number| {
        session.create(paths[number], DATA, CreateMode::Persistent)
    });
    let map: HashMap<String, Vec<u8>> = leaves
        .iter()
        .map(|path| (path.clone(), DATA.to_vec()))
        .collect();
    let reader = Reader {
        session: &session,
        map: &map,
        leaves: &leaves,
    };
    // A snapshot may still be under way from the creations.
    while counts.snapshotting() {
        std::thread::sleep(Duration::from_millis(10));
    }

    println!(
        "local reads, {} znodes, median of batches of {BATCH}",
        paths.len()
    );
    println!("                                     ns per read  HashMap ns  ratio");
    let alone = reader.compare(1, sizes.batches);
    print("one thread", &alone);
    print(
        "two threads, each",
        &reader.compare_on_two_threads(sizes.batches),
    );
    beside_writes(&node, &reader, &counts, sizes);
    let mut rng = StdRng::seed_from_u64(9);
    criterion.bench_function("Session::get", |bencher| {
        bencher.iter(|| session.get(leaves.choose(&mut rng).expect("some")).wait());
    });
}

fn print(name: &str, (ours, theirs): &(Times, Times)) {
    let each = |times: &Times| times.percentile(50) * 1000.0 / BATCH as f64;
    println!(
        "  {name:34} {:11.0}  {:10.0}  {:5.2}   ({} batches)",
        each(ours),
        each(theirs),
        each(ours) / each(theirs),
        ours.len()
    );
}

/// Reads through a session, and from a map.
struct Reader<'a> {
    session: &'a Session,
    map: &'a HashMap<String, Vec<u8>>,
    leaves: &'a [String],
}

impl Reader<'_> {
    fn batch(&self, rng: &mut StdRng) -> Vec<&str> {
        (0..BATCH)
            .map(|_| self.leaves.choose(rng).expect("some").as_str())
            .collect()
    }

    fn gets(&self, paths: &[&str]) {
        for path in paths {
            black_box(self.session.get(path).wait().expect("it is there"));
        }
    }

    fn look_ups(&self, paths: &[&str]) {
        for path in paths {
            black_box(self.map.get(*path).expect("it is there"));
        }
    }

    /// Other paths for each, so that neither warms the cache for the other.
    fn compare(&self, seed: u64, batches: usize) -> (Times, Times) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut ours, mut theirs) = (Times::default(), Times::default());
        for _ in 0..batches {
            let paths = self.batch(&mut rng);
            ours.timed(|| self.gets(&paths));
            let paths = self.batch(&mut rng);
            theirs.timed(|| self.look_ups(&paths));
        }
        (ours, theirs)
    }

    fn compare_on_two_threads(&self, batches: usize) -> (Times, Times) {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| self.compare(2, batches));
            let times = self.compare(3, batches);
            other.join().expect("it reads");
            times
        })
    }
}

/// Sorts batches of reads by what else went on meanwhile.
fn beside_writes(node: &Node, reader: &Reader<'_>, counts: &Counts, sizes: &Sizes) {
    let writer = node.session().open().wait().expect("it opens");
    let (writing, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let begin = Instant::now();
    let mut by_company: [(Times, Times); 3] = Default::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = StdRng::seed_from_u64(4);
            while !stop.load(Ordering::Relaxed) {
                writing.store(true, Ordering::Relaxed);
                windowed(sizes.batches * 50, 1000, |_| {
                    writer.set(
                        reader.leaves.choose(&mut rng).expect("some"),
                        DATA,
                        Version::ANY,
                    )
                });
                writing.store(false, Ordering::Relaxed);
                // Long enough for a snapshot to go on alone for a while.
                std::thread::sleep(Duration::from_millis(sizes.batches as u64 / 4));
            }
        });
        let mut rng = StdRng::seed_from_u64(5);
        let company = || match (counts.snapshotting(), writing.load(Ordering::Relaxed)) {
            (false, true) => Some(0),
            (true, false) => Some(1),
            (true, true) => Some(2),
            (false, false) => None,
        };
        let enough = |by_company: &[(Times, Times); 3]| {
            by_company
                .iter()
                .all(|(ours, _)| ours.len() >= sizes.batches)
        };
        let limit = Duration::from_millis(20 * sizes.batches as u64);
        while !enough(&by_company) && begin.elapsed() < limit {
            let before = company();
            let (ours, theirs) = reader.compare(rand::Rng::r#gen(&mut rng), 1);
            if let (Some(before), Some(after)) = (before, company())
                && before == after
            {
                let (all_ours, all_theirs) = &mut by_company[before];
                all_ours.append(ours);
                all_theirs.append(theirs);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (name, times) in ["beside a writer", "beside a snapshot", "beside both"]
        .iter()
        .zip(&by_company)
    {
        print(name, times);
    }
}

fn barriers(sizes: &Sizes) {
    let nodes = support::cluster(3, |_, builder| builder);
    let session = nodes[0].session().open().wait().expect("it opens");
    session
        .create("/bench", DATA, CreateMode::Persistent)
        .wait()
        .expect("it is created");
    println!("linearizable reads, three voters   outstanding  p50 us  p99 us  reads/s");
    for (name, node) in [("on the leader", &nodes[0]), ("on a follower", &nodes[1])] {
        let session = node
            .session()
            .open()
            .wait()
            .expect("it opens")
            .linearizable();
        for outstanding in [1, 1000] {
            let count = sizes.barriers * if outstanding == 1 { 1 } else { 10 };
            let (times, whole) = windowed(count, outstanding, |_| session.get("/bench"));
            println!(
                "  {name:32} {outstanding:11}  {:6.0}  {:6.0}  {:7.0}",
                times.percentile(50),
                times.percentile(99),
                count as f64 / whole.as_secs_f64()
            );
        }
    }
}

fn watches(sizes: &Sizes) {
    let node = Node::builder(1).start().expect("it starts");
    let session = node.session().open().wait().expect("it opens");
    session
        .create("/bench", DATA, CreateMode::Persistent)
        .wait()
        .expect("it is created");
    let set = || {
        session
            .set("/bench", DATA, Version::ANY)
            .wait()
            .expect("it is set")
    };
    set();
    let mut without = Times::default();
    for _ in 0..sizes.changes {
        without.timed(set);
    }
    let mut watchers: Vec<_> = (0..WATCHERS).map(|_| session.watcher(16)).collect();
    for watcher in &watchers {
        session
            .watch("/bench", WatchKind::Persistent, watcher)
            .expect("it is set");
    }
    let (mut answered, mut delivered) = (Times::default(), Times::default());
    for _ in 0..sizes.changes {
        let start = Instant::now();
        set();
        answered.push(start.elapsed());
        for watcher in &mut watchers {
            watcher.next().expect("an event");
        }
        delivered.push(start.elapsed());
    }
    println!("one change to {WATCHERS} watchers, one voter in memory, p50 us");
    println!(
        "  answered, nobody watching      {:7.0}",
        without.percentile(50)
    );
    println!(
        "  answered, everybody told       {:7.0}",
        answered.percentile(50)
    );
    println!(
        "  the last event taken           {:7.0}",
        delivered.percentile(50)
    );
}

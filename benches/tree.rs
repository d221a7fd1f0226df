//! The tree in memory against a `std::collections::HashMap<String, Vec<u8>>` of the same paths: what a
//! set and a read cost, alone and beside each other, and how many bytes a znode takes.
//!
//! The ratios are printed; the criterion benchmarks after them are for comparing one change with another.
//! A million znodes with `--bench`, few otherwise, to see that it runs.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports)]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

// The tree is no part of the public API: the bench compiles it as its own, with the words it needs.
#[path = "../src/error.rs"]
mod error;
#[path = "../src/ids.rs"]
mod ids;
#[path = "../src/path.rs"]
mod path;
#[path = "../src/stat.rs"]
mod stat;
#[path = "../src/state"]
mod state {
    pub(crate) mod tree;
}

use ids::Zxid;
use path::ZnodePath;
use state::tree::{Owner, Tree, TreeBuilder, TreeContent, TreeReader, Znode};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const DATA: [u8; 100] = [7; 100];
/// Between two publishes.
const BATCH: usize = 500;
/// Each figure is the best of so many: the machine may be busy with other things.
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|a| a == name);
    let znodes = if has("--bench") && !has("--test") {
        1_000_000
    } else {
        5_000
    };
    if arguments.iter().skip(1).all(|a| a.starts_with("--")) {
        memory(znodes);
        ratios(znodes);
    }
    let mut criterion = Criterion::default()
        .configure_from_args()
        .sample_size(20)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    benches(&mut criterion, znodes);
    criterion.final_summary();
}

/// Paths of 40 bytes, `children` under each parent.
fn leaf_paths(znodes: usize, children: usize) -> Vec<String> {
    (0..znodes)
        .map(|n| format!("/services/s{:07}/member-{:014}", n / children, n))
        .collect()
}

/// The leaves with all their parents.
fn build(leaves: &[String]) -> TreeContent {
    let mut builder = TreeBuilder::new();
    let mut add = |path: &str, data: &[u8]| {
        let path = ZnodePath::parse(path).unwrap();
        builder.insert(Znode::created(path, data, Zxid(0), 0, Owner::NONE, 0));
    };
    add("/", &[]);
    add("/services", &[]);
    let mut last = "";
    for leaf in leaves {
        let parent = path::parent(leaf).unwrap();
        if parent != last {
            add(parent, &[]);
            last = parent;
        }
        add(leaf, &DATA);
    }
    builder.finish(Zxid(0)).unwrap()
}

fn create_all(leaves: &[String]) -> Tree {
    let mut tree = Tree::new();
    let mut zxid = 0;
    let mut add = |path: &str, data: &[u8]| {
        zxid += 1;
        let path = ZnodePath::parse(path).unwrap();
        tree.insert(Znode::created(path, data, Zxid(zxid), 0, Owner::NONE, 0));
        if zxid.is_multiple_of(BATCH as u64) {
            tree.publish(Zxid(zxid));
        }
    };
    add("/services", &[]);
    let mut last = "";
    for leaf in leaves {
        let parent = path::parent(leaf).unwrap();
        if parent != last {
            add(parent, &[]);
            last = parent;
        }
        add(leaf, &DATA);
    }
    tree.publish(Zxid(zxid));
    tree
}

fn hash_map(leaves: &[String]) -> HashMap<String, Vec<u8>> {
    leaves.iter().map(|p| (p.clone(), DATA.to_vec())).collect()
}

fn live_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn memory(znodes: usize) {
    println!("bytes on the heap for each znode, beyond path and data ({znodes} znodes)");
    for (name, children) in [
        ("in one parent", znodes),
        ("in parents of 1,000", 1000),
        ("in parents of 20", 20),
        ("in parents of 10", 10),
        ("in parents of 1", 1),
    ] {
        let leaves = leaf_paths(znodes, children);
        let shown = |way: &str, bytes: usize, tree: &Tree, time: Duration| {
            let own: usize = tree
                .walk("/")
                .map(|z| z.path.as_str().len() + z.data.len())
                .sum();
            let each = (bytes - own) as f64 / tree.len() as f64;
            let time = time.as_nanos() as f64 / tree.len() as f64;
            println!("  {name:22} {way:8} {each:6.1}, in {time:5.0} ns each");
        };
        let (before, start) = (live_bytes(), Instant::now());
        let tree = Tree::from_content(build(&leaves));
        let time = start.elapsed();
        shown("built", live_bytes() - before, &tree, time);
        drop(tree);
        let (before, start) = (live_bytes(), Instant::now());
        let tree = create_all(&leaves);
        let time = start.elapsed();
        shown("created", live_bytes() - before, &tree, time);
    }
    let leaves = leaf_paths(znodes, 1000);
    let own: usize = leaves.iter().map(|p| p.len() + DATA.len()).sum();
    let before = live_bytes();
    let map = hash_map(&leaves);
    let each = (live_bytes() - before - own) as f64 / map.len() as f64;
    println!("  {:31} {each:6.1}", "std HashMap");
}

/// The best time of one operation, in nanoseconds.
fn best(operations: usize, mut run: impl FnMut()) -> f64 {
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_nanos() as f64 / operations as f64
        })
        .fold(f64::INFINITY, f64::min)
}

fn ratios(znodes: usize) {
    let leaves = leaf_paths(znodes, 1000);
    let mut rng = StdRng::seed_from_u64(1);
    let random: Vec<String> = (0..znodes / 4)
        .map(|_| leaves.choose(&mut rng).unwrap().clone())
        .collect();
    let count = random.len();
    let mut map = hash_map(&leaves);
    let mut tree = Tree::from_content(build(&leaves));
    let mut writer = Writer::default();
    let reader = tree.reader();

    println!("nanoseconds for an operation, and against std HashMap ({znodes} znodes)");
    let map_get = best(count, || map_gets(&map, &random));
    let map_set = best(count, || map_sets(&mut map, &random));
    println!("  HashMap                      get {map_get:6.0}         set {map_set:6.0}");
    let create = creates(&mut Tree::from_content(build(&leaf_paths(znodes, znodes))));
    println!("  create and delete of a child in random places among {znodes}: {create:.0}");
    let line = |name: &str, get: Option<f64>, set: Option<f64>| {
        let cell = |time: Option<f64>, base: f64| match time {
            Some(time) => format!("{time:6.0} ({:4.2})", time / base),
            None => " ".repeat(13),
        };
        let (get, set) = (cell(get, map_get), cell(set, map_set));
        println!("  {name:28} get {get}  set {set}");
    };
    let get = best(count, || gets(&reader, &random));
    let set = best(count, || writer.sets(&mut tree, &random));
    line("tree", Some(get), Some(set));
    writer.say_longest();
    let set = best(count, || {
        let frozen = tree.freeze();
        writer.sets(&mut tree, &random);
        drop(frozen);
    });
    line("tree, frozen and not read", None, Some(set));
    writer.say_longest();

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                gets(&reader, &random[..count / 8]);
            }
        });
        let set = best(count, || writer.sets(&mut tree, &random));
        stop.store(true, Ordering::Relaxed);
        line("tree, beside a reader", None, Some(set));
        writer.say_longest();
    });

    beside_snapshots(&mut tree, &mut writer, &random, &line);
    stop.store(false, Ordering::Relaxed);
    std::thread::scope(|scope| {
        let (tree, writer, stop) = (&mut tree, &mut writer, &stop);
        let random = &random;
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                writer.sets(tree, random);
            }
        });
        let get = best(count, || gets(&reader, random));
        stop.store(true, Ordering::Relaxed);
        line("tree, beside the writer", Some(get), None);
    });
}

/// Sets while another thread walks one frozen tree after another, and the longest pause of any.
fn beside_snapshots(
    tree: &mut Tree,
    writer: &mut Writer,
    paths: &[String],
    line: &impl Fn(&str, Option<f64>, Option<f64>),
) {
    let (send, receive) = std::sync::mpsc::sync_channel::<state::tree::FrozenTree>(1);
    let mut longest_freeze = Duration::ZERO;
    std::thread::scope(|scope| {
        let walks = scope.spawn(move || {
            let mut walks = 0;
            for frozen in receive {
                black_box(frozen.map(|znode| znode.data.len()).sum::<usize>());
                walks += 1;
            }
            walks
        });
        let set = best(paths.len(), || {
            let start = Instant::now();
            if let Some(frozen) = tree.freeze() {
                longest_freeze = longest_freeze.max(start.elapsed());
                drop(send.send(frozen));
            }
            writer.sets(tree, paths);
        });
        line("tree, beside a snapshot", None, Some(set));
        writer.say_longest();
        let get = best(paths.len(), || {
            if let Some(frozen) = tree.freeze() {
                drop(send.send(frozen));
            }
            gets(&tree.reader(), paths);
        });
        line("tree, beside a snapshot", Some(get), None);
        drop(send);
        println!(
            "  {} snapshots walked; the longest freeze took {longest_freeze:?}",
            walks.join().unwrap()
        );
    });
}

/// Nanoseconds for a create and a delete in a parent of many, at random places, published in batches.
fn creates(tree: &mut Tree) -> f64 {
    let parent = leaf_paths(1, 1)[0].rsplit_once('/').unwrap().0.to_string();
    let many = tree.get(&parent).unwrap().children().len();
    let mut rng = StdRng::seed_from_u64(4);
    let paths: Vec<String> = (0..20 * BATCH)
        .map(|n| format!("{parent}/member-{:014}-{n}", rng.gen_range(0..many)))
        .collect();
    let mut zxid = 0;
    best(paths.len(), || {
        for batch in paths.chunks(BATCH) {
            zxid += 1;
            for path in batch {
                let path = ZnodePath::parse(path).unwrap();
                tree.insert(Znode::created(path, &DATA, Zxid(zxid), 0, Owner::NONE, 0));
            }
            tree.publish(Zxid(zxid));
            zxid += 1;
            batch
                .iter()
                .for_each(|path| drop(tree.remove(path, Zxid(zxid))));
            tree.publish(Zxid(zxid));
        }
    })
}

fn map_gets(map: &HashMap<String, Vec<u8>>, paths: &[String]) {
    for path in paths {
        black_box(map.get(path).unwrap());
    }
}

fn map_sets(map: &mut HashMap<String, Vec<u8>>, paths: &[String]) {
    for path in paths {
        *map.get_mut(path).unwrap() = DATA.to_vec();
    }
}

fn gets(reader: &TreeReader, paths: &[String]) {
    for path in paths {
        black_box(reader.get(path).unwrap());
    }
}

/// Sets as the state machine does them: look, then replace, then publish the batch.
#[derive(Default)]
struct Writer {
    zxid: u64,
    longest_batch: Duration,
}

impl Writer {
    fn say_longest(&mut self) {
        let longest = std::mem::take(&mut self.longest_batch);
        println!("    the longest batch of {BATCH} sets and its publish took {longest:?}");
    }

    fn sets(&mut self, tree: &mut Tree, paths: &[String]) {
        for batch in paths.chunks(BATCH) {
            let start = Instant::now();
            for path in batch {
                self.zxid += 1;
                let zxid = Zxid(self.zxid);
                let version = tree.get(path).unwrap().version;
                tree.update(path, zxid, |znode| {
                    znode.data = Arc::from(&DATA[..]);
                    znode.mzxid = zxid;
                    znode.version = version.wrapping_add(1);
                });
            }
            tree.publish(Zxid(self.zxid));
            self.longest_batch = self.longest_batch.max(start.elapsed());
        }
    }
}

fn benches(criterion: &mut Criterion, znodes: usize) {
    let leaves = leaf_paths(znodes, 1000);
    let mut rng = StdRng::seed_from_u64(2);
    let mut tree = Tree::from_content(build(&leaves));
    let reader = tree.reader();
    let mut zxid = 0;
    criterion.bench_function("get", |bencher| {
        bencher.iter_batched(
            || leaves.choose(&mut rng).unwrap().clone(),
            |path| reader.get(&path),
            BatchSize::SmallInput,
        );
    });
    let mut rng = StdRng::seed_from_u64(3);
    criterion.bench_function("set 500 and publish", |bencher| {
        bencher.iter_batched(
            || -> Vec<_> {
                (0..BATCH)
                    .map(|_| &leaves[rng.gen_range(0..leaves.len())])
                    .collect()
            },
            |paths| {
                for path in paths {
                    zxid += 1;
                    tree.update(path, Zxid(zxid), |znode| znode.data = Arc::from(&DATA[..]));
                }
                tree.publish(Zxid(zxid));
            },
            BatchSize::SmallInput,
        );
    });
    criterion.bench_function("create in a large parent and publish", |bencher| {
        let parent = path::parent(&leaves[0]).unwrap();
        bencher.iter(|| {
            zxid += 1;
            let path = ZnodePath::parse(&format!("{parent}/new-{zxid}")).unwrap();
            tree.insert(Znode::created(path, &DATA, Zxid(zxid), 0, Owner::NONE, 0));
            tree.publish(Zxid(zxid));
        });
    });
    criterion.bench_function("freeze", |bencher| bencher.iter(|| tree.freeze().is_some()));
}

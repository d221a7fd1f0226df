//! What a durable write costs: through one and three voters in one process, on every store, with 1 and
//! 1,000 writes of 128 bytes outstanding; against bare appends of the same bytes, with fdatasync, to
//! preallocated files on the same disk (three at once by three threads, for three voters).
//!
//! `cargo bench --bench commit`; `cargo bench --bench commit -- log` for one store alone, `3-log` for one
//! line alone; with `--features metrics`, `-- 3-memory --recorder` measures with a recorder that keeps every
//! value, and the same without it what the feature alone costs. *Cores busy* is the processor time of the whole process: as many as there are means that
//! the processor is the bound, fewer that something was waited for.
//!
//! A main of its own: criterion knows neither percentiles nor many calls in flight, and here the store
//! and the bare file take turns, so that both meet the same moods of the disk.

#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use quorate::storage::{Log, LogOptions, Memory, Sled, SledOptions, Storage};
use quorate::{CreateMode, Node, Session, Version};
use support::{Bare, Counting, Counts, Times, windowed};

const DATA_BYTES: usize = 128;
const OUTSTANDING: usize = 1000;

fn main() {
    #[cfg(feature = "metrics")]
    if std::env::args().any(|argument| argument == "--recorder") {
        let recorder = metrics_util::debugging::DebuggingRecorder::new();
        recorder.install().expect("there is no other");
    }
    let sizes = if support::measuring() {
        Sizes {
            one_by_one: 3000,
            at_once: 500_000,
        }
    } else {
        Sizes {
            one_by_one: 10,
            at_once: 1_100,
        }
    };
    println!(
        "voters  store   outstanding  p50 us  p99 us  writes/s  writes/sync  cores busy  p50 / bare  (bare p50, p99 us)"
    );
    for voters in [1, 3] {
        for store in ["memory", "log", "sled"] {
            if support::wanted(&format!("{voters}-{store}")) {
                measure(voters, store, &sizes);
            }
        }
    }
}

struct Sizes {
    one_by_one: usize,
    at_once: usize,
}

fn open(store: &str, dir: &Path) -> Box<dyn Storage> {
    match store {
        "memory" => Box::new(Memory::new()),
        "log" => Box::new(Log::open(dir, LogOptions::default()).expect("it opens")),
        "sled" => Box::new(Sled::open(dir, SledOptions::default()).expect("it opens")),
        other => unreachable!("{other}"),
    }
}

/// A cluster whose stores count; the leader first.
fn start(voters: u64, store: &str, dir: &Path) -> (Vec<Node>, Vec<Arc<Counts>>) {
    let mut stores = Vec::new();
    let mut counts = Vec::new();
    for id in 1..=voters {
        let (counting, count) = Counting::new(open(store, &dir.join(format!("node-{id}"))));
        stores.push(Some(counting));
        counts.push(count);
    }
    let stores = std::cell::RefCell::new(stores);
    let nodes = support::cluster(voters, |id, builder| {
        let store = stores.borrow_mut()[id as usize - 1].take();
        builder.storage(store.expect("each is taken once"))
    });
    let counts = nodes
        .iter()
        .map(|node| counts[node.id().as_u64() as usize - 1].clone())
        .collect();
    (nodes, counts)
}

fn measure(voters: u64, store: &str, sizes: &Sizes) {
    let dir = support::directory();
    let (nodes, counts) = start(voters, store, dir.path());
    let session = nodes[0].session().open().wait().expect("it opens");
    let data = support::data(DATA_BYTES);
    session
        .create("/bench", &data, CreateMode::Persistent)
        .wait()
        .expect("it is created");

    // As many bytes as the store gets for one write.
    let before = counts[0].bytes();
    set(&session, &data).wait().expect("it is set");
    let bytes = support::data((counts[0].bytes() - before) as usize);
    let mut bare = BareFiles::create(dir.path(), voters as usize, &bytes);
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for _ in 0..sizes.one_by_one {
        theirs.timed(|| bare.append());
        ours.timed(|| set(&session, &data).wait().expect("it is set"));
    }
    let bare_p50 = theirs.percentile(50);
    println!(
        "{voters:6}  {store:6}  {:11}  {:6.0}  {:6.0}  {:8.0}  {:11.1}              {:10.2}  ({:.0}, {:.0})",
        1,
        ours.percentile(50),
        ours.percentile(99),
        1e6 / ours.percentile(50),
        1.0,
        ours.percentile(50) / bare_p50,
        bare_p50,
        theirs.percentile(99),
    );

    windowed(sizes.at_once / 10, OUTSTANDING, |_| set(&session, &data));
    let before: Vec<u64> = counts.iter().map(|count| count.appends()).collect();
    let busy = support::processor_time();
    let (times, whole) = windowed(sizes.at_once, OUTSTANDING, |_| set(&session, &data));
    let busy = support::processor_time() - busy;
    let cores = busy.as_secs_f64() / whole.as_secs_f64();
    let syncs = counts
        .iter()
        .zip(before)
        .map(|(count, before)| count.appends() - before);
    println!(
        "{voters:6}  {store:6}  {OUTSTANDING:11}  {:6.0}  {:6.0}  {:8.0}  {:11.1}  {cores:10.2}",
        times.percentile(50),
        times.percentile(99),
        sizes.at_once as f64 / whole.as_secs_f64(),
        // Of the store that syncs most.
        sizes.at_once as f64 / syncs.max().unwrap_or(1).max(1) as f64,
    );
}

fn set(session: &Session, data: &[u8]) -> quorate::Pending<quorate::Stat> {
    session.set("/bench", data, Version::ANY)
}

/// Files that are appended to at once, each by a thread of its own; one file by the caller itself.
struct BareFiles {
    own: Bare,
    bytes: bytes::Bytes,
    others: Vec<SyncSender<()>>,
    done: Receiver<()>,
}

impl BareFiles {
    fn create(dir: &Path, files: usize, bytes: &bytes::Bytes) -> BareFiles {
        let (report, done) = sync_channel(files);
        let others = (1..files).map(|number| {
            let mut bare = Bare::create(&dir.join(format!("bare-{number}")));
            let (report, bytes) = (report.clone(), bytes.clone());
            let (start, started) = sync_channel(1);
            std::thread::spawn(move || {
                for () in started {
                    bare.append(&bytes);
                    report.send(()).expect("it is waited for");
                }
            });
            start
        });
        BareFiles {
            others: others.collect(),
            own: Bare::create(&dir.join("bare-0")),
            bytes: bytes.clone(),
            done,
        }
    }

    fn append(&mut self) {
        for other in &self.others {
            other.send(()).expect("it waits for this");
        }
        self.own.append(&self.bytes);
        for _ in &self.others {
            self.done.recv().expect("it appends");
        }
    }
}

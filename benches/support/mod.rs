//! What the benches share: percentiles, a bare file to compare with, a store that counts, clusters.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each bench uses a part of it, compiled as its own"
)]

#[cfg(all(feature = "log", feature = "sled", feature = "tcp"))]
pub mod cluster;
#[cfg(all(feature = "log", feature = "sled", feature = "tcp"))]
pub mod process;

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate::storage::{
    Identity, LogEntry, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter, Storage,
    StorageError, WriteBatch,
};
use quorate::transport::Network;
use quorate::{Node, NodeBuilder, NodeId, Pending};

/// Whether to measure. Without `--bench`, and with `--test`, a bench only shows that it runs.
pub fn measuring() -> bool {
    let mut measuring = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--test" => return false,
            "--bench" => measuring = true,
            _ => {}
        }
    }
    measuring
}

/// The word on the command line that picks a part, if any.
pub fn wanted(part: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    words.next().is_none_or(|word| part.contains(&word))
}

/// A directory on a real disk: the one that holds the build, since `/tmp` may be memory.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build's directory is writable")
}

/// Paths of 40 bytes, a thousand in each parent.
pub fn leaf_paths(znodes: usize) -> Vec<String> {
    (0..znodes)
        .map(|n| format!("/services/s{:07}/member-{:014}", n / 1000, n))
        .collect()
}

/// Parents before children.
pub fn with_parents(leaves: &[String]) -> Vec<&str> {
    let mut paths = vec!["/services"];
    let mut last = "";
    for leaf in leaves {
        let parent = &leaf[..leaf.rfind('/').expect("absolute")];
        if parent != last {
            paths.push(parent);
            last = parent;
        }
        paths.push(leaf);
    }
    paths
}

/// Durations, to be summed up.
#[derive(Default, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn append(&mut self, mut others: Times) {
        self.0.append(&mut others.0);
    }

    pub fn timed<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = act();
        self.0.push(start.elapsed());
        result
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In microseconds; not a number where nothing was measured.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((sorted.len() * percent / 100).min(last))
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
    }
}

/// Keeps up to `outstanding` calls in flight until `count` were made. Returns how long each took from
/// its call to its answer, and all together.
pub fn windowed<T>(
    count: usize,
    outstanding: usize,
    mut call: impl FnMut(usize) -> Pending<T>,
) -> (Times, Duration) {
    let mut times = Times::default();
    let mut flying = VecDeque::with_capacity(outstanding);
    let begin = Instant::now();
    for number in 0..count + outstanding {
        if flying.len() >= outstanding || number >= count {
            let Some((start, pending)) = flying.pop_front() else {
                break;
            };
            let (start, pending): (Instant, Pending<T>) = (start, pending);
            pending.wait().expect("it succeeds");
            times.push(start.elapsed());
        }
        if number < count {
            flying.push_back((Instant::now(), call(number)));
        }
    }
    (times, begin.elapsed())
}

/// How long this process has kept processors busy; zero where there is no `/proc`.
pub fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses; user and system time, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let hundredths: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(hundredths * 10)
}

/// The file that a store can't be faster than: preallocated, written once, never extended.
pub struct Bare {
    file: File,
    offset: u64,
}

const PREALLOCATED_BYTES: usize = 64 << 20;

impl Bare {
    pub fn create(path: &Path) -> Bare {
        let file = File::create(path).expect("a file");
        file.write_all_at(&vec![0; PREALLOCATED_BYTES], 0)
            .expect("zeros");
        file.sync_all().expect("synced");
        Bare { file, offset: 0 }
    }

    pub fn append(&mut self, bytes: &[u8]) {
        if self.offset as usize + bytes.len() > PREALLOCATED_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset).expect("written");
        self.file.sync_data().expect("synced");
        self.offset += bytes.len() as u64;
    }
}

/// What went through a [`Counting`] store.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls of `append`: one sync each.
    pub appends: AtomicU64,
    /// Bytes of the entries.
    pub bytes: AtomicU64,
    /// Whether a snapshot is being written.
    pub snapshotting: AtomicBool,
    /// Snapshots published, and their bytes.
    pub snapshots: AtomicU64,
    pub snapshot_bytes: AtomicU64,
}

impl Counts {
    pub fn appends(&self) -> u64 {
        self.appends.load(Ordering::Relaxed)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn snapshotting(&self) -> bool {
        self.snapshotting.load(Ordering::Relaxed)
    }
}

/// Counts what goes to a store.
#[derive(Debug)]
pub struct Counting {
    store: Box<dyn Storage>,
    counts: Arc<Counts>,
}

impl Counting {
    pub fn new(store: Box<dyn Storage>) -> (Counting, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        let counting = Counting {
            store,
            counts: counts.clone(),
        };
        (counting, counts)
    }
}

impl Storage for Counting {
    fn recover(&self) -> Result<Recovered, StorageError> {
        self.store.recover()
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        self.store.bootstrap(identity, meta, data)
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        let bytes: usize = batch.entries.iter().map(|entry| entry.data.len()).sum();
        self.counts.appends.fetch_add(1, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.store.append(batch)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.store.entries(low, high, bytes_max)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.store.term(index)
    }

    fn bounds(&self) -> (u64, u64) {
        self.store.bounds()
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let writer = self.store.snapshot_writer(meta)?;
        self.counts.snapshotting.store(true, Ordering::Relaxed);
        Ok(Box::new(CountingWriter {
            writer: Some(writer),
            bytes: 0,
            counts: self.counts.clone(),
        }))
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        self.store.snapshot_reader()
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        self.store.compact(index)
    }
}

struct CountingWriter {
    writer: Option<Box<dyn SnapshotWriter>>,
    bytes: u64,
    counts: Arc<Counts>,
}

impl SnapshotWriter for CountingWriter {
    fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.bytes += chunk.len() as u64;
        self.writer
            .as_mut()
            .expect("not published yet")
            .write(chunk)
    }

    fn publish(mut self: Box<Self>) -> Result<(), StorageError> {
        self.writer.take().expect("not published yet").publish()?;
        let counts = &self.counts;
        counts
            .snapshot_bytes
            .fetch_add(self.bytes, Ordering::Relaxed);
        counts.snapshots.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for CountingWriter {
    fn drop(&mut self) {
        self.counts.snapshotting.store(false, Ordering::Relaxed);
    }
}

/// A durable store: `log` or `sled`.
#[cfg(all(feature = "log", feature = "sled"))]
pub fn durable(kind: &str, dir: &Path) -> Box<dyn Storage> {
    match kind {
        "sled" => {
            let options = quorate::storage::SledOptions::default();
            Box::new(quorate::storage::Sled::open(dir, options).expect("it opens"))
        }
        _ => {
            let options = quorate::storage::LogOptions::default();
            Box::new(quorate::storage::Log::open(dir, options).expect("it opens"))
        }
    }
}

/// `count` nodes on an in-process network, the leader first.
pub fn cluster(count: u64, configure: impl Fn(u64, NodeBuilder) -> NodeBuilder) -> Vec<Node> {
    let network = Network::new(1);
    let nodes = (1..=count).map(|id| {
        let endpoint = network.endpoint(NodeId::new(id).expect("not 0"));
        let builder = Node::builder(id).voters(1..=count).transport(endpoint);
        configure(id, builder).start().expect("it starts")
    });
    let mut nodes: Vec<Node> = nodes.collect();
    for node in &nodes {
        node.wait_for(Duration::from_secs(30), |status| status.leader.is_some())
            .expect("there is a leader");
    }
    nodes.sort_by_key(|node| node.status().leader != Some(node.id()));
    nodes
}

/// Bytes that look like data.
pub fn data(bytes: usize) -> Bytes {
    (0..bytes).map(|n| n as u8).collect()
}

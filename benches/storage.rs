//! How long one durable append takes, against a bare append and `fdatasync` to a preallocated file
//! on the same disk. The contenders take turns, so that all meet the same moods of the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use quorate::storage::{
    EntryKind, Identity, Log, LogEntry, LogOptions, Sled, SledOptions, SnapshotMeta, Storage,
    WriteBatch,
};
use quorate::{ClusterId, NodeId};

const ENTRY_BYTES: usize = 256;
const PREALLOCATED_BYTES: usize = 64 << 20;

/// The file that a store can't be faster than.
struct Bare {
    file: File,
    offset: u64,
}

impl Bare {
    fn create(path: &Path) -> Bare {
        let file = File::create(path).expect("a file");
        file.write_all_at(&vec![0; PREALLOCATED_BYTES], 0)
            .expect("zeros");
        file.sync_all().expect("synced");
        Bare { file, offset: 0 }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.offset as usize + bytes.len() > PREALLOCATED_BYTES {
            self.offset = 0;
        }
        self.file.write_all_at(bytes, self.offset).expect("written");
        self.file.sync_data().expect("synced");
        self.offset += bytes.len() as u64;
    }
}

fn bootstrap(store: &dyn Storage) {
    let node = NodeId::new(1).expect("1 is not 0");
    let identity = Identity {
        cluster: ClusterId(1),
        node,
    };
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store.bootstrap(identity, &meta, b"").expect("bootstrapped");
}

fn append(store: &dyn Storage, count: u64, data: &Bytes) {
    let first = store.bounds().1 + 1;
    let entries = (first..first + count)
        .map(|index| LogEntry {
            index,
            term: 1,
            kind: EntryKind::Command,
            data: data.clone(),
        })
        .collect();
    let batch = WriteBatch {
        entries,
        hard_state: None,
    };
    store.append(&batch).expect("appended");
}

/// The median and the 99th percentile of how many microseconds each took.
fn percentiles(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

fn timed(times: &mut Vec<f64>, act: impl FnOnce()) {
    let begin = Instant::now();
    act();
    times.push(begin.elapsed().as_secs_f64() * 1e6);
}

fn main() {
    // Without `--bench`, and with `--test`, it only shows that it runs.
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let measures = has("--bench") && !has("--test");
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let data = Bytes::from(vec![7; ENTRY_BYTES]);
    println!("entries  store  p50 us  p99 us  p50 / bare");
    for (count, rounds) in [(1, 2000), (16, 1000), (256, 300)] {
        let rounds = if measures { rounds } else { 3 };
        let mut bare = Bare::create(&dir.path().join("bare"));
        let log = Log::open(
            dir.path().join(format!("log-{count}")),
            LogOptions::default(),
        )
        .expect("a log");
        let sled = Sled::open(
            dir.path().join(format!("sled-{count}")),
            SledOptions::default(),
        )
        .expect("a sled");
        bootstrap(&log);
        bootstrap(&sled);
        let bytes = data.repeat(count as usize);
        let (mut bare_us, mut log_us, mut sled_us) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            timed(&mut bare_us, || bare.append(&bytes));
            timed(&mut log_us, || append(&log, count, &data));
            timed(&mut sled_us, || append(&sled, count, &data));
        }
        let (base, _) = percentiles(bare_us.clone());
        for (name, times) in [("bare", bare_us), ("log", log_us), ("sled", sled_us)] {
            let (p50, p99) = percentiles(times);
            println!(
                "{count:7}  {name:5}  {p50:6.0}  {p99:6.0}  {:.2}",
                p50 / base
            );
        }
    }
}

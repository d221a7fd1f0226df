//! Bugs that happened to others, as far as the log store prevents them: scenarios of ARCHITECTURE.md's
//! table. Each has a mutation in `.ci/mutations` that takes its guard out.

use std::sync::Arc;

use bytes::Bytes;
use quorate::storage::{
    EntryKind, HardState, Identity, Log, LogEntry, LogOptions, SnapshotMeta, Storage, StorageError,
    WriteBatch,
};
use quorate::testing::storage_files::FaultyFiles;
use quorate::{ClusterId, NodeId};

fn open(files: &FaultyFiles) -> Result<Log, StorageError> {
    let options = LogOptions {
        segment_bytes: 16 << 10,
        spare_segments_max: 1,
    };
    Log::open_on(Arc::new(files.clone()), "/node", options)
}

/// A new store, whose first snapshot is at entry 1.
fn new_store(files: &FaultyFiles) -> Log {
    let identity = Identity {
        cluster: ClusterId(9),
        node: NodeId::new(1).unwrap(),
    };
    let store = open(files).unwrap();
    store.bootstrap(identity, &meta(1, 1), b"first").unwrap();
    store
}

fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index,
        term,
        ..SnapshotMeta::default()
    }
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        index,
        term,
        kind: EntryKind::Command,
        data: Bytes::from(vec![term as u8; 700]),
    }
}

fn append(store: &Log, index: u64, term: u64) -> Result<(), StorageError> {
    let vote = NodeId::new(2);
    store.append(&WriteBatch {
        entries: vec![entry(index, term)],
        hard_state: Some(HardState {
            term,
            vote,
            commit: 1,
        }),
    })
}

fn publish(store: &Log, index: u64, content: &[u8]) -> Result<(), StorageError> {
    let mut writer = store.snapshot_writer(&meta(index, store.term(index)?))?;
    writer.write(content)?;
    writer.publish()
}

fn content(store: &Log) -> Vec<u8> {
    let mut reader = store.snapshot_reader().unwrap().unwrap();
    reader.read(0, 1 << 20).unwrap().to_vec()
}

fn terms(store: &Log) -> Vec<u64> {
    let (first, last) = store.bounds();
    let entries = store.entries(first, last + 1, u64::MAX).unwrap();
    entries.iter().map(|entry| entry.term).collect()
}

#[test]
fn scenario_06_b_a_store_that_has_failed_once_takes_nothing_more() {
    // ZOOKEEPER-4882: after an error of the disk the log went on, with a hole in it.
    let mut failures = 0;
    for nth in 0..40 {
        let files = FaultyFiles::new();
        let store = new_store(&files);
        append(&store, 2, 1).unwrap();
        files.fail_once(nth);
        let mut acknowledged = 2;
        let mut failed = false;
        for index in 3..12 {
            match append(&store, index, 1) {
                Ok(()) => {
                    assert!(!failed, "acknowledged after a failure at operation {nth}");
                    acknowledged = index;
                }
                Err(_) => failed = true,
            }
        }
        failures += usize::from(failed);
        drop(store);
        files.crash_losing_all();
        let store = open(&files).unwrap();
        assert!(store.bounds().1 >= acknowledged);
        assert_eq!(terms(&store).len() as u64, store.bounds().1 - 1);
    }
    assert!(failures > 5, "hardly anything has failed");
}

#[test]
fn scenario_07_a_entries_that_were_replaced_stay_replaced() {
    // ZOOKEEPER-3526: after a truncation a part of the old log was left, and came back with the restart.
    let files = FaultyFiles::new();
    let store = new_store(&files);
    for index in 2..=40 {
        append(&store, index, 1).unwrap();
    }
    append(&store, 5, 2).unwrap();
    append(&store, 6, 2).unwrap();
    assert_eq!(terms(&store), [1, 1, 1, 2, 2]);
    drop(store);
    files.crash_losing_all();
    let store = open(&files).unwrap();
    assert_eq!(terms(&store), [1, 1, 1, 2, 2]);
}

#[test]
fn scenario_09_a_of_two_snapshots_in_quick_succession_the_newer_one_stays() {
    // etcd #18055: two snapshots came shortly after each other, and the older one won.
    let files = FaultyFiles::new();
    let store = new_store(&files);
    for index in 2..=10 {
        append(&store, index, 1).unwrap();
    }
    let mut older = store.snapshot_writer(&meta(5, 1)).unwrap();
    older.write(b"as of 5").unwrap();
    publish(&store, 8, b"as of 8").unwrap();
    assert!(matches!(older.publish(), Err(StorageError::Refused { .. })));
    assert_eq!(content(&store), b"as of 8");
    drop(store);
    files.crash_losing_all();
    let store = open(&files).unwrap();
    assert_eq!(store.recover().unwrap().snapshot.unwrap().index, 8);
    assert_eq!(content(&store), b"as of 8");
}

#[test]
fn scenario_10_a_crash_at_any_step_of_a_compaction_loses_nothing() {
    // etcd #17780 and #14685: a crash during a compaction left a store that was wrong, or that didn't
    // open any more.
    let mut crashes = 0;
    for nth in 0..60 {
        let files = FaultyFiles::new();
        let store = new_store(&files);
        for index in 2..=100 {
            append(&store, index, 1).unwrap();
        }
        publish(&store, 90, b"as of 90").unwrap();
        files.fail_from(nth);
        let compacted = store.compact(80);
        drop(store);
        files.crash_losing_all();
        let store = open(&files).expect("a store that opens");
        let (first, last) = store.bounds();
        assert_eq!(last, 100);
        assert!(first == 2 || first == 81, "{first}");
        assert!(compacted.is_err() || first == 81);
        assert_eq!(terms(&store).len() as u64, last + 1 - first);
        assert_eq!(content(&store), b"as of 90");
        crashes += usize::from(compacted.is_err());
    }
    assert!(crashes > 3, "hardly any crash was in the middle of it");
}

#[test]
fn scenario_15_a_what_was_acknowledged_is_there_after_a_loss_of_power() {
    // NATS's Jepsen report: files were synced every two minutes, and acknowledged writes were gone with
    // the power.
    for last in 2..=30 {
        let files = FaultyFiles::new();
        let store = new_store(&files);
        for index in 2..=last {
            append(&store, index, 1).unwrap();
        }
        files.crash_losing_all();
        drop(store);
        let store = open(&files).expect("a store that remembers");
        assert_eq!(store.bounds(), (2, last));
    }
}

#[test]
fn scenario_15_b_a_flipped_bit_in_the_log_stops_the_node() {
    // NATS's Jepsen report: a node whose file was damaged dropped what followed, and the cluster split.
    let files = FaultyFiles::new();
    let store = new_store(&files);
    for index in 2..=12 {
        append(&store, index, 1).unwrap();
    }
    drop(store);
    let segment = files
        .paths()
        .into_iter()
        .find(|path| path.to_string_lossy().contains("segment-"))
        .unwrap();
    let whole = files.content(&segment);
    // Within the data of entries, which the last record is not part of.
    let at = whole
        .windows(500)
        .position(|bytes| bytes.iter().all(|&byte| byte == 1))
        .unwrap();
    let copy = files.fork();
    let mut damaged = whole;
    damaged[at + 100] ^= 4;
    copy.set_content(&segment, damaged);
    let refused = open(&copy).expect_err("a damaged log is no log");
    assert!(
        matches!(refused, StorageError::Corrupt { .. }),
        "{refused:?}"
    );
}

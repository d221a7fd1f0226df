//! The fence, the torn tail and the first moments of a store: what recovery may conclude.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use quorate::storage::{
    EntryKind, HardState, Identity, Log, LogEntry, LogOptions, SnapshotMeta, Storage, StorageError,
    WriteBatch,
};
use quorate::testing::storage_files::FaultyFiles;
use quorate::{ClusterId, NodeId};

const FENCE: &str = "/node/fence";

fn open(files: &FaultyFiles) -> Result<Log, StorageError> {
    Log::open_on(
        Arc::new(files.clone()),
        "/node",
        LogOptions {
            segment_bytes: 16 << 10,
            spare_segments_max: 1,
        },
    )
}

fn bootstrapped(files: &FaultyFiles) -> Log {
    let store = open(files).expect("a new store");
    let identity = Identity {
        cluster: ClusterId(9),
        node: NodeId::new(1).expect("not 0"),
    };
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store
        .bootstrap(identity, &meta, b"first")
        .expect("bootstrapped");
    store
}

fn append(store: &Log, index: u64) -> Result<(), StorageError> {
    let data = Bytes::from(vec![index as u8; 700]);
    let entry = LogEntry {
        index,
        term: 1,
        kind: EntryKind::Command,
        data,
    };
    store.append(&WriteBatch {
        entries: vec![entry],
        hard_state: None,
    })
}

fn vote(store: &Log, term: u64, node: u64) {
    let hard_state = Some(HardState {
        term,
        vote: NodeId::new(node),
        commit: 1,
    });
    store
        .append(&WriteBatch {
            entries: Vec::new(),
            hard_state,
        })
        .expect("a vote");
}

fn paths(files: &FaultyFiles, part: &str) -> Vec<PathBuf> {
    files
        .paths()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(part))
        .collect()
}

/// A record that is read back at open may be in the page cache only. Who is told of it may answer
/// the leader for it: then a loss of power must not take it away any more.
#[test]
fn what_was_recovered_once_is_durable() {
    let files = FaultyFiles::new();
    let store = bootstrapped(&files);
    append(&store, 2).expect("an append");
    files.fail_once(1);
    append(&store, 3).expect_err("the sync fails");
    drop(store);
    files.kill();
    let store = open(&files).expect("no damage");
    assert_eq!(store.bounds(), (2, 3), "the page cache has the record");
    drop(store);
    files.crash_losing_all();
    assert_eq!(open(&files).expect("no damage").bounds(), (2, 3));
}

#[test]
fn an_unsynced_record_is_lost_with_the_power() {
    let files = FaultyFiles::new();
    let store = bootstrapped(&files);
    files.fail_once(1);
    append(&store, 2).expect_err("the sync fails");
    files.fail_from(0);
    drop(store);
    files.crash_losing_all();
    assert_eq!(open(&files).expect("no damage").bounds(), (2, 1));
}

#[test]
fn no_single_flipped_bit_makes_a_new_store_look_unfinished() {
    let files = FaultyFiles::new();
    drop(bootstrapped(&files));
    let content = files.content(FENCE);
    for at in (0..100).chain(4096..4196) {
        for bit in 0..8 {
            let copy = files.fork();
            let mut flipped = content.clone();
            flipped[at] ^= 1 << bit;
            copy.set_content(FENCE, flipped);
            if let Ok(store) = open(&copy) {
                let recovered = store.recover().expect("it runs");
                assert!(
                    recovered.identity.is_some(),
                    "byte {at}, bit {bit}: it starts from nothing"
                );
            }
        }
    }
}

#[test]
fn a_vote_is_witnessed_beyond_a_loss_of_power() {
    let files = FaultyFiles::new();
    let store = bootstrapped(&files);
    append(&store, 2).expect("an append");
    let old = files.fork();
    vote(&store, 5, 2);
    files.fail_from(0);
    drop(store);
    files.crash_losing_all();
    paths(&old, "/log/")
        .iter()
        .for_each(|path| files.set_content(path, old.content(path)));
    let opened = open(&files).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "the vote is gone: {opened:?}"
    );
}

#[test]
fn an_entry_is_witnessed_beyond_a_killed_process() {
    let files = FaultyFiles::new();
    let store = bootstrapped(&files);
    append(&store, 2).expect("an append");
    let old = files.fork();
    append(&store, 3).expect("an append");
    files.kill();
    drop(store);
    paths(&old, "/log/")
        .iter()
        .for_each(|path| files.set_content(path, old.content(path)));
    let opened = open(&files).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "entry 3 is gone: {opened:?}"
    );
}

/// After a loss of power the fence may lag. Then the records themselves tell damage from a tail.
#[test]
fn damage_before_later_records_is_no_torn_tail_though_the_fence_lags() {
    let files = FaultyFiles::new();
    let store = bootstrapped(&files);
    let fence = files.content(FENCE);
    (2..=6).for_each(|index| append(&store, index).expect("an append"));
    files.kill();
    drop(store);
    files.set_content(FENCE, fence);
    assert_eq!(
        open(&files.fork()).expect("a fence may lag").bounds(),
        (2, 6)
    );
    let path = paths(&files, "segment-").pop().expect("a segment");
    let mut content = files.content(&path);
    let at = content
        .windows(700)
        .position(|window| window == [4; 700])
        .expect("entry 4's data");
    content[at + 5] ^= 1;
    files.set_content(&path, content);
    let opened = open(&files).map(drop);
    let Err(StorageError::Corrupt {
        path: named,
        offset,
        ..
    }) = &opened
    else {
        panic!("{opened:?}")
    };
    assert_eq!(
        (named.as_str(), at as u64 - offset < 100),
        (&*path.to_string_lossy(), true),
        "{opened:?}"
    );
}

/// Unsynced writes of the fence must not tear the slot that is durable.
#[test]
fn no_loss_of_power_leaves_the_fence_without_a_whole_slot() {
    for seed in 0..300 {
        let files = FaultyFiles::new();
        let store = bootstrapped(&files);
        vote(&store, 2, 1);
        (2..=5).for_each(|index| append(&store, index).expect("an append"));
        files.fail_from(0);
        drop(store);
        files.crash(seed);
        let opened = open(&files).map(|store| store.bounds());
        assert!(matches!(opened, Ok((2, 5))), "seed {seed}: {opened:?}");
    }
}

#[test]
fn every_acknowledged_record_of_a_recycled_file_is_its_own() {
    let files = FaultyFiles::new();
    let mut store = bootstrapped(&files);
    for index in 2..400 {
        append(&store, index).expect("an append");
        if index % 40 == 0 {
            let meta = SnapshotMeta {
                index,
                term: 1,
                ..SnapshotMeta::default()
            };
            store
                .snapshot_writer(&meta)
                .and_then(|writer| writer.publish())
                .expect("published");
            store.compact(index).expect("compacted");
        }
        if index % 7 == 0 {
            files.fail_from(0);
            drop(store);
            files.crash(index);
            store = open(&files).expect("nothing is wrong");
            assert_eq!(store.bounds().1, index);
        }
    }
    assert!(
        paths(&files, "segment-0000000000000001").is_empty(),
        "the first segment was recycled"
    );
}

#[test]
fn a_batch_of_sixty_four_megabytes_works_and_one_byte_more_is_refused() {
    let parent = tempfile::tempdir().expect("a directory");
    let store = Log::open(parent.path(), LogOptions::default()).expect("a new store");
    let identity = Identity {
        cluster: ClusterId(9),
        node: NodeId::new(1).expect("not 0"),
    };
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store
        .bootstrap(identity, &meta, b"first")
        .expect("bootstrapped");
    let batch = |length| {
        let data = Bytes::from(vec![5; length]);
        let entry = LogEntry {
            index: 2,
            term: 1,
            kind: EntryKind::Command,
            data,
        };
        WriteBatch {
            entries: vec![entry],
            hard_state: None,
        }
    };
    let refused = store.append(&batch((64 << 20) + 1));
    assert!(
        matches!(refused, Err(StorageError::Refused { .. })),
        "{refused:?}"
    );
    store.append(&batch(64 << 20)).expect("64 MiB");
    append(&store, 3).expect("an append behind it");
    drop(store);
    let store = Log::open(parent.path(), LogOptions::default()).expect("undamaged");
    assert_eq!(store.bounds(), (2, 3));
    assert_eq!(
        store.entries(2, 3, 0).expect("entry 2")[0].data.len(),
        64 << 20
    );
}

//! Damage to a store's files: noticed at open with a typed error, or without any effect on what is
//! held. Never a panic, never a start from less.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quorate::storage::{
    EntryKind, HardState, Identity, Log, LogEntry, LogOptions, Recovered, SnapshotMeta, Storage,
    StorageError, WriteBatch,
};
use quorate::testing::storage_files::FaultyFiles;
use quorate::{ClusterId, NodeId};

const DIR: &str = "/node";

fn identity(node: u64) -> Identity {
    Identity {
        cluster: ClusterId(9),
        node: NodeId::new(node).expect("not 0"),
    }
}

fn open(files: &FaultyFiles) -> Result<Log, StorageError> {
    open_with_spares(files, 1)
}

fn open_with_spares(files: &FaultyFiles, spare_segments_max: usize) -> Result<Log, StorageError> {
    Log::open_on(
        Arc::new(files.clone()),
        DIR,
        LogOptions {
            segment_bytes: 16 << 10,
            spare_segments_max,
        },
    )
}

fn append(store: &Log, index: u64, term: u64) {
    let data = Bytes::from(vec![index as u8; 700]);
    let entry = LogEntry {
        index,
        term,
        kind: EntryKind::Command,
        data,
    };
    let hard_state = Some(HardState {
        term,
        vote: NodeId::new(2),
        commit: index - 1,
    });
    store
        .append(&WriteBatch {
            entries: vec![entry],
            hard_state,
        })
        .expect("an append");
}

fn publish(store: &Log, index: u64) {
    let meta = SnapshotMeta {
        index,
        term: store.term(index).expect("a term"),
        ..SnapshotMeta::default()
    };
    let mut writer = store.snapshot_writer(&meta).expect("a writer");
    writer.write(&vec![7; 70_000]).expect("a chunk");
    writer.publish().expect("published");
}

/// A store of several segments with a snapshot, closed cleanly.
fn filled(node: u64) -> FaultyFiles {
    let files = FaultyFiles::new();
    let store = open(&files).expect("a new store");
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store
        .bootstrap(identity(node), &meta, b"first")
        .expect("bootstrapped");
    (2..=60).for_each(|index| append(&store, index, 1 + index / 20));
    publish(&store, 40);
    store.compact(30).expect("compacted");
    (61..=64).for_each(|index| append(&store, index, 5));
    drop(store);
    files
}

/// All that can be read.
type Held = (Recovered, Vec<LogEntry>, Vec<u8>);

fn held(store: &Log) -> Result<Held, StorageError> {
    let recovered = store.recover()?;
    let entries = store.entries(recovered.first_index, recovered.last_index + 1, u64::MAX)?;
    let mut content = Vec::new();
    if let Some(mut reader) = store.snapshot_reader()? {
        while (content.len() as u64) < reader.len_bytes() {
            content.extend_from_slice(&reader.read(content.len() as u64, 9_000)?);
        }
    }
    Ok((recovered, entries, content))
}

/// Damages a copy, opens it, and wants an error or all that there was.
fn ensure_noticed(
    files: &FaultyFiles,
    whole: &Held,
    what: &str,
    damage: impl FnOnce(&FaultyFiles),
) -> bool {
    let copy = files.fork();
    damage(&copy);
    match open(&copy) {
        Err(StorageError::Io { reason, .. }) => panic!("{what}: not a typed error: {reason}"),
        Err(_) => true,
        Ok(store) => {
            assert!(
                held(&store).is_ok_and(|found| found == *whole),
                "{what}: it opens with something else"
            );
            false
        }
    }
}

fn names(files: &FaultyFiles, part: &str) -> Vec<PathBuf> {
    files
        .paths()
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(part))
        .collect()
}

#[test]
fn a_flipped_bit_anywhere_is_noticed_or_without_effect() {
    let files = filled(1);
    let whole = held(&open(&files.fork()).expect("undamaged")).expect("readable");
    let mut noticed = 0;
    for path in files.paths() {
        let content = files.content(&path);
        let step = if content.len() > 10_000 { 61 } else { 3 };
        for at in (0..content.len()).filter(|at| *at < 120 || at % step == 0) {
            let what = format!("{}, byte {at}", path.display());
            let flip = |files: &FaultyFiles| {
                let mut content = content.clone();
                content[at] ^= 1 << (at % 8);
                files.set_content(&path, content);
            };
            noticed += u64::from(ensure_noticed(&files, &whole, &what, flip));
        }
    }
    assert!(noticed > 1000, "only {noticed} flips were noticed");
}

#[test]
fn every_bit_of_the_last_record_and_of_headers_is_noticed() {
    let files = filled(1);
    let whole = held(&open(&files.fork()).expect("undamaged")).expect("readable");
    let last = names(&files, "segment-").pop().expect("a segment");
    let content = files.content(&last);
    let data = content
        .windows(700)
        .position(|window| window == [64; 700])
        .expect("entry 64's data");
    // Before it: 32 bytes, a hard state of 24, the index of 8, and 16 for the entry.
    for at in (data - 80..data + 700).chain(0..56) {
        for bit in 0..8 {
            let is_noticed =
                ensure_noticed(&files, &whole, &format!("byte {at}, bit {bit}"), |files| {
                    let mut content = content.clone();
                    content[at] ^= 1 << bit;
                    files.set_content(&last, content);
                });
            assert!(is_noticed, "byte {at}, bit {bit} of {}", last.display());
        }
    }
}

#[test]
fn a_file_cut_short_emptied_zeroed_or_removed_is_noticed() {
    let files = filled(1);
    let whole = held(&open(&files.fork()).expect("undamaged")).expect("readable");
    for path in files.paths() {
        let content = files.content(&path);
        let is_needed = !path.to_string_lossy().contains("spare");
        for length in [
            0,
            1,
            55,
            100,
            4095,
            4096,
            5000,
            content.len() / 2,
            content.len() - 1,
        ] {
            let what = format!("{} cut to {length}", path.display());
            let cut = |files: &FaultyFiles| {
                files.set_content(&path, content[..length.min(content.len() - 1)].to_vec())
            };
            assert_eq!(
                ensure_noticed(&files, &whole, &what, cut),
                is_needed,
                "{what}"
            );
        }
        let what = format!("{} zeroed", path.display());
        let zero = |files: &FaultyFiles| files.set_content(&path, vec![0; content.len()]);
        assert_eq!(
            ensure_noticed(&files, &whole, &what, zero),
            is_needed,
            "{what}"
        );
        let what = format!("{} removed", path.display());
        assert_eq!(
            ensure_noticed(&files, &whole, &what, |files| files.delete(&path)),
            is_needed,
            "{what}"
        );
    }
}

#[test]
fn a_store_emptied_beside_its_fence_is_amnesia() {
    let files = filled(1);
    for part in ["/log/", "/log/segment", "/snapshots/"] {
        let copy = files.fork();
        names(&copy, part).iter().for_each(|path| copy.delete(path));
        let opened = open(&copy).map(drop);
        let is_typed = matches!(
            opened,
            Err(StorageError::Amnesia { .. } | StorageError::Corrupt { .. })
        );
        assert!(is_typed, "without {part}: {opened:?}");
    }
    let copy = files.fork();
    copy.delete(Path::new(DIR).join("fence"));
    let opened = open(&copy).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "without the fence: {opened:?}"
    );
}

#[test]
fn an_older_copy_of_the_log_under_a_newer_fence_is_amnesia() {
    let files = filled(1);
    let old = files.fork();
    let store = open(&files).expect("undamaged");
    append(&store, 65, 6);
    drop(store);
    for path in names(&old, "/log/")
        .into_iter()
        .chain(names(&old, "/snapshots/"))
    {
        files.set_content(&path, old.content(&path));
    }
    let opened = open(&files).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "{opened:?}"
    );
}

#[test]
fn scenario_15_c_a_forgotten_vote_is_amnesia() {
    // NATS's Jepsen report: a node that had lost a part of its files voted a second time, and there were
    // two leaders.
    let files = filled(1);
    let old = files.fork();
    let store = open(&files).expect("undamaged");
    let hard_state = Some(HardState {
        term: 9,
        vote: NodeId::new(3),
        commit: 40,
    });
    store
        .append(&WriteBatch {
            entries: Vec::new(),
            hard_state,
        })
        .expect("a vote");
    drop(store);
    names(&old, "/log/")
        .iter()
        .for_each(|path| files.set_content(path, old.content(path)));
    let opened = open(&files).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "{opened:?}"
    );
}

#[test]
fn files_of_another_node_are_refused() {
    let (files, other) = (filled(1), filled(2));
    for part in ["fence", "segment-", "snapshot-"] {
        let copy = files.fork();
        names(&other, part)
            .iter()
            .for_each(|path| copy.set_content(path, other.content(path)));
        let opened = open(&copy).map(drop);
        assert!(
            matches!(opened, Err(StorageError::WrongIdentity { .. })),
            "{part} of another node: {opened:?}"
        );
    }
    let recovered = open(&files)
        .and_then(|store| store.recover())
        .expect("undamaged");
    assert!(recovered.check_identity(DIR, identity(1)).is_ok());
    let error = recovered
        .check_identity(DIR, identity(2))
        .expect_err("another node's");
    assert!(
        error.to_string().contains("/node belongs to node 1"),
        "{error}"
    );
}

#[test]
fn any_one_segment_of_another_node_is_refused() {
    let (files, other) = (filled(1), filled(2));
    let segments = names(&files, "segment-");
    assert!(segments.len() > 2, "{segments:?}");
    for path in segments {
        let copy = files.fork();
        copy.set_content(&path, other.content(&path));
        let opened = open(&copy).map(drop);
        let is_refused = matches!(opened, Err(StorageError::WrongIdentity { .. }));
        assert!(is_refused, "{}: {opened:?}", path.display());
    }
}

#[test]
fn another_version_of_the_format_is_named() {
    let files = filled(1);
    for part in ["fence", "segment-", "snapshot-"] {
        let copy = files.fork();
        for path in names(&files, part) {
            let mut content = copy.content(&path);
            content[4] = 2;
            if part == "fence" {
                content[4096 + 4] = 2;
            }
            copy.set_content(&path, content);
        }
        let opened = open(&copy).map(drop);
        let is_named = matches!(
            opened,
            Err(StorageError::WrongFormat {
                found: 2,
                supported: 1,
                ..
            })
        );
        assert!(is_named, "{part} of version 2: {opened:?}");
    }
}

#[test]
fn damage_that_comes_while_the_store_is_open_is_noticed_by_the_reader() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Log::open(dir.path(), LogOptions::default()).expect("a new store");
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store
        .bootstrap(identity(1), &meta, b"first")
        .expect("bootstrapped");
    (2..=4).for_each(|index| append(&store, index, 1));
    let path = dir.path().join("log/segment-0000000000000001");
    let mut content = std::fs::read(&path).expect("the segment");
    let at = content
        .windows(700)
        .position(|window| window == [3; 700])
        .expect("entry 3's data");
    content[at + 9] ^= 4;
    std::fs::write(&path, content).expect("damaged");
    assert!(store.entries(2, 3, u64::MAX).is_ok());
    let read = store.entries(2, 5, u64::MAX);
    assert!(
        matches!(read, Err(StorageError::Corrupt { .. })),
        "{read:?}"
    );
}

#[test]
fn a_directory_is_locked_while_it_is_open_even_within_one_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Log::open(dir.path(), LogOptions::default()).expect("a new store");
    let again = Log::open(dir.path(), LogOptions::default()).map(drop);
    assert!(
        matches!(again, Err(StorageError::Locked { .. })),
        "{again:?}"
    );
    drop(store);
    assert!(Log::open(dir.path(), LogOptions::default()).is_ok());
}

#[test]
fn a_torn_last_record_that_nobody_acknowledged_is_dropped_in_silence() {
    let files = filled(1);
    let whole = held(&open(&files.fork()).expect("undamaged")).expect("readable");
    let store = open(&files).expect("undamaged");
    files.fail_once(0);
    let entry = LogEntry {
        index: 65,
        term: 5,
        kind: EntryKind::Command,
        data: Bytes::from(vec![1; 5000]),
    };
    let torn = store.append(&WriteBatch {
        entries: vec![entry],
        hard_state: None,
    });
    assert!(
        matches!(torn, Err(StorageError::Io { doing: "write", .. })),
        "{torn:?}"
    );
    files.kill();
    drop(store);
    let store = open(&files).expect("a torn tail is no damage");
    assert_eq!(held(&store).expect("readable"), whole);
    append(&store, 65, 5);
}

#[test]
fn scenario_18_f_a_full_disk_stops_the_store_and_loses_nothing() {
    // A full disk: what no longer fitted was acknowledged, or took what was there along.
    let files = FaultyFiles::new();
    let store = open(&files).expect("a new store");
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store
        .bootstrap(identity(1), &meta, b"first")
        .expect("bootstrapped");
    files.limit_bytes(Some(60_000));
    let mut last = 1;
    let error = loop {
        assert!(last < 100, "acknowledged beyond the end of the disk");
        let data = Bytes::from(vec![3; 900]);
        let entry = LogEntry {
            index: last + 1,
            term: 1,
            kind: EntryKind::Command,
            data,
        };
        match store.append(&WriteBatch {
            entries: vec![entry],
            hard_state: None,
        }) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
    drop(store);
    files.limit_bytes(None);
    let store = open(&files).expect("there is room again");
    assert_eq!(store.bounds(), (2, last));
    append(&store, last + 1, 1);
}

/// A new segment's file used to be made under the name of a spare one. What a crash had left of it became
/// a spare beside the segment that got its number, and when that one retired two spares had one name: the
/// store stopped at the second, "No such file or directory". Killed processes showed it.
#[test]
fn a_store_interrupted_anywhere_goes_on_through_many_segments() {
    for step in 0..300 {
        let files = filled(1);
        let store = open_with_spares(&files, 3).expect("undamaged");
        files.fail_from(step);
        let interrupted = (65..).find(|&index| go_on(&store, index).is_err());
        files.kill();
        drop(store);
        let store = open_with_spares(&files, 3).expect("an interrupted store opens");
        // Segments retire before the next one is needed.
        let last = store.recover().expect("readable").last_index;
        if last > 40 {
            publish(&store, last);
            store.compact(last).expect("compacted");
        }
        for index in last + 1..last + 200 {
            go_on(&store, index).unwrap_or_else(|error| {
                panic!(
                    "interrupted at step {step}, entry {interrupted:?}; then at {index}: {error}"
                )
            });
        }
    }
}

/// Appends an entry; now and then what is far behind is compacted.
fn go_on(store: &Log, index: u64) -> Result<(), StorageError> {
    // Some entries take a segment of their own length.
    let length = if index.is_multiple_of(29) {
        20_000
    } else {
        1_500
    };
    let entry = LogEntry {
        index,
        term: 9,
        kind: EntryKind::Command,
        data: Bytes::from(vec![index as u8; length]),
    };
    let hard_state = Some(HardState {
        term: 9,
        vote: NodeId::new(2),
        commit: index - 1,
    });
    store.append(&WriteBatch {
        entries: vec![entry],
        hard_state,
    })?;
    if index.is_multiple_of(45) {
        let meta = SnapshotMeta {
            index: index - 1,
            term: store.term(index - 1)?,
            ..SnapshotMeta::default()
        };
        let mut writer = store.snapshot_writer(&meta)?;
        writer.write(b"state")?;
        writer.publish()?;
        store.compact(index - 5)?;
    }
    Ok(())
}

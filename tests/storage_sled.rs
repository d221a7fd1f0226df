//! What sled does to its files when they are damaged, and what the store on it makes of that.

use std::path::Path;

use bytes::Bytes;
use quorate::storage::{
    EntryKind, HardState, Identity, LogEntry, Sled, SledOptions, SnapshotMeta, Storage,
    StorageError, WriteBatch,
};
use quorate::{ClusterId, NodeId};

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(9),
        node: NodeId::new(4).expect("4 is not 0"),
    }
}

fn open(dir: &Path) -> Result<Sled, StorageError> {
    Sled::open(
        dir,
        SledOptions {
            segment_bytes: 2 << 20,
            ..SledOptions::default()
        },
    )
}

fn append(store: &Sled, index: u64, length: usize) {
    let entry = LogEntry {
        index,
        term: 1,
        kind: EntryKind::Command,
        data: Bytes::from(vec![index as u8; length]),
    };
    let hard_state = Some(HardState {
        term: 1,
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

/// Closed cleanly, with some 4 MiB in sled.
fn fill(dir: &Path) {
    let store = open(dir).expect("a new store");
    store
        .bootstrap(
            identity(),
            &SnapshotMeta {
                index: 1,
                term: 1,
                ..SnapshotMeta::default()
            },
            b"first",
        )
        .expect("bootstrapped");
    (2..=60).for_each(|index| append(&store, index, 70_000));
}

fn last_held(dir: &Path) -> Result<u64, StorageError> {
    let store = open(dir)?;
    let (first, last) = store.bounds();
    let entries = store.entries(first, last + 1, u64::MAX)?;
    for entry in &entries {
        assert_eq!(
            entry.data,
            vec![entry.index as u8; 70_000],
            "entry {}",
            entry.index
        );
    }
    assert_eq!(store.recover()?.hard_state.vote, NodeId::new(2));
    Ok(last)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

#[test]
fn a_damaged_sled_is_a_typed_error_or_holds_all() {
    let parent = tempfile::tempdir().expect("a directory");
    let whole = parent.path().join("whole");
    fill(&whole);
    assert_eq!(last_held(&whole).expect("undamaged"), 60);
    let data = std::fs::read(whole.join("sled/db")).expect("sled's data");
    let length = data.len();
    let mut damages: Vec<(String, Vec<u8>)> = Vec::new();
    for cut in [1, 4096, 300_000, 700_000, 1 << 20, 3 << 20, length] {
        damages.push((
            format!("cut by {cut}"),
            data[..length.saturating_sub(cut)].to_vec(),
        ));
    }
    for part in 1..16 {
        let mut flipped = data.clone();
        flipped[length / 16 * part + 77] ^= 16;
        damages.push((
            format!("a bit of byte {} flipped", length / 16 * part + 77),
            flipped,
        ));
    }
    for (what, content) in damages {
        let dir = parent.path().join("damaged");
        copy(&whole, &dir);
        std::fs::write(dir.join("sled/db"), content).expect("damaged");
        match last_held(&dir) {
            Ok(last) => assert_eq!(last, 60, "{what}: opened with less"),
            Err(StorageError::Amnesia { .. } | StorageError::Corrupt { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

#[test]
fn a_sled_that_is_gone_beside_its_fence_is_amnesia() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("node");
    fill(&dir);
    std::fs::remove_dir_all(dir.join("sled")).expect("removed");
    let opened = open(&dir).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "{opened:?}"
    );
}

#[test]
fn a_sled_without_its_fence_is_amnesia() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("node");
    fill(&dir);
    std::fs::remove_file(dir.join("fence")).expect("removed");
    let opened = open(&dir).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "{opened:?}"
    );
}

#[test]
fn an_older_copy_of_sled_under_a_newer_fence_is_amnesia() {
    let parent = tempfile::tempdir().expect("a directory");
    let (dir, old) = (parent.path().join("node"), parent.path().join("old"));
    fill(&dir);
    copy(&dir, &old);
    append(&open(&dir).expect("undamaged"), 61, 10);
    std::fs::remove_dir_all(dir.join("sled")).expect("removed");
    copy(&old.join("sled"), &dir.join("sled"));
    let opened = open(&dir).map(drop);
    assert!(
        matches!(opened, Err(StorageError::Amnesia { .. })),
        "{opened:?}"
    );
}

/// sled fails every open after a kill that left such a file.
#[test]
fn a_half_written_file_of_sled_s_own_is_removed() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("node");
    fill(&dir);
    std::fs::write(dir.join("sled/snap.0000000000000000.generating"), b"half").expect("written");
    assert_eq!(last_held(&dir).expect("it opens"), 60);
}

#[test]
fn no_value_is_large_enough_for_a_blob() {
    let parent = tempfile::tempdir().expect("a directory");
    let dir = parent.path().join("node");
    fill(&dir);
    let store = open(&dir).expect("undamaged");
    append(&store, 61, 5 << 20);
    drop(store);
    let blobs = std::fs::read_dir(dir.join("sled/blobs")).map_or(0, Iterator::count);
    assert_eq!(blobs, 0, "sled never syncs its blobs");
}

#[test]
fn a_directory_is_locked_while_it_is_open() {
    let parent = tempfile::tempdir().expect("a directory");
    let store = open(parent.path()).expect("a new store");
    let again = open(parent.path()).map(drop);
    assert!(
        matches!(again, Err(StorageError::Locked { .. })),
        "{again:?}"
    );
    drop(store);
    assert!(open(parent.path()).is_ok());
}

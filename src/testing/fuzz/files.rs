//! The files of a log store, each in the place of a good one.

use std::sync::Arc;

use super::*;
use crate::storage::{EntryKind, HardState, Log, LogEntry, LogOptions, WriteBatch};
use crate::testing::storage_files::FaultyFiles;

const DIR: &str = "/node";

const fn file(
    name: &'static str,
    read: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
) -> Reader {
    Reader {
        name,
        read,
        seeds,
        // A store of its own, on files in memory.
        fixed_bytes: 4 << 20,
        copies: 16,
        part_bytes: PART_BYTES_MAX,
    }
}

pub(super) const SEGMENT: Reader = file(
    "segment",
    |bytes| opens_with("segment-", bytes),
    || seed("segment-"),
);
pub(super) const FENCE: Reader = file(
    "fence",
    |bytes| opens_with("fence", bytes),
    || seed("fence"),
);
pub(super) const SNAPSHOT_FILE: Reader = file(
    "snapshot_file",
    |bytes| opens_with("snapshot-", bytes),
    || seed("snapshot-"),
);

fn open(files: &FaultyFiles) -> Option<Log> {
    let options = LogOptions {
        segment_bytes: 16 << 10,
        spare_segments_max: 0,
    };
    Log::open_on(Arc::new(files.clone()), DIR, options).ok()
}

/// The files of a small store.
fn store_files() -> FaultyFiles {
    let files = FaultyFiles::new();
    let store = open(&files).expect("an empty directory");
    let meta = |index| SnapshotMeta {
        index,
        term: 1,
        ..SnapshotMeta::default()
    };
    let identity = Identity {
        cluster: ClusterId(1),
        node: node(1),
    };
    store
        .bootstrap(identity, &meta(1), b"first")
        .expect("a new store");
    for index in 2..6 {
        let entry = LogEntry {
            index,
            term: 1,
            kind: EntryKind::Command,
            data: Bytes::from(vec![index as u8; 100]),
        };
        let batch = WriteBatch {
            entries: vec![entry],
            hard_state: Some(HardState {
                term: 1,
                vote: Some(node(1)),
                commit: index - 1,
            }),
        };
        store.append(&batch).expect("an append");
    }
    let mut writer = store.snapshot_writer(&meta(4)).expect("a writer");
    writer.write(b"second").expect("a piece");
    writer.publish().expect("published");
    drop(store);
    files
}

fn path_of(files: &FaultyFiles, part: &str) -> std::path::PathBuf {
    let is_it = |path: &std::path::PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(part))
    };
    files.paths().into_iter().find(is_it).expect("such a file")
}

/// Opens a store in which this file has these bytes, and reads all of it.
fn opens_with(part: &str, bytes: &[u8]) -> bool {
    let files = store_files();
    files.set_content(path_of(&files, part), bytes.to_vec());
    let Some(store) = open(&files) else {
        return false;
    };
    let Ok(recovered) = store.recover() else {
        return false;
    };
    let entries = store.entries(recovered.first_index, recovered.last_index + 1, 1 << 20);
    let content = store
        .snapshot_reader()
        .and_then(|reader| reader.map_or(Ok(Bytes::new()), |mut reader| reader.read(0, 1 << 20)));
    entries.is_ok() && content.is_ok()
}

fn seed(part: &str) -> Vec<(&'static str, Vec<u8>)> {
    let files = store_files();
    vec![("good", files.content(path_of(&files, part)))]
}

//! `Memory`: the store for tests and for nodes that may forget.
//!
//! It knows no disk; its durability ends with the process. A clone is another handle to the same
//! store, so that a node can be restarted on what its predecessor held.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::contract::{self, Held};
use super::{
    HardState, Identity, LogEntry, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter,
    Storage, StorageError, WriteBatch,
};

/// A store in memory. Cloning gives another handle to the same contents.
///
/// # Examples
/// ```
/// use quorate::storage::{Memory, Storage};
///
/// let store = Memory::new();
/// let restarted = store.clone();
/// assert_eq!(store.bounds(), restarted.bounds());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Memory {
    shared: Arc<RwLock<Contents>>,
}

/// A snapshot, and a log, that are published no more.
type Replaced = (Option<(SnapshotMeta, Bytes)>, VecDeque<LogEntry>);

#[derive(Debug, Default)]
struct Contents {
    identity: Option<Identity>,
    hard_state: HardState,
    snapshot: Option<(SnapshotMeta, Bytes)>,
    /// The entry before the first one held.
    compacted_index: u64,
    compacted_term: u64,
    entries: VecDeque<LogEntry>,
    /// Compacted, and yet to be freed: a few with each append, for all at once take some 50 ms a hundred
    /// thousand.
    discarded: VecDeque<LogEntry>,
}

/// How many compacted entries are freed with an append, beside as many as it has itself.
const FREED_PER_APPEND: usize = 64;

impl Memory {
    /// An empty store.
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl Contents {
    fn held(&self) -> Held {
        let first_index = self.compacted_index + 1;
        let last_index = self.compacted_index + self.entries.len() as u64;
        Held {
            first_index,
            last_index,
            hard_state: self.hard_state,
        }
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.compacted_index {
            return Some(self.compacted_term);
        }
        Some(self.entries.get(self.position(index)?)?.term)
    }

    fn position(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.compacted_index + 1)?).ok()
    }

    fn published(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref().map(|(meta, _)| meta)
    }

    /// Gives back what it takes the place of: freeing that takes long, and is for when nobody waits.
    fn publish(&mut self, meta: SnapshotMeta, data: Bytes) -> Replaced {
        let mut entries = VecDeque::new();
        if self.term(meta.index) != Some(meta.term) {
            std::mem::swap(&mut entries, &mut self.entries);
            self.compacted_index = meta.index;
            self.compacted_term = meta.term;
        }
        (self.snapshot.replace((meta, data)), entries)
    }
}

impl Storage for Memory {
    fn recover(&self) -> Result<Recovered, StorageError> {
        let contents = self.shared.read();
        let Held {
            first_index,
            last_index,
            hard_state,
        } = contents.held();
        let snapshot = contents.published().cloned();
        Ok(Recovered {
            identity: contents.identity,
            hard_state,
            snapshot,
            first_index,
            last_index,
        })
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        let mut contents = self.shared.write();
        if contents.identity.is_some() {
            return Err(contract::already_bootstrapped());
        }
        contract::check_configuration(&meta.configuration)?;
        contents.identity = Some(identity);
        contents.hard_state = HardState {
            term: meta.term,
            vote: None,
            commit: meta.index,
        };
        contents.publish(meta.clone(), Bytes::copy_from_slice(data));
        Ok(())
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        let mut contents = self.shared.write();
        if contents.identity.is_none() {
            return Err(contract::not_bootstrapped());
        }
        contract::check_batch(batch, contents.held(), |index| contents.term(index))?;
        if let Some(position) = batch
            .entries
            .first()
            .and_then(|first| contents.position(first.index))
        {
            contents.entries.truncate(position);
            contents.entries.extend(batch.entries.iter().cloned());
        }
        contents.hard_state = batch.hard_state.unwrap_or(contents.hard_state);
        let freed = FREED_PER_APPEND + batch.entries.len();
        let freed = freed.min(contents.discarded.len());
        contents.discarded.drain(..freed);
        Ok(())
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        let contents = self.shared.read();
        let Held {
            first_index,
            last_index,
            ..
        } = contents.held();
        let mut entries = Vec::new();
        if !contract::check_range(low, high, first_index, last_index)? {
            return Ok(entries);
        }
        let mut bytes = 0;
        let begin = contents.position(low).unwrap_or(0);
        for entry in contents
            .entries
            .iter()
            .skip(begin)
            .take((high - low) as usize)
        {
            bytes += entry.data.len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        let contents = self.shared.read();
        let Held {
            first_index,
            last_index,
            ..
        } = contents.held();
        contents
            .term(index)
            .ok_or_else(|| contract::no_term(index, first_index, last_index))
    }

    fn bounds(&self) -> (u64, u64) {
        let Held {
            first_index,
            last_index,
            ..
        } = self.shared.read().held();
        (first_index, last_index)
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        contract::check_snapshot(meta, self.shared.read().published())?;
        Ok(Box::new(MemorySnapshotWriter {
            store: self.clone(),
            meta: meta.clone(),
            data: Vec::new(),
        }))
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        let snapshot = self.shared.read().snapshot.clone();
        Ok(snapshot.map(|(meta, data)| {
            Box::new(MemorySnapshotReader { meta, data }) as Box<dyn SnapshotReader>
        }))
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        let mut contents = self.shared.write();
        if contract::check_compaction(index, contents.held(), contents.published())? {
            contents.compacted_term = contents.term(index).unwrap_or(0);
            let dropped = (index - contents.compacted_index) as usize;
            let kept = contents.entries.split_off(dropped);
            let compacted = std::mem::replace(&mut contents.entries, kept);
            if contents.discarded.is_empty() {
                contents.discarded = compacted;
            } else {
                contents.discarded.extend(compacted);
            }
            contents.compacted_index = index;
        }
        Ok(())
    }
}

struct MemorySnapshotWriter {
    store: Memory,
    meta: SnapshotMeta,
    data: Vec<u8>,
}

impl SnapshotWriter for MemorySnapshotWriter {
    fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.data.extend_from_slice(chunk);
        Ok(())
    }

    fn publish(self: Box<Self>) -> Result<(), StorageError> {
        let data = Bytes::from(self.data);
        let mut contents = self.store.shared.write();
        contract::check_snapshot(&self.meta, contents.published())?;
        let before = contents.publish(self.meta, data);
        drop(contents);
        drop(before);
        Ok(())
    }
}

struct MemorySnapshotReader {
    meta: SnapshotMeta,
    data: Bytes,
}

impl SnapshotReader for MemorySnapshotReader {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn len_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    fn read(&mut self, offset: u64, bytes_max: usize) -> Result<Bytes, StorageError> {
        let begin = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(self.data.len());
        let end = begin.saturating_add(bytes_max).min(self.data.len());
        Ok(self.data.slice(begin..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::EntryKind;
    use crate::{ClusterId, NodeId};

    /// Entries from this index on.
    fn entries(first: u64, count: u64) -> WriteBatch {
        let entry = |index| LogEntry {
            index,
            term: 1,
            kind: EntryKind::Command,
            data: Bytes::from_static(b"entry"),
        };
        WriteBatch {
            entries: (first..first + count).map(entry).collect(),
            hard_state: None,
        }
    }

    #[test]
    fn what_is_compacted_is_freed_with_the_appends_that_follow() {
        // Freed at once, a hundred thousand entries held up the writer for 40 ms.
        let identity = Identity {
            cluster: ClusterId(1),
            node: NodeId::new(1).unwrap(),
        };
        let meta = |index| SnapshotMeta {
            index,
            term: 1,
            ..SnapshotMeta::default()
        };
        let store = Memory::new();
        store.bootstrap(identity, &meta(1), b"").unwrap();
        store.append(&entries(2, 1_000)).unwrap();
        let writer = store.snapshot_writer(&meta(1_001)).unwrap();
        writer.publish().unwrap();
        let discarded = || store.shared.read().discarded.len();
        store.compact(501).unwrap();
        store.compact(701).unwrap();
        assert_eq!(discarded(), 700);
        store.append(&entries(1_002, 36)).unwrap();
        assert_eq!(discarded(), 600);
        for index in 1_038..1_050 {
            store.append(&entries(index, 1)).unwrap();
        }
        assert_eq!(discarded(), 0);
        assert_eq!(store.bounds(), (702, 1_049));
    }
}

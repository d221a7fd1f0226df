//! A store in memory for the tests of this floor: exact about the contract, with failures on demand.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::storage::{
    HardState, Identity, LogEntry, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter,
    Storage, StorageError, WriteBatch,
};

#[derive(Debug, Default)]
struct State {
    identity: Option<Identity>,
    hard_state: HardState,
    snapshot: Option<SnapshotMeta>,
    /// The entry before the first held, and its term.
    start: (u64, u64),
    entries: Vec<LogEntry>,
    read_failure: Option<StorageError>,
    entries_read: u64,
}

impl State {
    fn last_index(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.start.0 {
            return Some(self.start.1);
        }
        let position = index.checked_sub(self.start.0 + 1)?;
        Some(self.entries.get(position as usize)?.term)
    }
}

/// The store; clones share what it holds, as a disk outlives a process.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryStore(Arc<Mutex<State>>);

impl MemoryStore {
    pub(super) fn bootstrapped(identity: Identity, meta: &SnapshotMeta) -> MemoryStore {
        let store = MemoryStore::default();
        store.bootstrap(identity, meta, b"").unwrap();
        store
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Publishes a snapshot without content.
    pub(super) fn publish(&self, meta: &SnapshotMeta) {
        let mut state = self.state();
        if state.term(meta.index) != Some(meta.term) {
            state.start = (meta.index, meta.term);
            state.entries.clear();
        }
        state.snapshot = Some(meta.clone());
    }

    /// Every later read of entries fails.
    pub(super) fn fail_reads(&self, error: StorageError) {
        self.state().read_failure = Some(error);
    }

    /// Cuts off what is after `index`, as a disk that lied would.
    pub(super) fn forget_after(&self, index: u64) {
        let mut state = self.state();
        let kept = index - state.start.0;
        state.entries.truncate(kept as usize);
    }

    /// How many entries were read back in all.
    pub(super) fn entries_read(&self) -> u64 {
        self.state().entries_read
    }

    pub(super) fn log(&self) -> Vec<LogEntry> {
        self.state().entries.clone()
    }
}

impl Storage for MemoryStore {
    fn recover(&self) -> Result<Recovered, StorageError> {
        let state = self.state();
        Ok(Recovered {
            identity: state.identity,
            hard_state: state.hard_state,
            snapshot: state.snapshot.clone(),
            first_index: state.start.0 + 1,
            last_index: state.last_index(),
        })
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        _data: &[u8],
    ) -> Result<(), StorageError> {
        let mut state = self.state();
        state.identity = Some(identity);
        state.hard_state = HardState {
            term: meta.term,
            vote: None,
            commit: meta.index,
        };
        state.start = (meta.index, meta.term);
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        let mut state = self.state();
        if let Some(first) = batch.entries.first() {
            assert!(
                first.index > state.start.0 && first.index <= state.last_index() + 1,
                "a gap: {first:?}"
            );
            let kept = first.index - state.start.0 - 1;
            state.entries.truncate(kept as usize);
            state.entries.extend_from_slice(&batch.entries);
        }
        if let Some(hard_state) = batch.hard_state {
            assert!(hard_state.term >= state.hard_state.term, "the term falls");
            state.hard_state = hard_state;
        }
        Ok(())
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        let mut state = self.state();
        if let Some(error) = &state.read_failure {
            return Err(error.clone());
        }
        if low <= state.start.0 {
            return Err(StorageError::Compacted {
                index: low,
                first_index: state.start.0 + 1,
            });
        }
        if high > state.last_index() + 1 {
            return Err(StorageError::Unavailable {
                index: high - 1,
                last_index: state.last_index(),
            });
        }
        let (low, high) = (
            (low - state.start.0 - 1) as usize,
            (high - state.start.0 - 1) as usize,
        );
        let mut bytes = 0;
        let fits = |entry: &&LogEntry| {
            bytes += entry.data.len() as u64;
            bytes <= bytes_max
        };
        let mut entries: Vec<LogEntry> = state.entries[low..high]
            .iter()
            .take_while(fits)
            .cloned()
            .collect();
        if entries.is_empty() {
            entries.push(state.entries[low].clone());
        }
        state.entries_read += entries.len() as u64;
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        let state = self.state();
        state.term(index).ok_or(StorageError::Unavailable {
            index,
            last_index: state.last_index(),
        })
    }

    fn bounds(&self) -> (u64, u64) {
        let state = self.state();
        (state.start.0 + 1, state.last_index())
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        Ok(Box::new(Writer {
            store: self.clone(),
            meta: meta.clone(),
        }))
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        let meta = self.state().snapshot.clone();
        Ok(meta.map(|meta| Box::new(Reader { meta }) as Box<dyn SnapshotReader>))
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        let mut state = self.state();
        if index <= state.start.0 {
            return Ok(());
        }
        let term = state.term(index).unwrap();
        let dropped = index - state.start.0;
        state.entries.drain(..dropped as usize);
        state.start = (index, term);
        Ok(())
    }
}

struct Writer {
    store: MemoryStore,
    meta: SnapshotMeta,
}

impl SnapshotWriter for Writer {
    fn write(&mut self, _chunk: &[u8]) -> Result<(), StorageError> {
        Ok(())
    }

    fn publish(self: Box<Self>) -> Result<(), StorageError> {
        self.store.publish(&self.meta);
        Ok(())
    }
}

struct Reader {
    meta: SnapshotMeta,
}

impl SnapshotReader for Reader {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn len_bytes(&self) -> u64 {
        0
    }

    fn read(&mut self, _offset: u64, _bytes_max: usize) -> Result<Bytes, StorageError> {
        Ok(Bytes::new())
    }
}

//! The log as raft-rs sees it: what the storage holds, with what was given out to be written laid
//! over it.
//!
//! raft-rs wants to read back an entry as soon as it was given out, long before it is durable, so the
//! entries in between are kept here, and a tail of the others as well, because followers mostly ask
//! for the last ones. Nothing is written here. The invariants: the cache is a contiguous tail of the
//! log; every entry after `stored` is in it; what is at or before `stored` reads the same from the
//! storage.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError as RaftStorageError};

use super::convert;
use super::terms::TermRuns;
use crate::NodeId;
use crate::storage::{Configuration, HardState, LogEntry, SnapshotMeta, Storage, StorageError};

/// What an entry counts for besides its data, in bytes: its numbers and its place in a message.
const ENTRY_OVERHEAD_BYTES: u64 = 24;

/// A write that was given out and is not known to be durable.
#[derive(Debug)]
enum Pending {
    /// Entries `first..=last`; those from `first` on that were there before are dropped.
    Entries { number: u64, first: u64, last: u64 },
    /// A snapshot that replaces the log.
    Install { number: u64, index: u64 },
}

impl Pending {
    fn number(&self) -> u64 {
        match *self {
            Pending::Entries { number, .. } | Pending::Install { number, .. } => number,
        }
    }

    fn last(&self) -> u64 {
        match *self {
            Pending::Entries { last, .. } => last,
            Pending::Install { index, .. } => index,
        }
    }
}

/// The log of one core.
#[derive(Debug)]
pub(super) struct LogView {
    storage: Arc<dyn Storage>,
    /// What raft-rs starts from.
    hard_state: HardState,
    /// The published snapshot that the core starts from.
    snapshot: SnapshotMeta,
    terms: TermRuns,
    /// A tail of the log, up to its last entry.
    cache: VecDeque<LogEntry>,
    cache_bytes: u64,
    /// How far the cache may grow by entries that the storage holds as well.
    cache_bytes_max: u64,
    /// The last entry that the storage holds, and that no pending write replaces.
    stored: u64,
    pending: VecDeque<Pending>,
    /// The first failure of a read. raft-rs can't be told of it without a panic, so the core looks here.
    failure: RefCell<Option<StorageError>>,
    /// A snapshot at or after this index is wanted by a follower; 0 is none.
    snapshot_wanted: Cell<u64>,
    /// The members that were added since this core began, each with the entry that added it.
    added: BTreeMap<NodeId, u64>,
}

impl LogView {
    /// Looks at what `storage` holds and checks that it can be gone on with.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        cache_bytes_max: u64,
    ) -> Result<LogView, StorageError> {
        let recovered = storage.recover()?;
        let Some(snapshot) = recovered.snapshot else {
            return Err(StorageError::Refused {
                reason: "a core needs a storage that holds a first snapshot".to_owned(),
            });
        };
        let corrupt = |reason: String| StorageError::Corrupt {
            path: "log".to_owned(),
            offset: 0,
            reason,
        };
        let (first_index, last_index) = (recovered.first_index, recovered.last_index);
        if snapshot.index == 0 || snapshot.term == 0 || first_index == 0 {
            return Err(corrupt(
                "the snapshot or the log begins at index or term 0".to_owned(),
            ));
        }
        if let Some(reason) =
            convert::configuration_fault(&convert::configuration_to_raft(&snapshot.configuration))
        {
            return Err(corrupt(reason.to_owned()));
        }
        if first_index > snapshot.index + 1
            || last_index < snapshot.index
            || last_index + 1 < first_index
        {
            return Err(corrupt(format!(
                "entries {first_index} to {last_index} don't join up with the snapshot at {}",
                snapshot.index
            )));
        }
        let terms = TermRuns::load(&*storage, first_index, last_index)?;
        let mut hard_state = recovered.hard_state;
        // A crash after the snapshot was published, before the hard state that came with it was written.
        hard_state.commit = hard_state.commit.max(snapshot.index);
        if hard_state.term < snapshot.term {
            hard_state.term = snapshot.term;
            hard_state.vote = None;
        }
        let last_term = terms.term(last_index).unwrap_or(0);
        if hard_state.commit > last_index || last_term > hard_state.term {
            return Err(StorageError::Amnesia {
                path: "log".to_owned(),
                reason: format!(
                    "term {} and commit {} were acknowledged, the log ends at entry {last_index} of term {last_term}",
                    hard_state.term, hard_state.commit
                ),
            });
        }
        Ok(LogView {
            storage,
            hard_state,
            snapshot,
            terms,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            stored: last_index,
            pending: VecDeque::new(),
            failure: RefCell::new(None),
            snapshot_wanted: Cell::new(0),
            added: BTreeMap::new(),
        })
    }

    pub(super) fn snapshot_meta(&self) -> &SnapshotMeta {
        &self.snapshot
    }

    /// The first failure of a read, if there was any: the core must stop.
    pub(super) fn failure(&self) -> Option<StorageError> {
        self.failure.borrow().clone()
    }

    /// The index from which on a snapshot is wanted for a follower, where the published one is older. Who
    /// has asked may be gone by now: that is known no sooner than a snapshot which would do is published.
    pub(super) fn snapshot_wanted(&self) -> Option<u64> {
        let wanted = self.snapshot_wanted.get();
        if wanted == 0 {
            return None;
        }
        let published = self.storage.recover().ok()?.snapshot.unwrap_or_default();
        if published.index >= wanted {
            self.snapshot_wanted.set(0);
            return None;
        }
        Some(wanted)
    }

    /// The change of membership in entry `index` was applied.
    pub(super) fn membership_changed(
        &mut self,
        index: u64,
        before: &Configuration,
        after: &Configuration,
    ) {
        self.added.retain(|&node, _| after.is_member(node));
        for node in convert::members(after) {
            if !before.is_member(node) {
                self.added.insert(node, index);
            }
        }
    }

    /// Lays the entries given out with write `number` over the log.
    pub(super) fn append(&mut self, number: u64, entries: &[LogEntry]) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let (first, last) = (first.index, last.index);
        while self.cache.back().is_some_and(|entry| entry.index >= first) {
            let dropped = self.cache.pop_back();
            self.cache_bytes -= dropped.map_or(0, |entry| size_bytes(&entry));
        }
        for entry in entries {
            self.terms.push(entry.index, entry.term);
            self.cache_bytes += size_bytes(entry);
            self.cache.push_back(entry.clone());
        }
        self.stored = self.stored.min(first - 1);
        self.pending.push_back(Pending::Entries {
            number,
            first,
            last,
        });
    }

    /// Replaces the log by the snapshot given out with write `number`.
    pub(super) fn install(&mut self, number: u64, meta: &SnapshotMeta) {
        self.terms = TermRuns::starting_after(meta.index, meta.term);
        self.cache.clear();
        self.cache_bytes = 0;
        self.stored = meta.index;
        self.pending.push_back(Pending::Install {
            number,
            index: meta.index,
        });
    }

    /// The writes up to `number` are durable: what they hold may be forgotten here.
    pub(super) fn persisted(&mut self, number: u64) {
        let mut durable = None;
        while self
            .pending
            .front()
            .is_some_and(|write| write.number() <= number)
        {
            durable = self.pending.pop_front();
        }
        let Some(durable) = durable else { return };
        self.stored = self
            .pending
            .iter()
            .fold(durable.last(), |stored, write| match *write {
                Pending::Entries { first, .. } => stored.min(first - 1),
                Pending::Install { index, .. } => index,
            });
        self.evict();
    }

    /// Follows a compaction of the storage, but not beyond `applied`: raft-rs still asks for the
    /// entries after it.
    pub(super) fn follow_compaction(&mut self, applied: u64) {
        let (first_index, _) = self.storage.bounds();
        let compacted = first_index
            .saturating_sub(1)
            .min(applied)
            .min(self.terms.last_index());
        self.terms.compact(compacted);
        while self
            .cache
            .front()
            .is_some_and(|entry| entry.index <= compacted.min(self.stored))
        {
            self.drop_oldest();
        }
    }

    /// The bytes of the entries held in memory.
    #[cfg(test)]
    #[cfg(test)]
    pub(super) fn cache_bytes(&self) -> u64 {
        self.cache_bytes
    }

    fn evict(&mut self) {
        while self.cache_bytes > self.cache_bytes_max
            && self
                .cache
                .front()
                .is_some_and(|entry| entry.index <= self.stored)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let dropped = self.cache.pop_front();
        self.cache_bytes -= dropped.map_or(0, |entry| size_bytes(&entry));
    }

    fn cache_first(&self) -> u64 {
        self.cache
            .front()
            .map_or(self.terms.last_index() + 1, |entry| entry.index)
    }

    /// The longest prefix of `low..high` that fits, at least one entry.
    fn read(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let cache_first = self.cache_first();
        if low < cache_first {
            let stored_high = high.min(cache_first);
            entries = self.storage.entries(low, stored_high, bytes_max)?;
            self.check_read(low, stored_high, &entries)?;
            if (entries.len() as u64) < stored_high - low {
                return Ok(entries);
            }
            bytes = entries.iter().map(size_bytes).sum();
        }
        let skipped = low.max(cache_first) - cache_first;
        for entry in self
            .cache
            .iter()
            .skip(skipped as usize)
            .take_while(|entry| entry.index < high)
        {
            bytes += size_bytes(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    /// A store of somebody else's may break its contract; raft-rs would do worse than say so.
    fn check_read(&self, low: u64, high: u64, entries: &[LogEntry]) -> Result<(), StorageError> {
        let in_place = |(index, entry): (u64, &LogEntry)| {
            entry.index == index && index < high && self.terms.term(index) == Some(entry.term)
        };
        if entries.is_empty() || !(low..).zip(entries).all(in_place) {
            return Err(StorageError::Corrupt {
                path: "log".to_owned(),
                offset: 0,
                reason: format!(
                    "entries {low} to {} read back with other indexes or terms",
                    high - 1
                ),
            });
        }
        Ok(())
    }

    fn fail(&self, error: StorageError) {
        self.failure.borrow_mut().get_or_insert(error);
    }
}

fn size_bytes(entry: &LogEntry) -> u64 {
    entry.data.len() as u64 + ENTRY_OVERHEAD_BYTES
}

impl raft::Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            convert::hard_state_to_raft(&self.hard_state),
            convert::configuration_to_raft(&self.snapshot.configuration),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.terms.start() {
            return Err(raft::Error::Store(RaftStorageError::Compacted));
        }
        match self.read(low, high, max_size.into().unwrap_or(u64::MAX)) {
            Ok(entries) => Ok(entries.iter().map(convert::entry_to_raft).collect()),
            // The storage was compacted since: a snapshot has to serve. Nobody else asks for such entries.
            Err(StorageError::Compacted { .. }) if context.can_async() => {
                Err(raft::Error::Store(RaftStorageError::Compacted))
            }
            // What raft-rs makes of these answers is thrown away: the core has failed. They only have to
            // be some that it doesn't panic on.
            Err(error) => {
                self.fail(error);
                if context.can_async() {
                    Err(raft::Error::Store(
                        RaftStorageError::LogTemporarilyUnavailable,
                    ))
                } else {
                    Ok(Vec::new())
                }
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.terms.start() {
            RaftStorageError::Compacted
        } else {
            RaftStorageError::Unavailable
        };
        self.terms.term(index).ok_or(raft::Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.terms.start() + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.terms.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let unavailable = raft::Error::Store(RaftStorageError::SnapshotTemporarilyUnavailable);
        let meta = match self.storage.recover() {
            Ok(recovered) => recovered.snapshot.unwrap_or_default(),
            Err(error) => {
                self.fail(error);
                return Err(unavailable);
            }
        };
        // A node refuses a snapshot whose configuration doesn't name it.
        let names_receiver = NodeId::new(to).is_some_and(|to| meta.configuration.is_member(to));
        // Nor does it want the state of a former life under the same id: it would follow the log up to
        // its removal.
        let added = NodeId::new(to).and_then(|to| self.added.get(&to).copied());
        let oldest = request_index
            .max(self.terms.start())
            .max(added.unwrap_or(1));
        if meta.index < oldest || !names_receiver {
            self.snapshot_wanted.set(oldest.max(meta.index + 1));
            return Err(unavailable);
        }
        self.snapshot_wanted.set(0);
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(convert::meta_to_raft(&meta));
        Ok(snapshot)
    }
}

//! A node's disk: what is stored, what was promised, and what goes wrong with it.
//!
//! The production store runs on files in memory that have a live and a durable content. Beside them
//! stands a [`DurableLog`]: what the store has acknowledged, kept by the simulation itself, so that what a
//! store forgets is noticed.

use std::sync::Arc;

use super::random::Random;
use crate::clock::Clock;
use crate::ids::NodeId;
use crate::node::workers::{self, Done, WriteJob};
use crate::storage::{self, HardState, Storage, StorageError};
#[cfg(feature = "log")]
use crate::testing::storage_files::FaultyFiles;

/// What the nodes of a simulation store their log in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Store {
    /// [`crate::storage::Memory`], which a crash takes nothing from. Faults of disks don't apply.
    #[cfg_attr(not(feature = "log"), default)]
    Memory,
    /// [`crate::storage::Log`] on simulated files.
    #[cfg(feature = "log")]
    #[default]
    Log,
}

enum Medium {
    Memory(storage::Memory),
    #[cfg(feature = "log")]
    Files(FaultyFiles),
}

impl Medium {
    fn new(store: Store) -> Medium {
        match store {
            Store::Memory => Medium::Memory(storage::Memory::new()),
            #[cfg(feature = "log")]
            Store::Log => Medium::Files(FaultyFiles::new()),
        }
    }
}

/// A disk.
pub(super) struct Disk {
    medium: Medium,
    pub(super) promised: DurableLog,
    /// The first index that a write which was cut off may have replaced.
    in_doubt_from: Option<u64>,
    /// Why the node may stop or refuse to start: the fault that was injected.
    pub(super) excuse: Option<&'static str>,
    /// A bit of it was flipped: what it holds can't be relied on until it is wiped.
    pub(super) flipped: bool,
}

/// The entries that a store holds durably, as it has said.
#[derive(Clone, Default)]
pub(super) struct DurableLog {
    /// The index before the first of `terms`.
    base: u64,
    base_term: Option<u64>,
    terms: Vec<u64>,
    pub(super) hard_state: HardState,
}

impl DurableLog {
    /// The last index held.
    pub(super) fn last_index(&self) -> u64 {
        self.base + self.terms.len() as u64
    }

    /// The term of an entry; `None` where it isn't held (any more).
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base {
            return self.base_term;
        }
        let place = usize::try_from(index.checked_sub(self.base + 1)?).ok()?;
        self.terms.get(place).copied()
    }

    /// Whether this entry is held, or stands in a snapshot.
    pub(super) fn holds(&self, index: u64, term: u64) -> bool {
        index < self.base || self.term(index) == Some(term)
    }

    /// As if these terms followed `base`.
    #[cfg(test)]
    pub(super) fn of(base: u64, terms: &[u64]) -> DurableLog {
        DurableLog {
            base,
            base_term: None,
            terms: terms.to_vec(),
            hard_state: HardState::default(),
        }
    }

    fn read(storage: &dyn Storage) -> Result<DurableLog, StorageError> {
        let (first, last) = storage.bounds();
        let base = first.saturating_sub(1);
        let terms: Result<Vec<_>, _> = (first..=last).map(|index| storage.term(index)).collect();
        Ok(DurableLog {
            base,
            base_term: storage.term(base).ok(),
            terms: terms?,
            hard_state: storage.recover()?.hard_state,
        })
    }

    fn compact(&mut self, first: u64) {
        let base = first.saturating_sub(1);
        if base > self.base {
            self.base_term = self.term(base);
            let gone = usize::try_from(base - self.base).unwrap_or(usize::MAX);
            self.terms.drain(..gone.min(self.terms.len()));
            self.base = base;
        }
    }
}

/// Entries that a node has just made durable.
pub(super) struct Appended {
    pub(super) index: u64,
    pub(super) term: u64,
    /// Of the entry before it.
    pub(super) previous_term: Option<u64>,
    pub(super) checksum: u32,
}

impl Disk {
    pub(super) fn new(store: Store) -> Disk {
        Disk {
            medium: Medium::new(store),
            promised: DurableLog::default(),
            in_doubt_from: None,
            excuse: None,
            flipped: false,
        }
    }

    /// Opens the store as a process does that starts. An empty one has promised nothing.
    pub(super) fn open(&self) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(match &self.medium {
            Medium::Memory(memory) => Arc::new(memory.clone()),
            #[cfg(feature = "log")]
            Medium::Files(files) => {
                let options = storage::LogOptions {
                    segment_bytes: 16 << 10,
                    spare_segments_max: 2,
                };
                Arc::new(storage::Log::open_on(
                    Arc::new(files.clone()),
                    "/disk",
                    options,
                )?)
            }
        })
    }

    /// Holds what a store says after its start against what it has promised, and begins anew.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn check(&mut self, storage: &dyn Storage) -> Result<(), String> {
        let found = DurableLog::read(storage).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut self.promised, found);
        let found = &self.promised;
        let (term, vote) = (before.hard_state.term, before.hard_state.vote);
        let other: Option<Option<NodeId>> =
            (found.hard_state.term == term && vote.is_some()).then_some(found.hard_state.vote);
        if found.hard_state.term < term || other.is_some_and(|other| other != vote) {
            return Err(format!(
                "it had acknowledged {:?}, it holds {:?}",
                before.hard_state, found.hard_state
            ));
        }
        let in_doubt_from = self.in_doubt_from.take().unwrap_or(u64::MAX);
        for index in before.base + 1..=before.last_index().min(in_doubt_from.saturating_sub(1)) {
            if let Some(term) = before.term(index)
                && !found.holds(index, term)
            {
                return Err(format!(
                    "it had acknowledged entry {index} of term {term}, it holds {:?}",
                    found.term(index)
                ));
            }
        }
        Ok(())
    }

    /// Does what the writer's thread would do, and notes what is durable then.
    pub(super) fn write(
        &mut self,
        storage: &Arc<dyn Storage>,
        job: WriteJob,
        clock: &dyn Clock,
    ) -> Result<(Done, Vec<Appended>), StorageError> {
        let mut entries = Vec::new();
        let mut hard_state = None;
        let mut published = false;
        if let WriteJob::Write { batch, publish, .. } = &job {
            published = publish.is_some();
            hard_state = batch.hard_state;
            for entry in &batch.entries {
                entries.push((entry.index, entry.term, crc32fast::hash(&entry.data)));
            }
        }
        // A snapshot may replace the whole log.
        let first = entries.first().map(|(index, ..)| *index);
        let replaced = if published { Some(0) } else { first };
        // What follows a write that has failed settles nothing of that: an empty one even succeeds.
        let earlier = self.in_doubt_from;
        self.in_doubt_from = [earlier, replaced].into_iter().flatten().min();
        let done = workers::carry_out(storage, job, clock)?;
        self.in_doubt_from = earlier;
        if published {
            // Where it was ahead of the log, nothing is left of that.
            let before = self.promised.hard_state;
            self.promised = DurableLog::read(&**storage)?;
            self.promised.hard_state = hard_state.unwrap_or(before);
        }
        let mut appended = Vec::new();
        for (index, term, checksum) in entries {
            let promised = &mut self.promised;
            let kept = usize::try_from(index.saturating_sub(promised.base + 1)).unwrap_or(0);
            if !published {
                promised.terms.truncate(kept);
                promised.terms.push(term);
            }
            appended.push(Appended {
                index,
                term,
                previous_term: promised.term(index - 1),
                checksum,
            });
        }
        if let Some(hard_state) = hard_state {
            self.promised.hard_state = hard_state;
        }
        self.promised.compact(storage.bounds().0);
        Ok((done, appended))
    }

    // ---- Faults -------------------------------------------------------------------------------

    /// No fault is waiting to strike any more.
    pub(super) fn heal(&mut self) {
        match &self.medium {
            Medium::Memory(_) => {}
            #[cfg(feature = "log")]
            Medium::Files(files) => {
                files.heal();
                files.limit_bytes(None);
            }
        }
    }

    /// The process is gone; what it has written stays. Whatever was about to fail won't.
    pub(super) fn kill(&mut self) {
        match &self.medium {
            Medium::Memory(_) => {}
            #[cfg(feature = "log")]
            Medium::Files(files) => {
                files.kill();
                files.limit_bytes(None);
            }
        }
        if !self.flipped {
            self.excuse = None;
        }
    }

    /// The power is gone, and with it any part of what was not synced.
    pub(super) fn lose_power(&mut self, random: &mut Random) {
        let chance = random.number();
        match &self.medium {
            Medium::Memory(_) => {
                let _ = chance;
            }
            #[cfg(feature = "log")]
            Medium::Files(files) => files.crash(chance),
        }
        self.kill();
    }

    /// From the `nth` operation on nothing is written any more: the process is in its last moments.
    pub(super) fn stop_after(&self, nth: u64) {
        match &self.medium {
            Medium::Memory(_) => {
                let _ = nth;
            }
            #[cfg(feature = "log")]
            Medium::Files(files) => files.fail_from(nth),
        }
    }

    /// The `nth` operation from now fails. False where the disk can't.
    pub(super) fn fail(&mut self, nth: u64, excuse: &'static str) -> bool {
        match &self.medium {
            Medium::Memory(_) => {
                let _ = (nth, excuse);
                false
            }
            #[cfg(feature = "log")]
            Medium::Files(files) => {
                files.fail_once(nth);
                self.excuse = Some(excuse);
                true
            }
        }
    }

    /// There is room for so many bytes more, and then none. False where the disk can't.
    pub(super) fn fill_up(&mut self, left_bytes: u64) -> bool {
        match &self.medium {
            Medium::Memory(_) => {
                let _ = left_bytes;
                false
            }
            #[cfg(feature = "log")]
            Medium::Files(files) => {
                files.limit_bytes(Some(files.used_bytes() + left_bytes));
                self.excuse = Some("its disk is full");
                true
            }
        }
    }

    /// Flips a bit of what is stored. False where there is nothing to flip.
    pub(super) fn flip_bit(&mut self, random: &mut Random) -> bool {
        match &self.medium {
            Medium::Memory(_) => {
                let _ = random;
                false
            }
            #[cfg(feature = "log")]
            Medium::Files(files) => {
                let paths = files.paths();
                if paths.is_empty() {
                    return false;
                }
                let path = random.pick(&paths);
                let mut content = files.content(path);
                // Files are longer than what was written to them.
                let written = content.iter().rposition(|&byte| byte != 0);
                let Some(last) = written else {
                    return false;
                };
                let place = random.index(last + 1);
                content[place] ^= 1 << random.below(8);
                files.set_content(path, content);
                self.flipped = true;
                self.excuse = Some("a bit of its disk was flipped");
                true
            }
        }
    }
}

#[cfg(all(test, feature = "log"))]
mod tests {
    use super::*;
    use crate::ClusterId;
    use crate::clock::SystemClock;
    use crate::storage::{EntryKind, Identity, LogEntry, SnapshotMeta, WriteBatch};

    fn job(number: u64, term: u64, indices: &[u64]) -> WriteJob {
        let entry = |&index| LogEntry {
            index,
            term,
            kind: EntryKind::Command,
            data: bytes::Bytes::from_static(b"x"),
        };
        WriteJob::Write {
            number,
            publish: None,
            batch: WriteBatch {
                entries: indices.iter().map(entry).collect(),
                hard_state: None,
            },
        }
    }

    fn bootstrapped() -> (Disk, Arc<dyn Storage>) {
        let mut disk = Disk::new(Store::Log);
        let storage = disk.open().unwrap();
        let identity = Identity {
            cluster: ClusterId(7),
            node: NodeId::new(1).unwrap(),
        };
        let meta = SnapshotMeta {
            index: 1,
            term: 1,
            ..Default::default()
        };
        storage.bootstrap(identity, &meta, b"state").unwrap();
        disk.check(&*storage).unwrap();
        (disk, storage)
    }

    #[test]
    fn what_was_written_is_promised_and_found_after_the_power_is_lost() {
        let (mut disk, storage) = bootstrapped();
        for index in 2..6 {
            disk.write(&storage, job(index, 1, &[index]), &SystemClock::new())
                .unwrap();
        }
        assert_eq!(
            (disk.promised.last_index(), disk.promised.term(5)),
            (5, Some(1))
        );
        drop(storage);
        disk.lose_power(&mut Random::new(1));
        let storage = disk.open().unwrap();
        disk.check(&*storage).unwrap();
    }

    #[test]
    fn a_store_that_has_forgotten_is_found() {
        let (mut disk, storage) = bootstrapped();
        disk.write(&storage, job(2, 1, &[2]), &SystemClock::new())
            .unwrap();
        // As if it had acknowledged one more.
        disk.promised.terms.push(1);
        let found = disk.check(&*storage).unwrap_err();
        assert!(found.contains("entry 3 of term 1"), "{found}");
    }

    #[test]
    fn a_write_that_fails_promises_nothing_and_the_store_takes_no_more() {
        let (mut disk, storage) = bootstrapped();
        assert!(disk.fail(1, "its sync fails"));
        assert!(
            disk.write(&storage, job(2, 1, &[2]), &SystemClock::new())
                .is_err()
        );
        assert_eq!(disk.promised.last_index(), 1);
        assert!(
            disk.write(&storage, job(3, 1, &[2]), &SystemClock::new())
                .is_err()
        );
    }

    #[test]
    fn what_a_failed_write_may_have_replaced_stays_in_doubt_whatever_follows() {
        // An empty write behind it succeeded, and the store was blamed for what it held (seed 79 of the
        // mixed workload).
        let (mut disk, storage) = bootstrapped();
        for index in 2..4 {
            disk.write(&storage, job(index, 1, &[index]), &SystemClock::new())
                .unwrap();
        }
        // It is written, and not synced.
        disk.fail(1, "its sync fails");
        disk.write(&storage, job(4, 2, &[3]), &SystemClock::new())
            .err()
            .unwrap();
        disk.write(&storage, job(5, 2, &[]), &SystemClock::new())
            .unwrap();
        drop(storage);
        disk.kill();
        let storage = disk.open().unwrap();
        assert_eq!(storage.term(3).unwrap(), 2);
        disk.check(&*storage).unwrap();
        // What was in no doubt is missed.
        disk.promised.terms[0] = 7;
        let missed = disk.check(&*storage).unwrap_err();
        assert!(missed.contains("entry 2 of term 7"), "{missed}");
    }
}

//! The conformance suite rejects stores that break the contract, each for the sentence it breaks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quorate::storage::{
    HardState, Identity, Log, LogEntry, LogOptions, Memory, Recovered, SnapshotMeta,
    SnapshotReader, SnapshotWriter, Storage, StorageError, WriteBatch,
};
use quorate::testing::storage_conformance::{StorageUnderTest, failures};
use quorate::testing::storage_files::FaultyFiles;

/// What a store does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flaw {
    ForgetsTheHardState,
    LosesTheLastEntryOfABatch,
    ChangesAByte,
    ForgetsMembership,
    AcknowledgesBeforeTheSync,
    SplitsABatch,
    OverwritesWithoutTruncating,
    DestroysTheOldSnapshotFirst,
    PublishesWhenDropped,
    KeepsTheLogBehindASnapshot,
    ClearsTheLogForEverySnapshot,
    IgnoresCompaction,
    CompactsOneTooMany,
    CompactsWithoutASnapshot,
    IgnoresTheByteLimit,
    TakesGaps,
    GoesOnAfterAFailure,
    BootstrapsTwice,
}

/// A good store behind a layer that has one flaw.
#[derive(Debug)]
struct Broken {
    flaw: Flaw,
    store: Arc<dyn Storage>,
    files: FaultyFiles,
    failed: AtomicBool,
}

impl Broken {
    fn is(&self, flaw: Flaw) -> bool {
        self.flaw == flaw
    }

    fn append_flawed(&self, mut batch: WriteBatch) -> Result<(), StorageError> {
        match self.flaw {
            Flaw::ForgetsTheHardState => batch.hard_state = None,
            Flaw::LosesTheLastEntryOfABatch if batch.entries.len() > 1 => drop(batch.entries.pop()),
            Flaw::ChangesAByte => {
                for entry in batch
                    .entries
                    .iter_mut()
                    .filter(|entry| entry.data.len() > 100)
                {
                    let mut data = entry.data.to_vec();
                    data[99] ^= 1;
                    entry.data = data.into();
                }
            }
            Flaw::ForgetsMembership => {
                batch
                    .entries
                    .iter_mut()
                    .for_each(|entry| entry.kind = quorate::storage::EntryKind::Command);
            }
            Flaw::SplitsABatch => {
                let hard_state = batch.hard_state.take();
                self.store.append(&WriteBatch {
                    entries: Vec::new(),
                    hard_state,
                })?;
            }
            Flaw::OverwritesWithoutTruncating => self.keep_what_is_overwritten(&mut batch)?,
            Flaw::TakesGaps => {
                let next = self.store.bounds().1 + 1;
                if batch
                    .entries
                    .first()
                    .is_some_and(|entry| entry.index > next)
                {
                    return Ok(());
                }
            }
            _ => {}
        }
        self.store.append(&batch)
    }

    fn keep_what_is_overwritten(&self, batch: &mut WriteBatch) -> Result<(), StorageError> {
        let (first_held, last) = self.store.bounds();
        let Some(index) = batch.entries.last().map(|entry| entry.index) else {
            return Ok(());
        };
        if index < last && index >= first_held {
            let term = batch.entries.last().map_or(0, |entry| entry.term);
            let old = self.store.entries(index + 1, last + 1, u64::MAX)?;
            batch.entries.extend(old.into_iter().map(|entry| LogEntry {
                term: entry.term.max(term),
                ..entry
            }));
        }
        Ok(())
    }
}

impl Storage for Broken {
    fn recover(&self) -> Result<Recovered, StorageError> {
        if self.is(Flaw::GoesOnAfterAFailure) && self.failed.load(Ordering::Relaxed) {
            return Ok(Recovered {
                identity: None,
                hard_state: HardState::default(),
                snapshot: None,
                first_index: 1,
                last_index: 0,
            });
        }
        self.store.recover()
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        let done = self.store.bootstrap(identity, meta, data);
        if self.is(Flaw::BootstrapsTwice) && matches!(done, Err(StorageError::Refused { .. })) {
            return Ok(());
        }
        done
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        if self.is(Flaw::GoesOnAfterAFailure) && self.failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let appended = self.append_flawed(batch.clone());
        self.failed.fetch_or(
            matches!(appended, Err(StorageError::Io { .. })),
            Ordering::Relaxed,
        );
        appended
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        let bytes_max = if self.is(Flaw::IgnoresTheByteLimit) {
            u64::MAX
        } else {
            bytes_max
        };
        self.store.entries(low, high, bytes_max)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.store.term(index)
    }

    fn bounds(&self) -> (u64, u64) {
        self.store.bounds()
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        let writer = self.store.snapshot_writer(meta)?;
        match self.flaw {
            Flaw::DestroysTheOldSnapshotFirst => {
                let is_snapshot = |path: &&PathBuf| {
                    let name = path.to_string_lossy();
                    name.contains("snapshot-") && !name.ends_with(".new")
                };
                let paths = self.files.paths();
                let old = paths.iter().find(is_snapshot).cloned();
                Ok(Box::new(Destroyer {
                    writer,
                    files: self.files.clone(),
                    old,
                }))
            }
            Flaw::PublishesWhenDropped => Ok(Box::new(Eager {
                writer: Some(writer),
            })),
            Flaw::KeepsTheLogBehindASnapshot if meta.index > self.store.bounds().1 => {
                Ok(Box::new(Nothing))
            }
            Flaw::ClearsTheLogForEverySnapshot => {
                let meta = SnapshotMeta {
                    term: meta.term + 1,
                    ..meta.clone()
                };
                self.store.snapshot_writer(&meta)
            }
            _ => Ok(writer),
        }
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        self.store.snapshot_reader()
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        match self.flaw {
            Flaw::IgnoresCompaction => Ok(()),
            Flaw::CompactsOneTooMany => self
                .store
                .compact(index + 1)
                .or_else(|_| self.store.compact(index)),
            Flaw::CompactsWithoutASnapshot => match self.store.compact(index) {
                Err(StorageError::Refused { .. }) => Ok(()),
                compacted => compacted,
            },
            _ => self.store.compact(index),
        }
    }
}

/// Removes the old snapshot before the new one is published.
struct Destroyer {
    writer: Box<dyn SnapshotWriter>,
    files: FaultyFiles,
    old: Option<PathBuf>,
}

impl SnapshotWriter for Destroyer {
    fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.writer.write(chunk)
    }

    fn publish(self: Box<Self>) -> Result<(), StorageError> {
        self.old.iter().for_each(|old| self.files.delete(old));
        self.writer.publish()
    }
}

/// Publishes what was never finished.
struct Eager {
    writer: Option<Box<dyn SnapshotWriter>>,
}

impl SnapshotWriter for Eager {
    fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.writer
            .as_mut()
            .map_or(Ok(()), |writer| writer.write(chunk))
    }

    fn publish(mut self: Box<Self>) -> Result<(), StorageError> {
        self.writer.take().map_or(Ok(()), SnapshotWriter::publish)
    }
}

impl Drop for Eager {
    fn drop(&mut self) {
        let _ = self.writer.take().map(SnapshotWriter::publish);
    }
}

/// Publishes nothing at all.
struct Nothing;

impl SnapshotWriter for Nothing {
    fn write(&mut self, _chunk: &[u8]) -> Result<(), StorageError> {
        Ok(())
    }

    fn publish(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

struct BrokenInMemory {
    flaw: Flaw,
    memory: Memory,
}

impl StorageUnderTest for BrokenInMemory {
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(broken(
            self.flaw,
            Arc::new(self.memory.clone()),
            FaultyFiles::new(),
        ))
    }
}

struct BrokenOnFiles {
    flaw: Flaw,
    files: FaultyFiles,
}

impl StorageUnderTest for BrokenOnFiles {
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
        self.files.heal();
        if self.flaw == Flaw::AcknowledgesBeforeTheSync {
            self.files.ignore_syncs();
        }
        let options = LogOptions {
            segment_bytes: 16 << 10,
            spare_segments_max: 1,
        };
        let log = Log::open_on(Arc::new(self.files.clone()), "/node", options)?;
        Ok(broken(self.flaw, Arc::new(log), self.files.clone()))
    }

    fn lose_power(&mut self, seed: u64) -> bool {
        self.files.crash(seed);
        true
    }

    fn fail_from(&mut self, nth: u64) -> bool {
        self.files.fail_from(nth);
        true
    }

    fn fail_once(&mut self, nth: u64) -> bool {
        self.files.fail_once(nth);
        true
    }
}

fn broken(flaw: Flaw, store: Arc<dyn Storage>, files: FaultyFiles) -> Arc<dyn Storage> {
    Arc::new(Broken {
        flaw,
        store,
        files,
        failed: AtomicBool::new(false),
    })
}

/// The suite must reject the flaw, and name this sentence among others.
fn ensure_rejected(
    found: &[quorate::testing::storage_conformance::Failure],
    flaw: Flaw,
    case: &str,
) {
    let names: Vec<&str> = found.iter().map(|failure| failure.case).collect();
    assert!(
        names.contains(&case),
        "a store that {flaw:?} fails {names:?}, not {case}"
    );
}

#[test]
fn stores_in_memory_that_break_the_contract_are_rejected() {
    let flaws = [
        (Flaw::ForgetsTheHardState, "the_hard_state_lasts"),
        (
            Flaw::LosesTheLastEntryOfABatch,
            "entries_read_back_byte_for_byte_after_a_restart",
        ),
        (
            Flaw::ChangesAByte,
            "entries_read_back_byte_for_byte_after_a_restart",
        ),
        (
            Flaw::ForgetsMembership,
            "reads_see_the_last_completed_append",
        ),
        (
            Flaw::OverwritesWithoutTruncating,
            "an_overwrite_drops_all_that_follows",
        ),
        (
            Flaw::PublishesWhenDropped,
            "a_snapshot_that_is_dropped_leaves_the_last_one",
        ),
        (
            Flaw::KeepsTheLogBehindASnapshot,
            "a_snapshot_ahead_of_the_log_replaces_it",
        ),
        (
            Flaw::ClearsTheLogForEverySnapshot,
            "a_snapshot_behind_the_log_leaves_the_log",
        ),
        (
            Flaw::IgnoresCompaction,
            "a_compaction_forgets_up_to_its_index_and_no_more",
        ),
        (
            Flaw::CompactsOneTooMany,
            "a_compaction_forgets_up_to_its_index_and_no_more",
        ),
        (
            Flaw::CompactsWithoutASnapshot,
            "a_compaction_beyond_the_snapshot_is_refused",
        ),
        (
            Flaw::IgnoresTheByteLimit,
            "a_read_stays_within_its_byte_limit_but_gives_one_entry",
        ),
        (
            Flaw::TakesGaps,
            "a_batch_that_breaks_the_contract_is_refused_and_writes_nothing",
        ),
        (Flaw::BootstrapsTwice, "a_second_bootstrap_is_refused"),
    ];
    for (flaw, case) in flaws {
        let found = failures(&mut || {
            Box::new(BrokenInMemory {
                flaw,
                memory: Memory::new(),
            })
        });
        ensure_rejected(&found, flaw, case);
    }
}

#[test]
fn stores_on_disk_that_break_the_contract_are_rejected() {
    let flaws = [
        (
            Flaw::AcknowledgesBeforeTheSync,
            "an_acknowledged_batch_outlives_a_loss_of_power",
        ),
        (Flaw::SplitsABatch, "a_batch_is_there_whole_or_not_at_all"),
        (
            Flaw::DestroysTheOldSnapshotFirst,
            "an_interrupted_publish_leaves_the_old_or_the_new_snapshot",
        ),
        (
            Flaw::GoesOnAfterAFailure,
            "after_a_failed_write_every_write_is_stopped",
        ),
    ];
    for (flaw, case) in flaws {
        let found = failures(&mut || {
            Box::new(BrokenOnFiles {
                flaw,
                files: FaultyFiles::new(),
            })
        });
        ensure_rejected(&found, flaw, case);
    }
}

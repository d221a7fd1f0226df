//! The two threads that do a node's slow work, so that its loop never waits for a disk.
//!
//! The *writer* makes batches durable, in order; whatever is queued while one sync runs shares the
//! next (group commit). The *snapshotter* writes, reads and stages snapshots, however large, beside it.
//! Each is a plain function over a queue of jobs: a thread loops it, a simulator may call it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::Waker;
use crate::replica::{CHUNK_BYTES, ReceivedSnapshot, SnapshotRead, SnapshotStage, Staged};
use crate::state::{Frozen, Restore};
use crate::storage::linger::{LINGER, linger};
use crate::storage::{
    SnapshotMeta, SnapshotReader, SnapshotWriter, Storage, StorageError, WriteBatch,
};

/// Work for the writer.
pub(crate) enum WriteJob {
    /// Make durable, and report the number.
    Write {
        number: u64,
        publish: Option<Box<dyn SnapshotWriter>>,
        batch: WriteBatch,
    },
    /// Forget the log up to and including this index.
    Compact { index: u64 },
}

/// Work for the snapshotter.
pub(crate) enum SnapshotJob {
    Take { meta: SnapshotMeta, frozen: Frozen },
    Read(SnapshotRead),
    EndRead { transfer: u64 },
    Stage(SnapshotStage),
}

/// What a worker has done.
pub(crate) enum Done {
    Persisted {
        number: u64,
    },
    SnapshotTaken {
        meta: SnapshotMeta,
        published: bool,
    },
    SnapshotRead {
        transfer: u64,
        offset: u64,
        piece: Option<(u64, Bytes)>,
    },
    SnapshotStaged {
        transfer: u64,
        offset: u64,
        outcome: Staged,
    },
    /// The store accepts nothing any more.
    Failed(StorageError),
}

/// The most jobs that share one sync.
const JOBS_PER_SYNC_MAX: usize = 1024;

/// The most bytes of entries that share one sync, unless one job is larger.
const BYTES_PER_SYNC_MAX: usize = 8 * 1024 * 1024;

/// After each piece of a snapshot the disk is left to the log for so many times as long as the piece
/// took. Measured: appends beside a snapshot written without pauses take ten times as long at their
/// 99th percentile, with them at most twice.
const PAUSE_RATIO: u32 = 3;

/// A piece that took longer is no reason for a longer pause.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Where workers report.
#[derive(Clone)]
pub(crate) struct Reports {
    pub done: Sender<Done>,
    pub waker: Waker,
}

impl Reports {
    pub(crate) fn report(&self, done: Done) {
        // A node that is gone needs no report.
        let _ = self.done.send(done);
        self.waker.wake();
    }
}

/// Runs until every sender of jobs is gone, or the store has failed.
pub(crate) fn run_writer(storage: &Arc<dyn Storage>, jobs: &Receiver<WriteJob>, reports: &Reports) {
    let mut waiting: Option<WriteJob> = None;
    loop {
        let next = || {
            linger(LINGER, || !jobs.is_empty());
            jobs.recv().ok()
        };
        let Some(first) = waiting.take().or_else(next) else {
            return;
        };
        let (job, next) = joined(first, jobs);
        waiting = next;
        match carry_out(storage, job) {
            Ok(Some(number)) => reports.report(Done::Persisted { number }),
            Ok(None) => {}
            Err(error) => return reports.report(Done::Failed(error)),
        }
    }
}

/// Joins to a job whatever else is queued and may share its sync; returns a job that may not, too.
pub(crate) fn joined(job: WriteJob, jobs: &Receiver<WriteJob>) -> (WriteJob, Option<WriteJob>) {
    match job {
        WriteJob::Compact { .. } => (job, None),
        WriteJob::Write {
            number,
            publish,
            batch,
        } => {
            let (number, batch, next) = gather(number, batch, jobs);
            let job = WriteJob::Write {
                number,
                publish,
                batch,
            };
            (job, next)
        }
    }
}

/// Does what a job says. Returns the number that is durable now, where it was to write.
pub(crate) fn carry_out(
    storage: &Arc<dyn Storage>,
    job: WriteJob,
) -> Result<Option<u64>, StorageError> {
    match job {
        WriteJob::Compact { index } => storage.compact(index).map(|()| None),
        WriteJob::Write {
            number,
            publish,
            batch,
        } => write(storage, publish, &batch).map(|()| Some(number)),
    }
}

fn write(
    storage: &Arc<dyn Storage>,
    publish: Option<Box<dyn SnapshotWriter>>,
    batch: &WriteBatch,
) -> Result<(), StorageError> {
    if let Some(writer) = publish {
        writer.publish()?;
    }
    if batch.is_empty() {
        Ok(())
    } else {
        storage.append(batch)
    }
}

/// Joins to a batch whatever else is queued and may share its sync. Returns the last number, the
/// joint batch, and a job that could not be joined.
fn gather(
    mut number: u64,
    mut batch: WriteBatch,
    jobs: &Receiver<WriteJob>,
) -> (u64, WriteBatch, Option<WriteJob>) {
    let mut bytes: usize = batch.entries.iter().map(|entry| entry.data.len()).sum();
    for _ in 1..JOBS_PER_SYNC_MAX {
        if bytes >= BYTES_PER_SYNC_MAX {
            break;
        }
        match jobs.try_recv() {
            Ok(WriteJob::Write {
                number: next,
                publish: None,
                batch: more,
            }) => {
                bytes += more
                    .entries
                    .iter()
                    .map(|entry| entry.data.len())
                    .sum::<usize>();
                number = next;
                join(&mut batch, more);
            }
            Ok(other) => return (number, batch, Some(other)),
            Err(_) => break,
        }
    }
    (number, batch, None)
}

/// Appends `more` to `batch`, overwriting where it goes back (Raft's conflict rule).
fn join(batch: &mut WriteBatch, more: WriteBatch) {
    if let Some(first) = more.entries.first() {
        while batch
            .entries
            .last()
            .is_some_and(|last| last.index >= first.index)
        {
            batch.entries.pop();
        }
        batch.entries.extend(more.entries);
    }
    if more.hard_state.is_some() {
        batch.hard_state = more.hard_state;
    }
}

/// Runs until every sender of jobs is gone.
pub(crate) fn run_snapshotter(
    storage: &Arc<dyn Storage>,
    jobs: &Receiver<SnapshotJob>,
    reports: &Reports,
) {
    let mut snapshotter = Snapshotter {
        pause: Some(std::thread::sleep),
        ..Snapshotter::default()
    };
    for job in jobs {
        if let Some(done) = snapshotter.run(storage, job) {
            reports.report(done);
        }
    }
}

/// Snapshots under way.
#[derive(Default)]
pub(crate) struct Snapshotter {
    readers: HashMap<u64, Box<dyn SnapshotReader>>,
    staging: Option<Staging>,
    /// How the disk is left to the log after each piece that is written; `None` where nobody waits for
    /// it.
    pause: Option<fn(Duration)>,
}

struct Staging {
    transfer: u64,
    meta: SnapshotMeta,
    writer: Box<dyn SnapshotWriter>,
    restore: Restore,
}

/// Why a piece of a received snapshot could not be staged.
enum Unstaged {
    /// The transfer was overtaken, or is not a snapshot: the sender may start over.
    Again,
    /// The store accepts nothing any more. Whoever went on would ask for the snapshot for ever.
    Failed(StorageError),
}

impl From<StorageError> for Unstaged {
    fn from(error: StorageError) -> Unstaged {
        match error {
            StorageError::Refused { .. } => Unstaged::Again,
            error => Unstaged::Failed(error),
        }
    }
}

impl Snapshotter {
    pub(crate) fn run(&mut self, storage: &Arc<dyn Storage>, job: SnapshotJob) -> Option<Done> {
        match job {
            SnapshotJob::Take { meta, frozen } => Some(match self.take(storage, &meta, frozen) {
                Ok(()) => Done::SnapshotTaken {
                    meta,
                    published: true,
                },
                // What can't be written now may be written later; the log holds everything.
                Err(StorageError::Refused { .. }) => Done::SnapshotTaken {
                    meta,
                    published: false,
                },
                Err(error) => Done::Failed(error),
            }),
            SnapshotJob::Read(read) => {
                let piece = self.read(storage, &read).ok().flatten();
                let SnapshotRead {
                    transfer, offset, ..
                } = read;
                Some(Done::SnapshotRead {
                    transfer,
                    offset,
                    piece,
                })
            }
            SnapshotJob::EndRead { transfer } => {
                self.readers.remove(&transfer);
                None
            }
            SnapshotJob::Stage(stage) => {
                let transfer = stage.transfer;
                let offset = stage.offset + stage.data.len() as u64;
                let outcome = match self.stage(storage, stage) {
                    Ok(None) => Staged::Underway,
                    Ok(Some(received)) => Staged::Whole(Box::new(received)),
                    Err(Unstaged::Again) => {
                        self.staging = None;
                        Staged::Failed
                    }
                    Err(Unstaged::Failed(error)) => {
                        self.staging = None;
                        return Some(Done::Failed(error));
                    }
                };
                Some(Done::SnapshotStaged {
                    transfer,
                    offset,
                    outcome,
                })
            }
        }
    }

    fn take(
        &self,
        storage: &Arc<dyn Storage>,
        meta: &SnapshotMeta,
        frozen: Frozen,
    ) -> Result<(), StorageError> {
        let mut writer = storage.snapshot_writer(meta)?;
        for chunk in frozen.chunks() {
            let begun = Instant::now();
            writer.write(&chunk)?;
            if let Some(pause) = self.pause {
                pause(begun.elapsed().min(PAUSE_MAX) * PAUSE_RATIO);
            }
        }
        writer.publish()
    }

    fn read(
        &mut self,
        storage: &Arc<dyn Storage>,
        read: &SnapshotRead,
    ) -> Result<Option<(u64, Bytes)>, StorageError> {
        let reader = match self.readers.entry(read.transfer) {
            Entry::Occupied(reader) => reader.into_mut(),
            Entry::Vacant(place) => match storage.snapshot_reader()? {
                Some(reader) => place.insert(reader),
                None => return Ok(None),
            },
        };
        let found = reader.meta();
        if (found.index, found.term) != (read.meta.index, read.meta.term) {
            // A newer one was published since: the core has to start over with that.
            return Ok(None);
        }
        let data = reader.read(read.offset, CHUNK_BYTES)?;
        Ok(Some((reader.len_bytes(), data)))
    }

    fn stage(
        &mut self,
        storage: &Arc<dyn Storage>,
        stage: SnapshotStage,
    ) -> Result<Option<ReceivedSnapshot>, Unstaged> {
        if stage.offset == 0 {
            self.staging = None;
            let writer = storage.snapshot_writer(&stage.meta)?;
            self.staging = Some(Staging {
                transfer: stage.transfer,
                meta: stage.meta,
                writer,
                restore: Restore::default(),
            });
        }
        let staging = self
            .staging
            .as_mut()
            .filter(|s| s.transfer == stage.transfer)
            .ok_or(Unstaged::Again)?;
        staging.writer.write(&stage.data)?;
        let fed = staging.restore.feed(&stage.data);
        fed.map_err(|_| Unstaged::Again)?;
        if !stage.last {
            return Ok(None);
        }
        let Staging {
            meta,
            writer,
            restore,
            ..
        } = self.staging.take().ok_or(Unstaged::Again)?;
        let state = restore.finish().map_err(|_| Unstaged::Again)?;
        Ok(Some(ReceivedSnapshot {
            meta,
            state,
            writer,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{EntryKind, HardState, LogEntry};

    fn batch(indexes: std::ops::RangeInclusive<u64>, term: u64) -> WriteBatch {
        WriteBatch {
            entries: indexes
                .map(|index| LogEntry {
                    index,
                    term,
                    kind: EntryKind::Command,
                    data: Bytes::new(),
                })
                .collect(),
            hard_state: Some(HardState {
                term,
                vote: None,
                commit: 0,
            }),
        }
    }

    #[test]
    fn joined_batches_say_what_they_would_have_said_one_by_one() {
        let mut joined = batch(5..=8, 1);
        join(&mut joined, batch(7..=7, 2));
        join(&mut joined, WriteBatch::default());
        let found: Vec<_> = joined.entries.iter().map(|e| (e.index, e.term)).collect();
        assert_eq!(found, [(5, 1), (6, 1), (7, 2)]);
        assert_eq!(joined.hard_state.unwrap().term, 2);
    }

    #[test]
    fn what_is_queued_during_a_sync_shares_the_next() {
        let (sender, jobs) = crossbeam_channel::unbounded();
        for number in 2..=4 {
            let batch = batch(number..=number, 1);
            sender
                .send(WriteJob::Write {
                    number,
                    publish: None,
                    batch,
                })
                .unwrap();
        }
        sender.send(WriteJob::Compact { index: 1 }).unwrap();
        let (number, joined, other) = gather(1, batch(1..=1, 1), &jobs);
        assert_eq!((number, joined.entries.len()), (4, 4));
        assert!(matches!(other, Some(WriteJob::Compact { index: 1 })));
    }
}

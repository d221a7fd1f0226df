//! The two workers that do a node's slow work, so that its loop never waits for a disk: what they are
//! told, what they report, and the first of them.
//!
//! The *writer* makes batches durable, in order; whatever is queued while one sync runs shares the
//! next (group commit). The other is the [`super::snapshotter`]. Each is a plain function over a queue
//! of jobs: a thread loops it, a simulator may call it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use super::Waker;
use crate::clock::Clock;
use crate::replica::{SnapshotRead, SnapshotStage, Staged};
use crate::state::Frozen;
use crate::storage::linger::{LINGER, linger};
use crate::storage::{SnapshotMeta, SnapshotWriter, Storage, StorageError, WriteBatch};

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
    Take {
        meta: SnapshotMeta,
        frozen: Frozen,
    },
    /// The one that is being taken is waited for.
    Hasten,
    Read(SnapshotRead),
    EndRead {
        transfer: u64,
    },
    Stage(SnapshotStage),
}

/// What a worker has done.
pub(crate) enum Done {
    Persisted {
        number: u64,
        written: Written,
    },
    /// The log was compacted, up to and including this index.
    Compacted {
        index: u64,
    },
    SnapshotTaken {
        meta: SnapshotMeta,
        published: bool,
        bytes: u64,
        took: Duration,
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
        /// Since the transfer's first piece.
        took: Duration,
    },
    /// The store accepts nothing any more.
    Failed(StorageError),
}

/// What one write to the log was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub entries: usize,
    pub bytes: usize,
    /// With its sync.
    pub took: Duration,
}

/// The most jobs that share one sync.
const JOBS_PER_SYNC_MAX: usize = 1024;

/// The most bytes of entries that share one sync, unless one job is larger.
const BYTES_PER_SYNC_MAX: usize = 8 * 1024 * 1024;

/// Where workers report.
#[derive(Clone)]
pub(crate) struct Reports {
    pub done: Sender<Done>,
    pub waker: Waker,
}

impl Reports {
    /// A node that is gone needs no report, and no worker.
    pub(crate) fn report(&self, done: Done) -> Result<(), NodeGone> {
        let sent = self.done.send(done).map_err(|_| NodeGone);
        self.waker.wake();
        sent
    }
}

/// The node has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeGone;

/// Runs until the node is gone, or the store has failed. How long a write takes is told by the
/// node's clock.
pub(crate) fn run_writer(
    storage: &Arc<dyn Storage>,
    jobs: &Receiver<WriteJob>,
    reports: &Reports,
    clock: &dyn Clock,
) {
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
        let done = carry_out(storage, job, clock);
        let failed = done.is_err();
        let reported = reports.report(done.unwrap_or_else(Done::Failed));
        if failed || reported.is_err() {
            return;
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

/// Does what a job says.
pub(crate) fn carry_out(
    storage: &Arc<dyn Storage>,
    job: WriteJob,
    clock: &dyn Clock,
) -> Result<Done, StorageError> {
    match job {
        WriteJob::Compact { index } => storage.compact(index).map(|()| Done::Compacted { index }),
        WriteJob::Write {
            number,
            publish,
            batch,
        } => {
            let begun = clock.now().monotonic;
            write(storage, publish, &batch)?;
            Ok(Done::Persisted {
                number,
                written: Written {
                    entries: batch.entries.len(),
                    bytes: entry_bytes(&batch),
                    took: clock.now().monotonic.saturating_sub(begun),
                },
            })
        }
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
    let mut bytes = entry_bytes(&batch);
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
                bytes += entry_bytes(&more);
                number = next;
                join(&mut batch, more);
            }
            Ok(other) => return (number, batch, Some(other)),
            Err(_) => break,
        }
    }
    (number, batch, None)
}

fn entry_bytes(batch: &WriteBatch) -> usize {
    batch.entries.iter().map(|entry| entry.data.len()).sum()
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

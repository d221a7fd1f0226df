//! The worker that writes, reads and stages snapshots, however large.
//!
//! A snapshot of ours is written piece by piece. Between two pieces the disk is left to the log, and what
//! other nodes wait for is done: pieces read for a follower, pieces staged that a leader has sent. So a
//! long snapshot holds up no transfer, and ends with the node. It knows nothing of why a snapshot is
//! taken or sent. The invariant: at most one is being taken, and at most one staged.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::workers::{Done, Reports, SnapshotJob};
use crate::clock::Clock;
use crate::observe;
use crate::replica::{CHUNK_BYTES, ReceivedSnapshot, SnapshotRead, SnapshotStage, Staged};
use crate::state::{Chunks, Frozen, Restore, RestoreError};
use crate::storage::{SnapshotMeta, SnapshotReader, SnapshotWriter, Storage, StorageError};

/// How a snapshot of ours is made beside the node's other work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Pace {
    /// How much is encoded before the processor is offered to others. A thread of the node's that becomes
    /// ready meanwhile may have to wait for it: some 5 µs a KiB.
    step_bytes: usize,
    /// How much is written at a time. A store may sync each piece, and the log's own syncs wait for that.
    piece_bytes: usize,
    /// After a piece the disk is left to the log for so many times as long as it took.
    pause_ratio: u32,
}

impl Pace {
    /// Writes beside it take less than twice as long at their 99th percentile. (With steps of 256 KiB they
    /// took six times as long: they waited for a processor.)
    const GENTLE: Pace = Pace {
        step_bytes: 4 << 10,
        piece_bytes: 64 << 10,
        pause_ratio: 2,
    };
    /// For one that is waited for. It is ready in half the time.
    const BRISK: Pace = Pace {
        step_bytes: 16 << 10,
        piece_bytes: 256 << 10,
        pause_ratio: 1,
    };
}

/// How much of a snapshot from another node is read before the processor is offered to others.
const RESTORE_BYTES: usize = 32 << 10;

/// A piece that took longer is no reason for a longer pause.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Runs until the node is gone.
pub(crate) fn run_snapshotter(
    snapshotter: &mut Snapshotter,
    jobs: &Receiver<SnapshotJob>,
    reports: &Reports,
) {
    // Until then the disk is left to the log.
    let mut pause_end = Instant::now();
    loop {
        let received = if snapshotter.is_taking() {
            jobs.recv_deadline(pause_end)
        } else {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let done = match received {
            Ok(job) => snapshotter.begin(job),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if done.is_some_and(|done| reports.report(done).is_err()) {
            return;
        }
        if snapshotter.is_taking() && Instant::now() >= pause_end {
            let done = snapshotter.take_on();
            if done.is_some_and(|done| reports.report(done).is_err()) {
                return;
            }
            pause_end = Instant::now() + snapshotter.pause();
            thread::yield_now();
        }
    }
}

/// Snapshots under way.
pub(crate) struct Snapshotter {
    storage: Arc<dyn Storage>,
    /// Tells how long things take.
    clock: Arc<dyn Clock>,
    taking: Option<Taking>,
    readers: HashMap<u64, Box<dyn SnapshotReader>>,
    staging: Option<Staging>,
}

/// A snapshot of ours that is being written.
struct Taking {
    meta: SnapshotMeta,
    chunks: Chunks,
    pace: Pace,
    /// How long the last step was at the disk.
    last_write: Duration,
    /// Encoded, and yet to be written.
    piece: Vec<u8>,
    writer: Box<dyn SnapshotWriter>,
    bytes: u64,
    begun: Duration,
}

/// A snapshot of another node's that is being received.
struct Staging {
    transfer: u64,
    meta: SnapshotMeta,
    writer: Box<dyn SnapshotWriter>,
    restore: Restore,
    begun: Duration,
}

/// Why a piece of a received snapshot could not be staged.
enum Unstaged {
    /// The transfer was overtaken, or is not a snapshot: the sender may start over.
    Again,
    /// The store accepts nothing any more, or the snapshot is of a form that this release doesn't know.
    /// Whoever went on would ask for the snapshot for ever.
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

impl From<RestoreError> for Unstaged {
    fn from(error: RestoreError) -> Unstaged {
        match error {
            RestoreError::Format { .. } => Unstaged::Failed(StorageError::Refused {
                reason: format!("the leader sends {error}"),
            }),
            _ => Unstaged::Again,
        }
    }
}

impl Snapshotter {
    pub(crate) fn new(storage: Arc<dyn Storage>, clock: Arc<dyn Clock>) -> Snapshotter {
        Snapshotter {
            storage,
            clock,
            taking: None,
            readers: HashMap::new(),
            staging: None,
        }
    }

    /// Does a job to its end.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn run(&mut self, job: SnapshotJob) -> Option<Done> {
        let mut done = self.begin(job);
        while done.is_none() && self.is_taking() {
            done = self.take_on();
        }
        done
    }

    fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// How long the disk is left to the log after the last step.
    fn pause(&self) -> Duration {
        let pause = |taking: &Taking| taking.last_write.min(PAUSE_MAX) * taking.pace.pause_ratio;
        self.taking.as_ref().map_or(Duration::ZERO, pause)
    }

    fn since(&self, begun: Duration) -> Duration {
        self.clock.now().monotonic.saturating_sub(begun)
    }

    /// Does a job; a snapshot that is to be taken is only begun.
    fn begin(&mut self, job: SnapshotJob) -> Option<Done> {
        match job {
            SnapshotJob::Take { meta, frozen } => self.begin_take(meta, frozen),
            SnapshotJob::Hasten => {
                if let Some(taking) = &mut self.taking {
                    taking.pace = Pace::BRISK;
                    taking.chunks.set_chunk_bytes(taking.pace.step_bytes);
                }
                None
            }
            SnapshotJob::Read(read) => Some(match self.read(&read) {
                Ok(piece) => Done::SnapshotRead {
                    transfer: read.transfer,
                    offset: read.offset,
                    piece,
                },
                // The disk has damaged it, or can't be read: whoever went on would send it for ever.
                Err(error) => Done::Failed(error),
            }),
            SnapshotJob::EndRead { transfer } => {
                self.readers.remove(&transfer);
                None
            }
            SnapshotJob::Stage(stage) => Some(self.stage(stage)),
        }
    }

    // ---- Our own --------------------------------------------------------------------------------

    fn begin_take(&mut self, meta: SnapshotMeta, frozen: Frozen) -> Option<Done> {
        assert!(self.taking.is_none(), "one snapshot is taken at a time");
        let begun = self.clock.now().monotonic;
        match self.storage.snapshot_writer(&meta) {
            Ok(writer) => {
                let pace = Pace::GENTLE;
                self.taking = Some(Taking {
                    meta,
                    chunks: frozen.chunks_of(pace.step_bytes),
                    pace,
                    last_write: Duration::ZERO,
                    piece: Vec::new(),
                    writer,
                    bytes: 0,
                    begun,
                });
                None
            }
            Err(error) => Some(self.untaken(meta, begun, error)),
        }
    }

    /// Goes on a step, or, after the last one, publishes the whole.
    fn take_on(&mut self) -> Option<Done> {
        let taking = self.taking.as_mut()?;
        taking.last_write = Duration::ZERO;
        let step = taking.chunks.next();
        let is_whole = step.is_none();
        taking.piece.extend(step.into_iter().flatten());
        let mut written = Ok(());
        let is_due = is_whole || taking.piece.len() >= taking.pace.piece_bytes;
        if is_due && !taking.piece.is_empty() {
            let begun = self.clock.now().monotonic;
            written = taking.writer.write(&taking.piece);
            taking.last_write = self.clock.now().monotonic.saturating_sub(begun);
            taking.bytes += taking.piece.len() as u64;
            taking.piece.clear();
        }
        if !is_whole && written.is_ok() {
            return None;
        }
        let Taking {
            meta,
            writer,
            bytes,
            begun,
            ..
        } = self.taking.take()?;
        let index = meta.index;
        let span = tracing::debug_span!(target: observe::SNAPSHOT, "snapshot", index);
        let published = span.in_scope(|| written.and_then(|()| writer.publish()));
        Some(match published {
            Ok(()) => Done::SnapshotTaken {
                meta,
                published: true,
                bytes,
                took: self.since(begun),
            },
            Err(error) => self.untaken(meta, begun, error),
        })
    }

    fn untaken(&self, meta: SnapshotMeta, begun: Duration, error: StorageError) -> Done {
        match error {
            // What can't be written now may be written later; the log holds everything.
            StorageError::Refused { .. } => Done::SnapshotTaken {
                meta,
                published: false,
                bytes: 0,
                took: self.since(begun),
            },
            error => Done::Failed(error),
        }
    }

    // ---- To another node --------------------------------------------------------------------------

    /// The length of the whole, and the piece: [`CHUNK_BYTES`] long, unless it is the last one. `None`
    /// where that snapshot is gone.
    fn read(&mut self, read: &SnapshotRead) -> Result<Option<(u64, Bytes)>, StorageError> {
        let reader = match self.readers.entry(read.transfer) {
            Entry::Occupied(reader) => reader.into_mut(),
            Entry::Vacant(place) => match self.storage.snapshot_reader()? {
                Some(reader) => place.insert(reader),
                None => return Ok(None),
            },
        };
        let found = reader.meta();
        if (found.index, found.term) != (read.meta.index, read.meta.term) {
            // A newer one was published since: the core has to start over with that.
            return Ok(None);
        }
        let piece = read_piece(reader.as_mut(), read.offset)?;
        Ok(Some((reader.len_bytes(), piece)))
    }

    // ---- From another node ------------------------------------------------------------------------

    fn stage(&mut self, stage: SnapshotStage) -> Done {
        let transfer = stage.transfer;
        let offset = stage.offset + stage.data.len() as u64;
        let earlier = self.staging.as_ref().filter(|_| stage.offset > 0);
        let begun = earlier.map_or_else(|| self.clock.now().monotonic, |staging| staging.begun);
        let outcome = match self.stage_piece(stage, begun) {
            Ok(None) => Staged::Underway,
            Ok(Some(received)) => Staged::Whole(Box::new(received)),
            Err(Unstaged::Again) => {
                self.staging = None;
                Staged::Failed
            }
            Err(Unstaged::Failed(error)) => {
                self.staging = None;
                return Done::Failed(error);
            }
        };
        Done::SnapshotStaged {
            transfer,
            offset,
            outcome,
            took: self.since(begun),
        }
    }

    fn stage_piece(
        &mut self,
        stage: SnapshotStage,
        begun: Duration,
    ) -> Result<Option<ReceivedSnapshot>, Unstaged> {
        if stage.offset == 0 {
            self.staging = None;
            let writer = self.storage.snapshot_writer(&stage.meta)?;
            self.staging = Some(Staging {
                transfer: stage.transfer,
                meta: stage.meta,
                writer,
                restore: Restore::default(),
                begun,
            });
        }
        let staging = self
            .staging
            .as_mut()
            .filter(|staging| staging.transfer == stage.transfer)
            .ok_or(Unstaged::Again)?;
        staging.writer.write(&stage.data)?;
        for part in stage.data.chunks(RESTORE_BYTES) {
            staging.restore.feed(part)?;
            thread::yield_now();
        }
        if !stage.last {
            return Ok(None);
        }
        let Staging {
            meta,
            writer,
            restore,
            ..
        } = self.staging.take().ok_or(Unstaged::Again)?;
        let state = restore.finish()?;
        Ok(Some(ReceivedSnapshot {
            meta,
            state,
            writer,
        }))
    }
}

/// A storage may give less at a time than it is asked for; pieces are of one size, because the sender
/// asks for several at once.
fn read_piece(reader: &mut dyn SnapshotReader, offset: u64) -> Result<Bytes, StorageError> {
    let wanted = reader.len_bytes().saturating_sub(offset);
    let wanted = wanted.min(CHUNK_BYTES as u64) as usize;
    let first = reader.read(offset, wanted)?;
    if first.len() >= wanted {
        return Ok(first);
    }
    let mut piece = BytesMut::with_capacity(wanted);
    piece.extend_from_slice(&first);
    while piece.len() < wanted {
        let more = reader.read(offset + piece.len() as u64, wanted - piece.len())?;
        if more.is_empty() {
            return Err(StorageError::Corrupt {
                path: format!("the snapshot at entry {}", reader.meta().index),
                offset: offset + piece.len() as u64,
                reason: format!("it ends before its {} bytes", reader.len_bytes()),
            });
        }
        piece.extend_from_slice(&more);
    }
    Ok(piece.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::node::Waker;
    use crate::state::{Settings, State};
    use crate::storage::{Identity, Memory};
    use crate::{ClusterId, NodeId};

    fn meta(index: u64) -> SnapshotMeta {
        SnapshotMeta {
            index,
            term: 1,
            ..SnapshotMeta::default()
        }
    }

    /// A store whose published snapshot, at index 1, has these bytes, and what works on it.
    fn snapshotter(data: &[u8]) -> (Arc<dyn Storage>, Snapshotter) {
        let storage: Arc<dyn Storage> = Arc::new(Memory::new());
        let identity = Identity {
            cluster: ClusterId(1),
            node: NodeId::new(1).unwrap(),
        };
        storage.bootstrap(identity, &meta(1), data).unwrap();
        let snapshotter = Snapshotter::new(storage.clone(), Arc::new(SystemClock::new()));
        (storage, snapshotter)
    }

    fn take(index: u64) -> SnapshotJob {
        let mut state = State::new(Settings::default());
        SnapshotJob::Take {
            meta: meta(index),
            frozen: state.freeze().unwrap(),
        }
    }

    fn read(offset: u64) -> SnapshotJob {
        SnapshotJob::Read(SnapshotRead {
            transfer: 1,
            meta: meta(1),
            offset,
        })
    }

    fn published(storage: &Arc<dyn Storage>) -> u64 {
        storage.snapshot_reader().unwrap().unwrap().meta().index
    }

    /// As the stores on disk do: no more at a time than lies under one checksum.
    struct Stingy {
        data: Bytes,
        meta: SnapshotMeta,
        len_bytes: u64,
    }

    impl SnapshotReader for Stingy {
        fn meta(&self) -> &SnapshotMeta {
            &self.meta
        }

        fn len_bytes(&self) -> u64 {
            self.len_bytes
        }

        fn read(&mut self, offset: u64, bytes_max: usize) -> Result<Bytes, StorageError> {
            let begin = (offset as usize).min(self.data.len());
            let end = (begin + bytes_max.min(1_000)).min(self.data.len());
            Ok(self.data.slice(begin..end))
        }
    }

    #[test]
    fn a_piece_has_its_whole_size_though_the_storage_gives_less_at_a_time() {
        // The sender asks for several pieces at once, each a piece's size after the one before. What came
        // short left a hole that only the next attempt filled: 64 KiB per election timeout.
        let data: Bytes = (0..CHUNK_BYTES + 1_234).map(|i| i as u8).collect();
        let mut reader = Stingy {
            meta: meta(1),
            len_bytes: data.len() as u64,
            data: data.clone(),
        };
        let first = read_piece(&mut reader, 0).unwrap();
        assert_eq!(first, data[..CHUNK_BYTES]);
        let second = read_piece(&mut reader, CHUNK_BYTES as u64).unwrap();
        assert_eq!(second, data[CHUNK_BYTES..]);
        // It ends before it says: an error, and no loop without end.
        reader.len_bytes += 1;
        assert!(read_piece(&mut reader, CHUNK_BYTES as u64).is_err());
    }

    #[test]
    fn a_snapshot_that_is_being_taken_holds_up_no_transfer() {
        let (storage, mut snapshotter) = snapshotter(b"published");
        assert!(snapshotter.begin(take(7)).is_none());
        let Some(Done::SnapshotRead {
            piece: Some((length, piece)),
            ..
        }) = snapshotter.begin(read(0))
        else {
            panic!("a piece is read meanwhile");
        };
        assert_eq!((length, &piece[..]), (9, &b"published"[..]));
        assert!(snapshotter.is_taking());
        let done = std::iter::repeat_with(|| snapshotter.take_on()).find_map(|done| done);
        assert!(matches!(
            done,
            Some(Done::SnapshotTaken {
                published: true,
                ..
            })
        ));
        assert_eq!(published(&storage), 7);
    }

    #[test]
    fn a_snapshot_that_is_waited_for_is_made_faster_and_the_one_after_it_is_not() {
        let (_, mut snapshotter) = snapshotter(b"published");
        // None is being taken: it was told too late.
        snapshotter.begin(SnapshotJob::Hasten);
        let pace = |snapshotter: &Snapshotter| snapshotter.taking.as_ref().unwrap().pace;
        snapshotter.begin(take(7));
        assert_eq!(pace(&snapshotter), Pace::GENTLE);
        snapshotter.begin(SnapshotJob::Hasten);
        assert_eq!(pace(&snapshotter), Pace::BRISK);
        while snapshotter.is_taking() {
            snapshotter.take_on();
        }
        snapshotter.begin(take(8));
        assert_eq!(pace(&snapshotter), Pace::GENTLE);
    }

    #[test]
    fn a_snapshot_that_is_being_taken_ends_with_the_node() {
        let (storage, mut snapshotter) = snapshotter(b"published");
        let (send, jobs) = crossbeam_channel::unbounded();
        let (done, reported) = crossbeam_channel::unbounded();
        let (waker, _woken) = Waker::new();
        send.send(take(7)).unwrap();
        drop(send);
        run_snapshotter(&mut snapshotter, &jobs, &Reports { done, waker });
        assert!(snapshotter.is_taking());
        assert!(reported.is_empty());
        drop(snapshotter);
        assert_eq!(published(&storage), 1);
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_stops_the_node() {
        // It was given up without a word, and begun again for ever.
        let (_, mut snapshotter) = snapshotter(b"published");
        let damaged = Stingy {
            meta: meta(1),
            len_bytes: 100,
            data: Bytes::from_static(b"cut"),
        };
        snapshotter.readers.insert(1, Box::new(damaged));
        let done = snapshotter.begin(read(0));
        assert!(matches!(
            done,
            Some(Done::Failed(StorageError::Corrupt { offset: 3, .. }))
        ));
    }
}

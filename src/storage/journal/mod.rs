//! The store behind `Log` and `Sled`: records in a medium, snapshots as files, the fence beside them.
//!
//! It knows the contract of [`Storage`](super::Storage) and the order of durable steps, not how a
//! record reaches the disk: that is the [`Medium`]'s. The last record is the truth: a snapshot is
//! published, and the log replaced or compacted, by the one checkpoint record that says so.
//! Invariant: memory never shows what is not durable, and nothing is acknowledged after a failure.
//!
//! The directory: `lock`, `fence`, `snapshots/`, and the medium's own.

mod medium;
mod reading;
mod recovery;
mod replay;
mod snapshot;

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::contract::{self, Held};
use super::fence::{Acknowledged, Durability, Fence, Phase};
use super::files::Files;
use super::index::{Index, Row};
use super::record::{self, Checkpoint};
use super::snapshot_file::SnapshotFiles;
use super::system_files::io_error;
use super::{HardState, Identity, Recovered, SnapshotMeta, StorageError, WriteBatch};

pub(super) use medium::{Medium, Placed, Visitor};

/// What is held, as every reader sees it.
#[derive(Debug)]
struct State {
    identity: Option<Identity>,
    hard_state: HardState,
    /// The published snapshot and the number of its file.
    snapshot: Option<(u64, SnapshotMeta)>,
    index: Index,
    /// The last record.
    sequence: u64,
    /// The failure after which nothing is written any more.
    stopped: Option<String>,
}

impl State {
    fn held(&self) -> Held {
        Held {
            first_index: self.index.first(),
            last_index: self.index.last(),
            hard_state: self.hard_state,
        }
    }

    fn published(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref().map(|(_, meta)| meta)
    }

    fn check_running(&self) -> Result<(), StorageError> {
        self.stopped
            .as_deref()
            .map_or(Ok(()), |reason| Err(contract::stopped(reason)))
    }

    fn acknowledged(&self, identity: Identity) -> Acknowledged {
        let last_index = self.index.last();
        Acknowledged {
            phase: Phase::Ready,
            identity,
            term: self.hard_state.term,
            vote: self.hard_state.vote,
            first_index: self.index.first(),
            last_index,
            last_term: self.index.term(last_index).unwrap_or(0),
            sequence: self.sequence,
        }
    }
}

/// What only the one who writes needs.
#[derive(Debug)]
struct Writer {
    fence: Option<Fence>,
    /// The record being encoded, and its rows: kept, so that appending doesn't allocate.
    record: Vec<u8>,
    rows: Vec<(u64, Row)>,
}

/// One open store.
#[derive(Debug)]
pub(super) struct Journal<M> {
    dir: PathBuf,
    files: Arc<dyn Files>,
    medium: M,
    snapshots: SnapshotFiles,
    next_snapshot_number: AtomicU64,
    /// Taken before `state`; held through a whole write.
    writer: Mutex<Writer>,
    state: RwLock<State>,
    /// Given back last, when everything above is closed.
    _lock: DirectoryLock,
}

/// The lock on the directory, given back when it is dropped.
struct DirectoryLock {
    _guard: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for DirectoryLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryLock")
    }
}

impl<M: Medium> Journal<M> {
    /// Opens what is in `dir`, or prepares an empty directory for a bootstrap.
    pub(super) fn open(
        files: Arc<dyn Files>,
        dir: &Path,
        open_medium: impl FnOnce(&Arc<dyn Files>, &Path) -> Result<M, StorageError>,
    ) -> Result<Arc<Journal<M>>, StorageError> {
        let make = |dir: &Path| {
            files
                .create_dir(dir)
                .map_err(|error| io_error("create", dir, &error))
        };
        make(dir)?;
        let lock_path = dir.join("lock");
        let guard = files
            .lock(&lock_path)
            .map_err(|error| io_error("lock", &lock_path, &error))?
            .ok_or_else(|| StorageError::Locked {
                path: dir.display().to_string(),
            })?;
        let snapshots_dir = dir.join("snapshots");
        make(&snapshots_dir)?;
        let fence = Fence::load(files.as_ref(), dir)?;
        let medium = open_medium(&files, dir)?;
        let snapshots = SnapshotFiles::new(Arc::clone(&files), snapshots_dir);
        let mut writer = Writer {
            fence,
            record: Vec::new(),
            rows: Vec::new(),
        };
        let state = recovery::recover(dir, &medium, &snapshots, &mut writer)?;
        let highest =
            snapshots.remove_all_but(state.snapshot.as_ref().map(|(number, _)| *number))?;
        Ok(Arc::new(Journal {
            dir: dir.to_path_buf(),
            files,
            medium,
            snapshots,
            next_snapshot_number: AtomicU64::new(highest + 1),
            writer: Mutex::new(writer),
            state: RwLock::new(state),
            _lock: DirectoryLock { _guard: guard },
        }))
    }

    pub(super) fn recover(&self) -> Result<Recovered, StorageError> {
        let state = self.state.read();
        state.check_running()?;
        Ok(Recovered {
            identity: state.identity,
            hard_state: state.hard_state,
            snapshot: state.published().cloned(),
            first_index: state.index.first(),
            last_index: state.index.last(),
        })
    }

    /// The fence goes first and says *bootstrapping*: until it says *ready*, which is the moment of
    /// the bootstrap, whatever else is there is thrown away at the next open.
    pub(super) fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        {
            let state = self.state.read();
            state.check_running()?;
            if state.identity.is_some() {
                return Err(contract::already_bootstrapped());
            }
        }
        contract::check_configuration(&meta.configuration)?;
        let done = self.bootstrap_steps(&mut writer, identity, meta, data);
        self.stop_after_failure(done)
    }

    fn bootstrap_steps(
        &self,
        writer: &mut Writer,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        let mut fence = Fence::create(self.files.as_ref(), &self.dir, identity)?;
        let mut file = self.snapshots.writer(
            self.next_snapshot_number.fetch_add(1, Ordering::Relaxed),
            identity,
            meta,
        )?;
        file.write(data)?;
        file.finish()?;
        self.medium.create(identity)?;
        let hard_state = HardState {
            term: meta.term,
            vote: None,
            commit: meta.index,
        };
        let checkpoint = Checkpoint {
            identity,
            hard_state,
            compacted_index: meta.index,
            compacted_term: meta.term,
            last_index: meta.index,
            snapshot_number: file.number(),
            snapshot_index: meta.index,
            snapshot_term: meta.term,
        };
        record::encode_checkpoint(&mut writer.record, 1, &checkpoint);
        self.medium.append(1, &mut writer.record)?;
        let mut state = self.state.write();
        let ready = State {
            identity: Some(identity),
            hard_state,
            snapshot: Some((file.number(), meta.clone())),
            index: Index::new(meta.index, meta.term),
            sequence: 1,
            stopped: None,
        };
        // Both slots, so that no single damaged slot can make the store look unfinished again.
        fence.write(ready.acknowledged(identity), Durability::Synced)?;
        fence.write(ready.acknowledged(identity), Durability::Synced)?;
        writer.fence = Some(fence);
        *state = ready;
        Ok(())
    }

    pub(super) fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        let sequence = {
            let state = self.state.read();
            state.check_running()?;
            if state.identity.is_none() {
                return Err(contract::not_bootstrapped());
            }
            contract::check_batch(batch, state.held(), |index| state.index.term(index))?;
            state.sequence + 1
        };
        if batch.is_empty() {
            return Ok(());
        }
        let Writer { record, rows, .. } = &mut *writer;
        record::encode_batch(record, rows, sequence, batch);
        let placed = self.stop_after_failure(self.medium.append(sequence, record))?;
        let (acknowledged, durability) = {
            let mut state = self.state.write();
            state.apply(batch, &writer.rows, placed, sequence)
        };
        let fenced = writer.fence(acknowledged, durability);
        self.stop_after_failure(fenced)
    }

    pub(super) fn compact(&self, index: u64) -> Result<(), StorageError> {
        let mut writer = self.writer.lock();
        let checkpoint = {
            let state = self.state.read();
            state.check_running()?;
            if !contract::check_compaction(index, state.held(), state.published())? {
                return Ok(());
            }
            let compacted_term = state.index.term(index).unwrap_or(0);
            self.checkpoint(&state, |checkpoint| {
                checkpoint.compacted_index = index;
                checkpoint.compacted_term = compacted_term;
            })?
        };
        let done =
            self.checkpoint_steps(&mut writer, &checkpoint, |state| state.index.compact(index));
        self.stop_after_failure(done)
    }

    /// The checkpoint of what is held, changed as `change` says.
    fn checkpoint(
        &self,
        state: &State,
        change: impl FnOnce(&mut Checkpoint),
    ) -> Result<Checkpoint, StorageError> {
        let (Some(identity), Some((number, meta))) = (state.identity, &state.snapshot) else {
            return Err(contract::not_bootstrapped());
        };
        let compacted_index = state.index.first() - 1;
        let mut checkpoint = Checkpoint {
            identity,
            hard_state: state.hard_state,
            compacted_index,
            compacted_term: state.index.term(compacted_index).unwrap_or(0),
            last_index: state.index.last(),
            snapshot_number: *number,
            snapshot_index: meta.index,
            snapshot_term: meta.term,
        };
        change(&mut checkpoint);
        Ok(checkpoint)
    }

    /// Makes a checkpoint durable, then visible, and gives up the places that it leaves unused.
    fn checkpoint_steps(
        &self,
        writer: &mut Writer,
        checkpoint: &Checkpoint,
        change: impl FnOnce(&mut State),
    ) -> Result<(), StorageError> {
        let sequence = self.state.read().sequence + 1;
        record::encode_checkpoint(&mut writer.record, sequence, checkpoint);
        let placed = self.medium.append(sequence, &mut writer.record)?;
        let (acknowledged, first_place) = {
            let mut state = self.state.write();
            change(&mut state);
            state.sequence = sequence;
            (
                state.acknowledged(checkpoint.identity),
                state.index.first_place(),
            )
        };
        writer.fence(acknowledged, Durability::Synced)?;
        self.medium
            .retire(first_place.map_or(placed.place, |place| place.min(placed.place)))
    }

    /// Fail-stop: the first failure is remembered, and nothing is written any more.
    fn stop_after_failure<T>(&self, result: Result<T, StorageError>) -> Result<T, StorageError> {
        if let Err(error) = &result {
            self.state
                .write()
                .stopped
                .get_or_insert_with(|| error.to_string());
        }
        result
    }
}

impl State {
    /// Takes over a batch that is durable. The term or the vote changed: the fence waits.
    fn apply(
        &mut self,
        batch: &WriteBatch,
        rows: &[(u64, Row)],
        placed: Placed,
        sequence: u64,
    ) -> (Option<Acknowledged>, Durability) {
        let before = (self.hard_state.term, self.hard_state.vote);
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = batch.entries.first() {
            self.index.truncate_from(first.index);
        }
        for (term, row) in rows {
            let row = Row::new(
                placed.offset + row.offset,
                row.length(),
                row.kind(),
                row.crc,
            );
            self.index.push(*term, placed.place, row);
        }
        self.sequence = sequence;
        let is_changed = before != (self.hard_state.term, self.hard_state.vote);
        let durability = if is_changed {
            Durability::Synced
        } else {
            Durability::Written
        };
        (
            self.identity.map(|identity| self.acknowledged(identity)),
            durability,
        )
    }
}

impl Writer {
    fn fence(
        &mut self,
        acknowledged: impl Into<Option<Acknowledged>>,
        durability: Durability,
    ) -> Result<(), StorageError> {
        match (&mut self.fence, acknowledged.into()) {
            (Some(fence), Some(acknowledged)) => fence.write(acknowledged, durability),
            _ => unreachable!("a bootstrapped store has a fence and an identity"),
        }
    }
}

impl<M> Drop for Journal<M> {
    /// A clean close makes the fence exact. After a failure it is left as it is.
    fn drop(&mut self) {
        let is_running = self.state.get_mut().stopped.is_none();
        if let (true, Some(fence)) = (is_running, &mut self.writer.get_mut().fence) {
            // Nobody is left to be told; the fence may lag, which it may after a crash as well.
            let _ = fence.sync();
        }
    }
}

//! Publishing a snapshot: the file first, then the checkpoint that names it, then the old file goes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::storage::contract;
use crate::storage::index::Index;
use crate::storage::snapshot_file::SnapshotFileWriter;
use crate::storage::{SnapshotMeta, SnapshotWriter, StorageError};

use super::Journal;
use super::medium::Medium;

/// A snapshot being written into a journal's directory.
#[derive(Debug)]
pub(in crate::storage) struct JournalSnapshotWriter<M: Medium> {
    journal: Arc<Journal<M>>,
    file: SnapshotFileWriter,
    meta: SnapshotMeta,
}

impl<M: Medium> Journal<M> {
    pub(in crate::storage) fn snapshot_writer(
        self: &Arc<Self>,
        meta: &SnapshotMeta,
    ) -> Result<JournalSnapshotWriter<M>, StorageError> {
        let identity = {
            let state = self.state.read();
            state.check_running()?;
            contract::check_snapshot(meta, state.published())?;
            state.identity.ok_or_else(contract::not_bootstrapped)?
        };
        let number = self.next_snapshot_number.fetch_add(1, Ordering::Relaxed);
        let file = self.stop_after_failure(self.snapshots.writer(number, identity, meta))?;
        Ok(JournalSnapshotWriter {
            journal: Arc::clone(self),
            file,
            meta: meta.clone(),
        })
    }

    fn publish(
        &self,
        mut file: SnapshotFileWriter,
        meta: &SnapshotMeta,
    ) -> Result<(), StorageError> {
        self.check_publishable(meta)?;
        // What takes long is done before and after the lock: appends wait for the checkpoint alone.
        self.stop_after_failure(file.finish())?;
        let number = file.number();
        let published = {
            let mut writer = self.writer.lock();
            // Checked again: another one may have been published while this one was made durable.
            self.check_publishable(meta).and_then(|()| {
                let done = self.checkpoint_snapshot(&mut writer, number, meta);
                self.stop_after_failure(done)
            })
        };
        match published {
            Ok(Some(old_number)) => self.snapshots.remove(old_number),
            Err(StorageError::Refused { .. }) => self.snapshots.remove(number),
            _ => {}
        }
        published.map(drop)
    }

    fn check_publishable(&self, meta: &SnapshotMeta) -> Result<(), StorageError> {
        let state = self.state.read();
        state.check_running()?;
        contract::check_snapshot(meta, state.published())
    }

    /// Makes the file of this number the published one. Gives back the number of the one before.
    fn checkpoint_snapshot(
        &self,
        writer: &mut super::Writer,
        number: u64,
        meta: &SnapshotMeta,
    ) -> Result<Option<u64>, StorageError> {
        let (checkpoint, old_number, is_ahead) = {
            let state = self.state.read();
            let is_ahead = state.index.term(meta.index) != Some(meta.term);
            let checkpoint = self.checkpoint(&state, |checkpoint| {
                checkpoint.snapshot_number = number;
                checkpoint.snapshot_index = meta.index;
                checkpoint.snapshot_term = meta.term;
                if is_ahead {
                    checkpoint.compacted_index = meta.index;
                    checkpoint.compacted_term = meta.term;
                    checkpoint.last_index = meta.index;
                }
            })?;
            let old_number = state.snapshot.as_ref().map(|(number, _)| *number);
            (checkpoint, old_number, is_ahead)
        };
        self.checkpoint_steps(writer, &checkpoint, |state| {
            state.snapshot = Some((number, meta.clone()));
            if is_ahead {
                state.index = Index::new(meta.index, meta.term);
            }
        })?;
        Ok(old_number)
    }
}

impl<M: Medium> SnapshotWriter for JournalSnapshotWriter<M> {
    fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError> {
        self.journal.state.read().check_running()?;
        let written = self.file.write(chunk);
        self.journal.stop_after_failure(written)
    }

    fn publish(self: Box<Self>) -> Result<(), StorageError> {
        let JournalSnapshotWriter {
            journal,
            file,
            meta,
        } = *self;
        journal.publish(file, &meta)
    }
}

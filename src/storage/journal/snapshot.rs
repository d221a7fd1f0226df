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
        let mut writer = self.writer.lock();
        self.state.read().check_running()?;
        // Checked again: another one may have been published while this one was written.
        contract::check_snapshot(meta, self.state.read().published())?;
        let done = self.publish_steps(&mut writer, &mut file, meta);
        self.stop_after_failure(done)
    }

    fn publish_steps(
        &self,
        writer: &mut super::Writer,
        file: &mut SnapshotFileWriter,
        meta: &SnapshotMeta,
    ) -> Result<(), StorageError> {
        file.finish()?;
        let number = file.number();
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
            (
                checkpoint,
                state.snapshot.as_ref().map(|(number, _)| *number),
                is_ahead,
            )
        };
        self.checkpoint_steps(writer, &checkpoint, |state| {
            state.snapshot = Some((number, meta.clone()));
            if is_ahead {
                state.index = Index::new(meta.index, meta.term);
            }
        })?;
        if let Some(old_number) = old_number {
            self.snapshots.remove(old_number);
        }
        Ok(())
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

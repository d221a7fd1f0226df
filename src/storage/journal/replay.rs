//! Rebuilds what a store holds from its records, oldest first.
//!
//! Knows nothing of files. The oldest records may be gone, with the entries that were compacted:
//! every retirement is preceded by a checkpoint, so what is left tells everything, and where it
//! doesn't, entries are missing that should be there.

use std::path::Path;

use crate::storage::index::{Index, Row};
use crate::storage::record::{Checkpoint, Decoded, Record};
use crate::storage::system_files::{amnesia, corrupt};
use crate::storage::{HardState, Identity, StorageError, wrong_identity};

use super::medium::Placed;

/// What the records add up to.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) checkpoint: Checkpoint,
    pub(super) hard_state: HardState,
    pub(super) index: Index,
    pub(super) sequence: u64,
}

/// The state of the replay after some records.
#[derive(Debug)]
pub(super) struct Replay<'a> {
    path: &'a Path,
    identity: Identity,
    sequence: Option<u64>,
    checkpoint: Option<Checkpoint>,
    hard_state: HardState,
    /// Its base is a guess (the first entry met) until a checkpoint says more.
    index: Option<Index>,
}

impl<'a> Replay<'a> {
    pub(super) fn new(path: &'a Path, identity: Identity) -> Replay<'a> {
        Replay {
            path,
            identity,
            sequence: None,
            checkpoint: None,
            hard_state: HardState::default(),
            index: None,
        }
    }

    pub(super) fn record(&mut self, decoded: Decoded, placed: Placed) -> Result<(), StorageError> {
        if let Some(before) = self.sequence
            && decoded.sequence != before + 1
        {
            return Err(self.nonsense(
                placed,
                format!("record {} follows record {before}", decoded.sequence),
            ));
        }
        self.sequence = Some(decoded.sequence);
        match decoded.record {
            Record::Batch {
                hard_state,
                first_index,
                entries,
            } => {
                self.hard_state = hard_state.unwrap_or(self.hard_state);
                if entries.is_empty() {
                    Ok(())
                } else {
                    self.entries(first_index, &entries, placed)
                }
            }
            Record::Checkpoint(checkpoint) => self.checkpoint(checkpoint, placed),
        }
    }

    fn entries(
        &mut self,
        first: u64,
        entries: &[(u64, Row)],
        placed: Placed,
    ) -> Result<(), StorageError> {
        let compacted = self
            .checkpoint
            .map_or(0, |checkpoint| checkpoint.compacted_index);
        let last = self.index.as_ref().map(Index::last);
        if first <= compacted || last.is_some_and(|last| first > last + 1) {
            let held = format!(
                "entry {first} can't follow entry {last:?}, with {compacted} compacted away"
            );
            return Err(self.nonsense(placed, held));
        }
        let index = self.index.get_or_insert_with(|| Index::new(first - 1, 0));
        if first < index.first() {
            // It overwrites entries whose records are retired: it is now the first that is known.
            *index = Index::new(first - 1, 0);
        }
        index.truncate_from(first);
        for (term, row) in entries {
            let offset = placed.offset.saturating_add(row.offset);
            index.push(
                *term,
                placed.place,
                Row::new(offset, row.length(), row.kind(), row.crc),
            );
        }
        Ok(())
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint, placed: Placed) -> Result<(), StorageError> {
        if checkpoint.identity != self.identity {
            return Err(wrong_identity(
                &self.path.display().to_string(),
                self.identity,
                checkpoint.identity,
            ));
        }
        let Checkpoint {
            compacted_index,
            compacted_term,
            last_index,
            ..
        } = checkpoint;
        match &mut self.index {
            _ if last_index == compacted_index => {
                self.index = Some(Index::new(compacted_index, compacted_term))
            }
            None => self.index = Some(Index::new(last_index, 0)),
            Some(index) if index.last() != last_index => {
                let reason = format!(
                    "the checkpoint ends at entry {last_index}, the records at {}",
                    index.last()
                );
                return Err(self.nonsense(placed, reason));
            }
            Some(index) if index.first() <= compacted_index + 1 => {
                index.compact(compacted_index);
                index.set_base_term(compacted_term);
            }
            // The records of the entries before are retired; a later checkpoint has to say why.
            Some(_) => {}
        }
        self.hard_state = checkpoint.hard_state;
        self.checkpoint = Some(checkpoint);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Replayed, StorageError> {
        let lost = |reason: String| Err(amnesia(self.path, reason));
        let (Some(sequence), Some(checkpoint), Some(index)) =
            (self.sequence, self.checkpoint, self.index)
        else {
            return lost("no record is left that says what the store holds".to_owned());
        };
        if index.first() != checkpoint.compacted_index + 1 {
            let (from, to) = (checkpoint.compacted_index + 1, index.first() - 1);
            return lost(format!("the records of entries {from} to {to} are missing"));
        }
        Ok(Replayed {
            checkpoint,
            hard_state: self.hard_state,
            index,
            sequence,
        })
    }

    fn nonsense(&self, placed: Placed, reason: String) -> StorageError {
        corrupt(
            self.path,
            u64::from(placed.offset),
            format!("at place {}: {reason}", placed.place),
        )
    }
}

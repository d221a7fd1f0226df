//! Opening a journal: what the records add up to, held against the fence.
//!
//! Invariant: what it returns is durable, for whoever is told of it may answer for it.

use std::path::Path;

use crate::storage::fence::{Durability, Phase};
use crate::storage::index::Index;
use crate::storage::record::Checkpoint;
use crate::storage::snapshot_file::SnapshotFiles;
use crate::storage::system_files::{amnesia, corrupt};
use crate::storage::{HardState, Identity, SnapshotMeta, SnapshotReader, StorageError};

use super::medium::Medium;
use super::replay::Replay;
use super::{State, Writer};

/// Reads what is there and holds it against the fence.
pub(super) fn recover<M: Medium>(
    dir: &Path,
    medium: &M,
    snapshots: &SnapshotFiles,
    writer: &mut Writer,
) -> Result<State, StorageError> {
    let nothing = State {
        identity: None,
        hard_state: HardState::default(),
        snapshot: None,
        index: Index::new(0, 0),
        sequence: 0,
        stopped: None,
    };
    let Some(fence) = &mut writer.fence else {
        if medium.is_empty()? && snapshots.is_empty()? {
            return Ok(nothing);
        }
        return Err(amnesia(
            dir,
            "the fence is missing, but not the store beside it",
        ));
    };
    let acknowledged = *fence.last();
    if acknowledged.phase == Phase::Bootstrapping {
        snapshots.remove_all_but(None)?;
        medium.wipe()?;
        return Ok(nothing);
    }
    let identity = acknowledged.identity;
    let mut replay = Replay::new(dir, identity);
    medium.scan(identity, acknowledged.sequence, &mut |decoded, placed| {
        replay.record(decoded, placed)
    })?;
    let replayed = replay.finish()?;
    let meta = published_meta(dir, snapshots, identity, &replayed.checkpoint)?;
    let state = State {
        identity: Some(identity),
        hard_state: replayed.hard_state,
        snapshot: Some((replayed.checkpoint.snapshot_number, meta)),
        index: replayed.index,
        sequence: replayed.sequence,
        stopped: None,
    };
    let held = state.acknowledged(identity);
    if let Some(missing) = acknowledged.missing_in(&held) {
        return Err(amnesia(dir, missing));
    }
    fence.write(held, Durability::Synced)?;
    Ok(state)
}

/// What the published snapshot stands for, after all of it was read.
fn published_meta(
    dir: &Path,
    snapshots: &SnapshotFiles,
    identity: Identity,
    checkpoint: &Checkpoint,
) -> Result<SnapshotMeta, StorageError> {
    let mut reader = snapshots.reader(checkpoint.snapshot_number, identity)?;
    reader.verify()?;
    let meta = reader.meta().clone();
    if (meta.index, meta.term) != (checkpoint.snapshot_index, checkpoint.snapshot_term) {
        let expected = format!(
            "entry {} of term {}",
            checkpoint.snapshot_index, checkpoint.snapshot_term
        );
        let found = format!("entry {} of term {}", meta.index, meta.term);
        return Err(corrupt(
            dir,
            0,
            format!("the snapshot is of {found}, the log says {expected}"),
        ));
    }
    Ok(meta)
}

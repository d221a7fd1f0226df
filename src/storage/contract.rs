//! The caller's half of the contract, checked before anything is written.
//!
//! Knows no disk: every built-in store asks here, so that all refuse the same things.

use super::{Configuration, HardState, SnapshotMeta, StorageError, WriteBatch};

/// The most bytes of entry data in a batch: 64 MiB.
const BATCH_DATA_BYTES_MAX: u64 = 64 << 20;
/// The most entries in a batch.
const BATCH_ENTRIES_MAX: usize = 1 << 20;

/// What a store holds, as far as the rules need it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) first_index: u64,
    pub(super) last_index: u64,
    pub(super) hard_state: HardState,
}

fn refused(reason: String) -> StorageError {
    StorageError::Refused { reason }
}

/// The error of a store that nobody has bootstrapped.
pub(super) fn not_bootstrapped() -> StorageError {
    refused("the store is not bootstrapped".to_owned())
}

/// The error of a store that is bootstrapped a second time.
pub(super) fn already_bootstrapped() -> StorageError {
    refused("the store is bootstrapped already".to_owned())
}

/// Checks a batch against what is held; `term` tells the term of an entry held.
pub(super) fn check_batch(
    batch: &WriteBatch,
    held: Held,
    term: impl Fn(u64) -> Option<u64>,
) -> Result<(), StorageError> {
    if let Some(new) = &batch.hard_state {
        check_hard_state(new, &held.hard_state)?;
    }
    let Some(first) = batch.entries.first() else {
        return Ok(());
    };
    if first.index < held.first_index || first.index > held.last_index + 1 {
        let (low, high) = (held.first_index, held.last_index + 1);
        return Err(refused(format!(
            "a batch begins at entry {}, it has to begin at {low} to {high}",
            first.index
        )));
    }
    if batch.entries.len() > BATCH_ENTRIES_MAX {
        let count = batch.entries.len();
        return Err(refused(format!(
            "a batch has {count} entries, at most {BATCH_ENTRIES_MAX} are possible"
        )));
    }
    let mut data_bytes = 0;
    let mut term_before = term(first.index - 1).unwrap_or(0);
    for (entry, index) in batch.entries.iter().zip(first.index..) {
        if entry.index != index {
            return Err(refused(format!(
                "entry {} stands in a batch where {index} is next",
                entry.index
            )));
        }
        if entry.term < term_before {
            return Err(refused(format!(
                "entry {index} has term {} after an entry of term {term_before}",
                entry.term
            )));
        }
        term_before = entry.term;
        data_bytes += entry.data.len() as u64;
    }
    if data_bytes > BATCH_DATA_BYTES_MAX {
        return Err(refused(format!(
            "a batch has {data_bytes} bytes, at most {BATCH_DATA_BYTES_MAX} are possible"
        )));
    }
    Ok(())
}

/// A term never goes back, and a vote in a term is never changed (Raft paper, section 5.2).
fn check_hard_state(new: &HardState, held: &HardState) -> Result<(), StorageError> {
    if new.term < held.term {
        return Err(refused(format!(
            "term {} after term {}",
            new.term, held.term
        )));
    }
    if new.term == held.term && held.vote.is_some() && new.vote != held.vote {
        return Err(refused(format!(
            "a second vote in term {}: {:?} after {:?}",
            new.term, new.vote, held.vote
        )));
    }
    Ok(())
}

/// Checks that a snapshot doesn't go back behind the published one.
pub(super) fn check_snapshot(
    meta: &SnapshotMeta,
    published: Option<&SnapshotMeta>,
) -> Result<(), StorageError> {
    let Some(published) = published else {
        return Err(not_bootstrapped());
    };
    if meta.index < published.index {
        let (index, published) = (meta.index, published.index);
        return Err(refused(format!(
            "a snapshot at entry {index} is older than the published one at {published}"
        )));
    }
    check_configuration(&meta.configuration)
}

/// The most nodes in one list of a configuration.
const CONFIGURATION_NODES_MAX: usize = 10_000;

/// Checks that a configuration is one that can be read back.
pub(super) fn check_configuration(configuration: &Configuration) -> Result<(), StorageError> {
    let Configuration {
        voters,
        voters_outgoing,
        learners,
        learners_next,
        ..
    } = configuration;
    for list in [voters, voters_outgoing, learners, learners_next] {
        if list.len() > CONFIGURATION_NODES_MAX {
            let count = list.len();
            return Err(refused(format!(
                "a configuration names {count} nodes, at most {CONFIGURATION_NODES_MAX} are possible"
            )));
        }
    }
    Ok(())
}

/// Checks a compaction. `Ok(false)`: all up to there is forgotten already.
pub(super) fn check_compaction(
    index: u64,
    held: Held,
    published: Option<&SnapshotMeta>,
) -> Result<bool, StorageError> {
    let Some(published) = published else {
        return Err(not_bootstrapped());
    };
    if index > published.index {
        let published = published.index;
        return Err(refused(format!(
            "entry {index} can't be compacted away, the snapshot covers up to {published}"
        )));
    }
    if index > held.last_index {
        let last = held.last_index;
        return Err(refused(format!(
            "entry {index} can't be compacted away, the last one held is {last}"
        )));
    }
    Ok(index >= held.first_index)
}

/// Checks the bounds of a read. `Ok(false)`: nothing was asked for.
pub(super) fn check_range(
    low: u64,
    high: u64,
    first_index: u64,
    last_index: u64,
) -> Result<bool, StorageError> {
    if low >= high {
        return Ok(false);
    }
    if low < first_index {
        return Err(StorageError::Compacted {
            index: low,
            first_index,
        });
    }
    if high > last_index + 1 {
        return Err(StorageError::Unavailable {
            index: high - 1,
            last_index,
        });
    }
    Ok(true)
}

/// The error of a term that isn't known.
pub(super) fn no_term(index: u64, first_index: u64, last_index: u64) -> StorageError {
    if index < first_index {
        StorageError::Compacted { index, first_index }
    } else {
        StorageError::Unavailable { index, last_index }
    }
}

/// The error of a store that an earlier failure has stopped.
#[cfg(any(feature = "log", feature = "sled"))]
pub(super) fn stopped(reason: &str) -> StorageError {
    StorageError::Stopped {
        reason: reason.to_owned(),
    }
}

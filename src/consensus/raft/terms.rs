//! The terms of a log, held as runs: since terms never decrease along a log, a few numbers say the
//! term of every entry.
//!
//! It knows no entries and reads the storage only when it is made. raft-rs panics where a term that
//! it needs can't be read, so the terms are in memory: asking for one can't fail. The invariant: runs
//! are sorted by start and by term, and the first starts at the entry before the first one held.

use crate::storage::{Storage, StorageError};

/// Which term each entry of a log has.
#[derive(Debug)]
pub(super) struct TermRuns {
    /// Where each run starts, and its term. Never empty.
    runs: Vec<(u64, u64)>,
    /// The last entry of the log.
    last_index: u64,
}

impl TermRuns {
    /// A log without entries after the one at `index`.
    pub(super) fn starting_after(index: u64, term: u64) -> TermRuns {
        TermRuns {
            runs: vec![(index, term)],
            last_index: index,
        }
    }

    /// Reads the terms of what `storage` holds, a binary search for each run.
    pub(super) fn load(
        storage: &dyn Storage,
        first_index: u64,
        last_index: u64,
    ) -> Result<TermRuns, StorageError> {
        let mut start = first_index - 1;
        let mut terms = TermRuns::starting_after(start, storage.term(start)?);
        let last_term = storage.term(last_index)?;
        while terms.last_term() < last_term {
            let term = terms.last_term();
            let (mut inside, mut outside) = (start, last_index);
            while outside - inside > 1 {
                let middle = inside + (outside - inside) / 2;
                if storage.term(middle)? == term {
                    inside = middle;
                } else {
                    outside = middle;
                }
            }
            start = outside;
            let next_term = storage.term(start)?;
            if next_term <= term {
                return Err(StorageError::Corrupt {
                    path: "log".to_owned(),
                    offset: 0,
                    reason: format!("the term falls from {term} to {next_term} at entry {start}"),
                });
            }
            terms.runs.push((start, next_term));
        }
        terms.last_index = last_index;
        Ok(terms)
    }

    /// The last entry of the log.
    pub(super) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The entry before the first one held: the oldest whose term is known.
    pub(super) fn start(&self) -> u64 {
        self.runs[0].0
    }

    /// The term of the entry at `index`; `None` before [`TermRuns::start`] and after the last.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index < self.start() || index > self.last_index {
            return None;
        }
        let after = self.runs.partition_point(|&(start, _)| start <= index);
        Some(self.runs[after - 1].1)
    }

    /// Adds the entry at `index`, dropping it and all after it first (Raft's conflict rule).
    pub(super) fn push(&mut self, index: u64, term: u64) {
        assert!(
            self.start() < index && index <= self.last_index + 1,
            "an entry beside the log"
        );
        if index <= self.last_index {
            self.runs.retain(|&(start, _)| start < index);
        }
        if self.last_term() != term {
            self.runs.push((index, term));
        }
        self.last_index = index;
    }

    /// Forgets the entries up to and including `index`; that one's term stays known.
    pub(super) fn compact(&mut self, index: u64) {
        if index <= self.start() {
            return;
        }
        assert!(index <= self.last_index, "compacted beyond the log");
        let after = self.runs.partition_point(|&(start, _)| start <= index);
        self.runs.drain(..after - 1);
        self.runs[0].0 = index;
    }

    fn last_term(&self) -> u64 {
        self.runs[self.runs.len() - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms_of(runs: &TermRuns) -> Vec<Option<u64>> {
        (0..=runs.last_index() + 1)
            .map(|index| runs.term(index))
            .collect()
    }

    #[test]
    fn a_conflict_drops_the_terms_after_it() {
        let mut runs = TermRuns::starting_after(1, 1);
        for (index, term) in [(2, 1), (3, 2), (4, 2), (5, 3)] {
            runs.push(index, term);
        }
        runs.push(4, 4);
        assert_eq!(
            terms_of(&runs),
            [None, Some(1), Some(1), Some(2), Some(4), None]
        );
    }

    #[test]
    fn compaction_keeps_the_term_before_the_first_entry() {
        let mut runs = TermRuns::starting_after(1, 1);
        for (index, term) in [(2, 1), (3, 2), (4, 2), (5, 3)] {
            runs.push(index, term);
        }
        runs.compact(4);
        assert_eq!(
            terms_of(&runs),
            [None, None, None, None, Some(2), Some(3), None]
        );
        runs.compact(5);
        assert_eq!(runs.term(5), Some(3));
        assert_eq!(runs.term(4), None);
    }
}

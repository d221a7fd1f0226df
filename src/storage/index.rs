//! Where each entry of the log lies: index to term, place, offset, length and checksum, in memory.
//!
//! Knows nothing of what a place is: the log's segment, or sled's record. Twelve bytes for an
//! entry, and one *run* for consecutive entries of one term and place.
//! Invariant: indexes are consecutive after `base`, and places never decrease along the log, so
//! that whatever lies before the first entry's place is unused.

use std::collections::VecDeque;

use super::EntryKind;

/// The bit of [`Row::length_and_kind`] that says [`EntryKind::Membership`].
const MEMBERSHIP_BIT: u32 = 1 << 31;

/// One entry's data: where it is within its place, and what it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Row {
    /// The first byte, counted from the beginning of the place.
    pub(super) offset: u32,
    length_and_kind: u32,
    /// The checksum of the data.
    pub(super) crc: u32,
}

impl Row {
    /// A row for `length` bytes; the caller has kept them under 2^31.
    pub(super) fn new(offset: u32, length: u32, kind: EntryKind, crc: u32) -> Row {
        debug_assert!(length < MEMBERSHIP_BIT);
        let bit = match kind {
            EntryKind::Command => 0,
            EntryKind::Membership => MEMBERSHIP_BIT,
        };
        Row {
            offset,
            length_and_kind: length | bit,
            crc,
        }
    }

    /// A row as it stands in a record.
    pub(super) fn from_parts(offset: u32, length_and_kind: u32, crc: u32) -> Row {
        Row {
            offset,
            length_and_kind,
            crc,
        }
    }

    /// The length, with bit 31 set for [`EntryKind::Membership`].
    pub(super) fn length_and_kind(self) -> u32 {
        self.length_and_kind
    }

    pub(super) fn length(self) -> u32 {
        self.length_and_kind & !MEMBERSHIP_BIT
    }

    pub(super) fn kind(self) -> EntryKind {
        if self.length_and_kind & MEMBERSHIP_BIT == 0 {
            EntryKind::Command
        } else {
            EntryKind::Membership
        }
    }
}

/// Consecutive entries of one term in one place, up to the next run.
#[derive(Clone, Copy, Debug)]
struct Run {
    first_index: u64,
    term: u64,
    place: u64,
}

/// What is known of one entry without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Location {
    pub(super) index: u64,
    pub(super) term: u64,
    pub(super) place: u64,
    pub(super) row: Row,
}

/// All entries held.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The last entry that is compacted away; 0 where none is.
    base_index: u64,
    base_term: u64,
    rows: VecDeque<Row>,
    runs: VecDeque<Run>,
}

impl Index {
    /// An index without entries, whose next one is `base_index + 1`.
    pub(super) fn new(base_index: u64, base_term: u64) -> Index {
        Index {
            base_index,
            base_term,
            ..Index::default()
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.base_index + 1
    }

    pub(super) fn last(&self) -> u64 {
        self.base_index + self.rows.len() as u64
    }

    /// The term of an entry held, or of the one before the first.
    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        Some(self.locate(index)?.term)
    }

    pub(super) fn locate(&self, index: u64) -> Option<Location> {
        let position = usize::try_from(index.checked_sub(self.first())?).ok()?;
        let row = *self.rows.get(position)?;
        let run = self.runs[self.run_of(index)];
        Some(Location {
            index,
            term: run.term,
            place: run.place,
            row,
        })
    }

    /// The lowest place that is still needed; `None` where there is no entry.
    pub(super) fn first_place(&self) -> Option<u64> {
        Some(self.runs.front()?.place)
    }

    /// Appends the entry after the last.
    pub(super) fn push(&mut self, term: u64, place: u64, row: Row) {
        let index = self.last() + 1;
        match self.runs.back() {
            Some(run) if run.term == term && run.place == place => {}
            _ => self.runs.push_back(Run {
                first_index: index,
                term,
                place,
            }),
        }
        self.rows.push_back(row);
    }

    /// Drops the entries from `index` on.
    pub(super) fn truncate_from(&mut self, index: u64) {
        let kept = index.saturating_sub(self.first());
        self.rows
            .truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        while self.runs.back().is_some_and(|run| run.first_index >= index) {
            self.runs.pop_back();
        }
    }

    /// Drops the entries up to and including `index`, which is held and whose term stays known.
    pub(super) fn compact(&mut self, index: u64) {
        let Some(term) = self.term(index) else { return };
        let dropped = (index - self.base_index) as usize;
        self.rows.drain(..dropped);
        self.base_index = index;
        self.base_term = term;
        if self.rows.is_empty() {
            self.runs.clear();
            return;
        }
        let first_run = self.run_of(index + 1);
        self.runs.drain(..first_run);
        if let Some(run) = self.runs.front_mut() {
            run.first_index = index + 1;
        }
    }

    /// Says what the term before the first entry was, where recovery found it out late.
    pub(super) fn set_base_term(&mut self, term: u64) {
        self.base_term = term;
    }

    /// The run that holds `index`, which is held.
    fn run_of(&self, index: u64) -> usize {
        self.runs.partition_point(|run| run.first_index <= index) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(offset: u32) -> Row {
        Row::new(offset, 3, EntryKind::Membership, 7)
    }

    #[test]
    fn entries_are_found_after_truncation_and_compaction() {
        let mut index = Index::new(10, 2);
        for (position, (term, place)) in [(2, 1), (2, 1), (3, 1), (3, 2), (3, 2)]
            .into_iter()
            .enumerate()
        {
            index.push(term, place, row(position as u32));
        }
        assert_eq!((index.first(), index.last()), (11, 15));
        index.truncate_from(14);
        assert_eq!((index.last(), index.term(14)), (13, None));
        index.push(4, 3, row(9));
        assert_eq!(index.term(14), Some(4));
        index.compact(12);
        assert_eq!(
            (index.first(), index.term(12), index.term(11)),
            (13, Some(2), None)
        );
        let location = index.locate(13).expect("entry 13 is held");
        assert_eq!(
            (location.term, location.place, location.row),
            (3, 1, row(2))
        );
        index.compact(14);
        assert_eq!(
            (index.first(), index.last(), index.first_place()),
            (15, 14, None)
        );
        assert_eq!(index.term(14), Some(4));
    }

    #[test]
    fn a_row_keeps_length_and_kind_apart() {
        let row = Row::new(1, MEMBERSHIP_BIT - 1, EntryKind::Membership, 0);
        assert_eq!(
            (row.length(), row.kind()),
            (MEMBERSHIP_BIT - 1, EntryKind::Membership)
        );
        assert_eq!(
            Row::new(1, 0, EntryKind::Command, 0).kind(),
            EntryKind::Command
        );
        assert_eq!(std::mem::size_of::<Row>(), 12);
    }
}

//! Reading a journal while it is written: entries, terms, bounds, and the published snapshot.
//!
//! Where the entries lie is looked up under the lock, the bytes are read without it. A compaction
//! or an overwrite that comes between is noticed, because then they lie elsewhere or nowhere.

use bytes::Bytes;

use crate::storage::contract;
use crate::storage::index::Location;
use crate::storage::snapshot_file::SnapshotFileReader;
use crate::storage::system_files::corrupt;
use crate::storage::{LogEntry, StorageError};

use super::Journal;
use super::medium::Medium;

/// Entries of one place with no more than this between them are read in one go.
const READ_GAP_BYTES_MAX: u32 = 4096;
/// The most that is read in one go, unless one entry is longer.
const READ_BYTES_MAX: u32 = 1 << 20;

impl<M: Medium> Journal<M> {
    pub(in crate::storage) fn bounds(&self) -> (u64, u64) {
        let state = self.state.read();
        (state.index.first(), state.index.last())
    }

    pub(in crate::storage) fn term(&self, index: u64) -> Result<u64, StorageError> {
        let index_of = &self.state.read().index;
        index_of
            .term(index)
            .ok_or_else(|| contract::no_term(index, index_of.first(), index_of.last()))
    }

    pub(in crate::storage) fn entries(
        &self,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let mut locations = self.locate(low, high, bytes_max)?;
        loop {
            match self.read(&locations) {
                Ok(entries) => return Ok(entries),
                Err(error) => {
                    // Compaction or an overwrite may have come between: then look again.
                    let now = self.locate(low, high, bytes_max)?;
                    if now == locations {
                        return Err(error);
                    }
                    locations = now;
                }
            }
        }
    }

    fn locate(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Location>, StorageError> {
        let index = &self.state.read().index;
        let mut locations = Vec::new();
        if !contract::check_range(low, high, index.first(), index.last())? {
            return Ok(locations);
        }
        let mut bytes = 0;
        for location in (low..high).map_while(|number| index.locate(number)) {
            bytes += u64::from(location.row.length());
            if bytes > bytes_max && !locations.is_empty() {
                break;
            }
            locations.push(location);
        }
        Ok(locations)
    }

    fn read(&self, mut locations: &[Location]) -> Result<Vec<LogEntry>, StorageError> {
        let mut entries = Vec::with_capacity(locations.len());
        while let Some(first) = locations.first() {
            let begin = first.row.offset;
            let mut end = begin;
            let count = locations
                .iter()
                .take_while(|location| {
                    let row = location.row;
                    let gap = row.offset.checked_sub(end);
                    let fits = location.place == first.place
                        && gap.is_some_and(|gap| gap <= READ_GAP_BYTES_MAX)
                        && (row.offset == begin
                            || row.offset - begin + row.length() <= READ_BYTES_MAX);
                    if fits {
                        end = row.offset + row.length();
                    }
                    fits
                })
                .count();
            let (together, rest) = locations.split_at(count.max(1));
            let bytes = self
                .medium
                .read(first.place, begin, end - begin)?
                .ok_or_else(|| {
                    corrupt(
                        &self.dir,
                        u64::from(begin),
                        format!("place {} of entry {} is missing", first.place, first.index),
                    )
                })?;
            for location in together {
                entries.push(self.entry(location, &bytes, begin)?);
            }
            locations = rest;
        }
        Ok(entries)
    }

    fn entry(
        &self,
        location: &Location,
        bytes: &Bytes,
        begin: u32,
    ) -> Result<LogEntry, StorageError> {
        let row = location.row;
        let from = (row.offset - begin) as usize;
        let to = from + row.length() as usize;
        if to > bytes.len() || crc32fast::hash(&bytes[from..to]) != row.crc {
            let reason = format!(
                "entry {} at place {} does not match its checksum",
                location.index, location.place
            );
            return Err(corrupt(&self.dir, u64::from(row.offset), reason));
        }
        Ok(LogEntry {
            index: location.index,
            term: location.term,
            kind: row.kind(),
            data: bytes.slice(from..to),
        })
    }

    pub(in crate::storage) fn snapshot_reader(
        &self,
    ) -> Result<Option<SnapshotFileReader>, StorageError> {
        // Under the lock, so that the file isn't removed between naming and opening it.
        let state = self.state.read();
        let (Some(identity), Some((number, _))) = (state.identity, &state.snapshot) else {
            return Ok(None);
        };
        self.snapshots.reader(*number, identity).map(Some)
    }
}

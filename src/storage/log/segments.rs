//! The segments of one log, in order: the medium behind `Log`.
//!
//! It knows which file a record goes to and which can be used again, not what records mean.
//! Invariants: segments are numbered without gaps, and only the last one is written to; each
//! begins where the one before ended; one record at most is under way, so only the last record can
//! be torn.
//!
//! Names in the directory: `segment-N`, `spare-N` for files that wait for their next life, each under the
//! number that it had, and `new-N` for a file that is being made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::storage::files::{FileHandle, Files};
use crate::storage::journal::{Medium, Placed, Visitor};
use crate::storage::record::Flaw;
use crate::storage::system_files::{amnesia, corrupt, io_error};
use crate::storage::{Identity, StorageError};

use super::segment::{End, Header, RECORDS_OFFSET, Segment};
use super::{LogOptions, SEGMENT_BYTES_MAX};

/// What is written in one go where a new file is filled with zeros.
const ZEROS_BYTES: usize = 1 << 20;
const PAGE_BYTES: u64 = 4096;

/// The segment that is written to.
#[derive(Debug)]
struct Active {
    segment: Arc<Segment>,
    /// Where the next record goes.
    offset: u64,
}

/// All segments of one log.
#[derive(Debug)]
pub(super) struct Segments {
    files: Arc<dyn Files>,
    dir: PathBuf,
    options: LogOptions,
    active: Mutex<Option<Active>>,
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    /// Files of the usual length that hold nothing.
    spares: Mutex<Vec<PathBuf>>,
}

impl Segments {
    pub(super) fn open(
        files: Arc<dyn Files>,
        dir: PathBuf,
        options: LogOptions,
    ) -> Result<Segments, StorageError> {
        files
            .create_dir(&dir)
            .map_err(|error| io_error("create", &dir, &error))?;
        let segments = Segments {
            files,
            dir,
            options,
            active: Mutex::new(None),
            segments: RwLock::new(BTreeMap::new()),
            spares: Mutex::new(Vec::new()),
        };
        segments.collect_spares()?;
        Ok(segments)
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        self.files
            .list(&self.dir)
            .map_err(|error| io_error("list", &self.dir, &error))
    }

    /// Keeps the spares that can be used, and removes the others, and what a crash has left half made.
    fn collect_spares(&self) -> Result<(), StorageError> {
        for name in self.names()?.iter().filter(|name| name.starts_with("new-")) {
            let path = self.dir.join(name);
            self.files
                .remove(&path)
                .map_err(|error| io_error("remove", &path, &error))?;
        }
        for name in self
            .names()?
            .into_iter()
            .filter(|name| name.starts_with("spare-"))
        {
            let path = self.dir.join(name);
            let file = self
                .files
                .open(&path)
                .map_err(|error| io_error("open", &path, &error))?;
            let length = file
                .len_bytes()
                .map_err(|error| io_error("measure", &path, &error))?;
            let mut spares = self.spares.lock();
            if length == self.options.segment_bytes
                && spares.len() < self.options.spare_segments_max
            {
                spares.push(path);
            } else {
                self.files
                    .remove(&path)
                    .map_err(|error| io_error("remove", &path, &error))?;
            }
        }
        Ok(())
    }

    /// The numbers of the segments there are, ascending and without gaps.
    fn numbers(&self) -> Result<Vec<u64>, StorageError> {
        let mut numbers = Vec::new();
        for name in self.names()? {
            let Some(digits) = name.strip_prefix("segment-") else {
                continue;
            };
            let number = u64::from_str_radix(digits, 16)
                .map_err(|_| corrupt(&self.dir.join(&name), 0, "the name is no segment's"))?;
            numbers.push(number);
        }
        numbers.sort_unstable();
        match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            Some(pair) => Err(amnesia(
                &self.dir,
                format!(
                    "segments {:#x} to {:#x} are missing",
                    pair[0] + 1,
                    pair[1] - 1
                ),
            )),
            None => Ok(numbers),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("segment-{number:016x}"))
    }

    /// Makes the segment that follows, for a record of `record_bytes`, and makes it the active one.
    fn add(&self, header: Header) -> Result<Active, StorageError> {
        let spare = if header.length == self.options.segment_bytes {
            self.spares.lock().pop()
        } else {
            None
        };
        let (temporary, is_new) = match spare {
            Some(path) => (path, false),
            // Not a spare's name: after a crash it would be one, and the segment that got the number
            // in its place would be a second one of that name when it retires.
            None => (self.dir.join(format!("new-{:016x}", header.number)), true),
        };
        let file = if is_new {
            self.files.create(&temporary)
        } else {
            self.files.open(&temporary)
        }
        .map_err(|error| io_error("create", &temporary, &error))?;
        if is_new {
            self.fill_with_zeros(&temporary, file.as_ref(), header.length)?;
        }
        file.write_at(&header.encode(), 0)
            .map_err(|error| io_error("write", &temporary, &error))?;
        file.sync_data()
            .map_err(|error| io_error("sync", &temporary, &error))?;
        let path = self.path(header.number);
        self.files
            .rename(&temporary, &path)
            .map_err(|error| io_error("rename", &temporary, &error))?;
        self.sync_dir()?;
        let segment = Arc::new(Segment { header, path, file });
        self.segments
            .write()
            .insert(header.number, Arc::clone(&segment));
        Ok(Active {
            segment,
            offset: RECORDS_OFFSET,
        })
    }

    fn fill_with_zeros(
        &self,
        path: &Path,
        file: &dyn FileHandle,
        length: u64,
    ) -> Result<(), StorageError> {
        let zeros = vec![0; ZEROS_BYTES.min(length as usize)];
        let mut offset = 0;
        while offset < length {
            let count = (length - offset).min(zeros.len() as u64);
            file.write_at(&zeros[..count as usize], offset)
                .map_err(|error| io_error("write", path, &error))?;
            offset += count;
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        self.files
            .sync_dir(&self.dir)
            .map_err(|error| io_error("sync", &self.dir, &error))
    }

    /// Opens segment `number` and shows its records; `end_sequence` is where the next one begins.
    fn scan_one(
        &self,
        number: u64,
        identity: Identity,
        end_sequence: Option<u64>,
        visit: Visitor<'_>,
    ) -> Result<(Vec<u8>, Arc<Segment>, End), StorageError> {
        let path = self.path(number);
        let file = self
            .files
            .open(&path)
            .map_err(|error| io_error("open", &path, &error))?;
        let bytes = read_whole(file.as_ref(), &path, SEGMENT_BYTES_MAX)?;
        let header = Segment::check(&bytes, &path, number, identity)?;
        let end = header.scan(
            &bytes,
            &path,
            end_sequence.unwrap_or(u64::MAX),
            &mut |decoded, offset| {
                visit(
                    decoded,
                    Placed {
                        place: number,
                        offset: offset as u32,
                    },
                )
            },
        )?;
        let segment = Arc::new(Segment { header, path, file });
        self.segments.write().insert(number, Arc::clone(&segment));
        Ok((bytes, segment, end))
    }

    /// The sequence that segment `number` begins with: where the one before ends.
    fn first_sequence(&self, number: u64, identity: Identity) -> Result<u64, StorageError> {
        let path = self.path(number);
        let file = self
            .files
            .open(&path)
            .map_err(|error| io_error("open", &path, &error))?;
        let mut page = vec![0; RECORDS_OFFSET as usize];
        let count = file
            .read_at(&mut page, 0)
            .map_err(|error| io_error("read", &path, &error))?;
        Ok(Header::read(&page[..count], &path, number, identity)?.first_sequence)
    }
}

impl Medium for Segments {
    fn is_empty(&self) -> Result<bool, StorageError> {
        Ok(self.numbers()?.is_empty())
    }

    fn wipe(&self) -> Result<(), StorageError> {
        // The last one first: a crash in between leaves no gap.
        for number in self.numbers()?.into_iter().rev() {
            let path = self.path(number);
            self.files
                .remove(&path)
                .map_err(|error| io_error("remove", &path, &error))?;
            self.sync_dir()?;
        }
        Ok(())
    }

    fn create(&self, identity: Identity) -> Result<(), StorageError> {
        let length = self.options.segment_bytes;
        let active = self.add(Header {
            number: 1,
            identity,
            first_sequence: 1,
            length,
        })?;
        *self.active.lock() = Some(active);
        Ok(())
    }

    fn scan(
        &self,
        identity: Identity,
        acknowledged: u64,
        visit: Visitor<'_>,
    ) -> Result<(), StorageError> {
        let numbers = self.numbers()?;
        for (position, &number) in numbers.iter().enumerate() {
            let next = numbers.get(position + 1);
            let end_sequence = next
                .map(|next| self.first_sequence(*next, identity))
                .transpose()?;
            let (bytes, segment, end) = self.scan_one(number, identity, end_sequence, visit)?;
            if let Some(end_sequence) = end_sequence {
                if end.sequence != end_sequence {
                    let reason = format!(
                        "no whole record {} ({:?}), and segments follow",
                        end.sequence, end.flaw
                    );
                    return Err(corrupt(&segment.path, end.offset, reason));
                }
                continue;
            }
            check_tail(&segment, &bytes, &end, acknowledged)?;
            segment.sync()?;
            self.sync_dir()?;
            *self.active.lock() = Some(Active {
                segment,
                offset: end.offset,
            });
        }
        Ok(())
    }

    fn append(&self, sequence: u64, record: &mut [u8]) -> Result<Placed, StorageError> {
        let mut active = self.active.lock();
        let Some(current) = active.as_mut() else {
            return Err(corrupt(&self.dir, 0, "there is no segment to write to"));
        };
        if record.len() as u64 > current.segment.header.length - current.offset {
            let needed = (RECORDS_OFFSET + record.len() as u64).next_multiple_of(PAGE_BYTES);
            *current = self.add(Header {
                number: current.segment.header.number + 1,
                identity: current.segment.header.identity,
                first_sequence: sequence,
                length: needed.max(self.options.segment_bytes),
            })?;
        }
        let placed = Placed {
            place: current.segment.header.number,
            offset: current.offset as u32,
        };
        current.segment.write(current.offset, record)?;
        current.offset += record.len() as u64;
        Ok(placed)
    }

    fn read(&self, place: u64, offset: u32, length: u32) -> Result<Option<Bytes>, StorageError> {
        let segment = self.segments.read().get(&place).cloned();
        segment
            .map(|segment| segment.read(offset, length).map(Bytes::from))
            .transpose()
    }

    fn retire(&self, place: u64) -> Result<(), StorageError> {
        loop {
            let segment = {
                let mut segments = self.segments.write();
                match segments.first_key_value() {
                    Some((number, _)) if *number < place => {
                        segments.pop_first().map(|(_, segment)| segment)
                    }
                    _ => None,
                }
            };
            let Some(segment) = segment else {
                return Ok(());
            };
            let mut spares = self.spares.lock();
            // Whoever reads the file now must not see its next life.
            let is_unread = Arc::strong_count(&segment) == 1;
            let has_usual_length = segment.header.length == self.options.segment_bytes;
            if is_unread && has_usual_length && spares.len() < self.options.spare_segments_max {
                let spare = self
                    .dir
                    .join(format!("spare-{:016x}", segment.header.number));
                self.files
                    .rename(&segment.path, &spare)
                    .map_err(|error| io_error("rename", &segment.path, &error))?;
                spares.push(spare);
            } else {
                self.files
                    .remove(&segment.path)
                    .map_err(|error| io_error("remove", &segment.path, &error))?;
            }
            drop(spares);
            // One after another, so that a crash leaves no gap and no segment under two names.
            self.sync_dir()?;
        }
    }
}

/// Whether what lies behind the last whole record may be dropped.
fn check_tail(
    segment: &Segment,
    bytes: &[u8],
    end: &End,
    acknowledged: u64,
) -> Result<(), StorageError> {
    if let (Flaw::Damaged(reason), true) = (&end.flaw, end.sequence <= acknowledged) {
        let reason = format!("record {} was acknowledged: {reason}", end.sequence);
        return Err(corrupt(&segment.path, end.offset, reason));
    }
    if let Some(found) = segment.header.find_record_after(bytes, end.offset) {
        let reason = format!(
            "no whole record {} here, but one that was written later at byte {found}",
            end.sequence
        );
        return Err(corrupt(&segment.path, end.offset, reason));
    }
    Ok(())
}

/// Reads a whole file that is no longer than `bytes_max`.
fn read_whole(file: &dyn FileHandle, path: &Path, bytes_max: u64) -> Result<Vec<u8>, StorageError> {
    let length = file
        .len_bytes()
        .map_err(|error| io_error("measure", path, &error))?;
    if length > bytes_max {
        return Err(corrupt(
            path,
            0,
            format!("{length} bytes long, at most {bytes_max} are possible"),
        ));
    }
    let mut bytes = vec![0; length as usize];
    let count = file
        .read_at(&mut bytes, 0)
        .map_err(|error| io_error("read", path, &error))?;
    bytes.truncate(count);
    Ok(bytes)
}

//! Records in sled: the medium behind `Sled`.
//!
//! It knows what sled needs to be durable and safe, each measure for a loss that was seen: syncing
//! the file `db` after every flush (a flush syncs nothing), syncing what `open` creates, no
//! background flusher, removing `*.generating` before opening (a kill there spoils every later
//! open), no value above a 64th of a segment (larger ones go to files that sled never syncs), and
//! panics caught everywhere. And what it needs to be fast: room ahead that is on the disk already.
//!
//! One record is one batch of values with consecutive keys: its sequence (u64) and the number of
//! the part (u16), big-endian, so that the order of keys is the order of records. A part is at
//! most a 64th of a segment, and begins with the length of the whole record (u32).
//! Invariant: sequences have no gaps, and only the last record can lack parts.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::storage::files::{FileHandle, Files};
use crate::storage::journal::{Medium, Placed, Visitor};
use crate::storage::record;
use crate::storage::system_files::{corrupt, io_error};
use crate::storage::{Identity, StorageError};

use super::SledOptions;
use super::worker::{Worker, guard};

const SEGMENT_BYTES_MIN: u64 = 2 << 20;
const SEGMENT_BYTES_MAX: u64 = 16 << 20;
/// sled's leaves hold up to 16 entries, and a leaf above a quarter of a segment becomes a blob.
const PARTS_PER_SEGMENT: u64 = 64;
const PART_HEAD_BYTES: usize = 4;
/// What sled adds to a value: room is left for it, so that no part can exceed its share.
const PART_MARGIN_BYTES: usize = 256;
/// How often, and after which pause, sled's own lock is asked for.
const LOCK_ATTEMPTS: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// sled's one file of data.
const DATA_FILE: &str = "db";
/// sled's header of a segment: a checksum, and two sequence numbers.
const SEGMENT_HEADER_BYTES: usize = 20;
/// How many zeros are written at once.
const ZEROS_BYTES: usize = 1 << 20;
/// How many keys are removed in one batch.
const REMOVED_KEYS_MAX: usize = 1000;

/// The records in one sled database.
#[derive(Debug)]
pub(super) struct SledRecords {
    path: PathBuf,
    /// sled's one file of data, opened by us to be synced.
    data_file: Arc<dyn FileHandle>,
    worker: Worker,
    part_bytes_max: usize,
    database: Option<::sled::Db>,
}

fn sled_error(doing: &'static str, path: &Path, error: &::sled::Error) -> StorageError {
    match error {
        ::sled::Error::Corruption { .. } => corrupt(path, 0, error.to_string()),
        // The file ends in the middle of what it should hold: it was cut.
        ::sled::Error::Io(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt(path, 0, error.to_string())
        }
        _ => StorageError::Io {
            doing,
            path: path.display().to_string(),
            reason: error.to_string(),
        },
    }
}

impl SledRecords {
    pub(super) fn open(
        files: &dyn Files,
        path: &Path,
        options: &SledOptions,
    ) -> Result<SledRecords, StorageError> {
        files
            .create_dir(path)
            .map_err(|error| io_error("create", path, &error))?;
        remove_half_written(files, path)?;
        let segment_bytes = options
            .segment_bytes
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            .next_power_of_two();
        let config = ::sled::Config::new()
            .path(path)
            .flush_every_ms(None)
            .segment_size(segment_bytes as usize)
            .cache_capacity(options.cache_bytes);
        make_room_ahead(files, path, &config, segment_bytes)?;
        let database = open_database(path, &config)?;
        // sled syncs nothing of what it creates.
        let sync = |name: &str| -> Result<Arc<dyn FileHandle>, StorageError> {
            let path = path.join(name);
            let file = files
                .open(&path)
                .map_err(|error| io_error("open", &path, &error))?;
            file.sync_data()
                .map_err(|error| io_error("sync", &path, &error))?;
            Ok(file)
        };
        sync("conf")?;
        let data_file = sync(DATA_FILE)?;
        files
            .sync_dir(path)
            .map_err(|error| io_error("sync", path, &error))?;
        let part_bytes_max = (segment_bytes / PARTS_PER_SEGMENT) as usize - PART_MARGIN_BYTES;
        let stall_limit = Duration::from_millis(options.stall_ms_max);
        Ok(SledRecords {
            path: path.to_path_buf(),
            data_file,
            worker: Worker::start(path, stall_limit)?,
            part_bytes_max,
            database: Some(database),
        })
    }

    fn database(&self) -> &::sled::Db {
        self.database
            .as_ref()
            .expect("it is taken when dropped only")
    }

    /// Makes the change, flushes it to the file, and makes the file durable.
    fn write(
        &self,
        change: impl FnOnce(&::sled::Db) -> ::sled::Result<()> + Send + 'static,
    ) -> Result<(), StorageError> {
        let database = self.database().clone();
        let data_file = Arc::clone(&self.data_file);
        let path = self.path.clone();
        self.worker.run(move || {
            change(&database).map_err(|error| sled_error("write", &path, &error))?;
            database
                .flush()
                .map_err(|error| sled_error("flush", &path, &error))?;
            data_file
                .sync_data()
                .map_err(|error| io_error("sync", &path, &error))
        })
    }

    /// Removes the keys before `end`, oldest first; `None`: all.
    fn remove_before(&self, end: Option<u64>) -> Result<(), StorageError> {
        loop {
            let keys = guard(&self.path, || {
                let end = end.map_or(vec![u8::MAX; 11], |end| key(end, 0).to_vec());
                let range = self.database().range(..end);
                range
                    .keys()
                    .take(REMOVED_KEYS_MAX)
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| sled_error("read", &self.path, &error))
            })?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut batch = ::sled::Batch::default();
            keys.into_iter().for_each(|key| batch.remove(key));
            self.write(|database| database.apply_batch(batch))?;
        }
    }

    /// The record's bytes that are there from the part on that holds `offset`, and that part's
    /// first byte.
    fn parts(
        &self,
        sequence: u64,
        offset: u32,
        length: u32,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let share = self.part_bytes_max - PART_HEAD_BYTES;
        let (begin, end) = (offset as usize, offset as usize + length as usize);
        let mut bytes = Vec::new();
        for number in begin / share..=end.saturating_sub(1).max(begin) / share {
            let Ok(number) = u16::try_from(number) else {
                return Ok(None);
            };
            let part = guard(&self.path, || {
                self.database()
                    .get(key(sequence, number))
                    .map_err(|error| sled_error("read", &self.path, &error))
            })?;
            let Some(part) = part else { return Ok(None) };
            bytes.extend_from_slice(part.get(PART_HEAD_BYTES..).unwrap_or_default());
        }
        let skipped = begin - begin / share * share;
        Ok(bytes
            .get(skipped..skipped + length as usize)
            .map(<[u8]>::to_vec))
    }
}

impl Medium for SledRecords {
    fn is_empty(&self) -> Result<bool, StorageError> {
        guard(&self.path, || {
            let first = self.database().iter().next();
            first
                .transpose()
                .map(|first| first.is_none())
                .map_err(|error| sled_error("read", &self.path, &error))
        })
    }

    fn wipe(&self) -> Result<(), StorageError> {
        self.remove_before(None)
    }

    fn create(&self, _identity: Identity) -> Result<(), StorageError> {
        Ok(())
    }

    fn scan(
        &self,
        _identity: Identity,
        acknowledged: u64,
        visit: Visitor<'_>,
    ) -> Result<(), StorageError> {
        // What was read may never have been synced: a killed process leaves it in the page cache.
        self.data_file
            .sync_data()
            .map_err(|error| io_error("sync", &self.path, &error))?;
        let mut scan = Scan {
            records: self,
            visit,
            acknowledged,
            current: None,
            torn: None,
        };
        let mut iterator = self.database().iter();
        loop {
            let next = guard(&self.path, || {
                iterator
                    .next()
                    .transpose()
                    .map_err(|error| sled_error("read", &self.path, &error))
            })?;
            let Some((key, part)) = next else { break };
            scan.part(&key, &part)?;
        }
        let torn = scan.finish()?;
        torn.map_or(Ok(()), |sequence| self.remove_from(sequence))
    }

    fn append(&self, sequence: u64, bytes: &mut [u8]) -> Result<Placed, StorageError> {
        record::seal(bytes, sequence);
        let whole = bytes.len() as u32;
        let value = |part: &[u8]| {
            let mut value = Vec::with_capacity(PART_HEAD_BYTES + part.len());
            value.extend_from_slice(&whole.to_le_bytes());
            value.extend_from_slice(part);
            value
        };
        let share = self.part_bytes_max - PART_HEAD_BYTES;
        if bytes.len() <= share {
            // sled writes less for one key than for a batch of one.
            let (key, value) = (key(sequence, 0), value(bytes));
            self.write(move |database| database.insert(key, value).map(drop))?;
        } else {
            let mut batch = ::sled::Batch::default();
            for (number, part) in (0..=u16::MAX).zip(bytes.chunks(share)) {
                batch.insert(&key(sequence, number), value(part));
            }
            self.write(|database| database.apply_batch(batch))?;
        }
        Ok(Placed {
            place: sequence,
            offset: 0,
        })
    }

    fn read(&self, place: u64, offset: u32, length: u32) -> Result<Option<Bytes>, StorageError> {
        Ok(self.parts(place, offset, length)?.map(Bytes::from))
    }

    fn retire(&self, place: u64) -> Result<(), StorageError> {
        self.remove_before(Some(place))
    }
}

impl SledRecords {
    /// Removes the parts of a record that was never whole.
    fn remove_from(&self, sequence: u64) -> Result<(), StorageError> {
        let mut batch = ::sled::Batch::default();
        for number in 0..=u16::MAX {
            let is_there = guard(&self.path, || {
                self.database()
                    .contains_key(key(sequence, number))
                    .map_err(|error| sled_error("read", &self.path, &error))
            })?;
            if is_there {
                batch.remove(&key(sequence, number));
            } else if number > 0 {
                break;
            }
        }
        self.write(|database| database.apply_batch(batch))
    }
}

impl Drop for SledRecords {
    /// sled panics in its own drop where its files are damaged.
    fn drop(&mut self) {
        let database = self.database.take();
        let _ = guard(&self.path, || {
            drop(database);
            Ok(())
        });
    }
}

fn key(sequence: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&sequence.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// Opens sled, which panics on damage. Its threads may hold its own lock for a moment after an
/// earlier handle was dropped: nobody else can, because the directory is locked by us.
fn open_database(path: &Path, config: &::sled::Config) -> Result<::sled::Db, StorageError> {
    for _ in 0..LOCK_ATTEMPTS {
        let opened = guard(path, || {
            config
                .open()
                .map_err(|error| sled_error("open", path, &error))
        });
        match opened {
            Err(StorageError::Io { reason, .. }) if reason.contains("could not acquire lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
    Err(StorageError::Locked {
        path: path.display().to_string(),
    })
}

/// Fills the file with zeros to the end of a free segment, while nobody has it open: what sled writes
/// there later changes neither the file's length nor its blocks, so that our sync needn't wait for the
/// file system's journal. A third of an append's time was that. A segment of zeros is what sled itself
/// makes of one that is free; it keeps one such segment, and uses those again that compaction frees.
/// Where the disk has no room for it there is none ahead: a part of it is taken back, because sled would
/// write that segment's rest itself when it opens, and fail.
fn make_room_ahead(
    files: &dyn Files,
    path: &Path,
    config: &::sled::Config,
    segment_bytes: u64,
) -> Result<(), StorageError> {
    let names = files
        .list(path)
        .map_err(|error| io_error("list", path, &error))?;
    if !names.iter().any(|name| name == DATA_FILE) {
        // sled makes the first segment, which has a header.
        drop(open_database(path, config)?);
    }
    let path = path.join(DATA_FILE);
    let fill = || -> std::io::Result<()> {
        let data_file = files.open(&path)?;
        let length = data_file.len_bytes()?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        let last_segment = length.saturating_sub(1) / segment_bytes * segment_bytes;
        let read = data_file.read_at(&mut header, last_segment)?;
        let is_free = read > 0 && header == [0; SEGMENT_HEADER_BYTES];
        let segments = length.div_ceil(segment_bytes) + u64::from(!is_free);
        if write_zeros(data_file.as_ref(), length..segments * segment_bytes).is_err() {
            let used = if is_free { last_segment } else { length };
            let file = std::fs::OpenOptions::new().write(true).open(&path)?;
            file.set_len(used)?;
        }
        data_file.sync_data()
    };
    fill().map_err(|error| io_error("make room in", &path, &error))
}

fn write_zeros(file: &dyn FileHandle, range: Range<u64>) -> std::io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = range.start;
    while offset < range.end {
        let bytes = zeros.len().min((range.end - offset) as usize);
        file.write_at(&zeros[..bytes], offset)?;
        offset += bytes as u64;
    }
    Ok(())
}

/// Removes what a kill during sled's open left: it would spoil every later open.
fn remove_half_written(files: &dyn Files, path: &Path) -> Result<(), StorageError> {
    let names = files
        .list(path)
        .map_err(|error| io_error("list", path, &error))?;
    for name in names
        .into_iter()
        .filter(|name| name.ends_with(".generating"))
    {
        let path = path.join(name);
        files
            .remove(&path)
            .map_err(|error| io_error("remove", &path, &error))?;
    }
    Ok(())
}

/// Puts parts together again, in the order of their keys.
struct Scan<'a, 'b> {
    records: &'a SledRecords,
    visit: Visitor<'b>,
    acknowledged: u64,
    current: Option<Gathered>,
    /// The record that is not whole; it must be the last.
    torn: Option<u64>,
}

/// A record whose parts are being read.
struct Gathered {
    sequence: u64,
    length: usize,
    parts: usize,
    bytes: Vec<u8>,
}

impl Scan<'_, '_> {
    fn part(&mut self, key: &[u8], part: &[u8]) -> Result<(), StorageError> {
        let path = &self.records.path;
        let damaged = |reason: &str| corrupt(path, 0, format!("key {key:02x?}: {reason}"));
        let key: [u8; 10] = key.try_into().map_err(|_| damaged("no key of ours"))?;
        let sequence = u64::from_be_bytes(std::array::from_fn(|byte| key[byte]));
        let number = usize::from(u16::from_be_bytes([key[8], key[9]]));
        let (length, content) = part
            .split_first_chunk::<PART_HEAD_BYTES>()
            .ok_or_else(|| damaged("the part is cut off"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.sequence != sequence)
        {
            self.finish_record()?;
            self.current = Some(Gathered {
                sequence,
                length,
                parts: 0,
                bytes: Vec::new(),
            });
        }
        if let Some(current) = &mut self.current {
            // A part that is missing leaves the record too short, which its checksum tells.
            if current.parts == number && current.length == length {
                current.parts += 1;
                current.bytes.extend_from_slice(content);
            }
        }
        Ok(())
    }

    fn finish_record(&mut self) -> Result<(), StorageError> {
        let Some(Gathered {
            sequence,
            length,
            bytes,
            ..
        }) = self.current.take()
        else {
            return Ok(());
        };
        let path = &self.records.path;
        let label = path.join(format!("record-{sequence}"));
        if let Some(torn) = self.torn {
            return Err(corrupt(
                &label,
                0,
                format!("it follows record {torn}, which is not whole"),
            ));
        }
        let decoded = match record::decode(&bytes, sequence) {
            Ok(decoded)
                if decoded.sequence == sequence
                    && decoded.length == length
                    && bytes.len() == length =>
            {
                decoded
            }
            Err(_) if sequence > self.acknowledged => {
                self.torn = Some(sequence);
                return Ok(());
            }
            other => {
                let reason = format!("no whole record of {length} bytes: {:?}", other.err());
                return Err(corrupt(&label, 0, reason));
            }
        };
        (self.visit)(
            decoded,
            Placed {
                place: sequence,
                offset: 0,
            },
        )
    }

    /// The record that is not whole, if there is one.
    fn finish(mut self) -> Result<Option<u64>, StorageError> {
        self.finish_record()?;
        Ok(self.torn)
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::storage::system_files::SystemFiles;

    /// The system's files on a disk that has so many bytes left.
    #[derive(Debug)]
    struct FullDisk {
        left: Arc<AtomicU64>,
    }

    #[derive(Debug)]
    struct FullFile {
        file: Arc<dyn FileHandle>,
        left: Arc<AtomicU64>,
    }

    impl FullDisk {
        fn with(left: u64) -> FullDisk {
            FullDisk {
                left: Arc::new(AtomicU64::new(left)),
            }
        }
    }

    impl Files for FullDisk {
        fn create_dir(&self, dir: &Path) -> io::Result<()> {
            SystemFiles.create_dir(dir)
        }

        fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
            SystemFiles.lock(path)
        }

        fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
            SystemFiles.create(path)
        }

        fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
            Ok(Arc::new(FullFile {
                file: SystemFiles.open(path)?,
                left: Arc::clone(&self.left),
            }))
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            SystemFiles.rename(from, to)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            SystemFiles.remove(path)
        }

        fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
            SystemFiles.list(dir)
        }

        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            SystemFiles.sync_dir(dir)
        }
    }

    impl FileHandle for FullFile {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            self.file.read_at(buffer, offset)
        }

        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let left = self.left.load(Ordering::Relaxed);
            let written = bytes.len().min(left as usize);
            self.left.store(left - written as u64, Ordering::Relaxed);
            self.file.write_at(&bytes[..written], offset)?;
            if written < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn sync_data(&self) -> io::Result<()> {
            self.file.sync_data()
        }

        fn len_bytes(&self) -> io::Result<u64> {
            self.file.len_bytes()
        }
    }

    /// Room ahead makes appends faster, and a node that only has to read its log needs none: on a full
    /// disk it didn't start.
    #[test]
    fn a_full_disk_leaves_no_room_ahead_and_opens_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let segment_bytes = SEGMENT_BYTES_MIN;
        let options = SledOptions {
            segment_bytes,
            ..SledOptions::default()
        };
        // sled leaves out the last byte of the segment that it writes to.
        let segments = || {
            let data = std::fs::metadata(dir.path().join(DATA_FILE)).unwrap();
            data.len().div_ceil(segment_bytes)
        };
        let value = |records: &SledRecords, number: u64| {
            let value = records.database().get(key(number, 0)).unwrap();
            assert_eq!(value.expect("it was written"), "value");
        };
        let filled = (ZEROS_BYTES + 5) as u64;
        for (number, left) in (0..).zip([0, 1, SEGMENT_HEADER_BYTES as u64, filled]) {
            let records = SledRecords::open(&FullDisk::with(left), dir.path(), &options).unwrap();
            // What was written of it is taken back: sled would write the segment's rest itself.
            assert_eq!(segments(), 1, "{left} bytes were left");
            records
                .write(move |database| database.insert(key(number, 0), "value").map(drop))
                .unwrap();
            (0..=number).for_each(|number| value(&records, number));
        }
        // The same after a crash in the middle of it, whether there is room by then or not.
        for left in [0, u64::MAX] {
            let path = dir.path().join(DATA_FILE);
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(segment_bytes + filled).unwrap();
            let records = SledRecords::open(&FullDisk::with(left), dir.path(), &options).unwrap();
            assert_eq!(segments(), 1 + u64::from(left > 0));
            (0..4).for_each(|number| value(&records, number));
        }
    }

    #[test]
    fn there_is_room_ahead_on_the_disk_and_opening_again_adds_none() {
        let dir = tempfile::tempdir().unwrap();
        let segment_bytes = SEGMENT_BYTES_MIN;
        let options = SledOptions {
            segment_bytes,
            ..SledOptions::default()
        };
        let open = || SledRecords::open(&SystemFiles, dir.path(), &options).unwrap();
        let data = || std::fs::read(dir.path().join(DATA_FILE)).unwrap();

        let records = open();
        let made = data();
        assert_eq!(made.len() as u64, 2 * segment_bytes);
        assert_eq!(
            made[segment_bytes as usize..],
            vec![0; segment_bytes as usize]
        );
        records
            .write(|database| database.insert(key(0, 0), "value").map(drop))
            .unwrap();
        // The write made use of it.
        assert_eq!(data().len(), made.len());
        drop(records);
        for _ in 0..5 {
            drop(open());
        }
        assert_eq!(data().len(), made.len());
        assert_eq!(open().database().get(key(0, 0)).unwrap().unwrap(), "value");
    }
}

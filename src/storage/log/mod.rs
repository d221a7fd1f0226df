//! `Log`: the segmented log, the store for production.
//!
//! One `pwrite` and one `fdatasync` for a batch, into a file that already has its length and its
//! blocks. It knows the order of files; the records and the contract are the journal's.

mod segment;
mod segments;

use std::path::Path;
use std::sync::Arc;

use super::files::Files;
use super::journal::Journal;
use super::system_files::SystemFiles;
use super::{
    Identity, LogEntry, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter, Storage,
    StorageError, WriteBatch,
};

use segments::Segments;

/// The shortest segment that can be asked for.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// The longest: offsets within a segment are kept in 32 bits.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a [`Log`] uses its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The length of a segment file in bytes; 8 MiB unless told. It is rounded up to whole pages of
    /// 4096 bytes and kept within 16 KiB and 1 GiB. A batch that is longer gets a segment of its
    /// own length. It may differ from open to open.
    pub segment_bytes: u64,
    /// How many emptied segments are kept to be used again; 9 unless told: what is written between two
    /// snapshots at a node's defaults, so that no new file has to be filled with zeros meanwhile.
    pub spare_segments_max: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 8 << 20,
            spare_segments_max: 9,
        }
    }
}

/// A store of segmented, preallocated and recycled files.
///
/// An append of one batch costs one write and one `fdatasync`, whatever the number of its entries,
/// and a write of a few bytes that is not waited for (see *the fence* in the module `storage`).
/// Snapshots are files of their own, published by rename.
///
/// One directory belongs to one node. A directory that was emptied altogether can't be told from a
/// new one: [`Recovered::identity`] is `None` then, and whoever expects a node there must not
/// bootstrap it again under its old id.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::storage::{Identity, Log, LogOptions, SnapshotMeta, Storage};
/// use quorate::{ClusterId, NodeId};
///
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node-1");
/// let log = Log::open(&dir, LogOptions::default())?;
/// let identity = Identity { cluster: ClusterId(7), node: NodeId::new(1).ok_or("0 is no node")? };
/// log.bootstrap(identity, &SnapshotMeta { index: 1, term: 1, ..Default::default() }, b"state")?;
/// assert_eq!(log.bounds(), (2, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Log {
    journal: Arc<Journal<Segments>>,
}

impl Log {
    /// Opens the log in `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// [`StorageError::Locked`] where somebody has it open; [`StorageError::Amnesia`],
    /// [`StorageError::Corrupt`], [`StorageError::WrongFormat`] and [`StorageError::WrongIdentity`]
    /// where what is there is not what was acknowledged; [`StorageError::Io`].
    pub fn open(dir: impl AsRef<Path>, options: LogOptions) -> Result<Log, StorageError> {
        Log::open_with(Arc::new(SystemFiles), dir.as_ref(), options)
    }

    /// As [`Log::open`], on files of one's own: a simulator's.
    ///
    /// # Errors
    /// As [`Log::open`].
    #[cfg(any(test, feature = "testing"))]
    pub fn open_on(
        files: Arc<dyn Files>,
        dir: impl AsRef<Path>,
        options: LogOptions,
    ) -> Result<Log, StorageError> {
        Log::open_with(files, dir.as_ref(), options)
    }

    fn open_with(
        files: Arc<dyn Files>,
        dir: &Path,
        mut options: LogOptions,
    ) -> Result<Log, StorageError> {
        options.segment_bytes = options
            .segment_bytes
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            .next_multiple_of(4096);
        let journal = Journal::open(files, dir, |files, dir| {
            Segments::open(Arc::clone(files), dir.join("log"), options)
        })?;
        Ok(Log { journal })
    }
}

impl Storage for Log {
    fn recover(&self) -> Result<Recovered, StorageError> {
        self.journal.recover()
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        self.journal.bootstrap(identity, meta, data)
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        self.journal.append(batch)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.journal.entries(low, high, bytes_max)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.journal.term(index)
    }

    fn bounds(&self) -> (u64, u64) {
        self.journal.bounds()
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        Ok(Box::new(self.journal.snapshot_writer(meta)?))
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        Ok(self
            .journal
            .snapshot_reader()?
            .map(|reader| Box::new(reader) as Box<dyn SnapshotReader>))
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        self.journal.compact(index)
    }
}

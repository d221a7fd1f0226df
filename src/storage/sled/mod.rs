//! `Sled`: the store on the embedded database sled 0.34.
//!
//! sled alone does not keep our contract: its `flush` syncs nothing, it panics on damage, and cut
//! files open empty. What it takes is in [`records`]; the contract, the snapshots (files beside it)
//! and the fence, which notices what sled loses in silence, are the journal's.

mod records;
mod worker;

use std::path::Path;
use std::sync::Arc;

use super::journal::Journal;
use super::system_files::SystemFiles;
use super::{
    Identity, LogEntry, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter, Storage,
    StorageError, WriteBatch,
};

use records::SledRecords;

/// How a [`Sled`] uses its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SledOptions {
    /// The length of sled's segments in bytes; 8 MiB unless told. It is made a power of two within
    /// 2 and 16 MiB. A directory keeps the length that it was made with: another one is an error
    /// at open.
    pub segment_bytes: u64,
    /// How much memory sled may use to cache pages; 64 MiB unless told.
    pub cache_bytes: u64,
    /// How long one append may take, in milliseconds, before the store counts as failed; 30,000
    /// unless told. A panic in one of sled's own threads leaves its callers waiting for ever: this
    /// turns it into an error.
    pub stall_ms_max: u64,
}

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions {
            segment_bytes: 8 << 20,
            cache_bytes: 64 << 20,
            stall_ms_max: 30_000,
        }
    }
}

/// A store on sled, hardened: every acknowledged batch is one checksummed record that was synced,
/// and what sled loses is noticed at the next open.
///
/// # Examples
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::storage::{Sled, SledOptions, Storage};
///
/// # let parent = tempfile::tempdir()?;
/// # let dir = parent.path().join("node-1");
/// let store = Sled::open(&dir, SledOptions::default())?;
/// assert!(store.recover()?.identity.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Sled {
    journal: Arc<Journal<SledRecords>>,
}

impl Sled {
    /// Opens the store in `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// [`StorageError::Locked`] where somebody has it open; [`StorageError::Amnesia`],
    /// [`StorageError::Corrupt`], [`StorageError::WrongFormat`] and [`StorageError::WrongIdentity`]
    /// where what is there is not what was acknowledged; [`StorageError::Io`].
    pub fn open(dir: impl AsRef<Path>, options: SledOptions) -> Result<Sled, StorageError> {
        let files = Arc::new(SystemFiles);
        let journal = Journal::open(files, dir.as_ref(), |files, dir| {
            SledRecords::open(files.as_ref(), &dir.join("sled"), &options)
        })?;
        Ok(Sled { journal })
    }
}

impl Storage for Sled {
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
        let reader = self.journal.snapshot_reader()?;
        Ok(reader.map(|reader| Box::new(reader) as Box<dyn SnapshotReader>))
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        self.journal.compact(index)
    }
}

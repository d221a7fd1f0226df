//! What the journal needs of the thing that keeps its records: segment files, or sled.

use std::fmt;

use bytes::Bytes;

use crate::storage::record::Decoded;
use crate::storage::{Identity, StorageError};

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::storage) struct Placed {
    /// The segment, or sled's record. Never goes down from record to record.
    pub(in crate::storage) place: u64,
    /// The record's first byte within the place.
    pub(in crate::storage) offset: u32,
}

/// Takes the records found at open, in order.
pub(in crate::storage) type Visitor<'a> =
    &'a mut dyn FnMut(Decoded, Placed) -> Result<(), StorageError>;

/// Keeps records durably and in order. It knows what a record looks like, not what it means.
pub(in crate::storage) trait Medium: Send + Sync + fmt::Debug + 'static {
    /// Whether there is no trace of a record.
    fn is_empty(&self) -> Result<bool, StorageError>;

    /// Throws everything away: what an unfinished bootstrap left.
    fn wipe(&self) -> Result<(), StorageError>;

    /// Makes an empty medium ready for the first record.
    fn create(&self, identity: Identity) -> Result<(), StorageError>;

    /// Shows every record to `visit`, drops a torn tail, and makes what was shown durable: it may
    /// have been in the page cache only. The record `acknowledged` is no torn tail, nor is one
    /// before it.
    fn scan(
        &self,
        identity: Identity,
        acknowledged: u64,
        visit: Visitor<'_>,
    ) -> Result<(), StorageError>;

    /// Seals the record and makes it durable behind the last one.
    fn append(&self, sequence: u64, record: &mut [u8]) -> Result<Placed, StorageError>;

    /// Reads bytes of a place; `None` where the place is retired.
    fn read(&self, place: u64, offset: u32, length: u32) -> Result<Option<Bytes>, StorageError>;

    /// Gives up every place before `place`. Who is reading there can finish.
    fn retire(&self, place: u64) -> Result<(), StorageError>;
}

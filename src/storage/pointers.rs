//! A store behind a pointer is a store: a host may choose one when it runs.

use std::sync::Arc;

use super::{
    Identity, LogEntry, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter, Storage,
    StorageError, WriteBatch,
};

macro_rules! storage_behind {
    ($pointer:ident) => {
        impl<S: Storage + ?Sized> Storage for $pointer<S> {
            fn recover(&self) -> Result<Recovered, StorageError> {
                (**self).recover()
            }

            fn bootstrap(
                &self,
                identity: Identity,
                meta: &SnapshotMeta,
                data: &[u8],
            ) -> Result<(), StorageError> {
                (**self).bootstrap(identity, meta, data)
            }

            fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
                (**self).append(batch)
            }

            fn entries(
                &self,
                low: u64,
                high: u64,
                bytes_max: u64,
            ) -> Result<Vec<LogEntry>, StorageError> {
                (**self).entries(low, high, bytes_max)
            }

            fn term(&self, index: u64) -> Result<u64, StorageError> {
                (**self).term(index)
            }

            fn bounds(&self) -> (u64, u64) {
                (**self).bounds()
            }

            fn snapshot_writer(
                &self,
                meta: &SnapshotMeta,
            ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
                (**self).snapshot_writer(meta)
            }

            fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
                (**self).snapshot_reader()
            }

            fn compact(&self, index: u64) -> Result<(), StorageError> {
                (**self).compact(index)
            }
        }
    };
}

storage_behind!(Arc);
storage_behind!(Box);

//! The built-in stores keep the contract of `Storage`.

use std::sync::Arc;

use quorate::storage::{Log, LogOptions, Memory, Sled, SledOptions, Storage, StorageError};
use quorate::testing::storage_conformance::{StorageUnderTest, check};
use quorate::testing::storage_files::FaultyFiles;

struct InMemory(Memory);

impl StorageUnderTest for InMemory {
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(self.0.clone()))
    }
}

#[test]
fn memory_keeps_the_contract() {
    check(|| Box::new(InMemory(Memory::new())));
}

struct OnDisk {
    dir: tempfile::TempDir,
    options: LogOptions,
}

impl StorageUnderTest for OnDisk {
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
        Ok(Arc::new(Log::open(
            self.dir.path().join("node"),
            self.options.clone(),
        )?))
    }
}

#[test]
fn the_log_keeps_the_contract_on_a_real_disk() {
    let options = LogOptions {
        segment_bytes: 1 << 20,
        ..LogOptions::default()
    };
    check(|| {
        Box::new(OnDisk {
            dir: tempfile::tempdir().expect("a directory"),
            options: options.clone(),
        })
    });
}

struct OnFaultyFiles(FaultyFiles);

impl StorageUnderTest for OnFaultyFiles {
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
        self.0.heal();
        let options = LogOptions {
            segment_bytes: 16 << 10,
            spare_segments_max: 1,
        };
        Ok(Arc::new(Log::open_on(
            Arc::new(self.0.clone()),
            "/node",
            options,
        )?))
    }

    fn lose_power(&mut self, seed: u64) -> bool {
        self.0.crash(seed);
        true
    }

    fn fail_from(&mut self, nth: u64) -> bool {
        self.0.fail_from(nth);
        true
    }

    fn fail_once(&mut self, nth: u64) -> bool {
        self.0.fail_once(nth);
        true
    }
}

#[test]
fn the_log_keeps_the_contract_on_a_disk_that_fails_at_every_step() {
    check(|| Box::new(OnFaultyFiles(FaultyFiles::new())));
}

struct OnSled(tempfile::TempDir);

impl StorageUnderTest for OnSled {
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
        let options = SledOptions {
            segment_bytes: 2 << 20,
            ..SledOptions::default()
        };
        Ok(Arc::new(Sled::open(self.0.path().join("node"), options)?))
    }
}

#[test]
fn sled_keeps_the_contract_on_a_real_disk() {
    check(|| Box::new(OnSled(tempfile::tempdir().expect("a directory"))));
}

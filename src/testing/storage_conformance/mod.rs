//! The contract of [`Storage`], sentence by sentence, as tests that any store can be put through.
//!
//! It knows the trait and nothing of any store. A store that can simulate a loss of power or a
//! failing disk is asked more than one that can't.
//!
//! # Examples
//! ```
//! use std::sync::Arc;
//! use quorate::storage::{Memory, Storage, StorageError};
//! use quorate::testing::storage_conformance::{StorageUnderTest, check};
//!
//! struct MyStore(Memory);
//!
//! impl StorageUnderTest for MyStore {
//!     fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError> {
//!         Ok(Arc::new(self.0.clone()))
//!     }
//! }
//!
//! check(|| Box::new(MyStore(Memory::new())));
//! ```

mod crashes;
mod reading;
mod snapshots;
mod writing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use crate::storage::{
    Configuration, EntryKind, HardState, Identity, LogEntry, SnapshotMeta, Storage, StorageError,
    WriteBatch,
};
use crate::{ClusterId, NodeId};

/// One store, through all its restarts.
pub trait StorageUnderTest {
    /// Opens the store: an empty one the first time, later what is there. The suite drops what it
    /// got before it asks again.
    ///
    /// # Errors
    /// The store's.
    fn open(&mut self) -> Result<Arc<dyn Storage>, StorageError>;

    /// Lets the power fail, after everything that was opened is dropped: of what is not durable,
    /// any part may be gone; `seed` chooses. A store that can't do that leaves this as it is, and
    /// answers `false`.
    fn lose_power(&mut self, seed: u64) -> bool {
        let _ = seed;
        false
    }

    /// From the `nth` write or sync on (0: the next), all fail until the store is opened again.
    /// `false`: can't.
    fn fail_from(&mut self, nth: u64) -> bool {
        let _ = nth;
        false
    }

    /// Lets the `nth` write or sync (0: the next) fail, and no other. `false`: can't.
    fn fail_once(&mut self, nth: u64) -> bool {
        let _ = nth;
        false
    }
}

/// Makes a new, empty store.
pub type Make<'a> = &'a mut dyn FnMut() -> Box<dyn StorageUnderTest>;

/// One sentence of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// The sentence.
    pub name: &'static str,
    run: fn(Make<'_>) -> Result<(), String>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A sentence of the contract that a store does not keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The sentence.
    pub case: &'static str,
    /// What was seen instead.
    pub reason: String,
}

/// Puts a store through all cases.
///
/// # Panics
/// Where a case fails; the text names each case and what was seen.
pub fn check(mut make: impl FnMut() -> Box<dyn StorageUnderTest>) {
    let failures = failures(&mut make);
    let lines: Vec<String> = failures
        .iter()
        .map(|failure| format!("  {}: {}", failure.case, failure.reason))
        .collect();
    assert!(
        failures.is_empty(),
        "the store breaks its contract:\n{}",
        lines.join("\n")
    );
}

/// Puts a store through all cases and says which it fails. A panic of the store is a failure.
pub fn failures(make: Make<'_>) -> Vec<Failure> {
    let mut failures = Vec::new();
    for case in cases() {
        let result = catch_unwind(AssertUnwindSafe(|| (case.run)(make)));
        let reason = match result {
            Ok(Ok(())) => continue,
            Ok(Err(reason)) => reason,
            Err(panic) => format!("it panicked: {}", panic_text(panic.as_ref())),
        };
        failures.push(Failure {
            case: case.name,
            reason,
        });
    }
    failures
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        writing::CASES,
        reading::CASES,
        snapshots::CASES,
        crashes::CASES,
    ]
    .concat()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
}

/// A table of cases that are named as their functions are.
macro_rules! case_table {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::testing::storage_conformance::Case] = &[
            $($crate::testing::storage_conformance::Case { name: stringify!($name), run: $name }),*
        ];
    };
}

/// Fails the case with a text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

/// Fails the case unless both are equal.
macro_rules! ensure_equal {
    ($found:expr, $expected:expr, $($text:tt)+) => {
        let (found, expected) = (&$found, &$expected);
        if found != expected {
            let text = format!($($text)+);
            return Err(format!("{text}: expected {expected:?}, found {found:?}"));
        }
    };
}

use {case_table, ensure, ensure_equal};

type Outcome = Result<(), String>;

fn text(error: StorageError) -> String {
    error.to_string()
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(0xc1),
        node: NodeId::new(3).expect("3 is not 0"),
    }
}

fn configuration() -> Configuration {
    let voters = [1, 2, 3].into_iter().filter_map(NodeId::new).collect();
    Configuration {
        voters,
        ..Configuration::default()
    }
}

fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index,
        term,
        configuration: configuration(),
    }
}

/// An entry whose data is a function of index and term.
fn entry(index: u64, term: u64, length: usize) -> LogEntry {
    let kind = if index.is_multiple_of(5) {
        EntryKind::Membership
    } else {
        EntryKind::Command
    };
    LogEntry {
        index,
        term,
        kind,
        data: content(index * 31 + term, length),
    }
}

fn content(seed: u64, length: usize) -> Bytes {
    (0..length as u64)
        .map(|position| (seed.wrapping_mul(97) + position.wrapping_mul(position | 1)) as u8)
        .collect()
}

fn batch(entries: &[LogEntry], hard_state: Option<HardState>) -> WriteBatch {
    WriteBatch {
        entries: entries.to_vec(),
        hard_state,
    }
}

fn entries(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<LogEntry> {
    indexes
        .map(|index| entry(index, term, 40 + index as usize % 90))
        .collect()
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote: NodeId::new(vote),
        commit,
    }
}

/// A store under test, and what its last opening gave.
type Opened = (Box<dyn StorageUnderTest>, Arc<dyn Storage>);

/// A new store, bootstrapped at entry 1 of term 1.
fn bootstrapped(make: Make<'_>) -> Result<Opened, String> {
    let mut under_test = make();
    let store = under_test.open().map_err(text)?;
    store
        .bootstrap(identity(), &meta(1, 1), b"the first state")
        .map_err(text)?;
    Ok((under_test, store))
}

/// Drops the store and opens it again.
fn restart(
    under_test: &mut dyn StorageUnderTest,
    store: Arc<dyn Storage>,
) -> Result<Arc<dyn Storage>, String> {
    drop(store);
    under_test
        .open()
        .map_err(|error| format!("it can't be opened again: {error}"))
}

/// Fails unless exactly these entries are held, whatever is asked of them.
fn ensure_held(store: &dyn Storage, expected: &[LogEntry], first_index: u64) -> Outcome {
    let last_index = first_index + expected.len() as u64 - 1;
    ensure_equal!(store.bounds(), (first_index, last_index), "the bounds");
    let recovered = store.recover().map_err(text)?;
    ensure_equal!(
        (recovered.first_index, recovered.last_index),
        (first_index, last_index),
        "the bounds recovered"
    );
    let found = store
        .entries(first_index, last_index + 1, u64::MAX)
        .map_err(text)?;
    ensure!(
        found == expected,
        "entries {first_index} to {last_index} do not read back as they were written"
    );
    for entry in expected {
        ensure_equal!(
            store.term(entry.index).map_err(text)?,
            entry.term,
            "the term of entry {}",
            entry.index
        );
        let alone = store
            .entries(entry.index, entry.index + 1, u64::MAX)
            .map_err(text)?;
        ensure!(
            alone == std::slice::from_ref(entry),
            "entry {} does not read back alone",
            entry.index
        );
    }
    Ok(())
}

/// The published snapshot's meta data and its whole content, read in pieces of `step` bytes.
fn read_snapshot(store: &dyn Storage, step: usize) -> Result<(SnapshotMeta, Vec<u8>), String> {
    let mut reader = store
        .snapshot_reader()
        .map_err(text)?
        .ok_or("there is no snapshot")?;
    let mut content = Vec::new();
    loop {
        let piece = reader.read(content.len() as u64, step).map_err(text)?;
        ensure!(
            piece.len() <= step,
            "a read of {step} bytes gave {}",
            piece.len()
        );
        if piece.is_empty() {
            break;
        }
        content.extend_from_slice(&piece);
    }
    ensure_equal!(
        content.len() as u64,
        reader.len_bytes(),
        "the length of the snapshot"
    );
    Ok((reader.meta().clone(), content))
}

fn publish(store: &dyn Storage, meta: &SnapshotMeta, content: &[u8]) -> Result<(), StorageError> {
    let mut writer = store.snapshot_writer(meta)?;
    for chunk in content.chunks(70_001) {
        writer.write(chunk)?;
    }
    writer.publish()
}

//! Random operations on the log against a naive model, with restarts, kills and losses of power.
//!
//! After every operation all that can be read is compared. An operation that a failing disk
//! interrupts may have happened or not, whole either way. A failing run prints its seed.

use std::sync::Arc;

use bytes::Bytes;
use quorate::storage::{
    Configuration, EntryKind, HardState, Identity, Log, LogEntry, LogOptions, SnapshotMeta,
    Storage, StorageError, WriteBatch,
};
use quorate::testing::storage_files::FaultyFiles;
use quorate::{ClusterId, NodeId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const CASES: u64 = 300;
const OPERATIONS: usize = 30;

/// What a store must hold, in the simplest words.
#[derive(Clone, PartialEq, Debug)]
struct Model {
    hard_state: HardState,
    base_index: u64,
    base_term: u64,
    entries: Vec<LogEntry>,
    snapshot: SnapshotMeta,
    content: Vec<u8>,
}

/// One step of a run.
#[derive(Clone, Debug)]
enum Operation {
    Append(WriteBatch),
    Publish(SnapshotMeta, Vec<u8>),
    Compact(u64),
}

impl Model {
    fn last_index(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    fn term(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return Some(self.base_term);
        }
        Some(self.entries.iter().find(|entry| entry.index == index)?.term)
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(batch) => {
                if let Some(first) = batch.entries.first() {
                    self.entries.retain(|entry| entry.index < first.index);
                    self.entries.extend(batch.entries.iter().cloned());
                }
                self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
            }
            Operation::Publish(meta, content) => {
                if self.term(meta.index) != Some(meta.term) {
                    self.entries.clear();
                    (self.base_index, self.base_term) = (meta.index, meta.term);
                }
                (self.snapshot, self.content) = (meta.clone(), content.clone());
            }
            Operation::Compact(index) => {
                self.base_term = self.term(*index).unwrap_or(0);
                self.base_index = *index;
                self.entries.retain(|entry| entry.index > *index);
            }
        }
    }

    /// What `store` holds, in the model's words.
    fn read(store: &Log) -> Result<Model, StorageError> {
        let recovered = store.recover()?;
        let mut reader = store
            .snapshot_reader()?
            .expect("a bootstrapped store has a snapshot");
        let mut content = Vec::new();
        while (content.len() as u64) < reader.len_bytes() {
            content.extend_from_slice(&reader.read(content.len() as u64, 50_000)?);
        }
        let entries = store.entries(recovered.first_index, recovered.last_index + 1, u64::MAX)?;
        assert_eq!(Some(reader.meta()), recovered.snapshot.as_ref());
        Ok(Model {
            hard_state: recovered.hard_state,
            base_index: recovered.first_index - 1,
            base_term: store.term(recovered.first_index - 1)?,
            entries,
            snapshot: reader.meta().clone(),
            content,
        })
    }
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId(9),
        node: NodeId::new(4).expect("4 is not 0"),
    }
}

fn open(files: &FaultyFiles) -> Result<Log, StorageError> {
    Log::open_on(
        Arc::new(files.clone()),
        "/node",
        LogOptions {
            segment_bytes: 16 << 10,
            spare_segments_max: 1,
        },
    )
}

/// Bytes that differ from call to call; cheap, because there are many.
fn data(random: &mut StdRng, length_max: usize) -> Vec<u8> {
    let pattern: [u8; 32] = random.r#gen();
    let length = random.gen_range(0..=length_max);
    pattern.repeat(length.div_ceil(pattern.len()))[..length].to_vec()
}

fn random_batch(random: &mut StdRng, model: &Model) -> WriteBatch {
    let mut hard_state = model.hard_state;
    if random.gen_bool(0.3) {
        hard_state.term += random.gen_range(1..3);
        hard_state.vote = None;
    }
    if hard_state.vote.is_none() && random.gen_bool(0.3) {
        hard_state.vote = NodeId::new(random.gen_range(1..4));
    }
    hard_state.commit = hard_state.commit.max(model.base_index);
    let lowest = model.base_index + 1;
    let next = model.last_index() + 1;
    let first = if random.gen_bool(0.2) {
        random.gen_range(lowest..=next)
    } else {
        next
    };
    let mut term = model.term(first - 1).unwrap_or(0);
    let length_max = if random.gen_bool(0.05) { 30_000 } else { 900 };
    let entries = (first..first + random.gen_range(0..8)).map(|index| {
        term = if random.gen_bool(0.2) {
            term.max(hard_state.term)
        } else {
            term
        };
        let kind = if random.gen_bool(0.1) {
            EntryKind::Membership
        } else {
            EntryKind::Command
        };
        LogEntry {
            index,
            term,
            kind,
            data: Bytes::from(data(random, length_max)),
        }
    });
    let entries = entries.collect();
    WriteBatch {
        entries,
        hard_state: (hard_state != model.hard_state).then_some(hard_state),
    }
}

fn random_operation(random: &mut StdRng, model: &Model) -> Operation {
    match random.gen_range(0..20) {
        0..=2 => {
            let index = random
                .gen_range(model.snapshot.index..=model.last_index().max(model.snapshot.index) + 3);
            let term = match model.term(index) {
                Some(term) if random.gen_bool(0.9) => term,
                _ => model.hard_state.term + 1,
            };
            let configuration = Configuration {
                voters: NodeId::new(index).into_iter().collect(),
                ..Configuration::default()
            };
            let length_max = if random.gen_bool(0.1) { 150_000 } else { 3_000 };
            Operation::Publish(
                SnapshotMeta {
                    index,
                    term,
                    configuration,
                },
                data(random, length_max),
            )
        }
        3..=5 if model.snapshot.index.min(model.last_index()) > model.base_index => {
            let highest = model.snapshot.index.min(model.last_index());
            Operation::Compact(random.gen_range(model.base_index + 1..=highest))
        }
        _ => Operation::Append(random_batch(random, model)),
    }
}

fn act(store: &Log, operation: &Operation) -> Result<(), StorageError> {
    match operation {
        Operation::Append(batch) => store.append(batch),
        Operation::Publish(meta, content) => {
            let mut writer = store.snapshot_writer(meta)?;
            content
                .chunks(9_999)
                .try_for_each(|chunk| writer.write(chunk))?;
            writer.publish()
        }
        Operation::Compact(index) => store.compact(*index),
    }
}

/// Ends the store's life in one of the ways that lose nothing acknowledged, and opens it again.
fn restart(random: &mut StdRng, files: &FaultyFiles, store: Log) -> Result<Log, StorageError> {
    match random.gen_range(0..3) {
        0 => drop(store),
        1 => {
            files.kill();
            drop(store);
        }
        _ => {
            files.fail_from(0);
            drop(store);
            files.crash(random.r#gen());
        }
    }
    open(files)
}

fn run(seed: u64) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let files = FaultyFiles::new();
    let mut store = open(&files).map_err(|error| error.to_string())?;
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        ..SnapshotMeta::default()
    };
    store
        .bootstrap(identity(), &meta, b"first")
        .map_err(|error| error.to_string())?;
    let mut model = Model::read(&store).map_err(|error| error.to_string())?;
    for number in 0..OPERATIONS {
        let operation = random_operation(&mut random, &model);
        let mut after = model.clone();
        after.apply(&operation);
        let is_interrupted = random.gen_bool(0.3);
        if is_interrupted {
            files.fail_from(random.gen_range(0..12));
        }
        let place = |error: &StorageError| format!("operation {number}: {error}");
        let acted = act(&store, &operation);
        if is_interrupted {
            drop(store);
            files.crash(random.r#gen());
            store = open(&files).map_err(|error| place(&error))?;
            let found = Model::read(&store).map_err(|error| place(&error))?;
            let is_right = found == after || (acted.is_err() && found == model);
            if !is_right {
                return Err(format!(
                    "operation {number}, interrupted ({acted:?}): neither before nor after it"
                ));
            }
            model = found;
            continue;
        }
        acted.map_err(|error| place(&error))?;
        model = after;
        if random.gen_bool(0.2) {
            store = restart(&mut random, &files, store).map_err(|error| place(&error))?;
        }
        if Model::read(&store).map_err(|error| place(&error))? != model {
            return Err(format!(
                "operation {number}: the store and the model differ"
            ));
        }
    }
    Ok(())
}

#[test]
fn random_operations_with_crashes_agree_with_a_naive_model() {
    for seed in 0..CASES {
        if let Err(reason) = run(seed) {
            panic!("seed {seed}: {reason}");
        }
    }
}

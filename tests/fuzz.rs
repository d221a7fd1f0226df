//! Everything that reads bytes from outside is fed with bytes that are nearly right, from a committed
//! corpus: nothing panics, and nothing allocates beyond its limit.
//!
//! The mutations are drawn from `QUORATE_SEED`; `QUORATE_FUZZ_MS` says how many milliseconds each reader
//! gets (1,000 unless told). `fuzz/` has the same readers for cargo-fuzz. After a change of a format,
//! `QUORATE_WRITE_CORPUS=1` writes the corpus again.

use std::alloc::System;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quorate::testing::fuzz::{READERS, Reader};
use quorate::transport::{MESSAGE_BYTES_MAX, Message};
use quorate::{ClusterId, NodeId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations are counted for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What else runs in this process allocates a little: the test harness.
const BESIDE_BYTES: usize = 64 << 10;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// Reads the bytes, counts what is allocated, and says whether they were accepted.
fn read(reader: &Reader, bytes: &[u8], what: &str) -> bool {
    let region = Region::new(ALLOCATOR);
    let accepted = catch_unwind(AssertUnwindSafe(|| (reader.read)(bytes)));
    let change = region.change();
    // What a reallocation adds is counted as allocated as well.
    let allocated = change.bytes_allocated;
    let accepted = accepted
        .unwrap_or_else(|_| panic!("{} panicked at {what}: {}", reader.name, hexadecimal(bytes)));
    let limit = reader.allocated_bytes_max(bytes.len()) + BESIDE_BYTES;
    assert!(
        allocated <= limit,
        "{} allocated {allocated} bytes of {limit} for {} at {what}",
        reader.name,
        bytes.len()
    );
    accepted
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(4096)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn corpus_dir(reader: &Reader) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(reader.name)
}

/// The committed inputs of a reader: its seeds, and whatever was found once.
fn corpus(reader: &Reader) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(corpus_dir(reader))
        .unwrap_or_else(|error| panic!("no corpus of {}: {error}", reader.name));
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("a file").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(&path).expect("a readable file"))
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_reader_accepts_its_seeds_and_they_are_the_committed_ones() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for reader in READERS {
        let seeds = (reader.seeds)();
        if number("QUORATE_WRITE_CORPUS") == Some(1) {
            std::fs::create_dir_all(corpus_dir(reader)).expect("a directory");
            for (name, bytes) in &seeds {
                std::fs::write(corpus_dir(reader).join(name), bytes).expect("a written file");
            }
        }
        let corpus = corpus(reader);
        for (name, bytes) in &seeds {
            assert!(read(reader, bytes, name), "{} refuses {name}", reader.name);
            assert!(
                corpus
                    .iter()
                    .any(|(file, found)| file == name && found == bytes),
                "{}/{name} is not what is written now: QUORATE_WRITE_CORPUS=1 writes it",
                reader.name
            );
        }
    }
}

#[test]
fn mutated_bytes_neither_panic_nor_allocate_beyond_the_limit() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = number("QUORATE_SEED").unwrap_or_else(rand::random);
    let time = Duration::from_millis(number("QUORATE_FUZZ_MS").unwrap_or(1_000));
    println!("QUORATE_SEED={seed}");
    for reader in READERS {
        let mut random = StdRng::seed_from_u64(seed);
        let corpus = corpus(reader);
        for (name, bytes) in &corpus {
            read(reader, bytes, name);
        }
        let begun = Instant::now();
        let (mut inputs, mut accepted) = (0_u64, 0_u64);
        while begun.elapsed() < time {
            let (name, bytes) = &corpus[random.gen_range(0..corpus.len())];
            let other = &corpus[random.gen_range(0..corpus.len())].1;
            let mutated = mutate(&mut random, bytes, other);
            let what = format!("a mutation of {name}, QUORATE_SEED={seed}");
            inputs += 1;
            accepted += u64::from(read(reader, &mutated, &what));
        }
        println!("{}: {inputs} inputs, {accepted} accepted", reader.name);
        assert!(inputs > 0);
    }
}

/// One to four changes: what a cable, a disk or an attacker with a seed at hand might do.
fn mutate(random: &mut StdRng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.gen_range(1..=4) {
        if bytes.is_empty() {
            bytes.push(random.r#gen());
        }
        let at = random.gen_range(0..bytes.len());
        let length = random.gen_range(1..=16.min(bytes.len() - at));
        match random.gen_range(0..9) {
            0 => bytes[at] ^= 1 << random.gen_range(0..8),
            1 => bytes[at] = random.r#gen(),
            2 => bytes.truncate(at),
            // A length, a count or a number: tiny, huge, or off by one.
            3 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.gen_range(0..5)],
            4 => bytes[at] = bytes[at].wrapping_add(if random.r#gen() { 1 } else { 0xff }),
            5 => {
                let huge = [0xff, 0xff, 0xff, 0xff, 0x7f];
                bytes.splice(at..(at + 5).min(bytes.len()), huge);
            }
            6 => drop(bytes.drain(at..at + length)),
            7 => {
                let again = bytes[at..at + length].repeat(random.gen_range(1..=64));
                bytes.splice(at..at, again);
            }
            _ => {
                let from = random.gen_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes
}

/// A field of protobuf with bytes in it.
fn field(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for mut value in [u64::from(number << 3 | 2), inner.len() as u64] {
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    }
    bytes.extend_from_slice(inner);
    bytes
}

/// The largest messages there may be, made of the smallest parts: sixteen mebibytes of empty entries used
/// to become a gibibyte.
#[test]
fn the_largest_inputs_of_the_smallest_parts_are_refused_before_they_are_parsed() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let reader = |name| {
        READERS
            .iter()
            .find(|reader| reader.name == name)
            .expect("a reader")
    };
    let room = MESSAGE_BYTES_MAX - 1024;
    let empty = |number| field(number, b"").repeat(room / 2);
    let packed = |number| field(number, &vec![1; room]);
    let mut unknown = Vec::new();
    for number in 100.. {
        unknown.extend(field(number, b""));
        if unknown.len() > room - 8 {
            break;
        }
    }
    // Each with the fields of the schema that it repeats.
    let inputs = [
        ("raft_message", "entries", empty(7)),
        (
            "raft_message",
            "voters of a snapshot",
            field(9, &field(2, &field(1, &packed(1)))),
        ),
        ("raft_message", "unknown fields", unknown.clone()),
        ("batch", "requests", empty(3)),
        ("operation", "operations of a multi", field(6, &empty(1))),
        ("operation", "entries of an ACL", field(1, &empty(3))),
        ("peer_message", "requests forwarded", field(2, &empty(1))),
        (
            "peer_message",
            "sessions of a barrier",
            field(3, &packed(2)),
        ),
        (
            "peer_message",
            "voters of a snapshot",
            field(5, &field(2, &packed(3))),
        ),
        ("peer_message", "unknown fields", unknown.clone()),
        (
            "peer_message",
            "entries of a message within",
            field(1, &empty(7)),
        ),
        ("snapshot", "entries of an ACL", field(3, &empty(1))),
        ("snapshot", "unknown fields", unknown),
    ];
    for (name, what, mut bytes) in inputs {
        if name == "snapshot" {
            // A record after its length.
            bytes = field(0, &bytes)[1..].to_vec();
        }
        let reader = reader(name);
        let region = Region::new(ALLOCATOR);
        let accepted = (reader.read)(&bytes);
        let allocated = region.change().bytes_allocated;
        // Not even four times what came: a copy or three, and no objects.
        let limit = 4 * bytes.len() + (1 << 20);
        println!(
            "{name}, {what}: {} bytes, {allocated} allocated",
            bytes.len()
        );
        // A message of the core within a message is looked into by the core.
        assert!(
            !accepted || what == "entries of a message within",
            "{name} accepts {what}"
        );
        assert!(
            allocated <= limit,
            "{name}, {what}: {allocated} bytes allocated, {limit} are allowed"
        );
    }
    #[cfg(feature = "zookeeper")]
    the_largest_client_frames(reader("client_frame"));
    // The whole of it, as it comes from a connection.
    let node = |id| NodeId::new(id).expect("not 0");
    let payload = field(1, &empty(7));
    let frame = Message::new(ClusterId(1), node(2), node(1), payload).encode();
    let frames = reader("peer_frame");
    let region = Region::new(ALLOCATOR);
    (frames.read)(&frame);
    assert!(region.change().bytes_allocated <= 8 * frame.len());
}

/// As large as a server may be told to take, of the smallest parts: understood, within the limit.
#[cfg(feature = "zookeeper")]
fn the_largest_client_frames(reader: &Reader) {
    const FRAME_BYTES: usize = 8 << 20;
    let integers = |values: &[i32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect()
    };
    let filled = |head: Vec<u8>, part: &[u8], tail: &[u8]| {
        let count = (FRAME_BYTES - head.len() - tail.len()) / part.len();
        let mut frame = head;
        frame.extend(part.repeat(count));
        frame.extend(tail);
        frame
    };
    let counted = |head: &[i32], part: &[u8], tail: &[u8]| {
        let mut head = integers(head);
        let count = (FRAME_BYTES - head.len() - 4 - tail.len()) / part.len();
        head.extend((count as i32).to_be_bytes());
        filled(head, part, tail)
    };
    // Each operation of a multi after its header; the end of all.
    let operation = |opcode: i32, rest: &[u8]| {
        [
            &opcode.to_be_bytes()[..],
            &[0],
            &(-1_i32).to_be_bytes(),
            rest,
        ]
        .concat()
    };
    let end = [&(-1_i32).to_be_bytes()[..], &[1], &(-1_i32).to_be_bytes()].concat();
    let (create, set_acl, multi, multi_read, set_watches) = (1, 7, 14, 22, 101);
    let check = operation(13, &integers(&[0, 0]));
    let entry = integers(&[1, 0, 0]);
    let frames = [
        ("checks", filled(integers(&[1, multi]), &check, &end)),
        (
            "creates",
            filled(
                integers(&[1, multi]),
                &operation(create, &integers(&[0, 0, 0, 0])),
                &end,
            ),
        ),
        (
            "reads",
            filled(
                integers(&[1, multi_read]),
                &operation(4, &[0, 0, 0, 0, 0]),
                &end,
            ),
        ),
        (
            "watches",
            counted(&[1, set_watches, 0, 0], &[0; 4], &[0; 8]),
        ),
        ("an ACL", counted(&[1, set_acl, 0], &entry, &[0; 4])),
        (
            "no text",
            filled(integers(&[1, 9, FRAME_BYTES as i32 - 12]), &[0xff], &[]),
        ),
    ];
    for (what, bytes) in frames {
        let region = Region::new(ALLOCATOR);
        let accepted = (reader.read)(&bytes);
        let allocated = region.change().bytes_allocated;
        let limit = reader.allocated_bytes_max(bytes.len()) + BESIDE_BYTES;
        println!(
            "client_frame, {what}: {} bytes, {allocated} allocated",
            bytes.len()
        );
        assert!(accepted, "{what} are not understood");
        assert!(allocated <= limit, "{what}: {allocated} bytes of {limit}");
    }
}

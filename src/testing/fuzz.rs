//! Everything that reads bytes from outside, for whoever feeds it with bytes that are none.
//!
//! One [`Reader`] each: what it does with the bytes in production, as far as a panic or an allocation could
//! come from them, seeds that it accepts, and how much it may allocate. `tests/fuzz.rs` runs them on a
//! committed corpus for a short while; the targets in `fuzz/` run them for as long as one likes.

use bytes::Bytes;

use crate::consensus::{Consensus as _, RaftCore, RaftOptions};
use crate::op::{Op, Request};
use crate::proto::{self, Batch, Rules};
use crate::replica::PeerMessage;
use crate::state::{Restore, Settings, State};
use crate::storage::{Configuration, Identity, Memory, SnapshotMeta, Storage as _};
use crate::transport::Message;
use crate::{Acl, AuthId, ClusterId, CreateMode, NodeId, Permissions, SessionId, Version};

#[cfg(feature = "log")]
mod files;
mod seeds;

/// What reads bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// Reads the bytes; whether they were accepted. It must not panic.
    pub read: fn(&[u8]) -> bool,
    /// Bytes that it accepts, by name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
    /// What it allocates whatever it reads, in bytes: the state that reads.
    fixed_bytes: usize,
    /// How often it copies what it reads.
    copies: usize,
    /// What a part of a record takes in memory at most, while the list that it is in grows.
    part_bytes: usize,
}

/// The most that a part of a record takes in memory, while the list that it is in grows.
const PART_BYTES_MAX: usize = 1024;

impl Reader {
    const fn beside(self, fixed_bytes: usize) -> Reader {
        Reader {
            fixed_bytes,
            ..self
        }
    }

    /// How many bytes may be allocated, counted together, to read so many.
    pub fn allocated_bytes_max(&self, length: usize) -> usize {
        let parts = (length / 2).min(proto::PARTS_MAX);
        self.fixed_bytes + self.copies * length + self.part_bytes * parts
    }
}

const fn reader(
    name: &'static str,
    read: fn(&[u8]) -> bool,
    seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
) -> Reader {
    Reader {
        name,
        read,
        seeds,
        fixed_bytes: 256 << 10,
        copies: 16,
        part_bytes: PART_BYTES_MAX,
    }
}

/// A frame of a ZooKeeper client, of which a little is allowed for each byte.
#[cfg(feature = "zookeeper")]
const CLIENT_FRAME: Reader = Reader {
    fixed_bytes: 1 << 10,
    copies: crate::server::jute::DECODED_BYTES_MAX,
    part_bytes: 0,
    ..reader(
        "client_frame",
        crate::server::jute::is_understood,
        crate::server::jute::recorded_requests,
    )
};

/// All of them.
pub const READERS: &[Reader] = &[
    reader("peer_frame", peer_frame, seeds::peer_frames),
    reader("peer_message", peer_message, seeds::peer_messages),
    reader("raft_message", raft_message, seeds::raft_messages),
    reader("batch", batch, seeds::batches),
    reader("operation", operation, seeds::operations).beside(512 << 10),
    // Two trees.
    reader("snapshot", snapshot, seeds::snapshots).beside(1 << 20),
    #[cfg(any(feature = "log", feature = "sled"))]
    reader("stored_record", stored_record, seeds::stored_records),
    #[cfg(feature = "log")]
    files::SEGMENT,
    #[cfg(feature = "log")]
    files::FENCE,
    #[cfg(feature = "log")]
    files::SNAPSHOT_FILE,
    #[cfg(feature = "zookeeper")]
    CLIENT_FRAME,
];

/// Lets the reader of this name read, for a target of cargo-fuzz.
///
/// # Panics
/// Where nobody has the name, and where the reader has a bug.
pub fn read(name: &str, bytes: &[u8]) {
    let reader = READERS.iter().find(|reader| reader.name == name);
    (reader.expect("a reader of this name").read)(bytes);
}

/// A message as a transport reads it from a stream, and then its payload.
fn peer_frame(bytes: &[u8]) -> bool {
    let announced = Message::announced_len(bytes);
    match Message::decode(bytes) {
        Ok(message) => {
            assert_eq!(announced, Ok(Some(bytes.len())));
            assert_eq!(message.encode()[..], *bytes);
            peer_message(message.payload());
            true
        }
        Err(_) => false,
    }
}

/// A message of a replica, and what is in it.
fn peer_message(bytes: &[u8]) -> bool {
    let Ok((message, rules)) = PeerMessage::decode(&Bytes::copy_from_slice(bytes)) else {
        return false;
    };
    match &message {
        PeerMessage::Consensus(bytes) => drop(raft_message(bytes)),
        PeerMessage::Forward(requests) => {
            for request in requests {
                let _ = proto::decode_request(request);
            }
        }
        _ => {}
    }
    // What was understood can be said.
    let said = message.clone().encode(rules);
    assert_eq!(PeerMessage::decode(&said), Ok((message, rules)));
    true
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

/// A message of the consensus core, taken by one that follows.
fn raft_message(bytes: &[u8]) -> bool {
    let store = Memory::new();
    let identity = Identity {
        cluster: ClusterId(1),
        node: node(1),
    };
    let meta = SnapshotMeta {
        index: 1,
        term: 1,
        configuration: Configuration {
            voters: vec![node(1), node(2), node(3)],
            ..Configuration::default()
        },
    };
    store
        .bootstrap(identity, &meta, b"")
        .expect("an empty store");
    let store: std::sync::Arc<dyn crate::storage::Storage> = std::sync::Arc::new(store);
    let mut core = RaftCore::new(node(1), store.clone(), RaftOptions::default()).expect("a core");
    let is_accepted = core.step(node(2), bytes).is_ok();
    // It goes on, with whatever it has believed.
    while let Some(ready) = core.ready() {
        if !ready.write.is_empty() {
            store.append(&ready.write).expect("what a core writes");
        }
        core.persisted(ready.number);
    }
    for _ in 0..30 {
        core.tick();
    }
    is_accepted
}

/// An entry of the log.
fn batch(bytes: &[u8]) -> bool {
    let Ok(batch) = Batch::decode(&Bytes::copy_from_slice(bytes), Rules::LATEST) else {
        return false;
    };
    batch
        .requests
        .iter()
        .all(|request| proto::decode_request(request).is_ok())
}

/// An operation, decoded and applied.
fn operation(bytes: &[u8]) -> bool {
    let record = |session: i64, sequence, op: Bytes| proto::records::RequestRecord {
        session,
        attachment: 0,
        sequence,
        op,
        ..Default::default()
    };
    let mut state = State::new(Settings::default());
    let open = proto::encode_op(&Op::OpenSession {
        password: [1; 16],
        timeout_ms: 5000,
        owner: node(1),
    });
    let open = proto::decode_request(&record(0, 0, open)).expect("our own");
    state.apply(1, &open, &mut Vec::new());
    let session = state.sessions().next().expect("a session").0;
    let Ok(request) = proto::decode_request(&record(session.0, 1, Bytes::copy_from_slice(bytes)))
    else {
        return false;
    };
    assert_eq!(
        proto::encode_op(&request.op),
        proto::encode_op(&request.op.clone())
    );
    state.apply(2, &request, &mut Vec::new());
    state.publish();
    true
}

/// A snapshot, whole and in pieces.
fn snapshot(bytes: &[u8]) -> bool {
    let restored = |piece: usize| {
        let mut restore = Restore::default();
        for piece in bytes.chunks(piece.max(1)) {
            restore.feed(piece).ok()?;
        }
        restore.finish().ok()
    };
    let whole = restored(bytes.len());
    assert_eq!(whole.is_some(), restored(bytes.len() / 3 + 1).is_some());
    whole.is_some_and(|restored| {
        let mut state = restored.into_state();
        state.publish();
        true
    })
}

/// A record of a log or a sled store, with checksums made right.
#[cfg(any(feature = "log", feature = "sled"))]
fn stored_record(bytes: &[u8]) -> bool {
    crate::storage::is_record_but_for_its_checksum(bytes)
}

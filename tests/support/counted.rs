//! Numbered writes, and the tree that a number of them must leave.
//!
//! After the first m calls the tree is known to the byte, so whoever finds it can tell m from it, and
//! that each of them happened once and in order: a write that is missing, or there twice, shifts every
//! number after it. It knows nothing of processes.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use quorate::storage::{Log, LogOptions, Sled, SledOptions, Storage, StorageError};
use quorate::transport::Network;
use quorate::{
    CreateMode, Created, Error, Node, NodeId, OpResult, Pending, Session, StartError, Version,
};

/// How many calls may be on their way at once.
pub const OUTSTANDING: u64 = 100;
/// So many calls later what a call made is deleted.
const WINDOW: u64 = 300;
/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A durable store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Log,
    Sled,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Log => "log",
            Kind::Sled => "sled",
        }
    }
}

/// Where a cluster of nodes keeps what it holds.
#[derive(Clone, Debug)]
pub struct Place {
    pub kind: Kind,
    pub voters: u64,
    pub dir: PathBuf,
}

/// A running cluster, with a session on one of its nodes.
pub struct Opened {
    // Sessions end before their nodes.
    session: Session,
    nodes: Vec<Node>,
}

impl Place {
    pub fn node_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    /// The index of the snapshot that a node's store holds; 1 is the cluster's first.
    ///
    /// Nobody may have the store open.
    pub fn snapshot_index(&self, id: u64) -> Result<u64, StorageError> {
        let dir = self.node_dir(id);
        let recovered = match self.kind {
            Kind::Log => Log::open(dir, log_options())?.recover()?,
            Kind::Sled => Sled::open(dir, sled_options())?.recover()?,
        };
        Ok(recovered.snapshot.map_or(0, |meta| meta.index))
    }

    /// Starts the nodes and opens a session.
    pub fn open(&self) -> Result<Opened, StartError> {
        let network = Network::new(1);
        let mut nodes = Vec::new();
        for id in 1..=self.voters {
            let dir = self.node_dir(id);
            let builder = Node::builder(id)
                .voters(1..=self.voters)
                .transport(network.endpoint(NodeId::new(id).expect("not 0")))
                .snapshot_log_bytes(150_000)
                .log_entries_kept(20);
            let builder = match self.kind {
                Kind::Log => builder.storage(Log::open(dir, log_options())?),
                Kind::Sled => builder.storage(Sled::open(dir, sled_options())?),
            };
            nodes.push(builder.start()?);
        }
        let session = within(nodes[nodes.len() - 1].session().open()).expect("a session");
        Ok(Opened { session, nodes })
    }
}

/// Small files, so that a short run goes through many.
fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        spare_segments_max: 2,
    }
}

fn sled_options() -> SledOptions {
    SledOptions {
        segment_bytes: 2 << 20,
        cache_bytes: 4 << 20,
        ..SledOptions::default()
    }
}

fn within<T>(mut pending: Pending<T>) -> quorate::Result<T> {
    match pending.wait_timeout(PATIENCE) {
        Err(Error::Timeout) => panic!("no answer within {PATIENCE:?}"),
        answer => answer,
    }
}

/// The path that call k makes: the number in it is the cluster's, the k in its data is ours.
fn path(k: u64) -> String {
    format!("/w/n-{:010}", k - 1)
}

fn data(k: u64) -> Vec<u8> {
    let mut data = format!("{k}:").into_bytes();
    data.resize(data.len() + (k * 7919 % 1500) as usize, k as u8);
    data
}

/// Every second call also counts, and deletes what two calls made long ago.
fn is_transaction(k: u64) -> bool {
    k.is_multiple_of(2)
}

enum Call {
    Create(Pending<Created>),
    Transaction(Pending<Vec<OpResult>>),
}

impl Call {
    fn new(session: &Session, k: u64) -> Call {
        let sequential = CreateMode::PersistentSequential;
        if !is_transaction(k) {
            return Call::Create(session.create("/w/n-", data(k), sequential));
        }
        let mut multi = session.multi().create("/w/n-", data(k), sequential).set(
            "/counter",
            k.to_string(),
            Version::ANY,
        );
        if k >= WINDOW + 2 {
            for old in [k - WINDOW - 1, k - WINDOW] {
                multi = multi.delete(&path(old), Version::ANY);
            }
        }
        Call::Transaction(multi.commit())
    }

    /// The path that it made.
    fn answer(self) -> quorate::Result<String> {
        Ok(match self {
            Call::Create(pending) => within(pending)?.path,
            Call::Transaction(pending) => match within(pending)?.swap_remove(0) {
                OpResult::Created { path, .. } => path,
                other => panic!("{other:?}"),
            },
        })
    }
}

impl Opened {
    /// How many calls have happened, after a check of the whole tree on every node.
    ///
    /// # Panics
    /// Where no number of calls, each done once and in order, leaves such a tree.
    pub fn holds(&self) -> u64 {
        let mut held = None;
        for node in &self.nodes {
            let session = within(node.session().open()).expect("a session");
            let found = calls_in(&session.linearizable());
            assert!(held.is_none_or(|held| held == found), "nodes differ");
            held = Some(found);
            drop(session.close());
        }
        held.expect("a node")
    }

    /// Makes calls `held + 1` to `last`, [`OUTSTANDING`] at once, and reports each that is answered.
    pub fn write(&self, held: u64, last: u64, mut acknowledged: impl FnMut(u64)) {
        let session = &self.session;
        if within(session.linearizable().exists("/w"))
            .expect("an answer")
            .is_none()
        {
            let multi = session
                .multi()
                .create("/w", "", CreateMode::Persistent)
                .create("/counter", "0", CreateMode::Persistent);
            within(multi.commit()).expect("the first call");
        }
        let mut calls = VecDeque::new();
        let mut next = held + 1;
        loop {
            while next <= last && (calls.len() as u64) < OUTSTANDING {
                calls.push_back((next, Call::new(session, next)));
                next += 1;
            }
            let Some((k, call)) = calls.pop_front() else {
                return;
            };
            match call.answer() {
                Ok(found) => assert_eq!(found, path(k), "call {k} made another znode"),
                Err(error) => {
                    let status: Vec<_> = self.nodes.iter().map(Node::status).collect();
                    panic!("call {k}: {error}; {status:?}");
                }
            }
            acknowledged(k);
        }
    }

    /// Ends the session and the nodes in good order.
    pub fn close(self) {
        let _ = within(self.session.close());
        for node in self.nodes {
            node.shutdown();
        }
    }
}

/// The number of calls that the tree shows.
fn calls_in(session: &Session) -> u64 {
    let (names, parent) = match within(session.children("/w")) {
        Err(Error::NoNode { .. }) => {
            let counter = within(session.exists("/counter")).expect("an answer");
            assert!(counter.is_none(), "a part of the first call is missing");
            return 0;
        }
        answer => answer.expect("the children"),
    };
    let (counter, stat) = within(session.get("/counter")).expect("the counter");
    let counter: u64 = std::str::from_utf8(&counter)
        .expect("text")
        .parse()
        .expect("a number");
    assert_eq!(stat.version as u64, counter / 2, "sets of the counter");

    let created: Vec<u64> = names
        .iter()
        .map(|name| {
            name.trim_start_matches("n-")
                .parse::<u64>()
                .expect("a number")
                + 1
        })
        .collect();
    let made = created.last().copied().unwrap_or(0);
    assert!(
        made == counter || made == counter + 1,
        "{made} made, {counter} counted"
    );
    let first = match counter >= WINDOW + 2 {
        true => counter - WINDOW + 1,
        false => 1,
    };
    assert!(
        created.iter().copied().eq(first..=made),
        "from {first} to {made}: {created:?}"
    );
    // ZooKeeper counts the children made and deleted.
    assert_eq!(parent.cversion as u64, made + first - 1);
    for k in created {
        let (found, stat) = within(session.get(&path(k))).expect("a znode");
        assert!(found[..] == data(k)[..], "call {k}: {} bytes", found.len());
        assert_eq!(stat.version, 0);
    }
    made
}

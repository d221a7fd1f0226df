//! Clusters of whole nodes, with real threads, for the tests in this folder.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate::storage::{self, Log, LogOptions, Sled, SledOptions};
use quorate::transport::{self, Inbox, Lane, Local, Message, Network, Transport, TransportError};
use quorate::{
    Clock, ClusterId, Event, Node, NodeBuilder, NodeId, Now, Pending, Role, Session, StartError,
    SystemClock, WatchEvent, Watcher,
};

/// How long anything may take before a test fails: much longer than it ever should.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn node_id(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Waits until a condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a `Pending` came to; a test that hangs fails instead.
pub trait Within<T> {
    fn within(self) -> quorate::Result<T>;
}

impl<T> Within<T> for Pending<T> {
    fn within(mut self) -> quorate::Result<T> {
        match self.wait_timeout(PATIENCE) {
            Err(quorate::Error::Timeout) => panic!("no answer within {PATIENCE:?}"),
            answer => answer,
        }
    }
}

/// Asks again while the answer is that something is under way or not yet so: a typed, retryable one.
pub fn insist<T>(mut ask: impl FnMut() -> quorate::Result<T>) -> quorate::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Err(error) if error.is_retryable() && !error.outcome_unknown() => {
                assert!(Instant::now() < deadline, "still: {error}");
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// The next event of a watcher.
pub fn next(watcher: &mut Watcher) -> Event {
    watcher
        .next_timeout(PATIENCE)
        .expect("an event in time")
        .expect("a watcher that goes on")
}

/// The next change that a watcher hears of; what it hears of its session before is passed over.
pub fn next_change(watcher: &mut Watcher) -> WatchEvent {
    loop {
        match next(watcher) {
            Event::Changed(change) => return change,
            Event::Session(_) => {}
            other => panic!("{other:?} instead of a change"),
        }
    }
}

/// Where the nodes of a cluster keep what they hold.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Memory,
    Log,
    Sled,
}

enum Store {
    Memory(storage::Memory),
    Log(PathBuf),
    Sled(PathBuf),
}

type Options = Box<dyn Fn(u64, NodeBuilder) -> NodeBuilder + Send + Sync>;

/// Nodes 1 to n, joined by a network inside the process.
pub struct Cluster {
    // Before the directories, which must outlive them.
    nodes: BTreeMap<u64, Node>,
    pub network: Network,
    stores: BTreeMap<u64, Store>,
    /// The first voters; all others join.
    founders: Vec<u64>,
    kind: Kind,
    options: Options,
    directory: Option<tempfile::TempDir>,
}

impl Cluster {
    /// A cluster in memory, with default options but for short timeouts of sessions.
    pub fn new(nodes: u64) -> Cluster {
        Cluster::with(nodes, Kind::Memory, |_, builder| builder)
    }

    /// A cluster on this kind of storage, its nodes made with these options.
    pub fn with(
        nodes: u64,
        kind: Kind,
        options: impl Fn(u64, NodeBuilder) -> NodeBuilder + Send + Sync + 'static,
    ) -> Cluster {
        let directory = (kind != Kind::Memory).then(|| tempfile::tempdir().unwrap());
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            network: Network::new(1),
            stores: BTreeMap::new(),
            founders: (1..=nodes).collect(),
            kind,
            options: Box::new(options),
            directory,
        };
        for id in 1..=nodes {
            cluster.give_empty_disk(id);
            cluster.start(id);
        }
        cluster.leader();
        cluster
    }

    /// The node has an empty disk from now on, whatever it had before.
    pub fn give_empty_disk(&mut self, id: u64) {
        let path = || {
            let directory = self.directory.as_ref().unwrap().path();
            let number = std::fs::read_dir(directory).unwrap().count();
            directory.join(format!("node-{id}-{number}"))
        };
        let store = match self.kind {
            Kind::Memory => Store::Memory(storage::Memory::new()),
            Kind::Log => Store::Log(path()),
            Kind::Sled => Store::Sled(path()),
        };
        self.stores.insert(id, store);
    }

    /// From now on the node starts as one that joins, also where it was one of the first voters.
    pub fn no_founder(&mut self, id: u64) {
        self.founders.retain(|founder| *founder != id);
    }

    /// Starts a node with an empty disk, which joins the cluster. It is no member yet.
    pub fn join(&mut self, id: u64) {
        self.give_empty_disk(id);
        self.start(id);
    }

    /// Starts a node on what its storage holds.
    pub fn start(&mut self, id: u64) {
        self.try_start(id).unwrap();
    }

    pub fn try_start(&mut self, id: u64) -> Result<(), StartError> {
        let builder = match self.founders.contains(&id) {
            true => Node::builder(id).voters(self.founders.iter().copied()),
            false => Node::builder(id).join(self.founders.iter().copied()),
        };
        let builder = builder
            .session_timeouts(Duration::from_millis(200), Duration::from_secs(60))
            .transport(self.network.endpoint(node_id(id)));
        let builder = match &self.stores[&id] {
            Store::Memory(store) => builder.storage(store.clone()),
            Store::Log(dir) => builder.storage(Log::open(dir, LogOptions::default())?),
            Store::Sled(dir) => builder.storage(Sled::open(dir, SledOptions::default())?),
        };
        self.nodes.insert(id, (self.options)(id, builder).start()?);
        Ok(())
    }

    /// Stops a node without closing its sessions: for the others it falls silent.
    pub fn stop(&mut self, id: u64) {
        self.nodes.remove(&id).expect("a running node").shutdown();
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[&id]
    }

    pub fn running(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// The node that leads and that a majority of those running take for their leader.
    pub fn leader(&self) -> u64 {
        let members = self.running().into_iter();
        let members = members.filter(|id| self.nodes[id].status().role != Role::Joining);
        self.leader_among(&members.collect::<Vec<_>>())
    }

    /// The leader that these nodes agree on.
    pub fn leader_among(&self, ids: &[u64]) -> u64 {
        let mut leader = 0;
        eventually("a leader that all agree on", || {
            let found = ids
                .iter()
                .find(|id| self.nodes[id].status().role == Role::Leader);
            leader = found.copied().unwrap_or(0);
            let said = |id: &u64| self.nodes[id].status().leader.map(NodeId::as_u64);
            leader != 0 && ids.iter().all(|id| said(id) == Some(leader))
        });
        leader
    }

    /// Whether this node leads by its own word.
    pub fn leader_is(&self, id: u64) -> bool {
        self.nodes[&id].status().role == Role::Leader
    }

    /// A running node that doesn't lead.
    pub fn follower(&self) -> u64 {
        let leader = self.leader();
        *self
            .nodes
            .iter()
            .find(|(id, node)| **id != leader && node.status().role == Role::Follower)
            .map(|(id, _)| id)
            .expect("a second node")
    }

    /// Opens a session with a timeout that no test outlives.
    pub fn session(&self, id: u64) -> Session {
        self.session_of(id, Duration::from_secs(60))
    }

    pub fn session_of(&self, id: u64, timeout: Duration) -> Session {
        self.node(id)
            .session()
            .timeout(timeout)
            .open()
            .within()
            .unwrap()
    }

    /// Waits until all running nodes have applied the same writes.
    pub fn level(&self) {
        eventually("all nodes at the same write", || {
            let mut zxids: Vec<_> = self.nodes.values().map(|node| node.status().zxid).collect();
            zxids.dedup();
            zxids.len() == 1
        });
    }
}

/// A clock that a test can push.
#[derive(Clone)]
pub struct TestClock(Arc<Pushed>);

struct Pushed {
    system: SystemClock,
    monotonic_ms: AtomicU64,
    wall_ms: AtomicI64,
}

impl TestClock {
    pub fn new() -> TestClock {
        TestClock(Arc::new(Pushed {
            system: SystemClock::new(),
            monotonic_ms: AtomicU64::new(0),
            wall_ms: AtomicI64::new(0),
        }))
    }

    /// As if the process had been stopped for that long.
    pub fn stall(&self, time: Duration) {
        self.0
            .monotonic_ms
            .fetch_add(time.as_millis() as u64, Ordering::SeqCst);
    }

    /// Sets the wall clock forward or back.
    pub fn jump(&self, ms: i64) {
        self.0.wall_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Now {
        let now = self.0.system.now();
        Now {
            monotonic: now.monotonic
                + Duration::from_millis(self.0.monotonic_ms.load(Ordering::SeqCst)),
            wall_ms: now.wall_ms + self.0.wall_ms.load(Ordering::SeqCst),
        }
    }
}

/// A transport that lets a test hand messages to its node, and see those that the node has sent.
#[derive(Clone)]
pub struct Tap(Arc<Tapped>);

struct Tapped {
    network: Network,
    id: u64,
    inner: Mutex<Option<Arc<dyn Transport>>>,
    inbox: Mutex<Option<Arc<dyn Inbox>>>,
    sent: Mutex<Vec<Message>>,
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tap").field(&self.0.id).finish()
    }
}

impl Tap {
    pub fn new(network: &Network, id: u64) -> Tap {
        Tap(Arc::new(Tapped {
            network: network.clone(),
            id,
            inner: Mutex::new(None),
            inbox: Mutex::new(None),
            sent: Mutex::new(Vec::new()),
        }))
    }

    /// Hands a message to the node, as if it had come over the wire.
    pub fn inject(&self, cluster: ClusterId, from: u64, to: u64, payload: Vec<u8>) -> bool {
        let inbox = self.0.inbox.lock().clone().expect("a started node");
        inbox.deliver(Message::new(cluster, node_id(from), node_id(to), payload))
    }

    /// Some of the messages that the node has sent.
    pub fn sent(&self) -> Vec<Message> {
        self.0.sent.lock().clone()
    }
}

impl Transport for Tap {
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        *self.0.inbox.lock() = Some(inbox.clone());
        let endpoint = Arc::new(self.0.network.endpoint(node_id(self.0.id)));
        *self.0.inner.lock() = Some(endpoint.clone());
        endpoint.start(local, inbox)
    }

    fn send(&self, message: Message) {
        let mut sent = self.0.sent.lock();
        if sent.len() < 500 {
            sent.push(message.clone());
        }
        drop(sent);
        let inner = self.0.inner.lock().clone();
        inner.expect("a started node").send(message);
    }

    fn stop(&self) {
        *self.0.inbox.lock() = None;
        let inner = self.0.inner.lock().clone();
        inner.expect("a started node").stop();
    }
}

/// A door through which nobody gets while a test holds it shut.
pub type Gate = Arc<Mutex<()>>;

/// A transport whose sends wait at a gate, and with them its node's loop.
#[derive(Clone, Default)]
pub struct Stuck {
    gate: Gate,
    sends: Arc<AtomicU64>,
    inbox: Arc<Mutex<Option<Arc<dyn Inbox>>>>,
}

impl std::fmt::Debug for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stuck")
    }
}

impl Stuck {
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// How often the node has begun to send.
    pub fn sends(&self) -> u64 {
        self.sends.load(Ordering::SeqCst)
    }

    /// The inbox of the node that was started with it.
    pub fn inbox(&self) -> Arc<dyn Inbox> {
        self.inbox.lock().clone().expect("a started node")
    }
}

impl Transport for Stuck {
    fn start(&self, _: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        *self.inbox.lock() = Some(inbox);
        Ok(())
    }

    fn send(&self, _: Message) {
        self.sends.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock());
    }

    fn stop(&self) {
        *self.inbox.lock() = None;
    }
}

/// An endpoint through which no snapshot leaves while the flag is set.
#[derive(Debug)]
pub struct HoldsSnapshots {
    pub endpoint: transport::Memory,
    pub holds: Arc<AtomicBool>,
}

impl Transport for HoldsSnapshots {
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.endpoint.start(local, inbox)
    }

    fn send(&self, message: Message) {
        if message.lane() == Lane::Urgent || !self.holds.load(Ordering::SeqCst) {
            self.endpoint.send(message);
        }
    }

    fn stop(&self) {
        self.endpoint.stop();
    }
}

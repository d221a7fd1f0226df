//! What a node tells the host's log: each event with its target, its level and its fields.
//!
//! The node's span says which cluster an event is of, so that tests of one process can be told apart.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use quorate::storage::{
    Identity, LogEntry, Memory, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter, Storage,
    StorageError, WriteBatch,
};
use quorate::transport::Network;
use quorate::{ClusterId, CreateMode, Error, Node, NodeBuilder, Role, SessionState, Version};
use support::{Cluster, HoldsSnapshots, Kind, PATIENCE, TestClock, Within, eventually, node_id};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata, span};

/// Everything that was told in this process.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<Event>>,
    /// The cluster of each span `node`.
    spans: Mutex<BTreeMap<u64, String>>,
    next_span: AtomicU64,
}

#[derive(Clone, Debug)]
struct Event {
    /// Of the span that it was told in.
    cluster: Option<String>,
    level: Level,
    target: String,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Event {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_string());
    }
}

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

struct Listener(&'static Log);

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        let mut found = event(attributes.metadata());
        attributes.record(&mut found);
        let id = self.0.next_span.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(cluster) = found.fields.remove("cluster") {
            self.0.spans.lock().insert(id, cluster);
        }
        span::Id::from_u64(id)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, told: &tracing::Event<'_>) {
        let mut found = event(told.metadata());
        told.record(&mut found);
        let spans = self.0.spans.lock();
        let entered = ENTERED.with_borrow(Clone::clone);
        found.cluster = entered.iter().find_map(|id| spans.get(id)).cloned();
        drop(spans);
        self.0.events.lock().push(found);
    }

    fn enter(&self, id: &span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(id.into_u64()));
    }

    fn exit(&self, _: &span::Id) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
    }
}

fn event(metadata: &Metadata<'_>) -> Event {
    Event {
        cluster: None,
        level: *metadata.level(),
        target: metadata.target().to_string(),
        fields: BTreeMap::new(),
    }
}

fn log() -> &'static Log {
    static LOG: OnceLock<&'static Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let log: &'static Log = Box::leak(Box::default());
        tracing::subscriber::set_global_default(Listener(log)).expect("nobody else listens");
        log
    })
}

/// What the nodes of one cluster have told.
fn told(cluster: ClusterId) -> Vec<Event> {
    let cluster = cluster.to_string();
    let events = log().events.lock();
    let of_it = events
        .iter()
        .filter(|event| event.cluster.as_ref() == Some(&cluster));
    of_it.cloned().collect()
}

/// Waits for an event with this text and these fields, and gives it.
#[track_caller]
fn hears(
    cluster: ClusterId,
    (target, level, message): (&str, Level, &str),
    fields: &[(&str, &str)],
) -> Event {
    let is_it = |event: &Event| {
        event.target == target
            && event.level == level
            && event.fields["message"] == message
            && fields
                .iter()
                .all(|(name, value)| event.fields.get(name).is_some_and(|found| found == value))
    };
    let mut found = None;
    eventually(&format!("{target} {level} {message:?} {fields:?}"), || {
        found = told(cluster).into_iter().find(is_it);
        found.is_some()
    });
    found.expect("it was just found")
}

const NODE: &str = "quorate::node";
const MEMBERSHIP: &str = "quorate::membership";
const SESSION: &str = "quorate::session";
const SNAPSHOT: &str = "quorate::snapshot";
const STORAGE: &str = "quorate::storage";

/// A cluster of this name, so that it has an id of its own.
fn cluster(name: &'static str, nodes: u64, kind: Kind) -> (Cluster, ClusterId) {
    log();
    let cluster = Cluster::with(nodes, kind, move |_, builder| small(builder.cluster(name)));
    let id = cluster.node(1).cluster();
    (cluster, id)
}

/// Snapshots soon, and few entries kept.
fn small(builder: NodeBuilder) -> NodeBuilder {
    builder.snapshot_log_bytes(20_000).log_entries_kept(2)
}

#[test]
fn a_node_tells_of_its_start_its_leadership_and_its_end() {
    let (mut cluster, id) = cluster("its life", 1, Kind::Memory);
    let started = hears(id, (NODE, Level::INFO, "started"), &[("node", "1")]);
    assert_eq!(started.fields["cluster"], id.to_string());
    hears(id, (NODE, Level::INFO, "leads"), &[("node", "1")]);
    hears(
        id,
        (NODE, Level::INFO, "follows a leader"),
        &[("leader", "1")],
    );
    cluster.session(1).close().within().unwrap();
    let rules = cluster.node(1).status().rules.to_string();
    hears(
        id,
        (NODE, Level::INFO, "the log follows newer rules"),
        &[("rules", &rules)],
    );
    cluster.stop(1);
    hears(
        id,
        (NODE, Level::INFO, "stopped"),
        &[("node", "1"), ("reason", "it was shut down")],
    );
    assert!(told(id).iter().all(|event| event.level > Level::WARN));
}

#[test]
fn an_election_is_told_of_when_it_begins_and_a_leader_that_is_gone_is_missed() {
    let (mut cluster, id) = cluster("elections", 3, Kind::Memory);
    let leader = cluster.leader();
    let lead = leader.to_string();
    hears(id, (NODE, Level::INFO, "leads"), &[("node", &lead)]);
    cluster.stop(leader);
    let next = cluster.leader().to_string();
    hears(
        id,
        (NODE, Level::INFO, "begins an election"),
        &[("node", &next)],
    );
    let leads = hears(id, (NODE, Level::INFO, "leads"), &[("node", &next)]);
    let term = &leads.fields["term"];
    let follower = cluster.follower().to_string();
    hears(
        id,
        (NODE, Level::INFO, "follows a leader"),
        &[("node", &follower), ("leader", &next), ("term", term)],
    );
}

#[test]
fn a_leader_that_is_cut_off_leads_no_more_and_its_elections_come_to_nothing() {
    let (cluster, id) = cluster("cut off", 3, Kind::Memory);
    let leader = cluster.leader();
    let node = leader.to_string();
    cluster.network.isolate(node_id(leader));
    hears(id, (NODE, Level::INFO, "leads no more"), &[("node", &node)]);
    hears(
        id,
        (NODE, Level::INFO, "knows no leader"),
        &[("node", &node)],
    );
    let stands = |status: &quorate::NodeStatus| status.role == Role::Candidate;
    cluster.node(leader).wait_for(PATIENCE, stands).unwrap();
    cluster.network.heal();
    hears(
        id,
        (NODE, Level::DEBUG, "the election came to nothing"),
        &[("node", &node)],
    );
}

#[test]
fn a_change_of_membership_is_told_when_asked_for_refused_and_applied() {
    let (mut cluster, id) = cluster("members", 1, Kind::Memory);
    cluster.join(2);
    let (one, two) = (node_id(1), node_id(2));
    cluster.node(1).add_learner(two).within().unwrap();
    let asked = hears(
        id,
        (MEMBERSHIP, Level::INFO, "a change was asked for"),
        &[("node", "1")],
    );
    assert!(
        asked.fields["request"].starts_with("AddLearner"),
        "{asked:?}"
    );
    let learners = format!("{:?}", [two]);
    for node in ["1", "2"] {
        hears(
            id,
            (MEMBERSHIP, Level::INFO, "membership has changed"),
            &[("node", node), ("learners", &learners)],
        );
    }
    let refused = cluster.node(1).remove(one).within().unwrap_err();
    hears(
        id,
        (MEMBERSHIP, Level::INFO, "a change was refused"),
        &[("error", &refused.to_string())],
    );
    cluster.node(2).leave().within().unwrap();
    let reason = "it was removed from the cluster";
    hears(
        id,
        (NODE, Level::INFO, "stopped"),
        &[("node", "2"), ("reason", reason)],
    );
}

#[test]
fn what_becomes_of_sessions_is_told() {
    let (cluster, id) = cluster("sessions", 3, Kind::Memory);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let (lead, follow) = (leader.to_string(), follower.to_string());
    let session = cluster.session(leader);
    let number = session.id().to_string();
    let opened = hears(
        id,
        (SESSION, Level::DEBUG, "opened or attached"),
        &[("node", &lead), ("session", &number)],
    );
    assert_eq!(opened.fields["timeout_ms"], "60000");
    let node = cluster.node(follower);
    let attaching = node.session().attach(&session.credentials());
    let moved = attaching.within().unwrap();
    hears(
        id,
        (SESSION, Level::INFO, "moved to another node"),
        &[("node", &lead), ("session", &number)],
    );
    moved.close().within().unwrap();
    hears(
        id,
        (SESSION, Level::DEBUG, "closed"),
        &[("node", &follow), ("session", &number)],
    );
    let lasting = cluster.session(follower);
    let silent = cluster.session_of(follower, Duration::from_millis(300));
    let number = silent.id().to_string();
    cluster.network.isolate(node_id(follower));
    eventually("it is lost", || silent.state() == SessionState::Lost);
    hears(
        id,
        (SESSION, Level::WARN, "lost"),
        &[("node", &follow), ("session", &number)],
    );
    hears(
        id,
        (SESSION, Level::DEBUG, "suspended: the leader is silent"),
        &[("node", &follow), ("session", &lasting.id().to_string())],
    );
    hears(
        id,
        (SESSION, Level::INFO, "expired"),
        &[("session", &number)],
    );
}

#[test]
fn snapshots_are_told_of_with_their_bytes_and_their_time() {
    let (mut cluster, id) = cluster("snapshots", 1, Kind::Log);
    let session = cluster.session(1);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    for _ in 0..50 {
        session
            .set("/a", vec![1; 1_000], Version::ANY)
            .within()
            .unwrap();
    }
    let number = |event: &Event, field| -> u64 { event.fields[field].parse().unwrap() };
    let taken = hears(id, (SNAPSHOT, Level::INFO, "took a snapshot"), &[]);
    assert!(number(&taken, "bytes") > 1_000 && number(&taken, "index") > 1);
    assert!(taken.fields.contains_key("took_ms"));
    hears(id, (STORAGE, Level::DEBUG, "compacted the log"), &[]);
    cluster.join(2);
    cluster.node(1).add_learner(node_id(2)).within().unwrap();
    cluster
        .node(2)
        .wait_for(PATIENCE, |status| status.role == Role::Learner)
        .unwrap();
    let sends = hears(
        id,
        (SNAPSHOT, Level::INFO, "sends a snapshot"),
        &[("to", "2")],
    );
    let index = &sends.fields["index"];
    let of_it = [("index", index.as_str())];
    let sent = hears(id, (SNAPSHOT, Level::INFO, "sent a snapshot"), &of_it);
    let received = hears(id, (SNAPSHOT, Level::INFO, "received a snapshot"), &of_it);
    assert!(number(&sent, "bytes") > 1_000);
    assert_eq!(sent.fields["bytes"], received.fields["bytes"]);
    assert_eq!(
        (&*sent.fields["node"], &*received.fields["node"]),
        ("1", "2")
    );
    hears(id, (SNAPSHOT, Level::INFO, "installed a snapshot"), &of_it);
}

#[test]
fn a_snapshot_that_does_not_arrive_is_given_up_with_a_warning() {
    log();
    let network = Network::new(1);
    let holds = Arc::new(AtomicBool::new(true));
    let flag = holds.clone();
    let mut cluster = Cluster::with(1, Kind::Memory, move |id, builder| {
        builder.cluster("given up").transport(HoldsSnapshots {
            endpoint: network.endpoint(node_id(id)),
            holds: flag.clone(),
        })
    });
    let id = cluster.node(1).cluster();
    cluster.join(2);
    cluster.node(1).add_learner(node_id(2)).within().unwrap();
    let gave_up = "gave up sending a snapshot";
    hears(id, (SNAPSHOT, Level::WARN, gave_up), &[("to", "2")]);
    // It is tried again.
    holds.store(false, Ordering::SeqCst);
    hears(
        id,
        (SNAPSHOT, Level::INFO, "sent a snapshot"),
        &[("to", "2")],
    );
}

/// A store that fails, has no room for a snapshot, or is slow by the node's clock, when it is told to.
#[derive(Clone)]
struct Troubled {
    inner: Memory,
    fails: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    has_no_room: Arc<AtomicBool>,
    clock: TestClock,
}

impl Troubled {
    fn new() -> Troubled {
        Troubled {
            inner: Memory::new(),
            fails: Arc::default(),
            is_slow: Arc::default(),
            has_no_room: Arc::default(),
            clock: TestClock::new(),
        }
    }
}

impl Debug for Troubled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Troubled")
    }
}

impl Storage for Troubled {
    fn recover(&self) -> Result<Recovered, StorageError> {
        self.inner.recover()
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        self.inner.bootstrap(identity, meta, data)
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        if self.fails.load(Ordering::SeqCst) {
            let (path, reason) = ("the disk".to_string(), "it is on fire".to_string());
            return Err(StorageError::Io {
                doing: "sync",
                path,
                reason,
            });
        }
        if self.is_slow.swap(false, Ordering::SeqCst) {
            self.clock.stall(Duration::from_millis(1_500));
        }
        self.inner.append(batch)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.inner.entries(low, high, bytes_max)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.inner.term(index)
    }

    fn bounds(&self) -> (u64, u64) {
        self.inner.bounds()
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        if self.has_no_room.load(Ordering::SeqCst) {
            let reason = "there is no room".to_string();
            return Err(StorageError::Refused { reason });
        }
        self.inner.snapshot_writer(meta)
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        self.inner.snapshot_reader()
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        self.inner.compact(index)
    }
}

#[test]
fn a_slow_disk_is_a_warning_and_a_failed_one_an_error() {
    log();
    let disk = Troubled::new();
    let node = Node::builder(1)
        .cluster("a slow disk")
        .storage(disk.clone())
        .clock(disk.clock.clone())
        .snapshot_log_bytes(1)
        .start()
        .unwrap();
    let id = node.cluster();
    let session = node.session().open().within().unwrap();
    let set = || session.set("/", "", Version::ANY).within();
    disk.has_no_room.store(true, Ordering::SeqCst);
    set().unwrap();
    let unwritten = "a snapshot can't be written just now";
    hears(id, (SNAPSHOT, Level::WARN, unwritten), &[]);
    disk.is_slow.store(true, Ordering::SeqCst);
    set().unwrap();
    let slow = hears(
        id,
        (STORAGE, Level::WARN, "a write to the log was slow"),
        &[("entries", "1")],
    );
    let took: u64 = slow.fields["took_ms"].parse().unwrap();
    assert!((1_500..30_000).contains(&took), "{slow:?}");
    disk.fails.store(true, Ordering::SeqCst);
    set().unwrap_err();
    let failed = hears(id, (STORAGE, Level::ERROR, "the storage failed"), &[]);
    assert!(failed.fields["error"].contains("it is on fire"));
    let stopped = hears(id, (NODE, Level::ERROR, "stopped: it failed"), &[]);
    assert_eq!(stopped.fields["reason"], failed.fields["error"]);
}

#[test]
fn refused_calls_are_told_of_once_in_a_while() {
    log();
    // No span: it is told where the call was made.
    let refusals = || {
        let events = log().events.lock();
        let of_it = events.iter().filter(|event| {
            event.fields["message"] == "calls were refused: a queue is full"
                && event.fields["node"] == "77"
        });
        of_it.cloned().collect::<Vec<_>>()
    };
    let node = Node::builder(77).requests_max(1).start().unwrap();
    let session = node.session().open().within().unwrap();
    let mut refused = 0;
    eventually("many calls are refused", || {
        let calls: Vec<_> = (0..64).map(|_| session.sync()).collect();
        let full = |answer: &quorate::Result<()>| matches!(answer, Err(Error::Overloaded { .. }));
        refused += calls.into_iter().map(Within::within).filter(full).count();
        refused >= 100
    });
    let told = refusals();
    let (target, level) = (told[0].target.as_str(), told[0].level);
    assert_eq!((target, level), (NODE, Level::WARN));
    assert_eq!(told[0].fields["queue"], "requests to the node");
    assert_eq!(told[0].fields["limit"], "1");
    let counted: usize = told
        .iter()
        .map(|event| event.fields["refused"].parse::<usize>().unwrap())
        .sum();
    assert!(told.len() < refused && counted <= refused, "{told:?}");
}

#[test]
fn nothing_is_told_for_a_write_or_a_read_at_any_level() {
    let (cluster, id) = cluster("quiet", 3, Kind::Memory);
    let session = cluster.session(cluster.leader());
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster.level();
    let events = || {
        // Elections are no part of this: a machine under load may hold some.
        let of_writes = |event: &Event| event.target != NODE && event.target != SESSION;
        told(id).into_iter().filter(of_writes).count()
    };
    let before = events();
    for _ in 0..100 {
        session.set("/a", "", Version::ANY).within().unwrap();
        session.get("/a").within().unwrap();
        session.linearizable().get("/a").within().unwrap();
    }
    cluster.level();
    assert_eq!(events(), before);
    let all = told(id);
    let known = |event: &Event| quorate::observe::TARGETS.contains(&event.target.as_str());
    assert!(all.iter().all(known), "{all:?}");
}

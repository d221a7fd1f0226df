//! What a host may bring of its own: a consensus core, a storage, a transport, a clock.

mod support;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use quorate::consensus::{
    Consensus, ConsensusStatus, MembershipChange, PeerProgress, ProposeError, Ready, Role,
    SingleVoterCore, StepError,
};
use quorate::storage::{
    Configuration, EntryKind, HardState, Identity, LogEntry, Memory, Recovered, SnapshotMeta,
    SnapshotReader, SnapshotWriter, Storage, StorageError, WriteBatch,
};
use quorate::transport::{Inbox, Local, Message, Transport, TransportError};
use quorate::{Clock, CreateMode, Error, Node, NodeBuilder, NodeId, Now, Session, Version};
use support::{Cluster, Gate, Kind, PATIENCE, Within, eventually};

/// A core that trusts its disk: what is written is committed.
struct TrustingCore {
    id: NodeId,
    storage: Arc<dyn Storage>,
    term: u64,
    configuration: Configuration,
    proposed: Vec<LogEntry>,
    /// The number of each write under way, and the last index after it.
    writing: VecDeque<(u64, u64)>,
    last_index: u64,
    commit: u64,
    given_out: u64,
    barriers: Vec<u64>,
    writes: u64,
    begun: bool,
}

impl TrustingCore {
    fn new(id: NodeId, storage: Arc<dyn Storage>) -> Result<TrustingCore, StorageError> {
        let recovered = storage.recover()?;
        let snapshot = recovered.snapshot.expect("a node begins with a snapshot");
        Ok(TrustingCore {
            id,
            term: recovered.hard_state.term + 1,
            configuration: snapshot.configuration,
            proposed: Vec::new(),
            writing: VecDeque::new(),
            last_index: recovered.last_index,
            commit: recovered.last_index,
            given_out: snapshot.index,
            barriers: Vec::new(),
            writes: 0,
            begun: false,
            storage,
        })
    }
}

impl Consensus for TrustingCore {
    fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.last_index += 1;
        let (index, term) = (self.last_index, self.term);
        self.proposed.push(LogEntry {
            index,
            term,
            kind: EntryKind::Command,
            data,
        });
        Ok(())
    }

    fn step(&mut self, _from: NodeId, _message: &[u8]) -> Result<(), StepError> {
        Ok(())
    }

    fn step_snapshot(
        &mut self,
        _from: NodeId,
        _message: &[u8],
        _meta: &SnapshotMeta,
    ) -> Result<(), StepError> {
        Ok(())
    }

    fn tick(&mut self) {}

    fn barrier(&mut self, barrier: u64) -> Result<(), ProposeError> {
        self.barriers.push(barrier);
        Ok(())
    }

    fn change_membership(&mut self, _changes: &[MembershipChange]) -> Result<(), ProposeError> {
        Err(ProposeError::InvalidMembershipChange {
            reason: "I am alone".into(),
        })
    }

    fn transfer_leadership(&mut self, _to: NodeId) -> Result<(), ProposeError> {
        Err(ProposeError::InvalidMembershipChange {
            reason: "I am alone".into(),
        })
    }

    fn campaign(&mut self) {}

    fn ready(&mut self) -> Option<Ready> {
        let idle = self.proposed.is_empty() && self.barriers.is_empty();
        if self.begun && idle && self.given_out == self.commit {
            return None;
        }
        let mut ready = Ready::default();
        self.writes += 1;
        ready.number = self.writes;
        if !self.begun || !self.proposed.is_empty() {
            let hard_state = HardState {
                term: self.term,
                vote: Some(self.id),
                commit: self.commit,
            };
            ready.write.hard_state = Some(hard_state);
            ready.write.entries = std::mem::take(&mut self.proposed);
            self.begun = true;
        }
        self.writing.push_back((self.writes, self.last_index));
        if self.given_out < self.commit {
            let entries = self
                .storage
                .entries(self.given_out + 1, self.commit + 1, u64::MAX);
            ready.committed = entries.expect("they were written");
            self.given_out = self.commit;
        }
        let index = self.commit;
        ready.barriers = self
            .barriers
            .drain(..)
            .map(|barrier| (barrier, index))
            .collect();
        Some(ready)
    }

    fn persisted(&mut self, number: u64) {
        while self
            .writing
            .front()
            .is_some_and(|(write, _)| *write <= number)
        {
            self.commit = self.writing.pop_front().unwrap().1;
        }
    }

    fn applied(&mut self, _index: u64) {}

    fn snapshot_sent(&mut self, _to: NodeId, _arrived: bool) {}

    fn unreachable(&mut self, _to: NodeId) {}

    fn status(&self) -> ConsensusStatus {
        ConsensusStatus {
            role: Role::Leader,
            term: self.term,
            leader: Some(self.id),
            commit: self.commit,
            last_index: self.last_index,
            leads_with_commit: true,
            transferring: false,
        }
    }

    fn configuration(&self) -> Configuration {
        self.configuration.clone()
    }

    fn progress(&self) -> Vec<PeerProgress> {
        Vec::new()
    }
}

fn trusting(id: NodeId, storage: Arc<dyn Storage>) -> Result<Box<dyn Consensus>, StorageError> {
    Ok(Box::new(TrustingCore::new(id, storage)?))
}

fn single_voter(id: NodeId, storage: Arc<dyn Storage>) -> Result<Box<dyn Consensus>, StorageError> {
    Ok(Box::new(SingleVoterCore::new(id, storage)?))
}

/// The same cluster of one on every core that leads from its start.
fn on_each_core(test: impl Fn(Cluster)) {
    for core in [trusting, single_voter] {
        test(Cluster::with(
            1,
            Kind::Memory,
            move |_, builder: NodeBuilder| {
                builder
                    .consensus(core)
                    .snapshot_log_bytes(1_000)
                    .log_entries_kept(1)
            },
        ));
    }
}

fn is_there(session: &Session, path: &str) -> bool {
    session
        .linearizable()
        .exists(path)
        .within()
        .unwrap()
        .is_some()
}

#[test]
fn a_node_runs_on_a_hosts_own_consensus_core_and_comes_back_on_it() {
    on_each_core(|mut cluster| {
        let session = cluster.session(1);
        let mut watcher = session.watcher(8);
        session
            .create("/a", "0", CreateMode::Persistent)
            .within()
            .unwrap();
        session.get_and_watch("/a", &watcher).within().unwrap();
        let calls: Vec<_> = (0..200)
            .map(|_| session.set("/a", "x", Version::ANY))
            .collect();
        for (version, call) in calls.into_iter().enumerate() {
            assert_eq!(call.within().unwrap().version as usize, version + 1);
        }
        assert_eq!(support::next_change(&mut watcher).path.as_str(), "/a");
        assert_eq!(
            session.linearizable().get("/a").within().unwrap().1.version,
            200
        );
        cluster.stop(1);
        cluster.start(1);
        let (_, stat) = cluster.session(1).get("/a").within().unwrap();
        assert_eq!(stat.version, 200);
    });
}

#[test]
fn sessions_of_before_a_restart_expire_under_a_core_that_leads_at_once() {
    // Nobody had noticed that a term had begun, so nobody tracked the sessions of the snapshot.
    on_each_core(|mut cluster| {
        let session = cluster.session_of(1, Duration::from_secs(1));
        session
            .create("/e", "", CreateMode::Ephemeral)
            .within()
            .unwrap();
        for number in 0..100 {
            session
                .create(&format!("/{number}"), "", CreateMode::Persistent)
                .within()
                .unwrap();
        }
        cluster.stop(1);
        cluster.start(1);
        let watching = cluster.session(1);
        assert!(is_there(&watching, "/e"));
        eventually("the ephemeral is gone", || !is_there(&watching, "/e"));
    });
}

#[test]
fn what_a_core_refuses_is_a_typed_error() {
    on_each_core(|cluster| {
        let two = support::node_id(2);
        let node = cluster.node(1);
        let refused = node.transfer_leadership(two).within().unwrap_err();
        assert_eq!(refused, Error::NotAMember { node: two });
        let refused = node.add_learner(two).within().unwrap_err();
        assert!(matches!(refused, Error::BadArguments { .. }), "{refused:?}");
        let refused = node.leave().within().unwrap_err();
        assert_eq!(refused, Error::LastVoter { node: node.id() });
    });
}

/// A store of one's own: another one, whose `n`-th append from now fails, as do all after it.
#[derive(Clone, Debug)]
struct FailingStorage {
    inner: Memory,
    appends_left: Arc<AtomicI64>,
    /// Where appends wait.
    gate: Gate,
}

impl FailingStorage {
    fn new() -> FailingStorage {
        FailingStorage {
            inner: Memory::new(),
            appends_left: Arc::new(AtomicI64::new(i64::MAX)),
            gate: Gate::default(),
        }
    }

    fn fail_after(&self, appends: i64) {
        self.appends_left.store(appends, Ordering::SeqCst);
    }
}

impl Storage for FailingStorage {
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
        drop(self.gate.lock());
        if self.appends_left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            let (path, reason) = ("the disk".to_string(), "it is on fire".to_string());
            return Err(StorageError::Io {
                doing: "sync",
                path,
                reason,
            });
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
fn a_leader_whose_disk_hangs_hands_over_and_the_cluster_serves() {
    // Its heartbeats went on without the disk, and so did it, though nobody got an answer of it.
    let disks: Vec<_> = (0..3).map(|_| FailingStorage::new()).collect();
    let gates: Vec<_> = disks.iter().map(|disk| disk.gate.clone()).collect();
    let cluster = Cluster::with(3, Kind::Memory, move |id, builder| {
        builder.storage(disks[id as usize - 1].clone())
    });
    let hanging = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|&id| id != hanging).collect();
    let session = cluster.session(others[0]);
    let shut = gates[hanging as usize - 1].lock();
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster.leader_among(&others);
    let at_other = cluster.session(others[1]);
    at_other.set("/a", "1", Version::ANY).within().unwrap();
    drop(shut);
    let back = cluster.session(hanging);
    back.sync().within().unwrap();
    assert_eq!(&back.get("/a").within().unwrap().0[..], b"1");
}

#[test]
fn a_node_whose_disk_fails_acknowledges_nothing_more_and_says_why() {
    let storage = FailingStorage::new();
    let node = Node::builder(1).storage(storage.clone()).start().unwrap();
    let session = node.session().open().within().unwrap();
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    storage.fail_after(3);
    let mut acknowledged = 0;
    let error = loop {
        match session
            .create("/q/n-", "", CreateMode::PersistentSequential)
            .within()
        {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(error.outcome_unknown(), "{error:?}");
    node.wait_for(PATIENCE, |_| false).unwrap();
    let reason = node.status().stopped.expect("it has stopped");
    assert_eq!(reason, "storage: cannot sync the disk: it is on fire");
    let stopped = Error::Stopped { reason };
    assert_eq!(
        session.set("/q", "", Version::ANY).within().unwrap_err(),
        stopped
    );
    assert_eq!(session.get("/q").within().unwrap_err(), stopped);
    assert_eq!(node.session().open().within().unwrap_err(), stopped);
    drop(node);

    storage.fail_after(i64::MAX);
    let node = Node::builder(1).storage(storage).start().unwrap();
    let session = node.session().open().within().unwrap();
    assert_eq!(
        session.children("/q").within().unwrap().0.len(),
        acknowledged
    );
}

#[test]
fn a_disk_that_fails_at_any_write_loses_nothing_that_was_acknowledged() {
    for appends in 0..12 {
        let storage = FailingStorage::new();
        storage.fail_after(appends);
        let node = Node::builder(1).storage(storage.clone()).start().unwrap();
        let mut acknowledged = Vec::new();
        let opened = node.session().open().within();
        if let Ok(session) = &opened {
            loop {
                let call = session.create("/n-", "", CreateMode::PersistentSequential);
                match call.within() {
                    Ok(created) => acknowledged.push(created.path),
                    Err(_) => break,
                }
            }
        }
        node.wait_for(PATIENCE, |_| false).unwrap();
        assert!(node.status().stopped.is_some());
        drop((opened, node));
        storage.fail_after(i64::MAX);
        let node = Node::builder(1).storage(storage).start().unwrap();
        let session = node.session().open().within().unwrap();
        for path in acknowledged {
            assert!(
                session.exists(&path).within().unwrap().is_some(),
                "{path} is lost"
            );
        }
    }
}

#[test]
fn the_failed_disk_of_one_node_does_not_harm_its_cluster() {
    let disk = FailingStorage::new();
    let of_three = disk.clone();
    let cluster = Cluster::with(3, Kind::Memory, move |id, builder| match id {
        3 => builder.storage(of_three.clone()),
        _ => builder,
    });
    let session = cluster.session(1);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    disk.fail_after(0);
    for version in 0..20 {
        session.set("/a", "x", Version(version)).within().unwrap();
    }
    cluster
        .node(3)
        .wait_for(PATIENCE, |status| status.stopped.is_some())
        .unwrap();
    assert_eq!(
        session.linearizable().get("/a").within().unwrap().1.version,
        20
    );
}

type Wire = Arc<Mutex<Vec<Option<mpsc::Sender<Message>>>>>;

/// A transport of one's own: a channel and a thread for each node.
#[derive(Debug)]
struct Channels {
    id: NodeId,
    wire: Wire,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Transport for Channels {
    fn start(&self, _: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        let (sender, messages) = mpsc::channel();
        self.wire.lock()[self.id.as_u64() as usize] = Some(sender);
        let deliver = move || {
            for message in messages {
                inbox.deliver(message);
            }
        };
        *self.thread.lock() = Some(std::thread::spawn(deliver));
        Ok(())
    }

    fn send(&self, message: Message) {
        if let Some(Some(sender)) = self.wire.lock().get(message.to().as_u64() as usize) {
            let _ = sender.send(message);
        }
    }

    fn stop(&self) {
        self.wire.lock()[self.id.as_u64() as usize] = None;
        if let Some(thread) = self.thread.lock().take() {
            thread.join().unwrap();
        }
    }
}

/// A clock of one's own, which begins far from zero and whose wall clock stands still.
struct OddClock(std::time::Instant);

impl Clock for OddClock {
    fn now(&self) -> Now {
        Now {
            monotonic: Duration::from_secs(1 << 30) + self.0.elapsed(),
            wall_ms: -7,
        }
    }
}

#[test]
fn a_cluster_runs_on_a_hosts_own_transport_storage_and_clock() {
    let wire: Wire = Arc::new(Mutex::new(vec![None; 4]));
    let cluster = Cluster::with(3, Kind::Memory, move |id, builder| {
        let (id, wire) = (support::node_id(id), wire.clone());
        builder
            .transport(Channels {
                id,
                wire,
                thread: Mutex::new(None),
            })
            .storage(FailingStorage::new())
            .clock(OddClock(std::time::Instant::now()))
    });
    let session = cluster.session(cluster.follower());
    let created = session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert_eq!(created.stat.ctime_ms, -7);
    session.linearizable().get("/a").within().unwrap();
    assert!(session.is_certain());
}

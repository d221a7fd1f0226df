//! The numbers that a node counts for its host: each of them moves when its cause occurs.
//!
//! A node registers its metrics on the thread that starts it, so a recorder of that thread alone sees all of
//! them, also what the node's own threads count.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use parking_lot::Mutex;
use quorate::storage::{
    Identity, LogEntry, Memory, Recovered, SnapshotMeta, SnapshotReader, SnapshotWriter, Storage,
    StorageError, WriteBatch,
};
use quorate::transport::{Inbox, Lane, Local, Message, Tcp, Transport};
use quorate::{ClusterId, CreateMode, Error, Node, Role, SessionState, Version, WatchKind};
use support::{Cluster, Gate, Kind, PATIENCE, Stuck, Within, eventually, node_id};

/// What a recorder was told. A recorder forgets what it was asked for; this adds it up.
struct Numbers {
    snapshotter: Snapshotter,
    told: Mutex<BTreeMap<String, Told>>,
}

#[derive(Clone, Default, Debug)]
struct Told {
    /// A counter's sum, or a gauge's last value that was not 0.
    value: f64,
    /// A histogram's values.
    values: Vec<f64>,
    described: bool,
}

/// Runs a test whose thread has a recorder of its own.
fn counted(test: impl FnOnce(&Numbers)) {
    let recorder = DebuggingRecorder::new();
    let numbers = Numbers {
        snapshotter: recorder.snapshotter(),
        told: Mutex::default(),
    };
    metrics::with_local_recorder(&recorder, || test(&numbers));
}

impl Numbers {
    fn look(&self) -> BTreeMap<String, Told> {
        let mut told = self.told.lock();
        for (key, _, description, value) in self.snapshotter.snapshot().into_vec() {
            let (_, key) = key.into_parts();
            let mut labels: Vec<String> = key
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            labels.sort();
            let entry = told
                .entry(format!("{} {}", key.name(), labels.join(" ")))
                .or_default();
            entry.described |= description.is_some();
            match value {
                DebugValue::Counter(count) => entry.value += count as f64,
                DebugValue::Gauge(value) if value.0 != 0.0 => entry.value = value.0,
                DebugValue::Gauge(_) => {}
                DebugValue::Histogram(values) => {
                    entry.values.extend(values.into_iter().map(|value| value.0));
                }
            }
        }
        told.clone()
    }

    /// A metric by its name and its labels, in the alphabet's order.
    fn told(&self, name: &str) -> Told {
        let found = self.look();
        let told = found.get(name);
        told.unwrap_or_else(|| panic!("{name} is none of {:?}", found.keys()))
            .clone()
    }

    fn value(&self, name: &str) -> f64 {
        self.told(name).value
    }

    /// Waits for it: gauges are set now and then, and counters after the answer that they count.
    #[track_caller]
    fn reaches(&self, name: &str, least: f64) {
        eventually(&format!("{name} to reach {least}"), || {
            self.value(name) >= least
        });
    }

    #[track_caller]
    fn becomes(&self, name: &str, value: impl Fn() -> f64) {
        eventually(&format!("{name} to be right"), || {
            self.value(name) == value()
        });
    }

    #[track_caller]
    fn measures(&self, name: &str, least: usize) -> Vec<f64> {
        eventually(&format!("{name} to be measured {least} times"), || {
            self.told(name).values.len() >= least
        });
        let values = self.told(name).values;
        assert!(values.iter().all(|value| *value >= 0.0), "{values:?}");
        values
    }
}

#[test]
fn every_metric_of_the_table_is_registered_and_described_when_a_node_starts() {
    counted(|numbers| {
        let tcp = Tcp::builder("127.0.0.1:0").bind().unwrap();
        let _node = Node::builder(1).transport(tcp).start().unwrap();
        let table = include_str!("../src/observe/mod.rs").lines();
        let names: Vec<&str> = table
            .filter_map(|line| line.strip_prefix("//! | `quorate_")?.split('`').next())
            .collect();
        assert!(names.len() >= 25);
        let found = numbers.look();
        for name in names {
            let prefix = format!("quorate_{name} ");
            let of_it: Vec<_> = found
                .iter()
                .filter(|(key, _)| key.starts_with(&prefix))
                .collect();
            assert!(!of_it.is_empty(), "{prefix}is not registered");
            for (key, told) in of_it {
                assert!(told.described, "{key}");
                assert!(key.contains("node=1"), "{key}");
            }
        }
    });
}

#[test]
fn writes_are_counted_measured_and_batched() {
    counted(|numbers| {
        let cluster = Cluster::with(1, Kind::Log, |_, builder| builder);
        let session = cluster.session(1);
        session
            .create("/a", "12345", CreateMode::Persistent)
            .within()
            .unwrap();
        let calls: Vec<_> = (0..50)
            .map(|_| session.set("/a", "12345", Version::ANY))
            .collect();
        for call in calls {
            call.within().unwrap();
        }
        session.delete("/none", Version::ANY).within().unwrap_err();
        session.sync().within().unwrap();
        numbers.becomes("quorate_calls_total kind=write node=1 outcome=ok", || 51.0);
        numbers.becomes(
            "quorate_calls_total kind=write node=1 outcome=refused",
            || 1.0,
        );
        numbers.becomes("quorate_calls_total kind=barrier node=1 outcome=ok", || 1.0);
        assert_eq!(
            numbers
                .measures("quorate_commit_latency_seconds node=1", 52)
                .len(),
            52
        );
        assert_eq!(
            numbers
                .measures("quorate_barrier_latency_seconds node=1", 1)
                .len(),
            1
        );
        // The session's opening is an operation too; the first entry of a term has none.
        let ops: f64 = numbers.measures("quorate_entry_ops node=1", 1).iter().sum();
        assert_eq!(ops, 53.0);
        let entries: f64 = numbers
            .measures("quorate_append_entries node=1", 1)
            .iter()
            .sum();
        assert!((2.0..=54.0).contains(&entries), "{entries}");
        let bytes: f64 = numbers
            .measures("quorate_append_bytes node=1", 1)
            .iter()
            .sum();
        assert!(bytes > 50.0 * 5.0, "{bytes}");
        let syncs = numbers.measures("quorate_fsync_latency_seconds node=1", 1);
        assert!(
            syncs
                .iter()
                .all(|seconds| *seconds < PATIENCE.as_secs_f64())
        );
        let status = || cluster.node(1).status();
        numbers.becomes("quorate_znodes node=1", || status().znodes as f64);
        numbers.becomes("quorate_data_bytes node=1", || status().data_bytes as f64);
        numbers.becomes("quorate_commit_index node=1", || {
            status().commit_index as f64
        });
        numbers.becomes("quorate_applied_index node=1", || {
            status().applied_index as f64
        });
        numbers.becomes("quorate_sessions node=1", || 1.0);
        numbers.becomes("quorate_sessions_attached node=1", || 1.0);
    });
}

#[test]
fn calls_are_counted_by_what_came_of_them() {
    counted(|numbers| {
        let cluster = Cluster::with(1, Kind::Memory, |_, builder| builder.requests_max(1));
        let session = cluster.session(1);
        eventually("a call is refused", || {
            let calls: Vec<_> = (0..64).map(|_| session.sync()).collect();
            let answers = calls.into_iter().map(Within::within);
            answers.filter(|answer| answer.is_err()).count() > 0
        });
        numbers.reaches(
            "quorate_calls_total kind=barrier node=1 outcome=overloaded",
            1.0,
        );
        numbers.reaches("quorate_calls_total kind=session node=1 outcome=ok", 1.0);
        cluster.node(1).leave().within().unwrap_err();
        numbers.reaches(
            "quorate_calls_total kind=membership node=1 outcome=refused",
            1.0,
        );
        cluster.node(1).backup(Vec::new()).unwrap();
        numbers.reaches("quorate_calls_total kind=backup node=1 outcome=ok", 1.0);
        cluster.node(1).shutdown();
        cluster.node(1).backup(Vec::new()).unwrap_err();
        numbers.reaches(
            "quorate_calls_total kind=backup node=1 outcome=stopped",
            1.0,
        );
    });
}

#[test]
fn sessions_and_watches_are_counted_by_how_they_begin_and_end() {
    counted(|numbers| {
        let cluster = Cluster::new(3);
        let (leader, follower) = (cluster.leader(), cluster.follower());
        let ended = |node: u64, how: &str| {
            numbers.reaches(
                &format!("quorate_sessions_ended_total how={how} node={node}"),
                1.0,
            );
        };
        let session = cluster.session(leader);
        numbers.becomes(
            &format!("quorate_sessions_opened_total node={leader}"),
            || 1.0,
        );
        let watcher = session.watcher(8);
        session.watch("/", WatchKind::Persistent, &watcher).unwrap();
        numbers.becomes(&format!("quorate_watches node={leader}"), || 1.0);
        // Elsewhere.
        let moved = cluster
            .node(follower)
            .session()
            .attach(&session.credentials())
            .within()
            .unwrap();
        ended(leader, "moved");
        moved.close().within().unwrap();
        ended(follower, "closed");
        // Cut off, so that its node calls it lost and the leader ends it.
        let silent = cluster.session_of(follower, Duration::from_millis(300));
        cluster.network.isolate(node_id(follower));
        eventually("it is lost", || silent.state() == SessionState::Lost);
        ended(follower, "lost");
        // Whoever leads by then.
        let expired = |id| {
            numbers.value(&format!(
                "quorate_sessions_ended_total how=expired node={id}"
            ))
        };
        eventually("the leader ends it", || {
            (1..=3).map(expired).sum::<f64>() >= 1.0
        });
    });
}

#[test]
fn elections_terms_and_messages_are_counted() {
    counted(|numbers| {
        let cluster = Cluster::new(3);
        let (leader, follower) = (cluster.leader(), cluster.follower());
        numbers.reaches(&format!("quorate_is_leader node={leader}"), 1.0);
        numbers.reaches(
            &format!("quorate_leader_changes_total node={follower}"),
            1.0,
        );
        let elections: f64 = (1..=3)
            .map(|id| numbers.value(&format!("quorate_elections_total node={id}")))
            .sum();
        assert!(elections >= 1.0, "{elections}");
        let term = cluster.node(leader).status().term as f64;
        numbers.reaches(&format!("quorate_term node={leader}"), term);
        for counter in [
            "quorate_peer_messages_sent_total",
            "quorate_peer_messages_received_total",
            "quorate_peer_sent_bytes_total",
            "quorate_peer_received_bytes_total",
        ] {
            numbers.reaches(&format!("{counter} lane=urgent node={leader}"), 1.0);
        }
        cluster.node(leader).shutdown();
        let others: Vec<u64> = (1..=3).filter(|&id| id != leader).collect();
        let next = cluster.leader_among(&others);
        numbers.reaches(&format!("quorate_is_leader node={next}"), 1.0);
        numbers.reaches(&format!("quorate_leader_changes_total node={next}"), 2.0);
    });
}

#[test]
fn snapshots_are_counted_on_their_way() {
    counted(|numbers| {
        let mut cluster = Cluster::with(1, Kind::Log, |_, builder| {
            builder.snapshot_log_bytes(20_000).log_entries_kept(2)
        });
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
        numbers.measures("quorate_snapshot_size_bytes node=1 way=taken", 1);
        numbers.measures("quorate_snapshot_duration_seconds node=1 way=taken", 1);
        numbers.reaches("quorate_compactions_total node=1", 1.0);
        cluster.join(2);
        cluster.node(1).add_learner(node_id(2)).within().unwrap();
        cluster
            .node(2)
            .wait_for(PATIENCE, |status| status.role == Role::Learner)
            .unwrap();
        let sent = numbers.measures("quorate_snapshot_size_bytes node=1 way=sent", 1);
        let received = numbers.measures("quorate_snapshot_size_bytes node=2 way=received", 1);
        assert!(
            sent[0] > 1_000.0 && sent == received,
            "{sent:?} {received:?}"
        );
        numbers.measures("quorate_snapshot_duration_seconds node=1 way=sent", 1);
        numbers.measures("quorate_snapshot_duration_seconds node=2 way=received", 1);
        numbers.reaches("quorate_snapshots_installed_total node=2", 1.0);
        numbers.reaches("quorate_peer_messages_sent_total lane=bulk node=1", 1.0);
        numbers.reaches("quorate_peer_messages_received_total lane=bulk node=2", 1.0);
    });
}

/// A store whose writes wait at a gate.
#[derive(Debug)]
struct Gated(Memory, Gate);

impl Storage for Gated {
    fn recover(&self) -> Result<Recovered, StorageError> {
        self.0.recover()
    }

    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError> {
        self.0.bootstrap(identity, meta, data)
    }

    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError> {
        drop(self.1.lock());
        self.0.append(batch)
    }

    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError> {
        self.0.entries(low, high, bytes_max)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.0.term(index)
    }

    fn bounds(&self) -> (u64, u64) {
        self.0.bounds()
    }

    fn snapshot_writer(
        &self,
        meta: &SnapshotMeta,
    ) -> Result<Box<dyn SnapshotWriter>, StorageError> {
        self.0.snapshot_writer(meta)
    }

    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError> {
        self.0.snapshot_reader()
    }

    fn compact(&self, index: u64) -> Result<(), StorageError> {
        self.0.compact(index)
    }
}

#[test]
fn what_waits_for_a_slow_disk_is_seen_in_the_depths_of_the_queues() {
    counted(|numbers| {
        let gate = Gate::default();
        let store = Gated(Memory::new(), gate.clone());
        let node = Node::builder(1).storage(store).start().unwrap();
        let session = node.session().open().within().unwrap();
        let shut = gate.lock();
        let mut calls = Vec::new();
        eventually("two writes wait behind the first", || {
            calls.push(session.create("/n-", "", CreateMode::PersistentSequential));
            numbers.value("quorate_queue_depth node=1 queue=writes") >= 2.0
        });
        let waiting = calls.len() as f64;
        numbers.becomes("quorate_queue_depth node=1 queue=calls", || waiting);
        drop(shut);
        for call in calls {
            call.within().unwrap();
        }
    });
}

#[test]
fn messages_for_which_a_node_has_no_room_are_counted_as_dropped() {
    counted(|numbers| {
        let stuck = Stuck::default();
        let gate = stuck.gate();
        let shut = gate.lock();
        // It stands for election, and gets no further than to ask for votes.
        let node = Node::builder(1)
            .voters([1, 2])
            .transport(stuck.clone())
            .start()
            .unwrap();
        let inbox = stuck.inbox();
        let message = |payload| Message::new(node.cluster(), node_id(2), node_id(1), payload);
        let kept = (0..100_000)
            .take_while(|_| inbox.deliver(message(vec![0])))
            .count();
        // Open before anything may fail: a node that is dropped waits for its loop.
        drop(shut);
        let dropped = "quorate_peer_messages_dropped_total lane=urgent node=1 queue=receive";
        assert_eq!(numbers.value(dropped), 1.0);
        let received = "quorate_peer_messages_received_total lane=urgent node=1";
        assert_eq!(numbers.value(received), kept as f64 + 1.0);
        let bytes = "quorate_peer_received_bytes_total lane=urgent node=1";
        assert!(numbers.value(bytes) > kept as f64);
        drop(inbox);
        drop(node);
    });
}

#[test]
fn messages_for_which_a_peers_queue_has_no_room_are_counted_as_dropped() {
    struct Nobody;
    impl Inbox for Nobody {
        fn deliver(&self, _: Message) -> bool {
            false
        }
    }
    counted(|numbers| {
        // Nobody listens at port 9; while a peer is not reached, 256 messages are kept.
        let tcp = Tcp::builder("127.0.0.1:0")
            .peer(2, "127.0.0.1:9")
            .bind()
            .unwrap();
        let local = Local {
            cluster: ClusterId(7),
            node: node_id(1),
        };
        tcp.start(local, Arc::new(Nobody)).unwrap();
        for lane in [Lane::Urgent, Lane::Bulk] {
            for _ in 0..300 {
                let message = Message::new(ClusterId(7), node_id(1), node_id(2), vec![0]);
                tcp.send(message.with_lane(lane));
            }
        }
        for lane in ["urgent", "bulk"] {
            let name = format!("quorate_peer_messages_dropped_total lane={lane} node=1 queue=send");
            numbers.reaches(&name, 44.0);
        }
        tcp.stop();
    });
}

#[test]
fn without_a_recorder_nothing_is_missed() {
    // What hosts do that have the feature on for another part of theirs.
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    session.sync().within().unwrap();
    assert!(matches!(
        cluster.node(1).leave().within(),
        Err(Error::LastVoter { .. })
    ));
}

//! Nodes that stop, come back on what they hold, and catch up.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use quorate::storage::{Log, LogOptions, Sled, SledOptions, StorageError};
use quorate::{
    CreateMode, Error, EventKind, Node, Role, Session, SessionState, StartError, Stat, Version,
    WatchKind,
};
use support::{Cluster, Kind, PATIENCE, Within, eventually, next_change, node_id};

const KINDS: [Kind; 3] = [Kind::Memory, Kind::Log, Kind::Sled];

fn stat(session: &Session, path: &str) -> Stat {
    session.linearizable().get(path).within().unwrap().1
}

/// A cluster whose log is compacted after a few writes.
fn forgetful(kind: Kind) -> Cluster {
    Cluster::with(3, kind, |_, builder| {
        builder.snapshot_log_bytes(2_000).log_entries_kept(2)
    })
}

#[test]
fn a_node_comes_back_on_its_storage_with_all_that_was_acknowledged() {
    for kind in KINDS {
        let mut cluster = Cluster::with(1, kind, |_, builder| builder);
        let session = cluster.session(1);
        session
            .create("/a", "0", CreateMode::Persistent)
            .within()
            .unwrap();
        for _ in 0..20 {
            session
                .create("/a/n-", "", CreateMode::PersistentSequential)
                .within()
                .unwrap();
        }
        session
            .create("/e", "", CreateMode::Ephemeral)
            .within()
            .unwrap();
        session.set("/a", "1", Version(0)).within().unwrap();
        let (before, credentials) = (stat(&session, "/a"), session.credentials());
        cluster.stop(1);
        cluster.start(1);
        let attach = cluster.node(1).session().attach(&credentials).within();
        let session = attach.expect("the session is there as well");
        assert_eq!(stat(&session, "/a"), before, "{kind:?}");
        assert_eq!(stat(&session, "/e").ephemeral_owner, credentials.session);
        let created = session.create("/a/n-", "", CreateMode::PersistentSequential);
        assert_eq!(created.within().unwrap().path, "/a/n-0000000020");
    }
}

#[test]
fn a_whole_cluster_that_stops_and_starts_keeps_everything_acknowledged() {
    for kind in KINDS {
        let mut cluster = Cluster::with(3, kind, |_, builder| {
            builder.snapshot_log_bytes(3_000).log_entries_kept(4)
        });
        let session = cluster.session(cluster.follower());
        session
            .create("/q", "", CreateMode::Persistent)
            .within()
            .unwrap();
        session
            .create("/e", "", CreateMode::Ephemeral)
            .within()
            .unwrap();
        let calls: Vec<_> = (0..200)
            .map(|_| session.create("/q/n-", "some data", CreateMode::PersistentSequential))
            .collect();
        let mut stats = Vec::new();
        for call in calls {
            let created = call.within().unwrap();
            stats.push((created.path, created.stat));
        }
        let credentials = session.credentials();
        for id in 1..=3 {
            cluster.stop(id);
        }
        for id in 1..=3 {
            cluster.start(id);
        }
        let home = cluster.leader();
        let session = cluster
            .node(home)
            .session()
            .attach(&credentials)
            .within()
            .unwrap();
        for (path, before) in &stats {
            assert_eq!(&stat(&session, path), before, "{kind:?}");
        }
        assert!(stat(&session, "/e").is_ephemeral());
        let created = session.create("/q/n-", "", CreateMode::PersistentSequential);
        assert_eq!(created.within().unwrap().path, "/q/n-0000000200");
    }
}

#[test]
fn a_follower_that_was_away_catches_up_by_entries() {
    for kind in KINDS {
        let mut cluster = Cluster::with(3, kind, |_, builder| builder);
        let away = cluster.follower();
        let session = cluster.session(cluster.leader());
        session
            .create("/a", "", CreateMode::Persistent)
            .within()
            .unwrap();
        cluster.stop(away);
        for _ in 0..50 {
            session.set("/a", "x", Version::ANY).within().unwrap();
        }
        cluster.start(away);
        assert_eq!(stat(&cluster.session(away), "/a").version, 50, "{kind:?}");
    }
}

#[test]
fn a_follower_that_was_away_catches_up_by_a_snapshot_in_pieces() {
    for kind in KINDS {
        let mut cluster = forgetful(kind);
        let away = cluster.follower();
        let session = cluster.session(cluster.leader());
        cluster.level();
        cluster.stop(away);
        // More than one piece of 256 KiB.
        let data = vec![7; 100_000];
        for number in 0..10 {
            let path = format!("/large-{number}");
            session
                .create(&path, &data, CreateMode::Persistent)
                .within()
                .unwrap();
        }
        for _ in 0..20 {
            session
                .set("/large-0", &data, Version::ANY)
                .within()
                .unwrap();
        }
        cluster.start(away);
        let there = cluster.session(away);
        assert_eq!(stat(&there, "/large-0").version, 20, "{kind:?}");
        for number in 0..10 {
            let (found, _) = there.get(&format!("/large-{number}")).within().unwrap();
            assert_eq!(&found[..], &data[..]);
        }
        // It takes part again, from its own disk.
        cluster.stop(away);
        cluster.start(away);
        there_is_a_majority_with(&mut cluster, away);
    }
}

/// Stops another node, so that `id` is needed.
fn there_is_a_majority_with(cluster: &mut Cluster, id: u64) {
    let other = (1..=3).find(|&other| other != id).unwrap();
    cluster.leader();
    cluster.stop(other);
    let session = cluster.session(cluster.leader());
    session.set("/large-0", "x", Version::ANY).within().unwrap();
}

#[test]
fn scenario_11_c_watchers_of_a_node_that_catches_up_by_a_snapshot_hear_what_has_changed() {
    // etcd #18089: events were lost where the log was compacted.
    let cluster = forgetful(Kind::Memory);
    let away = cluster.follower();
    let others: Vec<u64> = (1..=3).filter(|&id| id != away).collect();
    let writer = cluster.session(cluster.leader());
    for path in [
        "/changed", "/deleted", "/parent", "/same", "/again", "/tree",
    ] {
        writer
            .create(path, "0", CreateMode::Persistent)
            .within()
            .unwrap();
    }
    let reader = cluster.session(away);
    reader.sync().within().unwrap();
    let paths = [
        "/changed", "/deleted", "/parent", "/same", "/again", "/created",
    ];
    let mut watchers: Vec<_> = paths
        .iter()
        .map(|path| {
            let watcher = reader.watcher(8);
            match *path {
                "/parent" => drop(reader.children_and_watch(path, &watcher).within().unwrap()),
                _ => drop(reader.exists_and_watch(path, &watcher).within().unwrap()),
            }
            watcher
        })
        .collect();
    let mut recursive = reader.watcher(64);
    reader
        .watch("/tree", WatchKind::PersistentRecursive, &recursive)
        .unwrap();

    cluster.network.isolate(node_id(away));
    cluster.leader_among(&others);
    writer.set("/changed", "1", Version::ANY).within().unwrap();
    writer.delete("/deleted", Version::ANY).within().unwrap();
    writer
        .create("/parent/child", "", CreateMode::Persistent)
        .within()
        .unwrap();
    writer.delete("/again", Version::ANY).within().unwrap();
    writer
        .create("/again", "", CreateMode::Persistent)
        .within()
        .unwrap();
    writer
        .create("/created", "", CreateMode::Persistent)
        .within()
        .unwrap();
    writer
        .create("/tree/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    writer
        .create("/tree/a/b", "", CreateMode::Persistent)
        .within()
        .unwrap();
    for _ in 0..200 {
        writer
            .set("/tree/a/b", "some more bytes", Version::ANY)
            .within()
            .unwrap();
    }
    cluster.network.heal();

    use EventKind::*;
    let expected = [
        NodeDataChanged,
        NodeDeleted,
        NodeChildrenChanged,
        NodeCreated,
        NodeDeleted,
        NodeCreated,
    ];
    for ((path, watcher), kind) in paths.iter().zip(&mut watchers).zip(expected) {
        if *path == "/same" {
            continue;
        }
        let change = next_change(watcher);
        assert_eq!((change.path.as_str(), change.kind), (*path, kind));
    }
    assert_eq!(next_change(&mut recursive).path.as_str(), "/tree/a");
    assert_eq!(next_change(&mut recursive).path.as_str(), "/tree/a/b");
    // Its session goes on, and so does it.
    let (_, stat) = reader.linearizable().get("/tree/a/b").within().unwrap();
    assert_eq!(stat.version, 200);
    assert_ne!(reader.state(), SessionState::Lost);
    let same = watchers[3]
        .receiver()
        .try_iter()
        .find(|event| matches!(event, quorate::Event::Changed(_)));
    assert_eq!(same, None, "nothing happened to /same");
}

#[test]
fn writes_under_way_at_a_node_that_catches_up_by_a_snapshot_have_their_real_results() {
    let cluster = forgetful(Kind::Memory);
    let away = cluster.follower();
    let others: Vec<u64> = (1..=3).filter(|&id| id != away).collect();
    let session = cluster.session(away);
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    // It can send, but hears nothing: its writes are applied, and it learns of them by the snapshot.
    for &id in &others {
        cluster.network.cut(node_id(id), node_id(away));
    }
    let calls: Vec<_> = (0..20)
        .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
        .collect();
    let writer = cluster.session(cluster.leader_among(&others));
    writer
        .create("/filler", "", CreateMode::Persistent)
        .within()
        .unwrap();
    for _ in 0..200 {
        writer
            .set("/filler", "some more bytes", Version::ANY)
            .within()
            .unwrap();
    }
    cluster.network.heal();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.within().unwrap().path, format!("/q/n-{number:010}"));
    }
    assert_eq!(
        writer
            .linearizable()
            .children("/q")
            .within()
            .unwrap()
            .0
            .len(),
        20
    );
}

#[test]
fn a_directory_can_be_opened_again_as_soon_as_its_node_has_stopped() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("log");
    for round in 0..5 {
        let node = Node::builder(1).data_dir(&dir).start().unwrap();
        let session = node.session().open().within().unwrap();
        session
            .create(&format!("/{round}"), "", CreateMode::Persistent)
            .within()
            .unwrap();
        if round % 2 == 0 {
            node.shutdown();
            drop(Log::open(&dir, LogOptions::default()).expect("it is free at once"));
        }
        // A session that outlives its node holds nothing.
        drop(node);
        assert!(session.get("/").within().is_err());
    }
    let dir = parent.path().join("sled");
    for _ in 0..3 {
        let storage = Sled::open(&dir, SledOptions::default()).unwrap();
        let node = Node::builder(1).storage(storage).start().unwrap();
        node.session().open().within().unwrap();
    }
}

#[test]
fn a_directory_in_use_is_refused_and_its_node_is_unharmed() {
    for kind in [Kind::Log, Kind::Sled] {
        let mut cluster = Cluster::with(1, kind, |_, builder| builder);
        let session = cluster.session(1);
        let refused = cluster.try_start(1).unwrap_err();
        assert!(
            matches!(refused, StartError::Storage(StorageError::Locked { .. })),
            "{refused}"
        );
        session
            .create("/a", "", CreateMode::Persistent)
            .within()
            .unwrap();
    }
}

/// The names of this process's threads that belong to node `id`.
fn threads_of(id: u64) -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| name.starts_with(&format!("quorate-{id}-")))
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_is_left_after_shutdown_or_drop() {
    for (id, shut_down) in [(7001, true), (7002, false)] {
        let node = Node::builder(id).start().unwrap();
        let session = node.session().open().within().unwrap();
        session
            .create("/a", "", CreateMode::Persistent)
            .within()
            .unwrap();
        assert!(!threads_of(id).is_empty());
        if shut_down {
            node.shutdown();
            // The kernel may show a thread for a moment after it was joined.
            eventually("they are gone", || threads_of(id).is_empty());
        }
        drop(node);
        eventually("they are gone", || threads_of(id).is_empty());
    }
}

#[test]
fn a_stopped_node_says_so_to_every_call() {
    let mut cluster = Cluster::new(1);
    let session = cluster.session(1);
    let node = cluster.node(1);
    node.shutdown();
    node.shutdown();
    let status = node.status();
    assert_eq!((status.role, status.leader), (Role::Stopped, None));
    assert_eq!(status.stopped.as_deref(), Some("it was shut down"));
    let stopped = Error::Stopped {
        reason: "it was shut down".into(),
    };
    assert!(!stopped.outcome_unknown());
    assert_eq!(node.session().open().within().unwrap_err(), stopped);
    assert_eq!(
        node.session()
            .attach(&session.credentials())
            .within()
            .unwrap_err(),
        stopped
    );
    assert_eq!(
        node.transfer_leadership(node_id(1)).within(),
        Err(stopped.clone())
    );
    assert_eq!(session.state(), SessionState::Lost);
    assert_eq!(session.get("/").within().unwrap_err(), stopped);
    assert_eq!(session.sync().within().unwrap_err(), stopped);
    assert_eq!(
        session.delete("/a", Version::ANY).within().unwrap_err(),
        stopped
    );
    assert_eq!(
        session.linearizable().exists("/").within().unwrap_err(),
        stopped
    );
    node.wait_for(PATIENCE, |_| false)
        .expect("a stopped node keeps nobody waiting");
    cluster.stop(1);
}

#[test]
fn a_node_dropped_in_the_middle_of_load_answers_every_call() {
    for kind in KINDS {
        let mut cluster = Cluster::with(3, kind, |_, builder| builder);
        let home = cluster.leader();
        let session = cluster.session(home);
        session
            .create("/a", "", CreateMode::Persistent)
            .within()
            .unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let loads: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut calls = (Vec::new(), Vec::new());
                        while !stop.load(Ordering::Relaxed) && calls.0.len() < 3_000 {
                            calls.0.push(session.set("/a", "x", Version::ANY));
                            calls.1.push(session.linearizable().get("/a"));
                        }
                        calls
                    })
                })
                .collect();
            cluster
                .node(home)
                .wait_for(PATIENCE, |status| status.zxid.0 > 50)
                .unwrap();
            cluster.stop(home);
            stop.store(true, Ordering::Relaxed);
            for load in loads {
                let (writes, reads) = load.join().unwrap();
                for write in writes {
                    if let Err(error) = write.within() {
                        assert!(matches!(
                            error,
                            Error::Stopped { .. }
                                | Error::OutcomeUnknown { .. }
                                | Error::Overloaded { .. }
                        ));
                    }
                }
                for read in reads {
                    if let Err(error) = read.within() {
                        let expected =
                            matches!(error, Error::Stopped { .. } | Error::Overloaded { .. });
                        assert!(expected, "{error:?}");
                    }
                }
            }
        });
    }
}

//! Learners as observers: they serve what voters serve, and no write waits for them.

mod support;

use quorate::{CreateMode, Event, NodeStatus, Role, SessionState, Version, WatchKind};
use support::{Cluster, PATIENCE, Within, eventually, next_change, node_id};

/// Three voters, and node 4 as a learner that has caught up.
fn with_learner() -> Cluster {
    let mut cluster = Cluster::new(3);
    add_learner(&mut cluster, 4);
    cluster
}

fn add_learner(cluster: &mut Cluster, id: u64) {
    cluster.join(id);
    let asked = cluster.node(cluster.follower());
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Err(error) = asked.add_learner(node_id(id)).within() {
        assert!(error.is_retryable(), "{error}");
        assert!(std::time::Instant::now() < deadline, "{error}");
    }
    let leads = |status: &NodeStatus| status.role == Role::Learner && status.leader.is_some();
    cluster.node(id).wait_for(PATIENCE, leads).unwrap();
}

#[test]
fn a_learners_session_reads_its_own_writes_and_waits_for_others_by_a_barrier() {
    let cluster = with_learner();
    let (here, there) = (cluster.session(4), cluster.session(1));
    here.create("/a", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    for round in 1..50 {
        let value = round.to_string();
        here.set("/a", &value, Version::ANY).within().unwrap();
        let (data, _) = here.get("/a").within().unwrap();
        assert_eq!(&data[..], value.as_bytes());
    }
    for round in 50..100 {
        let value = round.to_string();
        there.set("/a", &value, Version::ANY).within().unwrap();
        let (data, _) = here.linearizable().get("/a").within().unwrap();
        assert_eq!(&data[..], value.as_bytes());
    }
}

#[test]
fn a_watch_on_a_learner_hears_of_what_others_write() {
    let cluster = with_learner();
    let (here, there) = (cluster.session(4), cluster.session(1));
    let mut watcher = here.watcher(16);
    here.watch("/w", WatchKind::PersistentRecursive, &watcher)
        .unwrap();
    there
        .create("/w", "", CreateMode::Persistent)
        .within()
        .unwrap();
    there
        .create("/w/x", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert_eq!(next_change(&mut watcher).path.as_str(), "/w");
    assert_eq!(next_change(&mut watcher).path.as_str(), "/w/x");
    assert!(here.exists("/w/x").within().unwrap().is_some());
}

#[test]
fn a_learner_owns_sessions_and_keeps_them_alive() {
    let mut cluster = with_learner();
    let timeout = std::time::Duration::from_secs(2);
    let owned = cluster.session_of(4, timeout);
    owned
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    // Another one with the same timeout, whose node falls silent, shows that the time has passed.
    let silent = cluster.follower();
    let silenced = cluster.session_of(silent, timeout);
    silenced
        .create("/silent", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    cluster.network.isolate(node_id(silent));
    let leader = (1..=3).find(|&id| cluster.leader_is(id)).unwrap();
    let here = cluster.session(leader);
    let is_there = |path: &str| {
        let found = here.linearizable().exists(path).within().unwrap();
        found.is_some()
    };
    eventually("the silent one is expired", || !is_there("/silent"));
    assert!(is_there("/e"));
    assert!(!owned.state().is_final(), "{:?}", owned.state());
    cluster.network.heal();
    let mut watcher = owned.watcher(4);
    cluster.stop(4);
    let ended = watcher.find(|event| matches!(event, Event::Session(state) if state.is_final()));
    assert_eq!(ended, Some(Event::Session(SessionState::Lost)));
    eventually("its ephemeral is gone", || !is_there("/e"));
}

#[test]
fn no_write_waits_for_learners_however_many_are_gone() {
    let mut cluster = with_learner();
    for id in 5..=7 {
        add_learner(&mut cluster, id);
    }
    // More than the voters: if they counted, nothing could be decided any more.
    for id in 4..=7 {
        cluster.stop(id);
    }
    let follower = cluster.follower();
    cluster.stop(follower);
    let session = cluster.session(cluster.leader());
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert!(
        session
            .linearizable()
            .exists("/a")
            .within()
            .unwrap()
            .is_some()
    );
    // And one that comes back has it, though it was away.
    cluster.start(4);
    let here = cluster.session(4);
    assert!(here.linearizable().exists("/a").within().unwrap().is_some());
}

#[test]
fn learners_elect_nobody_and_give_no_majority() {
    let mut cluster = with_learner();
    add_learner(&mut cluster, 5);
    let leader = cluster.leader();
    for id in (1..=3).filter(|&id| id != leader) {
        cluster.stop(id);
    }
    // One voter of three, with two learners: three of five nodes, and no majority.
    let alone = |status: &NodeStatus| status.role != Role::Leader;
    cluster.node(leader).wait_for(PATIENCE, alone).unwrap();
    for id in [4, 5] {
        assert_eq!(cluster.node(id).status().role, Role::Learner);
    }
}

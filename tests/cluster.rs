//! Whole clusters: writes reach the leader from any node, and happen once, whoever leads.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::transport::Faults;
use quorate::{CreateMode, Created, Error, Pending, Session, Version};
use support::{Cluster, Within, node_id};

fn children(session: &Session, path: &str) -> BTreeSet<String> {
    let (children, _) = session.linearizable().children(path).within().unwrap();
    children.iter().map(|name| name.to_string()).collect()
}

fn name(created: &Created) -> String {
    created.path.rsplit('/').next().unwrap().to_string()
}

#[test]
fn requests_at_any_node_reach_the_leader() {
    let cluster = Cluster::new(3);
    for id in 1..=3 {
        let session = cluster.session(id);
        session
            .create(&format!("/by-{id}"), "", CreateMode::Persistent)
            .within()
            .unwrap();
    }
    let session = cluster.session(1);
    session.sync().within().unwrap();
    for id in 1..=3 {
        assert!(
            session
                .exists(&format!("/by-{id}"))
                .within()
                .unwrap()
                .is_some()
        );
    }
}

#[test]
fn a_followers_session_reads_its_own_writes_at_once() {
    let cluster = Cluster::new(3);
    let session = cluster.session(cluster.follower());
    session
        .create("/a", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    for round in 0..100 {
        let value = round.to_string();
        session.set("/a", &value, Version::ANY).within().unwrap();
        let (data, stat) = session.get("/a").within().unwrap();
        assert_eq!(&data[..], value.as_bytes());
        assert_eq!(stat.version, round + 1);
    }
}

#[test]
fn a_pipelined_read_sees_the_writes_called_before_it_and_no_later_one() {
    let cluster = Cluster::new(3);
    for node in [cluster.leader(), cluster.follower()] {
        let session = cluster.session(node);
        let path = format!("/on-{node}");
        let created = session.create(&path, "0", CreateMode::Persistent);
        let mut reads = vec![session.get(&path)];
        let mut writes = Vec::new();
        for version in 1..200 {
            writes.push(session.set(&path, version.to_string(), Version(version - 1)));
            reads.push(session.get(&path));
        }
        let deleted = session.delete(&path, Version::ANY);
        let gone = session.exists(&path);
        assert_eq!(created.within().unwrap().path, path);
        for (version, read) in reads.into_iter().enumerate() {
            let (data, stat) = read.within().unwrap();
            assert_eq!(&data[..], version.to_string().as_bytes());
            assert_eq!(stat.version as usize, version);
        }
        for (before, write) in writes.into_iter().enumerate() {
            assert_eq!(write.within().unwrap().version as usize, before + 1);
        }
        deleted.within().unwrap();
        assert_eq!(gone.within(), Ok(None));
    }
}

#[test]
fn each_write_happens_once_though_three_leaders_fall_while_it_is_under_way() {
    let mut cluster = Cluster::new(5);
    let home = cluster.follower();
    let session = cluster.session(home);
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let mut calls: Vec<Pending<Created>> = Vec::new();
    let mut away = None;
    for _ in 0..3 {
        let mut leader = cluster.leader();
        if leader == home {
            let heir = *cluster.running().iter().find(|&&id| id != home).unwrap();
            cluster
                .node(home)
                .transfer_leadership(node_id(heir))
                .within()
                .unwrap();
            support::eventually("another leads", || {
                leader = cluster.leader();
                leader != home
            });
        }
        for _ in 0..40 {
            calls.push(session.create("/q/n-", "x", CreateMode::PersistentSequential));
        }
        cluster.stop(leader);
        if let Some(id) = away.replace(leader) {
            cluster.start(id);
        }
    }
    let mut results = Vec::new();
    for call in calls {
        results.push(name(&call.within().unwrap()));
    }
    let expected: Vec<String> = (0..120).map(|number| format!("n-{number:010}")).collect();
    assert_eq!(
        results, expected,
        "each call has its own result, in the order of the calls"
    );
    assert_eq!(children(&session, "/q"), expected.into_iter().collect());
}

#[test]
fn one_sequential_create_through_three_leaders_yields_one_znode() {
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let session = cluster.session(home);
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    // The first leader takes the write but its log reaches nobody, so that it has to be sent again.
    let first = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|&id| id != first).collect();
    for &id in &others {
        cluster.network.cut(node_id(first), node_id(id));
    }
    let call = session.create("/q/n-", "", CreateMode::PersistentSequential);
    let second = cluster.leader_among(&others);
    cluster.network.heal();
    let third = cluster.leader();
    let heir = (1..=3)
        .find(|&id| id != third && id != second)
        .unwrap_or(first);
    drop(cluster.node(third).transfer_leadership(node_id(heir)));
    let created = name(&call.within().unwrap());
    cluster.leader();
    assert_eq!(children(&session, "/q"), BTreeSet::from([created]));
}

#[test]
fn writes_that_were_committed_unheard_are_not_done_again_by_the_next_leader() {
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let first = cluster.leader();
    let second = (1..=3).find(|&id| id != home && id != first).unwrap();
    let session = cluster.session(home);
    let queue = session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    // The first leader hears the writes and commits them, but their node doesn't hear of it.
    cluster.network.cut(node_id(first), node_id(home));
    let calls: Vec<_> = (0..50)
        .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
        .collect();
    let done = |status: &quorate::NodeStatus| status.zxid.0 >= queue.stat.czxid.0 + 50;
    cluster
        .node(second)
        .wait_for(support::PATIENCE, done)
        .unwrap();
    // The second one is sent them again before their node has caught up.
    support::eventually("the second leads", || {
        drop(cluster.node(first).transfer_leadership(node_id(second)));
        cluster.leader_among(&[first, second]) == second
    });
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(name(&call.within().unwrap()), format!("n-{number:010}"));
    }
    cluster.network.heal();
    assert_eq!(children(&session, "/q").len(), 50);
}

#[test]
fn writes_of_a_node_that_is_stopped_are_answered_or_their_outcome_is_told_as_unknown() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let session = cluster.session(leader);
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let calls: Vec<_> = (0..500)
        .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
        .collect();
    cluster.stop(leader);
    let (mut done, mut unknown) = (BTreeSet::new(), 0);
    for call in calls {
        match call.within() {
            Ok(created) => {
                assert!(done.insert(name(&created)));
            }
            Err(error @ Error::OutcomeUnknown { .. }) => {
                assert!(error.outcome_unknown());
                unknown += 1;
            }
            Err(error @ Error::Stopped { .. }) => assert!(!error.outcome_unknown()),
            Err(other) => panic!("{other:?}"),
        }
    }
    let left = children(&cluster.session(cluster.leader()), "/q");
    assert!(left.is_superset(&done), "an acknowledged write is missing");
    assert!(
        left.len() <= done.len() + unknown,
        "a write happened that was told not to have"
    );
}

#[test]
fn a_counter_counts_each_increment_once_over_a_network_that_loses_doubles_and_reorders() {
    let cluster = Cluster::new(3);
    let session = cluster.session(1);
    session
        .create("/counter", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    session
        .create("/log", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let faults = Faults::default()
        .loss(0.05)
        .duplication(0.1)
        .reordering(0.1);
    cluster
        .network
        .set_faults(faults.delay(Duration::ZERO, Duration::from_millis(3)));
    let increments = std::thread::scope(|scope| {
        let counters: Vec<_> = (1..=3)
            .map(|id| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let session = cluster.session(id).linearizable();
                    let mut done = 0;
                    while done < 20 {
                        let (data, stat) = session.get("/counter").within().unwrap();
                        let count: u64 = std::str::from_utf8(&data).unwrap().parse().unwrap();
                        let entry = format!("/log/{:05}", count + 1);
                        let write = session
                            .multi()
                            .set("/counter", (count + 1).to_string(), Version(stat.version))
                            .create(&entry, id.to_string(), CreateMode::Persistent)
                            .commit();
                        match write.within() {
                            Ok(_) => done += 1,
                            Err(Error::Multi { index: 0, error }) => {
                                assert!(matches!(*error, Error::BadVersion { .. }));
                            }
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    done
                })
            })
            .collect();
        counters
            .into_iter()
            .map(|counter| counter.join().unwrap())
            .sum::<u64>()
    });
    cluster.network.heal();
    let (data, _) = session.linearizable().get("/counter").within().unwrap();
    assert_eq!(&data[..], increments.to_string().as_bytes());
    assert_eq!(children(&session, "/log").len() as u64, increments);
}

#[test]
fn writes_go_on_while_leadership_is_handed_round_and_each_happens_once() {
    let cluster = Cluster::new(3);
    let stop = AtomicBool::new(false);
    cluster
        .session(1)
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let calls = std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3)
            .map(|id| {
                let (cluster, stop) = (&cluster, &stop);
                scope.spawn(move || {
                    let session = cluster.session(id);
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let write = session.create("/q/n-", "", CreateMode::PersistentSequential);
                        write.within().unwrap();
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for round in 0..6 {
            let leader = cluster.leader();
            let heir = leader % 3 + 1;
            drop(cluster.node(leader).transfer_leadership(node_id(heir)));
            let session = cluster.session(round % 3 + 1);
            session.sync().within().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .map(|writer| writer.join().unwrap())
            .sum::<usize>()
    });
    assert!(calls > 0);
    assert_eq!(children(&cluster.session(1), "/q").len(), calls);
}

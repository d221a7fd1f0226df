//! What a core makes of its storage: failing reads, a crash between two writes, a log that it can't go
//! on with, and how little it reads when all goes well.

use std::sync::Arc;

use super::cluster::{Cluster, first_snapshot, node_id, placeholder, step, voters};
use super::memory_store::MemoryStore;
use crate::ClusterId;
use crate::consensus::{
    COMMAND_BYTES_MAX, Consensus, MembershipChange, ProposeError, RaftCore, RaftOptions, Role,
};
use crate::storage::{
    EntryKind, HardState, Identity, LogEntry, SnapshotMeta, Storage as _, StorageError, WriteBatch,
};

fn corrupt() -> StorageError {
    StorageError::Corrupt {
        path: "log".to_owned(),
        offset: 7,
        reason: "a test".to_owned(),
    }
}

fn led_by_1(options: RaftOptions) -> Cluster {
    let mut cluster = Cluster::new(voters(&[1, 2, 3]), options);
    cluster.with_core(1, |core| core.campaign());
    cluster.stabilize();
    cluster
}

fn propose(cluster: &mut Cluster, count: usize) {
    for _ in 0..count {
        cluster
            .with_core(1, |core| core.propose(vec![7; 100].into()))
            .unwrap();
        cluster.stabilize();
    }
}

fn store() -> MemoryStore {
    let identity = Identity {
        cluster: ClusterId(1),
        node: node_id(1),
    };
    MemoryStore::bootstrapped(identity, &first_snapshot(&voters(&[1])))
}

fn start(store: &MemoryStore) -> Result<RaftCore, StorageError> {
    RaftCore::new(node_id(1), Arc::new(store.clone()), RaftOptions::default())
}

fn append(store: &MemoryStore, terms: &[u64], hard_state: HardState) {
    let command = |(index, &term): (u64, &u64)| LogEntry {
        index,
        term,
        kind: EntryKind::Command,
        data: Vec::new().into(),
    };
    let entries = (2..).zip(terms).map(command).collect();
    store
        .append(&WriteBatch {
            entries,
            hard_state: Some(hard_state),
        })
        .unwrap();
}

#[test]
fn followers_that_keep_up_are_served_from_memory() {
    let mut cluster = led_by_1(RaftOptions::default());
    propose(&mut cluster, 50);
    for node in cluster.nodes.values() {
        assert_eq!(node.store.entries_read(), 0);
        assert_eq!(node.applied.len(), 51);
    }
}

#[test]
fn memory_is_bounded_and_what_was_dropped_is_read_back() {
    let options = RaftOptions {
        cache_bytes_max: 1000,
        ..RaftOptions::default()
    };
    let mut cluster = led_by_1(options);
    cluster.crash(3);
    propose(&mut cluster, 100);
    assert!(cluster.core(1).cached_bytes() <= 1000);
    cluster.restart(3).unwrap();
    for _ in 0..3 {
        cluster.with_core(1, |core| (0..2).for_each(|_| core.tick()));
        cluster.stabilize();
    }
    assert!(cluster.node(1).store.entries_read() > 50);
    assert_eq!(cluster.node(3).applied.len(), 101);
}

#[test]
fn entries_that_are_not_durable_stay_in_memory_however_many() {
    let options = RaftOptions {
        cache_bytes_max: 1000,
        ..RaftOptions::default()
    };
    let mut cluster = led_by_1(options);
    cluster.node(1).slow_disk = true;
    propose(&mut cluster, 50);
    assert!(cluster.core(1).cached_bytes() > 5000);
    assert_eq!(
        cluster.node(3).applied.len(),
        51,
        "committed by the other two"
    );
    cluster.node(1).slow_disk = false;
    cluster.stabilize();
    assert!(cluster.core(1).cached_bytes() <= 1000);
    assert_eq!(cluster.node(1).applied.len(), 51);
}

#[test]
fn a_read_that_fails_for_a_follower_stops_the_core_without_a_panic() {
    let options = RaftOptions {
        cache_bytes_max: 0,
        ..RaftOptions::default()
    };
    let mut cluster = led_by_1(options);
    cluster.crash(3);
    propose(&mut cluster, 5);
    cluster.node(1).store.fail_reads(corrupt());
    cluster.restart(3).unwrap();
    for _ in 0..3 {
        cluster.with_core(1, |core| (0..2).for_each(|_| core.tick()));
        cluster.stabilize();
    }
    let core = cluster.core(1);
    assert!(matches!(
        core.failure(),
        Some(StorageError::Corrupt { offset: 7, .. })
    ));
    assert!(core.ready().is_none());
    assert!(matches!(
        core.propose("x".into()),
        Err(ProposeError::Dropped { .. })
    ));
    core.tick();
    core.campaign();
}

#[test]
fn a_read_that_fails_for_the_state_machine_stops_the_core_without_a_panic() {
    let store = store();
    append(
        &store,
        &[1, 1, 1],
        HardState {
            term: 1,
            vote: None,
            commit: 4,
        },
    );
    let mut core = start(&store).unwrap();
    store.fail_reads(corrupt());
    assert!(core.ready().is_none());
    assert!(matches!(core.failure(), Some(StorageError::Corrupt { .. })));
    assert!(core.ready().is_none());
}

#[test]
fn a_read_that_fails_before_an_election_stops_the_core_without_a_panic() {
    let store = store();
    append(
        &store,
        &[1, 1, 1],
        HardState {
            term: 1,
            vote: None,
            commit: 4,
        },
    );
    let mut core = start(&store).unwrap();
    // The entries are given out, but not reported applied: raft-rs reads them again.
    assert_eq!(core.ready().unwrap().committed.len(), 3);
    store.fail_reads(corrupt());
    core.campaign();
    assert!(core.ready().is_none());
    assert!(matches!(core.failure(), Some(StorageError::Corrupt { .. })));
}

#[test]
fn a_crash_between_a_snapshot_and_the_hard_state_after_it_is_recovered() {
    let store = store();
    store.publish(&SnapshotMeta {
        index: 9,
        term: 4,
        configuration: voters(&[1]),
    });
    assert_eq!(store.recover().unwrap().hard_state.commit, 1);
    let mut core = start(&store).unwrap();
    let status = core.status();
    assert_eq!((status.term, status.commit, status.last_index), (4, 9, 9));
    core.campaign();
    let ready = core.ready().unwrap();
    assert_eq!(ready.write.hard_state.unwrap().term, 5);
    assert_eq!(ready.write.entries[0].index, 10);
}

#[test]
fn a_storage_that_contradicts_itself_is_refused() {
    assert!(matches!(
        start(&MemoryStore::default()),
        Err(StorageError::Refused { .. })
    ));

    let behind_its_commit = store();
    append(
        &behind_its_commit,
        &[1, 1],
        HardState {
            term: 1,
            vote: None,
            commit: 3,
        },
    );
    behind_its_commit.forget_after(2);
    assert!(matches!(
        start(&behind_its_commit),
        Err(StorageError::Amnesia { .. })
    ));

    let behind_its_log = store();
    append(
        &behind_its_log,
        &[1, 5],
        HardState {
            term: 4,
            vote: None,
            commit: 1,
        },
    );
    assert!(matches!(
        start(&behind_its_log),
        Err(StorageError::Amnesia { .. })
    ));

    let falling_terms = store();
    append(
        &falling_terms,
        &[3, 2, 4],
        HardState {
            term: 4,
            vote: None,
            commit: 1,
        },
    );
    assert!(matches!(
        start(&falling_terms),
        Err(StorageError::Corrupt { .. })
    ));

    let without_voters = MemoryStore::bootstrapped(
        Identity {
            cluster: ClusterId(1),
            node: node_id(1),
        },
        &first_snapshot(&voters(&[])),
    );
    assert!(matches!(
        start(&without_voters),
        Err(StorageError::Corrupt { .. })
    ));
}

#[test]
fn a_commit_index_alone_is_not_worth_a_write() {
    let mut cluster = led_by_1(RaftOptions::default());
    cluster.trace.clear();
    propose(&mut cluster, 1);
    let writes = cluster
        .trace
        .lines()
        .filter(|line| line.contains(" commit ") && line.contains("ready"))
        .count();
    let with_entries = cluster
        .trace
        .lines()
        .filter(|line| line.contains(" write "))
        .count();
    assert_eq!((writes, with_entries), (3, 3), "{}", cluster.trace);
    // The next entries bring it along.
    propose(&mut cluster, 1);
    assert_eq!(
        cluster.node(2).store.recover().unwrap().hard_state.commit,
        3
    );
}

#[test]
fn proposals_beyond_the_limits_are_dropped_with_an_error() {
    let options = RaftOptions {
        append_bytes_max: 100,
        uncommitted_bytes_max: 1000,
        barriers_max: 2,
        ..RaftOptions::default()
    };
    let mut cluster = led_by_1(options);
    let too_large = vec![0; COMMAND_BYTES_MAX + 1];
    let dropped = cluster.with_core(1, |core| core.propose(too_large.into()));
    assert!(matches!(dropped, Err(ProposeError::Dropped { .. })));

    cluster.cut = vec![(2, 1), (3, 1)];
    let taken = (0..100)
        .take_while(|_| {
            cluster
                .with_core(1, |core| core.propose(vec![0; 100].into()))
                .is_ok()
        })
        .count();
    assert!((9..=11).contains(&taken), "{taken} proposals of 100 bytes");
    let barriers: Vec<bool> = (1..=3)
        .map(|barrier| cluster.with_core(1, |core| core.barrier(barrier)).is_ok())
        .collect();
    assert_eq!(barriers, [true, true, false]);

    cluster.cut.clear();
    for _ in 0..20 {
        cluster.with_core(1, |core| (0..2).for_each(|_| core.tick()));
        cluster.stabilize();
    }
    cluster
        .with_core(1, |core| core.propose("x".into()))
        .unwrap();
    assert_eq!(cluster.node(1).barriers.len(), 2);
}

#[test]
fn a_node_that_joins_again_gets_no_snapshot_from_before_its_removal() {
    // The first snapshot names every first voter. One that had lost its disk, was removed and joined again
    // was sent that, took it for what it had, and was asked for what it lacked, for ever.
    let mut cluster = led_by_1(RaftOptions::default());
    propose(&mut cluster, 1);
    for change in [
        MembershipChange::Remove(node_id(3)),
        MembershipChange::AddLearner(node_id(3)),
    ] {
        if change == MembershipChange::AddLearner(node_id(3)) {
            cluster.join_with(3, &placeholder(&[1, 2]));
        }
        cluster
            .with_core(1, |core| core.change_membership(&[change]))
            .unwrap();
        cluster.stabilize();
    }
    let added_at = cluster.core(1).status().commit;
    assert_eq!(cluster.core(1).snapshot_wanted(), Some(added_at));
    cluster.snapshot_and_compact(1);
    cluster.with_core(1, |core| (0..2).for_each(|_| core.tick()));
    cluster.stabilize();
    assert_eq!(cluster.core(3).status().commit, added_at);
}

#[test]
fn a_leader_says_when_a_follower_waits_for_a_newer_snapshot() {
    let mut cluster = led_by_1(RaftOptions::default());
    propose(&mut cluster, 1);
    cluster.snapshot_and_compact(1);
    assert_eq!(cluster.core(1).snapshot_wanted(), None);
    cluster.join(4);
    let add = [MembershipChange::AddLearner(node_id(4))];
    cluster
        .with_core(1, |core| core.change_membership(&add))
        .unwrap();
    cluster.stabilize();
    // The published snapshot is that of entry 3; the one that names node 4 begins with entry 4.
    assert_eq!(cluster.core(1).snapshot_wanted(), Some(4));
    assert_eq!(cluster.core(2).snapshot_wanted(), None);
    cluster.snapshot_and_compact(1);
    // Whoever waited may be gone: for its sake the leader would take snapshot after snapshot.
    assert_eq!(cluster.core(1).snapshot_wanted(), None);
    cluster.with_core(1, |core| (0..2).for_each(|_| core.tick()));
    cluster.stabilize();
    assert_eq!(cluster.core(1).snapshot_wanted(), None);
    assert_eq!(cluster.core(4).status().role, Role::Learner);
    assert_eq!(cluster.core(4).status().commit, 4);
}

#[test]
fn progress_is_known_to_the_leader_and_sorted() {
    let mut cluster = led_by_1(RaftOptions::default());
    cluster.cut = vec![(1, 3)];
    propose(&mut cluster, 1);
    let progress: Vec<(u64, u64)> = cluster
        .core(1)
        .progress()
        .iter()
        .map(|peer| (peer.node.as_u64(), peer.matched))
        .collect();
    assert_eq!(progress, [(2, 3), (3, 2)]);
    assert_eq!(cluster.core(2).progress(), []);
}

#[test]
fn a_snapshot_that_is_installed_counts_as_applied() {
    // raft-rs reads what isn't applied before an election, and panics where a snapshot has replaced it.
    let mut cluster = led_by_1(RaftOptions::default());
    cluster.crash(3);
    propose(&mut cluster, 3);
    cluster.snapshot_and_compact(1);
    let store = cluster.node(3).store.clone();
    let mut core =
        RaftCore::new(node_id(3), Arc::new(store.clone()), RaftOptions::default()).unwrap();
    let mut message = raft::eraftpb::Message {
        from: 1,
        to: 3,
        term: 2,
        ..Default::default()
    };
    message.set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (5, 2);
    metadata.mut_conf_state().set_voters(vec![1, 2, 3]);
    let bytes = protobuf::Message::write_to_bytes(&message).unwrap();
    while core.ready().is_some() {}
    step(&mut core, node_id(1), &bytes).unwrap();
    let ready = core.ready().unwrap();
    store.publish(&ready.install.unwrap());
    core.persisted(ready.number);
    core.campaign();
    assert_eq!(core.status().role, Role::Candidate);
}

#[test]
fn scenario_06_c_what_replaces_entries_is_not_durable_because_those_were() {
    // ClickHouse #102629: the durable index wasn't set back when entries were replaced, so that what
    // stood in their place counted as durable.
    let options = RaftOptions {
        cache_bytes_max: 0,
        ..RaftOptions::default()
    };
    let mut cluster = led_by_1(options);
    cluster.node(3).slow_disk = true;
    // 3 gets entries that nobody else gets, then others in their place; neither is durable.
    cluster.cut = vec![(1, 2), (2, 1)];
    propose(&mut cluster, 4);
    cluster.cut = vec![(1, 3), (3, 1), (1, 2), (2, 1)];
    cluster.node(3).slow_disk = false;
    cluster.stabilize();
    cluster.node(3).slow_disk = true;
    assert_eq!(cluster.core(3).cached_bytes(), 0);
    let step = |cluster: &mut Cluster, log_term: u64, index: u64, term: u64| {
        let mut message = raft::eraftpb::Message {
            from: 2,
            to: 3,
            term,
            index,
            log_term,
            ..Default::default()
        };
        message.set_msg_type(raft::eraftpb::MessageType::MsgAppend);
        let entry = raft::eraftpb::Entry {
            index: index + 1,
            term,
            ..Default::default()
        };
        message.set_entries(vec![entry].into());
        let bytes = protobuf::Message::write_to_bytes(&message).unwrap();
        cluster
            .with_core(3, |core| core.step(node_id(2), &bytes))
            .unwrap();
    };
    step(&mut cluster, 2, 6, 3);
    step(&mut cluster, 2, 3, 4);
    let both = cluster.core(3).cached_bytes();
    assert!(both > 0);
    assert!(cluster.persist(3));
    assert_eq!(
        cluster.core(3).cached_bytes(),
        both,
        "entry 4 of term 4 isn't durable yet"
    );
    assert!(cluster.persist(3));
    assert_eq!(cluster.core(3).cached_bytes(), 0);
}

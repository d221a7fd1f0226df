//! Bytes that no honest core sends: each is refused with a typed error or has no effect, none panics.

use protobuf::{Message as _, ProtobufEnum as _};
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message,
    MessageType, Snapshot,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::cluster::{Cluster, node_id, step, voters};
use crate::consensus::{Consensus, RaftOptions, Role, StepError};
use crate::storage::SnapshotMeta;
use crate::transport::MESSAGE_BYTES_MAX;

/// Three nodes, of which 1 leads term 2, and a few entries.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(voters(&[1, 2, 3]), RaftOptions::default());
    cluster.with_core(1, |core| core.campaign());
    cluster.stabilize();
    for text in ["a", "b", "c"] {
        cluster
            .with_core(1, |core| core.propose(text.into()))
            .unwrap();
    }
    cluster.stabilize();
    cluster
}

/// Steps `bytes` at node 2 as if node 1 had sent them.
fn step_at_follower(bytes: &[u8]) -> Result<(), StepError> {
    cluster().with_core(2, |core| step(core, node_id(1), bytes))
}

fn message(kind: MessageType) -> Message {
    let mut message = Message {
        from: 1,
        to: 2,
        term: 2,
        ..Message::default()
    };
    message.set_msg_type(kind);
    message
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        ..Entry::default()
    }
}

fn append(index: u64, log_term: u64, entries: Vec<Entry>) -> Message {
    let mut message = message(MessageType::MsgAppend);
    message.index = index;
    message.log_term = log_term;
    message.set_entries(entries.into());
    message
}

fn assert_malformed(message: &Message) {
    let result = step_at_follower(&message.write_to_bytes().unwrap());
    assert!(
        matches!(result, Err(StepError::Malformed { from, .. }) if from == node_id(1)),
        "{result:?}: {message:?}"
    );
}

fn assert_taken(message: &Message) {
    assert_eq!(
        step_at_follower(&message.write_to_bytes().unwrap()),
        Ok(()),
        "{message:?}"
    );
}

#[test]
fn five_million_nested_unknown_groups_are_an_error() {
    // RUSTSEC-2024-0437: parsers that recurse on such input overflow their stack.
    let start_of_group_100 = [0xa3, 0x06];
    let bytes = start_of_group_100.repeat(5_000_000);
    assert!(matches!(
        step_at_follower(&bytes),
        Err(StepError::Malformed { .. })
    ));
    // The same one level down, where an entry's fields are expected.
    let inner = start_of_group_100.repeat(1_000_000);
    let mut bytes = vec![0x3a];
    let mut length = inner.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(inner);
    assert!(matches!(
        step_at_follower(&bytes),
        Err(StepError::Malformed { .. })
    ));
}

#[test]
fn more_bytes_than_a_message_may_have_are_refused_unread() {
    let bytes = vec![0; MESSAGE_BYTES_MAX + 1];
    let Err(StepError::Malformed { reason, .. }) = step_at_follower(&bytes) else {
        panic!()
    };
    assert!(reason.contains("over the limit"), "{reason}");
}

#[test]
fn only_what_peers_say_to_each_other_is_taken() {
    use MessageType::*;
    for kind in [
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgReadIndex,
        MsgReadIndexResp,
    ] {
        let mut message = message(kind);
        assert_malformed(&message);
        message.set_entries(vec![entry(5, 2)].into());
        assert_malformed(&message);
        // raft-rs takes a term of 0 for a sign of its own messages.
        message.term = 0;
        assert_malformed(&message);
    }
    assert_taken(&message(MsgHeartbeat));
    assert_malformed(&Message {
        term: 0,
        ..message(MsgHeartbeat)
    });
}

#[test]
fn a_message_must_come_from_its_sender_and_be_meant_for_us() {
    for (from, to) in [(0, 2), (2, 2), (3, 2), (1, 0), (1, 3)] {
        assert_malformed(&Message {
            from,
            to,
            ..message(MessageType::MsgHeartbeat)
        });
    }
    let from_itself = Message {
        from: 2,
        ..message(MessageType::MsgHeartbeat)
    }
    .write_to_bytes()
    .unwrap();
    let result = cluster().with_core(2, |core| core.step(node_id(2), &from_itself));
    assert!(matches!(result, Err(StepError::Malformed { .. })));
}

#[test]
fn unknown_fields_and_kinds_are_refused() {
    let mut bytes = message(MessageType::MsgHeartbeat).write_to_bytes().unwrap();
    bytes.extend([0x98, 0x06, 0x01]); // field 99, number 1
    assert!(matches!(
        step_at_follower(&bytes),
        Err(StepError::Malformed { .. })
    ));
    // A kind that doesn't exist must not be read as the first one.
    let mut bytes = message(MessageType::MsgHup).write_to_bytes().unwrap();
    bytes.extend([0x08, 99]);
    assert!(matches!(
        step_at_follower(&bytes),
        Err(StepError::Malformed { .. })
    ));
    let mut odd = entry(5, 2);
    odd.mut_unknown_fields().add_varint(99, 1);
    assert_malformed(&append(4, 2, vec![odd]));
}

#[test]
fn scenario_06_a_entries_that_leave_a_hole_are_refused() {
    // ZOOKEEPER-4925: a node that had rejoined had a hole in its log.
    assert_taken(&append(5, 2, vec![entry(6, 2), entry(7, 2)]));
    for broken in [
        // A term of 0 would match what isn't there, and leave a gap.
        append(9, 0, vec![entry(10, 2)]),
        append(0, 0, vec![entry(1, 1)]),
        append(5, 2, vec![entry(7, 2)]),
        append(5, 2, vec![entry(6, 2), entry(6, 2)]),
        append(5, 2, vec![entry(6, 0)]),
        append(5, 2, vec![entry(6, 1)]),
        append(5, 2, vec![entry(6, 3)]),
        append(5, 3, vec![]),
        append(u64::MAX, 2, vec![entry(0, 2)]),
        append(i64::MAX as u64, 2, vec![entry(1 << 63, 2)]),
    ] {
        assert_malformed(&broken);
    }
}

#[test]
fn entries_with_what_is_not_kept_are_refused() {
    let with_context = Entry {
        context: "x".into(),
        ..entry(6, 2)
    };
    assert_malformed(&append(5, 2, vec![with_context]));
    let mut old_change = entry(6, 2);
    old_change.set_entry_type(EntryType::EntryConfChange);
    assert_malformed(&append(5, 2, vec![old_change]));
    let mut garbled_change = Entry {
        data: vec![0xff; 9].into(),
        ..entry(6, 2)
    };
    garbled_change.set_entry_type(EntryType::EntryConfChangeV2);
    assert_malformed(&append(5, 2, vec![garbled_change]));
}

#[test]
fn numbers_near_the_end_of_their_range_are_refused() {
    let heartbeat = message(MessageType::MsgHeartbeat);
    assert_malformed(&Message {
        term: u64::MAX,
        ..heartbeat.clone()
    });
    assert_malformed(&Message {
        commit: u64::MAX,
        ..heartbeat.clone()
    });
    assert_malformed(&Message {
        request_snapshot: 1,
        ..heartbeat.clone()
    });
    assert_malformed(&Message {
        context: vec![0; 33].into(),
        ..heartbeat
    });
}

fn snapshot_message(change: impl FnOnce(&mut Snapshot)) -> Message {
    let mut snapshot = Snapshot::default();
    snapshot.mut_metadata().index = 9;
    snapshot.mut_metadata().term = 2;
    snapshot
        .mut_metadata()
        .mut_conf_state()
        .set_voters(vec![1, 2, 3]);
    change(&mut snapshot);
    let mut message = message(MessageType::MsgSnapshot);
    message.set_snapshot(snapshot);
    message
}

#[test]
fn a_snapshot_must_make_sense() {
    assert_taken(&snapshot_message(|_| {}));
    assert_malformed(&message(MessageType::MsgSnapshot));
    assert_malformed(&snapshot_message(|snapshot| snapshot.data = vec![1].into()));
    assert_malformed(&snapshot_message(|snapshot| {
        snapshot.mut_metadata().index = 0
    }));
    assert_malformed(&snapshot_message(|snapshot| {
        snapshot.mut_metadata().term = 0
    }));
    assert_malformed(&snapshot_message(|snapshot| {
        snapshot.mut_metadata().term = 3
    }));
    // It contradicts entry 4, which is committed here with term 2.
    assert_malformed(&snapshot_message(|snapshot| {
        snapshot.mut_metadata().index = 5;
        snapshot.mut_metadata().term = 1;
    }));
    let with = |change: fn(&mut ConfState)| {
        snapshot_message(|snapshot| change(snapshot.mut_metadata().mut_conf_state()))
    };
    assert_malformed(&with(|state| state.set_voters(vec![])));
    assert_malformed(&with(|state| state.set_voters(vec![1, 2, 2])));
    assert_malformed(&with(|state| state.set_voters(vec![0, 2])));
    assert_malformed(&with(|state| state.set_learners(vec![2])));
    assert_malformed(&with(|state| state.set_learners_next(vec![4])));
    assert_malformed(&with(|state| state.auto_leave = true));
}

#[test]
fn a_leader_is_not_told_of_entries_that_it_never_sent() {
    let mut cluster = cluster();
    let mut acknowledged = Message {
        from: 2,
        to: 1,
        index: 6,
        ..message(MessageType::MsgAppendResponse)
    };
    let refused = cluster.with_core(1, |core| {
        core.step(node_id(2), &acknowledged.write_to_bytes().unwrap())
    });
    assert!(
        matches!(refused, Err(StepError::Malformed { .. })),
        "{refused:?}"
    );
    acknowledged.index = 5;
    cluster
        .with_core(1, |core| {
            core.step(node_id(2), &acknowledged.write_to_bytes().unwrap())
        })
        .unwrap();
}

#[test]
fn a_vote_that_was_not_asked_for_does_not_make_a_leader() {
    // raft-rs asserts that a new leader's log is durable, and that the vote for itself is.
    let mut cluster = Cluster::new(voters(&[1, 2, 3]), RaftOptions::default());
    cluster.node(1).slow_disk = true;
    cluster.with_core(1, |core| core.campaign());
    let granted = |kind, term| {
        let mut message = Message {
            from: 2,
            to: 1,
            term,
            ..Message::default()
        };
        message.set_msg_type(kind);
        message.write_to_bytes().unwrap()
    };
    let grant = granted(MessageType::MsgRequestPreVoteResponse, 2);
    cluster
        .with_core(1, |core| core.step(node_id(2), &grant))
        .unwrap();
    assert_eq!(cluster.core(1).status().term, 2);
    let grant = granted(MessageType::MsgRequestVoteResponse, 2);
    let refused = cluster.with_core(1, |core| core.step(node_id(2), &grant));
    assert!(
        matches!(refused, Err(StepError::Malformed { .. })),
        "{refused:?}"
    );
    assert_eq!(cluster.core(1).status().role, Role::Candidate);
    let of_another_term = granted(MessageType::MsgRequestVoteResponse, 3);
    let refused = cluster.with_core(1, |core| core.step(node_id(2), &of_another_term));
    assert!(
        matches!(refused, Err(StepError::Malformed { .. })),
        "{refused:?}"
    );
    // Once its own vote is durable and the question asked, the same answer counts.
    while cluster.persist(1) {}
    cluster
        .with_core(1, |core| core.step(node_id(2), &grant))
        .unwrap();
    assert_eq!(cluster.core(1).status().role, Role::Leader);
}

#[test]
fn a_heartbeat_with_a_commit_beyond_the_log_is_amnesia() {
    let result = step_at_follower(
        &Message {
            commit: 6,
            ..message(MessageType::MsgHeartbeat)
        }
        .write_to_bytes()
        .unwrap(),
    );
    assert_eq!(
        result,
        Err(StepError::Amnesia {
            acknowledged: 6,
            last_index: 5
        })
    );
    // An append may carry a commit index beyond what it appends, and one of an old term proves nothing.
    assert_taken(&Message {
        commit: 100,
        ..append(5, 2, vec![])
    });
    assert_taken(&Message {
        term: 1,
        commit: 100,
        ..message(MessageType::MsgHeartbeat)
    });
}

/// A message of any kind with numbers that are near those of the cluster.
fn random_message(random: &mut StdRng, to: u64) -> Message {
    let near = |random: &mut StdRng| random.gen_range(0..12u64);
    let mut message = Message {
        from: random.gen_range(1..=4),
        to,
        term: random.gen_range(1..5),
        log_term: random.gen_range(0..4),
        index: near(random),
        commit: near(random),
        commit_term: random.gen_range(0..4),
        reject: random.gen_bool(0.3),
        reject_hint: near(random),
        ..Message::default()
    };
    let kind = MessageType::values()[random.gen_range(0..MessageType::values().len())];
    message.set_msg_type(kind);
    if random.gen_bool(0.2) {
        message.context = "CampaignTransfer".into();
    }
    if kind == MessageType::MsgAppend {
        let entries = random.gen_range(0..5);
        let mut term = message.log_term;
        let entries = (1..=entries).map(|offset| {
            term += u64::from(random.gen_bool(0.2));
            random_entry(random, message.index + offset, term)
        });
        let entries: Vec<Entry> = entries.collect();
        message.term = message.term.max(term);
        message.set_entries(entries.into());
    }
    if kind == MessageType::MsgSnapshot {
        message.set_snapshot(random_snapshot(random));
    }
    message
}

fn random_entry(random: &mut StdRng, index: u64, term: u64) -> Entry {
    let mut entry = entry(index, term);
    if random.gen_bool(0.3) {
        let mut change = ConfChangeV2::default();
        for _ in 0..random.gen_range(0..4) {
            let mut single = ConfChangeSingle {
                node_id: random.gen_range(1..6),
                ..ConfChangeSingle::default()
            };
            single.set_change_type(ConfChangeType::values()[random.gen_range(0..3)]);
            change.mut_changes().push(single);
        }
        entry.set_entry_type(EntryType::EntryConfChangeV2);
        entry.data = change.write_to_bytes().unwrap().into();
    }
    entry
}

fn random_snapshot(random: &mut StdRng) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = random.gen_range(0..12);
    metadata.term = random.gen_range(0..4);
    let state = metadata.mut_conf_state();
    for node in 1..6 {
        match random.gen_range(0..6) {
            0..=2 => state.mut_voters().push(node),
            3 => state.mut_learners().push(node),
            _ => {}
        }
        if random.gen_bool(0.15) {
            state.mut_voters_outgoing().push(node);
            if random.gen_bool(0.3) {
                state.mut_learners_next().push(node);
            }
        }
    }
    state.auto_leave = random.gen_bool(0.3);
    snapshot
}

/// Whatever a peer says, in whatever state it finds the core, with whatever it still has to write.
#[test]
fn no_message_makes_a_core_panic() {
    let mut taken = 0;
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut cluster = cluster();
        cluster.traces = false;
        for _ in 0..60 {
            let id = random.gen_range(1..=3);
            if cluster.core(id).failure().is_some() {
                continue;
            }
            match random.gen_range(0..10) {
                0 => cluster.with_core(id, |core| core.campaign()),
                1 => (0..20).for_each(|_| cluster.with_core(id, |core| core.tick())),
                2 => drop(cluster.persist(id)),
                3 => drop(cluster.with_core(id, |core| core.propose("x".into()))),
                _ => {
                    let message = random_message(&mut random, id);
                    let Some(from) = crate::NodeId::new(message.from) else {
                        continue;
                    };
                    let bytes = message.write_to_bytes().unwrap();
                    let taken_in = || cluster.with_core(id, |core| step(core, from, &bytes));
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(taken_in));
                    let result = result.unwrap_or_else(|_| panic!("seed {seed}: {message:?}"));
                    taken += u32::from(result.is_ok());
                }
            }
        }
    }
    assert!(taken > 2_000, "only {taken} messages got as far as Raft");
}

#[test]
fn garbage_is_refused_or_harmless() {
    let mut random = StdRng::seed_from_u64(1);
    let mut cluster = cluster();
    cluster.traces = false;
    let honest = append(5, 2, vec![entry(6, 2), entry(7, 2)])
        .write_to_bytes()
        .unwrap();
    for _ in 0..20_000 {
        let mut bytes = honest.clone();
        match random.gen_range(0..3) {
            0 => bytes.truncate(random.gen_range(0..bytes.len())),
            1 => {
                let at = random.gen_range(0..bytes.len());
                bytes[at] ^= 1 << random.gen_range(0..8);
            }
            _ => {
                bytes = (0..random.gen_range(0..80))
                    .map(|_| random.r#gen())
                    .collect()
            }
        }
        // Some are honest by chance; none panics.
        let _ = cluster.with_core(2, |core| step(core, node_id(1), &bytes));
    }
}

#[test]
fn a_snapshots_message_is_nothing_without_its_snapshot() {
    let mut message = Message {
        from: 1,
        to: 2,
        term: 2,
        ..Default::default()
    };
    message.set_msg_type(MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (50, 2);
    metadata.mut_conf_state().set_voters(vec![1, 2, 3]);
    let bytes = message.write_to_bytes().unwrap();
    let mut cluster = cluster();
    let bare = cluster.with_core(2, |core| core.step(node_id(1), &bytes));
    assert!(matches!(bare, Err(StepError::Malformed { .. })), "{bare:?}");
    let other = SnapshotMeta {
        index: 49,
        term: 2,
        ..Default::default()
    };
    let wrong = cluster.with_core(2, |core| core.step_snapshot(node_id(1), &bytes, &other));
    assert!(
        matches!(wrong, Err(StepError::Malformed { .. })),
        "{wrong:?}"
    );
    let whole = cluster.with_core(2, |core| step(core, node_id(1), &bytes));
    assert_eq!(whole, Ok(()));
}

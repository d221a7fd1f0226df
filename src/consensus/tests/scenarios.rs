//! Bugs that happened to others, as far as the consensus core prevents them: scenarios of
//! ARCHITECTURE.md's table. Each has a mutation in `.ci/mutations` that takes its guard out.

use super::cluster::{Cluster, node_id, placeholder, voters};
use super::script;
use crate::consensus::{Consensus, MembershipChange, RaftOptions, Role};
use crate::storage::{SnapshotMeta, Storage as _};

/// Nodes 1 to n, of which node 1 leads and has committed an entry of its term.
fn led_by_one(nodes: u64) -> Cluster {
    let ids: Vec<u64> = (1..=nodes).collect();
    let mut cluster = Cluster::new(voters(&ids), RaftOptions::default());
    cluster.with_core(1, |core| core.campaign());
    cluster.stabilize();
    assert_eq!(cluster.core(1).status().role, Role::Leader);
    cluster
}

fn propose(cluster: &mut Cluster, id: u64, data: &'static str) {
    cluster
        .with_core(id, |core| core.propose(data.into()))
        .unwrap();
}

/// What node `id` was told is committed, as text.
fn committed(cluster: &mut Cluster, id: u64) -> Vec<String> {
    let applied = cluster.node(id).applied.iter();
    applied
        .filter(|entry| !entry.data.is_empty() && entry.data.is_ascii())
        .map(|entry| String::from_utf8_lossy(&entry.data).into_owned())
        .collect()
}

fn cut_off(cluster: &mut Cluster, id: u64) {
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    for other in ids {
        if other != id {
            cluster.cut.extend([(id, other), (other, id)]);
        }
    }
}

#[test]
fn scenario_01_b_a_new_leader_confirms_no_barrier_before_it_has_committed_in_its_term() {
    // etcd #21375: a read index across a change of leaders, given out before the new leader knew what
    // the old one had committed.
    script::run("barrier_needs_commit.txt");
}

#[test]
fn scenario_02_a_leader_that_hands_over_leadership_confirms_no_barrier_alone() {
    // openraft #1747: a lease outlived the leadership that was being transferred, and the old leader
    // read stale data. There are no leases here: a barrier always takes a quorum.
    let mut cluster = led_by_one(3);
    cluster
        .with_core(1, |core| core.transfer_leadership(node_id(2)))
        .unwrap();
    // Node 1 tells node 2 to take over, and hears of nobody any more.
    let order = cluster.wire.pop_front().expect("word to take over");
    cut_off(&mut cluster, 1);
    cluster.cut.retain(|way| *way != (1, 2));
    cluster.deliver(order).unwrap();
    cluster.stabilize();
    propose(&mut cluster, 2, "newer");
    cluster.stabilize();
    assert_eq!(committed(&mut cluster, 2), ["newer"]);
    assert_eq!(cluster.core(1).status().role, Role::Leader);

    let _ = cluster.with_core(1, |core| core.barrier(1));
    cluster.stabilize();
    assert_eq!(cluster.node(1).barriers, [], "the past was read");
}

#[test]
fn scenario_05_a_an_entry_is_committed_by_what_is_durable_and_by_nothing_else() {
    // ZOOKEEPER-3911, -4643, -4646 and -4785: acknowledged before the sync, then a crash.
    script::run("commit_needs_durable_quorum.txt");
}

#[test]
fn scenario_05_b_a_single_node_commits_nothing_before_it_is_durable() {
    // etcd #14370: on a cluster of one a client was answered before the write was on disk, and a crash
    // took the write back.
    let mut cluster = led_by_one(1);
    cluster.node(1).slow_disk = true;
    propose(&mut cluster, 1, "write");
    cluster.stabilize();
    assert_eq!(committed(&mut cluster, 1), [""; 0]);
    cluster.node(1).slow_disk = false;
    cluster.stabilize();
    assert_eq!(committed(&mut cluster, 1), ["write"]);
}

#[test]
fn scenario_07_b_entries_that_a_snapshot_stands_for_are_not_applied_again() {
    // ZOOKEEPER-4837: a snapshot was ahead of the log that was replayed behind it, and an ephemeral that
    // its session had taken along was there again.
    let mut cluster = led_by_one(3);
    for data in ["create", "close", "later"] {
        propose(&mut cluster, 1, data);
        cluster.stabilize();
    }
    let node = cluster.node(2);
    let index = node.applied_index - 1;
    let meta = SnapshotMeta {
        index,
        term: node.store.term(index).unwrap(),
        configuration: voters(&[1, 2, 3]),
    };
    // The log from before the snapshot is kept, for slow followers.
    node.store.publish(&meta);
    cluster.crash(2);
    cluster.restart(2).unwrap();
    for _ in 0..5 {
        cluster.with_core(1, |core| core.tick());
        cluster.stabilize();
    }
    let (first, _) = cluster.node(2).store.bounds();
    assert!(first < index, "the entries are there");
    assert_eq!(committed(&mut cluster, 2), ["later"]);
}

#[test]
fn scenario_08_a_snapshot_brings_the_membership_of_its_index() {
    // openraft #1808: a node that installed a snapshot went on with the membership that it had before,
    // and two quorums had no node in common.
    let mut cluster = led_by_one(3);
    cluster.join(4);
    let changes = [
        MembershipChange::AddVoter(node_id(4)),
        MembershipChange::Remove(node_id(2)),
    ];
    cut_off(&mut cluster, 3);
    cluster
        .with_core(1, |core| core.change_membership(&changes))
        .unwrap();
    for _ in 0..20 {
        cluster.stabilize();
        cluster.with_core(1, |core| core.tick());
    }
    let wanted = voters(&[1, 3, 4]);
    assert_eq!(cluster.core(1).configuration(), wanted);
    cluster.snapshot_and_compact(1);
    propose(&mut cluster, 1, "behind the snapshot");
    cluster.stabilize();
    assert_eq!(cluster.core(3).configuration(), voters(&[1, 2, 3]));

    cluster.cut.clear();
    for _ in 0..30 {
        cluster.with_core(1, |core| core.tick());
        cluster.stabilize();
    }
    let (first, _) = cluster.node(3).store.bounds();
    assert!(first > 2, "it came by a snapshot");
    assert_eq!(cluster.core(3).configuration(), wanted);
    assert_eq!(committed(&mut cluster, 3), ["behind the snapshot"]);
}

#[test]
fn scenario_14_a_a_leader_without_a_majority_acknowledges_nothing() {
    // Redis-Raft's Jepsen report: updates acknowledged on the wrong side of a split brain were lost.
    let mut cluster = led_by_one(5);
    for (a, b) in [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] {
        cluster.cut.extend([(a, b), (b, a)]);
    }
    propose(&mut cluster, 1, "minority");
    cluster.stabilize();
    assert_eq!(committed(&mut cluster, 1), [""; 0]);
    assert_eq!(committed(&mut cluster, 2), [""; 0]);

    // The majority goes on, and what the minority wrote is overwritten by what was acknowledged.
    for id in [4, 5] {
        for _ in 0..20 {
            cluster.with_core(id, |core| core.tick());
        }
    }
    cluster.wire.clear();
    cluster.with_core(3, |core| core.campaign());
    cluster.stabilize();
    propose(&mut cluster, 3, "majority");
    cluster.stabilize();
    cluster.cut.clear();
    for _ in 0..5 {
        cluster.with_core(3, |core| core.tick());
        cluster.stabilize();
    }
    for id in 1..=5 {
        assert_eq!(committed(&mut cluster, id), ["majority"], "node {id}");
    }
}

#[test]
fn scenario_14_b_a_node_that_has_forgotten_what_it_acknowledged_stops() {
    // Redis-Raft's Jepsen report: a node came back empty, was followed, and everything was lost.
    script::run("amnesia.txt");
}

#[test]
fn scenario_16_an_entry_of_an_earlier_term_is_not_committed_by_counting_its_copies() {
    // Figure 8 of the Raft paper: an entry that a majority held was overwritten after it had counted
    // as committed.
    script::run("figure8.txt");
}

#[test]
fn scenario_18_b_over_a_bridge_a_leader_stays_and_everybody_who_hears_it_follows() {
    // Bridge partitions: two halves that only one node hears both of elected leaders in turn, through
    // the bridge, and nothing was ever agreed on.
    let mut cluster = led_by_one(5);
    for (a, b) in [(1, 4), (1, 5), (2, 4), (2, 5)] {
        cluster.cut.extend([(a, b), (b, a)]);
    }
    for _ in 0..100 {
        for id in 1..=5 {
            cluster.with_core(id, |core| core.tick());
        }
        cluster.stabilize();
        assert_eq!(cluster.core(1).status().role, Role::Leader);
    }
    propose(&mut cluster, 1, "agreed");
    cluster.stabilize();
    for id in 1..=3 {
        assert_eq!(committed(&mut cluster, id), ["agreed"], "node {id}");
    }
}

#[test]
fn scenario_18_c_a_node_that_is_not_heard_throws_no_leader_down() {
    // etcd's and Cloudflare's outages by one-way partitions: a node that heard of no leader stood for
    // election in ever newer terms, and nobody could lead for long.
    script::run("prevote.txt");
}

/// Node 2 leads. Node 3 has lost its disk and joins again; the others have yet to apply that it was removed, and
/// take it for the voter that it was: who has yet to come to know nothing of what that has promised.
fn joined_again_before_its_removal_is_applied() -> Cluster {
    let mut cluster = led_by_one(3);
    cluster.crash(3);
    cluster.join_with(3, &placeholder(&[1, 2]));
    cluster
        .with_core(1, |core| core.transfer_leadership(node_id(2)))
        .unwrap();
    cluster.stabilize();
    assert!(cluster.core(2).status().leads_with_commit);
    cluster
}

#[test]
fn scenario_19_b_who_joins_under_the_id_of_a_voter_votes_for_nobody() {
    // Found by thinking it through: it may have voted in that term before it lost its disk.
    let mut cluster = joined_again_before_its_removal_is_applied();
    cut_off(&mut cluster, 2);
    for _ in 0..100 {
        for id in [1, 3] {
            cluster.with_core(id, |core| core.tick());
        }
        cluster.stabilize();
    }
    assert_eq!(cluster.core(1).status().role, Role::Candidate);
}

#[test]
fn scenario_19_c_who_joins_under_the_id_of_a_voter_confirms_no_barrier() {
    // Found by thinking it through: before it lost its disk it may have helped a later leader into office.
    let mut cluster = joined_again_before_its_removal_is_applied();
    cut_off(&mut cluster, 1);
    let _ = cluster.with_core(2, |core| core.barrier(1));
    cluster.stabilize();
    assert_eq!(cluster.node(2).barriers, []);
}

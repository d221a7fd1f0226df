//! Who votes changes in one step, and votes are given and taken.

mod support;

use quorate::{CreateMode, Error, Members, NodeEvent, NodeId, Reconfiguration, Role};
use support::{Cluster, PATIENCE, Within, insist, node_id};

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.as_u64()).collect()
}

fn is_removed(cluster: &Cluster, id: u64) {
    let stopped = |status: &quorate::NodeStatus| status.stopped.is_some();
    let status = cluster.node(id).wait_for(PATIENCE, stopped).unwrap();
    assert_eq!(status.role, Role::Removed);
}

/// Waits until a node knows that it is a learner.
fn learns(cluster: &Cluster, id: u64) {
    let learns = |status: &quorate::NodeStatus| status.role == Role::Learner;
    cluster.node(id).wait_for(PATIENCE, learns).unwrap();
}

/// Joins these nodes and adds them as learners.
fn add_learners(cluster: &mut Cluster, added: &[u64]) {
    for &id in added {
        cluster.join(id);
        let node = cluster.node(1);
        insist(|| node.add_learner(node_id(id)).within()).unwrap();
    }
}

fn settled(members: &Members) -> (Vec<u64>, Vec<u64>) {
    assert_eq!(members.voters_outgoing, [], "{members:?}");
    (ids(&members.voters), ids(&members.learners))
}

#[test]
fn a_voter_is_replaced_in_one_step() {
    let mut cluster = Cluster::new(3);
    let old = cluster.leader();
    cluster.join(4);
    let asked = cluster.node(cluster.follower());
    let mut events = asked.events();
    insist(|| asked.add_learner(node_id(4)).within()).unwrap();
    let members = insist(|| asked.replace(node_id(old), node_id(4)).within()).unwrap();
    let mut expected = vec![1, 2, 3, 4];
    expected.retain(|&id| id != old);
    assert_eq!(settled(&members).0, expected);
    is_removed(&cluster, old);
    // On the way both majorities were needed: there was no moment with two or four voters.
    let mut joint = false;
    loop {
        match events.next_timeout(PATIENCE).unwrap().unwrap() {
            NodeEvent::MembershipChanged { members } => {
                assert_eq!(members.voters.len(), 3);
                joint |= !members.voters_outgoing.is_empty();
                if ids(&members.voters) == expected && members.voters_outgoing.is_empty() {
                    break;
                }
            }
            _ => continue,
        }
    }
    assert!(joint);
}

#[test]
fn a_voter_becomes_a_learner_that_goes_on_serving_and_gets_its_vote_back() {
    let cluster = Cluster::new(3);
    let demoted = cluster.follower();
    let node = cluster.node(demoted);
    let session = cluster.session(demoted);
    let members = insist(|| node.demote(node_id(demoted)).within()).unwrap();
    let others: Vec<u64> = (1..=3).filter(|id| *id != demoted).collect();
    assert_eq!(settled(&members), (others, vec![demoted]));
    learns(&cluster, demoted);
    let ephemeral = session.create("/here", "", CreateMode::Ephemeral);
    ephemeral.within().unwrap();
    assert!(session.exists("/here").within().unwrap().is_some());
    let members = insist(|| node.promote(node_id(demoted)).within()).unwrap();
    assert_eq!(settled(&members), (vec![1, 2, 3], vec![]));
    assert!(session.exists("/here").within().unwrap().is_some());
}

#[test]
fn a_leader_that_is_demoted_hands_over_first() {
    let cluster = Cluster::new(3);
    let leader = cluster.leader();
    let session = cluster.session(leader);
    let members = insist(|| cluster.node(leader).demote(node_id(leader)).within()).unwrap();
    assert_eq!(settled(&members).1, [leader]);
    learns(&cluster, leader);
    assert_ne!(cluster.leader(), leader);
    let create = session.create("/on", "", CreateMode::Persistent);
    create.within().unwrap();
}

#[test]
fn a_demoted_voters_silence_stops_nobody() {
    let cluster = Cluster::new(3);
    let (leader, demoted) = (cluster.leader(), cluster.follower());
    insist(|| cluster.node(leader).demote(node_id(demoted)).within()).unwrap();
    learns(&cluster, demoted);
    cluster.network.isolate(node_id(demoted));
    let session = cluster.session(leader);
    let create = session.create("/on", "", CreateMode::Persistent);
    create.within().unwrap();
    // Two voters are left, and both are needed.
    let other = 6 - leader - demoted;
    let silent = insist(|| cluster.node(leader).demote(node_id(other)).within());
    assert_eq!(settled(&silent.unwrap()).0, [leader]);
}

#[test]
fn several_changes_happen_in_one_step() {
    let mut cluster = Cluster::new(3);
    add_learners(&mut cluster, &[4, 5]);
    let asked = cluster.node(3);
    let mut events = asked.events();
    let change = Reconfiguration::new()
        .promote(node_id(4))
        .promote(node_id(5))
        .demote(node_id(1))
        .remove(node_id(2));
    let members = insist(|| asked.reconfigure(change.clone()).within()).unwrap();
    assert_eq!(settled(&members), (vec![3, 4, 5], vec![1]));
    is_removed(&cluster, 2);
    learns(&cluster, 1);
    // There was the one set of voters and the other, and nothing in between.
    let mut seen = Vec::new();
    while seen.last() != Some(&(vec![3, 4, 5], vec![])) {
        let event = events.next_timeout(PATIENCE).unwrap().expect("it goes on");
        if let NodeEvent::MembershipChanged { members } = event {
            seen.push((ids(&members.voters), ids(&members.voters_outgoing)));
        }
    }
    let (old, new) = (vec![1, 2, 3], vec![3, 4, 5]);
    seen.retain(|(voters, _)| *voters != old);
    assert_eq!(seen, [(new.clone(), old), (new, vec![])]);
    let session = cluster.session(4);
    let create = session.create("/on", "", CreateMode::Persistent);
    create.within().unwrap();
}

#[test]
fn all_voters_are_replaced_in_one_step() {
    // Nobody stays to hand leadership over to: the leader leads until both majorities have it.
    let mut cluster = Cluster::new(3);
    add_learners(&mut cluster, &[4, 5, 6]);
    let asked = cluster.node(4);
    let (new, old) = ([4, 5, 6].map(node_id), [1, 2, 3].map(node_id));
    let change = new
        .into_iter()
        .fold(Reconfiguration::new(), Reconfiguration::promote);
    let change = old.into_iter().fold(change, Reconfiguration::remove);
    let members = insist(|| asked.reconfigure(change.clone()).within()).unwrap();
    assert_eq!(settled(&members), (vec![4, 5, 6], vec![]));
    for id in 1..=3 {
        is_removed(&cluster, id);
        cluster.stop(id);
    }
    let session = cluster.session(5);
    let create = session.create("/on", "", CreateMode::Persistent);
    create.within().unwrap();
}

#[test]
fn two_that_give_their_votes_away_at_once_both_do() {
    // Each of them, leading, handed leadership over to the other.
    let cluster = Cluster::new(3);
    let leader = cluster.leader();
    let other = cluster.follower();
    let asked = [leader, other].map(|id| (id, cluster.node(id).demote(node_id(id))));
    for (id, pending) in asked {
        let mut first = Some(pending);
        insist(|| match first.take() {
            Some(pending) => pending.within(),
            None => cluster.node(id).demote(node_id(id)).within(),
        })
        .unwrap();
    }
    let third = 6 - leader - other;
    let alone = |status: &quorate::NodeStatus| status.voters == [node_id(third)];
    cluster.node(third).wait_for(PATIENCE, alone).unwrap();
}

#[test]
fn a_change_that_makes_no_sense_to_anybody_is_refused_wherever_it_is_asked_for() {
    let cluster = Cluster::new(3);
    let id = node_id;
    let new = Reconfiguration::new;
    for wrong in [
        new(),
        new().demote(id(2)).remove(id(2)),
        new().demote(id(2)).demote(id(2)),
        (100..200).fold(new(), |change, node| change.remove(id(node))),
    ] {
        for node in 1..=3 {
            let error = cluster
                .node(node)
                .reconfigure(wrong.clone())
                .within()
                .unwrap_err();
            assert!(
                matches!(error, Error::BadArguments { .. }),
                "{wrong:?}: {error:?}"
            );
        }
    }
}

#[test]
fn a_change_of_which_a_part_makes_no_sense_changes_nothing() {
    let mut cluster = Cluster::new(3);
    add_learners(&mut cluster, &[4]);
    let node = cluster.node(1);
    let id = node_id;
    let new = Reconfiguration::new;
    let refused =
        |change: Reconfiguration| insist(|| node.reconfigure(change.clone()).within()).unwrap_err();
    for wrong in [
        new().promote(id(2)),
        new().promote(id(2)).remove(id(3)),
        new().demote(id(4)).remove(id(3)),
    ] {
        let error = refused(wrong.clone());
        assert!(
            matches!(error, Error::BadArguments { .. }),
            "{wrong:?}: {error:?}"
        );
    }
    let stranger = Error::NotAMember { node: id(9) };
    for wrong in [
        new().demote(id(9)).remove(id(3)),
        new().promote(id(9)).remove(id(3)),
        new().remove(id(9)).remove(id(3)),
    ] {
        assert_eq!(refused(wrong), stranger);
    }
    let last = Error::LastVoter { node: id(1) };
    let all = new().demote(id(1)).demote(id(2)).remove(id(3));
    assert_eq!(refused(all), last);
    let status = node.status();
    assert_eq!(
        (ids(&status.voters), ids(&status.learners)),
        (vec![1, 2, 3], vec![4])
    );
}

//! Who takes part: nodes join, get a vote, lose it, and leave, while the cluster works.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::storage::StorageError;
use quorate::transport::{self, Inbox, Local, Message, Network, Transport, TransportError};
use quorate::{
    CreateMode, Error, JoinError, Members, Node, NodeEvent, Role, SessionState, StartError, Version,
};
use support::{Cluster, HoldsSnapshots, Kind, PATIENCE, Tap, Within, eventually, insist, node_id};

/// What nodes have unless told.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(200);

fn ids(nodes: &[quorate::NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.as_u64()).collect()
}

fn voters(members: &Members) -> Vec<u64> {
    assert_eq!(members.voters_outgoing, [], "{members:?}");
    ids(&members.voters)
}

/// Joins a node and gives it a vote, all asked for at node `at`.
fn add_voter(cluster: &mut Cluster, at: u64, id: u64) -> Members {
    cluster.join(id);
    let node = cluster.node(at);
    insist(|| node.add_learner(node_id(id)).within()).unwrap();
    insist(|| node.promote(node_id(id)).within()).unwrap()
}

fn is_removed(node: &Node) {
    let status = node
        .wait_for(PATIENCE, |status| status.stopped.is_some())
        .unwrap_or_else(|error| panic!("{error}: {:?}", node.status()));
    assert_eq!(status.role, Role::Removed);
}

/// Ends a thread that looks at the flag, also where the test fails before its end.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_cluster_grows_from_one_to_five_and_back_and_every_write_happens_once() {
    let mut cluster = Cluster::new(1);
    let session = cluster.session(1);
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let (done, created) = (AtomicBool::new(false), parking_lot::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let _ends = SetAtEnd(&done);
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let calls: Vec<_> = (0..8)
                    .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
                    .collect();
                for call in calls {
                    created.lock().push(call.within().unwrap().path);
                }
            }
        });
        for id in 2..=5 {
            let members = add_voter(&mut cluster, 1, id);
            assert_eq!(voters(&members), (1..=id).collect::<Vec<_>>());
        }
        for id in (2..=5).rev() {
            // Whoever leads hands over first.
            let members = insist(|| cluster.node(1).remove(node_id(id)).within()).unwrap();
            assert_eq!(voters(&members), (1..id).collect::<Vec<_>>());
            is_removed(cluster.node(id));
            cluster.stop(id);
        }
    });
    let created = created.into_inner();
    let (children, _) = session.linearizable().children("/q").within().unwrap();
    assert_eq!(children.len(), created.len());
    let mut sorted = created.clone();
    sorted.sort();
    assert_eq!(sorted, created, "a session's writes happen in order");
    assert!(created.len() > 8);
}

#[test]
fn a_joined_node_starts_again_by_the_same_code() {
    let mut cluster = Cluster::with(1, Kind::Log, |_, builder| builder);
    let session = cluster.session(1);
    session
        .create("/a", "1", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster.join(2);
    assert_eq!(cluster.node(2).cluster(), cluster.node(1).cluster());
    assert_eq!(cluster.node(2).status().role, Role::Joining);
    // Half-way: the storage is bound, nobody has added it.
    cluster.stop(2);
    cluster.start(2);
    assert_eq!(cluster.node(2).status().role, Role::Joining);
    cluster.node(1).add_learner(node_id(2)).within().unwrap();
    cluster.stop(2);
    cluster.start(2);
    let caught_up = |role| {
        let zxid = cluster.node(1).status().zxid;
        cluster
            .node(2)
            .wait_for(PATIENCE, |status| {
                status.role == role && status.zxid >= zxid
            })
            .unwrap()
    };
    let status = caught_up(Role::Learner);
    assert_eq!(ids(&status.learners), [2]);
    insist(|| cluster.node(1).promote(node_id(2)).within()).unwrap();
    let leader = cluster.leader();
    caught_up(if leader == 2 {
        Role::Leader
    } else {
        Role::Follower
    });
    cluster.stop(2);
    cluster.start(2);
    cluster.leader();
    cluster.level();
    let (data, _) = cluster.session(2).get("/a").within().unwrap();
    assert_eq!(&data[..], b"1");
}

#[test]
fn a_node_of_another_clusters_name_is_refused() {
    let mut cluster = Cluster::with(1, Kind::Memory, |id, builder| match id {
        1 => builder.cluster("ours"),
        _ => builder.cluster("theirs"),
    });
    cluster.give_empty_disk(2);
    let error = cluster.try_start(2).unwrap_err();
    assert!(
        matches!(&error, StartError::Join(JoinError::OtherName { name }) if name == "theirs"),
        "{error}"
    );
}

#[test]
fn a_join_that_nobody_answers_ends_and_leaves_no_trace() {
    let mut cluster = Cluster::with(1, Kind::Log, |_, builder| {
        builder.join_patience(Duration::from_millis(300))
    });
    cluster.network.isolate(node_id(2));
    cluster.give_empty_disk(2);
    let error = cluster.try_start(2).unwrap_err();
    assert!(
        matches!(&error, StartError::Join(JoinError::NoAnswer { peers, .. }) if *peers == [node_id(1)]),
        "{error}"
    );
    cluster.network.heal();
    cluster.start(2);
    assert_eq!(cluster.node(2).status().role, Role::Joining);
}

/// A transport that says whether it runs.
#[derive(Debug)]
struct Watched {
    inner: transport::Memory,
    runs: Arc<AtomicBool>,
}

impl Transport for Watched {
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.runs.store(true, Ordering::SeqCst);
        self.inner.start(local, inbox)
    }

    fn send(&self, message: Message) {
        self.inner.send(message);
    }

    fn stop(&self) {
        self.inner.stop();
        self.runs.store(false, Ordering::SeqCst);
    }
}

#[test]
fn a_joining_node_that_cannot_start_stops_its_transport() {
    // It had been started to ask for the cluster.
    let cluster = Cluster::new(1);
    let runs = Arc::new(AtomicBool::new(false));
    let transport = Watched {
        inner: cluster.network.endpoint(node_id(2)),
        runs: runs.clone(),
    };
    let seen = runs.clone();
    let error = Node::builder(2)
        .join([1])
        .transport(transport)
        .consensus(move |_, _| {
            assert!(seen.load(Ordering::SeqCst));
            let reason = "not today".to_string();
            Err(StorageError::Refused { reason })
        })
        .start()
        .unwrap_err();
    assert!(matches!(error, StartError::Storage(_)), "{error}");
    assert!(!runs.load(Ordering::SeqCst));
}

#[test]
fn a_node_may_be_added_before_it_is_started() {
    // It was refused, as if it had lost its disk: whoever was quick with `add_learner` had to remove it again.
    let mut cluster = Cluster::new(3);
    let here = cluster.leader();
    insist(|| cluster.node(here).add_learner(node_id(4)).within()).unwrap();
    cluster.join(4);
    let members = insist(|| cluster.node(here).promote(node_id(4)).within()).unwrap();
    assert_eq!(voters(&members), [1, 2, 3, 4]);
}

#[test]
fn a_learner_that_lost_its_disk_is_refused_as_a_voter_is() {
    let mut cluster = Cluster::new(3);
    let here = cluster.leader();
    cluster.join(4);
    insist(|| cluster.node(here).add_learner(node_id(4)).within()).unwrap();
    // What it has acknowledged is known.
    let acknowledged = |status: &quorate::NodeStatus| {
        let found = status.members.iter().find(|member| member.id == node_id(4));
        found.is_some_and(|member| member.lag == Some(0))
    };
    let leader = cluster.node(here);
    leader.wait_for(PATIENCE, acknowledged).unwrap();
    cluster.stop(4);
    cluster.give_empty_disk(4);
    let error = cluster.try_start(4).unwrap_err();
    assert!(
        matches!(&error, StartError::Join(JoinError::Member { node }) if *node == node_id(4)),
        "{error}"
    );
}

#[test]
fn a_voter_that_lost_its_disk_is_refused_until_it_is_removed() {
    // It may have voted, or acknowledged what nobody else has: back under its id it would be a second
    // node of that name.
    let mut cluster = Cluster::new(1);
    add_voter(&mut cluster, 1, 2);
    add_voter(&mut cluster, 1, 3);
    cluster.stop(3);
    cluster.give_empty_disk(3);
    let error = cluster.try_start(3).unwrap_err();
    assert!(
        matches!(&error, StartError::Join(JoinError::Member { node }) if *node == node_id(3)),
        "{error}"
    );
    insist(|| cluster.node(2).remove(node_id(3)).within()).unwrap();
    let members = add_voter(&mut cluster, 2, 3);
    assert_eq!(voters(&members), [1, 2, 3]);
}

#[test]
fn one_of_the_first_voters_comes_back_with_an_empty_disk_once_it_was_removed() {
    // The leader sent it the cluster's very first snapshot, which names it: the state of a former life. Under
    // load it never caught up.
    let mut cluster = Cluster::with(3, Kind::Log, |_, builder| builder);
    let (leader, lost) = (cluster.leader(), cluster.follower());
    let session = cluster.session(leader);
    let created = session.create("/a", "", CreateMode::Persistent);
    let created_at = created.within().unwrap().stat.czxid;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                session.set("/a", "", Version::ANY).within().unwrap();
            }
        });
        cluster.stop(lost);
        insist(|| cluster.node(leader).remove(node_id(lost)).within()).unwrap();
        cluster.no_founder(lost);
        cluster.join(lost);
        let node = cluster.node(leader);
        let added = insist(|| node.add_learner(node_id(lost)).within());
        added.unwrap();
        let caught_up = cluster.node(lost).wait_for(PATIENCE, |status| {
            status.role == Role::Learner && status.zxid > created_at
        });
        done.store(true, Ordering::SeqCst);
        caught_up.unwrap();
    });
}

#[test]
fn a_node_that_was_removed_comes_back_under_its_id_with_an_empty_disk() {
    // As before, with a later snapshot from the node's former life.
    let mut cluster = Cluster::with(1, Kind::Log, |_, builder| builder);
    for _ in 0..3 {
        let members = add_voter(&mut cluster, 1, 2);
        assert_eq!(voters(&members), [1, 2]);
        cluster.level();
        insist(|| cluster.node(1).remove(node_id(2)).within()).unwrap();
        is_removed(cluster.node(2));
        cluster.stop(2);
    }
}

#[test]
fn a_second_change_meanwhile_is_refused_and_can_be_tried_again() {
    let cluster = Cluster::new(3);
    // A learner needn't run to be added.
    let (four, five) = (node_id(4), node_id(5));
    let node = cluster.node(cluster.leader());
    eventually("two are asked for at once, and one is refused", || {
        let (first, second) = (node.add_learner(four), node.add_learner(five));
        let answers = [first.within(), second.within()];
        let refused = answers.contains(&Err(Error::ReconfigInProgress));
        for (answer, id) in answers.into_iter().zip([four, five]) {
            match answer {
                Err(Error::ReconfigInProgress) => {
                    insist(|| node.add_learner(id).within()).unwrap();
                }
                other => drop(other.unwrap()),
            }
        }
        let removed = |id| insist(|| node.remove(id).within()).unwrap().learners;
        assert_eq!(removed(four), [five]);
        assert_eq!(removed(five), []);
        refused
    });
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let mut cluster = Cluster::new(1);
    let node = cluster.node(1);
    let (one, two) = (node_id(1), node_id(2));
    let refused = |call: quorate::Pending<Members>| call.within().unwrap_err();
    assert_eq!(refused(node.remove(one)), Error::LastVoter { node: one });
    assert_eq!(refused(node.leave()), Error::LastVoter { node: one });
    assert_eq!(refused(node.remove(two)), Error::NotAMember { node: two });
    assert_eq!(refused(node.promote(two)), Error::NotAMember { node: two });
    assert_eq!(
        refused(node.transfer_leadership(two)),
        Error::NotAMember { node: two }
    );
    assert_eq!(
        refused(node.replace(one, two)),
        Error::NotAMember { node: two }
    );
    assert!(matches!(
        refused(node.add_learner(one)),
        Error::BadArguments { .. }
    ));
    assert!(matches!(
        refused(node.promote(one)),
        Error::BadArguments { .. }
    ));
    cluster.join(2);
    // It waits to be added, and knows nobody who could be asked.
    let waiting = cluster.node(2);
    for call in [waiting.leave(), waiting.add_learner(two)] {
        assert_eq!(refused(call), Error::NotAMember { node: two });
    }
    let node = cluster.node(1);
    node.add_learner(two).within().unwrap();
    assert_eq!(refused(node.remove(one)), Error::LastVoter { node: one });
    let transfer = refused(node.transfer_leadership(two));
    assert!(
        matches!(transfer, Error::BadArguments { .. }),
        "{transfer:?}"
    );
}

#[test]
fn a_voter_without_whom_the_others_have_no_majority_is_not_removed() {
    let mut cluster = Cluster::new(3);
    let (leader, gone) = (cluster.leader(), cluster.follower());
    let other = 6 - leader - gone;
    // A leader that has just begun has yet to hear from the others, and refuses nothing for their silence
    // before it has led for two election timeouts.
    std::thread::sleep(ELECTION_TIMEOUT * 3);
    cluster.stop(gone);
    let node = cluster.node(leader);
    let missed = |status: &quorate::NodeStatus| {
        let found = status
            .members
            .iter()
            .find(|member| member.id == node_id(gone));
        found.is_some_and(|member| member.is_silent == Some(true))
    };
    node.wait_for(PATIENCE, missed).unwrap();
    let silent = Error::MemberSilent {
        node: node_id(gone),
    };
    for voter in [other, leader] {
        assert_eq!(node.remove(node_id(voter)).within().unwrap_err(), silent);
    }
    insist(|| cluster.node(leader).remove(node_id(gone)).within()).unwrap();
    insist(|| cluster.node(leader).remove(node_id(other)).within()).unwrap();
    is_removed(cluster.node(other));
    let session = cluster.session(leader);
    session
        .create("/on", "", CreateMode::Persistent)
        .within()
        .unwrap();
}

#[test]
fn strangers_keep_no_member_from_being_heard() {
    let network = Network::new(2);
    let tap = Tap::new(&network, 1);
    let first = Node::builder(1).transport(tap.clone()).start().unwrap();
    let second = Node::builder(2)
        .join([1])
        .transport(network.endpoint(node_id(2)))
        .start()
        .unwrap();
    insist(|| first.add_learner(node_id(2)).within()).unwrap();
    // An empty message of the consensus core, from many who are nobody.
    network.isolate(node_id(2));
    for stranger in 1_000..4_000 {
        while !tap.inject(first.cluster(), stranger, 1, vec![0x0a, 0]) {}
    }
    let missed = |status: &quorate::NodeStatus| {
        let found = status.members.iter().find(|member| member.id == node_id(2));
        found.is_some_and(|member| member.is_silent == Some(true))
    };
    first.wait_for(PATIENCE, missed).unwrap();
    network.heal();
    insist(|| first.promote(node_id(2)).within()).unwrap();
    drop(second);
}

#[test]
fn a_learner_that_is_behind_gets_no_vote_and_says_how_far() {
    let mut cluster = Cluster::with(3, Kind::Memory, |_, builder| builder.promotion_lag_max(50));
    let session = cluster.session(1);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster.join(4);
    let four = node_id(4);
    insist(|| cluster.node(1).add_learner(four).within()).unwrap();
    let leader = cluster.node(cluster.leader());
    let has_all = |status: &quorate::NodeStatus| {
        let found = status.members.iter().find(|member| member.id == four);
        found.is_some_and(|member| member.lag == Some(0) && !member.is_voter)
    };
    leader.wait_for(PATIENCE, has_all).unwrap();
    cluster.network.isolate(four);
    for _ in 0..60 {
        session.set("/a", "", Version::ANY).within().unwrap();
    }
    let refused = cluster.node(1).promote(four).within().unwrap_err();
    let Error::LearnerBehind {
        node,
        entries,
        limit,
    } = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((node, limit), (four, 50));
    assert!((51..=200).contains(&entries), "{entries}");
    assert!(refused.is_retryable() && !refused.outcome_unknown());
    cluster.network.heal();
    let members = insist(|| cluster.node(1).promote(four).within()).unwrap();
    assert_eq!(voters(&members), [1, 2, 3, 4]);
}

#[test]
fn a_learner_that_has_nothing_yet_gets_no_vote_however_short_the_log() {
    // It lacks fewer entries than a learner may lack, and yet the cluster would wait for it: none of them
    // is of use to it before its first snapshot has come.
    let holds = Arc::new(AtomicBool::new(true));
    let flag = holds.clone();
    let network = Network::new(1);
    let mut cluster = Cluster::with(1, Kind::Memory, move |id, builder| {
        builder.transport(HoldsSnapshots {
            endpoint: network.endpoint(node_id(id)),
            holds: flag.clone(),
        })
    });
    let two = node_id(2);
    cluster.join(2);
    let node = cluster.node(1);
    insist(|| node.add_learner(two).within()).unwrap();
    let heard = |status: &quorate::NodeStatus| {
        let found = status.members.iter().find(|member| member.id == two);
        found.is_some_and(|member| member.is_silent == Some(false))
    };
    node.wait_for(PATIENCE, heard).unwrap();
    let refused = node.promote(two).within().unwrap_err();
    let Error::LearnerBehind { entries, limit, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(entries < limit, "{refused:?}");
    assert!(refused.is_retryable());
    holds.store(false, Ordering::SeqCst);
    let members = insist(|| node.promote(two).within()).unwrap();
    assert_eq!(voters(&members), [1, 2]);
}

#[test]
fn a_silent_learner_gets_no_vote_though_it_has_everything() {
    let mut cluster = Cluster::new(1);
    let two = node_id(2);
    cluster.join(2);
    let node = cluster.node(1);
    node.add_learner(two).within().unwrap();
    eventually("it has everything", || {
        let status = node.status();
        status
            .members
            .iter()
            .any(|member| member.id == two && member.lag == Some(0))
    });
    cluster.stop(2);
    let node = cluster.node(1);
    let missed = |status: &quorate::NodeStatus| {
        let found = status.members.iter().find(|member| member.id == two);
        found.is_some_and(|member| member.is_silent == Some(true))
    };
    node.wait_for(PATIENCE, missed).unwrap();
    let refused = node.promote(two).within().unwrap_err();
    assert_eq!(refused, Error::MemberSilent { node: two });
    assert!(refused.is_retryable());
}

#[test]
fn a_leader_that_is_removed_hands_over_first_and_stops_as_removed() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let watching = cluster.session(cluster.follower());
    let session = cluster.session(leader);
    let mut events = cluster.node(leader).events();
    let left = cluster.node(leader).leave().within().unwrap();
    assert!(!left.voters.contains(&node_id(leader)), "{left:?}");
    is_removed(cluster.node(leader));
    assert_eq!(session.state(), SessionState::Lost);
    assert_eq!(session.get("/").within().unwrap_err(), Error::Removed);
    assert_eq!(
        cluster.node(leader).session().open().within().unwrap_err(),
        Error::Removed
    );
    let heard: Vec<_> = events.by_ref().collect();
    assert_eq!(heard.last(), Some(&NodeEvent::Removed), "{heard:?}");
    assert!(
        heard.iter().any(|event| matches!(event,
            NodeEvent::LeaderChanged { leader: Some(now), .. } if *now != node_id(leader))),
        "{heard:?}"
    );
    cluster.stop(leader);
    cluster.leader();
    watching
        .create("/on", "", CreateMode::Persistent)
        .within()
        .unwrap();
    // Its disk remembers: it stops again.
    cluster.start(leader);
    is_removed(cluster.node(leader));
}

#[test]
fn a_node_that_was_away_when_it_was_removed_learns_of_it() {
    let cluster = Cluster::new(3);
    let (away, here) = (cluster.follower(), cluster.leader());
    cluster.network.isolate(node_id(away));
    insist(|| cluster.node(here).remove(node_id(away)).within()).unwrap();
    assert_eq!(cluster.node(away).status().stopped, None);
    cluster.network.heal();
    is_removed(cluster.node(away));
}

#[test]
fn a_learner_that_was_away_when_it_was_removed_learns_of_it() {
    // A learner asks nobody for votes, so nobody had occasion to tell it. So was a new voter that had
    // not applied its promotion yet.
    let mut cluster = Cluster::new(3);
    cluster.join(4);
    let here = cluster.leader();
    insist(|| cluster.node(here).add_learner(node_id(4)).within()).unwrap();
    let knows = |status: &quorate::NodeStatus| status.role == Role::Learner;
    cluster.node(4).wait_for(PATIENCE, knows).unwrap();
    cluster.network.isolate(node_id(4));
    insist(|| cluster.node(here).remove(node_id(4)).within()).unwrap();
    assert_eq!(cluster.node(4).status().stopped, None);
    cluster.network.heal();
    is_removed(cluster.node(4));
}

#[test]
fn leadership_goes_to_whom_it_is_handed_wherever_that_is_asked_for() {
    let cluster = Cluster::new(3);
    for _ in 0..5 {
        let (leader, other) = (cluster.leader(), cluster.follower());
        let third = (1..=3).find(|&id| id != leader && id != other).unwrap();
        insist(|| {
            cluster
                .node(third)
                .transfer_leadership(node_id(other))
                .within()
        })
        .unwrap();
        // It hears so from the new leader, which may come after the answer.
        eventually("the new leader to be known", || {
            cluster.node(third).status().leader == Some(node_id(other))
        });
    }
}

#[test]
fn every_node_tells_who_leads_by_its_status_and_its_events() {
    let cluster = Cluster::new(3);
    let (leader, next) = (cluster.leader(), cluster.follower());
    let mut events: Vec<_> = (1..=3).map(|id| cluster.node(id).events()).collect();
    let term = cluster.node(leader).status().term;
    let node = cluster.node(leader);
    insist(|| node.transfer_leadership(node_id(next)).within()).unwrap();
    for (id, events) in (1..).zip(&mut events) {
        let (heard, in_term) = loop {
            match events.next_timeout(PATIENCE).unwrap().unwrap() {
                NodeEvent::LeaderChanged { leader, term } if leader == Some(node_id(next)) => {
                    break (leader, term);
                }
                _ => continue,
            }
        };
        assert!(in_term > term);
        // Unless a machine under load has held another election since.
        let says_so = |status: &quorate::NodeStatus| {
            status.term > in_term
                || (status.leader == heard && (status.role == Role::Leader) == (id == next))
        };
        let status = cluster.node(id).wait_for(PATIENCE, says_so).unwrap();
        assert!(status.commit_index >= status.applied_index && status.applied_index > 1);
        assert_eq!(ids(&status.voters), [1, 2, 3]);
    }
}

#[test]
fn a_transfer_to_a_node_that_is_gone_fails_by_name_and_the_leader_goes_on() {
    let mut cluster = Cluster::new(3);
    let (leader, gone) = (cluster.leader(), cluster.follower());
    cluster.stop(gone);
    let refused = cluster
        .node(leader)
        .transfer_leadership(node_id(gone))
        .within()
        .unwrap_err();
    assert!(
        refused == Error::TransferFailed { to: node_id(gone) }
            || refused
                == Error::MemberSilent {
                    node: node_id(gone)
                },
        "{refused:?}"
    );
    let session = cluster.session(leader);
    session
        .create("/on", "", CreateMode::Persistent)
        .within()
        .unwrap();
}

#[test]
fn a_change_goes_on_though_its_leader_falls_in_the_middle() {
    for round in 0..4 {
        let mut cluster = Cluster::with(5, Kind::Log, |_, builder| builder);
        cluster.join(6);
        let asked = cluster.follower();
        insist(|| cluster.node(asked).add_learner(node_id(6)).within()).unwrap();
        let leader = cluster.leader();
        let old = (1..=5).find(|&id| id != leader && id != asked).unwrap();
        let mut change = loop {
            // Once it is accepted the leader falls, at another moment in each round.
            let mut call = cluster.node(asked).replace(node_id(old), node_id(6));
            match call.wait_timeout(Duration::from_micros(300 * round)) {
                Err(Error::Timeout) => break Some(call),
                Ok(_) => break None,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        };
        if cluster.leader_is(leader) {
            cluster.stop(leader);
        }
        if let Some(call) = change.take() {
            let members = match call.within() {
                Ok(members) => members,
                Err(error) if error.is_retryable() => insist(|| {
                    cluster
                        .node(asked)
                        .replace(node_id(old), node_id(6))
                        .within()
                })
                .unwrap(),
                Err(error) => panic!("{error:?}"),
            };
            assert!(voters(&members).contains(&6), "{members:?}");
            assert!(!voters(&members).contains(&old), "{members:?}");
        }
        is_removed(cluster.node(old));
        let session = cluster.session(asked);
        session
            .create("/on", "", CreateMode::Persistent)
            .within()
            .unwrap();
    }
}

#[test]
fn a_node_that_was_told_of_one_other_learns_who_all_the_voters_are() {
    // It must not take the nodes that it was told of for the configuration that the log begins with: a
    // majority of those could be disjoint from a real one (openraft #1808). The whole log is still there,
    // and yet it gets a snapshot, which carries the configuration.
    let mut cluster = Cluster::with(3, Kind::Memory, |id, builder| match id {
        4 => builder.join([2]),
        _ => builder,
    });
    cluster.join(4);
    let mut events = cluster.node(4).events();
    insist(|| cluster.node(1).add_learner(node_id(4)).within()).unwrap();
    let known = |status: &quorate::NodeStatus| ids(&status.learners) == [4];
    let status = cluster.node(4).wait_for(PATIENCE, known).unwrap();
    assert_eq!(ids(&status.voters), [1, 2, 3]);
    insist(|| cluster.node(1).promote(node_id(4)).within()).unwrap();
    let known = |status: &quorate::NodeStatus| ids(&status.voters) == [1, 2, 3, 4];
    cluster.node(4).wait_for(PATIENCE, known).unwrap();
    let heard: Vec<_> = std::iter::from_fn(|| events.next_timeout(PATIENCE).unwrap())
        .take_while(|event| {
            !matches!(event, NodeEvent::MembershipChanged { members } if members.voters.len() == 4)
        })
        .collect();
    let installed = |event: &NodeEvent| matches!(event, NodeEvent::SnapshotInstalled { .. });
    assert!(heard.iter().any(installed), "{heard:?}");
}

#[test]
fn a_status_counts_what_there_is() {
    let cluster = Cluster::new(3);
    let leader = cluster.node(cluster.leader());
    let follower = cluster.node(cluster.follower());
    let session = cluster.session(cluster.follower());
    let before = follower.status();
    let created = session
        .create("/data", vec![1; 1_000], CreateMode::Persistent)
        .within()
        .unwrap();
    let zxid = created.stat.czxid;
    let caught_up = |status: &quorate::NodeStatus| {
        let lags = status.members.iter().map(|member| member.lag);
        status.zxid >= zxid && lags.eq([Some(0); 3])
    };
    let status = leader.wait_for(PATIENCE, caught_up).unwrap();
    assert_eq!(status.znodes, before.znodes + 1);
    assert_eq!(
        status.data_bytes,
        before.data_bytes + "/data".len() as u64 + 1_000
    );
    assert_eq!((status.sessions, status.sessions_attached), (1, 0));
    assert!(status.members.iter().all(|member| member.is_voter));
    assert!(!status.is_joint);
    let status = follower
        .wait_for(PATIENCE, |status| status.zxid >= zxid)
        .unwrap();
    assert_eq!((status.sessions, status.sessions_attached), (1, 1));
    assert_eq!(status.queues.requests, 0);
    // Only a leader knows how far the others are.
    assert!(status.members.iter().all(|member| member.lag.is_none()));
    assert_eq!(status.members.len(), 3);
}

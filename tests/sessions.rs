//! Sessions on whole nodes: how they begin, go on elsewhere, and end.

mod support;

use std::time::Duration;

use quorate::transport::Faults;
use quorate::{
    Acl, AuthId, CreateMode, Credentials, Error, Event, Node, Permissions, Session, SessionId,
    SessionState, Version,
};
use support::{Cluster, Kind, PATIENCE, TestClock, Within, eventually, next, node_id};

const SECOND: Duration = Duration::from_secs(1);

/// A timeout that ends within a test, but is longer than an election.
const SHORT: Duration = Duration::from_millis(1_500);

fn is_there(session: &Session, path: &str) -> bool {
    session
        .linearizable()
        .exists(path)
        .within()
        .unwrap()
        .is_some()
}

fn attach(cluster: &Cluster, id: u64, credentials: &Credentials) -> quorate::Result<Session> {
    cluster
        .node(id)
        .session()
        .timeout(Duration::from_secs(60))
        .attach(credentials)
        .within()
}

fn final_state(session: &Session) -> SessionState {
    eventually("the session's end", || session.state().is_final());
    session.state()
}

#[test]
fn session_is_clone_send_and_sync() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<Session>();
}

#[test]
fn closing_a_session_takes_its_ephemerals_in_the_same_write() {
    let cluster = Cluster::new(3);
    let watching = cluster.session(1);
    let session = cluster.session(2);
    session
        .create("/a", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    session
        .create("/b", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    session.close().within().unwrap();
    assert!(!is_there(&watching, "/a") && !is_there(&watching, "/b"));
}

#[test]
fn a_closed_session_says_that_it_was_closed_and_takes_no_more_calls() {
    // It said `Lost`, as if it had expired.
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let mut watcher = session.watcher(8);
    let (id, close) = (session.id(), session.close());
    let late = session.create("/late", "", CreateMode::Persistent);
    close.within().unwrap();
    assert_eq!(session.state(), SessionState::Closed);
    assert!(!session.is_certain());
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Closed));
    assert_eq!(late.within(), Err(Error::SessionExpired { session: id }));
    assert_eq!(
        session.get("/").within().unwrap_err(),
        Error::SessionExpired { session: id }
    );
    assert_eq!(
        session.close().within(),
        Err(Error::SessionExpired { session: id })
    );
    assert!(!is_there(&cluster.session(1), "/late"));
}

#[test]
fn dropping_the_last_handle_closes_the_session_and_not_the_last_but_one() {
    let cluster = Cluster::new(3);
    let watching = cluster.session(1);
    let session = cluster.session(2);
    let (clone, linearizable) = (session.clone(), session.linearizable());
    session
        .create("/a", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    drop(session);
    drop(clone);
    linearizable.sync().within().unwrap();
    assert!(is_there(&watching, "/a"));
    drop(linearizable);
    eventually("the ephemeral is gone", || !is_there(&watching, "/a"));
}

#[test]
fn dropping_the_last_handle_closes_the_session_though_its_writes_are_at_their_limit() {
    // The close was refused as one write too many, and the node kept the session alive for ever.
    let cluster = Cluster::with(3, Kind::Memory, |_, builder| {
        builder.session_writes_max(4).requests_max(4)
    });
    let watching = cluster.session(1);
    for round in 0..20 {
        let session = cluster.session(2);
        let path = format!("/e-{round}");
        session
            .create(&path, "", CreateMode::Ephemeral)
            .within()
            .unwrap();
        for _ in 0..16 {
            drop(session.set(&path, "x", Version::ANY));
        }
        drop(session);
        eventually("the ephemeral is gone", || !is_there(&watching, &path));
    }
    eventually("node 2 has no session", || {
        cluster.node(2).status().sessions_attached == 0
    });
}

#[test]
fn a_session_that_nobody_waits_for_is_closed() {
    // Its node kept it alive, though no handle to it was ever made.
    let cluster = Cluster::new(1);
    let watching = cluster.session(1);
    for _ in 0..20 {
        drop(cluster.node(1).session().open());
    }
    // Opened after them.
    let _last = cluster.session(1);
    watching.sync().within().unwrap();
    eventually("two sessions are left", || {
        cluster.node(1).status().sessions_attached == 2
    });
}

#[test]
fn a_host_kept_session_whose_answer_nobody_takes_is_closed() {
    // Nobody can have its credentials, but it was left to its silence.
    let cluster = Cluster::new(1);
    let _watching = cluster.session(1);
    let builder = cluster.node(1).session().timeout(SECOND * 60);
    let untaken = builder.touched_by_host().open();
    eventually("it is open", || cluster.node(1).status().sessions == 2);
    drop(untaken);
    eventually("one session is left", || {
        cluster.node(1).status().sessions == 1
    });
}

#[test]
fn an_attach_whose_answer_nobody_takes_leaves_the_session_to_be_attached() {
    // It was closed, though its client had only lost patience with one node.
    let cluster = Cluster::new(1);
    let watching = cluster.session(1);
    let session = cluster.session(1);
    let credentials = session.credentials();
    session
        .create("/mine", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let untaken = cluster.node(1).session().attach(&credentials);
    assert_eq!(final_state(&session), SessionState::Moved);
    drop(untaken);
    eventually("nobody has it here", || {
        cluster.node(1).status().sessions_attached == 1
    });
    let again = attach(&cluster, 1, &credentials).unwrap();
    assert!(is_there(&watching, "/mine"));
    assert_eq!(again.state(), SessionState::Connected);
}

#[test]
fn a_node_without_a_leader_asks_for_no_session_that_nobody_waits_for() {
    // When a leader was there again each try of a client that had gone on made a session.
    let cluster = Cluster::new(3);
    let away = cluster.follower();
    let home = cluster.leader();
    let watching = cluster.session(home);
    watching.sync().within().unwrap();
    cluster.network.isolate(node_id(away));
    eventually("it knows no leader", || {
        cluster.node(away).status().leader.is_none()
    });
    for _ in 0..20 {
        drop(cluster.node(away).session().open());
    }
    eventually("they are given up", || {
        cluster.node(away).status().queues.calls == 0
            && cluster.node(away).status().queues.requests == 0
    });
    cluster.network.heal();
    let last = cluster.session(away);
    last.linearizable().sync().within().unwrap();
    assert_eq!(cluster.node(away).status().sessions, 2);
}

#[test]
fn ephemerals_vanish_some_time_after_their_node_fell_silent_and_others_stay() {
    let mut cluster = Cluster::new(3);
    let leader = cluster.leader();
    let (silent, home) = (leader % 3 + 1, leader);
    let watching = cluster.session(home);
    let session = cluster.session_of(silent, SHORT);
    session
        .create("/dies", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    session
        .create("/stays", "", CreateMode::Persistent)
        .within()
        .unwrap();
    watching
        .create("/lives", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    cluster.stop(silent);
    assert!(is_there(&watching, "/dies"), "it has its whole timeout");
    eventually("the ephemeral is gone", || !is_there(&watching, "/dies"));
    assert!(is_there(&watching, "/stays") && is_there(&watching, "/lives"));
}

#[test]
fn a_live_session_is_kept_through_leader_changes_for_longer_than_its_timeout() {
    let mut cluster = Cluster::new(3);
    let home = cluster.follower();
    let session = cluster.session_of(home, SHORT);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    for _ in 0..2 {
        let leader = cluster.leader();
        if leader != home {
            cluster.stop(leader);
            cluster.leader();
            cluster.start(leader);
        }
        let lost = session.wait_while(SessionState::Connected, SHORT);
        assert!(!lost.is_final(), "{lost:?}");
    }
    assert!(is_there(&session, "/e"));
}

#[test]
fn a_session_with_a_short_timeout_is_kept_beside_one_with_a_long_timeout() {
    // The next touch was planned by the timeouts known when the last one was sent: a session that
    // came between, with a shorter timeout, was expired though its node was well.
    let cluster = Cluster::new(1);
    let _long = cluster.session(1);
    let _ = cluster.session(1).sync().within();
    let session = cluster.session_of(1, SECOND);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let state = session.wait_while(SessionState::Connected, SECOND * 3);
    assert_eq!(state, SessionState::Connected);
    assert!(session.is_certain() && is_there(&session, "/e"));
}

#[test]
fn timeouts_are_clamped_to_the_clusters_limits() {
    let cluster = Cluster::new(1);
    assert_eq!(
        cluster.session_of(1, Duration::ZERO).timeout(),
        Duration::from_millis(200)
    );
    assert_eq!(
        cluster.session_of(1, Duration::MAX).timeout(),
        Duration::from_secs(60)
    );
}

#[test]
fn a_session_goes_on_at_another_node_with_its_ephemerals_and_its_sequence() {
    let cluster = Cluster::new(3);
    let session = cluster.session(1);
    let mut watcher = session.watcher(8);
    session
        .create("/e", "1", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let moved = attach(&cluster, 2, &session.credentials()).unwrap();
    assert_eq!(moved.id(), session.id());
    assert_eq!(final_state(&session), SessionState::Moved);
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Moved));
    assert_eq!(watcher.next(), None);
    assert!(!session.is_certain() && moved.is_certain());
    let refused = session.set("/e", "2", Version::ANY).within();
    assert_eq!(
        refused,
        Err(Error::SessionMoved {
            session: session.id()
        })
    );
    let (data, stat) = moved.get("/e").within().unwrap();
    assert_eq!((&data[..], stat.ephemeral_owner), (&b"1"[..], session.id()));
    for version in 0..5 {
        moved.set("/e", "3", Version(version)).within().unwrap();
    }
    assert_eq!(moved.ephemerals("/").within().unwrap().len(), 1);
    drop(session);
    assert!(
        is_there(&moved, "/e"),
        "the old handle's end is nothing to the session"
    );
}

#[test]
fn a_session_can_be_attached_again_at_its_own_node() {
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let session = cluster.session(home);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let again = attach(&cluster, home, &session.credentials()).unwrap();
    assert_eq!(final_state(&session), SessionState::Moved);
    drop(session);
    again.set("/e", "x", Version(0)).within().unwrap();
    assert_eq!(again.state(), SessionState::Connected);
}

#[test]
fn of_two_attaches_at_once_one_has_the_session() {
    // The first attach to be applied answered the second call, whose own attach then moved the
    // session away from everybody.
    let cluster = Cluster::new(3);
    for home in 1..=3 {
        let session = cluster.session(home);
        let credentials = session.credentials();
        let timeout = Duration::from_secs(60);
        // So slow that each call is taken before the first is answered.
        let slow = Duration::from_millis(20);
        cluster
            .network
            .set_faults(Faults::default().delay(slow, slow));
        let calls: Vec<_> = (0..8)
            .map(|_| {
                let mut call = cluster
                    .node(home)
                    .session()
                    .timeout(timeout)
                    .attach(&credentials);
                let _ = call.wait_timeout(Duration::from_millis(1));
                call
            })
            .collect();
        cluster.network.heal();
        let mut handles = Vec::new();
        for call in calls {
            match call.within() {
                Ok(handle) => handles.push(handle),
                Err(error) => assert_eq!(
                    error,
                    Error::SessionMoved {
                        session: session.id()
                    }
                ),
            }
        }
        // What was held back may be overtaken when the network heals.
        handles.sort_by_key(|handle| handle.attachment());
        let last = handles.pop().expect("one that has it");
        let path = format!("/at-{home}");
        last.create(&path, "", CreateMode::Ephemeral)
            .within()
            .unwrap();
        assert_eq!(last.state(), SessionState::Connected);
        for handle in handles {
            assert_eq!(final_state(&handle), SessionState::Moved);
        }
    }
}

#[test]
fn writes_of_the_old_handle_happened_before_the_move_or_not_at_all() {
    let cluster = Cluster::new(3);
    let session = cluster.session(cluster.follower());
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let writes: Vec<_> = (0..300)
        .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
        .collect();
    let moved = attach(&cluster, cluster.leader(), &session.credentials()).unwrap();
    let (before, _) = moved.linearizable().children("/q").within().unwrap();
    let mut done = 0;
    for write in writes {
        match write.within() {
            Ok(_) => done += 1,
            Err(error) => assert_eq!(
                error,
                Error::SessionMoved {
                    session: session.id()
                }
            ),
        }
    }
    assert_eq!(before.len(), done);
    assert_eq!(
        moved
            .linearizable()
            .children("/q")
            .within()
            .unwrap()
            .0
            .len(),
        done
    );
}

#[test]
fn a_wrong_password_an_unknown_session_and_a_closed_one_cannot_be_attached() {
    let cluster = Cluster::new(3);
    let session = cluster.session(1);
    let right = session.credentials();
    let mut wrong = right.clone();
    wrong.password[15] ^= 1;
    let id = session.id();
    assert_eq!(
        attach(&cluster, 2, &wrong).unwrap_err(),
        Error::WrongPassword { session: id }
    );
    assert_eq!(session.state(), SessionState::Connected);
    session.sync().within().unwrap();
    for unknown in [SessionId(i64::MAX), SessionId(-1), SessionId::NONE] {
        let credentials = Credentials {
            session: unknown,
            password: right.password,
        };
        let refused = attach(&cluster, 2, &credentials).unwrap_err();
        assert_eq!(refused, Error::SessionExpired { session: unknown });
    }
    session.close().within().unwrap();
    assert_eq!(
        attach(&cluster, 2, &right).unwrap_err(),
        Error::SessionExpired { session: id }
    );
}

#[test]
fn an_expired_session_cannot_be_attached() {
    let mut cluster = Cluster::new(3);
    let silent = cluster.follower();
    let session = cluster.session_of(silent, SHORT);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let credentials = session.credentials();
    cluster.stop(silent);
    let watching = cluster.session(cluster.leader());
    eventually("it has expired", || !is_there(&watching, "/e"));
    let refused = attach(&cluster, cluster.leader(), &credentials).unwrap_err();
    assert_eq!(
        refused,
        Error::SessionExpired {
            session: credentials.session
        }
    );
}

#[test]
fn a_session_outlives_its_node_and_is_attached_elsewhere_in_time() {
    let mut cluster = Cluster::new(3);
    let home = cluster.follower();
    let session = cluster.session(home);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let credentials = session.credentials();
    cluster.stop(home);
    drop(session);
    let moved = attach(&cluster, cluster.leader(), &credentials).unwrap();
    moved.set("/e", "x", Version(0)).within().unwrap();
}

#[test]
fn credentials_do_not_print_their_password() {
    let credentials = Credentials {
        session: SessionId(1),
        password: [171; 16],
    };
    assert!(!format!("{credentials:?}").contains("171"));
}

#[test]
fn a_session_that_reaches_no_leader_is_suspended_then_lost_and_the_cluster_ends_it_later() {
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let others: Vec<u64> = (1..=3).filter(|&id| id != home).collect();
    let session = cluster.session_of(home, SHORT);
    let mut watcher = session.watcher(16);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    cluster.network.isolate(node_id(home));
    let unsent = session.set("/e", "x", Version::ANY);
    assert_eq!(
        session.wait_while(SessionState::Connected, PATIENCE),
        SessionState::Suspended
    );
    assert_eq!(final_state(&session), SessionState::Lost);
    assert!(!session.is_certain());
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Suspended));
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Lost));
    assert!(unsent.within().unwrap_err().outcome_unknown());
    let refused = session.get("/e").within().unwrap_err();
    assert_eq!(
        refused,
        Error::SessionExpired {
            session: session.id()
        }
    );
    let watching = cluster.session(cluster.leader_among(&others));
    eventually("the cluster has ended it", || !is_there(&watching, "/e"));
}

#[test]
fn a_session_is_never_certain_once_the_cluster_has_given_its_znodes_away() {
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let others: Vec<u64> = (1..=3).filter(|&id| id != home).collect();
    let session = cluster.session_of(home, SHORT);
    session
        .create("/lock", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    cluster.network.isolate(node_id(home));
    let rival = cluster.session(cluster.leader_among(&others));
    eventually("the rival has the lock", || {
        rival
            .create("/lock", "", CreateMode::Ephemeral)
            .within()
            .is_ok()
    });
    assert!(!session.is_certain(), "two hold the lock");
}

#[test]
fn a_suspended_session_is_connected_again_when_the_leader_is_back_in_time() {
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let session = cluster.session(home);
    let mut watcher = session.watcher(16);
    cluster.network.isolate(node_id(home));
    let write = session.create("/late", "", CreateMode::Ephemeral);
    assert_eq!(
        session.wait_while(SessionState::Connected, PATIENCE),
        SessionState::Suspended
    );
    assert!(session.is_certain(), "it has most of its timeout left");
    cluster.network.heal();
    assert_eq!(
        session.wait_while(SessionState::Suspended, PATIENCE),
        SessionState::Connected
    );
    write.within().unwrap();
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Suspended));
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Connected));
}

#[test]
fn a_leader_that_was_stalled_expires_nobody() {
    // etcd #15247: the leader was stopped past every deadline, and expired all at once on waking.
    let clock = TestClock::new();
    let leaders = clock.clone();
    let cluster = Cluster::with(3, Kind::Memory, move |id, builder| match id {
        1 => builder.clock(leaders.clone()),
        _ => builder,
    });
    if cluster.leader() != 1 {
        eventually("node 1 leads", || {
            drop(
                cluster
                    .node(cluster.leader())
                    .transfer_leadership(node_id(1)),
            );
            cluster.leader() == 1
        });
    }
    let session = cluster.session_of(2, Duration::from_secs(5));
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    for _ in 0..5 {
        clock.stall(Duration::from_secs(3600));
        session.linearizable().get("/e").within().unwrap();
    }
    let state = session.wait_while(SessionState::Connected, SECOND / 2);
    assert!(!state.is_final(), "{state:?}");
    assert!(is_there(&session, "/e"));
}

#[test]
fn a_node_whose_clock_has_jumped_ahead_calls_its_own_sessions_lost() {
    let clock = TestClock::new();
    let followers = clock.clone();
    let cluster = Cluster::with(1, Kind::Memory, move |_, builder| {
        builder.clock(followers.clone())
    });
    let session = cluster.session_of(1, Duration::from_secs(30));
    assert!(session.is_certain());
    clock.stall(Duration::from_secs(31));
    assert!(
        !session.is_certain(),
        "at once, without waiting for the loop"
    );
    assert_eq!(final_state(&session), SessionState::Lost);
}

#[test]
fn a_wall_clock_that_jumps_to_and_fro_harms_nothing() {
    let clock = TestClock::new();
    let all = clock.clone();
    let cluster = Cluster::with(3, Kind::Memory, move |_, builder| {
        builder.clock(all.clone())
    });
    let session = cluster.session_of(cluster.follower(), Duration::from_secs(5));
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    for (version, jump) in [
        i64::from(u32::MAX),
        -3 * i64::from(u32::MAX),
        1 << 50,
        -(1 << 51),
    ]
    .into_iter()
    .enumerate()
    {
        clock.jump(jump);
        session
            .set("/e", "x", Version(version as i32))
            .within()
            .unwrap();
        session.linearizable().get("/e").within().unwrap();
    }
    assert_eq!(session.state(), SessionState::Connected);
}

#[test]
fn identities_open_what_an_acl_closes_and_stay_when_the_session_moves() {
    let cluster = Cluster::new(3);
    let owner = cluster.session(1);
    let stranger = cluster.session(2);
    let me = AuthId::digest("me", "secret");
    let acl = [Acl::new(Permissions::ALL, me.clone())];
    owner
        .create_with_acl("/mine", "1", CreateMode::Persistent, &acl)
        .within()
        .unwrap();
    let refused = owner.get("/mine").within().unwrap_err();
    assert!(matches!(refused, Error::NoAuth { .. }), "{refused:?}");
    owner.add_auth(me.clone()).within().unwrap();
    owner.get("/mine").within().unwrap();
    let refused = stranger
        .set("/mine", "2", Version::ANY)
        .within()
        .unwrap_err();
    assert!(matches!(refused, Error::NoAuth { .. }), "{refused:?}");

    let moved = attach(&cluster, 3, &owner.credentials()).unwrap();
    moved.set("/mine", "3", Version(0)).within().unwrap();
    moved
        .create_with_acl("/also", "", CreateMode::Persistent, &Acl::creator_all())
        .within()
        .unwrap();
    assert_eq!(moved.acl("/also").within().unwrap().0, acl);
    moved
        .set_acl("/mine", &Acl::read_only(), Version(0))
        .within()
        .unwrap();
    let (data, _) = stranger.linearizable().get("/mine").within().unwrap();
    assert_eq!(&data[..], b"3");
}

#[test]
fn a_handle_that_comes_after_its_session_has_expired_says_that_it_is_lost() {
    // A node that was away applied the opening and the expiry in one turn, and the handle stayed
    // connected to nothing.
    let cluster = Cluster::new(3);
    let home = cluster.follower();
    let others: Vec<u64> = (1..=3).filter(|&id| id != home).collect();
    let leader = cluster.leader();
    let watching = cluster.session(leader);
    let before = watching
        .create("/before", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster
        .node(home)
        .wait_for(PATIENCE, |status| status.zxid >= before.stat.czxid)
        .unwrap();
    // What it sends arrives, but it hears nothing.
    for &id in &others {
        cluster.network.cut(node_id(id), node_id(home));
    }
    let opening = cluster
        .node(home)
        .session()
        .timeout(Duration::from_millis(200))
        .open();
    cluster
        .node(leader)
        .wait_for(PATIENCE, |status| status.zxid > before.stat.czxid)
        .unwrap();
    cluster.network.isolate(node_id(home));
    // Behind whatever else has come from there, only the expiry is left to come.
    let after = watching
        .create("/after", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster
        .node(leader)
        .wait_for(PATIENCE, |status| status.zxid > after.stat.czxid)
        .unwrap();
    cluster.network.heal();
    let session = opening.within().unwrap();
    assert_eq!(final_state(&session), SessionState::Lost);
    assert!(!session.is_certain());
    assert!(
        session
            .create("/late", "", CreateMode::Persistent)
            .within()
            .is_err()
    );
}

#[test]
fn opening_waits_for_a_leader_and_is_answered_when_there_is_one() {
    let network = quorate::transport::Network::new(1);
    let start = |id| {
        Node::builder(id)
            .voters([1, 2])
            .transport(network.endpoint(node_id(id)))
            .start()
            .unwrap()
    };
    let one = start(1);
    let mut opening = one.session().open();
    assert!(matches!(
        opening.wait_timeout(SECOND / 10),
        Err(Error::Timeout)
    ));
    let _two = start(2);
    let session = opening.within().unwrap();
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
}

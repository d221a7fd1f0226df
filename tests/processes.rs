//! Clusters of real processes over TCP on this machine: killed, stopped and continued, with a disk wiped,
//! growing and shrinking, encrypted, and cut off from each other.
//!
//! Every process works all the time: numbered writes in sessions of its own, and a lock that all contend for.
//! A node without a vote in the test's own process serves clients that record what they see. After each story
//! `judge` and the oracles say whether everything promised was kept. How long writes stood still is told, and
//! never judged.

mod certificates;
#[path = "processes/child.rs"]
mod child;
#[path = "processes/clients.rs"]
mod clients;
#[path = "processes/ensemble.rs"]
mod ensemble;
#[path = "processes/judge.rs"]
mod judge;
#[path = "processes/namespaces.rs"]
mod namespaces;
#[path = "processes/process.rs"]
mod process;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use certificates::Authority;
use clients::{Clients, Within as _};
use ensemble::{Ensemble, Options, eventually};
use namespaces::Namespaces;
use process::{HoldLine, Order, PATIENCE, report};
use quorate::recipes::Lock;
use quorate::{Node, Version};
use rustix::process::Signal;

/// As the child of another test: a process of a cluster. By itself it shows that an order arrives as it was
/// given.
#[test]
fn a_process_of_a_cluster() {
    if let Ok(order) = std::env::var(child::VARIABLE) {
        return child::run(&Order::decode(&order));
    }
    for tls in [None, Some("/certificates of/1".into())] {
        let order = Order {
            id: 4,
            boot: 7,
            first: vec![1, 2, 3],
            join: true,
            join_patience: Duration::from_millis(1_234),
            dir: "/a directory/node-4".into(),
            listen: "127.0.0.1:0".to_owned(),
            session_timeout: Duration::from_secs(4),
            tls,
        };
        assert_eq!(Order::decode(&order.encode()), order);
    }
}

/// One story at a time: each has more processes than the machine has processors.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long it takes from now until a write through this node is acknowledged.
fn until_a_write(node: &Node) -> Duration {
    let began = Instant::now();
    let session = node.session().open().within().expect("a session");
    let write = session.set("/protected", "a probe", Version::ANY);
    write.within().expect("a write");
    began.elapsed()
}

fn others(ensemble: &Ensemble, id: u64) -> Vec<u64> {
    let mut others = ensemble.running();
    others.retain(|other| *other != id);
    others
}

#[test]
fn ten_leaders_are_killed_under_load_and_nothing_is_lost_or_doubled() {
    let _turn = alone();
    let options = Options {
        // Short, so that the locks of those that were killed are taken over meanwhile.
        session_timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let mut ensemble = Ensemble::start(3, options);
    let observer = ensemble.observe();
    Clients::meanwhile(&observer, || {
        let mut gaps = Vec::new();
        for _ in 0..10 {
            ensemble.progress(&ensemble.running(), 20);
            let leader = ensemble.leader();
            ensemble.kill(leader);
            gaps.push(until_a_write(&observer));
            ensemble.progress(&ensemble.running(), 20);
            ensemble.restart(leader);
            ensemble.lock_is_taken();
        }
        ensemble.progress(&ensemble.running(), 20);
        gaps.sort();
        report(format_args!("leader killed: writes resumed after {gaps:?}"));
    });
    judge::judge(&mut ensemble);
}

#[test]
fn a_process_that_was_stopped_wakes_up_without_its_lock_and_its_session() {
    let _turn = alone();
    let options = Options {
        session_timeout: Duration::from_millis(1_500),
        ..Options::default()
    };
    let mut ensemble = Ensemble::start(3, options);
    let observer = ensemble.observe();
    let mut holds = Vec::new();
    let leader = ensemble.leader();
    // One that follows, and the one that leads.
    for stopped in [others(&ensemble, leader)[0], leader] {
        let awake = others(&ensemble, stopped);
        ensemble.progress(&ensemble.running(), 20);
        let lock = format!("/locks/of-{stopped}");
        ensemble.tell(stopped, &format!("hold {lock}"));
        ensemble
            .process(stopped)
            .until("it holds the lock", |heard| heard.looks_at(&lock) > 50);
        let writer = ensemble
            .process(stopped)
            .heard(|heard| heard.authors.last().cloned());
        let live = format!("/live/{}", writer.expect("it writes").0);

        ensemble.signal(stopped, Signal::STOP);
        report(format_args!(
            "stopped: writes resumed after {:?}",
            until_a_write(&observer)
        ));
        // The lock is given to somebody else when the session has ended, not before.
        let session = observer.session().open().within().expect("a session");
        let guard = Lock::new(&session, &lock)
            .acquire()
            .wait_timeout(PATIENCE)
            .expect("the lock");
        let (path, token) = (guard.path(), guard.fencing_token().as_u64());
        let lock_of_path = path[..path.rfind('/').expect("a path")].to_owned();
        holds.push(HoldLine::Acquired {
            lock: lock_of_path,
            token,
            at: child::machine_time(),
        });
        eventually("its ephemeral is gone", || {
            let found = session.linearizable().exists(&live).within();
            found.expect("an answer").is_none()
        });
        ensemble.progress(&awake, 20);

        ensemble.signal(stopped, Signal::CONT);
        ensemble
            .process(stopped)
            .until("it knows what it has lost", |heard| {
                heard.holder_refused.is_some()
            });
        ensemble.process(stopped).heard(|heard| {
            assert_eq!(heard.holder_state.as_deref(), Some("Lost"));
            assert_eq!(
                heard.holder_refused,
                Some(true),
                "a stale holder has written"
            );
        });
        let look = HoldLine::Look {
            token,
            is_held: guard.is_held(),
            at: child::machine_time(),
        };
        holds.push(look);
        guard
            .release()
            .wait_timeout(PATIENCE)
            .expect("the lock released");
        ensemble
            .process(stopped)
            .until("it takes the lock again", |heard| heard.holder_back);
        // And works on, in a session of its own.
        ensemble.progress(&[stopped], 20);
        let writer = ensemble
            .process(stopped)
            .heard(|heard| heard.authors.last().cloned());
        assert_ne!(format!("/live/{}", writer.expect("it writes").0), live);
    }
    judge::judge_with(&mut ensemble, holds);
}

#[test]
fn a_node_whose_directory_was_wiped_is_let_in_again_once_it_was_removed() {
    let _turn = alone();
    let mut ensemble = Ensemble::start(3, Options::default());
    let observer = ensemble.observe();
    Clients::meanwhile(&observer, || {
        ensemble.progress(&ensemble.running(), 50);
        let leader = ensemble.leader();
        let wiped = others(&ensemble, leader)[0];
        ensemble.kill(wiped);
        std::fs::remove_dir_all(ensemble.directory_of(wiped)).expect("a directory to wipe");
        // It may have voted, or acknowledged what few others have.
        let reason = ensemble.is_refused(wiped, PATIENCE);
        assert!(reason.contains("remove it first"), "{reason}");
        ensemble.progress(&ensemble.running(), 20);
        ensemble.ask(leader, "remove", wiped);
        ensemble.join(wiped, leader);
        ensemble.progress(&ensemble.running(), 50);
        // It counts: with it, and without the one that led, there is a majority.
        ensemble.kill(leader);
        report(format_args!(
            "leader killed: writes resumed after {:?}",
            until_a_write(&observer)
        ));
        ensemble.progress(&ensemble.running(), 20);
        ensemble.restart(leader);
        ensemble.progress(&ensemble.running(), 20);
    });
    judge::judge(&mut ensemble);
}

#[test]
fn the_cluster_grows_from_one_to_five_and_back_under_load() {
    let _turn = alone();
    let mut ensemble = Ensemble::start(1, Options::default());
    let observer = ensemble.observe();
    Clients::meanwhile(&observer, || {
        for id in 2..=5 {
            ensemble.join(id, 1);
            ensemble.progress(&ensemble.running(), 20);
        }
        // The first is not the last: whoever leads hands over.
        for (id, ask) in [(1, 2), (3, 4), (5, 2), (4, 2)] {
            ensemble.remove(id, ask);
            report(format_args!(
                "node {id} removed: writes resumed after {:?}",
                until_a_write(&observer)
            ));
            ensemble.progress(&ensemble.running(), 20);
        }
        assert_eq!(ensemble.running(), [2]);
    });
    judge::judge(&mut ensemble);
}

#[test]
fn a_cluster_with_certificates_loses_its_leader_and_lets_no_stranger_in() {
    let _turn = alone();
    let options = Options {
        authority: Some(Authority::new("ours")),
        ..Options::default()
    };
    let mut ensemble = Ensemble::start(3, options);
    let observer = ensemble.observe();
    Clients::meanwhile(&observer, || {
        ensemble.progress(&ensemble.running(), 20);
        let leader = ensemble.leader();
        ensemble.kill(leader);
        report(format_args!(
            "leader killed: writes resumed after {:?}",
            until_a_write(&observer)
        ));
        ensemble.progress(&ensemble.running(), 20);
        ensemble.restart(leader);
        ensemble.progress(&ensemble.running(), 20);
        // One that was certified by somebody else, and one that has no certificate at all.
        for authority in [Some(Authority::new("theirs")), None] {
            let ours = ensemble.certify_by(authority);
            let reason = ensemble.is_refused(9, Duration::from_secs(2));
            assert!(reason.contains("none of the nodes"), "{reason}");
            ensemble.certify_by(ours);
        }
        // The same node is let in when it has a certificate of ours.
        let leader = ensemble.leader();
        ensemble.join(9, leader);
        ensemble.progress(&ensemble.running(), 20);
    });
    judge::judge(&mut ensemble);
}

#[test]
fn a_partition_leaves_the_majority_at_work_and_the_minority_without_a_word() {
    let _turn = alone();
    let namespaces = match Namespaces::new(3) {
        Ok(namespaces) => namespaces,
        Err(reason) => {
            return report(format_args!(
                "skipped: a partition between real processes: {reason}"
            ));
        }
    };
    let options = Options {
        session_timeout: Duration::from_millis(1_500),
        place: Some(namespaces::place),
        ..Options::default()
    };
    let mut ensemble = Ensemble::start(3, options);
    let leader = ensemble.leader();
    // One that leads, one that follows.
    for cut_off in [leader, others(&ensemble, leader)[0]] {
        ensemble.settle();
        let lock = format!("/locks/of-{cut_off}");
        ensemble.tell(cut_off, &format!("hold {lock}"));
        ensemble
            .process(cut_off)
            .until("it holds the lock", |heard| heard.looks_at(&lock) > 50);
        let authors =
            |ensemble: &Ensemble| ensemble.process(cut_off).heard(|heard| heard.authors.len());
        let others = others(&ensemble, cut_off);
        let before = authors(&ensemble);
        namespaces.cut_off(cut_off);
        let began = Instant::now();
        ensemble.leader_among(&others);
        ensemble.progress(&others, 20);
        report(format_args!(
            "cut off: the others went on after {:?}",
            began.elapsed()
        ));
        // It knows by itself, and nothing that it is told meanwhile is acknowledged.
        ensemble
            .process(cut_off)
            .until("it has lost the lock", |heard| heard.holder_state.is_some());
        ensemble
            .process(cut_off)
            .until("its writer has lost its session", |heard| {
                heard.lost.is_some() && heard.lost.as_ref() == heard.authors.last().map(|(a, _)| a)
            });
        let acknowledged = |ensemble: &Ensemble| {
            ensemble
                .process(cut_off)
                .heard(|heard| heard.acknowledged.len())
        };
        let said = acknowledged(&ensemble);
        ensemble.progress(&others, 50);
        assert_eq!(
            acknowledged(&ensemble),
            said,
            "it is cut off and has acknowledged writes"
        );

        namespaces.heal(cut_off);
        ensemble
            .process(cut_off)
            .until("it takes the lock again", |heard| heard.holder_back);
        ensemble.progress(&ensemble.running(), 20);
        assert!(authors(&ensemble) > before, "it writes in another session");
        ensemble.process(cut_off).heard(|heard| {
            assert_eq!(heard.holder_state.as_deref(), Some("Lost"));
            assert_eq!(
                heard.holder_refused,
                Some(true),
                "a stale holder has written"
            );
        });
        let forget = |heard: &mut process::Heard| {
            (heard.holder_state, heard.holder_refused, heard.holder_back) = (None, None, false);
        };
        ensemble.process(cut_off).forget(forget);
    }
    judge::judge(&mut ensemble);
}

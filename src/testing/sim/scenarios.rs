//! What a cluster must stand, one story each; and seeds that have found something.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::workloads::{Plan, Workload};
use super::{Faults, MemberChange, Simulation, Store, TraceDetail};
use crate::client::Session;
use crate::ids::Version;
use crate::node::SessionState;
use crate::op::CreateMode;
use crate::state::State;

const SECOND: Duration = Duration::from_secs(1);

/// How many seeds are tried where chance matters.
const SEEDS: std::ops::Range<u64> = 0..5;

fn calm(seed: u64) -> Simulation {
    Simulation::builder(seed).start()
}

fn open(simulation: &mut Simulation, id: u64) -> Session {
    let node = simulation.world().node(id).expect("it is up");
    let timeout = SECOND * 4;
    simulation
        .wait(node.session().timeout(timeout).open())
        .unwrap()
}

fn state(simulation: &Simulation, id: u64) -> &State {
    let up = simulation.machines[&id].up().expect("it is up");
    up.parts.driver.replica().state()
}

/// Any node but this one.
fn other(simulation: &Simulation, than: u64) -> u64 {
    simulation.ids().into_iter().find(|id| *id != than).unwrap()
}

/// Runs what a seed has found something by, after it was repaired.
fn repeat(plan: &Plan) {
    if let Err(failure) = plan.run() {
        panic!("{failure}\n{}\n{}", plan.options(), failure.history);
    }
}

#[test]
fn a_first_voter_whose_disk_was_lost_joins_again() {
    // It was sent the cluster's first snapshot, which names it, and never got any further.
    repeat(&Plan::new(Workload::Registers, 1));
}

#[test]
fn a_node_that_joins_again_does_not_believe_what_is_told_of_its_life_before() {
    // A heartbeat from before its removal came late, and it took itself for one that has forgotten.
    for workload in [Workload::Watchers, Workload::Ephemerals] {
        repeat(&Plan::new(workload, 6));
    }
}

#[test]
fn a_change_of_membership_that_all_have_applied_lasts_though_they_start_again() {
    // Two of three voters started again behind the third one's promotion, and needed the vote of the node
    // whose disk was lost since.
    repeat(&Plan::new(Workload::Ephemerals, 36));
}

#[test]
fn a_node_that_a_repeated_request_has_removed_again_is_added_again() {
    repeat(&Plan::new(Workload::Bank, 247));
}

#[test]
fn a_session_that_ends_before_its_opening_is_answered_is_no_contradiction() {
    repeat(&Plan::new(Workload::Ephemerals, 732));
}

#[test]
fn a_node_is_not_replaced_because_another_has_not_heard_of_its_successor() {
    // The operator took the answer for one that says that it was done already.
    repeat(&Plan::new(Workload::Membership, 160));
}

#[test]
fn a_store_is_not_blamed_for_what_a_failed_write_has_left() {
    repeat(&Plan::new(Workload::Mixed, 79));
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    let trace = |seed| {
        let mut simulation = Simulation::builder(seed)
            .nodes(5)
            .faults(Faults::all().every(SECOND * 2))
            .trace(TraceDetail::Everything)
            .start();
        simulation.program(|world, id| async move {
            let Some(node) = world.node(id) else { return };
            let Ok(session) = node.session().open().await else {
                return;
            };
            loop {
                drop(
                    session
                        .create("/x-", "", CreateMode::EphemeralSequential)
                        .await,
                );
                let pause = world.some_time(Duration::ZERO, SECOND);
                world.sleep(pause).await;
            }
        });
        simulation.run_for(SECOND * 20);
        (simulation.trace_number(), simulation.trace().to_string())
    };
    let (number, text) = trace(7);
    assert!(text.lines().count() > 1_000);
    assert!(trace(7) == (number, text), "two runs of a seed differ");
    assert_ne!(trace(8).0, number);
}

#[test]
fn a_program_ends_with_its_node_and_begins_again_with_it() {
    let mut simulation = calm(1);
    let begun = Rc::new(RefCell::new(Vec::new()));
    let (noted, ended) = (begun.clone(), Rc::new(()));
    let held = ended.clone();
    simulation.program(move |_, id| {
        noted.borrow_mut().push(id);
        let held = held.clone();
        async move {
            let _held = held;
            std::future::pending().await
        }
    });
    simulation.run_for(SECOND);
    assert_eq!(*begun.borrow(), [1, 2, 3]);
    let running = Rc::strong_count(&ended);
    simulation.crash(2);
    assert_eq!(Rc::strong_count(&ended), running - 1);
    simulation.run_for(SECOND);
    simulation.restart(2);
    simulation.run_for(SECOND);
    assert_eq!(*begun.borrow(), [1, 2, 3, 2]);
}

#[test]
fn a_cluster_without_power_holds_what_it_has_acknowledged_when_it_is_back() {
    for seed in SEEDS {
        let mut simulation = calm(seed);
        let session = open(&mut simulation, 1);
        for number in 0..20 {
            let made = session.create(&format!("/{number}"), "", CreateMode::Persistent);
            simulation.wait(made).unwrap();
        }
        let unanswered = session.create("/last", "", CreateMode::Persistent);
        drop(unanswered);
        for id in simulation.ids() {
            simulation.lose_power(id);
        }
        for id in simulation.ids() {
            simulation.restart(id);
        }
        let session = open(&mut simulation, 2);
        let (names, _) = simulation
            .wait(session.linearizable().children("/"))
            .unwrap();
        assert!(names.len() >= 20, "seed {seed}: {names:?}");
    }
}

#[test]
fn nodes_join_and_are_replaced_by_the_calls_that_an_operator_has() {
    let mut simulation = Simulation::builder(3).store(Store::Memory).start();
    open(&mut simulation, 1);
    let world = simulation.world();
    world.join(4);
    simulation.run_until(SECOND * 10, |world| world.node(4).is_some());
    for change in [
        MemberChange::AddLearner(4),
        MemberChange::Replace { old: 3, new: 4 },
        MemberChange::Transfer(4),
    ] {
        simulation.run_for(SECOND);
        let asked = world.change_members(2, change).expect("node 2 is up");
        simulation
            .wait(asked)
            .unwrap_or_else(|error| panic!("{change:?}: {error}"));
    }
    world.retire(3);
    simulation.run_until(SECOND * 10, |world| world.nodes() == [1, 2, 4]);
    assert_eq!(simulation.leader(), Some(4));
}

#[test]
fn an_ephemeral_vanishes_when_its_node_is_gone_for_its_sessions_timeout() {
    let mut simulation = calm(1);
    let session = open(&mut simulation, 1);
    simulation
        .wait(session.create("/mine", "", CreateMode::Ephemeral))
        .unwrap();
    simulation.run_for(SECOND / 10);
    let gone_at = simulation.now();
    simulation.crash(1);
    while state(&simulation, 2).znode("/mine").is_some() {
        assert!(
            simulation.now() < gone_at + SECOND * 30,
            "it stays for ever"
        );
        simulation.run_for(SECOND / 100);
    }
    assert!(
        simulation.now() - gone_at >= SECOND * 4 - SECOND,
        "expired early"
    );
}

#[test]
fn a_node_that_is_cut_off_knows_that_its_session_is_lost_before_the_cluster_ends_it() {
    // Curator #980: two holders of one lock after a suspension.
    for seed in SEEDS {
        let mut simulation = calm(seed);
        let session = open(&mut simulation, 1);
        simulation
            .wait(session.create("/mine", "", CreateMode::Ephemeral))
            .unwrap();
        simulation.run_for(SECOND * u32::try_from(seed % 5).unwrap() / 3);
        simulation.isolate(1);
        let mut suspended = false;
        let end = simulation.now() + SECOND * 60;
        while state(&simulation, 2).session(session.id()).is_some() {
            assert!(simulation.now() < end, "it was never ended");
            simulation.run_for(SECOND / 500);
            suspended |= session.state() == SessionState::Suspended;
            let ended = state(&simulation, 2).session(session.id()).is_none();
            assert!(
                !(ended && session.is_certain()),
                "believed in after its end"
            );
        }
        assert!(suspended, "it was never told");
        assert_eq!(session.state(), SessionState::Lost);
    }
}

#[test]
fn writes_that_fail_are_published_too_before_a_snapshot_is_taken() {
    // A write that failed for a session elsewhere left nothing to publish but its zxid, and the
    // snapshot that came due found the tree unpublished.
    let mut simulation = Simulation::builder(1)
        .configure(|builder| builder.snapshot_log_bytes(2_000).log_entries_kept(3))
        .start();
    let session = open(&mut simulation, 1);
    for _ in 0..100 {
        let missing = session.delete("/missing", Version::ANY);
        assert!(simulation.wait(missing).is_err());
    }
    simulation.check_replicas();
}

#[test]
fn a_leader_that_wakes_cut_off_answers_no_linearizable_read_from_the_past() {
    // etcd #20418, openraft #1747: a leader that doesn't know that it was replaced.
    for seed in SEEDS {
        let mut simulation = calm(seed);
        let session = open(&mut simulation, 1);
        let made = session.create("/register", "0", CreateMode::Persistent);
        simulation.wait(made).unwrap();
        let old = simulation.leader().expect("it has just served");
        let at_old = open(&mut simulation, old);
        let elsewhere = other(&simulation, old);
        let at_other = open(&mut simulation, elsewhere);
        simulation.isolate(old);
        simulation.pause(old);
        simulation
            .wait(at_other.set("/register", "1", Version::ANY))
            .unwrap();
        simulation.resume(old);
        let mut read = at_old.linearizable().get("/register");
        simulation.run_for(SECOND);
        let answer = read.try_wait();
        assert!(!matches!(answer, Some(Ok(_))), "answered alone: {answer:?}");
        simulation.reconnect();
        let answer = answer.unwrap_or_else(|| simulation.wait(read));
        if let Ok((data, _)) = answer {
            assert_eq!(&data[..], b"1");
        }
    }
}

#[test]
fn a_leader_that_was_stopped_for_long_expires_nobody_when_it_wakes() {
    // etcd #15247: a stalled leader ended live sessions as soon as it woke.
    for seed in SEEDS {
        let mut simulation = calm(seed);
        open(&mut simulation, 1);
        let leader = simulation.leader().expect("it has just served");
        let elsewhere = other(&simulation, leader);
        let session = open(&mut simulation, elsewhere);
        // Everybody stands still, so that nobody else is elected meanwhile.
        for id in simulation.ids() {
            simulation.pause(id);
        }
        simulation.run_for(SECOND * 60);
        simulation.resume(leader);
        simulation.run_for(SECOND / 10);
        for id in simulation.ids() {
            simulation.resume(id);
        }
        simulation.run_for(SECOND * 2);
        for id in simulation.ids() {
            let known = state(&simulation, id).session(session.id()).is_some();
            assert!(known, "expired on waking, seed {seed}");
        }
    }
}

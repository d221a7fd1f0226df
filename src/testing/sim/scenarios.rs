//! What a cluster must stand.

use std::time::Duration;

use super::workload::{Workload, open};
use super::{Configure, Faults, Sim, checks};
use crate::{CreateMode, Version};

const SECOND: Duration = Duration::from_secs(1);

fn plain(builder: crate::NodeBuilder) -> crate::NodeBuilder {
    builder
}

/// Snapshots all the time, and almost no log behind them: whoever is away needs one.
fn snapshots(builder: crate::NodeBuilder) -> crate::NodeBuilder {
    builder.snapshot_log_bytes(2_000).log_entries_kept(3)
}

/// Runs clients for a while under faults, heals, lets everything end, and checks it all. Returns the
/// trace.
fn chaos(seed: u64, nodes: u64, seconds: u32, faults: Faults, configure: Configure) -> u64 {
    println!("seed {seed}, {nodes} nodes, {faults:?}");
    let mut sim = Sim::new(seed, nodes, Faults::NONE, configure);
    Workload::prepare(&mut sim);
    sim.set_faults(faults);
    let mut workload = Workload::new(5, 8);
    let end = sim.now() + SECOND * seconds;
    sim.run_until(end, |sim| workload.step(sim, true));
    sim.heal();
    sim.run_while(SECOND * 120, |sim| {
        workload.step(sim, false);
        workload.calls_under_way() > 0
    });
    // It must serve, and everybody must get there.
    let session = open(&mut sim, 1);
    let mut last = session.set("/register", "0", Version::ANY);
    let mut zxid = None;
    sim.run_while(SECOND * 60, |_| {
        zxid = last
            .try_wait()
            .map(|result| result.expect("it serves").mzxid);
        zxid.is_none()
    });
    sim.run_while(SECOND * 60, |sim| {
        sim.ids()
            .iter()
            .any(|id| Some(sim.driver(*id).state().zxid()) < zxid)
    });
    checks::replicas_agree(&sim);
    checks::exactly_once(&sim, &workload.history);
    checks::linearizable(&workload.history);
    checks::reads_are_of_writes(&workload.history);
    checks::session_order(&workload.history);
    assert!(workload.history.len() > 20, "hardly anything was done");
    sim.trace
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("QUORATE_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let from = std::env::var("QUORATE_SEED_FROM")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    from..from + count.unwrap_or(3)
}

#[test]
fn a_cluster_keeps_its_promises_without_faults() {
    for seed in seeds() {
        chaos(seed, 3, 5, Faults::NONE, plain);
    }
}

#[test]
fn a_cluster_keeps_its_promises_on_a_network_that_loses_repeats_and_reorders() {
    for seed in seeds() {
        chaos(
            seed,
            3,
            10,
            Faults {
                crash_ms: 0,
                ..Faults::ALL
            },
            plain,
        );
    }
}

#[test]
fn a_cluster_keeps_its_promises_when_nodes_crash() {
    for seed in seeds() {
        chaos(
            seed,
            3,
            20,
            Faults {
                lose: 0,
                repeat: 0,
                partition_ms: 0,
                ..Faults::ALL
            },
            plain,
        );
    }
}

#[test]
fn a_cluster_keeps_its_promises_under_all_faults() {
    for seed in seeds() {
        chaos(seed, 3, 20, Faults::ALL, plain);
        chaos(seed, 5, 10, Faults::ALL, plain);
    }
}

#[test]
fn a_cluster_keeps_its_promises_when_it_catches_up_by_snapshots() {
    for seed in seeds() {
        chaos(seed, 3, 20, Faults::ALL, snapshots);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = chaos(7, 3, 5, Faults::ALL, snapshots);
    let second = chaos(7, 3, 5, Faults::ALL, snapshots);
    let other = chaos(8, 3, 5, Faults::ALL, snapshots);
    assert_eq!(first, second);
    assert_ne!(first, other);
}

#[test]
fn an_ephemeral_vanishes_when_its_node_is_gone_for_its_sessions_timeout() {
    let mut sim = Sim::new(1, 3, Faults::NONE, plain);
    let session = open(&mut sim, 1);
    let mut made = session.create("/mine", "", CreateMode::Ephemeral);
    sim.run_while(SECOND * 10, |_| made.try_wait().is_none());
    let gone_at = sim.now();
    sim.crash(1);
    let there = |sim: &Sim| sim.driver(2).state().znode("/mine").is_some();
    sim.run_while(SECOND * 10, |sim| !there(sim));
    sim.run_while(SECOND * 30, |sim| there(sim));
    assert!(sim.now() - gone_at >= SECOND * 4 - SECOND, "expired early");
}

#[test]
fn a_node_that_is_cut_off_knows_that_its_session_is_lost_before_the_cluster_ends_it() {
    // Curator #980: two holders of one lock after a suspension.
    for seed in seeds() {
        let mut sim = Sim::new(seed, 3, Faults::NONE, plain);
        let session = open(&mut sim, 1);
        let mut made = session.create("/mine", "", CreateMode::Ephemeral);
        sim.run_while(SECOND * 10, |_| made.try_wait().is_none());
        let wait = sim.now() + SECOND * u32::try_from(seed % 5).unwrap() / 3;
        sim.run_until(wait, |_| {});
        sim.isolate(1);
        let ended = |sim: &Sim| {
            let state = sim.driver(2).state();
            state.session(session.id()).is_none()
        };
        let mut suspended = false;
        sim.run_while(SECOND * 60, |sim| {
            suspended |= session.state() == crate::SessionState::Suspended;
            assert!(
                !(ended(sim) && session.is_certain()),
                "believed in after its end"
            );
            !ended(sim)
        });
        assert!(suspended, "it was never told");
        assert_eq!(session.state(), crate::SessionState::Lost);
    }
}

#[test]
fn writes_that_fail_are_published_too_before_a_snapshot_is_taken() {
    // A write that failed for a session elsewhere left nothing to publish but its zxid, and the
    // snapshot that came due found the tree unpublished.
    let mut sim = Sim::new(1, 3, Faults::NONE, snapshots);
    let session = open(&mut sim, 1);
    for _ in 0..100 {
        let mut missing = session.delete("/missing", Version::ANY);
        sim.run_while(SECOND * 10, |_| missing.try_wait().is_none());
    }
    checks::replicas_agree(&sim);
}

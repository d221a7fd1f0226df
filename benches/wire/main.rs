//! ZooKeeper's clients, served by ZooKeeper 3.8 and by us: the same client program, on the same machine, in one
//! run, in the same topology. Each server is a process of its own.
//!
//! `benches/wire.sh` starts ZooKeeper's servers and this, with their addresses in `ZOOKEEPER_ENSEMBLE` and
//! `ZOOKEEPER_ALONE`; without them only ours are measured. A word picks a part: `writes`, `reads`, `watches`,
//! `idle`. Rounds of theirs and ours alternate, so that both meet the same moods of the machine; each figure is
//! the median of the rounds.
//!
//! A main of its own: criterion knows neither percentiles nor many calls in flight.

#![allow(missing_docs)]

mod load;
mod nodes;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use load::{Fleet, Kind, Measured};
use nodes::Cluster;

/// How much is measured.
struct Scale {
    sessions: usize,
    outstanding: usize,
    warm_up: Duration,
    time: Duration,
    rounds: usize,
    watchers: usize,
    changes: usize,
    idle: usize,
}

fn main() {
    if let Some(directory) = std::env::var_os("QUORATE_WIRE_NODE") {
        return nodes::serve(&directory);
    }
    let scale = match support::measuring() {
        true => Scale {
            sessions: 100,
            outstanding: 10,
            warm_up: Duration::from_secs(2),
            time: Duration::from_secs(5),
            rounds: 3,
            watchers: 1_000,
            changes: 50,
            idle: 10_000,
        },
        false => Scale {
            sessions: 8,
            outstanding: 4,
            warm_up: Duration::ZERO,
            time: Duration::from_millis(200),
            rounds: 1,
            watchers: 20,
            changes: 3,
            idle: 50,
        },
    };
    for count in [3, 1] {
        let cluster = Cluster::start(count);
        let variable = if count == 1 {
            "ZOOKEEPER_ALONE"
        } else {
            "ZOOKEEPER_ENSEMBLE"
        };
        let theirs = std::env::var(variable).ok();
        let theirs: Option<Vec<String>> =
            theirs.map(|servers| servers.split(',').map(str::to_string).collect());
        let subjects = [
            ("ZooKeeper", theirs),
            ("quorate", Some(cluster.addresses())),
        ];
        let subjects: Vec<(&str, Vec<String>)> = subjects
            .into_iter()
            .filter_map(|(name, servers)| Some((name, servers?)))
            .collect();
        let nodes = if count == 1 {
            "one node"
        } else {
            "three nodes"
        };
        for (part, kind) in [("writes", Kind::Write), ("reads", Kind::Read)] {
            if support::wanted(part) {
                throughput(&format!("{nodes}, {part}"), kind, &subjects, &scale);
            }
        }
        if count == 3 && support::wanted("watches") {
            fan_out(&subjects, &scale);
        }
    }
    if support::wanted("idle") {
        // A fresh one: nothing that it has needed before is there to be used again.
        idle(&Cluster::start(1), &scale);
    }
}

fn throughput(what: &str, kind: Kind, subjects: &[(&str, Vec<String>)], scale: &Scale) {
    println!(
        "{what}, {} sessions with {} outstanding each\n{:12} {:>10} {:>8} {:>8}",
        scale.sessions, scale.outstanding, "", "a second", "p50 ms", "p99 ms"
    );
    let mut fleets: Vec<(&str, Fleet, Vec<Measured>)> = subjects
        .iter()
        .map(|(name, servers)| {
            let mut fleet = Fleet::connect(servers, scale.sessions);
            fleet.make_znodes();
            fleet.run(kind, scale.outstanding, scale.warm_up);
            (*name, fleet, Vec::new())
        })
        .collect();
    for _ in 0..scale.rounds {
        for (_, fleet, measured) in &mut fleets {
            measured.push(fleet.run(kind, scale.outstanding, scale.time));
        }
    }
    let mut medians = Vec::new();
    for (name, fleet, measured) in fleets {
        fleet.close();
        let middle = |field: fn(&Measured) -> f64| median(measured.iter().map(field).collect());
        let (rate, p50) = (middle(|m| m.rate), middle(|m| m.p50_ms));
        let p99 = middle(|m| m.p99_ms);
        println!("{name:12} {rate:10.0} {p50:8.2} {p99:8.2}");
        medians.push((rate, p99));
    }
    if let [theirs, ours] = medians[..] {
        println!(
            "quorate / ZooKeeper: throughput {:.2}, p99 {:.2}",
            ours.0 / theirs.0,
            ours.1 / theirs.1
        );
    }
}

/// From a set to the event at the last of the watchers, each on a connection of its own.
fn fan_out(subjects: &[(&str, Vec<String>)], scale: &Scale) {
    println!("a change of a znode to {} watching clients", scale.watchers);
    let mut medians = Vec::new();
    for (name, servers) in subjects {
        let mut fleet = Fleet::connect(servers, scale.watchers + 1);
        fleet.make_znodes();
        let times = (0..scale.changes)
            .map(|_| fleet.tell_all().as_secs_f64() * 1e3)
            .collect();
        fleet.close();
        let middle = median(times);
        println!("{name:12} median {middle:.1} ms");
        medians.push(middle);
    }
    if let [theirs, ours] = medians[..] {
        println!("quorate / ZooKeeper: {:.2}", ours / theirs);
    }
}

/// What a connection with a session costs that says nothing.
fn idle(cluster: &Cluster, scale: &Scale) {
    let before = cluster.resident_bytes();
    let fleet = Fleet::connect(&cluster.addresses(), scale.idle);
    // Whatever opening them has taken for a moment is given back.
    std::thread::sleep(Duration::from_secs(3).min(scale.time));
    let after = cluster.resident_bytes();
    let each = (after.saturating_sub(before)) as f64 / 1024.0 / scale.idle as f64;
    println!("{} idle connections: {each:.1} KiB each", scale.idle);
    fleet.close();
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

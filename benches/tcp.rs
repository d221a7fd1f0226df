//! What the network costs: three nodes with the log store and with sled, 1,000 writes of 128 bytes outstanding;
//! in one process over the in-memory network, over TCP on loopback, and over TLS, and in three processes over
//! TCP; and how long writes stop when the leader's connections close.
//!
//! `cargo bench --features tls --bench tcp`; `-- log`, `-- sled`, `-- failover` for a part. The networks take
//! turns, so that all meet the same moods of the machine; the last lines have the medians.
//!
//! A main of its own: criterion knows neither percentiles nor many calls in flight.

#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use quorate::transport::{Tcp, TcpBuilder};
use quorate::{CreateMode, Node, NodeBuilder, Session, Version};
use support::cluster::Cluster;
use support::{Times, process, windowed};

const DATA_BYTES: usize = 128;
const OUTSTANDING: usize = 1000;

const NETWORKS: [&str; 4] = ["memory", "tcp", "tls", "processes"];

fn main() {
    if process::is_child() {
        return process::run();
    }
    let (writes, rounds, failovers) = match support::measuring() {
        true => (200_000, 7, 40),
        false => (1_100, 1, 1),
    };
    println!(
        "store  network    outstanding  p50 us  p99 us  writes/s  cores busy here  alone: p50 us  p99 us"
    );
    for store in ["log", "sled"] {
        if !support::wanted(store) {
            continue;
        }
        let mut rates = [const { Vec::new() }; NETWORKS.len()];
        for _ in 0..rounds {
            for (network, rates) in NETWORKS.into_iter().zip(&mut rates) {
                rates.push(measure(store, network, writes));
            }
        }
        let [memory, tcp, tls, processes] = rates.map(median);
        println!(
            "{store}: median of {rounds}: memory {memory:.0}, tcp {tcp:.0} ({:.0}%), tls {tls:.0} ({:.0}%), tcp between three processes {processes:.0} ({:.0}%)",
            100.0 * tcp / memory,
            100.0 * tls / memory,
            100.0 * processes / memory,
        );
    }
    if support::wanted("failover") {
        fail_over(failovers);
    }
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn measure(store: &str, network: &str, writes: usize) -> f64 {
    if network == "processes" {
        let cluster = Cluster::start(store);
        cluster.lead();
        return measure_session(store, network, writes, &cluster.session());
    }
    let dir = support::directory();
    let nodes = start(store, network, dir.path());
    let session = nodes[0].session().open().wait().expect("it opens");
    measure_session(store, network, writes, &session)
}

fn measure_session(store: &str, network: &str, writes: usize, session: &Session) -> f64 {
    let data = support::data(DATA_BYTES);
    session
        .create("/bench", &data, CreateMode::Persistent)
        .wait()
        .expect("it is created");
    let mut alone = Times::default();
    for _ in 0..writes / 100 {
        alone.timed(|| set(session, &data).wait().expect("it is set"));
    }
    windowed(writes / 10, OUTSTANDING, |_| set(session, &data));
    let busy = support::processor_time();
    let (times, whole) = windowed(writes, OUTSTANDING, |_| set(session, &data));
    let busy = support::processor_time() - busy;
    let rate = writes as f64 / whole.as_secs_f64();
    println!(
        "{store:5}  {network:9}  {OUTSTANDING:11}  {:6.0}  {:6.0}  {rate:8.0}  {:15.2}  {:13.0}  {:6.0}",
        times.percentile(50),
        times.percentile(99),
        busy.as_secs_f64() / whole.as_secs_f64(),
        alone.percentile(50),
        alone.percentile(99),
    );
    rate
}

fn set(session: &Session, data: &[u8]) -> quorate::Pending<quorate::Stat> {
    session.set("/bench", data, Version::ANY)
}

/// A cluster on this network, the leader first.
fn start(store: &str, network: &str, dir: &Path) -> Vec<Node> {
    let stored = |id: u64, builder: NodeBuilder| {
        let dir = dir.join(format!("node-{id}"));
        builder.storage(support::durable(store, &dir))
    };
    match network {
        "memory" => support::cluster(3, stored),
        "tls" => over_tcp(dir, certified, stored),
        _ => over_tcp(dir, |_, _, builder| builder, stored),
    }
}

fn over_tcp(
    dir: &Path,
    secure: fn(u64, &Path, TcpBuilder) -> TcpBuilder,
    configure: impl Fn(u64, NodeBuilder) -> NodeBuilder,
) -> Vec<Node> {
    let bind = |id| {
        let builder = secure(id, dir, Tcp::builder("127.0.0.1:0"));
        builder.bind().expect("a port is free")
    };
    let transports: Vec<Tcp> = (1..=3).map(bind).collect();
    let addresses: Vec<String> = transports
        .iter()
        .map(|tcp| tcp.local_addr().to_string())
        .collect();
    for tcp in &transports {
        for (id, address) in (1..).zip(&addresses) {
            tcp.peers().set(id, address);
        }
    }
    let transports = std::cell::RefCell::new(transports.into_iter().map(Some).collect::<Vec<_>>());
    support::cluster(3, |id, builder| {
        let tcp = transports.borrow_mut()[id as usize - 1].take();
        configure(id, builder).transport(tcp.expect("each is taken once"))
    })
}

#[cfg(feature = "tls")]
fn certified(id: u64, dir: &Path, builder: TcpBuilder) -> TcpBuilder {
    static AUTHORITY: std::sync::OnceLock<certificates::Authority> = std::sync::OnceLock::new();
    let authority = AUTHORITY.get_or_init(|| certificates::Authority::new("bench"));
    let dir = dir.join(format!("certificates-{id}"));
    std::fs::create_dir_all(&dir).expect("it is made");
    builder.tls(authority.issue(&dir, &format!("node-{id}")).config())
}

#[cfg(not(feature = "tls"))]
fn certified(_: u64, _: &Path, builder: TcpBuilder) -> TcpBuilder {
    println!("in the clear: the feature `tls` is off");
    builder
}

#[cfg(feature = "tls")]
#[path = "../tests/certificates/mod.rs"]
mod certificates;

/// From the moment at which the leader begins to stop until a follower's next write is acknowledged.
fn fail_over(times: usize) {
    let mut gaps = Times::default();
    for _ in 0..times {
        let dir = support::directory();
        let mut nodes = start("log", "tcp", dir.path());
        let leader = nodes.remove(0);
        let session = nodes[0].session().open().wait().expect("it opens");
        session
            .create("/bench", "", CreateMode::Persistent)
            .wait()
            .expect("it is created");
        // All connections are used by now; their followers' too.
        std::thread::sleep(Duration::from_millis(100));
        let stops_at = Instant::now();
        let stopping = std::thread::spawn(move || leader.shutdown());
        while nodes[0]
            .status()
            .leader
            .is_some_and(|leader| leader != nodes[0].id() && leader != nodes[1].id())
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        set(&session, b"after").wait().expect("it is set");
        gaps.push(stops_at.elapsed());
        stopping.join().expect("it stops");
    }
    println!(
        "failover over tcp, {times} times: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms",
        gaps.percentile(50) / 1e3,
        gaps.percentile(90) / 1e3,
        gaps.percentile(99) / 1e3,
    );
}

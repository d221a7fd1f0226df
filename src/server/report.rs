//! What there is to say of a server and its node: the facts behind the four-letter words, the admin
//! endpoint and its metrics. It knows no format.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::statistics::Times;
use crate::{NodeStatus, Role};

/// The version of ZooKeeper whose protocol is spoken, and whose it is.
pub(super) const VERSION: &str = concat!("3.9.0-quorate-", env!("CARGO_PKG_VERSION"));

/// The version as ZooKeeper says it.
pub(super) fn full_version() -> String {
    format!("{VERSION}, built on unknown")
}

/// What the server is in its ensemble, in ZooKeeper's words.
pub(super) fn mode(status: &NodeStatus, shared: &Shared) -> &'static str {
    if shared.is_read_only() {
        return "read-only";
    }
    match status.role {
        _ if is_standalone(status) => "standalone",
        Role::Leader => "leader",
        Role::Learner => "observer",
        _ => "follower",
    }
}

/// Whether the node is a cluster of its own.
pub(super) fn is_standalone(status: &NodeStatus) -> bool {
    status.voters.len() == 1 && status.learners.is_empty()
}

/// ZooKeeper's `QuorumPeer.getDetailedPeerState`.
fn peer_state(status: &NodeStatus) -> &'static str {
    match (status.role, status.leader) {
        (Role::Leader, _) => "leading - broadcast",
        (Role::Learner, Some(_)) => "observing - broadcast",
        (Role::Follower, Some(_)) => "following - broadcast",
        _ => "looking - election",
    }
}

/// A number, or a word.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Whole(value) => write!(f, "{value}"),
            Value::Fraction(value) => write!(f, "{}", rounded(*value)),
            Value::Text(value) => f.write_str(value),
        }
    }
}

/// A fraction as Java writes it, to four digits.
pub(super) fn rounded(value: f64) -> String {
    format!("{:?}", (value * 10_000.0).round() / 10_000.0)
}

/// Whether a number only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Gauge,
    Counter,
}

/// Something that is monitored, under the name that ZooKeeper has for it.
pub(super) struct Metric {
    pub name: String,
    pub value: Value,
    #[cfg_attr(
        not(feature = "admin"),
        allow(dead_code, reason = "words don't say it")
    )]
    pub kind: Kind,
}

/// Everything that ZooKeeper monitors and that means something here. Latencies are in milliseconds.
pub(super) fn metrics(status: &NodeStatus, shared: &Shared) -> Vec<Metric> {
    let mut list = Metrics::default();
    let statistics = &shared.statistics;
    list.text("version", full_version());
    list.text("server_state", mode(status, shared).to_string());
    if !is_standalone(status) {
        list.text("peer_state", peer_state(status).to_string());
    }
    list.gauge("ephemerals_count", shared.node.ephemerals_count());
    list.gauge("num_alive_connections", shared.connections.load(Relaxed));
    let (min, mean, max) = statistics.latency.ms();
    list.fraction("avg_latency", mean);
    list.gauge("outstanding_requests", shared.outstanding.load(Relaxed));
    list.gauge("znode_count", status.znodes);
    list.gauge("global_sessions", status.sessions);
    list.gauge("local_sessions", 0_u64);
    let (encrypted, total) = encrypted_connections(shared);
    list.gauge("non_mtls_remote_conn_count", total - encrypted);
    let last_bytes = statistics.last_reply_bytes.load(Relaxed);
    list.gauge("last_client_response_size", last_bytes);
    list.gauge(
        "max_client_response_size",
        statistics.max_reply_bytes.load(Relaxed),
    );
    list.gauge("min_client_response_size", statistics.min_reply_bytes());
    list.counter("packets_sent", statistics.sent.load(Relaxed));
    list.counter("packets_received", statistics.received.load(Relaxed));
    list.gauge("watch_count", status.watches);
    list.counter(
        "auth_failed_count",
        statistics.authentications_failed.load(Relaxed),
    );
    list.gauge("min_latency", min);
    list.gauge("max_latency", max);
    if let Some((open, limit)) = file_descriptors() {
        list.gauge("open_file_descriptor_count", open);
        list.gauge("max_file_descriptor_count", limit);
    }
    list.gauge("approximate_data_size", status.data_bytes);
    let uptime = statistics.uptime().as_millis() as u64;
    list.gauge("uptime", uptime);
    list.gauge(
        "outstanding_tls_handshake",
        statistics.handshakes_outstanding.load(Relaxed),
    );
    for (name, counter) in [
        ("bytes_received_count", &statistics.bytes_received),
        ("response_bytes", &statistics.bytes_sent),
        ("connection_request_count", &statistics.sessions_asked),
        ("connection_rejected", &statistics.connections_rejected),
        ("large_requests_rejected", &statistics.frames_too_large),
        (
            "sessionless_connections_expired",
            &statistics.sessionless_expired,
        ),
        ("unsuccessful_handshake", &statistics.handshakes_failed),
    ] {
        list.counter(name, counter.load(Relaxed));
    }
    list.times("readlatency", &statistics.read_latency);
    list.times("updatelatency", &statistics.update_latency);
    if !is_standalone(status) {
        list.gauge("quorum_size", status.voters.len());
    }
    if status.role == Role::Leader && !is_standalone(status) {
        let heard = |is_voter: bool| {
            let others = status.members.iter().filter(|other| other.id != status.id);
            others
                .filter(|other| other.is_voter == is_voter && other.is_silent == Some(false))
                .count()
        };
        list.gauge("learners", heard(true) + heard(false));
        list.gauge("synced_followers", heard(true));
        list.gauge("synced_observers", heard(false));
        let uptime = shared.leader_uptime().as_millis() as u64;
        list.gauge("leader_uptime", uptime);
    }
    list.0
}

/// How many connections are encrypted, and how many there are.
pub(super) fn encrypted_connections(shared: &Shared) -> (usize, usize) {
    let connections = shared.statistics.connections();
    let encrypted = connections
        .iter()
        .filter(|connection| connection.is_encrypted.load(Relaxed));
    (encrypted.count(), connections.len())
}

#[derive(Default)]
struct Metrics(Vec<Metric>);

impl Metrics {
    fn push(&mut self, name: impl Into<String>, value: Value, kind: Kind) {
        let name = name.into();
        self.0.push(Metric { name, value, kind });
    }

    fn text(&mut self, name: &str, value: String) {
        self.push(name, Value::Text(value), Kind::Gauge);
    }

    fn gauge(&mut self, name: impl Into<String>, value: impl TryInto<u64>) {
        let value = value.try_into().unwrap_or(u64::MAX);
        self.push(name, Value::Whole(value), Kind::Gauge);
    }

    fn fraction(&mut self, name: impl Into<String>, value: f64) {
        self.push(name, Value::Fraction(value), Kind::Gauge);
    }

    fn counter(&mut self, name: impl Into<String>, value: u64) {
        self.push(name, Value::Whole(value), Kind::Counter);
    }

    /// ZooKeeper's summaries: average, least, greatest, how many, sum.
    fn times(&mut self, name: &str, times: &Times) {
        let (min, mean, max) = times.ms();
        self.fraction(format!("avg_{name}"), mean);
        self.gauge(format!("min_{name}"), min);
        self.gauge(format!("max_{name}"), max);
        self.counter(format!("cnt_{name}"), times.count());
        self.counter(format!("sum_{name}"), times.sum_ms());
    }
}

/// How many files the process has open, and may have, where the system says so (Linux).
pub(super) fn file_descriptors() -> Option<(u64, u64)> {
    // The directory that is read is open itself.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64 - 1;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let limit = line.split_whitespace().next()?.parse().ok()?;
    Some((open, limit))
}

/// What a server runs with, as ZooKeeper's `conf` names it.
pub(super) fn configuration(status: &NodeStatus, shared: &Shared) -> Vec<(&'static str, String)> {
    let settings = &shared.settings;
    let (shortest, longest) = status.session_timeouts_ms;
    let mut list = vec![
        ("clientPort", shared.address.port().to_string()),
        (
            "secureClientPort",
            match shared.secure_address {
                Some(address) => address.port().to_string(),
                None => "-1".to_string(),
            },
        ),
    ];
    if let Some(directory) = &settings.directory {
        let (path, bytes) = (directory.display().to_string(), directory_bytes(shared));
        list.push(("dataDir", path.clone()));
        list.push(("dataDirSize", bytes.to_string()));
        list.push(("dataLogDir", path));
        list.push(("dataLogSize", bytes.to_string()));
    }
    list.extend([
        // A session lasts two ticks at least.
        ("tickTime", (shortest / 2).to_string()),
        (
            "maxClientCnxns",
            settings.connections_per_address_max.to_string(),
        ),
        ("minSessionTimeout", shortest.to_string()),
        ("maxSessionTimeout", longest.to_string()),
        ("serverId", status.id.to_string()),
        ("jute.maxbuffer", settings.frame_bytes_max.to_string()),
    ]);
    if !is_standalone(status) {
        let is_observer = status.learners.contains(&status.id);
        list.push(("peerType", u8::from(is_observer).to_string()));
    }
    list
}

/// The bytes of the files that the node keeps, where the host has said in which directory.
pub(super) fn directory_bytes(shared: &Shared) -> u64 {
    let mut directories: Vec<_> = shared.settings.directory.iter().cloned().collect();
    let mut bytes = 0;
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        for entry in entries.flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                Ok(metadata) => bytes += metadata.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// The surroundings of the process.
pub(super) fn environment() -> Vec<(&'static str, String)> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let directory = std::env::current_dir().unwrap_or_default();
    vec![
        ("zookeeper.version", full_version()),
        (
            "host.name",
            read("/proc/sys/kernel/hostname").trim().to_string(),
        ),
        ("os.name", std::env::consts::OS.to_string()),
        ("os.arch", std::env::consts::ARCH.to_string()),
        (
            "os.version",
            read("/proc/sys/kernel/osrelease").trim().to_string(),
        ),
        ("user.name", variable("USER")),
        ("user.home", variable("HOME")),
        ("user.dir", directory.display().to_string()),
    ]
}

/// A short name of an operation (ZooKeeper's `Request.op2String`, cut as `cons` cuts it).
pub(super) fn operation(opcode: i32) -> &'static str {
    match opcode {
        1 => "CREA",
        2 => "DELE",
        3 => "EXIS",
        4 => "GETD",
        5 => "SETD",
        6 => "GETA",
        7 => "SETA",
        8 => "GETC",
        9 => "SYNC",
        11 => "PING",
        12 => "GETC",
        13 => "CHEC",
        14 => "MULT",
        15 => "CREA",
        16 => "RECO",
        17 => "CHEC",
        18 => "REMO",
        19 => "CREA",
        20 => "DELE",
        21 => "CREA",
        22 => "MULT",
        100 => "AUTH",
        101 => "SETW",
        102 => "SASL",
        103 => "GETE",
        104 => "GETA",
        105 => "SETW",
        106 => "ADDW",
        107 => "WHOA",
        -11 => "CLOS",
        _ => "NA",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_written_as_java_writes_them() {
        assert_eq!(rounded(0.0), "0.0");
        assert_eq!(rounded(2.2), "2.2");
        assert_eq!(rounded(1.0 / 3.0), "0.3333");
        assert_eq!(rounded(1234.0), "1234.0");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn open_files_are_counted() {
        let (before, limit) = file_descriptors().unwrap();
        assert!(before > 0 && before <= limit);
    }
}

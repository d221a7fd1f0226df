//! The four-letter words: what an operator, or a monitor, types into a bare connection. Their answers
//! have ZooKeeper's formats; what a `quorate` node doesn't count is left out.

use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::statistics::ConnectionFacts;
use crate::{NodeStatus, Role};

/// Those that are answered, if they are allowed.
const WORDS: [&str; 10] = [
    "conf", "cons", "crst", "envi", "isro", "mntr", "ruok", "srst", "srvr", "stat",
];

/// Further ones of ZooKeeper's, which are refused.
const OTHERS: [&str; 8] = [
    "dirs", "dump", "gtmk", "hash", "stmk", "wchc", "wchp", "wchs",
];

/// Which words are answered (ZooKeeper's `4lw.commands.whitelist`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Allowed {
    All,
    These(Vec<String>),
}

impl Allowed {
    fn allows(&self, word: &str) -> bool {
        WORDS.contains(&word)
            && match self {
                Allowed::All => true,
                Allowed::These(words) => words.iter().any(|allowed| allowed == word),
            }
    }
}

fn word(bytes: &[u8; 4]) -> Option<&'static str> {
    let known = WORDS.iter().chain(&OTHERS);
    known.copied().find(|word| word.as_bytes() == bytes)
}

/// Whether the first bytes of a connection are one: as a frame's length they would be far too large.
pub(super) fn is_word(bytes: &[u8; 4]) -> bool {
    word(bytes).is_some()
}

/// What is said to a word.
pub(super) fn answer(bytes: &[u8; 4], shared: &Shared) -> String {
    let word = word(bytes).unwrap_or_default();
    if !shared.settings.words.allows(word) {
        return format!("{word} is not executed because it is not in the whitelist.\n");
    }
    let status = shared.node.status();
    match word {
        "ruok" => "imok".to_string(),
        // A client may write wherever there is a leader.
        "isro" => match status.leader {
            Some(_) => "rw".to_string(),
            None => "null".to_string(),
        },
        "srvr" => format!("{}{}", version(), numbers(&status, shared)),
        "stat" => {
            let clients: String = shared
                .statistics
                .connections()
                .iter()
                .map(|connection| format!(" {}\n", client(connection, Details::Few)))
                .collect();
            let numbers = numbers(&status, shared);
            format!("{}Clients:\n{clients}\n{numbers}", version())
        }
        "cons" => {
            let connections = shared.statistics.connections();
            let lines = connections
                .iter()
                .map(|connection| format!(" {}\n", client(connection, Details::All)));
            lines.chain(["\n".to_string()]).collect()
        }
        "crst" => {
            for connection in shared.statistics.connections() {
                connection.reset();
            }
            "Connection stats reset.\n".to_string()
        }
        "srst" => {
            shared.statistics.reset();
            "Server stats reset.\n".to_string()
        }
        "mntr" => monitored(&status, shared),
        "conf" => configuration(&status, shared),
        "envi" => environment(),
        _ => unreachable!("only those above are allowed"),
    }
}

/// The version of ZooKeeper whose protocol is spoken, and whose it is.
const VERSION: &str = concat!("3.9.0-quorate-", env!("CARGO_PKG_VERSION"));

fn version() -> String {
    format!("Zookeeper version: {VERSION}, built on unknown\n")
}

fn mode(status: &NodeStatus) -> &'static str {
    match status.role {
        _ if status.voters.len() == 1 && status.learners.is_empty() => "standalone",
        Role::Leader => "leader",
        Role::Learner => "observer",
        _ => "follower",
    }
}

fn numbers(status: &NodeStatus, shared: &Shared) -> String {
    let statistics = &shared.statistics;
    let (min, mean, max) = statistics.latency_ms();
    format!(
        "Latency min/avg/max: {min}/{mean:.4}/{max}\nReceived: {}\nSent: {}\nConnections: {}\n\
         Outstanding: {}\nZxid: 0x{:x}\nMode: {}\nNode count: {}\n",
        statistics.received.load(Relaxed),
        statistics.sent.load(Relaxed),
        shared.connections.load(Relaxed),
        shared.outstanding.load(Relaxed),
        status.zxid.0,
        mode(status),
        status.znodes,
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Details {
    Few,
    All,
}

fn client(connection: &ConnectionFacts, details: Details) -> String {
    let session = connection.session.load(Relaxed);
    let mut line = format!(
        "/{}[{}](queued={},recved={},sent={}",
        connection.peer,
        u8::from(session != 0),
        connection.outstanding.load(Relaxed),
        connection.received.load(Relaxed),
        connection.sent.load(Relaxed),
    );
    if details == Details::All && session != 0 {
        let _ = write!(
            line,
            ",sid=0x{session:x},up={},to={}",
            connection.established.elapsed().as_millis(),
            connection.timeout_ms.load(Relaxed),
        );
    }
    line + ")"
}

fn monitored(status: &NodeStatus, shared: &Shared) -> String {
    let statistics = &shared.statistics;
    let (min, mean, max) = statistics.latency_ms();
    let lines: [(&str, String); 14] = [
        ("version", format!("{VERSION}, built on unknown")),
        ("server_state", mode(status).to_string()),
        (
            "num_alive_connections",
            shared.connections.load(Relaxed).to_string(),
        ),
        (
            "outstanding_requests",
            shared.outstanding.load(Relaxed).to_string(),
        ),
        ("znode_count", status.znodes.to_string()),
        ("watch_count", status.watches.to_string()),
        (
            "packets_received",
            statistics.received.load(Relaxed).to_string(),
        ),
        ("packets_sent", statistics.sent.load(Relaxed).to_string()),
        ("min_latency", min.to_string()),
        ("avg_latency", format!("{mean:.4}")),
        ("max_latency", max.to_string()),
        ("uptime", statistics.uptime().as_millis().to_string()),
        ("local_sessions", "0".to_string()),
        ("sessions_attached", status.sessions_attached.to_string()),
    ];
    lines
        .iter()
        .map(|(key, value)| format!("zk_{key}\t{value}\n"))
        .collect()
}

fn configuration(status: &NodeStatus, shared: &Shared) -> String {
    let settings = &shared.settings;
    let mut text = format!(
        "clientPort={}\nmaxClientCnxns={}\nserverId={}\njute.maxbuffer={}\nmembership: \n",
        shared.address.port(),
        settings.connections_per_address_max,
        status.id,
        settings.frame_bytes_max,
    );
    for voter in &status.voters {
        let _ = writeln!(text, "server.{voter}=participant");
    }
    for learner in &status.learners {
        let _ = writeln!(text, "server.{learner}=observer");
    }
    text
}

fn environment() -> String {
    format!(
        "Environment:\nzookeeper.version={VERSION}\nos.name={}\nos.arch={}\n",
        std::env::consts::OS,
        std::env::consts::ARCH,
    )
}

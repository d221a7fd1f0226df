//! Three nodes with a server each, in this process, for clients that are programs of their own.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::io::Write as _;
use std::time::Duration;

use quorate::server::ZooKeeperServer;

use crate::support::{Cluster, Kind};

pub struct Service {
    pub servers: Vec<ZooKeeperServer>,
    _cluster: Cluster,
}

impl Service {
    pub fn start() -> Service {
        let cluster = Cluster::with(3, Kind::Memory, |_, builder| {
            builder.session_timeouts(Duration::from_secs(1), Duration::from_secs(40))
        });
        let server = |id| {
            ZooKeeperServer::builder(cluster.node(id))
                .listen("127.0.0.1:0")
                // Of `super:test`, from ZooKeeper's documentation.
                .super_digest("super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
                .start()
                .unwrap()
        };
        Service {
            servers: (1..=3).map(server).collect(),
            _cluster: cluster,
        }
    }

    pub fn address(&self, at: usize) -> String {
        self.servers[at].address().to_string()
    }
}

/// Says what is not tried, and why, where `.ci/run` finds it: not by a macro, whose output a passing test
/// keeps to itself.
pub fn skipped(what: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}: {why}");
}

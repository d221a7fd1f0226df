//! Our nodes, each in a process of its own: this program again, told by its environment what to be.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use quorate::Node;
use quorate::server::ZooKeeperServer;
use quorate::transport::Tcp;

const PATIENCE: Duration = Duration::from_secs(60);

/// They end with this.
pub(crate) struct Cluster {
    children: Vec<(Child, String)>,
    _directory: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn start(count: usize) -> Cluster {
        let directory = crate::support::directory();
        // All at once, so that they differ.
        let ports: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let peers: Vec<String> = ports
            .iter()
            .map(|port| port.local_addr().expect("it is bound").to_string())
            .collect();
        drop(ports);
        let program = std::env::current_exe().expect("this program");
        let started: Vec<Child> = (1..=count)
            .map(|id| {
                Command::new(&program)
                    .env("QUORATE_WIRE_NODE", directory.path().join(id.to_string()))
                    .env("QUORATE_WIRE_PEERS", peers.join(","))
                    .env("QUORATE_WIRE_ID", id.to_string())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("a process")
            })
            .collect();
        let children = started.into_iter().map(|mut child| {
            let mut line = String::new();
            let output = child.stdout.take().expect("it is piped");
            BufReader::new(output).read_line(&mut line).expect("a line");
            let address = line.trim().to_string();
            assert!(!address.is_empty(), "a node has ended");
            (child, address)
        });
        Cluster {
            children: children.collect(),
            _directory: directory,
        }
    }

    /// Where they serve clients.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.children
            .iter()
            .map(|(_, address)| address.clone())
            .collect()
    }

    /// How much memory they have, where `/proc` tells.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let resident = |child: &Child| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.children
            .iter()
            .filter_map(|(child, _)| resident(child))
            .sum::<u64>()
            * 1024
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            // Nobody needs what they have.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Serves until the process is ended, or whoever started it is gone.
pub(crate) fn serve(directory: &OsStr) {
    let variable = |name| std::env::var(name).expect("who starts a node says so");
    let id: u64 = variable("QUORATE_WIRE_ID").parse().expect("a number");
    let peers = variable("QUORATE_WIRE_PEERS");
    let peers: Vec<(u64, String)> = (1..).zip(peers.split(',').map(str::to_string)).collect();
    let count = peers.len() as u64;
    let mut builder = Node::builder(id)
        .voters(1..=count)
        .data_dir(Path::new(directory));
    if count > 1 {
        let own = &peers[id as usize - 1].1;
        let tcp = Tcp::builder(own.as_str()).peers(peers.clone());
        builder = builder.transport(tcp.bind().expect("the port is still free"));
    }
    let node = builder.start().expect("it starts");
    node.wait_for(PATIENCE, |status| status.leader.is_some())
        .expect("there is a leader");
    let server = ZooKeeperServer::builder(&node).listen("127.0.0.1:0");
    let server = server.start().expect("it serves");
    println!("{}", server.address());
    std::io::stdout().flush().expect("somebody reads");
    // Ends when the other end of it does.
    let _ = std::io::stdin().read_line(&mut String::new());
}

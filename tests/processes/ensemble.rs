//! A cluster of processes: who runs, where, and what those that have ended had said.
//!
//! Each start takes another free port, and the others are told: addresses change as they do in life, and no
//! port is taken by somebody else meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate::transport::{Peers, Tcp};
use quorate::{Node, NodeId};
use rustix::process::Signal;

use crate::certificates::Authority;
use crate::process::{Heard, HoldLine, Order, PATIENCE, Process};

/// The node in the test's own process: a learner, whose sessions nobody kills.
pub(crate) const OBSERVER: u64 = 100;

pub(crate) struct Ensemble {
    // Processes end before their directories go.
    running: BTreeMap<u64, Process>,
    observer: Option<(Arc<Node>, Peers, String)>,
    /// What processes had said when they ended, in the order in which they did.
    pub(crate) ended: Vec<Heard>,
    boots: u64,
    first: Vec<u64>,
    options: Options,
    directory: tempfile::TempDir,
}

pub(crate) struct Options {
    pub(crate) session_timeout: Duration,
    /// Whose certificates they have.
    pub(crate) authority: Option<Authority>,
    /// The network namespace that a node lives in, and its address there.
    pub(crate) place: Option<fn(u64) -> (String, String)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            session_timeout: Duration::from_secs(4),
            authority: None,
            place: None,
        }
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn node_id(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

impl Ensemble {
    /// Processes 1 to n, at work.
    pub(crate) fn start(first: u64, options: Options) -> Ensemble {
        let mut ensemble = Ensemble {
            running: BTreeMap::new(),
            observer: None,
            ended: Vec::new(),
            boots: 0,
            first: (1..=first).collect(),
            options,
            directory: tempfile::tempdir().expect("a directory"),
        };
        for id in 1..=first {
            ensemble.launch(id, false, PATIENCE);
        }
        ensemble.spread();
        for id in 1..=first {
            ensemble.begin(id);
        }
        ensemble.tell(1, "prepare");
        ensemble
            .process(1)
            .until("it has prepared", |heard| heard.prepared);
        for id in 1..=first {
            ensemble.tell(id, "work");
        }
        ensemble
    }

    /// Joins the cluster from this process, without a vote.
    pub(crate) fn observe(&mut self) -> Arc<Node> {
        let mut builder = Tcp::builder("127.0.0.1:0");
        if let Some(dir) = self.certificate(OBSERVER) {
            builder = builder.tls(crate::certificates::Files::at(&dir).config());
        }
        let tcp = builder.bind().expect("a port");
        let (peers, address) = (tcp.peers(), tcp.local_addr().to_string());
        for (&id, process) in &self.running {
            peers.set(id, process.address());
        }
        let node = Node::builder(OBSERVER)
            .join(self.first.iter().copied())
            .join_patience(PATIENCE)
            .transport(tcp)
            .start()
            .expect("an observer");
        let node = Arc::new(node);
        self.observer = Some((node.clone(), peers, address));
        self.spread();
        let first = self.first[0];
        self.ask(first, "add", OBSERVER);
        node
    }

    pub(crate) fn directory_of(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("node-{id}"))
    }

    /// From now on nodes have certificates of this authority, or none. Whose they had before.
    pub(crate) fn certify_by(&mut self, authority: Option<Authority>) -> Option<Authority> {
        std::mem::replace(&mut self.options.authority, authority)
    }

    fn certificate(&self, id: u64) -> Option<PathBuf> {
        let authority = self.options.authority.as_ref()?;
        let dir = self.directory.path().join(format!("certificates-{id}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        authority.issue(&dir, &format!("node-{id}"));
        Some(dir)
    }

    // ---- Processes ----------------------------------------------------------------------------

    fn launch(&mut self, id: u64, join: bool, join_patience: Duration) {
        self.boots += 1;
        let place = self.options.place.map(|place| place(id));
        let listen = match &place {
            Some((_, address)) => format!("{address}:0"),
            None => "127.0.0.1:0".to_owned(),
        };
        let wrapper = match &place {
            Some((namespace, _)) => vec!["ip", "netns", "exec", namespace],
            None => Vec::new(),
        };
        let order = Order {
            id,
            boot: self.boots,
            first: self.first.clone(),
            join,
            join_patience,
            dir: self.directory_of(id),
            listen,
            session_timeout: self.options.session_timeout,
            tls: self.certificate(id),
        };
        self.running.insert(id, Process::start(order, &wrapper));
    }

    /// Tells everybody where everybody is.
    fn spread(&mut self) {
        let mut addresses: BTreeMap<u64, String> = BTreeMap::new();
        for (&id, process) in &self.running {
            addresses.insert(id, process.address());
        }
        if let Some((_, peers, address)) = &self.observer {
            for (&id, address) in &addresses {
                peers.set(id, address);
            }
            addresses.insert(OBSERVER, address.clone());
        }
        for process in self.running.values_mut() {
            for (id, address) in &addresses {
                process.tell(&format!("peer {id} {address}"));
            }
        }
    }

    fn begin(&mut self, id: u64) {
        self.tell(id, "start");
        self.process(id)
            .until("it has started", |heard| heard.started);
    }

    /// Starts a node again on what its directory holds; it works on.
    pub(crate) fn restart(&mut self, id: u64) {
        let join = !self.first.contains(&id);
        self.launch(id, join, PATIENCE);
        self.spread();
        self.begin(id);
        self.tell(id, "work");
    }

    /// Starts a node that joins, gets a vote, and works.
    pub(crate) fn join(&mut self, id: u64, ask: u64) {
        self.launch(id, true, PATIENCE);
        self.spread();
        self.begin(id);
        self.ask(ask, "add", id);
        self.ask(ask, "promote", id);
        self.tell(id, "work");
    }

    /// Why a node that wants to join isn't let in. It leaves nothing.
    pub(crate) fn is_refused(&mut self, id: u64, patience: Duration) -> String {
        self.launch(id, true, patience);
        self.spread();
        self.tell(id, "start");
        self.process(id).until("it is refused", |heard| {
            assert!(!heard.started, "it was let in");
            heard.refused.is_some()
        });
        let heard = self.running.remove(&id).expect("it was started").ends();
        heard.refused.expect("it said so")
    }

    pub(crate) fn kill(&mut self, id: u64) {
        let process = self.running.remove(&id).expect("a running process");
        self.ended.push(process.kill());
    }

    /// Takes a node out of the cluster; its process learns of it and ends.
    pub(crate) fn remove(&mut self, id: u64, ask: u64) {
        self.ask(ask, "remove", id);
        let process = self.running.remove(&id).expect("a running process");
        let heard = process.ends();
        assert!(heard.removed, "process {id} ended without being removed");
        self.ended.push(heard);
    }

    pub(crate) fn signal(&self, id: u64, signal: Signal) {
        self.process(id).signal(signal);
    }

    pub(crate) fn process(&self, id: u64) -> &Process {
        &self.running[&id]
    }

    pub(crate) fn tell(&mut self, id: u64, line: &str) {
        self.running.get_mut(&id).expect("it runs").tell(line);
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    // ---- The cluster --------------------------------------------------------------------------

    /// Has a node ask for a change of membership.
    pub(crate) fn ask(&mut self, at: u64, what: &str, id: u64) {
        let before = self.process(at).heard(|heard| heard.changed.len());
        self.tell(at, &format!("ask {what} {id}"));
        let change = format!("that {what} {id} is done");
        self.process(at)
            .until(&change, |heard| heard.changed.len() > before);
    }

    /// Role, leader, applied index and zxid, as a process says now.
    pub(crate) fn status(&mut self, id: u64) -> (String, u64, u64, u64) {
        self.process(id).forget(|heard| heard.status = None);
        self.tell(id, "status");
        let mut status = None;
        self.process(id).until("it says its status", |heard| {
            status.clone_from(&heard.status);
            status.is_some()
        });
        status.expect("just heard")
    }

    /// The leader that these processes agree on.
    pub(crate) fn leader_among(&mut self, ids: &[u64]) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leaders: Vec<u64> = ids.iter().map(|&id| self.status(id).1).collect();
            if ids.contains(&leaders[0]) && leaders.iter().all(|leader| *leader == leaders[0]) {
                return leaders[0];
            }
            assert!(
                Instant::now() < deadline,
                "no leader: {ids:?} say {leaders:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn leader(&mut self) -> u64 {
        self.leader_among(&self.running())
    }

    /// Waits until each of these has had so many more of its writes acknowledged.
    pub(crate) fn progress(&self, ids: &[u64], writes: usize) {
        let count = |heard: &Heard| heard.acknowledged.len();
        let before: Vec<usize> = ids
            .iter()
            .map(|id| self.process(*id).heard(count))
            .collect();
        for (id, before) in ids.iter().zip(before) {
            let process = self.process(*id);
            process.until("its writes go on", |heard| count(heard) >= before + writes);
        }
    }

    /// Waits until all work on without losing a session meanwhile. A connection over a network that was
    /// mended needs a while: TCP sends again after pauses that have grown.
    pub(crate) fn settle(&self) {
        let authors = || -> Vec<usize> {
            let count = |process: &Process| process.heard(|heard| heard.authors.len());
            self.running.values().map(count).collect()
        };
        loop {
            let before = authors();
            self.progress(&self.running(), 300);
            if authors() == before {
                return;
            }
        }
    }

    /// Waits until one of these gets the lock that all contend for.
    pub(crate) fn lock_is_taken(&self) {
        let acquired = || -> usize {
            let is_acquired = |line: &&HoldLine| matches!(line, HoldLine::Acquired { .. });
            let count = |heard: &Heard| heard.holds.iter().filter(is_acquired).count();
            self.running
                .values()
                .map(|process| process.heard(count))
                .sum()
        };
        let before = acquired();
        eventually("somebody gets the lock", || acquired() > before);
    }
}

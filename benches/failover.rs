//! What a user notices when a process dies: three processes over TCP on loopback, default settings, the log
//! store.
//!
//! *Failover*: from SIGKILL of the leader until the next write is acknowledged, called on a follower; and
//! from SIGSTOP, where no connection closes. *Catch-up*: how long it takes until a follower of a million
//! znodes that has lost its disk has all of them again, and what becomes of the writers' 99th percentile
//! meanwhile.
//!
//! `cargo bench --bench failover`; `-- killed`, `-- stopped`, `-- catch-up` for a part. A main of its own:
//! criterion knows no processes.

#![allow(missing_docs)]

mod support;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quorate::transport::{Peers, Tcp};
use quorate::{CreateMode, Node, NodeId, Role, Session, Version};
use support::process::{self, Process};
use support::{Times, windowed};

const PATIENCE: Duration = Duration::from_secs(120);
const DATA_BYTES: usize = 128;
/// This process's own node; the others are processes that can be killed.
const SELF: u64 = 1;

struct Sizes {
    rounds: usize,
    stops: usize,
    znodes: usize,
    writing: Duration,
}

fn main() {
    if process::is_child() {
        return process::run();
    }
    let sizes = match support::measuring() {
        true => Sizes {
            rounds: 100,
            stops: 30,
            znodes: 1_000_000,
            writing: Duration::from_secs(10),
        },
        false => Sizes {
            rounds: 1,
            stops: 1,
            znodes: 2_000,
            writing: Duration::from_millis(100),
        },
    };
    if support::wanted("killed") {
        failover("killed", sizes.rounds);
    }
    if support::wanted("stopped") {
        failover("stopped", sizes.stops);
    }
    if support::wanted("catch-up") {
        catch_up(&sizes);
    }
}

/// This process's node, and the two others.
struct Cluster {
    node: Arc<Node>,
    peers: Peers,
    address: String,
    others: Vec<Process>,
    dir: tempfile::TempDir,
}

impl Cluster {
    fn start() -> Cluster {
        let dir = support::directory();
        let tcp = Tcp::builder("127.0.0.1:0").bind().expect("a free port");
        let (peers, address) = (tcp.peers(), tcp.local_addr().to_string());
        let others = [2, 3].map(|id| Process::launch(id, &path_of(dir.path(), id), false));
        let node = Node::builder(SELF)
            .voters([1, 2, 3])
            .data_dir(path_of(dir.path(), SELF))
            .transport(tcp)
            .start()
            .expect("it starts");
        let mut cluster = Cluster {
            node: Arc::new(node),
            peers,
            address,
            others: others.into(),
            dir,
        };
        cluster.spread();
        for other in &mut cluster.others {
            other.start();
        }
        cluster.leader();
        cluster
    }

    fn spread(&mut self) {
        let mut addresses = vec![(SELF, self.address.clone())];
        addresses.extend(
            self.others
                .iter()
                .map(|other| (other.id, other.address.clone())),
        );
        for (id, address) in &addresses {
            self.peers.set(*id, address);
            for other in &mut self.others {
                other.tell(&format!("peer {id} {address}"));
            }
        }
    }

    fn leader(&self) -> u64 {
        let known = self
            .node
            .wait_for(PATIENCE, |status| status.leader.is_some());
        let leader = known.expect("there is a leader").leader;
        leader.expect("just seen").as_u64()
    }

    /// Makes this node the leader.
    fn lead(&self) {
        let mine = node_id(SELF);
        while self.node.status().role != Role::Leader {
            // Refused while it is behind, or the leader has just changed.
            let _ = self.node.transfer_leadership(mine).wait_timeout(PATIENCE);
        }
    }

    /// Makes another one the leader, and waits until all have everything.
    fn follow(&self) -> usize {
        loop {
            self.level();
            match self
                .others
                .iter()
                .position(|other| other.id == self.leader())
            {
                Some(position) => return position,
                None => {
                    let to = node_id(self.others[0].id);
                    let _ = self.node.transfer_leadership(to).wait_timeout(PATIENCE);
                }
            }
        }
    }

    /// Waits until all that was acknowledged is everywhere.
    fn level(&self) {
        let session = self.session();
        session.sync().wait_timeout(PATIENCE).expect("a barrier");
        let zxid = self.node.zxid().0;
        for other in &self.others {
            other.reaches(zxid);
        }
    }

    fn session(&self) -> Session {
        let mut opening = self.node.session().open();
        opening.wait_timeout(PATIENCE).expect("it opens")
    }

    fn restart(&mut self, at: usize, join: bool) {
        let id = self.others[at].id;
        self.others[at] = Process::launch(id, &path_of(self.dir.path(), id), join);
        self.spread();
        self.others[at].start();
    }
}

fn path_of(dir: &Path, id: u64) -> std::path::PathBuf {
    dir.join(format!("node-{id}"))
}

fn node_id(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

/// A leader is lost so many times; how long until the next write is acknowledged.
fn failover(how: &str, rounds: usize) {
    let mut cluster = Cluster::start();
    let session = cluster.session();
    let created = session.create("/bench", "", CreateMode::Persistent);
    created.wait().expect("it is created");
    let mut gaps = Times::default();
    for _ in 0..rounds {
        let at = cluster.follow();
        // Somewhere between two heartbeats, whichever it is.
        windowed(200, 8, |_| session.set("/bench", "before", Version::ANY));
        gaps.timed(|| {
            match how {
                "killed" => cluster.others[at].kill(),
                _ => cluster.others[at].stop(),
            }
            let mut set = session.set("/bench", "after", Version::ANY);
            set.wait_timeout(PATIENCE).expect("it is set");
        });
        match how {
            "killed" => cluster.restart(at, false),
            _ => cluster.others[at].resume(),
        }
    }
    println!(
        "leader {how}, {rounds} times: writes resumed after p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, at most {:.0} ms",
        gaps.percentile(50) / 1e3,
        gaps.percentile(90) / 1e3,
        gaps.percentile(99) / 1e3,
        gaps.percentile(100) / 1e3,
    );
}

/// A follower loses its disk: removed, joined, added and given a vote, while writers go on.
fn catch_up(sizes: &Sizes) {
    let mut cluster = Cluster::start();
    cluster.lead();
    let session = cluster.session();
    let leaves = support::leaf_paths(sizes.znodes);
    let paths = support::with_parents(&leaves);
    let data = support::data(DATA_BYTES);
    windowed(paths.len(), 1000, |number| {
        session.create(paths[number], &data, CreateMode::Persistent)
    });
    cluster.level();
    println!(
        "catch-up of a follower of {} znodes that has lost its disk",
        sizes.znodes
    );
    println!("  outstanding            writes/s  p50 us  p99 us  max us  p99 ratio");
    for outstanding in [1, 100] {
        // What the filling has left to do, such as snapshots, is over.
        std::thread::sleep(sizes.writing / 2);
        cluster.lead();
        let stop = AtomicBool::new(false);
        let alone = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&session, &leaves, outstanding, &stop));
            std::thread::sleep(sizes.writing);
            stop.store(true, Ordering::Relaxed);
            writer.join().expect("it writes")
        });
        line(outstanding, "without", &alone, None);
        stop.store(false, Ordering::Relaxed);
        let (beside, steps) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&session, &leaves, outstanding, &stop));
            let steps = lose_a_disk(&mut cluster);
            stop.store(true, Ordering::Relaxed);
            (writer.join().expect("it writes"), steps)
        });
        line(outstanding, "during", &beside, Some(&alone));
        println!("          {steps}");
    }
}

fn lose_a_disk(cluster: &mut Cluster) -> String {
    cluster.others[1].kill();
    let id = cluster.others[1].id;
    std::fs::remove_dir_all(path_of(cluster.dir.path(), id)).expect("a directory to wipe");
    let node = node_id(id);
    let begun = Instant::now();
    insist(|| cluster.node.remove(node).wait_timeout(PATIENCE));
    cluster.restart(1, true);
    insist(|| cluster.node.add_learner(node).wait_timeout(PATIENCE));
    let added = begun.elapsed();
    cluster.others[1].reaches(cluster.node.zxid().0);
    let has_all = begun.elapsed();
    insist(|| cluster.node.promote(node).wait_timeout(PATIENCE));
    format!(
        "removed, joined and added after {:.2} s, has everything after {:.2} s, a voter again after {:.2} s",
        added.as_secs_f64(),
        has_all.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    )
}

/// Asks again while the answer is that it is not yet so.
fn insist<T>(mut ask: impl FnMut() -> quorate::Result<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(
                error.is_retryable() && Instant::now() < deadline,
                "refused: {error}"
            ),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes until it is told to stop. How long each took, and all together.
fn write(
    session: &Session,
    leaves: &[String],
    outstanding: usize,
    stop: &AtomicBool,
) -> (Times, Duration) {
    let data = support::data(DATA_BYTES);
    let mut times = Times::default();
    let mut flying = VecDeque::new();
    let begun = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) || !flying.is_empty() {
        if !stop.load(Ordering::Relaxed) {
            // A prime step walks over all of them.
            number = (number + 7_919) % leaves.len();
            let pending = session.set(&leaves[number], &data, Version::ANY);
            flying.push_back((Instant::now(), pending));
        }
        if (flying.len() >= outstanding || stop.load(Ordering::Relaxed))
            && let Some((start, pending)) = flying.pop_front()
        {
            pending.wait().expect("it is set");
            times.push(start.elapsed());
        }
    }
    (times, begun.elapsed())
}

fn line(
    outstanding: usize,
    name: &str,
    found: &(Times, Duration),
    base: Option<&(Times, Duration)>,
) {
    let (times, whole) = found;
    let p99 = times.percentile(99);
    let ratio = base.map_or(String::new(), |(base, _)| {
        format!("{:9.2}", p99 / base.percentile(99))
    });
    println!(
        "  {outstanding:11}  {name:8} {:10.0}  {:6.0}  {p99:6.0}  {:6.0}  {ratio}",
        times.len() as f64 / whole.as_secs_f64(),
        times.percentile(50),
        times.percentile(100),
    );
}

//! Three nodes over TCP on loopback, each in a process of its own; this process's is one of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate::transport::{Peers, Tcp};
use quorate::{Node, NodeId, Role, Session};

use super::process::Process;

const PATIENCE: Duration = Duration::from_secs(120);
/// This process's own node; the others are processes that can be killed.
const SELF: u64 = 1;

/// This process's node, and the two others.
pub struct Cluster {
    pub node: Arc<Node>,
    peers: Peers,
    address: String,
    store: String,
    pub others: Vec<Process>,
    pub dir: tempfile::TempDir,
}

impl Cluster {
    /// Three voters on stores of this kind, `log` or `sled`, with a leader.
    pub fn start(store: &str) -> Cluster {
        let dir = super::directory();
        let tcp = Tcp::builder("127.0.0.1:0").bind().expect("a free port");
        let (peers, address) = (tcp.peers(), tcp.local_addr().to_string());
        let others = [2, 3].map(|id| Process::launch(id, store, &path_of(dir.path(), id), false));
        let node = Node::builder(SELF)
            .voters([1, 2, 3])
            .storage(super::durable(store, &path_of(dir.path(), SELF)))
            .transport(tcp)
            .start()
            .expect("it starts");
        let mut cluster = Cluster {
            node: Arc::new(node),
            peers,
            address,
            store: store.to_string(),
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

    pub fn leader(&self) -> u64 {
        let known = self
            .node
            .wait_for(PATIENCE, |status| status.leader.is_some());
        let leader = known.expect("there is a leader").leader;
        leader.expect("just seen").as_u64()
    }

    /// Makes this node the leader.
    pub fn lead(&self) {
        let mine = node_id(SELF);
        while self.node.status().role != Role::Leader {
            // Refused while it is behind, or the leader has just changed.
            let _ = self.node.transfer_leadership(mine).wait_timeout(PATIENCE);
        }
    }

    /// Makes another one the leader, and waits until all have everything.
    pub fn follow(&self) -> usize {
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
    pub fn level(&self) {
        let session = self.session();
        session.sync().wait_timeout(PATIENCE).expect("a barrier");
        let zxid = self.node.zxid().0;
        for other in &self.others {
            other.reaches(zxid);
        }
    }

    pub fn session(&self) -> Session {
        let mut opening = self.node.session().open();
        opening.wait_timeout(PATIENCE).expect("it opens")
    }

    pub fn restart(&mut self, at: usize, join: bool) {
        let id = self.others[at].id;
        self.others[at] = Process::launch(id, &self.store, &path_of(self.dir.path(), id), join);
        self.spread();
        self.others[at].start();
    }
}

pub fn path_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("node-{id}"))
}

pub fn node_id(id: u64) -> NodeId {
    NodeId::new(id).expect("not 0")
}

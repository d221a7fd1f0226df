//! Three nodes that can be stopped and started.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use quorate::transport::Network;
use quorate::{Credentials, Error, Node, NodeId, Role, Session};

use crate::options::Stores;
use crate::{AnyError, PATIENCE};

const IDS: [u64; 3] = [1, 2, 3];

pub(crate) struct Cluster {
    network: Network,
    stores: Stores,
    /// `None` where the node is stopped.
    nodes: [Mutex<Option<Node>>; 3],
}

impl Cluster {
    pub(crate) fn start(stores: Stores) -> Result<Cluster, AnyError> {
        let cluster = Cluster {
            network: Network::new(1),
            stores,
            nodes: Default::default(),
        };
        for id in IDS {
            cluster.start_node(id)?;
        }
        Ok(cluster)
    }

    pub(crate) fn start_node(&self, id: u64) -> Result<(), AnyError> {
        let endpoint = self
            .network
            .endpoint(NodeId::new(id).ok_or("0 is no node's id")?);
        let builder = Node::builder(id)
            .cluster("distributed_lock")
            .voters(IDS)
            .transport(endpoint);
        *self.node(id) = Some(self.stores.give(id, builder)?.start()?);
        Ok(())
    }

    /// Stops a node: its threads end, and its directory is free.
    pub(crate) fn stop(&self, id: u64) {
        let node = self.node(id).take();
        drop(node);
    }

    fn node(&self, id: u64) -> MutexGuard<'_, Option<Node>> {
        self.nodes[id as usize - 1]
            .lock()
            .expect("nobody panics with it")
    }

    /// Waits until a node leads.
    pub(crate) fn leader(&self) -> Result<u64, AnyError> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for id in IDS {
                let status = self.node(id).as_ref().map(Node::status);
                if status.is_some_and(|status| status.role == Role::Leader) {
                    return Ok(id);
                }
            }
            std::thread::sleep(PATIENCE / 3000);
        }
        Err("no node leads".into())
    }

    /// Waits until this node has what the leader has now.
    pub(crate) fn catch_up(&self, id: u64) -> Result<String, AnyError> {
        let began = Instant::now();
        let leader = self.leader()?;
        let goal = self.node(leader).as_ref().map(|node| node.status().zxid);
        let goal = goal.ok_or("the leader was stopped")?;
        let node = self.node(id);
        let node = node.as_ref().ok_or("it was not started")?;
        let status = node.wait_for(PATIENCE, |status| status.zxid >= goal)?;
        let (zxid, took) = (status.zxid, began.elapsed());
        Ok(format!(
            "Node {id} has caught up to the write {zxid} in {took:?}."
        ))
    }

    /// Opens a session on a node.
    pub(crate) fn open_session(&self, id: u64) -> Result<Session, Error> {
        let opening = self.node(id).as_ref().map(|node| node.session().open());
        opening.ok_or_else(stopped)?.wait_timeout(PATIENCE)
    }

    /// Takes a session over, with all that it owns, on this node.
    pub(crate) fn attach_session(
        &self,
        id: u64,
        credentials: &Credentials,
    ) -> Result<Session, Error> {
        let node = self.node(id);
        let attaching = node.as_ref().map(|node| node.session().attach(credentials));
        drop(node);
        attaching.ok_or_else(stopped)?.wait_timeout(PATIENCE)
    }
}

fn stopped() -> Error {
    let reason = "it is not running".to_string();
    Error::Stopped { reason }
}

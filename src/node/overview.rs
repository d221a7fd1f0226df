//! What an operator asks a node for: its cluster's sessions and ephemerals, its own watches.
//!
//! Copies of what is published at one moment. They cost their size; nothing here waits for the writer,
//! but the list of watches holds it off while it is copied.

use super::{NodeHandle, WatchKind};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::path::ZnodePath;

/// A session of the cluster, as a node knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SessionStatus {
    /// The session.
    pub id: SessionId,
    /// How long it outlives silence, in milliseconds.
    pub timeout_ms: u32,
    /// The node that it is attached to.
    pub node: NodeId,
}

/// A watch that is set at a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub struct WatchStatus {
    /// The session of the watcher through which it was set.
    pub session: SessionId,
    /// What is watched.
    pub path: ZnodePath,
    /// For which changes.
    pub kind: WatchKind,
}

impl NodeHandle {
    /// All sessions of the cluster, sorted by id.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        let sessions = self.shared().reader().sessions().into_iter();
        sessions
            .map(|(id, timeout_ms, node)| SessionStatus {
                id,
                timeout_ms,
                node,
            })
            .collect()
    }

    /// All ephemerals of the cluster with the sessions that own them, sorted by session and path.
    pub fn ephemerals(&self) -> Vec<(SessionId, ZnodePath)> {
        let ephemerals = self.shared().reader().ephemerals();
        ephemerals.iter().cloned().collect()
    }

    /// How many ephemerals the cluster has.
    pub fn ephemerals_count(&self) -> usize {
        self.shared().reader().ephemerals().len()
    }

    /// Digests of the tree as of every 128th write that this node has applied since it was started, the last
    /// 1,024 of them, the oldest first. Nodes that have the same tree have the same digest as of the same
    /// write; other ones say that replicas have come to differ. They are about paths, data and stats, not about
    /// sessions, nor about which ACLs znodes have. A node that has caught up by a snapshot lacks what that has skipped.
    pub fn digests(&self) -> Vec<(Zxid, u64)> {
        self.shared().reader().digests()
    }

    /// All watches that are set at this node, sorted by session and path.
    pub fn watches(&self) -> Vec<WatchStatus> {
        let watches = self.shared().watches.lock().all();
        let mut watches: Vec<WatchStatus> = watches
            .into_iter()
            .map(|(session, path, kind)| WatchStatus {
                session,
                path: ZnodePath::from_shared(path),
                kind,
            })
            .collect();
        watches.sort_unstable();
        watches
    }
}

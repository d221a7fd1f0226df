//! How a node with an empty storage learns which cluster it belongs to.
//!
//! It asks the nodes that it was told of until one answers for the leader. Then it begins with a
//! *placeholder*: a snapshot at index 1 of a term that no log has there. It binds the storage to the
//! cluster, and it matches nobody's log, so that everything, the configuration above all, comes from
//! the leader as a snapshot once the node is added. The answer also says as of which log entry the
//! node was no member: an older snapshot is of a former life under the same id, and is refused.
//! Nothing is promised before the storage is bound, so a crash at any moment leaves a node that either
//! asks again or goes on.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::inbox::PeerInbox;
use crate::ids::{ClusterId, NodeId};
use crate::proto::Rules;
use crate::replica::{Join, JoinOutcome, JoinReply, PeerMessage, Welcome};
use crate::storage::{Configuration, SnapshotMeta};
use crate::transport::{Inbox, Message, Transport};

/// How long an answer is waited for before everybody is asked again.
const RETRY: Duration = Duration::from_millis(100);

/// The most answers that wait; further ones are dropped, as a network may.
const REPLIES_MAX: usize = 64;

/// Why a node with an empty storage could not join its cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// No node answered for a leader in time. Trying again is harmless. Over TCP nobody answers either while
    /// a member of the same id is connected: the transport refuses this one, and logs why on both sides.
    #[error("none of the nodes {peers:?} answered for a leader within {waited:?}")]
    NoAnswer {
        /// Who was asked.
        peers: Vec<NodeId>,
        /// For how long.
        waited: Duration,
    },
    /// The nodes that were asked are another cluster's.
    #[error("the nodes asked don't belong to a cluster of the name {name:?}")]
    OtherName {
        /// The name given to the builder.
        name: String,
    },
    /// The node is a member, but its storage is empty: its disk was lost, and with it what it has
    /// promised. Remove it from the cluster first; then it can join, and be added again.
    #[error("node {node} is a member already, but its storage is empty: remove it first")]
    Member {
        /// The node.
        node: NodeId,
    },
}

/// What a joining node begins with. `peers` stand for the voters, whom it doesn't know yet.
pub(super) fn placeholder(peers: &[NodeId]) -> SnapshotMeta {
    SnapshotMeta {
        index: 1,
        // Every cluster's log has term 1 there, or nothing any more.
        term: 2,
        configuration: Configuration {
            voters: peers.to_vec(),
            ..Default::default()
        },
    }
}

/// Where a transport hands in what arrives: answers to a joining node, and what the running node gets.
pub(crate) struct JoiningInbox {
    replies: Sender<JoinReply>,
    running: OnceLock<PeerInbox>,
}

impl JoiningInbox {
    pub(crate) fn new() -> (Arc<JoiningInbox>, Receiver<JoinReply>) {
        let (replies, receiver) = bounded(REPLIES_MAX);
        let inbox = JoiningInbox {
            replies,
            running: OnceLock::new(),
        };
        (Arc::new(inbox), receiver)
    }

    /// From now on everything goes to the node.
    pub(super) fn run(&self, inbox: PeerInbox) {
        let _ = self.running.set(inbox);
    }
}

impl Inbox for JoiningInbox {
    fn deliver(&self, message: Message) -> bool {
        if let Some(running) = self.running.get() {
            return running.deliver(message);
        }
        // Without a cluster's id nothing else is believed.
        if message.cluster() != ClusterId(0) {
            return false;
        }
        match PeerMessage::decode(&message.into_payload()) {
            Ok((PeerMessage::JoinReply(reply), _)) => self.replies.try_send(reply).is_ok(),
            _ => false,
        }
    }

    fn disconnected(&self, peer: NodeId) {
        if let Some(running) = self.running.get() {
            running.disconnected(peer);
        }
    }
}

/// What everybody is asked.
pub(crate) fn question(join: &Join) -> Bytes {
    PeerMessage::Join(join.clone()).encode(Rules::LATEST)
}

/// What an answer says to whom it concerns; `None` where it is another's.
pub(crate) fn answered(join: &Join, reply: &JoinReply) -> Option<Result<Welcome, JoinError>> {
    if reply.nonce != join.nonce || reply.node != join.node {
        return None;
    }
    Some(match reply.outcome {
        JoinOutcome::Welcome(welcome) => Ok(welcome),
        JoinOutcome::OtherName => Err(JoinError::OtherName {
            name: join.name.clone(),
        }),
        JoinOutcome::Member => Err(JoinError::Member { node: join.node }),
    })
}

/// Asks until somebody answers, or `patience` is over.
pub(super) fn inquire(
    join: &Join,
    peers: &[NodeId],
    transport: &dyn Transport,
    replies: &Receiver<JoinReply>,
    patience: Duration,
) -> Result<Welcome, JoinError> {
    let deadline = Instant::now() + patience;
    let payload = question(join);
    while Instant::now() < deadline {
        for &peer in peers {
            let message = Message::new(ClusterId(0), join.node, peer, payload.clone());
            transport.send(message);
        }
        let ask_again = (Instant::now() + RETRY).min(deadline);
        while let Ok(reply) = replies.recv_deadline(ask_again) {
            if let Some(answer) = answered(join, &reply) {
                return answer;
            }
        }
    }
    Err(JoinError::NoAnswer {
        peers: peers.to_vec(),
        waited: patience,
    })
}

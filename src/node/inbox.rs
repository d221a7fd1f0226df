//! What arrives from other nodes, on its way to the loop: strangers are refused here, and what has no room is
//! dropped, as a network may. It knows nothing of what messages say, but how a node asks to join.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use crossbeam_channel::Sender;

use super::Waker;
use crate::ids::{ClusterId, NodeId};
use crate::observe::NodeMeters;
use crate::replica::{NAME_BYTES_MAX, PeerMessage};
use crate::transport::{Inbox, Message};

/// The most bytes of messages that wait for the loop, unless one message has more.
const PEER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Where a transport hands in what arrives for a node.
pub(super) struct PeerInbox {
    pub cluster: ClusterId,
    pub id: NodeId,
    pub peers: Sender<(NodeId, Bytes)>,
    /// The bytes of what waits in `peers`.
    pub bytes_queued: Arc<AtomicUsize>,
    pub disconnected: Sender<NodeId>,
    pub waker: Waker,
    pub meters: NodeMeters,
}

impl PeerInbox {
    /// Puts a message into the loop's queue, if there is room.
    fn queue(&self, message: Message) -> bool {
        let bytes = message.payload().len();
        let before = self.bytes_queued.fetch_add(bytes, Ordering::AcqRel);
        let fits = before == 0 || before + bytes <= PEER_BYTES_MAX;
        let from = message.from();
        let taken = fits && self.peers.try_send((from, message.into_payload())).is_ok();
        if !taken {
            self.bytes_queued.fetch_sub(bytes, Ordering::AcqRel);
        }
        taken
    }
}

impl Inbox for PeerInbox {
    fn deliver(&self, message: Message) -> bool {
        // Strangers are refused: another cluster's nodes, and messages for somebody else. Who doesn't know
        // its cluster yet may ask for it.
        let asks = message.cluster() == ClusterId(0) && is_join(message.payload(), message.from());
        if (message.cluster() != self.cluster && !asks) || message.to() != self.id {
            return false;
        }
        let lane = message.lane() as usize;
        self.meters.received(lane, message.encoded_len());
        let taken = self.queue(message);
        if !taken {
            self.meters.dropped(lane);
        }
        self.waker.wake();
        taken
    }

    fn disconnected(&self, peer: NodeId) {
        // A hint: where there are too many, the election timeout does as well.
        if self.disconnected.try_send(peer).is_ok() {
            self.waker.wake();
        }
    }
}

fn is_join(payload: &Bytes, from: NodeId) -> bool {
    payload.len() <= NAME_BYTES_MAX + 64
        && matches!(PeerMessage::decode(payload), Ok((PeerMessage::Join(join), _)) if join.node == from)
}

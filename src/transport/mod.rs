//! How replicas reach each other: the trait that a host may implement, and the built-in transports.
//!
//! Floor 1. A transport carries opaque messages. It may drop, delay, duplicate and reorder them: the
//! layers above expect that and lose nothing by it but time.

mod memory;
mod message;
#[cfg(feature = "tcp")]
mod tcp;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use bytes::Bytes;

pub use self::memory::{Faults, Memory, Network};
pub use self::message::HEADER_BYTES;
#[cfg(feature = "tcp")]
pub use self::tcp::{Peers, Tcp, TcpBuilder};
#[cfg(feature = "tls")]
pub use self::tcp::{TlsConfig, TlsStream};
use crate::{ClusterId, NodeId};

/// A message from one node to another. Its payload is opaque to a transport.
#[derive(Clone)]
pub struct Message {
    cluster: ClusterId,
    from: NodeId,
    to: NodeId,
    lane: Lane,
    payload: Bytes,
}

/// How a message may travel. A hint of its sender's to the transport, and no part of what is said.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Lane {
    /// A late message costs the cluster something: heartbeats, votes, entries, requests.
    #[default]
    Urgent,
    /// A piece of a bulk transfer, which must not delay the others: a snapshot's.
    Bulk,
}

/// Whom a transport works for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Local {
    /// The cluster that the node belongs to; 0 while it does not know yet which one it joins. It is told
    /// no other way than by the cluster of what it then sends.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

impl Local {
    /// Whether `cluster` is the node's own, and known to be.
    #[cfg(feature = "tcp")]
    fn is_of(&self, cluster: ClusterId) -> bool {
        self.cluster == cluster && cluster != ClusterId(0)
    }
}

/// Where a transport hands in what arrives.
///
/// # What you guarantee
/// `deliver` never blocks. It returns false where the node's queue is full or the node is gone: the
/// message is lost then, as it could have been on the wire.
pub trait Inbox: Send + Sync {
    /// Hands in one message.
    fn deliver(&self, message: Message) -> bool;

    /// A connection with `peer` that was in use has just broken, which a process that dies does to its
    /// connections at once. A hint, and only from a transport that has connections: nothing is certain
    /// about the peer, it may be called more than once or not at all. It never blocks either.
    fn disconnected(&self, peer: NodeId) {
        let _ = peer;
    }
}

/// The sending end of a bounded channel is an inbox.
impl Inbox for SyncSender<Message> {
    fn deliver(&self, message: Message) -> bool {
        self.try_send(message).is_ok()
    }
}

/// A failure to start a transport. Failures to send are silent: a message may always be lost.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address can't be bound or is not understood.
    #[error("transport: cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: String,
        /// The operating system's words.
        reason: String,
    },
    /// A certificate or a key can't be used.
    #[error("transport: cannot use {path}: {reason}")]
    Credentials {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `start` was called twice, or after `stop`.
    #[error("transport: node {node} was started twice")]
    AlreadyStarted {
        /// The node.
        node: NodeId,
    },
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// More bytes than a message may have.
    #[error("a message of {found} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes found (or announced).
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Fewer bytes than announced, or the checksum, the magic number or a field is wrong.
    #[error("not a message: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

/// A network of one node.
///
/// # What the caller guarantees
/// - `start` is called once, before the first `send`; `stop` once, after the last.
/// - `message.from()` is the node that the transport was started for.
///
/// # What you guarantee
/// - `send` never blocks: what can't be taken at once is dropped. Queues are bounded.
/// - A message is delivered to the inbox of `message.to()` and of nobody else, unaltered, or not at
///   all. It may come late, twice, or out of order.
/// - After `stop` returned, nothing is delivered to the inbox any more, and the inbox is dropped.
///
/// # Errors
/// Only `start` reports any.
///
/// # After a crash
/// Nothing is remembered.
///
/// # Threads
/// `&self` throughout, `Send + Sync`; `send` is called from the node's thread.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Begins to deliver to `inbox`, and to speak for `local`.
    ///
    /// # Errors
    /// See [`TransportError`].
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError>;

    /// Sends, or drops.
    fn send(&self, message: Message);

    /// `node` is at `address` from now on, as far as the caller knows. A transport that has no use for
    /// addresses ignores it.
    fn set_address(&self, node: NodeId, address: &str) {
        let _ = (node, address);
    }

    /// Ends delivery and releases every resource.
    fn stop(&self);
}

macro_rules! transport_behind {
    ($pointer:ident) => {
        /// A transport behind a pointer is a transport: a host may choose one when it runs.
        impl<T: Transport + ?Sized> Transport for $pointer<T> {
            fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
                (**self).start(local, inbox)
            }

            fn send(&self, message: Message) {
                (**self).send(message);
            }

            fn set_address(&self, node: NodeId, address: &str) {
                (**self).set_address(node, address);
            }

            fn stop(&self) {
                (**self).stop();
            }
        }
    };
}

transport_behind!(Arc);
transport_behind!(Box);

/// The largest encoded message, in bytes. Entries and snapshot chunks are cut so that they fit.
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

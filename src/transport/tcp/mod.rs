//! The transport over TCP, in the clear or with mutual TLS.
//!
//! One thread with non-blocking sockets serves all connections. What a node sends to a peer goes over a
//! connection that it has dialled itself, what it receives over one that the peer has dialled; bulk
//! transfers have a connection of their own. It knows no replica: it carries frames.
//!
//! The invariants: `send` takes a lock and puts into a bounded queue, nothing else; a peer that has not
//! said hello costs a few hundred bytes and a few seconds; no frame is delivered but from the node that
//! the connection's hello named, to this node.

mod address_book;
mod connection;
mod frame;
mod hello;
mod reactor;
mod resolver;
mod send_queue;
mod shared;
mod stream;
#[cfg(feature = "tls")]
mod subject;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use self::reactor::Reactor;
use self::resolver::LookUp;
use self::send_queue::Bounds;
use self::shared::Shared;
use super::{Inbox, Lane, Local, MESSAGE_BYTES_MAX, Message, Transport, TransportError};
use crate::NodeId;

#[cfg(feature = "tls")]
pub use self::tls::{TlsConfig, TlsStream};

/// Where the lines of the log come from.
const TARGET: &str = crate::observe::TRANSPORT;

/// One lane to one peer.
type Link = (NodeId, Lane);

/// A transport over TCP.
///
/// Each node listens at one address and dials its peers when it has something to say to them. A peer
/// that is of another cluster, isn't the node that was dialled, or speaks another version of the
/// protocol is refused, with a line in the log of both (`tracing`, target `quorate::transport`); so is one
/// that joins under the id of a member that is connected.
///
/// Without TLS everybody who can reach the port can pass for a node of the cluster; see
/// `TlsConfig` (feature `tls`).
///
/// **Addresses.** A peer's address is `host:port`; the name is looked up at every dial. The host says
/// where the first peers are and can change its mind at any time ([`Tcp::peers`]). A node also tells
/// those that it dials where it listens and whom it knows at first hand, so that a new member has to be told
/// of one other, and the others needn't be told of it. What the host says is never overridden by that. Of
/// nodes that have said themselves where they are, and of those that others have told of, 1,024 each are
/// remembered, the latest and those that are connected.
///
/// **Queues.** For each peer and lane so many messages and so many bytes are kept
/// ([`TcpBuilder::queue_max`]). Where that is full the oldest urgent message makes room; bulk messages
/// are dropped instead. While there is no connection, only the newest 256 messages or 1 MiB are kept.
///
/// **Connections** that break are made anew when there is something to send, after a pause that doubles
/// from 20 ms to a second, and varies by half. A peer that dials this node is dialled at once.
///
/// ```
/// use quorate::transport::Tcp;
///
/// let tcp = Tcp::builder("127.0.0.1:0").peer(2, "127.0.0.1:7002").bind()?;
/// let peers = tcp.peers();
/// println!("listening at {}", tcp.local_addr());
/// // quorate::Node::builder(1).voters([1, 2, 3]).transport(tcp).start()?;
/// peers.set(3, "three.example:7003");
/// # Ok::<(), quorate::transport::TransportError>(())
/// ```
pub struct Tcp {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// What the thread is made of, until it starts.
    parts: Mutex<Option<Parts>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Parts {
    options: Options,
    listener: TcpListener,
    poll: mio::Poll,
}

/// What a [`TcpBuilder`] decides, but for the peers.
#[derive(Debug)]
struct Options {
    advertised: String,
    accepts_unknown: bool,
    inbound_connections_max: usize,
    handshakes_max: usize,
    handshake_timeout: Duration,
    idle_timeout: Duration,
    reconnect_min: Duration,
    reconnect_max: Duration,
    look_up: LookUp,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

/// Makes a [`Tcp`]. Every option but the address has a default.
#[derive(Debug)]
pub struct TcpBuilder {
    listen: String,
    advertised: Option<String>,
    peers: Vec<(u64, String)>,
    bounds: Bounds,
    options: Options,
}

impl TcpBuilder {
    /// Where a peer is: `host:port`.
    pub fn peer(mut self, node: u64, address: impl Into<String>) -> TcpBuilder {
        self.peers.push((node, address.into()));
        self
    }

    /// Where the peers are, as `(node, "host:port")`. The node itself may be among them.
    pub fn peers<A: Into<String>>(
        mut self,
        peers: impl IntoIterator<Item = (u64, A)>,
    ) -> TcpBuilder {
        let peers = peers
            .into_iter()
            .map(|(node, address)| (node, address.into()));
        self.peers.extend(peers);
        self
    }

    /// Where this node tells its peers to dial it, as `host:port`, at most 255 bytes. By default the
    /// address that it listens at; where that is unspecified (`0.0.0.0`), its port at the address that
    /// the peer sees.
    pub fn advertise(mut self, address: impl Into<String>) -> TcpBuilder {
        self.advertised = Some(address.into());
        self
    }

    /// Encrypts, and lets only those speak that have a certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: TlsConfig) -> TcpBuilder {
        self.options.tls = Some(tls);
        self
    }

    /// Refuses nodes that are not in the address book. By default a node that is new to this one is
    /// let in, if it is of the same cluster (or is joining and knows none) and, with TLS, has a
    /// certificate for its id: whether it takes part the cluster decides, not the transport.
    pub fn refuse_unknown(mut self) -> TcpBuilder {
        self.options.accepts_unknown = false;
        self
    }

    /// The most messages and bytes that wait for one peer on one lane: 16,384 and 64 MiB by default.
    /// One message is always taken.
    pub fn queue_max(mut self, messages: usize, bytes: usize) -> TcpBuilder {
        self.bounds = Bounds {
            messages_max: messages.max(1),
            bytes_max: bytes,
        };
        self
    }

    /// The most connections that others have made to this node: 256 by default. A node takes two; one
    /// more is refused, unless it is of a peer that the host has named.
    pub fn inbound_connections_max(mut self, connections: usize) -> TcpBuilder {
        self.options.inbound_connections_max = connections;
        self
    }

    /// The most connections of which it isn't known yet whose they are: 64 by default. For one more
    /// the oldest is closed.
    pub fn handshakes_max(mut self, connections: usize) -> TcpBuilder {
        self.options.handshakes_max = connections.max(1);
        self
    }

    /// How long a connection may take to be made and introduced: 5 s by default.
    pub fn handshake_timeout(mut self, timeout: Duration) -> TcpBuilder {
        self.options.handshake_timeout = timeout;
        self
    }

    /// After what silence a connection is given up: 5 s by default. Three times in this time who
    /// dialled gives a sign of life, and the other answers. After a partition TCP itself sends again after
    /// pauses that have grown with it; a new connection doesn't wait for that. To be the same on all nodes, as
    /// each gives signs of life by its own. Connections for snapshots, where signs of life stand behind
    /// much else, have three times as long.
    pub fn idle_timeout(mut self, timeout: Duration) -> TcpBuilder {
        self.options.idle_timeout = timeout;
        self
    }

    /// The shortest and the longest pause before a peer is dialled again: 20 ms and 1 s by default.
    pub fn reconnect(mut self, shortest: Duration, longest: Duration) -> TcpBuilder {
        self.options.reconnect_min = shortest;
        self.options.reconnect_max = longest.max(shortest);
        self
    }

    /// Begins to listen. Connections wait until the node starts.
    ///
    /// # Errors
    /// [`TransportError::Listen`] where the address is not understood or can't be had, and where a
    /// peer's id is 0.
    pub fn bind(self) -> Result<Tcp, TransportError> {
        let failed = |reason: String| TransportError::Listen {
            address: self.listen.clone(),
            reason,
        };
        let refused = |error: io::Error| failed(error.to_string());
        let (listener, poll) = bind(&self.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let waker = mio::Waker::new(poll.registry(), reactor::WAKER).map_err(refused)?;
        let shared = Arc::new(Shared::new(waker, self.bounds));
        for (node, address) in &self.peers {
            let node = NodeId::new(*node).ok_or_else(|| failed("0 is no node's id".to_owned()))?;
            shared.name(node, address);
        }
        let mut options = self.options;
        options.advertised = self.advertised.unwrap_or_else(|| {
            if address.ip().is_unspecified() {
                format!(":{}", address.port())
            } else {
                address.to_string()
            }
        });
        Ok(Tcp {
            shared,
            address,
            parts: Mutex::new(Some(Parts {
                options,
                listener,
                poll,
            })),
            thread: Mutex::new(None),
        })
    }
}

fn bind(address: &str) -> io::Result<(TcpListener, mio::Poll)> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&addresses[..])?;
    listener.set_nonblocking(true)?;
    Ok((listener, mio::Poll::new()?))
}

impl Tcp {
    /// Begins to make a transport that listens at `listen` (`host:port`; port 0 is any that is free).
    pub fn builder(listen: impl Into<String>) -> TcpBuilder {
        TcpBuilder {
            listen: listen.into(),
            advertised: None,
            peers: Vec::new(),
            bounds: Bounds {
                messages_max: 16_384,
                bytes_max: 4 * MESSAGE_BYTES_MAX,
            },
            options: Options {
                advertised: String::new(),
                accepts_unknown: true,
                inbound_connections_max: 256,
                handshakes_max: 64,
                handshake_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(5),
                reconnect_min: Duration::from_millis(20),
                reconnect_max: Duration::from_secs(1),
                look_up: resolver::ask_system,
                #[cfg(feature = "tls")]
                tls: None,
            },
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Who is where: a handle that outlives the transport's being given to a node.
    pub fn peers(&self) -> Peers {
        Peers {
            shared: self.shared.clone(),
        }
    }
}

impl fmt::Debug for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tcp")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Transport for Tcp {
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        let Some(parts) = self.parts.lock().take() else {
            return Err(TransportError::AlreadyStarted { node: local.node });
        };
        let failed = |error: io::Error| TransportError::Listen {
            address: self.address.to_string(),
            reason: error.to_string(),
        };
        let reactor = Reactor::new(parts, self.shared.clone(), local, inbox).map_err(failed)?;
        let mut thread = self.thread.lock();
        self.shared.open(local);
        let running = std::thread::Builder::new()
            .name(format!("quorate-{}-tcp", local.node))
            .spawn(move || reactor.run())
            .map_err(failed)?;
        *thread = Some(running);
        Ok(())
    }

    fn send(&self, message: Message) {
        if message.encoded_len() <= MESSAGE_BYTES_MAX {
            self.shared.send(message);
        }
    }

    fn set_address(&self, node: NodeId, address: &str) {
        self.shared.name(node, address);
    }

    fn stop(&self) {
        self.shared.close();
        drop(self.parts.lock().take());
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A thread that panicked has printed why, and has stopped all the same.
            let _ = thread.join();
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The addresses of a [`Tcp`]'s peers. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

impl Peers {
    /// From now on `node` is at `address` (`host:port`). A connection to where it was is closed.
    /// Node 0 is nobody: nothing happens.
    pub fn set(&self, node: u64, address: impl AsRef<str>) {
        if let Some(node) = NodeId::new(node) {
            self.shared.name(node, address.as_ref());
        }
    }

    /// Forgets where `node` is: nothing is sent to it, unless it is set again or dials this node.
    pub fn remove(&self, node: u64) {
        if let Some(node) = NodeId::new(node) {
            self.shared.forget(node);
        }
    }

    /// Where `node` is, if that is known.
    pub fn address(&self, node: u64) -> Option<String> {
        self.shared.address(NodeId::new(node)?)
    }

    /// All that are known, by node.
    pub fn all(&self) -> Vec<(NodeId, String)> {
        self.shared.addresses()
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.all()).finish()
    }
}

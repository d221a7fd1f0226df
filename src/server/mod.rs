//! A server for ZooKeeper's own clients, in the host's process (feature `zookeeper`).
//!
//! Floor 6: the public API alone. A wire client's session is a [`crate::Session`] like any other, kept
//! alive by what its client sends, and everything that it does takes the ways of those sessions.
//!
//! ```no_run
//! # use quorate::{Node, server::ZooKeeperServer};
//! let node = Node::builder(1).start()?;
//! let server = ZooKeeperServer::builder(&node).listen("127.0.0.1:2181").start()?;
//! println!("serving ZooKeeper clients at {}", server.address());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod auth;
mod builder;
mod client;
mod connection;
mod io;
pub(crate) mod jute;
mod outstanding;
mod settings;
mod statistics;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use builder::{ServerError, ZooKeeperServerBuilder};

use crate::{Node, NodeHandle};
use io::Mailbox;
use settings::Settings;
use statistics::Statistics;

/// Serves ZooKeeper's protocol over TCP. Dropping it closes all connections; the sessions live on until
/// they time out, or are taken up at another server.
pub struct ZooKeeperServer {
    shared: Arc<Shared>,
    mailboxes: Vec<Mailbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for ZooKeeperServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperServer")
            .field("address", &self.address())
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl ZooKeeperServer {
    /// Begins to make a server of this node.
    pub fn builder(node: &Node) -> ZooKeeperServerBuilder {
        ZooKeeperServerBuilder::new(node.handle())
    }

    /// Where it listens: with the port that it was given, where it asked for any.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many requests its clients have sent, and how many replies and events they were sent.
    pub fn packets(&self) -> (u64, u64) {
        (
            self.shared.statistics.received.load(Ordering::Relaxed),
            self.shared.statistics.sent.load(Ordering::Relaxed),
        )
    }

    /// Closes all connections and ends the threads. Again it does nothing.
    pub fn shutdown(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        for mailbox in &self.mailboxes {
            mailbox.ready.wake();
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

impl Drop for ZooKeeperServer {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// What all threads of a server share.
struct Shared {
    node: NodeHandle,
    address: SocketAddr,
    settings: Settings,
    stopping: AtomicBool,
    connections: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    outstanding: AtomicUsize,
    statistics: Statistics,
}

impl Shared {
    fn new(node: NodeHandle, settings: Settings, address: SocketAddr) -> Shared {
        Shared {
            node,
            address,
            settings,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            statistics: Statistics::new(),
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn log(&self, line: &str) {
        (self.settings.log)(line);
    }

    /// Whether another request may be called. Approximately: each thread looks for itself.
    fn may_call(&self) -> bool {
        self.outstanding.load(Ordering::Relaxed) < self.settings.outstanding_total_max
    }

    fn count_outstanding(&self, before: usize, now: usize) {
        if now >= before {
            self.outstanding.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.outstanding.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Counts a connection in, if there is room for it.
    fn admit(&self, address: IpAddr) -> Result<(), &'static str> {
        if self.connections.load(Ordering::Relaxed) >= self.settings.connections_max {
            return Err("there are too many connections");
        }
        let mut by_address = self.by_address.lock();
        let count = by_address.entry(address).or_default();
        if *count >= self.settings.connections_per_address_max {
            return Err("there are too many connections from its address");
        }
        *count += 1;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn dismiss(&self, address: IpAddr) {
        let mut by_address = self.by_address.lock();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

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

#[cfg(feature = "admin")]
mod admin;
mod auth;
mod builder;
mod client;
mod connection;
mod ensemble;
mod io;
pub(crate) mod jute;
mod output;
mod outstanding;
mod reconfig;
mod report;
mod settings;
mod standing;
mod statistics;
mod stream;
mod words;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use parking_lot::Mutex;

pub use builder::{ServerError, ZooKeeperServerBuilder};

use crate::{AuthId, Node, NodeHandle, NodeStatus, Result, SessionId, Version};
use ensemble::Ensemble;
use io::Mailbox;
use outstanding::Load;
use settings::Settings;
use standing::Standing;
use statistics::Statistics;

/// Serves ZooKeeper's protocol over TCP. Dropping it closes all connections; the sessions live on until
/// they time out, or are taken up at another server.
pub struct ZooKeeperServer {
    shared: Arc<Shared>,
    mailboxes: Vec<Mailbox>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    #[cfg(feature = "admin")]
    admin: Option<admin::Admin>,
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

    /// Where it listens for TLS alone, where it was told to
    /// ([`ZooKeeperServerBuilder::listen_tls`]).
    pub fn secure_address(&self) -> Option<SocketAddr> {
        self.shared.secure_address
    }

    /// Where operators and monitors are answered by HTTP ([`ZooKeeperServerBuilder::admin`]).
    #[cfg(feature = "admin")]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(|admin| admin.address)
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
        // Ends the wait for changes.
        drop(self.shared.changes.lock().take());
        for mailbox in &self.mailboxes {
            mailbox.ready.wake();
        }
        #[cfg(feature = "admin")]
        if let Some(admin) = &self.admin {
            admin.stop();
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
    secure_address: Option<SocketAddr>,
    settings: Settings,
    standing: Standing,
    stopping: AtomicBool,
    connections: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
    outstanding: AtomicUsize,
    outstanding_bytes: AtomicUsize,
    statistics: Statistics,
    /// How many slow four-letter words are being answered.
    inspections: AtomicUsize,
    /// Which lines go to the log (ZooKeeper's `ZooTrace`).
    trace_mask: AtomicI64,
    /// Where changes of membership are asked for; none when the server stops.
    changes: Mutex<Option<Sender<reconfig::Job>>>,
    /// One is being carried out.
    changing: AtomicBool,
}

/// ZooKeeper's trace mask: client requests, packets of servers, sessions and warnings.
const TRACE_MASK: i64 = 0b1_0011_0010;
/// The bit of it for warnings: all lines of this server are that.
const TRACE_WARNINGS: i64 = 1 << 8;

impl Shared {
    fn new(
        node: NodeHandle,
        settings: Settings,
        address: SocketAddr,
        secure_address: Option<SocketAddr>,
        changes: Sender<reconfig::Job>,
    ) -> Shared {
        Shared {
            node,
            address,
            secure_address,
            standing: Standing::default(),
            inspections: AtomicUsize::new(0),
            trace_mask: AtomicI64::new(TRACE_MASK),
            changes: Mutex::new(Some(changes)),
            changing: AtomicBool::new(false),
            settings,
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            by_address: Mutex::default(),
            outstanding: AtomicUsize::new(0),
            outstanding_bytes: AtomicUsize::new(0),
            statistics: Statistics::new(),
        }
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn log(&self, line: &str) {
        if self.trace_mask.load(Ordering::Relaxed) & TRACE_WARNINGS != 0 {
            // The host's own code: its fault must not end a thread of ours.
            let log = AssertUnwindSafe(|| (self.settings.log)(line));
            let _ = std::panic::catch_unwind(log);
        }
    }

    /// Where the node stands, which is taken note of.
    fn look(&self) -> NodeStatus {
        let status = self.node.status();
        let (now, patience) = (Instant::now(), self.settings.read_only_after);
        self.standing.note(&status, patience, now);
        status
    }

    /// Whether there has been no leader for so long that clients are served without one.
    fn is_read_only(&self) -> bool {
        self.standing.is_read_only()
    }

    fn has_leader(&self) -> bool {
        self.standing.has_leader()
    }

    /// Whether anybody can be served at all.
    fn serves(&self) -> bool {
        self.is_read_only() || self.has_leader()
    }

    fn leader_uptime(&self) -> Duration {
        self.standing.leader_uptime(Instant::now())
    }

    fn session_timeouts_ms(&self) -> (u32, u32) {
        self.node.status().session_timeouts_ms
    }

    /// Whether the cluster has such a session, as far as this node knows.
    fn is_session(&self, id: SessionId) -> bool {
        let sessions = self.node.sessions();
        sessions
            .binary_search_by_key(&id, |session| session.id)
            .is_ok()
    }

    /// What `/zookeeper/config` says, as this node knows it.
    fn ensemble(&self) -> String {
        self.config()
            .map_or_else(|_| String::new(), |(text, _)| text)
    }

    /// The same, understood, and the version of the znode. What somebody has made unreadable is nothing.
    fn ensemble_with_version(&self) -> Result<(Ensemble, Version)> {
        let (text, version) = self.config()?;
        Ok((Ensemble::parse(&text).unwrap_or_default(), version))
    }

    fn config(&self) -> Result<(String, Version)> {
        let session = self.node.session().open_read_only()?;
        // The node's own server may read it, whatever its ACL.
        session.add_auth(AuthId::new("super", "")).wait()?;
        let (data, stat) = session.get(reconfig::CONFIG).wait()?;
        let text = String::from_utf8_lossy(&data).into_owned();
        Ok((text, Version(stat.version)))
    }

    /// Asks for a change of membership; nothing where another is under way.
    fn reconfigure(&self, job: reconfig::Job) -> bool {
        let changes = self.changes.lock();
        if self.changing.swap(true, Ordering::AcqRel) {
            return false;
        }
        changes
            .as_ref()
            .is_some_and(|jobs| jobs.try_send(job).is_ok())
    }

    /// Whether another request may be called. Approximately: each thread looks for itself.
    fn may_call(&self) -> bool {
        let settings = &self.settings;
        self.outstanding.load(Ordering::Relaxed) < settings.outstanding_total_max
            && self.outstanding_bytes.load(Ordering::Relaxed) < settings.outstanding_bytes_total_max
    }

    fn count_outstanding(&self, before: Load, now: Load) {
        let count = |counter: &AtomicUsize, before: usize, now: usize| match now >= before {
            true => counter.fetch_add(now - before, Ordering::Relaxed),
            false => counter.fetch_sub(before - now, Ordering::Relaxed),
        };
        count(&self.outstanding, before.requests, now.requests);
        count(&self.outstanding_bytes, before.bytes, now.bytes);
    }

    /// Counts a connection in, if there is room for it.
    fn admit(&self, address: IpAddr) -> std::result::Result<(), &'static str> {
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

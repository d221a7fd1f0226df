//! From a host's wishes to a running server.

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::io::{Acceptor, IoThread};
use super::settings::Settings;
use super::words::Allowed;
use super::{Shared, ZooKeeperServer};
use crate::NodeHandle;

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Its address can't be had.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address as it was given.
        address: String,
        /// The operating system's reason.
        error: std::io::Error,
    },
    /// The operating system gives it no threads or no means to wait.
    #[error("cannot serve: {0}")]
    System(#[from] std::io::Error),
}

/// Makes a [`ZooKeeperServer`]. Every option has a default.
#[must_use = "nothing is served before `start`"]
pub struct ZooKeeperServerBuilder {
    node: NodeHandle,
    address: String,
    settings: Settings,
}

impl fmt::Debug for ZooKeeperServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperServerBuilder")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ZooKeeperServerBuilder {
    pub(super) fn new(node: NodeHandle) -> ZooKeeperServerBuilder {
        ZooKeeperServerBuilder {
            node,
            address: "127.0.0.1:2181".to_string(),
            settings: Settings::default(),
        }
    }

    /// Where clients connect: `127.0.0.1:2181` by default. Port 0 is any that is free.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.address = address.into();
        self
    }

    /// The largest frame that a client may send, in bytes (ZooKeeper's `jute.maxbuffer`): 1,048,575 by
    /// default. With a larger one its connection is closed.
    pub fn frame_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.frame_bytes_max = bytes;
        self
    }

    /// The most connections: 16,384 by default. One more is closed as soon as it is accepted.
    pub fn connections_max(mut self, connections: usize) -> Self {
        self.settings.connections_max = connections;
        self
    }

    /// The most connections from one address (ZooKeeper's `maxClientCnxns`): no fewer than in all by
    /// default.
    pub fn connections_per_address_max(mut self, connections: usize) -> Self {
        self.settings.connections_per_address_max = connections;
        self
    }

    /// The most requests of one connection that are under way: 256 by default. No more are read from it
    /// meanwhile.
    pub fn outstanding_max(mut self, requests: usize) -> Self {
        self.settings.outstanding_max = requests.max(1);
        self
    }

    /// On how many paths one session may have watches: 100,000 by default. A request for one more is
    /// answered with ThrottledOp (-127).
    pub fn watches_max(mut self, watches: usize) -> Self {
        self.settings.watches_max = watches;
        self
    }

    /// How many events may wait for one client: 10,000 by default. With more its connection is closed; it
    /// connects again, and its watches are brought up to date.
    pub fn events_max(mut self, events: usize) -> Self {
        self.settings.events_max = events;
        self
    }

    /// How long a client may take to ask for its session: 10 s by default. Then its connection is closed,
    /// however much of its first record has come; as is one that doesn't take its last reply in this time.
    pub fn greeting_timeout(mut self, timeout: Duration) -> Self {
        self.settings.greeting_timeout = timeout;
        self
    }

    /// How many threads serve the connections: as many as there are cores, but two at most, by default.
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = threads.max(1);
        self
    }

    /// Who may do everything: `user:base64(sha1(user:password))` (ZooKeeper's
    /// `DigestAuthenticationProvider.superDigest`). Nobody by default.
    pub fn super_digest(mut self, digest: impl Into<String>) -> Self {
        self.settings.super_digest = Some(digest.into());
        self
    }

    /// Which four-letter words are answered (ZooKeeper's `4lw.commands.whitelist`): `srvr` alone by
    /// default; `*` is all of them.
    pub fn four_letter_words(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        self.settings.words = match words.iter().any(|word| word == "*") {
            true => Allowed::All,
            false => Allowed::These(words),
        };
        self
    }

    /// Where a line goes for each connection that is refused or closed for a reason. Called from the
    /// serving threads; it must not block. Nowhere by default.
    pub fn log(mut self, log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.settings.log = Arc::new(log);
        self
    }

    /// Starts to serve.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn start(self) -> Result<ZooKeeperServer, ServerError> {
        let (listener, address) = bind(&self.address).map_err(|error| ServerError::Listen {
            address: self.address.clone(),
            error,
        })?;
        let threads_count = self.settings.threads;
        let shared = Arc::new(Shared::new(self.node, self.settings, address));
        let mut io_threads = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..threads_count {
            let (io_thread, mailbox) = IoThread::new(shared.clone())?;
            io_threads.push(io_thread);
            mailboxes.push(mailbox);
        }
        let server = ZooKeeperServer {
            shared,
            mailboxes: mailboxes.clone(),
            threads: Mutex::default(),
        };
        let mut acceptor = Some(Acceptor {
            listener: mio::net::TcpListener::from_std(listener),
            mailboxes,
            next: 0,
        });
        for io_thread in io_threads {
            let acceptor = acceptor.take();
            let thread = std::thread::Builder::new()
                .name("quorate-zookeeper".to_string())
                .spawn(move || io_thread.run(acceptor))?;
            server.threads.lock().push(thread);
        }
        Ok(server)
    }
}

fn bind(address: &str) -> std::io::Result<(TcpListener, SocketAddr)> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&addresses[..])?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

//! From a host's wishes to a running server.

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

#[cfg(feature = "admin")]
use super::admin::Admin;
use super::connection::Encryption;
use super::ensemble::Address;
use super::io::{Acceptor, IoThread};
use super::reconfig;
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
    /// An address that is to be told to others is none.
    #[error("{address:?} can't be advertised: {reason}")]
    Advertise {
        /// The address as it was given.
        address: String,
        /// What is wrong with it.
        reason: String,
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
    #[cfg(feature = "tls")]
    secure_address: Option<String>,
    #[cfg(feature = "admin")]
    admin_address: Option<String>,
    peer_address: Option<String>,
    client_address: Option<String>,
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
            #[cfg(feature = "tls")]
            secure_address: None,
            #[cfg(feature = "admin")]
            admin_address: None,
            peer_address: None,
            client_address: None,
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

    /// The most connections. One more is closed as soon as it is accepted. By default 16,384, or as many as
    /// the process may still open files (its soft limit, where the system tells it: on Linux), less 256 that
    /// are left to the node and its host: a storage that can open no file stops its node.
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

    /// The most bytes of requests of all connections that are under way: 256 MiB by default, and beyond that
    /// no more than a connection's turn for each thread. No more are read meanwhile.
    pub fn outstanding_bytes_total_max(mut self, bytes: usize) -> Self {
        self.settings.outstanding_bytes_total_max = bytes.max(1);
        self
    }

    /// The largest reply to a client, in bytes: 64 MiB by default. What would be longer, such as that to very
    /// many reads at once, is answered with MarshallingError (-5) instead. More than 2 GiB no frame holds.
    pub fn reply_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.reply_bytes_max = bytes;
        self
    }

    /// On how many paths one session may have watches: 100,000 by default. A request for one more is
    /// answered with ThrottledOp (-127).
    pub fn watches_max(mut self, watches: usize) -> Self {
        self.settings.watches_max = watches;
        self
    }

    /// How many bytes the paths may have, together, that one session watches: 16 MiB by default. A request
    /// for one more is answered with ThrottledOp (-127).
    pub fn watch_path_bytes_max(mut self, bytes: usize) -> Self {
        self.settings.watch_path_bytes_max = bytes;
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

    /// Lets clients speak TLS (1.2 or 1.3), on the same port as those that don't: their first bytes tell
    /// (ZooKeeper's `client.portUnification`). A client that shows a certificate that the authorities have
    /// signed has proven the identity `x509:` and its subject, as RFC 2253 writes it; one without a
    /// certificate is refused, unless
    /// [`TlsConfig::client_certificates_optional`](crate::transport::TlsConfig::client_certificates_optional)
    /// says otherwise. New certificates are taken up without a restart.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::transport::TlsConfig) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// Gives TLS an address of its own (ZooKeeper's `secureClientPort`), where nothing else is spoken; at
    /// the other there is none then. It needs [`ZooKeeperServerBuilder::tls`].
    #[cfg(feature = "tls")]
    pub fn listen_tls(mut self, address: impl Into<String>) -> Self {
        self.secure_address = Some(address.into());
        self
    }

    /// Refuses clients that don't speak TLS, where it has no address of its own.
    #[cfg(feature = "tls")]
    pub fn refuse_plain(mut self) -> Self {
        self.settings.refuses_plain = true;
        self
    }

    /// Whose certificate lets its holder do everything: its subject as RFC 2253 writes it (ZooKeeper's
    /// `X509AuthenticationProvider.superUser`). Nobody's by default.
    #[cfg(feature = "tls")]
    pub fn super_x509(mut self, subject: impl Into<String>) -> Self {
        self.settings.super_x509 = Some(subject.into());
        self
    }

    /// Serves a client only once it has proven an identity of one of these schemes, such as `digest` or
    /// `x509` (ZooKeeper's `enforce.auth.enabled` and `enforce.auth.schemes`). Anything else but
    /// authenticating is answered with SessionClosedRequireSaslAuth (-124), and the connection closed.
    /// Nothing is required by default.
    pub fn require_authentication(
        mut self,
        schemes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.settings.required_schemes = schemes.into_iter().map(Into::into).collect();
        self
    }

    /// Answers writes of a client that has proven no identity with NoAuth (-102), whatever the ACLs allow.
    /// The address that a client comes from proves nothing.
    pub fn refuse_anonymous_writes(mut self) -> Self {
        self.settings.refuses_anonymous_writes = true;
        self
    }

    /// Answers operators and monitors by HTTP at this address, such as `127.0.0.1:8080`: ZooKeeper's
    /// commands as JSON (`/commands` lists them), `/metrics` for Prometheus, `/health` (the node runs) and
    /// `/ready` (it knows a leader). Whoever reaches it is told everything but the znodes' data, so it
    /// should not be reached from everywhere. Nowhere by default.
    #[cfg(feature = "admin")]
    pub fn admin(mut self, address: impl Into<String>) -> Self {
        self.admin_address = Some(address.into());
        self
    }

    /// Where the other nodes reach this one (`host:port`), for `/zookeeper/config`, which the servers keep
    /// from now on: a line for each member whose server says where it is, and a version. Clients find this
    /// server where it listens, or at the address that [`ZooKeeperServerBuilder::advertise_client`] names.
    ///
    /// Without it the znode is as it was, and empty at first, as a ZooKeeper's that runs alone.
    pub fn advertise(mut self, peer_address: impl Into<String>) -> Self {
        self.peer_address = Some(peer_address.into());
        self
    }

    /// Where clients reach this server (`host:port`), if that isn't where it listens. It needs
    /// [`ZooKeeperServerBuilder::advertise`].
    pub fn advertise_client(mut self, address: impl Into<String>) -> Self {
        self.client_address = Some(address.into());
        self
    }

    /// Lets clients change who takes part by `reconfig` (ZooKeeper's `reconfigEnabled`), who may write to
    /// `/zookeeper/config`: at first a super user alone. By default it is answered ReconfigDisabled (-123).
    pub fn allow_reconfig(mut self) -> Self {
        self.settings.reconfig = true;
        self
    }

    /// How long a new participant may take to be heard of and to catch up, before a `reconfig` that names
    /// it is taken back and answered NewConfigNoQuorum (-13): 10 s by default.
    pub fn reconfig_patience(mut self, patience: std::time::Duration) -> Self {
        self.settings.reconfig_patience = patience;
        self
    }

    /// After how long without a leader clients that asked for it are served read-only, from what the node
    /// has applied, and all others are turned away: 2 s by default. When there is a leader again the
    /// read-only ones are turned away, so that they come back and are served wholly.
    pub fn read_only_after(mut self, patience: std::time::Duration) -> Self {
        self.settings.read_only_after = patience;
        self
    }

    /// Where the node keeps its files: `dirs` and `conf` say how large they are.
    pub fn directory(mut self, directory: impl Into<std::path::PathBuf>) -> Self {
        self.settings.directory = Some(directory.into());
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
    pub fn start(mut self) -> Result<ZooKeeperServer, ServerError> {
        let (listener, address) = bind(&self.address).map_err(|error| ServerError::Listen {
            address: self.address.clone(),
            error,
        })?;
        #[cfg_attr(not(feature = "tls"), allow(unused_mut))]
        let mut listeners = vec![(
            mio::net::TcpListener::from_std(listener),
            self.encryption_of_main_port(),
        )];
        #[cfg_attr(not(feature = "tls"), allow(unused_mut))]
        let mut secure_address = None;
        #[cfg(feature = "tls")]
        if let Some(address) = &self.secure_address {
            let failed = |error| ServerError::Listen {
                address: address.clone(),
                error,
            };
            if self.settings.tls.is_none() {
                let error = std::io::Error::other("it is for TLS, but there are no certificates");
                return Err(failed(error));
            }
            let (listener, address) = bind(address).map_err(failed)?;
            let listener = mio::net::TcpListener::from_std(listener);
            listeners.push((listener, Encryption::Required));
            secure_address = Some(address);
        }
        #[cfg(feature = "admin")]
        let admin = match &self.admin_address {
            Some(address) => {
                let listener = bind(address).map_err(|error| ServerError::Listen {
                    address: address.clone(),
                    error,
                })?;
                listener.0.set_nonblocking(false)?;
                Some(listener.0)
            }
            None => None,
        };
        self.settings.advertised = understood(self.peer_address.as_deref())?;
        self.settings.advertised_client = understood(self.client_address.as_deref())?;
        let threads_count = self.settings.threads;
        let (jobs, jobs_out) = reconfig::queue();
        let shared = Shared::new(self.node, self.settings, address, secure_address, jobs);
        let shared = Arc::new(shared);
        shared.look();
        let mut io_threads = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..threads_count {
            let (io_thread, mailbox) = IoThread::new(shared.clone())?;
            io_threads.push(io_thread);
            mailboxes.push(mailbox);
        }
        let server = ZooKeeperServer {
            #[cfg(feature = "admin")]
            admin: match admin {
                Some(listener) => Some(Admin::start(listener, &shared)?),
                None => None,
            },
            shared,
            mailboxes: mailboxes.clone(),
            threads: Mutex::default(),
        };
        let mut acceptor = Some(Acceptor {
            listeners,
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
        if server.shared.settings.advertised.is_some() || server.shared.settings.reconfig {
            let shared = server.shared.clone();
            let thread = std::thread::Builder::new()
                .name("quorate-zookeeper-config".to_string())
                .spawn(move || reconfig::run(&shared, &jobs_out))?;
            server.threads.lock().push(thread);
        }
        Ok(server)
    }

    fn encryption_of_main_port(&self) -> Encryption {
        #[cfg(feature = "tls")]
        if self.settings.tls.is_some() && self.secure_address.is_none() {
            return match self.settings.refuses_plain {
                true => Encryption::Required,
                false => Encryption::Offered,
            };
        }
        Encryption::Settled
    }
}

fn understood(address: Option<&str>) -> Result<Option<Address>, ServerError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let understood = Address::parse(address);
    understood
        .map(Some)
        .map_err(|misstated| ServerError::Advertise {
            address: address.to_string(),
            reason: misstated.into_reason(),
        })
}

fn bind(address: &str) -> std::io::Result<(TcpListener, SocketAddr)> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let listener = TcpListener::bind(&addresses[..])?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

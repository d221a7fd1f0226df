//! Mutual TLS: who may speak, by certificates that can be changed while the node runs.
//!
//! It knows no frames. The invariant: no byte of a peer is given out unless the peer has shown a
//! certificate that the configured authorities signed.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use mio::net::TcpStream;
use parking_lot::Mutex;
use rustls::client::Resumption;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, Connection, RootCertStore, ServerConfig};

use super::TARGET;
use super::stream::retry;
use super::subject::subject;
use crate::NodeId;
use crate::transport::TransportError;

/// How much may wait to be encrypted or sent on one connection, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// What a node needs for mutual TLS (version 1.3): the authorities that sign the peers' certificates,
/// and its own certificate with its key, all of them PEM files.
///
/// **Whose certificate it is.** The certificate of node *n* must be valid for the DNS name `node-n`
/// (a subject alternative name), so that no node can pass for another; see [`TlsConfig::node_names`].
/// Each certificate is shown both to who dials and to who is dialled: where it restricts its use, it
/// must allow server *and* client authentication.
///
/// **New certificates.** Before each new connection the files are looked at, and read again where they
/// have changed; [`TlsConfig::reload`] does it at once. Files that can't be used leave the former ones in
/// force, with a line in the log. Connections that exist stay as they are.
#[derive(Clone)]
pub struct TlsConfig {
    files: Arc<Files>,
    loaded: Arc<Mutex<Loaded>>,
    names: Arc<dyn Fn(NodeId) -> String + Send + Sync>,
}

#[derive(Clone)]
struct Files {
    authorities: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    /// Whether clients that are no peers need no certificate.
    clients_anonymous: bool,
}

/// What tells one version of a file from another.
type Stamp = Option<(SystemTime, u64)>;

struct Loaded {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// For clients that are no peers.
    clients: Arc<ServerConfig>,
    stamps: [Stamp; 3],
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("authorities", &self.files.authorities)
            .field("certificate", &self.files.certificate)
            .finish_non_exhaustive()
    }
}

impl TlsConfig {
    /// Reads the PEM files: the certificates of the authorities, this node's certificate (with its
    /// chain, its own first), and its private key.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] names the file that can't be used.
    pub fn from_pem_files(
        authorities: impl Into<PathBuf>,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<TlsConfig, TransportError> {
        let files = Files {
            authorities: authorities.into(),
            certificate: certificate.into(),
            key: key.into(),
            clients_anonymous: false,
        };
        let loaded = files.load()?;
        Ok(TlsConfig {
            files: Arc::new(files),
            loaded: Arc::new(Mutex::new(loaded)),
            names: Arc::new(|node| format!("node-{node}")),
        })
    }

    /// The DNS name (or IP address) that a node's certificate must be valid for: `node-` and its id by
    /// default. The same for all lets every node use one certificate, and then any of them can pass for
    /// any other. All nodes of a cluster name each other alike.
    pub fn node_names(
        mut self,
        name: impl Fn(NodeId) -> String + Send + Sync + 'static,
    ) -> TlsConfig {
        self.names = Arc::new(name);
        self
    }

    /// Lets in clients that are no peers ([`TlsConfig::accept_client`]) without a certificate of their own;
    /// one that is shown must be valid all the same. By default they need one. Peers always do.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] names the file that can't be used any more.
    pub fn client_certificates_optional(self) -> Result<TlsConfig, TransportError> {
        let mut files = Files::clone(&self.files);
        files.clients_anonymous = true;
        let loaded = files.load()?;
        Ok(TlsConfig {
            files: Arc::new(files),
            loaded: Arc::new(Mutex::new(loaded)),
            names: self.names,
        })
    }

    /// Goes on encrypted with a client that is no peer, on a connection that it has made: for servers of the
    /// host's own. TLS 1.3, or 1.2 for clients that know no other. Nothing is read or written yet.
    ///
    /// # Errors
    /// The certificate can't be used.
    pub fn accept_client<S: Read + Write>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.refresh();
        let config = self.loaded.lock().clients.clone();
        let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(TlsStream::new(stream, connection.into()))
    }

    /// Reads the files again. New connections use what they say.
    ///
    /// # Errors
    /// [`TransportError::Credentials`] names the file that can't be used; the former ones stay in force.
    pub fn reload(&self) -> Result<(), TransportError> {
        let loaded = self.files.load()?;
        *self.loaded.lock() = loaded;
        Ok(())
    }

    /// Reads the files again where they have changed.
    fn refresh(&self) {
        let stamps = self.files.stamps();
        if self.loaded.lock().stamps == stamps {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!(target: TARGET, "certificates reloaded"),
            Err(error) => {
                tracing::warn!(target: TARGET, %error, "new certificates can't be used, the former stay");
                // Each version of the files is complained of once.
                self.loaded.lock().stamps = stamps;
            }
        }
    }

    pub(super) fn dial(&self, socket: TcpStream, peer: NodeId) -> io::Result<TlsStream<TcpStream>> {
        self.refresh();
        let name = self.name(peer)?;
        let config = self.loaded.lock().client.clone();
        let connection = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        Ok(TlsStream::new(socket, connection.into()))
    }

    pub(super) fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.refresh();
        let config = self.loaded.lock().server.clone();
        let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(TlsStream::new(socket, connection.into()))
    }

    /// Says what is wrong with the certificate of whoever dialled for `peer` to have it.
    pub(super) fn check_dialler(
        &self,
        stream: &TlsStream<TcpStream>,
        peer: NodeId,
    ) -> Result<(), String> {
        let shown = stream.connection.peer_certificates();
        let own = shown
            .and_then(<[_]>::first)
            .ok_or("it shows no certificate")?;
        let name = self.name(peer).map_err(|error| error.to_string())?;
        ParsedCertificate::try_from(own)
            .and_then(|own| rustls::client::verify_server_name(&own, &name))
            .map_err(|error| format!("its certificate is not for {name:?}: {error}"))
    }

    fn name(&self, node: NodeId) -> io::Result<ServerName<'static>> {
        ServerName::try_from((self.names)(node)).map_err(io::Error::other)
    }
}

impl Files {
    fn stamps(&self) -> [Stamp; 3] {
        [&self.authorities, &self.certificate, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }

    fn load(&self) -> Result<Loaded, TransportError> {
        // Taken first: what changes while they are read is noticed the next time.
        let stamps = self.stamps();
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities)? {
            roots
                .add(authority)
                .map_err(|error| unusable(&self.authorities, &error))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&self.certificate)?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unusable(&self.key, &error))?;

        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| unusable(&self.authorities, &error))?;
        let wrong = |error: rustls::Error| unusable(&self.certificate, &error);
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(wrong)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = match self.clients_anonymous {
            true => verifier.allow_unauthenticated(),
            false => verifier,
        };
        let verifier = verifier
            .build()
            .map_err(|error| unusable(&self.authorities, &error))?;
        let mut clients = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(wrong)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(wrong)?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(wrong)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(wrong)?;
        // A resumed session would not look at a certificate again.
        for server in [&mut server, &mut clients] {
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
        }
        client.resumption = Resumption::disabled();
        Ok(Loaded {
            client: Arc::new(client),
            server: Arc::new(server),
            clients: Arc::new(clients),
            stamps,
        })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let wrong = |error: rustls::pki_types::pem::Error| unusable(path, &error);
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(wrong)?
        .collect::<Result<_, _>>()
        .map_err(wrong)?;
    if found.is_empty() {
        return Err(unusable(path, &"it holds no certificate"));
    }
    Ok(found)
}

fn unusable(path: &Path, reason: &dyn fmt::Display) -> TransportError {
    TransportError::Credentials {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

/// An encrypted connection over a stream that may be non-blocking. Its calls then return
/// [`io::ErrorKind::WouldBlock`], and are made again when the stream is ready: reading also makes the
/// handshake go on, and [`TlsStream::flush`] sends what waits.
pub struct TlsStream<S> {
    socket: S,
    connection: Connection,
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("is_handshaking", &self.is_handshaking())
            .finish_non_exhaustive()
    }
}

impl<S> TlsStream<S> {
    /// The stream below, for whoever waits for it. What is read from it or written to it is lost.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Whether it isn't agreed yet who speaks, and by which keys.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether something waits to be sent by [`TlsStream::flush`].
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// The subject of the certificate that the other side has shown, as RFC 2253 writes it
    /// (`CN=worker,O=Example,C=DE`); `None` where it has shown none, or not yet.
    pub fn peer_subject(&self) -> Option<String> {
        let shown = self.connection.peer_certificates()?;
        subject(shown.first()?)
    }
}

impl<S: Read + Write> TlsStream<S> {
    fn new(socket: S, mut connection: Connection) -> TlsStream<S> {
        connection.set_buffer_limit(Some(BUFFER_BYTES));
        TlsStream { socket, connection }
    }

    /// Bytes that have come; 0 at the end.
    ///
    /// # Errors
    /// The stream's; [`io::ErrorKind::InvalidData`] where the other side is not understood or not trusted.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if retry(|| self.connection.read_tls(&mut self.socket))? == 0 {
                return Ok(0);
            }
            let processed = self.connection.process_new_packets();
            // The handshake's next words, or the alert that says what is wrong.
            let flushed = self.flush();
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match flushed {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    /// Hands over some of `bytes`; a part of them may still have to be flushed.
    ///
    /// # Errors
    /// The stream's; [`io::ErrorKind::WouldBlock`] where there is no room now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let written = self.connection.writer().write(bytes)?;
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
        if written == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(written)
    }

    /// Sends what encryption holds back.
    ///
    /// # Errors
    /// The stream's.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if retry(|| self.connection.write_tls(&mut self.socket))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Tells the other side that nothing was cut off, as far as that goes without waiting.
    pub fn say_goodbye(&mut self) {
        self.connection.send_close_notify();
        let _ = self.flush();
    }
}

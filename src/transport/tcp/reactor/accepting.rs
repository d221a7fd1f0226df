//! Who dials this node, and whether that is welcome.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mio::Token;
use mio::net::TcpStream;

use super::{Closing, FIRST, Reactor, Served, has_dialled};
use crate::ClusterId;
use crate::transport::Local;
use crate::transport::tcp::TARGET;
use crate::transport::tcp::address_book::Teller;
use crate::transport::tcp::connection::{Connection, Role};
use crate::transport::tcp::hello::{Answer, Hello, Refusal, Unreadable};
use crate::transport::tcp::stream::Stream;

/// How long nobody is accepted when the system has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Reactor {
    pub(super) fn accept(&mut self) {
        self.accepts = false;
        self.accepts_again_at = None;
        // So many at once at most: connections that exist have their turn in between.
        for _ in 0..self.options.handshakes_max {
            match self.listener.accept() {
                Ok((socket, address)) => self.admit(socket, address),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    tracing::warn!(target: TARGET, node = %self.local.node, %error, "can't accept a connection");
                    self.accepts_again_at = Some(self.now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
        self.accepts = true;
    }

    fn admit(&mut self, socket: TcpStream, address: SocketAddr) {
        let strangers = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.role == Role::Stranger);
        let (count, oldest) = strangers.fold((0, None), |(count, oldest), (key, connection)| {
            let this = (connection.opened_at, key);
            (
                count + 1,
                Some(oldest.map_or(this, |other: (_, usize)| other.min(this))),
            )
        });
        if let Some((_, key)) = oldest
            && count >= self.options.handshakes_max
        {
            self.close(
                key,
                Closing::Lost("too many wait to be introduced".to_owned()),
            );
        }
        if let Err(error) = self.greet(socket, address) {
            tracing::debug!(target: TARGET, node = %self.local.node, %address, %error, "a connection can't be served");
        }
    }

    fn greet(&mut self, socket: TcpStream, address: SocketAddr) -> io::Result<()> {
        socket.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        let stream = match &self.options.tls {
            Some(tls) => Stream::Tls(Box::new(tls.accept(socket)?)),
            None => Stream::Plain(socket),
        };
        #[cfg(not(feature = "tls"))]
        let stream = Stream::Plain(socket);
        let connection = Connection::new(stream, address, Role::Stranger, self.now);
        let key = self.connections.insert(connection);
        let registered = self.connections[key]
            .stream
            .register(self.poll.registry(), Token(key + FIRST));
        if registered.is_err() {
            self.connections.remove(key);
        }
        registered
    }

    /// Reads the hello of a connection, as far as it has come.
    pub(super) fn introduce(&mut self, key: usize) -> Served {
        let unfinished = self.connections[key].assembler.unfinished();
        let (hello, length) = match Hello::decode(unfinished) {
            Ok(None) => return Ok(()),
            Ok(Some(decoded)) => decoded,
            Err(Unreadable::Malformed(reason)) => {
                return Err(Closing::Refused(format!("it said no hello: {reason}")));
            }
            Err(version) => return Err(self.refuse(key, Refusal::Version, version.to_string())),
        };
        unfinished.drain(..length);
        if let Err((refusal, reason)) = self.judge(key, &hello) {
            return Err(self.refuse(key, refusal, reason));
        }
        self.welcome(key, &hello);
        // What came right behind it.
        self.take_frames(key, (hello.local.node, hello.lane), 0)
    }

    /// Says why `hello` isn't welcome, if so.
    fn judge(&self, key: usize, hello: &Hello) -> Result<(), (Refusal, String)> {
        let (own, other) = (self.local, hello.local);
        if own.cluster.0 != 0 && other.cluster.0 != 0 && own.cluster != other.cluster {
            let reason = format!(
                "node {} is of cluster {}, this is cluster {}",
                other.node, other.cluster, own.cluster
            );
            return Err((Refusal::Cluster, reason));
        }
        if hello.to != own.node {
            let reason = format!("node {} was dialled, this is node {}", hello.to, own.node);
            return Err((Refusal::Receiver, reason));
        }
        if other.node == own.node {
            let reason = format!("the dialler says that it is node {}, as this one", own.node);
            return Err((Refusal::Sender, reason));
        }
        self.check_certificate(key, hello)?;
        if let Some(reason) = self.is_twin(other) {
            return Err((Refusal::Twin, reason));
        }
        if !self.options.accepts_unknown && self.shared.address(other.node).is_none() {
            let reason = format!("node {} is not known here", other.node);
            return Err((Refusal::Unknown, reason));
        }
        let most = self.options.inbound_connections_max;
        let replaces = self.inbound.contains_key(&(other.node, hello.lane));
        // Those whom the host has named aren't many, and no stranger keeps them out.
        if self.inbound.len() >= most && !replaces && !self.shared.is_named(other.node) {
            let reason = format!("{most} connections are the most");
            return Err((Refusal::Crowded, reason));
        }
        Ok(())
    }

    /// Says so where `peer` knows no cluster while a member of its id is connected: it is somebody else,
    /// started with an empty disk under the member's id, and would take its place. A member that has lost
    /// its disk has lost its connections too; it may ask, and is answered above.
    pub(super) fn is_twin(&self, peer: Local) -> Option<String> {
        if peer.cluster != ClusterId(0) {
            return None;
        }
        let is_member = |connection: &Connection| {
            let node = match connection.role {
                Role::From(link) | Role::To(link) => link.0,
                Role::Stranger | Role::Dialling(_) => return false,
            };
            connection.is_member && node == peer.node
        };
        let is_connected = self.connections.iter().any(|(_, c)| is_member(c));
        is_connected.then(|| {
            format!(
                "node {} is connected, and this one of the same id knows no cluster",
                peer.node
            )
        })
    }

    #[cfg(feature = "tls")]
    fn check_certificate(&self, key: usize, hello: &Hello) -> Result<(), (Refusal, String)> {
        if let (Some(tls), Stream::Tls(stream)) = (&self.options.tls, &self.connections[key].stream)
        {
            let checked = tls.check_dialler(stream, hello.local.node);
            checked.map_err(|reason| (Refusal::Certificate, reason))?;
        }
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    fn check_certificate(&self, _: usize, _: &Hello) -> Result<(), (Refusal, String)> {
        Ok(())
    }

    /// Tells the dialler why; the connection is to be closed then.
    fn refuse(&mut self, key: usize, refusal: Refusal, reason: String) -> Closing {
        let answer = Answer {
            local: self.local,
            refusal: Some((refusal, reason.clone())),
        };
        let connection = &mut self.connections[key];
        connection.out().extend_from_slice(&answer.encode());
        // As far as it goes: the buffer of a new socket has room for it.
        let _ = connection.write();
        Closing::Refused(reason)
    }

    fn welcome(&mut self, key: usize, hello: &Hello) {
        let peer = hello.local.node;
        let link = (peer, hello.lane);
        let answer = Answer {
            local: self.local,
            refusal: None,
        };
        let connection = &mut self.connections[key];
        connection.role = Role::From(link);
        connection.is_member = self.local.is_of(hello.local.cluster);
        connection.out().extend_from_slice(&answer.encode());
        let address = connection.address;
        // The peer has dialled again: its former connection is dead, whether that was seen or not.
        if let Some(former) = self.inbound.insert(link, key) {
            self.close(former, Closing::Unneeded);
        }
        tracing::info!(target: TARGET, node = %self.local.node, %peer, %address, lane = ?hello.lane, "a peer has connected");
        let advertised = match hello.address.strip_prefix(':') {
            Some(port) => port
                .parse()
                .map(|port| SocketAddr::new(address.ip(), port).to_string())
                .unwrap_or_default(),
            None => hello.address.clone(),
        };
        let is_connected = |node| has_dialled(&self.inbound, node);
        self.shared
            .learn(peer, &advertised, Teller::Itself, is_connected);
        self.dial_at_once(peer);
    }
}

//! Whom this node dials, and when it tries again.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Token;
use mio::net::TcpStream;

use super::{Closing, FIRST, Reactor, Served};
use crate::NodeId;
use crate::transport::Lane;
use crate::transport::tcp::connection::{Connection, Role};
use crate::transport::tcp::hello::{Answer, Hello};
use crate::transport::tcp::stream::Stream;
use crate::transport::tcp::{Link, TARGET};

/// What becomes of one link.
pub(super) struct Outbound {
    state: State,
    /// The next pause, before it is varied.
    pause: Duration,
    /// Counts the dials: a name may have several addresses, which take turns.
    dials: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Dialled when there is something to send.
    Idle,
    /// Not dialled before.
    Waiting(Instant),
    Resolving,
    /// Dialled, or open: the connection's key.
    Connection(usize),
}

impl Outbound {
    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(until) => Some(until),
            _ => None,
        }
    }
}

/// Whether a dialled socket is connected by now.
pub(super) fn has_connected(connection: &mut Connection) -> io::Result<bool> {
    if !connection.writable && !connection.readable {
        return Ok(false);
    }
    let socket = connection.stream.socket();
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => connection.connected = true,
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
        Err(error) => return Err(error),
    }
    Ok(connection.connected)
}

impl Reactor {
    /// There is something to send.
    pub(super) fn serve_link(&mut self, link: Link) {
        let shortest = self.options.reconnect_min;
        let outbound = self.outbound.entry(link).or_insert(Outbound {
            state: State::Idle,
            pause: shortest,
            dials: 0,
        });
        match outbound.state {
            State::Idle => self.dial(link),
            State::Connection(key) if matches!(self.connections[key].role, Role::To(_)) => {
                if let Err(closing) = self.write(key) {
                    self.close(key, closing);
                }
            }
            // It is sent when that has come to something.
            _ => {}
        }
    }

    /// Dials those whose pause is over and who are still wanted.
    pub(super) fn redial(&mut self) {
        let due: Vec<Link> = self
            .outbound
            .iter()
            .filter(|(_, outbound)| outbound.waits_until().is_some_and(|at| at <= self.now))
            .map(|(link, _)| *link)
            .collect();
        for link in due {
            self.set_state(link, State::Idle);
            self.dial_if_wanted(link);
        }
    }

    /// A peer that has just dialled this node can be dialled.
    pub(super) fn dial_at_once(&mut self, peer: NodeId) {
        for lane in [Lane::Urgent, Lane::Bulk] {
            let link = (peer, lane);
            let shortest = self.options.reconnect_min;
            if let Some(outbound) = self.outbound.get_mut(&link)
                && outbound.waits_until().is_some()
            {
                outbound.pause = shortest;
                outbound.state = State::Idle;
                self.dial_if_wanted(link);
            }
        }
    }

    fn dial_if_wanted(&mut self, link: Link) {
        if self.shared.has_messages(link) {
            self.dial(link);
        }
    }

    fn set_state(&mut self, link: Link, state: State) {
        if let Some(outbound) = self.outbound.get_mut(&link) {
            outbound.state = state;
        }
    }

    fn dial(&mut self, link: Link) {
        let Some(address) = self.shared.address(link.0) else {
            return;
        };
        if let Ok(address) = address.parse() {
            return self.connect(link, address);
        }
        // A name is looked up at every dial: it may mean another address by now.
        match self.resolver.look_up(address) {
            Ok(()) => self.set_state(link, State::Resolving),
            Err(error) => self.pause(link, &Closing::Lost(error.to_string())),
        }
    }

    pub(super) fn take_resolved(&mut self) {
        while let Some(resolved) = self.resolver.next() {
            // A peer that has another name by now waits for that one.
            let is_its_name = |link: &Link| {
                let address = self.shared.address(link.0);
                address.is_some_and(|address| address == resolved.name)
            };
            let waiting: Vec<(Link, usize)> = self
                .outbound
                .iter()
                .filter(|(link, outbound)| outbound.state == State::Resolving && is_its_name(link))
                .map(|(link, outbound)| (*link, outbound.dials))
                .collect();
            for (link, dials) in waiting {
                match &resolved.found {
                    Ok(addresses) if !addresses.is_empty() => {
                        self.connect(link, addresses[dials % addresses.len()]);
                    }
                    found => {
                        let reason = found.as_ref().err().cloned();
                        let reason = reason.unwrap_or_else(|| "it has no address".to_owned());
                        tracing::debug!(target: TARGET, node = %self.local.node, peer = %link.0, reason, "a peer's name can't be resolved");
                        self.pause(link, &Closing::Lost(reason));
                    }
                }
            }
        }
    }

    fn connect(&mut self, link: Link, address: SocketAddr) {
        if let Some(outbound) = self.outbound.get_mut(&link) {
            outbound.dials = outbound.dials.wrapping_add(1);
        }
        if let Err(error) = self.begin(link, address) {
            tracing::debug!(target: TARGET, node = %self.local.node, peer = %link.0, %address, %error, "a peer can't be dialled");
            self.pause(link, &Closing::Lost(error.to_string()));
        }
    }

    fn begin(&mut self, link: Link, address: SocketAddr) -> io::Result<()> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        #[cfg(feature = "tls")]
        let stream = match &self.options.tls {
            Some(tls) => Stream::Tls(Box::new(tls.dial(socket, link.0)?)),
            None => Stream::Plain(socket),
        };
        #[cfg(not(feature = "tls"))]
        let stream = Stream::Plain(socket);
        let mut connection = Connection::new(stream, address, Role::Dialling(link), self.now);
        let hello = Hello {
            local: self.local,
            to: link.0,
            lane: link.1,
            address: self.options.advertised.clone(),
        };
        connection.out().extend_from_slice(&hello.encode());
        let key = self.connections.insert(connection);
        let registered = self.connections[key]
            .stream
            .register(self.poll.registry(), Token(key + FIRST));
        match registered {
            Ok(()) => self.set_state(link, State::Connection(key)),
            Err(_) => drop(self.connections.remove(key)),
        }
        registered
    }

    /// Reads what the dialled peer answers, as far as it has come.
    pub(super) fn take_answer(&mut self, key: usize, link: Link) -> Served {
        let unfinished = self.connections[key].assembler.unfinished();
        let decoded = Answer::decode(unfinished);
        let decoded =
            decoded.map_err(|error| Closing::Refused(format!("it answered no hello: {error}")))?;
        let Some((answer, length)) = decoded else {
            return Ok(());
        };
        unfinished.drain(..length);
        if let Some((refusal, reason)) = answer.refusal {
            let reason = format!("the peer refuses this node ({refusal:?}): {reason}");
            return Err(Closing::Refused(reason));
        }
        let (own, other) = (self.local, answer.local);
        if other.node != link.0 {
            let reason = format!("node {} answers for node {}", other.node, link.0);
            return Err(Closing::Refused(reason));
        }
        if own.cluster.0 != 0 && other.cluster.0 != 0 && own.cluster != other.cluster {
            let reason = format!(
                "it is of cluster {}, this is {}",
                other.cluster, own.cluster
            );
            return Err(Closing::Refused(reason));
        }
        if let Some(reason) = self.is_twin(other) {
            return Err(Closing::Refused(reason));
        }
        let connection = &mut self.connections[key];
        connection.role = Role::To(link);
        connection.is_member = own.is_of(other.cluster);
        connection.tells_addresses = link.1 == Lane::Urgent;
        connection.used_at = self.now;
        tracing::info!(target: TARGET, node = %self.local.node, peer = %link.0, address = %connection.address, lane = ?link.1, "connected to a peer");
        self.shared.set_online(link, true);
        if let Some(outbound) = self.outbound.get_mut(&link) {
            outbound.pause = self.options.reconnect_min;
        }
        Ok(())
    }

    /// The link has no connection any more: when it may have one again.
    pub(super) fn pause(&mut self, link: Link, closing: &Closing) {
        self.shared.set_online(link, false);
        let random = self.next_random();
        let longest = self.options.reconnect_max;
        let Some(outbound) = self.outbound.get_mut(&link) else {
            return;
        };
        if matches!(closing, Closing::Unneeded) {
            outbound.pause = self.options.reconnect_min;
            outbound.state = State::Idle;
            return self.dial_if_wanted(link);
        }
        if matches!(closing, Closing::Refused(_)) {
            // It will not change its mind soon.
            outbound.pause = longest;
        }
        // Between half of it and all of it, so that peers don't come all at once.
        let share = 512 + (random >> 32) as u32 % 513;
        outbound.state = State::Waiting(self.now + outbound.pause * share / 1024);
        outbound.pause = (outbound.pause * 2).min(longest);
    }

    /// `node` is elsewhere from now on, or nowhere.
    pub(super) fn follow_move(&mut self, node: NodeId) {
        for lane in [Lane::Urgent, Lane::Bulk] {
            let link = (node, lane);
            let Some(outbound) = self.outbound.get_mut(&link) else {
                continue;
            };
            match outbound.state {
                State::Connection(key) => self.close(key, Closing::Unneeded),
                _ => {
                    outbound.pause = self.options.reconnect_min;
                    outbound.state = State::Idle;
                    self.dial_if_wanted(link);
                }
            }
            if self.shared.address(node).is_none() {
                self.outbound.remove(&link);
            }
        }
    }
}

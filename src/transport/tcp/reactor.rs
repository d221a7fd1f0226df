//! The thread that serves all connections: waits for what sockets and senders have to say, and does it.
//!
//! Who is welcome and who is dialled when stands in the parts. The invariants: no call here waits for a
//! peer; what one connection does at a time is bounded, the urgent ones first, so that a bulk transfer
//! delays nobody by more than a piece.

mod accepting;
mod dialling;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use self::dialling::Outbound;
use super::address_book::Teller;
use super::connection::{Connection, Role};
use super::frame::{self, BEAT, Frame};
use super::resolver::Resolver;
use super::shared::{Shared, Work};
use super::{Link, Options, Parts, TARGET};
use crate::NodeId;
use crate::transport::{Inbox, Lane, Local, Message};

pub(super) const WAKER: Token = Token(0);
const LISTENER: Token = Token(1);
/// The first connection's.
const FIRST: usize = 2;

/// How much is read at once, and how much of that from one connection before others have their turn.
const READ_BYTES: usize = 64 * 1024;
const READ_BYTES_A_TURN: usize = 4 * READ_BYTES;
/// About how much is taken from a queue at once, and sent before others have their turn.
const WRITE_BYTES: usize = 256 * 1024;
/// What a peer that asks for signs of life may have us owe it, in bytes.
const OWED_BYTES_MAX: usize = 4096;

/// See the module's text.
pub(super) struct Reactor {
    options: Options,
    shared: Arc<Shared>,
    local: Local,
    inbox: Arc<dyn Inbox>,
    poll: Poll,
    listener: mio::net::TcpListener,
    /// Whether somebody may wait to be accepted, and from when on that is tried again.
    accepts: bool,
    accepts_again_at: Option<Instant>,
    connections: Slab<Connection>,
    /// What this node dials.
    outbound: BTreeMap<Link, Outbound>,
    /// The connections of peers that have introduced themselves.
    inbound: BTreeMap<Link, usize>,
    resolver: Resolver,
    /// Connections with something to do that no event will tell of.
    listed: Vec<usize>,
    buffer: Vec<u8>,
    messages: Vec<Message>,
    now: Instant,
    next_scan: Instant,
    /// What the pauses are drawn from.
    random: u64,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Closing {
    /// The peer, or the way to it, is gone.
    Lost(String),
    /// One of the two doesn't want it.
    Refused(String),
    /// It is of no use any more, which says nothing of the peer.
    Unneeded,
}

impl From<io::Error> for Closing {
    fn from(error: io::Error) -> Closing {
        match error.kind() {
            // What TLS can't read, or finds wrong.
            io::ErrorKind::InvalidData => Closing::Refused(error.to_string()),
            _ => Closing::Lost(error.to_string()),
        }
    }
}

type Served = Result<(), Closing>;

impl Reactor {
    pub(super) fn new(
        parts: Parts,
        shared: Arc<Shared>,
        local: Local,
        inbox: Arc<dyn Inbox>,
    ) -> io::Result<Reactor> {
        let mut listener = mio::net::TcpListener::from_std(parts.listener);
        let registry = parts.poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let now = Instant::now();
        let resolver = Resolver::new(parts.options.look_up, shared.waker());
        Ok(Reactor {
            options: parts.options,
            shared,
            local,
            inbox,
            poll: parts.poll,
            listener,
            accepts: true,
            accepts_again_at: None,
            connections: Slab::new(),
            outbound: BTreeMap::new(),
            inbound: BTreeMap::new(),
            resolver,
            listed: Vec::new(),
            buffer: vec![0; READ_BYTES],
            messages: Vec::new(),
            now,
            next_scan: now,
            random: getrandom::u64().unwrap_or(local.node.as_u64()),
        })
    }

    /// Serves until the transport stops.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut work = Work::default();
        loop {
            let waits = self.listed.is_empty() && !self.accepts && self.shared.fall_asleep();
            let timeout = if waits {
                self.timeout()
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(target: TARGET, node = %self.local.node, %error, "stopped: it can't wait for its sockets");
                    break;
                }
                _ => {}
            }
            self.now = Instant::now();
            for event in &events {
                self.note(event);
            }
            self.shared.take_work(&mut work);
            if work.closing {
                break;
            }
            self.local.cluster = work.cluster;
            self.turn(&work);
        }
        for (_, mut connection) in std::mem::take(&mut self.connections) {
            connection.stream.close(self.poll.registry());
        }
    }

    /// How long nothing happens by itself.
    fn timeout(&self) -> Duration {
        let scan = (!self.connections.is_empty()).then_some(self.next_scan);
        let dials = self.outbound.values().filter_map(Outbound::waits_until);
        let next = dials.chain(scan).chain(self.accepts_again_at).min();
        // Rounded up by mio's clock, so that it isn't woken too early again and again.
        next.map_or(Duration::from_secs(60), |at| {
            at.saturating_duration_since(Instant::now()) + Duration::from_micros(100)
        })
    }

    fn note(&mut self, event: &mio::event::Event) {
        match event.token() {
            WAKER => {}
            LISTENER => self.accepts = true,
            Token(token) => {
                let key = token - FIRST;
                let Some(connection) = self.connections.get_mut(key) else {
                    return;
                };
                if event.is_readable() || event.is_read_closed() || event.is_error() {
                    connection.readable = true;
                }
                if event.is_writable() || event.is_write_closed() || event.is_error() {
                    connection.writable = true;
                    // There is room again because the peer has taken something.
                    if connection.unsent() > 0 {
                        connection.heard_at = self.now;
                    }
                }
                self.list(key);
            }
        }
    }

    fn list(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.listed
        {
            connection.listed = true;
            self.listed.push(key);
        }
    }

    fn turn(&mut self, work: &Work) {
        for node in &work.moved {
            self.follow_move(*node);
        }
        if work.tells_addresses {
            self.spread_addresses();
        }
        self.take_resolved();
        let mut listed = std::mem::take(&mut self.listed);
        for lane in [Lane::Urgent, Lane::Bulk] {
            for &key in &listed {
                if self
                    .connections
                    .get(key)
                    .is_some_and(|c| c.listed && lane_of(c.role) == lane)
                {
                    self.connections[key].listed = false;
                    self.serve(key);
                }
            }
        }
        for &link in &work.ready {
            self.serve_link(link);
        }
        // The list that has grown is kept.
        if self.listed.is_empty() {
            listed.clear();
            self.listed = listed;
        }
        // After those that have said something: a stranger whose hello is here is none any more, and is
        // not closed for the sake of those that come now.
        if self.accepts || self.accepts_again_at.is_some_and(|at| at <= self.now) {
            self.accept();
        }
        self.redial();
        if self.next_scan <= self.now {
            self.scan();
        }
    }

    /// Reads and writes as far as one connection may in one turn.
    fn serve(&mut self, key: usize) {
        let served = self.read(key).and_then(|()| self.write(key));
        if let Err(closing) = served {
            self.close(key, closing);
        }
    }

    fn read(&mut self, key: usize) -> Served {
        let connection = &mut self.connections[key];
        if !connection.connected && !dialling::has_connected(connection)? {
            return Ok(());
        }
        let mut left = READ_BYTES_A_TURN;
        while self.connections[key].readable {
            if left == 0 {
                self.list(key);
                return Ok(());
            }
            let connection = &mut self.connections[key];
            let Some(count) = connection.read(&mut self.buffer)? else {
                break;
            };
            if count == 0 {
                return Err(Closing::Lost("it was closed by the peer".to_owned()));
            }
            left = left.saturating_sub(count);
            connection.heard_at = self.now;
            if connection.stream.is_encrypted() {
                // A handshake that has gone on lets more be written.
                connection.writable = true;
            }
            self.take_in(key, count)?;
        }
        Ok(())
    }

    /// Takes in the first `count` bytes of the buffer.
    fn take_in(&mut self, key: usize, count: usize) -> Served {
        match self.connections[key].role {
            Role::From(link) => self.take_frames(key, link, count),
            Role::To(_) => {
                let arrived = &self.buffer[..count];
                let beats_only = |frame| match frame {
                    Frame::Beat => Ok(()),
                    _ => Err("a peer that was dialled doesn't speak".to_owned()),
                };
                let assembler = &mut self.connections[key].assembler;
                assembler
                    .feed(arrived, beats_only)
                    .map_err(Closing::Refused)
            }
            Role::Stranger => {
                let arrived = &self.buffer[..count];
                let unfinished = self.connections[key].assembler.unfinished();
                unfinished.extend_from_slice(arrived);
                self.introduce(key)
            }
            Role::Dialling(link) => {
                let arrived = &self.buffer[..count];
                let unfinished = self.connections[key].assembler.unfinished();
                unfinished.extend_from_slice(arrived);
                self.take_answer(key, link)
            }
        }
    }

    /// Hands in what a peer has sent: the first `count` bytes of the buffer, and what came before.
    fn take_frames(&mut self, key: usize, link: Link, count: usize) -> Served {
        let (peer, lane) = link;
        let (local, inbox, shared) = (self.local, &self.inbox, &self.shared);
        let connection = &mut self.connections[key];
        let mut owed = 0;
        let is_member = &mut connection.is_member;
        let is_connected = |node| has_dialled(&self.inbound, node);
        let take = |frame| {
            match frame {
                Frame::Message(message) => {
                    if message.from() != peer || message.to() != local.node {
                        return Err(format!(
                            "node {peer} sends a message of node {} to node {}",
                            message.from(),
                            message.to()
                        ));
                    }
                    *is_member |= local.is_of(message.cluster());
                    // Lost where the node has no room for it: nobody waits for it here.
                    inbox.deliver(message.with_lane(lane));
                }
                Frame::Beat => owed += BEAT.len(),
                Frame::Addresses(addresses) => {
                    for (node, address) in addresses {
                        shared.learn(node, &address, Teller::Peer, is_connected);
                    }
                }
            }
            Ok(())
        };
        let arrived = &self.buffer[..count];
        let fed = connection.assembler.feed(arrived, take);
        fed.map_err(Closing::Refused)?;
        if owed > 0 && connection.unsent() < OWED_BYTES_MAX {
            connection.out().extend_from_slice(&BEAT);
        }
        Ok(())
    }

    /// Sends what waits, in batches, as far as the socket takes it and others don't wait too long.
    fn write(&mut self, key: usize) -> Served {
        let mut left = WRITE_BYTES;
        loop {
            let connection = &mut self.connections[key];
            if !connection.writable || !connection.connected {
                return Ok(());
            }
            if connection.unsent() == 0 {
                self.fill(key);
            }
            let connection = &mut self.connections[key];
            let written = connection.write()?;
            if written == 0 || connection.unsent() > 0 {
                return Ok(());
            }
            left = left.saturating_sub(written);
            if left == 0 {
                self.list(key);
                return Ok(());
            }
        }
    }

    /// Puts the next batch of what is to be sent into the buffer.
    fn fill(&mut self, key: usize) {
        let connection = &mut self.connections[key];
        let Role::To(link) = connection.role else {
            return;
        };
        if std::mem::take(&mut connection.tells_addresses) {
            let addresses = frame::encode_addresses(&self.shared.first_hand());
            connection.out().extend_from_slice(&addresses);
        }
        let dropped = self
            .shared
            .take_messages(link, WRITE_BYTES, &mut self.messages);
        if dropped > 0 {
            tracing::debug!(target: TARGET, node = %self.local.node, peer = %link.0, dropped, "messages were dropped: the queue was full");
        }
        if !self.messages.is_empty() {
            connection.used_at = self.now;
        }
        for message in self.messages.drain(..) {
            message.encode_into(connection.out());
        }
    }

    /// Tells those that this node dials whom it knows.
    fn spread_addresses(&mut self) {
        let open: Vec<usize> = self
            .connections
            .iter_mut()
            .filter(|(_, connection)| matches!(connection.role, Role::To((_, Lane::Urgent))))
            .map(|(key, connection)| {
                connection.tells_addresses = true;
                key
            })
            .collect();
        open.into_iter().for_each(|key| self.list(key));
    }

    /// Looks for connections that have been silent for too long.
    fn scan(&mut self) {
        let (handshake, idle) = (self.options.handshake_timeout, self.options.idle_timeout);
        let interval = handshake.min(idle) / 8;
        self.next_scan =
            self.now + interval.clamp(Duration::from_millis(5), Duration::from_millis(250));
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let connection = &mut self.connections[key];
            let since = |at: Instant| self.now.saturating_duration_since(at);
            // Signs of life stand behind the pieces of a snapshot.
            let patience = match connection.role {
                Role::From((_, Lane::Bulk)) | Role::To((_, Lane::Bulk)) => 3 * idle,
                _ => idle,
            };
            let silent = since(connection.heard_at) > patience;
            let closing = match connection.role {
                Role::Stranger | Role::Dialling(_) if since(connection.opened_at) > handshake => {
                    Closing::Lost(format!("no handshake within {handshake:?}"))
                }
                Role::From(_) | Role::To(_) if silent => {
                    Closing::Lost(format!("nothing was heard for {patience:?}"))
                }
                Role::To((_, Lane::Bulk)) if since(connection.used_at) > 4 * idle => {
                    Closing::Unneeded
                }
                // However much is said: whoever listens says nothing unasked.
                Role::To(_) if since(connection.beat_at) > idle / 3 => {
                    connection.beat_at = self.now;
                    connection.out().extend_from_slice(&BEAT);
                    self.list(key);
                    continue;
                }
                _ => continue,
            };
            self.close(key, closing);
        }
    }

    /// Ends a connection, and says so where somebody should know.
    fn close(&mut self, key: usize, closing: Closing) {
        let mut connection = self.connections.remove(key);
        connection.stream.close(self.poll.registry());
        let (node, address) = (self.local.node, connection.address);
        match (connection.role, &closing) {
            (Role::Stranger, Closing::Refused(reason)) => {
                tracing::warn!(target: TARGET, %node, %address, reason, "refused a connection");
            }
            (Role::Stranger, Closing::Lost(reason)) => {
                tracing::debug!(target: TARGET, %node, %address, reason, "a connection ended before it was introduced");
            }
            (Role::Dialling(link), Closing::Refused(reason)) => {
                tracing::warn!(target: TARGET, %node, peer = %link.0, %address, reason, "a peer was dialled and it came to nothing");
            }
            (Role::Dialling(link), Closing::Lost(reason)) => {
                tracing::debug!(target: TARGET, %node, peer = %link.0, %address, reason, "a peer can't be reached");
            }
            (Role::From(link) | Role::To(link), Closing::Refused(reason)) => {
                tracing::warn!(target: TARGET, %node, peer = %link.0, %address, reason, "closed the connection of a peer that breaks the protocol");
            }
            (Role::From(link) | Role::To(link), Closing::Lost(reason)) => {
                tracing::info!(target: TARGET, %node, peer = %link.0, %address, reason, "lost a connection");
            }
            (_, Closing::Unneeded) => {}
        }
        if let Role::From(link) = connection.role
            && self.inbound.get(&link) == Some(&key)
        {
            self.inbound.remove(&link);
        }
        if let Role::Dialling(link) | Role::To(link) = connection.role {
            self.pause(link, &closing);
        }
        if let Role::From(link) | Role::To(link) = connection.role
            && link.1 == Lane::Urgent
            && !matches!(closing, Closing::Unneeded)
        {
            self.inbox.disconnected(link.0);
        }
    }

    /// A number that nobody has to guess: xorshift.
    fn next_random(&mut self) -> u64 {
        self.random |= 1;
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

fn has_dialled(inbound: &BTreeMap<Link, usize>, node: NodeId) -> bool {
    [Lane::Urgent, Lane::Bulk]
        .iter()
        .any(|lane| inbound.contains_key(&(node, *lane)))
}

fn lane_of(role: Role) -> Lane {
    match role {
        Role::From((_, lane)) | Role::To((_, lane)) | Role::Dialling((_, lane)) => lane,
        // Who may be a peer's urgent one.
        Role::Stranger => Lane::Urgent,
    }
}

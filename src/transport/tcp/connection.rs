//! One connection: its socket, what has half arrived, what is half sent.
//!
//! It knows no peer's address and decides nothing. The invariant: it reads and writes only as far as
//! that goes without waiting, and holds one batch of what is to be sent.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::Link;
use super::frame::Assembler;
use super::stream::Stream;

/// A buffer that has grown beyond this is given back when it is empty.
const KEPT_BYTES: usize = 1024 * 1024;

/// Whose a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Somebody dialled this node, and hasn't said who it is.
    Stranger,
    /// This peer dialled this node: it speaks.
    From(Link),
    /// This node dials this peer, and waits for its answer.
    Dialling(Link),
    /// This node dialled this peer: it listens.
    To(Link),
}

/// See the module's text.
pub(super) struct Connection {
    pub stream: Stream,
    pub address: SocketAddr,
    pub role: Role,
    /// Whether the peer has named this node's cluster, which nobody knows who isn't a member.
    pub is_member: bool,
    pub assembler: Assembler,
    /// What is being sent, and how much of it is.
    out: Vec<u8>,
    sent: usize,
    /// Whether the socket has announced something since it last said that there was nothing.
    pub readable: bool,
    pub writable: bool,
    /// Whether the socket is connected at all.
    pub connected: bool,
    /// Whether it is in the list of those that have something to do.
    pub listed: bool,
    /// Whether the peer is to be told the addresses.
    pub tells_addresses: bool,
    pub opened_at: Instant,
    /// When the peer last gave a sign of life.
    pub heard_at: Instant,
    /// When the peer was last asked for a sign of life, and when a message was last sent.
    pub beat_at: Instant,
    pub used_at: Instant,
}

impl Connection {
    pub(super) fn new(stream: Stream, address: SocketAddr, role: Role, now: Instant) -> Connection {
        Connection {
            stream,
            address,
            role,
            is_member: false,
            assembler: Assembler::default(),
            out: Vec::new(),
            sent: 0,
            readable: false,
            writable: false,
            connected: matches!(role, Role::Stranger),
            listed: false,
            tells_addresses: false,
            opened_at: now,
            heard_at: now,
            beat_at: now,
            used_at: now,
        }
    }

    /// Reads into `buffer`; `None` where nothing has come. 0 bytes are the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.stream.read(buffer) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// What is to be sent next goes to the end of this.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Sends what there is, as far as the socket takes it; how many bytes that were.
    pub(super) fn write(&mut self) -> io::Result<usize> {
        let begun_at = self.sent;
        let result = self.write_on();
        let written = self.sent - begun_at;
        if self.sent == self.out.len() {
            self.sent = 0;
            self.out.clear();
            if self.out.capacity() > KEPT_BYTES {
                self.out = Vec::new();
            }
        }
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(written)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(written),
        }
    }

    fn write_on(&mut self) -> io::Result<()> {
        self.stream.flush()?;
        while self.sent < self.out.len() {
            self.sent += self.stream.write(&self.out[self.sent..])?;
        }
        self.stream.flush()
    }
}

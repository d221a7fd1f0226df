//! One TCP connection: bytes in, frames to its client's session, bytes out.
//!
//! Reads no more than it can hand on: a client that outruns its limits, or doesn't take what it is
//! sent, is left waiting in its own socket. What an idle one keeps is a few hundred bytes.

use std::future::Future as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use mio::net::TcpStream;

use super::client::{ANSWERED, Client, Close, Taken};
use super::jute::{Connect, connect_response};
use super::settings::Settings;
use super::statistics::ConnectionFacts;
use super::words;
use crate::{Credentials, Error, NodeHandle, Pending, Session, SessionId};

/// What all connections of a thread share.
pub(super) struct Surroundings<'a> {
    pub node: &'a NodeHandle,
    pub settings: &'a Settings,
    pub shared: &'a super::Shared,
    pub now: Instant,
    /// Room for what was read, and for the body of a reply.
    pub scratch: &'a mut Vec<u8>,
    pub body: &'a mut Vec<u8>,
}

enum Stage {
    /// Nothing was said yet.
    Greeting,
    /// A session is being opened or attached.
    Opening {
        pending: Pending<Session>,
        says_read_only: bool,
    },
    Serving(Box<Client>),
    /// What is to be sent is sent, then it is closed.
    Leaving,
}

/// See the module's text.
pub(super) struct Connection {
    pub stream: TcpStream,
    pub facts: Arc<ConnectionFacts>,
    stage: Stage,
    waker: Waker,
    begun_at: Instant,
    /// Bytes read and not understood yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of the output is sent.
    sent: usize,
    /// When there was last nothing to be sent, or some of it was.
    sent_at: Instant,
    /// Whether the socket may have something to be read, or room to write into.
    readable: bool,
    writable: bool,
    /// Counted among all connections' outstanding requests.
    counted: usize,
    /// The total limit held it up: nobody will wake it.
    pub starved: bool,
}

/// How much one connection may read before others have their turn.
const TURN_BYTES_MAX: usize = 256 * 1024;

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        waker: Waker,
        now: Instant,
    ) -> Connection {
        Connection {
            stream,
            facts: ConnectionFacts::new(peer, now),
            stage: Stage::Greeting,
            waker,
            begun_at: now,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            sent_at: now,
            readable: true,
            writable: true,
            counted: 0,
            starved: false,
        }
    }

    pub(super) fn note_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    pub(super) fn client(&self) -> Option<&Client> {
        match &self.stage {
            Stage::Serving(client) => Some(client),
            _ => None,
        }
    }

    pub(super) fn address(&self) -> IpAddr {
        self.facts.peer.ip()
    }

    /// Time has passed.
    pub(super) fn check_time(&self, now: Instant, settings: &Settings) -> Result<(), Close> {
        match &self.stage {
            Stage::Greeting | Stage::Leaving
                if now.duration_since(self.begun_at) > settings.greeting_timeout =>
            {
                Err(Close("it took too long"))
            }
            Stage::Serving(client) if client.is_cut_off(now) => {
                Err(Close("no leader can be reached"))
            }
            // It may be that it is gone and that nobody says so: what its session has come to is not looked
            // at while there is no room to tell of it.
            Stage::Serving(client)
                if self.sent < self.output.len()
                    && now.duration_since(self.sent_at) > client.timeout() =>
            {
                Err(Close("it takes nothing of what it is sent"))
            }
            _ => Ok(()),
        }
    }

    /// Does all that can be done now. Returns whether there is more, for another turn.
    pub(super) fn advance(&mut self, around: &mut Surroundings<'_>) -> Result<bool, Close> {
        self.starved = false;
        let mut turn_bytes = 0;
        loop {
            let mut progress = self.read(around, &mut turn_bytes)?;
            progress |= self.understand(around)?;
            progress |= self.answer(around)?;
            progress |= self.write(around.now)?;
            self.count(around);
            if !progress {
                break;
            }
            if turn_bytes >= TURN_BYTES_MAX {
                return Ok(true);
            }
        }
        self.shrink();
        if matches!(self.stage, Stage::Leaving) && self.output.is_empty() {
            return Err(Close(ANSWERED));
        }
        Ok(false)
    }

    /// What is no longer counted when the connection goes.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }

    fn count(&mut self, around: &Surroundings<'_>) {
        let now = self.client().map_or(0, Client::outstanding);
        around.shared.count_outstanding(self.counted, now);
        self.counted = now;
        self.facts.outstanding.store(now, Relaxed);
    }

    fn read(
        &mut self,
        around: &mut Surroundings<'_>,
        turn_bytes: &mut usize,
    ) -> Result<bool, Close> {
        // A frame that is whole waits to be understood: no more is needed.
        if !self.readable || self.has_frame(around.settings)? || self.is_congested(around.settings)
        {
            return Ok(false);
        }
        match self.stream.read(around.scratch) {
            Ok(0) => Err(Close(match self.stage {
                Stage::Leaving => ANSWERED,
                _ => "its client has closed it",
            })),
            Ok(count) => {
                *turn_bytes += count;
                if !matches!(self.stage, Stage::Leaving) {
                    self.input.extend_from_slice(&around.scratch[..count]);
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Err(Close("it broke")),
        }
    }

    fn is_congested(&self, settings: &Settings) -> bool {
        self.output.len() - self.sent >= settings.unsent_bytes_max
    }

    /// The length of the first frame, once it has been said.
    fn frame_length(&self, settings: &Settings) -> Result<Option<usize>, Close> {
        let Some(length) = self.input.first_chunk() else {
            return Ok(None);
        };
        if matches!(self.stage, Stage::Greeting) && words::is_word(length) {
            return Ok(Some(0));
        }
        match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) if length <= settings.frame_bytes_max => Ok(Some(length)),
            _ => Err(Close("it sent a frame of an impossible length")),
        }
    }

    fn has_frame(&self, settings: &Settings) -> Result<bool, Close> {
        let length = self.frame_length(settings)?;
        Ok(length.is_some_and(|length| self.input.len() - 4 >= length))
    }

    /// Hands on the frames that are whole, as far as they are taken.
    fn understand(&mut self, around: &mut Surroundings<'_>) -> Result<bool, Close> {
        let input = std::mem::take(&mut self.input);
        let mut used = 0;
        let result = self.understand_all(&input, &mut used, around);
        self.input = input;
        self.input.drain(..used);
        result.map(|()| used > 0)
    }

    fn understand_all(
        &mut self,
        input: &[u8],
        used: &mut usize,
        around: &mut Surroundings<'_>,
    ) -> Result<(), Close> {
        while let Some((&length, rest)) = input[*used..].split_first_chunk::<4>() {
            if matches!(self.stage, Stage::Greeting) && words::is_word(&length) {
                let answer = words::answer(&length, around.shared);
                self.output.extend_from_slice(answer.as_bytes());
                self.stage = Stage::Leaving;
                *used = input.len();
                return Ok(());
            }
            let length = i32::from_be_bytes(length);
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= around.settings.frame_bytes_max)
                .ok_or(Close("it sent a frame of an impossible length"))?;
            let Some(frame) = rest.get(..length) else {
                break;
            };
            let is_congested = self.is_congested(around.settings);
            match &mut self.stage {
                Stage::Greeting => self.connect(frame, around)?,
                Stage::Serving(client) => {
                    client.heard(around.now);
                    if !around.shared.may_call() {
                        self.starved = true;
                        break;
                    }
                    if is_congested || client.submit(frame, around)? == Taken::NotYet {
                        break;
                    }
                }
                Stage::Opening { .. } | Stage::Leaving => break,
            }
            *used += 4 + length;
        }
        Ok(())
    }

    /// The first record: a session is asked for.
    fn connect(&mut self, frame: &[u8], around: &mut Surroundings<'_>) -> Result<(), Close> {
        let connect =
            Connect::decode(frame).map_err(|_| Close("its first record asks for no session"))?;
        if connect.last_zxid_seen > 0 && connect.last_zxid_seen as u64 > around.node.zxid().0 {
            return Err(Close("its client has seen more than this server"));
        }
        let timeout_ms = u64::try_from(connect.timeout_ms).unwrap_or(0);
        let builder = around
            .node
            .session()
            .timeout(std::time::Duration::from_millis(timeout_ms))
            .touched_by_host();
        let says_read_only = connect.read_only.is_some();
        let pending = match (connect.session, connect.password.try_into()) {
            (0, _) => builder.open(),
            (session, Ok(password)) => builder.attach(&Credentials {
                session: SessionId(session),
                password,
            }),
            (_, Err(_)) => {
                self.refuse(says_read_only);
                return Ok(());
            }
        };
        self.stage = Stage::Opening {
            pending,
            says_read_only,
        };
        Ok(())
    }

    fn refuse(&mut self, says_read_only: bool) {
        connect_response(&mut self.output, (0, &[0; 16]), 0, says_read_only);
        self.stage = Stage::Leaving;
    }

    /// Writes what is answered into the output.
    fn answer(&mut self, around: &mut Surroundings<'_>) -> Result<bool, Close> {
        let mut context = Context::from_waker(&self.waker);
        match &mut self.stage {
            Stage::Opening {
                pending,
                says_read_only,
            } => {
                let says_read_only = *says_read_only;
                let Poll::Ready(session) = Pin::new(pending).poll(&mut context) else {
                    return Ok(false);
                };
                match session {
                    Ok(session) => self.begin(session, says_read_only, around),
                    Err(Error::WrongPassword { .. } | Error::SessionExpired { .. }) => {
                        self.refuse(says_read_only);
                    }
                    Err(_) => return Err(Close("its session can't be had")),
                }
                Ok(true)
            }
            Stage::Serving(client) => {
                let limit = self.sent + around.settings.unsent_bytes_max;
                let out = (&mut self.output, limit);
                let clock = (&around.shared.statistics, around.now);
                let advanced = client.advance(&mut context, out, around.body, clock);
                match advanced {
                    Err(Close(ANSWERED)) => {
                        self.stage = Stage::Leaving;
                        self.begun_at = around.now;
                        Ok(false)
                    }
                    other => other,
                }
            }
            Stage::Greeting | Stage::Leaving => Ok(false),
        }
    }

    fn begin(&mut self, session: Session, says_read_only: bool, around: &Surroundings<'_>) {
        let credentials = session.credentials();
        let timeout_ms = i32::try_from(session.timeout().as_millis()).unwrap_or(i32::MAX);
        let identity = (credentials.session.0, &credentials.password);
        connect_response(&mut self.output, identity, timeout_ms, says_read_only);
        let facts = self.facts.clone();
        let client = Client::new(session, facts, around.settings, around.now);
        self.stage = Stage::Serving(Box::new(client));
    }

    /// Sends what can be sent. True when nothing is left, so that there is room for more.
    fn write(&mut self, now: Instant) -> Result<bool, Close> {
        if self.sent == self.output.len() {
            self.sent_at = now;
        }
        while self.writable && self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(Close("it takes nothing more")),
                Ok(count) => {
                    self.sent += count;
                    self.sent_at = now;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Close("it broke")),
            }
        }
        let emptied = self.sent > 0 && self.sent == self.output.len();
        if emptied {
            self.output.clear();
            self.sent = 0;
        }
        Ok(emptied)
    }

    /// Gives back what a busy moment has taken.
    fn shrink(&mut self) {
        const KEPT: usize = 512;
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = Vec::new();
        }
        if self.output.is_empty() && self.output.capacity() > KEPT {
            self.output = Vec::new();
        }
    }
}

//! One TCP connection: bytes in, frames to its client's session, bytes out.
//!
//! Reads no more than it can hand on: a client that outruns its limits, or doesn't take what it is
//! sent, is left waiting in its own socket. What an idle one keeps is a few hundred bytes.

use std::future::Future as _;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::client::{ANSWERED, Client, Close, Taken};
use super::jute::{Connect, connect_response, read_only_response};
use super::output::Output;
use super::outstanding::Load;
use super::settings::Settings;
use super::statistics::ConnectionFacts;
use super::stream::Stream;
use super::words::{self, Answer};
use crate::{AuthId, Credentials, Error, NodeHandle, Pending, Session, SessionId};

/// What all connections of a thread share.
pub(super) struct Surroundings<'a> {
    pub node: &'a NodeHandle,
    pub settings: &'a Settings,
    pub shared: &'a Arc<super::Shared>,
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
        wish: Wish,
    },
    /// A four-letter word is being answered.
    Asked(oneshot::Receiver<String>),
    Serving(Box<Client>),
    /// What is to be sent is sent, then it is closed.
    Leaving,
}

/// What a client has asked for, should there be no leader to give it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wish {
    /// It would be content with reading.
    may_read_only: bool,
    /// The session that it says is its own; 0 for none.
    session: i64,
    timeout_ms: u32,
}

/// Whether a connection is encrypted.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "all are as they are"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encryption {
    /// As it is.
    Settled,
    /// Its client's first bytes will tell.
    Offered,
    /// It must be.
    Required,
}

/// See the module's text.
pub(super) struct Connection {
    pub stream: Stream,
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "it is as it is"))]
    encryption: Encryption,
    /// It is counted among those whose handshake is under way.
    handshaking: bool,
    pub facts: Arc<ConnectionFacts>,
    stage: Stage,
    waker: Waker,
    begun_at: Instant,
    /// Bytes read and not understood yet.
    input: Vec<u8>,
    output: Output,
    /// When there was last nothing to be sent, or some of it was.
    sent_at: Instant,
    /// Whether the socket may have something to be read, or room to write into.
    readable: bool,
    writable: bool,
    /// Counted among all connections' outstanding requests.
    counted: Load,
    /// Bytes have come since its client was last heard of.
    has_news: bool,
    /// It is to be looked at again, and nobody will wake it: the total limit held it up, or what it counts
    /// for there is out of date.
    pub starved: bool,
}

/// Why a connection is closed that somebody else may serve better.
const NO_LEADER: &str = "no leader can be reached";

/// How much one connection may read before others have their turn.
const TURN_BYTES_MAX: usize = 256 * 1024;

impl Connection {
    pub(super) fn new(
        stream: Stream,
        peer: SocketAddr,
        encryption: Encryption,
        waker: Waker,
        now: Instant,
    ) -> Connection {
        Connection {
            stream,
            encryption,
            handshaking: false,
            facts: ConnectionFacts::new(peer, now),
            stage: Stage::Greeting,
            waker,
            begun_at: now,
            input: Vec::new(),
            output: Output::default(),
            sent_at: now,
            readable: true,
            writable: true,
            counted: Load::default(),
            has_news: false,
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
    pub(super) fn check_time(&self, now: Instant, shared: &super::Shared) -> Result<(), Close> {
        match &self.stage {
            Stage::Greeting | Stage::Leaving
                if now.duration_since(self.begun_at) > shared.settings.greeting_timeout =>
            {
                let expired = &shared.statistics.sessionless_expired;
                expired.fetch_add(1, Relaxed);
                Err(Close("it took too long"))
            }
            Stage::Opening { wish, .. } if shared.is_read_only() && !wish.may_read_only => {
                Err(Close(NO_LEADER))
            }
            // The watcher's last word is not looked at while there is no room to tell of what came before.
            Stage::Serving(client) if client.is_over() => Err(Close("its session is over")),
            Stage::Serving(client)
                if !self.output.is_empty()
                    && now.duration_since(self.sent_at) > client.timeout() =>
            {
                Err(Close("it takes nothing of what it is sent"))
            }
            Stage::Serving(client) if client.is_read_only() && shared.has_leader() => Err(Close(
                "a leader can be reached again, which may serve it wholly",
            )),
            Stage::Serving(client) if client.is_silent(now) => {
                Err(Close("it was silent for too long"))
            }
            Stage::Serving(client) if client.is_cut_off(now) => Err(Close(NO_LEADER)),
            _ => Ok(()),
        }
    }

    /// Does all that can be done now. Returns whether there is more, for another turn.
    pub(super) fn advance(&mut self, around: &mut Surroundings<'_>) -> Result<bool, Close> {
        self.starved = false;
        #[cfg(feature = "tls")]
        if !self.settle_encryption(around)? {
            return Ok(false);
        }
        let mut turn_bytes = 0;
        loop {
            let mut progress = self.read(around, &mut turn_bytes)?;
            progress |= self.understand(around)?;
            progress |= self.answer(around)?;
            progress |= self.write(around)?;
            self.count(around);
            if !progress {
                break;
            }
            if turn_bytes >= TURN_BYTES_MAX {
                return Ok(true);
            }
        }
        self.shrink();
        if matches!(self.stage, Stage::Leaving)
            && self.output.is_empty()
            && !self.stream.has_unsent()
        {
            return Err(Close(ANSWERED));
        }
        Ok(false)
    }

    /// Whether a client that waits for a session must be served without the cluster by now.
    pub(super) fn waits_for_leader(&self) -> bool {
        matches!(&self.stage, Stage::Opening { wish, .. } if wish.may_read_only)
    }

    /// Finds out whether the client speaks TLS. False while that can't be told.
    #[cfg(feature = "tls")]
    fn settle_encryption(&mut self, around: &Surroundings<'_>) -> Result<bool, Close> {
        use super::stream::Beginning;
        const BROKE: Close = Close("it broke");
        let Some(tls) = &around.settings.tls else {
            return Ok(true);
        };
        let encrypts = match self.encryption {
            Encryption::Settled => return Ok(true),
            Encryption::Required => true,
            Encryption::Offered => match self.stream.beginning() {
                Ok(Beginning::Tls) => true,
                Ok(Beginning::Plain) => false,
                Ok(Beginning::Unknown) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(BROKE),
            },
        };
        self.encryption = Encryption::Settled;
        if encrypts {
            self.stream.encrypt(tls).map_err(|_| BROKE)?;
            self.handshaking = true;
            let outstanding = &around.shared.statistics.handshakes_outstanding;
            outstanding.fetch_add(1, Relaxed);
            self.facts.is_encrypted.store(true, Relaxed);
        }
        Ok(true)
    }

    /// Counts the handshake out that is over, well or badly.
    #[cfg(feature = "tls")]
    fn note_handshake(&mut self, shared: &super::Shared) {
        if self.handshaking && !self.stream.is_handshaking() {
            self.handshaking = false;
            let outstanding = &shared.statistics.handshakes_outstanding;
            outstanding.fetch_sub(1, Relaxed);
        }
    }

    /// What is counted of it no longer, now that it goes.
    pub(super) fn count_out(&mut self, shared: &super::Shared) {
        shared.count_outstanding(self.counted, Load::default());
        self.counted = Load::default();
        if std::mem::take(&mut self.handshaking) {
            let statistics = &shared.statistics;
            statistics.handshakes_outstanding.fetch_sub(1, Relaxed);
            statistics.handshakes_failed.fetch_add(1, Relaxed);
        }
    }

    /// Who the client has proven to be before it says a word.
    fn proven(&self, _settings: &Settings) -> Vec<AuthId> {
        #[cfg(feature = "tls")]
        if let Some(subject) = self.stream.client_subject() {
            let is_super = _settings.super_x509.as_ref() == Some(&subject);
            let identity = AuthId::new("x509", subject);
            return match is_super {
                true => vec![AuthId::new("super", &identity.id), identity],
                false => vec![identity],
            };
        }
        Vec::new()
    }

    fn count(&mut self, around: &Surroundings<'_>) {
        let unanswered = self.client().map(Client::unanswered);
        let now = unanswered.unwrap_or_default();
        around.shared.count_outstanding(self.counted, now);
        self.counted = now;
        let outstanding = self.client().map_or(0, Client::outstanding);
        self.facts.outstanding.store(outstanding, Relaxed);
        // Nothing is polled while it takes nothing, so that no answer would wake it.
        self.starved |= now.requests > 0 && self.is_congested(around.settings);
    }

    fn read(
        &mut self,
        around: &mut Surroundings<'_>,
        turn_bytes: &mut usize,
    ) -> Result<bool, Close> {
        // A frame that is whole waits to be understood: no more is needed.
        if !self.readable || self.has_frame(around)? || self.is_congested(around.settings) {
            return Ok(false);
        }
        let read = self.stream.read(around.scratch);
        #[cfg(feature = "tls")]
        self.note_handshake(around.shared);
        match read {
            // It has no more to say, and waits for what it has asked for.
            Ok(0) if matches!(self.stage, Stage::Leaving | Stage::Asked(_)) => {
                self.readable = false;
                Ok(false)
            }
            Ok(0) => Err(Close("its client has closed it")),
            Ok(count) => {
                *turn_bytes += count;
                let received = &around.shared.statistics.bytes_received;
                received.fetch_add(count as u64, Relaxed);
                self.has_news = true;
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
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                Err(Close("its TLS is not accepted"))
            }
            Err(_) => Err(Close("it broke")),
        }
    }

    fn is_congested(&self, settings: &Settings) -> bool {
        self.output.unsent().len() >= settings.unsent_bytes_max
    }

    /// The length of the first frame, once it has been said.
    fn frame_length(&self, around: &Surroundings<'_>) -> Result<Option<usize>, Close> {
        let Some(length) = self.input.first_chunk() else {
            return Ok(None);
        };
        if matches!(self.stage, Stage::Greeting) && words::is_word(length) {
            return Ok(Some(words::argument_bytes(length)));
        }
        check_length(*length, around).map(Some)
    }

    fn has_frame(&self, around: &Surroundings<'_>) -> Result<bool, Close> {
        let length = self.frame_length(around)?;
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
                let Some(argument) = rest.get(..words::argument_bytes(&length)) else {
                    break;
                };
                // As ZooKeeper, which counts it as a packet.
                self.facts.received.fetch_add(1, Relaxed);
                self.stage = match words::answer(&length, argument, around.shared) {
                    Answer::Now(answer) => {
                        self.output.bytes_mut().extend_from_slice(answer.as_bytes());
                        Stage::Leaving
                    }
                    Answer::Soon(answer) => Stage::Asked(answer),
                };
                *used = input.len();
                return Ok(());
            }
            let length = check_length(length, around)?;
            let Some(frame) = rest.get(..length) else {
                break;
            };
            let is_congested = self.is_congested(around.settings);
            match &mut self.stage {
                Stage::Greeting => self.connect(frame, around)?,
                Stage::Serving(client) => {
                    // Once for each: one that waits here for long says nothing of its client.
                    if std::mem::take(&mut self.has_news) {
                        client.heard(around.now);
                    }
                    if !around.shared.may_call() {
                        self.starved = true;
                        break;
                    }
                    if is_congested || client.submit(frame, around)? == Taken::NotYet {
                        break;
                    }
                }
                Stage::Opening { .. } | Stage::Asked(_) | Stage::Leaving => break,
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
        let asked = &around.shared.statistics.sessions_asked;
        asked.fetch_add(1, Relaxed);
        let timeout_ms = u64::try_from(connect.timeout_ms).unwrap_or(0);
        let wish = Wish {
            may_read_only: connect.read_only == Some(true),
            session: connect.session,
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
        };
        if around.shared.is_read_only() {
            return self.serve_read_only(wish, around);
        }
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
                return self.refuse(says_read_only);
            }
        };
        self.stage = Stage::Opening {
            pending,
            says_read_only,
            wish,
        };
        Ok(())
    }

    /// There is no leader: serves reads alone, to a client that is content with it (ZooKeeper's
    /// `ReadOnlyZooKeeperServer`).
    fn serve_read_only(&mut self, wish: Wish, around: &Surroundings<'_>) -> Result<(), Close> {
        if !wish.may_read_only {
            return Err(Close(NO_LEADER));
        }
        if wish.session != 0 {
            // One of the cluster's must not be lost for a while without writes; any other is none.
            if around.shared.is_session(SessionId(wish.session)) {
                return Err(Close("its session can't be had without a leader"));
            }
            return self.refuse(true);
        }
        let (shortest, longest) = around.shared.session_timeouts_ms();
        let timeout_ms = wish.timeout_ms.clamp(shortest, longest.max(shortest));
        let timeout = std::time::Duration::from_millis(timeout_ms.into());
        let builder = around.node.session().timeout(timeout);
        let session = builder
            .open_read_only()
            .map_err(|_| Close("its session can't be had"))?;
        let credentials = session.credentials();
        let identity = (credentials.session.0, &credentials.password);
        let timeout_ms = i32::try_from(timeout_ms).unwrap_or(i32::MAX);
        read_only_response(self.output.bytes_mut(), identity, timeout_ms)?;
        self.serve(session, around);
        Ok(())
    }

    fn refuse(&mut self, says_read_only: bool) -> Result<(), Close> {
        connect_response(self.output.bytes_mut(), (0, &[0; 16]), 0, says_read_only)?;
        self.stage = Stage::Leaving;
        Ok(())
    }

    /// Writes what is answered into the output.
    fn answer(&mut self, around: &mut Surroundings<'_>) -> Result<bool, Close> {
        let mut context = Context::from_waker(&self.waker);
        match &mut self.stage {
            Stage::Asked(answer) => {
                let Poll::Ready(answer) = Pin::new(answer).poll(&mut context) else {
                    return Ok(false);
                };
                let answer = answer.map_err(|_| Close("its word could not be answered"))?;
                self.output.bytes_mut().extend_from_slice(answer.as_bytes());
                self.stage = Stage::Leaving;
                Ok(true)
            }
            Stage::Opening {
                pending,
                says_read_only,
                wish,
            } => {
                let (says_read_only, wish) = (*says_read_only, *wish);
                let Poll::Ready(session) = Pin::new(pending).poll(&mut context) else {
                    if around.shared.is_read_only() {
                        self.serve_read_only(wish, around)?;
                        return Ok(true);
                    }
                    return Ok(false);
                };
                match session {
                    Ok(session) => self.begin(session, says_read_only, around)?,
                    Err(Error::WrongPassword { .. } | Error::SessionExpired { .. }) => {
                        self.refuse(says_read_only)?;
                    }
                    Err(_) => return Err(Close("its session can't be had")),
                }
                Ok(true)
            }
            Stage::Serving(client) => {
                let limit = self.output.length_with(around.settings.unsent_bytes_max);
                let out = (self.output.bytes_mut(), limit);
                let body = (&mut *around.body, around.settings.reply_bytes_max);
                let clock = (&around.shared.statistics, around.now);
                let advanced = client.advance(&mut context, out, body, clock);
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

    fn begin(
        &mut self,
        session: Session,
        says_read_only: bool,
        around: &Surroundings<'_>,
    ) -> Result<(), Close> {
        let credentials = session.credentials();
        let timeout_ms = i32::try_from(session.timeout().as_millis()).unwrap_or(i32::MAX);
        let identity = (credentials.session.0, &credentials.password);
        connect_response(
            self.output.bytes_mut(),
            identity,
            timeout_ms,
            says_read_only,
        )?;
        self.serve(session, around);
        Ok(())
    }

    fn serve(&mut self, session: Session, around: &Surroundings<'_>) {
        let facts = self.facts.clone();
        let proven = self.proven(around.settings);
        let client = Client::new(session, facts, &proven, around.settings, around.now);
        self.stage = Stage::Serving(Box::new(client));
    }

    /// Sends what can be sent. True when nothing is left, so that there is room for more.
    fn write(&mut self, around: &Surroundings<'_>) -> Result<bool, Close> {
        let was_empty = self.output.is_empty();
        if was_empty {
            self.sent_at = around.now;
        }
        if self.writable {
            match self.stream.flush() {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(_) => return Err(Close("it broke")),
            }
        }
        while self.writable && !self.output.is_empty() {
            match self.stream.write(self.output.unsent()) {
                Ok(0) => return Err(Close("it takes nothing more")),
                Ok(count) => {
                    self.output.note_sent(count);
                    self.sent_at = around.now;
                    let sent = &around.shared.statistics.bytes_sent;
                    sent.fetch_add(count as u64, Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Close("it broke")),
            }
        }
        Ok(!was_empty && self.output.is_empty())
    }

    /// Gives back what a busy moment has taken.
    fn shrink(&mut self) {
        const KEPT: usize = 512;
        if self.input.is_empty() && self.input.capacity() > KEPT {
            self.input = Vec::new();
        }
        self.output.shrink();
    }
}

fn check_length(length: [u8; 4], around: &Surroundings<'_>) -> Result<usize, Close> {
    match usize::try_from(i32::from_be_bytes(length)) {
        Ok(length) if length <= around.settings.frame_bytes_max => Ok(length),
        _ => {
            let too_large = &around.shared.statistics.frames_too_large;
            too_large.fetch_add(1, Relaxed);
            Err(Close("it sent a frame of an impossible length"))
        }
    }
}

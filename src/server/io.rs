//! The threads that serve all connections: each sleeps until a socket, or an answer, is ready.
//!
//! The first also accepts, and hands every other connection to the others in turn. Answers wake their
//! connection by a [`ReadyList`].

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;
use slab::Slab;

use super::Shared;
use super::client::{ANSWERED, Close};
use super::connection::{Connection, Encryption, Surroundings};
use super::stream::Stream;

/// The sockets' own tokens are small.
const WAKER: Token = Token(usize::MAX);
/// The listeners' count down from here.
const LISTENERS: usize = usize::MAX - 1;
const LISTENERS_MAX: usize = 2;
/// How often the connections are looked through for those whose time is over.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How soon a connection tries again that all the others' requests have held up.
const STARVED_INTERVAL: Duration = Duration::from_millis(2);

/// What is to be done for one connection. A panic, which is a fault of this library, ends that connection
/// alone, not those of all who share its thread.
fn survived<T>(work: impl FnOnce() -> Result<T, Close>) -> Result<T, Close> {
    // What was half done is the connection's own, and goes with it.
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or(Err(Close("its server has failed at it: see the panic")))
}

/// The connections of one thread that have something to do.
pub(super) struct ReadyList {
    tokens: Mutex<Vec<usize>>,
    /// Whether the thread knows.
    signalled: AtomicBool,
    waker: mio::Waker,
}

impl ReadyList {
    pub(super) fn wake(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // It fails only when the thread is gone.
            let _ = self.waker.wake();
        }
    }

    fn push(&self, token: usize) {
        self.tokens.lock().push(token);
        self.wake();
    }

    fn take(&self) -> Vec<usize> {
        self.signalled.store(false, Ordering::Release);
        std::mem::take(&mut *self.tokens.lock())
    }
}

/// Wakes one connection. What has been reused for another is woken for nothing.
struct ConnectionWaker {
    token: usize,
    ready: Arc<ReadyList>,
}

impl Wake for ConnectionWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.token);
    }
}

/// A connection on its way to its thread.
pub(super) type Accepted = (TcpStream, SocketAddr, Encryption);

/// How to reach a thread.
#[derive(Clone)]
pub(super) struct Mailbox {
    pub connections: Sender<Accepted>,
    pub ready: Arc<ReadyList>,
}

/// One thread's sockets.
pub(super) struct IoThread {
    poll: Poll,
    ready: Arc<ReadyList>,
    incoming: Receiver<Accepted>,
    connections: Slab<Connection>,
    starved: Vec<usize>,
    shared: Arc<Shared>,
    scratch: Vec<u8>,
    body: Vec<u8>,
    next_sweep: Instant,
}

/// What only the first thread has.
pub(super) struct Acceptor {
    /// Where connections come in, and how they are to be encrypted.
    pub listeners: Vec<(TcpListener, Encryption)>,
    pub mailboxes: Vec<Mailbox>,
    pub next: usize,
}

impl IoThread {
    pub(super) fn new(shared: Arc<Shared>) -> std::io::Result<(IoThread, Mailbox)> {
        let poll = Poll::new()?;
        let ready = Arc::new(ReadyList {
            tokens: Mutex::default(),
            signalled: AtomicBool::new(false),
            waker: mio::Waker::new(poll.registry(), WAKER)?,
        });
        // No more than there may be connections.
        let (connections, incoming) = crossbeam_channel::bounded(shared.settings.connections_max);
        let thread = IoThread {
            poll,
            ready: ready.clone(),
            incoming,
            connections: Slab::new(),
            starved: Vec::new(),
            shared,
            scratch: vec![0; 64 * 1024],
            body: Vec::new(),
            next_sweep: Instant::now() + SWEEP_INTERVAL,
        };
        Ok((thread, Mailbox { connections, ready }))
    }

    /// Serves until the server stops.
    pub(super) fn run(mut self, mut acceptor: Option<Acceptor>) {
        let listeners = acceptor
            .iter_mut()
            .flat_map(|acceptor| &mut acceptor.listeners);
        for (at, (listener, _)) in listeners.enumerate() {
            let token = Token(LISTENERS - at);
            let registry = self.poll.registry();
            if let Err(error) = registry.register(listener, token, Interest::READABLE) {
                self.shared
                    .log(&format!("cannot accept connections: {error}"));
            }
        }
        let mut events = Events::with_capacity(1024);
        while !self.shared.stopping() {
            let pause = match self.starved.is_empty() {
                true => self.next_sweep.saturating_duration_since(Instant::now()),
                false => STARVED_INTERVAL,
            };
            if let Err(error) = self.poll.poll(&mut events, Some(pause))
                && error.kind() != ErrorKind::Interrupted
            {
                self.shared
                    .log(&format!("cannot wait for connections: {error}"));
                return;
            }
            let now = Instant::now();
            for event in &events {
                match event.token() {
                    WAKER => {}
                    Token(token) if token > LISTENERS - LISTENERS_MAX => {
                        if let Some(acceptor) = &mut acceptor {
                            self.accept(acceptor);
                        }
                    }
                    Token(token) => {
                        if let Some(connection) = self.connections.get_mut(token) {
                            let readable = event.is_readable() || event.is_read_closed();
                            let writable = event.is_writable() || event.is_write_closed();
                            connection.note_ready(readable, writable);
                            self.advance(token, now);
                        }
                    }
                }
            }
            while let Ok(accepted) = self.incoming.try_recv() {
                self.begin(accepted, now);
            }
            let mut ready = self.ready.take();
            ready.append(&mut self.starved);
            ready.sort_unstable();
            ready.dedup();
            for token in ready {
                self.advance(token, now);
            }
            if now >= self.next_sweep {
                self.next_sweep = now + SWEEP_INTERVAL;
                self.sweep(now);
                if let Some(acceptor) = &mut acceptor {
                    // What could not be accepted for want of files is tried again.
                    self.accept(acceptor);
                }
            }
        }
        let tokens: Vec<usize> = self.connections.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.close(token, Close(ANSWERED));
        }
        while let Ok((_, peer, _)) = self.incoming.try_recv() {
            self.shared.dismiss(peer.ip());
        }
    }

    fn accept(&mut self, acceptor: &mut Acceptor) {
        for at in 0..acceptor.listeners.len() {
            self.accept_from(acceptor, at);
        }
    }

    fn accept_from(&mut self, acceptor: &mut Acceptor, at: usize) {
        let encryption = acceptor.listeners[at].1;
        loop {
            match acceptor.listeners[at].0.accept() {
                Ok((stream, peer)) => {
                    if let Err(reason) = self.shared.admit(peer.ip()) {
                        let rejected = &self.shared.statistics.connections_rejected;
                        rejected.fetch_add(1, Ordering::Relaxed);
                        self.shared.log(&format!("{peer} is refused: {reason}"));
                        continue;
                    }
                    acceptor.next = (acceptor.next + 1) % acceptor.mailboxes.len();
                    let mailbox = &acceptor.mailboxes[acceptor.next];
                    let accepted = (stream, peer, encryption);
                    if mailbox.connections.try_send(accepted).is_err() {
                        self.shared.dismiss(peer.ip());
                    }
                    mailbox.ready.wake();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // Of one connection, or of all for a while: the sweep tries again.
                    return self
                        .shared
                        .log(&format!("a connection is not accepted: {error}"));
                }
            }
        }
    }

    fn begin(&mut self, (stream, peer, encryption): Accepted, now: Instant) {
        // Small replies must not wait for each other.
        let _ = stream.set_nodelay(true);
        let mut stream = Stream::Plain(stream);
        let entry = self.connections.vacant_entry();
        let token = entry.key();
        if let Err(error) = stream.register(self.poll.registry(), Token(token)) {
            self.shared.dismiss(peer.ip());
            return self.shared.log(&format!("{peer} can't be served: {error}"));
        }
        let ready = self.ready.clone();
        let waker = Waker::from(Arc::new(ConnectionWaker { token, ready }));
        let connection = entry.insert(Connection::new(stream, peer, encryption, waker, now));
        self.shared.statistics.add(&connection.facts);
        self.advance(token, now);
    }

    fn advance(&mut self, token: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let mut around = Surroundings {
            node: &self.shared.node,
            settings: &self.shared.settings,
            shared: &self.shared,
            now,
            scratch: &mut self.scratch,
            body: &mut self.body,
        };
        match survived(|| connection.advance(&mut around)) {
            Ok(true) => self.ready.push(token),
            Ok(false) if connection.starved => self.starved.push(token),
            Ok(false) => {}
            Err(close) => self.close(token, close),
        }
        // One large reply is not kept room for.
        if self.body.capacity() > 64 * 1024 {
            self.body = Vec::new();
        }
    }

    fn close(&mut self, token: usize, Close(reason): Close) {
        let mut connection = self.connections.remove(token);
        connection.stream.close(self.poll.registry());
        connection.count_out(&self.shared);
        self.shared.dismiss(connection.address());
        self.shared.statistics.remove(&connection.facts);
        if reason != ANSWERED {
            self.shared
                .log(&format!("{} is closed: {reason}", connection.facts.peer));
        }
    }

    fn sweep(&mut self, now: Instant) {
        self.shared.look();
        let shared = &self.shared;
        let over: Vec<(usize, Close)> = self
            .connections
            .iter()
            .filter_map(|(token, connection)| {
                Some((token, connection.check_time(now, shared).err()?))
            })
            .collect();
        for (token, close) in over {
            self.close(token, close);
        }
        if self.shared.is_read_only() {
            let waiting = self.connections.iter();
            let waiting = waiting.filter(|(_, connection)| connection.waits_for_leader());
            let tokens: Vec<usize> = waiting.map(|(token, _)| token).collect();
            for token in tokens {
                self.advance(token, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_closes_one_connection() {
        let failed = survived(|| -> Result<bool, Close> { panic!("it is meant to") });
        assert_eq!(
            failed,
            Err(Close("its server has failed at it: see the panic"))
        );
        assert_eq!(survived(|| Ok(7)), Ok(7));
    }
}

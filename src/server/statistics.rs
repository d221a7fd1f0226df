//! What a server counts, for those who look after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// How long something took, over and over: in microseconds.
#[derive(Debug)]
pub(super) struct Times {
    count: AtomicU64,
    sum_us: AtomicU64,
    min_us: AtomicU64,
    max_us: AtomicU64,
}

impl Times {
    fn new() -> Times {
        Times {
            count: AtomicU64::new(0),
            sum_us: AtomicU64::new(0),
            min_us: AtomicU64::new(u64::MAX),
            max_us: AtomicU64::new(0),
        }
    }

    fn add(&self, us: u64) {
        self.count.fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
        self.min_us.fetch_min(us, Relaxed);
        self.max_us.fetch_max(us, Relaxed);
    }

    fn reset(&self) {
        self.count.store(0, Relaxed);
        self.sum_us.store(0, Relaxed);
        self.min_us.store(u64::MAX, Relaxed);
        self.max_us.store(0, Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(super) fn sum_ms(&self) -> u64 {
        self.sum_us.load(Relaxed) / 1_000
    }

    /// The least, mean and greatest, in milliseconds.
    pub(super) fn ms(&self) -> (u64, f64, u64) {
        let count = self.count();
        if count == 0 {
            return (0, 0.0, 0);
        }
        let mean = self.sum_us.load(Relaxed) as f64 / count as f64 / 1_000.0;
        (
            self.min_us.load(Relaxed) / 1_000,
            mean,
            self.max_us.load(Relaxed) / 1_000,
        )
    }
}

/// The numbers of one connection.
pub(super) struct ConnectionFacts {
    pub peer: SocketAddr,
    pub established: Instant,
    /// Milliseconds since the Unix epoch.
    pub established_ms: u64,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub outstanding: AtomicUsize,
    /// 0 until it has one.
    pub session: AtomicI64,
    pub timeout_ms: AtomicU64,
    pub is_encrypted: AtomicBool,
    /// When it was heard of, in milliseconds after it was established.
    heard_ms: AtomicU64,
    pub last: Mutex<LastAnswer>,
    pub latency: Times,
}

/// What a connection was last answered.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct LastAnswer {
    pub opcode: i32,
    pub xid: i32,
    pub zxid: u64,
    /// Milliseconds after the connection was established.
    pub at_ms: u64,
    pub latency_ms: u64,
}

impl ConnectionFacts {
    pub(super) fn new(peer: SocketAddr, now: Instant) -> Arc<ConnectionFacts> {
        Arc::new(ConnectionFacts {
            peer,
            established: now,
            established_ms: unix_ms(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            outstanding: AtomicUsize::new(0),
            session: AtomicI64::new(0),
            timeout_ms: AtomicU64::new(0),
            is_encrypted: AtomicBool::new(false),
            heard_ms: AtomicU64::new(0),
            last: Mutex::default(),
            latency: Times::new(),
        })
    }

    pub(super) fn heard(&self, now: Instant) {
        self.heard_ms.store(self.age_ms(now), Relaxed);
    }

    /// When its session, or the wait for one, would end if nothing more were heard of it: in
    /// milliseconds since the Unix epoch.
    pub(super) fn expires_at_ms(&self, without_session_ms: u64) -> u64 {
        let timeout_ms = match self.timeout_ms.load(Relaxed) {
            0 => without_session_ms,
            timeout_ms => timeout_ms,
        };
        self.established_ms + self.heard_ms.load(Relaxed) + timeout_ms
    }

    fn age_ms(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.established))
    }

    /// A request was answered.
    pub(super) fn answered(
        &self,
        (opcode, xid, zxid): (i32, i32, u64),
        latency: Duration,
        now: Instant,
    ) {
        self.latency.add(microseconds(latency));
        *self.last.lock() = LastAnswer {
            opcode,
            xid,
            zxid,
            at_ms: self.age_ms(now),
            latency_ms: milliseconds(latency),
        };
    }

    pub(super) fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.latency.reset();
        *self.last.lock() = LastAnswer::default();
    }
}

/// The numbers of all connections.
pub(super) struct Statistics {
    started: Instant,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub latency: Times,
    pub read_latency: Times,
    pub update_latency: Times,
    pub bytes_received: AtomicU64,
    pub bytes_sent: AtomicU64,
    /// How often a session was asked for.
    pub sessions_asked: AtomicU64,
    pub connections_rejected: AtomicU64,
    pub authentications_failed: AtomicU64,
    pub frames_too_large: AtomicU64,
    /// Connections that were given up before they had a session.
    pub sessionless_expired: AtomicU64,
    pub handshakes_failed: AtomicU64,
    pub handshakes_outstanding: AtomicUsize,
    pub last_reply_bytes: AtomicU64,
    min_reply_bytes: AtomicU64,
    pub max_reply_bytes: AtomicU64,
    connections: Mutex<BTreeMap<SocketAddr, Arc<ConnectionFacts>>>,
}

impl Statistics {
    pub(super) fn new() -> Statistics {
        Statistics {
            started: Instant::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            latency: Times::new(),
            read_latency: Times::new(),
            update_latency: Times::new(),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            sessions_asked: AtomicU64::new(0),
            connections_rejected: AtomicU64::new(0),
            authentications_failed: AtomicU64::new(0),
            frames_too_large: AtomicU64::new(0),
            sessionless_expired: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            handshakes_outstanding: AtomicUsize::new(0),
            last_reply_bytes: AtomicU64::new(0),
            min_reply_bytes: AtomicU64::new(u64::MAX),
            max_reply_bytes: AtomicU64::new(0),
            connections: Mutex::default(),
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// A request was answered after so long.
    pub(super) fn answered(&self, latency: Duration, is_update: bool) {
        let us = microseconds(latency);
        self.latency.add(us);
        match is_update {
            true => self.update_latency.add(us),
            false => self.read_latency.add(us),
        }
    }

    pub(super) fn replied(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.last_reply_bytes.store(bytes, Relaxed);
        self.min_reply_bytes.fetch_min(bytes, Relaxed);
        self.max_reply_bytes.fetch_max(bytes, Relaxed);
    }

    /// The bytes of the smallest reply; 0 where there was none.
    pub(super) fn min_reply_bytes(&self) -> u64 {
        match self.min_reply_bytes.load(Relaxed) {
            u64::MAX => 0,
            bytes => bytes,
        }
    }

    /// As ZooKeeper's `srst`: packets, latencies and the sizes of replies.
    pub(super) fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.latency.reset();
        self.read_latency.reset();
        self.update_latency.reset();
        self.last_reply_bytes.store(0, Relaxed);
        self.min_reply_bytes.store(u64::MAX, Relaxed);
        self.max_reply_bytes.store(0, Relaxed);
    }

    pub(super) fn add(&self, connection: &Arc<ConnectionFacts>) {
        let mut connections = self.connections.lock();
        connections.insert(connection.peer, connection.clone());
    }

    pub(super) fn remove(&self, connection: &Arc<ConnectionFacts>) {
        let mut connections = self.connections.lock();
        // Its address may be another's by now.
        if let Some(found) = connections.get(&connection.peer)
            && Arc::ptr_eq(found, connection)
        {
            connections.remove(&connection.peer);
        }
    }

    pub(super) fn connections(&self) -> Vec<Arc<ConnectionFacts>> {
        self.connections.lock().values().cloned().collect()
    }
}

/// The wall clock, for what people read.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, milliseconds)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

//! What a server counts, for those who look after it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The numbers of one connection.
pub(super) struct ConnectionFacts {
    pub peer: SocketAddr,
    pub established: Instant,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    pub outstanding: AtomicUsize,
    /// 0 until it has one.
    pub session: AtomicI64,
    pub timeout_ms: AtomicU64,
}

impl ConnectionFacts {
    pub(super) fn new(peer: SocketAddr, now: Instant) -> Arc<ConnectionFacts> {
        Arc::new(ConnectionFacts {
            peer,
            established: now,
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            outstanding: AtomicUsize::new(0),
            session: AtomicI64::new(0),
            timeout_ms: AtomicU64::new(0),
        })
    }

    pub(super) fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
    }
}

/// The numbers of all connections.
pub(super) struct Statistics {
    started: Instant,
    pub received: AtomicU64,
    pub sent: AtomicU64,
    requests: AtomicU64,
    latency_sum_us: AtomicU64,
    latency_min_us: AtomicU64,
    latency_max_us: AtomicU64,
    connections: Mutex<BTreeMap<SocketAddr, Arc<ConnectionFacts>>>,
}

impl Statistics {
    pub(super) fn new() -> Statistics {
        Statistics {
            started: Instant::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            latency_sum_us: AtomicU64::new(0),
            latency_min_us: AtomicU64::new(u64::MAX),
            latency_max_us: AtomicU64::new(0),
            connections: Mutex::default(),
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// A request was answered after so long.
    pub(super) fn answered(&self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.requests.fetch_add(1, Relaxed);
        self.latency_sum_us.fetch_add(us, Relaxed);
        self.latency_min_us.fetch_min(us, Relaxed);
        self.latency_max_us.fetch_max(us, Relaxed);
    }

    /// The least, mean and greatest latency, in milliseconds.
    pub(super) fn latency_ms(&self) -> (u64, f64, u64) {
        let requests = self.requests.load(Relaxed);
        if requests == 0 {
            return (0, 0.0, 0);
        }
        let mean = self.latency_sum_us.load(Relaxed) as f64 / requests as f64 / 1_000.0;
        (
            self.latency_min_us.load(Relaxed) / 1_000,
            mean,
            self.latency_max_us.load(Relaxed) / 1_000,
        )
    }

    pub(super) fn reset(&self) {
        self.received.store(0, Relaxed);
        self.sent.store(0, Relaxed);
        self.requests.store(0, Relaxed);
        self.latency_sum_us.store(0, Relaxed);
        self.latency_min_us.store(u64::MAX, Relaxed);
        self.latency_max_us.store(0, Relaxed);
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

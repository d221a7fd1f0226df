//! Time, as a host may bring it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment: both clocks, read together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Time since some fixed point in the life of the process. Never goes back.
    pub monotonic: Duration,
    /// Milliseconds since the Unix epoch. May jump; it stamps `ctime` and `mtime` and ends the life of
    /// TTL znodes, and decides nothing else.
    pub wall_ms: i64,
}

/// Where a node reads the time.
///
/// # What you guarantee
/// `monotonic` never goes back and goes on while the machine runs, also while the process is stopped.
/// The clocks of two nodes may differ in rate by up to one part in sixteen: a session's `Lost` keeps
/// that margin.
///
/// # Threads
/// Read from any thread, often: reading is cheap and never blocks.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Now;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time begins now.
    pub fn new() -> SystemClock {
        SystemClock {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let wall_ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        Now {
            monotonic: self.start.elapsed(),
            wall_ms,
        }
    }
}

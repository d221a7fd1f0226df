//! Time: the true one, and each node's own idea of it.
//!
//! The simulation moves the true time from one event to the next. A node's monotonic clock runs at a rate
//! of its own, no further from the true one than what [`crate::Clock`] allows between two nodes; its wall
//! clock says anything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Now};

/// How far a clock's rate may be from the true one, in millionths: two that differ by twice that differ by
/// less than one part in sixteen.
pub(super) const RATE_MAX_PPM: i64 = 30_000;

/// [`RATE_MAX_PPM`] as the part of a time: one in so many, rounded to the safe side.
pub(super) const DRIFT_DIVISOR: u32 = 33;

const MILLION: i128 = 1_000_000;

/// 1 January 2030, in milliseconds since the Unix epoch.
const WALL_MS: i64 = 1_893_456_000_000;

/// The true time since the simulation began, in nanoseconds.
#[derive(Clone, Default)]
pub(super) struct TrueTime(Arc<AtomicU64>);

impl TrueTime {
    pub(super) fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, now: Duration) {
        self.0.store(now.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for TrueTime {
    fn now(&self) -> Now {
        let monotonic = self.get();
        Now {
            monotonic,
            wall_ms: WALL_MS + monotonic.as_millis() as i64,
        }
    }
}

/// A node's clock; a clone is the same clock.
#[derive(Clone)]
pub(super) struct NodeClock {
    time: TrueTime,
    dial: Arc<Mutex<Dial>>,
}

struct Dial {
    /// The true time at which the rate was set, and what the clock showed then.
    true_base: Duration,
    base: Duration,
    rate_ppm: i64,
    wall_offset_ms: i64,
}

impl NodeClock {
    /// A clock that shows `base` now and is right about everything else.
    pub(super) fn new(time: TrueTime, base: Duration) -> NodeClock {
        let dial = Dial {
            true_base: time.get(),
            base,
            rate_ppm: 0,
            wall_offset_ms: 0,
        };
        NodeClock {
            time,
            dial: Arc::new(Mutex::new(dial)),
        }
    }

    /// From now on the clock runs faster than the true time by so many millionths.
    pub(super) fn set_rate(&self, rate_ppm: i64) {
        let now = self.now().monotonic;
        let mut dial = self.dial.lock();
        dial.true_base = self.time.get();
        dial.base = now;
        dial.rate_ppm = rate_ppm.clamp(-RATE_MAX_PPM, RATE_MAX_PPM);
    }

    /// The wall clock is set.
    pub(super) fn jump(&self, by_ms: i64) {
        self.dial.lock().wall_offset_ms += by_ms;
    }

    /// The process has begun anew: its monotonic time begins somewhere else.
    pub(super) fn reboot(&self, base: Duration) {
        let mut dial = self.dial.lock();
        dial.true_base = self.time.get();
        dial.base = base;
    }

    /// The true time at which the clock will have reached `monotonic`.
    pub(super) fn when(&self, monotonic: Duration) -> Duration {
        let dial = self.dial.lock();
        let ahead = monotonic.saturating_sub(dial.base).as_nanos() as i128;
        let rate = MILLION + i128::from(dial.rate_ppm);
        // Rounded up: never before.
        let true_ahead = (ahead * MILLION + rate - 1) / rate;
        dial.true_base + Duration::from_nanos(true_ahead as u64)
    }
}

impl Clock for NodeClock {
    fn now(&self) -> Now {
        let dial = self.dial.lock();
        let now = self.time.get();
        let passed = (now - dial.true_base).as_nanos() as i128;
        let shown = passed * (MILLION + i128::from(dial.rate_ppm)) / MILLION;
        Now {
            monotonic: dial.base + Duration::from_nanos(shown as u64),
            wall_ms: WALL_MS + now.as_millis() as i64 + dial.wall_offset_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_clock_that_drifts_never_goes_back_and_is_found_where_it_was_expected() {
        let time = TrueTime::default();
        let clock = NodeClock::new(time.clone(), SECOND * 5);
        clock.set_rate(30_000);
        time.set(SECOND * 10);
        assert_eq!(clock.now().monotonic, Duration::from_millis(15_300));
        clock.set_rate(-30_000);
        assert_eq!(clock.now().monotonic, Duration::from_millis(15_300));
        let goal = SECOND * 25;
        let when = clock.when(goal);
        time.set(when - Duration::from_nanos(2));
        assert!(clock.now().monotonic < goal);
        time.set(when);
        assert!(clock.now().monotonic >= goal);
    }

    #[test]
    fn two_clocks_differ_by_less_than_a_sixteenth() {
        let (slow, fast) = (1_000_000 - RATE_MAX_PPM, 1_000_000 + RATE_MAX_PPM);
        assert!(fast * 16 <= slow * 17);
        assert!(RATE_MAX_PPM * i64::from(DRIFT_DIVISOR) <= 1_000_000);
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_nothing_else() {
        let clock = NodeClock::new(TrueTime::default(), SECOND);
        let before = clock.now();
        clock.jump(-86_400_000);
        let after = clock.now();
        assert_eq!(after.monotonic, before.monotonic);
        assert_eq!(after.wall_ms, before.wall_ms - 86_400_000);
    }
}

//! Looking out for work for a moment before sleeping.
//!
//! To be woken costs a thread more than most waits for a disk's sync take. Whoever looks out yields, so
//! that every other thread goes first. It decides nothing but how soon something is noticed.

use std::time::{Duration, Instant};

/// How long a thread of a node that has just worked looks out for more.
pub(crate) const LINGER: Duration = Duration::from_micros(150);

/// Waits for work without sleeping, at most for `span`. Whether some has come.
pub(crate) fn linger(span: Duration, has_work: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if has_work() {
            return true;
        }
        if begun.elapsed() >= span {
            return false;
        }
        std::thread::yield_now();
    }
}

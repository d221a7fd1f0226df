//! What has happened in a simulation, as lines and as one number.
//!
//! Two runs of a seed have the same number, and the same lines byte for byte.

use std::fmt::Write as _;
use std::time::Duration;

/// How much of a simulation's trace is kept as text. The number of it is of everything, whatever is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[non_exhaustive]
pub enum TraceDetail {
    /// Nothing.
    #[default]
    None,
    /// Faults, starts and ends of processes, leaders, members, the ends of sessions.
    Notable,
    /// Also every turn and every message.
    Everything,
}

/// A trace in the making.
#[derive(Default)]
pub(super) struct Trace {
    detail: TraceDetail,
    number: u64,
    text: String,
}

impl Trace {
    pub(super) fn new(detail: TraceDetail) -> Trace {
        Trace {
            detail,
            ..Trace::default()
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Something has happened: what it is follows from these numbers.
    pub(super) fn add(
        &mut self,
        detail: TraceDetail,
        at: Duration,
        numbers: &[u64],
        text: impl FnOnce() -> String,
    ) {
        self.number = mix(self.number, at.as_nanos() as u64);
        for &number in numbers {
            self.number = mix(self.number, number);
        }
        if detail <= self.detail {
            let _ = writeln!(self.text, "{:13.6} {}", at.as_secs_f64(), text());
        }
    }

    /// Something notable has happened: what it is follows from the text.
    pub(super) fn note(&mut self, at: Duration, text: &str) {
        let number = u64::from(crc32fast::hash(text.as_bytes()));
        self.add(TraceDetail::Notable, at, &[number], || text.to_string());
    }
}

/// One more number in a hash that depends on the order.
fn mix(hash: u64, number: u64) -> u64 {
    (hash ^ number)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_of_everything_and_the_text_of_what_was_asked_for() {
        let trace = |detail, number| {
            let mut trace = Trace::new(detail);
            trace.note(Duration::from_millis(1_500), "node 1 starts");
            trace.add(
                TraceDetail::Everything,
                Duration::from_secs(2),
                &[number],
                || "node 1 turns".to_string(),
            );
            trace
        };
        let notable = trace(TraceDetail::Notable, 1);
        assert_eq!(notable.text(), "     1.500000 node 1 starts\n");
        assert_eq!(notable.number(), trace(TraceDetail::None, 1).number());
        assert_ne!(notable.number(), trace(TraceDetail::Notable, 2).number());
        assert_eq!(trace(TraceDetail::Everything, 1).text().lines().count(), 2);
    }
}

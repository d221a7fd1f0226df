//! No queue of a node grows beyond its limit.

use super::{Check, Turn};
use crate::testing::oracle::Violation;

const OVERFULL: &str = "a queue has grown beyond its limit";

/// How many calls the nodes of a simulation let wait: few, so that it matters.
pub(in super::super) const REQUESTS_MAX: usize = 4_096;
/// The other limits are the node's own.
const PEER_MESSAGES_MAX: usize = 16_384;
const WRITES_MAX: usize = 65_536;
const SNAPSHOTS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct BoundedQueues;

impl BoundedQueues {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let queues = &turn.queues;
        let full = queues.requests > REQUESTS_MAX
            || queues.peer_messages > PEER_MESSAGES_MAX
            || queues.writes > WRITES_MAX
            || queues.snapshots > SNAPSHOTS_MAX;
        if full {
            let line = format!("node {}: {queues:?}", turn.node);
            return Err(Violation::new(OVERFULL, [line]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn an_overfull_queue_is_found() {
        let see = |requests| {
            Observed::default().turn(
                |turn| turn.queues.requests = requests,
                |turn| BoundedQueues.on_turn(turn),
            )
        };
        see(REQUESTS_MAX).unwrap();
        found(see(REQUESTS_MAX + 1), OVERFULL);
    }
}

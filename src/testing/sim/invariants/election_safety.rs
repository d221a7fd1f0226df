//! Election safety: at most one leader in a term (Raft paper, section 5.2).

use std::collections::HashMap;

use super::{Check, Turn};
use crate::consensus::Role;
use crate::testing::oracle::Violation;

const TWO_LEADERS: &str = "a term has two leaders";

/// The leader of each term.
#[derive(Default)]
pub(super) struct ElectionSafety {
    leaders: HashMap<u64, u64>,
}

impl ElectionSafety {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        if turn.role != Role::Leader {
            return Ok(());
        }
        let leader = *self.leaders.entry(turn.term).or_insert(turn.node);
        if leader == turn.node {
            return Ok(());
        }
        let line = format!("term {}: node {leader} and node {}", turn.term, turn.node);
        Err(Violation::new(TWO_LEADERS, [line]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn a_second_leader_of_a_term_is_found() {
        let mut safety = ElectionSafety::default();
        let mut lead = |node, term| {
            Observed::default().turn(
                |turn| (turn.node, turn.term, turn.role) = (node, term, Role::Leader),
                |turn| safety.on_turn(turn),
            )
        };
        lead(1, 1).unwrap();
        lead(2, 2).unwrap();
        lead(1, 1).unwrap();
        found(lead(3, 2), TWO_LEADERS);
    }
}

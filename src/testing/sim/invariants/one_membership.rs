//! What is applied decides who takes part: nodes that have applied the same agree on it, and a node's core and
//! its replica do (a snapshot that keeps stale membership: openraft #1808).

use std::collections::HashMap;

use super::{Check, Turn};
use crate::storage::Configuration;
use crate::testing::oracle::Violation;

const OTHER_MEMBERS: &str = "two nodes that have applied the same have different members";
const STALE_CORE: &str = "a node's core has other members than its replica";

/// Who was first at an index, and with which members.
#[derive(Default)]
pub(super) struct OneMembership {
    members: HashMap<u64, (u64, Configuration)>,
}

impl OneMembership {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let (node, index) = (turn.node, turn.applied_index);
        let line =
            |node: u64, members: &Configuration| format!("node {node} at {index}: {members:?}");
        if turn.members != turn.core_members {
            let lines = [turn.members, turn.core_members].map(|members| line(node, members));
            return Err(Violation::new(STALE_CORE, lines));
        }
        // A node that joins has nothing but a guess.
        if index == 1 {
            return Ok(());
        }
        let found = || (node, turn.members.clone());
        let (first, members) = self.members.entry(index).or_insert_with(found);
        if members != turn.members {
            let lines = [line(*first, members), line(node, turn.members)];
            return Err(Violation::new(OTHER_MEMBERS, lines));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;
    use crate::ids::NodeId;

    #[test]
    fn other_members_and_a_stale_core_are_found() {
        let mut one = OneMembership::default();
        let of = |learners: &[u64]| Configuration {
            learners: learners.iter().filter_map(|&id| NodeId::new(id)).collect(),
            ..Configuration::default()
        };
        let mut see = |node, members: &[u64], core_members: &[u64]| {
            let observed = Observed {
                members: of(members),
                core_members: of(core_members),
                ..Observed::default()
            };
            observed.turn(|turn| turn.node = node, |turn| one.on_turn(turn))
        };
        see(1, &[4], &[4]).unwrap();
        see(2, &[4], &[4]).unwrap();
        found(see(3, &[], &[]), OTHER_MEMBERS);
        found(see(3, &[4], &[]), STALE_CORE);
    }
}

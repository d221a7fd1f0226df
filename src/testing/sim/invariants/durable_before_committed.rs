//! Nothing is acknowledged before it is durable on a quorum: what a leader takes for committed stands on
//! the disks of a majority of the voters (etcd's data loss of 2022, issue #13766).

use std::collections::HashMap;

use super::{Check, Turn};
use crate::consensus::Role;
use crate::testing::oracle::Violation;

const NOT_DURABLE: &str = "an entry is committed that no majority holds durably";

/// Up to where each node's commits were looked at.
#[derive(Default)]
pub(super) struct DurableBeforeCommitted {
    looked_at: HashMap<u64, (u32, u64)>,
}

impl DurableBeforeCommitted {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let stands = (turn.boot, turn.commit);
        // A follower hears of a commit when those who made it may be members no more.
        if self.looked_at.insert(turn.node, stands) == Some(stands) || turn.role != Role::Leader {
            return Ok(());
        }
        let term = |node: &u64| turn.disks.get(node)?.term(turn.commit);
        // A leader commits entries of its own term only, and what stands before them.
        let is_held = |voter: &u64| {
            let disk = turn.disks.get(voter);
            disk.is_some_and(|disk| disk.holds(turn.commit, turn.term))
        };
        let mut terms = turn.disks.keys().filter_map(term);
        // A new leader may have heard of a commit of an earlier term as a follower.
        if terms.all(|term| term != turn.term) && turn.entries.iter().all(|e| e.term < turn.term) {
            return Ok(());
        }
        let decided = |voters: &Vec<u64>| {
            let held = voters.iter().filter(|voter| is_held(voter)).count();
            held > voters.len() / 2
        };
        if turn.voters.iter().any(decided) {
            return Ok(());
        }
        let mut lines = vec![format!(
            "node {} leads term {} and takes {} for committed",
            turn.node, turn.term, turn.commit
        )];
        for (node, disk) in turn.disks {
            lines.push(format!(
                "node {node} holds {:?} there, and {} entries",
                disk.term(turn.commit),
                disk.last_index()
            ));
        }
        Err(Violation::new(NOT_DURABLE, lines))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::disk::DurableLog;
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn a_commit_that_only_a_minority_holds_is_found() {
        let mut durable = DurableBeforeCommitted::default();
        let mut observed = Observed::default();
        let mut lead = |observed: &Observed, commit| {
            observed.turn(
                |turn| (turn.role, turn.commit) = (Role::Leader, commit),
                |turn| durable.on_turn(turn),
            )
        };
        lead(&observed, 8).unwrap();
        observed.disks.insert(2, DurableLog::of(0, &[1; 8]));
        lead(&observed, 9).unwrap();
        observed
            .disks
            .insert(3, DurableLog::of(0, &[1, 1, 1, 1, 1, 1, 1, 1, 0]));
        lead(&observed, 8).unwrap();
        found(lead(&observed, 9), NOT_DURABLE);
    }
}

//! Leader completeness: what was committed in an earlier term is in the log of every later leader (Raft
//! paper, section 5.4).

use std::collections::{BTreeMap, HashSet};

use super::{Check, Turn};
use crate::consensus::Role;
use crate::testing::oracle::Violation;

const INCOMPLETE: &str = "a leader lacks an entry that was committed before its term";

/// What is known to be committed, and which leaders were looked at.
#[derive(Default)]
pub(super) struct LeaderCompleteness {
    /// By term, the last entry of that term which anybody has applied.
    committed: BTreeMap<u64, u64>,
    looked_at: HashSet<(u64, u64)>,
}

impl LeaderCompleteness {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        for entry in turn.entries {
            let last = self.committed.entry(entry.term).or_default();
            *last = entry.index.max(*last);
        }
        if turn.role != Role::Leader || self.looked_at.contains(&(turn.node, turn.term)) {
            return Ok(());
        }
        let Some((&term, &index)) = self.committed.range(..turn.term).next_back() else {
            return Ok(());
        };
        let disk = turn.disks.get(&turn.node);
        // By its vote for itself in this term everything before that is durable, too: writes have an
        // order. Until then the disk may hold what the log has replaced.
        let durable = disk.filter(|disk| disk.hard_state.term >= turn.term);
        let lacks = turn.last_index < index
            || durable.is_some_and(|disk| index <= disk.last_index() && !disk.holds(index, term));
        if lacks {
            let lines = [
                format!("entry {index} of term {term} was applied"),
                format!(
                    "node {} leads term {}, its log ends at {} and holds there {:?}",
                    turn.node,
                    turn.term,
                    turn.last_index,
                    disk.and_then(|disk| disk.term(index))
                ),
            ];
            return Err(Violation::new(INCOMPLETE, lines));
        }
        if durable.is_some() {
            self.looked_at.insert((turn.node, turn.term));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::disk::DurableLog;
    use super::super::observed::{Observed, found};
    use super::*;
    use crate::replica::AppliedEntry;

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let entry = AppliedEntry {
            index: 9,
            term: 1,
            checksum: 0,
        };
        let see = |last_index, log: &[u64]| {
            let mut completeness = LeaderCompleteness::default();
            let mut observed = Observed {
                entries: vec![entry],
                ..Observed::default()
            };
            observed.turn(|_| {}, |turn| completeness.on_turn(turn))?;
            let mut log = DurableLog::of(0, log);
            log.hard_state.term = 2;
            observed.disks.insert(2, log);
            observed.entries.clear();
            observed.turn(
                |turn| {
                    (turn.node, turn.role, turn.term) = (2, Role::Leader, 2);
                    turn.last_index = last_index;
                },
                |turn| completeness.on_turn(turn),
            )
        };
        see(9, &[1; 9]).unwrap();
        found(see(8, &[1; 8]), INCOMPLETE);
        found(see(9, &[1, 1, 1, 1, 1, 1, 1, 1, 2]), INCOMPLETE);
    }
}

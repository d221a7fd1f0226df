//! A leader commits by counting copies only entries of its own term, and what precedes those with them (Raft
//! paper, section 5.4.2 and figure 8).

use std::collections::HashMap;

use super::{Check, Turn};
use crate::consensus::Role;
use crate::testing::oracle::Violation;

const EARLIER_TERM: &str =
    "a leader has committed an entry of an earlier term by counting its copies";

/// Each leader's term and commit index after its last turn.
#[derive(Default)]
pub(super) struct CommitsOwnTerm {
    leaders: HashMap<(u64, u32), (u64, u64)>,
}

impl CommitsOwnTerm {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let key = (turn.node, turn.boot);
        if turn.role != Role::Leader {
            self.leaders.remove(&key);
            return Ok(());
        }
        let before = self.leaders.insert(key, (turn.term, turn.commit));
        let Some((term, commit)) = before.filter(|(term, _)| *term == turn.term) else {
            return Ok(());
        };
        // The vote for itself is durable, and so is what was in its log by then.
        let disk = turn.disks.get(&turn.node);
        let disk = disk.filter(|disk| disk.hard_state.term >= term);
        let found = disk.and_then(|disk| disk.term(turn.commit));
        match found {
            Some(found) if turn.commit > commit && found < term => {
                let line = format!(
                    "node {} leads term {term}; its commit index went from {commit} to {}, of term {found}",
                    turn.node, turn.commit
                );
                Err(Violation::new(EARLIER_TERM, [line]))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::disk::DurableLog;
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn a_commit_of_an_earlier_term_is_found_and_one_with_an_entry_of_its_own_is_not() {
        let see = |commits: [u64; 2]| {
            let mut own_term = CommitsOwnTerm::default();
            let mut observed = Observed::default();
            let mut log = DurableLog::of(0, &[1, 1, 1, 3]);
            log.hard_state.term = 3;
            observed.disks.insert(1, log);
            commits.into_iter().try_for_each(|commit| {
                observed.turn(
                    |turn| (turn.role, turn.term, turn.commit) = (Role::Leader, 3, commit),
                    |turn| own_term.on_turn(turn),
                )
            })
        };
        see([2, 2]).unwrap();
        see([2, 4]).unwrap();
        found(see([2, 3]), EARLIER_TERM);
    }
}

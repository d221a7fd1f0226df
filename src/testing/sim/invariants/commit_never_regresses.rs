//! What a node knows to be committed, what it has applied and its term only grow, as long as it runs; and
//! it applies nothing that isn't committed.

use std::collections::HashMap;

use super::{Check, Turn};
use crate::testing::oracle::Violation;

const WENT_BACK: &str = "a node's commit, applied index or term goes back";
const AHEAD: &str = "a node has applied what is not committed";

/// Where each node stood last, and in which of its starts.
#[derive(Default)]
pub(super) struct CommitNeverRegresses {
    stood: HashMap<u64, (u32, [u64; 4])>,
}

impl CommitNeverRegresses {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let stands = [turn.term, turn.commit, turn.applied_index, turn.zxid.0];
        let before = self.stood.insert(turn.node, (turn.boot, stands));
        let line = || {
            format!(
                "node {}: term, commit, applied, zxid {stands:?} after {before:?}",
                turn.node
            )
        };
        if let Some((boot, stood)) = before
            && boot == turn.boot
            && stood
                .iter()
                .zip(&stands)
                .any(|(stood, stands)| stands < stood)
        {
            return Err(Violation::new(WENT_BACK, [line()]));
        }
        if turn.applied_index > turn.commit {
            return Err(Violation::new(AHEAD, [line()]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn what_goes_back_is_found_unless_the_node_was_started_anew() {
        let mut never = CommitNeverRegresses::default();
        let mut see = |boot, commit| {
            Observed::default().turn(
                |turn| (turn.boot, turn.commit, turn.applied_index) = (boot, commit, 2),
                |turn| never.on_turn(turn),
            )
        };
        see(1, 9).unwrap();
        see(2, 5).unwrap();
        found(see(2, 4), WENT_BACK);
        found(see(3, 1), AHEAD);
    }
}

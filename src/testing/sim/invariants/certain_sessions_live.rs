//! While a node is certain that a session lives, by its own clock, no node has applied its expiry: a lock's guard
//! relies on it (Curator #980; Chubby's "jeopardy").

use std::collections::HashSet;

use super::{Check, Turn};
use crate::ids::SessionId;
use crate::testing::oracle::Violation;

const EXPIRED: &str = "a node is certain of a session that has expired";

/// What has expired anywhere.
#[derive(Default)]
pub(super) struct CertainSessionsLive {
    expired: HashSet<SessionId>,
}

impl CertainSessionsLive {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        self.expired.extend(turn.expired);
        match turn.certain.iter().find(|id| self.expired.contains(id)) {
            Some(session) => {
                let line = format!("node {}, session {session}", turn.node);
                Err(Violation::new(EXPIRED, [line]))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn a_node_that_is_certain_of_an_expired_session_is_found() {
        let mut live = CertainSessionsLive::default();
        let mut see = |node, certain: &[i64], expired: &[i64]| {
            let observed = Observed {
                certain: certain.iter().copied().map(SessionId).collect(),
                expired: expired.iter().copied().map(SessionId).collect(),
                ..Observed::default()
            };
            observed.turn(|turn| turn.node = node, |turn| live.on_turn(turn))
        };
        see(1, &[1, 2], &[]).unwrap();
        see(2, &[], &[3]).unwrap();
        see(1, &[1, 2], &[]).unwrap();
        see(2, &[], &[2]).unwrap();
        see(1, &[1], &[]).unwrap();
        found(see(1, &[1, 2], &[]), EXPIRED);
    }
}

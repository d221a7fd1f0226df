//! Ephemerals belong to sessions that live.

use super::{Check, Turn};
use crate::testing::oracle::Violation;

const LEFT: &str = "an ephemeral belongs to a session that is no more";

#[derive(Default)]
pub(super) struct EphemeralsOfLiveSessions;

impl EphemeralsOfLiveSessions {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        for owner in turn.owners {
            if turn.sessions.binary_search(owner).is_err() {
                let line = format!("node {} at {}: session {owner}", turn.node, turn.zxid);
                return Err(Violation::new(LEFT, [line]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn an_owner_that_is_no_session_is_found() {
        let mut observed = Observed {
            owners: vec![SessionId(4), SessionId(9)],
            sessions: vec![SessionId(1), SessionId(4), SessionId(9)],
            ..Observed::default()
        };
        let check = |observed: &Observed| {
            observed.turn(|_| {}, |turn| EphemeralsOfLiveSessions.on_turn(turn))
        };
        check(&observed).unwrap();
        observed.sessions.pop();
        found(check(&observed), LEFT);
    }
}

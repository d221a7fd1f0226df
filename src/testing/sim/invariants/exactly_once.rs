//! Each write of a session takes effect once, in the session's order, and as the same write on every
//! replica.

use std::collections::HashMap;

use super::{Check, Turn};
use crate::ids::{SessionId, Zxid};
use crate::testing::oracle::Violation;

const TWICE: &str = "a session's write has taken effect twice";
const OUT_OF_ORDER: &str = "a session's write has taken effect out of order";

/// When each write took effect.
#[derive(Default)]
pub(super) struct ExactlyOnce {
    writes: HashMap<(SessionId, u64), Zxid>,
    /// The last one of each session.
    last: HashMap<SessionId, u64>,
}

impl ExactlyOnce {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        for write in turn.writes {
            let (session, sequence) = (write.session, write.sequence);
            let line = |zxid| {
                let node = turn.node;
                format!("node {node}: write {sequence} of session {session} as {zxid}")
            };
            if let Some(&known) = self.writes.get(&(session, sequence)) {
                if known != write.zxid {
                    return Err(Violation::new(TWICE, [known, write.zxid].map(line)));
                }
                continue;
            }
            self.writes.insert((session, sequence), write.zxid);
            let last = self.last.insert(session, sequence).unwrap_or(0);
            if sequence != last + 1 {
                let lines = [line(write.zxid), format!("the last one was {last}")];
                return Err(Violation::new(OUT_OF_ORDER, lines));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;
    use crate::replica::AppliedWrite;

    #[test]
    fn a_write_that_happens_again_or_out_of_order_is_found() {
        let mut once = ExactlyOnce::default();
        let mut apply = |sequence, zxid| {
            let write = AppliedWrite {
                session: SessionId(1),
                sequence,
                zxid: Zxid(zxid),
            };
            let observed = Observed {
                writes: vec![write],
                ..Observed::default()
            };
            observed.turn(|_| {}, |turn| once.on_turn(turn))
        };
        apply(1, 5).unwrap();
        apply(2, 6).unwrap();
        apply(1, 5).unwrap();
        found(apply(2, 7), TWICE);
        found(apply(4, 8), OUT_OF_ORDER);
    }
}

//! A leader that stood still gives every session its whole timeout again before it ends any: nobody could have
//! been heard meanwhile (etcd #15247).

use std::collections::HashMap;
use std::time::Duration;

use super::{Check, Turn};
use crate::testing::oracle::Violation;

const TOO_EARLY: &str = "a leader that was stalled has ended a session within that one's timeout";

/// When each node last turned and when it last woke, by its own clock.
#[derive(Default)]
pub(super) struct StalledLeadersExpireNobody {
    nodes: HashMap<(u64, u32), (Duration, Duration)>,
}

impl StalledLeadersExpireNobody {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let now = turn.clock;
        let key = (turn.node, turn.boot);
        let (turned_at, woke_at) = self.nodes.entry(key).or_insert((now, now));
        if now.saturating_sub(*turned_at) > turn.stall {
            *woke_at = now;
        }
        *turned_at = now;
        let awake = now.saturating_sub(*woke_at);
        match turn
            .proposed_to_expire
            .iter()
            .find(|(_, timeout)| *timeout > awake)
        {
            Some((session, timeout)) => {
                let line = format!(
                    "node {} woke {awake:?} ago, the timeout of session {session} is {timeout:?}",
                    turn.node
                );
                Err(Violation::new(TOO_EARLY, [line]))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn an_expiry_soon_after_a_stall_is_found() {
        let ms = Duration::from_millis;
        let see = |turns: &[u64]| {
            let mut stalled = StalledLeadersExpireNobody::default();
            let mut observed = Observed::default();
            turns.iter().try_for_each(|&at| {
                if at == 2_000 {
                    observed.proposed_to_expire.push((SessionId(1), ms(1_000)));
                }
                observed.turn(|turn| turn.clock = ms(at), |turn| stalled.on_turn(turn))
            })
        };
        let steady: Vec<u64> = (800..=2_000).step_by(200).collect();
        see(&steady).unwrap();
        let stalled: Vec<u64> = steady
            .iter()
            .copied()
            .filter(|at| !(1_000..1_400).contains(at))
            .collect();
        found(see(&stalled), TOO_EARLY);
    }
}

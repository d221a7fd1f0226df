//! A node that has joined begins with a snapshot from after the moment at which it was no member: an older one is
//! of a former life under the same id, and would take it to its removal.

use super::{Check, Turn};
use crate::testing::oracle::Violation;

const FORMER_LIFE: &str = "a node that has joined has taken a snapshot of a former life";

/// Remembers nothing: each turn is judged by itself.
#[derive(Default)]
pub(super) struct NoFormerLife;

impl NoFormerLife {
    pub(super) fn on_turn(&self, turn: &Turn<'_>) -> Check {
        match turn.joined_as_of {
            // With the first entry alone it waits to be added.
            Some(as_of) if turn.applied_index > 1 && turn.applied_index < as_of => {
                let line = format!(
                    "node {} was no member as of {as_of}, and has applied {}",
                    turn.node, turn.applied_index
                );
                Err(Violation::new(FORMER_LIFE, [line]))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;

    #[test]
    fn an_older_snapshot_is_found() {
        let see = |applied_index| {
            Observed::default().turn(
                |turn| (turn.joined_as_of, turn.applied_index) = (Some(7), applied_index),
                |turn| NoFormerLife.on_turn(turn),
            )
        };
        see(1).unwrap();
        see(7).unwrap();
        found(see(6), FORMER_LIFE);
    }
}

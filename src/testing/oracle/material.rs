//! How much each oracle has to judge in a history: a promise of which nothing was recorded is kept by
//! any history.

use super::Violation;
use super::timeline::looks;
use crate::testing::history::{Call, Consistency, History, Op};

/// An oracle had nothing to judge.
pub const NOTHING_TO_JUDGE: &str = "an oracle has nothing to judge";

/// The oracles of [`super::ALL`], each with how many things it has to judge:
///
/// - `recovery`: writes that were answered after the faults, where the history goes on for long enough,
/// - `fencing`: holds of a lock that somebody else has held before,
/// - `exactly_once`: acknowledged writes, where the changes or the tree at the end were recorded,
/// - `atomicity`: multi-reads of several znodes,
/// - `sessions`: ends of sessions, and looks at whether a session was certain where ends are recorded,
/// - `session_order`: reads of the session's own consistency,
/// - `watches`: watches that were set, where the changes were recorded,
/// - `linearizability`: acknowledged writes and answered linearizable reads.
pub fn material(history: &History) -> [(&'static str, usize); 8] {
    let acknowledged = count(history, |call| {
        call.op.is_write() && call.outcome.has_happened()
    });
    let changes = !history.changes.is_empty();
    [
        ("recovery", after_the_faults(history)),
        ("fencing", holds_after_others(history)),
        (
            "exactly_once",
            where_recorded(changes || history.tree.is_some(), acknowledged),
        ),
        (
            "atomicity",
            count(history, |call| {
                matches!(call.op, Op::MultiRead(_)) && looks(call).len() > 1
            }),
        ),
        ("sessions", ends_and_looks(history)),
        (
            "session_order",
            count(history, |call| {
                call.consistency == Consistency::Session && !looks(call).is_empty()
            }),
        ),
        (
            "watches",
            where_recorded(
                changes,
                history.watches.iter().filter(|w| w.set.is_some()).count(),
            ),
        ),
        (
            "linearizability",
            acknowledged
                + count(history, |call| {
                    call.consistency == Consistency::Linearizable && !looks(call).is_empty()
                }),
        ),
    ]
}

/// Demands that each of these oracles has something to judge: whoever means to test a promise by a
/// history asks for it, lest nothing be found because nothing was looked at.
///
/// # Errors
/// [`NOTHING_TO_JUDGE`], with the oracles that have nothing, and those that don't exist.
pub fn demand(history: &History, oracles: &[&str]) -> Result<(), Violation> {
    let material = material(history);
    let idle = oracles.iter().filter(|oracle| {
        let found = material.iter().find(|(name, _)| name == *oracle);
        found.is_none_or(|(_, count)| *count == 0)
    });
    let idle: Vec<String> = idle.map(|oracle| oracle.to_string()).collect();
    match idle.is_empty() {
        true => Ok(()),
        false => Err(Violation::new(NOTHING_TO_JUDGE, idle)),
    }
}

fn count(history: &History, which: impl Fn(&Call) -> bool) -> usize {
    history.calls.iter().filter(|call| which(call)).count()
}

fn where_recorded(recorded: bool, count: usize) -> usize {
    if recorded { count } else { 0 }
}

fn after_the_faults(history: &History) -> usize {
    let Some(healed) = history.healed() else {
        return 0;
    };
    let long_enough = history.ended.at >= healed.at + history.bounds.recovery;
    let written = count(history, |call| {
        call.op.is_write() && call.answered.is_some_and(|answered| answered > healed)
    });
    where_recorded(long_enough, written)
}

fn holds_after_others(history: &History) -> usize {
    let mut locks: Vec<&str> = history.holds.iter().map(|hold| &hold.lock[..]).collect();
    locks.sort_unstable();
    locks.windows(2).filter(|pair| pair[0] == pair[1]).count()
}

fn ends_and_looks(history: &History) -> usize {
    let looks = usize::try_from(history.recorded.certain).unwrap_or(usize::MAX);
    let looks = where_recorded(history.recorded.session_ends, looks);
    history.session_ends.len().saturating_add(looks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::EventKind;
    use crate::testing::history::{ClientId, PhaseKind};
    use crate::testing::oracle::story::*;
    use crate::{SessionId, WatchKind, Zxid};

    #[test]
    fn the_oracles_are_all_there() {
        let names = material(&Story::new().history()).map(|(name, _)| name);
        assert_eq!(names, super::super::ALL.map(|(name, _)| name));
    }

    #[test]
    fn each_oracle_says_that_it_has_nothing_until_it_has() {
        for (oracle, _) in super::super::ALL {
            let mut story = Story::new();
            let found = demand(&story.history(), &[oracle]).expect_err("an empty history");
            assert_eq!(
                (found.promise, &found.evidence[0][..]),
                (NOTHING_TO_JUDGE, oracle)
            );
            give(&mut story, oracle);
            assert_eq!(demand(&story.history(), &[oracle]), Ok(()), "{oracle}");
        }
        assert!(demand(&Story::new().history(), &["no such oracle"]).is_err());
    }

    fn give(story: &mut Story, oracle: &str) {
        let one = story.session(1);
        match oracle {
            "recovery" => {
                story.recorder.phase(PhaseKind::Healed);
                story.did(one, create("/r", ""), created("/r", 1));
                story.wait_ms(100_000);
            }
            "fencing" => {
                story.recorder.held(ClientId(1), "/lock", 1);
                story.recorder.held(ClientId(2), "/lock", 2);
            }
            "exactly_once" => {
                story.did(one, create("/r", ""), created("/r", 1));
                story.recorder.tree([]);
            }
            "atomicity" => {
                let op = Op::MultiRead(vec![Op::get("/r"), Op::children("/r")]);
                let answers = vec![data("", 0, 1), names(&[], 1)];
                story.did(one, op, crate::testing::history::Answer::Multi(answers));
            }
            "sessions" => story.recorder.session_ended(SessionId(1), None),
            "session_order" => {
                story.did(one, Op::get("/r"), data("", 0, 1));
            }
            "watches" => {
                story.change(1, EventKind::NodeCreated, "/r");
                let (watcher, called) = (story.recorder.watcher(one), story.recorder.now());
                let kind = WatchKind::Data;
                story.recorder.watched(watcher, called, "/r", kind, Zxid(1));
            }
            _ => {
                story.did_linearizable(one, Op::get("/r"), data("", 0, 1));
            }
        }
    }
}

//! Writes and linearizable reads happen in one order, each at some moment between its call and its
//! answer, and a session's writes in the order of their calls.
//!
//! The judge is Wing and Gong's search with Lowe's memory. It takes a history apart into parts that
//! share no znode, which is sound because linearizability is local (Herlihy and Wing, 1990); a multi
//! ties its znodes together, and so do a sequential create, a listing of children and a deletion tie a
//! parent to its children. Zxids are used to guess an order that fits, never to conclude anything, but for
//! one: which of several creations of a path a znode is of.
//!
//! Calls that were never answered, or whose outcome is unknown, may have happened at any time after
//! their call, or not at all; but not after their session was attached again or is over. So may the end of a session that owns ephemerals, unless it was recorded.
//! A session's own read takes part when it follows a `sync`: then it shows nothing older than what was
//! there when the `sync` was called.
//!
//! The tree at the end, where somebody looked, is a read of every path that a call names, found or
//! missing, after the last answer.

mod deadlines;
mod guesses;
mod items;
mod left;
mod model;
mod path_sets;
mod search;

use items::{Part, Subject};
use search::Verdict;

use super::Violation;
use crate::testing::history::History;

/// No order of the writes explains what was answered.
pub const NO_ORDER: &str = "no order of the writes explains the answers";
/// The search took too long: the history has too many calls whose outcome is unknown.
pub const UNDECIDED: &str = "linearizability can't be decided";

/// How much of the order that was found goes into a report.
const SHOWN_MAX: usize = 12;

/// Judges the history: see the module's text.
///
/// # Errors
/// [`NO_ORDER`] with the longest order that explains a beginning, what should come next, and the
/// znodes as they are then; [`UNDECIDED`].
pub fn check(history: &History) -> Result<(), Violation> {
    for mut part in items::parts(history) {
        match search::search(&part.items, &mut part.model) {
            Verdict::Explained => {}
            Verdict::GivenUp => {
                let calls = format!("{} calls on {}", part.items.len(), part.paths.join(" "));
                return Err(Violation::new(UNDECIDED, [calls]));
            }
            Verdict::Impossible { done, stuck } => {
                return Err(impossible(history, part, &done, &stuck));
            }
        }
    }
    Ok(())
}

fn impossible(history: &History, mut part: Part, done: &[usize], stuck: &[usize]) -> Violation {
    let mut evidence = Vec::new();
    let hidden = done.len().saturating_sub(SHOWN_MAX);
    if hidden > 0 {
        evidence.push(format!("({hidden} calls before these)"));
    }
    for &item in done {
        // Again, to show the tree where the order ends.
        let search::Item { step, expected, .. } = &part.items[item];
        if !step.is_read() {
            part.model.apply(step, expected);
        }
    }
    for &item in &done[hidden..] {
        evidence.push(format!("fits: {}", describe(history, &part.subjects[item])));
    }
    let mut paths = Vec::new();
    // The one that was answered first can't wait for any other.
    let mut stuck: Vec<usize> = stuck
        .iter()
        .copied()
        .filter(|&item| part.items[item].required)
        .collect();
    stuck.sort_by_key(|&item| part.items[item].answered);
    for &item in stuck.iter().take(SHOWN_MAX) {
        evidence.push(format!(
            "fits nowhere: {}",
            describe(history, &part.subjects[item])
        ));
        paths.extend(part.items[item].step.paths());
    }
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        evidence.push(format!("then {}", part.model.describe(path)));
    }
    Violation::new(NO_ORDER, evidence)
}

fn describe(history: &History, subject: &Subject) -> String {
    match subject {
        Subject::Call(call) => history.describe(history.call(*call)),
        Subject::End(session) => format!("session {session} is over"),
        Subject::Reap(path) => format!("the cluster deletes {path}"),
        Subject::Left(path) => left::describe(history, path),
    }
}

#[cfg(test)]
mod tests;

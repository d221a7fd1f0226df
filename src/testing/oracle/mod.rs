//! Judges of a [`History`]: each takes one of the promises and looks for a breach of it.
//!
//! An oracle is a pure function of the history: it knows neither the cluster nor the simulator, and
//! trusts nothing that the cluster says of itself where clients have seen it. What it finds is a
//! [`Violation`], whose text names the calls and events that can't all be true. What was never recorded
//! (the changes of the tree, locks, the tree at the end) is not judged; [`demand`] tells what that is.

pub mod atomicity;
pub mod exactly_once;
pub mod fencing;
mod known;
pub mod linearizability;
mod material;
pub mod recovery;
mod removals;
pub mod session_order;
pub mod sessions;
#[cfg(test)]
mod story;
mod timeline;
pub mod watches;

use std::fmt;

pub use material::{NOTHING_TO_JUDGE, demand, material};

use super::history::History;

/// A promise that a history shows to be broken.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// Which promise, in a few words, without the particulars: what a test of the oracle asks for.
    pub promise: &'static str,
    /// What was seen: the calls and events involved, one in each line.
    pub evidence: Vec<String>,
}

impl Violation {
    /// A breach of this promise; a host's own oracles make them too.
    pub fn new(promise: &'static str, evidence: impl IntoIterator<Item = String>) -> Violation {
        Violation {
            promise,
            evidence: evidence.into_iter().collect(),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.promise)?;
        for line in &self.evidence {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// A judge: finds the first breach of its promise, if there is one.
pub type Oracle = fn(&History) -> Result<(), Violation>;

/// All oracles, by name, the quick ones first.
pub const ALL: [(&str, Oracle); 8] = [
    ("recovery", recovery::check),
    ("fencing", fencing::check),
    ("exactly_once", exactly_once::check),
    ("atomicity", atomicity::check),
    ("sessions", sessions::check),
    ("session_order", session_order::check),
    ("watches", watches::check),
    ("linearizability", linearizability::check),
];

/// Asks all oracles.
///
/// # Errors
/// What the first one that finds something has found.
pub fn check(history: &History) -> Result<(), Violation> {
    ALL.iter().try_for_each(|(_, oracle)| oracle(history))
}

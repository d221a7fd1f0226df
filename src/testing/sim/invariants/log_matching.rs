//! Log matching: where two logs have an entry of the same index and term, it is the same entry, and so is
//! everything before it (Raft paper, section 5.3).
//!
//! By induction it is enough that the entry before it is of the same term.

use std::collections::HashMap;

use super::super::disk::Appended;
use super::Check;
use crate::testing::oracle::Violation;

const DIFFERENT: &str = "two logs have different entries of one index and term";
const DIFFERENT_BEFORE: &str = "two logs have one entry, and different ones before it";

/// By index and term: who had it first, its checksum, and the term of the entry before it.
#[derive(Default)]
pub(super) struct LogMatching {
    entries: HashMap<(u64, u64), (u64, u32, Option<u64>)>,
}

impl LogMatching {
    pub(super) fn on_appended(&mut self, node: u64, appended: &[Appended]) -> Check {
        for entry in appended {
            let found = (node, entry.checksum, entry.previous_term);
            let known = self
                .entries
                .entry((entry.index, entry.term))
                .or_insert(found);
            let promise = match (known.2, found.2) {
                _ if known.1 != found.1 => DIFFERENT,
                (Some(known), Some(found)) if known != found => DIFFERENT_BEFORE,
                // What stood before it is compacted away where it was seen first.
                (None, Some(_)) => {
                    known.2 = found.2;
                    continue;
                }
                _ => continue,
            };
            let line = |(node, checksum, before): (u64, u32, Option<u64>)| {
                format!(
                    "node {node}: entry {} of term {}, checksum {checksum:08x}, after one of {before:?}",
                    entry.index, entry.term
                )
            };
            return Err(Violation::new(promise, [*known, found].map(line)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::found;
    use super::*;

    #[test]
    fn other_entries_are_found_and_what_is_unknown_is_not() {
        let mut matching = LogMatching::default();
        let mut append = |node, checksum, previous_term| {
            let entry = Appended {
                index: 5,
                term: 2,
                previous_term,
                checksum,
            };
            matching.on_appended(node, &[entry])
        };
        append(1, 7, None).unwrap();
        append(2, 7, Some(1)).unwrap();
        append(3, 7, None).unwrap();
        found(append(3, 8, Some(1)), DIFFERENT);
        found(append(3, 7, Some(2)), DIFFERENT_BEFORE);
    }
}

//! State machine safety: what one node has applied at an index, every node applies there (Raft paper,
//! figure 3), and it comes to the same state.

use std::collections::HashMap;

use super::{Check, Turn};
use crate::ids::Zxid;
use crate::testing::oracle::Violation;

const OTHER_ENTRY: &str = "two nodes have applied different entries at one index";
const OTHER_ZXID: &str = "two nodes that have applied the same are at different zxids";
const OTHER_STATE: &str = "two nodes that have applied the same hold different states";

/// What was found first, and where.
#[derive(Default)]
pub(super) struct StateMachineSafety {
    /// By index: node, term and checksum.
    entries: HashMap<u64, (u64, u64, u32)>,
    /// By index: node, zxid and the tree's digest.
    trees: HashMap<u64, (u64, Zxid, u64)>,
    digests: HashMap<Zxid, (u64, u64)>,
}

impl StateMachineSafety {
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        let node = turn.node;
        for entry in turn.entries {
            let found = (node, entry.term, entry.checksum);
            let first = *self.entries.entry(entry.index).or_insert(found);
            if (first.1, first.2) != (found.1, found.2) {
                let line = |(node, term, checksum): (u64, u64, u32)| {
                    format!(
                        "node {node} at {}: term {term}, checksum {checksum:08x}",
                        entry.index
                    )
                };
                return Err(Violation::new(OTHER_ENTRY, [first, found].map(line)));
            }
        }
        let (first, zxid, tree) =
            *self
                .trees
                .entry(turn.applied_index)
                .or_insert((node, turn.zxid, turn.tree_digest));
        if zxid != turn.zxid {
            let line = format!(
                "at {}: node {first} at {zxid}, node {node} at {}",
                turn.applied_index, turn.zxid
            );
            return Err(Violation::new(OTHER_ZXID, [line]));
        }
        // A node that joins has a tree without the cluster's settings and writes.
        if tree != turn.tree_digest {
            let line = format!("zxid {zxid}: the trees of nodes {first} and {node} differ");
            return Err(Violation::new(OTHER_STATE, [line]));
        }
        if let Some(digest) = turn.digest {
            let (first, known) = *self.digests.entry(turn.zxid).or_insert((node, digest));
            if known != digest {
                let line = format!("zxid {}: nodes {first} and {node} differ", turn.zxid);
                return Err(Violation::new(OTHER_STATE, [line]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::{Observed, found};
    use super::*;
    use crate::replica::AppliedEntry;

    #[test]
    fn another_entry_another_zxid_and_another_state_are_found() {
        let mut safety = StateMachineSafety::default();
        let mut see = |node, checksum, zxid, digests: (u64, u64)| {
            let entry = AppliedEntry {
                index: 9,
                term: 1,
                checksum,
            };
            let observed = Observed {
                entries: vec![entry],
                ..Observed::default()
            };
            observed.turn(
                |turn| {
                    (turn.node, turn.zxid) = (node, Zxid(zxid));
                    (turn.tree_digest, turn.digest) = (digests.0, Some(digests.1));
                },
                |turn| safety.on_turn(turn),
            )
        };
        see(1, 7, 9, (4, 5)).unwrap();
        see(2, 7, 9, (4, 5)).unwrap();
        found(see(3, 8, 9, (4, 5)), OTHER_ENTRY);
        found(see(3, 7, 10, (4, 5)), OTHER_ZXID);
        found(see(3, 7, 9, (3, 5)), OTHER_STATE);
        found(see(3, 7, 9, (4, 6)), OTHER_STATE);
    }
}

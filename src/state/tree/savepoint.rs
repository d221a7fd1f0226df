//! Taking changes back: what a failed multi needs.
//!
//! The undo log holds, for each path that was touched since a savepoint, what the overlay said of it
//! before. The version kept there is shared, so the next change copies it instead of writing into it;
//! further changes under the same savepoint are made in place again.

use std::sync::Arc;

use super::overlay::{Overlay, State};

/// A state of the tree to come back to. To be given back to the tree, the latest one first.
#[derive(Debug)]
#[must_use = "a savepoint is rolled back or released"]
pub(crate) struct Savepoint {
    id: u64,
    /// The length of the log at its time.
    log_len: usize,
    /// The number of znodes at its time.
    tree_len: usize,
}

#[derive(Default)]
pub(super) struct UndoLog {
    log: Vec<Before>,
    /// The ids of the open savepoints, the latest one last.
    open: Vec<u64>,
    last_id: u64,
}

/// What the overlay said of a path.
struct Before {
    hash: u64,
    path: Arc<str>,
    /// Which savepoint knew it and what was there; `None` if the batch hadn't touched the path.
    slot: Option<(u64, State)>,
}

impl UndoLog {
    /// Whether there is no open savepoint.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn open(&mut self, tree_len: usize) -> Savepoint {
        self.last_id += 1;
        self.open.push(self.last_id);
        Savepoint {
            id: self.last_id,
            log_len: self.log.len(),
            tree_len,
        }
    }

    /// Remembers what the overlay says of `path`, which is about to change.
    pub(super) fn save(&mut self, overlay: &mut Overlay, hash: u64, path: &str) {
        let Some(&id) = self.open.last() else { return };
        let before = match overlay.slot_mut(hash, path) {
            Some(slot) if slot.saved_by == id => return,
            Some(slot) => {
                let saved_by = std::mem::replace(&mut slot.saved_by, id);
                Some((saved_by, slot.state.clone()))
            }
            None => None,
        };
        self.log.push(Before {
            hash,
            path: Arc::from(path),
            slot: before,
        });
    }

    /// Restores the overlay; gives back the number of znodes.
    pub(super) fn rollback(&mut self, savepoint: Savepoint, overlay: &mut Overlay) -> usize {
        self.close(&savepoint);
        for before in self.log.drain(savepoint.log_len..).rev() {
            match before.slot {
                None => overlay.forget(before.hash, &before.path),
                Some((saved_by, state)) => {
                    let slot = overlay
                        .slot_mut(before.hash, &before.path)
                        .expect("what was saved stays in the overlay");
                    slot.saved_by = saved_by;
                    slot.state = state;
                }
            }
        }
        savepoint.tree_len
    }

    pub(super) fn release(&mut self, savepoint: Savepoint) {
        self.close(&savepoint);
        // An outer savepoint needs the log of the inner one.
        if self.open.is_empty() {
            self.log.clear();
        }
    }

    fn close(&mut self, savepoint: &Savepoint) {
        let latest = self.open.pop();
        assert_eq!(latest, Some(savepoint.id), "savepoints nest");
    }
}

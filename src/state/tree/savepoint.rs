//! Taking changes back: what a failed multi needs.
//!
//! The undo log holds, for each path that was touched since a savepoint, what the overlay said of it
//! before. The version kept there is shared, so the next change copies it instead of writing into it;
//! further changes under the same savepoint are made in place again.

use super::Sums;
use super::overlay::{Overlay, State};

/// A state of the tree to come back to. To be given back to the tree, the latest one first.
#[derive(Debug)]
#[must_use = "a savepoint is rolled back or released"]
pub(crate) struct Savepoint {
    id: u64,
    /// The length of the log at its time.
    log_len: usize,
    /// What the tree was at its time.
    tree: Sums,
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
    path: Box<str>,
    /// `None` if the batch hadn't touched the path.
    state: Option<State>,
}

impl UndoLog {
    /// Whether there is no open savepoint.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn open(&mut self, tree: Sums) -> Savepoint {
        self.last_id += 1;
        self.open.push(self.last_id);
        Savepoint {
            id: self.last_id,
            log_len: self.log.len(),
            tree,
        }
    }

    /// Remembers what the overlay says of `path`, which is about to change. Gives back the savepoint
    /// that knows it now; 0 if none is open.
    pub(super) fn save(&mut self, overlay: &mut Overlay, hash: u64, path: &str) -> u64 {
        let Some(&id) = self.open.last() else {
            return 0;
        };
        let before = match overlay.slot_mut(hash, path) {
            Some(slot) if slot.saved_by == id => return id,
            Some(slot) => {
                slot.saved_by = id;
                Some(slot.state.clone())
            }
            None => None,
        };
        self.log.push(Before {
            hash,
            path: Box::from(path),
            state: before,
        });
        id
    }

    /// Restores the overlay; gives back what the tree was.
    pub(super) fn rollback(&mut self, savepoint: Savepoint, overlay: &mut Overlay) -> Sums {
        self.close(&savepoint);
        for before in self.log.drain(savepoint.log_len..).rev() {
            match before.state {
                None => overlay.forget(before.hash, &before.path),
                // No open savepoint knows this state now; the next change saves it again.
                Some(state) => overlay.set(before.hash, 0, state),
            }
        }
        savepoint.tree
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

#[cfg(test)]
mod tests {
    use super::super::{Owner, Tree, Znode};
    use crate::ids::Zxid;
    use crate::path::ZnodePath;

    fn tree_of(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        create(&mut tree, paths);
        tree.publish(Zxid(1));
        tree
    }

    fn create(tree: &mut Tree, paths: &[&str]) {
        let zxid = Zxid(tree.published().0 + 1);
        for path in paths {
            let path = ZnodePath::parse(path).unwrap();
            tree.insert(Znode::created(path, b"", zxid, 0, Owner::NONE, 0));
        }
    }

    fn state(tree: &Tree) -> Vec<Znode> {
        tree.walk("/").map(|znode| Znode::clone(&znode)).collect()
    }

    #[test]
    fn a_rollback_takes_back_creates_deletes_and_what_they_did_to_the_parents() {
        let mut tree = tree_of(&["/a", "/a/b"]);
        create(&mut tree, &["/before"]);
        let before = state(&tree);
        let savepoint = tree.savepoint();
        create(&mut tree, &["/a/c", "/a/c/d"]);
        tree.remove("/a/b", Zxid(2));
        tree.remove("/before", Zxid(2));
        tree.update("/a", Zxid(2), |znode| znode.version = 9);
        assert_ne!(state(&tree), before);
        tree.rollback(savepoint);
        assert_eq!(state(&tree), before);
        assert_eq!((tree.len(), tree.check()), (before.len(), Ok(())));
        tree.publish(Zxid(2));
        assert_eq!(state(&tree), before);
    }

    #[test]
    fn an_inner_release_is_taken_back_by_the_outer_rollback() {
        let mut tree = tree_of(&["/a"]);
        let before = state(&tree);
        let outer = tree.savepoint();
        tree.update("/a", Zxid(2), |znode| znode.version = 1);
        let inner = tree.savepoint();
        tree.update("/a", Zxid(2), |znode| znode.version = 2);
        create(&mut tree, &["/b"]);
        tree.release(inner);
        tree.update("/a", Zxid(2), |znode| znode.version = 3);
        tree.rollback(outer);
        assert_eq!(state(&tree), before);
    }

    #[test]
    fn an_inner_rollback_keeps_what_the_outer_did() {
        let mut tree = tree_of(&["/a"]);
        let outer = tree.savepoint();
        tree.update("/a", Zxid(2), |znode| znode.version = 1);
        let inner = tree.savepoint();
        tree.update("/a", Zxid(2), |znode| znode.version = 2);
        tree.rollback(inner);
        tree.update("/a", Zxid(2), |znode| znode.aversion = 1);
        tree.release(outer);
        let found = tree.get("/a").unwrap();
        assert_eq!((found.version, found.aversion), (1, 1));
    }

    #[test]
    #[should_panic(expected = "savepoints nest")]
    fn savepoints_out_of_order_are_a_bug() {
        let mut tree = Tree::new();
        let outer = tree.savepoint();
        let _inner = tree.savepoint();
        tree.release(outer);
    }
}

//! The readers' side: views, and how a reader gets the current one.
//!
//! The header of the tree says why single reads never go back, and when several reads fit together.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use parking_lot::{RwLock, RwLockWriteGuard};

use super::overlay::{Overlay, State};
use super::table::{Table, path_hash};
use super::walk::{Lookup, Walk};
use super::znode::Znode;
use crate::ids::Zxid;

/// How often a consistent read is tried beside the writer before it holds the writer off.
const TRIES: usize = 4;

/// What is published. Exactly the state as of [`View::zxid`] as long as no later view is published (or
/// for ever, once the tree was replaced); after that the table beneath may have later versions.
pub(crate) struct View {
    /// Counts the publishes.
    pub(super) number: u64,
    pub(super) zxid: Zxid,
    pub(super) len: usize,
    pub(super) table: Arc<Table>,
    /// The batch that the table may not have taken in yet.
    pub(super) overlay: Arc<Overlay>,
}

impl View {
    pub(super) fn folded(number: u64, zxid: Zxid, len: usize, table: Arc<Table>) -> View {
        View {
            number,
            zxid,
            len,
            table,
            overlay: Arc::default(),
        }
    }

    /// The last write that it shows.
    pub(crate) fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// The number of znodes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The znode at `path`.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<Znode>> {
        let hash = path_hash(path);
        match self.overlay.get(hash, path) {
            Some(State::Present(znode)) => Some(znode.clone()),
            Some(State::Gone(_)) => None,
            None => self.table.get(hash, path),
        }
    }

    /// The znodes at and below `path`: see [`Walk`].
    pub(crate) fn walk(&self, path: &str) -> Walk<'_> {
        Walk::new(self, path)
    }
}

impl Lookup for View {
    fn lookup(&self, path: &str) -> Option<Arc<Znode>> {
        self.get(path)
    }
}

/// Where writer and readers meet.
pub(super) struct Cell {
    view: ArcSwap<View>,
    /// Held by the writer while it publishes, and by a reader who has tried in vain to read between two
    /// publishes.
    gate: RwLock<()>,
}

impl Cell {
    pub(super) fn new(view: View) -> Cell {
        Cell {
            view: ArcSwap::from_pointee(view),
            gate: RwLock::new(()),
        }
    }

    pub(super) fn current(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    pub(super) fn next_number(&self) -> u64 {
        self.current().number + 1
    }

    pub(super) fn swap(&self, view: View) -> Arc<View> {
        self.view.swap(Arc::new(view))
    }

    pub(super) fn lock_gate(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write()
    }
}

/// Reads what is published, from any thread, without waiting for the writer. Lives on through
/// [`super::Tree::replace`].
#[derive(Clone)]
pub(crate) struct TreeReader {
    cell: Arc<Cell>,
}

impl TreeReader {
    pub(super) fn new(cell: Arc<Cell>) -> TreeReader {
        TreeReader { cell }
    }

    /// The last write published.
    pub(crate) fn zxid(&self) -> Zxid {
        self.cell.current().zxid
    }

    /// The znode at `path`: at least as new as all that this thread has read before.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<Znode>> {
        self.cell.current().get(path)
    }

    /// Reads several znodes as of one moment. `read` may be called more than once, and all results but
    /// the last are thrown away: a call during which the writer published may see some znodes newer than
    /// others. After some tries it holds the writer off, so `read` must neither be slow nor call this.
    pub(crate) fn consistent<T>(&self, mut read: impl FnMut(&View) -> T) -> T {
        for _ in 0..TRIES {
            let view = self.cell.current();
            let result = read(&view);
            if self.cell.current().number == view.number {
                return result;
            }
        }
        let _gate = self.cell.gate.read();
        read(&self.cell.current())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::super::{Owner, Tree};
    use super::*;
    use crate::path::ZnodePath;

    const PATHS: [&str; 8] = ["/a", "/b", "/c", "/d", "/e", "/f", "/g", "/h"];

    fn tree() -> Tree {
        let mut tree = Tree::new();
        for path in PATHS {
            let path = ZnodePath::parse(path).unwrap();
            tree.insert(Znode::created(path, b"", Zxid(0), 0, Owner::NONE, 0));
        }
        tree.publish(Zxid(0));
        tree
    }

    /// One batch: all of the znodes get the version `version`.
    fn set_all(tree: &mut Tree, version: i32) {
        let zxid = Zxid(version as u64);
        for path in PATHS {
            tree.update(path, zxid, |znode| znode.version = version);
        }
        tree.publish(zxid);
    }

    fn version(view: &View, path: &str) -> i32 {
        view.get(path).unwrap().version
    }

    #[test]
    fn reads_of_one_thread_never_go_back_whichever_znodes_they_are_of() {
        let mut tree = tree();
        let reader = tree.reader();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (mut last, mut turn) = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        turn += 1;
                        let path = PATHS[turn * 5 % PATHS.len()];
                        let found = reader.get(path).unwrap().version;
                        assert!(found >= last, "{path} shows {found} after {last}");
                        assert!(reader.zxid() >= Zxid(found as u64), "not published yet");
                        last = found;
                    }
                });
            }
            (1..=5_000).for_each(|version| set_all(&mut tree, version));
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_consistent_read_is_never_torn() {
        let mut tree = tree();
        let reader = tree.reader();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let (zxid, versions) = reader.consistent(|view| {
                            let versions = PATHS.map(|path| version(view, path));
                            (view.zxid(), versions)
                        });
                        assert_eq!(versions, [zxid.0 as i32; PATHS.len()]);
                        // And one that lasts two publishes, so that it must hold the writer off.
                        let (first, last) = reader.consistent(|view| {
                            let first = version(view, PATHS[0]);
                            let is_overtaken = || reader.zxid().0 > view.zxid().0 + 1;
                            (0..3000).find(|_| is_overtaken());
                            (first, version(view, PATHS[7]))
                        });
                        assert_eq!(first, last);
                    }
                });
            }
            (1..=5_000).for_each(|version| set_all(&mut tree, version));
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_consistent_read_holds_the_writer_off_when_it_is_too_slow_for_it() {
        let mut tree = tree();
        let reader = tree.reader();
        let mut calls = 0;
        let found = reader.consistent(|view| {
            calls += 1;
            let first = version(view, "/a");
            let is_held_off = reader.cell.gate.try_write().is_none();
            assert_eq!(is_held_off, calls > TRIES);
            if calls <= TRIES {
                set_all(&mut tree, calls as i32);
                assert_ne!(version(view, "/b"), first, "this try is torn");
            }
            (first, version(view, "/b"))
        });
        assert_eq!((calls, found), (TRIES + 1, (4, 4)));
    }

    #[test]
    fn a_reader_sees_nothing_before_it_is_published_and_all_of_it_then() {
        let mut tree = tree();
        let reader = tree.reader();
        tree.update("/a", Zxid(1), |znode| znode.version = 1);
        tree.remove("/b", Zxid(2));
        assert_eq!(reader.get("/a").unwrap().version, 0);
        assert!(reader.get("/b").is_some());
        tree.publish(Zxid(3));
        assert_eq!(reader.get("/a").unwrap().version, 1);
        assert!(reader.get("/b").is_none());
        assert_eq!(reader.zxid(), Zxid(3));
        assert_eq!(reader.get("/").unwrap().children().len(), PATHS.len() - 1);
    }
}

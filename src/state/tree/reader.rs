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

    pub(super) fn hold_off_readers(&self) -> RwLockWriteGuard<'_, ()> {
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
    /// others. After some tries it holds the writer off, so `read` must not be slow.
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

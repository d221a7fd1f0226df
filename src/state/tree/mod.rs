//! The tree in memory: znodes by path, changed by one writer, read by any number of threads.
//!
//! The writer ([`Tree`]) applies a batch of writes to a private [`Overlay`] and publishes them at once;
//! readers ([`TreeReader`]) see whole batches. It keeps the shape of the tree: a znode's parent exists and
//! names it among its children. It knows nothing of sessions, ACLs' contents, quotas or the checks that
//! come before a write: its callers assert to have made them, and it asserts that they did.
//!
//! Why not a persistent map: after each publish a random update of one copies some thirty cold pointers
//! and costs ten times that of a plain hash map. Here the published state is a hash table in shards,
//! changed in place, and only the batch that is just being published is kept beside it.
//!
//! # What a reader sees
//!
//! Publishing batch `k` is three steps: swap in the view (table, overlay `k`); fold overlay `k` into the
//! table, shard by shard; swap in the view (table, empty). A read loads the current view, looks into its
//! overlay, then into the table. So:
//!
//! - *What it returns was published.* The table is only changed by a fold, which starts after the swap
//!   that published its batch. A reader that holds view `k - 1` may find batch `k` in the table: newer than
//!   its view, but published.
//! - *It was current at some moment of the read.* The table held at least batch `k - 1` of every znode
//!   outside overlay `k` when view `k` was swapped in; a hit in overlay `k` was current when the view was
//!   loaded.
//! - *A thread never goes back.* A value of batch `k` came from view `k`'s overlay, or from the table
//!   after the fold took the shard's lock, which was after view `k` was swapped in. The next read of the
//!   same thread loads its view afterwards, so it gets view `k` or a later one, and by the second point
//!   nothing older than batch `k`. An overlay of an older view can't be met again: each read loads anew.
//! - *Several reads together may mix two batches*, so [`TreeReader::consistent`] compares the number of the
//!   current view before and after: no later view by then means that no later fold had begun.

mod builder;
mod children;
mod digest;
mod frozen;
mod overlay;
mod reader;
mod savepoint;
mod table;
mod walk;
mod znode;

use std::sync::Arc;

pub(crate) use builder::{TreeBuilder, TreeContent};
pub use children::ChildNames;
pub(crate) use frozen::FrozenTree;
pub(crate) use reader::{TreeReader, View};
pub(crate) use savepoint::Savepoint;
pub(crate) use walk::Walk;
pub(crate) use znode::{Owner, Znode};

use crate::ids::Zxid;
use crate::path::{ZnodePath, parent};
use frozen::Freeze;
use overlay::{Overlay, State};
use reader::Cell;
use savepoint::UndoLog;
use table::{Table, path_hash};
use walk::Lookup;

/// The writer's side of the tree. There is one, and it is the only one who changes anything.
pub(crate) struct Tree {
    /// What is published: outside of [`Tree::publish`] nothing is missing in it but `dirty`.
    table: Arc<Table>,
    /// What was changed since.
    dirty: Overlay,
    /// How to take the latest of these changes back.
    undo: UndoLog,
    /// Of all znodes, the unpublished ones included.
    sums: Sums,
    /// The zxid of the last publish.
    published: Zxid,
    /// The zxid of the last change, published or not.
    changed: Zxid,
    /// Whether anything was published or frozen: from then on every change has a later zxid.
    sealed: bool,
    /// The frozen tree whose versions the fold must keep, if there is one.
    freeze: Freeze,
    /// Where the readers find the current view.
    cell: Arc<Cell>,
}

/// What is counted of all znodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sums {
    /// How many there are.
    len: usize,
    /// The bytes of their paths and data.
    bytes: u64,
    /// See [`digest`].
    digest: u64,
}

impl Tree {
    /// A tree that holds the root, created by zxid 0 at time 0, with ACL 0. It is published.
    pub(crate) fn new() -> Tree {
        let mut builder = TreeBuilder::new();
        builder.insert(Znode::created(
            ZnodePath::root(),
            &[],
            Zxid(0),
            0,
            Owner::NONE,
            0,
        ));
        let content = builder.finish(Zxid(0)).expect("the root alone is a tree");
        Tree::from_content(content)
    }

    /// The tree that a builder made, published.
    pub(crate) fn from_content(content: TreeContent) -> Tree {
        let TreeContent {
            table,
            len,
            bytes,
            digest,
            zxid,
        } = content;
        let table = Arc::new(table);
        let view = View::folded(0, zxid, len, table.clone());
        Tree {
            table,
            dirty: Overlay::default(),
            undo: UndoLog::default(),
            sums: Sums { len, bytes, digest },
            published: zxid,
            changed: zxid,
            sealed: false,
            freeze: Freeze::default(),
            cell: Arc::new(Cell::new(view)),
        }
    }

    /// The number of znodes, the root and the unpublished ones included.
    pub(crate) fn len(&self) -> usize {
        self.sums.len
    }

    /// The bytes of their paths and data.
    pub(crate) fn bytes(&self) -> u64 {
        self.sums.bytes
    }

    /// A number that is the same for equal trees, their ACLs apart, and another one for others: see the
    /// module `digest`.
    pub(crate) fn digest(&self) -> u64 {
        self.sums.digest
    }

    /// The zxid of the last publish.
    pub(crate) fn published(&self) -> Zxid {
        self.published
    }

    /// The znode at `path`, with all changes so far. Let go of it before changing the znode: what is
    /// held elsewhere can't be changed in place.
    pub(crate) fn get(&self, path: &str) -> Option<Arc<Znode>> {
        let hash = path_hash(path);
        match self.dirty.get(hash, path) {
            Some(State::Present(znode)) => Some(znode.clone()),
            Some(State::Gone(_)) => None,
            None => self.table.get(hash, path),
        }
    }

    /// Whether there is a znode at `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        let hash = path_hash(path);
        match self.dirty.get(hash, path) {
            Some(State::Present(_)) => true,
            Some(State::Gone(_)) => false,
            None => self.table.contains(hash, path),
        }
    }

    /// Adds a znode, without children, and adds it to its parent's children; the parent's `pzxid`
    /// becomes the znode's `changed`, and its `cversion` counts one more.
    ///
    /// # Panics
    /// If there is a znode at its path, or none at its parent's.
    pub(crate) fn insert(&mut self, znode: Znode) {
        let zxid = znode.changed;
        self.begin_write(zxid);
        assert!(
            znode.children().is_empty(),
            "{} brings children",
            znode.path
        );
        assert!(!self.contains(znode.path.as_str()), "{} exists", znode.path);
        let path = znode.path.clone();
        let parent = parent(path.as_str()).expect("the root always exists");
        let child = path.clone();
        self.update(parent, zxid, |parent| {
            parent.children.insert(child);
            parent.pzxid = zxid;
            parent.cversion = parent.cversion.wrapping_add(1);
        });
        let hash = path_hash(path.as_str());
        let saved_by = self.undo.save(&mut self.dirty, hash, path.as_str());
        self.sums.bytes += znode.bytes();
        self.sums.digest = self.sums.digest.wrapping_add(digest::of(&znode));
        let state = State::Present(Arc::new(znode));
        self.dirty.set(hash, saved_by, state);
        self.sums.len += 1;
    }

    /// Changes the znode at `path` as the write `zxid`, which becomes its `changed`. The closure leaves
    /// path and data alone, and `cversion` and `pzxid` to the creates and deletes of children.
    ///
    /// # Panics
    /// If there is no znode at `path`.
    pub(crate) fn update(
        &mut self,
        path: &str,
        zxid: Zxid,
        change: impl FnOnce(&mut Znode),
    ) -> &Znode {
        self.change(path, zxid, None, change)
    }

    /// As [`Tree::update`], and gives the znode other data.
    ///
    /// # Panics
    /// As there.
    pub(crate) fn set_data(
        &mut self,
        path: &str,
        zxid: Zxid,
        data: Arc<[u8]>,
        change: impl FnOnce(&mut Znode),
    ) -> &Znode {
        self.change(path, zxid, Some(data), change)
    }

    fn change(
        &mut self,
        path: &str,
        zxid: Zxid,
        data: Option<Arc<[u8]>>,
        change: impl FnOnce(&mut Znode),
    ) -> &Znode {
        self.begin_write(zxid);
        let hash = path_hash(path);
        let saved_by = self.undo.save(&mut self.dirty, hash, path);
        let table = &self.table;
        let znode = self.dirty.present_mut(hash, path, saved_by, || {
            table
                .cloned(hash, path)
                .unwrap_or_else(|| panic!("update of {path}, which isn't there"))
        });
        let path = digest::of_path(path);
        let mut digest = self.sums.digest.wrapping_sub(digest::of_stat(path, znode));
        if let Some(data) = data {
            self.sums.bytes = self.sums.bytes - znode.data.len() as u64 + data.len() as u64;
            digest = digest
                .wrapping_sub(digest::of_data(path, &znode.data))
                .wrapping_add(digest::of_data(path, &data));
            znode.data = data;
        }
        change(znode);
        znode.changed = zxid;
        self.sums.digest = digest.wrapping_add(digest::of_stat(path, znode));
        znode
    }

    /// Removes the znode at `path` as the write `zxid`, also from its parent's children; the parent's
    /// `pzxid` becomes `zxid`, its `cversion` stays.
    ///
    /// # Panics
    /// If it isn't there, has children, or is the root.
    pub(crate) fn remove(&mut self, path: &str, zxid: Zxid) -> Arc<Znode> {
        self.begin_write(zxid);
        let Some(znode) = self.get(path) else {
            panic!("removal of {path}, which isn't there");
        };
        assert!(znode.children().is_empty(), "{path} has children");
        let parent = parent(path).expect("the root is never removed");
        self.update(parent, zxid, |parent| {
            parent.children.remove(path);
            parent.pzxid = zxid;
        });
        let hash = path_hash(path);
        let saved_by = self.undo.save(&mut self.dirty, hash, path);
        let state = State::Gone(znode.path.clone());
        self.dirty.set(hash, saved_by, state);
        self.sums.len -= 1;
        self.sums.bytes -= znode.bytes();
        self.sums.digest = self.sums.digest.wrapping_sub(digest::of(&znode));
        znode
    }

    /// Marks the state as it is, to come back to by [`Tree::rollback`]. Savepoints nest.
    pub(crate) fn savepoint(&mut self) -> Savepoint {
        self.undo.open(self.sums)
    }

    /// Takes back every change since the savepoint.
    pub(crate) fn rollback(&mut self, savepoint: Savepoint) {
        self.sums = self.undo.rollback(savepoint, &mut self.dirty);
    }

    /// Keeps the changes since the savepoint.
    pub(crate) fn release(&mut self, savepoint: Savepoint) {
        self.undo.release(savepoint);
    }

    /// Shows all changes to the readers, as of `zxid`, which is that of the last write applied.
    ///
    /// # Panics
    /// If a savepoint is open, or a change has a later zxid.
    pub(crate) fn publish(&mut self, zxid: Zxid) {
        assert!(self.undo.is_idle(), "publish inside of a savepoint");
        let changed = self.changed;
        assert!(
            zxid >= changed,
            "publish as of {zxid} after write {changed}"
        );
        self.published = zxid;
        self.changed = zxid;
        self.sealed = true;
        let overlay = Arc::new(std::mem::take(&mut self.dirty));
        let _gate = self.cell.lock_gate();
        let number = self.cell.next_number();
        if !overlay.is_empty() {
            self.cell.swap(View {
                number,
                zxid,
                len: self.sums.len,
                table: self.table.clone(),
                overlay: overlay.clone(),
            });
            self.table.fold(&overlay, self.freeze.active());
        }
        self.cell.swap(View::folded(
            number,
            zxid,
            self.sums.len,
            self.table.clone(),
        ));
        if let Ok(overlay) = Arc::try_unwrap(overlay) {
            self.dirty = overlay.emptied();
        }
    }

    /// Replaces everything by `content`, published at once. Gives back the view of what was there,
    /// which from now on stays as it is: nothing changes its table any more. Dropping it frees every
    /// znode of it, which takes its time.
    ///
    /// # Panics
    /// If there are unpublished changes.
    pub(crate) fn replace(&mut self, content: TreeContent) -> Arc<View> {
        assert!(self.dirty.is_empty(), "replaced with unpublished changes");
        let TreeContent {
            table,
            len,
            bytes,
            digest,
            zxid,
        } = content;
        self.table = Arc::new(table);
        self.sums = Sums { len, bytes, digest };
        self.published = zxid;
        self.changed = zxid;
        self.sealed = true;
        // A frozen tree of the old table goes on undisturbed: nobody folds into that one.
        self.freeze = Freeze::default();
        let _gate = self.cell.lock_gate();
        let number = self.cell.next_number();
        self.cell
            .swap(View::folded(number, zxid, len, self.table.clone()))
    }

    /// The state as of the last publish, to be walked by another thread in the background. It takes the
    /// same time for any size of tree. `None` while the one before is still being captured.
    pub(crate) fn freeze(&mut self) -> Option<FrozenTree> {
        self.sealed = true;
        let len = self.cell.current().len;
        self.freeze.begin(&self.table, self.published, len)
    }

    /// A reader, for any thread.
    pub(crate) fn reader(&self) -> TreeReader {
        TreeReader::new(self.cell.clone())
    }

    /// The znodes at and below `path`, unpublished changes included: see [`Walk`].
    pub(crate) fn walk(&self, path: &str) -> Walk<'_> {
        Walk::new(self, path)
    }

    /// Looks for a flaw in the shape of the tree: a child without a znode, a znode without a parent that
    /// names it, or a wrong count.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut found = Sums {
            len: 0,
            bytes: 0,
            digest: 0,
        };
        for znode in self.walk("/") {
            found.len += 1;
            found.bytes += znode.bytes();
            found.digest = found.digest.wrapping_add(digest::of(&znode));
            for child in znode.children().paths() {
                if !self.contains(child.as_str()) {
                    return Err(format!("{child} is a child but no znode"));
                }
                if child.parent() != Some(znode.path.as_str()) {
                    return Err(format!("{child} is no child of {}", znode.path));
                }
            }
        }
        if found != self.sums {
            return Err(format!("counted are {:?}, there are {found:?}", self.sums));
        }
        if self.dirty.is_empty() && self.table.len() != self.sums.len {
            return Err(format!(
                "{} znodes, {} in the table",
                self.sums.len,
                self.table.len()
            ));
        }
        Ok(())
    }

    /// Takes note of a write. A frozen tree tells versions apart by their zxids, so a write's is later
    /// than whatever is published. Before the first publish the same will do: the system's znodes are
    /// of zxid 0.
    fn begin_write(&mut self, zxid: Zxid) {
        assert!(zxid >= self.changed, "write {zxid} after {}", self.changed);
        assert!(
            zxid > self.published || !self.sealed,
            "write {zxid} after {} was published",
            self.published
        );
        self.changed = zxid;
    }
}

impl Lookup for Tree {
    fn lookup(&self, path: &str) -> Option<Arc<Znode>> {
        self.get(path)
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    fn create(tree: &mut Tree, path: &str, zxid: u64) {
        let path = ZnodePath::parse(path).unwrap();
        tree.insert(Znode::created(path, b"", Zxid(zxid), 0, Owner::NONE, 0));
    }

    #[test]
    fn a_parent_counts_creates_and_marks_both_creates_and_deletes() {
        let mut tree = Tree::new();
        create(&mut tree, "/a", 1);
        create(&mut tree, "/a/b", 2);
        create(&mut tree, "/a/c", 3);
        tree.remove("/a/b", Zxid(4));
        tree.update("/a/c", Zxid(5), |znode| znode.version += 1);
        let parent = tree.get("/a").unwrap();
        assert_eq!((parent.cversion, parent.pzxid), (2, Zxid(4)));
        assert_eq!((parent.changed, parent.czxid), (Zxid(4), Zxid(1)));
        assert_eq!((parent.stat().cversion, parent.version), (3, 0));
        assert!(parent.children().iter().eq(["c"]));
        assert_eq!(tree.get("/a/c").unwrap().changed, Zxid(5));
    }

    #[test]
    fn a_published_version_never_changes() {
        let mut tree = Tree::new();
        create(&mut tree, "/a", 1);
        tree.publish(Zxid(1));
        let published = tree.reader().get("/a").unwrap();
        let copy = Znode::clone(&published);
        tree.update("/a", Zxid(2), |znode| znode.version = 1);
        let unpublished = tree.get("/a").unwrap();
        tree.update("/a", Zxid(3), |znode| znode.version = 2);
        create(&mut tree, "/a/b", 4);
        tree.publish(Zxid(4));
        assert_eq!(*published, copy);
        assert_eq!((unpublished.version, unpublished.changed), (1, Zxid(2)));
    }

    #[test]
    fn the_systems_znodes_may_be_of_zxid_0() {
        let mut tree = Tree::new();
        create(&mut tree, "/zookeeper", 0);
        tree.publish(Zxid(0));
        let frozen = tree.freeze().unwrap();
        assert_eq!((frozen.len(), frozen.zxid()), (2, Zxid(0)));
    }

    #[test]
    #[should_panic(expected = "write 1 after 1 was published")]
    fn a_write_of_a_published_zxid_is_a_bug() {
        let mut tree = Tree::new();
        tree.publish(Zxid(1));
        create(&mut tree, "/a", 1);
    }

    #[test]
    #[should_panic(expected = "publish as of 1 after write 2")]
    fn a_publish_before_its_writes_is_a_bug() {
        let mut tree = Tree::new();
        create(&mut tree, "/a", 2);
        tree.publish(Zxid(1));
    }

    #[test]
    #[should_panic(expected = "/a has children")]
    fn removing_a_parent_is_a_bug() {
        let mut tree = Tree::new();
        create(&mut tree, "/a", 1);
        create(&mut tree, "/a/b", 1);
        tree.remove("/a", Zxid(2));
    }
}

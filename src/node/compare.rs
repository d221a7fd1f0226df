//! What changed between the tree that readers saw and one that a snapshot has brought.
//!
//! A node that catches up by a snapshot skips the writes in between, but its watchers must not miss
//! what they have brought about: every watched znode is compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::watches::WatchTable;
use crate::ids::Zxid;
use crate::op::{Change, EventAcl, EventKind};
use crate::path::ZnodePath;
use crate::state::tree::Znode;
use crate::state::{Reader, State};

/// A tree to compare.
pub(crate) trait Tree {
    /// The znode at a path.
    fn znode(&self, path: &str) -> Option<Arc<Znode>>;
    /// The last write that it shows.
    fn zxid(&self) -> Zxid;
    /// Who may hear of what happens to one of its znodes.
    fn event_acl(&self, znode: &Znode) -> EventAcl;
}

/// What differs where a watch is set, and at these paths, in the order of the writes, as far as it is
/// known.
pub(crate) fn differences(
    table: &WatchTable,
    paths: impl IntoIterator<Item = ZnodePath>,
    before: &impl Tree,
    after: &impl Tree,
) -> Vec<Change> {
    let mut paths: BTreeSet<ZnodePath> = paths.into_iter().collect();
    for (path, recursive) in table.watched_paths() {
        let path = ZnodePath::from_shared(path);
        if recursive {
            collect(before, &path, &mut paths);
            collect(after, &path, &mut paths);
        } else {
            paths.insert(path);
        }
    }
    let mut changes: Vec<Change> = Vec::new();
    for path in paths {
        compare(&path, before, after, &mut changes);
    }
    changes.sort_by_key(|change| change.zxid);
    changes
}

/// The path itself and all below it.
fn collect(tree: &impl Tree, path: &ZnodePath, paths: &mut BTreeSet<ZnodePath>) {
    let mut waiting = vec![path.clone()];
    while let Some(path) = waiting.pop() {
        if let Some(znode) = tree.znode(path.as_str()) {
            waiting.extend(znode.children().paths().cloned());
        }
        paths.insert(path);
    }
}

fn compare(path: &ZnodePath, before: &impl Tree, after: &impl Tree, changes: &mut Vec<Change>) {
    let mut push = |zxid, kind, acl| {
        changes.push(Change {
            zxid,
            kind,
            path: path.clone(),
            acl,
            parent_acl: None,
        })
    };
    let of_old = |old: &Znode| before.event_acl(old);
    let of_new = |new: &Znode| after.event_acl(new);
    match (before.znode(path.as_str()), after.znode(path.as_str())) {
        (None, None) => {}
        (None, Some(new)) => push(new.czxid, EventKind::NodeCreated, of_new(&new)),
        // When it was deleted is not known any more; certainly by now.
        (Some(old), None) => push(after.zxid(), EventKind::NodeDeleted, of_old(&old)),
        (Some(old), Some(new)) if old.czxid != new.czxid => {
            push(new.czxid, EventKind::NodeDeleted, of_old(&old));
            push(new.czxid, EventKind::NodeCreated, of_new(&new));
        }
        (Some(old), Some(new)) => {
            if old.mzxid != new.mzxid {
                push(new.mzxid, EventKind::NodeDataChanged, of_new(&new));
            }
            if old.pzxid != new.pzxid {
                push(new.pzxid, EventKind::NodeChildrenChanged, of_new(&new));
            }
        }
    }
}

impl Tree for State {
    fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        State::znode(self, path)
    }

    fn zxid(&self) -> Zxid {
        State::zxid(self)
    }

    fn event_acl(&self, znode: &Znode) -> EventAcl {
        State::event_acl(self, znode)
    }
}

impl Tree for Reader {
    fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        Reader::znode(self, path)
    }

    fn zxid(&self) -> Zxid {
        Reader::zxid(self)
    }

    fn event_acl(&self, znode: &Znode) -> EventAcl {
        Reader::event_acl(self, znode)
    }
}

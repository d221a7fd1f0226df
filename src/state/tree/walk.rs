//! Walking a subtree through the children of its znodes.

use std::sync::Arc;

use super::children::ChildNames;
use super::znode::Znode;
use crate::path::ZnodePath;

/// Whatever has znodes by path.
pub(super) trait Lookup {
    fn lookup(&self, path: &str) -> Option<Arc<Znode>>;
}

/// A znode and all below it: a parent before its children, the children in the order of their names. It
/// holds one name for each level, however many children there are. A child whose znode isn't found is
/// passed over, which happens only in a view that the writer has overtaken.
pub(crate) struct Walk<'a> {
    tree: &'a dyn Lookup,
    /// The znode to begin with.
    start: Option<Arc<Znode>>,
    /// For each level the children, and the one last entered.
    levels: Vec<(ChildNames, Option<ZnodePath>)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(tree: &'a dyn Lookup, path: &str) -> Walk<'a> {
        Walk {
            tree,
            start: tree.lookup(path),
            levels: Vec::new(),
        }
    }

    fn enter(&mut self, znode: Arc<Znode>) -> Arc<Znode> {
        if !znode.children().is_empty() {
            self.levels.push((znode.children().clone(), None));
        }
        znode
    }
}

impl Iterator for Walk<'_> {
    type Item = Arc<Znode>;

    fn next(&mut self) -> Option<Arc<Znode>> {
        if let Some(start) = self.start.take() {
            return Some(self.enter(start));
        }
        loop {
            let (children, last) = self.levels.last_mut()?;
            match children.next_after(last.as_ref().map(ZnodePath::as_str)) {
                None => {
                    self.levels.pop();
                }
                Some(path) => {
                    let path = path.clone();
                    let found = self.tree.lookup(path.as_str());
                    *last = Some(path);
                    if let Some(znode) = found {
                        return Some(self.enter(znode));
                    }
                }
            }
        }
    }
}

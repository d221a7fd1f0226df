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

#[cfg(test)]
mod tests {
    use super::super::{Owner, Tree, Znode};
    use crate::ids::Zxid;
    use crate::path::ZnodePath;

    fn tree_of(paths: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in paths {
            let path = ZnodePath::parse(path).unwrap();
            tree.insert(Znode::created(path, b"", Zxid(1), 0, Owner::NONE, 0));
        }
        tree
    }

    fn walked(tree: &Tree, from: &str) -> Vec<String> {
        tree.walk(from)
            .map(|znode| znode.path.to_string())
            .collect()
    }

    #[test]
    fn a_parent_comes_before_its_children_and_they_before_its_next_sibling() {
        let tree = tree_of(&["/b", "/a", "/a-b", "/a/z", "/a/y", "/a/y/x"]);
        let all = ["/", "/a", "/a/y", "/a/y/x", "/a/z", "/a-b", "/b"];
        assert_eq!(walked(&tree, "/"), all);
        assert_eq!(walked(&tree, "/a"), all[1..5]);
        assert_eq!(walked(&tree, "/b"), ["/b"]);
        assert!(walked(&tree, "/c").is_empty());
    }

    #[test]
    fn a_deep_tree_takes_no_deep_stack() {
        let paths: Vec<String> = (1..2000).map(|depth| "/a".repeat(depth)).collect();
        let tree = tree_of(&paths.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(walked(&tree, "/")[1..], paths);
    }
}

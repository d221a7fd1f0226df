//! Building a tree from its znodes, as they come out of a snapshot.
//!
//! The znodes come in any order and without their children: those follow from the paths. What comes from
//! a snapshot is input from outside, so a flaw in it is an error, not a panic.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::children::ChildNames;
use super::digest;
use super::table::Table;
use super::znode::Znode;
use crate::ids::Zxid;
use crate::path::ZnodePath;

/// Collects the znodes of a tree.
pub(crate) struct TreeBuilder {
    table: Table,
    paths: Vec<ZnodePath>,
    /// The first flaw that was seen.
    flaw: Option<BuildError>,
    /// The latest write that made any of the znodes.
    latest: Zxid,
    /// The bytes of their paths and data.
    bytes: u64,
    digest: u64,
}

/// A whole tree, not yet anybody's: for [`super::Tree::replace`].
pub(crate) struct TreeContent {
    pub(super) table: Table,
    pub(super) len: usize,
    pub(super) bytes: u64,
    pub(super) digest: u64,
    pub(super) zxid: Zxid,
}

/// Why znodes make no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BuildError {
    #[error("{path} is there twice")]
    Duplicate { path: ZnodePath },
    #[error("{path} has no parent")]
    Orphan { path: ZnodePath },
    #[error("there is no root")]
    NoRoot,
    #[error("a znode was changed by {changed}, but the tree is as of {zxid}")]
    Later { changed: Zxid, zxid: Zxid },
}

impl TreeBuilder {
    /// Without any znode: not even the root.
    pub(crate) fn new() -> TreeBuilder {
        TreeBuilder {
            table: Table::new(),
            paths: Vec::new(),
            flaw: None,
            latest: Zxid(0),
            bytes: 0,
            digest: 0,
        }
    }

    /// Adds a znode, whose fields are taken as they are, but its children.
    pub(crate) fn insert(&mut self, mut znode: Znode) {
        znode.children = ChildNames::default();
        let path = znode.path.clone();
        self.latest = self.latest.max(znode.changed);
        self.bytes += znode.bytes();
        self.digest = self.digest.wrapping_add(digest::of(&znode));
        if self.table.insert(znode).is_some() {
            self.flaw
                .get_or_insert(BuildError::Duplicate { path: path.clone() });
        }
        self.paths.push(path);
    }

    /// The tree as of `zxid`, which is not before any znode's `changed`.
    ///
    /// # Errors
    /// If a znode is there twice, lacks its parent or comes from after `zxid`, or if there is no root.
    pub(crate) fn finish(mut self, zxid: Zxid) -> Result<TreeContent, BuildError> {
        if let Some(flaw) = self.flaw {
            return Err(flaw);
        }
        if self.latest > zxid {
            return Err(BuildError::Later {
                changed: self.latest,
                zxid,
            });
        }
        if self.table.get_mut("/").is_none() {
            return Err(BuildError::NoRoot);
        }
        let mut families: HashMap<&str, Vec<ZnodePath>, FixedState> = HashMap::default();
        for path in &self.paths {
            if let Some(parent) = path.parent() {
                families.entry(parent).or_default().push(path.clone());
            }
        }
        for (parent, mut children) in families {
            children.sort_unstable();
            let Some(parent) = self.table.get_mut(parent) else {
                let path = children.swap_remove(0);
                return Err(BuildError::Orphan { path });
            };
            parent.children = ChildNames::from_sorted(children);
        }
        Ok(TreeContent {
            len: self.paths.len(),
            bytes: self.bytes,
            digest: self.digest,
            table: self.table,
            zxid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tree::{Owner, Tree};

    fn build(paths: &[&str], zxid: u64) -> Result<TreeContent, BuildError> {
        let mut builder = TreeBuilder::new();
        for path in paths {
            let path = ZnodePath::parse(path).unwrap();
            builder.insert(Znode::created(path, b"x", Zxid(5), 0, Owner::NONE, 0));
        }
        builder.finish(Zxid(zxid))
    }

    #[test]
    fn children_follow_from_the_paths_in_any_order() {
        let content = build(&["/b/y", "/a", "/b", "/", "/b/x"], 5).unwrap();
        let tree = Tree::from_content(content);
        assert_eq!(tree.check(), Ok(()));
        let paths: Vec<_> = tree.walk("/").map(|z| z.path.to_string()).collect();
        assert_eq!(paths, ["/", "/a", "/b", "/b/x", "/b/y"]);
        assert_eq!(tree.published(), Zxid(5));
    }

    #[test]
    fn what_makes_no_tree_is_refused() {
        let flaw = |paths: &[&str], zxid| build(paths, zxid).err().map(|e| e.to_string());
        let says = |text: &str| Some(text.to_string());
        assert_eq!(flaw(&["/", "/a", "/a"], 5), says("/a is there twice"));
        assert_eq!(flaw(&["/", "/a/b"], 5), says("/a/b has no parent"));
        assert_eq!(flaw(&["/a"], 5), says("there is no root"));
        assert!(flaw(&["/"], 4).unwrap().contains("changed by 5"));
    }
}

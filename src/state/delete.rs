//! Delete, by a client or because a container or TTL znode is due.

use crate::acl::Permissions;
use crate::error::Error;
use crate::ids::{Version, Zxid};
use crate::op::{OpResult, Outcome};
use crate::path;
use crate::state::reap::Due;
use crate::state::znodes::{Write, Znodes, no_node};

/// The znodes that always exist (ZooKeeper's `DataTree.isSpecialPath`).
pub(crate) const SYSTEM_ZNODES: [&str; 4] =
    ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];

impl Znodes {
    /// Deletes a znode. It takes the permission on the parent; the znode's own ACL plays no part.
    pub(crate) fn delete(
        &mut self,
        write: &mut Write<'_>,
        path: &str,
        version: Version,
    ) -> Outcome {
        let znode = self.tree.get(path);
        if znode.is_none() {
            path::validate(path)?;
        }
        if SYSTEM_ZNODES.contains(&path) {
            return Err(Error::BadArguments {
                reason: format!("{path} can't be deleted"),
            });
        }
        let parent_path = path::parent(path).expect("only the root has no parent");
        let parent = self
            .tree
            .get(parent_path)
            .ok_or_else(|| no_node(parent_path))?;
        self.authorize(
            write,
            parent.acl,
            (Permissions::DELETE, "delete"),
            parent_path,
        )?;
        drop(parent);
        let znode = znode.ok_or_else(|| no_node(path))?;
        if !version.matches(znode.version) {
            return Err(Error::BadVersion {
                path: path.to_string(),
                expected: version,
                found: znode.version,
            });
        }
        if !znode.children().is_empty() {
            return Err(Error::NotEmpty {
                path: path.to_string(),
                children: znode.children().len(),
            });
        }
        let path = znode.path.clone();
        drop(znode);
        self.remove(write, &path);
        Ok(OpResult::Deleted)
    }

    /// Deletes a container or TTL znode if it is the one that the leader saw and still due; otherwise
    /// nothing happens. Whoever has used it meanwhile keeps it.
    pub(crate) fn reap(&mut self, write: &mut Write<'_>, path: &str, czxid: Zxid) -> Outcome {
        let due = self.tree.get(path).filter(|znode| {
            znode.czxid == czxid && Due::of(znode).is_some_and(|due| due.is_over(write.time_ms))
        });
        if let Some(path) = due.map(|znode| znode.path.clone()) {
            self.remove(write, &path);
        }
        Ok(OpResult::Done)
    }
}

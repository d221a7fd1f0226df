//! Reading what is published, from any thread.
//!
//! A znode with the open ACL is read from the tree alone. Any other read needs the ACLs and sessions as
//! of the same write as the tree's view: [`Published`] holds them for the view that is about to be shown
//! and for the one before, since the tree's turn comes a moment later.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::acl::{Acl, AuthId};
use crate::error::{Error, Result};
use crate::ids::{SessionId, Zxid};
use crate::op::ReadOp;
use crate::state::acl_table::{AclIndex, AclLists, OPEN_ACL};
use crate::state::read::{ReadResult, Source, children_of, data_of, descendants, missing};
use crate::state::sessions::{PublishedSession, PublishedSessions};
use crate::state::tree::{TreeReader, View, Znode};
use crate::state::znodes::Ephemerals;

/// What readers need besides the tree, as of one write.
pub(crate) struct Facts {
    pub zxid: Zxid,
    pub sessions: PublishedSessions,
    pub acls: AclLists,
    pub ephemerals: Ephemerals,
}

/// What is published: swapped in as a whole, just before the tree shows its part.
pub(crate) struct Published {
    /// Counts the trees: a restored snapshot is another one.
    pub tree_number: u64,
    pub tree: TreeReader,
    pub current: Arc<Facts>,
    /// Those of the publish before, in the same tree.
    pub previous: Arc<Facts>,
}

impl Published {
    fn facts_at(&self, zxid: Zxid) -> &Facts {
        if self.current.zxid <= zxid {
            &self.current
        } else {
            &self.previous
        }
    }
}

/// Reads what is published, without waiting for the writer. What a thread has seen it never sees
/// undone. Lives on when the state is replaced by a snapshot.
#[derive(Clone)]
pub(crate) struct Reader {
    cell: Arc<ArcSwap<Published>>,
}

impl Reader {
    pub(super) fn new(cell: Arc<ArcSwap<Published>>) -> Reader {
        Reader { cell }
    }

    /// The last write that is published.
    pub(crate) fn zxid(&self) -> Zxid {
        self.cell.load().tree.zxid()
    }

    /// The znode at a path, whoever may read it.
    pub(crate) fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        self.cell.load().tree.get(path)
    }

    /// What is known of a session; `None` when there is none of this id.
    pub(crate) fn session(&self, id: SessionId) -> Option<PublishedSession> {
        let published = self.cell.load();
        published
            .facts_at(published.tree.zxid())
            .sessions
            .get(&id)
            .cloned()
    }

    /// Reads, as of one moment; only the number of all children is counted while writes go on.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(crate) fn read(&self, session: SessionId, read: &ReadOp) -> Result<ReadResult> {
        match read {
            ReadOp::Exists { path } => match self.readable(session, path) {
                Ok(znode) => Ok(ReadResult::Exists(Some(znode.stat()))),
                Err(Error::NoNode { .. }) => Ok(ReadResult::Exists(None)),
                Err(error) => Err(error),
            },
            ReadOp::Data { path } => self.readable(session, path).map(data_of),
            ReadOp::Children { path } => self.readable(session, path).map(children_of),
            // Not under `consistent`, which holds the writer off when it has no luck: it may take long.
            ReadOp::AllChildrenNumber { path } if path != "/" => {
                let znode = self.readable(session, path)?;
                let published = self.cell.load();
                Ok(ReadResult::AllChildrenNumber(descendants(znode, |path| {
                    published.tree.get(path)
                })))
            }
            read => self.consistent(|seen| seen.read(session, read)),
        }
    }

    fn readable(&self, session: SessionId, path: &str) -> Result<Arc<Znode>> {
        let znode = self
            .cell
            .load()
            .tree
            .get(path)
            .ok_or_else(|| missing(path))?;
        if znode.acl == OPEN_ACL {
            return Ok(znode);
        }
        self.consistent(|seen| seen.readable(session, path))
    }

    /// Reads with a view of the tree and the facts of the same write.
    ///
    /// The facts are loaded after the view. If the view is still the current one afterwards, they are
    /// its own, or already those of the next: then its own are their previous ones.
    fn consistent<T>(&self, mut read: impl FnMut(&Seen<'_>) -> T) -> T {
        loop {
            let published = self.cell.load();
            let result = published.tree.consistent(|view| {
                let latest = self.cell.load();
                let same_tree = latest.tree_number == published.tree_number;
                same_tree.then(|| {
                    read(&Seen {
                        view,
                        facts: latest.facts_at(view.zxid()),
                    })
                })
            });
            if let Some(result) = result {
                return result;
            }
        }
    }
}

/// A view of the tree, and what belongs to it.
struct Seen<'a> {
    view: &'a View,
    facts: &'a Facts,
}

impl Source for Seen<'_> {
    fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        self.view.get(path)
    }

    fn identities(&self, session: SessionId) -> &[AuthId] {
        self.facts
            .sessions
            .get(&session)
            .map_or(&[], |session| &session.identities)
    }

    fn acl_list(&self, index: AclIndex) -> Option<&[Acl]> {
        self.facts.acls.get(index)
    }

    fn ephemerals(&self) -> &Ephemerals {
        &self.facts.ephemerals
    }

    fn znodes_count(&self) -> usize {
        self.view.len()
    }
}

//! Reads: what each gives, and what it takes to be allowed to.
//!
//! The semantics alone, over any [`Source`]: what the writer has, or what is published.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::acl::{Acl, AuthId, Permissions};
use crate::error::{Error, Result};
use crate::ids::SessionId;
use crate::op::ReadOp;
use crate::path::{self, ZnodePath};
use crate::stat::Stat;
use crate::state::State;
use crate::state::acl_table::{AclIndex, OPEN_ACL};
use crate::state::authorize;
use crate::state::tree::{ChildNames, Znode};
use crate::state::znodes::{Ephemerals, ephemerals_of, no_node};

/// The data of a znode, shared with the tree.
#[derive(Clone)]
pub struct ZnodeData(Arc<Znode>);

impl Deref for ZnodeData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0.data
    }
}

impl AsRef<[u8]> for ZnodeData {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for ZnodeData {
    fn eq(&self, other: &ZnodeData) -> bool {
        self[..] == other[..]
    }
}

impl Eq for ZnodeData {}

impl fmt::Debug for ZnodeData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

/// What a [`ReadOp`] gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ReadResult {
    /// The stat, if there is a znode.
    Exists(Option<Stat>),
    /// The data, and the stat as of the same write.
    Data(ZnodeData, Stat),
    /// The children, sorted by name, and the stat as of the same write.
    Children(ChildNames, Stat),
    /// The ACL, and the stat as of the same write.
    Acl(Vec<Acl>, Stat),
    /// Sorted by path.
    Ephemerals(Vec<ZnodePath>),
    AllChildrenNumber(usize),
    Allowed(bool),
    /// One result for each read.
    Multi(Vec<Result<ReadResult>>),
}

/// A state of the tree, and the sessions and ACLs of the same moment.
pub(crate) trait Source {
    fn znode(&self, path: &str) -> Option<Arc<Znode>>;
    /// What a session has proven; nothing if it isn't there.
    fn identities(&self, session: SessionId) -> &[AuthId];
    /// The ACL behind a number; `None` only in a view that the writer has overtaken.
    fn acl_list(&self, index: AclIndex) -> Option<&[Acl]>;
    fn ephemerals(&self) -> &Ephemerals;
    /// How many znodes there are in all.
    fn znodes_count(&self) -> usize;

    /// Reads.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::NoNode`], [`Error::NoAuth`]; [`Error::BadArguments`] for a multi
    /// that holds other reads than data and children.
    fn read(&self, session: SessionId, read: &ReadOp) -> Result<ReadResult>
    where
        Self: Sized,
    {
        match read {
            ReadOp::Exists { path } => match self.readable(session, path) {
                Ok(znode) => Ok(ReadResult::Exists(Some(znode.stat()))),
                Err(Error::NoNode { .. }) => Ok(ReadResult::Exists(None)),
                Err(error) => Err(error),
            },
            ReadOp::Data { path } => self.readable(session, path).map(data_of),
            ReadOp::Children { path } => self.readable(session, path).map(children_of),
            ReadOp::Acl { path } => self.acl_of(session, path),
            ReadOp::Ephemerals { prefix } => {
                let own = ephemerals_of(self.ephemerals(), session);
                let matching = own.filter(|path| path.as_str().starts_with(prefix));
                Ok(ReadResult::Ephemerals(matching.cloned().collect()))
            }
            ReadOp::AllChildrenNumber { path } => {
                let znode = self.readable(session, path)?;
                Ok(ReadResult::AllChildrenNumber(match path.as_str() {
                    "/" => self.znodes_count() - 1,
                    _ => descendants(znode, |path| self.znode(path)),
                }))
            }
            ReadOp::Allowed { path, permissions } => {
                let znode = self.znode(path).ok_or_else(|| missing(path))?;
                let allowed = self.allows(&znode, *permissions, session);
                Ok(ReadResult::Allowed(allowed))
            }
            ReadOp::Multi(reads) => {
                let result = |read: &ReadOp| match read {
                    ReadOp::Data { .. } | ReadOp::Children { .. } => self.read(session, read),
                    _ => Err(Error::BadArguments {
                        reason: "a multi of reads holds data and children only".to_string(),
                    }),
                };
                Ok(ReadResult::Multi(reads.iter().map(result).collect()))
            }
        }
    }

    /// The znode at a path, if the session may read it.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::NoNode`], [`Error::NoAuth`].
    fn readable(&self, session: SessionId, path: &str) -> Result<Arc<Znode>> {
        let znode = self.znode(path).ok_or_else(|| missing(path))?;
        if znode.acl == OPEN_ACL || self.allows(&znode, Permissions::READ, session) {
            return Ok(znode);
        }
        Err(Error::NoAuth {
            path: path.to_string(),
            permission: "read",
        })
    }

    /// The ACL, for whoever may read the znode or set the ACL; without the latter digests are masked.
    fn acl_of(&self, session: SessionId, path: &str) -> Result<ReadResult> {
        let znode = self.znode(path).ok_or_else(|| missing(path))?;
        let acl = self.acl_list(znode.acl).unwrap_or(&[]);
        if self.allows(&znode, Permissions::ADMIN, session) {
            Ok(ReadResult::Acl(acl.to_vec(), znode.stat()))
        } else if self.allows(&znode, Permissions::READ, session) {
            Ok(ReadResult::Acl(authorize::masked(acl), znode.stat()))
        } else {
            Err(Error::NoAuth {
                path: path.to_string(),
                permission: "read",
            })
        }
    }

    fn allows(&self, znode: &Znode, wanted: Permissions, session: SessionId) -> bool {
        let acl = self.acl_list(znode.acl);
        acl.is_some_and(|acl| authorize::allows(acl, wanted, self.identities(session)))
    }
}

/// How many znodes there are below one.
pub(super) fn descendants(znode: Arc<Znode>, get: impl Fn(&str) -> Option<Arc<Znode>>) -> usize {
    let mut number = 0;
    let mut parents = vec![znode];
    while let Some(parent) = parents.pop() {
        number += parent.children().len();
        parents.extend(
            parent
                .children()
                .paths()
                .filter_map(|child| get(child.as_str())),
        );
    }
    number
}

pub(super) fn data_of(znode: Arc<Znode>) -> ReadResult {
    let stat = znode.stat();
    ReadResult::Data(ZnodeData(znode), stat)
}

pub(super) fn children_of(znode: Arc<Znode>) -> ReadResult {
    ReadResult::Children(znode.children().clone(), znode.stat())
}

pub(super) fn missing(path: &str) -> Error {
    path::validate(path).err().unwrap_or_else(|| no_node(path))
}

/// What the writer sees: all writes so far, published or not.
impl Source for State {
    fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        self.znodes.tree.get(path)
    }

    fn identities(&self, session: SessionId) -> &[AuthId] {
        self.sessions
            .session(session)
            .map_or(&[], |session| &session.identities)
    }

    fn acl_list(&self, index: AclIndex) -> Option<&[Acl]> {
        self.znodes.acls.lists().get(index)
    }

    fn ephemerals(&self) -> &Ephemerals {
        &self.znodes.ephemerals
    }

    fn znodes_count(&self) -> usize {
        self.znodes.tree.len()
    }
}

//! Several writes that happen together or not at all.

use super::{Pending, Session};
use crate::acl::Acl;
use crate::ids::Version;
use crate::op::{CreateMode, Op, OpResult};
use bytes::Bytes;

/// A transaction: its operations happen together, in order, as one zxid, or none of them does
/// (ZooKeeper's `multi`).
///
/// ```
/// # use quorate::{CreateMode, Node, Version};
/// # let node = Node::builder(1).start()?;
/// # let session = node.session().open().wait()?;
/// # session.create("/from", "10", CreateMode::Persistent).wait()?;
/// # session.create("/to", "0", CreateMode::Persistent).wait()?;
/// session
///     .multi()
///     .check("/from", Version(0))
///     .set("/from", "5", Version::ANY)
///     .set("/to", "5", Version::ANY)
///     .commit()
///     .wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "nothing happens before `commit`"]
pub struct Multi<'a> {
    session: &'a Session,
    ops: Vec<Op>,
}

impl<'a> Multi<'a> {
    pub(super) fn new(session: &'a Session) -> Multi<'a> {
        Multi {
            session,
            ops: Vec::new(),
        }
    }

    /// Creates a znode with the open ACL.
    pub fn create(self, path: &str, data: impl AsRef<[u8]>, mode: CreateMode) -> Multi<'a> {
        self.create_with_acl(path, data, mode, &Acl::open())
    }

    /// Creates a znode with this ACL.
    pub fn create_with_acl(
        mut self,
        path: &str,
        data: impl AsRef<[u8]>,
        mode: CreateMode,
        acl: &[Acl],
    ) -> Multi<'a> {
        self.ops.push(Op::Create {
            path: path.to_string(),
            data: Bytes::copy_from_slice(data.as_ref()),
            acl: acl.to_vec(),
            mode,
        });
        self
    }

    /// Deletes a znode, if it has this version.
    pub fn delete(mut self, path: &str, version: Version) -> Multi<'a> {
        self.ops.push(Op::Delete {
            path: path.to_string(),
            version,
        });
        self
    }

    /// Sets a znode's data, if it has this version.
    pub fn set(mut self, path: &str, data: impl AsRef<[u8]>, version: Version) -> Multi<'a> {
        self.ops.push(Op::SetData {
            path: path.to_string(),
            data: Bytes::copy_from_slice(data.as_ref()),
            version,
        });
        self
    }

    /// Lets the others happen only if the znode has this version.
    pub fn check(mut self, path: &str, version: Version) -> Multi<'a> {
        self.ops.push(Op::Check {
            path: path.to_string(),
            version,
        });
        self
    }

    /// Calls the transaction. The answer has one result for each operation, in order.
    ///
    /// # Errors
    /// [`crate::Error::Multi`] says which operation failed, and why; none has happened then.
    pub fn commit(self) -> Pending<Vec<OpResult>> {
        self.session
            .write(&Op::Multi(self.ops), |result| match result {
                OpResult::Multi(results) => results,
                other => unreachable!("a multi gives results, not {other:?}"),
            })
    }
}

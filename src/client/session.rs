//! A session and its operations.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::pending::Convert;
use super::reads::{self, Read, ReadAnswer};
use super::{Credentials, Multi, Pending, Watcher};
use crate::acl::{Acl, AuthId, Permissions};
use crate::error::{Error, Result};
use crate::ids::{SessionId, Version, Zxid};
use crate::node::{
    Call, Command, NodeShared, SessionHandle, SessionState, WatchEvent, WatchKind, WatchRequest,
};
use crate::op::{CreateMode, EventKind, OP_BYTES_MAX, Op, OpResult, ReadOp};
use crate::path::{self, ZnodePath};
use crate::stat::Stat;
use crate::state::{ChildNames, ReadResult, Reader, ZnodeData};

/// What a creation gives.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Created {
    /// The path, with its number where the mode is sequential.
    pub path: String,
    /// The new znode's stat. Its `czxid` is unique and grows: what fencing tokens are made of.
    pub stat: Stat,
}

/// What somebody last saw of a znode before a watch of theirs was interrupted: see
/// [`Session::resume_watch`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum WatchedState {
    /// Its data (or that it was there), watched by [`WatchKind::Data`].
    Data,
    /// That it was not there, watched by [`WatchKind::Data`].
    Absence,
    /// Its children, watched by [`WatchKind::Children`].
    Children,
}

/// A session: the author of writes, the owner of ephemerals, the setter of watches.
///
/// Cheap to clone, usable from any thread. Operations take effect in the order in which they are
/// *called*, whether or not anybody waits for their answers. When the last handle is dropped the
/// session is closed, and its ephemerals vanish.
///
/// # What a read sees
/// Every earlier write of the session, and nothing older than what the session has read before
/// (ZooKeeper's promise). It may lag behind writes of others: [`Session::linearizable`] gives a handle
/// whose reads don't, and [`Session::sync`] catches up once. Where a node that catches up by a snapshot
/// has skipped the very state that a pipelined read was to see, the read says so: [`Error::Skipped`].
///
/// # What a write answers
/// Its real result, applied exactly once, however many leaders it took; or an error that says that it
/// did not happen; or, only when the node stops or the session is lost first,
/// [`Error::OutcomeUnknown`].
#[derive(Clone)]
pub struct Session {
    handle: Arc<SessionHandle>,
    linearizable: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.handle.shared, f)
    }
}

impl Session {
    pub(super) fn new(handle: SessionHandle) -> Session {
        Session {
            handle: Arc::new(handle.take()),
            linearizable: false,
        }
    }

    pub(super) fn node(&self) -> &NodeShared {
        &self.handle.node
    }

    fn reader(&self) -> &Reader {
        self.handle.node.reader()
    }

    // ---- The session itself -------------------------------------------------------------------

    /// Why a call of this session can't be made any more.
    fn check(&self) -> Result<()> {
        if self.is_read_only()
            && let Some(error) = self.handle.node.stopped()
        {
            return Err(error);
        }
        self.handle
            .shared
            .check()
            .map_err(|error| match self.state() {
                // It may live on elsewhere: it is the node that is gone.
                SessionState::Lost => self.handle.node.stopped().unwrap_or(error),
                _ => error,
            })
    }

    /// Its id: the zxid of its opening, and what `ephemeral_owner` shows.
    pub fn id(&self) -> SessionId {
        self.handle.shared.id
    }

    /// Whether it is one of its node alone, that only reads: see
    /// [`super::SessionBuilder::open_read_only`].
    pub fn is_read_only(&self) -> bool {
        self.handle.shared.stranger.is_some()
    }

    /// Which attachment of the session this handle is: 0 where it was opened, and one more each time
    /// that it was attached. What an earlier attachment left behind can be told by it.
    pub fn attachment(&self) -> u32 {
        self.handle.shared.attachment
    }

    /// A number that this attachment of the session has not given out before, to make a name unique:
    /// with the session's id and its attachment it is.
    pub fn unique_number(&self) -> u64 {
        self.handle.shared.next_number()
    }

    /// What it takes to attach it on another node.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            session: self.id(),
            password: self.handle.shared.password,
        }
    }

    /// How long it outlives the silence of its node, as the cluster has granted it.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.handle.shared.timeout_ms.into())
    }

    /// Says that the client of a session that its host keeps alive was heard of
    /// ([`super::SessionBuilder::touched_by_host`]). Cheap, and not to be called for every word of a
    /// busy client: a few times in each third of the timeout are enough. Other sessions need none.
    pub fn touch(&self) {
        if self.is_read_only() {
            return;
        }
        self.handle.node.command(Command::Touch {
            session: self.id(),
            attachment: self.handle.shared.attachment,
        });
    }

    /// What it is just now, as its node knows it.
    pub fn state(&self) -> SessionState {
        self.handle.shared.state()
    }

    /// Whether the cluster can't have ended the session yet: by the node's own clock, which is asked
    /// now. False soon enough that whoever stops acting then stops before anybody else begins.
    pub fn is_certain(&self) -> bool {
        self.handle
            .shared
            .is_certain(self.handle.node.clock.now().monotonic)
    }

    /// Waits until the state is another than `state`, at most `timeout`, and returns it.
    pub fn wait_while(&self, state: SessionState, timeout: Duration) -> SessionState {
        self.handle.shared.wait_while(state, timeout)
    }

    /// The same session, whose reads are linearizable: each shows every write that was answered,
    /// anywhere, before it was called. Costs a round of messages, shared with others at the same
    /// time.
    ///
    /// Such a read waits for the session's earlier writes; of its later ones it may see some, when
    /// they are called before it is answered.
    pub fn linearizable(&self) -> Session {
        Session {
            handle: self.handle.clone(),
            linearizable: true,
        }
    }

    /// Proves an identity: from then on the session may do what ACLs allow to it.
    pub fn add_auth(&self, id: AuthId) -> Pending<()> {
        self.write(&Op::AddAuth(id), drop)
    }

    /// Closes the session, after the writes called so far. Its ephemerals vanish in the same write.
    pub fn close(&self) -> Pending<()> {
        self.write(&Op::CloseSession, drop)
    }

    // ---- Writes -------------------------------------------------------------------------------

    /// Creates a znode with the open ACL.
    ///
    /// # Errors
    /// [`Error::NodeExists`], [`Error::NoNode`] (there is no parent),
    /// [`Error::NoChildrenForEphemerals`], [`Error::NoAuth`], [`Error::InvalidPath`],
    /// [`Error::TooLarge`], [`Error::QuotaExceeded`].
    pub fn create(&self, path: &str, data: impl AsRef<[u8]>, mode: CreateMode) -> Pending<Created> {
        self.create_with_acl(path, data, mode, &Acl::open())
    }

    /// Creates a znode with this ACL.
    ///
    /// # Errors
    /// As [`Session::create`], and [`Error::InvalidAcl`].
    pub fn create_with_acl(
        &self,
        path: &str,
        data: impl AsRef<[u8]>,
        mode: CreateMode,
        acl: &[Acl],
    ) -> Pending<Created> {
        let op = Op::Create {
            path: path.to_string(),
            data: Bytes::copy_from_slice(data.as_ref()),
            acl: acl.to_vec(),
            mode,
        };
        self.write(&op, |result| match result {
            OpResult::Created { path, stat } => Created { path, stat },
            other => unreachable!("a creation gives a path, not {other:?}"),
        })
    }

    /// Deletes a znode, if it has this version.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::BadVersion`], [`Error::NotEmpty`], [`Error::NoAuth`],
    /// [`Error::BadArguments`] (a system znode).
    pub fn delete(&self, path: &str, version: Version) -> Pending<()> {
        self.write(
            &Op::Delete {
                path: path.to_string(),
                version,
            },
            drop,
        )
    }

    /// Sets a znode's data, if it has this version.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::BadVersion`], [`Error::NoAuth`], [`Error::TooLarge`],
    /// [`Error::QuotaExceeded`].
    pub fn set(&self, path: &str, data: impl AsRef<[u8]>, version: Version) -> Pending<Stat> {
        let data = Bytes::copy_from_slice(data.as_ref());
        self.write(
            &Op::SetData {
                path: path.to_string(),
                data,
                version,
            },
            |result| match result {
                OpResult::DataSet(stat) => stat,
                other => unreachable!("a set gives a stat, not {other:?}"),
            },
        )
    }

    /// Sets a znode's ACL, if the ACL has this version.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::BadVersion`], [`Error::NoAuth`], [`Error::InvalidAcl`].
    pub fn set_acl(&self, path: &str, acl: &[Acl], version: Version) -> Pending<Stat> {
        let op = Op::SetAcl {
            path: path.to_string(),
            acl: acl.to_vec(),
            version,
        };
        self.write(&op, |result| match result {
            OpResult::AclSet(stat) => stat,
            other => unreachable!("a set of an ACL gives a stat, not {other:?}"),
        })
    }

    /// Begins a transaction.
    pub fn multi(&self) -> Multi<'_> {
        Multi::new(self)
    }

    pub(super) fn write<T>(&self, op: &Op, convert: fn(OpResult) -> T) -> Pending<T> {
        if let Err(error) = self.check().and_then(|()| check_paths(op)) {
            return Pending::ready(Err(error));
        }
        if let Some(stranger) = &self.handle.shared.stranger {
            let done = match op {
                Op::AddAuth(identity) => stranger.add(identity),
                Op::CloseSession => {
                    let mut table = self.handle.node.watches.lock();
                    self.handle.shared.close_read_only(&mut table);
                    Ok(())
                }
                _ => Err(Error::NotReadOnly),
            };
            let result = done.map(|()| convert(OpResult::Done));
            return Pending::ready_at(self.reader().zxid(), result);
        }
        let op = crate::proto::encode_op(op);
        if op.len() > OP_BYTES_MAX {
            let (found, limit) = (op.len() as u64, OP_BYTES_MAX as u64);
            return Pending::ready(Err(Error::TooLarge {
                what: "operation in bytes",
                found,
                limit,
            }));
        }
        if crate::proto::check_op(&op).is_err() {
            let limit = crate::proto::PARTS_MAX as u64;
            return Pending::ready(Err(Error::TooLarge {
                what: "parts of an operation (operations and ACL entries)",
                found: limit + 1,
                limit,
            }));
        }
        let (call, answer) = Call::write(self.handle.shared.clone());
        self.handle.node.command(Command::Write {
            session: self.id(),
            attachment: self.handle.shared.attachment,
            op,
            call,
        });
        Pending::waiting(answer, Convert::Write(convert))
    }

    // ---- Reads --------------------------------------------------------------------------------

    /// Waits until this node has applied every write that was answered, anywhere, before the call: a
    /// real read barrier, also where ZooKeeper's `sync` is none. Also waits for this session's own
    /// earlier writes.
    pub fn sync(&self) -> Pending<()> {
        if let Err(error) = self.check().and_then(|()| self.check_reaches_cluster()) {
            return Pending::ready(Err(error));
        }
        let (call, answer) = Call::new();
        self.queue_barrier(None, call);
        Pending::waiting(answer, Convert::Barrier(|| ()))
    }

    /// The data of a znode, shared with the tree, and its stat.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::NoAuth`], [`Error::InvalidPath`].
    pub fn get(&self, path: &str) -> Pending<(ZnodeData, Stat)> {
        self.read(
            ReadOp::Data {
                path: path.to_string(),
            },
            reads::data,
        )
    }

    /// The stat of a znode; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::NoAuth`], [`Error::InvalidPath`].
    pub fn exists(&self, path: &str) -> Pending<Option<Stat>> {
        self.read(
            ReadOp::Exists {
                path: path.to_string(),
            },
            reads::existence,
        )
    }

    /// The names of a znode's children, sorted and shared with the tree, and its stat.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::NoAuth`], [`Error::InvalidPath`].
    pub fn children(&self, path: &str) -> Pending<(ChildNames, Stat)> {
        self.read(
            ReadOp::Children {
                path: path.to_string(),
            },
            reads::children,
        )
    }

    /// The ACL of a znode, and its stat. Whoever may not set it sees digests without their hash.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::NoAuth`], [`Error::InvalidPath`].
    pub fn acl(&self, path: &str) -> Pending<(Vec<Acl>, Stat)> {
        self.read(
            ReadOp::Acl {
                path: path.to_string(),
            },
            reads::acl,
        )
    }

    /// The session's own ephemerals whose paths begin with `prefix`, as text, sorted.
    pub fn ephemerals(&self, prefix: &str) -> Pending<Vec<ZnodePath>> {
        self.read(
            ReadOp::Ephemerals {
                prefix: prefix.to_string(),
            },
            reads::paths,
        )
    }

    /// How many znodes there are below a path, at all depths. Counted while writes go on.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::NoAuth`], [`Error::InvalidPath`].
    pub fn all_children_number(&self, path: &str) -> Pending<usize> {
        self.read(
            ReadOp::AllChildrenNumber {
                path: path.to_string(),
            },
            reads::number,
        )
    }

    /// Whether the session may do any of these at a znode, by its ACL and by who the session has proven
    /// to be.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::InvalidPath`].
    pub fn may(&self, path: &str, permissions: Permissions) -> Pending<bool> {
        self.read(
            ReadOp::Allowed {
                path: path.to_string(),
                permissions,
            },
            reads::allowed,
        )
    }

    /// Several reads as of one moment, each with its own result (ZooKeeper's `multiRead`).
    pub fn multi_read(&self, reads: &[Read]) -> Pending<Vec<Result<ReadAnswer>>> {
        self.read(
            ReadOp::Multi(reads.iter().map(Read::op).collect()),
            reads::answers,
        )
    }

    // ---- Watches ------------------------------------------------------------------------------

    /// A watcher of this session whose queue holds up to `events_max` events. It also hears of the
    /// session's state.
    pub fn watcher(&self, events_max: usize) -> Watcher {
        let mut table = self.handle.node.watches.lock();
        let stranger = self.handle.shared.stranger.clone();
        let queue = table.add_watcher(self.id(), stranger, events_max);
        self.handle.shared.add_watcher(&queue, &mut table);
        drop(table);
        Watcher::new(self.clone(), queue)
    }

    /// [`Session::get`], and on success a one-shot watch ([`WatchKind::Data`]) for the next change
    /// after what was read.
    ///
    /// # Errors
    /// As [`Session::get`]; no watch is set then.
    pub fn get_and_watch(&self, path: &str, watcher: &Watcher) -> Pending<(ZnodeData, Stat)> {
        self.read_and_watch(
            ReadOp::Data {
                path: path.to_string(),
            },
            (path, WatchKind::Data, watcher),
            reads::data,
        )
    }

    /// [`Session::exists`], and a one-shot watch ([`WatchKind::Data`]), also where there is no znode.
    ///
    /// # Errors
    /// As [`Session::exists`]; no watch is set then.
    pub fn exists_and_watch(&self, path: &str, watcher: &Watcher) -> Pending<Option<Stat>> {
        self.read_and_watch(
            ReadOp::Exists {
                path: path.to_string(),
            },
            (path, WatchKind::Data, watcher),
            reads::existence,
        )
    }

    /// [`Session::children`], and on success a one-shot watch ([`WatchKind::Children`]).
    ///
    /// # Errors
    /// As [`Session::children`]; no watch is set then.
    pub fn children_and_watch(&self, path: &str, watcher: &Watcher) -> Pending<(ChildNames, Stat)> {
        self.read_and_watch(
            ReadOp::Children {
                path: path.to_string(),
            },
            (path, WatchKind::Children, watcher),
            reads::children,
        )
    }

    /// Sets a watch for changes from now on, whether or not there is a znode: persistent ones are set
    /// this way (ZooKeeper's `addWatch`). The answer is the zxid up to which this session has seen the
    /// tree: what it reads from then on, and what the watch tells, leave no gap.
    ///
    /// Of a change to a znode that the session may not read (READ, by the ACL as of the change) it is not
    /// told.
    ///
    /// # Errors
    /// [`Error::InvalidPath`].
    pub fn watch(&self, path: &str, kind: WatchKind, watcher: &Watcher) -> Result<Zxid> {
        let path = ZnodePath::parse(path)?;
        self.check()?;
        let mut table = self.handle.node.watches.lock();
        let zxid = self.reader().zxid();
        table.add(watcher.queue(), &path, kind, zxid);
        Ok(zxid)
    }

    /// Sets a one-shot watch again that was interrupted, for somebody who has seen the tree up to `since`
    /// (ZooKeeper's `setWatches`). If what they saw has changed after that the event comes at once and no
    /// watch is set; otherwise it comes when that changes. No permission is asked for, as nothing is
    /// read.
    ///
    /// # Errors
    /// [`Error::InvalidPath`].
    pub fn resume_watch(
        &self,
        path: &str,
        seen: WatchedState,
        since: Zxid,
        watcher: &Watcher,
    ) -> Result<()> {
        let path = ZnodePath::parse(path)?;
        self.check()?;
        let mut table = self.handle.node.watches.lock();
        let stat = self.reader().znode(path.as_str()).map(|znode| znode.stat());
        let (missed, kind) = match (seen, stat) {
            (WatchedState::Absence, Some(stat)) => {
                (Some((EventKind::NodeCreated, stat.czxid)), WatchKind::Data)
            }
            (WatchedState::Absence, None) => (None, WatchKind::Data),
            (WatchedState::Data | WatchedState::Children, None) => {
                let deleted = (EventKind::NodeDeleted, self.reader().zxid());
                (Some(deleted), WatchKind::Data)
            }
            (WatchedState::Data, Some(stat)) => {
                let set = (EventKind::NodeDataChanged, stat.mzxid);
                ((stat.mzxid > since).then_some(set), WatchKind::Data)
            }
            (WatchedState::Children, Some(stat)) => {
                let changed = (EventKind::NodeChildrenChanged, stat.pzxid);
                ((stat.pzxid > since).then_some(changed), WatchKind::Children)
            }
        };
        match missed {
            Some((kind, zxid)) => table.deliver(watcher.queue(), WatchEvent { kind, path, zxid }),
            None => table.add(watcher.queue(), &path, kind, self.reader().zxid()),
        }
        Ok(())
    }

    // ---- The ways of a read -------------------------------------------------------------------

    /// From the published view, on this thread, where nothing has to be waited for; otherwise by the
    /// loop, right after the session's writes or after a barrier.
    fn read<T>(&self, read: ReadOp, convert: fn(ReadResult) -> T) -> Pending<T> {
        let checked = self.check();
        if let Err(error) = checked.and_then(|()| self.check_linearizable()) {
            return Pending::ready(Err(error));
        }
        if !self.linearizable && self.handle.shared.has_no_pending_writes() {
            let result = self.read_published(&read).map(convert);
            // What was read may be as new as this.
            return Pending::ready_at(self.reader().zxid(), result);
        }
        let (call, answer) = Call::new();
        self.queue(read, call);
        Pending::waiting(answer, Convert::Read(convert))
    }

    fn read_and_watch<T>(
        &self,
        read: ReadOp,
        (path, kind, watcher): (&str, WatchKind, &Watcher),
        convert: fn(ReadResult) -> T,
    ) -> Pending<T> {
        let checked = self.check().and_then(|()| self.check_linearizable());
        let path = match checked.and_then(|()| ZnodePath::parse(path)) {
            Ok(path) => path,
            Err(error) => return Pending::ready(Err(error)),
        };
        if !self.linearizable && self.handle.shared.has_no_pending_writes() {
            // Nothing is fired or published while the table is locked.
            let mut table = self.handle.node.watches.lock();
            let zxid = self.reader().zxid();
            let result = self.read_published(&read);
            if result.is_ok() {
                table.add(watcher.queue(), &path, kind, zxid);
            }
            return Pending::ready_at(zxid, result.map(convert));
        }
        let queue = watcher.queue().clone();
        let (call, answer) = Call::watch(WatchRequest { queue, path, kind });
        self.queue(read, call);
        Pending::waiting(answer, Convert::Read(convert))
    }

    fn read_published(&self, read: &ReadOp) -> Result<ReadResult> {
        match &self.handle.shared.stranger {
            Some(stranger) => self.reader().read_as(&stranger.identities(), read),
            None => self.reader().read(self.id(), read),
        }
    }

    fn check_reaches_cluster(&self) -> Result<()> {
        match self.is_read_only() {
            true => Err(Error::NotReadOnly),
            false => Ok(()),
        }
    }

    fn check_linearizable(&self) -> Result<()> {
        match self.linearizable {
            true => self.check_reaches_cluster(),
            false => Ok(()),
        }
    }

    fn queue(&self, read: ReadOp, call: Call) {
        if self.linearizable {
            self.queue_barrier(Some(read), call);
        } else {
            self.queue_read(read, call);
        }
    }

    fn queue_read(&self, read: ReadOp, call: Call) {
        self.handle.node.command(Command::Read {
            session: self.id(),
            attachment: self.handle.shared.attachment,
            read,
            call,
        });
    }

    fn queue_barrier(&self, read: Option<ReadOp>, call: Call) {
        self.handle.node.command(Command::Barrier {
            session: self.id(),
            attachment: self.handle.shared.attachment,
            read,
            call,
        });
    }
}

/// Whether the paths of a write are paths at all, as ZooKeeper's client checks it before it calls
/// (`PathUtils.validatePath`): its server would take the parent of what is none, and miss that.
fn check_paths(op: &Op) -> Result<()> {
    match op {
        // `/a/` gets a name by its number.
        Op::Create { path, mode, .. } if mode.is_sequential() => path::validate(path)
            .or_else(|error| path::validate(&format!("{path}1")).map_err(|_| error)),
        Op::Create { path, .. }
        | Op::Delete { path, .. }
        | Op::SetData { path, .. }
        | Op::SetAcl { path, .. }
        | Op::Check { path, .. } => path::validate(path),
        Op::Multi(ops) => ops.iter().enumerate().try_for_each(|(index, op)| {
            check_paths(op).map_err(|error| Error::Multi {
                index,
                error: Box::new(error),
            })
        }),
        _ => Ok(()),
    }
}

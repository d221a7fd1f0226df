//! The tree with everything that hangs on it: ACLs, ephemerals, quotas and what may be reaped.
//!
//! Here are the four changes that all operations are made of (insert, remove, set data, set ACL), each
//! of which keeps the side tables true to the tree, and the transaction that takes them back. What may
//! be done and in which order that is asked is the business of the operations' own files.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;

use crate::acl::{Acl, AuthId, Permissions};
use crate::error::{Error, Result};
use crate::ids::{SessionId, Zxid};
use crate::op::{Change, EventAcl, EventKind};
use crate::path::{self, ZnodePath};
use crate::stat::Stat;
use crate::state::acl_table::{AclIndex, AclTable, OPEN_ACL};
use crate::state::authorize;
use crate::state::quota::{self, Limits, Quota, QuotaTable, QuotaZnode, Usage};
use crate::state::reap::{Due, ReapIndex};
use crate::state::settings::Settings;
use crate::state::tree::{Owner, Savepoint, Tree, Znode};

/// All ephemerals, by session and path.
pub(crate) type Ephemerals = OrdSet<(SessionId, ZnodePath)>;

/// The ephemerals of one session, sorted by path.
pub(crate) fn ephemerals_of(
    all: &Ephemerals,
    session: SessionId,
) -> impl Iterator<Item = &ZnodePath> {
    all.range((session, ZnodePath::root())..)
        .take_while(move |(owner, _)| *owner == session)
        .map(|(_, path)| path)
}

/// The write that is being applied: its place in the log, and who does it.
pub(crate) struct Write<'a> {
    pub zxid: Zxid,
    pub time_ms: i64,
    pub session: SessionId,
    pub identities: &'a [AuthId],
    /// What it changes, so far.
    pub changes: &'a mut Vec<Change>,
}

impl Write<'_> {
    fn changed(&mut self, kind: EventKind, path: ZnodePath, acl: EventAcl, parent_acl: EventAcl) {
        self.changes.push(Change {
            zxid: self.zxid,
            kind,
            path,
            acl,
            parent_acl,
        });
    }
}

/// The tree and its side tables.
pub(crate) struct Znodes {
    pub settings: Settings,
    pub tree: Tree,
    pub acls: AclTable,
    pub ephemerals: Ephemerals,
    pub quotas: QuotaTable,
    pub reapable: ReapIndex,
    /// How many writes have passed a soft quota.
    pub soft_quota_exceeded: u64,
    /// What must be taken back if the multi fails that is under way.
    journal: Option<Journal>,
}

/// The side tables' part of a transaction.
struct Journal {
    savepoint: Savepoint,
    changes_len: usize,
    ephemerals: Ephemerals,
    soft_quota_exceeded: u64,
    /// References taken by the transaction.
    acquired: Vec<AclIndex>,
    /// References to be given back when it succeeds. Not earlier: a freed number could not be had again.
    released: Vec<AclIndex>,
    reapable: Vec<(ZnodePath, Option<Due>, Option<Due>)>,
    quotas: Vec<(String, Option<Quota>)>,
}

impl Znodes {
    pub(crate) fn new(
        settings: Settings,
        tree: Tree,
        acls: AclTable,
        ephemerals: Ephemerals,
    ) -> Znodes {
        Znodes {
            settings,
            tree,
            acls,
            ephemerals,
            quotas: QuotaTable::default(),
            reapable: ReapIndex::default(),
            soft_quota_exceeded: 0,
            journal: None,
        }
    }

    /// The znode at a path as somebody gave it.
    ///
    /// # Errors
    /// [`Error::InvalidPath`], [`Error::NoNode`]. Every znode has a valid path, so only one that isn't
    /// found is looked at closely.
    pub(crate) fn existing(&self, path: &str) -> Result<Arc<Znode>> {
        match self.tree.get(path) {
            Some(znode) => Ok(znode),
            None => Err(path::validate(path).err().unwrap_or_else(|| no_node(path))),
        }
    }

    /// Whether the write's session may do `wanted` under an ACL, which is that of `path`.
    ///
    /// # Errors
    /// [`Error::NoAuth`].
    pub(crate) fn authorize(
        &self,
        write: &Write<'_>,
        acl: AclIndex,
        (wanted, permission): (Permissions, &'static str),
        path: &str,
    ) -> Result<()> {
        if acl == OPEN_ACL || authorize::allows(self.acls.list(acl), wanted, write.identities) {
            return Ok(());
        }
        Err(Error::NoAuth {
            path: path.to_string(),
            permission,
        })
    }

    /// Whether the quotas allow a write at `path`.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`], where hard quotas are enforced.
    pub(crate) fn check_quota(&mut self, path: &str, difference: Usage) -> Result<()> {
        if self.quotas.is_empty() {
            return Ok(());
        }
        match self.quotas.check(path, difference) {
            Ok(false) => Ok(()),
            Err(error) if self.settings.enforce_quota => Err(error),
            Ok(true) | Err(_) => {
                self.soft_quota_exceeded += 1;
                Ok(())
            }
        }
    }

    /// Adds a znode under an existing parent that may have children.
    pub(crate) fn insert(
        &mut self,
        write: &mut Write<'_>,
        path: ZnodePath,
        data: &[u8],
        owner: Owner,
        acl: &[Acl],
    ) -> Stat {
        let acl = self.acquire(acl);
        let znode = Znode::created(path.clone(), data, write.zxid, write.time_ms, owner, acl);
        let mut stat = znode.stat();
        let due = Due::of(&znode);
        let ((), parent_acl) = self.changing_children_of(&path, |znodes| znodes.tree.insert(znode));
        self.note_due(&path, None, due);
        if owner.is_ephemeral() {
            self.ephemerals.insert((owner.session(), path.clone()));
        }
        if self.charge(
            write.zxid,
            &path,
            Usage {
                count: 1,
                bytes: data.len() as i64,
            },
        ) {
            stat = self
                .tree
                .get(path.as_str())
                .map_or(stat, |znode| znode.stat());
        }
        write.changed(
            EventKind::NodeCreated,
            path,
            self.event_acl(acl),
            parent_acl,
        );
        stat
    }

    /// Removes an existing znode that has no children and isn't the root.
    pub(crate) fn remove(&mut self, write: &mut Write<'_>, path: &ZnodePath) {
        let (znode, parent_acl) =
            self.changing_children_of(path, |znodes| znodes.tree.remove(path.as_str(), write.zxid));
        let acl = self.event_acl(znode.acl);
        self.release(znode.acl);
        self.note_due(path, Due::of(&znode), None);
        if znode.owner.is_ephemeral() {
            self.ephemerals
                .remove(&(znode.owner.session(), path.clone()));
        }
        self.charge(
            write.zxid,
            path,
            Usage {
                count: -1,
                bytes: -(znode.data.len() as i64),
            },
        );
        write.changed(EventKind::NodeDeleted, path.clone(), acl, parent_acl);
    }

    /// Gives an existing znode other data. `data_length` is what it has now.
    pub(crate) fn set_data(
        &mut self,
        write: &mut Write<'_>,
        path: &str,
        data: &[u8],
        data_length: usize,
    ) -> Stat {
        let (zxid, time_ms) = (write.zxid, write.time_ms);
        let data: Arc<[u8]> = data.into();
        let bytes = data.len() as i64 - data_length as i64;
        let mut before = None;
        let znode = self.tree.set_data(path, zxid, data, |znode| {
            before = Due::of(znode);
            znode.version = next_version(znode.version);
            znode.mzxid = zxid;
            znode.mtime_ms = time_ms;
        });
        let mut stat = znode.stat();
        let after = Due::of(znode);
        let (path, acl) = (znode.path.clone(), znode.acl);
        self.note_due(&path, before, after);
        if self.charge(zxid, &path, Usage { count: 0, bytes }) {
            stat = self
                .tree
                .get(path.as_str())
                .map_or(stat, |znode| znode.stat());
        }
        write.changed(EventKind::NodeDataChanged, path, self.event_acl(acl), None);
        stat
    }

    /// Gives an existing znode another ACL.
    pub(crate) fn set_acl(&mut self, write: &Write<'_>, path: &str, acl: &[Acl]) -> Stat {
        let acl = self.acquire(acl);
        let mut before = OPEN_ACL;
        let stat = self
            .tree
            .update(path, write.zxid, |znode| {
                before = std::mem::replace(&mut znode.acl, acl);
                znode.aversion = next_version(znode.aversion);
            })
            .stat();
        self.release(before);
        stat
    }

    /// Begins a transaction: until it ends all changes can be taken back.
    pub(crate) fn begin(&mut self, write: &Write<'_>) {
        assert!(self.journal.is_none(), "transactions don't nest");
        self.journal = Some(Journal {
            savepoint: self.tree.savepoint(),
            changes_len: write.changes.len(),
            ephemerals: self.ephemerals.clone(),
            soft_quota_exceeded: self.soft_quota_exceeded,
            acquired: Vec::new(),
            released: Vec::new(),
            reapable: Vec::new(),
            quotas: Vec::new(),
        });
    }

    /// Ends a transaction and keeps its changes.
    pub(crate) fn commit(&mut self) {
        let journal = self.journal.take().expect("a transaction is under way");
        self.tree.release(journal.savepoint);
        for index in journal.released {
            self.acls.release(index);
        }
    }

    /// Ends a transaction and takes back its changes.
    pub(crate) fn roll_back(&mut self, write: &mut Write<'_>) {
        let journal = self.journal.take().expect("a transaction is under way");
        self.tree.rollback(journal.savepoint);
        write.changes.truncate(journal.changes_len);
        self.ephemerals = journal.ephemerals;
        self.soft_quota_exceeded = journal.soft_quota_exceeded;
        for index in journal.acquired {
            self.acls.release(index);
        }
        for (path, before, after) in journal.reapable.into_iter().rev() {
            self.reapable.change(&path, after, before);
        }
        for (quota_path, before) in journal.quotas.into_iter().rev() {
            self.quotas.replace(&quota_path, before);
        }
    }

    fn acquire(&mut self, acl: &[Acl]) -> AclIndex {
        let index = if is_open(acl) {
            OPEN_ACL
        } else {
            self.acls.acquire(acl)
        };
        if let Some(journal) = &mut self.journal {
            journal.acquired.push(index);
        }
        index
    }

    fn release(&mut self, index: AclIndex) {
        match &mut self.journal {
            Some(journal) => journal.released.push(index),
            None => self.acls.release(index),
        }
    }

    /// Makes a change to the children of a znode's parent, and notes what that means for reaping it.
    fn changing_children_of<T>(
        &mut self,
        child: &ZnodePath,
        change: impl FnOnce(&mut Znodes) -> T,
    ) -> (T, EventAcl) {
        let parent = child.parent().expect("the root is nobody's child");
        let special = |parent: &Znode| {
            ReapIndex::concerns(parent).then(|| (parent.path.clone(), Due::of(parent)))
        };
        let (before, acl) = match self.tree.get(parent) {
            Some(parent) => (special(&parent), self.event_acl(parent.acl)),
            None => (None, None),
        };
        let result = change(self);
        if let Some((path, before)) = before {
            let parent = self.tree.get(parent);
            let after = parent
                .and_then(|parent| special(&parent))
                .and_then(|(_, due)| due);
            self.note_due(&path, before, after);
        }
        (result, acl)
    }

    /// Who may hear of what happens to a znode with this ACL.
    pub(crate) fn event_acl(&self, acl: AclIndex) -> EventAcl {
        (acl != OPEN_ACL).then(|| self.acls.list(acl).clone())
    }

    fn note_due(&mut self, path: &ZnodePath, before: Option<Due>, after: Option<Due>) {
        if before == after {
            return;
        }
        self.reapable.change(path, before, after);
        if let Some(journal) = &mut self.journal {
            journal.reapable.push((path.clone(), before, after));
        }
    }

    /// Charges a change at `path` to the quotas that enclose it. Says whether the znode itself belongs
    /// to a quota, so that its data may be another by now.
    fn charge(&mut self, zxid: Zxid, path: &ZnodePath, difference: Usage) -> bool {
        if !self.quotas.is_empty() {
            for quota_path in self.quotas.enclosing(path.as_str()) {
                let mut quota = self.quotas.quota(&quota_path).expect("it was just found");
                quota.usage = quota.usage.plus(difference);
                self.set_quota(zxid, &quota_path, Some(quota));
            }
        }
        let Some(quota_znode) = QuotaZnode::at(path.as_str()) else {
            return false;
        };
        match quota_znode {
            QuotaZnode::Limits(quota_path) => {
                let quota = self.tree.get(path.as_str()).map(|znode| Quota {
                    limits: Limits::parse(&znode.data),
                    usage: match self.quotas.quota(quota_path) {
                        Some(quota) => quota.usage,
                        None => self.usage_of(quota_path),
                    },
                });
                self.set_quota(zxid, quota_path, quota);
            }
            QuotaZnode::Stats(quota_path) => {
                if let Some(quota) = self.quotas.quota(quota_path) {
                    self.show_usage(zxid, quota_path, quota.usage);
                }
            }
        }
        true
    }

    /// Counts what is at and below a path.
    pub(crate) fn usage_of(&self, path: &str) -> Usage {
        self.tree.walk(path).fold(Usage::default(), |usage, znode| {
            usage.plus(Usage {
                count: 1,
                bytes: znode.data.len() as i64,
            })
        })
    }

    fn set_quota(&mut self, zxid: Zxid, quota_path: &str, quota: Option<Quota>) {
        let before = self.quotas.replace(quota_path, quota);
        if let Some(journal) = &mut self.journal {
            journal.quotas.push((quota_path.to_string(), before));
        }
        if let Some(quota) = quota {
            self.show_usage(zxid, quota_path, quota.usage);
        }
    }

    /// Writes the usage where ZooKeeper shows it. This is no set data: versions, times and watches don't
    /// notice (ZooKeeper's `DataTree.updateQuotaStat`).
    fn show_usage(&mut self, zxid: Zxid, quota_path: &str, usage: Usage) {
        let stats_path = quota::stats_path(quota_path);
        if self.tree.contains(&stats_path) {
            let stats = usage.to_stats();
            let stats = stats.into_bytes().into();
            self.tree.set_data(&stats_path, zxid, stats, |_| {});
        }
    }

    /// Every quota's limits, as the tree has them, sorted by path.
    pub(crate) fn limits(&self) -> BTreeMap<String, Limits> {
        let limits = |znode: Arc<Znode>| match QuotaZnode::at(znode.path.as_str())? {
            QuotaZnode::Limits(quota_path) => {
                Some((quota_path.to_string(), Limits::parse(&znode.data)))
            }
            QuotaZnode::Stats(_) => None,
        };
        self.tree
            .walk(quota::QUOTA_ROOT)
            .filter_map(limits)
            .collect()
    }

    /// Whether the usage of a quota's path is shown as it is, if it is shown.
    pub(crate) fn shows_usage(&self, quota_path: &str, usage: Usage) -> bool {
        let stats = self.tree.get(&quota::stats_path(quota_path));
        stats.is_none_or(|stats| *stats.data == *usage.to_stats().as_bytes())
    }

    /// Builds the tables that follow from the tree alone, after it was loaded as a whole. `reapable` are
    /// its containers and TTL znodes.
    pub(crate) fn rebuild_indexes(&mut self, reapable: &[ZnodePath]) {
        for path in reapable {
            let due = self
                .tree
                .get(path.as_str())
                .and_then(|znode| Due::of(&znode));
            self.reapable.change(path, None, due);
        }
        let limits = self.limits();
        for (quota_path, limits) in limits {
            let usage = self.usage_of(&quota_path);
            self.quotas
                .replace(&quota_path, Some(Quota { limits, usage }));
        }
    }
}

/// Whether an ACL is the open one.
pub(crate) fn is_open(acl: &[Acl]) -> bool {
    matches!(acl, [entry] if entry.permissions == Permissions::ALL
        && entry.id.scheme == "world"
        && entry.id.id == "anyone")
}

/// The version after `version`. It overflows, but is never -1, which would match any
/// (ZOOKEEPER-4743).
fn next_version(version: i32) -> i32 {
    match version.wrapping_add(1) {
        -1 => 0,
        next => next,
    }
}

/// There is no znode at `path`.
pub(crate) fn no_node(path: &str) -> Error {
    Error::NoNode {
        path: path.to_string(),
    }
}

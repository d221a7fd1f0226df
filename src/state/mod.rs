//! The znode state machine: a tree, its sessions, ACLs and quotas, changed by one write after another.
//!
//! Floor 1. Deterministic: time comes with each write, nothing is read from a clock, a thread or a
//! random source, and no iteration order of a hash map reaches an output. It knows nothing of Raft.
//!
//! [`State`] is the writer: `apply` makes writes, `publish` shows them to every [`Reader`] at once,
//! `freeze` takes what is published for a snapshot. All replicas that apply the same log are equal, byte
//! for byte, and the semantics are those of ZooKeeper 3.9.

mod acl_table;
mod apply;
mod attach;
mod authorize;
mod create;
mod delete;
mod digest_log;
mod genesis;
#[cfg(any(test, feature = "testing"))]
mod invariants;
#[cfg(test)]
mod model;
mod multi;
mod quota;
mod read;
mod reader;
mod reap;
#[cfg(test)]
mod scripts;
mod sessions;
mod set;
mod settings;
mod snapshot;
// Its own tests and bench use more of it than the state machine does.
#[allow(dead_code)]
pub(crate) mod tree;
mod znodes;

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::acl::{Acl, AuthId, Permissions};
use crate::error::Result;
use crate::ids::{SessionId, Zxid};
use crate::op::{EventAcl, Outcome, ReadOp};
use crate::path::ZnodePath;
use crate::proto::Rules;
#[cfg(test)]
use crate::stat::Stat;

pub use read::ZnodeData;
pub use tree::ChildNames;

pub(crate) use read::{ReadResult, Source};
pub(crate) use reader::Reader;
pub(crate) use sessions::Session;
pub(crate) use settings::Settings;
pub(crate) use snapshot::{Chunks, Frozen, Restore, RestoreError, RestoredState, ZXID_MAX};

use digest_log::DigestLog;
use reader::{Facts, Published};
use sessions::Sessions;
use znodes::Znodes;

/// Whether somebody with these identities may read what has this ACL.
pub(crate) fn may_read(identities: &[AuthId], acl: &[Acl]) -> bool {
    authorize::allows(acl, Permissions::READ, identities)
}

/// The state machine of one replica.
pub(crate) struct State {
    /// The last write applied.
    zxid: Zxid,
    /// Its time, in milliseconds since the Unix epoch.
    time_ms: i64,
    /// The newest rules that a write was applied by.
    rules: Rules,
    sessions: Sessions,
    znodes: Znodes,
    digests: Arc<DigestLog>,
    /// What was published last, or what the state was made of.
    facts: Arc<Facts>,
    /// Counts the trees that readers of this state have seen.
    tree_number: u64,
    cell: Arc<ArcSwap<Published>>,
}

impl State {
    /// The last write applied.
    pub(crate) fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// The next write is the one after `zxid`, which is not before the last one: for a state that another
    /// cluster begins with.
    pub(crate) fn skip_to(&mut self, zxid: Zxid) {
        assert!(zxid >= self.zxid, "zxids never go back");
        self.zxid = zxid;
    }

    /// The newest rules that a write was applied by.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// The writes to come follow these rules, which this program knows.
    pub(crate) fn follow(&mut self, rules: Rules) {
        self.rules = self.rules.max(rules);
    }

    /// The settings that all replicas share.
    pub(crate) fn settings(&self) -> &Settings {
        &self.znodes.settings
    }

    /// How many writes have passed a soft quota.
    pub(crate) fn soft_quota_exceeded(&self) -> u64 {
        self.znodes.soft_quota_exceeded
    }

    /// The number of znodes.
    pub(crate) fn znodes_count(&self) -> usize {
        self.znodes.tree.len()
    }

    /// The bytes of all znodes' paths and data.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.znodes.tree.bytes()
    }

    /// A number that is the same for equal trees, their ACLs apart.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn tree_digest(&self) -> u64 {
        self.znodes.tree.digest()
    }

    /// The number of sessions.
    pub(crate) fn sessions_count(&self) -> usize {
        self.sessions.map().len()
    }

    /// The sessions with all writes so far, sorted by id.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions
            .map()
            .iter()
            .map(|(&id, session)| (id, &**session))
    }

    /// The sessions that own ephemerals, sorted, with all writes so far.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn ephemeral_owners(&self) -> Vec<SessionId> {
        let mut owners: Vec<_> = self
            .znodes
            .ephemerals
            .iter()
            .map(|(owner, _)| *owner)
            .collect();
        owners.dedup();
        owners
    }

    /// A session with all writes so far.
    pub(crate) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.session(id)
    }

    /// The result of a session's write, while it is kept.
    pub(crate) fn kept(&self, session: SessionId, sequence: u64) -> Option<(Zxid, Outcome)> {
        let kept = self.sessions.session(session)?.kept(sequence)?;
        Some((kept.zxid, kept.outcome.clone()))
    }

    /// Reads with all writes so far, published or not.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(crate) fn read(&self, session: SessionId, read: &ReadOp) -> Result<ReadResult> {
        Source::read(self, session, read)
    }

    /// The znode at a path with all writes so far.
    pub(crate) fn znode(&self, path: &str) -> Option<Arc<tree::Znode>> {
        self.znodes.tree.get(path)
    }

    /// Who may hear of what happens to this znode, which is one of this tree.
    pub(crate) fn event_acl(&self, znode: &tree::Znode) -> EventAcl {
        self.znodes.event_acl(znode.acl)
    }

    /// Whether a session may read what has this ACL.
    pub(crate) fn may_read(&self, session: SessionId, acl: &[Acl]) -> bool {
        may_read(Source::identities(self, session), acl)
    }

    /// The stat of a znode with all writes so far.
    #[cfg(test)]
    pub(crate) fn stat(&self, path: &str) -> Option<Stat> {
        self.znodes.tree.get(path).map(|znode| znode.stat())
    }

    /// Containers and TTL znodes that may be deleted at `now_ms`, with the write that created them: what
    /// a leader proposes to reap. At most `max`; the same ones again until they are reaped.
    pub(crate) fn due_for_reaping(&self, now_ms: i64, max: usize) -> Vec<(ZnodePath, Zxid)> {
        let due = self.znodes.reapable.due(now_ms).take(max);
        due.filter_map(|path| Some((path.clone(), self.znodes.tree.get(path.as_str())?.czxid)))
            .collect()
    }

    /// All znodes with all writes so far: each before its children.
    pub(crate) fn walk(&self) -> impl Iterator<Item = Arc<tree::Znode>> + '_ {
        self.znodes.tree.walk("/")
    }

    /// A reader for any thread.
    pub(crate) fn reader(&self) -> Reader {
        Reader::new(self.cell.clone(), self.digests.clone())
    }

    /// Shows all writes so far to the readers, at once.
    pub(crate) fn publish(&mut self) {
        self.announce();
        self.znodes.tree.publish(self.zxid);
    }

    /// Gives the readers what they need for the view that the tree is about to show.
    fn announce(&mut self) {
        let current = Arc::new(self.current_facts());
        let previous = std::mem::replace(&mut self.facts, current.clone());
        self.cell.store(Arc::new(Published {
            tree_number: self.tree_number,
            tree: self.znodes.tree.reader(),
            current,
            previous,
        }));
    }

    fn current_facts(&mut self) -> Facts {
        Facts {
            zxid: self.zxid,
            sessions: self.sessions.publish(),
            acls: self.znodes.acls.lists().clone(),
            ephemerals: self.znodes.ephemerals.clone(),
        }
    }
}

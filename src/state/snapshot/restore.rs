//! Reading a snapshot, from whoever gives it.
//!
//! Every record is checked when it comes, and the whole at the end: what [`Restore::finish`] gives is a
//! state that keeps every invariant, or there is an error that says what was wrong. Memory grows with the
//! bytes that were fed, never with what they announce.

use std::collections::VecDeque;
use std::sync::Arc;

use imbl::OrdSet;
use protobuf::Message as _;

use super::{FORMAT, outcome};
use crate::acl::{Acl, AuthId, Permissions};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::path::ZnodePath;
use crate::proto::Rules;
use crate::proto::snapshot as records;
use crate::proto::snapshot::Record_oneof_kind as Kind;
use crate::state::State;
use crate::state::acl_table::{AclIndex, AclTable, OPEN_ACL};
use crate::state::delete::SYSTEM_ZNODES;
use crate::state::sessions::{
    IDENTITIES_MAX, KeptResult, NONCES_KEPT, Session, SessionMap, Sessions,
};
use crate::state::settings::Settings;
use crate::state::tree::{Owner, Tree, TreeBuilder, Znode};
use crate::state::znodes::{Ephemerals, Znodes, is_open};

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RestoreError {
    /// The form is of another version.
    #[error("a snapshot of format {found}; this program reads format {FORMAT}")]
    Format { found: u32 },
    /// A record is larger than any may be.
    #[error("a snapshot's record of {found} bytes is over the limit of {limit}")]
    RecordTooLarge { found: u64, limit: usize },
    /// The bytes end before the footer.
    #[error("the snapshot ends before its footer")]
    Truncated,
    /// The bytes are not those that were written.
    #[error("the snapshot's checksum is {found:08x}, its footer says {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    /// A record is none, stands at the wrong place, or says what can't be.
    #[error("malformed snapshot: {reason}")]
    Malformed { reason: String },
}

impl RestoreError {
    pub(super) fn malformed(reason: impl Into<String>) -> RestoreError {
        RestoreError::Malformed {
            reason: reason.into(),
        }
    }
}

/// No replica comes near it in any time; a snapshot beyond it would let the next writes overflow.
pub(crate) const ZXID_MAX: u64 = 1 << 62;

type Result<T> = std::result::Result<T, RestoreError>;

/// What a snapshot may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RestoreLimits {
    /// The largest record, in bytes.
    pub record_bytes_max: usize,
}

impl Default for RestoreLimits {
    fn default() -> RestoreLimits {
        RestoreLimits {
            record_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// A state read from a snapshot, not yet anybody's: for [`State::replace`].
pub(crate) struct RestoredState {
    zxid: Zxid,
    time_ms: i64,
    rules: Rules,
    sessions: Sessions,
    znodes: Znodes,
    joined_as_of: u64,
}

impl RestoredState {
    /// See [`Frozen::joined_as_of`](super::Frozen::joined_as_of).
    pub(crate) fn joined_as_of(&self) -> u64 {
        self.joined_as_of
    }

    /// The settings that it carries.
    pub(crate) fn settings(&self) -> &Settings {
        &self.znodes.settings
    }

    /// The newest rules that a write in it was applied by.
    pub(crate) fn rules(&self) -> Rules {
        self.rules
    }

    /// A state machine of its own.
    pub(crate) fn into_state(self) -> State {
        State::from_parts(
            self.zxid,
            self.time_ms,
            self.rules,
            self.sessions,
            self.znodes,
        )
    }
}

impl State {
    /// Replaces everything. The readers go on seeing what was there until the next publish, which shows
    /// them the new state as a whole.
    pub(crate) fn replace(&mut self, restored: RestoredState) {
        self.zxid = restored.zxid;
        self.time_ms = restored.time_ms;
        self.rules = restored.rules;
        self.sessions = restored.sessions;
        self.znodes = restored.znodes;
        self.tree_number += 1;
        self.facts = Arc::new(self.current_facts());
    }
}

/// How far a snapshot was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Header,
    Sessions,
    Znodes,
    Ended,
}

/// Reads a snapshot piece by piece.
pub(crate) struct Restore {
    limits: RestoreLimits,
    stage: Stage,
    /// What was fed and not yet read: less than one record.
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
    zxid: Zxid,
    time_ms: i64,
    soft_quota_exceeded: u64,
    rules: Rules,
    joined_as_of: u64,
    settings: Settings,
    sessions: SessionMap,
    /// The session whose results may follow.
    session: Option<(SessionId, Session)>,
    acls: AclTable,
    /// The stream's ACLs, with their number in the table once a znode has them.
    acl_lists: Vec<(Vec<Acl>, Option<AclIndex>)>,
    tree: TreeBuilder,
    ephemerals: Ephemerals,
    /// Containers and TTL znodes.
    reapable: Vec<ZnodePath>,
    counts: records::Footer,
}

impl Default for Restore {
    fn default() -> Restore {
        Restore::new(RestoreLimits::default())
    }
}

impl Restore {
    /// Ready for a snapshot's first bytes.
    pub(crate) fn new(limits: RestoreLimits) -> Restore {
        Restore {
            limits,
            stage: Stage::Header,
            buffer: Vec::new(),
            crc: crc32fast::Hasher::new(),
            zxid: Zxid(0),
            time_ms: 0,
            soft_quota_exceeded: 0,
            rules: Rules::FIRST,
            joined_as_of: 0,
            settings: Settings::default(),
            sessions: SessionMap::new(),
            session: None,
            acls: AclTable::new(),
            acl_lists: Vec::new(),
            tree: TreeBuilder::new(),
            ephemerals: OrdSet::new(),
            reapable: Vec::new(),
            counts: records::Footer::default(),
        }
    }

    /// Takes the next bytes, cut anywhere. After an error it is of no use any more.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((prefix, length)) = self.record_at(&buffer[at..])? {
            let end = at + prefix + length;
            let bytes = &buffer[at + prefix..end];
            crate::proto::check_shape::<records::Record>(bytes)
                .map_err(|error| RestoreError::malformed(error.to_string()))?;
            let record = records::Record::parse_from_bytes(bytes)
                .map_err(|error| RestoreError::malformed(error.to_string()))?;
            // The checksum is about what comes before the footer, so the footer's own form is checked.
            let is_footer = matches!(record.kind, Some(Kind::footer(_)));
            if is_footer && record.write_to_bytes().ok().as_deref() != Some(bytes) {
                return Err(RestoreError::malformed(
                    "the footer is not in its canonical form",
                ));
            }
            self.read(record)?;
            self.crc.update(&buffer[at..end]);
            at = end;
        }
        if self.stage == Stage::Ended && at < buffer.len() {
            return Err(RestoreError::malformed("something follows the footer"));
        }
        buffer.drain(..at);
        self.buffer = buffer;
        Ok(())
    }

    /// The lengths of the length and of the record at the beginning of `bytes`; `None` if it isn't whole.
    fn record_at(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>> {
        let mut length = 0_u64;
        for (at, byte) in bytes.iter().take(10).enumerate() {
            length |= u64::from(byte & 0x7f) << (7 * at).min(63);
            if byte & 0x80 == 0 {
                if length > self.limits.record_bytes_max as u64 {
                    let limit = self.limits.record_bytes_max;
                    return Err(RestoreError::RecordTooLarge {
                        found: length,
                        limit,
                    });
                }
                let (prefix, length) = (at + 1, length as usize);
                return Ok((bytes.len() - prefix >= length).then_some((prefix, length)));
            }
        }
        if bytes.len() >= 10 {
            return Err(RestoreError::malformed("a record's length is no number"));
        }
        Ok(None)
    }

    fn read(&mut self, record: records::Record) -> Result<()> {
        match (self.stage, record.kind) {
            (Stage::Header, Some(Kind::header(header))) => self.read_header(header),
            (Stage::Sessions, Some(Kind::session(session))) => self.read_session(session),
            (Stage::Sessions, Some(Kind::result(result))) => self.read_result(result),
            (Stage::Sessions | Stage::Znodes, Some(Kind::acl(acl))) => {
                self.end_session()?;
                self.stage = Stage::Znodes;
                self.read_acl(acl)
            }
            (Stage::Sessions | Stage::Znodes, Some(Kind::znode(znode))) => {
                self.end_session()?;
                self.stage = Stage::Znodes;
                self.read_znode(znode)
            }
            (Stage::Znodes, Some(Kind::footer(footer))) => self.read_footer(&footer),
            (stage, _) => Err(RestoreError::malformed(format!(
                "a record doesn't belong where it is ({stage:?})"
            ))),
        }
    }

    fn read_header(&mut self, header: records::Header) -> Result<()> {
        if header.format != FORMAT {
            return Err(RestoreError::Format {
                found: header.format,
            });
        }
        if header.zxid > ZXID_MAX {
            return Err(RestoreError::malformed(format!(
                "{} is no zxid",
                header.zxid
            )));
        }
        let record = header.settings.into_option();
        let record = record.ok_or_else(|| RestoreError::malformed("there are no settings"))?;
        let settings = Settings {
            data_bytes_max: record.data_bytes_max,
            multi_ops_max: record.multi_ops_max,
            multi_bytes_max: record.multi_bytes_max,
            acl_entries_max: record.acl_entries_max,
            session_timeout_min_ms: record.session_timeout_min_ms,
            session_timeout_max_ms: record.session_timeout_max_ms,
            results_kept_max: record.results_kept_max,
            enforce_quota: record.enforce_quota,
            ttl_enabled: record.ttl_enabled,
            auth_schemes: record.auth_schemes.into_vec(),
        };
        if settings.clone().canonical() != settings {
            return Err(RestoreError::malformed(
                "the settings contradict each other",
            ));
        }
        self.settings = settings;
        self.zxid = Zxid(header.zxid);
        self.time_ms = header.time_ms;
        self.soft_quota_exceeded = header.quota_soft_exceeded;
        self.rules = Rules::from_number(header.rules);
        self.joined_as_of = header.joined_as_of;
        self.stage = Stage::Sessions;
        Ok(())
    }

    fn read_session(&mut self, record: records::Session) -> Result<()> {
        self.end_session()?;
        let id = SessionId(record.id);
        let malformed = |what: &str| RestoreError::malformed(format!("session {id} {what}"));
        let is_zxid = u64::try_from(id.0).is_ok_and(|id| (1..=self.zxid.0).contains(&id));
        if !is_zxid || self.sessions.get_max().is_some_and(|(last, _)| *last >= id) {
            return Err(malformed("is none, or out of order"));
        }
        if record.identities.len() > IDENTITIES_MAX || record.nonces.len() > NONCES_KEPT {
            return Err(malformed("has too many identities or attachments"));
        }
        let session = Session {
            password: record.password[..]
                .try_into()
                .map_err(|_| malformed("has no password"))?,
            timeout_ms: record.timeout_ms,
            owner: NodeId::new(record.owner).ok_or_else(|| malformed("has no owner"))?,
            attachment: record.attachment,
            nonces: record.nonces.into(),
            identities: record.identities.into_iter().map(identity).collect(),
            last_sequence: record.last_sequence,
            kept: VecDeque::new(),
        };
        self.counts.sessions += 1;
        self.session = Some((id, session));
        Ok(())
    }

    fn read_result(&mut self, record: records::KeptResult) -> Result<()> {
        let results_kept_max = self.settings.results_kept_max as usize;
        let Some((id, session)) = &mut self.session else {
            return Err(RestoreError::malformed("a result has no session"));
        };
        let malformed =
            |what: &str| RestoreError::malformed(format!("a result of session {id} {what}"));
        let follows = session
            .kept
            .back()
            .is_none_or(|last| record.sequence == last.sequence + 1 && record.zxid > last.zxid.0);
        if !follows || record.sequence == 0 || record.sequence > session.last_sequence {
            return Err(malformed("is out of order"));
        }
        if session.kept.len() >= results_kept_max || record.zxid > self.zxid.0 {
            return Err(malformed("is one too many, or from the future"));
        }
        let outcome = record.outcome.ok_or_else(|| malformed("is none"))?;
        session.kept.push_back(KeptResult {
            sequence: record.sequence,
            zxid: Zxid(record.zxid),
            outcome: outcome::read(outcome)?,
        });
        self.counts.results += 1;
        Ok(())
    }

    fn end_session(&mut self) -> Result<()> {
        let Some((id, session)) = self.session.take() else {
            return Ok(());
        };
        let last = session.kept.back();
        if last.is_some_and(|last| last.sequence != session.last_sequence) {
            return Err(RestoreError::malformed(format!(
                "session {id} lacks its last result"
            )));
        }
        self.sessions.insert(id, Arc::new(session));
        Ok(())
    }

    fn read_acl(&mut self, record: records::AccessList) -> Result<()> {
        let acl: Vec<Acl> = record.entries.into_iter().map(entry).collect();
        if acl.is_empty() || is_open(&acl) || !self.every_acl_is_used() {
            return Err(RestoreError::malformed("an ACL is empty, open or nobody's"));
        }
        self.counts.acls += 1;
        self.acl_lists.push((acl, None));
        Ok(())
    }

    fn every_acl_is_used(&self) -> bool {
        self.acl_lists
            .last()
            .is_none_or(|(_, index)| index.is_some())
    }

    fn read_znode(&mut self, record: records::Znode) -> Result<()> {
        let path = ZnodePath::parse(&record.path)
            .map_err(|error| RestoreError::malformed(error.to_string()))?;
        let malformed = |what: &str| RestoreError::malformed(format!("{path} {what}"));
        let latest = record.czxid.max(record.mzxid).max(record.pzxid);
        let is_ordered = record.czxid <= record.mzxid.max(record.pzxid);
        if !is_ordered
            || latest > self.zxid.0
            || record.data.len() > self.settings.data_bytes_max as usize
        {
            return Err(malformed("has no such zxid, or too much data"));
        }
        let owner = Owner::from_raw(record.ephemeral_owner);
        let is_known = match owner.ttl_ms() {
            Some(ttl_ms) => {
                (1..=Owner::TTL_MS_MAX).contains(&ttl_ms) && Owner::ttl(ttl_ms) == owner
            }
            None => !owner.is_ephemeral() || self.sessions.contains_key(&owner.session()),
        };
        if !is_known {
            return Err(malformed("belongs to no session"));
        }
        if owner.is_ephemeral() {
            self.ephemerals.insert((owner.session(), path.clone()));
        } else if owner != Owner::NONE {
            self.reapable.push(path.clone());
        }
        let acl = self
            .acl(record.acl)
            .ok_or_else(|| malformed("has an unknown ACL"))?;
        let czxid = Zxid(record.czxid);
        let mut znode = Znode::created(path, &record.data, czxid, record.ctime_ms, owner, acl);
        znode.changed = Zxid(latest);
        znode.mzxid = Zxid(record.mzxid);
        znode.pzxid = Zxid(record.pzxid);
        znode.mtime_ms = record.mtime_ms;
        znode.version = record.version;
        znode.cversion = record.cversion;
        znode.aversion = record.aversion;
        self.tree.insert(znode);
        self.counts.znodes += 1;
        Ok(())
    }

    /// The number in the table for one in the stream.
    fn acl(&mut self, number: u32) -> Option<AclIndex> {
        let Some(at) = (number as usize).checked_sub(1) else {
            return Some(OPEN_ACL);
        };
        let (acl, index) = self.acl_lists.get_mut(at)?;
        match *index {
            Some(index) => self.acls.retain(index),
            None => *index = Some(self.acls.acquire(acl)),
        }
        *index
    }

    fn read_footer(&mut self, footer: &records::Footer) -> Result<()> {
        let found = self.crc.clone().finalize();
        if found != footer.crc32 {
            return Err(RestoreError::Checksum {
                found,
                expected: footer.crc32,
            });
        }
        let counts = records::Footer {
            crc32: found,
            ..self.counts.clone()
        };
        if counts != *footer || !self.every_acl_is_used() {
            return Err(RestoreError::malformed("the footer counts other records"));
        }
        self.stage = Stage::Ended;
        Ok(())
    }

    /// The state that was read.
    ///
    /// # Errors
    /// See [`RestoreError`].
    pub(crate) fn finish(self) -> Result<RestoredState> {
        if self.stage != Stage::Ended {
            return Err(RestoreError::Truncated);
        }
        let content = self
            .tree
            .finish(self.zxid)
            .map_err(|error| RestoreError::malformed(error.to_string()))?;
        let tree = Tree::from_content(content);
        for path in SYSTEM_ZNODES {
            if tree
                .get(path)
                .is_none_or(|znode| znode.owner != Owner::NONE)
            {
                return Err(RestoreError::malformed(format!("{path} is missing")));
            }
        }
        for (session, path) in &self.ephemerals {
            if tree
                .get(path.as_str())
                .is_none_or(|znode| !znode.children().is_empty())
            {
                let reason = format!("{path} of session {session} has children");
                return Err(RestoreError::malformed(reason));
            }
        }
        let mut znodes = Znodes::new(self.settings, tree, self.acls, self.ephemerals);
        znodes.soft_quota_exceeded = self.soft_quota_exceeded;
        znodes.rebuild_indexes(&self.reapable);
        for (quota_path, quota) in znodes.quotas.iter() {
            if !znodes.shows_usage(quota_path, quota.usage) {
                let reason = format!("the quota of {quota_path} shows another usage");
                return Err(RestoreError::malformed(reason));
            }
        }
        let sessions = Sessions::new(self.sessions);
        if !sessions.passwords_differ() {
            return Err(RestoreError::malformed(
                "two sessions have the same password",
            ));
        }
        Ok(RestoredState {
            joined_as_of: self.joined_as_of,
            zxid: self.zxid,
            time_ms: self.time_ms,
            rules: self.rules,
            sessions,
            znodes,
        })
    }
}

fn identity(record: records::Identity) -> AuthId {
    AuthId {
        scheme: record.scheme,
        id: record.id,
    }
}

fn entry(record: records::Entry) -> Acl {
    let id = record.identity.into_option().unwrap_or_default();
    Acl::new(Permissions(record.permissions), identity(id))
}

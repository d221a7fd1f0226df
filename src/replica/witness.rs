//! What a replica has applied, written down for whoever checks it from outside: a simulation.
//!
//! It decides nothing, and a replica that nobody watches writes nothing down.

use std::time::Duration;

use super::Replica;
use crate::ids::{SessionId, Zxid};
use crate::op::{Applied, Change, Op, Request};
use crate::storage::{Configuration, LogEntry};

/// An entry of the log that was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AppliedEntry {
    pub index: u64,
    pub term: u64,
    /// Of its data.
    pub checksum: u32,
}

/// A session's write that took effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AppliedWrite {
    pub session: SessionId,
    pub sequence: u64,
    pub zxid: Zxid,
}

/// What was applied since it was last taken, in order.
#[derive(Default)]
pub(crate) struct Witness {
    pub entries: Vec<AppliedEntry>,
    pub writes: Vec<AppliedWrite>,
    /// With the owner of what was created, where that is an ephemeral.
    pub changes: Vec<(Change, SessionId)>,
    /// From where to where a snapshot has taken the state.
    pub skipped: Option<(Zxid, Zxid)>,
    /// Sessions that were closed or have expired, and by which write.
    pub ended: Vec<(SessionId, Zxid)>,
    /// Those of them that have expired.
    pub expired: Vec<SessionId>,
    /// Sessions whose end this node has proposed, as the leader, because they were silent; with their
    /// timeouts.
    pub proposed_to_expire: Vec<(SessionId, Duration)>,
}

impl Witness {
    pub(super) fn entry(&mut self, entry: &LogEntry) {
        self.entries.push(AppliedEntry {
            index: entry.index,
            term: entry.term,
            checksum: crc32fast::hash(&entry.data),
        });
    }
}

impl Replica {
    /// From now on what is applied is written down.
    pub(crate) fn begin_witness(&mut self) {
        self.witness = Some(Witness::default());
    }

    /// What was applied since the last call; nothing where nobody watches.
    pub(crate) fn take_witness(&mut self) -> Witness {
        self.witness
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The sessions attached here that can't have expired yet, by this node's clock.
    pub(crate) fn certain_sessions(&self) -> Vec<SessionId> {
        let now = self.now.monotonic;
        self.origin.certain_at(now).collect()
    }

    /// Who takes part as far as the core knows.
    pub(crate) fn core_configuration(&self) -> Configuration {
        self.core.configuration()
    }

    /// The longest pause of a leader that isn't a stall.
    pub(crate) fn stall(&self) -> Duration {
        self.options.election_timeout
    }

    /// A request was applied; its changes begin at this place among the effects.
    pub(super) fn witness(&mut self, request: &Request, applied: &Applied, changes_from: usize) {
        let Some(witness) = &mut self.witness else {
            return;
        };
        let state = &self.state;
        for change in &self.effects.changes[changes_from..] {
            let owner = state
                .znode(change.path.as_str())
                .filter(|znode| znode.czxid == change.zxid && znode.owner.is_ephemeral())
                .map_or(SessionId::NONE, |znode| znode.owner.session());
            witness.changes.push((change.clone(), owner));
        }
        let &Applied::Now { zxid, .. } = applied else {
            return;
        };
        if request.sequence > 0 {
            witness.writes.push(AppliedWrite {
                session: request.session,
                sequence: request.sequence,
                zxid,
            });
        }
        let ended = match request.op {
            Op::CloseSession => Some(request.session),
            Op::ExpireSession { session, .. } => Some(session),
            _ => None,
        };
        if let Some(session) = ended
            && state.session(session).is_none()
        {
            witness.ended.push((session, zxid));
            if matches!(request.op, Op::ExpireSession { .. }) {
                witness.expired.push(session);
            }
        }
    }
}

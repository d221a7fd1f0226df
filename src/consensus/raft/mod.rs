//! The core that runs Raft, by raft-rs.
//!
//! The only user of raft-rs's types in this crate. raft-rs keeps Raft's rules; this core keeps what it
//! leaves open: nothing is acknowledged before it is durable while writing never stops the core, a
//! peer's bytes can't make it panic, elections are drawn from a seed, a change of membership that
//! makes no sense is refused rather than swallowed. It knows no clock, no thread and no znode.

mod calls;
pub(super) mod convert;
mod inspect;
mod log_view;
mod membership;
mod options;
mod outbox;
#[cfg(any(test, feature = "testing"))]
mod seeds;
mod shape;
mod step;
mod succession;
mod terms;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, StateRole};

pub use options::RaftOptions;
#[cfg(any(test, feature = "testing"))]
pub(crate) use seeds::message_seeds;

use self::log_view::LogView;
use self::outbox::{Changes, Outbox};
use self::succession::Hurry;
use super::{Consensus, ProposeError, Ready};
use crate::NodeId;
use crate::storage::{Configuration, EntryKind, HardState, LogEntry, Storage, StorageError};
use crate::transport::MESSAGE_BYTES_MAX;

/// The longest command that can be proposed, in bytes: with its frame it fits a message.
pub const COMMAND_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;

/// Raft: a leader, elected by a majority, whose log the others follow.
///
/// Several writes may be under way at once: see [`Consensus::persisted`]. A commit index alone is not
/// worth a write, unless it commits a change of membership: it goes to the storage with the next entries or
/// the next term, and is a hint there.
///
/// # Errors
/// A read of the storage that fails stops the core: it gives out nothing any more, and
/// [`Consensus::failure`] says why.
pub struct RaftCore {
    id: NodeId,
    options: RaftOptions,
    node: RawNode<LogView>,
    configuration: Configuration,
    outbox: Outbox,
    /// What the storage holds, or will once every write is durable.
    written: HardState,
    /// The last write given out, and the last known to be durable.
    number: u64,
    persisted: u64,
    /// The last write that touched the log.
    log_write: u64,
    /// Snapshots given out to be installed that aren't durable yet: the write's number and the index.
    installing: VecDeque<(u64, u64)>,
    /// What the caller has applied; raft-rs is told as soon as it can take it.
    applied: u64,
    /// The last entry given out as committed, or covered by a snapshot given out.
    handed_out: u64,
    /// Whether the leader was seen to be gone, so that the next election starts early.
    hurry: Option<Hurry>,
}

impl fmt::Debug for RaftCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftCore")
            .field("id", &self.id)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl RaftCore {
    /// A core for node `id` that goes on from what `storage` holds.
    ///
    /// It starts as a follower that has applied the published snapshot; the entries committed after it
    /// are given out again.
    ///
    /// # Errors
    /// [`StorageError::Refused`] where the storage holds no snapshot or an option is out of range;
    /// [`StorageError::Amnesia`] where its log ends before what it once knew to be committed;
    /// [`StorageError::Corrupt`] where it contradicts itself; any failure to read it.
    pub fn new(
        id: NodeId,
        storage: Arc<dyn Storage>,
        options: RaftOptions,
    ) -> Result<RaftCore, StorageError> {
        let written = storage.recover()?.hard_state;
        let log = LogView::new(storage, options.cache_bytes_max)?;
        let snapshot = log.snapshot_meta().clone();
        let config = options.to_raft(id, snapshot.index)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, log, &logger).map_err(|error| StorageError::Refused {
            reason: format!("raft: {error}"),
        })?;
        let mut core = RaftCore {
            id,
            options,
            node,
            configuration: snapshot.configuration,
            outbox: Outbox::default(),
            written,
            number: 0,
            persisted: 0,
            log_write: 0,
            installing: VecDeque::new(),
            applied: snapshot.index,
            handed_out: snapshot.index,
            hurry: None,
        };
        core.pin_election_timeout();
        Ok(core)
    }

    /// raft-rs draws a new timeout from the thread's random numbers whenever it changes its state, and
    /// looks at it at the next tick: by then it is one that a seed decides.
    fn pin_election_timeout(&mut self) {
        self.calm_down();
        let ticks = self.election_ticks();
        self.node.raft.set_randomized_election_timeout(ticks);
    }

    /// The bytes of the entries held in memory.
    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> u64 {
        self.node.store().cache_bytes()
    }

    fn has_failed(&self) -> bool {
        self.node.store().failure().is_some()
    }

    fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<NodeId> {
        NodeId::new(self.node.raft.leader_id)
    }

    fn check_leads(&self) -> Result<(), ProposeError> {
        if self.has_failed() {
            return Err(ProposeError::Dropped {
                reason: "the storage has failed",
            });
        }
        if !self.leads() {
            return Err(ProposeError::NotLeader {
                leader: self.leader(),
            });
        }
        Ok(())
    }

    /// Whether an election may start now.
    ///
    /// raft-rs looks at the unapplied entries before one, and panics where a snapshot has replaced
    /// them. And a node that is its own majority wins at once, without the round of messages that
    /// waits for the disk: raft-rs asserts that nothing is being written then.
    fn may_campaign(&self) -> bool {
        self.installing.is_empty()
            && (self.log_is_durable() || !membership::is_sole_voter(&self.configuration, self.id))
    }

    fn log_is_durable(&self) -> bool {
        let log = &self.node.raft.raft_log;
        self.persisted >= self.log_write
            && log.unstable_entries().is_empty()
            && log.unstable_snapshot().is_none()
    }

    fn term_is_durable(&self) -> bool {
        self.written.term == self.node.raft.term && self.outbox.term_is_durable()
    }

    fn append_proposal(&mut self, kind: EntryType, data: Bytes) -> Result<(), ProposeError> {
        if self.node.raft.lead_transferee.is_some() {
            return Err(ProposeError::Dropped {
                reason: "leadership is being handed over",
            });
        }
        if data.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::Dropped {
                reason: "larger than a message may be",
            });
        }
        let mut entry = Entry::default();
        entry.set_entry_type(kind);
        entry.data = data;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.id.as_u64();
        message.set_entries(vec![entry].into());
        let proposed = self.node.step(message);
        self.pin_election_timeout();
        proposed.map_err(|_| ProposeError::Dropped {
            reason: "too much is uncommitted",
        })
    }

    /// Tells raft-rs of what is applied, as far as it may know: it panics on what isn't durable yet.
    fn pass_on_applied(&mut self) {
        let log = &self.node.raft.raft_log;
        let applied = self.applied.min(log.committed).min(log.persisted);
        if applied > log.applied {
            let last_index = log.last_index();
            self.node.advance_apply_to(applied);
            // raft-rs leaves a joint configuration by an entry that it appends but doesn't send.
            if self.node.raft.raft_log.last_index() > last_index {
                self.node.raft.bcast_append();
            }
        }
        let applied = self.node.raft.raft_log.applied;
        self.node.mut_store().follow_compaction(applied);
    }

    /// Takes what is to be written out of raft-rs's `Ready` and lays it over the log.
    fn take_write(&mut self, raft_ready: &mut raft::Ready, ready: &mut Ready) {
        let number = ready.number;
        if !raft_ready.snapshot().is_empty() {
            let meta = convert::meta_from_raft(raft_ready.snapshot().get_metadata());
            self.node.mut_store().install(number, &meta);
            self.installing.push_back((number, meta.index));
            self.handed_out = self.handed_out.max(meta.index);
            self.configuration = meta.configuration.clone();
            ready.configuration = Some(meta.configuration.clone());
            ready.install = Some(meta);
        }
        ready.write.entries = raft_ready
            .take_entries()
            .into_iter()
            .map(convert::entry_from_raft)
            .collect();
        self.node.mut_store().append(number, &ready.write.entries);

        let state = convert::hard_state_from_raft(&self.node.raft.hard_state());
        let new_term = state.term != self.written.term || state.vote != self.written.vote;
        let log_write = ready.install.is_some() || !ready.write.entries.is_empty();
        // Whoever holds an entry must not forget the commit index that came with it: a node two
        // changes of membership behind could win an election by an outdated majority. And who has applied
        // a change of membership must not go back behind it: where the others do, too, and the old
        // majority needs a node that is lost, nobody could be elected any more.
        let committed = raft_ready.committed_entries().iter();
        let commits_change = committed
            .map(|entry| entry.get_entry_type())
            .any(|kind| kind != EntryType::EntryNormal);
        if new_term || ((log_write || commits_change) && state != self.written) {
            self.written = state;
            ready.write.hard_state = Some(state);
        }
        if new_term || log_write {
            self.outbox.written(
                number,
                if new_term {
                    Changes::TermOrVote
                } else {
                    Changes::LogOnly
                },
            );
        }
        if log_write {
            self.log_write = number;
        }
    }

    /// Applies the changes of membership among `committed` to raft-rs.
    fn apply_memberships(&mut self, committed: &[LogEntry]) -> Option<Configuration> {
        let before = self.configuration.clone();
        for entry in committed
            .iter()
            .filter(|entry| entry.kind == EntryKind::Membership)
        {
            // A change that doesn't decode or apply does so on no replica: it has no effect anywhere.
            let Ok(change) = membership::decode(&entry.data) else {
                continue;
            };
            if let Ok(state) = self.node.apply_conf_change(&change) {
                let after = convert::configuration_from_raft(&state);
                let store = self.node.mut_store();
                store.membership_changed(entry.index, &self.configuration, &after);
                self.configuration = after;
            }
        }
        if self.leads() && !self.votes() {
            self.step_down();
        }
        (self.configuration != before).then(|| self.configuration.clone())
    }

    fn votes(&self) -> bool {
        self.configuration.voters.contains(&self.id)
            || self.configuration.voters_outgoing.contains(&self.id)
    }

    /// A leader that was removed has done so when the change is committed (Raft's dissertation,
    /// section 4.2.2). raft-rs lets it go on, and panics when it commits without itself.
    fn step_down(&mut self) {
        let raft = &mut self.node.raft;
        let successor = raft
            .prs()
            .iter()
            .filter(|(id, _)| raft.prs().conf().voters().contains(**id))
            .map(|(id, progress)| (progress.matched, std::cmp::Reverse(*id)))
            .max();
        if let Some((_, std::cmp::Reverse(successor))) = successor {
            raft.send_timeout_now(successor);
        }
        let term = raft.term;
        raft.become_follower(term, 0);
    }

    /// The context of barrier `number`: no two are the same, in any term.
    fn barrier_context(&self, number: u64) -> Bytes {
        let mut context = Vec::with_capacity(16);
        context.extend_from_slice(&self.node.raft.term.to_be_bytes());
        context.extend_from_slice(&number.to_be_bytes());
        context.into()
    }

    fn confirmed_barriers(&self, raft_ready: &mut raft::Ready) -> Vec<(u64, u64)> {
        let term = self.node.raft.term.to_be_bytes();
        let confirmed = raft_ready
            .take_read_states()
            .into_iter()
            .filter_map(|state| {
                let number = state.request_ctx.strip_prefix(&term)?;
                Some((u64::from_be_bytes(number.try_into().ok()?), state.index))
            });
        confirmed.collect()
    }
}

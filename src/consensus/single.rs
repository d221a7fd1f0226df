//! The core of a cluster of one: what is durable is committed.
//!
//! For development, as a test bed of the floors above, and as the baseline that shows what Raft costs.
//! It leads from the start and knows no messages. The invariant is [`Consensus`]'s: nothing is given
//! out as committed before it was reported persisted.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    COMMAND_BYTES_MAX, Consensus, ConsensusStatus, MembershipChange, PeerProgress, ProposeError,
    Ready, Role, StepError,
};
use crate::NodeId;
use crate::storage::{
    Configuration, EntryKind, HardState, LogEntry, SnapshotMeta, Storage, StorageError, WriteBatch,
};

/// Bytes of entries that may be proposed and not yet durable: beyond it proposals are dropped.
const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of entries read back at once after a start.
const REPLAY_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A core that decides alone.
///
/// A storage written by it can be gone on with by a [`RaftCore`](super::RaftCore), which can then be
/// given more members; the way back is closed once there was a change of membership.
pub struct SingleVoterCore {
    id: NodeId,
    storage: Arc<dyn Storage>,
    term: u64,
    /// Whether the new term has been given out to be written.
    term_written: bool,
    /// Proposed, not yet given out to be written.
    proposed: Vec<LogEntry>,
    /// Given out to be written, not yet known to be durable; each with the number of its write.
    writing: VecDeque<(u64, LogEntry)>,
    writing_bytes: usize,
    /// Durable, not yet given out as committed.
    durable: Vec<LogEntry>,
    last_index: u64,
    commit: u64,
    /// The last entry given out as committed. Up to `replay_end` they are read from the storage.
    handed_out: u64,
    replay_end: u64,
    barriers: Vec<(u64, u64)>,
    /// The last write given out, and the last known to be durable.
    number: u64,
    persisted: u64,
    failure: Option<StorageError>,
}

impl fmt::Debug for SingleVoterCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleVoterCore")
            .field("id", &self.id)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl SingleVoterCore {
    /// A core for node `id`, the only member of the configuration in `storage`.
    ///
    /// It leads a new term at once. Everything in the log is committed, because it is durable; what
    /// comes after the published snapshot is given out again.
    ///
    /// # Errors
    /// [`StorageError::Refused`] where the storage holds no snapshot or names other members;
    /// [`StorageError::Amnesia`] where its log ends before what it once knew to be committed; any
    /// failure to read it.
    pub fn new(id: NodeId, storage: Arc<dyn Storage>) -> Result<SingleVoterCore, StorageError> {
        let recovered = storage.recover()?;
        let snapshot = recovered.snapshot.unwrap_or_default();
        if snapshot.index == 0 || snapshot.configuration != alone(id) {
            return Err(StorageError::Refused {
                reason: format!(
                    "a single-voter core needs a snapshot whose only member is node {id}"
                ),
            });
        }
        let last_index = recovered.last_index;
        if last_index < recovered.hard_state.commit || last_index < snapshot.index {
            return Err(StorageError::Amnesia {
                path: "log".to_owned(),
                reason: format!(
                    "commit {} was acknowledged, the log ends at {last_index}",
                    recovered.hard_state.commit
                ),
            });
        }
        Ok(SingleVoterCore {
            id,
            storage,
            // What an earlier run gave out to be written may be lost: its numbers are used anew, under
            // another term.
            term: recovered.hard_state.term.max(snapshot.term) + 1,
            term_written: false,
            proposed: Vec::new(),
            writing: VecDeque::new(),
            writing_bytes: 0,
            durable: Vec::new(),
            last_index,
            commit: last_index,
            handed_out: snapshot.index,
            replay_end: last_index,
            barriers: Vec::new(),
            number: 0,
            persisted: 0,
            failure: None,
        })
    }

    fn take_write(&mut self) -> WriteBatch {
        let entries = std::mem::take(&mut self.proposed);
        let number = self.number;
        self.writing
            .extend(entries.iter().map(|entry| (number, entry.clone())));
        let state = HardState {
            term: self.term,
            vote: Some(self.id),
            commit: self.commit,
        };
        let hard_state = (!self.term_written || !entries.is_empty()).then_some(state);
        self.term_written = true;
        WriteBatch {
            entries,
            hard_state,
        }
    }

    fn take_committed(&mut self) -> Result<Vec<LogEntry>, StorageError> {
        let committed = if self.handed_out < self.replay_end {
            self.storage
                .entries(self.handed_out + 1, self.replay_end + 1, REPLAY_BYTES_MAX)?
        } else {
            std::mem::take(&mut self.durable)
        };
        for entry in &committed {
            if entry.index != self.handed_out + 1 {
                return Err(StorageError::Corrupt {
                    path: "log".to_owned(),
                    offset: 0,
                    reason: format!(
                        "entry {} was read after entry {}",
                        entry.index, self.handed_out
                    ),
                });
            }
            if entry.kind == EntryKind::Membership {
                return Err(StorageError::Refused {
                    reason: format!(
                        "entry {} changes the membership of a single voter",
                        entry.index
                    ),
                });
            }
            self.handed_out = entry.index;
        }
        Ok(committed)
    }

    fn has_ready(&self) -> bool {
        !self.term_written
            || !self.proposed.is_empty()
            || !self.durable.is_empty()
            || !self.barriers.is_empty()
            || self.handed_out < self.replay_end
    }

    fn check_works(&self) -> Result<(), ProposeError> {
        match self.failure {
            Some(_) => Err(ProposeError::Dropped {
                reason: "the storage has failed",
            }),
            None => Ok(()),
        }
    }
}

fn alone(id: NodeId) -> Configuration {
    Configuration {
        voters: vec![id],
        ..Configuration::default()
    }
}

impl Consensus for SingleVoterCore {
    fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.check_works()?;
        if data.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::Dropped {
                reason: "larger than a message may be",
            });
        }
        if self.writing_bytes > 0 && self.writing_bytes + data.len() > UNCOMMITTED_BYTES_MAX {
            return Err(ProposeError::Dropped {
                reason: "too much is uncommitted",
            });
        }
        self.writing_bytes += data.len();
        self.last_index += 1;
        self.proposed.push(LogEntry {
            index: self.last_index,
            term: self.term,
            kind: EntryKind::Command,
            data,
        });
        Ok(())
    }

    fn step(&mut self, from: NodeId, _message: &[u8]) -> Result<(), StepError> {
        Err(StepError::Malformed {
            from,
            reason: "a single voter has no peers".to_owned(),
        })
    }

    fn step_snapshot(
        &mut self,
        from: NodeId,
        message: &[u8],
        _meta: &SnapshotMeta,
    ) -> Result<(), StepError> {
        self.step(from, message)
    }

    fn tick(&mut self) {}

    fn barrier(&mut self, barrier: u64) -> Result<(), ProposeError> {
        self.check_works()?;
        self.barriers.push((barrier, self.commit));
        Ok(())
    }

    fn change_membership(&mut self, _changes: &[MembershipChange]) -> Result<(), ProposeError> {
        Err(ProposeError::InvalidMembershipChange {
            reason: "a single voter takes no other members".to_owned(),
        })
    }

    fn transfer_leadership(&mut self, to: NodeId) -> Result<(), ProposeError> {
        if to == self.id {
            return Ok(());
        }
        Err(ProposeError::InvalidMembershipChange {
            reason: format!("node {to} is not a voter"),
        })
    }

    fn campaign(&mut self) {}

    fn ready(&mut self) -> Option<Ready> {
        if self.failure.is_some() || !self.has_ready() {
            return None;
        }
        let committed = match self.take_committed() {
            Ok(committed) => committed,
            Err(error) => {
                self.failure = Some(error);
                return None;
            }
        };
        self.number += 1;
        Some(Ready {
            number: self.number,
            write: self.take_write(),
            committed,
            barriers: std::mem::take(&mut self.barriers),
            ..Ready::default()
        })
    }

    fn persisted(&mut self, number: u64) {
        assert!(number <= self.number, "write {number} was never given out");
        self.persisted = self.persisted.max(number);
        while self
            .writing
            .front()
            .is_some_and(|&(write, _)| write <= self.persisted)
        {
            if let Some((_, entry)) = self.writing.pop_front() {
                self.writing_bytes -= entry.data.len();
                self.commit = entry.index;
                self.durable.push(entry);
            }
        }
    }

    fn applied(&mut self, index: u64) {
        assert!(
            index <= self.handed_out,
            "entry {index} was never given out as committed"
        );
    }

    fn snapshot_sent(&mut self, _to: NodeId, _arrived: bool) {}

    fn unreachable(&mut self, _to: NodeId) {}

    fn status(&self) -> ConsensusStatus {
        ConsensusStatus {
            role: Role::Leader,
            term: self.term,
            leader: Some(self.id),
            commit: self.commit,
            last_index: self.last_index,
            leads_with_commit: true,
            transferring: false,
        }
    }

    fn configuration(&self) -> Configuration {
        alone(self.id)
    }

    fn progress(&self) -> Vec<PeerProgress> {
        Vec::new()
    }

    fn failure(&self) -> Option<StorageError> {
        self.failure.clone()
    }
}

//! The calls of [`Consensus`], in its order: what is asked of raft-rs and when.
//!
//! How each thing is done stands in the parent and the leaves. The invariant: every call that can make
//! raft-rs draw a new election timeout ends with the timeout pinned, and a core that has failed does
//! nothing.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::EntryType;
use raft::{Changer, SnapshotStatus, StateRole};

use super::{RaftCore, convert, membership};
use crate::NodeId;
use crate::consensus::{
    Consensus, ConsensusStatus, MembershipChange, PeerProgress, ProposeError, Ready, Role,
    StepError,
};
use crate::storage::{Configuration, SnapshotMeta, StorageError};

impl Consensus for RaftCore {
    fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.check_leads()?;
        self.append_proposal(EntryType::EntryNormal, data)
    }

    fn step(&mut self, from: NodeId, message: &[u8]) -> Result<(), StepError> {
        self.step_message(from, message, None)
    }

    fn step_snapshot(
        &mut self,
        from: NodeId,
        message: &[u8],
        meta: &SnapshotMeta,
    ) -> Result<(), StepError> {
        self.step_message(from, message, Some(meta))
    }

    fn tick(&mut self) {
        if self.has_failed() {
            return;
        }
        let raft = &self.node.raft;
        let elects =
            !self.leads() && raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if !elects || self.may_campaign() {
            self.node.tick();
            self.hurry_on();
        }
        let applied = self.node.raft.raft_log.applied;
        self.node.mut_store().follow_compaction(applied);
        self.pin_election_timeout();
    }

    fn barrier(&mut self, barrier: u64) -> Result<(), ProposeError> {
        self.check_leads()?;
        if !self.node.raft.commit_to_current_term() {
            return Err(ProposeError::NoCommitInTerm);
        }
        if self.node.raft.pending_read_count() >= self.options.barriers_max {
            return Err(ProposeError::Dropped {
                reason: "too many barriers wait",
            });
        }
        self.node.read_index(self.barrier_context(barrier).to_vec());
        self.pin_election_timeout();
        Ok(())
    }

    fn change_membership(&mut self, changes: &[MembershipChange]) -> Result<(), ProposeError> {
        self.check_leads()?;
        if self.node.raft.has_pending_conf() || !self.configuration.voters_outgoing.is_empty() {
            return Err(ProposeError::MembershipChangeInProgress);
        }
        let change = membership::plan(&self.configuration, changes)?;
        let mut changer = Changer::new(self.node.raft.prs());
        let applicable = match change.enter_joint() {
            Some(auto_leave) => changer.enter_joint(auto_leave, change.get_changes()),
            None => changer.simple(change.get_changes()),
        };
        let invalid = |reason: String| ProposeError::InvalidMembershipChange { reason };
        applicable.map_err(|error| invalid(error.to_string()))?;
        let data = change
            .write_to_bytes()
            .map_err(|error| invalid(error.to_string()))?;
        self.append_proposal(EntryType::EntryConfChangeV2, data.into())
    }

    fn transfer_leadership(&mut self, to: NodeId) -> Result<(), ProposeError> {
        self.check_leads()?;
        if !self.configuration.voters.contains(&to) {
            return Err(ProposeError::InvalidMembershipChange {
                reason: format!("node {to} is not a voter"),
            });
        }
        self.node.transfer_leader(to.as_u64());
        self.pin_election_timeout();
        Ok(())
    }

    fn campaign(&mut self) {
        if self.has_failed() || self.leads() || !self.node.raft.promotable() || !self.may_campaign()
        {
            return;
        }
        // It reports nothing but what a local message may do wrong.
        let _ = self.node.campaign();
        self.pin_election_timeout();
    }

    fn ready(&mut self) -> Option<Ready> {
        if self.has_failed() || (!self.node.has_ready() && self.outbox.is_empty()) {
            return None;
        }
        let mut raft_ready = self.node.ready();
        if self.has_failed() {
            return None;
        }
        self.number = raft_ready.number();
        let mut ready = Ready {
            number: self.number,
            ..Ready::default()
        };
        self.take_write(&mut raft_ready, &mut ready);
        for message in raft_ready.take_messages() {
            self.outbox.push_eager(message);
        }
        for message in raft_ready.take_persisted_messages() {
            self.outbox.push_after_write(message);
        }
        self.outbox.drain_into(&mut ready);
        ready.barriers = self.confirmed_barriers(&mut raft_ready);
        ready.committed = raft_ready
            .take_committed_entries()
            .into_iter()
            .map(convert::entry_from_raft)
            .collect();
        self.handed_out = ready
            .committed
            .last()
            .map_or(self.handed_out, |entry| entry.index);
        self.node.advance_append_async(raft_ready);
        if let Some(configuration) = self.apply_memberships(&ready.committed) {
            ready.configuration = Some(configuration);
        }
        self.pin_election_timeout();
        Some(ready)
    }

    fn persisted(&mut self, number: u64) {
        assert!(number <= self.number, "write {number} was never given out");
        if self.has_failed() || number <= self.persisted {
            return;
        }
        self.persisted = number;
        self.node.mut_store().persisted(number);
        self.node.on_persist_ready(number);
        self.outbox.persisted(number);
        while let Some(&(write, index)) = self.installing.front() {
            if write > number {
                break;
            }
            // What was installed is applied: it stands for every entry up to its index.
            self.applied = self.applied.max(index);
            self.installing.pop_front();
        }
        self.pass_on_applied();
        self.pin_election_timeout();
    }

    fn applied(&mut self, index: u64) {
        assert!(
            index <= self.handed_out,
            "entry {index} was never given out as committed"
        );
        if self.has_failed() {
            return;
        }
        self.applied = self.applied.max(index);
        self.pass_on_applied();
        self.pin_election_timeout();
    }

    fn snapshot_sent(&mut self, to: NodeId, arrived: bool) {
        let status = if arrived {
            SnapshotStatus::Finish
        } else {
            SnapshotStatus::Failure
        };
        if !self.has_failed() {
            self.node.report_snapshot(to.as_u64(), status);
        }
    }

    fn unreachable(&mut self, to: NodeId) {
        if !self.has_failed() {
            self.node.report_unreachable(to.as_u64());
        }
    }

    fn disconnected(&mut self, peer: NodeId) {
        if !self.has_failed() {
            self.unreachable(peer);
            self.follow_disconnection(peer);
            self.pin_election_timeout();
        }
    }

    fn status(&self) -> ConsensusStatus {
        let raft = &self.node.raft;
        let role = match raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if raft.promotable() => Role::Follower,
            StateRole::Follower => Role::Learner,
        };
        ConsensusStatus {
            role,
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            last_index: raft.raft_log.last_index(),
            leads_with_commit: role == Role::Leader && raft.commit_to_current_term(),
            transferring: raft.lead_transferee.is_some(),
        }
    }

    fn configuration(&self) -> Configuration {
        self.configuration.clone()
    }

    fn progress(&self) -> Vec<PeerProgress> {
        if !self.leads() {
            return Vec::new();
        }
        let peers = self.node.raft.prs().iter().filter_map(|(&id, progress)| {
            let node = NodeId::new(id).filter(|&node| node != self.id)?;
            Some(PeerProgress {
                node,
                matched: progress.matched,
                recently_active: progress.recent_active,
            })
        });
        let mut progress: Vec<PeerProgress> = peers.collect();
        progress.sort_unstable_by_key(|peer| peer.node);
        progress
    }

    fn failure(&self) -> Option<StorageError> {
        self.node.store().failure()
    }

    fn snapshot_wanted(&self) -> Option<u64> {
        self.node.store().snapshot_wanted().filter(|_| self.leads())
    }
}

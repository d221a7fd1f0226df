//! What must hold after every turn of every node, one file for each.
//!
//! An invariant is fed with what was [observed](Turn) and remembers what it needs; it knows neither nodes
//! nor the simulation, so that a broken observation can be given to it by hand. Each costs a few
//! look-ups in a turn: what has not changed is not looked at again.

mod bounded_queues;
mod certain_sessions_live;
mod commit_never_regresses;
mod commits_own_term;
mod durable_before_committed;
mod election_safety;
mod ephemerals_of_live_sessions;
mod exactly_once;
mod leader_completeness;
mod log_matching;
mod no_former_life;
mod one_holder;
mod one_membership;
mod stalled_leaders_expire_nobody;
mod state_machine_safety;
mod tokens_grow;

use std::collections::BTreeMap;
use std::time::Duration;

use super::disk::{Appended, DurableLog};
use crate::consensus::Role;
use crate::ids::{SessionId, Zxid};
use crate::node::QueueDepths;
use crate::replica::{AppliedEntry, AppliedWrite};
use crate::storage::Configuration;
use crate::testing::oracle::Violation;

/// A node after a turn.
pub(super) struct Turn<'a> {
    pub(super) node: u64,
    /// Which start of the node it is: what is only in memory begins anew with each.
    pub(super) boot: u32,
    /// By its own monotonic clock.
    pub(super) clock: Duration,
    /// The entry as of which it was no member yet, where it has joined.
    pub(super) joined_as_of: Option<u64>,
    /// The longest time between two turns that is no stall.
    pub(super) stall: Duration,
    pub(super) role: Role,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) last_index: u64,
    pub(super) applied_index: u64,
    pub(super) zxid: Zxid,
    /// The majorities that decide, before the turn or after it: one of these sets of voters in each.
    pub(super) voters: &'a [Vec<u64>],
    /// Who takes part, as of the applied index; and as far as the consensus core knows.
    pub(super) members: &'a Configuration,
    pub(super) core_members: &'a Configuration,
    pub(super) entries: &'a [AppliedEntry],
    pub(super) writes: &'a [AppliedWrite],
    /// Of the tree alone, after every turn.
    pub(super) tree_digest: u64,
    /// Of the whole state; only now and then, and then on every node as of the same zxids.
    pub(super) digest: Option<u64>,
    /// Who owns ephemerals, and who is a session; empty where neither can have changed.
    pub(super) owners: &'a [SessionId],
    pub(super) sessions: &'a [SessionId],
    /// Sessions attached here that can't have expired, by this node's clock.
    pub(super) certain: &'a [SessionId],
    /// Sessions that have expired, as it has applied.
    pub(super) expired: &'a [SessionId],
    /// Silent sessions whose end it has proposed, with their timeouts.
    pub(super) proposed_to_expire: &'a [(SessionId, Duration)],
    /// What each node's disk holds.
    pub(super) disks: &'a BTreeMap<u64, &'a DurableLog>,
    pub(super) queues: QueueDepths,
}

type Check = Result<(), Violation>;

/// All invariants.
#[derive(Default)]
pub(super) struct Invariants {
    bounded_queues: bounded_queues::BoundedQueues,
    certain_sessions_live: certain_sessions_live::CertainSessionsLive,
    commits_own_term: commits_own_term::CommitsOwnTerm,
    commit_never_regresses: commit_never_regresses::CommitNeverRegresses,
    durable_before_committed: durable_before_committed::DurableBeforeCommitted,
    election_safety: election_safety::ElectionSafety,
    ephemerals: ephemerals_of_live_sessions::EphemeralsOfLiveSessions,
    exactly_once: exactly_once::ExactlyOnce,
    leader_completeness: leader_completeness::LeaderCompleteness,
    log_matching: log_matching::LogMatching,
    no_former_life: no_former_life::NoFormerLife,
    one_holder: one_holder::OneHolder,
    one_membership: one_membership::OneMembership,
    stalled_leaders: stalled_leaders_expire_nobody::StalledLeadersExpireNobody,
    state_machine_safety: state_machine_safety::StateMachineSafety,
    tokens_grow: tokens_grow::TokensGrow,
}

impl Invariants {
    /// A node has made a turn.
    pub(super) fn on_turn(&mut self, turn: &Turn<'_>) -> Check {
        self.election_safety.on_turn(turn)?;
        self.commit_never_regresses.on_turn(turn)?;
        self.commits_own_term.on_turn(turn)?;
        self.state_machine_safety.on_turn(turn)?;
        self.one_membership.on_turn(turn)?;
        self.no_former_life.on_turn(turn)?;
        self.durable_before_committed.on_turn(turn)?;
        self.leader_completeness.on_turn(turn)?;
        self.exactly_once.on_turn(turn)?;
        self.ephemerals.on_turn(turn)?;
        self.stalled_leaders.on_turn(turn)?;
        self.certain_sessions_live.on_turn(turn)?;
        self.bounded_queues.on_turn(turn)
    }

    /// A node has made entries durable.
    pub(super) fn on_appended(&mut self, node: u64, appended: &[Appended]) -> Check {
        self.log_matching.on_appended(node, appended)
    }

    /// A guard was obtained.
    pub(super) fn on_guard(&mut self, lock: &str, token: u64) -> Check {
        self.tokens_grow.on_guard(lock, token)
    }

    /// These guards, by lock and token, say at this moment that they are held.
    pub(super) fn on_held(&mut self, held: &[(&str, u64)]) -> Check {
        self.one_holder.on_held(held)
    }
}

/// For the invariants' own tests: turns of a cluster in which nothing is wrong.
#[cfg(test)]
mod observed {
    use super::*;

    pub(super) struct Observed {
        pub(super) voters: Vec<Vec<u64>>,
        pub(super) entries: Vec<AppliedEntry>,
        pub(super) writes: Vec<AppliedWrite>,
        pub(super) owners: Vec<SessionId>,
        pub(super) sessions: Vec<SessionId>,
        pub(super) certain: Vec<SessionId>,
        pub(super) expired: Vec<SessionId>,
        pub(super) proposed_to_expire: Vec<(SessionId, Duration)>,
        pub(super) members: Configuration,
        pub(super) core_members: Configuration,
        pub(super) disks: BTreeMap<u64, DurableLog>,
    }

    impl Default for Observed {
        fn default() -> Observed {
            Observed {
                voters: vec![vec![1, 2, 3]],
                entries: Vec::new(),
                writes: Vec::new(),
                owners: Vec::new(),
                sessions: Vec::new(),
                certain: Vec::new(),
                expired: Vec::new(),
                proposed_to_expire: Vec::new(),
                members: Configuration::default(),
                core_members: Configuration::default(),
                disks: (1..=3).map(|id| (id, DurableLog::of(0, &[1; 9]))).collect(),
            }
        }
    }

    impl Observed {
        /// Lets an invariant see a turn of node 1 as a follower of term 1, changed by `change`.
        pub(super) fn turn(
            &self,
            change: impl FnOnce(&mut Turn<'_>),
            see: impl FnOnce(&Turn<'_>) -> Check,
        ) -> Check {
            let disks = self.disks.iter().map(|(&id, log)| (id, log)).collect();
            let mut turn = Turn {
                node: 1,
                boot: 1,
                clock: Duration::from_secs(1),
                joined_as_of: None,
                stall: Duration::from_millis(200),
                role: Role::Follower,
                term: 1,
                commit: 9,
                last_index: 9,
                applied_index: 9,
                zxid: Zxid(9),
                voters: &self.voters,
                members: &self.members,
                core_members: &self.core_members,
                entries: &self.entries,
                writes: &self.writes,
                tree_digest: 0,
                digest: None,
                owners: &self.owners,
                sessions: &self.sessions,
                certain: &self.certain,
                expired: &self.expired,
                proposed_to_expire: &self.proposed_to_expire,
                disks: &disks,
                queues: QueueDepths::default(),
            };
            change(&mut turn);
            see(&turn)
        }
    }

    /// Asserts that the check has found this.
    #[track_caller]
    pub(super) fn found(check: Check, promise: &str) {
        assert_eq!(check.map_err(|violation| violation.promise), Err(promise));
    }
}

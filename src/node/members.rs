//! Who takes part in a cluster, in a host's words.

use crate::consensus::Role;
use crate::ids::NodeId;
use crate::replica::Replica;
use crate::storage::Configuration;

/// Who takes part in the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Members {
    /// Those whose majority decides, sorted.
    pub voters: Vec<NodeId>,
    /// Those who get the log without a vote, sorted.
    pub learners: Vec<NodeId>,
    /// While a change is half done (joint consensus): the old voters, whose majority is needed as well.
    pub voters_outgoing: Vec<NodeId>,
}

/// A member, as another one sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The node.
    pub id: NodeId,
    /// Whether it has a vote.
    pub is_voter: bool,
    /// The last entry of the log known to be durable there. Only the leader knows.
    pub matched_index: Option<u64>,
    /// How many entries of the leader's log it is not known to have. Only the leader knows.
    pub lag: Option<u64>,
    /// Whether it was not heard from for two election timeouts. Only the leader knows.
    pub is_silent: Option<bool>,
}

impl From<Configuration> for Members {
    fn from(configuration: Configuration) -> Members {
        Members {
            voters: configuration.voters,
            learners: configuration.learners,
            voters_outgoing: configuration.voters_outgoing,
        }
    }
}

impl Members {
    /// Each member with what is known of it here.
    pub(super) fn statuses(&self, replica: &Replica) -> Vec<MemberStatus> {
        let status = replica.consensus_status();
        let (progress, last_index) = (replica.progress(), status.last_index);
        let leads = status.role == Role::Leader;
        let mut statuses: Vec<MemberStatus> = self
            .voters
            .iter()
            .chain(&self.voters_outgoing)
            .map(|&id| (id, true))
            .chain(self.learners.iter().map(|&id| (id, false)))
            .map(|(id, is_voter)| {
                let other = progress.iter().find(|other| other.node == id);
                // A leader's own progress is not among the others'.
                let matched_index = match other {
                    Some(other) => Some(other.matched),
                    None if leads => Some(last_index),
                    None => None,
                };
                MemberStatus {
                    id,
                    is_voter,
                    matched_index,
                    lag: matched_index.map(|matched| last_index.saturating_sub(matched)),
                    is_silent: leads.then(|| other.is_some() && replica.is_silent(id)),
                }
            })
            .collect();
        statuses.sort_unstable_by_key(|member| member.id);
        statuses.dedup_by_key(|member| member.id);
        statuses
    }
}

//! Changes of membership in raft-rs's encoding, and which of them make sense.
//!
//! Pure functions of the configuration in force. The invariant: a change that was planned here is one
//! that raft-rs applies.

use protobuf::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use crate::NodeId;
use crate::consensus::{MembershipChange, ProposeError};
use crate::proto;
use crate::storage::Configuration;

/// The most nodes that one proposal may name.
pub(super) const CHANGES_MAX: usize = 64;

/// Checks `changes` against the configuration in force and gives them raft-rs's form: a joint change
/// where there is more than one, which is left by itself.
pub(super) fn plan(
    configuration: &Configuration,
    changes: &[MembershipChange],
) -> Result<ConfChangeV2, ProposeError> {
    let invalid = |reason: String| ProposeError::InvalidMembershipChange { reason };
    if changes.is_empty() || changes.len() > CHANGES_MAX {
        return Err(invalid(format!(
            "{} changes at once, allowed are 1 to {CHANGES_MAX}",
            changes.len()
        )));
    }
    let mut voters = configuration.voters.clone();
    let mut named = Vec::with_capacity(changes.len());
    let mut change = ConfChangeV2::default();
    for step in changes {
        let (node, kind) = match *step {
            MembershipChange::AddLearner(node) => (node, ConfChangeType::AddLearnerNode),
            MembershipChange::AddVoter(node) => (node, ConfChangeType::AddNode),
            MembershipChange::Remove(node) => (node, ConfChangeType::RemoveNode),
        };
        if named.contains(&node) {
            return Err(invalid(format!("node {node} is named twice")));
        }
        named.push(node);
        check_step(configuration, step).map_err(invalid)?;
        voters.retain(|&voter| voter != node);
        if kind == ConfChangeType::AddNode {
            voters.push(node);
        }
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = node.as_u64();
        change.mut_changes().push(single);
    }
    if voters.is_empty() {
        return Err(invalid("no voter would be left".to_owned()));
    }
    Ok(change)
}

/// The change in the data of an entry of the log. Empty data leaves a joint configuration.
pub(super) fn decode(data: &[u8]) -> Result<ConfChangeV2, String> {
    proto::check_shape::<ConfChangeV2>(data)
        .map_err(|error| format!("a change of membership: {error}"))?;
    let change = ConfChangeV2::parse_from_bytes(data)
        .map_err(|error| format!("a change of membership: {error}"))?;
    let known = change.unknown_fields.fields.is_none()
        && change
            .get_changes()
            .iter()
            .all(|single| single.unknown_fields.fields.is_none());
    if !known
        || change.get_changes().len() > CHANGES_MAX
        || change
            .get_changes()
            .iter()
            .any(|single| single.node_id == 0)
    {
        return Err(
            "a change of membership with unknown fields, too many changes or node 0".to_owned(),
        );
    }
    Ok(change)
}

fn check_step(configuration: &Configuration, step: &MembershipChange) -> Result<(), String> {
    match *step {
        MembershipChange::AddLearner(node) if configuration.learners.contains(&node) => {
            Err(format!("node {node} is a learner already"))
        }
        MembershipChange::AddVoter(node) if configuration.voters.contains(&node) => {
            Err(format!("node {node} is a voter already"))
        }
        MembershipChange::Remove(node) if !configuration.is_member(node) => {
            Err(format!("node {node} is not a member"))
        }
        _ => Ok(()),
    }
}

/// Whether `node` alone decides every vote.
pub(super) fn is_sole_voter(configuration: &Configuration, node: NodeId) -> bool {
    configuration.voters == [node]
        && configuration
            .voters_outgoing
            .iter()
            .all(|&voter| voter == node)
}

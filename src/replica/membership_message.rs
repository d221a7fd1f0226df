//! What nodes say to each other of who takes part, and its form on the wire.
//!
//! Decoding checks every field; what a message leads to stands in `membership`.

use crate::error::Error;
use crate::ids::{ClusterId, NodeId};
use crate::proto::records;
use crate::proto::{self, RecordError};
use crate::storage::Configuration;

use super::message::{configuration, configuration_record};

/// The longest name of a cluster, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 1024;

/// The most nodes that one change names.
const RECONFIGURATION_MAX: usize = 64;

/// A change of who votes that happens in one step (joint consensus; Raft's dissertation, section 4.3): the
/// cluster goes from one set of voters to another, and no other is ever in force. At most 64 nodes are
/// named, each once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reconfiguration {
    pub(super) promoted: Vec<NodeId>,
    pub(super) demoted: Vec<NodeId>,
    pub(super) removed: Vec<NodeId>,
}

impl Reconfiguration {
    /// One that changes nothing yet.
    pub fn new() -> Reconfiguration {
        Reconfiguration::default()
    }

    /// And this learner gets a vote.
    #[must_use]
    pub fn promote(mut self, learner: NodeId) -> Reconfiguration {
        self.promoted.push(learner);
        self
    }

    /// And this voter becomes a learner.
    #[must_use]
    pub fn demote(mut self, voter: NodeId) -> Reconfiguration {
        self.demoted.push(voter);
        self
    }

    /// And this node is taken out, a voter or a learner.
    #[must_use]
    pub fn remove(mut self, node: NodeId) -> Reconfiguration {
        self.removed.push(node);
        self
    }

    /// Whether it names nobody.
    pub fn is_empty(&self) -> bool {
        self.named().next().is_none()
    }

    fn named(&self) -> impl Iterator<Item = NodeId> + '_ {
        let lists = [&self.promoted, &self.demoted, &self.removed];
        lists.into_iter().flatten().copied()
    }

    /// Whether it is a change at all, whoever the members are; else why not.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut named: Vec<NodeId> = self.named().take(RECONFIGURATION_MAX + 1).collect();
        if named.is_empty() || named.len() > RECONFIGURATION_MAX {
            return Err(format!(
                "a change names 1 to {RECONFIGURATION_MAX} nodes, not {}",
                self.named().count()
            ));
        }
        named.sort_unstable();
        match named.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(twice) => Err(format!("node {} is named twice", twice[0])),
            None => Ok(()),
        }
    }

    /// Whether each part of it is so already.
    fn parts<'a>(&'a self, members: &'a Configuration) -> impl Iterator<Item = bool> + 'a {
        let promoted = self
            .promoted
            .iter()
            .map(|node| members.voters.contains(node));
        let demoted = self
            .demoted
            .iter()
            .map(|node| members.learners.contains(node));
        let removed = self.removed.iter().map(|node| !members.is_member(*node));
        promoted.chain(demoted).chain(removed)
    }

    pub(super) fn is_so(&self, members: &Configuration) -> bool {
        self.parts(members).all(|is_so| is_so)
    }

    pub(super) fn is_partly_so(&self, members: &Configuration) -> bool {
        self.parts(members).any(|is_so| is_so)
    }

    /// What can't be done, as it is so already or its node is no member.
    pub(super) fn contradicts(&self, members: &Configuration) -> Option<Error> {
        let already = |node: &NodeId, what: &str| Error::BadArguments {
            reason: format!("node {node} is a {what} already"),
        };
        let mut promoted = self.promoted.iter();
        if let Some(node) = promoted.find(|node| members.voters.contains(node)) {
            return Some(already(node, "voter"));
        }
        let mut demoted = self.demoted.iter();
        if let Some(node) = demoted.find(|node| members.learners.contains(node)) {
            return Some(already(node, "learner"));
        }
        let mut needed = self.named();
        let stranger = needed.find(|node| !members.is_member(*node))?;
        Some(Error::NotAMember { node: stranger })
    }
}

/// What an operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MembershipRequest {
    /// Let a node have the log.
    AddLearner(NodeId),
    /// Give a learner a vote.
    Promote(NodeId),
    /// Make a voter a learner.
    Demote(NodeId),
    /// Take a node out.
    Remove(NodeId),
    /// Give a learner the place of a voter, in one step.
    Replace { old: NodeId, new: NodeId },
    /// Several of these, in one step.
    Reconfigure(Reconfiguration),
    /// Make another voter the leader.
    Transfer(NodeId),
}

impl MembershipRequest {
    /// Whether `node` is no member any more when it is done.
    pub(super) fn removes(&self, node: NodeId) -> bool {
        match self {
            MembershipRequest::Remove(old) | MembershipRequest::Replace { old, .. } => *old == node,
            MembershipRequest::Reconfigure(change) => change.removed.contains(&node),
            _ => false,
        }
    }
}

/// A request on its way to the leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct MembershipAsk {
    /// The asking node's number for it.
    pub id: u64,
    /// It was asked before, and may have been carried out.
    pub repeated: bool,
    pub request: MembershipRequest,
}

/// The leader's answer: who takes part now, or why nothing was changed.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct MembershipReply {
    pub id: u64,
    pub outcome: Result<Configuration, Error>,
}

/// A node that knows no more than its cluster's name asks for the rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Join {
    /// Random: tells the answer to this start of the node from others.
    pub nonce: u64,
    pub name: String,
    pub node: NodeId,
}

/// The answer to a [`Join`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct JoinReply {
    pub nonce: u64,
    pub node: NodeId,
    pub outcome: JoinOutcome,
}

/// What a node needs to know that joins a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Welcome {
    pub cluster: ClusterId,
    /// The last log entry that the leader had applied. What is known of this node as of an earlier one is of
    /// a former life under the same id.
    pub as_of: u64,
}

/// What a node is told that asks to join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum JoinOutcome {
    /// It is no member yet, and may be made one.
    Welcome(Welcome),
    /// The cluster has another name.
    OtherName,
    /// It is a member, so it once had a disk: one that has lost it must not come back as if nothing
    /// had been promised.
    Member,
}

fn numbers(nodes: Vec<NodeId>) -> Vec<u64> {
    nodes.into_iter().map(NodeId::as_u64).collect()
}

fn nodes(numbers: &[u64]) -> Result<Vec<NodeId>, RecordError> {
    if numbers.len() > RECONFIGURATION_MAX {
        return Err(RecordError::new(format!(
            "a change of membership names more than {RECONFIGURATION_MAX} nodes"
        )));
    }
    numbers.iter().map(|&number| proto::node(number)).collect()
}

impl MembershipAsk {
    pub(super) fn into_record(self) -> records::MembershipRecord {
        let mut record = records::MembershipRecord {
            id: self.id,
            repeated: self.repeated,
            ..Default::default()
        };
        let (kind, node) = match self.request {
            MembershipRequest::AddLearner(node) => (1, Some(node)),
            MembershipRequest::Promote(node) => (2, Some(node)),
            MembershipRequest::Remove(node) => (3, Some(node)),
            MembershipRequest::Replace { old, new } => {
                record.successor = new.as_u64();
                (4, Some(old))
            }
            MembershipRequest::Transfer(node) => (5, Some(node)),
            MembershipRequest::Demote(node) => (6, Some(node)),
            MembershipRequest::Reconfigure(change) => {
                record.promoted = numbers(change.promoted);
                record.demoted = numbers(change.demoted);
                record.removed = numbers(change.removed);
                (7, None)
            }
        };
        record.kind = kind;
        record.node = node.map_or(0, NodeId::as_u64);
        record
    }

    pub(super) fn from_record(
        record: &records::MembershipRecord,
    ) -> Result<MembershipAsk, RecordError> {
        let node = || proto::node(record.node);
        let request = match record.kind {
            1 => MembershipRequest::AddLearner(node()?),
            2 => MembershipRequest::Promote(node()?),
            3 => MembershipRequest::Remove(node()?),
            4 => MembershipRequest::Replace {
                old: node()?,
                new: proto::node(record.successor)?,
            },
            5 => MembershipRequest::Transfer(node()?),
            6 => MembershipRequest::Demote(node()?),
            7 => MembershipRequest::Reconfigure(Reconfiguration {
                promoted: nodes(&record.promoted)?,
                demoted: nodes(&record.demoted)?,
                removed: nodes(&record.removed)?,
            }),
            kind => {
                return Err(RecordError::new(format!(
                    "a change of membership of kind {kind}"
                )));
            }
        };
        Ok(MembershipAsk {
            id: record.id,
            repeated: record.repeated,
            request,
        })
    }
}

impl MembershipReply {
    pub(super) fn into_record(self) -> records::MembershipReplyRecord {
        let mut record = records::MembershipReplyRecord {
            id: self.id,
            ..Default::default()
        };
        let mut refuse = |outcome, node: NodeId| {
            record.outcome = outcome;
            record.node = node.as_u64();
        };
        match self.outcome {
            Ok(members) => record.set_members(configuration_record(&members)),
            Err(Error::ReconfigInProgress) => record.outcome = 1,
            Err(Error::LearnerBehind {
                node,
                entries,
                limit,
            }) => {
                refuse(2, node);
                (record.entries, record.limit) = (entries, limit);
            }
            Err(Error::NotAMember { node }) => refuse(3, node),
            Err(Error::LastVoter { node }) => refuse(4, node),
            Err(Error::MemberSilent { node }) => refuse(5, node),
            Err(Error::TransferFailed { to }) => refuse(6, to),
            Err(Error::OutcomeUnknown { .. }) => record.outcome = 8,
            Err(error) => {
                record.outcome = 7;
                record.reason = match error {
                    Error::BadArguments { reason } => reason,
                    other => other.to_string(),
                };
            }
        }
        record
    }

    pub(super) fn from_record(
        mut record: records::MembershipReplyRecord,
    ) -> Result<MembershipReply, RecordError> {
        let node = || proto::node(record.node);
        let error = match record.outcome {
            0 => None,
            1 => Some(Error::ReconfigInProgress),
            2 => Some(Error::LearnerBehind {
                node: node()?,
                entries: record.entries,
                limit: record.limit,
            }),
            3 => Some(Error::NotAMember { node: node()? }),
            4 => Some(Error::LastVoter { node: node()? }),
            5 => Some(Error::MemberSilent { node: node()? }),
            6 => Some(Error::TransferFailed { to: node()? }),
            7 => Some(Error::BadArguments {
                reason: record.take_reason(),
            }),
            8 => Some(Error::OutcomeUnknown {
                reason: "a part of the change is so, as others may have made it",
            }),
            other => {
                return Err(RecordError::new(format!(
                    "an outcome of kind {other} of a change of membership"
                )));
            }
        };
        Ok(MembershipReply {
            id: record.id,
            outcome: match error {
                Some(error) => Err(error),
                None => Ok(configuration(record.take_members())?),
            },
        })
    }
}

impl Join {
    pub(super) fn into_record(self) -> records::JoinRecord {
        records::JoinRecord {
            nonce: self.nonce,
            name: self.name,
            node: self.node.as_u64(),
            ..Default::default()
        }
    }

    pub(super) fn from_record(mut record: records::JoinRecord) -> Result<Join, RecordError> {
        let name = record.take_name();
        if name.len() > NAME_BYTES_MAX {
            return Err(RecordError::new("a cluster's name is too long"));
        }
        Ok(Join {
            nonce: record.nonce,
            name,
            node: proto::node(record.node)?,
        })
    }
}

impl JoinReply {
    pub(super) fn into_record(self) -> records::JoinReplyRecord {
        let (outcome, cluster, as_of) = match self.outcome {
            JoinOutcome::Welcome(Welcome { cluster, as_of }) => (0, cluster, as_of),
            JoinOutcome::OtherName => (1, ClusterId(0), 0),
            JoinOutcome::Member => (2, ClusterId(0), 0),
        };
        records::JoinReplyRecord {
            nonce: self.nonce,
            node: self.node.as_u64(),
            cluster: cluster.0,
            outcome,
            as_of,
            ..Default::default()
        }
    }

    pub(super) fn from_record(record: &records::JoinReplyRecord) -> Result<JoinReply, RecordError> {
        Ok(JoinReply {
            nonce: record.nonce,
            node: proto::node(record.node)?,
            outcome: match record.outcome {
                0 => JoinOutcome::Welcome(Welcome {
                    cluster: ClusterId(record.cluster),
                    as_of: record.as_of,
                }),
                1 => JoinOutcome::OtherName,
                2 => JoinOutcome::Member,
                other => {
                    return Err(RecordError::new(format!(
                        "an answer of kind {other} to a join"
                    )));
                }
            },
        })
    }
}

//! Nodes that join: what the leader tells them, and how that gets there.

use std::time::Duration;

use super::barriers::Asker;
use super::membership_message::{Join, JoinOutcome, JoinReply, Welcome};
use super::{Output, PeerMessage, Replica};
use crate::ids::NodeId;
use crate::proto::Batch;
use crate::transport::Lane;

/// An entry that was proposed for a learner's question.
pub(super) struct Mark {
    /// Which question.
    nonce: u64,
    entry: u64,
    at: Duration,
}

impl Replica {
    /// Somebody would join. Only a leader that still leads knows for certain who is a member, so it is
    /// asked by whoever was; the answer comes back the same way, for the leader may not know the
    /// newcomer's address.
    pub(super) fn on_join(&mut self, from: NodeId, join: Join) {
        if self.leads() {
            let asker = Asker::Join { via: from, join };
            self.leadership.barriers.push(asker);
        } else if let Some(leader) = self.status.leader
            && from == join.node
        {
            self.send(leader, PeerMessage::Join(join));
        }
    }

    /// A quorum has confirmed that we lead. `index` was committed by then.
    pub(super) fn answer_join(&mut self, via: NodeId, join: &Join, index: u64) {
        if self.applied_index < index {
            // It asks again.
            return;
        }
        let outcome = if join.name != self.options.cluster_name {
            JoinOutcome::OtherName
        } else if !self.configuration.is_member(join.node) {
            self.welcome()
        } else if !self.is_awaited(join.node) {
            JoinOutcome::Member
        } else if self.would_have_heard(join.node) && self.has_marked(join) {
            self.welcome()
        } else {
            return;
        };
        let reply = JoinReply {
            nonce: join.nonce,
            node: join.node,
            outcome,
        };
        self.pass_join_reply(via, reply);
    }

    fn welcome(&self) -> JoinOutcome {
        JoinOutcome::Welcome(Welcome {
            cluster: self.options.cluster,
            as_of: self.applied_index,
        })
    }

    /// Whether an entry is applied that was proposed after this question had come; it is proposed here. Who is
    /// no member yet comes by such an entry, the one that adds it. A snapshot that has it is from after whatever
    /// the id was part of before: as a voter it may have promised things, before its vote was taken and
    /// its disk was lost.
    ///
    /// Anybody may ask, so there is one such entry for a learner in an election timeout at most.
    fn has_marked(&mut self, join: &Join) -> bool {
        let now = self.now.monotonic;
        match self.membership.marks.get(&join.node) {
            Some(mark) if mark.nonce == join.nonce => mark.entry <= self.applied_index,
            Some(mark) if now.saturating_sub(mark.at) < self.options.election_timeout => false,
            _ => {
                let mark = Batch {
                    time_ms: self.now.wall_ms,
                    rules: self.next_rules(),
                    requests: Vec::new(),
                };
                if self.core.propose(mark.encode()).is_ok() {
                    let mark = Mark {
                        nonce: join.nonce,
                        entry: self.core.status().last_index,
                        at: now,
                    };
                    self.membership.marks.insert(join.node, mark);
                }
                false
            }
        }
    }

    /// Whether a learner was added that may have yet to come: as far as this leader knows it has nothing.
    fn is_awaited(&self, node: NodeId) -> bool {
        self.configuration.learners.contains(&node) && self.has_nothing(node)
    }

    pub(super) fn on_join_reply(&mut self, reply: JoinReply) {
        if reply.node != self.options.id {
            self.pass_join_reply(reply.node, reply);
        }
    }

    fn pass_join_reply(&mut self, to: NodeId, reply: JoinReply) {
        let payload = PeerMessage::JoinReply(reply).encode(self.options.rules_max);
        self.outputs.push_back(if to == reply.node {
            Output::Welcome { to, payload }
        } else {
            let lane = Lane::Urgent;
            Output::Send { to, lane, payload }
        });
    }
}

//! Who takes part: what operators ask for, how the leader carries it out, and how a node learns that
//! it is no member any more.
//!
//! A request stays at the node where it was made until the leader has answered it, and is asked again
//! whenever it may be lost. The leader proposes at most one change at a time and answers when that is
//! applied. A repeated request may have been carried out by an earlier leader: where what it asks for
//! is so already, it is done. (Should another operator have undone it meanwhile, it is done again.)
//! The invariant: a request is answered with success only when the change was committed, and with an
//! error only when it was not begun; but a transfer of leadership that took too long may still succeed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::joining::Mark;
use super::membership_message::{
    MembershipAsk, MembershipReply, MembershipRequest, Reconfiguration,
};
use super::{Answer, Failure, NodeEvent, Output, PeerMessage, Replica, Ticket};
use crate::consensus::{MembershipChange, PeerProgress, ProposeError};
use crate::error::Error;
use crate::ids::NodeId;
use crate::storage::Configuration;

/// The most requests of this node's operators that may wait.
const ASKED_MAX: usize = 64;

/// The replica's bookkeeping of who takes part.
pub(super) struct Membership {
    asked: BTreeMap<u64, Asked>,
    next_id: u64,
    has_unsent: bool,
    /// The leader's one change, or transfer of leadership, under way.
    underway: Option<Underway>,
    /// Learners that have asked to join.
    pub(super) marks: BTreeMap<NodeId, Mark>,
    /// When each member was last heard from.
    heard: BTreeMap<NodeId, Duration>,
    /// When this node, should it hear nothing until then, asks whether it is a member still.
    inquire_at: Duration,
    /// This node was a member and is none any more.
    removed: bool,
}

/// A request of this node's.
struct Asked {
    ticket: Ticket,
    request: MembershipRequest,
    sent_at: Option<Duration>,
    /// It may have reached a leader.
    ever_sent: bool,
}

/// What the leader carries out.
struct Underway {
    from: NodeId,
    id: u64,
    /// Set for a transfer of leadership.
    transfer: Option<NodeId>,
}

/// What the leader makes of a request.
enum Plan {
    /// It is so already.
    Done,
    Refuse(Error),
    /// Not now; it will be asked again.
    Wait,
    Change(Vec<MembershipChange>),
    /// The leader itself is to have no vote any more: one of these has to do it.
    HandOver(Vec<NodeId>),
    Transfer(NodeId),
}

impl Membership {
    pub(super) fn new(boot_nonce: u32) -> Membership {
        Membership {
            asked: BTreeMap::new(),
            next_id: u64::from(boot_nonce) << 32,
            has_unsent: false,
            underway: None,
            marks: BTreeMap::new(),
            heard: BTreeMap::new(),
            inquire_at: Duration::ZERO,
            removed: false,
        }
    }

    /// Everything may be lost: ask again.
    pub(super) fn resend_all(&mut self) {
        for asked in self.asked.values_mut() {
            asked.sent_at = None;
            self.has_unsent = true;
        }
    }

    fn resend_sent_before(&mut self, deadline: Duration) {
        for asked in self.asked.values_mut() {
            if asked.sent_at.is_some_and(|at| at < deadline) {
                asked.sent_at = None;
                self.has_unsent = true;
            }
        }
    }
}

impl Replica {
    // ---- At the node that was asked --------------------------------------------------------------

    pub(super) fn ask_membership(&mut self, ticket: Ticket, request: MembershipRequest) {
        // Nobody has told it who leads, and nobody will before it is added.
        let node = self.options.id;
        if !self.is_member() {
            return self.answer(ticket, Answer::Failed(Error::NotAMember { node }));
        }
        if let MembershipRequest::Reconfigure(change) = &request
            && let Err(reason) = change.check()
        {
            return self.answer(ticket, Answer::Failed(Error::BadArguments { reason }));
        }
        let limit = ASKED_MAX;
        if self.membership.asked.len() >= limit {
            let queue = "changes of membership";
            return self.answer(ticket, Answer::Failed(Error::Overloaded { queue, limit }));
        }
        self.membership.next_id += 1;
        self.membership.asked.insert(
            self.membership.next_id,
            Asked {
                ticket,
                request,
                sent_at: None,
                ever_sent: false,
            },
        );
        self.membership.has_unsent = true;
    }

    /// Asks the leader for what it was not asked yet.
    pub(super) fn send_membership(&mut self) {
        if !self.membership.has_unsent {
            return;
        }
        let Some(leader) = self.status.leader else {
            return;
        };
        self.membership.has_unsent = false;
        let mut asks = Vec::new();
        for (&id, asked) in &mut self.membership.asked {
            if asked.sent_at.is_none() {
                asked.sent_at = Some(self.now.monotonic);
                asks.push(MembershipAsk {
                    id,
                    repeated: std::mem::replace(&mut asked.ever_sent, true),
                    request: asked.request.clone(),
                });
            }
        }
        for ask in asks {
            if leader == self.options.id {
                self.on_membership(leader, ask);
            } else {
                self.send(leader, PeerMessage::Membership(ask));
            }
        }
    }

    pub(super) fn on_membership_reply(&mut self, reply: MembershipReply) {
        let Some(asked) = self.membership.asked.remove(&reply.id) else {
            return;
        };
        if asked.request.removes(self.options.id) && reply.outcome.is_ok() {
            self.membership.removed = true;
        }
        let answer = match reply.outcome {
            Ok(members) => Answer::Members(members),
            Err(error) => Answer::Failed(error),
        };
        self.answer(asked.ticket, answer);
        self.leave_if_removed();
    }

    /// There is a new leader. A transfer is done when it is the one that was asked for.
    pub(super) fn notice_leader(&mut self) {
        self.membership.resend_all();
        let Some(leader) = self.status.leader else {
            return;
        };
        let done: Vec<u64> = self
            .membership
            .asked
            .iter()
            .filter(|(_, asked)| asked.request == MembershipRequest::Transfer(leader))
            .map(|(&id, _)| id)
            .collect();
        for id in done {
            let outcome = Ok(self.configuration.clone());
            self.on_membership_reply(MembershipReply { id, outcome });
        }
    }

    pub(super) fn tick_membership(&mut self) {
        let retry = self.options.election_timeout;
        let before = self.now.monotonic.saturating_sub(retry);
        self.membership.resend_sent_before(before);
        let given_up = match &self.membership.underway {
            Some(underway) if self.leads() && !self.status.transferring => underway.transfer,
            _ => None,
        };
        if let Some(to) = given_up {
            self.end_underway(Err(Error::TransferFailed { to }));
        }
        self.inquire_if_silent();
    }

    /// The node stops: what becomes of its requests.
    pub(super) fn end_membership(&mut self, stopped: &Error) {
        let me = self.options.id;
        for (_, asked) in std::mem::take(&mut self.membership.asked) {
            let done = asked.request.removes(me) && self.membership.removed;
            let answer = if done && self.is_so(&asked.request) {
                Answer::Members(self.configuration.clone())
            } else if asked.ever_sent {
                Answer::Failed(Error::OutcomeUnknown {
                    reason: "the node stopped",
                })
            } else {
                Answer::Failed(stopped.clone())
            };
            self.answer(asked.ticket, answer);
        }
    }

    // ---- At the leader -----------------------------------------------------------------------------

    pub(super) fn on_membership(&mut self, from: NodeId, ask: MembershipAsk) {
        // A change that an earlier leader began must be applied before anything is said of it: the one
        // who asks may have been promised it.
        if !self.leads()
            || !self.status.leads_with_commit
            || self.applied_index < self.leadership.commit_at_start
        {
            return;
        }
        if let Some(underway) = &self.membership.underway {
            let same = underway.from == from && underway.id == ask.id;
            if !same && !ask.repeated {
                self.reply_membership(from, ask.id, Err(Error::ReconfigInProgress));
            }
            return;
        }
        match self.plan(&ask) {
            Plan::Wait => {}
            Plan::Done => {
                let members = self.configuration.clone();
                self.reply_membership(from, ask.id, Ok(members));
            }
            Plan::Refuse(error) => self.reply_membership(from, ask.id, Err(error)),
            Plan::Change(changes) => self.propose_change(from, ask, &changes),
            Plan::HandOver(candidates) => {
                // Two who are to lose their votes could hand over to each other for ever: so another's wish
                // comes first, when it is asked again.
                if self.led_for() < self.silence_max() {
                    return;
                }
                if let Some(to) = self.successor(&candidates) {
                    // Whoever leads next is asked again.
                    let _ = self.core.transfer_leadership(to.node);
                    self.pump();
                }
            }
            Plan::Transfer(to) => match self.core.transfer_leadership(to) {
                Ok(()) => {
                    self.membership.underway = Some(Underway {
                        from,
                        id: ask.id,
                        transfer: Some(to),
                    });
                    self.pump();
                }
                Err(ProposeError::InvalidMembershipChange { reason }) => {
                    self.reply_membership(from, ask.id, Err(Error::BadArguments { reason }));
                }
                Err(_) => {}
            },
        }
    }

    fn propose_change(&mut self, from: NodeId, ask: MembershipAsk, changes: &[MembershipChange]) {
        match self.core.change_membership(changes) {
            Ok(()) => {
                self.membership.underway = Some(Underway {
                    from,
                    id: ask.id,
                    transfer: None,
                });
                self.pump();
            }
            Err(ProposeError::MembershipChangeInProgress) if !ask.repeated => {
                self.reply_membership(from, ask.id, Err(Error::ReconfigInProgress));
            }
            Err(ProposeError::InvalidMembershipChange { reason }) => {
                self.reply_membership(from, ask.id, Err(Error::BadArguments { reason }));
            }
            // Dropped, and certainly not begun: it is asked again.
            Err(_) => {}
        }
    }

    fn plan(&self, ask: &MembershipAsk) -> Plan {
        let members = &self.configuration;
        if !members.voters_outgoing.is_empty() {
            return if ask.repeated {
                Plan::Wait
            } else {
                Plan::Refuse(Error::ReconfigInProgress)
            };
        }
        let votes = |node: NodeId| members.voters.contains(&node);
        let learns = |node: NodeId| members.learners.contains(&node);
        // An earlier leader may have done it.
        let already = |what: String| {
            if ask.repeated {
                Plan::Done
            } else {
                Plan::Refuse(Error::BadArguments { reason: what })
            }
        };
        let me = self.options.id;
        match ask.request {
            MembershipRequest::AddLearner(node) if votes(node) || learns(node) => {
                already(format!("node {node} is a member already"))
            }
            MembershipRequest::AddLearner(node) => {
                Plan::Change(vec![MembershipChange::AddLearner(node)])
            }
            MembershipRequest::Promote(node) => {
                self.plan_change(&Reconfiguration::new().promote(node), ask.repeated)
            }
            MembershipRequest::Demote(node) => {
                self.plan_change(&Reconfiguration::new().demote(node), ask.repeated)
            }
            MembershipRequest::Remove(node) => {
                self.plan_change(&Reconfiguration::new().remove(node), ask.repeated)
            }
            MembershipRequest::Reconfigure(ref change) => self.plan_change(change, ask.repeated),
            MembershipRequest::Replace { old, new } if !members.is_member(old) && votes(new) => {
                already(format!("node {new} has node {old}'s place already"))
            }
            MembershipRequest::Replace { old, new } if votes(new) => {
                let reason = format!("node {new} is a voter and can't replace node {old}");
                Plan::Refuse(Error::BadArguments { reason })
            }
            MembershipRequest::Replace { old, .. } if !votes(old) => {
                Plan::Refuse(Error::NotAMember { node: old })
            }
            MembershipRequest::Replace { old, new } => {
                let change = Reconfiguration::new().promote(new).remove(old);
                self.plan_change(&change, ask.repeated)
            }
            MembershipRequest::Transfer(to) if to == me => Plan::Done,
            MembershipRequest::Transfer(to) if !members.is_member(to) => {
                Plan::Refuse(Error::NotAMember { node: to })
            }
            MembershipRequest::Transfer(to) if !votes(to) => Plan::Refuse(Error::BadArguments {
                reason: format!("node {to} is a learner and can't lead"),
            }),
            MembershipRequest::Transfer(to) if self.is_silent(to) => {
                Plan::Refuse(Error::MemberSilent { node: to })
            }
            MembershipRequest::Transfer(to) => Plan::Transfer(to),
        }
    }

    /// Whether what is asked for is so, as of the applied index: for a request that was to remove this node
    /// it is all that can be known.
    fn is_so(&self, request: &MembershipRequest) -> bool {
        match request {
            MembershipRequest::Replace { new, .. } => self.configuration.voters.contains(new),
            MembershipRequest::Reconfigure(change) => change.is_so(&self.configuration),
            _ => true,
        }
    }

    /// What is to be done so that all of `change` is so, in one step.
    fn plan_change(&self, change: &Reconfiguration, repeated: bool) -> Plan {
        let members = &self.configuration;
        // An earlier leader may have done it, and then all of it.
        if repeated && change.is_so(members) {
            return Plan::Done;
        }
        if let Some(error) = change.contradicts(members) {
            return Plan::Refuse(if repeated && change.is_partly_so(members) {
                // It was done, and others have changed members since; or they did a part of it.
                let reason = "a part of the change is so, as others may have made it";
                Error::OutcomeUnknown { reason }
            } else {
                error
            });
        }
        let Reconfiguration {
            promoted,
            demoted,
            removed,
        } = change;
        let leaves = |node: &NodeId| demoted.contains(node) || removed.contains(node);
        let voters = members.voters.iter().copied();
        let staying: Vec<NodeId> = voters.filter(|node| !leaves(node)).collect();
        let leaving = members.voters.iter().find(|node| leaves(node));
        if let Some(&node) = leaving.filter(|_| staying.is_empty() && promoted.is_empty()) {
            return Plan::Refuse(Error::LastVoter { node });
        }
        for &node in promoted {
            match self.check_promotion(node) {
                Err(_) if repeated && self.may_have_caught_up(node) => return Plan::Wait,
                Err(error) => return Plan::Refuse(error),
                Ok(()) => {}
            }
        }
        if leaving.is_some()
            && let Err(error) = self.check_majority(staying.iter().chain(promoted).copied())
        {
            return Plan::Refuse(error);
        }
        // Whoever stays carries it out. Where nobody does, this leader leads until both majorities have it.
        if leaves(&self.options.id) && !staying.is_empty() {
            return Plan::HandOver(staying);
        }
        let removed = removed.iter().copied().map(MembershipChange::Remove);
        let demoted = demoted.iter().copied().map(MembershipChange::AddLearner);
        let promoted = promoted.iter().copied().map(MembershipChange::AddVoter);
        Plan::Change(removed.chain(demoted).chain(promoted).collect())
    }

    /// Whether the learner is near enough that the cluster needn't wait for it once it votes.
    fn check_promotion(&self, node: NodeId) -> Result<(), Error> {
        if !self.configuration.learners.contains(&node) {
            return Err(Error::NotAMember { node });
        }
        let entries = self.lag(node).unwrap_or(self.status.last_index);
        let limit = self.options.promotion_lag_max;
        // Before its first snapshot has come to it a learner has nothing, however short the log is.
        if entries > limit || self.has_nothing(node) {
            return Err(Error::LearnerBehind {
                node,
                entries,
                limit,
            });
        }
        if self.is_silent(node) {
            return Err(Error::MemberSilent { node });
        }
        Ok(())
    }

    /// Whether a majority is there of those who are to vote: otherwise the change could be decided, and
    /// nothing after it.
    fn check_majority(&self, voters: impl Iterator<Item = NodeId>) -> Result<(), Error> {
        let voters: Vec<NodeId> = voters.collect();
        let is_missing = |&&node: &&NodeId| node != self.options.id && self.would_have_heard(node);
        let missing: Vec<&NodeId> = voters.iter().filter(is_missing).collect();
        match missing.first() {
            Some(&&node) if missing.len() * 2 >= voters.len() => Err(Error::MemberSilent { node }),
            _ => Ok(()),
        }
    }

    /// Whether this leader, which may be new, has yet to learn how far a learner is that it has heard of.
    fn may_have_caught_up(&self, node: NodeId) -> bool {
        self.has_nothing(node) && !self.is_silent(node)
    }

    /// Whether a member is not known to have a single entry.
    pub(super) fn has_nothing(&self, node: NodeId) -> bool {
        let progress = self.core.progress();
        let found = progress.iter().find(|progress| progress.node == node);
        found.is_none_or(|found| found.matched == 0)
    }

    /// By how many entries a node is known to be behind this leader's log.
    fn lag(&self, node: NodeId) -> Option<u64> {
        let progress = self.core.progress();
        let found = progress.iter().find(|progress| progress.node == node)?;
        Some(self.status.last_index.saturating_sub(found.matched))
    }

    /// Whether a node was not heard from for two election timeouts.
    pub(crate) fn is_silent(&self, node: NodeId) -> bool {
        let heard = self.membership.heard.get(&node);
        let patience = self.silence_max();
        heard.is_none_or(|&at| self.now.monotonic.saturating_sub(at) > patience)
    }

    /// Whether this leader has led for long enough to have heard from a member that runs, and hasn't. One that
    /// has just begun has yet to hear from those whose votes it didn't need.
    pub(super) fn would_have_heard(&self, node: NodeId) -> bool {
        self.is_silent(node) && self.led_for() > self.silence_max()
    }

    /// For how long this leader has led.
    fn led_for(&self) -> Duration {
        self.now.monotonic.saturating_sub(self.leadership.began_at)
    }

    fn silence_max(&self) -> Duration {
        self.options.election_timeout * 2
    }

    /// The one that is furthest among those of these voters that are there.
    pub(super) fn successor(&self, among: &[NodeId]) -> Option<PeerProgress> {
        let progress = self.core.progress();
        let others = progress
            .iter()
            .filter(|other| among.contains(&other.node) && !self.is_silent(other.node));
        let best = others.max_by_key(|other| (other.matched, std::cmp::Reverse(other.node)));
        best.copied()
    }

    fn reply_membership(
        &mut self,
        to: NodeId,
        id: u64,
        outcome: std::result::Result<Configuration, Error>,
    ) {
        let reply = MembershipReply { id, outcome };
        if to == self.options.id {
            self.on_membership_reply(reply);
        } else {
            self.send(to, PeerMessage::MembershipReply(reply));
        }
    }

    fn end_underway(&mut self, outcome: std::result::Result<Configuration, Error>) {
        if let Some(Underway { from, id, .. }) = self.membership.underway.take() {
            self.reply_membership(from, id, outcome);
        }
    }

    /// Our term is over: whoever leads next is asked again.
    pub(super) fn forget_underway(&mut self) {
        self.membership.underway = None;
        self.membership.marks.clear();
    }

    /// Somebody was heard from.
    pub(super) fn hear(&mut self, from: NodeId) {
        self.membership.inquire_at = self.now.monotonic + self.silence_max();
        // Strangers are not remembered, however many there are.
        if self.configuration.is_member(from) {
            self.membership.heard.insert(from, self.now.monotonic);
        }
    }

    // ---- The configuration ---------------------------------------------------------------------------

    /// A change was applied, or a snapshot has brought another configuration.
    pub(super) fn set_configuration(&mut self, configuration: Configuration) {
        let before = std::mem::replace(&mut self.configuration, configuration);
        if before == self.configuration {
            return;
        }
        let members = self.configuration.clone();
        self.effects
            .events
            .push(NodeEvent::MembershipChanged(members.clone()));
        let me = self.options.id;
        if before.is_member(me) && !members.is_member(me) {
            self.membership.removed = true;
        }
        self.membership
            .heard
            .retain(|&node, _| members.is_member(node));
        self.forget_rules_of_strangers();
        let change = self
            .membership
            .underway
            .as_ref()
            .is_some_and(|underway| underway.transfer.is_none());
        if change && self.leads() && members.voters_outgoing.is_empty() {
            self.end_underway(Ok(members));
        }
    }

    /// Stops a node that was removed, once it has said what it still had to say.
    pub(super) fn leave_if_removed(&mut self) {
        if self.membership.removed && !self.failed {
            self.failed = true;
            self.outputs.push_back(Output::Fail(Failure::Removed));
        }
    }

    /// Tells a node that behaves as a member but is none, as far as we have applied the log.
    pub(super) fn tell_stranger(&mut self, from: NodeId) {
        if !self.configuration.is_member(from)
            && self.configuration.is_member(self.options.id)
            && self.status.leader != Some(from)
        {
            let index = self.applied_index;
            self.send(from, PeerMessage::NotMember { index });
        }
    }

    /// A node that was removed without having applied that hears from nobody any more. A voter asks for
    /// votes then, and is told; a learner, or a voter that has yet to apply its promotion, would keep
    /// silent for ever, and so asks.
    fn inquire_if_silent(&mut self) {
        if self.leads() || !self.is_member() || self.now.monotonic < self.membership.inquire_at {
            return;
        }
        self.membership.inquire_at = self.now.monotonic + self.silence_max();
        let members = &self.configuration;
        let mut asked: Vec<NodeId> = [&members.voters, &members.voters_outgoing, &members.learners]
            .into_iter()
            .flatten()
            .copied()
            .filter(|&node| node != self.options.id)
            .collect();
        asked.sort_unstable();
        asked.dedup();
        for node in asked {
            self.send(node, PeerMessage::Inquiry);
        }
    }

    /// A member says that we were none as of `index`. Where we have not come that far ourselves, and were
    /// a member before, we were removed in between: the entry that says so never comes to a node that is
    /// no member any more.
    pub(super) fn on_not_member(&mut self, from: NodeId, index: u64) {
        if index > self.applied_index
            && self.configuration.is_member(from)
            && self.configuration.is_member(self.options.id)
        {
            self.membership.removed = true;
            self.leave_if_removed();
        }
    }
}

//! What an operator asks of a cluster, at any of its nodes.

use super::Pending;
use super::pending::Convert;
use crate::ids::NodeId;
use crate::node::{Call, Command, Members, MembershipRequest, Node, NodeHandle, Reconfiguration};

/// Who takes part, and who leads. Each of these goes to the leader by itself, whichever node it is
/// called on; it is answered when the change is committed and applied, and is asked again under the
/// next leader where one falls meanwhile.
///
/// An error says that nothing was changed, but for [`Error::OutcomeUnknown`](crate::Error), which is
/// left for a node that stops in between, and for [`Error::TransferFailed`](crate::Error), after which the
/// other may take over late. Changes happen one at a time: a second one meanwhile is
/// answered [`Error::ReconfigInProgress`](crate::Error), and can be tried again. A node that waits to be
/// added itself answers [`Error::NotAMember`](crate::Error).
impl Node {
    /// Lets a node have the log, without a vote: it serves reads, watches and sessions, and no write
    /// waits for it. The node is started with [`NodeBuilder::join`](crate::NodeBuilder::join), before or soon
    /// after.
    ///
    /// # Errors
    /// [`Error::BadArguments`](crate::Error) where it is a member already.
    pub fn add_learner(&self, node: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::AddLearner(node))
    }

    /// Gives a learner a vote.
    ///
    /// # Errors
    /// [`Error::LearnerBehind`](crate::Error) where it lacks more entries than
    /// [`NodeBuilder::promotion_lag_max`](crate::NodeBuilder::promotion_lag_max) of the leader allows, or
    /// where a new leader doesn't know yet how many it has; [`Error::MemberSilent`](crate::Error);
    /// [`Error::NotAMember`](crate::Error); [`Error::BadArguments`](crate::Error) where it is a voter already.
    pub fn promote(&self, learner: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Promote(learner))
    }

    /// Takes a voter's vote: it stays as a learner. A leader hands leadership over first.
    ///
    /// # Errors
    /// [`Error::LastVoter`](crate::Error), [`Error::NotAMember`](crate::Error);
    /// [`Error::BadArguments`](crate::Error) where it is a learner already;
    /// [`Error::MemberSilent`](crate::Error) as with [`Node::remove`].
    pub fn demote(&self, voter: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Demote(voter))
    }

    /// Takes a node out. A leader hands leadership over first. The removed node stops when it learns of
    /// it ([`Role::Removed`](crate::Role)); it comes back only with an empty storage, by joining.
    ///
    /// # Errors
    /// [`Error::LastVoter`](crate::Error), [`Error::NotAMember`](crate::Error);
    /// [`Error::MemberSilent`](crate::Error) where so many of the other voters are silent that the cluster
    /// could decide nothing any more: the one that it names has to come back, or to be removed first.
    pub fn remove(&self, node: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Remove(node))
    }

    /// Gives a learner the place of a voter, in one step (joint consensus): there are never more nor
    /// fewer voters.
    ///
    /// # Errors
    /// As [`Node::promote`] and [`Node::remove`].
    pub fn replace(&self, old: NodeId, learner: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Replace { old, new: learner })
    }

    /// Changes who votes in one step (joint consensus): all of it happens, or nothing. A leader whose vote
    /// is to be taken hands leadership over first, to a voter that stays.
    ///
    /// # Errors
    /// As [`Node::promote`], [`Node::demote`] and [`Node::remove`]; [`Error::BadArguments`](crate::Error) also
    /// where nobody is named, somebody twice, or more than 64;
    /// [`Error::OutcomeUnknown`](crate::Error) where others have changed the same nodes while it was asked again.
    pub fn reconfigure(&self, change: Reconfiguration) -> Pending<Members> {
        self.ask(MembershipRequest::Reconfigure(change))
    }

    /// Makes another voter the leader.
    ///
    /// # Errors
    /// [`Error::TransferFailed`](crate::Error) where it didn't take over within an election timeout;
    /// [`Error::MemberSilent`](crate::Error), [`Error::NotAMember`](crate::Error);
    /// [`Error::BadArguments`](crate::Error) where it has no vote.
    pub fn transfer_leadership(&self, to: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Transfer(to))
    }

    /// Leaves the cluster for good: hands leadership over where this node leads, takes the node out,
    /// and stops it. Its sessions live on, and can be attached on another node.
    ///
    /// # Errors
    /// [`Error::LastVoter`](crate::Error): the last one doesn't leave, it is shut down.
    pub fn leave(&self) -> Pending<Members> {
        self.remove(self.id())
    }

    fn ask(&self, request: MembershipRequest) -> Pending<Members> {
        self.handle().ask(request)
    }
}

impl NodeHandle {
    /// See [`Node::add_learner`].
    ///
    /// # Errors
    /// As there.
    pub fn add_learner(&self, node: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::AddLearner(node))
    }

    /// See [`Node::promote`].
    ///
    /// # Errors
    /// As there.
    pub fn promote(&self, learner: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Promote(learner))
    }

    /// See [`Node::demote`].
    ///
    /// # Errors
    /// As there.
    pub fn demote(&self, voter: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Demote(voter))
    }

    /// See [`Node::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove(&self, node: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Remove(node))
    }

    /// See [`Node::replace`].
    ///
    /// # Errors
    /// As there.
    pub fn replace(&self, old: NodeId, learner: NodeId) -> Pending<Members> {
        self.ask(MembershipRequest::Replace { old, new: learner })
    }

    /// See [`Node::reconfigure`].
    ///
    /// # Errors
    /// As there.
    pub fn reconfigure(&self, change: Reconfiguration) -> Pending<Members> {
        self.ask(MembershipRequest::Reconfigure(change))
    }

    pub(crate) fn ask(&self, request: MembershipRequest) -> Pending<Members> {
        let (call, answer) = Call::new();
        self.shared().command(Command::Membership { request, call });
        Pending::waiting(answer, Convert::Members(|members| members))
    }
}

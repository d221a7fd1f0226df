//! What a peer's message must be in the light of this core's state, before raft-rs takes it.
//!
//! [`inspect`] has looked at the message alone. Here: what proves that this node has forgotten
//! something, and what an honest peer would not say to a core in this state, because raft-rs asserts
//! that it doesn't happen.

use bytes::Bytes;
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::{RaftCore, convert, inspect};
use crate::NodeId;
use crate::consensus::StepError;
use crate::storage::SnapshotMeta;

/// What is to be done with a message that nothing is wrong with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Admission {
    Step,
    /// Lost, as it could have been on the wire.
    Drop,
}

impl RaftCore {
    /// `arrived` is what the snapshot stands for that has come with the message, where one has.
    pub(super) fn step_message(
        &mut self,
        from: NodeId,
        bytes: &[u8],
        arrived: Option<&SnapshotMeta>,
    ) -> Result<(), StepError> {
        if self.has_failed() {
            return Ok(());
        }
        let mut message = inspect::decode(from, self.id, bytes)?;
        let announced = (message.get_msg_type() == MessageType::MsgSnapshot)
            .then(|| convert::meta_from_raft(message.get_snapshot().get_metadata()));
        if announced.as_ref() != arrived {
            let reason = format!("it speaks of snapshot {announced:?}, what came is {arrived:?}");
            return Err(inspect::malformed(from, reason));
        }
        if self.admit(from, &message)? == Admission::Step {
            if self.is_stranger() && message.get_msg_type() == MessageType::MsgHeartbeat {
                // It is answered, so that its sender comes to send a snapshot; but that confirms no barrier.
                message.context = Bytes::new();
            }
            // It reports answers of nodes that aren't members any more: they are of no use.
            let _ = self.node.step(message);
            self.pin_election_timeout();
        }
        Ok(())
    }

    /// Whether this node is no member, as far as it knows: it joins, and has nothing yet. A leader or a
    /// candidate that has yet to apply the removal of a former life under the same id takes it for that one, whose
    /// votes and acknowledgements it doesn't remember. So until it has a snapshot that names it, it votes for
    /// nobody and confirms nobody's leadership.
    fn is_stranger(&self) -> bool {
        !self.configuration.is_member(self.id)
    }

    fn admit(&self, from: NodeId, message: &Message) -> Result<Admission, StepError> {
        let asks_for_vote = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        if asks_for_vote && self.is_stranger() {
            return Ok(Admission::Drop);
        }
        if message.term < self.node.raft.term {
            // Outdated: raft-rs answers or drops it without believing a word.
            return Ok(Admission::Step);
        }
        match message.get_msg_type() {
            MessageType::MsgHeartbeat => self.admit_heartbeat(message),
            MessageType::MsgSnapshot => self.admit_snapshot(from, message),
            MessageType::MsgAppendResponse => self.admit_append_response(from, message),
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
                self.admit_vote(from, message)
            }
            MessageType::MsgTimeoutNow if !self.may_campaign() => Ok(Admission::Drop),
            _ => Ok(Admission::Step),
        }
    }

    /// A heartbeat's commit index is one that the leader knows to be durable here.
    fn admit_heartbeat(&self, message: &Message) -> Result<Admission, StepError> {
        let last_index = self.node.raft.raft_log.last_index();
        if message.commit > last_index {
            if self.is_stranger() {
                // It waits to be added and holds nothing yet. A message that comes late may speak of what it
                // held under this id before it was removed.
                return Ok(Admission::Drop);
            }
            return Err(StepError::Amnesia {
                acknowledged: message.commit,
                last_index,
            });
        }
        Ok(Admission::Step)
    }

    /// What is committed here is committed everywhere (state machine safety, Raft paper, section 5.4.3).
    fn admit_snapshot(&self, from: NodeId, message: &Message) -> Result<Admission, StepError> {
        let log = &self.node.raft.raft_log;
        let (index, term) = (
            message.get_snapshot().get_metadata().index,
            message.get_snapshot().get_metadata().term,
        );
        let held = log.term(index).unwrap_or(0);
        if index <= log.committed && held != 0 && held != term {
            return Err(inspect::malformed(
                from,
                format!(
                    "its snapshot has term {term} at entry {index}, committed here with term {held}"
                ),
            ));
        }
        Ok(Admission::Step)
    }

    /// Nobody holds what this leader never sent.
    fn admit_append_response(
        &self,
        from: NodeId,
        message: &Message,
    ) -> Result<Admission, StepError> {
        let raft = &self.node.raft;
        let last_index = raft.raft_log.last_index();
        if raft.state == StateRole::Leader
            && message.term == raft.term
            && !message.reject
            && message.index > last_index
        {
            return Err(inspect::malformed(
                from,
                format!(
                    "it acknowledges entry {}, the log of this leader ends at {last_index}",
                    message.index
                ),
            ));
        }
        Ok(Admission::Step)
    }

    /// Requests for votes leave when all before them is durable, so a grant that comes earlier answers
    /// nothing; raft-rs asserts on what it wins by that the log is durable. A pre-vote names no term of
    /// this node's, so an earlier round's answer may come late; a vote does.
    fn admit_vote(&self, from: NodeId, message: &Message) -> Result<Admission, StepError> {
        let raft = &self.node.raft;
        if message.reject {
            return Ok(Admission::Step);
        }
        match (message.get_msg_type(), raft.state) {
            (MessageType::MsgRequestPreVoteResponse, StateRole::PreCandidate)
                if !self.log_is_durable() =>
            {
                Ok(Admission::Drop)
            }
            (MessageType::MsgRequestVoteResponse, StateRole::Candidate)
                if message.term > raft.term
                    || !self.term_is_durable()
                    || !self.log_is_durable() =>
            {
                Err(inspect::malformed(
                    from,
                    "it grants a vote that it wasn't asked for",
                ))
            }
            // Else it is asked for, or comes late and raft-rs ignores it.
            _ => Ok(Admission::Step),
        }
    }
}

//! Messages on their way out, each held until the write that it speaks of is durable.
//!
//! It knows numbers of writes, not what is in them. The invariant: a message that waits for write `n`
//! is released by `persisted(n)` or later, and the messages to one node keep their order where they
//! wait for the same write.

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::convert;
use crate::NodeId;
use crate::consensus::{Ready, SnapshotSend};

/// The messages of one core.
#[derive(Default, Debug)]
pub(super) struct Outbox {
    /// The last write known to be durable.
    persisted: u64,
    /// The last write that changed the term or the vote. A vote, and all that a leader says, speaks
    /// of it: a leader that forgets its own vote could lead the same term twice.
    term_write: u64,
    /// The last write with anything in it.
    last_write: u64,
    /// What waits, with the write that it waits for.
    held: Vec<(u64, Message)>,
    /// What waits no longer.
    released: Vec<Message>,
}

impl Outbox {
    /// Write `number` has something in it; `term` says whether the term or the vote is.
    pub(super) fn written(&mut self, number: u64, changes: Changes) {
        self.last_write = number;
        if changes == Changes::TermOrVote {
            self.term_write = number;
        }
    }

    /// Takes a message that must not leave before this node's term is durable.
    pub(super) fn push_eager(&mut self, message: Message) {
        self.push(self.term_write, message);
    }

    /// Takes a message that acknowledges what was written.
    pub(super) fn push_after_write(&mut self, message: Message) {
        // An answer to a heartbeat acknowledges the term and no entry: reads needn't wait for the disk.
        let wait = match message.get_msg_type() {
            MessageType::MsgHeartbeatResponse => self.term_write,
            _ => self.last_write,
        };
        self.push(wait, message);
    }

    /// The writes up to `number` are durable.
    pub(super) fn persisted(&mut self, number: u64) {
        self.persisted = number;
        for (wait, message) in std::mem::take(&mut self.held) {
            self.push(wait, message);
        }
    }

    /// Whether the last term and vote are durable.
    pub(super) fn term_is_durable(&self) -> bool {
        self.persisted >= self.term_write
    }

    pub(super) fn is_empty(&self) -> bool {
        self.released.is_empty()
    }

    /// Encodes what is released into `ready`, by receiver: raft-rs's own order is that of a hash map.
    pub(super) fn drain_into(&mut self, ready: &mut Ready) {
        let mut messages = std::mem::take(&mut self.released);
        messages.sort_by_key(|message| message.to);
        for message in messages {
            let Some(to) = NodeId::new(message.to) else {
                continue;
            };
            let Ok(bytes) = message.write_to_bytes() else {
                continue;
            };
            if message.get_msg_type() == MessageType::MsgSnapshot {
                let meta = convert::meta_from_raft(message.get_snapshot().get_metadata());
                ready.snapshots.push(SnapshotSend {
                    to,
                    meta,
                    message: bytes.into(),
                });
            } else {
                ready.messages.push((to, bytes.into()));
            }
        }
    }

    fn push(&mut self, wait: u64, message: Message) {
        if wait <= self.persisted {
            self.released.push(message);
        } else {
            self.held.push((wait, message));
        }
    }
}

/// What a write changes besides what it appends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Changes {
    /// The term or the vote.
    TermOrVote,
    /// Neither.
    LogOnly,
}

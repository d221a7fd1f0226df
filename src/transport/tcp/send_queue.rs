//! What waits to be sent to one peer on one lane.
//!
//! It knows messages and no socket. The invariant: it holds at most so many messages and so many bytes,
//! and taking one in never fails and never waits: something makes room.

use std::collections::VecDeque;

use crate::transport::{Lane, Message};

/// How much a queue may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    pub messages_max: usize,
    pub bytes_max: usize,
}

/// The queue.
#[derive(Default, Debug)]
pub(super) struct SendQueue {
    messages: VecDeque<Message>,
    bytes: usize,
    dropped: u64,
}

impl SendQueue {
    /// Takes a message in. Where the queue is full, the oldest make room on the urgent lane: a peer
    /// that comes back wants the latest heartbeat, not the first. On the bulk lane the new one is
    /// dropped: the pieces of a transfer are of use in their order alone. Returns how many were dropped.
    pub(super) fn push(&mut self, message: Message, lane: Lane, bounds: Bounds) -> u64 {
        let bytes = message.encoded_len();
        let full = |queue: &SendQueue| {
            queue.messages.len() + 1 > bounds.messages_max || queue.bytes + bytes > bounds.bytes_max
        };
        if lane == Lane::Bulk && full(self) && !self.messages.is_empty() {
            self.dropped += 1;
            return 1;
        }
        let before = self.dropped;
        while full(self) && self.drop_oldest() {}
        self.bytes += bytes;
        self.messages.push_back(message);
        self.dropped - before
    }

    /// Drops the oldest until the queue is within `bounds`; a single message may stay, however large.
    /// Returns how many were dropped.
    pub(super) fn shrink(&mut self, bounds: Bounds) -> u64 {
        let before = self.dropped;
        while self.messages.len() > 1
            && (self.messages.len() > bounds.messages_max || self.bytes > bounds.bytes_max)
        {
            self.drop_oldest();
        }
        self.dropped - before
    }

    fn drop_oldest(&mut self) -> bool {
        let oldest = self.messages.pop_front();
        if let Some(message) = &oldest {
            self.bytes -= message.encoded_len();
            self.dropped += 1;
        }
        oldest.is_some()
    }

    /// Moves messages of about `bytes` to `out`, at least one if there is any.
    pub(super) fn take(&mut self, bytes: usize, out: &mut Vec<Message>) {
        let mut taken = 0;
        while taken < bytes
            && let Some(message) = self.messages.pop_front()
        {
            taken += message.encoded_len();
            self.bytes -= message.encoded_len();
            out.push(message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many were dropped since this was asked last.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::HEADER_BYTES;
    use crate::{ClusterId, NodeId};

    const BOUNDS: Bounds = Bounds {
        messages_max: 4,
        bytes_max: 4 * (HEADER_BYTES + 10),
    };

    fn message(number: u8, length: usize) -> Message {
        let one = NodeId::new(1).unwrap();
        Message::new(ClusterId(1), one, one, vec![number; length])
    }

    fn pushed(lane: Lane, lengths: &[usize]) -> (Vec<u8>, u64) {
        let mut queue = SendQueue::default();
        let mut told = 0;
        for (number, length) in lengths.iter().enumerate() {
            told += queue.push(message(number as u8, *length), lane, BOUNDS);
        }
        let (mut out, dropped) = (Vec::new(), queue.take_dropped());
        assert_eq!(told, dropped);
        queue.take(usize::MAX, &mut out);
        assert!(queue.is_empty() && queue.bytes == 0);
        (out.iter().map(|m| m.payload()[0]).collect(), dropped)
    }

    #[test]
    fn the_oldest_urgent_messages_make_room() {
        assert_eq!(pushed(Lane::Urgent, &[10; 6]), (vec![2, 3, 4, 5], 2));
        assert_eq!(pushed(Lane::Urgent, &[10, 10, 10, 40]), (vec![1, 2, 3], 1));
    }

    #[test]
    fn the_newest_bulk_messages_are_dropped() {
        assert_eq!(pushed(Lane::Bulk, &[10; 6]), (vec![0, 1, 2, 3], 2));
    }

    #[test]
    fn one_message_is_taken_however_large() {
        for lane in [Lane::Urgent, Lane::Bulk] {
            assert_eq!(pushed(lane, &[500]).0, vec![0]);
        }
        assert_eq!(pushed(Lane::Urgent, &[10, 500]).0, vec![1]);
    }

    #[test]
    fn shrinking_keeps_the_newest() {
        let mut queue = SendQueue::default();
        for number in 0..4 {
            assert_eq!(queue.push(message(number, 10), Lane::Urgent, BOUNDS), 0);
        }
        let bounds = Bounds {
            messages_max: 2,
            bytes_max: 10,
        };
        assert_eq!(queue.shrink(bounds), 3);
        let mut out = Vec::new();
        queue.take(1, &mut out);
        assert_eq!((out.len(), out[0].payload()[0]), (1, 3));
    }
}

//! Snapshots: when to take one, and their way to and from other nodes.

use std::collections::VecDeque;

use bytes::Bytes;

use super::message::{SnapshotAck, SnapshotChunk, TransferState};
use super::transfer::{Ended, Inbox, Outbox};
use super::{Failure, NodeEvent, Notice, Output, PeerMessage, ReceivedSnapshot, Replica, Staged};
use crate::consensus::SnapshotSend;
use crate::ids::NodeId;
use crate::state::Frozen;
use crate::storage::{SnapshotMeta, SnapshotWriter};

/// How many election timeouts without any answer end a transfer.
const PATIENCE: u32 = 20;

/// For how many snapshots of ours the log is kept for a member that is slow, but there. Whoever is further
/// behind gets a snapshot instead.
const SNAPSHOTS_KEPT_FOR: usize = 4;

/// How far the log is compacted. A follower that is sent a snapshot needs the log from there on when that has
/// arrived, and then some time to catch up: where the log was gone by then, it would get snapshot after
/// snapshot for ever. The invariant: the log isn't kept further back than a few snapshots.
#[derive(Debug, Default)]
struct Compaction {
    /// The last snapshots of ours, oldest first.
    published: VecDeque<u64>,
    /// The last entry that is gone.
    compacted: u64,
}

impl Compaction {
    fn last_published(&self) -> u64 {
        self.published.back().copied().unwrap_or(0)
    }

    /// A snapshot was published. Up to where the log may go, if members have got as far as `reached`;
    /// `kept` entries stay in any case.
    fn end(&mut self, snapshot: u64, kept: u64, reached: impl Iterator<Item = u64>) -> Option<u64> {
        self.published.push_back(snapshot);
        let mut oldest = 0;
        while self.published.len() > SNAPSHOTS_KEPT_FOR {
            oldest = self.published.pop_front().unwrap_or(oldest);
        }
        // Who has got less than the log still has is beyond help. The entry itself is kept for its term.
        let needed = reached.filter(|&index| index > self.compacted).min();
        let end = needed.map_or(snapshot, |needed| (needed - 1).max(oldest));
        let end = end.min(snapshot).saturating_sub(kept);
        if end <= self.compacted {
            return None;
        }
        self.compacted = end;
        Some(end)
    }
}

/// The replica's bookkeeping of snapshots.
pub(super) struct Snapshots {
    outbox: Outbox,
    inbox: Inbox,
    /// Bytes of entries applied since the last snapshot.
    pub log_bytes: u64,
    /// One is being written.
    taking: bool,
    /// That one is to be hastened, and it was said so.
    hastened: bool,
    /// What the last one begun stands for.
    taken_index: u64,
    /// A receiver has refused what it was sent: it needs one that is as new as this. 0 is nobody.
    least_index: u64,
    compaction: Compaction,
    /// Received and read, waiting for the core to accept it.
    received: Option<Box<ReceivedSnapshot>>,
}

impl Snapshots {
    pub(super) fn new(boot_nonce: u32) -> Snapshots {
        Snapshots {
            outbox: Outbox::new(boot_nonce),
            inbox: Inbox::default(),
            log_bytes: 0,
            taking: false,
            hastened: false,
            taken_index: 0,
            least_index: 0,
            compaction: Compaction::default(),
            received: None,
        }
    }
}

impl Replica {
    // ---- Our own --------------------------------------------------------------------------------

    pub(super) fn due_snapshot(&mut self) -> Option<(SnapshotMeta, Frozen)> {
        let due = self.snapshots.log_bytes >= self.options.snapshot_log_bytes;
        // A follower that waits for a snapshot needs one that is newer than the published one.
        let wanted =
            || self.applied_index > self.snapshots.taken_index && self.is_snapshot_wanted();
        if self.snapshots.taking || !(due || wanted()) {
            return None;
        }
        let frozen = self.state.freeze()?;
        self.snapshots.taking = true;
        self.snapshots.hastened = false;
        self.snapshots.taken_index = self.applied_index;
        self.snapshots.log_bytes = 0;
        Some((self.applied_meta(), frozen))
    }

    fn is_snapshot_wanted(&self) -> bool {
        self.snapshots.least_index != 0 || self.core.snapshot_wanted().is_some()
    }

    /// Whether the snapshot that is being taken is to be hastened; true once for each. A follower waits for
    /// it, or the log outgrows it: the one after it has been due for as long as it takes to become due.
    pub(crate) fn hastens_snapshot(&mut self) -> bool {
        let overdue = || self.snapshots.log_bytes / 2 >= self.options.snapshot_log_bytes;
        let Snapshots {
            taking, hastened, ..
        } = self.snapshots;
        if !taking || hastened || !(overdue() || self.is_snapshot_wanted()) {
            return false;
        }
        self.snapshots.hastened = true;
        true
    }

    /// What a snapshot of what is applied stands for.
    pub(super) fn applied_meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            index: self.applied_index,
            term: self.applied_term,
            configuration: self.configuration.clone(),
        }
    }

    pub(super) fn on_snapshot_taken(&mut self, meta: SnapshotMeta, published: bool) {
        self.snapshots.taking = false;
        if !published {
            return;
        }
        if meta.index >= self.snapshots.least_index {
            self.snapshots.least_index = 0;
        }
        let progress = self.core.progress();
        let there = progress
            .iter()
            .filter(|member| !self.is_silent(member.node));
        let outbox = &self.snapshots.outbox;
        let reached: Vec<u64> = there
            .map(|member| outbox.index_to(member.node).unwrap_or(member.matched))
            .collect();
        let kept = self.options.log_entries_kept;
        let compaction = &mut self.snapshots.compaction;
        if let Some(index) = compaction.end(meta.index, kept, reached.into_iter()) {
            self.outputs.push_back(Output::Compact { index });
        }
    }

    // ---- To another node --------------------------------------------------------------------------

    pub(super) fn begin_transfer(&mut self, send: SnapshotSend) {
        let (to, index) = (send.to, send.meta.index);
        let notice = Notice::SendingSnapshot { to, index };
        self.effects.notices.push(notice);
        let (_, replaced) = self.snapshots.outbox.begin(send, self.now.monotonic);
        if let Some(transfer) = replaced {
            self.outputs.push_back(Output::EndRead { transfer });
        }
        self.read_on();
    }

    fn read_on(&mut self) {
        let reads = self.snapshots.outbox.reads();
        self.outputs
            .extend(reads.into_iter().map(Output::ReadSnapshot));
    }

    pub(super) fn on_snapshot_read(
        &mut self,
        transfer: u64,
        offset: u64,
        piece: Option<(u64, Bytes)>,
    ) {
        let Some((total_bytes, data)) = piece else {
            if let Some(ended) = self.snapshots.outbox.fail(transfer) {
                self.end_transfer(ended);
            }
            return;
        };
        if let Some((to, chunk)) = self
            .snapshots
            .outbox
            .chunk(transfer, offset, total_bytes, data)
        {
            self.send(to, PeerMessage::SnapshotChunk(chunk));
        }
    }

    pub(super) fn on_snapshot_ack(&mut self, from: NodeId, ack: SnapshotAck) {
        let now = self.now.monotonic;
        if let Some(ended) = self.snapshots.outbox.acknowledge(from, ack, now) {
            self.end_transfer(ended);
        }
        self.read_on();
    }

    fn end_transfer(&mut self, ended: Ended) {
        let Ended {
            transfer,
            to,
            arrived,
            least_index,
            ..
        } = ended;
        // What has yet to be applied here is refused again.
        let published = self.snapshots.compaction.last_published();
        if (published + 1..=self.applied_index).contains(&least_index) {
            self.snapshots.least_index = self.snapshots.least_index.max(least_index);
        }
        self.effects.notices.push(Notice::SnapshotSent {
            to,
            index: ended.index,
            bytes: ended.bytes,
            took: self.now.monotonic.saturating_sub(ended.begun_at),
            arrived,
        });
        self.outputs.push_back(Output::EndRead { transfer });
        self.core.snapshot_sent(to, arrived);
        self.pump();
    }

    pub(super) fn end_transfers(&mut self) {
        self.snapshots.least_index = 0;
        for transfer in self.snapshots.outbox.clear() {
            self.outputs.push_back(Output::EndRead { transfer });
        }
    }

    pub(super) fn tick_snapshots(&mut self) {
        let (now, retry) = (self.now.monotonic, self.options.election_timeout);
        for ended in self.snapshots.outbox.tick(now, retry, retry * PATIENCE) {
            self.end_transfer(ended);
        }
        self.read_on();
    }

    // ---- From another node ------------------------------------------------------------------------

    pub(super) fn on_snapshot_chunk(&mut self, from: NodeId, chunk: SnapshotChunk) {
        let least_index = self.options.joined_as_of;
        if chunk.meta.index < least_index {
            // Of a former life under our id: it would take us to our removal. Whoever sends it has yet to
            // apply that.
            let ack = SnapshotAck::refusal(chunk.transfer, least_index);
            return self.send(from, PeerMessage::SnapshotAck(ack));
        }
        match self.snapshots.inbox.chunk(from, chunk) {
            Ok(stage) => self.outputs.push_back(Output::StageSnapshot(stage)),
            Err(ack) => self.send(from, PeerMessage::SnapshotAck(ack)),
        }
    }

    pub(super) fn on_snapshot_staged(&mut self, transfer: u64, offset: u64, outcome: Staged) {
        match outcome {
            Staged::Underway => {
                if let Some((to, ack)) = self.snapshots.inbox.staged(transfer, offset) {
                    self.send(to, PeerMessage::SnapshotAck(ack));
                }
            }
            Staged::Failed => {
                if let Some((to, _)) = self.snapshots.inbox.finish(transfer) {
                    let ack = SnapshotAck::refusal(transfer, 0);
                    self.send(to, PeerMessage::SnapshotAck(ack));
                }
            }
            Staged::Whole(received) => {
                let Some((from, message)) = self.snapshots.inbox.finish(transfer) else {
                    return;
                };
                let found = received.state.rules();
                if found > self.rules.own {
                    return self.fail(Failure::Snapshot {
                        index: received.meta.index,
                        found,
                        known: self.rules.own,
                    });
                }
                let state = TransferState::Complete;
                let ack = SnapshotAck {
                    transfer,
                    offset,
                    state,
                };
                self.send(from, PeerMessage::SnapshotAck(ack));
                let meta = received.meta.clone();
                self.snapshots.received = Some(received);
                let stepped = self.core.step_snapshot(from, &message, &meta);
                self.stepped(stepped);
                // Where the core had no use for it (it was overtaken), it is dropped unpublished.
                self.snapshots.received = None;
            }
        }
    }

    /// The core has accepted a snapshot: its state is ours from now on. Returns what publishes it.
    pub(super) fn install(&mut self, meta: SnapshotMeta) -> Option<Box<dyn SnapshotWriter>> {
        let received = self.snapshots.received.take();
        let received = received
            .filter(|received| (received.meta.index, received.meta.term) == (meta.index, meta.term))
            .expect("the core accepts only the snapshot whose message was stepped");
        let ReceivedSnapshot { state, writer, .. } = *received;
        #[cfg(any(test, feature = "testing"))]
        let before = self.state.zxid();
        self.state.replace(state);
        #[cfg(any(test, feature = "testing"))]
        if let Some(witness) = &mut self.witness {
            witness.skipped = Some((before, self.state.zxid()));
        }
        self.effects.changes.clear();
        self.effects.replaced = true;
        self.applied_index = meta.index;
        self.applied_term = meta.term;
        self.effects
            .events
            .push(NodeEvent::SnapshotInstalled { index: meta.index });
        self.set_configuration(meta.configuration);
        self.snapshots.log_bytes = 0;
        self.settle_after_snapshot();
        Some(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_for_a_member_that_is_slow_but_no_further_back_than_a_few_snapshots() {
        let mut compaction = Compaction::default();
        let mut end =
            |snapshot, reached: &[u64]| compaction.end(snapshot, 10, reached.iter().copied());
        assert_eq!(end(1_000, &[1_000, 990]), Some(979));
        // One is being sent the snapshot at 1,000. When that has arrived it needs what follows.
        assert_eq!(end(2_000, &[2_000, 1_000]), Some(989));
        assert_eq!(end(3_000, &[3_000, 1_000]), None);
        // As far as it has caught up.
        assert_eq!(end(4_000, &[4_000, 2_500]), Some(2_489));
        assert_eq!(end(5_000, &[2_500]), None);
        assert_eq!(end(6_000, &[2_500]), None);
        // That is too far behind, and holds up nothing any more.
        assert_eq!(end(7_000, &[2_500]), Some(2_990));
        assert_eq!(end(8_000, &[2_500]), Some(7_990));
        assert_eq!(end(9_000, &[]), Some(8_990));
    }
}

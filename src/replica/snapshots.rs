//! Snapshots: when to take one, and their way to and from other nodes.

use bytes::Bytes;

use super::message::{SnapshotAck, SnapshotChunk, TransferState};
use super::transfer::{Ended, Inbox, Outbox};
use super::{Failure, NodeEvent, Output, PeerMessage, ReceivedSnapshot, Replica, Staged};
use crate::consensus::SnapshotSend;
use crate::ids::NodeId;
use crate::state::Frozen;
use crate::storage::{SnapshotMeta, SnapshotWriter};

/// How many election timeouts without any answer end a transfer.
const PATIENCE: u32 = 20;

/// The replica's bookkeeping of snapshots.
pub(super) struct Snapshots {
    outbox: Outbox,
    inbox: Inbox,
    /// Bytes of entries applied since the last snapshot.
    pub log_bytes: u64,
    /// One is being written.
    taking: bool,
    /// What the last one begun stands for.
    taken_index: u64,
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
            taken_index: 0,
            received: None,
        }
    }
}

impl Replica {
    // ---- Our own --------------------------------------------------------------------------------

    pub(super) fn due_snapshot(&mut self) -> Option<(SnapshotMeta, Frozen)> {
        let due = self.snapshots.log_bytes >= self.options.snapshot_log_bytes;
        // A follower that waits for a snapshot needs one that is newer than the published one.
        let wanted = || {
            self.applied_index > self.snapshots.taken_index && self.core.snapshot_wanted().is_some()
        };
        if self.snapshots.taking || !(due || wanted()) {
            return None;
        }
        let frozen = self.state.freeze()?;
        self.snapshots.taking = true;
        self.snapshots.taken_index = self.applied_index;
        self.snapshots.log_bytes = 0;
        Some((self.applied_meta(), frozen))
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
        if published {
            let index = meta.index.saturating_sub(self.options.log_entries_kept);
            if index > 0 {
                self.outputs.push_back(Output::Compact { index });
            }
        }
    }

    // ---- To another node --------------------------------------------------------------------------

    pub(super) fn begin_transfer(&mut self, send: SnapshotSend) {
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
        } = ended;
        self.outputs.push_back(Output::EndRead { transfer });
        self.core.snapshot_sent(to, arrived);
        self.pump();
    }

    pub(super) fn end_transfers(&mut self) {
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
                    let state = TransferState::Refused;
                    let ack = SnapshotAck {
                        transfer,
                        offset,
                        state,
                    };
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

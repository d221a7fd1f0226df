//! Snapshots on their way to and from other nodes, in bounded pieces.
//!
//! A sender keeps a window of pieces under way and goes back to what was last acknowledged when
//! nothing moves. A receiver takes the pieces in order and acknowledges what it has staged. Neither
//! holds more than a window in memory; heartbeats pass between the pieces.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::message::{SnapshotAck, SnapshotChunk, TransferState};
use crate::consensus::SnapshotSend;
use crate::ids::NodeId;
use crate::storage::SnapshotMeta;

/// The size of a piece, in bytes.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// How far a sender goes beyond what was acknowledged, in bytes.
const WINDOW_BYTES: u64 = 8 * CHUNK_BYTES as u64;

/// How much a receiver takes that isn't staged yet, in bytes: whatever a sender does, or however slow the
/// disk is, no more lies in memory. An honest sender's window fits.
const UNSTAGED_BYTES_MAX: u64 = 4 * WINDOW_BYTES;

/// A piece to be read from the storage, for a sender.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotRead {
    /// For which transfer.
    pub transfer: u64,
    /// Which snapshot it must be.
    pub meta: SnapshotMeta,
    /// From which byte on.
    pub offset: u64,
}

#[derive(Debug)]
struct Outgoing {
    to: NodeId,
    meta: SnapshotMeta,
    message: Bytes,
    /// Everything before this was staged by the receiver.
    acknowledged: u64,
    /// Everything before this was asked of the storage.
    requested: u64,
    /// Known once the first piece has been read.
    total_bytes: Option<u64>,
    progress_at: Duration,
    /// When the whole transfer last got anywhere, to give it up.
    alive_at: Duration,
    begun_at: Duration,
}

impl Outgoing {
    fn end(self, transfer: u64, arrived: bool) -> Ended {
        Ended {
            transfer,
            to: self.to,
            index: self.meta.index,
            bytes: self.total_bytes,
            begun_at: self.begun_at,
            arrived,
            least_index: 0,
        }
    }
}

/// How the transfers end that a sender has given up or finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub transfer: u64,
    pub to: NodeId,
    /// The last log entry that the snapshot includes.
    pub index: u64,
    /// Its length, where that was known.
    pub bytes: Option<u64>,
    pub begun_at: Duration,
    pub arrived: bool,
    /// What a receiver needs at least that has refused it; 0 says nothing.
    pub least_index: u64,
}

/// The snapshots that this node sends.
#[derive(Debug)]
pub(super) struct Outbox {
    next_transfer: u64,
    transfers: BTreeMap<u64, Outgoing>,
}

impl Outbox {
    pub(super) fn new(boot_nonce: u32) -> Outbox {
        Outbox {
            next_transfer: u64::from(boot_nonce) << 32,
            transfers: BTreeMap::new(),
        }
    }

    /// Begins to send; an earlier transfer to the same node ends.
    pub(super) fn begin(&mut self, send: SnapshotSend, now: Duration) -> (u64, Option<u64>) {
        let before = self
            .transfers
            .iter()
            .find(|(_, outgoing)| outgoing.to == send.to)
            .map(|(transfer, _)| *transfer);
        if let Some(before) = before {
            self.transfers.remove(&before);
        }
        self.next_transfer += 1;
        self.transfers.insert(
            self.next_transfer,
            Outgoing {
                to: send.to,
                meta: send.meta,
                message: send.message,
                acknowledged: 0,
                requested: 0,
                total_bytes: None,
                progress_at: now,
                alive_at: now,
                begun_at: now,
            },
        );
        (self.next_transfer, before)
    }

    /// The pieces to read next, within the window.
    pub(super) fn reads(&mut self) -> Vec<SnapshotRead> {
        let mut reads = Vec::new();
        for (transfer, outgoing) in &mut self.transfers {
            let end = match outgoing.total_bytes {
                Some(total) => total.min(outgoing.acknowledged + WINDOW_BYTES),
                // One piece only, to learn how long the snapshot is.
                None => 1,
            };
            while outgoing.requested < end {
                reads.push(SnapshotRead {
                    transfer: *transfer,
                    meta: outgoing.meta.clone(),
                    offset: outgoing.requested,
                });
                outgoing.requested += CHUNK_BYTES as u64;
            }
        }
        reads
    }

    /// A piece was read: the message to send. `None` for a transfer that has ended.
    pub(super) fn chunk(
        &mut self,
        transfer: u64,
        offset: u64,
        total_bytes: u64,
        data: Bytes,
    ) -> Option<(NodeId, SnapshotChunk)> {
        let outgoing = self.transfers.get_mut(&transfer)?;
        outgoing.total_bytes = Some(total_bytes);
        let last = offset + data.len() as u64 == total_bytes;
        Some((
            outgoing.to,
            SnapshotChunk {
                transfer,
                meta: outgoing.meta.clone(),
                offset,
                total_bytes,
                data,
                message: if last {
                    outgoing.message.clone()
                } else {
                    Bytes::new()
                },
            },
        ))
    }

    /// The storage couldn't read a piece: the transfer is given up.
    pub(super) fn fail(&mut self, transfer: u64) -> Option<Ended> {
        let outgoing = self.transfers.remove(&transfer)?;
        Some(outgoing.end(transfer, false))
    }

    /// The receiver says how far it is. Where it is behind what was sent, the rest goes again.
    pub(super) fn acknowledge(
        &mut self,
        from: NodeId,
        ack: SnapshotAck,
        now: Duration,
    ) -> Option<Ended> {
        let outgoing = self.transfers.get_mut(&ack.transfer)?;
        if outgoing.to != from {
            return None;
        }
        match ack.state {
            TransferState::Underway => {
                // Nobody has got more than there is.
                let possible = outgoing
                    .total_bytes
                    .is_some_and(|total| ack.offset <= total);
                if possible && ack.offset > outgoing.acknowledged {
                    outgoing.acknowledged = ack.offset;
                    outgoing.progress_at = now;
                }
                outgoing.alive_at = now;
                None
            }
            TransferState::Complete => {
                let outgoing = self.transfers.remove(&ack.transfer)?;
                Some(outgoing.end(ack.transfer, true))
            }
            TransferState::Refused { least_index } => {
                let outgoing = self.transfers.remove(&ack.transfer)?;
                Some(Ended {
                    least_index,
                    ..outgoing.end(ack.transfer, false)
                })
            }
        }
    }

    /// Goes back where nothing has moved for `retry`; gives up after `give_up`.
    pub(super) fn tick(&mut self, now: Duration, retry: Duration, give_up: Duration) -> Vec<Ended> {
        let silent = |outgoing: &Outgoing| now.saturating_sub(outgoing.alive_at) > give_up;
        let given_up: Vec<u64> = self
            .transfers
            .iter()
            .filter(|(_, outgoing)| silent(outgoing))
            .map(|(transfer, _)| *transfer)
            .collect();
        for outgoing in self.transfers.values_mut() {
            if now.saturating_sub(outgoing.progress_at) > retry {
                outgoing.requested = outgoing.acknowledged;
                outgoing.progress_at = now;
            }
        }
        let ended = given_up.into_iter().map(|transfer| self.fail(transfer));
        ended.flatten().collect()
    }

    /// The last entry that the snapshot on its way to a node includes.
    pub(super) fn index_to(&self, to: NodeId) -> Option<u64> {
        let mut transfers = self.transfers.values();
        transfers
            .find(|outgoing| outgoing.to == to)
            .map(|outgoing| outgoing.meta.index)
    }

    /// Leadership is lost: nothing is sent any more.
    pub(super) fn clear(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.transfers).into_keys().collect()
    }
}

/// A piece to be staged, for a receiver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotStage {
    /// For which transfer. A new one replaces any before it.
    pub transfer: u64,
    /// What the whole stands for.
    pub meta: SnapshotMeta,
    /// Where the piece begins; 0 begins the transfer.
    pub offset: u64,
    /// The piece.
    pub data: Bytes,
    /// Whether it is the last one.
    pub last: bool,
}

#[derive(Debug)]
struct Incoming {
    from: NodeId,
    transfer: u64,
    /// Everything before this was handed on to be staged.
    received: u64,
    /// Everything before this was staged.
    staged: u64,
    total_bytes: u64,
    /// The consensus message that came with the last piece.
    message: Option<Bytes>,
}

/// The snapshot that this node receives: one at a time, the newest attempt wins.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    incoming: Option<Incoming>,
}

impl Inbox {
    /// Takes a piece. `Some` stages it; otherwise it was a repetition, or ahead of a lost one, and the
    /// acknowledgement tells the sender where to go on.
    pub(super) fn chunk(
        &mut self,
        from: NodeId,
        chunk: SnapshotChunk,
    ) -> Result<SnapshotStage, SnapshotAck> {
        let known = self
            .incoming
            .as_ref()
            .is_some_and(|incoming| incoming.from == from && incoming.transfer == chunk.transfer);
        if !known {
            if chunk.offset != 0 {
                // The end of an attempt whose beginning was lost, or given up here: start over.
                return Err(SnapshotAck::refusal(chunk.transfer, 0));
            }
            self.incoming = Some(Incoming {
                from,
                transfer: chunk.transfer,
                received: 0,
                staged: 0,
                total_bytes: chunk.total_bytes,
                message: None,
            });
        }
        let incoming = self.incoming.as_mut().expect("it was just made");
        let last = chunk.offset + chunk.data.len() as u64 == incoming.total_bytes;
        let is_next = chunk.offset == incoming.received
            && chunk.total_bytes == incoming.total_bytes
            && (!chunk.data.is_empty() || last)
            && incoming.message.is_none();
        let unstaged = incoming.received - incoming.staged;
        let fits = unstaged == 0 || unstaged + chunk.data.len() as u64 <= UNSTAGED_BYTES_MAX;
        if !is_next || !fits {
            return Err(SnapshotAck {
                transfer: chunk.transfer,
                offset: incoming.staged,
                state: TransferState::Underway,
            });
        }
        incoming.received += chunk.data.len() as u64;
        if last {
            incoming.message = Some(chunk.message);
        }
        Ok(SnapshotStage {
            transfer: chunk.transfer,
            meta: chunk.meta,
            offset: chunk.offset,
            data: chunk.data,
            last,
        })
    }

    /// A piece was staged: whom to tell.
    pub(super) fn staged(&mut self, transfer: u64, offset: u64) -> Option<(NodeId, SnapshotAck)> {
        let incoming = self.incoming.as_mut().filter(|i| i.transfer == transfer)?;
        incoming.staged = incoming.staged.max(offset);
        let state = TransferState::Underway;
        Some((
            incoming.from,
            SnapshotAck {
                transfer,
                offset,
                state,
            },
        ))
    }

    /// The transfer is over, one way or the other: whom to tell, and on success the message that goes
    /// to the consensus core.
    pub(super) fn finish(&mut self, transfer: u64) -> Option<(NodeId, Bytes)> {
        self.incoming.as_ref().filter(|i| i.transfer == transfer)?;
        let incoming = self.incoming.take()?;
        Some((incoming.from, incoming.message.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn send() -> SnapshotSend {
        SnapshotSend {
            to: node(2),
            meta: SnapshotMeta {
                index: 7,
                term: 1,
                ..Default::default()
            },
            message: Bytes::from_static(b"raft"),
        }
    }

    /// Sends `bytes` through a wire that loses every `lose`-th message, and returns what arrives.
    fn carry(bytes: &Bytes, lose: usize) -> (Vec<u8>, Bytes) {
        let mut outbox = Outbox::new(1);
        let mut inbox = Inbox::default();
        let mut staged = Vec::new();
        let mut message = Bytes::new();
        let (transfer, _) = outbox.begin(send(), Duration::ZERO);
        let mut sent = 0;
        let mut ended = None;
        for step in 1..1000 {
            let now = MS * (step * 10);
            for read in outbox.reads() {
                let end = (read.offset as usize + CHUNK_BYTES).min(bytes.len());
                let data = bytes.slice(read.offset as usize..end);
                let (_, chunk) = outbox
                    .chunk(transfer, read.offset, bytes.len() as u64, data)
                    .unwrap();
                sent += 1;
                if sent % lose == 0 {
                    continue;
                }
                let ack = match inbox.chunk(node(1), chunk) {
                    Ok(stage) => {
                        assert_eq!(stage.offset as usize, staged.len());
                        staged.extend_from_slice(&stage.data);
                        if stage.last {
                            message = inbox.finish(transfer).unwrap().1;
                            let state = TransferState::Complete;
                            SnapshotAck {
                                transfer,
                                offset: staged.len() as u64,
                                state,
                            }
                        } else {
                            inbox.staged(transfer, staged.len() as u64).unwrap().1
                        }
                    }
                    Err(ack) => ack,
                };
                if let Some(end) = outbox.acknowledge(node(2), ack, now) {
                    ended = Some(end);
                }
            }
            if ended.is_some() {
                break;
            }
            assert!(outbox.tick(now, MS * 50, MS * 5_000).is_empty());
        }
        let ended = ended.expect("it arrives");
        assert_eq!((ended.transfer, ended.to), (transfer, node(2)));
        assert_eq!((ended.index, ended.bytes), (7, Some(bytes.len() as u64)));
        assert!(ended.arrived);
        (staged, message)
    }

    #[test]
    fn a_snapshot_arrives_whole_though_pieces_are_lost() {
        let bytes: Bytes = (0..CHUNK_BYTES * 20 + 17).map(|i| i as u8).collect();
        for lose in [usize::MAX, 7, 3] {
            let (arrived, message) = carry(&bytes, lose);
            assert!(
                arrived == bytes,
                "differs when every {lose}th piece is lost"
            );
            assert_eq!(&message[..], b"raft");
        }
    }

    #[test]
    fn a_sender_that_knows_no_window_fills_no_memory() {
        let mut inbox = Inbox::default();
        let piece = Bytes::from(vec![0; CHUNK_BYTES]);
        let total_bytes = 1_000 * CHUNK_BYTES as u64;
        let chunk = |offset| SnapshotChunk {
            transfer: 1,
            meta: SnapshotMeta::default(),
            offset,
            total_bytes,
            data: piece.clone(),
            message: Bytes::new(),
        };
        let mut offset = 0;
        let ack = loop {
            match inbox.chunk(node(1), chunk(offset)) {
                Ok(stage) => offset = stage.offset + CHUNK_BYTES as u64,
                Err(ack) => break ack,
            }
        };
        assert_eq!(offset, UNSTAGED_BYTES_MAX);
        assert_eq!((ack.offset, ack.state), (0, TransferState::Underway));
        // As far as it is staged it goes on.
        inbox.staged(1, 3 * CHUNK_BYTES as u64);
        for _ in 0..3 {
            assert!(inbox.chunk(node(1), chunk(offset)).is_ok());
            offset += CHUNK_BYTES as u64;
        }
        assert!(inbox.chunk(node(1), chunk(offset)).is_err());
    }

    #[test]
    fn an_end_without_its_beginning_starts_over() {
        let mut outbox = Outbox::new(1);
        let (transfer, _) = outbox.begin(send(), Duration::ZERO);
        let (_, chunk) = outbox
            .chunk(transfer, 100, 200, Bytes::from(vec![0; 100]))
            .unwrap();
        let ack = Inbox::default().chunk(node(1), chunk).unwrap_err();
        let ended = outbox.acknowledge(node(2), ack, MS).unwrap();
        assert!(!ended.arrived);
    }

    #[test]
    fn a_receiver_that_claims_more_than_there_is_moves_nothing() {
        let mut outbox = Outbox::new(1);
        let (transfer, _) = outbox.begin(send(), Duration::ZERO);
        for total_bytes in [None, Some(100)] {
            if let Some(total_bytes) = total_bytes {
                outbox.chunk(transfer, 0, total_bytes, Bytes::new());
            }
            let ack = SnapshotAck {
                transfer,
                offset: u64::MAX,
                state: TransferState::Underway,
            };
            assert_eq!(outbox.acknowledge(node(2), ack, MS), None);
            outbox.reads();
        }
    }

    #[test]
    fn a_receiver_that_is_silent_is_given_up() {
        let mut outbox = Outbox::new(1);
        outbox.begin(send(), Duration::ZERO);
        assert!(outbox.tick(MS * 900, MS * 50, MS * 1000).is_empty());
        assert_eq!(outbox.tick(MS * 1001, MS * 50, MS * 1000).len(), 1);
    }

    #[test]
    fn a_new_attempt_to_a_node_ends_the_one_before() {
        let mut outbox = Outbox::new(1);
        let (first, none) = outbox.begin(send(), Duration::ZERO);
        assert_eq!(none, None);
        let (second, before) = outbox.begin(send(), Duration::ZERO);
        assert_eq!(before, Some(first));
        assert_ne!(first, second);
    }
}

//! What only the leader does: batching writes into entries, confirming barriers, ending sessions that
//! are silent, reaping containers and TTL znodes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::barriers::{Asker, LeaderBarriers};
use super::tracker::SessionTracker;
use super::{Notice, PeerMessage, Replica};
use crate::ids::{NodeId, SessionId};
use crate::op::{OP_BYTES_MAX, Op};
use crate::proto::{self, Batch, records::RequestRecord};

/// A leader's own bookkeeping; empty on every other node.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    /// Writes that go into the next entries.
    batch: Vec<RequestRecord>,
    /// The last sequence that this leader has proposed, by session and attachment: what is repeated
    /// meanwhile stays out of the log. The state machine decides; this only saves space.
    proposed: BTreeMap<(i64, u32), u64>,
    pub(super) barriers: LeaderBarriers,
    tracker: SessionTracker,
    next_reap: Duration,
    pub(super) began_at: Duration,
    /// What was committed when the term began: all that earlier leaders have left behind is within.
    pub(super) commit_at_start: u64,
}

impl Leadership {
    /// Whether a request is worth a place in the log.
    fn is_new(&self, request: &RequestRecord) -> bool {
        let key = (request.session, request.attachment);
        request.sequence == 0
            || match self.proposed.get(&key) {
                Some(last) => request.sequence == last + 1,
                None => true,
            }
    }

    fn mark_proposed(&mut self, request: &RequestRecord) {
        if request.sequence != 0 {
            let key = (request.session, request.attachment);
            self.proposed.insert(key, request.sequence);
        }
    }

    /// The state machine has refused a request of this session: whatever is sent again is new.
    pub(super) fn forget_proposed(&mut self, session: SessionId, attachment: u32) {
        self.proposed.remove(&(session.0, attachment));
    }

    /// Whether the session is known to live.
    pub(super) fn tracks(&self, id: SessionId) -> bool {
        self.tracker.contains(id)
    }

    /// The session has ended, with all its attachments.
    fn forget_session(&mut self, id: SessionId) {
        self.tracker.remove(id);
        while let Some((&key, _)) = self.proposed.range((id.0, 0)..=(id.0, u32::MAX)).next() {
            self.proposed.remove(&key);
        }
    }
}

impl Replica {
    /// A term of ours has begun, and its first entry is committed.
    pub(super) fn begin_leadership(&mut self) {
        let now = self.now.monotonic;
        self.leadership.next_reap = now + self.options.reap_interval;
        self.leadership.began_at = now;
        self.leadership.commit_at_start = self.status.commit;
        let sessions = self
            .state
            .sessions()
            .map(|(id, session)| (id, Duration::from_millis(session.timeout_ms.into())));
        let stall = self.options.election_timeout;
        self.leadership.tracker.restart(sessions, now, stall);
    }

    /// Our term is over.
    pub(super) fn end_leadership(&mut self) {
        self.leadership.batch.clear();
        self.leadership.proposed.clear();
        self.leadership.barriers.clear();
        self.leadership.tracker.clear();
        self.forget_underway();
        self.end_transfers();
    }

    /// Writes have come from another node. What no node of ours sends is dropped: once in the log it
    /// would have to be applied, and what can't be read there stops every replica.
    pub(super) fn on_peers_forward(&mut self, from: NodeId, requests: Vec<RequestRecord>) {
        if self.leads() {
            let readable = requests
                .into_iter()
                .filter(|request| is_a_clients(from, request));
            self.on_forward(readable.collect());
        }
    }

    /// Writes of another node's sessions, or of our own, have come to be proposed.
    pub(super) fn on_forward(&mut self, requests: Vec<RequestRecord>) {
        if !self.leads() {
            // Their origin finds out who leads and sends them there.
            return;
        }
        for request in requests {
            if self.leadership.is_new(&request) {
                self.leadership.mark_proposed(&request);
                self.leadership.batch.push(request);
            }
        }
    }

    /// Sends what the origin has not sent yet to whoever leads.
    pub(super) fn send_unsent(&mut self) {
        if !self.origin.has_unsent() {
            return;
        }
        let Some(leader) = self.status.leader else {
            return;
        };
        let requests = self.origin.take_unsent(self.now.monotonic);
        if leader == self.options.id {
            return self.on_forward(requests);
        }
        for batch in split_by_bytes(requests, self.options.batch_bytes_max) {
            self.send(leader, PeerMessage::Forward(batch));
        }
    }

    /// Proposes what has come together.
    pub(super) fn propose_batch(&mut self) {
        if self.leadership.batch.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.leadership.batch);
        for batch in split_by_bytes(requests, self.options.batch_bytes_max) {
            let ops = batch.len();
            let batch = Batch {
                time_ms: self.now.wall_ms,
                rules: self.next_rules(),
                requests: batch,
            };
            if self.core.propose(batch.encode()).is_ok() {
                self.effects.notices.push(Notice::Proposed { ops });
            } else {
                // Dropped, not appended: its origins send it again, and it must look new then.
                self.leadership.proposed.clear();
                self.resend_at_tick = true;
            }
        }
    }

    pub(super) fn on_barrier(&mut self, from: NodeId, id: u64, sessions: Vec<SessionId>) {
        if !self.leads() {
            return;
        }
        for session in &sessions {
            self.leadership.tracker.touch(*session, self.now.monotonic);
        }
        let asker = Asker::Node {
            node: from,
            id,
            sessions,
        };
        self.leadership.barriers.push(asker);
    }

    /// Begins a round for all who have asked, as soon as one can be begun.
    pub(super) fn begin_barrier_round(&mut self) {
        if !self.leadership.barriers.has_waiting() || !self.status.leads_with_commit {
            return;
        }
        let round = self.leadership.barriers.begin_round();
        if self.core.barrier(round).is_err() {
            self.leadership.barriers.undo_round(round);
        }
    }

    pub(super) fn on_round_confirmed(&mut self, round: u64, index: u64) {
        for asker in self.leadership.barriers.confirm(round) {
            match asker {
                Asker::Node {
                    node,
                    id,
                    mut sessions,
                } => {
                    // Nor does a node keep a session certain that is attached elsewhere by now.
                    sessions.retain(|session| {
                        let attached = self.state.session(*session);
                        attached.is_none_or(|session| session.owner != node)
                            || !self.leadership.tracker.keeps_alive(*session)
                    });
                    let gone = sessions;
                    if node == self.options.id {
                        self.on_barrier_reply(id, index, &gone);
                    } else {
                        self.send(node, PeerMessage::BarrierReply { id, index, gone });
                    }
                }
                Asker::Join { via, join } => self.answer_join(via, &join, index),
                Asker::Expiry => self.expire_overdue(),
            }
        }
    }

    pub(super) fn tick_leader(&mut self) {
        if !self.leads() || !self.status.leads_with_commit {
            return;
        }
        let now = self.now.monotonic;
        let overdue = self.leadership.tracker.overdue(now);
        if !overdue.is_empty() && !self.leadership.barriers.expiry_under_way() {
            self.leadership.barriers.push(Asker::Expiry);
        }
        if now >= self.leadership.next_reap {
            self.leadership.next_reap = now + self.options.reap_interval;
            self.reap();
        }
    }

    /// A quorum has just confirmed that we lead: end the sessions that are still overdue.
    fn expire_overdue(&mut self) {
        let now = self.now.monotonic;
        let retry_at = now + self.options.election_timeout;
        for session in self.leadership.tracker.overdue(now) {
            self.leadership.tracker.expire(session, retry_at);
            if let Some(silent) = self.state.session(session) {
                let attachment = silent.attachment;
                #[cfg(any(test, feature = "testing"))]
                if let Some(witness) = &mut self.witness {
                    let timeout = Duration::from_millis(silent.timeout_ms.into());
                    witness.proposed_to_expire.push((session, timeout));
                }
                self.push_internal(&Op::ExpireSession {
                    session,
                    attachment,
                });
            }
        }
    }

    fn reap(&mut self) {
        let due = self
            .state
            .due_for_reaping(self.now.wall_ms, self.options.reap_max);
        for (path, czxid) in due {
            let path = path.as_str().to_string();
            self.push_internal(&Op::Reap { path, czxid });
        }
    }

    fn push_internal(&mut self, op: &Op) {
        self.leadership.batch.push(RequestRecord {
            op: proto::encode_op(op),
            ..Default::default()
        });
    }

    /// Keeps the tracker in step with what the log says of sessions.
    pub(super) fn track_session(&mut self, id: SessionId) {
        if !self.leads() {
            return;
        }
        match self.state.session(id) {
            Some(session) => {
                let timeout = Duration::from_millis(session.timeout_ms.into());
                self.leadership
                    .tracker
                    .insert(id, timeout, self.now.monotonic);
            }
            None => self.leadership.forget_session(id),
        }
    }
}

/// Whether a request is one that a node may have of its clients.
fn is_a_clients(from: NodeId, record: &RequestRecord) -> bool {
    let Ok(request) = proto::decode_request(record) else {
        return false;
    };
    match request.op {
        Op::OpenSession { owner, .. } | Op::AttachSession { owner, .. } => {
            owner == from && request.sequence == 0
        }
        Op::ExpireSession { .. } | Op::Reap { .. } => false,
        _ => request.sequence != 0 && record.op.len() <= OP_BYTES_MAX,
    }
}

/// About what a request takes besides its operation.
const REQUEST_BYTES: usize = 48;

/// Cuts a list of requests so that no part is larger than `bytes_max` and one request.
fn split_by_bytes(requests: Vec<RequestRecord>, bytes_max: usize) -> Vec<Vec<RequestRecord>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut bytes = 0;
    for request in requests {
        bytes += request.op.len() + REQUEST_BYTES;
        part.push(request);
        if bytes >= bytes_max {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

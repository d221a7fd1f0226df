//! What a node tells its host of itself: events for the log, numbers for the metrics.
//!
//! The floors below hand out what has happened; here it gets its words and its level. It decides nothing.
//! The invariant: no event is told for a single write or read, and none at all costs more than a look at
//! whether somebody listens.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::shared::{NodeStatus, Role};
use super::workers::Written;
use crate::error::Error;
use crate::ids::{ClusterId, NodeId, SessionId};
use crate::observe::{
    CallKind, MEMBERSHIP, NODE, NodeMeters, SESSION, SNAPSHOT, STORAGE, SnapshotWay,
};
use crate::replica::{MembershipRequest, NodeEvent, Notice, SessionEvent};
use crate::storage::StorageError;

/// A write that takes longer is told of, as ZooKeeper and etcd do.
const SLOW_WRITE: Duration = Duration::from_secs(1);

/// How far apart two events of refused calls are.
const REFUSALS_APART: Duration = Duration::from_secs(1);

/// Why a node stops.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody wanted it.
    Wanted,
    Failure,
}

/// See the module's text.
pub(super) struct Telling {
    node: NodeId,
    pub(super) meters: NodeMeters,
    refusals: Refusals,
}

impl Telling {
    /// Registers the node's metrics, with the recorder of the thread that starts it.
    pub(super) fn new(node: NodeId) -> Telling {
        Telling {
            node,
            meters: NodeMeters::new(node),
            refusals: Refusals::default(),
        }
    }

    /// The span that a node's threads are in.
    pub(super) fn span(&self, cluster: ClusterId) -> tracing::Span {
        tracing::info_span!(target: NODE, "node", node = %self.node, cluster = %cluster)
    }

    pub(super) fn started(&self, status: &NodeStatus) {
        tracing::info!(
            target: NODE, node = %self.node, cluster = %status.cluster,
            applied_index = status.applied_index, znodes = status.znodes, "started"
        );
    }

    pub(super) fn stopped(&self, reason: &str, cause: Cause) {
        self.meters.is_leader.set(0.0);
        let node = self.node;
        match cause {
            Cause::Wanted => tracing::info!(target: NODE, %node, reason, "stopped"),
            Cause::Failure => tracing::error!(target: NODE, %node, reason, "stopped: it failed"),
        }
    }

    pub(super) fn role_changed(&self, from: Role, to: Role, term: u64) {
        let node = self.node;
        match (from, to) {
            (_, Role::Candidate) => {
                self.meters.elections.increment(1);
                tracing::info!(target: NODE, %node, term, "begins an election");
            }
            (_, Role::Leader) => tracing::info!(target: NODE, %node, term, "leads"),
            (Role::Leader, _) => tracing::info!(target: NODE, %node, term, "leads no more"),
            (Role::Candidate, _) => {
                tracing::debug!(target: NODE, %node, term, "the election came to nothing");
            }
            _ => {}
        }
    }

    pub(super) fn rules_changed(&self, rules: u32) {
        tracing::info!(target: NODE, node = %self.node, rules, "the log follows newer rules");
    }

    pub(super) fn happened(&self, event: &NodeEvent) {
        let node = self.node;
        match event {
            NodeEvent::LeaderChanged { leader, term } => match leader {
                Some(leader) => {
                    self.meters.leader_changes.increment(1);
                    tracing::info!(target: NODE, %node, %leader, term, "follows a leader");
                }
                None => tracing::info!(target: NODE, %node, term, "knows no leader"),
            },
            NodeEvent::MembershipChanged(members) => tracing::info!(
                target: MEMBERSHIP, %node, voters = ?members.voters, learners = ?members.learners,
                voters_outgoing = ?members.voters_outgoing, "membership has changed"
            ),
            NodeEvent::SnapshotInstalled { index } => {
                self.meters.snapshots_installed.increment(1);
                tracing::info!(target: SNAPSHOT, %node, index, "installed a snapshot");
            }
        }
    }

    pub(super) fn membership_asked(&self, request: &MembershipRequest) {
        tracing::info!(target: MEMBERSHIP, node = %self.node, ?request, "a change was asked for");
    }

    pub(super) fn session_opened(&self, session: SessionId, timeout_ms: u32) {
        self.meters.sessions_opened.increment(1);
        tracing::debug!(target: SESSION, node = %self.node, %session, timeout_ms, "opened or attached");
    }

    pub(super) fn session_changed(&self, session: SessionId, event: SessionEvent) {
        let (node, ended) = (self.node, &self.meters.sessions_ended);
        match event {
            SessionEvent::Certain { .. } => {}
            SessionEvent::Suspended => {
                tracing::debug!(target: SESSION, %node, %session, "suspended: the leader is silent");
            }
            SessionEvent::Lost => {
                ended.lost.increment(1);
                tracing::warn!(target: SESSION, %node, %session, "lost");
            }
            SessionEvent::Moved => {
                ended.moved.increment(1);
                tracing::info!(target: SESSION, %node, %session, "moved to another node");
            }
            SessionEvent::Left => {
                ended.lost.increment(1);
                tracing::debug!(target: SESSION, %node, %session, "left: nobody waited for it");
            }
            SessionEvent::Closed => {
                ended.closed.increment(1);
                tracing::debug!(target: SESSION, %node, %session, "closed");
            }
        }
    }

    pub(super) fn noticed(&self, notice: &Notice) {
        let node = self.node;
        match *notice {
            Notice::Proposed { ops } => self.meters.entry_ops.record(ops as f64),
            Notice::SessionExpired { session } => {
                self.meters.sessions_ended.expired.increment(1);
                tracing::info!(target: SESSION, %node, %session, "expired");
            }
            Notice::SendingSnapshot { to, index } => {
                tracing::info!(target: SNAPSHOT, %node, %to, index, "sends a snapshot");
            }
            Notice::SnapshotSent {
                to,
                index,
                bytes,
                took,
                arrived,
            } => {
                let took_ms = ms(took);
                if arrived {
                    self.meters
                        .snapshot(SnapshotWay::Sent, bytes.unwrap_or(0), took);
                    tracing::info!(target: SNAPSHOT, %node, %to, index, bytes, took_ms, "sent a snapshot");
                } else {
                    tracing::warn!(target: SNAPSHOT, %node, %to, index, took_ms, "gave up sending a snapshot");
                }
            }
        }
    }

    pub(super) fn snapshot_taken(&self, index: u64, published: bool, bytes: u64, took: Duration) {
        let (node, took_ms) = (self.node, ms(took));
        if published {
            self.meters.snapshot(SnapshotWay::Taken, bytes, took);
            tracing::info!(target: SNAPSHOT, %node, index, bytes, took_ms, "took a snapshot");
        } else {
            tracing::warn!(target: SNAPSHOT, %node, index, took_ms, "a snapshot can't be written just now");
        }
    }

    pub(super) fn snapshot_received(&self, index: u64, bytes: u64, took: Duration) {
        self.meters.snapshot(SnapshotWay::Received, bytes, took);
        let took_ms = ms(took);
        tracing::info!(target: SNAPSHOT, node = %self.node, index, bytes, took_ms, "received a snapshot");
    }

    pub(super) fn wrote(&self, written: Written) {
        let Written {
            entries,
            bytes,
            took,
        } = written;
        if entries > 0 {
            self.meters.appended(entries, bytes, took);
        }
        if took >= SLOW_WRITE {
            let took_ms = ms(took);
            tracing::warn!(target: STORAGE, node = %self.node, entries, bytes, took_ms, "a write to the log was slow");
        }
    }

    pub(super) fn compacted(&self, index: u64) {
        self.meters.compactions.increment(1);
        tracing::debug!(target: STORAGE, node = %self.node, index, "compacted the log");
    }

    pub(super) fn storage_failed(&self, error: &StorageError) {
        tracing::error!(target: STORAGE, node = %self.node, %error, "the storage failed");
    }

    /// What a status shows, as numbers.
    pub(super) fn measured(&self, status: &NodeStatus) {
        let (meters, queues) = (&self.meters, &self.meters.queues);
        let shown = &status.queues;
        for (gauge, value) in [
            (&meters.term, status.term),
            (&meters.commit_index, status.commit_index),
            (&meters.applied_index, status.applied_index),
            (&meters.is_leader, (status.role == Role::Leader).into()),
            (&meters.sessions, status.sessions as u64),
            (&meters.sessions_attached, status.sessions_attached as u64),
            (&meters.watches, status.watches as u64),
            (&meters.znodes, status.znodes as u64),
            (&meters.data_bytes, status.data_bytes),
            (&queues.requests, shown.requests as u64),
            (&queues.calls, shown.calls as u64),
            (&queues.peer_messages, shown.peer_messages as u64),
            (&queues.writes, shown.writes as u64),
            (&queues.snapshots, shown.snapshots as u64),
        ] {
            gauge.set(value as f64);
        }
    }

    /// A call has this answer, so many seconds after it was made.
    pub(super) fn answered(
        &self,
        kind: CallKind,
        error: Option<&Error>,
        seconds: f64,
        now: impl Fn() -> Duration,
    ) {
        self.meters.answered(kind, error, seconds);
        match error {
            Some(&Error::Overloaded { queue, limit }) => self.refused(queue, limit, now),
            Some(error) if kind == CallKind::Membership => {
                tracing::info!(target: MEMBERSHIP, node = %self.node, %error, "a change was refused");
            }
            _ => {}
        }
    }

    /// A queue had no room. There may be a million of these a second, and nobody reads as many lines.
    fn refused(&self, queue: &'static str, limit: usize, now: impl Fn() -> Duration) {
        if tracing::enabled!(target: NODE, tracing::Level::WARN)
            && let Some(refused) = self.refusals.count(now())
        {
            tracing::warn!(target: NODE, node = %self.node, queue, limit, refused, "calls were refused: a queue is full");
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Lets one event through in so much time, and counts the others for it.
#[derive(Default)]
struct Refusals {
    /// Nanoseconds of the node's clock.
    next_at: AtomicU64,
    count: AtomicU64,
}

impl Refusals {
    /// How many there were since the last event, where it is time for another.
    fn count(&self, now: Duration) -> Option<u64> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        let due = self.next_at.load(Ordering::Relaxed);
        let next = nanos(now.saturating_add(REFUSALS_APART));
        let first = nanos(now) >= due
            && self
                .next_at
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        first.then(|| self.count.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_calls_are_told_of_once_a_second_with_their_number() {
        let refusals = Refusals::default();
        let at = |ms| refusals.count(Duration::from_millis(ms));
        assert_eq!(at(5_000), Some(1));
        for ms in 5_000..5_999 {
            assert_eq!(at(ms), None);
        }
        assert_eq!(at(6_000), Some(1_000));
        assert_eq!(at(6_001), None);
    }
}

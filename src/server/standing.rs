//! What a server remembers of its node's leaders: since when there is none, since when this node leads.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{NodeStatus, Role};

/// Brought up to date a few times a second; read as often as anybody likes.
#[derive(Default)]
pub(super) struct Standing {
    since: Mutex<Since>,
    has_leader: AtomicBool,
    is_read_only: AtomicBool,
}

#[derive(Default)]
struct Since {
    /// When no leader was known any more.
    leaderless: Option<Instant>,
    /// The term that this node leads in, and when that was first seen.
    leading: Option<(u64, Instant)>,
}

impl Standing {
    /// Takes in how the node stands.
    pub(super) fn note(&self, status: &NodeStatus, patience: Duration, now: Instant) {
        let has_leader = status.leader.is_some() && status.stopped.is_none();
        let mut since = self.since.lock();
        since.leaderless = match since.leaderless {
            _ if has_leader => None,
            None => Some(now),
            some => some,
        };
        since.leading = match since.leading {
            _ if status.role != Role::Leader => None,
            Some((term, since)) if term == status.term => Some((term, since)),
            _ => Some((status.term, now)),
        };
        // One that has no tree, or is stopped, has nothing to show.
        let has_tree = matches!(
            status.role,
            Role::Follower | Role::Candidate | Role::Learner | Role::Leader
        );
        let waited = since
            .leaderless
            .is_some_and(|leaderless| now.duration_since(leaderless) >= patience);
        self.has_leader.store(has_leader, Relaxed);
        self.is_read_only.store(waited && has_tree, Relaxed);
    }

    pub(super) fn has_leader(&self) -> bool {
        self.has_leader.load(Relaxed)
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only.load(Relaxed)
    }

    /// How long this node has led, as far as was seen.
    pub(super) fn leader_uptime(&self, now: Instant) -> Duration {
        let leading = self.since.lock().leading;
        leading.map_or(Duration::ZERO, |(_, since)| now.duration_since(since))
    }
}

//! The leader's record of when each session must be heard of again (ZooKeeper's `SessionTrackerImpl`).
//!
//! A leader that was stopped for a while once expired live sessions as soon as it woke (etcd #15247).
//! So a new leader, and one that finds it was stalled, gives every session its whole timeout again; and
//! the replica expires nobody before a quorum has confirmed that it still leads.
//!
//! A turn of the node's loop has one time, its beginning, and what comes while it lasts is heard as of
//! then. A turn longer than the longest stall that goes unnoticed is a stall; a shorter one must take
//! nothing from anybody, so every deadline is later by that much. The invariant: nobody is overdue
//! before its whole timeout has passed since the moment at which it was heard of.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::SessionId;

#[derive(Debug)]
struct Tracked {
    timeout: Duration,
    deadline: Duration,
    /// Its end is proposed, and may be in the log: nothing brings it back.
    expiring: bool,
}

/// The deadlines of all sessions of the cluster.
#[derive(Debug, Default)]
pub(super) struct SessionTracker {
    sessions: BTreeMap<SessionId, Tracked>,
    /// When the tracker last ran, to notice a stall.
    ran_at: Duration,
    /// The longest pause that is not noticed as a stall.
    stall: Duration,
}

impl SessionTracker {
    /// Begins with these sessions, each with its whole timeout before it. A pause longer than `stall`
    /// is a stall.
    pub(super) fn restart(
        &mut self,
        sessions: impl Iterator<Item = (SessionId, Duration)>,
        now: Duration,
        stall: Duration,
    ) {
        self.ran_at = now;
        self.stall = stall;
        self.sessions = sessions
            .map(|(id, timeout)| {
                let deadline = now + timeout + stall;
                (
                    id,
                    Tracked {
                        timeout,
                        deadline,
                        expiring: false,
                    },
                )
            })
            .collect();
    }

    pub(super) fn clear(&mut self) {
        self.sessions.clear();
    }

    /// A session was opened or attached.
    pub(super) fn insert(&mut self, id: SessionId, timeout: Duration, now: Duration) {
        let deadline = now + timeout + self.stall;
        self.sessions.insert(
            id,
            Tracked {
                timeout,
                deadline,
                expiring: false,
            },
        );
    }

    /// A session has ended.
    pub(super) fn remove(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    /// Whether the session is known.
    pub(super) fn contains(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// A session was heard of. Too late for one that is being expired.
    pub(super) fn touch(&mut self, id: SessionId, now: Duration) {
        if let Some(session) = self.sessions.get_mut(&id).filter(|s| !s.expiring) {
            let deadline = now + session.timeout + self.stall;
            session.deadline = session.deadline.max(deadline);
        }
    }

    /// Whether a touch of this session counts: it is known, and its end isn't proposed.
    pub(super) fn keeps_alive(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|s| !s.expiring)
    }

    /// The sessions not heard of in time. After a stall there are none: everybody has the whole timeout
    /// again, since nobody could have been heard meanwhile.
    pub(super) fn overdue(&mut self, now: Duration) -> Vec<SessionId> {
        let stalled = now.saturating_sub(self.ran_at) > self.stall;
        self.ran_at = now;
        if stalled {
            for session in self.sessions.values_mut() {
                session.deadline = now + session.timeout + self.stall;
            }
            return Vec::new();
        }
        self.sessions
            .iter()
            .filter(|(_, session)| session.deadline <= now)
            .map(|(id, _)| *id)
            .collect()
    }

    /// The session's end is proposed; it is proposed again, should it be lost, after `retry_at`.
    pub(super) fn expire(&mut self, id: SessionId, retry_at: Duration) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.expiring = true;
            session.deadline = retry_at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const STALL: Duration = Duration::from_millis(50);

    fn tracker() -> SessionTracker {
        let mut tracker = SessionTracker::default();
        tracker.restart(
            [(SessionId(1), MS * 100), (SessionId(2), MS * 200)].into_iter(),
            Duration::ZERO,
            STALL,
        );
        tracker
    }

    fn run_until(tracker: &mut SessionTracker, from_ms: u32, to_ms: u32) -> Vec<SessionId> {
        (from_ms..=to_ms)
            .step_by(10)
            .flat_map(|at| tracker.overdue(MS * at))
            .collect()
    }

    #[test]
    fn a_silent_session_is_overdue_after_its_timeout_and_not_before() {
        let mut tracker = tracker();
        assert!(run_until(&mut tracker, 10, 140).is_empty());
        assert_eq!(tracker.overdue(MS * 150), [SessionId(1)]);
    }

    #[test]
    fn a_touch_that_came_during_a_turn_gives_the_whole_timeout_from_when_it_came() {
        // The turn began at 60 and took as long as goes unnoticed. A node sent a touch when it ended, and
        // is certain until its timeout has passed since then.
        let mut tracker = tracker();
        run_until(&mut tracker, 10, 60);
        tracker.touch(SessionId(1), MS * 60);
        let sent_at = MS * 60 + STALL;
        assert!(run_until(&mut tracker, 110, 200).is_empty());
        assert!(tracker.overdue(sent_at + MS * 100 - MS).is_empty());
        assert_eq!(tracker.overdue(sent_at + MS * 100), [SessionId(1)]);
    }

    #[test]
    fn a_touch_gives_the_whole_timeout_again() {
        let mut tracker = tracker();
        run_until(&mut tracker, 10, 60);
        tracker.touch(SessionId(1), MS * 60);
        assert!(run_until(&mut tracker, 70, 200).is_empty());
        assert_eq!(tracker.overdue(MS * 210), [SessionId(1)]);
    }

    #[test]
    fn a_touch_does_not_bring_back_a_session_whose_end_is_proposed() {
        // Its node would have called it certain for another timeout while the log ended it.
        let mut tracker = tracker();
        run_until(&mut tracker, 10, 140);
        assert_eq!(tracker.overdue(MS * 150), [SessionId(1)]);
        assert!(tracker.keeps_alive(SessionId(1)));
        tracker.expire(SessionId(1), MS * 170);
        tracker.touch(SessionId(1), MS * 151);
        assert!(!tracker.keeps_alive(SessionId(1)));
        assert!(!tracker.keeps_alive(SessionId(9)));
        assert_eq!(tracker.overdue(MS * 170), [SessionId(1)]);
    }

    #[test]
    fn scenario_13_a_a_stalled_leader_expires_nobody() {
        // etcd #15247: the leader was stopped past every deadline, and expired all live sessions at once
        // on waking.
        let mut tracker = tracker();
        run_until(&mut tracker, 10, 50);
        assert!(tracker.overdue(MS * 5_000).is_empty());
        assert!(run_until(&mut tracker, 5_010, 5_140).is_empty());
        assert_eq!(tracker.overdue(MS * 5_150), [SessionId(1)]);
    }
}

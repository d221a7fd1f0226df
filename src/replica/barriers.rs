//! Read barriers: proof that a read is not stale, and that sessions are alive.
//!
//! etcd once let a retried ReadIndex be confirmed by the answer to an earlier one, and read stale
//! data (#20418). Here a node asks the leader by a message of its own, under an id that it never uses
//! twice; the leader alone numbers the rounds of its core, never twice in a term; whatever is lost is
//! asked again under a fresh id. Barriers that are asked for together share one round.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Join, Ticket};
use crate::ids::{NodeId, SessionId};
use crate::op::ReadOp;

/// Something at this node that waits for a barrier.
#[derive(Debug)]
pub(super) struct Waiter {
    pub ticket: Ticket,
    pub session: SessionId,
    /// What to read afterwards; `None` for a mere `sync`.
    pub read: Option<ReadOp>,
}

/// A barrier on its way to the leader and back.
#[derive(Debug)]
struct Flight {
    sent_at: Duration,
    waiters: Vec<Waiter>,
    /// The sessions that it says are alive.
    sessions: Vec<SessionId>,
}

/// What a confirmed barrier settles.
#[derive(Debug)]
pub(super) struct Confirmed {
    /// When the barrier was asked for.
    pub sent_at: Duration,
    /// Sessions that the leader has heard of since then.
    pub sessions: Vec<SessionId>,
}

/// The barriers that this node has asked for.
#[derive(Debug)]
pub(super) struct OriginBarriers {
    /// The upper half is random and new at every start, so that an answer to an earlier life of this
    /// node is nobody's.
    next_id: u64,
    queued: Vec<Waiter>,
    in_flight: BTreeMap<u64, Flight>,
    /// Confirmed, but the index isn't applied here yet.
    awaiting_apply: BTreeMap<u64, Vec<Waiter>>,
}

impl OriginBarriers {
    pub(super) fn new(boot_nonce: u32) -> OriginBarriers {
        OriginBarriers {
            next_id: u64::from(boot_nonce) << 32,
            queued: Vec::new(),
            in_flight: BTreeMap::new(),
            awaiting_apply: BTreeMap::new(),
        }
    }

    pub(super) fn push(&mut self, waiter: Waiter) {
        self.queued.push(waiter);
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// How many wait, in whatever stage.
    pub(super) fn len(&self) -> usize {
        let flying: usize = self.in_flight.values().map(|f| f.waiters.len()).sum();
        let applying: usize = self.awaiting_apply.values().map(Vec::len).sum();
        self.queued.len() + flying + applying
    }

    /// Puts all that is queued, and word of `sessions`, into one barrier. Returns its id.
    pub(super) fn launch(&mut self, now: Duration, sessions: Vec<SessionId>) -> u64 {
        self.next_id += 1;
        let flight = Flight {
            sent_at: now,
            waiters: std::mem::take(&mut self.queued),
            sessions,
        };
        self.in_flight.insert(self.next_id, flight);
        self.next_id
    }

    /// The leader has answered. Its waiters now wait for `index` to be applied. An unknown id is an
    /// answer given twice, or given up on.
    pub(super) fn confirm(&mut self, id: u64, index: u64) -> Option<Confirmed> {
        let flight = self.in_flight.remove(&id)?;
        if !flight.waiters.is_empty() {
            self.awaiting_apply
                .entry(index)
                .or_default()
                .extend(flight.waiters);
        }
        Some(Confirmed {
            sent_at: flight.sent_at,
            sessions: flight.sessions,
        })
    }

    /// Everything up to `index` is applied: these waiters may read.
    pub(super) fn take_applied(&mut self, index: u64) -> Vec<Waiter> {
        let mut ready = Vec::new();
        while let Some(entry) = self.awaiting_apply.first_entry() {
            if *entry.key() > index {
                break;
            }
            ready.extend(entry.remove());
        }
        ready
    }

    /// Gives up the barriers sent before `deadline`; their waiters are queued again, to go under a
    /// fresh id. Returns the sessions of which the leader may not have heard by them.
    #[must_use = "the host won't say again that it has heard of them"]
    pub(super) fn retry_sent_before(&mut self, deadline: Duration) -> Vec<SessionId> {
        let stale: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, flight)| flight.sent_at < deadline)
            .map(|(id, _)| *id)
            .collect();
        let mut unheard = Vec::new();
        for id in stale {
            let flight = self.in_flight.remove(&id).expect("it was just seen");
            self.queued.extend(flight.waiters);
            unheard.extend(flight.sessions);
        }
        unheard
    }

    /// Takes out the waiters of a session that has ended.
    pub(super) fn take_session(&mut self, session: SessionId) -> Vec<Waiter> {
        let mut taken = Vec::new();
        let lists = std::iter::once(&mut self.queued)
            .chain(
                self.in_flight
                    .values_mut()
                    .map(|flight| &mut flight.waiters),
            )
            .chain(self.awaiting_apply.values_mut());
        for list in lists {
            taken.extend(list.extract_if(.., |waiter| waiter.session == session));
        }
        taken
    }

    /// Takes out everything: the node stops.
    pub(super) fn take_all(&mut self) -> Vec<Waiter> {
        let mut taken = std::mem::take(&mut self.queued);
        for (_, flight) in std::mem::take(&mut self.in_flight) {
            taken.extend(flight.waiters);
        }
        for (_, waiters) in std::mem::take(&mut self.awaiting_apply) {
            taken.extend(waiters);
        }
        taken
    }
}

/// Who asked the leader for a round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Asker {
    /// A node, under its own id for it, with the sessions that it says are alive.
    Node {
        node: NodeId,
        id: u64,
        sessions: Vec<SessionId>,
    },
    /// A node that would join the cluster, by way of another node or by itself.
    Join { via: NodeId, join: Join },
    /// The leader itself, before it expires sessions: it must not do so unless it still leads.
    Expiry,
}

/// The most askers that one leader keeps waiting.
pub(super) const ASKERS_MAX: usize = 65_536;

/// The rounds of a leader.
#[derive(Debug, Default)]
pub(super) struct LeaderBarriers {
    waiting: Vec<Asker>,
    rounds: BTreeMap<u64, Vec<Asker>>,
    next_round: u64,
}

impl LeaderBarriers {
    /// Adds an asker to the next round. One too many is dropped, and asks again.
    pub(super) fn push(&mut self, asker: Asker) {
        if self.waiting.len() < ASKERS_MAX {
            self.waiting.push(asker);
        }
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the leader's own expiry round is under way.
    pub(super) fn expiry_under_way(&self) -> bool {
        self.waiting.contains(&Asker::Expiry)
            || self
                .rounds
                .values()
                .any(|askers| askers.contains(&Asker::Expiry))
    }

    /// Begins a round for all who wait; its number is fresh.
    pub(super) fn begin_round(&mut self) -> u64 {
        self.next_round += 1;
        let askers = std::mem::take(&mut self.waiting);
        self.rounds.insert(self.next_round, askers);
        self.next_round
    }

    /// The round could not be begun after all: its askers wait again.
    pub(super) fn undo_round(&mut self, round: u64) {
        if let Some(askers) = self.rounds.remove(&round) {
            self.waiting.extend(askers);
        }
    }

    /// The core has confirmed a round: whom to answer.
    pub(super) fn confirm(&mut self, round: u64) -> Vec<Asker> {
        self.rounds.remove(&round).unwrap_or_default()
    }

    /// Leadership is lost: whoever asked here asks again, elsewhere.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.rounds.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(ticket: u64, session: i64) -> Waiter {
        Waiter {
            ticket: Ticket(ticket),
            session: SessionId(session),
            read: None,
        }
    }

    fn tickets(waiters: Vec<Waiter>) -> Vec<u64> {
        waiters.into_iter().map(|waiter| waiter.ticket.0).collect()
    }

    #[test]
    fn barriers_asked_for_together_share_one_round() {
        let mut barriers = OriginBarriers::new(7);
        barriers.push(waiter(1, 1));
        barriers.push(waiter(2, 1));
        let id = barriers.launch(Duration::ZERO, vec![]);
        assert!(!barriers.has_queued());
        assert!(barriers.confirm(id, 10).is_some());
        assert_eq!(tickets(barriers.take_applied(9)), [0u64; 0]);
        assert_eq!(tickets(barriers.take_applied(10)), [1, 2]);
    }

    #[test]
    fn scenario_01_a_a_retried_barrier_is_not_confirmed_by_the_answer_to_its_first_attempt() {
        // etcd #20418: a retried read index was confirmed by a delayed answer to its first attempt, and
        // stale data was read.
        let mut barriers = OriginBarriers::new(7);
        barriers.push(waiter(1, 1));
        let first = barriers.launch(Duration::ZERO, vec![]);
        let unheard = barriers.retry_sent_before(Duration::from_millis(1));
        assert!(unheard.is_empty());
        let second = barriers.launch(Duration::from_millis(1), vec![]);
        assert_ne!(first, second);
        assert!(barriers.confirm(first, 5).is_none());
        assert_eq!(tickets(barriers.take_applied(u64::MAX)), [0u64; 0]);
        assert!(barriers.confirm(second, 6).is_some());
        assert_eq!(tickets(barriers.take_applied(6)), [1]);
    }

    #[test]
    fn scenario_03_a_sync_waits_until_its_node_has_applied_what_the_leader_had_committed() {
        // ZOOKEEPER-1675: `sync` was answered, and the read that followed it was stale all the same.
        let mut barriers = OriginBarriers::new(7);
        barriers.push(waiter(1, 1));
        let id = barriers.launch(Duration::ZERO, vec![]);
        barriers.confirm(id, 10);
        assert_eq!(tickets(barriers.take_applied(9)), [0u64; 0]);
        assert_eq!(tickets(barriers.take_applied(10)), [1]);
    }

    #[test]
    fn ids_of_another_life_of_the_node_are_unknown() {
        let mut before = OriginBarriers::new(1);
        let mut after = OriginBarriers::new(2);
        let id = before.launch(Duration::ZERO, vec![]);
        after.launch(Duration::ZERO, vec![]);
        assert!(after.confirm(id, 1).is_none());
    }

    #[test]
    fn a_lost_sessions_waiters_are_found_in_every_stage() {
        let mut barriers = OriginBarriers::new(1);
        barriers.push(waiter(1, 1));
        barriers.push(waiter(2, 2));
        let id = barriers.launch(Duration::ZERO, vec![]);
        barriers.confirm(id, 50);
        barriers.push(waiter(3, 1));
        barriers.launch(Duration::ZERO, vec![]);
        barriers.push(waiter(4, 1));
        let mut taken = tickets(barriers.take_session(SessionId(1)));
        taken.sort_unstable();
        assert_eq!(taken, [1, 3, 4]);
        assert_eq!(barriers.len(), 1);
    }

    #[test]
    fn a_round_that_could_not_begin_keeps_its_askers() {
        let mut barriers = LeaderBarriers::default();
        barriers.push(Asker::Expiry);
        let round = barriers.begin_round();
        barriers.undo_round(round);
        assert!(barriers.has_waiting() && barriers.expiry_under_way());
        let next = barriers.begin_round();
        assert_ne!(round, next);
        assert_eq!(barriers.confirm(next), [Asker::Expiry]);
        assert!(barriers.confirm(next).is_empty());
    }
}

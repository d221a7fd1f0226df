//! The sessions attached to this node, and their writes until they are answered.
//!
//! A write stays here, in its session's order, until this node has seen it applied in the log; until
//! then it is sent again whenever it may have been lost. The state machine applies it once, however
//! often it is sent. So an answer given here is the write's real outcome.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Ticket};
use crate::error::Error;
use crate::ids::{SessionId, Zxid};
use crate::op::{Keeper, Outcome, Password, ReadOp};
use crate::proto::records::RequestRecord;

/// A read (or a `sync`, which reads nothing) that waits for its session's earlier writes.
#[derive(Debug)]
pub(super) struct DeferredRead {
    pub ticket: Ticket,
    pub read: Option<ReadOp>,
}

/// What becomes of a read that may have writes to wait for.
#[derive(Debug)]
pub(super) enum Deferral {
    Waits,
    /// There is nothing to wait for.
    Nothing(DeferredRead),
    /// Too many wait.
    Full(DeferredRead),
}

/// A write that isn't answered yet.
#[derive(Debug)]
struct PendingWrite {
    sequence: u64,
    ticket: Ticket,
    op: Bytes,
    /// Reads called after this write and before the next: answered from the state right after it.
    reads: Vec<DeferredRead>,
}

/// What a node knows of a session attached to it.
#[derive(Debug)]
pub(super) struct LocalSession {
    pub attachment: u32,
    pub timeout: Duration,
    /// The cluster can't have expired the session before this moment: a confirmed touch, plus the
    /// timeout, less a margin for clocks that differ in rate.
    pub certain_until: Duration,
    /// When it is called lost. The same, but for a session that took long to open: it has not been
    /// certain yet, nobody relies on it, and a touch may still find it alive.
    pub lost_at: Duration,
    pub suspended: bool,
    /// Who keeps it alive.
    pub keeper: Keeper,
    /// Whether the host has heard of its client since it was last named to the leader.
    pub heard: bool,
    pending: VecDeque<PendingWrite>,
    /// How many reads wait for those.
    deferred: usize,
    /// The sequence of the next write.
    next_sequence: u64,
    /// All up to this one have been sent to the present leader.
    sent_through: u64,
    /// All up to this one have been sent to some leader: they may be in the log.
    ever_sent_through: u64,
    /// When the oldest unanswered one was last sent, or answered.
    progress_at: Duration,
}

/// A session that is being opened or attached.
#[derive(Debug)]
pub(super) struct Opening {
    pub ticket: Ticket,
    /// When it was first asked for: the session is certain to live from then on.
    pub asked_at: Duration,
    pub keeper: Keeper,
    request: RequestRecord,
    sent_at: Option<Duration>,
    /// It was sent to some leader: it may be in the log.
    pub ever_sent: bool,
    /// Nobody has waited for it since then: it is not sent again.
    withdrawn_at: Option<Duration>,
    /// Openings are sent in the order in which they were called.
    number: u64,
}

/// How long after a confirmed touch a session is certain to live: fifteen sixteenths of its timeout,
/// so that clocks may differ in rate by one sixteenth (see [`crate::Clock`]).
pub(super) fn certain_span(timeout: Duration) -> Duration {
    timeout - timeout / 16
}

/// The sessions attached to this node, and those on their way to be.
#[derive(Debug, Default)]
pub(super) struct Origin {
    sessions: BTreeMap<SessionId, LocalSession>,
    /// By password, which each session has its own of, and the attempt's nonce where it is to be
    /// attached.
    openings: BTreeMap<(Password, Option<u64>), Opening>,
    next_opening: u64,
    /// Sessions with writes that are not sent yet, in the order in which they came.
    unsent: VecDeque<SessionId>,
    unsent_set: BTreeSet<SessionId>,
    openings_unsent: bool,
}

impl Origin {
    pub(super) fn session(&self, id: SessionId) -> Option<&LocalSession> {
        self.sessions.get(&id)
    }

    /// The session, if it is attached here by `attachment`; else what to answer.
    pub(super) fn attached(
        &mut self,
        id: SessionId,
        attachment: u32,
    ) -> Result<&mut LocalSession, Error> {
        match self.sessions.get_mut(&id) {
            Some(session) if session.attachment == attachment => Ok(session),
            Some(_) => Err(Error::SessionMoved { session: id }),
            None => Err(Error::SessionExpired { session: id }),
        }
    }

    /// The sessions that the cluster can't have expired by `now`.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn certain_at(&self, now: Duration) -> impl Iterator<Item = SessionId> + '_ {
        let sessions = self.sessions.iter();
        sessions
            .filter(move |(_, session)| now < session.certain_until)
            .map(|(id, _)| *id)
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.sessions.keys().copied().collect()
    }

    /// The sessions to be named to the leader as alive: those that live as long as this node, and those
    /// whose host has heard of their clients since the last time.
    pub(super) fn take_alive(&mut self) -> Vec<SessionId> {
        self.sessions
            .iter_mut()
            .filter_map(|(id, session)| {
                let heard = std::mem::take(&mut session.heard);
                (heard || session.keeper == Keeper::Node).then_some(*id)
            })
            .collect()
    }

    pub(super) fn session_mut(&mut self, id: SessionId) -> Option<&mut LocalSession> {
        self.sessions.get_mut(&id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (SessionId, &mut LocalSession)> {
        self.sessions.iter_mut().map(|(id, session)| (*id, session))
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// The shortest timeout of any session here.
    pub(super) fn timeout_min(&self) -> Option<Duration> {
        self.sessions.values().map(|session| session.timeout).min()
    }

    /// How many are attached or asked for.
    pub(super) fn len_with_openings(&self) -> usize {
        self.sessions.len() + self.openings.len()
    }

    /// Asks for a session; `request` holds the operation.
    pub(super) fn open(
        &mut self,
        (password, nonce): (Password, Option<u64>),
        ticket: Ticket,
        request: RequestRecord,
        keeper: Keeper,
        now: Duration,
    ) {
        let opening = Opening {
            ticket,
            asked_at: now,
            keeper,
            request,
            sent_at: None,
            ever_sent: false,
            withdrawn_at: None,
            number: self.next_opening,
        };
        self.next_opening += 1;
        self.openings_unsent = true;
        self.openings.insert((password, nonce), opening);
    }

    /// The log has opened (or refused) what was asked for with this password and nonce.
    pub(super) fn take_opening(
        &mut self,
        password: Password,
        nonce: Option<u64>,
    ) -> Option<Opening> {
        self.openings.remove(&(password, nonce))
    }

    /// Nobody waits any more for what was asked for by these calls. What no leader was asked for is
    /// forgotten, and its tickets returned; the rest may come, but is not asked for again.
    pub(super) fn withdraw(&mut self, tickets: &BTreeSet<Ticket>, now: Duration) -> Vec<Ticket> {
        self.forget_openings(|opening| {
            if tickets.contains(&opening.ticket) {
                opening.withdrawn_at.get_or_insert(now);
            }
            opening.withdrawn_at.is_some() && !opening.ever_sent
        })
    }

    /// Forgets what was withdrawn before `deadline` and has not come.
    pub(super) fn forget_withdrawn_before(&mut self, deadline: Duration) -> Vec<Ticket> {
        self.forget_openings(|opening| opening.withdrawn_at.is_some_and(|at| at < deadline))
    }

    fn forget_openings(&mut self, mut forgets: impl FnMut(&mut Opening) -> bool) -> Vec<Ticket> {
        let mut forgotten = Vec::new();
        self.openings.retain(|_, opening| {
            let forgets = forgets(opening);
            if forgets {
                forgotten.push(opening.ticket);
            }
            !forgets
        });
        forgotten
    }

    /// A session is attached here from now on. Returns what an earlier attachment had pending: those
    /// writes were not applied before this one, and will be refused.
    pub(super) fn attach(
        &mut self,
        id: SessionId,
        attachment: u32,
        sequence: u64,
        timeout: Duration,
        (asked_at, keeper): (Duration, Keeper),
        now: Duration,
    ) -> Vec<Ticket> {
        let certain_until = asked_at + certain_span(timeout);
        let session = LocalSession {
            attachment,
            timeout,
            certain_until,
            lost_at: certain_until.max(now + certain_span(timeout)),
            suspended: false,
            keeper,
            heard: false,
            pending: VecDeque::new(),
            deferred: 0,
            next_sequence: sequence + 1,
            sent_through: sequence,
            ever_sent_through: sequence,
            progress_at: now,
        };
        match self.sessions.insert(id, session) {
            Some(before) => before.into_tickets().collect(),
            None => Vec::new(),
        }
    }

    /// Takes a write in; it is sent at the next [`Origin::take_unsent`].
    pub(super) fn push_write(&mut self, id: SessionId, ticket: Ticket, op: Bytes) {
        let session = self.sessions.get_mut(&id).expect("the caller has looked");
        session.pending.push_back(PendingWrite {
            sequence: session.next_sequence,
            ticket,
            op,
            reads: Vec::new(),
        });
        session.next_sequence += 1;
        self.mark_unsent(id);
    }

    fn mark_unsent(&mut self, id: SessionId) {
        if self.unsent_set.insert(id) {
            self.unsent.push_back(id);
        }
    }

    /// Everything not yet sent, in session order; the caller sends it to the leader.
    pub(super) fn take_unsent(&mut self, now: Duration) -> Vec<RequestRecord> {
        let mut requests = Vec::new();
        if std::mem::take(&mut self.openings_unsent) {
            let all = self.openings.values_mut();
            let mut unsent: Vec<_> = all.filter(|opening| opening.sent_at.is_none()).collect();
            unsent.sort_unstable_by_key(|opening| opening.number);
            for opening in unsent {
                opening.sent_at = Some(now);
                opening.ever_sent = true;
                requests.push(opening.request.clone());
            }
        }
        self.unsent_set.clear();
        for id in std::mem::take(&mut self.unsent) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.take_unsent(id, now, &mut requests);
            }
        }
        requests
    }

    /// Whether there is something for [`Origin::take_unsent`].
    pub(super) fn has_unsent(&self) -> bool {
        self.openings_unsent || !self.unsent.is_empty()
    }

    /// All that is pending may be lost (a new leader, a proposal dropped): send it again.
    pub(super) fn resend_all(&mut self) {
        for opening in self.openings.values_mut() {
            if opening.withdrawn_at.is_none() {
                opening.sent_at = None;
                self.openings_unsent = true;
            }
        }
        for id in self.ids() {
            self.resend(id);
        }
    }

    /// A write of this session was seen missing: send all that is pending again.
    pub(super) fn resend(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && let Some(first) = session.pending.front()
        {
            session.sent_through = first.sequence - 1;
            self.mark_unsent(id);
        }
    }

    /// Sends again what was sent before `deadline` and has not moved since.
    pub(super) fn resend_sent_before(&mut self, deadline: Duration) {
        for opening in self.openings.values_mut() {
            let stuck = opening.sent_at.is_some_and(|at| at < deadline);
            if stuck && opening.withdrawn_at.is_none() {
                opening.sent_at = None;
                self.openings_unsent = true;
            }
        }
        let stuck: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                session.progress_at < deadline
                    && session
                        .pending
                        .front()
                        .is_some_and(|first| first.sequence <= session.sent_through)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in stuck {
            self.resend(id);
        }
    }

    /// Forgets a session; what it had pending is for the caller to answer.
    pub(super) fn remove(&mut self, id: SessionId) -> Option<LocalSession> {
        self.sessions.remove(&id)
    }

    /// Forgets everything: the node stops.
    pub(super) fn take_all(&mut self) -> (Vec<(SessionId, LocalSession)>, Vec<Opening>) {
        (
            std::mem::take(&mut self.sessions).into_iter().collect(),
            std::mem::take(&mut self.openings).into_values().collect(),
        )
    }
}

impl LocalSession {
    /// How many writes are not answered yet.
    pub(super) fn pending_len(&self) -> usize {
        self.pending.len()
    }

    /// Lets a read called now wait for the writes before it, unless there are none, or `limit` reads
    /// wait already.
    pub(super) fn defer(&mut self, read: DeferredRead, limit: usize) -> Deferral {
        match self.pending.back_mut() {
            None => Deferral::Nothing(read),
            Some(_) if self.deferred >= limit => Deferral::Full(read),
            Some(last) => {
                last.reads.push(read);
                self.deferred += 1;
                Deferral::Waits
            }
        }
    }

    /// The log has applied the write of this sequence: its answer, and the reads that may go now.
    /// `None` where it was answered before.
    pub(super) fn answer(
        &mut self,
        sequence: u64,
        (zxid, outcome): (Zxid, Outcome),
        now: Duration,
    ) -> Option<((Ticket, Answer), Vec<DeferredRead>)> {
        if self.pending.front()?.sequence != sequence {
            return None;
        }
        let write = self.pending.pop_front().expect("it was just seen");
        self.deferred -= write.reads.len();
        self.progress_at = now;
        self.sent_through = self.sent_through.max(sequence);
        let answer = Answer::Write { zxid, outcome };
        Some(((write.ticket, answer), write.reads))
    }

    /// The sequence of the oldest write that isn't answered.
    pub(super) fn oldest_pending(&self) -> Option<u64> {
        self.pending.front().map(|write| write.sequence)
    }

    fn take_unsent(&mut self, id: SessionId, now: Duration, requests: &mut Vec<RequestRecord>) {
        let Some(first) = self.pending.front() else {
            return;
        };
        let answered = first.sequence - 1;
        let sent = (self.sent_through - answered) as usize;
        if sent == 0 {
            self.progress_at = now;
        }
        for write in self.pending.iter().skip(sent) {
            requests.push(RequestRecord {
                session: id.0,
                attachment: self.attachment,
                sequence: write.sequence,
                answered,
                op: write.op.clone(),
                ..Default::default()
            });
            self.sent_through = write.sequence;
        }
        self.ever_sent_through = self.ever_sent_through.max(self.sent_through);
    }

    /// The session is over. Each ticket with whether its write may be in the log: a read, or a write
    /// that was never sent, certainly isn't.
    pub(super) fn into_ends(self) -> impl Iterator<Item = (Ticket, bool)> {
        let sent_through = self.ever_sent_through;
        self.pending.into_iter().flat_map(move |write| {
            let reads = write.reads.into_iter().map(|read| (read.ticket, false));
            std::iter::once((write.ticket, write.sequence <= sent_through)).chain(reads)
        })
    }

    fn into_tickets(self) -> impl Iterator<Item = Ticket> {
        self.into_ends().map(|(ticket, _)| ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionId = SessionId(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn origin() -> Origin {
        let mut origin = Origin::default();
        let asked = (Duration::ZERO, Keeper::Node);
        origin.attach(SESSION, 1, 0, SECOND, asked, Duration::ZERO);
        origin
    }

    fn sequences(requests: Vec<RequestRecord>) -> Vec<u64> {
        requests
            .into_iter()
            .map(|request| request.sequence)
            .collect()
    }

    fn push(origin: &mut Origin, ticket: u64) {
        origin.push_write(SESSION, Ticket(ticket), Bytes::new());
    }

    #[test]
    fn writes_are_sent_once_in_order_until_they_may_be_lost() {
        let mut origin = origin();
        push(&mut origin, 1);
        push(&mut origin, 2);
        assert_eq!(sequences(origin.take_unsent(Duration::ZERO)), [1, 2]);
        push(&mut origin, 3);
        assert_eq!(sequences(origin.take_unsent(Duration::ZERO)), [3]);
        origin.resend_all();
        assert_eq!(sequences(origin.take_unsent(Duration::ZERO)), [1, 2, 3]);
        assert!(!origin.has_unsent());
    }

    #[test]
    fn an_answered_write_is_never_sent_again_and_the_log_is_told() {
        let mut origin = origin();
        push(&mut origin, 1);
        push(&mut origin, 2);
        origin.take_unsent(Duration::ZERO);
        let session = origin.attached(SESSION, 1).unwrap();
        let ((ticket, _), _) = session
            .answer(1, (Zxid(1), Ok(crate::OpResult::Done)), SECOND)
            .unwrap();
        assert_eq!(ticket, Ticket(1));
        origin.resend_all();
        let again = origin.take_unsent(SECOND);
        assert_eq!(again[0].answered, 1);
        assert_eq!(sequences(again), [2]);
    }

    #[test]
    fn only_what_stands_still_is_sent_again_by_time() {
        let mut origin = origin();
        push(&mut origin, 1);
        origin.take_unsent(SECOND);
        origin.resend_sent_before(SECOND);
        assert!(!origin.has_unsent());
        origin.resend_sent_before(SECOND * 2);
        assert_eq!(sequences(origin.take_unsent(SECOND * 2)), [1]);
    }

    #[test]
    fn scenario_13_b_a_session_that_is_being_opened_is_asked_for_again_of_a_new_leader() {
        // ClickHouse #114401: the creation of a session was lost when the leader changed.
        let mut origin = Origin::default();
        let request = RequestRecord::default();
        origin.open(
            ([7; 16], None),
            Ticket(1),
            request,
            Keeper::Node,
            Duration::ZERO,
        );
        assert_eq!(origin.take_unsent(Duration::ZERO).len(), 1);
        assert_eq!(origin.take_unsent(Duration::ZERO).len(), 0);
        origin.resend_all();
        assert_eq!(origin.take_unsent(SECOND).len(), 1);
        assert!(origin.take_opening([7; 16], None).is_some());
        origin.resend_all();
        assert!(!origin.has_unsent());
    }

    #[test]
    fn scenario_18_e_a_session_is_certain_for_less_than_its_timeout_by_the_slowest_clock() {
        // Clock skew: a node whose clock is slow believed in its session when the leader, by a faster
        // clock, had ended it. Clocks may differ in rate by one sixteenth.
        for timeout in [SECOND, SECOND * 16, SECOND * 3600] {
            let by_the_slow_clock = certain_span(timeout);
            let by_the_fast_one = by_the_slow_clock + by_the_slow_clock / 16;
            assert!(by_the_fast_one < timeout);
        }
    }

    #[test]
    fn a_write_never_sent_certainly_did_not_happen() {
        let mut origin = origin();
        push(&mut origin, 1);
        origin.take_unsent(Duration::ZERO);
        push(&mut origin, 2);
        let ends: Vec<_> = origin.remove(SESSION).unwrap().into_ends().collect();
        assert_eq!(ends, [(Ticket(1), true), (Ticket(2), false)]);
    }

    #[test]
    fn a_write_that_is_to_be_sent_again_may_have_happened() {
        // Found by simulation: what was sent to a leader that fell was called not to have happened
        // when the session was lost before it could be sent to the next one.
        let mut origin = origin();
        push(&mut origin, 1);
        origin.take_unsent(Duration::ZERO);
        origin.resend_all();
        let ends: Vec<_> = origin.remove(SESSION).unwrap().into_ends().collect();
        assert_eq!(ends, [(Ticket(1), true)]);
    }

    #[test]
    fn a_read_behind_a_write_is_answered_right_after_it() {
        let mut origin = origin();
        let read = |ticket| DeferredRead {
            ticket: Ticket(ticket),
            read: None,
        };
        let session = origin.attached(SESSION, 1).unwrap();
        assert!(matches!(session.defer(read(9), 1), Deferral::Nothing(_)));
        push(&mut origin, 1);
        let session = origin.attached(SESSION, 1).unwrap();
        assert!(matches!(session.defer(read(2), 1), Deferral::Waits));
        push(&mut origin, 3);
        let session = origin.attached(SESSION, 1).unwrap();
        let (_, reads) = session
            .answer(1, (Zxid(1), Ok(crate::OpResult::Done)), SECOND)
            .unwrap();
        assert_eq!(reads.len(), 1);
        assert_eq!(reads[0].ticket, Ticket(2));
    }
}

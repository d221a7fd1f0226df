//! How this node keeps its sessions alive, and how it knows in time that it can't.
//!
//! A touch is a read barrier that names sessions. The leader's answer proves that it still led after
//! the touch was sent; so any later leader began after that moment too, and gives every session its
//! whole timeout again. Hence the cluster can't expire a session before *sent + timeout*, and the
//! node, by its own monotonic clock, calls it lost a little earlier than that.
//!
//! A session is named as long as this node runs, or, where its host keeps it alive for a client
//! elsewhere, when the host has heard of that client since the last time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::origin::certain_span;
use super::{PeerMessage, Replica, SessionChange, SessionEvent};
use crate::error::Error;
use crate::ids::SessionId;
use crate::replica::Answer;

/// When the sessions here are touched next.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    next_touch: Duration,
    /// When the leader last answered a touch.
    confirmed_at: Duration,
}

impl Liveness {
    /// Touches no later than that: a session has come whose timeout may be the shortest.
    fn touch_by(&mut self, moment: Duration) {
        self.next_touch = self.next_touch.min(moment);
    }

    /// There is a new leader: let it hear of us.
    pub(super) fn touch_at_once(&mut self) {
        self.next_touch = Duration::ZERO;
    }
}

impl Replica {
    /// A quarter of the shortest timeout: a touch may be lost twice and the session still lives.
    fn touch_interval(&self) -> Duration {
        let timeout = self.origin.timeout_min().unwrap_or(Duration::from_secs(1));
        (timeout / 4).max(self.options.tick)
    }

    /// A session was attached here that was asked for at `asked_at`: it has to be touched in time.
    pub(super) fn plan_touch(&mut self, asked_at: Duration) {
        let interval = self.touch_interval();
        self.liveness.touch_by(asked_at + interval);
    }

    /// Sends the barriers that wait, and the touch that is due, in one message.
    pub(super) fn send_barriers(&mut self) {
        let now = self.now.monotonic;
        let touch_due = self.origin.len() > 0 && now >= self.liveness.next_touch;
        if !touch_due && !self.barriers.has_queued() {
            return;
        }
        let Some(leader) = self.status.leader else {
            return;
        };
        let mut sessions = Vec::new();
        if touch_due {
            sessions = self.origin.take_alive();
            self.liveness.next_touch = now + self.touch_interval();
        }
        let id = self.barriers.launch(now, sessions.clone());
        if leader == self.options.id {
            self.on_barrier(leader, id, sessions);
        } else {
            self.send(leader, PeerMessage::Barrier { id, sessions });
        }
    }

    /// Gives up the barriers sent before `deadline`, to be sent again. The host won't say once more that
    /// it has heard of those clients, so the next touch says it.
    pub(super) fn retry_barriers(&mut self, deadline: Duration) {
        for id in self.barriers.retry_sent_before(deadline) {
            if let Some(session) = self.origin.session_mut(id) {
                session.heard = true;
            }
        }
    }

    pub(super) fn on_barrier_reply(&mut self, id: u64, index: u64, gone: &[SessionId]) {
        let Some(confirmed) = self.barriers.confirm(id, index) else {
            return;
        };
        self.liveness.confirmed_at = self.liveness.confirmed_at.max(confirmed.sent_at);
        // There may be as many as the node has sessions, of whom there may be many.
        let gone: BTreeSet<&SessionId> = gone.iter().collect();
        for id in confirmed.sessions {
            if !gone.contains(&id) {
                self.confirm_session(id, confirmed.sent_at);
            }
        }
        self.pass_barriers();
    }

    fn confirm_session(&mut self, id: SessionId, sent_at: Duration) {
        let now = self.now.monotonic;
        // An answer that comes when the session is over for its holders doesn't bring it back: whoever
        // asked in between was told so, and the next tick makes it final.
        let session = self.origin.session_mut(id).filter(|s| now < s.lost_at);
        let change = session.map(|session| {
            let until = sent_at + certain_span(session.timeout);
            session.certain_until = session.certain_until.max(until);
            session.lost_at = session.lost_at.max(session.certain_until);
            session.suspended = false;
            SessionChange {
                session: id,
                attachment: session.attachment,
                event: SessionEvent::Certain {
                    until: session.certain_until,
                },
            }
        });
        self.effects.sessions.extend(change);
    }

    /// Lets the reads go whose barrier is confirmed and applied.
    pub(super) fn pass_barriers(&mut self) {
        for waiter in self.barriers.take_applied(self.applied_index) {
            let read = super::DeferredRead {
                ticket: waiter.ticket,
                read: waiter.read,
            };
            // Its session's own writes it must see as well.
            self.read_behind_writes(waiter.session, read);
        }
    }

    /// Suspends sessions whose leader is silent, and ends those that may have been expired.
    pub(super) fn tick_liveness(&mut self) {
        let now = self.now.monotonic;
        let patience = self.touch_interval() + self.options.election_timeout;
        let silent = now.saturating_sub(self.liveness.confirmed_at) > patience;
        let leaderless = self.status.leader.is_none();
        let mut lost = Vec::new();
        for (id, session) in self.origin.iter_mut() {
            if now >= session.lost_at {
                lost.push(id);
                continue;
            }
            // A session younger than our patience was certain when it was opened.
            let young = session.certain_until
                >= now + certain_span(session.timeout).saturating_sub(patience);
            if !session.suspended && (leaderless || (silent && !young)) {
                session.suspended = true;
                self.effects.sessions.push(SessionChange {
                    session: id,
                    attachment: session.attachment,
                    event: SessionEvent::Suspended,
                });
            }
        }
        for id in lost {
            let reason = "the session was lost: the leader could not be reached within its timeout";
            self.end_session(id, SessionEvent::Lost, Error::OutcomeUnknown { reason });
        }
    }

    /// A session is over for this node. `maybe` answers the writes that may be in the log.
    pub(super) fn end_session(&mut self, id: SessionId, event: SessionEvent, maybe: Error) {
        let Some(local) = self.origin.remove(id) else {
            return;
        };
        self.effects.sessions.push(SessionChange {
            session: id,
            attachment: local.attachment,
            event,
        });
        let gone = match event {
            SessionEvent::Moved => Error::SessionMoved { session: id },
            _ => Error::SessionExpired { session: id },
        };
        for (ticket, maybe_happened) in local.into_ends() {
            let error = if maybe_happened {
                maybe.clone()
            } else {
                gone.clone()
            };
            self.answer(ticket, Answer::Failed(error));
        }
        for waiter in self.barriers.take_session(id) {
            self.answer(waiter.ticket, Answer::Failed(gone.clone()));
        }
    }
}

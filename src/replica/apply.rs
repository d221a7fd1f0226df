//! From committed entries to changes of the tree and answers.

use std::time::Duration;

use super::{Answer, Failure, Notice, Replica, SessionEvent};
use crate::error::Error;
use crate::ids::SessionId;
use crate::op::{Applied, Op, OpResult, Password, Request};
use crate::proto::{self, Batch};
use crate::storage::{EntryKind, LogEntry};

impl Replica {
    pub(super) fn apply(&mut self, entries: Vec<LogEntry>) {
        let Some(last) = entries.last() else {
            return;
        };
        let (index, term) = (last.index, last.term);
        for entry in entries {
            assert_eq!(
                entry.index,
                self.applied_index + 1,
                "the core gives committed entries out in order, each once"
            );
            self.snapshots.log_bytes += entry.data.len() as u64;
            #[cfg(any(test, feature = "testing"))]
            if let Some(witness) = &mut self.witness {
                witness.entry(&entry);
            }
            if entry.kind == EntryKind::Command
                && !entry.data.is_empty()
                && let Err(error) = self.apply_batch(&entry)
            {
                return self.fail(Failure::Entry {
                    index: entry.index,
                    reason: error.to_string(),
                });
            }
            self.applied_index = entry.index;
        }
        self.applied_term = term;
        self.core.applied(index);
        self.pass_barriers();
    }

    fn apply_batch(&mut self, entry: &LogEntry) -> Result<(), proto::RecordError> {
        let batch = Batch::decode(&entry.data, self.rules.own)?;
        self.state.follow(batch.rules);
        self.effects.applied = true;
        for record in batch.requests {
            let request = proto::decode_request(&record)?;
            #[cfg(any(test, feature = "testing"))]
            let changes_from = self.effects.changes.len();
            let applied = self
                .state
                .apply(batch.time_ms, &request, &mut self.effects.changes);
            #[cfg(any(test, feature = "testing"))]
            self.witness(&request, &applied, changes_from);
            self.settle(request, applied);
        }
        Ok(())
    }

    /// Tells whoever at this node has to do with a request what came of it.
    fn settle(&mut self, request: Request, applied: Applied) {
        match request.op {
            Op::OpenSession { .. } | Op::AttachSession { .. } => {
                let (password, owner, nonce) = match request.op {
                    Op::OpenSession {
                        password, owner, ..
                    } => (password, owner, None),
                    Op::AttachSession {
                        password,
                        owner,
                        nonce,
                        ..
                    } => (password, owner, Some(nonce)),
                    _ => unreachable!("it is one of the two"),
                };
                if owner == self.options.id {
                    self.settle_opening(password, nonce, &applied);
                }
                if let Applied::Now {
                    outcome: Ok(OpResult::Session { id, .. }),
                    ..
                } = applied
                {
                    self.notice_session(id);
                }
            }
            Op::ExpireSession { session, .. } => {
                let tracked = self.leads() && self.leadership.tracks(session);
                self.notice_session(session);
                if tracked && !self.leadership.tracks(session) {
                    let expired = Notice::SessionExpired { session };
                    self.effects.notices.push(expired);
                }
            }
            op => {
                let id = request.session;
                let closed = matches!((&op, &applied), (Op::CloseSession, Applied::Now { .. }));
                self.settle_write(id, request.attachment, request.sequence, applied);
                if closed {
                    self.track_session(id);
                    let gone = Error::SessionExpired { session: id };
                    self.end_session(id, SessionEvent::Closed, gone);
                }
            }
        }
    }

    fn settle_write(&mut self, id: SessionId, attachment: u32, sequence: u64, applied: Applied) {
        match applied {
            Applied::Now { zxid, outcome } => {
                let now = self.now.monotonic;
                let settled = self
                    .origin
                    .session_mut(id)
                    .filter(|session| session.attachment == attachment)
                    .and_then(|session| session.answer(sequence, (zxid, outcome), now));
                if let Some((answer, reads)) = settled {
                    self.effects.answers.push(answer);
                    for read in reads {
                        self.answer_read(id, read);
                    }
                }
            }
            // Answered when it was applied for the first time.
            Applied::Before(_) => {}
            Applied::Gap { .. } => {
                self.leadership.forget_proposed(id, attachment);
                self.origin.resend(id);
            }
            Applied::Refused(_) => {
                self.leadership.forget_proposed(id, attachment);
                self.notice_session(id);
            }
        }
    }

    fn settle_opening(&mut self, password: Password, nonce: Option<u64>, applied: &Applied) {
        let outcome = match applied {
            Applied::Now { outcome, .. } | Applied::Before(Some((_, outcome))) => outcome.clone(),
            Applied::Refused(error) => Err(error.clone()),
            Applied::Before(None) | Applied::Gap { .. } => return,
        };
        let Some(opening) = self.origin.take_opening(password, nonce) else {
            return;
        };
        match outcome {
            Ok(OpResult::Session {
                id,
                attachment,
                sequence,
                timeout_ms,
            }) => {
                let timeout = Duration::from_millis(timeout_ms.into());
                let now = self.now.monotonic;
                let asked = (opening.asked_at, opening.keeper);
                let orphans = self
                    .origin
                    .attach(id, attachment, sequence, timeout, asked, now);
                self.plan_touch(opening.asked_at);
                for ticket in orphans {
                    let moved = Error::SessionMoved { session: id };
                    self.answer(ticket, Answer::Failed(moved));
                }
                let session = self.origin.session(id).expect("it was just attached");
                let certain_until = session.certain_until;
                let answer = Answer::Session {
                    id,
                    attachment,
                    timeout_ms,
                    certain_until,
                };
                self.answer(opening.ticket, answer);
            }
            Ok(_) => unreachable!("a session's opening gives a session"),
            Err(error) => self.answer(opening.ticket, Answer::Failed(error)),
        }
    }

    /// The log has spoken of a session: has it ended, or gone elsewhere?
    ///
    /// Its writes that are not answered were not applied before, so they never will be.
    pub(super) fn notice_session(&mut self, id: SessionId) {
        self.track_session(id);
        if let Some(event) = self.session_ended(id) {
            let never = match event {
                SessionEvent::Moved => Error::SessionMoved { session: id },
                _ => Error::SessionExpired { session: id },
            };
            self.end_session(id, event, never);
        }
    }

    /// What has become of a session attached here that isn't any more.
    fn session_ended(&self, id: SessionId) -> Option<SessionEvent> {
        let local = self.origin.session(id)?;
        match self.state.session(id) {
            None => Some(SessionEvent::Lost),
            Some(session) if session.attachment != local.attachment => Some(SessionEvent::Moved),
            Some(_) => None,
        }
    }

    /// A snapshot has replaced the state: answer what it shows to be applied.
    pub(super) fn settle_after_snapshot(&mut self) {
        let now = self.now.monotonic;
        for id in self.origin.ids() {
            self.track_session(id);
            if let Some(event) = self.session_ended(id) {
                // Its writes may be among those that the snapshot stands for.
                let reason = "the session ended while its node was behind";
                self.end_session(id, event, Error::OutcomeUnknown { reason });
                continue;
            }
            while let Some(session) = self.origin.session_mut(id) {
                let Some(sequence) = session.oldest_pending() else {
                    break;
                };
                let Some(kept) = self.state.kept(id, sequence) else {
                    break;
                };
                let settled = session.answer(sequence, kept, now);
                let (answer, reads) = settled.expect("it is the oldest");
                self.effects.answers.push(answer);
                // The session's next write is in there as well: what these reads were to see, between
                // the two, is gone.
                let overtaken = self.state.kept(id, sequence + 1).is_some();
                for read in reads {
                    if overtaken {
                        self.answer(read.ticket, Answer::Failed(Error::Skipped));
                    } else {
                        self.answer_read(id, read);
                    }
                }
            }
        }
        self.pass_barriers();
    }
}

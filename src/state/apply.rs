//! One write after another: which ones take effect, as which zxid, and what became of them.
//!
//! A client's write is applied in its session's order, once. What is refused without a zxid leaves no
//! trace but that answered results are forgotten.

use std::sync::Arc;

use crate::acl::AuthId;
use crate::error::{Error, Result};
use crate::ids::{SessionId, Zxid};
use crate::op::{Applied, Change, Op, OpResult, Outcome, Request};
use crate::state::State;
use crate::state::sessions::{IDENTITIES_MAX, Place, Session};
use crate::state::znodes::{Write, Znodes, ephemerals_of};

impl State {
    /// Applies the next request of the log, stamped with the leader's time. Adds to `changes` what
    /// happened to the tree, in order.
    pub(crate) fn apply(
        &mut self,
        time_ms: i64,
        request: &Request,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let applied = match &request.op {
            Op::OpenSession { .. } | Op::AttachSession { .. } => {
                self.apply_to_session(self.next_zxid(), request)
            }
            Op::ExpireSession { .. } | Op::Reap { .. } if is_internal(request) => {
                let zxid = self.next_zxid();
                Applied::Now {
                    zxid,
                    outcome: self.apply_internal(zxid, time_ms, &request.op, changes),
                }
            }
            Op::CloseSession => self.apply_close(time_ms, request, changes),
            _ => self.apply_write(time_ms, request, changes),
        };
        if let Applied::Now { zxid, .. } = applied {
            self.zxid = zxid;
            self.time_ms = time_ms;
            let tree = &self.znodes.tree;
            self.digests.applied(zxid, || tree.digest());
        }
        applied
    }

    pub(super) fn next_zxid(&self) -> Zxid {
        Zxid(self.zxid.0 + 1)
    }

    fn apply_write(
        &mut self,
        time_ms: i64,
        request: &Request,
        changes: &mut Vec<Change>,
    ) -> Applied {
        let zxid = self.next_zxid();
        let session = match admit(self.sessions.of_write(request), request) {
            Ok(session) => session,
            Err(applied) => return applied,
        };
        let outcome = match &request.op {
            Op::AddAuth(identity) => add_identity(session, identity),
            op => {
                let identities = &session.identities;
                let mut write = Write {
                    zxid,
                    time_ms,
                    session: request.session,
                    identities,
                    changes,
                };
                self.znodes.apply(&mut write, op)
            }
        };
        session.keep(zxid, outcome.clone(), self.znodes.settings.results_kept_max);
        Applied::Now { zxid, outcome }
    }

    /// Closes a session. Nothing is kept of it, so a repetition is refused as expired: then it happened.
    fn apply_close(
        &mut self,
        time_ms: i64,
        request: &Request,
        changes: &mut Vec<Change>,
    ) -> Applied {
        if let Err(applied) = admit(self.sessions.of_write(request), request) {
            return applied;
        }
        let zxid = self.next_zxid();
        self.end_session(zxid, time_ms, request.session, changes);
        Applied::Now {
            zxid,
            outcome: Ok(OpResult::Done),
        }
    }

    fn apply_internal(
        &mut self,
        zxid: Zxid,
        time_ms: i64,
        op: &Op,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        match op {
            Op::ExpireSession {
                session,
                attachment,
            } => {
                let silent = self.session(*session);
                if silent.is_some_and(|session| session.attachment == *attachment) {
                    self.end_session(zxid, time_ms, *session, changes);
                }
                Ok(OpResult::Done)
            }
            Op::Reap { path, czxid } => {
                let mut write = Write {
                    zxid,
                    time_ms,
                    session: SessionId::NONE,
                    identities: &[],
                    changes,
                };
                self.znodes.reap(&mut write, path, *czxid)
            }
            _ => unreachable!("only these two are internal"),
        }
    }

    /// Takes a session away, and its ephemerals with it, in the order of their paths.
    fn end_session(
        &mut self,
        zxid: Zxid,
        time_ms: i64,
        session: SessionId,
        changes: &mut Vec<Change>,
    ) {
        if !self.sessions.remove(session) {
            return;
        }
        let ephemerals: Vec<_> = ephemerals_of(&self.znodes.ephemerals, session)
            .cloned()
            .collect();
        let mut write = Write {
            zxid,
            time_ms,
            session,
            identities: &[],
            changes,
        };
        for path in ephemerals {
            self.znodes.remove(&mut write, &path);
        }
    }
}

/// Whether a request is the leader's own. A client has a session and counts its writes.
fn is_internal(request: &Request) -> bool {
    request.session == SessionId::NONE && request.sequence == 0
}

/// The session of a write whose turn it is, or the answer to one whose turn it isn't.
fn admit<'a>(
    session: Result<&'a mut Session>,
    request: &Request,
) -> std::result::Result<&'a mut Session, Applied> {
    let session = session.map_err(Applied::Refused)?;
    session.forget_answered(request.answered);
    match session.place(request.sequence) {
        Place::Next => Ok(session),
        Place::Before(kept) => Err(Applied::Before(kept)),
        Place::Gap { expected } => Err(Applied::Gap { expected }),
    }
}

fn add_identity(session: &mut Session, identity: &AuthId) -> Outcome {
    if !session.identities.contains(identity) {
        if session.identities.len() >= IDENTITIES_MAX {
            return Err(Error::AuthFailed {
                scheme: identity.scheme.clone(),
                reason: format!("the session has proven {IDENTITIES_MAX} identities already"),
            });
        }
        // A session comes from one address: where it is attached again, its former one is nobody's.
        let kept = |known: &&AuthId| known.scheme != "ip" || identity.scheme != "ip";
        session.identities = session
            .identities
            .iter()
            .filter(kept)
            .chain([identity])
            .cloned()
            .collect::<Arc<[_]>>();
    }
    Ok(OpResult::Done)
}

impl Znodes {
    fn apply(&mut self, write: &mut Write<'_>, op: &Op) -> Outcome {
        match op {
            Op::Create {
                path,
                data,
                acl,
                mode,
            } => self.create(write, path, data, acl, *mode),
            Op::Delete { path, version } => self.delete(write, path, *version),
            Op::SetData {
                path,
                data,
                version,
            } => self.set(write, path, data, *version),
            Op::SetAcl { path, acl, version } => self.change_acl(write, path, acl, *version),
            Op::Multi(ops) => self.multi(write, ops),
            Op::Check { .. } => Err(Error::Unimplemented {
                what: "check outside of a multi",
            }),
            // Never accepted from a client, whatever it sends.
            Op::ExpireSession { .. } | Op::Reap { .. } => Err(Error::Unimplemented {
                what: "an internal operation",
            }),
            Op::OpenSession { .. }
            | Op::AttachSession { .. }
            | Op::CloseSession
            | Op::AddAuth(_) => {
                unreachable!("operations on sessions don't come here")
            }
        }
    }
}

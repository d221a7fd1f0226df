//! Sessions opened, and attached to another node.
//!
//! Both may be repeated by an origin that has not seen the answer, and may come late, when the session
//! is elsewhere already. An opening is known by its password, an attach by its nonce. A repetition of the
//! latest is answered like it; one of an earlier is refused as moved, so that a late duplicate can't take
//! a session away from its owner.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::Error;
use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::{Applied, Op, Password, Request};
use crate::state::State;
use crate::state::sessions::{FIRST_ATTACHMENT, NONCES_KEPT, Session};

impl State {
    pub(super) fn apply_to_session(&mut self, zxid: Zxid, request: &Request) -> Applied {
        let attached = match &request.op {
            Op::OpenSession {
                password,
                timeout_ms,
                owner,
            } => self.open_session(zxid, password, *timeout_ms, *owner),
            Op::AttachSession {
                password,
                timeout_ms,
                owner,
                nonce,
            } => {
                let id = request.session;
                self.attach_session(id, password, *timeout_ms, *owner, *nonce)
                    .map(|()| id)
            }
            _ => unreachable!("only these two come here"),
        };
        match attached {
            Ok(id) => {
                let session = self.sessions.session(id).expect("it was just attached");
                Applied::Now {
                    zxid,
                    outcome: Ok(session.result(id)),
                }
            }
            Err(error) => Applied::Refused(error),
        }
    }

    fn open_session(
        &mut self,
        zxid: Zxid,
        password: &Password,
        timeout_ms: u32,
        owner: NodeId,
    ) -> Result<SessionId, Error> {
        if let Some(id) = self.sessions.of_password(password) {
            let session = self
                .sessions
                .session(id)
                .expect("a password is a session's");
            return match session.attachment {
                FIRST_ATTACHMENT => Ok(id),
                _ => Err(Error::SessionMoved { session: id }),
            };
        }
        let id = SessionId(i64::try_from(zxid.0).expect("fewer than 2^63 writes"));
        let session = Session {
            password: *password,
            timeout_ms: self.znodes.settings.clamp_timeout(timeout_ms),
            owner,
            attachment: FIRST_ATTACHMENT,
            nonces: VecDeque::new(),
            identities: Arc::default(),
            last_sequence: 0,
            kept: VecDeque::new(),
        };
        self.sessions.insert(id, session);
        Ok(id)
    }

    fn attach_session(
        &mut self,
        id: SessionId,
        password: &Password,
        timeout_ms: u32,
        owner: NodeId,
        nonce: u64,
    ) -> Result<(), Error> {
        let timeout_ms = self.znodes.settings.clamp_timeout(timeout_ms);
        let session = self
            .sessions
            .session_mut(id)
            .ok_or(Error::SessionExpired { session: id })?;
        if !session.has_password(password) {
            return Err(Error::WrongPassword { session: id });
        }
        if session.nonces.back() == Some(&nonce) {
            return Ok(());
        }
        if session.nonces.contains(&nonce) {
            return Err(Error::SessionMoved { session: id });
        }
        if session.nonces.len() == NONCES_KEPT {
            session.nonces.pop_front();
        }
        session.nonces.push_back(nonce);
        session.attachment = session.attachment.wrapping_add(1).max(FIRST_ATTACHMENT + 1);
        session.owner = owner;
        session.timeout_ms = timeout_ms;
        Ok(())
    }
}

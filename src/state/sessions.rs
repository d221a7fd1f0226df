//! The sessions: who they are, what they have proven, and the results of their last writes.
//!
//! It decides whether a write of a session is the next, one that was applied before, or one too
//! early, and keeps the results that the origin may not have seen. It knows no znodes: that a
//! session's ephemerals go with it is the business of `apply`. Invariant: the kept results of a
//! session are consecutive, and the last of them is that of `last_sequence`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use imbl::OrdMap;
use subtle::ConstantTimeEq as _;

use crate::acl::AuthId;
use crate::error::Error;
use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::{OpResult, Outcome, Password, Request};

/// The attachment that a session has when it was opened and never attached again.
pub(crate) const FIRST_ATTACHMENT: u32 = 0;

/// The most nonces remembered of a session: an attach repeated later than that many others counts as new.
pub(crate) const NONCES_KEPT: usize = 16;

/// The most identities that a session proves.
pub(crate) const IDENTITIES_MAX: usize = 64;

/// The result of a write that its origin may not have seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KeptResult {
    pub sequence: u64,
    pub zxid: Zxid,
    pub outcome: Outcome,
}

/// A session, as the log made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Session {
    pub password: Password,
    pub timeout_ms: u32,
    /// The node that it is attached to.
    pub owner: NodeId,
    /// Counts its attachments after the first.
    pub attachment: u32,
    /// The nonces of its latest attachments, oldest first.
    pub nonces: VecDeque<u64>,
    /// In the order in which they were proven, each once.
    pub identities: Arc<[AuthId]>,
    /// The sequence of the last write applied.
    pub last_sequence: u64,
    /// The results of its last writes, oldest first.
    pub kept: VecDeque<KeptResult>,
}

/// What a write is in its session's order.
pub(crate) enum Place {
    /// The next one.
    Next,
    /// It was applied before; its result, where it is still kept.
    Before(Option<(Zxid, Outcome)>),
    /// An earlier write of the session is missing.
    Gap { expected: u64 },
}

impl Session {
    pub(crate) fn has_password(&self, password: &Password) -> bool {
        self.password.ct_eq(password).into()
    }

    /// Where a write stands.
    pub(crate) fn place(&self, sequence: u64) -> Place {
        if sequence <= self.last_sequence {
            Place::Before(
                self.kept(sequence)
                    .map(|kept| (kept.zxid, kept.outcome.clone())),
            )
        } else if sequence == self.last_sequence + 1 {
            Place::Next
        } else {
            Place::Gap {
                expected: self.last_sequence + 1,
            }
        }
    }

    /// The kept result of a write.
    pub(crate) fn kept(&self, sequence: u64) -> Option<&KeptResult> {
        let first = self.kept.front()?.sequence;
        self.kept
            .get(usize::try_from(sequence.checked_sub(first)?).ok()?)
    }

    /// Forgets the results that the origin has.
    pub(crate) fn forget_answered(&mut self, answered: u64) {
        while self
            .kept
            .front()
            .is_some_and(|kept| kept.sequence <= answered)
        {
            self.kept.pop_front();
        }
    }

    /// Keeps the result of the write that has just been applied.
    pub(crate) fn keep(&mut self, zxid: Zxid, outcome: Outcome, results_kept_max: u32) {
        self.last_sequence += 1;
        self.kept.push_back(KeptResult {
            sequence: self.last_sequence,
            zxid,
            outcome,
        });
        while self.kept.len() > results_kept_max as usize {
            self.kept.pop_front();
        }
    }

    /// What opening or attaching it answers.
    pub(crate) fn result(&self, id: SessionId) -> OpResult {
        OpResult::Session {
            id,
            attachment: self.attachment,
            sequence: self.last_sequence,
            timeout_ms: self.timeout_ms,
        }
    }

    fn published(&self) -> PublishedSession {
        PublishedSession {
            timeout_ms: self.timeout_ms,
            owner: self.owner,
            attachment: self.attachment,
            identities: self.identities.clone(),
            last_sequence: self.last_sequence,
        }
    }
}

/// What readers know of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PublishedSession {
    pub timeout_ms: u32,
    /// The node that it is attached to.
    pub owner: NodeId,
    /// See [`Request::attachment`].
    pub attachment: u32,
    pub identities: Arc<[AuthId]>,
    /// The sequence of the last write applied.
    pub last_sequence: u64,
}

/// All sessions, sorted by id. What was frozen stays as it was while writes go on.
pub(crate) type SessionMap = OrdMap<SessionId, Arc<Session>>;

/// All sessions as readers know them.
pub(crate) type PublishedSessions = OrdMap<SessionId, PublishedSession>;

/// The writer's sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    map: SessionMap,
    /// The session of each password, to know a repeated opening by.
    by_password: BTreeMap<Password, SessionId>,
    published: PublishedSessions,
    /// What `published` lacks; may name a session more than once.
    touched: Vec<SessionId>,
}

impl Sessions {
    pub(crate) fn new(map: SessionMap) -> Sessions {
        let published = map
            .iter()
            .map(|(&id, session)| (id, session.published()))
            .collect();
        let by_password = map
            .iter()
            .map(|(&id, session)| (session.password, id))
            .collect();
        Sessions {
            map,
            by_password,
            published,
            touched: Vec::new(),
        }
    }

    pub(crate) fn map(&self) -> &SessionMap {
        &self.map
    }

    pub(crate) fn session(&self, id: SessionId) -> Option<&Session> {
        self.map.get(&id).map(|session| &**session)
    }

    /// The session, to be changed.
    pub(crate) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let session = self.map.get_mut(&id)?;
        if self.touched.last() != Some(&id) {
            if self.touched.len() >= 2 * self.published.len() + 64 {
                self.touched.sort_unstable();
                self.touched.dedup();
            }
            self.touched.push(id);
        }
        Some(Arc::make_mut(session))
    }

    /// Whether each session can be told by its password.
    pub(crate) fn passwords_differ(&self) -> bool {
        self.by_password.len() == self.map.len()
    }

    /// The session that was opened with a password.
    pub(crate) fn of_password(&self, password: &Password) -> Option<SessionId> {
        self.by_password.get(password).copied()
    }

    pub(crate) fn insert(&mut self, id: SessionId, session: Session) {
        self.touched.push(id);
        self.by_password.insert(session.password, id);
        self.map.insert(id, Arc::new(session));
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> bool {
        self.touched.push(id);
        let removed = self.map.remove(&id);
        if let Some(session) = &removed {
            self.by_password.remove(&session.password);
        }
        removed.is_some()
    }

    /// The session that a client's write belongs to, if it may make it.
    ///
    /// # Errors
    /// [`Error::SessionExpired`], [`Error::SessionMoved`].
    pub(crate) fn of_write(&mut self, request: &Request) -> Result<&mut Session, Error> {
        let session = self
            .session_mut(request.session)
            .ok_or(Error::SessionExpired {
                session: request.session,
            })?;
        if session.attachment != request.attachment {
            return Err(Error::SessionMoved {
                session: request.session,
            });
        }
        Ok(session)
    }

    /// Brings what readers get up to date, and gives it.
    pub(crate) fn publish(&mut self) -> PublishedSessions {
        for id in self.touched.drain(..) {
            match self.map.get(&id) {
                Some(session) => self.published.insert(id, session.published()),
                None => self.published.remove(&id),
            };
        }
        self.published.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            password: [7; 16],
            timeout_ms: 4000,
            owner: NodeId::new(1).unwrap(),
            attachment: FIRST_ATTACHMENT,
            nonces: VecDeque::new(),
            identities: Arc::default(),
            last_sequence: 0,
            kept: VecDeque::new(),
        }
    }

    fn kept(session: &Session) -> Vec<u64> {
        session.kept.iter().map(|kept| kept.sequence).collect()
    }

    #[test]
    fn results_go_when_they_are_answered() {
        let mut session = session();
        for zxid in 1..=5 {
            session.keep(Zxid(zxid), Ok(OpResult::Deleted), 100);
        }
        session.forget_answered(3);
        assert_eq!(kept(&session), [4, 5]);
        assert!(session.kept(3).is_none() && session.kept(6).is_none());
        assert_eq!(session.kept(5).unwrap().zxid, Zxid(5));
    }

    #[test]
    fn the_oldest_results_go_when_there_are_too_many() {
        let mut session = session();
        for zxid in 1..=5 {
            session.keep(Zxid(zxid), Ok(OpResult::Deleted), 2);
        }
        assert_eq!(kept(&session), [4, 5]);
    }

    #[test]
    fn only_its_own_bytes_are_a_password() {
        let mut other = [7; 16];
        assert!(session().has_password(&other));
        other[15] = 8;
        assert!(!session().has_password(&other));
    }
}

//! Calls on their way from a client's thread to the loop, and their answers on the way back.

use std::sync::Arc;

use bytes::Bytes;

use super::members::Members;
use super::shared::{SessionHandle, SessionShared};
use super::watches::{WatchKind, WatchQueue};
use crate::error::{Error, Result};
use crate::ids::{SessionId, Zxid};
use crate::observe::{CallKind, Stopwatch};
use crate::op::{Keeper, OpResult, Password, ReadOp};
use crate::path::ZnodePath;
use crate::replica::{Abandonment, Answer, MembershipRequest};
use crate::state::{Frozen, ReadResult};
use crate::storage::SnapshotMeta;

/// What a client's thread asks of the loop.
pub(crate) enum Command {
    Open {
        password: Password,
        timeout_ms: u32,
        keeper: Keeper,
        call: Call,
    },
    Attach {
        session: SessionId,
        password: Password,
        timeout_ms: u32,
        nonce: u64,
        keeper: Keeper,
        call: Call,
    },
    Write {
        session: SessionId,
        attachment: u32,
        op: Bytes,
        call: Call,
    },
    Read {
        session: SessionId,
        attachment: u32,
        read: ReadOp,
        call: Call,
    },
    Barrier {
        session: SessionId,
        attachment: u32,
        read: Option<ReadOp>,
        call: Call,
    },
    Membership {
        request: MembershipRequest,
        call: Call,
    },
    /// Freeze the state for a backup.
    Freeze {
        call: Call,
    },
    /// The host has heard of the session's client.
    Touch {
        session: SessionId,
        attachment: u32,
    },
    /// No handle to the session is left.
    Abandon(Abandoned),
    Stop,
}

impl Command {
    /// What it asks for.
    pub(super) fn kind(&self) -> CallKind {
        match self {
            Command::Write { .. } => CallKind::Write,
            Command::Read { .. } => CallKind::Read,
            Command::Barrier { .. } => CallKind::Barrier,
            Command::Open { .. }
            | Command::Attach { .. }
            | Command::Touch { .. }
            | Command::Abandon(_)
            | Command::Stop => CallKind::Session,
            Command::Membership { .. } => CallKind::Membership,
            Command::Freeze { .. } => CallKind::Backup,
        }
    }

    /// The call that waits for it.
    pub(crate) fn into_call(self) -> Option<Call> {
        match self {
            Command::Open { call, .. }
            | Command::Attach { call, .. }
            | Command::Write { call, .. }
            | Command::Read { call, .. }
            | Command::Barrier { call, .. }
            | Command::Membership { call, .. }
            | Command::Freeze { call } => Some(call),
            Command::Touch { .. } | Command::Abandon(_) | Command::Stop => None,
        }
    }
}

/// A session that nobody can use any more.
#[derive(Clone, Copy)]
pub(crate) struct Abandoned {
    pub session: SessionId,
    pub attachment: u32,
    pub abandonment: Abandonment,
}

/// A session that is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub password: Password,
    /// Who will keep it alive.
    pub keeper: Keeper,
    /// What becomes of it where nobody takes the answer.
    pub untaken: Abandonment,
}

/// A watch to be set by a read, if it succeeds.
pub(crate) struct WatchRequest {
    pub queue: Arc<WatchQueue>,
    pub path: ZnodePath,
    pub kind: WatchKind,
}

/// What was published at one moment, to be written elsewhere.
pub(crate) struct FrozenState {
    pub meta: SnapshotMeta,
    pub zxid: Zxid,
    pub frozen: Frozen,
}

/// An answer, and which state of the tree it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stamped<T> {
    /// For a write that was applied, failed or not, its own zxid. For a read or a barrier, the last
    /// write that it could see. 0 for a call that was refused before, and for a session.
    pub zxid: Zxid,
    /// What came of the call.
    pub result: Result<T>,
}

/// What an answer holds.
pub(crate) enum Value {
    Write(OpResult),
    Read(ReadResult),
    Session(SessionHandle),
    Members(Members),
    Frozen(Box<FrozenState>),
    /// A barrier was passed.
    Done,
}

/// Whoever waits for an answer. One that has stopped waiting is no error.
///
/// A call that is dropped was not answered because its node's loop is gone. It says so.
pub(crate) struct Call {
    answer: Option<oneshot::Sender<Stamped<Value>>>,
    purpose: Purpose,
    /// Set when the loop has taken it, so that a write may be on its way.
    taken: Option<CallKind>,
    called_at: Stopwatch,
}

impl Drop for Call {
    fn drop(&mut self) {
        let reason = "its loop has ended";
        let error = if self.taken.is_some() {
            Error::OutcomeUnknown { reason }
        } else {
            Error::Stopped {
                reason: reason.to_string(),
            }
        };
        self.finish(Zxid(0), Err(error));
    }
}

/// What is to be done besides answering.
enum Purpose {
    /// A write, which its session counts until it is answered.
    Write(Arc<SessionShared>),
    /// A read that sets a watch.
    Watch(WatchRequest),
    Session(Asked),
    Nothing,
}

impl Call {
    /// A call, and where its answer comes out.
    pub(crate) fn new() -> (Call, oneshot::Receiver<Stamped<Value>>) {
        Call::with(Purpose::Nothing)
    }

    /// A write of this session, which counts it from now on.
    pub(crate) fn write(session: Arc<SessionShared>) -> (Call, oneshot::Receiver<Stamped<Value>>) {
        session.write_called();
        Call::with(Purpose::Write(session))
    }

    /// A read that sets a watch when it succeeds.
    pub(crate) fn watch(watch: WatchRequest) -> (Call, oneshot::Receiver<Stamped<Value>>) {
        Call::with(Purpose::Watch(watch))
    }

    /// Asks for a session.
    pub(crate) fn session(asked: Asked) -> (Call, oneshot::Receiver<Stamped<Value>>) {
        Call::with(Purpose::Session(asked))
    }

    fn with(purpose: Purpose) -> (Call, oneshot::Receiver<Stamped<Value>>) {
        let (answer, receiver) = oneshot::channel();
        (
            Call {
                answer: Some(answer),
                purpose,
                taken: None,
                called_at: Stopwatch::start(),
            },
            receiver,
        )
    }

    /// The loop has it.
    pub(super) fn take(&mut self, kind: CallKind) {
        self.taken = Some(kind);
    }

    /// What it asks for, where the loop has it.
    pub(super) fn kind(&self) -> Option<CallKind> {
        self.taken
    }

    /// When it was made.
    pub(super) fn called_at(&self) -> Stopwatch {
        self.called_at
    }

    /// The session that it asks for.
    pub(super) fn asked(&self) -> Option<Asked> {
        match self.purpose {
            Purpose::Session(asked) => Some(asked),
            _ => None,
        }
    }

    /// Whether it asks for a session that nobody waits for any more.
    pub(super) fn asks_for_nobody(&self) -> bool {
        let waits = |answer: &oneshot::Sender<_>| !answer.is_closed();
        matches!(self.purpose, Purpose::Session(_)) && !self.answer.as_ref().is_some_and(waits)
    }

    /// The watch that a read sets by this answer, for changes after the zxid.
    pub(super) fn watch_set(&self, read: &Answer) -> Option<(&WatchRequest, Zxid)> {
        match (&self.purpose, read) {
            (
                Purpose::Watch(watch),
                Answer::Read {
                    zxid,
                    result: Ok(_),
                },
            ) => Some((watch, *zxid)),
            _ => None,
        }
    }

    pub(super) fn give(mut self, value: Value) {
        self.finish(Zxid(0), Ok(value));
    }

    pub(super) fn fail(mut self, error: Error) {
        self.finish(Zxid(0), Err(error));
    }

    pub(super) fn answer(mut self, answer: Answer) {
        let (zxid, result) = match answer {
            Answer::Write { zxid, outcome } => (zxid, outcome.map(Value::Write)),
            Answer::Read { zxid, result } => (zxid, result.map(Value::Read)),
            Answer::Barrier { zxid } => (zxid, Ok(Value::Done)),
            Answer::Members(members) => (Zxid(0), Ok(Value::Members(members.into()))),
            Answer::Failed(error) => (Zxid(0), Err(error)),
            Answer::Session { .. } => unreachable!("the driver makes the session"),
        };
        self.finish(zxid, result);
    }

    /// The first result is the answer.
    fn finish(&mut self, zxid: Zxid, result: Result<Value>) {
        let Some(answer) = self.answer.take() else {
            return;
        };
        if let Purpose::Write(session) = &self.purpose {
            session.write_answered();
        }
        let _ = answer.send(Stamped { zxid, result });
    }
}

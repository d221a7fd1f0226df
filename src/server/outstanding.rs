//! Requests that are not answered yet, and how their answers look on the wire.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::jute::{MultiOutcome, Writer, code_of_read};
use super::reconfig::{Outcome, Refusal};
use crate::{
    Acl, ChildNames, Created, Error, OpResult, Pending, ReadAnswer, Result, Stamped, Stat,
    ZnodeData, ZnodePath, Zxid,
};

/// What can't be understood, or can't be said (`KeeperException.MarshallingErrorException`).
pub(super) const MARSHALLING_ERROR: i32 = -5;

/// A request in its place.
pub(super) struct Outstanding {
    pub xid: i32,
    pub opcode: i32,
    pub called_at: Instant,
    pub awaited: Awaited,
    /// Whether it sets a watch when it succeeds: no event may come before its reply that isn't older.
    pub sets_watch: bool,
    /// How long its frame was.
    pub bytes: usize,
}

/// What requests weigh that are not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Load {
    pub requests: usize,
    /// How long their frames were, together.
    pub bytes: usize,
}

/// What a request waits for.
pub(super) enum Awaited {
    /// Nothing.
    Known {
        zxid: Zxid,
        error: i32,
        body: Vec<u8>,
    },
    /// Of our own: no reply.
    Internal(Pending<()>),
    Created(Pending<Created>, WithStat),
    Deleted(Pending<()>),
    Set(Pending<Stat>),
    Exists(Pending<Option<Stat>>),
    Data(Pending<(ZnodeData, Stat)>),
    Children(Pending<(ChildNames, Stat)>, WithStat),
    Acl(Pending<(Vec<Acl>, Stat)>),
    Synced(Pending<()>, String),
    Multi(Pending<Vec<OpResult>>, Vec<WithStat>),
    MultiRead(Pending<Vec<Result<ReadAnswer>>>),
    Ephemerals(Pending<Vec<ZnodePath>>),
    Number(Pending<usize>),
    Reconfigured(oneshot::Receiver<Outcome>),
    /// With what is to be said if it fails: then the connection is closed.
    Authenticated(Pending<()>),
    Closed(Pending<()>),
}

/// Whether a reply has the znode's stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WithStat {
    Yes,
    No,
}

/// What is to be sent.
pub(super) struct Settled {
    /// As of which write.
    pub zxid: Zxid,
    pub error: i32,
    pub then: Then,
}

/// What to do with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    Reply,
    /// It isn't the client's.
    Silence,
    /// Reply, and close the connection.
    ReplyAndClose,
    /// The client learns nothing but that the connection is gone.
    Close(&'static str),
}

impl Awaited {
    /// Whether the answer is there, and only waits for its turn.
    pub(super) fn is_answered(&self) -> bool {
        match self {
            Awaited::Known { .. } => true,
            Awaited::Internal(pending)
            | Awaited::Deleted(pending)
            | Awaited::Synced(pending, _)
            | Awaited::Authenticated(pending)
            | Awaited::Closed(pending) => pending.is_answered(),
            Awaited::Created(pending, _) => pending.is_answered(),
            Awaited::Set(pending) => pending.is_answered(),
            Awaited::Exists(pending) => pending.is_answered(),
            Awaited::Data(pending) => pending.is_answered(),
            Awaited::Children(pending, _) => pending.is_answered(),
            Awaited::Acl(pending) => pending.is_answered(),
            Awaited::Multi(pending, _) => pending.is_answered(),
            Awaited::MultiRead(pending) => pending.is_answered(),
            Awaited::Ephemerals(pending) => pending.is_answered(),
            Awaited::Number(pending) => pending.is_answered(),
            Awaited::Reconfigured(answer) => answer.has_message() || answer.is_closed(),
        }
    }

    /// The answer, if it is there, its body appended to `body`: an error where that would be longer than it
    /// may be.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        (body, bytes_max): (&mut Vec<u8>, usize),
    ) -> Poll<Settled> {
        let mut writer = Writer::limited(body, bytes_max);
        let settled = self.write(context, &mut writer);
        let written = writer.finish();
        settled.map(|mut settled| {
            if written.is_err() {
                settled.error = MARSHALLING_ERROR;
            }
            settled
        })
    }

    fn write(&mut self, context: &mut Context<'_>, writer: &mut Writer<'_>) -> Poll<Settled> {
        match self {
            Awaited::Known {
                zxid,
                error,
                body: known,
            } => {
                writer.raw(known);
                Poll::Ready(Settled {
                    zxid: *zxid,
                    error: *error,
                    then: Then::Reply,
                })
            }
            Awaited::Internal(pending) => settle(pending, context, Error::code, |()| {})
                .map(|settled| settled.then(Then::Silence, Then::Close("it got no identity"))),
            Awaited::Created(pending, with_stat) => {
                settle(pending, context, Error::code, |created| {
                    writer.string(&created.path);
                    if *with_stat == WithStat::Yes {
                        writer.stat(&created.stat);
                    }
                })
            }
            Awaited::Deleted(pending) => settle(pending, context, Error::code, |()| {}),
            Awaited::Set(pending) => {
                settle(pending, context, Error::code, |stat| writer.stat(&stat))
            }
            Awaited::Exists(pending) => settle_existence(pending, context, writer),
            Awaited::Data(pending) => settle(pending, context, code_of_read, |(data, stat)| {
                writer.buffer(&data);
                writer.stat(&stat);
            }),
            Awaited::Children(pending, with_stat) => {
                settle(pending, context, code_of_read, |(children, stat)| {
                    writer.count(children.len());
                    for name in &children {
                        writer.string(name);
                    }
                    if *with_stat == WithStat::Yes {
                        writer.stat(&stat);
                    }
                })
            }
            Awaited::Acl(pending) => settle(pending, context, code_of_read, |(acl, stat)| {
                writer.acl(&acl);
                writer.stat(&stat);
            }),
            Awaited::Synced(pending, path) => {
                settle(pending, context, Error::code, |()| writer.string(path))
            }
            Awaited::Reconfigured(answer) => {
                let Poll::Ready(answer) = Pin::new(answer).poll(context) else {
                    return Poll::Pending;
                };
                Poll::Ready(match answer {
                    Ok(Ok((text, stat))) => {
                        writer.buffer(text.as_bytes());
                        writer.stat(&stat);
                        Settled {
                            zxid: stat.mzxid,
                            error: 0,
                            then: Then::Reply,
                        }
                    }
                    // Whether something was changed the znode will say.
                    Ok(Err(Refusal::Unreadable)) => Settled {
                        zxid: Zxid(0),
                        error: MARSHALLING_ERROR,
                        then: Then::Reply,
                    },
                    Ok(Err(Refusal::Error(Error::Timeout))) | Err(_) => {
                        let reason = "the outcome of a reconfiguration is unknown";
                        failed(Zxid(0), &Error::OutcomeUnknown { reason }, Error::code)
                    }
                    Ok(Err(Refusal::Error(error))) => failed(Zxid(0), &error, Error::code),
                })
            }
            Awaited::Multi(pending, kinds) => settle_multi(pending, context, kinds, writer),
            Awaited::MultiRead(pending) => settle(pending, context, code_of_read, |answers| {
                let mut outcome = MultiOutcome(writer);
                for answer in &answers {
                    outcome.read(answer);
                }
                outcome.end();
            }),
            Awaited::Ephemerals(pending) => settle(pending, context, code_of_read, |paths| {
                writer.count(paths.len());
                for path in &paths {
                    writer.string(path.as_str());
                }
            }),
            Awaited::Number(pending) => settle(pending, context, code_of_read, |number| {
                writer.int(i32::try_from(number).unwrap_or(i32::MAX));
            }),
            Awaited::Authenticated(pending) => settle(pending, context, Error::code, |()| {})
                .map(|settled| settled.then(Then::Reply, Then::ReplyAndClose)),
            Awaited::Closed(pending) => settle(pending, context, Error::code, |()| {})
                .map(|settled| settled.then(Then::ReplyAndClose, Then::ReplyAndClose)),
        }
    }
}

impl Settled {
    fn then(mut self, well: Then, badly: Then) -> Settled {
        if self.then == Then::Reply {
            self.then = if self.error == 0 { well } else { badly };
        }
        self
    }
}

fn settle<T>(
    pending: &mut Pending<T>,
    context: &mut Context<'_>,
    code: fn(&Error) -> i32,
    write: impl FnOnce(T),
) -> Poll<Settled> {
    pending
        .poll_stamped(context)
        .map(|Stamped { zxid, result }| match result {
            Ok(value) => {
                write(value);
                Settled {
                    zxid,
                    error: 0,
                    then: Then::Reply,
                }
            }
            Err(error) => failed(zxid, &error, code),
        })
}

fn failed(zxid: Zxid, error: &Error, code: fn(&Error) -> i32) -> Settled {
    Settled {
        zxid,
        error: code(error),
        then: match error {
            // What a ZooKeeper client makes of a connection that is closed is what is true: that it
            // doesn't know, or has to go elsewhere.
            Error::SessionMoved { .. } => Then::Close("its session has moved"),
            Error::SessionExpired { .. } => Then::Close("its session has expired"),
            Error::OutcomeUnknown { .. } | Error::Stopped { .. } => {
                Then::Close("the outcome of a request is unknown")
            }
            Error::Skipped => Then::Close("the state that a read was to see was skipped"),
            _ => Then::Reply,
        },
    }
}

fn settle_existence(
    pending: &mut Pending<Option<Stat>>,
    context: &mut Context<'_>,
    writer: &mut Writer<'_>,
) -> Poll<Settled> {
    let mut missing = false;
    let settled = settle(pending, context, code_of_read, |stat| match stat {
        Some(stat) => writer.stat(&stat),
        None => missing = true,
    });
    settled.map(|mut settled| {
        if missing {
            settled.error = Error::NoNode {
                path: String::new(),
            }
            .code();
        }
        settled
    })
}

/// A multi that fails is answered well: its results say what failed.
fn settle_multi(
    pending: &mut Pending<Vec<OpResult>>,
    context: &mut Context<'_>,
    kinds: &[WithStat],
    writer: &mut Writer<'_>,
) -> Poll<Settled> {
    pending
        .poll_stamped(context)
        .map(|Stamped { zxid, result }| {
            let mut outcome = MultiOutcome(writer);
            match result {
                Ok(results) => {
                    for (result, kind) in results.iter().zip(kinds) {
                        outcome.result(result, *kind == WithStat::Yes);
                    }
                }
                Err(Error::Multi { index, error }) => outcome.failed(kinds.len(), index, &error),
                Err(error) => return failed(zxid, &error, Error::code),
            }
            outcome.end();
            Settled {
                zxid,
                error: 0,
                then: Then::Reply,
            }
        })
}

//! The answer of an operation that was called: to be awaited, or waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::ids::Zxid;
use crate::node::{Members, SessionHandle, Stamped, Value};
use crate::op::OpResult;
use crate::state::ReadResult;

/// The answer of an operation, on its way.
///
/// It is a [`Future`] for any async runtime, and [`Pending::wait`] is for threads. The operation was
/// begun when it was called: polling decides nothing, and dropping a `Pending` does not cancel it; but
/// a session that nobody waits for any more is given up
/// ([`SessionBuilder::open`](crate::SessionBuilder::open)).
#[must_use = "the operation goes on, but nobody will know what came of it"]
pub struct Pending<T> {
    source: Source<T>,
}

enum Source<T> {
    Ready(Option<Stamped<T>>),
    Waiting {
        answer: oneshot::Receiver<Stamped<Value>>,
        convert: Convert<T>,
    },
}

/// Makes a `T` of what the node has answered.
pub(super) enum Convert<T> {
    Write(fn(OpResult) -> T),
    Read(fn(ReadResult) -> T),
    Barrier(fn() -> T),
    Session(fn(SessionHandle) -> T),
    Members(fn(Members) -> T),
}

impl<T> Convert<T> {
    fn convert(&self, value: Value) -> T {
        match (self, value) {
            (Convert::Write(convert), Value::Write(result)) => convert(result),
            (Convert::Read(convert), Value::Read(result)) => convert(result),
            (Convert::Barrier(convert), Value::Done) => convert(),
            (Convert::Session(convert), Value::Session(session)) => convert(session),
            (Convert::Members(convert), Value::Members(members)) => convert(members),
            _ => unreachable!("a call is answered in its own kind"),
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.source {
            Source::Ready(Some(_)) => "Ready",
            Source::Ready(None) => "Taken",
            Source::Waiting { .. } => "Waiting",
        };
        f.debug_tuple("Pending").field(&state).finish()
    }
}

// The answer is moved out, never pinned.
impl<T> Unpin for Pending<T> {}

impl<T> Pending<T> {
    pub(super) fn ready(result: Result<T>) -> Pending<T> {
        Pending::ready_at(Zxid(0), result)
    }

    pub(super) fn ready_at(zxid: Zxid, result: Result<T>) -> Pending<T> {
        Pending {
            source: Source::Ready(Some(Stamped { zxid, result })),
        }
    }

    pub(super) fn waiting(
        answer: oneshot::Receiver<Stamped<Value>>,
        convert: Convert<T>,
    ) -> Pending<T> {
        Pending {
            source: Source::Waiting { answer, convert },
        }
    }

    /// Blocks this thread until the answer is there.
    ///
    /// # Errors
    /// The operation's.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn wait(self) -> Result<T> {
        match self.source {
            Source::Ready(answer) => answer.expect(TAKEN),
            Source::Waiting { answer, convert } => settle(answer.recv().ok(), &convert),
        }
        .result
    }

    /// Blocks this thread until the answer is there, but no longer than `timeout`. The operation goes
    /// on all the same, and a later call may still get its answer.
    ///
    /// # Errors
    /// [`Error::Timeout`], or the operation's.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<T> {
        let result = match &mut self.source {
            Source::Ready(answer) => answer.take().expect(TAKEN),
            Source::Waiting { answer, convert } => match answer.recv_timeout(timeout) {
                Ok(answer) => settle(Some(answer), convert),
                Err(oneshot::RecvTimeoutError::Timeout) => return Err(Error::Timeout),
                Err(oneshot::RecvTimeoutError::Disconnected) => settle(None, convert),
            },
        };
        self.source = Source::Ready(None);
        result.result
    }

    /// The answer, if it is there; `None` while the operation goes on.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn try_wait(&mut self) -> Option<Result<T>> {
        let result = match &mut self.source {
            Source::Ready(answer) => answer.take().expect(TAKEN),
            Source::Waiting { answer, convert } => match answer.try_recv() {
                Ok(answer) => settle(Some(answer), convert),
                Err(oneshot::TryRecvError::Empty) => return None,
                Err(oneshot::TryRecvError::Disconnected) => settle(None, convert),
            },
        };
        self.source = Source::Ready(None);
        Some(result.result)
    }

    /// Whether the answer is there, to be taken without waiting, or was taken. Nobody is woken for having
    /// asked.
    pub fn is_answered(&self) -> bool {
        match &self.source {
            Source::Ready(_) => true,
            Source::Waiting { answer, .. } => answer.has_message() || answer.is_closed(),
        }
    }

    /// As polling it as a [`Future`], and says as of which zxid the answer is: by it answers and watch
    /// events are brought into one order.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn poll_stamped(&mut self, context: &mut Context<'_>) -> Poll<Stamped<T>> {
        let answer = match &mut self.source {
            Source::Ready(answer) => answer.take().expect(TAKEN),
            Source::Waiting { answer, convert } => match Pin::new(answer).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(received) => settle(received.ok(), convert),
            },
        };
        self.source = Source::Ready(None);
        Poll::Ready(answer)
    }

    /// [`Pending::wait_timeout`], up to a moment.
    ///
    /// # Errors
    /// [`Error::Timeout`], or the operation's.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn wait_until(&mut self, deadline: Instant) -> Result<T> {
        self.wait_timeout(deadline.saturating_duration_since(Instant::now()))
    }
}

const TAKEN: &str = "the answer of this operation was taken before";

fn settle<T>(received: Option<Stamped<Value>>, convert: &Convert<T>) -> Stamped<T> {
    match received {
        Some(Stamped { zxid, result }) => Stamped {
            zxid,
            result: result.map(|value| convert.convert(value)),
        },
        // The loop has ended without a word, which it does only when it panics.
        None => Stamped {
            zxid: Zxid(0),
            result: Err(Error::OutcomeUnknown {
                reason: "the node's loop has ended",
            }),
        },
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.poll_stamped(context).map(|answer| answer.result)
    }
}

//! The answer of an operation that was called: to be awaited, or waited for.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::node::{SessionHandle, Value};
use crate::op::OpResult;
use crate::state::ReadResult;

/// The answer of an operation, on its way.
///
/// It is a [`Future`] for any async runtime, and [`Pending::wait`] is for threads. The operation was
/// begun when it was called: polling decides nothing, and dropping a `Pending` does not cancel it.
#[must_use = "the operation goes on, but nobody will know what came of it"]
pub struct Pending<T> {
    source: Source<T>,
}

enum Source<T> {
    Ready(Option<Result<T>>),
    Waiting {
        answer: oneshot::Receiver<Result<Value>>,
        convert: Convert<T>,
    },
}

/// Makes a `T` of what the node has answered.
pub(super) enum Convert<T> {
    Write(fn(OpResult) -> T),
    Read(fn(ReadResult) -> T),
    Barrier(fn() -> T),
    Session(fn(SessionHandle) -> T),
}

impl<T> Convert<T> {
    fn convert(&self, value: Value) -> T {
        match (self, value) {
            (Convert::Write(convert), Value::Write(result)) => convert(result),
            (Convert::Read(convert), Value::Read(result)) => convert(result),
            (Convert::Barrier(convert), Value::Done) => convert(),
            (Convert::Session(convert), Value::Session(session)) => convert(session),
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
        Pending {
            source: Source::Ready(Some(result)),
        }
    }

    pub(super) fn waiting(
        answer: oneshot::Receiver<Result<Value>>,
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
            Source::Ready(result) => result.expect(TAKEN),
            Source::Waiting { answer, convert } => settle(answer.recv().map_err(drop), &convert),
        }
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
            Source::Ready(result) => result.take().expect(TAKEN),
            Source::Waiting { answer, convert } => match answer.recv_timeout(timeout) {
                Ok(result) => settle(Ok(result), convert),
                Err(oneshot::RecvTimeoutError::Timeout) => return Err(Error::Timeout),
                Err(oneshot::RecvTimeoutError::Disconnected) => settle(Err(()), convert),
            },
        };
        self.source = Source::Ready(None);
        result
    }

    /// The answer, if it is there; `None` while the operation goes on.
    ///
    /// # Panics
    /// When the answer was taken before.
    pub fn try_wait(&mut self) -> Option<Result<T>> {
        let result = match &mut self.source {
            Source::Ready(result) => result.take().expect(TAKEN),
            Source::Waiting { answer, convert } => match answer.try_recv() {
                Ok(result) => settle(Ok(result), convert),
                Err(oneshot::TryRecvError::Empty) => return None,
                Err(oneshot::TryRecvError::Disconnected) => settle(Err(()), convert),
            },
        };
        self.source = Source::Ready(None);
        Some(result)
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

fn settle<T>(received: std::result::Result<Result<Value>, ()>, convert: &Convert<T>) -> Result<T> {
    match received {
        Ok(result) => result.map(|value| convert.convert(value)),
        // The loop has ended without a word, which it does only when it panics.
        Err(()) => Err(Error::OutcomeUnknown {
            reason: "the node's loop has ended",
        }),
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let result = match &mut self.source {
            Source::Ready(result) => result.take().expect(TAKEN),
            Source::Waiting { answer, convert } => match Pin::new(answer).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(received) => settle(received.map_err(drop), convert),
            },
        };
        self.source = Source::Ready(None);
        Poll::Ready(result)
    }
}

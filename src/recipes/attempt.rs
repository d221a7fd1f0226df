//! A recipe at work: awaited, waited for, or given up; and what goes on when nobody waits.
//!
//! One implementation serves both worlds: a recipe is a future, and a thread that waits polls it. It
//! knows no recipe. Invariant: nothing here blocks but the `wait`s, so that what is left to the
//! background may run on any thread that happens to wake it, a node's own included.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::{Error, Result};

/// A recipe at work.
///
/// It is a [`Future`] for any async runtime, and [`Attempt::wait`] is for threads. Its first operation
/// was called when the attempt was made, so attempts of one session have the order of the calls; the
/// rest happens while it is polled or waited for.
///
/// Dropping it gives it up: what it has done so far is taken back in the background. An attempt that
/// is neither dropped nor driven keeps its place, and stands in the way of others.
#[must_use = "dropping an attempt gives it up"]
pub struct Attempt<T> {
    work: Pin<Box<dyn Future<Output = Result<T>> + Send>>,
}

impl<T> fmt::Debug for Attempt<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").finish_non_exhaustive()
    }
}

impl<T> Attempt<T> {
    pub(super) fn new(work: impl Future<Output = Result<T>> + Send + 'static) -> Attempt<T> {
        Attempt {
            work: Box::pin(work),
        }
    }

    /// Blocks this thread until it has come to an end.
    ///
    /// # Errors
    /// The recipe's.
    pub fn wait(self) -> Result<T> {
        let result = block_on(self, None);
        result.expect("without a deadline there is a result")
    }

    /// Blocks this thread until it has come to an end, or gives it up after `timeout`.
    ///
    /// # Errors
    /// The recipe's; [`Error::Timeout`] when it was given up.
    pub fn wait_timeout(self, timeout: Duration) -> Result<T> {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => self.wait_until(deadline),
            None => self.wait(),
        }
    }

    /// [`Attempt::wait_timeout`], up to a moment.
    ///
    /// # Errors
    /// The recipe's; [`Error::Timeout`] when it was given up.
    pub fn wait_until(self, deadline: Instant) -> Result<T> {
        block_on(self, Some(deadline)).unwrap_or(Err(Error::Timeout))
    }
}

impl<T> Future for Attempt<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        self.work.as_mut().poll(context)
    }
}

/// Polls on this thread, which sleeps in between; `None` when the deadline has passed.
fn block_on<F: Future + Unpin>(mut future: F, deadline: Option<Instant>) -> Option<F::Output> {
    let alarm = Arc::new(Alarm {
        thread: std::thread::current(),
        rung: AtomicBool::new(false),
    });
    let waker = Waker::from(alarm.clone());
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut context) {
            return Some(output);
        }
        while !alarm.rung.swap(false, Ordering::AcqRel) {
            match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                None => std::thread::park(),
                Some(Duration::ZERO) => return None,
                Some(left) => std::thread::park_timeout(left),
            }
        }
    }
}

/// Wakes a thread. The flag is there because `park` may return for no reason, or for another's.
struct Alarm {
    thread: Thread,
    rung: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Lets `work` go on by itself: it is polled here once, and then by whoever wakes it.
pub(super) fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    let task = Arc::new(Background {
        work: Mutex::new(Some(Box::pin(work))),
        wakes: AtomicUsize::new(0),
    });
    task.wake();
}

struct Background {
    /// `None` once it is done.
    work: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    /// Wakes since somebody began to poll; 0 while nobody does.
    wakes: AtomicUsize,
}

impl Wake for Background {
    fn wake(self: Arc<Self>) {
        // Whoever is polling will poll once more. It may be this very thread.
        if self.wakes.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }
        let waker = Waker::from(self.clone());
        let mut seen = 1;
        loop {
            self.poll(&mut Context::from_waker(&waker));
            let done = self
                .wakes
                .compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire);
            match done {
                Ok(_) => return,
                Err(more) => seen = more,
            }
        }
    }
}

impl Background {
    fn poll(&self, context: &mut Context<'_>) {
        let mut work = self.work.lock();
        if let Some(future) = work.as_mut()
            && future.as_mut().poll(context).is_ready()
        {
            *work = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[test]
    fn a_wait_is_given_up_at_its_deadline() {
        let never: Attempt<()> = Attempt::new(std::future::pending());
        assert_eq!(
            never.wait_timeout(Duration::from_millis(1)),
            Err(Error::Timeout)
        );
    }

    #[test]
    fn a_deadline_beyond_all_time_is_none() {
        assert_eq!(
            Attempt::new(async { Ok(7) }).wait_timeout(Duration::MAX),
            Ok(7)
        );
    }

    #[test]
    fn a_wait_ends_when_another_thread_wakes_it() {
        let (sender, receiver) = oneshot::channel();
        let waiting = Attempt::new(async { Ok(receiver.await.unwrap()) });
        let sending = std::thread::spawn(move || sender.send(7).unwrap());
        assert_eq!(waiting.wait(), Ok(7));
        sending.join().unwrap();
    }

    /// A future may wake its own task while it is polled: that must neither deadlock nor be lost.
    #[test]
    fn background_work_may_wake_itself() {
        let (done, is_done) = oneshot::channel();
        let mut polls = 0;
        in_background(async move {
            poll_fn(|context| {
                polls += 1;
                context.waker().wake_by_ref();
                if polls < 3 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            done.send(()).unwrap();
        });
        assert_eq!(is_done.try_recv(), Ok(()));
    }

    #[test]
    fn background_work_goes_on_where_it_is_woken() {
        let (sender, receiver) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        in_background(async move { done.send(receiver.await.unwrap()).unwrap() });
        assert!(is_done.try_recv().is_err());
        sender.send(7).unwrap();
        assert_eq!(is_done.try_recv(), Ok(7));
    }
}

//! Where a session hears of changes.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crossbeam_channel::Receiver;
use futures_core::Stream;

use super::Session;
use crate::error::{Error, Result};
use crate::node::{Event, WatchKind, WatchQueue};
use crate::path::ZnodePath;

/// A queue of events, in the order of the changes: those of the watches set through it, and every
/// change of its session's state.
///
/// For threads it is an iterator, and [`Watcher::receiver`] goes into `crossbeam_channel::select!`; for
/// async code it is a [`Stream`]. It ends after the event that says that its session is over. Dropping
/// it removes its watches.
///
/// The queue is bounded. When it is full, the events that don't fit are replaced by one
/// [`Event::Missed`], which says from which zxid on; one-shot watches that fired meanwhile are gone.
pub struct Watcher {
    session: Session,
    queue: Arc<WatchQueue>,
    ended: bool,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("session", &self.session.id())
            .field("events_waiting", &self.queue.receiver().len())
            .finish_non_exhaustive()
    }
}

impl Watcher {
    pub(super) fn new(session: Session, queue: Arc<WatchQueue>) -> Watcher {
        Watcher {
            session,
            queue,
            ended: false,
        }
    }

    pub(super) fn queue(&self) -> &Arc<WatchQueue> {
        &self.queue
    }

    /// The channel that the events come through, for `crossbeam_channel::select!`. What is taken from
    /// it the iterator doesn't see. An event taken from it may be a moment ahead of its change: read
    /// with a watch ([`Session::get_and_watch`] and its like), which waits for it.
    pub fn receiver(&self) -> &Receiver<Event> {
        self.queue.receiver()
    }

    /// The next event, waiting no longer than `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        if self.ended {
            return Ok(None);
        }
        let event = self
            .queue
            .receiver()
            .recv_timeout(timeout)
            .map_err(|_| Error::Timeout)?;
        Ok(Some(self.seen(event)))
    }

    /// Removes a watch that was set through this watcher.
    ///
    /// # Errors
    /// [`Error::NoWatcher`] where there is none of this kind on the path, [`Error::InvalidPath`].
    pub fn remove(&self, path: &str, kind: WatchKind) -> Result<()> {
        let path = ZnodePath::parse(path)?;
        let removed = self
            .session
            .node()
            .watches
            .lock()
            .remove(&self.queue, path.as_str(), kind);
        if removed {
            Ok(())
        } else {
            Err(Error::NoWatcher {
                path: path.to_string(),
            })
        }
    }

    /// Whether a watch of this kind is set through this watcher on a path.
    pub fn contains(&self, path: &str, kind: WatchKind) -> bool {
        let table = self.session.node().watches.lock();
        table.contains(&self.queue, path, kind)
    }

    /// On how many paths watches are set through this watcher.
    pub fn paths_watched(&self) -> usize {
        self.session.node().watches.lock().paths_of(&self.queue)
    }

    /// How many bytes those paths have, together.
    pub fn path_bytes_watched(&self) -> usize {
        self.session
            .node()
            .watches
            .lock()
            .path_bytes_of(&self.queue)
    }

    fn seen(&mut self, event: Event) -> Event {
        // An event stands in the queue a moment before its change can be read; whoever reads because of
        // it must find the change. Both happen while the table of watches is locked.
        let readable = match &event {
            Event::Changed(event) => event.zxid <= self.session.node().reader().zxid(),
            Event::Missed { .. } => false,
            Event::Session(_) => true,
        };
        if !readable {
            drop(self.session.node().watches.lock());
        }
        self.ended = matches!(&event, Event::Session(state) if state.is_final());
        event
    }
}

impl Iterator for Watcher {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        let event = self.queue.receiver().recv().ok()?;
        Some(self.seen(event))
    }
}

impl Stream for Watcher {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Registered before the queue is looked at: an event that comes in between wakes the task.
        self.queue.register(context.waker());
        match self.queue.receiver().try_recv() {
            Ok(event) => Poll::Ready(Some(self.seen(event))),
            Err(_) => Poll::Pending,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.session
            .node()
            .watches
            .lock()
            .remove_watcher(&self.queue);
    }
}

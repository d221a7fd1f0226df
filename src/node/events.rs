//! What a host hears of its node and of the cluster: a bounded queue for each listener.
//!
//! The loop tells, and never waits for a listener. The invariant: a listener that lags learns how many
//! events it has missed, before the next one that it hears.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use parking_lot::{Condvar, Mutex};

use super::members::Members;
use crate::error::{Error, Result};
use crate::ids::NodeId;
use crate::replica;

/// The most events that wait for one listener.
const EVENTS_MAX: usize = 256;

/// What has become of the cluster, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NodeEvent {
    /// There is another leader, another term, or no leader any more.
    LeaderChanged {
        /// Who leads, where that is known.
        leader: Option<NodeId>,
        /// The term.
        term: u64,
    },
    /// A change of membership was applied here.
    MembershipChanged {
        /// Who takes part now.
        members: Members,
    },
    /// The node was far behind, and has the leader's state by a snapshot now.
    SnapshotInstalled {
        /// The last log entry that the snapshot includes.
        index: u64,
    },
    /// This listener was slow: so many events before this place are lost.
    Missed {
        /// How many.
        events: u64,
    },
    /// The node was removed from its cluster and has stopped. Nothing follows.
    Removed,
    /// The node has stopped. Nothing follows.
    Stopped {
        /// Why.
        reason: String,
    },
}

impl From<replica::NodeEvent> for NodeEvent {
    fn from(event: replica::NodeEvent) -> NodeEvent {
        match event {
            replica::NodeEvent::LeaderChanged { leader, term } => {
                NodeEvent::LeaderChanged { leader, term }
            }
            replica::NodeEvent::MembershipChanged(configuration) => NodeEvent::MembershipChanged {
                members: configuration.into(),
            },
            replica::NodeEvent::SnapshotInstalled { index } => {
                NodeEvent::SnapshotInstalled { index }
            }
        }
    }
}

/// Events of a node, in order. For threads it is an iterator, for async code a [`Stream`]. It ends after
/// the event that says that the node has stopped.
pub struct NodeEvents(Arc<Queue>);

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    events: VecDeque<NodeEvent>,
    missed: u64,
    ended: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn tell(&self, event: &NodeEvent) {
        let mut state = self.state.lock();
        if state.events.len() >= EVENTS_MAX {
            state.events.pop_front();
            state.missed += 1;
        }
        state.events.push_back(event.clone());
        state.ended = matches!(event, NodeEvent::Removed | NodeEvent::Stopped { .. });
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl QueueState {
    /// The next event; `Some(None)` is the end.
    fn take(&mut self) -> Option<Option<NodeEvent>> {
        if self.missed > 0 {
            let events = std::mem::take(&mut self.missed);
            return Some(Some(NodeEvent::Missed { events }));
        }
        match self.events.pop_front() {
            Some(event) => Some(Some(event)),
            None if self.ended => Some(None),
            None => None,
        }
    }
}

impl fmt::Debug for NodeEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeEvents")
            .field("waiting", &self.0.state.lock().events.len())
            .finish_non_exhaustive()
    }
}

impl NodeEvents {
    /// The next event, waiting no longer than `timeout`; `None` when nothing will follow.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<NodeEvent>> {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.state.lock();
        loop {
            if let Some(event) = state.take() {
                return Ok(event);
            }
            if self.0.changed.wait_until(&mut state, deadline).timed_out() {
                return state.take().ok_or(Error::Timeout);
            }
        }
    }
}

impl Iterator for NodeEvents {
    type Item = NodeEvent;

    fn next(&mut self) -> Option<NodeEvent> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(event) = state.take() {
                return event;
            }
            self.0.changed.wait(&mut state);
        }
    }
}

impl Stream for NodeEvents {
    type Item = NodeEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<NodeEvent>> {
        let waker = context.waker().clone();
        let mut state = self.0.state.lock();
        match state.take() {
            Some(event) => Poll::Ready(event),
            None => {
                let before = state.waker.replace(waker);
                drop(state);
                // Its task may go with it, and with that anything.
                drop(before);
                Poll::Pending
            }
        }
    }
}

/// A node's listeners.
#[derive(Default)]
pub(crate) struct EventHub(Mutex<Listeners>);

#[derive(Default)]
struct Listeners {
    queues: Vec<Weak<Queue>>,
    /// The last word, for those who come late.
    end: Option<NodeEvent>,
}

impl Listeners {
    /// Those who listen. They are told, and with that woken, when the hub is unlocked: a host that is woken
    /// may subscribe at once.
    fn queues(&self) -> Vec<Arc<Queue>> {
        self.queues.iter().filter_map(Weak::upgrade).collect()
    }
}

impl EventHub {
    pub(super) fn subscribe(&self) -> NodeEvents {
        let queue = Arc::<Queue>::default();
        let mut listeners = self.0.lock();
        match &listeners.end {
            Some(end) => queue.tell(end),
            None => {
                listeners.queues.retain(|queue| queue.strong_count() > 0);
                listeners.queues.push(Arc::downgrade(&queue));
            }
        }
        NodeEvents(queue)
    }

    pub(super) fn tell(&self, event: NodeEvent) {
        let queues = self.0.lock().queues();
        for queue in queues {
            queue.tell(&event);
        }
    }

    pub(super) fn end(&self, event: NodeEvent) {
        let queues = {
            let mut listeners = self.0.lock();
            listeners.end = Some(event.clone());
            let queues = listeners.queues();
            listeners.queues.clear();
            queues
        };
        for queue in queues {
            queue.tell(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    fn led(term: u64) -> NodeEvent {
        NodeEvent::LeaderChanged { leader: None, term }
    }

    #[test]
    fn a_slow_listener_learns_how_much_it_has_missed() {
        let hub = EventHub::default();
        let mut events = hub.subscribe();
        for term in 0..EVENTS_MAX as u64 + 3 {
            hub.tell(led(term));
        }
        assert_eq!(events.next(), Some(NodeEvent::Missed { events: 3 }));
        assert_eq!(events.next(), Some(led(3)));
    }

    #[test]
    fn whoever_is_woken_may_subscribe() {
        struct Inline(EventHub, Mutex<Vec<NodeEvents>>);
        impl Wake for Inline {
            fn wake(self: Arc<Self>) {
                let is_unlocked = self.0.0.try_lock().is_some();
                assert!(is_unlocked, "it would wait for itself");
                self.1.lock().push(self.0.subscribe());
            }
        }
        let inline = Arc::new(Inline(EventHub::default(), Mutex::default()));
        let mut events = inline.0.subscribe();
        let waker = Waker::from(inline.clone());
        let mut context = Context::from_waker(&waker);
        assert!(Pin::new(&mut events).poll_next(&mut context).is_pending());
        inline.0.tell(led(1));
        assert_eq!(inline.1.lock().len(), 1);
        assert_eq!(events.next(), Some(led(1)));
        assert!(Pin::new(&mut events).poll_next(&mut context).is_pending());
        inline.0.end(NodeEvent::Removed);
        assert_eq!(inline.1.lock().len(), 2);
    }

    #[test]
    fn the_end_is_heard_by_those_who_wait_and_those_who_come_late() {
        let hub = EventHub::default();
        let mut waiting = hub.subscribe();
        hub.tell(led(1));
        hub.end(NodeEvent::Removed);
        let heard: Vec<_> = waiting.by_ref().collect();
        assert_eq!(heard, [led(1), NodeEvent::Removed]);
        assert_eq!(hub.subscribe().collect::<Vec<_>>(), [NodeEvent::Removed]);
        assert_eq!(waiting.next_timeout(Duration::ZERO), Ok(None));
    }
}

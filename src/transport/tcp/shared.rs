//! What senders and the transport's thread share, under one lock: queues, addresses, what changed.
//!
//! It knows no socket but the waker. The invariant: whoever puts work here while the thread sleeps
//! wakes it, and nobody else pays for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use mio::Waker;
use parking_lot::Mutex;

use super::Link;
use super::address_book::{AddressBook, Learned, Teller};
use super::send_queue::{Bounds, SendQueue};
use crate::observe::TransportMeters;
use crate::transport::{Lane, Local, Message};
use crate::{ClusterId, NodeId};

/// How much is kept for a peer that there is no connection to.
const OFFLINE: Bounds = Bounds {
    messages_max: 256,
    bytes_max: 1024 * 1024,
};

pub(super) struct Shared {
    waker: Arc<Waker>,
    bounds: Bounds,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whom messages are sent for, while they are. Its cluster is that of what it sends.
    local: Option<Local>,
    closing: bool,
    /// Whether the thread waits for events and must be woken.
    asleep: bool,
    book: AddressBook,
    queues: BTreeMap<Link, Outgoing>,
    work: Work,
    meters: TransportMeters,
}

#[derive(Default)]
struct Outgoing {
    queue: SendQueue,
    online: bool,
    /// Whether it is in [`Work::ready`].
    listed: bool,
}

/// What the thread has to look at.
#[derive(Default)]
pub(super) struct Work {
    /// Links that have messages.
    pub ready: Vec<Link>,
    /// Nodes whose address has changed.
    pub moved: Vec<NodeId>,
    /// Whether one of those is such that the peers are told of it.
    pub tells_addresses: bool,
    /// The cluster that the node belongs to, as far as it is known.
    pub cluster: ClusterId,
    /// The transport stops.
    pub closing: bool,
}

impl Shared {
    pub(super) fn new(waker: Waker, bounds: Bounds) -> Shared {
        Shared {
            waker: Arc::new(waker),
            bounds,
            state: Mutex::default(),
        }
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    pub(super) fn open(&self, local: Local) {
        let mut state = self.state.lock();
        if !state.closing {
            state.book.remove(local.node);
            state.local = Some(local);
            state.meters = TransportMeters::new(local.node);
        }
    }

    pub(super) fn close(&self) {
        self.change(|state| {
            state.local = None;
            state.closing = true;
            state.queues.clear();
            state.work.ready.clear();
        });
    }

    /// Queues a message, where its receiver is known.
    pub(super) fn send(&self, message: Message) {
        let link = (message.to(), message.lane());
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(local) = &mut state.local else {
            return;
        };
        // A node that has joined speaks for its cluster, and its transport says so from then on.
        if local.cluster == ClusterId(0) {
            local.cluster = message.cluster();
        }
        if !state.book.knows(link.0) {
            return;
        }
        let outgoing = state.queues.entry(link).or_default();
        let bounds = match outgoing.online {
            true => self.bounds,
            false => offline(self.bounds),
        };
        let dropped = outgoing.queue.push(message, link.1, bounds);
        state.meters.dropped[link.1 as usize].increment(dropped);
        if outgoing.listed {
            return;
        }
        outgoing.listed = true;
        state.work.ready.push(link);
        let asleep = std::mem::take(&mut state.asleep);
        drop(guard);
        self.wake(asleep);
    }

    /// The host says where a node is.
    pub(super) fn name(&self, node: NodeId, address: &str) {
        self.learn(node, address, Teller::Host, |_| false);
    }

    /// Somebody says where a node is. Those that are connected, to this node or by it, keep their place.
    pub(super) fn learn(
        &self,
        node: NodeId,
        address: &str,
        told_by: Teller,
        is_connected: impl Fn(NodeId) -> bool,
    ) {
        self.change(|state| {
            if state.local.is_some_and(|local| local.node == node) {
                return;
            }
            let queues = &state.queues;
            let in_use = |node| is_connected(node) || is_online(queues, node);
            let learned = state.book.learn(node, address, told_by, in_use);
            if learned == Learned::Nothing {
                return;
            }
            state.work.moved.push(node);
            state.work.tells_addresses |= told_by != Teller::Peer;
            if let Learned::InsteadOf(forgotten) = learned {
                state.drop_queues(forgotten);
            }
        });
    }

    pub(super) fn forget(&self, node: NodeId) {
        self.change(|state| {
            if state.book.remove(node) {
                state.drop_queues(node);
            }
        });
    }

    pub(super) fn address(&self, node: NodeId) -> Option<String> {
        self.state.lock().book.address(node).map(str::to_owned)
    }

    pub(super) fn is_named(&self, node: NodeId) -> bool {
        self.state.lock().book.is_named(node)
    }

    pub(super) fn addresses(&self) -> Vec<(NodeId, String)> {
        self.state.lock().book.all()
    }

    /// What the peers are told.
    pub(super) fn first_hand(&self) -> Vec<(NodeId, String)> {
        self.state.lock().book.first_hand()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let result = change(&mut state);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        self.wake(asleep);
        result
    }

    fn wake(&self, asleep: bool) {
        if asleep {
            // It fails where the descriptor is gone, and then so is the thread.
            let _ = self.waker.wake();
        }
    }

    // ---- The thread's side --------------------------------------------------------------------

    /// The thread is about to wait for events: true where it may, false where there is work already.
    pub(super) fn fall_asleep(&self) -> bool {
        let mut state = self.state.lock();
        state.asleep = state.work.is_empty() && !state.closing;
        state.asleep
    }

    /// The thread is up: what it has to look at.
    pub(super) fn take_work(&self, work: &mut Work) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.asleep = false;
        work.ready.clear();
        work.moved.clear();
        work.tells_addresses = false;
        std::mem::swap(work, &mut state.work);
        work.closing = state.closing;
        work.cluster = state.local.map_or(ClusterId(0), |local| local.cluster);
        for link in &work.ready {
            if let Some(outgoing) = state.queues.get_mut(link) {
                outgoing.listed = false;
            }
        }
    }

    /// Moves messages of about `bytes` to `out`; how many were dropped since.
    pub(super) fn take_messages(&self, link: Link, bytes: usize, out: &mut Vec<Message>) -> u64 {
        let mut state = self.state.lock();
        let Some(outgoing) = state.queues.get_mut(&link) else {
            return 0;
        };
        outgoing.queue.take(bytes, out);
        outgoing.queue.take_dropped()
    }

    pub(super) fn has_messages(&self, link: Link) -> bool {
        let state = self.state.lock();
        let outgoing = state.queues.get(&link);
        outgoing.is_some_and(|outgoing| !outgoing.queue.is_empty())
    }

    /// There is a connection for `link` now, or there is none any more.
    pub(super) fn set_online(&self, link: Link, online: bool) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(outgoing) = state.queues.get_mut(&link) else {
            return;
        };
        outgoing.online = online;
        if !online {
            let dropped = outgoing.queue.shrink(offline(self.bounds));
            state.meters.dropped[link.1 as usize].increment(dropped);
        }
    }
}

impl State {
    /// Nobody knows any more where `node` is.
    fn drop_queues(&mut self, node: NodeId) {
        for lane in [Lane::Urgent, Lane::Bulk] {
            self.queues.remove(&(node, lane));
        }
        self.work.moved.push(node);
    }
}

fn is_online(queues: &BTreeMap<Link, Outgoing>, node: NodeId) -> bool {
    let lanes = [Lane::Urgent, Lane::Bulk];
    let mut queues = lanes.iter().filter_map(|lane| queues.get(&(node, *lane)));
    queues.any(|outgoing| outgoing.online)
}

impl Work {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.moved.is_empty()
    }
}

fn offline(bounds: Bounds) -> Bounds {
    Bounds {
        messages_max: bounds.messages_max.min(OFFLINE.messages_max),
        bytes_max: bounds.bytes_max.min(OFFLINE.bytes_max),
    }
}

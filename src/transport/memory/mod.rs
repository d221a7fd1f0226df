//! A network inside one process: messages go from thread to thread, unencoded.
//!
//! For tests, and for clusters whose replicas share a process. Without faults a message is handed to
//! the receiver's inbox by the sending thread itself. The invariants: a stopped endpoint's inbox is
//! called no more and held no longer; what a fault holds back is bounded.

mod delay;
mod faults;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

pub use self::faults::Faults;

use self::delay::Delayer;
use self::faults::{Fate, FaultState};
use super::{Inbox, Local, MESSAGE_BYTES_MAX, Message, Transport, TransportError};
use crate::NodeId;

/// The network. Clones are handles to the same one.
///
/// ```
/// use std::sync::{Arc, mpsc};
/// use quorate::transport::{Local, Message, Network, Transport};
/// use quorate::{ClusterId, NodeId};
///
/// let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
///
/// let network = Network::new(42);
/// let (sender, receiver) = (network.endpoint(one), network.endpoint(two));
/// let (inbox, messages) = mpsc::sync_channel(16);
///
/// let local = |node| Local { cluster: ClusterId(7), node };
/// receiver.start(local(two), Arc::new(inbox))?;
/// sender.start(local(one), Arc::new(mpsc::sync_channel(16).0))?;
/// sender.send(Message::new(ClusterId(7), one, two, "hello"));
/// assert_eq!(&messages.recv()?.payload()[..], b"hello");
///
/// network.isolate(two);
/// sender.send(Message::new(ClusterId(7), one, two, "lost"));
/// assert!(messages.try_recv().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    /// Whether `faults` has to be asked at all.
    faulty: AtomicBool,
    faults: Mutex<FaultState>,
    /// The thread that holds messages back; there is one only while a delay is set.
    delayer: Mutex<Option<Delayer>>,
    /// The started endpoints.
    endpoints: RwLock<HashMap<NodeId, Arc<Slot>>>,
}

/// Where the messages to one endpoint go. A delivery holds the lock for reading, so that stopping,
/// which takes it for writing, waits for those under way.
#[derive(Default)]
struct Slot(RwLock<Option<Arc<dyn Inbox>>>);

impl Network {
    /// A network without faults and without nodes. `seed` decides which messages faults hit.
    pub fn new(seed: u64) -> Network {
        Network(Arc::new(Inner {
            faulty: AtomicBool::new(false),
            faults: Mutex::new(FaultState::new(seed)),
            delayer: Mutex::new(None),
            endpoints: RwLock::new(HashMap::new()),
        }))
    }

    /// A transport for node `id`. After [`Transport::stop`] another one for the same node works.
    pub fn endpoint(&self, id: NodeId) -> Memory {
        Memory {
            network: self.clone(),
            id,
            slot: Arc::default(),
            started: AtomicBool::new(false),
        }
    }

    /// Loses, doubles, reorders and delays messages from now on; replaces what was set before.
    ///
    /// A delay is kept by a thread, which ends when the delay does.
    pub fn set_faults(&self, faults: Faults) {
        let delays = !faults.longest_delay().is_zero();
        // Locked throughout, so that there is a thread whenever there is a delay.
        let mut delayer = self.0.delayer.lock();
        let released = self.change(|state| state.set(faults));
        let ended = match (delays, delayer.is_some()) {
            (true, false) => {
                let inner = Arc::downgrade(&self.0);
                delayer.replace(Delayer::start(move |message| deliver_late(&inner, message)))
            }
            (false, true) => delayer.take(),
            _ => None,
        };
        drop(delayer);
        // It delivers what it holds before it is gone.
        drop(ended);
        for message in released {
            self.0.deliver(message);
        }
    }

    /// Messages of `from` to `to` are lost from now on; those of `to` to `from` are not.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.change(|state| state.cut(from, to));
    }

    /// No node of `side` and none of `other_side` hear each other from now on. Nodes in neither list
    /// hear both, and are a bridge between them.
    pub fn partition(&self, side: &[NodeId], other_side: &[NodeId]) {
        self.change(|state| {
            for (&one, &other) in side
                .iter()
                .flat_map(|one| other_side.iter().map(move |other| (one, other)))
            {
                state.cut(one, other);
                state.cut(other, one);
            }
        });
    }

    /// Nobody hears `node`, and it hears nobody, from now on.
    pub fn isolate(&self, node: NodeId) {
        self.change(|state| state.isolate(node));
    }

    /// Ends every fault and every partition. What was held back is delivered.
    pub fn heal(&self) {
        self.change(FaultState::heal);
        self.set_faults(Faults::default());
    }

    fn change<T>(&self, change: impl FnOnce(&mut FaultState) -> T) -> T {
        let mut state = self.0.faults.lock();
        let result = change(&mut state);
        self.0.faulty.store(state.is_faulty(), Ordering::Release);
        result
    }

    fn send(&self, message: Message) {
        if message.encoded_len() > MESSAGE_BYTES_MAX {
            return;
        }
        if !self.0.faulty.load(Ordering::Acquire) {
            return self.0.deliver(message);
        }
        let fates = self.0.faults.lock().decide(message);
        for fate in fates {
            match fate {
                Fate::Now(message) => self.0.deliver(message),
                Fate::After(delay, message) => {
                    // Without the thread the delay has just ended.
                    if let Some(delayer) = &*self.0.delayer.lock() {
                        delayer.hold(delay, message);
                    }
                }
            }
        }
    }
}

impl Inner {
    fn deliver(&self, message: Message) {
        let slot = self.endpoints.read().get(&message.to()).cloned();
        if let Some(slot) = slot {
            // An inbox may send in turn, so a stop that waits must not keep it from reading.
            if let Some(inbox) = &*slot.0.read_recursive() {
                inbox.deliver(message);
            }
        }
    }
}

fn deliver_late(inner: &Weak<Inner>, message: Message) {
    if let Some(inner) = inner.upgrade() {
        inner.deliver(message);
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nodes: Vec<NodeId> = self.0.endpoints.read().keys().copied().collect();
        nodes.sort_unstable();
        f.debug_struct("Network")
            .field("started", &nodes)
            .finish_non_exhaustive()
    }
}

/// One node's transport in a [`Network`].
///
/// Dropping it stops it. [`Transport::stop`] waits for deliveries under way, so an inbox must not
/// call it.
pub struct Memory {
    network: Network,
    id: NodeId,
    slot: Arc<Slot>,
    started: AtomicBool,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("node", &self.id)
            .finish_non_exhaustive()
    }
}

impl Memory {
    fn is_running(&self) -> bool {
        self.slot.0.read_recursive().is_some()
    }
}

impl Transport for Memory {
    fn start(&self, _: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        let already_started = Err(TransportError::AlreadyStarted { node: self.id });
        if self.started.swap(true, Ordering::AcqRel) {
            return already_started;
        }
        let mut endpoints = self.network.0.endpoints.write();
        if endpoints.contains_key(&self.id) {
            return already_started;
        }
        *self.slot.0.write() = Some(inbox);
        endpoints.insert(self.id, Arc::clone(&self.slot));
        Ok(())
    }

    fn send(&self, message: Message) {
        if self.is_running() {
            self.network.send(message);
        }
    }

    fn stop(&self) {
        self.started.store(true, Ordering::Release);
        {
            let mut endpoints = self.network.0.endpoints.write();
            if endpoints
                .get(&self.id)
                .is_some_and(|slot| Arc::ptr_eq(slot, &self.slot))
            {
                endpoints.remove(&self.id);
            }
        }
        // The inbox is dropped outside the lock.
        let inbox = self.slot.0.write().take();
        drop(inbox);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;

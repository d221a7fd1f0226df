//! What the cases work with: nodes whose inboxes remember, and payloads that can be counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Limits, NetworkUnderTest};
use crate::transport::{Inbox, Local, Message, Transport};
use crate::{ClusterId, NodeId};

/// The cluster of every message.
pub(super) const CLUSTER: ClusterId = ClusterId(0x51);

/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(1);

pub(super) fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap_or_else(|| unreachable!("the cases number their nodes from 1"))
}

pub(super) fn local(id: u64) -> Local {
    Local {
        cluster: CLUSTER,
        node: node(id),
    }
}

pub(super) fn message(from: u64, to: u64, payload: impl Into<Bytes>) -> Message {
    Message::new(CLUSTER, node(from), node(to), payload)
}

/// One network, and how patient to be with it.
pub(super) struct Bench {
    network: NetworkUnderTest,
    pub(super) limits: Limits,
}

impl Bench {
    pub(super) fn new(network: NetworkUnderTest, limits: Limits) -> Bench {
        Bench { network, limits }
    }

    /// The transport of node `id`, not started.
    pub(super) fn transport(&self, id: u64) -> Arc<dyn Transport> {
        Arc::from((self.network)(node(id)))
    }

    /// The transport of node `id`, started, with an inbox that remembers.
    pub(super) fn start(&self, id: u64) -> Result<Started, String> {
        let transport = self.transport(id);
        let witness = Arc::new(Witness::default());
        let inbox = Arc::clone(&witness) as Arc<dyn Inbox>;
        let started = self.in_time("start", {
            let transport = Arc::clone(&transport);
            move || transport.start(local(id), inbox)
        })?;
        started.map_err(|error| format!("node {id} can't start: {error}"))?;
        Ok(Started { transport, witness })
    }

    /// Runs `call` in a thread of its own; an error where it doesn't return.
    pub(super) fn in_time<T: Send + 'static>(
        &self,
        what: &str,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let (done, result) = mpsc::channel();
        thread::spawn(move || done.send(call()));
        match result.recv_timeout(self.limits.patience) {
            Ok(result) => Ok(result),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(format!(
                "{what} blocks: no return in {:?}",
                self.limits.patience
            )),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(format!("{what} panicked")),
        }
    }

    /// Sends all of `messages`, one after the other.
    pub(super) fn send_all(
        &self,
        transport: &Arc<dyn Transport>,
        messages: Vec<Message>,
    ) -> Result<(), String> {
        let transport = Arc::clone(transport);
        self.in_time("send", move || {
            messages
                .into_iter()
                .for_each(|message| transport.send(message))
        })
    }

    /// Waits until `holds`, asking again and again; false where it never does.
    pub(super) fn becomes(&self, mut holds: impl FnMut() -> bool) -> bool {
        let begun = Instant::now();
        loop {
            if holds() {
                return true;
            }
            if begun.elapsed() > self.limits.patience {
                return false;
            }
            thread::sleep(PAUSE);
        }
    }

    /// Sends `message` again and again until node `to` has it.
    pub(super) fn send_until_there(
        &self,
        from: &Started,
        to: &Started,
        message: &Message,
    ) -> Result<(), String> {
        let arrived = self.becomes(|| {
            from.transport.send(message.clone());
            to.witness.has(message)
        });
        if arrived {
            Ok(())
        } else {
            Err(format!(
                "{message:?} never arrives, however often it is sent"
            ))
        }
    }
}

/// A started transport.
pub(super) struct Started {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) witness: Arc<Witness>,
}

impl Started {
    /// Stops the transport in a thread of its own: it may block.
    pub(super) fn stop(&self, bench: &Bench) -> Result<(), String> {
        let transport = Arc::clone(&self.transport);
        bench.in_time("stop", move || transport.stop())
    }
}

/// An inbox that remembers what it was given.
#[derive(Default)]
pub(super) struct Witness {
    messages: Mutex<Vec<Message>>,
    /// Whether it takes nothing, as a full queue.
    full: AtomicBool,
    calls: AtomicUsize,
}

impl Witness {
    pub(super) fn has(&self, message: &Message) -> bool {
        self.messages.lock().contains(message)
    }

    pub(super) fn messages(&self) -> Vec<Message> {
        self.messages.lock().clone()
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(super) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }
}

impl Inbox for Witness {
    fn deliver(&self, message: Message) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) {
            return false;
        }
        self.messages.lock().push(message);
        true
    }
}

/// Payloads of which it is known how many are still held by somebody.
#[derive(Clone, Default)]
pub(super) struct Counted(Arc<AtomicUsize>);

struct CountedBytes {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Counted {
    pub(super) fn payload(&self, length: usize) -> Bytes {
        self.0.fetch_add(1, Ordering::SeqCst);
        Bytes::from_owner(CountedBytes {
            bytes: vec![0; length],
            alive: Arc::clone(&self.0),
        })
    }

    pub(super) fn alive(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

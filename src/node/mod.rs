//! A node: a replica with its threads, in the host's own process.
//!
//! Floor 4. [`Node::builder`] starts one. Inside, one thread turns the [`driver`], one writes to the
//! storage, one writes and reads snapshots; reads of the tree take none of them, but the view that the
//! driver publishes. It knows nothing of recipes or of the wire protocol.

mod builder;
mod calls;
mod compare;
pub(crate) mod driver;
mod entropy;
mod events;
mod inbox;
pub(crate) mod join;
mod members;
mod overview;
mod shared;
pub(crate) mod snapshotter;
mod start;
mod telling;
mod unfired;
mod watch_lock;
mod watches;
pub(crate) mod workers;

use std::fmt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

pub use builder::{NodeBuilder, StartError};
pub use calls::Stamped;
#[cfg(any(test, feature = "testing"))]
pub(crate) use entropy::split_mix;
pub use events::{NodeEvent, NodeEvents};
pub use join::JoinError;
pub use members::{MemberStatus, Members};
pub use overview::{SessionStatus, WatchStatus};
pub use shared::{NodeStatus, QueueDepths, Role};
pub(crate) use start::read_snapshot;
#[cfg(any(test, feature = "testing"))]
pub(crate) use start::{Assembly, bind_joined};
pub use watches::{Event, SessionState, WatchEvent, WatchKind};

pub(crate) use calls::{Asked, Call, Command, FrozenState, Value, WatchRequest};
pub(crate) use shared::{NodeShared, SessionHandle, SessionShared};
pub(crate) use watches::WatchQueue;

pub use crate::replica::Reconfiguration;
pub(crate) use crate::replica::{Abandonment, MembershipRequest};

pub(crate) use telling::Cause;

use crate::error::{Error, Result};
use crate::ids::{ClusterId, NodeId, Zxid};
use crate::storage::linger::{LINGER, linger};
use crate::transport::Transport;

/// A replica of the tree, running in this process.
///
/// Dropping it stops it, as [`Node::shutdown`] does: its threads end, its storage is closed, and its
/// sessions' calls are answered. Its ephemerals stay until their sessions time out.
pub struct Node {
    id: NodeId,
    cluster: ClusterId,
    shared: Arc<NodeShared>,
    transport: Arc<dyn Transport>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("status", &self.shared.status())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Begins to make a node with this id: any number but 0, and never one whose disk was lost.
    pub fn builder(id: u64) -> NodeBuilder {
        NodeBuilder::new(id)
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Where it stands, as of its last turn.
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// A handle to the node for other threads, which doesn't keep it running.
    pub fn handle(&self) -> NodeHandle {
        NodeHandle {
            shared: self.shared.clone(),
        }
    }

    /// The last write that readers of this node see. Never goes back.
    pub fn zxid(&self) -> Zxid {
        self.shared.reader().zxid()
    }

    /// Waits until the status satisfies `condition`, or the node stops.
    ///
    /// # Errors
    /// [`Error::Timeout`] when that takes longer than `timeout`.
    pub fn wait_for(
        &self,
        timeout: Duration,
        condition: impl FnMut(&NodeStatus) -> bool,
    ) -> Result<NodeStatus> {
        self.shared.wait_for(timeout, condition)
    }

    /// Stops the node: its calls are answered, its threads end, its storage and its address are free
    /// when this returns. Again it does nothing.
    pub fn shutdown(&self) {
        self.shared.command_for_sure(Command::Stop);
        self.transport.stop();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that panicked has printed why; the node is stopped all the same.
            let _ = thread.join();
        }
    }

    /// What becomes of the cluster from now on, as this node sees it.
    ///
    /// The queue holds 256 events. One that doesn't fit drops the oldest, and the next event says how
    /// many were dropped: [`NodeEvent::Missed`].
    pub fn events(&self) -> NodeEvents {
        self.shared.events.subscribe()
    }

    /// What is published now, held still for whoever writes it elsewhere.
    pub(crate) fn freeze(&self) -> Result<FrozenState> {
        let (call, answer) = Call::new();
        self.shared.command(Command::Freeze { call });
        match answer.recv().map(|answer| answer.result) {
            Ok(Ok(Value::Frozen(frozen))) => Ok(*frozen),
            Ok(Ok(_)) => unreachable!("a call is answered in its own kind"),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.shared.stopped_error()),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }
}

/// Reaches a node from wherever it is needed, for as long as the node runs: it keeps it from nothing.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<NodeShared>,
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeHandle")
            .field("status", &self.shared.status())
            .finish()
    }
}

impl NodeHandle {
    /// See [`Node::status`].
    pub fn status(&self) -> NodeStatus {
        self.shared.status()
    }

    /// See [`Node::zxid`].
    pub fn zxid(&self) -> Zxid {
        self.shared.reader().zxid()
    }

    /// See [`Node::wait_for`].
    ///
    /// # Errors
    /// [`Error::Timeout`] when that takes longer than `timeout`.
    pub fn wait_for(
        &self,
        timeout: Duration,
        condition: impl FnMut(&NodeStatus) -> bool,
    ) -> Result<NodeStatus> {
        self.shared.wait_for(timeout, condition)
    }

    pub(crate) fn shared(&self) -> &Arc<NodeShared> {
        &self.shared
    }

    /// Of a node that is driven by somebody else than its own threads.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn on(shared: Arc<NodeShared>) -> NodeHandle {
        NodeHandle { shared }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Wakes a node's loop.
#[derive(Clone)]
pub(crate) struct Waker(Sender<()>);

impl Waker {
    fn new() -> (Waker, Receiver<()>) {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        (Waker(sender), receiver)
    }

    /// Lets the loop take another turn, soon. Waking it twice is waking it once.
    pub(crate) fn wake(&self) {
        let _ = self.0.try_send(());
    }
}

/// Turns the driver until it has stopped.
fn run(mut driver: driver::Driver, wake: &Receiver<()>, shared: &NodeShared) {
    // Should a turn panic, whoever waits must not wait for ever.
    struct Stop<'a>(&'a NodeShared);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            let reason = "its loop has ended".to_string();
            self.0
                .set_stopped(&Error::Stopped { reason }, Cause::Failure);
        }
    }
    let _stop = Stop(shared);
    while driver.turn(shared.clock.now()) {
        if driver.has_work() || (driver.expects_work() && linger(LINGER, || driver.has_work())) {
            continue;
        }
        let now = shared.clock.now().monotonic;
        let pause = driver.next_turn().saturating_sub(now);
        let _ = wake.recv_timeout(pause);
    }
}

//! What a host's tasks see of their simulation.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::clock::TrueTime;
use super::executor::Task;
use super::random::Random;
use super::wire::node_id;
use crate::client::Pending;
use crate::node::{Members, MembershipRequest, NodeHandle};
use crate::recipes::LockGuard;
use crate::testing::history::Recorder;

/// A change of who takes part, or of who leads, as [`crate::Node`] has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemberChange {
    /// [`crate::Node::add_learner`].
    AddLearner(u64),
    /// [`crate::Node::promote`].
    Promote(u64),
    /// [`crate::Node::demote`].
    Demote(u64),
    /// [`crate::Node::remove`].
    Remove(u64),
    /// [`crate::Node::replace`].
    Replace {
        /// The voter.
        old: u64,
        /// The learner that takes its place.
        new: u64,
    },
    /// [`crate::Node::transfer_leadership`].
    Transfer(u64),
}

/// A simulation, as its tasks see it: the time, the nodes, and chance. Cheap to clone.
#[derive(Clone)]
pub struct World {
    pub(super) shared: Rc<Shared>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// What tasks and the simulation share.
pub(super) struct Shared {
    pub(super) time: TrueTime,
    /// Who sleeps, by when it ends.
    pub(super) timers: RefCell<BTreeMap<(Duration, u64), Waker>>,
    next_timer: Cell<u64>,
    /// Tasks that the executor hasn't taken over yet.
    pub(super) spawned: RefCell<Vec<(Option<u64>, Work)>>,
    random: RefCell<Random>,
    pub(super) nodes: RefCell<BTreeMap<u64, NodeView>>,
    pub(super) orders: RefCell<Vec<Order>>,
    pub(super) guards: RefCell<Vec<ObservedGuard>>,
    pub(super) recorder: Recorder,
    /// Somebody changes who takes part: a second one at the same time could take a majority away.
    changing_members: Cell<bool>,
}

/// What tasks may know of a node.
#[derive(Clone, Default)]
pub(super) struct NodeView {
    /// While its process is there.
    pub(super) handle: Option<NodeHandle>,
    /// It has stopped as removed, and was not started on another disk since.
    pub(super) removed: bool,
    /// It is no part of the cluster any more, and never will be.
    pub(super) retired: bool,
}

/// What a task wants done to a machine.
pub(super) enum Order {
    /// Start a node that joins, on an empty disk.
    Join(u64),
    /// Cut a node off from all others for so long.
    CutOff(u64, Duration),
    /// Take a node's machine away for good.
    Retire(u64),
}

/// A lock's guard that is looked at after every turn.
pub(super) struct ObservedGuard {
    pub(super) lock: String,
    pub(super) token: u64,
    pub(super) guard: Weak<LockGuard>,
    /// It wasn't looked at yet.
    pub(super) is_new: bool,
}

impl World {
    pub(super) fn new(time: TrueTime, random: Random) -> World {
        World {
            shared: Rc::new(Shared {
                recorder: Recorder::new(time.clone()),
                time,
                timers: RefCell::default(),
                next_timer: Cell::new(0),
                spawned: RefCell::default(),
                random: RefCell::new(random),
                nodes: RefCell::default(),
                orders: RefCell::default(),
                guards: RefCell::default(),
                changing_members: Cell::new(false),
            }),
        }
    }

    /// The time since the simulation began, by the true clock.
    pub fn now(&self) -> Duration {
        self.shared.time.get()
    }

    /// Comes back when so much time has passed.
    pub fn sleep(&self, time: Duration) -> Sleep {
        let number = self.shared.next_timer.get();
        self.shared.next_timer.set(number + 1);
        Sleep {
            key: (self.now() + time, number),
            shared: self.shared.clone(),
        }
    }

    /// Waits for a future, but no longer than `time`; `None` where that is over first.
    pub async fn within<F: Future>(&self, time: Duration, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut sleep = self.sleep(time);
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            Pin::new(&mut sleep).poll(context).map(|()| None)
        })
        .await
    }

    /// A number below `bound`, by lot.
    pub fn random(&self, bound: u64) -> u64 {
        self.shared.random.borrow_mut().below(bound)
    }

    /// Some time between these, by lot.
    pub fn some_time(&self, least: Duration, most: Duration) -> Duration {
        self.shared.random.borrow_mut().between(least, most)
    }

    /// The nodes whose processes are there, sorted.
    pub fn nodes(&self) -> Vec<u64> {
        let nodes = self.shared.nodes.borrow();
        let up = nodes.iter().filter(|(_, view)| view.handle.is_some());
        up.map(|(&id, _)| id).collect()
    }

    /// A node, while its process is there: to open sessions on, and to look at its status.
    pub fn node(&self, id: u64) -> Option<NodeHandle> {
        self.shared.nodes.borrow().get(&id)?.handle.clone()
    }

    /// One of the nodes whose processes are there, by lot; waits until there is one.
    pub async fn any_node(&self) -> (u64, NodeHandle) {
        loop {
            let nodes = self.nodes();
            if !nodes.is_empty() {
                let id = nodes[self.random(nodes.len() as u64) as usize];
                if let Some(node) = self.node(id) {
                    return (id, node);
                }
            }
            self.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs a task of nobody's: it goes on whatever becomes of the nodes.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        self.spawn_for(None, future)
    }

    /// Runs a task in a node's process: it stands still while that does, and is gone when it ends.
    pub fn spawn_on<T: 'static>(
        &self,
        node: u64,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        self.spawn_for(Some(node), future)
    }

    fn spawn_for<T: 'static>(
        &self,
        node: Option<u64>,
        future: impl Future<Output = T> + 'static,
    ) -> Task<T> {
        let (task, work) = Task::new(future);
        self.shared.spawned.borrow_mut().push((node, work));
        task
    }

    /// The recorder of the simulation's history, whose time is the true one. What the cluster does is
    /// recorded anyway.
    pub fn recorder(&self) -> &Recorder {
        &self.shared.recorder
    }

    /// From now on the simulation looks after every turn whether this guard says that it is held: no two
    /// guards of one lock may, and tokens must grow.
    pub fn observe(&self, lock: &str, guard: &Arc<LockGuard>) {
        self.shared.guards.borrow_mut().push(ObservedGuard {
            lock: lock.to_string(),
            token: guard.fencing_token().as_u64(),
            guard: Arc::downgrade(guard),
            is_new: true,
        });
    }

    /// Cuts a node off from all others for so long, whatever faults there are besides.
    pub fn cut_off(&self, node: u64, time: Duration) {
        let order = Order::CutOff(node, time);
        self.shared.orders.borrow_mut().push(order);
    }

    // ---- Members ------------------------------------------------------------------------------

    /// Asks a node for a change of who takes part; `None` where its process is not there.
    pub fn change_members(&self, at: u64, change: MemberChange) -> Option<Pending<Members>> {
        let request = match change {
            MemberChange::AddLearner(node) => MembershipRequest::AddLearner(node_id(node)),
            MemberChange::Promote(node) => MembershipRequest::Promote(node_id(node)),
            MemberChange::Demote(node) => MembershipRequest::Demote(node_id(node)),
            MemberChange::Remove(node) => MembershipRequest::Remove(node_id(node)),
            MemberChange::Replace { old, new } => MembershipRequest::Replace {
                old: node_id(old),
                new: node_id(new),
            },
            MemberChange::Transfer(node) => MembershipRequest::Transfer(node_id(node)),
        };
        Some(self.node(at)?.ask(request))
    }

    /// Starts another machine, with an empty disk, whose node joins the cluster. To be added by
    /// [`MemberChange::AddLearner`] when it is there.
    pub fn join(&self, node: u64) {
        self.shared.orders.borrow_mut().push(Order::Join(node));
    }

    /// Takes a node's machine away for good: it was removed from the cluster.
    pub fn retire(&self, node: u64) {
        self.shared.orders.borrow_mut().push(Order::Retire(node));
    }

    /// Waits until nobody else changes members; nobody does until what is returned is dropped. The
    /// simulation itself replaces nodes whose disks are lost, and damages no disk meanwhile.
    pub async fn members_lock(&self) -> MembersLock {
        while self.shared.changing_members.replace(true) {
            self.sleep(Duration::from_millis(20)).await;
        }
        MembersLock(self.shared.clone())
    }

    /// Whether a node has stopped because it took itself for removed.
    pub(super) fn is_removed(&self, id: u64) -> bool {
        let nodes = self.shared.nodes.borrow();
        nodes.get(&id).is_some_and(|view| view.removed)
    }

    pub(super) fn members_are_changing(&self) -> bool {
        self.shared.changing_members.get()
    }

    pub(super) fn try_members_lock(&self) -> Option<MembersLock> {
        let locked = !self.shared.changing_members.replace(true);
        locked.then(|| MembersLock(self.shared.clone()))
    }
}

/// See [`World::members_lock`].
#[must_use = "dropping it lets others change members"]
pub struct MembersLock(Rc<Shared>);

impl std::fmt::Debug for MembersLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MembersLock")
    }
}

impl Drop for MembersLock {
    fn drop(&mut self) {
        self.0.changing_members.set(false);
    }
}

/// See [`World::sleep`].
#[must_use = "it only sleeps while it is awaited"]
pub struct Sleep {
    key: (Duration, u64),
    shared: Rc<Shared>,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sleep({:?})", self.key.0)
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.shared.time.get() >= self.key.0 {
            return Poll::Ready(());
        }
        let waker = context.waker().clone();
        self.shared.timers.borrow_mut().insert(self.key, waker);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        // The waker may be the last to hold a task, whose end may sleep too.
        let waker = self.shared.timers.borrow_mut().remove(&self.key);
        drop(waker);
    }
}

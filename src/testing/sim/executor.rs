//! Runs a host's tasks, one at a time, in the order in which they were woken.
//!
//! It knows no cluster. A task may belong to a node: it stands still while that node's process does, and
//! is dropped with it. Invariant: which task runs next follows from which was woken first, and from
//! nothing else.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

type Work = Pin<Box<dyn Future<Output = ()>>>;

/// The tasks.
#[derive(Default)]
pub(super) struct Executor {
    tasks: BTreeMap<u64, Entry>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    /// Woken while their node stands still.
    held: Vec<u64>,
    next: u64,
}

struct Entry {
    work: Work,
    node: Option<u64>,
    alarm: Arc<Alarm>,
}

/// Puts its task into the queue, once until it runs.
struct Alarm {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(self.task);
        }
    }
}

impl Executor {
    /// Takes on a task, which is run for the first time soon.
    pub(super) fn spawn(&mut self, node: Option<u64>, work: Work) {
        self.next += 1;
        let alarm = Arc::new(Alarm {
            task: self.next,
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        alarm.clone().wake();
        self.tasks.insert(self.next, Entry { work, node, alarm });
    }

    /// Runs one task; false where none waits.
    pub(super) fn run_one(&mut self, stands_still: impl Fn(u64) -> bool) -> bool {
        let Some(task) = self.ready.lock().pop_front() else {
            return false;
        };
        let Some(mut entry) = self.tasks.remove(&task) else {
            return true;
        };
        if entry.node.is_some_and(stands_still) {
            self.held.push(task);
            self.tasks.insert(task, entry);
            return true;
        }
        entry.alarm.queued.store(false, Ordering::Release);
        let waker = Waker::from(entry.alarm.clone());
        let polled = entry.work.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            self.tasks.insert(task, entry);
        }
        true
    }

    /// A node goes on: so do its tasks.
    pub(super) fn resume(&mut self) {
        self.ready.lock().extend(self.held.drain(..));
    }

    /// A node's process is gone, and its tasks with it.
    pub(super) fn drop_tasks_of(&mut self, node: u64) {
        let gone: Vec<u64> = self
            .tasks
            .iter()
            .filter(|(_, entry)| entry.node == Some(node))
            .map(|(&task, _)| task)
            .collect();
        for task in gone {
            drop(self.tasks.remove(&task));
        }
    }
}

/// What a task that was spawned will give; `None` where its node's process ends first. Dropping it leaves
/// the task alone.
#[must_use = "the task runs on, but nobody will know what came of it"]
pub struct Task<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> std::fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("is_finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

struct Slot<T> {
    value: Option<T>,
    finished: bool,
    waker: Option<Waker>,
}

/// Says that its task is over, also where it is dropped half-way.
struct Finish<T>(Rc<RefCell<Slot<T>>>);

impl<T> Drop for Finish<T> {
    fn drop(&mut self) {
        let mut slot = self.0.borrow_mut();
        slot.finished = true;
        let waker = slot.waker.take();
        drop(slot);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T: 'static> Task<T> {
    /// A task, and the work that the executor is to be given for it.
    pub(super) fn new(future: impl Future<Output = T> + 'static) -> (Task<T>, Work) {
        let slot = Rc::new(RefCell::new(Slot {
            value: None,
            finished: false,
            waker: None,
        }));
        let finish = Finish(slot.clone());
        let work = async move {
            let value = future.await;
            finish.0.borrow_mut().value = Some(value);
            drop(finish);
        };
        (Task { slot }, Box::pin(work))
    }
}

impl<T> Task<T> {
    /// Whether it is over, one way or another.
    pub fn is_finished(&self) -> bool {
        self.slot.borrow().finished
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.slot.borrow_mut();
        if slot.finished {
            return Poll::Ready(slot.value.take());
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(executor: &mut Executor, paused: &[u64]) {
        while executor.run_one(|node| paused.contains(&node)) {}
    }

    #[test]
    fn tasks_run_in_the_order_in_which_they_were_woken() {
        let mut executor = Executor::default();
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        let mut senders = Vec::new();
        for number in 0..3 {
            let (sender, receiver) = oneshot::channel::<()>();
            senders.push(sender);
            let order = order.clone();
            let (task, work) = Task::new(async move {
                receiver.await.unwrap();
                order.borrow_mut().push(number);
            });
            executor.spawn(None, work);
            tasks.push(task);
        }
        run(&mut executor, &[]);
        for sender in senders.into_iter().rev() {
            sender.send(()).unwrap();
        }
        run(&mut executor, &[]);
        assert_eq!(*order.borrow(), [2, 1, 0]);
        assert!(tasks.iter().all(Task::is_finished));
    }

    #[test]
    fn a_task_stands_still_with_its_node_and_ends_with_it() {
        let mut executor = Executor::default();
        let (mut task, work) = Task::new(async { 7 });
        executor.spawn(Some(1), work);
        let (waiting, work) = Task::new(std::future::pending::<()>());
        executor.spawn(Some(2), work);
        run(&mut executor, &[1]);
        assert!(!task.is_finished());
        executor.resume();
        run(&mut executor, &[]);
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(Pin::new(&mut task).poll(&mut context), Poll::Ready(Some(7)));
        assert!(!waiting.is_finished());
        executor.drop_tasks_of(2);
        assert!(waiting.is_finished());
    }
}

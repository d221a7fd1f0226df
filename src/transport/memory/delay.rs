//! A thread that holds messages back for a while.
//!
//! It knows neither faults nor nodes: it calls a function with each message when its time has come. The
//! invariants: it holds a bounded number of messages; when it is dropped it hands over what it holds
//! and its thread has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::transport::Message;

/// Messages held at once; one more is lost.
const HELD_MESSAGES_MAX: usize = 65_536;

#[derive(Default)]
struct Held {
    /// By the time they are due, and by the order in which they came.
    messages: BTreeMap<(Instant, u64), Message>,
    came: u64,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    held: Mutex<Held>,
    changed: Condvar,
}

/// The thread and what it holds.
pub(super) struct Delayer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Delayer {
    /// Starts the thread; `deliver` is called by it.
    pub(super) fn start(deliver: impl Fn(Message) + Send + 'static) -> Delayer {
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("quorate-delay".to_owned())
            .spawn(move || run(&of_thread, deliver));
        // Where no thread can be had its messages are lost, as they may be.
        Delayer {
            shared,
            thread: thread.ok(),
        }
    }

    /// Delivers `message` after `delay`, or loses it where too many are held.
    pub(super) fn hold(&self, delay: Duration, message: Message) {
        let mut held = self.shared.held.lock();
        if self.thread.is_none() || held.messages.len() >= HELD_MESSAGES_MAX {
            return;
        }
        held.came += 1;
        let due = (Instant::now() + delay, held.came);
        held.messages.insert(due, message);
        self.shared.changed.notify_one();
    }
}

impl Drop for Delayer {
    fn drop(&mut self) {
        self.shared.held.lock().ended = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // The last handle of a network may go while this very thread delivers.
            if thread.thread().id() != thread::current().id() {
                // A panic of an inbox has been reported by the thread itself.
                let _ = thread.join();
            }
        }
    }
}

fn run(shared: &Shared, deliver: impl Fn(Message)) {
    let mut held = shared.held.lock();
    loop {
        let Some((&(due, _), _)) = held.messages.first_key_value() else {
            if held.ended {
                return;
            }
            shared.changed.wait(&mut held);
            continue;
        };
        if held.ended || Instant::now() >= due {
            if let Some((_, message)) = held.messages.pop_first() {
                parking_lot::MutexGuard::unlocked(&mut held, || deliver(message));
            }
        } else {
            shared.changed.wait_until(&mut held, due);
        }
    }
}

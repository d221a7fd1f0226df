//! The lock around the table of watches.
//!
//! A waker is the host's code: an executor may poll the watcher in `wake` itself, and that locks the table
//! again, or drop it. So events are put into queues while the table is locked, and the invariant is that
//! whoever waits for them is woken when it is unlocked.

use std::ops::{Deref, DerefMut};

use parking_lot::{Mutex, MutexGuard};

use super::watches::WatchTable;

/// The table of watches, for one thread at a time.
#[derive(Debug, Default)]
pub(crate) struct Watches(Mutex<WatchTable>);

impl Watches {
    pub(crate) fn lock(&self) -> LockedWatches<'_> {
        LockedWatches(Some(self.0.lock()))
    }
}

/// The table, locked until this is dropped.
pub(crate) struct LockedWatches<'a>(Option<MutexGuard<'a, WatchTable>>);

const LOCKED: &str = "it is locked until it is dropped";

impl Deref for LockedWatches<'_> {
    type Target = WatchTable;

    fn deref(&self) -> &WatchTable {
        self.0.as_ref().expect(LOCKED)
    }
}

impl DerefMut for LockedWatches<'_> {
    fn deref_mut(&mut self) -> &mut WatchTable {
        self.0.as_mut().expect(LOCKED)
    }
}

impl Drop for LockedWatches<'_> {
    fn drop(&mut self) {
        let mut table = self.0.take().expect(LOCKED);
        let wakers = table.take_wakers();
        drop(table);
        for waker in wakers {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::ids::SessionId;
    use crate::ids::Zxid;
    use crate::node::{SessionState, WatchKind};
    use crate::op::{Change, EventKind};
    use crate::path::ZnodePath;

    /// What an executor does that polls the watcher at once.
    #[derive(Default)]
    struct Inline {
        watches: Watches,
        unlocked: AtomicUsize,
    }

    impl Wake for Inline {
        fn wake(self: Arc<Self>) {
            let is_unlocked = self.watches.0.try_lock().is_some();
            self.unlocked
                .fetch_add(usize::from(is_unlocked), Ordering::SeqCst);
        }
    }

    #[test]
    fn whoever_is_woken_may_lock_the_table() {
        let inline = Arc::new(Inline::default());
        let path = ZnodePath::parse("/a").unwrap();
        let queue = inline.watches.lock().add_watcher(SessionId(1), None, 1);
        let kind = WatchKind::Persistent;
        inline.watches.lock().add(&queue, &path, kind, Zxid(0));
        let change = |zxid| Change {
            zxid: Zxid(zxid),
            kind: EventKind::NodeDataChanged,
            path: path.clone(),
            acl: None,
            parent_acl: None,
        };
        let woken = |event: &dyn Fn(&mut WatchTable)| {
            queue.register(&Waker::from(inline.clone()));
            event(&mut inline.watches.lock());
            inline.unlocked.swap(0, Ordering::SeqCst)
        };
        assert_eq!(
            woken(&|table| table.fire(&[change(1), change(2)], &|_, _| true)),
            1
        );
        queue.receiver().try_recv().unwrap();
        assert_eq!(woken(&WatchTable::report_missed), 1);
        let lost = SessionState::Lost;
        assert_eq!(woken(&|table| table.tell(&queue, lost)), 1);
    }
}

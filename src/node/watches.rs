//! Watches: who is to be told of which change (ZooKeeper's `WatchManager`).
//!
//! Local to the node, fired by what the log applies here. The table is locked while a batch's changes
//! are fired *and* published; whoever sets a watch reads under the same lock. So a watch is set either
//! before a change, and hears of it, or after, and reads it: never neither, never both. And an event
//! stands in its watcher's queue before anybody can read the change.
//!
//! An event goes only to who may read its znode, by the ACL as of the change (CVE-2024-23944); a one-shot
//! watch is used up all the same. Who has proven what is not known here: the caller says it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::task::Waker;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;

use super::shared::Stranger;
use crate::acl::Acl;
use crate::ids::{SessionId, Zxid};
use crate::op::{Change, EventKind};
use crate::path::{self, ZnodePath};

/// A change that a watch was waiting for.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which znode. For [`EventKind::NodeChildrenChanged`] it is the parent.
    pub path: ZnodePath,
    /// The write that did it.
    pub zxid: Zxid,
}

/// What a session is for its node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum SessionState {
    /// The leader has heard of it lately.
    #[default]
    Connected,
    /// The leader can't be reached just now. The session lives on; what depends on it should pause.
    Suspended,
    /// It may have expired, or has. Final for this handle.
    Lost,
    /// It was attached somewhere else. Final for this handle.
    Moved,
    /// It was closed. Final.
    Closed,
}

impl SessionState {
    /// Whether the handle is of no use any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            SessionState::Lost | SessionState::Moved | SessionState::Closed
        )
    }
}

/// What a watcher hears.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A watched change.
    Changed(WatchEvent),
    /// The queue was full, and events are missing: the first of them was that of `from`. Whoever gets
    /// this reads again what it cares for, and sets its one-shot watches again.
    Missed {
        /// The zxid of the first event that was lost.
        from: Zxid,
    },
    /// The session's state has changed.
    Session(SessionState),
}

/// Which changes a watch waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum WatchKind {
    /// Once: the data is set, or the znode deleted (or, where it wasn't there, created).
    Data,
    /// Once: a child is created or deleted, or the znode itself deleted.
    Children,
    /// Until it is removed: everything about this znode and its list of children.
    Persistent,
    /// Until it is removed: everything about this znode and all below it, but no
    /// [`EventKind::NodeChildrenChanged`].
    PersistentRecursive,
}

/// The queue between the node and one watcher.
///
/// Only the thread that holds the table puts events in. Two places are kept: one for word of a loss
/// and one for the end of the session, so that a watcher always hears of both.
#[derive(Debug)]
pub(crate) struct WatchQueue {
    id: u64,
    /// Whose it is.
    session: SessionId,
    /// What that has proven, where it is none of the cluster's.
    stranger: Option<Arc<Stranger>>,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    /// How many events it holds besides those two.
    events_max: usize,
    /// The zxid of the first event that is missing.
    lost: Mutex<Option<Zxid>>,
    waker: Mutex<Option<Waker>>,
}

impl WatchQueue {
    pub(crate) fn session(&self) -> SessionId {
        self.session
    }

    pub(crate) fn stranger(&self) -> Option<&Stranger> {
        self.stranger.as_deref()
    }

    /// The channel that events come through.
    pub(crate) fn receiver(&self) -> &Receiver<Event> {
        &self.receiver
    }

    /// Wakes this task when the next event comes.
    pub(crate) fn register(&self, waker: &Waker) {
        let waker = waker.clone();
        let before = self.waker.lock().replace(waker);
        // Its task may go with it, and with that anything.
        drop(before);
    }

    /// Puts in the event of a change, if it may be heard of.
    fn hear(&self, change: &Change, may_hear: MayHear<'_>, wakers: &mut Vec<Waker>) {
        if change.acl.as_ref().is_some_and(|acl| !may_hear(self, acl)) {
            return;
        }
        let event = WatchEvent {
            kind: change.kind,
            path: change.path.clone(),
            zxid: change.zxid,
        };
        self.push(Event::Changed(event), change.zxid, wakers);
    }

    /// Puts an event in, or remembers that it is lost.
    fn push(&self, event: Event, zxid: Zxid, wakers: &mut Vec<Waker>) {
        if !self.report_lost(wakers) {
            return;
        }
        if self.sender.len() < self.events_max {
            let _ = self.sender.try_send(event);
        } else {
            *self.lost.lock() = Some(zxid);
        }
        self.take_waker(wakers);
    }

    /// Puts the session's end in, which is never lost, behind word of what is.
    fn push_end(&self, state: SessionState, wakers: &mut Vec<Waker>) {
        if let Some(from) = self.lost.lock().take() {
            let _ = self.sender.try_send(Event::Missed { from });
        }
        let _ = self.sender.try_send(Event::Session(state));
        self.take_waker(wakers);
    }

    /// Says what is missing, if anything is. True when there is nothing left to say.
    fn report_lost(&self, wakers: &mut Vec<Waker>) -> bool {
        let mut lost = self.lost.lock();
        if let Some(from) = *lost {
            if self.sender.len() >= self.events_max {
                return false;
            }
            let _ = self.sender.try_send(Event::Missed { from });
            *lost = None;
            self.take_waker(wakers);
        }
        true
    }

    fn take_waker(&self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.waker.lock().take());
    }
}

/// Whether whoever has this queue may read what has this ACL.
pub(crate) type MayHear<'a> = &'a dyn Fn(&WatchQueue, &[Acl]) -> bool;

/// The watches on one path.
#[derive(Debug, Default)]
struct PathWatches {
    /// By watcher and kind: the zxid that the watcher has read; later changes concern it.
    watches: BTreeMap<(u64, WatchKind), Zxid>,
}

/// The paths that one watcher has watches on.
#[derive(Debug, Default)]
struct WatchedPaths {
    /// How many watches on each.
    counts: BTreeMap<Arc<str>, usize>,
    /// How long they are, together.
    bytes: usize,
}

/// All watches of a node.
#[derive(Debug, Default)]
pub(crate) struct WatchTable {
    paths: HashMap<Arc<str>, PathWatches>,
    /// In order: whoever is told of losses at once is told in it.
    queues: BTreeMap<u64, Arc<WatchQueue>>,
    /// Which paths each watcher has watches on.
    by_watcher: HashMap<u64, WatchedPaths>,
    /// How many watches are recursive: while there are none, ancestors need not be looked at.
    recursive: usize,
    count: usize,
    next_id: u64,
    /// Whom to wake when the table is unlocked.
    wakers: Vec<Waker>,
}

impl WatchTable {
    /// A queue for a new watcher of this session, holding up to `events_max` events.
    pub(crate) fn add_watcher(
        &mut self,
        session: SessionId,
        stranger: Option<Arc<Stranger>>,
        events_max: usize,
    ) -> Arc<WatchQueue> {
        self.next_id += 1;
        let events_max = events_max.max(1);
        // Bounded by `push`: a channel of that bound would take its whole memory at once.
        let (sender, receiver) = unbounded();
        let queue = Arc::new(WatchQueue {
            id: self.next_id,
            session,
            stranger,
            sender,
            receiver,
            events_max,
            lost: Mutex::new(None),
            waker: Mutex::new(None),
        });
        self.queues.insert(self.next_id, queue.clone());
        queue
    }

    /// Ends a watcher with all its watches.
    pub(crate) fn remove_watcher(&mut self, queue: &WatchQueue) {
        let paths = self.by_watcher.remove(&queue.id).unwrap_or_default();
        for path in paths.counts.into_keys() {
            if let Some(watches) = self.paths.get_mut(&path) {
                watches.watches.retain(|(watcher, kind), _| {
                    let other = *watcher != queue.id;
                    if !other {
                        self.count -= 1;
                        self.recursive -= usize::from(*kind == WatchKind::PersistentRecursive);
                    }
                    other
                });
                if watches.watches.is_empty() {
                    self.paths.remove(&path);
                }
            }
        }
        self.queues.remove(&queue.id);
    }

    /// Sets a watch for changes after `read`. Set twice it is one watch; what the first one waits for
    /// up to `read` must have been fired.
    pub(crate) fn add(
        &mut self,
        queue: &WatchQueue,
        path: &ZnodePath,
        kind: WatchKind,
        read: Zxid,
    ) {
        if !self.queues.contains_key(&queue.id) {
            return;
        }
        let path = path.shared().clone();
        let watches = &mut self.paths.entry(path.clone()).or_default().watches;
        if watches.insert((queue.id, kind), read).is_none() {
            let watched = self.by_watcher.entry(queue.id).or_default();
            let length = path.len();
            let count = watched.counts.entry(path).or_default();
            *count += 1;
            if *count == 1 {
                watched.bytes += length;
            }
            self.count += 1;
            self.recursive += usize::from(kind == WatchKind::PersistentRecursive);
        }
    }

    /// Removes a watch. False where there was none.
    pub(crate) fn remove(&mut self, queue: &WatchQueue, path: &str, kind: WatchKind) -> bool {
        let Some(watches) = self.paths.get_mut(path) else {
            return false;
        };
        if watches.watches.remove(&(queue.id, kind)).is_none() {
            return false;
        }
        if watches.watches.is_empty() {
            self.paths.remove(path);
        }
        self.count -= 1;
        self.recursive -= usize::from(kind == WatchKind::PersistentRecursive);
        self.unlink(queue.id, path);
        true
    }

    /// Whether a watch is set.
    pub(crate) fn contains(&self, queue: &WatchQueue, path: &str, kind: WatchKind) -> bool {
        self.paths
            .get(path)
            .is_some_and(|watches| watches.watches.contains_key(&(queue.id, kind)))
    }

    /// On how many paths a watcher has watches.
    pub(crate) fn paths_of(&self, queue: &WatchQueue) -> usize {
        let watched = self.by_watcher.get(&queue.id);
        watched.map_or(0, |watched| watched.counts.len())
    }

    /// How long those paths are, together.
    pub(crate) fn path_bytes_of(&self, queue: &WatchQueue) -> usize {
        let watched = self.by_watcher.get(&queue.id);
        watched.map_or(0, |watched| watched.bytes)
    }

    /// How many watches there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Every watch: its session, path and kind, in no order.
    pub(crate) fn all(&self) -> Vec<(SessionId, Arc<str>, WatchKind)> {
        let mut all = Vec::with_capacity(self.count);
        for (path, watches) in &self.paths {
            for (watcher, kind) in watches.watches.keys() {
                all.push((self.queues[watcher].session, path.clone(), *kind));
            }
        }
        all
    }

    /// Every watched path with the kinds and zxids of its watches, to compare two trees.
    pub(crate) fn watched_paths(&self) -> Vec<(Arc<str>, bool)> {
        let mut paths: Vec<_> = self
            .paths
            .iter()
            .map(|(path, watches)| {
                let recursive = watches
                    .watches
                    .keys()
                    .any(|(_, kind)| *kind == WatchKind::PersistentRecursive);
                (path.clone(), recursive)
            })
            .collect();
        paths.sort();
        paths
    }

    /// Tells everybody concerned of these changes, in order.
    pub(crate) fn fire(&mut self, changes: &[Change], may_hear: MayHear<'_>) {
        if self.count == 0 {
            return;
        }
        for change in changes {
            let told = self.fire_at(change.path.as_str(), change, may_hear);
            if self.recursive > 0 {
                self.fire_above(change, told, may_hear);
            }
            if change.kind != EventKind::NodeDataChanged
                && let Some(parent) = change.path.parent()
            {
                self.fire_children_changed(parent, change, may_hear);
            }
        }
    }

    /// Tells everybody concerned of these changes, in order, and of nothing that follows from them.
    pub(crate) fn fire_alone(&mut self, changes: &[Change], may_hear: MayHear<'_>) {
        for change in changes {
            let told = self.fire_at(change.path.as_str(), change, may_hear);
            if self.recursive > 0 && change.kind != EventKind::NodeChildrenChanged {
                self.fire_above(change, told, may_hear);
            }
        }
    }

    /// Tells the watchers of `parent` that its list of children has changed.
    fn fire_children_changed(&mut self, parent: &str, change: &Change, may_hear: MayHear<'_>) {
        if let Some((path, _)) = self.paths.get_key_value(parent) {
            let change = Change {
                zxid: change.zxid,
                kind: EventKind::NodeChildrenChanged,
                path: ZnodePath::from_shared(path.clone()),
                acl: change.parent_acl.clone(),
                parent_acl: None,
            };
            self.fire_at(parent, &change, may_hear);
        }
    }

    /// Reports losses to watchers that have room again.
    pub(crate) fn report_missed(&mut self) {
        for queue in self.queues.values() {
            queue.report_lost(&mut self.wakers);
        }
    }

    /// Puts in an event that a watcher has missed.
    pub(crate) fn deliver(&mut self, queue: &WatchQueue, event: WatchEvent) {
        let zxid = event.zxid;
        queue.push(Event::Changed(event), zxid, &mut self.wakers);
    }

    /// Tells a watcher of its session.
    pub(crate) fn tell(&mut self, queue: &WatchQueue, state: SessionState) {
        if state.is_final() {
            queue.push_end(state, &mut self.wakers);
        } else {
            queue.push(Event::Session(state), Zxid(0), &mut self.wakers);
        }
    }

    /// Those who wait for what was put in, for whoever unlocks the table.
    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    /// Fires the watches set on `at` itself. A watcher is told once, though it has several. Returns
    /// those who were told, sorted.
    fn fire_at(&mut self, at: &str, change: &Change, may_hear: MayHear<'_>) -> Vec<u64> {
        let mut told = Vec::new();
        let Some(watches) = self.paths.get_mut(at) else {
            return told;
        };
        let mut fired = Vec::new();
        for (&(watcher, watch), &read) in &watches.watches {
            if concerns(watch, change.kind) && change.zxid > read {
                // The watches of one watcher stand together.
                if told.last() != Some(&watcher) {
                    told.push(watcher);
                    self.queues[&watcher].hear(change, may_hear, &mut self.wakers);
                }
                if matches!(watch, WatchKind::Data | WatchKind::Children) {
                    fired.push((watcher, watch));
                }
            }
        }
        for key in &fired {
            watches.watches.remove(key);
            self.count -= 1;
        }
        if watches.watches.is_empty() {
            self.paths.remove(at);
        }
        for (watcher, _) in fired {
            self.unlink(watcher, at);
        }
        told
    }

    /// Fires the recursive watches set above the changed znode, but for those who were `told`, sorted.
    fn fire_above(&mut self, change: &Change, mut told: Vec<u64>, may_hear: MayHear<'_>) {
        let mut at = change.path.parent();
        while let Some(ancestor) = at {
            let mut told_here = Vec::new();
            if let Some(watches) = self.paths.get(ancestor) {
                for (&(watcher, watch), &read) in &watches.watches {
                    if watch == WatchKind::PersistentRecursive
                        && change.zxid > read
                        && told.binary_search(&watcher).is_err()
                    {
                        told_here.push(watcher);
                        self.queues[&watcher].hear(change, may_hear, &mut self.wakers);
                    }
                }
            }
            if !told_here.is_empty() {
                told.extend(told_here);
                told.sort_unstable();
            }
            at = path::parent(ancestor);
        }
    }

    fn unlink(&mut self, watcher: u64, path: &str) {
        if let Some(watched) = self.by_watcher.get_mut(&watcher)
            && let Some(count) = watched.counts.get_mut(path)
        {
            *count -= 1;
            if *count == 0 {
                watched.counts.remove(path);
                watched.bytes -= path.len();
            }
        }
    }
}

/// ZooKeeper's table of triggers (sheet, section 2).
fn concerns(watch: WatchKind, kind: EventKind) -> bool {
    match watch {
        WatchKind::Data => kind != EventKind::NodeChildrenChanged,
        WatchKind::Children => {
            matches!(
                kind,
                EventKind::NodeChildrenChanged | EventKind::NodeDeleted
            )
        }
        WatchKind::Persistent => true,
        WatchKind::PersistentRecursive => kind != EventKind::NodeChildrenChanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn znode(path: &str) -> ZnodePath {
        ZnodePath::parse(path).unwrap()
    }

    fn change(zxid: u64, kind: EventKind, path: &str) -> Change {
        Change {
            acl: None,
            parent_acl: None,
            zxid: Zxid(zxid),
            kind,
            path: znode(path),
        }
    }

    fn heard(queue: &WatchQueue) -> Vec<String> {
        queue
            .receiver()
            .try_iter()
            .map(|event| match event {
                Event::Changed(event) => format!("{:?} {} @{}", event.kind, event.path, event.zxid),
                Event::Missed { from } => format!("missed from {from}"),
                Event::Session(state) => format!("{state:?}"),
            })
            .collect()
    }

    #[test]
    fn scenario_11_d_a_one_shot_watch_fires_once() {
        // etcd #17247: an event was delivered twice.
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        table.add(&queue, &znode("/a"), WatchKind::Data, Zxid(1));
        table.fire(
            &[
                change(2, EventKind::NodeDataChanged, "/a"),
                change(3, EventKind::NodeDataChanged, "/a"),
            ],
            &|_, _| true,
        );
        assert_eq!(heard(&queue), ["NodeDataChanged /a @2"]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_change_that_was_read_already_does_not_fire() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        table.add(&queue, &znode("/a"), WatchKind::Data, Zxid(5));
        table.fire(&[change(5, EventKind::NodeDataChanged, "/a")], &|_, _| true);
        assert!(heard(&queue).is_empty());
        table.fire(&[change(6, EventKind::NodeDataChanged, "/a")], &|_, _| true);
        assert_eq!(heard(&queue), ["NodeDataChanged /a @6"]);
    }

    #[test]
    fn a_deletion_is_heard_once_by_a_watcher_of_data_and_children() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        for kind in [WatchKind::Data, WatchKind::Children] {
            table.add(&queue, &znode("/a"), kind, Zxid(1));
        }
        table.fire(&[change(2, EventKind::NodeDeleted, "/a")], &|_, _| true);
        assert_eq!(heard(&queue), ["NodeDeleted /a @2"]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn children_watches_fire_on_creation_and_deletion_but_not_on_data() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        table.add(&queue, &znode("/p"), WatchKind::Children, Zxid(1));
        table.fire(&[change(2, EventKind::NodeDataChanged, "/p/c")], &|_, _| {
            true
        });
        assert!(heard(&queue).is_empty());
        table.fire(&[change(3, EventKind::NodeCreated, "/p/c")], &|_, _| true);
        assert_eq!(heard(&queue), ["NodeChildrenChanged /p @3"]);
    }

    #[test]
    fn a_persistent_watch_hears_children_and_a_recursive_one_descendants() {
        let mut table = WatchTable::default();
        let plain = table.add_watcher(SessionId(1), None, 8);
        let recursive = table.add_watcher(SessionId(1), None, 8);
        table.add(&plain, &znode("/p"), WatchKind::Persistent, Zxid(1));
        table.add(
            &recursive,
            &znode("/p"),
            WatchKind::PersistentRecursive,
            Zxid(1),
        );
        table.fire(
            &[
                change(2, EventKind::NodeCreated, "/p/c"),
                change(3, EventKind::NodeCreated, "/p/c/d"),
                change(4, EventKind::NodeDataChanged, "/p"),
            ],
            &|_, _| true,
        );
        assert_eq!(
            heard(&plain),
            ["NodeChildrenChanged /p @2", "NodeDataChanged /p @4"]
        );
        assert_eq!(
            heard(&recursive),
            [
                "NodeCreated /p/c @2",
                "NodeCreated /p/c/d @3",
                "NodeDataChanged /p @4"
            ]
        );
    }

    #[test]
    fn a_watcher_on_several_levels_is_told_once_and_every_watcher_is_told() {
        let mut table = WatchTable::default();
        let queues: Vec<_> = (0..20)
            .map(|_| table.add_watcher(SessionId(1), None, 8))
            .collect();
        let recursive = WatchKind::PersistentRecursive;
        for (number, queue) in queues.iter().enumerate() {
            // Some on each level, and many on two or three.
            for (level, path) in ["/p/c/d", "/p/c", "/p"].iter().enumerate() {
                if number % (level + 2) == 0 || number % 5 == level {
                    table.add(queue, &znode(path), recursive, Zxid(1));
                }
            }
            table.add(queue, &znode("/p"), WatchKind::Data, Zxid(1));
            table.add(queue, &znode("/"), recursive, Zxid(1));
        }
        table.fire(
            &[change(2, EventKind::NodeDataChanged, "/p/c/d")],
            &|_, _| true,
        );
        for queue in &queues {
            assert_eq!(heard(queue), ["NodeDataChanged /p/c/d @2"]);
        }
    }

    #[test]
    fn scenario_11_b_an_overflow_is_one_explicit_event_and_names_the_first_loss() {
        // etcd #17529 and #18089: a slow watcher lost events under load, and never heard of it.
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 2);
        table.add(&queue, &znode("/a"), WatchKind::Persistent, Zxid(1));
        let changes: Vec<_> = (2..=6)
            .map(|zxid| change(zxid, EventKind::NodeDataChanged, "/a"))
            .collect();
        table.fire(&changes, &|_, _| true);
        assert_eq!(
            heard(&queue),
            ["NodeDataChanged /a @2", "NodeDataChanged /a @3"]
        );
        table.report_missed();
        assert_eq!(heard(&queue), ["missed from 4"]);
        table.fire(&[change(7, EventKind::NodeDataChanged, "/a")], &|_, _| true);
        assert_eq!(heard(&queue), ["NodeDataChanged /a @7"]);
    }

    #[test]
    fn a_loss_is_told_before_any_later_event() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 1);
        table.add(&queue, &znode("/a"), WatchKind::Persistent, Zxid(1));
        table.fire(
            &[
                change(2, EventKind::NodeDataChanged, "/a"),
                change(3, EventKind::NodeDataChanged, "/a"),
            ],
            &|_, _| true,
        );
        assert_eq!(heard(&queue), ["NodeDataChanged /a @2"]);
        table.fire(&[change(4, EventKind::NodeDataChanged, "/a")], &|_, _| true);
        assert_eq!(heard(&queue), ["missed from 3"]);
    }

    #[test]
    fn a_sessions_end_is_told_though_the_queue_is_full() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 1);
        table.add(&queue, &znode("/a"), WatchKind::Persistent, Zxid(1));
        table.fire(
            &[
                change(2, EventKind::NodeDataChanged, "/a"),
                change(3, EventKind::NodeDataChanged, "/a"),
            ],
            &|_, _| true,
        );
        table.tell(&queue, SessionState::Lost);
        assert_eq!(
            heard(&queue),
            ["NodeDataChanged /a @2", "missed from 3", "Lost"]
        );
    }

    #[test]
    fn a_watcher_that_is_gone_leaves_nothing_behind() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        table.add(&queue, &znode("/a"), WatchKind::Data, Zxid(1));
        table.add(
            &queue,
            &znode("/b"),
            WatchKind::PersistentRecursive,
            Zxid(1),
        );
        table.remove_watcher(&queue);
        assert_eq!((table.len(), table.recursive, table.paths.len()), (0, 0, 0));
        table.fire(&[change(2, EventKind::NodeDataChanged, "/a")], &|_, _| true);
    }

    #[test]
    fn who_may_not_read_is_told_nothing_and_its_one_shot_watch_is_used_up() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        for kind in [WatchKind::Data, WatchKind::Persistent] {
            table.add(&queue, &znode("/a"), kind, Zxid(1));
        }
        table.add(&queue, &znode("/"), WatchKind::PersistentRecursive, Zxid(1));
        let mut secret = change(2, EventKind::NodeDeleted, "/a");
        secret.acl = Some(Arc::new([]));
        secret.parent_acl = Some(Arc::new([]));
        table.fire(&[secret.clone()], &|_, _| false);
        assert!(heard(&queue).is_empty());
        assert!(!table.contains(&queue, "/a", WatchKind::Data));
        assert!(table.contains(&queue, "/a", WatchKind::Persistent));
        secret.zxid = Zxid(3);
        table.fire(&[secret], &|_, _| true);
        assert_eq!(heard(&queue), ["NodeDeleted /a @3"]);
    }

    #[test]
    fn a_removed_watch_is_silent() {
        let mut table = WatchTable::default();
        let queue = table.add_watcher(SessionId(1), None, 8);
        table.add(&queue, &znode("/a"), WatchKind::Persistent, Zxid(1));
        assert!(table.remove(&queue, "/a", WatchKind::Persistent));
        assert!(!table.remove(&queue, "/a", WatchKind::Persistent));
        table.fire(&[change(2, EventKind::NodeDataChanged, "/a")], &|_, _| true);
        assert!(heard(&queue).is_empty());
    }
}

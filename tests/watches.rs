//! Watches through the API of whole nodes.

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_core::Stream;
use parking_lot::Mutex;
use quorate::{CreateMode, Error, Event, EventKind, SessionState, Version, WatchKind, Watcher};
use support::{Cluster, PATIENCE, Within, eventually, next, next_change};

fn heard(watcher: &mut Watcher) -> (EventKind, String) {
    let change = next_change(watcher);
    (change.kind, change.path.to_string())
}

fn is_quiet(watcher: &Watcher) -> bool {
    watcher.receiver().is_empty()
}

#[test]
fn a_one_shot_watch_on_data_is_heard_once() {
    let cluster = Cluster::new(3);
    let session = cluster.session(cluster.follower());
    let mut watcher = session.watcher(8);
    session
        .create("/a", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    session.get_and_watch("/a", &watcher).within().unwrap();
    let stat = session.set("/a", "1", Version::ANY).within().unwrap();
    session.set("/a", "2", Version::ANY).within().unwrap();
    let change = next_change(&mut watcher);
    assert_eq!(
        (change.kind, change.zxid),
        (EventKind::NodeDataChanged, stat.mzxid)
    );
    assert!(is_quiet(&watcher));
}

#[test]
fn a_watch_set_again_behind_a_change_has_heard_of_it() {
    // Found by review: the read behind a write that was called at once with it set the watch again
    // before the write's event was told, and that was told to nobody.
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let watcher = session.watcher(8);
    assert_eq!(session.exists_and_watch("/a", &watcher).within(), Ok(None));
    for round in 0..10 {
        let zxid = if round == 0 {
            let created = session.create("/a", "0", CreateMode::Persistent);
            session.get_and_watch("/a", &watcher).within().unwrap();
            created.within().unwrap().stat.czxid
        } else {
            let set = session.set("/a", "1", Version::ANY);
            session.get_and_watch("/a", &watcher).within().unwrap();
            set.within().unwrap().mzxid
        };
        // An event stands in its queue before the write is answered.
        match watcher.receiver().try_recv() {
            Ok(Event::Changed(change)) => assert_eq!(change.zxid, zxid),
            other => panic!("round {round}: {other:?}"),
        }
        assert!(is_quiet(&watcher));
    }
}

/// An executor that polls what is woken at once, on the thread that wakes it.
#[derive(Default)]
struct Inline {
    watcher: Mutex<Option<Watcher>>,
    heard: Mutex<Vec<Event>>,
}

impl Inline {
    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        let mut context = Context::from_waker(&waker);
        let mut watcher = self.watcher.lock();
        let watcher = watcher.as_mut().unwrap();
        while let Poll::Ready(Some(event)) = Pin::new(&mut *watcher).poll_next(&mut context) {
            self.heard.lock().push(event);
        }
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

#[test]
fn an_executor_may_poll_a_watcher_where_it_is_woken() {
    // The node's loop woke it with the table of watches locked, and waited for itself.
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let inline = Arc::new(Inline::default());
    let watcher = session.watcher(8);
    session
        .watch("/a", WatchKind::Persistent, &watcher)
        .unwrap();
    *inline.watcher.lock() = Some(watcher);
    inline.poll();
    session
        .create("/a", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    let set = session.set("/a", "1", Version::ANY).within().unwrap();
    assert_eq!(inline.heard.lock().len(), 2);
    match &inline.heard.lock()[1] {
        Event::Changed(change) => assert_eq!(change.zxid, set.mzxid),
        other => panic!("{other:?}"),
    }
    session.close().within().unwrap();
    let last = inline.heard.lock().pop();
    assert_eq!(last, Some(Event::Session(SessionState::Closed)));
}

#[test]
fn exists_leaves_a_watch_where_nothing_is_and_failed_reads_leave_none() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let mut watcher = session.watcher(8);
    assert_eq!(session.exists_and_watch("/a", &watcher).within(), Ok(None));
    assert!(session.get_and_watch("/a/b", &watcher).within().is_err());
    assert!(
        session
            .children_and_watch("/a/b", &watcher)
            .within()
            .is_err()
    );
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session
        .create("/a/b", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert_eq!(heard(&mut watcher), (EventKind::NodeCreated, "/a".into()));
    assert!(is_quiet(&watcher));
}

#[test]
fn a_watch_on_children_hears_of_creation_deletion_and_the_parents_end() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let mut watcher = session.watcher(8);
    session
        .create("/p", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session.children_and_watch("/p", &watcher).within().unwrap();
    session
        .create("/p/c", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert_eq!(
        heard(&mut watcher),
        (EventKind::NodeChildrenChanged, "/p".into())
    );
    session.children_and_watch("/p", &watcher).within().unwrap();
    session.set("/p/c", "x", Version::ANY).within().unwrap();
    assert!(is_quiet(&watcher));
    session.delete("/p/c", Version::ANY).within().unwrap();
    assert_eq!(
        heard(&mut watcher),
        (EventKind::NodeChildrenChanged, "/p".into())
    );
    session.children_and_watch("/p", &watcher).within().unwrap();
    session.delete("/p", Version::ANY).within().unwrap();
    assert_eq!(heard(&mut watcher), (EventKind::NodeDeleted, "/p".into()));
}

#[test]
fn persistent_watches_hear_everything_until_they_are_removed() {
    let cluster = Cluster::new(3);
    let session = cluster.session(cluster.leader());
    let (mut plain, mut recursive) = (session.watcher(64), session.watcher(64));
    session.watch("/p", WatchKind::Persistent, &plain).unwrap();
    session
        .watch("/p", WatchKind::PersistentRecursive, &recursive)
        .unwrap();
    let other = cluster.session(cluster.follower());
    other
        .create("/p", "", CreateMode::Persistent)
        .within()
        .unwrap();
    other
        .create("/p/c", "", CreateMode::Persistent)
        .within()
        .unwrap();
    other.set("/p/c", "1", Version::ANY).within().unwrap();
    other.delete("/p/c", Version::ANY).within().unwrap();
    other.set("/p", "1", Version::ANY).within().unwrap();
    use EventKind::*;
    for (kind, path) in [
        (NodeCreated, "/p"),
        (NodeChildrenChanged, "/p"),
        (NodeChildrenChanged, "/p"),
        (NodeDataChanged, "/p"),
    ] {
        assert_eq!(heard(&mut plain), (kind, path.into()));
    }
    for (kind, path) in [
        (NodeCreated, "/p"),
        (NodeCreated, "/p/c"),
        (NodeDataChanged, "/p/c"),
        (NodeDeleted, "/p/c"),
        (NodeDataChanged, "/p"),
    ] {
        assert_eq!(heard(&mut recursive), (kind, path.into()));
    }
    plain.remove("/p", WatchKind::Persistent).unwrap();
    let again = plain.remove("/p", WatchKind::Persistent);
    assert_eq!(again, Err(Error::NoWatcher { path: "/p".into() }));
    session.set("/p", "2", Version::ANY).within().unwrap();
    assert_eq!(heard(&mut recursive), (NodeDataChanged, "/p".into()));
    assert!(is_quiet(&plain));
}

#[test]
fn a_dropped_watcher_takes_its_watches_along_and_no_others() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let (gone, mut stays) = (session.watcher(8), session.watcher(8));
    for watcher in [&gone, &stays] {
        session.watch("/a", WatchKind::Persistent, watcher).unwrap();
    }
    drop(gone);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert_eq!(heard(&mut stays), (EventKind::NodeCreated, "/a".into()));
}

#[test]
fn a_full_queue_says_what_is_missing_and_goes_on() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let mut watcher = session.watcher(3);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session
        .watch("/a", WatchKind::Persistent, &watcher)
        .unwrap();
    let stats: Vec<_> = (0..10)
        .map(|_| session.set("/a", "x", Version::ANY).within().unwrap())
        .collect();
    for stat in &stats[..3] {
        assert_eq!(next_change(&mut watcher).zxid, stat.mzxid);
    }
    assert_eq!(
        next(&mut watcher),
        Event::Missed {
            from: stats[3].mzxid
        }
    );
    let stat = session.set("/a", "y", Version::ANY).within().unwrap();
    assert_eq!(next_change(&mut watcher).zxid, stat.mzxid);
}

#[test]
fn scenario_11_a_who_sees_new_data_finds_the_event_in_the_queue() {
    // etcd #15271: a watch went back in time, and told of what had been read already.
    let cluster = Cluster::new(3);
    let writer = cluster.session(cluster.leader());
    writer
        .create("/a", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    let reader = cluster.session(cluster.follower());
    reader.sync().within().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=300 {
                writer
                    .set("/a", version.to_string(), Version::ANY)
                    .within()
                    .unwrap();
            }
        });
        let mut watcher = reader.watcher(8);
        let (_, mut seen) = reader.get_and_watch("/a", &watcher).within().unwrap();
        while seen.version < 300 {
            let (_, stat) = reader.get("/a").within().unwrap();
            if stat.version == seen.version {
                continue;
            }
            let event = watcher.receiver().try_recv();
            match event {
                Ok(Event::Changed(change)) => assert!(change.zxid > seen.mzxid),
                other => panic!("new data at version {}, but {other:?}", stat.version),
            }
            (_, seen) = reader.get_and_watch("/a", &watcher).within().unwrap();
        }
        assert!(watcher.next_timeout(std::time::Duration::ZERO).is_err());
    });
}

#[test]
fn a_watch_set_behind_pipelined_writes_hears_of_later_ones_only() {
    let cluster = Cluster::new(3);
    let session = cluster.session(cluster.follower());
    session
        .create("/a", "0", CreateMode::Persistent)
        .within()
        .unwrap();
    let mut watcher = session.watcher(64);
    for round in 0..50 {
        let before: Vec<_> = (0..5)
            .map(|_| session.set("/a", "b", Version::ANY))
            .collect();
        let read = session.get_and_watch("/a", &watcher);
        let after: Vec<_> = (0..5)
            .map(|_| session.set("/a", "c", Version::ANY))
            .collect();
        let (_, read) = read.within().unwrap();
        for write in before {
            assert!(write.within().unwrap().mzxid <= read.mzxid);
        }
        let mut zxids = Vec::new();
        for write in after {
            zxids.push(write.within().unwrap().mzxid);
        }
        let change = next_change(&mut watcher);
        assert_eq!(change.zxid, zxids[0], "in round {round}");
        assert!(is_quiet(&watcher));
    }
}

#[test]
fn a_watcher_is_an_iterator_that_ends_with_its_session() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let watcher = session.watcher(8);
    session
        .watch("/", WatchKind::PersistentRecursive, &watcher)
        .unwrap();
    let listener = std::thread::spawn(move || watcher.collect::<Vec<_>>());
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session.close().within().unwrap();
    let events = listener.join().unwrap();
    assert!(matches!(&events[0], Event::Changed(change) if change.path.as_str() == "/a"));
    assert_eq!(events[1..], [Event::Session(SessionState::Closed)]);
}

#[test]
fn a_watcher_made_after_its_sessions_end_ends_at_once() {
    // It waited for ever: the end had been told before it was there.
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    session.close().within().unwrap();
    let mut watcher = session.watcher(8);
    assert_eq!(next(&mut watcher), Event::Session(SessionState::Closed));
    assert_eq!(watcher.next(), None);
}

#[test]
fn a_watcher_with_a_full_queue_still_ends_with_its_session() {
    // The event of the end was lost like any other, and the iterator waited for ever.
    let mut cluster = Cluster::new(1);
    let session = cluster.session(1);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let mut watchers: Vec<_> = (1..4)
        .map(|events_max| session.watcher(events_max))
        .collect();
    for watcher in &watchers {
        session.watch("/a", WatchKind::Persistent, watcher).unwrap();
    }
    for _ in 0..3 {
        session.set("/a", "x", Version::ANY).within().unwrap();
    }
    cluster.stop(1);
    for watcher in &mut watchers {
        let mut last = None;
        while let Some(event) = watcher.next_timeout(PATIENCE).expect("the end is told") {
            last = Some(event);
        }
        assert_eq!(last, Some(Event::Session(SessionState::Lost)));
    }
}

#[test]
fn a_watcher_goes_into_select() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let (one, two) = (session.watcher(8), session.watcher(8));
    session.watch("/one", WatchKind::Persistent, &one).unwrap();
    session.watch("/two", WatchKind::Persistent, &two).unwrap();
    for path in ["/two", "/one"] {
        session
            .create(path, "", CreateMode::Persistent)
            .within()
            .unwrap();
        let event = crossbeam_channel::select! {
            recv(one.receiver()) -> event => event.unwrap(),
            recv(two.receiver()) -> event => event.unwrap(),
            default(PATIENCE) => panic!("no event"),
        };
        assert!(matches!(event, Event::Changed(change) if change.path.as_str() == path));
    }
}

struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_watcher_is_a_stream_that_wakes_its_task() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let mut watcher = session.watcher(8);
    session
        .watch("/a", WatchKind::Persistent, &watcher)
        .unwrap();
    let wakes = Arc::new(CountWakes(AtomicUsize::new(0)));
    let waker = Waker::from(wakes.clone());
    let mut context = Context::from_waker(&waker);
    assert!(Pin::new(&mut watcher).poll_next(&mut context).is_pending());
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
    let event = Pin::new(&mut watcher).poll_next(&mut context);
    assert!(matches!(event, Poll::Ready(Some(Event::Changed(_)))));
    assert!(Pin::new(&mut watcher).poll_next(&mut context).is_pending());
    drop(cluster);
    eventually("the task is woken", || wakes.0.load(Ordering::SeqCst) == 2);
    let event = Pin::new(&mut watcher).poll_next(&mut context);
    assert_eq!(event, Poll::Ready(Some(Event::Session(SessionState::Lost))));
    assert_eq!(
        Pin::new(&mut watcher).poll_next(&mut context),
        Poll::Ready(None)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn under_tokio_answers_are_awaited_and_events_streamed() {
    let cluster = Cluster::new(3);
    let session = cluster
        .node(cluster.leader())
        .session()
        .open()
        .await
        .unwrap();
    let mut watcher = session.watcher(8);
    session
        .create("/a", "0", CreateMode::Persistent)
        .await
        .unwrap();
    session.get_and_watch("/a", &watcher).await.unwrap();
    let setting = tokio::spawn({
        let session = session.clone();
        async move { session.set("/a", "1", Version(0)).await }
    });
    let event = std::future::poll_fn(|context| Pin::new(&mut watcher).poll_next(context)).await;
    assert!(matches!(event, Some(Event::Changed(change)) if change.path.as_str() == "/a"));
    setting.await.unwrap().unwrap();
    assert_eq!(&session.get("/a").await.unwrap().0[..], b"1");
}

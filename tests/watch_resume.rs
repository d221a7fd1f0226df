//! Watches set again where they were interrupted, and answers that say as of which write they are.

mod support;

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use quorate::{
    CreateMode, EventKind, Node, Pending, Session, Stamped, Version, WatchKind, WatchedState, Zxid,
};
use support::{Within as _, next_change};

fn session() -> (Node, Session) {
    let node = Node::builder(1).start().unwrap();
    let session = node.session().open().within().unwrap();
    (node, session)
}

/// Waits by polling, as an executor would.
fn stamped<T>(mut pending: Pending<T>) -> Stamped<T> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let mut future = poll_fn(|context| pending.poll_stamped(context));
        if let Poll::Ready(answer) = std::pin::pin!(&mut future).as_mut().poll(&mut context) {
            return answer;
        }
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_says_as_of_which_write_it_is() {
    let (node, session) = session();
    let created = stamped(session.create("/a", "", CreateMode::Persistent));
    let created_zxid = created.result.unwrap().stat.czxid;
    assert_eq!(created.zxid, created_zxid);
    let failed = stamped(session.create("/a", "", CreateMode::Persistent));
    assert!(failed.result.is_err());
    assert_eq!(failed.zxid, Zxid(created_zxid.0 + 1));
    let read = stamped(session.get("/a"));
    assert_eq!(read.zxid, failed.zxid);
    assert_eq!(node.zxid(), failed.zxid);
    // Pipelined: each answer as of its own write, though they come together.
    let first = session.set("/a", "1", Version::ANY);
    let between = session.get("/a");
    let second = session.set("/a", "2", Version::ANY);
    let (first, between, second) = (stamped(first), stamped(between), stamped(second));
    assert_eq!(first.result.unwrap().mzxid, first.zxid);
    assert_eq!(between.zxid, first.zxid);
    assert_eq!(second.zxid, Zxid(first.zxid.0 + 1));
    assert_eq!(node.handle().zxid(), second.zxid);
}

#[test]
fn a_change_that_was_missed_comes_at_once_and_leaves_no_watch() {
    let (node, session) = session();
    for path in ["/set", "/parent", "/gone"] {
        session
            .create(path, "", CreateMode::Persistent)
            .within()
            .unwrap();
    }
    let since = node.zxid();
    session.set("/set", "x", Version::ANY).within().unwrap();
    session
        .create("/parent/c", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session.delete("/gone", Version::ANY).within().unwrap();
    session
        .create("/new", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let mut watcher = session.watcher(16);
    let cases = [
        ("/set", WatchedState::Data, EventKind::NodeDataChanged),
        (
            "/parent",
            WatchedState::Children,
            EventKind::NodeChildrenChanged,
        ),
        ("/gone", WatchedState::Data, EventKind::NodeDeleted),
        ("/gone", WatchedState::Children, EventKind::NodeDeleted),
        ("/new", WatchedState::Absence, EventKind::NodeCreated),
    ];
    for (path, seen, kind) in cases {
        session.resume_watch(path, seen, since, &watcher).unwrap();
        let event = next_change(&mut watcher);
        assert_eq!((event.path.as_str(), event.kind), (path, kind));
    }
    assert_eq!(watcher.paths_watched(), 0);
}

#[test]
fn what_has_not_changed_is_watched_on() {
    let (node, session) = session();
    for path in ["/set", "/parent"] {
        session
            .create(path, "", CreateMode::Persistent)
            .within()
            .unwrap();
    }
    let since = node.zxid();
    let mut watcher = session.watcher(16);
    for (path, seen) in [
        ("/set", WatchedState::Data),
        ("/parent", WatchedState::Children),
        ("/new", WatchedState::Absence),
    ] {
        session.resume_watch(path, seen, since, &watcher).unwrap();
    }
    assert_eq!(watcher.paths_watched(), 3);
    assert!(watcher.contains("/parent", WatchKind::Children));
    assert!(!watcher.contains("/parent", WatchKind::Data));
    session
        .create("/parent/c", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session
        .create("/new", "", CreateMode::Persistent)
        .within()
        .unwrap();
    session.set("/set", "x", Version::ANY).within().unwrap();
    let heard: Vec<_> = (0..3).map(|_| next_change(&mut watcher).kind).collect();
    assert_eq!(
        heard,
        [
            EventKind::NodeChildrenChanged,
            EventKind::NodeCreated,
            EventKind::NodeDataChanged
        ]
    );
    assert_eq!(watcher.paths_watched(), 0);
}

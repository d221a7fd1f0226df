//! The promises of `recipes::Lock`, on real nodes over the memory network.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use quorate::recipes::{Attempt, FencingToken, Lock, LockGuard};
use quorate::storage::Memory;
use quorate::transport::{Inbox, Local, Message, Network, Transport, TransportError};
use quorate::{
    CreateMode, Error, Node, NodeBuilder, NodeId, Session, SessionState, Version, WatchKind,
};

/// Nothing here takes this long; a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

const PATH: &str = "/locks/one";

// ---- What the tests are made of -------------------------------------------------------------------

fn node() -> Node {
    Node::builder(1).start().unwrap()
}

fn session(node: &Node) -> Session {
    node.session().open().wait().unwrap()
}

fn lock(session: &Session) -> Lock {
    Lock::new(session, PATH)
}

fn acquired(attempt: Attempt<LockGuard>) -> LockGuard {
    attempt.wait_timeout(PATIENCE).unwrap()
}

/// The contenders' paths in the order of their creation.
fn contenders(session: &Session) -> Vec<String> {
    let (names, _) = session.linearizable().children(PATH).wait().unwrap();
    let paths = names.iter().map(|name| format!("{PATH}/{name}"));
    let mut with_czxid: Vec<_> = paths
        .filter_map(|path| Some((session.exists(&path).wait().unwrap()?.czxid, path)))
        .collect();
    with_czxid.sort();
    with_czxid.into_iter().map(|(_, path)| path).collect()
}

/// Waits until there are so many contenders.
fn wait_for_contenders(session: &Session, number: usize) -> Vec<String> {
    let mut watcher = session.watcher(64);
    session
        .watch(PATH, WatchKind::Persistent, &watcher)
        .unwrap();
    loop {
        let contenders = contenders(session);
        if contenders.len() == number {
            return contenders;
        }
        watcher.next_timeout(PATIENCE).unwrap();
    }
}

/// Waits until this session has seen the path deleted.
fn wait_until_gone(session: &Session, path: &str) {
    let mut watcher = session.watcher(64);
    while session
        .exists_and_watch(path, &watcher)
        .wait()
        .unwrap()
        .is_some()
    {
        watcher.next_timeout(PATIENCE).unwrap();
    }
}

/// Counts how often a future asks to be polled.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<T>(attempt: &mut Attempt<T>, wakes: &Arc<Wakes>) -> Poll<quorate::Result<T>> {
    Pin::new(attempt).poll(&mut Context::from_waker(&Waker::from(wakes.clone())))
}

/// Polls an attempt until its znode is in the queue and it has nothing to do but to wait.
fn settle<T>(attempt: &mut Attempt<T>, session: &Session) {
    for _ in 0..8 {
        assert!(poll(attempt, &Arc::default()).is_pending());
        session.sync().wait().unwrap();
    }
}

/// A network that a node can be cut off from.
#[derive(Debug)]
struct Severable {
    inner: Box<dyn Transport>,
    cut: Arc<AtomicBool>,
}

impl Transport for Severable {
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        let cut = self.cut.clone();
        self.inner
            .start(local, Arc::new(SeverableInbox { inbox, cut }))
    }

    fn send(&self, message: Message) {
        if !self.cut.load(Ordering::SeqCst) {
            self.inner.send(message);
        }
    }

    fn stop(&self) {
        self.inner.stop();
    }
}

struct SeverableInbox {
    inbox: Arc<dyn Inbox>,
    cut: Arc<AtomicBool>,
}

impl Inbox for SeverableInbox {
    fn deliver(&self, message: Message) -> bool {
        !self.cut.load(Ordering::SeqCst) && self.inbox.deliver(message)
    }
}

/// Three nodes. The field `cut` says who is cut off.
struct Cluster {
    nodes: Vec<Node>,
    cut: Vec<Arc<AtomicBool>>,
}

impl Cluster {
    fn start(configure: impl Fn(NodeBuilder) -> NodeBuilder) -> Cluster {
        let network = Network::new(7);
        let cut: Vec<_> = (0..3).map(|_| Arc::new(AtomicBool::new(false))).collect();
        let nodes = (1..=3).zip(&cut).map(|(id, cut)| {
            let inner = Box::new(network.endpoint(NodeId::new(id).unwrap()));
            let cut = cut.clone();
            configure(Node::builder(id).voters([1, 2, 3]))
                .storage(Memory::new())
                .transport(Severable { inner, cut })
                .start()
                .unwrap()
        });
        Cluster {
            nodes: nodes.collect(),
            cut,
        }
    }

    fn with_short_sessions() -> Cluster {
        let (min, max) = (Duration::from_millis(300), Duration::from_secs(10));
        Cluster::start(|builder| builder.session_timeouts(min, max))
    }

    fn cut_off(&self, node: usize) {
        self.cut[node].store(true, Ordering::SeqCst);
    }

    fn heal(&self, node: usize) {
        self.cut[node].store(false, Ordering::SeqCst);
    }

    fn session(&self, node: usize, timeout: Duration) -> Session {
        let opening = self.nodes[node].session().timeout(timeout).open();
        opening.wait().unwrap()
    }

    fn short_session(&self, node: usize) -> Session {
        self.session(node, Duration::from_millis(300))
    }

    fn long_session(&self, node: usize) -> Session {
        self.session(node, Duration::from_secs(10))
    }
}

// ---- One holder at a time, in order ---------------------------------------------------------------

#[test]
fn critical_sections_never_overlap_and_tokens_grow() {
    const CONTENDERS: usize = 6;
    const TURNS: usize = 20;
    let cluster = Cluster::start(|builder| builder);
    let inside = AtomicUsize::new(0);
    // Only correct if nobody else reads between the load and the store.
    let counter = AtomicUsize::new(0);
    let tokens = parking_lot::Mutex::new(Vec::<FencingToken>::new());
    thread::scope(|scope| {
        for contender in 0..CONTENDERS {
            let session = cluster.long_session(contender % 3);
            let (inside, counter, tokens) = (&inside, &counter, &tokens);
            scope.spawn(move || {
                for _ in 0..TURNS {
                    let guard = acquired(lock(&session).acquire());
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two holders");
                    assert!(guard.is_held());
                    let count = counter.load(Ordering::SeqCst);
                    thread::yield_now();
                    counter.store(count + 1, Ordering::SeqCst);
                    tokens.lock().push(guard.fencing_token());
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(counter.into_inner(), CONTENDERS * TURNS);
    assert!(tokens.into_inner().is_sorted_by(|a, b| a < b));
}

#[test]
fn contenders_hold_the_lock_in_the_order_in_which_they_asked() {
    let node = node();
    let observer = session(&node);
    let first = acquired(lock(&observer).acquire());
    let (turns, turn) = mpsc::channel();
    let mut waiting = Vec::new();
    for number in 0..6 {
        let attempt = lock(&session(&node)).acquire();
        wait_for_contenders(&observer, number + 2);
        let turns = turns.clone();
        waiting.push(thread::spawn(move || {
            let guard = acquired(attempt);
            turns.send(number).unwrap();
            guard.release().wait().unwrap();
        }));
    }
    drop((first, turns));
    assert_eq!(turn.iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    waiting
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// The numbers of sequential znodes overflow and begin again; czxids don't.
#[test]
fn the_order_is_that_of_creation_and_not_of_numbers() {
    let node = node();
    let session = session(&node);
    drop(acquired(lock(&session).acquire()));
    let create = |name: &str| {
        let path = format!("{PATH}/{name}");
        session
            .create(&path, "", CreateMode::Ephemeral)
            .wait()
            .unwrap();
        path
    };
    let earlier = create("x-lock-2147483647");
    let mut attempt = lock(&session).acquire();
    settle(&mut attempt, &session);
    create("x-lock--2147483648");
    session.delete(&earlier, Version::ANY).wait().unwrap();
    drop(acquired(attempt));
}

#[test]
fn a_persistent_child_of_the_lock_is_no_contender() {
    let node = node();
    let session = session(&node);
    drop(acquired(lock(&session).acquire()));
    let path = format!("{PATH}/readme");
    session
        .create(&path, "", CreateMode::Persistent)
        .wait()
        .unwrap();
    drop(acquired(lock(&session).acquire()));
}

#[test]
fn one_departure_wakes_one_waiter() {
    let node = node();
    let observer = session(&node);
    let first = acquired(lock(&observer).acquire());
    let mut waiting: Vec<_> = (0..5)
        .map(|number| {
            let mut attempt = lock(&session(&node)).acquire();
            wait_for_contenders(&observer, number + 2);
            settle(&mut attempt, &observer);
            let wakes = Arc::new(Wakes::default());
            assert!(poll(&mut attempt, &wakes).is_pending());
            (attempt, wakes)
        })
        .collect();
    first.release().wait().unwrap();
    let counts = |waiting: &[(_, Arc<Wakes>)]| -> Vec<usize> {
        let count = |(_, wakes): &(_, Arc<Wakes>)| wakes.0.load(Ordering::SeqCst);
        waiting.iter().map(count).collect()
    };
    assert_eq!(counts(&waiting), [1, 0, 0, 0, 0]);
    let (second, _) = waiting.remove(0);
    acquired(second).release().wait().unwrap();
    assert_eq!(counts(&waiting), [1, 0, 0, 0]);
}

/// A lock taken without a re-check after the wait is what Jepsen found in etcd 3.4.3.
#[test]
fn scenario_04_a_a_wake_without_a_departure_is_no_turn() {
    let node = node();
    let session = session(&node);
    let first = acquired(lock(&session).acquire());
    let mut attempt = lock(&session).acquire();
    settle(&mut attempt, &session);
    session
        .set(first.path(), "busy", Version::ANY)
        .wait()
        .unwrap();
    settle(&mut attempt, &session);
    // And the watch was set again.
    first.release().wait().unwrap();
    drop(acquired(attempt));
}

// ---- Giving up ------------------------------------------------------------------------------------

#[test]
fn try_acquire_takes_a_free_lock_and_leaves_a_taken_one() {
    let node = node();
    let session = session(&node);
    let guard = lock(&session).try_acquire().wait().unwrap().unwrap();
    assert!(lock(&session).try_acquire().wait().unwrap().is_none());
    assert_eq!(contenders(&session), [guard.path()]);
    drop(guard);
    assert!(lock(&session).try_acquire().wait().unwrap().is_some());
}

#[test]
fn a_timeout_leaves_no_znode() {
    let node = node();
    let session = session(&node);
    let guard = acquired(lock(&session).acquire());
    let late = lock(&session)
        .acquire()
        .wait_timeout(Duration::from_millis(50));
    assert_eq!(late.unwrap_err(), Error::Timeout);
    assert_eq!(wait_for_contenders(&session, 1), [guard.path()]);
}

#[test]
fn an_attempt_dropped_before_its_znode_is_created_leaves_none() {
    let node = node();
    let session = session(&node);
    drop(acquired(lock(&session).acquire()));
    let children_changes = || {
        let (_, stat) = session.children(PATH).wait().unwrap();
        (stat.cversion, stat.children_count)
    };
    assert_eq!(children_changes(), (2, 0));
    drop(lock(&session).acquire());
    // Until the creation is answered, and until the deletion, which was called by then, is.
    session.sync().wait().unwrap();
    assert_eq!(children_changes(), (4, 0));
}

#[test]
fn a_dropped_guard_releases_the_lock() {
    let node = node();
    let session = session(&node);
    let guard = acquired(lock(&session).acquire());
    let attempt = lock(&session).acquire();
    drop(guard);
    drop(acquired(attempt));
}

/// A deletion that meets a full queue is called again: else the lock would stay as long as the session.
#[test]
fn a_release_that_met_a_full_queue_is_made_up_for() {
    let cluster = Cluster::start(|builder| builder.session_writes_max(1));
    let holder = cluster.long_session(0);
    let guard = acquired(lock(&holder).acquire());
    (0..3).for_each(|node| cluster.cut_off(node));
    let blocked = holder.create("/blocked", "", CreateMode::Persistent);
    let refused = holder.delete("/x", Version::ANY).wait();
    assert!(
        matches!(refused, Err(Error::Overloaded { .. })),
        "{refused:?}"
    );
    drop(guard);
    (0..3).for_each(|node| cluster.heal(node));
    blocked.wait().unwrap();
    drop(acquired(lock(&cluster.long_session(1)).acquire()));
}

// ---- What goes wrong ------------------------------------------------------------------------------

#[test]
fn a_waiter_that_dies_is_passed_over() {
    let node = node();
    let (observer, dying) = (session(&node), session(&node));
    let first = acquired(lock(&observer).acquire());
    let mut second = lock(&dying).acquire();
    wait_for_contenders(&observer, 2);
    settle(&mut second, &observer);
    let mut third = lock(&observer).acquire();
    settle(&mut third, &observer);
    dying.close().wait().unwrap();
    assert!(matches!(second.wait(), Err(Error::SessionExpired { .. })));
    // It was the third's predecessor; now the first is.
    settle(&mut third, &observer);
    first.release().wait().unwrap();
    drop(acquired(third));
}

#[test]
fn the_lock_passes_on_when_the_holders_session_is_closed() {
    let node = node();
    let (closing, other) = (session(&node), session(&node));
    let first = acquired(lock(&closing).acquire());
    let attempt = lock(&other).acquire();
    closing.close().wait().unwrap();
    let second = acquired(attempt);
    assert!(!first.is_held());
    assert!(second.is_held());
    assert!(second.fencing_token() > first.fencing_token());
    assert!(matches!(
        first.release().wait(),
        Err(Error::SessionExpired { .. })
    ));
    assert!(second.is_held());
}

/// A pause longer than the session's timeout: the holder wakes up and writes, though another holds the
/// lock (etcd 3.4.3's Jepsen report; Kleppmann's *How to do distributed locking*).
#[test]
fn scenario_04_b_a_stale_holders_guarded_write_fails_and_the_new_holders_succeeds() {
    let node = node();
    let session = session(&node);
    session
        .create("/work", "", CreateMode::Persistent)
        .wait()
        .unwrap();
    let write = |guard: &LockGuard, data| {
        let multi = guard.check(session.multi());
        multi.set("/work", data, Version::ANY).commit().wait()
    };
    let stale = acquired(lock(&session).acquire());
    write(&stale, "first").unwrap();
    session.delete(stale.path(), Version::ANY).wait().unwrap();
    let fresh = acquired(lock(&session).acquire());
    let refused = write(&stale, "stale").unwrap_err();
    let path = stale.path().to_string();
    let error = Box::new(Error::NoNode { path });
    assert_eq!(refused, Error::Multi { index: 0, error });
    write(&fresh, "fresh").unwrap();
    assert!(!stale.is_held());
    assert!(matches!(stale.release().wait(), Err(Error::NoNode { .. })));
}

#[test]
fn a_waiter_whose_znode_was_deleted_gets_in_line_again() {
    let node = node();
    let session = session(&node);
    let first = acquired(lock(&session).acquire());
    let mut second = lock(&session).acquire();
    settle(&mut second, &session);
    let mut third = lock(&session).acquire();
    settle(&mut third, &session);
    let paths = contenders(&session);
    session.delete(&paths[1], Version::ANY).wait().unwrap();
    first.release().wait().unwrap();
    let third = acquired(third);
    assert_eq!(third.path(), paths[2]);
    settle(&mut second, &session);
    third.release().wait().unwrap();
    assert!(!paths.contains(&acquired(second).path().to_string()));
}

#[test]
fn a_guard_learns_that_its_znode_is_gone_though_its_watcher_missed_that() {
    let node = node();
    let session = session(&node);
    let guard = acquired(lock(&session).acquire());
    let more_than_a_watcher_holds = || {
        for _ in 0..100 {
            session.set(guard.path(), "", Version::ANY).wait().unwrap();
        }
    };
    more_than_a_watcher_holds();
    for _ in 0..1000 {
        assert!(guard.is_held());
        session.sync().wait().unwrap();
    }
    more_than_a_watcher_holds();
    session.delete(guard.path(), Version::ANY).wait().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while guard.is_held() {
        assert!(Instant::now() < deadline, "it never learnt");
        session.sync().wait().unwrap();
    }
}

#[test]
fn a_guard_is_not_held_once_its_node_has_stopped() {
    let node = node();
    let session = session(&node);
    let guard = acquired(lock(&session).acquire());
    let waiting = lock(&session).acquire();
    assert!(guard.is_held());
    node.shutdown();
    assert!(!guard.is_held());
    let error = waiting.wait().unwrap_err();
    // Which one depends on how far its creation has come.
    assert!(
        matches!(
            error,
            Error::SessionExpired { .. } | Error::OutcomeUnknown { .. } | Error::Stopped { .. }
        ),
        "{error:?}"
    );
}

/// Curator #980, #1024 and #1211: two holders after a suspension.
#[test]
fn scenario_17_a_guard_cut_off_is_not_held_by_the_time_another_gets_the_lock() {
    let cluster = Cluster::with_short_sessions();
    let (cut_off, other) = (cluster.short_session(0), cluster.long_session(1));
    let first = acquired(lock(&cut_off).acquire());
    let mut attempt = lock(&other).acquire();
    wait_for_contenders(&other, 2);
    assert!(poll(&mut attempt, &Arc::default()).is_pending());
    cluster.cut_off(0);
    let second = acquired(attempt);
    assert!(!first.is_held());
    assert!(second.is_held());
    assert!(second.fencing_token() > first.fencing_token());
}

#[test]
fn a_waiter_cut_off_for_a_while_waits_on() {
    let cluster = Cluster::start(|builder| builder);
    let (observer, waiter) = (cluster.long_session(1), cluster.long_session(0));
    let first = acquired(lock(&observer).acquire());
    let attempt = lock(&waiter).acquire();
    wait_for_contenders(&observer, 2);
    let waiting = thread::spawn(move || acquired(attempt));
    cluster.cut_off(0);
    assert_eq!(
        waiter.wait_while(SessionState::Connected, PATIENCE),
        SessionState::Suspended
    );
    first.release().wait().unwrap();
    cluster.heal(0);
    assert!(waiting.join().unwrap().is_held());
}

/// Bug: the guard took the deletion of the predecessor, which it had seen before it heard of it, for that
/// of its own znode.
#[test]
fn a_guard_is_held_though_its_watcher_still_holds_the_predecessors_departure() {
    let cluster = Cluster::start(|builder| builder);
    let (observer, waiter) = (cluster.long_session(1), cluster.long_session(0));
    let first = acquired(lock(&observer).acquire());
    let mut attempt = lock(&waiter).acquire();
    settle(&mut attempt, &waiter);
    cluster.cut_off(0);
    waiter.wait_while(SessionState::Connected, PATIENCE);
    cluster.heal(0);
    waiter.wait_while(SessionState::Suspended, PATIENCE);
    first.release().wait().unwrap();
    waiter.sync().wait().unwrap();
    // The first event, that of the suspension, makes it look, and the predecessor is gone.
    assert!(acquired(attempt).is_held());
}

#[test]
fn a_waiter_cut_off_for_too_long_fails() {
    let cluster = Cluster::with_short_sessions();
    let (holder, cut_off) = (cluster.long_session(1), cluster.short_session(0));
    let first = acquired(lock(&holder).acquire());
    let attempt = lock(&cut_off).acquire();
    let path = wait_for_contenders(&holder, 2).pop().unwrap();
    cluster.cut_off(0);
    let error = attempt.wait_timeout(PATIENCE).unwrap_err();
    assert!(matches!(error, Error::SessionExpired { .. }), "{error:?}");
    wait_until_gone(&holder, &path);
    assert!(first.is_held());
}

#[test]
fn the_lock_passes_on_when_the_holders_node_has_stopped() {
    let cluster = Cluster::with_short_sessions();
    let (stopping, other) = (cluster.short_session(0), cluster.long_session(1));
    let first = acquired(lock(&stopping).acquire());
    cluster.nodes[0].shutdown();
    let second = acquired(lock(&other).acquire());
    assert!(!first.is_held());
    assert!(second.fencing_token() > first.fencing_token());
}

#[test]
fn a_session_attached_elsewhere_can_acquire_what_its_old_handle_held() {
    let cluster = Cluster::start(|builder| builder);
    let session = cluster.long_session(0);
    let credentials = session.credentials();
    let first = acquired(lock(&session).acquire());
    cluster.nodes[0].shutdown();
    let session = cluster.nodes[1]
        .session()
        .attach(&credentials)
        .wait()
        .unwrap();
    let second = acquired(lock(&session).acquire());
    assert!(second.fencing_token() > first.fencing_token());
    assert_eq!(contenders(&session), [second.path()]);
    // Nor can the old guard take the lock away from the new one.
    drop(first);
    session.sync().wait().unwrap();
    assert!(second.is_held());
}

#[test]
fn a_znode_whose_creation_was_never_answered_is_in_nobodys_way() {
    let cluster = Cluster::start(|builder| builder);
    let (session, observer) = (cluster.long_session(0), cluster.long_session(1));
    let credentials = session.credentials();
    drop(acquired(lock(&observer).acquire()));
    // Not polled again: as far as it knows, its znode may or may not be there.
    let attempt = lock(&session).acquire();
    let path = wait_for_contenders(&observer, 1).pop().unwrap();
    cluster.nodes[0].shutdown();
    let error = attempt.wait().unwrap_err();
    assert!(matches!(
        error,
        Error::OutcomeUnknown { .. } | Error::Stopped { .. }
    ));
    let session = cluster.nodes[1]
        .session()
        .attach(&credentials)
        .wait()
        .unwrap();
    let guard = acquired(lock(&session).acquire());
    assert_ne!(guard.path(), path);
    assert_eq!(contenders(&session), [guard.path()]);
}

#[test]
fn an_unused_lock_is_reaped_and_made_again() {
    let node = Node::builder(1)
        .reap_interval(Duration::from_millis(10))
        .start()
        .unwrap();
    let session = session(&node);
    let first = acquired(lock(&session).acquire());
    let token = first.fencing_token();
    drop(first);
    wait_until_gone(&session, PATH);
    assert!(acquired(lock(&session).acquire()).fencing_token() > token);
}

#[test]
fn an_invalid_path_is_a_typed_error() {
    let node = node();
    let session = session(&node);
    for path in ["", "relative", "/ends/", "/a//b", "/a/../b"] {
        let error = Lock::new(&session, path).acquire().wait().unwrap_err();
        assert!(
            matches!(error, Error::InvalidPath { .. }),
            "{path:?}: {error:?}"
        );
    }
    drop(acquired(Lock::new(&session, "/").acquire()));
}

#[test]
fn the_holders_znode_says_who_it_is() {
    let node = node();
    let session = session(&node);
    let guard = acquired(lock(&session).data("host 7").acquire());
    let (data, stat) = session.get(guard.path()).wait().unwrap();
    assert_eq!(&data[..], b"host 7");
    assert_eq!(stat.ephemeral_owner, session.id());
    assert_eq!(stat.czxid.0, guard.fencing_token().as_u64());
}

#[tokio::test]
async fn the_same_lock_is_awaited() {
    let node = node();
    let session = node.session().open().await.unwrap();
    let guard = lock(&session).acquire().await.unwrap();
    let late = tokio::time::timeout(Duration::from_millis(20), lock(&session).acquire()).await;
    assert!(late.is_err());
    let next = tokio::spawn(lock(&session).acquire());
    guard.release().await.unwrap();
    let next = tokio::time::timeout(PATIENCE, next).await.unwrap();
    assert!(next.unwrap().unwrap().is_held());
}

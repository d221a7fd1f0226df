//! What reads show, on whole nodes: linearizable ones everywhere, and the answers themselves.

mod support;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use quorate::{CreateMode, Error, Pending, Read, ReadAnswer, Session, Version};
use support::{Cluster, Kind, PATIENCE, Within, node_id};

fn version(session: &Session, path: &str) -> i32 {
    session.get(path).within().unwrap().1.version
}

#[test]
fn a_linearizable_read_on_any_node_sees_what_was_answered_anywhere() {
    let cluster = Cluster::new(3);
    let sessions: Vec<_> = (1..=3).map(|id| cluster.session(id)).collect();
    sessions[0]
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    for round in 0..60 {
        let writer = &sessions[round % 3];
        let written = writer.set("/a", "x", Version::ANY).within().unwrap();
        for reader in &sessions {
            assert_eq!(version(&reader.linearizable(), "/a"), written.version);
        }
    }
}

#[test]
fn after_a_sync_plain_reads_see_what_was_answered_before_it() {
    // ZOOKEEPER-1675: `sync` and then a stale read.
    let cluster = Cluster::new(3);
    let writer = cluster.session(cluster.leader());
    let reader = cluster.session(cluster.follower());
    writer
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    for _ in 0..100 {
        let written = writer.set("/a", "x", Version::ANY).within().unwrap();
        reader.sync().within().unwrap();
        assert_eq!(version(&reader, "/a"), written.version);
    }
}

#[test]
fn a_leader_that_was_cut_off_answers_no_linearizable_read_with_old_data() {
    let cluster = Cluster::new(3);
    let old = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|&id| id != old).collect();
    let at_old = cluster.session(old);
    at_old
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster.network.isolate(node_id(old));
    let read = at_old.linearizable().get("/a");
    let write = cluster
        .session(cluster.leader_among(&others))
        .set("/a", "new", Version::ANY);
    write.within().unwrap();
    let mut late = at_old.linearizable().get("/a");
    assert_eq!(
        late.wait_timeout(Duration::from_millis(50)).unwrap_err(),
        Error::Timeout
    );
    cluster.network.heal();
    assert_eq!(&late.within().unwrap().0[..], b"new");
    read.within().unwrap();
}

#[test]
fn barriers_under_way_when_the_leader_falls_are_answered_by_the_next() {
    let mut cluster = Cluster::new(3);
    let home = cluster.follower();
    let session = cluster.session(home);
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    for _ in 0..2 {
        let leader = cluster.leader();
        if leader == home {
            break;
        }
        let written = session.set("/a", "x", Version::ANY).within().unwrap();
        let mut reads = Vec::new();
        let mut syncs = Vec::new();
        for _ in 0..50 {
            reads.push(session.linearizable().get("/a"));
            syncs.push(session.sync());
        }
        cluster.stop(leader);
        reads.extend((0..50).map(|_| session.linearizable().get("/a")));
        for read in reads {
            assert_eq!(read.within().unwrap().1.version, written.version);
        }
        for sync in syncs {
            sync.within().unwrap();
        }
        cluster.start(leader);
    }
}

#[test]
fn time_does_not_go_back_for_a_session_that_moves() {
    let cluster = Cluster::new(3);
    let writer = cluster.session(1);
    writer
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let mut reader = cluster.session(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                writer.set("/a", "x", Version::ANY).within().unwrap();
            }
        });
        let mut seen = 0;
        let mut home = 1;
        while seen < 200 {
            let found = version(&reader, "/a");
            assert!(found >= seen, "{found} after {seen}");
            seen = found;
            home = home % 3 + 1;
            let attach = cluster
                .node(home)
                .session()
                .timeout(Duration::from_secs(60));
            reader = attach.attach(&reader.credentials()).within().unwrap();
        }
    });
}

#[test]
fn several_reads_are_of_one_moment_and_each_has_its_own_result() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    session
        .create("/a", "1", CreateMode::Persistent)
        .within()
        .unwrap();
    session
        .create("/a/b", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let reads = ["/a", "/none"].map(|path| Read::Data(path.into()));
    let reads = [
        &reads[..],
        &[Read::Children("/a".into()), Read::Data("no".into())],
    ]
    .concat();
    let answers = session.multi_read(&reads).within().unwrap();
    assert!(matches!(&answers[0], Ok(ReadAnswer::Data(data, _)) if &data[..] == b"1"));
    assert!(matches!(&answers[1], Err(Error::NoNode { .. })));
    assert!(matches!(&answers[2], Ok(ReadAnswer::Children(_, stat)) if stat.children_count == 1));
    assert!(matches!(&answers[3], Err(Error::InvalidPath { .. })));
    assert_eq!(session.all_children_number("/a").within(), Ok(1));
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn an_answer_is_a_future_on_any_executor() {
    let cluster = Cluster::new(3);
    let created = block_on(async {
        let session = cluster.node(cluster.follower()).session().open().await?;
        session.create("/a", "1", CreateMode::Persistent).await?;
        session.linearizable().get("/a").await
    });
    assert_eq!(&created.unwrap().0[..], b"1");
}

#[test]
fn a_wait_that_times_out_can_be_repeated_and_cancels_nothing() {
    let cluster = Cluster::new(2);
    let home = cluster.follower();
    let session = cluster.session(home);
    cluster.network.isolate(node_id(home));
    let mut call = session.create("/a", "", CreateMode::Persistent);
    assert_eq!(
        call.wait_timeout(Duration::ZERO).unwrap_err(),
        Error::Timeout
    );
    let soon = Instant::now() + Duration::from_millis(10);
    assert_eq!(call.wait_until(soon).unwrap_err(), Error::Timeout);
    cluster.network.heal();
    assert_eq!(
        call.wait_until(Instant::now() + PATIENCE).unwrap().path,
        "/a"
    );
}

#[test]
fn operations_take_effect_in_the_order_of_the_calls_whoever_polls_them_or_not() {
    let cluster = Cluster::new(3);
    let session = cluster.session(cluster.follower());
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let first = session.set("/a", "1", Version(0));
    drop(session.set("/a", "2", Version(1)));
    let third = session.set("/a", "3", Version(2));
    let read = session.get("/a");
    assert_eq!(&block_on(read).unwrap().0[..], b"3");
    assert_eq!(block_on(third).unwrap().version, 3);
    assert_eq!(block_on(first).unwrap().version, 1);
}

#[test]
fn what_a_full_session_refuses_did_not_happen_and_the_rest_did() {
    let cluster = Cluster::with(3, Kind::Memory, |_, builder| builder.session_writes_max(8));
    let session = cluster.session(cluster.follower());
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let calls: Vec<_> = (0..2_000)
        .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
        .collect();
    refused_or_done(&session, calls);
}

#[test]
fn what_a_full_node_refuses_did_not_happen_and_the_rest_did() {
    let cluster = Cluster::with(3, Kind::Memory, |_, builder| builder.requests_max(4));
    let session = cluster.session(cluster.follower());
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let calls: Vec<_> = (0..5_000)
        .map(|_| session.create("/q/n-", "", CreateMode::PersistentSequential))
        .collect();
    refused_or_done(&session, calls);
}

fn refused_or_done(session: &Session, calls: Vec<Pending<quorate::Created>>) {
    let (mut done, mut refused) = (0, 0);
    for call in calls {
        match call.within() {
            Ok(_) => done += 1,
            Err(error @ Error::Overloaded { .. }) => {
                assert!(error.is_retryable() && !error.outcome_unknown());
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(refused > 0, "the limit was never reached");
    let (children, _) = session.linearizable().children("/q").within().unwrap();
    assert_eq!(children.len(), done);
}

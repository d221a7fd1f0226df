//! Nodes of two releases in one cluster: the older ones decide which rules the log follows, and nothing
//! is lost or applied differently while one node after the other is upgraded.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quorate::{CreateMode, Session, StartError, Version};
use support::{Cluster, Kind, Within, eventually};

/// Which rules each of three nodes knows, by its id less one; a node that starts again starts with what
/// stands here then.
#[derive(Clone, Default)]
struct Releases(Arc<[AtomicU64; 3]>);

impl Releases {
    fn new(numbers: [u64; 3]) -> Releases {
        Releases(Arc::new(numbers.map(AtomicU64::new)))
    }

    fn set(&self, id: u64, number: u64) {
        self.0[id as usize - 1].store(number, Ordering::SeqCst);
    }

    fn of(&self, id: u64) -> u32 {
        self.0[id as usize - 1].load(Ordering::SeqCst) as u32
    }

    fn cluster(&self, kind: Kind, snapshot_log_bytes: u64) -> Cluster {
        let releases = self.clone();
        Cluster::with(3, kind, move |id, builder| {
            builder
                .rules_max(releases.of(id))
                .snapshot_log_bytes(snapshot_log_bytes)
                .log_entries_kept(2)
        })
    }
}

/// Many writes at once, so that they share entries, and every one of them counts.
fn write(session: &Session, calls: usize) {
    let pending: Vec<_> = (0..calls)
        .map(|call| match call % 2 {
            0 => session.create("/q/n-", "", CreateMode::PersistentSequential),
            _ => session.create("/q/m-", "", CreateMode::PersistentSequential),
        })
        .collect();
    for call in pending {
        call.within().unwrap();
    }
}

fn rules(cluster: &Cluster) -> Vec<u32> {
    cluster.level();
    let ids = cluster.running();
    ids.iter()
        .map(|&id| cluster.node(id).status().rules)
        .collect()
}

/// What a node holds, stats included.
fn content(cluster: &Cluster, id: u64) -> Vec<String> {
    let session = cluster.session(id);
    let (names, stat) = session.linearizable().children("/q").within().unwrap();
    let mut lines = vec![format!("{stat:?}")];
    for name in &names {
        let found = session.get(&format!("/q/{name}")).within().unwrap();
        lines.push(format!("{name} {found:?}"));
    }
    lines
}

#[test]
fn the_oldest_release_decides_the_rules_until_every_node_is_upgraded() {
    for kind in [Kind::Memory, Kind::Log] {
        let releases = Releases::new([1, 1, 1]);
        let mut cluster = releases.cluster(kind, 1 << 20);
        // Its last handle would close it: the session lives as long as the newest of them.
        let mut session = cluster.session(1);
        session
            .create("/q", "", CreateMode::Persistent)
            .within()
            .unwrap();
        let credentials = session.credentials();
        let mut written = 0;
        for id in 1..=3 {
            assert_eq!(rules(&cluster), vec![1; 3], "{kind:?}, before node {id}");
            let home = if id == 1 { 2 } else { 1 };
            let attach = cluster.node(home).session().attach(&credentials);
            session = attach.within().unwrap();
            write(&session, 60);
            cluster.stop(id);
            // It misses what two releases write together.
            write(&session, 60);
            written += 120;
            releases.set(id, 2);
            cluster.start(id);
            cluster.leader();
        }
        let attach = cluster.node(1).session().attach(&credentials);
        session = attach.within().unwrap();
        // Everybody is heard of within a heartbeat; the next batch follows the new rules.
        eventually("the log to follow the new rules", || {
            write(&session, 10);
            written += 10;
            cluster.node(1).status().rules == 2
        });
        assert_eq!(rules(&cluster), vec![2; 3], "{kind:?}");
        let contents: Vec<_> = (1..=3).map(|id| content(&cluster, id)).collect();
        assert_eq!(contents[0].len(), written + 1, "{kind:?}: each once");
        assert_eq!(contents[0], contents[1], "{kind:?}");
        assert_eq!(contents[0], contents[2], "{kind:?}");
    }
}

#[test]
fn rules_are_never_taken_back_and_an_older_release_stops_with_an_error_that_says_so() {
    let releases = Releases::new([2, 2, 2]);
    let mut cluster = releases.cluster(Kind::Log, 1 << 20);
    let session = cluster.session(cluster.leader());
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    eventually("the log to follow the new rules", || {
        session.set("/q", "", Version::ANY).within().unwrap();
        cluster.node(1).status().rules == 2
    });
    cluster.level();
    let older = cluster.follower();
    cluster.stop(older);
    releases.set(older, 1);
    cluster.start(older);
    // Its log holds the newer rules.
    eventually("the older release to stop", || {
        let stopped = cluster.node(older).status().stopped;
        stopped.is_some_and(|why| why.contains("follows rules 2, this node knows 1 to 1"))
    });
    // The others go on, by the rules that they have reached.
    write(&session, 10);
    assert_eq!(
        cluster
            .node(cluster.leader_among(&others(older)))
            .status()
            .rules,
        2
    );
}

#[test]
fn a_snapshot_of_newer_rules_is_refused_at_the_start_by_name() {
    let releases = Releases::new([2, 2, 2]);
    let mut cluster = releases.cluster(Kind::Log, 2_000);
    let session = cluster.session(cluster.leader());
    session
        .create("/q", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let older = cluster.follower();
    eventually("snapshots that follow the new rules", || {
        write(&session, 100);
        cluster.level();
        if cluster.node(older).status().rules != 2 {
            return false;
        }
        cluster.stop(older);
        releases.set(older, 1);
        match cluster.try_start(older) {
            Err(StartError::Newer { found, known }) => {
                assert_eq!((found, known), (2, 1));
                true
            }
            other => {
                // Its snapshot is an earlier one: it goes on with what it knew.
                other.unwrap();
                cluster.stop(older);
                releases.set(older, 2);
                cluster.start(older);
                false
            }
        }
    });
    // The release that wrote it starts as ever.
    releases.set(older, 2);
    cluster.start(older);
    write(&session, 10);
    cluster.level();
}

fn others(id: u64) -> Vec<u64> {
    (1..=3).filter(|other| *other != id).collect()
}

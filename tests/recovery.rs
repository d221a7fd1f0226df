//! A majority lost for good: a new cluster from one survivor's disk, and never by accident.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate::recipes::{FencingToken, Lock};
use quorate::recovery::{Confirmation, RecoveryError, force_single_voter};
use quorate::storage::{Log, LogOptions, Memory, Sled, SledOptions, Storage, StorageError};
use quorate::transport::Network;
use quorate::{CreateMode, Node, Role, Session};
use support::{PATIENCE, Within, eventually, node_id};

fn log(dir: &Path) -> Box<dyn Storage> {
    Box::new(Log::open(dir, LogOptions::default()).unwrap())
}

fn start(network: &Network, id: u64, storage: Arc<dyn Storage>) -> Node {
    Node::builder(id)
        .voters([1, 2, 3])
        .session_timeouts(Duration::from_millis(200), Duration::from_secs(60))
        .storage(storage)
        .transport(network.endpoint(node_id(id)))
        .start()
        .unwrap()
}

/// Three nodes that have answered ten writes; gives back the disk of the one that survives.
fn survivor() -> (Arc<dyn Storage>, String) {
    let network = Network::new(1);
    let disks: Vec<Arc<dyn Storage>> = (0..3).map(|_| Arc::new(Memory::new()) as _).collect();
    let nodes: Vec<Node> = (1..=3)
        .map(|id| start(&network, id, disks[id as usize - 1].clone()))
        .collect();
    let session = nodes[1].session().timeout(Duration::from_millis(500));
    let session = session.open().within().unwrap();
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    for number in 0..10 {
        session
            .create(&format!("/{number}"), "x", CreateMode::Persistent)
            .within()
            .unwrap();
    }
    let written = nodes[1].status().zxid;
    eventually("the survivor has it all", || {
        nodes[2].status().zxid >= written
    });
    let cluster = nodes[2].cluster().to_string();
    for node in &nodes {
        node.shutdown();
    }
    (disks[2].clone(), cluster)
}

#[test]
fn a_survivors_disk_becomes_a_new_cluster_that_has_every_write_and_can_grow() {
    let (survivor, cluster) = survivor();
    let into: Arc<dyn Storage> = Arc::new(Memory::new());
    let recovery = force_single_voter(&survivor, &into, &Confirmation::typed(&cluster)).unwrap();
    assert_eq!(recovery.old_cluster.to_string(), cluster);
    // Nodes of the old cluster that turn up after all are strangers to it.
    assert_ne!(recovery.cluster, recovery.old_cluster);
    assert_eq!(recovery.node, node_id(3));

    let network = Network::new(2);
    let node = Node::builder(3)
        .reopen()
        .storage(into)
        .transport(network.endpoint(node_id(3)))
        .start()
        .unwrap();
    assert_eq!(node.cluster(), recovery.cluster);
    let session = node.session().open().within().unwrap();
    for number in 0..10 {
        let (data, _) = session.get(&format!("/{number}")).within().unwrap();
        assert_eq!(&data[..], b"x");
    }
    // Its session has nobody who would keep it alive.
    eventually("the ephemeral is gone", || {
        session.exists("/e").within().unwrap().is_none()
    });

    let joined = Node::builder(4)
        .join([3])
        .storage(Memory::new())
        .transport(network.endpoint(node_id(4)))
        .start()
        .unwrap();
    node.add_learner(node_id(4)).within().unwrap();
    let zxid = node.status().zxid;
    let caught_up = |status: &quorate::NodeStatus| status.zxid >= zxid;
    joined.wait_for(PATIENCE, caught_up).unwrap();
    assert_eq!(joined.status().role, Role::Learner);
}

/// The survivor lacks writes that were acknowledged: their zxids, and so the tokens of locks, were
/// handed out a second time.
#[test]
fn no_fencing_token_is_handed_out_again_after_a_loss() {
    let network = Network::new(1);
    let disks: Vec<Memory> = (0..3).map(|_| Memory::new()).collect();
    let mut nodes: Vec<Node> = (1..=3)
        .map(|id| start(&network, id, Arc::new(disks[id as usize - 1].clone())))
        .collect();
    let session = nodes[1].session().open().within().unwrap();
    let mut tokens = vec![token(&session)];
    let written = nodes[1].status().zxid;
    eventually("the survivor has it all", || {
        nodes[2].status().zxid >= written
    });
    let cluster = nodes[2].cluster().to_string();
    nodes.pop().unwrap().shutdown();
    tokens.extend((0..20).map(|_| token(&session)));
    nodes.iter().for_each(Node::shutdown);

    // What was recovered is lost in its turn.
    let (mut survivor, mut cluster) = (disks[2].clone(), cluster);
    for _ in 0..2 {
        let into = Memory::new();
        let confirmation = Confirmation::typed(&cluster);
        let recovery = force_single_voter(&survivor, &into, &confirmation).unwrap();
        let node = Node::builder(3)
            .reopen()
            .storage(into.clone())
            .start()
            .unwrap();
        let session = node.session().open().within().unwrap();
        for _ in 0..3 {
            tokens.push(token(&session));
            assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
        }
        assert!(tokens.last().unwrap().as_u64() - recovery.zxid.0 > 1 << 30);
        (survivor, cluster) = (into, recovery.cluster.to_string());
        node.shutdown();
    }
}

fn token(session: &Session) -> FencingToken {
    let lock = Lock::new(session, "/lock");
    let guard = lock.acquire().wait_timeout(PATIENCE).unwrap();
    let token = guard.fencing_token();
    guard.release().wait_timeout(PATIENCE).unwrap();
    token
}

#[test]
fn nothing_is_recovered_without_the_old_clusters_id() {
    let (survivor, cluster) = survivor();
    let into = Memory::new();
    for typed in ["", "yes", &cluster[1..], "0000000000000000"] {
        let error = force_single_voter(&survivor, &into, &Confirmation::typed(typed)).unwrap_err();
        assert!(
            matches!(&error, RecoveryError::NotConfirmed { cluster: found, .. }
                if found.to_string() == cluster),
            "{error}"
        );
        assert_eq!(into.recover().unwrap().identity, None);
    }
}

#[test]
fn neither_an_empty_disk_nor_one_that_is_taken_is_recovered() {
    let (survivor, cluster) = survivor();
    let confirmation = Confirmation::typed(cluster);
    let error = force_single_voter(&Memory::new(), &Memory::new(), &confirmation).unwrap_err();
    assert!(matches!(error, RecoveryError::NothingThere), "{error}");
    let error = force_single_voter(&survivor, &survivor, &confirmation).unwrap_err();
    assert!(matches!(error, RecoveryError::NotEmpty { .. }), "{error}");
}

#[test]
fn the_disk_of_a_node_that_was_never_added_is_no_survivor() {
    // It belongs to the cluster and holds nothing: made the beginning of another, it would be an empty tree.
    let network = Network::new(1);
    let endpoint = network.endpoint(node_id(1));
    let first = Node::builder(1).transport(endpoint).start().unwrap();
    let disk = Memory::new();
    let joined = Node::builder(2)
        .join([1])
        .storage(disk.clone())
        .transport(network.endpoint(node_id(2)))
        .start()
        .unwrap();
    assert_eq!(joined.cluster(), first.cluster());
    joined.shutdown();
    let confirmation = Confirmation::typed(first.cluster().to_string());
    let into = Memory::new();
    let error = force_single_voter(&disk, &into, &confirmation).unwrap_err();
    assert!(
        matches!(error, RecoveryError::NotAMember { node, cluster }
            if node == node_id(2) && cluster == first.cluster()),
        "{error}"
    );
    assert_eq!(into.recover().unwrap().identity, None);
}

#[test]
fn a_disk_that_a_node_uses_cannot_be_opened_to_be_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let (on_log, on_sled) = (directory.path().join("log"), directory.path().join("sled"));
    let open_sled = |dir: &Path| Sled::open(dir, SledOptions::default());
    let log_node = Node::builder(1).storage(log(&on_log)).start().unwrap();
    let sled_node = Node::builder(1)
        .storage(Box::new(open_sled(&on_sled).unwrap()) as Box<dyn Storage>)
        .start()
        .unwrap();
    let error = Log::open(&on_log, LogOptions::default()).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    let error = open_sled(&on_sled).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    // Stopped, they can be recovered, from one kind of store into the other.
    for node in [log_node, sled_node] {
        node.shutdown();
    }
    let pairs: [(Box<dyn Storage>, Box<dyn Storage>); 2] = [
        (
            log(&on_log),
            Box::new(open_sled(&directory.path().join("new-sled")).unwrap()),
        ),
        (
            Box::new(open_sled(&on_sled).unwrap()),
            log(&directory.path().join("new-log")),
        ),
    ];
    for (survivor, into) in pairs {
        let cluster = survivor.recover().unwrap().identity.unwrap().cluster;
        let confirmation = Confirmation::typed(cluster.to_string());
        force_single_voter(&survivor, &into, &confirmation).unwrap();
        drop(survivor);
        let node = Node::builder(1).reopen().storage(into).start().unwrap();
        node.session().open().within().unwrap();
    }
}

#[test]
fn an_empty_disk_is_not_opened_again() {
    let error = Node::builder(1)
        .reopen()
        .storage(Memory::new())
        .start()
        .unwrap_err();
    assert!(error.to_string().contains("empty"), "{error}");
}

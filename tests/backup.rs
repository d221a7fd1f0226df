//! Backups: taken while the node serves, whole or refused, and the beginning of another cluster.

mod support;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::recipes::{FencingToken, Lock};
use quorate::recovery::{
    Backup, BackupError, Confirmation, Contents, RecoveryError, force_single_voter, restore,
};
use quorate::storage::{Log, LogOptions, Memory, Sled, SledOptions, Storage, StorageError};
use quorate::{CreateMode, Error, Node, Role, Session, Version};
use support::{Cluster, PATIENCE, Within, eventually, node_id};

type Znodes = BTreeMap<String, (Vec<u8>, quorate::Stat)>;

fn znodes(contents: &Contents) -> Znodes {
    let records = contents.znodes();
    records
        .map(|znode| (znode.path, (znode.data.to_vec(), znode.stat)))
        .collect()
}

fn fill(session: &Session) {
    session
        .create("/a", "1", CreateMode::Persistent)
        .within()
        .unwrap();
    session
        .create("/a/b", vec![7; 500_000], CreateMode::PersistentSequential)
        .within()
        .unwrap();
    session.set("/a", "2", Version::ANY).within().unwrap();
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
}

fn backup_of(node: &Node) -> (Vec<u8>, Backup) {
    let mut bytes = Vec::new();
    let backup = node.backup(&mut bytes).unwrap();
    assert_eq!(backup.bytes, bytes.len() as u64);
    (bytes, backup)
}

#[test]
fn a_backup_restores_to_the_same_tree_in_another_cluster() {
    let cluster = Cluster::new(1);
    let session = cluster.session_of(1, Duration::from_millis(500));
    fill(&session);
    let (bytes, backup) = backup_of(cluster.node(1));
    let contents = Contents::of_backup(&bytes[..]).unwrap();
    assert_eq!(contents.cluster, cluster.node(1).cluster());
    assert_eq!((contents.zxid, contents.index), (backup.zxid, backup.index));
    assert_eq!(contents.voters, [node_id(1)]);
    let sessions: Vec<_> = contents.sessions().map(|session| session.id).collect();
    assert_eq!(sessions, [session.id()]);

    let storage = Memory::new();
    let restored = restore(&bytes[..], &storage, node_id(9)).unwrap();
    assert_eq!(restored.old_cluster, contents.cluster);
    assert_ne!(restored.cluster, restored.old_cluster);
    let there = Contents::of_storage(&storage).unwrap();
    assert_eq!(znodes(&there), znodes(&contents));
    assert_eq!((there.cluster, there.node), (restored.cluster, node_id(9)));
    assert_eq!(there.log.map(|(first, last)| last + 1 - first), Some(0));

    let node = Node::builder(9).reopen().storage(storage).start().unwrap();
    let new = node.session().open().within().unwrap();
    let (data, stat) = new.get("/a").within().unwrap();
    assert_eq!((&data[..], stat.version), (&b"2"[..], 1));
    // Its session is there, and expires as if its node were gone.
    eventually("the ephemeral is gone", || {
        new.exists("/e").within().unwrap().is_none()
    });
    drop(session);
}

#[test]
fn a_session_of_a_backup_can_be_attached_in_the_new_cluster() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    fill(&session);
    let (bytes, _) = backup_of(cluster.node(1));
    let storage = Memory::new();
    restore(&bytes[..], &storage, node_id(1)).unwrap();
    let node = Node::builder(1).reopen().storage(storage).start().unwrap();
    let attached = node
        .session()
        .attach(&session.credentials())
        .within()
        .unwrap();
    assert_eq!(attached.id(), session.id());
    assert!(attached.exists("/e").within().unwrap().is_some());
}

/// A restored cluster issued the zxids after the backup's once more, and so the tokens of locks.
#[test]
fn no_fencing_token_is_handed_out_again_after_a_backup() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    let mut tokens = vec![token(&session)];
    let (first, _) = backup_of(cluster.node(1));
    tokens.extend((0..20).map(|_| token(&session)));
    // Restored; restored once more, when the first is given up; and from backups of what was restored.
    let mut latest = first.clone();
    for round in 0..4 {
        let storage = Memory::new();
        let from = if round < 2 { &first } else { &latest };
        restore(&from[..], &storage, node_id(1)).unwrap();
        let node = Node::builder(1).reopen().storage(storage).start().unwrap();
        let session = node.session().open().within().unwrap();
        tokens.push(token(&session));
        latest = backup_of(&node).0;
        tokens.extend((0..20).map(|_| token(&session)));
        assert!(tokens.is_sorted_by(|a, b| a < b), "{round}: {tokens:?}");
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

/// Lets a test do something between two writes.
struct Slow<'a, F: FnMut()> {
    bytes: &'a mut Vec<u8>,
    between: F,
}

impl<F: FnMut()> Write for Slow<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.between)();
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_backup_is_of_one_moment_though_writes_go_on() {
    // Two znodes are set together: a backup of two moments would have them differ.
    let cluster = Cluster::new(3);
    let session = cluster.session(1);
    for path in ["/x", "/y"] {
        session
            .create(path, "0", CreateMode::Persistent)
            .within()
            .unwrap();
    }
    for number in 0..200 {
        session
            .create(
                &format!("/{number}"),
                vec![1; 10_000],
                CreateMode::Persistent,
            )
            .within()
            .unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let writer = cluster.session(2);
            let mut round = 0;
            while !done.load(Ordering::SeqCst) {
                round += 1;
                let value = round.to_string();
                let both = writer.multi().set("/x", &value, Version::ANY);
                both.set("/y", &value, Version::ANY)
                    .commit()
                    .within()
                    .unwrap();
            }
        });
        for id in 1..=3 {
            let mut bytes = Vec::new();
            let before = cluster.node(id).status().zxid;
            let between = || {
                session.set("/0", "", Version::ANY).within().unwrap();
            };
            let writer = Slow {
                bytes: &mut bytes,
                between,
            };
            let backup = cluster.node(id).backup(writer).unwrap();
            let found = znodes(&Contents::of_backup(&bytes[..]).unwrap());
            assert_eq!(found["/x"].0, found["/y"].0);
            assert!(backup.zxid >= before);
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_written() {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    session
        .create("/a", "1", CreateMode::Persistent)
        .within()
        .unwrap();
    let (bytes, _) = backup_of(cluster.node(1));
    let storage = Memory::new();
    let refuse = |bytes: &[u8], what: &str| {
        let error = restore(bytes, &storage, node_id(1)).expect_err(what);
        assert!(
            matches!(
                error,
                BackupError::Damaged { .. } | BackupError::Format { .. }
            ),
            "{what}: {error}"
        );
        assert_eq!(storage.recover().unwrap().identity, None, "{what}");
    };
    for length in 0..bytes.len() {
        refuse(&bytes[..length], &format!("cut to {length} bytes"));
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        refuse(&flipped, &format!("bit {bit} flipped"));
    }
    let mut newer = bytes.clone();
    newer[11] = 2;
    let error = restore(&newer[..], &storage, node_id(1)).unwrap_err();
    assert!(
        matches!(
            error,
            BackupError::Format {
                found: 2,
                supported: 1
            }
        ),
        "{error}"
    );
    restore(&bytes[..], &storage, node_id(1)).unwrap();
    let error = restore(&bytes[..], &storage, node_id(1)).unwrap_err();
    assert!(
        matches!(error, BackupError::Recovery(RecoveryError::NotEmpty { .. })),
        "{error}"
    );
}

#[test]
fn a_node_that_has_nothing_yet_or_no_more_gives_no_backup() {
    let mut cluster = Cluster::new(1);
    cluster.join(2);
    assert_eq!(cluster.node(2).status().role, Role::Joining);
    let error = cluster.node(2).backup(Vec::new()).unwrap_err();
    assert!(
        matches!(error, BackupError::Node(Error::NotAMember { .. })),
        "{error}"
    );
    cluster.node(1).shutdown();
    let error = cluster.node(1).backup(Vec::new()).unwrap_err();
    assert!(
        matches!(error, BackupError::Node(Error::Stopped { .. })),
        "{error}"
    );
}

#[test]
fn a_storage_that_a_cluster_lives_on_is_not_restored_into() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let open = || Log::open(&path, LogOptions::default());
    let in_memory = Memory::new();
    let nodes = [
        Node::builder(1).storage(in_memory.clone()).start().unwrap(),
        Node::builder(1).storage(open().unwrap()).start().unwrap(),
    ];
    let (bytes, _) = backup_of(&nodes[0]);
    // While it runs it can't be opened; where it can be, and when it has stopped, it isn't empty.
    let error = open().unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error}");
    let refuse = |storage: &dyn Storage| {
        let before = storage.recover().unwrap().identity;
        let error = restore(&bytes[..], storage, node_id(1)).unwrap_err();
        assert!(
            matches!(error, BackupError::Recovery(RecoveryError::NotEmpty { .. })),
            "{error}"
        );
        assert_eq!(storage.recover().unwrap().identity, before);
    };
    refuse(&in_memory);
    for node in &nodes {
        node.session().open().within().unwrap();
        node.shutdown();
    }
    refuse(&in_memory);
    refuse(&open().unwrap());
}

#[test]
fn a_damaged_snapshot_is_called_corrupt_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let restored = |name: &str| {
        let cluster = Cluster::new(1);
        fill(&cluster.session(1));
        let (bytes, _) = backup_of(cluster.node(1));
        let path = directory.path().join(name);
        let storage: Box<dyn Storage> = match name {
            "log" => Box::new(Log::open(&path, LogOptions::default()).unwrap()),
            _ => Box::new(Sled::open(&path, SledOptions::default()).unwrap()),
        };
        restore(&bytes[..], &storage, node_id(1)).unwrap();
        (path, storage)
    };
    for name in ["log", "sled"] {
        let (path, storage) = restored(name);
        let file = snapshot_file(&path);
        let mut content = std::fs::read(&file).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        std::fs::write(&file, content).unwrap();

        let named = |error: RecoveryError| match error {
            RecoveryError::Storage(StorageError::Corrupt { path, .. }) => {
                assert_eq!(path, file.display().to_string());
            }
            other => panic!("{name}: {other}"),
        };
        let identity = storage.recover().unwrap().identity.unwrap();
        named(Contents::of_storage(&storage).unwrap_err());
        let confirmation = Confirmation::typed(identity.cluster.to_string());
        let into = Memory::new();
        named(force_single_voter(&storage, &into, &confirmation).unwrap_err());
        assert_eq!(into.recover().unwrap().identity, None);
        // No node starts on it that could be asked for a backup.
        let error = Node::builder(1).reopen().storage(storage).start();
        let error = error.unwrap_err().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}

/// The one snapshot of a store on disk.
fn snapshot_file(store: &Path) -> PathBuf {
    let entries = std::fs::read_dir(store.join("snapshots")).unwrap();
    let files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else {
        panic!("{files:?}");
    };
    file.clone()
}

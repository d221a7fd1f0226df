//! Bad input: each gets a typed error that says what was wrong, and nothing is lost or hung.

mod support;

use std::time::Duration;

use quorate::storage::{Log, LogOptions, Memory, Sled, SledOptions, StorageError};
use quorate::transport::{Message, Network};
use quorate::{
    Acl, AuthId, ClusterId, CreateMode, Error, Node, NodeBuilder, Permissions, Session, StartError,
    Version, WatchKind,
};
use support::{Cluster, Kind, Stuck, Tap, Within, eventually, node_id};

fn single() -> (Cluster, Session) {
    let cluster = Cluster::new(1);
    let session = cluster.session(1);
    session
        .create("/a", "data", CreateMode::Persistent)
        .within()
        .unwrap();
    (cluster, session)
}

/// After a refusal: the tree is as it was, and the session goes on.
fn unharmed(session: &Session) {
    let (data, stat) = session.linearizable().get("/a").within().unwrap();
    assert_eq!((&data[..], stat.version), (&b"data"[..], 0));
    assert_eq!(session.children("/").within().unwrap().0.len(), 2);
}

#[test]
fn a_path_that_is_none_is_refused_by_every_operation() {
    let (_cluster, session) = single();
    let watcher = session.watcher(8);
    let long = format!("/{}", "x".repeat(quorate::PATH_BYTES_MAX));
    for (path, word) in [
        ("", "empty"),
        ("a", "start"),
        ("a/b", "start"),
        ("/a/", "end"),
        ("//", "end"),
        ("/a//b", "empty"),
        ("/.", "."),
        ("/a/../b", ".."),
        ("/a\0", "NUL"),
        ("/\u{1}", "control"),
        ("/\u{fff0}", "U+FFF0"),
        (long.as_str(), "longer"),
    ] {
        let refusals = [
            session
                .create(path, "", CreateMode::Persistent)
                .within()
                .map(drop),
            session
                .create(path, "", CreateMode::Ephemeral)
                .within()
                .map(drop),
            session.delete(path, Version::ANY).within(),
            session.set(path, "", Version::ANY).within().map(drop),
            session
                .set_acl(path, &Acl::open(), Version::ANY)
                .within()
                .map(drop),
            session.get(path).within().map(drop),
            session.exists(path).within().map(drop),
            session.children(path).within().map(drop),
            session.acl(path).within().map(drop),
            session.all_children_number(path).within().map(drop),
            session.linearizable().get(path).within().map(drop),
            session.get_and_watch(path, &watcher).within().map(drop),
            session.exists_and_watch(path, &watcher).within().map(drop),
            session
                .watch(path, WatchKind::Persistent, &watcher)
                .map(drop),
            watcher.remove(path, WatchKind::Persistent),
        ];
        for (operation, refusal) in refusals.into_iter().enumerate() {
            let error = refusal.expect_err(path);
            assert!(
                matches!(error, Error::InvalidPath { .. }) && error.to_string().contains(word),
                "operation {operation} on {path:?}: {error}"
            );
            assert_eq!((error.code(), error.is_retryable()), (-8, false));
        }
    }
    unharmed(&session);
}

#[test]
fn a_sequential_path_may_end_with_a_slash_since_a_number_follows() {
    let (_cluster, session) = single();
    let created = session
        .create("/a/", "", CreateMode::PersistentSequential)
        .within()
        .unwrap();
    assert_eq!(created.path, "/a/0000000000");
    let error = session
        .create("/a//", "", CreateMode::PersistentSequential)
        .within()
        .unwrap_err();
    assert!(matches!(error, Error::InvalidPath { .. }));
    let multi = session
        .multi()
        .check("/a", Version::ANY)
        .delete("/a/..", Version::ANY);
    let error = multi.commit().within().unwrap_err();
    assert!(
        matches!(&error, Error::Multi { index: 1, error } if error.code() == -8),
        "{error:?}"
    );
}

#[test]
fn a_version_that_does_not_match_is_named_with_the_one_found() {
    let (_cluster, session) = single();
    let expected = |version| {
        let (path, expected) = ("/a".to_string(), Version(version));
        Error::BadVersion {
            path,
            expected,
            found: 0,
        }
    };
    assert_eq!(session.set("/a", "", Version(1)).within(), Err(expected(1)));
    assert_eq!(
        session.set("/a", "", Version(-2)).within(),
        Err(expected(-2))
    );
    assert_eq!(
        session.delete("/a", Version(i32::MAX)).within(),
        Err(expected(i32::MAX))
    );
    assert_eq!(
        session.set_acl("/a", &Acl::open(), Version(7)).within(),
        Err(expected(7))
    );
    unharmed(&session);
}

#[test]
fn data_over_the_limit_is_refused_however_large_on_any_node() {
    let cluster = Cluster::new(3);
    for id in [cluster.leader(), cluster.follower()] {
        let session = cluster.session(id);
        let path = format!("/by-{id}");
        session
            .create(&path, vec![0; 1 << 20], CreateMode::Persistent)
            .within()
            .unwrap();
        for bytes in [(1 << 20) + 1, 5 << 20, 9 << 20, 17 << 20] {
            for refusal in [
                session
                    .set(&path, vec![0; bytes], Version::ANY)
                    .within()
                    .map(drop),
                session
                    .create("/b", vec![0; bytes], CreateMode::Persistent)
                    .within()
                    .map(drop),
            ] {
                let error = refusal.unwrap_err();
                let Error::TooLarge { found, limit, .. } = error else {
                    panic!("{error:?}");
                };
                assert!(found >= bytes as u64 && limit < found);
            }
        }
        // What was called behind it is answered.
        assert_eq!(
            session
                .set(&path, "small", Version(0))
                .within()
                .unwrap()
                .version,
            1
        );
    }
}

#[test]
fn a_multi_that_is_too_large_is_refused_and_none_of_it_happens() {
    let (_cluster, session) = single();
    let mut many = session.multi();
    for number in 0..10_001 {
        many = many.create(&format!("/n-{number}"), "", CreateMode::Persistent);
    }
    let error = many.commit().within().unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    for bytes in [600_000, 1 << 20] {
        let mut large = session.multi();
        for number in 0..20 {
            large = large.create(
                &format!("/n-{number}"),
                vec![0; bytes],
                CreateMode::Persistent,
            );
        }
        let error = large.commit().within().unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    }
    assert_eq!(session.multi().commit().within(), Ok(vec![]));
    unharmed(&session);
}

#[test]
fn a_multi_names_the_operation_that_failed_and_does_none() {
    let (_cluster, session) = single();
    let multi = session
        .multi()
        .create("/b", "", CreateMode::Persistent)
        .set("/a", "x", Version(9))
        .delete("/none", Version::ANY);
    let error = multi.commit().within().unwrap_err();
    assert!(matches!(&error, Error::Multi { index: 1, error } if error.code() == -103));
    unharmed(&session);
}

#[test]
fn empty_and_unknown_acls_are_refused_with_the_reason() {
    let (_cluster, session) = single();
    let entry = |scheme, id| vec![Acl::new(Permissions::ALL, AuthId::new(scheme, id))];
    for acl in [
        vec![],
        entry("no-such-scheme", "x"),
        entry("world", "somebody"),
        entry("digest", "no-colon"),
        entry("ip", "not an address"),
        // Nobody is authenticated.
        Acl::creator_all(),
        vec![entry("digest", "u:x").remove(0); 1_000],
        entry("digest", &"x".repeat(9 << 20)),
    ] {
        for refusal in [
            session
                .create_with_acl("/b", "", CreateMode::Persistent, &acl)
                .within()
                .map(drop),
            session.set_acl("/a", &acl, Version::ANY).within().map(drop),
        ] {
            let error = refusal.unwrap_err();
            let refused = matches!(error, Error::InvalidAcl { .. } | Error::TooLarge { .. });
            assert!(refused, "{error:?}");
        }
    }
    unharmed(&session);
}

#[test]
fn times_to_live_out_of_range_are_refused() {
    let (_cluster, session) = single();
    for ttl_ms in [0, -1, i64::MIN, 1 << 40, i64::MAX] {
        for mode in [
            CreateMode::PersistentWithTtl { ttl_ms },
            CreateMode::PersistentSequentialWithTtl { ttl_ms },
        ] {
            let error = session.create("/b", "", mode).within().unwrap_err();
            assert!(matches!(error, Error::BadArguments { .. }), "{error:?}");
        }
    }
    unharmed(&session);
}

#[test]
fn what_is_not_there_or_in_the_way_is_named() {
    let (_cluster, session) = single();
    session
        .create("/a/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let create = |path: &str| {
        session
            .create(path, "", CreateMode::Persistent)
            .within()
            .unwrap_err()
    };
    assert_eq!(
        create("/none/b"),
        Error::NoNode {
            path: "/none".into()
        }
    );
    assert_eq!(create("/a"), Error::NodeExists { path: "/a".into() });
    assert_eq!(
        create("/a/e/b"),
        Error::NoChildrenForEphemerals {
            parent: "/a/e".into()
        }
    );
    let delete = |path: &str| session.delete(path, Version::ANY).within().unwrap_err();
    assert_eq!(
        delete("/a"),
        Error::NotEmpty {
            path: "/a".into(),
            children: 1
        }
    );
    assert_eq!(
        delete("/none"),
        Error::NoNode {
            path: "/none".into()
        }
    );
    for system in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
        assert!(matches!(delete(system), Error::BadArguments { .. }));
    }
    unharmed(&session);
}

#[test]
fn a_node_that_makes_no_sense_does_not_start() {
    let network = Network::new(1);
    let with_network = |id| {
        Node::builder(id)
            .transport(network.endpoint(node_id(id.max(1))))
            .voters([1, 2, 3])
    };
    let refusals: [(&str, NodeBuilder); 9] = [
        ("0 is no node's id", Node::builder(0)),
        ("id 0", with_network(1).voters([1, 0])),
        ("twice", with_network(1).voters([1, 2, 2])),
        ("not among the voters", with_network(4)),
        ("not among the voters", Node::builder(1).voters([])),
        ("needs a transport", Node::builder(1).voters([1, 2])),
        ("tick is zero", Node::builder(1).tick(Duration::ZERO)),
        ("data_bytes_max", Node::builder(1).data_bytes_max(u32::MAX)),
        (
            "session_writes_max",
            Node::builder(1).session_writes_max(1 << 20),
        ),
    ];
    for (word, builder) in refusals {
        let error = builder.start().expect_err(word);
        assert!(
            error.to_string().contains(word),
            "{error} instead of {word}"
        );
        assert!(matches!(error, StartError::Option { .. }), "{error:?}");
    }
    for ticks in [0, 1, usize::MAX] {
        let error = Node::builder(1)
            .election_ticks(ticks)
            .start()
            .expect_err("no such election");
        assert!(error.to_string().contains("raft"), "{error}");
    }
    let both = Node::builder(1)
        .storage(Memory::new())
        .data_dir("/nonexistent/quorate");
    assert!(matches!(both.start(), Err(StartError::Option { .. })));
    let nowhere = Node::builder(1).data_dir("/proc/no/such/place");
    assert!(matches!(
        nowhere.start(),
        Err(StartError::Storage(StorageError::Io { .. }))
    ));
}

#[test]
fn a_node_started_twice_on_one_address_is_refused_and_the_first_goes_on() {
    let mut cluster = Cluster::new(3);
    let session = cluster.session(1);
    let endpoint = cluster.network.endpoint(node_id(1));
    let twin = Node::builder(1)
        .voters([1, 2, 3])
        .transport(endpoint)
        .start();
    assert!(matches!(twin, Err(StartError::Transport(_))));
    session
        .create("/a", "", CreateMode::Persistent)
        .within()
        .unwrap();
    cluster.stop(1);
    cluster.start(1);
}

#[test]
fn a_directory_of_another_node_or_cluster_is_refused_and_unharmed() {
    let parent = tempfile::tempdir().unwrap();
    for kind in [Kind::Log, Kind::Sled] {
        let dir = parent.path().join(format!("{kind:?}"));
        let on_disk = |builder: NodeBuilder| match kind {
            Kind::Log => builder.storage(Log::open(&dir, LogOptions::default()).unwrap()),
            _ => builder.storage(Sled::open(&dir, SledOptions::default()).unwrap()),
        };
        let node = on_disk(Node::builder(1)).start().unwrap();
        let session = node.session().open().within().unwrap();
        session
            .create("/a", "data", CreateMode::Persistent)
            .within()
            .unwrap();
        drop((session, node));
        let network = Network::new(1);
        for stranger in [
            Node::builder(2),
            Node::builder(1).cluster("another"),
            Node::builder(1)
                .voters([1, 2])
                .transport(network.endpoint(node_id(1))),
        ] {
            let error = on_disk(stranger).start().expect_err("it is another's");
            let wrong = matches!(
                error,
                StartError::Storage(StorageError::WrongIdentity { .. })
            );
            assert!(wrong, "{error:?}");
        }
        let node = on_disk(Node::builder(1)).start().unwrap();
        unharmed(&node.session().open().within().unwrap());
    }
}

/// Three nodes; what comes to node 1 from the others can be made up.
fn tapped() -> (Cluster, Tap) {
    let network = Network::new(2);
    let tap = Tap::new(&network, 1);
    let (first, other) = (tap.clone(), network.clone());
    let cluster = Cluster::with(3, Kind::Memory, move |id, builder| match id {
        1 => builder.transport(first.clone()),
        _ => builder.transport(other.endpoint(node_id(id))),
    });
    let session = cluster.session(1);
    session
        .create("/a", "data", CreateMode::Persistent)
        .within()
        .unwrap();
    lead(&cluster, 1);
    (cluster, tap)
}

fn lead(cluster: &Cluster, id: u64) {
    support::eventually("it leads", || {
        let leader = cluster.leader();
        leader == id || {
            drop(cluster.node(leader).transfer_leadership(node_id(id)));
            false
        }
    });
}

/// After messages that make no sense: all nodes run, agree, and have lost nothing.
fn all_well(cluster: &Cluster) {
    for id in 1..=3 {
        unharmed(&cluster.session(id));
        assert_eq!(cluster.node(id).status().stopped, None);
    }
}

/// A protobuf field of bytes.
fn bytes_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(bytes);
    field
}

fn number_field(number: u8, value: u8) -> Vec<u8> {
    assert!(value < 0x80);
    vec![number << 3, value]
}

#[test]
fn garbage_from_a_peer_is_dropped() {
    let (cluster, tap) = tapped();
    let id = cluster.node(1).cluster();
    let mut random = 1u64;
    for round in 0..3_000 {
        let length = [0, 1, 7, 40, 300, 5_000][round % 6];
        let garbage = (0..length).map(|_| {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (random >> 33) as u8
        });
        let garbage: Vec<u8> = garbage.collect();
        let kind = (round % 8) as u8;
        let framed = if round % 2 == 0 {
            garbage
        } else {
            bytes_field(kind, &garbage)
        };
        tap.inject(id, 2 + (round as u64 & 1), 1, framed);
    }
    all_well(&cluster);
}

#[test]
fn truncated_and_damaged_messages_from_a_peer_are_dropped() {
    let (cluster, tap) = tapped();
    let id = cluster.node(1).cluster();
    let sent = tap.sent();
    for (round, message) in sent.iter().enumerate() {
        let payload = message.payload();
        for cut in [0, payload.len() / 2, payload.len().saturating_sub(1)] {
            tap.inject(id, 2, 1, payload[..cut].to_vec());
        }
        let mut damaged = payload.to_vec();
        if let Some(byte) = damaged.get_mut(round % payload.len().max(1)) {
            // The kind of a message is its first byte: a consensus message could be damaged into a
            // valid one, which is what the checksum of the wire is for.
            *byte ^= 0x80;
            damaged.truncate(payload.len() - 1);
        }
        tap.inject(id, 3, 1, damaged);
    }
    all_well(&cluster);
}

#[test]
fn oversize_and_deeply_nested_messages_from_a_peer_are_dropped() {
    // RUSTSEC-2024-0437: protobuf 2 follows nested groups without a limit.
    let (cluster, tap) = tapped();
    let id = cluster.node(1).cluster();
    tap.inject(id, 2, 1, vec![0; 40 << 20]);
    tap.inject(id, 2, 1, [0xa3, 0x06].repeat(2_000_000));
    tap.inject(id, 2, 1, bytes_field(1, &[0xa3, 0x06].repeat(2_000_000)));
    let mut nested = Vec::new();
    for _ in 0..500 {
        nested = bytes_field(2, &bytes_field(1, &bytes_field(6, &nested)));
    }
    tap.inject(id, 2, 1, nested);
    all_well(&cluster);
}

#[test]
fn messages_of_another_cluster_to_another_node_and_from_unknown_nodes_change_nothing() {
    let (cluster, tap) = tapped();
    let id = cluster.node(1).cluster();
    for message in tap.sent() {
        let payload = message.payload().to_vec();
        assert!(
            !tap.inject(ClusterId(id.0 ^ 1), 2, 1, payload.clone()),
            "of another cluster"
        );
        assert!(!tap.inject(id, 2, 3, payload.clone()), "to another node");
        for stranger in [4, 99, u64::MAX] {
            tap.inject(id, stranger, 1, payload.clone());
        }
        // Its own messages coming back to it.
        tap.inject(id, 1, 1, payload);
    }
    all_well(&cluster);
}

#[test]
fn a_request_of_a_peer_that_cannot_be_read_stops_no_replica() {
    // It went into the log unread, and every replica stopped at its entry, at every start again.
    let (mut cluster, tap) = tapped();
    let id = cluster.node(1).cluster();
    let request = |session: u8, sequence: u8, op: &[u8]| {
        let fields = [
            number_field(1, session),
            number_field(3, sequence),
            bytes_field(5, op),
        ]
        .concat();
        bytes_field(2, &bytes_field(1, &fields))
    };
    let expire = bytes_field(11, &number_field(1, 1));
    for session in 1..=4 {
        let expire = bytes_field(11, &number_field(1, session));
        tap.inject(id, 2, 1, request(0, 0, &expire));
    }
    for sequence in 0..3 {
        tap.inject(id, 2, 1, request(1, sequence, b"\xff\xff not an operation"));
        tap.inject(id, 2, 1, request(1, sequence, b""));
        tap.inject(id, 2, 1, request(0, sequence, &expire));
        tap.inject(
            id,
            2,
            1,
            request(0, sequence, &bytes_field(12, &bytes_field(1, b"/a"))),
        );
        tap.inject(id, 2, 1, request(0, sequence, &bytes_field(7, b"")));
    }
    all_well(&cluster);
    for id in 1..=3 {
        cluster.stop(id);
        cluster.start(id);
    }
    all_well(&cluster);
}

#[test]
fn a_snapshots_pieces_out_of_nowhere_are_refused() {
    let (cluster, tap) = tapped();
    let id = cluster.node(1).cluster();
    let varint = |number: u8, value: u64| {
        let mut field = vec![number << 3];
        let mut rest = value;
        while rest >= 0x80 {
            field.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        field.push(rest as u8);
        field
    };
    let fixed64 = |number: u8, value: u64| [&[number << 3 | 1][..], &value.to_le_bytes()].concat();
    let meta = [varint(1, 1_000_000), varint(2, 9), varint(3, 2)].concat();
    let piece = |offset: u64, total: u64, data: &[u8]| {
        let crc = crc32fast::hash(data).to_le_bytes();
        let fields = [
            fixed64(1, 5),
            bytes_field(2, &meta),
            varint(3, offset),
            varint(4, total),
            bytes_field(5, data),
            [&[6 << 3 | 5][..], &crc].concat(),
            bytes_field(7, b"not a message of the core"),
        ];
        bytes_field(5, &fields.concat())
    };
    for payload in [
        piece(u64::MAX - 3, u64::MAX, b"end"),
        piece(u64::MAX, u64::MAX, b"over"),
        piece(0, u64::MAX, b"begin"),
        piece(5, u64::MAX, b"no snapshot"),
        piece(0, 8, b"no state"),
        piece(0, 0, b""),
    ] {
        for from in [2, 3] {
            tap.inject(id, from, 1, payload.clone());
        }
    }
    let ack = [fixed64(1, 5), varint(2, u64::MAX)].concat();
    tap.inject(id, 2, 1, bytes_field(6, &ack));
    all_well(&cluster);
}

#[test]
fn what_peers_send_to_a_node_that_stands_still_is_bounded_in_bytes() {
    let stuck = Stuck::default();
    let gate = stuck.gate();
    let shut = gate.lock();
    let node = Node::builder(1)
        .voters([1, 2])
        .transport(stuck.clone())
        .start()
        .unwrap();
    eventually("its loop waits", || stuck.sends() > 0);
    let inbox = stuck.inbox();
    // One buffer, so that the test itself needs no memory for them.
    let payload = bytes::Bytes::from(vec![7; 15 << 20]);
    let message = || Message::new(node.cluster(), node_id(2), node_id(1), payload.clone());
    let kept = (0..100).take_while(|_| inbox.deliver(message())).count();
    // Open before anything may fail: a node that is dropped waits for its loop.
    drop(shut);
    assert_eq!(kept, 256 / 15);
    // The room is free again when the loop has taken them.
    eventually("it has room again", || inbox.deliver(message()));
    drop(inbox);
}

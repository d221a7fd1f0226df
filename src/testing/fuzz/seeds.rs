//! Bytes that the readers accept, made by those who write them.

use super::*;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn operations_by_name() -> Vec<(&'static str, Op)> {
    let path = || "/a".to_owned();
    let acl = vec![
        Acl::new(Permissions::ALL, AuthId::new("world", "anyone")),
        Acl::new(Permissions::READ, AuthId::new("ip", "10.0.0.0/8")),
    ];
    let create = |mode, acl| Op::Create {
        path: path(),
        data: Bytes::from_static(b"data"),
        acl,
        mode,
    };
    vec![
        ("create", create(CreateMode::Persistent, Acl::open())),
        (
            "create_acl",
            create(CreateMode::EphemeralSequential, acl.clone()),
        ),
        (
            "create_ttl",
            create(CreateMode::PersistentWithTtl { ttl_ms: 5 }, Acl::open()),
        ),
        (
            "multi",
            Op::Multi(vec![
                create(CreateMode::PersistentSequential, Acl::open()),
                Op::SetData {
                    path: path(),
                    data: Bytes::from_static(b"more"),
                    version: Version(0),
                },
                Op::Check {
                    path: path(),
                    version: Version::ANY,
                },
                Op::Delete {
                    path: path(),
                    version: Version(1),
                },
            ]),
        ),
        (
            "set_acl",
            Op::SetAcl {
                path: path(),
                acl,
                version: Version::ANY,
            },
        ),
        (
            "attach",
            Op::AttachSession {
                password: [7; 16],
                timeout_ms: 9,
                owner: node(2),
                nonce: u64::MAX,
            },
        ),
        ("close", Op::CloseSession),
        ("auth", Op::AddAuth(AuthId::digest("user", "secret"))),
    ]
}

fn requests() -> Vec<proto::records::RequestRecord> {
    (1..)
        .zip(operations_by_name())
        .map(|(sequence, (_, op))| proto::records::RequestRecord {
            session: 1,
            attachment: 0,
            sequence,
            answered: sequence - 1,
            op: proto::encode_op(&op),
            ..Default::default()
        })
        .collect()
}

pub(super) fn operations() -> Seeds {
    operations_by_name()
        .into_iter()
        .map(|(name, op)| (name, proto::encode_op(&op).to_vec()))
        .collect()
}

pub(super) fn batches() -> Seeds {
    let encoded = |rules| batch(1_700_000_000_000, rules).to_vec();
    vec![
        ("batch", encoded(Rules::FIRST)),
        ("batch_of_runs", encoded(Rules::LATEST)),
    ]
}

fn batch(time_ms: i64, rules: Rules) -> Bytes {
    let requests = requests();
    let batch = Batch {
        time_ms,
        rules,
        requests,
    };
    batch.encode()
}

pub(super) fn peer_messages() -> Seeds {
    let append = raft_messages().swap_remove(0).1;
    let chunk = crate::replica::SnapshotChunk {
        transfer: 1,
        meta: SnapshotMeta {
            index: 5,
            term: 2,
            configuration: Configuration {
                voters: vec![node(1), node(2)],
                voters_outgoing: vec![node(3)],
                learners: vec![node(4)],
                learners_next: vec![node(3)],
                auto_leave: true,
            },
        },
        offset: 10,
        total_bytes: 14,
        data: Bytes::from_static(b"data"),
        message: Bytes::from_static(b"raft"),
    };
    let sessions = || vec![SessionId(1), SessionId(i64::MAX)];
    let messages = vec![
        ("consensus", PeerMessage::Consensus(append.into())),
        ("forward", PeerMessage::Forward(requests())),
        (
            "barrier",
            PeerMessage::Barrier {
                id: 7,
                sessions: sessions(),
            },
        ),
        (
            "barrier_reply",
            PeerMessage::BarrierReply {
                id: 7,
                index: 9,
                gone: sessions(),
            },
        ),
        ("snapshot_chunk", PeerMessage::SnapshotChunk(chunk)),
    ];
    messages
        .into_iter()
        .map(|(name, message)| (name, message.encode(Rules::LATEST).to_vec()))
        .collect()
}

pub(super) fn peer_frames() -> Seeds {
    peer_messages()
        .into_iter()
        .map(|(name, payload)| {
            let message = Message::new(ClusterId(1), node(2), node(1), payload);
            (name, message.encode().to_vec())
        })
        .collect()
}

pub(super) fn raft_messages() -> Seeds {
    crate::consensus::message_seeds(batch(5, Rules::FIRST))
}

pub(super) fn snapshots() -> Seeds {
    let state = |ops: Vec<Op>| {
        let mut state = State::new(Settings::default());
        let request = |session, sequence, op| Request {
            session: SessionId(session),
            attachment: 0,
            sequence,
            answered: 0,
            op,
        };
        let open = Op::OpenSession {
            password: [1; 16],
            timeout_ms: 5000,
            owner: node(1),
        };
        state.apply(1, &request(0, 0, open), &mut Vec::new());
        let session = state.sessions().next().expect("a session").0.0;
        for (sequence, op) in (1..).zip(ops) {
            state.apply(2, &request(session, sequence, op), &mut Vec::new());
        }
        state.publish();
        let frozen = state.freeze().expect("nobody else snapshots");
        frozen.chunks().flatten().collect()
    };
    let ops = operations_by_name();
    let without_end = ops
        .into_iter()
        .filter(|(name, _)| !matches!(*name, "close" | "attach"));
    vec![
        ("empty", state(vec![])),
        ("some", state(without_end.map(|(_, op)| op).collect())),
    ]
}

#[cfg(any(feature = "log", feature = "sled"))]
pub(super) fn stored_records() -> Seeds {
    crate::storage::record_seeds()
}

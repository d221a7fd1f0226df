//! A snapshot is the state, whole or not at all.

use bytes::Bytes;
use protobuf::{CodedOutputStream, Message as _};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::restore::{RestoreError, RestoreLimits};
use super::*;
use crate::acl::{Acl, AuthId, Permissions};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::{CreateMode, Op, ReadOp, Request};
use crate::proto::snapshot as records;
use crate::proto::snapshot::Record_oneof_kind as Kind;
use crate::state::{Settings, State};

struct Writer {
    state: State,
    sequence: u64,
}

impl Writer {
    fn new() -> Writer {
        let mut state = State::new(Settings {
            auth_schemes: vec!["b".into(), "a".into()],
            ..Settings::default()
        });
        let op = Op::OpenSession {
            password: [1; 16],
            timeout_ms: 1,
            owner: NodeId::new(1).unwrap(),
        };
        let request = Request {
            session: SessionId(0),
            attachment: 0,
            sequence: 0,
            answered: 0,
            op,
        };
        state.apply(5, &request, &mut Vec::new());
        Writer { state, sequence: 0 }
    }

    fn write(&mut self, op: Op) {
        self.sequence += 1;
        let answered = self.sequence.saturating_sub(4);
        let request = Request {
            session: SessionId(1),
            attachment: 0,
            sequence: self.sequence,
            answered,
            op,
        };
        self.state.apply(5, &request, &mut Vec::new());
    }

    fn create(&mut self, path: &str, data: &[u8], acl: Vec<Acl>, mode: CreateMode) {
        let data = Bytes::copy_from_slice(data);
        self.write(Op::Create {
            path: path.into(),
            data,
            acl,
            mode,
        });
    }

    fn snapshot(&mut self) -> Vec<u8> {
        self.state.publish();
        self.state
            .freeze()
            .expect("none is under way")
            .chunks()
            .flatten()
            .collect()
    }
}

/// A state with something of everything.
fn writer() -> Writer {
    let mut writer = Writer::new();
    let acl = |user: &str| vec![Acl::new(Permissions::ALL, AuthId::digest(user, "secret"))];
    writer.write(Op::AddAuth(AuthId::digest("ann", "secret")));
    writer.create("/a", b"data", acl("ann"), CreateMode::Persistent);
    writer.create("/a/b", b"", Acl::read_only(), CreateMode::Container);
    writer.create("/e", b"x", acl("bob"), CreateMode::EphemeralSequential);
    writer.create(
        "/t",
        b"x",
        acl("ann"),
        CreateMode::PersistentWithTtl { ttl_ms: 9 },
    );
    writer.create(
        "/zookeeper/quota/a",
        b"",
        Acl::open(),
        CreateMode::Persistent,
    );
    writer.create(
        "/zookeeper/quota/a/zookeeper_limits",
        b"count=1",
        Acl::open(),
        CreateMode::Persistent,
    );
    writer.create(
        "/zookeeper/quota/a/zookeeper_stats",
        b"",
        Acl::open(),
        CreateMode::Persistent,
    );
    writer.write(Op::Delete {
        path: "/missing".into(),
        version: crate::Version::ANY,
    });
    writer.write(Op::Multi(vec![Op::Delete {
        path: "/a//".into(),
        version: crate::Version(3),
    }]));
    writer
}

fn restore(bytes: &[u8]) -> Result<State, RestoreError> {
    let mut restore = Restore::default();
    restore.feed(bytes)?;
    Ok(restore.finish()?.into_state())
}

fn refused(bytes: &[u8]) -> RestoreError {
    match restore(bytes) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error,
    }
}

/// The records of a snapshot, without its footer.
fn records_of(bytes: &[u8]) -> Vec<Kind> {
    let mut stream = protobuf::CodedInputStream::from_bytes(bytes);
    let mut kinds = Vec::new();
    while !stream.eof().unwrap() {
        let length = stream.read_raw_varint32().unwrap();
        let record =
            records::Record::parse_from_bytes(&stream.read_raw_bytes(length).unwrap()).unwrap();
        kinds.push(record.kind.unwrap());
    }
    kinds.pop();
    kinds
}

/// A snapshot of these records, with the footer that belongs to them.
fn sealed(kinds: &[Kind]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut footer = records::Footer::default();
    for kind in kinds {
        match kind {
            Kind::session(_) => footer.sessions += 1,
            Kind::result(_) => footer.results += 1,
            Kind::acl(_) => footer.acls += 1,
            Kind::znode(_) => footer.znodes += 1,
            _ => {}
        }
        push(&mut bytes, kind.clone());
    }
    footer.crc32 = crc32fast::hash(&bytes);
    push(&mut bytes, Kind::footer(footer));
    bytes
}

fn push(bytes: &mut Vec<u8>, kind: Kind) {
    let record = records::Record {
        kind: Some(kind),
        ..Default::default()
    };
    record.write_length_delimited_to_vec(bytes).unwrap();
}

#[test]
fn a_restored_state_is_the_same_and_gives_the_same_bytes() {
    let mut writer = writer();
    let bytes = writer.snapshot();
    let mut restored = restore(&bytes).unwrap();
    restored.check_invariants().unwrap();
    assert_eq!(restored.digest(), writer.state.digest());
    assert_eq!(restored.tree_digest(), writer.state.tree_digest());
    assert_eq!(restored.settings(), writer.state.settings());
    assert!(
        restored
            .freeze()
            .unwrap()
            .chunks()
            .flatten()
            .eq(bytes.iter().copied())
    );
    for sequence in 1..=10 {
        let id = SessionId(1);
        assert_eq!(
            restored.kept(id, sequence),
            writer.state.kept(id, sequence),
            "{sequence}"
        );
    }
}

#[test]
fn the_bytes_do_not_tell_the_history() {
    let acl = |n: usize| {
        vec![Acl::new(
            Permissions::READ,
            AuthId::new("ip", format!("10.0.0.{n}")),
        )]
    };
    let state = |order: &[usize]| {
        let mut writer = Writer::new();
        for &n in order {
            writer.create(&format!("/{n}"), b"", acl(n), CreateMode::Persistent);
        }
        let kinds = records_of(&writer.snapshot()).into_iter();
        // What may differ are the zxids: the order of the ACLs may not.
        kinds
            .filter_map(|kind| match kind {
                Kind::acl(acl) => Some((acl.entries[0].get_identity().id.clone(), 0)),
                Kind::znode(znode) => Some((znode.path, znode.acl)),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(state(&[1, 2, 3, 4, 5]), state(&[4, 2, 5, 1, 3]));
}

#[test]
fn a_frozen_state_stays_as_it_was_while_writes_go_on() {
    let mut writer = writer();
    let expected = writer.snapshot();
    let frozen = writer.state.freeze().unwrap();
    for n in 0..500 {
        let path = if n % 2 == 0 { "/a" } else { "/t" };
        writer.write(Op::SetData {
            path: path.into(),
            data: Bytes::from_static(b"new"),
            version: crate::Version::ANY,
        });
        writer.create(
            "/a/b/n",
            b"",
            Acl::read_only(),
            CreateMode::EphemeralSequential,
        );
        writer.write(Op::SetAcl {
            path: "/e0000000001".into(),
            acl: Acl::open(),
            version: crate::Version::ANY,
        });
        if n % 50 == 0 {
            writer.state.publish();
        }
    }
    writer.state.publish();
    assert!(writer.state.freeze().is_none(), "one at a time");
    assert!(frozen.chunks().flatten().eq(expected));
    assert!(writer.state.freeze().is_some());
}

#[test]
fn chunks_are_bounded() {
    let mut writer = Writer::new();
    for n in 0..40 {
        writer.create(
            &format!("/{n}"),
            &vec![b'x'; 50_000],
            Acl::open(),
            CreateMode::Persistent,
        );
    }
    writer.state.publish();
    let chunks: Vec<_> = writer
        .state
        .freeze()
        .unwrap()
        .chunks()
        .map(|chunk| chunk.len())
        .collect();
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.len() > 5);
    assert!(
        others
            .iter()
            .all(|&len| (256 * 1024..256 * 1024 + 50_100).contains(&len)),
        "{chunks:?}"
    );
    assert!(*last > 0);
}

#[test]
fn the_bytes_are_the_same_in_chunks_of_any_size_and_of_one_that_changes() {
    let mut writer = writer();
    let bytes = writer.snapshot();
    let mut chunks = writer.state.freeze().unwrap().chunks_of(1);
    let mut found = chunks.next().unwrap();
    let smallest = found.len();
    chunks.set_chunk_bytes(smallest * 4);
    let larger = chunks.next().unwrap();
    assert!(larger.len() >= smallest * 4, "{}", larger.len());
    found.extend(larger);
    found.extend(chunks.flatten());
    assert_eq!(found, bytes);
}

#[test]
fn a_snapshot_cut_short_is_refused_wherever_it_is_cut() {
    let bytes = writer().snapshot();
    for end in 0..bytes.len() {
        assert_eq!(refused(&bytes[..end]), RestoreError::Truncated, "{end}");
    }
}

#[test]
fn a_snapshot_with_any_bit_turned_is_refused() {
    let bytes = writer().snapshot();
    for at in 0..bytes.len() {
        for bit in [at % 8, (at + 3) % 8] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << bit;
            assert!(
                restore(&bytes).is_err(),
                "bit {bit} of byte {at} of {}",
                bytes.len()
            );
        }
    }
}

/// A peer may lie and seal its lie: what is taken is a sound state all the same.
#[test]
fn whatever_is_sealed_is_refused_or_sound() {
    let bytes = writer().snapshot();
    let kinds = records_of(&bytes);
    let mut rng = StdRng::seed_from_u64(1);
    let mut taken = 0;
    for _ in 0..2_000 {
        let mut kinds = kinds.clone();
        let at = rng.gen_range(0..kinds.len());
        match rng.gen_range(0..4) {
            0 => drop(kinds.remove(at)),
            1 => {
                let other = rng.gen_range(0..kinds.len());
                kinds.swap(at, other);
            }
            _ => {
                let record = records::Record {
                    kind: Some(kinds[at].clone()),
                    ..Default::default()
                };
                let mut bytes = record.write_to_bytes().unwrap();
                for _ in 0..rng.gen_range(1..3) {
                    let at = rng.gen_range(0..bytes.len());
                    bytes[at] = if rng.gen_bool(0.5) {
                        rng.gen_range(0..=255)
                    } else {
                        bytes[at] ^ 1
                    };
                }
                let record = records::Record::parse_from_bytes(&bytes);
                let Some(kind) = record.ok().and_then(|record| record.kind) else {
                    continue;
                };
                kinds[at] = kind;
            }
        }
        if let Ok(mut state) = restore(&sealed(&kinds)) {
            taken += 1;
            state.check_invariants().unwrap();
            let again: Vec<u8> = state.freeze().unwrap().chunks().flatten().collect();
            restore(&again).unwrap();
        }
    }
    assert!(taken > 20, "{taken}");
}

#[test]
fn each_lie_is_named() {
    let kinds = records_of(&writer().snapshot());
    let refused_after = |change: &dyn Fn(&mut Vec<Kind>)| {
        let mut kinds = kinds.clone();
        change(&mut kinds);
        refused(&sealed(&kinds)).to_string()
    };
    let znode = |path: &str, change: &dyn Fn(&mut records::Znode)| {
        let of_path = |kind: &&mut Kind| matches!(kind, Kind::znode(znode) if znode.path == path);
        refused_after(&|kinds| {
            if let Some(Kind::znode(znode)) = kinds.iter_mut().find(of_path) {
                change(znode);
            }
        })
    };
    let header = |change: &dyn Fn(&mut records::Header)| {
        refused_after(&|kinds| {
            if let Kind::header(header) = &mut kinds[0] {
                change(header);
            }
        })
    };
    for (found, word) in [
        (header(&|header| header.format = 2), "format 2"),
        (header(&|header| header.zxid = u64::MAX), "no zxid"),
        (header(&|header| header.zxid = 3), "from the future"),
        (
            header(&|header| drop(header.settings.take())),
            "no settings",
        ),
        (
            header(&|header| header.settings.as_mut().unwrap().session_timeout_max_ms = 0),
            "contradict",
        ),
        (
            refused_after(&|kinds| kinds.insert(1, kinds[0].clone())),
            "doesn't belong",
        ),
        (
            refused_after(&|kinds| kinds.insert(1, kinds[1].clone())),
            "out of order",
        ),
        (
            refused_after(&|kinds| kinds.truncate(2)),
            "lacks its last result|doesn't belong",
        ),
        (
            znode("/a", &|znode| znode.path = "/a/".into()),
            "ends with /",
        ),
        (znode("/a", &|znode| znode.path = "/a/b".into()), "twice"),
        (znode("/a", &|znode| znode.path = "/x".into()), "no parent"),
        (
            znode("/", &|znode| znode.path = "/x".into()),
            "no parent|no root",
        ),
        (znode("/a/b", &|znode| znode.acl = 99), "unknown ACL"),
        (
            znode("/a/b", &|znode| znode.ephemeral_owner = 77),
            "no session",
        ),
        (
            znode("/a/b", &|znode| znode.ephemeral_owner = -1),
            "no session",
        ),
        (
            znode("/a", &|znode| znode.ephemeral_owner = 1),
            "has children",
        ),
        (
            znode("/zookeeper/config", &|znode| {
                znode.ephemeral_owner = i64::MIN
            }),
            "missing",
        ),
        (
            znode("/zookeeper/config", &|znode| znode.path = "/config".into()),
            "missing",
        ),
        (
            znode("/a", &|znode| znode.data = Bytes::from_static(b"12345")),
            "another usage",
        ),
    ] {
        assert!(
            word.split('|').any(|word| found.contains(word)),
            "{found:?} doesn't say {word:?}"
        );
    }
}

#[test]
fn what_is_announced_is_not_allocated() {
    let limits = RestoreLimits {
        record_bytes_max: 1000,
    };
    let mut restore = Restore::new(limits);
    let error = restore.feed(&[0xff, 0xff, 0xff, 0xff, 0x7f]).unwrap_err();
    assert!(
        matches!(error, RestoreError::RecordTooLarge { limit: 1000, .. }),
        "{error}"
    );
    let mut restore = Restore::new(limits);
    let error = restore.feed(&[0xff; 20]).unwrap_err();
    assert!(matches!(error, RestoreError::Malformed { .. }), "{error}");
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut bytes = writer().snapshot();
    bytes.push(0);
    assert!(matches!(refused(&bytes), RestoreError::Malformed { .. }));
    let kinds = records_of(&writer().snapshot());
    let twice = [sealed(&kinds), sealed(&kinds)].concat();
    assert!(matches!(refused(&twice), RestoreError::Malformed { .. }));
}

/// RUSTSEC-2024-0437: protobuf could be made to recurse until the stack ends.
#[test]
fn nested_records_and_groups_end_in_an_error_not_in_a_crash() {
    // A multi's error within an error within an error; each level is field 7 of the one above.
    let mut nested = Vec::new();
    for _ in 0..100_000 {
        let mut outer = Vec::with_capacity(nested.len() + 6);
        let mut stream = CodedOutputStream::vec(&mut outer);
        stream.write_bytes(7, &nested).unwrap();
        stream.flush().unwrap();
        drop(stream);
        nested = outer;
        if nested.len() > 400_000 {
            break;
        }
    }
    let mut kept = Vec::new();
    let mut stream = CodedOutputStream::vec(&mut kept);
    stream.write_bytes(4, &nested).unwrap();
    stream.flush().unwrap();
    drop(stream);
    let groups = vec![0x0b_u8; 1_000_000];
    for payload in [kept, groups] {
        let mut record = Vec::new();
        let mut stream = CodedOutputStream::vec(&mut record);
        stream.write_bytes(6, &payload).unwrap();
        stream.flush().unwrap();
        drop(stream);
        let mut bytes = Vec::new();
        let mut stream = CodedOutputStream::vec(&mut bytes);
        stream.write_raw_varint32(record.len() as u32).unwrap();
        stream.write_raw_bytes(&record).unwrap();
        stream.flush().unwrap();
        drop(stream);
        assert!(matches!(refused(&bytes), RestoreError::Malformed { .. }));
    }
}

#[test]
fn readers_see_a_restored_state_from_the_next_publish_on() {
    let mut origin = writer();
    let bytes = origin.snapshot();
    let mut follower = Writer::new();
    follower.create("/own", b"", Acl::open(), CreateMode::Persistent);
    follower.state.publish();
    let reader = follower.state.reader();
    let exists = |path: &str| {
        let read = ReadOp::Exists { path: path.into() };
        !matches!(
            reader.read(SessionId(1), &read),
            Ok(crate::state::ReadResult::Exists(None))
        )
    };
    let mut restore = Restore::default();
    restore.feed(&bytes).unwrap();
    follower.state.replace(restore.finish().unwrap());
    assert!(exists("/own") && !exists("/t"));
    assert_eq!(reader.zxid(), Zxid(2));
    follower.sequence = origin.sequence;
    follower.create("/later", b"", Acl::open(), CreateMode::Persistent);
    assert!(exists("/own") && !exists("/t") && !exists("/later"));
    follower.state.publish();
    assert!(!exists("/own") && exists("/t") && exists("/later"));
    assert_eq!(reader.zxid(), follower.state.zxid());
    // The ACL of /t is ann's, and the session has proven to be ann.
    let acl = ReadOp::Data { path: "/t".into() };
    assert!(reader.read(SessionId(1), &acl).is_ok());
    assert!(reader.read(SessionId(2), &acl).is_err());
}

#[test]
fn scenario_09_b_a_multi_is_in_a_snapshot_as_a_whole_or_not_at_all() {
    // A snapshot taken in the middle of a transaction held half of it.
    let mut writer = Writer::new();
    let create = |path: &str| Op::Create {
        path: path.into(),
        data: Bytes::new(),
        acl: Acl::open(),
        mode: CreateMode::PersistentSequential,
    };
    let missing = Op::Delete {
        path: "/missing".into(),
        version: crate::Version::ANY,
    };
    writer.create("/a", b"", Acl::open(), CreateMode::Persistent);
    writer.write(Op::Multi(vec![create("/a/x"), create("/a/x"), missing]));
    let state = restore(&writer.snapshot()).unwrap();
    let parent = state.znode("/a").unwrap();
    assert_eq!((parent.children().len(), parent.cversion), (0, 0));
    writer.write(Op::Multi(vec![create("/a/x"), create("/a/x")]));
    let state = restore(&writer.snapshot()).unwrap();
    assert_eq!(state.znode("/a").unwrap().children().len(), 2);
}

#[test]
fn scenario_12_a_replica_restored_from_a_snapshot_allows_what_the_others_allow() {
    // etcd #14571: replicas had different authorisation states after a restart from a snapshot, refused
    // and allowed the same write, and diverged.
    let mut writer = writer();
    let mut restored = Writer {
        state: restore(&writer.snapshot()).unwrap(),
        sequence: writer.sequence,
    };
    for path in ["/a/new", "/t/new", "/e0000000000/new", "/open"] {
        for replica in [&mut writer, &mut restored] {
            replica.create(path, b"", Acl::open(), CreateMode::Persistent);
        }
    }
    assert!(writer.state.znode("/a/new").is_some(), "ann may do that");
    assert_eq!(restored.state.digest(), writer.state.digest());
}

#[test]
fn scenario_18_a_a_write_that_comes_twice_or_out_of_order_is_applied_once_and_in_order() {
    // A network that duplicates and reorders: a retried write was done twice, or overtook another.
    let mut writer = Writer::new();
    writer.create("/q", b"", Acl::open(), CreateMode::Persistent);
    let append = |sequence| Request {
        session: SessionId(1),
        attachment: 0,
        sequence,
        answered: 0,
        op: Op::Create {
            path: "/q/x".into(),
            data: Bytes::new(),
            acl: Acl::open(),
            mode: CreateMode::PersistentSequential,
        },
    };
    for sequence in [2, 2, 4, 3, 2, 3] {
        writer.state.apply(5, &append(sequence), &mut Vec::new());
    }
    assert_eq!(writer.state.znode("/q").unwrap().children().len(), 2);
}

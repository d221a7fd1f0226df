//! Between our own types and the records of `quorate.proto`.

use bytes::Bytes;
use protobuf::{RepeatedField, SingularPtrField};

use super::records::{self, OpRecord_oneof_op as Kind};
use super::shape::{self, ShapeError, Shaped};
use crate::acl::{Acl, AuthId, Permissions};
use crate::ids::{NodeId, SessionId, Version, Zxid};
use crate::op::{CreateMode, Op, Password, Request};

/// Why bytes are not a record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed record: {reason}")]
pub(crate) struct RecordError {
    /// Which field is wrong, and how.
    pub reason: String,
}

impl RecordError {
    pub(crate) fn new(reason: impl Into<String>) -> RecordError {
        RecordError {
            reason: reason.into(),
        }
    }
}

impl From<protobuf::ProtobufError> for RecordError {
    fn from(error: protobuf::ProtobufError) -> RecordError {
        RecordError::new(error.to_string())
    }
}

impl From<ShapeError> for RecordError {
    fn from(error: ShapeError) -> RecordError {
        RecordError::new(error.to_string())
    }
}

/// A write as its origin encodes it.
pub(crate) fn encode_op(op: &Op) -> Bytes {
    encode(&op_record(op))
}

/// Any record of ours as bytes.
pub(crate) fn encode<M: protobuf::Message>(record: &M) -> Bytes {
    // Writing to memory fails only for a message with an unset required field, which proto3 has not.
    Bytes::from(
        record
            .write_to_bytes()
            .expect("a proto3 message is always complete"),
    )
}

/// Reads a record; `bytes` fields share the buffer. What would take much more memory than it has bytes is
/// refused before it is parsed.
pub(crate) fn decode<M: protobuf::Message + Shaped>(bytes: &Bytes) -> Result<M, RecordError> {
    shape::check::<M>(bytes)?;
    let mut input = protobuf::CodedInputStream::from_carllerche_bytes(bytes);
    let mut record = M::new();
    record.merge_from(&mut input)?;
    input.check_eof()?;
    Ok(record)
}

/// A request whose op is decoded.
pub(crate) fn decode_request(record: &records::RequestRecord) -> Result<Request, RecordError> {
    Ok(Request {
        session: SessionId(record.session),
        attachment: record.attachment,
        sequence: record.sequence,
        answered: record.answered,
        op: decode_op(&record.op)?,
    })
}

/// Reads what [`encode_op`] wrote.
pub(crate) fn decode_op(bytes: &Bytes) -> Result<Op, RecordError> {
    op(decode::<records::OpRecord>(bytes)?)
}

fn op_record(op: &Op) -> records::OpRecord {
    let kind = match op {
        Op::Create {
            path,
            data,
            acl,
            mode,
        } => {
            let open = is_open(acl);
            let mut record = records::CreateRecord {
                path: path.clone(),
                data: data.clone(),
                mode: mode_number(*mode),
                ttl_ms: mode.ttl_ms().unwrap_or(0),
                open_acl: open,
                ..Default::default()
            };
            if !open {
                record.acl = acl_records(acl);
            }
            Kind::create(record)
        }
        Op::Delete { path, version } => Kind::delete(records::DeleteRecord {
            path: path.clone(),
            version: version.0,
            ..Default::default()
        }),
        Op::SetData {
            path,
            data,
            version,
        } => Kind::set_data(records::SetDataRecord {
            path: path.clone(),
            data: data.clone(),
            version: version.0,
            ..Default::default()
        }),
        Op::SetAcl { path, acl, version } => Kind::set_acl(records::SetAclRecord {
            path: path.clone(),
            acl: acl_records(acl),
            version: version.0,
            ..Default::default()
        }),
        Op::Check { path, version } => Kind::check(records::CheckRecord {
            path: path.clone(),
            version: version.0,
            ..Default::default()
        }),
        Op::Multi(ops) => Kind::multi(records::MultiRecord {
            ops: ops.iter().map(op_record).collect(),
            ..Default::default()
        }),
        Op::OpenSession {
            password,
            timeout_ms,
            owner,
        } => Kind::open_session(records::OpenSessionRecord {
            password: Bytes::copy_from_slice(password),
            timeout_ms: *timeout_ms,
            owner: owner.as_u64(),
            ..Default::default()
        }),
        Op::AttachSession {
            password,
            timeout_ms,
            owner,
            nonce,
        } => Kind::attach_session(records::AttachSessionRecord {
            password: Bytes::copy_from_slice(password),
            timeout_ms: *timeout_ms,
            owner: owner.as_u64(),
            nonce: *nonce,
            ..Default::default()
        }),
        Op::CloseSession => Kind::close_session(Default::default()),
        Op::AddAuth(id) => Kind::add_auth(auth_record(id)),
        Op::ExpireSession {
            session,
            attachment,
        } => Kind::expire_session(records::ExpireSessionRecord {
            session: session.0,
            attachment: *attachment,
            ..Default::default()
        }),
        Op::Reap { path, czxid } => Kind::reap(records::ReapRecord {
            path: path.clone(),
            czxid: czxid.0,
            ..Default::default()
        }),
    };
    records::OpRecord {
        op: Some(kind),
        ..Default::default()
    }
}

fn op(record: records::OpRecord) -> Result<Op, RecordError> {
    let kind = record
        .op
        .ok_or_else(|| RecordError::new("an operation of an unknown kind"))?;
    Ok(match kind {
        Kind::create(record) => Op::Create {
            path: record.path,
            data: record.data,
            acl: if record.open_acl {
                Acl::open()
            } else {
                acl(record.acl)
            },
            mode: mode(record.mode, record.ttl_ms)?,
        },
        Kind::delete(record) => Op::Delete {
            path: record.path,
            version: Version(record.version),
        },
        Kind::set_data(record) => Op::SetData {
            path: record.path,
            data: record.data,
            version: Version(record.version),
        },
        Kind::set_acl(record) => Op::SetAcl {
            path: record.path,
            acl: acl(record.acl),
            version: Version(record.version),
        },
        Kind::check(record) => Op::Check {
            path: record.path,
            version: Version(record.version),
        },
        Kind::multi(record) => {
            let mut ops = Vec::with_capacity(record.ops.len());
            for part in record.ops.into_vec() {
                match op(part)? {
                    part @ (Op::Create { .. }
                    | Op::Delete { .. }
                    | Op::SetData { .. }
                    | Op::Check { .. }) => ops.push(part),
                    _ => return Err(RecordError::new("a multi of something else than writes")),
                }
            }
            Op::Multi(ops)
        }
        Kind::open_session(record) => Op::OpenSession {
            password: password(&record.password)?,
            timeout_ms: record.timeout_ms,
            owner: node(record.owner)?,
        },
        Kind::attach_session(record) => Op::AttachSession {
            password: password(&record.password)?,
            timeout_ms: record.timeout_ms,
            owner: node(record.owner)?,
            nonce: record.nonce,
        },
        Kind::close_session(_) => Op::CloseSession,
        Kind::add_auth(record) => Op::AddAuth(AuthId {
            scheme: record.scheme,
            id: record.id,
        }),
        Kind::expire_session(record) => Op::ExpireSession {
            session: SessionId(record.session),
            attachment: record.attachment,
        },
        Kind::reap(record) => Op::Reap {
            path: record.path,
            czxid: Zxid(record.czxid),
        },
    })
}

fn is_open(acl: &[Acl]) -> bool {
    matches!(acl, [entry] if entry.permissions == Permissions::ALL
        && entry.id.scheme == "world" && entry.id.id == "anyone")
}

fn auth_record(id: &AuthId) -> records::AuthIdRecord {
    records::AuthIdRecord {
        scheme: id.scheme.clone(),
        id: id.id.clone(),
        ..Default::default()
    }
}

fn acl_records(acl: &[Acl]) -> RepeatedField<records::AclRecord> {
    acl.iter()
        .map(|entry| records::AclRecord {
            permissions: entry.permissions.0,
            id: SingularPtrField::some(auth_record(&entry.id)),
            ..Default::default()
        })
        .collect()
}

fn acl(records: RepeatedField<records::AclRecord>) -> Vec<Acl> {
    records
        .into_iter()
        .map(|mut record| {
            let id = record.id.take().unwrap_or_default();
            Acl::new(
                Permissions(record.permissions),
                AuthId {
                    scheme: id.scheme,
                    id: id.id,
                },
            )
        })
        .collect()
}

fn mode_number(mode: CreateMode) -> u32 {
    match mode {
        CreateMode::Persistent => 0,
        CreateMode::Ephemeral => 1,
        CreateMode::PersistentSequential => 2,
        CreateMode::EphemeralSequential => 3,
        CreateMode::Container => 4,
        CreateMode::PersistentWithTtl { .. } => 5,
        CreateMode::PersistentSequentialWithTtl { .. } => 6,
    }
}

fn mode(number: u32, ttl_ms: i64) -> Result<CreateMode, RecordError> {
    Ok(match number {
        0 => CreateMode::Persistent,
        1 => CreateMode::Ephemeral,
        2 => CreateMode::PersistentSequential,
        3 => CreateMode::EphemeralSequential,
        4 => CreateMode::Container,
        5 => CreateMode::PersistentWithTtl { ttl_ms },
        6 => CreateMode::PersistentSequentialWithTtl { ttl_ms },
        _ => return Err(RecordError::new(format!("create mode {number}"))),
    })
}

fn password(bytes: &Bytes) -> Result<Password, RecordError> {
    Password::try_from(&bytes[..])
        .map_err(|_| RecordError::new(format!("a password of {} bytes, not 16", bytes.len())))
}

pub(crate) fn node(id: u64) -> Result<NodeId, RecordError> {
    NodeId::new(id).ok_or_else(|| RecordError::new("node id 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_op() -> Vec<Op> {
        let acl = vec![Acl::new(Permissions::READ, AuthId::new("ip", "10.0.0.0/8"))];
        let node = NodeId::new(3).unwrap();
        let create = |mode, acl| Op::Create {
            path: "/a".into(),
            data: Bytes::from_static(b"data"),
            acl,
            mode,
        };
        vec![
            create(CreateMode::Persistent, Acl::open()),
            create(CreateMode::Ephemeral, acl.clone()),
            create(CreateMode::PersistentSequential, vec![]),
            create(CreateMode::EphemeralSequential, Acl::creator_all()),
            create(CreateMode::Container, Acl::open()),
            create(CreateMode::PersistentWithTtl { ttl_ms: 5 }, Acl::open()),
            create(
                CreateMode::PersistentSequentialWithTtl { ttl_ms: -1 },
                Acl::open(),
            ),
            Op::Delete {
                path: "/a".into(),
                version: Version::ANY,
            },
            Op::SetData {
                path: "/a".into(),
                data: Bytes::new(),
                version: Version(7),
            },
            Op::SetAcl {
                path: "/a".into(),
                acl,
                version: Version(i32::MAX),
            },
            Op::Multi(vec![
                Op::Check {
                    path: "/a".into(),
                    version: Version(1),
                },
                Op::Delete {
                    path: "/b".into(),
                    version: Version(0),
                },
            ]),
            Op::OpenSession {
                password: [7; 16],
                timeout_ms: 9,
                owner: node,
            },
            Op::AttachSession {
                password: [8; 16],
                timeout_ms: 9,
                owner: node,
                nonce: u64::MAX,
            },
            Op::CloseSession,
            Op::AddAuth(AuthId::digest("u", "p")),
            Op::ExpireSession {
                session: SessionId(i64::MAX),
                attachment: 7,
            },
            Op::Reap {
                path: "/c".into(),
                czxid: Zxid(u64::MAX),
            },
        ]
    }

    #[test]
    fn every_op_reads_back_as_it_was_written() {
        for op in every_op() {
            assert_eq!(decode_op(&encode_op(&op)), Ok(op));
        }
    }

    #[test]
    fn cut_and_flipped_bytes_are_refused_or_read_as_something_valid() {
        for op in every_op() {
            let bytes = encode_op(&op);
            for cut in 0..bytes.len() {
                let _ = decode_op(&bytes.slice(..cut));
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = decode_op(&Bytes::from(flipped));
            }
        }
    }

    #[test]
    fn a_multi_in_a_multi_is_refused_however_deep() {
        // OpRecord.multi is field 6, MultiRecord.ops field 1: each level adds two headers.
        fn wrap(tag: u8, inner: &[u8]) -> Vec<u8> {
            let mut outer = vec![tag];
            let mut output = protobuf::CodedOutputStream::vec(&mut outer);
            output.write_bytes_no_tag(inner).unwrap();
            output.flush().unwrap();
            drop(output);
            outer
        }
        let mut bytes = vec![];
        for _ in 0..2_000 {
            bytes = wrap(0x32, &wrap(0x0a, &bytes));
        }
        assert!(decode_op(&Bytes::from(bytes)).is_err());
    }

    #[test]
    fn five_million_nested_unknown_groups_give_an_error_not_an_overflow() {
        // RUSTSEC-2024-0437: field 100, wire type 3 (start group), over and over.
        let mut bytes = Vec::with_capacity(10_000_000);
        for _ in 0..5_000_000 {
            bytes.extend_from_slice(&[0xa3, 0x06]);
        }
        assert!(decode_op(&Bytes::from(bytes)).is_err());
    }
}

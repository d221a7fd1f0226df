//! What clients ask for: every record of ZooKeeper's `zookeeper.jute` that comes from a client.

use std::borrow::Cow;

use super::{Malformed, Reader};
use crate::{Acl, AuthId, CreateMode, Permissions, Version, WatchKind};

/// The numbers of operations (`ZooDefs.OpCode`) that a client may send.
pub(crate) struct Opcode;

#[allow(non_upper_case_globals, reason = "ZooKeeper's names")]
impl Opcode {
    pub(crate) const create: i32 = 1;
    pub(crate) const delete: i32 = 2;
    pub(crate) const exists: i32 = 3;
    pub(crate) const getData: i32 = 4;
    pub(crate) const setData: i32 = 5;
    pub(crate) const getACL: i32 = 6;
    pub(crate) const setACL: i32 = 7;
    pub(crate) const getChildren: i32 = 8;
    pub(crate) const sync: i32 = 9;
    pub(crate) const ping: i32 = 11;
    pub(crate) const getChildren2: i32 = 12;
    pub(crate) const check: i32 = 13;
    pub(crate) const multi: i32 = 14;
    pub(crate) const create2: i32 = 15;
    pub(crate) const reconfig: i32 = 16;
    pub(crate) const checkWatches: i32 = 17;
    pub(crate) const removeWatches: i32 = 18;
    pub(crate) const createContainer: i32 = 19;
    pub(crate) const deleteContainer: i32 = 20;
    pub(crate) const createTTL: i32 = 21;
    pub(crate) const multiRead: i32 = 22;
    pub(crate) const auth: i32 = 100;
    pub(crate) const setWatches: i32 = 101;
    pub(crate) const sasl: i32 = 102;
    pub(crate) const getEphemerals: i32 = 103;
    pub(crate) const getAllChildrenNumber: i32 = 104;
    pub(crate) const setWatches2: i32 = 105;
    pub(crate) const addWatch: i32 = 106;
    pub(crate) const whoAmI: i32 = 107;
    pub(crate) const closeSession: i32 = -11;
    pub(crate) const error: i32 = -1;
}

/// The first record of a connection (`ConnectRequest`).
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Connect<'a> {
    pub last_zxid_seen: i64,
    pub timeout_ms: i32,
    /// 0 asks for a new session.
    pub session: i64,
    pub password: &'a [u8],
    /// Whether the client would be content with a server without a quorum. Clients before 3.4 don't say.
    pub read_only: Option<bool>,
}

impl<'a> Connect<'a> {
    pub(crate) fn decode(frame: &'a [u8]) -> Result<Connect<'a>, Malformed> {
        let mut reader = Reader::new(frame);
        let _protocol_version = reader.int()?;
        Ok(Connect {
            last_zxid_seen: reader.long()?,
            timeout_ms: reader.int()?,
            session: reader.long()?,
            password: reader.buffer()?,
            read_only: (!reader.is_empty()).then(|| reader.bool()).transpose()?,
        })
    }
}

/// What is before each request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RequestHeader {
    pub xid: i32,
    pub opcode: i32,
}

impl RequestHeader {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<RequestHeader, Malformed> {
        Ok(RequestHeader {
            xid: reader.int()?,
            opcode: reader.int()?,
        })
    }
}

type Text<'a> = Cow<'a, str>;

/// A znode to be created.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Create<'a> {
    pub path: Text<'a>,
    pub data: &'a [u8],
    pub acl: Vec<Acl>,
    /// One that is refused in its turn, where the flags are none or the time to live doesn't go with them.
    pub mode: CreateMode,
}

/// A read of one znode.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Read<'a> {
    pub path: Text<'a>,
    pub watch: bool,
}

/// One operation of a multi.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum MultiOp<'a> {
    /// With whether its result has the stat.
    Create(Create<'a>, bool),
    Delete(Text<'a>, Version),
    Set(Text<'a>, &'a [u8], Version),
    Check(Text<'a>, Version),
}

/// Watches that a client had before it reconnected, by their kinds.
#[derive(PartialEq, Eq, Debug, Default)]
pub(crate) struct Paths<'a> {
    pub data: Vec<Text<'a>>,
    pub exist: Vec<Text<'a>>,
    pub children: Vec<Text<'a>>,
    pub persistent: Vec<Text<'a>>,
    pub recursive: Vec<Text<'a>>,
}

/// Which watches on a path are meant (`WatcherType`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    One(WatchKind),
    Any,
}

/// A request, decoded.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Request<'a> {
    Create {
        create: Create<'a>,
        with_stat: bool,
    },
    Delete(Text<'a>, Version),
    Exists(Read<'a>),
    GetData(Read<'a>),
    SetData(Text<'a>, &'a [u8], Version),
    GetAcl(Text<'a>),
    SetAcl(Text<'a>, Vec<Acl>, Version),
    GetChildren {
        read: Read<'a>,
        with_stat: bool,
    },
    Sync(Text<'a>),
    Ping,
    Multi(Vec<MultiOp<'a>>),
    MultiRead(Vec<crate::Read>),
    /// Joining, leaving and all new members, and the version to begin from.
    Reconfig {
        joining: Text<'a>,
        leaving: Text<'a>,
        members: Text<'a>,
        from: i64,
    },
    CheckWatches(Text<'a>, Scope),
    RemoveWatches(Text<'a>, Scope),
    Auth {
        scheme: Text<'a>,
        token: &'a [u8],
    },
    SetWatches(i64, Paths<'a>),
    Sasl,
    GetEphemerals(Text<'a>),
    GetAllChildrenNumber(Text<'a>),
    AddWatch(Text<'a>, WatchKind),
    WhoAmI,
    CloseSession,
    /// A check outside of a multi, or an operation between servers.
    Refused,
    /// There is no such operation.
    Unknown,
}

impl<'a> Request<'a> {
    /// Decodes what follows the header.
    pub(crate) fn decode(opcode: i32, reader: &mut Reader<'a>) -> Result<Request<'a>, Malformed> {
        Ok(match opcode {
            Opcode::create => Request::Create {
                create: create(opcode, reader)?,
                with_stat: false,
            },
            Opcode::create2 | Opcode::createContainer | Opcode::createTTL => Request::Create {
                create: create(opcode, reader)?,
                with_stat: true,
            },
            Opcode::delete => Request::Delete(reader.string()?, version(reader)?),
            Opcode::exists => Request::Exists(read(reader)?),
            Opcode::getData => Request::GetData(read(reader)?),
            Opcode::setData => {
                Request::SetData(reader.string()?, reader.buffer()?, version(reader)?)
            }
            Opcode::getACL => Request::GetAcl(reader.string()?),
            Opcode::setACL => Request::SetAcl(reader.string()?, acl(reader)?, version(reader)?),
            Opcode::getChildren | Opcode::getChildren2 => Request::GetChildren {
                read: read(reader)?,
                with_stat: opcode == Opcode::getChildren2,
            },
            Opcode::sync => Request::Sync(reader.string()?),
            Opcode::ping => Request::Ping,
            Opcode::multi => Request::Multi(multi(reader)?),
            Opcode::multiRead => Request::MultiRead(multi_read(reader)?),
            Opcode::reconfig => Request::Reconfig {
                joining: reader.string()?,
                leaving: reader.string()?,
                members: reader.string()?,
                from: reader.long()?,
            },
            Opcode::checkWatches => Request::CheckWatches(reader.string()?, scope(reader)?),
            Opcode::removeWatches => Request::RemoveWatches(reader.string()?, scope(reader)?),
            Opcode::auth => {
                let _type = reader.int()?;
                Request::Auth {
                    scheme: reader.string()?,
                    token: reader.buffer()?,
                }
            }
            Opcode::setWatches | Opcode::setWatches2 => {
                let since = reader.long()?;
                let mut watches = Paths {
                    data: paths(reader)?,
                    exist: paths(reader)?,
                    children: paths(reader)?,
                    ..Paths::default()
                };
                if opcode == Opcode::setWatches2 {
                    watches.persistent = paths(reader)?;
                    watches.recursive = paths(reader)?;
                }
                Request::SetWatches(since, watches)
            }
            Opcode::sasl => Request::Sasl,
            Opcode::getEphemerals => Request::GetEphemerals(reader.string()?),
            Opcode::getAllChildrenNumber => Request::GetAllChildrenNumber(reader.string()?),
            Opcode::addWatch => Request::AddWatch(
                reader.string()?,
                match reader.int()? {
                    0 => WatchKind::Persistent,
                    1 => WatchKind::PersistentRecursive,
                    _ => return Err(Malformed("a mode of watches that there isn't")),
                },
            ),
            Opcode::whoAmI => Request::WhoAmI,
            Opcode::closeSession => Request::CloseSession,
            Opcode::check | Opcode::deleteContainer => Request::Refused,
            _ => Request::Unknown,
        })
    }
}

fn version(reader: &mut Reader<'_>) -> Result<Version, Malformed> {
    reader.int().map(Version)
}

fn read<'a>(reader: &mut Reader<'a>) -> Result<Read<'a>, Malformed> {
    Ok(Read {
        path: reader.string()?,
        watch: reader.bool()?,
    })
}

fn create<'a>(opcode: i32, reader: &mut Reader<'a>) -> Result<Create<'a>, Malformed> {
    let (path, data) = (reader.string()?, reader.buffer()?);
    let (acl, flags) = (acl(reader)?, reader.int()?);
    let flags = match opcode {
        // ZooKeeper looks at the flags, and then makes a container whatever they are but sequential.
        Opcode::createContainer if (0..2).contains(&flags) => 4,
        _ => flags,
    };
    let ttl_ms = match opcode {
        Opcode::createTTL => reader.long()?,
        _ => -1,
    };
    Ok(Create {
        path,
        data,
        acl,
        mode: mode(flags, ttl_ms),
    })
}

/// `CreateMode.fromFlag` and `EphemeralType.validateTTL`; whether a time to live is in its range is for
/// the state machine to say.
fn mode(flags: i32, ttl_ms: i64) -> CreateMode {
    const REFUSED: CreateMode = CreateMode::PersistentWithTtl { ttl_ms: 0 };
    let mode = match flags {
        0 => CreateMode::Persistent,
        1 => CreateMode::Ephemeral,
        2 => CreateMode::PersistentSequential,
        3 => CreateMode::EphemeralSequential,
        4 => CreateMode::Container,
        5 => CreateMode::PersistentWithTtl { ttl_ms },
        6 => CreateMode::PersistentSequentialWithTtl { ttl_ms },
        _ => REFUSED,
    };
    if mode.ttl_ms().is_none() && ttl_ms >= 0 {
        return REFUSED;
    }
    mode
}

fn acl(reader: &mut Reader<'_>) -> Result<Vec<Acl>, Malformed> {
    let count = reader.list(12)?;
    let mut acl = Vec::with_capacity(count);
    for _ in 0..count {
        let permissions = Permissions(reader.int()? as u32);
        let id = AuthId::new(reader.string()?, reader.string()?);
        acl.push(Acl::new(permissions, id));
    }
    Ok(acl)
}

fn paths<'a>(reader: &mut Reader<'a>) -> Result<Vec<Text<'a>>, Malformed> {
    let count = reader.list(4)?;
    (0..count).map(|_| reader.string()).collect()
}

fn scope(reader: &mut Reader<'_>) -> Result<Scope, Malformed> {
    Ok(match reader.int()? {
        1 => Scope::One(WatchKind::Children),
        2 => Scope::One(WatchKind::Data),
        3 => Scope::Any,
        4 => Scope::One(WatchKind::Persistent),
        5 => Scope::One(WatchKind::PersistentRecursive),
        _ => return Err(Malformed("a type of watches that there isn't")),
    })
}

/// `MultiHeader`: what comes next, or that nothing does.
fn multi_header(reader: &mut Reader<'_>) -> Result<Option<i32>, Malformed> {
    let opcode = reader.int()?;
    let done = reader.bool()?;
    let _error = reader.int()?;
    Ok((!done).then_some(opcode))
}

fn multi<'a>(reader: &mut Reader<'a>) -> Result<Vec<MultiOp<'a>>, Malformed> {
    let mut ops = Vec::new();
    while let Some(opcode) = multi_header(reader)? {
        ops.push(match opcode {
            Opcode::create | Opcode::create2 | Opcode::createContainer | Opcode::createTTL => {
                let create = create(opcode, reader)?;
                // Not by its opcode but by its mode, as in ZooKeeper's `Op.Create`.
                let with_stat =
                    create.mode == CreateMode::Container || create.mode.ttl_ms().is_some();
                MultiOp::Create(create, with_stat)
            }
            Opcode::delete => MultiOp::Delete(reader.string()?, version(reader)?),
            Opcode::setData => MultiOp::Set(reader.string()?, reader.buffer()?, version(reader)?),
            Opcode::check => MultiOp::Check(reader.string()?, version(reader)?),
            _ => return Err(Malformed("an operation that can't be in a multi")),
        });
    }
    Ok(ops)
}

fn multi_read(reader: &mut Reader<'_>) -> Result<Vec<crate::Read>, Malformed> {
    let mut reads = Vec::new();
    while let Some(opcode) = multi_header(reader)? {
        let path = read(reader)?.path.into_owned();
        reads.push(match opcode {
            Opcode::getData => crate::Read::Data(path),
            Opcode::getChildren => crate::Read::Children(path),
            _ => return Err(Malformed("an operation that can't be in a multiRead")),
        });
    }
    Ok(reads)
}

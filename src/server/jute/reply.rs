//! What clients are told.

use super::{Opcode, TooLong, Writer};
use crate::{Error, EventKind, OpResult, WatchEvent, Zxid};

/// What is before each reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReplyHeader {
    pub xid: i32,
    pub zxid: Zxid,
    pub error: i32,
}

impl ReplyHeader {
    /// A reply, whose body is empty where there is an error.
    pub(crate) fn frame(self, out: &mut Vec<u8>, body: &[u8]) -> Result<(), TooLong> {
        Writer::frame(out, |writer| {
            writer.int(self.xid);
            writer.long(self.zxid.0 as i64);
            writer.int(self.error);
            if self.error == 0 {
                writer.raw(body);
            }
        })
    }
}

/// The answer to the first record (`ConnectResponse`). Session 0 with timeout 0: there is no such
/// session.
pub(crate) fn connect_response(
    out: &mut Vec<u8>,
    identity: (i64, &[u8; 16]),
    timeout_ms: i32,
    says_read_only: bool,
) -> Result<(), TooLong> {
    let read_only = says_read_only.then_some(false);
    welcome(out, identity, timeout_ms, read_only)
}

/// [`connect_response`] of a server without a quorum, to a client that is content with it.
pub(crate) fn read_only_response(
    out: &mut Vec<u8>,
    identity: (i64, &[u8; 16]),
    timeout_ms: i32,
) -> Result<(), TooLong> {
    welcome(out, identity, timeout_ms, Some(true))
}

fn welcome(
    out: &mut Vec<u8>,
    (session, password): (i64, &[u8; 16]),
    timeout_ms: i32,
    read_only: Option<bool>,
) -> Result<(), TooLong> {
    Writer::frame(out, |writer| {
        writer.int(0);
        writer.int(timeout_ms);
        writer.long(session);
        writer.buffer(password);
        if let Some(read_only) = read_only {
            writer.bool(read_only);
        }
    })
}

/// A watch has fired (`WatcherEvent`).
pub(crate) fn watcher_event(out: &mut Vec<u8>, event: &WatchEvent) -> Result<(), TooLong> {
    const XID: i32 = -1;
    const SYNC_CONNECTED: i32 = 3;
    Writer::frame(out, |writer| {
        writer.int(XID);
        writer.long(event.zxid.0 as i64);
        writer.int(0);
        writer.int(match event.kind {
            EventKind::NodeCreated => 1,
            EventKind::NodeDeleted => 2,
            EventKind::NodeDataChanged => 3,
            EventKind::NodeChildrenChanged => 4,
        });
        writer.int(SYNC_CONNECTED);
        writer.string(event.path.as_str());
    })
}

/// The results of a multi or a multiRead (`MultiResponse`).
pub(crate) struct MultiOutcome<'a, 'b>(pub &'a mut Writer<'b>);

impl MultiOutcome<'_, '_> {
    fn header(&mut self, opcode: i32, done: bool, error: i32) {
        self.0.int(opcode);
        self.0.bool(done);
        self.0.int(error);
    }

    pub(crate) fn result(&mut self, result: &OpResult, with_stat: bool) {
        match result {
            OpResult::Created { path, stat } => {
                let opcode = if with_stat {
                    Opcode::create2
                } else {
                    Opcode::create
                };
                self.header(opcode, false, 0);
                self.0.string(path);
                if with_stat {
                    self.0.stat(stat);
                }
            }
            OpResult::Deleted => self.header(Opcode::delete, false, 0),
            OpResult::DataSet(stat) => {
                self.header(Opcode::setData, false, 0);
                self.0.stat(stat);
            }
            OpResult::Checked => self.header(Opcode::check, false, 0),
            other => unreachable!("{other:?} is no result within a multi"),
        }
    }

    pub(crate) fn read(&mut self, answer: &crate::Result<crate::ReadAnswer>) {
        match answer {
            Ok(crate::ReadAnswer::Data(data, stat)) => {
                self.header(Opcode::getData, false, 0);
                self.0.buffer(data);
                self.0.stat(stat);
            }
            Ok(crate::ReadAnswer::Children(children, _)) => {
                self.header(Opcode::getChildren, false, 0);
                self.0.count(children.len());
                for name in children.iter() {
                    self.0.string(name);
                }
            }
            Err(error) => self.error(super::reply::code_of_read(error)),
        }
    }

    pub(crate) fn error(&mut self, code: i32) {
        self.header(Opcode::error, false, code);
        self.0.int(code);
    }

    /// What came of a multi of `count` operations of which `index` failed.
    pub(crate) fn failed(&mut self, count: usize, index: usize, error: &Error) {
        for at in 0..count {
            self.error(match at.cmp(&index) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => error.code(),
                std::cmp::Ordering::Greater => Error::RuntimeInconsistency.code(),
            });
        }
    }

    pub(crate) fn end(&mut self) {
        self.header(-1, true, -1);
    }
}

/// A read doesn't ask whether a path is one: there is no znode at what is none.
pub(crate) fn code_of_read(error: &Error) -> i32 {
    match error {
        Error::InvalidPath { path, .. } => Error::NoNode { path: path.clone() }.code(),
        other => other.code(),
    }
}

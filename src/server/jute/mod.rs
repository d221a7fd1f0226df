//! jute: how ZooKeeper writes its records down. Big-endian numbers, lengths before bytes, nothing else.
//!
//! Pure: bytes in, records out, and back. It knows no socket and no session. Whatever the bytes are,
//! decoding ends without a panic, and takes no more memory than a small multiple of their length.

mod reader;
mod reply;
mod request;
mod writer;

pub(super) use reader::{Malformed, Reader};
pub(super) use reply::{
    MultiOutcome, ReplyHeader, code_of_read, connect_response, read_only_response, watcher_event,
};
pub(super) use request::{
    Connect, Create, MultiOp, Opcode, Paths, Read, Request, RequestHeader, Scope,
};
pub(super) use writer::Writer;

#[cfg(test)]
mod golden;

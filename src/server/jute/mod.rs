//! jute: how ZooKeeper writes its records down. Big-endian numbers, lengths before bytes, nothing else.
//!
//! Pure: bytes in, records out, and back. It knows no socket and no session. Whatever the bytes are,
//! decoding ends without a panic, and allocates no more than `DECODED_BYTES_MAX` says.

/// How many bytes are allocated to decode one byte of a frame, all counted together, beside a kibibyte for the
/// first elements of lists. Watches on paths that are empty are the greediest: four bytes become 24.
#[cfg(any(test, feature = "testing"))]
pub(crate) const DECODED_BYTES_MAX: usize = 8;

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
pub(super) use writer::{TooLong, Writer};

#[cfg(test)]
mod golden;

/// Whether a frame means anything, as a first record or as a request. For those who feed it with bytes.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn is_understood(frame: &[u8]) -> bool {
    let mut reader = Reader::new(frame);
    let is_request = RequestHeader::decode(&mut reader)
        .and_then(|header| Request::decode(header.opcode, &mut reader))
        .is_ok();
    Connect::decode(frame).is_ok() | is_request
}

/// The recorded requests of ZooKeeper's own classes, by name.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn recorded_requests() -> Vec<(&'static str, Vec<u8>)> {
    let hexadecimal = |hex: &str| {
        let bytes = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16));
        bytes.map(|byte| byte.expect("hexadecimal")).collect()
    };
    let named = include_str!("golden.txt").lines();
    named
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| !name.is_empty() && !is_no_request(name))
        .map(|(name, hex)| (name, hexadecimal(hex)))
        .collect()
}

/// What a server says, and what nobody understands.
#[cfg(any(test, feature = "testing"))]
fn is_no_request(name: &str) -> bool {
    name.starts_with("reply") || name.starts_with("bad") || name == "event"
}

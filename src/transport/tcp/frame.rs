//! What follows the handshake on a connection: messages, signs of life, addresses.
//!
//! It knows bytes and no socket. The invariant: what is kept of an unfinished frame is what has really
//! arrived of it, and never more than the largest message.
//!
//! | bytes | a sign of life | | addresses |
//! |---|---|---|---|
//! | 4 | `QRTB` | 4 | `QRTA` |
//! | | | 4 | the length of the entries |
//! | | | 4 | their CRC-32 |
//! | | | | for each: 8 the node, 1 + n its address |

use crate::NodeId;
use crate::transport::Message;

pub(super) const BEAT: [u8; 4] = *b"QRTB";
const ADDRESSES: [u8; 4] = *b"QRTA";
/// The longest list of addresses, in bytes.
const ADDRESSES_BYTES_MAX: usize = 512 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEPT_BYTES: usize = 64 * 1024;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Message(Message),
    Beat,
    Addresses(Vec<(NodeId, String)>),
}

/// Puts frames together from what arrives.
#[derive(Default, Debug)]
pub(super) struct Assembler {
    unfinished: Vec<u8>,
}

impl Assembler {
    /// Takes what has arrived and gives out each frame that is whole by now. An error ends the
    /// connection: what follows can't be told apart any more.
    pub(super) fn feed(
        &mut self,
        arrived: &[u8],
        mut give: impl FnMut(Frame) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.unfinished.is_empty() {
            let used = each_frame(arrived, &mut give)?;
            self.unfinished.extend_from_slice(&arrived[used..]);
            return Ok(());
        }
        self.unfinished.extend_from_slice(arrived);
        let used = each_frame(&self.unfinished, &mut give)?;
        self.unfinished.drain(..used);
        if self.unfinished.is_empty() && self.unfinished.capacity() > KEPT_BYTES {
            self.unfinished = Vec::new();
        }
        Ok(())
    }

    /// What the handshake is read from.
    pub(super) fn unfinished(&mut self) -> &mut Vec<u8> {
        &mut self.unfinished
    }
}

fn each_frame(
    bytes: &[u8],
    give: &mut impl FnMut(Frame) -> Result<(), String>,
) -> Result<usize, String> {
    let mut used = 0;
    while let Some((frame, length)) = decode(&bytes[used..])? {
        give(frame)?;
        used += length;
    }
    Ok(used)
}

/// The frame at the beginning of `bytes` and its length; `None` while more is to come.
fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    if bytes.len() < 4 {
        return Ok(None);
    }
    if bytes.starts_with(&BEAT) {
        return Ok(Some((Frame::Beat, BEAT.len())));
    }
    if bytes.starts_with(&ADDRESSES) {
        return decode_addresses(bytes);
    }
    let length = Message::announced_len(bytes).map_err(|error| error.to_string())?;
    let Some(whole) = length.and_then(|length| bytes.get(..length)) else {
        return Ok(None);
    };
    let message = Message::decode(whole).map_err(|error| error.to_string())?;
    Ok(Some((Frame::Message(message), whole.len())))
}

fn decode_addresses(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    let (Some(length), Some(checksum)) = (number(bytes, 4), number(bytes, 8)) else {
        return Ok(None);
    };
    let length = length as usize;
    if length > ADDRESSES_BYTES_MAX {
        return Err(format!("a list of addresses of {length} bytes"));
    }
    let Some(mut entries) = bytes.get(12..12 + length) else {
        return Ok(None);
    };
    if crc32fast::hash(entries) != checksum {
        return Err("a list of addresses has a wrong checksum".to_owned());
    }
    let mut addresses = Vec::new();
    while !entries.is_empty() {
        let (address, rest) = decode_address(entries).ok_or("a list of addresses is malformed")?;
        addresses.push(address);
        entries = rest;
    }
    Ok(Some((Frame::Addresses(addresses), 12 + length)))
}

fn decode_address(bytes: &[u8]) -> Option<((NodeId, String), &[u8])> {
    let (node, rest) = bytes.split_at_checked(8)?;
    let node = NodeId::new(u64::from_be_bytes(node.try_into().ok()?))?;
    let (&length, rest) = rest.split_first()?;
    let (address, rest) = rest.split_at_checked(usize::from(length))?;
    let address = std::str::from_utf8(address).ok()?;
    (!address.chars().any(char::is_control)).then(|| ((node, address.to_owned()), rest))
}

/// A list of addresses as a frame. What doesn't fit is left out.
pub(super) fn encode_addresses(addresses: &[(NodeId, String)]) -> Vec<u8> {
    let mut entries = Vec::new();
    for (node, address) in addresses {
        if let Ok(length) = u8::try_from(address.len())
            && entries.len() + 9 + address.len() <= ADDRESSES_BYTES_MAX
        {
            entries.extend_from_slice(&node.as_u64().to_be_bytes());
            entries.push(length);
            entries.extend_from_slice(address.as_bytes());
        }
    }
    let mut frame = ADDRESSES.to_vec();
    frame.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32fast::hash(&entries).to_be_bytes());
    frame.extend_from_slice(&entries);
    frame
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterId;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn message(length: usize) -> Message {
        Message::new(ClusterId(1), node(1), node(2), vec![7; length])
    }

    fn frames(assembler: &mut Assembler, bytes: &[u8]) -> Result<Vec<Frame>, String> {
        let mut frames = Vec::new();
        assembler.feed(bytes, |frame| {
            frames.push(frame);
            Ok(())
        })?;
        Ok(frames)
    }

    #[test]
    fn frames_are_put_together_however_they_are_cut() {
        let addresses = vec![(node(3), "three:1".to_owned()), (node(4), String::new())];
        let mut stream = Vec::new();
        message(300).encode_into(&mut stream);
        stream.extend_from_slice(&BEAT);
        stream.extend_from_slice(&encode_addresses(&addresses));
        message(0).encode_into(&mut stream);
        let expected = [
            Frame::Message(message(300)),
            Frame::Beat,
            Frame::Addresses(addresses),
            Frame::Message(message(0)),
        ];
        let mut random = StdRng::seed_from_u64(1);
        for longest in [1, 2, 7, 50, 1000] {
            let (mut assembler, mut found, mut at) = (Assembler::default(), Vec::new(), 0);
            while at < stream.len() {
                let end = stream.len().min(at + random.gen_range(1..=longest));
                found.extend(frames(&mut assembler, &stream[at..end]).unwrap());
                at = end;
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn flipped_bits_end_the_connection_or_wait_for_more() {
        let mut stream = encode_addresses(&[(node(3), "three:1".to_owned())]);
        message(20).encode_into(&mut stream);
        for bit in 0..stream.len() * 8 {
            let mut flipped = stream.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(found) = frames(&mut Assembler::default(), &flipped) {
                assert!(found.len() < 2, "bit {bit}");
            }
        }
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let mut assembler = Assembler::default();
        let largest = message(crate::transport::MESSAGE_BYTES_MAX - 38).encode();
        assert_eq!(frames(&mut assembler, &largest[..100]), Ok(Vec::new()));
        assert!(assembler.unfinished.capacity() < 4096);
        assert_eq!(frames(&mut assembler, &largest[100..]).unwrap().len(), 1);
        assert!(assembler.unfinished.capacity() <= KEPT_BYTES);
        let mut over = largest.to_vec();
        over[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(frames(&mut assembler, &over[..100]).is_err());
        let mut many = encode_addresses(&[]);
        many[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(frames(&mut Assembler::default(), &many).is_err());
    }
}

//! The first words on a connection: who dials whom, and whether that is welcome.
//!
//! It knows bytes and no socket. The invariant: its first eight bytes mean the same in every version, so
//! that each version can tell every other that it is refused, and why.
//!
//! | bytes | the dialler's hello | bytes | the answer |
//! |---|---|---|---|
//! | 4 | `QRTH` | 4 | `QRTW` |
//! | 2 | the length of all | 2 | the length of all |
//! | 2 | the oldest version spoken | 2 | the version to be spoken, 0 if none |
//! | 2 | the newest version spoken | 1 | 0 for welcome, else a [`Refusal`] |
//! | 8 | the cluster, 0 if unknown | 8 | the cluster, 0 if unknown |
//! | 8 | the dialler | 8 | who answers |
//! | 8 | who is dialled | 2 + n | what is wrong, in words |
//! | 1 | 0 urgent, 1 bulk | 4 | the CRC-32 of all the others |
//! | 2 + n | where the dialler listens | | |
//! | 4 | the CRC-32 of all the others | | |
//!
//! Every number is big-endian.

use crate::transport::{Lane, Local};
use crate::{ClusterId, NodeId};

/// The version of the peer protocol, and the oldest that this program still speaks.
pub(super) const VERSION: u16 = 1;
pub(super) const OLDEST_VERSION: u16 = 1;

/// The longest text in a hello or an answer, in bytes.
pub(super) const TEXT_BYTES_MAX: usize = 255;
/// No hello and no answer, of any version, is longer.
const LENGTH_MAX: usize = 1024;
/// Magic number, length and version.
const PREFIX_BYTES: usize = 8;
const HELLO: [u8; 4] = *b"QRTH";
const ANSWER: [u8; 4] = *b"QRTW";

/// What a dialler says first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub local: Local,
    pub to: NodeId,
    pub lane: Lane,
    /// Where the dialler listens; without a host it is the one that it dials from.
    pub address: String,
}

/// What the dialled node answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub local: Local,
    /// Why not, where it doesn't welcome the dialler.
    pub refusal: Option<(Refusal, String)>,
}

/// Why a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// No version of the protocol is spoken by both.
    Version,
    /// The dialler is of another cluster.
    Cluster,
    /// The dialler wanted another node.
    Receiver,
    /// The dialler calls itself by the id of the node that it dialled.
    Sender,
    /// The dialler's certificate is not for its id.
    Certificate,
    /// The dialler is not among the known peers, and strangers aren't taken.
    Unknown,
    /// There are too many connections.
    Crowded,
    /// The dialler knows no cluster, and a member of its id is connected.
    Twin,
    /// One that a newer version knows.
    Other,
}

impl Refusal {
    const ALL: [Refusal; 9] = [
        Refusal::Version,
        Refusal::Cluster,
        Refusal::Receiver,
        Refusal::Sender,
        Refusal::Certificate,
        Refusal::Unknown,
        Refusal::Crowded,
        Refusal::Twin,
        Refusal::Other,
    ];

    fn code(self) -> u8 {
        let at = Refusal::ALL.iter().position(|refusal| *refusal == self);
        at.map_or(u8::MAX, |at| at as u8 + 1)
    }

    fn from_code(code: u8) -> Refusal {
        let known = Refusal::ALL.get(usize::from(code) - 1);
        known.copied().unwrap_or(Refusal::Other)
    }
}

/// Why bytes are no hello, or no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("{0}")]
    Malformed(&'static str),
    #[error(
        "it speaks versions {oldest} to {newest} of the peer protocol, this node {OLDEST_VERSION} to {VERSION}"
    )]
    Version { oldest: u16, newest: u16 },
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = begin(HELLO, OLDEST_VERSION);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.local.cluster.0.to_be_bytes());
        bytes.extend_from_slice(&self.local.node.as_u64().to_be_bytes());
        bytes.extend_from_slice(&self.to.as_u64().to_be_bytes());
        bytes.push(u8::from(self.lane == Lane::Bulk));
        end(bytes, &self.address)
    }

    /// The hello at the beginning of `bytes` and its length; `None` while more is to come.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Hello, usize)>, Unreadable> {
        let Some(mut fields) = Fields::begin(HELLO, bytes)? else {
            return Ok(None);
        };
        let (oldest, newest) = (fields.u16()?, fields.u16()?);
        if oldest > VERSION || newest < OLDEST_VERSION {
            return Err(Unreadable::Version { oldest, newest });
        }
        let local = fields.local()?;
        let to = fields.node()?;
        let lane = match fields.u8()? {
            0 => Lane::Urgent,
            1 => Lane::Bulk,
            _ => return Err(Unreadable::Malformed("an unknown lane")),
        };
        let address = fields.text()?;
        let length = fields.end()?;
        Ok(Some((
            Hello {
                local,
                to,
                lane,
                address,
            },
            length,
        )))
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (version, code, text) = match &self.refusal {
            None => (VERSION, 0, ""),
            Some((refusal, text)) => (0, refusal.code(), text.as_str()),
        };
        let mut bytes = begin(ANSWER, version);
        bytes.push(code);
        bytes.extend_from_slice(&self.local.cluster.0.to_be_bytes());
        bytes.extend_from_slice(&self.local.node.as_u64().to_be_bytes());
        end(bytes, text)
    }

    /// The answer at the beginning of `bytes` and its length; `None` while more is to come.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Answer, usize)>, Unreadable> {
        let Some(mut fields) = Fields::begin(ANSWER, bytes)? else {
            return Ok(None);
        };
        let version = fields.u16()?;
        let code = fields.u8()?;
        if code == 0 && !(OLDEST_VERSION..=VERSION).contains(&version) {
            let (oldest, newest) = (version, version);
            return Err(Unreadable::Version { oldest, newest });
        }
        let local = fields.local()?;
        let text = fields.text()?;
        let length = fields.end()?;
        let refusal = (code != 0).then(|| (Refusal::from_code(code), text));
        Ok(Some((Answer { local, refusal }, length)))
    }
}

fn begin(magic: [u8; 4], version: u16) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&magic);
    // The length is known at the end.
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&version.to_be_bytes());
    bytes
}

fn end(mut bytes: Vec<u8>, text: &str) -> Vec<u8> {
    let mut length = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    bytes.extend_from_slice(&(length as u16).to_be_bytes());
    bytes.extend_from_slice(&text.as_bytes()[..length]);
    let whole = bytes.len() as u16 + 4;
    bytes[4..6].copy_from_slice(&whole.to_be_bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

/// Reads one field after the other. Those behind the known ones belong to a newer version.
struct Fields<'a> {
    /// All but the checksum.
    bytes: &'a [u8],
    at: usize,
    checksum: u32,
}

impl<'a> Fields<'a> {
    fn begin(magic: [u8; 4], bytes: &'a [u8]) -> Result<Option<Fields<'a>>, Unreadable> {
        let prefix = bytes.len().min(magic.len());
        if bytes[..prefix] != magic[..prefix] {
            return Err(Unreadable::Malformed("the magic number is wrong"));
        }
        if bytes.len() < PREFIX_BYTES {
            return Ok(None);
        }
        let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        if !(PREFIX_BYTES + 4..=LENGTH_MAX).contains(&length) {
            return Err(Unreadable::Malformed("the length is out of range"));
        }
        if bytes.len() < length {
            return Ok(None);
        }
        let (fields, checksum) = bytes[..length].split_at(length - 4);
        let checksum = checksum.try_into().map_or(0, u32::from_be_bytes);
        Ok(Some(Fields {
            bytes: fields,
            at: 6,
            checksum,
        }))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let taken = self.bytes.get(self.at..self.at + count);
        self.at += count;
        taken.ok_or(Unreadable::Malformed("it ends too early"))
    }

    fn u8(&mut self) -> Result<u8, Unreadable> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Unreadable> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u64(&mut self) -> Result<u64, Unreadable> {
        let bytes = self.take(8)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn node(&mut self) -> Result<NodeId, Unreadable> {
        NodeId::new(self.u64()?).ok_or(Unreadable::Malformed("node 0 names nobody"))
    }

    fn local(&mut self) -> Result<Local, Unreadable> {
        Ok(Local {
            cluster: ClusterId(self.u64()?),
            node: self.node()?,
        })
    }

    fn text(&mut self) -> Result<String, Unreadable> {
        let length = usize::from(self.u16()?);
        if length > TEXT_BYTES_MAX {
            return Err(Unreadable::Malformed("a text is too long"));
        }
        let text = std::str::from_utf8(self.take(length)?);
        let text = text.map_err(|_| Unreadable::Malformed("a text is not UTF-8"))?;
        if text.chars().any(char::is_control) {
            return Err(Unreadable::Malformed("a text has control characters"));
        }
        Ok(text.to_owned())
    }

    fn end(self) -> Result<usize, Unreadable> {
        if crc32fast::hash(self.bytes) != self.checksum {
            return Err(Unreadable::Malformed("the checksum is wrong"));
        }
        Ok(self.bytes.len() + 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn hello() -> Hello {
        Hello {
            local: Local {
                cluster: ClusterId(7),
                node: node(1),
            },
            to: node(2),
            lane: Lane::Bulk,
            address: "one.example:7001".to_owned(),
        }
    }

    fn refused() -> Answer {
        Answer {
            local: hello().local,
            refusal: Some((Refusal::Cluster, "another cluster".to_owned())),
        }
    }

    #[test]
    fn what_is_said_is_what_is_heard() {
        let bytes = hello().encode();
        assert_eq!(Hello::decode(&bytes), Ok(Some((hello(), bytes.len()))));
        for refusal in Refusal::ALL {
            let answer = Answer {
                refusal: Some((refusal, "why".to_owned())),
                ..refused()
            };
            let bytes = answer.encode();
            assert_eq!(Answer::decode(&bytes), Ok(Some((answer, bytes.len()))));
        }
        let welcome = Answer {
            refusal: None,
            ..refused()
        };
        let bytes = welcome.encode();
        assert_eq!(Answer::decode(&bytes), Ok(Some((welcome, bytes.len()))));
    }

    #[test]
    fn a_part_waits_for_the_rest_and_a_flipped_bit_is_noticed() {
        for (bytes, decodes) in [
            (
                hello().encode(),
                (|b| Hello::decode(b).map(|h| h.is_some())) as fn(&[u8]) -> _,
            ),
            (refused().encode(), |b| {
                Answer::decode(b).map(|a| a.is_some())
            }),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(decodes(&bytes[..cut]), Ok(false), "{cut} bytes");
            }
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(decodes(&flipped), Ok(true), "bit {bit}");
            }
        }
    }

    #[test]
    fn another_version_is_told_from_garbage() {
        let mut bytes = hello().encode();
        bytes[6..10].copy_from_slice(&[0, 8, 0, 9]);
        let (oldest, newest) = (8, 9);
        assert_eq!(
            Hello::decode(&bytes),
            Err(Unreadable::Version { oldest, newest })
        );
        assert!(matches!(
            Hello::decode(b"GET / HTTP/1.1\r\n"),
            Err(Unreadable::Malformed(_))
        ));
    }

    #[test]
    fn a_long_text_is_cut_where_a_character_ends() {
        let mut long = hello();
        long.address = "é".repeat(200);
        let (heard, _) = Hello::decode(&long.encode()).unwrap().unwrap();
        assert_eq!(heard.address, "é".repeat(127));
    }
}

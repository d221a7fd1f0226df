//! A message in bytes, for transports that need it so.
//!
//! It knows the envelope and not the payload. The invariant: bytes that decode are the bytes of exactly
//! one message, none of them altered on the way, and nothing is allocated for what is refused.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | the magic number `QRTM` |
//! | 2 | the version, 1 |
//! | 4 | the length of the payload |
//! | 8 | the cluster |
//! | 8 | the sender |
//! | 8 | the receiver |
//! | 4 | the CRC-32 of all the others |
//! | | the payload |
//!
//! Every number is big-endian.

use std::fmt;

use bytes::Bytes;

use super::{DecodeError, Lane, MESSAGE_BYTES_MAX, Message};
use crate::{ClusterId, NodeId};

const MAGIC: [u8; 4] = *b"QRTM";
const VERSION: u16 = 1;
/// Where the checksum stands.
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

/// The bytes of a message before its payload.
pub const HEADER_BYTES: usize = 38;

impl Message {
    /// A message of `from` to `to`, both of `cluster`.
    ///
    /// A payload longer than [`MESSAGE_BYTES_MAX`] less [`HEADER_BYTES`] makes a message that no
    /// transport delivers.
    pub fn new(cluster: ClusterId, from: NodeId, to: NodeId, payload: impl Into<Bytes>) -> Message {
        Message {
            cluster,
            from,
            to,
            lane: Lane::Urgent,
            payload: payload.into(),
        }
    }

    /// The same message, on another lane.
    pub fn with_lane(self, lane: Lane) -> Message {
        Message { lane, ..self }
    }

    /// How it may travel: [`Lane::Urgent`], unless its sender said otherwise.
    pub fn lane(&self) -> Lane {
        self.lane
    }

    /// The cluster that both nodes belong to.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The sender.
    pub fn from(&self) -> NodeId {
        self.from
    }

    /// The receiver.
    pub fn to(&self) -> NodeId {
        self.to
    }

    /// What is said.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What is said, without a copy.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The length of [`Message::encode`], in bytes.
    pub fn encoded_len(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The message in bytes.
    ///
    /// ```
    /// use quorate::transport::Message;
    /// use quorate::{ClusterId, NodeId};
    ///
    /// let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
    /// let message = Message::new(ClusterId(7), one, two, "hello");
    /// assert_eq!(Message::decode(&message.encode()), Ok(message));
    /// ```
    pub fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.encoded_len());
        self.encode_into(&mut bytes);
        bytes.into()
    }

    /// Appends the message in bytes to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.reserve(self.encoded_len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        // Longer payloads are refused by whoever decodes this: no message has u32::MAX bytes.
        let length = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&self.cluster.0.to_be_bytes());
        out.extend_from_slice(&self.from.as_u64().to_be_bytes());
        out.extend_from_slice(&self.to.as_u64().to_be_bytes());
        let checksum = checksum(&out[start..], &self.payload);
        out.extend_from_slice(&checksum.to_be_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// The length of the whole message of which `header` is the beginning, in bytes; `None` where
    /// `header` is too short to tell (10 bytes are enough). A stream reads this before it allocates.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] for a message over [`MESSAGE_BYTES_MAX`], [`DecodeError::Malformed`]
    /// for what doesn't begin like a message of this version.
    pub fn announced_len(header: &[u8]) -> Result<Option<usize>, DecodeError> {
        let prefix = header.len().min(MAGIC.len());
        if header[..prefix] != MAGIC[..prefix] {
            return Err(malformed("the magic number is wrong"));
        }
        let (Some(version), Some(length)) = (array(header, 4), array(header, 6)) else {
            return Ok(None);
        };
        let version = u16::from_be_bytes(version);
        if version != VERSION {
            return Err(malformed(&format!(
                "version {version}, this program speaks {VERSION}"
            )));
        }
        let found = u32::from_be_bytes(length) as usize + HEADER_BYTES;
        if found > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLarge {
                found,
                limit: MESSAGE_BYTES_MAX,
            });
        }
        Ok(Some(found))
    }

    /// The message whose bytes these are, all of them.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(DecodeError::TooLarge {
                found: bytes.len(),
                limit: MESSAGE_BYTES_MAX,
            });
        }
        if Message::announced_len(bytes)? != Some(bytes.len()) {
            return Err(malformed(&format!(
                "{} bytes are not what the header announces",
                bytes.len()
            )));
        }
        let (head, payload) = bytes.split_at(HEADER_BYTES);
        let number = |at| array(head, at).map(u64::from_be_bytes);
        let (Some(cluster), Some(from), Some(to), Some(found)) =
            (number(10), number(18), number(26), array(head, CHECKSUM_AT))
        else {
            return Err(malformed("the header is cut off"));
        };
        if u32::from_be_bytes(found) != checksum(&head[..CHECKSUM_AT], payload) {
            return Err(malformed("the checksum is wrong"));
        }
        match (NodeId::new(from), NodeId::new(to)) {
            (Some(from), Some(to)) => Ok(Message {
                cluster: ClusterId(cluster),
                from,
                to,
                lane: Lane::Urgent,
                payload: Bytes::copy_from_slice(payload),
            }),
            _ => Err(malformed("node 0 names nobody")),
        }
    }
}

/// The lane is no part of what is said.
impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        self.cluster == other.cluster
            && self.from == other.from
            && self.to == other.to
            && self.payload == other.payload
    }
}

impl Eq for Message {}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("cluster", &self.cluster)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("payload_bytes", &self.payload.len())
            .finish()
    }
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn malformed(reason: &str) -> DecodeError {
    DecodeError::Malformed {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngCore, SeedableRng};

    use super::*;

    fn random_message(random: &mut StdRng) -> Message {
        let mut payload = vec![0; random.gen_range(0..300)];
        random.fill_bytes(&mut payload);
        let node = |random: &mut StdRng| NodeId::new(random.gen_range(1..=u64::MAX)).unwrap();
        Message::new(
            ClusterId(random.r#gen()),
            node(random),
            node(random),
            payload,
        )
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_message() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..500 {
            let message = random_message(&mut random);
            let mut bytes = vec![1, 2, 3];
            message.encode_into(&mut bytes);
            assert_eq!(bytes[3..], message.encode()[..]);
            assert_eq!(bytes.len() - 3, message.encoded_len());
            assert_eq!(Message::decode(&bytes[3..]), Ok(message));
        }
    }

    #[test]
    fn every_truncation_and_every_longer_one_is_refused() {
        let mut random = StdRng::seed_from_u64(2);
        for _ in 0..30 {
            let mut bytes = random_message(&mut random).encode().to_vec();
            for length in 0..bytes.len() {
                assert!(Message::decode(&bytes[..length]).is_err());
            }
            bytes.push(0);
            assert!(Message::decode(&bytes).is_err());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut random = StdRng::seed_from_u64(3);
        for _ in 0..10 {
            let mut bytes = random_message(&mut random).encode().to_vec();
            for at in 0..bytes.len() * 8 {
                bytes[at / 8] ^= 1 << (at % 8);
                assert!(Message::decode(&bytes).is_err(), "bit {at}");
                bytes[at / 8] ^= 1 << (at % 8);
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        let mut random = StdRng::seed_from_u64(4);
        for _ in 0..5_000 {
            let mut bytes = vec![0; random.gen_range(0..100)];
            random.fill_bytes(&mut bytes);
            if random.r#gen() {
                bytes.splice(..0, MAGIC);
            }
            assert!(Message::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_from_the_header_alone() {
        let one = NodeId::new(1).unwrap();
        let mut bytes = Message::new(ClusterId(1), one, one, "x").encode().to_vec();
        assert_eq!(
            Message::announced_len(&bytes[..10]),
            Ok(Some(HEADER_BYTES + 1))
        );
        assert_eq!(Message::announced_len(&bytes[..9]), Ok(None));
        assert_eq!(Message::announced_len(&[]), Ok(None));
        bytes[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
        let found = u32::MAX as usize + HEADER_BYTES;
        let too_large = DecodeError::TooLarge {
            found,
            limit: MESSAGE_BYTES_MAX,
        };
        assert_eq!(Message::announced_len(&bytes[..10]), Err(too_large.clone()));
        assert_eq!(Message::decode(&bytes), Err(too_large));
        assert!(Message::announced_len(b"HTTP").is_err());
        assert!(Message::announced_len(b"H").is_err());
    }

    #[test]
    fn the_largest_message_passes_and_one_byte_more_does_not() {
        let one = NodeId::new(1).unwrap();
        let payload =
            |length: usize| Message::new(ClusterId(1), one, one, vec![0; length]).encode();
        assert!(Message::decode(&payload(MESSAGE_BYTES_MAX - HEADER_BYTES)).is_ok());
        let refused = Message::decode(&payload(MESSAGE_BYTES_MAX - HEADER_BYTES + 1));
        assert!(matches!(refused, Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn another_version_and_node_0_are_refused() {
        let one = NodeId::new(1).unwrap();
        let bytes = Message::new(ClusterId(1), one, one, "x").encode();
        let with_checksum = |mut bytes: Vec<u8>| {
            let checksum = checksum(&bytes[..CHECKSUM_AT], &bytes[HEADER_BYTES..]);
            bytes[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
            bytes
        };
        assert!(Message::decode(&with_checksum(bytes.to_vec())).is_ok());
        for (at, value) in [(5, 2), (25, 0), (33, 0)] {
            let mut altered = bytes.to_vec();
            altered[at] = value;
            assert!(
                Message::decode(&with_checksum(altered)).is_err(),
                "byte {at}"
            );
        }
    }
}

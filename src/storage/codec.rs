//! How numbers lie on the disk: fixed width, little-endian, checked with crc32.
//!
//! Knows no record. Reading never panics and never allocates more than it was given: what ends
//! early is `None`, and the caller says which file and which byte.

use crate::NodeId;

use super::Configuration;

/// Reads fixed fields one after another from bytes that may be damaged.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Decoder<'a> {
        Decoder { bytes }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// Whether everything was read.
    pub(super) fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    fn nodes(&mut self) -> Option<Vec<NodeId>> {
        let count = self.u32()? as usize;
        // The bytes are there before the list is made: a damaged count allocates nothing.
        let ids = self.bytes(count.checked_mul(8)?)?;
        ids.chunks_exact(8)
            .map(|id| NodeId::new(u64::from_le_bytes(id.try_into().ok()?)))
            .collect()
    }

    pub(super) fn configuration(&mut self) -> Option<Configuration> {
        Some(Configuration {
            voters: self.nodes()?,
            voters_outgoing: self.nodes()?,
            learners: self.nodes()?,
            learners_next: self.nodes()?,
            auto_leave: match self.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    }
}

pub(super) fn put_u8(buffer: &mut Vec<u8>, value: u8) {
    buffer.push(value);
}

pub(super) fn put_u32(buffer: &mut Vec<u8>, value: u32) {
    buffer.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_u64(buffer: &mut Vec<u8>, value: u64) {
    buffer.extend_from_slice(&value.to_le_bytes());
}

/// Each of the four lists as its count (u32) and its ids (u64), then whether it leaves by itself.
pub(super) fn put_configuration(buffer: &mut Vec<u8>, configuration: &Configuration) {
    let lists = [
        &configuration.voters,
        &configuration.voters_outgoing,
        &configuration.learners,
        &configuration.learners_next,
    ];
    for list in lists {
        put_u32(buffer, list.len() as u32);
        for id in list {
            put_u64(buffer, id.as_u64());
        }
    }
    put_u8(buffer, u8::from(configuration.auto_leave));
}

/// A vote as a number: 0 is nobody, which no node is called.
pub(super) fn vote_as_u64(vote: Option<NodeId>) -> u64 {
    vote.map_or(0, NodeId::as_u64)
}

/// The checksum of `bytes` under a salt, so that equal bytes of another life don't look valid.
pub(super) fn salted_crc(salt: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

/// The number at `offset`, where the caller has already checked that four bytes are there.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Decoder::new(bytes.get(offset..)?).u32()
}

/// Writes a number over the four bytes at `offset` of a buffer of ours.
pub(super) fn set_u32_at(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_reads_back_as_it_was_written() {
        let ids = |ids: &[u64]| {
            ids.iter()
                .filter_map(|id| NodeId::new(*id))
                .collect::<Vec<_>>()
        };
        let configuration = Configuration {
            voters: ids(&[1, 2, 3]),
            voters_outgoing: ids(&[4]),
            learners: ids(&[]),
            learners_next: ids(&[u64::MAX]),
            auto_leave: true,
        };
        let mut bytes = Vec::new();
        put_configuration(&mut bytes, &configuration);
        let mut decoder = Decoder::new(&bytes);
        assert_eq!(decoder.configuration(), Some(configuration));
        assert!(decoder.is_at_end());
        for length in 0..bytes.len() {
            assert_eq!(
                Decoder::new(&bytes[..length]).configuration(),
                None,
                "cut to {length}"
            );
        }
    }

    #[test]
    fn a_count_beyond_the_bytes_allocates_nothing() {
        let mut bytes = Vec::new();
        put_u32(&mut bytes, u32::MAX);
        assert_eq!(Decoder::new(&bytes).configuration(), None);
    }
}

//! The records of the log: a batch (entries and hard state together), or a checkpoint.
//!
//! A record is the unit of atomicity: its checksums cover all of it, so it is there whole or not at
//! all. It knows nothing of files. Layout, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | [`MAGIC`] |
//! | 4..8 | crc32 of the salt and of bytes 8 to the end of the head |
//! | 8..16 | sequence: 1 for the first record of a store, then consecutive |
//! | 16 | kind: 1 batch, 2 checkpoint |
//! | 17 | 1 where a batch has a hard state, otherwise 0 |
//! | 18..20 | 0 |
//! | 20..24 | length of the head |
//! | 24..28 | length of the data that follows the head |
//! | 28..32 | number of entries |
//! | hard state | term, vote (0: none), commit: u64 each, if flagged |
//! | batch | index of the first entry (u64) if there are any; for each: term u64, length and kind u32 (bit 31: membership), crc32 of its data |
//! | checkpoint | cluster, node, term, vote, commit, compacted index and term, last index, snapshot's number, index and term: u64 each |
//! | data | the entries' data, one after another |
//! | padding | zeros, to a multiple of [`ALIGNMENT`] |
//!
//! The salt differs for every use of a file, so that what a recycled file held before never looks
//! valid.

use crate::{ClusterId, NodeId};

use super::codec::{self, Decoder, put_u8, put_u32, put_u64};
use super::index::Row;
use super::{HardState, Identity, WriteBatch};

/// The first four bytes of every record.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"QREC");
/// Records begin at multiples of this.
pub(super) const ALIGNMENT: usize = 16;

const HEAD_FIXED_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
const CRC_OFFSET: usize = 4;
const CHECKED_FROM: usize = 8;
const KIND_BATCH: u8 = 1;
const KIND_CHECKPOINT: u8 = 2;

/// Everything but the entries: written where something other than a batch changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    pub(super) identity: Identity,
    pub(super) hard_state: HardState,
    /// The entry before the first one held.
    pub(super) compacted_index: u64,
    pub(super) compacted_term: u64,
    /// The last entry held; equal to `compacted_index` where the log is empty.
    pub(super) last_index: u64,
    /// Which snapshot file is the published one.
    pub(super) snapshot_number: u64,
    pub(super) snapshot_index: u64,
    pub(super) snapshot_term: u64,
}

/// A record that was read back.
#[derive(Debug)]
pub(super) enum Record {
    Batch {
        hard_state: Option<HardState>,
        first_index: u64,
        /// Each entry's term and row; offsets count from the record's first byte.
        entries: Vec<(u64, Row)>,
    },
    Checkpoint(Checkpoint),
}

/// A record with what its medium needs to know.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) sequence: u64,
    pub(super) record: Record,
    /// With the padding.
    pub(super) length: usize,
}

/// Why bytes are no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// No record begins here.
    Blank,
    /// One began, and is damaged, incomplete or of another life of the file.
    Damaged(&'static str),
}

/// Encodes a batch into `buffer` and its rows (offsets from the record's first byte) into `rows`.
/// The record is complete after [`seal`].
pub(super) fn encode_batch(
    buffer: &mut Vec<u8>,
    rows: &mut Vec<(u64, Row)>,
    sequence: u64,
    batch: &WriteBatch,
) {
    begin(buffer, sequence, KIND_BATCH);
    rows.clear();
    if let Some(hard_state) = &batch.hard_state {
        buffer[17] = 1;
        put_hard_state(buffer, hard_state);
    }
    if let Some(first) = batch.entries.first() {
        put_u64(buffer, first.index);
    }
    let head_bytes = buffer.len() + batch.entries.len() * ENTRY_BYTES;
    let mut offset = head_bytes;
    for entry in &batch.entries {
        let row = Row::new(
            offset as u32,
            entry.data.len() as u32,
            entry.kind,
            crc32fast::hash(&entry.data),
        );
        put_u64(buffer, entry.term);
        put_u32(buffer, row.length_and_kind());
        put_u32(buffer, row.crc);
        offset += entry.data.len();
        rows.push((entry.term, row));
    }
    finish_head(buffer, offset - head_bytes, batch.entries.len());
    for entry in &batch.entries {
        buffer.extend_from_slice(&entry.data);
    }
    pad(buffer);
}

/// Encodes a checkpoint into `buffer`; complete after [`seal`].
pub(super) fn encode_checkpoint(buffer: &mut Vec<u8>, sequence: u64, checkpoint: &Checkpoint) {
    begin(buffer, sequence, KIND_CHECKPOINT);
    put_u64(buffer, checkpoint.identity.cluster.0);
    put_u64(buffer, checkpoint.identity.node.as_u64());
    put_hard_state(buffer, &checkpoint.hard_state);
    put_u64(buffer, checkpoint.compacted_index);
    put_u64(buffer, checkpoint.compacted_term);
    put_u64(buffer, checkpoint.last_index);
    put_u64(buffer, checkpoint.snapshot_number);
    put_u64(buffer, checkpoint.snapshot_index);
    put_u64(buffer, checkpoint.snapshot_term);
    finish_head(buffer, 0, 0);
    pad(buffer);
}

/// Writes the checksum of an encoded record, under the salt of the file that it goes to.
pub(super) fn seal(buffer: &mut [u8], salt: u64) {
    let head_bytes = codec::u32_at(buffer, 20).map_or(buffer.len(), |length| length as usize);
    let crc = codec::salted_crc(salt, &buffer[CHECKED_FROM..head_bytes]);
    codec::set_u32_at(buffer, CRC_OFFSET, crc);
}

/// Reads the record that begins with the first of `bytes`, which may go on behind it.
pub(super) fn decode(bytes: &[u8], salt: u64) -> Result<Decoded, Flaw> {
    if codec::u32_at(bytes, 0) != Some(MAGIC) {
        return Err(Flaw::Blank);
    }
    let head_bytes = codec::u32_at(bytes, 20).ok_or(Flaw::Damaged("the head is cut off"))? as usize;
    let head = bytes
        .get(CHECKED_FROM..head_bytes)
        .ok_or(Flaw::Damaged("the head is cut off"))?;
    if head_bytes < HEAD_FIXED_BYTES
        || codec::u32_at(bytes, CRC_OFFSET) != Some(codec::salted_crc(salt, head))
    {
        return Err(Flaw::Damaged("the head's checksum does not match"));
    }
    // What follows was written by us, or by a program that has our checksum: still never trusted.
    let (sequence, record, data_bytes) =
        decode_head(head, head_bytes).ok_or(Flaw::Damaged("the head makes no sense"))?;
    let end = head_bytes
        .checked_add(data_bytes)
        .ok_or(Flaw::Damaged("the head makes no sense"))?;
    if end > bytes.len() {
        return Err(Flaw::Damaged("the data is cut off"));
    }
    if let Record::Batch { entries, .. } = &record {
        for (_, row) in entries {
            let data = &bytes[row.offset as usize..][..row.length() as usize];
            if crc32fast::hash(data) != row.crc {
                return Err(Flaw::Damaged("an entry's checksum does not match"));
            }
        }
    }
    Ok(Decoded {
        sequence,
        record,
        length: end.next_multiple_of(ALIGNMENT),
    })
}

/// The sequence, the record and the length of its data. Rows stay within the data.
fn decode_head(head: &[u8], head_bytes: usize) -> Option<(u64, Record, usize)> {
    let mut decoder = Decoder::new(head);
    let sequence = decoder.u64()?;
    let kind = decoder.u8()?;
    let flags = decoder.u8()?;
    decoder.bytes(2)?;
    decoder.u32()?;
    let data_bytes = decoder.u32()? as usize;
    let count = decoder.u32()? as usize;
    let record = match kind {
        KIND_BATCH => {
            let hard_state = if flags == 1 {
                Some(decode_hard_state(&mut decoder)?)
            } else {
                None
            };
            let first_index = if count > 0 { decoder.u64()? } else { 0 };
            first_index.checked_add(count as u64)?;
            let rows = decoder.bytes(count.checked_mul(ENTRY_BYTES)?)?;
            let entries = decode_rows(rows, head_bytes, data_bytes)?;
            Record::Batch {
                hard_state,
                first_index,
                entries,
            }
        }
        KIND_CHECKPOINT => Record::Checkpoint(decode_checkpoint(&mut decoder)?),
        _ => return None,
    };
    decoder
        .is_at_end()
        .then_some((sequence, record, data_bytes))
}

fn decode_rows(bytes: &[u8], head_bytes: usize, data_bytes: usize) -> Option<Vec<(u64, Row)>> {
    let mut offset = head_bytes;
    let mut entries = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    for row in bytes.chunks_exact(ENTRY_BYTES) {
        let mut decoder = Decoder::new(row);
        let term = decoder.u64()?;
        let (length_and_kind, crc) = (decoder.u32()?, decoder.u32()?);
        let row = Row::from_parts(u32::try_from(offset).ok()?, length_and_kind, crc);
        entries.push((term, row));
        offset = offset.checked_add(row.length() as usize)?;
    }
    (offset - head_bytes == data_bytes).then_some(entries)
}

fn decode_checkpoint(decoder: &mut Decoder<'_>) -> Option<Checkpoint> {
    let identity = Identity {
        cluster: ClusterId(decoder.u64()?),
        node: NodeId::new(decoder.u64()?)?,
    };
    let checkpoint = Checkpoint {
        identity,
        hard_state: decode_hard_state(decoder)?,
        compacted_index: decoder.u64()?,
        compacted_term: decoder.u64()?,
        last_index: decoder.u64()?,
        snapshot_number: decoder.u64()?,
        snapshot_index: decoder.u64()?,
        snapshot_term: decoder.u64()?,
    };
    let is_plausible =
        checkpoint.last_index >= checkpoint.compacted_index && checkpoint.last_index < u64::MAX;
    is_plausible.then_some(checkpoint)
}

fn decode_hard_state(decoder: &mut Decoder<'_>) -> Option<HardState> {
    Some(HardState {
        term: decoder.u64()?,
        vote: NodeId::new(decoder.u64()?),
        commit: decoder.u64()?,
    })
}

fn put_hard_state(buffer: &mut Vec<u8>, hard_state: &HardState) {
    put_u64(buffer, hard_state.term);
    put_u64(buffer, codec::vote_as_u64(hard_state.vote));
    put_u64(buffer, hard_state.commit);
}

fn begin(buffer: &mut Vec<u8>, sequence: u64, kind: u8) {
    buffer.clear();
    put_u32(buffer, MAGIC);
    put_u32(buffer, 0);
    put_u64(buffer, sequence);
    put_u8(buffer, kind);
    buffer.resize(HEAD_FIXED_BYTES, 0);
}

/// Writes the lengths into a head that is complete otherwise.
fn finish_head(buffer: &mut [u8], data_bytes: usize, entries: usize) {
    let head_bytes = buffer.len() as u32;
    codec::set_u32_at(buffer, 20, head_bytes);
    codec::set_u32_at(buffer, 24, data_bytes as u32);
    codec::set_u32_at(buffer, 28, entries as u32);
}

fn pad(buffer: &mut Vec<u8>) {
    buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
}

/// Whether these bytes begin with a record, once their checksum is made right: what a damage that nobody
/// noticed would be taken for.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn is_record_but_for_its_checksum(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    let head_bytes = codec::u32_at(&bytes, 20).unwrap_or(0) as usize;
    if (HEAD_FIXED_BYTES..=bytes.len()).contains(&head_bytes) {
        seal(&mut bytes, 0);
    }
    decode(&bytes, 0).is_ok()
}

/// Records of each kind.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn record_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let (mut batch, mut checkpoint) = (Vec::new(), Vec::new());
    let entry = |index, length| super::LogEntry {
        index,
        term: 3,
        kind: super::EntryKind::Command,
        data: vec![index as u8; length].into(),
    };
    let writes = WriteBatch {
        entries: vec![entry(7, 20), entry(8, 0), entry(9, 100)],
        hard_state: Some(HardState {
            term: 3,
            vote: NodeId::new(2),
            commit: 6,
        }),
    };
    encode_batch(&mut batch, &mut Vec::new(), 5, &writes);
    seal(&mut batch, 0);
    let identity = Identity {
        cluster: ClusterId(1),
        node: NodeId::new(1).expect("not 0"),
    };
    let all = Checkpoint {
        identity,
        hard_state: HardState::default(),
        compacted_index: 4,
        compacted_term: 2,
        last_index: 9,
        snapshot_number: 1,
        snapshot_index: 5,
        snapshot_term: 2,
    };
    encode_checkpoint(&mut checkpoint, 6, &all);
    seal(&mut checkpoint, 0);
    vec![("batch", batch), ("checkpoint", checkpoint)]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{EntryKind, LogEntry};
    use super::*;

    fn encoded() -> Vec<u8> {
        let entry = |index, data: &'static [u8]| LogEntry {
            index,
            term: 3,
            kind: EntryKind::Membership,
            data: Bytes::from_static(data),
        };
        let batch = WriteBatch {
            entries: vec![entry(7, b"seven"), entry(8, b""), entry(9, b"nine")],
            hard_state: Some(HardState {
                term: 3,
                vote: NodeId::new(2),
                commit: 6,
            }),
        };
        let mut buffer = Vec::new();
        encode_batch(&mut buffer, &mut Vec::new(), 5, &batch);
        seal(&mut buffer, 99);
        buffer
    }

    #[test]
    fn a_batch_reads_back_as_it_was_written() {
        let buffer = encoded();
        let decoded = decode(&buffer, 99).expect("it is whole");
        assert_eq!((decoded.sequence, decoded.length), (5, buffer.len()));
        let Record::Batch {
            hard_state,
            first_index,
            entries,
        } = decoded.record
        else {
            panic!("not a batch")
        };
        assert_eq!(
            hard_state,
            Some(HardState {
                term: 3,
                vote: NodeId::new(2),
                commit: 6
            })
        );
        assert_eq!((first_index, entries.len()), (7, 3));
        let nine = entries[2].1;
        assert_eq!(
            &buffer[nine.offset as usize..][..nine.length() as usize],
            b"nine"
        );
    }

    #[test]
    fn a_flipped_bit_anywhere_but_in_the_padding_is_noticed() {
        let buffer = encoded();
        let padding = 7; // 32 + 24 + 8 + 3 * 16 + 9 = 121 bytes, padded to 128.
        for bit in 0..(buffer.len() - padding) * 8 {
            let mut flipped = buffer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 99).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_of_another_salt_or_cut_short_is_none() {
        let buffer = encoded();
        assert!(decode(&buffer, 98).is_err());
        for length in 0..buffer.len() - 7 {
            assert!(decode(&buffer[..length], 99).is_err(), "cut to {length}");
        }
    }
}

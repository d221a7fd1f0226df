//! One segment file: a header page, then records up to its fixed length.
//!
//! It knows where records begin, not what they say. The file has its full length, written with
//! zeros, before it gets its name, so that an append changes no metadata; its header is durable by
//! then as well: a file with a segment's name and a bad header is damaged, never unfinished.
//!
//! The header, little-endian: magic u32, format version u32, crc32 of the rest u32, 0 u32, then
//! number, cluster, node, sequence of the first record, length of the file: u64 each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::codec::{self, Decoder, put_u32, put_u64};
use crate::storage::fence::FORMAT_VERSION;
use crate::storage::files::FileHandle;
use crate::storage::record::{self, ALIGNMENT, Decoded, Flaw};
use crate::storage::system_files::{corrupt, io_error};
use crate::storage::{Identity, StorageError, wrong_identity};
use crate::{ClusterId, NodeId};

/// Where the first record begins: the header has a page of its own, which no append touches.
pub(super) const RECORDS_OFFSET: u64 = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"QSEG");
const HEADER_BYTES: usize = 56;
const CHECKED_FROM: usize = 12;

/// What a segment's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    /// Segments are numbered without gaps; a number is never used twice.
    pub(super) number: u64,
    pub(super) identity: Identity,
    pub(super) first_sequence: u64,
    pub(super) length: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        put_u32(&mut header, MAGIC);
        put_u32(&mut header, FORMAT_VERSION);
        put_u64(&mut header, 0);
        let Identity { cluster, node } = self.identity;
        for value in [
            self.number,
            cluster.0,
            node.as_u64(),
            self.first_sequence,
            self.length,
        ] {
            put_u64(&mut header, value);
        }
        let crc = crc32fast::hash(&header[CHECKED_FROM..]);
        codec::set_u32_at(&mut header, 8, crc);
        header
    }

    /// Reads the header at the beginning of `bytes` and checks it against name and owner.
    pub(super) fn read(
        bytes: &[u8],
        path: &Path,
        number: u64,
        identity: Identity,
    ) -> Result<Header, StorageError> {
        let header = Header::decode(bytes, path)?;
        if header.identity != identity {
            return Err(wrong_identity(
                &path.display().to_string(),
                identity,
                header.identity,
            ));
        }
        if header.number != number {
            return Err(corrupt(
                path,
                0,
                format!(
                    "the header says segment {}, the name {number}",
                    header.number
                ),
            ));
        }
        Ok(header)
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Header, StorageError> {
        let damaged = || corrupt(path, 0, "the segment's header does not match its checksum");
        let header = bytes
            .get(..HEADER_BYTES)
            .ok_or_else(|| corrupt(path, bytes.len() as u64, "the header is cut off"))?;
        let mut decoder = Decoder::new(header);
        if decoder.u32() != Some(MAGIC) {
            return Err(damaged());
        }
        let found = decoder.u32().ok_or_else(damaged)?;
        if found != FORMAT_VERSION {
            let path = path.display().to_string();
            return Err(StorageError::WrongFormat {
                path,
                found,
                supported: FORMAT_VERSION,
            });
        }
        if decoder.u32() != Some(crc32fast::hash(&header[CHECKED_FROM..])) {
            return Err(damaged());
        }
        Header::decode_fields(&mut decoder).ok_or_else(damaged)
    }

    fn decode_fields(decoder: &mut Decoder<'_>) -> Option<Header> {
        decoder.u32()?;
        Some(Header {
            number: decoder.u64()?,
            identity: Identity {
                cluster: ClusterId(decoder.u64()?),
                node: NodeId::new(decoder.u64()?)?,
            },
            first_sequence: decoder.u64()?,
            length: decoder.u64()?,
        })
    }

    /// What the checksums of this segment's records begin with: another one for every segment, so
    /// that records of the file's former life are none.
    fn salt(&self) -> u64 {
        let Identity { cluster, node } = self.identity;
        let mixed = cluster.0
            ^ node.as_u64().rotate_left(24)
            ^ self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: Header,
    pub(super) path: PathBuf,
    pub(super) file: Arc<dyn FileHandle>,
}

/// How a scan ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Where the next record would begin.
    pub(super) offset: u64,
    /// The sequence that it would have.
    pub(super) sequence: u64,
    /// Why there is none.
    pub(super) flaw: Flaw,
}

impl Segment {
    /// Checks the header in `bytes`, the whole file, against name, owner and length.
    pub(super) fn check(
        bytes: &[u8],
        path: &Path,
        number: u64,
        identity: Identity,
    ) -> Result<Header, StorageError> {
        let header = Header::read(bytes, path, number, identity)?;
        if bytes.len() as u64 != header.length {
            let reason = format!(
                "the file is {} bytes long, its header says {}",
                bytes.len(),
                header.length
            );
            return Err(corrupt(path, bytes.len() as u64, reason));
        }
        Ok(header)
    }

    /// Seals the record and makes it durable at `offset`.
    pub(super) fn write(&self, offset: u64, record: &mut [u8]) -> Result<(), StorageError> {
        record::seal(record, self.header.salt());
        self.file
            .write_at(record, offset)
            .map_err(|error| io_error("write", &self.path, &error))?;
        self.sync()
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| io_error("sync", &self.path, &error))
    }

    pub(super) fn read(&self, offset: u32, length: u32) -> Result<Vec<u8>, StorageError> {
        let end = u64::from(offset) + u64::from(length);
        if end > self.header.length {
            return Err(corrupt(
                &self.path,
                end,
                format!("beyond the segment's {} bytes", self.header.length),
            ));
        }
        let mut bytes = vec![0; length as usize];
        let count = self
            .file
            .read_at(&mut bytes, u64::from(offset))
            .map_err(|error| io_error("read", &self.path, &error))?;
        if count < bytes.len() {
            return Err(corrupt(
                &self.path,
                u64::from(offset) + count as u64,
                "the file ends early",
            ));
        }
        Ok(bytes)
    }
}

impl Header {
    /// Shows the records in `bytes`, the whole file, one after another, as long as they are whole
    /// and before `end_sequence`.
    pub(super) fn scan(
        &self,
        bytes: &[u8],
        path: &Path,
        end_sequence: u64,
        visit: &mut dyn FnMut(Decoded, u64) -> Result<(), StorageError>,
    ) -> Result<End, StorageError> {
        let mut offset = RECORDS_OFFSET as usize;
        let mut sequence = self.first_sequence;
        while sequence < end_sequence {
            let decoded = match record::decode(bytes.get(offset..).unwrap_or_default(), self.salt())
            {
                Ok(decoded) => decoded,
                Err(flaw) => {
                    return Ok(End {
                        offset: offset as u64,
                        sequence,
                        flaw,
                    });
                }
            };
            if decoded.sequence != sequence {
                let reason = format!(
                    "record {} stands where {sequence} is next",
                    decoded.sequence
                );
                return Err(corrupt(path, offset as u64, reason));
            }
            let length = decoded.length;
            visit(decoded, offset as u64)?;
            offset += length;
            sequence += 1;
        }
        Ok(End {
            offset: offset as u64,
            sequence,
            flaw: Flaw::Blank,
        })
    }

    /// Where behind `offset` a whole record of this segment begins. A torn record is the last one
    /// that was written; with another one behind it, it is damage.
    pub(super) fn find_record_after(&self, bytes: &[u8], offset: u64) -> Option<u64> {
        let magic = record::MAGIC.to_le_bytes();
        (offset as usize + ALIGNMENT..bytes.len())
            .step_by(ALIGNMENT)
            .find(|at| {
                bytes[*at..].starts_with(&magic)
                    && record::decode(&bytes[*at..], self.salt()).is_ok()
            })
            .map(|at| at as u64)
    }
}

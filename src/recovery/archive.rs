//! The form of a backup: a header, the snapshot's bytes in frames, and a trailer over all of it.
//!
//! ```text
//! "QUORATEB" | format u32 | frame(header) | frame(bytes)* | length 0 u32 | SHA-1 of all before
//! frame: length u32 | CRC-32 u32 | bytes
//! ```
//!
//! Numbers are big-endian. Reading allocates no more than a frame at a time before that was checked, and
//! what was read counts only when the trailer has been seen: an archive that was cut is refused.

use std::io::{Read, Write};

use bytes::Bytes;
use sha1::{Digest as _, Sha1};

use super::backup::BackupError;
use crate::ids::{ClusterId, NodeId, Zxid};
use crate::proto::{self, records};

const MAGIC: &[u8; 8] = b"QUORATEB";

/// The version of the form. A reader refuses any other.
const FORMAT: u32 = 1;

/// The longest frame, in bytes.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

const SHA1_BYTES: usize = 20;

/// What an archive says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub zxid: Zxid,
    pub index: u64,
    pub term: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
}

/// Writes an archive.
pub(super) struct ArchiveWriter<W> {
    writer: W,
    hash: Sha1,
    bytes: u64,
}

impl<W: Write> ArchiveWriter<W> {
    pub(super) fn begin(writer: W, header: &Header) -> std::io::Result<ArchiveWriter<W>> {
        let mut archive = ArchiveWriter {
            writer,
            hash: Sha1::new(),
            bytes: 0,
        };
        archive.put(MAGIC)?;
        archive.put(&FORMAT.to_be_bytes())?;
        archive.frame(&encode(header))?;
        Ok(archive)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        bytes
            .chunks(FRAME_BYTES_MAX)
            .try_for_each(|part| self.frame(part))
    }

    /// Ends the archive; gives its length in bytes.
    pub(super) fn end(mut self) -> std::io::Result<u64> {
        self.put(&0u32.to_be_bytes())?;
        let digest = self.hash.finalize();
        self.writer.write_all(&digest)?;
        self.writer.flush()?;
        Ok(self.bytes + SHA1_BYTES as u64)
    }

    fn frame(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(bytes.len()).expect("a frame is short");
        self.put(&length.to_be_bytes())?;
        self.put(&crc32fast::hash(bytes).to_be_bytes())?;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.writer.write_all(bytes)
    }
}

/// Reads an archive.
pub(super) struct ArchiveReader<R> {
    reader: R,
    hash: Sha1,
    offset: u64,
}

impl<R: Read> ArchiveReader<R> {
    pub(super) fn begin(reader: R) -> Result<(ArchiveReader<R>, Header), BackupError> {
        let mut archive = ArchiveReader {
            reader,
            hash: Sha1::new(),
            offset: 0,
        };
        if &archive.take::<8>()? != MAGIC {
            return Err(archive.damaged("it is no backup"));
        }
        let found = u32::from_be_bytes(archive.take()?);
        if found != FORMAT {
            return Err(BackupError::Format {
                found,
                supported: FORMAT,
            });
        }
        let Some(bytes) = archive.next()? else {
            return Err(archive.damaged("it has no header"));
        };
        let header = decode(bytes).map_err(|error| archive.damaged(&error.reason))?;
        Ok((archive, header))
    }

    /// The next piece; `None` when the trailer has been seen, and agrees.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, BackupError> {
        let length = u32::from_be_bytes(self.take()?) as usize;
        if length == 0 {
            let expected = self.hash.clone().finalize();
            return if self.take::<SHA1_BYTES>()?[..] == expected[..] {
                Ok(None)
            } else {
                Err(self.damaged("its checksum does not match"))
            };
        }
        if length > FRAME_BYTES_MAX {
            return Err(self.damaged("a frame is longer than any may be"));
        }
        let crc = u32::from_be_bytes(self.take()?);
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        if crc32fast::hash(&bytes) != crc {
            return Err(self.damaged("a frame's checksum does not match"));
        }
        Ok(Some(bytes.into()))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.reader.read_exact(bytes).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                self.damaged("it ends too early")
            } else {
                BackupError::from(error)
            }
        })?;
        self.hash.update(&*bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Damaged {
            offset: self.offset,
            reason: reason.to_string(),
        }
    }
}

fn encode(header: &Header) -> Bytes {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.as_u64()).collect();
    proto::encode(&records::BackupHeaderRecord {
        cluster: header.cluster.0,
        node: header.node.as_u64(),
        zxid: header.zxid.0,
        index: header.index,
        term: header.term,
        voters: numbers(&header.voters),
        learners: numbers(&header.learners),
        ..Default::default()
    })
}

fn decode(bytes: Bytes) -> Result<Header, proto::RecordError> {
    let record: records::BackupHeaderRecord = proto::decode(&bytes)?;
    let nodes = |numbers: Vec<u64>| -> Result<Vec<NodeId>, proto::RecordError> {
        numbers.into_iter().map(proto::node).collect()
    };
    // The restored cluster goes on from here.
    if record.index >= i64::MAX as u64 || record.term >= i64::MAX as u64 {
        return Err(proto::RecordError::new("its index or term is out of range"));
    }
    Ok(Header {
        cluster: ClusterId(record.cluster),
        node: proto::node(record.node)?,
        zxid: Zxid(record.zxid),
        index: record.index,
        term: record.term,
        voters: nodes(record.voters)?,
        learners: nodes(record.learners)?,
    })
}

//! Snapshots as files: written under a temporary name in checksummed chunks, published by rename.
//!
//! Knows nothing of the log: which of the files is the published snapshot, the log's last
//! checkpoint says by its number. A file that it doesn't name is a leftover.
//! Invariant: a file with its final name was complete and durable before it got that name.
//!
//! Layout, little-endian: a header (magic u32, format version u32, crc32 of the rest u32, length of
//! the rest u32; cluster, node, number, index, term: u64 each; the configuration), then chunks of
//! [`CHUNK_BYTES`] (the last one shorter), each after its crc32 under the salt (number, position),
//! then a footer (magic u32, crc32 of the rest u32, bytes in all u64).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::{ClusterId, NodeId};

use super::codec::{self, Decoder, put_configuration, put_u32, put_u64};
use super::fence::FORMAT_VERSION;
use super::files::{FileHandle, Files};
use super::system_files::{corrupt, io_error};
use super::{Identity, SnapshotMeta, SnapshotReader, StorageError};

/// How many bytes of content stand under one checksum.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNK_HEAD_BYTES: usize = 4;
const HEADER_FIXED_BYTES: usize = 16;
const FOOTER_BYTES: usize = 16;
/// The longest header: a configuration of some 130,000 nodes.
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// A write that makes it so much that is not synced is synced: publishing has little left to wait for then,
/// and the log's own syncs, which the disk takes in turn, wait for no more than this or what is written
/// at once. Measured: bare appends beside a file that is synced every 256 KiB take twice as long at their
/// 99th percentile, every 64 KiB a third longer.
const SYNC_AFTER_BYTES: u64 = 64 << 10;
const MAGIC: u32 = u32::from_le_bytes(*b"QSNP");
const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"QEND");
const TEMPORARY_SUFFIX: &str = ".new";

/// The directory of a store's snapshots.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFiles {
    files: Arc<dyn Files>,
    dir: PathBuf,
}

impl SnapshotFiles {
    pub(super) fn new(files: Arc<dyn Files>, dir: PathBuf) -> SnapshotFiles {
        SnapshotFiles { files, dir }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("snapshot-{number:016x}"))
    }

    /// Removes all but the published one, and says the highest number that was met.
    pub(super) fn remove_all_but(&self, published: Option<u64>) -> Result<u64, StorageError> {
        let names = self
            .files
            .list(&self.dir)
            .map_err(|error| io_error("list", &self.dir, &error))?;
        let mut highest = published.unwrap_or(0);
        for name in names {
            let stem = name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(&name);
            let Some(number) = stem.strip_prefix("snapshot-") else {
                continue;
            };
            let Ok(number) = u64::from_str_radix(number, 16) else {
                continue;
            };
            highest = highest.max(number);
            if Some(number) != published || stem != name {
                let path = self.dir.join(&name);
                self.files
                    .remove(&path)
                    .map_err(|error| io_error("remove", &path, &error))?;
            }
        }
        Ok(highest)
    }

    /// Whether a snapshot lies here, published or not.
    pub(super) fn is_empty(&self) -> Result<bool, StorageError> {
        let names = self
            .files
            .list(&self.dir)
            .map_err(|error| io_error("list", &self.dir, &error))?;
        Ok(!names.iter().any(|name| name.starts_with("snapshot-")))
    }

    /// Removes one that is no longer published. It may fail: the next open removes it then.
    pub(super) fn remove(&self, number: u64) {
        let _ = self.files.remove(&self.path(number));
    }

    pub(super) fn writer(
        &self,
        number: u64,
        identity: Identity,
        meta: &SnapshotMeta,
    ) -> Result<SnapshotFileWriter, StorageError> {
        let path = self.path(number);
        let mut temporary = path.clone().into_os_string();
        temporary.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(temporary);
        let file = self
            .files
            .create(&temporary)
            .map_err(|error| io_error("create", &temporary, &error))?;
        let header = encode_header(number, identity, meta);
        let mut writer = SnapshotFileWriter {
            directory: self.clone(),
            file,
            temporary: Some(temporary),
            path,
            number,
            offset: 0,
            unsynced_bytes: 0,
            chunk: Vec::with_capacity(CHUNK_HEAD_BYTES + CHUNK_BYTES),
            chunks: 0,
            content_bytes: 0,
        };
        writer.put(&header)?;
        Ok(writer)
    }

    /// Opens the published snapshot and checks its frame, not yet its content.
    pub(super) fn reader(
        &self,
        number: u64,
        identity: Identity,
    ) -> Result<SnapshotFileReader, StorageError> {
        SnapshotFileReader::open(self.files.as_ref(), self.path(number), number, identity)
    }
}

fn encode_header(number: u64, identity: Identity, meta: &SnapshotMeta) -> Vec<u8> {
    let mut header = Vec::new();
    put_u32(&mut header, MAGIC);
    put_u32(&mut header, FORMAT_VERSION);
    put_u64(&mut header, 0);
    for value in [
        identity.cluster.0,
        identity.node.as_u64(),
        number,
        meta.index,
        meta.term,
    ] {
        put_u64(&mut header, value);
    }
    put_configuration(&mut header, &meta.configuration);
    let length = header.len() - HEADER_FIXED_BYTES;
    codec::set_u32_at(&mut header, 12, length as u32);
    let crc = crc32fast::hash(&header[12..]);
    codec::set_u32_at(&mut header, 8, crc);
    header
}

fn chunk_salt(number: u64, position: u64) -> u64 {
    number.rotate_left(32) ^ position
}

/// A snapshot file being written. Dropping it before it has its final name removes it.
#[derive(Debug)]
pub(super) struct SnapshotFileWriter {
    directory: SnapshotFiles,
    file: Arc<dyn FileHandle>,
    /// `None` once it is renamed.
    temporary: Option<PathBuf>,
    path: PathBuf,
    number: u64,
    offset: u64,
    unsynced_bytes: u64,
    /// Room for the checksum, then the content gathered for the next chunk.
    chunk: Vec<u8>,
    chunks: u64,
    content_bytes: u64,
}

impl SnapshotFileWriter {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn write(&mut self, mut content: &[u8]) -> Result<(), StorageError> {
        while !content.is_empty() {
            if self.chunk.is_empty() {
                self.chunk.resize(CHUNK_HEAD_BYTES, 0);
            }
            let room = CHUNK_HEAD_BYTES + CHUNK_BYTES - self.chunk.len();
            let (taken, rest) = content.split_at(room.min(content.len()));
            self.chunk.extend_from_slice(taken);
            self.content_bytes += taken.len() as u64;
            content = rest;
            if taken.len() == room {
                self.finish_chunk()?;
            }
        }
        if self.unsynced_bytes >= SYNC_AFTER_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes it durable under its final name. It is not the published one by that alone.
    pub(super) fn finish(&mut self) -> Result<(), StorageError> {
        if !self.chunk.is_empty() {
            self.finish_chunk()?;
        }
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        put_u32(&mut footer, FOOTER_MAGIC);
        put_u32(
            &mut footer,
            codec::salted_crc(self.number, &self.content_bytes.to_le_bytes()),
        );
        put_u64(&mut footer, self.content_bytes);
        self.put(&footer)?;
        self.sync()?;
        let Some(temporary) = self.temporary.take() else {
            return Ok(());
        };
        let files = &self.directory.files;
        files
            .rename(&temporary, &self.path)
            .map_err(|error| io_error("rename", &temporary, &error))?;
        files
            .sync_dir(&self.directory.dir)
            .map_err(|error| io_error("sync", &self.directory.dir, &error))
    }

    fn finish_chunk(&mut self) -> Result<(), StorageError> {
        let salt = chunk_salt(self.number, self.chunks);
        let crc = codec::salted_crc(salt, &self.chunk[CHUNK_HEAD_BYTES..]);
        codec::set_u32_at(&mut self.chunk, 0, crc);
        let mut chunk = std::mem::take(&mut self.chunk);
        self.put(&chunk)?;
        chunk.clear();
        self.chunk = chunk;
        self.chunks += 1;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        self.file
            .write_at(bytes, self.offset)
            .map_err(|error| io_error("write", &self.path, &error))?;
        self.offset += bytes.len() as u64;
        self.unsynced_bytes += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        self.unsynced_bytes = 0;
        self.file
            .sync_data()
            .map_err(|error| io_error("sync", &self.path, &error))
    }
}

impl Drop for SnapshotFileWriter {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // It may fail: the next open removes what is left.
            let _ = self.directory.files.remove(&temporary);
        }
    }
}

/// A snapshot file being read. It holds the file open, so it outlives a newer snapshot.
#[derive(Debug)]
pub(super) struct SnapshotFileReader {
    file: Arc<dyn FileHandle>,
    path: PathBuf,
    number: u64,
    meta: SnapshotMeta,
    header_bytes: u64,
    content_bytes: u64,
    /// The chunk read last, with its position: readers go forward in small steps.
    chunk: Option<(u64, Bytes)>,
}

impl SnapshotFileReader {
    fn open(
        files: &dyn Files,
        path: PathBuf,
        number: u64,
        identity: Identity,
    ) -> Result<SnapshotFileReader, StorageError> {
        let file = files.open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => corrupt(&path, 0, "the published snapshot is missing"),
            _ => io_error("open", &path, &error),
        })?;
        let (meta, header_bytes) = read_header(file.as_ref(), &path, number, identity)?;
        let content_bytes = read_footer(file.as_ref(), &path, number, header_bytes)?;
        Ok(SnapshotFileReader {
            file,
            path,
            number,
            meta,
            header_bytes,
            content_bytes,
            chunk: None,
        })
    }

    /// Reads all of it, to find damage when the store is opened.
    pub(super) fn verify(&mut self) -> Result<(), StorageError> {
        (0..self.content_bytes.div_ceil(CHUNK_BYTES as u64))
            .try_for_each(|position| self.chunk_at(position).map(drop))
    }

    fn chunk_at(&mut self, position: u64) -> Result<Bytes, StorageError> {
        if let Some((held, chunk)) = &self.chunk
            && *held == position
        {
            return Ok(chunk.clone());
        }
        let content_offset = position * CHUNK_BYTES as u64;
        let length = (self.content_bytes - content_offset).min(CHUNK_BYTES as u64) as usize;
        let offset = self.header_bytes + position * (CHUNK_HEAD_BYTES + CHUNK_BYTES) as u64;
        let bytes = read_exactly(
            self.file.as_ref(),
            &self.path,
            offset,
            CHUNK_HEAD_BYTES + length,
        )?;
        let found = codec::u32_at(&bytes, 0);
        let content = Bytes::from(bytes).slice(CHUNK_HEAD_BYTES..);
        if found
            != Some(codec::salted_crc(
                chunk_salt(self.number, position),
                &content,
            ))
        {
            return Err(corrupt(
                &self.path,
                offset,
                format!("the checksum of chunk {position} does not match"),
            ));
        }
        self.chunk = Some((position, content.clone()));
        Ok(content)
    }
}

impl SnapshotReader for SnapshotFileReader {
    fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    fn len_bytes(&self) -> u64 {
        self.content_bytes
    }

    fn read(&mut self, offset: u64, bytes_max: usize) -> Result<Bytes, StorageError> {
        if offset >= self.content_bytes || bytes_max == 0 {
            return Ok(Bytes::new());
        }
        // At most one chunk: a shorter answer than asked for is within the contract.
        let chunk = self.chunk_at(offset / CHUNK_BYTES as u64)?;
        let begin = (offset % CHUNK_BYTES as u64) as usize;
        Ok(chunk.slice(begin..chunk.len().min(begin.saturating_add(bytes_max))))
    }
}

fn read_exactly(
    file: &dyn FileHandle,
    path: &Path,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; length];
    let count = file
        .read_at(&mut bytes, offset)
        .map_err(|error| io_error("read", path, &error))?;
    if count < length {
        return Err(corrupt(
            path,
            offset + count as u64,
            format!("the file ends {} bytes early", length - count),
        ));
    }
    Ok(bytes)
}

/// The meta data and the header's length.
fn read_header(
    file: &dyn FileHandle,
    path: &Path,
    number: u64,
    identity: Identity,
) -> Result<(SnapshotMeta, u64), StorageError> {
    let fixed = read_exactly(file, path, 0, HEADER_FIXED_BYTES)?;
    let mut decoder = Decoder::new(&fixed);
    let damaged = || corrupt(path, 0, "the snapshot's header does not match its checksum");
    if decoder.u32() != Some(MAGIC) {
        return Err(damaged());
    }
    let version = decoder.u32().ok_or_else(damaged)?;
    if version != FORMAT_VERSION {
        let path = path.display().to_string();
        return Err(StorageError::WrongFormat {
            path,
            found: version,
            supported: FORMAT_VERSION,
        });
    }
    let crc = decoder.u32().ok_or_else(damaged)?;
    let length = decoder
        .u32()
        .filter(|length| *length <= HEADER_BYTES_MAX)
        .ok_or_else(damaged)?;
    let checked = read_exactly(file, path, 12, 4 + length as usize)?;
    if crc32fast::hash(&checked) != crc {
        return Err(damaged());
    }
    let mut decoder = Decoder::new(&checked[4..]);
    let (found, found_number, meta) = decode_meta(&mut decoder).ok_or_else(damaged)?;
    if found != identity {
        return Err(super::wrong_identity(
            &path.display().to_string(),
            identity,
            found,
        ));
    }
    if found_number != number {
        return Err(corrupt(
            path,
            0,
            format!("this is snapshot number {found_number}, not {number}"),
        ));
    }
    Ok((meta, HEADER_FIXED_BYTES as u64 + u64::from(length)))
}

fn decode_meta(decoder: &mut Decoder<'_>) -> Option<(Identity, u64, SnapshotMeta)> {
    let identity = Identity {
        cluster: ClusterId(decoder.u64()?),
        node: NodeId::new(decoder.u64()?)?,
    };
    let number = decoder.u64()?;
    let meta = SnapshotMeta {
        index: decoder.u64()?,
        term: decoder.u64()?,
        configuration: decoder.configuration()?,
    };
    decoder.is_at_end().then_some((identity, number, meta))
}

/// The length of the content, which the file's own length must bear out.
fn read_footer(
    file: &dyn FileHandle,
    path: &Path,
    number: u64,
    header_bytes: u64,
) -> Result<u64, StorageError> {
    let length = file
        .len_bytes()
        .map_err(|error| io_error("measure", path, &error))?;
    let offset = length.saturating_sub(FOOTER_BYTES as u64);
    let footer = read_exactly(file, path, offset, FOOTER_BYTES)?;
    let mut decoder = Decoder::new(&footer);
    let (magic, crc, content_bytes) = (decoder.u32(), decoder.u32(), decoder.u64());
    let content_bytes = content_bytes
        .filter(|bytes| {
            magic == Some(FOOTER_MAGIC)
                && crc == Some(codec::salted_crc(number, &bytes.to_le_bytes()))
        })
        .ok_or_else(|| corrupt(path, offset, "the snapshot does not end with its footer"))?;
    let heads = content_bytes
        .div_ceil(CHUNK_BYTES as u64)
        .saturating_mul(CHUNK_HEAD_BYTES as u64);
    let expected = content_bytes
        .saturating_add(heads)
        .saturating_add(header_bytes)
        .saturating_add(FOOTER_BYTES as u64);
    if expected != length {
        return Err(corrupt(
            path,
            offset,
            format!("the snapshot is {length} bytes long, not {expected}"),
        ));
    }
    Ok(content_bytes)
}

//! What a store has acknowledged, written beside it: the evidence against losing in silence.
//!
//! The fence is a small file of two checksummed slots. It is written after every acknowledged batch,
//! *after* the batch is durable, so it never claims more than there is; and at every open the store
//! is held against it. A store with less than its fence says has lost a vote or an entry, and must
//! not take part again: [`StorageError::Amnesia`].
//!
//! What it costs: one `pwrite` of [`SLOT_BYTES`] for a batch, no sync. It is synced when the term or
//! the vote changed, at bootstrap, when a snapshot is published or the log compacted, and when the
//! store is closed.
//!
//! What that buys: after a killed process (the kernel still writes the page) the fence is exact, so
//! any lost record is noticed. After a power loss it may lag behind the last sync, never lead:
//! term and vote are exact, but entries acknowledged since then are not witnessed, and their loss is
//! noticed only by the checksums of the store itself. It is no second copy: it can't restore.
//!
//! Slots: an unsynced write always goes to the slot that was *not* synced last. A torn write can
//! so damage one slot only, and the other one is durable. One bad slot is passed over; two are
//! corruption.
//!
//! Layout of a slot, at byte 0 and byte [`SLOT_DISTANCE`], little-endian: magic u32, format version
//! u32, crc32 of the rest u32, phase u32 (1 bootstrapping, 2 ready), then u64 each: number of the
//! write, cluster, node, term, vote (0: none), first index, last index, its term, sequence of the
//! last record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{ClusterId, NodeId};

use super::codec::{self, Decoder, put_u32, put_u64};
use super::files::{FileHandle, Files};
use super::system_files::{corrupt, io_error};
use super::{Identity, StorageError};

/// The version of everything that the built-in stores write.
pub(super) const FORMAT_VERSION: u32 = 1;
/// The length of a slot's content.
pub(super) const SLOT_BYTES: usize = 88;
/// Each slot has a page of its own, so that a torn page damages one only.
const SLOT_DISTANCE: u64 = 4096;
const FILE_BYTES: u64 = 2 * SLOT_DISTANCE;
const MAGIC: u32 = u32::from_le_bytes(*b"QFEN");
const CHECKED_FROM: usize = 12;
const NAME: &str = "fence";
const NAME_TEMPORARY: &str = "fence.new";

/// How far a store's life has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// A bootstrap has begun and was never acknowledged: what lies there may be thrown away.
    Bootstrapping,
    /// Bootstrapped: from here on nothing may be missing.
    Ready,
}

/// Whether a write of the fence is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Durability {
    /// Written only: survives the process.
    Written,
    /// Synced: survives the power.
    Synced,
}

/// What was acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Acknowledged {
    pub(super) phase: Phase,
    pub(super) identity: Identity,
    pub(super) term: u64,
    pub(super) vote: Option<NodeId>,
    pub(super) first_index: u64,
    /// May go down: Raft's conflict rule drops entries. The truth of the moment, not a maximum.
    pub(super) last_index: u64,
    pub(super) last_term: u64,
    /// The last record; the store's records are numbered without gaps.
    pub(super) sequence: u64,
}

impl Acknowledged {
    /// The first fact in which a store that holds `held` is behind what it acknowledged.
    pub(super) fn missing_in(&self, held: &Acknowledged) -> Option<String> {
        if held.sequence < self.sequence {
            return Some(format!(
                "record {} was acknowledged, the last one held is {}",
                self.sequence, held.sequence
            ));
        }
        if held.term < self.term {
            return Some(format!(
                "term {} was acknowledged, the one held is {}",
                self.term, held.term
            ));
        }
        if held.sequence > self.sequence {
            // Written and never acknowledged, or acknowledged after the last write that lasted.
            return None;
        }
        // The same record: everything else must be the same too.
        let show = |vote: Option<NodeId>| {
            vote.map_or_else(|| "nobody".to_owned(), |id| format!("node {id}"))
        };
        if held.vote != self.vote || held.term != self.term {
            return Some(format!(
                "the vote for {} in term {} was acknowledged, the one held is for {} in term {}",
                show(self.vote),
                self.term,
                show(held.vote),
                held.term
            ));
        }
        if (held.last_index, held.last_term) != (self.last_index, self.last_term) {
            return Some(format!(
                "entry {} of term {} was acknowledged, the last one held is {} of term {}",
                self.last_index, self.last_term, held.last_index, held.last_term
            ));
        }
        None
    }

    fn encode(&self, write_number: u64) -> [u8; SLOT_BYTES] {
        let mut buffer = Vec::with_capacity(SLOT_BYTES);
        put_u32(&mut buffer, MAGIC);
        put_u32(&mut buffer, FORMAT_VERSION);
        put_u32(&mut buffer, 0);
        put_u32(&mut buffer, if self.phase == Phase::Ready { 2 } else { 1 });
        let numbers = [
            write_number,
            self.identity.cluster.0,
            self.identity.node.as_u64(),
            self.term,
            codec::vote_as_u64(self.vote),
            self.first_index,
            self.last_index,
            self.last_term,
            self.sequence,
        ];
        numbers
            .into_iter()
            .for_each(|number| put_u64(&mut buffer, number));
        let crc = crc32fast::hash(&buffer[CHECKED_FROM..]);
        codec::set_u32_at(&mut buffer, 8, crc);
        buffer
            .try_into()
            .expect("the fields above are SLOT_BYTES long")
    }

    fn decode(slot: &[u8]) -> Slot {
        let mut decoder = Decoder::new(slot);
        if decoder.u32() != Some(MAGIC) {
            return Slot::Bad;
        }
        let Some(version) = decoder.u32() else {
            return Slot::Bad;
        };
        if version != FORMAT_VERSION {
            return Slot::OtherVersion(version);
        }
        if decoder.u32() != slot.get(CHECKED_FROM..).map(crc32fast::hash) {
            return Slot::Bad;
        }
        Self::decode_fields(&mut decoder).unwrap_or(Slot::Bad)
    }

    fn decode_fields(decoder: &mut Decoder<'_>) -> Option<Slot> {
        let phase = match decoder.u32()? {
            1 => Phase::Bootstrapping,
            2 => Phase::Ready,
            _ => return None,
        };
        let write_number = decoder.u64()?;
        let identity = Identity {
            cluster: ClusterId(decoder.u64()?),
            node: NodeId::new(decoder.u64()?)?,
        };
        let acknowledged = Acknowledged {
            phase,
            identity,
            term: decoder.u64()?,
            vote: NodeId::new(decoder.u64()?),
            first_index: decoder.u64()?,
            last_index: decoder.u64()?,
            last_term: decoder.u64()?,
            sequence: decoder.u64()?,
        };
        Some(Slot::Good {
            write_number,
            acknowledged,
        })
    }
}

enum Slot {
    Good {
        write_number: u64,
        acknowledged: Acknowledged,
    },
    OtherVersion(u32),
    Bad,
}

/// The open fence of one store.
#[derive(Debug)]
pub(super) struct Fence {
    file: Arc<dyn FileHandle>,
    path: PathBuf,
    last: Acknowledged,
    write_number: u64,
    /// The slot that the next write goes to; the other one is durable.
    slot: u64,
}

impl Fence {
    /// Makes the fence of a store whose bootstrap begins, durably. Nothing else of the store may be
    /// there before: a store without a fence is one that has lost it.
    pub(super) fn create(
        files: &dyn Files,
        dir: &Path,
        identity: Identity,
    ) -> Result<Fence, StorageError> {
        let temporary = dir.join(NAME_TEMPORARY);
        let path = dir.join(NAME);
        let last = Acknowledged {
            phase: Phase::Bootstrapping,
            identity,
            term: 0,
            vote: None,
            first_index: 1,
            last_index: 0,
            last_term: 0,
            sequence: 0,
        };
        let mut image = vec![0; FILE_BYTES as usize];
        image[..SLOT_BYTES].copy_from_slice(&last.encode(1));
        let file = files
            .create(&temporary)
            .map_err(|error| io_error("create", &temporary, &error))?;
        file.write_at(&image, 0)
            .map_err(|error| io_error("write", &temporary, &error))?;
        file.sync_data()
            .map_err(|error| io_error("sync", &temporary, &error))?;
        files
            .rename(&temporary, &path)
            .map_err(|error| io_error("rename", &temporary, &error))?;
        files
            .sync_dir(dir)
            .map_err(|error| io_error("sync", dir, &error))?;
        Ok(Fence {
            file,
            path,
            last,
            write_number: 1,
            slot: 1,
        })
    }

    /// Reads the fence of the store in `dir`; `None` where there is none.
    pub(super) fn load(files: &dyn Files, dir: &Path) -> Result<Option<Fence>, StorageError> {
        let path = dir.join(NAME);
        let file = match files.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path, &error)),
        };
        let mut slots = [[0; SLOT_BYTES]; 2];
        for (number, slot) in (0..).zip(&mut slots) {
            file.read_at(slot, number * SLOT_DISTANCE)
                .map_err(|error| io_error("read", &path, &error))?;
        }
        let length = file
            .len_bytes()
            .map_err(|error| io_error("measure", &path, &error))?;
        if length != FILE_BYTES {
            return Err(corrupt(
                &path,
                length,
                format!("the fence is {length} bytes long, not {FILE_BYTES}"),
            ));
        }
        let (slot, write_number, last) = newest(
            &path,
            [
                Acknowledged::decode(&slots[0]),
                Acknowledged::decode(&slots[1]),
            ],
        )?;
        // What was read may still be in the page cache only. From here on this slot counts as the
        // durable one, so make it so.
        file.sync_data()
            .map_err(|error| io_error("sync", &path, &error))?;
        Ok(Some(Fence {
            file,
            path,
            last,
            write_number,
            slot: 1 - slot,
        }))
    }

    pub(super) fn last(&self) -> &Acknowledged {
        &self.last
    }

    /// Writes down what is acknowledged now. The data must be durable already.
    pub(super) fn write(
        &mut self,
        acknowledged: Acknowledged,
        durability: Durability,
    ) -> Result<(), StorageError> {
        self.write_number += 1;
        self.last = acknowledged;
        let slot = acknowledged.encode(self.write_number);
        self.file
            .write_at(&slot, self.slot * SLOT_DISTANCE)
            .map_err(|error| io_error("write", &self.path, &error))?;
        if durability == Durability::Synced {
            self.file
                .sync_data()
                .map_err(|error| io_error("sync", &self.path, &error))?;
            self.slot = 1 - self.slot;
        }
        Ok(())
    }

    /// Makes the last write durable: at a clean close.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        self.file
            .sync_data()
            .map_err(|error| io_error("sync", &self.path, &error))
    }
}

/// The slot, number and content of the later of two slots.
fn newest(path: &Path, slots: [Slot; 2]) -> Result<(u64, u64, Acknowledged), StorageError> {
    let mut newest: Option<(u64, u64, Acknowledged)> = None;
    let mut other_version = None;
    for (position, slot) in (0..).zip(slots) {
        match slot {
            Slot::Good {
                write_number,
                acknowledged,
            } => {
                if newest
                    .as_ref()
                    .is_none_or(|(_, number, _)| *number < write_number)
                {
                    newest = Some((position, write_number, acknowledged));
                }
            }
            Slot::OtherVersion(found) => other_version = Some(found),
            Slot::Bad => {}
        }
    }
    match (newest, other_version) {
        (Some(newest), _) => Ok(newest),
        (None, Some(found)) => Err(StorageError::WrongFormat {
            path: path.display().to_string(),
            found,
            supported: FORMAT_VERSION,
        }),
        (None, None) => Err(corrupt(
            path,
            0,
            "neither slot of the fence has a checksum that matches",
        )),
    }
}

//! Where a replica keeps its log, its vote and its snapshots: the trait that a host may implement,
//! and the built-in stores.
//!
//! Floor 1. A store carries opaque bytes in numbered entries; it knows nothing of znodes or Raft's
//! rules. The one promise that everything rests on: what [`Storage::append`] returned `Ok` for is
//! there after a power loss.

//!
//! The built-in stores on disk share their layers: a record is the unit of
//! atomicity; the journal keeps the contract over a medium (segment files, or sled); snapshots are
//! files; the fence beside them witnesses what was acknowledged.

mod contract;
pub(crate) mod linger;
mod memory;
mod pointers;

#[cfg(any(feature = "log", feature = "sled"))]
mod codec;
#[cfg(any(feature = "log", feature = "sled"))]
mod fence;
#[cfg(any(feature = "testing", test))]
pub mod files;
#[cfg(all(
    any(feature = "log", feature = "sled"),
    not(any(feature = "testing", test))
))]
#[allow(
    unreachable_pub,
    reason = "public where a simulator may bring its own files"
)]
mod files;
#[cfg(any(feature = "log", feature = "sled"))]
mod index;
#[cfg(any(feature = "log", feature = "sled"))]
mod journal;
#[cfg(feature = "log")]
mod log;
#[cfg(any(feature = "log", feature = "sled"))]
mod record;
#[cfg(feature = "sled")]
mod sled;
#[cfg(any(feature = "log", feature = "sled"))]
mod snapshot_file;
#[cfg(any(feature = "log", feature = "sled"))]
mod system_files;

#[cfg(all(any(test, feature = "testing"), any(feature = "log", feature = "sled")))]
pub(crate) use record::{is_record_but_for_its_checksum, record_seeds};

use std::fmt;

use bytes::Bytes;

use crate::{ClusterId, NodeId};

#[cfg(feature = "log")]
pub use log::{Log, LogOptions};
pub use memory::Memory;
#[cfg(feature = "sled")]
pub use sled::{Sled, SledOptions};

/// What an entry of the log carries. The store keeps the number and does not look inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A command for the state machine (or nothing, where a leader opened its term).
    Command,
    /// A change of the cluster's membership.
    Membership,
}

/// One entry of the replicated log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    /// Its place in the log: consecutive, the first one is 1 or follows a snapshot.
    pub index: u64,
    /// The term of the leader that made it. Never decreases along the log.
    pub term: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// Opaque bytes; may be empty.
    pub data: Bytes,
}

/// What Raft must never forget besides the log (Raft paper, figure 2, *persistent state*).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HardState {
    /// The latest term seen. Never decreases.
    pub term: u64,
    /// The candidate voted for in `term`.
    pub vote: Option<NodeId>,
    /// An index known to be committed: a hint, may lag behind.
    pub commit: u64,
}

/// Who takes part in consensus (Raft's dissertation, chapter 4; joint consensus, paper section 6).
/// Every list is sorted and free of duplicates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Those whose majority decides.
    pub voters: Vec<NodeId>,
    /// The old voters while a joint configuration is in force, whose majority is needed as well.
    pub voters_outgoing: Vec<NodeId>,
    /// Those who get the log but do not vote.
    pub learners: Vec<NodeId>,
    /// Voters that become learners when the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// Whether the joint configuration is left by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// Whether it names this node, as a voter or a learner.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        [&self.voters, &self.voters_outgoing, &self.learners]
            .into_iter()
            .any(|list| list.contains(&node))
    }
}

/// What a snapshot stands for: the log up to and including `index`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotMeta {
    /// The last entry that the snapshot includes.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The configuration in force at `index`.
    pub configuration: Configuration,
}

/// Whose storage it is. Written once, checked at every open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster that the node belongs to.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
}

/// What a store holds when it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Whose it is; `None`: nobody has bootstrapped it yet, and it holds nothing.
    pub identity: Option<Identity>,
    /// The last hard state made durable. Its `commit` may lag behind the snapshot, after one was
    /// installed, and be ahead of `last_index`: it is what was appended, unchanged.
    pub hard_state: HardState,
    /// The last snapshot published.
    pub snapshot: Option<SnapshotMeta>,
    /// The index of the first entry held: one after the last compacted.
    pub first_index: u64,
    /// The index of the last entry held; `first_index - 1` when there is none.
    pub last_index: u64,
}

impl Recovered {
    /// Whether what was recovered is `expected`'s, or nobody's yet. `label` names it in the error:
    /// its path.
    ///
    /// # Errors
    /// [`StorageError::WrongIdentity`] where it is another node's or another cluster's.
    pub fn check_identity(&self, label: &str, expected: Identity) -> Result<(), StorageError> {
        match self.identity {
            Some(found) if found != expected => Err(wrong_identity(label, expected, found)),
            _ => Ok(()),
        }
    }
}

fn wrong_identity(label: &str, expected: Identity, found: Identity) -> StorageError {
    StorageError::WrongIdentity {
        path: label.to_owned(),
        expected_node: expected.node,
        expected_cluster: expected.cluster,
        found_node: found.node,
        found_cluster: found.cluster,
    }
}

/// Entries and hard state that become durable together.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WriteBatch {
    /// Consecutive entries. The first may overwrite what is held: all from its index on is dropped
    /// before (Raft's conflict rule). It never leaves a gap behind what is held.
    pub entries: Vec<LogEntry>,
    /// The new hard state, where it changed.
    pub hard_state: Option<HardState>,
}

impl WriteBatch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.hard_state.is_none()
    }
}

/// A failure of the storage. Any of them but [`StorageError::Compacted`] and
/// [`StorageError::Unavailable`], which answer a reader, stops the node: see the variants.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused an operation. After a failed write or sync nothing is
    /// acknowledged any more: what the disk holds is unknown until it is opened again.
    #[error("storage: cannot {doing} {path}: {reason}")]
    Io {
        /// What was being done, as a verb: "write", "sync", "open", ...
        doing: &'static str,
        /// On which file or directory.
        path: String,
        /// The operating system's words.
        reason: String,
    },
    /// Bytes that were once written can't be read back. Not a torn tail, which is recovered.
    #[error("storage: {path} is corrupt at byte {offset}: {reason}")]
    Corrupt {
        /// The file, or the store's own name for the record.
        path: String,
        /// Where in it, in bytes; 0 where that isn't known.
        offset: u64,
        /// What was expected and what was found.
        reason: String,
    },
    /// The store holds less than it once acknowledged: going on would forget votes or entries, and
    /// make two leaders. The node has to join again under a new id.
    #[error(
        "storage: {path} has lost acknowledged data ({reason}): this node must not take part again under its id"
    )]
    Amnesia {
        /// The directory or file.
        path: String,
        /// What was acknowledged and what is there.
        reason: String,
    },
    /// The directory is another node's or another cluster's.
    #[error(
        "storage: {path} belongs to node {found_node} of cluster {found_cluster}, not to node {expected_node} of cluster {expected_cluster}"
    )]
    WrongIdentity {
        /// The directory.
        path: String,
        /// The node that it was opened for.
        expected_node: NodeId,
        /// The cluster that it was opened for.
        expected_cluster: ClusterId,
        /// The node that it belongs to.
        found_node: NodeId,
        /// The cluster that it belongs to.
        found_cluster: ClusterId,
    },
    /// The directory was written by a version of the format that this one can't read.
    #[error("storage: {path} has format version {found}, this program reads {supported}")]
    WrongFormat {
        /// The directory or file.
        path: String,
        /// The version found.
        found: u32,
        /// The version that this program reads and writes.
        supported: u32,
    },
    /// Another process (or another node of this one) has the directory open.
    #[error("storage: {path} is in use by another process")]
    Locked {
        /// The directory.
        path: String,
    },
    /// An earlier write failed; this store accepts nothing any more (fail-stop).
    #[error("storage: stopped by an earlier failure: {reason}")]
    Stopped {
        /// The failure.
        reason: String,
    },
    /// The entries asked for are compacted away: a snapshot has to serve.
    #[error("storage: entry {index} is compacted away, the first held is {first_index}")]
    Compacted {
        /// The entry asked for.
        index: u64,
        /// The first entry held.
        first_index: u64,
    },
    /// The entries asked for are beyond the last one held.
    #[error("storage: entry {index} is not there, the last held is {last_index}")]
    Unavailable {
        /// The entry asked for.
        index: u64,
        /// The last entry held.
        last_index: u64,
    },
    /// The caller broke the contract; nothing was written.
    #[error("storage: refused: {reason}")]
    Refused {
        /// Which rule was broken, with the values.
        reason: String,
    },
}

/// A snapshot being written. Dropping it without [`SnapshotWriter::publish`] discards it.
pub trait SnapshotWriter: Send {
    /// Appends a chunk. Need not be durable before [`SnapshotWriter::publish`].
    ///
    /// # Errors
    /// A failed write discards this snapshot; the last published one is untouched.
    fn write(&mut self, chunk: &[u8]) -> Result<(), StorageError>;

    /// Makes the snapshot durable and, in one step that a crash can't split, the current one.
    ///
    /// Where the snapshot is ahead of the log (`meta.index` beyond the last entry held, or the
    /// entry at that index has another term), the whole log is replaced by it: the first index
    /// becomes `meta.index + 1` and no entry is held. Otherwise the log stays as it is.
    ///
    /// # Errors
    /// After an error the last published snapshot is still the current one.
    fn publish(self: Box<Self>) -> Result<(), StorageError>;
}

/// A published snapshot being read; it stays readable though a newer one is published meanwhile.
pub trait SnapshotReader: Send {
    /// What the snapshot stands for.
    fn meta(&self) -> &SnapshotMeta;

    /// The number of bytes in all.
    fn len_bytes(&self) -> u64;

    /// Reads up to `bytes_max` bytes from byte `offset`; empty at the end, and only there.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where the checksum doesn't match.
    fn read(&mut self, offset: u64, bytes_max: usize) -> Result<Bytes, StorageError>;
}

/// A store for one replica.
///
/// # What the caller guarantees
/// - [`Storage::bootstrap`] is called once, on an empty store, before anything else is written.
/// - One thread at a time appends, compacts, bootstraps, or publishes a received snapshot. Another may
///   meanwhile write and publish a snapshot of what is held; any thread reads.
/// - Entries of a batch are consecutive, begin at or before `last_index + 1` and after
///   `first_index - 1`; terms never decrease.
/// - A hard state's term never goes back, and a vote cast in a term never changes.
/// - `compact(index)` is at or before the published snapshot's index and the last entry held.
/// - A batch has at most 64 MiB of data and 1,048,576 entries.
///
/// # What you guarantee
/// - When `append` returns `Ok`, its entries and its hard state are durable, *both or neither*, and
///   readable. Durable means after power loss.
/// - Entries, once appended, read back byte for byte until overwritten or compacted.
/// - A snapshot is published whole or not at all; publishing never destroys the last good one before
///   the new one is durable.
/// - Reads see the last completed `append`.
///
/// # Errors
/// After a failed write or sync every later write returns [`StorageError::Stopped`].
///
/// # After a crash
/// Opening gives back every acknowledged batch; of an unacknowledged one all or nothing, and what it
/// gives back is durable by then. A bootstrap that was not acknowledged may have to be repeated. A
/// torn tail is dropped in silence. Any other damage, and a store that holds less than it acknowledged, is an
/// error when it is opened.
///
/// # Threads
/// `&self` throughout, `Send + Sync`: a storage thread writes while the replica's thread reads.
pub trait Storage: Send + Sync + fmt::Debug {
    /// What the store holds now: identity, hard state, snapshot and bounds.
    ///
    /// # Errors
    /// [`StorageError::Stopped`] after a failed write.
    fn recover(&self) -> Result<Recovered, StorageError>;

    /// Writes the identity and the first snapshot (index and term as `meta` says, `data` its whole
    /// content) into an empty store, durable when it returns. The hard state becomes
    /// `{ term: meta.term, vote: None, commit: meta.index }`.
    ///
    /// # Errors
    /// [`StorageError::Refused`] where the store is not empty.
    fn bootstrap(
        &self,
        identity: Identity,
        meta: &SnapshotMeta,
        data: &[u8],
    ) -> Result<(), StorageError>;

    /// Makes the batch durable.
    ///
    /// # Errors
    /// See the trait's *Errors*. A batch that breaks the contract is [`StorageError::Refused`].
    fn append(&self, batch: &WriteBatch) -> Result<(), StorageError>;

    /// The entries `low..high` (`high` exclusive): the longest prefix that stays within `bytes_max`
    /// bytes of data, but at least one.
    ///
    /// # Errors
    /// [`StorageError::Compacted`], [`StorageError::Unavailable`], [`StorageError::Corrupt`].
    fn entries(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<LogEntry>, StorageError>;

    /// The term of the entry at `index`; also known for `first_index - 1`.
    ///
    /// # Errors
    /// [`StorageError::Compacted`], [`StorageError::Unavailable`].
    fn term(&self, index: u64) -> Result<u64, StorageError>;

    /// The first and the last index held; `last == first - 1` when there is none.
    fn bounds(&self) -> (u64, u64);

    /// Begins to write a snapshot.
    ///
    /// # Errors
    /// See the trait's *Errors*. [`StorageError::Refused`] where a newer one is published already;
    /// [`SnapshotWriter::publish`] refuses that too, and the store goes on.
    fn snapshot_writer(&self, meta: &SnapshotMeta)
    -> Result<Box<dyn SnapshotWriter>, StorageError>;

    /// The last published snapshot, open for reading.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] where it can't be read.
    fn snapshot_reader(&self) -> Result<Option<Box<dyn SnapshotReader>>, StorageError>;

    /// Forgets all entries up to and including `index`. The term of `index` stays known.
    ///
    /// Where that is forgotten already, nothing happens.
    ///
    /// # Errors
    /// [`StorageError::Refused`] where no snapshot covers `index`.
    fn compact(&self, index: u64) -> Result<(), StorageError>;
}

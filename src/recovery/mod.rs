//! Backups, restoring them, looking into them; and when a cluster has lost its majority for good: a new
//! cluster from one survivor's disk.
//!
//! Floor 5. But for taking a backup it works on storages that no node uses. A cluster that has lost more than half of its
//! voters, disks and all, can't decide anything any more, and it must not pretend to: what it had
//! acknowledged may be on the lost disks alone. [`force_single_voter`] is the way on for an operator who
//! accepts that. It takes all that the survivor's disk holds, committed or not, and makes it the
//! beginning of *another* cluster with one voter: its id is new, so that nodes of the old one which turn
//! up after all are strangers to it. The survivor's own storage is only read.

mod archive;
mod backup;
mod contents;
mod zxids;

use sha1::{Digest as _, Sha1};

pub use backup::{Backup, BackupError, Restored, restore};
pub use contents::{Contents, SessionRecord, ZnodeRecord};

use crate::ids::{ClusterId, NodeId, Zxid};
use crate::node;
use crate::proto::{self, Batch, Rules};
use crate::state::State;
use crate::storage::{
    Configuration, EntryKind, Identity, LogEntry, SnapshotMeta, Storage, StorageError,
};

/// What an operator types to say that the old cluster is given up: its id, as
/// [`ClusterId`] is displayed. No program can know it by itself, and none should remember it.
#[derive(Clone, Debug)]
pub struct Confirmation {
    typed: String,
}

impl Confirmation {
    /// What was typed.
    pub fn typed(cluster: impl Into<String>) -> Confirmation {
        Confirmation {
            typed: cluster.into(),
        }
    }
}

/// Why nothing was recovered. Nothing was changed either, but for [`RecoveryError::Storage`] of the
/// storage that was to be written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The id typed is not that of the cluster whose disk it is.
    #[error("not confirmed: {typed:?} was typed, the disk belongs to cluster {cluster}")]
    NotConfirmed {
        /// What was typed.
        typed: String,
        /// The cluster that would be given up.
        cluster: ClusterId,
    },
    /// The survivor's storage holds nothing.
    #[error("the survivor's storage is empty")]
    NothingThere,
    /// The survivor's disk does not name it among the members: it joined and was never added, so that its tree
    /// is empty, or it was removed.
    #[error("node {node} is no member of cluster {cluster}, as far as its disk knows")]
    NotAMember {
        /// The node whose disk it is.
        node: NodeId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The storage for the new cluster holds something already.
    #[error("the storage for the new cluster belongs to node {node} of cluster {cluster} already")]
    NotEmpty {
        /// Whose it is.
        node: NodeId,
        /// Of which cluster.
        cluster: ClusterId,
    },
    /// An entry of the log can't be understood: written by a newer program.
    #[error("entry {index} of the log can't be applied: {reason}")]
    Entry {
        /// Which.
        index: u64,
        /// Why.
        reason: String,
    },
    /// The state's last zxid is so high that no cluster can go on after it. No cluster comes near: the
    /// numbers were made up.
    #[error("no cluster can go on after zxid {zxid:?}")]
    ZxidsUsedUp {
        /// The last zxid.
        zxid: Zxid,
    },
    /// No random number is to be had.
    #[error("no random number is to be had: {reason}")]
    Random {
        /// The operating system's words.
        reason: String,
    },
    /// A storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What was made of a survivor's disk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// The cluster that was given up.
    pub old_cluster: ClusterId,
    /// The cluster that was made.
    pub cluster: ClusterId,
    /// Its only voter: the survivor's id.
    pub node: NodeId,
    /// The last write that it has. The next one's zxid is greater by more than 2^30.
    pub zxid: Zxid,
    /// How many entries at the log's end were not known to be committed. They are taken for committed:
    /// the old cluster may have answered for them.
    pub entries_uncertain: u64,
}

/// Makes a new cluster of one voter in `into`, which is empty, of all that `survivor` holds. Start its
/// node with [`NodeBuilder::reopen`](crate::NodeBuilder::reopen); others then join it.
///
/// Of several survivors take the one with the highest term and, among those, the longest log: writes
/// that were acknowledged but that this one doesn't hold are lost. Sessions are kept; those that nobody
/// attaches again expire, and their ephemerals with them. Watches belong to nodes and are gone.
///
/// Zxids go on behind all that the old cluster can have handed out, as long as it made fewer than 2^30
/// writes that the survivor lacks: so fencing tokens stay valid, and no new one is smaller than one that a
/// lost write gave away.
///
/// # Errors
/// See [`RecoveryError`]. A storage that a node uses can't be opened a second time
/// ([`StorageError::Locked`]).
pub fn force_single_voter(
    survivor: &dyn Storage,
    into: &dyn Storage,
    confirmation: &Confirmation,
) -> Result<Recovery, RecoveryError> {
    let recovered = survivor.recover()?;
    let identity = recovered.identity.ok_or(RecoveryError::NothingThere)?;
    if confirmation.typed != identity.cluster.to_string() {
        return Err(RecoveryError::NotConfirmed {
            typed: confirmation.typed.clone(),
            cluster: identity.cluster,
        });
    }
    let members = recovered.snapshot.unwrap_or_default().configuration;
    let lists = [&members.voters, &members.voters_outgoing, &members.learners];
    if !lists
        .into_iter()
        .flatten()
        .any(|&node| node == identity.node)
    {
        return Err(RecoveryError::NotAMember {
            node: identity.node,
            cluster: identity.cluster,
        });
    }
    check_empty(into)?;
    let state = replay(survivor, recovered.last_index)?;
    let zxid = state.zxid();
    let node = identity.node;
    let after = (recovered.last_index, recovered.hard_state.term);
    let cluster = begin_cluster(into, identity.cluster, node, after, state)?;
    Ok(Recovery {
        old_cluster: identity.cluster,
        cluster,
        node,
        zxid,
        entries_uncertain: recovered
            .last_index
            .saturating_sub(recovered.hard_state.commit),
    })
}

fn check_empty(storage: &dyn Storage) -> Result<(), RecoveryError> {
    match storage.recover()?.identity {
        None => Ok(()),
        Some(found) => Err(RecoveryError::NotEmpty {
            node: found.node,
            cluster: found.cluster,
        }),
    }
}

/// Begins another cluster with one voter, whose log goes on after that index and term: so no node that
/// joins can take the old log and the new one for one. Nor can anybody take its writes for the old one's:
/// see [`zxids`].
fn begin_cluster(
    into: &dyn Storage,
    old: ClusterId,
    node: NodeId,
    (index, term): (u64, u64),
    mut state: State,
) -> Result<ClusterId, RecoveryError> {
    check_empty(into)?;
    zxids::skip(&mut state)?;
    state.publish();
    let frozen = state.freeze().expect("nobody else has frozen it");
    let chunks: Vec<_> = frozen.chunks().collect();
    let cluster = new_cluster_id(old)?;
    let meta = SnapshotMeta {
        index: index + 1,
        term: term + 1,
        configuration: Configuration {
            voters: vec![node],
            ..Default::default()
        },
    };
    into.bootstrap(Identity { cluster, node }, &meta, &chunks.concat())?;
    Ok(cluster)
}

/// The state after every entry that the storage holds.
fn replay(storage: &dyn Storage, last_index: u64) -> Result<State, RecoveryError> {
    const BYTES_AT_ONCE: u64 = 4 * 1024 * 1024;
    let (meta, restored) = node::read_snapshot(storage)?;
    let mut state = restored.into_state();
    let mut next = meta.index + 1;
    while next <= last_index {
        let entries = storage.entries(next, last_index + 1, BYTES_AT_ONCE)?;
        for entry in &entries {
            apply(&mut state, entry).map_err(|error| RecoveryError::Entry {
                index: entry.index,
                reason: error.reason,
            })?;
        }
        next += entries.len() as u64;
    }
    Ok(state)
}

fn apply(state: &mut State, entry: &LogEntry) -> Result<(), proto::RecordError> {
    if entry.kind != EntryKind::Command || entry.data.is_empty() {
        return Ok(());
    }
    let batch = Batch::decode(&entry.data, Rules::LATEST)?;
    state.follow(batch.rules);
    for record in batch.requests {
        let request = proto::decode_request(&record)?;
        state.apply(batch.time_ms, &request, &mut Vec::new());
    }
    Ok(())
}

/// An id that no other cluster has.
fn new_cluster_id(old: ClusterId) -> Result<ClusterId, RecoveryError> {
    let random = getrandom::u64().map_err(|error| RecoveryError::Random {
        reason: error.to_string(),
    })?;
    let mut hash = Sha1::new();
    hash.update("another cluster");
    hash.update(old.0.to_be_bytes());
    hash.update(random.to_be_bytes());
    let digest = hash.finalize();
    Ok(ClusterId(u64::from_be_bytes(
        digest[..8].try_into().expect("a digest has 20 bytes"),
    )))
}

//! Backups: taken from a node that serves, and made the beginning of a new cluster.

use std::io::{Read, Write};

use super::archive::{ArchiveReader, ArchiveWriter, Header};
use super::{RecoveryError, begin_cluster};
use crate::error::Error;
use crate::ids::{ClusterId, NodeId, Zxid};
use crate::node::{FrozenState, Node, Role};
use crate::state::{Restore, RestoredState};
use crate::storage::Storage;

/// Why a backup was not taken, or can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The writer or the reader failed.
    #[error("backup: {0}")]
    Io(#[from] std::io::Error),
    /// The node has stopped, or waits to be added to its cluster and has nothing yet.
    #[error("backup: {0}")]
    Node(#[from] Error),
    /// The bytes are not those that were written.
    #[error("the backup is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Where in the archive it was noticed, in bytes.
        offset: u64,
        /// What was found.
        reason: String,
    },
    /// The archive was written by another version of the form.
    #[error("the backup has format {found}, this program reads {supported}")]
    Format {
        /// The version found.
        found: u32,
        /// The version that this program reads and writes.
        supported: u32,
    },
    /// The storage to restore into can't be used.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

/// What a backup holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Backup {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last write in it.
    pub zxid: Zxid,
    /// The last log entry that it stands for.
    pub index: u64,
    /// The length of the archive, in bytes.
    pub bytes: u64,
}

/// What was made of a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Restored {
    /// The cluster that the backup was taken from.
    pub old_cluster: ClusterId,
    /// The new cluster.
    pub cluster: ClusterId,
    /// The last write in it. The next one's zxid is greater by more than 2^30.
    pub zxid: Zxid,
}

impl Node {
    /// Writes a backup: the tree, sessions and settings as of one moment, checksummed. The node goes on
    /// serving meanwhile; only its own snapshots wait, so the writer should not stand still for long. It
    /// is what this node has applied: on a follower that may be a little less than on the leader.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn backup(&self, writer: impl Write) -> Result<Backup, BackupError> {
        if self.status().role == Role::Joining {
            return Err(Error::NotAMember { node: self.id() }.into());
        }
        let FrozenState { meta, zxid, frozen } = self.freeze()?;
        let header = Header {
            cluster: self.cluster(),
            node: self.id(),
            zxid,
            index: meta.index,
            term: meta.term,
            voters: meta.configuration.voters,
            learners: meta.configuration.learners,
        };
        let mut archive = ArchiveWriter::begin(writer, &header)?;
        for chunk in frozen.chunks() {
            archive.write(&chunk)?;
        }
        Ok(Backup {
            cluster: header.cluster,
            zxid,
            index: header.index,
            bytes: archive.end()?,
        })
    }
}

/// Makes a new cluster of one voter, `node`, of a backup, in a storage that is empty. Start the node with
/// [`NodeBuilder::reopen`](crate::NodeBuilder::reopen); others then join it.
///
/// The cluster's id is new: the old cluster may still be there. Sessions are restored with their
/// ephemerals; those that nobody attaches again expire after their timeout, as if their nodes were gone.
/// The tree is held in memory while it is restored.
///
/// Zxids go on behind all that the old cluster has handed out since the backup, as long as that were fewer
/// than 2^30: so every fencing token of the new cluster is greater than those of the old one. The same holds
/// between two clusters that are restored from one backup, the second when the first is given up, if the
/// clock has not been set back in between.
///
/// # Errors
/// See [`BackupError`]. Nothing is written before the whole archive was checked.
pub fn restore(
    reader: impl Read,
    into: &dyn Storage,
    node: NodeId,
) -> Result<Restored, BackupError> {
    let (header, restored) = read(reader)?;
    let after = (header.index, header.term);
    let cluster = begin_cluster(into, header.cluster, node, after, restored.into_state())?;
    Ok(Restored {
        old_cluster: header.cluster,
        cluster,
        zxid: header.zxid,
    })
}

/// Reads and checks a whole archive.
pub(super) fn read(reader: impl Read) -> Result<(Header, RestoredState), BackupError> {
    let (mut archive, header) = ArchiveReader::begin(reader)?;
    let mut restore = Restore::default();
    while let Some(piece) = archive.next()? {
        restore
            .feed(&piece)
            .map_err(|error| archive.damaged(&error.to_string()))?;
    }
    let state = restore
        .finish()
        .map_err(|error| archive.damaged(&error.to_string()))?;
    Ok((header, state))
}

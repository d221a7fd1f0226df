//! What a backup or a storage holds, to be looked at offline.

use std::io::Read;

use bytes::Bytes;

use super::backup::{self, BackupError};
use super::{RecoveryError, replay};
use crate::ids::{ClusterId, NodeId, SessionId, Zxid};
use crate::stat::Stat;
use crate::state::State;
use crate::storage::Storage;

/// A tree with its sessions, outside of any node.
#[non_exhaustive]
pub struct Contents {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node that it was taken from.
    pub node: NodeId,
    /// The last log entry that it stands for.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The voters as of the backup, or of the storage's snapshot.
    pub voters: Vec<NodeId>,
    /// The learners, likewise.
    pub learners: Vec<NodeId>,
    /// The last write in it.
    pub zxid: Zxid,
    /// The first and the last entry that the log holds; `None` for a backup.
    pub log: Option<(u64, u64)>,
    state: State,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contents")
            .field("cluster", &self.cluster)
            .field("zxid", &self.zxid)
            .finish_non_exhaustive()
    }
}

/// A znode of [`Contents`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ZnodeRecord {
    /// Its path.
    pub path: String,
    /// Its data.
    pub data: Bytes,
    /// What else is known of it.
    pub stat: Stat,
}

/// A session of [`Contents`]. Its password stays inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// Its timeout, in milliseconds.
    pub timeout_ms: u32,
    /// The node that it was attached to.
    pub owner: NodeId,
}

impl Contents {
    /// Reads and checks a backup.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn of_backup(reader: impl Read) -> Result<Contents, BackupError> {
        let (header, restored) = backup::read(reader)?;
        Ok(Contents {
            cluster: header.cluster,
            node: header.node,
            index: header.index,
            term: header.term,
            voters: header.voters,
            learners: header.learners,
            zxid: header.zxid,
            log: None,
            state: restored.into_state(),
        })
    }

    /// Reads a storage that no node uses: its snapshot, and every entry of its log, whether it was
    /// committed or not.
    ///
    /// # Errors
    /// See [`RecoveryError`].
    pub fn of_storage(storage: &dyn Storage) -> Result<Contents, RecoveryError> {
        let recovered = storage.recover()?;
        let identity = recovered.identity.ok_or(RecoveryError::NothingThere)?;
        let state = replay(storage, recovered.last_index)?;
        let configuration = recovered.snapshot.unwrap_or_default().configuration;
        Ok(Contents {
            cluster: identity.cluster,
            node: identity.node,
            index: recovered.last_index,
            term: storage.term(recovered.last_index)?,
            voters: configuration.voters,
            learners: configuration.learners,
            zxid: state.zxid(),
            log: Some((recovered.first_index, recovered.last_index)),
            state,
        })
    }

    /// The znodes: each before its children, these in the order of their names.
    pub fn znodes(&self) -> impl Iterator<Item = ZnodeRecord> + '_ {
        self.state.walk().map(|znode| ZnodeRecord {
            path: znode.path.as_str().to_string(),
            data: Bytes::copy_from_slice(&znode.data),
            stat: znode.stat(),
        })
    }

    /// The sessions, by id.
    pub fn sessions(&self) -> impl Iterator<Item = SessionRecord> + '_ {
        self.state.sessions().map(|(id, session)| SessionRecord {
            id,
            timeout_ms: session.timeout_ms,
            owner: session.owner,
        })
    }
}

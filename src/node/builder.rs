//! What a host wishes its node to be. `start` makes it so.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::entropy::Entropy;
use super::join::JoinError;
use crate::clock::Clock;
use crate::consensus::Consensus;
use crate::ids::NodeId;
use crate::proto::Rules;
use crate::state::Settings;
use crate::storage::{Storage, StorageError};
use crate::transport::{Transport, TransportError};

/// Why a node could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option makes no sense.
    #[error("cannot start: {reason}")]
    Option {
        /// Which, and why.
        reason: String,
    },
    /// The storage can't be opened, or is another node's, or has lost what it acknowledged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The snapshot in the storage follows rules that this node doesn't know: a newer release wrote it.
    #[error(
        "cannot start: the data follows rules {found}, this node knows those up to {known}; \
         start it with the newer release that wrote them"
    )]
    Newer {
        /// The version of the data's rules.
        found: u32,
        /// The newest version that this node follows.
        known: u32,
    },
    /// The transport can't be started.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The node could not join its cluster.
    #[error("cannot join: {0}")]
    Join(#[from] JoinError),
}

/// How a node begins whose storage is empty.
pub(super) enum Beginning {
    /// As one of the first voters of a new cluster.
    Found(Vec<u64>),
    /// By asking these nodes of a running cluster.
    Join(Vec<u64>),
    /// Not at all.
    Reopen,
}

type MakeCore =
    dyn FnOnce(NodeId, Arc<dyn Storage>) -> std::result::Result<Box<dyn Consensus>, StorageError>;

/// Makes a [`Node`](super::Node). Every option has a default; a node without peers is a cluster of one.
pub struct NodeBuilder {
    pub(super) id: u64,
    pub(super) cluster: String,
    pub(super) beginning: Beginning,
    pub(super) join_patience: Duration,
    pub(super) promotion_lag_max: u64,
    pub(super) storage: Option<Arc<dyn Storage>>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) clock: Option<Arc<dyn Clock>>,
    pub(super) core: Option<Box<MakeCore>>,
    pub(super) seed: Option<u64>,
    pub(super) boot_nonce: Option<u32>,
    pub(super) entropy: Entropy,
    pub(super) tick: Duration,
    pub(super) election_ticks: usize,
    pub(super) settings: Settings,
    pub(super) requests_max: usize,
    pub(super) session_writes_max: usize,
    pub(super) session_reads_max: usize,
    pub(super) snapshot_log_bytes: u64,
    pub(super) log_entries_kept: u64,
    pub(super) reap_interval: Duration,
    pub(super) rules_max: Rules,
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("id", &self.id)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl NodeBuilder {
    pub(super) fn new(id: u64) -> NodeBuilder {
        NodeBuilder {
            id,
            cluster: "quorate".to_string(),
            beginning: Beginning::Found(vec![id]),
            join_patience: Duration::from_secs(30),
            promotion_lag_max: 1_024,
            storage: None,
            data_dir: None,
            transport: None,
            clock: None,
            core: None,
            seed: None,
            boot_nonce: None,
            entropy: Entropy::System,
            tick: Duration::from_millis(10),
            election_ticks: 20,
            settings: Settings::default(),
            requests_max: 16_384,
            session_writes_max: 4_096,
            session_reads_max: 16_384,
            snapshot_log_bytes: 64 * 1024 * 1024,
            log_entries_kept: 1_024,
            reap_interval: Duration::from_secs(60),
            rules_max: Rules::LATEST,
        }
    }

    /// The cluster's name, of at most 1,024 bytes. With the list of first voters it makes the cluster's
    /// id: a node or a disk of another name or another first list of voters is refused.
    pub fn cluster(mut self, name: impl Into<String>) -> NodeBuilder {
        self.cluster = name.into();
        self
    }

    /// The voters that the cluster begins with, the same on every node. Who takes part later is in
    /// the log; this list stays what it was. A node that isn't in it joins: [`NodeBuilder::join`].
    pub fn voters(mut self, ids: impl IntoIterator<Item = u64>) -> NodeBuilder {
        self.beginning = Beginning::Found(ids.into_iter().collect());
        self
    }

    /// Joins a running cluster, of which the node knows the name and some nodes; how they are reached is
    /// the transport's affair. Where the storage is empty, `start` asks these nodes for the cluster's id
    /// and returns when it is known; the node then waits ([`Role::Joining`](super::Role)) until
    /// [`Node::add_learner`](super::Node) adds it, on any node. Where the storage holds the node already, it just starts:
    /// the same code serves the first start and every later one.
    ///
    /// Settings come from the cluster. A node that is a member but has lost its disk is refused
    /// ([`JoinError::Member`]): it has to be removed before it joins again.
    pub fn join(mut self, peers: impl IntoIterator<Item = u64>) -> NodeBuilder {
        self.beginning = Beginning::Join(peers.into_iter().collect());
        self
    }

    /// Starts the node that the storage holds, however it came there; refused where it is empty. Meant
    /// for a cluster that was restored or recovered, whose id nobody can calculate.
    pub fn reopen(mut self) -> NodeBuilder {
        self.beginning = Beginning::Reopen;
        self
    }

    /// How long a joining node asks before it gives up: 30 s by default.
    pub fn join_patience(mut self, patience: Duration) -> NodeBuilder {
        self.join_patience = patience;
        self
    }

    /// How many entries of the log a learner may lack that is given a vote, where this node leads: 1,024
    /// by default.
    pub fn promotion_lag_max(mut self, entries: u64) -> NodeBuilder {
        self.promotion_lag_max = entries;
        self
    }

    /// Where the node keeps its log and its snapshots: one of [`crate::storage`]'s, or the host's own.
    /// Without it and without a directory the node keeps them in memory, and must not be started
    /// again under its id.
    pub fn storage(mut self, storage: impl Storage + 'static) -> NodeBuilder {
        self.storage = Some(Arc::new(storage));
        self
    }

    /// Keeps log and snapshots in the default store, [`storage::Log`](crate::storage::Log), in this directory.
    #[cfg(feature = "log")]
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> NodeBuilder {
        self.data_dir = Some(dir.into());
        self
    }

    /// How the node reaches the others: one of [`crate::transport`]'s, or the host's own.
    pub fn transport(mut self, transport: impl Transport + 'static) -> NodeBuilder {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Where the node reads the time.
    pub fn clock(mut self, clock: impl Clock + 'static) -> NodeBuilder {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Another consensus core than Raft: made from the node's id and its storage, which holds the
    /// cluster's first snapshot by then.
    pub fn consensus(
        mut self,
        core: impl FnOnce(
            NodeId,
            Arc<dyn Storage>,
        ) -> std::result::Result<Box<dyn Consensus>, StorageError>
        + 'static,
    ) -> NodeBuilder {
        self.core = Some(Box::new(core));
        self
    }

    /// What the node's random choices (its election timeouts) are drawn from. By default from the
    /// operating system.
    pub fn seed(mut self, seed: u64) -> NodeBuilder {
        self.seed = Some(seed);
        self
    }

    /// Draws everything random from a seed: also passwords, and what tells this start of the node from
    /// every other, `boot_nonce`. For simulations, where nothing is secret.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn deterministic(mut self, seed: u64, boot_nonce: u32) -> NodeBuilder {
        self.boot_nonce = Some(boot_nonce);
        self.entropy = Entropy::seeded(seed);
        self.seed(seed)
    }

    /// The unit of the node's time: 10 ms by default. A leader is heard of every 5 ticks.
    pub fn tick(mut self, tick: Duration) -> NodeBuilder {
        self.tick = tick;
        self
    }

    /// How many ticks without a leader lead to an election: 20 by default, up to twice as many by
    /// lot.
    pub fn election_ticks(mut self, ticks: usize) -> NodeBuilder {
        self.election_ticks = ticks;
        self
    }

    /// The shortest and the longest timeout that a session may have; what is asked for is clamped.
    /// 4 s to 40 s by default, as in ZooKeeper. Fixed when the cluster begins.
    pub fn session_timeouts(mut self, min: Duration, max: Duration) -> NodeBuilder {
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        self.settings.session_timeout_min_ms = ms(min);
        self.settings.session_timeout_max_ms = ms(max);
        self
    }

    /// The most data that a znode may have, in bytes: 1 MiB by default, 7 MiB at most. Fixed when the
    /// cluster begins.
    pub fn data_bytes_max(mut self, bytes: u32) -> NodeBuilder {
        self.settings.data_bytes_max = bytes;
        self
    }

    /// Refuses what would exceed a hard quota (ZooKeeper's `enforceQuota`). Fixed when the cluster
    /// begins.
    pub fn enforce_quotas(mut self) -> NodeBuilder {
        self.settings.enforce_quota = true;
        self
    }

    /// Further schemes that ACLs may name, besides ZooKeeper's. Fixed when the cluster begins.
    pub fn auth_schemes(
        mut self,
        schemes: impl IntoIterator<Item = impl Into<String>>,
    ) -> NodeBuilder {
        self.settings.auth_schemes = schemes.into_iter().map(Into::into).collect();
        self
    }

    /// How many calls may wait for the node's loop: 16,384 by default. One more is answered
    /// [`crate::Error::Overloaded`].
    pub fn requests_max(mut self, requests: usize) -> NodeBuilder {
        self.requests_max = requests;
        self
    }

    /// How many writes one session may have unanswered: 4,096 by default, and at most. One more is
    /// answered [`crate::Error::Overloaded`].
    pub fn session_writes_max(mut self, writes: usize) -> NodeBuilder {
        self.session_writes_max = writes;
        self
    }

    /// How many reads of one session may wait for its unanswered writes: 16,384 by default. One more is
    /// answered [`crate::Error::Overloaded`].
    pub fn session_reads_max(mut self, reads: usize) -> NodeBuilder {
        self.session_reads_max = reads;
        self
    }

    /// After how many bytes of log a snapshot is taken: 64 MiB by default.
    pub fn snapshot_log_bytes(mut self, bytes: u64) -> NodeBuilder {
        self.snapshot_log_bytes = bytes;
        self
    }

    /// How many log entries before a snapshot are kept, so that a follower that is a little behind
    /// needs no snapshot: 1,024 by default.
    pub fn log_entries_kept(mut self, entries: u64) -> NodeBuilder {
        self.log_entries_kept = entries;
        self
    }

    /// How often the leader looks for containers and TTL znodes that are due: every 60 s by default,
    /// as in ZooKeeper.
    pub fn reap_interval(mut self, interval: Duration) -> NodeBuilder {
        self.reap_interval = interval;
        self
    }

    /// Holds the node to the rules of an older release: those of this number, from 1 to 2, the default.
    ///
    /// The log follows the newest rules that all members know. So this lets a host's test rehearse a
    /// rolling upgrade, or holds one back. Rules are never taken back: a node that knows fewer than the
    /// log already follows stops with an error that says so.
    pub fn rules_max(mut self, number: u32) -> NodeBuilder {
        self.rules_max = Rules::from_number(number).min(Rules::LATEST);
        self
    }
}

//! From a host's wishes to a running node: its options checked, its storage opened or begun, its parts put
//! together, its threads started.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use crossbeam_channel::{Receiver, bounded, unbounded};
use parking_lot::Mutex;
use sha1::{Digest as _, Sha1};

use super::builder::{Beginning, NodeBuilder, StartError};
use super::driver::{Driver, Queues};
use super::inbox::PeerInbox;
use super::join::{self, JoiningInbox};
use super::shared::NodeShared;
use super::snapshotter::{Snapshotter, run_snapshotter};
use super::workers::{self, Reports, SnapshotJob, WriteJob};
use super::{Node, Waker, run};
use crate::clock::SystemClock;
use crate::consensus::{RaftCore, RaftOptions};
use crate::ids::{ClusterId, NodeId};
use crate::op::OP_BYTES_MAX;
use crate::replica::{Join, NAME_BYTES_MAX, Replica, ReplicaOptions, Welcome};
use crate::state::{Restore, RestoredState, Settings, State};
use crate::storage::{self, Configuration, Identity, SnapshotMeta, Storage, StorageError};
use crate::transport::{self, Local, Transport};

impl NodeBuilder {
    /// Opens the storage, or begins a new cluster where it is empty, and starts the node.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(self) -> std::result::Result<Node, StartError> {
        let Assembly {
            id,
            cluster,
            shared,
            transport,
            storage,
            driver,
            wake,
            writes,
            snapshots,
            reports,
        } = self.assemble()?;
        let stop_unless_started = StopUnlessStarted::new(&transport);
        let span = shared.telling.span(cluster);
        let spawn = |what, body| spawn(id, what, span.clone(), body);
        let mut threads = Vec::new();
        let (store, report, clock) = (storage.clone(), reports.clone(), shared.clock.clone());
        threads.push(spawn(
            "writer",
            Box::new(move || workers::run_writer(&store, &writes, &report, &*clock)),
        )?);
        let mut snapshotter = Snapshotter::new(storage, shared.clock.clone());
        threads.push(spawn(
            "snapshots",
            Box::new(move || run_snapshotter(&mut snapshotter, &snapshots, &reports)),
        )?);
        span.in_scope(|| shared.telling.started(&shared.status()));
        let for_loop = shared.clone();
        threads.push(spawn(
            "loop",
            Box::new(move || run(driver, &wake, &for_loop)),
        )?);
        stop_unless_started.has_started();
        Ok(Node {
            id,
            cluster,
            shared,
            transport,
            threads: Mutex::new(threads),
        })
    }

    /// Everything that a node is made of, but its threads.
    pub(crate) fn assemble(mut self) -> std::result::Result<Assembly, StartError> {
        let id = NodeId::new(self.id).ok_or_else(|| invalid("0 is no node's id"))?;
        self.check_limits()?;
        let named = self.check_named(id)?;
        let storage = self.open_storage()?;
        let clock = self
            .clock
            .take()
            .unwrap_or_else(|| Arc::new(SystemClock::new()));
        let transport = self.take_transport(id)?;
        let joining = self.begin(id, &named, &*storage, &*transport)?;
        let stop_unless_started = joining
            .is_some()
            .then(|| StopUnlessStarted::new(&transport));
        let (meta, restored, cluster) = self.load(id, &named, &*storage)?;
        if restored.rules() > self.rules_max {
            return Err(StartError::Newer {
                found: restored.rules().number(),
                known: self.rules_max.number(),
            });
        }

        let options = self.replica_options(id, cluster, restored.joined_as_of())?;
        let core = match self.core.take() {
            Some(make) => make(id, storage.clone())?,
            None => Box::new(RaftCore::new(id, storage.clone(), self.raft_options()?)?),
        };
        let state = restored.into_state();
        let reader = state.reader();
        let mut replica = Replica::new(options, core, state, &meta, clock.now());
        replica.publish();

        let (waker, wake) = Waker::new();
        let (commands, commands_out) = bounded(self.requests_max);
        let (peers, peers_out) = bounded(PEER_MESSAGES_MAX);
        let (disconnected, disconnected_out) = bounded(DISCONNECTIONS_MAX);
        let (done, done_out) = unbounded();
        let (writes, writes_out) = bounded(WRITE_JOBS_MAX);
        let (snapshots, snapshots_out) = bounded(SNAPSHOT_JOBS_MAX);
        let shared = Arc::new(NodeShared::new(
            id,
            cluster,
            reader,
            commands,
            waker.clone(),
            clock,
            self.entropy,
        ));
        let bytes_queued = Arc::new(AtomicUsize::new(0));
        let queues = Queues {
            commands: commands_out,
            peers: peers_out,
            peer_bytes: bytes_queued.clone(),
            disconnected: disconnected_out,
            done: done_out,
            writes,
            snapshots,
        };
        let driver = Driver::new(
            id,
            cluster,
            replica,
            queues,
            transport.clone(),
            shared.clone(),
        );
        let inbox = PeerInbox {
            cluster,
            id,
            peers,
            bytes_queued,
            disconnected,
            waker: waker.clone(),
            meters: shared.telling.meters.clone(),
        };
        match joining {
            Some(joining) => joining.run(inbox),
            None => transport.start(Local { cluster, node: id }, Arc::new(inbox))?,
        }
        if let Some(guard) = stop_unless_started {
            guard.has_started();
        }
        Ok(Assembly {
            id,
            cluster,
            shared,
            transport,
            storage,
            driver,
            wake,
            writes: writes_out,
            snapshots: snapshots_out,
            reports: Reports { done, waker },
        })
    }

    /// The nodes that were named to the builder: sorted, and such that the beginning makes sense.
    fn check_named(&self, id: NodeId) -> std::result::Result<Vec<NodeId>, StartError> {
        let given: &[u64] = match &self.beginning {
            Beginning::Found(ids) | Beginning::Join(ids) => ids,
            Beginning::Reopen => &[],
        };
        let mut named = Vec::new();
        for &node in given {
            named.push(NodeId::new(node).ok_or_else(|| invalid("a node named has the id 0"))?);
        }
        named.sort_unstable();
        named.dedup();
        if named.len() != given.len() {
            return Err(invalid("a node is named twice"));
        }
        match &self.beginning {
            Beginning::Found(_) if !named.contains(&id) => Err(invalid(format!(
                "node {id} is not among the voters {named:?}: a node that comes later joins"
            ))),
            // A node may name itself among those that it would ask.
            Beginning::Join(_) => {
                named.retain(|&node| node != id);
                Ok(named)
            }
            _ => Ok(named),
        }
    }

    fn check_limits(&self) -> std::result::Result<(), StartError> {
        let (found, limit) = (self.settings.data_bytes_max, DATA_BYTES_MAX);
        if found > limit {
            return Err(invalid(format!(
                "data_bytes_max is {found}, at most {limit} are possible"
            )));
        }
        if self.cluster.len() > NAME_BYTES_MAX {
            return Err(invalid(format!(
                "the cluster's name has more than {NAME_BYTES_MAX} bytes"
            )));
        }
        let (found, limit) = (self.session_writes_max, self.settings.results_kept_max);
        if found > limit as usize {
            return Err(invalid(format!(
                "session_writes_max is {found}, at most {limit} are possible"
            )));
        }
        Ok(())
    }

    fn open_storage(&mut self) -> std::result::Result<Arc<dyn Storage>, StartError> {
        match (self.storage.take(), self.data_dir.take()) {
            (Some(_), Some(_)) => Err(invalid("both a storage and a directory are given")),
            (Some(storage), None) => Ok(storage),
            #[cfg(feature = "log")]
            (None, Some(dir)) => Ok(Arc::new(storage::Log::open(
                dir,
                storage::LogOptions::default(),
            )?)),
            #[cfg(not(feature = "log"))]
            (None, Some(_)) => Err(invalid("a directory takes the feature `log`")),
            (None, None) => Ok(Arc::new(storage::Memory::new())),
        }
    }

    fn take_transport(
        &mut self,
        id: NodeId,
    ) -> std::result::Result<Arc<dyn Transport>, StartError> {
        match self.transport.take() {
            Some(transport) => Ok(transport),
            None if self.is_alone() => Ok(Arc::new(transport::Network::new(0).endpoint(id))),
            None => Err(invalid("a node with peers needs a transport")),
        }
    }

    fn is_alone(&self) -> bool {
        match &self.beginning {
            Beginning::Found(voters) => voters.len() == 1,
            Beginning::Join(_) => false,
            Beginning::Reopen => true,
        }
    }

    /// Gives an empty storage its beginning. A node that joins has started its transport by then, and
    /// gives back what it has started it with.
    fn begin(
        &self,
        id: NodeId,
        named: &[NodeId],
        storage: &dyn Storage,
        transport: &dyn Transport,
    ) -> std::result::Result<Option<Arc<JoiningInbox>>, StartError> {
        if storage.recover()?.identity.is_some() {
            return Ok(None);
        }
        match &self.beginning {
            Beginning::Found(_) => {
                let cluster = cluster_id(&self.cluster, named, &self.settings);
                let meta = SnapshotMeta {
                    index: 1,
                    term: 1,
                    configuration: Configuration {
                        voters: named.to_vec(),
                        ..Default::default()
                    },
                };
                let genesis = genesis(&self.settings, 0);
                storage.bootstrap(Identity { cluster, node: id }, &meta, &genesis)?;
                Ok(None)
            }
            Beginning::Reopen => Err(invalid("the storage to be opened again is empty")),
            Beginning::Join(_) if named.is_empty() => {
                Err(invalid("the storage is empty, and there is nobody to ask"))
            }
            Beginning::Join(_) => {
                let (inbox, replies) = JoiningInbox::new();
                let unknown = Local {
                    cluster: ClusterId(0),
                    node: id,
                };
                transport.start(unknown, inbox.clone())?;
                let join = Join {
                    nonce: random()?,
                    name: self.cluster.clone(),
                    node: id,
                };
                let joined = join::inquire(&join, named, transport, &replies, self.join_patience)
                    .map_err(StartError::from)
                    .and_then(|welcome| Ok(bind_joined(storage, welcome, id, named)?));
                match joined {
                    Ok(()) => Ok(Some(inbox)),
                    Err(error) => {
                        transport.stop();
                        Err(error)
                    }
                }
            }
        }
    }

    /// Reads the snapshot that the node begins with.
    fn load(
        &self,
        id: NodeId,
        named: &[NodeId],
        storage: &dyn Storage,
    ) -> std::result::Result<(SnapshotMeta, RestoredState, ClusterId), StartError> {
        let recovered = storage.recover()?;
        let (meta, restored) = read_snapshot(storage)?;
        let cluster = match (&self.beginning, recovered.identity) {
            // It was told to this node, and can't be calculated.
            (Beginning::Join(_) | Beginning::Reopen, Some(identity)) => identity.cluster,
            _ => cluster_id(&self.cluster, named, restored.settings()),
        };
        recovered.check_identity(&format!("{storage:?}"), Identity { cluster, node: id })?;
        Ok((meta, restored, cluster))
    }

    fn raft_options(&self) -> std::result::Result<RaftOptions, StartError> {
        let mut options = RaftOptions::with_seed(match self.seed {
            Some(seed) => seed,
            None => random()?,
        });
        options.election_ticks = self.election_ticks;
        options.heartbeat_ticks = (self.election_ticks / 4).max(1);
        Ok(options)
    }

    fn replica_options(
        &self,
        id: NodeId,
        cluster: ClusterId,
        joined_as_of: u64,
    ) -> std::result::Result<ReplicaOptions, StartError> {
        if self.tick.is_zero() {
            return Err(invalid("the tick is zero"));
        }
        Ok(ReplicaOptions {
            id,
            rules_max: self.rules_max,
            cluster,
            cluster_name: self.cluster.clone(),
            joined_as_of,
            promotion_lag_max: self.promotion_lag_max,
            boot_nonce: match self.boot_nonce {
                Some(nonce) => nonce,
                None => random()? as u32,
            },
            tick: self.tick,
            election_timeout: self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX),
            session_writes_max: self.session_writes_max,
            session_reads_max: self.session_reads_max,
            barriers_max: self.requests_max,
            sessions_max: 65_536,
            batch_bytes_max: 1024 * 1024,
            snapshot_log_bytes: self.snapshot_log_bytes,
            log_entries_kept: self.log_entries_kept,
            reap_interval: self.reap_interval,
            reap_max: 10_000,
        })
    }
}

/// Gives an empty storage the beginning of a node that was welcomed to a cluster by one of `named`.
pub(crate) fn bind_joined(
    storage: &dyn Storage,
    Welcome { cluster, as_of }: Welcome,
    node: NodeId,
    named: &[NodeId],
) -> std::result::Result<(), StorageError> {
    let identity = Identity { cluster, node };
    let empty = genesis(&Settings::default(), as_of);
    storage.bootstrap(identity, &join::placeholder(named), &empty)
}

/// Stops a transport that was started for a node, where nothing comes of the node: its address is free for
/// the next try. Threads that were started end by themselves when their queues are gone.
struct StopUnlessStarted(Option<Arc<dyn Transport>>);

impl StopUnlessStarted {
    fn new(transport: &Arc<dyn Transport>) -> StopUnlessStarted {
        StopUnlessStarted(Some(transport.clone()))
    }

    fn has_started(mut self) {
        self.0 = None;
    }
}

impl Drop for StopUnlessStarted {
    fn drop(&mut self) {
        if let Some(transport) = &self.0 {
            transport.stop();
        }
    }
}

/// What `data_bytes_max` may be at most, so that an operation has room for its path and its ACL.
const DATA_BYTES_MAX: u32 = (OP_BYTES_MAX - 1024 * 1024) as u32;

/// A node without its threads: who drives it decides when its loop turns and its disk works.
pub(crate) struct Assembly {
    pub id: NodeId,
    pub cluster: ClusterId,
    pub shared: Arc<NodeShared>,
    pub transport: Arc<dyn Transport>,
    pub storage: Arc<dyn Storage>,
    pub driver: Driver,
    /// Says that the loop has something to do.
    pub wake: Receiver<()>,
    pub writes: Receiver<WriteJob>,
    pub snapshots: Receiver<SnapshotJob>,
    pub reports: Reports,
}

/// The most messages of peers that wait for the loop; one more is dropped, as a network may.
const PEER_MESSAGES_MAX: usize = 16_384;

/// The most broken connections that the loop is told of at once.
const DISCONNECTIONS_MAX: usize = 1024;

/// The most writes that wait for the disk. The loop waits where it is full: a disk that slow has
/// long stopped acknowledging.
const WRITE_JOBS_MAX: usize = 65_536;

/// The most pieces of snapshots that wait to be read or staged.
const SNAPSHOT_JOBS_MAX: usize = 65_536;

fn invalid(reason: impl Into<String>) -> StartError {
    StartError::Option {
        reason: reason.into(),
    }
}

fn random() -> std::result::Result<u64, StartError> {
    getrandom::u64().map_err(|error| invalid(format!("no random number is to be had: {error}")))
}

/// Reads the published snapshot of a storage that has an identity.
pub(crate) fn read_snapshot(
    storage: &dyn Storage,
) -> std::result::Result<(SnapshotMeta, RestoredState), StorageError> {
    let mut reader = storage
        .snapshot_reader()?
        .ok_or_else(|| StorageError::Corrupt {
            path: format!("{storage:?}"),
            offset: 0,
            reason: "it has an identity but no snapshot".to_string(),
        })?;
    let mut restore = Restore::default();
    let mut offset = 0;
    let corrupt = |offset, reason: String| StorageError::Corrupt {
        path: "the snapshot".to_string(),
        offset,
        reason,
    };
    loop {
        let chunk = reader.read(offset, 1024 * 1024)?;
        if chunk.is_empty() {
            break;
        }
        restore
            .feed(&chunk)
            .map_err(|error| corrupt(offset, error.to_string()))?;
        offset += chunk.len() as u64;
    }
    let restored = restore
        .finish()
        .map_err(|error| corrupt(offset, error.to_string()))?;
    Ok((reader.meta().clone(), restored))
}

/// The tree that every cluster begins with, as a snapshot; for a node that joins with the log entry as of
/// which it was no member.
fn genesis(settings: &Settings, joined_as_of: u64) -> Bytes {
    let mut state = State::new(settings.clone());
    state.publish();
    let frozen = state.freeze().expect("nobody else has frozen it");
    let chunks: Vec<_> = frozen.joined_as_of(joined_as_of).chunks().collect();
    Bytes::from(chunks.concat())
}

/// The id of the cluster that begins with this name, these voters and these settings: all its nodes
/// come to the same one by themselves, and nodes that were told different things are strangers.
fn cluster_id(name: &str, voters: &[NodeId], settings: &Settings) -> ClusterId {
    let mut hash = Sha1::new();
    hash.update((name.len() as u64).to_be_bytes());
    hash.update(name);
    for voter in voters {
        hash.update(voter.as_u64().to_be_bytes());
    }
    hash.update(format!("{settings:?}"));
    let digest = hash.finalize();
    ClusterId(u64::from_be_bytes(
        digest[..8].try_into().expect("a digest has 20 bytes"),
    ))
}

fn spawn(
    id: NodeId,
    what: &str,
    span: tracing::Span,
    body: Box<dyn FnOnce() + Send>,
) -> std::result::Result<std::thread::JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(format!("quorate-{id}-{what}"))
        .spawn(move || span.in_scope(body))
        .map_err(|error| invalid(format!("no thread is to be had: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_joining_node_was_told_lasts_in_its_storage() {
        let storage = storage::Memory::new();
        let node = NodeId::new(4).unwrap();
        let welcome = Welcome {
            cluster: ClusterId(7),
            as_of: 9,
        };
        bind_joined(&storage, welcome, node, &[]).unwrap();
        let (meta, restored) = read_snapshot(&storage).unwrap();
        assert_eq!((meta.index, meta.term), (1, 2));
        assert_eq!(restored.joined_as_of(), 9);
        let identity = storage.recover().unwrap().identity.unwrap();
        assert_eq!((identity.cluster, identity.node), (ClusterId(7), node));
    }
}

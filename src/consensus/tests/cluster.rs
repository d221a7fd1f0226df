//! A few cores with their stores and the messages between them, in one thread, driven step by step.
//!
//! It does what the contract of [`Consensus`] asks of a caller and nothing else, and writes down
//! everything that is given out. The wire keeps its order; who wants another takes messages out of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use protobuf::Message as _;

use super::describe;
use super::memory_store::MemoryStore;
use crate::consensus::raft::convert::meta_from_raft;
use crate::consensus::{Consensus, RaftCore, RaftOptions, Ready, StepError};
use crate::storage::{
    Configuration, Identity, LogEntry, SnapshotMeta, Storage as _, StorageError, WriteBatch,
};
use crate::{ClusterId, NodeId};

pub(super) fn node_id(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn voters(ids: &[u64]) -> Configuration {
    Configuration {
        voters: ids.iter().map(|&id| node_id(id)).collect(),
        ..Configuration::default()
    }
}

pub(super) fn first_snapshot(configuration: &Configuration) -> SnapshotMeta {
    SnapshotMeta {
        index: 1,
        term: 1,
        configuration: configuration.clone(),
    }
}

/// What a node begins with that joins: it matches nobody's log.
pub(super) fn placeholder(peers: &[u64]) -> SnapshotMeta {
    SnapshotMeta {
        index: 1,
        term: 2,
        configuration: voters(peers),
    }
}

/// A message under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) bytes: Bytes,
    /// Whether a snapshot travels with it, whose sender hears of its arrival.
    pub(super) snapshot: bool,
}

/// What a node's disk has still to do for one `Ready`.
struct Write {
    number: u64,
    install: Option<SnapshotMeta>,
    batch: WriteBatch,
    /// The terms of the entries before those of `batch`.
    previous_terms: Vec<u64>,
}

/// One node: its core lives and dies, its store stays.
pub(super) struct Node {
    pub(super) core: Option<RaftCore>,
    pub(super) store: MemoryStore,
    writes: VecDeque<Write>,
    /// Every entry given out as committed since the node started, after the snapshot it holds.
    pub(super) applied: Vec<LogEntry>,
    pub(super) applied_index: u64,
    pub(super) barriers: Vec<(u64, u64)>,
    /// Whether writes wait until they are asked for.
    pub(super) slow_disk: bool,
    /// The term of every entry of the log, written or given out to be: index to term.
    pub(super) log_terms: BTreeMap<u64, u64>,
}

impl Node {
    /// What is left after a crash.
    fn read_log_terms(&mut self) {
        let (first, last) = self.store.bounds();
        let read = |index| (index, self.store.term(index).unwrap());
        self.log_terms = (first - 1..=last).map(read).collect();
    }
}

/// What the cores gave out, for whoever checks it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Durable; with the term of the entry before it.
    Write {
        entry: LogEntry,
        previous_term: u64,
    },
    Committed(LogEntry),
    Install(SnapshotMeta),
}

pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<u64, Node>,
    pub(super) wire: VecDeque<Packet>,
    /// Which way messages are lost: (from, to).
    pub(super) cut: Vec<(u64, u64)>,
    pub(super) trace: String,
    /// Whether `trace` is written.
    pub(super) traces: bool,
    /// What happened on which node, in order; emptied by whoever checks it.
    pub(super) events: Vec<(u64, Event)>,
    pub(super) options: RaftOptions,
    configuration: Configuration,
}

impl Cluster {
    pub(super) fn new(configuration: Configuration, options: RaftOptions) -> Cluster {
        let members: Vec<NodeId> =
            [&configuration.voters[..], &configuration.learners[..]].concat();
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: Vec::new(),
            trace: String::new(),
            traces: true,
            events: Vec::new(),
            options,
            configuration,
        };
        for member in members {
            cluster.join(member.as_u64());
        }
        cluster
    }

    /// Adds a node with an empty log under the first configuration.
    pub(super) fn join(&mut self, id: u64) {
        self.join_with(id, &first_snapshot(&self.configuration));
    }

    /// A new node that begins with this snapshot.
    pub(super) fn join_with(&mut self, id: u64, first: &SnapshotMeta) {
        let identity = Identity {
            cluster: ClusterId(1),
            node: node_id(id),
        };
        let store = MemoryStore::bootstrapped(identity, first);
        let node = Node {
            core: None,
            store,
            writes: VecDeque::new(),
            applied: Vec::new(),
            applied_index: 1,
            barriers: Vec::new(),
            slow_disk: false,
            log_terms: BTreeMap::new(),
        };
        self.nodes.insert(id, node);
        self.restart(id).unwrap();
    }

    pub(super) fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).unwrap()
    }

    pub(super) fn core(&mut self, id: u64) -> &mut RaftCore {
        self.node(id).core.as_mut().unwrap()
    }

    pub(super) fn is_up(&self, id: u64) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some())
    }

    /// What wasn't written is gone.
    pub(super) fn crash(&mut self, id: u64) {
        let node = self.node(id);
        node.core = None;
        node.writes.clear();
    }

    pub(super) fn restart(&mut self, id: u64) -> Result<(), StorageError> {
        let options = self.options.clone();
        let node = self.node(id);
        let core = RaftCore::new(node_id(id), Arc::new(node.store.clone()), options)?;
        node.applied_index = node
            .store
            .recover()?
            .snapshot
            .map_or(0, |snapshot| snapshot.index);
        node.applied.clear();
        node.read_log_terms();
        node.core = Some(core);
        self.pump(id);
        Ok(())
    }

    /// Calls the core and takes everything it gives out then.
    pub(super) fn with_core<T>(&mut self, id: u64, call: impl FnOnce(&mut RaftCore) -> T) -> T {
        let result = call(self.core(id));
        self.pump(id);
        result
    }

    fn pump(&mut self, id: u64) {
        while let Some(ready) = self.core(id).ready() {
            if self.traces {
                let _ = writeln!(self.trace, "{}", describe::ready(id, &ready));
            }
            let previous_terms = self.record(id, &ready);
            self.carry_out(id, ready, previous_terms);
        }
    }

    /// Follows the log that the core works on; gives the terms of the entries before those written.
    fn record(&mut self, id: u64, ready: &Ready) -> Vec<u64> {
        let log_terms = &mut self.nodes.get_mut(&id).unwrap().log_terms;
        if let Some(meta) = &ready.install {
            *log_terms = BTreeMap::from([(meta.index, meta.term)]);
            self.events.push((id, Event::Install(meta.clone())));
        }
        let mut previous_terms = Vec::new();
        for entry in &ready.write.entries {
            log_terms.split_off(&entry.index);
            previous_terms.push(log_terms[&(entry.index - 1)]);
            log_terms.insert(entry.index, entry.term);
        }
        let committed = ready.committed.iter().cloned();
        self.events
            .extend(committed.map(|entry| (id, Event::Committed(entry))));
        previous_terms
    }

    fn carry_out(&mut self, id: u64, ready: Ready, previous_terms: Vec<u64>) {
        for (to, bytes) in ready.messages {
            self.wire.push_back(Packet {
                from: id,
                to: to.as_u64(),
                bytes,
                snapshot: false,
            });
        }
        for send in ready.snapshots {
            self.wire.push_back(Packet {
                from: id,
                to: send.to.as_u64(),
                bytes: send.message,
                snapshot: true,
            });
        }
        let node = self.node(id);
        node.barriers.extend(ready.barriers);
        node.writes.push_back(Write {
            number: ready.number,
            install: ready.install,
            batch: ready.write,
            previous_terms,
        });
        for entry in ready.committed {
            assert_eq!(
                entry.index,
                node.applied_index + 1,
                "node {id} was given an entry out of order"
            );
            let durable = node.store.log().contains(&entry);
            assert!(
                durable,
                "node {id} was given entry {} before it was durable",
                entry.index
            );
            node.applied_index = entry.index;
            node.applied.push(entry);
        }
        let applied_index = node.applied_index;
        if let Some(core) = &mut node.core {
            core.applied(applied_index);
        }
    }

    /// Carries out the oldest write of node `id`, and the empty ones before it; false where there is
    /// none.
    pub(super) fn persist(&mut self, id: u64) -> bool {
        let node = self.node(id);
        let Some(mut write) = node.writes.pop_front() else {
            return false;
        };
        while write.install.is_none() && write.batch.is_empty() {
            match node.writes.pop_front() {
                Some(next) => write = next,
                None => break,
            }
        }
        if let Some(meta) = &write.install {
            node.store.publish(meta);
            node.applied.clear();
            node.applied_index = meta.index;
        }
        node.store.append(&write.batch).unwrap();
        for (entry, previous_term) in write.batch.entries.into_iter().zip(write.previous_terms) {
            self.events.push((
                id,
                Event::Write {
                    entry,
                    previous_term,
                },
            ));
        }
        self.with_core(id, |core| core.persisted(write.number));
        true
    }

    /// Hands `packet` over, unless the way is cut or the node down.
    pub(super) fn deliver(&mut self, packet: Packet) -> Result<(), StepError> {
        if !self.is_up(packet.to) || self.cut.contains(&(packet.from, packet.to)) {
            if packet.snapshot && self.is_up(packet.from) {
                self.with_core(packet.from, |core| {
                    core.snapshot_sent(node_id(packet.to), false)
                });
            }
            return Ok(());
        }
        let result = self.with_core(packet.to, |core| {
            step(core, node_id(packet.from), &packet.bytes)
        });
        if packet.snapshot && self.is_up(packet.from) {
            self.with_core(packet.from, |core| {
                core.snapshot_sent(node_id(packet.to), true)
            });
        }
        result
    }

    /// Writes and delivers until nothing is left to do.
    pub(super) fn stabilize(&mut self) {
        for _ in 0..10_000 {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            let mut busy = false;
            for id in ids {
                while self.is_up(id) && !self.nodes[&id].slow_disk && self.persist(id) {
                    busy = true;
                }
            }
            if let Some(packet) = self.wire.pop_front() {
                busy = true;
                let to = packet.to;
                if let Err(error) = self.deliver(packet) {
                    let _ = writeln!(self.trace, "{to} error: {error}");
                }
            }
            if !busy {
                return;
            }
        }
        panic!("the cluster never comes to rest:\n{}", self.trace);
    }

    /// Publishes a snapshot of all that node `id` has applied and compacts its log.
    pub(super) fn snapshot_and_compact(&mut self, id: u64) {
        let node = self.node(id);
        let index = node.applied_index;
        let term = node.store.term(index).unwrap();
        let configuration = node.core.as_ref().unwrap().configuration();
        node.store.publish(&SnapshotMeta {
            index,
            term,
            configuration,
        });
        node.store.compact(index).unwrap();
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let leading = self.nodes.iter().filter_map(|(&id, node)| {
            let status = node.core.as_ref()?.status();
            (status.role == crate::consensus::Role::Leader).then_some((status.term, id))
        });
        leading.max().map(|(_, id)| id)
    }
}

/// Hands a message over as a node does: a snapshot's message with the snapshot that it speaks of.
pub(super) fn step(
    core: &mut (impl Consensus + ?Sized),
    from: NodeId,
    bytes: &[u8],
) -> Result<(), StepError> {
    let message = raft::eraftpb::Message::parse_from_bytes(bytes);
    match message {
        Ok(message) if message.get_msg_type() == raft::eraftpb::MessageType::MsgSnapshot => {
            let meta = meta_from_raft(message.get_snapshot().get_metadata());
            core.step_snapshot(from, bytes, &meta)
        }
        _ => core.step(from, bytes),
    }
}

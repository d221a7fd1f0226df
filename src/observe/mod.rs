//! What a host can see of its nodes while they run: events for its log, numbers for its metrics.
//!
//! Both are silent by default. Nothing is printed unless the host subscribes to [`tracing`]'s events, and
//! nothing is counted unless the feature `metrics` is on and a recorder of the crate `metrics` is installed.
//! What a program decides by is elsewhere: [`Node::status`](crate::Node::status) is a plain struct, and
//! [`Node::events`](crate::Node::events) a stream.
//!
//! # Events
//!
//! Every event has the field `node`. What happens to single writes and reads is never told. [`TARGETS`]
//! lists the targets; a filter by the prefix `quorate` has them all.
//!
//! | target | level | event |
//! |---|---|---|
//! | `quorate::node` | INFO | started, stopped and why |
//! | | ERROR | stopped because it failed |
//! | | INFO | begins an election, leads, leads no more; the leader or the term has changed |
//! | | DEBUG | an election came to nothing |
//! | | INFO | the log follows newer rules |
//! | | WARN | calls were refused because a queue was full: at most one event a second |
//! | `quorate::membership` | INFO | a change was asked for here; a change was applied |
//! | | INFO | what was asked for here was refused |
//! | `quorate::session` | DEBUG | opened or attached here; closed; suspended |
//! | | INFO | moved to another node; expired (told by the leader) |
//! | | WARN | lost: the leader could not be reached in time, or has ended it |
//! | `quorate::snapshot` | INFO | taken, sent, received, installed: with its index, and where they are known bytes and time |
//! | | WARN | could not be written, or its transfer was given up |
//! | `quorate::storage` | DEBUG | the log was compacted |
//! | | WARN | a write with its sync took a second or more |
//! | | ERROR | the storage failed |
//! | `quorate::transport` | INFO | a peer has connected, or its connection was lost |
//! | | WARN | a connection or a certificate was refused |
//! | | DEBUG | a peer can't be reached; messages were dropped |
//!
//! A node's threads are in the span `node` (target `quorate::node`, fields `node` and `cluster`), whose parent is the
//! span in which the node was started. A snapshot is written within a span `snapshot` (field `index`).
//!
//! # Metrics
//!
//! With the feature `metrics`. A node registers all of its metrics in [`NodeBuilder::start`](crate::NodeBuilder::start),
//! on the thread that calls it: **the recorder has to be installed before**. Each has the label `node`, so that several nodes
//! in one process can be told apart. Gauges are set every 10 ms.
//!
//! | name | kind | further labels | what |
//! |---|---|---|---|
//! | `quorate_commit_latency_seconds` | histogram | | from the call of a write to its answer, at the node of its session |
//! | `quorate_barrier_latency_seconds` | histogram | | from the call of a `sync` or a linearizable read to its answer |
//! | `quorate_calls_total` | counter | `kind`, `outcome` | calls answered; reads that the caller's own thread answers from the published tree are not counted |
//! | `quorate_fsync_latency_seconds` | histogram | | one write to the log with its sync |
//! | `quorate_append_entries` | histogram | | log entries that share one such write |
//! | `quorate_append_bytes` | histogram | | and their bytes |
//! | `quorate_entry_ops` | histogram | | operations in one log entry, as the leader proposes it |
//! | `quorate_queue_depth` | gauge | `queue` | what waits: see [`QueueDepths`](crate::QueueDepths) |
//! | `quorate_term` | gauge | | the Raft term |
//! | `quorate_commit_index` | gauge | | the last log entry known to be committed |
//! | `quorate_applied_index` | gauge | | the last log entry applied |
//! | `quorate_is_leader` | gauge | | 1 where this node leads, else 0 |
//! | `quorate_leader_changes_total` | counter | | how often another leader became known here |
//! | `quorate_elections_total` | counter | | elections that this node has begun |
//! | `quorate_sessions` | gauge | | sessions of the cluster |
//! | `quorate_sessions_attached` | gauge | | sessions attached here |
//! | `quorate_sessions_opened_total` | counter | | sessions opened or attached here |
//! | `quorate_sessions_ended_total` | counter | `how` | sessions that ended here (`closed`, `lost`, `moved`), or that this leader has `expired` |
//! | `quorate_watches` | gauge | | watches set here |
//! | `quorate_znodes` | gauge | | znodes of the tree |
//! | `quorate_data_bytes` | gauge | | bytes of their paths and data |
//! | `quorate_snapshot_size_bytes` | histogram | `way` | the size of a snapshot `taken`, `sent` or `received` |
//! | `quorate_snapshot_duration_seconds` | histogram | `way` | how long that took |
//! | `quorate_snapshots_installed_total` | counter | | snapshots that have replaced the tree here |
//! | `quorate_compactions_total` | counter | | how often the log was compacted |
//! | `quorate_peer_messages_sent_total` | counter | `lane` | messages handed to the transport |
//! | `quorate_peer_sent_bytes_total` | counter | `lane` | and their bytes |
//! | `quorate_peer_messages_received_total` | counter | `lane` | messages that the transport has handed in |
//! | `quorate_peer_received_bytes_total` | counter | `lane` | and their bytes |
//! | `quorate_peer_messages_dropped_total` | counter | `lane`, `queue` | messages for which the queue `send` of [`Tcp`](crate::transport) or `receive` of the node had no room |
//!
//! `kind` is `write`, `read`, `barrier`, `session`, `membership` or `backup`. `outcome` is `ok`; `refused` where the
//! operation failed by its own fault or the tree's state; `overloaded` where a queue was full; `expired` where the session
//! was gone; `unknown` where nobody knows ([`Error::outcome_unknown`](crate::Error::outcome_unknown)); `stopped` where the node was.

mod facade;
mod meters;

pub(crate) use facade::{ON, Stopwatch};
#[cfg(feature = "tcp")]
pub(crate) use meters::TransportMeters;
pub(crate) use meters::{CallKind, NodeMeters, SnapshotWay};

/// Where events come from: their targets.
pub const TARGETS: [&str; 6] = [NODE, MEMBERSHIP, SESSION, SNAPSHOT, STORAGE, TRANSPORT];

pub(crate) const NODE: &str = "quorate::node";
pub(crate) const MEMBERSHIP: &str = "quorate::membership";
pub(crate) const SESSION: &str = "quorate::session";
pub(crate) const SNAPSHOT: &str = "quorate::snapshot";
pub(crate) const STORAGE: &str = "quorate::storage";
// Without the feature `tcp` nobody speaks from there.
pub(crate) const TRANSPORT: &str = "quorate::transport";

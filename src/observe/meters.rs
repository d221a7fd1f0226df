//! What a node counts and measures: the handles, registered once, when it starts.
//!
//! It knows what each number means and not who brings it. The names and labels are public: the table in the
//! parent promises them.

use std::time::Duration;

use super::facade::{Counter, Gauge, Histogram, Meter, Registry, Unit};
use crate::error::Error;
use crate::ids::NodeId;

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CallKind {
    Write,
    Read,
    Barrier,
    Session,
    Membership,
    Backup,
}

const KINDS: [&str; 6] = [
    "write",
    "read",
    "barrier",
    "session",
    "membership",
    "backup",
];

/// What came of a call.
#[derive(Clone, Copy)]
enum Outcome {
    Ok,
    Refused,
    Overloaded,
    Expired,
    Unknown,
    Stopped,
}

const OUTCOMES: [&str; 6] = [
    "ok",
    "refused",
    "overloaded",
    "expired",
    "unknown",
    "stopped",
];

impl Outcome {
    fn of(error: Option<&Error>) -> Outcome {
        match error {
            None => Outcome::Ok,
            Some(Error::Overloaded { .. }) => Outcome::Overloaded,
            Some(Error::SessionExpired { .. } | Error::SessionMoved { .. }) => Outcome::Expired,
            Some(Error::Stopped { .. } | Error::Removed) => Outcome::Stopped,
            Some(error) if error.outcome_unknown() => Outcome::Unknown,
            Some(_) => Outcome::Refused,
        }
    }
}

/// What was done with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotWay {
    Taken,
    Sent,
    Received,
}

const WAYS: [&str; 3] = ["taken", "sent", "received"];

const LANES: [&str; 2] = ["urgent", "bulk"];

/// A node's numbers.
#[derive(Clone)]
pub(crate) struct NodeMeters {
    commit_latency: Histogram,
    barrier_latency: Histogram,
    /// By kind, then by outcome.
    calls: [[Counter; OUTCOMES.len()]; KINDS.len()],
    fsync_latency: Histogram,
    append_entries: Histogram,
    append_bytes: Histogram,
    pub entry_ops: Histogram,
    pub queues: QueueMeters,
    pub term: Gauge,
    pub commit_index: Gauge,
    pub applied_index: Gauge,
    pub is_leader: Gauge,
    pub leader_changes: Counter,
    pub elections: Counter,
    pub sessions: Gauge,
    pub sessions_attached: Gauge,
    pub sessions_opened: Counter,
    pub sessions_ended: EndMeters,
    pub watches: Gauge,
    pub znodes: Gauge,
    pub data_bytes: Gauge,
    snapshot_size: [Histogram; WAYS.len()],
    snapshot_duration: [Histogram; WAYS.len()],
    pub snapshots_installed: Counter,
    pub compactions: Counter,
    messages_sent: [Counter; LANES.len()],
    bytes_sent: [Counter; LANES.len()],
    messages_received: [Counter; LANES.len()],
    bytes_received: [Counter; LANES.len()],
    messages_dropped: [Counter; LANES.len()],
}

/// How much waits in each queue.
#[derive(Clone)]
pub(crate) struct QueueMeters {
    pub requests: Gauge,
    pub calls: Gauge,
    pub peer_messages: Gauge,
    pub writes: Gauge,
    pub snapshots: Gauge,
}

/// How sessions end.
#[derive(Clone)]
pub(crate) struct EndMeters {
    pub closed: Counter,
    pub lost: Counter,
    pub moved: Counter,
    pub expired: Counter,
}

const CALLS: Meter = Meter("quorate_calls_total", Unit::Count, "calls answered");
const QUEUE: Meter = Meter("quorate_queue_depth", Unit::Count, "what waits in a queue");
const ENDED: Meter = Meter(
    "quorate_sessions_ended_total",
    Unit::Count,
    "sessions that ended here, or that this leader has expired",
);
const DROPPED: Meter = Meter(
    "quorate_peer_messages_dropped_total",
    Unit::Count,
    "messages for which a queue had no room",
);

impl NodeMeters {
    /// Registers them with the recorder that is installed for this thread.
    pub(crate) fn new(node: NodeId) -> NodeMeters {
        let registry = Registry::new(node);
        let count = |name, text| registry.counter(&Meter(name, Unit::Count, text), &[]);
        let gauge = |name, text| registry.gauge(&Meter(name, Unit::Count, text), &[]);
        let spread = |name, unit, text| registry.histogram(&Meter(name, unit, text), &[]);
        let by_lane = |name, unit, text| {
            LANES.map(|lane| registry.counter(&Meter(name, unit, text), &[("lane", lane)]))
        };
        let by_way = |name, unit, text| {
            WAYS.map(|way| registry.histogram(&Meter(name, unit, text), &[("way", way)]))
        };
        let queue = |queue| registry.gauge(&QUEUE, &[("queue", queue)]);
        let ended = |how| registry.counter(&ENDED, &[("how", how)]);
        NodeMeters {
            commit_latency: spread(
                "quorate_commit_latency_seconds",
                Unit::Seconds,
                "from the call of a write to its answer",
            ),
            barrier_latency: spread(
                "quorate_barrier_latency_seconds",
                Unit::Seconds,
                "from the call of a sync or a linearizable read to its answer",
            ),
            calls: KINDS.map(|kind| {
                OUTCOMES.map(|outcome| {
                    registry.counter(&CALLS, &[("kind", kind), ("outcome", outcome)])
                })
            }),
            fsync_latency: spread(
                "quorate_fsync_latency_seconds",
                Unit::Seconds,
                "one write to the log with its sync",
            ),
            append_entries: spread(
                "quorate_append_entries",
                Unit::Count,
                "log entries that share one write",
            ),
            append_bytes: spread(
                "quorate_append_bytes",
                Unit::Bytes,
                "bytes of the log entries that share one write",
            ),
            entry_ops: spread(
                "quorate_entry_ops",
                Unit::Count,
                "operations in one log entry",
            ),
            queues: QueueMeters {
                requests: queue("requests"),
                calls: queue("calls"),
                peer_messages: queue("peer_messages"),
                writes: queue("writes"),
                snapshots: queue("snapshots"),
            },
            term: gauge("quorate_term", "the Raft term"),
            commit_index: gauge(
                "quorate_commit_index",
                "the last log entry known to be committed",
            ),
            applied_index: gauge("quorate_applied_index", "the last log entry applied"),
            is_leader: gauge("quorate_is_leader", "1 where this node leads"),
            leader_changes: count(
                "quorate_leader_changes_total",
                "how often another leader became known here",
            ),
            elections: count(
                "quorate_elections_total",
                "elections that this node has begun",
            ),
            sessions: gauge("quorate_sessions", "sessions of the cluster"),
            sessions_attached: gauge("quorate_sessions_attached", "sessions attached here"),
            sessions_opened: count(
                "quorate_sessions_opened_total",
                "sessions opened or attached here",
            ),
            sessions_ended: EndMeters {
                closed: ended("closed"),
                lost: ended("lost"),
                moved: ended("moved"),
                expired: ended("expired"),
            },
            watches: gauge("quorate_watches", "watches set here"),
            znodes: gauge("quorate_znodes", "znodes of the tree"),
            data_bytes: registry.gauge(
                &Meter(
                    "quorate_data_bytes",
                    Unit::Bytes,
                    "bytes of the paths and the data of all znodes",
                ),
                &[],
            ),
            snapshot_size: by_way(
                "quorate_snapshot_size_bytes",
                Unit::Bytes,
                "the size of a snapshot",
            ),
            snapshot_duration: by_way(
                "quorate_snapshot_duration_seconds",
                Unit::Seconds,
                "how long a snapshot took",
            ),
            snapshots_installed: count(
                "quorate_snapshots_installed_total",
                "snapshots that have replaced the tree here",
            ),
            compactions: count(
                "quorate_compactions_total",
                "how often the log was compacted",
            ),
            messages_sent: by_lane(
                "quorate_peer_messages_sent_total",
                Unit::Count,
                "messages handed to the transport",
            ),
            bytes_sent: by_lane(
                "quorate_peer_sent_bytes_total",
                Unit::Bytes,
                "bytes of the messages handed to the transport",
            ),
            messages_received: by_lane(
                "quorate_peer_messages_received_total",
                Unit::Count,
                "messages that the transport has handed in",
            ),
            bytes_received: by_lane(
                "quorate_peer_received_bytes_total",
                Unit::Bytes,
                "bytes of the messages that the transport has handed in",
            ),
            messages_dropped: dropped(&registry, "receive"),
        }
    }

    /// A call was answered, so many seconds after it was made.
    pub(crate) fn answered(&self, kind: CallKind, error: Option<&Error>, seconds: f64) {
        let outcome = Outcome::of(error);
        self.calls[kind as usize][outcome as usize].increment(1);
        // Whoever was turned away at once says nothing of how long it takes.
        match (kind, outcome) {
            (CallKind::Write, Outcome::Ok | Outcome::Refused) => {
                self.commit_latency.record(seconds);
            }
            (CallKind::Barrier, Outcome::Ok | Outcome::Refused) => {
                self.barrier_latency.record(seconds);
            }
            _ => {}
        }
    }

    /// The log was written to, once.
    pub(crate) fn appended(&self, entries: usize, bytes: usize, took: Duration) {
        self.append_entries.record(entries as f64);
        self.append_bytes.record(bytes as f64);
        self.fsync_latency.record(took.as_secs_f64());
    }

    pub(crate) fn snapshot(&self, way: SnapshotWay, bytes: u64, took: Duration) {
        self.snapshot_size[way as usize].record(bytes as f64);
        self.snapshot_duration[way as usize].record(took.as_secs_f64());
    }

    /// A message was handed to the transport. `lane` counts from 0, the urgent one.
    pub(crate) fn sent(&self, lane: usize, bytes: usize) {
        self.messages_sent[lane].increment(1);
        self.bytes_sent[lane].increment(bytes as u64);
    }

    /// A message has come in.
    pub(crate) fn received(&self, lane: usize, bytes: usize) {
        self.messages_received[lane].increment(1);
        self.bytes_received[lane].increment(bytes as u64);
    }

    /// There was no room for a message that had come in.
    pub(crate) fn dropped(&self, lane: usize) {
        self.messages_dropped[lane].increment(1);
    }
}

/// What a transport counts by itself.
#[cfg(feature = "tcp")]
pub(crate) struct TransportMeters {
    /// Messages for which a queue to a peer had no room, by lane.
    pub dropped: [Counter; LANES.len()],
}

#[cfg(feature = "tcp")]
impl TransportMeters {
    /// Registers them with the recorder that is installed for this thread.
    pub(crate) fn new(node: NodeId) -> TransportMeters {
        TransportMeters {
            dropped: dropped(&Registry::new(node), "send"),
        }
    }
}

/// Of a transport that was not started.
#[cfg(feature = "tcp")]
impl Default for TransportMeters {
    fn default() -> TransportMeters {
        TransportMeters {
            dropped: [Counter::noop(), Counter::noop()],
        }
    }
}

fn dropped(registry: &Registry, queue: &'static str) -> [Counter; LANES.len()] {
    LANES.map(|lane| registry.counter(&DROPPED, &[("lane", lane), ("queue", queue)]))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// What follows `before` in a text, as far as it goes on like a name.
    fn names(text: &str, before: &str) -> BTreeSet<String> {
        let parts = text.split(before).skip(1);
        let name = |part: &str| {
            let end = part.find(|c: char| !c.is_ascii_lowercase() && c != '_');
            part[..end.unwrap_or(part.len())].to_string()
        };
        parts.map(name).collect()
    }

    #[test]
    fn the_table_names_every_metric_and_no_other() {
        let code = include_str!("meters.rs").split("mod tests").next();
        let registered = names(code.unwrap(), "\"quorate_");
        let documented = names(include_str!("mod.rs"), "//! | `quorate_");
        assert_eq!(registered, documented);
        assert!(registered.len() >= 25, "{registered:?}");
    }
}

//! What clients of a cluster did, and what they saw: the material that the [oracles](super::oracle)
//! judge.
//!
//! A [`History`] is plain data. It knows neither how the cluster works nor who recorded it: a
//! simulation, a test with real threads, or a host's own harness through a [`Recorder`]. Whatever
//! happens in it has a [`Moment`], and moments are in one total order.
//!
//! # In which order to record
//! The oracles take the order literally, so whoever records keeps to four rules:
//!
//! 1. A call is recorded *before* it is made, and its answer *after* it was taken: the interval may be
//!    wider than the real one, never narrower.
//! 2. When an answer was taken, the events that stand in the session's watchers are taken and recorded
//!    *before* the answer is: an event is due before newer data.
//! 3. What the cluster did ([`Recorder::applied`], [`Recorder::session_ended`]) is recorded before any
//!    client acts on it, in a simulation after each turn.
//! 4. What a client believes (that its session lives, that it holds a lock) counts as of the moment before
//!    it looked: with threads [`Recorder::now`] is asked first, and given to [`Recorder::certain_at`],
//!    [`Recorder::held_since`] and [`Recorder::still_held_at`].

mod calls;
mod recorder;
mod render;
mod sessions;
mod watches;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use calls::{Answer, Call, Consistency, Op, Outcome};
pub use recorder::Recorder;
pub use sessions::{Attachment, AttachmentEnd, Hold, SessionEnd};
pub use watches::{Received, Watch, WatchSet};

use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::EventKind;
use crate::stat::Stat;

/// A point of a history. Moments are ordered as they were recorded, whatever their time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Moment {
    /// Its place among all moments of the history; no two have the same.
    pub order: u64,
    /// The time, since some fixed point. It never goes back from one moment to the next.
    pub at: Duration,
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Moment) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    fn cmp(&self, other: &Moment) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", self.at.as_secs_f64())
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub usize);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number! {
    /// A client: whoever has one session after another.
    ClientId, "client {}"
}
number! {
    /// One attachment of a client's session: the place in [`History::attachments`].
    AttachmentId, "attachment {}"
}
number! {
    /// A call: the place in [`History::calls`].
    CallId, "call {}"
}
number! {
    /// A watcher, which is one queue of events.
    WatcherId, "watcher {}"
}
number! {
    /// A watch: the place in [`History::watches`].
    WatchId, "watch {}"
}
number! {
    /// A hold of a lock: the place in [`History::holds`].
    HoldId, "hold {}"
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct History {
    /// Each session once for every time that it was opened or attached, in the order of recording.
    pub attachments: Vec<Attachment>,
    /// The calls, in the order in which they were made.
    pub calls: Vec<Call>,
    /// Which attachment each watcher belongs to, by the number of the watcher.
    pub watchers: Vec<AttachmentId>,
    /// The watches, in the order in which they were asked for.
    pub watches: Vec<Watch>,
    /// What watchers were told, in the order in which it was taken out of their queues.
    pub received: Vec<Received>,
    /// Who held which lock.
    pub holds: Vec<Hold>,
    /// Sums that are always the same, for what moves between znodes by multis.
    pub ledgers: Vec<Ledger>,
    /// How the cluster ended sessions, in order.
    pub session_ends: Vec<SessionEnd>,
    /// Every change of the tree, in the order in which the cluster made them: those of one zxid stand
    /// together. Empty where nobody recorded them: what needs them is not checked then.
    pub changes: Vec<Change>,
    /// Where a node went from one state to a later one without the changes between them.
    pub skips: Vec<Skip>,
    /// Two nodes that reported different changes for the same zxid: their replicas have diverged.
    pub diverged: Vec<Diverged>,
    /// When faults began and ended.
    pub phases: Vec<Phase>,
    /// Remarks for the reader, such as which fault was injected.
    pub notes: Vec<(Moment, String)>,
    /// The tree at the beginning, by path: only what is there besides the system's znodes.
    pub initial: BTreeMap<String, FinalZnode>,
    /// The tree at the end, by path: all of it besides the system's znodes. `None` where nobody looked.
    pub tree: Option<BTreeMap<String, FinalZnode>>,
    /// When that was written down.
    pub looked: Option<Moment>,
    /// The last moment.
    pub ended: Moment,
    /// What the oracles allow.
    pub bounds: Bounds,
    /// What was recorded of the cluster.
    pub recorded: Recorded,
}

/// What was recorded besides calls, answers and events. What was not can't be judged, and an oracle that
/// finds nothing wrong has said little then: see [`crate::testing::oracle::demand`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Recorded {
    /// Whether the changes of the tree were.
    pub changes: bool,
    /// Whether the ends of sessions were: one that isn't there has not ended.
    pub session_ends: bool,
    /// How often a client has looked whether its node was certain of its session, and it was.
    pub certain: u64,
}

/// How much time the oracles allow for what has to happen some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Bounds {
    /// By which part of it a node's clock may be faster or slower than the recorder's: 16 is one part
    /// in sixteen. 0: not at all.
    pub clock_drift_divisor: u32,
    /// What a write that was answered proves of its session: that the cluster has heard of it no longer
    /// than this before the write was called. `None`: nothing, since writes are no touches, and touches
    /// may be lost while writes get through.
    pub touched_before_write: Option<Duration>,
    /// How long after a session's timeout, while no faults are injected, it may still be there.
    pub expiry: Duration,
    /// How long after the last fault the cluster must answer again.
    pub recovery: Duration,
}

impl Default for Bounds {
    /// No drift, nothing proven by writes, 10 s for an expiry, 60 s for recovery.
    fn default() -> Bounds {
        Bounds {
            clock_drift_divisor: 0,
            touched_before_write: None,
            expiry: Duration::from_secs(10),
            recovery: Duration::from_secs(60),
        }
    }
}

/// A change of the tree, as the state machine made it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The write that did it.
    pub zxid: Zxid,
    /// Created, deleted, or data set. That a parent's children changed follows from it.
    pub kind: EventKind,
    /// Which znode.
    pub path: String,
    /// The session that the znode belongs to, where it is ephemeral and was created.
    pub owner: SessionId,
    /// When the first replica applied it.
    pub applied: Moment,
}

impl Change {
    /// A change as a replica reports it. `owner` matters where an ephemeral is created, and is
    /// [`SessionId::NONE`] otherwise. [`Recorder::applied`] fills in the moment.
    pub fn new(zxid: Zxid, kind: EventKind, path: &str, owner: SessionId) -> Change {
        Change {
            zxid,
            kind,
            path: path.to_string(),
            owner,
            applied: Moment::default(),
        }
    }

    /// Whether two replicas report the same, whenever they applied it.
    fn is_same(&self, other: &Change) -> bool {
        (self.zxid, self.kind, &self.path, self.owner)
            == (other.zxid, other.kind, &other.path, other.owner)
    }
}

/// Accounts between which multis move amounts: each holds a number as decimal text, and their sum is
/// always the same.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Ledger {
    /// The paths of the accounts.
    pub accounts: Vec<String>,
    /// What they hold together.
    pub sum: i64,
}

/// A node that caught up by a snapshot, and told its watchers what it found by comparing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Skip {
    /// The node.
    pub node: NodeId,
    /// The state that it had.
    pub from: Zxid,
    /// The state that it installed.
    pub to: Zxid,
    /// When.
    pub at: Moment,
}

/// Two replicas that made different changes of the same write.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Diverged {
    /// The write.
    pub zxid: Zxid,
    /// The node that reported last.
    pub node: NodeId,
    /// What was reported first.
    pub first: Vec<Change>,
    /// What that node reported.
    pub other: Vec<Change>,
}

/// What a stretch of the history is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PhaseKind {
    /// Faults are injected from here on.
    Faulty,
    /// No faults from here on, and everything is up and connected: the cluster must recover.
    Healed,
}

/// The beginning of a phase. It lasts until the next one begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Phase {
    /// When it begins.
    pub began: Moment,
    /// What it is for.
    pub kind: PhaseKind,
}

/// A znode of the tree at the beginning or at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FinalZnode {
    /// Its data.
    pub data: Vec<u8>,
    /// Its stat.
    pub stat: Stat,
}

impl FinalZnode {
    /// A znode with this data and stat.
    pub fn new(data: impl Into<Vec<u8>>, stat: Stat) -> FinalZnode {
        FinalZnode {
            data: data.into(),
            stat,
        }
    }
}

impl History {
    /// The attachment with this number.
    pub fn attachment(&self, id: AttachmentId) -> &Attachment {
        &self.attachments[id.0]
    }

    /// The call with this number.
    pub fn call(&self, id: CallId) -> &Call {
        &self.calls[id.0]
    }

    /// The session that a call was made in.
    pub fn session_of(&self, call: &Call) -> SessionId {
        self.attachment(call.attachment).session
    }

    /// The calls of one attachment, in the order in which they were made.
    pub fn calls_of(&self, attachment: AttachmentId) -> impl Iterator<Item = &Call> {
        self.calls
            .iter()
            .filter(move |call| call.attachment == attachment)
    }

    /// When the cluster was healed for good, if it was.
    pub fn healed(&self) -> Option<Moment> {
        let last = self.phases.last()?;
        (last.kind == PhaseKind::Healed).then_some(last.began)
    }
}

//! Watches that were set, and what their watchers were told.

use super::{CallId, Moment, WatchId, WatcherId};
use crate::ids::Zxid;
use crate::node::{Event, WatchKind};

/// When and after what a watch was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WatchSet {
    /// When its answer was taken.
    pub at: Moment,
    /// It hears of changes after this zxid, where the answer told it: [`crate::Session::watch`] does,
    /// a read tells it by what it shows.
    pub after: Option<Zxid>,
}

/// A watch.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Watch {
    /// Its number.
    pub id: WatchId,
    /// Where its events go.
    pub watcher: WatcherId,
    /// On which znode.
    pub path: String,
    /// For which changes.
    pub kind: WatchKind,
    /// When it was asked for.
    pub called: Moment,
    /// The read that it came with; `None` for [`crate::Session::watch`].
    pub call: Option<CallId>,
    /// `None` where it was refused, or nobody knows whether it was set.
    pub set: Option<WatchSet>,
    /// When it was removed by its client.
    pub removed: Option<Moment>,
}

/// Something that a watcher was told.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Received {
    /// Who was told.
    pub watcher: WatcherId,
    /// When it was taken out of the queue.
    pub at: Moment,
    /// What.
    pub event: Event,
}

//! Which containers and TTL znodes may go: containers that had children and have none, and childless
//! znodes whose time is over.
//!
//! The index follows from the tree and is kept up to date with it. It knows no clock: the caller says
//! what time it is, and the leader's proposal is checked again when it is applied.

use std::collections::BTreeSet;

use crate::path::ZnodePath;
use crate::state::tree::Znode;

/// From when on a znode may be reaped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Due {
    /// A container that has lost its last child.
    Now,
    /// A TTL znode, at this time in milliseconds since the Unix epoch.
    At(i64),
}

impl Due {
    /// From when on the znode may go as it is; `None` for never.
    pub(crate) fn of(znode: &Znode) -> Option<Due> {
        if !znode.children().is_empty() {
            return None;
        }
        if let Some(ttl_ms) = znode.owner.ttl_ms() {
            return Some(Due::At(znode.mtime_ms.saturating_add(ttl_ms)));
        }
        // The stored counter counts children ever created, so 0 is a container not used yet.
        (znode.owner.is_container() && znode.cversion != 0).then_some(Due::Now)
    }

    /// Whether that time has come.
    pub(crate) fn is_over(self, now_ms: i64) -> bool {
        match self {
            Due::Now => true,
            Due::At(due_ms) => due_ms <= now_ms,
        }
    }
}

/// What may be reaped, the earliest first and then by path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ReapIndex(BTreeSet<(Due, ZnodePath)>);

impl ReapIndex {
    /// Whether the owner of a znode makes it one of those that the index is about.
    pub(crate) fn concerns(znode: &Znode) -> bool {
        znode.owner.is_container() || znode.owner.ttl_ms().is_some()
    }

    /// Notes that the znode at `path` was due at `before` and is due at `after` now.
    pub(crate) fn change(&mut self, path: &ZnodePath, before: Option<Due>, after: Option<Due>) {
        if before == after {
            return;
        }
        if let Some(due) = before {
            self.0.remove(&(due, path.clone()));
        }
        if let Some(due) = after {
            self.0.insert((due, path.clone()));
        }
    }

    /// What is due at `now_ms`, in order.
    pub(crate) fn due(&self, now_ms: i64) -> impl Iterator<Item = &ZnodePath> {
        self.0
            .iter()
            .take_while(move |(due, _)| due.is_over(now_ms))
            .map(|(_, path)| path)
    }
}

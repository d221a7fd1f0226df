//! A frozen tree: what was published at one moment, walked in the background while the writer goes on.
//!
//! Nothing is copied at the start. From then on the fold hands each version that it takes out of a shard
//! to that shard's undo list, if the version was there at the moment of the freeze and the shard hasn't
//! been captured. Capturing a shard takes the versions of then that are still there, and those in the undo
//! list. Versions are told apart by `changed`: every write since has a later zxid than the freeze.
//!
//! The order is by shard and then by path: the same for the same znodes, whatever their history.

use std::sync::{Arc, Weak};

use super::table::{SHARDS, Table};
use super::znode::Znode;
use crate::ids::Zxid;

/// What the fold must know of the current freeze.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Counts the freezes of a table, from 1.
    pub(super) freeze: u64,
    /// The moment.
    pub(super) zxid: Zxid,
}

/// The writer's knowledge of the current freeze.
#[derive(Default)]
pub(super) struct Freeze {
    /// Gone when the frozen tree needs nothing more of the table.
    hold: Weak<Hold>,
    last: u64,
}

impl Freeze {
    pub(super) fn active(&self) -> Option<Hold> {
        self.hold.upgrade().map(|hold| *hold)
    }

    pub(super) fn begin(
        &mut self,
        table: &Arc<Table>,
        zxid: Zxid,
        len: usize,
    ) -> Option<FrozenTree> {
        if self.hold.strong_count() > 0 {
            return None;
        }
        self.last += 1;
        let hold = Arc::new(Hold {
            freeze: self.last,
            zxid,
        });
        self.hold = Arc::downgrade(&hold);
        Some(FrozenTree {
            source: Some((table.clone(), hold)),
            zxid,
            len,
            shard: 0,
            captured: Vec::new().into_iter(),
        })
    }
}

/// The znodes as of one publish: an iterator in the order of snapshots. Dropping it frees what was kept
/// for it.
pub(crate) struct FrozenTree {
    /// The table to be captured from; given up after the last shard.
    source: Option<(Arc<Table>, Arc<Hold>)>,
    zxid: Zxid,
    len: usize,
    /// The next shard to be captured.
    shard: usize,
    /// The rest of the shard captured last, sorted.
    captured: std::vec::IntoIter<Arc<Znode>>,
}

impl FrozenTree {
    /// The moment: the last write that it shows.
    pub(crate) fn zxid(&self) -> Zxid {
        self.zxid
    }

    /// The number of znodes in all, from the first to the last.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Iterator for FrozenTree {
    type Item = Arc<Znode>;

    fn next(&mut self) -> Option<Arc<Znode>> {
        loop {
            if let Some(znode) = self.captured.next() {
                return Some(znode);
            }
            let (table, hold) = self.source.as_ref()?;
            let mut versions = table.capture(self.shard, **hold);
            versions.sort_unstable_by(|a, b| a.path.cmp(&b.path));
            self.captured = versions.into_iter();
            self.shard += 1;
            if self.shard == SHARDS {
                self.source = None;
            }
        }
    }
}

impl Drop for FrozenTree {
    fn drop(&mut self) {
        if let Some((table, hold)) = &self.source {
            for shard in self.shard..SHARDS {
                table.forget(shard, **hold);
            }
        }
    }
}

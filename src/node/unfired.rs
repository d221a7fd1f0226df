//! Changes on their way to the watches that they concern.
//!
//! Within one turn of the loop changes are applied and reads are answered in between. A read that sets a
//! one-shot watch again is answered as of some of those changes: the watch that stands there waits for
//! them, the one that takes its place does not. So the invariant: when a watch is set as of a zxid, the
//! watches of all changes up to it have been fired, and of none after.

use super::watches::{MayHear, WatchTable};
use crate::ids::Zxid;
use crate::op::Change;

/// Changes whose watches are not fired yet, in the order of their zxids.
pub(crate) struct Unfired<'a> {
    changes: &'a [Change],
    fire: fn(&mut WatchTable, &[Change], MayHear<'_>),
}

impl<'a> Unfired<'a> {
    /// What the log has applied: a change of a znode is one of its parent's children as well.
    pub(crate) fn applied(changes: &'a [Change]) -> Unfired<'a> {
        Unfired {
            changes,
            fire: WatchTable::fire,
        }
    }

    /// What a comparison has found, where each znode was looked at for itself.
    pub(crate) fn compared(changes: &'a [Change]) -> Unfired<'a> {
        Unfired {
            changes,
            fire: WatchTable::fire_alone,
        }
    }

    /// Fires the watches of the changes up to and including `zxid`, which a read has seen.
    pub(crate) fn fire_through(
        &mut self,
        zxid: Zxid,
        table: &mut WatchTable,
        may_hear: MayHear<'_>,
    ) {
        let seen = self.changes.partition_point(|change| change.zxid <= zxid);
        let (seen, later) = self.changes.split_at(seen);
        self.changes = later;
        (self.fire)(table, seen, may_hear);
    }

    /// Fires the watches of all that are left.
    pub(crate) fn fire_rest(self, table: &mut WatchTable, may_hear: MayHear<'_>) {
        (self.fire)(table, self.changes, may_hear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;
    use crate::node::{Event, WatchKind, WatchQueue};
    use crate::op::EventKind;
    use crate::path::ZnodePath;

    fn data_set(zxid: u64) -> Change {
        Change {
            zxid: Zxid(zxid),
            kind: EventKind::NodeDataChanged,
            path: ZnodePath::parse("/a").unwrap(),
            acl: None,
            parent_acl: None,
        }
    }

    fn heard(queue: &WatchQueue) -> Vec<u64> {
        let zxid = |event| match event {
            Event::Changed(event) => event.zxid.0,
            other => panic!("{other:?}"),
        };
        queue.receiver().try_iter().map(zxid).collect()
    }

    #[test]
    fn a_one_shot_watch_set_again_as_of_a_change_has_heard_of_it() {
        // The watch that was set again took the place of the one that waited, and with it the zxid that
        // this one was set at: the change between the two was told to neither.
        let kinds: [fn(&[Change]) -> Unfired<'_>; 2] = [
            |changes| Unfired::applied(changes),
            |changes| Unfired::compared(changes),
        ];
        for unfired in kinds {
            let mut table = WatchTable::default();
            let queue = table.add_watcher(SessionId(1), None, 8);
            let path = ZnodePath::parse("/a").unwrap();
            table.add(&queue, &path, WatchKind::Data, Zxid(5));
            let changes = [data_set(6), data_set(7), data_set(8), data_set(9)];
            let mut unfired = unfired(&changes);
            unfired.fire_through(Zxid(7), &mut table, &|_, _| true);
            table.add(&queue, &path, WatchKind::Data, Zxid(7));
            assert_eq!(heard(&queue), [6]);
            unfired.fire_through(Zxid(7), &mut table, &|_, _| true);
            unfired.fire_rest(&mut table, &|_, _| true);
            assert_eq!(heard(&queue), [8]);
            assert_eq!(table.len(), 0);
        }
    }
}

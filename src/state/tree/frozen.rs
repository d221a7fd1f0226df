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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::thread;

    use rand::rngs::StdRng;
    use rand::seq::SliceRandom as _;
    use rand::{Rng as _, SeedableRng as _};

    use super::super::{Owner, Tree};
    use super::*;
    use crate::path::ZnodePath;

    fn create(tree: &mut Tree, path: &str, zxid: u64) {
        let path = ZnodePath::parse(path).unwrap();
        let data = path.as_str().as_bytes().to_vec();
        tree.insert(Znode::created(path, &data, Zxid(zxid), 0, Owner::NONE, 0));
    }

    fn paths(frozen: FrozenTree) -> Vec<(String, Zxid)> {
        let mut paths: Vec<_> = frozen.map(|z| (z.path.to_string(), z.changed)).collect();
        paths.sort();
        paths
    }

    #[test]
    fn what_was_deleted_and_made_again_shows_as_it_was() {
        let mut tree = Tree::new();
        create(&mut tree, "/a", 1);
        create(&mut tree, "/b", 1);
        tree.publish(Zxid(1));
        let frozen = tree.freeze().unwrap();
        tree.remove("/a", Zxid(2));
        create(&mut tree, "/a", 3);
        create(&mut tree, "/c", 4);
        tree.publish(Zxid(4));
        tree.remove("/b", Zxid(5));
        tree.remove("/a", Zxid(6));
        tree.publish(Zxid(6));
        create(&mut tree, "/b", 7);
        tree.publish(Zxid(7));
        let then = [("/", 1), ("/a", 1), ("/b", 1)];
        assert_eq!(paths(frozen), then.map(|(p, z)| (p.to_string(), Zxid(z))));
        let now = [("/", 7), ("/b", 7), ("/c", 4)];
        let frozen = tree.freeze().unwrap();
        assert_eq!(paths(frozen), now.map(|(p, z)| (p.to_string(), Zxid(z))));
    }

    #[test]
    fn the_order_does_not_depend_on_the_history() {
        let mut rng = StdRng::seed_from_u64(1);
        let names: Vec<String> = (0..3000).map(|n| format!("/{n}")).collect();
        let order = |rng: &mut StdRng, extra: u64| {
            let mut tree = Tree::new();
            let mut names = names.clone();
            names.shuffle(rng);
            let mut zxid = 0;
            for name in &names {
                zxid += 1;
                create(&mut tree, name, zxid);
                if zxid % extra == 0 {
                    create(&mut tree, &format!("{name}/x"), zxid);
                    tree.publish(Zxid(zxid));
                    zxid += 1;
                    tree.remove(&format!("{name}/x"), Zxid(zxid));
                }
            }
            tree.publish(Zxid(zxid));
            let frozen = tree.freeze().unwrap();
            frozen.map(|z| z.path.to_string()).collect::<Vec<_>>()
        };
        let (one, other) = (order(&mut rng, 3), order(&mut rng, 100));
        assert_eq!(one.len(), names.len() + 1);
        assert_eq!(one, other);
    }

    #[test]
    fn it_is_walked_on_another_thread_while_the_writer_goes_on() {
        let mut rng = StdRng::seed_from_u64(2);
        let mut tree = Tree::new();
        let names: Vec<String> = (0..2000).map(|n| format!("/{n}")).collect();
        names.iter().for_each(|name| create(&mut tree, name, 1));
        tree.publish(Zxid(1));
        let mut zxid = 1;
        for _ in 0..20 {
            let moment: BTreeMap<_, _> = tree.walk("/").map(|z| (z.path.to_string(), z)).collect();
            let frozen = tree.freeze().unwrap();
            let walk = thread::spawn(move || {
                frozen
                    .map(|z| (z.path.to_string(), z))
                    .collect::<BTreeMap<_, _>>()
            });
            while !walk.is_finished() {
                for _ in 0..20 {
                    zxid += 1;
                    let name = names.choose(&mut rng).unwrap();
                    if !tree.contains(name) {
                        create(&mut tree, name, zxid);
                    } else if rng.gen_bool(0.5) {
                        tree.remove(name, Zxid(zxid));
                    } else {
                        tree.update(name, Zxid(zxid), |znode| znode.version += 1);
                    }
                }
                tree.publish(Zxid(zxid));
            }
            assert_eq!(walk.join().unwrap(), moment);
        }
    }

    #[test]
    fn nothing_stays_kept_when_a_walk_is_given_up_beside_the_writer() {
        let mut tree = Tree::new();
        let names: Vec<String> = (0..2000).map(|n| format!("/{n}")).collect();
        names.iter().for_each(|name| create(&mut tree, name, 1));
        for zxid in 2..100 {
            names.iter().for_each(|name| {
                tree.update(name, Zxid(zxid), |znode| znode.version += 1);
            });
            let mut frozen = tree.freeze().unwrap();
            let walk = thread::spawn(move || drop(frozen.nth(100)));
            tree.publish(Zxid(zxid));
            walk.join().unwrap();
            assert_eq!(tree.table.kept_len(), 0);
        }
    }

    #[test]
    fn the_next_may_begin_when_the_last_shard_is_captured_or_the_walk_is_given_up() {
        let mut tree = Tree::new();
        let mut frozen = tree.freeze().unwrap();
        frozen.next();
        assert!(tree.freeze().is_none());
        drop(frozen);
        let mut frozen = tree.freeze().unwrap();
        assert_eq!(frozen.by_ref().count(), 1);
        assert!(tree.freeze().is_some());
    }
}

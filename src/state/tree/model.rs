//! The tree against a plain map: random writes, multis, publishes, freezes and replacements from a seed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::table::{path_hash, shard_of};
use super::*;
use crate::path::is_at_or_below;

/// What a znode should be.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Expected {
    data: Vec<u8>,
    changed: u64,
    czxid: u64,
    mzxid: u64,
    pzxid: u64,
    version: i32,
    cversion: i32,
}

type Model = BTreeMap<String, Expected>;

/// The tree, what it should be, and what it should have published.
struct Both {
    tree: Tree,
    reader: TreeReader,
    model: Model,
    published: Model,
    zxid: u64,
    rng: StdRng,
}

fn root() -> Expected {
    Expected {
        data: Vec::new(),
        changed: 0,
        czxid: 0,
        mzxid: 0,
        pzxid: 0,
        version: 0,
        cversion: 0,
    }
}

impl Both {
    fn new(seed: u64) -> Both {
        let tree = Tree::new();
        let model = Model::from([("/".to_string(), root())]);
        Both {
            reader: tree.reader(),
            tree,
            published: model.clone(),
            model,
            zxid: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Some path: few enough that creates, deletes and re-creates meet.
    fn any_path(&mut self) -> String {
        let depth = self.rng.gen_range(1..=3);
        let mut path = String::new();
        for _ in 0..depth {
            path += &format!("/{}", self.rng.gen_range(0..5));
        }
        path
    }

    fn write(&mut self) {
        self.zxid += 1;
        self.write_again();
    }

    /// Another write with the same zxid.
    fn write_again(&mut self) {
        let zxid = self.zxid;
        let path = self.any_path();
        let at = Zxid(zxid);
        let parent = parent(&path).unwrap().to_string();
        let has_children = self
            .model
            .keys()
            .any(|p| *p != path && is_at_or_below(p, &path));
        let has_parent = self.model.contains_key(&parent);
        match self.model.get_mut(&path) {
            None if has_parent => {
                let data = zxid.to_string().into_bytes();
                let znode_path = ZnodePath::parse(&path).unwrap();
                let znode = Znode::created(znode_path, &data, at, 0, Owner::NONE, 0);
                self.tree.insert(znode);
                let above = self.model.get_mut(&parent).unwrap();
                above.cversion += 1;
                (above.pzxid, above.changed) = (zxid, zxid);
                let znode = Expected {
                    data,
                    changed: zxid,
                    czxid: zxid,
                    mzxid: zxid,
                    pzxid: zxid,
                    ..root()
                };
                self.model.insert(path, znode);
            }
            None => {}
            Some(_) if !has_children && self.rng.gen_bool(0.4) => {
                self.tree.remove(&path, at);
                self.model.remove(&path);
                let above = self.model.get_mut(&parent).unwrap();
                (above.pzxid, above.changed) = (zxid, zxid);
            }
            Some(expected) => {
                let data = vec![b'x'; zxid as usize % 7];
                self.tree
                    .set_data(&path, at, Arc::from(&data[..]), |znode| {
                        znode.mzxid = at;
                        znode.version += 1;
                    });
                (expected.data, expected.mzxid, expected.changed) = (data, zxid, zxid);
                expected.version += 1;
            }
        }
    }

    /// Some writes under a savepoint, with multis inside of them.
    fn multi(&mut self, depth: u32) {
        let before = self.model.clone();
        let savepoint = self.tree.savepoint();
        for _ in 0..self.rng.gen_range(0..6) {
            if depth < 3 && self.rng.gen_bool(0.3) {
                self.multi(depth + 1);
            } else {
                self.write_again();
            }
        }
        if self.rng.gen_bool(0.5) {
            self.tree.rollback(savepoint);
            self.model = before;
        } else {
            self.tree.release(savepoint);
        }
    }

    fn publish(&mut self) {
        self.tree.publish(Zxid(self.zxid));
        self.published = self.model.clone();
    }

    fn check(&mut self) {
        assert_eq!(self.tree.check(), Ok(()));
        assert_eq!(self.tree.len(), self.model.len());
        let written = self.tree.walk("/").map(seen).collect::<Model>();
        assert_eq!(written, self.model);
        let view = self.tree.cell.current();
        assert_eq!(view.walk("/").map(seen).collect::<Model>(), self.published);
        assert_eq!(view.len(), self.published.len());
        for _ in 0..3 {
            let path = self.any_path();
            let found = self.reader.get(&path).map(|znode| seen(znode).1);
            assert_eq!(found.as_ref(), self.published.get(&path));
            assert_eq!(self.tree.contains(&path), self.model.contains_key(&path));
        }
    }

    /// Puts another tree in the place of this one: built from its znodes but one.
    fn replace(&mut self) {
        self.publish();
        let mut znodes: Vec<_> = self.tree.walk("/").map(|z| Znode::clone(&z)).collect();
        if znodes.len() > 1 {
            // The last of a walk has no children.
            let last = znodes.pop().unwrap();
            self.model.remove(last.path.as_str());
        }
        znodes.shuffle(&mut self.rng);
        let mut builder = TreeBuilder::new();
        for znode in znodes {
            builder.insert(znode);
        }
        self.zxid += 1;
        let content = builder.finish(Zxid(self.zxid)).unwrap();
        let old = self.tree.replace(content);
        assert_eq!(self.tree.check(), Ok(()));
        for _ in 0..20 {
            self.write();
        }
        self.tree.publish(Zxid(self.zxid));
        assert_eq!(old.walk("/").map(seen).collect::<Model>(), self.published);
        self.published = self.model.clone();
    }
}

fn seen(znode: Arc<Znode>) -> (String, Expected) {
    let expected = Expected {
        data: znode.data.to_vec(),
        changed: znode.changed.0,
        czxid: znode.czxid.0,
        mzxid: znode.mzxid.0,
        pzxid: znode.pzxid.0,
        version: znode.version,
        cversion: znode.cversion,
    };
    (znode.path.to_string(), expected)
}

/// Runs `story` for each seed; names the one that fails.
fn for_seeds(seeds: std::ops::Range<u64>, story: impl Fn(u64)) {
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| story(seed))) {
            eprintln!("failed with seed {seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn the_tree_does_what_a_map_does() {
    for_seeds(0..20, |seed| {
        let mut both = Both::new(seed);
        for _ in 0..300 {
            match both.rng.gen_range(0..100) {
                0..60 => both.write(),
                60..80 => {
                    both.zxid += 1;
                    both.multi(0);
                }
                80..98 => both.publish(),
                _ => both.replace(),
            }
            both.check();
        }
    });
}

#[test]
fn a_frozen_tree_is_the_tree_of_its_moment() {
    for_seeds(0..40, |seed| {
        let mut both = Both::new(seed);
        for _ in 0..200 {
            both.write();
        }
        both.publish();
        for _ in 0..10 {
            let unpublished = both.rng.gen_range(0..3);
            (0..unpublished).for_each(|_| both.write());
            let moment = both.published.clone();
            let mut frozen = both.tree.freeze().expect("no other is alive");
            assert!(both.tree.freeze().is_none(), "one at a time");
            assert_eq!(frozen.len(), moment.len());
            let mut found = Vec::new();
            let gives_up = both.rng.gen_bool(0.2);
            loop {
                for _ in 0..both.rng.gen_range(0..30) {
                    both.write();
                }
                if both.rng.gen_bool(0.7) {
                    both.publish();
                }
                if gives_up && found.len() > 5 {
                    break;
                }
                if both.rng.gen_bool(0.02) {
                    both.replace();
                }
                let step = both.rng.gen_range(1..20);
                let before = found.len();
                found.extend(frozen.by_ref().take(step));
                if found.len() < before + step {
                    break;
                }
            }
            if !gives_up {
                let order =
                    |z: &Arc<Znode>| (shard_of(path_hash(z.path.as_str())), z.path.to_string());
                assert!(found.is_sorted_by_key(order));
                assert_eq!(found.len(), moment.len());
                assert_eq!(found.into_iter().map(seen).collect::<Model>(), moment);
            }
            drop(frozen);
            assert_eq!(both.tree.table.kept_len(), 0, "everything kept was freed");
        }
    });
}

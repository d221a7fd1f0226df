//! The published znodes: a hash table in shards, each under its own lock.
//!
//! It holds single versions and knows nothing of parents, batches or zxids, except that it keeps for a
//! frozen tree what that one hasn't captured yet. Locks are held for one znode's look-up or replacement;
//! what was replaced is dropped outside of them.
//!
//! The hash is fixed, for the order of a snapshot follows the shards and must be the same on every replica
//! and in every release. Whoever may choose paths could thus make them collide; they would slow down the
//! look-ups in one shard to a walk over these paths. Creating znodes in such numbers takes the permission
//! to, and quotas bound it.

use std::sync::Arc;

use hashbrown::HashTable;
use parking_lot::{RwLock, RwLockUpgradableReadGuard};

use super::frozen::Hold;
use super::overlay::{Overlay, State};
use super::znode::Znode;

/// The number of shards. Part of the order of a snapshot, so never to be changed alone. At a million
/// znodes a shard holds 250, few enough to be captured in some ten microseconds, during which only the
/// writes to that shard wait.
pub(super) const SHARDS: usize = 4096;

/// The published znodes.
pub(super) struct Table {
    shards: Box<[RwLock<Shard>]>,
}

#[derive(Default)]
struct Shard {
    znodes: HashTable<Arc<Znode>>,
    /// The last freeze that has captured this shard, or done without it.
    captured: u64,
    /// Versions replaced or removed since the current freeze, of which it is the only keeper.
    undo: Vec<Arc<Znode>>,
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
        }
    }

    /// The version of the znode at `path`, which has the hash `hash`.
    pub(super) fn get(&self, hash: u64, path: &str) -> Option<Arc<Znode>> {
        self.shard(hash).read().find(hash, path).cloned()
    }

    /// A copy of that version to be changed.
    pub(super) fn cloned(&self, hash: u64, path: &str) -> Option<Znode> {
        let shard = self.shard(hash).read();
        shard.find(hash, path).map(|znode| Znode::clone(znode))
    }

    pub(super) fn contains(&self, hash: u64, path: &str) -> bool {
        self.shard(hash).read().find(hash, path).is_some()
    }

    /// The number of znodes.
    pub(super) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.read().znodes.len())
            .sum()
    }

    /// Takes in a published batch.
    pub(super) fn fold(&self, overlay: &Overlay, hold: Option<Hold>) {
        for (hash, state) in overlay.iter() {
            let mut shard = self.shard(hash).write();
            let old = match state {
                State::Present(znode) => shard.put(hash, znode.clone()),
                State::Gone(path) => shard.take(hash, path.as_str()),
            };
            let dead = shard.keep_for(hold, old);
            drop(shard);
            drop(dead);
        }
    }

    /// Adds a znode to a table that nobody else has yet. Gives back the one that was there.
    pub(super) fn insert(&mut self, znode: Znode) -> Option<Arc<Znode>> {
        let hash = path_hash(znode.path.as_str());
        self.shard_mut(hash).put(hash, Arc::new(znode))
    }

    /// The version at `path` of a table that nobody else has yet.
    pub(super) fn get_mut(&mut self, path: &str) -> Option<&mut Znode> {
        let hash = path_hash(path);
        let znode = self.shard_mut(hash).find_mut(hash, path)?;
        Some(Arc::make_mut(znode))
    }

    /// The number of versions kept for a frozen tree.
    #[cfg(test)]
    pub(super) fn kept_len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.read().undo.len())
            .sum()
    }

    /// What was in the shard `number` when the freeze `hold` began, in no order. From now on the shard
    /// keeps nothing for it.
    pub(super) fn capture(&self, number: usize, hold: Hold) -> Vec<Arc<Znode>> {
        let shard = self.shards[number].upgradable_read();
        let mut versions = Vec::with_capacity(shard.znodes.len() + shard.undo.len());
        let then = |znode: &&Arc<Znode>| znode.changed <= hold.zxid;
        versions.extend(shard.znodes.iter().filter(then).cloned());
        let mut shard = RwLockUpgradableReadGuard::upgrade(shard);
        versions.append(&mut shard.undo);
        shard.undo = Vec::new();
        shard.captured = hold.freeze;
        versions
    }

    /// Keeps nothing more for the freeze `hold` in the shard `number`.
    pub(super) fn forget(&self, number: usize, hold: Hold) {
        let mut shard = self.shards[number].write();
        shard.captured = hold.freeze;
        let undo = std::mem::take(&mut shard.undo);
        drop(shard);
        drop(undo);
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        &self.shards[shard_of(hash)]
    }

    fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        self.shards[shard_of(hash)].get_mut()
    }
}

impl Shard {
    fn find(&self, hash: u64, path: &str) -> Option<&Arc<Znode>> {
        self.znodes.find(hash, |znode| znode.path.as_str() == path)
    }

    fn find_mut(&mut self, hash: u64, path: &str) -> Option<&mut Arc<Znode>> {
        self.znodes
            .find_mut(hash, |znode| znode.path.as_str() == path)
    }

    fn put(&mut self, hash: u64, znode: Arc<Znode>) -> Option<Arc<Znode>> {
        if let Some(slot) = self.find_mut(hash, znode.path.as_str()) {
            return Some(std::mem::replace(slot, znode));
        }
        self.znodes
            .insert_unique(hash, znode, |znode| path_hash(znode.path.as_str()));
        None
    }

    fn take(&mut self, hash: u64, path: &str) -> Option<Arc<Znode>> {
        let entry = self
            .znodes
            .find_entry(hash, |znode| znode.path.as_str() == path)
            .ok()?;
        Some(entry.remove().0)
    }

    /// Keeps a version that has left the table if a frozen tree needs it; gives it back if not.
    fn keep_for(&mut self, hold: Option<Hold>, old: Option<Arc<Znode>>) -> Option<Arc<Znode>> {
        match (hold, old) {
            (Some(hold), Some(old)) if self.captured != hold.freeze && old.changed <= hold.zxid => {
                self.undo.push(old);
                None
            }
            (_, old) => old,
        }
    }
}

/// The shard of a path with this hash. The table of a shard uses the lowest and the highest bits.
pub(super) fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

/// The hash of a path: eight bytes at a time, each folded in by a wide multiplication. Written out here
/// because it must never change.
pub(super) fn path_hash(path: &str) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(FACTOR);
        product as u64 ^ (product >> 64) as u64
    };
    let bytes = path.as_bytes();
    let (words, rest) = bytes.as_chunks::<8>();
    let mut state = 0x243f_6a88_85a3_08d3 ^ bytes.len() as u64;
    for word in words {
        state = fold(state, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    state = fold(state, u64::from_le_bytes(last));
    fold(state, FACTOR.rotate_left(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        let hashes = ["/", "/a", "/zookeeper/quota", "/ä/日本"].map(path_hash);
        assert_eq!(
            hashes,
            [
                7031254662214449716,
                17643367822125403414,
                11642795672001180454,
                12645332136625863869,
            ]
        );
    }

    #[test]
    fn paths_spread_over_the_shards() {
        for pattern in ["/app/", "/a-rather-long-name-of-a-service/member-"] {
            let mut counts = vec![0_u32; SHARDS];
            for number in 0..SHARDS * 64 {
                counts[shard_of(path_hash(&format!("{pattern}{number:010}")))] += 1;
            }
            // 64 on average with a standard deviation of 8.
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(*least >= 24 && *most <= 112, "{least} to {most}");
        }
    }
}

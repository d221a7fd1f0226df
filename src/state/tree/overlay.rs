//! The changes of one batch: what became of each path that it touched.
//!
//! While the batch is being applied it belongs to the writer, who changes the versions in it in place;
//! once published it is immutable, and readers look into it until the table has taken it in.

use std::sync::Arc;

use hashbrown::HashTable;

use super::znode::Znode;
use crate::path::ZnodePath;

/// The most slots that are kept for the next batch.
const KEPT_CAPACITY_MAX: usize = 8192;

/// What a batch has made of the paths it touched.
#[derive(Default)]
pub(super) struct Overlay {
    slots: HashTable<Slot>,
}

/// One touched path.
pub(super) struct Slot {
    hash: u64,
    /// The savepoint whose undo log knows what was here before; 0 for none.
    pub(super) saved_by: u64,
    pub(super) state: State,
}

/// What became of a path.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// The znode there has this version now.
    Present(Arc<Znode>),
    /// There is no znode there any more.
    Gone(ZnodePath),
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// What became of `path`, which has the hash `hash`; `None` if it wasn't touched.
    pub(super) fn get(&self, hash: u64, path: &str) -> Option<&State> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots.find(hash, |slot| slot.state.path() == path)?;
        Some(&slot.state)
    }

    pub(super) fn slot_mut(&mut self, hash: u64, path: &str) -> Option<&mut Slot> {
        self.slots.find_mut(hash, |slot| slot.state.path() == path)
    }

    /// Says what became of a path, whose state before is known to the savepoint `saved_by`.
    pub(super) fn set(&mut self, hash: u64, saved_by: u64, state: State) {
        match self.slot_mut(hash, state.path()) {
            Some(slot) => slot.state = state,
            None => {
                let slot = Slot {
                    hash,
                    saved_by,
                    state,
                };
                self.slots.insert_unique(hash, slot, |slot| slot.hash);
            }
        }
    }

    /// The version at `path`, to be changed in place; `published` makes it from the published one if the
    /// batch hasn't touched it. The savepoint `saved_by` knows the state before.
    pub(super) fn present_mut(
        &mut self,
        hash: u64,
        path: &str,
        saved_by: u64,
        published: impl FnOnce() -> Znode,
    ) -> &mut Znode {
        let slot = self
            .slots
            .entry(hash, |slot| slot.state.path() == path, |slot| slot.hash)
            .or_insert_with(|| Slot {
                hash,
                saved_by,
                state: State::Present(Arc::new(published())),
            })
            .into_mut();
        match &mut slot.state {
            State::Present(znode) => Arc::make_mut(znode),
            State::Gone(path) => panic!("{path} was removed in this batch"),
        }
    }

    /// Forgets that `path` was touched.
    pub(super) fn forget(&mut self, hash: u64, path: &str) {
        if let Ok(slot) = self
            .slots
            .find_entry(hash, |slot| slot.state.path() == path)
        {
            slot.remove();
        }
    }

    /// Every touched path, with its hash, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &State)> {
        self.slots.iter().map(|slot| (slot.hash, &slot.state))
    }

    /// The same without its changes, to be filled again. One that was made for an unusually large batch
    /// is not kept: every later publish would walk over its empty buckets.
    pub(super) fn emptied(mut self) -> Overlay {
        if self.slots.capacity() > KEPT_CAPACITY_MAX {
            return Overlay::default();
        }
        self.slots.clear();
        self
    }
}

impl State {
    pub(super) fn path(&self) -> &str {
        match self {
            State::Present(znode) => znode.path.as_str(),
            State::Gone(path) => path.as_str(),
        }
    }
}

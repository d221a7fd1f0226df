//! Where the peers are: what the host says, what peers say of themselves and of others.
//!
//! It knows no socket. The invariants: the host's word stands until the host changes it, a node's own
//! word counts more than another's, and the book has a limit.

use std::collections::{BTreeMap, BTreeSet};

use crate::NodeId;

/// The most addresses that are learned from others.
const LEARNED_MAX: usize = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    address: String,
    told_by: Teller,
}

/// Who says where a node is: later ones in this list are believed over earlier ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Teller {
    /// Another peer.
    Peer,
    /// The node itself, when it dialled.
    Itself,
    /// The host.
    Host,
}

/// Addresses by node.
#[derive(Default, Debug)]
pub(super) struct AddressBook {
    entries: BTreeMap<NodeId, Entry>,
    /// Nodes that the host has removed: hearsay doesn't bring them back.
    removed: BTreeSet<NodeId>,
}

impl AddressBook {
    pub(super) fn address(&self, node: NodeId) -> Option<&str> {
        self.entries.get(&node).map(|entry| entry.address.as_str())
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.entries.contains_key(&node)
    }

    /// Whether the host has named it.
    pub(super) fn is_named(&self, node: NodeId) -> bool {
        let entry = self.entries.get(&node);
        entry.is_some_and(|entry| entry.told_by == Teller::Host)
    }

    pub(super) fn all(&self) -> Vec<(NodeId, String)> {
        self.entries
            .iter()
            .map(|(node, entry)| (*node, entry.address.clone()))
            .collect()
    }

    /// Takes an address in; true where the book says something else now.
    pub(super) fn learn(&mut self, node: NodeId, address: &str, told_by: Teller) -> bool {
        if address.is_empty() || (told_by == Teller::Peer && self.removed.contains(&node)) {
            return false;
        }
        match self.entries.get(&node) {
            // Hearsay of equal weight may be old: the first stands.
            Some(entry)
                if entry.told_by > told_by
                    || (entry.told_by, told_by) == (Teller::Peer, Teller::Peer) =>
            {
                return false;
            }
            None if told_by != Teller::Host && self.entries.len() >= LEARNED_MAX => return false,
            _ => {}
        }
        if told_by == Teller::Host {
            self.removed.remove(&node);
        }
        let entry = Entry {
            address: address.to_owned(),
            told_by,
        };
        let before = self.entries.insert(node, entry);
        before.is_none_or(|before| before.address != address)
    }

    /// Forgets a node; true where it was known.
    pub(super) fn remove(&mut self, node: NodeId) -> bool {
        if self.removed.len() < LEARNED_MAX {
            self.removed.insert(node);
        }
        self.entries.remove(&node).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    #[test]
    fn the_host_is_believed_over_the_node_and_the_node_over_others() {
        let mut book = AddressBook::default();
        assert!(book.learn(node(1), "a", Teller::Peer));
        assert!(!book.learn(node(1), "b", Teller::Peer));
        assert!(book.learn(node(1), "c", Teller::Itself));
        assert!(!book.learn(node(1), "d", Teller::Peer));
        assert!(book.learn(node(1), "e", Teller::Itself));
        assert!(book.learn(node(1), "f", Teller::Host));
        assert!(!book.learn(node(1), "g", Teller::Itself));
        assert_eq!(book.address(node(1)), Some("f"));
        assert!(!book.learn(node(1), "f", Teller::Host));
        assert!(!book.learn(node(2), "", Teller::Itself));
    }

    #[test]
    fn a_removed_node_comes_back_by_itself_or_by_the_host_alone() {
        let mut book = AddressBook::default();
        book.learn(node(1), "a", Teller::Host);
        assert!(book.remove(node(1)));
        assert!(!book.remove(node(1)));
        assert!(!book.learn(node(1), "a", Teller::Peer));
        assert!(book.learn(node(1), "a", Teller::Itself));
        book.remove(node(1));
        assert!(book.learn(node(1), "a", Teller::Host));
    }

    #[test]
    fn strangers_fill_the_book_up_to_its_limit() {
        let mut book = AddressBook::default();
        for id in 1..=LEARNED_MAX as u64 * 2 {
            book.learn(node(id), "a", Teller::Itself);
        }
        assert_eq!(book.all().len(), LEARNED_MAX);
        assert!(book.learn(node(u64::MAX), "a", Teller::Host));
    }
}

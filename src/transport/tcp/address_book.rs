//! Where the peers are: what the host says, what peers say of themselves and of others.
//!
//! It knows no socket. The invariants: the host's word stands until the host changes it; a node's own
//! word counts more than another's, and no number of others' takes its place; the book has a limit, and
//! what was said last has room in it.

use std::collections::{BTreeMap, BTreeSet};

use crate::NodeId;

/// The most nodes whose own word is kept, and the most that others have told of.
const TOLD_MAX: usize = 1024;
/// The most nodes of which it is remembered that the host has removed them.
const REMOVED_MAX: usize = 1024;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    address: String,
    told_by: Teller,
    /// When it was told: the book's own count of what it was told.
    told_at: u64,
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

/// What came of telling the book an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Learned {
    /// It says what it said.
    Nothing,
    /// It says something else of the node.
    Changed,
    /// Likewise, and has forgotten this one for it.
    InsteadOf(NodeId),
}

/// Addresses by node.
#[derive(Default, Debug)]
pub(super) struct AddressBook {
    entries: BTreeMap<NodeId, Entry>,
    /// The same nodes by who told of them, and when.
    ages: BTreeMap<Teller, BTreeMap<u64, NodeId>>,
    /// Nodes that the host has removed: hearsay doesn't bring them back.
    removed: BTreeSet<NodeId>,
    told: u64,
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
        self.told_by(Teller::Peer)
    }

    /// What others are told: no hearsay, so that nothing false goes further than to whom it was told, and
    /// two full books don't fill each other for ever.
    pub(super) fn first_hand(&self) -> Vec<(NodeId, String)> {
        self.told_by(Teller::Itself)
    }

    fn told_by(&self, least: Teller) -> Vec<(NodeId, String)> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.told_by >= least)
            .map(|(node, entry)| (*node, entry.address.clone()))
            .collect()
    }

    /// Takes an address in. Where there is no room, the one of the same weight that was told longest ago
    /// makes some, but for those that are `in_use`.
    pub(super) fn learn(
        &mut self,
        node: NodeId,
        address: &str,
        told_by: Teller,
        in_use: impl Fn(NodeId) -> bool,
    ) -> Learned {
        if address.is_empty() || (told_by == Teller::Peer && self.removed.contains(&node)) {
            return Learned::Nothing;
        }
        let known = self.entries.get(&node).map(|entry| entry.told_by);
        // Hearsay of equal weight may be old: the first stands.
        if known.is_some_and(|known| {
            known > told_by || (known, told_by) == (Teller::Peer, Teller::Peer)
        }) {
            return Learned::Nothing;
        }
        let mut forgotten = None;
        if told_by != Teller::Host && known != Some(told_by) && self.is_full(told_by) {
            let Some(oldest) = self.oldest(told_by, in_use) else {
                return Learned::Nothing;
            };
            self.take_out(oldest);
            forgotten = Some(oldest);
        }
        if told_by == Teller::Host {
            self.removed.remove(&node);
        }
        let before = self.take_out(node);
        self.told += 1;
        let entry = Entry {
            address: address.to_owned(),
            told_by,
            told_at: self.told,
        };
        self.entries.insert(node, entry);
        self.ages
            .entry(told_by)
            .or_default()
            .insert(self.told, node);
        match forgotten {
            Some(forgotten) => Learned::InsteadOf(forgotten),
            None if before.is_some_and(|before| before.address == address) => Learned::Nothing,
            None => Learned::Changed,
        }
    }

    fn is_full(&self, told_by: Teller) -> bool {
        let ages = self.ages.get(&told_by);
        ages.is_some_and(|ages| ages.len() >= TOLD_MAX)
    }

    fn oldest(&self, told_by: Teller, in_use: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let mut nodes = self.ages.get(&told_by)?.values().copied();
        nodes.find(|node| !in_use(*node))
    }

    fn take_out(&mut self, node: NodeId) -> Option<Entry> {
        let entry = self.entries.remove(&node)?;
        if let Some(ages) = self.ages.get_mut(&entry.told_by) {
            ages.remove(&entry.told_at);
        }
        Some(entry)
    }

    /// Forgets a node; true where it was known.
    pub(super) fn remove(&mut self, node: NodeId) -> bool {
        if self.removed.len() < REMOVED_MAX {
            self.removed.insert(node);
        }
        self.take_out(node).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    impl AddressBook {
        /// Whether it says something else then, while nobody is connected.
        fn takes(&mut self, id: u64, address: &str, told_by: Teller) -> bool {
            self.learn(node(id), address, told_by, |_| false) != Learned::Nothing
        }
    }

    #[test]
    fn the_host_is_believed_over_the_node_and_the_node_over_others() {
        let mut book = AddressBook::default();
        assert!(book.takes(1, "a", Teller::Peer));
        assert!(!book.takes(1, "b", Teller::Peer));
        assert!(book.takes(1, "c", Teller::Itself));
        assert!(!book.takes(1, "d", Teller::Peer));
        assert!(book.takes(1, "e", Teller::Itself));
        assert!(book.takes(1, "f", Teller::Host));
        assert!(!book.takes(1, "g", Teller::Itself));
        assert_eq!(book.address(node(1)), Some("f"));
        assert!(!book.takes(1, "f", Teller::Host));
        assert!(!book.takes(2, "", Teller::Itself));
    }

    #[test]
    fn a_removed_node_comes_back_by_itself_or_by_the_host_alone() {
        let mut book = AddressBook::default();
        book.takes(1, "a", Teller::Host);
        assert!(book.remove(node(1)));
        assert!(!book.remove(node(1)));
        assert!(!book.takes(1, "a", Teller::Peer));
        assert!(book.takes(1, "a", Teller::Itself));
        book.remove(node(1));
        assert!(book.takes(1, "a", Teller::Host));
    }

    /// One list of addresses filled the book of every node that it came to, for good: not even a new
    /// node's own word was taken any more.
    #[test]
    fn a_nodes_own_word_has_room_whatever_others_have_said() {
        let mut book = AddressBook::default();
        for id in 1..=TOLD_MAX as u64 * 2 {
            assert!(book.takes(id, "a", Teller::Peer));
        }
        assert_eq!(book.all().len(), TOLD_MAX);
        // It is the latest that are left, and they are told to nobody.
        assert!(book.knows(node(TOLD_MAX as u64 * 2)));
        assert_eq!(book.first_hand(), []);
        assert!(book.takes(u64::MAX, "b", Teller::Itself));
        assert_eq!(book.first_hand(), [(node(u64::MAX), "b".to_owned())]);
        // What one is told of and then says itself counts once.
        let heard = TOLD_MAX as u64 + 2;
        assert_eq!(
            book.learn(node(heard), "b", Teller::Itself, |_| false),
            Learned::Changed
        );
        assert_eq!(book.all().len(), TOLD_MAX + 1);
    }

    #[test]
    fn of_many_who_say_where_they_are_those_that_are_connected_stay_and_the_latest() {
        let mut book = AddressBook::default();
        book.takes(1, "host", Teller::Host);
        for id in 2..=4 {
            book.takes(id, "member", Teller::Itself);
        }
        let connected = |id: NodeId| id == node(2);
        for id in 1..TOLD_MAX as u64 * 2 {
            let stranger = node(1000 + id);
            let learned = book.learn(stranger, "stranger", Teller::Itself, connected);
            assert_ne!(learned, Learned::Nothing);
            // It says so again from time to time.
            book.takes(3, "member", Teller::Itself);
        }
        assert_eq!(book.all().len(), 1 + TOLD_MAX);
        let ages: usize = book.ages.values().map(BTreeMap::len).sum();
        assert_eq!(ages, 1 + TOLD_MAX);
        for (id, is_known) in [(1, true), (2, true), (3, true), (4, false)] {
            assert_eq!(book.knows(node(id)), is_known, "node {id}");
        }
        assert!(book.takes(4, "member", Teller::Itself));
        // Where all are connected there is no room for one more but by the host.
        let learned = book.learn(node(u64::MAX), "a", Teller::Itself, |_| true);
        assert_eq!(learned, Learned::Nothing);
        assert!(book.takes(u64::MAX, "a", Teller::Host));
    }
}

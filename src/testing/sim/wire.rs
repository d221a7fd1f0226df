//! The simulated network: who is connected to it, what was sent, and who doesn't reach whom.
//!
//! It knows nothing of time: when a message arrives is the simulation's decision. Whether it does is
//! looked up when it does: a partition also stops what is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::NodeId;
use crate::transport::{Inbox, Local, Message, Transport, TransportError};

/// The network; a clone is the same one.
#[derive(Clone, Default)]
pub(super) struct Wire(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    /// Since the simulation last looked.
    sent: Vec<Message>,
    inboxes: BTreeMap<u64, Arc<dyn Inbox>>,
    /// Who doesn't reach whom, by the cut that did it: cuts may overlap and end one by one.
    cuts: BTreeMap<u64, BTreeSet<(u64, u64)>>,
}

impl Wire {
    /// What a node is given as its transport.
    pub(super) fn endpoint(&self, node: u64) -> Endpoint {
        Endpoint {
            node,
            wire: self.clone(),
        }
    }

    /// Takes what was sent.
    pub(super) fn take_sent(&self) -> Vec<Message> {
        std::mem::take(&mut self.0.lock().sent)
    }

    /// Whether a message from one gets to the other now.
    pub(super) fn reaches(&self, from: u64, to: u64) -> bool {
        let contents = self.0.lock();
        !contents.cuts.values().any(|cut| cut.contains(&(from, to)))
    }

    /// Where a node takes messages in, while it runs.
    pub(super) fn inbox(&self, node: u64) -> Option<Arc<dyn Inbox>> {
        self.0.lock().inboxes.get(&node).cloned()
    }

    /// From now on nothing gets from the first of each pair to the second.
    pub(super) fn cut(&self, number: u64, pairs: impl IntoIterator<Item = (u64, u64)>) {
        let mut contents = self.0.lock();
        contents.cuts.entry(number).or_default().extend(pairs);
    }

    /// That cut is over.
    pub(super) fn mend(&self, number: u64) {
        self.0.lock().cuts.remove(&number);
    }

    /// All cuts are over.
    pub(super) fn mend_all(&self) {
        self.0.lock().cuts.clear();
    }
}

/// A node's end of the network.
pub(super) struct Endpoint {
    node: u64,
    wire: Wire,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({})", self.node)
    }
}

impl Transport for Endpoint {
    fn start(&self, _: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        self.wire.0.lock().inboxes.insert(self.node, inbox);
        Ok(())
    }

    fn send(&self, message: Message) {
        self.wire.0.lock().sent.push(message);
    }

    fn stop(&self) {
        self.wire.0.lock().inboxes.remove(&self.node);
    }
}

/// All pairs that a split into two groups separates; whoever is in both is reached by all.
pub(super) fn between(some: &[u64], others: &[u64]) -> Vec<(u64, u64)> {
    let mut pairs = Vec::new();
    for &a in some.iter().filter(|id| !others.contains(id)) {
        for &b in others.iter().filter(|id| !some.contains(id)) {
            pairs.extend([(a, b), (b, a)]);
        }
    }
    pairs
}

/// The number of a node's id.
pub(super) fn node_id(id: u64) -> NodeId {
    NodeId::new(id).expect("0 is no node of a simulation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_reaches_everybody_and_the_rest_is_cut_in_two() {
        let wire = Wire::default();
        wire.cut(1, between(&[1, 2], &[2, 3]));
        assert!(wire.reaches(1, 2) && wire.reaches(2, 3) && wire.reaches(3, 2));
        assert!(!wire.reaches(1, 3) && !wire.reaches(3, 1));
        wire.cut(2, [(1, 2)]);
        wire.mend(1);
        assert!(wire.reaches(1, 3) && !wire.reaches(1, 2) && wire.reaches(2, 1));
    }
}

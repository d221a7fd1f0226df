//! What a faulty network does to each message.
//!
//! It knows no thread and no clock: it says what is to become of a message, and somebody else does it.
//! The invariant: same seed, same messages in the same order, same decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::NodeId;
use crate::transport::Message;

/// How often messages are lost, doubled and reordered, and how long they take. None, by default.
///
/// Probabilities are between 0 (never) and 1 (always).
///
/// ```
/// use std::time::Duration;
/// use quorate::transport::{Faults, Network};
///
/// let network = Network::new(42);
/// network.set_faults(Faults::default().loss(0.1).delay(Duration::from_millis(1), Duration::from_millis(5)));
/// network.heal();
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    loss: f64,
    duplication: f64,
    reordering: f64,
    shortest_delay: Duration,
    longest_delay: Duration,
}

impl Faults {
    /// A message is lost with this probability.
    pub fn loss(self, probability: f64) -> Faults {
        Faults {
            loss: probability,
            ..self
        }
    }

    /// A message is delivered twice with this probability.
    pub fn duplication(self, probability: f64) -> Faults {
        Faults {
            duplication: probability,
            ..self
        }
    }

    /// A message waits with this probability until the next one on the same way has overtaken it.
    pub fn reordering(self, probability: f64) -> Faults {
        Faults {
            reordering: probability,
            ..self
        }
    }

    /// Every message takes a time between these two; each its own, so they overtake each other.
    pub fn delay(self, shortest: Duration, longest: Duration) -> Faults {
        Faults {
            shortest_delay: shortest,
            longest_delay: longest.max(shortest),
            ..self
        }
    }

    pub(super) fn longest_delay(&self) -> Duration {
        self.longest_delay
    }
}

/// What is to become of a message.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Now(Message),
    After(Duration, Message),
}

/// The faults in force, and what they hold back.
pub(super) struct FaultState {
    faults: Faults,
    random: u64,
    cuts: BTreeSet<(NodeId, NodeId)>,
    isolated: BTreeSet<NodeId>,
    /// One message at most for each way, waiting to be overtaken.
    waiting: BTreeMap<(NodeId, NodeId), Message>,
}

impl FaultState {
    pub(super) fn new(seed: u64) -> FaultState {
        FaultState {
            faults: Faults::default(),
            random: seed,
            cuts: BTreeSet::new(),
            isolated: BTreeSet::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Gives back what the faults before had held back.
    pub(super) fn set(&mut self, faults: Faults) -> Vec<Message> {
        self.faults = faults;
        std::mem::take(&mut self.waiting).into_values().collect()
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn isolate(&mut self, node: NodeId) {
        self.isolated.insert(node);
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
        self.isolated.clear();
    }

    pub(super) fn is_faulty(&self) -> bool {
        self.faults != Faults::default() || !self.cuts.is_empty() || !self.isolated.is_empty()
    }

    /// What becomes of `message`, and of those that it sets free, in order.
    pub(super) fn decide(&mut self, message: Message) -> Vec<Fate> {
        let way = (message.from(), message.to());
        let cut = self.cuts.contains(&way)
            || self.isolated.contains(&way.0)
            || self.isolated.contains(&way.1);
        if cut || self.happens(self.faults.loss) {
            return Vec::new();
        }
        let waits = !self.waiting.contains_key(&way) && self.happens(self.faults.reordering);
        if waits {
            self.waiting.insert(way, message);
            return Vec::new();
        }
        let mut fates = Vec::new();
        if self.happens(self.faults.duplication) {
            fates.push(self.timed(message.clone()));
        }
        fates.push(self.timed(message));
        if let Some(overtaken) = self.waiting.remove(&way) {
            fates.push(self.timed(overtaken));
        }
        fates
    }

    fn timed(&mut self, message: Message) -> Fate {
        let (shortest, longest) = (self.faults.shortest_delay, self.faults.longest_delay);
        if longest.is_zero() {
            return Fate::Now(message);
        }
        let part = self.fraction();
        Fate::After(shortest + (longest - shortest).mul_f64(part), message)
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.fraction() < probability
    }

    /// A number from 0 up to, not including, 1 (SplitMix64).
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.random;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^= value >> 31;
        (value >> 11) as f64 / (1_u64 << 53) as f64
    }
}

//! What can go wrong in a simulation, which of it shall, and how often it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal,)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            /// All kinds.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$kind,)*];

            /// Its name, as the runner `simulate` takes it.
            pub fn name(self) -> &'static str {
                match self {
                    $(FaultKind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// One message in twenty is lost.
    Loss "loss",
    /// One message in twenty arrives twice.
    Duplication "duplication",
    /// Messages take up to 20 ms, and a few a second, so that they overtake each other.
    Delay "delay",
    /// For a while a node's messages don't reach some other.
    OneWay "one-way",
    /// For a while the nodes are in two groups that don't reach each other; one may be a single node.
    Partition "partition",
    /// For a while the nodes are in two groups that have one node in common, which reaches all.
    Bridge "bridge",
    /// A transport says that a connection has broken, though nothing is wrong.
    Disconnection "disconnection",
    /// A process is killed, at any step; what it has written stays.
    Crash "crash",
    /// The power goes: of what was not synced any part may be lost, and the last writes torn.
    PowerLoss "power-loss",
    /// A process stands still for a while, as after SIGSTOP, and goes on.
    Pause "pause",
    /// For a while a disk takes up to 300 ms for a write.
    SlowDisk "slow-disk",
    /// A write fails, half done: the node stops, and is started again.
    FailedWrite "failed-write",
    /// A sync fails: the node stops, and is started again.
    FailedSync "failed-sync",
    /// A disk is full: the node stops when it needs more, and is started again with room.
    FullDisk "full-disk",
    /// A bit of what a killed node has stored is flipped. Where the node refuses to start for it, it is
    /// removed from the cluster, its disk is wiped, and it joins again. One node at a time.
    FlippedBit "flipped-bit",
    /// A node's monotonic clock changes its rate, within what [`crate::Clock`] allows.
    ClockDrift "clock-drift",
    /// A node's wall clock is set, by up to a day.
    WallClockJump "wall-clock-jump",
}

impl FaultKind {
    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<FaultKind> {
        FaultKind::ALL
            .iter()
            .copied()
            .find(|kind| kind.name() == name)
    }

    /// Whether it is there all the time, and not every now and then.
    pub(super) fn is_weather(self) -> bool {
        matches!(
            self,
            FaultKind::Loss | FaultKind::Duplication | FaultKind::Delay
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which faults are injected.
///
/// ```
/// use quorate::testing::sim::{FaultKind, Faults};
///
/// let faults = Faults::network().with(FaultKind::Pause).without(FaultKind::Bridge);
/// assert!(faults.contains(FaultKind::Pause));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults {
    kinds: BTreeSet<FaultKind>,
    pub(super) pause: Duration,
}

impl Faults {
    fn of(kinds: &[FaultKind]) -> Faults {
        Faults {
            kinds: kinds.iter().copied().collect(),
            pause: Duration::from_secs(8),
        }
    }

    /// No faults: messages take up to half a millisecond, and so do disks.
    pub fn none() -> Faults {
        Faults::of(&[])
    }

    /// What networks do.
    pub fn network() -> Faults {
        use FaultKind::*;
        Faults::of(&[
            Loss,
            Duplication,
            Delay,
            OneWay,
            Partition,
            Bridge,
            Disconnection,
        ])
    }

    /// What processes and their power supply do.
    pub fn crashes() -> Faults {
        use FaultKind::*;
        Faults::of(&[Crash, PowerLoss, Pause])
    }

    /// What disks do.
    pub fn disks() -> Faults {
        use FaultKind::*;
        Faults::of(&[
            PowerLoss,
            SlowDisk,
            FailedWrite,
            FailedSync,
            FullDisk,
            FlippedBit,
        ])
    }

    /// What clocks do.
    pub fn clocks() -> Faults {
        use FaultKind::*;
        Faults::of(&[ClockDrift, WallClockJump, Pause])
    }

    /// Everything.
    pub fn all() -> Faults {
        Faults::of(FaultKind::ALL)
    }

    /// And these.
    pub fn with(mut self, kind: FaultKind) -> Faults {
        self.kinds.insert(kind);
        self
    }

    /// But not these.
    pub fn without(mut self, kind: FaultKind) -> Faults {
        self.kinds.remove(&kind);
        self
    }

    /// How long it is on average from one fault of a kind to the next of that kind: 8 s unless told.
    pub fn every(mut self, pause: Duration) -> Faults {
        self.pause = pause;
        self
    }

    /// As often as those others.
    pub fn as_often_as(self, others: &Faults) -> Faults {
        self.every(others.pause)
    }

    /// Whether these are among them.
    pub fn contains(&self, kind: FaultKind) -> bool {
        self.kinds.contains(&kind)
    }

    /// Which kinds.
    pub fn kinds(&self) -> impl Iterator<Item = FaultKind> + '_ {
        self.kinds.iter().copied()
    }

    /// What the runner `simulate` calls them: a preset's name, or names of kinds, with commas.
    pub fn from_names(names: &str) -> Option<Faults> {
        Some(match names {
            "none" => Faults::none(),
            "network" => Faults::network(),
            "crashes" => Faults::crashes(),
            "disks" => Faults::disks(),
            "clocks" => Faults::clocks(),
            "all" => Faults::all(),
            names => {
                let kinds: Option<Vec<_>> = names.split(',').map(FaultKind::from_name).collect();
                Faults::of(&kinds?)
            }
        })
    }

    /// The reverse of [`Faults::from_names`].
    pub fn names(&self) -> String {
        if self.kinds.is_empty() {
            return "none".to_string();
        }
        if self.kinds.len() == FaultKind::ALL.len() {
            return "all".to_string();
        }
        let names: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
        names.join(",")
    }
}

/// How often each kind of fault has struck.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts {
    counts: BTreeMap<FaultKind, u64>,
}

impl FaultCounts {
    pub(super) fn count(&mut self, kind: FaultKind) {
        *self.counts.entry(kind).or_default() += 1;
    }

    /// How often this kind has.
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Adds those of another simulation.
    pub fn add(&mut self, others: &FaultCounts) {
        for (kind, count) in &others.counts {
            *self.counts.entry(*kind).or_default() += count;
        }
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self
            .counts
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_by_the_names_that_they_give() {
        for faults in [
            Faults::none(),
            Faults::all(),
            Faults::network(),
            Faults::disks().without(FaultKind::FullDisk),
        ] {
            assert_eq!(Faults::from_names(&faults.names()), Some(faults));
        }
        assert_eq!(Faults::from_names("loss,nonsense"), None);
    }
}

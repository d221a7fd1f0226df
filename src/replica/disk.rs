//! A leader whose disk hangs hands leadership over.
//!
//! Heartbeats need no disk, so such a leader would lead on: it applies nothing, for it is given only what
//! is durable here as well, knows no session that was opened since, and takes no proposals when too much
//! waits. A quorum without it decides, but whoever asks it gets no answer.
//!
//! Time is counted in ticks that this node has lived through: while the whole process stands still the
//! disk is not to blame. The invariant: leadership goes only to a voter that has as durable what hangs
//! here, so that it does not move while every disk is slow, and is not given to one that is worse.

use std::collections::VecDeque;

use super::Replica;
use crate::storage::WriteBatch;

/// For how many election timeouts an entry may be on its way to the disk of a leader before it hands
/// over: a pause of a busy disk is shorter, a session's timeout longer.
pub(super) const DISK_PATIENCE: u32 = 10;

/// Entries on their way to the disk.
#[derive(Debug)]
struct UnderWay {
    number: u64,
    first_index: u64,
    /// The tick in which they were given out.
    given_out: u64,
}

/// What the disk has yet to report. No more than fit into the queue of writes, where the node waits.
#[derive(Debug, Default)]
pub(super) struct Disk {
    under_way: VecDeque<UnderWay>,
    ticks: u64,
}

impl Disk {
    pub(super) fn gave_out(&mut self, number: u64, write: &WriteBatch) {
        if let Some(first) = write.entries.first() {
            self.under_way.push_back(UnderWay {
                number,
                first_index: first.index,
                given_out: self.ticks,
            });
        }
    }

    pub(super) fn persisted(&mut self, number: u64) {
        let durable = |write: &UnderWay| write.number <= number;
        while self.under_way.front().is_some_and(durable) {
            self.under_way.pop_front();
        }
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
    }

    /// The first entry that hangs: on its way for more than `patience` ticks.
    fn hangs(&self, patience: u64) -> Option<u64> {
        let oldest = self.under_way.front()?;
        (self.ticks - oldest.given_out > patience).then_some(oldest.first_index)
    }
}

impl Replica {
    pub(super) fn tick_disk(&mut self) {
        self.disk.tick();
        if !self.leads() || self.status.transferring {
            return;
        }
        let patience = self.options.election_timeout * DISK_PATIENCE;
        let patience = patience.as_nanos() / self.options.tick.as_nanos().max(1);
        let Some(hanging) = self.disk.hangs(patience as u64) else {
            return;
        };
        if let Some(successor) = self
            .successor(&self.configuration.voters)
            .filter(|other| other.matched >= hanging)
        {
            // Where it comes to nothing the core gives up by itself, and the next tick tries again.
            let _ = self.core.transfer_leadership(successor.node);
            self.pump();
        }
    }
}

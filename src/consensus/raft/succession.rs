//! What a follower does when it sees its leader's connection break: it doesn't wait for the election
//! timeout.
//!
//! A leader whose process is killed takes its connections with it, and every follower sees that at once.
//! Each then lets go of the lease that makes it refuse votes (Raft's dissertation, section 6.2), as if
//! an election timeout had passed, and campaigns after a short pause of its own. Raft's safety depends on
//! no clock, so a false alarm costs a pre-vote that the others refuse, and the leader's next word ends
//! it. The invariant: the hurry ends with the next leader, and after a few rounds.

use raft::StateRole;

use super::RaftCore;
use crate::NodeId;

/// How often a candidate asks anew before it falls back on the election timeout: the others may learn
/// of the leader's death a little later.
const ROUNDS: u32 = 4;

/// A follower in a hurry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hurry {
    /// Elections that it may still start early.
    rounds: u32,
    /// Its place among those that may succeed: 0 campaigns first.
    rank: usize,
}

impl RaftCore {
    /// The connection with `peer` broke.
    pub(super) fn follow_disconnection(&mut self, peer: NodeId) {
        if self.leader() != Some(peer) || self.leads() {
            return;
        }
        let term = self.node.raft.term;
        let mut successors = self.configuration.voters.clone();
        successors.retain(|voter| *voter != peer);
        let place = successors.iter().position(|voter| *voter == self.id);
        // Who is first changes with the term, or one node would have to lead whenever it can.
        let rank = place.map(|place| (place + term as usize) % successors.len());
        self.node.raft.election_elapsed = self.options.election_ticks;
        self.hurry = rank.map(|rank| Hurry {
            rounds: ROUNDS,
            rank,
        });
    }

    /// Ends the hurry where there is a leader again.
    pub(super) fn calm_down(&mut self) {
        let raft = &self.node.raft;
        let heard = self.leader().is_some() && raft.election_elapsed < self.options.election_ticks;
        if self.leads() || heard {
            self.hurry = None;
        }
    }

    /// A tick has passed: a pre-vote that came to nothing is asked for again.
    pub(super) fn hurry_on(&mut self) {
        let raft = &mut self.node.raft;
        if let Some(hurry) = &mut self.hurry
            && raft.state == StateRole::PreCandidate
            && raft.election_elapsed == 0
        {
            hurry.rounds = hurry.rounds.saturating_sub(1);
            if hurry.rounds > 0 {
                raft.election_elapsed = self.options.election_ticks;
            }
        }
    }

    /// After how many ticks an election starts: for one in a hurry, counted from the election timeout,
    /// which is taken for passed.
    ///
    /// The pauses differ by rank and not by lot, so that two never split the vote: the first asks at
    /// the next tick, the others half a heartbeat's time after each other.
    pub(super) fn election_ticks(&self) -> usize {
        let Some(hurry) = self.hurry else {
            let term = self.node.raft.term;
            return self.options.election_timeout_ticks(self.id, term);
        };
        let heartbeat = self.options.heartbeat_ticks;
        let first = if hurry.rounds == ROUNDS { 1 } else { heartbeat };
        let pause = first + hurry.rank * heartbeat.div_ceil(2);
        self.options.election_ticks + pause.min(self.options.election_ticks - 1)
    }
}

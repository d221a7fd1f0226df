//! What a user may set of Raft, and the limits that keep it bounded.
//!
//! Ticks, not milliseconds: how long a tick is, the driver decides. The invariant: options that were
//! validated are ones that raft-rs accepts.

use super::shape::APPEND_BYTES_MAX;
use crate::NodeId;
use crate::storage::StorageError;

/// The settings of a [`RaftCore`](super::RaftCore).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RaftOptions {
    /// From which the election timeouts are drawn. Same seed, same timeouts.
    pub seed: u64,
    /// A follower that has heard of no leader for this many ticks, or up to twice as many, starts an
    /// election (Raft paper, section 5.2).
    pub election_ticks: usize,
    /// Ticks between a leader's heartbeats; fewer than `election_ticks`.
    pub heartbeat_ticks: usize,
    /// Bytes of entries in one message, 1 MiB at most; a single larger entry still travels, alone.
    pub append_bytes_max: u64,
    /// Messages with entries under way to one follower.
    pub inflight_messages_max: usize,
    /// Bytes of entries that may be proposed and not yet committed: beyond it proposals are dropped.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries given out at once.
    pub committed_bytes_max: u64,
    /// Bytes of entries kept in memory for followers, besides those that aren't durable yet.
    pub cache_bytes_max: u64,
    /// Barriers waiting for a quorum.
    pub barriers_max: usize,
}

impl Default for RaftOptions {
    fn default() -> RaftOptions {
        RaftOptions {
            seed: 0,
            election_ticks: 10,
            heartbeat_ticks: 2,
            append_bytes_max: 1024 * 1024,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 64 * 1024 * 1024,
            committed_bytes_max: 4 * 1024 * 1024,
            cache_bytes_max: 16 * 1024 * 1024,
            barriers_max: 4096,
        }
    }
}

impl RaftOptions {
    /// The default options with `seed` for the election timeouts.
    pub fn with_seed(seed: u64) -> RaftOptions {
        RaftOptions {
            seed,
            ..RaftOptions::default()
        }
    }

    /// raft-rs's configuration for node `id`, which has applied everything up to `applied`.
    pub(super) fn to_raft(&self, id: NodeId, applied: u64) -> Result<raft::Config, StorageError> {
        let refused = |reason: &str| StorageError::Refused {
            reason: format!("raft options: {reason}"),
        };
        if self.append_bytes_max == 0 || self.append_bytes_max > APPEND_BYTES_MAX {
            return Err(refused(
                "append_bytes_max must be between 1 and 1 MiB, or a follower may refuse a message \
                 for the number of its entries",
            ));
        }
        // raft-rs accepts equality, and then drops every proposal that follows a full message.
        if self.uncommitted_bytes_max <= self.append_bytes_max {
            return Err(refused(
                "uncommitted_bytes_max must exceed append_bytes_max",
            ));
        }
        if self.election_ticks > u32::MAX as usize
            || self.committed_bytes_max == 0
            || self.barriers_max == 0
        {
            return Err(refused("a limit is 0, or an election takes for ever"));
        }
        let config = raft::Config {
            id: id.as_u64(),
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: self.append_bytes_max,
            max_inflight_msgs: self.inflight_messages_max,
            // Without these a node that comes back from a partition throws down a good leader
            // (Raft's dissertation, sections 6.2 and 9.6).
            check_quorum: true,
            pre_vote: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            max_uncommitted_size: self.uncommitted_bytes_max,
            max_committed_size_per_ready: self.committed_bytes_max,
            ..raft::Config::default()
        };
        config
            .validate()
            .map_err(|error| refused(&error.to_string()))?;
        Ok(config)
    }

    /// The ticks after which node `id` starts an election in `term`: between `election_ticks` and
    /// twice as many. raft-rs would draw it from the thread's random numbers.
    pub(super) fn election_timeout_ticks(&self, id: NodeId, term: u64) -> usize {
        let mixed = mix(mix(mix(self.seed) ^ id.as_u64()) ^ term);
        self.election_ticks + (mixed % self.election_ticks as u64) as usize
    }
}

/// SplitMix64's finalizer: every bit of the input changes half of the output's.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId::new(1).unwrap();
    const TWO: NodeId = NodeId::new(2).unwrap();

    #[test]
    fn an_uncommitted_limit_no_larger_than_a_message_is_refused() {
        let options = RaftOptions {
            uncommitted_bytes_max: 1024 * 1024,
            ..RaftOptions::default()
        };
        assert!(matches!(
            options.to_raft(ONE, 1),
            Err(StorageError::Refused { .. })
        ));
        assert!(RaftOptions::default().to_raft(ONE, 1).is_ok());
    }

    #[test]
    fn what_raft_would_refuse_is_refused_with_its_words() {
        for options in [
            RaftOptions {
                heartbeat_ticks: 0,
                ..RaftOptions::default()
            },
            RaftOptions {
                heartbeat_ticks: 10,
                ..RaftOptions::default()
            },
            RaftOptions {
                inflight_messages_max: 0,
                ..RaftOptions::default()
            },
            RaftOptions {
                append_bytes_max: 0,
                ..RaftOptions::default()
            },
        ] {
            assert!(
                matches!(options.to_raft(ONE, 1), Err(StorageError::Refused { .. })),
                "{options:?}"
            );
        }
    }

    #[test]
    fn election_timeouts_depend_on_seed_node_and_term_alone() {
        let timeouts = |seed: u64, id: NodeId| {
            let options = RaftOptions::with_seed(seed);
            (1..50)
                .map(|term| options.election_timeout_ticks(id, term))
                .collect::<Vec<_>>()
        };
        assert_eq!(timeouts(1, ONE), timeouts(1, ONE));
        assert_ne!(timeouts(1, ONE), timeouts(1, TWO));
        assert_ne!(timeouts(1, ONE), timeouts(2, ONE));
        assert!(
            timeouts(1, ONE)
                .iter()
                .all(|ticks| (10..20).contains(ticks))
        );
    }
}

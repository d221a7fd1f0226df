//! Our words for what raft-rs calls `Entry`, `HardState` and `ConfState`, and back.
//!
//! Pure functions; raft-rs's types end here. The invariant: what goes out and comes back is the same.

use raft::eraftpb::{ConfState, Entry, EntryType, HardState as RaftHardState, SnapshotMetadata};

use crate::NodeId;
use crate::storage::{Configuration, EntryKind, HardState, LogEntry, SnapshotMeta};

pub(super) fn entry_to_raft(entry: &LogEntry) -> Entry {
    let mut raft_entry = Entry::default();
    raft_entry.set_entry_type(match entry.kind {
        EntryKind::Command => EntryType::EntryNormal,
        EntryKind::Membership => EntryType::EntryConfChangeV2,
    });
    raft_entry.index = entry.index;
    raft_entry.term = entry.term;
    raft_entry.data = entry.data.clone();
    raft_entry
}

pub(super) fn entry_from_raft(entry: Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Command,
        // The first kind is refused by `inspect`, so what is here is ours.
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Membership,
    };
    LogEntry {
        index: entry.index,
        term: entry.term,
        kind,
        data: entry.data,
    }
}

pub(super) fn hard_state_to_raft(state: &HardState) -> RaftHardState {
    RaftHardState {
        term: state.term,
        vote: state.vote.map_or(0, NodeId::as_u64),
        commit: state.commit,
        ..RaftHardState::default()
    }
}

pub(super) fn hard_state_from_raft(state: &RaftHardState) -> HardState {
    HardState {
        term: state.term,
        vote: NodeId::new(state.vote),
        commit: state.commit,
    }
}

pub(super) fn configuration_to_raft(configuration: &Configuration) -> ConfState {
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.as_u64()).collect::<Vec<_>>();
    let mut state = ConfState::default();
    state.set_voters(numbers(&configuration.voters));
    state.set_voters_outgoing(numbers(&configuration.voters_outgoing));
    state.set_learners(numbers(&configuration.learners));
    state.set_learners_next(numbers(&configuration.learners_next));
    state.auto_leave = configuration.auto_leave;
    state
}

/// Sorts, because raft-rs keeps its sets unordered.
pub(super) fn configuration_from_raft(state: &ConfState) -> Configuration {
    let nodes = |numbers: &[u64]| {
        let mut nodes: Vec<NodeId> = numbers
            .iter()
            .filter_map(|&number| NodeId::new(number))
            .collect();
        nodes.sort_unstable();
        nodes
    };
    Configuration {
        voters: nodes(state.get_voters()),
        voters_outgoing: nodes(state.get_voters_outgoing()),
        learners: nodes(state.get_learners()),
        learners_next: nodes(state.get_learners_next()),
        auto_leave: state.auto_leave,
    }
}

pub(super) fn meta_to_raft(meta: &SnapshotMeta) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata {
        index: meta.index,
        term: meta.term,
        ..SnapshotMetadata::default()
    };
    metadata.set_conf_state(configuration_to_raft(&meta.configuration));
    metadata
}

pub(in crate::consensus) fn meta_from_raft(metadata: &SnapshotMetadata) -> SnapshotMeta {
    SnapshotMeta {
        index: metadata.index,
        term: metadata.term,
        configuration: configuration_from_raft(metadata.get_conf_state()),
    }
}

/// Why raft-rs would panic on a configuration, if it would: from a peer or a disk it is checked first.
pub(super) fn configuration_fault(state: &ConfState) -> Option<&'static str> {
    let lists = [
        state.get_voters(),
        state.get_voters_outgoing(),
        state.get_learners(),
        state.get_learners_next(),
    ];
    for list in lists {
        let mut sorted = list.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != list.len() || sorted.first() == Some(&0) {
            return Some("a configuration lists a node twice, or node 0");
        }
    }
    let [voters, outgoing, learners, learners_next] = lists;
    if voters.is_empty() {
        return Some("a configuration without voters");
    }
    if learners
        .iter()
        .any(|node| voters.contains(node) || outgoing.contains(node))
    {
        return Some("a learner that is a voter");
    }
    if learners_next
        .iter()
        .any(|node| voters.contains(node) || !outgoing.contains(node))
    {
        return Some("a coming learner that isn't an outgoing voter");
    }
    if outgoing.is_empty() && state.auto_leave {
        return Some("a configuration that is to be left but isn't joint");
    }
    None
}

/// Everybody who takes part, some of them twice.
pub(super) fn members(configuration: &Configuration) -> impl Iterator<Item = NodeId> {
    [
        &configuration.voters,
        &configuration.voters_outgoing,
        &configuration.learners,
    ]
    .into_iter()
    .flatten()
    .copied()
}

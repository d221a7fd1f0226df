//! Which version of the rules the log follows next: the newest that every member can follow.
//!
//! Every message between replicas says up to which version its sender can go; a leader that has heard so
//! from all members raises the version of its batches. It never goes back: once the log holds newer
//! rules, a node that doesn't know them stops at that entry, with an error that says so.

use std::collections::BTreeMap;

use super::Replica;
use crate::ids::NodeId;
use crate::proto::Rules;
use crate::storage::Configuration;

/// What is known of the members' releases.
#[derive(Debug)]
pub(super) struct MembersRules {
    /// The newest that this node follows.
    pub(super) own: Rules,
    /// The newest that each other member follows, as it said last.
    heard: BTreeMap<NodeId, Rules>,
}

impl MembersRules {
    pub(super) fn new(own: Rules) -> MembersRules {
        MembersRules {
            own,
            heard: BTreeMap::new(),
        }
    }

    /// Forgets all but these.
    fn keep<I: Iterator<Item = NodeId>>(&mut self, members: impl Fn() -> I) {
        let is_member = |node: &NodeId| members().any(|member| member == *node);
        self.heard.retain(|node, _| is_member(node));
    }

    /// The newest that all members follow; `None` where one of them has not been heard.
    fn common(&self, own: NodeId, members: impl Iterator<Item = NodeId>) -> Option<Rules> {
        let mut common = self.own;
        for member in members.filter(|member| *member != own) {
            common = common.min(*self.heard.get(&member)?);
        }
        Some(common)
    }
}

impl Replica {
    /// A message of another node has said which rules it follows.
    pub(super) fn hear_rules(&mut self, from: NodeId, rules: Rules) {
        // Strangers are not remembered, however many there are.
        if members(&self.configuration).any(|member| member == from) {
            self.rules.heard.insert(from, rules);
        }
    }

    /// Others take part: one that comes back under its id may be of another release.
    pub(super) fn forget_rules_of_strangers(&mut self) {
        self.rules.keep(|| members(&self.configuration));
    }

    /// The rules of the next batch.
    pub(super) fn next_rules(&self) -> Rules {
        let common = self
            .rules
            .common(self.options.id, members(&self.configuration));
        let reached = self.state.rules();
        common.map_or(reached, |common| common.max(reached))
    }
}

fn members(configuration: &Configuration) -> impl Iterator<Item = NodeId> {
    configuration
        .voters
        .iter()
        .chain(&configuration.voters_outgoing)
        .chain(&configuration.learners)
        .chain(&configuration.learners_next)
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("not 0")
    }

    #[test]
    fn the_oldest_member_decides_and_a_silent_one_holds_everything_back() {
        let mut rules = MembersRules::new(Rules::from_number(3));
        let members = || (1..=3).map(node);
        assert_eq!(rules.common(node(1), members()), None);
        rules.heard.insert(node(2), Rules::from_number(4));
        assert_eq!(rules.common(node(1), members()), None);
        rules.heard.insert(node(3), Rules::from_number(2));
        assert_eq!(
            rules.common(node(1), members()),
            Some(Rules::from_number(2))
        );
        rules.heard.insert(node(3), Rules::from_number(5));
        assert_eq!(
            rules.common(node(1), members()),
            Some(Rules::from_number(3))
        );
    }

    #[test]
    fn one_that_was_removed_and_comes_back_has_said_nothing_yet() {
        let mut rules = MembersRules::new(Rules::LATEST);
        let members = || (1..=3).map(node);
        for id in 2..=3 {
            rules.heard.insert(node(id), Rules::LATEST);
        }
        assert_eq!(rules.common(node(1), members()), Some(Rules::LATEST));
        rules.keep(|| (1..=2).map(node));
        assert_eq!(
            rules.common(node(1), (1..=2).map(node)),
            Some(Rules::LATEST)
        );
        assert_eq!(rules.common(node(1), members()), None);
    }

    #[test]
    fn a_single_node_follows_the_newest_that_it_knows() {
        let rules = MembersRules::new(Rules::LATEST);
        assert_eq!(
            rules.common(node(1), [node(1)].into_iter()),
            Some(Rules::LATEST)
        );
    }
}

//! Who may have deleted a znode: whoever's deletion was recorded and may have happened, and the cluster
//! where it was made as what does not stay. Nobody else: whoever deletes what recorded calls have made
//! must be recorded too.

use std::collections::{HashMap, HashSet};

use crate::CreateMode;
use crate::ids::SessionId;
use crate::testing::history::{Answer, Call, History, Moment, Op, Outcome};

/// See the module's text.
pub(super) struct Removals<'a> {
    /// When the first deletion of each path was called.
    deleted: HashMap<&'a str, Moment>,
    /// The paths of ephemerals, containers and TTL znodes.
    passing: HashSet<&'a str>,
    /// The same of sequential ones, without their numbers.
    passing_numbered: HashSet<&'a str>,
}

impl<'a> Removals<'a> {
    pub(super) fn new(history: &'a History) -> Removals<'a> {
        let mut removals = Removals {
            deleted: HashMap::new(),
            passing: HashSet::new(),
            passing_numbered: HashSet::new(),
        };
        let owned = |stat: &crate::Stat| stat.ephemeral_owner != SessionId::NONE;
        for (path, znode) in history.initial.iter().chain(history.tree.iter().flatten()) {
            if owned(&znode.stat) {
                removals.passing.insert(path);
            }
        }
        for call in &history.calls {
            if !matches!(call.outcome, Outcome::Failed(_)) {
                call.op.parts().iter().for_each(|op| removals.add(call, op));
            }
        }
        removals
    }

    fn add(&mut self, call: &Call, op: &'a Op) {
        match op {
            Op::Delete { path, .. } => {
                let first = self.deleted.entry(path).or_insert(call.called);
                *first = call.called.min(*first);
            }
            Op::Create { path, mode, .. } if passes(*mode) => {
                match mode.is_sequential() {
                    true => self.passing_numbered.insert(path),
                    false => self.passing.insert(path),
                };
            }
            _ => {}
        }
    }

    /// Whether a znode may have been deleted, though it was there, by this moment.
    pub(super) fn may_be_gone(&self, path: &str, by: Moment) -> bool {
        let deleted = self.deleted.get(path).is_some_and(|called| *called < by);
        deleted || self.may_pass(path)
    }

    /// The same, by the end of the history.
    pub(super) fn may_be_gone_at_the_end(&self, path: &str) -> bool {
        self.deleted.contains_key(path) || self.may_pass(path)
    }

    /// Whether the cluster may have deleted it.
    fn may_pass(&self, path: &str) -> bool {
        let numbered =
            without_number(path).is_some_and(|asked| self.passing_numbered.contains(asked));
        numbered || self.passing.contains(path)
    }
}

fn passes(mode: CreateMode) -> bool {
    mode.is_ephemeral() || mode.ttl_ms().is_some() || mode == CreateMode::Container
}

/// The path that a sequential create has asked for, if it may have made this one.
pub(super) fn without_number(path: &str) -> Option<&str> {
    let (asked, number) = path.split_at_checked(path.len().checked_sub(10)?)?;
    let numbered = number.bytes().all(|byte| byte.is_ascii_digit());
    numbered.then_some(asked)
}

/// The operations of a call that happened, with their answers.
pub(super) fn made(call: &Call) -> impl Iterator<Item = (&Op, &Answer)> {
    let answers = match call.answer() {
        Some(Answer::Multi(answers)) => &answers[..],
        Some(answer) => std::slice::from_ref(answer),
        None => &[],
    };
    call.op.parts().iter().zip(answers)
}

//! The tree at the end, as reads after the last answer: of every path that a write names, whatever came
//! of it, or a read that takes part. What the cluster has numbered is looked for by listing its parent.
//!
//! Paths that no call names are not judged: whoever made them was not recorded.

use std::collections::{BTreeMap, BTreeSet};

use super::items::{Candidate, Kind, SYSTEM_ZNODES, Subject, is_reapable};
use crate::ids::SessionId;
use crate::path;
use crate::testing::history::{History, Op};

/// Adds the reads of the tree at the end, if somebody looked.
pub(super) fn add<'a>(history: &'a History, candidates: &mut Vec<Candidate<'a>>) {
    let Some(tree) = &history.tree else {
        return;
    };
    let looked = history.looked.unwrap_or(history.ended).order;
    let answers = history.calls.iter().filter_map(|call| call.answered);
    let before = answers.map(|at| at.order).filter(|at| *at < looked);
    let called = before.max().unwrap_or_default();

    let mut named: BTreeSet<&str> = BTreeSet::new();
    for candidate in candidates.iter() {
        if let Kind::Call(_) = candidate.kind {
            named.extend(candidate.paths());
        }
    }
    // What was refused before it came to the tree is no candidate, and must not be there either.
    for call in history.calls.iter().filter(|call| call.op.is_write()) {
        let ops = call.op.parts().iter().filter(|op| !is_sequential(op));
        named.extend(ops.filter_map(Op::path));
    }
    let below = children_of_numbering(history);
    named.extend(below.values().flatten());
    named.retain(|path| !is_of_the_system(path));

    let mut add = |path: &str, kind| {
        candidates.push(Candidate {
            subject: Subject::Left(path.to_string()),
            session: SessionId::NONE,
            called,
            answered: looked,
            required: true,
            // Before what nobody has seen happen.
            guess: u64::MAX - 1,
            kind,
        });
    };
    for path in named {
        add(path, Kind::Left(path, tree.get(path)));
    }
    for (parent, children) in below {
        add(parent, Kind::LeftBelow(parent, children));
    }
}

/// The parents under which sequential creates were tried, each with all its children at the end.
fn children_of_numbering(history: &History) -> BTreeMap<&str, Vec<&str>> {
    let mut below: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut unclear: BTreeSet<&str> = BTreeSet::new();
    let tree = history.tree.iter().flatten();
    for call in &history.calls {
        for op in call.op.parts() {
            let Op::Create { path, mode, .. } = op else {
                continue;
            };
            let parent = path::parent(path).unwrap_or("/");
            if !mode.is_sequential() || is_of_the_system(parent) {
                continue;
            }
            below.entry(parent).or_default();
            // What was made under a name that nobody knows may have been reaped.
            if call.outcome.may_have_happened() && is_reapable(*mode) {
                unclear.insert(parent);
            }
        }
    }
    below.retain(|parent, _| !unclear.contains(parent));
    for (path, _) in tree {
        if let Some(children) = path::parent(path).and_then(|parent| below.get_mut(parent)) {
            children.push(path);
        }
    }
    // A parent that is missing is found by its own read.
    below.retain(|parent, _| history.tree.iter().any(|tree| tree.contains_key(*parent)));
    below
}

fn is_sequential(op: &Op) -> bool {
    matches!(op, Op::Create { mode, .. } if mode.is_sequential())
}

fn is_of_the_system(path: &str) -> bool {
    SYSTEM_ZNODES.contains(&path) || path.starts_with("/zookeeper/")
}

/// What was found of a path at the end, for a report.
pub(super) fn describe(history: &History, path: &str) -> String {
    match history.tree.as_ref().and_then(|tree| tree.get(path)) {
        None => format!("{path} is not there at the end"),
        Some(znode) => format!(
            "{path} holds \"{}\" at the end, version {}, of zxid {}, created by {}",
            znode.data.escape_ascii(),
            znode.stat.version,
            znode.stat.mzxid,
            znode.stat.czxid
        ),
    }
}

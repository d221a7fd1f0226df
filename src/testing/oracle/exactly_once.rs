//! Every acknowledged write took effect once, every write that "did not happen" never, and one whose
//! outcome is unknown once at most.
//!
//! Judged by what is left at the end: by the names that sequential creates have made, whose data must
//! be different for every call, and by the zxids that answers name. A history without a
//! [tree at the end](History::tree) is judged by zxids alone.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Violation;
use super::removals::{self, Removals, made, without_number};
use super::timeline::Timeline;
use crate::ids::Zxid;
use crate::op::EventKind;
use crate::testing::history::{Answer, Call, History, Op, Outcome};

/// A znode that was acknowledged is not there, though nobody can have deleted it.
pub const LOST: &str = "an acknowledged write is lost";
/// One call has made two znodes.
pub const TWICE: &str = "a write took effect twice";
/// Something is there that was said not to have happened.
pub const HAPPENED: &str = "a write that did not happen has happened";
/// Two calls were answered with the same zxid.
pub const SHARED_ZXID: &str = "two writes have one zxid";
/// An answer names a zxid at which the cluster did something else.
pub const NOT_APPLIED: &str = "an acknowledged write was not applied";
/// Two replicas have made different changes of one write.
pub const DIVERGED: &str = "replicas have diverged";

/// Judges the history: see the module's text.
///
/// # Errors
/// [`LOST`], [`TWICE`], [`HAPPENED`], [`SHARED_ZXID`], [`NOT_APPLIED`], [`DIVERGED`].
pub fn check(history: &History) -> Result<(), Violation> {
    if let Some(diverged) = history.diverged.first() {
        let line = |who: &str, changes: &[_]| format!("{who}: {changes:?}");
        let lines = [
            format!("zxid {}", diverged.zxid),
            line("first", &diverged.first),
            line(&format!("node {}", diverged.node), &diverged.other),
        ];
        return Err(Violation::new(DIVERGED, lines));
    }
    zxids(history)?;
    applied(history)?;
    sequential(history)?;
    plain(history)
}

/// Each zxid belongs to one call.
fn zxids(history: &History) -> Result<(), Violation> {
    let mut calls: HashMap<Zxid, &Call> = HashMap::new();
    for call in &history.calls {
        if let Some(zxid) = call.answer().and_then(Answer::written)
            && let Some(other) = calls.insert(zxid, call)
        {
            let calls = [other, call].map(|call| history.describe(call));
            return Err(Violation::new(SHARED_ZXID, calls));
        }
    }
    Ok(())
}

/// What an answer says was done is among the changes that replicas have made.
fn applied(history: &History) -> Result<(), Violation> {
    if history.changes.is_empty() {
        return Ok(());
    }
    let changes: HashSet<(Zxid, EventKind, &str)> = history
        .changes
        .iter()
        .map(|change| (change.zxid, change.kind, &change.path[..]))
        .collect();
    let timeline = Timeline::new(history);
    for call in &history.calls {
        for (op, answer) in made(call) {
            let found = match (op, answer) {
                (_, Answer::Created { path, stat }) => {
                    changes.contains(&(stat.czxid, EventKind::NodeCreated, &path[..]))
                }
                (Op::Set { path, .. }, Answer::Set(stat)) => {
                    changes.contains(&(stat.mzxid, EventKind::NodeDataChanged, &path[..]))
                }
                (Op::Delete { path, .. }, _) if call.op == *op => {
                    let answered = call.answered.expect("it was answered");
                    let deleted = timeline.deleted_within(path, call.called, answered);
                    !deleted.is_empty()
                }
                _ => true,
            };
            if !found {
                return Err(Violation::new(NOT_APPLIED, [history.describe(call)]));
            }
        }
    }
    Ok(())
}

/// A sequential create has a name of its own every time it takes effect; its data tells whose it is.
fn sequential(history: &History) -> Result<(), Violation> {
    let Some(tree) = &history.tree else {
        return Ok(());
    };
    let removals = Removals::new(history);
    let mut there: BTreeMap<(&str, &[u8]), Vec<&str>> = BTreeMap::new();
    for (path, znode) in tree {
        // Whose data was set later does not tell any more whose it is.
        if let Some(asked) = without_number(path).filter(|_| znode.stat.version == 0) {
            let made = there.entry((asked, &znode.data)).or_default();
            made.push(path);
        }
    }
    let mut calls: HashMap<(&str, &[u8]), usize> = HashMap::new();
    for (_, op) in creates(history) {
        let Op::Create { path, data, mode } = op else {
            continue;
        };
        if mode.is_sequential() {
            *calls.entry((path, data)).or_default() += 1;
        }
    }
    for (call, op) in creates(history) {
        let Op::Create { path, data, mode } = op else {
            continue;
        };
        // Whose data is another's too can't be told apart.
        if !mode.is_sequential() || calls[&(&path[..], &data[..])] > 1 {
            continue;
        }
        let made = there
            .get(&(&path[..], &data[..]))
            .map_or(&[][..], Vec::as_slice);
        let error = |promise| {
            let left = format!("left at the end: {}", made.join(" "));
            Err(Violation::new(promise, [history.describe(call), left]))
        };
        if made.len() > 1 {
            return error(TWICE);
        }
        match &call.outcome {
            Outcome::Failed(_) if !made.is_empty() => return error(HAPPENED),
            Outcome::Ok(_) => {
                let name = removals::made(call).find_map(|(of, answer)| match answer {
                    Answer::Created { path, .. } if std::ptr::eq(of, op) => Some(&path[..]),
                    _ => None,
                });
                let kept = name.filter(|name| !removals.may_be_gone_at_the_end(name));
                if kept.is_some_and(|name| !tree.contains_key(name)) {
                    return error(LOST);
                }
                if made.iter().any(|made| Some(*made) != name) {
                    return error(TWICE);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Plain creations and sets: what was acknowledged last is there, or something that came later.
fn plain(history: &History) -> Result<(), Violation> {
    let Some(tree) = &history.tree else {
        return Ok(());
    };
    let removals = Removals::new(history);
    let mut last: BTreeMap<&str, (Zxid, &Call)> = BTreeMap::new();
    for call in &history.calls {
        for (op, answer) in made(call) {
            let (path, zxid) = match (op, answer) {
                (Op::Create { mode, .. }, Answer::Created { path, stat })
                    if !mode.is_ephemeral() && mode.ttl_ms().is_none() =>
                {
                    (path, stat.czxid)
                }
                (Op::Set { path, .. }, Answer::Set(stat)) => (path, stat.mzxid),
                _ => continue,
            };
            let newest = last.entry(path).or_insert((zxid, call));
            if zxid > newest.0 {
                *newest = (zxid, call);
            }
        }
    }
    for (path, (zxid, call)) in last {
        match tree.get(path) {
            Some(znode) if znode.stat.mzxid < zxid => {
                let left = format!("{path} is of zxid {} at the end", znode.stat.mzxid);
                return Err(Violation::new(LOST, [history.describe(call), left]));
            }
            None if !removals.may_be_gone_at_the_end(path) => {
                let left = format!("{path} is not there at the end");
                return Err(Violation::new(LOST, [history.describe(call), left]));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Every creation, whatever came of it.
fn creates(history: &History) -> impl Iterator<Item = (&Call, &Op)> {
    history.calls.iter().flat_map(|call| {
        let parts = call.op.parts().iter();
        parts
            .filter(|op| matches!(op, Op::Create { .. }))
            .map(move |op| (call, op))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CreateMode;
    use crate::error::Error;
    use crate::ids::Version;
    use crate::testing::history::{AttachmentId, FinalZnode};
    use crate::testing::oracle::story::*;

    fn append(data: &str) -> Op {
        Op::create("/q/x-", data, CreateMode::PersistentSequential)
    }

    /// A queue to which "a" was appended, acknowledged.
    fn queue() -> (Story, AttachmentId) {
        let mut story = Story::new();
        let one = story.session(1);
        story.did(one, create("/q", ""), created("/q", 1));
        story.did(one, append("a"), created("/q/x-0000000000", 2));
        (story, one)
    }

    fn ends(story: &Story, znodes: &[(&str, &str, u64)]) {
        let queue = [("/q", "", 1)];
        let all = queue.iter().chain(znodes).map(|(path, data, zxid)| {
            let znode = FinalZnode::new(*data, stat(0, *zxid));
            (path.to_string(), znode)
        });
        story.recorder.tree(all);
    }

    #[test]
    fn what_was_acknowledged_once_is_there_once() {
        let (story, one) = queue();
        let lost = story.call(one, append("b"));
        story.unknown(lost);
        let refused = story.call(one, append("c"));
        let (queue, limit) = ("requests", 1);
        story.refuse(refused, Error::Overloaded { queue, limit });
        let a = ("/q/x-0000000000", "a", 2);
        ends(&story, &[a]);
        story.passes(check);
        ends(&story, &[a, ("/q/x-0000000001", "b", 3)]);
        story.passes(check);
        ends(&story, &[a, ("/q/x-0000000001", "c", 3)]);
        story.breaks(check, HAPPENED, &["call 3", "x-0000000001"]);
    }

    #[test]
    fn an_acknowledged_append_that_is_missing_is_found() {
        let (story, _) = queue();
        ends(&story, &[]);
        story.breaks(check, LOST, &["call 1"]);
    }

    #[test]
    fn an_append_that_is_there_twice_is_found() {
        let (story, _) = queue();
        ends(
            &story,
            &[("/q/x-0000000000", "a", 2), ("/q/x-0000000001", "a", 3)],
        );
        story.breaks(check, TWICE, &["call 1", "x-0000000001"]);
    }

    #[test]
    fn an_unknown_append_that_is_there_twice_is_found() {
        let (story, one) = queue();
        let lost = story.call(one, append("b"));
        story.unknown(lost);
        let twice = [
            ("/q/x-0000000000", "a", 2),
            ("/q/x-0000000001", "b", 3),
            ("/q/x-0000000002", "b", 4),
        ];
        ends(&story, &twice);
        story.breaks(check, TWICE, &["call 2"]);
    }

    #[test]
    fn an_acknowledged_set_that_is_gone_at_the_end_is_found() {
        let (story, one) = queue();
        story.did(one, set("/q", "new"), stat(1, 3));
        ends(&story, &[("/q/x-0000000000", "a", 2)]);
        story.breaks(check, LOST, &["call 2", "/q is of zxid 1"]);
    }

    #[test]
    fn what_was_deleted_may_be_missing() {
        let (story, one) = queue();
        let delete = story.call(one, Op::delete("/q/x-0000000000", Version::ANY));
        story.unknown(delete);
        ends(&story, &[]);
        story.passes(check);
    }

    #[test]
    fn two_writes_with_one_zxid_are_found() {
        let (story, one) = queue();
        story.did(one, append("b"), created("/q/x-0000000001", 2));
        story.breaks(check, SHARED_ZXID, &["call 1", "call 2"]);
    }

    #[test]
    fn an_answer_without_a_change_is_found() {
        let (story, _) = queue();
        story.change(1, EventKind::NodeCreated, "/q");
        story.change(2, EventKind::NodeCreated, "/q/x-0000000000");
        story.passes(check);
        story.did(AttachmentId(0), set("/q", "b"), stat(1, 3));
        story.breaks(check, NOT_APPLIED, &["call 2"]);
    }

    #[test]
    fn replicas_that_differ_are_found() {
        let (story, _) = queue();
        story.change(1, EventKind::NodeCreated, "/q");
        story.change(1, EventKind::NodeCreated, "/other");
        story.breaks(check, DIVERGED, &["zxid 1", "/other"]);
    }

    #[test]
    fn an_acknowledged_delete_without_a_change_is_found() {
        let (story, one) = queue();
        story.change(1, EventKind::NodeCreated, "/q");
        story.change(2, EventKind::NodeCreated, "/q/x-0000000000");
        let delete = || Op::delete("/q/x-0000000000", Version::ANY);
        let call = story.call(one, delete());
        story.change(3, EventKind::NodeDeleted, "/q/x-0000000000");
        story.answer(call, ());
        story.passes(check);
        story.did(one, delete(), ());
        story.breaks(check, NOT_APPLIED, &["call 3"]);
    }

    #[test]
    fn an_append_whose_data_was_set_later_is_not_lost() {
        let (story, one) = queue();
        story.did(one, set("/q/x-0000000000", "new"), stat(1, 3));
        let q = ("/q".to_string(), FinalZnode::new("", stat(0, 1)));
        let path = "/q/x-0000000000".to_string();
        let later = (path, FinalZnode::new("new", stat(1, 3)));
        story.recorder.tree([q, later]);
        story.passes(check);
        ends(&story, &[]);
        story.breaks(check, LOST, &["call 1"]);
    }

    #[test]
    fn data_that_was_set_to_what_another_has_appended_is_no_second_append() {
        let (story, one) = queue();
        story.did(one, append("b"), created("/q/x-0000000001", 3));
        story.did(one, set("/q/x-0000000001", "a"), stat(1, 4));
        let q = ("/q".to_string(), FinalZnode::new("", stat(0, 1)));
        let a = |number, version, zxid| {
            let path = format!("/q/x-{number:010}");
            (path, FinalZnode::new("a", stat(version, zxid)))
        };
        story.recorder.tree([q, a(0, 0, 2), a(1, 1, 4)]);
        story.passes(check);
    }

    #[test]
    fn an_append_that_does_not_stay_may_be_reaped() {
        let (story, one) = queue();
        let op = Op::create(
            "/q/t-",
            "t",
            CreateMode::PersistentSequentialWithTtl { ttl_ms: 1000 },
        );
        story.did(one, op, created("/q/t-0000000001", 3));
        ends(&story, &[("/q/x-0000000000", "a", 2)]);
        story.passes(check);
    }
}

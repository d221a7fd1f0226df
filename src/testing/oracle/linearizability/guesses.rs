//! A guess at the place of each call in the cluster's order, by what zxids tell. It decides what the
//! search tries first, and no verdict.

use std::collections::{BTreeMap, HashMap};

use crate::op::EventKind;
use crate::stat::Stat;
use crate::testing::history::{Answer, Call, History, Moment, Op, Outcome};

/// Where in the cluster's order a call may stand, as far as zxids tell: twice the zxid of a write, and
/// one more for what comes after it.
pub(super) struct Guesses<'a> {
    /// The write that data came from, by path and data, as answers and the tree at the end show it. For
    /// what the cluster has numbered by the path without its number, too.
    shown: HashMap<(&'a str, &'a [u8]), u64>,
    /// What was the newest zxid of all answers, by when it was answered.
    newest: BTreeMap<Moment, u64>,
    /// The deletions of each path, in order.
    deleted: HashMap<&'a str, Vec<(Moment, u64)>>,
}

impl<'a> Guesses<'a> {
    pub(super) fn new(history: &'a History) -> Guesses<'a> {
        let mut shown = HashMap::new();
        let mut shows = |path: &'a str, data: &'a [u8], stat: &Stat| {
            shown.insert((path, data), stat.mzxid.0);
            if stat.version == 0
                && let Some((asked, number)) = path.split_at_checked(path.len().saturating_sub(10))
                && number.bytes().all(|byte| byte.is_ascii_digit())
            {
                shown.insert((asked, data), stat.mzxid.0);
            }
        };
        for (path, znode) in history.tree.iter().flatten() {
            shows(path, &znode.data, &znode.stat);
        }
        let mut seen = Vec::new();
        for call in &history.calls {
            if let (Op::Get { path }, Some(Answer::Data { data, stat })) = (&call.op, call.answer())
            {
                shows(path, data, stat);
            }
            if let (Some(answered), Some(zxid)) =
                (call.answered, call.answer().and_then(Answer::seen))
            {
                seen.push((answered, zxid.0));
            }
        }
        seen.sort_unstable();
        let mut newest = BTreeMap::new();
        let mut most = 0;
        for (at, zxid) in seen {
            most = most.max(zxid);
            newest.insert(at, most);
        }
        let mut deleted: HashMap<&str, Vec<(Moment, u64)>> = HashMap::new();
        for change in &history.changes {
            if change.kind == EventKind::NodeDeleted {
                let deleted = deleted.entry(&change.path).or_default();
                deleted.push((change.applied, change.zxid.0));
            }
        }
        Guesses {
            shown,
            newest,
            deleted,
        }
    }

    pub(super) fn of(&self, call: &Call) -> u64 {
        if let Some(zxid) = call.answer().and_then(Answer::written) {
            return zxid.0 * 2;
        }
        if let (Op::Delete { path, .. }, Outcome::Ok(_)) = (&call.op, &call.outcome) {
            let deleted = self.deleted.get(&path[..]);
            let after = deleted.and_then(|all| all.iter().find(|(at, _)| *at > call.called));
            if let Some((_, zxid)) = after {
                return zxid * 2;
            }
        }
        if call.outcome.may_have_happened() {
            let shown = call.op.parts().iter().find_map(|op| match op {
                Op::Set { path, data, .. } | Op::Create { path, data, .. } => {
                    self.shown.get(&(&path[..], &data[..]))
                }
                _ => None,
            });
            return shown.map_or(u64::MAX, |zxid| zxid * 2);
        }
        let newest = self.newest.range(..call.called).next_back();
        newest.map_or(0, |(_, zxid)| zxid * 2 + 1)
    }
}

//! A multi happens as a whole, and a multi-read shows one moment: sums that only multis change are
//! always the same.

use std::collections::HashMap;

use super::Violation;
use super::removals::{Removals, made};
use super::timeline::{Fit, Look, Shown, Side, Timeline, looks};
use crate::ids::Zxid;
use crate::path;
use crate::testing::history::{Answer, Call, History, Ledger, Op};

/// A multi-read shows a znode after a multi, and another one before it.
pub const TORN: &str = "a multi is seen half done";
/// The operations of a multi have different zxids.
pub const SEVERAL_ZXIDS: &str = "a multi has several zxids";
/// What should always be the same is not.
pub const SUM: &str = "a sum is not conserved";

/// Judges the history: see the module's text.
///
/// # Errors
/// [`TORN`], [`SEVERAL_ZXIDS`], [`SUM`].
pub fn check(history: &History) -> Result<(), Violation> {
    let multis = Multis::new(history)?;
    let timeline = Timeline::new(history);
    let removals = Removals::new(history);
    for call in &history.calls {
        if let (Op::MultiRead(ops), Some(Answer::Multi(answers))) = (&call.op, call.answer()) {
            MultiRead {
                history,
                call,
                ops,
                answers,
            }
            .check(&timeline, &multis, &removals)?;
        }
    }
    history
        .ledgers
        .iter()
        .try_for_each(|ledger| at_the_end(history, ledger))
}

/// What clients know of their own multis, for where nobody has recorded the changes.
#[derive(Default)]
struct Multis<'a> {
    /// For each path the multis that have written, created or deleted it, and whether they have left it.
    data: HashMap<&'a str, Vec<(Zxid, &'a Call, bool)>>,
    /// For each path the multis that have created or deleted a child.
    children: HashMap<&'a str, Vec<(Zxid, &'a Call)>>,
}

impl<'a> Multis<'a> {
    fn new(history: &'a History) -> Result<Multis<'a>, Violation> {
        let mut multis = Multis::default();
        for call in &history.calls {
            let (Op::Multi(_), Some(Answer::Multi(answers))) = (&call.op, call.answer()) else {
                continue;
            };
            let mut zxids = answers.iter().filter_map(Answer::written);
            let Some(zxid) = zxids.next() else {
                continue;
            };
            if zxids.any(|other| other != zxid) {
                return Err(Violation::new(SEVERAL_ZXIDS, [history.describe(call)]));
            }
            for (op, answer) in made(call) {
                multis.add(zxid, call, (op, answer));
            }
        }
        Ok(multis)
    }

    fn add(&mut self, zxid: Zxid, call: &'a Call, (op, answer): (&'a Op, &'a Answer)) {
        let path = match (op, answer) {
            (_, Answer::Created { path, .. }) => path,
            (Op::Set { path, .. } | Op::Delete { path, .. }, _) => path,
            _ => return,
        };
        let effects = self.data.entry(path).or_default();
        // What a multi does last to a path is what it leaves.
        effects.retain(|(earlier, ..)| *earlier != zxid);
        effects.push((zxid, call, !matches!(op, Op::Delete { .. })));
        if !matches!(op, Op::Set { .. })
            && let Some(parent) = path::parent(path)
        {
            self.children.entry(parent).or_default().push((zxid, call));
        }
    }

    /// A multi that a look lacks, though another look of the same moment shows this write.
    fn lacking(&self, look: &Look<'_>, newest: Zxid, may_be_gone: bool) -> Option<&'a Call> {
        let between = |zxid: Zxid, shown: Zxid| shown < zxid && zxid <= newest;
        let data = self.data.get(look.path).map_or(&[][..], Vec::as_slice);
        let children = self.children.get(look.path).map_or(&[][..], Vec::as_slice);
        match (look.shown, look.side) {
            (Shown::Missing, _) if may_be_gone => None,
            (Shown::Missing, _) => {
                let lacked = |(zxid, _, left): &&(Zxid, &Call, bool)| *left && *zxid <= newest;
                data.iter().find(lacked).map(|(_, call, _)| *call)
            }
            (Shown::By(shown), Side::Data) => {
                let lacked = data.iter().find(|(zxid, ..)| between(*zxid, shown));
                lacked.map(|(_, call, _)| *call)
            }
            (Shown::By(shown), Side::Children) => {
                let lacked = children.iter().find(|(zxid, _)| between(*zxid, shown));
                lacked.map(|(_, call)| *call)
            }
        }
    }
}

struct MultiRead<'a> {
    history: &'a History,
    call: &'a Call,
    ops: &'a [Op],
    answers: &'a [Answer],
}

impl MultiRead<'_> {
    fn check(
        &self,
        timeline: &Timeline<'_>,
        multis: &Multis<'_>,
        removals: &Removals<'_>,
    ) -> Result<(), Violation> {
        let newest = self.answers.iter().filter_map(shown_by).max();
        let newest = newest.unwrap_or_default();
        let answered = self.call.answered.expect("it was answered");
        let torn = |why: String| {
            let line = self.history.describe(self.call);
            Err(Violation::new(TORN, [line, why]))
        };
        let looks = looks(self.call);
        // The one moment is no earlier than any part fits; where that is later than another part has
        // been replaced there is none.
        let mut moment = newest;
        let mut known = Zxid(0);
        while timeline.is_known() && moment > known {
            known = moment;
            for look in &looks {
                match timeline.fit(look, moment, answered) {
                    Fit::At(zxid) => moment = moment.max(zxid),
                    Fit::TooOld { overwritten } => {
                        let path = look.path;
                        return torn(format!(
                            "shows zxid {moment}, but {path} as before zxid {overwritten}"
                        ));
                    }
                    // What was never so is not half of a multi.
                    Fit::Never => {}
                }
            }
        }
        for look in looks.iter().filter(|_| !timeline.is_known()) {
            let may_be_gone = removals.may_be_gone(look.path, answered);
            if let Some(multi) = multis.lacking(look, newest, may_be_gone) {
                return torn(format!("lacks {}", self.history.describe(multi)));
            }
        }
        for ledger in &self.history.ledgers {
            self.sum(ledger)?;
        }
        Ok(())
    }

    fn sum(&self, ledger: &Ledger) -> Result<(), Violation> {
        let mut sum = 0;
        for account in &ledger.accounts {
            let mut read = self.ops.iter().zip(self.answers);
            let found = read.find(|(op, _)| op.path() == Some(account));
            let Some((Op::Get { .. }, Answer::Data { data, .. })) = found else {
                return Ok(());
            };
            sum += amount(data);
        }
        if sum == ledger.sum {
            return Ok(());
        }
        let why = format!("holds {sum}, not {}", ledger.sum);
        let line = self.history.describe(self.call);
        Err(Violation::new(SUM, [line, why]))
    }
}

/// The write that a read shows. The stat's `pzxid` may be of a change to a znode's children.
fn shown_by(answer: &Answer) -> Option<Zxid> {
    match answer {
        Answer::Data { stat, .. } => Some(stat.mzxid.max(stat.pzxid)),
        Answer::Children { stat, .. } => Some(stat.mzxid.max(stat.pzxid)),
        _ => None,
    }
}

fn at_the_end(history: &History, ledger: &Ledger) -> Result<(), Violation> {
    let Some(tree) = &history.tree else {
        return Ok(());
    };
    let held = ledger.accounts.iter().map(|account| {
        let znode = tree.get(account);
        (account, znode.map_or(0, |znode| amount(&znode.data)))
    });
    let held: Vec<_> = held.collect();
    let sum: i64 = held.iter().map(|(_, amount)| amount).sum();
    if sum == ledger.sum {
        return Ok(());
    }
    let total = format!("at the end they hold {sum}, not {}", ledger.sum);
    let lines = held
        .iter()
        .map(|(account, amount)| format!("{account}: {amount}"));
    Err(Violation::new(SUM, lines.chain([total])))
}

/// What is no number holds nothing, and is found by the sum.
fn amount(data: &[u8]) -> i64 {
    std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Version;
    use crate::op::EventKind;
    use crate::testing::history::{AttachmentId, FinalZnode};
    use crate::testing::oracle::story::*;

    /// Two accounts with 10 together, of which 4 are moved by zxid 4.
    fn bank() -> (Story, AttachmentId) {
        let mut story = Story::new();
        let one = story.session(1);
        story.did(one, create("/a", "10"), created("/a", 2));
        story.did(one, create("/b", "0"), created("/b", 3));
        let accounts = ["/a", "/b"].map(str::to_string);
        story.recorder.ledger(accounts, 10);
        let transfer = Op::Multi(vec![
            Op::set("/a", "6", Version::ANY),
            Op::set("/b", "4", Version::ANY),
        ]);
        let done = vec![Answer::Set(stat(1, 4)), Answer::Set(stat(1, 4))];
        story.did(one, transfer, Answer::Multi(done));
        (story, one)
    }

    fn read(story: &Story, at: AttachmentId, a: Answer, b: Answer) {
        let op = Op::MultiRead(vec![Op::get("/a"), Op::get("/b")]);
        story.did(at, op, Answer::Multi(vec![a, b]));
    }

    #[test]
    fn a_multi_is_seen_as_a_whole_or_not_at_all() {
        let (story, one) = bank();
        read(&story, one, data("10", 0, 2), data("0", 0, 3));
        read(&story, one, data("6", 1, 4), data("4", 1, 4));
        story.passes(check);
    }

    #[test]
    fn half_a_multi_is_found() {
        for changes in [false, true] {
            let (story, one) = bank();
            if changes {
                story.change(2, EventKind::NodeCreated, "/a");
                story.change(3, EventKind::NodeCreated, "/b");
                let set = |path| {
                    let (kind, owner) = (EventKind::NodeDataChanged, crate::SessionId::NONE);
                    crate::testing::history::Change::new(Zxid(4), kind, path, owner)
                };
                story.recorder.applied(node(1), [set("/a"), set("/b")]);
            }
            read(&story, one, data("6", 1, 4), data("0", 0, 3));
            story.breaks(check, TORN, &["call 3"]);
        }
    }

    #[test]
    fn a_sum_that_is_not_conserved_is_found() {
        let (story, one) = bank();
        read(&story, one, data("6", 1, 4), data("5", 1, 4));
        story.breaks(check, SUM, &["call 3", "holds 11, not 10"]);

        let (story, _) = bank();
        let znode = |data, zxid| FinalZnode::new(data, stat(1, zxid));
        let tree = |b| {
            [
                ("/a".to_string(), znode("6", 4)),
                ("/b".to_string(), znode(b, 4)),
            ]
        };
        story.recorder.tree(tree("4"));
        story.passes(check);
        story.recorder.tree(tree("0"));
        story.breaks(check, SUM, &["/b: 0", "hold 6, not 10"]);
    }

    #[test]
    fn a_multi_with_several_zxids_is_found() {
        let (story, one) = bank();
        let both = Op::Multi(vec![create("/c", ""), create("/d", "")]);
        let answers = vec![created("/c", 5), created("/d", 6)];
        story.did(one, both, Answer::Multi(answers));
        story.breaks(check, SEVERAL_ZXIDS, &["call 3"]);
    }

    /// `/p` is created by zxid 1, and `/p/a` and `/p/b` by one multi with zxid 5.
    fn pair(changes: bool) -> (Story, AttachmentId) {
        let mut story = Story::new();
        let one = story.session(1);
        story.did(one, create("/p", ""), created("/p", 1));
        let both = Op::Multi(vec![create("/p/a", ""), create("/p/b", "")]);
        let answers = vec![created("/p/a", 5), created("/p/b", 5)];
        story.did(one, both, Answer::Multi(answers));
        if changes {
            story.change(1, EventKind::NodeCreated, "/p");
            let made = |path| {
                let (kind, owner) = (EventKind::NodeCreated, crate::SessionId::NONE);
                crate::testing::history::Change::new(Zxid(5), kind, path, owner)
            };
            story
                .recorder
                .applied(node(1), [made("/p/a"), made("/p/b")]);
        }
        (story, one)
    }

    fn no_node(path: &str) -> Answer {
        Answer::Refused(crate::Error::NoNode { path: path.into() })
    }

    #[test]
    fn half_a_multi_that_creates_is_found() {
        for changes in [false, true] {
            let read = |a: Answer, b: Answer| {
                let (story, one) = pair(changes);
                let op = Op::MultiRead(vec![Op::get("/p/a"), Op::get("/p/b")]);
                story.did(one, op, Answer::Multi(vec![a, b]));
                story
            };
            read(data("", 0, 5), data("", 0, 5)).passes(check);
            read(no_node("/p/a"), no_node("/p/b")).passes(check);
            read(data("", 0, 5), no_node("/p/b")).breaks(check, TORN, &["call 2"]);
            read(no_node("/p/a"), data("", 0, 5)).breaks(check, TORN, &["call 2"]);
        }
        // Unless somebody may have deleted the other one in between.
        let (story, one) = pair(false);
        let delete = story.call(one, Op::delete("/p/b", Version::ANY));
        let op = Op::MultiRead(vec![Op::get("/p/a"), Op::get("/p/b")]);
        story.did(
            one,
            op,
            Answer::Multi(vec![data("", 0, 5), no_node("/p/b")]),
        );
        story.unknown(delete);
        story.passes(check);
    }

    #[test]
    fn a_listing_without_what_a_multi_has_made_is_found() {
        for changes in [false, true] {
            let read = |listed: Answer| {
                let (story, one) = pair(changes);
                let op = Op::MultiRead(vec![Op::get("/p/a"), Op::children("/p")]);
                story.did(one, op, Answer::Multi(vec![data("", 0, 5), listed]));
                story
            };
            read(names(&["a", "b"], 5)).passes(check);
            read(names(&[], 1)).breaks(check, TORN, &["call 2"]);
        }
    }

    #[test]
    fn half_a_multi_that_deletes_is_found() {
        let read = |b: Answer| {
            let (story, one) = pair(true);
            let gone = |path| {
                let (kind, owner) = (EventKind::NodeDeleted, crate::SessionId::NONE);
                crate::testing::history::Change::new(Zxid(6), kind, path, owner)
            };
            story
                .recorder
                .applied(node(1), [gone("/p/a"), gone("/p/b")]);
            story.change(7, EventKind::NodeCreated, "/p/a");
            let op = Op::MultiRead(vec![Op::get("/p/a"), Op::get("/p/b")]);
            story.did(one, op, Answer::Multi(vec![data("", 0, 7), b]));
            story
        };
        read(no_node("/p/b")).passes(check);
        read(data("", 0, 5)).breaks(check, TORN, &["/p/b", "zxid 6"]);
    }
}

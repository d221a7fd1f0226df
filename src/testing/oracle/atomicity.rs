//! A multi happens as a whole, and a multi-read shows one moment: sums that only multis change are
//! always the same.

use std::collections::HashMap;

use super::Violation;
use super::timeline::{Fit, Shown, Side, Timeline};
use crate::ids::Zxid;
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
    let timeline = Timeline::new(history);
    let mut multis: HashMap<&str, Vec<(Zxid, &Call)>> = HashMap::new();
    for call in &history.calls {
        let (Op::Multi(ops), Some(Answer::Multi(answers))) = (&call.op, call.answer()) else {
            continue;
        };
        let mut zxids = answers.iter().filter_map(Answer::written);
        let Some(zxid) = zxids.next() else {
            continue;
        };
        if zxids.any(|other| other != zxid) {
            return Err(Violation::new(SEVERAL_ZXIDS, [history.describe(call)]));
        }
        for op in ops {
            if let Op::Set { path, .. } = op {
                multis.entry(path).or_default().push((zxid, call));
            }
        }
    }
    for call in &history.calls {
        if let (Op::MultiRead(ops), Some(Answer::Multi(answers))) = (&call.op, call.answer()) {
            MultiRead {
                history,
                call,
                ops,
                answers,
            }
            .check(&timeline, &multis)?;
        }
    }
    history
        .ledgers
        .iter()
        .try_for_each(|ledger| at_the_end(history, ledger))
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
        multis: &HashMap<&str, Vec<(Zxid, &Call)>>,
    ) -> Result<(), Violation> {
        let newest = self.answers.iter().filter_map(shown_by).max();
        let Some(newest) = newest else {
            return Ok(());
        };
        for (op, answer) in self.ops.iter().zip(self.answers) {
            let (Some(path), Answer::Data { stat, .. }) = (op.path(), answer) else {
                continue;
            };
            let torn = |why: String| {
                let line = self.history.describe(self.call);
                Err(Violation::new(TORN, [line, why]))
            };
            if timeline.is_known() {
                let answered = self.call.answered.expect("it was answered");
                let shown = Shown::By(stat.mzxid);
                let fit = timeline.fit((path, Side::Data), shown, newest, answered);
                if let Fit::TooOld { overwritten } = fit {
                    return torn(format!(
                        "shows zxid {newest}, but {path} as before zxid {overwritten}"
                    ));
                }
            }
            // Without the changes, what clients know of their own multis.
            let written = multis.get(path).map_or(&[][..], Vec::as_slice);
            let between = |(zxid, _): &&(Zxid, &Call)| stat.mzxid < *zxid && *zxid <= newest;
            if let Some((_, multi)) = written.iter().find(between) {
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
}

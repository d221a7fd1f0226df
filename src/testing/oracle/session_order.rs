//! What ZooKeeper promises to a session: it sees its own writes, time never goes back for it, also when
//! its calls are pipelined and when it moves to another node, and it never sees what it has yet to do.
//!
//! Reads are placed as early in the cluster's order as they fit. With the changes of the tree recorded
//! every read is judged against every znode that the session has seen; without them each znode by
//! itself, by its `mzxid`.

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use super::timeline::{Fit, Shown, Side, Timeline};
use crate::error::Error;
use crate::ids::{SessionId, Zxid};
use crate::node::Event;
use crate::testing::history::{Answer, Call, Consistency, History, Moment, Op, Outcome};

/// A read shows an older state than the session has seen, or lacks one of its writes.
pub const WENT_BACK: &str = "time goes back for a session";
/// A read shows one of the session's writes that was called after it.
pub const SEES_LATER: &str = "a read shows a write that its session called later";
/// A read shows what no write has made by then.
pub const INVENTED: &str = "a read shows what was never written";
/// A session's writes took effect in another order than that of their calls.
pub const WRITES_REORDERED: &str = "a session's writes are out of order";

/// Judges the history: see the module's text.
///
/// # Errors
/// [`WENT_BACK`], [`SEES_LATER`], [`INVENTED`], [`WRITES_REORDERED`].
pub fn check(history: &History) -> Result<(), Violation> {
    let timeline = Timeline::new(history);
    let mut sessions: BTreeMap<SessionId, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        let session = history.session_of(call);
        sessions.entry(session).or_default().push(call);
    }
    reads_are_of_writes(history)?;
    for (session, calls) in &sessions {
        Course::new(history, &timeline, *session, calls).check()?;
    }
    Ok(())
}

/// The course of one session.
struct Course<'a> {
    history: &'a History,
    timeline: &'a Timeline<'a>,
    calls: &'a [&'a Call],
    /// What the session knows, and since when: events, and reads that don't wait for each other.
    learned: Vec<(Moment, Zxid, String)>,
    /// For each call, the lowest zxid of the session's writes called after it.
    later_write: Vec<Option<(Zxid, &'a Call)>>,
}

/// How far the session has come.
#[derive(Default)]
struct Progress {
    zxid: Zxid,
    /// What has shown that.
    by: String,
    /// The newest write of each path that it has seen, for where no changes are known.
    paths: HashMap<String, (Zxid, String)>,
}

impl Progress {
    fn reach(&mut self, zxid: Zxid, by: impl FnOnce() -> String) {
        if zxid > self.zxid {
            self.zxid = zxid;
            self.by = by();
        }
    }
}

impl<'a> Course<'a> {
    fn new(
        history: &'a History,
        timeline: &'a Timeline<'a>,
        session: SessionId,
        calls: &'a [&'a Call],
    ) -> Course<'a> {
        let mut learned = Vec::new();
        for received in &history.received {
            let watcher = history.watchers[received.watcher.0];
            if history.attachment(watcher).session == session
                && let Event::Changed(event) = &received.event
            {
                let what = format!("{} was told of zxid {}", received.watcher, event.zxid);
                learned.push((received.at, event.zxid, what));
            }
        }
        for call in calls {
            if call.consistency == Consistency::Linearizable
                && let (Some(at), Some(zxid)) =
                    (call.answered, call.answer().and_then(Answer::seen))
            {
                learned.push((at, zxid, history.describe(call)));
            }
        }
        learned.sort_by_key(|(at, ..)| *at);
        let mut later_write = vec![None; calls.len()];
        let mut lowest: Option<(Zxid, &Call)> = None;
        for (index, call) in calls.iter().enumerate().rev() {
            later_write[index] = lowest;
            if let Some(zxid) = call.answer().and_then(Answer::written)
                && lowest.is_none_or(|(least, _)| zxid < least)
            {
                lowest = Some((zxid, call));
            }
        }
        Course {
            history,
            timeline,
            calls,
            learned,
            later_write,
        }
    }

    fn check(&self) -> Result<(), Violation> {
        let mut progress = Progress::default();
        let mut learned = self.learned.iter().peekable();
        for (index, call) in self.calls.iter().enumerate() {
            while let Some((_, zxid, what)) = learned.next_if(|(at, ..)| *at < call.called) {
                progress.reach(*zxid, || what.clone());
            }
            match call.answer().and_then(Answer::written) {
                Some(zxid) => self.write(index, zxid, &mut progress)?,
                None if call.op.is_write() || call.consistency != Consistency::Session => {}
                None => self.read(index, &mut progress)?,
            }
        }
        Ok(())
    }

    fn write(&self, index: usize, zxid: Zxid, progress: &mut Progress) -> Result<(), Violation> {
        let call = self.calls[index];
        if let Some((later_zxid, later)) = self.later_write[index]
            && later_zxid <= zxid
        {
            let calls = [call, later].map(|call| self.history.describe(call));
            return Err(Violation::new(WRITES_REORDERED, calls));
        }
        if zxid <= progress.zxid {
            return Err(self.went_back(call, &progress.by));
        }
        progress.reach(zxid, || self.history.describe(call));
        for path in written_paths(call) {
            let by = self.history.describe(call);
            progress.paths.insert(path, (zxid, by));
        }
        Ok(())
    }

    fn read(&self, index: usize, progress: &mut Progress) -> Result<(), Violation> {
        let call = self.calls[index];
        let Some((path, side, shown)) = shown(call) else {
            return Ok(());
        };
        let at = if self.timeline.is_known() {
            let answered = call.answered.expect("it was answered");
            match self
                .timeline
                .fit((path, side), shown, progress.zxid, answered)
            {
                Fit::At(zxid) => zxid,
                Fit::TooOld { overwritten } => {
                    let why = format!("{}; {path} changed at {overwritten}", progress.by);
                    return Err(self.went_back(call, &why));
                }
                Fit::Never => {
                    return Err(Violation::new(INVENTED, [self.history.describe(call)]));
                }
            }
        } else {
            let Shown::By(zxid) = shown else {
                return Ok(());
            };
            if side == Side::Data
                && let Some((seen, by)) = progress.paths.get(path)
                && zxid < *seen
            {
                return Err(self.went_back(call, by));
            }
            zxid
        };
        if let Some((later, write)) = self.later_write[index]
            && later <= at
        {
            let calls = [call, write].map(|call| self.history.describe(call));
            return Err(Violation::new(SEES_LATER, calls));
        }
        progress.reach(at, || self.history.describe(call));
        if side == Side::Data
            && let Shown::By(zxid) = shown
        {
            let by = self.history.describe(call);
            progress.paths.insert(path.to_string(), (zxid, by));
        }
        Ok(())
    }

    fn went_back(&self, call: &Call, known: &str) -> Violation {
        let known = format!("known before: {known}");
        Violation::new(WENT_BACK, [known, self.history.describe(call)])
    }
}

/// Which znode a read has looked at, and what it showed.
fn shown(call: &Call) -> Option<(&str, Side, Shown)> {
    let path = call.op.path()?;
    Some(match &call.outcome {
        Outcome::Ok(Answer::Data { stat, .. }) | Outcome::Ok(Answer::Exists(Some(stat))) => {
            (path, Side::Data, Shown::By(stat.mzxid))
        }
        Outcome::Ok(Answer::Exists(None)) => (path, Side::Data, Shown::Missing),
        Outcome::Ok(Answer::Children { stat, .. }) => (path, Side::Children, Shown::By(stat.pzxid)),
        Outcome::Failed(Error::NoNode { .. }) => (path, Side::Data, Shown::Missing),
        _ => return None,
    })
}

/// The paths whose data a write that happened has set.
fn written_paths(call: &Call) -> Vec<String> {
    let mut paths: Vec<String> = call
        .op
        .parts()
        .iter()
        .filter_map(|op| match op {
            Op::Set { path, .. } => Some(path.clone()),
            _ => None,
        })
        .collect();
    let answers = match call.answer() {
        Some(Answer::Multi(answers)) => &answers[..],
        Some(answer) => std::slice::from_ref(answer),
        None => &[],
    };
    paths.extend(answers.iter().filter_map(|answer| match answer {
        Answer::Created { path, .. } => Some(path.clone()),
        _ => None,
    }));
    paths
}

/// A read of data shows what the write with its `mzxid` has written; where that write is not known, what
/// some write that may have happened was to write, called before the read was answered.
fn reads_are_of_writes(history: &History) -> Result<(), Violation> {
    let mut known: HashMap<(&str, Zxid), (&[u8], &Call)> = HashMap::new();
    let mut written: HashMap<(&str, &[u8]), Moment> = HashMap::new();
    for call in &history.calls {
        if matches!(call.outcome, Outcome::Failed(_)) {
            continue;
        }
        let zxid = call.answer().and_then(Answer::written);
        for op in call.op.parts() {
            let (Op::Create { path, data, .. } | Op::Set { path, data, .. }) = op else {
                continue;
            };
            let first = written.entry((path, data)).or_insert(call.called);
            *first = (*first).min(call.called);
            // A multi may write a path twice, and a sequential create writes another path.
            if let (Some(zxid), [_]) = (zxid, call.op.parts()) {
                known.insert((path, zxid), (data, call));
            }
        }
    }
    for call in &history.calls {
        let (Op::Get { path }, Some(Answer::Data { data, stat })) = (&call.op, call.answer())
        else {
            continue;
        };
        let sequential = is_numbered(path);
        if let Some((wrote, write)) = known.get(&(&path[..], stat.mzxid)) {
            if wrote != data {
                let calls = [call, write].map(|call| history.describe(call));
                return Err(Violation::new(INVENTED, calls));
            }
            continue;
        }
        let initial = history
            .initial
            .get(path)
            .is_some_and(|znode| znode.data == *data);
        let called = written.get(&(&path[..], &data[..])).copied();
        if !sequential && !initial && called.is_none_or(|called| Some(called) > call.answered) {
            return Err(Violation::new(INVENTED, [history.describe(call)]));
        }
    }
    Ok(())
}

/// Whether a path may have been made by a sequential create.
fn is_numbered(path: &str) -> bool {
    path.len() > 10
        && path.as_bytes()[path.len() - 10..]
            .iter()
            .all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::EventKind;
    use crate::testing::history::AttachmentId;
    use crate::testing::oracle::story::*;

    /// `/r` is created by zxid 1 and set by 2 and 3, by another session; the second session reads.
    fn register(changes: bool) -> (Story, AttachmentId) {
        let mut story = Story::new();
        let (writer, reader) = (story.session(1), story.session(2));
        story.did(writer, create("/r", "0"), created("/r", 1));
        story.did(writer, set("/r", "a"), stat(1, 2));
        story.did(writer, set("/r", "b"), stat(2, 3));
        if changes {
            story.change(1, EventKind::NodeCreated, "/r");
            story.change(2, EventKind::NodeDataChanged, "/r");
            story.change(3, EventKind::NodeDataChanged, "/r");
        }
        (story, reader)
    }

    #[test]
    fn reads_may_lag_behind_others_but_go_forward() {
        for changes in [false, true] {
            let (story, reader) = register(changes);
            story.did(reader, Op::get("/r"), data("0", 0, 1));
            story.did(reader, Op::get("/r"), data("a", 1, 2));
            story.did(reader, Op::get("/r"), data("a", 1, 2));
            story.did(reader, Op::get("/r"), data("b", 2, 3));
            story.passes(check);
        }
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        for changes in [false, true] {
            let (story, reader) = register(changes);
            story.did(reader, Op::get("/r"), data("a", 1, 2));
            story.did(reader, Op::get("/r"), data("0", 0, 1));
            story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
        }
    }

    #[test]
    fn a_read_of_one_znode_that_is_older_than_what_another_has_shown_is_found() {
        let (story, reader) = register(true);
        story.did(AttachmentId(0), create("/s", ""), created("/s", 4));
        story.change(4, EventKind::NodeCreated, "/s");
        story.did(reader, Op::exists("/s"), Answer::Exists(Some(stat(0, 4))));
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.breaks(check, WENT_BACK, &["call 4", "call 5", "/r changed at 3"]);
    }

    #[test]
    fn a_session_that_misses_its_own_write_is_found() {
        for changes in [false, true] {
            let (story, reader) = register(changes);
            story.did(reader, set("/r", "mine"), stat(3, 4));
            if changes {
                story.change(4, EventKind::NodeDataChanged, "/r");
            }
            story.did(reader, Op::get("/r"), data("b", 2, 3));
            story.breaks(check, WENT_BACK, &["\"mine\"", "call 4"]);
        }
    }

    #[test]
    fn a_pipelined_read_misses_nothing_before_it_and_sees_nothing_after_it() {
        let pipelined = |answer: Answer| {
            let (story, reader) = register(true);
            let first = story.call(reader, set("/r", "c"));
            let read = story.call(reader, Op::get("/r"));
            let second = story.call(reader, set("/r", "d"));
            story.change(4, EventKind::NodeDataChanged, "/r");
            story.change(5, EventKind::NodeDataChanged, "/r");
            story.answer(first, stat(3, 4));
            story.answer(read, answer);
            story.answer(second, stat(4, 5));
            story
        };
        pipelined(data("c", 3, 4)).passes(check);
        pipelined(data("b", 2, 3)).breaks(check, WENT_BACK, &["call 3", "call 4"]);
        pipelined(data("d", 4, 5)).breaks(check, SEES_LATER, &["call 4", "call 5"]);
    }

    #[test]
    fn writes_of_a_session_that_are_out_of_order_are_found() {
        let (story, reader) = register(true);
        let first = story.call(reader, set("/r", "c"));
        let second = story.call(reader, set("/r", "d"));
        story.answer(first, stat(4, 5));
        story.answer(second, stat(3, 4));
        story.breaks(check, WRITES_REORDERED, &["call 3", "call 4"]);
    }

    #[test]
    fn a_session_that_moves_takes_what_it_has_seen_along() {
        let (story, reader) = register(true);
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        let moved = story.attach(crate::SessionId(2), 3, 1);
        story.did(moved, Op::get("/r"), data("a", 1, 2));
        story.breaks(check, WENT_BACK, &["call 3", "call 4", "node 3"]);
    }

    #[test]
    fn whoever_is_told_of_a_change_reads_it() {
        let (story, reader) = register(true);
        let watcher = story.recorder.watcher(reader);
        story.receive(watcher, 3, EventKind::NodeDataChanged, "/r");
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.breaks(check, WENT_BACK, &["watcher 0", "call 3"]);
    }

    #[test]
    fn what_is_gone_stays_gone_until_it_is_made_again() {
        let (story, reader) = register(true);
        story.change(4, EventKind::NodeDeleted, "/r");
        story.did(reader, Op::exists("/r"), Answer::Exists(None));
        story.passes(check);
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        // That it was missing before it was made explains the first read, not the second.
        story.passes(check);
        story.did(reader, Op::exists("/r"), Answer::Exists(None));
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        story.breaks(check, WENT_BACK, &["call 5", "call 6"]);
    }

    #[test]
    fn a_listing_that_goes_back_is_found() {
        let (story, reader) = register(true);
        story.change(4, EventKind::NodeCreated, "/r/x");
        story.change(5, EventKind::NodeCreated, "/r/y");
        story.did(reader, Op::children("/r"), names(&["x", "y"], 5));
        story.did(reader, Op::children("/r"), names(&["x"], 4));
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
    }

    #[test]
    fn data_that_nobody_wrote_is_found() {
        let (story, reader) = register(false);
        story.did(reader, Op::get("/r"), data("b", 1, 2));
        story.breaks(check, INVENTED, &["call 3", "call 1"]);

        let (story, reader) = register(false);
        story.did(reader, Op::get("/r"), data("z", 3, 4));
        story.breaks(check, INVENTED, &["call 3"]);

        let (story, reader) = register(true);
        let failed = story.call(reader, set("/r", "z"));
        story.unknown(failed);
        story.did(reader, Op::get("/r"), data("z", 3, 4));
        story.breaks(check, INVENTED, &["call 4"]);
    }
}

//! What ZooKeeper promises to a session: it sees its own writes, time never goes back for it, also when
//! its calls are pipelined and when it moves to another node, and it never sees what it has yet to do.
//!
//! Reads are placed as early in the cluster's order as they fit, and the deletions that were answered
//! where the changes say. With the changes of the tree recorded every read is judged against every znode
//! that the session has seen; without them by what the session [knows of the path](super::known).

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use super::known::Known;
use super::removals::{Removals, made, without_number};
use super::timeline::{Fit, Look, Timeline, looks};
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
    let removals = Removals::new(history);
    let mut sessions: BTreeMap<SessionId, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        let session = history.session_of(call);
        sessions.entry(session).or_default().push(call);
    }
    reads_are_of_writes(history)?;
    for (session, calls) in &sessions {
        Course::new(history, (&timeline, &removals), *session, calls).check()?;
    }
    Ok(())
}

/// The course of one session.
struct Course<'a> {
    history: &'a History,
    timeline: &'a Timeline<'a>,
    removals: &'a Removals<'a>,
    calls: &'a [&'a Call],
    /// What the session knows, and since when: events, and reads that don't wait for each other.
    learned: Vec<(Moment, Zxid, String)>,
    /// For each call, the lowest zxid of the session's writes called after it.
    later_write: Vec<Option<(Zxid, &'a Call)>>,
}

/// How far the session has come.
#[derive(Default)]
struct Progress<'a> {
    zxid: Zxid,
    /// What has shown that.
    by: String,
    /// What it knows of each path, for where no changes are known.
    paths: HashMap<&'a str, Known<'a>>,
}

impl Progress<'_> {
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
        (timeline, removals): (&'a Timeline<'a>, &'a Removals<'a>),
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
        let mut course = Course {
            history,
            timeline,
            removals,
            calls,
            learned,
            later_write: vec![None; calls.len()],
        };
        let mut lowest: Option<(Zxid, &Call)> = None;
        for (index, call) in calls.iter().enumerate().rev() {
            course.later_write[index] = lowest;
            if let [zxid] = course.written(call)[..]
                && lowest.is_none_or(|(least, _)| zxid < least)
            {
                lowest = Some((zxid, call));
            }
        }
        course
    }

    /// The zxids that a write may have had: its answer's, or where its deletions have none those at which
    /// the changes have all of them.
    fn written(&self, call: &Call) -> Vec<Zxid> {
        if let Some(zxid) = call.answer().and_then(Answer::written) {
            return vec![zxid];
        }
        let (Some(answered), true) = (call.answered, call.outcome.has_happened()) else {
            return Vec::new();
        };
        let deleted = call.op.parts().iter().filter_map(|op| match op {
            Op::Delete { path, .. } => {
                Some(self.timeline.deleted_within(path, call.called, answered))
            }
            _ => None,
        });
        let common = deleted.reduce(|mut common, zxids| {
            common.retain(|zxid| zxids.contains(zxid));
            common
        });
        common.unwrap_or_default()
    }

    fn check(&self) -> Result<(), Violation> {
        let mut progress = Progress::default();
        let mut learned = self.learned.iter().peekable();
        for (index, call) in self.calls.iter().enumerate() {
            while let Some((_, zxid, what)) = learned.next_if(|(at, ..)| *at < call.called) {
                progress.reach(*zxid, || what.clone());
            }
            if call.op.is_write() {
                self.write(index, &mut progress)?;
            } else if call.consistency == Consistency::Session {
                self.read(index, &mut progress)?;
            }
        }
        Ok(())
    }

    fn write(&self, index: usize, progress: &mut Progress<'a>) -> Result<(), Violation> {
        let call = self.calls[index];
        let zxids = self.written(call);
        // Of several deletions that may be this one the first that fits leaves the most room.
        let zxid = zxids.iter().find(|zxid| **zxid > progress.zxid);
        if let Some(zxid) = zxid.or(zxids.first()) {
            if let Some((later_zxid, later)) = self.later_write[index]
                && later_zxid <= *zxid
            {
                let calls = [call, later].map(|call| self.history.describe(call));
                return Err(Violation::new(WRITES_REORDERED, calls));
            }
            if *zxid <= progress.zxid {
                return Err(self.went_back(call, &progress.by));
            }
            progress.reach(*zxid, || self.history.describe(call));
        }
        let after = match zxids.is_empty() {
            false => progress.zxid,
            true => Zxid(progress.zxid.0 + 1),
        };
        for (op, answer) in made(call) {
            Known::wrote(&mut progress.paths, (op, answer), after, call);
        }
        Ok(())
    }

    fn read(&self, index: usize, progress: &mut Progress<'a>) -> Result<(), Violation> {
        let call = self.calls[index];
        // What a multi-read shows is of one moment: each part is as new as what was known before it.
        let mut reached = progress.zxid;
        for look in looks(call) {
            let at = match self.timeline.is_known() {
                true => self.place(call, &look, progress)?,
                false => {
                    let known = progress.paths.entry(look.path).or_default();
                    let answered = call.answered.unwrap_or_default();
                    let gone = || self.removals.may_be_gone(look.path, answered);
                    if let Some(earlier) = known.contradicts(&look, gone) {
                        return Err(self.went_back(call, &self.history.describe(earlier)));
                    }
                    known.read(&look, Zxid(progress.zxid.0 + 1), call);
                    look.zxid().unwrap_or_default()
                }
            };
            if let Some((later, write)) = self.later_write[index]
                && later <= at
            {
                let calls = [call, write].map(|call| self.history.describe(call));
                return Err(Violation::new(SEES_LATER, calls));
            }
            reached = reached.max(at);
        }
        progress.reach(reached, || self.history.describe(call));
        Ok(())
    }

    /// Where in the cluster's order a read stands, at the earliest.
    fn place(
        &self,
        call: &Call,
        look: &Look<'_>,
        progress: &Progress<'_>,
    ) -> Result<Zxid, Violation> {
        let answered = call.answered.expect("it was answered");
        let path = look.path;
        match self.timeline.fit(look, progress.zxid, answered) {
            Fit::At(zxid) => Ok(zxid),
            Fit::TooOld { overwritten } => {
                let why = format!("{}; {path} changed at {overwritten}", progress.by);
                Err(self.went_back(call, &why))
            }
            Fit::Never => Err(Violation::new(INVENTED, [self.history.describe(call)])),
        }
    }

    fn went_back(&self, call: &Call, known: &str) -> Violation {
        let known = format!("known before: {known}");
        Violation::new(WENT_BACK, [known, self.history.describe(call)])
    }
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
        for op in call.op.parts() {
            if let Op::Create { path, data, .. } | Op::Set { path, data, .. } = op {
                let first = written.entry((path, data)).or_insert(call.called);
                *first = (*first).min(call.called);
            }
        }
        // What a multi writes last to a path is what it leaves.
        for (op, answer) in made(call) {
            let path = match (op, answer) {
                (Op::Create { .. }, Answer::Created { path, .. }) | (Op::Set { path, .. }, _) => {
                    path
                }
                _ => continue,
            };
            if let (Op::Create { data, .. } | Op::Set { data, .. }, Some(zxid)) =
                (op, answer.written())
            {
                known.insert((path, zxid), (data, call));
            }
        }
    }
    for call in &history.calls {
        for (op, answer) in made(call) {
            let (Op::Get { path }, Answer::Data { data, stat }) = (op, answer) else {
                continue;
            };
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
            let numbered = without_number(path).is_some();
            if !numbered && !initial && called.is_none_or(|called| Some(called) > call.answered) {
                return Err(Violation::new(INVENTED, [history.describe(call)]));
            }
        }
    }
    Ok(())
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

    /// `/a` is created by zxid 1 and deleted, both by the same session, which then reads.
    fn deleted(changes: bool) -> (Story, AttachmentId) {
        let mut story = Story::new();
        let one = story.session(1);
        story.did(one, create("/a", "0"), created("/a", 1));
        let delete = story.call(one, Op::delete("/a", crate::Version::ANY));
        if changes {
            story.change(1, EventKind::NodeCreated, "/a");
            story.change(2, EventKind::NodeDeleted, "/a");
        }
        story.answer(delete, ());
        (story, one)
    }

    #[test]
    fn what_a_session_has_deleted_is_gone_for_it() {
        for changes in [false, true] {
            let (story, one) = deleted(changes);
            story.did(one, Op::exists("/a"), Answer::Exists(None));
            story.passes(check);
            let (story, one) = deleted(changes);
            story.did(one, Op::get("/a"), data("0", 0, 1));
            story.breaks(check, WENT_BACK, &["call 1", "call 2"]);
            // Made again by somebody else, it is another one.
            let (mut story, one) = deleted(changes);
            let two = story.session(2);
            story.did(two, create("/a", "0"), created("/a", 3));
            if changes {
                story.change(3, EventKind::NodeCreated, "/a");
            }
            story.did(one, Op::get("/a"), born(3, data("0", 0, 3)));
            story.passes(check);
        }
    }

    #[test]
    fn a_delete_in_a_multi_and_pipelined_is_one_of_the_sessions_writes() {
        let pipelined = |answer: Answer| {
            let (story, reader) = register(true);
            let read = story.call(reader, Op::exists("/r"));
            let multi = Op::Multi(vec![Op::delete("/r", crate::Version::ANY)]);
            let delete = story.call(reader, multi);
            story.change(4, EventKind::NodeDeleted, "/r");
            story.answer(read, answer);
            story.answer(delete, Answer::Multi(vec![Answer::Done]));
            story
        };
        pipelined(Answer::Exists(Some(stat(2, 3)))).passes(check);
        // It was missing before it was made, too.
        pipelined(Answer::Exists(None)).passes(check);
        let (story, reader) = register(true);
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        let read = story.call(reader, Op::exists("/r"));
        let delete = story.call(reader, Op::delete("/r", crate::Version::ANY));
        story.change(4, EventKind::NodeDeleted, "/r");
        story.answer(read, Answer::Exists(None));
        story.answer(delete, ());
        story.breaks(check, SEES_LATER, &["call 4", "call 5"]);
    }

    #[test]
    fn a_delete_older_than_what_its_session_has_seen_is_found() {
        // What the session was told before it called the delete is newer than any that was made meanwhile.
        let (story, reader) = register(true);
        let watcher = story.recorder.watcher(reader);
        story.receive(watcher, 5, EventKind::NodeDataChanged, "/other");
        let delete = story.call(reader, Op::delete("/r", crate::Version::ANY));
        story.change(4, EventKind::NodeDeleted, "/r");
        story.answer(delete, ());
        story.breaks(check, WENT_BACK, &["watcher 0", "call 3"]);
    }

    #[test]
    fn of_several_deletions_the_session_may_have_made_any() {
        // It was told of what came after the first one before it called its own.
        let (story, reader) = register(true);
        let watcher = story.recorder.watcher(reader);
        story.receive(watcher, 5, EventKind::NodeCreated, "/r");
        let delete = story.call(reader, Op::delete("/r", crate::Version::ANY));
        story.change(4, EventKind::NodeDeleted, "/r");
        story.change(5, EventKind::NodeCreated, "/r");
        story.change(6, EventKind::NodeDeleted, "/r");
        story.answer(delete, ());
        story.passes(check);
        story.did(
            reader,
            Op::exists("/r"),
            born(5, Answer::Exists(Some(stat(0, 5)))),
        );
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
    }

    #[test]
    fn each_part_of_a_multi_read_is_a_read() {
        for changes in [false, true] {
            let read = |answer: Answer| {
                let (story, reader) = register(changes);
                story.did(reader, Op::get("/r"), data("b", 2, 3));
                let op = Op::MultiRead(vec![Op::get("/r")]);
                story.did(reader, op, Answer::Multi(vec![answer]));
                story
            };
            read(data("b", 2, 3)).passes(check);
            read(data("a", 1, 2)).breaks(check, WENT_BACK, &["call 3", "call 4"]);
            let missing = crate::Error::NoNode { path: "/r".into() };
            read(Answer::Refused(missing)).breaks(check, WENT_BACK, &["call 3", "call 4"]);
            read(data("z", 2, 3)).breaks(check, INVENTED, &["call 4", "call 2"]);
        }
        // And what it shows is known from then on.
        let (story, reader) = register(false);
        let op = Op::MultiRead(vec![Op::get("/r")]);
        story.did(reader, op, Answer::Multi(vec![data("b", 2, 3)]));
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
    }

    #[test]
    fn what_nobody_can_have_deleted_does_not_vanish() {
        for changes in [false, true] {
            let (story, reader) = register(changes);
            story.did(reader, create("/s", ""), created("/s", 4));
            if changes {
                story.change(4, EventKind::NodeCreated, "/s");
            }
            story.did(reader, Op::exists("/s"), Answer::Exists(None));
            story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
        }
        // Somebody may have deleted it, or its session's end.
        let (story, reader) = register(false);
        story.did(reader, create("/s", ""), created("/s", 4));
        story.call(AttachmentId(0), Op::delete("/s", crate::Version::ANY));
        story.did(reader, Op::exists("/s"), Answer::Exists(None));
        story.passes(check);
        let (story, reader) = register(false);
        let ephemeral = Op::create("/s", "", crate::CreateMode::Ephemeral);
        story.did(reader, ephemeral, created("/s", 4));
        story.did(reader, Op::exists("/s"), Answer::Exists(None));
        story.passes(check);
    }

    #[test]
    fn what_was_missing_is_not_there_from_before() {
        let (story, reader) = register(false);
        story.did(AttachmentId(0), Op::delete("/r", crate::Version::ANY), ());
        story.did(reader, create("/s", ""), created("/s", 5));
        story.did(reader, Op::exists("/r"), Answer::Exists(None));
        story.passes(check);
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        story.breaks(check, WENT_BACK, &["call 5", "call 6"]);
    }

    #[test]
    fn a_listing_that_goes_back_is_found_without_changes() {
        let (story, reader) = register(false);
        story.did(reader, Op::children("/r"), names(&["x", "y"], 5));
        story.did(reader, Op::children("/r"), names(&["x"], 4));
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);

        // Its own children are in it.
        let (story, reader) = register(false);
        story.did(reader, create("/r/x", ""), created("/r/x", 5));
        story.did(reader, Op::children("/r"), names(&[], 1));
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
    }
}

//! What ZooKeeper promises to a session: it sees its own writes, time never goes back for it, also when
//! its calls are pipelined and when it moves to another node, and it never sees what it has yet to do.
//!
//! Reads are placed as early in the cluster's order as they fit, and the deletions that were answered
//! where the changes say. With the changes of the tree recorded every read is judged against every znode
//! that the session has seen; without them by what the session knows of the path.

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
mod tests;

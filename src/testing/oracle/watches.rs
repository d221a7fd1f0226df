//! Watches: none lost, none twice, none unasked for, none out of order, none before its change, and
//! none after newer data was read.
//!
//! Judged against the changes that replicas have made; without them nothing is. A watcher that was told
//! that events are missing is excused for those, and a node that caught up by a snapshot tells what is
//! different, not what happened in between. That an event is lost is concluded when its session has
//! seen something as new, or at the end of a history that was healed for long enough.

use std::collections::{BTreeMap, HashMap};

use super::Violation;
use super::timeline::{Fit, Shown, Timeline, looks};
use crate::ids::Zxid;
use crate::node::{Event, WatchEvent, WatchKind};
use crate::op::EventKind;
use crate::path;
use crate::testing::history::{
    Answer, AttachmentId, Call, History, Moment, Received, Skip, Watch, WatcherId,
};

/// A watched change happened, and its watcher was not told.
pub const LOST: &str = "a watch is lost";
/// A watcher was told of one change twice.
pub const TWICE: &str = "a change is told twice";
/// A watcher was told of something that it had no watch for, or no more.
pub const UNASKED: &str = "a watcher is told what it had no watch for";
/// A watcher was told of an earlier change after a later one.
pub const OUT_OF_ORDER: &str = "changes are told out of order";
/// A watcher was told of a change that had not happened.
pub const TOO_EARLY: &str = "a change is told that has not happened";
/// A session had read something as new as the change before it was told of it.
pub const TOO_LATE: &str = "a change is told after newer data was read";

/// Judges the history: see the module's text.
///
/// # Errors
/// [`LOST`], [`TWICE`], [`UNASKED`], [`OUT_OF_ORDER`], [`TOO_EARLY`], [`TOO_LATE`].
pub fn check(history: &History) -> Result<(), Violation> {
    if history.changes.is_empty() {
        return Ok(());
    }
    let triggers = Triggers::new(history);
    let timeline = Timeline::new(history);
    for (number, attachment) in history.watchers.iter().enumerate() {
        let watcher = WatcherId(number);
        let watches = history.watches.iter().filter(|w| w.watcher == watcher);
        let received = history.received.iter().filter(|r| r.watcher == watcher);
        let calls = history.calls_of(*attachment);
        Watcher {
            history,
            triggers: &triggers,
            attachment: *attachment,
            watches: watches.collect(),
            received: received.collect(),
            answered: answered(&timeline, calls),
        }
        .check()?;
    }
    Ok(())
}

/// The newest zxid that answers have shown by each moment, and which call did. That a znode is missing
/// shows the write that has deleted it, if it was there by what was shown before.
fn answered<'a>(
    timeline: &Timeline<'_>,
    calls: impl Iterator<Item = &'a Call>,
) -> BTreeMap<Moment, (Zxid, &'a Call)> {
    let mut calls: Vec<_> = calls
        .filter_map(|call| Some((call.answered?, call)))
        .collect();
    calls.sort_unstable_by_key(|(at, _)| *at);
    let mut newest = Zxid(0);
    let mut answered: BTreeMap<Moment, (Zxid, &Call)> = BTreeMap::new();
    for (at, call) in calls {
        let before = answered.range(..call.called).next_back();
        let before = before.map_or(Zxid(0), |(_, (zxid, _))| *zxid);
        let shown = call.answer().and_then(Answer::seen).unwrap_or_default();
        let floor = before.max(shown);
        let looks = looks(call).into_iter();
        let missing = looks.filter(|look| look.shown == Shown::Missing);
        let fits = missing.filter_map(|look| match timeline.fit(&look, floor, at) {
            Fit::At(zxid) => Some(zxid),
            _ => None,
        });
        let zxid = fits.max().unwrap_or_default().max(shown);
        if zxid > newest {
            newest = zxid;
            answered.insert(at, (zxid, call));
        }
    }
    answered
}

/// Something that a watch may wait for.
#[derive(Clone, Copy)]
struct Trigger<'a> {
    zxid: Zxid,
    kind: EventKind,
    path: &'a str,
    applied: Moment,
}

/// All of them, in the order in which they fire.
struct Triggers<'a> {
    all: Vec<Trigger<'a>>,
    by_path: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Triggers<'a> {
    fn new(history: &'a History) -> Triggers<'a> {
        let mut triggers = Triggers {
            all: Vec::new(),
            by_path: HashMap::new(),
        };
        for change in &history.changes {
            let trigger = Trigger {
                zxid: change.zxid,
                kind: change.kind,
                path: &change.path,
                applied: change.applied,
            };
            triggers.push(trigger);
            if change.kind != EventKind::NodeDataChanged
                && let Some(path) = path::parent(&change.path)
            {
                let kind = EventKind::NodeChildrenChanged;
                triggers.push(Trigger {
                    kind,
                    path,
                    ..trigger
                });
            }
        }
        triggers
    }

    fn push(&mut self, trigger: Trigger<'a>) {
        let paths = self.by_path.entry(trigger.path).or_default();
        paths.push(self.all.len());
        self.all.push(trigger);
    }

    /// The places of the triggers that an event may stand for.
    fn of(&self, event: &WatchEvent) -> Vec<usize> {
        let at_path = self.by_path.get(event.path.as_str());
        let at_path = at_path.map_or(&[][..], Vec::as_slice);
        let begin = at_path.partition_point(|&at| self.all[at].zxid < event.zxid);
        at_path[begin..]
            .iter()
            .copied()
            .take_while(|&at| self.all[at].zxid == event.zxid)
            .filter(|&at| self.all[at].kind == event.kind)
            .collect()
    }

    /// Those that concern a watch, in order.
    fn concerning(&self, watch: &Watch) -> Vec<Trigger<'a>> {
        let concerns = |trigger: &Trigger<'_>| concerns(watch.kind, trigger.kind);
        if watch.kind == WatchKind::PersistentRecursive {
            let below = |trigger: &&Trigger<'_>| path::is_at_or_below(trigger.path, &watch.path);
            let all = self.all.iter().filter(below).copied();
            return all.filter(concerns).collect();
        }
        let at_path = self.by_path.get(&watch.path[..]);
        let at_path = at_path.map_or(&[][..], Vec::as_slice).iter();
        at_path.map(|&at| self.all[at]).filter(concerns).collect()
    }
}

/// ZooKeeper's table of triggers.
fn concerns(watch: WatchKind, kind: EventKind) -> bool {
    let children = kind == EventKind::NodeChildrenChanged;
    match watch {
        WatchKind::Data | WatchKind::PersistentRecursive => !children,
        WatchKind::Children => children || kind == EventKind::NodeDeleted,
        WatchKind::Persistent => true,
    }
}

fn is_persistent(kind: WatchKind) -> bool {
    matches!(kind, WatchKind::Persistent | WatchKind::PersistentRecursive)
}

struct Watcher<'a> {
    history: &'a History,
    triggers: &'a Triggers<'a>,
    attachment: AttachmentId,
    watches: Vec<&'a Watch>,
    received: Vec<&'a Received>,
    answered: BTreeMap<Moment, (Zxid, &'a Call)>,
}

impl Watcher<'_> {
    fn check(&self) -> Result<(), Violation> {
        self.events()?;
        self.asked()?;
        self.watches.iter().try_for_each(|watch| self.told(watch))
    }

    fn changed(&self) -> impl Iterator<Item = (Moment, &WatchEvent)> {
        self.received
            .iter()
            .filter_map(|received| match &received.event {
                Event::Changed(event) => Some((received.at, event)),
                _ => None,
            })
    }

    /// A snapshot that this watcher's node installed in the watcher's life, across this zxid. A node that
    /// has lost its disk goes over all of it again.
    fn skip(&self, zxid: Zxid) -> Option<&Skip> {
        let attachment = self.history.attachment(self.attachment);
        let lives = |skip: &&Skip| {
            let ended = attachment.ended.map(|(at, _)| at);
            skip.at > attachment.called && ended.is_none_or(|ended| skip.at < ended)
        };
        let mut skips = self.history.skips.iter().filter(lives);
        skips.find(|skip| skip.node == attachment.node && skip.from < zxid && zxid <= skip.to)
    }

    /// Each event is that of a change, once, in order, after the change and before newer data.
    fn events(&self) -> Result<(), Violation> {
        let mut told: HashMap<(Zxid, EventKind, &str), usize> = HashMap::new();
        let mut before: Option<(Zxid, usize, &WatchEvent)> = None;
        for (at, event) in self.changed() {
            let triggers = self.triggers.of(event);
            let skip = self.skip(event.zxid);
            let applied = match (triggers.first(), skip) {
                (_, Some(skip)) => Some(skip.at),
                (Some(&first), None) => Some(self.triggers.all[first].applied),
                (None, None) => None,
            };
            if applied.is_none_or(|applied| applied > at) {
                return Err(self.violation(TOO_EARLY, &[self.line(at, event)]));
            }
            let times = told
                .entry((event.zxid, event.kind, event.path.as_str()))
                .or_default();
            *times += 1;
            if *times > triggers.len().max(1) {
                return Err(self.violation(TWICE, &[self.line(at, event)]));
            }
            // Within a snapshot's differences the order of one zxid is not known.
            let place = match (skip, triggers.get(*times - 1)) {
                (None, Some(place)) => *place,
                _ => 0,
            };
            if let Some((zxid, earlier, other)) = before
                && (event.zxid < zxid || (event.zxid == zxid && place < earlier))
            {
                let lines = [format!("first {other:?}"), self.line(at, event)];
                return Err(self.violation(OUT_OF_ORDER, &lines));
            }
            before = Some((event.zxid, place, event));
            if let Some((_, (zxid, call))) = self.answered.range(..at).next_back()
                && *zxid >= event.zxid
            {
                let lines = [self.history.describe(call), self.line(at, event)];
                return Err(self.violation(TOO_LATE, &lines));
            }
        }
        Ok(())
    }

    /// Each event has a watch that asked for it; a one-shot one asks once.
    fn asked(&self) -> Result<(), Violation> {
        let mut fired = vec![false; self.watches.len()];
        for (at, event) in self.changed() {
            let concerned = |watch: &Watch| {
                let here = match watch.kind {
                    WatchKind::PersistentRecursive => {
                        path::is_at_or_below(event.path.as_str(), &watch.path)
                    }
                    _ => event.path.as_str() == watch.path,
                };
                here && concerns(watch.kind, event.kind) && watch.called < at
            };
            let mut asked = false;
            let mut guessed = None;
            for (index, watch) in self.watches.iter().enumerate() {
                if fired[index] || !concerned(watch) {
                    continue;
                }
                match self.after(watch) {
                    Some(after) if after >= event.zxid => {}
                    _ if is_persistent(watch.kind) => asked = true,
                    Some(_) => {
                        asked = true;
                        fired[index] = true;
                    }
                    None => guessed = guessed.or(Some(index)),
                }
            }
            if !asked {
                let Some(index) = guessed else {
                    return Err(self.violation(UNASKED, &[self.line(at, event)]));
                };
                // One whose read has not shown which state it was of.
                fired[index] = true;
            }
        }
        Ok(())
    }

    /// A watch that was set hears of what it waits for.
    fn told(&self, watch: &Watch) -> Result<(), Violation> {
        let Some(set) = &watch.set else {
            return Ok(());
        };
        let horizon = self.horizon(watch);
        let concerning = self.triggers.concerning(watch);
        let after = self.after(watch);
        let mut due: Vec<Trigger<'_>> = match after {
            Some(after) => concerning.into_iter().filter(|t| t.zxid > after).collect(),
            None => due_on_a_missing_znode(concerning, set.at),
        };
        if !is_persistent(watch.kind) {
            due.truncate(1);
        }
        for trigger in due {
            if trigger.zxid > horizon || self.is_excused(watch, &trigger) {
                continue;
            }
            let heard = self.changed().any(|(at, event)| match after {
                _ if self.skip(trigger.zxid).is_some() => {
                    event.path.as_str() == trigger.path
                        && self.skip(event.zxid) == self.skip(trigger.zxid)
                }
                Some(_) => is_of(event, &trigger),
                // Or of an earlier creation, which it may not have seen either.
                None => {
                    let earlier = event.path.as_str() == trigger.path && event.zxid <= trigger.zxid;
                    earlier && at > watch.called
                }
            });
            if !heard {
                let what = format!(
                    "{} ({:?} on {}, after zxid {}) set at {}",
                    watch.id,
                    watch.kind,
                    watch.path,
                    after.map_or("?".to_string(), |zxid| zxid.to_string()),
                    set.at
                );
                let change = format!(
                    "never told: {:?} {} of zxid {}, applied at {}",
                    trigger.kind, trigger.path, trigger.zxid, trigger.applied
                );
                let mut lines = vec![what, change];
                let later = self
                    .answered
                    .values()
                    .find(|(zxid, _)| *zxid >= trigger.zxid);
                lines.extend(later.map(|(_, call)| self.history.describe(call)));
                return Err(self.violation(LOST, &lines));
            }
        }
        Ok(())
    }

    /// The last write before what a watch waits for, where that is known.
    fn after(&self, watch: &Watch) -> Option<Zxid> {
        let told = watch.set.as_ref().and_then(|set| set.after);
        told.or_else(|| {
            let answer = self.history.call(watch.call?).answer()?;
            match (answer, watch.kind) {
                (Answer::Data { stat, .. } | Answer::Exists(Some(stat)), _) => Some(stat.mzxid),
                (Answer::Children { stat, .. }, _) => Some(stat.pzxid),
                _ => None,
            }
        })
    }

    /// Up to which write everything must have been told: the session has seen as much, or the history
    /// has ended long after.
    fn horizon(&self, watch: &Watch) -> Zxid {
        let end = watch.removed.unwrap_or(self.history.ended);
        let seen = self
            .answered
            .range(..end)
            .next_back()
            .map(|(_, (zxid, _))| *zxid);
        let before_later_event = self
            .changed()
            .filter(|(at, _)| *at < end)
            .map(|(_, event)| Zxid(event.zxid.0.saturating_sub(1)))
            .max();
        let settled = || {
            let alive = self.history.attachment(self.attachment).ended.is_none();
            let healed = self.history.healed()?;
            let patience = self.history.bounds.recovery;
            if !alive || watch.removed.is_some() || healed.at + patience > self.history.ended.at {
                return None;
            }
            let settled =
                |trigger: &&Trigger<'_>| trigger.applied.at + patience <= self.history.ended.at;
            Some(self.triggers.all.iter().rev().find(settled)?.zxid)
        };
        seen.max(before_later_event)
            .max(settled())
            .unwrap_or_default()
    }

    /// Whether a change need not be told: it is among those that were reported missing, or a snapshot
    /// that skipped it has left nothing of it.
    fn is_excused(&self, watch: &Watch, trigger: &Trigger<'_>) -> bool {
        let mut events = self.received.iter().peekable();
        while let Some(received) = events.next() {
            let Event::Missed { from } = received.event else {
                continue;
            };
            let next = events.clone().find_map(|later| match &later.event {
                Event::Changed(event) => Some(event.zxid),
                _ => None,
            });
            // What was applied later was not among them.
            let before = trigger.applied < received.at;
            if before && from <= trigger.zxid && next.is_none_or(|next| trigger.zxid <= next) {
                return true;
            }
        }
        let Some(skip) = self.skip(trigger.zxid) else {
            return false;
        };
        // Set afterwards, it has begun with what the snapshot brought.
        watch.set.as_ref().is_some_and(|set| set.at > skip.at)
            || self.triggers.unchanged(trigger.path, skip)
    }

    fn violation(&self, promise: &'static str, lines: &[String]) -> Violation {
        Violation::new(promise, lines.iter().cloned())
    }

    fn line(&self, at: Moment, event: &WatchEvent) -> String {
        let watcher = self.received.first().map(|received| received.watcher);
        let watcher = watcher.expect("it has received this");
        let (kind, path, zxid) = (event.kind, &event.path, event.zxid);
        format!(
            "{watcher} of {} is told {kind:?} {path} of zxid {zxid} at {at}",
            self.attachment
        )
    }
}

/// What a watch hears of that was set where there was no znode: that was so as of some state before this
/// moment. If the znode is there by then, its creation was still to come, and else what comes after.
fn due_on_a_missing_znode(concerning: Vec<Trigger<'_>>, set: Moment) -> Vec<Trigger<'_>> {
    let by_then = concerning.iter().take_while(|t| t.applied <= set).count();
    let created = concerning[..by_then]
        .iter()
        .rposition(|t| t.kind == EventKind::NodeCreated);
    let deleted = concerning[..by_then]
        .iter()
        .rposition(|t| t.kind == EventKind::NodeDeleted);
    let begin = match created {
        Some(created) if deleted.is_none_or(|deleted| deleted < created) => created,
        _ => by_then,
    };
    concerning.into_iter().skip(begin).collect()
}

fn is_of(event: &WatchEvent, trigger: &Trigger<'_>) -> bool {
    (event.zxid, event.kind, event.path.as_str()) == (trigger.zxid, trigger.kind, trigger.path)
}

impl Triggers<'_> {
    /// Whether a path was missing before and after a snapshot's gap: then nobody can tell that it was
    /// there in between.
    fn unchanged(&self, path: &str, skip: &Skip) -> bool {
        let at_path = self.by_path.get(path).map_or(&[][..], Vec::as_slice);
        let missing_at = |zxid: Zxid| {
            let changes = at_path.iter().map(|&at| &self.all[at]);
            let own = changes.filter(|trigger| trigger.kind != EventKind::NodeChildrenChanged);
            let last = own.take_while(|trigger| trigger.zxid <= zxid).last();
            last.is_none_or(|trigger| trigger.kind == EventKind::NodeDeleted)
        };
        missing_at(skip.from) && missing_at(skip.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::history::{Op, PhaseKind};
    use crate::testing::oracle::story::*;

    use EventKind::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};

    /// `/r` was created by zxid 1; a session has read it and set a one-shot watch.
    fn watched() -> (Story, AttachmentId, WatcherId) {
        let mut story = Story::new();
        let reader = story.session(1);
        let watcher = story.recorder.watcher(reader);
        story.change(1, NodeCreated, "/r");
        watch_again(&story, reader, watcher, data("0", 0, 1));
        (story, reader, watcher)
    }

    fn watch_again(story: &Story, reader: AttachmentId, watcher: WatcherId, answer: Answer) {
        let op = match answer {
            Answer::Exists(_) => Op::exists("/r"),
            Answer::Children { .. } => Op::children("/r"),
            _ => Op::get("/r"),
        };
        let kind = match answer {
            Answer::Children { .. } => WatchKind::Children,
            _ => WatchKind::Data,
        };
        let call = story.call(reader, op);
        story.recorder.call_watches(call, watcher, kind);
        story.answer(call, answer);
    }

    /// Faults are over, and much time has passed since.
    fn settle(story: &Story) {
        story.recorder.phase(PhaseKind::Healed);
        story.wait_ms(100_000);
    }

    #[test]
    fn a_watch_that_fires_once_before_the_new_data_is_fine() {
        let (story, reader, watcher) = watched();
        story.change(2, NodeDataChanged, "/r");
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.change(3, NodeDataChanged, "/r");
        settle(&story);
        story.passes(check);
    }

    #[test]
    fn an_event_that_is_lost_is_found_when_newer_data_was_read() {
        let (story, reader, _) = watched();
        story.change(2, NodeDataChanged, "/r");
        // The node may not have applied it yet.
        story.passes(check);
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.breaks(check, LOST, &["watch 0", "zxid 2", "call 1"]);
    }

    #[test]
    fn an_event_that_is_lost_is_found_at_the_end() {
        let (story, _, _) = watched();
        story.change(2, NodeDeleted, "/r");
        settle(&story);
        story.breaks(check, LOST, &["watch 0", "NodeDeleted /r"]);
    }

    #[test]
    fn an_event_that_comes_after_newer_data_was_read_is_found() {
        let (story, reader, watcher) = watched();
        story.change(2, NodeDataChanged, "/r");
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.breaks(check, TOO_LATE, &["call 1", "zxid 2"]);
    }

    #[test]
    fn an_event_that_comes_twice_is_found() {
        let (story, _, watcher) = watched();
        story.change(2, NodeDataChanged, "/r");
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.breaks(check, TWICE, &["watcher 0", "zxid 2"]);
    }

    #[test]
    fn a_one_shot_watch_that_fires_again_is_found() {
        let (story, _, watcher) = watched();
        story.change(2, NodeDataChanged, "/r");
        story.change(3, NodeDataChanged, "/r");
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.receive(watcher, 3, NodeDataChanged, "/r");
        story.breaks(check, UNASKED, &["zxid 3"]);

        // Set again in between, it is right.
        let (again, reader, watcher) = watched();
        again.change(2, NodeDataChanged, "/r");
        again.receive(watcher, 2, NodeDataChanged, "/r");
        watch_again(&again, reader, watcher, data("a", 1, 2));
        again.change(3, NodeDataChanged, "/r");
        again.receive(watcher, 3, NodeDataChanged, "/r");
        again.passes(check);
    }

    #[test]
    fn an_event_without_its_change_is_found() {
        let (story, _, watcher) = watched();
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.change(2, NodeDataChanged, "/r");
        story.breaks(check, TOO_EARLY, &["zxid 2"]);

        let (story, _, watcher) = watched();
        story.change(2, NodeDataChanged, "/r");
        story.receive(watcher, 2, NodeDeleted, "/r");
        story.breaks(check, TOO_EARLY, &["NodeDeleted"]);
    }

    fn persistent(kind: WatchKind) -> (Story, AttachmentId, WatcherId) {
        let mut story = Story::new();
        let reader = story.session(1);
        let watcher = story.recorder.watcher(reader);
        let called = story.recorder.now();
        story.recorder.watched(watcher, called, "/r", kind, Zxid(0));
        (story, reader, watcher)
    }

    #[test]
    fn changes_out_of_order_are_found() {
        let (story, _, watcher) = persistent(WatchKind::Persistent);
        story.change(1, NodeCreated, "/r");
        story.change(2, NodeDataChanged, "/r");
        story.receive(watcher, 2, NodeDataChanged, "/r");
        story.receive(watcher, 1, NodeCreated, "/r");
        story.breaks(check, OUT_OF_ORDER, &["zxid 1", "NodeDataChanged"]);
    }

    #[test]
    fn a_persistent_watch_that_skips_a_change_is_found() {
        let (story, _, watcher) = persistent(WatchKind::Persistent);
        story.change(1, NodeCreated, "/r");
        story.change(2, NodeCreated, "/r/x");
        story.change(3, NodeDataChanged, "/r");
        story.receive(watcher, 1, NodeCreated, "/r");
        story.receive(watcher, 3, NodeDataChanged, "/r");
        story.breaks(check, LOST, &["NodeChildrenChanged /r of zxid 2"]);
    }

    #[test]
    fn a_recursive_watch_hears_of_all_below_but_not_of_lists() {
        let (story, _, watcher) = persistent(WatchKind::PersistentRecursive);
        story.change(1, NodeCreated, "/r");
        story.change(2, NodeCreated, "/r/x");
        story.receive(watcher, 1, NodeCreated, "/r");
        story.receive(watcher, 2, NodeCreated, "/r/x");
        settle(&story);
        story.passes(check);
        story.receive(watcher, 2, NodeChildrenChanged, "/r");
        story.breaks(check, UNASKED, &["NodeChildrenChanged"]);
    }

    #[test]
    fn what_was_reported_missing_is_not_lost_and_what_comes_after_it_is() {
        let (story, _, watcher) = persistent(WatchKind::Persistent);
        story.change(1, NodeCreated, "/r");
        story.change(2, NodeDataChanged, "/r");
        story.change(3, NodeDataChanged, "/r");
        story.receive(watcher, 1, NodeCreated, "/r");
        let from = Zxid(2);
        story.recorder.received(watcher, Event::Missed { from });
        story.change(4, NodeDataChanged, "/r");
        story.receive(watcher, 4, NodeDataChanged, "/r");
        story.passes(check);
        story.change(5, NodeDataChanged, "/r");
        settle(&story);
        story.breaks(check, LOST, &["zxid 5"]);
    }

    #[test]
    fn a_node_that_skips_states_tells_what_is_different() {
        let skipped = |tells: bool| {
            let (story, _, watcher) = persistent(WatchKind::Persistent);
            story.change(1, NodeCreated, "/r");
            story.receive(watcher, 1, NodeCreated, "/r");
            story.change(2, NodeDataChanged, "/r");
            story.change(3, NodeDataChanged, "/r");
            story.recorder.skipped(node(1), Zxid(1), Zxid(3));
            if tells {
                story.receive(watcher, 3, NodeDataChanged, "/r");
            }
            settle(&story);
            story
        };
        skipped(true).passes(check);
        skipped(false).breaks(check, LOST, &["NodeDataChanged /r"]);
    }

    #[test]
    fn a_watch_on_what_is_missing_hears_of_its_creation() {
        let mut story = Story::new();
        let reader = story.session(1);
        let watcher = story.recorder.watcher(reader);
        watch_again(&story, reader, watcher, Answer::Exists(None));
        story.change(1, NodeCreated, "/r");
        settle(&story);
        story.breaks(check, LOST, &["NodeCreated /r"]);
        story.receive(watcher, 1, NodeCreated, "/r");
        story.passes(check);
    }

    #[test]
    fn a_watch_on_children_hears_of_them_and_of_the_end() {
        for (kind, path) in [(NodeCreated, "/r/x"), (NodeDeleted, "/r")] {
            let (story, reader, watcher) = watched();
            watch_again(&story, reader, watcher, names(&[], 1));
            story.change(2, kind, path);
            let told = match kind {
                NodeCreated => NodeChildrenChanged,
                _ => kind,
            };
            settle(&story);
            story.breaks(check, LOST, &["zxid 2"]);
            story.receive(watcher, 2, told, "/r");
            story.passes(check);
        }
    }

    #[test]
    fn a_watch_that_was_removed_need_not_be_told() {
        let (story, _, _) = watched();
        story
            .recorder
            .unwatched(crate::testing::history::WatchId(0));
        story.change(2, NodeDataChanged, "/r");
        settle(&story);
        story.passes(check);
    }

    #[test]
    fn a_watch_on_what_is_made_while_it_is_set_hears_of_it() {
        let made_meanwhile = |deleted: bool| {
            let mut story = Story::new();
            let reader = story.session(1);
            let watcher = story.recorder.watcher(reader);
            let call = story.call(reader, Op::exists("/r"));
            story.recorder.call_watches(call, watcher, WatchKind::Data);
            story.change(1, NodeCreated, "/r");
            if deleted {
                story.change(2, NodeDeleted, "/r");
            }
            story.answer(call, Answer::Exists(None));
            settle(&story);
            (story, watcher)
        };
        let (story, watcher) = made_meanwhile(false);
        story.breaks(check, LOST, &["watch 0", "NodeCreated /r of zxid 1"]);
        story.receive(watcher, 1, NodeCreated, "/r");
        story.passes(check);
        // It may have been set after both.
        let (story, _) = made_meanwhile(true);
        story.passes(check);
    }

    #[test]
    fn an_event_from_before_a_watch_was_set_is_not_its_own() {
        let mut story = Story::new();
        let reader = story.session(1);
        let watcher = story.recorder.watcher(reader);
        watch_again(&story, reader, watcher, Answer::Exists(None));
        story.change(1, NodeCreated, "/r");
        story.receive(watcher, 1, NodeCreated, "/r");
        story.change(2, NodeDeleted, "/r");
        watch_again(&story, reader, watcher, Answer::Exists(None));
        story.change(3, NodeCreated, "/r");
        settle(&story);
        story.breaks(check, LOST, &["watch 1", "zxid 3"]);
    }

    #[test]
    fn what_comes_after_events_were_reported_missing_is_not_among_them() {
        let (story, _, watcher) = persistent(WatchKind::Persistent);
        story.change(1, NodeCreated, "/r");
        let from = Zxid(1);
        story.recorder.received(watcher, Event::Missed { from });
        settle(&story);
        story.passes(check);
        story.change(2, NodeDataChanged, "/r");
        settle(&story);
        story.breaks(check, LOST, &["zxid 2"]);
    }

    #[test]
    fn a_deletion_told_after_the_znode_was_missed_is_found() {
        let missed = |story: &Story, reader| {
            let missing = crate::Error::NoNode { path: "/r".into() };
            let get = story.call(reader, Op::get("/r"));
            story.refuse(get, missing.clone());
        };
        for by_get in [false, true] {
            let (story, reader, watcher) = watched();
            story.change(2, NodeDeleted, "/r");
            match by_get {
                true => missed(&story, reader),
                false => {
                    story.did(reader, Op::exists("/r"), Answer::Exists(None));
                }
            }
            story.breaks(check, LOST, &["zxid 2", "call 1"]);
            story.receive(watcher, 2, NodeDeleted, "/r");
            story.breaks(check, TOO_LATE, &["call 1", "zxid 2"]);
        }
        let (story, reader, watcher) = watched();
        story.change(2, NodeDeleted, "/r");
        story.receive(watcher, 2, NodeDeleted, "/r");
        missed(&story, reader);
        story.passes(check);
    }
}

//! What each znode was as of which write: the changes of a history, by path.

use std::collections::HashMap;

use crate::error::Error;
use crate::ids::Zxid;
use crate::op::EventKind;
use crate::path;
use crate::stat::Stat;
use crate::testing::history::{Answer, Call, Change, History, Moment, Op, Outcome};

/// What a read may show of a znode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// There is none.
    Missing,
    /// It is there, and this write made it what it is: its `mzxid` or, for its children, its `pzxid`.
    By(Zxid),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    zxid: Zxid,
    shown: Shown,
    applied: Moment,
}

/// See the module's text. Empty where no changes were recorded.
pub(super) struct Timeline<'a> {
    /// Each path's data, in order.
    data: HashMap<&'a str, Vec<Entry>>,
    /// Each path's children, in order.
    children: HashMap<&'a str, Vec<Entry>>,
    known: bool,
}

/// Which side of a znode is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Data,
    Children,
}

/// What a read has shown of one znode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look<'a> {
    pub path: &'a str,
    pub side: Side,
    pub shown: Shown,
    /// The write that created it, where it is there and the answer tells.
    pub czxid: Option<Zxid>,
}

impl Look<'_> {
    /// The write that is shown.
    pub(super) fn zxid(&self) -> Option<Zxid> {
        match self.shown {
            Shown::By(zxid) => Some(zxid),
            Shown::Missing => None,
        }
    }
}

/// What a call shows, if it is a read: one for each znode that it has looked at.
pub(super) fn looks(call: &Call) -> Vec<Look<'_>> {
    match (&call.op, &call.outcome) {
        (Op::MultiRead(ops), Outcome::Ok(Answer::Multi(answers))) => {
            let parts = ops.iter().zip(answers);
            parts.filter_map(|(op, answer)| look(op, answer)).collect()
        }
        (op, Outcome::Ok(answer)) => look(op, answer).into_iter().collect(),
        (op, Outcome::Failed(Error::NoNode { .. })) if !op.is_write() => {
            op.path().map(missing).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn look<'a>(op: &'a Op, answer: &Answer) -> Option<Look<'a>> {
    let path = op.path()?;
    let by = |side, zxid, stat: &Stat| Look {
        path,
        side,
        shown: Shown::By(zxid),
        czxid: Some(stat.czxid).filter(|zxid| zxid.0 > 0),
    };
    match answer {
        Answer::Data { stat, .. } | Answer::Exists(Some(stat)) => {
            Some(by(Side::Data, stat.mzxid, stat))
        }
        Answer::Children { stat, .. } => Some(by(Side::Children, stat.pzxid, stat)),
        Answer::Exists(None) | Answer::Refused(Error::NoNode { .. }) => Some(missing(path)),
        _ => None,
    }
}

fn missing(path: &str) -> Look<'_> {
    Look {
        path,
        side: Side::Data,
        shown: Shown::Missing,
        czxid: None,
    }
}

/// Where in a timeline an answer fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fit {
    /// As of this write, at the earliest.
    At(Zxid),
    /// Only as of writes that are too old; this is the one that it should have shown.
    TooOld { overwritten: Zxid },
    /// No write made it so by then.
    Never,
}

impl<'a> Timeline<'a> {
    pub(super) fn new(history: &'a History) -> Timeline<'a> {
        let mut timeline = Timeline {
            data: HashMap::new(),
            children: HashMap::new(),
            known: !history.changes.is_empty(),
        };
        for (path, znode) in &history.initial {
            let start = |shown| Entry {
                zxid: Zxid(0),
                shown: Shown::By(shown),
                applied: Moment::default(),
            };
            timeline.data.insert(path, vec![start(znode.stat.mzxid)]);
            timeline
                .children
                .insert(path, vec![start(znode.stat.pzxid)]);
        }
        for change in &history.changes {
            timeline.add(change);
        }
        timeline
    }

    /// Whether there is anything to compare with.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    fn add(&mut self, change: &'a Change) {
        let shown = match change.kind {
            EventKind::NodeDeleted => Shown::Missing,
            _ => Shown::By(change.zxid),
        };
        push(&mut self.data, &change.path, change, shown);
        if change.kind != EventKind::NodeDataChanged {
            push(&mut self.children, &change.path, change, shown);
            if let Some(parent) = path::parent(&change.path) {
                push(&mut self.children, parent, change, Shown::By(change.zxid));
            }
        }
    }

    /// The writes that have deleted a path, among those that were applied between two moments.
    pub(super) fn deleted_within(&self, path: &str, from: Moment, to: Moment) -> Vec<Zxid> {
        let entries = self.data.get(path).map_or(&[][..], Vec::as_slice);
        let within = entries[entries.partition_point(|entry| entry.applied < from)..]
            .iter()
            .take_while(|entry| entry.applied < to);
        within
            .filter(|entry| entry.shown == Shown::Missing)
            .map(|entry| entry.zxid)
            .collect()
    }

    /// The first state at or after `floor` that shows this, among those that were there by `answered`.
    pub(super) fn fit(
        &self,
        &Look {
            path, side, shown, ..
        }: &Look<'_>,
        floor: Zxid,
        answered: Moment,
    ) -> Fit {
        let entries = match side {
            Side::Data => self.data.get(path),
            Side::Children => self.children.get(path),
        };
        let entries = entries.map_or(&[][..], Vec::as_slice);
        let begins = entries.first().is_some_and(|entry| entry.zxid == Zxid(0));
        let mut fit = Fit::Never;
        // Before its first change a znode is missing, or it is one of the system's.
        if !begins && matches!(shown, Shown::Missing | Shown::By(Zxid(0))) {
            match entries.first() {
                Some(next) if next.zxid <= floor => {
                    let overwritten = next.zxid;
                    fit = Fit::TooOld { overwritten };
                }
                _ => return Fit::At(floor),
            }
        }
        // What names its write is found at once.
        let begin = match shown {
            Shown::By(zxid) if !begins => entries.partition_point(|entry| entry.zxid < zxid),
            _ => 0,
        };
        for (index, entry) in entries.iter().enumerate().skip(begin) {
            if entry.applied > answered {
                break;
            }
            if entry.shown == shown {
                match entries.get(index + 1) {
                    Some(next) if next.zxid <= floor => {
                        let overwritten = next.zxid;
                        fit = Fit::TooOld { overwritten };
                    }
                    _ => return Fit::At(entry.zxid.max(floor)),
                }
            }
            if !begins && shown != Shown::Missing {
                break;
            }
        }
        fit
    }
}

fn push<'a>(map: &mut HashMap<&'a str, Vec<Entry>>, path: &'a str, change: &Change, shown: Shown) {
    let entries = map.entry(path).or_default();
    let entry = Entry {
        zxid: change.zxid,
        shown,
        applied: change.applied,
    };
    match entries.last_mut() {
        // Of one write only what it left counts.
        Some(last) if last.zxid == change.zxid => *last = entry,
        _ => entries.push(entry),
    }
}

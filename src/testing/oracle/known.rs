//! What a session knows of a path by its own calls, where nobody has recorded the changes of the tree.
//!
//! It knows no other path and no other session: what it can't rule out it allows.

use std::collections::HashMap;

use super::timeline::{Look, Shown, Side};
use crate::ids::Zxid;
use crate::path;
use crate::testing::history::{Answer, Call, Op};

/// See the module's text. Each with the call that has shown it.
#[derive(Default)]
pub(super) struct Known<'a> {
    /// The newest write of its data.
    data: Option<(Zxid, &'a Call)>,
    /// The newest change to its children.
    children: Option<(Zxid, &'a Call)>,
    /// Whatever is there was created by this write or a later one.
    born: Option<(Zxid, &'a Call)>,
    /// That it is there, by the latest news.
    there: Option<&'a Call>,
}

impl<'a> Known<'a> {
    /// Takes down what a write of the session has done; `at` is its zxid, or the lowest that it can have.
    pub(super) fn wrote(
        paths: &mut HashMap<&'a str, Known<'a>>,
        (op, answer): (&'a Op, &'a Answer),
        at: Zxid,
        call: &'a Call,
    ) {
        let path = match (op, answer) {
            (_, Answer::Created { path, .. }) => path,
            (Op::Set { path, .. } | Op::Delete { path, .. }, _) => path,
            _ => return,
        };
        let known = paths.entry(path).or_default();
        known.data = Some((at, call));
        match op {
            Op::Set { .. } => known.there = Some(call),
            _ => {
                known.born = Some((at, call));
                known.children = Some((at, call));
                known.there = matches!(op, Op::Create { .. }).then_some(call);
                if let Some(parent) = path::parent(path) {
                    paths.entry(parent).or_default().children = Some((at, call));
                }
            }
        }
    }

    /// Takes down what a read has shown; `floor` is the lowest zxid that what comes later can have.
    pub(super) fn read(&mut self, look: &Look<'_>, floor: Zxid, call: &'a Call) {
        match (look.shown, look.side) {
            (Shown::Missing, _) => {
                self.born = Some((floor, call));
                self.there = None;
            }
            (Shown::By(zxid), Side::Data) => {
                self.data = Some((zxid, call));
                self.there = Some(call);
            }
            (Shown::By(zxid), Side::Children) => {
                self.children = Some((zxid, call));
                self.there = Some(call);
            }
        }
    }

    /// The earlier call that can't be true if this is shown. `may_be_gone`: whether somebody may have
    /// deleted it.
    pub(super) fn contradicts(
        &self,
        look: &Look<'_>,
        may_be_gone: impl FnOnce() -> bool,
    ) -> Option<&'a Call> {
        let Shown::By(zxid) = look.shown else {
            return self.there.filter(|_| !may_be_gone());
        };
        let newest = match look.side {
            Side::Data => self.data,
            Side::Children => self.children,
        };
        let older = |shown: Zxid| move |(zxid, _): &(Zxid, &'a Call)| shown < *zxid;
        let born = look.czxid.and_then(|czxid| self.born.filter(older(czxid)));
        newest.filter(older(zxid)).or(born).map(|(_, call)| call)
    }
}

//! Wing and Gong's search for an order that explains all answers, with Lowe's memory of where it has
//! been ("Testing for linearizability", 2017).
//!
//! An operation may come next when none that must come before it is left: none that was answered before
//! it was called, and no earlier write of its session. What changes nothing is taken as soon as it fits,
//! which loses no solution, unless it was called after something else can't happen any more: to take it
//! is to decide that the other has not happened. What nobody has heard of may be left out.

use std::collections::HashSet;

use super::model::{Expected, Model, Step, hash};

/// One operation of the search.
pub(super) struct Item {
    /// When it was called, in the order of the history.
    pub called: u64,
    /// When it was answered. What need not have happened can't happen after this any more: `u64::MAX`
    /// where it can at any time.
    pub answered: u64,
    /// Whether it must have happened.
    pub required: bool,
    pub step: Step,
    pub expected: Expected,
    /// Of all that may come next, the lowest is tried first. A good guess makes it fast; a wrong one
    /// changes no verdict.
    pub guess: u64,
    /// Whose it is: sessions are counted from 0.
    pub session: usize,
    /// A write's place among its session's writes, from 0. For a read, how many of them it comes after.
    pub place: usize,
}

/// What came of the search.
pub(super) enum Verdict {
    /// There is an order.
    Explained,
    /// There is none. The longest beginning of one (in order), and the items that could have come next.
    Impossible { done: Vec<usize>, stuck: Vec<usize> },
    /// It took too long to tell.
    GivenUp,
}

/// After so many steps the search is given up: some seconds' worth.
const STEPS_MAX: u64 = 30_000_000;

/// The end of a list, and nobody.
const NONE: usize = usize::MAX;

/// Items that are not yet in the order, as calls and answers in the order of the history.
struct Waiting {
    /// For every entry the one before and after; entry 0 is the head.
    links: Vec<(usize, usize)>,
    /// What an entry is: an item's call, or its answer.
    entries: Vec<(usize, bool)>,
    /// The entries of each item.
    places: Vec<(usize, usize)>,
}

impl Waiting {
    fn new(items: &[Item]) -> Waiting {
        let mut order: Vec<(u64, usize, bool)> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            order.push((item.called, index, false));
            if item.required {
                order.push((item.answered, index, true));
            }
        }
        order.sort_unstable();
        let mut waiting = Waiting {
            links: vec![(NONE, NONE)],
            entries: vec![(NONE, false)],
            places: vec![(NONE, NONE); items.len()],
        };
        for (_, item, answer) in order {
            let at = waiting.entries.len();
            waiting.entries.push((item, answer));
            waiting.links.push((at - 1, NONE));
            waiting.links[at - 1].1 = at;
            match answer {
                false => waiting.places[item].0 = at,
                true => waiting.places[item].1 = at,
            }
        }
        waiting
    }

    fn unlink(&mut self, item: usize) {
        let (call, answer) = self.places[item];
        for at in [call, answer] {
            if at != NONE {
                let (before, after) = self.links[at];
                self.links[before].1 = after;
                if after != NONE {
                    self.links[after].0 = before;
                }
            }
        }
    }

    /// Takes the last `unlink` back that wasn't taken back yet: it must be that of this item.
    fn relink(&mut self, item: usize) {
        let (call, answer) = self.places[item];
        for at in [answer, call] {
            if at != NONE {
                let (before, after) = self.links[at];
                self.links[before].1 = at;
                if after != NONE {
                    self.links[after].0 = at;
                }
            }
        }
    }

    /// All that were called before the first answer that is still missing.
    fn next(&self, into: &mut Vec<usize>) {
        into.clear();
        let mut at = self.links[0].1;
        while at != NONE {
            let (item, answer) = self.entries[at];
            if answer {
                break;
            }
            into.push(item);
            at = self.links[at].1;
        }
    }
}

/// A decision that can be taken back.
struct Frame {
    choices: Vec<usize>,
    tried: usize,
    /// How long the order was, and where the model stood, before.
    order: usize,
    mark: usize,
}

/// How far a session's writes have come.
#[derive(Default)]
struct Session {
    /// The places of the writes that must happen, in order, and how many of them have.
    required: Vec<usize>,
    required_done: usize,
    /// The places of the writes that have happened, in order.
    done: Vec<usize>,
}

struct Search<'a> {
    items: &'a [Item],
    model: &'a mut Model,
    waiting: Waiting,
    order: Vec<usize>,
    /// For each place in the order, when the latest of those up to it was called.
    latest: Vec<u64>,
    /// The hash of the set of items in the order.
    order_hash: u128,
    sessions: Vec<Session>,
    /// How many must still be done.
    required: usize,
    been: HashSet<(u128, u128)>,
    steps: u64,
    /// The order that led nowhere and left the fewest to be done: how many it left, the order, and
    /// what could have come next.
    best: (usize, Vec<usize>, Vec<usize>),
}

/// Looks for an order of the items, starting with the model as it is.
pub(super) fn search(items: &[Item], model: &mut Model) -> Verdict {
    let mut sessions: Vec<Session> = Vec::new();
    for item in items {
        if sessions.len() <= item.session {
            sessions.resize_with(item.session + 1, Session::default);
        }
        if item.required && !item.step.is_read() {
            sessions[item.session].required.push(item.place);
        }
    }
    for session in &mut sessions {
        session.required.sort_unstable();
    }
    Search {
        items,
        model,
        waiting: Waiting::new(items),
        order: Vec::new(),
        latest: Vec::new(),
        order_hash: 0,
        sessions,
        required: items.iter().filter(|item| item.required).count(),
        been: HashSet::new(),
        steps: 0,
        best: (usize::MAX, Vec::new(), Vec::new()),
    }
    .run()
}

impl Search<'_> {
    fn run(mut self) -> Verdict {
        let mut frames: Vec<Frame> = Vec::new();
        let mut next = Vec::new();
        loop {
            // A new place: what changes nothing and fits is taken at once.
            self.take_reads(&mut next);
            if self.required == 0 {
                return Verdict::Explained;
            }
            if self.steps > STEPS_MAX {
                return Verdict::GivenUp;
            }
            let mut choices: Vec<usize> = next
                .iter()
                .copied()
                .filter(|&item| self.may_come(item) && self.is_decision(item))
                .collect();
            // Of the reads the one that was called first rules out the least, and the others can follow.
            let reads = choices
                .iter()
                .filter(|&&item| self.items[item].step.is_read());
            let first = reads.min_by_key(|&&item| self.items[item].called).copied();
            choices.retain(|&item| !self.items[item].step.is_read() || Some(item) == first);
            choices.sort_by_key(|&item| (self.items[item].guess, self.items[item].called));
            frames.push(Frame {
                choices,
                tried: 0,
                order: self.order.len(),
                mark: self.model.mark(),
            });
            if !self.advance(&mut frames) {
                let (_, done, stuck) = self.best;
                return Verdict::Impossible { done, stuck };
            }
        }
    }

    /// Takes the next choice that leads to a place where the search hasn't been, going back as far as
    /// it must. False when there is none.
    fn advance(&mut self, frames: &mut Vec<Frame>) -> bool {
        while let Some(frame) = frames.last_mut() {
            self.steps += 1;
            self.back_to(frame.order, frame.mark);
            let Some(&item) = frame.choices.get(frame.tried) else {
                frames.pop();
                self.remember_best();
                continue;
            };
            frame.tried += 1;
            let Item { step, expected, .. } = &self.items[item];
            if !step.is_read() && !self.model.apply(step, expected) {
                continue;
            }
            self.take(item);
            if self.been.insert((self.order_hash, self.model.hash())) {
                return true;
            }
        }
        false
    }

    fn remember_best(&mut self) {
        if self.required < self.best.0 {
            self.best.0 = self.required;
            self.best.1.clone_from(&self.order);
            self.waiting.next(&mut self.best.2);
        }
    }

    fn back_to(&mut self, order: usize, mark: usize) {
        while self.order.len() > order {
            let index = self.order.pop().expect("it is longer");
            self.latest.pop();
            let item = &self.items[index];
            self.waiting.relink(index);
            self.order_hash ^= hash(&index);
            self.required += usize::from(item.required);
            if !item.step.is_read() {
                let session = &mut self.sessions[item.session];
                session.done.pop();
                session.required_done -= usize::from(item.required);
            }
        }
        self.model.undo_to(mark);
    }

    fn take(&mut self, index: usize) {
        let item = &self.items[index];
        self.waiting.unlink(index);
        self.order.push(index);
        self.latest.push(self.latest().max(item.called));
        self.order_hash ^= hash(&index);
        self.required -= usize::from(item.required);
        if !item.step.is_read() {
            let session = &mut self.sessions[item.session];
            session.done.push(item.place);
            session.required_done += usize::from(item.required);
        }
    }

    /// Takes every operation that changes nothing and is answered so by the tree as it is. What may
    /// come next afterwards is left in `next`.
    fn take_reads(&mut self, next: &mut Vec<usize>) {
        loop {
            let mut taken = false;
            self.waiting.next(next);
            let deadline = self.deadline(next);
            for &item in next.iter() {
                self.steps += 1;
                if self.items[item].called < deadline && self.fits_without_effect(item) {
                    self.take(item);
                    taken = true;
                }
            }
            if !taken {
                return;
            }
        }
    }

    /// The first moment after which something that still can happen can't any more.
    fn deadline(&self, next: &[usize]) -> u64 {
        let items = next.iter().map(|&index| &self.items[index]);
        let live = items.filter(|item| {
            let sessions_next = self.sessions[item.session].next_place();
            let comes_in_time = item.answered > self.latest().max(item.called);
            !item.required && comes_in_time && item.place >= sessions_next
        });
        live.map(|item| item.answered).min().unwrap_or(u64::MAX)
    }

    /// When the latest of those in the order was called.
    fn latest(&self) -> u64 {
        self.latest.last().copied().unwrap_or_default()
    }

    /// Whether something that may come is to be decided on: a write, or a read that fits and was not
    /// taken because it rules something out.
    fn is_decision(&self, index: usize) -> bool {
        let Item { step, expected, .. } = &self.items[index];
        !step.is_read() || self.model.answers(step, expected)
    }

    fn fits_without_effect(&mut self, index: usize) -> bool {
        let item = &self.items[index];
        if item.step.is_read() {
            return self.may_come(index) && self.model.answers(&item.step, &item.expected);
        }
        // A refused write that leaves out an earlier one of its session is a decision.
        let leaves_out = item.place > self.sessions[item.session].next_place();
        item.expected.is_refusal()
            && self.may_come(index)
            && !leaves_out
            && self.model.apply(&item.step, &item.expected)
    }

    /// Whether no earlier write of its session, which must have happened, is left, and it is not too
    /// late for it.
    fn may_come(&self, index: usize) -> bool {
        let item = &self.items[index];
        if item.answered <= self.latest().max(item.called) {
            return false;
        }
        let session = &self.sessions[item.session];
        let left = session.required.get(session.required_done);
        match item.step.is_read() {
            true => left.is_none_or(|&place| place >= item.place),
            // What was left out comes no more.
            false => {
                left.is_none_or(|&place| place >= item.place) && item.place >= session.next_place()
            }
        }
    }
}

impl Session {
    /// The place after the last write that has happened.
    fn next_place(&self) -> usize {
        self.done.last().map_or(0, |place| place + 1)
    }
}

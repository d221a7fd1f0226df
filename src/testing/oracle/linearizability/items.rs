//! What a history has for the search: its calls as operations of the model, in parts that share no
//! znode.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::deadlines::Deadlines;
use super::guesses::Guesses;
use super::left;
use super::model::{self, Birth, Expected, Made, Model, PathId, Step};
use super::path_sets::PathSets;
use super::search::Item;
use crate::ids::SessionId;
use crate::op::CreateMode;
use crate::path;
use crate::testing::history::{
    Answer, Call, CallId, Consistency, FinalZnode, History, Op, Outcome,
};

/// The znodes that are always there.
pub(super) const SYSTEM_ZNODES: [&str; 4] =
    ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];

/// What an item stands for.
pub(super) enum Subject {
    Call(CallId),
    End(SessionId),
    Reap(String),
    /// A look at the tree at the end.
    Left(String),
}

/// Items that share no znode with any others.
pub(super) struct Part {
    pub items: Vec<Item>,
    /// What each item stands for.
    pub subjects: Vec<Subject>,
    /// The tree before the first of them.
    pub model: Model,
    /// Every path that they name.
    pub paths: Vec<String>,
}

/// An operation before it is known which part it belongs to.
pub(super) struct Candidate<'a> {
    pub subject: Subject,
    pub session: SessionId,
    pub called: u64,
    /// For what may have happened the moment from which on it can't happen any more.
    pub answered: u64,
    pub required: bool,
    pub guess: u64,
    pub kind: Kind<'a>,
}

pub(super) enum Kind<'a> {
    Call(&'a Call),
    /// A znode as it is at the end, or none.
    Left(&'a str, Option<&'a FinalZnode>),
    /// The names of a znode's children at the end.
    LeftBelow(&'a str, Vec<&'a str>),
    /// Paths where it may own ephemerals; for sequential ones without an answer the parent.
    End(Vec<&'a str>),
    Reap(&'a str),
}

/// The history's operations, in parts.
pub(super) fn parts(history: &History) -> Vec<Part> {
    let mut candidates = calls(history);
    candidates.extend(ends(history));
    candidates.extend(reaps(history));
    left::add(history, &mut candidates);
    // A session's writes are in the order of their calls.
    candidates.sort_by_key(|candidate| candidate.called);

    let mut sets = PathSets::new(tied(&candidates));
    for candidate in &candidates {
        sets.add(&candidate.paths());
    }
    let mut by_root: BTreeMap<usize, Vec<Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates {
        if let Some(path) = candidate.paths().first() {
            by_root.entry(sets.root(path)).or_default().push(candidate);
        }
    }
    let mut initial = initial_by_root(history, &mut sets);
    by_root
        .into_iter()
        .map(|(root, candidates)| part(candidates, initial.remove(&root).unwrap_or_default()))
        .collect()
}

// ---- Which operations there are ---------------------------------------------------------------

fn calls(history: &History) -> Vec<Candidate<'_>> {
    let guesses = Guesses::new(history);
    let deadlines = Deadlines::new(history);
    // When the newest completed `sync` of each attachment was called, by when it was answered.
    let mut syncs: HashMap<usize, Vec<(u64, u64)>> = HashMap::new();
    for call in &history.calls {
        if let (Op::Sync, Some(answered), Outcome::Ok(_)) = (&call.op, call.answered, &call.outcome)
        {
            let syncs = syncs.entry(call.attachment.0).or_default();
            syncs.push((answered.order, call.called.order));
        }
    }
    let mut candidates = Vec::new();
    for call in &history.calls {
        if matches!(call.op, Op::Sync | Op::Close) || !says_something(call) {
            continue;
        }
        let mut called = call.called.order;
        if !call.op.is_write() && call.consistency == Consistency::Session {
            let synced = syncs.get(&call.attachment.0).and_then(|syncs| {
                let before = syncs.iter().filter(|(answered, _)| *answered < called);
                before.map(|(_, called)| *called).max()
            });
            match synced {
                Some(synced) => called = synced,
                None => continue,
            }
        }
        let required = !call.outcome.may_have_happened();
        candidates.push(Candidate {
            subject: Subject::Call(call.id),
            session: history.session_of(call),
            called,
            answered: match (required, call.answered) {
                (true, Some(answered)) => answered.order,
                _ => deadlines.of(call),
            },
            required,
            guess: guesses.of(call),
            kind: Kind::Call(call),
        });
    }
    candidates
}

/// Whether a call had, or may have had, an effect, or has seen something of the tree.
fn says_something(call: &Call) -> bool {
    match &call.outcome {
        Outcome::Ok(_) => true,
        Outcome::Failed(error) => model::refusal(error).is_some(),
        Outcome::Pending | Outcome::Unknown(_) => call.op.is_write(),
    }
}

/// The ends of sessions that may own ephemerals.
fn ends(history: &History) -> Vec<Candidate<'_>> {
    let mut owned: BTreeMap<SessionId, Vec<&str>> = BTreeMap::new();
    for call in &history.calls {
        if !says_something(call) {
            continue;
        }
        let answers = match call.answer() {
            Some(Answer::Multi(answers)) => &answers[..],
            Some(answer) => std::slice::from_ref(answer),
            None => &[],
        };
        for (index, op) in call.op.parts().iter().enumerate() {
            let Op::Create { path, mode, .. } = op else {
                continue;
            };
            if mode.is_ephemeral() {
                let made = match answers.get(index) {
                    Some(Answer::Created { path, .. }) => path,
                    _ if mode.is_sequential() => path::parent(path).unwrap_or("/"),
                    _ => path,
                };
                let session = history.session_of(call);
                owned.entry(session).or_default().push(made);
            }
        }
    }
    owned
        .into_iter()
        .map(|(session, paths)| end(history, session, paths))
        .collect()
}

fn end<'a>(history: &History, session: SessionId, paths: Vec<&'a str>) -> Candidate<'a> {
    let mut called = u64::MAX;
    for attachment in &history.attachments {
        if attachment.session == session {
            // A session can be over before its opening is answered.
            called = called.min(attachment.called.order);
        }
    }
    let mut answered = u64::MAX;
    let recorded = history
        .session_ends
        .iter()
        .find(|end| end.session == session);
    if let Some(end) = recorded {
        answered = end.at.order;
    }
    for call in &history.calls {
        if call.op == Op::Close
            && call.outcome.has_happened()
            && history.session_of(call) == session
        {
            called = call.called.order;
            answered = answered.min(call.answered.map_or(u64::MAX, |at| at.order));
        }
    }
    let guess = recorded
        .and_then(|end| end.zxid)
        .map_or(u64::MAX, |zxid| zxid.0 * 2);
    Candidate {
        subject: Subject::End(session),
        session,
        called,
        answered,
        required: answered != u64::MAX,
        guess,
        kind: Kind::End(paths),
    }
}

/// Containers and TTL znodes may be deleted at any time.
fn reaps(history: &History) -> Vec<Candidate<'_>> {
    let mut reaps = Vec::new();
    for call in &history.calls {
        if !says_something(call) || call.outcome.is_of_the_tree() {
            continue;
        }
        for (index, op) in call.op.parts().iter().enumerate() {
            let Op::Create { path, mode, .. } = op else {
                continue;
            };
            if !is_reapable(*mode) {
                continue;
            }
            let made = match call.answer() {
                Some(Answer::Created { path, .. }) => path,
                Some(Answer::Multi(answers)) => match answers.get(index) {
                    Some(Answer::Created { path, .. }) => path,
                    _ => path,
                },
                _ => path,
            };
            reaps.push(Candidate {
                subject: Subject::Reap(made.clone()),
                session: SessionId::NONE,
                called: call.called.order,
                answered: u64::MAX,
                required: false,
                guess: u64::MAX,
                kind: Kind::Reap(made),
            });
        }
    }
    reaps
}

pub(super) fn is_reapable(mode: CreateMode) -> bool {
    mode == CreateMode::Container || mode.ttl_ms().is_some()
}

// ---- Which of them belong together ------------------------------------------------------------

impl<'a> Candidate<'a> {
    /// The paths that it names; of a sequential create without an answer the parent.
    pub(super) fn paths(&self) -> Vec<&'a str> {
        match &self.kind {
            Kind::Call(call) => {
                let mut paths = Vec::new();
                for op in call.op.parts() {
                    match op {
                        Op::Create { path, mode, .. } if mode.is_sequential() => {
                            paths.push(path::parent(path).unwrap_or("/"));
                        }
                        op => paths.extend(op.path()),
                    }
                }
                match call.answer() {
                    Some(Answer::Created { path, .. }) => paths.push(path),
                    Some(Answer::Multi(answers)) => {
                        paths.extend(answers.iter().filter_map(|answer| match answer {
                            Answer::Created { path, .. } => Some(&path[..]),
                            _ => None,
                        }));
                    }
                    _ => {}
                }
                paths
            }
            Kind::End(paths) => paths.clone(),
            Kind::Reap(path) | Kind::Left(path, _) | Kind::LeftBelow(path, _) => vec![path],
        }
    }
}

/// The paths whose children matter: those that may come or go, or whose children are counted or listed.
fn tied(candidates: &[Candidate<'_>]) -> BTreeSet<String> {
    let mut tied = BTreeSet::new();
    for candidate in candidates {
        if let Kind::LeftBelow(path, _) = &candidate.kind {
            tied.insert(path.to_string());
        }
        let Kind::Call(call) = &candidate.kind else {
            continue;
        };
        for op in call.op.parts() {
            match op {
                Op::Create { path, mode, .. } if mode.is_sequential() => {
                    tied.insert(path::parent(path).unwrap_or("/").to_string());
                }
                Op::Create { path, .. } | Op::Delete { path, .. } | Op::Children { path } => {
                    tied.insert(path.clone());
                }
                _ => {}
            }
        }
    }
    tied
}

/// The znodes that are there at the beginning, for the parts that need them: those that they name, and
/// their parents and children.
fn initial_by_root<'a>(
    history: &'a History,
    sets: &mut PathSets,
) -> BTreeMap<usize, BTreeMap<&'a str, Option<&'a FinalZnode>>> {
    let mut initial: BTreeMap<&str, Option<&FinalZnode>> =
        SYSTEM_ZNODES.iter().map(|path| (*path, None)).collect();
    for (path, znode) in &history.initial {
        initial.insert(path, Some(znode));
    }
    let mut by_root: BTreeMap<usize, BTreeMap<_, _>> = BTreeMap::new();
    let roots: HashMap<String, usize> = sets.all().into_iter().collect();
    for (path, root) in &roots {
        for path in [Some(&path[..]), path::parent(path)].into_iter().flatten() {
            if let Some((path, znode)) = initial.get_key_value(path) {
                by_root.entry(*root).or_default().insert(*path, *znode);
            }
        }
    }
    for (path, znode) in initial {
        if let Some(root) = path::parent(path).and_then(|parent| roots.get(parent)) {
            by_root.entry(*root).or_default().insert(path, znode);
        }
    }
    by_root
}

// ---- One part ---------------------------------------------------------------------------------

fn part(candidates: Vec<Candidate<'_>>, initial: BTreeMap<&str, Option<&FinalZnode>>) -> Part {
    let mut model = Model::default();
    for (path, znode) in initial {
        let Some(znode) = znode else {
            model.insert(path, b"", (0, 0, SessionId::NONE), Birth(0));
            continue;
        };
        let stat = &znode.stat;
        // What a client sees is twice the number of creations less the children.
        let creates = stat.cversion.wrapping_add_unsigned(stat.children_count) / 2;
        model.insert(
            path,
            &znode.data,
            (stat.version, creates, stat.ephemeral_owner),
            Birth(stat.czxid.0),
        );
    }
    let mut sessions: HashMap<SessionId, (usize, usize)> = HashMap::new();
    let mut part = Part {
        items: Vec::new(),
        subjects: Vec::new(),
        model,
        paths: Vec::new(),
    };
    let mut paths = BTreeSet::new();
    for candidate in candidates {
        paths.extend(candidate.paths().into_iter().map(str::to_string));
        let (step, expected) = step_of(&mut part.model, &candidate);
        let count = sessions.len();
        let (session, writes) = match candidate.kind {
            // The cluster's own are in no order.
            Kind::Reap(_) | Kind::Left(..) | Kind::LeftBelow(..) => &mut (usize::MAX, 0),
            _ => sessions.entry(candidate.session).or_insert((count, 0)),
        };
        let place = *writes;
        *writes += usize::from(!step.is_read());
        part.items.push(Item {
            called: candidate.called,
            answered: candidate.answered,
            required: candidate.required,
            step,
            expected,
            guess: candidate.guess,
            session: *session,
            place,
        });
        part.subjects.push(candidate.subject);
    }
    // The end of a session comes after everything that it wrote.
    for item in &mut part.items {
        if let Step::End(session) = item.step {
            item.place = sessions[&session].1;
        }
    }
    set_apart(&mut part.items, sessions.len());
    part.paths = paths.into_iter().collect();
    part
}

/// Gives each of the cluster's own deletions, and each look at the end, a session to itself.
fn set_apart(items: &mut [Item], mut next: usize) {
    for item in items {
        if item.session == usize::MAX {
            item.session = next;
            next += 1;
        }
    }
}

fn step_of(model: &mut Model, candidate: &Candidate<'_>) -> (Step, Expected) {
    match &candidate.kind {
        Kind::End(_) => (Step::End(candidate.session), Expected::Done),
        Kind::Reap(path) => (Step::Reap(model.path(path)), Expected::Done),
        Kind::Left(path, None) => (Step::Get(model.path(path)), Expected::NoNode),
        Kind::Left(path, Some(znode)) => {
            let (path, stat) = (model.path(path), &znode.stat);
            let born = Birth(stat.czxid.0);
            let data = Expected::Data(model.data(&znode.data), stat.version, born);
            let found = Expected::Found(stat.version, stat.ephemeral_owner, born);
            let steps = vec![Step::Get(path), Step::Exists(path)];
            (Step::MultiRead(steps), Expected::Multi(vec![data, found]))
        }
        Kind::LeftBelow(path, names) => {
            let step = Step::Children(model.path(path));
            (step, model::listed(names.iter().copied(), Birth(0)))
        }
        Kind::Call(call) => {
            let step = step(model, &call.op, call.answer(), candidate.session);
            let expected = match &call.outcome {
                Outcome::Ok(answer) => model::expected(model, &call.op, answer),
                Outcome::Failed(error) => model::refusal(error).expect("others were sorted out"),
                Outcome::Pending | Outcome::Unknown(_) => Expected::Anything,
            };
            (step, expected)
        }
    }
}

fn step(model: &mut Model, op: &Op, answer: Option<&Answer>, session: SessionId) -> Step {
    match op {
        Op::Create { path, data, mode } => {
            let data = model.data(data);
            let owner = match mode.is_ephemeral() {
                true => session,
                false => SessionId::NONE,
            };
            let node = Made {
                data,
                owner,
                reapable: is_reapable(*mode),
                czxid: Birth(answer.and_then(Answer::written).map_or(0, |zxid| zxid.0)),
            };
            if mode.is_sequential() {
                return Step::CreateSequential {
                    prefix: path.clone(),
                    parent: model.path(path::parent(path).unwrap_or("/")),
                    node,
                };
            }
            Step::Create {
                path: model.path(path),
                node,
            }
        }
        Op::Set {
            path,
            data,
            version,
        } => Step::Set {
            path: model.path(path),
            data: model.data(data),
            version: *version,
        },
        Op::Delete { path, version } => Step::Delete {
            path: model.path(path),
            version: *version,
        },
        Op::Check { path, version } => Step::Check {
            path: model.path(path),
            version: *version,
        },
        Op::Multi(ops) => Step::Multi(
            // All of a multi is of one zxid, which the whole answer tells.
            ops.iter()
                .map(|op| step(model, op, answer, session))
                .collect(),
        ),
        Op::Get { path } => Step::Get(model.path(path)),
        Op::Exists { path } => Step::Exists(model.path(path)),
        Op::Children { path } => Step::Children(model.path(path)),
        Op::MultiRead(ops) => {
            let steps = ops.iter().map(|op| step(model, op, None, session));
            Step::MultiRead(steps.collect())
        }
        Op::Sync | Op::Close => unreachable!("these are not looked for"),
    }
}

/// The paths of a step, for a report.
impl Step {
    pub(super) fn paths(&self) -> Vec<PathId> {
        match self {
            Step::Create { path, .. }
            | Step::Set { path, .. }
            | Step::Delete { path, .. }
            | Step::Check { path, .. }
            | Step::Get(path)
            | Step::Exists(path)
            | Step::Children(path)
            | Step::Reap(path) => vec![*path],
            Step::CreateSequential { parent, .. } => vec![*parent],
            Step::Multi(steps) | Step::MultiRead(steps) => {
                steps.iter().flat_map(Step::paths).collect()
            }
            Step::End(_) => Vec::new(),
        }
    }
}

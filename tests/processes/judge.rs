//! What must be true in the end: nothing acknowledged is lost, nothing has happened twice, no ephemeral has
//! outlived its session, no two held one lock, all replicas are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use quorate::testing::history::{ClientId, Recorder};
use quorate::testing::oracle;
use quorate::{Clock, Now};

use crate::ensemble::{Ensemble, eventually};
use crate::process::{Heard, HoldLine, report};

/// Lets the work rest, and judges what it has left.
pub(crate) fn judge(ensemble: &mut Ensemble) {
    judge_with(ensemble, Vec::new());
}

/// With what contenders in the test's own process have said of locks.
pub(crate) fn judge_with(ensemble: &mut Ensemble, mut holds: Vec<HoldLine>) {
    for id in ensemble.running() {
        ensemble.tell(id, "rest");
    }
    for id in ensemble.running() {
        ensemble.process(id).until("it rests", |heard| heard.rested);
    }
    no_ephemeral_outlives_its_session(ensemble);
    replicas_are_the_same(ensemble);
    let mut heard = ensemble.ended.clone();
    for id in ensemble.running() {
        heard.push(ensemble.process(id).heard(Heard::clone));
    }
    let writes = nothing_is_lost_or_doubled(&dump(ensemble), &heard);
    holds.extend(heard.into_iter().flat_map(|heard| heard.holds));
    let held = locks_have_one_holder(holds);
    report(format_args!(
        "{writes} writes acknowledged, locks held {held} times: nothing is lost or doubled"
    ));
}

type Znodes = BTreeMap<String, (i32, String)>;

/// What the tree holds of the work, as the first of those that run sees it.
fn dump(ensemble: &mut Ensemble) -> Znodes {
    let id = ensemble.running()[0];
    ensemble.process(id).forget(|heard| {
        heard.dumped = false;
        heard.znodes.clear();
    });
    ensemble.tell(id, "dump");
    ensemble
        .process(id)
        .until("it has read the tree", |heard| heard.dumped);
    let znodes = ensemble.process(id).heard(|heard| heard.znodes.clone());
    znodes
        .into_iter()
        .map(|(path, version, data)| (path, (version, data)))
        .collect()
}

/// Of each process that runs the last session may be alive; all others are dead.
fn no_ephemeral_outlives_its_session(ensemble: &mut Ensemble) {
    let running = ensemble.running();
    let last = |id: &u64| {
        let authors = ensemble.process(*id).heard(|heard| heard.authors.clone());
        authors.last().map(|(author, _)| format!("/live/{author}"))
    };
    let alive: BTreeSet<String> = running.iter().filter_map(last).collect();
    eventually("no ephemeral of a dead session", || {
        let znodes = dump(ensemble);
        let mut live = znodes.keys().filter(|path| path.starts_with("/live/"));
        live.all(|path| alive.contains(path))
    });
}

/// At the same write all have the same tree. What still changes it (a container that goes) reaches all.
fn replicas_are_the_same(ensemble: &mut Ensemble) {
    let running = ensemble.running();
    eventually("all replicas are the same", || {
        for &id in &running {
            ensemble.process(id).forget(|heard| heard.digest = None);
            ensemble.tell(id, "digest");
        }
        let digest = |id: &u64| {
            let process = ensemble.process(*id);
            process.until("it says its digest", |heard| heard.digest.is_some());
            process.heard(|heard| heard.digest.clone())
        };
        let digests: BTreeSet<_> = running.iter().map(digest).collect();
        digests.len() == 1
    });
}

/// The number of writes that were acknowledged.
fn nothing_is_lost_or_doubled(znodes: &Znodes, heard: &[Heard]) -> usize {
    // Each write by what it wrote: `author.number`.
    let mut made: BTreeMap<&str, BTreeMap<u64, &str>> = BTreeMap::new();
    for (path, (_, data)) in znodes.iter().filter(|(path, _)| path.starts_with("/work/")) {
        let (author, number) = data.rsplit_once('.').expect("author.number");
        let number = number.parse().expect("a number");
        let twice = made.entry(author).or_default().insert(number, path);
        assert_eq!(twice, None, "write {data} is there twice: also at {path}");
    }
    for heard in heard {
        for (author, number, path) in &heard.acknowledged {
            let found = made
                .get(author.as_str())
                .and_then(|writes| writes.get(number));
            assert_eq!(
                found,
                Some(&path.as_str()),
                "write {number} of {author} was acknowledged as {path}"
            );
        }
        for (author, number) in &heard.refused_writes {
            let found = made
                .get(author.as_str())
                .and_then(|writes| writes.get(number));
            assert_eq!(found, None, "write {number} of {author} did not happen");
        }
    }
    for (author, writes) in &made {
        // The first ones, none left out, in the order in which they were called.
        let numbers: Vec<u64> = writes.keys().copied().collect();
        assert!(
            numbers.iter().copied().eq(1..=numbers.len() as u64),
            "{author} wrote {numbers:?}"
        );
        assert!(writes.values().is_sorted(), "{author} wrote out of order");
        let (version, counted) = &znodes[&format!("/counters/{author}")];
        let even = numbers.len() as u64 / 2;
        assert_eq!(*version as u64, even, "transactions of {author}");
        if even > 0 {
            assert_eq!(*counted, (even * 2).to_string(), "transactions of {author}");
        }
    }
    heard.iter().map(|heard| heard.acknowledged.len()).sum()
}

/// A clock that shows what it is told, for a recorder that records what is long past.
#[derive(Clone, Default)]
struct ToldClock(Arc<Mutex<Duration>>);

impl Clock for ToldClock {
    fn now(&self) -> Now {
        Now {
            monotonic: *self.0.lock(),
            wall_ms: 0,
        }
    }
}

/// What all processes have said of locks, put into the order of the machine's clock, and judged. The number
/// of holds.
fn locks_have_one_holder(mut holds: Vec<HoldLine>) -> usize {
    // At one moment a look comes before another's beginning.
    holds.sort_by_key(|line| (line.at(), matches!(line, HoldLine::Acquired { .. })));
    let clock = ToldClock::default();
    let recorder = Recorder::new(clock.clone());
    let mut begun = BTreeMap::new();
    for line in &holds {
        *clock.0.lock() = line.at();
        match line {
            HoldLine::Acquired { lock, token, .. } => {
                let hold = recorder.held(ClientId(begun.len()), lock, *token);
                assert!(begun.insert(*token, hold).is_none(), "token {token} twice");
            }
            HoldLine::Look { token, is_held, .. } => match is_held {
                true => recorder.still_held(begun[token]),
                false => recorder.released(begun[token]),
            },
        }
    }
    let history = recorder.history();
    if let Err(violation) = oracle::fencing::check(&history) {
        panic!("{violation}");
    }
    history.holds.len()
}

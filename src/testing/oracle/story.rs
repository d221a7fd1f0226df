//! Histories written by hand, for the oracles' own tests.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Oracle, Violation};
use crate::clock::{Clock, Now};
use crate::error::Error;
use crate::ids::{NodeId, SessionId, Version, Zxid};
use crate::node::{Event, WatchEvent};
use crate::op::{CreateMode, EventKind};
use crate::path::ZnodePath;
use crate::stat::Stat;
use crate::testing::history::{
    Answer, AttachmentId, CallId, Change, ClientId, History, Op, Recorder, WatcherId,
};

#[derive(Clone, Default)]
struct HandClock(Arc<Mutex<Duration>>);

impl Clock for HandClock {
    fn now(&self) -> Now {
        Now {
            monotonic: *self.0.lock(),
            wall_ms: 0,
        }
    }
}

/// A history in the making.
pub(super) struct Story {
    pub recorder: Recorder,
    clock: HandClock,
    sessions: i64,
}

pub(super) const TIMEOUT: Duration = Duration::from_secs(4);

impl Story {
    pub(super) fn new() -> Story {
        let clock = HandClock::default();
        Story {
            recorder: Recorder::new(clock.clone()),
            clock,
            sessions: 0,
        }
    }

    /// Lets time pass.
    pub(super) fn wait_ms(&self, ms: u64) {
        *self.clock.0.lock() += Duration::from_millis(ms);
    }

    /// A session of a new client, on this node.
    pub(super) fn session(&mut self, on_node: u64) -> AttachmentId {
        self.sessions += 1;
        let client = ClientId(usize::try_from(self.sessions).unwrap());
        let session = (SessionId(self.sessions), 0);
        let called = self.recorder.now();
        self.recorder
            .attached(client, node(on_node), called, session, TIMEOUT)
    }

    /// The same session, attached on another node.
    pub(super) fn attach(&self, session: SessionId, on_node: u64, number: u32) -> AttachmentId {
        let client = ClientId(usize::try_from(session.0).unwrap());
        let called = self.recorder.now();
        self.recorder
            .attached(client, node(on_node), called, (session, number), TIMEOUT)
    }

    /// A call with its answer, one after the other.
    pub(super) fn did(&self, at: AttachmentId, op: Op, answer: impl Into<Answer>) -> CallId {
        let call = self.recorder.call(at, op);
        self.recorder.answered(call, Ok(answer.into()));
        call
    }

    /// A linearizable read with its answer.
    pub(super) fn did_linearizable(&self, at: AttachmentId, op: Op, answer: Answer) -> CallId {
        let call = self.recorder.call_linearizable(at, op);
        self.recorder.answered(call, Ok(answer));
        call
    }

    pub(super) fn call(&self, at: AttachmentId, op: Op) -> CallId {
        self.recorder.call(at, op)
    }

    pub(super) fn answer(&self, call: CallId, answer: impl Into<Answer>) {
        self.recorder.answered(call, Ok(answer.into()));
    }

    pub(super) fn refuse(&self, call: CallId, error: Error) {
        self.recorder.answered(call, Err::<Answer, _>(error));
    }

    pub(super) fn unknown(&self, call: CallId) {
        let reason = "the node stopped";
        self.refuse(call, Error::OutcomeUnknown { reason });
    }

    /// A change that node 1 applied.
    pub(super) fn change(&self, zxid: u64, kind: EventKind, path: &str) {
        let change = Change::new(Zxid(zxid), kind, path, SessionId::NONE);
        self.recorder.applied(node(1), [change]);
    }

    pub(super) fn receive(&self, watcher: WatcherId, zxid: u64, kind: EventKind, path: &str) {
        let event = WatchEvent {
            kind,
            path: ZnodePath::parse(path).unwrap(),
            zxid: Zxid(zxid),
        };
        self.recorder.received(watcher, Event::Changed(event));
    }

    pub(super) fn history(&self) -> History {
        self.recorder.history()
    }

    /// Judges, and asserts that nothing is wrong.
    #[track_caller]
    pub(super) fn passes(&self, check: Oracle) {
        let history = self.history();
        if let Err(violation) = check(&history) {
            panic!("{violation}\n\nin\n{history}");
        }
    }

    /// Judges, and asserts that this promise is found broken, with evidence that names `words`.
    #[track_caller]
    pub(super) fn breaks(&self, check: Oracle, promise: &str, words: &[&str]) -> Violation {
        let history = self.history();
        let violation = match check(&history) {
            Ok(()) => panic!("nothing was found in\n{history}"),
            Err(violation) => violation,
        };
        assert_eq!(violation.promise, promise, "{violation}\n\nin\n{history}");
        let text = violation.to_string();
        for word in words {
            assert!(text.contains(word), "{word:?} is not named in {text}");
        }
        violation
    }
}

pub(super) fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn create(path: &str, data: &str) -> Op {
    Op::create(path, data, CreateMode::Persistent)
}

pub(super) fn set(path: &str, data: &str) -> Op {
    Op::set(path, data, Version::ANY)
}

/// The answer of a creation.
pub(super) fn created(path: &str, zxid: u64) -> Answer {
    let stat = Stat {
        czxid: Zxid(zxid),
        mzxid: Zxid(zxid),
        pzxid: Zxid(zxid),
        ..Stat::default()
    };
    Answer::Created {
        path: path.to_string(),
        stat,
    }
}

/// A stat of a znode that was created by zxid 1.
pub(super) fn stat(version: i32, mzxid: u64) -> Stat {
    Stat {
        czxid: Zxid(1),
        mzxid: Zxid(mzxid),
        pzxid: Zxid(1),
        version,
        ..Stat::default()
    }
}

/// The same answer, of a znode that was created by this zxid.
pub(super) fn born(czxid: u64, mut answer: Answer) -> Answer {
    match &mut answer {
        Answer::Set(stat)
        | Answer::Data { stat, .. }
        | Answer::Exists(Some(stat))
        | Answer::Children { stat, .. } => stat.czxid = Zxid(czxid),
        other => panic!("{other} tells no creation"),
    }
    answer
}

/// The answer of a read of data.
pub(super) fn data(data: &str, version: i32, mzxid: u64) -> Answer {
    Answer::Data {
        data: data.into(),
        stat: stat(version, mzxid),
    }
}

/// The answer of a listing.
pub(super) fn names(names: &[&str], pzxid: u64) -> Answer {
    Answer::Children {
        names: names.iter().map(|name| name.to_string()).collect(),
        stat: Stat {
            pzxid: Zxid(pzxid),
            ..stat(0, 1)
        },
    }
}

//! The state machine alone, for benches: without consensus, storage, threads or a clock.
//!
//! Opaque on purpose. The state machine is no part of the public API, and what a bench times here is
//! `apply`, `publish` and a snapshot's encoding, nothing else.

use bytes::Bytes;

use crate::acl::Acl;
use crate::ids::{NodeId, SessionId, Version};
use crate::op::{Applied, Change, CreateMode, Op, OpResult, ReadOp, Request};
use crate::state::{Frozen, ReadResult, Reader, Settings, State};

/// A state machine with one session, whose writes it applies.
#[allow(missing_debug_implementations)]
pub struct StateMachine {
    state: State,
    session: SessionId,
    sequence: u64,
    changes: Vec<Change>,
}

/// Writes that are ready to be applied.
#[allow(missing_debug_implementations)]
pub struct Writes(Vec<Request>);

/// What is published, for any thread.
#[derive(Clone)]
#[allow(missing_debug_implementations)]
pub struct Published {
    reader: Reader,
    session: SessionId,
}

/// What was published when it was taken, to be written while writes go on.
#[allow(missing_debug_implementations)]
pub struct Snapshot(Frozen);

impl Default for StateMachine {
    fn default() -> StateMachine {
        let mut state = State::new(Settings::default());
        let open = Request {
            session: SessionId::NONE,
            attachment: 0,
            sequence: 0,
            answered: 0,
            op: Op::OpenSession {
                password: [7; 16],
                timeout_ms: 10_000,
                owner: NodeId::new(1).expect("1 is not 0"),
            },
        };
        let mut changes = Vec::new();
        let session = match state.apply(1, &open, &mut changes) {
            Applied::Now {
                outcome: Ok(OpResult::Session { id, .. }),
                ..
            } => id,
            other => panic!("a session opens at once, not {other:?}"),
        };
        state.publish();
        StateMachine {
            state,
            session,
            sequence: 0,
            changes,
        }
    }
}

impl StateMachine {
    /// Creations of persistent znodes.
    pub fn creations<'a>(
        &mut self,
        znodes: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Writes {
        self.writes(znodes, |path, data| Op::Create {
            path,
            data,
            acl: Acl::open().to_vec(),
            mode: CreateMode::Persistent,
        })
    }

    /// Sets, whatever the version.
    pub fn sets<'a>(&mut self, znodes: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Writes {
        self.writes(znodes, |path, data| Op::SetData {
            path,
            data,
            version: Version::ANY,
        })
    }

    fn writes<'a>(
        &mut self,
        znodes: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        op: impl Fn(String, Bytes) -> Op,
    ) -> Writes {
        let answered = self.sequence;
        let requests = znodes.into_iter().map(|(path, data)| {
            self.sequence += 1;
            Request {
                session: self.session,
                attachment: 0,
                sequence: self.sequence,
                answered,
                op: op(path.to_string(), Bytes::copy_from_slice(data)),
            }
        });
        Writes(requests.collect())
    }

    /// Applies writes, in the order in which they were made, and publishes once.
    ///
    /// # Panics
    /// When one of them fails.
    pub fn apply(&mut self, writes: &Writes) {
        for request in &writes.0 {
            let applied = self.state.apply(1, request, &mut self.changes);
            let Applied::Now { outcome: Ok(_), .. } = applied else {
                panic!("{request:?} gave {applied:?}");
            };
        }
        self.changes.clear();
        self.state.publish();
    }

    /// The number of znodes.
    pub fn znodes_count(&self) -> usize {
        self.state.znodes_count()
    }

    /// A reader of what is published.
    pub fn published(&self) -> Published {
        Published {
            reader: self.state.reader(),
            session: self.session,
        }
    }

    /// Takes a snapshot of what is published. `None` while the one before is being written.
    pub fn freeze(&mut self) -> Option<Snapshot> {
        self.state.freeze().map(Snapshot)
    }
}

impl Published {
    /// Reads data and stat, as a session does, and returns the number of bytes.
    ///
    /// # Panics
    /// Where there is no such znode.
    pub fn get(&self, path: String) -> usize {
        match self.reader.read(self.session, &ReadOp::Data { path }) {
            Ok(ReadResult::Data(data, _)) => data.len(),
            other => panic!("a znode with data was expected, not {other:?}"),
        }
    }
}

impl Snapshot {
    /// Encodes it, chunk by chunk, and returns the number of bytes.
    pub fn encode(self) -> usize {
        self.0.chunks().map(|chunk| chunk.len()).sum()
    }
}

//! Records a history, from wherever clients run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{
    Answer, Attachment, AttachmentEnd, AttachmentId, Bounds, Call, CallId, Change, ClientId,
    Consistency, Diverged, FinalZnode, History, Hold, HoldId, Ledger, Moment, Op, Outcome, Phase,
    PhaseKind, Received, SessionEnd, Skip, Watch, WatchId, WatchSet, WatcherId,
};
use crate::client::Session;
use crate::clock::Clock;
use crate::error::Error;
use crate::ids::{NodeId, SessionId, Zxid};
use crate::node::{Event, SessionState, WatchKind};

/// Writes down what clients do and see. Cheap to clone; all clones write the same history, from any
/// thread or task.
///
/// The clock is the one that everything is judged by: in a simulation the true time, not a node's.
///
/// ```
/// use quorate::testing::history::{ClientId, Op, Recorder};
/// use quorate::{CreateMode, Node, NodeId, SystemClock};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = Node::builder(1).start()?;
/// let recorder = Recorder::new(SystemClock::new());
/// let called = recorder.now();
/// let session = node.session().open().wait()?;
/// let at = recorder.opened(ClientId(0), NodeId::new(1).unwrap(), called, &session);
///
/// let call = recorder.call(at, Op::create("/a", "1", CreateMode::Persistent));
/// let result = session.create("/a", "1", CreateMode::Persistent).wait();
/// recorder.answered(call, result);
///
/// let history = recorder.history();
/// assert!(history.calls[0].outcome.has_happened());
/// println!("{history}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Recorder {
    clock: Arc<dyn Clock>,
    recording: Arc<Mutex<Recording>>,
}

#[derive(Default)]
struct Recording {
    history: History,
    /// The changes of a zxid are complete when they were reported: where each begins.
    changes_at: BTreeMap<Zxid, std::ops::Range<usize>>,
    order: u64,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("calls", &self.recording.lock().history.calls.len())
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// A recorder whose moments have their time from this clock's monotonic time.
    pub fn new(clock: impl Clock + 'static) -> Recorder {
        Recorder {
            clock: Arc::new(clock),
            recording: Arc::default(),
        }
    }

    /// Sets what the oracles allow.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.recording.lock().history.bounds = bounds;
    }

    /// The history so far.
    pub fn history(&self) -> History {
        self.moment(|recording, now| {
            recording.history.ended = now;
            recording.history.clone()
        })
    }

    /// How many calls were made so far.
    pub fn calls_count(&self) -> usize {
        self.recording.lock().history.calls.len()
    }

    /// This moment; it is in the history's order from now on.
    pub fn now(&self) -> Moment {
        self.moment(|_, now| now)
    }

    /// Time is read within the lock, so that it never goes back from one moment to the next.
    fn moment<T>(&self, write: impl FnOnce(&mut Recording, Moment) -> T) -> T {
        let mut recording = self.recording.lock();
        recording.order += 1;
        let now = Moment {
            order: recording.order,
            at: self.clock.now().monotonic,
        };
        write(&mut recording, now)
    }

    // ---- Sessions -----------------------------------------------------------------------------

    /// A client has a session, opened or attached on `node`; it had asked for it at `called`. What the
    /// client had of the same session before has ended with it.
    pub fn opened(
        &self,
        client: ClientId,
        node: NodeId,
        called: Moment,
        session: &Session,
    ) -> AttachmentId {
        let (id, number, timeout) = (session.id(), session.attachment(), session.timeout());
        self.attached(client, node, called, (id, number), timeout)
    }

    /// As [`Recorder::opened`], where there is no [`Session`] to look at.
    pub fn attached(
        &self,
        client: ClientId,
        node: NodeId,
        called: Moment,
        (session, number): (SessionId, u32),
        timeout: Duration,
    ) -> AttachmentId {
        self.moment(|recording, now| {
            let attachments = &mut recording.history.attachments;
            for earlier in attachments.iter_mut() {
                if earlier.session == session && earlier.ended.is_none() {
                    earlier.ended = Some((now, AttachmentEnd::Reattached));
                }
            }
            let id = AttachmentId(attachments.len());
            attachments.push(Attachment {
                id,
                client,
                node,
                session,
                number,
                timeout,
                called,
                opened: now,
                certain: None,
                states: Vec::new(),
                ended: None,
            });
            id
        })
    }

    /// The client looks now, and its node is certain that the session lives ([`Session::is_certain`]).
    /// Where time passes between the look and this call, in a program with threads, it is
    /// [`Recorder::certain_at`].
    pub fn certain(&self, attachment: AttachmentId) {
        let now = self.now();
        self.certain_at(attachment, now);
    }

    /// As [`Recorder::certain`], where the client was about to look at this moment.
    pub fn certain_at(&self, attachment: AttachmentId, looked: Moment) {
        self.moment(|recording, _| {
            recording.history.recorded.certain += 1;
            let certain = &mut recording.history.attachments[attachment.0].certain;
            *certain = (*certain).max(Some(looked));
        });
    }

    /// The client noticed its session's state. Recorded where it differs from the last one; a final
    /// one ends the attachment.
    pub fn state(&self, attachment: AttachmentId, state: SessionState) {
        self.moment(|recording, now| {
            let attachment = &mut recording.history.attachments[attachment.0];
            if attachment.states.last().map(|(_, last)| *last) != Some(state) {
                attachment.states.push((now, state));
            }
            if state.is_final() && attachment.ended.is_none() {
                attachment.ended = Some((now, AttachmentEnd::Told(state)));
            }
        });
    }

    /// The client uses the session no more.
    pub fn ended(&self, attachment: AttachmentId, how: AttachmentEnd) {
        self.moment(|recording, now| {
            let attachment = &mut recording.history.attachments[attachment.0];
            attachment.ended.get_or_insert((now, how));
        });
    }

    /// A node's process has ended, and with it all sessions' handles in it, whether or not their clients have
    /// noticed.
    pub fn node_ended(&self, node: NodeId) {
        self.moment(|recording, now| {
            for attachment in &mut recording.history.attachments {
                if attachment.node == node {
                    attachment
                        .ended
                        .get_or_insert((now, AttachmentEnd::Crashed));
                }
            }
        });
    }

    /// A replica has applied the end of a session, by a close or by its expiry. The first report
    /// counts.
    pub fn session_ended(&self, session: SessionId, zxid: Option<Zxid>) {
        self.moment(|recording, at| {
            recording.history.recorded.session_ends = true;
            let ends = &mut recording.history.session_ends;
            if !ends.iter().any(|end| end.session == session) {
                ends.push(SessionEnd { session, zxid, at });
            }
        });
    }

    // ---- Calls --------------------------------------------------------------------------------

    /// A call is about to be made. A read is one of the session's own consistency.
    pub fn call(&self, attachment: AttachmentId, op: Op) -> CallId {
        self.record_call(attachment, op, Consistency::Session)
    }

    /// A linearizable read is about to be called.
    pub fn call_linearizable(&self, attachment: AttachmentId, op: Op) -> CallId {
        self.record_call(attachment, op, Consistency::Linearizable)
    }

    fn record_call(&self, attachment: AttachmentId, op: Op, consistency: Consistency) -> CallId {
        self.moment(|recording, called| {
            let calls = &mut recording.history.calls;
            let id = CallId(calls.len());
            calls.push(Call {
                id,
                attachment,
                op,
                consistency,
                watch: None,
                called,
                answered: None,
                outcome: Outcome::Pending,
            });
            id
        })
    }

    /// The answer of a call was taken.
    pub fn answered(&self, call: CallId, result: Result<impl Into<Answer>, Error>) {
        let outcome = match result {
            Ok(answer) => Outcome::Ok(answer.into()),
            Err(error) if error.outcome_unknown() => Outcome::Unknown(error),
            Err(error) => Outcome::Failed(error),
        };
        self.moment(|recording, now| {
            let history = &mut recording.history;
            let call = &mut history.calls[call.0];
            call.answered = Some(now);
            // `Watch::set` follows from the read that it came with.
            if let (Some(watch), Outcome::Ok(_)) = (call.watch, &outcome) {
                history.watches[watch.0].set = Some(WatchSet {
                    at: now,
                    after: None,
                });
            }
            call.outcome = outcome;
        });
    }

    // ---- Watches ------------------------------------------------------------------------------

    /// A client has made itself a watcher.
    pub fn watcher(&self, attachment: AttachmentId) -> WatcherId {
        self.moment(|recording, _| {
            let watchers = &mut recording.history.watchers;
            watchers.push(attachment);
            WatcherId(watchers.len() - 1)
        })
    }

    /// The call, which was just recorded and is about to be made, sets a watch too.
    pub fn call_watches(&self, call: CallId, watcher: WatcherId, kind: WatchKind) -> WatchId {
        self.moment(|recording, _| {
            let history = &mut recording.history;
            let id = WatchId(history.watches.len());
            let call = &mut history.calls[call.0];
            call.watch = Some(id);
            history.watches.push(Watch {
                id,
                watcher,
                path: call.op.path().unwrap_or_default().to_string(),
                kind,
                called: call.called,
                call: Some(call.id),
                set: None,
                removed: None,
            });
            id
        })
    }

    /// A watch was set by [`Session::watch`], which was called at `called` and gave `after`.
    pub fn watched(
        &self,
        watcher: WatcherId,
        called: Moment,
        path: &str,
        kind: WatchKind,
        after: Zxid,
    ) -> WatchId {
        self.moment(|recording, at| {
            let watches = &mut recording.history.watches;
            let id = WatchId(watches.len());
            watches.push(Watch {
                id,
                watcher,
                path: path.to_string(),
                kind,
                called,
                call: None,
                set: Some(WatchSet {
                    at,
                    after: Some(after),
                }),
                removed: None,
            });
            id
        })
    }

    /// A watch is about to be removed: from now on its events may or may not come.
    pub fn unwatched(&self, watch: WatchId) {
        self.moment(|recording, now| {
            recording.history.watches[watch.0]
                .removed
                .get_or_insert(now);
        });
    }

    /// An event was taken out of a watcher's queue.
    pub fn received(&self, watcher: WatcherId, event: Event) {
        self.moment(|recording, at| {
            recording
                .history
                .received
                .push(Received { watcher, at, event });
        });
    }

    // ---- Locks --------------------------------------------------------------------------------

    /// A client gets a lock now. Where time passes between that and this call, in a program with threads,
    /// it is [`Recorder::held_since`].
    pub fn held(&self, client: ClientId, lock: &str, token: u64) -> HoldId {
        let now = self.now();
        self.hold(client, (lock, token), now, |now| now)
    }

    /// A client has got a lock, which it was about to ask for at `asked`.
    pub fn held_since(&self, client: ClientId, lock: &str, token: u64, asked: Moment) -> HoldId {
        self.hold(client, (lock, token), asked, |_| asked)
    }

    fn hold(
        &self,
        client: ClientId,
        (lock, token): (&str, u64),
        asked: Moment,
        last: impl FnOnce(Moment) -> Moment,
    ) -> HoldId {
        self.moment(|recording, now| {
            let holds = &mut recording.history.holds;
            let id = HoldId(holds.len());
            holds.push(Hold {
                id,
                client,
                lock: lock.to_string(),
                token,
                asked,
                began: now,
                last: last(now),
                released: false,
            });
            id
        })
    }

    /// The client acts as the holder now, as it believes to be. Where time passes between that and this
    /// call, in a program with threads, it is [`Recorder::still_held_at`].
    pub fn still_held(&self, hold: HoldId) {
        let now = self.now();
        self.still_held_at(hold, now);
    }

    /// The client believed to be the holder, and acted, when it looked after this moment.
    pub fn still_held_at(&self, hold: HoldId, looked: Moment) {
        self.moment(|recording, _| {
            let last = &mut recording.history.holds[hold.0].last;
            *last = looked.max(*last);
        });
    }

    /// The client is about to let go, or knows that it has lost the lock: it acts no more. The time
    /// since it last acted doesn't count.
    pub fn released(&self, hold: HoldId) {
        self.moment(|recording, _| recording.history.holds[hold.0].released = true);
    }

    // ---- Sums ---------------------------------------------------------------------------------

    /// From now on these accounts hold this sum together, whenever they are read at one moment.
    pub fn ledger(&self, accounts: impl IntoIterator<Item = String>, sum: i64) {
        let accounts = accounts.into_iter().collect();
        self.moment(|recording, _| recording.history.ledgers.push(Ledger { accounts, sum }));
    }

    // ---- What the cluster did -----------------------------------------------------------------

    /// From now on every end of a session is recorded by [`Recorder::session_ended`], also where there is
    /// none: what isn't there is over by then, or lives.
    pub fn records_session_ends(&self) {
        self.moment(|recording, _| recording.history.recorded.session_ends = true);
    }

    /// A replica has applied these changes, in order: all those of each zxid, though not every zxid has
    /// any. The first replica to report a zxid is taken down, the others are compared with it.
    pub fn applied(&self, node: NodeId, changes: impl IntoIterator<Item = Change>) {
        let mut by_zxid: BTreeMap<Zxid, Vec<Change>> = BTreeMap::new();
        for change in changes {
            by_zxid.entry(change.zxid).or_default().push(change);
        }
        if by_zxid.is_empty() {
            return;
        }
        self.moment(|recording, now| {
            for (zxid, changes) in by_zxid {
                recording.applied(node, zxid, changes, now);
            }
        });
    }

    /// A node has gone from one state to a later one by a snapshot.
    pub fn skipped(&self, node: NodeId, from: Zxid, to: Zxid) {
        self.moment(|recording, at| {
            recording.history.skips.push(Skip { node, from, to, at });
        });
    }

    /// A phase begins.
    pub fn phase(&self, kind: PhaseKind) {
        self.moment(|recording, began| recording.history.phases.push(Phase { began, kind }));
    }

    /// A remark for the reader.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        self.moment(|recording, now| recording.history.notes.push((now, text)));
    }

    /// The tree as it is before the first call. Where nobody says so it holds the system's znodes only.
    pub fn initial_tree(&self, znodes: impl IntoIterator<Item = (String, FinalZnode)>) {
        let tree = znodes.into_iter().collect();
        self.moment(|recording, _| recording.history.initial = tree);
    }

    /// The tree as it is at the end, when everything was answered: all of it besides the system's
    /// znodes, read after the last answer, each znode linearizably.
    pub fn tree(&self, znodes: impl IntoIterator<Item = (String, FinalZnode)>) {
        let tree = znodes.into_iter().collect();
        self.moment(|recording, now| {
            recording.history.tree = Some(tree);
            recording.history.looked = Some(now);
        });
    }
}

impl Recording {
    fn applied(&mut self, node: NodeId, zxid: Zxid, mut changes: Vec<Change>, now: Moment) {
        let history = &mut self.history;
        if let Some(at) = self.changes_at.get(&zxid) {
            let first = &history.changes[at.clone()];
            let same = first.len() == changes.len()
                && first.iter().zip(&changes).all(|(a, b)| a.is_same(b));
            if !same {
                history.diverged.push(Diverged {
                    zxid,
                    node,
                    first: first.to_vec(),
                    other: changes,
                });
            }
            return;
        }
        for change in &mut changes {
            change.applied = now;
        }
        history.recorded.changes = true;
        let begin = history.changes.len();
        history.changes.append(&mut changes);
        self.changes_at.insert(zxid, begin..history.changes.len());
        if self.changes_at.last_key_value().map(|(last, _)| *last) != Some(zxid) {
            // Only a replica that has lost what it applied reports a zxid behind a later one.
            history.diverged.push(Diverged {
                zxid,
                node,
                first: Vec::new(),
                other: history.changes[begin..].to_vec(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Now;
    use crate::op::EventKind;

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Now {
            Now::default()
        }
    }

    fn node(id: u64) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn change(zxid: u64, path: &str) -> Change {
        Change::new(Zxid(zxid), EventKind::NodeCreated, path, SessionId::NONE)
    }

    #[test]
    fn moments_are_in_order_though_the_clock_stands() {
        let recorder = Recorder::new(Still);
        let (first, second) = (recorder.now(), recorder.clone().now());
        assert!(first < second);
        assert_eq!(first.at, second.at);
    }

    #[test]
    fn an_answer_says_whether_its_call_happened() {
        let recorder = Recorder::new(Still);
        let at = recorder.attached(
            ClientId(0),
            node(1),
            recorder.now(),
            (SessionId(1), 0),
            Duration::from_secs(4),
        );
        let calls: Vec<_> = (0..4).map(|_| recorder.call(at, Op::get("/a"))).collect();
        recorder.answered(calls[0], Ok(None));
        recorder.answered(calls[1], Err::<(), _>(Error::Timeout));
        let path = "/a".to_string();
        recorder.answered(calls[2], Err::<(), _>(Error::NoNode { path }));
        let history = recorder.history();
        assert!(history.calls[0].outcome.has_happened());
        assert!(history.calls[1].outcome.may_have_happened());
        assert!(history.calls[2].outcome.is_of_the_tree());
        assert_eq!(history.calls[3].outcome, Outcome::Pending);
    }

    #[test]
    fn an_attachment_elsewhere_ends_the_one_before() {
        let recorder = Recorder::new(Still);
        let session = (SessionId(1), 0);
        let timeout = Duration::from_secs(4);
        recorder.attached(ClientId(0), node(1), recorder.now(), session, timeout);
        let session = (SessionId(1), 1);
        recorder.attached(ClientId(0), node(2), recorder.now(), session, timeout);
        let history = recorder.history();
        let ends: Vec<_> = history
            .attachments
            .iter()
            .map(|attachment| attachment.ended.map(|(_, how)| how))
            .collect();
        assert_eq!(ends, [Some(AttachmentEnd::Reattached), None]);
    }

    #[test]
    fn changes_are_taken_down_once_and_replicas_that_differ_are_named() {
        let recorder = Recorder::new(Still);
        recorder.applied(node(1), [change(1, "/a"), change(2, "/b")]);
        recorder.applied(node(2), [change(1, "/a")]);
        recorder.applied(
            node(2),
            [change(2, "/b"), change(3, "/c"), change(3, "/c/d")],
        );
        let history = recorder.history();
        assert_eq!(history.changes.len(), 4);
        assert!(history.diverged.is_empty());

        recorder.applied(node(3), [change(3, "/c")]);
        recorder.applied(node(3), [change(2, "/other")]);
        let history = recorder.history();
        let zxids: Vec<_> = history.diverged.iter().map(|one| one.zxid.0).collect();
        assert_eq!(zxids, [3, 2]);
    }
}

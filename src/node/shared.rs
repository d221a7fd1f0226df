//! What a node's loop and its clients' threads share.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use parking_lot::{Condvar, Mutex};

use super::Waker;
use super::calls::{Abandoned, Call, Command};
use super::entropy::Entropy;
use super::events::{EventHub, NodeEvent};
use super::members::MemberStatus;
use super::telling::{Cause, Telling};
use super::watch_lock::Watches;
use super::watches::{SessionState, WatchQueue, WatchTable};
use crate::acl::AuthId;
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::ids::{ClusterId, NodeId, SessionId, Zxid};
use crate::observe::{CallKind, Stopwatch};
use crate::op::{Keeper, Password};
use crate::replica::{Abandonment, SessionEvent};
use crate::state::Reader;

/// What a node is in the cluster just now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
    /// Gets the log without a vote.
    Learner,
    /// Knows its cluster, and waits to be added to it by [`Node::add_learner`](super::Node::add_learner).
    Joining,
    /// Was removed from its cluster, and has stopped.
    Removed,
    /// Has stopped; see [`NodeStatus::stopped`].
    Stopped,
}

/// Where a node stands, as of its last turn.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NodeStatus {
    /// This node.
    pub id: NodeId,
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// What it is.
    pub role: Role,
    /// The Raft term.
    pub term: u64,
    /// The leader of that term, where it is known.
    pub leader: Option<NodeId>,
    /// The last log entry known to be committed.
    pub commit_index: u64,
    /// The last log entry applied here.
    pub applied_index: u64,
    /// The last write applied here.
    pub zxid: Zxid,
    /// How many znodes the tree has.
    pub znodes: usize,
    /// The bytes of their paths and data; in memory each znode takes about 216 more.
    pub data_bytes: u64,
    /// How many watches are set here.
    pub watches: usize,
    /// The newest rules that the log follows here: see [`NodeBuilder::rules_max`](crate::NodeBuilder::rules_max).
    pub rules: u32,
    /// How many writes have passed a soft quota, in the life of the cluster.
    pub soft_quota_exceeded: u64,
    /// How many sessions the cluster has.
    pub sessions: usize,
    /// How many sessions are attached here.
    pub sessions_attached: usize,
    /// The shortest and the longest timeout that a session may have, in milliseconds.
    pub session_timeouts_ms: (u32, u32),
    /// Those whose majority decides, sorted.
    pub voters: Vec<NodeId>,
    /// Those who get the log without a vote, sorted.
    pub learners: Vec<NodeId>,
    /// Whether a change of membership is half done (joint consensus): the old voters' majority is needed
    /// as well.
    pub is_joint: bool,
    /// Voters and learners, sorted by id, and on the leader how far they are: up to 10 ms old.
    pub members: Vec<MemberStatus>,
    /// What waits in the node's queues.
    pub queues: QueueDepths,
    /// Why the node has stopped, where it has.
    pub stopped: Option<String>,
}

/// How much waits in each of a node's queues, all of which are bounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct QueueDepths {
    /// Calls that the node's loop has not taken yet.
    pub requests: usize,
    /// Calls that it has taken and not answered.
    pub calls: usize,
    /// Messages of other nodes.
    pub peer_messages: usize,
    /// Writes to the storage.
    pub writes: usize,
    /// Snapshots, and pieces of them, to be written, read or staged.
    pub snapshots: usize,
}

/// The part of a node that its clients' threads use.
pub(crate) struct NodeShared {
    reader: Reader,
    commands: Sender<Command>,
    commands_max: usize,
    /// Sessions that were abandoned when the queue of commands had no room. No more than there are
    /// sessions here.
    abandoned: Mutex<Vec<Abandoned>>,
    waker: Waker,
    pub(crate) watches: Watches,
    pub(crate) clock: Arc<dyn Clock>,
    /// What passwords and nonces are drawn from.
    pub(crate) entropy: Entropy,
    pub(crate) events: EventHub,
    pub(super) telling: Telling,
    status: Mutex<NodeStatus>,
    status_changed: Condvar,
    /// Whether `status` says that the node has stopped.
    has_stopped: AtomicBool,
}

impl NodeShared {
    pub(super) fn new(
        id: NodeId,
        cluster: ClusterId,
        reader: Reader,
        commands: Sender<Command>,
        waker: Waker,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> NodeShared {
        let commands_max = commands.capacity().unwrap_or(usize::MAX);
        let status = NodeStatus {
            id,
            cluster,
            role: Role::Follower,
            term: 0,
            leader: None,
            commit_index: 0,
            applied_index: 0,
            zxid: Zxid(0),
            znodes: 0,
            data_bytes: 0,
            watches: 0,
            rules: 1,
            soft_quota_exceeded: 0,
            sessions: 0,
            sessions_attached: 0,
            session_timeouts_ms: (0, 0),
            voters: Vec::new(),
            learners: Vec::new(),
            is_joint: false,
            members: Vec::new(),
            queues: QueueDepths::default(),
            stopped: None,
        };
        NodeShared {
            reader,
            commands,
            commands_max,
            abandoned: Mutex::default(),
            waker,
            watches: Watches::default(),
            clock,
            entropy,
            events: EventHub::default(),
            telling: Telling::new(id),
            status: Mutex::new(status),
            status_changed: Condvar::new(),
            has_stopped: AtomicBool::new(false),
        }
    }

    /// Reads what is published.
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Hands a command to the loop; on failure the call inside is answered at once.
    pub(crate) fn command(&self, command: Command) {
        let (command, error) = if self.has_stopped.load(Ordering::Acquire) {
            (command, self.stopped_error())
        } else {
            match self.commands.try_send(command) {
                Ok(()) => return self.waker.wake(),
                Err(TrySendError::Full(command)) => {
                    let limit = self.commands_max;
                    (
                        command,
                        Error::Overloaded {
                            queue: "requests to the node",
                            limit,
                        },
                    )
                }
                Err(TrySendError::Disconnected(command)) => (command, self.stopped_error()),
            }
        };
        let kind = command.kind();
        if let Some(call) = command.into_call() {
            self.fail(call, kind, error);
        }
    }

    /// Gives a call an error for its answer.
    pub(super) fn fail(&self, call: Call, kind: CallKind, error: Error) {
        self.tell_answer(&call, kind, Some(&error), Stopwatch::start());
        call.fail(error);
    }

    /// A call is being answered.
    pub(super) fn tell_answer(
        &self,
        call: &Call,
        kind: CallKind,
        error: Option<&Error>,
        now: Stopwatch,
    ) {
        let seconds = call.called_at().seconds_to(now);
        let now = || self.clock.now().monotonic;
        self.telling.answered(kind, error, seconds, now);
    }

    /// Hands in the command that must not be lost; waits where the queue is full.
    pub(super) fn command_for_sure(&self, command: Command) {
        // A loop that is gone needs no command.
        let _ = self.commands.send(command);
        self.waker.wake();
    }

    /// Says that a session's last handle is gone, however full the queue is.
    fn abandon(&self, abandoned: Abandoned) {
        if let Err(TrySendError::Full(_)) = self.commands.try_send(Command::Abandon(abandoned)) {
            self.abandoned.lock().push(abandoned);
        }
        self.waker.wake();
    }

    /// The abandoned sessions that didn't fit into the queue.
    pub(super) fn take_abandoned(&self) -> Vec<Abandoned> {
        std::mem::take(&mut *self.abandoned.lock())
    }

    pub(crate) fn status(&self) -> NodeStatus {
        self.status.lock().clone()
    }

    /// `update` says whether more has changed than is looked at here.
    pub(super) fn update_status(&self, update: impl FnOnce(&mut NodeStatus) -> bool) {
        let mut status = self.status.lock();
        let numbers = |status: &NodeStatus| {
            (
                (status.role, status.leader, status.term),
                (status.zxid, status.applied_index, status.commit_index),
                // Who takes part changes with an entry applied.
                status.sessions_attached,
            )
        };
        let before = numbers(&status);
        let more = update(&mut status);
        if more || before != numbers(&status) {
            self.status_changed.notify_all();
        }
    }

    /// Waits until the status satisfies `condition`, at most `timeout`.
    pub(crate) fn wait_for(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(&NodeStatus) -> bool,
    ) -> Result<NodeStatus> {
        let mut status = self.status.lock();
        let met = |status: &mut NodeStatus| !condition(status) && status.stopped.is_none();
        let waited = self
            .status_changed
            .wait_while_for(&mut status, met, timeout);
        if waited.timed_out() {
            return Err(Error::Timeout);
        }
        Ok(status.clone())
    }

    pub(super) fn set_stopped(&self, error: &Error, cause: Cause) {
        let mut status = self.status.lock();
        if status.stopped.is_some() {
            return;
        }
        let (role, reason, event) = match error {
            Error::Removed => {
                let reason = "it was removed from the cluster".to_string();
                (Role::Removed, reason, NodeEvent::Removed)
            }
            Error::Stopped { reason } => {
                let event = NodeEvent::Stopped {
                    reason: reason.clone(),
                };
                (Role::Stopped, reason.clone(), event)
            }
            other => unreachable!("a node doesn't stop because: {other}"),
        };
        status.role = role;
        status.leader = None;
        self.telling.stopped(&reason, cause);
        status.stopped = Some(reason);
        self.has_stopped.store(true, Ordering::Release);
        self.status_changed.notify_all();
        drop(status);
        self.events.end(event);
    }

    pub(crate) fn stopped_error(&self) -> Error {
        self.stopped().unwrap_or_else(|| Error::Stopped {
            reason: "its loop is gone".to_string(),
        })
    }

    /// The error of calls to a node that has stopped; `None` while it runs.
    pub(crate) fn stopped(&self) -> Option<Error> {
        let status = self.status.lock();
        let reason = status.stopped.clone()?;
        Some(match status.role {
            Role::Removed => Error::Removed,
            _ => Error::Stopped { reason },
        })
    }
}

/// The part of a session that its handles and the loop share.
pub(crate) struct SessionShared {
    pub id: SessionId,
    pub password: Password,
    pub attachment: u32,
    pub timeout_ms: u32,
    pub keeper: Keeper,
    /// Set where it is none of the cluster's sessions, but reads at this node alone.
    pub(crate) stranger: Option<Arc<Stranger>>,
    state: AtomicU8,
    /// Nanoseconds of the node's monotonic clock.
    certain_until: AtomicU64,
    /// Writes called and not answered: a read has to wait for them.
    writes_pending: AtomicUsize,
    watchers: Mutex<Vec<Weak<WatchQueue>>>,
    /// How many numbers were given out to make names unique.
    numbers: AtomicU64,
    /// Wakes those who wait for a state.
    changed: Condvar,
    lock: Mutex<()>,
}

impl fmt::Debug for SessionShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl SessionShared {
    pub(super) fn new(
        id: SessionId,
        password: Password,
        attachment: u32,
        timeout_ms: u32,
        certain_until: Duration,
        keeper: Keeper,
    ) -> Arc<SessionShared> {
        Arc::new(SessionShared {
            id,
            password,
            attachment,
            timeout_ms,
            keeper,
            stranger: None,
            state: AtomicU8::new(SessionState::Connected as u8),
            certain_until: AtomicU64::new(nanos(certain_until)),
            writes_pending: AtomicUsize::new(0),
            watchers: Mutex::new(Vec::new()),
            numbers: AtomicU64::new(0),
            changed: Condvar::new(),
            lock: Mutex::new(()),
        })
    }

    /// One that only reads, at this node alone. The cluster doesn't know it, so it is never certain.
    pub(crate) fn read_only(
        id: SessionId,
        password: Password,
        timeout_ms: u32,
    ) -> Arc<SessionShared> {
        let shared = SessionShared::new(id, password, 0, timeout_ms, Duration::ZERO, Keeper::Host);
        let mut shared = Arc::into_inner(shared).expect("it was just made");
        shared.stranger = Some(Arc::default());
        Arc::new(shared)
    }

    /// Ends a session of this node alone.
    pub(crate) fn close_read_only(&self, table: &mut WatchTable) {
        self.set(SessionEvent::Closed, table);
    }

    pub(crate) fn state(&self) -> SessionState {
        const STATES: [SessionState; 5] = [
            SessionState::Connected,
            SessionState::Suspended,
            SessionState::Lost,
            SessionState::Moved,
            SessionState::Closed,
        ];
        STATES[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Whether the cluster can't have expired the session yet, by this node's clock.
    pub(crate) fn is_certain(&self, now: Duration) -> bool {
        !self.state().is_final() && nanos(now) < self.certain_until.load(Ordering::Acquire)
    }

    /// What to answer a call of a session that is no more.
    pub(crate) fn check(&self) -> Result<()> {
        match self.state() {
            SessionState::Moved => Err(Error::SessionMoved { session: self.id }),
            SessionState::Lost | SessionState::Closed => {
                Err(Error::SessionExpired { session: self.id })
            }
            SessionState::Connected | SessionState::Suspended => Ok(()),
        }
    }

    /// A number that this attachment of the session has not given out before.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn write_called(&self) {
        self.writes_pending.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn write_answered(&self) {
        self.writes_pending.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether a read may be answered from what is published now.
    pub(crate) fn has_no_pending_writes(&self) -> bool {
        self.writes_pending.load(Ordering::Acquire) == 0
    }

    /// Tells this watcher of the session's state from now on, and of its end if that has come.
    /// `table` proves that it isn't coming just now.
    pub(crate) fn add_watcher(&self, queue: &Arc<WatchQueue>, table: &mut WatchTable) {
        if self.state().is_final() {
            return table.tell(queue, self.state());
        }
        let mut watchers = self.watchers.lock();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(queue));
    }

    /// Waits until the state is another than `state`, at most `timeout`.
    pub(crate) fn wait_while(&self, state: SessionState, timeout: Duration) -> SessionState {
        let mut guard = self.lock.lock();
        self.changed
            .wait_while_for(&mut guard, |()| self.state() == state, timeout);
        self.state()
    }

    /// Takes in an event of the session's life. `table` proves that no watch is being fired.
    pub(super) fn set(&self, event: SessionEvent, table: &mut WatchTable) {
        let state = match event {
            SessionEvent::Certain { until } => {
                self.certain_until.fetch_max(nanos(until), Ordering::AcqRel);
                SessionState::Connected
            }
            SessionEvent::Suspended => SessionState::Suspended,
            SessionEvent::Lost | SessionEvent::Left => SessionState::Lost,
            SessionEvent::Moved => SessionState::Moved,
            SessionEvent::Closed => SessionState::Closed,
        };
        if self.state().is_final() || self.state() == state {
            return;
        }
        self.state.store(state as u8, Ordering::Release);
        drop(self.lock.lock());
        self.changed.notify_all();
        for watcher in &*self.watchers.lock() {
            if let Some(queue) = watcher.upgrade() {
                table.tell(&queue, state);
            }
        }
    }
}

/// Who reads without being one of the cluster's sessions: what it has proven.
#[derive(Debug, Default)]
pub(crate) struct Stranger(Mutex<Arc<[AuthId]>>);

impl Stranger {
    /// The most identities that it proves, as many as a session may.
    const IDENTITIES_MAX: usize = 64;

    pub(crate) fn identities(&self) -> Arc<[AuthId]> {
        self.0.lock().clone()
    }

    pub(crate) fn add(&self, identity: &AuthId) -> Result<()> {
        let mut identities = self.0.lock();
        if identities.contains(identity) {
            return Ok(());
        }
        if identities.len() >= Self::IDENTITIES_MAX {
            return Err(Error::AuthFailed {
                scheme: identity.scheme.clone(),
                reason: format!("{} identities are proven already", Self::IDENTITIES_MAX),
            });
        }
        *identities = identities.iter().chain([identity]).cloned().collect();
        Ok(())
    }
}

/// What a session's handles have in common. Dropping it closes the session; but one that its host keeps
/// alive is left to its silence.
///
/// One that nobody has taken is an answer that nobody has waited for. Then it was opened for nobody, who
/// can't have its credentials, and is closed; or it was attached by somebody who has gone on and may
/// attach it elsewhere, and is left.
pub(crate) struct SessionHandle {
    pub node: Arc<NodeShared>,
    pub shared: Arc<SessionShared>,
    at_drop: Option<Abandonment>,
}

impl SessionHandle {
    pub(super) fn untaken(
        node: Arc<NodeShared>,
        shared: Arc<SessionShared>,
        untaken: Abandonment,
    ) -> SessionHandle {
        let at_drop = Some(untaken);
        SessionHandle {
            node,
            shared,
            at_drop,
        }
    }

    /// Of a session that only this node knows: nobody is told when it is dropped.
    pub(crate) fn local(node: Arc<NodeShared>, shared: Arc<SessionShared>) -> SessionHandle {
        SessionHandle {
            node,
            shared,
            at_drop: None,
        }
    }

    /// Somebody has it.
    pub(crate) fn take(mut self) -> SessionHandle {
        self.at_drop = (self.shared.keeper == Keeper::Node).then_some(Abandonment::Close);
        self
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        if let Some(abandonment) = self.at_drop
            && !self.shared.state().is_final()
        {
            let (session, attachment) = (self.shared.id, self.shared.attachment);
            self.node.abandon(Abandoned {
                session,
                attachment,
                abandonment,
            });
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

//! A machine of a simulation: a disk, a clock, and a node's process, as long as there is one.
//!
//! It does what a node's threads do, when it is told the time. What it does in a turn is production code;
//! when its disk is done is the simulation's decision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::clock::NodeClock;
use super::disk::{Appended, Disk};
use super::wire::{Wire, node_id};
use crate::clock::Clock as _;
use crate::error::Error;
use crate::ids::ClusterId;
use crate::node::join::{self, JoiningInbox};
use crate::node::snapshotter::Snapshotter;
use crate::node::workers::{self, Done, SnapshotJob, WriteJob};
use crate::node::{Assembly, Cause, JoinError, NodeBuilder, StartError, bind_joined};
use crate::replica::{Join, JoinReply};
use crate::storage::Storage;
use crate::transport::{Local, Message, Transport as _};

/// How long a loop takes for a turn at least.
const TURN: Duration = Duration::from_micros(10);

/// How often a node that joins asks again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// A machine.
pub(super) struct Machine {
    pub(super) id: u64,
    pub(super) disk: Disk,
    pub(super) clock: NodeClock,
    pub(super) process: Process,
    /// Counts the starts of its node.
    pub(super) boots: u32,
    /// It wasn't among the first voters, or its disk was wiped: on an empty disk it joins.
    pub(super) joins: bool,
    /// The entry as of which its node was no member, as it was told when it joined.
    pub(super) joined_as_of: Option<u64>,
    /// Until when its disk is slow.
    pub(super) slow_until: Duration,
    /// Until when its process stands still.
    pub(super) paused_until: Option<Duration>,
}

/// A node's process.
pub(super) enum Process {
    /// There is none, for a while.
    Down,
    /// It asks which cluster it joins.
    Joining(Box<Joining>),
    /// It runs.
    Up(Box<Up>),
    /// It can't be started: its disk is damaged.
    Damaged,
    /// It was removed from the cluster.
    Removed,
}

/// See [`Process::Joining`].
pub(super) struct Joining {
    join: Join,
    peers: Vec<u64>,
    storage: Arc<dyn Storage>,
    replies: Receiver<JoinReply>,
    ask_at: Duration,
}

/// See [`Process::Up`].
pub(super) struct Up {
    pub(super) parts: Assembly,
    snapshotter: Snapshotter,
    /// What the writer is at, and when it is done.
    write: Option<(Duration, WriteJob)>,
    /// What couldn't share that sync.
    waiting: Option<WriteJob>,
    snapshots: VecDeque<(Duration, SnapshotJob)>,
    next_turn: Duration,
    /// The voters before the last turn.
    pub(super) voters: Vec<Vec<u64>>,
}

impl Up {
    fn report(&self, done: Done) {
        // A driver that has stopped takes its last reports as it takes all others.
        let _ = self.parts.reports.report(done);
    }
}

/// Why a machine's node could not be started.
pub(super) enum NotStarted {
    /// Its storage refuses, which was provoked.
    Storage(String),
    /// The same, though nothing was done to it, or something else.
    Unexpected(String),
}

/// What has come of a machine's work at some moment.
#[derive(Default)]
pub(super) struct Worked {
    /// The node has made a turn.
    pub(super) turned: bool,
    /// Entries that have become durable.
    pub(super) appended: Vec<Appended>,
    /// The node has stopped, for this reason.
    pub(super) stopped: Option<String>,
}

impl Machine {
    /// Starts the node's process. `builder` is as the host has configured it; `others` are whom it knows.
    pub(super) fn start(
        &mut self,
        builder: NodeBuilder,
        wire: &Wire,
        others: Vec<u64>,
        now: Duration,
        seed: u64,
    ) -> Result<(), NotStarted> {
        self.boots += 1;
        let storage = self
            .disk
            .open()
            .map_err(|error| self.not_started(error.to_string()))?;
        let empty = match storage.recover() {
            Ok(recovered) => recovered.identity.is_none(),
            Err(error) => return Err(self.not_started(error.to_string())),
        };
        if empty && self.joins {
            let (inbox, replies) = JoiningInbox::new();
            let local = Local {
                cluster: ClusterId(0),
                node: node_id(self.id),
            };
            let endpoint = wire.endpoint(self.id);
            endpoint
                .start(local, inbox)
                .map_err(|error| NotStarted::Unexpected(error.to_string()))?;
            let join = Join {
                nonce: seed,
                name: NAME.to_string(),
                node: node_id(self.id),
            };
            self.process = Process::Joining(Box::new(Joining {
                join,
                peers: others,
                storage,
                replies,
                ask_at: now,
            }));
            return Ok(());
        }
        let builder = builder
            .storage(storage.clone())
            .transport(wire.endpoint(self.id))
            .clock(self.clock.clone())
            .deterministic(seed, self.boots);
        let mut parts = builder.assemble().map_err(|error| match error {
            StartError::Storage(error) => self.not_started(error.to_string()),
            error => NotStarted::Unexpected(error.to_string()),
        })?;
        if let Err(lost) = self.disk.check(&*storage) {
            // A store that lacks something must have refused to open.
            return Err(NotStarted::Unexpected(lost));
        }
        parts.driver.replica_mut().begin_witness();
        self.process = Process::Up(Box::new(Up {
            voters: voters(&parts),
            parts,
            snapshotter: Snapshotter::new(storage, Arc::new(self.clock.clone())),
            write: None,
            waiting: None,
            snapshots: VecDeque::new(),
            next_turn: now,
        }));
        Ok(())
    }

    fn not_started(&self, reason: String) -> NotStarted {
        match self.disk.excuse {
            Some(_) => NotStarted::Storage(reason),
            None => NotStarted::Unexpected(reason),
        }
    }

    pub(super) fn up(&self) -> Option<&Up> {
        match &self.process {
            Process::Up(up) => Some(up),
            _ => None,
        }
    }

    /// When there is something to do next.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        if self.paused_until.is_some() {
            return None;
        }
        match &self.process {
            Process::Up(up) => {
                let mut next = match up.parts.driver.has_work() {
                    true => up.next_turn.min(now + TURN),
                    false => self
                        .clock
                        .when(up.parts.driver.next_turn())
                        .max(up.next_turn),
                };
                if let Some((at, _)) = &up.write {
                    next = next.min(*at);
                }
                if let Some((at, _)) = up.snapshots.front() {
                    next = next.min(*at);
                }
                Some(next)
            }
            Process::Joining(joining) if joining.replies.is_empty() => Some(joining.ask_at),
            Process::Joining(_) => Some(now),
            _ => None,
        }
    }

    /// Does what is due. `latency` says how long the disk takes for what it begins now.
    pub(super) fn work(&mut self, now: Duration, mut latency: impl FnMut() -> Duration) -> Worked {
        let mut worked = Worked::default();
        let Process::Up(up) = &mut self.process else {
            return worked;
        };
        if self.paused_until.is_some() {
            return worked;
        }
        let up = &mut **up;
        if let Some((at, _)) = &up.write
            && *at <= now
            && let Some((_, job)) = up.write.take()
        {
            match self.disk.write(&up.parts.storage, job, &self.clock) {
                Ok((done, appended)) => {
                    worked.appended = appended;
                    up.report(done);
                }
                Err(error) => up.report(Done::Failed(error)),
            }
        }
        while let Some((at, _)) = up.snapshots.front()
            && *at <= now
            && let Some((_, job)) = up.snapshots.pop_front()
        {
            if let Some(done) = up.snapshotter.run(job) {
                up.report(done);
            }
        }
        let driver = &mut up.parts.driver;
        if up.next_turn <= now && (driver.has_work() || self.clock.when(driver.next_turn()) <= now)
        {
            up.voters = voters_of(driver.replica().configuration());
            worked.turned = true;
            if !driver.turn(self.clock.now()) {
                let stopped = up.parts.shared.status().stopped;
                worked.stopped = Some(stopped.unwrap_or_default());
            }
            up.next_turn = now + TURN;
        }
        if up.write.is_none() {
            let first = up
                .waiting
                .take()
                .or_else(|| up.parts.writes.try_recv().ok());
            if let Some(first) = first {
                // Whatever has come while the disk was busy shares one sync.
                let (job, waiting) = workers::joined(first, &up.parts.writes);
                up.waiting = waiting;
                up.write = Some((now + latency(), job));
            }
        }
        for job in up.parts.snapshots.try_iter() {
            if matches!(job, SnapshotJob::Hasten) {
                // A snapshot is made at once here.
                continue;
            }
            let after = up.snapshots.back().map_or(now, |(at, _)| (*at).max(now));
            up.snapshots.push_back((after + latency(), job));
        }
        worked
    }

    /// Lets a node that joins ask, and hear. True when it knows its cluster and can be started.
    pub(super) fn ask(&mut self, wire: &Wire, now: Duration) -> Result<bool, JoinError> {
        let Process::Joining(joining) = &mut self.process else {
            return Ok(false);
        };
        while let Ok(reply) = joining.replies.try_recv() {
            if let Some(answer) = join::answered(&joining.join, &reply) {
                let welcome = answer?;
                let peers: Vec<_> = joining.peers.iter().map(|&id| node_id(id)).collect();
                // A disk that fails here leaves a node that asks again.
                let bound = bind_joined(&*joining.storage, welcome, joining.join.node, &peers);
                wire.endpoint(self.id).stop();
                self.process = Process::Down;
                if bound.is_ok() {
                    self.joined_as_of = Some(welcome.as_of);
                }
                return Ok(bound.is_ok());
            }
        }
        if joining.ask_at <= now {
            joining.ask_at = now + ASK_AGAIN;
            let question = join::question(&joining.join);
            let endpoint = wire.endpoint(self.id);
            for &peer in &joining.peers {
                let from = joining.join.node;
                let to = node_id(peer);
                endpoint.send(Message::new(ClusterId(0), from, to, question.clone()));
            }
        }
        Ok(false)
    }

    /// The process is gone, in the middle of whatever its disk is at: `steps` says how far that comes.
    /// Whoever waits for its answers learns that there will be none.
    pub(super) fn end(&mut self, wire: &Wire, steps: u64, process: Process) {
        wire.endpoint(self.id).stop();
        self.paused_until = None;
        let before = std::mem::replace(&mut self.process, process);
        if let Process::Up(mut up) = before {
            if let Some((_, job)) = up.write.take() {
                self.disk.stop_after(steps);
                // As far as it comes, and nobody hears of it.
                let _ = self.disk.write(&up.parts.storage, job, &self.clock);
            } else if let Some((_, job)) = up.snapshots.pop_front() {
                self.disk.stop_after(steps);
                drop(up.snapshotter.run(job));
            }
            up.parts.driver.stop(
                &Error::Stopped {
                    reason: "its process is gone".to_string(),
                },
                Cause::Failure,
            );
        }
    }
}

/// The name of a simulated cluster.
pub(super) const NAME: &str = "simulation";

fn voters(parts: &Assembly) -> Vec<Vec<u64>> {
    voters_of(parts.driver.replica().configuration())
}

/// The sets of voters whose majorities decide.
pub(super) fn voters_of(configuration: &crate::storage::Configuration) -> Vec<Vec<u64>> {
    let numbers = |nodes: &[crate::NodeId]| nodes.iter().map(|id| id.as_u64()).collect();
    let mut sets = vec![numbers(&configuration.voters)];
    if !configuration.voters_outgoing.is_empty() {
        sets.push(numbers(&configuration.voters_outgoing));
    }
    sets
}

//! `/zookeeper/config`, and `reconfig`: the cluster's membership in ZooKeeper's words.
//!
//! Who takes part is in Raft's log; where everybody is the servers know, each of itself. So the znode is
//! written like any other, through the log: by each server for its own line, by the leader's server for
//! what isn't so any more, and by the client that asked for a change. A write names the version that it
//! was made from, so one that was overtaken is made anew. One thread does all of it, one thing at a time.
//!
//! The invariant: the znode says nothing that wasn't the membership at some moment, and soon after
//! the last change says that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::Shared;
use super::ensemble::{Address, Ensemble, Misstated, Server};
use crate::{
    AuthId, Error, NodeId, NodeStatus, Pending, Permissions, Reconfiguration, Result, Role,
    Session, Stat, Version,
};

/// Where the configuration is.
pub(super) const CONFIG: &str = "/zookeeper/config";
/// How often it is compared with what is so.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long a step of a change may take.
const STEP_PATIENCE: Duration = Duration::from_secs(15);
/// How soon it is asked again.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// What a client asks for (`ReconfigRequest`). Texts that are empty ask for nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub joining: String,
    pub leaving: String,
    /// All members, instead of those two.
    pub members: String,
    /// The version that it is to be made from; -1 is any.
    pub from: i64,
}

/// What becomes of the request: the new configuration and the znode's stat.
pub(super) type Outcome = std::result::Result<(String, Stat), Refusal>;

/// Why nothing is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    Error(Error),
    /// The request isn't understood (ZooKeeper's MarshallingError).
    Unreadable,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

impl From<Misstated> for Refusal {
    fn from(misstated: Misstated) -> Refusal {
        match misstated {
            Misstated::Wrong(reason) => Error::BadArguments { reason }.into(),
            Misstated::Unreadable(_) => Refusal::Unreadable,
        }
    }
}

/// A change that a client waits for.
pub(super) struct Job {
    pub session: Session,
    pub change: Change,
    pub answer: oneshot::Sender<Outcome>,
}

/// The queue of changes: one at a time, as ZooKeeper has it.
pub(super) fn queue() -> (Sender<Job>, Receiver<Job>) {
    crossbeam_channel::bounded(1)
}

/// Keeps the znode right until the server stops.
pub(super) fn run(shared: &Arc<Shared>, jobs: &Receiver<Job>) {
    while !shared.stopping() {
        match jobs.recv_timeout(INTERVAL) {
            Ok(job) => {
                let outcome = ChangeUnderWay { shared, job: &job }.carry_out();
                shared.changing.store(false, Ordering::Release);
                // Its client may be gone; what was changed stays.
                let _ = job.answer.send(outcome);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // What can't be written now is written the next time.
        let _ = keep(shared);
    }
}

/// Writes what this server is to answer for, where the znode says something else.
fn keep(shared: &Shared) -> Result<()> {
    let status = shared.look();
    let Some(advertised) = &shared.settings.advertised else {
        return Ok(());
    };
    if !shared.has_leader() || status.is_joint {
        return Ok(());
    }
    let (known, version) = shared.ensemble_with_version()?;
    let wanted = wanted(&known, &status, advertised, shared);
    if wanted.servers == known.servers {
        return Ok(());
    }
    let pending = shared.node.session().open();
    let session = within(pending, STEP_PATIENCE)?;
    // Only a super user may write there; the node's own server is one.
    within(session.add_auth(AuthId::new("super", "")), STEP_PATIENCE)?;
    let written = session.set(CONFIG, next(wanted).to_string(), version);
    let written = within(written, STEP_PATIENCE);
    within(session.close(), STEP_PATIENCE)?;
    written.map(drop)
}

/// What the znode should say, as far as it is for this server to say so.
fn wanted(
    known: &Ensemble,
    status: &NodeStatus,
    advertised: &Address,
    shared: &Shared,
) -> Ensemble {
    let mut wanted = known.clone();
    if is_member(status, status.id.as_u64()) {
        let own = own_line(status, advertised, shared);
        wanted.servers.insert(status.id.as_u64(), own);
    }
    if status.role == Role::Leader {
        wanted.servers.retain(|&id, _| is_member(status, id));
        for (&id, server) in &mut wanted.servers {
            server.is_participant = is_in(&status.voters, id);
        }
    }
    wanted
}

fn own_line(status: &NodeStatus, advertised: &Address, shared: &Shared) -> Server {
    let client = match &shared.settings.advertised_client {
        Some(client) => client.clone(),
        None => Address::of(shared.address),
    };
    Server {
        peer: advertised.clone(),
        election_port: advertised.port(),
        is_participant: is_in(&status.voters, status.id.as_u64()),
        client: Some(client),
    }
}

fn next(mut ensemble: Ensemble) -> Ensemble {
    ensemble.version += 1;
    ensemble
}

fn is_in(nodes: &[NodeId], id: u64) -> bool {
    nodes.iter().any(|node| node.as_u64() == id)
}

fn is_member(status: &NodeStatus, id: u64) -> bool {
    is_in(&status.voters, id) || is_in(&status.learners, id)
}

fn within<T>(mut pending: Pending<T>, patience: Duration) -> Result<T> {
    pending.wait_timeout(patience)
}

/// A change under way.
struct ChangeUnderWay<'a> {
    shared: &'a Shared,
    job: &'a Job,
}

impl ChangeUnderWay<'_> {
    /// In ZooKeeper's order of checks, but that a quorum of the new participants is looked for last: it is
    /// by being added that they are heard of.
    fn carry_out(&self) -> Outcome {
        let (shared, session) = (self.shared, &self.job.session);
        if shared.settings.advertised.is_none() {
            return Err(Error::Unimplemented {
                what: "reconfig of a node that has no way to others",
            }
            .into());
        }
        let status = shared.look();
        if status.is_joint {
            return Err(Error::ReconfigInProgress.into());
        }
        let (known, version) = shared.ensemble_with_version()?;
        let change = &self.job.change;
        if change.from != -1 && change.from as u64 != known.version {
            return Err(Error::BadVersion {
                path: CONFIG.to_string(),
                expected: Version(change.from as i32),
                found: version.0,
            }
            .into());
        }
        let target = self.target(&known, &status)?;
        target.check(&status)?;
        if !within(session.may(CONFIG, Permissions::WRITE), STEP_PATIENCE)? {
            return Err(Error::NoAuth {
                path: CONFIG.to_string(),
                permission: "write",
            }
            .into());
        }
        self.change_members(&target, &status)?;
        let written = self.write(&target)?;
        if target.leaving.contains(&status.id) {
            // The last thing that this server sees; it is asked for, and answered by the cluster.
            drop(shared.node.remove(status.id));
        }
        Ok(written)
    }

    /// What is to be. A change in parts leaves alone whom it doesn't name, also where no line does.
    fn target(
        &self,
        known: &Ensemble,
        status: &NodeStatus,
    ) -> std::result::Result<Target, Misstated> {
        let change = &self.job.change;
        let members = || status.voters.iter().chain(&status.learners).copied();
        if !change.members.is_empty() {
            let ensemble = Ensemble::parse(&change.members)?;
            if !ensemble
                .servers
                .values()
                .any(|server| server.is_participant)
            {
                // ZooKeeper doesn't get as far as to understand it.
                let reason = "there must be a participant".to_string();
                return Err(Misstated::Unreadable(reason));
            }
            let leaving = members().filter(|id| !ensemble.servers.contains_key(&id.as_u64()));
            return Ok(Target {
                leaving: leaving.collect(),
                ensemble,
            });
        }
        let mut ensemble = known.clone();
        let mut leaving = Vec::new();
        if !change.leaving.is_empty() {
            leaving = ensemble.leave(&change.leaving)?;
        }
        if !change.joining.is_empty() {
            ensemble.join(&change.joining)?;
        }
        let goes = |id: &NodeId| {
            leaving.contains(&id.as_u64()) && !ensemble.servers.contains_key(&id.as_u64())
        };
        Ok(Target {
            leaving: members().filter(goes).collect(),
            ensemble,
        })
    }

    /// Adds who is new, as learners first; who votes changes in one step, when those have caught up.
    fn change_members(&self, target: &Target, status: &NodeStatus) -> Result<()> {
        let node = &self.shared.node;
        let mut added = Vec::new();
        let mut changed = Ok(());
        for (id, _) in target.servers() {
            if is_member(status, id.as_u64()) {
                continue;
            }
            changed = within(node.add_learner(id), STEP_PATIENCE).map(drop);
            if changed.is_err() {
                break;
            }
            added.push(id);
        }
        let changed = changed.and_then(|()| self.reconfigure(&target.change(status)));
        if let Err(error) = &changed
            && !error.outcome_unknown()
        {
            for id in added {
                // What was begun is taken back. Where that fails, too, the znode will say so.
                let _ = within(node.remove(id), STEP_PATIENCE);
            }
        }
        changed
    }

    /// Changes who votes, as soon as the learners have caught up.
    fn reconfigure(&self, change: &Reconfiguration) -> Result<()> {
        let deadline = Instant::now() + self.shared.settings.reconfig_patience;
        let is_over = || Instant::now() >= deadline || self.shared.stopping();
        while !change.is_empty() {
            let mut asked = self.shared.node.reconfigure(change.clone());
            // Asked once it may happen, however late: it isn't asked for anew meanwhile.
            let answer = loop {
                match asked.wait_timeout(STEP_PATIENCE) {
                    Err(Error::Timeout) if !is_over() => {}
                    answer => break answer,
                }
            };
            match answer {
                Err(
                    Error::LearnerBehind { .. }
                    | Error::MemberSilent { .. }
                    | Error::ReconfigInProgress,
                ) if !is_over() => std::thread::sleep(CATCH_UP_INTERVAL),
                answer => return answer.map(drop),
            }
        }
        Ok(())
    }

    /// Writes the new configuration, as the client.
    fn write(&self, target: &Target) -> Outcome {
        loop {
            let (known, version) = self.shared.ensemble_with_version()?;
            let wanted = Ensemble {
                servers: target.ensemble.servers.clone(),
                version: known.version,
            };
            let text = next(wanted).to_string();
            let pending = self.job.session.set(CONFIG, &text, version);
            match within(pending, STEP_PATIENCE) {
                // A server has written its line meanwhile; this node may not have seen it yet.
                Err(Error::BadVersion { .. }) if !self.shared.stopping() => {
                    within(self.job.session.sync(), STEP_PATIENCE)?;
                }
                written => return Ok((text, written?)),
            }
        }
    }
}

/// What a change is to come to.
struct Target {
    ensemble: Ensemble,
    /// Those who are members and are to be none.
    leaving: Vec<NodeId>,
}

impl Target {
    fn servers(&self) -> impl Iterator<Item = (NodeId, &Server)> {
        let servers = self.ensemble.servers.iter();
        servers.filter_map(|(&id, server)| Some((NodeId::new(id)?, server)))
    }

    /// What of it is one step: all but adding learners, and but for this server, which goes last.
    fn change(&self, status: &NodeStatus) -> Reconfiguration {
        let mut change = Reconfiguration::new();
        for (id, server) in self.servers() {
            match (server.is_participant, status.voters.contains(&id)) {
                (true, false) => change = change.promote(id),
                (false, true) => change = change.demote(id),
                _ => {}
            }
        }
        let others = self.leaving.iter().filter(|id| **id != status.id);
        others.fold(change, |change, &id| change.remove(id))
    }

    /// Says what can't be.
    fn check(&self, status: &NodeStatus) -> Result<()> {
        let refused = |reason: String| Err(Error::BadArguments { reason });
        let becomes_observer = |id: &NodeId| {
            let mut servers = self.servers();
            servers.any(|(server, line)| server == *id && !line.is_participant)
        };
        let stays = |id: &NodeId| !self.leaving.contains(id) && !becomes_observer(id);
        let joins = self.servers().any(|(_, server)| server.is_participant);
        if !joins && !status.voters.iter().any(stays) {
            return refused("somebody has to decide: there must be a participant".to_string());
        }
        Ok(())
    }
}

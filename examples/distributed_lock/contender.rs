//! A contender: takes the lock, does protected work, and outlives the node that it talks to.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use quorate::recipes::Lock;
use quorate::{CreateMode, Error, OpResult, Session, Version};

use crate::cluster::Cluster;
use crate::{AnyError, PATIENCE};

const LOCK: &str = "/locks/work";
/// Each critical section leaves a znode here.
pub(crate) const SECTIONS: &str = "/sections";
/// Counts the critical sections. Nothing but the lock protects it from lost updates.
pub(crate) const COUNTER: &str = "/counter";

/// What a contender tells.
pub(crate) enum Story {
    Finished(String),
    Said(String),
    Failed(&'static str, AnyError),
}

pub(crate) struct Contender {
    name: &'static str,
    /// The node that the session is attached to.
    at: u64,
    session: Session,
    cluster: Arc<Cluster>,
    stories: Sender<Story>,
}

impl Contender {
    pub(crate) fn new(
        name: &'static str,
        at: u64,
        cluster: Arc<Cluster>,
        stories: Sender<Story>,
    ) -> Result<Contender, AnyError> {
        let session = cluster.open_session(at)?;
        Ok(Contender {
            name,
            at,
            session,
            cluster,
            stories,
        })
    }

    /// Goes through its critical sections, whatever happens to its node.
    pub(crate) fn run(mut self, turns: u32) {
        for _ in 0..turns {
            while let Err(error) = self.critical_section() {
                // A session that is over has to be taken up elsewhere; anything else is a failure.
                let over = self.session.state().is_final();
                if let Err(error) = if over {
                    self.reconnect(&error)
                } else {
                    Err(error)
                } {
                    let _ = self.stories.send(Story::Failed(self.name, error));
                    return;
                }
            }
        }
    }

    /// Two transactions under the lock. Each fails if the lock was lost.
    fn critical_section(&self) -> Result<(), AnyError> {
        let session = &self.session;
        let lock = Lock::new(session, LOCK).data(self.name);
        let guard = lock.acquire().wait_timeout(PATIENCE)?;
        let (name, token) = (self.name, guard.fencing_token());

        let entry = format!("{token} {name} entered");
        let multi = guard.check(session.multi());
        let multi = multi.create(
            &format!("{SECTIONS}/s-"),
            &entry,
            CreateMode::PersistentSequential,
        );
        let results = multi.commit().wait_timeout(PATIENCE)?;
        let Some(OpResult::Created { path, stat }) = results.last() else {
            return Err("a creation gives a path".into());
        };

        // The session sees its own write, so it sees what the holder before it has written.
        let (count, _) = session.get(COUNTER).wait()?;
        let count: u64 = std::str::from_utf8(&count)?.parse()?;
        std::thread::sleep(Duration::from_millis(2));
        let count = count + 1;

        let exit = format!("{token} {name} finished {count}");
        let multi = guard.check(session.multi());
        let multi = multi.set(COUNTER, count.to_string(), Version::ANY);
        multi
            .set(path, exit, Version::ANY)
            .commit()
            .wait_timeout(PATIENCE)?;
        guard.release().wait_timeout(PATIENCE)?;

        let (at, entered) = (self.at, stat.czxid);
        let line = format!(
            "token {token:>5}  {name:<5} on node {at} entered at {entered}, made it {count}"
        );
        self.stories.send(Story::Finished(line))?;
        Ok(())
    }

    /// Attaches the session on the next node that runs; opens another where the old one has expired.
    fn reconnect(&mut self, error: &AnyError) -> Result<(), AnyError> {
        let (name, credentials) = (self.name, self.session.credentials());
        self.say(format!("{name} on node {}: {error}", self.at))?;
        for _ in 0..3 {
            self.at = self.at % 3 + 1;
            self.session = match self.cluster.attach_session(self.at, &credentials) {
                Ok(session) => session,
                Err(Error::Stopped { .. } | Error::OutcomeUnknown { .. }) => continue,
                Err(Error::SessionExpired { .. }) => self.cluster.open_session(self.at)?,
                Err(error) => return Err(error.into()),
            };
            let id = self.session.id();
            return self.say(format!(
                "{name} is on node {} now, with session {id}",
                self.at
            ));
        }
        Err("no node takes the session".into())
    }

    fn say(&self, line: String) -> Result<(), AnyError> {
        Ok(self
            .stories
            .send(Story::Said(format!("             {line}")))?)
    }
}

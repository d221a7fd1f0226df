//! Does what the words ask for. It knows nothing of terminals.
//!
//! The session is opened when the first command needs it, and anew when it was lost: so a node that has
//! no leader yet can be looked at, and a cluster can be put right from a shell that was cut off.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::recipes::{Lock, LockGuard};
use quorate::{
    CreateMode, Error, Members, Node, NodeId, Pending, Session, Version, WatchKind, Watcher,
};

use crate::commands::{Command, Create, Read};
use crate::completion::Reading;
use crate::events;
use crate::options::{Options, Started};
use crate::output::Output;
use crate::texts;

/// The events of watches that may wait to be told.
const EVENTS_MAX: usize = 1_000;
/// How long a refused change of membership is left alone.
const PAUSE: Duration = Duration::from_millis(50);
/// How long the end may take: the rest the session's timeout does.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a command says, or why it failed.
type Answer = Result<String, String>;

pub(crate) struct Shell {
    // Dropped in this order: locks before their session, the session before its node.
    locks: BTreeMap<String, LockGuard>,
    open: Option<Open>,
    started: Started,
    session_timeout: Duration,
    patience: Patience,
    output: Output,
    reading: Reading,
}

/// How long a command may take.
#[derive(Clone, Copy)]
struct Patience(Duration);

impl Patience {
    fn within<T>(self, mut pending: Pending<T>) -> Result<T, String> {
        let answer = pending.wait_timeout(self.0);
        answer.map_err(|error| error.to_string())
    }
}

/// A session, and who tells of its watches.
struct Open {
    session: Session,
    watcher: Watcher,
}

impl Shell {
    pub(crate) fn new(
        started: Started,
        options: &Options,
        output: Output,
        reading: Reading,
    ) -> Shell {
        Shell {
            locks: BTreeMap::new(),
            open: None,
            started,
            session_timeout: options.session_timeout(),
            patience: Patience(options.patience()),
            output,
            reading,
        }
    }

    /// Fails only where nobody reads the answer.
    pub(crate) fn execute(&mut self, command: Command) -> io::Result<()> {
        match self.answer(command) {
            Ok(text) => self.output.answer(text),
            Err(text) => self.output.answer(format_args!("error: {text}")),
        }
    }

    /// Releases what is held, and stops the node.
    pub(crate) fn quit(mut self) {
        self.output.hush();
        self.locks.clear();
        self.reading.set(None);
        if let Some(open) = self.open.take() {
            let _ = open.session.close().wait_timeout(FAREWELL);
        }
        self.started.node.shutdown();
    }

    fn answer(&mut self, command: Command) -> Answer {
        match command {
            Command::Create(create) => self.create(&create),
            Command::Get(read) => {
                let (data, _) = self.patience.within(self.reader(&read)?.get(&read.path))?;
                Ok(texts::data(&data))
            }
            Command::Set {
                path,
                data,
                version,
            } => {
                let version = version.map_or(Version::ANY, Version);
                let stat = self
                    .patience
                    .within(self.session()?.set(&path, data, version))?;
                Ok(format!(
                    "set {path}, which has version {} now",
                    stat.version
                ))
            }
            Command::Delete { path, version } => {
                let version = version.map_or(Version::ANY, Version);
                self.patience
                    .within(self.session()?.delete(&path, version))?;
                Ok(format!("deleted {path}"))
            }
            Command::Ls { path, linearizable } => {
                let read = Read { path, linearizable };
                let (names, _) = self
                    .patience
                    .within(self.reader(&read)?.children(&read.path))?;
                Ok(texts::names(names.iter().map(AsRef::as_ref)))
            }
            Command::Stat(read) => match self
                .patience
                .within(self.reader(&read)?.exists(&read.path))?
            {
                Some(stat) => Ok(texts::stat(&stat)),
                None => Err(Error::NoNode { path: read.path }.to_string()),
            },
            Command::Watch { path, recursive } => self.watch(&path, recursive),
            Command::Unwatch { path } => self.unwatch(&path),
            Command::Lock { path, r#try } => self.lock(path, r#try),
            Command::Unlock { path } => self.unlock(&path),
            Command::Sync => {
                self.patience.within(self.session()?.sync())?;
                Ok(format!("caught up to write {}", self.node().zxid()))
            }
            Command::Session => self.describe_session(),
            Command::Members => Ok(texts::member_list(
                &self.node().status(),
                &self.started.address,
                &self.started.peers,
            )),
            Command::Status => Ok(texts::status(&self.node().status())),
            Command::Add { id, address } => {
                if let Some(address) = address {
                    self.started.peers.set(id, address);
                }
                self.change(|node| Ok(node.add_learner(node_id(id)?)))
            }
            Command::Promote { id } => self.change(|node| Ok(node.promote(node_id(id)?))),
            Command::Demote { id } => self.change(|node| Ok(node.demote(node_id(id)?))),
            Command::Remove { id } => self.change(|node| Ok(node.remove(node_id(id)?))),
            Command::Replace { old, new } => {
                self.change(|node| Ok(node.replace(node_id(old)?, node_id(new)?)))
            }
            Command::Transfer { to } => {
                self.change(|node| Ok(node.transfer_leadership(node_id(to)?)))?;
                Ok(format!("node {to} leads"))
            }
            Command::Leave => self.change(|node| Ok(node.leave())),
            Command::Backup { file } => self.backup(&file),
            // Whoever reads the lines ends there.
            Command::Quit => Ok("bye".to_owned()),
        }
    }

    fn node(&self) -> &Node {
        &self.started.node
    }

    // ---- The session --------------------------------------------------------------------------

    fn session(&mut self) -> Result<Session, String> {
        if let Some(open) = &self.open {
            if !open.session.state().is_final() {
                return Ok(open.session.clone());
            }
            self.locks.clear();
            self.open = None;
            self.reading.set(None);
        }
        let opening = self.node().session().timeout(self.session_timeout).open();
        let session = self.patience.within(opening).map_err(|error| {
            let status = self.node().status();
            match status.leader.is_none() && status.stopped.is_none() {
                true => format!("{error}: no leader is known; does a majority of the voters run?"),
                false => error,
            }
        })?;
        let watcher = session.watcher(EVENTS_MAX);
        events::tell_of_watches(&watcher, &self.output);
        self.output
            .event(format_args!("session {} is open", session.id()));
        self.reading.set(Some(session.clone()));
        self.open = Some(Open {
            session: session.clone(),
            watcher,
        });
        Ok(session)
    }

    fn watcher(&mut self) -> Result<&Open, String> {
        self.session()?;
        self.open.as_ref().ok_or_else(|| "no session".to_owned())
    }

    fn reader(&mut self, read: &Read) -> Result<Session, String> {
        let session = self.session()?;
        Ok(match read.linearizable {
            true => session.linearizable(),
            false => session,
        })
    }

    fn describe_session(&mut self) -> Answer {
        let session = self.session()?;
        let ephemerals = self.patience.within(session.ephemerals("/"))?;
        Ok(format!(
            "session {} with a timeout of {:?}: {}\nephemerals  {}\nlocks       {}",
            session.id(),
            session.timeout(),
            texts::session_state(session.state()),
            texts::names(ephemerals.iter().map(|path| path.as_str())),
            texts::names(self.locks.keys().map(String::as_str)),
        ))
    }

    // ---- Znodes -------------------------------------------------------------------------------

    fn create(&mut self, create: &Create) -> Answer {
        let mode = match (create.ephemeral, create.sequential, create.ttl_ms) {
            (true, true, _) => CreateMode::EphemeralSequential,
            (true, false, _) => CreateMode::Ephemeral,
            (false, true, Some(ttl_ms)) => CreateMode::PersistentSequentialWithTtl { ttl_ms },
            (false, false, Some(ttl_ms)) => CreateMode::PersistentWithTtl { ttl_ms },
            (false, true, None) => CreateMode::PersistentSequential,
            (false, false, None) if create.container => CreateMode::Container,
            (false, false, None) => CreateMode::Persistent,
        };
        let creating = self.session()?.create(&create.path, &create.data, mode);
        Ok(format!("created {}", self.patience.within(creating)?.path))
    }

    fn watch(&mut self, path: &str, recursive: bool) -> Answer {
        let kind = match recursive {
            true => WatchKind::PersistentRecursive,
            false => WatchKind::Persistent,
        };
        let open = self.watcher()?;
        let watched = open.session.watch(path, kind, &open.watcher);
        let zxid = watched.map_err(|error| error.to_string())?;
        Ok(format!("watching {path} from write {zxid} on"))
    }

    fn unwatch(&mut self, path: &str) -> Answer {
        let open = self.watcher()?;
        let kinds = [WatchKind::Persistent, WatchKind::PersistentRecursive];
        let results = kinds.map(|kind| open.watcher.remove(path, kind));
        if results.iter().any(Result::is_ok) {
            return Ok(format!("no longer watching {path}"));
        }
        let [error, _] = results;
        Err(error.err().map_or_else(String::new, |e| e.to_string()))
    }

    // ---- Locks --------------------------------------------------------------------------------

    fn lock(&mut self, path: String, only_try: bool) -> Answer {
        let session = self.session()?;
        if self.locks.get(&path).is_some_and(LockGuard::is_held) {
            return Err(format!("this shell holds {path} already"));
        }
        let lock = Lock::new(&session, &path).data(format!("node {}", self.node().id()));
        let guard = match only_try {
            true => lock.try_acquire().wait_timeout(self.patience.0),
            false => lock.acquire().wait_timeout(self.patience.0).map(Some),
        };
        match guard.map_err(|error| error.to_string())? {
            None => Err(format!("somebody else holds {path}")),
            Some(guard) => {
                let token = guard.fencing_token();
                self.locks.insert(path.clone(), guard);
                Ok(format!("holding {path}, fencing token {token}"))
            }
        }
    }

    fn unlock(&mut self, path: &str) -> Answer {
        let guard = self.locks.remove(path);
        let guard = guard.ok_or_else(|| format!("this shell doesn't hold {path}"))?;
        let released = guard.release().wait_timeout(self.patience.0);
        released.map_err(|error| error.to_string())?;
        Ok(format!("released {path}"))
    }

    // ---- The cluster --------------------------------------------------------------------------

    /// Asks again while the answer is that something else is under way, or not yet so.
    fn change(&self, ask: impl Fn(&Node) -> Result<Pending<Members>, String>) -> Answer {
        let deadline = Instant::now() + self.patience.0;
        let mut told = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match ask(self.node())?.wait_timeout(left) {
                Ok(members) => return Ok(texts::members(&members)),
                Err(error)
                    if error.is_retryable()
                        && !error.outcome_unknown()
                        && Instant::now() < deadline =>
                {
                    if !told {
                        self.output.event(format_args!("not yet: {error}"));
                    }
                    told = true;
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    fn backup(&self, file: &Path) -> Answer {
        let name = file.display();
        let created = File::create_new(file).map_err(|error| format!("{name}: {error}"))?;
        let mut writer = BufWriter::new(created);
        let backup = self.node().backup(&mut writer).map_err(|e| e.to_string());
        let written = backup.and_then(|backup| {
            let synced = writer.flush().and_then(|()| writer.get_ref().sync_all());
            synced.map_err(|error| format!("{name}: {error}"))?;
            Ok(backup)
        });
        match written {
            Ok(backup) => Ok(format!(
                "{} bytes in {name}, as of write {}",
                backup.bytes, backup.zxid
            )),
            Err(text) => {
                // Half a backup is none.
                let _ = std::fs::remove_file(file);
                Err(text)
            }
        }
    }
}

fn node_id(id: u64) -> Result<NodeId, String> {
    NodeId::new(id).ok_or_else(|| "0 is no node's id".to_owned())
}

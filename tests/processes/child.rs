//! One process of a cluster: a node over TCP, and the work that it does as its own client.
//!
//! The process is the test's own executable, told by its environment to run one test alone. It is told what
//! to do by lines on its input, and says on its output what has come of it, a line each, before it takes the
//! next step. When its input ends it ends, so that none is left over. It judges nothing.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quorate::recipes::{Lock, LockGuard};
use quorate::transport::{Peers, Tcp};
use quorate::{
    CreateMode, Created, Error, Node, NodeId, OpResult, Pending, Session, SessionState, Version,
};
use rustix::time::{ClockId, clock_gettime};

use crate::certificates::Files;
use crate::process::{Order, PATIENCE};

/// The variable that makes the test below a process of a cluster.
pub(crate) const VARIABLE: &str = "QUORATE_PROCESS";
/// Below which the work leaves its traces.
const PARENTS: [&str; 3] = ["/work", "/counters", "/live"];
/// How many writes of one session are on their way at once.
const OUTSTANDING: usize = 8;
/// Leaves the processors to others.
const PAUSE: Duration = Duration::from_millis(3);
/// How often a holder looks whether it holds the lock, before it lets go.
const LOOKS: usize = 5;

/// The time of the machine's monotonic clock, which is the same in all processes.
pub(crate) fn machine_time() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Says a line. Not by `println!`, which the test harness may hold back; and with a line break before it, as
/// the harness may have begun a line.
fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let said = out.write_all(format!("\n@{line}\n").as_bytes());
    if said.and_then(|()| out.flush()).is_err() {
        // Nobody listens any more.
        std::process::exit(3);
    }
}

/// Does what its parent says, until its input ends or its node stops.
pub(crate) fn run(order: &Order) {
    std::panic::set_hook(Box::new(|panic| {
        say(format_args!(
            "failed {}",
            panic.to_string().replace('\n', " ")
        ));
    }));
    let mut builder = Tcp::builder(&order.listen);
    if let Some(dir) = &order.tls {
        builder = builder.tls(Files::at(dir).config());
    }
    let tcp = builder.bind().expect("an address to listen at");
    say(format_args!("listening {}", tcp.local_addr()));
    let peers = tcp.peers();
    let mut lines = std::io::stdin().lines().map_while(Result::ok);
    for line in lines.by_ref() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["peer", id, address] => set_peer(&peers, id, address),
            ["start"] => break,
            _ => panic!("before the start: {line:?}"),
        }
    }
    let builder = Node::builder(order.id)
        .transport(tcp)
        .data_dir(PathBuf::from(&order.dir))
        .join_patience(order.join_patience)
        .session_timeouts(Duration::from_millis(200), Duration::from_secs(60));
    let builder = match order.join {
        true => builder.join(order.first.iter().copied()),
        false => builder.voters(order.first.iter().copied()),
    };
    let node = match builder.start() {
        Ok(node) => Arc::new(node),
        Err(error) => return say(format_args!("refused {error}")),
    };
    say(format_args!("started {}", node.cluster()));
    let watched = node.clone();
    std::thread::spawn(move || {
        for event in watched.events() {
            if let quorate::NodeEvent::Removed = event {
                say("removed");
                std::process::exit(0);
            }
        }
        say(format_args!("stopped {:?}", watched.status().stopped));
        std::process::exit(1);
    });
    let work = Work {
        order: order.clone(),
        node,
        rests: Arc::default(),
        workers: Mutex::default(),
        sessions: Arc::default(),
        author: Arc::default(),
    };
    for line in lines {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["peer", id, address] => set_peer(&peers, id, address),
            ["work"] => work.begin(),
            ["rest"] => work.rest(),
            ["hold", lock] => work.hold(lock),
            ["prepare"] => work.prepare(),
            ["ask", what, id] => work.ask(what, id.parse().expect("a node's id")),
            ["status"] => work.say_status(),
            ["dump"] => work.say_dump(),
            ["digest"] => work.say_digest(),
            _ => panic!("no order: {line:?}"),
        }
    }
    // The parent is gone, or wants it so.
    std::process::exit(0);
}

fn set_peer(peers: &Peers, id: &str, address: &str) {
    peers.set(id.parse().expect("a node's id"), address);
}

struct Work {
    order: Order,
    node: Arc<Node>,
    rests: Arc<AtomicBool>,
    workers: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// Those in use, kept open while the work rests.
    sessions: Arc<Mutex<Vec<Session>>>,
    /// Whose ephemeral is there, once it is.
    author: Arc<Mutex<Option<(String, Session)>>>,
}

impl Work {
    fn begin(&self) {
        let writer = Worker::of(self);
        let contender = Worker::of(self);
        *self.workers.lock() = vec![
            std::thread::spawn(move || writer.write()),
            std::thread::spawn(move || contender.contend()),
        ];
    }

    /// Ends the work, not the sessions.
    fn rest(&self) {
        self.rests.store(true, Ordering::SeqCst);
        for worker in std::mem::take(&mut *self.workers.lock()) {
            let _ = worker.join();
        }
        say("rested");
    }

    fn hold(&self, lock: &str) {
        let (worker, lock) = (Worker::of(self), lock.to_owned());
        std::thread::spawn(move || worker.hold_until_lost(&lock));
    }

    /// Makes what the work needs.
    fn prepare(&self) {
        let session = within(self.node.session().open()).expect("a session");
        let mut multi = session.multi();
        for path in PARENTS.into_iter().chain(["/protected"]) {
            multi = multi.create(path, "", CreateMode::Persistent);
        }
        within(multi.commit()).expect("what the work needs");
        let _ = within(session.close());
        say("prepared");
    }

    /// Asks for a change of membership, again while the answer is that something else is under way.
    fn ask(&self, what: &str, id: u64) {
        let node = NodeId::new(id).expect("a node's id");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = match what {
                "add" => self.node.add_learner(node),
                "promote" => self.node.promote(node),
                "remove" => self.node.remove(node),
                "transfer" => self.node.transfer_leadership(node),
                _ => panic!("no change is called {what}"),
            };
            match within(asked) {
                Err(error) if error.is_retryable() && !error.outcome_unknown() => {
                    assert!(Instant::now() < deadline, "{what} {id}, still: {error}");
                    std::thread::sleep(PAUSE);
                }
                Err(error) => panic!("{what} {id}: {error}"),
                Ok(_) => return say(format_args!("changed {what} {id}")),
            }
        }
    }

    fn say_status(&self) {
        let status = self.node.status();
        let leader = status.leader.map_or(0, NodeId::as_u64);
        say(format_args!(
            "status {:?} {leader} {} {}",
            status.role, status.applied_index, status.zxid
        ));
    }

    /// A number for everything that this node's tree holds.
    fn say_digest(&self) {
        let session = within(self.node.session().open()).expect("a session");
        within(session.sync()).expect("a barrier");
        self.finds_its_own(&session);
        let mut hasher = crc32fast::Hasher::new();
        let mut paths = VecDeque::from(["/".to_owned()]);
        let mut znodes = 0;
        while let Some(path) = paths.pop_front() {
            let (data, stat) = within(session.get(&path)).expect("a znode");
            let (children, _) = within(session.children(&path)).expect("children");
            hasher.update(format!("{path} {stat:?} ").as_bytes());
            hasher.update(&data);
            znodes += 1;
            let parent = path.trim_end_matches('/');
            paths.extend(children.iter().map(|name| format!("{parent}/{name}")));
        }
        say(format_args!("digest {znodes} {:08x}", hasher.finalize()));
        let _ = within(session.close());
    }

    /// A session that lives has its ephemeral.
    fn finds_its_own(&self, reader: &Session) {
        let author = self.author.lock().clone();
        let Some((author, session)) = author else {
            return;
        };
        let is_connected = || session.state() == SessionState::Connected && session.is_certain();
        if is_connected() {
            let path = format!("/live/{author}");
            let found = within(reader.exists(&path)).expect("an answer").is_some();
            assert!(
                found || !is_connected(),
                "{path} is gone, its session is not"
            );
        }
    }

    /// Says what the tree holds of the work.
    fn say_dump(&self) {
        let session = within(self.node.session().open()).expect("a session");
        within(session.sync()).expect("a barrier");
        for parent in PARENTS {
            let (names, _) = within(session.children(parent)).expect("children");
            for name in names.iter() {
                let path = format!("{parent}/{name}");
                // One that vanishes meanwhile is not there.
                if let Ok((data, stat)) = within(session.get(&path)) {
                    let data = String::from_utf8_lossy(&data).into_owned();
                    say(format_args!("znode {path} {} {data}", stat.version));
                }
            }
        }
        let _ = within(session.close());
        say("dumped");
    }
}

/// A thread that works in one session after another.
struct Worker {
    order: Order,
    node: Arc<Node>,
    rests: Arc<AtomicBool>,
    sessions: Arc<Mutex<Vec<Session>>>,
    author: Arc<Mutex<Option<(String, Session)>>>,
}

impl Worker {
    fn of(work: &Work) -> Worker {
        Worker {
            order: work.order.clone(),
            node: work.node.clone(),
            rests: work.rests.clone(),
            sessions: work.sessions.clone(),
            author: work.author.clone(),
        }
    }

    fn open(&self) -> Session {
        loop {
            let builder = self.node.session().timeout(self.order.session_timeout);
            match within(builder.open()) {
                Ok(session) => {
                    let mut sessions = self.sessions.lock();
                    sessions.retain(|session| !session.state().is_final());
                    sessions.push(session.clone());
                    return session;
                }
                Err(error) if self.is_over(&error) => std::thread::sleep(PAUSE),
                Err(error) => panic!("no session: {error}"),
            }
        }
    }

    /// Whether a session may end with this error, as a session that is cut off does.
    fn is_over(&self, error: &Error) -> bool {
        matches!(
            error,
            Error::SessionExpired { .. }
                | Error::SessionMoved { .. }
                | Error::OutcomeUnknown { .. }
                | Error::Stopped { .. }
                | Error::Removed
        )
    }

    fn is_resting(&self) -> bool {
        self.rests.load(Ordering::SeqCst) || self.node.status().stopped.is_some()
    }

    // ---- Writes -------------------------------------------------------------------------------

    /// Numbered writes, in one session after another.
    fn write(&self) {
        for generation in 1.. {
            let session = self.open();
            let author = format!("{}.{}.{generation}", self.order.id, self.order.boot);
            say(format_args!("author {author} {}", session.id()));
            if !self.write_as(&author, &session) {
                return;
            }
            say(format_args!("lost {author}"));
        }
    }

    /// Whether to go on in another session.
    fn write_as(&self, author: &str, session: &Session) -> bool {
        let here = session.create(&format!("/live/{author}"), "", CreateMode::Ephemeral);
        let counter = session.create(&format!("/counters/{author}"), "", CreateMode::Persistent);
        for made in [within(here), within(counter)] {
            match made {
                Ok(_) => {}
                Err(error) if self.is_over(&error) => return true,
                Err(error) => panic!("{author} can't begin: {error}"),
            }
        }
        *self.author.lock() = Some((author.to_owned(), session.clone()));
        let mut calls = VecDeque::new();
        let mut lost = false;
        for number in 1.. {
            if lost || self.is_resting() {
                break;
            }
            calls.push_back((number, Write::call(session, author, number)));
            if calls.len() >= OUTSTANDING
                && let Some((number, write)) = calls.pop_front()
            {
                lost = self.answer(author, number, write);
                std::thread::sleep(PAUSE);
            }
        }
        for (number, write) in calls {
            lost |= self.answer(author, number, write);
        }
        lost && !self.is_resting()
    }

    /// Says what came of a write. Whether its session is over.
    fn answer(&self, author: &str, number: u64, write: Write) -> bool {
        match write.answer() {
            Ok(path) => {
                say(format_args!("acknowledged {author} {number} {path}"));
                false
            }
            Err(error) if error.outcome_unknown() => {
                say(format_args!("unknown {author} {number}"));
                true
            }
            Err(error) if self.is_over(&error) => {
                say(format_args!("refused-write {author} {number}"));
                true
            }
            Err(error) => panic!("write {number} of {author}: {error}"),
        }
    }

    // ---- Locks --------------------------------------------------------------------------------

    /// Takes the common lock again and again.
    fn contend(&self) {
        let mut session = self.open();
        while !self.is_resting() {
            let attempt = Lock::new(&session, "/locks/common").acquire();
            match attempt.wait_timeout(Duration::from_secs(1)) {
                Ok(guard) => {
                    self.look(&session, &guard, LOOKS);
                    drop(guard);
                    std::thread::sleep(PAUSE);
                }
                Err(Error::Timeout) => {}
                Err(error) if self.is_over(&error) => session = self.open(),
                Err(error) => panic!("no lock: {error}"),
            }
        }
    }

    /// Holds a lock for as long as it is let, and says what it learns then.
    fn hold_until_lost(&self, lock: &str) {
        let (session, guard) = self.acquire(lock);
        self.look(&session, &guard, usize::MAX);
        // The guard asks the clock; the session hears of it at the node's next turn.
        let mut state = session.state();
        let deadline = Instant::now() + PATIENCE;
        while !state.is_final() && Instant::now() < deadline {
            state = session.wait_while(state, PATIENCE);
        }
        say(format_args!("holder-state {state:?}"));
        // A stale holder's guarded write, made in a session that is well.
        let refused = loop {
            let other = self.open();
            let write = guard.check(other.multi());
            let write = write.set("/protected", "by a stale holder", Version::ANY);
            match within(write.commit()) {
                Err(error) if self.is_over(&error) => {}
                late => break matches!(late, Err(Error::Multi { index: 0, .. })),
            }
        };
        say(format_args!("holder-refused {refused}"));
        // Back in line with everybody else.
        let (session, guard) = self.acquire(lock);
        self.look(&session, &guard, LOOKS);
        say("holder-back");
    }

    /// Gets a lock, in as many sessions as it takes.
    fn acquire(&self, lock: &str) -> (Session, LockGuard) {
        loop {
            let session = self.open();
            match Lock::new(&session, lock).acquire().wait_timeout(PATIENCE) {
                Ok(guard) => return (session, guard),
                Err(error) if self.is_over(&error) => {}
                Err(error) => panic!("no lock: {error}"),
            }
        }
    }

    /// Looks so often whether the lock is held, and says when. The time is read *before* the look: whoever
    /// is stopped in between claims nothing for the time after.
    fn look(&self, session: &Session, guard: &LockGuard, looks: usize) {
        let token = guard.fencing_token();
        say(format_args!(
            "acquired {} {token} {}",
            guard.path(),
            machine_time().as_nanos()
        ));
        for _ in 0..looks {
            let now = machine_time();
            let is_held = guard.is_held();
            let nanoseconds = now.as_nanos();
            say(format_args!("look {token} {is_held} {nanoseconds}"));
            if !is_held {
                return;
            }
            // What the lock protects, refused to a stale holder. How it ends is not known where the
            // session ends.
            let write = guard.check(session.multi());
            let write = write.set("/protected", token.to_string(), Version::ANY);
            match within(write.commit()) {
                Ok(_) => {}
                Err(error) if self.is_over(&error) || error.code() == -101 => {}
                Err(error) => panic!("a guarded write: {error}"),
            }
            std::thread::sleep(PAUSE);
        }
    }
}

enum Write {
    Create(Pending<Created>),
    Transaction(Pending<Vec<OpResult>>),
}

impl Write {
    /// Every second write also counts.
    fn call(session: &Session, author: &str, number: u64) -> Write {
        let (path, mode) = ("/work/n-", CreateMode::PersistentSequential);
        let data = format!("{author}.{number}");
        if number % 2 == 1 {
            return Write::Create(session.create(path, data, mode));
        }
        let counter = format!("/counters/{author}");
        let multi = session.multi().create(path, data, mode);
        let multi = multi.set(&counter, number.to_string(), Version::ANY);
        Write::Transaction(multi.commit())
    }

    fn answer(self) -> quorate::Result<String> {
        match self {
            Write::Create(pending) => Ok(within(pending)?.path),
            Write::Transaction(pending) => match within(pending)?.swap_remove(0) {
                OpResult::Created { path, .. } => Ok(path),
                other => panic!("{other:?}"),
            },
        }
    }
}

fn within<T>(mut pending: Pending<T>) -> quorate::Result<T> {
    match pending.wait_timeout(PATIENCE) {
        Err(Error::Timeout) => panic!("no answer within {PATIENCE:?}"),
        answer => answer,
    }
}

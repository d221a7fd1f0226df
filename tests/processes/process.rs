//! The parent's side of a process: starts it, tells it, hears it, stops it and kills it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::process::{Pid, Signal, kill_process};

use crate::child::VARIABLE;

/// How long anything may take before a test fails: much longer than it ever should.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Says something that is to be seen, whether or not the test harness shows what a test prints; on a line
/// of its own, whatever the harness has begun.
pub(crate) fn report(line: std::fmt::Arguments<'_>) {
    // A reader that is gone is no failure of the test.
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}

/// What a process is to be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Order {
    pub(crate) id: u64,
    /// Which start of this node it is.
    pub(crate) boot: u64,
    /// The first voters, or whom to ask.
    pub(crate) first: Vec<u64>,
    pub(crate) join: bool,
    pub(crate) join_patience: Duration,
    pub(crate) dir: PathBuf,
    pub(crate) listen: String,
    pub(crate) session_timeout: Duration,
    /// Where its certificate is.
    pub(crate) tls: Option<PathBuf>,
}

impl Order {
    pub(crate) fn encode(&self) -> String {
        let first: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let tls = self.tls.as_ref().map(|dir| dir.display().to_string());
        [
            self.id.to_string(),
            self.boot.to_string(),
            first.join(","),
            self.join.to_string(),
            self.join_patience.as_millis().to_string(),
            self.dir.display().to_string(),
            self.listen.clone(),
            self.session_timeout.as_millis().to_string(),
            tls.unwrap_or_default(),
        ]
        .join("\t")
    }

    pub(crate) fn decode(text: &str) -> Order {
        let fields: Vec<&str> = text.split('\t').collect();
        let [id, boot, first, join, patience, dir, listen, timeout, tls] = fields[..] else {
            panic!("no order: {text:?}");
        };
        let number = |text: &str| text.parse::<u64>().expect("a number");
        Order {
            id: number(id),
            boot: number(boot),
            first: first.split(',').map(number).collect(),
            join: join == "true",
            join_patience: Duration::from_millis(number(patience)),
            dir: dir.into(),
            listen: listen.to_owned(),
            session_timeout: Duration::from_millis(number(timeout)),
            tls: (!tls.is_empty()).then(|| tls.into()),
        }
    }
}

/// What a process has said.
#[derive(Clone, Default, Debug)]
pub(crate) struct Heard {
    pub(crate) listening: Option<String>,
    pub(crate) started: bool,
    /// Why it did not start.
    pub(crate) refused: Option<String>,
    pub(crate) removed: bool,
    /// Each author with the session that it writes in, in hexadecimal.
    pub(crate) authors: Vec<(String, String)>,
    /// The last author whose session was lost. Each of its writes was answered before.
    pub(crate) lost: Option<String>,
    /// Author, number, path.
    pub(crate) acknowledged: Vec<(String, u64, String)>,
    /// Writes that did not happen.
    pub(crate) refused_writes: Vec<(String, u64)>,
    pub(crate) holds: Vec<HoldLine>,
    /// Role, leader (0 for none), applied index, zxid.
    pub(crate) status: Option<(String, u64, u64, u64)>,
    pub(crate) digest: Option<String>,
    pub(crate) rested: bool,
    pub(crate) prepared: bool,
    /// The changes of membership that were made: what, and whom.
    pub(crate) changed: Vec<(String, u64)>,
    /// Path, version and data of what the tree holds of the work.
    pub(crate) znodes: Vec<(String, i32, String)>,
    pub(crate) dumped: bool,
    pub(crate) holder_state: Option<String>,
    pub(crate) holder_refused: Option<bool>,
    pub(crate) holder_back: bool,
    /// It panicked, or stopped by itself.
    pub(crate) failed: Option<String>,
    ended: bool,
}

/// What a contender says of a lock.
#[derive(Clone, Debug)]
pub(crate) enum HoldLine {
    Acquired {
        lock: String,
        token: u64,
        at: Duration,
    },
    Look {
        token: u64,
        is_held: bool,
        at: Duration,
    },
}

impl HoldLine {
    pub(crate) fn at(&self) -> Duration {
        match self {
            HoldLine::Acquired { at, .. } | HoldLine::Look { at, .. } => *at,
        }
    }
}

impl Heard {
    /// How often it has looked, and held the lock that it got last at this path.
    pub(crate) fn looks_at(&self, path: &str) -> usize {
        let mut looks = 0;
        let mut held = None;
        for line in &self.holds {
            match line {
                HoldLine::Acquired { lock, token, .. } if lock == path => {
                    (looks, held) = (0, Some(*token));
                }
                HoldLine::Look {
                    token,
                    is_held: true,
                    ..
                } if held == Some(*token) => looks += 1,
                _ => {}
            }
        }
        looks
    }

    fn hear(&mut self, line: &str) {
        let Some(line) = line.strip_prefix('@') else {
            // The test harness's own.
            return;
        };
        let rest = || line.split_once(' ').map_or("", |(_, rest)| rest).to_owned();
        let number = |text: &str| text.parse::<u64>().expect("a number");
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["listening", address] => self.listening = Some(address.to_owned()),
            ["started", _cluster] => self.started = true,
            ["refused", ..] => self.refused = Some(rest()),
            ["removed"] => self.removed = true,
            ["stopped" | "failed", ..] => self.failed = Some(rest()),
            ["author", author, session] => {
                let session = session.trim_start_matches("0x").to_owned();
                self.authors.push((author.to_owned(), session));
            }
            ["acknowledged", author, k, path] => {
                let said = (author.to_owned(), number(k), path.to_owned());
                self.acknowledged.push(said);
            }
            ["lost", author] => self.lost = Some(author.to_owned()),
            // Nothing is known, so nothing is judged.
            ["unknown", _author, _number] => {}
            ["refused-write", author, k] => {
                self.refused_writes.push((author.to_owned(), number(k)));
            }
            ["acquired", path, token, at] => self.holds.push(HoldLine::Acquired {
                lock: path[..path.rfind('/').expect("a path")].to_owned(),
                token: number(token),
                at: Duration::from_nanos(number(at)),
            }),
            ["look", token, is_held, at] => self.holds.push(HoldLine::Look {
                token: number(token),
                is_held: is_held == "true",
                at: Duration::from_nanos(number(at)),
            }),
            ["status", role, leader, applied, zxid] => {
                self.status = Some((
                    role.to_owned(),
                    number(leader),
                    number(applied),
                    number(zxid),
                ));
            }
            ["digest", ..] => self.digest = Some(rest()),
            ["rested"] => self.rested = true,
            ["prepared"] => self.prepared = true,
            ["changed", what, id] => self.changed.push((what.to_owned(), number(id))),
            ["znode", path, version, data] => {
                let version = number(version) as i32;
                self.znodes
                    .push((path.to_owned(), version, data.to_owned()));
            }
            ["dumped"] => self.dumped = true,
            ["holder-state", state] => self.holder_state = Some(state.to_owned()),
            ["holder-refused", refused] => self.holder_refused = Some(refused == "true"),
            ["holder-back"] => self.holder_back = true,
            _ => panic!("a process says {line:?}"),
        }
    }
}

#[derive(Default)]
struct Ear {
    heard: Mutex<Heard>,
    more: Condvar,
}

/// A process that was started.
pub(crate) struct Process {
    pub(crate) order: Order,
    child: Child,
    input: Option<ChildStdin>,
    ear: Arc<Ear>,
    listener: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a process; it listens, and waits to be told where the others are. `wrapper` is a command that
    /// runs another.
    pub(crate) fn start(order: Order, wrapper: &[&str]) -> Process {
        let program = std::env::current_exe().expect("this program's path");
        let mut words: Vec<String> = wrapper.iter().map(|word| (*word).to_owned()).collect();
        words.push(program.display().to_string());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["--exact", "a_process_of_a_cluster"])
            .args(["--nocapture", "--test-threads=1"])
            .env(VARIABLE, order.encode())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.expect("its output"));
        let ear = Arc::new(Ear::default());
        let listening = ear.clone();
        let listener = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                listening.heard.lock().hear(&line);
                listening.more.notify_all();
            }
            listening.heard.lock().ended = true;
            listening.more.notify_all();
        });
        let process = Process {
            order,
            child,
            input,
            ear,
            listener: Some(listener),
        };
        process.until("it listens", |heard| heard.listening.is_some());
        process
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("a process that was not ended");
        writeln!(input, "{line}").expect("a process that reads");
    }

    /// Waits until it has said enough.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut enough: impl FnMut(&Heard) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = self.ear.heard.lock();
        while !enough(&heard) {
            let id = self.order.id;
            if let Some(reason) = &heard.failed {
                panic!("process {id} failed: {reason}");
            }
            assert!(!heard.ended, "process {id} ended; never came true: {what}");
            let waited = self.ear.more.wait_until(&mut heard, deadline);
            assert!(!waited.timed_out(), "process {id}: never came true: {what}");
        }
    }

    /// What it has said so far.
    pub(crate) fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.ear.heard.lock())
    }

    pub(crate) fn forget<T>(&self, forget: impl FnOnce(&mut Heard) -> T) -> T {
        forget(&mut self.ear.heard.lock())
    }

    pub(crate) fn address(&self) -> String {
        self.heard(|heard| heard.listening.clone())
            .expect("it listens")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(id, signal).expect("a process to signal");
    }

    /// Kills it with SIGKILL, and gives all that it has said until then.
    pub(crate) fn kill(mut self) -> Heard {
        self.signal(Signal::KILL);
        let status = self.child.wait().expect("its end");
        assert_eq!(status.code(), None, "it ended by itself: {status}");
        self.finish()
    }

    /// Waits until it has ended by itself, as it should.
    pub(crate) fn ends(mut self) -> Heard {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("its end") {
                assert!(status.success(), "process {}: {status}", self.order.id);
                return self.finish();
            }
            assert!(
                Instant::now() < deadline,
                "process {} goes on",
                self.order.id
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn finish(&mut self) -> Heard {
        let listener = self.listener.take().expect("not finished yet");
        listener
            .join()
            .expect("everything that it says is understood");
        let heard = self.heard(Heard::clone);
        if let Some(reason) = &heard.failed {
            panic!("process {} failed: {reason}", self.order.id);
        }
        heard
    }
}

impl Drop for Process {
    /// No process outlives a test that fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

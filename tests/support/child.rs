//! A process that makes numbered writes, and the parent's side of it.
//!
//! The process is the test's own executable, told by its environment to run one test alone: there is no
//! second program. It says on its standard output what it has reached, a line each. It doesn't know
//! what becomes of it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::counted::{Kind, PATIENCE, Place};

/// The variable that makes the test below a writer: kind, voters and directory.
const VARIABLE: &str = "QUORATE_WRITER";
/// How many writes it makes where nobody kills it.
const WRITES: u64 = 1_000;

/// As the child of another test it writes until it is killed. By itself it makes some writes and finds
/// them all: what the other tests count on.
#[test]
fn the_writer_acknowledges_what_is_there_when_it_opens_again() {
    if let Ok(order) = std::env::var(VARIABLE) {
        return write_for_ever(&Place::parse(&order));
    }
    let parent = tempfile::tempdir().expect("a directory");
    for kind in [Kind::Log, Kind::Sled] {
        let dir = parent.path().join(kind.name());
        let place = Place {
            kind,
            voters: 1,
            dir,
        };
        let mut acknowledged = 0;
        for last in [1, WRITES / 2 + 1, WRITES] {
            let opened = place.open().expect("an opened store");
            let held = opened.holds();
            assert_eq!(held, acknowledged);
            opened.write(held, last, |k| acknowledged = k);
            assert_eq!(opened.holds(), last);
            opened.close();
        }
        assert!(place.snapshot_index(1).expect("a store") > 1, "no snapshot");
    }
}

impl Place {
    fn order(&self) -> String {
        format!(
            "{}:{}:{}",
            self.kind.name(),
            self.voters,
            self.dir.display()
        )
    }

    fn parse(order: &str) -> Place {
        let mut parts = order.splitn(3, ':');
        let mut part = || parts.next().expect("kind:voters:directory");
        Place {
            kind: match part() {
                "log" => Kind::Log,
                "sled" => Kind::Sled,
                other => panic!("no store is called {other}"),
            },
            voters: part().parse().expect("a number"),
            dir: PathBuf::from(part()),
        }
    }
}

/// What the child does: each line is out before the next step.
fn write_for_ever(place: &Place) {
    // Not by `println!`, which the test harness may hold back.
    let say = |line: String| {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .expect("a parent that listens");
    };
    // A child that fails right before it is killed has failed.
    std::panic::set_hook(Box::new(move |panic| {
        say(format!(
            "\n@failed {}\n",
            panic.to_string().replace('\n', " ")
        ));
    }));
    // The harness may have begun a line of its own.
    say("\n@opening\n".to_owned());
    let opened = place.open().expect("a store that opens after any crash");
    let held = opened.holds();
    say(format!("@open {held}\n"));
    opened.write(held, u64::MAX, |k| say(format!("@acked {k}\n")));
}

enum Line {
    Opening,
    Open(u64),
    Acked(u64),
    Failed(String),
}

fn parse(line: &str) -> Option<Line> {
    let line = line.strip_prefix('@')?;
    if let Some(reason) = line.strip_prefix("failed ") {
        return Some(Line::Failed(reason.to_owned()));
    }
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["opening"] => Some(Line::Opening),
        ["open", held] => Some(Line::Open(held.parse().ok()?)),
        ["acked", k] => Some(Line::Acked(k.parse().ok()?)),
        _ => panic!("the child says {line:?}"),
    }
}

/// A running child.
pub struct Child {
    process: std::process::Child,
    lines: Receiver<Line>,
    /// What it has said.
    pub said: Said,
}

/// What a child has said.
#[derive(Clone, Copy, Default, Debug)]
pub struct Said {
    /// When it began to open its directory.
    pub opening: Option<Instant>,
    /// What it found there, once it was open, and when.
    pub open: Option<(u64, Instant)>,
    /// The last write that was acknowledged, by this child.
    pub acknowledged: Option<u64>,
}

impl Said {
    /// The number of writes that this child has shown to have happened.
    pub fn proven(&self) -> u64 {
        let held = self.open.map_or(0, |(held, _)| held);
        self.acknowledged.unwrap_or(0).max(held)
    }
}

impl Child {
    /// Starts a child of the test that calls.
    pub fn start(place: &Place) -> Child {
        let test = concat!(
            module_path!(),
            "::the_writer_acknowledges_what_is_there_when_it_opens_again"
        );
        let (_crate, test) = test
            .split_once("::")
            .expect("a module within the test's crate");
        let mut process = Command::new(std::env::current_exe().expect("this program's path"))
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(VARIABLE, place.order())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a child");
        let out = process.stdout.take().expect("the child's output");
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(out).lines() {
                let Ok(text) = text else { return };
                if let Some(parsed) = parse(&text)
                    && line.send(parsed).is_err()
                {
                    return;
                }
            }
        });
        Child {
            process,
            lines,
            said: Said::default(),
        }
    }

    fn hear(&mut self, line: &Line) {
        let now = Instant::now();
        match line {
            Line::Opening => self.said.opening = Some(now),
            &Line::Open(held) => self.said.open = Some((held, now)),
            &Line::Acked(k) => {
                // The first is the one after what it found; then each in turn.
                assert_eq!(k, self.said.proven() + 1, "acknowledged out of turn");
                self.said.acknowledged = Some(k);
            }
            Line::Failed(reason) => panic!("the child failed: {reason}"),
        }
    }

    /// Listens for so long.
    pub fn listen(&mut self, time: Duration) {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => self.ended(),
            }
        }
    }

    /// Listens until the child has said enough.
    pub fn listen_until(&mut self, what: &str, enough: impl Fn(&Said) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !enough(&self.said) {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Timeout) => panic!("never said by the child: {what}"),
                Err(RecvTimeoutError::Disconnected) => self.ended(),
            }
        }
    }

    fn ended(&mut self) -> ! {
        panic!("the child ended by itself: {:?}", self.process.wait());
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.process.id().to_string()])
            .status();
        assert!(status.expect("the command `kill`").success());
    }

    /// The child's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it with SIGKILL, and hears what it had said until then.
    pub fn kill(mut self) -> Said {
        self.process.kill().expect("a child to kill");
        let status = self.process.wait().expect("the child's end");
        assert_eq!(
            status.code(),
            None,
            "it ended before it was killed: {status}"
        );
        while let Ok(line) = self.lines.recv() {
            self.hear(&line);
        }
        self.said
    }
}

impl Drop for Child {
    /// No child outlives a test that fails.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

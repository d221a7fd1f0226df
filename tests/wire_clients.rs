//! ZooKeeper's other clients against servers in this process: Debian's Java client and its shell, the C
//! client's shell, and the Rust crate `zookeeper-client`. What this machine doesn't have is said to be
//! skipped. (`wire_kazoo` has Python's.)

#[path = "wire/service.rs"]
mod service;
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use service::{Service, skipped};

const ZOOKEEPER_JAR: &str = "/usr/share/java/zookeeper.jar";
const ZOOKEEPER_SHELL: &str = "/usr/share/zookeeper/bin/zkCli.sh";
const C_SHELL: &str = "/usr/lib/zookeeper/bin/cli_mt";
/// How long a program may be silent before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn wire_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire")
}

fn is_missing(what: &str, file: &str, package: &str) -> bool {
    let is_missing = !Path::new(file).exists();
    if is_missing {
        skipped(what, &format!("no {file} (apt-get install {package})"));
    }
    is_missing
}

fn says(program: &str, argument: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A program whose lines are read as they come. It ends with this.
struct Program {
    child: Child,
    lines: Receiver<String>,
    said: String,
}

impl Program {
    fn start(mut command: Command) -> Program {
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let said = String::new();
        Program { child, lines, said }
    }

    fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        input.flush().unwrap();
    }

    /// Reads until a line contains this.
    fn await_line(&mut self, expected: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said += &line;
                    self.said.push('\n');
                    if line.contains(expected) {
                        return line;
                    }
                }
                Err(_) => panic!("it never says {expected:?}:\n{}", self.said),
            }
        }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said += &line;
            self.said.push('\n');
        }
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{}", self.said);
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, unless the test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program of ours over two servers, the first of which is stopped when it says so.
fn over_its_api(mut command: Command) {
    let service = Service::start();
    command.args([service.address(0), service.address(1)]);
    let mut program = Program::start(command);
    program.await_line("stop the first server");
    service.servers[0].shutdown();
    program.await_line("all operations");
    program.end();
}

#[test]
fn the_java_client_calls_every_operation() {
    if is_missing("the Java client", ZOOKEEPER_JAR, "zookeeper") {
        return;
    }
    if !says("java", "-version") || !says("javac", "-version") {
        return skipped(
            "the Java client",
            "no javac (apt-get install default-jdk-headless)",
        );
    }
    let mut command = Command::new("java");
    command.args(["-Xmx128m", "-cp", ZOOKEEPER_JAR]);
    command.arg(wire_dir().join("java/Operations.java"));
    over_its_api(command);
}

#[test]
fn the_crate_zookeeper_client_calls_every_operation() {
    // Next to the target directory of the tests, which its own cargo would wait for.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("zookeeper-client");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--manifest-path"]);
    build.arg(wire_dir().join("rust/Cargo.toml"));
    build.arg("--target-dir").arg(&target);
    let output = build.output().unwrap();
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        // What can't be fetched isn't there; what doesn't compile is our fault.
        assert!(!why.contains("could not compile"), "{why}");
        let why = why.lines().next().unwrap_or("it can't be built");
        return skipped("the crate zookeeper-client", why);
    }
    over_its_api(Command::new(target.join("debug/quorate-wire-client")));
}

/// What is typed into ZooKeeper's shell, and what it says to that; nothing is not looked for.
const SHELL_SCRIPT: &[(&str, &[&str])] = &[
    ("create /cli data", &["Created /cli"]),
    ("create -e /cli/e eph", &["Created /cli/e"]),
    ("create -s /cli/s- seq", &["Created /cli/s-0000000001"]),
    ("create -c /cli/c container", &["Created /cli/c"]),
    ("create -t 60000 /cli/t ttl", &["Created /cli/t"]),
    ("create /cli again", &["Node already exists: /cli"]),
    ("ls /", &["[cli, zookeeper]"]),
    (
        "ls -s /cli",
        &["[c, e, s-0000000001, t]", "cversion = 4", "numChildren = 4"],
    ),
    ("ls -R /cli", &["/cli/s-0000000001"]),
    ("get -s /cli", &["data", "dataVersion = 0"]),
    ("set -v 0 /cli more", &[]),
    ("set -v 0 /cli wrong", &["version No is not valid : /cli"]),
    ("get /cli", &["more"]),
    ("stat /cli/e", &["ephemeralOwner = 0x", "dataLength = 3"]),
    ("get /cli/none", &["Node does not exist: /cli/none"]),
    ("getAcl /cli", &["'world,'anyone", ": cdrwa"]),
    ("addauth digest ann:secret", &[]),
    ("whoami", &["digest: ann"]),
    ("create /cli/mine own auth::cdrwa", &["Created /cli/mine"]),
    (
        "getAcl /cli/mine",
        &["'digest,'ann:7RJfAeIvrl4zdj6sS2fXrQHDvHM="],
    ),
    ("setAcl /cli/mine world:anyone:r", &[]),
    (
        "getAcl -s /cli/mine",
        &["'world,'anyone", ": r", "aclVersion = 1"],
    ),
    ("setquota -n 5 /cli", &[]),
    (
        "listquota /cli",
        &[
            "Output quota for /cli count=5,bytes=-1",
            "Output stat for /cli count=6,bytes=",
        ],
    ),
    ("delquota /cli", &[]),
    ("getAllChildrenNumber /cli", &["5"]),
    ("getEphemerals /cli", &["[/cli/e]"]),
    ("sync /cli", &["Sync is OK"]),
    ("get -w /cli", &["more"]),
    (
        "set /cli watched",
        &["WatchedEvent state:SyncConnected type:NodeDataChanged path:/cli"],
    ),
    ("addWatch -m PERSISTENT /cli", &[]),
    (
        "removewatches /cli",
        &["type:PersistentWatchRemoved path:/cli"],
    ),
    ("delete /cli/none", &["Node does not exist: /cli/none"]),
    ("delete /cli", &["Node not empty: /cli"]),
    ("deleteall /cli", &[]),
    ("ls /", &["[zookeeper]"]),
    ("quit", &[]),
];

#[test]
fn zookeepers_shell_runs_a_script() {
    let what = "ZooKeeper's shell";
    if is_missing(what, ZOOKEEPER_SHELL, "zookeeper") {
        return;
    }
    if !says("java", "-version") {
        return skipped(what, "no java (apt-get install default-jre-headless)");
    }
    let service = Service::start();
    let mut command = Command::new(ZOOKEEPER_SHELL);
    // Its log is to go nowhere near the system's.
    command.env("ZOO_LOG_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.args(["-server", &service.address(0)]);
    let mut program = Program::start(command);
    program.await_line("state:SyncConnected type:None");
    for (typed, answers) in SHELL_SCRIPT {
        program.tell(typed);
        for answer in *answers {
            program.await_line(answer);
        }
    }
    program.end();
}

/// The same of the C client's: it calls without waiting, so each line is typed when the one before is answered.
const C_SCRIPT: &[(&str, &[&str])] = &[
    ("create /c", &["[/c]: rc = 0", "name = /c"]),
    ("create /c/a", &["[/c/a]: rc = 0"]),
    ("create +e /c/e", &["[/c/e]: rc = 0"]),
    (
        "create +s /c/s-",
        &["[/c/s-]: rc = 0", "name = /c/s-0000000002"],
    ),
    ("create +c /c/k", &["[/c/k]: rc = 0"]),
    ("create +t=60000 /c/t", &["[/c/t]: rc = 0"]),
    ("create2 /c/b", &["[/c/b]: rc = 0", "version=0"]),
    ("create /c", &["[/c]: rc = -110"]),
    ("create /none/c", &["[/none/c]: rc = -101"]),
    ("ls /c", &["/c: rc = 0", "time ="]),
    ("ls2 /c", &["/c: rc = 0", "version=0"]),
    ("set /c changed", &["/c: rc = 0", "version=1"]),
    ("get /c", &["/c: rc = 0", "value_len = 7", "changed"]),
    ("get /none", &["/none: rc = -101"]),
    ("sync /c", &["[/c]: rc = 0"]),
    ("wexists /c/a", &[]),
    ("delete /c/a", &["DELETED_EVENT"]),
    ("delete /c", &["/c: rc = -111"]),
    ("aget /c", &["/c: rc = 0", "changed"]),
];

#[test]
fn the_c_clients_shell_runs_a_script() {
    let what = "the C client's shell";
    if is_missing(what, C_SHELL, "zookeeper-bin") {
        return;
    }
    if !says("stdbuf", "--version") {
        return skipped(what, "no stdbuf (apt-get install coreutils)");
    }
    let service = Service::start();
    let mut command = Command::new("stdbuf");
    command.args(["-oL", C_SHELL, "-h", &service.address(0)]);
    let mut program = Program::start(command);
    program.await_line("Got a new session id");
    for (typed, answers) in C_SCRIPT {
        program.tell(typed);
        for answer in *answers {
            program.await_line(answer);
        }
    }
    program.tell("quit");
    program.end();
}

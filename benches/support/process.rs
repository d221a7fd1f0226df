//! A node in a process of its own, which is this very program told by its environment to be one.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use quorate::Node;
use quorate::transport::Tcp;
use rustix::process::{Pid, Signal, kill_process};

/// Id, kind of store, whether it joins, and directory.
const VARIABLE: &str = "QUORATE_BENCH_NODE";
const PATIENCE: Duration = Duration::from_secs(120);

pub fn is_child() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Is a node, until its input ends.
pub fn run() {
    let order = std::env::var(VARIABLE).expect("an order");
    let mut words = order.splitn(4, ':');
    let mut word = || words.next().expect("id:store:join:directory");
    let id: u64 = word().parse().expect("an id");
    let store = word();
    let joins = word() == "true";
    let tcp = Tcp::builder("127.0.0.1:0").bind().expect("a free port");
    let peers = tcp.peers();
    println!("{}", tcp.local_addr());
    let storage = super::durable(store, Path::new(word()));
    let builder = Node::builder(id).storage(storage).transport(tcp);
    let builder = match joins {
        true => builder.join([1, 2, 3].into_iter().filter(|other| *other != id)),
        false => builder.voters([1, 2, 3]),
    };
    let mut builder = Some(builder);
    let mut node: Option<Node> = None;
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        match (&words[..], &node) {
            (["peer", id, address], _) => peers.set(id.parse().expect("an id"), address),
            (["start"], None) => {
                let builder = builder.take().expect("it starts once");
                node = Some(builder.start().expect("it starts"));
                println!("started");
            }
            (["zxid"], Some(node)) => println!("{}", node.zxid()),
            _ => panic!("no order: {line}"),
        }
    }
}

/// The parent's side of it.
pub struct Process {
    pub id: u64,
    pub address: String,
    child: Child,
    input: ChildStdin,
    output: Mutex<Lines<BufReader<ChildStdout>>>,
}

impl Process {
    /// Launches a node that waits to be told where the others are.
    pub fn launch(id: u64, store: &str, dir: &Path, joins: bool) -> Process {
        let program = std::env::current_exe().expect("this program's path");
        let mut child = Command::new(program)
            .env(VARIABLE, format!("{id}:{store}:{joins}:{}", dir.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = child.stdin.take().expect("its input");
        let output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut process = Process {
            id,
            address: String::new(),
            child,
            input,
            output: Mutex::new(output),
        };
        process.address = process.answer();
        process
    }

    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("a process that reads");
    }

    fn answer(&self) -> String {
        let mut output = self.output.lock().expect("nobody panics with it");
        output.next().expect("an answer").expect("a line")
    }

    pub fn start(&mut self) {
        self.tell("start");
        assert_eq!(self.answer(), "started");
    }

    /// Waits until it has applied this write.
    pub fn reaches(&self, zxid: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            writeln!(&self.input, "zxid").expect("a process that reads");
            if self.answer().parse::<u64>().expect("a number") >= zxid {
                return;
            }
            assert!(Instant::now() < deadline, "node {} lags", self.id);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(id, signal).expect("a process to signal");
    }

    /// Kills it with SIGKILL; returns when the signal is sent.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Three processes of the example `zookeeper_server`: they find each other, one is killed, and the others
//! go on with its clients.
//!
//! Each process is this test's own executable, told by its environment to be the example: its source is
//! compiled in, so there is no second program that could be an old one.

#[path = "wire/asked.rs"]
mod asked;
#[cfg(feature = "tls")]
#[allow(dead_code, reason = "each test file uses its own part")]
mod certificates;
#[path = "../examples/zookeeper_server/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "its `main` isn't called")]
mod program;
#[cfg(feature = "tls")]
#[path = "wire/python.rs"]
mod python;
#[path = "wire/raw.rs"]
mod wire;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use asked::word;
use wire::{Wire, body, create, read, set};

const PATIENCE: Duration = Duration::from_secs(60);
/// The variable that makes the test below the program, with these arguments.
const VARIABLE: &str = "QUORATE_ZOOKEEPER_SERVER";

const CREATE: i32 = 1;
const GET: i32 = 4;
const SET: i32 = 5;
const SYNC: i32 = 9;
const RECONFIG: i32 = 16;
const AUTH: i32 = 100;

/// The program, when it is asked for; by itself it looks at what the command line takes.
#[test]
fn the_program_understands_its_command_line() {
    if let Ok(arguments) = std::env::var(VARIABLE) {
        let arguments = arguments.split('\n').map(OsString::from);
        let options = program::options::parse(arguments).unwrap().unwrap();
        program::serve(&options).unwrap();
        return;
    }
    let parse = |line: &str| program::options::parse(line.split_whitespace().map(OsString::from));
    let options = parse(
        "--client-port 0 --data /d --id 2 --listen h:1 --peers 1=a:1,2=h:1 --tls-cert c --tls-key k \
         --tls-ca a --four-letter-words all --tick-ms 100 --min-session-timeout-ms 150 \
         --max-session-timeout-ms 3000 --super-digest u:h --reap-interval-ms 50 --enforce-quota \
         --admin-port 0",
    );
    let options = options.unwrap().unwrap();
    assert_eq!(options.id, 2);
    assert_eq!(options.peers[&1], "a:1");
    assert_eq!(options.four_letter_words, ["*"]);
    assert!(options.enforce_quota && options.tls.is_some());
    assert_eq!(options.admin_port, Some(0));
    assert!(parse("--help").unwrap().is_none());
    for wrong in [
        "--client-port x",
        "--tick-ms 0",
        "--peers 1",
        "--tls-cert c",
        "--tls-only",
        "--join",
        "--what",
        "stray",
    ] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
}

/// A running server.
struct Server {
    process: Child,
    lines: Receiver<String>,
}

impl Server {
    fn start(arguments: &[&str]) -> Server {
        let executable = std::env::current_exe().unwrap();
        let mut process = Command::new(executable)
            .args(["--exact", "the_program_understands_its_command_line"])
            .args(["--nocapture", "--test-threads=1"])
            .env(VARIABLE, arguments.join("\n"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = process.stdout.take().unwrap();
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(out).lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    return;
                }
            }
        });
        Server { process, lines }
    }

    /// Where it serves, once it says so.
    fn address(&self) -> SocketAddr {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("a server");
            // The test harness has begun the line.
            if let Some((_, address)) = line.split_once("serving ZooKeeper clients at ") {
                return address.parse().unwrap();
            }
        }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    /// No process outlives a test that fails.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ports that nobody else has just now.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn mode(address: SocketAddr) -> String {
    let answer = word(address, "srvr");
    let line = answer.lines().find_map(|line| line.strip_prefix("Mode: "));
    line.unwrap_or_default().to_string()
}

#[test]
fn alone_it_serves_and_keeps_what_it_has_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let arguments = ["--client-port", "0", "--data", data.to_str().unwrap()];
    let server = Server::start(&arguments);
    let address = server.address();
    assert_eq!(mode(address), "standalone");
    let mut wire = Wire::connect(address, 10_000).0;
    assert_eq!(wire.call(1, CREATE, &create("/a", b"kept", 0)).error, 0);
    // One TTL znode, as these are on.
    assert_eq!(
        wire.call(2, 21, &create("/t", b"", 5).long(100_000)).error,
        0
    );
    server.kill();
    let server = Server::start(&arguments);
    let mut wire = Wire::connect(server.address(), 10_000).0;
    assert_eq!(wire.call(1, GET, &read("/a", false)).buffer(), b"kept");
}

#[test]
fn three_processes_are_one_ensemble() {
    let directory = tempfile::tempdir().unwrap();
    let ports: [u16; 4] = free_ports();
    let peers = |ids: &[usize]| -> String {
        let peers: Vec<String> = ids
            .iter()
            .map(|id| format!("{id}=127.0.0.1:{}", ports[id - 1]))
            .collect();
        peers.join(",")
    };
    let start = |id: usize, more: &[&str]| {
        let data = directory.path().join(id.to_string());
        let (id, peers) = (id.to_string(), peers(&[1, 2, 3]));
        let mut arguments = vec!["--client-port", "0", "--data", data.to_str().unwrap()];
        arguments.extend(["--id", &id, "--peers", &peers, "--four-letter-words", "all"]);
        // Of `super:test`.
        arguments.extend([
            "--super-digest",
            "super:D/InIHSb7yEEbrWz8b9l71RjZJU=",
            "--quiet",
        ]);
        arguments.extend(more);
        Server::start(&arguments)
    };
    let mut servers: Vec<Option<Server>> = (1..=3).map(|id| Some(start(id, &[]))).collect();
    let mut addresses: Vec<SocketAddr> = servers
        .iter()
        .map(|server| server.as_ref().unwrap().address())
        .collect();
    let leads = |addresses: &[SocketAddr]| addresses.iter().position(|at| mode(*at) == "leader");
    eventually("a leader", || leads(&addresses).is_some());

    // What one has written the others show.
    let (mut wire, welcome) = Wire::connect(addresses[0], 30_000);
    assert_eq!(wire.call(1, CREATE, &create("/a", b"1", 0)).error, 0);
    assert_eq!(wire.call(2, CREATE, &create("/e", b"", 1)).error, 0);
    let mut other = Wire::connect(addresses[1], 30_000).0;
    assert_eq!(other.call(1, SYNC, &body().text("/")).error, 0);
    assert_eq!(other.call(2, GET, &read("/a", false)).buffer(), b"1");
    eventually("all three are in the configuration", || {
        let reply = other.call(3, GET, &read("/zookeeper/config", false));
        let text = String::from_utf8_lossy(reply.buffer()).into_owned();
        (1..=3).all(|id| text.contains(&format!("server.{id}=127.0.0.1:{}:", ports[id - 1])))
    });

    // The leader is killed. The first client's session goes on at a server that is left.
    let killed = leads(&addresses).unwrap();
    servers[killed].take().unwrap().kill();
    let left: Vec<usize> = (0..3).filter(|at| *at != killed).collect();
    let mut wire = Wire::open(addresses[left[0]]);
    wire.ask_for_session(welcome.session, &welcome.password, 30_000);
    assert_eq!(wire.welcome().expect("a welcome").session, welcome.session);
    assert_eq!(wire.call(3, SET, &set("/a", b"2")).error, 0);
    assert_eq!(wire.call(4, GET, &read("/e", false)).error, 0);

    // It comes back, and has what it missed.
    let back = start(killed + 1, &[]);
    addresses[killed] = back.address();
    servers[killed] = Some(back);
    let mut back = Wire::connect(addresses[killed], 30_000).0;
    assert_eq!(back.call(1, SYNC, &body().text("/")).error, 0);
    assert_eq!(back.call(2, GET, &read("/a", false)).buffer(), b"2");

    // A fourth one joins.
    let listen = format!("127.0.0.1:{}", ports[3]);
    let fourth = start(4, &["--join", "--listen", &listen]);
    let auth = body().int(0).text("digest").text("super:test");
    assert_eq!(back.call(-4, AUTH, &auth).error, 0);
    let joining = format!("server.4={listen}:{0}:participant;127.0.0.1:1", ports[3]);
    let change = body().text(joining).int(-1).int(-1).long(-1);
    assert_eq!(back.call(3, RECONFIG, &change).error, 0);
    let mut wire = Wire::connect(fourth.address(), 30_000).0;
    assert_eq!(wire.call(1, SYNC, &body().text("/")).error, 0);
    assert_eq!(wire.call(2, GET, &read("/a", false)).buffer(), b"2");
}

/// Stock clients against three processes, whose members talk to each other by TLS.
#[cfg(feature = "tls")]
#[test]
fn kazoo_does_what_it_can_with_an_ensemble_whose_members_talk_tls() {
    let directory = tempfile::tempdir().unwrap();
    let ports: [u16; 3] = free_ports();
    let peers: Vec<String> = (1..=3)
        .map(|id| format!("{id}=127.0.0.1:{}", ports[id - 1]))
        .collect();
    let authority = certificates::Authority::new("an ensemble");
    let start = |id: usize, more: &[&str]| {
        let data = directory.path().join(id.to_string());
        std::fs::create_dir_all(&data).unwrap();
        let files = authority.issue(&data, &format!("node-{id}"));
        let (id, peers) = (id.to_string(), peers.join(","));
        let data = data.join("data");
        let mut arguments = vec!["--client-port", "0", "--data", data.to_str().unwrap()];
        arguments.extend(["--id", &id, "--peers", &peers, "--four-letter-words", "all"]);
        arguments.extend(["--super-digest", "super:D/InIHSb7yEEbrWz8b9l71RjZJU="]);
        arguments.extend(["--tick-ms", "500", "--quiet"]);
        let [certificate, key, authority] = [&files.certificate, &files.key, &files.authority];
        arguments.extend(["--tls-cert", certificate.to_str().unwrap()]);
        arguments.extend(["--tls-key", key.to_str().unwrap()]);
        arguments.extend(["--tls-ca", authority.to_str().unwrap()]);
        arguments.extend(more);
        Server::start(&arguments)
    };
    let servers = [1, 2].map(|id| start(id, &["--tls-peers"]));
    // This one doesn't, and so is no member to the others.
    let stranger = start(3, &[]);
    let addresses = servers.each_ref().map(Server::address);
    let is_led = |address: SocketAddr| ["leader", "follower"].contains(&&mode(address)[..]);
    eventually("two of three have a leader", || {
        addresses.iter().all(|at| is_led(*at))
    });
    let mut wire = Wire::connect(addresses[0], 30_000).0;
    for xid in 1..=20 {
        assert_eq!(wire.call(xid, SYNC, &body().text("/")).error, 0);
    }
    let served = |server: &Server| server.lines.try_iter().any(|line| line.contains("serving"));
    assert!(!served(&stranger), "it has found a leader");
    stranger.kill();
    let third = start(3, &["--tls-peers"]);
    let addresses = [addresses[0], addresses[1], third.address()];
    eventually("all three", || is_led(addresses[2]));

    let addresses = addresses.map(|address| address.to_string());
    python::kazoo_file("operations.py", &addresses[..1]);
    python::kazoo_file("recipes.py", &addresses[1..2]);
    python::kazoo_file("sessions.py", &[addresses[0].clone(), addresses[2].clone()]);
}

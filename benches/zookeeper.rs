//! A thousand outstanding sets of 128 bytes: three ZooKeeper servers, and in the same run three of our
//! nodes on the log store, on the same disk.
//!
//! `benches/zookeeper.sh` starts the servers and this, with their addresses in `ZOOKEEPER_SERVERS`; without
//! them it does nothing. Servers and nodes share the machine with the client, as in the other benches.
//! The client below is as plain as it gets, so that it takes little from the servers: one thread sends
//! and one receives, over one session to one server, or over three sessions to all of them.

#![allow(missing_docs)]

mod support;

use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use quorate::storage::{Log, LogOptions};
use quorate::{CreateMode, Session, Version};

const DATA: [u8; 128] = [7; 128];
const OUTSTANDING: usize = 1000;
/// Each figure is the best of so many: a JVM takes a while to be at its best.
const ROUNDS: usize = 5;

fn main() {
    let Ok(servers) = std::env::var("ZOOKEEPER_SERVERS") else {
        println!("skipped: ZOOKEEPER_SERVERS is not set; see benches/zookeeper.sh");
        return;
    };
    let servers: Vec<&str> = servers.split(',').collect();
    println!(
        "sets of {} bytes per second, {OUTSTANDING} outstanding",
        DATA.len()
    );
    println!("              one session  three sessions, one on each");
    let zookeeper = [
        best(|| zookeeper(&servers[..1])),
        best(|| zookeeper(&servers)),
    ];
    println!("ZooKeeper     {:11.0}  {:11.0}", zookeeper[0], zookeeper[1]);

    let dir = support::directory();
    let nodes = support::cluster(3, |id, builder| {
        let log = Log::open(dir.path().join(id.to_string()), LogOptions::default());
        builder.storage(log.expect("it opens"))
    });
    let sessions: Vec<Session> = nodes
        .iter()
        .map(|node| node.session().open().wait().expect("it opens"))
        .collect();
    sessions[0]
        .create("/bench", DATA, CreateMode::Persistent)
        .wait()
        .expect("it is created");
    let quorate = [
        best(|| quorate(&sessions[..1])),
        best(|| quorate(&sessions)),
    ];
    println!("quorate, log  {:11.0}  {:11.0}", quorate[0], quorate[1]);
    println!(
        "ratio of the best {:.1}",
        quorate[0].max(quorate[1]) / zookeeper[0].max(zookeeper[1])
    );
}

fn best(mut run: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| run()).fold(0.0, f64::max)
}

const WRITES: usize = 100_000;

fn quorate(sessions: &[Session]) -> f64 {
    let each = WRITES / sessions.len();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for session in sessions {
            scope.spawn(move || {
                support::windowed(each, OUTSTANDING / sessions.len(), |_| {
                    session.set("/bench", DATA, Version::ANY)
                });
            });
        }
    });
    (each * sessions.len()) as f64 / begin.elapsed().as_secs_f64()
}

fn zookeeper(servers: &[&str]) -> f64 {
    let connections: Vec<Connection> = servers.iter().map(|s| Connection::open(s)).collect();
    let each = WRITES / servers.len();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for connection in connections {
            scope.spawn(move || connection.sets(each, OUTSTANDING / servers.len()));
        }
    });
    (each * servers.len()) as f64 / begin.elapsed().as_secs_f64()
}

/// A session of ZooKeeper's, by its protocol.
struct Connection {
    write: BufWriter<TcpStream>,
    read: BufReader<TcpStream>,
}

const CREATE: i32 = 1;
const SET_DATA: i32 = 5;
const NODE_EXISTS: i32 = -110;

impl Connection {
    fn open(server: &str) -> Connection {
        let stream = TcpStream::connect(server).expect("a server listens");
        stream.set_nodelay(true).expect("it is TCP");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("it is TCP");
        let mut connection = Connection {
            write: BufWriter::new(stream.try_clone().expect("a handle")),
            read: BufReader::new(stream),
        };
        // Protocol 0, nothing seen, a timeout of 30 s, no session yet, no password yet.
        let mut hello = vec![0; 12];
        hello.extend(30_000_i32.to_be_bytes());
        hello.extend([0; 8]);
        hello.extend(bytes_of(&[0; 16]));
        connection.send(&hello);
        connection.write.flush().expect("sent");
        connection.reply();
        let mut create = head(1, CREATE);
        create.extend(bytes_of(&DATA));
        // One ACL: everything (31) to the world. Flags: persistent.
        create.extend(1_i32.to_be_bytes());
        create.extend(31_i32.to_be_bytes());
        create.extend(bytes_of(b"world"));
        create.extend(bytes_of(b"anyone"));
        create.extend(0_i32.to_be_bytes());
        connection.send(&create);
        connection.write.flush().expect("sent");
        let error = error_of(&connection.reply());
        assert!(error == 0 || error == NODE_EXISTS, "create: error {error}");
        connection
    }

    fn sets(self, count: usize, outstanding: usize) {
        let Connection { mut write, read } = self;
        let mut receiver = Connection {
            write: BufWriter::new(write.get_ref().try_clone().expect("a handle")),
            read,
        };
        let (permit, permits) = sync_channel(outstanding);
        for _ in 0..outstanding {
            permit.send(()).expect("there is room");
        }
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut set = head(2, SET_DATA);
                set.extend(bytes_of(&DATA));
                set.extend((-1_i32).to_be_bytes());
                let set = bytes_of(&set);
                for _ in 0..count {
                    if permits.try_recv().is_err() {
                        write.flush().expect("sent");
                        permits.recv().expect("replies come");
                    }
                    write.write_all(&set).expect("sent");
                }
                write.flush().expect("sent");
            });
            for _ in 0..count {
                let error = error_of(&receiver.reply());
                assert_eq!(error, 0, "set");
                // The sender may have sent its last.
                let _ = permit.try_send(());
            }
        });
    }

    fn send(&mut self, message: &[u8]) {
        self.write.write_all(&bytes_of(message)).expect("sent");
    }

    fn reply(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.read.read_exact(&mut length).expect("a reply");
        let mut reply = vec![0; u32::from_be_bytes(length) as usize];
        self.read.read_exact(&mut reply).expect("a reply");
        reply
    }
}

/// The beginning of every request: its number, its kind, and the path.
fn head(number: i32, kind: i32) -> Vec<u8> {
    let mut head = number.to_be_bytes().to_vec();
    head.extend(kind.to_be_bytes());
    head.extend(bytes_of(b"/bench"));
    head
}

/// With the length before it.
fn bytes_of(bytes: &[u8]) -> Vec<u8> {
    let mut with_length = (bytes.len() as u32).to_be_bytes().to_vec();
    with_length.extend(bytes);
    with_length
}

/// After the request's number and the zxid.
fn error_of(reply: &[u8]) -> i32 {
    i32::from_be_bytes(reply[12..16].try_into().expect("four bytes"))
}

//! Mutual TLS between peers: who is let in, by which certificate, and how certificates change.

mod certificates;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certificates::{Authority, Files};
use parking_lot::Mutex;
use quorate::transport::{Inbox, Local, Message, Tcp, TlsConfig, Transport, TransportError};
use quorate::{ClusterId, CreateMode, Node, NodeId};

const PATIENCE: Duration = Duration::from_secs(30);

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

#[track_caller]
fn becomes(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never becomes true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[derive(Default)]
struct Witness(Mutex<Vec<Message>>);

impl Inbox for Witness {
    fn deliver(&self, message: Message) -> bool {
        self.0.lock().push(message);
        true
    }
}

struct Started {
    id: u64,
    tcp: Tcp,
    witness: Arc<Witness>,
}

fn start(id: u64, tls: Option<TlsConfig>) -> Started {
    let mut builder =
        Tcp::builder("127.0.0.1:0").reconnect(Duration::from_millis(5), Duration::from_millis(20));
    if let Some(tls) = tls {
        builder = builder.tls(tls);
    }
    let tcp = builder.bind().unwrap();
    let witness = Arc::new(Witness::default());
    let local = Local {
        cluster: ClusterId(7),
        node: node(id),
    };
    tcp.start(local, witness.clone()).unwrap();
    Started { id, tcp, witness }
}

impl Started {
    fn send(&self, other: &Started, payload: &'static str) -> Message {
        let message = Message::new(ClusterId(7), node(self.id), node(other.id), payload);
        let address = other.tcp.local_addr().to_string();
        self.tcp.peers().set(other.id, address);
        self.tcp.send(message.clone());
        message
    }

    #[track_caller]
    fn reaches(&self, other: &Started, payload: &'static str) {
        becomes("the message is there", || {
            let message = self.send(other, payload);
            other.witness.0.lock().contains(&message)
        });
    }

    /// Tries for as long as somebody else needs to get through ten times.
    #[track_caller]
    fn never_reaches(&self, other: &Started, meanwhile: &Started) {
        for payload in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
            self.send(other, "from a stranger");
            std::thread::sleep(Duration::from_millis(20));
            meanwhile.reaches(other, payload);
        }
        let taken = other.witness.0.lock();
        assert!(taken.iter().all(|message| message.from() != node(self.id)));
    }
}

/// A folder with a certificate for node `id`.
fn issued(authority: &Authority, id: u64) -> (tempfile::TempDir, Files) {
    let dir = tempfile::tempdir().unwrap();
    let files = authority.issue(dir.path(), &format!("node-{id}"));
    (dir, files)
}

fn certified(authority: &Authority, id: u64) -> Started {
    let (_dir, files) = issued(authority, id);
    start(id, Some(files.config()))
}

#[test]
fn peers_with_certificates_of_one_authority_reach_each_other() {
    let authority = Authority::new("ours");
    let (one, two) = (certified(&authority, 1), certified(&authority, 2));
    one.reaches(&two, "there");
    two.reaches(&one, "and back");
}

#[test]
fn one_certified_by_another_authority_is_refused_whoever_dials() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (one, two) = (certified(&ours, 1), certified(&ours, 2));
    let three = certified(&theirs, 3);
    three.never_reaches(&one, &two);
    let (four, five) = (certified(&theirs, 4), certified(&ours, 5));
    // The dialled one shows the wrong certificate: nothing is said to it.
    for _ in 0..20 {
        five.send(&four, "secret");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(four.witness.0.lock().is_empty());
}

#[test]
fn no_node_passes_for_another() {
    let authority = Authority::new("ours");
    let (one, two) = (certified(&authority, 1), certified(&authority, 2));
    // It has a certificate, of node 4, and says that it is node 3.
    let (_dir, files) = issued(&authority, 4);
    let three = start(3, Some(files.config()));
    three.never_reaches(&one, &two);
    // Nor where it is dialled as node 3.
    for _ in 0..20 {
        two.send(&three, "secret");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(three.witness.0.lock().is_empty());
}

#[test]
fn nobody_speaks_in_the_clear() {
    let authority = Authority::new("ours");
    let (one, two) = (certified(&authority, 1), certified(&authority, 2));
    let three = start(3, None);
    three.never_reaches(&one, &two);
    let mut socket = TcpStream::connect(one.tcp.local_addr()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut bytes = [0; 1024];
    while socket.read(&mut bytes).is_ok_and(|count| count > 0) {}
    two.reaches(&one, "still");
}

#[test]
fn certificates_change_while_the_node_runs() {
    let (former, latter) = (Authority::new("former"), Authority::new("latter"));
    let (dir, files) = issued(&former, 1);
    let one = start(1, Some(files.config()));
    certified(&former, 2).reaches(&one, "by the former");

    // Files that can't be used leave the former in force.
    fs::write(&files.certificate, "not a certificate at all").unwrap();
    certified(&former, 3).reaches(&one, "by the former still");

    latter.issue(dir.path(), "node-1");
    let four = certified(&latter, 4);
    four.reaches(&one, "by the latter");
    one.reaches(&four, "and back");
    certified(&former, 5).never_reaches(&one, &four);
}

#[test]
fn reloading_says_which_file_is_wrong() {
    let authority = Authority::new("ours");
    let (_dir, files) = issued(&authority, 1);
    let config = files.config();
    config.reload().unwrap();
    for (path, text) in [
        (&files.authority, ""),
        (&files.key, "no key"),
        (
            &files.certificate,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
    ] {
        let before = fs::read(path).unwrap();
        fs::write(path, text).unwrap();
        let error = config.reload().unwrap_err();
        let TransportError::Credentials { path: named, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(Path::new(named), path, "{error}");
        fs::write(path, before).unwrap();
    }
    config.reload().unwrap();
    assert!(TlsConfig::from_pem_files("/nowhere", &files.certificate, &files.key).is_err());
}

#[test]
fn one_certificate_may_serve_all_where_the_host_wants_it_so() {
    let authority = Authority::new("ours");
    let dir = tempfile::tempdir().unwrap();
    let files = authority.issue(dir.path(), "cluster.example");
    let shared = || files.config().node_names(|_| "cluster.example".to_owned());
    let (one, two) = (start(1, Some(shared())), start(2, Some(shared())));
    one.reaches(&two, "there");
    two.reaches(&one, "and back");
}

#[test]
fn three_nodes_agree_over_tls() {
    let authority = Authority::new("ours");
    let transports: Vec<Tcp> = (1..=3)
        .map(|id| {
            let (_dir, files) = issued(&authority, id);
            let builder = Tcp::builder("127.0.0.1:0").tls(files.config());
            builder.bind().unwrap()
        })
        .collect();
    let addresses: Vec<String> = transports
        .iter()
        .map(|tcp| tcp.local_addr().to_string())
        .collect();
    let nodes: Vec<Node> = (1..=3)
        .zip(transports)
        .map(|(id, tcp)| {
            for (other, address) in (1..=3).zip(&addresses) {
                tcp.peers().set(other, address);
            }
            let builder = Node::builder(id).voters([1, 2, 3]).transport(tcp);
            builder.start().unwrap()
        })
        .collect();
    for (at, node) in nodes.iter().enumerate() {
        let session = node.session().open().wait_timeout(PATIENCE).unwrap();
        let path = format!("/{at}");
        let mut created = session.create(&path, vec![7; 300_000], CreateMode::Persistent);
        created.wait_timeout(PATIENCE).unwrap();
        assert_eq!(bytes_at(&nodes[(at + 1) % 3], &path), 300_000);
    }
}

fn bytes_at(node: &Node, path: &str) -> usize {
    let session = node.session().open().wait_timeout(PATIENCE).unwrap();
    let mut read = session.linearizable().get(path);
    read.wait_timeout(PATIENCE).unwrap().0.len()
}

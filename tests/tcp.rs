//! The transport over TCP: real nodes on loopback, and what strangers and broken peers can do to it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quorate::transport::{Inbox, Lane, Local, Message, Peers, Tcp, TcpBuilder, Transport};
use quorate::{
    ClusterId, CreateMode, Node, NodeBuilder, NodeId, NodeStatus, Role, Session, Version,
};
use tracing::field::{Field, Visit};

/// Longer than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: u64 = 0x51;

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn local(id: u64) -> Local {
    Local {
        cluster: ClusterId(CLUSTER),
        node: node(id),
    }
}

fn message(from: u64, to: u64, payload: impl Into<Bytes>) -> Message {
    Message::new(ClusterId(CLUSTER), node(from), node(to), payload)
}

#[track_caller]
fn becomes(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "it never becomes true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

// ---- What is logged -----------------------------------------------------------------------------

/// Every line that the transports of this process log.
fn log() -> &'static Mutex<Vec<String>> {
    static LINES: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    LINES.get_or_init(|| {
        tracing::subscriber::set_global_default(Lines).unwrap();
        Mutex::default()
    })
}

struct Lines;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "quorate::transport"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        log().lock().push(line.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Waits for a warning of `node` that has all of `parts`.
#[track_caller]
fn warned(node: u64, parts: &[&str]) {
    let node = format!(" node={node} ");
    let is_it = |line: &String| {
        line.starts_with("WARN")
            && line.contains(&node)
            && parts.iter().all(|part| line.contains(part))
    };
    becomes(&format!("{node} warns of {parts:?}"), || {
        log().lock().iter().any(is_it)
    });
}

// ---- Transports without nodes -------------------------------------------------------------------

/// An inbox that remembers.
#[derive(Default)]
struct Witness {
    messages: Mutex<Vec<Message>>,
    disconnected: Mutex<Vec<NodeId>>,
}

impl Inbox for Witness {
    fn deliver(&self, message: Message) -> bool {
        self.messages.lock().push(message);
        true
    }

    fn disconnected(&self, peer: NodeId) {
        self.disconnected.lock().push(peer);
    }
}

impl Witness {
    fn has(&self, message: &Message) -> bool {
        self.messages.lock().contains(message)
    }
}

struct Started {
    id: u64,
    tcp: Tcp,
    witness: Arc<Witness>,
}

fn start_as(local: Local, configure: impl FnOnce(TcpBuilder) -> TcpBuilder) -> Started {
    log();
    let tcp = configure(Tcp::builder("127.0.0.1:0")).bind().unwrap();
    let witness = Arc::new(Witness::default());
    tcp.start(local, witness.clone()).unwrap();
    let id = local.node.as_u64();
    Started { id, tcp, witness }
}

fn start(id: u64) -> Started {
    start_as(local(id), |builder| builder)
}

impl Started {
    fn address(&self) -> String {
        self.tcp.local_addr().to_string()
    }

    fn knows(&self, other: &Started) {
        self.tcp.peers().set(other.id, other.address());
    }

    /// Sends until it is there.
    #[track_caller]
    fn reaches(&self, other: &Started, payload: &'static str) {
        let message = message(self.id, other.id, payload);
        becomes("the message is there", || {
            self.tcp.send(message.clone());
            other.witness.has(&message)
        });
    }

    fn dial(&self) -> TcpStream {
        let socket = TcpStream::connect(self.tcp.local_addr()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn introduced(&self, from: u64, lane: u8) -> TcpStream {
        let mut socket = self.dial();
        socket
            .write_all(&hello((1, 1), CLUSTER, from, self.id, lane, ""))
            .unwrap();
        assert_eq!(answer(&mut socket).0, 0);
        socket
    }
}

/// A hello as it is documented.
fn hello(versions: (u16, u16), cluster: u64, from: u64, to: u64, lane: u8, at: &str) -> Vec<u8> {
    let mut bytes = b"QRTH".to_vec();
    bytes.extend((8 + 2 + 24 + 1 + 2 + at.len() as u16 + 4).to_be_bytes());
    bytes.extend(versions.0.to_be_bytes());
    bytes.extend(versions.1.to_be_bytes());
    for number in [cluster, from, to] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.push(lane);
    bytes.extend((at.len() as u16).to_be_bytes());
    bytes.extend(at.bytes());
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_be_bytes());
    bytes
}

/// The code and the text of the answer to a hello.
fn answer(socket: &mut TcpStream) -> (u8, String) {
    let mut prefix = [0; 6];
    socket.read_exact(&mut prefix).unwrap();
    assert_eq!(&prefix[..4], b"QRTW");
    let mut rest = vec![0; usize::from(u16::from_be_bytes([prefix[4], prefix[5]])) - 6];
    socket.read_exact(&mut rest).unwrap();
    let text = rest[21..rest.len() - 4].to_vec();
    (rest[2], String::from_utf8(text).unwrap())
}

/// The answer that welcomes, as it is documented.
fn welcome(cluster: u64, from: u64) -> Vec<u8> {
    let mut bytes = b"QRTW".to_vec();
    bytes.extend([0, 31, 0, 1, 0]);
    bytes.extend(cluster.to_be_bytes());
    bytes.extend(from.to_be_bytes());
    bytes.extend([0, 0]);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend(checksum.to_be_bytes());
    bytes
}

/// Waits until the other side closes.
#[track_caller]
fn is_closed(mut socket: TcpStream) {
    let mut bytes = [0; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it isn't closed: {error}"),
        }
    }
}

#[test]
fn a_peer_of_another_cluster_is_refused_and_both_say_so() {
    let one = start(101);
    let other = Local {
        cluster: ClusterId(0x52),
        node: node(102),
    };
    let two = start_as(other, |builder| builder.peer(101, one.address()));
    two.tcp.send(message(102, 101, "hello"));
    warned(101, &["node 102 is of cluster 0000000000000052", "refused"]);
    warned(102, &["refuses this node (Cluster)", "peer=101"]);
    assert!(one.witness.messages.lock().is_empty());
}

#[test]
fn a_node_that_joins_and_knows_no_cluster_is_let_in() {
    let one = start(111);
    let joining = Local {
        cluster: ClusterId(0),
        node: node(112),
    };
    let two = start_as(joining, |builder| builder.peer(111, one.address()));
    two.reaches(&one, "let me in");
    one.reaches(&two, "welcome");
}

/// Somebody starts a member's program once more, with an empty disk, while the member runs: each redial
/// of the two displaced the other's connection and its address.
#[test]
fn a_node_that_knows_no_cluster_takes_no_living_members_place() {
    let one = start(171);
    let member = start_as(local(172), |builder| builder.peer(171, one.address()));
    member.reaches(&one, "it is me");
    one.reaches(&member, "so I see");

    let empty = Local {
        cluster: ClusterId(0),
        node: node(172),
    };
    let twin = start_as(empty, |builder| builder.peer(171, one.address()));
    let question = Message::new(ClusterId(0), node(172), node(171), "let me in");
    twin.tcp.send(question.clone());
    warned(171, &["node 172 is connected", "knows no cluster"]);
    warned(172, &["refuses this node (Twin)", "node 172 is connected"]);
    // Neither lane is to be had.
    let mut bulk = one.dial();
    bulk.write_all(&hello((1, 1), 0, 172, 171, 1, "127.0.0.1:1"))
        .unwrap();
    let (code, text) = answer(&mut bulk);
    assert_eq!(code, 8, "{text}");
    is_closed(bulk);
    assert!(!one.witness.has(&question));
    assert_eq!(one.tcp.peers().address(172), Some(member.address()));
    assert_eq!(*member.witness.disconnected.lock(), []);
    assert_eq!(*one.witness.disconnected.lock(), []);
    member.reaches(&one, "still me");
    one.reaches(&member, "still you");

    // Where the member's connections are gone it may have lost its disk: it can ask, and is answered.
    drop(member);
    becomes("the question is there", || {
        twin.tcp.send(question.clone());
        one.witness.has(&question)
    });
    let reply = Message::new(ClusterId(0), node(171), node(172), "you are a member");
    becomes("the answer is there", || {
        one.tcp.send(reply.clone());
        twin.witness.has(&reply)
    });
}

/// A node that joins learns its cluster while its connections are open.
#[test]
fn a_node_that_has_learned_its_cluster_says_so_and_is_protected() {
    let one = start(173);
    let joining = Local {
        cluster: ClusterId(0),
        node: node(174),
    };
    let two = start_as(joining, |builder| builder.peer(173, one.address()));
    let question = Message::new(ClusterId(0), node(174), node(173), "let me in");
    becomes("the question is there", || {
        two.tcp.send(question.clone());
        one.witness.has(&question)
    });
    two.reaches(&one, "I know my cluster now");
    let mut twin = one.dial();
    twin.write_all(&hello((1, 1), 0, 174, 173, 0, "")).unwrap();
    assert_eq!(answer(&mut twin).0, 8);
    is_closed(twin);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = two.address();
    two.tcp
        .peers()
        .set(175, listener.local_addr().unwrap().to_string());
    two.tcp.send(message(174, 175, "hello"));
    let expected = hello((1, 1), CLUSTER, 174, 175, 0, &at);
    let mut said = vec![0; expected.len()];
    listener.accept().unwrap().0.read_exact(&mut said).unwrap();
    assert_eq!(said, expected);
}

/// At a member's address somebody else answers, who knows no cluster.
#[test]
fn who_answers_without_a_cluster_is_not_taken_for_a_living_member() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one = start(176);
    let member = one.introduced(177, 0);
    one.tcp.peers().set(177, &address);
    let sent = message(176, 177, "for the member");
    one.tcp.send(sent.clone());
    let (mut first, _) = listener.accept().unwrap();
    first.write_all(&welcome(0, 177)).unwrap();
    warned(176, &["node 177 is connected", "peer=177"]);
    is_closed(first);
    // Once the member is gone nobody else can be told from it.
    drop(member);
    let (mut second, _) = listener.accept().unwrap();
    second.write_all(&welcome(0, 177)).unwrap();
    let said = hello((1, 1), CLUSTER, 176, 177, 0, &one.address()).len();
    let addresses = 12 + 8 + 1 + address.len();
    let mut heard = vec![0; said + addresses + sent.encode().len()];
    becomes("the message goes out", || {
        one.tcp.send(sent.clone());
        second.peek(&mut heard).unwrap() > said
    });
}

#[test]
fn another_node_than_the_dialled_one_is_refused_and_both_say_so() {
    let one = start(121);
    let two = start_as(local(122), |builder| builder.peer(129, one.address()));
    two.tcp.send(message(122, 129, "hello"));
    warned(121, &["node 129 was dialled, this is node 121"]);
    warned(122, &["refuses this node (Receiver)", "peer=129"]);
    assert!(one.witness.messages.lock().is_empty());

    let mut twin = one.dial();
    twin.write_all(&hello((1, 1), CLUSTER, 121, 121, 0, ""))
        .unwrap();
    assert_eq!(answer(&mut twin).0, 4);
    is_closed(twin);
}

#[test]
fn another_version_of_the_protocol_is_refused_with_the_versions() {
    let one = start(131);
    let mut newer = one.dial();
    newer
        .write_all(&hello((8, 9), CLUSTER, 132, 131, 0, ""))
        .unwrap();
    let (code, text) = answer(&mut newer);
    assert_eq!(code, 1);
    assert!(text.contains("versions 8 to 9"), "{text}");
    is_closed(newer);
    warned(131, &["versions 8 to 9 of the peer protocol"]);

    // One that speaks the version of this node among others is welcome.
    let mut both = one.dial();
    both.write_all(&hello((1, 9), CLUSTER, 132, 131, 0, ""))
        .unwrap();
    assert_eq!(answer(&mut both).0, 0);
}

#[test]
fn a_dialler_learns_that_its_version_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let two = start_as(local(142), |builder| builder.peer(141, address));
    two.tcp.send(message(142, 141, "hello"));
    let mut refused = b"QRTW".to_vec();
    refused.extend([0, 34, 0, 0, 1]);
    refused.extend(CLUSTER.to_be_bytes());
    refused.extend(141_u64.to_be_bytes());
    refused.extend([0, 3]);
    refused.extend(b"old");
    let checksum = crc32fast::hash(&refused);
    refused.extend(checksum.to_be_bytes());
    listener.accept().unwrap().0.write_all(&refused).unwrap();
    warned(142, &["refuses this node (Version): old", "peer=141"]);
}

#[test]
fn an_unknown_node_is_refused_where_the_host_wants_it_so() {
    let one = start_as(local(151), |builder| builder.refuse_unknown());
    let two = start_as(local(152), |builder| builder.peer(151, one.address()));
    two.tcp.send(message(152, 151, "hello"));
    warned(151, &["node 152 is not known here"]);
    warned(152, &["refuses this node (Unknown)"]);
    one.tcp.peers().set(152, two.address());
    two.reaches(&one, "hello again");
}

#[test]
fn a_message_in_anothers_name_ends_the_connection() {
    let one = start(161);
    let mut two = one.introduced(162, 0);
    two.write_all(&message(162, 161, "mine").encode()).unwrap();
    two.write_all(&message(163, 161, "forged").encode())
        .unwrap();
    is_closed(two);
    let mut three = one.introduced(163, 0);
    three
        .write_all(&message(163, 164, "astray").encode())
        .unwrap();
    is_closed(three);
    warned(161, &["node 162 sends a message of node 163"]);
    warned(161, &["node 163 sends a message of node 163 to node 164"]);
    let taken = one.witness.messages.lock();
    assert_eq!(*taken, [message(162, 161, "mine")]);
}

// ---- Garbage, silence, floods -------------------------------------------------------------------

#[test]
fn garbage_ends_its_connection_and_harms_no_other() {
    let (one, two) = (start(201), start(202));
    two.knows(&one);
    two.reaches(&one, "before");
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 100],
        b"QRTH\xff\xff\xff\xff",
    ] {
        let mut socket = one.dial();
        socket.write_all(garbage).unwrap();
        is_closed(socket);
    }
    // And after a good hello: garbage, a damaged message, one that is announced as too large.
    let mut damaged = message(203, 201, "damaged").encode().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut large = message(203, 201, "large").encode().to_vec();
    large[6..10].copy_from_slice(&u32::MAX.to_be_bytes());
    for garbage in [
        &b"garbage!"[..],
        &damaged,
        &large,
        b"QRTA\xff\xff\xff\xff\0\0\0\0",
    ] {
        let mut socket = one.introduced(203, 0);
        socket.write_all(garbage).unwrap();
        is_closed(socket);
    }
    two.reaches(&one, "after");
    assert_eq!(
        *one.witness.disconnected.lock(),
        [node(203), node(203), node(203), node(203)]
    );
}

#[test]
fn a_peer_that_never_finishes_its_hello_is_closed() {
    let one = start_as(local(211), |builder| {
        builder.handshake_timeout(Duration::from_millis(300))
    });
    let silent = one.dial();
    let mut slow = one.dial();
    slow.write_all(&hello((1, 1), CLUSTER, 212, 211, 0, "")[..20])
        .unwrap();
    let mut dripping = one.dial();
    for byte in b"QRTH" {
        // Each byte is a sign of life, and none of them buys time.
        if dripping.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    for socket in [silent, slow, dripping] {
        is_closed(socket);
    }
}

#[test]
fn a_dialled_peer_that_never_answers_is_given_up_and_dialled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one = start_as(local(221), |builder| {
        builder
            .peer(222, address)
            .handshake_timeout(Duration::from_millis(200))
    });
    one.tcp.send(message(221, 222, "hello"));
    let (first, _) = listener.accept().unwrap();
    let (mut second, _) = listener.accept().unwrap();
    is_closed(first);
    second.write_all(&welcome(CLUSTER, 222)).unwrap();
    let mut bytes = [0; 4];
    second.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"QRTH");
}

#[test]
fn half_open_peers_are_noticed_on_both_sides() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one = start_as(local(231), |builder| {
        builder
            .peer(232, address)
            .idle_timeout(Duration::from_millis(300))
    });
    // It has introduced itself, and is silent ever after.
    let silent = one.introduced(233, 0);
    is_closed(silent);
    becomes("the silent peer is missed", || {
        one.witness.disconnected.lock().contains(&node(233))
    });
    // It has welcomed the node, and never answers its signs of life.
    one.tcp.send(message(231, 232, "hello"));
    let (mut first, _) = listener.accept().unwrap();
    first.write_all(&welcome(CLUSTER, 232)).unwrap();
    becomes("the deaf peer is missed", || {
        one.witness.disconnected.lock().contains(&node(232))
    });
    is_closed(first);
}

#[test]
fn an_idle_connection_of_living_peers_stays() {
    let quick = |builder: TcpBuilder| builder.idle_timeout(Duration::from_millis(150));
    let (one, two) = (start_as(local(241), quick), start_as(local(242), quick));
    one.knows(&two);
    one.reaches(&two, "first");
    std::thread::sleep(Duration::from_millis(600));
    assert!(one.witness.disconnected.lock().is_empty());
    assert!(two.witness.disconnected.lock().is_empty());
}

/// One that was busy once got no sign of life, because it never asked for any.
#[test]
fn a_busy_connection_of_living_peers_stays() {
    let quick = |builder: TcpBuilder| builder.idle_timeout(Duration::from_millis(150));
    let (one, two) = (start_as(local(261), quick), start_as(local(262), quick));
    one.knows(&two);
    for payload in ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        one.reaches(&two, payload);
        for _ in 0..10 {
            one.tcp.send(message(261, 262, "more"));
            std::thread::sleep(Duration::from_millis(6));
        }
    }
    assert!(one.witness.disconnected.lock().is_empty());
}

#[test]
fn a_flood_of_connections_keeps_no_peer_out() {
    let one = start_as(local(251), |builder| {
        let forever = Duration::from_secs(3600);
        let builder = builder.handshakes_max(8).inbound_connections_max(3);
        builder.handshake_timeout(forever)
    });
    let mut flood: Vec<TcpStream> = (0..100).map(|_| one.dial()).collect();
    let two = start(252);
    two.knows(&one);
    two.reaches(&one, "through the flood");
    // All but the last few have been closed for the sake of later ones.
    let last = flood.split_off(92);
    flood.into_iter().for_each(is_closed);
    drop(last);
    // Three introduced connections are the most, and a peer's own is no other one.
    let _third = one.introduced(253, 0);
    let _fourth = one.introduced(253, 1);
    let mut fifth = one.dial();
    fifth
        .write_all(&hello((1, 1), CLUSTER, 254, 251, 0, ""))
        .unwrap();
    assert_eq!(answer(&mut fifth).0, 7);
    is_closed(fifth);
    drop(one.introduced(253, 0));
    // A peer that the host has named gets in all the same.
    let six = start(256);
    one.knows(&six);
    six.knows(&one);
    six.reaches(&one, "let me through");
}

/// An inbox that lets its transport's thread wait.
struct Gate {
    entered: SyncSender<()>,
    open: Mutex<Receiver<()>>,
}

impl Inbox for Gate {
    fn deliver(&self, _: Message) -> bool {
        let _ = self.entered.send(());
        let _ = self.open.lock().recv();
        true
    }
}

/// Strangers were accepted before a hello that had arrived was read, and each closed the one that had
/// waited longest.
#[test]
fn strangers_that_come_at_once_do_not_close_a_peer_that_has_said_hello() {
    log();
    let builder = Tcp::builder("127.0.0.1:0").handshakes_max(8);
    let tcp = builder
        .handshake_timeout(Duration::from_secs(3600))
        .bind()
        .unwrap();
    let (entered, is_in) = sync_channel(1);
    let (go_on, open) = sync_channel(1);
    let gate = Gate {
        entered,
        open: Mutex::new(open),
    };
    tcp.start(local(271), Arc::new(gate)).unwrap();
    let dial = || {
        let socket = TcpStream::connect(tcp.local_addr()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let mut peer = dial();
    // It is accepted: the next one is, after it.
    let mut other = dial();
    other
        .write_all(&hello((1, 1), CLUSTER, 272, 271, 0, ""))
        .unwrap();
    assert_eq!(answer(&mut other).0, 0);
    other
        .write_all(&message(272, 271, "wait").encode())
        .unwrap();
    is_in.recv_timeout(PATIENCE).unwrap();
    peer.write_all(&hello((1, 1), CLUSTER, 273, 271, 0, ""))
        .unwrap();
    let flood: Vec<TcpStream> = (0..8).map(|_| dial()).collect();
    go_on.send(()).unwrap();
    assert_eq!(answer(&mut peer).0, 0);
    drop(flood);
}

// ---- Queues and lanes ---------------------------------------------------------------------------

struct CountedBytes(Arc<AtomicUsize>);

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &[7; 1000]
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn counted(alive: &Arc<AtomicUsize>) -> Bytes {
    alive.fetch_add(1, Ordering::SeqCst);
    Bytes::from_owner(CountedBytes(alive.clone()))
}

#[test]
fn what_a_peer_does_not_take_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one = start_as(local(301), |builder| {
        builder.peer(302, address).queue_max(1000, 1 << 30)
    });
    let alive = Arc::new(AtomicUsize::new(0));
    let flood = || {
        for _ in 0..50_000 {
            one.tcp.send(message(301, 302, counted(&alive)));
        }
        alive.load(Ordering::SeqCst)
    };
    // Nobody answers the hello yet: only the newest few are kept.
    let (mut deaf, _) = listener.accept_after(&one);
    let held = flood();
    assert!(
        held <= 256,
        "{held} messages are kept for a peer that isn't there"
    );
    deaf.write_all(&welcome(CLUSTER, 302)).unwrap();
    // It never reads: its socket's buffers fill, then the queue.
    becomes("the queue is full", || flood() >= 1000);
    for _ in 0..5 {
        let held = flood();
        // A batch that is being encoded is out of the queue for a moment.
        assert!(
            held <= 1600,
            "{held} messages are kept for a peer that reads none"
        );
    }
}

trait AcceptAfter {
    fn accept_after(&self, one: &Started) -> (TcpStream, SocketAddr);
}

impl AcceptAfter for TcpListener {
    fn accept_after(&self, one: &Started) -> (TcpStream, SocketAddr) {
        one.tcp.send(message(301, 302, "first"));
        self.accept().unwrap()
    }
}

#[test]
fn a_bulk_transfer_that_is_stuck_holds_up_nothing_urgent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let one = start_as(local(311), |builder| builder.peer(312, address));
    for _ in 0..40 {
        let piece = message(311, 312, vec![7; 1 << 20]).with_lane(Lane::Bulk);
        one.tcp.send(piece);
    }
    let lane_of = |socket: &mut TcpStream| {
        let mut said = [0; 512];
        let mut length = 0;
        while length < 35 {
            length += socket.read(&mut said[length..]).unwrap();
        }
        said[34]
    };
    let (mut bulk, _) = listener.accept().unwrap();
    assert_eq!(lane_of(&mut bulk), 1);
    bulk.write_all(&welcome(CLUSTER, 312)).unwrap();
    // Nobody reads the bulk connection. The urgent one is another.
    let urgent = message(311, 312, "urgent");
    one.tcp.send(urgent.clone());
    let (mut other, _) = listener.accept().unwrap();
    assert_eq!(lane_of(&mut other), 0);
    other.write_all(&welcome(CLUSTER, 312)).unwrap();
    let mut heard = Vec::new();
    let wanted = urgent.encode();
    while !heard
        .windows(wanted.len())
        .any(|window| window == &wanted[..])
    {
        let mut bytes = [0; 4096];
        let count = other.read(&mut bytes).unwrap();
        assert!(count > 0);
        heard.extend_from_slice(&bytes[..count]);
    }
}

#[test]
fn what_came_by_the_bulk_lane_is_whole_and_marked() {
    let (one, two) = (start(321), start(322));
    one.knows(&two);
    let piece = message(321, 322, vec![9; 3 << 20]).with_lane(Lane::Bulk);
    one.tcp.send(piece.clone());
    becomes("the piece is there", || two.witness.has(&piece));
    assert_eq!(two.witness.messages.lock()[0].lane(), Lane::Bulk);
}

// ---- Addresses and connections that come and go -------------------------------------------------

#[test]
fn a_node_is_answered_where_it_says_that_it_listens() {
    let (one, two) = (start(401), start(402));
    two.knows(&one);
    two.reaches(&one, "it is me");
    one.reaches(&two, "so I see");
    assert_eq!(one.tcp.peers().address(402), Some(two.address()));
}

#[test]
fn a_new_node_becomes_known_to_those_that_it_was_not_told_of() {
    let (one, two, three) = (start(411), start(412), start(413));
    one.knows(&two);
    two.knows(&one);
    one.reaches(&two, "first");
    two.reaches(&one, "first");
    // The third knows the first, and learns of the second, as the second does of it.
    three.knows(&one);
    three.reaches(&one, "hello");
    becomes("the first answers", || {
        one.tcp.send(message(411, 413, "hello"));
        three.tcp.peers().address(412).is_some()
    });
    three.reaches(&two, "pleased to meet you");
    two.reaches(&three, "and you");
}

/// A list of addresses as it is documented.
fn addresses(nodes: std::ops::Range<u64>, at: &str) -> Vec<u8> {
    let mut entries = Vec::new();
    for node in nodes {
        entries.extend(node.to_be_bytes());
        entries.push(at.len() as u8);
        entries.extend(at.bytes());
    }
    let mut bytes = b"QRTA".to_vec();
    bytes.extend((entries.len() as u32).to_be_bytes());
    bytes.extend(crc32fast::hash(&entries).to_be_bytes());
    bytes.extend(entries);
    bytes
}

/// One list of addresses filled the book of every node that it came to, and a new member's own word was
/// not taken any more.
#[test]
fn a_flood_of_addresses_keeps_no_new_node_out_and_goes_no_further() {
    let (one, two) = (start(481), start(482));
    one.knows(&two);
    one.reaches(&two, "first");
    let mut liar = one.introduced(483, 0);
    liar.write_all(&addresses(10_000..13_000, "127.0.0.1:1"))
        .unwrap();
    becomes("the last of them is taken in", || {
        one.tcp.peers().address(12_999).is_some()
    });
    assert_eq!(one.tcp.peers().all().len(), 1 + 1024);
    let three = start(484);
    three.knows(&one);
    three.reaches(&one, "it is me");
    one.reaches(&three, "so I see");
    becomes("the second node hears of it", || {
        two.tcp.peers().address(484).is_some()
    });
    let known: Vec<NodeId> = two.tcp.peers().all().iter().map(|(id, _)| *id).collect();
    assert_eq!(known, [node(481), node(484)]);
}

#[test]
fn a_peer_that_moves_is_reached_where_it_is_now() {
    let (one, two) = (start(421), start(422));
    one.knows(&two);
    one.reaches(&two, "here");
    drop(two);
    let two = start(422);
    one.knows(&two);
    one.reaches(&two, "and there");
    // The host's word stands: what the peer says of itself does not count.
    let three = start_as(local(423), |builder| {
        builder.advertise("127.0.0.1:1").peer(421, one.address())
    });
    one.knows(&three);
    three.reaches(&one, "I'm elsewhere");
    assert_eq!(one.tcp.peers().address(423), Some(three.address()));
    one.reaches(&three, "no you are not");
    one.tcp.peers().remove(423);
    assert_eq!(one.tcp.peers().address(423), None);
}

#[test]
fn a_connection_to_a_former_address_is_given_up_though_it_works() {
    let (one, former, latter) = (start(471), start(472), start(472));
    one.knows(&former);
    one.reaches(&former, "here");
    one.knows(&latter);
    one.reaches(&latter, "and there");
}

#[test]
fn a_peer_that_was_not_there_is_dialled_again_by_itself() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let one = start_as(local(431), |builder| {
        builder.peer(432, format!("localhost:{port}"))
    });
    let waiting = message(431, 432, "sent once, before there was anybody");
    one.tcp.send(waiting.clone());
    let tcp = Tcp::builder(format!("127.0.0.1:{port}")).bind().unwrap();
    let witness = Arc::new(Witness::default());
    tcp.start(local(432), witness.clone()).unwrap();
    becomes("what waited is there", || witness.has(&waiting));
}

#[test]
fn a_connection_that_breaks_is_told_and_made_anew() {
    let (one, two) = (start(441), start(442));
    one.knows(&two);
    one.reaches(&two, "first");
    two.reaches(&one, "first");
    assert!(one.witness.disconnected.lock().is_empty());
    let address = two.address();
    drop(two);
    becomes("the peer is missed", || {
        one.witness.disconnected.lock().contains(&node(442))
    });
    let tcp = Tcp::builder(address).bind().unwrap();
    let witness = Arc::new(Witness::default());
    tcp.start(local(442), witness.clone()).unwrap();
    let again = message(441, 442, "again");
    becomes("it is back", || {
        one.tcp.send(again.clone());
        witness.has(&again)
    });
}

#[test]
fn an_address_that_cannot_be_had_is_an_error_at_once() {
    let one = start(451);
    for address in [one.address(), "no-port".to_owned()] {
        let error = Tcp::builder(&address).bind().unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
    }
    assert!(Tcp::builder("127.0.0.1:0").peer(0, "a:1").bind().is_err());
}

#[test]
fn a_peer_that_closes_its_half_alone_is_gone() {
    let one = start(461);
    let two = one.introduced(462, 0);
    two.shutdown(Shutdown::Write).unwrap();
    becomes("it is missed", || {
        *one.witness.disconnected.lock() == [node(462)]
    });
    is_closed(two);
}

// ---- Nodes --------------------------------------------------------------------------------------

type Configure = fn(NodeBuilder) -> NodeBuilder;

/// Three nodes over TCP in one process.
struct Cluster {
    nodes: Vec<Option<Node>>,
    addresses: Vec<String>,
    peers: Vec<Peers>,
}

impl Cluster {
    /// Nodes of which the first `up` are started.
    fn start(up: u64, configure: Configure) -> Cluster {
        Cluster::start_each(up, |_| configure)
    }

    fn start_each(up: u64, configure: impl Fn(u64) -> Configure) -> Cluster {
        log();
        let transports: Vec<Tcp> = (0..3)
            .map(|_| Tcp::builder("127.0.0.1:0").bind().unwrap())
            .collect();
        let addresses: Vec<String> = transports
            .iter()
            .map(|tcp| tcp.local_addr().to_string())
            .collect();
        let mut cluster = Cluster {
            nodes: Vec::new(),
            addresses,
            peers: Vec::new(),
        };
        for (id, tcp) in (1..=3).zip(transports) {
            for (other, address) in (1..=3).zip(&cluster.addresses) {
                tcp.peers().set(other, address);
            }
            cluster.peers.push(tcp.peers());
            let node = (id <= up).then(|| cluster.node_over(id, tcp, configure(id)));
            cluster.nodes.push(node);
        }
        cluster
    }

    fn node_over(&self, id: u64, tcp: Tcp, configure: Configure) -> Node {
        let builder = Node::builder(id).voters([1, 2, 3]).transport(tcp);
        configure(builder).start().unwrap()
    }

    fn up(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    #[track_caller]
    fn leader(&self) -> usize {
        let leads = |node: &Option<Node>| {
            node.as_ref()
                .is_some_and(|node| node.status().role == Role::Leader)
        };
        becomes("there is a leader", || self.nodes.iter().any(leads));
        self.nodes.iter().position(leads).unwrap()
    }

    fn session(&self, at: usize) -> Session {
        let node = self.nodes[at].as_ref().unwrap();
        node.session().open().wait_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn three_nodes_agree_over_tcp_and_outlive_their_leader() {
    let mut cluster = Cluster::start(3, |builder| builder);
    let leader = cluster.leader();
    for at in 0..3 {
        let session = cluster.session(at);
        session
            .create(&format!("/{at}"), "x", CreateMode::Persistent)
            .wait_timeout(PATIENCE)
            .unwrap();
    }
    let survivor = (leader + 1) % 3;
    let session = cluster.session(survivor);
    cluster.nodes[leader].take().unwrap().shutdown();
    session
        .set("/0", "after", Version::ANY)
        .wait_timeout(PATIENCE)
        .unwrap();
    for node in cluster.up() {
        assert_ne!(node.status().leader, Some(node_id(leader)));
    }
    for at in 0..3 {
        let (data, _) = session
            .linearizable()
            .get(&format!("/{at}"))
            .wait_timeout(PATIENCE)
            .unwrap();
        let expected = if at == 0 { "after" } else { "x" };
        assert_eq!(&data[..], expected.as_bytes());
    }
}

/// The election timeouts of two nodes are longer than anybody waits: their leader's closed connections
/// alone can make them look for another.
#[test]
fn followers_that_see_their_leader_go_do_not_wait_for_the_election_timeout() {
    fn first_leads(builder: NodeBuilder) -> NodeBuilder {
        builder.seed(7)
    }
    fn others_wait(builder: NodeBuilder) -> NodeBuilder {
        builder.seed(7).election_ticks(4000)
    }
    let configure = |id| match id {
        1 => first_leads as Configure,
        _ => others_wait,
    };
    let mut cluster = Cluster::start_each(3, configure);
    let told = |status: &NodeStatus| status.leader == Some(node_id(0));
    for node in cluster.up() {
        node.wait_for(PATIENCE, told).unwrap();
    }
    // It outlives a first pre-vote that comes before the other follower has seen anything.
    let follower = cluster.nodes[1].as_ref().unwrap();
    let mut opening = follower.session().timeout(Duration::from_secs(40)).open();
    let session = opening.wait_timeout(PATIENCE).unwrap();
    cluster.nodes[0].take().unwrap().shutdown();
    session
        .create("/after", "", CreateMode::Persistent)
        .wait_timeout(PATIENCE)
        .unwrap();
}

fn node_id(at: usize) -> NodeId {
    node(at as u64 + 1)
}

#[test]
fn a_follower_that_was_away_catches_up_by_a_snapshot() {
    fn small(builder: NodeBuilder) -> NodeBuilder {
        builder.snapshot_log_bytes(256 * 1024).log_entries_kept(4)
    }
    let mut cluster = Cluster::start(2, small);
    let leader = cluster.leader();
    let session = cluster.session(leader);
    for number in 0..100 {
        session
            .create(
                &format!("/{number}"),
                vec![7; 50_000],
                CreateMode::Persistent,
            )
            .wait_timeout(PATIENCE)
            .unwrap();
    }
    // Started now, at its third address, it can only be given a snapshot.
    let tcp = Tcp::builder("127.0.0.1:0").bind().unwrap();
    let address = tcp.local_addr().to_string();
    for (id, known) in (1..=2).zip(&cluster.addresses) {
        tcp.peers().set(id, known);
    }
    cluster
        .peers
        .iter()
        .for_each(|peers| peers.set(3, &address));
    let third = cluster.node_over(3, tcp, small);
    let zxid = cluster.nodes[leader].as_ref().unwrap().status().zxid;
    third
        .wait_for(PATIENCE, |status| status.zxid >= zxid)
        .unwrap();
    assert_eq!(
        third.status().znodes,
        cluster.nodes[leader].as_ref().unwrap().status().znodes
    );
    let bulk = |line: &String| line.contains("lane=Bulk") && line.contains(" node=3 ");
    assert!(log().lock().iter().any(bulk), "no bulk connection was made");
    cluster.nodes[2] = Some(third);
    drop(cluster);
}

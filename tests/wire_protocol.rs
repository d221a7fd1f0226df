//! ZooKeeper's protocol, frame by frame: what comes before what, what bad input gets, what is bounded.

mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
use quorate::{CreateMode, Node, Version};
use support::{Within as _, eventually};
use wire::{Wire, body, create, read, set};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET: i32 = 4;
const SET: i32 = 5;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const PING: i32 = 11;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const CHECK_WATCHES: i32 = 17;
const REMOVE_WATCHES: i32 = 18;
const SET_WATCHES: i32 = 101;
const SET_WATCHES_2: i32 = 105;
const ADD_WATCH: i32 = 106;
const CLOSE: i32 = -11;

const LONG: i32 = 60_000;

fn serve_with(
    options: impl FnOnce(ZooKeeperServerBuilder) -> ZooKeeperServerBuilder,
) -> (Node, ZooKeeperServer) {
    let node = Node::builder(1)
        .session_timeouts(Duration::from_millis(500), Duration::from_secs(60))
        .start()
        .unwrap();
    let builder = ZooKeeperServer::builder(&node).listen("127.0.0.1:0");
    let server = options(builder).start().unwrap();
    (node, server)
}

fn serve() -> (Node, ZooKeeperServer) {
    serve_with(|builder| builder)
}

fn connect(server: &ZooKeeperServer) -> Wire {
    Wire::connect(server.address(), LONG).0
}

/// Whether the server still serves.
fn assert_serves(address: SocketAddr) {
    let mut wire = Wire::connect(address, LONG).0;
    assert_eq!(wire.call(1, EXISTS, &read("/", false)).error, 0);
}

// ---- Order ------------------------------------------------------------------------------------

#[test]
fn replies_come_in_the_order_of_their_requests() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    // Writes that wait for the log, reads that don't, pings and failures, all sent before any answer.
    wire.request(0, CREATE, &create("/a", b"", 0));
    for turn in 0..500 {
        wire.request(4 * turn + 1, SET, &set("/a", turn.to_string().as_bytes()));
        wire.request(4 * turn + 2, GET, &read("/a", false));
        wire.request(4 * turn + 3, EXISTS, &read("/none", false));
        wire.request(4 * turn + 4, CREATE, &create("/a", b"", 0));
    }
    wire.request(-2, PING, &body());
    let mut zxid = 0;
    for xid in 0..=2_000 {
        let reply = wire.frame().unwrap();
        assert_eq!(reply.xid, xid);
        assert!(reply.zxid >= zxid, "{reply:?} after {zxid}");
        zxid = reply.zxid;
        match xid % 4 {
            2 => assert_eq!(reply.buffer(), ((xid - 2) / 4).to_string().as_bytes()),
            3 => assert_eq!(reply.error, -101),
            0 if xid > 0 => assert_eq!(reply.error, -110),
            _ => assert_eq!(reply.error, 0),
        }
    }
    assert_eq!(wire.frame().unwrap().xid, -2);
}

#[test]
fn pipelined_writes_share_the_log() {
    // Were each one awaited, another's writes would come between them.
    let (node, server) = serve();
    let session = node.session().open().within().unwrap();
    session
        .create("/other", "", CreateMode::Persistent)
        .within()
        .unwrap();
    let mut wire = connect(&server);
    wire.call(1, CREATE, &create("/a", b"", 0));
    let mut all = Vec::new();
    for xid in 0..200 {
        let mut frame = body().int(xid).int(SET);
        frame.0.extend(set("/a", b"x").0);
        all.extend((frame.0.len() as i32).to_be_bytes());
        all.extend(frame.0);
    }
    wire.send_raw(&all);
    let other = session.set("/other", "", Version::ANY);
    let zxids: Vec<i64> = (0..200).map(|xid| wire.reply(xid).0.zxid).collect();
    other.within().unwrap();
    let consecutive = zxids.windows(2).filter(|pair| pair[1] == pair[0] + 1);
    assert!(consecutive.count() >= 190, "{zxids:?}");
}

#[test]
fn an_event_comes_before_the_reply_that_shows_its_change() {
    let (node, server) = serve();
    let session = node.session().open().within().unwrap();
    let created = session.create("/a", "0", CreateMode::Persistent);
    created.within().unwrap();
    let mut wire = connect(&server);
    wire.call(0, CREATE, &create("/own", b"", 0));
    for turn in 1..=300 {
        let seen = wire.call(1, GET, &read("/a", true)).buffer().to_vec();
        let set_by_other = session.set("/a", turn.to_string(), Version::ANY);
        // Reads at once, and behind a write of its own, until the change is seen.
        let mut heard = false;
        loop {
            if turn % 2 == 0 {
                wire.request(2, SET, &set("/own", b""));
                heard |= !wire.reply(2).1.is_empty();
            }
            wire.request(3, GET, &read("/a", false));
            let (reply, events) = wire.reply(3);
            heard |= !events.is_empty();
            if reply.buffer() != seen {
                assert!(heard, "the change of turn {turn} was seen before its event");
                break;
            }
        }
        set_by_other.within().unwrap();
    }
}

#[test]
fn no_event_comes_before_the_reply_of_the_read_that_set_its_watch() {
    // One thread, kept busy by others, so that changes come between an answer and its reply.
    let (node, server) = serve_with(|builder| builder.threads(1));
    let session = node.session().open().within().unwrap();
    let large = vec![0; 500_000];
    for (path, data) in [("/a", &b""[..]), ("/large", &large)] {
        let created = session.create(path, data, CreateMode::Persistent);
        created.within().unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                session.set("/a", "", Version::ANY).within().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut noise = connect(&server);
                while !stop.load(Ordering::Relaxed) {
                    noise.call(1, GET, &read("/large", false));
                }
            });
        }
        let mut wire = connect(&server);
        wire.call(0, CREATE, &create("/own", b"", 0));
        let early = (0..300).find(|_| {
            // The read waits for the write before it: its watch is set by the node's loop.
            wire.request(1, SET, &set("/own", b""));
            wire.request(2, GET, &read("/a", true));
            let (_, before) = wire.reply(1);
            if !before.is_empty() {
                return true;
            }
            if !wire.reply(2).1.is_empty() {
                return true;
            }
            // The next turn begins without a watch.
            !wire.frame().unwrap().is_event()
        });
        stop.store(true, Ordering::Relaxed);
        assert_eq!(early, None, "an event came before the reply of its read");
    });
}

#[test]
fn what_is_sent_behind_a_sync_sees_what_it_brings() {
    let cluster = support::Cluster::new(3);
    let follower = cluster.follower();
    let leader = cluster.session(cluster.leader());
    let created = leader.create("/a", "", CreateMode::Persistent);
    created.within().unwrap();
    let builder = ZooKeeperServer::builder(cluster.node(follower));
    let server = builder.listen("127.0.0.1:0").start().unwrap();
    let mut wire = connect(&server);
    for turn in 0..100 {
        let value = turn.to_string();
        leader.set("/a", &value, Version::ANY).within().unwrap();
        wire.request(1, SYNC, &body().text("/a"));
        wire.request(2, GET, &read("/a", false));
        assert_eq!(wire.reply(1).0.buffer(), b"/a");
        assert_eq!(wire.reply(2).0.buffer(), value.as_bytes());
    }
}

// ---- Watches ----------------------------------------------------------------------------------

#[test]
fn persistent_watches_hear_until_they_are_removed() {
    let (_node, server) = serve();
    let (mut wire, mut other) = (connect(&server), connect(&server));
    other.call(1, CREATE, &create("/p", b"", 0));
    other.call(2, CREATE, &create("/r", b"", 0));
    assert_eq!(wire.call(1, ADD_WATCH, &body().text("/p").int(0)).error, 0);
    assert_eq!(wire.call(2, ADD_WATCH, &body().text("/r").int(1)).error, 0);
    assert_eq!(wire.call(3, ADD_WATCH, &body().text("/r").int(2)).error, -5);
    for _ in 0..2 {
        other.call(3, SET, &set("/p", b""));
        other.call(4, CREATE, &create("/r/c", b"", 0));
        other.call(5, DELETE, &body().text("/r/c").int(-1));
        other.call(6, CREATE, &create("/p/c", b"", 0));
        other.call(7, DELETE, &body().text("/p/c").int(-1));
        let heard: Vec<_> = (0..5).map(|_| wire.frame().unwrap().event()).collect();
        let expected = [(3, "/p"), (1, "/r/c"), (2, "/r/c"), (4, "/p"), (4, "/p")];
        assert_eq!(heard, expected.map(|(kind, path)| (kind, path.to_string())));
    }
    let persistent = body().text("/p").int(4);
    assert_eq!(wire.call(4, CHECK_WATCHES, &persistent).error, 0);
    let data = body().text("/p").int(2);
    assert_eq!(wire.call(5, CHECK_WATCHES, &data).error, -121);
    assert_eq!(wire.call(6, REMOVE_WATCHES, &data).error, -121);
    assert_eq!(wire.call(7, REMOVE_WATCHES, &persistent).error, 0);
    assert_eq!(wire.call(8, REMOVE_WATCHES, &persistent).error, -121);
    other.call(8, SET, &set("/p", b""));
    wire.call(9, GET, &read("/p", false));
    let any = body().text("/r").int(3);
    assert_eq!(wire.call(10, REMOVE_WATCHES, &any).error, 0);
    assert_eq!(wire.call(11, CHECK_WATCHES, &any).error, -121);
}

#[test]
fn a_watch_is_added_in_its_turn() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    for turn in 0..50 {
        let path = format!("/{turn}");
        wire.request(1, CREATE, &create(&path, b"", 0));
        wire.request(2, ADD_WATCH, &body().text(&path).int(0));
        wire.request(3, SET, &set(&path, b""));
        assert_eq!(wire.reply(1).1, [], "the creation was before the watch");
        assert_eq!(wire.reply(2).1, [], "the creation was before the watch");
        let heard: Vec<_> = wire.reply(3).1.iter().map(wire::Frame::event).collect();
        assert_eq!(heard, [(3, path)]);
    }
}

#[test]
fn watches_are_taken_up_where_a_connection_was_lost() {
    let (_node, server) = serve();
    let mut other = connect(&server);
    for path in ["/data", "/same", "/parent", "/gone"] {
        other.call(1, CREATE, &create(path, b"", 0));
    }
    let (mut wire, welcome) = Wire::connect(server.address(), LONG);
    let since = wire.call(1, GET, &read("/data", true)).zxid;
    drop(wire);
    other.call(2, SET, &set("/data", b""));
    other.call(3, CREATE, &create("/parent/c", b"", 0));
    other.call(4, DELETE, &body().text("/gone").int(-1));
    other.call(5, CREATE, &create("/new", b"", 0));
    let mut wire = Wire::open(server.address());
    wire.ask_for_session(welcome.session, &welcome.password, LONG);
    assert_eq!(wire.welcome().unwrap().session, welcome.session);
    let watches = body()
        .long(since)
        .texts(&["/data", "/same", "/gone"])
        .texts(&["/new", "/later"])
        .texts(&["/parent", "not a path"]);
    wire.request(-8, SET_WATCHES, &watches);
    let (reply, events) = wire.reply(-8);
    assert_eq!(reply.error, 0);
    let heard: Vec<_> = events.iter().map(wire::Frame::event).collect();
    let expected = [(3, "/data"), (2, "/gone"), (1, "/new"), (4, "/parent")];
    assert_eq!(heard, expected.map(|(kind, path)| (kind, path.to_string())));
    other.call(6, CREATE, &create("/later", b"", 0));
    other.call(7, SET, &set("/same", b""));
    assert_eq!(wire.frame().unwrap().event(), (1, "/later".to_string()));
    assert_eq!(wire.frame().unwrap().event(), (3, "/same".to_string()));
    let lasting = body()
        .long(since)
        .int(0)
        .int(0)
        .int(0)
        .texts(&["/p"])
        .int(0);
    wire.request(-8, SET_WATCHES_2, &lasting);
    assert_eq!(wire.reply(-8).0.error, 0);
    let persistent = body().text("/p").int(4);
    assert_eq!(wire.call(2, CHECK_WATCHES, &persistent).error, 0);
}

#[test]
fn a_client_with_too_many_events_is_made_to_connect_again() {
    let (node, server) = serve_with(|builder| builder.events_max(8));
    let mut wire = connect(&server);
    wire.call(1, ADD_WATCH, &body().text("/").int(1));
    let session = node.session().open().within().unwrap();
    let mut multi = session.multi();
    for at in 0..100 {
        multi = multi.create(&format!("/n{at}"), "", CreateMode::Persistent);
    }
    multi.commit().within().unwrap();
    assert!(wire.is_closed());
    assert_serves(server.address());
}

// ---- Sessions ---------------------------------------------------------------------------------

#[test]
fn a_silent_client_loses_its_session_and_a_pinging_one_keeps_it() {
    let (node, server) = serve();
    let (mut silent, _) = Wire::connect(server.address(), 500);
    let (mut pinging, _) = Wire::connect(server.address(), 500);
    silent.call(1, CREATE, &create("/silent", b"", 1));
    pinging.call(1, CREATE, &create("/pinging", b"", 1));
    let session = node.session().open().within().unwrap();
    eventually("the silent one's ephemeral vanishes", || {
        assert_eq!(pinging.call(-2, PING, &body()).error, 0);
        session.exists("/silent").within().unwrap().is_none()
    });
    assert!(silent.is_closed());
    assert!(session.exists("/pinging").within().unwrap().is_some());
}

#[test]
fn one_session_is_never_served_by_two_connections() {
    let (_node, server) = serve();
    let (mut first, welcome) = Wire::connect(server.address(), LONG);
    first.call(1, CREATE, &create("/e", b"", 1));
    let mut second = Wire::open(server.address());
    second.ask_for_session(welcome.session, &welcome.password, LONG);
    assert_eq!(second.welcome().unwrap().session, welcome.session);
    first.request(2, GET, &read("/e", false));
    assert_eq!(first.frame(), None, "no reply, but the end");
    assert_eq!(second.call(1, GET, &read("/e", false)).error, 0);
    assert_eq!(second.call(2, CLOSE, &body()).error, 0);
    assert!(second.is_closed());
}

#[test]
fn a_session_of_somebody_else_is_not_to_be_had() {
    let (_node, server) = serve();
    let (mut owner, welcome) = Wire::connect(server.address(), LONG);
    let mut wrong = welcome.password.clone();
    wrong[0] ^= 1;
    let session = welcome.session;
    let attempts = [
        (session, &wrong[..]),
        (session, &[]),
        (99, &wrong),
        (-1, &wrong),
    ];
    for (session, password) in attempts {
        let mut wire = Wire::open(server.address());
        wire.ask_for_session(session, password, LONG);
        let welcome = wire.welcome().unwrap();
        assert_eq!((welcome.session, welcome.timeout_ms), (0, 0));
        assert!(wire.is_closed());
    }
    assert_eq!(owner.call(1, EXISTS, &read("/", false)).error, 0);
}

// ---- Bad input --------------------------------------------------------------------------------

#[test]
fn a_frame_of_an_impossible_length_closes_its_connection() {
    let (_node, server) = serve();
    for length in [-1, i32::MIN, 0x10_0000, i32::MAX] {
        let mut wire = connect(&server);
        wire.send_raw(&length.to_be_bytes());
        assert!(wire.is_closed());
        // As its first word, too.
        let mut wire = Wire::open(server.address());
        wire.send_raw(&length.to_be_bytes());
        assert!(wire.is_closed());
    }
    for length in 0..8 {
        let mut wire = connect(&server);
        wire.send(&wire::Body(vec![0; length]));
        assert!(wire.is_closed());
    }
    assert_serves(server.address());
}

#[test]
fn a_request_before_a_session_closes_its_connection() {
    let (_node, server) = serve();
    for length in 0..32 {
        let mut wire = Wire::open(server.address());
        let mut request = body().int(1).int(GET);
        request.0.extend(read("/a", false).0);
        request.0.resize(length, 0);
        wire.send(&request);
        assert!(wire.is_closed());
    }
    assert_serves(server.address());
}

#[test]
fn what_is_malformed_is_said_to_be_and_the_connection_goes_on() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    let short = body().text("/a");
    assert_eq!(wire.call(1, SET, &short).error, -5);
    assert_eq!(wire.call(1, GET, &body().int(-5).bool(false)).error, -5);
    let no_count = body().text("/a").text("").int(1 << 30);
    assert_eq!(wire.call(1, CREATE, &no_count).error, -5);
    assert_eq!(wire.call(1, CREATE, &create("/\u{1}", b"", 0)).error, -8);
    assert_eq!(wire.call(1, CREATE, &create("/a", b"", 9)).error, -8);
    let not_utf8 = body().text(b"/\xff").bool(false);
    assert_eq!(wire.call(1, GET, &not_utf8).error, -101);
    // An xid used again is answered again.
    assert_eq!(wire.call(1, EXISTS, &read("/", false)).error, 0);
    assert_eq!(wire.call(1, CHECK, &body().text("/").int(0)).error, -6);
    assert_eq!(wire.call(1, 20, &body().text("/").int(0)).error, -6);
    for unknown in [0, -1, -10, 10, 23, 99, i32::MAX] {
        let mut wire = connect(&server);
        assert_eq!(wire.call(1, unknown, &body()).error, -6);
        assert!(wire.is_closed());
    }
}

#[test]
fn a_multi_of_too_many_operations_is_refused_as_a_whole() {
    let (_node, server) = serve_with(|builder| builder.frame_bytes_max(8 << 20));
    let mut wire = connect(&server);
    let mut multi = create("/x", b"", 0);
    let header = |opcode, done| body().int(opcode).bool(done).int(-1);
    multi.0.splice(0..0, header(CREATE, false).0);
    for _ in 0..100_000 {
        multi.0.extend(header(CHECK, false).text("/").int(-1).0);
    }
    multi.0.extend(header(-1, true).0);
    assert_eq!(wire.call(1, MULTI, &multi).error, -8);
    assert_eq!(wire.call(2, EXISTS, &read("/x", false)).error, -101);
}

#[test]
fn a_million_watches_are_too_many() {
    let (_node, server) =
        serve_with(|builder| builder.frame_bytes_max(16 << 20).watches_max(1_000));
    let mut wire = connect(&server);
    let mut paths = body().long(0).int(1_000_000);
    for at in 0..1_000_000 {
        paths = paths.text(format!("/{at}"));
    }
    wire.request(-8, SET_WATCHES, &paths.int(0).int(0));
    assert!(wire.is_closed());
    let mut wire = connect(&server);
    for at in 0..1_000 {
        let read = read(&format!("/{at}"), true);
        assert_eq!(wire.call(at, EXISTS, &read).error, -101);
    }
    assert_eq!(wire.call(-7, EXISTS, &read("/one-more", true)).error, -127);
    assert_eq!(wire.call(-7, EXISTS, &read("/one-more", false)).error, -101);
}

// ---- Bounds -----------------------------------------------------------------------------------

#[test]
fn a_client_that_does_not_read_is_not_read_from() {
    let (node, server) = serve();
    let session = node.session().open().within().unwrap();
    let created = session.create("/large", vec![7; 100_000], CreateMode::Persistent);
    created.within().unwrap();
    let mut slow = connect(&server);
    let mut sender = slow.stream.try_clone().unwrap();
    const REQUESTS: i32 = 2_000;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for xid in 0..REQUESTS {
                let mut frame = body().int(xid).int(GET);
                frame.0.extend(read("/large", false).0);
                let mut bytes = (frame.0.len() as i32).to_be_bytes().to_vec();
                bytes.extend(frame.0);
                std::io::Write::write_all(&mut sender, &bytes).unwrap();
            }
        });
        // Meanwhile it holds up nobody.
        assert_serves(server.address());
        let (received, _) = server.packets();
        assert!(received < 1_000, "{received} requests were taken from it");
        for xid in 0..REQUESTS {
            let reply = slow.frame().unwrap();
            assert_eq!((reply.xid, reply.buffer().len()), (xid, 100_000));
        }
    });
}

#[test]
fn connections_are_limited_in_all_and_by_address() {
    let (_node, server) = serve_with(|builder| builder.connections_max(2));
    let first = connect(&server);
    let mut second = connect(&server);
    assert!(Wire::open(server.address()).is_closed());
    drop(first);
    eventually("there is room again", || server.connections() < 2);
    assert_serves(server.address());
    assert_eq!(second.call(1, EXISTS, &read("/", false)).error, 0);
    let (_node, server) = serve_with(|builder| builder.connections_per_address_max(1));
    let _only = connect(&server);
    assert!(Wire::open(server.address()).is_closed());
}

#[test]
fn many_clients_are_served_by_few_threads() {
    let (node, server) = serve_with(|builder| builder.threads(2));
    let mut clients: Vec<Wire> = (0..200).map(|_| connect(&server)).collect();
    for (at, wire) in clients.iter_mut().enumerate() {
        wire.request(1, CREATE, &create(&format!("/c{at}"), b"", 1));
        wire.request(2, GET_CHILDREN, &read("/", true));
    }
    for wire in &mut clients {
        assert_eq!(wire.reply(1).0.error, 0);
        assert_eq!(wire.reply(2).0.error, 0);
    }
    assert_eq!(server.connections(), 200);
    server.shutdown();
    assert!(clients.iter_mut().all(Wire::is_closed));
    assert_eq!(server.connections(), 0);
    // They can be had at another server.
    assert_eq!(node.status().sessions_attached, 200);
}

// ---- Words ------------------------------------------------------------------------------------

fn word(server: &ZooKeeperServer, word: &str) -> String {
    let mut wire = Wire::open(server.address());
    wire.send_raw(word.as_bytes());
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut wire.stream, &mut answer).unwrap();
    answer
}

#[test]
fn four_letter_words_are_answered_where_they_are_allowed() {
    let (node, server) = serve();
    let mut client = connect(&server);
    client.call(1, CREATE, &create("/a", b"", 0));
    // A turn of the node answers its callers before it says how it is.
    let shown = |status: &quorate::NodeStatus| status.zxid.0 == 3;
    node.wait_for(Duration::from_secs(30), shown).unwrap();
    let srvr = word(&server, "srvr");
    for line in [
        "Zookeeper version: 3.",
        "Mode: standalone\n",
        "Zxid: 0x3\n",
        "Received: 1\n",
    ] {
        assert!(srvr.contains(line), "no {line:?} in {srvr}");
    }
    let refused = "ruok is not executed because it is not in the whitelist.\n";
    assert_eq!(word(&server, "ruok"), refused);
    let (_node, server) = serve_with(|builder| builder.four_letter_words(["*"]));
    let mut client = connect(&server);
    client.call(1, CREATE, &create("/a", b"", 0));
    assert_eq!(word(&server, "ruok"), "imok");
    assert_eq!(word(&server, "isro"), "rw");
    assert!(word(&server, "mntr").contains("zk_server_state\tstandalone\n"));
    assert!(word(&server, "conf").contains("jute.maxbuffer=1048575\n"));
    assert!(word(&server, "cons").contains("[1](queued=0,recved=1,sent=1,sid=0x1,"));
    assert!(word(&server, "stat").contains("Clients:\n /127.0.0.1:"));
    assert_eq!(word(&server, "srst"), "Server stats reset.\n");
    assert!(word(&server, "srvr").contains("Received: 0\n"));
}

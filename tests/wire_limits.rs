//! What one client, or a crowd of them, may make the server hold: each limit is kept, and nobody else notices.

#[path = "wire/asked.rs"]
mod asked;
mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
use quorate::{CreateMode, Node, Version};
use support::{Cluster, Kind, Within as _, eventually};
use wire::{Body, Wire, body, create, read, set};

const CREATE: i32 = 1;
const EXISTS: i32 = 3;
const GET: i32 = 4;
const SET: i32 = 5;
const PING: i32 = 11;
const MULTI_READ: i32 = 22;
const SET_WATCHES: i32 = 101;
const ADD_WATCH: i32 = 106;
const REMOVE_WATCHES: i32 = 18;
const CLOSE: i32 = -11;

const LONG: i32 = 60_000;
const MARSHALLING_ERROR: i32 = -5;
const THROTTLED: i32 = -127;

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

fn connect(server: &ZooKeeperServer) -> Wire {
    Wire::connect(server.address(), LONG).0
}

/// A znode of a mebibyte, or nearly.
fn make_big(node: &Node) {
    let session = node.session().open().within().unwrap();
    let created = session.create("/big", vec![7; 1_000_000], CreateMode::Persistent);
    created.within().unwrap();
}

/// So many requests for it, as they are sent.
fn gets(count: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for xid in 0..count {
        let mut frame = body().int(xid).int(GET);
        frame.0.extend(read("/big", false).0);
        bytes.extend((frame.0.len() as i32).to_be_bytes());
        bytes.extend(frame.0);
    }
    bytes
}

// ---- Clients that don't take what they asked for ----------------------------------------------

#[test]
fn a_crowd_that_takes_no_answers_holds_up_nobody_else() {
    let (node, server) = serve_with(|builder| builder);
    make_big(&node);
    let requests = gets(600);
    let crowd: Vec<Wire> = (0..40)
        .map(|_| {
            let mut wire = connect(&server);
            wire.send_raw(&requests);
            wire
        })
        .collect();
    // Each has as many answered as one connection may have under way: in all more than there may be.
    let mut good = connect(&server);
    let mut xid = 0;
    eventually("the crowd has had its share", || {
        xid += 1;
        assert_eq!(good.call(xid, EXISTS, &read("/", false)).error, 0);
        server.packets().0 >= 40 * 256
    });
    for xid in 0..100 {
        assert_eq!(good.call(xid, SET, &set("/big", b"")).error, 0);
    }
    drop(crowd);
}

#[test]
fn who_takes_but_says_nothing_more_loses_its_session_and_its_connection() {
    let (node, server) = serve_with(|builder| builder);
    make_big(&node);
    let (mut wire, _) = Wire::connect(server.address(), 500);
    wire.call(1, CREATE, &create("/e", b"", 1));
    let session = node.session().open().within().unwrap();
    // All in one piece: there is always one more that waits in the server.
    wire.send_raw(&gets(2_000));
    let mut piece = vec![0; 65536];
    eventually("its ephemeral vanishes", || {
        let _ = wire.stream.read(&mut piece);
        session.exists("/e").within().unwrap().is_none()
    });
    eventually("its connection is closed", || {
        let _ = wire.stream.read(&mut piece);
        server.connections() == 0
    });
}

#[test]
fn what_waits_for_a_quorum_is_limited_in_bytes() {
    const DATA: usize = 900_000;
    let mut cluster = Cluster::with(3, Kind::Memory, |_, builder| {
        builder.session_timeouts(Duration::from_secs(1), Duration::from_secs(600))
    });
    let stays = cluster.follower();
    let server = ZooKeeperServer::builder(cluster.node(stays))
        .listen("127.0.0.1:0")
        .threads(1)
        .four_letter_words(["*"])
        .read_only_after(Duration::from_secs(3_600))
        .outstanding_bytes_total_max(4 * DATA)
        .start()
        .unwrap();
    let mut crowd: Vec<Wire> = (0..4)
        .map(|_| Wire::connect(server.address(), 600_000).0)
        .collect();
    for (at, wire) in crowd.iter_mut().enumerate() {
        let made = create(&format!("/p{at}"), b"", 0);
        assert_eq!(wire.call(1, CREATE, &made).error, 0);
    }
    let (before, _) = server.packets();
    let others: Vec<u64> = cluster
        .running()
        .into_iter()
        .filter(|id| *id != stays)
        .collect();
    others.iter().for_each(|id| cluster.stop(*id));
    let write = vec![7; DATA];
    std::thread::scope(|scope| {
        for (at, wire) in crowd.iter_mut().enumerate() {
            let write = &write;
            scope.spawn(move || {
                for xid in 0..4 {
                    wire.request(xid, SET, &set(&format!("/p{at}"), write));
                }
                for xid in 0..4 {
                    let (reply, _) = wire.reply(xid);
                    assert_eq!(reply.error, 0);
                }
            });
        }
        let taken = || server.packets().0 - before;
        eventually("as many are taken as may be", || taken() >= 4);
        // Each is answered by the thread that would take more meanwhile.
        for _ in 0..100 {
            assert_eq!(asked::word(server.address(), "ruok"), "imok");
        }
        assert!(taken() <= 5, "{} are taken", taken());
        others.iter().for_each(|id| cluster.start(*id));
    });
}

// ---- Replies and events that are large --------------------------------------------------------

fn multi_read(path: &str, count: usize) -> Body {
    let mut reads = body();
    for _ in 0..count {
        reads.0.extend(body().int(GET).bool(false).int(-1).0);
        reads.0.extend(read(path, false).0);
    }
    reads.0.extend(body().int(-1).bool(true).int(-1).0);
    reads
}

#[test]
fn a_reply_is_not_longer_than_its_limit() {
    let (node, server) = serve_with(|builder| builder);
    make_big(&node);
    let mut wire = connect(&server);
    let reply = wire.call(1, MULTI_READ, &multi_read("/big", 70));
    assert_eq!((reply.error, reply.body.len()), (MARSHALLING_ERROR, 0));
    let reply = wire.call(2, MULTI_READ, &multi_read("/big", 3));
    assert_eq!(reply.error, 0);
    assert!(reply.body.len() > 3_000_000);
}

#[test]
fn a_log_that_panics_costs_no_connection() {
    let (_node, server) = serve_with(|builder| builder.threads(1).log(|line| panic!("{line}")));
    let mut good = connect(&server);
    let mut bad = connect(&server);
    bad.send_raw(&i32::MIN.to_be_bytes());
    assert!(bad.is_closed());
    assert_eq!(good.call(1, EXISTS, &read("/", false)).error, 0);
    assert_eq!(connect(&server).call(1, EXISTS, &read("/", false)).error, 0);
}

#[test]
fn a_reply_behind_many_events_waits_for_room_for_them() {
    const EVENTS: usize = 3_000;
    let (_node, server) = serve_with(|builder| builder.threads(1));
    let mut wire = connect(&server);
    let path = |at: usize| format!("/{at:04}{}", "n".repeat(10_000));
    for at in 0..EVENTS {
        assert_eq!(wire.call(1, CREATE, &create(&path(at), b"", 1)).error, 0);
    }
    let recursive = body().text("/").int(1);
    assert_eq!(wire.call(2, ADD_WATCH, &recursive).error, 0);
    // Its ephemerals go with it, and it hears of each before it is answered.
    let (received, sent) = server.packets();
    wire.request(3, CLOSE, &body());
    eventually("it is heard", || server.packets().0 > received);
    let mut good = connect(&server);
    eventually("the session is over", || {
        let exists = read(&path(EVENTS - 1), false);
        good.call(1, EXISTS, &exists).error == -101
    });
    for _ in 0..10 {
        good.call(-2, PING, &body());
    }
    // The sockets took some of them, the server holds few.
    let written = server.packets().1 - sent;
    assert!(written < 2_000, "{written} of {EVENTS}");
    let mut heard = 0;
    loop {
        let frame = wire.frame().expect("an event, or the reply");
        if !frame.is_event() {
            assert_eq!(frame.xid, 3);
            break;
        }
        assert_eq!(frame.event().0, 2);
        heard += 1;
    }
    assert_eq!(heard, EVENTS);
    assert!(wire.is_closed());
}

// ---- Watches ----------------------------------------------------------------------------------

#[test]
fn a_watch_is_answered_before_its_first_event() {
    let (node, server) = serve_with(|builder| builder);
    let session = node.session().open().within().unwrap();
    let created = session.create("/a", "", CreateMode::Persistent);
    created.within().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                session.set("/a", "", Version::ANY).within().unwrap();
            }
        });
        let mut wire = connect(&server);
        let mut early = 0;
        for xid in 0..3_000 {
            wire.request(xid, ADD_WATCH, &body().text("/a").int(0));
            early += wire.reply(xid).1.len();
            wire.request(xid, REMOVE_WATCHES, &body().text("/a").int(3));
            assert_eq!(wire.reply(xid).0.error, 0);
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(early, 0, "events came before the reply of their watch");
    });
}

#[test]
fn who_has_missed_more_than_its_queue_holds_is_told_all_of_it() {
    const PATHS: usize = 200;
    let (_node, server) = serve_with(|builder| builder.events_max(20));
    let mut wire = connect(&server);
    let paths: Vec<String> = (0..PATHS).map(|at| format!("/p{at}")).collect();
    for path in &paths {
        assert_eq!(wire.call(1, CREATE, &create(path, b"", 0)).error, 0);
    }
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    // It has seen nothing since the beginning, and they have changed.
    let watches = body().long(1).texts(&names).texts(&[]).texts(&[]);
    wire.request(-8, SET_WATCHES, &watches);
    let (reply, events) = wire.reply(-8);
    assert_eq!(reply.error, 0);
    let told: Vec<(i32, String)> = events.iter().map(wire::Frame::event).collect();
    let expected: Vec<(i32, String)> = paths.iter().map(|path| (3, path.clone())).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_path_that_is_watched_twice_counts_once() {
    let (_node, server) = serve_with(|builder| builder.watches_max(10));
    let mut wire = connect(&server);
    let paths: Vec<String> = (0..10).map(|at| format!("/p{at}")).collect();
    let mut zxid = 0;
    for path in &paths {
        zxid = wire.call(1, CREATE, &create(path, b"", 0)).zxid;
    }
    let names: Vec<&str> = paths.iter().map(String::as_str).collect();
    for _ in 0..2 {
        let watches = body().long(zxid).texts(&names).texts(&[]).texts(&names);
        assert_eq!(wire.call(-8, SET_WATCHES, &watches).error, 0);
    }
    let more = body().long(zxid).texts(&["/"]).texts(&[]).texts(&[]);
    wire.request(-8, SET_WATCHES, &more);
    assert!(wire.is_closed());
}

#[test]
fn what_watched_paths_weigh_is_limited() {
    let (_node, server) = serve_with(|builder| builder);
    let mut wire = connect(&server);
    let path = |at: usize| format!("/{at:04}{}", "w".repeat(60_000));
    let mut watched = 0;
    while wire
        .call(1, ADD_WATCH, &body().text(path(watched)).int(0))
        .error
        == 0
    {
        watched += 1;
        assert!(watched < 1_000, "each weighs 60 KB");
    }
    assert!(watched * 60_000 > 15 << 20, "{watched}");
    let exists = wire.call(2, EXISTS, &read(&path(watched), true));
    assert_eq!(exists.error, THROTTLED);
    // What is given up makes room.
    let removed = wire.call(3, REMOVE_WATCHES, &body().text(path(0)).int(3));
    assert_eq!(removed.error, 0);
    let again = wire.call(4, ADD_WATCH, &body().text(path(watched)).int(0));
    assert_eq!(again.error, 0);
}

// ---- Words ------------------------------------------------------------------------------------

#[test]
fn who_asks_and_says_no_more_is_answered() {
    let (_node, server) = serve_with(|builder| builder.four_letter_words(["*"]));
    let _others: Vec<Wire> = (0..20).map(|_| connect(&server)).collect();
    for word in ["cons", "srvr", "wchs", "mntr"] {
        let mut asking = Wire::open(server.address()).stream;
        asking.write_all(word.as_bytes()).unwrap();
        asking.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).unwrap();
        assert!(!answer.is_empty(), "{word}");
    }
    eventually("all who asked are gone", || server.connections() == 20);
}

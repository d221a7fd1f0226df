//! Clients that are slow, half gone, mistaken or malicious: each costs a bounded amount, the server stays up,
//! and nobody else loses anything. (Single bad frames are in `wire_protocol` as well.)

mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::net::{Shutdown, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
use quorate::{CreateMode, Node, Version};
use support::{Within as _, eventually};
use wire::{Body, Wire, body, create, read, set};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET: i32 = 4;
const SET: i32 = 5;
const GET_ACL: i32 = 6;
const SET_ACL: i32 = 7;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;
const MULTI: i32 = 14;
const CREATE_CONTAINER: i32 = 19;
const AUTH: i32 = 100;
const SET_WATCHES: i32 = 101;
const GET_ALL_CHILDREN_NUMBER: i32 = 104;
const ADD_WATCH: i32 = 106;

const LONG: i32 = 60_000;

fn serve_with(
    options: impl FnOnce(ZooKeeperServerBuilder) -> ZooKeeperServerBuilder,
) -> (Node, ZooKeeperServer) {
    let node = Node::builder(1)
        .session_timeouts(Duration::from_millis(500), Duration::from_secs(60))
        .reap_interval(Duration::from_millis(50))
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

fn assert_serves(address: SocketAddr) {
    let mut wire = Wire::connect(address, LONG).0;
    assert_eq!(wire.call(1, EXISTS, &read("/", false)).error, 0);
}

// ---- Slow, and half gone ----------------------------------------------------------------------

#[test]
fn who_greets_byte_by_byte_is_closed_when_the_time_is_up() {
    // A slow-loris: each byte came in time, were they counted one by one.
    let (_node, server) =
        serve_with(|builder| builder.greeting_timeout(Duration::from_millis(700)));
    let mut slow: Vec<Wire> = (0..50).map(|_| Wire::open(server.address())).collect();
    let silent: Vec<Wire> = (0..50).map(|_| Wire::open(server.address())).collect();
    eventually("all are accepted", || server.connections() == 100);
    assert_serves(server.address());
    // The beginning of a greeting of 44 bytes, never all of it.
    let mut bytes = [0, 0, 0, 44].into_iter().chain([0; 36]);
    eventually("none is left", || {
        if let Some(byte) = bytes.next() {
            slow.iter_mut().for_each(|wire| wire.send_raw(&[byte]));
        }
        server.connections() == 0
    });
    assert!(slow.iter_mut().all(Wire::is_closed));
    drop(silent);
    assert_serves(server.address());
}

#[test]
fn who_stops_within_a_frame_loses_its_session_like_who_is_silent() {
    let (node, server) = serve();
    let (mut wire, _) = Wire::connect(server.address(), 500);
    wire.call(1, CREATE, &create("/half", b"", 1));
    let session = node.session().open().within().unwrap();
    // Bytes keep coming, a request never does.
    wire.send_raw(&1_000_i32.to_be_bytes());
    eventually("its ephemeral vanishes", || {
        wire.send_raw(&[0]);
        session.exists("/half").within().unwrap().is_none()
    });
    assert!(wire.is_closed());
    assert_serves(server.address());
}

#[test]
fn a_half_open_connection_is_closed_when_its_session_expires() {
    // Its client is gone without a word: no FIN ever comes.
    let (node, server) = serve();
    let (mut wire, _) = Wire::connect(server.address(), 500);
    wire.call(1, CREATE, &create("/gone", b"", 1));
    let session = node.session().open().within().unwrap();
    eventually("the connection is closed", || server.connections() == 0);
    eventually("its ephemeral vanishes", || {
        session.exists("/gone").within().unwrap().is_none()
    });
}

#[test]
fn a_connection_that_is_closed_one_way_is_closed_both_ways_and_its_session_lives() {
    let (_node, server) = serve();
    let (mut wire, welcome) = Wire::connect(server.address(), LONG);
    wire.call(1, CREATE, &create("/e", b"", 1));
    wire.stream.shutdown(Shutdown::Write).unwrap();
    assert!(wire.is_closed());
    eventually("it is no longer counted", || server.connections() == 0);
    let mut again = Wire::open(server.address());
    again.ask_for_session(welcome.session, &welcome.password, LONG);
    assert_eq!(again.welcome().unwrap().session, welcome.session);
    assert_eq!(again.call(1, EXISTS, &read("/e", false)).error, 0);
}

#[test]
fn who_does_not_take_its_events_is_closed_and_the_others_hear_them() {
    let (node, server) = serve_with(|builder| builder.events_max(50));
    let (mut deaf, mut hearing) = (Wire::connect(server.address(), 500).0, connect(&server));
    for wire in [&mut deaf, &mut hearing] {
        assert_eq!(wire.call(1, ADD_WATCH, &body().text("/").int(1)).error, 0);
    }
    let session = node.session().open().within().unwrap();
    let name = "/".to_string() + &"n".repeat(50_000);
    let created = session.create(&name, "", CreateMode::Persistent);
    created.within().unwrap();
    assert_eq!(hearing.frame().unwrap().event().0, 1);
    // Its socket's buffers take some; when they have taken nothing more for as long as a session may be
    // silent it is closed.
    eventually("who doesn't read is closed", || {
        for _ in 0..20 {
            session.set(&name, "", Version::ANY).within().unwrap();
            assert_eq!(hearing.frame().unwrap().event(), (3, name.clone()));
        }
        deaf.send_raw(&[0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11]);
        server.connections() == 1
    });
    assert_eq!(hearing.call(2, EXISTS, &read("/", false)).error, 0);
}

// ---- Mistaken ---------------------------------------------------------------------------------

#[test]
fn negative_counts_are_those_of_empty_lists() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    for count in [-1, -7, i32::MIN] {
        let acl = body().text("/a").text("").int(count).int(0);
        assert_eq!(wire.call(1, CREATE, &acl).error, -114);
        let acl = body().text("/").int(count).int(-1);
        assert_eq!(wire.call(2, SET_ACL, &acl).error, -114);
        let watches = body().long(0).int(count).int(count).int(count);
        assert_eq!(wire.call(-8, SET_WATCHES, &watches).error, 0);
    }
    for length in [-2, -7, i32::MIN] {
        let refused = wire.call(3, GET, &body().int(length).bool(false));
        assert_eq!(refused.error, -5);
    }
}

#[test]
fn no_operation_takes_what_is_no_path_or_no_text() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    let long = format!("/{}", "x".repeat(70_000));
    let paths: [&[u8]; 9] = [
        b"",
        b"a",
        b"/a/",
        b"//",
        b"/a/../b",
        b"/\0",
        b"/\xc3\x28",
        "/\u{1f600}".as_bytes(),
        long.as_bytes(),
    ];
    let open = || body().int(1).int(31).text("world").text("anyone");
    let joined = |mut first: Body, second: Body| {
        first.0.extend(second.0);
        first
    };
    for path in paths {
        let text = || body().text(path);
        let acl_then = |first: Body, last: i32| joined(first, open()).int(last);
        // Writes say what is wrong with it, reads that there is nothing there.
        let writes = [
            (CREATE, acl_then(text().text("data"), 0)),
            (DELETE, text().int(-1)),
            (SET, text().text("data").int(-1)),
            (SET_ACL, acl_then(text(), -1)),
        ];
        for (opcode, request) in writes {
            assert_eq!(
                wire.call(1, opcode, &request).error,
                -8,
                "{opcode} {path:?}"
            );
        }
        let reads = [
            (GET, text().bool(true)),
            (GET_CHILDREN, text().bool(true)),
            (GET_ACL, text()),
            (GET_ALL_CHILDREN_NUMBER, text()),
        ];
        for (opcode, request) in reads {
            let error = wire.call(1, opcode, &request).error;
            assert_eq!(error, -101, "{opcode} {path:?}");
        }
        // In a transaction it is the operation that fails.
        let header = body().int(SET).bool(false).int(-1);
        let multi = joined(header, text().text("data").int(-1));
        let reply = wire.call(1, MULTI, &joined(multi, body().int(-1).bool(true).int(-1)));
        assert_eq!(reply.error, 0);
        assert_eq!(reply.body[9..13], (-8_i32).to_be_bytes(), "{path:?}");
    }
    let children = wire.call(2, GET_ALL_CHILDREN_NUMBER, &body().text("/"));
    assert_eq!(children.body, 3_i32.to_be_bytes(), "ZooKeeper's own alone");
}

#[test]
fn an_identity_that_can_not_be_understood_closes_its_connection() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    wire.request(-4, AUTH, &body().int(0).text("digest"));
    assert_eq!(wire.frame(), None);
    assert_serves(server.address());
}

#[test]
fn a_ping_is_answered_as_a_ping_whatever_its_number() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    wire.request(77, PING, &body());
    assert_eq!(wire.frame().unwrap().xid, -2);
}

#[test]
fn a_container_that_is_asked_for_by_its_operation_is_one() {
    let (_node, server) = serve();
    let mut wire = connect(&server);
    let created = wire.call(1, CREATE_CONTAINER, &create("/c", b"", 0));
    assert_eq!(created.error, 0);
    wire.call(2, CREATE, &create("/c/child", b"", 0));
    wire.call(3, DELETE, &body().text("/c/child").int(-1));
    eventually("it is deleted when it is empty", || {
        wire.call(4, EXISTS, &read("/c", false)).error == -101
    });
}

// ---- Malicious --------------------------------------------------------------------------------

/// One bad connection of the kind `kind`, to its end.
fn misbehave(address: SocketAddr, kind: usize) {
    let mut wire = match kind % 3 {
        0 => Wire::open(address),
        _ => Wire::connect(address, LONG).0,
    };
    let header = |opcode, done| body().int(opcode).bool(done).int(-1);
    match kind {
        0 => wire.send_raw(&i32::MIN.to_be_bytes()),
        1 => wire.send_raw(&0xf_ffff_i32.to_be_bytes()),
        2 => wire.send(&Body(vec![0xff; 100_000])),
        3 => wire.send_raw(&[0; 64]),
        4 => {
            // A transaction that fails at its end, over and over.
            let mut multi = body();
            for at in 0..100 {
                multi.0.extend(header(CREATE, false).0);
                multi.0.extend(create(&format!("/bad{at}"), b"", 0).0);
            }
            multi.0.extend(header(DELETE, false).0);
            multi.0.extend(body().text("/none").int(-1).0);
            multi.0.extend(header(-1, true).0);
            for xid in 0..20 {
                wire.request(xid, MULTI, &multi);
            }
        }
        5 => wire.request(1, 99, &body()),
        6 => wire.ask_for_session(0x1234, &[7; 16], LONG),
        7 => {
            let mut paths = body().long(0).int(150_000);
            for _ in 0..150_000 {
                paths = paths.text("/");
            }
            wire.request(-8, SET_WATCHES, &paths.int(0).int(0));
        }
        _ => {
            // Requests without end, whose answers nobody takes.
            let mut frame = body().int(1).int(GET);
            frame.0.extend(read("/count", false).0);
            for _ in 0..1_000 {
                wire.send(&frame);
            }
        }
    }
}

#[test]
fn a_crowd_of_hostile_clients_costs_the_others_nothing() {
    let (node, server) = serve();
    let address = server.address();
    let session = node.session().open().within().unwrap();
    let created = session.create("/count", "0", CreateMode::Persistent);
    created.within().unwrap();
    let mut watching = connect(&server);
    watching.call(1, ADD_WATCH, &body().text("/count").int(0));
    let stop = AtomicBool::new(false);
    const WRITES: i32 = 200;
    std::thread::scope(|scope| {
        for crowd in 0..2 {
            let stop = &stop;
            scope.spawn(move || {
                for kind in (crowd..).step_by(2) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    misbehave(address, kind % 9);
                }
            });
        }
        let mut good = connect(&server);
        for xid in 0..WRITES {
            let reply = good.call(xid, SET, &set("/count", xid.to_string().as_bytes()));
            assert_eq!(reply.error, 0);
            let (kind, path) = watching.frame().unwrap().event();
            assert_eq!((kind, path.as_str()), (3, "/count"));
        }
        stop.store(true, Ordering::Relaxed);
        let last = good.call(WRITES, GET, &read("/count", false));
        assert_eq!(last.buffer(), (WRITES - 1).to_string().as_bytes());
    });
    let (_, stat) = session.get("/count").within().unwrap();
    assert_eq!(stat.version, WRITES, "each once");
    let (children, _) = session.children("/").within().unwrap();
    assert_eq!(children.len(), 2, "no transaction was half done");
    eventually("the crowd is gone", || server.connections() == 1);
}

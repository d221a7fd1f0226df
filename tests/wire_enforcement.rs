//! Who is served at all: required authentication, anonymous writes, and the login that isn't configured.

mod support;
#[path = "wire/raw.rs"]
mod wire;

use quorate::Node;
use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
use support::Within as _;
use wire::{Body, Wire, body, create, read, set};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const GET: i32 = 4;
const SET: i32 = 5;
const SYNC: i32 = 9;
const PING: i32 = 11;
const MULTI: i32 = 14;
const AUTH: i32 = 100;
const SASL: i32 = 102;

fn serve(
    options: impl FnOnce(ZooKeeperServerBuilder) -> ZooKeeperServerBuilder,
) -> (Node, ZooKeeperServer) {
    let node = Node::builder(1).start().unwrap();
    let builder = ZooKeeperServer::builder(&node).listen("127.0.0.1:0");
    let server = options(builder).start().unwrap();
    (node, server)
}

fn connect(server: &ZooKeeperServer) -> Wire {
    Wire::connect(server.address(), 40_000).0
}

fn auth(scheme: &str, token: &str) -> Body {
    body().int(0).text(scheme).text(token)
}

#[test]
fn who_has_not_authenticated_is_not_served_where_that_is_required() {
    let (_node, server) = serve(|builder| builder.require_authentication(["digest", "x509"]));
    let refused: [(i32, Body); 4] = [
        (GET, read("/", false)),
        (CREATE, create("/a", b"", 0)),
        (PING, body()),
        (SYNC, body().text("/")),
    ];
    for (opcode, request) in refused {
        let mut wire = connect(&server);
        let xid = if opcode == PING { -2 } else { 1 };
        // The reply says so, then the connection is closed.
        assert_eq!(wire.call(xid, opcode, &request).error, -124, "{opcode}");
        assert!(wire.is_closed());
    }
    // An address is no such proof.
    let mut wire = connect(&server);
    assert_eq!(wire.call(-4, AUTH, &auth("ip", "")).error, 0);
    assert_eq!(wire.call(1, GET, &read("/", false)).error, -124);
    let mut wire = connect(&server);
    assert_eq!(wire.call(-4, AUTH, &auth("digest", "ann:secret")).error, 0);
    assert_eq!(wire.call(1, GET, &read("/", false)).error, 0);
    assert_eq!(wire.call(2, CREATE, &create("/a", b"", 0)).error, 0);
    // By default nothing is required.
    let (_node, server) = serve(|builder| builder);
    assert_eq!(connect(&server).call(1, GET, &read("/", false)).error, 0);
}

#[test]
fn who_has_proven_nothing_writes_nothing_where_that_is_refused() {
    let (node, server) = serve(|builder| builder.refuse_anonymous_writes());
    let session = node.session().open().within().unwrap();
    let created = session.create("/a", "data", quorate::CreateMode::Persistent);
    created.within().unwrap();
    let mut wire = connect(&server);
    let multi = body().int(1).bool(false).int(-1);
    let multi = Body([multi.0, create("/b", b"", 0).0].concat());
    let multi = multi.int(-1).bool(true).int(-1);
    for (opcode, request) in [
        (CREATE, create("/b", b"", 0)),
        (SET, set("/a", b"other")),
        (DELETE, body().text("/a").int(-1)),
        (MULTI, multi.clone()),
    ] {
        assert_eq!(wire.call(1, opcode, &request).error, -102, "{opcode}");
    }
    // It reads, and goes on.
    assert_eq!(wire.call(2, GET, &read("/a", false)).buffer(), b"data");
    assert_eq!(wire.call(3, SYNC, &body().text("/")).error, 0);
    assert_eq!(wire.call(-4, AUTH, &auth("ip", "")).error, 0);
    assert_eq!(wire.call(4, SET, &set("/a", b"other")).error, -102);
    assert_eq!(wire.call(-4, AUTH, &auth("digest", "ann:secret")).error, 0);
    assert_eq!(wire.call(5, SET, &set("/a", b"other")).error, 0);
    assert_eq!(wire.call(6, MULTI, &multi).error, 0);
}

#[test]
fn a_login_that_is_not_configured_is_answered_as_zookeeper_does() {
    let (_node, server) = serve(|builder| builder);
    let mut wire = connect(&server);
    let reply = wire.call(1, SASL, &body().text("token"));
    // No error, and Java's `null` for a token: the client finds that there is no login here.
    assert_eq!((reply.error, &reply.body[..]), (0, &[0xff; 4][..]));
    assert_eq!(wire.call(2, GET, &read("/", false)).error, 0);
    // Nor is it a scheme.
    assert_eq!(wire.call(-4, AUTH, &auth("sasl", "")).error, -115);
    assert!(wire.is_closed());
}

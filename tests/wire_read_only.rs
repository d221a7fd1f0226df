//! Without a quorum: reads for clients that asked for it, nothing for all others, and the way back.

#[path = "wire/asked.rs"]
mod asked;
#[path = "wire/python.rs"]
mod python;
mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use asked::word;
use python::kazoo;
use quorate::server::ZooKeeperServer;
use quorate::{Acl, AuthId, CreateMode, Error, Permissions};
use support::{Cluster, Kind, Within as _, eventually};
use wire::{Wire, body, create, read, set};

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET: i32 = 4;
const SET: i32 = 5;
const GET_ACL: i32 = 6;
const SET_ACL: i32 = 7;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const PING: i32 = 11;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
const CREATE_2: i32 = 15;
const RECONFIG: i32 = 16;
const CREATE_CONTAINER: i32 = 19;
const CREATE_TTL: i32 = 21;
const AUTH: i32 = 100;
const ADD_WATCH: i32 = 106;
const CLOSE: i32 = -11;

/// A server whose node may be left alone.
struct Left {
    server: ZooKeeperServer,
    cluster: Cluster,
    stays: u64,
}

impl Left {
    fn start() -> Left {
        let cluster = Cluster::with(3, Kind::Memory, |_, builder| {
            builder.session_timeouts(Duration::from_secs(1), Duration::from_secs(60))
        });
        let stays = cluster.follower();
        let server = ZooKeeperServer::builder(cluster.node(stays))
            .listen("127.0.0.1:0")
            .four_letter_words(["*"])
            .read_only_after(Duration::from_millis(100))
            .start()
            .unwrap();
        let session = cluster.node(stays).session().open().within().unwrap();
        let create = |path: &str, acl: &[Acl]| {
            let created = session.create_with_acl(path, "data", CreateMode::Persistent, acl);
            created.within().unwrap();
        };
        create("/a", &Acl::open());
        let ann = AuthId::digest("ann", "secret");
        create("/anns", &[Acl::new(Permissions::ALL, ann)]);
        session.close().within().unwrap();
        Left {
            server,
            cluster,
            stays,
        }
    }

    fn leave_alone(&mut self) {
        for id in self.cluster.running() {
            if id != self.stays {
                self.cluster.stop(id);
            }
        }
        let address = self.server.address();
        eventually("it reads only", || word(address, "isro") == "ro");
    }

    fn bring_back(&mut self) {
        for id in 1..=3 {
            if id != self.stays {
                self.cluster.start(id);
            }
        }
        self.cluster.leader();
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

/// Asks for a session that may be read-only. Gives the timeout, the session and what is said of it;
/// nothing where the connection is closed.
fn ask(wire: &mut Wire, session: i64) -> Option<(i32, i64, bool)> {
    let connect = body().int(0).long(0).int(60_000).long(session);
    wire.send(&connect.text([0; 16]).bool(true));
    let frame = wire.raw_frame()?;
    assert_eq!(frame.len(), 37);
    let timeout = i32::from_be_bytes(frame[4..8].try_into().unwrap());
    let session = i64::from_be_bytes(frame[8..16].try_into().unwrap());
    Some((timeout, session, frame[36] == 1))
}

fn read_only(address: SocketAddr) -> Wire {
    let mut wire = Wire::open(address);
    let (timeout, session, is_read_only) = ask(&mut wire, 0).expect("a welcome");
    assert!(timeout == 60_000 && session != 0 && is_read_only);
    wire
}

#[test]
fn who_asked_for_it_reads_and_writes_nothing() {
    let mut left = Left::start();
    // While there is a leader nobody is served read-only.
    let mut wire = Wire::open(left.address());
    let (_, _, is_read_only) = ask(&mut wire, 0).unwrap();
    assert!(!is_read_only);
    assert_eq!(word(left.address(), "isro"), "rw");
    left.leave_alone();

    let mut wire = read_only(left.address());
    let reply = wire.call(1, GET, &read("/a", true));
    assert_eq!(reply.buffer(), b"data");
    assert_eq!(wire.call(2, EXISTS, &read("/none", true)).error, -101);
    assert_eq!(wire.call(3, GET_CHILDREN, &read("/", false)).error, 0);
    assert_eq!(wire.call(4, GET_ACL, &body().text("/a")).error, 0);
    assert_eq!(wire.call(5, ADD_WATCH, &body().text("/a").int(1)).error, 0);
    assert_eq!(wire.call(-2, PING, &body()).error, 0);
    let multi = body().int(1).bool(false).int(-1);
    let multi = wire::Body([multi.0, create("/b", b"", 0).0].concat());
    let multi = multi.int(-1).bool(true).int(-1);
    let acl = body()
        .text("/a")
        .int(1)
        .int(31)
        .text("world")
        .text("anyone")
        .int(-1);
    let reconfig = body().int(-1).text("1").int(-1).long(-1);
    for (opcode, request) in [
        (CREATE, create("/b", b"", 0)),
        (CREATE_2, create("/b", b"", 0)),
        (CREATE_CONTAINER, create("/b", b"", 4)),
        (CREATE_TTL, create("/b", b"", 5).long(1000)),
        (DELETE, body().text("/a").int(-1)),
        (SET, set("/a", b"other")),
        (SET_ACL, acl),
        (SYNC, body().text("/")),
        (MULTI, multi),
        (CHECK, body().text("/a").int(-1)),
        (RECONFIG, reconfig),
    ] {
        assert_eq!(wire.call(7, opcode, &request).error, -119, "{opcode}");
    }
    assert_eq!(wire.call(8, GET, &read("/a", false)).buffer(), b"data");
    assert!(word(left.address(), "srvr").contains("\nMode: read-only\n"));
    assert!(word(left.address(), "wchs").starts_with("1 connections watching 2 paths"));
    assert_eq!(wire.call(9, CLOSE, &body()).error, 0);
    assert!(wire.is_closed());
    eventually("its watches are gone", || {
        word(left.address(), "wchs").starts_with("0 connections")
    });
}

#[test]
fn acls_hold_without_a_quorum() {
    let mut left = Left::start();
    left.leave_alone();
    let mut wire = read_only(left.address());
    assert_eq!(wire.call(1, GET, &read("/anns", false)).error, -102);
    let auth = |who: &str| body().int(0).text("digest").text(who);
    assert_eq!(wire.call(-4, AUTH, &auth("ann:guess")).error, 0);
    assert_eq!(wire.call(2, GET, &read("/anns", false)).error, -102);
    assert_eq!(wire.call(-4, AUTH, &auth("ann:secret")).error, 0);
    assert_eq!(wire.call(3, GET, &read("/anns", false)).buffer(), b"data");
    // Another one's proof is not this one's.
    let mut other = read_only(left.address());
    assert_eq!(other.call(1, GET, &read("/anns", false)).error, -102);
}

#[test]
fn who_did_not_ask_for_it_is_turned_away() {
    let mut left = Left::start();
    let (before, welcome) = Wire::connect(left.address(), 60_000);
    left.leave_alone();
    let mut wire = Wire::open(left.address());
    wire.ask_for_session(0, &[0; 16], 60_000);
    assert_eq!(wire.welcome(), None);
    // A session of the cluster waits for a leader; what is no session is told so.
    drop(before);
    let mut wire = Wire::open(left.address());
    assert_eq!(ask(&mut wire, welcome.session), None);
    let mut wire = Wire::open(left.address());
    assert_eq!(ask(&mut wire, 0x7f00_0000_0000_0001), Some((0, 0, false)));
}

#[test]
fn who_waits_for_a_session_is_served_or_turned_away_when_the_leader_stays_away() {
    let mut left = Left::start();
    for id in left.cluster.running() {
        if id != left.stays {
            left.cluster.stop(id);
        }
    }
    // Asked before it is known that there is no leader.
    let mut one = Wire::open(left.address());
    let mut other = Wire::open(left.address());
    other.ask_for_session(0, &[0; 16], 60_000);
    let (_, _, is_read_only) = ask(&mut one, 0).expect("a welcome");
    assert!(is_read_only);
    assert_eq!(other.welcome(), None);
}

#[test]
fn when_there_is_a_leader_again_clients_come_back_and_write() {
    let mut left = Left::start();
    left.leave_alone();
    let mut wire = read_only(left.address());
    let (_, session, _) = ask(&mut Wire::open(left.address()), 0).unwrap();
    left.bring_back();
    assert!(wire.is_closed());
    assert_eq!(word(left.address(), "isro"), "rw");
    // The session was of that server alone.
    let mut wire = Wire::open(left.address());
    assert_eq!(ask(&mut wire, session), Some((0, 0, false)));
    let mut wire = Wire::connect(left.address(), 60_000).0;
    assert_eq!(wire.call(1, CREATE, &create("/b", b"", 0)).error, 0);
}

#[test]
fn a_host_reads_without_a_quorum_by_a_session_of_its_own() {
    let mut left = Left::start();
    left.leave_alone();
    let node = left.cluster.node(left.stays);
    let session = node.handle().session().open_read_only().unwrap();
    assert!(session.is_read_only() && !session.is_certain());
    let (data, _) = session.get("/a").within().unwrap();
    assert_eq!(&*data, b"data");
    let refused = session.create("/b", "", CreateMode::Persistent).within();
    assert_eq!(refused.unwrap_err(), Error::NotReadOnly);
    assert_eq!(session.sync().within().unwrap_err(), Error::NotReadOnly);
    let strict = session.linearizable().get("/a").within();
    assert_eq!(strict.unwrap_err(), Error::NotReadOnly);
    assert!(session.may("/a", Permissions::WRITE).within().unwrap());
    assert!(!session.may("/anns", Permissions::READ).within().unwrap());
    session
        .add_auth(AuthId::digest("ann", "secret"))
        .within()
        .unwrap();
    assert!(session.may("/anns", Permissions::READ).within().unwrap());
    session.close().within().unwrap();
    assert!(session.get("/a").within().is_err());
    let session = node.handle().session().open_read_only().unwrap();
    node.shutdown();
    let error = session.get("/a").within().unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
}

#[test]
fn kazoo_reads_without_a_quorum() {
    let mut left = Left::start();
    left.leave_alone();
    let script = r#"
import sys
from kazoo.client import KazooClient
from kazoo.exceptions import NotReadOnlyCallError
from kazoo.protocol.states import KeeperState

zk = KazooClient(hosts=sys.argv[1], read_only=True)
zk.start()
assert zk.client_state == KeeperState.CONNECTED_RO, zk.client_state
data, stat = zk.get("/a", watch=lambda event: None)
assert data == b"data"
assert "a" in zk.get_children("/")
try:
    zk.create("/b", b"")
    assert False, "it was written without a quorum"
except NotReadOnlyCallError:
    pass
zk.stop()
"#;
    kazoo("read-only", script, &[left.address().to_string()]);
}

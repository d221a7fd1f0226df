//! The example `import_zookeeper`: a tree goes from one server to another with all that a copy can keep, what
//! differs is found and repaired, and nothing is overwritten by mistake.

#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../examples/import_zookeeper/client.rs"]
mod client;
#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../examples/import_zookeeper/copying.rs"]
mod copying;
#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../examples/import_zookeeper/options.rs"]
mod options;
#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../examples/import_zookeeper/record.rs"]
mod record;
#[path = "wire/service.rs"]
mod service;
mod support;
#[path = "wire/zookeeper.rs"]
mod zookeeper;

use std::time::Duration;

use client::{Client, opcode};
use copying::{Copying, Outcome};
use options::Options;
use quorate::Node;
use quorate::server::ZooKeeperServer;
use record::{Acl, Body, Reader};
use service::skipped;
use zookeeper::ZooKeeper;

/// A server of ours with nothing in it.
fn ours() -> (Node, ZooKeeperServer, String) {
    let node = Node::builder(1)
        .reap_interval(Duration::from_secs(3600))
        .start()
        .unwrap();
    let builder = ZooKeeperServer::builder(&node).listen("127.0.0.1:0");
    let server = builder
        .super_digest("super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
        .start()
        .unwrap();
    let address = server.address().to_string();
    (node, server, address)
}

fn as_super() -> Option<(String, String)> {
    Some(("digest".to_string(), "super:test".to_string()))
}

fn options(from: &str, to: &str) -> Options {
    Options {
        counters: true,
        source_auth: as_super(),
        target_auth: as_super(),
        in_flight: 64,
        ..Options::new(from, to)
    }
}

fn import(options: &Options) -> Result<Outcome, String> {
    let run = || Copying::connect(options)?.run(&mut |_| {});
    run().map_err(|error| error.to_string())
}

fn acl(permissions: i32, scheme: &str, id: &str) -> Acl {
    Acl {
        permissions,
        scheme: scheme.to_string(),
        id: id.to_string(),
    }
}

fn open() -> Vec<Acl> {
    vec![acl(31, "world", "anyone")]
}

/// Creates a znode; its path.
fn create(client: &mut Client, path: &str, data: &[u8], acl: &[Acl], flags: i32) -> String {
    let body = Body::default().bytes(path.as_bytes()).bytes(data);
    let reply = client.call(opcode::CREATE, &body.acl(acl).int(flags));
    let reply = reply.unwrap();
    assert_eq!(reply.error, 0, "create {path}");
    Reader(&reply.body).text().unwrap()
}

fn delete(client: &mut Client, path: &str) {
    let body = Body::default().bytes(path.as_bytes()).int(-1);
    assert_eq!(client.call(opcode::DELETE, &body).unwrap().error, 0);
}

fn set(client: &mut Client, path: &str, data: &[u8]) {
    let body = Body::default().bytes(path.as_bytes()).bytes(data).int(-1);
    assert_eq!(client.call(opcode::SET_DATA, &body).unwrap().error, 0);
}

fn data(client: &mut Client, path: &str) -> Option<Vec<u8>> {
    let body = Body::default().bytes(path.as_bytes()).bool(false);
    let reply = client.call(opcode::GET_DATA, &body).unwrap();
    (reply.error == 0).then(|| Reader(&reply.body).bytes().unwrap().to_vec())
}

fn acl_of(client: &mut Client, path: &str) -> Vec<Acl> {
    let body = Body::default().bytes(path.as_bytes());
    let reply = client.call(opcode::GET_ACL, &body).unwrap();
    Reader(&reply.body).acl().unwrap()
}

/// A tree with something of everything. The client must live on for its ephemeral.
fn fill(address: &str) -> Client {
    let mut client = Client::connect(address, as_super().as_ref()).unwrap();
    let client_ref = &mut client;
    create(client_ref, "/app", b"root", &open(), 0);
    for shelf in 0..20 {
        let shelf = create(client_ref, &format!("/app/{shelf}"), b"", &open(), 0);
        for leaf in 0..40 {
            let text = format!("leaf {leaf}");
            create(
                client_ref,
                &format!("{shelf}/{leaf}"),
                text.as_bytes(),
                &open(),
                0,
            );
        }
    }
    let deep = (0..30).fold("/app".to_string(), |above, at| {
        create(client_ref, &format!("{above}/deep{at}"), b"", &open(), 0)
    });
    create(
        client_ref,
        &format!("{deep}/large"),
        &vec![7; 900_000],
        &open(),
        0,
    );
    let bob = [acl(31, "digest", "bob:hash="), acl(1, "world", "anyone")];
    create(client_ref, "/app/bobs", b"secret", &bob, 0);
    create(client_ref, "/app/bobs/child", b"", &bob[..1], 0);
    create(
        client_ref,
        "/app/näme mit raum",
        "dätä".as_bytes(),
        &open(),
        0,
    );
    create(client_ref, "/app/e", b"gone with its session", &open(), 1);
    create(client_ref, "/queue", b"", &open(), 0);
    for _ in 0..500 {
        let item = create(client_ref, "/queue/item-", b"", &open(), 2);
        delete(client_ref, &item);
    }
    create(client_ref, "/queue/item-", b"the last", &open(), 2);
    create(client_ref, "/zookeeper/quota/app", b"", &open(), 0);
    let limits = "/zookeeper/quota/app/zookeeper_limits";
    create(client_ref, limits, b"count=5000,bytes=-1", &open(), 0);
    let usage = "/zookeeper/quota/app/zookeeper_stats";
    create(client_ref, usage, b"count=1,bytes=1", &open(), 0);
    client
}

/// `fill`'s znodes without the ephemeral, with the root, and the quotas with theirs.
const ZNODES: usize = 1 + 1 + 20 + 800 + 30 + 1 + 2 + 1 + 2 + 4;

fn assert_copied(outcome: &Outcome, address: &str) {
    assert_eq!(outcome.differences, [""; 0], "{outcome}");
    let mut client = Client::connect(address, as_super().as_ref()).unwrap();
    let client = &mut client;
    assert_eq!(data(client, "/app/19/39").unwrap(), b"leaf 39");
    assert_eq!(
        data(client, "/app/näme mit raum").unwrap(),
        "dätä".as_bytes()
    );
    assert_eq!(data(client, "/queue/item-0000000500").unwrap(), b"the last");
    assert_eq!(
        acl_of(client, "/app/bobs/child"),
        [acl(31, "digest", "bob:hash=")]
    );
    let limits = data(client, "/zookeeper/quota/app/zookeeper_limits");
    assert_eq!(limits.unwrap(), b"count=5000,bytes=-1");
    // Where the source's would have gone on.
    let next = create(client, "/queue/item-", b"", &open(), 2);
    assert_eq!(next, "/queue/item-0000000501");
    delete(client, &next);
}

#[test]
fn a_tree_is_copied_verified_and_repaired() {
    let (_from_node, _from_server, from) = ours();
    let (_to_node, _to_server, to) = ours();
    let mut writer = fill(&from);
    let outcome = import(&options(&from, &to)).unwrap();
    assert_eq!(outcome.ephemerals, 1);
    assert_eq!(outcome.znodes, ZNODES + 1, "{outcome}");
    let mut target = Client::connect(&to, as_super().as_ref()).unwrap();
    assert_eq!(data(&mut target, "/app/e"), None, "ephemerals are left out");
    assert_copied(&outcome, &to);
    // What is there is not overwritten unasked.
    let refused = import(&options(&from, &to)).unwrap_err();
    assert!(refused.contains("--overwrite"), "{refused}");
    // What differs is repaired, what is there besides is kept; a counter can't be lowered.
    set(&mut writer, "/app", b"changed");
    set(&mut target, "/app/3/3", b"damaged");
    delete(&mut target, "/app/4/4");
    create(&mut target, "/app/own", b"", &open(), 0);
    create(&mut target, "/app/own/child", b"", &open(), 0);
    let mut again = options(&from, &to);
    again.overwrite = true;
    again.counters = false;
    let outcome = import(&again).unwrap();
    assert_eq!(outcome.differences, [""; 0], "{outcome}");
    assert_eq!(
        (outcome.created, outcome.changed, outcome.deleted),
        (1, 2, 0)
    );
    assert_eq!(outcome.kept, 2);
    assert_eq!(data(&mut target, "/app").unwrap(), b"changed");
    assert_eq!(data(&mut target, "/app/3/3").unwrap(), b"leaf 3");
    assert!(data(&mut target, "/app/own/child").is_some());
    again.counters = true;
    let outcome = import(&again).unwrap();
    assert!(
        outcome
            .differences
            .iter()
            .any(|difference| difference.contains("lowered"))
    );
}

#[test]
fn what_the_source_hides_is_not_copied_in_silence() {
    let (_from_node, _from_server, from) = ours();
    let (_to_node, _to_server, to) = ours();
    let _writer = fill(&from);
    let mut options = options(&from, &to);
    options.source_auth = None;
    // One whose ACL is masked, with what is below it.
    let outcome = import(&options).unwrap();
    assert_eq!(outcome.differences.len(), 1, "{outcome}");
    assert!(outcome.differences[0].contains("bob:x is masked"));
    // One that may not be read at all.
    let mut writer = Client::connect(&from, as_super().as_ref()).unwrap();
    create(
        &mut writer,
        "/hidden",
        b"",
        &[acl(31, "digest", "bob:hash=")],
        0,
    );
    options.overwrite = true;
    let refused = import(&options).unwrap_err();
    assert!(refused.contains("/hidden may not be read"), "{refused}");
}

#[test]
fn a_part_of_a_tree_becomes_what_it_is_said_to_be() {
    let (_from_node, _from_server, from) = ours();
    let to_node = Node::builder(1)
        .reap_interval(Duration::from_millis(50))
        .start()
        .unwrap();
    let builder = ZooKeeperServer::builder(&to_node).listen("127.0.0.1:0");
    let server = builder.start().unwrap();
    let to = server.address().to_string();
    let _writer = fill(&from);
    let mut options = options(&from, &to);
    options.target_auth = None;
    options.path = "/app/3".to_string();
    options.containers = vec!["/app/3".to_string()];
    options.ttls = vec![("/app/3/*".to_string(), 1)];
    options.passes = 1;
    let outcome = import(&options).unwrap();
    assert_eq!(outcome.created, 42, "{outcome}");
    // The leaves' time is over at once, and an empty container goes.
    let mut target = Client::connect(&to, None).unwrap();
    support::eventually("all are reaped", || data(&mut target, "/app/3").is_none());
    assert!(data(&mut target, "/app").is_some());
    assert!(data(&mut target, "/queue").is_none());
}

#[test]
fn a_tree_goes_from_zookeeper_to_quorate_and_back() {
    let (first, second) = match (ZooKeeper::start(), ZooKeeper::start()) {
        (Ok(first), Ok(second)) => (first, second),
        (Err(why), _) | (_, Err(why)) => return skipped("from ZooKeeper and back", why),
    };
    let (_node, _server, ours) = ours();
    let _writer = fill(&first.address);
    let there = import(&options(&first.address, &ours)).unwrap();
    assert_eq!(there.ephemerals, 1);
    // Without the counter that the test itself raises.
    assert_eq!(there.znodes, ZNODES + 1, "{there}");
    let back = import(&options(&ours, &second.address)).unwrap();
    assert_eq!(back.znodes, ZNODES, "{back}");
    assert_copied(&back, &second.address);
    assert_copied(&there, &ours);
    // And the two ZooKeepers hold the same.
    let mut compare = options(&first.address, &second.address);
    compare.overwrite = true;
    compare.counters = false;
    let outcome = import(&compare).unwrap();
    assert_eq!(outcome.differences, [""; 0], "{outcome}");
    assert_eq!((outcome.created, outcome.changed), (0, 0), "{outcome}");
}

#[test]
fn a_pattern_is_compared_component_by_component() {
    for (pattern, path, expected) in [
        ("/a", "/a", true),
        ("/a", "/a/b", false),
        ("/a/*", "/a/b", true),
        ("/a/*", "/a", false),
        ("/a/*/c", "/a/b/c", true),
        ("/*", "/a", true),
    ] {
        assert_eq!(
            options::matches(pattern, path),
            expected,
            "{pattern} {path}"
        );
    }
}

//! The admin endpoint: ZooKeeper's commands as JSON, metrics, health and readiness by HTTP, and what
//! bad requests get.

#[path = "wire/asked.rs"]
mod asked;
mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use asked::{ask, get, http, word};
use quorate::Node;
use quorate::server::ZooKeeperServer;
use serde_json::{Value, json};
use support::{Cluster, eventually};
use wire::{Wire, create, read};

const CREATE: i32 = 1;
const GET: i32 = 4;

fn serve_node(node: &Node) -> ZooKeeperServer {
    ZooKeeperServer::builder(node)
        .listen("127.0.0.1:0")
        .four_letter_words(["*"])
        .admin("127.0.0.1:0")
        .start()
        .unwrap()
}

fn serve() -> (Node, ZooKeeperServer) {
    let node = Node::builder(1).start().unwrap();
    node.wait_for(support::PATIENCE, |status| status.leader.is_some())
        .unwrap();
    let server = serve_node(&node);
    (node, server)
}

fn admin(server: &ZooKeeperServer) -> SocketAddr {
    server.admin_address().unwrap()
}

/// The answer of a command that goes well.
fn run(server: &ZooKeeperServer, command: &str) -> Value {
    let (status, kind, body) = get(admin(server), &format!("/commands/{command}"));
    assert_eq!((status, kind.as_str()), (200, "application/json"), "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(answer["error"], Value::Null, "{answer}");
    answer
}

#[test]
fn every_command_that_is_listed_is_answered_in_json() {
    let (_node, server) = serve();
    let (status, kind, list) = get(admin(&server), "/commands");
    assert_eq!((status, kind.as_str()), (200, "text/html; charset=utf-8"));
    let commands: Vec<&str> = list
        .split("/commands/")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(commands.len() >= 20, "{list}");
    for command in commands {
        let command_with_argument = match command {
            "set_trace_mask" => "set_trace_mask?traceMask=306",
            command => command,
        };
        assert_eq!(run(&server, command_with_argument)["command"], command);
    }
    // By their short names as well.
    assert_eq!(run(&server, "mntr")["command"], "monitor");
    assert_eq!(run(&server, "wchs")["command"], "watch_summary");
}

#[test]
fn commands_tell_what_there_is() {
    let (_node, server) = serve();
    let (mut wire, welcome) = Wire::connect(server.address(), 10_000);
    wire.call(1, CREATE, &create("/e", b"data", 1));
    wire.call(2, GET, &read("/e", true));
    let session = welcome.session.to_string();
    eventually("the creation is counted", || {
        run(&server, "monitor")["znode_count"] == 5
    });

    let connections = run(&server, "connections");
    let connection = &connections["connections"][0];
    assert_eq!(connection["session_id"], welcome.session);
    assert_eq!(connection["packets_received"], 2);
    assert_eq!(connection["last_operation"], "GETD");
    assert_eq!(connection["session_timeout"], 10_000);
    assert_eq!(connections["secure_connections"], json!([]));
    let dump = run(&server, "dump");
    assert_eq!(
        dump["session_id_to_ephemeral_paths"][&session],
        json!(["/e"])
    );
    assert_eq!(dump["session_id_to_timeout"][&session], 10_000);
    let watches = run(&server, "watches");
    assert_eq!(
        watches["session_id_to_watched_paths"][&session],
        json!(["/e"])
    );
    let watches = run(&server, "watches_by_path");
    assert_eq!(
        watches["path_to_session_ids"]["/e"],
        json!([welcome.session])
    );
    let summary = run(&server, "watch_summary");
    assert_eq!(summary["num_total_watches"], 1);
    assert_eq!(run(&server, "is_read_only")["read_only"], false);
    let stats = run(&server, "stats");
    assert_eq!(stats["server_stats"]["server_state"], "standalone");
    assert_eq!(stats["node_count"], 5);
    assert_eq!(stats["connections"][0]["packets_sent"], 2);
    let configuration = run(&server, "configuration");
    assert_eq!(configuration["client_port"], server.address().port());
    let monitor = run(&server, "monitor");
    assert_eq!(monitor["znode_count"], 5);
    assert_eq!(monitor["ephemerals_count"], 1);
    // What is monitored by word is monitored here.
    for line in word(server.address(), "mntr").lines() {
        let key = line.split('\t').next().unwrap().trim_start_matches("zk_");
        assert!(monitor.get(key).is_some(), "{key}");
    }
    run(&server, "stat_reset");
    run(&server, "connection_stat_reset");
    assert_eq!(run(&server, "monitor")["packets_received"], 0);
    let connections = run(&server, "connections");
    assert_eq!(connections["connections"][0]["packets_received"], 0);
    assert_eq!(
        run(&server, "set_trace_mask?traceMask=2")["tracemask"],
        run(&server, "get_trace_mask")["tracemask"]
    );
}

#[test]
fn what_is_no_command_is_an_error_in_json() {
    let (_node, server) = serve();
    let (status, _, body) = get(admin(&server), "/commands/nope");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 404);
    assert_eq!(
        answer,
        json!({ "command": "nope", "error": "Unknown command: nope" })
    );
    let (status, _, body) = get(admin(&server), "/commands/stmk?traceMask=x");
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("requires long traceMask argument, got x"));
    assert_eq!(get(admin(&server), "/commands/stmk").0, 400);
}

/// The samples of Prometheus' text format, whose grammar is checked.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut typed = String::new();
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["gauge", "counter"].contains(&kind), "{line}");
            typed = name.to_string();
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let family = name.split('{').next().unwrap();
        assert_eq!(family, typed, "{line} has no type");
        assert!(
            family
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_'),
            "{line}"
        );
        let before = samples.insert(name.to_string(), value.parse().unwrap());
        assert!(before.is_none(), "{line} comes twice");
    }
    samples
}

#[test]
fn metrics_are_what_prometheus_reads() {
    let (_node, server) = serve();
    let mut wire = Wire::connect(server.address(), 10_000).0;
    wire.call(1, CREATE, &create("/a", b"", 0));
    eventually("the creation is counted", || {
        get(admin(&server), "/metrics")
            .2
            .contains("\nznode_count 5\n")
    });
    let (status, kind, body) = get(admin(&server), "/metrics");
    assert_eq!(status, 200);
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let found = samples(&body);
    assert_eq!(found["znode_count"], 5.0);
    assert_eq!(found["num_alive_connections"], 1.0);
    assert_eq!(found["packets_received"], 1.0);
    assert_eq!(found["cnt_updatelatency"], 1.0);
    assert_eq!(found["quorate_is_leader"], 1.0);
    assert_eq!(found["quorate_has_leader"], 1.0);
    assert_eq!(found["quorate_member_lag{member=\"1\"}"], 0.0);
    assert!(found["quorate_zxid"] >= 2.0);
    assert!(
        body.contains(",id=\"1\",state=\"standalone\"} 1\n"),
        "{body}"
    );
}

#[test]
fn a_node_is_healthy_while_it_runs_and_ready_while_it_has_a_leader() {
    let mut cluster = Cluster::new(3);
    let stays = cluster.follower();
    let server = serve_node(cluster.node(stays));
    let status = |path| get(admin(&server), path).0;
    assert_eq!((status("/health"), status("/ready")), (200, 200));
    assert_eq!(run(&server, "leader")["is_leader"], false);
    assert_eq!(run(&server, "leader")["leader_id"], cluster.leader());
    assert_eq!(run(&server, "zabstate")["zabstate"], "broadcast");
    for id in cluster.running() {
        if id != stays {
            cluster.stop(id);
        }
    }
    eventually("it is not ready", || status("/ready") == 503);
    assert_eq!(status("/health"), 200);
    cluster.node(stays).shutdown();
    eventually("it is not healthy", || status("/health") == 503);
    let (status, _, body) = get(admin(&server), "/commands/stats");
    assert_eq!(status, 503);
    assert!(body.contains("not currently serving requests"), "{body}");
}

#[test]
fn bad_requests_are_refused_and_cost_little() {
    let (_node, server) = serve();
    let address = admin(&server);
    let status = |request: &str| http(address, request).0;
    assert_eq!(status("POST /commands/ruok HTTP/1.1\r\n\r\n"), 405);
    assert_eq!(status("GET /nothing HTTP/1.1\r\n\r\n"), 404);
    assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 404);
    assert_eq!(status("what is this\r\n\r\n"), 400);
    assert_eq!(status("\u{16}\u{3}\u{1}\r\n\r\n"), 400);
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(9_000));
    assert_eq!(status(&long), 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500));
    assert_eq!(status(&many), 431);
    // A head has no body.
    let head = ask(address, b"HEAD /health HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"));
    assert_eq!(get(address, "/health").0, 200);
}

#[test]
fn who_says_nothing_holds_others_up_for_a_while_at_most() {
    let (_node, server) = serve();
    let address = admin(&server);
    // More than there are threads.
    let mut silent: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    silent[0].write_all(b"GET /hea").unwrap();
    assert_eq!(get(address, "/health").0, 200);
    // They were closed without a word.
    for stream in &mut silent[..2] {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    }
}

#[test]
fn it_stops_with_its_server() {
    let (_node, server) = serve();
    let address = admin(&server);
    assert_eq!(get(address, "/health").0, 200);
    server.shutdown();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

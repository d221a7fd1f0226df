//! The four-letter words: which are answered, and in ZooKeeper's formats.
//!
//! The formats are those that ZooKeeper 3.8's own server gives for the same sessions and watches.

#[path = "wire/asked.rs"]
mod asked;
mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::io::Write as _;
use std::sync::Arc;

use asked::{ask, monitored, word};
use parking_lot::Mutex;
use quorate::server::{ZooKeeperServer, ZooKeeperServerBuilder};
use quorate::{CreateMode, Node, Version, WatchKind};
use support::{Cluster, Within as _, eventually};
use wire::{Wire, create, read};

const CREATE: i32 = 1;
const EXISTS: i32 = 3;
const GET: i32 = 4;
const GET_CHILDREN: i32 = 8;

const ALL: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst",
    "srvr", "stat", "stmk", "wchc", "wchp", "wchs",
];

fn serve(
    options: impl FnOnce(ZooKeeperServerBuilder) -> ZooKeeperServerBuilder,
) -> (Node, ZooKeeperServer) {
    let node = Node::builder(1).start().unwrap();
    let builder = ZooKeeperServer::builder(&node).listen("127.0.0.1:0");
    let server = options(builder).start().unwrap();
    // The server has to have seen that there is a leader.
    node.wait_for(support::PATIENCE, |status| status.leader.is_some())
        .unwrap();
    (node, server)
}

fn serve_all() -> (Node, ZooKeeperServer) {
    serve(|builder| builder.four_letter_words(["*"]))
}

/// A client with an ephemeral and watches, and another with watches; their sessions.
fn busy(server: &ZooKeeperServer) -> ([Wire; 2], [i64; 2]) {
    let (mut one, first) = Wire::connect(server.address(), 10_000);
    let (mut two, second) = Wire::connect(server.address(), 20_000);
    one.call(1, CREATE, &create("/a", b"hello", 0));
    one.call(2, CREATE, &create("/a/e", b"", 1));
    one.call(3, CREATE, &create("/a/f", b"", 1));
    one.call(4, GET, &read("/a", true));
    two.call(1, GET, &read("/a", true));
    two.call(2, EXISTS, &read("/none", true));
    two.call(3, GET_CHILDREN, &read("/", true));
    ([one, two], [first.session, second.session])
}

#[test]
fn srvr_alone_is_answered_unless_others_are_allowed() {
    let (_node, server) = serve(|builder| builder);
    for name in ALL {
        let mut bytes = name.as_bytes().to_vec();
        if name == "stmk" {
            bytes.extend([0; 8]);
        }
        let answer = ask(server.address(), &bytes);
        match name {
            "srvr" => assert!(answer.starts_with("Zookeeper version: 3.9"), "{answer}"),
            _ => assert_eq!(
                answer,
                format!("{name} is not executed because it is not in the whitelist.\n")
            ),
        }
    }
    let (_node, server) = serve(|builder| builder.four_letter_words(["ruok", "wchs"]));
    assert_eq!(word(server.address(), "ruok"), "imok");
    assert!(word(server.address(), "wchs").starts_with("0 connections"));
    assert!(word(server.address(), "srvr").contains("not executed"));
}

#[test]
fn a_word_may_come_in_pieces() {
    let (_node, server) = serve_all();
    let mut wire = Wire::open(server.address());
    for piece in ["s", "t", "mk", "\0\0\0", "\0\0\0\x01", "\0"] {
        wire.stream.write_all(piece.as_bytes()).unwrap();
        wire.stream.flush().unwrap();
        std::thread::yield_now();
    }
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut wire.stream, &mut answer).unwrap();
    assert_eq!(answer, "256");
}

#[test]
fn the_lists_name_sessions_ephemerals_and_watches() {
    let (node, server) = serve_all();
    let (_wires, [one, two]) = busy(&server);
    let address = server.address();
    assert_eq!(
        word(address, "wchs"),
        "2 connections watching 2 paths\nTotal watches:3\n"
    );
    assert_eq!(
        word(address, "wchc"),
        format!("0x{one:x}\n\t/a\n0x{two:x}\n\t/a\n\t/none\n\n")
    );
    assert_eq!(
        word(address, "wchp"),
        format!("/a\n\t0x{one:x}\n\t0x{two:x}\n/none\n\t0x{two:x}\n\n")
    );
    let dump = word(address, "dump");
    let expected = format!(
        "SessionTracker dump:\nGlobal Sessions(2):\n0x{one:x}\t10000ms\n0x{two:x}\t20000ms\n\
         ephemeral nodes dump:\nSessions with Ephemerals (1):\n0x{one:x}:\n\t/a/e\n\t/a/f\n\
         Connections dump:\nConnections Sets (",
    );
    assert!(dump.starts_with(&expected), "{dump}");
    let (_, connections) = dump.split_once(")/(3):\n").expect("three connections");
    assert!(connections.contains(" expire at "), "{dump}");
    assert!(
        connections.contains(&format!(" sessionId: 0x{one:x}\n")),
        "{dump}"
    );
    // A host's own session is one like theirs.
    let session = node.session().open().within().unwrap();
    let watcher = session.watcher(8);
    session
        .watch("/h", WatchKind::Persistent, &watcher)
        .unwrap();
    let created = session.create("/h", "", CreateMode::Ephemeral);
    created.within().unwrap();
    let host = session.id().0;
    assert!(word(address, "wchp").contains(&format!("/h\n\t0x{host:x}\n")));
    assert!(word(address, "dump").contains(&format!("0x{host:x}:\n\t/h\n")));
}

#[test]
fn connections_are_listed_with_what_they_did_last() {
    let (_node, server) = serve_all();
    let (wires, [one, _]) = busy(&server);
    let cons = word(server.address(), "cons");
    let own = wires[0].stream.local_addr().unwrap();
    let line = cons
        .lines()
        .find(|line| line.starts_with(&format!(" /{own}[1](")))
        .unwrap_or_else(|| panic!("no {own} in {cons}"));
    let fields = line.split_once('(').unwrap().1.trim_end_matches(')');
    let fields: Vec<(&str, &str)> = fields
        .split(',')
        .map(|field| field.split_once('=').unwrap())
        .collect();
    let keys: Vec<&str> = fields.iter().map(|(key, _)| *key).collect();
    assert_eq!(
        keys,
        [
            "queued", "recved", "sent", "sid", "lop", "est", "to", "lcxid", "lzxid", "lresp",
            "llat", "minlat", "avglat", "maxlat"
        ]
    );
    let value = |key: &str| fields.iter().find(|(found, _)| *found == key).unwrap().1;
    assert_eq!(value("sid"), format!("0x{one:x}"));
    assert_eq!((value("recved"), value("sent")), ("4", "4"));
    assert_eq!((value("lop"), value("lcxid")), ("GETD", "0x4"));
    assert_eq!(value("to"), "10000");
    assert!(cons.ends_with(")\n\n"), "{cons:?}");
    assert_eq!(word(server.address(), "crst"), "Connection stats reset.\n");
    let cons = word(server.address(), "cons");
    assert!(cons.contains(&format!("/{own}[1](queued=0,recved=0,sent=0,")));

    let stat = word(server.address(), "stat");
    assert!(stat.starts_with("Zookeeper version: 3.9"), "{stat}");
    let client = format!("\nClients:\n /{own}[1](queued=0,recved=0,sent=0)\n");
    // Ours may be behind another one's line.
    assert!(stat.contains("\nClients:\n /"), "{stat}");
    assert!(
        stat.contains(client.trim_start_matches("\nClients:\n")),
        "{stat}"
    );
    assert!(stat.contains(")\n\nLatency min/avg/max: "), "{stat}");
}

#[test]
fn numbers_are_monitored_under_zookeepers_keys() {
    let (_node, server) = serve_all();
    let _busy = busy(&server);
    eventually("the watches are counted", || {
        let found = monitored(server.address());
        found["zk_watch_count"] == "4" && found["zk_znode_count"] == "7"
    });
    let found = monitored(server.address());
    let expected = [
        ("zk_server_state", "standalone"),
        ("zk_ephemerals_count", "2"),
        ("zk_num_alive_connections", "3"),
        ("zk_outstanding_requests", "0"),
        ("zk_znode_count", "7"),
        ("zk_global_sessions", "2"),
        ("zk_local_sessions", "0"),
        ("zk_packets_received", "7"),
        ("zk_packets_sent", "7"),
        ("zk_connection_request_count", "2"),
        ("zk_cnt_updatelatency", "3"),
        ("zk_cnt_readlatency", "4"),
        ("zk_auth_failed_count", "0"),
    ];
    for (key, value) in expected {
        assert_eq!(found[key], value, "{key} of {found:?}");
    }
    for key in ["zk_min_latency", "zk_max_latency", "zk_uptime"] {
        found[key].parse::<u64>().unwrap();
    }
    assert!(found["zk_avg_latency"].parse::<f64>().unwrap() >= 0.0);
    // Of the paths and the data: at least what was written.
    assert!(found["zk_approximate_data_size"].parse::<u64>().unwrap() > 5);
    assert!(found["zk_version"].starts_with("3.9.0-quorate-"));
    if cfg!(target_os = "linux") {
        let open: u64 = found["zk_open_file_descriptor_count"].parse().unwrap();
        let limit: u64 = found["zk_max_file_descriptor_count"].parse().unwrap();
        assert!(0 < open && open <= limit);
    }
    assert_eq!(word(server.address(), "srst"), "Server stats reset.\n");
    let found = monitored(server.address());
    assert_eq!(found["zk_packets_received"], "0");
    assert_eq!(found["zk_cnt_updatelatency"], "0");
}

#[test]
fn an_ensembles_leader_counts_those_who_follow() {
    let cluster = Cluster::new(3);
    let leader = cluster.leader();
    let server = |id| {
        ZooKeeperServer::builder(cluster.node(id))
            .listen("127.0.0.1:0")
            .four_letter_words(["*"])
            .start()
            .unwrap()
    };
    let (leading, following) = (server(leader), server(cluster.follower()));
    eventually("the leader hears both", || {
        monitored(leading.address()).get("zk_synced_followers") == Some(&"2".to_string())
    });
    let found = monitored(leading.address());
    assert_eq!(found["zk_server_state"], "leader");
    assert_eq!(found["zk_peer_state"], "leading - broadcast");
    assert_eq!(found["zk_learners"], "2");
    assert_eq!(found["zk_synced_observers"], "0");
    assert_eq!(found["zk_quorum_size"], "3");
    found["zk_leader_uptime"].parse::<u64>().unwrap();
    let found = monitored(following.address());
    assert_eq!(found["zk_server_state"], "follower");
    assert_eq!(found["zk_peer_state"], "following - broadcast");
    assert_eq!(found["zk_quorum_size"], "3");
    assert!(!found.contains_key("zk_synced_followers"));
    assert!(word(following.address(), "srvr").contains("\nMode: follower\n"));
    assert!(word(following.address(), "conf").contains("\nmembership: \n"));
}

#[test]
fn a_server_tells_what_it_runs_with() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("below")).unwrap();
    std::fs::write(directory.path().join("a"), [0; 1000]).unwrap();
    std::fs::write(directory.path().join("below/b"), [0; 24]).unwrap();
    let (_node, server) = serve(|builder| {
        builder
            .four_letter_words(["*"])
            .directory(directory.path())
            .connections_per_address_max(60)
    });
    let address = server.address();
    assert_eq!(
        word(address, "dirs"),
        "datadir_size: 1024\nlogdir_size: 1024\n"
    );
    let conf = word(address, "conf");
    for line in [
        &format!("clientPort={}", address.port()),
        "secureClientPort=-1",
        "dataDirSize=1024",
        "tickTime=2000",
        "maxClientCnxns=60",
        "minSessionTimeout=4000",
        "maxSessionTimeout=40000",
        "serverId=1",
    ] {
        assert!(conf.lines().any(|found| found == line), "{line} in {conf}");
    }
    let envi = word(address, "envi");
    assert!(
        envi.starts_with("Environment:\nzookeeper.version=3.9"),
        "{envi}"
    );
    assert!(envi.contains("\nos.name="), "{envi}");
    assert_eq!(word(address, "ruok"), "imok");
    assert_eq!(word(address, "isro"), "rw");
}

#[test]
fn members_that_have_the_same_tree_have_the_same_digests() {
    let cluster = Cluster::new(3);
    let servers: Vec<ZooKeeperServer> = (1..=3)
        .map(|id| {
            let builder = ZooKeeperServer::builder(cluster.node(id)).listen("127.0.0.1:0");
            builder.four_letter_words(["hash"]).start().unwrap()
        })
        .collect();
    let session = cluster.session(1);
    for name in ["/a", "/b", "/c"] {
        let create = session.create(name, "1", CreateMode::Persistent);
        create.within().unwrap();
    }
    for number in 0..300 {
        session
            .set("/a", number.to_string(), Version::ANY)
            .within()
            .unwrap();
    }
    cluster.level();
    let words: Vec<String> = servers
        .iter()
        .map(|server| word(server.address(), "hash"))
        .collect();
    assert!(words.iter().all(|text| *text == words[0]), "{words:?}");
    // As ZooKeeper 3.8 says it: the write's zxid, and a number.
    let parsed: Vec<(u64, i64)> = words[0]
        .lines()
        .map(|line| {
            let (zxid, digest) = line.split_once(": ").unwrap();
            (
                u64::from_str_radix(zxid, 16).unwrap(),
                digest.parse().unwrap(),
            )
        })
        .collect();
    let zxids: Vec<u64> = parsed.iter().map(|(zxid, _)| *zxid).collect();
    assert_eq!(zxids, [128, 256]);
    assert_ne!(parsed[0].1, parsed[1].1);
}

#[test]
fn the_trace_mask_decides_what_is_logged() {
    let lines = Arc::new(Mutex::new(0));
    let counted = lines.clone();
    let (_node, server) = serve(|builder| {
        builder
            .four_letter_words(["*"])
            .log(move |_| *counted.lock() += 1)
    });
    let address = server.address();
    assert_eq!(word(address, "gtmk"), "306");
    // A frame of an impossible length is a reason to close, and to say so.
    let misbehave = || {
        let mut wire = Wire::open(address);
        wire.send_raw(&[0xff; 8]);
        assert!(wire.is_closed());
    };
    misbehave();
    eventually("a line", || *lines.lock() == 1);
    let mask = |mask: i64| ask(address, &[b"stmk".as_slice(), &mask.to_be_bytes()].concat());
    assert_eq!(mask(2), "2");
    assert_eq!(word(address, "gtmk"), "2");
    misbehave();
    assert_eq!(mask(256), "256");
    misbehave();
    eventually("another line, and none between", || *lines.lock() == 2);
}

#[test]
fn many_slow_words_at_once_hold_nobody_up() {
    let (_node, server) = serve_all();
    let address = server.address();
    let askers: Vec<_> = (0..16)
        .map(|_| std::thread::spawn(move || word(address, "dump")))
        .collect();
    let mut wire = Wire::connect(address, 10_000).0;
    assert_eq!(wire.call(1, EXISTS, &read("/", false)).error, 0);
    for asker in askers {
        let answer = asker.join().unwrap();
        let is_answer = answer.starts_with("SessionTracker dump:");
        let is_refusal = answer.starts_with("Others are being answered");
        assert!(is_answer || is_refusal, "{answer}");
    }
    eventually("it is answered again", || {
        word(address, "dump").starts_with("SessionTracker dump:")
    });
}

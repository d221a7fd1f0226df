//! `/zookeeper/config` and `reconfig`: the cluster's membership in ZooKeeper's words.

#[path = "wire/python.rs"]
mod python;
mod support;
#[path = "wire/raw.rs"]
mod wire;

use std::time::Duration;

use python::kazoo;
use quorate::server::ZooKeeperServer;
use quorate::{Node, NodeEvent, NodeId, NodeStatus, Role};
use support::{Cluster, PATIENCE, Within as _, eventually, node_id};
use wire::{Body, Frame, Wire, body, create, read, set};

const CREATE: i32 = 1;
const GET: i32 = 4;
const SET: i32 = 5;
const RECONFIG: i32 = 16;
const AUTH: i32 = 100;
const CONFIG: &str = "/zookeeper/config";

/// Nodes with a server each, that know where they are.
struct Ensemble {
    // Before the nodes that they serve.
    servers: Vec<(u64, ZooKeeperServer)>,
    cluster: Cluster,
}

impl Ensemble {
    fn start(nodes: u64) -> Ensemble {
        let mut ensemble = Ensemble {
            servers: Vec::new(),
            cluster: Cluster::new(nodes),
        };
        for id in 1..=nodes {
            ensemble.serve(id);
        }
        ensemble
    }

    fn serve(&mut self, id: u64) {
        let server = ZooKeeperServer::builder(self.cluster.node(id))
            .listen("127.0.0.1:0")
            .advertise(peer(id))
            .allow_reconfig()
            .reconfig_patience(Duration::from_secs(2))
            // Of `super:test`, from ZooKeeper's documentation.
            .super_digest("super:D/InIHSb7yEEbrWz8b9l71RjZJU=")
            .start()
            .unwrap();
        self.servers.push((id, server));
    }

    /// A node that waits to be added.
    fn join(&mut self, id: u64) {
        self.cluster.join(id);
        self.serve(id);
    }

    fn server(&self, id: u64) -> &ZooKeeperServer {
        let found = self.servers.iter().find(|(found, _)| *found == id);
        &found.unwrap().1
    }

    /// The line of a member.
    fn line(&self, id: u64, role: &str) -> String {
        let client = self.server(id).address();
        format!("server.{id}={0}:{1}:{role};{client}", peer(id), 2888)
    }

    /// The configuration as one node has it, without its version.
    fn lines(&self, id: u64) -> Vec<String> {
        let text = config(self.cluster.node(id));
        let lines = text.lines().filter(|line| !line.starts_with("version="));
        lines.map(str::to_string).collect()
    }

    fn wait_for(&self, what: &str, expected: &[String]) {
        eventually(what, || {
            self.cluster
                .running()
                .iter()
                .all(|id| self.lines(*id) == expected)
        });
    }

    /// A client that may do everything.
    fn super_client(&self, id: u64) -> Wire {
        let mut wire = Wire::connect(self.server(id).address(), 30_000).0;
        let auth = body().int(0).text("digest").text("super:test");
        assert_eq!(wire.call(-4, AUTH, &auth).error, 0);
        wire
    }
}

/// Where the other members reach one. Nobody is there: these nodes share a network in memory.
fn peer(id: u64) -> String {
    format!("127.0.1.{id}:2888")
}

fn config(node: &Node) -> String {
    let session = node.handle().session().open_read_only().unwrap();
    let (data, _) = session.get(CONFIG).within().unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

fn version(text: &str) -> i64 {
    let line = text.lines().last().unwrap();
    i64::from_str_radix(line.strip_prefix("version=").unwrap(), 16).unwrap()
}

fn reconfig(joining: &str, leaving: &str, members: &str, from: i64) -> Body {
    let text = |body: Body, text: &str| match text {
        "" => body.int(-1),
        text => body.text(text),
    };
    let joining = text(body(), joining);
    text(text(joining, leaving), members).long(from)
}

fn text(frame: &Frame) -> String {
    String::from_utf8(frame.buffer().to_vec()).unwrap()
}

#[test]
fn the_configuration_names_all_members_and_is_the_same_everywhere() {
    let ensemble = Ensemble::start(3);
    let expected: Vec<String> = (1..=3).map(|id| ensemble.line(id, "participant")).collect();
    ensemble.wait_for("all members are named", &expected);
    let mut wire = Wire::connect(ensemble.server(2).address(), 30_000).0;
    let found = text(&wire.call(1, GET, &read(CONFIG, false)));
    assert_eq!(found, config(ensemble.cluster.node(1)));
    assert_eq!(
        found,
        format!("{}\nversion={:x}", expected.join("\n"), version(&found))
    );
    assert!(version(&found) > 0);
    // Anybody reads it; nobody but a super user writes it.
    assert_eq!(wire.call(2, SET, &set(CONFIG, b"mine")).error, -102);
}

#[test]
fn members_join_and_leave_by_reconfig_and_watchers_hear_of_it() {
    let mut ensemble = Ensemble::start(3);
    let three: Vec<String> = (1..=3).map(|id| ensemble.line(id, "participant")).collect();
    ensemble.wait_for("all members are named", &three);
    ensemble.join(4);
    for serving in [ensemble.cluster.leader(), ensemble.cluster.follower()] {
        let mut wire = ensemble.super_client(serving);
        let before = text(&wire.call(1, GET, &read(CONFIG, true)));
        let observer = ensemble.line(4, "observer");
        let change = reconfig(&observer, "", "", version(&before));
        wire.request(2, RECONFIG, &change);
        let (reply, events) = wire.reply(2);
        let after = text(&reply);
        assert!(after.contains(&format!("\n{observer}\n")), "{after}");
        assert!(version(&after) > version(&before));
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].event(), (3, CONFIG.to_string()));
        assert_eq!(text(&wire.call(3, GET, &read(CONFIG, false))), after);
        eventually("4 learns", || {
            ensemble.cluster.node(4).status().role == Role::Learner
        });
        // An observer becomes a participant.
        let participant = ensemble.line(4, "participant");
        let reply = wire.call(4, RECONFIG, &reconfig(&participant, "", "", -1));
        assert!(text(&reply).contains(&format!("\n{participant}\n")));
        eventually("4 has a vote", || {
            ensemble.cluster.node(4).status().role == Role::Follower
        });
        // All at once: the same without it.
        let members = three.join(",");
        let reply = wire.call(5, RECONFIG, &reconfig("", "", &members, -1));
        assert!(!text(&reply).contains("server.4="));
        let voters = ensemble.cluster.node(serving).status().voters;
        assert_eq!(voters, [1, 2, 3].map(node_id));
        eventually("4 is removed", || {
            ensemble.cluster.node(4).status().role == Role::Removed
        });
        ensemble.servers.pop();
        ensemble.cluster.stop(4);
        ensemble.wait_for("the three are named again", &three);
        ensemble.join(4);
    }
}

#[test]
fn one_takes_the_place_of_another() {
    let mut ensemble = Ensemble::start(3);
    ensemble.join(4);
    let serving = ensemble.cluster.leader();
    let leaving = ensemble.cluster.follower();
    let mut wire = ensemble.super_client(serving);
    let joining = ensemble.line(4, "participant");
    let change = reconfig(&joining, &leaving.to_string(), "", -1);
    let reply = wire.call(1, RECONFIG, &change);
    assert!(text(&reply).contains("server.4="), "{}", text(&reply));
    let status = ensemble.cluster.node(serving).status();
    assert!(status.voters.contains(&node_id(4)) && !status.voters.contains(&node_id(leaving)));
    assert_eq!(status.voters.len(), 3);
}

#[test]
fn a_participant_becomes_an_observer_and_all_that_is_asked_for_is_one_step() {
    let mut ensemble = Ensemble::start(3);
    ensemble.join(4);
    ensemble.join(5);
    let serving = ensemble.cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|id| *id != serving).collect();
    let (observing, leaving) = (others[0], others[1]);
    let mut events = ensemble.cluster.node(serving).events();
    let role = |id: u64| {
        if id == observing {
            "observer"
        } else {
            "participant"
        }
    };
    let mut members = [serving, observing, 4, 5];
    members.sort_unstable();
    let lines: Vec<String> = members
        .iter()
        .map(|&id| ensemble.line(id, role(id)))
        .collect();
    let mut wire = ensemble.super_client(serving);
    let reply = wire.call(1, RECONFIG, &reconfig("", "", &lines.join(","), -1));
    assert_eq!(reply.error, 0);
    assert!(
        text(&reply).starts_with(&lines.join("\n")),
        "{}",
        text(&reply)
    );
    let mut voters = vec![node_id(serving), node_id(4), node_id(5)];
    voters.sort_unstable();
    let is_so =
        |status: &NodeStatus| status.voters == voters && status.learners == [node_id(observing)];
    let node = ensemble.cluster.node(serving);
    node.wait_for(PATIENCE, is_so).unwrap();
    // There were those voters, and then these.
    let mut seen: Vec<Vec<NodeId>> = Vec::new();
    while seen.last() != Some(&voters) {
        let event = events.next_timeout(PATIENCE).unwrap().expect("it goes on");
        if let NodeEvent::MembershipChanged { members } = event {
            seen.push(members.voters);
        }
    }
    seen.dedup();
    assert_eq!(seen.len(), 2, "{seen:?}");
    eventually("one is removed", || {
        ensemble.cluster.node(leaving).status().role == Role::Removed
    });
    eventually("the others are named", || {
        members.iter().all(|id| ensemble.lines(*id) == lines)
    });
    // And back.
    let joining = ensemble.line(observing, "participant");
    let reply = wire.call(2, RECONFIG, &reconfig(&joining, "", "", -1));
    assert_eq!(reply.error, 0);
    let votes = |status: &NodeStatus| status.voters.contains(&node_id(observing));
    node.wait_for(PATIENCE, votes).unwrap();
}

#[test]
fn a_leader_makes_itself_an_observer() {
    let ensemble = Ensemble::start(3);
    let serving = ensemble.cluster.leader();
    let mut wire = ensemble.super_client(serving);
    let joining = ensemble.line(serving, "observer");
    let reply = wire.call(1, RECONFIG, &reconfig(&joining, "", "", -1));
    assert_eq!(reply.error, 0);
    assert!(text(&reply).contains(&joining), "{}", text(&reply));
    eventually("it observes", || {
        ensemble.cluster.node(serving).status().role == Role::Learner
    });
}

#[test]
fn a_server_that_is_to_leave_answers_and_goes() {
    let ensemble = Ensemble::start(3);
    let leaving = ensemble.cluster.leader();
    let mut wire = ensemble.super_client(leaving);
    let reply = wire.call(1, RECONFIG, &reconfig("", &leaving.to_string(), "", -1));
    assert!(!text(&reply).contains(&format!("server.{leaving}=")));
    eventually("it is removed", || {
        ensemble.cluster.node(leaving).status().role == Role::Removed
    });
    let others: Vec<u64> = (1..=3).filter(|id| *id != leaving).collect();
    let expected: Vec<String> = others
        .iter()
        .map(|id| ensemble.line(*id, "participant"))
        .collect();
    eventually("it is named no more", || {
        others.iter().all(|id| ensemble.lines(*id) == expected)
    });
}

#[test]
fn the_hosts_own_changes_are_in_the_configuration() {
    let mut ensemble = Ensemble::start(3);
    ensemble.join(4);
    let follower = ensemble.cluster.follower();
    let node = ensemble.cluster.node(follower);
    node.add_learner(node_id(4)).within().unwrap();
    let mut expected: Vec<String> = (1..=3).map(|id| ensemble.line(id, "participant")).collect();
    expected.push(ensemble.line(4, "observer"));
    ensemble.wait_for("4 observes", &expected);
    node.promote(node_id(4)).within().unwrap();
    expected[3] = ensemble.line(4, "participant");
    ensemble.wait_for("4 takes part", &expected);
    node.remove(node_id(4)).within().unwrap();
    expected.pop();
    eventually("4 is gone", || {
        (1..=3).all(|id| ensemble.lines(id) == expected)
    });
}

#[test]
fn what_can_not_be_is_refused_in_zookeepers_order() {
    // Disabled: whatever is asked for.
    let node = Node::builder(1).start().unwrap();
    let serve = |allowed: bool| {
        let builder = ZooKeeperServer::builder(&node).listen("127.0.0.1:0");
        match allowed {
            true => builder.allow_reconfig().start().unwrap(),
            false => builder.start().unwrap(),
        }
    };
    let nonsense = reconfig("what", "", "", 77);
    let error = |server: &ZooKeeperServer| {
        let mut wire = Wire::connect(server.address(), 30_000).0;
        wire.call(1, RECONFIG, &nonsense).error
    };
    assert_eq!(error(&serve(false)), -123);
    // Alone, with no way to others.
    assert_eq!(error(&serve(true)), -6);

    let ensemble = Ensemble::start(3);
    let three: Vec<String> = (1..=3).map(|id| ensemble.line(id, "participant")).collect();
    ensemble.wait_for("all members are named", &three);
    let mut anyone = Wire::connect(ensemble.server(1).address(), 30_000).0;
    let mut refused = |joining: &str, leaving: &str, members: &str, from: i64| {
        let change = reconfig(joining, leaving, members, from);
        anyone.call(1, RECONFIG, &change).error
    };
    // Another version is said before what else is wrong, that before who asks.
    assert_eq!(refused("what", "", "", 77), -103);
    for wrong in [
        "what",
        "server.4=h:1",
        "server.4=h:1:2:leader",
        &three[0].replace("server.1", "server.4"),
        &three.join(",").replace("participant", "observer"),
    ] {
        assert_eq!(refused(wrong, "", "", -1), -8, "{wrong}");
    }
    assert_eq!(refused("server.x=h:1:2", "", "", -1), -5);
    assert_eq!(refused("", "x", "", -1), -5);
    assert_eq!(refused("", "1,2,3", "", -1), -8);
    assert_eq!(refused("", "", "server.1=h:1:2:observer", -1), -5);
    assert_eq!(refused("", "", "group.1=1:2", -1), -8);
    let fourth = "server.4=127.0.1.4:2888:2888;2181";
    assert_eq!(refused(fourth, "", "", -1), -102);
    let observer = three[0].replace("participant", "observer");
    assert_eq!(refused(&observer, "", "", -1), -102);
    // Nobody is there to take part: it is taken back.
    let mut wire = ensemble.super_client(1);
    assert_eq!(
        wire.call(1, RECONFIG, &reconfig(fourth, "", "", -1)).error,
        -13
    );
    // The leader has answered; node 1 comes to it.
    eventually("it is taken back", || {
        ensemble.cluster.node(1).status().learners.is_empty()
    });
    ensemble.wait_for("nothing has changed", &three);
}

#[test]
fn one_change_is_made_at_a_time() {
    let ensemble = Ensemble::start(3);
    let (mut one, mut other) = (ensemble.super_client(1), ensemble.super_client(1));
    // It waits for somebody who never comes.
    let absent = reconfig("server.4=127.0.1.4:2888:2888;2181", "", "", -1);
    one.request(1, RECONFIG, &absent);
    eventually("the first is being made", || {
        ensemble.cluster.node(1).status().learners == [node_id(4)]
    });
    let reply = other.call(2, RECONFIG, &reconfig("", "9", "", -1));
    assert_eq!(reply.error, -14);
    // What comes after it on its connection waits for it; others don't.
    one.request(3, CREATE, &create("/after", b"", 0));
    assert_eq!(other.call(4, CREATE, &create("/beside", b"", 0)).error, 0);
    assert_eq!(one.reply(1).0.error, -13);
    assert_eq!(one.reply(3).0.error, 0);
    let reply = other.call(5, RECONFIG, &reconfig("", "9", "", -1));
    assert_eq!(
        reply.error, 0,
        "nobody leaves, and nothing is wrong with that"
    );
}

#[test]
fn kazoo_reconfigures() {
    let mut ensemble = Ensemble::start(3);
    ensemble.join(4);
    let three: Vec<String> = (1..=3).map(|id| ensemble.line(id, "participant")).collect();
    let script = r#"
import sys
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NoAuthError

address, joining = sys.argv[1], sys.argv[2]
zk = KazooClient(hosts=address)
zk.start()
try:
    zk.reconfig(joining=joining, leaving=None, new_members=None)
    assert False, "anybody may reconfigure"
except NoAuthError:
    pass
zk.add_auth("digest", "super:test")
changed = zk.handler.event_object()
data, stat = zk.get("/zookeeper/config", watch=lambda event: changed.set())
version = int(data.decode().rsplit("version=", 1)[1], 16)
try:
    zk.reconfig(joining=joining, leaving=None, new_members=None, from_config=version + 1000)
    assert False, "from another version"
except BadVersionError:
    pass
data, stat = zk.reconfig(joining=joining, leaving=None, new_members=None, from_config=version)
assert joining.encode() in data, data
assert changed.is_set() or changed.wait(10)
assert zk.get("/zookeeper/config") == (data, stat)
data, stat = zk.reconfig(joining=None, leaving="4", new_members=None)
assert b"server.4=" not in data, data
zk.stop()
"#;
    ensemble.wait_for_three(&three);
    let arguments = [
        ensemble.server(1).address().to_string(),
        ensemble.line(4, "observer"),
    ];
    kazoo("reconfig", script, &arguments);
}

impl Ensemble {
    fn wait_for_three(&self, expected: &[String]) {
        eventually("the three are named", || {
            (1..=3).all(|id| self.lines(id) == expected)
        });
    }
}

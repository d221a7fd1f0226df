//! Scripts with golden answers, in the spirit of etcd-io/raft's `rafttest`.
//!
//! A file in `testdata` holds blocks: commands, a line `----`, and what came of them. Run the tests with
//! `QUORATE_REWRITE=1` to write the answers anew, read the difference, and commit only what you
//! understand. A command after `quiet` is carried out without a trace.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::cluster::{Cluster, Packet, node_id, voters};
use super::describe;
use crate::consensus::{Consensus, MembershipChange, RaftOptions};

/// Runs the script `name` and compares, or rewrites, its answers.
pub(super) fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/consensus/testdata")
        .join(name);
    let golden = std::fs::read_to_string(&path).unwrap();
    let found = answer(&golden);
    if std::env::var_os("QUORATE_REWRITE").is_some() {
        std::fs::write(&path, found).unwrap();
        return;
    }
    for (number, (golden, found)) in golden.lines().zip(found.lines()).enumerate() {
        assert_eq!(
            found,
            golden,
            "{name}, line {} (QUORATE_REWRITE=1 rewrites it)",
            number + 1
        );
    }
    assert_eq!(
        found.lines().count(),
        golden.lines().count(),
        "{name} has another number of lines"
    );
}

/// The file with every answer replaced by what the cores say now.
fn answer(golden: &str) -> String {
    let mut script = Script::default();
    let mut answered = String::new();
    let mut in_answer = false;
    let mut commands: Vec<&str> = Vec::new();
    for line in golden.lines().chain([""]) {
        match (in_answer, line) {
            (false, "----") => {
                in_answer = true;
                let _ = writeln!(answered, "----");
                for command in commands.drain(..) {
                    answered.push_str(&script.command(command));
                }
            }
            (true, "") => {
                in_answer = false;
                answered.push('\n');
            }
            (true, _) => {}
            (false, _) => {
                if !line.is_empty() && !line.starts_with('#') {
                    commands.push(line);
                }
                let _ = writeln!(answered, "{line}");
            }
        }
    }
    assert!(
        commands.is_empty(),
        "commands without an answer: {commands:?}"
    );
    format!("{}\n", answered.trim_end())
}

#[derive(Default)]
struct Script {
    cluster: Option<Cluster>,
    kept: BTreeMap<String, Vec<Packet>>,
}

impl Script {
    fn command(&mut self, line: &str) -> String {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "cluster" {
            self.cluster = Some(new_cluster(&words[1..]));
            return String::new();
        }
        let quiet = words[0] == "quiet";
        if quiet {
            words.remove(0);
        }
        let kept = &mut self.kept;
        let cluster = self
            .cluster
            .as_mut()
            .expect("a script begins with `cluster`");
        cluster.trace.clear();
        let outcome = control(cluster, kept, &words).unwrap_or_else(|| call(cluster, &words));
        let mut answer = std::mem::take(&mut cluster.trace);
        if quiet {
            answer.clear();
        }
        answer.push_str(&outcome);
        answer
    }
}

/// `cluster 1 2 3 learners 4 append-bytes 1`
fn new_cluster(words: &[&str]) -> Cluster {
    let mut options = RaftOptions::default();
    let (words, bytes) = match words.iter().position(|&word| word == "append-bytes") {
        Some(at) => (&words[..at], words.get(at + 1)),
        None => (words, None),
    };
    if let Some(bytes) = bytes {
        options.append_bytes_max = number(bytes);
    }
    let ids = |words: &[&str]| words.iter().map(|word| number(word)).collect::<Vec<u64>>();
    let (of_voters, of_learners) = match words.iter().position(|&word| word == "learners") {
        Some(at) => (ids(&words[..at]), ids(&words[at + 1..])),
        None => (ids(words), Vec::new()),
    };
    let mut configuration = voters(&of_voters);
    configuration.learners = of_learners.into_iter().map(node_id).collect();
    Cluster::new(configuration, options)
}

fn number(word: &str) -> u64 {
    word.parse()
        .unwrap_or_else(|_| panic!("{word} is not a number"))
}

/// The commands that act on the world around the cores.
fn control(
    cluster: &mut Cluster,
    kept: &mut BTreeMap<String, Vec<Packet>>,
    words: &[&str],
) -> Option<String> {
    let id = words.get(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    match words[0] {
        "stabilize" => cluster.stabilize(),
        "elect" => elect(cluster, id),
        "persist" => assert!(cluster.persist(id), "node {id} has nothing to write"),
        "slow-disk" => cluster.node(id).slow_disk = true,
        "fast-disk" => cluster.node(id).slow_disk = false,
        "deliver" => {
            return Some(deliver(
                cluster,
                number(words[1]),
                words.get(2).map(|word| number(word)),
            ));
        }
        "drop" => cluster.wire.retain(|packet| !matches(packet, &words[1..])),
        "keep" => {
            let packets: Vec<Packet> = cluster
                .wire
                .iter()
                .filter(|packet| matches(packet, &words[2..]))
                .cloned()
                .collect();
            assert!(!packets.is_empty(), "nothing to keep");
            kept.insert(words[1].to_owned(), packets);
        }
        "inject" => cluster.wire.extend(kept[words[1]].clone()),
        "wire" => {
            let lines = cluster.wire.iter();
            return Some(lines.fold(String::new(), |text, packet| {
                text + "  " + &describe::message(packet.from, packet.to, &packet.bytes) + "\n"
            }));
        }
        "partition" => partition(cluster, &words[1..]),
        "heal" => cluster.cut.clear(),
        "crash" => cluster.crash(id),
        "restart" => return Some(outcome(cluster.restart(id))),
        "join" => cluster.join(id),
        "forget" => cluster.node(id).store.forget_after(number(words[2])),
        "compact" => cluster.snapshot_and_compact(id),
        "log" => {
            return Some(format!(
                "log: {}\n",
                describe::entries(&cluster.node(id).store.log())
            ));
        }
        "status" => return Some(status(cluster)),
        _ => return None,
    }
    Some(String::new())
}

/// The commands that call a core.
fn call(cluster: &mut Cluster, words: &[&str]) -> String {
    let id = number(words[1]);
    let text = words[2..].join(" ");
    match words[0] {
        "propose" => outcome(cluster.with_core(id, |core| core.propose(text.into()))),
        "disconnected" => {
            cluster.with_core(id, |core| core.disconnected(node_id(number(words[2]))));
            String::new()
        }
        "campaign" => {
            cluster.with_core(id, |core| core.campaign());
            String::new()
        }
        "tick" => {
            for _ in 0..number(words[2]) {
                cluster.with_core(id, |core| core.tick());
            }
            String::new()
        }
        "barrier" => outcome(cluster.with_core(id, |core| core.barrier(number(words[2])))),
        "transfer" => outcome(cluster.with_core(id, |core| {
            core.transfer_leadership(node_id(number(words[2])))
        })),
        "change" => {
            let changes: Vec<MembershipChange> = words[2..].chunks(2).map(change).collect();
            outcome(cluster.with_core(id, |core| core.change_membership(&changes)))
        }
        word => panic!("unknown command {word}"),
    }
}

/// `learner 4`, `voter 4`, `remove 4`
fn change(words: &[&str]) -> MembershipChange {
    let node = node_id(number(words[1]));
    match words[0] {
        "learner" => MembershipChange::AddLearner(node),
        "voter" => MembershipChange::AddVoter(node),
        "remove" => MembershipChange::Remove(node),
        word => panic!("unknown change {word}"),
    }
}

fn outcome<E: std::fmt::Display>(result: Result<(), E>) -> String {
    result
        .err()
        .map_or(String::new(), |error| format!("error: {error}\n"))
}

/// `1 2`: from 1 to 2; `1`: from 1 to anybody; nothing: all.
fn matches(packet: &Packet, words: &[&str]) -> bool {
    words.first().is_none_or(|from| number(from) == packet.from)
        && words.get(1).is_none_or(|to| number(to) == packet.to)
}

/// `deliver 2` or `deliver 2 1`: what is under way to 2 (from 1).
fn deliver(cluster: &mut Cluster, to: u64, from: Option<u64>) -> String {
    let wanted = |packet: &Packet| packet.to == to && from.is_none_or(|from| from == packet.from);
    let (now, later): (Vec<Packet>, Vec<Packet>) = cluster.wire.drain(..).partition(wanted);
    cluster.wire.extend(later);
    now.into_iter().fold(String::new(), |text, packet| {
        text + &outcome(cluster.deliver(packet))
    })
}

/// Whoever can hear node `id` gives up its leader, and `id` is elected.
fn elect(cluster: &mut Cluster, id: u64) {
    let others: Vec<u64> = cluster
        .nodes
        .keys()
        .copied()
        .filter(|&other| other != id)
        .collect();
    for other in others {
        if cluster.is_up(other) && !cluster.cut.contains(&(id, other)) {
            for _ in 0..20 {
                cluster.with_core(other, |core| core.tick());
            }
            cluster.wire.retain(|packet| packet.from != other);
        }
    }
    cluster.with_core(id, |core| core.campaign());
    cluster.stabilize();
}

/// `partition 1 2 | 3`
fn partition(cluster: &mut Cluster, words: &[&str]) {
    let sides: Vec<Vec<u64>> = words
        .split(|&word| word == "|")
        .map(|side| side.iter().map(|word| number(word)).collect())
        .collect();
    for (a, b) in sides[0]
        .iter()
        .flat_map(|&a| sides[1].iter().map(move |&b| (a, b)))
    {
        cluster.cut.extend([(a, b), (b, a)]);
    }
}

fn status(cluster: &Cluster) -> String {
    let mut text = String::new();
    for (id, node) in &cluster.nodes {
        let Some(core) = &node.core else {
            let _ = writeln!(text, "{id} down");
            continue;
        };
        let status = core.status();
        let leader = status
            .leader
            .map_or("nobody".to_owned(), |leader| leader.to_string());
        let _ = writeln!(
            text,
            "{id} {:?} term {} leader {leader} commit {} last {} {}",
            status.role,
            status.term,
            status.commit,
            status.last_index,
            describe::configuration(&core.configuration())
        );
    }
    text
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(concat!(stringify!($name), ".txt"));
        })*
    };
}

scripts! {
    barrier,
    change_refused,
    conflict_truncation,
    disconnected,
    election,
    joint_change,
    joint_leave,
    last_voter_waits,
    learner,
    pipelined_durability,
    remove_leader,
    restart,
    snapshot_catch_up,
    snapshot_too_old,
    sole_voter,
    transfer,
}

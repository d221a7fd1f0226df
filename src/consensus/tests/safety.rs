//! Random schedules, and Raft's promises after every step (Raft paper, figure 3).
//!
//! Messages are lost, doubled, delayed and reordered; writes come late; nodes crash and forget what
//! wasn't written; logs are compacted; members change. At the end all is healed and the cluster must
//! serve again. A failure names its seed.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::cluster::{Cluster, Event, node_id, voters};
use crate::consensus::{Consensus, MembershipChange, RaftOptions, Role};
use crate::storage::{EntryKind, LogEntry, Storage as _};

/// What must never change, gathered over a whole run.
#[derive(Default)]
struct Oracle {
    /// Election safety: one leader in a term.
    leaders: BTreeMap<u64, u64>,
    /// Log matching: an index and a term name one entry, with one before it, wherever it is durable.
    entries: BTreeMap<(u64, u64), (EntryKind, Vec<u8>, u64)>,
    /// State machine safety: what is committed at an index.
    committed: BTreeMap<u64, LogEntry>,
}

impl Oracle {
    fn check(&mut self, cluster: &mut Cluster, fixed_members: Option<usize>) {
        for (id, event) in std::mem::take(&mut cluster.events) {
            match event {
                Event::Write {
                    entry,
                    previous_term,
                } => self.check_write(id, entry, previous_term),
                Event::Committed(entry) => {
                    if let Some(members) = fixed_members {
                        assert_durable_on_a_majority(cluster, &entry, members);
                    }
                    let first = self
                        .committed
                        .entry(entry.index)
                        .or_insert_with(|| entry.clone());
                    assert_eq!(*first, entry, "node {id} committed another entry");
                }
                Event::Install(meta) => {
                    if let Some(entry) = self.committed.get(&meta.index) {
                        assert_eq!(entry.term, meta.term, "node {id} installed another history");
                    }
                }
            }
        }
        for (&id, node) in &cluster.nodes {
            let Some(core) = &node.core else { continue };
            assert!(core.failure().is_none());
            let status = core.status();
            if status.role != Role::Leader {
                continue;
            }
            match self.leaders.insert(status.term, id) {
                Some(leader) => assert_eq!(leader, id, "two leaders in term {}", status.term),
                None => self.check_leader_completeness(id, &node.log_terms),
            }
        }
    }

    fn check_write(&mut self, id: u64, entry: LogEntry, previous_term: u64) {
        let written = (entry.kind, entry.data.to_vec(), previous_term);
        let first = self
            .entries
            .entry((entry.index, entry.term))
            .or_insert_with(|| written.clone());
        assert_eq!(
            *first, written,
            "node {id} holds another entry {}/{}",
            entry.index, entry.term
        );
    }

    fn check_leader_completeness(&self, id: u64, log_terms: &BTreeMap<u64, u64>) {
        let first = *log_terms.keys().next().unwrap();
        for (index, entry) in self.committed.range(first..) {
            assert_eq!(
                log_terms.get(index),
                Some(&entry.term),
                "leader {id} lacks committed entry {index}"
            );
        }
    }
}

fn assert_durable_on_a_majority(cluster: &Cluster, entry: &LogEntry, members: usize) {
    let holds = |store: &super::memory_store::MemoryStore| {
        let (first, _) = store.bounds();
        entry.index < first || store.term(entry.index).ok() == Some(entry.term)
    };
    let holders = cluster
        .nodes
        .values()
        .filter(|node| holds(&node.store))
        .count();
    assert!(
        holders * 2 > members,
        "entry {} was committed with {holders} durable copies of {members}",
        entry.index
    );
}

struct Run {
    cluster: Cluster,
    random: StdRng,
    oracle: Oracle,
    proposals: u64,
    barriers: u64,
    /// The number of members where they don't change: there are no strangers that could join.
    fixed_members: Option<usize>,
}

impl Run {
    fn new(seed: u64, of_nodes: u64, strangers: u64) -> Run {
        let mut random = StdRng::seed_from_u64(seed);
        let options = RaftOptions {
            seed: random.r#gen(),
            // Small limits, so that every run meets them.
            append_bytes_max: 64,
            cache_bytes_max: 128,
            committed_bytes_max: 64,
            inflight_messages_max: 3,
            ..RaftOptions::default()
        };
        let ids: Vec<u64> = (1..=of_nodes).collect();
        let mut cluster = Cluster::new(voters(&ids), options);
        cluster.traces = false;
        for id in of_nodes + 1..=of_nodes + strangers {
            cluster.join(id);
        }
        Run {
            cluster,
            random,
            oracle: Oracle::default(),
            proposals: 0,
            barriers: 0,
            fixed_members: (strangers == 0).then_some(of_nodes as usize),
        }
    }

    fn any_node(&mut self) -> u64 {
        let nodes = self.cluster.nodes.len();
        let at = self.random.gen_range(0..nodes);
        *self.cluster.nodes.keys().nth(at).unwrap()
    }

    fn step(&mut self) {
        let id = self.any_node();
        let up = self.cluster.is_up(id);
        match self.random.gen_range(0..100) {
            0..=44 => self.deliver_any(),
            45..=49 => self.lose_or_double_any(),
            50..=69 if up => {
                self.cluster.persist(id);
            }
            70..=79 if up => {
                for _ in 0..self.random.gen_range(1..8) {
                    self.cluster.with_core(id, |core| core.tick());
                }
            }
            80..=89 => self.propose(),
            90..=91 if up => {
                self.cluster.node(id).core.as_ref().unwrap();
                self.cluster.snapshot_and_compact(id);
            }
            92 => self.cluster.crash(id),
            93..=95 if !up => self.cluster.restart(id).unwrap(),
            // True or not: it is a hint.
            93..=95 => {
                let peer = node_id(self.any_node());
                self.cluster.with_core(id, |core| core.disconnected(peer));
            }
            96 => self.cut_or_heal(),
            97 => self.barrier(),
            98 if up && self.fixed_members.is_some() => {
                let to = node_id(self.any_node());
                // Refused on all but the leader.
                let _ = self
                    .cluster
                    .with_core(id, |core| core.transfer_leadership(to));
            }
            98..=99 if self.fixed_members.is_none() => self.change_members(),
            _ => {}
        }
        self.oracle.check(&mut self.cluster, self.fixed_members);
    }

    fn deliver_any(&mut self) {
        if self.cluster.wire.is_empty() {
            return;
        }
        // Mostly in order, else nothing would ever be agreed on.
        let at = match self.random.gen_range(0..4) {
            0 => self.random.gen_range(0..self.cluster.wire.len()),
            _ => 0,
        };
        let packet = self.cluster.wire.remove(at).unwrap();
        self.cluster.deliver(packet).unwrap();
    }

    fn lose_or_double_any(&mut self) {
        if self.cluster.wire.is_empty() {
            return;
        }
        let at = self.random.gen_range(0..self.cluster.wire.len());
        if self.random.r#gen() {
            let packet = self.cluster.wire[at].clone();
            self.cluster.wire.push_back(packet);
        } else if !self.cluster.wire[at].snapshot {
            self.cluster.wire.remove(at);
        }
    }

    fn propose(&mut self) {
        let Some(leader) = self.cluster.leader() else {
            return;
        };
        self.proposals += 1;
        let data = format!("proposal {}", self.proposals);
        // It may be dropped, and it may be lost: that is what is tested.
        let _ = self
            .cluster
            .with_core(leader, |core| core.propose(data.into()));
    }

    /// A barrier that is confirmed covers all that was committed before it was asked for.
    fn barrier(&mut self) {
        let Some(leader) = self.cluster.leader() else {
            return;
        };
        self.barriers += 1;
        let (barrier, committed) = (self.barriers, self.oracle.committed.keys().last().copied());
        let _ = self.cluster.with_core(leader, |core| core.barrier(barrier));
        for _ in 0..20 {
            self.deliver_any();
        }
        for (confirmed, index) in &self.cluster.node(leader).barriers {
            assert!(
                *confirmed != barrier || Some(*index) >= committed,
                "barrier {barrier} reads the past"
            );
        }
    }

    fn cut_or_heal(&mut self) {
        if self.random.r#gen() {
            self.cluster.cut.clear();
        } else {
            let way = (self.any_node(), self.any_node());
            self.cluster.cut.push(way);
        }
    }

    fn change_members(&mut self) {
        let Some(leader) = self.cluster.leader() else {
            return;
        };
        let mut changes = Vec::new();
        for _ in 0..self.random.gen_range(1..4) {
            let node = node_id(self.any_node());
            changes.push(match self.random.gen_range(0..4) {
                0 => MembershipChange::Remove(node),
                1 => MembershipChange::AddLearner(node),
                _ => MembershipChange::AddVoter(node),
            });
        }
        // Many make no sense, and are refused.
        let _ = self
            .cluster
            .with_core(leader, |core| core.change_membership(&changes));
    }

    /// No more faults: a leader must be found and commit what is proposed to it.
    fn heal_and_serve(&mut self, seed: u64) {
        self.cluster.cut.clear();
        self.cluster.wire.retain(|packet| !packet.snapshot);
        let ids: Vec<u64> = self.cluster.nodes.keys().copied().collect();
        for &id in &ids {
            self.cluster.crash(id);
            self.cluster.restart(id).unwrap();
        }
        let before = self.oracle.committed.keys().last().copied();
        for _ in 0..400 {
            for &id in &ids {
                self.cluster.with_core(id, |core| core.tick());
                self.snapshot_where_wanted(id);
            }
            self.cluster.stabilize();
            self.propose();
            self.cluster.stabilize();
            self.oracle.check(&mut self.cluster, self.fixed_members);
            if self.oracle.committed.keys().last().copied() > before && self.all_voters_agree() {
                return;
            }
        }
        panic!("seed {seed}: the cluster doesn't serve after it was healed");
    }

    fn snapshot_where_wanted(&mut self, id: u64) {
        let wanted = self.cluster.core(id).snapshot_wanted();
        if wanted.is_some_and(|index| index <= self.cluster.node(id).applied_index) {
            self.cluster.snapshot_and_compact(id);
        }
    }

    fn all_voters_agree(&mut self) -> bool {
        let Some(leader) = self.cluster.leader() else {
            return false;
        };
        let voters = self.cluster.core(leader).configuration().voters;
        let applied = self.cluster.node(leader).applied_index;
        voters
            .iter()
            .all(|voter| self.cluster.node(voter.as_u64()).applied_index == applied)
    }
}

fn run(seed: u64, of_nodes: u64, strangers: u64) -> Run {
    let mut run = Run::new(seed, of_nodes, strangers);
    for _ in 0..600 {
        run.step();
    }
    run.heal_and_serve(seed);
    run
}

fn run_seeds(seeds: std::ops::Range<u64>, of_nodes: u64, strangers: u64) {
    let mut committed = 0;
    for seed in seeds.clone() {
        let outcome = std::panic::catch_unwind(|| run(seed, of_nodes, strangers));
        match outcome {
            Ok(run) => committed += run.oracle.committed.len(),
            Err(panic) => {
                eprintln!("seed {seed} of {of_nodes} nodes failed");
                std::panic::resume_unwind(panic);
            }
        }
    }
    let runs = seeds.end - seeds.start;
    assert!(
        committed as u64 > 8 * runs,
        "{committed} entries in {runs} runs: the schedules are too hard"
    );
}

#[test]
fn three_nodes_keep_raft_s_promises_under_random_faults() {
    run_seeds(0..250, 3, 0);
}

#[test]
fn five_nodes_keep_raft_s_promises_under_random_faults() {
    run_seeds(1000..1100, 5, 0);
}

#[test]
fn changing_members_keep_raft_s_promises_under_random_faults() {
    run_seeds(2000..2250, 3, 3);
}

#[test]
fn a_single_node_keeps_raft_s_promises_under_crashes() {
    run_seeds(3000..3100, 1, 0);
}

fn trace_of(seed: u64) -> String {
    let mut run = Run::new(seed, 3, 0);
    run.cluster.traces = true;
    for _ in 0..1500 {
        run.step();
    }
    run.cluster.trace
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    let traces: Vec<String> = (7..10).map(trace_of).collect();
    assert!(
        traces
            .iter()
            .all(|trace| trace.contains("MsgAppend") && trace.contains("committed"))
    );
    assert_eq!(traces[0], trace_of(7));
    assert_ne!(traces[0], traces[1]);
    assert_ne!(traces[1], traces[2]);
}

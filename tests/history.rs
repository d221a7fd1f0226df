//! Clients in threads of their own, on nodes that come and go, record what they see; the oracles judge
//! it. It is also how a host judges its own cluster.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::RwLock;
use quorate::testing::history::{
    AttachmentEnd, AttachmentId, ClientId, FinalZnode, Op, PhaseKind, Recorder, WatcherId,
};
use quorate::testing::oracle;
use quorate::transport::Faults;
use quorate::{CreateMode, Event, Read, Session, SystemClock, Version, WatchKind, Watcher};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::{Cluster, Within, node_id};

const ACCOUNTS: [&str; 3] = ["/bank/a", "/bank/b", "/bank/c"];

/// A client with a session, that records everything.
struct Client {
    recorder: Recorder,
    session: Session,
    at: AttachmentId,
    watcher: Watcher,
    watcher_id: WatcherId,
    rng: SmallRng,
}

impl Client {
    fn open(cluster: &Cluster, recorder: &Recorder, number: usize) -> Client {
        let nodes = cluster.running();
        let node = nodes[number % nodes.len()];
        let called = recorder.now();
        let session = cluster.session(node);
        let at = recorder.opened(ClientId(number), node_id(node), called, &session);
        let watcher = session.watcher(64);
        Client {
            recorder: recorder.clone(),
            watcher_id: recorder.watcher(at),
            session,
            at,
            watcher,
            rng: SmallRng::seed_from_u64(number as u64),
        }
    }

    /// Events first, then the answer that they may be due before.
    fn hear(&mut self) {
        while let Ok(Some(event)) = self.watcher.next_timeout(Duration::ZERO) {
            let over = matches!(event, Event::Session(state) if state.is_final());
            self.recorder.received(self.watcher_id, event);
            if over {
                return;
            }
        }
    }

    fn act(&mut self, number: usize) {
        let value = format!("{:?}-{number}", self.at);
        let recorder = self.recorder.clone();
        match self.rng.gen_range(0..9) {
            0 => {
                let version = Version(self.rng.gen_range(-1..5));
                let call = recorder.call(self.at, Op::set("/r", &value, version));
                let result = self.session.set("/r", &value, version).within();
                self.hear();
                recorder.answered(call, result);
            }
            1 => {
                let mode = CreateMode::PersistentSequential;
                let call = recorder.call(self.at, Op::create("/q/x-", &value, mode));
                let result = self.session.create("/q/x-", &value, mode).within();
                self.hear();
                recorder.answered(call, result);
            }
            2 => {
                let call = recorder.call_linearizable(self.at, Op::get("/r"));
                let result = self.session.linearizable().get("/r").within();
                self.hear();
                recorder.answered(call, result);
            }
            3 => {
                let call = recorder.call_linearizable(self.at, Op::children("/q"));
                let result = self.session.linearizable().children("/q").within();
                self.hear();
                recorder.answered(call, result);
            }
            4 => self.transfer(),
            5 => {
                let reads = ACCOUNTS.map(|path| Read::Data(path.to_string()));
                let ops = ACCOUNTS.map(Op::get).to_vec();
                let call = recorder.call(self.at, Op::MultiRead(ops));
                let result = self.session.multi_read(&reads).within();
                self.hear();
                recorder.answered(call, result);
            }
            6 => {
                let call = recorder.call(self.at, Op::Sync);
                let result = self.session.sync().within();
                self.hear();
                recorder.answered(call, result);
            }
            7 => {
                let call = recorder.call(self.at, Op::get("/r"));
                recorder.call_watches(call, self.watcher_id, WatchKind::Data);
                let result = self.session.get_and_watch("/r", &self.watcher).within();
                self.hear();
                recorder.answered(call, result);
            }
            _ => {
                let call = recorder.call(self.at, Op::get("/r"));
                let result = self.session.get("/r").within();
                self.hear();
                recorder.answered(call, result);
            }
        }
    }

    /// Moves 1 from one account to another, if neither has changed since it was read.
    fn transfer(&mut self) {
        let from = self.rng.gen_range(0..ACCOUNTS.len());
        let pair = [from, (from + 1) % ACCOUNTS.len()].map(|index| ACCOUNTS[index]);
        let mut held = Vec::new();
        for path in pair {
            let call = self.recorder.call(self.at, Op::get(path));
            let result = self.session.get(path).within();
            self.hear();
            self.recorder.answered(call, result.clone());
            let Ok((data, stat)) = result else { return };
            let amount: i64 = std::str::from_utf8(&data).unwrap().parse().unwrap();
            held.push((amount, Version(stat.version)));
        }
        let amounts = [held[0].0 - 1, held[1].0 + 1].map(|amount| amount.to_string());
        let ops = (0..2).map(|index| Op::set(pair[index], &amounts[index], held[index].1));
        let call = self.recorder.call(self.at, Op::Multi(ops.collect()));
        let multi = self.session.multi();
        let multi = multi.set(pair[0], &amounts[0], held[0].1);
        let result = multi.set(pair[1], &amounts[1], held[1].1).commit().within();
        self.hear();
        self.recorder.answered(call, result);
    }
}

/// The whole tree, but for the system's part of it.
fn tree(session: &Session) -> BTreeMap<String, FinalZnode> {
    let mut tree = BTreeMap::new();
    let mut waiting = vec!["/r".to_string(), "/q".to_string(), "/bank".to_string()];
    while let Some(path) = waiting.pop() {
        let (data, stat) = session.linearizable().get(&path).within().unwrap();
        let (children, _) = session.linearizable().children(&path).within().unwrap();
        waiting.extend(children.iter().map(|name| format!("{path}/{name}")));
        tree.insert(path, FinalZnode::new(&data[..], stat));
    }
    tree
}

fn prepare(cluster: &Cluster, recorder: &Recorder) {
    let client = Client::open(cluster, recorder, 100);
    let accounts = ACCOUNTS.map(|path| (path, "100"));
    let parents = [("/r", "0"), ("/q", ""), ("/bank", "")];
    for (path, data) in parents.into_iter().chain(accounts) {
        let mode = CreateMode::Persistent;
        let call = recorder.call(client.at, Op::create(path, data, mode));
        recorder.answered(call, client.session.create(path, data, mode).within());
    }
    recorder.ledger(ACCOUNTS.map(str::to_string), 300);
    let call = recorder.call(client.at, Op::Close);
    recorder.answered(call, client.session.close().within());
    recorder.ended(client.at, AttachmentEnd::Closed);
}

#[test]
fn the_oracles_find_nothing_wrong_with_clients_in_threads_while_nodes_come_and_go() {
    let cluster = Cluster::new(3);
    let recorder = Recorder::new(SystemClock::new());
    prepare(&cluster, &recorder);
    recorder.phase(PhaseKind::Faulty);
    let faults = Faults::default().loss(0.02).duplication(0.02);
    cluster.network.set_faults(faults.reordering(0.05));
    let cluster = RwLock::new(cluster);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (cluster, recorder) = (&cluster, &recorder);
            scope.spawn(move || {
                let mut client = Client::open(&cluster.read(), recorder, number);
                for call in 0..200 {
                    client.act(call);
                    let state = client.session.state();
                    recorder.state(client.at, state);
                    if state.is_final() {
                        client = Client::open(&cluster.read(), recorder, number);
                    }
                }
                recorder.ended(client.at, AttachmentEnd::Dropped);
            });
        }
        for _ in 0..2 {
            let leader = cluster.read().leader();
            cluster.write().stop(leader);
            cluster.read().leader();
            cluster.write().start(leader);
            cluster.read().leader();
        }
    });
    let cluster = cluster.into_inner();
    cluster.network.set_faults(Faults::default());
    recorder.phase(PhaseKind::Healed);
    let session = cluster.session(cluster.leader());
    recorder.tree(tree(&session));
    let history = recorder.history();
    let happened = history
        .calls
        .iter()
        .filter(|call| call.outcome.has_happened());
    assert!(happened.count() > 500, "hardly anything was done");
    if let Err(violation) = oracle::check(&history) {
        panic!("{violation}\n\nin\n{history}");
    }
}

//! Clients in threads of their own, on nodes that come and go, record what they see; the oracles judge
//! it. It is also how a host judges its own cluster.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::RwLock;
use quorate::recipes::Lock;
use quorate::testing::history::{
    Answer, AttachmentEnd, AttachmentId, ClientId, FinalZnode, Moment, Op, PhaseKind, Recorder,
    WatcherId,
};
use quorate::testing::oracle;
use quorate::transport::Faults;
use quorate::{
    CreateMode, Event, Pending, Read, Session, SystemClock, Version, WatchKind, Watcher,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use support::{Cluster, Within, node_id};

const CLIENTS: usize = 6;
/// What [`Cluster::session`] asks for.
const TIMEOUT: Duration = Duration::from_secs(60);
/// For what may take as long as an election, or more.
const PATIENCE: Duration = Duration::from_secs(60);
const ACCOUNTS: [&str; 3] = ["/bank/a", "/bank/b", "/bank/c"];

/// A client with a session, that records everything.
struct Client {
    recorder: Recorder,
    number: usize,
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
        Client::with(recorder, number, (node, called), cluster.session(node))
    }

    /// The client's session on another node, if it lives and can be had there, or else a new one.
    fn again(self, cluster: &Cluster) -> Client {
        let nodes = cluster.running();
        let node = nodes[self.rng.clone().gen_range(0..nodes.len())];
        let called = self.recorder.now();
        let credentials = self.session.credentials();
        let attached = cluster
            .node(node)
            .session()
            .timeout(TIMEOUT)
            .attach(&credentials)
            .within();
        match attached {
            Ok(session) => Client::with(&self.recorder, self.number, (node, called), session),
            Err(_) => Client::open(cluster, &self.recorder, self.number),
        }
    }

    fn with(
        recorder: &Recorder,
        number: usize,
        (node, called): (u64, Moment),
        session: Session,
    ) -> Client {
        let at = recorder.opened(ClientId(number), node_id(node), called, &session);
        let watcher = session.watcher(64);
        Client {
            recorder: recorder.clone(),
            number,
            watcher_id: recorder.watcher(at),
            session,
            at,
            watcher,
            rng: SmallRng::seed_from_u64((at.0 * 100 + number) as u64),
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
        let own = format!("/own/{}", self.number);
        match self.rng.gen_range(0..16) {
            0 => {
                let version = Version(self.rng.gen_range(-1..5));
                let op = Op::set("/r", &value, version);
                self.does(op, |session| session.set("/r", &value, version));
            }
            1 => {
                let mode = CreateMode::PersistentSequential;
                let op = Op::create("/q/x-", &value, mode);
                self.does(op, |session| session.create("/q/x-", &value, mode));
            }
            2 => self.linearizable(Op::get("/r"), |session| session.get("/r")),
            3 => self.linearizable(Op::children("/q"), |session| session.children("/q")),
            4 => self.transfer(),
            5 => {
                let reads = ACCOUNTS.map(|path| Read::Data(path.to_string()));
                let op = Op::MultiRead(ACCOUNTS.map(Op::get).to_vec());
                self.does(op, |session| session.multi_read(&reads));
            }
            6 => self.does(Op::Sync, Session::sync),
            7 => {
                let call = self.recorder.call(self.at, Op::get("/r"));
                let kind = WatchKind::Data;
                self.recorder.call_watches(call, self.watcher_id, kind);
                let result = self.session.get_and_watch("/r", &self.watcher).within();
                self.hear();
                self.recorder.answered(call, result);
            }
            8 | 9 => {
                let mode = CreateMode::Persistent;
                let op = Op::create(&own, &value, mode);
                self.does(op, |session| session.create(&own, &value, mode));
            }
            10 => {
                let version = Version::ANY;
                let op = Op::delete(&own, version);
                self.does(op, |session| session.delete(&own, version));
            }
            11 => self.does(Op::exists(&own), |session| session.exists(&own)),
            12 => self.does(Op::children("/own"), |session| session.children("/own")),
            13 => {
                let other = format!("/own/{}", (self.number + 1) % CLIENTS);
                let reads = [Read::Data(own.clone()), Read::Data(other.clone())];
                let op = Op::MultiRead(vec![Op::get(&own), Op::get(&other)]);
                self.does(op, |session| session.multi_read(&reads));
            }
            14 => self.lock(),
            _ => self.does(Op::get("/r"), |session| session.get("/r")),
        }
        let looked = self.recorder.now();
        if self.session.is_certain() {
            self.recorder.certain_at(self.at, looked);
        }
    }

    fn does<T: Into<Answer>>(&mut self, op: Op, call: impl FnOnce(&Session) -> Pending<T>) {
        let id = self.recorder.call(self.at, op);
        let result = call(&self.session).within();
        self.hear();
        self.recorder.answered(id, result);
    }

    fn linearizable<T: Into<Answer>>(&mut self, op: Op, call: impl FnOnce(&Session) -> Pending<T>) {
        let id = self.recorder.call_linearizable(self.at, op);
        let result = call(&self.session.linearizable()).within();
        self.hear();
        self.recorder.answered(id, result);
    }

    /// Holds the lock for a moment, if nobody else does.
    fn lock(&mut self) {
        let asked = self.recorder.now();
        let lock = Lock::new(&self.session, "/lock");
        // Whoever got no answer may stand in line until its session is over.
        let Ok(Some(guard)) = lock.try_acquire().wait_timeout(PATIENCE) else {
            return;
        };
        let (client, token) = (ClientId(self.number), guard.fencing_token().as_u64());
        let hold = self.recorder.held_since(client, "/lock", token, asked);
        self.does(Op::get("/r"), |session| session.get("/r"));
        let looked = self.recorder.now();
        if guard.is_held() {
            self.recorder.still_held_at(hold, looked);
        }
        self.recorder.released(hold);
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
    let (roots, _) = session.linearizable().children("/").within().unwrap();
    let roots = roots.iter().filter(|name| *name != "zookeeper");
    let mut waiting: Vec<_> = roots.map(|name| format!("/{name}")).collect();
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
    let parents = [("/r", "0"), ("/q", ""), ("/own", ""), ("/bank", "")];
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
        for number in 0..CLIENTS {
            let (cluster, recorder) = (&cluster, &recorder);
            scope.spawn(move || {
                let mut client = Client::open(&cluster.read(), recorder, number);
                for call in 0..200 {
                    client.act(call);
                    let state = client.session.state();
                    recorder.state(client.at, state);
                    if state.is_final() || call % 100 == 99 {
                        client = client.again(&cluster.read());
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
    // Changes and the ends of sessions are known to the cluster alone.
    let judged = [
        "fencing",
        "exactly_once",
        "atomicity",
        "session_order",
        "linearizability",
    ];
    let found = oracle::demand(&history, &judged).and_then(|()| oracle::check(&history));
    if let Err(violation) = found {
        panic!("{violation}\n\nin\n{history}");
    }
}

//! Clients in the test's own process, on the observer, that write down all they do and see, for the oracles.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::testing::history::{
    AttachmentEnd, AttachmentId, ClientId, FinalZnode, Op, PhaseKind, Recorder, WatcherId,
};
use quorate::testing::oracle;
use quorate::{
    CreateMode, Error, Event, Node, Pending, Read, Session, SystemClock, Version, WatchKind,
    Watcher,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::ensemble::{OBSERVER, node_id};
use crate::process::{PATIENCE, report};

const ACCOUNTS: [&str; 3] = ["/bank/a", "/bank/b", "/bank/c"];
const CLIENTS: usize = 4;
/// Keeps the history at a size that the oracles judge in seconds.
const PAUSE: Duration = Duration::from_millis(15);

pub(crate) trait Within<T> {
    fn within(self) -> quorate::Result<T>;
}

impl<T> Within<T> for Pending<T> {
    #[track_caller]
    fn within(mut self) -> quorate::Result<T> {
        match self.wait_timeout(PATIENCE) {
            Err(Error::Timeout) => panic!("no answer within {PATIENCE:?}"),
            answer => answer,
        }
    }
}

/// What the clients have in common.
pub(crate) struct Clients {
    node: Arc<Node>,
    recorder: Recorder,
    done: AtomicBool,
}

impl Clients {
    /// Makes what they need.
    fn new(node: &Arc<Node>) -> Clients {
        let clients = Clients {
            node: node.clone(),
            recorder: Recorder::new(SystemClock::new()),
            done: AtomicBool::new(false),
        };
        let client = Client::open(&clients, CLIENTS);
        let parents = [("/r", "0"), ("/q", ""), ("/bank", "")];
        for (path, data) in parents
            .into_iter()
            .chain(ACCOUNTS.map(|path| (path, "100")))
        {
            let mode = CreateMode::Persistent;
            let call = clients
                .recorder
                .call(client.at, Op::create(path, data, mode));
            let result = client.session.create(path, data, mode).within();
            clients.recorder.answered(call, result);
        }
        clients.recorder.ledger(ACCOUNTS.map(str::to_string), 300);
        client.close();
        clients.recorder.phase(PhaseKind::Faulty);
        clients
    }

    /// Lets them work while the story goes on, and judges what they have seen.
    pub(crate) fn meanwhile(node: &Arc<Node>, story: impl FnOnce()) {
        let clients = Clients::new(node);
        std::thread::scope(|scope| {
            // Ended by its drop, so that a story that fails doesn't hang instead.
            let _end = Ending(&clients.done);
            for number in 0..CLIENTS {
                let clients = &clients;
                scope.spawn(move || clients.work(number));
            }
            story();
        });
        clients.judge();
    }

    fn work(&self, number: usize) {
        let mut client = Client::open(self, number);
        for call in 0.. {
            if self.done.load(Ordering::SeqCst) {
                break;
            }
            client.act(call);
            let state = client.session.state();
            self.recorder.state(client.at, state);
            if state.is_final() {
                client = Client::open(self, number);
            }
            std::thread::sleep(PAUSE);
        }
        client.close();
    }

    /// Asks all oracles about what they have seen.
    fn judge(&self) {
        self.recorder.phase(PhaseKind::Healed);
        let session = self.node.session().open().within().expect("a session");
        self.recorder.tree(tree(&session.linearizable()));
        let history = self.recorder.history();
        let happened = history
            .calls
            .iter()
            .filter(|call| call.outcome.has_happened());
        report(format_args!(
            "{} calls of clients happened",
            happened.count()
        ));
        if let Err(violation) = oracle::check(&history) {
            panic!("{violation}\n\nin\n{history}");
        }
    }
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The part of the tree that is the clients' own.
fn tree(session: &Session) -> BTreeMap<String, FinalZnode> {
    let mut tree = BTreeMap::new();
    let mut waiting = vec!["/r".to_string(), "/q".to_string(), "/bank".to_string()];
    while let Some(path) = waiting.pop() {
        let (data, stat) = session.get(&path).within().expect("a znode");
        let (children, _) = session.children(&path).within().expect("children");
        waiting.extend(children.iter().map(|name| format!("{path}/{name}")));
        tree.insert(path, FinalZnode::new(&data[..], stat));
    }
    tree
}

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
    fn open(clients: &Clients, number: usize) -> Client {
        let recorder = clients.recorder.clone();
        let called = recorder.now();
        let builder = clients.node.session().timeout(Duration::from_secs(60));
        let session = builder.open().within().expect("a session");
        let at = recorder.opened(ClientId(number), node_id(OBSERVER), called, &session);
        let watcher = session.watcher(64);
        Client {
            watcher_id: recorder.watcher(at),
            recorder,
            session,
            at,
            watcher,
            rng: SmallRng::seed_from_u64(number as u64),
        }
    }

    fn close(&self) {
        let call = self.recorder.call(self.at, Op::Close);
        self.recorder.answered(call, self.session.close().within());
        self.recorder.ended(self.at, AttachmentEnd::Closed);
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
        match self.rng.gen_range(0..7) {
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
            3 => self.transfer(),
            4 => {
                let reads = ACCOUNTS.map(|path| Read::Data(path.to_string()));
                let ops = ACCOUNTS.map(Op::get).to_vec();
                let call = recorder.call(self.at, Op::MultiRead(ops));
                let result = self.session.multi_read(&reads).within();
                self.hear();
                recorder.answered(call, result);
            }
            5 => {
                let call = recorder.call(self.at, Op::get("/r"));
                recorder.call_watches(call, self.watcher_id, WatchKind::Data);
                let result = self.session.get_and_watch("/r", &self.watcher).within();
                self.hear();
                recorder.answered(call, result);
            }
            _ => {
                let call = recorder.call(self.at, Op::Sync);
                let result = self.session.sync().within();
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
            let text = std::str::from_utf8(&data).expect("text");
            let amount: i64 = text.parse().expect("a number");
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

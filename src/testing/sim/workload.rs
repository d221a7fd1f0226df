//! Clients of a simulated cluster, and the history of what they did and saw.

use std::time::Duration;

use rand::Rng;

use super::Sim;
use crate::CreateMode;
use crate::client::{Created, Pending, Session, SessionBuilder};
use crate::error::Result;
use crate::ids::{Version, Zxid};
use crate::stat::Stat;
use crate::state::ZnodeData;

/// A finished call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub client: usize,
    /// Which of the client's sessions it was called in.
    pub session: usize,
    pub called: Duration,
    /// The client's calls in order.
    pub number: u64,
    /// `None`: it was never answered, because its node crashed.
    pub answered: Option<Duration>,
    pub what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// The n-th sequential create of this client.
    Append {
        value: u64,
        result: Option<Result<Zxid>>,
    },
    /// A set of the register.
    Set {
        value: u64,
        result: Option<Result<Zxid>>,
    },
    /// A read of the register: its value and the write that made it.
    Read {
        linearizable: bool,
        result: Option<Result<(u64, Zxid)>>,
    },
}

enum Underway {
    Append(u64, Pending<Created>),
    Set(u64, Pending<Stat>),
    Read(bool, Pending<(ZnodeData, Stat)>),
}

/// One client: it has a session on some node, keeps several calls under way, and opens another session
/// when that one is over.
struct Client {
    number: usize,
    opening: Option<(u64, Pending<Session>)>,
    session: Option<(u64, Session)>,
    sessions: usize,
    under_way: Vec<(Duration, u64, Underway)>,
    next_value: u64,
    calls: u64,
}

/// All clients, and what they have seen.
pub(super) struct Workload {
    clients: Vec<Client>,
    pub history: Vec<Call>,
    depth: usize,
    next_step: Duration,
}

impl Workload {
    pub(super) fn new(clients: usize, depth: usize) -> Workload {
        let client = |number| Client {
            number,
            opening: None,
            session: None,
            sessions: 0,
            under_way: Vec::new(),
            next_value: 0,
            calls: 0,
        };
        Workload {
            clients: (0..clients).map(client).collect(),
            history: Vec::new(),
            depth,
            next_step: Duration::ZERO,
        }
    }

    /// Makes the znodes that the clients use.
    pub(super) fn prepare(sim: &mut Sim) {
        let id = sim.pick();
        let session = open(sim, id);
        let mut made = [
            session.create("/queue", "", CreateMode::Persistent),
            session.create("/register", "0", CreateMode::Persistent),
        ];
        for pending in &mut made {
            sim.run_while(Duration::from_secs(60), |_| match pending.try_wait() {
                Some(result) => {
                    result.expect("nothing is there yet");
                    false
                }
                None => true,
            });
        }
    }

    /// Lets every client look at its answers and call something new.
    /// At most once a millisecond.
    pub(super) fn step(&mut self, sim: &mut Sim, calling: bool) {
        if sim.now() < self.next_step {
            return;
        }
        self.next_step = sim.now() + Duration::from_millis(1);
        for client in &mut self.clients {
            client.step(sim, &mut self.history, calling, self.depth);
        }
    }

    pub(super) fn calls_under_way(&self) -> usize {
        self.clients
            .iter()
            .map(|client| client.under_way.len())
            .sum()
    }
}

/// Opens a session on node `id`, letting the simulation go on meanwhile.
pub(super) fn open(sim: &mut Sim, id: u64) -> Session {
    let mut pending = begin_open(sim, id).expect("the node is up");
    let mut session = None;
    sim.run_while(Duration::from_secs(60), |_| {
        session = pending
            .try_wait()
            .map(|result| result.expect("sessions can be opened"));
        session.is_none()
    });
    session.expect("it was opened")
}

fn begin_open(sim: &mut Sim, id: u64) -> Option<Pending<Session>> {
    let node = sim.node(id)?;
    let timeout = Duration::from_secs(4);
    Some(
        SessionBuilder::on(node)
            .timeout(timeout)
            .open_with(sim.rng.r#gen()),
    )
}

impl Client {
    fn step(&mut self, sim: &mut Sim, history: &mut Vec<Call>, calling: bool, depth: usize) {
        self.collect(sim.now(), history);
        let node = self.session.as_ref().map(|(node, _)| *node);
        let over = self
            .session
            .as_ref()
            .is_some_and(|(_, session)| session.state().is_final());
        if over || node.is_some_and(|node| !sim.is_up(node)) {
            self.abandon(history);
        }
        if self
            .opening
            .as_ref()
            .is_some_and(|(node, _)| !sim.is_up(*node))
        {
            self.opening = None;
        }
        if self.session.is_none() {
            self.open(sim);
        } else if calling && self.under_way.len() < depth && sim.rng.gen_ratio(1, 2) {
            self.call(sim);
        }
    }

    fn open(&mut self, sim: &mut Sim) {
        match &mut self.opening {
            None => {
                let id = sim.pick();
                self.opening = begin_open(sim, id).map(|pending| (id, pending));
            }
            Some((node, pending)) => {
                if let Some(result) = pending.try_wait() {
                    self.session = result.ok().map(|session| (*node, session));
                    self.sessions += 1;
                    self.opening = None;
                }
            }
        }
    }

    fn call(&mut self, sim: &mut Sim) {
        let (_, session) = self.session.as_ref().expect("the caller has looked");
        let underway = match sim.rng.gen_range(0..4) {
            0 => {
                self.next_value += 1;
                let path = format!("/queue/{}-", self.number);
                let data = self.next_value.to_string();
                let mode = CreateMode::PersistentSequential;
                Underway::Append(self.next_value, session.create(&path, data, mode))
            }
            1 => {
                let value = sim.rng.gen_range(1..u64::MAX);
                Underway::Set(
                    value,
                    session.set("/register", value.to_string(), Version::ANY),
                )
            }
            2 => Underway::Read(true, session.linearizable().get("/register")),
            _ => Underway::Read(false, session.get("/register")),
        };
        self.calls += 1;
        self.under_way.push((sim.now(), self.calls, underway));
    }

    /// Moves what is answered to the history.
    fn collect(&mut self, now: Duration, history: &mut Vec<Call>) {
        let (client, session) = (self.number, self.sessions);
        self.under_way.retain_mut(|(called, number, underway)| {
            let what = match underway {
                Underway::Append(value, pending) => pending.try_wait().map(|result| What::Append {
                    value: *value,
                    result: Some(result.map(|created| created.stat.czxid)),
                }),
                Underway::Set(value, pending) => pending.try_wait().map(|result| What::Set {
                    value: *value,
                    result: Some(result.map(|stat| stat.mzxid)),
                }),
                Underway::Read(linearizable, pending) => {
                    pending.try_wait().map(|result| What::Read {
                        linearizable: *linearizable,
                        result: Some(result.map(|(data, stat)| (parse(&data), stat.mzxid))),
                    })
                }
            };
            let Some(what) = what else {
                return true;
            };
            let (called, number, answered) = (*called, *number, Some(now));
            history.push(Call {
                client,
                session,
                called,
                number,
                answered,
                what,
            });
            false
        });
    }

    /// The session is over, or its node is: what is under way is never answered.
    fn abandon(&mut self, history: &mut Vec<Call>) {
        let (client, session) = (self.number, self.sessions);
        for (called, number, underway) in self.under_way.drain(..) {
            let what = match underway {
                Underway::Append(value, _) => What::Append {
                    value,
                    result: None,
                },
                Underway::Set(value, _) => What::Set {
                    value,
                    result: None,
                },
                Underway::Read(linearizable, _) => What::Read {
                    linearizable,
                    result: None,
                },
            };
            history.push(Call {
                client,
                session,
                called,
                number,
                answered: None,
                what,
            });
        }
        self.session = None;
    }
}

pub(super) fn parse(data: &[u8]) -> u64 {
    std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("a number was written")
}

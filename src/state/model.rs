//! Random writes against a naive model: plain maps, and a copy of everything for each multi.
//!
//! The model is written from the semantics, not from the code: it has no tables beside its maps. Two
//! replicas get the same log; one publishes now and then, the other is often made anew from a snapshot of
//! the first. Requests come twice, late and too early.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::acl::{Acl, AuthId, Permissions};
use crate::ids::{NodeId, SessionId, Version, Zxid};
use crate::op::{Applied, Change, CreateMode, EventKind, Op, OpResult, Outcome, ReadOp, Request};
use crate::path::{parent, validate};
use crate::stat::Stat;
use crate::state::{ReadResult, Restore, Settings, State};

/// A znode as plainly as can be.
#[derive(Clone, Debug)]
struct Node {
    data: Vec<u8>,
    acl: Vec<Acl>,
    mode: CreateMode,
    owner: SessionId,
    /// Children ever created.
    creates: i32,
    stat: Stat,
}

#[derive(Clone, Default)]
struct Client {
    identities: Vec<AuthId>,
    sequence: u64,
    answered: u64,
    outcomes: BTreeMap<u64, (Zxid, Result<OpResult, i32>)>,
    /// Its requests, to be sent again.
    sent: Vec<Request>,
}

#[derive(Clone, Default)]
struct Model {
    zxid: u64,
    time_ms: i64,
    nodes: BTreeMap<String, Node>,
    changes: Vec<(EventKind, String)>,
}

type Answer = Result<OpResult, i32>;

impl Model {
    fn new() -> Model {
        let mut model = Model::default();
        for path in ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"] {
            let acl = if path.ends_with("config") {
                Acl::read_only()
            } else {
                Acl::open()
            };
            model.nodes.insert(
                path.to_string(),
                Node {
                    data: Vec::new(),
                    acl,
                    mode: CreateMode::Persistent,
                    owner: SessionId::NONE,
                    creates: 0,
                    stat: Stat::default(),
                },
            );
        }
        model
    }

    fn children(&self, path: &str) -> Vec<&str> {
        self.nodes
            .keys()
            .filter(|key| parent(key) == Some(path))
            .map(String::as_str)
            .collect()
    }

    fn stat(&self, path: &str) -> Stat {
        let node = &self.nodes[path];
        let children = self.children(path).len();
        let mut stat = node.stat;
        stat.cversion = node.creates.wrapping_mul(2).wrapping_sub(children as i32);
        stat.ephemeral_owner = node.owner;
        stat.data_length = node.data.len() as u32;
        stat.children_count = children as u32;
        stat
    }

    fn may(acl: &[Acl], wanted: Permissions, client: &Client) -> Result<(), i32> {
        let is =
            |entry: &Acl| entry.id == AuthId::anyone() || client.identities.contains(&entry.id);
        match acl
            .iter()
            .any(|entry| entry.permissions.contains(wanted) && is(entry))
        {
            true => Ok(()),
            false => Err(-102),
        }
    }

    fn apply(&mut self, session: SessionId, client: &Client, op: &Op) -> Answer {
        match op {
            Op::Create {
                path,
                data,
                acl,
                mode,
            } => self.create(session, client, path, data, acl, *mode),
            Op::Delete { path, version } => {
                validate(path).map_err(|_| -8)?;
                if ["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"].contains(&&path[..])
                {
                    return Err(-8);
                }
                let above = self.nodes.get(parent(path).unwrap()).ok_or(-101)?;
                Model::may(&above.acl, Permissions::DELETE, client)?;
                let node = self.nodes.get(path).ok_or(-101)?;
                if !version.matches(node.stat.version) {
                    return Err(-103);
                }
                if !self.children(path).is_empty() {
                    return Err(-111);
                }
                self.remove(path);
                Ok(OpResult::Deleted)
            }
            Op::SetData {
                path,
                data,
                version,
            } => {
                validate(path).map_err(|_| -8)?;
                let (zxid, time_ms) = (Zxid(self.zxid), self.time_ms);
                let node = self.nodes.get_mut(path).ok_or(-101)?;
                Model::may(&node.acl, Permissions::WRITE, client)?;
                if !version.matches(node.stat.version) {
                    return Err(-103);
                }
                node.data = data.to_vec();
                node.stat.version += 1;
                node.stat.mzxid = zxid;
                node.stat.mtime_ms = time_ms;
                self.changes
                    .push((EventKind::NodeDataChanged, path.clone()));
                Ok(OpResult::DataSet(self.stat(path)))
            }
            Op::SetAcl { path, acl, version } => {
                validate(path).map_err(|_| -8)?;
                let acl = expand(acl, client)?;
                let node = self.nodes.get_mut(path).ok_or(-101)?;
                Model::may(&node.acl, Permissions::ADMIN, client)?;
                if !version.matches(node.stat.aversion) {
                    return Err(-103);
                }
                node.acl = acl;
                node.stat.aversion += 1;
                Ok(OpResult::AclSet(self.stat(path)))
            }
            Op::Check { path, version } => {
                validate(path).map_err(|_| -8)?;
                let node = self.nodes.get(path).ok_or(-101)?;
                Model::may(&node.acl, Permissions::READ, client)?;
                match version.matches(node.stat.version) {
                    true => Ok(OpResult::Checked),
                    false => Err(-103),
                }
            }
            Op::Multi(ops) => {
                let before = self.clone();
                let results: Result<Vec<_>, _> = ops
                    .iter()
                    .map(|op| self.apply(session, client, op))
                    .collect();
                results.map(OpResult::Multi).inspect_err(|_| *self = before)
            }
            _ => panic!("not a tree's operation"),
        }
    }

    fn create(
        &mut self,
        session: SessionId,
        client: &Client,
        path: &str,
        data: &[u8],
        acl: &[Acl],
        mode: CreateMode,
    ) -> Answer {
        let slash = path.rfind('/').ok_or(-8)?;
        let acl = expand(acl, client)?;
        let above_path = if slash == 0 { "/" } else { &path[..slash] };
        let above = self.nodes.get(above_path).ok_or(-101)?;
        Model::may(&above.acl, Permissions::CREATE, client)?;
        let path = match mode.is_sequential() {
            true => format!("{path}{:010}", above.creates),
            false => path.to_string(),
        };
        validate(&path).map_err(|_| -8)?;
        if self.nodes.contains_key(&path) {
            return Err(-110);
        }
        if above.mode.is_ephemeral() {
            return Err(-108);
        }
        let zxid = Zxid(self.zxid);
        let above = self.nodes.get_mut(above_path).unwrap();
        above.creates += 1;
        above.stat.pzxid = zxid;
        let mut stat = Stat {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ..Stat::default()
        };
        (stat.ctime_ms, stat.mtime_ms) = (self.time_ms, self.time_ms);
        let owner = if mode.is_ephemeral() {
            session
        } else {
            SessionId::NONE
        };
        let node = Node {
            data: data.to_vec(),
            acl,
            mode,
            owner,
            creates: 0,
            stat,
        };
        self.nodes.insert(path.clone(), node);
        self.changes.push((EventKind::NodeCreated, path.clone()));
        Ok(OpResult::Created {
            stat: self.stat(&path),
            path,
        })
    }

    fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        self.nodes
            .get_mut(parent(path).unwrap())
            .unwrap()
            .stat
            .pzxid = Zxid(self.zxid);
        self.changes
            .push((EventKind::NodeDeleted, path.to_string()));
    }

    fn end(&mut self, session: SessionId) {
        let paths: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.owner == session)
            .map(|(path, _)| path.clone())
            .collect();
        for path in paths {
            self.remove(&path);
        }
    }

    fn is_due(&self, path: &str) -> bool {
        let node = &self.nodes[path];
        self.children(path).is_empty()
            && match node.mode {
                CreateMode::Container => node.creates > 0,
                mode => mode
                    .ttl_ms()
                    .is_some_and(|ttl| self.time_ms - node.stat.mtime_ms >= ttl),
            }
    }
}

fn expand(acl: &[Acl], client: &Client) -> Result<Vec<Acl>, i32> {
    let mut expanded = Vec::new();
    for entry in acl {
        if entry.id.scheme == "auth" {
            let own = client.identities.iter();
            expanded.extend(own.map(|id| Acl::new(entry.permissions, id.clone())));
        } else {
            expanded.push(entry.clone());
        }
    }
    if expanded.is_empty() {
        Err(-114)
    } else {
        Ok(expanded)
    }
}

fn digest(user: &str) -> AuthId {
    AuthId::new("digest", format!("{user}:hash"))
}

/// Random operations over few names, so that they meet.
struct Generator(StdRng);

impl Generator {
    fn path(&mut self) -> String {
        let depth = self.0.gen_range(1..=3);
        let names = (0..depth).map(|_| ["a", "b", "c", "d"].choose(&mut self.0).unwrap());
        let path: String = names.map(|name| format!("/{name}")).collect();
        match self.0.gen_range(0..60) {
            0 => path + "/",
            1 => "/".to_string(),
            2 => "nonsense".to_string(),
            3 => "/zookeeper/quota".to_string(),
            _ => path,
        }
    }

    fn data(&mut self) -> Bytes {
        vec![b'x'; self.0.gen_range(0..20)].into()
    }

    fn version(&mut self) -> Version {
        if self.0.gen_bool(0.7) {
            Version::ANY
        } else {
            Version(self.0.gen_range(0..3))
        }
    }

    fn acl(&mut self) -> Vec<Acl> {
        let entry = |bits, id| Acl::new(Permissions(bits), id);
        match self.0.gen_range(0..12) {
            0 => Vec::new(),
            1 => Acl::creator_all(),
            2 => vec![
                entry(self.0.gen_range(0..32), digest("ann")),
                entry(13, AuthId::anyone()),
            ],
            3 => vec![
                entry(self.0.gen_range(0..32), digest("bob")),
                entry(31, digest("ann")),
            ],
            4 => Acl::read_only(),
            _ => Acl::open(),
        }
    }

    fn create(&mut self) -> Op {
        let ttl_ms = self.0.gen_range(1..50);
        let mode = *[
            CreateMode::Persistent,
            CreateMode::Persistent,
            CreateMode::Persistent,
            CreateMode::Ephemeral,
            CreateMode::PersistentSequential,
            CreateMode::EphemeralSequential,
            CreateMode::Container,
            CreateMode::PersistentWithTtl { ttl_ms },
            CreateMode::PersistentSequentialWithTtl { ttl_ms },
        ]
        .choose(&mut self.0)
        .unwrap();
        Op::Create {
            path: self.path(),
            data: self.data(),
            acl: self.acl(),
            mode,
        }
    }

    fn simple(&mut self) -> Op {
        match self.0.gen_range(0..10) {
            0..5 => self.create(),
            5..7 => Op::SetData {
                path: self.path(),
                data: self.data(),
                version: self.version(),
            },
            _ => Op::Delete {
                path: self.path(),
                version: self.version(),
            },
        }
    }

    fn op(&mut self) -> Op {
        match self.0.gen_range(0..20) {
            0..3 => {
                let ops = (0..self.0.gen_range(0..5)).map(|_| match self.0.gen_bool(0.2) {
                    true => Op::Check {
                        path: self.path(),
                        version: self.version(),
                    },
                    false => self.simple(),
                });
                Op::Multi(ops.collect())
            }
            3 => Op::SetAcl {
                path: self.path(),
                acl: self.acl(),
                version: self.version(),
            },
            _ => self.simple(),
        }
    }
}

struct Run {
    generator: Generator,
    model: Model,
    clients: BTreeMap<SessionId, Client>,
    state: State,
    replica: State,
}

impl Run {
    fn apply(&mut self, request: &Request) -> (Applied, Vec<Change>) {
        let (mut changes, mut others) = (Vec::new(), Vec::new());
        let time_ms = self.model.time_ms;
        let applied = self.state.apply(time_ms, request, &mut changes);
        assert_eq!(self.replica.apply(time_ms, request, &mut others), applied);
        assert_eq!(others, changes);
        (applied, changes)
    }

    fn internal(&mut self, op: Op) -> (Applied, Vec<Change>) {
        let request = Request {
            session: SessionId::NONE,
            attachment: 0,
            sequence: 0,
            answered: 0,
            op,
        };
        self.model.zxid += 1;
        let (applied, changes) = self.apply(&request);
        self.check_changes(&changes);
        (applied, changes)
    }

    fn open(&mut self) {
        let mut password = [0; 16];
        self.generator.0.fill(&mut password);
        let op = Op::OpenSession {
            password,
            timeout_ms: 1,
            owner: NodeId::new(1).unwrap(),
        };
        let (applied, _) = self.internal(op);
        let id = SessionId(self.model.zxid as i64);
        assert!(
            matches!(applied, Applied::Now { outcome: Ok(OpResult::Session { id: found, .. }), .. }
            if found == id)
        );
        self.clients.insert(id, Client::default());
    }

    /// The next write of a session.
    fn write(&mut self, id: SessionId, op: Op) {
        let mut client = self.clients.remove(&id).unwrap();
        client.sequence += 1;
        let forgotten = self.generator.0.gen_range(0..4);
        client.answered = client
            .answered
            .max(client.sequence.saturating_sub(1 + forgotten));
        let (sequence, answered) = (client.sequence, client.answered);
        let request = Request {
            session: id,
            attachment: 0,
            sequence,
            answered,
            op,
        };
        self.model.zxid += 1;
        let expected = match &request.op {
            Op::AddAuth(identity) => {
                if !client.identities.contains(identity) {
                    client.identities.push(identity.clone());
                }
                Ok(OpResult::Done)
            }
            Op::CloseSession => {
                self.model.end(id);
                Ok(OpResult::Done)
            }
            op => self.model.apply(id, &client, op),
        };
        let (applied, changes) = self.apply(&request);
        let Applied::Now { zxid, outcome } = applied else {
            panic!("{applied:?} for {request:?}")
        };
        assert_eq!(zxid, Zxid(self.model.zxid));
        assert_eq!(code(outcome), expected, "{request:?}");
        self.check_changes(&changes);
        if request.op == Op::CloseSession {
            let (applied, _) = self.apply(&request);
            assert!(matches!(applied, Applied::Refused(error) if error.code() == -112));
            return;
        }
        client.outcomes.insert(sequence, (zxid, expected));
        client.sent.push(request);
        self.clients.insert(id, client);
    }

    /// A write comes again, or too early, or from an attachment that never was.
    fn disturb(&mut self, id: SessionId) {
        let client = self.clients[&id].clone();
        if let Some(mut request) = client.sent.choose(&mut self.generator.0).cloned() {
            let (applied, changes) = self.apply(&request);
            assert!(changes.is_empty());
            let kept = client.outcomes.get(&request.sequence).cloned();
            let kept = kept.filter(|_| request.sequence > client.answered);
            let Applied::Before(found) = applied else {
                panic!("{applied:?} for {request:?}")
            };
            assert_eq!(found.map(|(zxid, outcome)| (zxid, code(outcome))), kept);
            request.sequence = client.sequence + self.generator.0.gen_range(2..5);
            let (applied, _) = self.apply(&request);
            assert_eq!(
                applied,
                Applied::Gap {
                    expected: client.sequence + 1
                }
            );
            request.attachment = 1;
            let (applied, _) = self.apply(&request);
            assert!(matches!(applied, Applied::Refused(error) if error.code() == -118));
        }
    }

    fn reap(&mut self) {
        let due = self.state.due_for_reaping(self.model.time_ms, 100);
        let mut expected: Vec<_> = self
            .model
            .nodes
            .keys()
            .filter(|path| self.model.is_due(path))
            .collect();
        expected.sort();
        let mut found: Vec<_> = due.iter().map(|(path, _)| path.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
        let path = self.generator.path();
        let czxid = self
            .model
            .nodes
            .get(&path)
            .map_or(Zxid(7), |node| node.stat.czxid);
        let mut model = std::mem::take(&mut self.model);
        model.zxid += 1;
        if model.nodes.contains_key(&path) && model.is_due(&path) {
            model.remove(&path);
        }
        model.zxid -= 1;
        self.model = model;
        self.internal(Op::Reap { path, czxid });
    }

    fn check_changes(&mut self, changes: &[Change]) {
        let expected = std::mem::take(&mut self.model.changes);
        let found: Vec<_> = changes
            .iter()
            .map(|change| (change.kind, change.path.to_string()))
            .collect();
        assert_eq!(found, expected);
        assert!(
            changes
                .iter()
                .all(|change| change.zxid == Zxid(self.model.zxid))
        );
    }

    fn check_everything(&mut self) {
        self.state.check_invariants().unwrap();
        self.state.publish();
        let reader = self.state.reader();
        assert_eq!(self.state.znodes_count(), self.model.nodes.len());
        let (&id, client) = self.clients.iter().next().unwrap();
        for (path, node) in &self.model.nodes {
            assert_eq!(self.state.stat(path), Some(self.model.stat(path)), "{path}");
            let data = reader.read(id, &ReadOp::Data { path: path.clone() });
            match Model::may(&node.acl, Permissions::READ, client) {
                Ok(()) => {
                    let Ok(ReadResult::Data(data, stat)) = data else {
                        panic!("{data:?}")
                    };
                    assert_eq!((&data[..], stat), (&node.data[..], self.model.stat(path)));
                }
                Err(code) => assert_eq!(data.unwrap_err().code(), code),
            }
        }
        let own: Vec<_> = self
            .model
            .nodes
            .iter()
            .filter(|(_, node)| node.owner == id)
            .map(|(path, _)| path)
            .collect();
        let found = reader.read(
            id,
            &ReadOp::Ephemerals {
                prefix: String::new(),
            },
        );
        let Ok(ReadResult::Ephemerals(found)) = found else {
            panic!("{found:?}")
        };
        assert!(found.iter().map(|path| path.as_str()).eq(own));
        assert_eq!(self.replica.digest(), self.state.digest());
    }

    /// The replica starts again from a snapshot of the other, and takes the same one.
    fn restore(&mut self) {
        self.state.publish();
        let bytes: Vec<u8> = self.state.freeze().unwrap().chunks().flatten().collect();
        let mut restore = Restore::default();
        for piece in bytes.chunks(self.generator.0.gen_range(1..5000)) {
            restore.feed(piece).unwrap();
        }
        self.replica.replace(restore.finish().unwrap());
        self.replica.publish();
        self.replica.check_invariants().unwrap();
        let again: Vec<u8> = self.replica.freeze().unwrap().chunks().flatten().collect();
        assert!(again == bytes);
    }
}

fn code(outcome: Outcome) -> Answer {
    outcome.map_err(|error| error.code())
}

fn run(seed: u64, steps: usize) {
    let settings = || Settings {
        results_kept_max: 1000,
        ..Settings::default()
    };
    let mut run = Run {
        generator: Generator(StdRng::seed_from_u64(seed)),
        model: Model::new(),
        clients: BTreeMap::new(),
        state: State::new(settings()),
        replica: State::new(settings()),
    };
    for step in 0..steps {
        run.model.time_ms += run.generator.0.gen_range(0..3);
        let ids: Vec<_> = run.clients.keys().copied().collect();
        let Some(&id) = ids.choose(&mut run.generator.0) else {
            run.open();
            continue;
        };
        match run.generator.0.gen_range(0..200) {
            0..2 => run.open(),
            2 => run.write(id, Op::CloseSession),
            3 => {
                run.clients.remove(&id);
                run.model.zxid += 1;
                run.model.end(id);
                run.model.zxid -= 1;
                let attachment = run.state.session(id).map_or(0, |silent| silent.attachment);
                run.internal(Op::ExpireSession {
                    session: id,
                    attachment,
                });
            }
            4..7 => run.write(id, Op::AddAuth(digest("ann"))),
            7..10 => run.write(id, Op::AddAuth(digest("bob"))),
            10..30 => run.disturb(id),
            30..40 => run.reap(),
            40..43 => run.state.publish(),
            43 => run.replica.publish(),
            _ => {
                let op = run.generator.op();
                run.write(id, op);
            }
        }
        if step % 97 == 0 && !run.clients.is_empty() {
            run.check_everything();
        }
        if step % 501 == 0 {
            run.restore();
        }
    }
}

#[test]
fn random_writes_do_what_the_model_does() {
    for seed in 0..10 {
        let result = std::panic::catch_unwind(|| run(seed, 1500));
        assert!(result.is_ok(), "seed {seed}");
    }
}

#[test]
fn quotas_count_what_there_is_whatever_happens() {
    for seed in 0..20 {
        let mut generator = Generator(StdRng::seed_from_u64(seed));
        let settings = Settings {
            enforce_quota: seed % 2 == 0,
            ..Settings::default()
        };
        let mut state = State::new(settings);
        let password = [1; 16];
        let op = Op::OpenSession {
            password,
            timeout_ms: 1,
            owner: NodeId::new(1).unwrap(),
        };
        let mut request = Request {
            session: SessionId::NONE,
            attachment: 0,
            sequence: 0,
            answered: 0,
            op,
        };
        state.apply(0, &request, &mut Vec::new());
        request.session = SessionId(1);
        for step in 1..600 {
            request.sequence = step;
            request.answered = step - 1;
            request.op = match generator.0.gen_bool(0.3) {
                true => Op::Multi((0..4).map(|_| quota_op(&mut generator)).collect()),
                false => quota_op(&mut generator),
            };
            state.apply(0, &request, &mut Vec::new());
            state
                .check_invariants()
                .unwrap_or_else(|flaw| panic!("seed {seed}: {flaw}: {request:?}"));
            if step % 100 == 0 {
                state.publish();
            }
        }
    }
}

/// An operation, often on a quota's znodes.
fn quota_op(generator: &mut Generator) -> Op {
    if generator.0.gen_bool(0.6) {
        return generator.simple();
    }
    let name = *["", "/zookeeper_limits", "/zookeeper_stats"]
        .choose(&mut generator.0)
        .unwrap();
    let path = format!("/zookeeper/quota{}{name}", generator.path());
    let data = *["", "count=2,bytes=10", "countHardLimit=4;byteHardLimit=30"]
        .choose(&mut generator.0)
        .unwrap();
    let (data, acl, mode) = (Bytes::from(data), Acl::open(), CreateMode::Persistent);
    match generator.0.gen_range(0..5) {
        0 => Op::SetData {
            path,
            data,
            version: Version::ANY,
        },
        1 => Op::Delete {
            path,
            version: Version::ANY,
        },
        _ => Op::Create {
            path,
            data,
            acl,
            mode,
        },
    }
}

//! Golden scripts: commands and what came of them, in `testdata/*.txt`.
//!
//! A block is a command, `----`, and the output up to an empty line. `REWRITE=1 cargo test scripts`
//! writes the outputs anew: read the difference, and commit only what you understand. After each
//! command the invariants are checked; at the end of a script a snapshot is restored and must be equal.
//!
//! ```text
//! settings enforce_quota ttl_off data_max=10 kept_max=2 ops_max=2   (begins anew)
//! time 5000                                        the leader's clock
//! open s1 [node=2] [timeout=9000]                  attach s1 nonce=7 [node=2] [password=bad]
//! create s1 /path data [ephemeral|sequential|container|ttl=5 ...] [acl=...]
//! set s1 /path data [version=3]                    delete s1 /path [version=3]
//! setacl s1 /path acl [version=3]                  check s1 /path [version=3]
//! multi s1                                         its operations follow, indented, without session
//! auth s1 digest:ann=secret                        close s1
//! expire s1                                        reap /path czxid
//! ```
//!
//! Any write takes `seq=`, `answered=` and `attachment=` to be other than the next one. Reads: `get`,
//! `stat`, `children`, `acl`, `ephemerals s1 prefix`, `count s1 /path`, `multiread s1 /path
//! children:/path`, `due max`, `sessions`, `soft` (quotas passed). `poke /path n` sets the stored counter of children.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;

use crate::acl::{Acl, AuthId, Permissions};
use crate::ids::{NodeId, SessionId, Version, Zxid};
use crate::op::{Applied, Change, CreateMode, EventKind, Op, OpResult, Outcome, ReadOp, Request};
use crate::stat::Stat;
use crate::state::{ReadResult, Restore, Settings, State};

#[test]
fn every_script_gives_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/state/testdata");
    let rewrite = std::env::var_os("REWRITE").is_some();
    let mut scripts: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scripts is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    let mut failed = Vec::new();
    for path in scripts {
        let text = std::fs::read_to_string(&path).expect("a script is text");
        let found = run(&text);
        if rewrite {
            std::fs::write(&path, found).expect("a script can be rewritten");
        } else if found != text {
            let line = found
                .lines()
                .zip(text.lines())
                .position(|(found, text)| found != text);
            let line = line.unwrap_or_else(|| found.lines().count().min(text.lines().count()));
            failed.push(format!(
                "{}:{}: expected {:?}, found {:?}",
                path.display(),
                line + 1,
                text.lines().nth(line),
                found.lines().nth(line),
            ));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The script with its outputs as they are.
fn run(script: &str) -> String {
    let mut world = World::new(Settings::default());
    let mut text = String::new();
    for block in script.split("\n\n") {
        let block = block.trim_end_matches('\n');
        let command = block.split("\n----").next().unwrap_or(block);
        let commands: Vec<&str> = command
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        if commands.is_empty() {
            let _ = writeln!(text, "{block}\n");
            continue;
        }
        let output = world.run(&commands);
        world
            .state
            .check_invariants()
            .unwrap_or_else(|flaw| panic!("{flaw} after\n{command}"));
        let _ = writeln!(text, "{command}\n----\n{output}");
    }
    world.check_snapshot();
    text.trim_end().to_string() + "\n"
}

struct World {
    state: State,
    time_ms: i64,
    sessions: BTreeMap<String, Client>,
}

#[derive(Default, Clone, Copy)]
struct Client {
    id: SessionId,
    attachment: u32,
    sequence: u64,
}

impl World {
    fn new(settings: Settings) -> World {
        World {
            state: State::new(settings),
            time_ms: 1000,
            sessions: BTreeMap::new(),
        }
    }

    fn run(&mut self, lines: &[&str]) -> String {
        let words = Words::of(lines[0]);
        let name = words.at(1);
        let path = words.at(2).to_string();
        match words.at(0) {
            "settings" => {
                *self = World::new(settings(&words));
                "ok\n".to_string()
            }
            "time" => {
                self.time_ms = name.parse().expect("a time");
                "ok\n".to_string()
            }
            "open" => self.open(name, &words),
            "attach" => self.attach(name, &words),
            "expire" => {
                let session = self.client(name).id;
                let silent = self.state.session(session);
                let attachment = silent.map_or(0, |silent| silent.attachment);
                self.internal(Op::ExpireSession {
                    session,
                    attachment,
                })
            }
            "reap" => {
                let czxid = Zxid(words.at(2).parse().expect("a zxid"));
                self.internal(Op::Reap {
                    path: name.to_string(),
                    czxid,
                })
            }
            "get" => self.read(name, ReadOp::Data { path }),
            "stat" => self.read(name, ReadOp::Exists { path }),
            "children" => self.read(name, ReadOp::Children { path }),
            "acl" => self.read(name, ReadOp::Acl { path }),
            "count" => self.read(name, ReadOp::AllChildrenNumber { path }),
            "ephemerals" => self.read(name, ReadOp::Ephemerals { prefix: path }),
            "multiread" => {
                let read = |path: &str| match path.strip_prefix("children:") {
                    Some(path) => ReadOp::Children {
                        path: path.to_string(),
                    },
                    None => ReadOp::Data {
                        path: path.to_string(),
                    },
                };
                let reads = words.plain[2..].iter().map(|path| read(path)).collect();
                self.read(name, ReadOp::Multi(reads))
            }
            "due" => {
                let due = self
                    .state
                    .due_for_reaping(self.time_ms, name.parse().expect("a number"));
                due.iter()
                    .map(|(path, czxid)| format!("{path} {czxid}\n"))
                    .collect()
            }
            "sessions" => self.show_sessions(),
            "soft" => format!("{}\n", self.state.soft_quota_exceeded()),
            "poke" => self.poke(name, words.at(2).parse().expect("a number")),
            _ => {
                let op = op(&words, 2, lines);
                self.write(name, &words, op)
            }
        }
    }

    fn client(&self, name: &str) -> Client {
        self.sessions.get(name).copied().unwrap_or_default()
    }

    fn open(&mut self, name: &str, words: &Words<'_>) -> String {
        let op = Op::OpenSession {
            password: password(words.option("password").unwrap_or(name)),
            timeout_ms: words.number("timeout").unwrap_or(10_000) as u32,
            owner: node(words),
        };
        let applied = self.apply(SessionId::NONE, 0, 0, 0, op);
        self.attached(name, applied)
    }

    fn attach(&mut self, name: &str, words: &Words<'_>) -> String {
        let op = Op::AttachSession {
            password: password(words.option("password").unwrap_or(name)),
            timeout_ms: words.number("timeout").unwrap_or(10_000) as u32,
            owner: node(words),
            nonce: words.number("nonce").expect("a nonce") as u64,
        };
        let applied = self.apply(self.client(name).id, 0, 0, 0, op);
        self.attached(name, applied)
    }

    fn attached(&mut self, name: &str, (applied, changes): (Applied, Vec<Change>)) -> String {
        if let Applied::Now {
            outcome:
                Ok(OpResult::Session {
                    id,
                    attachment,
                    sequence,
                    ..
                }),
            ..
        } = applied
        {
            self.sessions.insert(
                name.to_string(),
                Client {
                    id,
                    attachment,
                    sequence,
                },
            );
        }
        show(&applied, &changes)
    }

    fn internal(&mut self, op: Op) -> String {
        let (applied, changes) = self.apply(SessionId::NONE, 0, 0, 0, op);
        show(&applied, &changes)
    }

    fn write(&mut self, name: &str, words: &Words<'_>, op: Op) -> String {
        let client = self.client(name);
        let sequence = words
            .number("seq")
            .map_or(client.sequence + 1, |sequence| sequence as u64);
        let answered = words
            .number("answered")
            .map_or(0, |answered| answered as u64);
        let attachment = words
            .number("attachment")
            .map_or(client.attachment, |it| it as u32);
        let (applied, changes) = self.apply(client.id, attachment, sequence, answered, op);
        if let (Applied::Now { .. }, Some(client)) = (&applied, self.sessions.get_mut(name)) {
            client.sequence = sequence;
        }
        show(&applied, &changes)
    }

    fn apply(
        &mut self,
        session: SessionId,
        attachment: u32,
        sequence: u64,
        answered: u64,
        op: Op,
    ) -> (Applied, Vec<Change>) {
        let request = Request {
            session,
            attachment,
            sequence,
            answered,
            op,
        };
        let mut changes = Vec::new();
        let applied = self.state.apply(self.time_ms, &request, &mut changes);
        (applied, changes)
    }

    /// What the writer reads before a publish, everybody reads after it.
    fn read(&mut self, name: &str, read: ReadOp) -> String {
        let session = self.client(name).id;
        let unpublished = self.state.read(session, &read);
        self.state.publish();
        assert_eq!(self.state.reader().read(session, &read), unpublished);
        match unpublished {
            Ok(result) => show_read(&result),
            Err(error) => format!("error {}: {error}\n", error.code()),
        }
    }

    /// Lets a parent have had so many children, to come near the overflow of its counter.
    fn poke(&mut self, path: &str, cversion: i32) -> String {
        let zxid = self.state.next_zxid();
        self.state
            .znodes
            .tree
            .update(path, zxid, |znode| znode.cversion = cversion);
        self.state.zxid = zxid;
        format!("{zxid}\n")
    }

    fn show_sessions(&self) -> String {
        let mut text = String::new();
        for (id, session) in self.state.sessions() {
            let kept: Vec<_> = session.kept.iter().map(|kept| kept.sequence).collect();
            let _ = writeln!(
                text,
                "{id} node {} attachment {} timeout {} last {} kept {kept:?} identities {}",
                session.owner,
                session.attachment,
                session.timeout_ms,
                session.last_sequence,
                session.identities.len(),
            );
        }
        text
    }

    fn check_snapshot(&mut self) {
        self.state.publish();
        let mut restore = Restore::default();
        let bytes: Vec<u8> = self
            .state
            .freeze()
            .expect("none is under way")
            .chunks()
            .flatten()
            .collect();
        restore.feed(&bytes).expect("a snapshot can be read");
        let mut restored = restore.finish().expect("a snapshot is whole").into_state();
        restored
            .check_invariants()
            .expect("a restored state is sound");
        assert_eq!(restored.digest(), self.state.digest());
        let again: Vec<u8> = restored
            .freeze()
            .expect("none is under way")
            .chunks()
            .flatten()
            .collect();
        assert!(again == bytes, "a restored state gives another snapshot");
    }
}

/// The words of a command: plain ones, and `key=value` where the key is a known one.
struct Words<'a> {
    plain: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

const OPTIONS: &[&str] = &[
    "node",
    "timeout",
    "password",
    "nonce",
    "version",
    "acl",
    "ttl",
    "seq",
    "answered",
    "attachment",
    "data_max",
    "kept_max",
    "ops_max",
    "bytes_max",
];

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        let mut words = Words {
            plain: Vec::new(),
            options: BTreeMap::new(),
        };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) if OPTIONS.contains(&key) => {
                    words.options.insert(key, value);
                }
                _ => words.plain.push(word),
            }
        }
        words
    }

    fn at(&self, index: usize) -> &'a str {
        self.plain.get(index).copied().unwrap_or("")
    }

    fn option(&self, key: &str) -> Option<&'a str> {
        self.options.get(key).copied()
    }

    fn number(&self, key: &str) -> Option<i64> {
        self.option(key)
            .map(|value| value.parse().expect("a number"))
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn version(&self) -> Version {
        self.number("version")
            .map_or(Version::ANY, |version| Version(version as i32))
    }
}

fn settings(words: &Words<'_>) -> Settings {
    let mut settings = Settings {
        enforce_quota: words.has("enforce_quota"),
        ttl_enabled: !words.has("ttl_off"),
        ..Settings::default()
    };
    for (key, field) in [
        ("data_max", &mut settings.data_bytes_max),
        ("kept_max", &mut settings.results_kept_max),
        ("ops_max", &mut settings.multi_ops_max),
        ("bytes_max", &mut settings.multi_bytes_max),
    ] {
        if let Some(number) = words.number(key) {
            *field = number as u32;
        }
    }
    settings
}

fn node(words: &Words<'_>) -> NodeId {
    NodeId::new(words.number("node").unwrap_or(1) as u64).expect("a node id")
}

fn password(word: &str) -> [u8; 16] {
    let mut password = [0; 16];
    password[..word.len()].copy_from_slice(word.as_bytes());
    password
}

/// The operation in words, whose arguments begin at `first`.
fn op(words: &Words<'_>, first: usize, lines: &[&str]) -> Op {
    let path = words.at(first).replace("\\0", "\0").replace("''", "");
    let data = data(words.at(first + 1));
    let version = words.version();
    match words.at(0) {
        "create" => Op::Create {
            path,
            data,
            acl: acl(words.option("acl").unwrap_or("open")),
            mode: mode(words),
        },
        "set" => Op::SetData {
            path,
            data,
            version,
        },
        "delete" => Op::Delete { path, version },
        "setacl" => Op::SetAcl {
            path,
            acl: acl(words.at(first + 1)),
            version,
        },
        "check" => Op::Check { path, version },
        "multi" => Op::Multi(
            lines
                .iter()
                .skip(1)
                .map(|line| op(&Words::of(line), 1, &[]))
                .collect(),
        ),
        "auth" => Op::AddAuth(identity(words.at(first))),
        "close" => Op::CloseSession,
        "client-reap" => Op::Reap {
            path,
            czxid: Zxid(0),
        },
        word => panic!("unknown command {word}"),
    }
}

/// `text`, `-` for nothing, `x*100` for a hundred x.
fn data(word: &str) -> Bytes {
    match word.split_once('*') {
        Some((text, times)) => text.repeat(times.parse().expect("a number")).into(),
        None if word == "-" => Bytes::new(),
        None => word.to_string().into(),
    }
}

fn mode(words: &Words<'_>) -> CreateMode {
    let ttl_ms = words.number("ttl");
    match (
        words.has("sequential"),
        words.has("ephemeral"),
        words.has("container"),
        ttl_ms,
    ) {
        (false, true, ..) => CreateMode::Ephemeral,
        (true, true, ..) => CreateMode::EphemeralSequential,
        (_, _, true, _) => CreateMode::Container,
        (false, _, _, Some(ttl_ms)) => CreateMode::PersistentWithTtl { ttl_ms },
        (true, _, _, Some(ttl_ms)) => CreateMode::PersistentSequentialWithTtl { ttl_ms },
        (true, ..) => CreateMode::PersistentSequential,
        (false, ..) => CreateMode::Persistent,
    }
}

/// `open`, `read`, `creator`, `none`, or entries `scheme:id:rwcda` with commas between.
fn acl(word: &str) -> Vec<Acl> {
    match word {
        "open" => Acl::open(),
        "read" => Acl::read_only(),
        "creator" => Acl::creator_all(),
        "none" => Vec::new(),
        entries => entries.split(',').map(entry).collect(),
    }
}

fn entry(word: &str) -> Acl {
    let (id, letters) = word.rsplit_once(':').expect("scheme:id:permissions");
    let permission = |letter| match letter {
        'r' => Permissions::READ,
        'w' => Permissions::WRITE,
        'c' => Permissions::CREATE,
        'd' => Permissions::DELETE,
        'a' => Permissions::ADMIN,
        letter => panic!("unknown permission {letter}"),
    };
    let permissions = letters
        .chars()
        .map(permission)
        .fold(Permissions::NONE, |all, one| all | one);
    Acl::new(permissions, identity(id))
}

/// `scheme:id`; `digest:user=password` is hashed.
fn identity(word: &str) -> AuthId {
    match word.split_once(':').expect("scheme:id") {
        ("digest", id) if id.contains('=') => {
            let (user, password) = id.split_once('=').expect("it has one");
            AuthId::digest(user, password)
        }
        (scheme, id) => AuthId::new(scheme, id),
    }
}

fn show(applied: &Applied, changes: &[Change]) -> String {
    let mut text = match applied {
        Applied::Now { zxid, outcome } => format!("{zxid}: {}", show_outcome(outcome)),
        Applied::Before(Some((zxid, outcome))) => {
            format!("before {zxid}: {}", show_outcome(outcome))
        }
        Applied::Before(None) => "before: result not kept\n".to_string(),
        Applied::Gap { expected } => format!("gap: expected {expected}\n"),
        Applied::Refused(error) => format!("refused {}: {error}\n", error.code()),
    };
    for change in changes {
        let sign = match change.kind {
            EventKind::NodeCreated => '+',
            EventKind::NodeDeleted => '-',
            _ => '~',
        };
        let _ = writeln!(text, "{sign} {}", change.path);
    }
    text
}

fn show_outcome(outcome: &Outcome) -> String {
    match outcome {
        Ok(result) => show_result(result),
        Err(error) => format!("error {}: {error}\n", error.code()),
    }
}

fn show_result(result: &OpResult) -> String {
    match result {
        OpResult::Created { path, stat } => format!("created {path} {}", show_stat(stat)),
        OpResult::Deleted => "deleted\n".to_string(),
        OpResult::DataSet(stat) => format!("set {}", show_stat(stat)),
        OpResult::AclSet(stat) => format!("acl set {}", show_stat(stat)),
        OpResult::Checked => "checked\n".to_string(),
        OpResult::Multi(results) => {
            let results = results
                .iter()
                .map(|result| format!("  {}", show_result(result)));
            format!("multi\n{}", results.collect::<String>())
        }
        OpResult::Session {
            id,
            attachment,
            sequence,
            timeout_ms,
        } => format!(
            "session {id} attachment {attachment} sequence {sequence} timeout {timeout_ms}\n"
        ),
        OpResult::Done => "done\n".to_string(),
    }
}

fn show_stat(stat: &Stat) -> String {
    let mut text = format!(
        "c={} m={} p={} ctime={} mtime={} v={} cv={} av={} length={} children={}",
        stat.czxid,
        stat.mzxid,
        stat.pzxid,
        stat.ctime_ms,
        stat.mtime_ms,
        stat.version,
        stat.cversion,
        stat.aversion,
        stat.data_length,
        stat.children_count,
    );
    if stat.is_ephemeral() {
        let _ = write!(text, " owner={}", stat.ephemeral_owner);
    }
    text + "\n"
}

fn show_read(result: &ReadResult) -> String {
    match result {
        ReadResult::Exists(None) => "none\n".to_string(),
        ReadResult::Exists(Some(stat)) => show_stat(stat),
        ReadResult::Data(data, stat) => format!("{data:?} {}", show_stat(stat)),
        ReadResult::Children(children, stat) => format!("{children:?} {}", show_stat(stat)),
        ReadResult::Acl(acl, stat) => {
            let entry =
                |acl: &Acl| format!("{:?} {}:{}\n", acl.permissions, acl.id.scheme, acl.id.id);
            acl.iter().map(entry).collect::<String>() + &show_stat(stat)
        }
        ReadResult::Ephemerals(paths) => paths.iter().map(|path| format!("{path}\n")).collect(),
        ReadResult::AllChildrenNumber(number) => format!("{number}\n"),
        ReadResult::Allowed(allowed) => format!("{allowed}\n"),
        ReadResult::Multi(results) => {
            let result = |result: &_| match result {
                Ok(result) => show_read(result),
                Err(error) => format!("error: {error}\n"),
            };
            results.iter().map(result).collect()
        }
    }
}

//! Going through two trees at once, and making the one like the other.
//!
//! A pass asks both servers for many znodes at a time, parents before their children, compares them, and
//! sends to the target what it lacks. A source that is written to meanwhile is gone through again. Only what is
//! still to be looked at is kept in memory, and which znodes this run has made.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::fmt;

use crate::client::{Client, Reply, code, opcode};
use crate::options::{Options, matches};
use crate::record::{Acl, Body, Reader};

/// Why a znode is left out, and what is below it.
const MASKED: &str = "is masked: its hash is shown to who may change the ACL alone (--source-auth)";
/// ZooKeeper's own; of it only the quotas are copied.
const SYSTEM: &str = "/zookeeper";
const QUOTAS: &str = "/zookeeper/quota";
/// What a quota's usage is kept in: by each server for itself.
const USAGE: &str = "/zookeeper_stats";
/// How many children are created and deleted in one transaction.
const COUNTED_AT_ONCE: i64 = 200;
/// More differences than these are counted, not named.
const NAMED_MAX: usize = 100;

/// What was done, and what could not be.
#[derive(Clone, Default, Debug)]
pub(crate) struct Outcome {
    pub(crate) passes: usize,
    /// Looked at in the last pass.
    pub(crate) znodes: usize,
    pub(crate) created: usize,
    pub(crate) changed: usize,
    pub(crate) deleted: usize,
    /// By how much counters were raised.
    pub(crate) counted: i64,
    /// Left out in the last pass.
    pub(crate) ephemerals: usize,
    /// In the target alone, in the last pass.
    pub(crate) kept: usize,
    /// In the last pass. None: the trees are the same.
    pub(crate) differences: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} znodes compared in the last of {} passes",
            self.znodes, self.passes
        )?;
        writeln!(
            f,
            "{} created, {} changed, {} deleted",
            self.created, self.changed, self.deleted
        )?;
        if self.counted > 0 {
            writeln!(f, "counters raised by {} in all", self.counted)?;
        }
        if self.ephemerals > 0 {
            writeln!(f, "{} ephemerals left out", self.ephemerals)?;
        }
        if self.kept > 0 {
            writeln!(f, "{} znodes of the target's own kept", self.kept)?;
        }
        match self.differences.len() {
            0 => writeln!(f, "no differences"),
            count => writeln!(f, "{count} DIFFERENCES"),
        }
    }
}

/// How far it is.
pub(crate) struct Progress {
    pub(crate) pass: usize,
    pub(crate) znodes: usize,
    pub(crate) waiting: usize,
    pub(crate) written: usize,
    pub(crate) is_last: bool,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Progress {
            pass,
            znodes,
            waiting,
            written,
            ..
        } = self;
        write!(
            f,
            "pass {pass}: {znodes} znodes compared, {waiting} waiting; {written} writes"
        )
    }
}

/// A znode as one of the servers has it.
struct Znode {
    data: Vec<u8>,
    acl: Vec<Acl>,
    children: Vec<String>,
    is_ephemeral: bool,
    counter: i32,
}

/// See the module's text.
pub(crate) struct Copying {
    source: Client,
    target: Client,
    options: Options,
    /// What this run has created: it may delete that again.
    own: HashSet<String>,
    outcome: Outcome,
}

impl Copying {
    pub(crate) fn connect(options: &Options) -> Result<Copying, Box<dyn Error>> {
        let source = Client::connect(&options.from, options.source_auth.as_ref());
        let source = source.map_err(|error| format!("the source: {error}"))?;
        let target = Client::connect(&options.to, options.target_auth.as_ref());
        let target = target.map_err(|error| format!("the target: {error}"))?;
        Ok(Copying {
            source,
            target,
            options: options.clone(),
            own: HashSet::new(),
            outcome: Outcome::default(),
        })
    }

    /// Passes over the trees, until one of them finds them the same or there have been enough.
    ///
    /// # Errors
    /// A lost connection, or a reply that makes no sense. What was copied stays.
    pub(crate) fn run(
        &mut self,
        tell: &mut dyn FnMut(&Progress),
    ) -> Result<Outcome, Box<dyn Error>> {
        self.refuse_what_is_full()?;
        for pass in 1..=self.options.passes {
            let written = self.written();
            self.outcome.passes = pass;
            self.outcome.znodes = 0;
            self.outcome.ephemerals = 0;
            self.outcome.kept = 0;
            self.outcome.differences.clear();
            self.pass(&self.options.path.clone(), tell)?;
            if self.options.path == "/" {
                // Behind the znodes that they count.
                self.pass(QUOTAS, tell)?;
            }
            if self.written() == written {
                break;
            }
            if pass == self.options.passes {
                self.differs("the source: it was changed during every pass".to_string());
            }
        }
        self.tell(0, true, tell);
        self.source.close()?;
        self.target.close()?;
        Ok(self.outcome.clone())
    }

    fn written(&self) -> usize {
        let Outcome {
            created,
            changed,
            deleted,
            counted,
            ..
        } = &self.outcome;
        created + changed + deleted + usize::try_from(*counted).unwrap_or(0)
    }

    fn tell(&self, waiting: usize, is_last: bool, tell: &mut dyn FnMut(&Progress)) {
        tell(&Progress {
            pass: self.outcome.passes,
            znodes: self.outcome.znodes,
            waiting,
            written: self.written(),
            is_last,
        });
    }

    fn differs(&mut self, difference: String) {
        if self.outcome.differences.len() < NAMED_MAX {
            self.outcome.differences.push(difference);
        }
    }

    /// Nobody's tree is overwritten by mistake.
    fn refuse_what_is_full(&mut self) -> Result<(), Box<dyn Error>> {
        let path = self.options.path.clone();
        if self.options.overwrite {
            return Ok(());
        }
        let found = read_all(&mut self.target, std::slice::from_ref(&path))?
            .pop()
            .flatten();
        let full = found.is_some_and(|found| {
            path != "/"
                || found
                    .children
                    .iter()
                    .any(|child| child != SYSTEM.trim_start_matches('/'))
        });
        match full {
            true => Err(format!("{path} of the target isn't empty; --overwrite is needed").into()),
            false => self.make_way(&path),
        }
    }

    /// The parents of the znode that is copied, where it isn't the root: as the source has them.
    fn make_way(&mut self, path: &str) -> Result<(), Box<dyn Error>> {
        for (slash, _) in path.match_indices('/').skip(1) {
            let parent = path[..slash].to_string();
            let exists = Body::default().bytes(parent.as_bytes()).bool(false);
            if self.target.call(opcode::EXISTS, &exists)?.error == code::OK {
                continue;
            }
            let found = read_all(&mut self.source, std::slice::from_ref(&parent))?
                .pop()
                .flatten();
            let found = found.ok_or_else(|| format!("{parent} of the source can't be read"))?;
            let (opcode, body) = self.create(&parent, &found);
            match self.target.call(opcode, &body)?.error {
                code::OK => self.outcome.created += 1,
                error => return Err(format!("{parent} can't be created: {}", name(error)).into()),
            }
        }
        Ok(())
    }

    fn pass(&mut self, top: &str, tell: &mut dyn FnMut(&Progress)) -> Result<(), Box<dyn Error>> {
        let mut waiting = VecDeque::from([top.to_string()]);
        while !waiting.is_empty() {
            let count = waiting.len().min(self.options.in_flight);
            let paths: Vec<String> = waiting.drain(..count).collect();
            // Both are asked before either is heard.
            send_reads(&mut self.source, &paths)?;
            send_reads(&mut self.target, &paths)?;
            let sources = receive_reads(&mut self.source, &paths)?;
            let targets = receive_reads(&mut self.target, &paths)?;
            let mut repairs = Vec::new();
            for ((path, source), target) in paths.iter().zip(sources).zip(targets) {
                self.compare(path, source, target, &mut repairs, &mut waiting)?;
            }
            self.repair(repairs)?;
            self.outcome.znodes += count;
            self.tell(waiting.len(), false, tell);
        }
        Ok(())
    }

    /// What one znode needs, and its children, which are to be looked at.
    fn compare(
        &mut self,
        path: &str,
        source: Option<Znode>,
        target: Option<Znode>,
        repairs: &mut Vec<Repair>,
        waiting: &mut VecDeque<String>,
    ) -> Result<(), Box<dyn Error>> {
        let source = source.filter(|source| {
            let left_out = source.is_ephemeral && !self.options.with_ephemerals;
            self.outcome.ephemerals += usize::from(left_out);
            !left_out
        });
        match (&source, &target) {
            (None, None) => return Ok(()),
            (None, Some(_)) if self.own.contains(path) => repairs.push(Repair::delete(path)),
            (None, Some(_)) if self.options.overwrite => self.outcome.kept += 1,
            (None, Some(_)) => self.differs(format!("{path}: in the target alone")),
            (Some(source), None) => {
                if let Some(masked) = masked(&source.acl) {
                    self.differs(format!("{path} and what is below it: {masked} {MASKED}"));
                    return Ok(());
                }
                let (opcode, body) = self.create(path, source);
                repairs.push(Repair::new(path, "create", opcode, body));
                self.own.insert(path.to_string());
            }
            (Some(source), Some(target)) => self.compare_fields(path, source, target, repairs)?,
        }
        let mut children = source.map_or_else(Vec::new, |source| source.children);
        // What is in the target alone is looked at as well, but for what is below it.
        children.extend(target.map_or_else(Vec::new, |target| target.children));
        children.sort_unstable();
        children.dedup();
        let above = if path == "/" { "" } else { path };
        let children = children.iter().map(|child| format!("{above}/{child}"));
        waiting.extend(children.filter(|child| child != SYSTEM));
        Ok(())
    }

    fn compare_fields(
        &mut self,
        path: &str,
        source: &Znode,
        target: &Znode,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), Box<dyn Error>> {
        let text = || Body::default().bytes(path.as_bytes());
        let is_systems = path == QUOTAS;
        if source.data != target.data && !is_systems && !path.ends_with(USAGE) {
            let body = text().bytes(&source.data).int(-1);
            repairs.push(Repair::new(path, "set", opcode::SET_DATA, body));
        }
        let sorted = |acl: &[Acl]| {
            let mut acl = acl.to_vec();
            acl.sort_unstable();
            acl
        };
        if sorted(&source.acl) != sorted(&target.acl) && !is_systems {
            if let Some(masked) = masked(&source.acl).or(masked(&target.acl)) {
                self.differs(format!("{path}: {masked} is masked: it can't be compared"));
                return Ok(());
            }
            let body = text().acl(&source.acl).int(-1);
            repairs.push(Repair::new(path, "set the ACL of", opcode::SET_ACL, body));
        }
        let missing = i64::from(source.counter) - i64::from(target.counter);
        if self.options.counters && !path.starts_with(SYSTEM) && path != "/" && missing != 0 {
            match missing {
                1.. => self.raise_counter(path, missing)?,
                _ => self.differs(format!(
                    "{path}: its counter is {} and not {}, and can't be lowered",
                    target.counter, source.counter
                )),
            }
        }
        Ok(())
    }

    fn create(&self, path: &str, source: &Znode) -> (i32, Body) {
        let body = Body::default().bytes(path.as_bytes()).bytes(&source.data);
        let body = body.acl(&source.acl);
        if let Some((_, ms)) = self.options.ttls.iter().find(|(ttl, _)| matches(ttl, path)) {
            return (opcode::CREATE_TTL, body.int(5).long(*ms));
        }
        match self
            .options
            .containers
            .iter()
            .any(|container| matches(container, path))
        {
            true => (opcode::CREATE_CONTAINER, body.int(4)),
            false => (opcode::CREATE, body.int(0)),
        }
    }

    /// Creating a child raises its parent's counter, and deleting it leaves that as it is: no client has
    /// another way.
    fn raise_counter(&mut self, path: &str, by: i64) -> Result<(), Box<dyn Error>> {
        let child = format!("{path}/import-zookeeper-{:016x}", fingerprint(path));
        let header = |opcode, done| Body::default().int(opcode).bool(done).int(-1);
        let open = [Acl {
            permissions: 31,
            scheme: "world".to_string(),
            id: "anyone".to_string(),
        }];
        let mut create = header(opcode::CREATE, false).bytes(child.as_bytes());
        create = create.bytes(&[]).acl(&open).int(0);
        let delete = header(opcode::DELETE, false)
            .bytes(child.as_bytes())
            .int(-1);
        let pair = [create.0, delete.0].concat();
        let mut left = by;
        while left > 0 {
            let now = left.min(COUNTED_AT_ONCE);
            let mut multi = Body(pair.repeat(usize::try_from(now)?));
            multi.0.extend(header(-1, true).0);
            let reply = self.target.call(opcode::MULTI, &multi)?;
            // The first result: its kind, whether it is the last, its error.
            let failed = match reply.error {
                code::OK if Reader(&reply.body).int()? == opcode::CREATE => None,
                code::OK => first_error(&reply.body)?,
                error => Some(error),
            };
            if let Some(error) = failed {
                self.differs(format!(
                    "{path}: its counter can't be raised: {}",
                    name(error)
                ));
                return Ok(());
            }
            self.outcome.counted += now;
            left -= now;
            self.source.ping()?;
        }
        Ok(())
    }

    fn repair(&mut self, repairs: Vec<Repair>) -> Result<(), Box<dyn Error>> {
        for repair in &repairs {
            self.target.send(repair.opcode, &repair.body)?;
        }
        for repair in repairs {
            let error = self.target.receive()?.error;
            let done = match (repair.opcode, error) {
                (opcode::DELETE, code::OK | code::NO_NODE) => &mut self.outcome.deleted,
                (opcode::SET_DATA | opcode::SET_ACL, code::OK) => &mut self.outcome.changed,
                (_, code::OK) => &mut self.outcome.created,
                // Its parent was deleted meanwhile, or somebody else has made it: the next pass will see.
                (opcode::CREATE, code::NODE_EXISTS) => &mut self.outcome.created,
                _ => {
                    let Repair { what, path, .. } = repair;
                    self.differs(format!("{path}: can't {what} it: {}", name(error)));
                    continue;
                }
            };
            *done += 1;
        }
        Ok(())
    }
}

/// A request that makes a znode of the target like the source's.
struct Repair {
    path: String,
    what: &'static str,
    opcode: i32,
    body: Body,
}

impl Repair {
    fn new(path: &str, what: &'static str, opcode: i32, body: Body) -> Repair {
        let path = path.to_string();
        Repair {
            path,
            what,
            opcode,
            body,
        }
    }

    fn delete(path: &str) -> Repair {
        let body = Body::default().bytes(path.as_bytes()).int(-1);
        Repair::new(path, "delete", opcode::DELETE, body)
    }
}

fn send_reads(client: &mut Client, paths: &[String]) -> Result<(), Box<dyn Error>> {
    for path in paths {
        let text = Body::default().bytes(path.as_bytes());
        client.send(opcode::GET_ACL, &text)?;
        client.send(opcode::GET_DATA, &text.clone().bool(false))?;
        client.send(opcode::GET_CHILDREN_2, &text.bool(false))?;
    }
    Ok(())
}

/// `None` where there is no such znode. One that was deleted between its reads is seen as that.
fn receive_reads(
    client: &mut Client,
    paths: &[String],
) -> Result<Vec<Option<Znode>>, Box<dyn Error>> {
    let mut znodes = Vec::with_capacity(paths.len());
    for path in paths {
        let replies = [client.receive()?, client.receive()?, client.receive()?];
        znodes.push(znode(path, &replies)?);
    }
    Ok(znodes)
}

fn read_all(client: &mut Client, paths: &[String]) -> Result<Vec<Option<Znode>>, Box<dyn Error>> {
    send_reads(client, paths)?;
    receive_reads(client, paths)
}

fn znode(path: &str, [acl, data, children]: &[Reply; 3]) -> Result<Option<Znode>, Box<dyn Error>> {
    for reply in [acl, data, children] {
        match reply.error {
            code::OK => {}
            code::NO_NODE => return Ok(None),
            code::NO_AUTH => {
                let advice = "--source-auth and --target-auth say who asks";
                return Err(format!("{path} may not be read: {advice}").into());
            }
            error => return Err(format!("{path} can't be read: {}", name(error)).into()),
        }
    }
    let acl = Reader(&acl.body).acl()?;
    let mut reader = Reader(&data.body);
    let data = reader.bytes()?.to_vec();
    let is_ephemeral = reader.stat()?.ephemeral_owner != 0;
    let mut reader = Reader(&children.body);
    let children = reader.list(Reader::text)?;
    let counter = reader.stat()?.counter();
    Ok(Some(Znode {
        data,
        acl,
        children,
        is_ephemeral,
        counter,
    }))
}

/// An identity whose hash was not shown.
fn masked(acl: &[Acl]) -> Option<String> {
    let masked = acl
        .iter()
        .find(|entry| entry.scheme == "digest" && entry.id.ends_with(":x"));
    masked.map(|entry| entry.id.clone())
}

/// The first error within the results of a multi that isn't 0.
fn first_error(results: &[u8]) -> Result<Option<i32>, Box<dyn Error>> {
    let mut reader = Reader(results);
    while reader.int()? == -1 && reader.take(1)? == [0] {
        let _ = reader.int()?;
        match reader.int()? {
            0 => {}
            error => return Ok(Some(error)),
        }
    }
    Ok(Some(-1))
}

fn name(error: i32) -> String {
    let known = match error {
        -6 => "the operation is unknown, or switched off (TTLs)",
        -8 => "bad arguments",
        -101 => "no node",
        -102 => "not allowed (--target-auth)",
        -108 => "its parent is ephemeral",
        -111 => "not empty",
        -114 => "an ACL that isn't valid here",
        -125 => "a quota is exceeded",
        _ => return format!("error {error}"),
    };
    known.to_string()
}

/// A name that nobody else will have used (FNV-1a).
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

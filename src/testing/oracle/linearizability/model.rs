//! The tree as a client's documentation describes it: what each operation does to it, and what it
//! answers. Small, and written without a look at the state machine that it judges.
//!
//! Every change can be taken back, and the whole tree has a hash that is kept up to date, so that a
//! search can go back and forth and know where it has been.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use crate::error::Error;
use crate::ids::{SessionId, Version};
use crate::path;
use crate::stat::Stat;
use crate::testing::history::{Answer, Op};

/// A path, as a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct PathId(u32);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct DataId(u32);

/// Which creation a znode is of: the zxid that it was answered with, or 0 where nobody knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Birth(pub u64);

impl Birth {
    fn of(stat: &Stat) -> Birth {
        Birth(stat.czxid.0)
    }

    /// Whether both may be the same: nothing is concluded where one of them is not known.
    fn may_be(self, other: Birth) -> bool {
        self == other || self.0 == 0 || other.0 == 0
    }
}

/// A znode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Node {
    data: DataId,
    version: i32,
    owner: SessionId,
    czxid: Birth,
    /// Deleted by the cluster some time.
    reapable: bool,
    /// How many children were ever created: the next sequence number.
    creates: i32,
    children: u32,
    /// All names together, in any order.
    names: u128,
}

/// An operation, parsed for the model.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Step {
    Create {
        path: PathId,
        node: Made,
    },
    /// The name is made of this prefix and the parent's counter.
    CreateSequential {
        prefix: String,
        parent: PathId,
        node: Made,
    },
    Set {
        path: PathId,
        data: u32,
        version: Version,
    },
    Delete {
        path: PathId,
        version: Version,
    },
    Check {
        path: PathId,
        version: Version,
    },
    Multi(Vec<Step>),
    Get(PathId),
    Exists(PathId),
    Children(PathId),
    MultiRead(Vec<Step>),
    /// A session ends, and its ephemerals vanish.
    End(SessionId),
    /// The cluster deletes a container or TTL znode.
    Reap(PathId),
}

/// What a creation makes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Made {
    pub data: u32,
    pub owner: SessionId,
    pub reapable: bool,
    pub czxid: Birth,
}

/// What the answer of an operation must be.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Expected {
    Anything,
    Created(PathId),
    /// The version after a set.
    Set(i32, Birth),
    Done,
    Multi(Vec<Expected>),
    Data(u32, i32, Birth),
    Missing,
    Found(i32, SessionId, Birth),
    Children(u32, u128, Birth),
    NoNode,
    NodeExists,
    BadVersion(i32),
    NotEmpty,
    NoChildrenForEphemerals,
    MultiFailed(usize, Box<Expected>),
}

impl Step {
    /// Whether it changes nothing, whatever it answers.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Step::Get(_) | Step::Exists(_) | Step::Children(_) | Step::MultiRead(_)
        )
    }
}

impl Expected {
    /// Whether this answer says that nothing was changed.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Expected::NoNode
                | Expected::NodeExists
                | Expected::BadVersion(_)
                | Expected::NotEmpty
                | Expected::NoChildrenForEphemerals
                | Expected::MultiFailed(..)
        )
    }
}

/// What was changed, to take it back: the last one first.
type Undo = Vec<(PathId, Option<Node>)>;

/// The tree. Paths and data are numbers.
#[derive(Default)]
pub(super) struct Model {
    paths: HashMap<String, PathId>,
    names: Vec<String>,
    parents: Vec<Option<PathId>>,
    datas: HashMap<Vec<u8>, u32>,
    data_texts: Vec<Vec<u8>>,
    nodes: Vec<Option<Node>>,
    hash: u128,
    undo: Undo,
}

impl Model {
    /// The number of a path.
    pub(super) fn path(&mut self, path: &str) -> PathId {
        if let Some(&id) = self.paths.get(path) {
            return id;
        }
        let parent = path::parent(path).map(|parent| self.path(parent));
        let id = PathId(u32::try_from(self.names.len()).expect("paths are not that many"));
        self.paths.insert(path.to_string(), id);
        self.names.push(path.to_string());
        self.parents.push(parent);
        self.nodes.push(None);
        id
    }

    /// The text of a path.
    pub(super) fn name(&self, path: PathId) -> &str {
        &self.names[path.0 as usize]
    }

    pub(super) fn parent(&self, path: PathId) -> Option<PathId> {
        self.parents[path.0 as usize]
    }

    /// The number of some data.
    pub(super) fn data(&mut self, data: &[u8]) -> u32 {
        if let Some(&id) = self.datas.get(data) {
            return id;
        }
        let id = u32::try_from(self.data_texts.len()).expect("not that many");
        self.datas.insert(data.to_vec(), id);
        self.data_texts.push(data.to_vec());
        id
    }

    /// A znode that is there at the beginning, after its parent.
    pub(super) fn insert(
        &mut self,
        path: &str,
        data: &[u8],
        (version, creates, owner): (i32, i32, SessionId),
        czxid: Birth,
    ) {
        let id = self.path(path);
        let node = Node {
            data: DataId(self.data(data)),
            version,
            owner,
            czxid,
            reapable: false,
            creates,
            children: 0,
            names: 0,
        };
        self.put(id, Some(node));
        if let Some(parent) = self.parent(id)
            && let Some(mut node) = self.node(parent)
        {
            node.children += 1;
            node.names ^= name_hash(path);
            self.put(parent, Some(node));
        }
    }

    /// Equal for equal trees.
    pub(super) fn hash(&self) -> u128 {
        self.hash
    }

    /// Where to go back to.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes everything back that was done after the mark.
    pub(super) fn undo_to(&mut self, mark: usize) {
        while self.undo.len() > mark {
            let (path, node) = self.undo.pop().expect("it is longer");
            self.put(path, node);
        }
    }

    /// Whether a read is answered like this.
    pub(super) fn answers(&self, step: &Step, expected: &Expected) -> bool {
        if *expected == Expected::Anything {
            return true;
        }
        let found = match step {
            Step::MultiRead(steps) => {
                let Expected::Multi(expected) = expected else {
                    return false;
                };
                return steps.len() == expected.len()
                    && steps
                        .iter()
                        .zip(expected)
                        .all(|(step, expected)| self.answers(step, expected));
            }
            Step::Get(path) => match self.node(*path) {
                Some(node) => Expected::Data(node.data.0, node.version, node.czxid),
                None => Expected::NoNode,
            },
            Step::Exists(path) => match self.node(*path) {
                Some(node) => Expected::Found(node.version, node.owner, node.czxid),
                None => Expected::Missing,
            },
            Step::Children(path) => match self.node(*path) {
                Some(node) => Expected::Children(node.children, node.names, node.czxid),
                None => Expected::NoNode,
            },
            _ => unreachable!("only reads are asked"),
        };
        matches(&found, expected)
    }

    /// Does it, if it is answered like this; otherwise nothing has happened.
    pub(super) fn apply(&mut self, step: &Step, expected: &Expected) -> bool {
        let mark = self.mark();
        let found = self.step(step);
        if matches(&found, expected) {
            return true;
        }
        self.undo_to(mark);
        false
    }

    /// Does it. What is refused leaves the tree as it was.
    fn step(&mut self, step: &Step) -> Expected {
        let mark = self.mark();
        match self.try_step(step) {
            Ok(done) => done,
            Err(refusal) => {
                self.undo_to(mark);
                refusal
            }
        }
    }

    fn try_step(&mut self, step: &Step) -> Result<Expected, Expected> {
        match step {
            Step::Create { path, node } => self.create(*path, *node),
            Step::CreateSequential {
                prefix,
                parent,
                node,
            } => {
                let creates = self.existing(*parent)?.creates;
                let path = self.path(&format!("{prefix}{creates:010}"));
                self.create(path, *node)
            }
            Step::Set {
                path,
                data,
                version,
            } => {
                let mut node = self.existing(*path)?;
                check(*version, node.version)?;
                node.data = DataId(*data);
                node.version += 1;
                self.write(*path, Some(node));
                Ok(Expected::Set(node.version, node.czxid))
            }
            Step::Delete { path, version } => {
                let node = self.existing(*path)?;
                check(*version, node.version)?;
                if node.children > 0 {
                    return Err(Expected::NotEmpty);
                }
                self.remove(*path);
                Ok(Expected::Done)
            }
            Step::Check { path, version } => {
                check(*version, self.existing(*path)?.version)?;
                Ok(Expected::Done)
            }
            Step::Multi(steps) => {
                let mut done = Vec::with_capacity(steps.len());
                for (index, step) in steps.iter().enumerate() {
                    let failed = |why| Expected::MultiFailed(index, Box::new(why));
                    done.push(self.try_step(step).map_err(failed)?);
                }
                Ok(Expected::Multi(done))
            }
            Step::End(session) => {
                let ends = |node: &Option<Node>| node.is_some_and(|node| node.owner == *session);
                let gone: Vec<_> = (0u32..)
                    .zip(&self.nodes)
                    .filter(|(_, node)| ends(node))
                    .map(|(id, _)| PathId(id))
                    .collect();
                for path in gone {
                    self.remove(path);
                }
                Ok(Expected::Done)
            }
            Step::Reap(path) => {
                let node = self.existing(*path)?;
                if !node.reapable || node.children > 0 {
                    return Err(Expected::NotEmpty);
                }
                self.remove(*path);
                Ok(Expected::Done)
            }
            Step::Get(_) | Step::Exists(_) | Step::Children(_) | Step::MultiRead(_) => {
                unreachable!("a read does nothing")
            }
        }
    }

    fn create(&mut self, path: PathId, made: Made) -> Result<Expected, Expected> {
        let parent = self.parent(path).ok_or(Expected::NodeExists)?;
        let parent = self.existing(parent)?;
        if self.node(path).is_some() {
            return Err(Expected::NodeExists);
        }
        if parent.owner != SessionId::NONE {
            return Err(Expected::NoChildrenForEphemerals);
        }
        let node = Node {
            data: DataId(made.data),
            version: 0,
            owner: made.owner,
            czxid: made.czxid,
            reapable: made.reapable,
            creates: 0,
            children: 0,
            names: 0,
        };
        self.write(path, Some(node));
        self.link(path, 1);
        Ok(Expected::Created(path))
    }

    fn remove(&mut self, path: PathId) {
        self.write(path, None);
        self.link(path, -1);
    }

    /// Tells the parent of a child that has come or gone.
    fn link(&mut self, path: PathId, difference: i32) {
        if let Some(parent) = self.parent(path)
            && let Some(mut node) = self.node(parent)
        {
            node.children = node.children.wrapping_add_signed(difference);
            node.creates += difference.max(0);
            node.names ^= name_hash(self.name(path));
            self.write(parent, Some(node));
        }
    }

    fn node(&self, path: PathId) -> Option<Node> {
        self.nodes[path.0 as usize]
    }

    fn existing(&self, path: PathId) -> Result<Node, Expected> {
        self.node(path).ok_or(Expected::NoNode)
    }

    fn write(&mut self, path: PathId, node: Option<Node>) {
        let before = self.node(path);
        self.undo.push((path, before));
        self.put(path, node);
    }

    fn put(&mut self, path: PathId, node: Option<Node>) {
        if let Some(before) = self.node(path) {
            self.hash ^= hash(&(path, before));
        }
        if let Some(after) = node {
            self.hash ^= hash(&(path, after));
        }
        self.nodes[path.0 as usize] = node;
    }

    /// What the model knows of a path, for a report.
    pub(super) fn describe(&self, path: PathId) -> String {
        let name = self.name(path);
        match self.node(path) {
            None => format!("{name} doesn't exist"),
            Some(node) => format!(
                "{name} holds \"{}\", version {}, {} children{}",
                self.data_texts[node.data.0 as usize].escape_ascii(),
                node.version,
                node.children,
                match node.czxid.0 {
                    0 => String::new(),
                    czxid => format!(", created by {czxid}"),
                }
            ),
        }
    }
}

fn check(expected: Version, found: i32) -> Result<(), Expected> {
    if expected.matches(found) {
        Ok(())
    } else {
        Err(Expected::BadVersion(found))
    }
}

fn matches(found: &Expected, expected: &Expected) -> bool {
    match (found, expected) {
        // A write that nobody has heard of may have been refused as well; that is never doing it.
        (found, Expected::Anything) => !found.is_refusal(),
        (Expected::Multi(found), Expected::Multi(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| matches(f, e))
        }
        (Expected::Set(version, born), Expected::Set(expected, of)) => {
            version == expected && born.may_be(*of)
        }
        (Expected::Data(data, version, born), Expected::Data(expected, its_version, of)) => {
            (data, version) == (expected, its_version) && born.may_be(*of)
        }
        (Expected::Found(version, owner, born), Expected::Found(expected, its_owner, of)) => {
            (version, owner) == (expected, its_owner) && born.may_be(*of)
        }
        (Expected::Children(count, names, born), Expected::Children(expected, its_names, of)) => {
            (count, names) == (expected, its_names) && born.may_be(*of)
        }
        (found, expected) => found == expected,
    }
}

/// 128 bits, so that no two trees of a search are taken for one.
pub(super) fn hash(value: &impl Hash) -> u128 {
    let halves = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f]
        .map(|seed| foldhash::quality::FixedState::with_seed(seed).hash_one(value));
    (u128::from(halves[0]) << 64) | u128::from(halves[1])
}

/// The hash of a child's name; that of several is their exclusive or.
pub(super) fn name_hash(path: &str) -> u128 {
    hash(&path.rsplit('/').next().expect("a split gives one at least"))
}

/// What a call answered, in the model's words; `None` where it says nothing of the tree.
pub(super) fn expected(model: &mut Model, op: &Op, answer: &Answer) -> Expected {
    match (op, answer) {
        (_, Answer::Created { path, .. }) => Expected::Created(model.path(path)),
        (_, Answer::Set(stat)) => Expected::Set(stat.version, Birth::of(stat)),
        (_, Answer::Done) => Expected::Done,
        (Op::Multi(ops) | Op::MultiRead(ops), Answer::Multi(answers))
            if ops.len() == answers.len() =>
        {
            Expected::Multi(
                ops.iter()
                    .zip(answers)
                    .map(|(op, answer)| expected(model, op, answer))
                    .collect(),
            )
        }
        // No multi is answered like this: it can't be explained.
        (_, Answer::Multi(_)) => Expected::Multi(Vec::new()),
        (_, Answer::Data { data, stat }) => {
            Expected::Data(model.data(data), stat.version, Birth::of(stat))
        }
        (_, Answer::Refused(error)) => refusal(error).unwrap_or(Expected::Anything),
        (_, Answer::Exists(None)) => Expected::Missing,
        (_, Answer::Exists(Some(stat))) => {
            Expected::Found(stat.version, stat.ephemeral_owner, Birth::of(stat))
        }
        (_, Answer::Children { names, stat }) => {
            listed(names.iter().map(String::as_str), Birth::of(stat))
        }
    }
}

/// A listing of these names, in any order.
pub(super) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>, czxid: Birth) -> Expected {
    let count = u32::try_from(names.len()).expect("not that many");
    Expected::Children(
        count,
        names.fold(0, |all, name| all ^ name_hash(name)),
        czxid,
    )
}

/// What a refusal says of the tree; `None` where it says nothing.
pub(super) fn refusal(error: &Error) -> Option<Expected> {
    Some(match error {
        Error::NoNode { .. } => Expected::NoNode,
        Error::NodeExists { .. } => Expected::NodeExists,
        Error::BadVersion { found, .. } => Expected::BadVersion(*found),
        Error::NotEmpty { .. } => Expected::NotEmpty,
        Error::NoChildrenForEphemerals { .. } => Expected::NoChildrenForEphemerals,
        Error::Multi { index, error } => Expected::MultiFailed(*index, Box::new(refusal(error)?)),
        _ => return None,
    })
}

//! Calls: what was asked, and what came of it.

use super::{AttachmentId, CallId, Moment, WatchId};
use crate::client::{Created, ReadAnswer};
use crate::error::Error;
use crate::ids::{Version, Zxid};
use crate::op::{CreateMode, OpResult};
use crate::stat::Stat;
use crate::state::{ChildNames, ZnodeData};

/// An operation, as it was called.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Op {
    /// [`crate::Session::create`].
    Create {
        /// The path asked for; where the mode is sequential the real one is in the answer.
        path: String,
        /// The data.
        data: Vec<u8>,
        /// The mode.
        mode: CreateMode,
    },
    /// [`crate::Session::set`].
    Set {
        /// The path.
        path: String,
        /// The data.
        data: Vec<u8>,
        /// The condition.
        version: Version,
    },
    /// [`crate::Session::delete`].
    Delete {
        /// The path.
        path: String,
        /// The condition.
        version: Version,
    },
    /// The check of a multi, which is no call of its own.
    Check {
        /// The path.
        path: String,
        /// The condition.
        version: Version,
    },
    /// [`crate::Session::multi`]: creates, sets, deletes and checks.
    Multi(Vec<Op>),
    /// [`crate::Session::get`].
    Get {
        /// The path.
        path: String,
    },
    /// [`crate::Session::exists`].
    Exists {
        /// The path.
        path: String,
    },
    /// [`crate::Session::children`].
    Children {
        /// The path.
        path: String,
    },
    /// [`crate::Session::multi_read`]: gets and listings of children, as of one moment.
    MultiRead(Vec<Op>),
    /// [`crate::Session::sync`].
    Sync,
    /// [`crate::Session::close`].
    Close,
}

impl Op {
    /// A creation.
    pub fn create(path: &str, data: impl AsRef<[u8]>, mode: CreateMode) -> Op {
        Op::Create {
            path: path.to_string(),
            data: data.as_ref().to_vec(),
            mode,
        }
    }

    /// A set.
    pub fn set(path: &str, data: impl AsRef<[u8]>, version: Version) -> Op {
        Op::Set {
            path: path.to_string(),
            data: data.as_ref().to_vec(),
            version,
        }
    }

    /// A deletion.
    pub fn delete(path: &str, version: Version) -> Op {
        Op::Delete {
            path: path.to_string(),
            version,
        }
    }

    /// A check, in a multi.
    pub fn check(path: &str, version: Version) -> Op {
        Op::Check {
            path: path.to_string(),
            version,
        }
    }

    /// A read of data.
    pub fn get(path: &str) -> Op {
        Op::Get {
            path: path.to_string(),
        }
    }

    /// A read of a stat.
    pub fn exists(path: &str) -> Op {
        Op::Exists {
            path: path.to_string(),
        }
    }

    /// A read of children.
    pub fn children(path: &str) -> Op {
        Op::Children {
            path: path.to_string(),
        }
    }

    /// Whether it goes through the log.
    pub fn is_write(&self) -> bool {
        !matches!(
            self,
            Op::Get { .. } | Op::Exists { .. } | Op::Children { .. } | Op::MultiRead(_) | Op::Sync
        )
    }

    /// The path that it names; none for a multi, a sync and a close.
    pub fn path(&self) -> Option<&str> {
        match self {
            Op::Create { path, .. }
            | Op::Set { path, .. }
            | Op::Delete { path, .. }
            | Op::Check { path, .. }
            | Op::Get { path }
            | Op::Exists { path }
            | Op::Children { path } => Some(path),
            Op::Multi(_) | Op::MultiRead(_) | Op::Sync | Op::Close => None,
        }
    }

    /// Itself, or the operations of a multi or a multi-read.
    pub fn parts(&self) -> &[Op] {
        match self {
            Op::Multi(ops) | Op::MultiRead(ops) => ops,
            op => std::slice::from_ref(op),
        }
    }
}

/// How a read was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// The session's own: its writes are seen, and time never goes back.
    #[default]
    Session,
    /// Through [`crate::Session::linearizable`].
    Linearizable,
}

/// What a call gave.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Answer {
    /// A creation.
    Created {
        /// The path, with its number.
        path: String,
        /// The new znode's stat.
        stat: Stat,
    },
    /// The stat after a set.
    Set(Stat),
    /// A deletion, a check, a sync or a close has nothing to give.
    Done,
    /// One for each operation of a multi or of a multi-read.
    Multi(Vec<Answer>),
    /// A znode's data.
    Data {
        /// The data.
        data: Vec<u8>,
        /// The stat.
        stat: Stat,
    },
    /// A znode's stat, if it exists.
    Exists(Option<Stat>),
    /// A znode's children.
    Children {
        /// Their names, sorted.
        names: Vec<String>,
        /// The znode's stat.
        stat: Stat,
    },
    /// A read of a multi-read that failed by itself.
    Refused(Error),
}

impl From<Created> for Answer {
    fn from(created: Created) -> Answer {
        Answer::Created {
            path: created.path,
            stat: created.stat,
        }
    }
}

impl From<Stat> for Answer {
    fn from(stat: Stat) -> Answer {
        Answer::Set(stat)
    }
}

impl From<()> for Answer {
    fn from((): ()) -> Answer {
        Answer::Done
    }
}

impl From<(ZnodeData, Stat)> for Answer {
    fn from((data, stat): (ZnodeData, Stat)) -> Answer {
        Answer::Data {
            data: data.to_vec(),
            stat,
        }
    }
}

impl From<Option<Stat>> for Answer {
    fn from(stat: Option<Stat>) -> Answer {
        Answer::Exists(stat)
    }
}

impl From<(ChildNames, Stat)> for Answer {
    fn from((names, stat): (ChildNames, Stat)) -> Answer {
        Answer::Children {
            names: names.iter().map(str::to_string).collect(),
            stat,
        }
    }
}

impl From<Vec<OpResult>> for Answer {
    fn from(results: Vec<OpResult>) -> Answer {
        Answer::Multi(results.into_iter().map(Answer::from).collect())
    }
}

impl From<Vec<Result<ReadAnswer, Error>>> for Answer {
    fn from(results: Vec<Result<ReadAnswer, Error>>) -> Answer {
        let answer = |result| match result {
            Ok(ReadAnswer::Data(data, stat)) => Answer::from((data, stat)),
            Ok(ReadAnswer::Children(names, stat)) => Answer::from((names, stat)),
            Err(error) => Answer::Refused(error),
        };
        Answer::Multi(results.into_iter().map(answer).collect())
    }
}

impl From<OpResult> for Answer {
    fn from(result: OpResult) -> Answer {
        match result {
            OpResult::Created { path, stat } => Answer::Created { path, stat },
            OpResult::DataSet(stat) | OpResult::AclSet(stat) => Answer::Set(stat),
            OpResult::Multi(results) => Answer::from(results),
            OpResult::Deleted | OpResult::Checked | OpResult::Done | OpResult::Session { .. } => {
                Answer::Done
            }
        }
    }
}

impl Answer {
    /// The zxid of the write that gave this, where it is the answer of a write and tells it.
    pub fn written(&self) -> Option<Zxid> {
        match self {
            Answer::Created { stat, .. } => Some(stat.czxid),
            Answer::Set(stat) => Some(stat.mzxid),
            Answer::Multi(answers) => answers.iter().find_map(Answer::written),
            _ => None,
        }
    }

    /// The newest write that this shows.
    pub fn seen(&self) -> Option<Zxid> {
        let newest = |stat: &Stat| stat.czxid.max(stat.mzxid).max(stat.pzxid);
        match self {
            Answer::Created { stat, .. } | Answer::Set(stat) => Some(newest(stat)),
            Answer::Data { stat, .. } | Answer::Children { stat, .. } => Some(newest(stat)),
            Answer::Exists(stat) => stat.as_ref().map(newest),
            Answer::Multi(answers) => answers.iter().filter_map(Answer::seen).max(),
            Answer::Done | Answer::Refused(_) => None,
        }
    }
}

/// What came of a call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Outcome {
    /// It was never answered: its node crashed, or the history ended. A write may have happened.
    #[default]
    Pending,
    /// It happened, and gave this.
    Ok(Answer),
    /// It did not happen. Where [`Outcome::is_of_the_tree`] the tree was looked at and said no.
    Failed(Error),
    /// A write that may have happened.
    Unknown(Error),
}

impl Outcome {
    /// Whether a write with this outcome has happened for certain.
    pub fn has_happened(&self) -> bool {
        matches!(self, Outcome::Ok(_))
    }

    /// Whether a write with this outcome may have happened, without anybody knowing.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Outcome::Pending | Outcome::Unknown(_))
    }

    /// Whether this is a refusal that tells something of the tree, as of one moment within the call.
    pub fn is_of_the_tree(&self) -> bool {
        matches!(self, Outcome::Failed(error) if is_of_the_tree(error))
    }
}

fn is_of_the_tree(error: &Error) -> bool {
    match error {
        Error::Multi { error, .. } => is_of_the_tree(error),
        Error::NoNode { .. }
        | Error::NodeExists { .. }
        | Error::BadVersion { .. }
        | Error::NotEmpty { .. }
        | Error::NoChildrenForEphemerals { .. } => true,
        _ => false,
    }
}

/// A call.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Call {
    /// Its number.
    pub id: CallId,
    /// The session that it was made in, and where.
    pub attachment: AttachmentId,
    /// What was asked.
    pub op: Op,
    /// How, where it is a read.
    pub consistency: Consistency,
    /// The watch that comes with it.
    pub watch: Option<WatchId>,
    /// When it was made.
    pub called: Moment,
    /// When its answer was taken; `None` where there was none.
    pub answered: Option<Moment>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Call {
    /// The answer, where it happened.
    pub fn answer(&self) -> Option<&Answer> {
        match &self.outcome {
            Outcome::Ok(answer) => Some(answer),
            _ => None,
        }
    }

    /// Whether it takes part in the one order of the cluster: writes do, and reads that ask for it.
    pub fn is_linearizable(&self) -> bool {
        self.op.is_write() || self.op == Op::Sync || self.consistency == Consistency::Linearizable
    }
}

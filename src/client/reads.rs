//! What reads give, in the caller's types.

use crate::acl::Acl;
use crate::error::Result;
use crate::op::ReadOp;
use crate::path::ZnodePath;
use crate::stat::Stat;
use crate::state::{ChildNames, ReadResult, ZnodeData};

/// One read of several that belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Read {
    /// The data of the znode at this path.
    Data(String),
    /// The children of the znode at this path.
    Children(String),
}

impl Read {
    pub(super) fn op(&self) -> ReadOp {
        match self {
            Read::Data(path) => ReadOp::Data { path: path.clone() },
            Read::Children(path) => ReadOp::Children { path: path.clone() },
        }
    }
}

/// What a [`Read`] gives.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ReadAnswer {
    /// The data, and the stat as of the same write.
    Data(ZnodeData, Stat),
    /// The children, and the stat as of the same write.
    Children(ChildNames, Stat),
}

const OTHER: &str = "a read is answered in its own kind";

pub(super) fn data(result: ReadResult) -> (ZnodeData, Stat) {
    match result {
        ReadResult::Data(data, stat) => (data, stat),
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn existence(result: ReadResult) -> Option<Stat> {
    match result {
        ReadResult::Exists(stat) => stat,
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn children(result: ReadResult) -> (ChildNames, Stat) {
    match result {
        ReadResult::Children(children, stat) => (children, stat),
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn acl(result: ReadResult) -> (Vec<Acl>, Stat) {
    match result {
        ReadResult::Acl(acl, stat) => (acl, stat),
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn paths(result: ReadResult) -> Vec<ZnodePath> {
    match result {
        ReadResult::Ephemerals(paths) => paths,
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn number(result: ReadResult) -> usize {
    match result {
        ReadResult::AllChildrenNumber(number) => number,
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn allowed(result: ReadResult) -> bool {
    match result {
        ReadResult::Allowed(allowed) => allowed,
        _ => unreachable!("{OTHER}"),
    }
}

pub(super) fn answers(result: ReadResult) -> Vec<Result<ReadAnswer>> {
    let answer = |result| match result {
        ReadResult::Data(data, stat) => ReadAnswer::Data(data, stat),
        ReadResult::Children(children, stat) => ReadAnswer::Children(children, stat),
        _ => unreachable!("{OTHER}"),
    };
    match result {
        ReadResult::Multi(results) => results
            .into_iter()
            .map(|result| result.map(answer))
            .collect(),
        _ => unreachable!("{OTHER}"),
    }
}

//! `quorate`: coordination inside your own process.
//!
//! A service links this crate, starts a node and has what it would otherwise run ZooKeeper or
//! etcd for: a replicated tree of znodes with versioned writes, ephemeral and sequential znodes,
//! sessions, watches, ACLs and transactions, and locks built on them. Raft keeps the replicas the
//! same.

pub mod consensus;
pub mod observe;
pub mod recipes;
pub mod recovery;
#[cfg(feature = "zookeeper")]
pub mod server;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

mod acl;
mod client;
mod clock;
mod error;
mod ids;
mod node;
mod op;
mod path;
mod proto;
mod replica;
mod stat;
mod state;

pub use acl::{Acl, AuthId, Permissions};
pub use client::{
    Created, Credentials, Multi, Pending, Read, ReadAnswer, Session, SessionBuilder, WatchedState,
    Watcher,
};
pub use clock::{Clock, Now, SystemClock};
pub use error::{Error, Result};
pub use ids::{ClusterId, NodeId, SessionId, Version, Zxid};
pub use node::{
    Event, JoinError, MemberStatus, Members, Node, NodeBuilder, NodeEvent, NodeEvents, NodeHandle,
    NodeStatus, QueueDepths, Reconfiguration, Role, SessionState, SessionStatus, Stamped,
    StartError, WatchEvent, WatchKind, WatchStatus,
};
pub use op::{CreateMode, EventKind, OpResult};
pub use path::{PATH_BYTES_MAX, ZnodePath};
pub use stat::Stat;
pub use state::{ChildNames, ZnodeData};

/// The README's snippets, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

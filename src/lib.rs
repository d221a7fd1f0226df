//! `quorate`: coordination inside your own process.
//!
//! A service links this crate, starts a node and has what it would otherwise run ZooKeeper or
//! etcd for: a replicated tree of znodes with versioned writes, ephemeral and sequential znodes,
//! sessions, watches, ACLs and transactions, and locks built on them. Raft keeps the replicas the
//! same.

pub mod consensus;
pub mod storage;
pub mod transport;

mod acl;
mod error;
mod ids;
mod op;
mod path;
mod proto;
mod stat;
mod state;

pub use acl::{Acl, AuthId, Permissions};
pub use error::{Error, Result};
pub use ids::{ClusterId, NodeId, SessionId, Version, Zxid};
pub use op::{CreateMode, EventKind, OpResult};
pub use path::{PATH_BYTES_MAX, ZnodePath};
pub use stat::Stat;

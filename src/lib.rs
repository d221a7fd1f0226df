//! `quorate`: coordination inside your own process.
//!
//! A service links this crate, starts a [`Node`] and has what it would otherwise run ZooKeeper or
//! etcd for: a replicated tree of znodes with versioned writes, ephemeral and sequential znodes,
//! sessions, watches, ACLs and transactions, and locks built on them. Raft keeps the replicas the
//! same.

pub mod consensus;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod transport;

mod ids;

pub use ids::{ClusterId, NodeId, SessionId, Version, Zxid};

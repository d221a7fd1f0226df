//! The znode state machine: a tree, its sessions, ACLs and quotas, changed by one write after another.
//!
//! Floor 1. Deterministic: time comes with each write, nothing is read from a clock, a thread or a
//! random source, and no iteration order of a hash map reaches an output. It knows nothing of Raft.

pub(crate) mod tree;

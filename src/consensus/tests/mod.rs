//! Tests of the cores that need more than one of them, or bytes that no core would send.

mod cluster;
mod describe;
mod hostile;
mod memory_store;
mod safety;
mod scenarios;
mod script;
mod single;
mod storage_edges;

//! Conformance suites for hosts that bring their own storage or transport, the histories that tests
//! record and the oracles that judge them, and the faulty files
//! that the storage's own tests run on.
//!
//! Floor 7, feature `testing`. Nothing below knows of it.

#[doc(hidden)]
pub mod bench;
#[doc(hidden)]
pub mod fuzz;
pub mod history;
pub mod oracle;
pub mod sim;
pub mod storage_conformance;
pub mod storage_files;
pub mod transport_conformance;

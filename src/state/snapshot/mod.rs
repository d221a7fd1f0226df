//! The state as bytes, and back: what snapshots hold.
//!
//! The form is canonical: equal states give equal bytes, whatever their history. `encode` writes it in
//! bounded chunks from a state that was frozen; `restore` reads it from anywhere, a peer included, and
//! refuses what isn't a state; `outcome` is about the kept results in it. The schema is
//! `src/proto/snapshot.proto`. Nothing here knows files or connections.

mod encode;
mod outcome;
mod restore;

pub(crate) use encode::{Chunks, Frozen};
pub(crate) use restore::{Restore, RestoreError, RestoredState, ZXID_MAX};

/// The version of the form. A reader refuses any other.
const FORMAT: u32 = 1;

#[cfg(test)]
mod tests;

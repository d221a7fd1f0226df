//! What a host uses: sessions, their operations, and where they hear of changes.
//!
//! Floor 5. A [`Session`] calls; its node does the rest. It knows nothing of Raft.

mod members;
mod multi;
mod opening;
mod pending;
mod reads;
mod session;
mod watcher;

pub use multi::Multi;
pub use opening::{Credentials, SessionBuilder};
pub use pending::Pending;
pub use reads::{Read, ReadAnswer};
pub use session::{Created, Session, WatchedState};
pub use watcher::Watcher;

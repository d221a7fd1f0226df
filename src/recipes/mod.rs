//! What is built of znodes, sessions and watches: ZooKeeper's recipes.
//!
//! Floor 6. They use the public API alone, as a host could, and know nothing of what is below it; none
//! of them knows another. The nouns are those of Curator and kazoo.
//!
//! | recipe | in short |
//! |---|---|
//! | [`Lock`] | one holder at a time, in the order in which they asked |

mod attempt;
mod lock;
mod queue;

pub use attempt::Attempt;
pub use lock::{FencingToken, Lock, LockGuard};

//! Sessions as their clients and the cluster saw them, and the locks held in them.

use std::time::Duration;

use super::{AttachmentId, ClientId, HoldId, Moment};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::node::SessionState;

/// How a client's use of a session came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AttachmentEnd {
    /// The handle said so: lost, moved or closed.
    Told(SessionState),
    /// The client closed it, and this was answered.
    Closed,
    /// The client attached it again, here or elsewhere.
    Reattached,
    /// Its node crashed.
    Crashed,
    /// The client dropped it.
    Dropped,
}

/// A session on one node, from its opening or attaching to its end there.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Attachment {
    /// Its number.
    pub id: AttachmentId,
    /// Whose it is.
    pub client: ClientId,
    /// The node.
    pub node: NodeId,
    /// The session.
    pub session: SessionId,
    /// Which attachment of the session: 0 where it was opened.
    pub number: u32,
    /// The timeout that was granted.
    pub timeout: Duration,
    /// When the client asked for it.
    pub called: Moment,
    /// When it had it.
    pub opened: Moment,
    /// The last moment at which its node was certain that it lives.
    pub certain: Option<Moment>,
    /// Every state that the client noticed, and when.
    pub states: Vec<(Moment, SessionState)>,
    /// When and how its use ended; `None` while it goes on.
    pub ended: Option<(Moment, AttachmentEnd)>,
}

/// How the cluster ended a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct SessionEnd {
    /// The session.
    pub session: SessionId,
    /// The write that ended it, where it is known.
    pub zxid: Option<Zxid>,
    /// When the first replica applied it.
    pub at: Moment,
}

/// A lock that a client held, or believed to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Hold {
    /// Its number.
    pub id: HoldId,
    /// Who held it.
    pub client: ClientId,
    /// Which lock.
    pub lock: String,
    /// The fencing token.
    pub token: u64,
    /// When it was about to ask for it, or, where nobody said so, when it had it.
    pub asked: Moment,
    /// When the client learned that it had it.
    pub began: Moment,
    /// The last moment at which it believed to have it: when it last acted, or let go.
    pub last: Moment,
    /// Whether it is over.
    pub released: bool,
}

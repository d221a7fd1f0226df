//! How a session begins: opened, or attached where it was opened elsewhere.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::pending::Convert;
use super::{Pending, Session};
use crate::error::{Error, Result};
use crate::ids::SessionId;
use crate::node::{
    Abandonment, Asked, Call, Command, Node, NodeHandle, NodeShared, SessionHandle, SessionShared,
    Stamped, Value,
};
use crate::op::{Keeper, Password};

/// What it takes to attach a session on another node: its id, and a password of 16 random bytes.
/// Whoever has them has the session.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub password: [u8; 16],
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password is not for logs.
        f.debug_struct("Credentials")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// Asks a node for a session.
#[must_use = "nothing happens before `open` or `attach`"]
pub struct SessionBuilder {
    node: Arc<NodeShared>,
    timeout: Duration,
    keeper: Keeper,
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Asks for a session on this node.
    pub fn session(&self) -> SessionBuilder {
        SessionBuilder::on(Arc::clone(self.shared()))
    }
}

impl NodeHandle {
    /// Asks for a session on this node.
    pub fn session(&self) -> SessionBuilder {
        SessionBuilder::on(Arc::clone(self.shared()))
    }
}

impl SessionBuilder {
    pub(crate) fn on(node: Arc<NodeShared>) -> SessionBuilder {
        SessionBuilder {
            node,
            timeout: Duration::from_secs(10),
            keeper: Keeper::Node,
        }
    }

    /// How long the session outlives the silence of its node: 10 s by default, clamped to the
    /// cluster's limits.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the session one that the *host* keeps alive, for somebody that it hears of (a client over
    /// a network): it lives as long as [`crate::Session::touch`] is called often enough, and a third of
    /// the timeout is. Dropping its last handle doesn't close it then: silence does, or
    /// [`crate::Session::close`]; until then it can be attached again.
    pub fn touched_by_host(mut self) -> Self {
        self.keeper = Keeper::Host;
        self
    }

    fn timeout_ms(&self) -> u32 {
        u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX)
    }

    /// Opens a session, through the log. Waits for a leader as long as it takes.
    ///
    /// Nobody can use a session without this answer. So when the [`Pending`] is dropped before it was
    /// taken, the node asks no leader for the session any more, and closes it where it has come.
    ///
    /// # Errors
    /// [`Error::Overloaded`], [`Error::Stopped`].
    pub fn open(self) -> Pending<Session> {
        let mut password: Password = [0; 16];
        if let Err(error) = self.node.entropy.fill(&mut password) {
            return Pending::ready(Err(no_randomness(error)));
        }
        let keeper = self.keeper;
        let (call, answer) = Call::session(Asked {
            password,
            keeper,
            untaken: Abandonment::Close,
        });
        let timeout_ms = self.timeout_ms();
        self.node.command(Command::Open {
            password,
            timeout_ms,
            keeper,
            call,
        });
        Self::pending(answer)
    }

    /// Opens a session that only reads, at this node alone: what the node has applied, without asking
    /// anybody, and with watches. It needs no leader. The cluster doesn't know it: its id is no zxid,
    /// it owns nothing, and its writes, barriers and linearizable reads are answered
    /// [`Error::NotReadOnly`]. It lives as long as its handles and its node; identities that it proves
    /// ([`Session::add_auth`]) hold for its reads.
    ///
    /// # Errors
    /// [`Error::Stopped`]; [`Error::System`] where there is no randomness.
    pub fn open_read_only(self) -> Result<Session> {
        if let Some(error) = self.node.stopped() {
            return Err(error);
        }
        let mut password: Password = [0; 16];
        self.node
            .entropy
            .fill(&mut password)
            .map_err(no_randomness)?;
        let drawn = self.node.entropy.draw().map_err(no_randomness)?;
        // Far above every zxid that a cluster reaches, so it never is another session's.
        let id = SessionId((drawn >> 8 | 0x7f << 56) as i64);
        let shared = SessionShared::read_only(id, password, self.timeout_ms());
        Ok(Session::new(SessionHandle::local(self.node, shared)))
    }

    /// Takes over a session that was opened on any node. Its old handle hears that it has moved; the
    /// writes that it had not been answered either happened before or won't.
    ///
    /// When the [`Pending`] is dropped before its answer was taken, the node asks no leader for it any
    /// more. Where a leader was asked already the session may still come here: it is then left to its
    /// silence for its timeout, and can be attached again.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], [`Error::SessionExpired`], [`Error::Overloaded`], [`Error::Stopped`].
    pub fn attach(self, credentials: &Credentials) -> Pending<Session> {
        let nonce = match self.node.entropy.draw() {
            Ok(nonce) => nonce,
            Err(error) => return Pending::ready(Err(no_randomness(error))),
        };
        let (session, password) = (credentials.session, credentials.password);
        let keeper = self.keeper;
        let (call, answer) = Call::session(Asked {
            password,
            keeper,
            untaken: Abandonment::Leave,
        });
        let timeout_ms = self.timeout_ms();
        let command = Command::Attach {
            session,
            password,
            timeout_ms,
            nonce,
            keeper,
            call,
        };
        self.node.command(command);
        Self::pending(answer)
    }

    fn pending(answer: oneshot::Receiver<Stamped<Value>>) -> Pending<Session> {
        Pending::waiting(answer, Convert::Session(Session::new))
    }
}

fn no_randomness(error: getrandom::Error) -> Error {
    Error::System {
        reason: format!("the operating system gives no random bytes: {error}"),
    }
}

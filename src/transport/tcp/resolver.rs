//! Names to addresses, on a thread of its own: the system's resolver may take seconds.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::Waker;

use super::Link;

/// What came of a look-up.
pub(super) struct Resolved {
    pub link: Link,
    pub found: Result<Vec<SocketAddr>, String>,
}

/// Looks names up, one after the other. Each link has one look-up under way at most.
pub(super) struct Resolver {
    /// The thread lives until it finds this gone; nobody waits for that.
    names: Sender<(Link, String)>,
    resolved: Receiver<Resolved>,
}

impl Resolver {
    pub(super) fn start(waker: Arc<Waker>) -> std::io::Result<Resolver> {
        let (names, to_resolve) = channel::<(Link, String)>();
        let (done, resolved) = channel();
        std::thread::Builder::new()
            .name("quorate-resolver".to_owned())
            .spawn(move || {
                for (link, name) in to_resolve {
                    let found = match name.to_socket_addrs() {
                        Ok(addresses) => Ok(addresses.collect()),
                        Err(error) => Err(error.to_string()),
                    };
                    if done.send(Resolved { link, found }).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
        Ok(Resolver { names, resolved })
    }

    pub(super) fn look_up(&self, link: Link, name: String) {
        // The thread ends after this end of the channel only.
        let _ = self.names.send((link, name));
    }

    pub(super) fn next(&self) -> Option<Resolved> {
        self.resolved.try_recv().ok()
    }
}

//! Names to addresses, on threads of its own: the system's resolver may take seconds.
//!
//! It knows no peer. The invariant: a name is looked up by one thread at a time, and one whose servers are
//! silent holds up no more than its own thread.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;

/// How many names are looked up at a time. A thread is made when all others have a name, and is kept.
const THREADS_MAX: usize = 8;
/// How many names wait and are looked up. Each is that of a peer that is to be dialled.
const NAMES_MAX: usize = 1024;

/// What a look-up does.
pub(super) type LookUp = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Asks the operating system.
pub(super) fn ask_system(name: &str) -> io::Result<Vec<SocketAddr>> {
    name.to_socket_addrs().map(Iterator::collect)
}

/// What came of a look-up.
pub(super) struct Resolved {
    pub name: String,
    pub found: Result<Vec<SocketAddr>, String>,
}

/// See the module's text. Its threads live until they find it gone; nobody waits for that.
pub(super) struct Resolver {
    look_up: LookUp,
    waker: Arc<Waker>,
    names: Sender<String>,
    to_resolve: Receiver<String>,
    done: Sender<Resolved>,
    resolved: Receiver<Resolved>,
    /// Those that wait or are being looked up.
    under_way: BTreeSet<String>,
    threads: usize,
}

impl Resolver {
    pub(super) fn new(look_up: LookUp, waker: Arc<Waker>) -> Resolver {
        let (names, to_resolve) = unbounded();
        let (done, resolved) = unbounded();
        Resolver {
            look_up,
            waker,
            names,
            to_resolve,
            done,
            resolved,
            under_way: BTreeSet::new(),
            threads: 0,
        }
    }

    /// Looks a name up, unless that is under way: there will be a [`Resolved`] of it.
    pub(super) fn look_up(&mut self, name: String) -> io::Result<()> {
        if self.under_way.contains(&name) {
            return Ok(());
        }
        if self.under_way.len() >= NAMES_MAX {
            return Err(io::Error::other("too many names are being looked up"));
        }
        if self.threads < THREADS_MAX && self.threads <= self.under_way.len() {
            match self.start_thread() {
                Ok(()) => self.threads += 1,
                // The others will come to it.
                Err(_) if self.threads > 0 => {}
                Err(error) => return Err(error),
            }
        }
        self.under_way.insert(name.clone());
        // Both ends are here: it can't fail.
        let _ = self.names.send(name);
        Ok(())
    }

    /// A look-up that has come to something.
    pub(super) fn next(&mut self) -> Option<Resolved> {
        let resolved = self.resolved.try_recv().ok()?;
        self.under_way.remove(&resolved.name);
        Some(resolved)
    }

    fn start_thread(&self) -> io::Result<()> {
        let (look_up, waker) = (self.look_up, self.waker.clone());
        let (to_resolve, done) = (self.to_resolve.clone(), self.done.clone());
        let resolve = move || {
            for name in to_resolve {
                let found = look_up(&name).map_err(|error| error.to_string());
                if done.send(Resolved { name, found }).is_err() || waker.wake().is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("quorate-resolver".to_owned());
        thread.spawn(resolve).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc::sync_channel;
    use std::time::{Duration, Instant};

    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::*;
    use crate::transport::tcp::Tcp;
    use crate::transport::{Local, Message, Transport};
    use crate::{ClusterId, NodeId};

    const PATIENCE: Duration = Duration::from_secs(30);

    fn address(name: &str) -> io::Result<Vec<SocketAddr>> {
        let (_, port) = name.rsplit_once(':').unwrap();
        Ok(vec![SocketAddr::from((
            [127, 0, 0, 1],
            port.parse().unwrap(),
        ))])
    }

    /// Waits for the next result.
    fn next(resolver: &mut Resolver, poll: &mut mio::Poll) -> String {
        let begun = Instant::now();
        let mut events = mio::Events::with_capacity(8);
        loop {
            if let Some(resolved) = resolver.next() {
                assert!(resolved.found.is_ok());
                return resolved.name;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing is resolved");
            poll.poll(&mut events, Some(PATIENCE)).unwrap();
        }
    }

    /// Names were looked up one after the other.
    #[test]
    fn a_name_that_takes_long_holds_up_no_other() {
        static SILENT: Mutex<()> = Mutex::new(());
        fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
            if name.starts_with("silent") {
                drop(SILENT.lock());
            }
            address(name)
        }
        let mut poll = mio::Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let mut resolver = Resolver::new(look_up, waker);
        const { assert!(THREADS_MAX > 1) };
        let silent = SILENT.lock();
        for number in 1..THREADS_MAX {
            resolver.look_up(format!("silent-{number}:1")).unwrap();
            // Once more for the other lane: that takes no second thread.
            resolver.look_up(format!("silent-{number}:1")).unwrap();
        }
        for number in 0..20 {
            let name = format!("quick-{number}:1");
            resolver.look_up(name.clone()).unwrap();
            assert_eq!(next(&mut resolver, &mut poll), name);
        }
        assert_eq!(resolver.threads, THREADS_MAX);
        // More wait than there are threads, and no more than may.
        let mut waiting = resolver.under_way.len();
        while resolver.look_up(format!("silent-too-{waiting}:1")).is_ok() {
            waiting += 1;
        }
        assert_eq!((waiting, resolver.threads), (NAMES_MAX, THREADS_MAX));
        drop(silent);
        for _ in 0..waiting {
            next(&mut resolver, &mut poll);
        }
        assert!(resolver.under_way.is_empty());
    }

    /// What a name meant that is the peer's no more was taken for the peer's address.
    #[test]
    fn a_result_for_a_name_that_has_changed_is_dropped() {
        static FORMER: Mutex<()> = Mutex::new(());
        static LATTER: Mutex<()> = Mutex::new(());
        static BEGUN: Mutex<Vec<String>> = Mutex::new(Vec::new());
        fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
            BEGUN.lock().push(name.to_owned());
            let gate = if name.starts_with("former") {
                &FORMER
            } else {
                &LATTER
            };
            drop(gate.lock());
            address(name)
        }
        #[track_caller]
        fn begins(count: usize) {
            let begun = Instant::now();
            while BEGUN.lock().len() < count {
                assert!(begun.elapsed() < PATIENCE, "it is not looked up");
                std::thread::yield_now();
            }
        }
        let (former, latter) = (FORMER.lock(), LATTER.lock());
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = [0, 1].map(|at| listeners[at].local_addr().unwrap().port());
        let mut builder = Tcp::builder("127.0.0.1:0").peer(2, format!("former:{}", ports[0]));
        builder.options.look_up = look_up;
        let tcp = builder.bind().unwrap();
        let [one, two] = [1, 2].map(|id| NodeId::new(id).unwrap());
        let local = Local {
            cluster: ClusterId(7),
            node: one,
        };
        let (inbox, _delivered) = sync_channel::<Message>(1);
        tcp.start(local, Arc::new(inbox)).unwrap();
        tcp.send(Message::new(local.cluster, one, two, Bytes::from("hello")));
        begins(1);
        tcp.peers().set(2, format!("latter:{}", ports[1]));
        begins(2);
        drop(former);
        drop(latter);
        listeners[1].accept().unwrap();
        listeners[0].set_nonblocking(true).unwrap();
        let error = listeners[0].accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}

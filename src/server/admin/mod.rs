//! An HTTP endpoint for those who look after a server (feature `admin`): ZooKeeper's commands as JSON
//! (`AdminServer`), metrics for Prometheus, health and readiness.
//!
//! A few threads take one connection each, one request of a connection, and close it; more wait in the
//! operating system's queue. So what strangers cost is bounded: by the size of a request, by the time
//! that it may take, and by the number of threads.

mod commands;
mod http;
mod metrics;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use super::Shared;
use http::{Reply, Request, Status};

/// How many connections are served at the same time.
const THREADS: usize = 2;
/// How long a connection may take in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// The endpoint's threads.
pub(super) struct Admin {
    pub address: SocketAddr,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Admin {
    /// Begins to answer at an address that is bound.
    pub(super) fn start(listener: TcpListener, shared: &Arc<Shared>) -> std::io::Result<Admin> {
        let admin = Admin {
            address: listener.local_addr()?,
            threads: Mutex::default(),
        };
        for _ in 0..THREADS {
            let (listener, shared) = (listener.try_clone()?, shared.clone());
            let thread = std::thread::Builder::new()
                .name("quorate-zookeeper-admin".to_string())
                .spawn(move || serve(&listener, &shared))?;
            admin.threads.lock().push(thread);
        }
        Ok(admin)
    }

    /// Ends the threads, of a server that is stopping.
    pub(super) fn stop(&self) {
        let threads = std::mem::take(&mut *self.threads.lock());
        // Each thread that waits for a connection gets one.
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        for thread in threads {
            while !thread.is_finished() {
                let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
                std::thread::sleep(Duration::from_millis(1));
            }
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, shared: &Shared) {
    while !shared.stopping() {
        match listener.accept() {
            Ok(_) if shared.stopping() => return,
            // What goes wrong with one connection is its client's affair.
            Ok((stream, _)) => drop(http::serve(stream, PATIENCE, |request| {
                answer(request, shared)
            })),
            // For want of files, maybe: not at once again.
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn answer(request: &Request, shared: &Shared) -> Reply {
    match request.path.as_str() {
        "/commands" | "/commands/" => commands::list(),
        "/metrics" => metrics::reply(shared),
        "/health" => health(shared),
        "/ready" => readiness(shared),
        path => match path.strip_prefix("/commands/") {
            Some(name) => commands::run(name, request, shared),
            None => Reply::text(Status::NotFound, "there is nothing here\n"),
        },
    }
}

/// Whether the process is of any use: a node that has stopped must be started anew.
fn health(shared: &Shared) -> Reply {
    match shared.look().stopped {
        None => Reply::text(Status::Ok, "ok\n"),
        Some(reason) => Reply::text(Status::Unavailable, &format!("stopped: {reason}\n")),
    }
}

/// Whether clients should be sent here: there is a leader, so they can write.
fn readiness(shared: &Shared) -> Reply {
    shared.look();
    match shared.has_leader() {
        true => Reply::text(Status::Ok, "ok\n"),
        false => Reply::text(Status::Unavailable, "no leader is known\n"),
    }
}

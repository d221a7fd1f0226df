//! The words that list sessions, ephemerals, connections and watches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;

use super::date::date;
use crate::server::Shared;
use crate::{SessionId, WatchKind, WatchStatus};

/// `dump`: sessions as ZooKeeper's followers list them (when each would expire the leader knows),
/// ephemerals, and when each connection's silence would last too long.
pub(super) fn dump(shared: &Shared) -> String {
    let sessions = shared.node.sessions();
    let mut text = format!(
        "SessionTracker dump:\nGlobal Sessions({}):\n",
        sessions.len()
    );
    for session in sessions {
        let _ = writeln!(text, "{}\t{}ms", hex(session.id), session.timeout_ms);
    }
    let ephemerals = by_session(shared.node.ephemerals().into_iter());
    let _ = writeln!(
        text,
        "ephemeral nodes dump:\nSessions with Ephemerals ({}):",
        ephemerals.len()
    );
    for (session, paths) in ephemerals {
        let _ = writeln!(text, "{}:", hex(session));
        for path in paths {
            let _ = writeln!(text, "\t{path}");
        }
    }
    text + &connections(shared)
}

fn connections(shared: &Shared) -> String {
    // As ZooKeeper, which looks for those that are over at full seconds.
    let mut sets: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    let connections = shared.statistics.connections();
    let without_session_ms = shared.settings.greeting_timeout.as_millis() as u64;
    for connection in &connections {
        let second = connection.expires_at_ms(without_session_ms) / 1_000 + 1;
        sets.entry(second).or_default().push(connection);
    }
    let mut text = format!(
        "Connections dump:\nConnections Sets ({})/({}):\n",
        sets.len(),
        connections.len()
    );
    for (second, set) in sets {
        let _ = writeln!(text, "{} expire at {}:", set.len(), date(second * 1_000));
        for connection in set {
            let session = connection.session.load(Relaxed);
            let peer = connection.peer;
            let _ = writeln!(text, "\tip: /{peer} sessionId: 0x{session:x}");
        }
    }
    text
}

/// `hash`: a digest of the tree as of every 128th write, as a signed number.
pub(super) fn digests(shared: &Shared) -> String {
    let mut text = String::new();
    for (zxid, digest) in shared.node.digests() {
        let _ = writeln!(text, "{:x}: {}", zxid.0, digest as i64);
    }
    text
}

/// `wchs`.
pub(super) fn watches_summary(shared: &Shared) -> String {
    let (sessions, paths, total) = summary(&data_watches(shared));
    format!("{sessions} connections watching {paths} paths\nTotal watches:{total}\n")
}

/// How many sessions watch how many paths, by how many watches.
pub(in crate::server) fn summary(watches: &[WatchStatus]) -> (usize, usize, usize) {
    let sessions: BTreeSet<_> = watches.iter().map(|watch| watch.session).collect();
    let paths: BTreeSet<_> = watches.iter().map(|watch| watch.path.as_str()).collect();
    let pairs: BTreeSet<_> = watches
        .iter()
        .map(|watch| (watch.session, watch.path.as_str()))
        .collect();
    (sessions.len(), paths.len(), pairs.len())
}

/// `wchc`.
pub(super) fn watches_by_session(shared: &Shared) -> String {
    let watches = data_watches(shared);
    let pairs = watches.iter().map(|watch| (watch.session, &watch.path));
    let mut text = String::new();
    for (session, paths) in by_session(pairs) {
        let _ = writeln!(text, "{}", hex(session));
        for path in paths {
            let _ = writeln!(text, "\t{path}");
        }
    }
    text + "\n"
}

/// `wchp`.
pub(super) fn watches_by_path(shared: &Shared) -> String {
    let mut paths: BTreeMap<_, BTreeSet<SessionId>> = BTreeMap::new();
    for watch in data_watches(shared) {
        paths.entry(watch.path).or_default().insert(watch.session);
    }
    let mut text = String::new();
    for (path, sessions) in paths {
        let _ = writeln!(text, "{path}");
        for session in sessions {
            let _ = writeln!(text, "\t{}", hex(session));
        }
    }
    text + "\n"
}

/// The watches that ZooKeeper's three words tell of: not those for children alone.
pub(in crate::server) fn data_watches(shared: &Shared) -> Vec<WatchStatus> {
    let mut watches = shared.node.watches();
    watches.retain(|watch| watch.kind != WatchKind::Children);
    watches
}

/// What belongs to each session, each once.
pub(in crate::server) fn by_session<T: Ord>(
    pairs: impl Iterator<Item = (SessionId, T)>,
) -> BTreeMap<SessionId, BTreeSet<T>> {
    let mut sessions: BTreeMap<SessionId, BTreeSet<T>> = BTreeMap::new();
    for (session, what) in pairs {
        sessions.entry(session).or_default().insert(what);
    }
    sessions
}

fn hex(session: SessionId) -> String {
    format!("0x{:x}", session.0)
}

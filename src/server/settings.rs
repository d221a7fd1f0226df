//! What a server may be told, and what it allows.

use std::sync::Arc;
use std::time::Duration;

use super::words::Allowed;

/// The limits and switches of one server.
#[derive(Clone)]
pub(super) struct Settings {
    /// The largest frame that is taken, in bytes (ZooKeeper's `jute.maxbuffer`).
    pub frame_bytes_max: usize,
    /// The most connections.
    pub connections_max: usize,
    /// The most connections from one address.
    pub connections_per_address_max: usize,
    /// The most requests of one connection that are called and not answered.
    pub outstanding_max: usize,
    /// The most of them in all connections.
    pub outstanding_total_max: usize,
    /// When so many bytes wait to be sent to a client nothing more is taken from it.
    pub unsent_bytes_max: usize,
    /// On how many paths one session may have watches.
    pub watches_max: usize,
    /// How many events may wait for one client; with more its connection is closed.
    pub events_max: usize,
    /// How long a client may take for its first record.
    pub greeting_timeout: Duration,
    /// How many threads serve the connections.
    pub threads: usize,
    /// `user:base64(sha1(user:password))` of whoever may do everything.
    pub super_digest: Option<String>,
    /// Which four-letter words are answered.
    pub words: Allowed,
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            frame_bytes_max: 0xf_ffff,
            connections_max: 16_384,
            connections_per_address_max: 16_384,
            outstanding_max: 256,
            outstanding_total_max: 8_192,
            unsent_bytes_max: 256 * 1024,
            watches_max: 100_000,
            events_max: 10_000,
            greeting_timeout: Duration::from_secs(10),
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)),
            super_digest: None,
            words: Allowed::These(vec!["srvr".to_string()]),
            log: Arc::new(|_| {}),
        }
    }
}

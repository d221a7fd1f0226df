//! What a server may be told, and what it allows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::ensemble::Address;
use super::words::Allowed;

/// The most connections by default, where there are files enough for them.
const CONNECTIONS_MAX: usize = 16_384;

/// How many files connections leave to everybody else in the process: a storage that can't open one stops its
/// node.
const FILES_RESERVED: u64 = 256;

/// How many connections there may be in a process that has so many files open, and may have so many.
fn connections_max(files: Option<(u64, u64)>) -> usize {
    let Some((open, limit)) = files else {
        return CONNECTIONS_MAX;
    };
    // Where there are very few they are shared by halves.
    let reserved = FILES_RESERVED.min(limit / 2);
    let left = limit.saturating_sub(open + reserved).max(1);
    usize::try_from(left).map_or(CONNECTIONS_MAX, |left| left.min(CONNECTIONS_MAX))
}

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
    /// The most bytes that their frames may have.
    pub outstanding_bytes_total_max: usize,
    /// The most bytes of one reply's body.
    pub reply_bytes_max: usize,
    /// When so many bytes wait to be sent to a client nothing more is taken from it.
    pub unsent_bytes_max: usize,
    /// On how many paths one session may have watches.
    pub watches_max: usize,
    /// The most bytes of those paths, together.
    pub watch_path_bytes_max: usize,
    /// How many events may wait for one client; with more its connection is closed.
    pub events_max: usize,
    /// How long a client may take for its first record.
    pub greeting_timeout: Duration,
    /// How many threads serve the connections.
    pub threads: usize,
    /// `user:base64(sha1(user:password))` of whoever may do everything.
    pub super_digest: Option<String>,
    /// The subject of a certificate whose holder may do everything.
    #[cfg(feature = "tls")]
    pub super_x509: Option<String>,
    /// How connections are encrypted, and where they must be.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::transport::TlsConfig>,
    /// Whether what isn't encrypted is refused, where it could be.
    #[cfg(feature = "tls")]
    pub refuses_plain: bool,
    /// A client must have proven an identity of one of these schemes, where there are any.
    pub required_schemes: Vec<String>,
    /// Whether a client that has proven nothing may not write.
    pub refuses_anonymous_writes: bool,
    /// After how long without a leader clients that asked for it are served read-only.
    pub read_only_after: Duration,
    /// Where the node keeps its files, for those who ask how large they are.
    pub directory: Option<PathBuf>,
    /// Where the other nodes reach this one, if `/zookeeper/config` is to say so.
    pub advertised: Option<Address>,
    /// Where clients reach the server; where it listens by default.
    pub advertised_client: Option<Address>,
    /// Whether clients may change who takes part.
    pub reconfig: bool,
    /// How long a new participant may take to catch up.
    pub reconfig_patience: Duration,
    /// Which four-letter words are answered.
    pub words: Allowed,
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            frame_bytes_max: 0xf_ffff,
            connections_max: connections_max(super::report::file_descriptors()),
            connections_per_address_max: CONNECTIONS_MAX,
            outstanding_max: 256,
            outstanding_total_max: 8_192,
            outstanding_bytes_total_max: 256 * 1024 * 1024,
            reply_bytes_max: 64 * 1024 * 1024,
            unsent_bytes_max: 256 * 1024,
            watches_max: 100_000,
            watch_path_bytes_max: 16 * 1024 * 1024,
            events_max: 10_000,
            greeting_timeout: Duration::from_secs(10),
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(2)),
            super_digest: None,
            #[cfg(feature = "tls")]
            super_x509: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            refuses_plain: false,
            required_schemes: Vec::new(),
            refuses_anonymous_writes: false,
            read_only_after: Duration::from_secs(2),
            directory: None,
            advertised: None,
            advertised_client: None,
            reconfig: false,
            reconfig_patience: Duration::from_secs(10),
            words: Allowed::These(vec!["srvr".to_string()]),
            log: Arc::new(|_| {}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_to_the_others() {
        assert_eq!(connections_max(Some((24, 1_024))), 744);
        assert_eq!(connections_max(Some((24, 1_048_576))), 16_384);
        assert_eq!(connections_max(Some((24, 256))), 104);
        assert_eq!(connections_max(Some((300, 256))), 1);
        assert_eq!(connections_max(None), 16_384);
    }
}

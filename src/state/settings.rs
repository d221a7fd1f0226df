//! The settings that all replicas must share, because `apply` depends on them.
//!
//! They are part of the state: the genesis state is made with them, and a snapshot carries them. It
//! knows nothing of settings that a node may choose for itself.

/// The limits and switches of the state machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    /// The most data that a znode holds, in bytes.
    pub data_bytes_max: u32,
    /// The most operations in a multi.
    pub multi_ops_max: u32,
    /// The most that the paths and data of a multi come to, in bytes.
    pub multi_bytes_max: u32,
    /// The most entries in an ACL, after `auth` was expanded.
    pub acl_entries_max: u32,
    /// A session that asks for less gets this, in milliseconds.
    pub session_timeout_min_ms: u32,
    /// A session that asks for more gets this, in milliseconds.
    pub session_timeout_max_ms: u32,
    /// The most results kept for a session that doesn't say which ones it has; the oldest go first.
    pub results_kept_max: u32,
    /// Whether hard quotas refuse writes (ZooKeeper's `enforceQuota`).
    pub enforce_quota: bool,
    /// Whether znodes may have a time to live (ZooKeeper's `extendedTypesEnabled`).
    pub ttl_enabled: bool,
    /// Schemes, besides ZooKeeper's own, that the host authenticates by. Sorted, each once.
    pub auth_schemes: Vec<String>,
}

impl Default for Settings {
    /// ZooKeeper's defaults with a tick of 2 s, where ZooKeeper has them.
    fn default() -> Settings {
        Settings {
            data_bytes_max: 1024 * 1024,
            multi_ops_max: 10_000,
            multi_bytes_max: 4 * 1024 * 1024,
            acl_entries_max: 128,
            session_timeout_min_ms: 4_000,
            session_timeout_max_ms: 40_000,
            results_kept_max: 4_096,
            enforce_quota: false,
            ttl_enabled: true,
            auth_schemes: Vec::new(),
        }
    }
}

impl Settings {
    /// The same settings in their one canonical form.
    pub(crate) fn canonical(mut self) -> Settings {
        self.auth_schemes.sort_unstable();
        self.auth_schemes.dedup();
        self.session_timeout_max_ms = self.session_timeout_max_ms.max(self.session_timeout_min_ms);
        self
    }

    /// The timeout that a session gets which asks for `timeout_ms`.
    pub(crate) fn clamp_timeout(&self, timeout_ms: u32) -> u32 {
        timeout_ms.clamp(
            self.session_timeout_min_ms,
            self.session_timeout_max_ms.max(self.session_timeout_min_ms),
        )
    }

    /// Whether a session can have proven to be an identity of `scheme`, so that `auth` stands for it
    /// (ZooKeeper's `ServerAuthenticationProvider.isAuthenticated`). An address proves nothing.
    pub(crate) fn authenticates(&self, scheme: &str) -> bool {
        matches!(scheme, "digest" | "x509") || self.auth_schemes.iter().any(|extra| extra == scheme)
    }
}

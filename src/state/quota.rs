//! Quotas: how many znodes and bytes there may be at and below a path, and how many there are.
//!
//! A quota is on a path while `/zookeeper/quota/<path>/zookeeper_limits` exists; the usage is shown in
//! `zookeeper_stats` beside it, in the words of ZooKeeper's `StatsTrack`. This file reads and writes
//! those words and keeps the sums; it knows no tree. Where ZooKeeper charges the innermost of nested
//! quotas only (and its command line refuses to nest them), every enclosing quota is charged here.
//! The root and what is at or below `/zookeeper` has none.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::path::{self, is_at_or_below};

/// Where quotas are kept.
pub(crate) const QUOTA_ROOT: &str = "/zookeeper/quota";
/// The name of the znode that holds the limits.
pub(crate) const LIMITS: &str = "zookeeper_limits";
/// The name of the znode that shows the usage.
pub(crate) const STATS: &str = "zookeeper_stats";

/// What a znode under [`QUOTA_ROOT`] says, and of which path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QuotaZnode<'a> {
    Limits(&'a str),
    Stats(&'a str),
}

impl<'a> QuotaZnode<'a> {
    /// What the znode at `znode_path` says; `None` when it has nothing to do with quotas.
    pub(crate) fn at(znode_path: &'a str) -> Option<QuotaZnode<'a>> {
        let below = znode_path.strip_prefix(QUOTA_ROOT)?;
        let quota_path = path::parent(below).filter(|_| below.starts_with('/'))?;
        if quota_path == "/" || is_at_or_below(quota_path, "/zookeeper") {
            return None;
        }
        match path::name(below) {
            LIMITS => Some(QuotaZnode::Limits(quota_path)),
            STATS => Some(QuotaZnode::Stats(quota_path)),
            _ => None,
        }
    }
}

/// Where the usage of `quota_path` is shown.
pub(crate) fn stats_path(quota_path: &str) -> String {
    format!("{QUOTA_ROOT}{quota_path}/{STATS}")
}

/// How much there is at and below a path, or a difference of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Usage {
    /// Znodes, the path's own included.
    pub count: i64,
    /// The bytes of their data.
    pub bytes: i64,
}

impl Usage {
    pub(crate) fn plus(self, other: Usage) -> Usage {
        Usage {
            count: self.count + other.count,
            bytes: self.bytes + other.bytes,
        }
    }

    /// As `zookeeper_stats` shows it.
    pub(crate) fn to_stats(self) -> String {
        format!("count={},bytes={}", self.count, self.bytes)
    }
}

/// What a quota allows, as far as it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Limits {
    count: Option<i64>,
    bytes: Option<i64>,
    count_hard: Option<i64>,
    bytes_hard: Option<i64>,
}

impl Limits {
    /// Reads `key=number` pairs, separated by `,` or `;`. What can't be read limits nothing.
    pub(crate) fn parse(data: &[u8]) -> Limits {
        let mut limits = Limits::default();
        for pair in data.split(|&byte| byte == b',' || byte == b';') {
            let mut words = pair.split(|&byte| byte == b'=');
            let (Some(key), Some(value)) = (words.next(), words.next()) else {
                continue;
            };
            let value = std::str::from_utf8(value)
                .ok()
                .and_then(|value| value.parse().ok());
            let value = value.filter(|&value: &i64| value > -1);
            match key {
                b"count" => limits.count = value,
                b"bytes" => limits.bytes = value,
                b"countHardLimit" => limits.count_hard = value,
                b"byteHardLimit" => limits.bytes_hard = value,
                _ => {}
            }
        }
        limits
    }
}

/// The quota of one path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Quota {
    pub limits: Limits,
    pub usage: Usage,
}

impl Quota {
    /// Whether a soft limit would be passed by a difference that no hard one refuses.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`].
    fn check(&self, path: &str, quota_path: &str, difference: Usage) -> Result<bool> {
        let after = self.usage.plus(difference);
        let mut soft_exceeded = false;
        // A limit is asked only where the write changes what it limits.
        for (what, changes, soft, hard, found) in [
            (
                "count",
                difference.count != 0,
                self.limits.count,
                self.limits.count_hard,
                after.count,
            ),
            (
                "bytes",
                difference.bytes != 0,
                self.limits.bytes,
                self.limits.bytes_hard,
                after.bytes,
            ),
        ] {
            match (hard, soft) {
                (Some(limit), _) if changes && found > limit => {
                    return Err(Error::QuotaExceeded {
                        path: path.to_string(),
                        quota_path: quota_path.to_string(),
                        what,
                        found,
                        limit,
                    });
                }
                (None, Some(limit)) if changes && found > limit => soft_exceeded = true,
                _ => {}
            }
        }
        Ok(soft_exceeded)
    }
}

/// All quotas, by the path that they are on.
#[derive(Debug, Default)]
pub(crate) struct QuotaTable(BTreeMap<String, Quota>);

impl QuotaTable {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn quota(&self, quota_path: &str) -> Option<Quota> {
        self.0.get(quota_path).copied()
    }

    /// Sets or takes away a quota; gives back what was there.
    pub(crate) fn replace(&mut self, quota_path: &str, quota: Option<Quota>) -> Option<Quota> {
        match quota {
            Some(quota) => self.0.insert(quota_path.to_string(), quota),
            None => self.0.remove(quota_path),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Quota)> {
        self.0.iter().map(|(path, quota)| (path.as_str(), quota))
    }

    /// The paths at or above `path` that have a quota, the innermost first.
    pub(crate) fn enclosing(&self, path: &str) -> Vec<String> {
        let mut found = Vec::new();
        if self.0.is_empty() {
            return found;
        }
        let mut at = Some(path);
        while let Some(candidate) = at {
            if self.0.contains_key(candidate) {
                found.push(candidate.to_string());
            }
            at = path::parent(candidate);
        }
        found
    }

    /// Asks every quota that encloses `path` about a write; says whether a soft limit is passed.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`].
    pub(crate) fn check(&self, path: &str, difference: Usage) -> Result<bool> {
        let mut soft_exceeded = false;
        for quota_path in self.enclosing(path) {
            soft_exceeded |= self.0[&quota_path].check(path, &quota_path, difference)?;
        }
        Ok(soft_exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_zookeeper_writes_them() {
        let limits = Limits::parse(b"count=4,bytes=5=;byteHardLimit=20;countHardLimit=10");
        assert_eq!(
            limits,
            Limits {
                count: Some(4),
                bytes: Some(5),
                count_hard: Some(10),
                bytes_hard: Some(20)
            }
        );
        assert_eq!(Limits::parse(b"count=-1,bytes=-1"), Limits::default());
        assert_eq!(Limits::parse(b""), Limits::default());
        assert_eq!(
            Limits::parse(b"count;=;bytes=x;;\xff=\xff"),
            Limits::default()
        );
    }

    #[test]
    fn a_quota_znode_is_told_from_any_other() {
        use QuotaZnode as Z;
        for (path, expected) in [
            ("/zookeeper/quota/a/zookeeper_limits", Some(Z::Limits("/a"))),
            (
                "/zookeeper/quota/a/b/zookeeper_stats",
                Some(Z::Stats("/a/b")),
            ),
            ("/zookeeper/quota/a", None),
            ("/zookeeper/quota/zookeeper_limits", None),
            ("/zookeeper/quota/zookeeper/zookeeper_limits", None),
            ("/zookeeper/quotax/a/zookeeper_limits", None),
            ("/zookeeper/quota", None),
            ("/a/zookeeper_limits", None),
        ] {
            assert_eq!(Z::at(path), expected, "{path}");
        }
    }

    #[test]
    fn hard_limits_refuse_and_soft_ones_are_noted() {
        let mut table = QuotaTable::default();
        let usage = Usage {
            count: 3,
            bytes: 10,
        };
        let mut set = |limits: &[u8], difference| {
            table.replace(
                "/a",
                Some(Quota {
                    limits: Limits::parse(limits),
                    usage,
                }),
            );
            table.check("/a/b/c", difference)
        };
        let one = Usage { count: 1, bytes: 5 };
        assert_eq!(set(b"count=3", one), Ok(true));
        assert_eq!(set(b"count=4", one), Ok(false));
        assert_eq!(set(b"bytes=14", one), Ok(true));
        assert!(matches!(
            set(b"countHardLimit=3", one),
            Err(Error::QuotaExceeded { limit: 3, .. })
        ));
        assert!(matches!(
            set(b"byteHardLimit=14", one),
            Err(Error::QuotaExceeded { found: 15, .. })
        ));
        // The hard limit stands in for the soft one, and only what changes is asked about.
        assert_eq!(set(b"count=1;countHardLimit=4", one), Ok(false));
        assert_eq!(
            set(b"countHardLimit=1", Usage { count: 0, bytes: 1 }),
            Ok(false)
        );
    }

    #[test]
    fn every_enclosing_quota_is_asked() {
        let mut table = QuotaTable::default();
        let quota = Quota {
            limits: Limits::default(),
            usage: Usage::default(),
        };
        table.replace("/a", Some(quota));
        table.replace("/a/b/c", Some(quota));
        assert_eq!(table.enclosing("/a/b/c/d"), ["/a/b/c", "/a"]);
        assert_eq!(table.enclosing("/a/b"), ["/a"]);
        assert!(table.enclosing("/ab").is_empty());
    }
}

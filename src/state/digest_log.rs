//! Digests of the tree as of some writes, to compare replicas by (ZooKeeper's `DataTree.digestLog`).

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::ids::Zxid;

/// Of the writes whose zxids are multiples of it: the same ones on every replica.
const INTERVAL: u64 = 128;
/// How many are kept.
const KEPT: usize = 1_024;

/// The last digests. Written by the one who applies, read by anybody.
#[derive(Debug, Default)]
pub(super) struct DigestLog(Mutex<VecDeque<(Zxid, u64)>>);

impl DigestLog {
    /// A write was applied: `digest` is asked for where it is one of those that count.
    pub(super) fn applied(&self, zxid: Zxid, digest: impl FnOnce() -> u64) {
        if !zxid.0.is_multiple_of(INTERVAL) {
            return;
        }
        let mut log = self.0.lock();
        if log.len() == KEPT {
            log.pop_front();
        }
        log.push_back((zxid, digest()));
    }

    pub(super) fn all(&self) -> Vec<(Zxid, u64)> {
        self.0.lock().iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_128th_is_kept_and_the_oldest_make_way() {
        let log = DigestLog::default();
        let last = 128 * 1_030;
        for zxid in 1..=last {
            log.applied(Zxid(zxid), || zxid + 1);
        }
        let kept = log.all();
        assert_eq!(kept.len(), 1_024);
        assert_eq!(kept[0], (Zxid(128 * 7), 128 * 7 + 1));
        assert_eq!(kept[1_023], (Zxid(last), last + 1));
    }
}

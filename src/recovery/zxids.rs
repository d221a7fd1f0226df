//! Where the zxids of a cluster begin that was made of another one's state.
//!
//! The state that it is made of may lack writes that the old cluster acknowledged: those after a backup, or
//! those that the lost disks alone held. Their zxids are out there: as fencing tokens at whatever a lock
//! protects, as the last zxid that a client has seen. So the new cluster begins far behind them. The
//! invariant: its zxids are greater than all that its ancestors have handed out, as long as the state lacks
//! fewer than 2^30 of their writes, or the clock is right and none of them made two million a second.

use super::RecoveryError;
use crate::clock::{Clock as _, SystemClock};
use crate::ids::Zxid;
use crate::state::{State, ZXID_MAX};

/// How many zxids are left out at least, whatever the clock says.
const SKIPPED_MIN: u64 = 1 << 30;
/// Two clusters that are made of one backup, the second when the first is given up, begin by the clock and
/// so differ by the time between: two million zxids for each second, and no cluster makes so many writes.
/// (One that is made of another within nine minutes runs ahead of the clock by as much.) Numbers stay below
/// 2^53 until the year 2109, for programs that have but floating-point ones.
const ZXIDS_PER_MS: u64 = 1 << 11;
/// A clock beyond this is wrong: the year 10889.
const TIME_MS_MAX: u64 = 1 << 48;

/// Lets the next write be one that no cluster of this state's descent has numbered.
pub(super) fn skip(state: &mut State) -> Result<(), RecoveryError> {
    let zxid = state.zxid();
    let begin = begin_after(zxid, SystemClock::new().now().wall_ms);
    state.skip_to(begin.ok_or(RecoveryError::ZxidsUsedUp { zxid })?);
    Ok(())
}

fn begin_after(last: Zxid, wall_ms: i64) -> Option<Zxid> {
    let time_ms = u64::try_from(wall_ms).unwrap_or(0).min(TIME_MS_MAX);
    let begin = (last.0 + SKIPPED_MIN).max(time_ms * ZXIDS_PER_MS);
    (begin < ZXID_MAX).then_some(Zxid(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zxids_begin_behind_the_last_one_and_later_at_a_later_time() {
        let today = 1_790_000_000_000;
        let first = begin_after(Zxid(7), today).unwrap();
        assert_eq!(first.0, 1_790_000_000_000 << 11);
        assert!(first.0 < 1 << 53);
        // Made once more of the same backup, a second later, and of what the first came to.
        let again = begin_after(Zxid(7), today + 1000).unwrap();
        assert!(again.0 - first.0 > 2_000_000);
        let next = begin_after(Zxid(first.0 + 5), today).unwrap();
        assert_eq!(next.0, first.0 + 5 + SKIPPED_MIN);
    }

    #[test]
    fn a_wrong_clock_takes_no_zxids_back_and_does_not_use_them_up() {
        for wall_ms in [i64::MIN, -1, 0] {
            let begin = begin_after(Zxid(7), wall_ms);
            assert_eq!(begin, Some(Zxid(7 + SKIPPED_MIN)));
        }
        let begin = begin_after(Zxid(7), i64::MAX).unwrap();
        assert!(begin.0 <= ZXID_MAX / 8);
        assert_eq!(begin_after(Zxid(ZXID_MAX), 0), None);
    }
}

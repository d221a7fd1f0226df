//! A lock has one holder at a time, and its fencing tokens only grow.
//!
//! Judged by the recorder's own time, not by what a holder's node believes: a holder that still acts
//! when another has begun is a breach, however sure it was (Curator #980, #1024, #1211; etcd's Jepsen
//! report of 2020).

use std::collections::BTreeMap;

use super::Violation;
use crate::testing::history::{History, Hold};

/// Somebody acted as the holder after somebody else had got the lock.
pub const TWO_HOLDERS: &str = "two hold one lock";
/// A later holder has a token that is no higher.
pub const TOKENS_GROW: &str = "fencing tokens don't grow";

/// Judges the history: see the module's text.
///
/// # Errors
/// [`TWO_HOLDERS`], [`TOKENS_GROW`].
pub fn check(history: &History) -> Result<(), Violation> {
    let mut locks: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
    for hold in &history.holds {
        locks.entry(&hold.lock).or_default().push(hold);
    }
    for holds in locks.values_mut() {
        holds.sort_by_key(|hold| hold.began);
        for pair in holds.windows(2) {
            let (first, second) = (pair[0], pair[1]);
            if second.token <= first.token {
                return Err(Violation::new(TOKENS_GROW, [first, second].map(describe)));
            }
        }
        // Whoever acts last among the holders so far.
        let mut latest: Option<&Hold> = None;
        for hold in holds.iter() {
            if let Some(before) = latest.filter(|before| before.last > hold.began) {
                return Err(Violation::new(TWO_HOLDERS, [before, hold].map(describe)));
            }
            latest = latest
                .filter(|before| before.last > hold.last)
                .or(Some(hold));
        }
    }
    Ok(())
}

fn describe(hold: &Hold) -> String {
    format!(
        "{} holds {} with token {} from {}, and acts last at {}",
        hold.client, hold.lock, hold.token, hold.began, hold.last
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::history::ClientId;
    use crate::testing::oracle::story::Story;

    #[test]
    fn one_after_the_other_is_fine() {
        let story = Story::new();
        let first = story.recorder.held(ClientId(1), "/lock", 5);
        story.recorder.still_held(first);
        story.recorder.released(first);
        let second = story.recorder.held(ClientId(2), "/lock", 7);
        story.recorder.held(ClientId(1), "/other", 6);
        story.recorder.still_held(second);
        story.passes(check);
    }

    #[test]
    fn a_holder_that_acts_when_another_has_begun_is_found() {
        let story = Story::new();
        let first = story.recorder.held(ClientId(1), "/lock", 5);
        story.recorder.held(ClientId(2), "/lock", 7);
        story.passes(check);
        story.recorder.still_held(first);
        story.breaks(check, TWO_HOLDERS, &["client 1", "client 2", "token 5"]);
    }

    #[test]
    fn a_holder_that_outlasts_several_is_found() {
        let story = Story::new();
        let first = story.recorder.held(ClientId(1), "/lock", 5);
        let second = story.recorder.held(ClientId(2), "/lock", 7);
        story.recorder.released(second);
        story.recorder.held(ClientId(3), "/lock", 8);
        story.recorder.still_held(first);
        story.breaks(check, TWO_HOLDERS, &["client 1"]);
    }

    #[test]
    fn a_token_that_is_no_higher_is_found() {
        for token in [5, 4] {
            let story = Story::new();
            let first = story.recorder.held(ClientId(1), "/lock", 5);
            story.recorder.released(first);
            story.recorder.held(ClientId(2), "/lock", token);
            story.breaks(check, TOKENS_GROW, &["client 2"]);
        }
    }
}

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
        // Who began to hold when is known after the fact only; the tokens tell the order.
        holds.sort_by_key(|hold| hold.token);
        tokens_grow(holds)?;
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

/// Nobody has the same token as another, nor a lower one than somebody who had the lock before it asked.
fn tokens_grow(by_token: &[&Hold]) -> Result<(), Violation> {
    // The hold that began first, of those with this token or a higher one.
    let mut first: Option<&Hold> = None;
    for pair in by_token.windows(2) {
        if pair[0].token == pair[1].token {
            return Err(Violation::new(
                TOKENS_GROW,
                [pair[0], pair[1]].map(describe),
            ));
        }
    }
    for hold in by_token.iter().rev() {
        if let Some(earlier) = first.filter(|earlier| earlier.began < hold.asked) {
            return Err(Violation::new(TOKENS_GROW, [earlier, *hold].map(describe)));
        }
        first = first
            .filter(|first| first.began < hold.began)
            .or(Some(hold));
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

    #[test]
    fn holders_that_are_recorded_late_are_in_the_order_of_their_tokens() {
        let story = Story::new();
        let asked = story.recorder.now();
        let looked = story.recorder.now();
        // The second one is faster to write down what it got after the first one.
        let second = story.recorder.held_since(ClientId(2), "/lock", 7, asked);
        let first = story.recorder.held_since(ClientId(1), "/lock", 5, asked);
        story.recorder.still_held_at(first, looked);
        story.recorder.released(first);
        story.recorder.still_held(second);
        story.passes(check);
        // But it had the lock when this one asked for it.
        let asked = story.recorder.now();
        story.recorder.held_since(ClientId(3), "/lock", 6, asked);
        story.breaks(check, TOKENS_GROW, &["client 2", "client 3"]);
    }
}

//! After the last fault the cluster serves again, within a bounded time.

use super::Violation;
use crate::testing::history::History;

/// Nothing was written in time after the last fault.
pub const NO_RECOVERY: &str = "the cluster doesn't serve after it was healed";
/// A call was not answered in time, though nothing was wrong any more.
pub const UNANSWERED: &str = "a call is not answered though the cluster is healed";

/// Judges the history: see the module's text. It judges nothing where the faults were not healed, or
/// the history ends before [`crate::testing::history::Bounds::recovery`] has passed since then.
///
/// # Errors
/// [`NO_RECOVERY`], [`UNANSWERED`].
pub fn check(history: &History) -> Result<(), Violation> {
    let Some(healed) = history.healed() else {
        return Ok(());
    };
    let bound = history.bounds.recovery;
    let due = healed.at + bound;
    if history.ended.at < due {
        return Ok(());
    }
    let served = history.calls.iter().any(|call| {
        call.op.is_write()
            && (call.outcome.has_happened() || call.outcome.is_of_the_tree())
            && call
                .answered
                .is_some_and(|answered| answered > healed && answered.at <= due)
    });
    // Where no client has a node any more to write by, the end of a session is a write, too.
    let mut ends = history.session_ends.iter();
    let ended = ends.any(|end| end.at > healed && end.at.at <= due);
    if !served && !ended {
        let lines = [
            format!("healed at {healed}, and no write was answered within {bound:?}"),
            format!("the history ends at {}", history.ended),
        ];
        return Err(Violation::new(NO_RECOVERY, lines));
    }
    for call in &history.calls {
        let attachment = history.attachment(call.attachment);
        let due = call.called.max(healed).at + bound;
        let late = match call.answered {
            Some(answered) => answered.at > due,
            // Of a node that is gone nobody waits for answers.
            None => history.ended.at > due && attachment.ended.is_none(),
        };
        if late {
            return Err(Violation::new(UNANSWERED, [history.describe(call)]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::history::{AttachmentEnd, Op, PhaseKind};
    use crate::testing::oracle::story::*;

    fn faulty() -> (Story, crate::testing::history::AttachmentId) {
        let mut story = Story::new();
        let one = story.session(1);
        story.recorder.phase(PhaseKind::Faulty);
        story.did(one, set("/r", "a"), stat(1, 2));
        (story, one)
    }

    #[test]
    fn a_cluster_that_serves_soon_after_is_fine() {
        let (story, one) = faulty();
        let waits = story.call(one, Op::get("/r"));
        story.recorder.phase(PhaseKind::Healed);
        story.wait_ms(20_000);
        story.answer(waits, data("a", 1, 2));
        story.did(one, set("/r", "b"), stat(2, 3));
        story.wait_ms(50_000);
        story.passes(check);
    }

    #[test]
    fn a_cluster_that_serves_no_more_is_found() {
        let (story, one) = faulty();
        story.recorder.phase(PhaseKind::Healed);
        story.wait_ms(59_000);
        story.passes(check);
        story.wait_ms(2_000);
        story.did(one, set("/r", "b"), stat(2, 3));
        story.breaks(check, NO_RECOVERY, &["healed at 0.000000s"]);
    }

    #[test]
    fn a_cluster_that_ends_a_session_in_time_serves() {
        // Whose node is gone gets no answer, though the cluster writes on.
        let ends = |after_ms| {
            let (story, one) = faulty();
            story.recorder.phase(PhaseKind::Healed);
            story.call(one, set("/r", "b"));
            story.recorder.ended(one, AttachmentEnd::Crashed);
            story.wait_ms(after_ms);
            story.recorder.session_ended(crate::SessionId(1), None);
            story.wait_ms(61_000);
            story
        };
        ends(4_000).passes(check);
        ends(61_000).breaks(check, NO_RECOVERY, &["healed at 0.000000s"]);
    }

    #[test]
    fn a_call_that_is_forgotten_is_found() {
        let (story, one) = faulty();
        story.call(one, Op::get("/r"));
        story.recorder.phase(PhaseKind::Healed);
        story.did(one, set("/r", "b"), stat(2, 3));
        story.wait_ms(61_000);
        story.breaks(check, UNANSWERED, &["call 1"]);
        // Unless its node is gone.
        story.recorder.ended(one, AttachmentEnd::Crashed);
        story.passes(check);
    }

    #[test]
    fn a_call_that_is_answered_too_late_is_found() {
        let (story, one) = faulty();
        story.recorder.phase(PhaseKind::Healed);
        story.did(one, set("/r", "b"), stat(2, 3));
        let late = story.call(one, Op::get("/r"));
        story.wait_ms(61_000);
        story.answer(late, data("b", 2, 3));
        story.breaks(check, UNANSWERED, &["call 2"]);
    }
}

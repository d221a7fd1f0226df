//! Sessions are never expired early, never believed in after their end, and gone some time after their
//! nodes; their ephemerals vanish with them, and never without them.
//!
//! Whoever deletes what recorded calls have made must be recorded too. Judged by when replicas have
//! applied the ends of sessions ([`History::session_ends`]).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::ids::{SessionId, Zxid};
use crate::node::SessionState;
use crate::op::EventKind;
use crate::testing::history::{
    Answer, Attachment, AttachmentEnd, Call, Change, History, Op, Outcome, SessionEnd,
};

/// A session was ended before its timeout has passed since the cluster heard of it.
pub const EARLY: &str = "a session has expired early";
/// A node was certain of a session that the cluster had ended.
pub const CERTAIN: &str = "a session is believed in after its end";
/// A session is still there long after its node has gone.
pub const IMMORTAL: &str = "a session has outlived its timeout";
/// An ephemeral has outlived its session.
pub const EPHEMERAL_LEFT: &str = "an ephemeral has outlived its session";
/// An ephemeral has vanished though its session lives and nobody deleted it.
pub const EPHEMERAL_GONE: &str = "an ephemeral has vanished before its session";

/// Judges the history: see the module's text.
///
/// # Errors
/// [`EARLY`], [`CERTAIN`], [`IMMORTAL`], [`EPHEMERAL_LEFT`], [`EPHEMERAL_GONE`].
pub fn check(history: &History) -> Result<(), Violation> {
    let ends: BTreeMap<SessionId, &SessionEnd> = history
        .session_ends
        .iter()
        .map(|end| (end.session, end))
        .collect();
    for end in ends.values() {
        not_early(history, end)?;
        not_believed_in(history, end)?;
    }
    for attachment in &history.attachments {
        if !ends.contains_key(&attachment.session) {
            not_immortal(history, attachment)?;
        }
    }
    ephemerals(history, &ends)
}

fn attachments(history: &History, session: SessionId) -> impl Iterator<Item = &Attachment> {
    let all = history.attachments.iter();
    all.filter(move |attachment| attachment.session == session)
}

fn calls(history: &History, session: SessionId) -> impl Iterator<Item = &Call> {
    let all = history.calls.iter();
    all.filter(move |call| history.session_of(call) == session)
}

/// Its timeout, less what the clock of the leader may be too fast.
fn least(history: &History, timeout: Duration) -> Duration {
    match history.bounds.clock_drift_divisor {
        0 => timeout,
        divisor => timeout - timeout / divisor,
    }
}

/// The cluster has heard of a session when it was attached, and about when it has written if the history's
/// bounds say so. It can't expire it before its timeout has passed since then.
fn not_early(history: &History, end: &SessionEnd) -> Result<(), Violation> {
    let closes = calls(history, end.session).any(|call| {
        call.op == Op::Close && call.called < end.at && !matches!(call.outcome, Outcome::Failed(_))
    });
    // Whose handle was dropped, or had called itself lost before, is closed by its own node.
    let given_up = attachments(history, end.session).any(|attachment| {
        matches!(
            attachment.ended,
            Some((at, AttachmentEnd::Dropped | AttachmentEnd::Told(SessionState::Lost))) if at < end.at
        )
    });
    if closes || given_up {
        return Ok(());
    }
    // Whoever attaches it may ask for a shorter one.
    let timeouts = attachments(history, end.session).map(|attachment| attachment.timeout);
    let shortest = timeouts.min().unwrap_or_default();
    for attachment in attachments(history, end.session) {
        let writes = calls(history, end.session).filter(|call| {
            call.attachment == attachment.id
                && call.op.is_write()
                && (call.outcome.has_happened() || call.outcome.is_of_the_tree())
                && call.answered.is_some_and(|answered| answered < end.at)
        });
        let lag = history.bounds.touched_before_write;
        let heard = writes.filter_map(|call| {
            let at = call.called.at.saturating_sub(lag?);
            Some((at, history.describe(call)))
        });
        let opened = (
            attachment.called.at,
            format!("{} is attached on node {}", end.session, attachment.node),
        );
        let heard = heard.chain([opened]).max_by_key(|(at, _)| *at);
        let (at, what) = heard.expect("there is one at least");
        let due = at + least(history, shortest);
        if end.at.at < due {
            let ended = format!(
                "session {} was ended at {}, not before {:?} expected",
                end.session, end.at, due
            );
            return Err(Violation::new(EARLY, [what, ended]));
        }
    }
    not_early_for_the_latest(history, end)
}

/// What was attached last has at least the timeout that it was granted.
fn not_early_for_the_latest(history: &History, end: &SessionEnd) -> Result<(), Violation> {
    let before = attachments(history, end.session).filter(|one| one.called < end.at);
    let Some(latest) = before.max_by_key(|attachment| attachment.number) else {
        return Ok(());
    };
    let due = latest.called.at + least(history, latest.timeout);
    if end.at.at >= due {
        return Ok(());
    }
    let lines = [
        format!("{} is attached on node {}", end.session, latest.node),
        format!(
            "its timeout is {:?}, and it was ended at {}",
            latest.timeout, end.at
        ),
    ];
    Err(Violation::new(EARLY, lines))
}

fn not_believed_in(history: &History, end: &SessionEnd) -> Result<(), Violation> {
    for attachment in attachments(history, end.session) {
        if let Some(certain) = attachment.certain.filter(|certain| *certain > end.at) {
            let lines = [
                format!("session {} was ended at {}", end.session, end.at),
                format!("node {} was certain of it at {certain}", attachment.node),
            ];
            return Err(Violation::new(CERTAIN, lines));
        }
    }
    Ok(())
}

/// Whoever is not heard from any more is expired, once the cluster is well.
fn not_immortal(history: &History, attachment: &Attachment) -> Result<(), Violation> {
    // Only where the ends of sessions are recorded at all.
    let (Some(healed), Some((ended, how))) = (history.healed(), attachment.ended) else {
        return Ok(());
    };
    // It may live on elsewhere.
    let attached_again =
        attachments(history, attachment.session).any(|later| later.id.0 > attachment.id.0);
    if !history.recorded.session_ends || how == AttachmentEnd::Reattached || attached_again {
        return Ok(());
    }
    let drift = attachment.timeout - least(history, attachment.timeout);
    let patience = attachment.timeout + drift + history.bounds.expiry;
    if ended.max(healed).at + patience < history.ended.at {
        let lines = [
            format!(
                "session {} on node {} ended for its client at {ended}: {how:?}",
                attachment.session, attachment.node
            ),
            format!(
                "the history ends at {}, and it is still there",
                history.ended
            ),
        ];
        return Err(Violation::new(IMMORTAL, lines));
    }
    Ok(())
}

fn ephemerals(history: &History, ends: &BTreeMap<SessionId, &SessionEnd>) -> Result<(), Violation> {
    let mut owned: BTreeMap<&str, &Change> = BTreeMap::new();
    for change in &history.changes {
        match change.kind {
            EventKind::NodeCreated if change.owner != SessionId::NONE => {
                // Whoever has ended creates nothing.
                if let Some(end) = ends.get(&change.owner)
                    && end.zxid.is_some_and(|zxid| zxid < change.zxid)
                {
                    return Err(Violation::new(EPHEMERAL_LEFT, lines(change, end, None)));
                }
                owned.insert(&change.path, change);
            }
            EventKind::NodeDeleted => {
                let Some(made) = owned.remove(&change.path[..]) else {
                    continue;
                };
                let with_its_session = ends
                    .get(&made.owner)
                    .is_some_and(|end| end.zxid.is_none_or(|zxid| zxid == change.zxid));
                let known = is_recorded(history, &made.path);
                if known && !with_its_session && !may_be_deleted(history, &change.path) {
                    let lines = [
                        format!(
                            "{} of session {} made by zxid {}",
                            made.path, made.owner, made.zxid
                        ),
                        format!("deleted by zxid {} at {}", change.zxid, change.applied),
                    ];
                    return Err(Violation::new(EPHEMERAL_GONE, lines));
                }
            }
            _ => {}
        }
    }
    // What is left belongs to sessions that live, or whose end was not applied with it.
    for (_, made) in owned {
        let Some(end) = ends.get(&made.owner) else {
            continue;
        };
        let later: Option<Zxid> = history.changes.last().map(|change| change.zxid);
        return Err(Violation::new(EPHEMERAL_LEFT, lines(made, end, later)));
    }
    for (path, znode) in history.tree.iter().flatten() {
        if let Some(end) = ends.get(&znode.stat.ephemeral_owner) {
            let lines = [
                format!("session {} was ended at {}", end.session, end.at),
                format!("{path} of it is there at the end"),
            ];
            return Err(Violation::new(EPHEMERAL_LEFT, lines));
        }
    }
    Ok(())
}

fn lines(made: &Change, end: &SessionEnd, later: Option<Zxid>) -> [String; 2] {
    let ended = end
        .zxid
        .map_or(String::new(), |zxid| format!(", by zxid {zxid}"));
    let later = later.map_or(String::new(), |zxid| {
        format!(", and there after zxid {zxid}")
    });
    [
        format!("session {} was ended at {}{ended}", end.session, end.at),
        format!("{} of it was made by zxid {}{later}", made.path, made.zxid),
    ]
}

/// Whether the znode was made by a recorded call. What a recipe makes by itself it may delete by itself.
fn is_recorded(history: &History, path: &str) -> bool {
    let mut calls = history.calls.iter();
    calls.any(|call| match call.answer() {
        Some(Answer::Created { path: made, .. }) => made == path,
        Some(Answer::Multi(answers)) => answers
            .iter()
            .any(|answer| matches!(answer, Answer::Created { path: made, .. } if made == path)),
        _ => false,
    })
}

fn may_be_deleted(history: &History, path: &str) -> bool {
    let mut calls = history.calls.iter();
    calls.any(|call| {
        !matches!(call.outcome, Outcome::Failed(_))
            && call
                .op
                .parts()
                .iter()
                .any(|op| matches!(op, Op::Delete { path: deleted, .. } if deleted == path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CreateMode;
    use crate::ids::Version;
    use crate::testing::history::{AttachmentId, Bounds, FinalZnode, PhaseKind};
    use crate::testing::oracle::story::*;

    const ONE: SessionId = SessionId(1);

    fn session() -> (Story, AttachmentId) {
        let mut story = Story::new();
        let one = story.session(1);
        (story, one)
    }

    fn make_ephemeral(story: &Story, zxid: u64) {
        let change = Change::new(Zxid(zxid), EventKind::NodeCreated, "/e", ONE);
        story.recorder.applied(node(1), [change]);
    }

    #[test]
    fn a_session_that_expires_after_its_timeout_is_fine() {
        let (story, one) = session();
        story.wait_ms(1_000);
        story.did(one, set("/a", ""), stat(1, 2));
        story.wait_ms(4_000);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);
    }

    #[test]
    fn an_early_expiry_is_found() {
        let (story, one) = session();
        let bounds = Bounds {
            touched_before_write: Some(std::time::Duration::ZERO),
            ..Bounds::default()
        };
        story.recorder.set_bounds(bounds);
        story.wait_ms(3_000);
        story.did(one, set("/a", ""), stat(1, 2));
        story.wait_ms(3_999);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.breaks(check, EARLY, &["session 0x1", "call 0"]);
    }

    #[test]
    fn an_expiry_right_after_it_was_opened_is_found() {
        let (story, _) = session();
        story.wait_ms(3_999);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.breaks(check, EARLY, &["attached on node 1"]);
    }

    #[test]
    fn a_write_proves_no_touch_unless_the_bounds_say_so() {
        let (story, one) = session();
        story.wait_ms(3_000);
        story.did(one, set("/a", ""), stat(1, 2));
        story.wait_ms(1_500);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);
    }

    #[test]
    fn an_expiry_right_after_it_was_attached_elsewhere_is_found() {
        let (story, _) = session();
        story.wait_ms(3_900);
        story.attach(ONE, 2, 1);
        story.wait_ms(200);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.breaks(check, EARLY, &["attached on node 2"]);
    }

    #[test]
    fn an_attachment_with_a_shorter_timeout_may_expire_by_it() {
        let (story, _) = session();
        let (client, called) = (crate::testing::history::ClientId(1), story.recorder.now());
        let second = std::time::Duration::from_secs(1);
        story
            .recorder
            .attached(client, node(2), called, (ONE, 1), second);
        story.wait_ms(1_000);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);
    }

    #[test]
    fn an_attachment_with_a_longer_timeout_does_not_expire_by_the_one_before() {
        let (story, _) = session();
        let (client, called) = (crate::testing::history::ClientId(1), story.recorder.now());
        let longer = std::time::Duration::from_secs(8);
        story
            .recorder
            .attached(client, node(2), called, (ONE, 1), longer);
        story.wait_ms(5_000);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.breaks(check, EARLY, &["attached on node 2", "8s"]);
    }

    #[test]
    fn the_only_session_that_never_expires_is_found() {
        let (story, one) = session();
        story.recorder.phase(PhaseKind::Healed);
        story.recorder.ended(one, AttachmentEnd::Crashed);
        story.wait_ms(15_000);
        // Nobody said that ends are recorded.
        story.passes(check);
        story.recorder.records_session_ends();
        story.breaks(check, IMMORTAL, &["session 0x1"]);
    }

    #[test]
    fn a_node_that_was_certain_before_the_end_may_be_heard_of_later() {
        let (story, one) = session();
        story.wait_ms(5_000);
        let looked = story.recorder.now();
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.recorder.certain_at(one, looked);
        story.passes(check);
    }

    #[test]
    fn a_clock_that_drifts_makes_it_a_little_earlier() {
        let (story, _) = session();
        let bounds = Bounds {
            clock_drift_divisor: 16,
            ..Bounds::default()
        };
        story.recorder.set_bounds(bounds);
        story.wait_ms(3_800);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);
    }

    #[test]
    fn a_session_that_its_client_closes_may_end_at_once() {
        let (story, one) = session();
        let close = story.call(one, Op::Close);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.answer(close, ());
        story.passes(check);

        let (story, one) = session();
        story.recorder.ended(one, AttachmentEnd::Dropped);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);

        let (story, one) = session();
        story.recorder.state(one, crate::SessionState::Lost);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);
    }

    #[test]
    fn a_session_that_is_certain_after_its_end_is_found() {
        let (story, one) = session();
        story.wait_ms(5_000);
        story.recorder.certain(one);
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.passes(check);
        story.recorder.certain(one);
        story.breaks(check, CERTAIN, &["node 1"]);
    }

    #[test]
    fn a_session_that_never_expires_is_found() {
        let (mut story, one) = session();
        let second = story.session(2);
        story.recorder.phase(PhaseKind::Healed);
        story.recorder.ended(one, AttachmentEnd::Crashed);
        story.did(second, Op::Close, ());
        story.recorder.session_ended(SessionId(2), None);
        story.wait_ms(13_000);
        story.passes(check);
        story.wait_ms(2_000);
        story.breaks(check, IMMORTAL, &["session 0x1"]);
    }

    #[test]
    fn an_ephemeral_that_outlives_its_session_is_found() {
        let (story, one) = session();
        make_ephemeral(&story, 2);
        story.did(one, Op::Close, ());
        story.recorder.session_ended(ONE, Some(Zxid(3)));
        story.breaks(check, EPHEMERAL_LEFT, &["/e"]);
        story.change(3, EventKind::NodeDeleted, "/e");
        story.passes(check);

        let left = crate::Stat {
            ephemeral_owner: ONE,
            ..stat(0, 2)
        };
        let tree = [("/e".to_string(), FinalZnode::new("", left))];
        story.recorder.tree(tree);
        story.breaks(check, EPHEMERAL_LEFT, &["/e", "at the end"]);
    }

    #[test]
    fn an_ephemeral_that_is_made_after_the_end_of_its_session_is_found() {
        // ZOOKEEPER-4837 and its like: a session's write that is applied behind its end.
        let (story, one) = session();
        story.did(one, Op::Close, ());
        story.recorder.session_ended(ONE, Some(Zxid(2)));
        make_ephemeral(&story, 3);
        story.breaks(check, EPHEMERAL_LEFT, &["/e", "zxid 3"]);
    }

    #[test]
    fn an_ephemeral_that_vanishes_by_itself_is_found() {
        let (story, one) = session();
        story.did(
            one,
            Op::create("/e", "", CreateMode::Ephemeral),
            created("/e", 2),
        );
        make_ephemeral(&story, 2);
        story.change(3, EventKind::NodeDeleted, "/e");
        story.breaks(check, EPHEMERAL_GONE, &["/e", "zxid 3"]);
        story.did(one, Op::delete("/e", Version::ANY), ());
        story.passes(check);

        // What was made by nobody who was recorded may be deleted by such, too.
        let (story, _) = session();
        make_ephemeral(&story, 2);
        story.change(3, EventKind::NodeDeleted, "/e");
        story.passes(check);
    }
}

//! Sessions that see what they were promised, and sessions that don't.

use super::*;
use crate::op::EventKind;
use crate::testing::history::AttachmentId;
use crate::testing::oracle::story::*;

/// `/r` is created by zxid 1 and set by 2 and 3, by another session; the second session reads.
fn register(changes: bool) -> (Story, AttachmentId) {
    let mut story = Story::new();
    let (writer, reader) = (story.session(1), story.session(2));
    story.did(writer, create("/r", "0"), created("/r", 1));
    story.did(writer, set("/r", "a"), stat(1, 2));
    story.did(writer, set("/r", "b"), stat(2, 3));
    if changes {
        story.change(1, EventKind::NodeCreated, "/r");
        story.change(2, EventKind::NodeDataChanged, "/r");
        story.change(3, EventKind::NodeDataChanged, "/r");
    }
    (story, reader)
}

#[test]
fn reads_may_lag_behind_others_but_go_forward() {
    for changes in [false, true] {
        let (story, reader) = register(changes);
        story.did(reader, Op::get("/r"), data("0", 0, 1));
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        story.passes(check);
    }
}

#[test]
fn a_read_that_goes_back_is_found() {
    for changes in [false, true] {
        let (story, reader) = register(changes);
        story.did(reader, Op::get("/r"), data("a", 1, 2));
        story.did(reader, Op::get("/r"), data("0", 0, 1));
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
    }
}

#[test]
fn a_read_of_one_znode_that_is_older_than_what_another_has_shown_is_found() {
    let (story, reader) = register(true);
    story.did(AttachmentId(0), create("/s", ""), created("/s", 4));
    story.change(4, EventKind::NodeCreated, "/s");
    story.did(reader, Op::exists("/s"), Answer::Exists(Some(stat(0, 4))));
    story.did(reader, Op::get("/r"), data("a", 1, 2));
    story.breaks(check, WENT_BACK, &["call 4", "call 5", "/r changed at 3"]);
}

#[test]
fn a_session_that_misses_its_own_write_is_found() {
    for changes in [false, true] {
        let (story, reader) = register(changes);
        story.did(reader, set("/r", "mine"), stat(3, 4));
        if changes {
            story.change(4, EventKind::NodeDataChanged, "/r");
        }
        story.did(reader, Op::get("/r"), data("b", 2, 3));
        story.breaks(check, WENT_BACK, &["\"mine\"", "call 4"]);
    }
}

#[test]
fn a_pipelined_read_misses_nothing_before_it_and_sees_nothing_after_it() {
    let pipelined = |answer: Answer| {
        let (story, reader) = register(true);
        let first = story.call(reader, set("/r", "c"));
        let read = story.call(reader, Op::get("/r"));
        let second = story.call(reader, set("/r", "d"));
        story.change(4, EventKind::NodeDataChanged, "/r");
        story.change(5, EventKind::NodeDataChanged, "/r");
        story.answer(first, stat(3, 4));
        story.answer(read, answer);
        story.answer(second, stat(4, 5));
        story
    };
    pipelined(data("c", 3, 4)).passes(check);
    pipelined(data("b", 2, 3)).breaks(check, WENT_BACK, &["call 3", "call 4"]);
    pipelined(data("d", 4, 5)).breaks(check, SEES_LATER, &["call 4", "call 5"]);
}

#[test]
fn writes_of_a_session_that_are_out_of_order_are_found() {
    let (story, reader) = register(true);
    let first = story.call(reader, set("/r", "c"));
    let second = story.call(reader, set("/r", "d"));
    story.answer(first, stat(4, 5));
    story.answer(second, stat(3, 4));
    story.breaks(check, WRITES_REORDERED, &["call 3", "call 4"]);
}

#[test]
fn a_session_that_moves_takes_what_it_has_seen_along() {
    let (story, reader) = register(true);
    story.did(reader, Op::get("/r"), data("b", 2, 3));
    let moved = story.attach(crate::SessionId(2), 3, 1);
    story.did(moved, Op::get("/r"), data("a", 1, 2));
    story.breaks(check, WENT_BACK, &["call 3", "call 4", "node 3"]);
}

#[test]
fn whoever_is_told_of_a_change_reads_it() {
    let (story, reader) = register(true);
    let watcher = story.recorder.watcher(reader);
    story.receive(watcher, 3, EventKind::NodeDataChanged, "/r");
    story.did(reader, Op::get("/r"), data("a", 1, 2));
    story.breaks(check, WENT_BACK, &["watcher 0", "call 3"]);
}

#[test]
fn what_is_gone_stays_gone_until_it_is_made_again() {
    let (story, reader) = register(true);
    story.change(4, EventKind::NodeDeleted, "/r");
    story.did(reader, Op::exists("/r"), Answer::Exists(None));
    story.passes(check);
    story.did(reader, Op::get("/r"), data("b", 2, 3));
    // That it was missing before it was made explains the first read, not the second.
    story.passes(check);
    story.did(reader, Op::exists("/r"), Answer::Exists(None));
    story.did(reader, Op::get("/r"), data("b", 2, 3));
    story.breaks(check, WENT_BACK, &["call 5", "call 6"]);
}

#[test]
fn a_listing_that_goes_back_is_found() {
    let (story, reader) = register(true);
    story.change(4, EventKind::NodeCreated, "/r/x");
    story.change(5, EventKind::NodeCreated, "/r/y");
    story.did(reader, Op::children("/r"), names(&["x", "y"], 5));
    story.did(reader, Op::children("/r"), names(&["x"], 4));
    story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
}

#[test]
fn data_that_nobody_wrote_is_found() {
    let (story, reader) = register(false);
    story.did(reader, Op::get("/r"), data("b", 1, 2));
    story.breaks(check, INVENTED, &["call 3", "call 1"]);

    let (story, reader) = register(false);
    story.did(reader, Op::get("/r"), data("z", 3, 4));
    story.breaks(check, INVENTED, &["call 3"]);

    let (story, reader) = register(true);
    let failed = story.call(reader, set("/r", "z"));
    story.unknown(failed);
    story.did(reader, Op::get("/r"), data("z", 3, 4));
    story.breaks(check, INVENTED, &["call 4"]);
}

/// `/a` is created by zxid 1 and deleted, both by the same session, which then reads.
fn deleted(changes: bool) -> (Story, AttachmentId) {
    let mut story = Story::new();
    let one = story.session(1);
    story.did(one, create("/a", "0"), created("/a", 1));
    let delete = story.call(one, Op::delete("/a", crate::Version::ANY));
    if changes {
        story.change(1, EventKind::NodeCreated, "/a");
        story.change(2, EventKind::NodeDeleted, "/a");
    }
    story.answer(delete, ());
    (story, one)
}

#[test]
fn what_a_session_has_deleted_is_gone_for_it() {
    for changes in [false, true] {
        let (story, one) = deleted(changes);
        story.did(one, Op::exists("/a"), Answer::Exists(None));
        story.passes(check);
        let (story, one) = deleted(changes);
        story.did(one, Op::get("/a"), data("0", 0, 1));
        story.breaks(check, WENT_BACK, &["call 1", "call 2"]);
        // Made again by somebody else, it is another one.
        let (mut story, one) = deleted(changes);
        let two = story.session(2);
        story.did(two, create("/a", "0"), created("/a", 3));
        if changes {
            story.change(3, EventKind::NodeCreated, "/a");
        }
        story.did(one, Op::get("/a"), born(3, data("0", 0, 3)));
        story.passes(check);
    }
}

#[test]
fn a_delete_in_a_multi_and_pipelined_is_one_of_the_sessions_writes() {
    let pipelined = |answer: Answer| {
        let (story, reader) = register(true);
        let read = story.call(reader, Op::exists("/r"));
        let multi = Op::Multi(vec![Op::delete("/r", crate::Version::ANY)]);
        let delete = story.call(reader, multi);
        story.change(4, EventKind::NodeDeleted, "/r");
        story.answer(read, answer);
        story.answer(delete, Answer::Multi(vec![Answer::Done]));
        story
    };
    pipelined(Answer::Exists(Some(stat(2, 3)))).passes(check);
    // It was missing before it was made, too.
    pipelined(Answer::Exists(None)).passes(check);
    let (story, reader) = register(true);
    story.did(reader, Op::get("/r"), data("b", 2, 3));
    let read = story.call(reader, Op::exists("/r"));
    let delete = story.call(reader, Op::delete("/r", crate::Version::ANY));
    story.change(4, EventKind::NodeDeleted, "/r");
    story.answer(read, Answer::Exists(None));
    story.answer(delete, ());
    story.breaks(check, SEES_LATER, &["call 4", "call 5"]);
}

#[test]
fn a_delete_older_than_what_its_session_has_seen_is_found() {
    // What the session was told before it called the delete is newer than any that was made meanwhile.
    let (story, reader) = register(true);
    let watcher = story.recorder.watcher(reader);
    story.receive(watcher, 5, EventKind::NodeDataChanged, "/other");
    let delete = story.call(reader, Op::delete("/r", crate::Version::ANY));
    story.change(4, EventKind::NodeDeleted, "/r");
    story.answer(delete, ());
    story.breaks(check, WENT_BACK, &["watcher 0", "call 3"]);
}

#[test]
fn of_several_deletions_the_session_may_have_made_any() {
    // It was told of what came after the first one before it called its own.
    let (story, reader) = register(true);
    let watcher = story.recorder.watcher(reader);
    story.receive(watcher, 5, EventKind::NodeCreated, "/r");
    let delete = story.call(reader, Op::delete("/r", crate::Version::ANY));
    story.change(4, EventKind::NodeDeleted, "/r");
    story.change(5, EventKind::NodeCreated, "/r");
    story.change(6, EventKind::NodeDeleted, "/r");
    story.answer(delete, ());
    story.passes(check);
    story.did(
        reader,
        Op::exists("/r"),
        born(5, Answer::Exists(Some(stat(0, 5)))),
    );
    story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
}

#[test]
fn each_part_of_a_multi_read_is_a_read() {
    for changes in [false, true] {
        let read = |answer: Answer| {
            let (story, reader) = register(changes);
            story.did(reader, Op::get("/r"), data("b", 2, 3));
            let op = Op::MultiRead(vec![Op::get("/r")]);
            story.did(reader, op, Answer::Multi(vec![answer]));
            story
        };
        read(data("b", 2, 3)).passes(check);
        read(data("a", 1, 2)).breaks(check, WENT_BACK, &["call 3", "call 4"]);
        let missing = crate::Error::NoNode { path: "/r".into() };
        read(Answer::Refused(missing)).breaks(check, WENT_BACK, &["call 3", "call 4"]);
        read(data("z", 2, 3)).breaks(check, INVENTED, &["call 4", "call 2"]);
    }
    // And what it shows is known from then on.
    let (story, reader) = register(false);
    let op = Op::MultiRead(vec![Op::get("/r")]);
    story.did(reader, op, Answer::Multi(vec![data("b", 2, 3)]));
    story.did(reader, Op::get("/r"), data("a", 1, 2));
    story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
}

#[test]
fn what_nobody_can_have_deleted_does_not_vanish() {
    for changes in [false, true] {
        let (story, reader) = register(changes);
        story.did(reader, create("/s", ""), created("/s", 4));
        if changes {
            story.change(4, EventKind::NodeCreated, "/s");
        }
        story.did(reader, Op::exists("/s"), Answer::Exists(None));
        story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
    }
    // Somebody may have deleted it, or its session's end.
    let (story, reader) = register(false);
    story.did(reader, create("/s", ""), created("/s", 4));
    story.call(AttachmentId(0), Op::delete("/s", crate::Version::ANY));
    story.did(reader, Op::exists("/s"), Answer::Exists(None));
    story.passes(check);
    let (story, reader) = register(false);
    let ephemeral = Op::create("/s", "", crate::CreateMode::Ephemeral);
    story.did(reader, ephemeral, created("/s", 4));
    story.did(reader, Op::exists("/s"), Answer::Exists(None));
    story.passes(check);
}

#[test]
fn what_was_missing_is_not_there_from_before() {
    let (story, reader) = register(false);
    story.did(AttachmentId(0), Op::delete("/r", crate::Version::ANY), ());
    story.did(reader, create("/s", ""), created("/s", 5));
    story.did(reader, Op::exists("/r"), Answer::Exists(None));
    story.passes(check);
    story.did(reader, Op::get("/r"), data("b", 2, 3));
    story.breaks(check, WENT_BACK, &["call 5", "call 6"]);
}

#[test]
fn a_listing_that_goes_back_is_found_without_changes() {
    let (story, reader) = register(false);
    story.did(reader, Op::children("/r"), names(&["x", "y"], 5));
    story.did(reader, Op::children("/r"), names(&["x"], 4));
    story.breaks(check, WENT_BACK, &["call 3", "call 4"]);

    // Its own children are in it.
    let (story, reader) = register(false);
    story.did(reader, create("/r/x", ""), created("/r/x", 5));
    story.did(reader, Op::children("/r"), names(&[], 1));
    story.breaks(check, WENT_BACK, &["call 3", "call 4"]);
}

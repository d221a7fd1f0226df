//! Good histories pass, bad ones are found out, each for its own reason.

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::error::Error;
use crate::ids::{SessionId, Version, Zxid};
use crate::op::CreateMode;
use crate::testing::history::{
    Answer, AttachmentEnd, AttachmentId, CallId, ClientId, FinalZnode, Op, Outcome,
};
use crate::testing::oracle::story::*;

/// A register that holds "0", and two sessions.
fn register() -> (Story, AttachmentId, AttachmentId) {
    let mut story = Story::new();
    let (one, two) = (story.session(1), story.session(2));
    story.did(one, create("/r", "0"), created("/r", 1));
    (story, one, two)
}

#[test]
fn a_sequence_of_calls_is_explained() {
    let (story, one, two) = register();
    story.did(one, set("/r", "a"), stat(1, 2));
    story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
    story.did(two, set("/r", "b"), stat(2, 3));
    story.did_linearizable(one, Op::get("/r"), data("b", 2, 3));
    story.passes(check);
}

#[test]
fn concurrent_calls_may_happen_in_any_order() {
    let (story, one, two) = register();
    let first = story.call(one, set("/r", "a"));
    let second = story.call(two, set("/r", "b"));
    story.answer(first, stat(2, 3));
    story.answer(second, stat(1, 2));
    story.did_linearizable(one, Op::get("/r"), data("a", 2, 3));
    story.passes(check);
}

#[test]
fn a_stale_read_is_found() {
    let (story, one, two) = register();
    story.did(one, set("/r", "a"), stat(1, 2));
    story.did_linearizable(two, Op::get("/r"), data("0", 0, 1));
    story.breaks(
        check,
        NO_ORDER,
        &["call 2", "linearizable get /r", "/r holds \"a\""],
    );
}

#[test]
fn a_read_that_goes_back_after_another_has_seen_more_is_found() {
    // The write is not answered yet, but one read has shown it: so must the next.
    let (mut story, one, two) = register();
    let third = story.session(3);
    let write = story.call(one, set("/r", "a"));
    story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
    story.did_linearizable(third, Op::get("/r"), data("0", 0, 1));
    story.answer(write, stat(1, 2));
    story.breaks(check, NO_ORDER, &["call 3"]);
}

#[test]
fn a_read_of_what_was_never_written_is_found() {
    let (story, one, _) = register();
    story.did_linearizable(one, Op::get("/r"), data("a", 1, 2));
    story.breaks(check, NO_ORDER, &["call 1"]);
}

#[test]
fn a_lost_update_is_found() {
    // Both were told that they set version 0 to version 1 (Redis-Raft's split brain).
    let (story, one, two) = register();
    story.did(one, Op::set("/r", "a", Version(0)), stat(1, 2));
    story.did(two, Op::set("/r", "b", Version(0)), stat(1, 3));
    story.breaks(check, NO_ORDER, &["call 2", "set /r \"b\" if version 0"]);
}

#[test]
fn an_acknowledged_write_that_nobody_sees_later_is_found() {
    let (story, one, two) = register();
    story.did(one, set("/r", "a"), stat(1, 2));
    story.did_linearizable(two, Op::exists("/r"), Answer::Exists(Some(stat(0, 1))));
    story.breaks(check, NO_ORDER, &["exists /r"]);
}

#[test]
fn an_unknown_outcome_may_have_happened_or_not_and_at_any_time_later() {
    for seen in [("0", 0, 1), ("a", 1, 2)] {
        let (story, one, two) = register();
        let lost = story.call(one, set("/r", "a"));
        story.unknown(lost);
        story.did_linearizable(two, Op::get("/r"), data("0", 0, 1));
        story.did_linearizable(two, Op::get("/r"), data(seen.0, seen.1, seen.2));
        story.passes(check);
    }
}

#[test]
fn an_unknown_outcome_happens_once_at_most() {
    let (story, one, two) = register();
    let lost = story.call(one, set("/r", "a"));
    story.unknown(lost);
    story.did_linearizable(two, Op::get("/r"), data("a", 2, 3));
    story.breaks(check, NO_ORDER, &["call 2"]);
}

#[test]
fn what_did_not_happen_is_never_seen() {
    let (story, one, two) = register();
    let refused = story.call(one, set("/r", "a"));
    let (queue, limit) = ("requests", 8);
    story.refuse(refused, Error::Overloaded { queue, limit });
    story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
    story.breaks(check, NO_ORDER, &["call 2"]);
}

#[test]
fn a_refusal_must_be_true_at_some_moment_of_its_call() {
    let refusal = |found| Error::BadVersion {
        path: "/r".into(),
        expected: Version(5),
        found,
    };
    let (story, one, two) = register();
    let write = story.call(two, set("/r", "a"));
    let asked = story.call(one, Op::set("/r", "b", Version(5)));
    story.answer(write, stat(1, 2));
    story.refuse(asked, refusal(1));
    story.passes(check);

    let asked = story.call(one, Op::set("/r", "b", Version(5)));
    story.refuse(asked, refusal(0));
    story.breaks(check, NO_ORDER, &["call 3", "has version 0"]);
}

#[test]
fn the_writes_of_a_session_happen_in_the_order_of_their_calls() {
    let (story, one, _) = register();
    let first = story.call(one, set("/r", "a"));
    let second = story.call(one, set("/r", "b"));
    story.answer(second, stat(1, 2));
    story.answer(first, stat(2, 3));
    story.breaks(check, NO_ORDER, &["call 1"]);
}

#[test]
fn a_write_left_out_does_not_come_after_a_later_one_of_its_session() {
    let (story, one, two) = register();
    let lost = story.call(one, set("/r", "a"));
    story.did(one, set("/r", "b"), stat(1, 2));
    story.unknown(lost);
    story.did_linearizable(two, Op::get("/r"), data("a", 2, 3));
    story.breaks(check, NO_ORDER, &["call 3"]);
}

#[test]
fn a_linearizable_read_sees_its_sessions_earlier_writes() {
    let (story, one, _) = register();
    let write = story.call(one, set("/r", "a"));
    let read = story.recorder.call_linearizable(one, Op::get("/r"));
    story.answer(read, data("0", 0, 1));
    story.answer(write, stat(1, 2));
    story.breaks(check, NO_ORDER, &["call 2"]);
}

#[test]
fn sequential_creates_are_numbered_without_gaps_and_without_repetition() {
    let sequential = |data| Op::create("/q/x-", data, CreateMode::PersistentSequential);
    let mut story = Story::new();
    let (one, two) = (story.session(1), story.session(2));
    story.did(one, create("/q", ""), created("/q", 1));
    story.did(one, sequential("a"), created("/q/x-0000000000", 2));
    let lost = story.call(two, sequential("b"));
    story.unknown(lost);
    story.did(one, sequential("c"), created("/q/x-0000000002", 4));
    let listed = names(&["x-0000000000", "x-0000000001", "x-0000000002"], 4);
    story.did_linearizable(two, Op::children("/q"), listed);
    story.passes(check);

    // The one that nobody heard of can't have happened twice.
    story.did(one, sequential("d"), created("/q/x-0000000004", 6));
    story.breaks(check, NO_ORDER, &["x-0000000004"]);
}

#[test]
fn a_multi_happens_as_a_whole() {
    let transfer = |from, to| {
        Op::Multi(vec![
            Op::set("/bank/a", from, Version::ANY),
            Op::set("/bank/b", to, Version::ANY),
        ])
    };
    let mut story = Story::new();
    let (one, two) = (story.session(1), story.session(2));
    story.did(one, create("/bank", ""), created("/bank", 1));
    story.did(one, create("/bank/a", "10"), created("/bank/a", 2));
    story.did(one, create("/bank/b", "0"), created("/bank/b", 3));
    let call = story.call(one, transfer("4", "6"));
    story.did_linearizable(two, Op::get("/bank/a"), born(2, data("4", 1, 4)));
    let torn = story.recorder.call_linearizable(two, Op::get("/bank/b"));
    let done = [2, 3].map(|czxid| born(czxid, Answer::Set(stat(1, 4))));
    story.answer(call, Answer::Multi(done.to_vec()));
    let whole = story.history();
    story.answer(torn, born(3, data("6", 1, 4)));
    story.passes(check);
    assert!(whole.calls.len() > 4);

    story.did_linearizable(two, Op::get("/bank/b"), born(3, data("0", 0, 3)));
    story.breaks(check, NO_ORDER, &["get /bank/b"]);
}

#[test]
fn half_a_multi_is_found() {
    let mut story = Story::new();
    let (one, two) = (story.session(1), story.session(2));
    story.did(one, create("/a", "10"), created("/a", 2));
    story.did(one, create("/b", "0"), created("/b", 3));
    let both = Op::Multi(vec![
        Op::set("/a", "4", Version::ANY),
        Op::set("/b", "6", Version::ANY),
    ]);
    let call = story.call(one, both);
    story.did_linearizable(two, Op::get("/a"), born(2, data("4", 1, 4)));
    story.did_linearizable(two, Op::get("/b"), born(3, data("0", 0, 3)));
    story.unknown(call);
    story.breaks(check, NO_ORDER, &["call 4", "get /b"]);
}

#[test]
fn ephemerals_vanish_with_their_session_and_not_without() {
    let ephemeral = Op::create("/e", "", CreateMode::Ephemeral);
    let gone = || Answer::Exists(None);
    let begin = || {
        let mut story = Story::new();
        let (one, two) = (story.session(1), story.session(2));
        let stat = crate::Stat {
            czxid: Zxid(1),
            mzxid: Zxid(1),
            ephemeral_owner: SessionId(1),
            ..Default::default()
        };
        let path = "/e".to_string();
        story.did(one, ephemeral.clone(), Answer::Created { path, stat });
        (story, one, two)
    };
    // Nobody has recorded the end: it may have been at any time.
    let (story, ..) = begin();
    story.did_linearizable(AttachmentId(1), Op::exists("/e"), gone());
    story.passes(check);

    // Recorded, it was not before it could be.
    let (story, one, two) = begin();
    story.did(one, Op::Close, ());
    story.did_linearizable(two, Op::exists("/e"), gone());
    story.passes(check);

    let (story, one, two) = begin();
    story.did_linearizable(two, Op::exists("/e"), gone());
    story.recorder.ended(one, AttachmentEnd::Dropped);
    story.did(one, Op::Close, ());
    story.breaks(check, NO_ORDER, &["exists /e"]);

    // And afterwards it is gone.
    let (story, _, two) = begin();
    story.recorder.session_ended(SessionId(1), Some(Zxid(2)));
    let there = crate::Stat {
        ephemeral_owner: SessionId(1),
        ..stat(0, 1)
    };
    story.did_linearizable(two, Op::exists("/e"), Answer::Exists(Some(there)));
    story.breaks(check, NO_ORDER, &["exists /e"]);
}

#[test]
fn a_session_may_be_over_before_its_client_has_heard_that_it_is_open() {
    // Its node stood still (seed 732 of the ephemerals): the end was taken for one that nothing could
    // precede, and a create that came too late for one that was possible.
    let story = |seen: Answer| {
        let mut story = Story::new();
        let two = story.session(2);
        let asked = story.recorder.now();
        story.wait_ms(1);
        story.recorder.session_ended(SessionId(9), Some(Zxid(1)));
        let late = (SessionId(9), 0);
        let one = story
            .recorder
            .attached(ClientId(9), node(1), asked, late, TIMEOUT);
        let call = story.call(one, Op::create("/e", "", CreateMode::Ephemeral));
        story.unknown(call);
        story.did_linearizable(two, Op::exists("/e"), seen);
        story
    };
    story(Answer::Exists(None)).passes(check);
    let there = crate::Stat {
        ephemeral_owner: SessionId(9),
        ..stat(0, 2)
    };
    story(Answer::Exists(Some(there))).breaks(check, NO_ORDER, &["exists /e"]);
}

#[test]
fn a_read_after_a_sync_is_not_older_than_the_sync() {
    // ZOOKEEPER-1675: `sync`, then a read that is still stale.
    let (story, one, two) = register();
    story.did(one, set("/r", "a"), stat(1, 2));
    story.did(two, Op::get("/r"), data("0", 0, 1));
    story.did(two, Op::Sync, ());
    story.did(two, Op::get("/r"), data("a", 1, 2));
    story.passes(check);

    let (story, one, two) = register();
    story.did(one, set("/r", "a"), stat(1, 2));
    story.did(two, Op::Sync, ());
    story.did(two, Op::get("/r"), data("0", 0, 1));
    story.breaks(check, NO_ORDER, &["call 3", "get /r"]);
}

#[test]
fn what_is_there_at_the_beginning_counts() {
    let mut story = Story::new();
    let one = story.session(1);
    let znode = FinalZnode::new("0", stat(3, 7));
    story.recorder.initial_tree([("/r".to_string(), znode)]);
    story.did(one, Op::set("/r", "a", Version(3)), stat(4, 9));
    story.passes(check);
}

#[test]
fn what_is_refused_is_not_there_at_the_end() {
    let (queue, limit) = ("requests", 8);
    let mut story = Story::new();
    let one = story.session(1);
    let refused = story.call(one, create("/r", "0"));
    story.refuse(refused, Error::Overloaded { queue, limit });
    ends(&story, None);
    story.passes(check);
    ends(&story, Some(left("0", 0, 1, 1)));
    story.breaks(
        check,
        NO_ORDER,
        &["/r holds \"0\" at the end", "/r doesn't exist"],
    );

    // Nor under a name that nobody was told.
    let mut story = Story::new();
    let one = story.session(1);
    story.did(one, create("/r", ""), created("/r", 1));
    let sequential = Op::create("/r/x-", "a", CreateMode::PersistentSequential);
    let refused = story.call(one, sequential);
    story.refuse(refused, Error::Overloaded { queue, limit });
    let r = ("/r".to_string(), left("", 0, 1, 1));
    let made = ("/r/x-0000000000".to_string(), left("a", 0, 2, 2));
    story.recorder.tree([r, made]);
    story.breaks(check, NO_ORDER, &["/r/x-0000000000 holds \"a\" at the end"]);
}

#[test]
fn the_tree_at_the_end_is_what_the_last_write_has_left() {
    let (story, one, _) = register();
    story.did(one, set("/r", "a"), stat(1, 2));
    ends(&story, Some(left("a", 1, 1, 2)));
    story.passes(check);
    for wrong in [left("b", 1, 1, 2), left("a", 2, 1, 2), left("0", 0, 1, 1)] {
        ends(&story, Some(wrong));
        story.breaks(check, NO_ORDER, &["/r holds \"a\""]);
    }
    let owner = SessionId(1);
    let mut owned = left("a", 1, 1, 2);
    owned.stat.ephemeral_owner = owner;
    ends(&story, Some(owned));
    story.breaks(check, NO_ORDER, &["at the end"]);
}

#[test]
fn what_was_made_again_is_there_at_the_end() {
    let (story, one, _) = register();
    story.did(one, Op::delete("/r", Version::ANY), ());
    ends(&story, None);
    story.passes(check);
    story.did(one, create("/r", "0"), created("/r", 3));
    ends(&story, Some(left("0", 0, 3, 3)));
    story.passes(check);
    ends(&story, None);
    story.breaks(check, NO_ORDER, &["/r is not there at the end"]);
}

#[test]
fn an_unknown_outcome_is_the_same_at_the_end_as_before() {
    let (story, one, two) = register();
    let lost = story.call(one, set("/r", "a"));
    story.unknown(lost);
    for left in [left("0", 0, 1, 1), left("a", 1, 1, 2)] {
        ends(&story, Some(left));
        story.passes(check);
    }
    story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
    ends(&story, Some(left("0", 0, 1, 1)));
    story.breaks(check, NO_ORDER, &["/r holds \"0\" at the end"]);
}

#[test]
fn a_znode_is_of_the_creation_that_it_names() {
    let (story, one, two) = register();
    story.did(one, Op::delete("/r", Version::ANY), ());
    story.did(one, create("/r", "0"), created("/r", 5));
    story.did_linearizable(two, Op::get("/r"), born(5, data("0", 0, 5)));
    story.passes(check);
    story.did_linearizable(two, Op::get("/r"), data("0", 0, 1));
    story.breaks(check, NO_ORDER, &["call 4", "created by 5"]);

    // Where nobody knows which zxid a creation had, any will do.
    let (story, one, two) = register();
    story.did(one, Op::delete("/r", Version::ANY), ());
    let unknown = story.call(one, create("/r", "0"));
    story.unknown(unknown);
    story.did_linearizable(two, Op::get("/r"), born(7, data("0", 0, 7)));
    story.passes(check);
}

/// A session has a write under way that is never answered, and then no more say there.
fn out_of_reach(cut_off: impl FnOnce(&Story, AttachmentId)) -> (Story, AttachmentId) {
    let (story, one, two) = register();
    story.call(one, set("/r", "a"));
    cut_off(&story, one);
    (story, two)
}

#[test]
fn an_unknown_write_happens_before_its_session_is_attached_again_or_ends_or_never() {
    type CutOff = fn(&Story, AttachmentId);
    let ways: [CutOff; 3] = [
        |story, _| {
            story.attach(SessionId(1), 2, 1);
        },
        |story, _| story.recorder.session_ended(SessionId(1), None),
        |story, one| {
            story.did(one, Op::Close, ());
        },
    ];
    for cut_off in ways {
        for seen in [data("0", 0, 1), data("a", 1, 2)] {
            let (story, two) = out_of_reach(cut_off);
            story.did_linearizable(two, Op::get("/r"), seen.clone());
            story.did_linearizable(two, Op::get("/r"), seen);
            story.passes(check);
        }
        let (story, two) = out_of_reach(cut_off);
        story.did_linearizable(two, Op::get("/r"), data("0", 0, 1));
        story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
        story.breaks(check, NO_ORDER, &["get /r -> \"a\""]);
    }
    // As long as it is attached there, it may still come.
    let (story, two) = out_of_reach(|_, _| {});
    story.did_linearizable(two, Op::get("/r"), data("0", 0, 1));
    story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
    story.passes(check);
}

#[test]
fn a_read_that_says_nothing_decides_nothing_of_a_write_that_can_happen_no_more() {
    // The first read fits before and after the write; that it is taken first must not rule it out.
    let (story, two) = out_of_reach(|story, _| {
        story.attach(SessionId(1), 2, 1);
    });
    story.did_linearizable(two, Op::children("/r"), names(&[], 1));
    story.did_linearizable(two, Op::get("/r"), data("a", 1, 2));
    story.passes(check);
}

#[test]
fn a_write_that_is_called_when_its_attachment_has_no_say_any_more_never_happens() {
    for (seen, possible) in [(data("0", 0, 1), true), (data("a", 1, 2), false)] {
        let (story, one, two) = register();
        story.attach(SessionId(1), 2, 1);
        let late = story.call(one, set("/r", "a"));
        story.did_linearizable(two, Op::get("/r"), seen);
        story.unknown(late);
        if possible {
            story.passes(check);
        } else {
            story.breaks(check, NO_ORDER, &["get /r"]);
        }
    }
}

/// Runs random calls of `clients` against the model itself, each taking effect at a random moment of
/// its call. Now and then a client without a call under way attaches its session again. Of the writes one in so many is never answered, and half of those have happened.
fn random(seed: u64, clients: usize, calls: usize, one_lost_in: u32) -> Story {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut story = Story::new();
    let mut sessions: Vec<_> = (0..clients).map(|_| story.session(1)).collect();
    let mut attached = vec![0; clients];
    let mut zxid = 0;
    for path in ["/r0", "/r1", "/r2", "/q"] {
        zxid += 1;
        story.did(sessions[0], create(path, "0"), created(path, zxid));
    }
    let mut values = [
        ("0".to_string(), 0, 1),
        ("0".to_string(), 0, 2),
        ("0".to_string(), 0, 3),
    ];
    let mut appended: Vec<(Vec<u8>, u64)> = Vec::new();
    // What each client has under way: its call, and the answer once it has taken effect.
    let mut under_way: Vec<Option<(CallId, Op, Option<Answer>)>> = vec![None; clients];
    let mut made = 0;
    while made < calls || under_way.iter().any(Option::is_some) {
        let client = rng.gen_range(0..clients);
        match &mut under_way[client] {
            // What it has lost has happened now, or never will.
            None if rng.gen_ratio(1, 50) => {
                attached[client] += 1;
                let session = SessionId(i64::try_from(client).unwrap() + 1);
                sessions[client] = story.attach(session, 1, attached[client]);
            }
            None if made < calls => {
                made += 1;
                let register = rng.gen_range(0..3);
                let path = format!("/r{register}");
                let op = match rng.gen_range(0..5) {
                    0 => Op::set(&path, made.to_string(), Version::ANY),
                    1 => Op::set(&path, made.to_string(), Version(values[register].1)),
                    2 => Op::create("/q/x-", made.to_string(), CreateMode::PersistentSequential),
                    _ => Op::get(&path),
                };
                let call = match op.is_write() {
                    true => story.recorder.call(sessions[client], op.clone()),
                    false => story
                        .recorder
                        .call_linearizable(sessions[client], op.clone()),
                };
                let lost_at_once = op.is_write() && rng.gen_ratio(1, 2 * one_lost_in);
                under_way[client] = (!lost_at_once).then_some((call, op, None));
            }
            None => {}
            Some((call, op, answer @ None)) => {
                *answer = Some(match op {
                    Op::Get { path } => {
                        let register = path[2..].parse::<usize>().unwrap();
                        let (text, version, mzxid) = &values[register];
                        born(register as u64 + 1, data(text, *version, *mzxid))
                    }
                    Op::Set {
                        path,
                        data,
                        version,
                    } => {
                        zxid += 1;
                        let register = path[2..].parse::<usize>().unwrap();
                        let value = &mut values[register];
                        if !version.matches(value.1) {
                            let path = path.clone();
                            let (expected, found) = (*version, value.1);
                            story.refuse(
                                *call,
                                Error::BadVersion {
                                    path,
                                    expected,
                                    found,
                                },
                            );
                            under_way[client] = None;
                            continue;
                        }
                        *value = (String::from_utf8(data.clone()).unwrap(), value.1 + 1, zxid);
                        born(register as u64 + 1, Answer::Set(stat(value.1, zxid)))
                    }
                    Op::Create { data, .. } => {
                        zxid += 1;
                        appended.push((data.clone(), zxid));
                        created(&format!("/q/x-{:010}", appended.len() - 1), zxid)
                    }
                    _ => unreachable!(),
                });
            }
            Some((call, op, Some(answer))) => {
                if !(op.is_write() && rng.gen_ratio(1, 2 * one_lost_in)) {
                    story.answer(*call, answer.clone());
                }
                under_way[client] = None;
            }
        }
    }
    let registers = values
        .iter()
        .zip(1..)
        .map(|((text, version, mzxid), czxid)| {
            let path = format!("/r{}", czxid - 1);
            (path, left(&text[..], *version, czxid, *mzxid))
        });
    let queue = appended
        .into_iter()
        .enumerate()
        .map(|(number, (data, zxid))| {
            let path = format!("/q/x-{number:010}");
            (path, left(data, 0, zxid, zxid))
        });
    let q = ("/q".to_string(), left("0", 0, 4, 4));
    story.recorder.tree(registers.chain(queue).chain([q]));
    story
}

/// A znode at the end.
fn left(data: impl Into<Vec<u8>>, version: i32, czxid: u64, mzxid: u64) -> FinalZnode {
    let stat = crate::Stat {
        czxid: Zxid(czxid),
        ..stat(version, mzxid)
    };
    FinalZnode::new(data, stat)
}

/// The tree at the end holds `/r` like this, and nothing else.
fn ends(story: &Story, znode: Option<FinalZnode>) {
    story
        .recorder
        .tree(znode.map(|znode| ("/r".to_string(), znode)));
}

#[test]
fn random_histories_of_a_correct_tree_are_explained() {
    for seed in 0..50 {
        random(seed, 5, 100, 10).passes(check);
    }
}

#[test]
fn a_random_history_with_one_answer_changed_is_found_out() {
    let mut found = 0;
    for seed in 0..50 {
        let mut history = random(seed, 4, 200, 50).history();
        let mut rng = SmallRng::seed_from_u64(seed);
        // A read far from the end shows the version before the one it saw.
        let reads: Vec<_> = (0..150)
            .filter(|&index| {
                matches!(&history.calls[index].outcome,
                    Outcome::Ok(Answer::Data { stat, .. }) if stat.version > 1)
            })
            .collect();
        let Some(&index) = reads.choose(&mut rng) else {
            continue;
        };
        let Outcome::Ok(Answer::Data { stat, .. }) = &mut history.calls[index].outcome else {
            unreachable!()
        };
        stat.version -= 1;
        assert!(check(&history).is_err(), "seed {seed}, call {index}");
        found += 1;
    }
    assert!(found > 30, "hardly anything was tried: {found}");
}

#[test]
fn ten_thousand_calls_of_eight_clients_are_judged_at_once() {
    let story = random(1, 8, 10_000, 50);
    story.passes(check);
    let mut history = story.history();
    // And one that is stale at the end of it all.
    let stale = story.did_linearizable(AttachmentId(0), Op::get("/r0"), data("0", 0, 1));
    let late = story.history();
    let found = check(&late).expect_err("a stale read");
    assert_eq!(found.promise, NO_ORDER, "{stale} is stale: {found}");
    history.calls.truncate(10);
    history.tree = None;
    assert!(check(&history).is_ok());
}

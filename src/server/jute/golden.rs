//! Frames as ZooKeeper's own classes write them (3.8's, by `jute`), what is made of them, and what
//! becomes of them when they are cut or garbled.
//!
//! `golden.txt` holds a frame's name and bytes, and for requests a line with what they mean, or why they mean
//! nothing (their names begin with `bad`; those are written by hand). With
//! `QUORATE_REWRITE=1` the meanings are written anew: read the difference before it is committed.

use super::*;
use crate::{
    Acl, AuthId, Error, EventKind, OpResult, Permissions, SessionId, Stat, WatchEvent, ZnodePath,
    Zxid,
};

const GOLDEN: &str = include_str!("golden.txt");

/// The frames by name, with their meanings.
fn frames() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let mut lines = GOLDEN.lines().peekable();
    let mut frames = Vec::new();
    while let Some(line) = lines.next() {
        let (name, hex) = line.split_once(' ').unwrap();
        let bytes = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let meaning = lines.next_if(|line| line.starts_with("  "));
        frames.push((name, bytes, meaning.map_or("", str::trim_start)));
    }
    assert!(frames.len() > 45, "{} frames", frames.len());
    frames
}

fn requests() -> impl Iterator<Item = (&'static str, Vec<u8>, &'static str)> {
    let understood = frames().into_iter();
    understood.filter(|(name, _, _)| !is_no_request(name))
}

/// Requests that are none, with why.
fn malformed() -> impl Iterator<Item = (&'static str, Vec<u8>, &'static str)> {
    let frames = frames().into_iter();
    frames.filter(|(name, _, _)| name.starts_with("bad."))
}

fn reply(name: &str) -> Vec<u8> {
    let found = frames().into_iter().find(|(found, _, _)| *found == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

/// What a frame means, as text; or why it means nothing.
fn meaning(name: &str, bytes: &[u8]) -> Result<String, Malformed> {
    if name.contains("connect") {
        return Connect::decode(bytes).map(|connect| format!("{connect:?}"));
    }
    let mut reader = Reader::new(bytes);
    let RequestHeader { xid, opcode } = RequestHeader::decode(&mut reader)?;
    let request = Request::decode(opcode, &mut reader)?;
    Ok(format!("{xid} {request:?}"))
}

#[test]
fn every_request_is_understood_as_zookeeper_writes_it() {
    if std::env::var_os("QUORATE_REWRITE").is_some() {
        let mut text = String::new();
        for (name, bytes, _) in frames() {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{name} {hex}\n");
            if name.starts_with("bad.") {
                text += &format!("  {}\n", meaning(name, &bytes).unwrap_err());
            } else if !is_no_request(name) {
                text += &format!("  {}\n", meaning(name, &bytes).unwrap());
            }
        }
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/jute/golden.txt");
        return std::fs::write(file, text).unwrap();
    }
    for (name, bytes, expected) in requests() {
        assert_eq!(meaning(name, &bytes).as_deref(), Ok(expected), "{name}");
    }
}

#[test]
fn what_is_no_request_is_refused_for_its_flaw() {
    for (name, bytes, why) in malformed() {
        let refused = meaning(name, &bytes).map_err(|flaw| flaw.to_string());
        assert_eq!(refused, Err(why.to_string()), "{name}");
    }
}

/// Whatever a client may send, and whatever only servers say.
#[test]
fn every_opcode_is_recorded_well_and_badly() {
    const ALL: [i32; 33] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 100, 101,
        102, 103, 104, 105, 106, 107, -10, -11, -1,
    ];
    // They have no body, or one that nobody looks at.
    const NEVER_BAD: [i32; 10] = [0, 11, 13, 16, 20, 102, 107, -10, -11, -1];
    let opcode = |frame: &[u8]| {
        frame
            .get(4..8)
            .map(|bytes| i32::from_be_bytes(bytes.try_into().unwrap()))
    };
    let well: Vec<i32> = requests()
        .filter_map(|(_, frame, _)| opcode(&frame))
        .collect();
    let badly: Vec<i32> = malformed()
        .filter_map(|(_, frame, _)| opcode(&frame))
        .collect();
    for wanted in ALL {
        assert!(well.contains(&wanted), "{wanted} is not recorded");
        let is_bad = badly.contains(&wanted) || NEVER_BAD.contains(&wanted);
        assert!(is_bad, "{wanted} is not recorded badly");
    }
}

#[test]
fn a_request_that_is_cut_anywhere_is_malformed() {
    // What has no body that is looked at can't be cut.
    const BODILESS: [&str; 9] = [
        "reconfig",
        "sasl",
        "connect.old",
        "check",
        "deleteContainer",
        "createSession",
        "notification",
        "error",
        "unknown",
    ];
    for (name, bytes, _) in requests() {
        for length in 0..bytes.len() {
            let cut = meaning(name, &bytes[..length]);
            assert!(
                cut.is_err() || (BODILESS.contains(&name) && length >= 8),
                "{name} cut to {length} bytes: {cut:?}"
            );
        }
    }
}

#[test]
fn a_garbled_request_is_never_more_than_malformed() {
    // A small generator of our own: the same numbers every time.
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let (mut refused, mut taken) = (0, 0);
    for (name, bytes, _) in requests() {
        for _ in 0..2_000 {
            let mut bytes = bytes.clone();
            for _ in 0..=random() % 3 {
                let at = random() as usize % bytes.len();
                bytes[at] = match random() % 4 {
                    0 => 0xff,
                    1 => 0x7f,
                    2 => 0x80,
                    _ => random() as u8,
                };
            }
            match meaning(name, &bytes) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1_000 && taken > 1_000, "{refused} and {taken}");
}

#[test]
fn a_count_takes_no_more_memory_than_its_frame() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.int(1);
    writer.int(Opcode::create);
    writer.string("/a");
    writer.buffer(b"");
    writer.int(i32::MAX);
    let refused = meaning("create", &bytes);
    assert_eq!(refused, Err(Malformed("a list is longer than its frame")));
}

#[test]
fn what_is_not_utf_8_becomes_what_no_path_holds() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.int(1);
    writer.int(Opcode::sync);
    writer.buffer(b"/a\xff");
    assert_eq!(meaning("sync", &bytes).unwrap(), "1 Sync(\"/a\u{fffd}\")");
    assert!(ZnodePath::parse("/a\u{fffd}").is_err());
}

fn stat() -> Stat {
    Stat {
        czxid: Zxid(1),
        mzxid: Zxid(2),
        ctime_ms: 3,
        mtime_ms: 4,
        version: 5,
        cversion: 6,
        aversion: 7,
        ephemeral_owner: SessionId(8),
        data_length: 9,
        children_count: 10,
        pzxid: Zxid(11),
    }
}

/// A reply with this body, without its length.
fn replied(body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    body(&mut Writer::new(&mut bytes));
    let header = ReplyHeader {
        xid: 7,
        zxid: Zxid(12),
        error: 0,
    };
    let mut out = Vec::new();
    header.frame(&mut out, &bytes).unwrap();
    let (length, frame) = out.split_first_chunk().unwrap();
    assert_eq!(u32::from_be_bytes(*length) as usize, frame.len());
    frame.to_vec()
}

#[test]
fn stats_and_acls_are_written_as_zookeeper_writes_them() {
    let acl = [
        Acl::new(Permissions::ALL, AuthId::anyone()),
        Acl::new(Permissions::READ, AuthId::new("digest", "u:h=")),
    ];
    let exists = replied(|writer| writer.stat(&stat()));
    assert_eq!(exists, reply("reply.exists"));
    let created = replied(|writer| {
        writer.string("/a");
        writer.stat(&stat());
    });
    assert_eq!(created, reply("reply.create2"));
    let data = replied(|writer| {
        writer.buffer(b"data");
        writer.stat(&stat());
    });
    assert_eq!(data, reply("reply.getData"));
    let acls = replied(|writer| {
        writer.acl(&acl);
        writer.stat(&stat());
    });
    assert_eq!(acls, reply("reply.getACL"));
    assert_eq!(replied(|writer| writer.no_buffer()), reply("reply.sasl"));
}

#[test]
fn an_error_has_no_body() {
    let mut out = Vec::new();
    let header = ReplyHeader {
        xid: 7,
        zxid: Zxid(12),
        error: -101,
    };
    header.frame(&mut out, b"what a body").unwrap();
    assert_eq!(out[4..], reply("reply.error"));
}

#[test]
fn the_results_of_a_multi_are_written_as_zookeeper_writes_them() {
    let path = |path: &str| OpResult::Created {
        path: path.to_string(),
        stat: stat(),
    };
    let well = replied(|writer| {
        let mut outcome = MultiOutcome(writer);
        outcome.result(&path("/a"), false);
        outcome.result(&path("/t"), true);
        outcome.result(&OpResult::Deleted, false);
        outcome.result(&OpResult::DataSet(stat()), false);
        outcome.result(&OpResult::Checked, false);
        outcome.end();
    });
    assert_eq!(well, reply("reply.multi"));
    let exists = Error::NodeExists {
        path: String::new(),
    };
    let badly = replied(|writer| {
        let mut outcome = MultiOutcome(writer);
        outcome.failed(3, 1, &exists);
        outcome.end();
    });
    assert_eq!(badly, reply("reply.multi.failed"));
}

#[test]
fn a_welcome_and_an_event_are_written_as_zookeeper_writes_them() {
    let mut out = Vec::new();
    let password = std::array::from_fn(|at| at as u8);
    connect_response(&mut out, (0x1234, &password), 30_000, false).unwrap();
    assert_eq!(out[4..], reply("reply.connect"));
    out.clear();
    let event = WatchEvent {
        kind: EventKind::NodeChildrenChanged,
        path: ZnodePath::parse("/a").unwrap(),
        zxid: Zxid(u64::MAX),
    };
    watcher_event(&mut out, &event).unwrap();
    assert_eq!(out[4..], reply("event"));
}

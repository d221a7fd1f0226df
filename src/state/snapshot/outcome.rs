//! The kept results of writes as records.
//!
//! Fixed texts travel as their number in [`WORDS`], so that a restored error is the very same value. The
//! numbers are for ever: words are only added, at the end.

use protobuf::SingularPtrField;

use super::restore::RestoreError;
use crate::error::Error;
use crate::ids::{SessionId, Version, Zxid};
use crate::op::{OpResult, Outcome};
use crate::proto::snapshot as records;
use crate::proto::snapshot::KeptResult_oneof_outcome as Kept;
use crate::stat::Stat;

/// The texts that errors of the state machine are made of, numbered from 1.
const WORDS: &[&str] = &[
    "it is empty",
    "it is longer than 65536 bytes",
    "it doesn't start with /",
    "it ends with /",
    "it has an empty component",
    "it has a component . or ..",
    "it contains NUL",
    "it contains a control character",
    "it contains a private use character",
    "it contains a character of U+FFF0..U+FFFF",
    "read",
    "write",
    "create",
    "delete",
    "admin",
    "data in bytes",
    "operations in a multi",
    "paths and data of a multi in bytes",
    "count",
    "bytes",
    "znodes with a time to live",
    "check outside of a multi",
    "an internal operation",
];

/// Stands for a word that this version doesn't know.
const UNKNOWN: &str = "something that this version has no word for";

fn word_number(word: &str) -> u32 {
    let at = WORDS.iter().position(|known| *known == word);
    debug_assert!(at.is_some() || word == UNKNOWN, "{word:?} lacks a number");
    at.map_or(0, |at| at as u32 + 1)
}

fn word(number: u32) -> &'static str {
    let at = (number as usize).checked_sub(1);
    at.and_then(|at| WORDS.get(at)).copied().unwrap_or(UNKNOWN)
}

pub(super) fn record(outcome: &Outcome) -> Kept {
    match outcome {
        Ok(result) => Kept::result(result_record(result)),
        Err(error) => Kept::error(error_record(error)),
    }
}

/// # Errors
/// [`RestoreError::Malformed`].
pub(super) fn read(record: Kept) -> Result<Outcome, RestoreError> {
    match record {
        Kept::result(record) => read_result(record).map(Ok),
        Kept::error(record) => read_error(record).map(Err),
    }
}

fn result_record(result: &OpResult) -> records::OpResult {
    let mut record = records::OpResult::default();
    record.kind = match result {
        OpResult::Created { path, stat } => {
            record.path = path.clone();
            record.stat = SingularPtrField::some(stat_record(stat));
            1
        }
        OpResult::Deleted => 2,
        OpResult::DataSet(stat) => {
            record.stat = SingularPtrField::some(stat_record(stat));
            3
        }
        OpResult::AclSet(stat) => {
            record.stat = SingularPtrField::some(stat_record(stat));
            4
        }
        OpResult::Checked => 5,
        OpResult::Multi(results) => {
            record.multi = results.iter().map(result_record).collect();
            6
        }
        OpResult::Session {
            id,
            attachment,
            sequence,
            timeout_ms,
        } => {
            record.session = id.0;
            record.attachment = *attachment;
            record.sequence = *sequence;
            record.timeout_ms = *timeout_ms;
            7
        }
        OpResult::Done => 8,
    };
    record
}

fn read_result(record: records::OpResult) -> Result<OpResult, RestoreError> {
    let stat = record.stat.as_ref().map(read_stat);
    let with_stat = || stat.ok_or_else(|| RestoreError::malformed("a result lacks its stat"));
    Ok(match record.kind {
        1 => OpResult::Created {
            stat: with_stat()?,
            path: record.path,
        },
        2 => OpResult::Deleted,
        3 => OpResult::DataSet(with_stat()?),
        4 => OpResult::AclSet(with_stat()?),
        5 => OpResult::Checked,
        6 => {
            let results = record.multi.into_iter().map(read_result);
            OpResult::Multi(results.collect::<Result<_, _>>()?)
        }
        7 => OpResult::Session {
            id: SessionId(record.session),
            attachment: record.attachment,
            sequence: record.sequence,
            timeout_ms: record.timeout_ms,
        },
        8 => OpResult::Done,
        kind => {
            return Err(RestoreError::malformed(format!(
                "there is no result of kind {kind}"
            )));
        }
    })
}

fn stat_record(stat: &Stat) -> records::Stat {
    records::Stat {
        czxid: stat.czxid.0,
        mzxid: stat.mzxid.0,
        pzxid: stat.pzxid.0,
        ctime_ms: stat.ctime_ms,
        mtime_ms: stat.mtime_ms,
        version: stat.version,
        cversion: stat.cversion,
        aversion: stat.aversion,
        ephemeral_owner: stat.ephemeral_owner.0,
        data_length: stat.data_length,
        children_count: stat.children_count,
        ..Default::default()
    }
}

fn read_stat(record: &records::Stat) -> Stat {
    Stat {
        czxid: Zxid(record.czxid),
        mzxid: Zxid(record.mzxid),
        pzxid: Zxid(record.pzxid),
        ctime_ms: record.ctime_ms,
        mtime_ms: record.mtime_ms,
        version: record.version,
        cversion: record.cversion,
        aversion: record.aversion,
        ephemeral_owner: SessionId(record.ephemeral_owner),
        data_length: record.data_length,
        children_count: record.children_count,
    }
}

fn error_record(error: &Error) -> records::OpError {
    let mut record = records::OpError::default();
    record.kind = match error {
        Error::NoNode { path } => {
            record.path = path.clone();
            1
        }
        Error::NodeExists { path } => {
            record.path = path.clone();
            2
        }
        Error::BadVersion {
            path,
            expected,
            found,
        } => {
            record.path = path.clone();
            (record.first, record.second) = (expected.0.into(), (*found).into());
            3
        }
        Error::NotEmpty { path, children } => {
            record.path = path.clone();
            record.first = *children as i64;
            4
        }
        Error::NoChildrenForEphemerals { parent } => {
            record.path = parent.clone();
            5
        }
        Error::NoAuth { path, permission } => {
            record.path = path.clone();
            record.word = word_number(permission);
            6
        }
        Error::InvalidAcl { path, reason } => {
            record.path = path.clone();
            record.text = reason.clone();
            7
        }
        Error::InvalidPath { path, reason } => {
            record.path = path.clone();
            record.word = word_number(reason);
            8
        }
        Error::BadArguments { reason } => {
            record.text = reason.clone();
            9
        }
        Error::TooLarge { what, found, limit } => {
            record.word = word_number(what);
            (record.first, record.second) = (*found as i64, *limit as i64);
            10
        }
        Error::QuotaExceeded {
            path,
            quota_path,
            what,
            found,
            limit,
        } => {
            record.path = path.clone();
            record.text = quota_path.clone();
            record.word = word_number(what);
            (record.first, record.second) = (*found, *limit);
            11
        }
        Error::Unimplemented { what } => {
            record.word = word_number(what);
            12
        }
        Error::Multi { index, error } => {
            record.first = *index as i64;
            record.inner = SingularPtrField::some(error_record(error));
            13
        }
        Error::AuthFailed { scheme, reason } => {
            record.path = scheme.clone();
            record.text = reason.clone();
            14
        }
        // The others are made outside of the state machine. Should one come here all the same, its
        // words are kept.
        other => {
            record.text = other.to_string();
            15
        }
    };
    record
}

fn read_error(record: records::OpError) -> Result<Error, RestoreError> {
    let records::OpError {
        path,
        text,
        first,
        second,
        ..
    } = record;
    let word = word(record.word);
    let number = |number: i64| {
        i32::try_from(number).map_err(|_| RestoreError::malformed("a version is no version"))
    };
    Ok(match record.kind {
        1 => Error::NoNode { path },
        2 => Error::NodeExists { path },
        3 => Error::BadVersion {
            path,
            expected: Version(number(first)?),
            found: number(second)?,
        },
        4 => Error::NotEmpty {
            path,
            children: first as usize,
        },
        5 => Error::NoChildrenForEphemerals { parent: path },
        6 => Error::NoAuth {
            path,
            permission: word,
        },
        7 => Error::InvalidAcl { path, reason: text },
        8 => Error::InvalidPath { path, reason: word },
        9 => Error::BadArguments { reason: text },
        10 => Error::TooLarge {
            what: word,
            found: first as u64,
            limit: second as u64,
        },
        11 => Error::QuotaExceeded {
            path,
            quota_path: text,
            what: word,
            found: first,
            limit: second,
        },
        12 => Error::Unimplemented { what: word },
        13 => {
            let inner = record.inner.into_option();
            let inner =
                inner.ok_or_else(|| RestoreError::malformed("a multi's error lacks its own"))?;
            Error::Multi {
                index: first as usize,
                error: Box::new(read_error(inner)?),
            }
        }
        14 => Error::AuthFailed {
            scheme: path,
            reason: text,
        },
        15 => Error::System { reason: text },
        kind => {
            return Err(RestoreError::malformed(format!(
                "there is no error of kind {kind}"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_own_number() {
        for (at, text) in WORDS.iter().enumerate() {
            assert_eq!(word_number(text), at as u32 + 1);
            assert_eq!(word(at as u32 + 1), *text);
        }
        assert_eq!((word(0), word(u32::MAX)), (UNKNOWN, UNKNOWN));
    }

    #[test]
    fn what_a_write_gave_comes_back_the_same() {
        let stat = Stat {
            czxid: Zxid(1),
            cversion: -3,
            ephemeral_owner: SessionId(-9),
            ..Stat::default()
        };
        let path = || "/a".to_string();
        let bad_version = || Error::BadVersion {
            path: path(),
            expected: Version::ANY,
            found: i32::MIN,
        };
        let outcomes: Vec<Outcome> = vec![
            Ok(OpResult::Created { path: path(), stat }),
            Ok(OpResult::Deleted),
            Ok(OpResult::DataSet(stat)),
            Ok(OpResult::AclSet(stat)),
            Ok(OpResult::Multi(vec![
                OpResult::Checked,
                OpResult::DataSet(stat),
            ])),
            Ok(OpResult::Session {
                id: SessionId(4),
                attachment: 1,
                sequence: 2,
                timeout_ms: 3,
            }),
            Ok(OpResult::Done),
            Err(Error::NoNode { path: path() }),
            Err(Error::NodeExists { path: path() }),
            Err(bad_version()),
            Err(Error::NotEmpty {
                path: path(),
                children: 3,
            }),
            Err(Error::NoChildrenForEphemerals { parent: path() }),
            Err(Error::NoAuth {
                path: path(),
                permission: "admin",
            }),
            Err(Error::InvalidAcl {
                path: path(),
                reason: "why".into(),
            }),
            Err(crate::path::validate("/a/").unwrap_err()),
            Err(Error::BadArguments {
                reason: "why".into(),
            }),
            Err(Error::TooLarge {
                what: "data in bytes",
                found: 9,
                limit: 8,
            }),
            Err(Error::QuotaExceeded {
                path: path(),
                quota_path: "/".into(),
                what: "count",
                found: 9,
                limit: 8,
            }),
            Err(Error::Unimplemented {
                what: "check outside of a multi",
            }),
            Err(Error::Multi {
                index: 7,
                error: Box::new(bad_version()),
            }),
            Err(Error::AuthFailed {
                scheme: "digest".into(),
                reason: "why".into(),
            }),
            Err(Error::System {
                reason: "internal".into(),
            }),
        ];
        for outcome in outcomes {
            let again = read(record(&outcome)).unwrap();
            if !matches!(outcome, Err(Error::System { .. })) {
                assert_eq!(again, outcome);
            }
        }
    }
}

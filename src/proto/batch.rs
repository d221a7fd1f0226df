//! The data of a log entry: a batch of writes, in the encoding of one version of the rules.
//!
//! A batch names its rules, so that every replica applies it by the same ones, whatever its release.
//! It knows nothing of who decides which rules a batch follows. The invariant: a batch reads back as
//! the writes that were put in, in their order, whichever rules it follows.

use bytes::Bytes;
use protobuf::RepeatedField;

use super::codec::{RecordError, decode, encode};
use super::records::{BatchRecord, RequestRecord, RunRecord};

/// A version of the rules by which entries of the log are encoded and applied.
///
/// | version | what is new |
/// |---|---|
/// | 1 | the beginning: each write is a record of its own |
/// | 2 | writes of one session in sequence are one *run*: its session is named once |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rules(u32);

impl Rules {
    /// What every cluster begins with.
    pub(crate) const FIRST: Rules = Rules(1);
    /// Writes of one session in sequence share a record.
    const RUNS: Rules = Rules(2);
    /// The newest that this program follows.
    pub(crate) const LATEST: Rules = Rules(2);

    /// The rules of this number, whether this program follows them or not; 0 stands for the first.
    pub(crate) fn from_number(number: u32) -> Rules {
        Rules(number).max(Rules::FIRST)
    }

    /// Their number, from 1.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a log entry holds.
#[derive(Debug, PartialEq)]
pub(crate) struct Batch {
    /// The leader's wall clock, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The rules by which it is applied.
    pub rules: Rules,
    /// The writes, not yet decoded further.
    pub requests: Vec<RequestRecord>,
}

impl Batch {
    /// The batch in bytes.
    pub(crate) fn encode(self) -> Bytes {
        let mut record = BatchRecord {
            time_ms: self.time_ms,
            rules: self.rules.number(),
            ..Default::default()
        };
        if self.rules >= Rules::RUNS {
            record.runs = RepeatedField::from_vec(into_runs(self.requests));
        } else {
            record.requests = RepeatedField::from_vec(self.requests);
        }
        encode(&record)
    }

    /// Reads what [`Batch::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordError`] where the bytes are no batch, or follow rules newer than `known`.
    pub(crate) fn decode(data: &Bytes, known: Rules) -> Result<Batch, RecordError> {
        let record: BatchRecord = decode(data)?;
        let rules = Rules(record.rules);
        if !(Rules::FIRST..=known).contains(&rules) {
            return Err(RecordError::new(format!(
                "it follows rules {rules}, this node knows {} to {known}",
                Rules::FIRST
            )));
        }
        let requests = if rules >= Rules::RUNS {
            into_requests(record.runs.into_vec())
        } else {
            record.requests.into_vec()
        };
        Ok(Batch {
            time_ms: record.time_ms,
            rules,
            requests,
        })
    }
}

/// Joins the writes of a session that follow each other. What its origin has received is true of all of
/// them by the time that the leader says it, so the latest word holds for the run.
fn into_runs(requests: Vec<RequestRecord>) -> Vec<RunRecord> {
    let mut runs: Vec<RunRecord> = Vec::new();
    for request in requests {
        match runs.last_mut() {
            Some(run) if continues(run, &request) => {
                run.answered = run.answered.max(request.answered);
                run.ops.push(request.op);
            }
            _ => runs.push(RunRecord {
                session: request.session,
                attachment: request.attachment,
                sequence: request.sequence,
                answered: request.answered,
                ops: vec![request.op],
                ..Default::default()
            }),
        }
    }
    runs
}

fn continues(run: &RunRecord, request: &RequestRecord) -> bool {
    // Sequence 0 is what no session's order counts: openings, and the leader's own operations.
    run.sequence != 0
        && run.session == request.session
        && run.attachment == request.attachment
        && run.sequence.checked_add(run.ops.len() as u64) == Some(request.sequence)
}

fn into_requests(runs: Vec<RunRecord>) -> Vec<RequestRecord> {
    let count = runs.iter().map(|run| run.ops.len()).sum();
    let mut requests = Vec::with_capacity(count);
    for run in runs {
        for (position, op) in (0..).zip(run.ops) {
            requests.push(RequestRecord {
                session: run.session,
                attachment: run.attachment,
                // A run that was made here doesn't wrap; one that does is refused as out of sequence.
                sequence: run.sequence.wrapping_add(position),
                answered: run.answered,
                op,
                ..Default::default()
            });
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(session: i64, sequence: u64, op: &'static str) -> RequestRecord {
        RequestRecord {
            session,
            attachment: 1,
            sequence,
            answered: sequence.saturating_sub(1),
            op: Bytes::from_static(op.as_bytes()),
            ..Default::default()
        }
    }

    fn batch(rules: Rules) -> Batch {
        Batch {
            time_ms: 5,
            rules,
            requests: vec![
                request(1, 7, "a"),
                request(1, 8, "b"),
                request(2, 1, "c"),
                request(1, 9, "d"),
                request(1, 11, "a gap before it"),
                request(0, 0, "the leader's own"),
                request(0, 0, "and another"),
            ],
        }
    }

    /// A request without what a run doesn't keep for each.
    fn identity(request: &RequestRecord) -> (i64, u32, u64, Bytes) {
        let op = request.op.clone();
        (request.session, request.attachment, request.sequence, op)
    }

    #[test]
    fn a_batch_reads_back_in_its_order_by_every_version_of_the_rules() {
        for rules in [Rules::FIRST, Rules::LATEST] {
            let read = Batch::decode(&batch(rules).encode(), Rules::LATEST).unwrap();
            assert_eq!((read.time_ms, read.rules), (5, rules));
            let written: Vec<_> = batch(rules).requests.iter().map(identity).collect();
            let read: Vec<_> = read.requests.iter().map(identity).collect();
            assert_eq!(read, written);
        }
    }

    #[test]
    fn writes_of_one_session_in_sequence_are_one_run_with_the_latest_word_of_its_origin() {
        let runs = into_runs(batch(Rules::LATEST).requests);
        let shape: Vec<_> = runs
            .iter()
            .map(|run| (run.session, run.sequence, run.answered, run.ops.len()))
            .collect();
        let expected = vec![
            (1, 7, 7, 2),
            (2, 1, 0, 1),
            (1, 9, 8, 1),
            (1, 11, 10, 1),
            (0, 0, 0, 1),
            (0, 0, 0, 1),
        ];
        assert_eq!(shape, expected);
    }

    #[test]
    fn a_batch_of_newer_rules_is_refused_by_name() {
        let newer = Batch {
            rules: Rules(99),
            ..batch(Rules::LATEST)
        };
        let error = Batch::decode(&newer.encode(), Rules::LATEST).unwrap_err();
        assert!(error.reason.contains("99"), "{error}");
        let error = Batch::decode(&batch(Rules::LATEST).encode(), Rules::FIRST).unwrap_err();
        assert!(error.reason.contains("knows 1 to 1"), "{error}");
        let error = Batch::decode(&Bytes::new(), Rules::LATEST).unwrap_err();
        assert!(error.reason.contains("rules 0"), "{error}");
    }

    #[test]
    fn a_run_whose_sequence_wraps_is_read_without_a_panic() {
        let record = BatchRecord {
            rules: Rules::RUNS.number(),
            runs: RepeatedField::from_vec(vec![RunRecord {
                sequence: u64::MAX,
                ops: vec![Bytes::new(), Bytes::new()],
                ..Default::default()
            }]),
            ..Default::default()
        };
        let read = Batch::decode(&encode(&record), Rules::LATEST).unwrap();
        assert_eq!(read.requests[1].sequence, 0);
    }
}

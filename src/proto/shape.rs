//! What a record may be made of: counted before it is parsed.
//!
//! A parser makes an object of a hundred bytes from an empty message of two, so sixteen mebibytes from a
//! peer could become a gibibyte; and it allocates ten megabytes for a length that is announced and not
//! there. Here the bytes are walked by the schema first, without allocating: what has too many parts, nests
//! too deep or ends early is refused. It knows the schemas' field numbers and no meaning; whether the
//! bytes are a record at all, the parser says.

/// How many parts a record may have: messages within it, numbers in lists, and fields that this
/// program doesn't know. A batch or a message of a mebibyte with the smallest entries and requests
/// that there are has fewer.
pub(crate) const PARTS_MAX: usize = 1 << 18;

/// So many numbers of a packed list are one part: each takes eight bytes, where a message takes a hundred.
/// A barrier names all sessions of its node, and may name four million.
const NUMBERS_PER_PART: usize = 16;

/// How deep records may nest: an access list of a create within a multi is the deepest of ours.
pub(crate) const DEPTH_MAX: usize = 8;

/// Which limit a record exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("it has more than {limit} parts (PARTS_MAX)")]
    TooManyParts { limit: usize },
    #[error("it nests deeper than {limit} (DEPTH_MAX)")]
    TooDeep { limit: usize },
    #[error("it isn't protobuf")]
    Malformed,
}

/// The part of a message's schema that takes memory.
pub(crate) struct Shape {
    /// The fields are 1 to this one; others are not known.
    pub(crate) fields: u32,
    /// Those that are messages.
    pub(crate) messages: &'static [(u32, &'static Shape)],
    /// Those that are lists of numbers.
    pub(crate) lists: &'static [u32],
    /// Those that are lists of texts or of bytes, each an object of its own.
    pub(crate) texts: &'static [u32],
}

/// A message without messages or lists in it.
pub(crate) const fn plain(fields: u32) -> Shape {
    Shape {
        fields,
        messages: &[],
        lists: &[],
        texts: &[],
    }
}

/// A message without lists in it, but with messages.
pub(crate) const fn nested(fields: u32, messages: &'static [(u32, &'static Shape)]) -> Shape {
    Shape {
        fields,
        messages,
        lists: &[],
        texts: &[],
    }
}

/// A record whose parts can be counted.
pub(crate) trait Shaped {
    const SHAPE: &'static Shape;
}

macro_rules! shaped {
    ($($record:ty: $shape:ident;)*) => {
        $(impl Shaped for $record {
            const SHAPE: &'static Shape = &$shape;
        })*
    };
}

shaped! {
    super::records::PeerRecord: PEER;
    super::records::BatchRecord: BATCH;
    super::records::OpRecord: OP;
    super::records::BackupHeaderRecord: BACKUP;
    super::snapshot::Record: SNAPSHOT;
}

// quorate.proto
static REQUEST: Shape = plain(5);
static RUN: Shape = Shape {
    fields: 5,
    messages: &[],
    lists: &[],
    // The operations.
    texts: &[5],
};
static BATCH: Shape = nested(4, &[(3, &REQUEST), (4, &RUN)]);
static AUTH_ID: Shape = plain(2);
static ACL: Shape = nested(2, &[(2, &AUTH_ID)]);
static CREATE: Shape = nested(6, &[(3, &ACL)]);
static SET_ACL: Shape = nested(3, &[(2, &ACL)]);
static MULTI: Shape = nested(1, &[(1, &OP)]);
static OP_OF_4: Shape = plain(4);
static OP: Shape = nested(
    12,
    &[
        (1, &CREATE),
        (2, &OP_OF_4),
        (3, &OP_OF_4),
        (4, &SET_ACL),
        (5, &OP_OF_4),
        (6, &MULTI),
        (7, &OP_OF_4),
        (8, &OP_OF_4),
        (9, &OP_OF_4),
        (10, &AUTH_ID),
        (11, &OP_OF_4),
        (12, &OP_OF_4),
    ],
);
static FORWARD: Shape = nested(1, &[(1, &REQUEST)]);
static BARRIER: Shape = Shape {
    fields: 2,
    messages: &[],
    lists: &[2],
    texts: &[],
};
static BARRIER_REPLY: Shape = Shape {
    fields: 3,
    messages: &[],
    lists: &[3],
    texts: &[],
};
static META: Shape = Shape {
    fields: 7,
    messages: &[],
    lists: &[3, 4, 5, 6],
    texts: &[],
};
static CHUNK: Shape = nested(7, &[(2, &META)]);
static ACK: Shape = plain(5);
static MEMBERSHIP: Shape = Shape {
    fields: 8,
    messages: &[],
    lists: &[6, 7, 8],
    texts: &[],
};
static MEMBERSHIP_REPLY: Shape = nested(7, &[(7, &META)]);
static NOT_MEMBER: Shape = plain(1);
static JOIN: Shape = plain(3);
static JOIN_REPLY: Shape = plain(5);
static INQUIRY: Shape = plain(0);
static PEER: Shape = nested(
    15,
    &[
        (2, &FORWARD),
        (3, &BARRIER),
        (4, &BARRIER_REPLY),
        (5, &CHUNK),
        (6, &ACK),
        (7, &MEMBERSHIP),
        (8, &MEMBERSHIP_REPLY),
        (9, &NOT_MEMBER),
        (10, &JOIN),
        (11, &JOIN_REPLY),
        (12, &INQUIRY),
    ],
);

static BACKUP: Shape = Shape {
    fields: 7,
    messages: &[],
    lists: &[6, 7],
    texts: &[],
};

// snapshot.proto
static SETTINGS: Shape = Shape {
    fields: 10,
    messages: &[],
    lists: &[],
    texts: &[10],
};
static HEADER: Shape = nested(7, &[(5, &SETTINGS)]);
static SESSION: Shape = Shape {
    fields: 8,
    messages: &[(7, &AUTH_ID)],
    lists: &[8],
    texts: &[],
};
static STAT: Shape = plain(11);
static RESULT: Shape = nested(8, &[(3, &STAT), (4, &RESULT)]);
static ERROR: Shape = nested(7, &[(7, &ERROR)]);
static KEPT: Shape = nested(4, &[(3, &RESULT), (4, &ERROR)]);
static ACCESS: Shape = nested(1, &[(1, &ACL)]);
static ZNODE: Shape = plain(12);
static FOOTER: Shape = plain(5);
static SNAPSHOT: Shape = nested(
    6,
    &[
        (1, &HEADER),
        (2, &SESSION),
        (3, &ACCESS),
        (4, &ZNODE),
        (5, &FOOTER),
        (6, &KEPT),
    ],
);

/// Whether these bytes, parsed as an `M`, stay within the limits.
pub(crate) fn check<M: Shaped>(bytes: &[u8]) -> Result<(), ShapeError> {
    Count { parts: 0 }.message(bytes, M::SHAPE, 1)
}

/// Whether the others will take this encoded operation.
pub(crate) fn check_op(op: &[u8]) -> Result<(), ShapeError> {
    check::<super::records::OpRecord>(op)
}

struct Count {
    parts: usize,
}

impl Count {
    fn add(&mut self, parts: usize) -> Result<(), ShapeError> {
        self.parts = self.parts.saturating_add(parts);
        if self.parts > PARTS_MAX {
            return Err(ShapeError::TooManyParts { limit: PARTS_MAX });
        }
        Ok(())
    }

    fn message(&mut self, mut bytes: &[u8], shape: &Shape, depth: usize) -> Result<(), ShapeError> {
        if depth > DEPTH_MAX {
            return Err(ShapeError::TooDeep { limit: DEPTH_MAX });
        }
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let field = u32::try_from(tag >> 3).map_err(|_| ShapeError::Malformed)?;
            let is_list = shape.lists.contains(&field);
            if is_list || shape.texts.contains(&field) || field > shape.fields {
                self.add(1)?;
            }
            match tag & 7 {
                VARINT => drop(varint(&mut bytes)?),
                FIXED_64 => drop(taken(&mut bytes, 8)?),
                FIXED_32 => drop(taken(&mut bytes, 4)?),
                LENGTH_DELIMITED => {
                    let length = varint(&mut bytes)?;
                    let inner = taken(&mut bytes, length)?;
                    let message = shape.messages.iter().find(|(number, _)| *number == field);
                    if let Some((_, shape)) = message {
                        self.add(1)?;
                        self.message(inner, shape, depth + 1)?;
                    } else if is_list {
                        // Each number of the list has one last byte.
                        let numbers = inner.iter().filter(|byte| **byte < 0x80).count();
                        self.add(numbers / NUMBERS_PER_PART)?;
                    }
                }
                // proto3 has no groups; a parser would follow them without end.
                _ => return Err(ShapeError::Malformed),
            }
        }
        Ok(())
    }
}

// The wire types of protobuf that proto3 has.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

fn varint(bytes: &mut &[u8]) -> Result<u64, ShapeError> {
    let mut value = 0;
    for (position, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * position);
        if *byte < 0x80 {
            *bytes = &bytes[position + 1..];
            return Ok(value);
        }
    }
    Err(ShapeError::Malformed)
}

fn taken<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], ShapeError> {
    let length = usize::try_from(length).map_err(|_| ShapeError::Malformed)?;
    let (taken, rest) = bytes
        .split_at_checked(length)
        .ok_or(ShapeError::Malformed)?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::records::{BatchRecord, OpRecord, PeerRecord};

    /// A message whose field `tag` is there so many times, empty.
    fn repeated(tag: u8, times: usize) -> Vec<u8> {
        [tag, 0].repeat(times)
    }

    fn wrapped(tag: u8, inner: &[u8]) -> Vec<u8> {
        let mut outer = vec![tag];
        let mut output = protobuf::CodedOutputStream::vec(&mut outer);
        output.write_bytes_no_tag(inner).unwrap();
        output.flush().unwrap();
        drop(output);
        outer
    }

    /// A message of a `.proto` file: for each field its number, its type, and whether it is repeated.
    type Declared<'a> = Vec<(u32, &'a str, bool)>;

    fn declared<'a>(schema: &'a str, message: &str) -> Declared<'a> {
        let opening = format!("message {message} {{");
        let at = schema
            .find(&opening)
            .unwrap_or_else(|| panic!("no {message}"));
        let mut fields = Vec::new();
        let mut depth = 0;
        for line in schema[at..].lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            depth += line.matches('{').count();
            depth -= line.matches('}').count();
            if let Some((field, number)) = line.trim_end_matches(';').split_once(" = ") {
                let mut words = field.split_whitespace();
                let first = words.next().unwrap();
                let (kind, repeated) = match first {
                    "repeated" => (words.next().unwrap(), true),
                    kind => (kind, false),
                };
                fields.push((number.parse().unwrap(), kind, repeated));
            }
            if depth == 0 {
                break;
            }
        }
        fields
    }

    /// Goes through all that a record may be made of, each message once.
    fn compare(schema: &str, message: &str, shape: &'static Shape, seen: &mut Vec<String>) {
        if seen.iter().any(|name| name == message) {
            return;
        }
        seen.push(message.to_owned());
        let fields = declared(schema, message);
        let highest = fields.iter().map(|(number, ..)| *number).max();
        assert_eq!(
            highest.unwrap_or(0).max(shape.fields),
            shape.fields,
            "{message}"
        );
        for (number, kind, repeated) in fields {
            let inner = shape.messages.iter().find(|(field, _)| *field == number);
            let is_message = kind.starts_with(char::is_uppercase);
            assert_eq!(inner.is_some(), is_message, "{message}: field {number}");
            let is_text = matches!(kind, "bytes" | "string");
            let is_list = repeated && !is_message && !is_text;
            assert_eq!(
                shape.texts.contains(&number),
                repeated && is_text,
                "{message}: field {number}"
            );
            assert_eq!(
                shape.lists.contains(&number),
                is_list,
                "{message}: field {number}"
            );
            if let Some((_, inner)) = inner {
                compare(schema, kind, inner, seen);
            }
        }
    }

    #[test]
    fn the_shapes_are_those_of_the_schemas() {
        let log = include_str!("quorate.proto");
        let mut seen = Vec::new();
        compare(log, "PeerRecord", &PEER, &mut seen);
        compare(log, "BatchRecord", &BATCH, &mut seen);
        compare(log, "OpRecord", &OP, &mut seen);
        compare(log, "BackupHeaderRecord", &BACKUP, &mut seen);
        let messages = log.matches("\nmessage ").count();
        assert_eq!(seen.len(), messages, "a message is missing among {seen:?}");
        let snapshot = include_str!("snapshot.proto");
        let mut seen = Vec::new();
        compare(snapshot, "Record", &SNAPSHOT, &mut seen);
        let messages = snapshot.matches("\nmessage ").count();
        assert_eq!(seen.len(), messages, "a message is missing among {seen:?}");
    }

    #[test]
    fn large_operations_are_no_lists_of_numbers() {
        // The operations of a run were once counted as packed numbers: a large one stopped every replica.
        let large = wrapped(0x22, &wrapped(0x2a, &vec![0; 16 << 20]));
        assert_eq!(check::<BatchRecord>(&large), Ok(()));
        let many = wrapped(0x22, &repeated(0x2a, PARTS_MAX));
        assert_eq!(check::<BatchRecord>(&many), TOO_MANY);
    }

    const TOO_MANY: Result<(), ShapeError> = Err(ShapeError::TooManyParts { limit: PARTS_MAX });

    #[test]
    fn a_part_too_many_is_refused_wherever_it_is() {
        assert_eq!(check::<BatchRecord>(&repeated(0x1a, PARTS_MAX)), Ok(()));
        assert_eq!(
            check::<BatchRecord>(&repeated(0x1a, PARTS_MAX + 1)),
            TOO_MANY
        );
        // One for the message around them.
        let forward = |requests| wrapped(0x12, &repeated(0x0a, requests));
        assert_eq!(check::<PeerRecord>(&forward(PARTS_MAX - 1)), Ok(()));
        assert_eq!(check::<PeerRecord>(&forward(PARTS_MAX)), TOO_MANY);
        let multi = |ops| wrapped(0x32, &repeated(0x0a, ops));
        assert_eq!(check::<OpRecord>(&multi(PARTS_MAX - 1)), Ok(()));
        assert_eq!(check::<OpRecord>(&multi(PARTS_MAX)), TOO_MANY);
        // A barrier's sessions, one by one and packed.
        let barrier = |list: &[u8]| wrapped(0x1a, list);
        assert_eq!(
            check::<PeerRecord>(&barrier(&repeated(0x10, PARTS_MAX))),
            TOO_MANY
        );
        let packed = |sessions| barrier(&wrapped(0x12, &vec![1; sessions]));
        assert_eq!(check::<PeerRecord>(&packed(16 * (PARTS_MAX - 2))), Ok(()));
        assert_eq!(check::<PeerRecord>(&packed(16 * PARTS_MAX)), TOO_MANY);
        // Fields that nobody knows.
        assert_eq!(
            check::<PeerRecord>(&[0x82, 0x01, 0].repeat(PARTS_MAX + 1)),
            TOO_MANY
        );
        let error = ShapeError::TooManyParts { limit: PARTS_MAX };
        assert!(error.to_string().contains("262144"), "{error}");
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let mut bytes = vec![];
        for _ in 0..DEPTH_MAX {
            bytes = wrapped(0x32, &wrapped(0x0a, &bytes));
        }
        assert_eq!(
            check::<OpRecord>(&bytes),
            Err(ShapeError::TooDeep { limit: DEPTH_MAX })
        );
    }

    #[test]
    fn groups_and_what_ends_early_are_refused() {
        let groups = [0xa3, 0x06].repeat(1000);
        assert_eq!(check::<OpRecord>(&groups), Err(ShapeError::Malformed));
        let whole = wrapped(
            0x32,
            &wrapped(0x0a, &wrapped(0x22, &wrapped(0x0a, b"path"))),
        );
        assert_eq!(check::<OpRecord>(&whole), Ok(()));
        for length in 1..whole.len() {
            assert_eq!(
                check::<OpRecord>(&whole[..length]),
                Err(ShapeError::Malformed)
            );
        }
        // A length that is announced and not there: nothing is allocated for it.
        let announced = [0x2a, 0xff, 0xff, 0xff, 0x03];
        assert_eq!(check::<BatchRecord>(&announced), Err(ShapeError::Malformed));
        assert_eq!(check::<OpRecord>(&[0x80; 11]), Err(ShapeError::Malformed));
    }
}

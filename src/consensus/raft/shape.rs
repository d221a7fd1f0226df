//! What raft-rs's messages may be made of, for [`crate::proto`] to count before they are parsed.
//!
//! Field numbers of eraftpb.proto, and nothing of their meaning.

use raft::eraftpb::{ConfChangeV2, Message};

use crate::proto::{PARTS_MAX, Shape, Shaped, nested, plain};

/// How many bytes the smallest entry takes that a leader sends: a term and an index.
const ENTRY_BYTES_MIN: usize = 4;

/// So many bytes of the smallest entries are as many as a message may have.
pub(super) const APPEND_BYTES_MAX: u64 = (PARTS_MAX * ENTRY_BYTES_MIN) as u64;

static ENTRY: Shape = plain(6);
static CONF_STATE: Shape = Shape {
    fields: 5,
    messages: &[],
    lists: &[1, 2, 3, 4],
    texts: &[],
};
static SNAPSHOT_METADATA: Shape = nested(3, &[(1, &CONF_STATE)]);
static SNAPSHOT: Shape = nested(2, &[(2, &SNAPSHOT_METADATA)]);
static MESSAGE: Shape = nested(16, &[(7, &ENTRY), (9, &SNAPSHOT)]);
static CHANGE: Shape = plain(2);
static CHANGES: Shape = nested(3, &[(2, &CHANGE)]);

impl Shaped for Message {
    const SHAPE: &'static Shape = &MESSAGE;
}

impl Shaped for ConfChangeV2 {
    const SHAPE: &'static Shape = &CHANGES;
}

#[cfg(test)]
mod tests {
    use protobuf::Message as _;
    use raft::eraftpb::Entry;

    use super::*;
    use crate::proto::{ShapeError, check_shape};

    #[test]
    fn a_message_has_as_many_entries_as_a_leader_may_send_and_no_more() {
        let smallest = Entry {
            term: 1,
            index: 1,
            ..Default::default()
        };
        assert_eq!(smallest.compute_size() as usize, ENTRY_BYTES_MIN);
        let entries = |count: usize| [0x3a, 0].repeat(count);
        // raft-rs may go one entry beyond the bytes that it is told, by the largest of them.
        assert_eq!(check_shape::<Message>(&entries(PARTS_MAX)), Ok(()));
        assert_eq!(
            check_shape::<Message>(&entries(PARTS_MAX + 1)),
            Err(ShapeError::TooManyParts { limit: PARTS_MAX })
        );
        let changes = [0x12, 0].repeat(PARTS_MAX + 1);
        assert!(check_shape::<ConfChangeV2>(&changes).is_err());
    }
}

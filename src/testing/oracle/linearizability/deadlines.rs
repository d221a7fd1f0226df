//! From when on the writes of an attachment can't take effect any more: what attaching promises of those
//! that were not answered, and what the end of their session makes certain.

use std::collections::HashMap;

use crate::ids::SessionId;
use crate::testing::history::{Call, History, Op};

/// See the module's text: by the number of the attachment, as an order of the history.
pub(super) struct Deadlines(Vec<u64>);

impl Deadlines {
    pub(super) fn new(history: &History) -> Deadlines {
        let mut ends: HashMap<SessionId, u64> = HashMap::new();
        let closed = history.calls.iter().filter_map(|call| {
            let closed = call.op == Op::Close && call.outcome.has_happened();
            let answered = call.answered.filter(|_| closed)?;
            Some((history.session_of(call), answered))
        });
        let ended = history.session_ends.iter().map(|end| (end.session, end.at));
        for (session, at) in closed.chain(ended) {
            let end = ends.entry(session).or_insert(u64::MAX);
            *end = at.order.min(*end);
        }
        let mut deadlines = vec![u64::MAX; history.attachments.len()];
        let mut by_number: Vec<_> = history.attachments.iter().collect();
        by_number.sort_by_key(|attachment| std::cmp::Reverse(attachment.number));
        for attachment in by_number {
            let end = ends.entry(attachment.session).or_insert(u64::MAX);
            deadlines[attachment.id.0] = *end;
            // Whatever was attached before this one has no say from here on.
            *end = attachment.opened.order.min(*end);
        }
        Deadlines(deadlines)
    }

    pub(super) fn of(&self, call: &Call) -> u64 {
        self.0[call.attachment.0]
    }
}

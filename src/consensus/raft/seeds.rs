//! Messages that a follower accepts from a peer: seeds for those who feed it with what isn't.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};

/// Messages of node 2 to node 1, by name; the first one carries an entry with this data. Node 1 holds
/// the first snapshot, index 1 of term 1, and nothing else.
pub(crate) fn message_seeds(data: Bytes) -> Vec<(&'static str, Vec<u8>)> {
    let message = |kind| Message {
        msg_type: kind,
        to: 1,
        from: 2,
        term: 2,
        ..Default::default()
    };
    let entry = |index, data: Bytes| Entry {
        term: 2,
        index,
        data,
        ..Default::default()
    };
    let mut append = message(MessageType::MsgAppend);
    (append.index, append.log_term, append.commit) = (1, 1, 3);
    append.entries = vec![entry(2, Bytes::new()), entry(3, data)].into();
    let mut vote = message(MessageType::MsgRequestVote);
    (vote.index, vote.log_term) = (5, 1);
    let mut pre_vote = message(MessageType::MsgRequestPreVote);
    (pre_vote.index, pre_vote.log_term) = (5, 1);
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    (heartbeat.commit, heartbeat.context) = (1, Bytes::from_static(&[0; 16]));
    let messages = [
        ("append", append),
        ("vote", vote),
        ("pre_vote", pre_vote),
        ("heartbeat", heartbeat),
        ("timeout_now", message(MessageType::MsgTimeoutNow)),
    ];
    messages
        .into_iter()
        .map(|(name, message)| {
            let bytes = message.write_to_bytes();
            (name, bytes.expect("a proto3 message is always complete"))
        })
        .collect()
}

//! What a peer's bytes must be before raft-rs sees them.
//!
//! raft-rs trusts its peers: a gap between entries, a term of 0 or a number near the end of its range
//! makes it panic, or takes a peer's word for its own. What can be told from the message alone is
//! refused here; what needs the core's state, in the core. The invariant: a message that passes is one
//! that some honest core could have sent.

use protobuf::Message as _;
use protobuf::UnknownFields;
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

use super::{convert, membership};
use crate::NodeId;
use crate::consensus::StepError;
use crate::proto;
use crate::transport::MESSAGE_BYTES_MAX;

/// No honest term or index comes near it, and adding 1 to one below it can't overflow.
const NUMBER_MAX: u64 = i64::MAX as u64;

/// The longest context that a message may carry, in bytes: that of a barrier is 16, that of a
/// transfer of leadership `CampaignTransfer`.
const CONTEXT_BYTES_MAX: usize = 32;

/// Parses a message that `from` sent to `to`.
pub(super) fn decode(from: NodeId, to: NodeId, bytes: &[u8]) -> Result<Message, StepError> {
    parse(bytes)
        .and_then(|message| check(from, to, &message).map(|()| message))
        .map_err(|reason| malformed(from, reason))
}

pub(super) fn malformed(from: NodeId, reason: impl Into<String>) -> StepError {
    StepError::Malformed {
        from,
        reason: reason.into(),
    }
}

fn parse(bytes: &[u8]) -> Result<Message, String> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(format!(
            "{} bytes are over the limit of {MESSAGE_BYTES_MAX}",
            bytes.len()
        ));
    }
    proto::check_shape::<Message>(bytes).map_err(|error| error.to_string())?;
    Message::parse_from_bytes(bytes).map_err(|error| error.to_string())
}

fn check(from: NodeId, to: NodeId, message: &Message) -> Result<(), String> {
    if message.from != from.as_u64() || message.to != to.as_u64() || from == to {
        return Err(format!(
            "it says that it goes from {} to {}, it came to {to}",
            message.from, message.to
        ));
    }
    known(&message.unknown_fields)?;
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ];
    if message.term == 0 || numbers.iter().any(|&number| number > NUMBER_MAX) {
        return Err("a term or an index is out of range".to_owned());
    }
    if message.request_snapshot != 0 || message.context.len() > CONTEXT_BYTES_MAX {
        return Err("a request that no core makes".to_owned());
    }
    let kind = message.get_msg_type();
    if kind != MessageType::MsgAppend && !message.get_entries().is_empty() {
        return Err(format!("{kind:?} with entries"));
    }
    if (kind == MessageType::MsgSnapshot) != message.has_snapshot() {
        return Err(format!("{kind:?} with a snapshot, or MsgSnapshot without"));
    }
    match kind {
        MessageType::MsgAppend => check_append(message),
        MessageType::MsgSnapshot => check_snapshot(message.term, message.get_snapshot()),
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgHeartbeat
        | MessageType::MsgHeartbeatResponse
        | MessageType::MsgTimeoutNow
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => Ok(()),
        // Local ones, and those with which raft-rs forwards what a client asked: our layers do that.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => Err(format!("{kind:?} doesn't come from a peer")),
    }
}

/// A term of 0 matches everything that isn't there, and a gap between entries is a panic.
fn check_append(message: &Message) -> Result<(), String> {
    if message.index == 0 || message.log_term == 0 {
        return Err("entries that follow nothing".to_owned());
    }
    let (mut index, mut term) = (message.index, message.log_term);
    for entry in message.get_entries() {
        if entry.index != index + 1 || entry.term < term || entry.term > message.term {
            return Err(format!(
                "entry {} of term {} after entry {index} of term {term}, from a leader of term {}",
                entry.index, entry.term, message.term
            ));
        }
        (index, term) = (entry.index, entry.term);
        check_entry(entry)?;
    }
    if index > NUMBER_MAX || term > message.term {
        return Err("a term or an index is out of range".to_owned());
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), String> {
    known(&entry.unknown_fields)?;
    // What the storage doesn't keep would come back without it.
    if !entry.context.is_empty() || entry.sync_log {
        return Err("an entry with fields that aren't kept".to_owned());
    }
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(()),
        EntryType::EntryConfChange => Err("a change of membership in the old encoding".to_owned()),
        EntryType::EntryConfChangeV2 => membership::decode(&entry.data).map(|_| ()),
    }
}

fn check_snapshot(term: u64, snapshot: &Snapshot) -> Result<(), String> {
    let metadata = snapshot.get_metadata();
    known(&snapshot.unknown_fields)?;
    known(&metadata.unknown_fields)?;
    known(&metadata.get_conf_state().unknown_fields)?;
    if !snapshot.data.is_empty() {
        return Err("a snapshot with data in it".to_owned());
    }
    if metadata.index == 0
        || metadata.index > NUMBER_MAX
        || metadata.term == 0
        || metadata.term > term
    {
        return Err(format!(
            "a snapshot at entry {} of term {}",
            metadata.index, metadata.term
        ));
    }
    convert::configuration_fault(metadata.get_conf_state())
        .map_or(Ok(()), |fault| Err(fault.to_owned()))
}

fn known(fields: &UnknownFields) -> Result<(), String> {
    match fields.fields {
        None => Ok(()),
        Some(_) => Err("it has fields that aren't known here".to_owned()),
    }
}

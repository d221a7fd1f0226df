//! One line for each thing that a core gives out, for traces and golden files.

use std::fmt::Write as _;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use crate::NodeId;
use crate::consensus::Ready;
use crate::storage::{Configuration, EntryKind, LogEntry};

pub(super) fn ready(id: u64, ready: &Ready) -> String {
    let mut line = format!("{id} ready {}:", ready.number);
    if let Some(meta) = &ready.install {
        let _ = write!(line, " install {}/{}", meta.index, meta.term);
    }
    if let Some(state) = ready.write.hard_state {
        let vote = state
            .vote
            .map_or(String::new(), |vote| format!(" vote {vote}"));
        let _ = write!(line, " term {}{vote} commit {}", state.term, state.commit);
    }
    if !ready.write.entries.is_empty() {
        let _ = write!(line, " write {}", entries(&ready.write.entries));
    }
    if !ready.committed.is_empty() {
        let _ = write!(line, " committed {}", entries(&ready.committed));
    }
    if let Some(configuration) = &ready.configuration {
        let _ = write!(
            line,
            " configuration {}",
            self::configuration(configuration)
        );
    }
    for (barrier, index) in &ready.barriers {
        let _ = write!(line, " barrier {barrier} at {index}");
    }
    for (to, bytes) in &ready.messages {
        let _ = write!(line, "\n  {}", message(id, to.as_u64(), bytes));
    }
    for send in &ready.snapshots {
        let _ = write!(
            line,
            "\n  {} (with snapshot {})",
            message(id, send.to.as_u64(), &send.message),
            send.meta.index
        );
    }
    line
}

pub(super) fn entries(entries: &[LogEntry]) -> String {
    let one = |entry: &LogEntry| {
        let text = match entry.kind {
            EntryKind::Command => String::from_utf8_lossy(&entry.data).into_owned(),
            EntryKind::Membership => format!("({} bytes of membership)", entry.data.len()),
        };
        format!(
            "{}/{}{}{text}",
            entry.index,
            entry.term,
            if text.is_empty() { "" } else { ":" }
        )
    };
    entries.iter().map(one).collect::<Vec<_>>().join(" ")
}

pub(super) fn configuration(configuration: &Configuration) -> String {
    let list = |nodes: &[NodeId]| {
        nodes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut text = format!("voters({})", list(&configuration.voters));
    for (name, nodes) in [
        ("outgoing", &configuration.voters_outgoing),
        ("learners", &configuration.learners),
        ("learners_next", &configuration.learners_next),
    ] {
        if !nodes.is_empty() {
            let _ = write!(text, " {name}({})", list(nodes));
        }
    }
    if configuration.auto_leave {
        text.push_str(" auto_leave");
    }
    text
}

pub(super) fn message(from: u64, to: u64, bytes: &Bytes) -> String {
    let message = Message::parse_from_bytes(bytes).unwrap();
    let mut text = format!(
        "{from}->{to} {:?} term {}",
        message.get_msg_type(),
        message.term
    );
    match message.get_msg_type() {
        MessageType::MsgAppend => {
            let _ = write!(
                text,
                " after {}/{} commit {}",
                message.index, message.log_term, message.commit
            );
            let list: Vec<String> = message
                .get_entries()
                .iter()
                .map(|entry| format!("{}/{}", entry.index, entry.term))
                .collect();
            if !list.is_empty() {
                let _ = write!(text, " entries {}", list.join(" "));
            }
        }
        MessageType::MsgAppendResponse if message.reject => {
            let _ = write!(
                text,
                " reject {} hint {}/{}",
                message.index, message.reject_hint, message.log_term
            );
        }
        MessageType::MsgAppendResponse => {
            let _ = write!(text, " index {}", message.index);
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            let _ = write!(text, " log {}/{}", message.index, message.log_term);
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            text.push_str(if message.reject { " reject" } else { " grant" });
        }
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => {
            let _ = write!(text, " commit {}", message.commit);
            if let Some(barrier) = message.context.get(8..16) {
                let _ = write!(
                    text,
                    " barrier {}",
                    u64::from_be_bytes(barrier.try_into().unwrap())
                );
            }
        }
        MessageType::MsgSnapshot => {
            let metadata = message.get_snapshot().get_metadata();
            let _ = write!(text, " at {}/{}", metadata.index, metadata.term);
        }
        _ => {}
    }
    text
}

//! What things are called on the screen.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate::transport::Peers;
use quorate::{Members, NodeId, NodeStatus, Role, SessionState, Stat};

/// Data as text; bytes that are none are escaped.
pub(crate) fn data(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok("") => "(empty)".to_owned(),
        Ok(text) if !text.contains(|c: char| c.is_control() && c != '\n' && c != '\t') => {
            text.to_owned()
        }
        _ => bytes.escape_ascii().to_string(),
    }
}

pub(crate) fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.is_empty() {
        true => "(none)".to_owned(),
        false => names.join(" "),
    }
}

pub(crate) fn stat(stat: &Stat) -> String {
    let owner = match stat.is_ephemeral() {
        true => format!("ephemeral, of session {}", stat.ephemeral_owner),
        false => "persistent".to_owned(),
    };
    format!(
        "data      {} bytes, version {}, by write {} ({})\n\
         children  {}, changed {} times, last by write {}\n\
         created   by write {} ({}), {owner}\n\
         ACL       version {}",
        stat.data_length,
        stat.version,
        stat.mzxid,
        ago(stat.mtime_ms),
        stat.children_count,
        stat.cversion,
        stat.pzxid,
        stat.czxid,
        ago(stat.ctime_ms),
        stat.aversion,
    )
}

/// By this machine's wall clock, which is not the leader's.
fn ago(at_ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = now.map_or(0, |now| now.as_millis() as i64);
    match (now_ms - at_ms).max(0) / 1000 {
        seconds @ ..120 => format!("{seconds} s ago"),
        seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} days ago", seconds / 86_400),
    }
}

fn ids(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    names(ids.iter().map(String::as_str))
}

pub(crate) fn members(members: &Members) -> String {
    let mut text = format!("voters: {}", ids(&members.voters));
    if !members.learners.is_empty() {
        let _ = write!(text, ", learners: {}", ids(&members.learners));
    }
    if !members.voters_outgoing.is_empty() {
        let outgoing = ids(&members.voters_outgoing);
        let _ = write!(text, "; until that is settled also voters: {outgoing}");
    }
    text
}

/// A line for each member.
pub(crate) fn member_list(status: &NodeStatus, own_address: &str, peers: &Peers) -> String {
    let lines: Vec<String> = status
        .members
        .iter()
        .map(|member| {
            let id = member.id;
            let kind = if member.is_voter { "voter" } else { "learner" };
            let leads = match status.leader == Some(id) {
                true => "leads",
                false => "",
            };
            let address = match id == status.id {
                true => Some(own_address.to_owned()),
                false => peers.address(id.as_u64()),
            };
            let address = address.unwrap_or_else(|| "(address unknown)".to_owned());
            let progress = match (member.is_silent, member.lag) {
                (Some(true), _) => "silent".to_owned(),
                (_, Some(0)) => "has everything".to_owned(),
                (_, Some(lag)) => format!("{lag} entries behind"),
                (_, None) => String::new(),
            };
            let line = format!("node {id}  {kind:7}  {leads:5}  {address}  {progress}");
            line.trim_end().to_owned()
        })
        .collect();
    match lines.is_empty() {
        true => "(not known yet)".to_owned(),
        false => lines.join("\n"),
    }
}

pub(crate) fn status(status: &NodeStatus) -> String {
    let doing = match status.role {
        Role::Leader => "leads".to_owned(),
        Role::Candidate => "stands for election".to_owned(),
        Role::Joining => "waits to be added".to_owned(),
        Role::Removed => "was removed".to_owned(),
        Role::Stopped => "has stopped".to_owned(),
        _ => match status.leader {
            Some(leader) => format!("follows node {leader}"),
            None => "knows no leader".to_owned(),
        },
    };
    let learner = match status.role {
        Role::Learner => " without a vote",
        _ => "",
    };
    format!(
        "node {} {doing}{learner}, term {}\n\
         log       committed up to {}, applied up to {}, the last write is {}\n\
         tree      {} znodes, {} bytes\n\
         sessions  {}, {} of them here; {} watches here",
        status.id,
        status.term,
        status.commit_index,
        status.applied_index,
        status.zxid,
        status.znodes,
        status.data_bytes,
        status.sessions,
        status.sessions_attached,
        status.watches,
    )
}

pub(crate) fn session_state(state: SessionState) -> &'static str {
    match state {
        SessionState::Connected => "the session is connected",
        SessionState::Suspended => "the session is suspended: the leader can't be reached",
        SessionState::Lost => "the session is lost, and with it its ephemerals and locks",
        SessionState::Moved => "the session has moved to another node",
        SessionState::Closed => "the session is closed",
        _ => "the session is in a state without a name",
    }
}

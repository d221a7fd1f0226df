//! A history as text, one line for each thing that happened, in order: for reports of failures.

use std::fmt;

use super::{Answer, Call, Consistency, History, Moment, Op, Outcome};
use crate::ids::Version;
use crate::node::Event;

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Create { path, data, mode } => {
                write!(f, "create {path} {} {mode:?}", text(data))
            }
            Op::Set {
                path,
                data,
                version,
            } => write!(f, "set {path} {}{}", text(data), Condition(*version)),
            Op::Delete { path, version } => write!(f, "delete {path}{}", Condition(*version)),
            Op::Check { path, version } => write!(f, "check {path}{}", Condition(*version)),
            Op::Multi(ops) | Op::MultiRead(ops) => {
                let kind = if self.is_write() {
                    "multi"
                } else {
                    "multi-read"
                };
                write!(f, "{kind} [")?;
                for (index, op) in ops.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{op}")?;
                }
                f.write_str("]")
            }
            Op::Get { path } => write!(f, "get {path}"),
            Op::Exists { path } => write!(f, "exists {path}"),
            Op::Children { path } => write!(f, "children {path}"),
            Op::Sync => f.write_str("sync"),
            Op::Close => f.write_str("close"),
        }
    }
}

struct Condition(Version);

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == Version::ANY {
            return Ok(());
        }
        write!(f, " if version {}", self.0)
    }
}

/// Data as text, cut where it is long.
fn text(data: &[u8]) -> String {
    const SHOWN_MAX: usize = 40;
    if data.len() <= SHOWN_MAX {
        return format!("\"{}\"", data.escape_ascii());
    }
    format!(
        "\"{}...\" ({} bytes)",
        data[..SHOWN_MAX].escape_ascii(),
        data.len()
    )
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Created { path, stat } => write!(f, "{path}, zxid {}", stat.czxid),
            Answer::Set(stat) => write!(f, "version {}, zxid {}", stat.version, stat.mzxid),
            Answer::Done => f.write_str("done"),
            Answer::Multi(answers) => {
                f.write_str("[")?;
                for (index, answer) in answers.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "; " };
                    write!(f, "{separator}{answer}")?;
                }
                f.write_str("]")
            }
            Answer::Data { data, stat } => write!(
                f,
                "{}, version {}, of zxid {}",
                text(data),
                stat.version,
                stat.mzxid
            ),
            Answer::Refused(error) => write!(f, "{error}"),
            Answer::Exists(None) => f.write_str("no znode"),
            Answer::Exists(Some(stat)) => write!(
                f,
                "version {}, of zxid {}, created by {}",
                stat.version, stat.mzxid, stat.czxid
            ),
            Answer::Children { names, stat } => {
                write!(f, "{} children, of zxid {}", names.len(), stat.pzxid)?;
                if names.len() <= 8 {
                    write!(f, ": {}", names.join(" "))?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Pending => f.write_str("never answered"),
            Outcome::Ok(answer) => write!(f, "{answer}"),
            Outcome::Failed(error) => write!(f, "did not happen: {error}"),
            Outcome::Unknown(error) => write!(f, "may have happened: {error}"),
        }
    }
}

impl History {
    /// One line for a call: who, what, when, and what came of it.
    pub fn describe(&self, call: &Call) -> String {
        let attachment = self.attachment(call.attachment);
        let way = match call.consistency {
            Consistency::Linearizable if !call.op.is_write() => "linearizable ",
            _ => "",
        };
        let answered = match call.answered {
            Some(answered) => answered.to_string(),
            None => "...".to_string(),
        };
        format!(
            "{} ({}, session {}, node {}) {}..{answered} {way}{} -> {}",
            call.id,
            attachment.client,
            attachment.session,
            attachment.node,
            call.called,
            call.op,
            call.outcome
        )
    }

    /// Every line with its moment, in order.
    fn lines(&self) -> Vec<(Moment, String)> {
        let mut lines = self.notes.clone();
        for attachment in &self.attachments {
            lines.push((
                attachment.opened,
                format!(
                    "{} has {}: session {} attachment {} on node {}, timeout {:?}, asked for at {}",
                    attachment.client,
                    attachment.id,
                    attachment.session,
                    attachment.number,
                    attachment.node,
                    attachment.timeout,
                    attachment.called
                ),
            ));
            for (at, state) in &attachment.states {
                lines.push((*at, format!("{} is {state:?}", attachment.id)));
            }
            if let Some((at, how)) = &attachment.ended {
                lines.push((*at, format!("{} ended: {how:?}", attachment.id)));
            }
        }
        for call in &self.calls {
            let (id, at) = (call.id, call.attachment);
            let way = match call.consistency {
                Consistency::Linearizable if !call.op.is_write() => "linearizable ",
                _ => "",
            };
            lines.push((call.called, format!("{id} at {at}: {way}{}", call.op)));
            if let Some(answered) = call.answered {
                lines.push((answered, format!("{id} -> {}", call.outcome)));
            }
        }
        self.add_watches(&mut lines);
        self.add_cluster(&mut lines);
        lines.sort_by_key(|(at, _)| *at);
        lines
    }

    fn add_watches(&self, lines: &mut Vec<(Moment, String)>) {
        for watch in &self.watches {
            let (id, watcher, path) = (watch.id, watch.watcher, &watch.path);
            if let Some(set) = &watch.set {
                let after = set
                    .after
                    .map_or(String::new(), |zxid| format!(" after zxid {zxid}"));
                lines.push((
                    set.at,
                    format!("{id} of {watcher}: {:?} on {path}{after}", watch.kind),
                ));
            }
            if let Some(removed) = watch.removed {
                lines.push((removed, format!("{id} of {watcher} removed")));
            }
        }
        for received in &self.received {
            let watcher = received.watcher;
            let told = match &received.event {
                Event::Changed(event) => {
                    format!("{:?} {} of zxid {}", event.kind, event.path, event.zxid)
                }
                Event::Missed { from } => format!("events from zxid {from} on are missing"),
                Event::Session(state) => format!("session {state:?}"),
            };
            lines.push((received.at, format!("{watcher} is told: {told}")));
        }
    }

    fn add_cluster(&self, lines: &mut Vec<(Moment, String)>) {
        for hold in &self.holds {
            let (client, lock, token) = (hold.client, &hold.lock, hold.token);
            lines.push((hold.began, format!("{client} holds {lock}, token {token}")));
            if hold.last > hold.began {
                lines.push((
                    hold.last,
                    format!("{client} acts last as holder of {lock}, token {token}"),
                ));
            }
        }
        for change in &self.changes {
            let (zxid, kind, path) = (change.zxid, change.kind, &change.path);
            lines.push((change.applied, format!("    zxid {zxid}: {kind:?} {path}")));
        }
        for end in &self.session_ends {
            lines.push((end.at, format!("    session {} is over", end.session)));
        }
        for skip in &self.skips {
            let (node, from, to) = (skip.node, skip.from, skip.to);
            lines.push((
                skip.at,
                format!("    node {node} goes from zxid {from} to {to} by a snapshot"),
            ));
        }
        for phase in &self.phases {
            lines.push((phase.began, format!("=== {:?}", phase.kind)));
        }
    }
}

/// One line for each thing that happened, in order.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, line) in self.lines() {
            writeln!(f, "{:>12} {line}", at.to_string())?;
        }
        Ok(())
    }
}

//! Metrics in Prometheus' text format: ZooKeeper's under the names that its provider gives them, and
//! the node's own, which begin with `quorate_`.

use std::fmt::{Display, Write as _};

use super::http::{Reply, Status};
use crate::server::Shared;
use crate::server::report::{self, Kind, VERSION, Value};
use crate::{NodeStatus, Role};

pub(super) fn reply(shared: &Shared) -> Reply {
    let status = shared.look();
    Reply {
        status: Status::Ok,
        content_type: "text/plain; version=0.0.4; charset=utf-8",
        body: text(&status, shared).into_bytes(),
    }
}

fn text(status: &NodeStatus, shared: &Shared) -> String {
    let mut text = String::new();
    for metric in report::metrics(status, shared) {
        let value: &dyn Display = match &metric.value {
            Value::Whole(value) => value,
            Value::Fraction(value) => value,
            Value::Text(_) => continue,
        };
        one(&mut text, &metric.name, metric.kind, value);
    }
    let mode = report::mode(status, shared);
    let _ = write!(
        text,
        "# TYPE quorate_info gauge\n\
         quorate_info{{version=\"{VERSION}\",id=\"{}\",state=\"{mode}\"}} 1\n",
        status.id
    );
    own(&mut text, status);
    members(&mut text, status);
    text
}

fn own(text: &mut String, status: &NodeStatus) {
    let queues = &status.queues;
    let is_leader = u64::from(status.role == Role::Leader);
    let has_leader = u64::from(status.leader.is_some());
    let gauges = [
        ("term", status.term),
        ("is_leader", is_leader),
        ("has_leader", has_leader),
        ("zxid", status.zxid.0),
        ("commit_index", status.commit_index),
        ("applied_index", status.applied_index),
        ("voters", status.voters.len() as u64),
        ("learners", status.learners.len() as u64),
        ("rules", status.rules.into()),
        ("sessions_attached", status.sessions_attached as u64),
        ("soft_quota_exceeded", status.soft_quota_exceeded),
        ("queue_requests", queues.requests as u64),
        ("queue_calls", queues.calls as u64),
        ("queue_peer_messages", queues.peer_messages as u64),
        ("queue_writes", queues.writes as u64),
        ("queue_snapshots", queues.snapshots as u64),
    ];
    for (name, value) in gauges {
        one(text, &format!("quorate_{name}"), Kind::Gauge, &value);
    }
}

/// How far the others are, as the leader knows.
fn members(text: &mut String, status: &NodeStatus) {
    if status.role != Role::Leader {
        return;
    }
    text.push_str("# TYPE quorate_member_lag gauge\n");
    for member in &status.members {
        if let Some(lag) = member.lag {
            let _ = writeln!(text, "quorate_member_lag{{member=\"{}\"}} {lag}", member.id);
        }
    }
    text.push_str("# TYPE quorate_member_silent gauge\n");
    for member in &status.members {
        if let Some(is_silent) = member.is_silent {
            let (id, is_silent) = (member.id, u8::from(is_silent));
            let _ = writeln!(text, "quorate_member_silent{{member=\"{id}\"}} {is_silent}");
        }
    }
}

fn one(text: &mut String, name: &str, kind: Kind, value: &dyn Display) {
    let kind = match kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
    };
    let _ = writeln!(text, "# TYPE {name} {kind}\n{name} {value}");
}

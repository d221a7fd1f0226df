//! ZooKeeper's commands as JSON (`org.apache.zookeeper.server.admin.Commands`), under its names and those
//! of the four-letter words. What means nothing here isn't there: Java's properties, the first configuration,
//! the files of snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde_json::{Map, Value, json};

use super::http::{Reply, Request, Status};
use crate::server::Shared;
use crate::server::report::{self, Value as Measured};
use crate::server::statistics::ConnectionFacts;
use crate::server::words::lists;
use crate::{NodeStatus, Role, SessionId};

/// The commands' names; the first of each is its proper one.
const COMMANDS: [&[&str]; 22] = [
    &["configuration", "conf", "config"],
    &["connection_stat_reset", "crst"],
    &["connections", "cons"],
    &["dirs"],
    &["dump"],
    &["environment", "env", "envi"],
    &["get_trace_mask", "gtmk"],
    &["hash"],
    &["is_read_only", "isro"],
    &["leader", "lead"],
    &["monitor", "mntr"],
    &["observers", "obsr"],
    &["ruok"],
    &["server_stats", "srvr"],
    &["set_trace_mask", "stmk"],
    &["stat_reset", "srst"],
    &["stats", "stat"],
    &["voting_view"],
    &["watch_summary", "wchs"],
    &["watches", "wchc"],
    &["watches_by_path", "wchp"],
    &["zabstate"],
];

/// How digests are calculated: a number of our own, since ZooKeeper's are others.
const DIGEST_VERSION: u32 = 1;

/// Those that are answered by a server that serves nobody.
const ALWAYS: [&str; 6] = [
    "environment",
    "get_trace_mask",
    "set_trace_mask",
    "monitor",
    "zabstate",
    "is_read_only",
];

/// Links to all commands, as ZooKeeper lists them.
pub(super) fn list() -> Reply {
    let links: String = COMMANDS
        .iter()
        .map(|names| format!("<a href=\"/commands/{0}\">{0}</a><br/>\n", names[0]))
        .collect();
    Reply {
        status: Status::Ok,
        content_type: "text/html; charset=utf-8",
        body: links.into_bytes(),
    }
}

/// Runs a command.
pub(super) fn run(name: &str, request: &Request, shared: &Shared) -> Reply {
    let command = COMMANDS.iter().find(|names| names.contains(&name));
    let Some(command) = command.map(|names| names[0]) else {
        let error = format!("Unknown command: {name}");
        return json_reply(Status::NotFound, name, Err(error));
    };
    let status = shared.look();
    if !shared.serves() && !ALWAYS.contains(&command) {
        let error = "This ZooKeeper instance is not currently serving requests".to_string();
        return json_reply(Status::Unavailable, command, Err(error));
    }
    match answer(command, request, &status, shared) {
        Ok(answer) => json_reply(Status::Ok, command, Ok(answer)),
        Err(error) => json_reply(Status::BadRequest, command, Err(error)),
    }
}

fn json_reply(status: Status, command: &str, answer: Result<Value, String>) -> Reply {
    let (error, mut fields) = match answer {
        Ok(Value::Object(fields)) => (Value::Null, fields),
        Ok(other) => unreachable!("{other} is no object"),
        Err(error) => (error.into(), Map::new()),
    };
    fields.insert("command".to_string(), command.into());
    fields.insert("error".to_string(), error);
    let mut body = serde_json::to_vec_pretty(&fields).unwrap_or_default();
    body.push(b'\n');
    Reply {
        status,
        content_type: "application/json",
        body,
    }
}

fn answer(
    command: &str,
    request: &Request,
    status: &NodeStatus,
    shared: &Shared,
) -> Result<Value, String> {
    Ok(match command {
        "configuration" => configuration(status, shared),
        "connections" => {
            let (secure, plain): (Vec<_>, Vec<_>) = shared
                .statistics
                .connections()
                .into_iter()
                .partition(|connection| connection.is_encrypted.load(Relaxed));
            let all = |connections: Vec<Arc<ConnectionFacts>>| -> Vec<Value> {
                let connections = connections.iter();
                connections.map(|facts| connection(facts, true)).collect()
            };
            json!({ "connections": all(plain), "secure_connections": all(secure) })
        }
        "connection_stat_reset" => {
            for connection in shared.statistics.connections() {
                connection.reset();
            }
            json!({})
        }
        "dirs" => {
            let bytes = report::directory_bytes(shared);
            json!({ "datadir_size": bytes, "logdir_size": bytes })
        }
        "dump" => dump(shared),
        "environment" => {
            let entries = report::environment().into_iter();
            entries.map(|(key, value)| (key, json!(value))).collect()
        }
        "get_trace_mask" => json!({ "tracemask": shared.trace_mask.load(Relaxed) }),
        "set_trace_mask" => set_trace_mask(request, shared)?,
        // There is no history of digests.
        "hash" => {
            let digests = shared.node.digests().into_iter();
            let digests: Vec<Value> = digests
                .map(|(zxid, digest)| {
                    let digest = digest as i64;
                    json!({ "zxid": zxid.0, "digestVersion": DIGEST_VERSION, "digest": digest })
                })
                .collect();
            json!({ "digests": digests })
        }
        "is_read_only" => json!({ "read_only": shared.is_read_only() }),
        "leader" => leader(status, shared),
        "monitor" => monitor(status, shared),
        "observers" => observers(status),
        "ruok" => json!({}),
        "server_stats" => server_stats(status, shared),
        "stats" => {
            let mut stats = server_stats(status, shared);
            let connections = shared.statistics.connections();
            let connections = connections.iter().map(|facts| connection(facts, false));
            stats["connections"] = connections.collect();
            stats
        }
        "stat_reset" => {
            shared.statistics.reset();
            json!({})
        }
        "voting_view" => voting_view(shared),
        "watch_summary" => {
            let (sessions, paths, total) = lists::summary(&lists::data_watches(shared));
            json!({
                "num_connections": sessions,
                "num_paths": paths,
                "num_total_watches": total,
            })
        }
        "watches" => {
            let watches = lists::data_watches(shared).into_iter();
            let pairs = watches.map(|watch| (watch.session, watch.path.to_string()));
            json!({ "session_id_to_watched_paths": by_id(lists::by_session(pairs)) })
        }
        "watches_by_path" => {
            let mut paths: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
            for watch in lists::data_watches(shared) {
                let sessions = paths.entry(watch.path.to_string()).or_default();
                sessions.insert(watch.session.0);
            }
            json!({ "path_to_session_ids": paths })
        }
        "zabstate" => {
            let state = match status.leader {
                _ if report::is_standalone(status) => "",
                Some(_) => "broadcast",
                None => "election",
            };
            let is_voting = status.voters.contains(&status.id);
            json!({ "voting": is_voting, "zabstate": state })
        }
        _ => unreachable!("these are all commands"),
    })
}

fn configuration(status: &NodeStatus, shared: &Shared) -> Value {
    let settings = &shared.settings;
    let (shortest, longest) = status.session_timeouts_ms;
    let directory = settings.directory.as_deref();
    let directory = directory.map(|path| path.display().to_string());
    json!({
        "client_port": shared.address.port(),
        "secure_client_port": shared.secure_address.map(|address| address.port()),
        "data_dir": directory,
        "data_log_dir": directory,
        "tick_time": shortest / 2,
        "max_client_cnxns": settings.connections_per_address_max,
        "min_session_timeout": shortest,
        "max_session_timeout": longest,
        "server_id": status.id.as_u64(),
    })
}

fn connection(facts: &ConnectionFacts, with_details: bool) -> Value {
    let session = facts.session.load(Relaxed);
    let mut shown = json!({
        "remote_socket_address": facts.peer.to_string(),
        "outstanding_requests": facts.outstanding.load(Relaxed),
        "packets_received": facts.received.load(Relaxed),
        "packets_sent": facts.sent.load(Relaxed),
    });
    if with_details && session != 0 {
        let last = *facts.last.lock();
        let (min, mean, max) = facts.latency.ms();
        let details = json!({
            "session_id": session,
            "last_operation": report::operation(last.opcode),
            "established": facts.established_ms,
            "session_timeout": facts.timeout_ms.load(Relaxed),
            "last_cxid": last.xid,
            "last_zxid": last.zxid,
            "last_response_time": facts.established_ms + last.at_ms,
            "last_latency": last.latency_ms,
            "min_latency": min,
            "avg_latency": mean,
            "max_latency": max,
        });
        if let (Value::Object(shown), Value::Object(details)) = (&mut shown, details) {
            shown.extend(details);
        }
    }
    shown
}

/// When sessions expire the leader alone knows: their timeouts are shown instead.
fn dump(shared: &Shared) -> Value {
    let timeouts: Map<String, Value> = shared
        .node
        .sessions()
        .iter()
        .map(|session| (session.id.0.to_string(), session.timeout_ms.into()))
        .collect();
    let ephemerals = shared.node.ephemerals().into_iter();
    let ephemerals = ephemerals.map(|(session, path)| (session, path.to_string()));
    json!({
        "session_id_to_timeout": timeouts,
        "session_id_to_ephemeral_paths": by_id(lists::by_session(ephemerals)),
    })
}

fn by_id(sessions: BTreeMap<SessionId, BTreeSet<String>>) -> Value {
    let sessions = sessions.into_iter();
    sessions
        .map(|(session, paths)| (session.0.to_string(), json!(paths)))
        .collect()
}

fn set_trace_mask(request: &Request, shared: &Shared) -> Result<Value, String> {
    const WANTED: &str = "setTraceMask requires long traceMask argument";
    let text = request.parameter("traceMask").ok_or(WANTED)?;
    let mask: i64 = text.parse().map_err(|_| format!("{WANTED}, got {text}"))?;
    shared.trace_mask.store(mask, Relaxed);
    Ok(json!({ "tracemask": mask }))
}

fn leader(status: &NodeStatus, shared: &Shared) -> Value {
    let id = status.leader.map(|leader| leader.as_u64());
    let known = shared.ensemble_with_version();
    let known = known.map(|(known, _)| known).unwrap_or_default();
    let server = id.and_then(|id| known.servers.get(&id));
    let address = server.map(|server| server.peer.to_string());
    json!({
        "is_leader": status.role == Role::Leader,
        "leader_id": id,
        "leader_ip": address.unwrap_or_default(),
    })
}

fn monitor(status: &NodeStatus, shared: &Shared) -> Value {
    let metrics = report::metrics(status, shared).into_iter();
    metrics
        .map(|metric| {
            let value = match metric.value {
                Measured::Whole(value) => json!(value),
                Measured::Fraction(value) => json!(value),
                Measured::Text(value) => json!(value),
            };
            (metric.name, value)
        })
        .collect()
}

/// The learners that the leader hears of.
fn observers(status: &NodeStatus) -> Value {
    let members = status.members.iter();
    let observers: Vec<Value> = members
        .filter(|member| !member.is_voter && member.is_silent == Some(false))
        .map(|member| json!({ "sid": member.id.as_u64(), "lag": member.lag }))
        .collect();
    json!({ "synced_observers": observers.len(), "observers": observers })
}

fn server_stats(status: &NodeStatus, shared: &Shared) -> Value {
    let statistics = &shared.statistics;
    let (min, mean, max) = statistics.latency.ms();
    let bytes = report::directory_bytes(shared);
    let responses = json!({
        "last_buffer_size": statistics.last_reply_bytes.load(Relaxed),
        "min_buffer_size": statistics.min_reply_bytes(),
        "max_buffer_size": statistics.max_reply_bytes.load(Relaxed),
    });
    json!({
        "version": report::full_version(),
        "read_only": shared.is_read_only(),
        "server_stats": {
            "packets_sent": statistics.sent.load(Relaxed),
            "packets_received": statistics.received.load(Relaxed),
            "min_latency": min,
            "avg_latency": mean,
            "max_latency": max,
            "server_state": report::mode(status, shared),
            "outstanding_requests": shared.outstanding.load(Relaxed),
            "data_dir_size": bytes,
            "log_dir_size": bytes,
            "last_processed_zxid": status.zxid.0,
            "num_alive_client_connections": shared.connections.load(Relaxed),
            "auth_failed_count": statistics.authentications_failed.load(Relaxed),
            "uptime": statistics.uptime().as_millis() as u64,
            "client_response_stats": responses,
        },
        "client_response": responses,
        "node_count": status.znodes,
    })
}

fn voting_view(shared: &Shared) -> Value {
    let known = shared.ensemble_with_version();
    let servers = known.map(|(known, _)| known.servers).unwrap_or_default();
    let voting = servers.iter().filter(|(_, server)| server.is_participant);
    let view: Map<String, Value> = voting
        .map(|(id, server)| (id.to_string(), server.to_string().into()))
        .collect();
    json!({ "current_config": view })
}

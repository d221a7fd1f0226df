//! Tells what happens in the cluster and to what is watched, as it happens.

use std::thread;

use quorate::{Event, EventKind, NodeEvent, NodeEvents, SessionState, WatchEvent, Watcher};

use crate::output::Output;
use crate::texts;

/// Tells what becomes of the cluster, until the node has stopped.
pub(crate) fn tell_of_node(events: NodeEvents, output: &Output) {
    let output = output.clone();
    thread::spawn(move || {
        for event in events {
            output.event(node_text(&event));
        }
    });
}

/// Tells what a watcher hears, until it is dropped or its session is over.
pub(crate) fn tell_of_watches(watcher: &Watcher, output: &Output) {
    let (heard, output) = (watcher.receiver().clone(), output.clone());
    thread::spawn(move || {
        for event in heard {
            match event {
                Event::Changed(event) => output.event(change_text(&event)),
                Event::Missed { from } => {
                    output.event(format_args!(
                        "changes since write {from} were too many to tell"
                    ));
                }
                Event::Session(SessionState::Closed) => return,
                Event::Session(state) => output.event(texts::session_state(state)),
                other => output.event(format_args!("{other:?}")),
            }
        }
    });
}

fn node_text(event: &NodeEvent) -> String {
    match event {
        NodeEvent::LeaderChanged { leader, term } => match leader {
            Some(leader) => format!("node {leader} leads (term {term})"),
            None => format!("no leader is known (term {term})"),
        },
        NodeEvent::MembershipChanged { members } => texts::members(members),
        NodeEvent::SnapshotInstalled { index } => {
            format!("this node has the leader's state up to entry {index}")
        }
        NodeEvent::Missed { events } => format!("{events} events were too many to tell"),
        NodeEvent::Removed => "this node was removed from the cluster and has stopped".to_owned(),
        NodeEvent::Stopped { reason } => format!("this node has stopped: {reason}"),
        other => format!("{other:?}"),
    }
}

fn change_text(event: &WatchEvent) -> String {
    let (path, zxid) = (&event.path, event.zxid);
    match event.kind {
        EventKind::NodeCreated => format!("{path} was created (write {zxid})"),
        EventKind::NodeDeleted => format!("{path} was deleted (write {zxid})"),
        EventKind::NodeDataChanged => format!("{path} was set (write {zxid})"),
        EventKind::NodeChildrenChanged => format!("{path} has other children (write {zxid})"),
        other => format!("{path}: {other:?} (write {zxid})"),
    }
}

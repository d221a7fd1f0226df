//! Watchers: watches of every kind, on znodes that change all the time.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use crate::ids::Version;
use crate::node::WatchKind;
use crate::op::CreateMode;
use crate::testing::history::Op;

const PATHS: [&str; 3] = ["/w/0", "/w/1", "/w/2"];

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(act(client))
}

async fn act(client: &Client) {
    let path = client.pick(&PATHS);
    match client.random(10) {
        0 => {
            let read = client.call_watching(Op::get(path), WatchKind::Data, |session, watcher| {
                session.get_and_watch(path, watcher)
            });
            drop(read.await);
        }
        1 => {
            let op = Op::exists(path);
            let read = client.call_watching(op, WatchKind::Data, |session, watcher| {
                session.exists_and_watch(path, watcher)
            });
            drop(read.await);
        }
        2 => {
            let op = Op::children("/w");
            let read = client.call_watching(op, WatchKind::Children, |session, watcher| {
                session.children_and_watch("/w", watcher)
            });
            drop(read.await);
        }
        3 => client.watch(path, WatchKind::Persistent),
        4 => client.watch("/w", WatchKind::PersistentRecursive),
        5 => drop(
            client
                .call(Op::get(path), |session| session.get(path))
                .await,
        ),
        _ => change(client, path).await,
    }
}

async fn change(client: &Client, path: &str) {
    let value = client.value();
    match client.random(4) {
        0 => {
            let op = Op::delete(path, Version::ANY);
            drop(
                client
                    .call(op, |session| session.delete(path, Version::ANY))
                    .await,
            );
        }
        1 => {
            let mode = CreateMode::Persistent;
            let op = Op::create(path, &value, mode);
            drop(
                client
                    .call(op, |session| session.create(path, &value, mode))
                    .await,
            );
        }
        _ => {
            let op = Op::set(path, &value, Version::ANY);
            drop(
                client
                    .call(op, |session| session.set(path, &value, Version::ANY))
                    .await,
            );
        }
    }
}

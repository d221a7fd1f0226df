//! Registers: a few znodes that everybody sets and reads.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use crate::ids::Version;
use crate::testing::history::Op;

pub(super) const PATHS: [&str; 3] = ["/r/0", "/r/1", "/r/2"];

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(act(client))
}

/// Shows that writes are served.
pub(super) fn write(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async { drop(set(client, PATHS[0]).await) })
}

async fn act(client: &Client) {
    let path = client.pick(&PATHS);
    match client.random(7) {
        0 | 1 => drop(set(client, path).await),
        2 => {
            let read = client.call_linearizable(Op::get(path), |session| session.get(path));
            drop(read.await);
        }
        3 => {
            drop(client.call(Op::Sync, |session| session.sync()).await);
            drop(
                client
                    .call(Op::get(path), |session| session.get(path))
                    .await,
            );
        }
        4 => pipelined(client).await,
        _ => drop(
            client
                .call(Op::get(path), |session| session.get(path))
                .await,
        ),
    }
}

async fn set(client: &Client, path: &str) -> crate::Result<crate::Stat> {
    let value = client.value();
    let op = Op::set(path, &value, Version::ANY);
    client
        .call(op, |session| session.set(path, &value, Version::ANY))
        .await
}

/// Several calls under way at once: they take effect in their order all the same.
async fn pipelined(client: &Client) {
    let (path, other) = (client.pick(&PATHS), client.pick(&PATHS));
    let values = [client.value(), client.value()];
    let sets = [(path, &values[0]), (other, &values[1])].map(|(path, value)| {
        client.begin(Op::set(path, value, Version::ANY), |session| {
            session.set(path, value, Version::ANY)
        })
    });
    let read = client.begin(Op::get(path), |session| session.get(path));
    for set in sets {
        drop(client.finish(set).await);
    }
    drop(client.finish(read).await);
}

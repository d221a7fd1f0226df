//! Ephemerals: they come and go with sessions that close, expire, crash and move.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use crate::ids::Version;
use crate::op::CreateMode;
use crate::testing::history::Op;

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(act(client))
}

async fn act(client: &Client) {
    let own = format!("/e/{}", client.person.number);
    let other = format!("/e/{}", client.random(5));
    match client.random(5) {
        0 => {
            let (value, mode) = (client.value(), CreateMode::Ephemeral);
            let op = Op::create(&own, &value, mode);
            drop(
                client
                    .call(op, |session| session.create(&own, &value, mode))
                    .await,
            );
        }
        1 => {
            let op = Op::delete(&own, Version::ANY);
            drop(
                client
                    .call(op, |session| session.delete(&own, Version::ANY))
                    .await,
            );
        }
        2 => {
            let (value, mode) = (client.value(), CreateMode::EphemeralSequential);
            let op = Op::create("/e/s-", &value, mode);
            drop(
                client
                    .call(op, |session| session.create("/e/s-", &value, mode))
                    .await,
            );
        }
        3 => {
            let read = client.call_linearizable(Op::exists(&other), |s| s.exists(&other));
            drop(read.await);
        }
        _ => drop(
            client
                .call(Op::children("/e"), |session| session.children("/e"))
                .await,
        ),
    }
}

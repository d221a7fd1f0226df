//! Sequential creates: everybody puts something into a queue, and takes the first of it out.

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
    match client.random(6) {
        0..=2 => drop(append(client).await),
        3 => {
            let read = client.call_linearizable(Op::children("/q"), |s| s.children("/q"));
            drop(read.await);
        }
        4 => drop(
            client
                .call(Op::children("/q"), |session| session.children("/q"))
                .await,
        ),
        _ => take(client).await,
    }
}

async fn append(client: &Client) -> crate::Result<crate::Created> {
    let (value, mode) = (client.value(), CreateMode::PersistentSequential);
    let op = Op::create("/q/x-", &value, mode);
    client
        .call(op, |session| session.create("/q/x-", &value, mode))
        .await
}

async fn take(client: &Client) {
    let read = client
        .call(Op::children("/q"), |session| session.children("/q"))
        .await;
    let Ok((names, _)) = read else { return };
    let Some(first) = names.iter().next().map(|name| format!("/q/{name}")) else {
        return;
    };
    let op = Op::delete(&first, Version::ANY);
    drop(
        client
            .call(op, |session| session.delete(&first, Version::ANY))
            .await,
    );
}

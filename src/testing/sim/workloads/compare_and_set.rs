//! Compare-and-set: conditional writes of znodes that everybody wants, and that come and go.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use crate::ids::Version;
use crate::op::CreateMode;
use crate::testing::history::Op;

const PATHS: [&str; 2] = ["/c/0", "/c/1"];

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(act(client))
}

async fn act(client: &Client) {
    let path = client.pick(&PATHS);
    let read = match client.random(2) {
        0 => {
            client
                .call(Op::get(path), |session| session.get(path))
                .await
        }
        _ => {
            let read = client.call_linearizable(Op::get(path), |session| session.get(path));
            read.await
        }
    };
    let value = client.value();
    match read {
        Ok((_, stat)) if client.random(5) > 0 => {
            let version = Version(stat.version);
            let op = Op::set(path, &value, version);
            drop(
                client
                    .call(op, |session| session.set(path, &value, version))
                    .await,
            );
        }
        Ok((_, stat)) => {
            let version = Version(stat.version);
            let op = Op::delete(path, version);
            drop(
                client
                    .call(op, |session| session.delete(path, version))
                    .await,
            );
        }
        Err(_) => {
            let mode = CreateMode::Persistent;
            let op = Op::create(path, &value, mode);
            drop(
                client
                    .call(op, |session| session.create(path, &value, mode))
                    .await,
            );
        }
    }
}

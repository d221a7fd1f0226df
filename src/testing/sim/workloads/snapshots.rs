//! Snapshots: data of some size and almost no log behind it, so that whoever was away needs one.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use super::{registers, sequential};
use crate::ids::Version;
use crate::node::NodeBuilder;
use crate::testing::history::Op;

const PATHS: [&str; 2] = ["/big/0", "/big/1"];
/// How long data is, in bytes, at most.
const BYTES_MAX: u64 = 6_000;

/// A snapshot after every few writes, and hardly an entry kept before it.
pub(super) fn configure(builder: NodeBuilder) -> NodeBuilder {
    builder.snapshot_log_bytes(2_000).log_entries_kept(3)
}

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    match client.random(4) {
        0 => registers::step(client),
        1 => sequential::step(client),
        _ => Box::pin(act(client)),
    }
}

async fn act(client: &Client) {
    let path = client.pick(&PATHS);
    if client.random(3) == 0 {
        return drop(
            client
                .call(Op::get(path), |session| session.get(path))
                .await,
        );
    }
    let mut value = client.value();
    let length = value.len() + client.random(BYTES_MAX) as usize;
    value.extend(std::iter::repeat_n('.', length - value.len()));
    let op = Op::set(path, &value, Version::ANY);
    let set = client.call(op, |session| session.set(path, &value, Version::ANY));
    drop(set.await);
}

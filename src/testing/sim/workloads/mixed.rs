//! Everything at once, with snapshots and changes of membership.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use super::{bank, compare_and_set, ephemerals, registers, sequential, watchers};

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    match client.random(6) {
        0 => bank::step(client),
        1 => compare_and_set::step(client),
        2 => ephemerals::step(client),
        3 => registers::step(client),
        4 => sequential::step(client),
        _ => watchers::step(client),
    }
}

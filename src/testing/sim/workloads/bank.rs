//! A bank: multis move amounts between accounts, whose sum is always the same.

use std::future::Future;
use std::pin::Pin;

use super::client::Client;
use crate::client::Read;
use crate::ids::Version;
use crate::testing::history::Op;

pub(super) const ACCOUNTS: [&str; 4] = ["/bank/a", "/bank/b", "/bank/c", "/bank/d"];
/// What each account begins with.
pub(super) const BEGINNING: i64 = 100;

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(act(client))
}

async fn act(client: &Client) {
    if client.random(3) == 0 {
        let reads = ACCOUNTS.map(|path| Read::Data(path.to_string()));
        let op = Op::MultiRead(ACCOUNTS.map(Op::get).to_vec());
        drop(client.call(op, |session| session.multi_read(&reads)).await);
    } else {
        transfer(client).await;
    }
}

/// Moves something from one account to another, if neither has changed since it was read.
async fn transfer(client: &Client) {
    let from = client.random(ACCOUNTS.len() as u64) as usize;
    let to = (from + 1 + client.random(ACCOUNTS.len() as u64 - 1) as usize) % ACCOUNTS.len();
    let pair = [ACCOUNTS[from], ACCOUNTS[to]];
    let mut held = Vec::new();
    for path in pair {
        let read = client
            .call(Op::get(path), |session| session.get(path))
            .await;
        let Ok((data, stat)) = read else { return };
        let amount = std::str::from_utf8(&data)
            .ok()
            .and_then(|text| text.parse::<i64>().ok());
        held.push((
            amount.expect("accounts hold numbers"),
            Version(stat.version),
        ));
    }
    let moved = 1 + client.random(5) as i64;
    let amounts = [held[0].0 - moved, held[1].0 + moved].map(|amount| amount.to_string());
    let ops = (0..2).map(|side| Op::set(pair[side], &amounts[side], held[side].1));
    let multi = client.call(Op::Multi(ops.collect()), |session| {
        let multi = session.multi().set(pair[0], &amounts[0], held[0].1);
        multi.set(pair[1], &amounts[1], held[1].1).commit()
    });
    drop(multi.await);
}

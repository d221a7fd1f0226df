//! Locks: everybody wants them, holders act under them and guard what they write.
//!
//! What the recipe does to the tree is not written down, so the history has no calls of it: who held a
//! lock when is judged, and that guarded writes happen in the order of their tokens.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use crate::error::Result;
use crate::ids::Version;
use crate::op::OpResult;
use crate::recipes::{Lock, LockGuard};
use crate::testing::history::ClientId;

const LOCKS: [&str; 2] = ["/locks/a", "/locks/b"];
/// What is written under each of them.
pub(super) const FENCED: [&str; 2] = ["/fenced/a", "/fenced/b"];

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(act(client))
}

async fn act(client: &Client) {
    let which = client.random(LOCKS.len() as u64) as usize;
    let lock = Lock::new(&client.session, LOCKS[which]);
    let guard = match client.random(3) {
        0 => lock.try_acquire().await.ok().flatten(),
        _ => {
            let patience = client
                .world
                .some_time(Duration::ZERO, Duration::from_secs(3));
            let acquired = client.world.within(patience, lock.acquire()).await;
            acquired.and_then(Result::ok)
        }
    };
    let Some(guard) = guard else { return };
    let guard = Arc::new(guard);
    client.world.observe(LOCKS[which], &guard);
    hold(client, which, &guard).await;
    // Now and then it is dropped and not released.
    if client.random(2) == 0
        && let Ok(guard) = Arc::try_unwrap(guard)
    {
        drop(guard.release().await);
    }
}

async fn hold(client: &Client, which: usize, guard: &LockGuard) {
    let token = guard.fencing_token().as_u64();
    let person = ClientId(client.person.number);
    if !guard.is_held() {
        return;
    }
    let hold = client.recorder.held(person, LOCKS[which], token);
    for _ in 0..1 + client.random(4) {
        client.rest(Duration::from_millis(200)).await;
        if !guard.is_held() {
            break;
        }
        client.recorder.still_held(hold);
        let written = guard
            .check(client.session.multi())
            .set(FENCED[which], token.to_string(), Version::ANY)
            .commit()
            .await;
        if let Ok(results) = written
            && let Some(OpResult::DataSet(stat)) = results.get(1)
        {
            let fenced = (which, stat.mzxid, token);
            client.person.fenced.borrow_mut().push(fenced);
        }
    }
    client.recorder.released(hold);
}

//! Absences: nodes are cut off for long, with sessions and watches that may outlive that, and come back by a
//! snapshot. Now and then an operator takes a node's vote for that time.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::super::repair::{change, settle};
use super::super::world::{MemberChange, World};
use super::client::{Client, Pace};
use super::{ephemerals, watchers};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Sessions outlive some absences and not others, and clients are there all the time.
pub(super) const PACE: Pace = Pace {
    timeout: (Duration::from_millis(3_000), Duration::from_millis(14_000)),
    rest: Duration::from_millis(600),
};

pub(super) fn step(client: &Client) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    match client.random(4) {
        0 => ephemerals::step(client),
        _ => watchers::step(client),
    }
}

/// Cuts one node after the other off, until told to stop.
pub(super) async fn operate(world: World, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let (id, _) = world.any_node().await;
        let observes = world.random(3) == 0;
        let lock = match observes {
            true => Some(world.members_lock().await),
            false => None,
        };
        if observes {
            change(&world, MemberChange::Demote(id)).await;
        }
        // All may have been healed meanwhile.
        if !stop.get() {
            let absence = world.some_time(MILLISECOND * 1_000, MILLISECOND * 16_000);
            world.cut_off(id, absence);
            let pause = world.some_time(MILLISECOND * 100, MILLISECOND * 3_000);
            world.sleep(absence + pause).await;
        }
        if observes {
            change(&world, MemberChange::Promote(id)).await;
            settle(&world).await;
        }
        drop(lock);
    }
}

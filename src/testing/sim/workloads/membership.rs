//! Membership: an operator lets nodes join, gives them votes, puts them in others' places, hands leadership
//! over and takes nodes away, while clients go on.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::super::repair::{change, join, settle};
use super::super::world::{MemberChange, World};

const MILLISECOND: Duration = Duration::from_millis(1);

/// How many voters there are at most, and at least.
const VOTERS_MAX: usize = 5;
const VOTERS_MIN: usize = 3;

/// Changes members until told to stop. `newest` is the highest id that a node has had.
pub(super) async fn operate(world: World, mut newest: u64, stop: Rc<Cell<bool>>) {
    loop {
        let pause = world.some_time(MILLISECOND * 200, MILLISECOND * 3_000);
        world.sleep(pause).await;
        let lock = world.members_lock().await;
        if stop.get() {
            return;
        }
        let (_, node) = world.any_node().await;
        let voters: Vec<u64> = node.status().voters.iter().map(|id| id.as_u64()).collect();
        if voters.is_empty() {
            continue;
        }
        let some = voters[world.random(voters.len() as u64) as usize];
        match world.random(4) {
            0 if voters.len() < VOTERS_MAX => {
                newest += 1;
                join(&world, newest).await;
                change(&world, MemberChange::Promote(newest)).await;
            }
            1 if voters.len() > VOTERS_MIN => {
                change(&world, MemberChange::Remove(some)).await;
                world.retire(some);
            }
            2 => {
                newest += 1;
                join(&world, newest).await;
                let (old, new) = (some, newest);
                change(&world, MemberChange::Replace { old, new }).await;
                // Where the other one was gone already, it is a learner yet.
                change(&world, MemberChange::Promote(new)).await;
                world.retire(some);
            }
            _ => {
                let (at, _) = world.any_node().await;
                if let Some(asked) = world.change_members(at, MemberChange::Transfer(some)) {
                    // It may fail for many good reasons.
                    drop(world.within(MILLISECOND * 1_000, asked).await);
                }
            }
        }
        settle(&world).await;
        drop(lock);
    }
}

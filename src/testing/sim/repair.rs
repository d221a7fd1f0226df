//! The operator of a simulated cluster, who replaces nodes whose disks are lost: removed, wiped, joined
//! again, and given their vote back. By the calls that a real one has.

use std::time::Duration;

use super::world::{MemberChange, MembersLock, World};
use crate::error::Error;
use crate::node::NodeStatus;

const PAUSE: Duration = Duration::from_millis(200);

/// Whether the node has to be removed first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Membership {
    Member,
    Removed,
}

/// Replaces a node; goes on until that has happened.
pub(super) async fn repair(
    world: World,
    id: u64,
    membership: Membership,
    lock: Option<MembersLock>,
) {
    let lock = match lock {
        Some(lock) => lock,
        None => world.members_lock().await,
    };
    if membership == Membership::Member {
        change(&world, MemberChange::Remove(id)).await;
    }
    loop {
        join(&world, id).await;
        change(&world, MemberChange::Promote(id)).await;
        if !world.is_removed(id) {
            break;
        }
        // A request to remove it that was repeated came after it was added again.
        change(&world, MemberChange::Remove(id)).await;
    }
    settle(&world).await;
    drop(lock);
}

/// Starts a node on an empty disk and adds it as a learner.
pub(super) async fn join(world: &World, id: u64) {
    world.join(id);
    world.sleep(PAUSE / 10).await;
    while world.node(id).is_none() && !world.is_removed(id) {
        world.sleep(PAUSE).await;
    }
    change(world, MemberChange::AddLearner(id)).await;
}

/// Asks until it is so.
pub(super) async fn change(world: &World, change: MemberChange) {
    let about = match change {
        MemberChange::AddLearner(id)
        | MemberChange::Promote(id)
        | MemberChange::Demote(id)
        | MemberChange::Remove(id)
        | MemberChange::Transfer(id) => id,
        MemberChange::Replace { new, .. } => new,
    };
    // Nobody can add who has stopped.
    while !world.is_removed(about) || matches!(change, MemberChange::Remove(_)) {
        let (at, _) = world.any_node().await;
        // Who is to be removed is the last to be asked.
        let asked = (at != about)
            .then(|| world.change_members(at, change))
            .flatten();
        if let Some(asked) = asked {
            let answer = world.within(Duration::from_secs(5), asked).await;
            let note = format!("operator: {change:?} at node {at}: {answer:?}");
            world.recorder().note(note);
            match answer {
                Some(Ok(_)) => return,
                Some(Err(error)) if is_so(change, &error) => return,
                // Who was asked is behind; or a request to remove it that was repeated has come after it was
                // added again.
                Some(Err(Error::NotAMember { node }))
                    if node.as_u64() == about
                        && matches!(
                            change,
                            MemberChange::Promote(_) | MemberChange::Replace { .. }
                        ) =>
                {
                    drop(world.change_members(at, MemberChange::AddLearner(about)));
                }
                _ => {}
            }
        }
        world.sleep(PAUSE).await;
    }
}

/// Waits until every voter is there and knows who votes. A change is answered when the leader has applied it;
/// until another has, that leader is the only one who knows for certain that it has happened, and must
/// not be lost for good.
pub(super) async fn settle(world: &World) {
    loop {
        let nodes = world.nodes().into_iter().filter_map(|id| world.node(id));
        let statuses: Vec<_> = nodes.map(|node| node.status()).collect();
        if let Some(newest) = statuses.iter().max_by_key(|status| status.applied_index)
            && !newest.is_joint
            && newest.voters.iter().all(|voter| {
                let known = |status: &&NodeStatus| status.id == *voter;
                let status = statuses.iter().find(known);
                status.is_some_and(|status| status.voters == newest.voters && !status.is_joint)
            })
        {
            return;
        }
        world.sleep(PAUSE / 4).await;
    }
}

/// Whether the answer says that nothing is left to be done: an earlier attempt has done it.
fn is_so(change: MemberChange, error: &Error) -> bool {
    match change {
        MemberChange::Remove(_) => matches!(error, Error::NotAMember { .. }),
        MemberChange::AddLearner(_) | MemberChange::Promote(_) | MemberChange::Demote(_) => {
            matches!(error, Error::BadArguments { .. })
        }
        // Whoever is to go has gone, or the other one has its place.
        MemberChange::Replace { old, .. } => match error {
            Error::NotAMember { node } => node.as_u64() == old,
            error => matches!(error, Error::BadArguments { .. }),
        },
        MemberChange::Transfer(_) => false,
    }
}

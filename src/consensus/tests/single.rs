//! The single-voter core, through the same contract as the other.

use std::sync::Arc;

use super::cluster::{first_snapshot, node_id, voters};
use super::memory_store::MemoryStore;
use crate::ClusterId;
use crate::consensus::{
    Consensus, ProposeError, RaftCore, RaftOptions, Ready, Role, SingleVoterCore, StepError,
};
use crate::storage::{Identity, Storage as _, StorageError};

fn store(of_voters: &[u64]) -> MemoryStore {
    let identity = Identity {
        cluster: ClusterId(1),
        node: node_id(1),
    };
    MemoryStore::bootstrapped(identity, &first_snapshot(&voters(of_voters)))
}

fn start(store: &MemoryStore) -> SingleVoterCore {
    SingleVoterCore::new(node_id(1), Arc::new(store.clone())).unwrap()
}

/// Everything that is given out now; written, but not reported.
fn drain(core: &mut impl Consensus, store: &MemoryStore) -> Vec<Ready> {
    let mut all = Vec::new();
    while let Some(ready) = core.ready() {
        store.append(&ready.write).unwrap();
        if let Some(last) = ready.committed.last() {
            core.applied(last.index);
        }
        all.push(ready);
    }
    all
}

fn committed(readies: &[Ready]) -> Vec<u64> {
    readies
        .iter()
        .flat_map(|ready| ready.committed.iter().map(|entry| entry.index))
        .collect()
}

#[test]
fn a_single_voter_leads_at_once() {
    let store = store(&[1]);
    let mut core = start(&store);
    let status = core.status();
    assert_eq!(
        (status.role, status.leader, status.leads_with_commit),
        (Role::Leader, Some(node_id(1)), true)
    );
    let readies = drain(&mut core, &store);
    assert_eq!(readies[0].write.hard_state.unwrap().term, 2);
    assert_eq!(readies[0].write.hard_state.unwrap().vote, Some(node_id(1)));
}

#[test]
fn what_is_persisted_is_committed_and_nothing_before() {
    let store = store(&[1]);
    let mut core = start(&store);
    drain(&mut core, &store);
    core.propose("a".into()).unwrap();
    let a = drain(&mut core, &store);
    core.propose("b".into()).unwrap();
    let b = drain(&mut core, &store);
    assert_eq!((committed(&a), committed(&b)), (vec![], vec![]));
    assert_eq!(core.status().commit, 1);
    core.persisted(a[0].number);
    assert_eq!(committed(&drain(&mut core, &store)), [2]);
    core.persisted(b[0].number);
    assert_eq!(committed(&drain(&mut core, &store)), [3]);
}

#[test]
fn a_restart_gives_out_what_was_durable_again_and_begins_a_term() {
    let store = store(&[1]);
    let mut core = start(&store);
    core.propose("a".into()).unwrap();
    drain(&mut core, &store);
    core.propose("lost".into()).unwrap();
    drop(core);
    let mut core = start(&store);
    assert_eq!(core.status().term, 3);
    core.propose("b".into()).unwrap();
    let readies = drain(&mut core, &store);
    assert_eq!(committed(&readies), [2]);
    assert_eq!(&readies[0].committed[0].data[..], b"a");
    assert_eq!(
        (
            readies[0].write.entries[0].index,
            readies[0].write.entries[0].term
        ),
        (3, 3)
    );
}

#[test]
fn a_barrier_covers_what_was_committed_before_it() {
    let store = store(&[1]);
    let mut core = start(&store);
    core.propose("a".into()).unwrap();
    let number = drain(&mut core, &store).last().unwrap().number;
    core.persisted(number);
    core.barrier(7).unwrap();
    assert_eq!(drain(&mut core, &store)[0].barriers, [(7, 2)]);
    assert_eq!(drain(&mut core, &store), []);
}

#[test]
fn it_has_no_peers() {
    let mut core = start(&store(&[1]));
    assert!(matches!(
        core.step(node_id(2), b""),
        Err(StepError::Malformed { .. })
    ));
    assert!(matches!(
        core.change_membership(&[]),
        Err(ProposeError::InvalidMembershipChange { .. })
    ));
    assert!(matches!(
        core.transfer_leadership(node_id(2)),
        Err(ProposeError::InvalidMembershipChange { .. })
    ));
    let of_two = store(&[1, 2]);
    let refused = SingleVoterCore::new(node_id(1), Arc::new(of_two));
    assert!(matches!(refused, Err(StorageError::Refused { .. })));
}

#[test]
fn raft_goes_on_with_what_a_single_voter_wrote() {
    let store = store(&[1]);
    let mut core = start(&store);
    core.propose("a".into()).unwrap();
    drain(&mut core, &store);
    let mut raft =
        RaftCore::new(node_id(1), Arc::new(store.clone()), RaftOptions::default()).unwrap();
    raft.campaign();
    let number = drain(&mut raft, &store).last().unwrap().number;
    raft.persisted(number);
    assert_eq!(committed(&drain(&mut raft, &store)), [2, 3]);
}

#[test]
fn a_failed_read_stops_it_without_a_panic() {
    let store = store(&[1]);
    let mut core = start(&store);
    core.propose("a".into()).unwrap();
    drain(&mut core, &store);
    let mut core = start(&store);
    store.fail_reads(StorageError::Corrupt {
        path: "log".to_owned(),
        offset: 0,
        reason: "a test".to_owned(),
    });
    assert_eq!(core.ready(), None);
    assert!(matches!(core.failure(), Some(StorageError::Corrupt { .. })));
    assert!(matches!(
        core.propose("b".into()),
        Err(ProposeError::Dropped { .. })
    ));
}

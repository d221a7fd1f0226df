//! What must hold of a history and of the trees that it has left behind.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::Sim;
use super::workload::{Call, What, parse};
use crate::ids::Zxid;

/// Every create happened once if it was answered, at most once if it wasn't, not at all if it was
/// answered that it didn't; and a client's creates stand in the order in which it called them.
pub(super) fn exactly_once(sim: &Sim, history: &[Call]) {
    let id = sim.ids()[0];
    let state = sim.driver(id).state();
    let queue = state.znode("/queue").expect("it was made at the beginning");
    let mut found: BTreeMap<usize, Vec<(Zxid, u64)>> = BTreeMap::new();
    for path in queue.children().paths() {
        let client = path.name().split('-').next().unwrap().parse().unwrap();
        let znode = state.znode(path.as_str()).unwrap();
        found
            .entry(client)
            .or_default()
            .push((znode.czxid, parse(&znode.data)));
    }
    for values in found.values_mut() {
        values.sort_unstable();
        assert!(
            values.is_sorted_by_key(|(_, value)| value),
            "out of order: {values:?}"
        );
        let mut once = values.clone();
        once.dedup_by_key(|(_, value)| *value);
        assert_eq!(once.len(), values.len(), "twice: {values:?}");
    }
    for call in history {
        let What::Append { value, result } = &call.what else {
            continue;
        };
        let there = found
            .get(&call.client)
            .and_then(|values| values.iter().find(|(_, found)| found == value));
        match result {
            Some(Ok(zxid)) => assert_eq!(there.map(|(at, _)| at), Some(zxid), "lost: {call:?}"),
            Some(Err(error)) if !error.outcome_unknown() => {
                assert!(there.is_none(), "said not to have happened: {call:?}");
            }
            _ => {}
        }
    }
}

/// The register is linearizable. Its writes tell their zxid, so that their order is known: a call must
/// not show an older state than any call that was answered before it began.
pub(super) fn linearizable(history: &[Call]) {
    let mut events: Vec<(Duration, bool, usize)> = Vec::new();
    let seen = |call: &Call| match &call.what {
        What::Set {
            result: Some(Ok(zxid)),
            ..
        } => Some(*zxid),
        What::Read {
            linearizable: true,
            result: Some(Ok((_, zxid))),
        } => Some(*zxid),
        _ => None,
    };
    for (index, call) in history.iter().enumerate() {
        if let (Some(_), Some(answered)) = (seen(call), call.answered) {
            events.push((call.called, false, index));
            events.push((answered, true, index));
        }
    }
    // At the same moment calls come before answers: they may be concurrent.
    events.sort_unstable();
    let mut newest = Zxid(0);
    let mut floor = HashMap::new();
    for (_, answer, index) in events {
        let zxid = seen(&history[index]).expect("only these were taken");
        if !answer {
            floor.insert(index, newest);
            continue;
        }
        let least = floor[&index];
        let stale = match history[index].what {
            What::Set { .. } => zxid <= least,
            _ => zxid < least,
        };
        assert!(
            !stale,
            "stale: {:?} was called after {least} was seen",
            history[index]
        );
        newest = newest.max(zxid);
    }
}

/// Each read shows what the write with its zxid wrote, and no write that hadn't been called yet.
pub(super) fn reads_are_of_writes(history: &[Call]) {
    let mut values: HashMap<u64, &Call> = HashMap::new();
    for call in history {
        if let What::Set { value, .. } = call.what {
            values.insert(value, call);
        }
    }
    for call in history {
        if let What::Read {
            result: Some(Ok((value, zxid))),
            ..
        } = &call.what
            && *value != 0
        {
            let set = values
                .get(value)
                .unwrap_or_else(|| panic!("never written: {call:?}"));
            assert!(
                set.called <= call.answered.unwrap(),
                "from the future: {call:?}"
            );
            if let What::Set {
                result: Some(Ok(set_zxid)),
                ..
            } = &set.what
            {
                assert_eq!(set_zxid, zxid, "{call:?}");
            }
        }
    }
}

/// Within a session a read shows every write called before it, and time never goes back; also when
/// calls are pipelined.
pub(super) fn session_order(history: &[Call]) {
    let mut sessions: BTreeMap<(usize, usize), Vec<&Call>> = BTreeMap::new();
    for call in history {
        sessions
            .entry((call.client, call.session))
            .or_default()
            .push(call);
    }
    for calls in sessions.values_mut() {
        calls.sort_by_key(|call| call.number);
        let mut newest = Zxid(0);
        let mut written = None;
        for call in calls {
            match &call.what {
                What::Set {
                    value,
                    result: Some(Ok(zxid)),
                } => {
                    assert!(*zxid > newest, "a write before what was seen: {call:?}");
                    newest = *zxid;
                    written = Some((*value, *zxid));
                }
                What::Read {
                    linearizable: false,
                    result: Some(Ok((value, zxid))),
                } => {
                    assert!(
                        *zxid >= newest,
                        "time went back: {call:?}, {newest} was seen"
                    );
                    newest = *zxid;
                    if let Some((own, at)) = written
                        && at == *zxid
                    {
                        assert_eq!(own, *value, "{call:?}");
                    }
                }
                _ => {}
            }
        }
    }
}

/// All replicas that have applied the same hold the same, and every tree is sound.
pub(super) fn replicas_agree(sim: &Sim) {
    let mut digests = BTreeMap::new();
    for id in sim.ids() {
        if !sim.is_up(id) {
            continue;
        }
        let state = sim.driver(id).state();
        let zxid = state.zxid();
        let digest = state.digest();
        let (first, other) = digests.entry(zxid).or_insert((id, digest));
        assert_eq!(
            *other, digest,
            "nodes {first} and {id} differ at zxid {zxid}"
        );
    }
}

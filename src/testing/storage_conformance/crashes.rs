//! Failing disks and losses of power, for stores that can simulate them.

use crate::storage::{Recovered, StorageError};

use super::*;

case_table! {
    an_acknowledged_batch_outlives_a_loss_of_power,
    an_acknowledged_snapshot_outlives_a_loss_of_power,
    a_batch_is_there_whole_or_not_at_all,
    an_interrupted_publish_leaves_the_old_or_the_new_snapshot,
    an_interrupted_install_leaves_the_old_log_or_none,
    an_interrupted_compaction_loses_nothing,
    an_interrupted_bootstrap_can_be_repeated,
    after_a_failed_write_every_write_is_stopped,
}

/// How many losses of power are tried in one place.
const SEEDS: u64 = 4;
/// More steps than any operation has.
const STEPS_MAX: u64 = 400;

fn an_acknowledged_batch_outlives_a_loss_of_power(make: Make<'_>) -> Outcome {
    for seed in 0..SEEDS {
        let (mut under_test, mut store) = bootstrapped(make)?;
        let mut held = Vec::new();
        for round in 0..6 {
            let first = 2 + held.len() as u64;
            held.extend(entries(first..=first + round, round + 1));
            store
                .append(&batch(
                    &held[first as usize - 2..],
                    Some(hard_state(round + 1, 2, first)),
                ))
                .map_err(text)?;
            drop(store);
            if !under_test.lose_power(seed * 10 + round) {
                return Ok(());
            }
            store = under_test
                .open()
                .map_err(|error| format!("after a loss of power: {error}"))?;
            ensure_held(store.as_ref(), &held, 2)?;
            ensure_equal!(
                store.recover().map_err(text)?.hard_state,
                hard_state(round + 1, 2, first),
                "the hard state"
            );
        }
    }
    Ok(())
}

fn an_acknowledged_snapshot_outlives_a_loss_of_power(make: Make<'_>) -> Outcome {
    for seed in 0..SEEDS {
        let (mut under_test, store) = bootstrapped(make)?;
        let held = entries(2..=9, 1);
        store.append(&batch(&held, None)).map_err(text)?;
        let expected = content(8, 150_000);
        publish(store.as_ref(), &meta(7, 1), &expected).map_err(text)?;
        store.compact(5).map_err(text)?;
        drop(store);
        if !under_test.lose_power(seed) {
            return Ok(());
        }
        let store = under_test
            .open()
            .map_err(|error| format!("after a loss of power: {error}"))?;
        let (found_meta, found) = read_snapshot(store.as_ref(), 50_000)?;
        ensure!(
            found_meta == meta(7, 1) && found == expected,
            "the snapshot reads differently"
        );
        ensure_held(store.as_ref(), &held[4..], 6)?;
    }
    Ok(())
}

/// Does `act` on a store that `prepare` has filled, with a disk that fails from each step on in
/// turn, loses the power, opens the store again and lets `judge` look at it. `judge` is told
/// whether `act` was acknowledged.
fn interrupt_at_every_step(
    make: Make<'_>,
    prepare: impl Fn(&dyn Storage) -> Result<(), StorageError>,
    act: impl Fn(&dyn Storage) -> Result<(), StorageError>,
    judge: impl Fn(Arc<dyn Storage>, bool) -> Outcome,
) -> Outcome {
    for step in 0..STEPS_MAX {
        let mut is_acknowledged = false;
        for seed in 0..SEEDS {
            let mut under_test = make();
            let store = under_test.open().map_err(text)?;
            prepare(store.as_ref()).map_err(text)?;
            if !under_test.fail_from(step) {
                return Ok(());
            }
            is_acknowledged = act(store.as_ref()).is_ok();
            drop(store);
            if !under_test.lose_power(seed) {
                return Ok(());
            }
            let place = format!("interrupted at step {step}, seed {seed}");
            let store = under_test
                .open()
                .map_err(|error| format!("{place}: it can't be opened: {error}"))?;
            judge(store, is_acknowledged).map_err(|reason| format!("{place}: {reason}"))?;
        }
        if is_acknowledged {
            return Ok(());
        }
    }
    Err(format!("it fails even with {STEPS_MAX} steps allowed"))
}

fn bootstrap(store: &dyn Storage) -> Result<(), StorageError> {
    store.bootstrap(identity(), &meta(1, 1), b"the first state")
}

/// Bootstrapped, with entries 2 to 9 of term 2 and a vote.
fn filled(store: &dyn Storage) -> Result<(), StorageError> {
    bootstrap(store)?;
    store.append(&batch(&entries(2..=9, 2), Some(hard_state(2, 3, 5))))
}

fn a_batch_is_there_whole_or_not_at_all(make: Make<'_>) -> Outcome {
    let new: Vec<LogEntry> = (6..=30).map(|index| entry(index, 4, 900)).collect();
    let state = hard_state(4, 1, 6);
    interrupt_at_every_step(
        make,
        filled,
        |store| store.append(&batch(&new, Some(state))),
        |store, is_acknowledged| {
            let mut held = entries(2..=9, 2);
            let recovered = store.recover().map_err(text)?;
            if recovered.hard_state == state {
                held.truncate(4);
                held.extend(new.iter().cloned());
            } else {
                ensure!(
                    !is_acknowledged,
                    "the batch was acknowledged, the hard state is {:?}",
                    recovered.hard_state
                );
                ensure_equal!(recovered.hard_state, hard_state(2, 3, 5), "the hard state");
            }
            ensure_held(store.as_ref(), &held, 2)
        },
    )
}

fn an_interrupted_publish_leaves_the_old_or_the_new_snapshot(make: Make<'_>) -> Outcome {
    let new = content(4, 140_000);
    interrupt_at_every_step(
        make,
        filled,
        |store| publish(store, &meta(6, 2), &new),
        |store, is_acknowledged| {
            let (found_meta, found) = read_snapshot(store.as_ref(), 1 << 20)?;
            let is_new = found_meta == meta(6, 2) && found == new;
            let is_old = found_meta == meta(1, 1) && found == b"the first state";
            ensure!(
                is_new || (is_old && !is_acknowledged),
                "it is neither the old one nor the new one"
            );
            ensure_equal!(
                store.recover().map_err(text)?.snapshot,
                Some(found_meta),
                "the snapshot recovered"
            );
            ensure_held(store.as_ref(), &entries(2..=9, 2), 2)
        },
    )
}

fn an_interrupted_install_leaves_the_old_log_or_none(make: Make<'_>) -> Outcome {
    interrupt_at_every_step(
        make,
        filled,
        |store| publish(store, &meta(70, 3), b"ahead"),
        |store, is_acknowledged| {
            if store.bounds() == (71, 70) {
                ensure_equal!(
                    read_snapshot(store.as_ref(), 100)?,
                    (meta(70, 3), b"ahead".to_vec()),
                    "the snapshot"
                );
                return store
                    .append(&batch(&entries(71..=72, 3), None))
                    .map_err(text);
            }
            ensure!(
                !is_acknowledged,
                "it was acknowledged, and the bounds are {:?}",
                store.bounds()
            );
            ensure_equal!(
                read_snapshot(store.as_ref(), 100)?.0,
                meta(1, 1),
                "the snapshot"
            );
            ensure_held(store.as_ref(), &entries(2..=9, 2), 2)
        },
    )
}

fn an_interrupted_compaction_loses_nothing(make: Make<'_>) -> Outcome {
    let prepare = |store: &dyn Storage| {
        filled(store)?;
        for index in 10..=60 {
            store.append(&batch(&[entry(index, 2, 1500)], None))?;
        }
        publish(store, &meta(55, 2), b"state")
    };
    let mut held = entries(2..=9, 2);
    held.extend((10..=60).map(|index| entry(index, 2, 1500)));
    interrupt_at_every_step(
        make,
        prepare,
        |store| store.compact(50),
        |store, is_acknowledged| {
            let first = store.bounds().0;
            ensure!(
                first == 51 || (first == 2 && !is_acknowledged),
                "the first index is {first}"
            );
            ensure_held(store.as_ref(), &held[first as usize - 2..], first)?;
            ensure_equal!(
                store.recover().map_err(text)?.hard_state,
                hard_state(2, 3, 5),
                "the hard state"
            );
            store.compact(52).map_err(text)?;
            store
                .append(&batch(&[entry(61, 2, 10)], None))
                .map_err(text)
        },
    )
}

fn an_interrupted_bootstrap_can_be_repeated(make: Make<'_>) -> Outcome {
    interrupt_at_every_step(
        make,
        |_| Ok(()),
        bootstrap,
        |store, is_acknowledged| {
            let Recovered {
                identity: found, ..
            } = store.recover().map_err(text)?;
            if found.is_none() {
                ensure!(
                    !is_acknowledged,
                    "the bootstrap was acknowledged, and there is none"
                );
                bootstrap(store.as_ref())
                    .map_err(|error| format!("the bootstrap can't be repeated: {error}"))?;
            }
            ensure_equal!(
                store.recover().map_err(text)?.identity,
                Some(identity()),
                "the identity"
            );
            ensure_equal!(
                read_snapshot(store.as_ref(), 100)?.1,
                b"the first state".to_vec(),
                "the snapshot"
            );
            store.append(&batch(&entries(2..=3, 1), None)).map_err(text)
        },
    )
}

fn after_a_failed_write_every_write_is_stopped(make: Make<'_>) -> Outcome {
    for step in 0..2 {
        let mut under_test = make();
        let store = under_test.open().map_err(text)?;
        filled(store.as_ref()).map_err(text)?;
        if !under_test.fail_once(step) {
            return Ok(());
        }
        let failed = store.append(&batch(&entries(10..=12, 2), None));
        ensure!(
            failed.is_err(),
            "a write whose disk fails at step {step} was acknowledged"
        );
        let is_stopped =
            |result: Result<(), StorageError>| matches!(result, Err(StorageError::Stopped { .. }));
        ensure!(
            is_stopped(store.append(&batch(&entries(10..=12, 2), None))),
            "an append after a failure was taken"
        );
        ensure!(
            is_stopped(store.append(&batch(&[], Some(hard_state(8, 1, 5))))),
            "a vote after a failure was taken"
        );
        ensure!(
            is_stopped(store.compact(1)),
            "a compaction after a failure was taken"
        );
        ensure!(
            is_stopped(store.snapshot_writer(&meta(5, 2)).map(drop)),
            "a snapshot after a failure was begun"
        );
        ensure!(
            is_stopped(store.recover().map(drop)),
            "it recovers after a failure as if nothing had happened"
        );
        let store = restart(under_test.as_mut(), store)?;
        let (_, last) = store.bounds();
        ensure!(
            last == 9 || last == 12,
            "the last entry is {last} after a restart"
        );
        store
            .append(&batch(&entries(last + 1..=last + 1, 2), None))
            .map_err(text)?;
    }
    Ok(())
}

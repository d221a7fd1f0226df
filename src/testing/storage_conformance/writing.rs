//! Bootstrap and append.

use crate::storage::{HardState, StorageError};

use super::*;

case_table! {
    a_new_store_holds_nothing,
    a_bootstrap_lasts_with_identity_hard_state_and_snapshot,
    a_second_bootstrap_is_refused,
    nothing_is_written_before_the_bootstrap,
    reads_see_the_last_completed_append,
    entries_read_back_byte_for_byte_after_a_restart,
    a_batch_of_many_megabytes_reads_back,
    the_hard_state_lasts,
    a_hard_state_alone_leaves_the_entries,
    an_overwrite_drops_all_that_follows,
    an_overwrite_may_shorten_the_log_again_and_again,
    a_batch_that_breaks_the_contract_is_refused_and_writes_nothing,
    an_empty_batch_changes_nothing,
}

fn a_new_store_holds_nothing(make: Make<'_>) -> Outcome {
    let mut under_test = make();
    for _ in 0..2 {
        let store = under_test.open().map_err(text)?;
        let recovered = store.recover().map_err(text)?;
        ensure_equal!(recovered.identity, None, "the identity");
        ensure_equal!(recovered.hard_state, HardState::default(), "the hard state");
        ensure_equal!(recovered.snapshot, None, "the snapshot");
        ensure_equal!(store.bounds(), (1, 0), "the bounds");
        ensure!(
            store.snapshot_reader().map_err(text)?.is_none(),
            "there is a snapshot to read"
        );
    }
    Ok(())
}

fn a_bootstrap_lasts_with_identity_hard_state_and_snapshot(make: Make<'_>) -> Outcome {
    let mut under_test = make();
    let mut store = under_test.open().map_err(text)?;
    store
        .bootstrap(identity(), &meta(7, 2), b"state")
        .map_err(text)?;
    for _ in 0..2 {
        let recovered = store.recover().map_err(text)?;
        ensure_equal!(recovered.identity, Some(identity()), "the identity");
        ensure_equal!(recovered.hard_state, hard_state(2, 0, 7), "the hard state");
        ensure_equal!(recovered.snapshot, Some(meta(7, 2)), "the snapshot");
        ensure_equal!(
            (recovered.first_index, recovered.last_index),
            (8, 7),
            "the bounds"
        );
        ensure_equal!(
            store.term(7).map_err(text)?,
            2,
            "the term of the snapshot's entry"
        );
        ensure_equal!(
            read_snapshot(store.as_ref(), 3)?,
            (meta(7, 2), b"state".to_vec()),
            "the snapshot"
        );
        store = restart(under_test.as_mut(), store)?;
    }
    Ok(())
}

fn a_second_bootstrap_is_refused(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    for _ in 0..2 {
        let again = store.bootstrap(identity(), &meta(1, 1), b"another state");
        ensure!(
            matches!(again, Err(StorageError::Refused { .. })),
            "expected Refused, found {again:?}"
        );
        ensure_equal!(
            read_snapshot(store.as_ref(), 100)?.1,
            b"the first state".to_vec(),
            "the snapshot"
        );
        store = restart(under_test.as_mut(), store)?;
    }
    Ok(())
}

fn nothing_is_written_before_the_bootstrap(make: Make<'_>) -> Outcome {
    let store = make().open().map_err(text)?;
    let appended = store.append(&batch(&entries(1..=1, 1), None));
    ensure!(
        matches!(appended, Err(StorageError::Refused { .. })),
        "an append gave {appended:?}"
    );
    let compacted = store.compact(0);
    ensure!(
        matches!(compacted, Err(StorageError::Refused { .. })),
        "a compaction gave {compacted:?}"
    );
    ensure!(
        matches!(
            store.snapshot_writer(&meta(1, 1)),
            Err(StorageError::Refused { .. })
        ),
        "a snapshot was begun"
    );
    Ok(())
}

fn reads_see_the_last_completed_append(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    let mut held = Vec::new();
    for index in 2..40 {
        held.push(entry(index, 1 + index / 10, index as usize));
        store
            .append(&batch(
                &held[held.len() - 1..],
                Some(hard_state(9, 1, index - 1)),
            ))
            .map_err(text)?;
        ensure_held(store.as_ref(), &held, 2)?;
        ensure_equal!(
            store.recover().map_err(text)?.hard_state,
            hard_state(9, 1, index - 1),
            "the hard state"
        );
    }
    Ok(())
}

fn entries_read_back_byte_for_byte_after_a_restart(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    let lengths = [0, 1, 15, 16, 17, 255, 4096, 70_000, 300_000, 0, 3];
    let mut held = Vec::new();
    for (index, length) in (2..).zip(lengths) {
        held.push(entry(index, 1, length));
    }
    store.append(&batch(&held[..4], None)).map_err(text)?;
    store.append(&batch(&held[4..], None)).map_err(text)?;
    for index in 13..60 {
        held.push(entry(index, 2, 1000));
        store
            .append(&batch(&held[held.len() - 1..], None))
            .map_err(text)?;
    }
    ensure_held(store.as_ref(), &held, 2)?;
    for _ in 0..2 {
        store = restart(under_test.as_mut(), store)?;
        ensure_held(store.as_ref(), &held, 2)?;
    }
    Ok(())
}

fn a_batch_of_many_megabytes_reads_back(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    let data = content(5, 1 << 20);
    let mut held: Vec<LogEntry> = (2..14)
        .map(|index| LogEntry {
            index,
            term: 1,
            kind: EntryKind::Command,
            data: data.clone(),
        })
        .collect();
    store.append(&batch(&held, None)).map_err(text)?;
    held.push(entry(14, 1, 100));
    store.append(&batch(&held[12..], None)).map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_held(store.as_ref(), &held, 2)
}

fn the_hard_state_lasts(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    let states = [
        hard_state(2, 0, 1),
        hard_state(2, 3, 1),
        hard_state(5, 0, 1),
        hard_state(5, 1, 4),
        hard_state(5, 1, 6),
    ];
    store
        .append(&batch(&entries(2..=6, 1), None))
        .map_err(text)?;
    for state in states {
        store.append(&batch(&[], Some(state))).map_err(text)?;
        ensure_equal!(
            store.recover().map_err(text)?.hard_state,
            state,
            "the hard state"
        );
        store = restart(under_test.as_mut(), store)?;
        ensure_equal!(
            store.recover().map_err(text)?.hard_state,
            state,
            "the hard state after a restart"
        );
    }
    store
        .append(&batch(&entries(7..=8, 5), None))
        .map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_equal!(
        store.recover().map_err(text)?.hard_state,
        states[4],
        "the hard state after a batch without one"
    );
    Ok(())
}

fn a_hard_state_alone_leaves_the_entries(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    let held = entries(2..=9, 1);
    store.append(&batch(&held, None)).map_err(text)?;
    store
        .append(&batch(&[], Some(hard_state(4, 2, 3))))
        .map_err(text)?;
    ensure_held(store.as_ref(), &held, 2)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_held(store.as_ref(), &held, 2)
}

fn an_overwrite_drops_all_that_follows(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    let mut held = entries(2..=9, 1);
    store.append(&batch(&held, None)).map_err(text)?;
    held.truncate(3);
    held.push(entry(5, 3, 77));
    store.append(&batch(&held[3..], None)).map_err(text)?;
    ensure_held(store.as_ref(), &held, 2)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_held(store.as_ref(), &held, 2)?;
    let gone = store.term(6);
    ensure!(
        matches!(
            gone,
            Err(StorageError::Unavailable {
                index: 6,
                last_index: 5
            })
        ),
        "entry 6 gave {gone:?}"
    );
    Ok(())
}

fn an_overwrite_may_shorten_the_log_again_and_again(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    let mut held: Vec<LogEntry> = Vec::new();
    for (term, first, last) in [
        (1, 2, 30),
        (2, 20, 21),
        (3, 22, 40),
        (4, 2, 3),
        (5, 4, 4),
        (6, 3, 9),
    ] {
        held.truncate(first as usize - 2);
        held.extend(entries(first..=last, term));
        store
            .append(&batch(
                &held[first as usize - 2..],
                Some(hard_state(term, 0, 1)),
            ))
            .map_err(text)?;
        ensure_held(store.as_ref(), &held, 2)?;
        store = restart(under_test.as_mut(), store)?;
        ensure_held(store.as_ref(), &held, 2)?;
    }
    Ok(())
}

fn a_batch_that_breaks_the_contract_is_refused_and_writes_nothing(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    let held = entries(2..=6, 3);
    store
        .append(&batch(&held, Some(hard_state(3, 1, 2))))
        .map_err(text)?;
    let bad = [
        ("a gap behind the log", batch(&[entry(8, 3, 5)], None)),
        (
            "a gap in the batch",
            batch(&[entry(7, 3, 5), entry(9, 3, 5)], None),
        ),
        (
            "an index twice",
            batch(&[entry(7, 3, 5), entry(7, 3, 5)], None),
        ),
        ("an entry before the first", batch(&[entry(1, 3, 5)], None)),
        ("a term that goes back", batch(&[entry(7, 2, 5)], None)),
        (
            "a term that goes back in the batch",
            batch(&[entry(7, 4, 5), entry(8, 3, 5)], None),
        ),
        (
            "a hard state whose term goes back",
            batch(&[entry(7, 3, 5)], Some(hard_state(2, 0, 2))),
        ),
        (
            "a second vote in a term",
            batch(&[], Some(hard_state(3, 2, 2))),
        ),
    ];
    for (name, batch) in &bad {
        let appended = store.append(batch);
        ensure!(
            matches!(appended, Err(StorageError::Refused { .. })),
            "{name} gave {appended:?}"
        );
        ensure_held(store.as_ref(), &held, 2)?;
    }
    let store = restart(under_test.as_mut(), store)?;
    ensure_held(store.as_ref(), &held, 2)?;
    ensure_equal!(
        store.recover().map_err(text)?.hard_state,
        hard_state(3, 1, 2),
        "the hard state"
    );
    store
        .append(&batch(&[entry(7, 3, 5)], None))
        .map_err(|error| format!("a good batch after them: {error}"))
}

fn an_empty_batch_changes_nothing(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    let before = store.recover().map_err(text)?;
    store.append(&batch(&[], None)).map_err(text)?;
    ensure_equal!(store.recover().map_err(text)?, before, "what is held");
    Ok(())
}

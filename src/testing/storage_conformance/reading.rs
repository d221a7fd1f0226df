//! Reads, bounds and compaction.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::storage::StorageError;

use super::*;

case_table! {
    a_read_stays_within_its_byte_limit_but_gives_one_entry,
    reads_outside_the_bounds_say_compacted_or_unavailable,
    a_compaction_forgets_up_to_its_index_and_no_more,
    the_whole_log_can_be_compacted_and_goes_on,
    a_compaction_beyond_the_snapshot_is_refused,
    a_log_that_is_compacted_all_the_time_reads_back,
    any_thread_reads_while_one_writes,
}

fn a_read_stays_within_its_byte_limit_but_gives_one_entry(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    let held: Vec<LogEntry> = (2..12).map(|index| entry(index, 1, 100)).collect();
    store.append(&batch(&held, None)).map_err(text)?;
    for (bytes_max, count) in [
        (0, 1),
        (99, 1),
        (100, 1),
        (199, 1),
        (200, 2),
        (999, 9),
        (1000, 10),
        (u64::MAX, 10),
    ] {
        let found = store.entries(2, 12, bytes_max).map_err(text)?;
        ensure!(
            found == held[..count],
            "{bytes_max} bytes gave {} entries, not {count}",
            found.len()
        );
    }
    ensure!(
        store.entries(4, 7, 100_000).map_err(text)? == held[2..5],
        "the exclusive bound is not kept"
    );
    ensure!(
        store.entries(4, 4, 1).map_err(text)?.is_empty(),
        "an empty range gave entries"
    );
    Ok(())
}

fn reads_outside_the_bounds_say_compacted_or_unavailable(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 1), None))
        .map_err(text)?;
    publish(store.as_ref(), &meta(5, 1), b"five").map_err(text)?;
    store.compact(5).map_err(text)?;
    let low = store.entries(5, 8, u64::MAX);
    ensure!(
        matches!(
            low,
            Err(StorageError::Compacted {
                index: 5,
                first_index: 6
            })
        ),
        "entry 5 gave {low:?}"
    );
    let high = store.entries(6, 11, u64::MAX);
    ensure!(
        matches!(
            high,
            Err(StorageError::Unavailable {
                index: 10,
                last_index: 9
            })
        ),
        "entry 10 gave {high:?}"
    );
    let low = store.term(4);
    ensure!(
        matches!(
            low,
            Err(StorageError::Compacted {
                index: 4,
                first_index: 6
            })
        ),
        "the term of 4 gave {low:?}"
    );
    let high = store.term(10);
    ensure!(
        matches!(
            high,
            Err(StorageError::Unavailable {
                index: 10,
                last_index: 9
            })
        ),
        "the term of 10 gave {high:?}"
    );
    Ok(())
}

fn a_compaction_forgets_up_to_its_index_and_no_more(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    let mut held = entries(2..=4, 1);
    held.extend(entries(5..=20, 2));
    store
        .append(&batch(&held, Some(hard_state(2, 1, 9))))
        .map_err(text)?;
    publish(store.as_ref(), &meta(12, 2), b"twelve").map_err(text)?;
    let mut first = 2;
    for index in [1, 4, 3, 11, 12] {
        store.compact(index).map_err(text)?;
        first = first.max(index + 1);
        ensure_held(store.as_ref(), &held[first as usize - 2..], first)?;
        store = restart(under_test.as_mut(), store)?;
        ensure_equal!(store.bounds().0, first, "the first index after a restart");
        ensure_held(store.as_ref(), &held[first as usize - 2..], first)?;
        let term = held
            .iter()
            .find(|entry| entry.index == first - 1)
            .map_or(1, |entry| entry.term);
        ensure_equal!(
            store.term(first - 1).map_err(text)?,
            term,
            "the term of entry {}",
            first - 1
        );
    }
    ensure_equal!(store.bounds().0, 13, "the first index");
    ensure_equal!(
        store.recover().map_err(text)?.hard_state,
        hard_state(2, 1, 9),
        "the hard state"
    );
    Ok(())
}

fn the_whole_log_can_be_compacted_and_goes_on(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 3), None))
        .map_err(text)?;
    publish(store.as_ref(), &meta(9, 3), b"nine").map_err(text)?;
    store.compact(9).map_err(text)?;
    ensure_equal!(store.bounds(), (10, 9), "the bounds");
    let store = restart(under_test.as_mut(), store)?;
    ensure_equal!(
        (store.bounds(), store.term(9).map_err(text)?),
        ((10, 9), 3),
        "the bounds and the last term"
    );
    let held = entries(10..=12, 4);
    store.append(&batch(&held, None)).map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_held(store.as_ref(), &held, 10)
}

fn a_compaction_beyond_the_snapshot_is_refused(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    let held = entries(2..=9, 1);
    store.append(&batch(&held, None)).map_err(text)?;
    publish(store.as_ref(), &meta(5, 1), b"five").map_err(text)?;
    let compacted = store.compact(6);
    ensure!(
        matches!(compacted, Err(StorageError::Refused { .. })),
        "it gave {compacted:?}"
    );
    ensure_held(store.as_ref(), &held, 2)
}

fn a_log_that_is_compacted_all_the_time_reads_back(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    let mut held: Vec<LogEntry> = Vec::new();
    let mut first = 2;
    for round in 1..=40 {
        let next = first + held.len() as u64;
        let new: Vec<LogEntry> = (next..next + 9)
            .map(|index| entry(index, round, 400))
            .collect();
        store
            .append(&batch(&new, Some(hard_state(round, 1, next))))
            .map_err(text)?;
        held.extend(new);
        if round % 3 == 0 {
            let index = next - 4;
            let term = store.term(index).map_err(text)?;
            publish(store.as_ref(), &meta(index, term), b"state").map_err(text)?;
            store.compact(index).map_err(text)?;
            held.drain(..(index + 1 - first) as usize);
            first = index + 1;
        }
        if round % 7 == 0 {
            store = restart(under_test.as_mut(), store)?;
        }
        ensure_held(store.as_ref(), &held, first)?;
    }
    Ok(())
}

fn any_thread_reads_while_one_writes(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    let is_done = AtomicBool::new(false);
    let read = |store: &dyn Storage| -> Outcome {
        while !is_done.load(Ordering::Relaxed) {
            let (first, last) = store.bounds();
            match store.entries(first, last + 1, 20_000) {
                Ok(found) => {
                    for (position, found) in found.iter().enumerate() {
                        let index = first + position as u64;
                        ensure!(
                            *found == entry(index, 1, 300),
                            "entry {index} is another one"
                        );
                    }
                }
                Err(StorageError::Compacted { .. }) => {}
                Err(error) => return Err(text(error)),
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| read(store.as_ref())))
            .collect();
        let written = (2..400).step_by(2).try_for_each(|index| -> Outcome {
            store
                .append(&batch(
                    &[entry(index, 1, 300), entry(index + 1, 1, 300)],
                    None,
                ))
                .map_err(text)?;
            if index % 50 == 0 {
                publish(store.as_ref(), &meta(index - 10, 1), b"state").map_err(text)?;
                store.compact(index - 10).map_err(text)?;
            }
            Ok(())
        });
        is_done.store(true, Ordering::Relaxed);
        let read = readers.into_iter().try_for_each(|reader| {
            reader
                .join()
                .unwrap_or_else(|_| Err("a reader panicked".into()))
        });
        written.and(read)
    })
}

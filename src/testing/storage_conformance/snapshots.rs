//! Snapshots: written in chunks, published in one step.

use crate::storage::StorageError;

use super::*;

case_table! {
    a_published_snapshot_reads_back_in_any_steps,
    a_snapshot_that_is_dropped_leaves_the_last_one,
    a_snapshot_behind_the_log_leaves_the_log,
    a_snapshot_ahead_of_the_log_replaces_it,
    a_snapshot_of_another_term_replaces_the_log,
    a_snapshot_older_than_the_published_one_is_refused,
    a_reader_outlives_newer_snapshots,
    a_configuration_lasts_with_its_snapshot,
    an_empty_snapshot_is_one,
}

fn a_published_snapshot_reads_back_in_any_steps(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 1), None))
        .map_err(text)?;
    let expected = content(3, 200_003);
    publish(store.as_ref(), &meta(6, 1), &expected).map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_equal!(
        store.recover().map_err(text)?.snapshot,
        Some(meta(6, 1)),
        "the snapshot"
    );
    for step in [1_001, 65_536, 1 << 20] {
        let (found_meta, found) = read_snapshot(store.as_ref(), step)?;
        ensure_equal!(found_meta, meta(6, 1), "the meta data");
        ensure!(
            found == expected,
            "steps of {step} bytes do not give what was written"
        );
    }
    let mut reader = store
        .snapshot_reader()
        .map_err(text)?
        .ok_or("there is no snapshot")?;
    for offset in [199_999, 5, 131_071, 65_536] {
        let found = reader.read(offset, 4).map_err(text)?;
        ensure!(
            !found.is_empty() && expected[offset as usize..].starts_with(&found),
            "byte {offset} is another one"
        );
    }
    for offset in [200_003, 200_004, u64::MAX] {
        ensure!(
            reader.read(offset, 4).map_err(text)?.is_empty(),
            "there are bytes at {offset}, behind the end"
        );
    }
    Ok(())
}

fn a_snapshot_that_is_dropped_leaves_the_last_one(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 1), None))
        .map_err(text)?;
    let mut writer = store.snapshot_writer(&meta(9, 1)).map_err(text)?;
    writer.write(&content(1, 100_000)).map_err(text)?;
    ensure_equal!(
        read_snapshot(store.as_ref(), 100)?.1,
        b"the first state".to_vec(),
        "the snapshot meanwhile"
    );
    drop(writer);
    for _ in 0..2 {
        ensure_equal!(
            read_snapshot(store.as_ref(), 100)?,
            (meta(1, 1), b"the first state".to_vec()),
            "the snapshot"
        );
        ensure_equal!(
            store.recover().map_err(text)?.snapshot,
            Some(meta(1, 1)),
            "the snapshot recovered"
        );
        store = restart(under_test.as_mut(), store)?;
    }
    Ok(())
}

fn a_snapshot_behind_the_log_leaves_the_log(make: Make<'_>) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    let held = entries(2..=9, 2);
    store
        .append(&batch(&held, Some(hard_state(2, 3, 8))))
        .map_err(text)?;
    for index in [5, 9] {
        publish(store.as_ref(), &meta(index, 2), b"state").map_err(text)?;
        ensure_held(store.as_ref(), &held, 2)?;
        store = restart(under_test.as_mut(), store)?;
        ensure_held(store.as_ref(), &held, 2)?;
        ensure_equal!(
            store.recover().map_err(text)?.hard_state,
            hard_state(2, 3, 8),
            "the hard state"
        );
    }
    Ok(())
}

fn a_snapshot_ahead_of_the_log_replaces_it(make: Make<'_>) -> Outcome {
    replaced_by(make, &meta(50, 4))
}

fn a_snapshot_of_another_term_replaces_the_log(make: Make<'_>) -> Outcome {
    replaced_by(make, &meta(6, 4))
}

fn replaced_by(make: Make<'_>, meta: &SnapshotMeta) -> Outcome {
    let (mut under_test, mut store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 2), Some(hard_state(4, 3, 5))))
        .map_err(text)?;
    publish(store.as_ref(), meta, b"ahead").map_err(text)?;
    for _ in 0..2 {
        ensure_equal!(store.bounds(), (meta.index + 1, meta.index), "the bounds");
        ensure_equal!(
            store.term(meta.index).map_err(text)?,
            meta.term,
            "the term of the snapshot's entry"
        );
        ensure_equal!(
            store.recover().map_err(text)?.hard_state,
            hard_state(4, 3, 5),
            "the hard state"
        );
        ensure_equal!(
            read_snapshot(store.as_ref(), 100)?.1,
            b"ahead".to_vec(),
            "the snapshot"
        );
        store = restart(under_test.as_mut(), store)?;
    }
    let held = entries(meta.index + 1..=meta.index + 3, 4);
    store.append(&batch(&held, None)).map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_held(store.as_ref(), &held, meta.index + 1)
}

fn a_snapshot_older_than_the_published_one_is_refused(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 1), None))
        .map_err(text)?;
    let mut late = store.snapshot_writer(&meta(4, 1)).map_err(text)?;
    late.write(b"four").map_err(text)?;
    publish(store.as_ref(), &meta(6, 1), b"six").map_err(text)?;
    let published = late.publish();
    ensure!(
        matches!(published, Err(StorageError::Refused { .. })),
        "it gave {published:?}"
    );
    let begun = store.snapshot_writer(&meta(5, 1)).map(drop);
    ensure!(
        matches!(begun, Err(StorageError::Refused { .. })),
        "beginning one gave {begun:?}"
    );
    ensure_equal!(
        read_snapshot(store.as_ref(), 100)?,
        (meta(6, 1), b"six".to_vec()),
        "the snapshot"
    );
    store
        .append(&batch(&entries(10..=10, 1), None))
        .map_err(|error| format!("an append after that: {error}"))
}

fn a_reader_outlives_newer_snapshots(make: Make<'_>) -> Outcome {
    let (_under_test, store) = bootstrapped(make)?;
    store
        .append(&batch(&entries(2..=9, 1), None))
        .map_err(text)?;
    let old = content(2, 150_000);
    publish(store.as_ref(), &meta(3, 1), &old).map_err(text)?;
    let mut reader = store
        .snapshot_reader()
        .map_err(text)?
        .ok_or("there is no snapshot")?;
    let mut found = reader.read(0, 1000).map_err(text)?.to_vec();
    for index in 4..7 {
        publish(store.as_ref(), &meta(index, 1), b"newer").map_err(text)?;
    }
    while (found.len() as u64) < reader.len_bytes() {
        let piece = reader.read(found.len() as u64, 10_000).map_err(text)?;
        ensure!(!piece.is_empty(), "it ends after {} bytes", found.len());
        found.extend_from_slice(&piece);
    }
    ensure!(found == old, "the old snapshot reads differently");
    Ok(())
}

fn a_configuration_lasts_with_its_snapshot(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    let nodes = |ids: &[u64]| {
        ids.iter()
            .filter_map(|id| NodeId::new(*id))
            .collect::<Vec<_>>()
    };
    let configuration = Configuration {
        voters: nodes(&[1, 2, 4]),
        voters_outgoing: nodes(&[1, 2, 3]),
        learners: nodes(&[7, u64::MAX]),
        learners_next: nodes(&[3]),
        auto_leave: true,
    };
    let meta = SnapshotMeta {
        index: 9,
        term: 3,
        configuration,
    };
    publish(store.as_ref(), &meta, b"joint").map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_equal!(
        store.recover().map_err(text)?.snapshot,
        Some(meta.clone()),
        "the snapshot recovered"
    );
    ensure_equal!(
        read_snapshot(store.as_ref(), 9)?.0,
        meta,
        "the snapshot read"
    );
    Ok(())
}

fn an_empty_snapshot_is_one(make: Make<'_>) -> Outcome {
    let (mut under_test, store) = bootstrapped(make)?;
    publish(store.as_ref(), &meta(2, 1), b"").map_err(text)?;
    let store = restart(under_test.as_mut(), store)?;
    ensure_equal!(
        read_snapshot(store.as_ref(), 9)?,
        (meta(2, 1), Vec::new()),
        "the snapshot"
    );
    Ok(())
}

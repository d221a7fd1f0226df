//! *After `stop` returned, nothing is delivered to the inbox any more, and the inbox is dropped. Only
//! `start` reports errors. Nothing is remembered.*

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::witness::{Bench, Witness, local, message, node};
use super::{case_table, ensure};
use crate::transport::TransportError;

case_table! {
    nothing_is_delivered_after_stop,
    nothing_that_was_under_way_is_delivered_after_stop,
    the_inbox_is_dropped_by_stop,
    a_second_start_is_an_error,
    a_start_after_stop_is_an_error,
    a_node_that_comes_back_is_reached_again,
    stop_returns_while_others_send,
    a_stopped_node_sends_nothing,
}

fn nothing_is_delivered_after_stop(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_until_there(&one, &two, &message(1, 2, "first"))?;
    two.stop(bench)?;
    let before = two.witness.calls();
    bench.send_all(
        &one.transport,
        (0..100_u8)
            .map(|number| message(1, 2, vec![number]))
            .collect(),
    )?;
    thread::sleep(bench.limits.watch);
    let late = two.witness.calls() - before;
    ensure!(late == 0, "{late} messages came after stop returned");
    Ok(())
}

fn nothing_that_was_under_way_is_delivered_after_stop(bench: &Bench) -> Result<(), String> {
    for _ in 0..10 {
        let (one, two) = (bench.start(1)?, bench.start(2)?);
        bench.send_until_there(&one, &two, &message(1, 2, "first"))?;
        let messages = (0..2000).map(|_| message(1, 2, vec![7; 64])).collect();
        bench.send_all(&one.transport, messages)?;
        two.stop(bench)?;
        let before = two.witness.calls();
        thread::sleep(bench.limits.watch / 10);
        let late = two.witness.calls() - before;
        ensure!(late == 0, "{late} messages came after stop returned");
        one.stop(bench)?;
    }
    Ok(())
}

fn the_inbox_is_dropped_by_stop(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_until_there(&one, &two, &message(1, 2, "first"))?;
    bench.send_all(
        &one.transport,
        (0..100_u8)
            .map(|number| message(1, 2, vec![number]))
            .collect(),
    )?;
    two.stop(bench)?;
    let held = Arc::strong_count(&two.witness) - 1;
    ensure!(
        held == 0,
        "the transport still holds its inbox ({held} times) after stop returned"
    );
    Ok(())
}

fn a_second_start_is_an_error(bench: &Bench) -> Result<(), String> {
    let one = bench.start(1)?;
    let again = one.transport.start(local(1), Arc::new(Witness::default()));
    ensure!(
        matches!(again, Err(TransportError::AlreadyStarted { node: id }) if id == node(1)),
        "it gave {again:?}"
    );
    // The first start is still good.
    let two = bench.start(2)?;
    bench.send_until_there(&two, &one, &message(2, 1, "still there"))
}

fn a_start_after_stop_is_an_error(bench: &Bench) -> Result<(), String> {
    let one = bench.start(1)?;
    one.stop(bench)?;
    let again = one.transport.start(local(1), Arc::new(Witness::default()));
    ensure!(
        matches!(again, Err(TransportError::AlreadyStarted { node: id }) if id == node(1)),
        "it gave {again:?}"
    );
    Ok(())
}

fn a_node_that_comes_back_is_reached_again(bench: &Bench) -> Result<(), String> {
    let one = bench.start(1)?;
    for life in 0..3_u8 {
        let two = bench.start(2)?;
        bench.send_until_there(&one, &two, &message(1, 2, vec![life]))?;
        bench.send_until_there(&two, &one, &message(2, 1, vec![life]))?;
        two.stop(bench)?;
    }
    Ok(())
}

fn stop_returns_while_others_send(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    let stopped = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let (transport, stopped) = (Arc::clone(&one.transport), Arc::clone(&stopped));
        move || {
            while !stopped.load(Ordering::SeqCst) {
                transport.send(message(1, 2, vec![7; 64]));
            }
        }
    });
    let result = two.stop(bench);
    let before = two.witness.calls();
    thread::sleep(bench.limits.watch);
    let late = two.witness.calls() - before;
    stopped.store(true, Ordering::SeqCst);
    // A sender that blocks is another case's failure.
    bench.in_time("send", move || drop(sender.join()))?;
    result?;
    ensure!(late == 0, "{late} messages came after stop returned");
    Ok(())
}

fn a_stopped_node_sends_nothing(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_until_there(&one, &two, &message(1, 2, "first"))?;
    one.stop(bench)?;
    let transport = Arc::clone(&one.transport);
    bench.in_time("send", move || transport.send(message(1, 2, "from beyond")))?;
    thread::sleep(bench.limits.watch);
    ensure!(
        !two.witness.has(&message(1, 2, "from beyond")),
        "a stopped transport still sends"
    );
    Ok(())
}

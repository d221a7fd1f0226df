//! *`send` never blocks: what can't be taken at once is dropped. Queues are bounded.*

use std::sync::Arc;

use super::witness::{Bench, Counted, message};
use super::{case_table, ensure};
use crate::transport::{MESSAGE_BYTES_MAX, Message};

case_table! {
    send_to_nobody_returns,
    send_to_a_full_inbox_returns,
    send_to_a_stopped_node_returns,
    send_of_many_large_messages_returns,
    send_of_a_message_over_the_limit_returns_and_delivers_nothing,
    a_full_inbox_does_not_stop_later_messages,
    what_nobody_takes_is_not_kept,
    what_a_full_inbox_refuses_is_not_kept,
    send_may_be_called_from_many_threads,
}

fn many(to: u64, count: usize, length: usize) -> Vec<Message> {
    (0..count)
        .map(|_| message(1, to, vec![7; length]))
        .collect()
}

fn send_to_nobody_returns(bench: &Bench) -> Result<(), String> {
    let one = bench.start(1)?;
    bench.send_all(&one.transport, many(9, 1000, 100))
}

fn send_to_a_full_inbox_returns(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    two.witness.set_full(true);
    bench.send_all(&one.transport, many(2, 10_000, 100))
}

fn send_to_a_stopped_node_returns(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_until_there(&one, &two, &message(1, 2, "first"))?;
    two.stop(bench)?;
    bench.send_all(&one.transport, many(2, 10_000, 100))
}

fn send_of_many_large_messages_returns(bench: &Bench) -> Result<(), String> {
    let (one, _two) = (bench.start(1)?, bench.start(2)?);
    bench.send_all(&one.transport, many(2, 100, 1024 * 1024))
}

fn send_of_a_message_over_the_limit_returns_and_delivers_nothing(
    bench: &Bench,
) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_all(&one.transport, many(2, 1, MESSAGE_BYTES_MAX))?;
    bench.send_until_there(&one, &two, &message(1, 2, "after"))?;
    let too_large = two
        .witness
        .messages()
        .iter()
        .any(|message| message.encoded_len() > MESSAGE_BYTES_MAX);
    ensure!(!too_large, "a message over the limit was delivered");
    Ok(())
}

fn a_full_inbox_does_not_stop_later_messages(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    two.witness.set_full(true);
    bench.send_all(&one.transport, many(2, 1000, 100))?;
    two.witness.set_full(false);
    bench.send_until_there(&one, &two, &message(1, 2, "after"))
}

fn what_nobody_takes_is_not_kept(bench: &Bench) -> Result<(), String> {
    let one = bench.start(1)?;
    flood(bench, &one.transport)
}

fn what_a_full_inbox_refuses_is_not_kept(bench: &Bench) -> Result<(), String> {
    let (one, nine) = (bench.start(1)?, bench.start(9)?);
    nine.witness.set_full(true);
    flood(bench, &one.transport)
}

/// Sends four times what may be kept to node 9, and counts what is.
fn flood(bench: &Bench, transport: &Arc<dyn crate::transport::Transport>) -> Result<(), String> {
    let (counted, limit) = (Counted::default(), bench.limits.held_messages_max);
    let payloads = counted.clone();
    let sender = Arc::clone(transport);
    bench.in_time("send", move || {
        for _ in 0..limit * 4 {
            sender.send(message(1, 9, payloads.payload(16)));
        }
    })?;
    let held = counted.alive();
    ensure!(
        held <= limit,
        "{held} messages are kept for a node that takes none, the limit is {limit}"
    );
    Ok(())
}

fn send_may_be_called_from_many_threads(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    let transport = Arc::clone(&one.transport);
    bench.in_time("send", move || {
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let transport = &transport;
                scope.spawn(move || {
                    (0..200_u8)
                        .for_each(|number| transport.send(message(1, 2, vec![thread, number])))
                });
            }
        });
    })?;
    bench.send_until_there(&one, &two, &message(1, 2, "after"))?;
    let sent = |message: &Message| {
        matches!(message.payload()[..], [0..4, 0..200]) || message.payload() == "after"
    };
    ensure!(
        two.witness.messages().iter().all(sent),
        "a message arrived that nobody sent"
    );
    Ok(())
}

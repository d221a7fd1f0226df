//! *A message is delivered to the inbox of `message.to()` and of nobody else, unaltered, or not at all.
//! It may come late, twice, or out of order.*

use super::witness::{Bench, Started, message, node};
use super::{case_table, ensure};
use crate::transport::{HEADER_BYTES, MESSAGE_BYTES_MAX, Message};
use crate::{ClusterId, NodeId};

case_table! {
    a_message_sent_often_enough_arrives,
    a_message_arrives_at_nobody_but_its_receiver,
    what_arrives_is_what_was_sent,
    the_largest_message_arrives_whole,
    the_cluster_and_the_sender_arrive_with_the_message,
    both_ways_work,
}

fn a_message_sent_often_enough_arrives(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_until_there(&one, &two, &message(1, 2, "hello"))
}

fn a_message_arrives_at_nobody_but_its_receiver(bench: &Bench) -> Result<(), String> {
    let nodes: Vec<Started> = (1..=4)
        .map(|id| bench.start(id))
        .collect::<Result<_, _>>()?;
    for round in 0..20_u8 {
        for to in 2..=4 {
            bench.send_all(
                &nodes[0].transport,
                vec![message(1, to, vec![round, to as u8])],
            )?;
        }
    }
    for (to, receiver) in (2..=4).zip(&nodes[1..]) {
        bench.send_until_there(&nodes[0], receiver, &message(1, to, vec![20, to as u8]))?;
    }
    for (id, started) in (1..=4).zip(&nodes) {
        let astray = started.witness.messages().into_iter().find(|message| {
            message.to() != node(id) || message.payload().get(1) != Some(&(id as u8))
        });
        ensure!(astray.is_none(), "node {id} was given {astray:?}");
    }
    Ok(())
}

fn what_arrives_is_what_was_sent(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    let pattern = |length: usize| {
        (0..length)
            .map(|at| (at * 31 + length) as u8)
            .collect::<Vec<u8>>()
    };
    let sent: Vec<Message> = [0, 1, 2, 255, 256, 4096, 65_536, 1_000_003]
        .map(|length| message(1, 2, pattern(length)))
        .into();
    for message in &sent {
        bench.send_until_there(&one, &two, message)?;
    }
    let altered = two
        .witness
        .messages()
        .into_iter()
        .find(|message| !sent.contains(message));
    ensure!(altered.is_none(), "{altered:?} was never sent");
    Ok(())
}

fn the_largest_message_arrives_whole(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    let largest = message(1, 2, vec![0xa5; MESSAGE_BYTES_MAX - HEADER_BYTES]);
    bench.send_until_there(&one, &two, &largest)
}

fn the_cluster_and_the_sender_arrive_with_the_message(bench: &Bench) -> Result<(), String> {
    let (one, two, three) = (bench.start(1)?, bench.start(2)?, bench.start(3)?);
    let sent = |cluster: u64, from: NodeId| Message::new(ClusterId(cluster), from, node(3), "same");
    bench.send_until_there(&one, &three, &sent(5, node(1)))?;
    bench.send_until_there(&two, &three, &sent(6, node(2)))?;
    let known = [sent(5, node(1)), sent(6, node(2))];
    let altered = three
        .witness
        .messages()
        .into_iter()
        .find(|message| !known.contains(message));
    ensure!(altered.is_none(), "{altered:?} was never sent");
    Ok(())
}

fn both_ways_work(bench: &Bench) -> Result<(), String> {
    let (one, two) = (bench.start(1)?, bench.start(2)?);
    bench.send_until_there(&one, &two, &message(1, 2, "there"))?;
    bench.send_until_there(&two, &one, &message(2, 1, "and back"))
}

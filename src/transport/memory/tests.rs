//! The faults of the network in memory. What every transport promises is in the conformance suite.

use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::*;
use crate::ClusterId;

/// Longer than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A delay that no test waits for.
const FOREVER: Duration = Duration::from_secs(1_000_000);

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn local(id: u64) -> Local {
    Local {
        cluster: ClusterId(1),
        node: node(id),
    }
}

/// Endpoints 1 to `count`, started, each with what it receives.
fn started(network: &Network, count: u64) -> Vec<(Memory, Receiver<Message>)> {
    let start = |id| {
        let endpoint = network.endpoint(node(id));
        let (inbox, messages) = sync_channel(100_000);
        endpoint.start(local(id), Arc::new(inbox)).unwrap();
        (endpoint, messages)
    };
    (1..=count).map(start).collect()
}

fn numbered(from: u64, to: u64, number: u32) -> Message {
    Message::new(
        ClusterId(1),
        node(from),
        node(to),
        number.to_be_bytes().to_vec(),
    )
}

fn number_of(message: &Message) -> u32 {
    u32::from_be_bytes(message.payload()[..].try_into().unwrap())
}

fn received(messages: &Receiver<Message>) -> Vec<u32> {
    messages
        .try_iter()
        .map(|message| number_of(&message))
        .collect()
}

/// Whether a message of each to each arrives, one line for each sender.
fn who_hears_whom(endpoints: &[(Memory, Receiver<Message>)]) -> Vec<String> {
    let hears = |from: usize, to: usize| {
        endpoints[from]
            .0
            .send(numbered(from as u64 + 1, to as u64 + 1, 0));
        if endpoints[to].1.try_recv().is_ok() {
            '+'
        } else {
            '.'
        }
    };
    let count = endpoints.len();
    (0..count)
        .map(|from| {
            (0..count)
                .map(|to| if from == to { ' ' } else { hears(from, to) })
                .collect()
        })
        .collect()
}

#[test]
fn without_faults_messages_arrive_at_once_and_in_order() {
    let network = Network::new(1);
    let endpoints = started(&network, 2);
    (0..100).for_each(|number| endpoints[0].0.send(numbered(1, 2, number)));
    assert_eq!(received(&endpoints[1].1), (0..100).collect::<Vec<_>>());
    assert!(network.0.delayer.lock().is_none());
}

#[test]
fn a_payload_is_handed_over_not_copied() {
    let network = Network::new(1);
    let endpoints = started(&network, 2);
    let message = Message::new(ClusterId(1), node(1), node(2), vec![7; 1000]);
    endpoints[0].0.send(message.clone());
    assert_eq!(
        endpoints[1].1.recv().unwrap().payload().as_ptr(),
        message.payload().as_ptr()
    );
}

#[test]
fn a_way_that_is_cut_is_cut_one_way() {
    let network = Network::new(1);
    let endpoints = started(&network, 3);
    network.cut(node(1), node(2));
    assert_eq!(who_hears_whom(&endpoints), [" .+", "+ +", "++ "]);
    network.heal();
    assert_eq!(who_hears_whom(&endpoints), [" ++", "+ +", "++ "]);
}

#[test]
fn who_is_on_neither_side_is_a_bridge() {
    let network = Network::new(1);
    let endpoints = started(&network, 5);
    network.partition(&[node(1), node(2)], &[node(4), node(5)]);
    assert_eq!(
        who_hears_whom(&endpoints),
        [" ++..", "+ +..", "++ ++", "..+ +", "..++ "]
    );
}

#[test]
fn an_isolated_node_hears_nobody_until_healed() {
    let network = Network::new(1);
    let endpoints = started(&network, 3);
    network.isolate(node(2));
    assert_eq!(who_hears_whom(&endpoints), [" .+", ". .", "+. "]);
    network.heal();
    assert_eq!(who_hears_whom(&endpoints), [" ++", "+ +", "++ "]);
}

#[test]
fn loss_and_duplication_hit_as_often_as_they_should() {
    let network = Network::new(7);
    let endpoints = started(&network, 2);
    network.set_faults(Faults::default().loss(0.3));
    (0..10_000).for_each(|number| endpoints[0].0.send(numbered(1, 2, number)));
    assert!((6_700..7_300).contains(&received(&endpoints[1].1).len()));
    network.set_faults(Faults::default().duplication(0.3));
    (0..10_000).for_each(|number| endpoints[0].0.send(numbered(1, 2, number)));
    assert!((12_700..13_300).contains(&received(&endpoints[1].1).len()));
    network.set_faults(Faults::default().loss(1.0));
    endpoints[0].0.send(numbered(1, 2, 0));
    assert_eq!(received(&endpoints[1].1), Vec::<u32>::new());
}

#[test]
fn reordering_loses_nothing() {
    let network = Network::new(7);
    let endpoints = started(&network, 2);
    network.set_faults(Faults::default().reordering(0.5));
    (0..1000).for_each(|number| endpoints[0].0.send(numbered(1, 2, number)));
    network.heal();
    let mut numbers = received(&endpoints[1].1);
    let in_order: Vec<u32> = (0..1000).collect();
    assert_ne!(numbers, in_order);
    numbers.sort_unstable();
    assert_eq!(numbers, in_order);
}

#[test]
fn one_seed_hits_the_same_messages_and_another_others() {
    let hit = |seed| {
        let network = Network::new(seed);
        let endpoints = started(&network, 2);
        network.set_faults(Faults::default().loss(0.2).duplication(0.2).reordering(0.2));
        (0..1000).for_each(|number| endpoints[0].0.send(numbered(1, 2, number)));
        received(&endpoints[1].1)
    };
    assert_eq!(hit(7), hit(7));
    assert_ne!(hit(7), hit(8));
}

#[test]
fn a_delay_delays_and_its_thread_ends_with_it() {
    let network = Network::new(1);
    let endpoints = started(&network, 2);
    let delay = Duration::from_millis(30);
    network.set_faults(Faults::default().delay(delay, delay));
    let before = Instant::now();
    endpoints[0].0.send(numbered(1, 2, 5));
    let message = endpoints[1].1.recv_timeout(PATIENCE).unwrap();
    assert!(before.elapsed() >= delay);
    assert_eq!(number_of(&message), 5);
    // What is under way when the delay ends is delivered by then.
    network.set_faults(Faults::default().delay(FOREVER, FOREVER));
    endpoints[0].0.send(numbered(1, 2, 6));
    network.heal();
    assert_eq!(received(&endpoints[1].1), [6]);
    assert!(network.0.delayer.lock().is_none());
}

#[test]
fn a_network_that_is_dropped_takes_its_thread_along() {
    let network = Network::new(1);
    let endpoints = started(&network, 2);
    network.set_faults(Faults::default().delay(FOREVER, FOREVER));
    endpoints[0].0.send(numbered(1, 2, 6));
    let weak = Arc::downgrade(&network.0);
    drop((network, endpoints));
    assert!(weak.upgrade().is_none());
}

#[test]
fn what_is_delayed_beyond_a_stop_is_not_delivered_and_holds_no_inbox() {
    let network = Network::new(1);
    let endpoints = started(&network, 2);
    network.set_faults(Faults::default().delay(FOREVER, FOREVER));
    endpoints[0].0.send(numbered(1, 2, 6));
    endpoints[1].0.stop();
    assert!(matches!(
        endpoints[1].1.try_recv(),
        Err(std::sync::mpsc::TryRecvError::Disconnected)
    ));
    network.heal();
}

#[test]
fn a_message_over_the_limit_is_lost() {
    let network = Network::new(1);
    let endpoints = started(&network, 2);
    endpoints[0].0.send(Message::new(
        ClusterId(1),
        node(1),
        node(2),
        vec![0; MESSAGE_BYTES_MAX],
    ));
    assert!(endpoints[1].1.try_recv().is_err());
}

#[test]
fn one_node_has_one_endpoint_at_a_time() {
    let network = Network::new(1);
    let first = network.endpoint(node(1));
    let second = network.endpoint(node(1));
    let (inbox, messages) = sync_channel(1);
    first.start(local(1), Arc::new(inbox)).unwrap();
    let refused = second.start(local(1), Arc::new(sync_channel(1).0));
    assert!(matches!(
        refused,
        Err(TransportError::AlreadyStarted { .. })
    ));
    drop(second);
    // The one that was refused must not take the other with it.
    first.send(numbered(1, 1, 3));
    assert_eq!(received(&messages), [3]);
    drop(first);
    network
        .endpoint(node(1))
        .start(local(1), Arc::new(sync_channel(1).0))
        .unwrap();
}

/// An inbox that answers at once, in the sender's thread.
struct Echo(Mutex<Option<Memory>>);

impl Inbox for Echo {
    fn deliver(&self, message: Message) -> bool {
        if let Some(endpoint) = &*self.0.lock() {
            endpoint.send(Message::new(
                message.cluster(),
                message.to(),
                message.from(),
                message.into_payload(),
            ));
        }
        true
    }
}

#[test]
fn an_inbox_may_send_while_it_takes_a_message() {
    let network = Network::new(1);
    let endpoints = started(&network, 1);
    let echo = Arc::new(Echo(Mutex::new(None)));
    let endpoint = network.endpoint(node(2));
    endpoint
        .start(local(1), Arc::clone(&echo) as Arc<dyn Inbox>)
        .unwrap();
    *echo.0.lock() = Some(endpoint);
    endpoints[0].0.send(numbered(1, 2, 9));
    assert_eq!(received(&endpoints[0].1), [9]);
    let endpoint = echo.0.lock().take();
    drop(endpoint);
}

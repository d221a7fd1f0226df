//! The conformance suite of transports: on ours, and on broken ones, each of which it must refuse for
//! the sentence that it breaks.

#[cfg(feature = "tls")]
mod certificates;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use quorate::testing::transport_conformance::{Limits, NetworkUnderTest, cases, check, failures};
use quorate::transport::{
    Faults, Inbox, Local, Memory, Message, Network, Transport, TransportError,
};
use quorate::{ClusterId, NodeId};

#[test]
fn the_network_in_memory_keeps_the_contract() {
    check(|| {
        let network = Network::new(42);
        Box::new(move |node| Box::new(network.endpoint(node)))
    });
}

#[test]
fn the_network_in_memory_keeps_the_contract_with_every_fault() {
    let faults = Faults::default().loss(0.2).duplication(0.2).reordering(0.2);
    check(|| {
        let network = Network::new(42);
        network.set_faults(faults.delay(Duration::ZERO, Duration::from_millis(2)));
        Box::new(move |node| Box::new(network.endpoint(node)))
    });
}

/// Transports on loopback that are told of each other.
#[cfg(feature = "tcp")]
fn tcp_network(
    configure: impl Fn(NodeId, quorate::transport::TcpBuilder) -> quorate::transport::TcpBuilder
    + 'static,
) -> NetworkUnderTest {
    use quorate::transport::{Peers, Tcp};
    let nodes: Mutex<Vec<(NodeId, String, Peers)>> = Mutex::default();
    Box::new(move |node| {
        let mut nodes = nodes.lock().unwrap();
        nodes.retain(|(other, _, _)| *other != node);
        let known = nodes
            .iter()
            .map(|(other, address, _)| (other.as_u64(), address.clone()));
        let builder = Tcp::builder("127.0.0.1:0").peers(known);
        let tcp = configure(node, builder).bind().unwrap();
        let address = tcp.local_addr().to_string();
        for (_, _, peers) in nodes.iter() {
            peers.set(node.as_u64(), &address);
        }
        nodes.push((node, address, tcp.peers()));
        Box::new(tcp)
    })
}

#[test]
#[cfg(feature = "tcp")]
fn tcp_keeps_the_contract() {
    check(|| tcp_network(|_, builder| builder));
}

#[test]
#[cfg(feature = "tls")]
fn tcp_with_tls_keeps_the_contract() {
    let authority = Arc::new(certificates::Authority::new("conformance"));
    check(|| {
        let authority = authority.clone();
        tcp_network(move |node, builder| {
            let dir = tempfile::tempdir().unwrap();
            let files = authority.issue(dir.path(), &format!("node-{node}"));
            builder.tls(files.config())
        })
    });
}

/// A transport that is right but for one thing.
struct Broken {
    inner: Memory,
    fault: Fault,
    inbox: Mutex<Option<Arc<dyn Inbox>>>,
    kept: Mutex<Vec<Message>>,
    sent: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    BlocksInSend,
    DeliversToTheWrongNode,
    DeliversToEverybody,
    AltersBytes,
    AltersTheCluster,
    LosesLongMessages,
    DeliversAfterStop,
    KeepsTheInboxAfterStop,
    KeepsWhatNobodyTakes,
    StartsTwice,
    SendsAfterStop,
    NeverComesBack,
}

impl std::fmt::Debug for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Broken({:?})", self.fault)
    }
}

impl Broken {
    fn network(fault: Fault) -> NetworkUnderTest {
        let network = Network::new(1);
        let lives = Mutex::new(Vec::new());
        Box::new(move |node| {
            let mut lives = lives.lock().unwrap();
            let again = lives.contains(&node);
            lives.push(node);
            // Who never comes back is alone in a network of its own.
            let lost = fault == Fault::NeverComesBack && again;
            let inner = if lost {
                Network::new(1).endpoint(node)
            } else {
                network.endpoint(node)
            };
            Box::new(Broken {
                inner,
                fault,
                inbox: Mutex::new(None),
                kept: Mutex::new(Vec::new()),
                sent: AtomicUsize::new(0),
            })
        })
    }
}

fn to(message: &Message, node: u64) -> Message {
    let node = NodeId::new(node).unwrap();
    Message::new(
        message.cluster(),
        message.from(),
        node,
        message.payload().clone(),
    )
}

impl Transport for Broken {
    fn start(&self, local: Local, inbox: Arc<dyn Inbox>) -> Result<(), TransportError> {
        *self.inbox.lock().unwrap() = Some(Arc::clone(&inbox));
        match self.inner.start(local, inbox) {
            Err(_) if self.fault == Fault::StartsTwice => Ok(()),
            result => result,
        }
    }

    fn send(&self, message: Message) {
        let sent = self.sent.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::BlocksInSend if sent >= 500 => thread::sleep(Duration::from_secs(3600)),
            Fault::DeliversToTheWrongNode if sent.is_multiple_of(4) => {
                self.inner.send(to(&message, 2))
            }
            Fault::DeliversToEverybody => {
                (1..5).for_each(|node| self.inner.send(to(&message, node)))
            }
            Fault::AltersBytes if message.payload().len() > 1000 => {
                let mut bytes = message.payload().to_vec();
                bytes[999] ^= 1;
                self.inner.send(Message::new(
                    message.cluster(),
                    message.from(),
                    message.to(),
                    bytes,
                ));
            }
            Fault::AltersTheCluster => {
                self.inner.send(Message::new(
                    ClusterId(0),
                    message.from(),
                    message.to(),
                    message.into_payload(),
                ));
            }
            Fault::LosesLongMessages if message.payload().len() > 70_000 => {}
            Fault::KeepsWhatNobodyTakes => {
                self.kept.lock().unwrap().push(message.clone());
                self.inner.send(message);
            }
            _ => self.inner.send(message),
        }
    }

    fn stop(&self) {
        match self.fault {
            Fault::SendsAfterStop => {}
            Fault::KeepsTheInboxAfterStop => return self.inner.stop(),
            Fault::DeliversAfterStop => {
                self.inner.stop();
                if let Some(inbox) = self.inbox.lock().unwrap().take() {
                    thread::spawn(move || {
                        thread::sleep(Duration::from_millis(5));
                        let node = NodeId::new(1).unwrap();
                        inbox.deliver(Message::new(ClusterId(1), node, node, "late"));
                    });
                }
            }
            _ => self.inner.stop(),
        }
        *self.inbox.lock().unwrap() = None;
    }
}

#[track_caller]
fn assert_refused(fault: Fault, case: &str) {
    let mut limits = Limits::default();
    // A broken one is waited for to the end, so the wait is shorter; it decides nothing else.
    limits.patience = Duration::from_secs(2);
    limits.held_messages_max = 10_000;
    let case = cases()
        .into_iter()
        .find(|found| found.name == case)
        .unwrap();
    let failure = case.failure(&mut || Broken::network(fault), limits);
    assert!(failure.is_some(), "{fault:?} passes {case:?}");
}

/// The broken ones are right but for one thing: the suite refuses them for that alone.
#[test]
fn a_fault_fails_no_case_but_its_own() {
    let failed = failures(
        &mut || Broken::network(Fault::StartsTwice),
        Limits::default(),
    );
    let failed: Vec<&str> = failed.iter().map(|failure| failure.case).collect();
    assert_eq!(
        failed,
        [
            "a_second_start_is_an_error",
            "a_start_after_stop_is_an_error"
        ]
    );
}

#[test]
fn the_cases_have_names_of_their_own() {
    let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases().len());
    assert!(names.len() > 20);
}

#[test]
fn one_that_blocks_in_send_is_refused() {
    assert_refused(Fault::BlocksInSend, "send_to_nobody_returns");
}

#[test]
fn one_that_delivers_to_the_wrong_node_is_refused() {
    assert_refused(
        Fault::DeliversToTheWrongNode,
        "a_message_arrives_at_nobody_but_its_receiver",
    );
    assert_refused(
        Fault::DeliversToEverybody,
        "a_message_arrives_at_nobody_but_its_receiver",
    );
}

#[test]
fn one_that_alters_bytes_is_refused() {
    assert_refused(Fault::AltersBytes, "what_arrives_is_what_was_sent");
    assert_refused(
        Fault::AltersTheCluster,
        "the_cluster_and_the_sender_arrive_with_the_message",
    );
}

#[test]
fn one_that_never_delivers_long_messages_is_refused() {
    assert_refused(
        Fault::LosesLongMessages,
        "the_largest_message_arrives_whole",
    );
}

#[test]
fn one_that_delivers_after_stop_is_refused() {
    assert_refused(Fault::DeliversAfterStop, "nothing_is_delivered_after_stop");
}

#[test]
fn one_that_keeps_its_inbox_after_stop_is_refused() {
    assert_refused(
        Fault::KeepsTheInboxAfterStop,
        "the_inbox_is_dropped_by_stop",
    );
}

#[test]
fn one_that_grows_without_bound_is_refused() {
    assert_refused(Fault::KeepsWhatNobodyTakes, "what_nobody_takes_is_not_kept");
    assert_refused(
        Fault::KeepsWhatNobodyTakes,
        "what_a_full_inbox_refuses_is_not_kept",
    );
}

#[test]
fn one_that_starts_twice_is_refused() {
    assert_refused(Fault::StartsTwice, "a_second_start_is_an_error");
    assert_refused(Fault::StartsTwice, "a_start_after_stop_is_an_error");
}

#[test]
fn one_that_sends_after_stop_is_refused() {
    assert_refused(Fault::SendsAfterStop, "a_stopped_node_sends_nothing");
}

#[test]
fn one_that_is_not_reached_again_is_refused() {
    assert_refused(
        Fault::NeverComesBack,
        "a_node_that_comes_back_is_reached_again",
    );
}

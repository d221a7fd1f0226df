//! Whole nodes, with real threads.

use quorate::transport::Network;
use quorate::{CreateMode, Node, NodeId, Version};
use std::time::{Duration, Instant};

#[test]
fn smoke_single() {
    let node = Node::builder(1).start().unwrap();
    let session = node.session().open().wait().unwrap();
    session
        .create("/a", "x", CreateMode::Persistent)
        .wait()
        .unwrap();
    let (data, stat) = session.get("/a").wait().unwrap();
    assert_eq!(&data[..], b"x");
    println!("{stat:?}");
    let t = Instant::now();
    for _ in 0..1000 {
        session.set("/a", "y", Version::ANY).wait().unwrap();
    }
    println!("single set: {:?}", t.elapsed() / 1000);
}

#[test]
fn smoke_three() {
    let network = Network::new(1);
    let nodes: Vec<Node> = (1..=3)
        .map(|id| {
            Node::builder(id)
                .voters([1, 2, 3])
                .transport(network.endpoint(NodeId::new(id).unwrap()))
                .start()
                .unwrap()
        })
        .collect();
    for node in &nodes {
        node.wait_for(Duration::from_secs(10), |s| s.leader.is_some())
            .unwrap();
    }
    let session = nodes[0].session().open().wait().unwrap();
    session
        .create("/a", "x", CreateMode::Persistent)
        .wait()
        .unwrap();
    let other = nodes[1].session().open().wait().unwrap();
    let (data, _) = other.linearizable().get("/a").wait().unwrap();
    assert_eq!(&data[..], b"x");
    let t = Instant::now();
    for _ in 0..1000 {
        session.set("/a", "y", Version::ANY).wait().unwrap();
    }
    println!("three set: {:?}", t.elapsed() / 1000);
    let t = Instant::now();
    let mut p = std::collections::VecDeque::new();
    for _ in 0..100000 {
        p.push_back(session.set("/a", "y", Version::ANY));
        if p.len() > 1000 {
            p.pop_front().unwrap().wait().unwrap();
        }
    }
    for q in p {
        q.wait().unwrap();
    }
    println!("three pipelined: {:?}", t.elapsed() / 100000);
}

//! Three nodes in one process, a lock, and a write that only the lock's holder can make.
//!
//! `cargo run --example three_nodes`

use std::error::Error;
use std::time::Duration;

use quorate::recipes::{Lock, LockGuard};
use quorate::transport::Network;
use quorate::{CreateMode, Node, NodeId, Session, Version};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let nodes = start_nodes()?;

    // A session on each of two nodes, as two services would have.
    let anna = open_session(&nodes[0])?;
    let ben = open_session(&nodes[1])?;
    anna.create("/balance", "10", CreateMode::Persistent)
        .wait()?;

    // Anna gets the lock; Ben is next in line.
    let annas = Lock::new(&anna, "/locks/balance")
        .acquire()
        .wait_timeout(PATIENCE)?;
    let bens = Lock::new(&ben, "/locks/balance").acquire();
    println!(
        "Anna holds the lock, with fencing token {}",
        annas.fencing_token()
    );
    withdraw(&anna, &annas, 3)?;

    // She releases it, and it is his.
    annas.release().wait()?;
    let bens = bens.wait_timeout(PATIENCE)?;
    println!(
        "Ben holds the lock, with fencing token {}",
        bens.fencing_token()
    );
    withdraw(&ben, &bens, 4)?;

    // Somebody takes the lock away from him. The cluster refuses what he does with the old guard.
    ben.delete(bens.path(), Version::ANY).wait()?;
    let refused = withdraw(&ben, &bens, 2).expect_err("he is no holder any more");
    println!("Ben's guard is stale: {refused}");

    // Any node answers, and `linearizable` reads show every write that was answered before.
    let observer = open_session(&nodes[2])?;
    let (balance, _) = observer.linearizable().get("/balance").wait()?;
    println!("The balance is {}", String::from_utf8_lossy(&balance));
    assert_eq!(&balance[..], b"3");
    Ok(())
}

fn start_nodes() -> Result<Vec<Node>, Box<dyn Error>> {
    let network = Network::new(1);
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let endpoint = network.endpoint(NodeId::new(id).ok_or("0 is no node's id")?);
        let builder = Node::builder(id).voters([1, 2, 3]).transport(endpoint);
        nodes.push(builder.start()?);
    }
    Ok(nodes)
}

fn open_session(node: &Node) -> quorate::Result<Session> {
    node.session().open().wait_timeout(PATIENCE)
}

/// Reads and writes as one step: nobody else does either while the guard's lock is held, and if it is
/// not, the write does not happen.
fn withdraw(session: &Session, guard: &LockGuard, amount: u64) -> Result<(), Box<dyn Error>> {
    let (balance, _) = session.get("/balance").wait()?;
    let balance: u64 = std::str::from_utf8(&balance)?.parse()?;
    let rest = (balance - amount).to_string();
    let multi = guard.check(session.multi());
    multi.set("/balance", &rest, Version::ANY).commit().wait()?;
    println!("  {balance} - {amount} = {rest}");
    Ok(())
}

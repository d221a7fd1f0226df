//! Who is alive: each member has an ephemeral znode, and whoever cares watches the list of children.
//!
//! `cargo run --example membership`

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;

use quorate::{CreateMode, Node, Session, Watcher};

const PATIENCE: Duration = Duration::from_secs(30);
const GROUP: &str = "/members";

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::builder(1).start()?;
    let observer = node.session().open().wait_timeout(PATIENCE)?;
    observer.create(GROUP, "", CreateMode::Persistent).wait()?;
    let mut group = Group {
        watcher: observer.watcher(16),
        session: observer,
        known: BTreeSet::new(),
    };

    let anna = join(&node, "anna", "10.0.0.1:4000")?;
    let ben = join(&node, "ben", "10.0.0.2:4000")?;
    group.wait_for(&["anna", "ben"])?;

    // A member that leaves closes its session. One that dies has its session expire: it is the same
    // to the others, only later.
    ben.close().wait()?;
    group.wait_for(&["anna"])?;

    let _carl = join(&node, "carl", "10.0.0.3:4000")?;
    // The last handle closes the session.
    drop(anna);
    group.wait_for(&["carl"])?;
    Ok(())
}

/// A member: its znode is there as long as its session.
fn join(node: &Node, name: &str, address: &str) -> quorate::Result<Session> {
    let session = node.session().open().wait_timeout(PATIENCE)?;
    let path = format!("{GROUP}/{name}");
    session
        .create(&path, address, CreateMode::Ephemeral)
        .wait()?;
    Ok(session)
}

/// What an observer knows of the group.
struct Group {
    session: Session,
    watcher: Watcher,
    known: BTreeSet<String>,
}

impl Group {
    /// Follows the group until it has just these members.
    fn wait_for(&mut self, members: &[&str]) -> quorate::Result<()> {
        loop {
            // Read and watched in one step: the watch is for the next change after what was read.
            let reading = self.session.children_and_watch(GROUP, &self.watcher);
            let names = reading.wait()?.0.iter().map(str::to_string).collect();
            self.tell(&names)?;
            self.known = names;
            if self
                .known
                .iter()
                .map(String::as_str)
                .eq(members.iter().copied())
            {
                return Ok(());
            }
            self.watcher.next_timeout(PATIENCE)?;
        }
    }

    fn tell(&self, names: &BTreeSet<String>) -> quorate::Result<()> {
        for name in names.difference(&self.known) {
            match self.session.get(&format!("{GROUP}/{name}")).wait() {
                Ok((address, _)) => println!("+ {name} at {}", String::from_utf8_lossy(&address)),
                Err(quorate::Error::NoNode { .. }) => println!("+ {name}, gone again"),
                Err(error) => return Err(error),
            }
        }
        for name in self.known.difference(names) {
            println!("- {name}");
        }
        Ok(())
    }
}

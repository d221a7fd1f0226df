//! Configuration with watches: one writer, and readers that hear of every change.
//!
//! A persistent watch tells that something has changed; the reader then reads what is there. It may
//! see fewer versions than were written, if the writer is faster, but always the last one.
//!
//! `cargo run --example configuration`

use std::error::Error;
use std::thread;
use std::time::Duration;

use quorate::{CreateMode, Node, Session, Version, WatchKind, Watcher};

const PATIENCE: Duration = Duration::from_secs(30);
const PATH: &str = "/config/colour";
const COLOURS: [&str; 4] = ["red", "green", "blue", "black"];
const LAST: &str = "none";

fn main() -> Result<(), Box<dyn Error>> {
    let node = Node::builder(1).start()?;
    let writer = node.session().open().wait_timeout(PATIENCE)?;
    writer
        .create("/config", "", CreateMode::Persistent)
        .wait()?;
    writer
        .create(PATH, "white", CreateMode::Persistent)
        .wait()?;

    let mut readers = Vec::new();
    for number in 1..=3 {
        let session = node.session().open().wait_timeout(PATIENCE)?;
        // Set before the first read, so that no change falls in between.
        let watcher = session.watcher(16);
        session.watch(PATH, WatchKind::Persistent, &watcher)?;
        readers.push(thread::spawn(move || follow(number, &session, watcher)));
    }

    // Each write is for the version that the writer knows: two writers would not overwrite each other.
    let mut version = Version(0);
    for colour in COLOURS.into_iter().chain([LAST]) {
        let stat = writer.set(PATH, colour, version).wait()?;
        version = Version(stat.version);
        println!("writer: {colour} is version {version}");
    }
    for reader in readers {
        reader.join().map_err(|_| "a reader panicked")??;
    }
    Ok(())
}

/// Applies the configuration now, and after each change.
fn follow(number: u32, session: &Session, mut watcher: Watcher) -> quorate::Result<()> {
    let mut applied = None;
    loop {
        let (data, stat) = session.get(PATH).wait()?;
        if applied.replace(stat.version) != Some(stat.version) {
            let colour = String::from_utf8_lossy(&data);
            println!("  reader {number}: now {colour}, version {}", stat.version);
            if colour == LAST {
                return Ok(());
            }
        }
        // A change, or events were missed, or the session's state: reading again is right for all.
        watcher.next_timeout(PATIENCE)?;
    }
}

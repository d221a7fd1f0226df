//! The async side, here under tokio: operations, events and the lock are awaited. Nothing in the
//! library depends on a runtime.
//!
//! `cargo run --example async_tokio`

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use quorate::recipes::Lock;
use quorate::{CreateMode, Event, Node, Session, Version, WatchKind, Watcher};

const PATH: &str = "/counter";
const TASKS: u32 = 4;
const TURNS: u32 = 5;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    tokio::time::timeout(Duration::from_secs(30), count_together()).await?
}

async fn count_together() -> Result<(), Box<dyn Error + Send + Sync>> {
    let node = Node::builder(1).start()?;
    let session = node.session().open().await?;
    session.create(PATH, "0", CreateMode::Persistent).await?;

    let watcher = session.watcher(64);
    session.watch(PATH, WatchKind::Persistent, &watcher)?;
    let watching = tokio::spawn(print_changes(watcher));

    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(count(session.clone())))
        .collect();
    for task in tasks {
        task.await??;
    }

    // Operations are ordered when they are called, whoever awaits them, and in whatever order.
    let deletion = session.delete(PATH, Version::ANY);
    let gone = session.exists(PATH);
    assert_eq!(gone.await?, None);
    deletion.await?;

    let changes = watching.await?;
    println!("{changes} changes");
    assert_eq!(changes, TASKS * TURNS);
    Ok(())
}

/// Reads and writes under the lock, so that no increment is lost.
async fn count(session: Session) -> Result<(), Box<dyn Error + Send + Sync>> {
    let lock = Lock::new(&session, "/locks/counter");
    for _ in 0..TURNS {
        // To give up, drop the attempt: `tokio::time::timeout` and `select!` do.
        let guard = tokio::time::timeout(Duration::from_secs(10), lock.acquire()).await??;
        let (data, _) = session.get(PATH).await?;
        let count: u32 = std::str::from_utf8(&data)?.parse()?;
        let multi = guard.check(session.multi());
        let next = (count + 1).to_string();
        multi.set(PATH, next, Version::ANY).commit().await?;
        guard.release().await?;
    }
    Ok(())
}

/// Follows the znode until it is deleted. Returns how often it was set.
async fn print_changes(mut watcher: Watcher) -> u32 {
    let mut changes = 0;
    while let Some(event) = next(&mut watcher).await {
        match event {
            Event::Changed(event) if event.kind == quorate::EventKind::NodeDeleted => break,
            Event::Changed(event) => {
                changes += 1;
                println!("{} was set by the write {}", event.path, event.zxid);
            }
            Event::Missed { from } => println!("changes from the write {from} on were missed"),
            other => println!("{other:?}"),
        }
    }
    changes
}

/// What `StreamExt::next` of the futures crates does.
async fn next(watcher: &mut Watcher) -> Option<Event> {
    poll_fn(|context| Pin::new(&mut *watcher).poll_next(context)).await
}

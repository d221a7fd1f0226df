//! Bug: an event stood in its watcher's queue before its change was published, so a read that followed
//! it could miss the change, and wait for ever for an event that had come.

use std::time::Duration;

use quorate::{CreateMode, Event, Node, Version, WatchKind};

#[test]
fn a_read_that_follows_an_event_shows_its_change() {
    let node = Node::builder(1).start().unwrap();
    let writer = node.session().open().wait().unwrap();
    writer
        .create("/a", "", CreateMode::Persistent)
        .wait()
        .unwrap();
    let reader = node.session().open().wait().unwrap();
    let mut watcher = reader.watcher(10_000);
    reader.watch("/a", WatchKind::Persistent, &watcher).unwrap();
    let writing = std::thread::spawn(move || {
        for _ in 0..2_000 {
            writer.set("/a", "", Version::ANY).wait().unwrap();
        }
    });
    for _ in 0..2_000 {
        let event = watcher.next_timeout(Duration::from_secs(30)).unwrap();
        let Some(Event::Changed(event)) = event else {
            panic!("{event:?}");
        };
        let (_, stat) = reader.get("/a").wait().unwrap();
        assert!(stat.mzxid >= event.zxid, "{:?} after {event:?}", stat.mzxid);
    }
    writing.join().unwrap();
}

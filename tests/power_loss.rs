//! Power loss: a file system image, copied at random moments while a process acknowledges writes, and
//! opened again from each copy. Nothing acknowledged before a copy began is missing in it.
//!
//! The directory lies on an ext4 image behind a loop device. What the store has synced has reached the
//! image; what it hasn't lies in the page cache of the mounted file system, above the image, and a copy
//! of the image is without it, as a disk is after the power went. The process is stopped (SIGSTOP, all
//! threads seen at rest) while the image is copied, so no sync is under way; the file system commits its
//! journal for syncs alone (`commit=`), so none of that happens during the copy either. What the kernel
//! may write back by itself meanwhile is unsynced data and metadata that the journal holds already: a copy
//! that has half of it is what a disk could have that reorders unsynced writes.
//!
//! It doesn't try a disk that says that it has flushed and hasn't. The simulator's files do.
//!
//! It takes root, loop devices and e2fsprogs, and says so where they are missing: the same promise is kept
//! by the storage conformance suite then, for the log store, on files that forget what wasn't synced.
//! `QUORATE_POWER_LOSSES` says how many copies (20 unless told), `QUORATE_SEED` which random moments.

#[path = "support/child.rs"]
mod child;
#[path = "support/counted.rs"]
mod counted;
#[path = "support/image.rs"]
mod image;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use child::Child;
use counted::{Kind, OUTSTANDING, PATIENCE, Place};
use image::Image;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// After so many copies a new file system begins: its first copy comes while a cluster is made.
const COPIES_PER_IMAGE: u64 = 7;

#[derive(Default)]
struct Count {
    copies: u64,
    before_open: u64,
    acknowledged: u64,
    unacknowledged: u64,
}

fn nothing_synced_is_lost(kind: Kind) {
    if let Err(reason) = Image::is_possible() {
        image::say_skipped(&format!("power loss of {}: {reason}", kind.name()));
        return;
    }
    let copies = number("QUORATE_POWER_LOSSES").unwrap_or(20);
    let seed = number("QUORATE_SEED").unwrap_or_else(rand::random);
    println!("{}: QUORATE_SEED={seed}", kind.name());
    let mut random = StdRng::seed_from_u64(seed);
    let mut count = Count::default();
    while count.copies < copies {
        let parent = tempfile::tempdir().expect("a directory");
        let image = Image::new(&parent.path().join("image"));
        let place = Place {
            kind,
            voters: 1,
            dir: image.mount_point().join("data"),
        };
        let copies_here = COPIES_PER_IMAGE.min(copies - count.copies);
        lose_power_again_and_again(&image, &place, copies_here, &mut random, &mut count);
    }
    println!(
        "{}: {} copies, {} of them before it was open; {} writes acknowledged before them, {} more found in them",
        kind.name(),
        count.copies,
        count.before_open,
        count.acknowledged,
        count.unacknowledged
    );
    // Otherwise this would have tried less than it says.
    assert!(count.before_open > 0 && count.before_open < count.copies);
    assert!(count.acknowledged > count.copies * OUTSTANDING);
}

/// Copies the image while a child writes to it; every third copy ends the child as well, so that the
/// next one opens what there is.
fn lose_power_again_and_again(
    image: &Image,
    place: &Place,
    copies: u64,
    random: &mut StdRng,
    count: &mut Count,
) {
    // The writes known to have happened.
    let mut proven = 0;
    let mut child = None;
    for copy in 0..copies {
        let mut running = child.take().unwrap_or_else(|| Child::start(place));
        if running.said.open.is_none() {
            running.listen_until("that it opens its directory", |said| said.opening.is_some());
            if copy == 0 {
                running.listen(Duration::from_micros(random.gen_range(0..30_000)));
            } else {
                running.listen_until("that it is open", |said| said.open.is_some());
            }
        }
        if running.said.open.is_some() {
            running.listen(Duration::from_micros(random.gen_range(0..150_000)));
        }
        stop(&running);
        // What it had said before it stopped.
        running.listen(Duration::from_millis(1));
        proven = proven.max(running.said.proven());
        count.copies += 1;
        count.before_open += u64::from(running.said.open.is_none());
        count.acknowledged += running.said.acknowledged.map_or(0, |_| proven);
        let copied = image.copy();
        if copy % 3 == 2 {
            proven = proven.max(running.kill().proven());
        } else {
            running.signal("CONT");
            child = Some(running);
        }

        let held = held_by(&copied, place, proven);
        count.unacknowledged += held - proven.min(held);
    }
}

/// Opens what a copy holds; `proven` writes must be there.
fn held_by(copied: &Image, place: &Place, proven: u64) -> u64 {
    let place = Place {
        dir: copied.mount_point().join("data"),
        ..place.clone()
    };
    let opened = place
        .open()
        .unwrap_or_else(|error| panic!("{proven} writes were acknowledged: {error}"));
    let held = opened.holds();
    assert!(
        held >= proven,
        "{} of {proven} acknowledged writes are missing",
        proven - held
    );
    assert!(
        held <= proven + OUTSTANDING,
        "{held} writes, {proven} of them acknowledged"
    );
    // It goes on.
    opened.write(held, held + 10, drop);
    assert_eq!(opened.holds(), held + 10);
    opened.close();
    held
}

/// Stops every thread of the child. One in a sync stops after it.
fn stop(child: &Child) {
    child.signal("STOP");
    let tasks = format!("/proc/{}/task", child.id());
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat"));
        // A thread may have ended meanwhile. The state follows the name, which ends with the last bracket.
        stat.map_or(true, |stat| {
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        })
    };
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_dir(&tasks)
        .expect("a process")
        .all(is_stopped)
    {
        assert!(Instant::now() < deadline, "the child does not stop");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn power_loss_takes_nothing_acknowledged_from_the_log_store() {
    nothing_synced_is_lost(Kind::Log);
}

#[test]
fn power_loss_takes_nothing_acknowledged_from_sled() {
    nothing_synced_is_lost(Kind::Sled);
}

//! Real processes, killed with SIGKILL at random moments: nothing that was acknowledged is missing
//! afterwards, and nothing is there twice.
//!
//! What the kernel has taken survives the process, so this tries the order of a store's own steps and the
//! node's way back; `power_loss.rs` tries what was synced. `QUORATE_KILLS` says how many kills (50 unless
//! told), `QUORATE_SEED` which random moments.

#[path = "support/child.rs"]
mod child;
#[path = "support/counted.rs"]
mod counted;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use child::Child;
use counted::{Kind, OUTSTANDING, Place};

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}

/// After so many kills the next directory begins: its first kills come while a cluster is made.
const KILLS_PER_DIRECTORY: u64 = 12;

#[derive(Default)]
struct Count {
    kills: u64,
    before_open: u64,
    acknowledged: u64,
    snapshots: u64,
}

fn nothing_is_lost_or_doubled(kind: Kind, voters: u64, kills: u64) {
    let seed = number("QUORATE_SEED").unwrap_or_else(rand::random);
    println!("{} with {voters} voters: QUORATE_SEED={seed}", kind.name());
    let mut random = StdRng::seed_from_u64(seed);
    let mut count = Count::default();
    while count.kills < kills {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("data");
        let place = Place { kind, voters, dir };
        let kills_here = KILLS_PER_DIRECTORY.min(kills - count.kills);
        kill_again_and_again(&place, kills_here, &mut random, &mut count);
    }
    println!(
        "{} with {voters} voters: {} kills, {} of them before it was open; {} writes acknowledged; {} directories with snapshots",
        kind.name(),
        count.kills,
        count.before_open,
        count.acknowledged,
        count.snapshots
    );
    // Otherwise this would have tried less than it says.
    assert!(
        count.before_open >= kills / 5,
        "{} kills while opening",
        count.before_open
    );
    assert!(count.kills - count.before_open >= kills / 5);
    assert!(count.acknowledged > kills * OUTSTANDING / 2 && count.snapshots > 0);
}

fn kill_again_and_again(place: &Place, kills: u64, random: &mut StdRng, count: &mut Count) {
    // The writes known to have happened.
    let mut proven = 0;
    // How long it takes to open, as far as it is known.
    let mut opening = Duration::from_millis(20);
    for kill in 0..kills {
        let mut child = Child::start(place);
        child.listen_until("that it opens its directory", |said| said.opening.is_some());
        if kill < 2 || random.gen_bool(0.4) {
            child.listen(opening.mul_f64(random.r#gen()));
        } else {
            child.listen_until("that it is open", |said| said.open.is_some());
            // So much further, however slow the machine is; and then anywhere within the next writes.
            let further = random.gen_range(0..10 * OUTSTANDING);
            child.listen_until("that it writes", |said| {
                let held = said.open.map_or(0, |(held, _)| held);
                said.proven() >= held + further
            });
            child.listen(Duration::from_micros(random.gen_range(0..5_000)));
        }
        let said = child.kill();
        count.kills += 1;
        match (said.opening, said.open) {
            (Some(begun), Some((held, open))) => {
                opening = open - begun;
                check(proven, held);
                count.acknowledged += said.proven() - held;
            }
            _ => count.before_open += 1,
        }
        proven = proven.max(said.proven());
    }
    let opened = place.open().expect("a store that opens after any crash");
    let held = opened.holds();
    check(proven, held);
    // It goes on.
    opened.write(held, held + 10, drop);
    assert_eq!(opened.holds(), held + 10);
    opened.close();
    let has_snapshot = place.snapshot_index(1).expect("a store") > 1;
    count.snapshots += u64::from(has_snapshot);
}

/// What was proven is there; and no more than was on its way besides.
fn check(proven: u64, held: u64) {
    assert!(
        held >= proven,
        "{} acknowledged writes are missing",
        proven - held
    );
    assert!(
        held <= proven + OUTSTANDING,
        "{held} writes, {proven} of them acknowledged"
    );
}

#[test]
fn killed_processes_lose_and_double_nothing_on_the_log_store() {
    nothing_is_lost_or_doubled(Kind::Log, 1, number("QUORATE_KILLS").unwrap_or(50));
}

#[test]
fn killed_processes_lose_and_double_nothing_on_sled() {
    nothing_is_lost_or_doubled(Kind::Sled, 1, number("QUORATE_KILLS").unwrap_or(50));
}

#[test]
fn three_voters_killed_at_once_lose_and_double_nothing() {
    nothing_is_lost_or_doubled(Kind::Log, 3, number("QUORATE_KILLS").unwrap_or(50) / 2);
}

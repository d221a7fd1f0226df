//! The simulation's own chance: a seed, and everything follows.

use std::time::Duration;

use crate::node::split_mix;

/// A small generator (SplitMix64): not for secrets. The same seed gives the same numbers everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A sequence that follows from `seed`.
    pub fn new(seed: u64) -> Random {
        let mut random = Random { state: seed };
        // Neighbouring seeds are to have nothing in common.
        random.state = random.number();
        random
    }

    /// Another sequence, which doesn't depend on how far this one is drawn: one for each `purpose`, so
    /// that what is drawn for one doesn't change what is drawn for another.
    pub fn of(seed: u64, purpose: u64) -> Random {
        Random::new(Random::new(seed).number() ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        split_mix(&mut self.state)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // The bias is far below what a simulation could notice.
        ((u128::from(self.number()) * u128::from(bound)) >> 64) as u64
    }

    /// A place in a list of this length.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True once in so many times; never where that is 0.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// One of these.
    ///
    /// # Panics
    /// Where there is none.
    pub fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.index(among.len())]
    }

    /// A time from `least` on, and below `most`.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = most.saturating_sub(least).as_nanos() as u64;
        least + Duration::from_nanos(self.below(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_seed_others() {
        let drawn =
            |mut random: Random| -> Vec<u64> { (0..8).map(|_| random.below(1_000)).collect() };
        assert_eq!(drawn(Random::new(1)), drawn(Random::new(1)));
        assert_ne!(drawn(Random::new(1)), drawn(Random::new(2)));
        assert_ne!(drawn(Random::of(1, 1)), drawn(Random::of(1, 2)));
    }

    #[test]
    fn every_number_below_the_bound_is_drawn_and_none_beyond() {
        let mut random = Random::new(3);
        let mut found = [0; 5];
        for _ in 0..1_000 {
            found[random.below(5) as usize] += 1;
        }
        assert!(found.iter().all(|&times| times > 100), "{found:?}");
        assert_eq!(random.below(0), 0);
    }
}

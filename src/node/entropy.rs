//! Where a node draws what nobody else may guess, or has drawn before: passwords and nonces.
//!
//! The operating system's randomness, unless a simulation needs every run of a seed to be the same. It
//! knows nothing of what the numbers are for.

#[cfg(any(test, feature = "testing"))]
use parking_lot::Mutex;

/// A source of random bytes.
pub(crate) enum Entropy {
    /// The operating system's.
    System,
    /// A sequence that follows from a seed: worthless as a secret.
    #[cfg(any(test, feature = "testing"))]
    Seeded(Mutex<u64>),
}

impl Entropy {
    /// A sequence that follows from a seed.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn seeded(seed: u64) -> Entropy {
        Entropy::Seeded(Mutex::new(seed))
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn fill(&self, bytes: &mut [u8]) -> Result<(), getrandom::Error> {
        match self {
            Entropy::System => getrandom::fill(bytes),
            #[cfg(any(test, feature = "testing"))]
            Entropy::Seeded(state) => {
                let mut state = state.lock();
                for chunk in bytes.chunks_mut(8) {
                    let drawn = split_mix(&mut state).to_be_bytes();
                    chunk.copy_from_slice(&drawn[..chunk.len()]);
                }
                Ok(())
            }
        }
    }

    /// Draws a number.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn draw(&self) -> Result<u64, getrandom::Error> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

/// The next number of a SplitMix64 sequence.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_and_the_system_does_not() {
        let drawn = |entropy: Entropy| {
            let mut bytes = [0; 20];
            entropy.fill(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(drawn(Entropy::seeded(7)), drawn(Entropy::seeded(7)));
        assert_ne!(drawn(Entropy::seeded(7)), drawn(Entropy::seeded(8)));
        assert_ne!(drawn(Entropy::System), drawn(Entropy::System));
    }
}

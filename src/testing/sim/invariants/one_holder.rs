//! Of all guards of a lock at most one says at any moment that it is held (Curator #980, #1211; etcd's
//! Jepsen report of 2020).

use std::collections::BTreeMap;

use super::Check;
use crate::testing::oracle::Violation;

const TWO_HOLDERS: &str = "two guards of one lock are held";

#[derive(Default)]
pub(super) struct OneHolder;

impl OneHolder {
    pub(super) fn on_held(&mut self, held: &[(&str, u64)]) -> Check {
        let mut holders: BTreeMap<&str, u64> = BTreeMap::new();
        for &(lock, token) in held {
            if let Some(other) = holders.insert(lock, token) {
                let line = format!("{lock}: tokens {other} and {token}");
                return Err(Violation::new(TWO_HOLDERS, [line]));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::found;
    use super::*;

    #[test]
    fn a_second_holder_is_found() {
        OneHolder.on_held(&[("/a", 1), ("/b", 2)]).unwrap();
        found(
            OneHolder.on_held(&[("/a", 1), ("/b", 2), ("/a", 3)]),
            TWO_HOLDERS,
        );
    }
}

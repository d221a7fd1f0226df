//! Each holder of a lock has a greater fencing token than those before it.

use std::collections::HashMap;

use super::Check;
use crate::testing::oracle::Violation;

const NOT_GROWN: &str = "a fencing token is not greater than those before it";

/// The greatest token of each lock.
#[derive(Default)]
pub(super) struct TokensGrow {
    greatest: HashMap<String, u64>,
}

impl TokensGrow {
    pub(super) fn on_guard(&mut self, lock: &str, token: u64) -> Check {
        let before = self.greatest.insert(lock.to_string(), token).unwrap_or(0);
        if token > before {
            return Ok(());
        }
        let line = format!("{lock}: token {token} after {before}");
        Err(Violation::new(NOT_GROWN, [line]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::found;
    use super::*;

    #[test]
    fn a_token_that_is_no_greater_is_found() {
        let mut grow = TokensGrow::default();
        grow.on_guard("/a", 5).unwrap();
        grow.on_guard("/b", 4).unwrap();
        grow.on_guard("/a", 6).unwrap();
        found(grow.on_guard("/a", 6), NOT_GROWN);
    }
}

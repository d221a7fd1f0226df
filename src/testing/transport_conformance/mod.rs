//! The contract of [`Transport`], sentence by sentence, as tests that any transport can be put
//! through.
//!
//! It knows the trait and nothing of any transport. A transport may lose, double, delay and reorder
//! messages, so nothing here fails because one of them does not arrive; what must arrive is sent again
//! and again, for as long as patience lasts. Nothing is timed tightly.
//!
//! # Examples
//! ```
//! use quorate::testing::transport_conformance::check;
//! use quorate::transport::Network;
//!
//! check(|| {
//!     let network = Network::new(42);
//!     Box::new(move |node| Box::new(network.endpoint(node)))
//! });
//! ```

mod delivery;
mod lifecycle;
mod sending;
mod witness;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use self::witness::Bench;
use crate::NodeId;
use crate::transport::Transport;

/// A network of transports that reach each other: makes the transport of a node. It may be asked for
/// the same node again, once the one before has been stopped.
pub type NetworkUnderTest = Box<dyn Fn(NodeId) -> Box<dyn Transport>>;

/// Makes a new network, whose nodes nobody has heard of.
pub type Make<'a> = &'a mut dyn FnMut() -> NetworkUnderTest;

/// How long the suite waits, and how much a transport may hold back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// After this long a call that hasn't returned blocks, and a message sent over and over is lost
    /// for good. Only a failing case waits so long.
    pub patience: Duration,
    /// How long after a stop the suite watches for what must not come any more.
    pub watch: Duration,
    /// Messages that a transport may hold for a node that doesn't take them.
    pub held_messages_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            patience: Duration::from_secs(20),
            watch: Duration::from_millis(200),
            held_messages_max: 65_536,
        }
    }
}

/// One sentence of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// The sentence.
    pub name: &'static str,
    run: fn(&Bench) -> Result<(), String>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Case {
    /// Puts a transport through this case and says how it fails it, if it does. A panic of the
    /// transport is a failure. Of a transport that blocks, the thread that it blocks is left behind.
    pub fn failure(&self, make: Make<'_>, limits: Limits) -> Option<Failure> {
        let bench = Bench::new(make(), limits);
        let reason = match catch_unwind(AssertUnwindSafe(|| (self.run)(&bench))) {
            Ok(Ok(())) => return None,
            Ok(Err(reason)) => reason,
            Err(panic) => format!("it panicked: {}", panic_text(panic.as_ref())),
        };
        Some(Failure {
            case: self.name,
            reason,
        })
    }
}

/// A sentence of the contract that a transport does not keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The sentence.
    pub case: &'static str,
    /// What was seen instead.
    pub reason: String,
}

/// Puts a transport through all cases.
///
/// # Panics
/// Where a case fails; the text names each case and what was seen.
pub fn check(mut make: impl FnMut() -> NetworkUnderTest) {
    let failures = failures(&mut make, Limits::default());
    let lines: Vec<String> = failures
        .iter()
        .map(|failure| format!("  {}: {}", failure.case, failure.reason))
        .collect();
    assert!(
        failures.is_empty(),
        "the transport breaks its contract:\n{}",
        lines.join("\n")
    );
}

/// Puts a transport through all cases and says which it fails.
pub fn failures(make: Make<'_>, limits: Limits) -> Vec<Failure> {
    cases()
        .into_iter()
        .filter_map(|case| case.failure(make, limits))
        .collect()
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [sending::CASES, delivery::CASES, lifecycle::CASES].concat()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without words")
}

/// A table of cases that are named as their functions are.
macro_rules! case_table {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::testing::transport_conformance::Case] = &[
            $($crate::testing::transport_conformance::Case { name: stringify!($name), run: $name }),*
        ];
    };
}

/// Fails the case with a text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}

use {case_table, ensure};

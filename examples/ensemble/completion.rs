//! The tab key: commands, and paths of the tree as this node has it. It never waits for another node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate::Session;
use rustyline::completion::{Completer, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

use crate::commands;

/// The session that paths are read by, once there is one.
#[derive(Clone, Default)]
pub(crate) struct Reading(Arc<Mutex<Option<Session>>>);

impl Reading {
    pub(crate) fn set(&self, session: Option<Session>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// The paths that begin like this one.
    fn paths(&self, typed: &str) -> Vec<String> {
        let session = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (Some(session), Some(slash)) = (session, typed.rfind('/')) else {
            return Vec::new();
        };
        let (parent, beginning) = (&typed[..slash.max(1)], &typed[slash + 1..]);
        match session.children(parent).wait_timeout(Duration::ZERO) {
            Ok((names, _)) => names
                .iter()
                .filter(|name| name.starts_with(beginning))
                .map(|name| format!("{}{name}", &typed[..=slash]))
                .collect(),
            Err(_) => Vec::new(),
        }
    }
}

pub(crate) struct Completion {
    names: Vec<(String, bool)>,
    reading: Reading,
}

impl Completion {
    pub(crate) fn new(reading: Reading) -> Completion {
        let names = commands::names();
        Completion { names, reading }
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..position];
        let word_at = before.rfind(' ').map_or(0, |space| space + 1);
        let (word, first) = (&before[word_at..], before.split(' ').next().unwrap_or(""));
        let names = || self.names.iter().map(|(name, _)| name);
        let candidates: Vec<String> = if word_at == 0 || first == "help" {
            let fitting = names().filter(|name| name.starts_with(word));
            fitting.map(|name| format!("{name} ")).collect()
        } else if self.names.iter().any(|(name, path)| *path && name == first) {
            self.reading.paths(word)
        } else {
            Vec::new()
        };
        let pairs = candidates.into_iter().map(|replacement| Pair {
            display: replacement.clone(),
            replacement,
        });
        Ok((word_at, pairs.collect()))
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Hinter for Completion {
    type Hint = String;
}

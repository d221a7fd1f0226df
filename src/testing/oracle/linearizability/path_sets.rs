//! Which paths belong together, so that the operations on them must be judged together.

use std::collections::{BTreeSet, HashMap};

use crate::path;

/// Sets of paths that belong together (union and find).
pub(super) struct PathSets {
    numbers: HashMap<String, usize>,
    roots: Vec<usize>,
    tied: BTreeSet<String>,
}

impl PathSets {
    /// No sets yet. `tied` are the paths whose children matter to them: those that may come or go, or
    /// whose children are counted or listed.
    pub(super) fn new(tied: BTreeSet<String>) -> PathSets {
        PathSets {
            numbers: HashMap::new(),
            roots: Vec::new(),
            tied,
        }
    }

    /// Puts the paths of one operation together, and with the parents that they are tied to.
    pub(super) fn add(&mut self, paths: &[&str]) {
        for path in paths {
            self.join(paths[0], path);
            if let Some(parent) = path::parent(path).filter(|parent| self.tied.contains(*parent)) {
                self.join(path, parent);
            }
        }
    }

    /// Every path, with the number of its set.
    pub(super) fn all(&mut self) -> Vec<(String, usize)> {
        let paths: Vec<String> = self.numbers.keys().cloned().collect();
        let all = paths.into_iter().map(|path| {
            let root = self.root(&path);
            (path, root)
        });
        all.collect()
    }

    fn number(&mut self, path: &str) -> usize {
        if let Some(&number) = self.numbers.get(path) {
            return number;
        }
        let number = self.roots.len();
        self.numbers.insert(path.to_string(), number);
        self.roots.push(number);
        number
    }

    /// The number of the set that a path is in.
    pub(super) fn root(&mut self, path: &str) -> usize {
        let number = self.number(path);
        self.root_of(number)
    }

    fn root_of(&mut self, mut number: usize) -> usize {
        while self.roots[number] != number {
            self.roots[number] = self.roots[self.roots[number]];
            number = self.roots[number];
        }
        number
    }

    fn join(&mut self, one: &str, other: &str) {
        let (one, other) = (self.root(one), self.root(other));
        self.roots[other] = one;
    }
}

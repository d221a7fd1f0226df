//! The children of one znode, in the order of their names.
//!
//! A leaf has nothing, a small parent one sorted slice, a large one a persistent B-tree, so that the
//! millionth child costs no more than the thousandth and an old version keeps its own children. What is
//! stored are the children's whole paths, shared with the children: under one parent their order is that
//! of the names.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;
use imbl::ordset;

use crate::path::ZnodePath;

/// The names of a znode's children, sorted. Cheap to clone, never changes.
#[derive(Clone, Default)]
pub struct ChildNames(Option<Arc<Set>>);

/// Never empty: no children is no set.
#[derive(Clone)]
enum Set {
    Few(Box<[ZnodePath]>),
    Many(OrdSet<ZnodePath>),
}

/// The longest slice; one more makes it a B-tree, whose half-filled nodes cost twice the memory. The
/// first change after a publish copies the slice: so many reference counts, about what it costs a B-tree.
const FEW_MAX: usize = 64;
/// A B-tree this small becomes a slice again. Well below `FEW_MAX`, lest a parent at the border changes
/// form with every write.
const MANY_MIN: usize = 32;

impl ChildNames {
    /// How many.
    pub fn len(&self) -> usize {
        match self.0.as_deref() {
            None => 0,
            Some(Set::Few(paths)) => paths.len(),
            Some(Set::Many(paths)) => paths.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The names, from the first to the last.
    pub fn iter(&self) -> Names<'_> {
        Names(self.paths())
    }

    /// The whole paths, from the first to the last.
    pub(crate) fn paths(&self) -> Paths<'_> {
        match self.0.as_deref() {
            None => Paths::Few([].iter()),
            Some(Set::Few(paths)) => Paths::Few(paths.iter()),
            Some(Set::Many(paths)) => Paths::Many(paths.iter()),
        }
    }

    /// The first path after `path`, or the first of all.
    pub(crate) fn next_after(&self, path: Option<&str>) -> Option<&ZnodePath> {
        let Some(path) = path else {
            return self.paths().next();
        };
        match self.0.as_deref()? {
            Set::Few(paths) => paths.get(paths.partition_point(|p| p.as_str() <= path)),
            Set::Many(paths) => paths
                .range::<_, str>((Bound::Excluded(path), Bound::Unbounded))
                .next(),
        }
    }

    /// The children `paths`, which are sorted and differ.
    pub(super) fn from_sorted(paths: Vec<ZnodePath>) -> ChildNames {
        debug_assert!(paths.is_sorted_by(|a, b| a < b));
        ChildNames(match paths.len() {
            0 => None,
            1..=FEW_MAX => Some(Arc::new(Set::Few(paths.into_boxed_slice()))),
            _ => Some(Arc::new(Set::Many(paths.into_iter().collect()))),
        })
    }

    /// Adds a child.
    pub(super) fn insert(&mut self, path: ZnodePath) {
        let Some(set) = &mut self.0 else {
            *self = ChildNames::from_sorted(vec![path]);
            return;
        };
        match Arc::make_mut(set) {
            Set::Many(paths) => {
                paths.insert(path);
            }
            Set::Few(slice) => {
                let mut paths = std::mem::take(slice).into_vec();
                match paths.binary_search(&path) {
                    Ok(at) => paths[at] = path,
                    Err(at) => {
                        paths.reserve_exact(1);
                        paths.insert(at, path);
                    }
                }
                *self = ChildNames::from_sorted(paths);
            }
        }
    }

    /// Takes a child away.
    pub(super) fn remove(&mut self, path: &str) {
        let Some(set) = &mut self.0 else { return };
        match Arc::make_mut(set) {
            Set::Many(paths) => {
                paths.remove(path);
                if paths.len() <= MANY_MIN {
                    let paths = std::mem::take(paths).into_iter().collect();
                    *self = ChildNames::from_sorted(paths);
                }
            }
            Set::Few(slice) => {
                let mut paths = std::mem::take(slice).into_vec();
                paths.retain(|p| p.as_str() != path);
                *self = ChildNames::from_sorted(paths);
            }
        }
    }
}

impl<'a> IntoIterator for &'a ChildNames {
    type Item = &'a str;
    type IntoIter = Names<'a>;

    fn into_iter(self) -> Names<'a> {
        self.iter()
    }
}

impl PartialEq for ChildNames {
    fn eq(&self, other: &ChildNames) -> bool {
        self.len() == other.len() && self.paths().eq(other.paths())
    }
}

impl Eq for ChildNames {}

impl fmt::Debug for ChildNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The names of children, in order.
#[derive(Clone)]
pub struct Names<'a>(Paths<'a>);

impl<'a> Iterator for Names<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0.next().map(ZnodePath::name)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The paths of children, in order.
#[derive(Clone)]
pub(crate) enum Paths<'a> {
    Few(std::slice::Iter<'a, ZnodePath>),
    Many(ordset::Iter<'a, ZnodePath, imbl::shared_ptr::DefaultSharedPtr>),
}

impl<'a> Iterator for Paths<'a> {
    type Item = &'a ZnodePath;

    fn next(&mut self) -> Option<&'a ZnodePath> {
        match self {
            Paths::Few(paths) => paths.next(),
            Paths::Many(paths) => paths.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Paths::Few(paths) => paths.size_hint(),
            Paths::Many(paths) => paths.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use std::collections::BTreeSet;

    fn path(name: &str) -> ZnodePath {
        ZnodePath::parse(&format!("/parent/{name}")).unwrap()
    }

    #[test]
    fn children_are_sorted_by_name_at_every_size() {
        let mut rng = StdRng::seed_from_u64(1);
        for size in [1, 5, 40, 64, 65, 300] {
            let mut model = BTreeSet::new();
            let mut children = ChildNames::default();
            for _ in 0..size * 20 {
                let name = format!("{:x}", rng.gen_range(0..size * 2));
                if model.len() < size && rng.gen_bool(0.7) {
                    children.insert(path(&name));
                    model.insert(name);
                } else {
                    children.remove(path(&name).as_str());
                    model.remove(&name);
                }
                assert!(children.iter().eq(model.iter().map(String::as_str)));
                assert_eq!(children.len(), model.len());
                assert_eq!(children.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn the_form_follows_the_number_and_not_with_every_write_at_the_border() {
        let mut children = ChildNames::default();
        let is_many = |c: &ChildNames| matches!(c.0.as_deref(), Some(Set::Many(_)));
        for number in 0..=FEW_MAX {
            assert!(!is_many(&children));
            children.insert(path(&number.to_string()));
        }
        for number in MANY_MIN..=FEW_MAX {
            assert!(is_many(&children));
            children.remove(path(&number.to_string()).as_str());
        }
        assert!(!is_many(&children));
        assert_eq!(children.len(), MANY_MIN);
    }

    #[test]
    fn a_clone_keeps_the_children_of_its_time() {
        for size in [3, 100] {
            let names: Vec<String> = (0..size).map(|n| format!("{n:03}")).collect();
            let mut children = ChildNames::from_sorted(names.iter().map(|n| path(n)).collect());
            let before = children.clone();
            children.insert(path("x"));
            children.remove(path("000").as_str());
            assert!(before.iter().eq(names.iter().map(String::as_str)));
            assert_ne!(before, children);
        }
    }

    #[test]
    fn the_next_child_is_found_also_after_one_that_is_gone() {
        for size in [4, 100] {
            let all = (0..size).map(|n| path(&format!("{:03}", 2 * n))).collect();
            let children = ChildNames::from_sorted(all);
            let next = |name: &str| {
                let after = path(name);
                children.next_after(Some(after.as_str())).cloned()
            };
            assert_eq!(children.next_after(None), Some(&path("000")));
            assert_eq!(next("000"), Some(path("002")));
            assert_eq!(next("001"), Some(path("002")));
            assert_eq!(next(&format!("{:03}", 2 * size - 2)), None);
        }
    }
}

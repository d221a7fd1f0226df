//! Every ACL in use, once, under a small number: most znodes share a few ACLs.
//!
//! The table counts references and reuses free numbers, so it holds what the tree uses and no more.
//! A number depends on the history of a replica: it must never reach an output or a snapshot.
//! Number 0 is the open ACL, always there and never counted.

use std::sync::Arc;

use hashbrown::HashMap;
use imbl::Vector;

use crate::acl::Acl;

/// The number of an ACL in a replica's table.
pub(crate) type AclIndex = u32;

/// The number of the ACL by which everybody may do everything.
pub(crate) const OPEN_ACL: AclIndex = 0;

/// The ACLs of one tree, by number. Cloning is cheap: it is how readers get theirs.
#[derive(Clone, Debug)]
pub(crate) struct AclLists(Vector<Arc<[Acl]>>);

impl AclLists {
    /// The ACL behind a number of the same tree.
    fn list(&self, index: AclIndex) -> &Arc<[Acl]> {
        &self.0[index as usize]
    }

    /// The ACL behind a number that may be of another moment.
    pub(crate) fn get(&self, index: AclIndex) -> Option<&[Acl]> {
        self.0.get(index as usize).map(|acl| &**acl)
    }
}

/// The writer's side: numbers for ACLs.
#[derive(Debug)]
pub(crate) struct AclTable {
    lists: AclLists,
    /// How many znodes have it; same length as `lists`.
    references: Vec<u64>,
    numbers: HashMap<Arc<[Acl]>, AclIndex, foldhash::fast::FixedState>,
    free: Vec<AclIndex>,
}

impl AclTable {
    /// A table with nothing but the open ACL.
    pub(crate) fn new() -> AclTable {
        let open: Arc<[Acl]> = Acl::open().into();
        let mut numbers = HashMap::default();
        numbers.insert(open.clone(), OPEN_ACL);
        AclTable {
            lists: AclLists(Vector::unit(open)),
            references: vec![0],
            numbers,
            free: Vec::new(),
        }
    }

    /// What readers need.
    pub(crate) fn lists(&self) -> &AclLists {
        &self.lists
    }

    /// The ACL behind `index`.
    pub(crate) fn list(&self, index: AclIndex) -> &Arc<[Acl]> {
        self.lists.list(index)
    }

    /// The number of `acl`, with one reference more.
    pub(crate) fn acquire(&mut self, acl: &[Acl]) -> AclIndex {
        if let Some(&index) = self.numbers.get(acl) {
            self.retain(index);
            return index;
        }
        let shared: Arc<[Acl]> = acl.into();
        let index = match self.free.pop() {
            Some(index) => {
                self.lists.0.set(index as usize, shared.clone());
                self.references[index as usize] = 1;
                index
            }
            None => {
                let index =
                    AclIndex::try_from(self.references.len()).expect("fewer than 2^32 ACLs");
                self.lists.0.push_back(shared.clone());
                self.references.push(1);
                index
            }
        };
        self.numbers.insert(shared, index);
        index
    }

    /// One reference more to an ACL that is in use.
    pub(crate) fn retain(&mut self, index: AclIndex) {
        if index != OPEN_ACL {
            self.references[index as usize] += 1;
        }
    }

    /// One reference less; the last one frees the number.
    pub(crate) fn release(&mut self, index: AclIndex) {
        if index == OPEN_ACL {
            return;
        }
        let references = &mut self.references[index as usize];
        assert!(
            *references > 0,
            "an ACL is released more often than acquired"
        );
        *references -= 1;
        if *references == 0 {
            self.numbers.remove(&self.lists.0[index as usize]);
            // The slot must not keep the list alive; any other list does for one that nobody names.
            let open = self.lists.0[OPEN_ACL as usize].clone();
            self.lists.0.set(index as usize, open);
            self.free.push(index);
        }
    }

    /// How many znodes have each ACL that is in use, but the open one's.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn references(&self) -> impl Iterator<Item = (AclIndex, u64)> + '_ {
        (0..)
            .zip(self.references.iter().copied())
            .filter(|&(_, references)| references > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{AuthId, Permissions};

    fn acl(user: &str) -> Vec<Acl> {
        vec![Acl::new(Permissions::ALL, AuthId::digest(user, "x"))]
    }

    #[test]
    fn equal_acls_share_a_number_and_the_open_one_is_zero() {
        let mut table = AclTable::new();
        assert_eq!(table.acquire(&Acl::open()), OPEN_ACL);
        let one = table.acquire(&acl("one"));
        assert_eq!(table.acquire(&acl("one")), one);
        assert_ne!(table.acquire(&acl("two")), one);
        assert_eq!(table.list(one)[..], acl("one")[..]);
    }

    #[test]
    fn a_number_is_free_again_after_its_last_release() {
        let mut table = AclTable::new();
        for round in 0..1000 {
            let index = table.acquire(&acl(&round.to_string()));
            table.retain(index);
            table.release(index);
            assert_eq!(table.references().collect::<Vec<_>>(), [(index, 1)]);
            table.release(index);
        }
        assert_eq!(table.references.len(), 2);
        assert_eq!(table.numbers.len(), 1);
    }

    #[test]
    fn a_reader_keeps_the_lists_that_it_took() {
        let mut table = AclTable::new();
        let index = table.acquire(&acl("before"));
        let taken = table.lists().clone();
        table.release(index);
        assert_eq!(table.acquire(&acl("after")), index);
        assert_eq!(taken.list(index)[..], acl("before")[..]);
    }
}

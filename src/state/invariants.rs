//! What is always true between two writes, all in one place. Tests and the simulator ask after each
//! step; it takes a walk through the whole tree.

use std::collections::BTreeMap;

use crate::ids::Zxid;
use crate::state::State;
use crate::state::acl_table::{AclIndex, OPEN_ACL};
use crate::state::delete::SYSTEM_ZNODES;
use crate::state::reap::{Due, ReapIndex};
use crate::state::sessions::{IDENTITIES_MAX, NONCES_KEPT, Session};
use crate::state::tree::{Owner, Znode};
use crate::state::znodes::Znodes;

type Check = Result<(), String>;

fn ensure(holds: bool, flaw: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(flaw()) }
}

impl State {
    /// Looks for a broken invariant.
    ///
    /// # Errors
    /// Says which, and where.
    pub(crate) fn check_invariants(&self) -> Check {
        self.znodes.tree.check()?;
        self.check_sessions()?;
        self.check_znodes()?;
        self.check_side_tables()?;
        self.check_quotas()?;
        for path in SYSTEM_ZNODES {
            let znode = self.znodes.tree.get(path);
            ensure(
                znode.is_some_and(|znode| znode.owner == Owner::NONE),
                || format!("the system's {path} is missing or not persistent"),
            )?;
        }
        Ok(())
    }

    fn check_sessions(&self) -> Check {
        ensure(self.sessions.passwords_differ(), || {
            "two sessions have one password".to_string()
        })?;
        self.sessions().try_for_each(|(id, session)| {
            check_session(session, self.zxid, &self.znodes)
                .map_err(|flaw| format!("session {id}: {flaw}"))
        })
    }

    fn check_znodes(&self) -> Check {
        self.znodes.tree.walk("/").try_for_each(|znode| {
            self.check_znode(&znode)
                .map_err(|flaw| format!("{}: {flaw}", znode.path))
        })
    }

    fn check_znode(&self, znode: &Znode) -> Check {
        let latest = znode.mzxid.max(znode.pzxid);
        ensure(znode.czxid <= latest && latest <= self.zxid, || {
            "zxids out of order".to_string()
        })?;
        let session = znode.owner.session();
        if znode.owner.is_ephemeral() {
            ensure(self.session(session).is_some(), || {
                format!("its session {session} is gone")
            })?;
            ensure(znode.children().is_empty(), || {
                "an ephemeral with children".to_string()
            })?;
            let key = (session, znode.path.clone());
            ensure(self.znodes.ephemerals.contains(&key), || {
                "not among the ephemerals".to_string()
            })?;
        }
        Ok(())
    }

    /// The tables that follow from the tree are what they would be if made anew.
    fn check_side_tables(&self) -> Check {
        let znodes = &self.znodes;
        let mut references: BTreeMap<AclIndex, u64> = BTreeMap::new();
        let mut ephemerals = 0;
        let mut reapable = ReapIndex::default();
        for znode in znodes.tree.walk("/") {
            if znode.acl != OPEN_ACL {
                *references.entry(znode.acl).or_default() += 1;
            }
            ephemerals += usize::from(znode.owner.is_ephemeral());
            reapable.change(&znode.path, None, Due::of(&znode));
        }
        let kept: BTreeMap<_, _> = znodes.acls.references().collect();
        ensure(kept == references, || {
            format!("ACL references {kept:?}, used {references:?}")
        })?;
        ensure(ephemerals == znodes.ephemerals.len(), || {
            format!(
                "{ephemerals} ephemerals, {} in the index",
                znodes.ephemerals.len()
            )
        })?;
        ensure(reapable == znodes.reapable, || {
            format!(
                "may be reaped: {reapable:?}, in the index: {:?}",
                znodes.reapable
            )
        })
    }

    fn check_quotas(&self) -> Check {
        let znodes = &self.znodes;
        let limits = znodes.limits();
        let found: Vec<_> = znodes
            .quotas
            .iter()
            .map(|(path, quota)| (path, quota.limits))
            .collect();
        let expected: Vec<_> = limits
            .iter()
            .map(|(path, limits)| (path.as_str(), *limits))
            .collect();
        ensure(found == expected, || {
            format!("quotas {found:?}, limits set {expected:?}")
        })?;
        znodes.quotas.iter().try_for_each(|(path, quota)| {
            let usage = znodes.usage_of(path);
            ensure(usage == quota.usage, || {
                format!("{path} uses {usage:?}, its quota counts {:?}", quota.usage)
            })?;
            ensure(znodes.shows_usage(path, usage), || {
                format!("the stats of {path} don't show {usage:?}")
            })
        })
    }
}

fn check_session(session: &Session, zxid: Zxid, znodes: &Znodes) -> Check {
    let kept = &session.kept;
    ensure(
        kept.len() <= znodes.settings.results_kept_max as usize,
        || format!("{} results are kept", kept.len()),
    )?;
    let first = (session.last_sequence + 1).wrapping_sub(kept.len() as u64);
    let sequences = kept.iter().map(|kept| kept.sequence);
    ensure(sequences.eq(first..=session.last_sequence), || {
        format!("kept results don't end at {}", session.last_sequence)
    })?;
    let zxids = || kept.iter().map(|kept| kept.zxid);
    ensure(
        zxids().is_sorted_by(|a, b| a < b) && zxids().all(|kept| kept <= zxid),
        || "zxids of kept results out of order".to_string(),
    )?;
    let bounded = session.identities.len() <= IDENTITIES_MAX && session.nonces.len() <= NONCES_KEPT;
    ensure(bounded, || "too many identities or nonces".to_string())
}

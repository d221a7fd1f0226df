//! The state before the first write, and states made from parts.

use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::OrdSet;

use crate::acl::Acl;
use crate::ids::Zxid;
use crate::path::ZnodePath;
use crate::proto::Rules;
use crate::state::State;
use crate::state::acl_table::{AclTable, OPEN_ACL};
use crate::state::digest_log::DigestLog;
use crate::state::reader::{Facts, Published};
use crate::state::sessions::Sessions;
use crate::state::settings::Settings;
use crate::state::tree::{Owner, Tree, TreeBuilder, Znode};
use crate::state::znodes::Znodes;

impl State {
    /// The state before the first write: the system's znodes, made by nobody at time 0. It is published.
    pub(crate) fn new(settings: Settings) -> State {
        let mut acls = AclTable::new();
        // As in ZooKeeper: everybody may set quotas, but only a super user writes the configuration.
        let read_only = acls.acquire(&Acl::read_only());
        let mut builder = TreeBuilder::new();
        for (path, acl) in [
            ("/", OPEN_ACL),
            ("/zookeeper", OPEN_ACL),
            ("/zookeeper/config", read_only),
            ("/zookeeper/quota", OPEN_ACL),
        ] {
            let path = ZnodePath::parse(path).expect("a system path is valid");
            builder.insert(Znode::created(path, &[], Zxid(0), 0, Owner::NONE, acl));
        }
        let tree = Tree::from_content(
            builder
                .finish(Zxid(0))
                .expect("the system's znodes are a tree"),
        );
        let znodes = Znodes::new(settings.canonical(), tree, acls, OrdSet::new());
        State::from_parts(Zxid(0), 0, Rules::FIRST, Sessions::default(), znodes)
    }

    /// A state made of its parts, published.
    pub(super) fn from_parts(
        zxid: Zxid,
        time_ms: i64,
        rules: Rules,
        mut sessions: Sessions,
        znodes: Znodes,
    ) -> State {
        let facts = Arc::new(Facts {
            zxid,
            sessions: sessions.publish(),
            acls: znodes.acls.lists().clone(),
            ephemerals: znodes.ephemerals.clone(),
        });
        let published = Published {
            tree_number: 0,
            tree: znodes.tree.reader(),
            current: facts.clone(),
            previous: facts.clone(),
        };
        State {
            zxid,
            time_ms,
            rules,
            sessions,
            znodes,
            digests: Arc::new(DigestLog::default()),
            facts,
            tree_number: 0,
            cell: Arc::new(ArcSwap::from_pointee(published)),
        }
    }
}

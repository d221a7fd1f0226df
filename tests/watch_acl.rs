//! Events go to those alone who may read the znode, by its ACL as of the change.

mod support;

use quorate::{
    Acl, AuthId, CreateMode, Event, EventKind, Node, Permissions, Session, Version, WatchKind,
    Watcher,
};
use support::{Within as _, next};

/// What a watcher hears up to the change that everybody may hear of, without that.
fn heard(watcher: &mut Watcher) -> Vec<(EventKind, String)> {
    let mut heard = Vec::new();
    loop {
        match next(watcher) {
            Event::Changed(event) if event.path.as_str() == "/end" => return heard,
            Event::Changed(event) => heard.push((event.kind, event.path.to_string())),
            Event::Session(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn watching(session: &Session) -> Watcher {
    let watcher = session.watcher(100);
    let everything = WatchKind::PersistentRecursive;
    session.watch("/", everything, &watcher).unwrap();
    // What is there and may not be read can be watched, and isn't told of.
    let persistent = WatchKind::Persistent;
    session.watch("/secret", persistent, &watcher).unwrap();
    watcher
}

#[test]
fn who_may_not_read_a_znode_is_not_told_of_it() {
    let node = Node::builder(1).start().unwrap();
    let open = || node.session().open().within().unwrap();
    let (ann, friend, eve) = (open(), open(), open());
    let ann_is = AuthId::digest("ann", "secret");
    ann.add_auth(ann_is.clone()).within().unwrap();
    friend
        .add_auth(AuthId::digest("friend", "f"))
        .within()
        .unwrap();
    let stranger = || node.session().open_read_only().unwrap();
    let (strange_ann, strange) = (stranger(), stranger());
    strange_ann.add_auth(ann_is.clone()).within().unwrap();
    let mut told = [watching(&ann), watching(&strange_ann)];
    let mut partly = watching(&friend);
    let mut untold = [watching(&eve), watching(&strange)];

    let closed = [Acl::new(Permissions::ALL, ann_is.clone())];
    let create = |path: &str, acl: &[Acl]| {
        let created = ann.create_with_acl(path, "", CreateMode::Persistent, acl);
        created.within().unwrap();
    };
    create("/secret", &closed);
    create("/secret/child", &closed);
    ann.set("/secret/child", "1", Version::ANY)
        .within()
        .unwrap();
    // As of each change: only while its friend may read it.
    let reads = Acl::new(Permissions::READ, AuthId::digest("friend", "f"));
    let shared = [Acl::new(Permissions::ALL, ann_is), reads];
    let set_acl = |acl: &[Acl]| {
        let set = ann.set_acl("/secret/child", acl, Version::ANY);
        set.within().unwrap();
    };
    set_acl(&shared);
    ann.set("/secret/child", "2", Version::ANY)
        .within()
        .unwrap();
    set_acl(&closed);
    ann.set("/secret/child", "3", Version::ANY)
        .within()
        .unwrap();
    // Deleted in one write with its parent, and still nobody else's.
    let deleted = ann
        .multi()
        .delete("/secret/child", Version::ANY)
        .delete("/secret", Version::ANY)
        .commit();
    deleted.within().unwrap();
    create("/end", &Acl::open());

    let child = |kind| (kind, "/secret/child".to_string());
    let secret = |kind| (kind, "/secret".to_string());
    for watcher in &mut told {
        let expected = [
            secret(EventKind::NodeCreated),
            child(EventKind::NodeCreated),
            secret(EventKind::NodeChildrenChanged),
            child(EventKind::NodeDataChanged),
            child(EventKind::NodeDataChanged),
            child(EventKind::NodeDataChanged),
            child(EventKind::NodeDeleted),
            secret(EventKind::NodeChildrenChanged),
            secret(EventKind::NodeDeleted),
        ];
        assert_eq!(heard(watcher), expected);
    }
    assert_eq!(heard(&mut partly), [child(EventKind::NodeDataChanged)]);
    for watcher in &mut untold {
        assert_eq!(heard(watcher), []);
    }
}

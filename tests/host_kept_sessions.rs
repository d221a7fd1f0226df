//! Sessions that the host keeps alive, for clients that it hears of.

mod support;

use std::time::Duration;

use quorate::{AuthId, CreateMode, Error, Node, Session, SessionState};
use support::{PATIENCE, Within as _, eventually};

const SHORT: Duration = Duration::from_millis(1_000);

fn node() -> Node {
    Node::builder(1)
        .session_timeouts(SHORT, Duration::from_secs(60))
        .start()
        .unwrap()
}

fn kept_by_host(node: &Node) -> Session {
    let builder = node.session().timeout(SHORT).touched_by_host();
    builder.open().within().unwrap()
}

#[test]
fn silence_ends_a_session_that_its_host_keeps() {
    let node = node();
    let watching = node.session().timeout(PATIENCE).open().within().unwrap();
    let session = kept_by_host(&node);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    eventually("the ephemeral vanishes", || {
        watching.exists("/e").within().unwrap().is_none()
    });
    eventually("the handle knows", || session.state() == SessionState::Lost);
}

#[test]
fn a_session_that_is_touched_outlives_those_that_are_not() {
    let node = node();
    let session = kept_by_host(&node);
    for _ in 0..2 {
        let silent = kept_by_host(&node);
        eventually("the silent one is lost", || {
            session.touch();
            silent.state() == SessionState::Lost
        });
    }
    assert_eq!(session.state(), SessionState::Connected);
    assert!(session.is_certain());
}

#[test]
fn dropping_the_handle_leaves_the_session_to_be_attached() {
    let node = node();
    let session = kept_by_host(&node);
    session
        .create("/e", "", CreateMode::Ephemeral)
        .within()
        .unwrap();
    let credentials = session.credentials();
    drop(session);
    // Behind whatever the drop has brought about.
    let other = node.session().open().within().unwrap();
    other.sync().within().unwrap();
    let builder = node.session().timeout(SHORT).touched_by_host();
    let again = builder.attach(&credentials).within().unwrap();
    let stat = again.exists("/e").within().unwrap().unwrap();
    assert_eq!(stat.ephemeral_owner, again.id());
    again.close().within().unwrap();
    let attached = node.session().attach(&credentials).within();
    assert!(matches!(attached, Err(Error::SessionExpired { .. })));
}

#[test]
fn a_session_has_the_address_where_it_is_attached_and_no_other() {
    let node = node();
    let session = kept_by_host(&node);
    let only_ip = [quorate::Acl::new(
        quorate::Permissions::ALL,
        AuthId::new("ip", "10.0.0.1"),
    )];
    drop(session.add_auth(AuthId::new("ip", "10.0.0.1")));
    session
        .create_with_acl("/a", "", CreateMode::Persistent, &only_ip)
        .within()
        .unwrap();
    session.get("/a").within().unwrap();
    session
        .add_auth(AuthId::new("digest", "ann:hash"))
        .within()
        .unwrap();
    session.get("/a").within().unwrap();
    session
        .add_auth(AuthId::new("ip", "10.0.0.2"))
        .within()
        .unwrap();
    assert!(matches!(
        session.get("/a").within(),
        Err(Error::NoAuth { .. })
    ));
}

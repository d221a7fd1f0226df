//! Reading what is published, from any thread.
//!
//! A znode with the open ACL is read from the tree alone. Any other read needs the ACLs and sessions as
//! of the same write as the tree's view: [`Published`] holds them for the view that is about to be shown
//! and for the one before, since the tree's turn comes a moment later.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::acl::{Acl, AuthId};
use crate::error::{Error, Result};
use crate::ids::{NodeId, SessionId, Zxid};
use crate::op::{EventAcl, ReadOp};
use crate::state::acl_table::{AclIndex, AclLists, OPEN_ACL};
use crate::state::digest_log::DigestLog;
use crate::state::read::{ReadResult, Source, children_of, data_of, descendants, missing};
use crate::state::sessions::PublishedSessions;
use crate::state::tree::{TreeReader, View, Znode};
use crate::state::znodes::Ephemerals;

/// What readers need besides the tree, as of one write.
pub(crate) struct Facts {
    pub zxid: Zxid,
    pub sessions: PublishedSessions,
    pub acls: AclLists,
    pub ephemerals: Ephemerals,
}

/// What is published: swapped in as a whole, just before the tree shows its part.
pub(crate) struct Published {
    /// Counts the trees: a restored snapshot is another one.
    pub tree_number: u64,
    pub tree: TreeReader,
    pub current: Arc<Facts>,
    /// Those of the publish before, in the same tree.
    pub previous: Arc<Facts>,
}

impl Published {
    fn facts_at(&self, zxid: Zxid) -> &Facts {
        if self.current.zxid <= zxid {
            &self.current
        } else {
            &self.previous
        }
    }
}

/// Reads what is published, without waiting for the writer. What a thread has seen it never sees
/// undone. Lives on when the state is replaced by a snapshot.
#[derive(Clone)]
pub(crate) struct Reader {
    cell: Arc<ArcSwap<Published>>,
    digests: Arc<DigestLog>,
}

impl Reader {
    pub(super) fn new(cell: Arc<ArcSwap<Published>>, digests: Arc<DigestLog>) -> Reader {
        Reader { cell, digests }
    }

    /// Digests of the tree as of every 128th write, at most 1,024, the oldest first.
    pub(crate) fn digests(&self) -> Vec<(Zxid, u64)> {
        self.digests.all()
    }

    /// The last write that is published.
    pub(crate) fn zxid(&self) -> Zxid {
        self.cell.load().tree.zxid()
    }

    /// Who may hear of what happens to this znode, which is one of the tree that is published.
    pub(crate) fn event_acl(&self, znode: &Znode) -> EventAcl {
        let published = self.cell.load();
        let acl = published.current.acls.get(znode.acl);
        // One that isn't known any more is nobody's.
        (znode.acl != OPEN_ACL).then(|| acl.unwrap_or_default().into())
    }

    /// The znode at a path, whoever may read it.
    pub(crate) fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        self.cell.load().tree.get(path)
    }

    /// All sessions as of what is published: their timeouts, and the nodes that they are attached to.
    pub(crate) fn sessions(&self) -> Vec<(SessionId, u32, NodeId)> {
        let published = self.cell.load();
        let facts = published.facts_at(published.tree.zxid());
        let sessions = facts.sessions.iter();
        sessions
            .map(|(&id, session)| (id, session.timeout_ms, session.owner))
            .collect()
    }

    /// All ephemerals as of what is published, by session and path.
    pub(crate) fn ephemerals(&self) -> Ephemerals {
        let published = self.cell.load();
        published.facts_at(published.tree.zxid()).ephemerals.clone()
    }

    /// Reads as somebody who is none of the cluster's sessions, and has proven these identities.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(crate) fn read_as(&self, identities: &[AuthId], read: &ReadOp) -> Result<ReadResult> {
        self.consistent(|seen| {
            let stranger = Seen {
                stranger: Some(identities),
                ..*seen
            };
            stranger.read(SessionId::NONE, read)
        })
    }

    /// What is known of a session; `None` when there is none of this id.
    #[cfg(test)]
    pub(crate) fn session(&self, id: SessionId) -> Option<super::sessions::PublishedSession> {
        let published = self.cell.load();
        published
            .facts_at(published.tree.zxid())
            .sessions
            .get(&id)
            .cloned()
    }

    /// Reads, as of one moment; only the number of all children is counted while writes go on.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(crate) fn read(&self, session: SessionId, read: &ReadOp) -> Result<ReadResult> {
        match read {
            ReadOp::Exists { path } => match self.readable(session, path) {
                Ok(znode) => Ok(ReadResult::Exists(Some(znode.stat()))),
                Err(Error::NoNode { .. }) => Ok(ReadResult::Exists(None)),
                Err(error) => Err(error),
            },
            ReadOp::Data { path } => self.readable(session, path).map(data_of),
            ReadOp::Children { path } => self.readable(session, path).map(children_of),
            // Not under `consistent`, which holds the writer off when it has no luck: it may take long.
            ReadOp::AllChildrenNumber { path } if path != "/" => {
                let znode = self.readable(session, path)?;
                let published = self.cell.load();
                Ok(ReadResult::AllChildrenNumber(descendants(znode, |path| {
                    published.tree.get(path)
                })))
            }
            read => self.consistent(|seen| seen.read(session, read)),
        }
    }

    fn readable(&self, session: SessionId, path: &str) -> Result<Arc<Znode>> {
        let znode = self
            .cell
            .load()
            .tree
            .get(path)
            .ok_or_else(|| missing(path))?;
        if znode.acl == OPEN_ACL {
            return Ok(znode);
        }
        self.consistent(|seen| seen.readable(session, path))
    }

    /// Reads with a view of the tree and the facts of the same write.
    ///
    /// The facts are loaded after the view. If the view is still the current one afterwards, they are
    /// its own, or already those of the next: then its own are their previous ones.
    fn consistent<T>(&self, mut read: impl FnMut(&Seen<'_>) -> T) -> T {
        loop {
            let published = self.cell.load();
            let result = published.tree.consistent(|view| {
                let latest = self.cell.load();
                let same_tree = latest.tree_number == published.tree_number;
                same_tree.then(|| {
                    read(&Seen {
                        view,
                        facts: latest.facts_at(view.zxid()),
                        stranger: None,
                    })
                })
            });
            if let Some(result) = result {
                return result;
            }
        }
    }
}

/// A view of the tree, and what belongs to it.
struct Seen<'a> {
    view: &'a View,
    facts: &'a Facts,
    /// Who reads, where it isn't one of the sessions.
    stranger: Option<&'a [AuthId]>,
}

impl Source for Seen<'_> {
    fn znode(&self, path: &str) -> Option<Arc<Znode>> {
        self.view.get(path)
    }

    fn identities(&self, session: SessionId) -> &[AuthId] {
        if let Some(identities) = self.stranger {
            return identities;
        }
        self.facts
            .sessions
            .get(&session)
            .map_or(&[], |session| &session.identities)
    }

    fn acl_list(&self, index: AclIndex) -> Option<&[Acl]> {
        self.facts.acls.get(index)
    }

    fn ephemerals(&self) -> &Ephemerals {
        &self.facts.ephemerals
    }

    fn znodes_count(&self) -> usize {
        self.view.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::acl::Permissions;
    use crate::ids::Version;
    use crate::op::{CreateMode, Op, Request};
    use crate::state::{Settings, State};

    struct Writer {
        state: State,
        sequences: [u64; 2],
    }

    impl Writer {
        /// Sessions 1 and 2 are ann and bob.
        fn new() -> Writer {
            let mut writer = Writer {
                state: State::new(Settings::default()),
                sequences: [0; 2],
            };
            for password in [1, 2] {
                let (password, owner) = ([password; 16], NodeId::new(1).unwrap());
                let op = Op::OpenSession {
                    password,
                    timeout_ms: 1,
                    owner,
                };
                let session = SessionId::NONE;
                let request = Request {
                    session,
                    attachment: 0,
                    sequence: 0,
                    answered: 0,
                    op,
                };
                writer.state.apply(0, &request, &mut Vec::new());
            }
            writer.write(1, Op::AddAuth(AuthId::new("digest", "ann:x")));
            writer.write(2, Op::AddAuth(AuthId::new("digest", "bob:x")));
            writer.write(2, Op::AddAuth(AuthId::new("super", "")));
            writer
        }

        fn write(&mut self, session: usize, op: Op) {
            self.sequences[session - 1] += 1;
            let sequence = self.sequences[session - 1];
            let session = SessionId(session as i64);
            let request = Request {
                session,
                attachment: 0,
                sequence,
                answered: sequence - 1,
                op,
            };
            let applied = self.state.apply(0, &request, &mut Vec::new());
            assert!(
                matches!(applied, crate::op::Applied::Now { outcome: Ok(_), .. }),
                "{applied:?}"
            );
        }

        fn create(&mut self, session: usize, path: &str, acl: Vec<Acl>, mode: CreateMode) {
            self.write(
                session,
                Op::Create {
                    path: path.into(),
                    data: Bytes::new(),
                    acl,
                    mode,
                },
            );
        }
    }

    struct StopOnDrop<'a>(&'a AtomicBool);

    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn data(path: &str) -> ReadOp {
        ReadOp::Data { path: path.into() }
    }

    /// An ACL's number is used again as soon as nobody has it. A reader with a znode of one moment and
    /// the ACLs of another would show it to the wrong session.
    #[test]
    fn a_znode_is_never_judged_by_the_acl_of_another_moment() {
        let mut writer = Writer::new();
        writer.create(2, "/secret", Acl::open(), CreateMode::Persistent);
        writer.create(2, "/other", Acl::open(), CreateMode::Persistent);
        writer.state.publish();
        let reader = writer.state.reader();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        match reader.read(SessionId(1), &data("/secret")) {
                            Ok(ReadResult::Data(data, _)) => assert_ne!(&data[..], b"not for ann"),
                            Ok(other) => panic!("{other:?}"),
                            Err(error) => assert_eq!(error.code(), -102),
                        }
                        let both = ReadOp::Multi(vec![data("/secret"), data("/other")]);
                        let Ok(ReadResult::Multi(both)) = reader.read(SessionId(1), &both) else {
                            panic!("a multi of reads has results");
                        };
                        // The two are always set together.
                        assert_eq!(both[0].is_ok(), both[1].is_ok());
                    }
                });
            }
            let entry = |user: &str, n| {
                let salted = AuthId::new("digest", format!("salt{n}:x"));
                let user = AuthId::new("digest", user);
                vec![
                    Acl::new(Permissions::READ, user),
                    Acl::new(Permissions::READ, salted),
                ]
            };
            // Dropped at the end, or when the writer panics: or the readers would go on for ever.
            let _stop = StopOnDrop(&stop);
            for round in 0..1000 {
                let (user, text) = match round % 2 {
                    0 => ("ann:x", "for ann"),
                    _ => ("carol:x", "not for ann"),
                };
                for path in ["/secret", "/other"] {
                    let (path, version) = (path.to_string(), Version::ANY);
                    let acl = entry(user, round);
                    writer.write(
                        2,
                        Op::SetAcl {
                            path: path.clone(),
                            acl,
                            version,
                        },
                    );
                    writer.write(
                        2,
                        Op::SetData {
                            path,
                            data: Bytes::from(text),
                            version,
                        },
                    );
                }
                writer.state.publish();
            }
        });
    }

    /// The facts are swapped in a moment before the tree's view: whoever reads in between must not see
    /// the one with the other.
    #[test]
    fn between_the_two_steps_of_a_publish_everything_is_as_before() {
        let mut writer = Writer::new();
        let acl = |user: &str| vec![Acl::new(Permissions::READ, AuthId::new("digest", user))];
        writer.create(1, "/a", acl("carol:x"), CreateMode::Persistent);
        writer.state.publish();
        let reader = writer.state.reader();
        let version = Version::ANY;
        writer.write(
            2,
            Op::SetAcl {
                path: "/a".into(),
                acl: acl("ann:x"),
                version,
            },
        );
        writer.create(1, "/e", Acl::open(), CreateMode::Ephemeral);
        let own = ReadOp::Ephemerals { prefix: "/".into() };
        let seen = || {
            let owned = reader.read(SessionId(1), &own) != Ok(ReadResult::Ephemerals(vec![]));
            let readable = reader.read(SessionId(1), &data("/a")).is_ok();
            (
                owned,
                readable,
                reader.session(SessionId(1)).unwrap().last_sequence,
            )
        };
        assert_eq!(seen(), (false, false, 2));
        writer.state.announce();
        assert_eq!(seen(), (false, false, 2));
        writer.state.znodes.tree.publish(writer.state.zxid);
        assert_eq!(seen(), (true, true, 3));
    }

    #[test]
    fn nothing_is_seen_before_it_is_published() {
        let mut writer = Writer::new();
        let reader = writer.state.reader();
        let read = |read: &ReadOp| reader.read(SessionId(1), read);
        assert_eq!(reader.session(SessionId(1)), None);
        let closed = vec![Acl::new(Permissions::READ, AuthId::new("digest", "ann:x"))];
        writer.create(1, "/e", closed, CreateMode::Ephemeral);
        let own = ReadOp::Ephemerals { prefix: "/".into() };
        assert_eq!(read(&own), Ok(ReadResult::Ephemerals(vec![])));
        assert!(read(&data("/e")).is_err());
        writer.state.publish();
        assert!(matches!(read(&own), Ok(ReadResult::Ephemerals(paths)) if paths.len() == 1));
        assert!(read(&data("/e")).is_ok());
        assert_eq!(reader.session(SessionId(1)).unwrap().last_sequence, 2);
        writer.write(1, Op::CloseSession);
        assert!(read(&data("/e")).is_ok() && reader.session(SessionId(1)).is_some());
        writer.state.publish();
        assert!(read(&data("/e")).is_err() && reader.session(SessionId(1)).is_none());
        assert_eq!(reader.zxid(), writer.state.zxid());
    }

    #[test]
    fn an_acl_without_read_shows_nothing_but_admin_shows_the_acl() {
        let mut writer = Writer::new();
        let acl = vec![Acl::new(Permissions::ADMIN, AuthId::new("digest", "ann:x"))];
        writer.create(1, "/a", acl.clone(), CreateMode::Persistent);
        writer.state.publish();
        let reader = writer.state.reader();
        let path = || "/a".to_string();
        for read in [
            data("/a"),
            ReadOp::Exists { path: path() },
            ReadOp::Children { path: path() },
            ReadOp::AllChildrenNumber { path: path() },
        ] {
            assert_eq!(
                reader.read(SessionId(1), &read).unwrap_err().code(),
                -102,
                "{read:?}"
            );
        }
        let shown = reader.read(SessionId(1), &ReadOp::Acl { path: path() });
        assert!(matches!(shown, Ok(ReadResult::Acl(found, _)) if found == acl));
    }
}

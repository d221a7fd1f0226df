//! The lock: one holder at a time, first come first served.
//!
//! Curator's `InterProcessMutex`, kazoo's `Lock`, the lock of ZooKeeper's page of recipes: ephemeral
//! sequential znodes, each contender watching the one before its own. It knows nothing of what is
//! protected. Invariant: a guard is given only to the contender whose znode is the earliest created of
//! those that are left.

use std::fmt;

use parking_lot::Mutex;

use super::Attempt;
use super::queue::{EVENTS_MAX, Place, Queue};
use crate::{Error, Event, EventKind, Multi, Result, Session, Version, WatchKind, Watcher, Zxid};

/// A lock, named by a path that all contenders agree on.
///
/// It is fair: contenders hold it in the order in which the cluster has created their znodes. It is
/// not reentrant: each attempt is a contender of its own, also on the same session. Its session may be
/// shared with other work, and with other locks.
///
/// # What it guarantees, and what nothing can
/// While a guard's [`LockGuard::is_held`] is true nobody else has a guard of the same lock. But the
/// moment after it was asked the process may be paused for longer than the session's timeout; so what
/// is protected should refuse a stale holder by itself: znodes by [`LockGuard::check`], anything else
/// by comparing [`LockGuard::fencing_token`]s.
///
/// # Lost answers and lost sessions
/// Every contender's znode is ephemeral and its name is unique. If a contender's session ends, its
/// znode goes in the same write, and the next in line goes on. If its node stops, the session may be
/// attached elsewhere with its [`Credentials`](crate::Credentials): the first attempt made with the new
/// handle deletes what the old one has left in the queue, be it a znode whose creation was never
/// answered or a lock that was held. A lock isn't handed over from one handle to another.
///
/// ```
/// # use quorate::Node;
/// use quorate::recipes::Lock;
/// # let node = Node::builder(1).start()?;
/// # let session = node.session().open().wait()?;
///
/// let lock = Lock::new(&session, "/locks/printer").data("host 7");
/// let guard = lock.acquire().wait()?;
/// assert!(guard.is_held());
/// assert!(lock.try_acquire().wait()?.is_none());
/// guard.release().wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lock {
    queue: Queue,
}

impl Lock {
    /// The lock at this path. The path, and those above it, are created when the lock is first
    /// acquired, as containers: they go when nobody uses them. The path should have no children but
    /// those of this recipe: every ephemeral child counts as a contender.
    pub fn new(session: &Session, path: impl Into<String>) -> Lock {
        let (session, path, data) = (session.clone(), path.into(), Vec::new());
        Lock {
            queue: Queue {
                session,
                path,
                data,
            },
        }
    }

    /// What the contender's znode holds: who it is, for people who look at the tree. Nothing unless
    /// told.
    pub fn data(mut self, data: impl AsRef<[u8]>) -> Lock {
        self.queue.data = data.as_ref().to_vec();
        self
    }

    /// The path of the lock.
    pub fn path(&self) -> &str {
        &self.queue.path
    }

    /// Gets in line, at once, and holds the lock when its turn comes.
    ///
    /// It waits on while the session is suspended. Dropped, or after a timeout, it leaves the line.
    /// If somebody else deletes its znode before its turn, it gets in line again, at the end.
    ///
    /// ```
    /// # use quorate::{Error, Node, recipes::Lock};
    /// # use std::time::Duration;
    /// # let node = Node::builder(1).start()?;
    /// # let session = node.session().open().wait()?;
    /// # let lock = Lock::new(&session, "/locks/printer");
    /// let held = lock.acquire().wait()?;
    /// let late = lock.acquire().wait_timeout(Duration::from_millis(5));
    /// assert!(matches!(late, Err(Error::Timeout)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::SessionExpired`], [`Error::SessionMoved`], [`Error::Stopped`] and
    /// [`Error::OutcomeUnknown`] when the session is over: its znode may be there until the cluster
    /// ends the session too. [`Error::Overloaded`]; and what
    /// [`Session::create`] and [`Session::children`] fail with: [`Error::InvalidPath`],
    /// [`Error::NoAuth`], [`Error::NoChildrenForEphemerals`], [`Error::TooLarge`],
    /// [`Error::QuotaExceeded`].
    pub fn acquire(&self) -> Attempt<LockGuard> {
        let queue = self.queue.clone();
        let entry = queue.enter();
        Attempt::new(async move {
            let mut entry = entry?;
            loop {
                let place = queue.entered(entry).await?;
                let mut watcher = queue.session.watcher(EVENTS_MAX);
                let before = queue.before(&place.contender).await?;
                queue.wait_for(before, &mut watcher).await?;
                match LockGuard::of_first(place, watcher, &queue.session).await? {
                    Some(guard) => return Ok(guard),
                    None => entry = queue.enter()?,
                }
            }
        })
    }

    /// Holds the lock if nobody else is in line, and leaves the line otherwise. `None` says that
    /// somebody had the lock, or waited for it, when this attempt got in line.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn try_acquire(&self) -> Attempt<Option<LockGuard>> {
        let queue = self.queue.clone();
        let entry = queue.enter();
        Attempt::new(async move {
            let mut entry = entry?;
            loop {
                let place = queue.entered(entry).await?;
                if !queue.before(&place.contender).await?.is_empty() {
                    return Ok(None);
                }
                let watcher = queue.session.watcher(EVENTS_MAX);
                match LockGuard::of_first(place, watcher, &queue.session).await? {
                    Some(guard) => return Ok(Some(guard)),
                    None => entry = queue.enter()?,
                }
            }
        })
    }
}

/// A number that every holder of a lock gets anew, greater than those of all holders before it (the
/// fencing token of Kleppmann's *How to do distributed locking*).
///
/// It is the creation zxid of the holder's znode, so it also grows over all locks of one cluster, and over
/// a cluster that is made of its backup or of a survivor (see [`crate::recovery`]).
/// Whatever is protected remembers the greatest token that it has seen and refuses smaller ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FencingToken({})", self.0)
    }
}

/// A lock that was acquired. Dropping it releases the lock in the background.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard {
    session: Session,
    place: Place,
    /// Hears of the znode.
    watcher: Watcher,
    znode: Mutex<Znode>,
}

/// What is known of the guard's znode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Znode {
    There,
    /// Events were missed; its deletion may be among them.
    Unsure,
    Gone,
}

impl LockGuard {
    /// The guard of the contender whom nobody precedes; `None` if its znode has been deleted.
    ///
    /// That the znode is seen proves nothing while the leader is out of reach: the session may have
    /// ended and somebody else hold the lock (Curator #1211). Nor does it have to: the session is
    /// certain to live, by the node's own clock, or the leader is asked.
    async fn of_first(
        place: Place,
        watcher: Watcher,
        session: &Session,
    ) -> Result<Option<LockGuard>> {
        // Watched before it is looked for, so that its deletion is either seen or heard of.
        session.watch(&place.contender.path, WatchKind::Persistent, &watcher)?;
        if !place.is_there().await? {
            return Ok(None);
        }
        while !session.is_certain() {
            session.sync().await?;
        }
        Ok(Some(LockGuard {
            session: session.clone(),
            place,
            watcher,
            znode: Mutex::new(Znode::There),
        }))
    }

    /// The holder's znode.
    pub fn path(&self) -> &str {
        &self.place.contender.path
    }

    /// Unique to this guard, and greater than those of all guards before it.
    pub fn fencing_token(&self) -> FencingToken {
        FencingToken(self.czxid().0)
    }

    fn czxid(&self) -> Zxid {
        self.place.contender.czxid
    }

    /// Whether the lock is certainly still held: never blocks, asks the clock and nobody else.
    ///
    /// False before the cluster can give the lock to anybody else because it hasn't heard from this
    /// node, and false for good when the session is over. It stays true while the session is merely
    /// suspended, as long as the cluster can't have ended it (Curator advises to treat that as lost).
    ///
    /// It is false late in two cases, which only [`LockGuard::check`] and the fencing token cover: when
    /// somebody deletes the holder's znode, or attaches the session elsewhere, this node hears of it
    /// only when it applies that write.
    pub fn is_held(&self) -> bool {
        self.session.is_certain() && self.heard_of_znode() == Znode::There
    }

    fn heard_of_znode(&self) -> Znode {
        let mut znode = self.znode.lock();
        for event in self.watcher.receiver().try_iter() {
            match event {
                // The watcher may still hold the departure of a predecessor, which was seen before it was
                // heard of.
                Event::Changed(event)
                    if event.kind == EventKind::NodeDeleted
                        && event.path.as_str() == self.path() =>
                {
                    *znode = Znode::Gone;
                }
                Event::Missed { .. } if *znode == Znode::There => *znode = Znode::Unsure,
                _ => {}
            }
        }
        if *znode == Znode::Unsure {
            // Answered at once, unless the session has writes to wait for; then it's for the next call.
            let mut look = self.session.exists(self.path());
            match look.wait_timeout(std::time::Duration::ZERO) {
                Ok(Some(stat)) if stat.czxid == self.czxid() => *znode = Znode::There,
                Err(Error::Timeout) => {}
                _ => *znode = Znode::Gone,
            }
        }
        *znode
    }

    /// Adds to a transaction, of this or any other session, the condition that this guard's znode is
    /// still there. So it happens while the lock is held, or not at all: a stale holder's fails with
    /// [`Error::Multi`] of [`Error::NoNode`]. Called first, its index is 0.
    ///
    /// The cluster decides it, not this process: there is no moment in between.
    ///
    /// ```
    /// # use quorate::{CreateMode, Node, Version, recipes::Lock};
    /// # let node = Node::builder(1).start()?;
    /// # let session = node.session().open().wait()?;
    /// # session.create("/balance", "10", CreateMode::Persistent).wait()?;
    /// let guard = Lock::new(&session, "/locks/balance").acquire().wait()?;
    /// guard.check(session.multi()).set("/balance", "9", Version::ANY).commit().wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check<'a>(&self, multi: Multi<'a>) -> Multi<'a> {
        multi.check(self.path(), Version::ANY)
    }

    /// Releases the lock, after the writes that the session has called so far, and tells when that has
    /// happened. It does happen, also if nobody waits.
    ///
    /// # Errors
    /// [`Error::NoNode`] where the znode was gone already: the lock had been lost. What
    /// [`Session::delete`] fails with when the session is over. After [`Error::Overloaded`] the
    /// release goes on in the background.
    pub fn release(self) -> Attempt<()> {
        Attempt::new(self.place.leave())
    }
}

//! A queue of contenders: ephemeral children of one znode, in the order of their creation.
//!
//! A contender has an [`Entry`] and then a [`Place`], which leave the queue when they are dropped, come
//! what may. What being first is good for is not known here. Invariants: a name is never used twice,
//! so a znode that is gone is gone for ever; and nobody comes in before anybody, so the places before
//! one's own only get fewer.
//!
//! # Why by czxid
//! The numbers of sequential znodes overflow to negative ones (ZooKeeper's `-2147483648`), and begin
//! again when their parent is made anew. The creation zxid does neither. The znodes are sequential
//! all the same: people who look at the tree see the order, and other ZooKeeper clients, which go by
//! the number after `lock-`, can stand in the same queue.
//!
//! # Why the session's ordinary reads are enough
//! They may lag behind the writes of others, but not behind the session's own: the list is from after
//! the creation of its own znode. Whatever was created earlier has a lower zxid, so it is in the list
//! unless it was deleted already. What was deleted meanwhile and is still seen only delays: the watch
//! hears of it.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;

use super::attempt::in_background;
use crate::{
    CreateMode, Created, Error, Pending, Read, ReadAnswer, Result, Session, Stat, Version,
    WatchKind, Watcher, ZnodePath, Zxid,
};

/// How many events a contender's watcher holds. Between two looks there is one of a watch, and two
/// for every time the leader is out of reach.
pub(super) const EVENTS_MAX: usize = 16;

/// How long to wait before a deletion that met a full queue is called again.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(10);

/// Where the contenders stand.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub session: Session,
    pub path: String,
    pub data: Vec<u8>,
}

/// A znode in the queue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Contender {
    pub path: String,
    pub czxid: Zxid,
}

impl Contender {
    fn is(&self, stat: Option<Stat>) -> bool {
        stat.is_some_and(|stat| stat.czxid == self.czxid)
    }
}

/// A contender whose znode is on its way into the queue.
#[derive(Debug)]
pub(super) struct Entry {
    session: Session,
    /// `None` once it is answered.
    creation: Option<Pending<Created>>,
}

impl Entry {
    /// Waits until the znode is there.
    async fn place(mut self) -> Result<Place> {
        let session = self.session.clone();
        // Should this be dropped while it waits, the creation is still in its place.
        let creation = self.creation.as_mut().expect("it is awaited once");
        let result = creation.await;
        self.creation = None;
        result.map(|created| Place {
            session,
            contender: Contender {
                path: created.path,
                czxid: created.stat.czxid,
            },
            out: false,
        })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(creation) = self.creation.take() {
            let session = self.session.clone();
            in_background(async move {
                if let Ok(created) = creation.await {
                    delete_for_sure(session, created.path).await;
                }
            });
        }
    }
}

/// A contender's place in the queue.
#[derive(Debug)]
pub(super) struct Place {
    session: Session,
    pub contender: Contender,
    /// Whether the znode is known to be gone.
    out: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.out {
            let (session, path) = (self.session.clone(), self.contender.path.clone());
            in_background(delete_for_sure(session, path));
        }
    }
}

/// Deletes a znode of the session's own, unless the session ends first, which deletes it too.
async fn delete_for_sure(session: Session, path: String) {
    if let Err(Error::Overloaded { .. }) = session.delete(&path, Version::ANY).await {
        // Rare, and a timer is needed: worth a thread. Without one the znode stays until its session
        // ends.
        let _ = std::thread::Builder::new()
            .name("quorate-release".to_string())
            .spawn(move || {
                while let Err(Error::Overloaded { .. }) = session.delete(&path, Version::ANY).wait()
                {
                    std::thread::sleep(OVERLOAD_PAUSE);
                }
            });
    }
}

impl Place {
    /// Whether the znode is still there, as far as this session has seen.
    pub(super) async fn is_there(&self) -> Result<bool> {
        let stat = self.session.exists(&self.contender.path).await?;
        Ok(self.contender.is(stat))
    }

    /// Leaves the queue; the deletion is called at once, the future tells when it is done.
    ///
    /// # Errors
    /// [`Error::NoNode`] where the znode was gone already. After [`Error::Overloaded`] the place is
    /// left in the background.
    pub(super) fn leave(self) -> impl Future<Output = Result<()>> + Send + use<> {
        let deletion = self.session.delete(&self.contender.path, Version::ANY);
        async move {
            let mut place = self;
            let result = deletion.await;
            place.out = !matches!(result, Err(Error::Overloaded { .. }));
            result
        }
    }
}

impl Queue {
    /// Asks for the last place. The creation is called at once.
    pub(super) fn enter(&self) -> Result<Entry> {
        let lock = ZnodePath::parse(&self.path)?;
        let name = name_prefix(&self.session);
        let path = match lock.as_str() {
            "/" => format!("/{name}"),
            parent => format!("{parent}/{name}"),
        };
        let mode = CreateMode::EphemeralSequential;
        let creation = self.session.create(&path, &self.data, mode);
        Ok(Entry {
            session: self.session.clone(),
            creation: Some(creation),
        })
    }

    /// Waits until the contender is in the queue; makes the queue where it isn't there.
    pub(super) async fn entered(&self, mut entry: Entry) -> Result<Place> {
        loop {
            match entry.place().await {
                Err(Error::NoNode { .. }) => {
                    self.make().await?;
                    entry = self.enter()?;
                }
                result => return result,
            }
        }
    }

    /// Makes the znode that the contenders stand under, and those above it.
    ///
    /// As containers: the cluster deletes them some time after the last contender has left, so locks
    /// named after a million customers don't stay for ever. Nothing depends on their staying: whoever
    /// finds them gone comes here again, and neither names nor czxids repeat.
    async fn make(&self) -> Result<()> {
        let mut missing = vec![ZnodePath::parse(&self.path)?];
        while let Some(path) = missing.last() {
            match self
                .session
                .create(path.as_str(), "", CreateMode::Container)
                .await
            {
                Ok(_) | Err(Error::NodeExists { .. }) => drop(missing.pop()),
                Err(Error::NoNode { .. }) => {
                    let parent = path.parent().unwrap_or("/");
                    missing.push(ZnodePath::parse(parent)?);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Those who stand before `own`, the first one first.
    ///
    /// What an earlier handle of this session has left there, because it never heard whether its znode
    /// was created or had no time to delete it, would be waited for as long as this session lives. It
    /// is deleted: such a handle has no say any more.
    pub(super) async fn before(&self, own: &Contender) -> Result<Vec<Contender>> {
        let mut before = Vec::new();
        for (contender, stat) in self.contenders().await? {
            if contender.czxid >= own.czxid || !stat.is_ephemeral() {
                continue;
            }
            if self.is_left_behind(&contender, &stat) {
                match self.session.delete(&contender.path, Version::ANY).await {
                    Ok(()) | Err(Error::NoNode { .. }) => {}
                    Err(error) => return Err(error),
                }
            } else {
                before.push(contender);
            }
        }
        before.sort_by_key(|contender| contender.czxid);
        Ok(before)
    }

    fn is_left_behind(&self, contender: &Contender, stat: &Stat) -> bool {
        stat.ephemeral_owner == self.session.id()
            && attachment(&self.session, &contender.path)
                .is_some_and(|attachment| attachment < self.session.attachment())
    }

    async fn contenders(&self) -> Result<Vec<(Contender, Stat)>> {
        let names = match self.session.children(&self.path).await {
            Ok((names, _)) => names,
            Err(Error::NoNode { .. }) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let parent = self.path.trim_end_matches('/');
        let paths: Vec<String> = names
            .iter()
            .map(|name| format!("{parent}/{name}"))
            .collect();
        let reads: Vec<Read> = paths.iter().cloned().map(Read::Data).collect();
        let answers = self.session.multi_read(&reads).await?;
        let mut contenders = Vec::new();
        for (path, answer) in paths.into_iter().zip(answers) {
            match answer {
                Ok(ReadAnswer::Data(_, stat)) => {
                    let czxid = stat.czxid;
                    contenders.push((Contender { path, czxid }, stat));
                }
                Ok(ReadAnswer::Children(..)) | Err(Error::NoNode { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(contenders)
    }

    /// Waits until nobody is left of `before`, watching one at a time: the last of those who are still
    /// there. So one departure wakes one contender, however many wait.
    pub(super) async fn wait_for(
        &self,
        mut before: Vec<Contender>,
        watcher: &mut Watcher,
    ) -> Result<()> {
        while let Some(predecessor) = before.pop() {
            self.wait_until_gone(&predecessor, watcher).await?;
        }
        Ok(())
    }

    /// Whatever the event is (its data was set, the leader is out of reach, events were missed), only a
    /// look at the tree says that it is gone: a lock taken without a re-check after the wait was what
    /// Jepsen found in etcd 3.4.3. A session that is over fails the look.
    async fn wait_until_gone(&self, contender: &Contender, watcher: &mut Watcher) -> Result<()> {
        let path = &contender.path;
        while contender.is(self.session.exists_and_watch(path, watcher).await?) {
            poll_fn(|context| Pin::new(&mut *watcher).poll_next(context)).await;
        }
        // The look has set a watch for a znode that won't come again.
        let _ = watcher.remove(path, WatchKind::Data);
        Ok(())
    }
}

/// Names a contender: its session, the attachment of it, a number that makes the name unique in it,
/// and the word that other ZooKeeper clients know a lock by. The number of the sequence follows.
fn name_prefix(session: &Session) -> String {
    format!(
        "{}-{}-{:016x}-lock-",
        session.id(),
        session.attachment(),
        session.unique_number()
    )
}

/// The attachment that a contender of this session was made by, if it was made by this recipe.
fn attachment(session: &Session, path: &str) -> Option<u32> {
    let name = &path[path.rfind('/')? + 1..];
    let rest = name.strip_prefix(&format!("{}-", session.id()))?;
    let (attachment, rest) = rest.split_once('-')?;
    rest.contains("-lock-").then(|| attachment.parse().ok())?
}

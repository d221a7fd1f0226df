//! One client's session while its connection lives: requests in, replies and events out.
//!
//! Requests are called as they come and answered in that order. An event goes out before the first
//! reply that shows its change, and after the reply of the read that set its watch: both are told by
//! the zxids of answers and events. It knows no socket: bytes go into a buffer.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream as _;

use super::auth;
use super::connection::Surroundings;
use super::jute::{
    Create, MultiOp, Opcode, Paths, Read, Reader, ReplyHeader, Request, RequestHeader, Scope,
    TooLong, Writer, watcher_event,
};
use super::outstanding::{Awaited, Load, MARSHALLING_ERROR, Outstanding, Settled, Then, WithStat};
use super::reconfig::{Change, Job};
use super::settings::Settings;
use super::statistics::{ConnectionFacts, Statistics};
use crate::{
    AuthId, Error, Event, NodeHandle, Session, SessionState, WatchEvent, WatchKind, WatchedState,
    Watcher, Zxid,
};

/// Why a connection is to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Close(pub &'static str);

impl From<TooLong> for Close {
    fn from(TooLong: TooLong) -> Close {
        Close("what it is to be sent is too long for a frame")
    }
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Yes,
    /// Not before what is outstanding is answered.
    NotYet,
}

/// See the module's text.
pub(super) struct Client {
    session: Session,
    watcher: Watcher,
    identities: Vec<AuthId>,
    address: IpAddr,
    outstanding: VecDeque<Outstanding>,
    /// What the first of them came to, whose events had no room yet, and its reply's body.
    due: Option<(Settled, Vec<u8>)>,
    /// How many of those set watches.
    watch_setters: usize,
    /// A `sync` is outstanding: what comes after it has to see what it brings.
    syncing: bool,
    /// Events that come before what the watcher has: at most one for each watch that was taken up again,
    /// and what happened meanwhile.
    missed: VecDeque<WatchEvent>,
    /// The next event, which is not to be sent yet.
    held: Option<WatchEvent>,
    /// The watcher has said its last.
    ended: bool,
    /// No more requests are taken: the session, or the connection, is being closed.
    leaving: bool,
    touched_at: Instant,
    suspended_since: Option<Instant>,
    facts: Arc<ConnectionFacts>,
}

impl Client {
    pub(super) fn new(
        session: Session,
        facts: Arc<ConnectionFacts>,
        proven: &[AuthId],
        settings: &Settings,
        now: Instant,
    ) -> Client {
        let address = facts.peer.ip();
        facts.session.store(session.id().0, Relaxed);
        let timeout_ms = session.timeout().as_millis() as u64;
        facts.timeout_ms.store(timeout_ms, Relaxed);
        let watcher = session.watcher(settings.events_max);
        let mut identities = vec![auth::of_address(address)];
        identities.extend_from_slice(proven);
        let outstanding = identities.iter().map(|identity| Outstanding {
            xid: 0,
            opcode: Opcode::auth,
            called_at: now,
            awaited: Awaited::Internal(session.add_auth(identity.clone())),
            sets_watch: false,
            bytes: 0,
        });
        let outstanding = outstanding.collect();
        Client {
            session,
            watcher,
            identities,
            address,
            outstanding,
            due: None,
            watch_setters: 0,
            syncing: false,
            missed: VecDeque::new(),
            held: None,
            ended: false,
            leaving: false,
            touched_at: now,
            suspended_since: None,
            facts,
        }
    }

    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// What the cluster still has to answer. Where an answer only waits for room that is nothing.
    pub(super) fn unanswered(&self) -> Load {
        // They are answered in their order but for a few, and without a backlog the first of them is not.
        let requests = self.outstanding.iter();
        let unanswered = requests.skip_while(|request| request.awaited.is_answered());
        let add = |load: Load, request: &Outstanding| Load {
            requests: load.requests + 1,
            bytes: load.bytes + request.bytes,
        };
        unanswered.fold(Load::default(), add)
    }

    /// Whether its session is over, and not at its own wish.
    pub(super) fn is_over(&self) -> bool {
        !self.leaving && self.session.state().is_final()
    }

    /// How long its client may be silent.
    pub(super) fn timeout(&self) -> Duration {
        self.session.timeout()
    }

    pub(super) fn paths_watched(&self) -> usize {
        self.watcher.paths_watched()
    }

    /// Whether it is served without the cluster, and is to go when that is back.
    pub(super) fn is_read_only(&self) -> bool {
        self.session.is_read_only()
    }

    /// Whether a client that no cluster watches over has been silent for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.is_read_only() && now.duration_since(self.touched_at) > self.session.timeout()
    }

    /// The client was heard of.
    pub(super) fn heard(&mut self, now: Instant) {
        self.facts.heard(now);
        if now.duration_since(self.touched_at) >= self.session.timeout() / 12 {
            self.touched_at = now;
            self.session.touch();
        }
    }

    /// Whether the leader has been out of reach for so long that the client should look for another
    /// server, while its session still lives.
    pub(super) fn is_cut_off(&self, now: Instant) -> bool {
        self.suspended_since
            .is_some_and(|since| now.duration_since(since) > self.session.timeout() / 3)
    }

    /// Takes a request in.
    pub(super) fn submit(
        &mut self,
        frame: &[u8],
        around: &Surroundings<'_>,
    ) -> Result<Taken, Close> {
        let (node, settings) = (around.node, around.settings);
        if self.leaving || self.syncing || self.outstanding.len() >= settings.outstanding_max {
            return Ok(Taken::NotYet);
        }
        let mut reader = Reader::new(frame);
        let header =
            RequestHeader::decode(&mut reader).map_err(|_| Close("a request has no header"))?;
        let is_local = matches!(
            header.opcode,
            Opcode::addWatch
                | Opcode::checkWatches
                | Opcode::removeWatches
                | Opcode::setWatches
                | Opcode::setWatches2
                // It writes with this session, from another thread.
                | Opcode::reconfig
        );
        if is_local && !self.outstanding.is_empty() {
            return Ok(Taken::NotYet);
        }
        around.shared.statistics.received.fetch_add(1, Relaxed);
        self.facts.received.fetch_add(1, Relaxed);
        let refused = self.refusal(header.opcode, settings);
        let answer = match Request::decode(header.opcode, &mut reader) {
            _ if refused.is_some() => {
                let error = refused.unwrap_or_default();
                // It is told why, and has to come again.
                self.leaving |= error == SESSION_CLOSED_REQUIRE_AUTH;
                (self.known(node, error, |_| {}), false)
            }
            Ok(request) => self.call(request, around)?,
            Err(_) if header.opcode == Opcode::auth => {
                return Err(Close("what it says of itself can't be understood"));
            }
            // ZooKeeper says so, and goes on.
            Err(_) => (self.known(node, MARSHALLING_ERROR, |_| {}), false),
        };
        let (awaited, sets_watch) = answer;
        self.watch_setters += usize::from(sets_watch);
        self.outstanding.push_back(Outstanding {
            xid: match header.opcode {
                Opcode::ping => PING_XID,
                _ => header.xid,
            },
            opcode: header.opcode,
            called_at: around.now,
            awaited,
            sets_watch,
            bytes: frame.len(),
        });
        Ok(Taken::Yes)
    }

    /// Why an operation isn't even looked at.
    fn refusal(&self, opcode: i32, settings: &Settings) -> Option<i32> {
        let authenticates = matches!(opcode, Opcode::auth | Opcode::sasl);
        let required = &settings.required_schemes;
        let has_required = |identity: &AuthId| required.contains(&identity.scheme);
        if !required.is_empty() && !authenticates && !self.identities.iter().any(has_required) {
            return Some(SESSION_CLOSED_REQUIRE_AUTH);
        }
        if self.is_read_only() && (is_update(opcode) || opcode == Opcode::sync) {
            return Some(Error::NotReadOnly.code());
        }
        // Where somebody comes from is nobody's proof.
        let is_anonymous = || {
            self.identities
                .iter()
                .all(|identity| identity.scheme == "ip")
        };
        if settings.refuses_anonymous_writes && is_update(opcode) && is_anonymous() {
            const NO_AUTH: i32 = -102;
            return Some(NO_AUTH);
        }
        None
    }

    fn known(&self, node: &NodeHandle, error: i32, write: impl FnOnce(&mut Writer<'_>)) -> Awaited {
        let mut body = Vec::new();
        write(&mut Writer::new(&mut body));
        Awaited::Known {
            zxid: node.zxid(),
            error,
            body,
        }
    }

    /// Calls what a request asks for. Says whether it sets a watch.
    fn call(
        &mut self,
        request: Request<'_>,
        around: &Surroundings<'_>,
    ) -> Result<(Awaited, bool), Close> {
        let (node, settings) = (around.node, around.settings);
        let session = &self.session;
        let written = |awaited| Ok((awaited, false));
        match request {
            Request::Create { create, with_stat } => written(self.create(&create, with_stat)),
            Request::Delete(path, version) => {
                written(Awaited::Deleted(session.delete(&path, version)))
            }
            Request::SetData(path, data, version) => {
                written(Awaited::Set(session.set(&path, data, version)))
            }
            Request::SetAcl(path, acl, version) => {
                written(Awaited::Set(session.set_acl(&path, &acl, version)))
            }
            Request::Multi(ops) => written(self.multi(&ops)),
            Request::Exists(Read { path, .. }) if path.contains('\0') => {
                written(self.known(node, bad_arguments(), |_| {}))
            }
            Request::Exists(read) | Request::GetData(read) | Request::GetChildren { read, .. }
                if read.watch && self.watches_enough(&read.path, settings) =>
            {
                written(self.known(node, too_many_watches(settings), |_| {}))
            }
            Request::Exists(Read { path, watch }) => Ok((
                Awaited::Exists(match watch {
                    true => session.exists_and_watch(&path, &self.watcher),
                    false => session.exists(&path),
                }),
                watch,
            )),
            Request::GetData(Read { path, watch }) => Ok((
                Awaited::Data(match watch {
                    true => session.get_and_watch(&path, &self.watcher),
                    false => session.get(&path),
                }),
                watch,
            )),
            Request::GetChildren {
                read: Read { path, watch },
                with_stat,
            } => Ok((
                Awaited::Children(
                    match watch {
                        true => session.children_and_watch(&path, &self.watcher),
                        false => session.children(&path),
                    },
                    stat_where(with_stat),
                ),
                watch,
            )),
            Request::GetAcl(path) => written(Awaited::Acl(session.acl(&path))),
            Request::Sync(path) => {
                let synced = Awaited::Synced(session.sync(), path.into_owned());
                self.syncing = true;
                Ok((synced, false))
            }
            Request::MultiRead(reads) => written(Awaited::MultiRead(session.multi_read(&reads))),
            Request::GetEphemerals(prefix) => {
                written(Awaited::Ephemerals(session.ephemerals(&prefix)))
            }
            Request::GetAllChildrenNumber(path) => {
                written(Awaited::Number(session.all_children_number(&path)))
            }
            Request::Ping => written(self.known(node, 0, |_| {})),
            Request::Auth { scheme, token } => {
                Ok((self.authenticate(&scheme, token, around), false))
            }
            Request::SetWatches(since, paths) => {
                self.resume_watches(since, &paths, around)?;
                written(self.known(node, 0, |_| {}))
            }
            Request::AddWatch(path, kind) => written(self.add_watch(&path, kind, node, settings)),
            Request::CheckWatches(path, scope) => {
                let found = |kind: &WatchKind| self.watcher.contains(&path, *kind);
                written(self.on_watches(&path, scope, node, found))
            }
            Request::RemoveWatches(path, scope) => {
                let removed = |kind: &WatchKind| self.watcher.remove(&path, *kind).is_ok();
                written(self.on_watches(&path, scope, node, removed))
            }
            Request::WhoAmI => written(self.known(node, 0, |writer| {
                writer.count(self.identities.len());
                for identity in &self.identities {
                    writer.string(&identity.scheme);
                    writer.string(auth::user_name(identity));
                }
            })),
            // As ZooKeeper where no login is configured: an empty token.
            Request::Sasl => written(self.known(node, 0, |writer| writer.no_buffer())),
            Request::Reconfig { .. } if !settings.reconfig => {
                const RECONFIG_DISABLED: i32 = -123;
                written(self.known(node, RECONFIG_DISABLED, |_| {}))
            }
            Request::Reconfig {
                joining,
                leaving,
                members,
                from,
            } => {
                let change = Change {
                    joining: joining.into_owned(),
                    leaving: leaving.into_owned(),
                    members: members.into_owned(),
                    from,
                };
                written(self.reconfigure(change, around))
            }
            Request::CloseSession => {
                self.leaving = true;
                written(Awaited::Closed(self.session.close()))
            }
            refused @ (Request::Refused | Request::Unknown) => {
                // ZooKeeper's processor of what it doesn't know closes the connection as well.
                self.leaving |= refused == Request::Unknown;
                let error = Error::Unimplemented { what: "this" };
                written(self.known(node, error.code(), |_| {}))
            }
        }
    }

    fn reconfigure(&mut self, change: Change, around: &Surroundings<'_>) -> Awaited {
        let (answer, receiver) = oneshot::channel();
        let job = Job {
            session: self.session.clone(),
            change,
            answer,
        };
        if !around.shared.reconfigure(job) {
            return self.known(around.node, Error::ReconfigInProgress.code(), |_| {});
        }
        // What comes after it has to see what it brings.
        self.syncing = true;
        Awaited::Reconfigured(receiver)
    }

    fn create(&self, create: &Create<'_>, with_stat: bool) -> Awaited {
        let (path, data, acl) = (&create.path, create.data, &create.acl);
        let created = self.session.create_with_acl(path, data, create.mode, acl);
        Awaited::Created(created, stat_where(with_stat))
    }

    fn multi(&self, ops: &[MultiOp<'_>]) -> Awaited {
        let mut multi = self.session.multi();
        let mut kinds = Vec::with_capacity(ops.len());
        for op in ops {
            let mut kind = WithStat::No;
            multi = match op {
                MultiOp::Create(create, with_stat) => {
                    kind = stat_where(*with_stat);
                    multi.create_with_acl(&create.path, create.data, create.mode, &create.acl)
                }
                MultiOp::Delete(path, version) => multi.delete(path, *version),
                MultiOp::Set(path, data, version) => multi.set(path, data, *version),
                MultiOp::Check(path, version) => multi.check(path, *version),
            };
            kinds.push(kind);
        }
        Awaited::Multi(multi.commit(), kinds)
    }

    fn authenticate(&mut self, scheme: &str, token: &[u8], around: &Surroundings<'_>) -> Awaited {
        let super_digest = around.settings.super_digest.as_deref();
        let proven = match scheme {
            // What it has proven by its certificate it says once more.
            "x509" => self.with_scheme("x509"),
            _ => auth::identities(scheme, token, self.address, super_digest),
        };
        let Some((last, others)) = proven.split_last() else {
            let statistics = &around.shared.statistics;
            statistics.authentications_failed.fetch_add(1, Relaxed);
            self.leaving = true;
            let error = Error::AuthFailed {
                scheme: scheme.to_string(),
                reason: String::new(),
            };
            return Awaited::Known {
                zxid: Zxid(0),
                error: error.code(),
                body: Vec::new(),
            };
        };
        for identity in others {
            self.outstanding.push_back(Outstanding {
                xid: 0,
                opcode: Opcode::auth,
                called_at: self.touched_at,
                awaited: Awaited::Internal(self.session.add_auth(identity.clone())),
                sets_watch: false,
                bytes: 0,
            });
        }
        let added = self.session.add_auth(last.clone());
        for identity in proven {
            if !self.identities.contains(&identity) {
                self.identities.push(identity);
            }
        }
        Awaited::Authenticated(added)
    }

    fn with_scheme(&self, scheme: &str) -> Vec<AuthId> {
        let identities = self.identities.iter();
        let of_scheme = identities.filter(|identity| identity.scheme == scheme);
        of_scheme.cloned().collect()
    }

    /// ZooKeeper's `DataTree.setWatches`. What isn't a path is never watched.
    fn resume_watches(
        &mut self,
        since: i64,
        paths: &Paths<'_>,
        around: &Surroundings<'_>,
    ) -> Result<(), Close> {
        let since = Zxid(since.max(0) as u64);
        let kinds = [
            (WatchedState::Data, &paths.data),
            (WatchedState::Absence, &paths.exist),
            (WatchedState::Children, &paths.children),
        ];
        let persistent = [
            (WatchKind::Persistent, &paths.persistent),
            (WatchKind::PersistentRecursive, &paths.recursive),
        ];
        // Also what has changed, and is watched no more, is held until it is told of.
        let one_shot = kinds.iter().flat_map(|(_, paths)| paths.iter());
        let lasting = persistent.iter().flat_map(|(_, paths)| paths.iter());
        let asked: HashSet<&str> = one_shot.chain(lasting).map(|path| &**path).collect();
        let asked_bytes = asked.iter().map(|path| path.len()).sum();
        check_watches(asked.len(), asked_bytes, around.settings)?;
        for (state, paths) in kinds {
            for path in paths {
                let _ = self.session.resume_watch(path, state, since, &self.watcher);
                self.note_resumed(around)?;
            }
        }
        for (kind, paths) in persistent {
            for path in paths {
                let _ = self.session.watch(path, kind, &self.watcher);
                self.note_resumed(around)?;
            }
        }
        Ok(())
    }

    /// A watch was taken up again: it may be one too many, and its event may be in the watcher's queue, which
    /// nobody else empties meanwhile. Overrun, it would close the connection, and the next one for the same
    /// reason.
    fn note_resumed(&mut self, around: &Surroundings<'_>) -> Result<(), Close> {
        let bytes = self.watcher.path_bytes_watched();
        check_watches(self.paths_watched(), bytes, around.settings)?;
        // The connection is at work, and polls the queue again before it rests.
        let mut context = Context::from_waker(Waker::noop());
        while let Some(event) = self.next_event(&mut context, around.now)? {
            self.missed.push_back(event);
        }
        Ok(())
    }

    fn add_watch(
        &self,
        path: &str,
        kind: WatchKind,
        node: &NodeHandle,
        settings: &Settings,
    ) -> Awaited {
        if self.watches_enough(path, settings) {
            return self.known(node, too_many_watches(settings), |_| {});
        }
        match self.session.watch(path, kind, &self.watcher) {
            // As of when it was set: what came before is told of before, what comes after it after.
            Ok(zxid) => Awaited::Known {
                zxid,
                error: 0,
                body: 0_i32.to_be_bytes().to_vec(),
            },
            Err(error) => self.known(node, error.code(), |_| {}),
        }
    }

    /// Whether it may not watch this path as well.
    fn watches_enough(&self, path: &str, settings: &Settings) -> bool {
        let bytes = self.watcher.path_bytes_watched() + path.len();
        self.paths_watched() >= settings.watches_max || bytes > settings.watch_path_bytes_max
    }

    /// What a check or a removal of watches comes to: whether there was any.
    fn on_watches(
        &self,
        path: &str,
        scope: Scope,
        node: &NodeHandle,
        each: impl FnMut(&WatchKind) -> bool,
    ) -> Awaited {
        const ALL: [WatchKind; 4] = [
            WatchKind::Data,
            WatchKind::Children,
            WatchKind::Persistent,
            WatchKind::PersistentRecursive,
        ];
        let one;
        let kinds: &[WatchKind] = match scope {
            Scope::Any => &ALL,
            Scope::One(kind) => {
                one = [kind];
                &one
            }
        };
        // Each of them, not only up to the first.
        let error = match kinds.iter().map(each).filter(|found| *found).count() {
            0 => Error::NoWatcher {
                path: path.to_string(),
            }
            .code(),
            _ => 0,
        };
        self.known(node, error, |_| {})
    }

    // ---- Out ----------------------------------------------------------------------------------

    /// Writes the replies and events that may go, in their order, until `out` holds `out_max` bytes.
    /// True when something was answered, so that more may be taken in.
    pub(super) fn advance(
        &mut self,
        context: &mut Context<'_>,
        (out, out_max): (&mut Vec<u8>, usize),
        (body, body_max): (&mut Vec<u8>, usize),
        (statistics, now): (&Statistics, Instant),
    ) -> Result<bool, Close> {
        let mut answered = false;
        while out.len() < out_max
            && let Some(front) = self.outstanding.front_mut()
        {
            let settled = match self.due.take() {
                Some((settled, kept)) => {
                    *body = kept;
                    settled
                }
                None => {
                    body.clear();
                    match front.awaited.poll(context, (body, body_max)) {
                        Poll::Ready(settled) => settled,
                        Poll::Pending => break,
                    }
                }
            };
            let is_told = matches!(settled.then, Then::Reply | Then::ReplyAndClose);
            let (up_to, clock) = (Some(settled.zxid), (statistics, now));
            // Whatever the reply shows, its events are in the queue.
            if is_told && !self.send_events((context, out, out_max), up_to, clock)? {
                self.due = Some((settled, std::mem::take(body)));
                break;
            }
            let front = self.outstanding.pop_front().expect("it was just seen");
            answered = true;
            self.watch_setters -= usize::from(front.sets_watch);
            self.reply(&front, settled, (out, body), clock)?;
        }
        if self.watch_setters == 0 && out.len() < out_max {
            self.send_events((context, out, out_max), None, (statistics, now))?;
        }
        Ok(answered)
    }

    fn reply(
        &mut self,
        request: &Outstanding,
        settled: Settled,
        (out, body): (&mut Vec<u8>, &[u8]),
        (statistics, now): (&Statistics, Instant),
    ) -> Result<(), Close> {
        match settled.then {
            Then::Silence => return Ok(()),
            Then::Close(reason) => return Err(Close(reason)),
            Then::Reply | Then::ReplyAndClose => {}
        }
        let header = ReplyHeader {
            xid: request.xid,
            zxid: settled.zxid,
            error: settled.error,
        };
        let start = out.len();
        header.frame(out, body)?;
        let latency = now.saturating_duration_since(request.called_at);
        statistics.sent.fetch_add(1, Relaxed);
        statistics.replied(out.len() - start - 4);
        statistics.answered(latency, is_update(request.opcode));
        self.facts.sent.fetch_add(1, Relaxed);
        let answered = (request.opcode, request.xid, settled.zxid.0);
        self.facts.answered(answered, latency, now);
        if matches!(
            request.awaited,
            Awaited::Synced(..) | Awaited::Reconfigured(_)
        ) {
            self.syncing = false;
        }
        let refused = self.leaving && self.outstanding.is_empty();
        if settled.then == Then::ReplyAndClose || refused {
            return Err(Close(ANSWERED));
        }
        Ok(())
    }

    /// Sends events up to a zxid, or all that there are. False where there was no room for one of them.
    fn send_events(
        &mut self,
        (context, out, out_max): (&mut Context<'_>, &mut Vec<u8>, usize),
        up_to: Option<Zxid>,
        (statistics, now): (&Statistics, Instant),
    ) -> Result<bool, Close> {
        loop {
            let first = self.held.take().or_else(|| self.missed.pop_front());
            let event = match first {
                Some(event) => event,
                None => match self.next_event(context, now)? {
                    Some(event) => event,
                    None => return Ok(true),
                },
            };
            let is_later = up_to.is_some_and(|zxid| event.zxid > zxid);
            if is_later || out.len() >= out_max {
                self.held = Some(event);
                return Ok(is_later);
            }
            watcher_event(out, &event)?;
            statistics.sent.fetch_add(1, Relaxed);
            self.facts.sent.fetch_add(1, Relaxed);
        }
    }

    fn next_event(
        &mut self,
        context: &mut Context<'_>,
        now: Instant,
    ) -> Result<Option<WatchEvent>, Close> {
        while !self.ended {
            match Pin::new(&mut self.watcher).poll_next(context) {
                Poll::Pending => break,
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Event::Changed(event))) => return Ok(Some(event)),
                // It reads again what it watched, by `setWatches`.
                Poll::Ready(Some(Event::Missed { .. })) => {
                    return Err(Close("it has too many events to be told of"));
                }
                Poll::Ready(Some(Event::Session(state))) => match state {
                    SessionState::Connected => self.suspended_since = None,
                    SessionState::Suspended => self.suspended_since = Some(now),
                    SessionState::Moved => return Err(Close("its session has moved")),
                    SessionState::Lost => return Err(Close("its session has expired")),
                    // At its own wish: the reply comes first.
                    SessionState::Closed if self.leaving => self.ended = true,
                    SessionState::Closed => return Err(Close("its session was closed")),
                },
            }
        }
        Ok(None)
    }
}

/// A ping's answer has this xid whatever the ping's was (`ClientCnxn.PING_XID`).
const PING_XID: i32 = -2;

/// Not a fault: the client was told what it has to know.
pub(super) const ANSWERED: &str = "";

fn check_watches(paths: usize, bytes: usize, settings: &Settings) -> Result<(), Close> {
    match paths > settings.watches_max || bytes > settings.watch_path_bytes_max {
        true => Err(Close("it would have too many watches")),
        false => Ok(()),
    }
}

fn too_many_watches(settings: &Settings) -> i32 {
    let (queue, limit) = ("watches of the session", settings.watches_max);
    Error::Overloaded { queue, limit }.code()
}

fn stat_where(with_stat: bool) -> WithStat {
    if with_stat {
        WithStat::Yes
    } else {
        WithStat::No
    }
}

fn bad_arguments() -> i32 {
    Error::BadArguments {
        reason: String::new(),
    }
    .code()
}

/// The client has to authenticate itself before anything else (SessionClosedRequireSaslAuth, which
/// ZooKeeper answers whatever scheme it asks for).
const SESSION_CLOSED_REQUIRE_AUTH: i32 = -124;

/// Whether an operation changes something.
fn is_update(opcode: i32) -> bool {
    matches!(
        opcode,
        Opcode::create
            | Opcode::create2
            | Opcode::createTTL
            | Opcode::createContainer
            | Opcode::delete
            | Opcode::deleteContainer
            | Opcode::setData
            | Opcode::setACL
            | Opcode::reconfig
            | Opcode::multi
            | Opcode::check
    )
}

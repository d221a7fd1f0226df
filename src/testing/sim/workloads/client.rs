//! A client: a session on some node, that writes down all it does and hears; and its lives, one after the
//! other, in the processes of nodes that crash.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use super::super::wire::node_id;
use super::super::world::World;
use crate::client::{Credentials, Pending, Session, Watcher};
use crate::error::Result;
use crate::ids::Zxid;
use crate::node::{Event, WatchKind};
use crate::op::CreateMode;
use crate::testing::history::{
    Answer, AttachmentEnd, AttachmentId, CallId, ClientId, Moment, Op, Recorder, WatcherId,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// How many events a client's watcher holds.
const EVENTS_MAX: usize = 32;

/// What one step of a workload does.
pub(super) type Script = for<'a> fn(&'a Client) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// How long clients take.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// The timeouts that their sessions ask for: between these.
    pub(super) timeout: (Duration, Duration),
    /// How long they rest between two steps, at most.
    pub(super) rest: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            timeout: (MILLISECOND * 800, MILLISECOND * 4_000),
            rest: MILLISECOND * 60,
        }
    }
}

/// What outlives a client's session.
pub(super) struct Person {
    pub(super) number: usize,
    pace: Pace,
    /// How many steps it takes yet.
    steps: Cell<usize>,
    /// Counts the values that it has made up.
    values: Cell<u64>,
    /// Its session, to be attached elsewhere.
    credentials: RefCell<Option<(Credentials, Duration)>>,
    attachment: Cell<Option<AttachmentId>>,
    /// The handle that is given up when the session is attached elsewhere.
    old: RefCell<Option<(Session, AttachmentId)>>,
    stop: Rc<Cell<bool>>,
    /// Guarded writes: under which lock, as which zxid, by which token.
    pub(super) fenced: RefCell<Vec<(usize, Zxid, u64)>>,
}

impl Person {
    pub(super) fn new(number: usize, steps: usize, pace: Pace, stop: Rc<Cell<bool>>) -> Rc<Person> {
        Rc::new(Person {
            number,
            pace,
            steps: Cell::new(steps),
            values: Cell::new(0),
            credentials: RefCell::default(),
            attachment: Cell::new(None),
            old: RefCell::default(),
            stop,
            fenced: RefCell::default(),
        })
    }

    /// Gives up the old handle: it closes the session, unless that has moved.
    fn give_up_old(&self, recorder: &Recorder) {
        if let Some((session, at)) = self.old.take() {
            recorder.ended(at, AttachmentEnd::Dropped);
            drop(session);
        }
    }

    fn goes_on(&self) -> bool {
        self.steps.get() > 0 && !self.stop.get()
    }
}

/// A client with a session.
pub(super) struct Client {
    pub(super) world: World,
    pub(super) person: Rc<Person>,
    pub(super) session: Session,
    pub(super) recorder: Recorder,
    pub(super) at: AttachmentId,
    pub(super) watcher: RefCell<Watcher>,
    watcher_id: WatcherId,
}

/// A call that was made.
pub(super) struct Made<T> {
    call: CallId,
    pending: Pending<T>,
}

impl Client {
    pub(super) fn random(&self, bound: u64) -> u64 {
        self.world.random(bound)
    }

    pub(super) fn pick<T: Copy>(&self, among: &[T]) -> T {
        among[self.random(among.len() as u64) as usize]
    }

    /// A value that nobody else writes.
    pub(super) fn value(&self) -> String {
        let value = self.person.values.get() + 1;
        self.person.values.set(value);
        format!("{}-{value}", self.person.number)
    }

    /// Whether the client goes on with this session.
    pub(super) fn goes_on(&self) -> bool {
        self.person.goes_on() && !self.session.state().is_final()
    }

    pub(super) async fn rest(&self, most: Duration) {
        let pause = self.world.some_time(MILLISECOND, most);
        self.world.sleep(pause).await;
    }

    // ---- Calls --------------------------------------------------------------------------------

    /// Makes a call, which is written down before.
    pub(super) fn begin<T>(&self, op: Op, make: impl FnOnce(&Session) -> Pending<T>) -> Made<T> {
        let call = self.recorder.call(self.at, op);
        let pending = make(&self.session);
        Made { call, pending }
    }

    /// Takes the answer of a call, and writes it down behind the events that are due before.
    pub(super) async fn finish<T: Clone + Into<Answer>>(&self, made: Made<T>) -> Result<T> {
        let result = made.pending.await;
        self.hear();
        self.recorder.answered(made.call, result.clone());
        result
    }

    /// Both.
    pub(super) async fn call<T: Clone + Into<Answer>>(
        &self,
        op: Op,
        make: impl FnOnce(&Session) -> Pending<T>,
    ) -> Result<T> {
        let made = self.begin(op, make);
        self.finish(made).await
    }

    /// A read that asks the leader.
    pub(super) async fn call_linearizable<T: Clone + Into<Answer>>(
        &self,
        op: Op,
        make: impl FnOnce(&Session) -> Pending<T>,
    ) -> Result<T> {
        let call = self.recorder.call_linearizable(self.at, op);
        let pending = make(&self.session.linearizable());
        self.finish(Made { call, pending }).await
    }

    /// A read that sets a watch, too.
    pub(super) async fn call_watching<T: Clone + Into<Answer>>(
        &self,
        op: Op,
        kind: WatchKind,
        make: impl FnOnce(&Session, &Watcher) -> Pending<T>,
    ) -> Result<T> {
        let call = self.recorder.call(self.at, op);
        self.recorder.call_watches(call, self.watcher_id, kind);
        let pending = make(&self.session, &self.watcher.borrow());
        self.finish(Made { call, pending }).await
    }

    /// Sets a watch alone.
    pub(super) fn watch(&self, path: &str, kind: WatchKind) {
        self.hear();
        let called = self.recorder.now();
        if let Ok(after) = self.session.watch(path, kind, &self.watcher.borrow()) {
            self.recorder
                .watched(self.watcher_id, called, path, kind, after);
        }
    }

    /// Takes what the watcher has.
    pub(super) fn hear(&self) {
        let mut watcher = self.watcher.borrow_mut();
        while let Ok(Some(event)) = watcher.next_timeout(Duration::ZERO) {
            let over = matches!(event, Event::Session(state) if state.is_final());
            self.recorder.received(self.watcher_id, event);
            if over {
                return;
            }
        }
    }

    /// Writes down how the session stands.
    fn look_at_session(&self) {
        self.hear();
        if self.session.is_certain() {
            self.recorder.certain(self.at);
        }
        self.recorder.state(self.at, self.session.state());
    }
}

/// A client's lives, until it has taken all its steps or is told to stop.
pub(super) async fn live(world: World, person: Rc<Person>, script: Script) {
    while person.goes_on() {
        let (node, _) = world.any_node().await;
        let life = one_life(world.clone(), person.clone(), node, script);
        let ended = world.spawn_on(node, life).await;
        if ended.is_none() {
            // It may have been about to attach what it has a handle of elsewhere.
            person.give_up_old(world.recorder());
            if let Some(at) = person.attachment.take() {
                world.recorder().ended(at, AttachmentEnd::Crashed);
            }
        }
        world.sleep(MILLISECOND * 5).await;
    }
    person.give_up_old(world.recorder());
}

async fn one_life(world: World, person: Rc<Person>, node: u64, script: Script) {
    let Some(client) = begin(world, person, node).await else {
        return;
    };
    let stint = 5 + client.random(40);
    for _ in 0..stint {
        if !client.goes_on() {
            break;
        }
        client.person.steps.set(client.person.steps.get() - 1);
        script(&client).await;
        client.look_at_session();
        client.rest(client.person.pace.rest).await;
    }
    client.look_at_session();
    leave(client).await;
}

/// Opens a session, or attaches the one that the client has.
async fn begin(world: World, person: Rc<Person>, node: u64) -> Option<Client> {
    let handle = world.node(node)?;
    let recorder = world.recorder().clone();
    let called: Moment = recorder.now();
    let (least, most) = person.pace.timeout;
    let timeout = world.some_time(least, most);
    let credentials = person.credentials.borrow().clone();
    let result = match &credentials {
        // An attachment that nobody hears of must not change what is granted.
        Some((credentials, timeout)) => {
            handle.session().timeout(*timeout).attach(credentials).await
        }
        None => handle.session().timeout(timeout).open().await,
    };
    let Ok(session) = result else {
        person.credentials.take();
        person.give_up_old(&recorder);
        return None;
    };
    let at = recorder.opened(ClientId(person.number), node_id(node), called, &session);
    // What was left behind has moved here, or is no more.
    person.give_up_old(&recorder);
    person.attachment.set(Some(at));
    *person.credentials.borrow_mut() = Some((session.credentials(), session.timeout()));
    let watcher = session.watcher(EVENTS_MAX);
    Some(Client {
        watcher_id: recorder.watcher(at),
        watcher: RefCell::new(watcher),
        world,
        person,
        session,
        recorder,
        at,
    })
}

/// Leaves the node, in one of the ways that there are.
async fn leave(client: Client) {
    let person = client.person.clone();
    if client.session.state().is_final() {
        person.attachment.set(None);
        person.credentials.take();
        return;
    }
    match client.random(3) {
        // The session is attached elsewhere, if there is time yet.
        0 if person.goes_on() => {
            *person.old.borrow_mut() = Some((client.session.clone(), client.at));
        }
        1 => {
            person.credentials.take();
            let closed = client.call(Op::Close, Session::close).await;
            let how = match closed {
                Ok(()) => AttachmentEnd::Closed,
                Err(_) => AttachmentEnd::Dropped,
            };
            client.recorder.ended(client.at, how);
            person.attachment.set(None);
        }
        _ => {
            person.credentials.take();
            person.attachment.set(None);
            client.recorder.ended(client.at, AttachmentEnd::Dropped);
        }
    }
}

/// Makes znodes that all clients share.
pub(super) async fn prepare(world: World, person: Rc<Person>, znodes: Vec<(String, String)>) {
    let (node, _) = world.any_node().await;
    let client = begin(world, person, node)
        .await
        .expect("nothing is wrong yet");
    for (path, data) in znodes {
        let mode = CreateMode::Persistent;
        let op = Op::create(&path, &data, mode);
        let made = client.call(op, |session| session.create(&path, &data, mode));
        made.await.expect("nothing is wrong yet");
    }
    let closed = client.call(Op::Close, Session::close).await;
    closed.expect("nothing is wrong yet");
    client.recorder.ended(client.at, AttachmentEnd::Closed);
}

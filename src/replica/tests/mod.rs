//! Stories of one replica, whose core says what the story wants: no cluster, no clock, no disk.
//!
//! Node 1 is the replica's; node 2 leads, unless the story says otherwise. What the replica sends to the
//! leader the story reads, answers, or puts into the log itself.

mod membership;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::consensus::{MembershipChange, ProposeError, Ready, Role};
use crate::ids::ClusterId;
use crate::op::{CreateMode, ReadOp};
use crate::proto::{Batch, Rules};
use crate::state::Settings;
use crate::storage::{EntryKind, LogEntry, StorageError, WriteBatch};

const ME: NodeId = NodeId::new(1).unwrap();
const LEADER: NodeId = NodeId::new(2).unwrap();
const OTHER: NodeId = NodeId::new(3).unwrap();
const TICK: Duration = Duration::from_millis(10);
const ELECTION: Duration = Duration::from_millis(100);
const PASSWORD: Password = [7; 16];

/// What the core is to say, and what was asked of it.
#[derive(Default)]
struct Script {
    status: ConsensusStatus,
    configuration: Configuration,
    progress: Vec<PeerProgress>,
    ready: VecDeque<Ready>,
    ready_number: u64,
    transfers: Vec<NodeId>,
    snapshot_wanted: Option<u64>,
    /// The last one that was begun.
    barrier: u64,
    proposed: usize,
}

#[derive(Clone, Default)]
struct ScriptedCore(Arc<Mutex<Script>>);

impl Consensus for ScriptedCore {
    fn propose(&mut self, _: Bytes) -> Result<(), ProposeError> {
        let mut script = self.0.lock();
        script.proposed += 1;
        script.status.last_index += 1;
        Ok(())
    }

    fn step(&mut self, _: NodeId, _: &[u8]) -> Result<(), StepError> {
        Ok(())
    }

    fn step_snapshot(&mut self, _: NodeId, _: &[u8], _: &SnapshotMeta) -> Result<(), StepError> {
        Ok(())
    }

    fn tick(&mut self) {}

    fn barrier(&mut self, barrier: u64) -> Result<(), ProposeError> {
        self.0.lock().barrier = barrier;
        Ok(())
    }

    fn change_membership(&mut self, _: &[MembershipChange]) -> Result<(), ProposeError> {
        Ok(())
    }

    fn transfer_leadership(&mut self, to: NodeId) -> Result<(), ProposeError> {
        let mut script = self.0.lock();
        script.transfers.push(to);
        script.status.transferring = true;
        Ok(())
    }

    fn campaign(&mut self) {}

    fn ready(&mut self) -> Option<Ready> {
        self.0.lock().ready.pop_front()
    }

    fn persisted(&mut self, _: u64) {}

    fn applied(&mut self, _: u64) {}

    fn snapshot_sent(&mut self, _: NodeId, _: bool) {}

    fn unreachable(&mut self, _: NodeId) {}

    fn status(&self) -> ConsensusStatus {
        self.0.lock().status.clone()
    }

    fn configuration(&self) -> Configuration {
        self.0.lock().configuration.clone()
    }

    fn progress(&self) -> Vec<PeerProgress> {
        self.0.lock().progress.clone()
    }

    fn failure(&self) -> Option<StorageError> {
        None
    }

    fn snapshot_wanted(&self) -> Option<u64> {
        self.0.lock().snapshot_wanted
    }
}

/// A replica in a story.
struct Story {
    replica: Replica,
    core: ScriptedCore,
    now: Now,
    index: u64,
    next_ticket: u64,
}

impl Story {
    fn new() -> Story {
        Story::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut ReplicaOptions)) -> Story {
        let mut options = ReplicaOptions {
            id: ME,
            cluster: ClusterId(1),
            cluster_name: "story".to_string(),
            joined_as_of: 0,
            promotion_lag_max: 0,
            boot_nonce: 1,
            rules_max: Rules::LATEST,
            tick: TICK,
            election_timeout: ELECTION,
            session_writes_max: 8,
            session_reads_max: 8,
            barriers_max: 64,
            sessions_max: 64,
            batch_bytes_max: 1024 * 1024,
            snapshot_log_bytes: u64::MAX,
            log_entries_kept: 0,
            reap_interval: Duration::from_secs(60),
            reap_max: 1,
        };
        change(&mut options);
        let configuration = Configuration {
            voters: vec![ME, LEADER, OTHER],
            ..Default::default()
        };
        let meta = SnapshotMeta {
            index: 1,
            term: 1,
            configuration: configuration.clone(),
        };
        let core = ScriptedCore::default();
        core.0.lock().configuration = configuration;
        let now = Now {
            monotonic: Duration::from_secs(1),
            wall_ms: 0,
        };
        let state = State::new(Settings::default());
        let replica = Replica::new(options, Box::new(core.clone()), state, &meta, now);
        let mut story = Story {
            replica,
            core,
            now,
            index: 1,
            next_ticket: 0,
        };
        story.follow(Some(LEADER));
        story
    }

    /// Somebody else leads from now on, or nobody.
    fn follow(&mut self, leader: Option<NodeId>) {
        {
            let mut script = self.core.0.lock();
            script.status.term += 1;
            script.status.leader = leader;
            script.status.role = match leader {
                Some(ME) => Role::Leader,
                _ => Role::Follower,
            };
            script.status.leads_with_commit = leader == Some(ME);
        }
        self.handle(Input::Persisted { number: 0 });
    }

    fn handle(&mut self, input: Input) {
        self.replica.handle(input, self.now);
    }

    fn tick(&mut self) {
        self.now.monotonic += TICK;
        self.handle(Input::Tick);
    }

    fn ticks_for(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while self.now.monotonic < end {
            self.tick();
        }
    }

    /// What the replica sends to the leader.
    fn sent(&mut self) -> Vec<PeerMessage> {
        let mut sent = Vec::new();
        while let Some(output) = self.replica.poll() {
            if let Output::Send {
                to: LEADER,
                payload,
                ..
            } = output
            {
                sent.push(PeerMessage::decode(&payload).unwrap().0);
            }
        }
        sent
    }

    /// The requests that it forwards to the leader.
    fn forwarded(&mut self) -> Vec<RequestRecord> {
        let requests = self.sent().into_iter().filter_map(|message| match message {
            PeerMessage::Forward(requests) => Some(requests),
            _ => None,
        });
        requests.flatten().collect()
    }

    /// The sessions that it says are alive, in each barrier that it asks for.
    fn touched(&mut self) -> Vec<(u64, Vec<SessionId>)> {
        let touches = self.sent().into_iter().filter_map(|message| match message {
            PeerMessage::Barrier { id, sessions } => Some((id, sessions)),
            _ => None,
        });
        touches.collect()
    }

    fn peer(&mut self, message: PeerMessage) {
        let payload = message.encode(Rules::LATEST);
        self.handle(Input::Peer {
            from: LEADER,
            payload,
        });
    }

    /// The log has these requests next.
    fn commit(&mut self, requests: Vec<RequestRecord>) -> Effects {
        self.index += 1;
        let batch = Batch {
            time_ms: 0,
            rules: Rules::LATEST,
            requests,
        };
        let entry = LogEntry {
            index: self.index,
            term: 1,
            kind: EntryKind::Command,
            data: batch.encode(),
        };
        self.ready(Ready {
            committed: vec![entry],
            ..Default::default()
        });
        self.replica.take_effects()
    }

    fn ready(&mut self, mut ready: Ready) -> u64 {
        let number = {
            let mut script = self.core.0.lock();
            script.ready_number += 1;
            ready.number = script.ready_number;
            script.ready.push_back(ready);
            script.ready_number
        };
        self.handle(Input::Persisted { number: 0 });
        number
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket(self.next_ticket)
    }

    fn ask_open(&mut self, keeper: Keeper) -> Ticket {
        let ticket = self.ticket();
        self.handle(Input::Open {
            ticket,
            password: PASSWORD,
            timeout_ms: 10_000,
            keeper,
        });
        ticket
    }

    /// Opens a session, which the log has then.
    fn open(&mut self, keeper: Keeper) -> (SessionId, u32) {
        self.ask_open(keeper);
        let requests = self.forwarded();
        let effects = self.commit(requests);
        match &effects.answers[..] {
            [(_, Answer::Session { id, attachment, .. })] => (*id, *attachment),
            other => panic!("{other:?}"),
        }
    }

    fn ask_create(&mut self, (session, attachment): (SessionId, u32)) -> Ticket {
        let ticket = self.ticket();
        let op = proto::encode_op(&Op::Create {
            path: "/a".to_string(),
            data: Bytes::new(),
            mode: CreateMode::Persistent,
            acl: crate::acl::Acl::open(),
        });
        self.handle(Input::Write {
            ticket,
            session,
            attachment,
            op,
        });
        ticket
    }

    fn ask_read(&mut self, (session, attachment): (SessionId, u32)) -> Ticket {
        let ticket = self.ticket();
        self.handle(Input::Read {
            ticket,
            session,
            attachment,
            read: ReadOp::Exists {
                path: "/a".to_string(),
            },
        });
        ticket
    }

    fn answers(&mut self) -> Vec<(Ticket, Answer)> {
        self.replica.take_effects().answers
    }
}

#[test]
fn a_lost_touch_is_made_up_for_by_the_next_one() {
    // Found by review: the host says once that it has heard of a client. The touch that said it to the
    // leader was lost, and the next one knew nothing of it.
    let mut story = Story::new();
    let (session, attachment) = story.open(Keeper::Host);
    story.handle(Input::Touch {
        session,
        attachment,
    });
    let mut next_touch = || {
        for _ in 0..1_000 {
            story.tick();
            if let Some((_, sessions)) = story.touched().pop() {
                return sessions;
            }
        }
        panic!("nobody is touched");
    };
    assert_eq!(next_touch(), [session]);
    assert_eq!(next_touch(), [session]);
}

fn is_overloaded(answer: &(Ticket, Answer), ticket: Ticket, limit: usize) -> bool {
    let queue = "reads behind the session's writes";
    let full = Error::Overloaded { queue, limit };
    answer.0 == ticket && answer.1.error() == Some(&full)
}

#[test]
fn reads_that_wait_for_a_write_are_bounded() {
    let mut story = Story::with(|options| options.session_reads_max = 2);
    let session = story.open(Keeper::Node);
    story.ask_create(session);
    let waiting = [story.ask_read(session), story.ask_read(session)];
    assert!(story.answers().is_empty());
    let refused = story.ask_read(session);
    assert!(is_overloaded(&story.answers()[0], refused, 2));
    let requests = story.forwarded();
    let answered = story.commit(requests).answers;
    let tickets: Vec<Ticket> = answered.iter().map(|(ticket, _)| *ticket).collect();
    assert_eq!(tickets[1..], waiting);
    // There is room again, and without a write nothing waits.
    let at_once = story.ask_read(session);
    assert_eq!(story.answers()[0].0, at_once);
    story.ask_create(session);
    story.ask_read(session);
    assert!(story.answers().is_empty());
}

#[test]
fn barriers_that_are_passed_are_bounded_behind_a_write_as_well() {
    let mut story = Story::with(|options| options.session_reads_max = 1);
    let (session, attachment) = story.open(Keeper::Node);
    let tickets = [story.ticket(), story.ticket()];
    for ticket in tickets {
        story.handle(Input::Barrier {
            ticket,
            session,
            attachment,
            read: None,
        });
    }
    let (id, _) = story.touched().pop().unwrap();
    story.ask_create((session, attachment));
    let gone = Vec::new();
    story.peer(PeerMessage::BarrierReply { id, index: 1, gone });
    let answers = story.answers();
    assert!(is_overloaded(&answers[0], tickets[1], 1));
    assert_eq!(answers.len(), 1);
}

#[test]
fn a_stopping_node_says_of_an_opening_what_it_knows() {
    let stopped = Error::Stopped {
        reason: "told to".to_string(),
    };
    let mut story = Story::new();
    story.ask_open(Keeper::Node);
    story.forwarded();
    // It may be in the log, though it is to be sent again.
    story.follow(None);
    let answers = story.replica.stop(&stopped).answers;
    let unknown = Error::OutcomeUnknown {
        reason: "the node stopped",
    };
    assert_eq!(answers[0].1.error(), Some(&unknown));

    let mut story = Story::new();
    story.follow(None);
    story.ask_open(Keeper::Node);
    story.forwarded();
    let answers = story.replica.stop(&stopped).answers;
    assert_eq!(answers[0].1.error(), Some(&stopped));
}

#[test]
fn an_opening_that_nobody_waits_for_is_not_asked_for() {
    // Found by review: clients that had long gone on to another node had their sessions taken away when
    // a leader was there again, and a storm of reconnections left as many sessions as there were tries.
    let mut story = Story::new();
    story.follow(None);
    let ticket = story.ask_open(Keeper::Node);
    assert!(story.forwarded().is_empty());
    story.handle(Input::Withdraw {
        tickets: [ticket].into(),
    });
    assert_eq!(story.answers()[0].0, ticket);
    story.follow(Some(LEADER));
    assert!(story.forwarded().is_empty());
}

#[test]
fn an_opening_that_was_withdrawn_too_late_is_not_asked_for_again_and_may_come() {
    for comes in [true, false] {
        let mut story = Story::new();
        let ticket = story.ask_open(Keeper::Node);
        let requests = story.forwarded();
        story.handle(Input::Withdraw {
            tickets: [ticket].into(),
        });
        story.follow(Some(OTHER));
        story.follow(Some(LEADER));
        story.ticks_for(ELECTION * 2);
        assert!(story.forwarded().is_empty());
        assert!(story.answers().is_empty());
        if comes {
            let answers = story.commit(requests).answers;
            assert!(matches!(answers[..], [(of, Answer::Session { .. })] if of == ticket));
        } else {
            story.ticks_for(ELECTION * WITHDRAWN);
            let answers = story.answers();
            assert!(matches!(answers[..], [(of, Answer::Failed(_))] if of == ticket));
        }
    }
}

#[test]
fn a_session_that_is_left_is_not_kept_alive_and_not_closed() {
    let mut story = Story::new();
    let (session, attachment) = story.open(Keeper::Node);
    let ticket = story.ticket();
    story.handle(Input::Abandon {
        ticket,
        session,
        attachment,
        abandonment: Abandonment::Leave,
    });
    assert_eq!(story.answers()[0].0, ticket);
    story.ticks_for(Duration::from_secs(20));
    for message in story.sent() {
        let silent = match &message {
            PeerMessage::Barrier { sessions, .. } => sessions.is_empty(),
            other => !matches!(other, PeerMessage::Forward(_)),
        };
        assert!(silent, "{message:?}");
    }
}

#[test]
fn several_attaches_are_asked_for_in_the_order_of_their_calls() {
    let mut story = Story::new();
    let nonces = [3, 1, 2];
    for nonce in nonces {
        let ticket = story.ticket();
        story.handle(Input::Attach {
            ticket,
            session: SessionId(9),
            password: PASSWORD,
            timeout_ms: 10_000,
            nonce,
            keeper: Keeper::Node,
        });
    }
    let asked = story.forwarded().into_iter().map(|request| {
        match proto::decode_request(&request).unwrap().op {
            Op::AttachSession { nonce, .. } => nonce,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(asked.collect::<Vec<_>>(), nonces);
}

/// A leader that has given an entry of this index to its disk, and hears of both followers how far they
/// are.
fn leader_with_a_write(index: u64, matched: [u64; 2]) -> (Story, u64) {
    let mut story = Story::new();
    story.follow(Some(ME));
    let progress = [LEADER, OTHER].into_iter().zip(matched);
    story.core.0.lock().progress = progress
        .map(|(node, matched)| PeerProgress {
            node,
            matched,
            recently_active: true,
        })
        .collect();
    let entry = LogEntry {
        index,
        term: 1,
        kind: EntryKind::Command,
        data: Bytes::new(),
    };
    let number = story.ready(Ready {
        write: WriteBatch {
            entries: vec![entry],
            hard_state: None,
        },
        ..Default::default()
    });
    (story, number)
}

impl Story {
    /// Time passes, and these nodes are heard from.
    fn hear_for(&mut self, time: Duration, heard: &[NodeId]) {
        let end = self.now.monotonic + time;
        while self.now.monotonic < end {
            for &from in heard {
                let payload = PeerMessage::Consensus(Bytes::new()).encode(Rules::LATEST);
                self.handle(Input::Peer { from, payload });
            }
            self.tick();
        }
    }

    fn transfers(&self) -> Vec<NodeId> {
        self.core.0.lock().transfers.clone()
    }
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_to_the_voter_that_is_furthest() {
    let (mut story, _) = leader_with_a_write(7, [7, 8]);
    story.hear_for(ELECTION * disk::DISK_PATIENCE, &[LEADER, OTHER]);
    assert!(story.transfers().is_empty());
    story.hear_for(TICK * 3, &[LEADER, OTHER]);
    assert_eq!(story.transfers(), [OTHER]);
    // It came to nothing, and is tried again.
    story.core.0.lock().status.transferring = false;
    story.hear_for(TICK * 2, &[LEADER, OTHER]);
    assert_eq!(story.transfers(), [OTHER, OTHER]);
}

#[test]
fn a_leader_whose_disk_is_slow_leads_on() {
    let (mut story, number) = leader_with_a_write(7, [7, 8]);
    for _ in 0..3 {
        story.hear_for(ELECTION * disk::DISK_PATIENCE, &[LEADER, OTHER]);
        let entry = LogEntry {
            index: 8,
            term: 1,
            kind: EntryKind::Command,
            data: Bytes::new(),
        };
        let write = WriteBatch {
            entries: vec![entry],
            hard_state: None,
        };
        let newer = story.ready(Ready {
            write,
            ..Default::default()
        });
        assert!(newer > number);
        story.handle(Input::Persisted { number: newer - 1 });
    }
    assert!(story.transfers().is_empty());
}

#[test]
fn a_leader_whose_disk_hangs_hands_over_to_nobody_who_is_silent_or_no_better() {
    let (mut story, _) = leader_with_a_write(7, [7, 8]);
    story.hear_for(ELECTION * disk::DISK_PATIENCE * 2, &[LEADER]);
    assert_eq!(story.transfers(), [LEADER]);
    let (mut story, _) = leader_with_a_write(7, [6, 6]);
    story.hear_for(ELECTION * disk::DISK_PATIENCE * 2, &[LEADER, OTHER]);
    assert!(story.transfers().is_empty());
}

#[test]
fn a_pause_of_the_whole_node_is_no_fault_of_its_disk() {
    let (mut story, _) = leader_with_a_write(7, [7, 8]);
    story.now.monotonic += ELECTION * disk::DISK_PATIENCE * 10;
    story.hear_for(TICK * 5, &[LEADER, OTHER]);
    assert!(story.transfers().is_empty());
}

#[test]
fn a_snapshot_is_hastened_when_a_follower_waits_for_it_or_the_log_outgrows_it() {
    let begin = || {
        let mut story = Story::with(|options| options.snapshot_log_bytes = 1);
        story.commit(Vec::new());
        assert!(!story.replica.hastens_snapshot(), "none is being taken");
        assert!(story.replica.take_due_snapshot().is_some());
        assert!(!story.replica.hastens_snapshot());
        story
    };
    // A follower waits: said once.
    let mut story = begin();
    story.core.0.lock().snapshot_wanted = Some(2);
    assert!(story.replica.hastens_snapshot());
    assert!(!story.replica.hastens_snapshot());

    // The next one is due, and twice as much.
    let mut story = begin();
    story.commit(Vec::new());
    assert!(story.replica.hastens_snapshot());
    let meta = SnapshotMeta {
        index: 2,
        ..SnapshotMeta::default()
    };
    let published = true;
    story.handle(Input::SnapshotTaken { meta, published });
    assert!(!story.replica.hastens_snapshot());
    // The one after it begins anew.
    assert!(story.replica.take_due_snapshot().is_some());
    story.commit(Vec::new());
    assert!(story.replica.hastens_snapshot());
}

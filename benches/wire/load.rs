//! Many clients in one thread: as light as it gets, so that it takes little from the servers.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

const DATA: [u8; 100] = [7; 100];
const TIMEOUT_MS: i32 = 40_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// How many sessions are asked for at once.
const OPENED_AT_ONCE: usize = 500;

const CREATE: i32 = 1;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const CLOSE_SESSION: i32 = -11;
const NODE_EXISTS: i32 = -110;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Write,
    Read,
}

/// What came of a round.
pub(crate) struct Measured {
    /// Answers a second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Sessions, spread over servers.
pub(crate) struct Fleet {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// When each unanswered request was sent.
    sent: VecDeque<Instant>,
}

/// A frame from a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Welcome,
    Reply { error: i32 },
    Event,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

fn frame(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    write(&mut body);
    let mut frame = Vec::new();
    text(&mut frame, &body);
    frame
}

fn request(opcode: i32, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    frame(|out| {
        out.extend(1_i32.to_be_bytes());
        out.extend(opcode.to_be_bytes());
        write(out);
    })
}

fn get(path: &str, watch: u8) -> Vec<u8> {
    request(GET_DATA, |out| {
        text(out, path.as_bytes());
        out.push(watch);
    })
}

fn set(path: &str) -> Vec<u8> {
    request(SET_DATA, |out| {
        text(out, path.as_bytes());
        text(out, &DATA);
        out.extend((-1_i32).to_be_bytes());
    })
}

fn path(at: usize) -> String {
    format!("/bench-{at}")
}

impl Connection {
    /// Sends what the socket takes.
    fn flush(&mut self) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("a connection is lost: {error}"),
            }
        }
    }

    /// Reads what has come, and hands over each frame that is whole.
    fn read(
        &mut self,
        scratch: &mut [u8],
        mut each: impl FnMut(&mut VecDeque<Instant>, &mut Vec<u8>, Answer),
    ) {
        loop {
            match self.stream.read(scratch) {
                Ok(0) => panic!("a server has closed a connection"),
                Ok(count) => self.input.extend(&scratch[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("a connection is lost: {error}"),
            }
        }
        let mut at = 0;
        let int = |bytes: &[u8]| i32::from_be_bytes(bytes.try_into().expect("four bytes"));
        while self.input.len() >= at + 4 {
            let end = at + 4 + int(&self.input[at..at + 4]) as usize;
            if self.input.len() < end {
                break;
            }
            let answer = match int(&self.input[at + 4..at + 8]) {
                0 => Answer::Welcome,
                -1 => Answer::Event,
                _ => Answer::Reply {
                    error: int(&self.input[at + 16..at + 20]),
                },
            };
            each(&mut self.sent, &mut self.output, answer);
            at = end;
        }
        self.input.drain(..at);
    }
}

impl Fleet {
    /// Opens so many sessions.
    pub(crate) fn connect(servers: &[String], sessions: usize) -> Fleet {
        let mut fleet = Fleet {
            poll: Poll::new().expect("means to wait"),
            events: Events::with_capacity(1024),
            connections: Vec::with_capacity(sessions),
        };
        let greeting = frame(|out| {
            out.extend([0; 12]);
            out.extend(TIMEOUT_MS.to_be_bytes());
            out.extend([0; 8]);
            text(out, &[0; 16]);
            out.push(0);
        });
        while fleet.connections.len() < sessions {
            let first = fleet.connections.len();
            let last = sessions.min(first + OPENED_AT_ONCE);
            for at in first..last {
                let address: SocketAddr = servers[at % servers.len()].parse().expect("an address");
                let stream = std::net::TcpStream::connect(address).expect("a server listens");
                stream.set_nodelay(true).expect("it is TCP");
                stream.set_nonblocking(true).expect("it is a socket");
                let mut stream = TcpStream::from_std(stream);
                let registry = fleet.poll.registry();
                let interest = Interest::READABLE | Interest::WRITABLE;
                registry
                    .register(&mut stream, Token(at), interest)
                    .expect("room for it");
                fleet.connections.push(Connection {
                    stream,
                    input: Vec::new(),
                    output: greeting.clone(),
                    sent: VecDeque::new(),
                });
            }
            fleet.gather(first..last, Answer::Welcome);
        }
        fleet
    }

    /// Each session's own znode.
    pub(crate) fn make_znodes(&mut self) {
        for (at, connection) in self.connections.iter_mut().enumerate() {
            connection.output = request(CREATE, |out| {
                text(out, path(at).as_bytes());
                text(out, &DATA);
                out.extend(1_i32.to_be_bytes());
                out.extend(31_i32.to_be_bytes());
                text(out, b"world");
                text(out, b"anyone");
                out.extend(0_i32.to_be_bytes());
            });
        }
        self.gather(0..self.connections.len(), Answer::Reply { error: 0 });
    }

    /// Sends what is to be sent on these connections, and takes one such answer from each.
    fn gather(&mut self, range: std::ops::Range<usize>, wanted: Answer) {
        let mut missing = range.len();
        self.connections[range]
            .iter_mut()
            .for_each(Connection::flush);
        self.until(|_, answer| {
            let is_wanted = match answer {
                Answer::Reply { error: NODE_EXISTS } => wanted == Answer::Reply { error: 0 },
                answer => answer == wanted,
            };
            assert!(is_wanted, "another answer than was asked for");
            missing -= 1;
            missing == 0
        });
    }

    /// Takes answers until one of them is the last.
    fn until(&mut self, mut is_last: impl FnMut(usize, Answer) -> bool) {
        let begun = Instant::now();
        let mut scratch = vec![0; 256 << 10];
        let mut done = false;
        while !done {
            assert!(begun.elapsed() < PATIENCE, "an answer is missing");
            self.poll
                .poll(&mut self.events, Some(Duration::from_secs(1)))
                .expect("waiting");
            for event in &self.events {
                let Token(at) = event.token();
                let connection = &mut self.connections[at];
                connection.flush();
                connection.read(&mut scratch, |_, _, answer| done |= is_last(at, answer));
            }
        }
    }

    /// Keeps so many requests in flight on each session, for so long.
    pub(crate) fn run(&mut self, kind: Kind, outstanding: usize, time: Duration) -> Measured {
        let requests: Vec<Vec<u8>> = (0..self.connections.len())
            .map(|at| match kind {
                Kind::Write => set(&path(at)),
                Kind::Read => get(&path(at), 0),
            })
            .collect();
        let begun = Instant::now();
        for (connection, request) in self.connections.iter_mut().zip(&requests) {
            connection.output = request.repeat(outstanding);
            connection.sent = std::iter::repeat_n(Instant::now(), outstanding).collect();
            connection.flush();
        }
        let mut missing = outstanding * self.connections.len();
        let mut taken_us: Vec<u32> = Vec::new();
        let mut scratch = vec![0; 256 << 10];
        let mut heard = Instant::now();
        // Those that are under way in the end are waited for, and not counted.
        while missing > 0 {
            self.poll
                .poll(&mut self.events, Some(Duration::from_secs(1)))
                .expect("waiting");
            let now = Instant::now();
            let goes_on = now < begun + time;
            assert!(now < heard + PATIENCE, "an answer is missing");
            for event in &self.events {
                let Token(at) = event.token();
                let connection = &mut self.connections[at];
                heard = now;
                connection.read(&mut scratch, |sent, output, answer| {
                    assert!(answer == Answer::Reply { error: 0 }, "a request fails");
                    let since = sent.pop_front().expect("it was asked for");
                    if goes_on {
                        taken_us.push((now - since).as_micros() as u32);
                        sent.push_back(now);
                        output.extend(&requests[at]);
                    } else {
                        missing -= 1;
                    }
                });
                connection.flush();
            }
        }
        taken_us.sort_unstable();
        let percentile = |percent: usize| {
            let at = (taken_us.len() * percent / 100).min(taken_us.len().saturating_sub(1));
            taken_us.get(at).map_or(f64::NAN, |us| f64::from(*us) / 1e3)
        };
        Measured {
            rate: taken_us.len() as f64 / time.as_secs_f64(),
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }

    /// All but the last session watch a znode, which the last one sets. How long it takes until all have heard.
    pub(crate) fn tell_all(&mut self) -> Duration {
        let watchers = self.connections.len() - 1;
        let watched = get(&path(0), 1);
        for connection in &mut self.connections[..watchers] {
            connection.output.clone_from(&watched);
        }
        self.gather(0..watchers, Answer::Reply { error: 0 });
        let begun = Instant::now();
        let setter = &mut self.connections[watchers];
        setter.output = set(&path(0));
        setter.flush();
        let mut missing = watchers + 1;
        self.until(|at, answer| {
            let wanted = if at == watchers {
                Answer::Reply { error: 0 }
            } else {
                Answer::Event
            };
            assert!(answer == wanted, "another answer than was asked for");
            missing -= 1;
            missing == 0
        });
        begun.elapsed()
    }

    /// Ends the sessions, so that they burden no round after this.
    pub(crate) fn close(mut self) {
        for connection in &mut self.connections {
            connection.output = request(CLOSE_SESSION, |_| {});
            connection.flush();
        }
        let begun = Instant::now();
        let mut scratch = [0; 1024];
        for connection in &mut self.connections {
            while begun.elapsed() < PATIENCE {
                match connection.stream.read(&mut scratch) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    // The reply, and then the end.
                    Ok(1..) => {}
                    Ok(0) | Err(_) => break,
                }
            }
        }
    }
}

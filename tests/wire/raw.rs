//! A ZooKeeper client that says what it is told to, byte by byte.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes put behind one another.
#[derive(Clone, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    pub fn int(mut self, value: i32) -> Body {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn long(mut self, value: i64) -> Body {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub fn bool(mut self, value: bool) -> Body {
        self.0.push(u8::from(value));
        self
    }

    pub fn text(self, text: impl AsRef<[u8]>) -> Body {
        let mut body = self.int(text.as_ref().len() as i32);
        body.0.extend(text.as_ref());
        body
    }

    pub fn texts(self, texts: &[&str]) -> Body {
        let counted = self.int(texts.len() as i32);
        texts.iter().fold(counted, |body, text| body.text(text))
    }
}

pub fn body() -> Body {
    Body::default()
}

/// A create of `path` with the open ACL.
pub fn create(path: &str, data: &[u8], flags: i32) -> Body {
    let acl = body().int(1).int(31).text("world").text("anyone");
    let mut create = body().text(path).text(data);
    create.0.extend(acl.0);
    create.int(flags)
}

pub fn read(path: &str, watch: bool) -> Body {
    body().text(path).bool(watch)
}

pub fn set(path: &str, data: &[u8]) -> Body {
    body().text(path).text(data).int(-1)
}

/// A frame from the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub xid: i32,
    pub zxid: i64,
    pub error: i32,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn is_event(&self) -> bool {
        self.xid == -1
    }

    /// The kind and the path of an event.
    pub fn event(&self) -> (i32, String) {
        assert!(self.is_event(), "{self:?}");
        let kind = i32::from_be_bytes(self.body[..4].try_into().unwrap());
        let path = String::from_utf8(self.body[12..].to_vec()).unwrap();
        (kind, path)
    }

    /// The buffer that the body begins with.
    pub fn buffer(&self) -> &[u8] {
        assert_eq!(self.error, 0, "{self:?}");
        let length = i32::from_be_bytes(self.body[..4].try_into().unwrap());
        &self.body[4..4 + length as usize]
    }
}

/// What a server says to a `ConnectRequest`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcome {
    pub timeout_ms: i32,
    pub session: i64,
    pub password: Vec<u8>,
}

pub struct Wire {
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    /// A connection without a word said.
    pub fn open(address: SocketAddr) -> Wire {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let input = Vec::new();
        Wire { stream, input }
    }

    /// A connection with a new session.
    pub fn connect(address: SocketAddr, timeout_ms: i32) -> (Wire, Welcome) {
        let mut wire = Wire::open(address);
        wire.ask_for_session(0, &[0; 16], timeout_ms);
        let welcome = wire.welcome().expect("a welcome");
        assert_ne!(welcome.session, 0);
        (wire, welcome)
    }

    pub fn ask_for_session(&mut self, session: i64, password: &[u8], timeout_ms: i32) {
        let connect = body().int(0).long(0).int(timeout_ms).long(session);
        self.send(&connect.text(password).bool(false));
    }

    pub fn welcome(&mut self) -> Option<Welcome> {
        let frame = self.raw_frame()?;
        assert_eq!(frame.len(), 37, "{frame:?}");
        Some(Welcome {
            timeout_ms: i32::from_be_bytes(frame[4..8].try_into().unwrap()),
            session: i64::from_be_bytes(frame[8..16].try_into().unwrap()),
            password: frame[20..36].to_vec(),
        })
    }

    /// Sends bytes as they are; that the server may be gone is for the reader to notice.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn send(&mut self, frame: &Body) {
        let mut bytes = (frame.0.len() as i32).to_be_bytes().to_vec();
        bytes.extend(&frame.0);
        self.send_raw(&bytes);
    }

    pub fn request(&mut self, xid: i32, opcode: i32, rest: &Body) {
        let mut frame = body().int(xid).int(opcode);
        frame.0.extend(&rest.0);
        self.send(&frame);
    }

    /// The next frame, or `None` where the connection is closed.
    pub fn raw_frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = self.input.first_chunk::<4>() {
                let end = 4 + u32::from_be_bytes(*length) as usize;
                if self.input.len() >= end {
                    let rest = self.input.split_off(end);
                    let frame = std::mem::replace(&mut self.input, rest);
                    return Some(frame[4..].to_vec());
                }
            }
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.input.extend(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame: {error}"),
            }
        }
    }

    pub fn frame(&mut self) -> Option<Frame> {
        self.raw_frame().map(|frame| Frame {
            xid: i32::from_be_bytes(frame[..4].try_into().unwrap()),
            zxid: i64::from_be_bytes(frame[4..12].try_into().unwrap()),
            error: i32::from_be_bytes(frame[12..16].try_into().unwrap()),
            body: frame[16..].to_vec(),
        })
    }

    /// The reply of a request that has just been sent, and the events before it.
    pub fn reply(&mut self, xid: i32) -> (Frame, Vec<Frame>) {
        let mut events = Vec::new();
        loop {
            let frame = self.frame().expect("a reply");
            if frame.xid == xid {
                return (frame, events);
            }
            assert!(frame.is_event(), "{frame:?} before the reply of {xid}");
            events.push(frame);
        }
    }

    /// Sends a request and takes its reply, before which no event is expected.
    pub fn call(&mut self, xid: i32, opcode: i32, rest: &Body) -> Frame {
        self.request(xid, opcode, rest);
        let (reply, events) = self.reply(xid);
        assert!(events.is_empty(), "{events:?}");
        reply
    }

    /// Waits for the end of the connection, whatever comes before.
    pub fn is_closed(&mut self) -> bool {
        while self.raw_frame().is_some() {}
        true
    }
}

//! A ZooKeeper client that sends many requests and takes their answers in order: one connection, no thread.
//!
//! A copy needs a dozen operations, and many of them in flight in their order: that is less than what a client
//! crate would bring. It knows nothing of watches, and when its connection breaks it is over: whoever copies begins again.

use std::error::Error;
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::record::{Body, Reader};

const TIMEOUT_MS: i32 = 30_000;
/// No server answers with more.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Numbers of operations (`ZooDefs.OpCode`).
pub(crate) mod opcode {
    pub(crate) const CREATE: i32 = 1;
    pub(crate) const DELETE: i32 = 2;
    pub(crate) const EXISTS: i32 = 3;
    pub(crate) const GET_DATA: i32 = 4;
    pub(crate) const SET_DATA: i32 = 5;
    pub(crate) const GET_ACL: i32 = 6;
    pub(crate) const SET_ACL: i32 = 7;
    pub(crate) const PING: i32 = 11;
    pub(crate) const GET_CHILDREN_2: i32 = 12;
    pub(crate) const MULTI: i32 = 14;
    pub(crate) const CREATE_CONTAINER: i32 = 19;
    pub(crate) const CREATE_TTL: i32 = 21;
    pub(crate) const AUTH: i32 = 100;
    pub(crate) const CLOSE_SESSION: i32 = -11;
}

/// Errors (`KeeperException.Code`).
pub(crate) mod code {
    pub(crate) const OK: i32 = 0;
    pub(crate) const NO_NODE: i32 = -101;
    pub(crate) const NO_AUTH: i32 = -102;
    pub(crate) const NODE_EXISTS: i32 = -110;
}

/// See the module's text.
pub(crate) struct Client {
    address: String,
    read: BufReader<TcpStream>,
    write: BufWriter<TcpStream>,
    xid: i32,
}

/// An error code, and the body where it is 0.
pub(crate) struct Reply {
    pub(crate) error: i32,
    pub(crate) body: Vec<u8>,
}

impl Client {
    /// A session on the first of these servers that gives one.
    pub(crate) fn connect(
        servers: &str,
        auth: Option<&(String, String)>,
    ) -> Result<Client, Box<dyn Error>> {
        let mut last: Box<dyn Error> = "no server is named".into();
        for server in servers.split(',') {
            match Client::connect_to(server, auth) {
                Ok(client) => return Ok(client),
                Err(error) => last = format!("{server}: {error}").into(),
            }
        }
        Err(last)
    }

    fn connect_to(server: &str, auth: Option<&(String, String)>) -> Result<Client, Box<dyn Error>> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut client = Client {
            address: server.to_string(),
            read: BufReader::new(stream.try_clone()?),
            write: BufWriter::new(stream),
            xid: 0,
        };
        // Protocol 0, nothing seen, a new session, no password yet, not content with a read-only server.
        let greeting = Body::default().int(0).long(0).int(TIMEOUT_MS).long(0);
        client.frame(&greeting.bytes(&[0; 16]).bool(false))?;
        client.write.flush()?;
        let welcome = client.reply_frame()?;
        let mut welcome = Reader(&welcome);
        welcome.take(8)?;
        if welcome.long()? == 0 {
            return Err("it gives no session".into());
        }
        if let Some((scheme, credentials)) = auth {
            let body = Body::default().int(0).bytes(scheme.as_bytes());
            client.send(opcode::AUTH, &body.bytes(credentials.as_bytes()))?;
            if client.receive()?.error != code::OK {
                return Err(format!("it does not take the {scheme} credentials").into());
            }
        }
        Ok(client)
    }

    /// Puts a request behind the others. Its answer is the next but for those of the others.
    pub(crate) fn send(&mut self, opcode: i32, body: &Body) -> Result<(), Box<dyn Error>> {
        self.xid = self.xid.wrapping_add(1).max(1);
        let xid = match opcode {
            opcode::PING => -2,
            opcode::AUTH => -4,
            _ => self.xid,
        };
        let mut frame = Body::default().int(xid).int(opcode);
        frame.0.extend(&body.0);
        self.frame(&frame)
    }

    fn frame(&mut self, frame: &Body) -> Result<(), Box<dyn Error>> {
        let length = i32::try_from(frame.0.len())?;
        self.write.write_all(&length.to_be_bytes())?;
        Ok(self.write.write_all(&frame.0)?)
    }

    /// The next answer.
    pub(crate) fn receive(&mut self) -> Result<Reply, Box<dyn Error>> {
        self.write.flush()?;
        let frame = self.reply_frame()?;
        let mut reader = Reader(&frame);
        reader.take(12)?;
        let error = reader.int()?;
        let body = reader.0.to_vec();
        Ok(Reply { error, body })
    }

    pub(crate) fn call(&mut self, opcode: i32, body: &Body) -> Result<Reply, Box<dyn Error>> {
        self.send(opcode, body)?;
        self.receive()
    }

    fn reply_frame(&mut self) -> Result<Vec<u8>, Box<dyn Error>> {
        self.read_frame()
            .map_err(|error| format!("the connection to {} is lost: {error}", self.address).into())
    }

    fn read_frame(&mut self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut length = [0; 4];
        self.read.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > REPLY_BYTES_MAX {
            return Err(format!("a reply of {length} bytes").into());
        }
        let mut frame = vec![0; length];
        self.read.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// Keeps the session while only the other server has work.
    pub(crate) fn ping(&mut self) -> Result<(), Box<dyn Error>> {
        self.call(opcode::PING, &Body::default()).map(drop)
    }

    pub(crate) fn close(&mut self) -> Result<(), Box<dyn Error>> {
        self.call(opcode::CLOSE_SESSION, &Body::default()).map(drop)
    }
}

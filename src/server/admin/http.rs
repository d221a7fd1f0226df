//! As much of HTTP/1 as an endpoint for operators takes: one request of a connection, by GET or HEAD.
//!
//! It knows no server. `httparse` reads the head; its limits are here.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;

/// What somebody wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub path: String,
    /// Names and values, as they were sent.
    query: Vec<(String, String)>,
    /// Whether only the head of the reply is wanted.
    is_head: bool,
}

impl Request {
    /// The value that the query gives to a name.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    Ok,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    TooLarge,
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::TooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
        }
    }
}

/// What is answered.
pub(super) struct Reply {
    pub status: Status,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

impl Reply {
    pub(super) fn text(status: Status, text: &str) -> Reply {
        Reply {
            status,
            content_type: "text/plain; charset=utf-8",
            body: text.as_bytes().to_vec(),
        }
    }
}

/// Serves one connection, no longer than `patience`.
///
/// # Errors
/// The connection broke, or took too long.
pub(super) fn serve(
    mut stream: TcpStream,
    patience: Duration,
    answer: impl FnOnce(&Request) -> Reply,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    stream.set_nonblocking(false)?;
    let (reply, is_head) = match read(&mut stream, deadline)? {
        Ok(request) => (answer(&request), request.is_head),
        Err(status) => (Reply::text(status, status.line()), false),
    };
    let mut bytes = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        reply.status.line(),
        reply.content_type,
        reply.body.len()
    )
    .into_bytes();
    if !is_head {
        bytes.extend_from_slice(&reply.body);
    }
    write(&mut stream, &bytes, Instant::now() + patience)?;
    stream.shutdown(Shutdown::Write)
}

/// Reads a request; or says what is wrong with it.
fn read(stream: &mut TcpStream, deadline: Instant) -> io::Result<Result<Request, Status>> {
    let mut head = Vec::new();
    loop {
        let mut piece = [0; 1024];
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        match parse(&head) {
            Ok(None) if head.len() >= HEAD_BYTES_MAX => return Ok(Err(Status::TooLarge)),
            Ok(None) => {}
            Ok(Some(request)) => return Ok(Ok(request)),
            Err(status) => return Ok(Err(status)),
        }
    }
}

fn write(stream: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// A request, once its head is whole.
fn parse(head: &[u8]) -> Result<Option<Request>, Status> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Status::TooLarge),
        Err(_) => return Err(Status::BadRequest),
    }
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Status::MethodNotAllowed),
    };
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    Ok(Some(Request {
        path: path.to_string(),
        query: pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        is_head,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_once_it_is_whole() {
        let whole = b"GET /commands/stmk?traceMask=7&x HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "{length}");
        }
        let request = parse(whole).unwrap().unwrap();
        assert_eq!(request.path, "/commands/stmk");
        assert_eq!(request.parameter("traceMask"), Some("7"));
        assert_eq!(request.parameter("x"), None);
        assert!(!request.is_head);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(parse(b"\x16\x03\x01\r\n\r\n"), Err(Status::BadRequest));
        let post = b"POST / HTTP/1.1\r\n\r\n";
        assert_eq!(parse(post), Err(Status::MethodNotAllowed));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
        assert_eq!(parse(many.as_bytes()), Err(Status::TooLarge));
    }
}

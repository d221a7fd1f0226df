//! Four-letter words and HTTP requests, as an operator sends them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// What is answered to these bytes, up to the end of the connection.
pub fn ask(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A server that closes without reading all resets the connection, after its answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

/// What is answered to a four-letter word.
pub fn word(address: SocketAddr, word: &str) -> String {
    ask(address, word.as_bytes())
}

/// The lines of `mntr`, by their keys.
pub fn monitored(address: SocketAddr) -> BTreeMap<String, String> {
    let answer = word(address, "mntr");
    let lines = answer.lines().map(|line| {
        let (key, value) = line
            .split_once('\t')
            .unwrap_or_else(|| panic!("{line:?} of {answer:?}"));
        (key.to_string(), value.to_string())
    });
    lines.collect()
}

/// A reply by HTTP: its status, its type and its body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    http(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: there\r\n\r\n"),
    )
}

pub fn http(address: SocketAddr, request: &str) -> (u16, String, String) {
    let reply = ask(address, request.as_bytes());
    let (head, body) = reply
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{reply:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let header = |name: &str| {
        let found = head.lines().find_map(|line| line.strip_prefix(name));
        found
            .unwrap_or_else(|| panic!("no {name} in {head}"))
            .trim()
    };
    let length: usize = header("Content-Length:").parse().unwrap();
    assert!(length == body.len() || body.is_empty(), "{reply:?}");
    let kind = header("Content-Type:").to_string();
    (status, kind, body.to_string())
}

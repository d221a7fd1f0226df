//! The four-letter words: what an operator, or a monitor, types into a bare connection. Their answers
//! have ZooKeeper's formats; what a `quorate` node doesn't count is left out.
//!
//! Some cost as much as there are sessions or watches: those are answered from a thread of their own,
//! of which there are few, so that no client waits for them. An answer has a limit.

mod date;
pub(super) mod lists;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::report::{self, full_version, mode};
use super::statistics::ConnectionFacts;
use crate::NodeStatus;

/// All of them.
const WORDS: [&str; 18] = [
    "conf", "cons", "crst", "dirs", "dump", "envi", "gtmk", "hash", "isro", "mntr", "ruok", "srst",
    "srvr", "stat", "stmk", "wchc", "wchp", "wchs",
];

/// Those whose answer may take long to make.
const SLOW: [&str; 6] = ["conf", "dirs", "dump", "wchc", "wchp", "wchs"];

/// How many slow ones are answered at the same time.
const SLOW_MAX: usize = 2;

/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What ZooKeeper says while it has no tree to speak of.
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// Which words are answered (ZooKeeper's `4lw.commands.whitelist`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Allowed {
    All,
    These(Vec<String>),
}

impl Allowed {
    fn allows(&self, word: &str) -> bool {
        match self {
            Allowed::All => true,
            Allowed::These(words) => words.iter().any(|allowed| allowed == word),
        }
    }
}

fn word(bytes: &[u8; 4]) -> Option<&'static str> {
    WORDS
        .into_iter()
        .find(|word| word.as_bytes() == bytes.as_slice())
}

/// Whether the first bytes of a connection are one: as a frame's length they would be far too large.
pub(super) fn is_word(bytes: &[u8; 4]) -> bool {
    word(bytes).is_some()
}

/// How many bytes follow a word that belong to it.
pub(super) fn argument_bytes(bytes: &[u8; 4]) -> usize {
    // A mask, as a number of eight bytes.
    if bytes == b"stmk" { 8 } else { 0 }
}

/// What is said to a word: at once, or by a thread that was begun for it.
pub(super) enum Answer {
    Now(String),
    Soon(oneshot::Receiver<String>),
}

/// Answers a word, which its argument follows.
pub(super) fn answer(bytes: &[u8; 4], argument: &[u8], shared: &Arc<Shared>) -> Answer {
    let word = word(bytes).unwrap_or_default();
    if !shared.settings.words.allows(word) {
        let refusal = format!("{word} is not executed because it is not in the whitelist.\n");
        return Answer::Now(refusal);
    }
    if !SLOW.contains(&word) {
        return Answer::Now(say(word, argument, shared));
    }
    if shared.inspections.fetch_add(1, Relaxed) >= SLOW_MAX {
        shared.inspections.fetch_sub(1, Relaxed);
        return Answer::Now("Others are being answered, try again later\n".to_string());
    }
    let (sender, receiver) = oneshot::channel();
    let for_thread = shared.clone();
    let begun = std::thread::Builder::new()
        .name("quorate-zookeeper-word".to_string())
        .spawn(move || {
            let answer = say(word, &[], &for_thread);
            for_thread.inspections.fetch_sub(1, Relaxed);
            // Whoever asked may be gone.
            let _ = sender.send(answer);
        });
    if begun.is_err() {
        shared.inspections.fetch_sub(1, Relaxed);
    }
    Answer::Soon(receiver)
}

fn say(word: &str, argument: &[u8], shared: &Shared) -> String {
    let status = shared.look();
    match word {
        "ruok" => return "imok".to_string(),
        "envi" => return environment(),
        "gtmk" => return shared.trace_mask.load(Relaxed).to_string(),
        "stmk" => return set_trace_mask(argument, shared),
        "isro" if !shared.serves() => return "null".to_string(),
        "isro" => return if shared.is_read_only() { "ro" } else { "rw" }.to_string(),
        _ if !shared.serves() => return NOT_SERVING.to_string(),
        _ => {}
    }
    let answer = match word {
        "srvr" => format!("{}{}", version(), numbers(&status, shared)),
        "stat" => {
            let clients: String = shared
                .statistics
                .connections()
                .iter()
                .map(|connection| format!(" {}\n", client(connection, Details::Few)))
                .collect();
            let numbers = numbers(&status, shared);
            format!("{}Clients:\n{clients}\n{numbers}", version())
        }
        "cons" => {
            let connections = shared.statistics.connections();
            let lines = connections
                .iter()
                .map(|connection| format!(" {}\n", client(connection, Details::All)));
            lines.chain(["\n".to_string()]).collect()
        }
        "crst" => {
            for connection in shared.statistics.connections() {
                connection.reset();
            }
            "Connection stats reset.\n".to_string()
        }
        "srst" => {
            shared.statistics.reset();
            "Server stats reset.\n".to_string()
        }
        "dirs" => {
            let bytes = report::directory_bytes(shared);
            format!("datadir_size: {bytes}\nlogdir_size: {bytes}\n")
        }
        "mntr" => report::metrics(&status, shared)
            .iter()
            .map(|metric| format!("zk_{}\t{}\n", metric.name, metric.value))
            .collect(),
        "conf" => configuration(&status, shared),
        "hash" => lists::digests(shared),
        "dump" => lists::dump(shared),
        "wchs" => lists::watches_summary(shared),
        "wchc" => lists::watches_by_session(shared),
        "wchp" => lists::watches_by_path(shared),
        _ => unreachable!("these are all words"),
    };
    bounded(answer)
}

/// The answer, cut after its last line that fits.
fn bounded(mut answer: String) -> String {
    if answer.len() > ANSWER_BYTES_MAX {
        let end = answer.as_bytes()[..ANSWER_BYTES_MAX]
            .iter()
            .rposition(|byte| *byte == b'\n');
        answer.truncate(end.map_or(0, |end| end + 1));
        answer += "(more than is shown)\n";
    }
    answer
}

/// `stmk`: what is written to the log from now on.
fn set_trace_mask(argument: &[u8], shared: &Shared) -> String {
    let Ok(mask) = argument.try_into() else {
        return String::new();
    };
    let mask = i64::from_be_bytes(mask);
    shared.trace_mask.store(mask, Relaxed);
    mask.to_string()
}

fn version() -> String {
    format!("Zookeeper version: {}\n", full_version())
}

fn numbers(status: &NodeStatus, shared: &Shared) -> String {
    let statistics = &shared.statistics;
    let (min, mean, max) = statistics.latency.ms();
    format!(
        "Latency min/avg/max: {min}/{}/{max}\nReceived: {}\nSent: {}\nConnections: {}\n\
         Outstanding: {}\nZxid: 0x{:x}\nMode: {}\nNode count: {}\n",
        report::rounded(mean),
        statistics.received.load(Relaxed),
        statistics.sent.load(Relaxed),
        shared.connections.load(Relaxed),
        shared.outstanding.load(Relaxed),
        status.zxid.0,
        mode(status, shared),
        status.znodes,
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Details {
    Few,
    All,
}

fn client(connection: &ConnectionFacts, details: Details) -> String {
    let session = connection.session.load(Relaxed);
    let mut line = format!(
        "/{}[{}](queued={},recved={},sent={}",
        connection.peer,
        u8::from(session != 0),
        connection.outstanding.load(Relaxed),
        connection.received.load(Relaxed),
        connection.sent.load(Relaxed),
    );
    if details == Details::All && session != 0 {
        let last = *connection.last.lock();
        let (min, mean, max) = connection.latency.ms();
        let _ = write!(
            line,
            ",sid=0x{session:x},lop={},est={},to={},lcxid=0x{:x},lzxid=0x{:x},lresp={},llat={},\
             minlat={min},avglat={mean:.0},maxlat={max}",
            report::operation(last.opcode),
            connection.established_ms,
            connection.timeout_ms.load(Relaxed),
            last.xid,
            last.zxid,
            connection.established_ms + last.at_ms,
            last.latency_ms,
        );
    }
    line + ")"
}

fn configuration(status: &NodeStatus, shared: &Shared) -> String {
    let mut text: String = report::configuration(status, shared)
        .iter()
        .map(|(key, value)| format!("{key}={value}\n"))
        .collect();
    if !report::is_standalone(status) {
        let _ = writeln!(text, "membership: \n{}", shared.ensemble());
    }
    text
}

fn environment() -> String {
    let lines = report::environment().into_iter();
    lines.fold("Environment:\n".to_string(), |text, (key, value)| {
        format!("{text}{key}={value}\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_too_long_is_cut_at_a_line() {
        let long = "0123456789\n".repeat(ANSWER_BYTES_MAX / 11 + 2);
        let cut = bounded(long);
        assert!(cut.len() < ANSWER_BYTES_MAX + 100);
        assert!(cut.ends_with("9\n(more than is shown)\n"));
        assert_eq!(bounded("short\n".to_string()), "short\n");
    }
}

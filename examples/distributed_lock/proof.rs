//! What the tree itself says of the critical sections.
//!
//! Each has left a znode: created by the transaction that entered it, last set by the one that left it.
//! The zxids of these writes are their places in the one order of all writes.

use std::fmt;

use quorate::{Session, Zxid};

use crate::AnyError;
use crate::contender::{COUNTER, SECTIONS};

struct Section {
    path: String,
    entered: Zxid,
    left: Zxid,
    token: u64,
    /// What the counter was set to; `None` where the lock was lost before, and nothing was written.
    count: Option<u64>,
}

pub(crate) struct Summary {
    finished: usize,
    abandoned: usize,
    counter: u64,
}

/// Checks all critical sections that there have ever been.
pub(crate) fn prove(session: &Session) -> Result<Summary, AnyError> {
    let mut sections = read(&session.linearizable())?;
    sections.sort_by_key(|section| section.entered);
    for pair in sections.windows(2) {
        check_order(&pair[0], &pair[1])?;
    }
    let counts: Vec<u64> = sections
        .iter()
        .filter_map(|section| section.count)
        .collect();
    if !counts.iter().copied().eq(1..=counts.len() as u64) {
        return Err(format!("updates were lost: the counter went {counts:?}").into());
    }
    let (counter, _) = session.get(COUNTER).wait()?;
    let counter: u64 = std::str::from_utf8(&counter)?.parse()?;
    if counter != counts.len() as u64 {
        return Err(format!("{} sections, but the counter is {counter}", counts.len()).into());
    }
    let (finished, abandoned) = (counts.len(), sections.len() - counts.len());
    Ok(Summary {
        finished,
        abandoned,
        counter,
    })
}

fn check_order(before: &Section, after: &Section) -> Result<(), AnyError> {
    let (one, other) = (&before.path, &after.path);
    if before.left >= after.entered {
        return Err(format!(
            "{one} and {other} overlap: one was left at {}, the other entered at {}",
            before.left, after.entered
        )
        .into());
    }
    if before.token >= after.token {
        return Err(format!(
            "the token went from {} in {one} to {} in {other}",
            before.token, after.token
        )
        .into());
    }
    Ok(())
}

fn read(session: &Session) -> Result<Vec<Section>, AnyError> {
    let (names, _) = session.children(SECTIONS).wait()?;
    names
        .iter()
        .map(|name| read_one(session, format!("{SECTIONS}/{name}")))
        .collect()
}

fn read_one(session: &Session, path: String) -> Result<Section, AnyError> {
    let (data, stat) = session.get(&path).wait()?;
    let text = std::str::from_utf8(&data)?;
    let words: Vec<&str> = text.split(' ').collect();
    let (token, count) = match words[..] {
        [token, _, "entered"] => (token, None),
        [token, _, "finished", count] => (token, Some(count.parse()?)),
        _ => return Err(format!("{path} holds {text:?}").into()),
    };
    Ok(Section {
        entered: stat.czxid,
        left: stat.mzxid,
        token: token.parse()?,
        count,
        path,
    })
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The tree proves:")?;
        writeln!(
            f,
            "  {} critical sections finished, none overlapped another",
            self.finished
        )?;
        writeln!(
            f,
            "  {} were abandoned, and wrote nothing after they lost the lock",
            self.abandoned
        )?;
        writeln!(f, "  every token was greater than the one before it")?;
        write!(
            f,
            "  the counter stands at {}: no update was lost",
            self.counter
        )
    }
}

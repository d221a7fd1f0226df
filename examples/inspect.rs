//! Shows what a backup or a data directory holds, offline: the tree, sessions, the log's bounds.
//!
//! `cargo run --example inspect -- [--json] [--storage log|sled] PATH`
//!
//! PATH is a backup's file, or the directory of a node that is stopped. Without arguments a node is
//! filled on a temporary directory, and its backup and its directory are shown.

use std::error::Error;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::*;
use quorate::recovery::Contents;
use quorate::storage::{Log, LogOptions, Sled, SledOptions, Storage};
use quorate::{CreateMode, Node};
use serde_json::json;

const HELP: &str = "inspect [--json] [--storage log|sled] PATH

PATH is a backup's file, or the directory of a node that is stopped.
Without arguments: a demonstration on a temporary directory.";

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args_os().len() == 1 {
        return demonstrate();
    }
    let (mut path, mut as_json, mut kind) = (None, false, "log".to_string());
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("json") => as_json = true,
            Long("storage") => kind = arguments.value()?.string()?,
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            Value(value) => path = Some(PathBuf::from(value)),
            other => return Err(other.unexpected().into()),
        }
    }
    let contents = read(&path.ok_or(HELP)?, &kind)?;
    if as_json {
        export(&contents)
    } else {
        show(&contents);
        Ok(())
    }
}

fn read(path: &Path, kind: &str) -> Result<Contents, Box<dyn Error>> {
    if path.is_file() {
        return Ok(Contents::of_backup(BufReader::new(File::open(path)?))?);
    }
    // Opening would make an empty store where there is none.
    if !path.is_dir() {
        return Err(format!("{} is neither a file nor a directory", path.display()).into());
    }
    let storage: Box<dyn Storage> = match kind {
        "log" => Box::new(Log::open(path, LogOptions::default())?),
        "sled" => Box::new(Sled::open(path, SledOptions::default())?),
        other => return Err(format!("no storage is called {other}").into()),
    };
    Ok(Contents::of_storage(&storage)?)
}

fn show(contents: &Contents) {
    println!("cluster  {}", contents.cluster);
    println!("node     {}", contents.node);
    println!(
        "voters   {:?}, learners {:?}",
        contents.voters, contents.learners
    );
    println!("zxid     {}", contents.zxid);
    println!("index    {} of term {}", contents.index, contents.term);
    if let Some((first, last)) = contents.log {
        println!("log      entries {first} to {last}");
    }
    for session in contents.sessions() {
        println!(
            "session  {} on node {}, timeout {} ms",
            session.id, session.owner, session.timeout_ms
        );
    }
    for znode in contents.znodes() {
        let stat = znode.stat;
        let owner = match stat.is_ephemeral() {
            true => format!(", ephemeral of {}", stat.ephemeral_owner),
            false => String::new(),
        };
        println!(
            "{}  {} bytes, version {}, mzxid {}{owner}",
            znode.path, stat.data_length, stat.version, stat.mzxid
        );
    }
}

/// One JSON object a line: the facts, then a session each, then a znode each, so that a large tree can
/// be read piece by piece. Data that is no UTF-8 is given as numbers.
fn export(contents: &Contents) -> Result<(), Box<dyn Error>> {
    let ids = |nodes: &[quorate::NodeId]| nodes.iter().map(|id| id.as_u64()).collect::<Vec<_>>();
    println!(
        "{}",
        json!({
            "cluster": contents.cluster.to_string(),
            "node": contents.node.as_u64(),
            "voters": ids(&contents.voters),
            "learners": ids(&contents.learners),
            "zxid": contents.zxid.0,
            "index": contents.index,
            "term": contents.term,
            "log": contents.log,
        })
    );
    for session in contents.sessions() {
        println!(
            "{}",
            json!({
                "session": session.id.to_string(),
                "timeout_ms": session.timeout_ms,
                "owner": session.owner.as_u64(),
            })
        );
    }
    for znode in contents.znodes() {
        let data = match std::str::from_utf8(&znode.data) {
            Ok(text) => json!(text),
            Err(_) => json!(znode.data.to_vec()),
        };
        let stat = znode.stat;
        println!(
            "{}",
            json!({
                "path": znode.path,
                "data": data,
                "czxid": stat.czxid.0,
                "mzxid": stat.mzxid.0,
                "pzxid": stat.pzxid.0,
                "ctime_ms": stat.ctime_ms,
                "mtime_ms": stat.mtime_ms,
                "version": stat.version,
                "cversion": stat.cversion,
                "aversion": stat.aversion,
                "ephemeral_owner": stat.ephemeral_owner.to_string(),
            })
        );
    }
    Ok(())
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let (data, file) = (
        directory.path().join("data"),
        directory.path().join("backup"),
    );
    let node = Node::builder(1).data_dir(&data).start()?;
    let session = node.session().open().wait_timeout(PATIENCE)?;
    session
        .create("/config", "blue", CreateMode::Persistent)
        .wait()?;
    session
        .create("/members", "", CreateMode::Persistent)
        .wait()?;
    session
        .create("/members/a", "here", CreateMode::Ephemeral)
        .wait()?;
    let backup = node.backup(File::create(&file)?)?;
    node.shutdown();
    println!("a backup of {} bytes:", backup.bytes);
    show(&read(&file, "log")?);
    println!("\nthe directory of the stopped node:");
    show(&read(&data, "log")?);
    println!("\nthe same as JSON:");
    export(&read(&file, "log")?)
}

//! Makes a new cluster of one voter from a survivor's disk, when the majority is lost for good.
//!
//! `cargo run --example recover -- --from DIR --to NEW_DIR --storage log --cluster ID`
//!
//! ID is the old cluster's id, typed out to say that it is given up. Without arguments a cluster is made
//! on a temporary directory, loses two of three disks, and is recovered.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lexopt::prelude::*;
use quorate::recovery::{Confirmation, Recovery, force_single_voter};
use quorate::storage::{Log, LogOptions, Sled, SledOptions, Storage};
use quorate::transport::Network;
use quorate::{CreateMode, Node, NodeId};

const HELP: &str = "recover --from DIR --to NEW_DIR [--storage log|sled] --cluster ID

Makes a new cluster of one voter in NEW_DIR of all that DIR holds. DIR is only
read. ID is the id of the cluster that is given up, as its log lines and
`Node::cluster` show it. Start the node with `NodeBuilder::reopen`; others join.
Without arguments: a demonstration on a temporary directory.";

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args_os().len() == 1 {
        return demonstrate();
    }
    let (mut from, mut to, mut cluster) = (None, None, None);
    let mut kind = "log".to_string();
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("from") => from = Some(PathBuf::from(arguments.value()?)),
            Long("to") => to = Some(PathBuf::from(arguments.value()?)),
            Long("cluster") => cluster = Some(arguments.value()?.string()?),
            Long("storage") => kind = arguments.value()?.string()?,
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let (Some(from), Some(to), Some(cluster)) = (from, to, cluster) else {
        return Err(HELP.into());
    };
    // Opening would make an empty store where there is none.
    if !from.is_dir() {
        return Err(format!("{} is no directory", from.display()).into());
    }
    recover(&*open(&kind, &from)?, &*open(&kind, &to)?, &cluster)?;
    Ok(())
}

fn open(kind: &str, dir: &Path) -> Result<Box<dyn Storage>, Box<dyn Error>> {
    Ok(match kind {
        "log" => Box::new(Log::open(dir, LogOptions::default())?),
        "sled" => Box::new(Sled::open(dir, SledOptions::default())?),
        other => return Err(format!("no storage is called {other}").into()),
    })
}

fn recover(
    survivor: &dyn Storage,
    into: &dyn Storage,
    typed: &str,
) -> Result<Recovery, Box<dyn Error>> {
    let recovery = force_single_voter(survivor, into, &Confirmation::typed(typed))?;
    println!(
        "cluster {} is given up; node {} begins cluster {} with everything up to write {}",
        recovery.old_cluster, recovery.node, recovery.cluster, recovery.zxid
    );
    println!(
        "{} entries at the end of the log were not known to be committed",
        recovery.entries_uncertain
    );
    Ok(recovery)
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let path = |id: u64| directory.path().join(id.to_string());
    let network = Network::new(1);
    let endpoint = |id: u64| NodeId::new(id).map(|node| network.endpoint(node));
    let mut nodes = Vec::new();
    for id in 1..=3 {
        nodes.push(
            Node::builder(id)
                .voters([1, 2, 3])
                .data_dir(path(id))
                .transport(endpoint(id).ok_or("0 is no id")?)
                .start()?,
        );
    }
    let session = nodes[0].session().open().wait_timeout(PATIENCE)?;
    let created = session
        .create("/treasure", "gold", CreateMode::Persistent)
        .wait()?;
    nodes[1].wait_for(PATIENCE, |status| status.zxid >= created.stat.czxid)?;
    let old = nodes[0].cluster().to_string();
    drop(nodes);
    std::fs::remove_dir_all(path(1))?;
    std::fs::remove_dir_all(path(3))?;
    println!("the disks of nodes 1 and 3 are lost");

    let new = directory.path().join("new");
    recover(&*open("log", &path(2))?, &*open("log", &new)?, &old)?;
    let network = Network::new(2);
    let two = NodeId::new(2).ok_or("0 is no id")?;
    let node = Node::builder(2)
        .reopen()
        .data_dir(new)
        .transport(network.endpoint(two))
        .start()?;
    let four = NodeId::new(4).ok_or("0 is no id")?;
    let joined = Node::builder(4)
        .join([2])
        .data_dir(path(4))
        .transport(network.endpoint(four))
        .start()?;
    let members = node.add_learner(four).wait_timeout(PATIENCE)?;
    println!(
        "voters {:?}, learners {:?}",
        members.voters, members.learners
    );
    let session = joined.session().open().wait_timeout(PATIENCE)?;
    let (data, _) = session.linearizable().get("/treasure").wait()?;
    println!("/treasure is still {}", String::from_utf8_lossy(&data));
    Ok(())
}

//! The words that the shell understands. What they do is the shell's affair.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};

/// A line that was typed.
#[derive(Parser, Debug)]
#[command(
    multicall = true,
    disable_help_flag = true,
    subcommand_required = true,
    override_usage = "COMMAND [ARGUMENTS]",
    help_template = "{subcommands}\n\nWords with spaces go in quotes. `help COMMAND` tells more about one."
)]
pub(crate) struct Line {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
#[command(disable_help_flag = true)]
pub(crate) enum Command {
    /// Create a znode
    Create(Create),
    /// Show a znode's data
    Get(Read),
    /// Set a znode's data
    Set {
        /// The znode
        path: String,
        /// What it is to hold
        data: String,
        /// Only if it has this version
        #[arg(long, short = 'v')]
        version: Option<i32>,
    },
    /// Delete a znode that has no children
    Delete {
        /// The znode
        path: String,
        /// Only if it has this version
        #[arg(long, short = 'v')]
        version: Option<i32>,
    },
    /// List a znode's children
    Ls {
        /// The znode
        #[arg(default_value = "/")]
        path: String,
        /// See every write that was answered before, wherever
        #[arg(long, short = 'l')]
        linearizable: bool,
    },
    /// Show what is known of a znode besides its data
    Stat(Read),
    /// Tell of changes of a znode, until `unwatch`
    Watch {
        /// The znode; it need not be there
        path: String,
        /// And of everything below it
        #[arg(long, short = 'r')]
        recursive: bool,
    },
    /// Tell no more of a znode's changes
    Unwatch {
        /// The znode
        path: String,
    },
    /// Hold a lock; waits for its turn
    Lock {
        /// The lock's path, on which all contenders agree
        path: String,
        /// Give up if anybody else holds it or waits for it
        #[arg(long, short = 't')]
        r#try: bool,
    },
    /// Release a lock that this shell holds
    Unlock {
        /// The lock's path
        path: String,
    },
    /// Catch up with every write that was answered before, wherever
    Sync,
    /// Show the shell's session
    Session,
    /// Show who takes part in the cluster
    Members,
    /// Show where this node stands
    Status,
    /// Let a node that was started with --join have the data, without a vote
    Add {
        /// The node
        id: u64,
        /// Where it is, as host:port, if this node doesn't know
        address: Option<String>,
    },
    /// Give a node a vote
    Promote {
        /// The node
        id: u64,
    },
    /// Take a node's vote; it keeps the data
    Demote {
        /// The node
        id: u64,
    },
    /// Take a node out of the cluster
    Remove {
        /// The node
        id: u64,
    },
    /// Give one node the place of another, in one step
    Replace {
        /// Who goes
        old: u64,
        /// Who comes: a node that was added
        new: u64,
    },
    /// Make another node the leader
    Transfer {
        /// The node
        to: u64,
    },
    /// Take this node out of the cluster
    Leave,
    /// Write a backup of everything to a file
    Backup {
        /// The file, which must not be there yet
        file: PathBuf,
    },
    /// Close the session and stop the node
    #[command(alias = "exit")]
    Quit,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("kind").args(["ephemeral", "container", "ttl_ms"]))]
pub(crate) struct Create {
    /// The znode; its parent must be there
    pub(crate) path: String,
    /// What it is to hold
    #[arg(default_value = "")]
    pub(crate) data: String,
    /// It vanishes with this shell's session
    #[arg(long, short = 'e')]
    pub(crate) ephemeral: bool,
    /// A number is appended, higher than any before
    #[arg(long, short = 's')]
    pub(crate) sequential: bool,
    /// It vanishes some time after its last child
    #[arg(long, short = 'c', conflicts_with = "sequential")]
    pub(crate) container: bool,
    /// It vanishes when it was not set for so long
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(i64).range(1..))]
    pub(crate) ttl_ms: Option<i64>,
}

#[derive(Args, Debug)]
pub(crate) struct Read {
    /// The znode
    pub(crate) path: String,
    /// See every write that was answered before, wherever
    #[arg(long, short = 'l')]
    pub(crate) linearizable: bool,
}

/// What a line asks for; `None` where it asks for nothing. What is wrong with it, or the help that it asks
/// for, is a text to be shown.
pub(crate) fn parse(line: &str) -> Result<Option<Command>, String> {
    let words = shlex::split(line).ok_or("error: a quote is not closed")?;
    if words.is_empty() {
        return Ok(None);
    }
    match Line::try_parse_from(words) {
        Ok(line) => Ok(Some(line.command)),
        Err(error) => Err(error.to_string().trim_end().to_owned()),
    }
}

/// The words that a line may begin with, each with whether a path follows.
pub(crate) fn names() -> Vec<(String, bool)> {
    let command = <Line as clap::CommandFactory>::command();
    let mut names: Vec<_> = command
        .get_subcommands()
        .map(|command| {
            let has_path = command.get_arguments().any(|word| word.get_id() == "path");
            (command.get_name().to_owned(), has_path)
        })
        .collect();
    names.push(("help".to_owned(), false));
    names
}

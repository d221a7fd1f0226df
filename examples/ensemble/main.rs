//! One node of a cluster, with a shell: run once per process, on one machine or several.
//!
//! ```sh
//! PEERS=1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003
//! cargo run --example ensemble -- --id 1 --peers $PEERS --data /tmp/ensemble-1
//! ```
//!
//! and so on with `--id 2` and `--id 3` in other terminals. README.md shows what can be done then;
//! `session.sh` does it. Where the input is no terminal it is a list of commands, and each is answered by a
//! line or a few. What happens without being asked for is told on lines that begin with `*`.

mod commands;
mod completion;
mod events;
mod options;
mod output;
mod shell;
mod terminal;
mod texts;

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;

use options::Options;
use shell::Shell;
use terminal::Terminal;

pub(crate) type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ensemble: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), AnyError> {
    let started = options.start()?;
    let (id, cluster) = (started.node.id(), started.node.cluster());
    let (mut terminal, output) = Terminal::open(id, started.node.handle())?;
    output.answer(format_args!(
        "node {id} of cluster {cluster} listens at {}",
        started.address
    ))?;
    events::tell_of_node(started.node.events(), &output);
    let mut shell = Shell::new(started, options, output.clone(), terminal.completion());
    while let Some(line) = terminal.next_line()? {
        match commands::parse(&line) {
            Ok(None) => {}
            Ok(Some(commands::Command::Quit)) => break,
            Ok(Some(command)) => shell.execute(command)?,
            Err(text) => output.answer(text)?,
        }
    }
    shell.quit();
    Ok(())
}

//! Where lines come from: a person at a terminal, with history and completion, or a pipe.

use std::io::{self, BufRead as _, IsTerminal as _};

use quorate::{NodeHandle, NodeId};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor, ExternalPrinter};

use crate::AnyError;
use crate::completion::{Completion, Reading};
use crate::output::Output;

pub(crate) struct Terminal {
    node: NodeHandle,
    prompt_of: NodeId,
    lines: Lines,
    reading: Reading,
}

enum Lines {
    Typed(Box<Editor<Completion, MemHistory>>),
    Piped,
}

impl Terminal {
    pub(crate) fn open(id: NodeId, node: NodeHandle) -> Result<(Terminal, Output), AnyError> {
        let reading = Reading::default();
        let (lines, printer) = match io::stdin().is_terminal() && io::stdout().is_terminal() {
            false => (Lines::Piped, None),
            true => {
                let config = Config::builder().auto_add_history(true).build();
                let mut editor = Editor::with_history(config, MemHistory::new())?;
                editor.set_helper(Some(Completion::new(reading.clone())));
                let printer: Box<dyn ExternalPrinter + Send> =
                    Box::new(editor.create_external_printer()?);
                (Lines::Typed(Box::new(editor)), Some(printer))
            }
        };
        let terminal = Terminal {
            node,
            prompt_of: id,
            lines,
            reading,
        };
        Ok((terminal, Output::new(printer)))
    }

    /// Where the completion of paths reads.
    pub(crate) fn completion(&self) -> Reading {
        self.reading.clone()
    }

    /// The next line; `None` at the end.
    pub(crate) fn next_line(&mut self) -> Result<Option<String>, AnyError> {
        let editor = match &mut self.lines {
            Lines::Typed(editor) => editor,
            Lines::Piped => {
                let mut line = String::new();
                let bytes = io::stdin().lock().read_line(&mut line)?;
                return Ok((bytes > 0).then_some(line));
            }
        };
        let stopped = match self.node.status().stopped {
            Some(_) => " (stopped)",
            None => "",
        };
        let prompt = format!("ensemble-{}{stopped}> ", self.prompt_of);
        loop {
            match editor.readline(&prompt) {
                Ok(line) => return Ok(Some(line)),
                // Ctrl-C takes back what was typed, Ctrl-D ends.
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

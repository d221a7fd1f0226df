//! Where the shell's words go. The invariant: what comes without being asked for never destroys the line
//! that is being typed.

use std::fmt::{self, Display};
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustyline::ExternalPrinter;

/// A handle; clones write to the same place.
#[derive(Clone)]
pub(crate) struct Output(Arc<Mutex<Way>>);

enum Way {
    Plain,
    /// Past the line that is being typed.
    Editor(Box<dyn ExternalPrinter + Send>),
    /// Nothing more is told.
    Hushed,
}

impl Output {
    /// With the editor's printer, where there is an editor.
    pub(crate) fn new(printer: Option<Box<dyn ExternalPrinter + Send>>) -> Output {
        let way = printer.map_or(Way::Plain, Way::Editor);
        Output(Arc::new(Mutex::new(way)))
    }

    /// The answer to a command. Fails when nobody reads any more.
    pub(crate) fn answer(&self, text: impl Display) -> io::Result<()> {
        let _turn = self.way();
        write_line(format_args!("{text}"))
    }

    /// Something that has happened, whenever that is.
    pub(crate) fn event(&self, text: impl Display) {
        // Where nobody reads any more the next answer fails.
        match &mut *self.way() {
            Way::Plain => drop(write_line(format_args!("* {text}"))),
            Way::Editor(printer) => drop(printer.print(format!("* {text}\n"))),
            Way::Hushed => {}
        }
    }

    /// Tells of nothing more that happens: the end was asked for.
    pub(crate) fn hush(&self) {
        *self.way() = Way::Hushed;
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_line(line: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

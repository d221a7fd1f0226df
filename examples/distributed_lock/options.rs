//! The command line.

use std::fmt;
use std::path::{Path, PathBuf};

use quorate::NodeBuilder;
use quorate::storage::{Log, LogOptions, Memory, Sled, SledOptions};

use crate::AnyError;

pub(crate) struct Options {
    pub(crate) stores: Stores,
}

/// Where the nodes keep their data.
pub(crate) enum Stores {
    Log(Directory),
    Sled(Directory),
    /// A clone shares its contents: a node that is started again finds them.
    Memory([Memory; 3]),
}

pub(crate) enum Directory {
    Given(PathBuf),
    /// Deleted at the end.
    Temporary(tempfile::TempDir),
}

impl Options {
    pub(crate) fn parse() -> Result<Options, AnyError> {
        use lexopt::prelude::*;
        let (mut dir, mut storage) = (None, "log".to_string());
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("data") => dir = Some(PathBuf::from(parser.value()?)),
                Long("storage") => storage = parser.value()?.string()?,
                _ => return Err(argument.unexpected().into()),
            }
        }
        let stores = match storage.as_str() {
            "log" => Stores::Log(Directory::new(dir)?),
            "sled" => Stores::Sled(Directory::new(dir)?),
            "memory" if dir.is_some() => return Err("memory keeps nothing in --data".into()),
            "memory" => Stores::Memory(Default::default()),
            other => return Err(format!("--storage is log, sled or memory, not {other}").into()),
        };
        Ok(Options { stores })
    }
}

impl Directory {
    fn new(given: Option<PathBuf>) -> Result<Directory, AnyError> {
        Ok(match given {
            Some(path) => Directory::Given(path),
            None => Directory::Temporary(tempfile::tempdir()?),
        })
    }

    fn path(&self) -> &Path {
        match self {
            Directory::Given(path) => path,
            Directory::Temporary(dir) => dir.path(),
        }
    }

    fn of_node(&self, id: u64) -> Result<PathBuf, AnyError> {
        let path = self.path().join(format!("node-{id}"));
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Stores {
    /// Opens a node's store and gives it to the builder.
    pub(crate) fn give(&self, id: u64, builder: NodeBuilder) -> Result<NodeBuilder, AnyError> {
        Ok(match self {
            Stores::Log(dir) => {
                builder.storage(Log::open(dir.of_node(id)?, LogOptions::default())?)
            }
            Stores::Sled(dir) => {
                builder.storage(Sled::open(dir.of_node(id)?, SledOptions::default())?)
            }
            Stores::Memory(stores) => builder.storage(stores[id as usize - 1].clone()),
        })
    }
}

impl fmt::Display for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stores::Log(dir) => write!(f, "{} (log)", dir.path().display()),
            Stores::Sled(dir) => write!(f, "{} (sled)", dir.path().display()),
            Stores::Memory(_) => f.write_str("memory"),
        }
    }
}

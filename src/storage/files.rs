//! The file operations that the built-in stores use, as a trait, so that a simulator can tear, lose
//! and fail them.
//!
//! Knows no format. The contract is POSIX's, read strictly: written bytes are durable after
//! [`FileHandle::sync_data`], names (created, renamed, removed) after [`Files::sync_dir`], and
//! nothing is before.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The operations on names.
pub trait Files: Send + Sync + fmt::Debug {
    /// Makes a directory with its parents, durably; one that is there already is fine.
    ///
    /// # Errors
    /// The operating system's.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on the file `path`, made where it is missing. It is given back when
    /// what is returned is dropped. `None`: somebody else has it.
    ///
    /// # Errors
    /// The operating system's.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;

    /// Makes an empty file, in place of one of that name.
    ///
    /// # Errors
    /// The operating system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;

    /// Opens a file that is there, for reading and writing.
    ///
    /// # Errors
    /// The operating system's; [`io::ErrorKind::NotFound`] where there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>>;

    /// Renames a file within its directory, in place of one that has the new name.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Who has it open can go on reading it.
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names of the files in a directory, sorted.
    ///
    /// # Errors
    /// The operating system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The operations on one open file; any thread may use it, offsets are absolute.
pub trait FileHandle: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, growing the file where needed.
    ///
    /// # Errors
    /// The operating system's; some of the bytes may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, with the length where it grew.
    ///
    /// # Errors
    /// The operating system's. Afterwards nobody knows what the disk holds: never retry.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// The operating system's.
    fn len_bytes(&self) -> io::Result<u64>;
}

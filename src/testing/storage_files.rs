//! `FaultyFiles`: a disk in memory that loses, tears and refuses.
//!
//! Every file has a *live* content, which reads see, and a *durable* one, which a crash leaves; in
//! between lie the writes that were not synced. The same holds for names. A crash keeps the durable
//! part and a seeded choice of the rest: a write may be there whole, in part or not at all, in any
//! combination with others, and so may a rename.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::files::{FileHandle, Files};

/// The unit that a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// A disk in memory; a clone is another handle to the same disk.
#[derive(Clone, Default)]
pub struct FaultyFiles {
    image: Arc<Mutex<Image>>,
}

impl fmt::Debug for FaultyFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyFiles")
    }
}

/// Which operations fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// The one with this number, and no other.
    Once(u64),
    /// All from this number on, as if the power had gone.
    From(u64),
}

#[derive(Default)]
struct Image {
    files: BTreeMap<u64, File>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names that no sync of their directory has made durable, oldest first.
    unsynced_names: Vec<NameChange>,
    locked: BTreeSet<PathBuf>,
    /// Counts crashes: a handle of an earlier life can do nothing any more.
    life: u64,
    /// Counts writes, syncs and changes of names.
    operations: u64,
    fault: Option<Fault>,
    ignores_syncs: bool,
    capacity_bytes: Option<u64>,
}

#[derive(Default, Clone)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// One rename, creation or removal.
struct NameChange {
    dir: PathBuf,
    removed: Option<PathBuf>,
    set: Option<(PathBuf, u64)>,
}

/// What a crash leaves of what was not synced.
#[derive(Clone, Copy)]
enum Survival {
    Nothing,
    Everything,
    /// Each piece by itself: whole, torn, or not at all.
    Parts,
}

/// A small generator (SplitMix64): a seed gives the same crash everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

impl FaultyFiles {
    /// An empty disk without faults.
    pub fn new() -> FaultyFiles {
        FaultyFiles::default()
    }

    /// How many writes, syncs and changes of names there have been.
    pub fn operations(&self) -> u64 {
        self.image.lock().operations
    }

    /// Lets the `nth` operation from now (0: the next) fail, and no other. A write that fails may
    /// have written a part.
    pub fn fail_once(&self, nth: u64) {
        let mut image = self.image.lock();
        image.fault = Some(Fault::Once(image.operations + nth));
    }

    /// Lets all operations from the `nth` from now on fail, until [`FaultyFiles::crash`].
    pub fn fail_from(&self, nth: u64) {
        let mut image = self.image.lock();
        image.fault = Some(Fault::From(image.operations + nth));
    }

    /// Lets no operation fail any more.
    pub fn heal(&self) {
        self.image.lock().fault = None;
    }

    /// From now on syncs answer `Ok` and make nothing durable, as a lying disk does.
    pub fn ignore_syncs(&self) {
        self.image.lock().ignores_syncs = true;
    }

    /// Files can't grow beyond this many bytes in all.
    pub fn limit_bytes(&self, capacity_bytes: Option<u64>) {
        self.image.lock().capacity_bytes = capacity_bytes;
    }

    /// How long the files are in all.
    pub fn used_bytes(&self) -> u64 {
        self.image.lock().used_bytes()
    }

    /// The process is gone, the kernel is not: what was written stays, handles and locks don't.
    pub fn kill(&self) {
        let mut image = self.image.lock();
        image.life += 1;
        image.fault = None;
        image.locked.clear();
    }

    /// The power is gone: what was synced stays, and of the rest what `seed` says.
    pub fn crash(&self, seed: u64) {
        self.kill();
        let mut random = Random(seed);
        let survival = match random.below(6) {
            0 => Survival::Nothing,
            1 => Survival::Everything,
            _ => Survival::Parts,
        };
        self.image.lock().crash(&mut random, survival);
    }

    /// The power is gone, and with it all that was not synced.
    pub fn crash_losing_all(&self) {
        self.kill();
        self.image.lock().crash(&mut Random(0), Survival::Nothing);
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.image.lock().names.keys().cloned().collect()
    }

    /// The live content of a file; empty where there is none.
    pub fn content(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let image = self.image.lock();
        let number = image.names.get(path.as_ref());
        number
            .and_then(|number| image.files.get(number))
            .map(|file| file.live.clone())
            .unwrap_or_default()
    }

    /// Puts a content in a file's place, durably: damage, or a repair of it.
    pub fn set_content(&self, path: impl AsRef<Path>, content: Vec<u8>) {
        let mut image = self.image.lock();
        let number = image.next_file;
        image.next_file += 1;
        image.files.insert(
            number,
            File {
                live: content.clone(),
                durable: content,
                unsynced: Vec::new(),
            },
        );
        image.names.insert(path.as_ref().to_owned(), number);
        image.durable_names.insert(path.as_ref().to_owned(), number);
    }

    /// Removes a file, durably: damage.
    pub fn delete(&self, path: impl AsRef<Path>) {
        let mut image = self.image.lock();
        image.names.remove(path.as_ref());
        image.durable_names.remove(path.as_ref());
    }

    /// A copy of the disk as it is, with its own life from here on, and without faults.
    pub fn fork(&self) -> FaultyFiles {
        let image = self.image.lock();
        let copy = FaultyFiles::new();
        for (path, number) in &image.names {
            copy.set_content(
                path,
                image
                    .files
                    .get(number)
                    .map(|file| file.live.clone())
                    .unwrap_or_default(),
            );
        }
        copy
    }
}

impl Image {
    /// Counts an operation, and fails it where it is to fail.
    fn operate(&mut self, life: u64) -> io::Result<()> {
        if life != self.life {
            return Err(io::Error::other("the process of this handle is gone"));
        }
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some(Fault::Once(at)) if at == number => Err(io::Error::other("an injected fault")),
            Some(Fault::From(at)) if at <= number => Err(io::Error::other("an injected fault")),
            _ => Ok(()),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|file| file.live.len() as u64).sum()
    }

    fn change_name(&mut self, change: NameChange) {
        if let Some(removed) = &change.removed {
            self.names.remove(removed);
        }
        if let Some((path, number)) = &change.set {
            self.names.insert(path.clone(), *number);
        }
        self.unsynced_names.push(change);
    }

    fn write(&mut self, number: u64, bytes: &[u8], offset: usize, life: u64) -> io::Result<()> {
        let allowed = self.operate(life);
        if life != self.life {
            return allowed;
        }
        let growth = self.files.get(&number).map_or(0, |file| {
            (offset + bytes.len()).saturating_sub(file.live.len())
        });
        if self
            .capacity_bytes
            .is_some_and(|capacity| growth > 0 && self.used_bytes() + growth as u64 > capacity)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(file) = self.files.get_mut(&number) {
            // A write that fails has reached the page cache by half, and can so reach the disk.
            let written = if allowed.is_ok() {
                bytes
            } else {
                &bytes[..bytes.len() / 2]
            };
            overwrite(&mut file.live, offset, written);
            file.unsynced.push((offset, written.to_vec()));
        }
        allowed
    }

    fn crash(&mut self, random: &mut Random, survival: Survival) {
        for change in std::mem::take(&mut self.unsynced_names) {
            let is_kept = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Parts => random.below(2) == 0,
            };
            if is_kept {
                make_durable(&mut self.durable_names, &change);
            }
        }
        for file in self.files.values_mut() {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                match survival {
                    Survival::Nothing => {}
                    Survival::Everything => overwrite(&mut file.durable, offset, &bytes),
                    Survival::Parts => tear(&mut file.durable, offset, &bytes, random),
                }
            }
            file.live.clone_from(&file.durable);
        }
        self.names = self.durable_names.clone();
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|number, _| named.contains(number));
    }
}

fn make_durable(names: &mut BTreeMap<PathBuf, u64>, change: &NameChange) {
    if let Some(removed) = &change.removed {
        names.remove(removed);
    }
    if let Some((path, number)) = &change.set {
        names.insert(path.clone(), *number);
    }
}

fn overwrite(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// Writes a part of `bytes`: all, none, a prefix, or some of its sectors.
fn tear(content: &mut Vec<u8>, offset: usize, bytes: &[u8], random: &mut Random) {
    match random.below(5) {
        0 => {}
        1 => overwrite(content, offset, bytes),
        2 => overwrite(content, offset, &bytes[..random.below(bytes.len() + 1)]),
        _ => {
            let mut begin = 0;
            while begin < bytes.len() {
                let sector_end =
                    (offset + begin) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES - offset;
                let end = sector_end.min(bytes.len());
                if random.below(2) == 0 {
                    overwrite(content, offset + begin, &bytes[begin..end]);
                }
                begin = end;
            }
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} is not there", path.display()),
    )
}

impl FaultyFiles {
    fn handle(&self, image: &Image, number: u64) -> Arc<dyn FileHandle> {
        Arc::new(FaultyHandle {
            files: self.clone(),
            number,
            life: image.life,
        })
    }
}

impl Files for FaultyFiles {
    /// Directories are there, always.
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let mut image = self.image.lock();
        if !image.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(FaultyLock {
            files: self.clone(),
            path: path.to_owned(),
            life: image.life,
        })))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let mut image = self.image.lock();
        let life = image.life;
        image.operate(life)?;
        let number = image.next_file;
        image.next_file += 1;
        image.files.insert(number, File::default());
        image.change_name(NameChange {
            dir: parent(path),
            removed: None,
            set: Some((path.to_owned(), number)),
        });
        Ok(self.handle(&image, number))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let image = self.image.lock();
        let number = *image.names.get(path).ok_or_else(|| not_found(path))?;
        Ok(self.handle(&image, number))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut image = self.image.lock();
        let life = image.life;
        image.operate(life)?;
        let number = *image.names.get(from).ok_or_else(|| not_found(from))?;
        let set = Some((to.to_owned(), number));
        image.change_name(NameChange {
            dir: parent(to),
            removed: Some(from.to_owned()),
            set,
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut image = self.image.lock();
        let life = image.life;
        image.operate(life)?;
        image.names.get(path).ok_or_else(|| not_found(path))?;
        image.change_name(NameChange {
            dir: parent(path),
            removed: Some(path.to_owned()),
            set: None,
        });
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let image = self.image.lock();
        let in_dir = image.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut image = self.image.lock();
        let life = image.life;
        image.operate(life)?;
        if image.ignores_syncs {
            return Ok(());
        }
        let changes = std::mem::take(&mut image.unsynced_names);
        let (synced, rest): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.dir == dir);
        image.unsynced_names = rest;
        for change in &synced {
            make_durable(&mut image.durable_names, change);
        }
        Ok(())
    }
}

/// The lock on a path, given back when it is dropped, unless a crash has taken it before.
struct FaultyLock {
    files: FaultyFiles,
    path: PathBuf,
    life: u64,
}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut image = self.files.image.lock();
        if image.life == self.life {
            image.locked.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct FaultyHandle {
    files: FaultyFiles,
    number: u64,
    life: u64,
}

impl FileHandle for FaultyHandle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let image = self.files.image.lock();
        let live = image
            .files
            .get(&self.number)
            .map_or(&[][..], |file| &file.live);
        let rest = live.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.files
            .image
            .lock()
            .write(self.number, bytes, offset as usize, self.life)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.files.image.lock();
        image.operate(self.life)?;
        if image.ignores_syncs {
            return Ok(());
        }
        if let Some(file) = image.files.get_mut(&self.number) {
            for (offset, bytes) in std::mem::take(&mut file.unsynced) {
                overwrite(&mut file.durable, offset, &bytes);
            }
        }
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let image = self.files.image.lock();
        Ok(image
            .files
            .get(&self.number)
            .map_or(0, |file| file.live.len() as u64))
    }
}

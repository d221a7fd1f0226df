//! A file system in a file, mounted through a loop device.
//!
//! It knows nothing of what lies on it. It is unmounted when it is dropped.
#![allow(unreachable_pub)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for a store with small files, and for an ext4 journal.
const IMAGE_BYTES: u64 = 64 << 20;

pub struct Image {
    file: PathBuf,
    mount_point: PathBuf,
}

impl Image {
    /// Why this machine can't mount images, where it can't.
    pub fn is_possible() -> Result<(), String> {
        if cfg!(not(target_os = "linux")) {
            return Err("it takes Linux".to_owned());
        }
        let parent = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = Image::try_new(&parent.path().join("image"))?;
        drop(image);
        Ok(())
    }

    /// Makes a file system in this file, and mounts it.
    pub fn new(file: &Path) -> Image {
        Image::try_new(file).expect("an image")
    }

    fn try_new(file: &Path) -> Result<Image, String> {
        std::fs::File::create(file)
            .and_then(|created| created.set_len(IMAGE_BYTES))
            .map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(file))?;
        Image::mount(file)
    }

    /// The journal is committed for syncs alone, at least for so many seconds.
    fn mount(file: &Path) -> Result<Image, String> {
        let mut mount_point = file.as_os_str().to_owned();
        mount_point.push(".mounted");
        let mount_point = PathBuf::from(mount_point);
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        run(Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,commit=300"])
            .arg(file)
            .arg(&mount_point))?;
        Ok(Image {
            file: file.to_owned(),
            mount_point,
        })
    }

    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// What the disk holds at this moment, mounted as after a power loss: its journal is replayed.
    pub fn copy(&self) -> Image {
        let file = self.file.with_extension("copy");
        std::fs::copy(&self.file, &file).expect("a copy of the image");
        Image::mount(&file).expect("a file system that mounts")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Whoever has files open there is about to end; the device goes with the last of them.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.mount_point)) {
            eprintln!("{error}");
        }
        let _ = std::fs::remove_dir(&self.mount_point);
        let _ = std::fs::remove_file(&self.file);
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Says that a test is skipped, where everybody sees it: the test harness shows what a test prints only
/// when it fails. `.ci/run` collects these lines.
pub fn say_skipped(what: &str) {
    let _ = std::io::stderr().write_all(format!("\nskipped: {what}\n").as_bytes());
}

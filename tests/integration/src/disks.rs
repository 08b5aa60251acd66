//! Disks that a test may fill, freeze or make read-only without harm to any other: an ext4 in a file. Needs a user who may
//! mount; where that is not so the test says what it could not try.

use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A small file system of its own.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: PathBuf,
    frozen: bool,
}

impl SmallDisk {
    /// Makes and mounts one of this size in `folder`. `None`: this user may not, or the tools are absent.
    #[must_use]
    pub fn new(folder: &Path, bytes: u64) -> Option<Self> {
        let image = folder.join("disk.ext4");
        let mounted = folder.join("disk");
        fs::create_dir_all(&mounted).expect("a directory");
        File::create(&image)
            .and_then(|file| file.set_len(bytes))
            .expect("a sparse file");
        let made = quietly(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"])
                .arg(&image),
        );
        let is_mounted = made
            && quietly(
                Command::new("mount")
                    .args(["-o", "loop"])
                    .arg(&image)
                    .arg(&mounted),
            );
        if !is_mounted {
            eprintln!("not tried: this user may not make and mount an ext4 in a file");
            return None;
        }
        Some(Self {
            mounted,
            frozen: false,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Takes this much of its room, really: the blocks are given to a file called `name`.
    pub fn fill(&self, name: &str, bytes: u64) {
        let file = self.mounted.join(name);
        assert!(
            quietly(
                Command::new("fallocate")
                    .arg("-l")
                    .arg(bytes.to_string())
                    .arg(&file)
            ),
            "{} has {bytes} bytes of room",
            self.mounted.display()
        );
    }

    /// Bytes that may still be written.
    #[must_use]
    pub fn available(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mounted).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Stops every write until [`SmallDisk::thaw`]. False: the tool is absent.
    pub fn freeze(&mut self) -> bool {
        self.frozen = quietly(Command::new("fsfreeze").arg("-f").arg(&self.mounted));
        if !self.frozen {
            eprintln!("not tried: no disk may be frozen here");
        }
        self.frozen
    }

    /// Lets writes go on.
    pub fn thaw(&mut self) {
        if self.frozen {
            self.frozen = !quietly(Command::new("fsfreeze").arg("-u").arg(&self.mounted));
            assert!(!self.frozen, "{} thaws", self.mounted.display());
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.frozen {
            quietly(Command::new("fsfreeze").arg("-u").arg(&self.mounted));
        }
        let _ = unmount(&self.mounted, UnmountFlags::DETACH);
    }
}

/// A directory that appears again elsewhere, read-only.
#[derive(Debug)]
pub struct ReadOnlyView {
    at: PathBuf,
}

impl ReadOnlyView {
    /// Mounts one. `None`: this user may not.
    #[must_use]
    pub fn new(of: &Path, at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).expect("a directory");
        let mounted = mount_bind(of, &at).map(|()| Self { at });
        let view = mounted.and_then(|view| {
            mount_remount(&view.at, MountFlags::BIND | MountFlags::RDONLY, "").map(|()| view)
        });
        if view.is_err() {
            eprintln!("not tried: this user may not mount a read-only view");
        }
        view.ok()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for ReadOnlyView {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

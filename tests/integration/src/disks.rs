//! Disks that a test may fill, freeze or make read-only without harm to any other: an ext4 in a file. Needs a user who may
//! mount; where that is not so the test says what it could not try.

use crate::HANG;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A small file system of its own.
#[derive(Debug)]
pub struct SmallDisk {
    mounted: PathBuf,
    /// Thaws it, while it is frozen.
    thaws: Option<Child>,
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
        // Where it can be had it must be: a test that goes without in silence shows nothing.
        let could = rustix::process::geteuid().is_root() && Path::new("/dev/loop-control").exists();
        assert!(
            is_mounted || !could,
            "root has a loop device here, and no ext4 in a file: is mkfs.ext4 there, and may this container mount?"
        );
        if !is_mounted {
            eprintln!("not tried: this user may not make and mount an ext4 in a file");
            return None;
        }
        Some(Self {
            mounted,
            thaws: None,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// Leaves no more room than this: the blocks of the rest are given to a file called `name`, whoever else takes and gives
    /// back some meanwhile.
    pub fn leave(&self, name: &str, bytes: u64) {
        let file = self.mounted.join(name);
        let begun = Instant::now();
        loop {
            let taken = self.available().saturating_sub(bytes);
            if taken == 0 {
                return;
            }
            let held = fs::metadata(&file).map_or(0, |it| it.blocks() * 512);
            // It gets less than that where somebody else was faster.
            quietly(
                Command::new("fallocate")
                    .args(["-o", &held.to_string(), "-l", &taken.to_string()])
                    .arg(&file),
            );
            let hangs = begun.elapsed() > HANG;
            assert!(!hangs, "{} never is so full", self.mounted.display());
        }
    }

    /// Takes all of its room for a file called `name`, but for a few blocks that the file system keeps for itself, whoever
    /// else takes and gives back some meanwhile.
    pub fn fill_up(&self, name: &str) {
        const KEPT_MAX: u64 = 16 * 1024;
        let to = format!("of={}", self.mounted.join(name).display());
        let begun = Instant::now();
        loop {
            // It ends when there is no room any more, which is an error to it.
            quietly(Command::new("dd").args([
                "if=/dev/zero",
                &to,
                "bs=64K",
                "oflag=append",
                "conv=notrunc,fsync",
            ]));
            if self.available() <= KEPT_MAX {
                return;
            }
            let hangs = begun.elapsed() > HANG;
            assert!(!hangs, "{} never is full", self.mounted.display());
        }
    }

    /// Bytes that may still be written.
    #[must_use]
    pub fn available(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mounted).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    }

    /// Writes that were handed to the disk and that it has not done yet.
    #[must_use]
    pub fn writes_inflight(&self) -> u64 {
        let device = fs::metadata(&self.mounted).expect("it is mounted").dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let inflight = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/inflight"));
        let inflight = inflight.expect("a block device counts");
        let writes = inflight.split_whitespace().nth(1);
        writes
            .and_then(|count| count.parse().ok())
            .expect("reads and writes")
    }

    /// Writes everything that waits for it.
    pub fn sync(&self) {
        let folder = File::open(&self.mounted).expect("it is mounted");
        rustix::fs::syncfs(&folder).expect("it is whole");
    }

    /// Stops every write until [`SmallDisk::thaw`], or until somebody must believe that the test hangs, or until the test is
    /// gone: whatever becomes of it, no process is stuck for ever. False: the tool is absent.
    pub fn freeze(&mut self) -> bool {
        let frozen = quietly(Command::new("fsfreeze").arg("-f").arg(&self.mounted));
        if !frozen {
            eprintln!("not tried: no disk may be frozen here");
            return false;
        }
        let thaws = Command::new("sh")
            .arg("-c")
            .arg("timeout \"$2\" cat; exec fsfreeze -u \"$1\"")
            .arg("thaw")
            .arg(&self.mounted)
            .arg(HANG.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match thaws {
            Ok(thaws) => self.thaws = Some(thaws),
            Err(error) => {
                quietly(Command::new("fsfreeze").arg("-u").arg(&self.mounted));
                panic!("nobody would thaw {}: {error}", self.mounted.display());
            }
        }
        true
    }

    /// Lets writes go on.
    pub fn thaw(&mut self) {
        assert!(self.thaw_quietly(), "{} thaws", self.mounted.display());
    }

    fn thaw_quietly(&mut self) -> bool {
        self.thaws.take().is_none_or(|mut thaws| {
            drop(thaws.stdin.take());
            thaws.wait().is_ok_and(|status| status.success())
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.thaw_quietly();
        // Whoever is still on it loses it all the same.
        if unmount(&self.mounted, UnmountFlags::empty()).is_err() {
            let _ = unmount(&self.mounted, UnmountFlags::DETACH);
        }
    }
}

/// A disk whose own disk can be frozen: writes that were handed to it then stay on their way, while reads go on. Fields drop
/// in their order, and the upper one must be gone before the lower one, which is why thawing comes first.
#[derive(Debug)]
pub struct StalledDisk {
    upper: SmallDisk,
    lower: SmallDisk,
}

impl StalledDisk {
    /// Makes and mounts one of this size in `folder`. `None`: this user may not, or the tools are absent.
    #[must_use]
    pub fn new(folder: &Path, bytes: u64) -> Option<Self> {
        let lower = SmallDisk::new(folder, bytes * 2)?;
        let upper = SmallDisk::new(lower.path(), bytes)?;
        Some(Self { upper, lower })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.upper.path()
    }

    /// Writes everything that waits for it.
    pub fn sync(&self) {
        self.upper.sync();
    }

    /// Holds up every write from now on. False: the tool is absent.
    pub fn stall(&mut self) -> bool {
        self.lower.freeze()
    }

    /// Writes that are held up.
    #[must_use]
    pub fn writes_inflight(&self) -> u64 {
        self.upper.writes_inflight()
    }

    /// Lets writes go on.
    pub fn go_on(&mut self) {
        self.lower.thaw();
    }
}

impl Drop for StalledDisk {
    fn drop(&mut self) {
        let _ = self.lower.thaw_quietly();
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

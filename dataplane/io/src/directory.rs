//! A journal's directory: its lock, and whether its file system takes direct io. Opened once and held by whoever works on
//! the files, recovery first and the driver after it; the lock goes when the last of them does. The lock is the kernel's
//! (`flock`), so a crash never leaves one behind; the driver's ring holds it too, so that it never goes before the last
//! write of a process that was killed. J-17

use crate::syscall::{check, open_at, unlink_at};
use bytes::Bytes;
use std::ffi::{CStr, CString};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::region::aligned_zeroed;

/// The smallest unit that a disk moves: where a short direct read or write may end.
pub(crate) const SECTOR_BYTES: usize = 512;
const LOCK: &CStr = c"lock";
const PROBE: &CStr = c"probe";

/// The directory of one journal, locked against every other process and every other opener.
#[derive(Clone, Debug)]
pub struct JournalDirectory {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    folder: OwnedFd,
    direct_io: bool,
    direct_io_refused: Option<String>,
    /// Holds the lock by being open.
    lock: OwnedFd,
    #[cfg(feature = "disk-recording")]
    recorder: Option<crate::recorder::JournalRecorder>,
}

/// Why a journal's directory cannot be used.
#[derive(Debug)]
pub enum DirectoryError {
    /// Another process, or another part of this one, works on it: stop that first. Or a process that was killed did, and
    /// writes of it are still on their way to the disk: wait for them.
    InUse(PathBuf),
    /// It cannot be written: mend its permissions, or the mount that it lies on.
    NotWritable(PathBuf, io::Error),
    /// It cannot be made or opened.
    Unusable(PathBuf, io::Error),
}

impl fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "the directory {} is in use by another process: stop that one first",
                path.display()
            ),
            Self::NotWritable(path, error) => write!(
                f,
                "the directory {} cannot be written ({error}): mend its permissions or its mount",
                path.display()
            ),
            Self::Unusable(path, error) => write!(
                f,
                "the directory {} cannot be made or opened ({error})",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DirectoryError {}

impl JournalDirectory {
    /// Opens the directory, durably making it where it is absent, and locks it. `direct_io` asks to bypass the page
    /// cache; where the file system refuses, [`JournalDirectory::direct_io`] says so.
    ///
    /// # Errors
    /// In use, not writable, or not to be opened at all.
    pub fn open(path: &Path, direct_io: bool) -> Result<Self, DirectoryError> {
        make_durably(path).map_err(|error| classify(path, error))?;
        let name = CString::new(path.as_os_str().as_encoded_bytes())
            .map_err(|error| DirectoryError::Unusable(path.into(), error.into()))?;
        let folder = open_at(libc::AT_FDCWD, &name, libc::O_DIRECTORY | libc::O_RDONLY)
            .map_err(|error| classify(path, error))?;
        let lock = open_at(folder.as_raw_fd(), LOCK, libc::O_RDWR | libc::O_CREAT)
            .map_err(|error| classify(path, error))?;
        // SAFETY: takes no pointer.
        match check(unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DirectoryError::InUse(path.into()));
            }
            Err(error) => return Err(DirectoryError::Unusable(path.into(), error)),
        }
        let mut directory = Self {
            inner: Arc::new(Inner {
                path: path.into(),
                folder,
                direct_io: false,
                direct_io_refused: None,
                lock,
                #[cfg(feature = "disk-recording")]
                recorder: None,
            }),
        };
        if direct_io {
            directory.ask_direct_io();
        }
        Ok(directory)
    }

    /// Asks to bypass the page cache, as [`JournalDirectory::open`] does. It takes a write to find out, and a disk that
    /// does not answer holds that up for ever: whoever wants to know first whether it does opens without.
    ///
    /// # Panics
    /// When the directory was cloned already: whoever works on it works in one way.
    pub fn ask_direct_io(&mut self) {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody works on it yet");
        match probe_direct_io(inner.folder.as_raw_fd()) {
            Ok(()) => inner.direct_io = true,
            Err(error) => inner.direct_io_refused = Some(error.to_string()),
        }
    }

    /// Records what is done to its files from now on, and what is said over its driver's connections.
    ///
    /// # Panics
    /// When the directory was cloned already: a recording misses nothing.
    #[cfg(feature = "disk-recording")]
    pub fn record(&mut self, recording: &crate::recorder::Recording, name: &str) {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody works on it yet");
        inner.recorder = Some(recording.journal(name));
    }

    /// Where what is done is recorded, if it is.
    #[cfg(feature = "disk-recording")]
    pub(crate) fn recorder(&self) -> Option<&crate::recorder::JournalRecorder> {
        self.inner.recorder.as_ref()
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Whether its files bypass the page cache.
    #[must_use]
    pub fn direct_io(&self) -> bool {
        self.inner.direct_io
    }

    /// Why they do not although it was asked for.
    #[must_use]
    pub fn direct_io_refused(&self) -> Option<&str> {
        self.inner.direct_io_refused.as_deref()
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.inner.folder.as_raw_fd()
    }

    /// The open file that holds the lock.
    pub(crate) fn lock(&self) -> RawFd {
        self.inner.lock.as_raw_fd()
    }

    /// Flags for opening a file of the journal for reading and writing.
    pub(crate) fn open_flags(&self) -> libc::c_int {
        let direct = if self.inner.direct_io {
            libc::O_DIRECT
        } else {
            0
        };
        libc::O_RDWR | libc::O_CLOEXEC | direct
    }
}

/// A file's name as the kernel takes it.
pub(crate) fn file_name(file: JournalFile) -> CString {
    CString::new(file.to_string()).expect("a journal file's name has no zero byte")
}

/// What an errno means to a journal.
pub(crate) fn disk_error(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        libc::ENOENT => DiskError::Absent,
        other => DiskError::Io(other),
    }
}

/// Whether an open failed for want of a descriptor or of memory for one: the process is at its limit (`EMFILE`) or the
/// machine is (`ENFILE`, `ENOMEM`). The kernel finds that out before it touches the disk.
pub(crate) fn is_out_of_descriptors(errno: i32) -> bool {
    matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM)
}

/// What the errno of an open means to a journal.
pub(crate) fn open_error(errno: i32) -> DiskError {
    if is_out_of_descriptors(errno) {
        DiskError::NotOpened(errno)
    } else {
        disk_error(errno)
    }
}

/// One region of zeros, shared by all that write them. Aligned as direct io needs it.
pub(crate) fn zeros(len: usize) -> Bytes {
    aligned_zeroed(len).freeze()
}

fn classify(path: &Path, error: io::Error) -> DirectoryError {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            DirectoryError::NotWritable(path.into(), error)
        }
        _ => DirectoryError::Unusable(path.into(), error),
    }
}

/// Makes the directory and those above it, and makes their entries durable: a journal is worth as little as the entry of
/// the directory that it lies in.
fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_durably(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    fs::File::open(parent)?.sync_all()
}

fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Tries a direct write: some file systems take the flag at open and refuse the write, others refuse the flag.
fn probe_direct_io(folder: RawFd) -> io::Result<()> {
    let outcome = open_at(
        folder,
        PROBE,
        libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_DIRECT,
    )
    .and_then(|file| {
        let block = zeros(BLOCK_BYTES);
        // SAFETY: the pointer and the length describe `block`, which outlives the call.
        let written =
            unsafe { libc::pwrite(file.as_raw_fd(), block.as_ptr().cast(), block.len(), 0) };
        if written == block.len() as isize {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // It got as far as looking for room, so the write itself was welcome.
            error if is_no_space(&error) => Ok(()),
            error => Err(error),
        }
    });
    // Not even an entry has room: then the flag alone has to do. The lock is always there.
    let outcome = match outcome {
        Err(error) if is_no_space(&error) => {
            open_at(folder, LOCK, libc::O_RDWR | libc::O_DIRECT).map(drop)
        }
        outcome => outcome,
    };
    // The open alone may have made the file before it failed.
    match unlink_at(folder, PROBE) {
        Err(error) if outcome.is_ok() && error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => outcome,
    }
}

//! The files of a journal, what can go wrong with them, and the blocking port that recovery uses before a shard serves.
//! While it serves, a journal's io goes through `operation` alone.

use core::fmt;

/// A file of one journal. The driver maps it to a path; nobody else knows paths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JournalFile {
    /// Both copies of the superblock.
    Superblock,
    /// A segment. Its number is that of the file, which outlives the segment's life.
    Segment(u32),
    /// The index of a sealed segment, beside it.
    Footer(u32),
    /// A checkpoint part. Its number is never reused.
    Checkpoint(u64),
}

impl fmt::Display for JournalFile {
    /// The file's name in the journal's directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => write!(f, "superblock"),
            Self::Segment(file) => write!(f, "segment-{file:08}"),
            Self::Footer(file) => write!(f, "footer-{file:08}"),
            Self::Checkpoint(part) => write!(f, "checkpoint-{part:012}"),
        }
    }
}

impl JournalFile {
    /// Reads a file's name; `None` for a name that is none of a journal's.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "superblock" {
            return Some(Self::Superblock);
        }
        let (kind, number) = name.split_once('-')?;
        let file = match kind {
            "segment" => Self::Segment(number.parse().ok()?),
            "footer" => Self::Footer(number.parse().ok()?),
            "checkpoint" => Self::Checkpoint(number.parse().ok()?),
            _ => return None,
        };
        (file.to_string() == name).then_some(file)
    }
}

/// Why an operation on a file failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskError {
    /// No space left: free some, or let retention do so. Nothing was half written that counts.
    NoSpace,
    /// The file is not there.
    Absent,
    /// Fewer bytes than asked: the file ends early.
    Short,
    /// The device or the file system failed with this errno. On a journal's write or sync it is fatal.
    Io(i32),
    /// The file could not be opened, and was waited for: the process or the machine is out of descriptors, or of memory for
    /// one. No fault of the disk, and nothing was read or written. The errno.
    NotOpened(i32),
    /// The simulated machine lost power. Never seen outside the simulator.
    PowerLost,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => write!(f, "no space left on the device"),
            Self::Absent => write!(f, "the file is absent"),
            Self::Short => write!(f, "the file ends before what was asked for"),
            Self::Io(errno) => write!(f, "input/output failed with errno {errno}"),
            Self::NotOpened(errno) => write!(
                f,
                "no descriptor was left to open the file (errno {errno}): raise the limit of open files (ulimit -n, LimitNOFILE=, fs.file-max)"
            ),
            Self::PowerLost => write!(f, "the machine lost power"),
        }
    }
}

impl core::error::Error for DiskError {}

/// One journal's directory, blocking: for recovery and for the first start.
pub trait Disk {
    /// Every file of the journal that is there, in order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&mut self) -> Result<Vec<JournalFile>, DiskError>;

    /// A file's length in bytes.
    ///
    /// # Errors
    /// `Absent`, or what the file system said.
    fn size(&mut self, file: JournalFile) -> Result<u64, DiskError>;

    /// Fills `into` from `at`.
    ///
    /// # Errors
    /// `Short` when the file ends before `into` is full; its content is then unspecified.
    fn read(&mut self, file: JournalFile, at: u64, into: &mut [u8]) -> Result<(), DiskError>;

    /// Writes `bytes`, whole blocks at a block's place. Not durable before [`Disk::sync`].
    ///
    /// # Errors
    /// What the file system said.
    fn write(&mut self, file: JournalFile, at: u64, bytes: &[u8]) -> Result<(), DiskError>;

    /// Makes what was written to the file durable.
    ///
    /// # Errors
    /// What the file system said. Never called again for the same bytes.
    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError>;

    /// Creates the file (or empties it), writes `bytes` zeros, and makes it and its directory entry durable.
    ///
    /// # Errors
    /// `NoSpace`, or what the file system said.
    fn create(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError>;

    /// Cuts the file to `bytes`, durably.
    ///
    /// # Errors
    /// What the file system said.
    fn truncate(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError>;

    /// Removes the file, durably.
    ///
    /// # Errors
    /// What the file system said.
    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_ignored() {
        for file in [
            JournalFile::Superblock,
            JournalFile::Segment(0),
            JournalFile::Segment(u32::MAX),
            JournalFile::Footer(7),
            JournalFile::Checkpoint(u64::MAX),
        ] {
            assert_eq!(JournalFile::from_name(&file.to_string()), Some(file));
        }
        for name in [
            "",
            "segment",
            "segment-1",
            "segment-00000001.tmp",
            "lock",
            "footer--0000001",
            "checkpoint-+00000000001",
        ] {
            assert_eq!(JournalFile::from_name(name), None, "{name}");
        }
    }
}

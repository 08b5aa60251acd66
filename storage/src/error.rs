//! Why a journal refuses to open. Each reason is a sentence that names the file, the bytes, and what to do next. A journal
//! that refuses has changed nothing that matters: it can be looked at, repaired from a copy, and opened again.

use core::fmt;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::ids::SlotId;
use tiderace_base::position::Lsn;

/// Why a journal refuses to open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The disk failed an operation.
    Disk {
        /// On which file; none: the directory.
        file: Option<JournalFile>,
        /// What was being done.
        doing: &'static str,
        /// How it failed.
        error: DiskError,
    },
    /// The disk has no room for a file without which the journal cannot begin: a first start, or one whose spares are all
    /// used up.
    NoSpace {
        /// Which.
        file: JournalFile,
        /// How much room it needs.
        bytes: u64,
    },
    /// There are journal files, with data in them, and no superblock.
    NotEmptyNoSuperblock {
        /// One of them.
        file: JournalFile,
    },
    /// Neither copy of the superblock can be read.
    SuperblockDamaged,
    /// The journal was written by a newer version of the program.
    NewerVersion {
        /// The format's version in the superblock.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// Bytes that were acknowledged as durable fail their check.
    Damaged {
        /// In which file.
        file: JournalFile,
        /// From which byte of it.
        at: u64,
        /// How many bytes are in doubt.
        bytes: u64,
        /// The journal's place of the first of them.
        lsn: Lsn,
        /// The slots whose entries are known to be among them; empty: any slot may be.
        slots: Vec<SlotId>,
    },
    /// Neither checkpoint can be read, and the segments that could replace them are no longer kept.
    CheckpointDamaged {
        /// The newest checkpoint's last part.
        newest: u64,
        /// The previous checkpoint's last part.
        previous: u64,
    },
    /// The journal was created with another setting.
    SettingsMismatch {
        /// Which setting.
        what: &'static str,
        /// What the journal was created with.
        found: u64,
        /// What was asked for now.
        wanted: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk {
                file: Some(file),
                doing,
                error,
            } => write!(
                f,
                "{doing} {file} failed: {error}; check the disk, then start again"
            ),
            Self::Disk {
                file: None,
                doing,
                error,
            } => write!(
                f,
                "{doing} failed: {error}; check the disk, then start again"
            ),
            Self::NoSpace { file, bytes } => write!(
                f,
                "{file} needs {bytes} bytes and its file system has no room for them: free that much there, then start \
                 again; nothing that is kept was touched"
            ),
            Self::NotEmptyNoSuperblock { file } => write!(
                f,
                "{file} holds data but there is no superblock: restore the superblock from a copy of this directory, or \
                 move its files away to start empty"
            ),
            Self::SuperblockDamaged => write!(
                f,
                "both copies of the superblock are damaged: restore the superblock from a copy of this directory, or move \
                 its files away to start empty"
            ),
            Self::NewerVersion { found, known } => write!(
                f,
                "the journal has format version {found}, this program knows up to {known}: start the newer program that \
                 wrote it"
            ),
            Self::Damaged {
                file,
                at,
                bytes,
                lsn,
                slots,
            } => {
                write!(
                    f,
                    "{bytes} bytes from byte {at} of {file} (LSN {lsn}) were acknowledged and are damaged; entries of "
                )?;
                if slots.is_empty() {
                    write!(f, "any slot may be among them")?;
                } else {
                    write!(f, "slots")?;
                    for slot in slots {
                        write!(f, " {slot}")?;
                    }
                    write!(f, " are among them")?;
                }
                write!(
                    f,
                    ": restore {file} from a copy; nothing was changed or skipped"
                )
            }
            Self::CheckpointDamaged { newest, previous } => write!(
                f,
                "checkpoints {newest} and {previous} are damaged and the segments before them are gone: restore the \
                 checkpoint files from a copy"
            ),
            Self::SettingsMismatch {
                what,
                found,
                wanted,
            } => write!(
                f,
                "the journal was created with {what} {found}, not {wanted}: start with the setting that it was created with"
            ),
        }
    }
}

impl core::error::Error for OpenError {}

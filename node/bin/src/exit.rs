//! How the program ends: every reason has an exit code of its own, a sentence that says what happened and, where there
//! is one, the next thing to do. Scripts read the code, people read the sentence. docs/exit-codes.md lists the codes;
//! a test keeps it equal to the table here.

use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

/// Why the program ended. The codes are published: a reason keeps its number for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    Input,
    Unreachable,
    NoSuchStream,
    StreamExists,
    Refused,
    History,
    Verification,
    Config,
    DirectoryInUse,
    DirectoryUnusable,
    DirectoryNewer,
    DirectoryDamaged,
    DirectoryDiffers,
    AddressTaken,
    NoSpace,
    OpenFiles,
    JournalWrite,
    JournalSync,
    Superblock,
    Corruption,
    RingRefused,
    ThreadDied,
    DrainTimeout,
    WritesHang,
    NotAdmitted,
}

impl Exit {
    /// Every reason, by code.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 28] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Input,
        Self::Unreachable,
        Self::NoSuchStream,
        Self::StreamExists,
        Self::Refused,
        Self::History,
        Self::Verification,
        Self::Config,
        Self::DirectoryInUse,
        Self::DirectoryUnusable,
        Self::DirectoryNewer,
        Self::DirectoryDamaged,
        Self::DirectoryDiffers,
        Self::AddressTaken,
        Self::NoSpace,
        Self::OpenFiles,
        Self::JournalWrite,
        Self::JournalSync,
        Self::Superblock,
        Self::Corruption,
        Self::RingRefused,
        Self::ThreadDied,
        Self::DrainTimeout,
        Self::WritesHang,
        Self::NotAdmitted,
    ];

    /// The process's exit code. 70 to 74 and 78 are `tiderace_base::operation::Fatal`'s own.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Input => 10,
            Self::Unreachable => 20,
            Self::NoSuchStream => 21,
            Self::StreamExists => 22,
            Self::Refused => 23,
            Self::History => 24,
            Self::Verification => 30,
            Self::Config => 60,
            Self::DirectoryInUse => 61,
            Self::DirectoryUnusable => 62,
            Self::DirectoryNewer => 63,
            Self::DirectoryDamaged => 64,
            Self::DirectoryDiffers => 65,
            Self::AddressTaken => 66,
            Self::NoSpace => 67,
            Self::OpenFiles => 68,
            Self::JournalWrite => 70,
            Self::JournalSync => 71,
            Self::Superblock => 72,
            Self::Corruption => 73,
            Self::RingRefused => 74,
            Self::ThreadDied => 75,
            Self::DrainTimeout => 76,
            Self::WritesHang => 77,
            Self::NotAdmitted => 78,
        }
    }

    /// What the code means, as docs/exit-codes.md says it.
    #[cfg(test)]
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed for a reason without a code of its own; the message says which",
            Self::Usage => "the command line is wrong",
            Self::Input => {
                "the input of `produce` or `demo` cannot be read or parsed; the message names the line"
            }
            Self::Unreachable => "no node answers at that address",
            Self::NoSuchStream => "there is no such stream or partition",
            Self::StreamExists => "the stream exists already",
            Self::Refused => {
                "the node answered with another error; the message carries its name and number"
            }
            Self::History => {
                "the stream's history is not what was asked for: acknowledged records lost, diverged, or gone"
            }
            Self::Verification => "the demo saw a record lost, duplicated, reordered or changed",
            Self::Config => {
                "the configuration is wrong; the message names the key and where it stands"
            }
            Self::DirectoryInUse => "the data directory is in use by another process",
            Self::DirectoryUnusable => "the data directory cannot be created, read or written",
            Self::DirectoryNewer => "the data directory was written by a newer version",
            Self::DirectoryDamaged => "the data directory is damaged; nothing was changed",
            Self::DirectoryDiffers => {
                "the data directory was made with another number of shards or segment size"
            }
            Self::AddressTaken => "an address to listen on is taken, or not of this host",
            Self::NoSpace => "the disk is too full to start",
            Self::OpenFiles => "the limit of open files is too low for so many shards",
            Self::JournalWrite => "a write to a journal failed",
            Self::JournalSync => "a sync of a journal failed",
            Self::Superblock => "a superblock could not be written",
            Self::Corruption => "acknowledged bytes could not be read back",
            Self::RingRefused => "the kernel or a container refuses io_uring",
            Self::ThreadDied => "a thread of the node died: a bug, please report it with the log",
            Self::DrainTimeout => {
                "the drain took longer than `drain_timeout`; acknowledged events are safe"
            }
            Self::WritesHang => {
                "writes of a node that was killed still hang in the kernel, and may land on what a new one writes"
            }
            Self::NotAdmitted => "the zone does not let this node in as it is",
        }
    }
}

/// An end that is not success: the code, what happened, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    what: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            hint: None,
        }
    }

    /// Says what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// One line of JSON, for `-o json`.
    pub(crate) fn json(&self) -> String {
        #[derive(Serialize)]
        struct Shown<'a> {
            error: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            hint: Option<&'a str>,
            exit_code: u8,
        }
        let shown = Shown {
            error: &self.what,
            hint: self.hint.as_deref(),
            exit_code: self.exit.code(),
        };
        serde_json::to_string(&shown).unwrap_or_else(|_| self.to_string())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  what to do: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::disk::DiskError;
    use tiderace_base::operation::Fatal;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/exit-codes.md");

    #[test]
    fn the_page_lists_every_code_and_no_other() {
        let page = std::fs::read_to_string(PAGE).expect("docs/exit-codes.md");
        let rows: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit())
            .collect();
        for exit in Exit::ALL {
            let row = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(
                rows.iter().any(|line| line.starts_with(&row)),
                "docs/exit-codes.md lacks: {row}"
            );
        }
        // The two signals are the kernel's.
        assert_eq!(rows.len(), Exit::ALL.len() + 2);
    }

    #[test]
    fn codes_are_unique_and_agree_with_the_dataplane() {
        let mut codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), Exit::ALL.len());
        assert!(codes.is_sorted());
        let disk = DiskError::Io(5);
        let pairs = [
            (Fatal::JournalWrite(disk), Exit::JournalWrite),
            (Fatal::JournalSync(disk), Exit::JournalSync),
            (Fatal::Superblock(disk), Exit::Superblock),
            (Fatal::Corruption(String::new()), Exit::Corruption),
            (Fatal::RingRefused(String::new()), Exit::RingRefused),
            (Fatal::NotAdmitted(""), Exit::NotAdmitted),
        ];
        for (fatal, exit) in pairs {
            assert_eq!(fatal.exit_code(), exit.code());
        }
    }

    #[test]
    fn a_failure_says_what_happened_and_what_to_do() {
        let failure = Failure::new(Exit::AddressTaken, "127.0.0.1:7450 is taken")
            .hint("stop the other process");
        assert_eq!(
            failure.to_string(),
            "127.0.0.1:7450 is taken\n  what to do: stop the other process"
        );
        assert_eq!(
            failure.json(),
            r#"{"error":"127.0.0.1:7450 is taken","hint":"stop the other process","exit_code":66}"#
        );
    }
}

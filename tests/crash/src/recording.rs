//! A recording in memory: the files of its folder, one for each start of the node, as one sequence of events. Refuses one
//! that does not begin with an empty data directory, because what was there before is in no recording.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use tiderace_io::recording::{Event, MAGIC, Record};

/// The folder of control's journal; those of the shards have a number behind theirs.
const CONTROL: &str = "control";

/// Why a recording cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// A file cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A file is no recording, or a damaged one.
    Malformed(PathBuf),
    /// It tells of no journal: was the program a recording build, and was it told where to?
    Empty(PathBuf),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => {
                write!(f, "{} cannot be read: {error}", path.display())
            }
            Self::Malformed(path) => write!(f, "{} is no recording", path.display()),
            Self::Empty(path) => write!(
                f,
                "the recordings in {} tell of no journal: make them with `tiderace-recording` and DISK_RECORDING",
                path.display()
            ),
        }
    }
}

impl std::error::Error for Unusable {}

/// What happened, and in which of the recording's journals.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The journal: shards by number, control behind them.
    pub journal: usize,
    /// Which start of the node.
    pub start: usize,
    /// What happened.
    pub event: Event,
}

/// A recording.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recording {
    /// How many shards the node has.
    pub shards: usize,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

impl Recording {
    /// Reads all files of a folder, in the order of the starts.
    ///
    /// # Errors
    /// A file is no recording, or there is none.
    pub fn read(folder: &Path) -> Result<Self, Unusable> {
        let unreadable = |error| Unusable::Unreadable(folder.to_owned(), error);
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .map_err(unreadable)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        paths.retain(|path| path.extension().is_some_and(|kind| kind == "recording"));
        paths.sort();
        let mut starts = Vec::with_capacity(paths.len());
        for path in paths {
            let bytes =
                std::fs::read(&path).map_err(|error| Unusable::Unreadable(path.clone(), error))?;
            let mut records = Vec::new();
            // A process that was killed at once may have left less than a beginning.
            if bytes.len() >= MAGIC.len() {
                let mut bytes = Bytes::from(bytes);
                let malformed = || Unusable::Malformed(path.clone());
                if bytes.split_to(MAGIC.len()) != MAGIC[..] {
                    return Err(malformed());
                }
                while let Some(record) = Record::decode(&mut bytes).map_err(|_| malformed())? {
                    records.push(record);
                }
            }
            starts.push(records);
        }
        Self::of(starts).ok_or_else(|| Unusable::Empty(folder.to_owned()))
    }

    /// Puts the records of each start into one sequence; none when they name no shard.
    fn of(starts: Vec<Vec<Record>>) -> Option<Self> {
        let names = starts.iter().flatten().filter_map(|record| {
            let Event::Opened { name } = &record.event else {
                return None;
            };
            (name != CONTROL).then_some(name.as_str())
        });
        let shards: BTreeMap<String, usize> = {
            let mut names: Vec<String> = names.map(str::to_owned).collect();
            names.sort();
            names.dedup();
            names.into_iter().zip(0..).collect()
        };
        let mut steps = Vec::with_capacity(starts.iter().map(Vec::len).sum());
        for (start, records) in starts.into_iter().enumerate() {
            // Each start gives its journals numbers of its own.
            let mut journals: BTreeMap<u16, usize> = BTreeMap::new();
            for Record { journal, event } in records {
                if let Event::Opened { name } = &event {
                    let place = shards.get(name).copied().unwrap_or(shards.len());
                    journals.insert(journal, place);
                }
                steps.push(Step {
                    journal: *journals.get(&journal)?,
                    start,
                    event,
                });
            }
        }
        (!shards.is_empty()).then_some(Self {
            shards: shards.len(),
            steps,
        })
    }
}

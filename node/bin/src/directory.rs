//! The data directory: one lock for the node, a `layout` file that fixes at the first start what can never change, and one
//! folder per journal. Opens everything or nothing, and turns each way it can fail into a sentence with what to do.
//!
//! `layout` is durable before the first journal's folder exists, so a first start that is cut off anywhere is repeated by
//! the next one.
//!
//! A node that was killed gives its locks back one by one: the directory's own when its process is gone, each journal's when
//! the last write to that journal is, which a disk may hold back for long (J-17). The first tells of a process, the others
//! of a disk.

use crate::exit::{Exit, Failure};
use crate::listen::TEARDOWN_MAX;
use crate::units;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tiderace_io::{DirectoryError, JournalDirectory};

/// The newest layout that this program knows.
const VERSION: i64 = 1;
const LAYOUT: &str = "layout";
const CONTROL: &str = "control";

/// What the first start fixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Layout {
    pub(crate) shards: u16,
    pub(crate) segment_bytes: u64,
}

/// What the configuration asks for; `None` takes what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Asked {
    pub(crate) shards: Option<u16>,
    pub(crate) segment_bytes: Option<u64>,
    /// Taken at a first start when nothing is asked for.
    pub(crate) otherwise: Layout,
}

/// A locked data directory with all its journals open.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    pub(crate) layout: Layout,
    pub(crate) is_new: bool,
    pub(crate) control: JournalDirectory,
    pub(crate) shards: Vec<JournalDirectory>,
    /// Whoever holds it is a process: no ring does.
    pub(crate) root: JournalDirectory,
}

/// How long a start waits for writes of a killed node that the disk has not answered. As long as the kernel gives an
/// NVMe or SCSI disk by default before it gives the request up.
const WRITES_MAX: Duration = Duration::from_secs(30);
/// How often a lock is tried.
const TRY_EVERY: Duration = Duration::from_millis(10);

impl DataDirectory {
    /// Locks the directory, durably making it where it is absent, and opens its journals.
    pub(crate) fn open(path: &Path, asked: Asked) -> Result<Self, Failure> {
        Self::open_within(path, asked, TEARDOWN_MAX, WRITES_MAX)
    }

    /// The same, waiting at most `process_max` for a process that has the directory and at most `writes_max` for all
    /// writes of one that had.
    fn open_within(
        path: &Path,
        asked: Asked,
        process_max: Duration,
        writes_max: Duration,
    ) -> Result<Self, Failure> {
        let mut opened = JournalDirectory::open(path, false);
        let begun = Instant::now();
        while matches!(opened, Err(DirectoryError::InUse(_))) && begun.elapsed() < process_max {
            std::thread::sleep(TRY_EVERY);
            opened = JournalDirectory::open(path, false);
        }
        let root = opened.map_err(|error| refused(path, &error))?;
        let found = read_layout(path)?;
        let layout = agree(path, found, asked)?;
        let is_new = found.is_none();
        if is_new {
            write_layout(path, layout).map_err(|error| unusable(path, &error))?;
        }
        let mut writes = WritesOfTheDead::new(writes_max);
        let mut journal = |name: &str| writes.open(&path.join(name));
        let mut control = journal(CONTROL)?;
        let mut shards = (0..layout.shards)
            .map(|shard| journal(&shard_folder(shard)))
            .collect::<Result<Vec<_>, _>>()?;
        writes.say_done();
        // It writes: only now, because on a disk that does not answer this start would hang without a word.
        control.ask_direct_io();
        shards.iter_mut().for_each(JournalDirectory::ask_direct_io);
        #[cfg(feature = "disk-recording")]
        record(path, &mut control, &mut shards)?;
        Ok(Self {
            layout,
            is_new,
            control,
            shards,
            root,
        })
    }
}

/// Records what is done to the journals, where the environment says to.
#[cfg(feature = "disk-recording")]
fn record(
    path: &Path,
    control: &mut JournalDirectory,
    shards: &mut [JournalDirectory],
) -> Result<(), Failure> {
    let recording =
        tiderace_io::Recording::from_environment().map_err(|error| unusable(path, &error))?;
    if let Some(recording) = recording {
        control.record(&recording, CONTROL);
        for (number, shard) in (0..).zip(shards) {
            shard.record(&recording, &shard_folder(number));
        }
    }
    Ok(())
}

/// Opens the journals once the writes of a node that was killed are done: the process is gone, or it would have the whole
/// directory's lock. J-17
struct WritesOfTheDead {
    most: Duration,
    /// When the first lock was found held.
    since: Option<Instant>,
}

impl WritesOfTheDead {
    const fn new(most: Duration) -> Self {
        Self { most, since: None }
    }

    fn open(&mut self, folder: &Path) -> Result<JournalDirectory, Failure> {
        loop {
            let opened = JournalDirectory::open(folder, false);
            let Err(error) = opened else {
                return opened.map_err(|error| refused(folder, &error));
            };
            if !matches!(error, DirectoryError::InUse(_)) {
                return Err(refused(folder, &error));
            }
            let most = units::show_duration(self.most);
            let since = *self.since.get_or_insert_with(|| {
                tracing::info!(
                    journal = %folder.display(),
                    "a node that was killed left writes behind that the disk has not answered yet: waits for them, at most {most}"
                );
                Instant::now()
            });
            if since.elapsed() >= self.most {
                return Err(Failure::new(
                    Exit::WritesHang,
                    format!("writes of a node that was killed still hang in the kernel after {most}: the lock of {} is theirs", folder.display()),
                )
                .hint("look at the disk (the kernel's log, a frozen file system, a lost path) and start again: starting before they end could let them overwrite newer events"));
            }
            std::thread::sleep(TRY_EVERY);
        }
    }

    /// Whoever was told of the waiting is told of its end.
    fn say_done(&self) {
        if let Some(since) = self.since {
            let waited_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(waited_ms, "the killed node's writes are done");
        }
    }
}

/// The folder of a shard's journal.
pub(crate) fn shard_folder(shard: u16) -> String {
    format!("shard-{shard:04}")
}

fn refused(path: &Path, error: &DirectoryError) -> Failure {
    match error {
        DirectoryError::InUse(_) => {
            Failure::new(Exit::DirectoryInUse, format!("the data directory {} is in use by another process", path.display()))
                .hint("stop that process (`fuser -v` on its file `lock` names it; one that was killed ends when its disk answers), or give this one another data_dir")
        }
        DirectoryError::NotWritable(_, error) | DirectoryError::Unusable(_, error) => unusable(path, error),
    }
}

/// Whether no start made this directory yet: how many shards it has is then for this one to say.
pub(crate) fn is_first_start(path: &Path) -> bool {
    !path.join(LAYOUT).exists()
}

/// The process's limit of open files, and the machine's, are reached (`EMFILE`, `ENFILE`).
const NO_DESCRIPTORS: [i32; 2] = [24, 23];

fn unusable(path: &Path, error: &io::Error) -> Failure {
    let is_limit = |code| NO_DESCRIPTORS.contains(&code);
    if error.raw_os_error().is_some_and(is_limit) {
        return Failure::new(
            Exit::OpenFiles,
            format!("the data directory {} cannot be opened: {error}", path.display()),
        )
        .hint("raise the limit of open files (ulimit -Hn, LimitNOFILE= of the service, --ulimit nofile= of the container), or run fewer shards");
    }
    if error.kind() == ErrorKind::StorageFull {
        return Failure::new(
            Exit::NoSpace,
            format!("no space is left for the data directory {}", path.display()),
        )
        .hint("free some space; nothing that is kept was touched");
    }
    let what = format!(
        "the data directory {} cannot be used: {error}",
        path.display()
    );
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => {
            "give it to the user that runs tiderace (chown), or choose another data_dir"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "its file system is mounted read-only: look at the kernel's log before mounting it again"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "something that is no directory has that name: choose another data_dir"
        }
        _ => "check its path, owner, mode and mount",
    };
    Failure::new(Exit::DirectoryUnusable, what).hint(hint)
}

fn damaged(path: &Path, what: &str) -> Failure {
    Failure::new(Exit::DirectoryDamaged, format!("the data directory {} is damaged: {what}", path.display()))
        .hint("nothing was changed; copy the directory away before anything else, then bring its file `layout` back from a backup")
}

/// What the first start wrote; `None` when there was none.
fn read_layout(path: &Path) -> Result<Option<Layout>, Failure> {
    let text = match fs::read_to_string(path.join(LAYOUT)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let journal = first_journal(path).map_err(|error| unusable(path, &error))?;
            return match journal {
                None => Ok(None),
                Some(name) => Err(damaged(
                    path,
                    &format!("it holds the journal {name} and no file `{LAYOUT}`"),
                )),
            };
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(damaged(path, "its file `layout` is no text"));
        }
        Err(error) => return Err(unusable(path, &error)),
    };
    let broken = |what: &str| damaged(path, &format!("its file `{LAYOUT}` {what}"));
    let table: toml::Table = text
        .parse()
        .map_err(|_| broken("is not what a start wrote"))?;
    let version = table
        .get("version")
        .and_then(toml::Value::as_integer)
        .ok_or_else(|| broken("names no version"))?;
    if version > VERSION {
        let what = format!(
            "the data directory {} has layout version {version}; this program knows {VERSION}",
            path.display()
        );
        return Err(Failure::new(Exit::DirectoryNewer, what)
            .hint("run the version that wrote it, or a newer one"));
    }
    let shards = table
        .get("shards")
        .and_then(toml::Value::as_integer)
        .and_then(|count| u16::try_from(count).ok());
    let segment = table
        .get("segment")
        .and_then(toml::Value::as_str)
        .and_then(|text| units::bytes(text).ok());
    match (version, shards, segment) {
        (VERSION, Some(shards), Some(segment_bytes)) if shards > 0 => Ok(Some(Layout {
            shards,
            segment_bytes,
        })),
        _ => Err(broken("is not what a start wrote")),
    }
}

fn first_journal(path: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == CONTROL || name.starts_with("shard-") {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What holds: the directory's own layout, which nobody can change, or what is asked for at a first start.
fn agree(path: &Path, found: Option<Layout>, asked: Asked) -> Result<Layout, Failure> {
    let Some(found) = found else {
        return Ok(Layout {
            shards: asked.shards.unwrap_or(asked.otherwise.shards),
            segment_bytes: asked.segment_bytes.unwrap_or(asked.otherwise.segment_bytes),
        });
    };
    let differs = |what: String| {
        Failure::new(Exit::DirectoryDiffers, format!("the data directory {} was made with {what}", path.display()))
            .hint("both are fixed at the first start: remove that key from the configuration, or use another directory")
    };
    match (asked.shards, asked.segment_bytes) {
        (Some(shards), _) if shards != found.shards => Err(differs(format!(
            "{} shard{}, and {shards} {} asked for",
            found.shards,
            if found.shards == 1 { "" } else { "s" },
            if shards == 1 { "is" } else { "are" },
        ))),
        (_, Some(bytes)) if bytes != found.segment_bytes => {
            let (there, asked) = (
                units::show_bytes(found.segment_bytes),
                units::show_bytes(bytes),
            );
            Err(differs(format!(
                "segments of {there}, and {asked} is asked for"
            )))
        }
        _ => Ok(found),
    }
}

fn write_layout(path: &Path, layout: Layout) -> io::Result<()> {
    let draft = path.join("layout.draft");
    let mut file = File::create(&draft)?;
    write!(
        file,
        "# Written at the first start. Never edit it: the journals beside it depend on it.\n\
         version = {VERSION}\nshards = {}\nsegment = \"{}\"\n",
        layout.shards,
        units::show_bytes(layout.segment_bytes)
    )?;
    file.sync_all()?;
    fs::rename(&draft, path.join(LAYOUT))?;
    File::open(path)?.sync_all()
}

/// The kind of file system that a path lies on, such as `ext4`; `None` when the kernel does not say.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mount_of(&mounts, &path)
}

fn mount_of(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        // The mount point is the fifth field; the kind follows a lone dash.
        let (mount, source) = line.split_once(" - ")?;
        let point = PathBuf::from(mount.split(' ').nth(4)?.replace("\\040", " "));
        let depth = point.components().count();
        // Of two mounts on one point the later hides the earlier.
        if path.starts_with(&point) && best.is_none_or(|(deepest, _)| depth >= deepest) {
            best = Some((depth, source.split(' ').next()?));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Whether a file system of this kind forgets everything when the power goes.
pub(crate) fn is_memory(kind: &str) -> bool {
    matches!(kind, "tmpfs" | "ramfs")
}

#[cfg(test)]
mod tests;

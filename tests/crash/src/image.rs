//! A journal's directory in the middle of a recording, and what a power cut may leave of it. It knows what POSIX and the
//! manual pages promise and nothing that a file system does besides: a change counts only when a durable write, a sync of
//! its file or, for an entry, a sync of the directory, which began after the change had ended, has ended itself. Of all other
//! changes any subset may have happened, and of a write any sectors.
//!
//! Invariant: a file's changes are kept in the order in which they began, so that what is durable lies over what is older
//! and not, and under what is newer.

use bytes::Bytes;
use sim::world::disk::{SECTOR_BYTES, survivors};
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use tiderace_base::disk::JournalFile;
use tiderace_base::prng::Prng;
use tiderace_io::recording::{Event, Operation};

/// The files of an image.
pub type Files = sim::found::Files;

/// How far a change has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The kernel has not ended it.
    Running,
    /// It ended at this time and may be lost.
    Ended(u64),
    /// It is never lost.
    Durable,
}

/// What changes a file's bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Bytes { at: usize, data: Bytes },
    Zeros { at: usize, len: usize },
    Length(usize),
}

#[derive(Clone, Debug)]
struct Changing {
    token: u64,
    change: Change,
    state: State,
    /// Whether its end makes it durable.
    is_durable_write: bool,
}

/// A file, whatever it is called.
#[derive(Clone, Debug, Default)]
struct Inode {
    /// What no power cut takes away.
    durable: Arc<Vec<u8>>,
    /// What came after the oldest change that may be lost.
    changes: VecDeque<Changing>,
}

/// What a name stood for, one after the other.
#[derive(Clone, Debug)]
struct Binding {
    token: u64,
    inode: Option<u64>,
    state: State,
}

/// What a token stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Running {
    Change { inode: u64 },
    Sync { inode: u64, began: u64 },
    SyncDirectory { began: u64 },
    Binding { file: JournalFile },
}

/// A journal's directory.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    inodes: BTreeMap<u64, Inode>,
    /// For each name what it durably stands for, then what it was made to stand for since.
    names: BTreeMap<JournalFile, (Option<u64>, Vec<Binding>)>,
    running: BTreeMap<u64, Running>,
    next_inode: u64,
    time: u64,
}

/// How an image treats what may be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Luck {
    /// All of it is lost.
    None,
    /// All of it is there.
    All,
    /// Each change has its own fate.
    Each,
}

impl Directory {
    /// Takes the next event of the journal.
    ///
    /// # Panics
    /// When the recording contradicts itself: it is not one, or the driver is wrong.
    pub fn step(&mut self, event: &Event) {
        self.time += 1;
        match event {
            Event::Opened { .. } => self.reopen(),
            Event::Began { token, operation } => self.begin(*token, operation),
            Event::Ended { token, result } => self.end(*token, *result),
            Event::Received { .. } | Event::Sending { .. } => {}
        }
    }

    /// A process opens the journal. What an earlier one had in flight has ended: the kernel gives the lock back only then
    /// (J-17). Nobody knows how, so nothing of it is durable.
    fn reopen(&mut self) {
        let time = self.time;
        let end = |state: &mut State| {
            if *state == State::Running {
                *state = State::Ended(time);
            }
        };
        for inode in self.inodes.values_mut() {
            for changing in &mut inode.changes {
                end(&mut changing.state);
            }
        }
        for (_, bindings) in self.names.values_mut() {
            for binding in bindings {
                end(&mut binding.state);
            }
        }
        self.running.clear();
    }

    /// What a name stands for to whoever looks now.
    fn seen(&self, file: JournalFile) -> Option<u64> {
        let (durable, bindings) = self.names.get(&file)?;
        bindings.last().map_or(*durable, |binding| binding.inode)
    }

    fn opened(&self, file: JournalFile) -> u64 {
        self.seen(file)
            .unwrap_or_else(|| panic!("{file} is there when it is written or synced"))
    }

    fn begin(&mut self, token: u64, operation: &Operation) {
        let place = |at: u64| usize::try_from(at).expect("positions fit memory");
        let running = match operation {
            Operation::Write {
                file,
                at,
                data,
                durable,
            } => {
                let change = Change::Bytes {
                    at: place(*at),
                    data: data.clone(),
                };
                self.change(token, *file, change, *durable)
            }
            Operation::Zero { file, at, bytes } => {
                let change = Change::Zeros {
                    at: place(*at),
                    len: place(*bytes),
                };
                self.change(token, *file, change, false)
            }
            Operation::Truncate { file, bytes } => {
                self.change(token, *file, Change::Length(place(*bytes)), false)
            }
            Operation::Create { file } => match self.seen(*file) {
                Some(_) => self.change(token, *file, Change::Length(0), false),
                None => {
                    self.next_inode += 1;
                    self.inodes.insert(self.next_inode, Inode::default());
                    self.bind(token, *file, Some(self.next_inode))
                }
            },
            Operation::Unlink { file } => self.bind(token, *file, None),
            Operation::Sync { file } => Running::Sync {
                inode: self.opened(*file),
                began: self.time,
            },
            Operation::SyncDirectory => Running::SyncDirectory { began: self.time },
        };
        let before = self.running.insert(token, running);
        assert!(before.is_none(), "a token names one operation at a time");
    }

    fn change(
        &mut self,
        token: u64,
        file: JournalFile,
        change: Change,
        is_durable_write: bool,
    ) -> Running {
        let inode = self.opened(file);
        let opened = self.inodes.get_mut(&inode).expect("a seen file is kept");
        opened.changes.push_back(Changing {
            token,
            change,
            state: State::Running,
            is_durable_write,
        });
        Running::Change { inode }
    }

    fn bind(&mut self, token: u64, file: JournalFile, inode: Option<u64>) -> Running {
        let (_, bindings) = self.names.entry(file).or_default();
        bindings.push(Binding {
            token,
            inode,
            state: State::Running,
        });
        Running::Binding { file }
    }

    fn end(&mut self, token: u64, result: i32) {
        let time = self.time;
        let running = self
            .running
            .remove(&token)
            .expect("what ends has begun before");
        match running {
            Running::Change { inode } => {
                // Its last name may be gone already.
                if let Some(inode) = self.inodes.get_mut(&inode) {
                    inode.end(token, result, time);
                }
            }
            Running::Sync { inode, began } => {
                if let Some(inode) = self.inodes.get_mut(&inode).filter(|_| result >= 0) {
                    inode.synced(began);
                }
            }
            Running::Binding { file } => {
                let (_, bindings) = self.names.get_mut(&file).expect("it was bound");
                let place = bindings
                    .iter()
                    .position(|binding| binding.token == token && binding.state == State::Running)
                    .expect("it has not ended yet");
                if result < 0 {
                    bindings.remove(place);
                } else {
                    bindings[place].state = State::Ended(time);
                }
            }
            Running::SyncDirectory { began } if result >= 0 => self.directory_synced(began),
            Running::SyncDirectory { .. } => {}
        }
    }

    /// Every entry whose change had ended before the sync began is durable.
    fn directory_synced(&mut self, began: u64) {
        for (durable, bindings) in self.names.values_mut() {
            let is_older =
                |binding: &Binding| matches!(binding.state, State::Ended(at) if at < began);
            if let Some(last) = bindings.iter().rposition(is_older) {
                *durable = bindings[last].inode;
                bindings.drain(..=last);
            }
        }
        self.names
            .retain(|_, (durable, bindings)| durable.is_some() || !bindings.is_empty());
        let names = &self.names;
        self.inodes.retain(|inode, _| {
            names.values().any(|(durable, bindings)| {
                *durable == Some(*inode)
                    || bindings.iter().any(|binding| binding.inode == Some(*inode))
            })
        });
    }

    /// Whether a power cut now leaves more than one image.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let has_bindings = self
            .names
            .values()
            .any(|(_, bindings)| !bindings.is_empty());
        !has_bindings && self.inodes.values().all(|inode| inode.changes.is_empty())
    }

    /// What whoever reads the files now finds, when nothing is in flight.
    #[must_use]
    pub fn seen_files(&self) -> Files {
        let seen = self.names.keys().filter_map(|file| {
            let inode = self.inodes.get(&self.seen(*file)?)?;
            Some((*file, inode.draw(Luck::All, &mut Prng::new(0), None)))
        });
        seen.collect()
    }

    /// What a power cut leaves, drawn from what it may. `told` says what became of each change, for whoever looks at one
    /// image closely.
    pub fn draw(&self, prng: &mut Prng, mut told: Option<&mut String>) -> Files {
        let luck = match prng.below(8) {
            0 => Luck::None,
            1 => Luck::All,
            _ => Luck::Each,
        };
        let mut files = Files::new();
        for (file, (durable, bindings)) in &self.names {
            let happened = match luck {
                Luck::None => 0,
                Luck::All => bindings.len(),
                Luck::Each => prng.below(bindings.len() as u64 + 1) as usize,
            };
            if let Some(told) = &mut told
                && !bindings.is_empty()
            {
                let count = bindings.len();
                writeln!(told, "  {file}: {happened} of {count} changes of its entry")
                    .expect("a string takes everything");
            }
            let inode = match happened.checked_sub(1) {
                Some(last) => bindings[last].inode,
                None => *durable,
            };
            if let Some(inode) = inode.and_then(|inode| self.inodes.get(&inode)) {
                let about = told.as_deref_mut().map(|told| (told, *file));
                files.insert(*file, inode.draw(luck, prng, about));
            }
        }
        files
    }
}

impl Inode {
    fn end(&mut self, token: u64, result: i32, time: u64) {
        let Some(changing) = self
            .changes
            .iter_mut()
            .find(|changing| changing.token == token && changing.state == State::Running)
        else {
            return;
        };
        changing.state = State::Ended(time);
        let Ok(written) = usize::try_from(result) else {
            // It failed: any part of it may be there, now and for ever.
            return;
        };
        let whole = match &changing.change {
            Change::Bytes { data, .. } => data.len(),
            Change::Zeros { len, .. } => *len,
            Change::Length(_) => 0,
        };
        if changing.is_durable_write && written >= whole {
            changing.state = State::Durable;
        } else if written < whole {
            self.split(token, written);
        }
        self.fold();
    }

    /// A write ended early: what it did and what it did not do go separate ways. The rest may be there nevertheless.
    fn split(&mut self, token: u64, written: usize) {
        let place = self
            .changes
            .iter()
            .rposition(|changing| changing.token == token)
            .expect("it has just ended");
        let whole = self.changes[place].clone();
        let (done, rest) = match whole.change.clone() {
            Change::Bytes { at, data } => (
                Change::Bytes {
                    at,
                    data: data.slice(..written),
                },
                Change::Bytes {
                    at: at + written,
                    data: data.slice(written..),
                },
            ),
            Change::Zeros { at, len } => (
                Change::Zeros { at, len: written },
                Change::Zeros {
                    at: at + written,
                    len: len - written,
                },
            ),
            Change::Length(_) => unreachable!("a length is whole"),
        };
        self.changes[place] = Changing {
            change: done,
            state: if whole.is_durable_write {
                State::Durable
            } else {
                whole.state
            },
            ..whole.clone()
        };
        let rest = Changing {
            change: rest,
            ..whole
        };
        self.changes.insert(place + 1, rest);
    }

    /// A sync that began at this time has ended.
    fn synced(&mut self, began: u64) {
        for changing in &mut self.changes {
            if matches!(changing.state, State::Ended(at) if at < began) {
                changing.state = State::Durable;
            }
        }
        self.fold();
    }

    /// What is durable and has nothing older before it needs no order any more.
    fn fold(&mut self) {
        while let Some(changing) = self.changes.front()
            && changing.state == State::Durable
        {
            let durable = Arc::make_mut(&mut self.durable);
            apply(durable, &changing.change, None);
            self.changes.pop_front();
        }
    }

    fn draw(
        &self,
        luck: Luck,
        prng: &mut Prng,
        mut about: Option<(&mut String, JournalFile)>,
    ) -> Arc<Vec<u8>> {
        let mut bytes = Arc::clone(&self.durable);
        for changing in &self.changes {
            let sectors = match &changing.change {
                Change::Bytes { data, .. } => data.len().div_ceil(SECTOR_BYTES),
                Change::Zeros { len, .. } => len.div_ceil(SECTOR_BYTES),
                Change::Length(_) => 1,
            };
            let kept = match (changing.state, luck) {
                (State::Durable, _) | (_, Luck::All) => vec![true; sectors],
                (_, Luck::None) => vec![false; sectors],
                (_, Luck::Each) => survivors(prng, sectors),
            };
            let count = kept.iter().filter(|kept| **kept).count();
            if let Some((told, file)) = &mut about {
                let what = match &changing.change {
                    Change::Bytes { at, data } => format!("write of {} at {at}", data.len()),
                    Change::Zeros { at, len } => format!("{len} zeros at {at}"),
                    Change::Length(len) => format!("cut to {len}"),
                };
                let state = changing.state;
                writeln!(
                    told,
                    "  {file}: {what} ({state:?}): {count} of {sectors} sectors"
                )
                .expect("a string takes everything");
            }
            if count > 0 {
                apply(Arc::make_mut(&mut bytes), &changing.change, Some(&kept));
            }
        }
        bytes
    }
}

/// Makes a change, or those sectors of it that are kept.
fn apply(bytes: &mut Vec<u8>, change: &Change, kept: Option<&[bool]>) {
    let (at, len) = match change {
        Change::Bytes { at, data } => (*at, data.len()),
        Change::Zeros { at, len } => (*at, *len),
        Change::Length(len) => {
            bytes.resize(*len, 0);
            return;
        }
    };
    let mut put = |from: usize, to: usize| {
        if bytes.len() < at + to {
            bytes.resize(at + to, 0);
        }
        match change {
            Change::Bytes { data, .. } => {
                bytes[at + from..at + to].copy_from_slice(&data[from..to]);
            }
            Change::Zeros { .. } | Change::Length(_) => bytes[at + from..at + to].fill(0),
        }
    };
    let Some(kept) = kept else {
        put(0, len);
        return;
    };
    let mut sector = 0;
    for run in kept.chunk_by(|a, b| a == b) {
        let from = sector * SECTOR_BYTES;
        sector += run.len();
        if run[0] {
            put(from, (sector * SECTOR_BYTES).min(len));
        }
    }
}

#[cfg(test)]
mod tests;

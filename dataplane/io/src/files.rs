//! The files of one journal, on the ring. Every step that may block (open, unlink, sync, a write that allocates) is the
//! ring's, so the thread never waits for the disk.
//!
//! A durable write carries `RWF_DSYNC`: its completion says that the bytes are on the disk, and no separate sync waits
//! behind a worker thread. A write or read that ends early goes on where it ended before anything is reported; the
//! machine sees one completion for all bytes or an error. A sync is never repeated, whatever it answered.
//!
//! A file that cannot be opened because the process or the machine is out of descriptors is no failure of the disk: nothing
//! was written through it. It is opened again until that works or a bounded time is over, and what was asked of it waits in
//! order. No more files are open than may be, but for those that are written; a read of another one waits.
//!
//! Buffers stay with their operation until its completion. One file at a time is prepared, one piece of it in flight, so
//! that filling a spare segment never stands between an append and its disk for longer than one piece.

use crate::counters::Counters;
use crate::directory::{
    JournalDirectory, SECTOR_BYTES, disk_error, file_name, is_out_of_descriptors, open_error, zeros,
};
use crate::ring::{Completion, Kind, Ring};
use crate::slab::{Place, Slab};
use crate::syscall::FILE_MODE;
use bytes::{Bytes, BytesMut};
use io_uring::{opcode, types};
use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use tiderace_base::collections::Map;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::limits::{BLOCK_BYTES, HANDSHAKE_NS_MAX, MIB};
use tiderace_base::operation::{Event, OpId};
use tiderace_base::region::aligned_zeroed;
use tiderace_base::time::Mono;

/// Zeros written at once while a file is prepared.
const PREPARE_PIECE_BYTES: usize = MIB;
/// Files that are written at once, and stay open however many others are: the superblock, two segments around a roll, the
/// one that is filled, footers and a checkpoint's part.
pub(crate) const FILES_WRITTEN_MAX: usize = 16;
/// How long after an open that found no descriptor the next try is.
const OPEN_AGAIN_NS: u64 = 10_000_000;
/// How long a file is tried to be opened: twice as long as a peer that says nothing keeps the descriptor that it took.
const OPEN_WAIT_NS_MAX: u64 = 2 * HANDSHAKE_NS_MAX;

struct OpenFile {
    file: JournalFile,
    /// What the kernel reads while it opens.
    name: CString,
    /// None while it is being opened.
    fd: Option<OwnedFd>,
    /// Operations that wait for it to be open, in order.
    waiting: Vec<Place>,
    /// Operations on it.
    busy: u32,
    /// When it was last wanted, in operations.
    used: u64,
    /// When it was first tried to be opened in vain.
    since: Option<Mono>,
}

/// An open that found no descriptor.
#[derive(Clone, Copy, Debug)]
enum Starved {
    /// Of a file that operations wait for.
    File(Place),
    /// Of the file that is prepared.
    Prepared(Place),
}

struct Operation {
    op: OpId,
    file: JournalFile,
    step: Step,
}

/// What an operation is doing, and the memory that the kernel may use meanwhile.
enum Step {
    Write {
        data: Bytes,
        at: u64,
        done: usize,
        durable: bool,
    },
    Read {
        into: BytesMut,
        at: u64,
        done: usize,
    },
    Sync,
    /// Waits for the file that is prepared before it.
    PrepareQueued {
        bytes: u64,
    },
    PrepareOpen {
        bytes: u64,
        name: CString,
        /// When it was first tried in vain.
        since: Option<Mono>,
    },
    PrepareZero {
        bytes: u64,
        at: u64,
    },
    PrepareSync,
    PrepareDirectory,
    /// Takes the file away again, because there is no space.
    PrepareUndo {
        name: CString,
    },
    Unlink {
        name: CString,
    },
    RemoveDirectory,
}

/// What a completion leads to.
enum Next {
    /// The step goes on.
    Again,
    /// Another step.
    Step(Step),
    /// The end.
    End(Result<(), DiskError>),
}

#[cfg(feature = "disk-recording")]
mod recorded;

pub(crate) struct Files {
    directory: JournalDirectory,
    open: Slab<OpenFile>,
    by_name: Map<JournalFile, Place>,
    open_max: usize,
    uses: u64,
    /// The last two segments that were durably written: appends go there, and never wait for a descriptor.
    appended: [Option<JournalFile>; 2],
    /// Opens that are tried again, in order.
    starved: VecDeque<Starved>,
    open_again_at: Option<Mono>,
    /// Reads that wait until another file may be open, in order.
    held: VecDeque<Place>,
    operations: Slab<Operation>,
    /// Files to be prepared; the first is being worked on.
    preparing: VecDeque<Place>,
    zeros: Bytes,
    counters: Arc<Counters>,
}

impl Files {
    pub(crate) fn new(
        directory: JournalDirectory,
        open_max: usize,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            directory,
            open: Slab::new(),
            by_name: Map::default(),
            open_max: open_max.max(1),
            uses: 0,
            appended: [None; 2],
            starved: VecDeque::new(),
            open_again_at: None,
            held: VecDeque::new(),
            operations: Slab::new(),
            preparing: VecDeque::new(),
            zeros: zeros(PREPARE_PIECE_BYTES),
            counters,
        }
    }

    // --- Effects -----------------------------------------------------------------------------------------------------

    pub(crate) fn write(
        &mut self,
        op: OpId,
        file: JournalFile,
        at: u64,
        data: Bytes,
        durable: bool,
        ring: &mut Ring,
    ) {
        assert_whole_blocks(at, data.len());
        let data = if data.as_ptr().align_offset(BLOCK_BYTES) == 0 || !self.directory.direct_io() {
            data
        } else {
            self.counters.writes_copied.add(1);
            let mut aligned = aligned_zeroed(data.len());
            aligned.copy_from_slice(&data);
            aligned.freeze()
        };
        if durable && matches!(file, JournalFile::Segment(_)) && self.appended[0] != Some(file) {
            self.appended = [Some(file), self.appended[0]];
        }
        let step = Step::Write {
            data,
            at,
            done: 0,
            durable,
        };
        self.on_open_file(op, file, step, ring);
    }

    pub(crate) fn read(&mut self, op: OpId, file: JournalFile, at: u64, len: u32, ring: &mut Ring) {
        assert_whole_blocks(at, len as usize);
        let step = Step::Read {
            into: aligned_zeroed(len as usize),
            at,
            done: 0,
        };
        self.on_open_file(op, file, step, ring);
    }

    pub(crate) fn sync(&mut self, op: OpId, file: JournalFile, ring: &mut Ring) {
        self.on_open_file(op, file, Step::Sync, ring);
    }

    pub(crate) fn prepare(&mut self, op: OpId, file: JournalFile, bytes: u64, ring: &mut Ring) {
        assert!(
            bytes.is_multiple_of(BLOCK_BYTES as u64),
            "a prepared file is whole blocks"
        );
        let place = self.operations.insert(Operation {
            op,
            file,
            step: Step::PrepareQueued { bytes },
        });
        self.preparing.push_back(place);
        if self.preparing.len() == 1 {
            self.begin_prepare(ring);
        }
    }

    pub(crate) fn remove(&mut self, op: OpId, file: JournalFile, ring: &mut Ring) {
        // Closed before it is unlinked: the last of the two frees the file's blocks, and that may take long. The ring's
        // worker does it then, and not this thread.
        self.forget_open(file);
        let place = self.operations.insert(Operation {
            op,
            file,
            step: Step::Unlink {
                name: file_name(file),
            },
        });
        self.submit(place, ring);
    }

    // --- Open files --------------------------------------------------------------------------------------------------

    /// Runs a step on an open file, opening it first where needed.
    fn on_open_file(&mut self, op: OpId, file: JournalFile, step: Step, ring: &mut Ring) {
        let place = self.operations.insert(Operation { op, file, step });
        if !self.dispatch(place, ring) {
            self.counters.reads_held.add(1);
            self.held.push_back(place);
        }
    }

    /// False: the file is not open, as many others are as may be, each of them busy, and a read has time.
    fn dispatch(&mut self, place: Place, ring: &mut Ring) -> bool {
        let Some(operation) = self.operations.get_mut(place) else {
            return true;
        };
        let file = operation.file;
        let has_time = matches!(operation.step, Step::Read { .. });
        self.uses += 1;
        if let Some(opened) = self
            .by_name
            .get(&file)
            .and_then(|at| self.open.get_mut(*at))
        {
            opened.busy += 1;
            opened.used = self.uses;
            if opened.fd.is_none() {
                opened.waiting.push(place);
            } else {
                self.submit(place, ring);
            }
            return true;
        }
        if !self.make_room() && has_time {
            return false;
        }
        let at = self.open.insert(OpenFile {
            file,
            name: file_name(file),
            fd: None,
            waiting: vec![place],
            busy: 1,
            used: self.uses,
            since: None,
        });
        self.by_name.insert(file, at);
        self.submit_open(at, ring);
        true
    }

    fn submit_open(&mut self, at: Place, ring: &mut Ring) {
        let flags = self.directory.open_flags();
        if let Some(opened) = self.open.get_mut(at) {
            let entry = opcode::OpenAt::new(types::Fd(self.directory.fd()), opened.name.as_ptr())
                .flags(flags)
                .build()
                .user_data(Kind::Open.token(at));
            // SAFETY: the name's bytes lie on the heap and stay there until the entry is removed, which is after the
            // completion.
            unsafe { ring.push(entry) };
        }
    }

    /// Makes room for one more open file. False: all are in use.
    fn make_room(&mut self) -> bool {
        self.open.len() < self.open_max || self.close_oldest()
    }

    /// Closes the file that nobody wanted for longest. False: there is none that may be closed.
    fn close_oldest(&mut self) -> bool {
        let appended = self.appended;
        let oldest = self
            .open
            .iter_mut()
            .filter(|(_, opened)| {
                opened.busy == 0
                    && opened.file != JournalFile::Superblock
                    && !appended.contains(&Some(opened.file))
            })
            .min_by_key(|(_, opened)| opened.used)
            .map(|(at, opened)| (at, opened.file));
        if let Some((at, file)) = oldest {
            self.by_name.remove(&file);
            drop(self.open.remove(at));
        }
        oldest.is_some()
    }

    /// An open found no descriptor. One that is idle here is given up for it, and it is tried again a little later.
    fn starve(&mut self, open: Starved, now: Mono) {
        self.counters.opens_repeated.add(1);
        self.close_oldest();
        self.starved.push_back(open);
        self.open_again_at
            .get_or_insert(now.after_ns(OPEN_AGAIN_NS));
    }

    /// When something of this module's own is due.
    pub(crate) fn next_wake(&self) -> Option<Mono> {
        self.open_again_at
    }

    /// Ends a turn: tries what waits for a descriptor again when it is due, and reads that waited for another file to be
    /// let go.
    pub(crate) fn finish_turn(&mut self, now: Mono, ring: &mut Ring) {
        if self.open_again_at.is_some_and(|at| at <= now) {
            self.open_again_at = None;
            for open in std::mem::take(&mut self.starved) {
                match open {
                    Starved::File(at) => self.submit_open(at, ring),
                    Starved::Prepared(place) => self.submit(place, ring),
                }
            }
        }
        while let Some(place) = self.held.front().copied() {
            if !self.dispatch(place, ring) {
                break;
            }
            self.held.pop_front();
        }
    }

    fn forget_open(&mut self, file: JournalFile) {
        if let Some(at) = self.by_name.remove(&file)
            && let Some(opened) = self.open.remove(at)
        {
            assert!(
                opened.busy == 0,
                "{file} is removed or emptied while an operation on it is in flight"
            );
        }
    }

    /// A file was opened, or not.
    pub(crate) fn on_open(
        &mut self,
        completion: Completion,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let Some(opened) = self.open.get_mut(completion.place) else {
            return;
        };
        if is_out_of_descriptors(-completion.result)
            && now.since(*opened.since.get_or_insert(now)) < OPEN_WAIT_NS_MAX
        {
            self.starve(Starved::File(completion.place), now);
            return;
        }
        let waiting = std::mem::take(&mut opened.waiting);
        if completion.result >= 0 {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            opened.fd = Some(unsafe { OwnedFd::from_raw_fd(completion.result) });
            for place in waiting {
                self.submit(place, ring);
            }
            return;
        }
        let file = opened.file;
        self.by_name.remove(&file);
        drop(self.open.remove(completion.place));
        let error = open_error(-completion.result);
        for place in waiting {
            self.end(place, Err(error), ready);
        }
    }

    // --- Steps -------------------------------------------------------------------------------------------------------

    fn begin_prepare(&mut self, ring: &mut Ring) {
        let Some(place) = self.preparing.front().copied() else {
            return;
        };
        let Some(operation) = self.operations.get_mut(place) else {
            return;
        };
        let file = operation.file;
        if let Step::PrepareQueued { bytes } = operation.step {
            operation.step = Step::PrepareOpen {
                bytes,
                name: file_name(file),
                since: None,
            };
        }
        self.forget_open(file);
        self.submit(place, ring);
    }

    /// Hands the operation's step to the ring.
    fn submit(&mut self, place: Place, ring: &mut Ring) {
        #[cfg(feature = "disk-recording")]
        self.record_began(place);
        let folder = types::Fd(self.directory.fd());
        let Some(operation) = self.operations.get_mut(place) else {
            return;
        };
        let by_name = &self.by_name;
        let open = &mut self.open;
        let mut fd = |file: JournalFile| {
            let opened = by_name.get(&file).and_then(|at| open.get_mut(*at));
            let fd = opened.and_then(|opened| opened.fd.as_ref());
            types::Fd(fd.expect("a step runs on an open file").as_raw_fd())
        };
        let entry = match &mut operation.step {
            Step::Write {
                data,
                at,
                done,
                durable,
            } => {
                let rest = &data[*done..];
                opcode::Write::new(fd(operation.file), rest.as_ptr(), rest.len() as u32)
                    .offset(*at + *done as u64)
                    .rw_flags(if *durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Step::Read { into, at, done } => {
                let rest = &mut into[*done..];
                opcode::Read::new(fd(operation.file), rest.as_mut_ptr(), rest.len() as u32)
                    .offset(*at + *done as u64)
                    .build()
            }
            Step::Sync => opcode::Fsync::new(fd(operation.file))
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Step::PrepareQueued { .. } => return,
            Step::PrepareOpen { name, .. } => opcode::OpenAt::new(folder, name.as_ptr())
                .flags(self.directory.open_flags() | libc::O_CREAT | libc::O_TRUNC)
                .mode(FILE_MODE)
                .build(),
            Step::PrepareZero { bytes, at } => {
                let len = (*bytes - *at).min(PREPARE_PIECE_BYTES as u64) as u32;
                opcode::Write::new(fd(operation.file), self.zeros.as_ptr(), len)
                    .offset(*at)
                    .build()
            }
            Step::PrepareSync => opcode::Fsync::new(fd(operation.file)).build(),
            Step::PrepareDirectory | Step::RemoveDirectory => opcode::Fsync::new(folder).build(),
            Step::PrepareUndo { name } | Step::Unlink { name } => {
                opcode::UnlinkAt::new(folder, name.as_ptr()).build()
            }
        };
        // SAFETY: data, buffers and names lie on the heap, owned by the operation (the zeros by `self`), which stays in
        // its place until the completion; nobody reads a buffer before that.
        unsafe { ring.push(entry.user_data(Kind::File.token(place))) };
    }

    /// A step completed.
    pub(crate) fn on_file(
        &mut self,
        completion: Completion,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let place = completion.place;
        #[cfg(feature = "disk-recording")]
        self.record_ended(place, completion.result);
        let Some(operation) = self.operations.get_mut(place) else {
            return;
        };
        let file = operation.file;
        if let Step::PrepareOpen { since, .. } = &mut operation.step
            && is_out_of_descriptors(-completion.result)
            && now.since(*since.get_or_insert(now)) < OPEN_WAIT_NS_MAX
        {
            self.starve(Starved::Prepared(place), now);
            return;
        }
        let result = usize::try_from(completion.result).map_err(|_| -completion.result);
        let mut prepared = None;
        let next = match &mut operation.step {
            Step::Write { data, done, .. } => moved(result, done, data.len(), DiskError::NoSpace),
            Step::Read { into, done, .. } => moved(result, done, into.len(), DiskError::Short),
            Step::Sync | Step::RemoveDirectory | Step::PrepareDirectory => {
                Next::End(result.map(drop).map_err(disk_error))
            }
            Step::PrepareQueued { .. } => Next::Again,
            Step::PrepareOpen { bytes, .. } => match result {
                Ok(fd) => {
                    let bytes = *bytes;
                    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
                    prepared = Some(fd);
                    if bytes == 0 {
                        Next::Step(Step::PrepareSync)
                    } else {
                        Next::Step(Step::PrepareZero { bytes, at: 0 })
                    }
                }
                Err(errno) => Next::End(Err(open_error(errno))),
            },
            Step::PrepareZero { bytes, at } => {
                let mut done = *at as usize;
                let next = moved(result, &mut done, *bytes as usize, DiskError::NoSpace);
                *at = done as u64;
                match next {
                    Next::End(Ok(())) => Next::Step(Step::PrepareSync),
                    other => other,
                }
            }
            Step::PrepareSync => match result {
                Ok(_) => Next::Step(Step::PrepareDirectory),
                Err(errno) => Next::End(Err(disk_error(errno))),
            },
            // Whether or not it went: what the machine must know is that there is no space.
            Step::PrepareUndo { .. } => Next::End(Err(DiskError::NoSpace)),
            Step::Unlink { .. } => match result {
                Ok(_) => Next::Step(Step::RemoveDirectory),
                Err(errno) => Next::End(Err(disk_error(errno))),
            },
        };
        let undoing = matches!(operation.step, Step::PrepareUndo { .. });
        let preparing = self.preparing.front() == Some(&place);
        if let Some(fd) = prepared {
            self.insert_prepared(file, fd);
        }
        match next {
            Next::Again => {
                self.counters.disk_continued.add(1);
                self.submit(place, ring);
            }
            Next::Step(step) => self.step(place, step, ring),
            Next::End(Err(DiskError::NoSpace)) if preparing && !undoing => {
                self.release(file);
                self.forget_open(file);
                let name = file_name(file);
                self.step(place, Step::PrepareUndo { name }, ring);
            }
            Next::End(result) => {
                self.end(place, result, ready);
                if preparing {
                    self.preparing.pop_front();
                    self.begin_prepare(ring);
                }
            }
        }
    }

    fn insert_prepared(&mut self, file: JournalFile, fd: OwnedFd) {
        self.make_room();
        self.uses += 1;
        let at = self.open.insert(OpenFile {
            file,
            name: file_name(file),
            fd: Some(fd),
            waiting: Vec::new(),
            busy: 1,
            used: self.uses,
            since: None,
        });
        self.by_name.insert(file, at);
    }

    fn step(&mut self, place: Place, step: Step, ring: &mut Ring) {
        if let Some(operation) = self.operations.get_mut(place) {
            operation.step = step;
            self.submit(place, ring);
        }
    }

    fn release(&mut self, file: JournalFile) {
        if let Some(opened) = self
            .by_name
            .get(&file)
            .and_then(|at| self.open.get_mut(*at))
        {
            opened.busy -= 1;
        }
    }

    /// Reports an operation's end.
    fn end(&mut self, place: Place, result: Result<(), DiskError>, ready: &mut VecDeque<Event>) {
        let Some(Operation { op, file, step }) = self.operations.remove(place) else {
            return;
        };
        let on_open_file = match &step {
            Step::Write { .. }
            | Step::Read { .. }
            | Step::Sync
            | Step::PrepareZero { .. }
            | Step::PrepareSync
            | Step::PrepareDirectory => true,
            Step::PrepareQueued { .. }
            | Step::PrepareOpen { .. }
            | Step::PrepareUndo { .. }
            | Step::Unlink { .. }
            | Step::RemoveDirectory => false,
        };
        if on_open_file {
            self.release(file);
        }
        ready.push_back(match step {
            Step::Write { .. } => Event::Written { op, result },
            Step::Read { into, .. } => Event::ReadDone {
                op,
                result: result.map(|()| into.freeze()),
            },
            Step::Sync => Event::Synced { op, result },
            Step::PrepareQueued { .. }
            | Step::PrepareOpen { .. }
            | Step::PrepareZero { .. }
            | Step::PrepareSync
            | Step::PrepareDirectory
            | Step::PrepareUndo { .. } => Event::Prepared { op, result },
            Step::Unlink { .. } | Step::RemoveDirectory => Event::Removed { op, result },
        });
    }

    /// At the driver's end, for completions that nobody is told about.
    pub(crate) fn discard(&mut self, completion: Completion) {
        let opens = match completion.kind {
            Kind::Open => true,
            _ => matches!(
                self.operations.get_mut(completion.place),
                Some(Operation {
                    step: Step::PrepareOpen { .. },
                    ..
                })
            ),
        };
        if opens && completion.result >= 0 {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
        }
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files")
            .field("operations", &self.operations.len())
            .finish_non_exhaustive()
    }
}

/// How a read or write goes on after `result`. `early` is what an end before the last byte means.
fn moved(result: Result<usize, i32>, done: &mut usize, len: usize, early: DiskError) -> Next {
    match result {
        Ok(count) => {
            *done += count;
            if *done >= len {
                Next::End(Ok(()))
            } else if count == 0 || !done.is_multiple_of(SECTOR_BYTES) {
                Next::End(Err(early))
            } else {
                Next::Again
            }
        }
        Err(libc::EINTR | libc::EAGAIN) => Next::Again,
        Err(errno) => Next::End(Err(disk_error(errno))),
    }
}

fn assert_whole_blocks(at: u64, len: usize) {
    assert!(
        at.is_multiple_of(BLOCK_BYTES as u64)
            && len.is_multiple_of(BLOCK_BYTES)
            && len > 0
            && len <= i32::MAX as usize,
        "a journal is read and written in whole blocks"
    );
}

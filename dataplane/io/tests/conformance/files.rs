//! The journal's files: what was durably written is read back, by the driver and by recovery's blocking port, and every
//! way to fail has its own answer. Each case runs with direct io and through the page cache.

use crate::world::{Folder, Running, Scripted, pattern, start};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::mpsc;
use tiderace_base::disk::{Disk, DiskError, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_base::operation::{Effect, Effects, Event, OpId, OpIds};
use tiderace_base::region::aligned_zeroed;
use tiderace_io::{BlockingDisk, DirectoryError, DriverConfig, JournalDirectory, Outcome};

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A journal whose effects come from the test and whose events go back to it.
struct Journal {
    server: Running,
    effects: mpsc::Sender<Effect>,
    events: mpsc::Receiver<Event>,
    client: std::net::TcpStream,
    ops: OpIds,
    early: BTreeMap<OpId, Event>,
}

impl Journal {
    fn open(directory: JournalDirectory, files_open_max: usize) -> Self {
        let (effects, wanted) = mpsc::channel();
        let (happened, events) = mpsc::channel();
        let server = start(
            DriverConfig {
                journal: Some(directory),
                files_open_max,
                receive_buffers: 2,
                receive_buffer_bytes: 4096,
                ..DriverConfig::default()
            },
            Scripted::new(move |_, event, effects: &mut Effects| {
                match event {
                    Some(Event::Accepted { .. } | Event::Received { .. }) | None => {}
                    Some(event) => drop(happened.send(event)),
                }
                effects.extend(wanted.try_iter());
            }),
        );
        let client = server.connect();
        Self {
            server,
            effects,
            events,
            client,
            ops: OpIds::default(),
            early: BTreeMap::new(),
        }
    }

    fn ask(&mut self, effect: impl FnOnce(OpId) -> Effect) -> OpId {
        let op = self.ops.allocate();
        self.effects.send(effect(op)).expect("the machine runs");
        std::io::Write::write_all(&mut self.client, b"!").expect("the machine runs");
        op
    }

    fn answer(&mut self, op: OpId) -> Event {
        loop {
            if let Some(event) = self.early.remove(&op) {
                return event;
            }
            let event = self.events.recv().expect("every operation is answered");
            let of = match &event {
                Event::Written { op, .. }
                | Event::ReadDone { op, .. }
                | Event::Synced { op, .. }
                | Event::Prepared { op, .. }
                | Event::Removed { op, .. } => *op,
                other => panic!("not about a file: {other:?}"),
            };
            assert!(self.early.insert(of, event).is_none(), "answered twice");
        }
    }

    fn result(&mut self, op: OpId) -> Result<(), DiskError> {
        match self.answer(op) {
            Event::Written { result, .. }
            | Event::Synced { result, .. }
            | Event::Prepared { result, .. }
            | Event::Removed { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn prepare(&mut self, file: JournalFile, bytes: u64) -> Result<(), DiskError> {
        let op = self.ask(|op| Effect::Prepare { op, file, bytes });
        self.result(op)
    }

    fn write(&mut self, file: JournalFile, at: u64, data: Bytes, durable: bool) -> OpId {
        self.ask(|op| Effect::Write {
            op,
            file,
            at,
            data,
            durable,
        })
    }

    fn read(&mut self, file: JournalFile, at: u64, len: u32) -> Result<Bytes, DiskError> {
        let op = self.ask(|op| Effect::Read { op, file, at, len });
        match self.answer(op) {
            Event::ReadDone { result, .. } => result,
            other => panic!("{other:?}"),
        }
    }

    fn remove(&mut self, file: JournalFile) -> Result<(), DiskError> {
        let op = self.ask(|op| Effect::Remove { op, file });
        self.result(op)
    }

    fn sync(&mut self, file: JournalFile) -> Result<(), DiskError> {
        let op = self.ask(|op| Effect::Sync { op, file });
        self.result(op)
    }

    fn close(self) {
        assert!(matches!(self.server.finish(), Outcome::Stopped));
    }
}

/// Aligned blocks that tell seeds apart.
fn blocks(seed: u64, count: usize) -> Bytes {
    let mut bytes = aligned_zeroed(count * BLOCK_BYTES);
    bytes.copy_from_slice(&pattern(seed, count * BLOCK_BYTES));
    bytes.freeze()
}

fn both(case: impl Fn(&Folder, JournalDirectory)) {
    for direct_io in [true, false] {
        let folder = Folder::new();
        let directory =
            JournalDirectory::open(folder.path(), direct_io).expect("a folder of our own");
        assert!(direct_io || !directory.direct_io());
        case(&folder, directory);
    }
}

#[test]
fn what_is_durably_written_is_read_by_the_driver_and_by_recovery() {
    both(|_, directory| {
        let file = JournalFile::Segment(3);
        let mut journal = Journal::open(directory.clone(), 16);
        // Not a multiple of the pieces in which a file is filled.
        let bytes = (2 << 20) + 3 * BLOCK;
        assert_eq!(journal.prepare(file, bytes), Ok(()));
        let ops: Vec<OpId> = (0..40)
            .map(|index| {
                let durable = index % 2 == 0;
                journal.write(file, index * 5 * BLOCK, blocks(index, 3), durable)
            })
            .collect();
        for op in ops {
            assert_eq!(journal.result(op), Ok(()));
        }
        assert_eq!(journal.sync(file), Ok(()));
        for index in 0..40 {
            let got = journal.read(file, index * 5 * BLOCK, 5 * BLOCK_BYTES as u32);
            let got = got.expect("it was written");
            assert_eq!(got.as_ptr().align_offset(BLOCK_BYTES), 0);
            assert!(got[..3 * BLOCK_BYTES] == blocks(index, 3));
            assert!(got[3 * BLOCK_BYTES..].iter().all(|byte| *byte == 0));
        }
        journal.close();
        let mut disk = BlockingDisk::new(&directory);
        assert_eq!(disk.list(), Ok(vec![file]));
        assert_eq!(disk.size(file), Ok(bytes));
        let mut got = vec![0; 3 * BLOCK_BYTES];
        disk.read(file, 35 * BLOCK, &mut got)
            .expect("it was written");
        assert!(got == blocks(7, 3));
    });
}

#[test]
fn an_absent_file_is_said_to_be_absent() {
    both(|_, directory| {
        let file = JournalFile::Footer(1);
        let mut journal = Journal::open(directory, 16);
        assert_eq!(journal.read(file, 0, 4096), Err(DiskError::Absent));
        let first = journal.write(file, 0, blocks(1, 1), true);
        let second = journal.write(file, BLOCK, blocks(1, 1), true);
        assert_eq!(journal.result(first), Err(DiskError::Absent));
        assert_eq!(journal.result(second), Err(DiskError::Absent));
        assert_eq!(journal.sync(file), Err(DiskError::Absent));
        assert_eq!(journal.remove(file), Err(DiskError::Absent));
        // It can still be made.
        assert_eq!(journal.prepare(file, 0), Ok(()));
        journal.close();
    });
}

#[test]
fn a_read_beyond_the_end_is_short() {
    both(|_, directory| {
        let file = JournalFile::Checkpoint(1);
        let mut journal = Journal::open(directory, 16);
        assert_eq!(journal.prepare(file, 0), Ok(()));
        assert_eq!(journal.read(file, 0, 4096), Err(DiskError::Short));
        // A file that was made empty grows by its writes.
        let op = journal.write(file, 0, blocks(1, 2), true);
        assert_eq!(journal.result(op), Ok(()));
        assert_eq!(journal.read(file, 0, 8192), Ok(blocks(1, 2)));
        assert_eq!(journal.read(file, BLOCK, 8192), Err(DiskError::Short));
        journal.close();
    });
}

#[test]
fn preparing_empties_and_removing_removes() {
    both(|_, directory| {
        let file = JournalFile::Segment(1);
        let mut journal = Journal::open(directory.clone(), 16);
        for seed in 0..3 {
            assert_eq!(journal.prepare(file, 4 * BLOCK), Ok(()));
            let got = journal.read(file, 0, 4 * BLOCK_BYTES as u32);
            assert!(got.expect("it was prepared").iter().all(|byte| *byte == 0));
            let op = journal.write(file, 0, blocks(seed, 4), true);
            assert_eq!(journal.result(op), Ok(()));
        }
        // Several at once, one after the other.
        let ops: Vec<OpId> = (10..14)
            .map(|number| {
                journal.ask(|op| Effect::Prepare {
                    op,
                    file: JournalFile::Segment(number),
                    bytes: 3 << 20,
                })
            })
            .collect();
        for op in ops {
            assert_eq!(journal.result(op), Ok(()));
        }
        assert_eq!(journal.remove(file), Ok(()));
        assert_eq!(journal.read(file, 0, 4096), Err(DiskError::Absent));
        journal.close();
        let mut disk = BlockingDisk::new(&directory);
        let left: Vec<JournalFile> = (10..14).map(JournalFile::Segment).collect();
        assert_eq!(disk.list(), Ok(left));
        assert_eq!(disk.size(JournalFile::Segment(12)), Ok(3 << 20));
    });
}

#[test]
fn more_files_are_used_than_are_kept_open() {
    both(|_, directory| {
        let mut journal = Journal::open(directory, 2);
        for number in 0..10 {
            assert_eq!(
                journal.prepare(JournalFile::Segment(number), 2 * BLOCK),
                Ok(())
            );
        }
        let ops: Vec<OpId> = (0..30)
            .map(|index| {
                let file = JournalFile::Segment(index % 10);
                journal.write(file, 0, blocks(u64::from(index % 10), 1), true)
            })
            .collect();
        for op in ops {
            assert_eq!(journal.result(op), Ok(()));
        }
        for number in 0..10 {
            let got = journal.read(JournalFile::Segment(number), 0, 4096);
            assert_eq!(got, Ok(blocks(u64::from(number), 1)));
        }
        journal.close();
    });
}

#[test]
fn reads_of_more_files_than_may_be_open_wait_for_each_other() {
    both(|_, directory| {
        let mut journal = Journal::open(directory, 2);
        for number in 0..10 {
            let file = JournalFile::Segment(number);
            assert_eq!(journal.prepare(file, BLOCK), Ok(()));
            let op = journal.write(file, 0, blocks(u64::from(number), 1), true);
            assert_eq!(journal.result(op), Ok(()));
        }
        // All in one turn: the byte that wakes the machine comes behind them.
        let ops: Vec<OpId> = (0..30).map(|_| journal.ops.allocate()).collect();
        for (index, op) in (0..).zip(&ops) {
            let effect = Effect::Read {
                op: *op,
                file: JournalFile::Segment(index % 10),
                at: 0,
                len: 4096,
            };
            journal.effects.send(effect).expect("the machine runs");
        }
        std::io::Write::write_all(&mut journal.client, b"!").expect("the machine runs");
        for (index, op) in (0..).zip(ops) {
            match journal.answer(op) {
                Event::ReadDone { result, .. } => assert_eq!(result, Ok(blocks(index % 10, 1))),
                other => panic!("{other:?}"),
            }
        }
        assert!(journal.server.counters.reads_held.get() > 0);
        journal.close();
    });
}

#[test]
fn memory_that_is_not_aligned_is_copied_for_direct_io() {
    both(|_, directory| {
        let file = JournalFile::Superblock;
        let direct_io = directory.direct_io();
        let mut journal = Journal::open(directory, 16);
        assert_eq!(journal.prepare(file, BLOCK), Ok(()));
        let mut shifted = BytesMut::from(&b"odd"[..]);
        shifted.extend_from_slice(&blocks(4, 1));
        let data = shifted.split_off(3).freeze();
        assert_ne!(data.as_ptr().align_offset(BLOCK_BYTES), 0);
        let op = journal.write(file, 0, data, true);
        assert_eq!(journal.result(op), Ok(()));
        assert_eq!(journal.read(file, 0, 4096), Ok(blocks(4, 1)));
        let copied = journal.server.counters.writes_copied.get();
        assert_eq!(copied, u64::from(direct_io));
        journal.close();
    });
}

/// `/dev/full` answers every write as a full disk does, and needs no privilege. It takes no direct io.
#[test]
fn a_full_disk_is_said_to_be_full_and_leaves_no_file_behind() {
    let folder = Folder::new();
    let directory = JournalDirectory::open(folder.path(), false).expect("a folder of our own");
    let file = JournalFile::Segment(1);
    let full = |file: JournalFile| {
        symlink("/dev/full", folder.path().join(file.to_string())).expect("a folder of our own");
    };
    let mut journal = Journal::open(directory.clone(), 16);
    full(file);
    let op = journal.write(file, 0, blocks(1, 1), true);
    assert_eq!(journal.result(op), Err(DiskError::NoSpace));
    assert_eq!(journal.prepare(file, 4 << 20), Err(DiskError::NoSpace));
    assert!(!folder.path().join(file.to_string()).is_symlink());
    // It recovers by itself, and those that were queued behind are not held up.
    full(JournalFile::Segment(2));
    let ops = [2, 3].map(|number| {
        journal.ask(|op| Effect::Prepare {
            op,
            file: JournalFile::Segment(number),
            bytes: BLOCK,
        })
    });
    assert_eq!(journal.result(ops[0]), Err(DiskError::NoSpace));
    assert_eq!(journal.result(ops[1]), Ok(()));
    assert_eq!(journal.prepare(file, BLOCK), Ok(()));
    journal.close();

    let mut disk = BlockingDisk::new(&directory);
    full(JournalFile::Segment(4));
    assert_eq!(
        disk.create(JournalFile::Segment(4), BLOCK),
        Err(DiskError::NoSpace)
    );
    assert!(!folder.path().join("segment-00000004").is_symlink());
}

#[test]
fn recovery_reads_and_writes_anywhere_with_any_memory() {
    both(|folder, directory| {
        let file = JournalFile::Segment(7);
        let mut disk = BlockingDisk::new(&directory);
        assert_eq!(disk.size(file), Err(DiskError::Absent));
        assert_eq!(disk.create(file, 3 << 20), Ok(()));
        let bytes = pattern(1, 700 * BLOCK_BYTES + 1);
        assert_eq!(disk.write(file, BLOCK, &bytes[1..]), Ok(()));
        assert_eq!(disk.sync(file), Ok(()));
        for (skip, len) in [(0, 10), (1, 4096), (4095, 2), (5000, 1_500_000)] {
            let mut got = vec![0; len];
            assert_eq!(disk.read(file, BLOCK + skip as u64, &mut got), Ok(()));
            assert!(got == bytes[1 + skip..1 + skip + len]);
        }
        assert_eq!(disk.truncate(file, 2 * BLOCK), Ok(()));
        assert_eq!(disk.size(file), Ok(2 * BLOCK));
        let mut got = [0; 100];
        assert_eq!(disk.read(file, 2 * BLOCK - 100, &mut got), Ok(()));
        assert_eq!(
            disk.read(file, 2 * BLOCK - 99, &mut got),
            Err(DiskError::Short)
        );
        assert_eq!(disk.create(JournalFile::Superblock, 0), Ok(()));
        for stranger in ["segment-7", "notes.txt", "lost+found"] {
            std::fs::write(folder.path().join(stranger), b"x").expect("a folder of our own");
        }
        assert_eq!(disk.list(), Ok(vec![JournalFile::Superblock, file]));
        assert_eq!(disk.remove(file), Ok(()));
        assert_eq!(disk.remove(file), Err(DiskError::Absent));
        assert_eq!(disk.list(), Ok(vec![JournalFile::Superblock]));
    });
}

#[test]
fn a_directory_is_used_by_one_at_a_time() {
    let folder = Folder::new();
    let path = folder.path().join("deep/inside");
    let first = JournalDirectory::open(&path, true).expect("it is made where it is absent");
    match JournalDirectory::open(&path, true) {
        Err(DirectoryError::InUse(named)) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    }
    let disk = BlockingDisk::new(&first);
    drop(first);
    assert!(
        JournalDirectory::open(&path, true).is_err(),
        "the disk holds the lock too"
    );
    drop(disk);
    JournalDirectory::open(&path, true).expect("the lock is gone");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    // Nobody makes files there, root included.
    match JournalDirectory::open(std::path::Path::new("/sys"), true) {
        Err(error @ DirectoryError::NotWritable(..)) => {
            assert!(error.to_string().contains("/sys"));
        }
        other => panic!("{other:?}"),
    }
    let folder = Folder::new();
    let file = folder.path().join("file");
    std::fs::write(&file, b"x").expect("a folder of our own");
    assert!(matches!(
        JournalDirectory::open(&file.join("below"), true),
        Err(DirectoryError::Unusable(..))
    ));
}

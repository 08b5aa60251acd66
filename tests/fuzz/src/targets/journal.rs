//! A start on an image of a journal's directory. An input is a list of steps, each one damage to one file of a journal that
//! was written whole: bits, zeros, blocks of other places, short and lost files. A start refuses, in words, or it comes to a
//! state that the journal had, to the byte, and a second start comes to the same. Where only one place rotted, all that was
//! acknowledged is there, or the start says what is not. Steps that close a header's checksum behind them make other
//! journals, of which only is asked that no start panics. J-2 to J-13, J-51, J-52

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use tiderace_base::checksum::{Crc32c, crc32c};
use tiderace_base::disk::{Disk, JournalFile};
use tiderace_base::limits::BLOCK_BYTES;
use tiderace_storage::open;

use sim::world::disk::{Power, SimDisk};

use super::scribe::{Owner, Scribe, States, now, settings};
use crate::target::{Taken, Target, no_seal};

/// See the module.
pub const TARGET: Target = Target {
    name: "journal",
    about: "a start on a damaged journal: refused, or a state that it had, the same at the next start",
    corpus,
    seal: no_seal,
    run,
};

/// Journal, file, kind, three bytes of a position, an argument, and whether a checksum is closed.
const STEP_BYTES: usize = 8;
const STEPS_MAX: usize = 8;

type Files = BTreeMap<JournalFile, Arc<Vec<u8>>>;

/// A journal, whole, and its states by where the log ended then.
struct Whole {
    files: Files,
    written: BTreeMap<u64, States>,
}

static WHOLE: LazyLock<Vec<Whole>> = LazyLock::new(|| {
    let written = [(1, 3), (2, 40), (3, 120), (4, 260)];
    let journals = written.map(|(seed, entries)| {
        let (mut disk, written) = Scribe::new(seed).write(entries);
        Whole {
            files: files_of(&mut disk),
            written,
        }
    });
    journals.into()
});

fn files_of(disk: &mut SimDisk) -> Files {
    let names = disk.list().expect("there is power");
    let files = names.into_iter().map(|file| {
        let size = disk.size(file).expect("it is listed") as usize;
        let mut bytes = vec![0; size];
        disk.read(file, 0, &mut bytes).expect("it has so many");
        (file, Arc::new(bytes))
    });
    files.collect()
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    for journal in 0..4 {
        for kind in 0..KINDS {
            for file in [0, 1, 3, 7] {
                corpus.push(vec![journal, file, kind, 9 + file, 1, 0, 3, 0]);
                corpus.push(vec![journal, file, kind, 40, 0, 0, 200, 1]);
            }
        }
    }
    corpus
}

const KINDS: u8 = 8;

/// What a list of steps did.
#[derive(Clone, Copy, Default)]
struct Done {
    changes: usize,
    is_forged: bool,
    /// A segment's file lost its end: an old image of itself, which nothing on its own disk tells.
    is_cut: bool,
}

fn damage(files: &mut Files, input: &[u8]) -> Done {
    let mut done = Done::default();
    for step in input.chunks_exact(STEP_BYTES).take(STEPS_MAX) {
        let Some(file) = files
            .keys()
            .nth(usize::from(step[1]) % files.len().max(1))
            .copied()
        else {
            break;
        };
        let before = Arc::clone(&files[&file]);
        let position = u32::from_le_bytes([step[3], step[4], step[5], 0]) as usize;
        let argument = usize::from(step[6]);
        if step[2] % KINDS == 5 {
            files.remove(&file);
            done.changes += 1;
            continue;
        }
        if before.is_empty() {
            continue;
        }
        let at = position % before.len();
        let block = at - at % BLOCK_BYTES;
        let block_end = (block + BLOCK_BYTES).min(before.len());
        let mut bytes = before.to_vec();
        match step[2] % KINDS {
            0 => bytes[at] ^= 1 << (argument % 8),
            1 => bytes[block..block_end].fill(0),
            2 => {
                let sector = at - at % 512;
                let end = (sector + 512).min(bytes.len());
                bytes[sector..end].fill(0);
            }
            3 => {
                // A block of another place of the same file, or of another file.
                let from = files.values().nth(argument % files.len());
                let from = from.filter(|from| from.len() >= BLOCK_BYTES);
                let from = from.unwrap_or(&before);
                let blocks = from.len() / BLOCK_BYTES;
                let other = argument.wrapping_mul(7) % blocks.max(1) * BLOCK_BYTES;
                let length = (block_end - block).min(from.len().saturating_sub(other));
                bytes[block..block + length].copy_from_slice(&from[other..other + length]);
            }
            4 => {
                bytes.truncate(at);
                done.is_cut |= matches!(file, JournalFile::Segment(_));
            }
            6 => {
                let mut state = u32::from_le_bytes([step[3], step[4], step[6], 1]);
                for byte in bytes[at..].iter_mut().take(argument + 1) {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *byte = (state >> 24) as u8;
                }
            }
            _ => {
                let number = [0, 1, 0x7fff_ffff, u32::MAX][argument % 4].to_le_bytes();
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&number[..end - at]);
            }
        }
        if step[7] % 4 == 1 {
            done.is_forged |= close(file, &mut bytes, block);
        }
        if bytes != *before {
            done.changes += 1;
            files.insert(file, Arc::new(bytes));
        }
    }
    done
}

/// Closes the checksum of the header that a block begins with, as `docs/journal.md` lays them out.
fn close(file: JournalFile, bytes: &mut [u8], block: usize) -> bool {
    let Some(bytes) = bytes.get_mut(block..block + BLOCK_BYTES) else {
        return false;
    };
    let (at, crc) = match file {
        JournalFile::Superblock => (508, crc32c(&bytes[..508])),
        JournalFile::Footer(_) => (124, crc32c(&bytes[..124])),
        JournalFile::Segment(_) if block > 0 => {
            let mut crc = Crc32c::new();
            crc.update(&bytes[..124]);
            crc.update(&bytes[128..]);
            (124, crc.finish())
        }
        JournalFile::Segment(_) | JournalFile::Checkpoint(_) => (4092, crc32c(&bytes[..4092])),
    };
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    true
}

fn run(input: &[u8]) -> Taken {
    let whole = &WHOLE[usize::from(input.first().copied().unwrap_or_default()) % WHOLE.len()];
    let mut files = whole.files.clone();
    let done = damage(&mut files, input);
    let mut disk = SimDisk::new(7, &Power::default());
    for (file, bytes) in &files {
        disk.place(*file, Arc::clone(bytes));
    }
    let mut owner = Owner::default();
    let journal = match open(&mut disk, settings(100), now(1), &mut owner) {
        Ok(journal) => journal,
        Err(error) => {
            assert!(done.changes > 0, "a whole journal is refused: {error}");
            assert!(!error.to_string().is_empty());
            return Taken::No;
        }
    };
    let mut again = Owner::default();
    let end = journal.end_lsn();
    let is_marked = !journal.marks().is_empty();
    drop(journal);
    let second = open(&mut disk, settings(101), now(2), &mut again);
    if done.is_forged {
        return Taken::Yes;
    }
    assert_eq!(owner.wrong, None);
    let before = whole.written.range(..=end.get()).next_back();
    let (_, states) = before.expect("the beginning is a state");
    assert_eq!(&owner.states, states, "a state that it had at {end}");
    let second = second.expect("what a start leaves, the next one takes");
    assert_eq!(again.wrong, None);
    assert_eq!(again.states, owner.states, "a second start changes nothing");
    assert!(second.end_lsn() >= end);
    let is_complete = Some(states) == whole.written.values().next_back();
    assert!(
        is_complete || is_marked || done.changes > 1 || done.is_cut,
        "one damaged place, and what was acknowledged is gone in silence"
    );
    Taken::Yes
}

//! The bytes of a disk recording: what one run of a node asked of its journals' files, what the kernel answered, and what the
//! node was told and said over its connections, in one order. Written by a build with the feature `disk-recording` and by
//! no other; read by the tool that builds crash images from it. Pure: no file and no clock.
//!
//! The order is the guarantee. An operation is noted before the kernel sees it and its end after the kernel said so; what
//! a node sends is noted before the network sees it, what it receives before the machine does. So whatever stands behind a
//! place in the recording had no effect outside the node yet when power was lost there.
//!
//! A recording is a file that begins with [`MAGIC`], then records: a length u32, then that many bytes. All numbers are
//! little-endian. A process that was killed may leave its last record unfinished; nothing of it had happened.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::fmt;
use tiderace_base::disk::JournalFile;

/// The first bytes of a recording.
pub const MAGIC: [u8; 8] = *b"TRDREC01";
/// The token of an operation of recovery, which has one at a time.
pub const BLOCKING: u64 = u64::MAX;
/// The longest record: a chunk or a send, with much room to spare.
const RECORD_BYTES_MAX: usize = 1 << 28;

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which journal, or whose connection: a number that [`Event::Opened`] gave.
    pub journal: u16,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A process opened a journal: the number stands for the folder of this name from here on.
    Opened {
        /// The folder's name below the data directory.
        name: String,
    },
    /// An operation is about to be handed to the kernel.
    Began {
        /// Names it until it ends; unique among the journal's operations in flight.
        token: u64,
        /// What is asked.
        operation: Operation,
    },
    /// The kernel ended an operation.
    Ended {
        /// Which.
        token: u64,
        /// Bytes written, or zero; below zero: the errno.
        result: i32,
    },
    /// Bytes arrived from a client, in order.
    Received {
        /// On which of the journal's connections.
        connection: u64,
        /// Which.
        bytes: Bytes,
    },
    /// Bytes are about to be sent to a client, in order.
    Sending {
        /// On which of the journal's connections.
        connection: u64,
        /// Which.
        bytes: Bytes,
    },
}

/// What is asked of the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Write bytes.
    Write {
        /// Where to.
        file: JournalFile,
        /// Byte position.
        at: u64,
        /// What.
        data: Bytes,
        /// Whether with `RWF_DSYNC`.
        durable: bool,
    },
    /// Write zeros, as a file's preparation does.
    Zero {
        /// Where to.
        file: JournalFile,
        /// Byte position.
        at: u64,
        /// How many.
        bytes: u64,
    },
    /// Make a file's bytes and length durable.
    Sync {
        /// Which.
        file: JournalFile,
    },
    /// Make the directory's entries durable.
    SyncDirectory,
    /// Open with `O_CREAT | O_TRUNC`.
    Create {
        /// Which.
        file: JournalFile,
    },
    /// Cut a file.
    Truncate {
        /// Which.
        file: JournalFile,
        /// To how many bytes.
        bytes: u64,
    },
    /// Remove a file's entry.
    Unlink {
        /// Which.
        file: JournalFile,
    },
}

/// Why bytes are no recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a disk recording of this version, or a damaged one")
    }
}

impl std::error::Error for Malformed {}

impl Record {
    /// Appends the record's bytes, its length first.
    ///
    /// # Panics
    /// When it has more bytes than any operation of a node.
    pub fn encode(&self, out: &mut BytesMut) {
        let begin = out.len();
        out.put_u32_le(0);
        out.put_u16_le(self.journal);
        match &self.event {
            Event::Opened { name } => {
                out.put_u8(0);
                out.put_slice(name.as_bytes());
            }
            Event::Began { token, operation } => {
                out.put_u8(1);
                out.put_u64_le(*token);
                operation.encode(out);
            }
            Event::Ended { token, result } => {
                out.put_u8(2);
                out.put_u64_le(*token);
                out.put_i32_le(*result);
            }
            Event::Received { connection, bytes } => {
                out.put_u8(3);
                out.put_u64_le(*connection);
                out.put_slice(bytes);
            }
            Event::Sending { connection, bytes } => {
                out.put_u8(4);
                out.put_u64_le(*connection);
                out.put_slice(bytes);
            }
        }
        let len = out.len() - begin - 4;
        assert!(len <= RECORD_BYTES_MAX, "a record of {len} bytes");
        out[begin..begin + 4].copy_from_slice(&(len as u32).to_le_bytes());
    }

    /// Takes the next record off the front; none at the end, and none when the last one is unfinished.
    ///
    /// # Errors
    /// The bytes are none that [`Record::encode`] writes.
    pub fn decode(input: &mut Bytes) -> Result<Option<Self>, Malformed> {
        let mut front = input.clone();
        let Ok(len) = front.try_get_u32_le() else {
            return Ok(None);
        };
        let len = len as usize;
        if len > RECORD_BYTES_MAX {
            return Err(Malformed);
        }
        if front.len() < len {
            return Ok(None);
        }
        let record = Self::of(front.split_to(len)).ok_or(Malformed)?;
        *input = front;
        Ok(Some(record))
    }

    fn of(mut bytes: Bytes) -> Option<Self> {
        let journal = bytes.try_get_u16_le().ok()?;
        let event = match bytes.try_get_u8().ok()? {
            0 => Event::Opened {
                name: String::from_utf8(bytes.to_vec()).ok()?,
            },
            1 => Event::Began {
                token: bytes.try_get_u64_le().ok()?,
                operation: Operation::of(bytes)?,
            },
            2 => Event::Ended {
                token: bytes.try_get_u64_le().ok()?,
                result: bytes.try_get_i32_le().ok()?,
            },
            3 => Event::Received {
                connection: bytes.try_get_u64_le().ok()?,
                bytes,
            },
            4 => Event::Sending {
                connection: bytes.try_get_u64_le().ok()?,
                bytes,
            },
            _ => return None,
        };
        Some(Self { journal, event })
    }
}

impl Operation {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Write {
                file,
                at,
                data,
                durable,
            } => {
                out.put_u8(if *durable { 1 } else { 0 });
                put_file(out, *file);
                out.put_u64_le(*at);
                out.put_slice(data);
            }
            Self::Zero { file, at, bytes } => {
                out.put_u8(2);
                put_file(out, *file);
                out.put_u64_le(*at);
                out.put_u64_le(*bytes);
            }
            Self::Sync { file } => {
                out.put_u8(3);
                put_file(out, *file);
            }
            Self::SyncDirectory => out.put_u8(4),
            Self::Create { file } => {
                out.put_u8(5);
                put_file(out, *file);
            }
            Self::Truncate { file, bytes } => {
                out.put_u8(6);
                put_file(out, *file);
                out.put_u64_le(*bytes);
            }
            Self::Unlink { file } => {
                out.put_u8(7);
                put_file(out, *file);
            }
        }
    }

    fn of(mut bytes: Bytes) -> Option<Self> {
        let kind = bytes.try_get_u8().ok()?;
        if kind == 4 {
            return Some(Self::SyncDirectory);
        }
        let file = get_file(&mut bytes)?;
        Some(match kind {
            0 | 1 => Self::Write {
                file,
                at: bytes.try_get_u64_le().ok()?,
                data: bytes,
                durable: kind == 1,
            },
            2 => Self::Zero {
                file,
                at: bytes.try_get_u64_le().ok()?,
                bytes: bytes.try_get_u64_le().ok()?,
            },
            3 => Self::Sync { file },
            5 => Self::Create { file },
            6 => Self::Truncate {
                file,
                bytes: bytes.try_get_u64_le().ok()?,
            },
            7 => Self::Unlink { file },
            _ => return None,
        })
    }
}

fn put_file(out: &mut BytesMut, file: JournalFile) {
    let (kind, number) = match file {
        JournalFile::Superblock => (0, 0),
        JournalFile::Segment(number) => (1, u64::from(number)),
        JournalFile::Footer(number) => (2, u64::from(number)),
        JournalFile::Checkpoint(number) => (3, number),
    };
    out.put_u8(kind);
    out.put_u64_le(number);
}

fn get_file(bytes: &mut Bytes) -> Option<JournalFile> {
    let kind = bytes.try_get_u8().ok()?;
    let number = bytes.try_get_u64_le().ok()?;
    Some(match kind {
        0 => JournalFile::Superblock,
        1 => JournalFile::Segment(u32::try_from(number).ok()?),
        2 => JournalFile::Footer(u32::try_from(number).ok()?),
        3 => JournalFile::Checkpoint(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Record> {
        let file = JournalFile::Segment(7);
        let operations = [
            Operation::Write {
                file,
                at: 4096,
                data: Bytes::from_static(b"chunk"),
                durable: true,
            },
            Operation::Write {
                file: JournalFile::Checkpoint(u64::MAX),
                at: 0,
                data: Bytes::from_static(b"part"),
                durable: false,
            },
            Operation::Zero {
                file,
                at: 1 << 20,
                bytes: 1 << 20,
            },
            Operation::Sync {
                file: JournalFile::Superblock,
            },
            Operation::SyncDirectory,
            Operation::Create {
                file: JournalFile::Footer(3),
            },
            Operation::Truncate { file, bytes: 8192 },
            Operation::Unlink { file },
        ];
        let mut events = vec![
            Event::Opened {
                name: "shard-0001".to_owned(),
            },
            Event::Ended {
                token: BLOCKING,
                result: -28,
            },
            Event::Received {
                connection: 9,
                bytes: Bytes::from_static(b"produce"),
            },
            Event::Sending {
                connection: 9,
                bytes: Bytes::from_static(b"produced"),
            },
        ];
        events.extend(operations.map(|operation| Event::Began {
            token: 11,
            operation,
        }));
        events
            .into_iter()
            .map(|event| Record { journal: 2, event })
            .collect()
    }

    #[test]
    fn what_is_written_is_read_and_an_unfinished_end_is_left_out() {
        let mut out = BytesMut::new();
        for record in samples() {
            record.encode(&mut out);
        }
        let whole = out.freeze();
        for cut in [0, 1, 5] {
            let mut input = whole.slice(..whole.len() - cut);
            let mut found = Vec::new();
            while let Some(record) = Record::decode(&mut input).expect("it is one") {
                found.push(record);
            }
            let expected = samples().len() - usize::from(cut > 0);
            assert_eq!(found, samples()[..expected], "{cut} bytes are missing");
        }
    }

    #[test]
    fn bytes_that_are_no_recording_are_refused() {
        let mut out = BytesMut::new();
        samples()[0].encode(&mut out);
        out[6] = 99;
        assert_eq!(Record::decode(&mut out.freeze()), Err(Malformed));
        let mut huge = Bytes::from_static(&[255; 16]);
        assert_eq!(Record::decode(&mut huge), Err(Malformed));
    }
}

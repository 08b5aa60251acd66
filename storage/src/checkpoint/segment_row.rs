//! The row of the segment table: which file held which life of the log, from where to where. Recovery finds the segments of
//! the log by these rows without opening one.

use super::cell::Cell;
use super::kind;
use crate::format::{COUNT_MAX, FILE_NUMBER_MAX};
use core::fmt;
use core::mem::offset_of;
use tiderace_base::position::Lsn;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One sealed life of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentRow {
    /// The life's number.
    pub seq: u64,
    /// The segment file that holds it.
    pub file: u32,
    /// `first_crc` of its last chunk, 0 when it has none.
    pub last_crc: u32,
    /// The life's salt.
    pub salt: u64,
    /// LSN of its first byte.
    pub start: Lsn,
    /// LSN at which it ended.
    pub end: Lsn,
}

/// Why a cell is no row of the segment table. In a part whose checksum holds it is a bug of the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentRowError {
    /// The key is not a number of 8 bytes.
    Key,
    /// The value does not have the length of a row.
    Length,
    /// The life ends before it starts.
    Order,
    /// A number is greater than any that a journal gives.
    Number,
}

impl fmt::Display for SegmentRowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => write!(f, "the key of a segment's row is not 8 bytes"),
            Self::Length => write!(f, "the value of a segment's row has another length"),
            Self::Order => write!(f, "a segment's row ends before it starts"),
            Self::Number => write!(f, "a segment's row has a number that no journal gives"),
        }
    }
}

impl core::error::Error for SegmentRowError {}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Value {
    file: U32,
    last_crc: U32,
    salt: U64,
    start_lsn: U64,
    end_lsn: U64,
}

const VALUE_BYTES: usize = 32;

const _: () = {
    assert!(size_of::<Value>() == VALUE_BYTES, "a row has no padding");
    assert!(
        offset_of!(Value, salt) == 8,
        "the salt follows the checksum"
    );
};

impl SegmentRow {
    /// The key of the cell.
    #[must_use]
    pub fn key(&self) -> [u8; 8] {
        self.seq.to_le_bytes()
    }

    /// The value of the cell.
    #[must_use]
    pub fn value(&self) -> [u8; VALUE_BYTES] {
        let value = Value {
            file: U32::new(self.file),
            last_crc: U32::new(self.last_crc),
            salt: U64::new(self.salt),
            start_lsn: U64::new(self.start.get()),
            end_lsn: U64::new(self.end.get()),
        };
        let mut bytes = [0; VALUE_BYTES];
        bytes.copy_from_slice(value.as_bytes());
        bytes
    }

    /// Hands the row's cell to `write`. J-59
    pub fn with_cell<R>(&self, write: impl FnOnce(Cell<'_>) -> R) -> R {
        write(Cell {
            kind: kind::SEGMENT,
            key: &self.key(),
            value: Some(&self.value()),
        })
    }

    /// Hands the cell that removes this life's row to `write`.
    pub fn with_removal<R>(seq: u64, write: impl FnOnce(Cell<'_>) -> R) -> R {
        write(Cell {
            kind: kind::SEGMENT,
            key: &seq.to_le_bytes(),
            value: None,
        })
    }

    /// Reads the key of a cell of kind [`kind::SEGMENT`], removal or not: the life's number.
    ///
    /// # Errors
    /// When the key is no such number.
    pub fn decode_seq(key: &[u8]) -> Result<u64, SegmentRowError> {
        let key = key.try_into().map_err(|_| SegmentRowError::Key)?;
        Ok(u64::from_le_bytes(key))
    }

    /// Reads a cell of kind [`kind::SEGMENT`] that is no removal.
    ///
    /// # Errors
    /// When it is no row.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, SegmentRowError> {
        let seq = Self::decode_seq(key)?;
        let value = Value::read_from_bytes(value).map_err(|_| SegmentRowError::Length)?;
        if value.end_lsn < value.start_lsn {
            return Err(SegmentRowError::Order);
        }
        if seq > COUNT_MAX || value.end_lsn.get() > COUNT_MAX || value.file.get() > FILE_NUMBER_MAX
        {
            return Err(SegmentRowError::Number);
        }
        Ok(Self {
            seq,
            file: value.file.get(),
            last_crc: value.last_crc.get(),
            salt: value.salt.get(),
            start: Lsn::new(value.start_lsn.get()),
            end: Lsn::new(value.end_lsn.get()),
        })
    }
}

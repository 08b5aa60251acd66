//! One cell: a kind, a key, and a value or the fact that the key is gone. Cells stand back to back in a part's body. Reading
//! one never trusts a length before its bound is checked, so that the reader's buffer is bounded too.

use core::fmt;

/// The longest key: the longest path and an id or two fit several times.
pub const CELL_KEY_BYTES_MAX: usize = 1024;
/// The longest value: the cells of a large table are its rows.
pub const CELL_VALUE_BYTES_MAX: usize = 256 * 1024;
/// The longest cell.
pub const CELL_BYTES_MAX: usize = HEAD_BYTES + CELL_KEY_BYTES_MAX + CELL_VALUE_BYTES_MAX;

pub(super) const HEAD_BYTES: usize = 8;
const REMOVED: u8 = 1;

/// One cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell<'a> {
    /// What it describes; never 0, so that zeros are no cell.
    pub kind: u8,
    /// Which of its kind.
    pub key: &'a [u8],
    /// What is known of it; `None`: it is gone.
    pub value: Option<&'a [u8]>,
}

/// Why bytes are no cell, or a cell cannot be written. In a part whose checksum holds it is a bug of the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellError {
    /// The bytes end within the cell: give more.
    Short,
    /// Kind 0.
    Kind,
    /// Flags that this version does not know.
    Flags(u8),
    /// The key is longer than [`CELL_KEY_BYTES_MAX`].
    Key,
    /// The value is longer than [`CELL_VALUE_BYTES_MAX`], or the cell is a removal and has one.
    Value,
}

impl fmt::Display for CellError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => write!(f, "the bytes end within the cell"),
            Self::Kind => write!(f, "no cell has kind 0"),
            Self::Flags(flags) => write!(f, "the cell has unknown flags {flags:#04x}"),
            Self::Key => write!(f, "the cell's key is too long"),
            Self::Value => write!(f, "the cell's value is too long, or a removal has one"),
        }
    }
}

impl core::error::Error for CellError {}

impl<'a> Cell<'a> {
    /// The cell's length when written.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        HEAD_BYTES + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// The eight bytes before the key. J-50
    ///
    /// # Errors
    /// When the cell exceeds a bound or has kind 0.
    pub(super) fn head(&self) -> Result<[u8; HEAD_BYTES], CellError> {
        let value_bytes = self.value.map_or(0, <[u8]>::len);
        if self.kind == 0 {
            return Err(CellError::Kind);
        }
        if self.key.len() > CELL_KEY_BYTES_MAX {
            return Err(CellError::Key);
        }
        if value_bytes > CELL_VALUE_BYTES_MAX {
            return Err(CellError::Value);
        }
        let mut head = [0; HEAD_BYTES];
        head[0] = self.kind;
        head[1] = if self.value.is_none() { REMOVED } else { 0 };
        head[2..4].copy_from_slice(&(self.key.len() as u16).to_le_bytes());
        head[4..8].copy_from_slice(&(value_bytes as u32).to_le_bytes());
        Ok(head)
    }

    /// Appends the cell to `into`.
    ///
    /// # Errors
    /// When the cell exceeds a bound or has kind 0; nothing is appended then.
    pub fn encode(&self, into: &mut Vec<u8>) -> Result<(), CellError> {
        into.extend_from_slice(&self.head()?);
        into.extend_from_slice(self.key);
        into.extend_from_slice(self.value.unwrap_or_default());
        Ok(())
    }

    /// Reads the cell at the start of `bytes` and how long it is.
    ///
    /// # Errors
    /// `Short` when more bytes are needed; otherwise what is wrong.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), CellError> {
        let length = Self::needed_bytes(bytes)?;
        let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else {
            return Err(CellError::Short);
        };
        let key_bytes = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let Some(content) = rest.get(..length - HEAD_BYTES) else {
            return Err(CellError::Short);
        };
        let (key, value) = content.split_at(key_bytes);
        let cell = Self {
            kind: head[0],
            key,
            value: (head[1] & REMOVED == 0).then_some(value),
        };
        Ok((cell, length))
    }

    /// How many bytes the cell that starts here has as far as can be told: that of its head until that is complete.
    pub(super) fn needed_bytes(bytes: &[u8]) -> Result<usize, CellError> {
        let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
            return Ok(HEAD_BYTES);
        };
        let key_bytes = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let value_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if head[0] == 0 {
            return Err(CellError::Kind);
        }
        if head[1] & !REMOVED != 0 {
            return Err(CellError::Flags(head[1]));
        }
        if key_bytes > CELL_KEY_BYTES_MAX {
            return Err(CellError::Key);
        }
        let removed = head[1] & REMOVED != 0;
        if value_bytes > CELL_VALUE_BYTES_MAX || (removed && value_bytes > 0) {
            return Err(CellError::Value);
        }
        Ok(HEAD_BYTES + key_bytes + value_bytes)
    }
}

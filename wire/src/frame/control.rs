//! What the control threads of a zone say to each other. Its bytes are published as far as a link has to know them; what a letter
//! says is `control`'s own.

use super::write_frame;
use crate::layout::{ControlError, fixed};
use crate::link::{Flags, Kind};
use bytes::BytesMut;
use tiderace_base::ids::MessageId;

fixed!(
    /// A letter, before what it says.
    pub(crate) struct ControlLetterHead [8] {
        /// What the letter is.
        letter: u8, pad 3;
        /// How many bytes follow.
        bytes: u32;
    }
);

/// A letter between control threads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlLetter<'a> {
    /// What it is.
    pub letter: u8,
    /// What it says.
    pub bytes: &'a [u8],
}

impl<'a> ControlLetter<'a> {
    /// The kind of its frame.
    pub const KIND: Kind = Kind::ControlLetter;

    /// Reads a control section; what the letter says is not copied.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(control: &'a [u8]) -> Result<Self, ControlError> {
        let (head, bytes) = ControlLetterHead::from_prefix(control)?;
        match bytes.len().cmp(&(head.bytes as usize)) {
            core::cmp::Ordering::Less => return Err(ControlError::Short),
            core::cmp::Ordering::Equal => {}
            core::cmp::Ordering::Greater => return Err(ControlError::Long),
        }
        Ok(Self {
            letter: head.letter,
            bytes,
        })
    }

    /// Appends the whole frame.
    ///
    /// # Panics
    /// When the letter says nothing, or more than a frame holds.
    pub fn encode(&self, out: &mut BytesMut, message_id: MessageId) {
        write_frame(out, Self::KIND, Flags::NONE, message_id, 0, |out| {
            let head = ControlLetterHead {
                letter: self.letter,
                bytes: u32::try_from(self.bytes.len()).expect("a letter keeps its limit"),
            };
            out.extend_from_slice(&head.to_bytes());
            out.extend_from_slice(self.bytes);
        });
    }
}

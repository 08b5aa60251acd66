//! Puts frames together from whatever pieces the network delivers. A frame inside one piece costs no allocation and no
//! copy: it is slices of that piece. A frame that spans pieces holds a few of them; beyond that it moves into a buffer
//! of its own, which grows with what has arrived and never past the frame. Refuses a header before it waits for what the
//! header announces, so damaged or hostile lengths cost nothing.

use crate::error::ErrorCode;
use crate::link::{Direction, Kind, LinkHeader};
use bytes::{Buf, Bytes, BytesMut};
use tiderace_base::limits::{
    FIRST_FRAME_BYTES_MAX, KIB, LINK_HEADER_BYTES, RECEIVE_BUFFERS_HELD_MAX,
};

/// A frame's own buffer is at most this much larger than what has arrived of it.
const GROWTH: usize = 8;
/// A frame's own buffer is never smaller than this, unless the frame is.
const OWN_BUFFER_BYTES_MIN: usize = 64 * KIB;

/// Bytes that may lie apart in memory, in order, without empty pieces.
#[derive(Clone, Debug, Default)]
pub enum Pieces {
    /// No bytes.
    #[default]
    None,
    /// In one piece.
    One(Bytes),
    /// In more than one.
    Many(Vec<Bytes>),
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        *self = match core::mem::take(self) {
            Self::None => Self::One(piece),
            Self::One(first) => Self::Many(vec![first, piece]),
            Self::Many(mut pieces) => {
                pieces.push(piece);
                Self::Many(pieces)
            }
        };
    }

    /// The pieces, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Self::None => &[],
            Self::One(piece) => core::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }

    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.as_slice().iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The pieces, as a list.
    #[must_use]
    pub fn into_vec(self) -> Vec<Bytes> {
        match self {
            Self::None => Vec::new(),
            Self::One(piece) => vec![piece],
            Self::Many(pieces) => pieces,
        }
    }

    /// Fills `out` from the front; `false` when there are fewer bytes than it wants.
    #[must_use]
    pub fn copy_prefix(&self, out: &mut [u8]) -> bool {
        let mut filled = 0;
        for piece in self.as_slice() {
            let count = piece.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
        }
        filled == out.len()
    }

    /// All bytes in one piece: copied only when they are not.
    #[must_use]
    pub fn into_contiguous(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(piece) => piece,
            Self::Many(pieces) => pieces.concat().into(),
        }
    }
}

impl PartialEq for Pieces {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |pieces: &Self| {
            pieces
                .as_slice()
                .iter()
                .flat_map(|piece| piece.to_vec())
                .collect::<Vec<u8>>()
        };
        bytes(self) == bytes(other)
    }
}

impl Eq for Pieces {}

/// A control section in one piece. A short one, as a produce frame's, is copied: that costs less than one more reference
/// to the piece that it lies in.
#[derive(Clone)]
pub struct Section(Held);

#[derive(Clone)]
enum Held {
    /// Copied: so many bytes from the front.
    Short(u8, [u8; SHORT_BYTES_MAX]),
    /// As it arrived.
    Long(Bytes),
}

/// The most that is copied: what makes a section no larger than a reference.
const SHORT_BYTES_MAX: usize = 23;

impl Section {
    /// Cuts the first `len` bytes off a piece.
    ///
    /// # Panics
    /// When the piece has fewer.
    #[inline]
    fn cut(piece: &mut Bytes, len: usize) -> Self {
        if len > SHORT_BYTES_MAX {
            return Self(Held::Long(piece.split_to(len)));
        }
        let bytes = match piece.first_chunk() {
            // What lies behind the section is copied along, and never looked at.
            Some(first) => *first,
            None => {
                let mut bytes = [0; SHORT_BYTES_MAX];
                bytes[..len].copy_from_slice(&piece[..len]);
                bytes
            }
        };
        use_up(piece, len);
        Self(Held::Short(len as u8, bytes))
    }
}

const _: () = assert!(
    size_of::<Section>() == size_of::<Bytes>(),
    "a section is no larger than a reference"
);

impl core::ops::Deref for Section {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Short(len, bytes) => &bytes[..usize::from(*len)],
            Held::Long(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Section {
    fn from(bytes: Bytes) -> Self {
        Self(Held::Long(bytes))
    }
}

impl PartialEq for Section {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Section {}

impl core::fmt::Debug for Section {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(&**self).finish()
    }
}

/// Goes past the first `len` bytes of a piece. One that is used up is let go of: what it lies in may be a receive buffer, and
/// a connection that waits, or is idle, must not keep one.
#[inline]
fn use_up(piece: &mut Bytes, len: usize) {
    if len == piece.len() {
        *piece = Bytes::new();
    } else {
        piece.advance(len);
    }
}

/// What goes before a frame's batches, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Front {
    /// Checked.
    pub header: LinkHeader,
    /// Its checksum holds.
    pub control: Section,
}

/// A whole frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Checked.
    pub front: Front,
    /// The batches, as they arrived. Nothing about them is checked but their size.
    pub batch: Pieces,
}

/// The first `len` bytes of pieces: what lies behind them in the last piece belongs to somebody else.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pieces: &'a [Bytes],
    len: usize,
}

impl<'a> View<'a> {
    /// All bytes of `pieces`.
    #[must_use]
    pub fn all(pieces: &'a [Bytes]) -> Self {
        let len = pieces.iter().map(Bytes::len).sum();
        Self { pieces, len }
    }

    /// How many bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub const fn len(self) -> usize {
        self.len
    }

    /// The bytes, in order, as slices that are not empty.
    #[inline]
    pub fn slices(self) -> impl Iterator<Item = &'a [u8]> {
        let mut left = self.len;
        self.pieces.iter().filter_map(move |piece| {
            let count = piece.len().min(left);
            left -= count;
            (count > 0).then(|| &piece[..count])
        })
    }
}

/// Where the batches of the frame lie whose front was given.
#[derive(Debug)]
enum Behind {
    /// The next bytes of the current piece, so many.
    Here(usize),
    /// In pieces of their own.
    Apart(Pieces),
}

/// Which end of a link receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// A node, from a client.
    Node,
    /// A client, from a node.
    Client,
    /// A node, from a node of its zone.
    Peer,
}

impl Receiver {
    /// Whether frames of this kind may arrive here at all.
    #[must_use]
    pub const fn takes(self, kind: Kind) -> bool {
        match (self, kind.direction()) {
            (Self::Node, Direction::ToNode | Direction::Both)
            | (Self::Client, Direction::ToClient | Direction::Both) => true,
            (Self::Node, Direction::ToClient | Direction::Zone)
            | (Self::Client, Direction::ToNode | Direction::Zone) => false,
            (
                Self::Peer,
                Direction::ToNode | Direction::ToClient | Direction::Both | Direction::Zone,
            ) => true,
        }
    }
}

/// What has arrived of a frame that is not whole.
#[derive(Debug)]
enum Partial {
    /// A part of the header, copied: a few bytes hold no receive buffer.
    Header {
        bytes: [u8; LINK_HEADER_BYTES],
        len: usize,
    },
    /// Pieces of what follows the header, as they arrived.
    Held {
        header: LinkHeader,
        pieces: Vec<Bytes>,
        len: usize,
    },
    /// The same in a buffer of the frame's own.
    Own { header: LinkHeader, bytes: BytesMut },
}

const NOTHING: Partial = Partial::Header {
    bytes: [0; LINK_HEADER_BYTES],
    len: 0,
};

/// Puts the frames of one connection and direction together.
#[derive(Debug)]
pub struct Assembler {
    receiver: Receiver,
    is_open: bool,
    failed: Option<ErrorCode>,
    piece: Bytes,
    partial: Partial,
    behind: Behind,
}

impl Assembler {
    /// An assembler before the handshake: it takes frames of at most [`FIRST_FRAME_BYTES_MAX`].
    #[must_use]
    pub const fn new(receiver: Receiver) -> Self {
        Self {
            receiver,
            is_open: false,
            failed: None,
            piece: Bytes::new(),
            partial: NOTHING,
            behind: Behind::Here(0),
        }
    }

    /// The handshake is done: from the next frame on, the bounds of its kind are the only ones.
    pub const fn open(&mut self) {
        self.is_open = true;
    }

    /// Takes what arrived.
    ///
    /// # Panics
    /// When the piece before was not used up: call [`Assembler::next_frame`] until it gives none.
    pub fn push(&mut self, piece: Bytes) {
        assert!(
            self.piece.is_empty() || self.failed.is_some(),
            "frames are taken before more is pushed"
        );
        self.piece = piece;
    }

    /// The next whole frame; `None` when more must arrive.
    ///
    /// # Errors
    /// The code with which the connection ends. Every later call says the same.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ErrorCode> {
        let front = self.next_front()?;
        Ok(front.map(|front| Frame {
            front,
            batch: self.take_batch(),
        }))
    }

    /// The front of the next whole frame; `None` when more must arrive. Its batches are seen by [`Assembler::batch`], without
    /// a reference to what they lie in, or taken by [`Assembler::take_batch`]; the next call skips what is left of them.
    ///
    /// # Errors
    /// As [`Assembler::next_frame`].
    pub fn next_front(&mut self) -> Result<Option<Front>, ErrorCode> {
        if let Some(code) = self.failed {
            return Err(code);
        }
        self.skip_batch();
        let result = self.advance();
        if let Err(code) = result {
            self.failed = Some(code);
            self.piece = Bytes::new();
            self.partial = NOTHING;
        }
        result
    }

    /// The batches of the frame whose front was given last.
    #[must_use]
    pub fn batch(&self) -> View<'_> {
        match &self.behind {
            Behind::Here(len) => View {
                pieces: core::slice::from_ref(&self.piece),
                len: *len,
            },
            Behind::Apart(pieces) => View::all(pieces.as_slice()),
        }
    }

    /// The same, to keep.
    pub fn take_batch(&mut self) -> Pieces {
        match core::mem::replace(&mut self.behind, Behind::Here(0)) {
            Behind::Here(0) => Pieces::None,
            Behind::Here(len) => Pieces::One(self.piece.split_to(len)),
            Behind::Apart(pieces) => pieces,
        }
    }

    /// Lets the batches go.
    pub fn skip_batch(&mut self) {
        match core::mem::replace(&mut self.behind, Behind::Here(0)) {
            Behind::Here(len) => use_up(&mut self.piece, len),
            Behind::Apart(_) => {}
        }
    }

    /// Bytes that an incomplete frame holds here, receive buffers counted by what is used of them.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.piece.len()
            + match &self.partial {
                Partial::Header { .. } => 0,
                Partial::Held { len, .. } => *len,
                Partial::Own { bytes, .. } => bytes.capacity(),
            }
    }

    /// Receive buffers that an incomplete frame holds here.
    #[must_use]
    pub fn held_pieces(&self) -> usize {
        usize::from(!self.piece.is_empty())
            + match &self.partial {
                Partial::Held { pieces, .. } => pieces.len(),
                Partial::Header { .. } | Partial::Own { .. } => 0,
            }
    }

    /// Whether a frame has begun and is not whole.
    #[must_use]
    pub fn is_midway(&self) -> bool {
        !self.piece.is_empty() || !matches!(self.partial, Partial::Header { len: 0, .. })
    }

    fn advance(&mut self) -> Result<Option<Front>, ErrorCode> {
        if let Partial::Header { bytes, len } = &mut self.partial {
            if *len == 0
                && let Some(first) = self.piece.first_chunk::<LINK_HEADER_BYTES>()
            {
                // The common case: nothing is pending and the whole frame lies in this piece.
                let header = self.check(first)?;
                if self.piece.len() >= header.frame_len() {
                    use_up(&mut self.piece, LINK_HEADER_BYTES);
                    let control = Section::cut(&mut self.piece, header.control_len());
                    header.check_control(&control)?;
                    self.behind = Behind::Here(header.batch_len());
                    return Ok(Some(Front { header, control }));
                }
                use_up(&mut self.piece, LINK_HEADER_BYTES);
                self.begin(header);
            } else {
                let count = self.piece.len().min(LINK_HEADER_BYTES - *len);
                bytes[*len..*len + count].copy_from_slice(&self.piece[..count]);
                *len += count;
                use_up(&mut self.piece, count);
                if *len < LINK_HEADER_BYTES {
                    return Ok(None);
                }
                let bytes = *bytes;
                let header = self.check(&bytes)?;
                self.begin(header);
            }
        }
        self.fill()
    }

    #[inline]
    fn check(&self, bytes: &[u8; LINK_HEADER_BYTES]) -> Result<LinkHeader, ErrorCode> {
        let header = LinkHeader::parse(bytes)?;
        // P-30: what may not arrive here is refused before its bytes are awaited.
        if !self.receiver.takes(header.kind()) {
            return Err(ErrorCode::BadKind);
        }
        // P-31: before it is known, a peer costs one small frame.
        if !self.is_open && header.frame_len() > FIRST_FRAME_BYTES_MAX {
            return Err(
                if self.receiver == Receiver::Node && header.kind() != Kind::Hello {
                    ErrorCode::NotReady
                } else {
                    ErrorCode::BadLength
                },
            );
        }
        Ok(header)
    }

    fn begin(&mut self, header: LinkHeader) {
        self.partial = Partial::Held {
            header,
            pieces: Vec::new(),
            len: 0,
        };
    }

    /// Adds what is there of the current piece to the frame that has begun.
    fn fill(&mut self) -> Result<Option<Front>, ErrorCode> {
        if let Partial::Held {
            header,
            pieces,
            len,
        } = &mut self.partial
        {
            let wanted = header.frame_len() - LINK_HEADER_BYTES;
            let count = self.piece.len().min(wanted - *len);
            // P-32: a few receive buffers at most; then the frame moves into a buffer of its own.
            if count > 0 && *len + count < wanted && pieces.len() >= RECEIVE_BUFFERS_HELD_MAX {
                let mut bytes = BytesMut::new();
                reserve(&mut bytes, *len + count, wanted);
                for piece in pieces.iter() {
                    bytes.extend_from_slice(piece);
                }
                let header = *header;
                self.partial = Partial::Own { header, bytes };
            } else {
                if count > 0 {
                    pieces.push(self.piece.split_to(count));
                    *len += count;
                }
                if *len < wanted {
                    return Ok(None);
                }
                let whole = assemble(*header, core::mem::take(pieces));
                return self.assembled(whole);
            }
        }
        let Partial::Own { header, bytes } = &mut self.partial else {
            return Ok(None);
        };
        let wanted = header.frame_len() - LINK_HEADER_BYTES;
        let count = self.piece.len().min(wanted - bytes.len());
        reserve(bytes, bytes.len() + count, wanted);
        bytes.extend_from_slice(&self.piece[..count]);
        use_up(&mut self.piece, count);
        if bytes.len() < wanted {
            return Ok(None);
        }
        let whole = assemble(*header, vec![core::mem::take(bytes).freeze()]);
        self.assembled(whole)
    }

    fn assembled(&mut self, whole: Result<Frame, ErrorCode>) -> Result<Option<Front>, ErrorCode> {
        self.partial = NOTHING;
        let Frame { front, batch } = whole?;
        self.behind = Behind::Apart(batch);
        Ok(Some(front))
    }
}

/// Makes room for `arrived` bytes of a frame that wants `wanted`: never more than the frame, never more than a multiple
/// of what has arrived.
fn reserve(bytes: &mut BytesMut, arrived: usize, wanted: usize) {
    if bytes.capacity() < arrived {
        let room = wanted.min(OWN_BUFFER_BYTES_MIN.max(arrived.saturating_mul(GROWTH)));
        // `reserve` may take more than it is asked for; a new buffer keeps the bound.
        let mut larger = BytesMut::with_capacity(room);
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
}

/// Cuts control section and batches out of what followed the header.
fn assemble(header: LinkHeader, pieces: Vec<Bytes>) -> Result<Frame, ErrorCode> {
    let control_len = header.control_len();
    let mut pieces = pieces.into_iter();
    let mut control = Bytes::new();
    let mut batch = Pieces::None;
    if control_len > 0 {
        let mut joined = BytesMut::new();
        while joined.len() < control_len {
            let mut piece = pieces
                .next()
                .expect("a whole frame has its control section");
            let count = piece.len().min(control_len - joined.len());
            let part = piece.split_to(count);
            if count == control_len {
                control = part;
                batch.push(piece);
                break;
            }
            if joined.is_empty() {
                joined.reserve(control_len);
            }
            joined.extend_from_slice(&part);
            batch.push(piece);
        }
        if control.is_empty() {
            control = joined.freeze();
        }
    }
    header.check_control(&control)?;
    for piece in pieces {
        batch.push(piece);
    }
    let control = control.into();
    Ok(Frame {
        front: Front { header, control },
        batch,
    })
}

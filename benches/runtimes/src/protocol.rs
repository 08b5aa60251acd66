//! The one protocol that all servers speak, and nothing of any runtime: length-prefixed frames, what a server checks of
//! each, and the buffer in which a connection's bytes wait until a frame is whole. Every side checks the order: a runtime
//! that loses, doubles or reorders bytes is found by the next frame.
//!
//! A frame is 16 bytes of header, little-endian (`length` u32 of the payload, `kind` u32, `seq` u64 from 0 and up by one
//! on each connection), and the payload. A connection carries one kind of request. An echo is answered with the same
//! bytes. An append is answered, when it and every append before it on the connection are on the disk, with an
//! acknowledgement: the same `seq`, and the CRC32C of the whole frame as the server copied it.

use std::fmt;

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 16;
/// The longest payload; a longer one is refused before a byte of it is waited for.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an acknowledgement.
pub(crate) const ACK_BYTES: usize = HEADER_BYTES + 4;
/// What a connection's buffer holds: one frame of the largest, and as much again so that it seldom has to be moved.
pub(crate) const BUFFER_BYTES: usize = 2 * (HEADER_BYTES + PAYLOAD_BYTES_MAX);

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Send the same bytes back.
    Echo,
    /// Write it durably, then acknowledge.
    Append,
    /// The answer to an append.
    Ack,
}

impl Kind {
    const fn number(self) -> u32 {
        match self {
            Self::Echo => 1,
            Self::Append => 2,
            Self::Ack => 3,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Bytes of the payload.
    pub(crate) length: usize,
    /// What it is.
    pub(crate) kind: Kind,
    /// Its place on its connection.
    pub(crate) seq: u64,
}

/// Why bytes are no frame of this protocol, or not the one that must come now. Each means that bytes were lost, doubled or
/// made up on the way: there is nothing to do but to end loudly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Broken {
    /// No such kind.
    Kind(u32),
    /// Longer than any, or not as long as its kind is.
    Length(usize),
    /// Not the next one.
    Order { expected: u64, found: u64 },
    /// The right place, and other bytes than were sent.
    Bytes { seq: u64 },
    /// A kind that does not belong here.
    Misplaced(Kind),
    /// The peer ended in the middle of a frame, or with answers outstanding.
    Ended { left_bytes: usize },
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "a frame of an unknown kind, {kind}: bytes were lost"),
            Self::Length(length) => {
                write!(
                    f,
                    "a frame of an impossible length, {length}: bytes were lost"
                )
            }
            Self::Order { expected, found } => {
                write!(
                    f,
                    "frame {found} came where {expected} must come: frames were lost"
                )
            }
            Self::Bytes { seq } => {
                write!(f, "frame {seq} was answered with other bytes than its own")
            }
            Self::Misplaced(kind) => write!(f, "a frame of kind {kind:?} does not belong here"),
            Self::Ended { left_bytes } => {
                write!(f, "the connection ended with {left_bytes} bytes of a frame")
            }
        }
    }
}

impl Header {
    /// Its bytes.
    pub(crate) fn bytes(self) -> [u8; HEADER_BYTES] {
        assert!(self.length <= PAYLOAD_BYTES_MAX, "longer than any frame");
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&(self.length as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.kind.number().to_le_bytes());
        bytes[8..].copy_from_slice(&self.seq.to_le_bytes());
        bytes
    }

    /// Reads it, trusting nothing.
    pub(crate) fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, Broken> {
        let [l0, l1, l2, l3, k0, k1, k2, k3, seq @ ..] = bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let kind = match u32::from_le_bytes([k0, k1, k2, k3]) {
            1 => Kind::Echo,
            2 => Kind::Append,
            3 => Kind::Ack,
            other => return Err(Broken::Kind(other)),
        };
        let fits = match kind {
            Kind::Ack => length == ACK_BYTES - HEADER_BYTES,
            Kind::Echo | Kind::Append => length <= PAYLOAD_BYTES_MAX,
        };
        if !fits {
            return Err(Broken::Length(length));
        }
        Ok(Self {
            length,
            kind,
            seq: u64::from_le_bytes(seq),
        })
    }

    /// Bytes of the whole frame.
    pub(crate) const fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.length
    }
}

/// The acknowledgement of an append.
pub(crate) fn ack(seq: u64, crc: u32) -> [u8; ACK_BYTES] {
    let header = Header {
        length: ACK_BYTES - HEADER_BYTES,
        kind: Kind::Ack,
        seq,
    };
    let mut bytes = [0; ACK_BYTES];
    bytes[..HEADER_BYTES].copy_from_slice(&header.bytes());
    bytes[HEADER_BYTES..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a server checks of the requests of one connection: one kind of them, none missing.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    kind: Option<Kind>,
    next_seq: u64,
}

impl Requests {
    /// Checks the next request.
    pub(crate) fn check(&mut self, header: Header) -> Result<(), Broken> {
        let kind = *self.kind.get_or_insert(header.kind);
        if header.kind != kind || kind == Kind::Ack {
            return Err(Broken::Misplaced(header.kind));
        }
        if header.seq != self.next_seq {
            return Err(Broken::Order {
                expected: self.next_seq,
                found: header.seq,
            });
        }
        self.next_seq += 1;
        Ok(())
    }
}

/// A connection's received bytes. The memory can be lent to a kernel that fills it while nobody looks (completion io).
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
        }
    }

    /// Makes room behind what waits, and says where it begins. There is always some: less than a frame waits.
    pub(crate) fn make_room(&mut self) -> usize {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        assert!(self.end < self.bytes.len(), "whole frames were not taken");
        self.end
    }

    /// The room, to be received into.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let end = self.make_room();
        &mut self.bytes[end..]
    }

    /// So many bytes were received into the room.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.end += bytes;
        assert!(
            self.end <= self.bytes.len(),
            "more than the room was received"
        );
    }

    /// Lends the memory and says where its room begins.
    pub(crate) fn lend(&mut self) -> (Vec<u8>, usize) {
        let end = self.make_room();
        (std::mem::take(&mut self.bytes), end)
    }

    /// Takes the memory back.
    pub(crate) fn take_back(&mut self, bytes: Vec<u8>) {
        assert!(self.bytes.is_empty(), "the memory was not lent");
        self.bytes = bytes;
    }

    /// The next whole frame, header and all.
    pub(crate) fn next(&mut self) -> Result<Option<(Header, &[u8])>, Broken> {
        let waiting = &self.bytes[self.start..self.end];
        let Some(header) = waiting.first_chunk() else {
            return Ok(None);
        };
        let header = Header::parse(*header)?;
        let Some(frame) = waiting.get(..header.frame_bytes()) else {
            return Ok(None);
        };
        self.start += frame.len();
        Ok(Some((header, frame)))
    }

    /// The peer will send no more: nothing of a frame may be left.
    pub(crate) const fn end(&self) -> Result<(), Broken> {
        match self.end - self.start {
            0 => Ok(()),
            left_bytes => Err(Broken::Ended { left_bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, seq: u64, length: usize) -> Vec<u8> {
        let mut frame = Header { length, kind, seq }.bytes().to_vec();
        frame.resize(HEADER_BYTES + length, seq as u8);
        frame
    }

    #[test]
    fn headers_round_trip() {
        for kind in [Kind::Echo, Kind::Append] {
            for length in [0, 1, 256, PAYLOAD_BYTES_MAX] {
                let header = Header {
                    length,
                    kind,
                    seq: u64::MAX - 1,
                };
                assert_eq!(Header::parse(header.bytes()), Ok(header));
            }
        }
        let ack = ack(7, 0xdead_beef);
        let header = Header::parse(*ack.first_chunk().expect("a header")).expect("an ack");
        assert_eq!((header.kind, header.seq), (Kind::Ack, 7));
        assert_eq!(header.frame_bytes(), ack.len());
        assert_eq!(ack[HEADER_BYTES..], 0xdead_beef_u32.to_le_bytes());
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut long = frame(Kind::Echo, 0, 0);
        long[..4].copy_from_slice(&(PAYLOAD_BYTES_MAX as u32 + 1).to_le_bytes());
        let parse = |bytes: &[u8]| Header::parse(*bytes.first_chunk().expect("a header"));
        assert_eq!(parse(&long), Err(Broken::Length(PAYLOAD_BYTES_MAX + 1)));
        let mut odd = frame(Kind::Echo, 0, 0);
        odd[4] = 9;
        assert_eq!(parse(&odd), Err(Broken::Kind(9)));
        assert_eq!(parse(&frame(Kind::Ack, 0, 5)), Err(Broken::Length(5)));
    }

    #[test]
    fn frames_come_out_whole_however_they_are_cut() {
        let sent: Vec<Vec<u8>> = [0, 64, PAYLOAD_BYTES_MAX, 256, 1]
            .iter()
            .cycle()
            .take(50)
            .enumerate()
            .map(|(seq, length)| frame(Kind::Append, seq as u64, *length))
            .collect();
        let stream = sent.concat();
        for piece_bytes in [1, 7, 4096, 70_000, BUFFER_BYTES] {
            let mut buffer = FrameBuffer::new();
            let mut requests = Requests::default();
            let mut got: Vec<Vec<u8>> = Vec::new();
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let room = buffer.room();
                let count = piece_bytes.min(room.len()).min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                buffer.received(count);
                while let Some((header, frame)) = buffer.next().expect("frames") {
                    requests.check(header).expect("in order");
                    got.push(frame.to_vec());
                }
            }
            assert!(got == sent, "cut into {piece_bytes}");
            assert_eq!(buffer.end(), Ok(()));
        }
    }

    #[test]
    fn lost_doubled_and_misplaced_frames_are_found() {
        let header = |kind, seq| Header {
            length: 0,
            kind,
            seq,
        };
        let mut requests = Requests::default();
        assert_eq!(requests.check(header(Kind::Append, 0)), Ok(()));
        let (expected, found) = (1, 2);
        assert_eq!(
            requests.check(header(Kind::Append, 2)),
            Err(Broken::Order { expected, found })
        );
        assert!(requests.check(header(Kind::Append, 0)).is_err());
        assert_eq!(
            requests.check(header(Kind::Echo, 1)),
            Err(Broken::Misplaced(Kind::Echo))
        );
        assert!(Requests::default().check(header(Kind::Ack, 0)).is_err());
    }

    #[test]
    fn a_cut_frame_at_the_end_is_found() {
        let mut buffer = FrameBuffer::new();
        buffer.room()[..3].fill(0);
        buffer.received(3);
        assert!(matches!(buffer.next(), Ok(None)));
        assert_eq!(buffer.end(), Err(Broken::Ended { left_bytes: 3 }));
    }
}

//! One TLS connection without its socket: ciphertext in, plaintext out, and the other way. Before the handshake is done it
//! takes a bounded number of bytes, and holds a message of the handshake at most; afterwards it holds at most one record
//! that is not complete, whatever the other end sends: a whole record that was not used up ends the session, and what comes
//! behind the end of the other side is thrown away.

use super::outgoing::Outgoing;
use crate::parts::Parts;
use bytes::BytesMut;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError};
use std::fmt;
use tiderace_base::limits::{KIB, TLS_HANDSHAKE_BYTES_MAX};

/// Plaintext of one record: RFC 8446, section 5.1.
pub(super) const RECORD_BYTES_MAX: usize = 16 * KIB;
/// A record's header: RFC 8446, section 5.1.
const RECORD_HEADER_BYTES: usize = 5;
/// More than a record adds to its plaintext, and than what may come before it (an update of the keys).
const RECORD_OVERHEAD_MAX: usize = 256;

/// Why a connection cannot go on.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Failed {
    /// The other end broke the protocol, or is not who it has to be.
    Tls(rustls::Error),
    /// The handshake took more bytes than any should.
    HandshakeTooLong,
    /// The handshake took longer than any should.
    HandshakeTooSlow,
    /// This node's identity was replaced, and the new one does not trust the other end.
    Distrusted,
    /// A whole record was not used up: the other end sends a message of the handshake in pieces, which none of this protocol
    /// needs, or records that say nothing.
    NotUsedUp,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(error) => write!(f, "{error}"),
            Self::HandshakeTooLong => {
                write!(
                    f,
                    "the handshake is longer than {TLS_HANDSHAKE_BYTES_MAX} bytes"
                )
            }
            Self::HandshakeTooSlow => write!(f, "the handshake was not done in its time"),
            Self::Distrusted => write!(f, "the other end is not trusted any more"),
            Self::NotUsedUp => write!(f, "a whole record could not be used up"),
        }
    }
}

impl From<rustls::Error> for Failed {
    fn from(error: rustls::Error) -> Self {
        Self::Tls(error)
    }
}

pub(super) enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// See the module. After a failure it is not used again.
pub(crate) struct Session {
    side: Side,
    /// Received and not used up.
    pending: Vec<u8>,
    handshake_bytes: usize,
    is_open: bool,
    peer_closed: bool,
}

/// What a step led to.
enum Progress {
    /// Something was done: there may be more to do.
    Made,
    /// More must arrive, or be sent.
    None,
}

/// What is done with the connection when it can be done.
enum Wish<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    CloseNotify,
}

impl Session {
    pub(super) const fn new(side: Side) -> Self {
        Self {
            side,
            pending: Vec::new(),
            handshake_bytes: 0,
            is_open: false,
            peer_closed: false,
        }
    }

    /// The handshake is done: plaintext may be sent.
    pub(crate) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// The other end said that it sends no more.
    pub(crate) const fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The other end took this one for who it is. One that accepts knows when the handshake is done; one that connects hears
    /// it from a ticket behind that, if the other end sends any.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_open
            && match &self.side {
                Side::Server(_) => true,
                Side::Client(client) => client.tls13_tickets_received() > 0,
            }
    }

    /// The chain that the other end has shown, its own certificate first; empty when it has shown none. Verified once the
    /// handshake is done.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        match &self.side {
            Side::Server(server) => server.peer_certificates(),
            Side::Client(client) => client.peer_certificates(),
        }
        .unwrap_or_default()
    }

    /// Bytes that arrived and could not be used yet.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Begins: a client has something to say first.
    pub(crate) fn begin(&mut self, out: &mut Outgoing) -> Result<(), Failed> {
        self.process(&mut [], out, &mut BytesMut::new()).map(drop)
    }

    /// Takes what arrived, and overwrites it. What it held goes behind `plain`, what it asks to be said behind `out`, also
    /// when it fails: the other end is told why.
    pub(crate) fn received(
        &mut self,
        mut piece: &mut [u8],
        out: &mut Outgoing,
        plain: &mut BytesMut,
    ) -> Result<(), Failed> {
        if self.peer_closed {
            return Ok(());
        }
        let received_bytes = piece.len();
        // The record that was begun is completed apart; what follows it is decrypted where it lies.
        while !self.pending.is_empty() && !piece.is_empty() {
            // Where the last record is whole the message goes on in another one.
            let missing = match missing_bytes(&self.pending) {
                0 => RECORD_HEADER_BYTES,
                missing => missing,
            };
            let (part, rest) = piece.split_at_mut(missing.min(piece.len()));
            piece = rest;
            self.pending.extend_from_slice(part);
            let mut pending = core::mem::take(&mut self.pending);
            let used = self.process(&mut pending, out, plain)?;
            pending.drain(..used);
            self.pending = pending;
            self.check_pending()?;
        }
        if !piece.is_empty() && !self.peer_closed {
            let used = self.process(piece, out, plain)?;
            self.pending.extend_from_slice(&piece[used..]);
            self.check_pending()?;
        }
        if !self.is_open {
            // What follows the handshake in one piece with its end is not counted.
            self.handshake_bytes = self.handshake_bytes.saturating_add(received_bytes);
            if self.handshake_bytes > TLS_HANDSHAKE_BYTES_MAX {
                return Err(Failed::HandshakeTooLong);
            }
        } else if self.pending.is_empty() {
            // An idle connection holds nothing.
            self.pending = Vec::new();
        }
        Ok(())
    }

    fn check_pending(&mut self) -> Result<(), Failed> {
        if self.peer_closed {
            self.pending = Vec::new();
        }
        let is_whole = self
            .pending
            .first_chunk::<RECORD_HEADER_BYTES>()
            .is_some_and(|header| self.pending.len() >= RECORD_HEADER_BYTES + record_len(header));
        if self.is_open && is_whole {
            return Err(Failed::NotUsedUp);
        }
        Ok(())
    }

    /// Encrypts from the front of `parts`, at most `bytes_max` and the rest of a record, behind `out`; says how many bytes it took. Nothing
    /// while the handshake is not done.
    pub(crate) fn encrypt(
        &mut self,
        parts: &mut Parts,
        bytes_max: usize,
        gathered: &mut Vec<u8>,
        out: &mut Outgoing,
    ) -> Result<usize, Failed> {
        let mut taken = 0;
        while self.is_open && taken < bytes_max && !parts.is_empty() {
            let first = parts.first();
            let count = if first.len() >= RECORD_BYTES_MAX || parts.count() == 1 {
                let left = bytes_max - taken;
                let count = first.len().min(left.next_multiple_of(RECORD_BYTES_MAX));
                self.write(&first[..count], out)?;
                count
            } else {
                // A record for each small part would cost more than the copy.
                parts.gather(RECORD_BYTES_MAX, gathered);
                self.write(gathered, out)?;
                gathered.len()
            };
            parts.advance(count);
            taken += count;
        }
        Ok(taken)
    }

    fn write(&mut self, plain: &[u8], out: &mut Outgoing) -> Result<(), Failed> {
        self.wish(Wish::Encrypt(plain), out)
    }

    /// Says that nothing more is sent.
    pub(crate) fn close_notify(&mut self, out: &mut Outgoing) -> Result<(), Failed> {
        if self.is_open {
            self.wish(Wish::CloseNotify, out)?;
        }
        Ok(())
    }

    fn wish(&mut self, wish: Wish<'_>, out: &mut Outgoing) -> Result<(), Failed> {
        let mut pending = core::mem::take(&mut self.pending);
        let (mut wish, mut plain) = (Some(wish), BytesMut::new());
        // Whatever the session has to say by itself comes first.
        while wish.is_some() {
            let (used, result) = self.step(&mut pending, &mut wish, out, &mut plain);
            pending.drain(..used);
            result?;
        }
        self.pending = pending;
        assert!(
            plain.is_empty(),
            "a record that is not whole holds no plaintext"
        );
        Ok(())
    }

    /// Goes on until nothing more can be done with these bytes; says how many of them were used up.
    fn process(
        &mut self,
        bytes: &mut [u8],
        out: &mut Outgoing,
        plain: &mut BytesMut,
    ) -> Result<usize, Failed> {
        let mut used = 0;
        loop {
            let (count, result) =
                self.step(&mut bytes[used..], &mut Some(Wish::Nothing), out, plain);
            used += count;
            match result {
                Ok(Progress::Made) => {}
                Ok(Progress::None) => return Ok(used),
                Err(error) => {
                    // The alert that tells the other end why. One step and no more: another would look at the same
                    // damaged record again.
                    let _ = self.step(&mut bytes[used..], &mut Some(Wish::Nothing), out, plain);
                    return Err(error.into());
                }
            }
        }
    }

    /// One step; says also how many bytes were used up. The next one must be given the rest of them: the session
    /// remembers places in it.
    fn step(
        &mut self,
        bytes: &mut [u8],
        wish: &mut Option<Wish<'_>>,
        out: &mut Outgoing,
        plain: &mut BytesMut,
    ) -> (usize, Result<Progress, rustls::Error>) {
        let mut told = Told {
            is_open: &mut self.is_open,
            peer_closed: &mut self.peer_closed,
            wish,
            out,
            plain,
        };
        match &mut self.side {
            Side::Server(server) => {
                let status = server.process_tls_records(bytes);
                let mut used = status.discard;
                let result = status.state.and_then(|state| told.take(state, &mut used));
                (used, result)
            }
            Side::Client(client) => {
                let status = client.process_tls_records(bytes);
                let mut used = status.discard;
                let result = status.state.and_then(|state| told.take(state, &mut used));
                (used, result)
            }
        }
    }
}

/// Where a step leaves what it finds.
struct Told<'a, 'w> {
    is_open: &'a mut bool,
    peer_closed: &'a mut bool,
    wish: &'a mut Option<Wish<'w>>,
    out: &'a mut Outgoing,
    plain: &'a mut BytesMut,
}

impl Told<'_, '_> {
    fn take<Data>(
        &mut self,
        state: ConnectionState<'_, '_, Data>,
        used: &mut usize,
    ) -> Result<Progress, rustls::Error> {
        let progress = match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    *used += record.discard;
                    self.plain.extend_from_slice(record.payload);
                }
                Progress::Made
            }
            ConnectionState::EncodeTlsData(mut data) => {
                let mut room = RECORD_BYTES_MAX + RECORD_OVERHEAD_MAX;
                loop {
                    match data.encode(self.out.room(room)) {
                        Ok(count) => {
                            self.out.fill(count);
                            break;
                        }
                        Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
                        Err(EncodeError::AlreadyEncoded) => {
                            return Err(rustls::Error::General(
                                "a message was encoded twice".into(),
                            ));
                        }
                    }
                }
                Progress::Made
            }
            // What is queued is sent in order.
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Progress::Made
            }
            ConnectionState::PeerClosed => {
                *self.peer_closed = true;
                Progress::Made
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                *self.is_open = true;
                match self.wish.take() {
                    Some(Wish::Encrypt(bytes)) => {
                        let records = bytes.len().div_ceil(RECORD_BYTES_MAX) + 1;
                        let room = self.out.room(bytes.len() + records * RECORD_OVERHEAD_MAX);
                        let count = traffic.encrypt(bytes, room).map_err(refused)?;
                        self.out.fill(count);
                    }
                    Some(Wish::CloseNotify) => {
                        let room = self.out.room(RECORD_OVERHEAD_MAX);
                        let count = traffic.queue_close_notify(room).map_err(refused)?;
                        self.out.fill(count);
                    }
                    Some(Wish::Nothing) | None => {}
                }
                Progress::None
            }
            ConnectionState::BlockedHandshake | ConnectionState::Closed => {
                // Nothing more can be written: the wish is let go.
                if !matches!(self.wish, Some(Wish::Nothing)) {
                    *self.wish = None;
                }
                Progress::None
            }
            other => {
                return Err(rustls::Error::General(format!("not asked for: {other:?}")));
            }
        };
        Ok(progress)
    }
}

fn refused(error: EncryptError) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

fn record_len(header: &[u8; RECORD_HEADER_BYTES]) -> usize {
    usize::from(u16::from_be_bytes([header[3], header[4]]))
}

/// Bytes that the last record in `pending` lacks; that of its header first.
fn missing_bytes(pending: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let rest = &pending[at..];
        let Some(header) = rest.first_chunk::<RECORD_HEADER_BYTES>() else {
            return RECORD_HEADER_BYTES - rest.len();
        };
        at += RECORD_HEADER_BYTES + record_len(header);
        if at >= pending.len() {
            return at - pending.len();
        }
    }
}

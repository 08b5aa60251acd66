//! A session on its connection: what was encrypted, in the order in which it is sent. At most one piece of it is in the
//! kernel; another collects what the session says by itself meanwhile. Plaintext is encrypted only when everything before
//! it was taken by the network, so what a connection holds is bounded by one piece however slow its reader is.

use super::outgoing::Outgoing;
use super::session::{Failed, RECORD_BYTES_MAX, Session};
use crate::parts::Parts;
use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use tiderace_base::limits::KIB;

/// Plaintext that is encrypted for one send.
const PIECE_BYTES: usize = 64 * KIB;
/// The same for a reader that was too slow before: what it holds up cannot be taken back.
const SLOW_PIECE_BYTES: usize = RECORD_BYTES_MAX;
/// So many pieces are small then, unless it is slow again.
const SLOW_PIECES: u32 = 16;
/// An empty buffer that is larger is given back.
const KEPT_BYTES: usize = 4 * KIB;

/// See the module.
pub(crate) struct Link {
    session: Session,
    /// In the kernel, or about to be.
    flying: Outgoing,
    /// What the session said since.
    queued: Outgoing,
    /// A send of `flying` is in the kernel.
    is_sending: bool,
    slow_pieces: u32,
    failed: Option<Failed>,
    failure_told: bool,
    /// The network takes nothing more.
    is_broken: bool,
    closing: bool,
    finish_told: bool,
}

impl Link {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            flying: Outgoing::default(),
            queued: Outgoing::default(),
            is_sending: false,
            slow_pieces: 0,
            failed: None,
            failure_told: false,
            is_broken: false,
            closing: false,
            finish_told: false,
        }
    }

    pub(super) fn begin(&mut self) {
        let result = self.session.begin(&mut self.queued);
        self.note(result);
    }

    fn note(&mut self, result: Result<(), Failed>) {
        if let Err(failed) = result {
            self.failed.get_or_insert(failed);
        }
    }

    /// Takes what arrived; plaintext goes behind `plain`. Nobody wants what comes after this side has ended.
    pub(crate) fn received(&mut self, piece: &mut [u8], plain: &mut BytesMut) {
        if self.failed.is_none() && !self.closing {
            let result = self.session.received(piece, &mut self.queued, plain);
            self.note(result);
        }
    }

    /// A buffer for what so many received bytes may hold.
    pub(crate) fn room(&self, received_bytes: usize) -> BytesMut {
        if self.is_open() {
            BytesMut::with_capacity(self.session.pending_bytes() + received_bytes)
        } else {
            BytesMut::new()
        }
    }

    /// The handshake is under way: it goes on whether or not the machine wants bytes.
    pub(crate) fn is_shaking(&self) -> bool {
        !self.is_open() && self.failed.is_none()
    }

    /// It cannot go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Why it cannot go on.
    pub(crate) const fn failure(&self) -> Option<&Failed> {
        self.failed.as_ref()
    }

    /// Both ends have verified each other.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.failed.is_none() && self.session.is_confirmed()
    }

    /// The chain that the other end has shown, its own certificate first.
    pub(crate) fn chain(&self) -> &[CertificateDer<'static>] {
        self.session.chain()
    }

    /// Whether it failed since this was asked last.
    pub(crate) fn take_failure(&mut self) -> bool {
        self.has_failed() && !core::mem::replace(&mut self.failure_told, true)
    }

    /// The handshake took too long.
    pub(crate) fn time_out(&mut self) {
        self.note(Err(Failed::HandshakeTooSlow));
    }

    /// The other end is not trusted any more.
    pub(crate) fn distrust(&mut self) {
        self.note(Err(Failed::Distrusted));
    }

    /// The network failed: what waits is thrown away.
    pub(crate) fn break_off(&mut self) {
        self.is_broken = true;
        self.flying.clear(0);
        self.queued.clear(0);
    }

    pub(crate) const fn is_broken(&self) -> bool {
        self.is_broken
    }

    pub(crate) fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// Nothing more will be received.
    pub(crate) fn has_ended(&self) -> bool {
        self.session.peer_closed() || self.failed.is_some()
    }

    /// The sending side ends behind what is queued.
    pub(crate) fn finish(&mut self) {
        if self.failed.is_none() {
            let result = self.session.close_notify(&mut self.queued);
            self.note(result);
        }
        self.closing = true;
    }

    /// Everything was sent, and nothing follows. True once.
    pub(crate) fn is_finished(&mut self) -> bool {
        let is_finished = self.closing && self.has_sent_all();
        is_finished && !core::mem::replace(&mut self.finish_told, true)
    }

    fn has_sent_all(&self) -> bool {
        !self.is_sending && self.flying.is_empty() && self.queued.is_empty()
    }

    pub(crate) const fn is_sending(&self) -> bool {
        self.is_sending
    }

    /// What to send now, if anything, until [`Link::sent`]. Encrypts from the front of `parts` when nothing waits, and says
    /// how many bytes of them it took.
    pub(crate) fn next(
        &mut self,
        parts: Option<&mut Parts>,
        gathered: &mut Vec<u8>,
    ) -> (usize, Option<&[u8]>) {
        if self.is_sending {
            return (0, None);
        }
        let mut taken = 0;
        if self.flying.is_empty() {
            if !self.queued.is_empty() {
                core::mem::swap(&mut self.flying, &mut self.queued);
            } else if let Some(parts) = parts
                && self.failed.is_none()
            {
                let bytes_max = match self.slow_pieces {
                    0 => PIECE_BYTES,
                    _ => SLOW_PIECE_BYTES,
                };
                self.slow_pieces = self.slow_pieces.saturating_sub(1);
                let flying = &mut self.flying;
                let result = self
                    .session
                    .encrypt(parts, bytes_max, gathered, flying)
                    .map(|count| taken = count);
                self.note(result);
            }
        }
        let left = self.flying.left();
        self.is_sending = !left.is_empty();
        (taken, self.is_sending.then_some(left))
    }

    /// The send in the kernel ended, after so many bytes.
    pub(crate) fn sent(&mut self, count: usize) {
        self.is_sending = false;
        self.flying.advance(count, PIECE_BYTES + KEPT_BYTES);
    }

    /// Its reader was too slow.
    pub(crate) fn slow(&mut self) {
        self.slow_pieces = SLOW_PIECES;
    }

    /// Nothing is to be sent for now: large buffers are given back.
    pub(crate) fn rest(&mut self) {
        for out in [&mut self.flying, &mut self.queued] {
            if out.is_empty() {
                out.clear(KEPT_BYTES);
            }
        }
    }
}

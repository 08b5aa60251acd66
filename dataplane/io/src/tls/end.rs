//! One end of a TLS connection that has no socket: bytes of the network in and out, plaintext out and in. What a driver does
//! with a session on its ring, for whoever carries the bytes by hand, such as `tests/fuzz`. It waits for nothing and sends
//! nothing by itself.

use super::outgoing::Outgoing;
use super::session::{Session, Side};
use super::{Acceptor, Connector, TlsError, unusable};
use crate::parts::Parts;
use bytes::{Bytes, BytesMut};
use std::fmt;
use std::sync::Arc;

/// See the module. After a failure, and after it was closed, it takes nothing more.
pub struct TlsEnd {
    session: Session,
    out: Outgoing,
    failed: Option<String>,
    closing: bool,
}

impl fmt::Debug for TlsEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsEnd")
            .field("is_open", &self.is_open())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Acceptor {
    /// The accepting end of a connection without a socket.
    ///
    /// # Errors
    /// What makes the configuration unusable.
    pub fn end(&self) -> Result<TlsEnd, TlsError> {
        let server = rustls::server::UnbufferedServerConnection::new(Arc::clone(&self.0));
        let server = server.map_err(unusable)?;
        Ok(TlsEnd::new(Side::Server(Box::new(server))))
    }
}

impl Connector {
    /// The connecting end of a connection without a socket. It has its first bytes to send.
    ///
    /// # Errors
    /// What makes the configuration unusable.
    pub fn end(&self) -> Result<TlsEnd, TlsError> {
        let config = Arc::clone(&self.config);
        let client = rustls::client::UnbufferedClientConnection::new(config, self.name.clone());
        let mut end = TlsEnd::new(Side::Client(Box::new(client.map_err(unusable)?)));
        let begun = end.session.begin(&mut end.out);
        end.failed = begun.err().map(|failed| failed.to_string());
        Ok(end)
    }
}

impl TlsEnd {
    fn new(side: Side) -> Self {
        Self {
            session: Session::new(side),
            out: Outgoing::default(),
            failed: None,
            closing: false,
        }
    }

    /// Takes bytes of the network, and gives the plaintext that they held. What came before a failure counts; nobody wants
    /// what comes after this end was closed.
    pub fn received(&mut self, bytes: &[u8]) -> BytesMut {
        let mut plain = BytesMut::new();
        if self.failed.is_none() && !self.closing {
            let mut piece = bytes.to_vec();
            let result = self.session.received(&mut piece, &mut self.out, &mut plain);
            self.failed = result.err().map(|failed| failed.to_string());
        }
        plain
    }

    /// Encrypts plaintext, to be taken by [`TlsEnd::sent`]. Says how many bytes were taken: none before the handshake is done
    /// and after a failure.
    pub fn send(&mut self, plain: Bytes) -> usize {
        if self.failed.is_some() || self.closing {
            return 0;
        }
        let bytes_max = plain.len();
        let mut parts = Parts::new(vec![plain]);
        let result = self
            .session
            .encrypt(&mut parts, bytes_max, &mut Vec::new(), &mut self.out);
        match result {
            Ok(taken) => taken,
            Err(failed) => {
                self.failed = Some(failed.to_string());
                0
            }
        }
    }

    /// Says that nothing more is sent.
    pub fn close(&mut self) {
        let was_closing = core::mem::replace(&mut self.closing, true);
        if self.failed.is_none() && !was_closing {
            let result = self.session.close_notify(&mut self.out);
            self.failed = result.err().map(|failed| failed.to_string());
        }
    }

    /// Takes at most so many bytes for the network.
    pub fn sent(&mut self, bytes_max: usize) -> Vec<u8> {
        let left = self.out.left();
        let piece = left[..left.len().min(bytes_max)].to_vec();
        self.out.advance(piece.len(), 0);
        piece
    }

    /// The handshake is done.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.session.is_open()
    }

    /// The other end said that it sends no more.
    #[must_use]
    pub const fn peer_closed(&self) -> bool {
        self.session.peer_closed()
    }

    /// Why it cannot go on.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// Bytes that arrived and could not be used yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.session.pending_bytes()
    }
}

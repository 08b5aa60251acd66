//! One session, seen from either end: which kinds may come when, in which order message ids run, what was granted and
//! spent, how many requests wait. Yields what arrived as typed values, or a fault. Owns no socket and no subscription:
//! what a request means is its owner's business.

mod client;
mod server;

pub use client::{Answer, Client};
pub use server::{Identity, Request, Server};

use crate::error::ErrorCode;
use crate::frame::{Ack, Error, Produced};
use crate::link::{Kind, LinkHeader};
use bytes::BytesMut;
use tiderace_base::ids::MessageId;

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Nothing but the handshake's next frame may come.
    Handshake,
    /// Everything that the direction allows may come.
    Open,
    /// One side said goodbye: what is open ends, nothing new begins.
    Draining,
    /// Nothing is taken any more.
    Closed,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 4] = [Self::Handshake, Self::Open, Self::Draining, Self::Closed];
}

/// What a table says about a kind in a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is taken, and the session is in this phase then.
    Take(Phase),
    /// It is refused.
    Refuse(ErrorCode),
}

/// What is wrong with a frame, or with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The frame; zero when the connection is meant.
    pub request: MessageId,
    /// What the frame is, if there is one.
    pub kind: Option<Kind>,
    /// What is wrong.
    pub code: ErrorCode,
    /// See the table of codes.
    pub detail_a: u64,
    /// See the table of codes.
    pub detail_b: u64,
    /// Whether the connection ends behind it: as its code says, and always before the handshake is done.
    pub is_fatal: bool,
}

impl Fault {
    /// A fault of the connection.
    #[must_use]
    pub const fn of_connection(code: ErrorCode) -> Self {
        Self {
            request: MessageId::new(0),
            kind: None,
            code,
            detail_a: 0,
            detail_b: 0,
            is_fatal: code.is_fatal(),
        }
    }

    /// A fault of this frame.
    #[must_use]
    pub fn of_frame(header: &LinkHeader, code: ErrorCode) -> Self {
        Self {
            request: header.message_id(),
            kind: Some(header.kind()),
            code,
            detail_a: 0,
            detail_b: 0,
            is_fatal: code.is_fatal(),
        }
    }

    /// The same, as it counts in this phase.
    const fn in_phase(mut self, phase: Phase) -> Self {
        self.is_fatal |= matches!(phase, Phase::Handshake);
        self
    }

    /// Appends the frame that tells the peer: an acknowledgement that refuses for a produce frame that costs only
    /// itself, an error for everything else.
    pub fn encode(&self, out: &mut BytesMut, message_id: MessageId) {
        // P-51: a produce frame is answered by exactly one acknowledgement, whatever it says.
        if self.kind == Some(Kind::Produce) && !self.is_fatal {
            let ack = Ack::refused(self.request, self.code, self.detail_a, self.detail_b);
            Produced::encode(&[ack], out, message_id);
        } else {
            let mut error = Error::about(self.request, self.code);
            error.detail_a = self.detail_a;
            error.detail_b = self.detail_b;
            error.fatal = self.is_fatal;
            error.encode(out, message_id);
        }
    }
}

/// The message ids of one connection, both directions.
#[derive(Debug, Default)]
struct MessageIds {
    sent: u64,
    received: u64,
}

impl MessageIds {
    fn next(&mut self) -> MessageId {
        self.sent += 1;
        MessageId::new(self.sent)
    }

    fn take(&mut self, header: &LinkHeader) -> Result<(), Fault> {
        // P-33
        let id = header.message_id().get();
        if id <= self.received {
            return Err(Fault::of_frame(header, ErrorCode::MessageIdOrder));
        }
        self.received = id;
        Ok(())
    }
}

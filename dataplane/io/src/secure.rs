//! The connections' side of TLS: ciphertext between the ring and a connection's [`Link`], plaintext between that and the
//! machine. A machine's send has ended when all of it was encrypted and taken by the network. One that is cancelled ends
//! with what was encrypted; the network takes that behind the machine's back, for a record cannot be taken back.

use crate::ring::Ring;
use crate::sending::submit_one;
use crate::slab::Place;
use crate::sockets::{Sockets, id_of};
use crate::syscall::shutdown_sending;
use bytes::Bytes;
use std::collections::VecDeque;
use tiderace_base::operation::Event;
use tiderace_base::time::Mono;

/// Steps of handshakes in one turn: each may sign or verify, which takes as long as hundreds of batches.
const HANDSHAKE_STEPS_PER_TURN: usize = 8;

impl Sockets {
    /// No more completions are taken in this turn: it has had its share of handshakes.
    pub(crate) fn is_turn_spent(&self) -> bool {
        self.handshake_steps >= HANDSHAKE_STEPS_PER_TURN
    }

    pub(crate) fn received_tls(
        &mut self,
        place: Place,
        buffer: u16,
        len: usize,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let Some(connection) = self.connections.get_mut(place) else {
            return self.pool.discard(buffer);
        };
        let Some(link) = &mut connection.tls else {
            return self.pool.discard(buffer);
        };
        let was_open = link.is_open();
        let mut plain = link.room(len);
        self.pool
            .with(buffer, len, |piece| link.received(piece, &mut plain));
        if !was_open {
            self.handshake_steps += 1;
            if link.is_open() {
                self.counters.tls_opened.add(1);
                if !connection.wanted {
                    connection.cancel_receive(place, ring);
                }
            }
        }
        if !self.announce(place, ring, ready) {
            // Nobody hears what somebody unknown says.
            plain.clear();
        }
        if !plain.is_empty() {
            // Records may say little in many bytes: little holds little.
            let data = if plain.len() < plain.capacity() / 2 {
                Bytes::copy_from_slice(&plain)
            } else {
                plain.freeze()
            };
            let conn = id_of(place);
            ready.push_back(Event::Received { conn, data });
        }
        self.advance_tls(place, ring, ready);
    }

    pub(crate) fn sent_tls(
        &mut self,
        place: Place,
        result: i32,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let Some(link) = &mut connection.tls else {
            return;
        };
        let (count, is_broken) = match usize::try_from(result) {
            Ok(count) => (count, count == 0),
            Err(_) => match -result {
                libc::ECANCELED | libc::EINTR | libc::EAGAIN | libc::ENOMEM | libc::ENOBUFS => {
                    (0, false)
                }
                _ => (0, true),
            },
        };
        link.sent(count);
        if is_broken {
            link.break_off();
        }
        self.advance_tls(place, ring, ready);
    }

    /// Moves a connection on: encrypts and sends what waits, and tells the machine what ended.
    pub(crate) fn advance_tls(
        &mut self,
        place: Place,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let Some(link) = &mut connection.tls else {
            return;
        };
        if let Some(sending) = &mut connection.sending
            && sending.cancelled
            && !link.is_sending()
        {
            link.slow();
            ready.push_back(sending.ended(place, !link.is_broken() && !connection.closing));
            connection.sending = None;
        }
        if !connection.closing && !link.is_broken() {
            let parts = connection
                .sending
                .as_mut()
                .map(|sending| &mut sending.parts);
            let (taken, piece) = link.next(parts, &mut self.gathered);
            if let Some(sending) = &mut connection.sending {
                sending.sent_bytes += taken as u64;
            }
            if let Some(piece) = piece {
                // SAFETY: the link neither moves nor changes the piece before `sent` is called with its completion, and
                // outlives it: a connection is removed when nothing of it is in the kernel.
                unsafe { submit_one(place, &connection.socket, piece, ring) };
            }
        }
        if !link.is_sending() {
            let failed = link.is_broken() || link.has_failed();
            if let Some(sending) = &connection.sending
                && (failed || sending.parts.is_empty())
            {
                ready.push_back(sending.ended(place, !failed && !connection.closing));
                connection.sending = None;
            }
            if link.is_finished() {
                // A peer that is gone already is told by its own end.
                let _ = shutdown_sending(&connection.socket);
            }
            if link.take_failure() {
                self.counters.tls_failed.add(1);
            }
            link.rest();
        }
        // An alert was submitted above: it goes out if the network takes it at once, and nobody waits for that.
        if link.has_ended() {
            connection.cancel_receive(place, ring);
            connection.hang_up(place, ready);
        }
        self.settle(place, ring, ready);
    }

    /// Ends the handshakes that took too long.
    pub(crate) fn end_handshakes(
        &mut self,
        now: Mono,
        ring: &mut Ring,
        ready: &mut VecDeque<Event>,
    ) {
        loop {
            let connections = &mut self.connections;
            let over = self.handshakes.take(now, |place| {
                let link = connections.get_mut(place).and_then(|it| it.tls.as_ref());
                link.is_none_or(|link| link.is_open())
            });
            let Some(place) = over else {
                return;
            };
            let link = self
                .connections
                .get_mut(place)
                .and_then(|it| it.tls.as_mut());
            if let Some(link) = link
                && !link.is_open()
            {
                link.time_out();
                self.advance_tls(place, ring, ready);
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! One socket and its buffers. Owns what was read until the engine takes it and what is to be written until the kernel
//! took it: no future that is dropped takes bytes with it.

use bytes::{Bytes, BytesMut};
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Reads of one socket before the others have their turn.
pub(super) const READS_PER_TURN: usize = 16;
/// Room for one read.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this left, a new buffer is begun.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Pieces of one write.
const WRITE_PIECES: usize = 64;

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Connecting(Connecting),
    Open(TcpStream),
}

/// What happened on a socket.
pub(super) enum Step {
    Connected,
    Received(Bytes),
    Lost,
}

#[derive(Default)]
pub(super) struct Socket {
    state: State,
    pub(super) out: Out,
    received: BytesMut,
}

/// What is to be written.
#[derive(Default)]
pub(super) struct Out {
    /// In order.
    pub(super) pieces: Vec<Bytes>,
    /// Pieces that are written, and bytes of the next one.
    written: usize,
    written_bytes: usize,
}

impl Out {
    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces[self.written..]) {
            let skip = if count == 0 { self.written_bytes } else { 0 };
            *slice = IoSlice::new(&piece[skip..]);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let left = self.pieces[self.written].len() - self.written_bytes;
            if bytes < left {
                self.written_bytes += bytes;
                return;
            }
            bytes -= left;
            // What the kernel has is given back at once, not when the whole queue is written.
            self.pieces[self.written] = Bytes::new();
            self.written += 1;
            self.written_bytes = 0;
        }
    }
}

impl Socket {
    pub(super) fn connect(&mut self, address: SocketAddr) {
        self.close();
        self.state = State::Connecting(Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // A frame is worth a packet: waiting for more would be a delay that nobody asked for.
            stream.set_nodelay(true)?;
            Ok(stream)
        }));
    }

    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.out = Out::default();
        self.received = BytesMut::new();
    }

    /// Writes until there is nothing left or the kernel takes no more; then `cx` is woken when it does.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let State::Open(stream) = &self.state else {
            return Ok(());
        };
        while self.out.written < self.out.pieces.len() {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES];
            let count = self.out.slices(&mut slices);
            match stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => self.out.advance(bytes),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match stream.poll_write_ready(cx) {
                        Poll::Pending => return Ok(()),
                        Poll::Ready(ready) => ready?,
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.out = Out {
            pieces: core::mem::take(&mut self.out.pieces),
            ..Out::default()
        };
        self.out.pieces.clear();
        Ok(())
    }

    /// The next thing that happens. Pending: `cx` is woken for it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        if let State::Connecting(connecting) = &mut self.state {
            return match ready!(connecting.as_mut().poll(cx)) {
                Ok(stream) => {
                    self.state = State::Open(stream);
                    Poll::Ready(Step::Connected)
                }
                Err(_) => Poll::Ready(Step::Lost),
            };
        }
        if self.flush(cx).is_err() {
            return Poll::Ready(Step::Lost);
        }
        let State::Open(stream) = &self.state else {
            return Poll::Pending;
        };
        loop {
            if ready!(stream.poll_read_ready(cx)).is_err() {
                return Poll::Ready(Step::Lost);
            }
            if self.received.capacity() < READ_BYTES_MIN {
                self.received.reserve(READ_BYTES);
            }
            match stream.try_read_buf(&mut self.received) {
                Ok(0) => return Poll::Ready(Step::Lost),
                Ok(_) => return Poll::Ready(Step::Received(self.received.split().freeze())),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return Poll::Ready(Step::Lost),
            }
        }
    }
}

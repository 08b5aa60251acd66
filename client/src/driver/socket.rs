//! One socket and its buffers. Owns what was read until the engine takes it and what is to be written until the kernel
//! took it: no future that is dropped takes bytes with it.

use super::tls::Tls;
use bytes::{Bytes, BytesMut};
use core::pin::{Pin, pin};
use core::task::{Context, Poll, ready};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Reads of one socket before the others have their turn.
pub(super) const READS_PER_TURN: usize = 16;
/// Room for one read.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this left, a new buffer is begun.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Pieces of one write.
const WRITE_PIECES: usize = 64;

type Connecting = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Writes some of it. Pending: `cx` is woken when there is room.
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => loop {
                match stream.try_write_vectored(slices) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        ready!(stream.poll_write_ready(cx))?;
                    }
                    result => return Poll::Ready(result),
                }
            },
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    /// Hands the kernel what was written. Pending: `cx` is woken when there is room.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    /// Reads behind what is there; none at the end. Pending: `cx` is woken when there is more.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => loop {
                ready!(stream.poll_read_ready(cx))?;
                match stream.try_read_buf(into) {
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::WouldBlock | ErrorKind::Interrupted
                        ) => {}
                    result => return Poll::Ready(result),
                }
            },
            // Polled once and dropped: what it read is in the buffer, or nothing was read.
            Self::Tls(stream) => pin!(stream.read_buf(into)).poll(cx),
        }
    }
}

#[derive(Default)]
enum State {
    #[default]
    Closed,
    Connecting(Connecting),
    Open(Stream),
}

/// What happened on a socket.
pub(super) enum Step {
    Connected,
    Received(Bytes),
    Lost,
    /// Lost because TLS could not be spoken with this address.
    Distrusted(SocketAddr),
}

#[derive(Default)]
pub(super) struct Socket {
    state: State,
    tls: Option<(Tls, SocketAddr)>,
    /// Something was written that the kernel may not have yet.
    is_unflushed: bool,
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
    pub(super) fn connect(&mut self, address: SocketAddr, tls: Option<Tls>) {
        self.close();
        self.tls = tls.clone().map(|tls| (tls, address));
        self.state = State::Connecting(Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            // A frame is worth a packet: waiting for more would be a delay that nobody asked for.
            stream.set_nodelay(true)?;
            match tls {
                None => Ok(Stream::Plain(stream)),
                Some(tls) => Ok(Stream::Tls(Box::new(tls.connect(address, stream).await?))),
            }
        }));
    }

    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// Writes until there is nothing left or the kernel takes no more; then `cx` is woken when it does.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let State::Open(stream) = &mut self.state else {
            return Ok(());
        };
        while self.out.written < self.out.pieces.len() {
            let mut slices = [IoSlice::new(&[]); WRITE_PIECES];
            let count = self.out.slices(&mut slices);
            self.is_unflushed = true;
            match stream.poll_write(cx, &slices[..count]) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err(ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.out.advance(written?),
            }
        }
        self.out = Out {
            pieces: core::mem::take(&mut self.out.pieces),
            ..Out::default()
        };
        self.out.pieces.clear();
        if self.is_unflushed
            && let Poll::Ready(flushed) = stream.poll_flush(cx)
        {
            flushed?;
            self.is_unflushed = false;
        }
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
                Err(error) => Poll::Ready(self.lost(&error)),
            };
        }
        let flushed = self.flush(cx);
        if let Err(error) = &flushed
            && self.tls.is_none()
        {
            return Poll::Ready(self.lost(error));
        }
        let State::Open(stream) = &mut self.state else {
            return Poll::Pending;
        };
        if self.received.capacity() < READ_BYTES_MIN {
            self.received.reserve(READ_BYTES);
        }
        // Where a write failed, what the other end said before it went says why.
        let read = match (stream.poll_read(cx, &mut self.received), flushed) {
            (Poll::Pending, Err(error)) => Err(error),
            (read, _) => ready!(read),
        };
        match read {
            Ok(0) => Poll::Ready(Step::Lost),
            Ok(_) => Poll::Ready(Step::Received(self.received.split().freeze())),
            Err(error) => Poll::Ready(self.lost(&error)),
        }
    }

    fn lost(&self, error: &io::Error) -> Step {
        match &self.tls {
            Some((tls, address)) if tls.note(error) => Step::Distrusted(*address),
            Some(_) | None => Step::Lost,
        }
    }

    /// A write failed, and reading is to find out why.
    pub(super) const fn may_say_why(&self) -> bool {
        self.tls.is_some()
    }
}

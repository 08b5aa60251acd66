//! The baseline without io_uring: one thread, level-triggered epoll, sockets that do not block, and a durable write that
//! does (`pwritev2` with `RWF_DSYNC`). A turn reads every connection that is ready, writes what was appended as one chunk,
//! and sends what is to be said. While the disk works, nothing else does: that is what is compared.

use super::{Options, announce, anywhere, fatal, written};
use crate::commit::{AlignedVec, Appended, Chunk, Group};
use crate::protocol::{FrameBuffer, Kind, Requests, ack};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::OFlags;
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

/// Events of one turn.
const EVENTS_MAX: usize = 256;
/// The listener's name among the events; connections have their place.
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    buffer: FrameBuffer,
    requests: Requests,
    out: Vec<u8>,
    /// Waits for room in the socket.
    blocked: bool,
    /// Stands in the list of those with something to send.
    dirty: bool,
}

struct Server {
    poll: OwnedFd,
    file: File,
    group: Group<AlignedVec, (usize, u64)>,
    connections: Vec<Option<Connection>>,
    dirty: Vec<usize>,
}

pub(super) fn run(options: &Options) -> Result<(), String> {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(options.file())
        .map_err(|error| format!("the file cannot be opened: {error}"))?;
    let listener =
        TcpListener::bind(anywhere()).map_err(|error| format!("cannot listen: {error}"))?;
    let refused = |error| format!("epoll is refused: {error}");
    let poll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| refused(error.into()))?;
    let server = Server {
        poll,
        file,
        // A write that blocks is the only one.
        group: Group::new(options.file_bytes, 1),
        connections: Vec::new(),
        dirty: Vec::new(),
    };
    server.turns(&listener).map_err(refused)
}

impl Server {
    fn turns(mut self, listener: &TcpListener) -> std::io::Result<()> {
        epoll::add(
            &self.poll,
            listener,
            EventData::new_u64(LISTENER),
            EventFlags::IN,
        )?;
        announce(listener.local_addr()?);
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.poll, room, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let (name, flags) = (event.data.u64(), event.flags);
                if name == LISTENER {
                    self.accept(listener)?;
                    continue;
                }
                let at = name as usize;
                if flags.contains(EventFlags::OUT) {
                    self.unblock(at)?;
                }
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                    self.read(at);
                }
            }
            self.commit();
            self.send()?;
        }
    }

    fn accept(&mut self, listener: &TcpListener) -> std::io::Result<()> {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let free = self.connections.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        epoll::add(
            &self.poll,
            &stream,
            EventData::new_u64(at as u64),
            EventFlags::IN,
        )?;
        self.connections[at] = Some(Connection {
            stream,
            buffer: FrameBuffer::new(),
            requests: Requests::default(),
            out: Vec::new(),
            blocked: false,
            dirty: false,
        });
        Ok(())
    }

    fn read(&mut self, at: usize) {
        let Some(connection) = &mut self.connections[at] else {
            return;
        };
        match (&connection.stream).read(connection.buffer.room()) {
            Ok(0) => {
                if let Err(broken) = connection.buffer.end() {
                    fatal(broken);
                }
                // Closing takes it out of the epoll set.
                self.connections[at] = None;
            }
            Ok(count) => {
                connection.buffer.received(count);
                self.take_frames(at);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            // The client ends in order only; anything else it reports itself.
            Err(_) => self.connections[at] = None,
        }
    }

    fn take_frames(&mut self, at: usize) {
        let Some(mut connection) = self.connections[at].take() else {
            return;
        };
        loop {
            let (header, frame) = match connection.buffer.next() {
                Ok(None) => break,
                Ok(Some(next)) => next,
                Err(broken) => fatal(broken),
            };
            if let Err(broken) = connection.requests.check(header) {
                fatal(broken);
            }
            if header.kind == Kind::Echo {
                connection.out.extend_from_slice(frame);
                if !std::mem::replace(&mut connection.dirty, true) {
                    self.dirty.push(at);
                }
                continue;
            }
            let waiting = (at, header.seq);
            let mut append = || {
                self.group
                    .append(frame.len(), [frame], waiting, AlignedVec::new)
            };
            if append() != Appended::Full {
                continue;
            }
            // Acknowledgements look for their connection, this one too.
            let bytes = frame.to_vec();
            self.connections[at] = Some(connection);
            self.commit();
            let appended =
                self.group
                    .append(bytes.len(), [bytes.as_slice()], waiting, AlignedVec::new);
            assert_eq!(appended, Appended::First, "the chunk was just written");
            let back = self.connections[at].take();
            connection = back.expect("it was put there before the commit");
        }
        self.connections[at] = Some(connection);
    }

    /// Writes the open chunk and acknowledges it.
    fn commit(&mut self) {
        let Some(taken) = self.group.take() else {
            return;
        };
        let mut chunk = taken.chunk;
        let bytes = chunk.filled();
        let result = rustix::io::pwritev2(
            &self.file,
            &[IoSlice::new(bytes)],
            taken.at,
            ReadWriteFlags::DSYNC,
        );
        written(result.map_err(std::io::Error::from), bytes.len());
        chunk.clear();
        self.group.give_back(chunk);
        let (connections, dirty) = (&mut self.connections, &mut self.dirty);
        self.group.done(taken.id, |(at, seq), crc| {
            // One that is gone does not wait any more.
            if let Some(connection) = &mut connections[at] {
                connection.out.extend_from_slice(&ack(seq, crc));
                if !std::mem::replace(&mut connection.dirty, true) {
                    dirty.push(at);
                }
            }
        });
    }

    fn send(&mut self) -> std::io::Result<()> {
        while let Some(at) = self.dirty.pop() {
            let Some(connection) = &mut self.connections[at] else {
                continue;
            };
            connection.dirty = false;
            if connection.blocked {
                continue;
            }
            match (&connection.stream).write(&connection.out) {
                Ok(count) => {
                    connection.out.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.connections[at] = None;
                    continue;
                }
            }
            if !connection.out.is_empty() {
                connection.blocked = true;
                self.watch(at, EventFlags::IN | EventFlags::OUT)?;
            }
        }
        Ok(())
    }

    fn unblock(&mut self, at: usize) -> std::io::Result<()> {
        let Some(connection) = &mut self.connections[at] else {
            return Ok(());
        };
        connection.blocked = false;
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(at);
        }
        self.watch(at, EventFlags::IN)
    }

    fn watch(&self, at: usize, flags: EventFlags) -> std::io::Result<()> {
        if let Some(connection) = &self.connections[at] {
            epoll::modify(
                &self.poll,
                &connection.stream,
                EventData::new_u64(at as u64),
                flags,
            )?;
        }
        Ok(())
    }
}

//! Our own ring: a machine on the driver of `tiderace-io`, as a shard is one. Received buffers are the ring's, appends are
//! copied from them into a region, the end of a turn writes the open chunk with `RWF_DSYNC` and sends what is to be said.
//! Nothing is waited for: an append that finds no room stays in its connection's pieces until the next completion.

use super::{FILE, Options, announce, anywhere, fatal};
use crate::commit::{Appended, CHUNK_BYTES_MAX, Chunk, Group};
use crate::protocol::{Broken, HEADER_BYTES, Header, Kind, Requests, ack};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tiderace_base::collections::Map;
use tiderace_base::ids::ConnectionId;
use tiderace_base::operation::{Effect, Effects, Event, Fatal, Machine, OpId, OpIds};
use tiderace_base::region::Region;
use tiderace_base::time::Now;
use tiderace_io::{
    DirectoryError, Driver, DriverConfig, JournalDirectory, Listen, Listener, Outcome,
};

/// How often, and how long apart, a folder that is in use is tried.
const OPEN_TRIES: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(20);

pub(super) fn run(options: &Options) -> Result<(), String> {
    let journal = open(&options.dir)?;
    let listener = Listener::bind(Listen::on(anywhere()))
        .map_err(|error| format!("cannot listen: {error}"))?;
    let address = listener.address();
    let mut driver = Driver::new(DriverConfig {
        journal: Some(journal),
        listeners: vec![listener],
        cpu: Some(options.cpu),
        ..DriverConfig::default()
    })
    .map_err(|error| error.to_string())?;
    // The kernel takes connections from here on; the machine accepts them with its first turn.
    announce(address);
    let mut machine = Server {
        begun: false,
        ops: OpIds::default(),
        group: Group::new(options.file_bytes, options.writes_max),
        flights: VecDeque::new(),
        resting: Vec::new(),
        sessions: Map::default(),
        held: VecDeque::new(),
        dirty: Vec::new(),
        fatal: None,
    };
    match driver.run(&mut machine) {
        Outcome::Stopped => Ok(()),
        Outcome::Fatal(fatal) => Err(fatal.to_string()),
        Outcome::NotStarted(error) => Err(error.to_string()),
    }
}

/// Opens the folder. A ring holds its folder's lock a little longer than its process lives, and the one before this server
/// may have been one of ours.
fn open(dir: &Path) -> Result<JournalDirectory, String> {
    let mut tries_left = OPEN_TRIES;
    loop {
        match JournalDirectory::open(dir, true) {
            Ok(journal) if journal.direct_io() => return Ok(journal),
            Ok(_) => return Err("the file system refuses direct io".to_owned()),
            Err(DirectoryError::InUse(_)) if tries_left > 0 => tries_left -= 1,
            Err(error) => return Err(error.to_string()),
        }
        std::thread::sleep(OPEN_PAUSE);
    }
}

/// What a connection has sent, in the ring's own buffers, until a frame is whole.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        self.pieces.push_back(piece);
    }

    /// The header of the next frame, if the frame is whole.
    fn whole(&self) -> Result<Option<Header>, Broken> {
        if self.len < HEADER_BYTES {
            return Ok(None);
        }
        let mut bytes = [0; HEADER_BYTES];
        let mut got = 0;
        for piece in &self.pieces {
            let count = piece.len().min(HEADER_BYTES - got);
            bytes[got..got + count].copy_from_slice(&piece[..count]);
            got += count;
            if got == HEADER_BYTES {
                break;
            }
        }
        let header = Header::parse(bytes)?;
        Ok((self.len >= header.frame_bytes()).then_some(header))
    }

    /// The first `len` bytes, as they lie.
    fn front(&self, len: usize) -> impl Iterator<Item = &[u8]> {
        let mut left = len;
        self.pieces.iter().map_while(move |piece| {
            let count = piece.len().min(left);
            left -= count;
            (count > 0).then(|| &piece[..count])
        })
    }

    fn advance(&mut self, mut len: usize) {
        self.len -= len;
        while len > 0 {
            let piece = self.pieces.front_mut().expect("so much is there");
            let count = piece.len().min(len);
            piece.advance(count);
            len -= count;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

#[derive(Debug, Default)]
struct Session {
    pieces: Pieces,
    requests: Requests,
    /// The next frame was checked and waits for room.
    held: bool,
    out: BytesMut,
    sending: bool,
    /// Stands in the list of those with something to send.
    dirty: bool,
}

#[derive(Debug)]
struct Server {
    begun: bool,
    ops: OpIds,
    group: Group<Region, (ConnectionId, u64)>,
    /// Writes in flight: the operation, the chunk's name, its memory.
    flights: VecDeque<(OpId, u64, Region)>,
    /// Memory whose last slice the driver had not dropped when it was looked at.
    resting: Vec<Region>,
    sessions: Map<ConnectionId, Session>,
    /// Connections whose next append found no room, in order.
    held: VecDeque<ConnectionId>,
    dirty: Vec<ConnectionId>,
    fatal: Option<Fatal>,
}

impl Server {
    fn take_frames(&mut self, conn: ConnectionId) {
        let Some(session) = self.sessions.get_mut(&conn) else {
            return;
        };
        loop {
            let header = match session.pieces.whole() {
                Ok(None) => return,
                Ok(Some(header)) => header,
                Err(broken) => fatal(broken),
            };
            if !session.held
                && let Err(broken) = session.requests.check(header)
            {
                fatal(broken);
            }
            let len = header.frame_bytes();
            if header.kind == Kind::Echo {
                for piece in session.pieces.front(len) {
                    session.out.extend_from_slice(piece);
                }
                if !std::mem::replace(&mut session.dirty, true) {
                    self.dirty.push(conn);
                }
            } else {
                let frame = session.pieces.front(len);
                let waiting = (conn, header.seq);
                let make = || Region::new(CHUNK_BYTES_MAX);
                let appended = self.group.append(len, frame, waiting, make);
                session.held = appended == Appended::Full;
                if session.held {
                    self.held.push_back(conn);
                    return;
                }
            }
            session.pieces.advance(len);
        }
    }

    fn write(&mut self, effects: &mut Effects) {
        while let Some(mut taken) = self.group.take() {
            let op = self.ops.allocate();
            effects.push(Effect::Write {
                op,
                file: FILE,
                at: taken.at,
                data: taken.chunk.freeze(),
                durable: true,
            });
            self.flights.push_back((op, taken.id, taken.chunk));
            // Those that found the chunk full fill the next one.
            for _ in 0..self.held.len() {
                if let Some(conn) = self.held.pop_front() {
                    self.take_frames(conn);
                }
            }
        }
    }

    fn written(&mut self, op: OpId) {
        let at = self.flights.iter().position(|flight| flight.0 == op);
        let flight = at.and_then(|at| self.flights.remove(at));
        let (_, id, chunk) = flight.expect("a write in flight completes once");
        self.resting.push(chunk);
        let group = &mut self.group;
        for mut chunk in self.resting.extract_if(.., Region::try_reset) {
            debug_assert!(Chunk::filled(&chunk).is_empty());
            chunk.open().clear();
            group.give_back(chunk);
        }
        let (sessions, dirty) = (&mut self.sessions, &mut self.dirty);
        self.group.done(id, |(conn, seq), crc| {
            // One that is gone does not wait any more.
            if let Some(session) = sessions.get_mut(&conn) {
                session.out.extend_from_slice(&ack(seq, crc));
                if !std::mem::replace(&mut session.dirty, true) {
                    dirty.push(conn);
                }
            }
        });
    }

    fn send(&mut self, effects: &mut Effects) {
        for conn in self.dirty.drain(..) {
            let Some(session) = self.sessions.get_mut(&conn) else {
                continue;
            };
            session.dirty = false;
            // The completion of the send in flight comes here again.
            if !session.sending && !session.out.is_empty() {
                session.sending = true;
                effects.push(Effect::Send {
                    op: self.ops.allocate(),
                    conn,
                    parts: vec![session.out.split().freeze()],
                });
            }
        }
    }
}

impl Machine for Server {
    fn step(&mut self, _now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, .. } => {
                self.sessions.insert(conn, Session::default());
            }
            Event::Received { conn, data } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.pieces.push(data);
                    if !session.held {
                        self.take_frames(conn);
                    }
                }
            }
            Event::Written { op, result } => match result {
                Ok(()) => self.written(op),
                Err(error) => self.fatal = Some(Fatal::JournalWrite(error)),
            },
            Event::Sent { conn, .. } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.sending = false;
                    if !std::mem::replace(&mut session.dirty, true) {
                        self.dirty.push(conn);
                    }
                }
            }
            Event::Hangup { conn } => {
                if let Some(session) = self.sessions.get(&conn)
                    && session.pieces.len > 0
                {
                    let left_bytes = session.pieces.len;
                    fatal(Broken::Ended { left_bytes });
                }
                effects.push(Effect::Close { conn });
            }
            Event::Closed { conn } => {
                self.sessions.remove(&conn);
            }
            Event::Stop => effects.push(Effect::Stopped),
            Event::Prepared { .. }
            | Event::Connected { .. }
            | Event::ReadDone { .. }
            | Event::Synced { .. }
            | Event::Removed { .. }
            | Event::Posted { .. }
            | Event::MeshFull(_)
            | Event::MeshOpen(_)
            | Event::Catalogue(_)
            | Event::Timer => {}
        }
    }

    fn finish_turn(&mut self, _now: Now, effects: &mut Effects) {
        if !std::mem::replace(&mut self.begun, true) {
            effects.push(Effect::Serve);
        }
        if let Some(fatal) = self.fatal.take() {
            effects.push(Effect::Fatal(fatal));
            return;
        }
        self.write(effects);
        self.send(effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_however_its_pieces_are_cut() {
        let header = Header {
            length: 100,
            kind: Kind::Append,
            seq: 3,
        };
        let mut frame = header.bytes().to_vec();
        frame.extend(0..100_u8);
        let twice = Bytes::from([frame.clone(), frame.clone()].concat());
        for piece_bytes in [1, 5, 16, 100, 116, 232] {
            let mut pieces = Pieces::default();
            let mut got = Vec::new();
            for start in (0..twice.len()).step_by(piece_bytes) {
                pieces.push(twice.slice(start..twice.len().min(start + piece_bytes)));
                while let Some(found) = pieces.whole().expect("frames") {
                    assert_eq!(found, header);
                    let len = found.frame_bytes();
                    got.extend(pieces.front(len).flatten().copied());
                    pieces.advance(len);
                }
            }
            assert_eq!(got, twice, "cut into {piece_bytes}");
            assert_eq!((pieces.len, pieces.pieces.len()), (0, 0));
        }
    }
}

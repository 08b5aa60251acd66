//! The machine: sessions, the log, and acknowledgements in one frame per connection and turn. Bounded by what its clients
//! keep in flight; a batch that finds every region in flight waits with its frame, in order, for the next completion.

use crate::answers::{Answers, EPOCH};
use crate::log::{FILE, Log, Refused, Waiting};
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::net::SocketAddr;
use tiderace_base::collections::Map;
use tiderace_base::ids::{ConnectionId, MessageId};
use tiderace_base::limits::ACKS_PER_FRAME_MAX;
use tiderace_base::operation::{Effect, Effects, Event, Fatal, Machine, OpId, OpIds};
use tiderace_base::time::Now;
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{Ack, AckFlags, Control, Error, Produced};
use tiderace_wire::link::Kind;

#[derive(Debug)]
struct Session {
    assembler: Assembler,
    open: bool,
    out: BytesMut,
    acks: Vec<Ack>,
    last_id: u64,
    sending: bool,
    closing: bool,
    /// Stands in the list of those with something to send.
    dirty: bool,
}

impl Session {
    fn new() -> Self {
        Self {
            assembler: Assembler::new(Receiver::Node),
            open: false,
            out: BytesMut::new(),
            acks: Vec::new(),
            last_id: 0,
            sending: false,
            closing: false,
            dirty: false,
        }
    }

    fn next_id(&mut self) -> MessageId {
        self.last_id += 1;
        MessageId::new(self.last_id)
    }
}

/// The floor's machine.
#[derive(Debug)]
pub(crate) struct Floor {
    file_bytes: u64,
    begun: Option<OpId>,
    ops: OpIds,
    log: Log,
    answers: Answers,
    sessions: Map<ConnectionId, Session>,
    /// Batches that found no room, in order.
    held: VecDeque<(ConnectionId, Frame)>,
    dirty: Vec<ConnectionId>,
    fatal: Option<Fatal>,
}

impl Floor {
    pub(crate) fn new(address: SocketAddr, boot: u64, file_bytes: u64, writes_max: usize) -> Self {
        Self {
            file_bytes,
            begun: None,
            ops: OpIds::default(),
            log: Log::new(file_bytes, writes_max),
            answers: Answers::new(address, boot),
            sessions: Map::default(),
            held: VecDeque::new(),
            dirty: Vec::new(),
            fatal: None,
        }
    }

    fn received(&mut self, now: Now, conn: ConnectionId, data: Bytes, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&conn) else {
            return;
        };
        if session.closing {
            return;
        }
        session.assembler.push(data);
        loop {
            let Some(session) = self.sessions.get_mut(&conn) else {
                return;
            };
            match session.assembler.next_frame() {
                Ok(None) => return,
                Ok(Some(frame)) => self.frame(now, conn, frame, effects),
                Err(code) => {
                    self.end(conn, code);
                    return;
                }
            }
        }
    }

    fn frame(&mut self, now: Now, conn: ConnectionId, frame: Frame, effects: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&conn) else {
            return;
        };
        let kind = frame.front.header.kind();
        match (session.open, kind) {
            (true, Kind::Produce) => {
                if self.held.is_empty() {
                    self.produce(conn, frame, effects);
                } else {
                    self.held.push_back((conn, frame));
                }
                return;
            }
            (false, Kind::Hello) => {
                session.open = true;
                session.assembler.open();
                let id = session.next_id();
                self.answers.welcome().encode(&mut session.out, id);
            }
            (false, _) => return self.end(conn, ErrorCode::NotReady),
            (true, _) => match Control::decode(kind, &frame.front.control) {
                Ok(control) => {
                    let request = frame.front.header.message_id();
                    let id = session.next_id();
                    self.answers
                        .answer(now, request, control, &mut session.out, id);
                }
                Err(_) => return self.end(conn, ErrorCode::BadControl),
            },
        }
        self.touch(conn);
    }

    fn produce(&mut self, conn: ConnectionId, frame: Frame, effects: &mut Effects) {
        let request = frame.front.header.message_id();
        let answers = &mut self.answers;
        let result = self.log.append(
            &frame.batch,
            conn,
            request,
            &mut self.ops,
            effects,
            |header| answers.place(header.key(), header.record_count()),
        );
        match result {
            Ok(()) => {}
            Err(Refused::Full) => self.held.push_front((conn, frame)),
            Err(Refused::Batch(code)) => self.ack(conn, Ack::refused(request, code, 0, 0)),
        }
    }

    fn retry_held(&mut self, effects: &mut Effects) {
        while let Some((conn, frame)) = self.held.pop_front() {
            let before = self.held.len();
            self.produce(conn, frame, effects);
            if self.held.len() > before {
                return;
            }
        }
    }

    fn ack(&mut self, conn: ConnectionId, ack: Ack) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.acks.push(ack);
            if !std::mem::replace(&mut session.dirty, true) {
                self.dirty.push(conn);
            }
        }
    }

    fn touch(&mut self, conn: ConnectionId) {
        if let Some(session) = self.sessions.get_mut(&conn)
            && !std::mem::replace(&mut session.dirty, true)
        {
            self.dirty.push(conn);
        }
    }

    /// Says why and closes behind it.
    fn end(&mut self, conn: ConnectionId, code: ErrorCode) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            let id = session.next_id();
            let mut error = Error::about(MessageId::new(0), code);
            error.fatal = true;
            error.encode(&mut session.out, id);
            session.closing = true;
        }
        self.touch(conn);
    }

    fn written(&mut self, now: Now, op: OpId, effects: &mut Effects) {
        let append_time_us = now.wall.as_us();
        let mut log = std::mem::replace(&mut self.log, Log::new(0, 0));
        log.written(op, |waiting: Waiting| {
            self.ack(
                waiting.conn,
                Ack {
                    request: waiting.request,
                    base_offset: waiting.base_offset,
                    append_time_us,
                    epoch: EPOCH,
                    code: None,
                    flags: AckFlags::NONE,
                },
            );
        });
        self.log = log;
        self.retry_held(effects);
    }

    fn send(&mut self, effects: &mut Effects) {
        for conn in std::mem::take(&mut self.dirty) {
            let Some(session) = self.sessions.get_mut(&conn) else {
                continue;
            };
            session.dirty = false;
            if session.sending {
                // Its completion comes here again.
                continue;
            }
            let acks = std::mem::take(&mut session.acks);
            for some in acks.chunks(ACKS_PER_FRAME_MAX) {
                let id = session.next_id();
                Produced::encode(some, &mut session.out, id);
            }
            session.acks = acks;
            session.acks.clear();
            if !session.out.is_empty() {
                session.sending = true;
                effects.push(Effect::Send {
                    op: self.ops.allocate(),
                    conn,
                    parts: vec![session.out.split().freeze()],
                });
            } else if session.closing {
                effects.push(Effect::Close { conn });
            }
        }
    }
}

impl Machine for Floor {
    fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Accepted { conn, .. } => {
                self.sessions.insert(conn, Session::new());
            }
            Event::Received { conn, data } => self.received(now, conn, data, effects),
            Event::Written { op, result } => match result {
                Ok(()) => self.written(now, op, effects),
                Err(error) => self.fatal = Some(Fatal::JournalWrite(error)),
            },
            Event::Sent { conn, alive, .. } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.sending = false;
                    session.closing |= !alive;
                }
                self.touch(conn);
            }
            Event::Hangup { conn } => {
                if let Some(session) = self.sessions.get_mut(&conn) {
                    session.closing = true;
                }
                effects.push(Effect::Close { conn });
            }
            Event::Closed { conn } => {
                self.sessions.remove(&conn);
            }
            Event::Prepared { op, result } if Some(op) == self.begun => match result {
                Ok(()) => effects.push(Effect::Serve),
                Err(error) => self.fatal = Some(Fatal::JournalWrite(error)),
            },
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
        if self.begun.is_none() {
            let op = self.ops.allocate();
            self.begun = Some(op);
            effects.push(Effect::Prepare {
                op,
                file: FILE,
                bytes: self.file_bytes,
            });
        }
        if let Some(fatal) = self.fatal.take() {
            effects.push(Effect::Fatal(fatal));
            return;
        }
        self.log.flush(&mut self.ops, effects);
        self.send(effects);
    }
}

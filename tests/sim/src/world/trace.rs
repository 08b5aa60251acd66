//! What a run was: a stable 64-bit hash over every event a machine took, every effect it had and every byte in them, in
//! order, with the time. Two runs of a seed with different hashes mean that something read a clock, an address or an
//! unordered map. Prints the same, a line each, when asked, or keeps the last lines.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::hash::Hasher;
use std::io::Write as _;

use bytes::Bytes;
use tiderace_base::checksum::crc32c;
use tiderace_base::collections::PinnedHasher;
use tiderace_base::disk::{DiskError, JournalFile};
use tiderace_base::mesh::{Message, Peer};
use tiderace_base::operation::{Door, Effect, Event};

use crate::world::{ActorEvent, ActorId, LinkId, MachineId};

/// Whom a line is about.
#[derive(Clone, Copy, Debug)]
enum Who {
    Machine(MachineId),
    Actor(ActorId),
    World,
}

impl Who {
    /// Its part of the hash; the line's kind tells the variants apart.
    fn number(self) -> u64 {
        match self {
            Self::Machine(id) => (u64::from(id.node) << 16) | u64::from(id.machine),
            Self::Actor(id) => u64::from(id.0),
            Self::World => 0,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(id) => write!(f, "{id}"),
            Self::Actor(id) => write!(f, "actor{}", id.0),
            Self::World => write!(f, "world"),
        }
    }
}

/// What becomes of a trace's lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lines {
    /// They are not made: only hashed.
    #[default]
    None,
    /// They are printed.
    Printed,
    /// The last so many are kept.
    Kept(usize),
}

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: PinnedHasher,
    lines: Lines,
    kept: VecDeque<String>,
    events: u64,
    effects: u64,
    now_ns: u64,
}

impl Trace {
    /// An empty trace.
    #[must_use]
    pub fn new(lines: Lines) -> Self {
        Self {
            lines,
            ..Self::default()
        }
    }

    /// The hash so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// Events taken by machines so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Effects of machines so far.
    #[must_use]
    pub fn effects(&self) -> u64 {
        self.effects
    }

    /// Moves time on.
    pub fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// A machine takes an event.
    pub fn event(&mut self, machine: MachineId, event: &Event) {
        self.events += 1;
        let mut line = Line::new(self.lines);
        line.event(event);
        self.record(&line, 1, Who::Machine(machine));
    }

    /// A machine wants something done.
    pub fn effect(&mut self, machine: MachineId, effect: &Effect) {
        self.effects += 1;
        let mut line = Line::new(self.lines);
        line.effect(effect);
        self.record(&line, 2, Who::Machine(machine));
    }

    /// An actor takes an event.
    pub fn actor(&mut self, actor: ActorId, event: &ActorEvent) {
        let mut line = Line::new(self.lines);
        match event {
            ActorEvent::Wake => line.word("wake", 1),
            ActorEvent::Connected(LinkId(link)) => line.word("connected", u64::from(*link)),
            ActorEvent::Closed(LinkId(link)) => line.word("closed", u64::from(*link)),
            ActorEvent::Ended(LinkId(link)) => line.word("ended", u64::from(*link)),
            ActorEvent::Received(LinkId(link), data) => {
                line.word("received", u64::from(*link));
                line.bytes(data);
            }
        }
        self.record(&line, 3, Who::Actor(actor));
    }

    /// Something happens to the world.
    pub fn note(&mut self, what: &str, number: u64) {
        let mut line = Line::new(self.lines);
        line.word(what, number);
        self.record(&line, 4, Who::World);
    }

    /// A line of text for whoever reads the trace; no part of the hash.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.lines != Lines::None {
            self.write("      ", &text());
        }
    }

    /// The last lines, if they are kept.
    pub fn take_kept(&mut self) -> Vec<String> {
        std::mem::take(&mut self.kept).into()
    }

    fn record(&mut self, line: &Line, kind: u64, who: Who) {
        self.hasher.write_u64(self.now_ns);
        self.hasher.write_u64(kind);
        self.hasher.write_u64(who.number());
        self.hasher.write_u64(line.hasher.finish());
        if let Some(text) = &line.text {
            let arrow = match kind {
                1 | 3 => "<-",
                2 => "->",
                _ => "**",
            };
            self.write(&who.to_string(), &format!("{arrow}{text}"));
        }
    }

    fn write(&mut self, who: &str, text: &str) {
        let (us, ns) = (self.now_ns / 1000, self.now_ns % 1000);
        let line = format!("{us:>9}.{ns:03}us {who:<10} {text}");
        match self.lines {
            Lines::None => {}
            Lines::Printed => {
                // Whoever reads the trace may stop reading: that ends no run.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
            Lines::Kept(count) => {
                if self.kept.len() == count {
                    self.kept.pop_front();
                }
                self.kept.push_back(line);
            }
        }
    }
}

/// One line: its hash and, when it is printed, its text.
struct Line {
    hasher: PinnedHasher,
    text: Option<String>,
}

impl Line {
    fn new(lines: Lines) -> Self {
        Self {
            hasher: PinnedHasher::default(),
            text: (lines != Lines::None).then(String::new),
        }
    }

    fn word(&mut self, name: &str, number: u64) {
        self.hasher.write(name.as_bytes());
        self.hasher.write_u64(number);
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = write!(text, " {name}={number}");
        }
    }

    fn text(&mut self, what: &str) {
        self.hasher.write(what.as_bytes());
        if let Some(text) = &mut self.text {
            text.push(' ');
            text.push_str(what);
        }
    }

    fn bytes(&mut self, bytes: &Bytes) {
        self.word("bytes", bytes.len() as u64);
        let crc = crc32c(bytes);
        self.hasher.write_u32(crc);
        if let Some(text) = &mut self.text {
            let _ = write!(text, " crc={crc:08x}");
        }
    }

    fn file(&mut self, file: JournalFile) {
        let (kind, number) = match file {
            JournalFile::Superblock => ("superblock", 0),
            JournalFile::Segment(number) => ("segment", u64::from(number)),
            JournalFile::Footer(number) => ("footer", u64::from(number)),
            JournalFile::Checkpoint(number) => ("checkpoint", number),
        };
        self.word(kind, number);
    }

    fn peer(&mut self, peer: Peer) {
        match peer {
            Peer::Control => self.word("control", 0),
            Peer::Shard(shard) => self.word("shard", u64::from(shard.get())),
        }
    }

    fn result<T>(&mut self, result: &Result<T, DiskError>) {
        if let Err(error) = result {
            self.text(&error.to_string());
        }
    }

    fn message(&mut self, message: &Message) {
        match message {
            Message::Produce {
                origin,
                control,
                batch,
            } => {
                self.word("produce", origin.request.get());
                self.word("conn", origin.conn.get());
                self.bytes(control);
                for piece in batch {
                    self.bytes(piece);
                }
            }
            Message::Produced { origin, ack } => {
                self.word("produced", origin.request.get());
                self.bytes(ack);
            }
            Message::Snapshot(snapshot) => self.word("snapshot", snapshot.version.get()),
            Message::Finished => self.text("finished"),
            Message::Applied(version) => self.word("applied", version.get()),
            Message::Dropped(version) => self.word("dropped", version.get()),
            // Rare and small: their debug form holds everything.
            Message::Change { .. } | Message::Changed { .. } => self.text(&format!("{message:?}")),
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Written { op, result } => {
                self.word("written", op.get());
                self.result(result);
            }
            Event::ReadDone { op, result } => {
                self.word("read_done", op.get());
                match result {
                    Ok(bytes) => self.bytes(bytes),
                    Err(_) => self.result(result),
                }
            }
            Event::Synced { op, result } => {
                self.word("synced", op.get());
                self.result(result);
            }
            Event::Prepared { op, result } => {
                self.word("prepared", op.get());
                self.result(result);
            }
            Event::Removed { op, result } => {
                self.word("removed", op.get());
                self.result(result);
            }
            Event::Accepted { conn, from, .. } => {
                self.word("accepted", conn.get());
                if let Door::Peer(node) = from {
                    self.word("node", node.get());
                }
            }
            Event::Connected { op, result } => {
                self.word("connected", op.get());
                match result {
                    Ok(conn) => self.word("conn", conn.get()),
                    Err(error) => self.text(&format!("{error:?}")),
                }
            }
            Event::Received { conn, data } => {
                self.word("received", conn.get());
                self.bytes(data);
            }
            Event::Hangup { conn } => self.word("hangup", conn.get()),
            Event::Sent {
                op,
                conn,
                sent_bytes,
                alive,
            } => {
                self.word("sent", op.get());
                self.word("conn", conn.get());
                self.word("sent_bytes", *sent_bytes);
                self.word("alive", u64::from(*alive));
            }
            Event::Closed { conn } => self.word("closed", conn.get()),
            Event::Posted { from, message } => {
                self.text("posted");
                self.peer(*from);
                self.message(message);
            }
            Event::MeshFull(peer) => {
                self.text("mesh_full");
                self.peer(*peer);
            }
            Event::MeshOpen(peer) => {
                self.text("mesh_open");
                self.peer(*peer);
            }
            Event::Catalogue(snapshot) => self.word("catalogue", snapshot.version.get()),
            Event::Timer => self.text("timer"),
            Event::Stop => self.text("stop"),
        }
    }

    fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Write {
                op,
                file,
                at,
                data,
                durable,
            } => {
                self.word("write", op.get());
                self.file(*file);
                self.word("at", *at);
                self.word("durable", u64::from(*durable));
                self.bytes(data);
            }
            Effect::Read { op, file, at, len } => {
                self.word("read", op.get());
                self.file(*file);
                self.word("at", *at);
                self.word("len", u64::from(*len));
            }
            Effect::Sync { op, file } => {
                self.word("sync", op.get());
                self.file(*file);
            }
            Effect::Prepare { op, file, bytes } => {
                self.word("prepare", op.get());
                self.file(*file);
                self.word("bytes", *bytes);
            }
            Effect::Remove { op, file } => {
                self.word("remove", op.get());
                self.file(*file);
            }
            Effect::Connect { op, to, peer } => {
                self.word("connect", op.get());
                self.text(&to.to_string());
                self.word("node", peer.get());
            }
            Effect::Send { op, conn, parts } => {
                self.word("send", op.get());
                self.word("conn", conn.get());
                for part in parts {
                    self.bytes(part);
                }
            }
            Effect::CancelSend { conn } => self.word("cancel_send", conn.get()),
            Effect::Receive { conn, wanted } => {
                self.word("receive", conn.get());
                self.word("wanted", u64::from(*wanted));
            }
            Effect::Finish { conn } => self.word("finish", conn.get()),
            Effect::Close { conn } => self.word("close", conn.get()),
            Effect::Post { to, message } => {
                self.text("post");
                self.peer(*to);
                self.message(message);
            }
            Effect::WakeAt(mono) => self.word("wake_at", mono.as_ns()),
            Effect::Serve => self.text("serve"),
            Effect::Refuse => self.text("refuse"),
            Effect::ServeNodes(serving) => self.word("serve_nodes", u64::from(*serving)),
            Effect::Stopped => self.text("stopped"),
            Effect::Fatal(fatal) => self.text(&format!("fatal: {fatal}")),
        }
    }
}

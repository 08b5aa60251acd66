//! The one client: a thread that keeps so many requests outstanding on so many connections, and checks every answer: its
//! place, its length, its bytes, its checksum. With one connection it blocks in the read; with several it uses epoll. It
//! knows no runtime. At the end it waits for every answer, so that a server that lost one is found.

use crate::protocol::{Broken, FrameBuffer, HEADER_BYTES, Header, Kind};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::Timespec;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tiderace_base::checksum::crc32c;

/// An answer that takes longer than this was lost.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Events of one turn.
const EVENTS_MAX: usize = 256;

/// What is asked of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Workload {
    /// Echo or durable append.
    pub(crate) durable: bool,
    /// Bytes of each payload.
    pub(crate) payload_bytes: usize,
    /// Connections.
    pub(crate) connections: usize,
    /// Requests outstanding on each.
    pub(crate) depth: usize,
}

impl Workload {
    const fn new(durable: bool, payload_bytes: usize, connections: usize, depth: usize) -> Self {
        Self {
            durable,
            payload_bytes,
            connections,
            depth,
        }
    }

    /// Those that a decision was made about.
    pub(crate) const ALL: [Self; 5] = [
        Self::new(false, 64, 1, 1),
        Self::new(false, 64, 64, 16),
        Self::new(true, 256, 1, 1),
        Self::new(true, 256, 64, 16),
        Self::new(true, 64 * 1024, 8, 1),
    ];

    const fn kind(self) -> Kind {
        if self.durable {
            Kind::Append
        } else {
            Kind::Echo
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.durable { "durable" } else { "echo" };
        let (size, unit) = match self.payload_bytes {
            bytes if bytes % 1024 == 0 => (bytes / 1024, "KiB"),
            bytes => (bytes, "B"),
        };
        let (connections, depth) = (self.connections, self.depth);
        write!(f, "{what} {size} {unit}, {connections} x {depth}")
    }
}

/// What server and client have used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Of the server's process.
    pub(crate) server_cpu_seconds: f64,
    /// Of this thread.
    pub(crate) client_cpu_seconds: f64,
}

/// What was seen in the measured part of a run.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Answers.
    pub(crate) frames: u64,
    /// How long it took.
    pub(crate) seconds: f64,
    /// What was used meanwhile.
    pub(crate) usage: Usage,
    /// Response times in nanoseconds, sorted; of one connection with one request only.
    pub(crate) response_ns: Vec<u64>,
}

/// Loads the server at `address` for `warm_up` and then for `measured`. `usage` is asked at both ends of the measured part.
///
/// # Errors
/// The connection failed, an answer was wrong, or one did not come.
pub(crate) fn run(
    address: SocketAddr,
    workload: Workload,
    warm_up: Duration,
    measured: Duration,
    usage: impl Fn() -> Usage,
) -> Result<Seen, String> {
    let blocking = workload.connections == 1;
    let mut connections = (0..workload.connections)
        .map(|_| Connection::open(address, workload, blocking))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| format!("cannot connect: {error}"))?;
    let poll = Poll::new(&connections).map_err(|error| format!("epoll is refused: {error}"))?;
    let poll = (!blocking).then_some(poll);
    let begun = Instant::now();
    for connection in &mut connections {
        connection.ask(workload.depth);
        connection.send()?;
    }
    let mut load = Load {
        poll,
        connections,
        answers: 0,
        asking: true,
        response_ns: blocking.then(Vec::new).filter(|_| workload.depth == 1),
    };
    load.until(begun + warm_up)?;
    if let Some(response_ns) = &mut load.response_ns {
        response_ns.clear();
    }
    let (used_before, from, before) = (usage(), Instant::now(), load.answers);
    load.until(from + measured)?;
    let (seconds, used) = (from.elapsed().as_secs_f64(), usage());
    let frames = load.answers - before;
    let mut response_ns = load.response_ns.take().unwrap_or_default();
    response_ns.sort_unstable();
    load.drain()?;
    Ok(Seen {
        frames,
        seconds,
        usage: Usage {
            server_cpu_seconds: used.server_cpu_seconds - used_before.server_cpu_seconds,
            client_cpu_seconds: used.client_cpu_seconds - used_before.client_cpu_seconds,
        },
        response_ns,
    })
}

struct Load {
    /// None: one connection, which blocks.
    poll: Option<Poll>,
    connections: Vec<Connection>,
    answers: u64,
    /// Whether an answer is followed by a new request.
    asking: bool,
    response_ns: Option<Vec<u64>>,
}

impl Load {
    fn until(&mut self, end: Instant) -> Result<(), String> {
        while Instant::now() < end {
            self.turn()?;
        }
        Ok(())
    }

    /// Waits for every answer that is outstanding.
    fn drain(&mut self) -> Result<(), String> {
        self.asking = false;
        while self.connections.iter().any(Connection::waits) {
            self.turn()?;
        }
        for connection in &mut self.connections {
            connection.finish()?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), String> {
        let Some(poll) = &mut self.poll else {
            let connection = &mut self.connections[0];
            let asked = connection.asked_at;
            let answers = connection.receive()?;
            if let Some(response_ns) = &mut self.response_ns
                && answers > 0
            {
                response_ns.push(asked.elapsed().as_nanos() as u64);
            }
            self.answers += answers as u64;
            if self.asking {
                connection.ask(answers);
                connection.send()?;
            }
            return Ok(());
        };
        for (at, flags) in poll.wait()? {
            let connection = &mut self.connections[at];
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                let answers = connection.receive()?;
                self.answers += answers as u64;
                if self.asking {
                    connection.ask(answers);
                }
            }
            let blocks = !connection.send()?;
            let blocked = std::mem::replace(&mut connection.blocked, blocks);
            if blocked != connection.blocked {
                poll.watch(at, connection)?;
            }
        }
        Ok(())
    }
}

struct Poll {
    poll: std::os::fd::OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    fn new(connections: &[Connection]) -> io::Result<Self> {
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        for (at, connection) in connections.iter().enumerate() {
            let name = EventData::new_u64(at as u64);
            epoll::add(&poll, &connection.stream, name, EventFlags::IN)?;
        }
        Ok(Self {
            poll,
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    fn wait(&mut self) -> Result<Vec<(usize, EventFlags)>, String> {
        let timeout = Timespec {
            tv_sec: ANSWER_WAIT.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.poll, room, Some(&timeout)) {
            Ok(0) => Err(lost()),
            Ok(_) => {
                let named = |event: &epoll::Event| (event.data.u64() as usize, event.flags);
                Ok(self.events.iter().map(named).collect())
            }
            Err(error) => Err(format!("epoll failed: {error}")),
        }
    }

    fn watch(&self, at: usize, connection: &Connection) -> Result<(), String> {
        let flags = if connection.blocked {
            EventFlags::IN | EventFlags::OUT
        } else {
            EventFlags::IN
        };
        let name = EventData::new_u64(at as u64);
        epoll::modify(&self.poll, &connection.stream, name, flags)
            .map_err(|error| format!("epoll failed: {error}"))
    }
}

fn lost() -> String {
    format!(
        "no answer within {} s: the server lost a request or its answer",
        ANSWER_WAIT.as_secs()
    )
}

struct Connection {
    stream: TcpStream,
    workload: Workload,
    buffer: FrameBuffer,
    frame: Vec<u8>,
    next_seq: u64,
    /// Checksums of what is outstanding, in order, where answers carry one.
    outstanding: VecDeque<u32>,
    outstanding_count: usize,
    out: Vec<u8>,
    sent: usize,
    blocked: bool,
    asked_at: Instant,
}

impl Connection {
    fn open(address: SocketAddr, workload: Workload, blocking: bool) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(!blocking)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend((0..workload.payload_bytes).map(|at| (at * 31 + at / 251) as u8));
        Ok(Self {
            stream,
            workload,
            buffer: FrameBuffer::new(),
            frame,
            next_seq: 0,
            outstanding: VecDeque::new(),
            outstanding_count: 0,
            out: Vec::new(),
            sent: 0,
            blocked: false,
            asked_at: Instant::now(),
        })
    }

    const fn waits(&self) -> bool {
        self.outstanding_count > 0
    }

    /// Puts so many requests behind those to be sent.
    fn ask(&mut self, count: usize) {
        for _ in 0..count {
            let header = Header {
                length: self.workload.payload_bytes,
                kind: self.workload.kind(),
                seq: self.next_seq,
            };
            self.next_seq += 1;
            self.frame[..HEADER_BYTES].copy_from_slice(&header.bytes());
            if self.workload.durable {
                self.outstanding.push_back(crc32c(&self.frame));
            }
            self.outstanding_count += 1;
            self.out.extend_from_slice(&self.frame);
        }
        self.asked_at = Instant::now();
    }

    /// Sends what the socket takes. False: there is more.
    fn send(&mut self) -> Result<bool, String> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(format!("sending failed: {error}")),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Receives once, and checks every whole answer. Says how many.
    fn receive(&mut self) -> Result<usize, String> {
        match self.stream.read(self.buffer.room()) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(count) => self.buffer.received(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                // A blocking read says this when its time is over.
                return if self.workload.connections == 1 {
                    Err(lost())
                } else {
                    Ok(0)
                };
            }
            Err(error) => return Err(format!("receiving failed: {error}")),
        }
        let mut answers = 0;
        let first = self.next_seq - self.outstanding_count as u64;
        while let Some((header, answer)) = self.buffer.next().map_err(|error| error.to_string())? {
            if answers == self.outstanding_count {
                return Err(format!("answer {} was never asked for", header.seq));
            }
            let seq = first + answers as u64;
            check(
                header,
                answer,
                seq,
                &self.frame,
                self.outstanding.pop_front(),
            )
            .map_err(|broken| broken.to_string())?;
            answers += 1;
        }
        self.outstanding_count -= answers;
        Ok(answers)
    }

    /// Every answer has come: nothing may be left over.
    fn finish(&mut self) -> Result<(), String> {
        self.buffer.end().map_err(|error| error.to_string())
    }
}

/// Whether this is the answer to request `seq`. `crc`: an append of this checksum; else an echo of `frame`'s payload.
fn check(
    header: Header,
    answer: &[u8],
    seq: u64,
    frame: &[u8],
    crc: Option<u32>,
) -> Result<(), Broken> {
    let kind = if crc.is_some() { Kind::Ack } else { Kind::Echo };
    if header.kind != kind {
        return Err(Broken::Misplaced(header.kind));
    }
    if header.seq != seq {
        return Err(Broken::Order {
            expected: seq,
            found: header.seq,
        });
    }
    let crc = crc.map(u32::to_le_bytes);
    let wanted = crc
        .as_ref()
        .map_or(&frame[HEADER_BYTES..], <[u8; 4]>::as_slice);
    if &answer[HEADER_BYTES..] != wanted {
        return Err(Broken::Bytes { seq });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ack;

    fn checked(answer: &[u8], seq: u64, frame: &[u8], crc: Option<u32>) -> Result<(), Broken> {
        let header = Header::parse(*answer.first_chunk().expect("a header")).expect("a frame");
        check(header, answer, seq, frame, crc)
    }

    #[test]
    fn only_the_right_answer_passes() {
        let header = Header {
            length: 4,
            kind: Kind::Echo,
            seq: 5,
        };
        let echo = [header.bytes().as_slice(), b"abcd"].concat();
        assert_eq!(checked(&echo, 5, &echo, None), Ok(()));
        assert!(checked(&echo, 6, &echo, None).is_err());
        let mut other = echo.clone();
        other[HEADER_BYTES] ^= 1;
        assert!(checked(&other, 5, &echo, None).is_err());
        assert!(checked(&echo, 5, &echo, Some(0)).is_err());
        assert_eq!(checked(&ack(5, 9), 5, &echo, Some(9)), Ok(()));
        assert!(checked(&ack(5, 9), 5, &echo, Some(8)).is_err());
        assert!(checked(&ack(5, 9), 5, &echo, None).is_err());
    }

    /// Two connections to a server that answers all of its echoes, but lets `spoil` change what it answers.
    fn against(spoil: impl Fn(&mut Vec<u8>) + Send + Sync) -> Result<Seen, String> {
        const WORKLOAD: Workload = Workload::new(false, 64, 2, 4);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        std::thread::scope(|scope| {
            for _ in 0..WORKLOAD.connections {
                scope.spawn(|| {
                    let (mut stream, _) = listener.accept().expect("a client");
                    let mut bytes = vec![0; 4096];
                    while let Ok(count @ 1..) = stream.read(&mut bytes) {
                        let mut answer = bytes[..count].to_vec();
                        spoil(&mut answer);
                        if stream.write_all(&answer).is_err() {
                            break;
                        }
                    }
                });
            }
            let used = || Usage {
                server_cpu_seconds: 0.0,
                client_cpu_seconds: 0.0,
            };
            let moment = Duration::from_millis(20);
            run(address, WORKLOAD, moment, moment, used)
        })
    }

    #[test]
    fn an_honest_server_passes_and_one_that_loses_or_changes_bytes_does_not() {
        let seen = against(|_| {}).expect("every answer is right");
        assert!(seen.frames > 0);
        let lost = against(|answer| drop(answer.drain(..HEADER_BYTES + 64)));
        assert!(lost.is_err_and(|why| why.contains("were lost")));
        let changed = against(|answer| {
            if let Some(last) = answer.last_mut() {
                *last ^= 1;
            }
        });
        assert!(changed.is_err_and(|why| why.contains("other bytes")));
    }

    #[test]
    fn workloads_say_what_they_are() {
        let lines: Vec<String> = Workload::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(lines[0], "echo 64 B, 1 x 1");
        assert_eq!(lines[4], "durable 64 KiB, 8 x 1");
    }
}

//! The client core's session over one blocking socket: for what happens before the load, and for readers that must not
//! be read by the thread that measures.

use crate::setup::identity;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tiderace_base::limits::KIB;
use tiderace_client::core::connection::{Answer, AskRefused, Completion, Connection};
use tiderace_client::core::engine::Request;
use tiderace_io::Connector;

/// How long the node may be silent, and how long connecting may take.
const PATIENCE: Duration = Duration::from_secs(10);
const PIECE_BYTES: usize = 256 * KIB;

/// Connects.
///
/// # Errors
/// A sentence for people.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect_timeout(&address, PATIENCE)
        .map_err(|error| format!("cannot connect to {address}: {error}"))
}

/// A socket of its own thread.
#[derive(Debug)]
enum Socket {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Socket {
    fn new(stream: TcpStream, tls: Option<&Connector>) -> Result<Self, String> {
        let Some(tls) = tls else {
            return Ok(Self::Plain(stream));
        };
        let (config, name) = tls.parts();
        let connection = rustls::ClientConnection::new(Arc::clone(&config), name)
            .map_err(|error| error.to_string())?;
        let stream = rustls::StreamOwned::new(connection, stream);
        Ok(Self::Tls(Box::new(stream)))
    }

    fn stream(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
        }
    }
}

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// So many bytes.
    Bytes(usize),
    /// Nothing within the time that was set.
    Silence,
    /// The node closed the connection.
    End,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    server: SocketAddr,
    socket: Socket,
    piece: Vec<u8>,
    completions: VecDeque<Completion>,
}

impl Session {
    /// Connects and waits for the welcome.
    ///
    /// # Errors
    /// A sentence for people: not reachable, or no Tiderace node.
    pub(crate) fn open(server: SocketAddr, tls: Option<&Connector>) -> Result<Self, String> {
        let socket = connect(server)?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.set_nodelay(true))
            .map_err(|error| error.to_string())?;
        let mut session = Self {
            connection: Connection::new(&identity()),
            server,
            socket: Socket::new(socket, tls)?,
            piece: vec![0; PIECE_BYTES],
            completions: VecDeque::new(),
        };
        while !session.connection.is_open() {
            session.exchange()?;
        }
        Ok(session)
    }

    /// How long one read may take until it says that nothing came.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn patience(&mut self, patience: Duration) -> Result<(), String> {
        self.socket
            .stream()
            .set_read_timeout(Some(patience))
            .map_err(|error| error.to_string())
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn send(&mut self) -> Result<(), String> {
        let mut parts = Vec::new();
        self.connection.transmit(&mut parts);
        for part in parts {
            self.socket
                .write_all(&part)
                .map_err(|error| format!("{}: {error}", self.server))?;
        }
        Ok(())
    }

    /// Reads once, at most so many bytes.
    ///
    /// # Errors
    /// A sentence for people: the connection broke, or the node broke the protocol.
    pub(crate) fn read(&mut self, bytes_max: usize) -> Result<Heard, String> {
        let piece = &mut self.piece[..bytes_max.min(PIECE_BYTES)];
        let count = match self.socket.read(piece) {
            Ok(0) => return Ok(Heard::End),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Heard::Silence);
            }
            Err(error) => return Err(format!("{}: {error}", self.server)),
        };
        let mut completions = Vec::new();
        self.connection
            .receive(piece[..count].to_vec().into(), &mut completions)
            .map_err(|violation| format!("{}: {violation}", self.server))?;
        self.completions.extend(completions);
        Ok(Heard::Bytes(count))
    }

    /// Sends what waits and receives once.
    ///
    /// # Errors
    /// As [`Session::read`], and that nothing came.
    pub(crate) fn exchange(&mut self) -> Result<(), String> {
        self.send()?;
        match self.read(PIECE_BYTES)? {
            Heard::Bytes(_) => Ok(()),
            Heard::Silence => Err(format!("{} says nothing", self.server)),
            Heard::End => Err(format!("{} closed the connection", self.server)),
        }
    }

    /// The next thing that the node said.
    pub(crate) fn next(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Counts bytes that were sent to us and never read, and says whether the node has closed the connection. They are
    /// thrown away: the session is over.
    pub(crate) fn unread(mut self) -> (u64, bool) {
        let mut count = 0;
        let socket = self.socket.stream();
        if socket.set_nonblocking(true).is_err() {
            return (0, true);
        }
        loop {
            match socket.read(&mut self.piece) {
                Ok(0) => return (count, true),
                Ok(more) => count += more as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (count, false),
                Err(_) => return (count, true),
            }
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Answer, String> {
        let mut given = None;
        self.ask_all(
            1,
            |_| request.clone(),
            |_, answer| {
                given = Some(answer);
                Ok(())
            },
        )?;
        given.ok_or_else(|| format!("{} gave no answer", self.server))
    }

    /// Asks `count` questions, as many at once as may wait for an answer. Answers are taken as they come.
    ///
    /// # Errors
    /// A sentence for people: the first refusal ends it.
    pub(crate) fn ask_all(
        &mut self,
        count: u64,
        request: impl Fn(u64) -> Request,
        mut take: impl FnMut(u64, Answer) -> Result<(), String>,
    ) -> Result<(), String> {
        let (mut asked, mut answered) = (0, 0);
        while answered < count {
            while asked < count {
                let request = request(asked);
                match self.connection.ask(asked, &request) {
                    Ok(()) => asked += 1,
                    Err(AskRefused::Full) => break,
                    Err(refused) => {
                        return Err(format!("{request:?} cannot be sent: {refused:?}"));
                    }
                }
            }
            self.exchange()?;
            while let Some(completion) = self.next() {
                match completion {
                    Completion::Answered { token, answer } => {
                        answered += 1;
                        take(token, answer)?;
                    }
                    Completion::Refused { refusal, .. } | Completion::Ended(refusal) => {
                        return Err(format!("{}: {refusal}: {}", self.server, refusal.code));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Whether a node answers a hello at this address.
#[must_use]
pub(crate) fn answers(server: SocketAddr) -> bool {
    Session::open(server, None).is_ok()
}

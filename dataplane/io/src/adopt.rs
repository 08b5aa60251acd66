//! Connections that somebody else opened: a client or a load generator connects a socket in its own way and hands it to a
//! driver, whose machine then cannot tell it from one that a client's door accepted. Connecting itself stays outside: it may
//! block for as long as the network likes. A node's machine that connects to another node does it by an effect: `links`.

use crate::tls::Connector;
use crate::waker::Waker;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A socket on its way into a driver, its other end, and how it speaks TLS, if it does.
pub(crate) type Adopted = (TcpStream, SocketAddr, Option<Connector>);

/// Hands connected sockets to one driver, from any thread, before and while it runs.
#[derive(Clone, Debug)]
pub struct Adopter {
    sender: Sender<Adopted>,
    waker: Arc<Waker>,
}

impl Adopter {
    pub(crate) fn new(waker: Arc<Waker>) -> (Self, Receiver<Adopted>) {
        let (sender, receiver) = channel();
        (Self { sender, waker }, receiver)
    }

    /// Hands over a connected socket. The machine gets one `Event::Accepted` for it, in the order of these calls, whether
    /// or not it serves; from then on it is its connection. A driver that has ended closes it.
    ///
    /// # Errors
    /// The socket is not connected any more; it is closed and nothing is announced.
    pub fn adopt(&self, stream: TcpStream) -> io::Result<()> {
        self.hand_over(stream, None)
    }

    /// The same for a socket that speaks TLS. A handshake that fails is a hangup.
    ///
    /// # Errors
    /// As [`Adopter::adopt`].
    pub fn adopt_tls(&self, stream: TcpStream, connector: &Connector) -> io::Result<()> {
        self.hand_over(stream, Some(connector.clone()))
    }

    fn hand_over(&self, stream: TcpStream, connector: Option<Connector>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        // The ring polls by itself, and reports a non-blocking socket as failed instead of waiting.
        stream.set_nonblocking(false)?;
        let peer = stream.peer_addr()?;
        // A driver that has ended takes nothing: the socket comes back in the error and is closed.
        let _ = self.sender.send((stream, peer, connector));
        self.waker.wake();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Driver, DriverConfig, Outcome};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use tiderace_base::ids::ConnectionId;
    use tiderace_base::operation::{Effect, Effects, Event, Machine, OpId};
    use tiderace_base::time::Now;

    /// Sends what it receives back on the same connection and stops when told.
    #[derive(Default)]
    struct Echo {
        adopted: Vec<ConnectionId>,
    }

    impl Machine for Echo {
        fn step(&mut self, _: Now, event: Event, effects: &mut Effects) {
            match event {
                Event::Accepted { conn, .. } => self.adopted.push(conn),
                Event::Received { conn, data } => effects.push(Effect::Send {
                    op: OpId::new(1),
                    conn,
                    parts: vec![data],
                }),
                Event::Stop => effects.push(Effect::Stopped),
                _ => {}
            }
        }

        fn finish_turn(&mut self, _: Now, _: &mut Effects) {}
    }

    #[test]
    fn adopted_sockets_are_announced_before_and_during_a_run() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let mut driver = Driver::new(DriverConfig::default()).expect("io_uring is allowed here");
        let adopter = driver.adopter();
        let stop = driver.stop_handle();
        let pair = || {
            let ours = TcpStream::connect(address).expect("it listens");
            let (theirs, _) = listener.accept().expect("one waits");
            (ours, theirs)
        };
        let (early, mut early_end) = pair();
        adopter.adopt(early).expect("it is connected");
        let thread = std::thread::spawn(move || {
            let mut machine = Echo::default();
            let outcome = driver.run(&mut machine);
            (outcome, machine.adopted.len())
        });
        let echo = |end: &mut TcpStream| {
            let mut back = [0; 5];
            end.write_all(b"hello").expect("it is open");
            end.read_exact(&mut back).expect("it answers");
            assert_eq!(&back, b"hello");
        };
        echo(&mut early_end);
        let (late, mut late_end) = pair();
        adopter.adopt(late).expect("it is connected");
        echo(&mut late_end);
        stop.stop();
        let (outcome, adopted) = thread.join().expect("no panic");
        assert!(matches!(outcome, Outcome::Stopped));
        assert_eq!(adopted, 2);
    }
}

//! Listening sockets. A port may be shared by all shards (`SO_REUSEPORT`: the kernel spreads connections) or belong to
//! one. What every connection needs is set here once and inherited by whatever is accepted; what is opened to a node has
//! the same.

use crate::syscall::{RawAddress, check, set_option, socket_address};
use crate::tls::Acceptor;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A connection on which nothing came for so long is asked whether its other end is still there,
const KEEPALIVE_IDLE_S: libc::c_int = 60;
/// so often,
const KEEPALIVE_EVERY_S: libc::c_int = 10;
/// and after so many questions without an answer it has failed. A slow reader answers, and stays.
const KEEPALIVE_TRIES: libc::c_int = 6;

/// Connections that wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: libc::c_int = 4096;

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct Listen {
    /// Where. Port zero lets the kernel choose.
    pub address: SocketAddr,
    /// Whether other sockets of this user may listen on the same port.
    pub shared: bool,
    /// The socket's send buffer. None: the kernel tunes it.
    pub send_buffer_bytes: Option<u32>,
    /// The socket's receive buffer. None: the kernel tunes it.
    pub receive_buffer_bytes: Option<u32>,
}

impl Listen {
    /// Listens on `address` alone, with buffers that the kernel tunes.
    #[must_use]
    pub const fn on(address: SocketAddr) -> Self {
        Self {
            address,
            shared: false,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        }
    }
}

/// A listening socket. Connections queue up in the kernel until a driver accepts them.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
    acceptor: Option<Acceptor>,
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// What the kernel said: the address is in use, not this host's, or not permitted.
    pub fn bind(listen: Listen) -> io::Result<Self> {
        let socket = stream_socket(listen.address)?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if listen.shared {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        for (option, bytes) in [
            (libc::SO_SNDBUF, listen.send_buffer_bytes),
            (libc::SO_RCVBUF, listen.receive_buffer_bytes),
        ] {
            if let Some(bytes) = bytes {
                let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
                set_option(&socket, libc::SOL_SOCKET, option, bytes)?;
            }
        }
        let address = RawAddress::from(listen.address);
        let (pointer, len) = address.parts();
        // SAFETY: the pointer and the length describe `address`, which outlives the call.
        check(unsafe { libc::bind(socket.as_raw_fd(), pointer, len) })?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        let address = socket_address(socket.as_raw_fd(), false)?;
        Ok(Self {
            socket,
            address,
            acceptor: None,
        })
    }

    /// What is accepted here speaks TLS, and nothing else.
    #[must_use]
    pub fn with_tls(mut self, acceptor: Acceptor) -> Self {
        self.acceptor = Some(acceptor);
        self
    }

    pub(crate) const fn acceptor(&self) -> Option<&Acceptor> {
        self.acceptor.as_ref()
    }

    /// Where it listens, with the port that the kernel chose.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// A socket to an address of this family, with what every connection needs.
pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: takes no pointer. The socket blocks: the ring polls it by itself, and reports a non-blocking one as failed
    // instead of waiting. No thread ever waits for it.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    for (option, value) in [
        (libc::TCP_NODELAY, 1),
        (libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (libc::TCP_KEEPINTVL, KEEPALIVE_EVERY_S),
        (libc::TCP_KEEPCNT, KEEPALIVE_TRIES),
    ] {
        set_option(&socket, libc::IPPROTO_TCP, option, value)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_port_takes_a_second_listener_and_another_does_not() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let shared = |address| Listen {
            shared: true,
            ..Listen::on(address)
        };
        let first = Listener::bind(shared(any)).expect("a free port");
        assert_ne!(first.address().port(), 0);
        Listener::bind(shared(first.address())).expect("the port is shared");
        let error = Listener::bind(Listen::on(first.address())).expect_err("not asked to share");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    fn option(socket: RawFd, level: libc::c_int, option: libc::c_int) -> libc::c_int {
        let mut value: libc::c_int = 0;
        let mut len = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the pointers describe `value` and `len`, which outlive the call.
        check(unsafe {
            libc::getsockopt(socket, level, option, (&raw mut value).cast(), &raw mut len)
        })
        .expect("a socket has its options");
        value
    }

    #[test]
    fn an_accepted_socket_finds_out_that_its_other_end_is_gone() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(Listen::on(any)).expect("a free port");
        let _other_end = std::net::TcpStream::connect(listener.address()).expect("it listens");
        // SAFETY: null says that the address is not wanted.
        let fd = check(unsafe {
            libc::accept(listener.fd(), std::ptr::null_mut(), std::ptr::null_mut())
        })
        .expect("one waits");
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let fd = socket.as_raw_fd();
        assert_eq!(option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        assert_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
        assert_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 60);
        assert_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL), 10);
        assert_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT), 6);
        assert_eq!(option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), 0);
    }
}

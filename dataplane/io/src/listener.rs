//! Listening sockets. A port may be shared by all shards (`SO_REUSEPORT`: the kernel spreads connections) or belong to
//! one. What every connection needs is set here once and inherited by whatever is accepted.

use crate::syscall::{check, set_option, socket_address};
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// What the kernel said: the address is in use, not this host's, or not permitted.
    pub fn bind(listen: Listen) -> io::Result<Self> {
        let family = match listen.address {
            SocketAddr::V4(_) => libc::AF_INET,
            SocketAddr::V6(_) => libc::AF_INET6,
        };
        // SAFETY: takes no pointer. The socket blocks: the ring polls it by itself, and reports a non-blocking one as
        // failed instead of waiting.
        let fd = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if listen.shared {
            set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
        for (option, bytes) in [
            (libc::SO_SNDBUF, listen.send_buffer_bytes),
            (libc::SO_RCVBUF, listen.receive_buffer_bytes),
        ] {
            if let Some(bytes) = bytes {
                let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
                set_option(&socket, libc::SOL_SOCKET, option, bytes)?;
            }
        }
        bind(&socket, listen.address)?;
        // SAFETY: takes no pointer.
        check(unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) })?;
        let address = socket_address(socket.as_raw_fd(), false)?;
        Ok(Self { socket, address })
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

fn bind(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    let result = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: all zeros is a valid `sockaddr_in`.
            let mut raw: libc::sockaddr_in = unsafe { mem::zeroed() };
            raw.sin_family = libc::AF_INET as libc::sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            let len = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`, which outlives the call.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), len) }
        }
        SocketAddr::V6(v6) => {
            // SAFETY: all zeros is a valid `sockaddr_in6`.
            let mut raw: libc::sockaddr_in6 = unsafe { mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            let len = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: the pointer and the length describe `raw`, which outlives the call.
            unsafe { libc::bind(socket.as_raw_fd(), (&raw const raw).cast(), len) }
        }
    };
    check(result).map(drop)
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
}

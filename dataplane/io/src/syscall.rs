//! Thin safe wrappers over the syscalls that the standard library does not offer. Each returns the errno and decides
//! nothing: what an error means is its caller's business.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Turns a syscall's result into a value or its errno.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Repeats a call that a signal interrupted.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// `openat(2)` with `O_CLOEXEC`.
pub(crate) fn open_at(folder: RawFd, name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    uninterrupted(|| {
        // SAFETY: `name` ends with a zero and outlives the call; a mode is passed as `O_CREAT` needs it.
        let fd = check(unsafe {
            libc::openat(
                folder,
                name.as_ptr(),
                flags | libc::O_CLOEXEC,
                FILE_MODE as libc::c_uint,
            )
        })?;
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

/// Mode of every file of a journal: its owner alone.
pub(crate) const FILE_MODE: libc::mode_t = 0o600;

/// `unlinkat(2)`.
pub(crate) fn unlink_at(folder: RawFd, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` ends with a zero and outlives the call.
    check(unsafe { libc::unlinkat(folder, name.as_ptr(), 0) }).map(drop)
}

/// `shutdown(2)` of the sending side. Never waits.
pub(crate) fn shutdown_sending(socket: &OwnedFd) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) }).map(drop)
}

/// `setsockopt(2)` of an integer.
pub(crate) fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })
    .map(drop)
}

/// An address as the kernel reads it.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl RawAddress {
    /// Where it lies and how long it is. Valid for as long as this is there and is not moved.
    pub(crate) const fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.storage).cast(), self.len)
    }
}

impl From<SocketAddr> for RawAddress {
    fn from(address: SocketAddr) -> Self {
        // SAFETY: all zeros is a valid `sockaddr_storage`.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let len = match address {
            SocketAddr::V4(v4) => {
                // SAFETY: `sockaddr_storage` is aligned and large enough for every address, and zeros are a valid one.
                let raw = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
                size_of_val(raw)
            }
            SocketAddr::V6(v6) => {
                // SAFETY: as above.
                let raw = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_scope_id = v6.scope_id();
                size_of_val(raw)
            }
        };
        Self {
            storage,
            len: len as libc::socklen_t,
        }
    }
}

/// `getpeername(2)` or `getsockname(2)`.
pub(crate) fn socket_address(socket: RawFd, of_peer: bool) -> io::Result<SocketAddr> {
    // SAFETY: all zeros is a valid `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let mut len = size_of_val(&storage) as libc::socklen_t;
    let call = if of_peer {
        libc::getpeername
    } else {
        libc::getsockname
    };
    // SAFETY: `storage` has room for any address and `len` says how much.
    check(unsafe { call(socket, (&raw mut storage).cast(), &raw mut len) })?;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel says that it wrote a `sockaddr_in`, which `sockaddr_storage` is aligned and large enough for.
            let v4 = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the kernel says that it wrote a `sockaddr_in6`, which `sockaddr_storage` is aligned and large enough for.
            let v6 = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(SocketAddr::from((ip, u16::from_be(v6.sin6_port))))
        }
        _ => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
    }
}

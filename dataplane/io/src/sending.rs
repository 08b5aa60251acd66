//! A machine's send under way: what is left of it, and what the kernel points to meanwhile.

use crate::parts::Parts;
use crate::ring::{Kind, Ring};
use crate::slab::Place;
use crate::sockets::id_of;
use io_uring::{opcode, types};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use tiderace_base::operation::{Event, OpId};

/// Parts that one syscall gathers.
const PARTS_MAX: usize = 64;
/// The most that one syscall is asked to send: a length is a `u32` there and its result an `i32`.
const SEND_BYTES_MAX: usize = 1 << 30;
/// All of it, and no signal for a connection that is gone.
const FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

pub(crate) struct Sending {
    pub(crate) op: OpId,
    /// What is left. Owned until the last completion.
    pub(crate) parts: Parts,
    pub(crate) sent_bytes: u64,
    pub(crate) cancelled: bool,
    pub(crate) gather: Option<Gather>,
}

/// What `sendmsg` points to, in a place of its own that does not move.
pub(crate) struct Gather(Box<Vectors>);

struct Vectors {
    header: libc::msghdr,
    vectors: [libc::iovec; PARTS_MAX],
}

// SAFETY: the pointers inside are written and read by the kernel and `Sending::submit` alone; they point to memory that
// moves between threads together with them.
unsafe impl Send for Vectors {}

impl Gather {
    fn new() -> Self {
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self(Box::new(Vectors {
            // SAFETY: all zeros is a valid, empty `msghdr`.
            header: unsafe { std::mem::zeroed() },
            vectors: [empty; PARTS_MAX],
        }))
    }
}

/// Submits a send of one piece.
///
/// # Safety
/// `bytes` stay where they are and as they are until the completion.
pub(crate) unsafe fn submit_one(place: Place, socket: &OwnedFd, bytes: &[u8], ring: &mut Ring) {
    let len = bytes.len().min(SEND_BYTES_MAX) as u32;
    let entry = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), len)
        .flags(FLAGS)
        .build()
        .user_data(Kind::Send.token(place));
    // SAFETY: the caller keeps the bytes; the kernel only reads them.
    unsafe { ring.push(entry) };
}

impl Sending {
    pub(crate) fn new(op: OpId, parts: Parts) -> Self {
        Self {
            op,
            parts,
            sent_bytes: 0,
            cancelled: false,
            gather: None,
        }
    }

    pub(crate) fn submit(
        &mut self,
        place: Place,
        socket: &OwnedFd,
        spare: &mut Vec<Gather>,
        ring: &mut Ring,
    ) {
        if self.parts.count() == 1 {
            // SAFETY: the part lives in `parts` until the completion.
            unsafe { submit_one(place, socket, self.parts.first(), ring) };
            return;
        }
        let Gather(gather) = self
            .gather
            .get_or_insert_with(|| spare.pop().unwrap_or_else(Gather::new));
        let mut count = 0;
        let mut room = SEND_BYTES_MAX;
        for (index, bytes) in self.parts.iter().take(PARTS_MAX).enumerate() {
            if room == 0 {
                break;
            }
            let len = bytes.len().min(room);
            room -= len;
            gather.vectors[index] = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: len,
            };
            count = index + 1;
        }
        gather.header.msg_iov = gather.vectors.as_mut_ptr();
        gather.header.msg_iovlen = count as _;
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::SendMsg::new(fd, &raw const gather.header)
            .flags(FLAGS as u32)
            .build();
        // SAFETY: the header and the vectors lie in a box, the parts in `parts`, all of them untouched until the
        // completion; the kernel only reads them.
        unsafe { ring.push(entry.user_data(Kind::Send.token(place))) };
    }

    /// What the machine is told at its end.
    pub(crate) fn ended(&self, place: Place, alive: bool) -> Event {
        Event::Sent {
            op: self.op,
            conn: id_of(place),
            sent_bytes: self.sent_bytes,
            alive,
        }
    }

    /// Drops what was sent. True: nothing is left.
    pub(crate) fn advance(&mut self, sent: usize) -> bool {
        self.sent_bytes += sent as u64;
        self.parts.advance(sent);
        self.parts.is_empty()
    }
}

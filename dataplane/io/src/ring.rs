//! One io_uring: set-up, submission, waiting. Knows no socket and no file. Whatever is pushed reaches the kernel in order,
//! also when the submission queue is full; whatever the kernel completes is taken in order, also when the completion
//! queue overflowed. Counts what is outstanding, so that memory can outlive the kernel's use of it.
//!
//! A ring holds a lock for as long as the kernel may act for it. A process that is killed loses its descriptors at once,
//! while its direct writes may still be on their way to the disk; the ring's own table of files goes only with the last of
//! its operations.

use crate::slab::Place;
use crate::start::{StartError, ring_refused};
use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, Probe, cqueue, opcode};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

/// What a completion belongs to: the upper 4 bits of its user data. The others are the [`Place`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A connection's multishot receive.
    Receive,
    /// A connection's send.
    Send,
    /// The cancelling of a connection's receive.
    CancelReceive,
    /// The cancelling of a connection's send.
    CancelSend,
    /// One of a listener's accepts.
    Accept,
    /// A connect to a node.
    Connect,
    /// The cancelling of a connect.
    CancelConnect,
    /// The poll of the eventfd.
    Wake,
    /// The opening of a file that other operations wait for.
    Open,
    /// A step of an operation on a file.
    File,
    /// A cancelling that nobody waits for.
    Forgotten,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Receive,
        Self::Send,
        Self::CancelReceive,
        Self::CancelSend,
        Self::Accept,
        Self::Connect,
        Self::CancelConnect,
        Self::Wake,
        Self::Open,
        Self::File,
        Self::Forgotten,
    ];

    pub(crate) fn token(self, place: Place) -> u64 {
        ((self as u64) << 60) | place.pack()
    }
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    pub(crate) result: i32,
    flags: u32,
}

impl Completion {
    /// Whether the same operation completes again.
    pub(crate) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The receive buffer that was filled.
    pub(crate) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// Operations that the driver needs, all of them there since Linux 6.1.
const OPERATIONS: [(&str, u8); 12] = [
    ("read", opcode::Read::CODE),
    ("write", opcode::Write::CODE),
    ("fsync", opcode::Fsync::CODE),
    ("openat", opcode::OpenAt::CODE),
    ("unlinkat", opcode::UnlinkAt::CODE),
    ("accept", opcode::Accept::CODE),
    ("connect", opcode::Connect::CODE),
    ("recv", opcode::RecvMulti::CODE),
    ("send", opcode::Send::CODE),
    ("sendmsg", opcode::SendMsg::CODE),
    ("poll_add", opcode::PollAdd::CODE),
    ("async_cancel", opcode::AsyncCancel::CODE),
];

pub(crate) struct Ring {
    ring: IoUring,
    /// What did not fit the submission queue, in order. Empty except while the kernel takes nothing.
    waiting: VecDeque<Entry>,
    /// Entries given to the kernel whose last completion was not taken yet.
    outstanding: u64,
    /// Its table of files holds a lock.
    holds: bool,
}

impl Ring {
    /// Makes a ring, disabled: it belongs to the thread that enables it.
    pub(crate) fn new(
        submission_entries: u32,
        completion_entries: u32,
    ) -> Result<Self, StartError> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_r_disabled()
            .setup_cqsize(completion_entries)
            .build(submission_entries)
            .map_err(|error| ring_refused("io_uring_setup", &error))?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
            return Err(StartError::RingRefused(
                "the kernel may drop completions or cannot wait with a timeout: use Linux 6.1 or newer".into(),
            ));
        }
        let mut probe = Probe::new();
        ring.submitter()
            .register_probe(&mut probe)
            .map_err(|error| ring_refused("the probe of io_uring's operations", &error))?;
        let missing: Vec<&str> = OPERATIONS
            .iter()
            .filter(|(_, code)| !probe.is_supported(*code))
            .map(|(name, _)| *name)
            .collect();
        if !missing.is_empty() {
            return Err(StartError::RingRefused(format!(
                "the kernel lacks the operations {}: use Linux 6.1 or newer",
                missing.join(", ")
            )));
        }
        Ok(Self {
            ring,
            waiting: VecDeque::new(),
            outstanding: 0,
            holds: false,
        })
    }

    /// Keeps the open file behind `lock`, and so the lock on it, until no operation of this ring is in flight any more, also
    /// when the process is long dead. J-17
    pub(crate) fn hold(&mut self, lock: RawFd) -> Result<(), StartError> {
        self.ring
            .submitter()
            .register_files(&[lock])
            .map_err(|error| ring_refused("registering the journal's lock", &error))?;
        self.holds = true;
        Ok(())
    }

    /// Makes the calling thread the only one that may submit from now on.
    pub(crate) fn enable(&self) -> Result<(), StartError> {
        self.ring
            .submitter()
            .register_enable_rings()
            .map_err(|error| ring_refused("enabling the ring", &error))
    }

    /// Lets the ring's own threads run on these cores, so that their work does not wait behind this thread's. Only after
    /// the first submission: the kernel makes a thread's workers then. A refusal costs speed and nothing else.
    pub(crate) fn place_workers(&self, cores: &libc::cpu_set_t) {
        let _ = self.ring.submitter().register_iowq_aff(cores);
    }

    /// Registers a ring of provided buffers.
    ///
    /// # Safety
    /// The memory at `address` holds `entries` entries and outlives the ring, or its unregistration.
    pub(crate) unsafe fn register_buffers(
        &self,
        address: u64,
        entries: u16,
        group: u16,
    ) -> Result<(), StartError> {
        // SAFETY: the caller's promise.
        unsafe {
            self.ring
                .submitter()
                .register_buf_ring_with_flags(address, entries, group, 0)
        }
        .map_err(|error| ring_refused("registering the receive buffers", &error))
    }

    pub(crate) fn submission_entries(&self) -> u32 {
        self.ring.params().sq_entries()
    }

    pub(crate) fn completion_entries(&self) -> u32 {
        self.ring.params().cq_entries()
    }

    /// Entries whose last completion was not taken yet.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Hands an operation to the kernel, at the latest when the turn ends.
    ///
    /// # Safety
    /// Whatever the entry points to stays valid, and is not touched where the kernel writes, until the operation's last
    /// completion was taken.
    pub(crate) unsafe fn push(&mut self, entry: Entry) {
        self.outstanding += 1;
        if self.waiting.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The queue is full. An error leaves entries in it, and what follows waits behind them.
            let _ = self.enter(0, None);
        }
        self.waiting.push_back(entry);
        self.fill();
    }

    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.waiting.front() {
            // SAFETY: whoever pushed the entry promised it until its last completion, which cannot have come.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.waiting.pop_front();
        }
    }

    /// Ends the operation that carries `token` early, if it is still there. The answer carries `answer`.
    pub(crate) fn cancel(&mut self, token: u64, answer: u64) {
        let entry = opcode::AsyncCancel::new(token).build().user_data(answer);
        // SAFETY: the entry points to nothing.
        unsafe { self.push(entry) };
    }

    /// Ends every operation that carries `token` early. One cancelling for each would find the first again and again.
    pub(crate) fn cancel_each(&mut self, token: u64, answer: u64) {
        let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(token).all())
            .build()
            .user_data(answer);
        // SAFETY: the entry points to nothing.
        unsafe { self.push(entry) };
    }

    /// Ends everything early.
    pub(crate) fn cancel_all(&mut self) {
        let nowhere = Place {
            slot: 0,
            generation: 0,
        };
        let entry = opcode::AsyncCancel2::new(CancelBuilder::any().all())
            .build()
            .user_data(Kind::Forgotten.token(nowhere));
        // SAFETY: the entry points to nothing.
        unsafe { self.push(entry) };
    }

    /// Submits what was pushed and runs what the kernel deferred. With `wait_ns` some time, sleeps until something has
    /// completed or the time is over; `u64::MAX` is for ever.
    ///
    /// # Errors
    /// Only errors that no kernel since 6.1 gives to a ring in order.
    pub(crate) fn turn(&mut self, wait_ns: Option<u64>) -> io::Result<()> {
        loop {
            self.fill();
            // Entries that did not fit must not wait until something else completes.
            let wait_ns = if self.waiting.is_empty() {
                wait_ns
            } else {
                None
            };
            let result = match wait_ns {
                None => self.enter(0, None),
                Some(u64::MAX) => self.enter(1, None),
                Some(ns) => {
                    let time = Timespec::new()
                        .sec(ns / 1_000_000_000)
                        .nsec((ns % 1_000_000_000) as u32);
                    self.enter(1, Some(&time))
                }
            };
            match result {
                Ok(()) => {}
                Err(error) => match error.raw_os_error() {
                    // Time is over; a signal came; the kernel wants completions taken or memory freed first.
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => return Ok(()),
                    _ => return Err(error),
                },
            }
            if self.waiting.is_empty() {
                return Ok(());
            }
        }
    }

    fn enter(&mut self, want: u32, time: Option<&Timespec>) -> io::Result<()> {
        let pending = self.ring.submission().len() as u32;
        let mut args = SubmitArgs::new();
        if let Some(time) = time {
            args = args.timespec(time);
        }
        // GETEVENTS also without waiting: only then does the kernel run what it deferred, and empty its overflow.
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        // SAFETY: `args` is the struct that EXT_ARG announces; it and the time outlive the call.
        unsafe {
            self.ring
                .submitter()
                .enter(pending, want, flags.bits(), Some(&args))
        }
        .map(drop)
    }

    /// Whether the completion queue overflowed. What did not fit is kept by the kernel and comes with the next turns.
    pub(crate) fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Whether a turn would find something: a completion, or work that the kernel deferred to it. Looks, and does not enter
    /// the kernel.
    pub(crate) fn has_news(&mut self) -> bool {
        self.has_completions() || self.ring.submission().taskrun()
    }

    /// Whether a completion can be taken without entering the kernel.
    pub(crate) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Takes up to `count_max` completions.
    pub(crate) fn reap(&mut self, count_max: usize, into: &mut Vec<Completion>) {
        for entry in self.ring.completion().take(count_max) {
            let user_data = entry.user_data();
            let kind = Kind::ALL[(user_data >> 60) as usize];
            if !cqueue::more(entry.flags()) {
                self.outstanding -= 1;
            }
            into.push(Completion {
                kind,
                place: Place::unpack(user_data),
                result: entry.result(),
                flags: entry.flags(),
            });
        }
    }

    /// Forgets entries that the kernel never saw.
    pub(crate) fn forget_waiting(&mut self) {
        self.outstanding -= self.waiting.len() as u64;
        self.waiting.clear();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Closing alone leaves the table to a worker of the kernel, which comes when it likes. With nothing in flight the
        // next owner need not wait for that. A refusal costs that wait and nothing else.
        if self.holds && self.outstanding == 0 {
            let _ = self.ring.submitter().unregister_files();
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("outstanding", &self.outstanding)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_user_data() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
            let place = Place {
                slot: 7,
                generation: 9,
            };
            assert_eq!(kind.token(place) >> 60, index as u64);
            assert_eq!(Place::unpack(kind.token(place)), place);
        }
    }

    /// A filter of one thread alone: the kernel answers `io_uring_setup` as a container's profile makes it.
    fn forbid_io_uring() {
        let instruction = |code: u32, jt, jf, k| libc::sock_filter {
            code: code as u16,
            jt,
            jf,
            k,
        };
        let mut filter = [
            instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                0,
                1,
                libc::SYS_io_uring_setup as u32,
            ),
            instruction(
                libc::BPF_RET | libc::BPF_K,
                0,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            ),
            instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: takes no pointer; needed before a filter may be set without privilege.
        let set = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        assert_eq!(set, 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program and its filter outlive the call, which copies them.
        let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        assert_eq!(set, 0);
    }

    #[test]
    fn a_filter_that_forbids_io_uring_is_named() {
        std::thread::spawn(|| {
            forbid_io_uring();
            let Err(StartError::RingRefused(text)) = Ring::new(8, 16) else {
                panic!("the filter forbids it");
            };
            assert!(
                text.contains("io_uring_setup failed with errno 1"),
                "{text}"
            );
            assert!(text.contains("io_uring_disabled"), "{text}");
        })
        .join()
        .expect("the thread checks itself");
    }
}

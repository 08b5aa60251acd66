//! Waking a thread that sleeps in its ring. The sleeper's ring polls an eventfd; whoever has published something for it
//! writes there, but only while the sleeper really sleeps: a wake-up costs 9 us from idle, a flag costs nothing.
//!
//! No wake-up is lost. The publisher stores what it has to say (P1), fences, then loads `sleeping` (P2). The sleeper
//! stores `sleeping` (S1), fences, then looks at everything that may have been published (S2), and sleeps only when it
//! found nothing. Both fences are sequentially consistent, so one of them comes first: if the publisher's does, S2 sees
//! P1 and the sleeper stays awake; if the sleeper's does, P2 sees S1 and the eventfd is written, which the ring reports
//! whenever it is looked at next. Of several publishers the one that swaps the flag back writes; the rest need not.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// The shared half of a driver.
#[derive(Debug)]
pub(crate) struct Waker {
    eventfd: OwnedFd,
    sleeping: AtomicBool,
    stop_asked: AtomicBool,
}

impl Waker {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        // SAFETY: takes no pointer.
        let fd = crate::syscall::check(unsafe {
            libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
        })?;
        Ok(Arc::new(Self {
            // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
            eventfd: unsafe { OwnedFd::from_raw_fd(fd) },
            sleeping: AtomicBool::new(false),
            stop_asked: AtomicBool::new(false),
        }))
    }

    /// What the ring polls.
    pub(crate) fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Publisher: called after publishing. Async-signal-safe.
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed) {
            let one = 1_u64;
            // SAFETY: the pointer and the length describe `one`. The result does not matter: the only failure is a
            // counter at its end, and a counter that is not zero has been reported already.
            unsafe { libc::write(self.fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Sleeper: says that it will sleep. What was published must be looked at after this and before sleeping.
    pub(crate) fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Sleeper: is awake again.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub(crate) fn stop_asked(&self) -> bool {
        self.stop_asked.load(Ordering::Acquire)
    }
}

/// Asks one driver's machine to stop, from any thread or from a signal handler.
#[derive(Clone, Debug)]
pub struct StopHandle {
    waker: Arc<Waker>,
}

impl StopHandle {
    pub(crate) fn new(waker: Arc<Waker>) -> Self {
        Self { waker }
    }

    /// The machine gets one `Event::Stop`, however often this is called. Never blocks; async-signal-safe.
    pub fn stop(&self) {
        self.waker.stop_asked.store(true, Ordering::Release);
        self.waker.wake();
    }
}

//! Waking a thread that sleeps in its ring. The sleeper's ring polls an eventfd; whoever has published something for it
//! writes there, but only while the sleeper really sleeps: a wake-up costs 9 us from idle, a flag costs nothing.
//! Why no wake-up is lost: `sleeping`; a write to the eventfd is reported whenever the ring is looked at next.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sleeping::Sleeping;

/// The shared half of a driver.
#[derive(Debug)]
pub(crate) struct Waker {
    eventfd: OwnedFd,
    sleeping: Sleeping,
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
            sleeping: Sleeping::new(),
            stop_asked: AtomicBool::new(false),
        }))
    }

    /// What the ring polls.
    pub(crate) fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Publisher: called after publishing. Async-signal-safe.
    pub(crate) fn wake(&self) {
        if self.sleeping.must_wake() {
            let one = 1_u64;
            // SAFETY: the pointer and the length describe `one`. The result does not matter: the only failure is a
            // counter at its end, and a counter that is not zero has been reported already.
            unsafe { libc::write(self.fd(), (&raw const one).cast(), 8) };
        }
    }

    /// Sleeper: says that it will sleep. What was published must be looked at after this and before sleeping.
    pub(crate) fn prepare_sleep(&self) {
        self.sleeping.prepare_sleep();
    }

    /// Sleeper: is awake again.
    pub(crate) fn awake(&self) {
        self.sleeping.awake();
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

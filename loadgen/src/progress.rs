//! The live line on a terminal; nothing at all when standard error is piped. A thread of its own reads two counters a few
//! times a second, so that the thread that measures never writes to a terminal.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tiderace_io::Clock;

/// How often the line is drawn.
const EVERY: Duration = Duration::from_millis(250);

/// What the line shows. Written by one thread.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    acked: AtomicU64,
    sent: AtomicU64,
    measured: AtomicU64,
    /// When the measured part begins, on the monotonic clock; 0: not known yet.
    measured_from_ns: AtomicU64,
    over: AtomicBool,
}

impl Progress {
    /// The measured part begins then.
    pub(crate) fn begin(&self, measured_from_ns: u64) {
        self.measured_from_ns
            .store(measured_from_ns, Ordering::Relaxed);
    }

    /// Whether the measured part has begun.
    #[must_use]
    pub(crate) fn measures(&self) -> bool {
        let from_ns = self.measured_from_ns.load(Ordering::Relaxed);
        from_ns > 0 && Clock::mono().as_ns() >= from_ns
    }

    /// The counts so far.
    pub(crate) fn update(&self, acked: u64, sent: u64, measured: u64) {
        self.acked.store(acked, Ordering::Relaxed);
        self.sent.store(sent, Ordering::Relaxed);
        self.measured.store(measured, Ordering::Relaxed);
    }
}

/// The thread that draws.
#[derive(Debug)]
pub(crate) struct Line {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// Draws `progress` until it is dropped, if standard error is a terminal.
    #[must_use]
    pub(crate) fn draw(progress: &Arc<Progress>, unit: &'static str) -> Self {
        let shared = Arc::clone(progress);
        let thread = std::io::stderr()
            .is_terminal()
            .then(|| std::thread::spawn(move || lines(&shared, unit)));
        Self {
            progress: Arc::clone(progress),
            thread,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.progress.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lines(progress: &Progress, unit: &str) {
    let begun = Instant::now();
    let (mut then, mut acked_then) = (begun, 0);
    let mut stderr = std::io::stderr();
    while !progress.over.load(Ordering::Relaxed) {
        std::thread::sleep(EVERY);
        let acked = progress.acked.load(Ordering::Relaxed);
        let rate = (acked - acked_then) as f64 / then.elapsed().as_secs_f64();
        let in_flight = progress.sent.load(Ordering::Relaxed).saturating_sub(acked);
        let warm = if progress.measured.load(Ordering::Relaxed) > 0 {
            ""
        } else {
            " (warming up)"
        };
        let _ = write!(
            stderr,
            "\r\x1b[K{:6.1} s  {rate:11.0} {unit}/s  {acked} acknowledged  {in_flight} in flight{warm}",
            begun.elapsed().as_secs_f64()
        );
        let _ = stderr.flush();
        (then, acked_then) = (Instant::now(), acked);
    }
    let _ = write!(stderr, "\r\x1b[K");
    let _ = stderr.flush();
}

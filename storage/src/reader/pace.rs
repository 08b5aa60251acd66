//! How many bytes cold reads may have under way. A disk serves reads and appends from one queue: what is read at once lies
//! in front of the next write, and ten reads of a MiB at 1 GB/s make every acknowledgement wait for 10 ms. So there is a
//! window of bytes. It is halved while writes, or the reads themselves, take longer than they usually do, and grows slowly
//! while they do not: what only makes a queue longer brings nobody his bytes sooner. Usual is the least that an operation of
//! such a size took lately, as congestion control takes it for a path (Brakmo and Peterson, "TCP Vegas", 1995). Pure.
//! Invariant: one read may always be under way, so readers make progress whatever the disk does.

use tiderace_base::limits::{BLOCK_BYTES, CHUNK_BYTES_MAX, KIB, MIB};

/// The largest window.
const MOST_BYTES: usize = 64 * MIB;
/// The smallest window, and so the smallest read: a disk that reads one after the other loses a fifth of its rate to this
/// size, and a write waits for it a quarter of a millisecond at 1 GB/s.
const LEAST_BYTES: usize = 256 * KIB;
/// A window is that many reads, if they are not too small or too large then.
const READS: usize = 4;
/// What one operation that was not slow opens the window by.
const STEP_BYTES: usize = BLOCK_BYTES;
/// An operation is slow beyond twice what is usual and this: what a disk's own noise adds to short ones.
const NOISE_NS: u64 = 250_000;
/// How long it took is counted in so many parts of that bound.
const PARTS: u64 = 256;
/// One operation weighs a part in so many of the mean.
const MEAN_OF: u64 = 8;
/// At so much beyond the bound a write does not wait for a mean.
const GROSS: u64 = 4;
/// Slow operations raise what is usual by a part in so many: a disk that became slower for good is believed after seconds.
const RISE_SHIFT: u32 = 14;
/// Sizes, by powers of two of blocks.
const CLASSES: usize = (CHUNK_BYTES_MAX / BLOCK_BYTES).ilog2() as usize + 2;

/// How slow one kind of operation is.
#[derive(Debug, Default)]
struct Slowness {
    /// For each class of sizes the least that one took lately; zero: none was seen.
    usual_ns: [u64; CLASSES],
    /// The mean, in parts of the bound.
    mean: u64,
}

impl Slowness {
    /// Takes one that is done; says how slow it was.
    fn note(&mut self, took_ns: u64, bytes: usize) -> u64 {
        let class = (bytes / BLOCK_BYTES).max(1).ilog2() as usize;
        let usual = &mut self.usual_ns[class.min(CLASSES - 1)];
        if *usual == 0 || took_ns < *usual {
            *usual = took_ns.max(1);
        } else {
            *usual += (took_ns - *usual) >> RISE_SHIFT;
        }
        let bound = usual.saturating_mul(2).saturating_add(NOISE_NS);
        let slowness = (took_ns.saturating_mul(PARTS) / bound).min(GROSS * PARTS);
        self.mean = (self.mean * (MEAN_OF - 1) + slowness) / MEAN_OF;
        slowness
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    window: usize,
    writes: Slowness,
    reads: Slowness,
    /// Operations until the window may be halved again: the means have to show what the last time did.
    holds: u64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            window: LEAST_BYTES,
            writes: Slowness::default(),
            reads: Slowness::default(),
            holds: 0,
        }
    }

    /// A chunk of `bytes` became durable, so long after its write was begun; `reading`: beside reads.
    pub(crate) fn written(&mut self, took_ns: u64, bytes: usize, reading: bool) {
        let slowness = self.writes.note(took_ns, bytes);
        if reading && slowness == GROSS * PARTS {
            self.window = LEAST_BYTES;
        } else if reading {
            self.adjust();
        }
    }

    /// A read of `bytes` came back.
    pub(crate) fn read(&mut self, took_ns: u64, bytes: usize) {
        self.reads.note(took_ns, bytes);
        self.adjust();
    }

    fn adjust(&mut self) {
        self.holds = self.holds.saturating_sub(1);
        let slowness = self.writes.mean.max(self.reads.mean);
        if slowness > PARTS && self.holds == 0 {
            self.window = (self.window / 2).max(LEAST_BYTES);
            self.holds = 2 * MEAN_OF;
        } else if slowness < PARTS * 3 / 4 {
            self.window = (self.window + STEP_BYTES).min(MOST_BYTES);
        }
    }

    /// The most that one read brings, of at most `read_bytes_max`.
    pub(crate) fn read_bytes(&self, read_bytes_max: usize) -> usize {
        let blocks = self.window / READS / BLOCK_BYTES * BLOCK_BYTES;
        blocks.max(LEAST_BYTES).min(read_bytes_max)
    }

    /// How many reads of that size may be under way: at least one.
    pub(crate) fn reads(&self, read_bytes_max: usize) -> usize {
        (self.window / self.read_bytes(read_bytes_max)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::prng::Prng;

    const READ_BYTES_MAX: usize = MIB;

    /// A disk that moves a byte in a nanosecond and takes 150 us for each trip, from one queue: a write of 4 KiB waits for the
    /// reads before it, a read for the others. What the last tenth of the writes took in the mean, and what was read each
    /// second then.
    fn run(pace: &mut Pace, writes: u64, readers: usize, prng: &mut Prng) -> (u64, u64) {
        let (mut now_ns, mut took_sum, mut read_sum) = (0, 0, 0);
        let last = writes - writes / 10;
        let mut began_ns = 0;
        for n in 0..writes {
            if n == last {
                began_ns = now_ns;
            }
            let reads = readers.min(pace.reads(READ_BYTES_MAX));
            let each = pace.read_bytes(READ_BYTES_MAX);
            let queue = (reads * each) as u64;
            // Somewhere among them.
            let before = prng.below(queue + 1);
            let took = 150_000 + prng.below(100_000) + before;
            now_ns += took;
            pace.written(took, 4096, reads > 0);
            for _ in 0..before / each as u64 {
                pace.read(150_000 + queue, each);
            }
            if n >= last {
                took_sum += took;
                read_sum += before;
            }
        }
        let rate = u128::from(read_sum) * 1_000_000_000 / u128::from(now_ns - began_ns);
        (took_sum / (writes / 10), rate as u64)
    }

    #[test]
    fn reads_leave_the_writes_their_time_and_still_go_on() {
        for seed in 0..20 {
            let prng = &mut Prng::new(seed);
            let mut pace = Pace::new();
            let (alone, _) = run(&mut pace, 1000, 0, prng);
            let (beside, rate) = run(&mut pace, 20_000, 16, prng);
            assert!(
                beside < 3 * alone,
                "seed {seed}: {beside} ns beside reads, {alone} ns without"
            );
            assert!(rate > 200_000_000, "seed {seed}: {rate} B/s are read");
        }
    }

    #[test]
    fn one_reader_alone_reads_as_much_at_once_as_it_may() {
        let mut pace = Pace::new();
        for _ in 0..2_000 {
            let bytes = pace.read_bytes(READ_BYTES_MAX);
            pace.read(150_000 + bytes as u64, bytes);
        }
        assert_eq!(pace.read_bytes(READ_BYTES_MAX), READ_BYTES_MAX);
    }

    #[test]
    fn many_readers_use_a_disk_that_serves_many_at_once_and_do_not_queue_before_one_that_does_not()
    {
        let (mut wide, mut narrow) = (Pace::new(), Pace::new());
        for _ in 0..20_000 {
            let bytes = wide.read_bytes(READ_BYTES_MAX);
            // Eight at once without any delay.
            let rounds = wide.reads(READ_BYTES_MAX).div_ceil(8) as u64;
            wide.read(rounds * (150_000 + bytes as u64), bytes);
            let bytes = narrow.read_bytes(READ_BYTES_MAX);
            let queue = narrow.reads(READ_BYTES_MAX) * bytes;
            narrow.read(150_000 + queue as u64, bytes);
        }
        assert!(wide.reads(READ_BYTES_MAX) >= 8, "{wide:?}");
        assert!(narrow.window <= 2 * MIB, "{narrow:?}");
    }

    #[test]
    fn a_write_that_waited_long_ends_the_crowd_at_once() {
        let mut pace = Pace::new();
        pace.written(100_000, 4096, false);
        pace.window = MOST_BYTES;
        pace.written(10_000_000, 4096, true);
        assert_eq!(pace.window, LEAST_BYTES);
        assert_eq!(pace.reads(READ_BYTES_MAX), 1);
    }

    #[test]
    fn a_disk_that_became_slower_for_good_is_believed() {
        let mut pace = Pace::new();
        pace.written(100_000, 4096, true);
        for _ in 0..1_000 {
            pace.written(2_000_000, 4096, true);
        }
        assert_eq!(pace.window, LEAST_BYTES);
        for _ in 0..40_000 {
            pace.written(2_000_000, 4096, true);
        }
        assert!(pace.window > LEAST_BYTES, "nobody reads any more");
    }

    #[test]
    fn any_time_and_any_size_has_a_place() {
        let mut pace = Pace::new();
        for bytes in [0, 1, BLOCK_BYTES, CHUNK_BYTES_MAX, 4 * CHUNK_BYTES_MAX] {
            for took_ns in [0, 1, u64::MAX] {
                pace.written(took_ns, bytes, true);
                pace.read(took_ns, bytes);
            }
        }
        assert!(pace.window >= LEAST_BYTES && pace.window <= MOST_BYTES);
    }
}

//! Subscribers beside the load, each on a thread and a socket of its own, because the thread that measures must not serve
//! them: stalled ones, which give credit and never read; slow ones, which read at a given rate; and catch-up, which reads
//! what is old, from the earliest record on, while the load goes on. What they get is counted, never timed batch by batch.

use crate::progress::Progress;
use crate::session::{Heard, Session};
use crate::setup::{Place, Target};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tiderace_base::ids::SubscriptionId;
use tiderace_base::limits::{
    MIB, SUBSCRIPTION_WINDOW_BATCHES_MAX, SUBSCRIPTIONS_PER_CONNECTION_MAX,
};
use tiderace_base::position::{Epoch, Offset};
use tiderace_client::core::connection::{Completion, Notice, SendRefused};
use tiderace_client::core::consumer::From;
use tiderace_wire::batch::BatchHeader;

/// Bytes that may be on their way to one subscription.
pub(super) const WINDOW_BYTES: u64 = 16 * MIB as u64;
pub(super) const WINDOW_BATCHES: u64 = SUBSCRIPTION_WINDOW_BATCHES_MAX as u64;
/// Threads that read, at most.
const THREADS_MAX: usize = 64;
/// How long a reader waits for bytes before it looks whether the run is over.
const LOOK: Duration = Duration::from_millis(50);
/// A slow reader reads this often.
const SLOW_EVERY: Duration = Duration::from_millis(20);
/// The most that one read takes.
const READ_BYTES_MAX: usize = 256 * 1024;

/// Who reads beside the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Wanted {
    /// Stalled subscribers of each partition.
    pub(crate) stalled: usize,
    /// Slow subscribers of each partition.
    pub(crate) slow: usize,
    /// What each connection of a slow one reads, in bytes a second.
    pub(crate) slow_bytes_per_s: u64,
    /// Whether what is old is read meanwhile.
    pub(crate) catch_up: bool,
}

/// What the stalled ones did to themselves.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Stalled {
    /// Of each partition.
    pub(crate) subscribers: usize,
    pub(crate) connections: usize,
    /// Bytes that lay in their sockets at the end.
    pub(crate) unread_bytes: u64,
    /// Connections that the server closed. It should not.
    pub(crate) closed: usize,
}

/// What the slow ones read.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Slow {
    /// Of each partition.
    pub(crate) subscribers: usize,
    pub(crate) connections: usize,
    /// What each connection was to read.
    pub(crate) target_bytes_per_s: u64,
    /// Bytes of batches that they got, all together.
    pub(crate) bytes: u64,
    pub(crate) batches: u64,
    /// Why some of them ended early.
    pub(crate) failed: Vec<String>,
}

/// What was read of the old.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct CatchUp {
    pub(crate) partitions: usize,
    /// Bytes of batches that were there when it began.
    pub(crate) bytes: u64,
    pub(crate) batches: u64,
    /// From the first subscription to the last old batch, or to the end of the run.
    pub(crate) seconds: f64,
    pub(crate) bytes_per_s: f64,
    /// Whether all that was old has been read before the run ended.
    pub(crate) reached_end: bool,
    /// Why it ended early.
    pub(crate) failed: Vec<String>,
}

/// What became of all of them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) stalled: Option<Stalled>,
    pub(crate) slow: Option<Slow>,
    pub(crate) catch_up: Option<CatchUp>,
}

impl Report {
    /// What is wrong, for people.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(stalled) = &self.stalled
            && stalled.closed > 0
        {
            all.push(format!(
                "the server closed {} of {} stalled connections",
                stalled.closed, stalled.connections
            ));
        }
        for why in self.slow.iter().flat_map(|slow| &slow.failed) {
            all.push(format!("a slow subscriber ended early: {why}"));
        }
        if let Some(catch_up) = &self.catch_up {
            for why in &catch_up.failed {
                all.push(format!("catch-up ended early: {why}"));
            }
            if catch_up.failed.is_empty() && catch_up.bytes == 0 {
                all.push(
                    "there was nothing old to read: load the stream first, without --catch-up"
                        .to_owned(),
                );
            }
        }
        all
    }

    /// For people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(stalled) = &self.stalled {
            lines.push(format!(
                "stalled      {} connections, {:.1} MB lay unread, {} closed by the server",
                stalled.connections,
                stalled.unread_bytes as f64 / 1e6,
                stalled.closed
            ));
        }
        if let Some(slow) = &self.slow {
            lines.push(format!(
                "slow         {} connections at {:.3} MB/s each: {:.1} MB in {} batches",
                slow.connections,
                slow.target_bytes_per_s as f64 / 1e6,
                slow.bytes as f64 / 1e6,
                slow.batches
            ));
        }
        if let Some(catch_up) = &self.catch_up {
            lines.push(format!(
                "catch-up     {:.1} MB of old batches in {:.2} s: {:.1} MB/s, {}",
                catch_up.bytes as f64 / 1e6,
                catch_up.seconds,
                catch_up.bytes_per_s / 1e6,
                if catch_up.reached_end {
                    "all that there was"
                } else {
                    "not to its end"
                }
            ));
        }
        lines
    }
}

/// Partitions that one connection subscribes to: those of one shard, no more than a connection may have.
pub(super) fn groups(target: &Target) -> Vec<(SocketAddr, Vec<Place>)> {
    let mut shards: BTreeMap<SocketAddr, Vec<Place>> = BTreeMap::new();
    for place in &target.places {
        shards.entry(place.address).or_default().push(*place);
    }
    shards
        .into_iter()
        .flat_map(|(address, places)| {
            places
                .chunks(SUBSCRIPTIONS_PER_CONNECTION_MAX)
                .map(|chunk| (address, chunk.to_vec()))
                .collect::<Vec<_>>()
        })
        .collect()
}

#[derive(Debug)]
struct Part {
    id: SubscriptionId,
    /// What was visible when it began.
    old_end: Offset,
    /// Whether all of that has come.
    reached: bool,
    received: (u64, u64),
    granted: (u64, u64),
}

/// One consuming connection.
#[derive(Debug)]
struct Reader {
    session: Session,
    parts: Vec<Part>,
    begun: usize,
    reached: usize,
    bytes: u64,
    batches: u64,
    old_bytes: u64,
    old_batches: u64,
}

impl Reader {
    fn open(address: SocketAddr, target: &Target) -> Result<Self, String> {
        Ok(Self {
            session: Session::open(address, target.tls.as_ref())?,
            parts: Vec::new(),
            begun: 0,
            reached: 0,
            bytes: 0,
            batches: 0,
            old_bytes: 0,
            old_batches: 0,
        })
    }

    /// Subscribes to all, as many at once as may wait, and waits until every subscription has begun.
    fn subscribe(&mut self, places: &[Place], from: From) -> Result<(), String> {
        while self.begun < places.len() {
            while let Some(place) = places.get(self.parts.len()) {
                let subscribed = self.session.connection.subscribe(
                    self.parts.len() as u64,
                    place.key,
                    from,
                    Epoch::ZERO,
                    WINDOW_BYTES,
                    WINDOW_BATCHES,
                );
                match subscribed {
                    Ok(id) => self.parts.push(Part {
                        id,
                        old_end: Offset::ZERO,
                        reached: false,
                        received: (0, 0),
                        granted: (WINDOW_BYTES, WINDOW_BATCHES),
                    }),
                    Err(SendRefused::NoCredit) if self.parts.len() > self.begun => break,
                    Err(refused) => return Err(format!("cannot subscribe: {refused:?}")),
                }
            }
            self.session.exchange()?;
            self.hear()?;
        }
        self.session.send()
    }

    /// Takes what the node said.
    fn hear(&mut self) -> Result<(), String> {
        while let Some(completion) = self.session.next() {
            match completion {
                Completion::Subscription { owner, notice, .. } => {
                    self.notice(owner as usize, notice)?;
                }
                Completion::Ended(refusal) => {
                    return Err(format!("the server ended a connection: {refusal}"));
                }
                Completion::Goodbye => return Err("the server goes away".to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    fn notice(&mut self, owner: usize, notice: Notice) -> Result<(), String> {
        let part = &mut self.parts[owner];
        match notice {
            Notice::Begun { end, next, .. } => {
                self.begun += 1;
                part.old_end = end;
                self.reach(owner, next);
            }
            Notice::Delivered { batches, .. } => {
                let mut next = None;
                for bytes in &batches {
                    let header = BatchHeader::parse(bytes)
                        .map_err(|error| format!("a delivered batch is damaged: {error:?}"))?;
                    part.received.0 += bytes.len() as u64;
                    part.received.1 += 1;
                    self.bytes += bytes.len() as u64;
                    self.batches += 1;
                    if header.base_offset() < part.old_end {
                        self.old_bytes += bytes.len() as u64;
                        self.old_batches += 1;
                    }
                    next = Some(header.next_offset());
                }
                let (bytes, batches) = (
                    part.received.0 + WINDOW_BYTES,
                    part.received.1 + WINDOW_BATCHES,
                );
                if (bytes - part.granted.0) * 2 >= WINDOW_BYTES
                    || (batches - part.granted.1) * 2 >= WINDOW_BATCHES
                {
                    part.granted = (bytes, batches);
                    self.session.connection.grant(part.id, bytes, batches);
                }
                if let Some(next) = next {
                    self.reach(owner, next);
                }
            }
            Notice::Gap { to, .. } => self.reach(owner, to),
            Notice::Loss { .. } | Notice::Diverged { .. } | Notice::Refused(_) | Notice::Ended => {
                return Err(format!("a subscription ended: {notice:?}"));
            }
        }
        Ok(())
    }

    fn reach(&mut self, owner: usize, next: Offset) {
        let part = &mut self.parts[owner];
        if !part.reached && next >= part.old_end {
            part.reached = true;
            self.reached += 1;
        }
    }

    /// Reads once, if anything comes.
    fn read(&mut self, bytes_max: usize) -> Result<usize, String> {
        let count = match self.session.read(bytes_max)? {
            Heard::Bytes(count) => count,
            Heard::Silence => 0,
            Heard::End => return Err("the server closed a connection".to_owned()),
        };
        self.hear()?;
        self.session.send()?;
        Ok(count)
    }

    /// Reads at a rate until the run is over.
    fn read_slowly(&mut self, bytes_per_s: u64, over: &AtomicBool) -> Result<(), String> {
        self.session.patience(LOOK)?;
        let begun = Instant::now();
        let mut taken = 0_u64;
        while !over.load(Ordering::Relaxed) {
            let allowed = (begun.elapsed().as_secs_f64() * bytes_per_s as f64) as u64;
            let room = allowed.saturating_sub(taken).min(READ_BYTES_MAX as u64);
            if room > 0 {
                taken += self.read(room as usize)? as u64;
            }
            if allowed <= taken {
                std::thread::sleep(SLOW_EVERY);
            }
        }
        Ok(())
    }
}

type Thread<T> = JoinHandle<Result<T, String>>;

/// All readers of a run.
#[derive(Debug)]
pub(crate) struct Readers {
    wanted: Wanted,
    over: Arc<AtomicBool>,
    stalled: Vec<Session>,
    slow: Vec<Thread<(u64, u64)>>,
    catch_up: Vec<Thread<CatchUp>>,
}

impl Readers {
    /// Opens them all. The stalled and the slow have subscribed when this returns; catch-up subscribes when the measured
    /// part begins.
    ///
    /// # Errors
    /// A sentence for people.
    pub(crate) fn begin(
        wanted: Wanted,
        target: &Target,
        progress: &Arc<Progress>,
    ) -> Result<Self, String> {
        let mut readers = Self {
            wanted,
            over: Arc::new(AtomicBool::new(false)),
            stalled: Vec::new(),
            slow: Vec::new(),
            catch_up: Vec::new(),
        };
        if wanted == Wanted::default() {
            return Ok(readers);
        }
        let groups = groups(target);
        let threads = groups.len() * (wanted.slow + usize::from(wanted.catch_up));
        if threads > THREADS_MAX {
            return Err(format!(
                "slow subscribers and catch-up would need {threads} threads, more than {THREADS_MAX}: take fewer subscribers or fewer partitions"
            ));
        }
        for _ in 0..wanted.stalled {
            for (address, places) in &groups {
                let mut reader = Reader::open(*address, target)?;
                reader.subscribe(places, From::Latest)?;
                readers.stalled.push(reader.session);
            }
        }
        for _ in 0..wanted.slow {
            for (address, places) in &groups {
                let mut reader = Reader::open(*address, target)?;
                reader.subscribe(places, From::Latest)?;
                let over = Arc::clone(&readers.over);
                readers.slow.push(std::thread::spawn(move || {
                    reader.read_slowly(wanted.slow_bytes_per_s, &over)?;
                    Ok((reader.bytes, reader.batches))
                }));
            }
        }
        if wanted.catch_up {
            for (address, places) in groups {
                let reader = Reader::open(address, target)?;
                let over = Arc::clone(&readers.over);
                let progress = Arc::clone(progress);
                readers.catch_up.push(std::thread::spawn(move || {
                    catch_up(reader, &places, &progress, &over)
                }));
            }
        }
        Ok(readers)
    }

    /// Ends them and says what became of each.
    pub(crate) fn end(self) -> Report {
        self.over.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        if self.wanted.stalled > 0 {
            let mut stalled = Stalled {
                subscribers: self.wanted.stalled,
                connections: self.stalled.len(),
                ..Stalled::default()
            };
            for session in self.stalled {
                let (bytes, closed) = session.unread();
                stalled.unread_bytes += bytes;
                stalled.closed += usize::from(closed);
            }
            report.stalled = Some(stalled);
        }
        if self.wanted.slow > 0 {
            let mut slow = Slow {
                subscribers: self.wanted.slow,
                connections: self.slow.len(),
                target_bytes_per_s: self.wanted.slow_bytes_per_s,
                ..Slow::default()
            };
            for thread in self.slow {
                match join(thread) {
                    Ok((bytes, batches)) => {
                        slow.bytes += bytes;
                        slow.batches += batches;
                    }
                    Err(why) => slow.failed.push(why),
                }
            }
            report.slow = Some(slow);
        }
        if self.wanted.catch_up {
            let mut all = CatchUp {
                reached_end: true,
                ..CatchUp::default()
            };
            for thread in self.catch_up {
                match join(thread) {
                    Ok(part) => {
                        all.partitions += part.partitions;
                        all.bytes += part.bytes;
                        all.batches += part.batches;
                        all.seconds = all.seconds.max(part.seconds);
                        all.reached_end &= part.reached_end;
                    }
                    Err(why) => {
                        all.reached_end = false;
                        all.failed.push(why);
                    }
                }
            }
            if all.seconds > 0.0 {
                all.bytes_per_s = all.bytes as f64 / all.seconds;
            }
            report.catch_up = Some(all);
        }
        report
    }
}

fn join<T>(thread: Thread<T>) -> Result<T, String> {
    thread
        .join()
        .unwrap_or_else(|_| Err("its thread panicked".to_owned()))
}

/// Reads from the earliest record on until all that was there at the beginning has come, or the run is over.
fn catch_up(
    mut reader: Reader,
    places: &[Place],
    progress: &Progress,
    over: &AtomicBool,
) -> Result<CatchUp, String> {
    while !progress.measures() && !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begun = Instant::now();
    reader.subscribe(places, From::Earliest)?;
    reader.session.patience(LOOK)?;
    while reader.reached < places.len() && !over.load(Ordering::Relaxed) {
        reader.read(READ_BYTES_MAX)?;
    }
    Ok(CatchUp {
        partitions: places.len(),
        bytes: reader.old_bytes,
        batches: reader.old_batches,
        seconds: begun.elapsed().as_secs_f64(),
        reached_end: reader.reached == places.len(),
        ..CatchUp::default()
    })
}

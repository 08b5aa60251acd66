//! The driver: one thread, one ring, one machine. Takes the machine's effects to the kernel and brings it events, in
//! turns: read the clocks once, take what completed, step the machine through it, end the turn, execute the effects,
//! submit everything and wait with one syscall. An idle driver sleeps. It spins only where it was asked to, for a bounded
//! time before it sleeps.
//!
//! Invariants: an operation owns its buffers until its last completion was taken; a turn takes a bounded number of
//! completions and messages, so the end of a turn (group commit) comes regularly under any load; a driver that ends, by
//! whatever way, has first cancelled and taken back everything that the kernel might still write to.

use crate::adopt::{Adopted, Adopter};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::files::Files;
use crate::mesh::MeshEnd;
use crate::pin;
use crate::receive_pool::ReceivePool;
use crate::ring::{Completion, Kind, Ring};
use crate::slab::Place;
use crate::sockets::Sockets;
use crate::start::{DriverConfig, StartError, StartReport, ring_refused};
use crate::waker::{StopHandle, Waker};
use io_uring::{opcode, types};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use tiderace_base::operation::{Effect, Effects, Event, Fatal, Machine};
use tiderace_base::time::{Mono, Now};

/// Completions of one turn.
const COMPLETIONS_PER_TURN_MAX: usize = 512;
/// Messages from one peer in one turn.
const MESSAGES_PER_TURN_MAX: usize = 128;
/// Times that everything is cancelled at the end before the kernel is left alone, and how long each waits.
const REAP_ROUNDS_MAX: u32 = 300;
const REAP_ROUND_NS: u64 = 100_000_000;

/// The eventfd's poll.
const WAKE: Place = Place {
    slot: 0,
    generation: 0,
};

/// How a driver's run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The machine stopped in order.
    Stopped,
    /// The machine, or the ring under it, cannot go on.
    Fatal(Fatal),
    /// The run did not begin: the machine saw nothing.
    NotStarted(StartError),
}

/// Executes one machine's effects. Made on any thread, then run on its own.
#[derive(Debug)]
pub struct Driver {
    // The order matters: the ring is closed before the memory that it used goes.
    ring: Ring,
    sockets: Sockets,
    files: Option<Files>,
    mesh: Option<MeshEnd>,
    waker: Arc<Waker>,
    adopter: Adopter,
    adopted: Receiver<Adopted>,
    counters: Arc<Counters>,
    report: StartReport,
    cpu: Option<usize>,
    begun: bool,
    /// Events that the machine has not seen yet, in order.
    ready: VecDeque<Event>,
    busy_poll_ns: u64,
    wake_at: Option<Mono>,
    stop_told: bool,
    completions: Vec<Completion>,
}

impl Driver {
    /// Sets up everything that can fail, so that a node knows before it starts its threads.
    ///
    /// # Errors
    /// The kernel refuses io_uring, the core is not allowed, or a resource is spent.
    ///
    /// # Panics
    /// When the peer door is a listener with TLS of its own.
    pub fn new(config: DriverConfig) -> Result<Self, StartError> {
        let DriverConfig {
            journal,
            listeners,
            links,
            mesh,
            cpu,
            receive_buffers,
            receive_buffer_bytes,
            connections_max,
            files_open_max,
            submission_entries,
            completion_entries,
            busy_poll_ns,
        } = config;
        if let Some(cpu) = cpu {
            let allowed = pin::allowed().map_err(StartError::Resource)?;
            if !allowed.contains(&cpu) {
                return Err(StartError::CpuRefused { cpu, allowed });
            }
        }
        let waker = match &mesh {
            Some(mesh) => Arc::clone(mesh.waker()),
            None => Waker::new().map_err(StartError::Resource)?,
        };
        let submission_entries = submission_entries.max(1).next_power_of_two();
        let completion_entries = completion_entries.max(submission_entries);
        let mut ring = Ring::new(submission_entries, completion_entries)?;
        if let Some(journal) = &journal {
            ring.hold(journal.lock())?;
        }
        let pool = ReceivePool::new(&ring, receive_buffers, receive_buffer_bytes)?;
        let counters = Arc::new(Counters::default());
        let report = StartReport {
            direct_io: journal.as_ref().is_some_and(|journal| journal.direct_io()),
            direct_io_refused: journal
                .as_ref()
                .and_then(|journal| journal.direct_io_refused().map(str::to_owned)),
            submission_entries: ring.submission_entries(),
            completion_entries: ring.completion_entries(),
            receive_buffers: pool.count(),
        };
        if let Some(links) = &links {
            let door = links.door.as_ref();
            assert!(
                door.is_none_or(|door| door.acceptor().is_none()),
                "the node's identity decides who comes in at the peer door"
            );
            links.identity.tell(&waker);
        }
        let counted = Arc::clone(&counters);
        let sockets = Sockets::new(listeners, connections_max, links, pool, counted);
        let files =
            journal.map(|journal| Files::new(journal, files_open_max, Arc::clone(&counters)));
        let (adopter, adopted) = Adopter::new(Arc::clone(&waker));
        Ok(Self {
            ring,
            sockets,
            files,
            mesh,
            waker,
            adopter,
            adopted,
            counters,
            report,
            cpu,
            begun: false,
            ready: VecDeque::new(),
            busy_poll_ns,
            wake_at: None,
            stop_told: false,
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN_MAX),
        })
    }

    /// What was found at the start.
    #[must_use]
    pub const fn report(&self) -> &StartReport {
        &self.report
    }

    /// What the driver counts about itself; it may be read while the driver runs.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Hands connected sockets to the machine, from anywhere.
    #[must_use]
    pub fn adopter(&self) -> Adopter {
        self.adopter.clone()
    }

    /// Asks the machine to stop, from anywhere.
    #[must_use]
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle::new(Arc::clone(&self.waker))
    }

    /// Runs the machine on this thread until it stops or cannot go on. The first turn has no events, so that a machine
    /// can ask for what it wants (`Serve`, `WakeAt`) when the turn ends. Whatever way this returns, nothing is in flight
    /// any more and every connection is closed when the driver is dropped.
    ///
    /// # Panics
    /// When it is called a second time, and when the machine breaks the contract of `operation`.
    pub fn run<M: Machine + ?Sized>(&mut self, machine: &mut M) -> Outcome {
        assert!(!self.begun, "a driver runs once");
        self.begun = true;
        let mut cores = None;
        if let Some(cpu) = self.cpu {
            // Read before pinning: the ring's own threads, which unlink and sync, may use every core.
            cores = pin::allowed_set().ok();
            if pin::to(cpu).is_err() {
                let allowed = pin::allowed().unwrap_or_default();
                return Outcome::NotStarted(StartError::CpuRefused { cpu, allowed });
            }
        }
        if let Err(error) = self.ring.enable() {
            return Outcome::NotStarted(error);
        }
        let reaping = Reaping { driver: self };
        reaping.driver.poll_waker();
        if let Err(error) = reaping.driver.ring.turn(None) {
            return Outcome::NotStarted(ring_refused("io_uring_enter", &error));
        }
        if let Some(cores) = cores {
            reaping.driver.ring.place_workers(&cores);
        }
        reaping.driver.turns(machine)
    }

    fn turns<M: Machine + ?Sized>(&mut self, machine: &mut M) -> Outcome {
        let mut effects = Effects::new();
        loop {
            let now = Clock::now();
            self.take_events(now, machine, &mut effects);
            machine.finish_turn(now, &mut effects);
            self.counters.turns.add(1);
            let outcome = effects
                .drain(..)
                .find_map(|effect| self.execute(effect, now.mono));
            if let Some(mesh) = &mut self.mesh {
                mesh.flush(&mut self.ready);
            }
            if let Some(outcome) = outcome {
                return outcome;
            }
            if let Err(error) = self.wait(now.mono) {
                return Outcome::Fatal(Fatal::RingRefused(format!(
                    "io_uring_enter failed in the middle of a run ({error}): see the kernel's log"
                )));
            }
        }
    }

    /// Steps the machine through this turn's events. Each completion is stepped before the next is looked at: a receive
    /// buffer that the machine gives back at once can then be counted on for the next piece.
    fn take_events<M: Machine + ?Sized>(
        &mut self,
        now: Now,
        machine: &mut M,
        effects: &mut Effects,
    ) {
        if self.ring.overflowed() {
            self.counters.queue_overflows.add(1);
        }
        let mut completions = std::mem::take(&mut self.completions);
        // Some may be left from a turn that was spent.
        let room = COMPLETIONS_PER_TURN_MAX - completions.len();
        self.ring.reap(room, &mut completions);
        let mut taken = 0;
        while taken < completions.len() && !self.sockets.is_turn_spent() {
            self.on_completion(completions[taken], now);
            self.step(now, machine, effects);
            taken += 1;
        }
        completions.drain(..taken);
        self.counters.completions.add(taken as u64);
        self.completions = completions;
        self.take_adopted(now.mono);
        if self.sockets.is_identity_new() {
            self.sockets.look_at_links(&mut self.ring, &mut self.ready);
        }
        if let Some(mesh) = &mut self.mesh {
            mesh.receive(MESSAGES_PER_TURN_MAX, &mut self.ready);
        }
        if self.wake_at.is_some_and(|at| at <= now.mono) {
            self.wake_at = None;
            self.ready.push_back(Event::Timer);
        }
        if !self.stop_told && self.waker.stop_asked() {
            self.stop_told = true;
            self.ready.push_back(Event::Stop);
        }
        self.step(now, machine, effects);
    }

    fn step<M: Machine + ?Sized>(&mut self, now: Now, machine: &mut M, effects: &mut Effects) {
        while let Some(event) = self.ready.pop_front() {
            #[cfg(feature = "disk-recording")]
            if let Some(recorder) = self.files.as_ref().and_then(Files::recorder) {
                recorder.seeing(&event);
            }
            machine.step(now, event, effects);
        }
    }

    /// Takes in the sockets that were handed over. True: there were some.
    fn take_adopted(&mut self, now: Mono) -> bool {
        let mut any = false;
        while let Ok(adopted) = self.adopted.try_recv() {
            self.sockets
                .adopt(adopted, now, &mut self.ring, &mut self.ready);
            any = true;
        }
        any
    }

    fn on_completion(&mut self, completion: Completion, now: Now) {
        let place = completion.place;
        let (ring, ready) = (&mut self.ring, &mut self.ready);
        match completion.kind {
            Kind::Receive => self.sockets.on_receive(completion, ring, ready),
            Kind::Send => self.sockets.on_send(completion, ring, ready),
            Kind::CancelReceive => self.sockets.on_cancel_receive(place, ring),
            Kind::CancelSend => self.sockets.on_cancel_send(place, ring),
            Kind::Accept => self.sockets.on_accept(completion, now.mono, ring, ready),
            Kind::Connect => self.sockets.on_connect(completion, ring, ready),
            Kind::CancelConnect => self.sockets.on_cancel_connect(place, ring),
            Kind::Wake => {
                if !completion.more() {
                    self.poll_waker();
                }
            }
            Kind::Open => {
                if let Some(files) = &mut self.files {
                    files.on_open(completion, now.mono, ring, ready);
                }
            }
            Kind::File => {
                if let Some(files) = &mut self.files {
                    files.on_file(completion, now.mono, ring, ready);
                }
            }
            Kind::Forgotten => {}
        }
    }

    /// Executes one effect. Some: it was the last.
    fn execute(&mut self, effect: Effect, now: Mono) -> Option<Outcome> {
        #[cfg(feature = "disk-recording")]
        if let Effect::Send { conn, parts, .. } = &effect
            && let Some(recorder) = self.files.as_ref().and_then(Files::recorder)
        {
            recorder.sending(*conn, parts);
        }
        let (ring, ready) = (&mut self.ring, &mut self.ready);
        match effect {
            Effect::Write {
                op,
                file,
                at,
                data,
                durable,
            } => journal(&mut self.files).write(op, file, at, data, durable, ring),
            Effect::Read { op, file, at, len } => {
                journal(&mut self.files).read(op, file, at, len, ring);
            }
            Effect::Sync { op, file } => journal(&mut self.files).sync(op, file, ring),
            Effect::Prepare { op, file, bytes } => {
                journal(&mut self.files).prepare(op, file, bytes, ring);
            }
            Effect::Remove { op, file } => journal(&mut self.files).remove(op, file, ring),
            Effect::Connect { op, to, peer } => {
                self.sockets.connect(op, to, peer, now, ring, ready);
            }
            Effect::Send { op, conn, parts } => self.sockets.send(op, conn, parts, ring, ready),
            Effect::CancelSend { conn } => self.sockets.cancel_send(conn, ring, ready),
            Effect::Receive { conn, wanted } => self.sockets.want(conn, wanted, ring),
            Effect::Finish { conn } => self.sockets.finish(conn, ring, ready),
            Effect::Close { conn } => self.sockets.close(conn, ring, ready),
            Effect::Post { to, message } => {
                let Some(mesh) = &mut self.mesh else {
                    panic!("a machine without a mesh posts to {to:?}");
                };
                let waited = mesh.post(to, message, ready);
                self.counters.mesh_waited.add(u64::from(waited));
            }
            Effect::WakeAt(at) => self.wake_at = Some(at),
            Effect::Serve => self.sockets.serve(false, true, ring),
            Effect::Refuse => self.sockets.serve(false, false, ring),
            Effect::ServeNodes(serving) => self.sockets.serve(true, serving, ring),
            Effect::Stopped => return Some(Outcome::Stopped),
            Effect::Fatal(fatal) => return Some(Outcome::Fatal(fatal)),
        }
        None
    }

    /// Submits what was asked for, and sleeps if there is nothing to do.
    fn wait(&mut self, now: Mono) -> std::io::Result<()> {
        let starved = self
            .sockets
            .finish_turn(now, &mut self.ring, &mut self.ready);
        if let Some(files) = &mut self.files {
            files.finish_turn(now, &mut self.ring);
        }
        let mut sleep = !starved
            && self.ready.is_empty()
            && self.completions.is_empty()
            && !self.ring.has_completions();
        if sleep && self.busy_poll_ns > 0 {
            sleep = !self.poll(now)?;
        }
        if sleep {
            self.waker.prepare_sleep();
            sleep = !self.is_wanted(now);
        }
        let wait_ns = if sleep { self.time_to_sleep() } else { None };
        self.counters.sleeps.add(u64::from(wait_ns.is_some()));
        let result = self.ring.turn(wait_ns);
        self.waker.awake();
        result
    }

    /// Whether another thread wants something.
    fn is_wanted(&mut self, now: Mono) -> bool {
        self.mesh.as_mut().is_some_and(MeshEnd::has_work)
            || (!self.stop_told && self.waker.stop_asked())
            || self.sockets.is_identity_new()
            || self.take_adopted(now)
    }

    /// Submits what was asked for, and looks for something to do instead of sleeping. True: there is something. Others
    /// need not wake this thread meanwhile, and the kernel need not either.
    fn poll(&mut self, now: Mono) -> std::io::Result<bool> {
        /// Looks between two readings of the clock: about a microsecond.
        const LOOKS: u32 = 32;
        self.ring.turn(None)?;
        let due = self.due().unwrap_or(Mono::from_ns(u64::MAX));
        let until = due.min(Clock::mono().after_ns(self.busy_poll_ns));
        loop {
            for _ in 0..LOOKS {
                if self.ring.has_news() {
                    self.counters.polls.add(1);
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            if self.is_wanted(now) {
                self.counters.polls.add(1);
                return Ok(true);
            }
            if Clock::mono() >= until {
                return Ok(false);
            }
        }
    }

    /// When this thread wants to be awake, whatever happens.
    fn due(&self) -> Option<Mono> {
        let files = self.files.as_ref().and_then(Files::next_wake);
        [self.wake_at, self.sockets.next_wake(), files]
            .into_iter()
            .flatten()
            .min()
    }

    /// How long; none when something is due already.
    fn time_to_sleep(&self) -> Option<u64> {
        match self.due() {
            None => Some(u64::MAX),
            Some(due) => match due.since(Clock::mono()) {
                0 => None,
                // A day: longer times overflow nowhere, and the turn that comes too early does no harm.
                ns => Some(ns.min(86_400_000_000_000)),
            },
        }
    }

    fn poll_waker(&mut self) {
        let entry = opcode::PollAdd::new(types::Fd(self.waker.fd()), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Kind::Wake.token(WAKE));
        // SAFETY: the entry points to nothing.
        unsafe { self.ring.push(entry) };
    }

    /// Submits what was pushed, then cancels and takes back everything. False: the kernel kept something.
    fn reap(&mut self) -> bool {
        // Once without cancelling: what a machine sends before it stops goes out if the network takes it at once.
        let _ = self.ring.turn(None);
        self.ring.forget_waiting();
        for _ in 0..REAP_ROUNDS_MAX {
            self.take_back();
            if self.ring.outstanding() == 0 {
                return true;
            }
            self.ring.cancel_all();
            if self.ring.turn(Some(REAP_ROUND_NS)).is_err() {
                return false;
            }
        }
        false
    }

    fn take_back(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        loop {
            self.ring.reap(COMPLETIONS_PER_TURN_MAX, &mut completions);
            if completions.is_empty() {
                break;
            }
            for completion in completions.drain(..) {
                match completion.kind {
                    Kind::Open | Kind::File => {
                        if let Some(files) = &mut self.files {
                            files.discard(completion);
                        }
                    }
                    _ => self.sockets.discard(completion),
                }
            }
        }
        self.completions = completions;
    }
}

fn journal(files: &mut Option<Files>) -> &mut Files {
    match files {
        Some(files) => files,
        None => panic!("a machine without a journal names a file"),
    }
}

/// Takes everything back at the end of a run, a panic of the machine included: only the thread that ran may do it.
struct Reaping<'a> {
    driver: &'a mut Driver,
}

impl Drop for Reaping<'_> {
    fn drop(&mut self) {
        if !self.driver.reap() {
            self.driver.sockets.leak();
            if let Some(files) = self.driver.files.take() {
                Box::leak(Box::new(files));
            }
        }
    }
}

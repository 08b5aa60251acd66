//! The tokio driver: sockets, the clock, entropy and wakers around the engine.
//!
//! # No thread hop between a caller and the socket
//!
//! A client has one lock. A call takes it, lets the engine turn the call into bytes, and writes them to the non-blocking
//! socket from the caller's own task; nothing is handed to another task or thread. The lock is held for that and for
//! nothing that waits. Take one client per core when one lock is not enough.
//!
//! Reading is done by whoever waits. Every future that waits (an acknowledgement, an answer, a delivery, room to send)
//! has a place among the *waiters*. One of them has the *turn*: its task is the one that the sockets wake, and when it is
//! polled it reads for all, hands the bytes to the engine, and wakes exactly those whose wait is over.
//!
//! - **One owner of received bytes.** The receive buffer belongs to the client, not to a future: a future that is dropped
//!   at any point loses nothing that was read.
//! - **No wake is lost.** Sockets know one waker, the client's [`Turn`], which passes a wake on to the task that has the
//!   turn and notes that it *fired*. Whoever gives the turn away names the next first and looks at the note afterwards: a
//!   wake that came in between finds the next one awake.
//! - **A turn is never lost.** A waiter that ends or is dropped passes it to another waiter; with none left it goes to the
//!   *keeper*, a task that sleeps until then. So acknowledgements arrive although nobody awaits them.
//! - **A turn is never held up for long.** A task that has the turn, was woken and is not polled (its future sits in a
//!   `select!` that is not entered) would hold up the others. While anything else waits, the keeper looks every
//!   [`STUCK_CHECK`] and takes such a turn away.
//!
//! The keeper also owns the one timer, for deadlines and reconnects. An idle client wakes nothing.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the driver is the room of the client that owns the clock, the entropy, the sockets and the lock"
)]

mod admin;
mod client;
mod consumer;
mod producer;
mod socket;
mod tls;

pub use admin::{Partition, StreamInfo, StreamOptions};
pub use client::{Client, Options};
pub use consumer::{Consumer, Subscribe};
pub use producer::{Ack, AckFuture, Producer, ProducerOptions, TrySendError};
pub use tls::{Tls, TlsError};

use crate::core::engine::{Engine, Event, LinkId, ProducerKey, Reply};
use crate::core::producer::Settled;
use crate::error::RequestError;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use socket::Socket;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::task::Wake;
use std::time::SystemTime;
use tiderace_base::time::{Mono, Now, Wall};
use tokio::time::{Instant, Sleep};

/// How often the keeper looks whether a turn is held up while others wait.
const STUCK_CHECK: Duration = Duration::from_millis(20);
/// The keeper's place among the waiters.
const KEEPER: u64 = 0;

/// 64 bits that nobody can foresee.
fn entropy() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The one waker that the sockets know.
#[derive(Default)]
struct Turn {
    /// A socket became ready since the last drive began.
    fired: AtomicBool,
    holder: Mutex<Option<Waker>>,
}

impl Turn {
    /// Names the task that has the turn; the waker of the one before, to be dropped when nothing is locked.
    fn hold(&self, waker: &Waker) -> Option<Waker> {
        let mut holder = self.holder.lock().expect("no code panics under this lock");
        if holder.as_ref().is_some_and(|held| held.will_wake(waker)) {
            return None;
        }
        holder.replace(waker.clone())
    }

    fn holder(&self) -> Option<Waker> {
        self.holder
            .lock()
            .expect("no code panics under this lock")
            .clone()
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.fired.store(true, Ordering::SeqCst);
        if let Some(holder) = self.holder() {
            holder.wake();
        }
    }
}

/// What became of a batch, shared by the futures of its records.
#[derive(Debug, Default)]
struct Outcome(OnceLock<Settled>);

/// A batch that has not settled.
struct Unsettled {
    outcome: Arc<Outcome>,
    waiters: Vec<u64>,
}

#[derive(Default)]
struct ProducerState {
    /// By the batch's number.
    unsettled: Vec<Option<Unsettled>>,
    /// Who waits for room.
    waiters: Vec<u64>,
}

#[derive(Default)]
struct Question {
    result: Option<Result<Reply, RequestError>>,
    waiter: Option<u64>,
}

/// Everything behind the lock.
struct Hub {
    engine: Engine,
    tls: Option<Tls>,
    /// Addresses with which TLS could not be spoken.
    distrusted: BTreeSet<SocketAddr>,
    /// Who waits for the first answer, and wants to know of those.
    greeter: Option<Waker>,
    sockets: Vec<Socket>,
    turn: Arc<Turn>,
    turn_waker: Waker,
    waiters: BTreeMap<u64, Waker>,
    next_waiter: u64,
    holder: u64,
    producers: Vec<ProducerState>,
    consumers: Vec<Vec<u64>>,
    questions: BTreeMap<u64, Question>,
    keeper: Option<Waker>,
    /// When the keeper's timer is due, and whether it looks for a held-up turn.
    keeper_until: Option<Mono>,
    keeper_checks: bool,
    /// To be woken when the lock is released. A waker may run any code, so none runs under the lock.
    wakes: Vec<Waker>,
    /// To be dropped when the lock is released: a waker may be the last to hold a task and all that is in it.
    spent: Vec<Waker>,
}

pub(crate) struct Shared {
    hub: Mutex<Hub>,
    origin: Instant,
}

/// The lock, held. Wakes whom it may concern after it is released.
struct Locked<'a> {
    hub: Option<MutexGuard<'a, Hub>>,
}

impl core::ops::Deref for Locked<'_> {
    type Target = Hub;
    fn deref(&self) -> &Hub {
        self.hub.as_ref().expect("held until dropped")
    }
}

impl core::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Hub {
        self.hub.as_mut().expect("held until dropped")
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let Some(mut hub) = self.hub.take() else {
            return;
        };
        let wakes = core::mem::take(&mut hub.wakes);
        let spent = core::mem::take(&mut hub.spent);
        drop(hub);
        drop(spent);
        for waker in wakes {
            waker.wake();
        }
    }
}

impl Shared {
    fn start(engine: Engine, tls: Option<Tls>) -> Arc<Self> {
        let turn = Arc::new(Turn::default());
        let shared = Arc::new(Self {
            hub: Mutex::new(Hub {
                engine,
                tls,
                distrusted: BTreeSet::new(),
                greeter: None,
                sockets: Vec::new(),
                turn_waker: Waker::from(turn.clone()),
                turn,
                waiters: BTreeMap::new(),
                next_waiter: KEEPER + 1,
                holder: KEEPER,
                producers: Vec::new(),
                consumers: Vec::new(),
                questions: BTreeMap::new(),
                keeper: None,
                keeper_until: None,
                keeper_checks: false,
                wakes: Vec::new(),
                spent: Vec::new(),
            }),
            origin: Instant::now(),
        });
        tokio::spawn(Keeper {
            shared: Arc::downgrade(&shared),
            sleep: None,
        });
        shared
    }

    /// # Panics
    /// When a panic left the client in an unknown state: it says so for ever.
    fn lock(&self) -> Locked<'_> {
        Locked {
            hub: Some(
                self.hub
                    .lock()
                    .expect("a panic inside the client left it in an unknown state"),
            ),
        }
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_micros() as u64);
        Now {
            mono: Mono::from_ns(self.origin.elapsed().as_nanos() as u64 + 1),
            wall: Wall::from_us(wall),
        }
    }

    fn instant(&self, at: Mono) -> Instant {
        self.origin + Duration::from_nanos(at.as_ns())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The keeper finds nobody left and ends.
        if let Ok(hub) = self.hub.get_mut()
            && let Some(keeper) = hub.keeper.take()
        {
            keeper.wake();
        }
    }
}

impl Hub {
    fn wake(&mut self, waiter: u64) {
        if let Some(waker) = self.waiters.get(&waiter) {
            self.wakes.push(waker.clone());
        }
    }

    /// Names the task that has the turn.
    fn hold(&mut self, holder: u64, waker: &Waker) {
        self.holder = holder;
        let before = self.turn.hold(waker);
        self.spent.extend(before);
    }

    /// Sockets want to be looked at.
    fn wake_turn(&mut self) {
        self.turn.fired.store(true, Ordering::SeqCst);
        self.wakes.extend(self.turn.holder());
    }

    /// Whether somebody would be held up by a turn that is not used.
    fn is_watched(&self) -> bool {
        self.holder != KEEPER && (self.waiters.len() > 1 || self.engine.is_waiting())
    }

    fn wake_keeper(&mut self) {
        if let Some(keeper) = &self.keeper {
            self.wakes.push(keeper.clone());
        }
    }

    /// Does what the engine asks for and sends what it wrote. Reads nothing.
    fn carry_out(&mut self, now: Now) {
        loop {
            while let Some(event) = self.engine.next_event() {
                self.carry_out_event(event);
            }
            let Some(link) = self.engine.next_transmit() else {
                break;
            };
            self.send(now, link);
        }
        if let Some(at) = self.engine.wake_at()
            && self.keeper_until.is_none_or(|until| at < until)
        {
            self.keeper_until = Some(at);
            self.wake_keeper();
        }
        if !self.keeper_checks && self.is_watched() {
            self.keeper_checks = true;
            self.wake_keeper();
        }
    }

    fn socket(&mut self, link: LinkId) -> &mut Socket {
        while self.sockets.len() <= link.index() {
            self.sockets.push(Socket::default());
        }
        &mut self.sockets[link.index()]
    }

    fn carry_out_event(&mut self, event: Event) {
        match event {
            Event::Connect { link, address } => {
                let tls = self.tls.clone();
                self.socket(link).connect(address, tls);
                // Whoever has the turn polls the new socket.
                self.wake_turn();
            }
            Event::Disconnect { link } => self.socket(link).close(),
            Event::Settled { producer, settled } => self.settled(producer, settled),
            Event::Room { producer } => {
                let waiters = self
                    .producers
                    .get_mut(producer.index())
                    .map(|state| core::mem::take(&mut state.waiters));
                for waiter in waiters.into_iter().flatten() {
                    self.wake(waiter);
                }
            }
            Event::Answered { request, result } => {
                if let Some(question) = self.questions.get_mut(&request) {
                    question.result = Some(result);
                    if let Some(waiter) = question.waiter {
                        self.wake(waiter);
                    }
                }
            }
            Event::Ready { consumer } => {
                let waiters = self
                    .consumers
                    .get_mut(consumer.index())
                    .map(core::mem::take);
                for waiter in waiters.into_iter().flatten() {
                    self.wake(waiter);
                }
            }
        }
    }

    fn settled(&mut self, producer: ProducerKey, settled: Settled) {
        let cell = self
            .producers
            .get_mut(producer.index())
            .and_then(|state| state.unsettled.get_mut(settled.batch as usize))
            .and_then(Option::take);
        if let Some(unsettled) = cell {
            let told = unsettled.outcome.0.set(settled);
            debug_assert!(told.is_ok(), "a batch settles once");
            for waiter in unsettled.waiters {
                self.wake(waiter);
            }
        }
    }

    fn send(&mut self, now: Now, link: LinkId) {
        let Some(socket) = self.sockets.get_mut(link.index()) else {
            return;
        };
        self.engine.transmit(link, &mut socket.out.pieces);
        let mut cx = Context::from_waker(&self.turn_waker);
        if socket.flush(&mut cx).is_err() {
            if socket.may_say_why() {
                return self.wake_turn();
            }
            socket.close();
            self.engine.disconnected(now, link);
        }
    }

    /// Reads and writes whatever sockets are ready for. Only under the turn.
    fn drive(&mut self, now: Now) {
        self.turn.fired.store(false, Ordering::SeqCst);
        self.engine.tick(now);
        self.carry_out(now);
        let waker = self.turn_waker.clone();
        let mut cx = Context::from_waker(&waker);
        for index in 0..self.sockets.len() {
            let link = self.engine.link(index);
            let mut reads = 0;
            loop {
                let step = self.sockets[index].poll(&mut cx);
                match step {
                    Poll::Pending => break,
                    Poll::Ready(socket::Step::Connected) => self.engine.connected(now, link),
                    Poll::Ready(socket::Step::Received(bytes)) => {
                        self.engine.received(now, link, bytes);
                        reads += 1;
                    }
                    Poll::Ready(lost) => {
                        if let socket::Step::Distrusted(address) = lost {
                            self.distrusted.insert(address);
                            let greeter = self.greeter.take();
                            self.wakes.extend(greeter);
                        }
                        self.sockets[index].close();
                        self.engine.disconnected(now, link);
                    }
                }
                self.carry_out(now);
                if reads == socket::READS_PER_TURN {
                    // The others are to be read too: this socket goes on in the next turn.
                    self.wake_turn();
                    break;
                }
            }
        }
    }

    /// Gives a waiter's place back and, where it had the turn, passes that on.
    fn leave(&mut self, waiter: u64) {
        let own = self.waiters.remove(&waiter);
        self.spent.extend(own);
        if self.holder != waiter {
            return;
        }
        let next = self
            .waiters
            .last_key_value()
            .map(|(next, waker)| (*next, waker.clone()));
        let (next, waker) = match next {
            Some((next, waker)) => (next, Some(waker)),
            None => (KEEPER, self.keeper.clone()),
        };
        self.holder = next;
        if let Some(waker) = waker {
            self.hold(next, &waker);
            if self.turn.fired.load(Ordering::SeqCst) {
                self.wakes.push(waker);
            }
        }
    }
}

/// A place among the waiters, for as long as a future waits.
struct Place {
    shared: Arc<Shared>,
    id: Option<u64>,
}

impl Place {
    const fn new(shared: Arc<Shared>) -> Self {
        Self { shared, id: None }
    }

    /// Waits until `check` finds what it looks for. `check` is given the waiter's number, to be noted where the wake
    /// comes from; it may be called twice in one poll.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut check: impl FnMut(&mut Hub, Now, u64) -> Option<T>,
    ) -> Poll<T> {
        let now = self.shared.now();
        let mut locked = self.shared.lock();
        let hub = &mut *locked;
        let id = *self.id.get_or_insert_with(|| {
            hub.next_waiter += 1;
            hub.next_waiter
        });
        let mut found = check(hub, now, id);
        if found.is_none() && (hub.holder == id || hub.holder == KEEPER) {
            hub.hold(id, cx.waker());
            hub.drive(now);
            found = check(hub, now, id);
        }
        if let Some(found) = found {
            hub.carry_out(now);
            hub.leave(id);
            self.id = None;
            return Poll::Ready(found);
        }
        let known = hub
            .waiters
            .get(&id)
            .is_some_and(|waker| waker.will_wake(cx.waker()));
        if !known {
            let before = hub.waiters.insert(id, cx.waker().clone());
            hub.spent.extend(before);
        }
        hub.carry_out(now);
        Poll::Pending
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // A client that a panic broke has nobody left to pass the turn to.
            if let Ok(hub) = self.shared.hub.lock() {
                let mut locked = Locked { hub: Some(hub) };
                locked.leave(id);
            }
        }
    }
}

/// Has the turn when nobody waits, owns the timer, and takes a turn away that is held up.
struct Keeper {
    shared: Weak<Shared>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Future for Keeper {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let keeper = self.get_mut();
        let Some(shared) = keeper.shared.upgrade() else {
            return Poll::Ready(());
        };
        loop {
            let now = shared.now();
            let mut locked = shared.lock();
            let hub = &mut *locked;
            if !hub
                .keeper
                .as_ref()
                .is_some_and(|waker| waker.will_wake(cx.waker()))
            {
                let before = hub.keeper.replace(cx.waker().clone());
                hub.spent.extend(before);
            }
            let is_stuck = hub.keeper_checks
                && hub.keeper_until.is_some_and(|until| until <= now.mono)
                && hub.turn.fired.load(Ordering::SeqCst);
            if hub.holder == KEEPER || is_stuck {
                hub.hold(KEEPER, cx.waker());
                hub.drive(now);
            } else {
                hub.engine.tick(now);
                hub.carry_out(now);
            }
            hub.keeper_checks = hub.is_watched();
            let check = hub
                .keeper_checks
                .then(|| now.mono.after_ns(STUCK_CHECK.as_nanos() as u64));
            let until = match (hub.engine.wake_at(), check) {
                (Some(due), Some(check)) => Some(due.min(check)),
                (due, check) => due.or(check),
            };
            hub.keeper_until = until;
            drop(locked);
            let Some(until) = until else {
                keeper.sleep = None;
                return Poll::Pending;
            };
            let at = shared.instant(until);
            let sleep = keeper
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            if sleep.deadline() != at {
                sleep.as_mut().reset(at);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

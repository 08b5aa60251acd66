//! Drives a client through a run, on one thread: a task for each batch that may be in flight. In an open loop one more task
//! never sleeps and wakes the others at their times, because the runtime's own timers are a millisecond late; in saturation
//! all of them sleep until something comes. A connection that breaks ends the run: what a client sends again by itself
//! after that is no measurement.

use loadgen::peer::{Finished, Job, Run, now_ns};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::LocalSet;

/// Says that a connection broke. May be called from whatever the client runs.
#[derive(Clone, Debug, Default)]
pub struct Broken(Arc<Notify>);

impl Broken {
    /// It broke.
    #[cfg_attr(
        not(feature = "nats"),
        expect(
            dead_code,
            reason = "only this client goes on by itself and has to tell"
        )
    )]
    pub fn tell(&self) {
        self.0.notify_one();
    }
}

/// One connection to a system, with the batch that it sends again and again.
pub trait Client: Sized + 'static {
    /// Makes the streams of the run anew, empty.
    async fn prepare(job: &Job) -> Result<(), String>;

    /// Deletes the streams of the run, so that the next one finds the server as this one did.
    async fn clear(job: &Job) -> Result<(), String>;

    /// Opens one connection.
    async fn open(job: &Job, connection: usize, broken: &Broken) -> Result<Self, String>;

    /// Sends one batch and waits until the server has acknowledged all of it.
    async fn send(&self) -> Result<(), String>;
}

/// Carries a job out.
///
/// # Errors
/// A sentence for people: nothing was measured.
pub fn run<C: Client>(job: &Job) -> Result<Finished, String> {
    // Whatever thread the client's libraries start inherits the core.
    if let Some(cpu) = job.cpu {
        loadgen::peer::pin(cpu)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, measure::<C>(job))
}

async fn measure<C: Client>(job: &Job) -> Result<Finished, String> {
    job.check()?;
    let broken = Broken::default();
    within(job, "its streams were not made", C::prepare(job)).await?;
    // Looks at the server before it has anything of this run to do.
    let mut run = Run::new(job)?;
    let mut clients = Vec::new();
    for connection in 0..job.connections {
        let open = C::open(job, connection, &broken);
        clients.push(Rc::new(
            within(job, "a connection did not open", open).await?,
        ));
    }
    run.begin(now_ns());
    let run = Rc::new(RefCell::new(run));
    let alarm = Rc::new(Alarm {
        rings: job.rate.is_some(),
        due: RefCell::default(),
    });
    let tasks: Vec<_> = (0..job.places())
        .map(|place| {
            let client = Rc::clone(&clients[place / job.in_flight]);
            let (run, alarm) = (Rc::clone(&run), Rc::clone(&alarm));
            tokio::task::spawn_local(async move { serve(place, &*client, &run, &alarm).await })
        })
        .collect();
    let spinning = job.rate.map(|_| {
        let (run, alarm) = (Rc::clone(&run), Rc::clone(&alarm));
        tokio::task::spawn_local(async move { alarm.ring(&run).await })
    });
    let left_ns = run.borrow().end_ns().saturating_sub(now_ns());
    let all = async {
        for task in tasks {
            // A task that panicked has left its batch without an answer.
            let _ = task.await;
        }
    };
    let most = Duration::from_nanos(left_ns) + job.patience;
    tokio::select! {
        // What has no answer by then is counted as such.
        _ = tokio::time::timeout(most, all) => {}
        () = broken.0.notified() => run.borrow_mut().fail("a connection broke"),
    }
    if let Some(spinning) = spinning {
        spinning.abort();
        let _ = spinning.await;
    }
    // The other tasks hold the run as well, where they were given up.
    let placeholder = Run::new(job)?;
    let run = std::mem::replace(&mut *run.borrow_mut(), placeholder);
    let finished = run.finish(now_ns());
    drop(clients);
    if let Err(error) = within(job, "its streams were not deleted", C::clear(job)).await {
        // What was measured is measured.
        eprintln!("peers: {error}");
    }
    Ok(finished)
}

async fn within<T>(
    job: &Job,
    what: &str,
    future: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    tokio::time::timeout(job.patience, future)
        .await
        .unwrap_or_else(|_| Err(format!("not done after {} s", job.patience.as_secs())))
        .map_err(|error| format!("{what}: {error}"))
}

/// One place: a batch after the other.
async fn serve<C: Client>(place: usize, client: &C, run: &RefCell<Run>, alarm: &Alarm) {
    loop {
        let taken = run.borrow_mut().take(place, now_ns());
        let Some(intended_ns) = taken else {
            return;
        };
        alarm.wait_until(intended_ns).await;
        run.borrow_mut().sent(place, now_ns());
        let answer = client.send().await;
        let now_ns = now_ns();
        match answer {
            Ok(()) => run.borrow_mut().acked(place, now_ns),
            Err(reason) => run.borrow_mut().refused(place, &reason),
        }
    }
}

/// Wakes tasks at their times.
#[derive(Debug)]
struct Alarm {
    /// Whether somebody rings it. In saturation nobody does: only the first batches wait, for the beginning, and a timer
    /// that is late is good enough for them.
    rings: bool,
    due: RefCell<BinaryHeap<Reverse<Due>>>,
}

#[derive(Debug)]
struct Due {
    at_ns: u64,
    waker: Waker,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at_ns == other.at_ns
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at_ns.cmp(&other.at_ns)
    }
}

impl Alarm {
    async fn wait_until(&self, at_ns: u64) {
        if !self.rings {
            let left_ns = at_ns.saturating_sub(now_ns());
            if left_ns > 0 {
                tokio::time::sleep(Duration::from_nanos(left_ns)).await;
            }
            return;
        }
        let mut asked = false;
        poll_fn(|context| {
            if now_ns() >= at_ns {
                return Poll::Ready(());
            }
            // Nobody else wakes this task, so it is asked for once.
            if !std::mem::replace(&mut asked, true) {
                self.due.borrow_mut().push(Reverse(Due {
                    at_ns,
                    waker: context.waker().clone(),
                }));
            }
            Poll::Pending
        })
        .await;
    }

    async fn ring(&self, run: &RefCell<Run>) {
        loop {
            let now_ns = now_ns();
            run.borrow_mut().turn(now_ns);
            loop {
                let mut due = self.due.borrow_mut();
                let next_ns = due.peek().map(|Reverse(due)| due.at_ns);
                if next_ns.is_none_or(|at_ns| at_ns > now_ns) {
                    break;
                }
                if let Some(Reverse(due)) = due.pop() {
                    due.waker.wake();
                }
            }
            // Lets the network and everybody else have their turn, and comes back at once.
            tokio::task::yield_now().await;
        }
    }
}

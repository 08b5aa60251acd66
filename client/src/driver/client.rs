//! The client: a handle to one engine and its sockets. Cheap to clone; all clones are the same client.

use super::{Place, Question, Shared, Tls, entropy};
use crate::core::backoff::Backoff;
use crate::core::connection::{Answer, Identity};
use crate::core::engine::{Engine, Reply, Request, Settings};
use crate::error::{RequestError, Violation};
use core::fmt;
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};
use core::time::Duration;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::ToSocketAddrs;

/// Addresses that a name may stand for.
const ADDRESSES_MAX: usize = 64;

/// How a client connects and how long it waits. Every wait has an end.
#[derive(Clone, Debug)]
pub struct Options {
    /// A name for the node's logs; cut off behind 64 bytes.
    pub name: String,
    /// Connections at once, at least 1. Each shard that leads a partition in use has one of its own; beyond the limit,
    /// frames go over another shard's.
    pub connections_max: usize,
    /// Speaks TLS to every node. `None`: plain, for nodes on this machine.
    pub tls: Option<Tls>,
    /// How long a connection may take until it is open.
    pub connect_timeout: Duration,
    /// How long a request may wait for its answer, over all attempts.
    pub request_timeout: Duration,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// Decides every random choice (waits, ids) where it is given, so that a run can be repeated.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "tiderace-client".to_owned(),
            connections_max: 64,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            backoff: Backoff::default(),
            seed: None,
        }
    }
}

/// A client of a zone.
///
/// ```no_run
/// use tiderace_client::{Client, Options, Record, StreamOptions};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("127.0.0.1:7600", Options::default()).await?;
/// client.create_stream("shop/orders", StreamOptions::default()).await?;
/// let producer = client.producer("shop/orders", Default::default());
/// let ack = producer.send(Record::new("paid").key("order-17")).await?;
/// println!("partition {} offset {}", ack.partition, ack.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to whichever of the addresses answers first. The others, and those of the zone that they name, are used
    /// when they are needed.
    ///
    /// # Errors
    /// [`RequestError::Unreachable`] when no address can be resolved or none answers in [`Options::request_timeout`];
    /// [`RequestError::TlsFailed`] when one did, but TLS could not be spoken with it;
    /// [`RequestError::Violation`] or [`RequestError::Refused`] when what answers is no node of this version.
    ///
    /// # Panics
    /// Outside a tokio runtime with IO and time.
    pub async fn connect(
        addresses: impl ToSocketAddrs,
        options: Options,
    ) -> Result<Self, RequestError> {
        let mut resolved: Vec<SocketAddr> = tokio::net::lookup_host(addresses)
            .await
            .map_err(|_| RequestError::Unreachable)?
            .take(ADDRESSES_MAX)
            .collect();
        resolved.dedup();
        if resolved.is_empty() {
            return Err(RequestError::Unreachable);
        }
        let seed = options.seed.unwrap_or_else(entropy);
        let other = options.seed.map_or_else(entropy, |seed| !seed);
        let identity = Identity {
            client_id: u128::from(seed) << 64 | u128::from(other),
            name: options.name,
        };
        let mut settings = Settings::new(identity, resolved);
        settings.links_max = options.connections_max.max(1);
        settings.backoff = options.backoff;
        settings.connect_deadline_ns = nanoseconds(options.connect_timeout);
        settings.request_deadline_ns = nanoseconds(options.request_timeout);
        let addresses = settings.addresses.clone();
        let client = Self {
            shared: Shared::start(Engine::new(settings, seed), options.tls),
        };
        match client.greet(&addresses).await {
            Ok(()) => Ok(client),
            Err(RequestError::Deadline | RequestError::Unreachable)
                if !client.shared.lock().distrusted.is_empty() =>
            {
                Err(RequestError::TlsFailed)
            }
            Err(RequestError::Deadline) => Err(RequestError::Unreachable),
            Err(error) => Err(error),
        }
    }

    /// The first ping. Who is not trusted will not be trusted a second later: when no other address is left, it is over.
    async fn greet(&self, addresses: &[SocketAddr]) -> Result<(), RequestError> {
        let mut ping = pin!(self.ping());
        poll_fn(|cx| {
            let answer = ping.as_mut().poll(cx);
            if matches!(answer, Poll::Ready(Ok(()))) {
                return answer;
            }
            let mut hub = self.shared.lock();
            let is_none_left = addresses
                .iter()
                .all(|address| hub.distrusted.contains(address));
            if is_none_left {
                return Poll::Ready(Err(RequestError::TlsFailed));
            }
            hub.greeter = Some(cx.waker().clone());
            answer
        })
        .await
    }

    /// Asks any node whether it is there.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn ping(&self) -> Result<(), RequestError> {
        match self.ask(Request::Ping { nonce: entropy() }).await?.answer {
            Answer::Pong => Ok(()),
            _ => Err(RequestError::Violation(Violation::OutOfPlace)),
        }
    }

    /// Ends everything: connections are closed, whatever waits ends with `Closed`. Flush producers first.
    pub fn close(&self) {
        let now = self.shared.now();
        let mut hub = self.shared.lock();
        hub.engine.close();
        hub.carry_out(now);
    }

    pub(super) async fn ask(&self, request: Request) -> Result<Reply, RequestError> {
        self.asking(|engine, now| engine.request(now, request))
            .await
    }

    pub(super) async fn asking(
        &self,
        ask: impl FnOnce(&mut Engine, tiderace_base::time::Now) -> Result<u64, RequestError>,
    ) -> Result<Reply, RequestError> {
        let now = self.shared.now();
        let answering = {
            let mut hub = self.shared.lock();
            let id = ask(&mut hub.engine, now)?;
            hub.questions.insert(id, Question::default());
            hub.carry_out(now);
            Answering {
                place: Place::new(self.shared.clone()),
                id,
            }
        };
        answering.await
    }
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Waits for an answer; dropped, nobody does.
struct Answering {
    place: Place,
    id: u64,
}

impl Future for Answering {
    type Output = Result<Reply, RequestError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let id = this.id;
        this.place.poll(cx, |hub, _, waiter| {
            let Some(question) = hub.questions.get_mut(&id) else {
                return Some(Err(RequestError::Closed));
            };
            question.waiter = Some(waiter);
            question.result.take()
        })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Ok(mut hub) = self.place.shared.hub.lock() {
            hub.questions.remove(&self.id);
            hub.engine.forget_request(self.id);
        }
    }
}

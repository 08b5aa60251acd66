//! One session with one shard, without its socket: bytes in, bytes out, completions as values. Owns the message ids, the
//! link's credit, what is asked and unanswered, and the subscriptions with what they were granted. Holds the node to the
//! protocol: an answer to nothing, a delivery beyond its credit or a frame out of place ends the session with a
//! [`Violation`]. The hot path, a produce frame and its acknowledgement, allocates nothing.
//!
//! Invariants: spent link credit never exceeds what was granted; at most `uncredited_max` requests without credit are
//! outstanding; every accepted request has exactly one completion, or the session ends.

use crate::core::batch;
pub use crate::core::completion::{Answer, AskRefused, Completion, Notice, SendRefused};
use crate::core::consumer::From;
use crate::core::engine::Request;
use crate::core::outbox::Outbox;
use crate::core::outstanding::Outstanding;
use crate::core::producer::{Placed, Reached};
use crate::core::question;
use crate::error::{Refusal, Violation};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use tiderace_base::ids::{MessageId, PartitionKey, SubscriptionId};
use tiderace_base::limits;
use tiderace_base::position::{Epoch, Offset};
use tiderace_wire::assembly::{Assembler, Frame, Receiver};
use tiderace_wire::batch::BatchHeader;
use tiderace_wire::credit::{Amount, Spender};
use tiderace_wire::error::ErrorCode;
use tiderace_wire::frame::{
    self, Control, Credit, CreditScope, Goodbye, GoodbyeReason, Hello, Pong, Produce, Produced,
    Subscribe, SubscribeFrom, Unsubscribe, Welcome,
};
use tiderace_wire::link::{Flags, Kind, LINK_VERSION};

/// What a produce frame takes before its batch.
const PRODUCE_BYTES: usize = limits::LINK_HEADER_BYTES + Produce::BYTES;
/// Room for any small frame.
const SMALL_FRAME_BYTES: usize = 512;

/// Who a client says it is, for the node's logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// 128 random bits.
    pub client_id: u128,
    /// A name, cut off behind 64 bytes.
    pub name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Produce { owner: u32 },
    Question(Kind),
    Subscribe { id: u32 },
    Unsubscribe { id: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    AwaitWelcome,
    Open,
    Ended,
}

#[derive(Debug)]
struct Subscription {
    owner: u64,
    key: PartitionKey,
    request: u64,
    granted: Amount,
    spent: Amount,
    /// The application has left it; what still comes is dropped.
    ending: bool,
}

/// The session.
#[derive(Debug)]
pub struct Connection {
    state: State,
    assembler: Assembler,
    out: Outbox,
    link: Spender,
    last_sent: u64,
    last_received: u64,
    outstanding: Outstanding<Asked>,
    uncredited: usize,
    uncredited_max: usize,
    pings: VecDeque<(u64, u64)>,
    subscriptions: BTreeMap<u32, Subscription>,
    next_subscription: u32,
    /// Subscriptions to be ended as soon as one more request may wait.
    leaving: VecDeque<u32>,
    wanting: bool,
}

impl Connection {
    /// A session whose hello is ready to be sent.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut connection = Self {
            state: State::AwaitWelcome,
            assembler: Assembler::new(Receiver::Client),
            out: Outbox::default(),
            link: Spender::default(),
            last_sent: 0,
            last_received: 0,
            outstanding: Outstanding::new(64),
            uncredited: 0,
            uncredited_max: 0,
            pings: VecDeque::new(),
            subscriptions: BTreeMap::new(),
            next_subscription: 1,
            leaving: VecDeque::new(),
            wanting: false,
        };
        let name = &identity.name[..identity.name.floor_char_boundary(frame::NAME_BYTES_MAX)];
        let hello = Hello {
            version_min: LINK_VERSION,
            version_max: LINK_VERSION,
            features: 0,
            client_id: identity.client_id,
            name: name.to_owned(),
        };
        let id = connection.next_id();
        connection
            .out
            .frame(SMALL_FRAME_BYTES, |out| hello.encode(out, id));
        connection
    }

    fn next_id(&mut self) -> MessageId {
        self.last_sent += 1;
        MessageId::new(self.last_sent)
    }

    /// Whether the node has welcomed this session and it has not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Link credit that can be spent now.
    #[must_use]
    pub fn available(&self) -> Amount {
        self.link.available()
    }

    /// Link credit that was granted and spent since the session began.
    #[must_use]
    pub const fn credit(&self) -> (Amount, Amount) {
        (self.link.granted(), self.link.spent())
    }

    /// Requests, produce frames included, that are not answered.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Bytes that wait to be taken by [`Connection::transmit`].
    #[must_use]
    pub const fn pending_bytes(&self) -> usize {
        self.out.pending_bytes()
    }

    /// Moves what is to be sent behind `out`, in order.
    pub fn transmit(&mut self, out: &mut Vec<Bytes>) {
        self.out.take(out);
    }

    /// Sends a batch. `owner` and `token` come back in its completion.
    ///
    /// # Errors
    /// [`SendRefused`]; nothing was sent then.
    ///
    /// # Panics
    /// When `bytes` is not a whole batch.
    pub fn produce(
        &mut self,
        owner: u32,
        token: u64,
        bytes: &Bytes,
        epoch: Epoch,
        since: Offset,
    ) -> Result<(), SendRefused> {
        if self.state != State::Open {
            return Err(SendRefused::NotOpen);
        }
        if !self.link.try_spend(Amount::batch(bytes.len() as u64)) {
            self.wanting = true;
            return Err(SendRefused::NoCredit);
        }
        let header = BatchHeader::parse(bytes).expect("a batch begins with its header");
        let flags = Flags::of(header.attributes());
        let produce = Produce {
            epoch,
            produce_slot: 0,
            since,
        };
        let id = self.next_id();
        self.out.frame(PRODUCE_BYTES, |out| {
            produce.encode(out, id, flags, bytes.len());
        });
        self.out.batch(bytes);
        self.outstanding
            .insert(id.get(), Asked::Produce { owner }, token);
        Ok(())
    }

    /// Asks. `token` comes back in the completion.
    ///
    /// # Errors
    /// [`AskRefused`]; nothing was sent then.
    pub fn ask(&mut self, token: u64, request: &Request) -> Result<(), AskRefused> {
        if self.state != State::Open {
            return Err(AskRefused::NotOpen);
        }
        if self.uncredited >= self.uncredited_max {
            self.wanting = true;
            return Err(AskRefused::Full);
        }
        question::check(request).map_err(AskRefused::Invalid)?;
        let id = self.next_id();
        self.out.frame(SMALL_FRAME_BYTES, |out| {
            question::encode(request, id, out);
        });
        self.uncredited += 1;
        if let Request::Ping { nonce } = request {
            self.pings.push_back((*nonce, token));
        } else {
            let kind = question::answer_kind(request);
            self.outstanding
                .insert(id.get(), Asked::Question(kind), token);
        }
        Ok(())
    }

    /// Begins a subscription with its first credit. `owner` comes back with all its news.
    ///
    /// # Errors
    /// [`SendRefused`]; nothing was sent then.
    pub fn subscribe(
        &mut self,
        owner: u64,
        key: PartitionKey,
        from: From,
        epoch: Epoch,
        credit_bytes: u64,
        credit_batches: u64,
    ) -> Result<SubscriptionId, SendRefused> {
        if self.state != State::Open {
            return Err(SendRefused::NotOpen);
        }
        if self.uncredited >= self.uncredited_max
            || self.subscriptions.len() >= limits::SUBSCRIPTIONS_PER_CONNECTION_MAX
        {
            self.wanting = true;
            return Err(SendRefused::NoCredit);
        }
        let number = self.next_subscription;
        self.next_subscription += 1;
        let (from, position) = match from {
            From::Earliest => (SubscribeFrom::Earliest, 0),
            From::Latest => (SubscribeFrom::Latest, 0),
            From::Offset(offset) => (SubscribeFrom::Offset, offset.get()),
            From::Time(time_us) => (SubscribeFrom::Time, time_us),
        };
        let subscribe = Subscribe {
            subscription: SubscriptionId::new(number),
            partition: key.partition,
            stream: key.stream,
            from,
            epoch,
            position,
            credit_bytes,
            credit_batches,
        };
        let id = self.next_id();
        self.out
            .frame(SMALL_FRAME_BYTES, |out| subscribe.encode(out, id));
        self.outstanding
            .insert(id.get(), Asked::Subscribe { id: number }, 0);
        self.uncredited += 1;
        self.subscriptions.insert(
            number,
            Subscription {
                owner,
                key,
                request: id.get(),
                granted: Amount {
                    bytes: credit_bytes,
                    batches: credit_batches,
                },
                spent: Amount::ZERO,
                ending: false,
            },
        );
        Ok(SubscriptionId::new(number))
    }

    /// Grants a subscription's totals. Lower ones than before change nothing.
    pub fn grant(&mut self, id: SubscriptionId, bytes_total: u64, batches_total: u64) {
        let Some(subscription) = self.subscriptions.get_mut(&id.get()) else {
            return;
        };
        let total = subscription.granted.max(Amount {
            bytes: bytes_total,
            batches: batches_total,
        });
        if total == subscription.granted || subscription.ending {
            return;
        }
        subscription.granted = total;
        let credit = Credit {
            scope: CreditScope::Subscription,
            id: id.get(),
            bytes_total: total.bytes,
            batches_total: total.batches,
        };
        let message = self.next_id();
        self.out
            .frame(SMALL_FRAME_BYTES, |out| credit.encode(out, message));
    }

    /// Leaves a subscription. No news of it come any more.
    pub fn unsubscribe(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.subscriptions.get_mut(&id.get())
            && !core::mem::replace(&mut subscription.ending, true)
        {
            self.leaving.push_back(id.get());
            self.leave();
        }
    }

    fn leave(&mut self) {
        while self.uncredited < self.uncredited_max
            && let Some(number) = self.leaving.pop_front()
        {
            let unsubscribe = Unsubscribe {
                subscription: SubscriptionId::new(number),
            };
            let id = self.next_id();
            self.out
                .frame(SMALL_FRAME_BYTES, |out| unsubscribe.encode(out, id));
            self.outstanding
                .insert(id.get(), Asked::Unsubscribe { id: number }, 0);
            self.uncredited += 1;
        }
    }

    /// Tells the node that nothing new will come.
    pub fn goodbye(&mut self) {
        if self.state == State::Open {
            let goodbye = Goodbye {
                reason: GoodbyeReason::Drain,
            };
            let id = self.next_id();
            self.out
                .frame(SMALL_FRAME_BYTES, |out| goodbye.encode(out, id));
            self.state = State::Ended;
        }
    }

    /// Bytes arrived. What came of them is pushed behind `out`.
    ///
    /// # Errors
    /// What the node did that no node may do. The session has ended: close the socket.
    pub fn receive(&mut self, bytes: Bytes, out: &mut Vec<Completion>) -> Result<(), Violation> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.assembler.push(bytes);
        loop {
            match self.assembler.next_frame() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => {
                    if let Err(violation) = self.frame(frame, out) {
                        self.state = State::Ended;
                        return Err(violation);
                    }
                }
                Err(code) => {
                    self.state = State::Ended;
                    return Err(Violation::Frame(code));
                }
            }
        }
    }

    fn frame(&mut self, frame: Frame, out: &mut Vec<Completion>) -> Result<(), Violation> {
        let id = frame.front.header.message_id().get();
        if id <= self.last_received {
            return Err(Violation::Frame(ErrorCode::MessageIdOrder));
        }
        self.last_received = id;
        let kind = frame.front.header.kind();
        if kind == Kind::Produced && self.state == State::Open {
            return self.produced(&frame.front.control, out);
        }
        let control = Control::decode(kind, &frame.front.control)
            .map_err(|_| Violation::Frame(ErrorCode::BadControl))?;
        match (self.state, control) {
            (State::AwaitWelcome, Control::Welcome(welcome)) => self.welcome(welcome, out),
            (State::AwaitWelcome | State::Open, Control::Error(error)) => self.error(&error, out),
            (State::Open, control) => self.open_frame(control, &frame, out),
            (State::AwaitWelcome | State::Ended, _) => Err(Violation::OutOfPlace),
        }
    }

    fn welcome(&mut self, welcome: Welcome, out: &mut Vec<Completion>) -> Result<(), Violation> {
        if welcome.version != LINK_VERSION {
            return Err(Violation::Frame(ErrorCode::BadVersion));
        }
        self.state = State::Open;
        self.assembler.open();
        self.link = Spender::new(Amount {
            bytes: welcome.bytes_total,
            batches: welcome.batches_total,
        });
        self.uncredited_max =
            (welcome.uncredited_max as usize).min(limits::UNCREDITED_OUTSTANDING_MAX);
        out.push(Completion::Open(welcome));
        Ok(())
    }

    /// The hot path: acknowledgements, in bulk.
    fn produced(&mut self, control: &[u8], out: &mut Vec<Completion>) -> Result<(), Violation> {
        let produced =
            Produced::decode(control).map_err(|_| Violation::Frame(ErrorCode::BadControl))?;
        let acks = produced.acks();
        out.reserve(acks.len());
        for ack in acks {
            let Some(asked) = self.outstanding.remove(ack.request.get()) else {
                return Err(Violation::UnknownRequest);
            };
            let Asked::Produce { owner } = asked.kind else {
                return Err(Violation::UnknownRequest);
            };
            let token = asked.token;
            out.push(match ack.code {
                None => Completion::Acked {
                    owner,
                    token,
                    placed: Placed {
                        base_offset: ack.base_offset,
                        epoch: ack.epoch,
                        append_time_us: ack.append_time_us,
                        duplicate: ack.flags.is_duplicate(),
                    },
                },
                Some(code) => Completion::ProduceRefused {
                    owner,
                    token,
                    refusal: Refusal {
                        code,
                        detail_a: ack.base_offset.get(),
                        detail_b: ack.append_time_us,
                    },
                },
            });
        }
        Ok(())
    }

    fn answered_uncredited(&mut self, out: &mut Vec<Completion>) {
        self.uncredited -= 1;
        self.leave();
        self.tell_room(out);
    }

    fn tell_room(&mut self, out: &mut Vec<Completion>) {
        if core::mem::take(&mut self.wanting) {
            out.push(Completion::Room);
        }
    }

    /// The question that a frame of this kind answers.
    fn question(&mut self, request: MessageId, kind: Kind) -> Result<u64, Violation> {
        match self.outstanding.get(request.get()) {
            Some(asked) if asked.kind == Asked::Question(kind) => {
                self.outstanding.remove(request.get());
                Ok(asked.token)
            }
            _ => Err(Violation::UnknownRequest),
        }
    }

    fn answer(
        &mut self,
        request: MessageId,
        kind: Kind,
        answer: Answer,
        out: &mut Vec<Completion>,
    ) -> Result<(), Violation> {
        let token = self.question(request, kind)?;
        out.push(Completion::Answered { token, answer });
        self.answered_uncredited(out);
        Ok(())
    }

    fn open_frame(
        &mut self,
        control: Control<'_>,
        frame: &Frame,
        out: &mut Vec<Completion>,
    ) -> Result<(), Violation> {
        let kind = control.kind();
        match control {
            Control::Credit(credit) => {
                if credit.scope == CreditScope::Link
                    && self.link.granted_to(Amount {
                        bytes: credit.bytes_total,
                        batches: credit.batches_total,
                    })
                {
                    self.tell_room(out);
                }
                Ok(())
            }
            Control::Ping(ping) => {
                let id = self.next_id();
                self.out.frame(SMALL_FRAME_BYTES, |out| {
                    Pong { nonce: ping.nonce }.encode(out, id);
                });
                Ok(())
            }
            Control::Pong(pong) => match self.pings.pop_front() {
                Some((nonce, token)) if nonce == pong.nonce => {
                    out.push(Completion::Answered {
                        token,
                        answer: Answer::Pong,
                    });
                    self.answered_uncredited(out);
                    Ok(())
                }
                _ => Err(Violation::UnknownRequest),
            },
            Control::Goodbye(_) => {
                out.push(Completion::Goodbye);
                Ok(())
            }
            Control::Metadata(metadata) => self.answer(
                metadata.request,
                kind,
                Answer::Metadata(Box::new(metadata)),
                out,
            ),
            Control::StreamCreated(created) => self.answer(
                created.request,
                kind,
                Answer::Created(Box::new(created.stream)),
                out,
            ),
            Control::StreamDescription(description) => {
                let request = description.request;
                self.answer(
                    request,
                    kind,
                    Answer::Description(Box::new(description)),
                    out,
                )
            }
            Control::StreamListing(listing) => self.answer(
                listing.request,
                kind,
                Answer::Listing(Box::new(listing)),
                out,
            ),
            Control::StreamDeleted(deleted) => {
                self.answer(deleted.request, kind, Answer::Deleted, out)
            }
            Control::ProduceResumed(resumed) => {
                let answer = Answer::Resumed {
                    last_seq: resumed.known.then_some(resumed.last_seq),
                    reached: Reached {
                        epoch: resumed.epoch,
                        offset: resumed.end,
                    },
                };
                self.answer(resumed.request, kind, answer, out)
            }
            Control::OffsetOfTime(found) => {
                let answer = Answer::OffsetOfTime {
                    offset: found.offset,
                    append_time_us: found.found.then_some(found.append_time_us),
                    epoch: found.epoch,
                };
                self.answer(found.request, kind, answer, out)
            }
            Control::AckedLost(lost) => {
                out.push(Completion::AckedLost {
                    partition: PartitionKey {
                        stream: lost.stream,
                        partition: lost.partition,
                    },
                    producer: lost.producer_id,
                    from_seq: lost.from_seq.get(),
                    to_seq: lost.to_seq.get(),
                });
                Ok(())
            }
            Control::Redirect(redirect) => {
                self.refused(
                    redirect.request,
                    Refusal {
                        code: ErrorCode::NotLeader,
                        detail_a: 0,
                        detail_b: 0,
                    },
                    out,
                );
                let partition = PartitionKey {
                    stream: redirect.stream,
                    partition: redirect.partition,
                };
                out.push(Completion::Redirect {
                    partition,
                    epoch: redirect.epoch,
                    node: redirect.node,
                    shard: redirect.shard,
                    address: redirect.address,
                });
                if redirect.request.get() == 0 {
                    self.moved(partition, out);
                }
                Ok(())
            }
            Control::Subscribed(begun) => {
                let asked = self.outstanding.get(begun.request.get());
                match asked.map(|asked| asked.kind) {
                    Some(Asked::Subscribe { id }) if id == begun.subscription.get() => {
                        self.outstanding.remove(begun.request.get());
                        self.notice(
                            begun.subscription,
                            Notice::Begun {
                                epoch: begun.epoch,
                                end: begun.end,
                                next: begun.next,
                            },
                            out,
                        )?;
                        self.answered_uncredited(out);
                        Ok(())
                    }
                    _ => Err(Violation::UnknownRequest),
                }
            }
            Control::Unsubscribed(ended) => {
                let asked = self.outstanding.get(ended.request.get());
                match asked.map(|asked| asked.kind) {
                    Some(Asked::Unsubscribe { id }) if id == ended.subscription.get() => {
                        self.outstanding.remove(ended.request.get());
                        self.subscriptions.remove(&id);
                        self.answered_uncredited(out);
                        Ok(())
                    }
                    _ => Err(Violation::UnknownRequest),
                }
            }
            Control::Deliver(deliver) => self.deliver(&deliver, frame, out),
            Control::Gap(gap) => self.notice(
                gap.subscription,
                Notice::Gap {
                    reason: gap.reason.code(),
                    from: gap.from,
                    to: gap.to,
                },
                out,
            ),
            Control::Loss(loss) => self.notice(
                loss.subscription,
                Notice::Loss {
                    epoch: loss.epoch,
                    from: loss.from,
                },
                out,
            ),
            Control::Diverged(diverged) => {
                let subscribing = self
                    .outstanding
                    .get(diverged.request.get())
                    .is_some_and(|asked| matches!(asked.kind, Asked::Subscribe { .. }));
                self.notice(
                    diverged.subscription,
                    Notice::Diverged {
                        epoch: diverged.epoch,
                        end: diverged.end,
                    },
                    out,
                )?;
                self.subscriptions.remove(&diverged.subscription.get());
                if subscribing {
                    self.outstanding.remove(diverged.request.get());
                    self.answered_uncredited(out);
                }
                Ok(())
            }
            _ => Err(Violation::OutOfPlace),
        }
    }

    fn notice(
        &mut self,
        id: SubscriptionId,
        notice: Notice,
        out: &mut Vec<Completion>,
    ) -> Result<(), Violation> {
        let Some(subscription) = self.subscriptions.get(&id.get()) else {
            return Err(Violation::UnknownSubscription);
        };
        if !subscription.ending {
            out.push(Completion::Subscription {
                owner: subscription.owner,
                subscription: id,
                notice,
            });
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        deliver: &frame::Deliver,
        frame: &Frame,
        out: &mut Vec<Completion>,
    ) -> Result<(), Violation> {
        let mut batches = Vec::new();
        if batch::split(frame.batch.as_slice(), &mut batches).is_none() {
            return Err(Violation::Frame(ErrorCode::BatchHeader));
        }
        let Some(subscription) = self.subscriptions.get_mut(&deliver.subscription.get()) else {
            return Err(Violation::UnknownSubscription);
        };
        let amount = Amount {
            bytes: batches.iter().map(|batch| batch.len() as u64).sum(),
            batches: batches.len() as u64,
        };
        match subscription.spent.checked_add(amount) {
            Some(spent) if subscription.granted.covers(spent) => subscription.spent = spent,
            Some(_) | None => return Err(Violation::Overspent),
        }
        self.notice(
            deliver.subscription,
            Notice::Delivered {
                epoch: deliver.epoch,
                end: deliver.end_offset,
                batches,
            },
            out,
        )
    }

    /// Ends whatever this request began; `false` when nothing of that name is outstanding.
    fn refused(&mut self, request: MessageId, refusal: Refusal, out: &mut Vec<Completion>) -> bool {
        let Some(asked) = self.outstanding.remove(request.get()) else {
            return self.subscription_refused(request, refusal, out);
        };
        let token = asked.token;
        match asked.kind {
            Asked::Produce { owner } => {
                out.push(Completion::ProduceRefused {
                    owner,
                    token,
                    refusal,
                });
                return true;
            }
            Asked::Question(_) => out.push(Completion::Refused { token, refusal }),
            Asked::Subscribe { id } => {
                if let Some(subscription) = self.subscriptions.remove(&id)
                    && !subscription.ending
                {
                    out.push(Completion::Subscription {
                        owner: subscription.owner,
                        subscription: SubscriptionId::new(id),
                        notice: Notice::Refused(refusal),
                    });
                }
                self.leaving.retain(|leaving| *leaving != id);
            }
            Asked::Unsubscribe { id } => {
                self.subscriptions.remove(&id);
            }
        }
        self.answered_uncredited(out);
        true
    }

    /// An error about a subscription that had begun names the request that began it.
    fn subscription_refused(
        &mut self,
        request: MessageId,
        refusal: Refusal,
        out: &mut Vec<Completion>,
    ) -> bool {
        let found = self
            .subscriptions
            .iter()
            .find(|(_, subscription)| subscription.request == request.get() && !subscription.ending)
            .map(|(number, subscription)| (*number, subscription.owner));
        let Some((number, owner)) = found else {
            return false;
        };
        self.subscriptions.remove(&number);
        out.push(Completion::Subscription {
            owner,
            subscription: SubscriptionId::new(number),
            notice: Notice::Refused(refusal),
        });
        true
    }

    /// The open subscriptions of a partition end: another shard leads it.
    fn moved(&mut self, key: PartitionKey, out: &mut Vec<Completion>) {
        self.subscriptions.retain(|number, subscription| {
            if subscription.key != key || subscription.ending {
                return true;
            }
            out.push(Completion::Subscription {
                owner: subscription.owner,
                subscription: SubscriptionId::new(*number),
                notice: Notice::Ended,
            });
            false
        });
    }

    fn error(&mut self, error: &frame::Error, out: &mut Vec<Completion>) -> Result<(), Violation> {
        let refusal = Refusal {
            code: error.code,
            detail_a: error.detail_a,
            detail_b: error.detail_b,
        };
        if error.request.get() != 0 && self.state == State::Open {
            self.refused(error.request, refusal, out);
        }
        if error.fatal {
            self.state = State::Ended;
            out.push(Completion::Ended(refusal));
        }
        Ok(())
    }
}

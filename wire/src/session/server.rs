//! The node's end of a client's session. Everything that arrives passes here first: phase, direction, order of message
//! ids, link credit, number of waiting requests, in that order; only then is a control section read.

use super::{Fault, MessageIds, Phase, Step};
use crate::assembly::Front;
use crate::credit::{Amount, Granter, Spender};
use crate::error::ErrorCode;
use crate::frame::{
    Credit, CreditScope, Goodbye, Hello, MetadataRequest, OffsetByTime, Ping, Pong, Produce,
    ProduceResume, StreamCreate, StreamDelete, StreamDescribe, StreamList, Subscribe, Unsubscribe,
    Welcome,
};
use crate::layout::ControlError;
use crate::link::{Kind, LINK_VERSION};
use tiderace_base::ids::{BootId, MessageId, NodeId, ShardId, ZoneId};
use tiderace_base::limits::{
    BATCH_RECORDS_MAX, BODY_BYTES_MAX, HANDSHAKE_NS_MAX, PRODUCER_WINDOW,
    UNCREDITED_OUTSTANDING_MAX,
};
use tiderace_base::position::CatalogueVersion;
use tiderace_base::time::Mono;

/// What a client asked, checked as far as a session can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The handshake: answer with [`Server::welcome`].
    Hello(Hello),
    /// Answer with a pong at once.
    Ping(Ping),
    /// The answer to a ping.
    Pong(Pong),
    /// Credit grew. That of the link is in the session already; that of a subscription is the owner's.
    Credit(Credit),
    /// The client begins nothing new.
    Goodbye(Goodbye),
    /// See [`MetadataRequest`].
    Metadata(MetadataRequest),
    /// See [`StreamCreate`].
    StreamCreate(StreamCreate),
    /// See [`StreamDescribe`].
    StreamDescribe(StreamDescribe),
    /// See [`StreamList`].
    StreamList(StreamList),
    /// See [`StreamDelete`].
    StreamDelete(StreamDelete),
    /// The frame's batch is to be appended; its size is spent, and comes back by [`Server::give_back`].
    Produce(Produce),
    /// See [`ProduceResume`].
    ProduceResume(ProduceResume),
    /// See [`Subscribe`].
    Subscribe(Subscribe),
    /// See [`Unsubscribe`].
    Unsubscribe(Unsubscribe),
    /// See [`OffsetByTime`].
    OffsetByTime(OffsetByTime),
}

/// Who the node is, for its welcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The zone.
    pub zone: ZoneId,
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub boot: BootId,
    /// The shard.
    pub shard: ShardId,
    /// How many shards the node has.
    pub shard_count: u16,
}

/// What a kind is to the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Hello,
    /// Asks for what is there; answered in every phase after the handshake.
    Ask,
    /// Begins something.
    Begin,
    /// Keeps what is there going.
    Keep,
    Goodbye,
    /// Published, not served by this release.
    Unserved,
    /// Never comes from a client.
    Foreign,
}

const fn class(kind: Kind) -> Class {
    match kind {
        Kind::Hello => Class::Hello,
        Kind::MetadataRequest | Kind::StreamDescribe | Kind::StreamList | Kind::OffsetByTime => {
            Class::Ask
        }
        Kind::StreamCreate
        | Kind::StreamDelete
        | Kind::Produce
        | Kind::ProduceResume
        | Kind::Subscribe => Class::Begin,
        Kind::Ping | Kind::Pong | Kind::Credit | Kind::Unsubscribe => Class::Keep,
        Kind::Goodbye => Class::Goodbye,
        Kind::GroupCommit | Kind::TaskTake | Kind::TaskSettle => Class::Unserved,
        Kind::Welcome
        | Kind::Error
        | Kind::Metadata
        | Kind::StreamCreated
        | Kind::StreamDescription
        | Kind::StreamListing
        | Kind::StreamDeleted
        | Kind::Produced
        | Kind::ProduceResumed
        | Kind::AckedLost
        | Kind::Subscribed
        | Kind::Deliver
        | Kind::Unsubscribed
        | Kind::OffsetOfTime
        | Kind::Gap
        | Kind::Diverged
        | Kind::Redirect
        | Kind::Loss
        | Kind::SlotFetch
        | Kind::SlotEntries
        | Kind::SlotAck
        | Kind::SlotSeal
        | Kind::SlotSealed
        | Kind::LeaseGrant
        | Kind::SlotSnapshotRequest
        | Kind::SlotSnapshot
        | Kind::SlotDiverged
        | Kind::SlotFenced
        | Kind::LeaseAsk
        | Kind::ControlLetter
        | Kind::GroupCommitted
        | Kind::TaskGive
        | Kind::TaskSettled => Class::Foreign,
    }
}

/// One session, at the node.
#[derive(Debug)]
pub struct Server {
    phase: Phase,
    deadline: Mono,
    ids: MessageIds,
    link: Granter,
    delivery: Option<Spender>,
    delivery_granted: Amount,
    delivered: Amount,
    outstanding: usize,
}

impl Server {
    /// A session that was accepted now and grants its link up to `window` at once.
    #[must_use]
    pub fn new(now: Mono, window: Amount) -> Self {
        Self {
            phase: Phase::Handshake,
            deadline: now.after_ns(HANDSHAKE_NS_MAX),
            ids: MessageIds::default(),
            link: Granter::new(window),
            delivery: None,
            delivery_granted: Amount::ZERO,
            delivered: Amount::ZERO,
            outstanding: 0,
        }
    }

    /// The table of transitions.
    #[must_use]
    pub const fn step(phase: Phase, kind: Kind) -> Step {
        // P-34
        match (phase, class(kind)) {
            (Phase::Handshake, Class::Hello) => Step::Take(Phase::Open),
            (
                Phase::Handshake,
                Class::Ask
                | Class::Begin
                | Class::Keep
                | Class::Goodbye
                | Class::Unserved
                | Class::Foreign,
            ) => Step::Refuse(ErrorCode::NotReady),
            (Phase::Open, Class::Ask | Class::Begin | Class::Keep) => Step::Take(Phase::Open),
            (Phase::Open | Phase::Draining, Class::Goodbye) => Step::Take(Phase::Draining),
            (Phase::Draining, Class::Ask | Class::Keep) => Step::Take(Phase::Draining),
            // P-52
            (Phase::Draining, Class::Begin) => Step::Refuse(ErrorCode::Draining),
            (Phase::Open | Phase::Draining, Class::Hello | Class::Unserved | Class::Foreign)
            | (
                Phase::Closed,
                Class::Hello
                | Class::Ask
                | Class::Begin
                | Class::Keep
                | Class::Goodbye
                | Class::Unserved
                | Class::Foreign,
            ) => Step::Refuse(ErrorCode::BadKind),
        }
    }

    /// Takes a frame by its front. A fault that is fatal closes the session.
    ///
    /// # Errors
    /// What is wrong. If it is not fatal, only this frame was refused: tell the client and go on.
    pub fn receive(&mut self, front: &Front) -> Result<Request, Fault> {
        let result = self.take(front);
        if result.as_ref().is_err_and(|fault| fault.is_fatal) {
            self.phase = Phase::Closed;
        }
        result
    }

    fn take(&mut self, front: &Front) -> Result<Request, Fault> {
        let header = &front.header;
        let kind = header.kind();
        let phase = self.phase;
        let fault = |code| Fault::of_frame(header, code).in_phase(phase);
        let step = Self::step(self.phase, kind);
        self.ids.take(header)?;
        let (next, is_draining) = match step {
            Step::Take(next) => (next, false),
            Step::Refuse(ErrorCode::Draining) => (phase, true),
            Step::Refuse(code) => return Err(fault(code)),
        };
        if kind == Kind::Produce {
            // P-40: a batch is paid for before anything is done with it, and even when it is refused.
            let amount = Amount::batch(header.batch_len() as u64);
            self.link.spend(amount).map_err(fault)?;
            if is_draining {
                self.link.give_back(amount);
            }
        }
        if is_draining {
            return Err(fault(ErrorCode::Draining));
        }
        if is_counted(kind) {
            // P-42
            if self.outstanding >= UNCREDITED_OUTSTANDING_MAX {
                return Err(fault(ErrorCode::TooManyOutstanding));
            }
        }
        let request = read(kind, &front.control).map_err(|_| fault(ErrorCode::BadControl))?;
        match &request {
            Request::Hello(hello) => {
                // P-35
                if !(hello.version_min..=hello.version_max).contains(&LINK_VERSION) {
                    return Err(fault(ErrorCode::BadVersion));
                }
            }
            Request::Credit(credit) => self.take_credit(credit).map_err(fault)?,
            Request::Ping(_)
            | Request::Pong(_)
            | Request::Goodbye(_)
            | Request::Metadata(_)
            | Request::StreamCreate(_)
            | Request::StreamDescribe(_)
            | Request::StreamList(_)
            | Request::StreamDelete(_)
            | Request::Produce(_)
            | Request::ProduceResume(_)
            | Request::Subscribe(_)
            | Request::Unsubscribe(_)
            | Request::OffsetByTime(_) => {}
        }
        self.phase = next;
        self.outstanding += usize::from(is_counted(kind));
        Ok(request)
    }

    fn take_credit(&mut self, credit: &Credit) -> Result<(), ErrorCode> {
        match credit.scope {
            CreditScope::Link => {
                let total = Amount {
                    bytes: credit.bytes_total,
                    batches: credit.batches_total,
                };
                // P-43: totals count from the session's start, what was delivered before the first grant included.
                let delivered = self.delivered;
                let spender = self
                    .delivery
                    .get_or_insert_with(|| Spender::resumed(delivered));
                spender.granted_to(total);
                self.delivery_granted = self.delivery_granted.max(total);
                Ok(())
            }
            CreditScope::Subscription => Ok(()),
            // Only producers have produce slots.
            CreditScope::ProduceSlot => Err(ErrorCode::BadControl),
        }
    }

    /// The welcome that answers a hello.
    #[must_use]
    pub fn welcome(&self, identity: Identity, catalogue_version: CatalogueVersion) -> Welcome {
        let granted = self.link.granted();
        Welcome {
            version: LINK_VERSION,
            shard: identity.shard,
            shard_count: identity.shard_count,
            features: 0,
            node: identity.node,
            boot: identity.boot,
            zone: identity.zone,
            catalogue_version,
            body_bytes_max: BODY_BYTES_MAX as u32,
            batch_records_max: BATCH_RECORDS_MAX,
            producer_window: PRODUCER_WINDOW as u32,
            uncredited_max: UNCREDITED_OUTSTANDING_MAX as u32,
            bytes_total: granted.bytes,
            batches_total: granted.batches,
        }
    }

    /// How far the session is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The id of the next frame to the client.
    pub fn next_message_id(&mut self) -> MessageId {
        self.ids.next()
    }

    /// When [`Server::timer`] wants to be called; `None` once the handshake is done.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        (self.phase == Phase::Handshake).then_some(self.deadline)
    }

    /// Closes the session when its handshake has taken too long.
    pub fn timer(&mut self, now: Mono) -> Option<Fault> {
        // P-36
        if self.phase == Phase::Handshake && now >= self.deadline {
            self.phase = Phase::Closed;
            return Some(Fault::of_connection(ErrorCode::HandshakeTimeout));
        }
        None
    }

    /// One request that no credit covers has its answer.
    ///
    /// # Panics
    /// When none was waiting.
    pub fn answered(&mut self) {
        self.outstanding = self
            .outstanding
            .checked_sub(1)
            .expect("only what was asked is answered");
    }

    /// Requests that wait and that no credit covers.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// A produced batch of this many bytes (header included) no longer takes room here.
    ///
    /// # Panics
    /// When more comes back than came.
    pub fn give_back(&mut self, batch_bytes: u64) {
        self.link.give_back(Amount::batch(batch_bytes));
    }

    /// The link credit to send, once a step is worth its frame.
    pub fn grant(&mut self) -> Option<Credit> {
        self.link.grant().map(|total| Credit {
            scope: CreditScope::Link,
            id: 0,
            bytes_total: total.bytes,
            batches_total: total.batches,
        })
    }

    /// What the link may have outstanding from now on.
    pub fn set_window(&mut self, window: Amount) {
        self.link.set_window(window);
    }

    /// The link's ledger.
    #[must_use]
    pub const fn link(&self) -> &Granter {
        &self.link
    }

    /// Whether the client's link credit covers so much.
    #[must_use]
    pub fn may_deliver(&self, amount: Amount) -> bool {
        self.delivery
            .as_ref()
            .is_none_or(|spender| spender.available().covers(amount))
    }

    /// Spends the client's link credit for batches to deliver; says whether there was enough. A client that never
    /// granted any limits its subscriptions only.
    #[must_use]
    pub fn try_deliver(&mut self, amount: Amount) -> bool {
        if let Some(spender) = &mut self.delivery
            && !spender.try_spend(amount)
        {
            return false;
        }
        self.delivered = self
            .delivered
            .checked_add(amount)
            .expect("totals outlast the connection");
        true
    }

    /// Batches that were to be delivered were not sent after all: their link credit can be spent again.
    ///
    /// # Panics
    /// When more is taken back than was delivered.
    pub fn take_back(&mut self, amount: Amount) {
        self.delivered = self
            .delivered
            .checked_sub(amount)
            .expect("only what was delivered is taken back");
        if let Some(spender) = &mut self.delivery {
            // P-43: what was delivered before the first grant counts; what was not sent does not, so it grants nothing.
            *spender = Spender::resumed(self.delivered);
            spender.granted_to(self.delivery_granted);
        }
    }

    /// The node begins nothing new; the owner says goodbye. Says whether the session was open.
    pub fn drain(&mut self) -> bool {
        match self.phase {
            Phase::Open => {
                self.phase = Phase::Draining;
                true
            }
            Phase::Handshake | Phase::Draining | Phase::Closed => false,
        }
    }

    /// Nothing is taken any more.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
    }
}

/// Whether a request counts against the limit of those that no credit covers. Not counted is what has no answer, or one
/// that is written at once.
#[must_use]
pub(super) const fn is_counted(kind: Kind) -> bool {
    matches!(class(kind), Class::Ask | Class::Begin) && !matches!(kind, Kind::Produce)
        || matches!(kind, Kind::Unsubscribe)
}

fn read(kind: Kind, control: &[u8]) -> Result<Request, ControlError> {
    Ok(match kind {
        Kind::Hello => Request::Hello(Hello::decode(control)?),
        Kind::Ping => Request::Ping(Ping::decode(control)?),
        Kind::Pong => Request::Pong(Pong::decode(control)?),
        Kind::Goodbye => Request::Goodbye(Goodbye::decode(control)?),
        Kind::Credit => Request::Credit(Credit::decode(control)?),
        Kind::MetadataRequest => Request::Metadata(MetadataRequest::decode(control)?),
        Kind::StreamCreate => Request::StreamCreate(StreamCreate::decode(control)?),
        Kind::StreamDescribe => Request::StreamDescribe(StreamDescribe::decode(control)?),
        Kind::StreamList => Request::StreamList(StreamList::decode(control)?),
        Kind::StreamDelete => Request::StreamDelete(StreamDelete::decode(control)?),
        Kind::Produce => Request::Produce(Produce::decode(control)?),
        Kind::ProduceResume => Request::ProduceResume(ProduceResume::decode(control)?),
        Kind::Subscribe => Request::Subscribe(Subscribe::decode(control)?),
        Kind::Unsubscribe => Request::Unsubscribe(Unsubscribe::decode(control)?),
        Kind::OffsetByTime => Request::OffsetByTime(OffsetByTime::decode(control)?),
        Kind::Welcome
        | Kind::Error
        | Kind::Metadata
        | Kind::StreamCreated
        | Kind::StreamDescription
        | Kind::StreamListing
        | Kind::StreamDeleted
        | Kind::Produced
        | Kind::ProduceResumed
        | Kind::AckedLost
        | Kind::Subscribed
        | Kind::Deliver
        | Kind::Unsubscribed
        | Kind::OffsetOfTime
        | Kind::Gap
        | Kind::Diverged
        | Kind::Redirect
        | Kind::Loss
        | Kind::SlotFetch
        | Kind::SlotEntries
        | Kind::SlotAck
        | Kind::SlotSeal
        | Kind::SlotSealed
        | Kind::LeaseGrant
        | Kind::SlotSnapshotRequest
        | Kind::SlotSnapshot
        | Kind::SlotDiverged
        | Kind::SlotFenced
        | Kind::LeaseAsk
        | Kind::ControlLetter
        | Kind::GroupCommit
        | Kind::GroupCommitted
        | Kind::TaskTake
        | Kind::TaskGive
        | Kind::TaskSettle
        | Kind::TaskSettled => unreachable!("the table takes only what is served"),
    })
}

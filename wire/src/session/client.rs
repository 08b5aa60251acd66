//! The client's end of a session. Keeps the link's credit and the few requests that may wait without credit, so that a
//! client built on it never breaks a rule for which a node would end the connection.

use super::server::is_counted;
use super::{Fault, MessageIds, Phase, Step};
use crate::assembly::Frame;
use crate::credit::{Amount, Spender};
use crate::error::ErrorCode;
use crate::frame::{
    AckedLost, Credit, CreditScope, Deliver, Diverged, Error, Gap, Goodbye, Loss, Metadata,
    OffsetOfTime, Ping, Pong, ProduceResumed, Produced, Redirect, StreamCreated, StreamDeleted,
    StreamDescription, StreamListing, Subscribed, Unsubscribed, Welcome,
};
use crate::layout::ControlError;
use crate::link::{Kind, LINK_VERSION};
use tiderace_base::ids::MessageId;
use tiderace_base::limits::UNCREDITED_OUTSTANDING_MAX;

/// What a node said, checked as far as a session can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer<'a> {
    /// The handshake is done.
    Welcome(Welcome),
    /// Answer with a pong at once.
    Ping(Ping),
    /// The answer to a ping.
    Pong(Pong),
    /// A request was refused, or the connection ends.
    Error(Error),
    /// The node begins nothing new.
    Goodbye(Goodbye),
    /// Credit grew. That of the link is in the session already.
    Credit(Credit),
    /// See [`Metadata`].
    Metadata(Metadata),
    /// See [`StreamCreated`].
    StreamCreated(StreamCreated),
    /// See [`StreamDescription`].
    StreamDescription(StreamDescription),
    /// See [`StreamListing`].
    StreamListing(StreamListing),
    /// See [`StreamDeleted`].
    StreamDeleted(StreamDeleted),
    /// See [`Produced`].
    Produced(Produced<'a>),
    /// See [`ProduceResumed`].
    ProduceResumed(ProduceResumed),
    /// See [`AckedLost`].
    AckedLost(AckedLost),
    /// See [`Subscribed`].
    Subscribed(Subscribed),
    /// See [`Deliver`]; the frame's batches are unchecked.
    Deliver(Deliver),
    /// See [`Unsubscribed`].
    Unsubscribed(Unsubscribed),
    /// See [`OffsetOfTime`].
    OffsetOfTime(OffsetOfTime),
    /// See [`Gap`].
    Gap(Gap),
    /// See [`Diverged`].
    Diverged(Diverged),
    /// See [`Redirect`].
    Redirect(Redirect),
    /// See [`Loss`].
    Loss(Loss),
}

/// What a kind is to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Welcome,
    /// Answers, or belongs to what is open.
    Answer,
    Error,
    Goodbye,
    /// Published, not sent by this release.
    Unserved,
    /// Never comes from a node.
    Foreign,
}

const fn class(kind: Kind) -> Class {
    match kind {
        Kind::Welcome => Class::Welcome,
        Kind::Error => Class::Error,
        Kind::Goodbye => Class::Goodbye,
        Kind::Ping
        | Kind::Pong
        | Kind::Credit
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
        | Kind::Loss => Class::Answer,
        Kind::GroupCommitted | Kind::TaskGive | Kind::TaskSettled => Class::Unserved,
        Kind::Hello
        | Kind::MetadataRequest
        | Kind::StreamCreate
        | Kind::StreamDescribe
        | Kind::StreamList
        | Kind::StreamDelete
        | Kind::Produce
        | Kind::ProduceResume
        | Kind::Subscribe
        | Kind::Unsubscribe
        | Kind::OffsetByTime
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
        | Kind::TaskTake
        | Kind::TaskSettle => Class::Foreign,
    }
}

/// One session, at the client.
#[derive(Debug)]
pub struct Client {
    phase: Phase,
    ids: MessageIds,
    link: Spender,
    /// Zero is a free place.
    waiting: [MessageId; UNCREDITED_OUTSTANDING_MAX],
    waiting_max: usize,
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A session before its hello, which takes the first message id.
    #[must_use]
    pub fn new() -> Self {
        Self {
            phase: Phase::Handshake,
            ids: MessageIds::default(),
            link: Spender::default(),
            waiting: [MessageId::new(0); UNCREDITED_OUTSTANDING_MAX],
            waiting_max: 0,
        }
    }

    /// The table of transitions.
    #[must_use]
    pub const fn step(phase: Phase, kind: Kind) -> Step {
        match (phase, class(kind)) {
            (Phase::Handshake, Class::Welcome) => Step::Take(Phase::Open),
            (Phase::Handshake, Class::Error | Class::Goodbye) => Step::Take(Phase::Closed),
            (Phase::Open, Class::Answer | Class::Error) => Step::Take(Phase::Open),
            (Phase::Open | Phase::Draining, Class::Goodbye) => Step::Take(Phase::Draining),
            (Phase::Draining, Class::Answer | Class::Error) => Step::Take(Phase::Draining),
            (Phase::Handshake, Class::Answer | Class::Unserved | Class::Foreign)
            | (Phase::Open | Phase::Draining, Class::Welcome | Class::Unserved | Class::Foreign)
            | (
                Phase::Closed,
                Class::Welcome
                | Class::Answer
                | Class::Error
                | Class::Goodbye
                | Class::Unserved
                | Class::Foreign,
            ) => Step::Refuse(ErrorCode::BadKind),
        }
    }

    /// Takes a frame. A fault that is fatal closes the session; so does an error that says so.
    ///
    /// # Errors
    /// What is wrong: a node that breaks the protocol. [`ErrorCode::BadControl`] leaves the framing whole.
    pub fn receive<'a>(&mut self, frame: &'a Frame) -> Result<Answer<'a>, Fault> {
        let result = self.take(frame);
        if result.as_ref().is_err_and(|fault| fault.is_fatal) {
            self.phase = Phase::Closed;
        }
        result
    }

    fn take<'a>(&mut self, frame: &'a Frame) -> Result<Answer<'a>, Fault> {
        let header = &frame.front.header;
        let kind = header.kind();
        let phase = self.phase;
        let fault = |code| Fault::of_frame(header, code).in_phase(phase);
        let step = Self::step(self.phase, kind);
        self.ids.take(header)?;
        let next = match step {
            Step::Take(next) => next,
            Step::Refuse(code) => return Err(fault(code)),
        };
        let answer = read(kind, &frame.front.control).map_err(|_| fault(ErrorCode::BadControl))?;
        self.phase = next;
        match &answer {
            Answer::Welcome(welcome) => {
                if welcome.version != LINK_VERSION {
                    return Err(fault(ErrorCode::BadVersion));
                }
                self.waiting_max =
                    (welcome.uncredited_max as usize).min(UNCREDITED_OUTSTANDING_MAX);
                self.link = Spender::new(Amount {
                    bytes: welcome.bytes_total,
                    batches: welcome.batches_total,
                });
            }
            Answer::Credit(credit) => {
                if credit.scope == CreditScope::Link {
                    self.link.granted_to(Amount {
                        bytes: credit.bytes_total,
                        batches: credit.batches_total,
                    });
                }
            }
            Answer::Error(error) => {
                self.forget(error.request);
                if error.fatal {
                    self.phase = Phase::Closed;
                }
            }
            Answer::Metadata(answer) => self.forget(answer.request),
            Answer::StreamCreated(answer) => self.forget(answer.request),
            Answer::StreamDescription(answer) => self.forget(answer.request),
            Answer::StreamListing(answer) => self.forget(answer.request),
            Answer::StreamDeleted(answer) => self.forget(answer.request),
            Answer::ProduceResumed(answer) => self.forget(answer.request),
            Answer::Subscribed(answer) => self.forget(answer.request),
            Answer::Unsubscribed(answer) => self.forget(answer.request),
            Answer::OffsetOfTime(answer) => self.forget(answer.request),
            Answer::Diverged(answer) => self.forget(answer.request),
            Answer::Redirect(answer) => self.forget(answer.request),
            Answer::Ping(_)
            | Answer::Pong(_)
            | Answer::Goodbye(_)
            | Answer::Produced(_)
            | Answer::AckedLost(_)
            | Answer::Deliver(_)
            | Answer::Gap(_)
            | Answer::Loss(_) => {}
        }
        Ok(answer)
    }

    fn forget(&mut self, request: MessageId) {
        for place in &mut self.waiting {
            if *place == request {
                *place = MessageId::new(0);
            }
        }
    }

    /// How far the session is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The id of the next frame to the node, for kinds that are not requests.
    pub fn next_message_id(&mut self) -> MessageId {
        self.ids.next()
    }

    /// The id of a request of this kind; `None` when as many wait as may, or nothing new may begin. Its answer frees its
    /// place.
    ///
    /// # Panics
    /// When the kind is no request that counts.
    pub fn begin_request(&mut self, kind: Kind) -> Option<MessageId> {
        assert!(is_counted(kind), "only requests without credit are counted");
        // P-42
        if self.waiting() >= self.waiting_max {
            return None;
        }
        let place = self.waiting.iter_mut().find(|place| place.get() == 0)?;
        let id = self.ids.next();
        *place = id;
        Some(id)
    }

    /// Requests that wait and that no credit covers.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.iter().filter(|place| place.get() != 0).count()
    }

    /// The id of a produce frame with a batch of this many bytes (header included); `None` when the link has no credit
    /// for it.
    pub fn begin_produce(&mut self, batch_bytes: u64) -> Option<MessageId> {
        (self.phase == Phase::Open && self.link.try_spend(Amount::batch(batch_bytes)))
            .then(|| self.ids.next())
    }

    /// The link's ledger.
    #[must_use]
    pub const fn link(&self) -> &Spender {
        &self.link
    }

    /// Nothing is taken any more.
    pub fn close(&mut self) {
        self.phase = Phase::Closed;
    }
}

fn read(kind: Kind, control: &[u8]) -> Result<Answer<'_>, ControlError> {
    Ok(match kind {
        Kind::Welcome => Answer::Welcome(Welcome::decode(control)?),
        Kind::Ping => Answer::Ping(Ping::decode(control)?),
        Kind::Pong => Answer::Pong(Pong::decode(control)?),
        Kind::Error => Answer::Error(Error::decode(control)?),
        Kind::Goodbye => Answer::Goodbye(Goodbye::decode(control)?),
        Kind::Credit => Answer::Credit(Credit::decode(control)?),
        Kind::Metadata => Answer::Metadata(Metadata::decode(control)?),
        Kind::StreamCreated => Answer::StreamCreated(StreamCreated::decode(control)?),
        Kind::StreamDescription => Answer::StreamDescription(StreamDescription::decode(control)?),
        Kind::StreamListing => Answer::StreamListing(StreamListing::decode(control)?),
        Kind::StreamDeleted => Answer::StreamDeleted(StreamDeleted::decode(control)?),
        Kind::Produced => Answer::Produced(Produced::decode(control)?),
        Kind::ProduceResumed => Answer::ProduceResumed(ProduceResumed::decode(control)?),
        Kind::AckedLost => Answer::AckedLost(AckedLost::decode(control)?),
        Kind::Subscribed => Answer::Subscribed(Subscribed::decode(control)?),
        Kind::Deliver => Answer::Deliver(Deliver::decode(control)?),
        Kind::Unsubscribed => Answer::Unsubscribed(Unsubscribed::decode(control)?),
        Kind::OffsetOfTime => Answer::OffsetOfTime(OffsetOfTime::decode(control)?),
        Kind::Gap => Answer::Gap(Gap::decode(control)?),
        Kind::Diverged => Answer::Diverged(Diverged::decode(control)?),
        Kind::Redirect => Answer::Redirect(Redirect::decode(control)?),
        Kind::Loss => Answer::Loss(Loss::decode(control)?),
        Kind::Hello
        | Kind::MetadataRequest
        | Kind::StreamCreate
        | Kind::StreamDescribe
        | Kind::StreamList
        | Kind::StreamDelete
        | Kind::Produce
        | Kind::ProduceResume
        | Kind::Subscribe
        | Kind::Unsubscribe
        | Kind::OffsetByTime
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
        | Kind::TaskSettled => unreachable!("the table takes only what a node sends"),
    })
}

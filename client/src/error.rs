//! Errors as small enums. Each variant says what happened and what to do next; nothing here is a string to be parsed.

use core::fmt;
use tiderace_base::ids::PartitionIndex;
use tiderace_base::position::{Epoch, Offset};
use tiderace_wire::error::{ErrorCode, Retry};

/// What a node said instead of doing what it was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Which rule it named.
    pub code: ErrorCode,
    /// First number of the code's detail; zero when it has none.
    pub detail_a: u64,
    /// Second number of the code's detail; zero when it has none.
    pub detail_b: u64,
}

impl Refusal {
    /// Whether and how the same request may be tried again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        self.code.retry()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the node refused: {:?}", self.code)?;
        if self.detail_a != 0 || self.detail_b != 0 {
            write!(f, " ({}, {})", self.detail_a, self.detail_b)?;
        }
        Ok(())
    }
}

/// What a peer sent that no node may send. The connection is closed; the client reconnects by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// Bytes that are not a frame of this protocol: check that the address is a Tiderace port.
    Frame(ErrorCode),
    /// A frame that may not arrive in this state of the session.
    OutOfPlace,
    /// An answer to something that was not asked.
    UnknownRequest,
    /// A delivery for a subscription that does not exist.
    UnknownSubscription,
    /// A delivery beyond the credit that was granted.
    Overspent,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(code) => write!(f, "the peer's bytes are not a valid frame: {code:?}"),
            Self::OutOfPlace => f.write_str("the peer sent a frame that may not arrive now"),
            Self::UnknownRequest => f.write_str("the peer answered what was not asked"),
            Self::UnknownSubscription => {
                f.write_str("the peer delivered to a subscription that does not exist")
            }
            Self::Overspent => f.write_str("the peer delivered more than it was granted"),
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// The client was closed: make a new one.
    Closed,
    /// No answer within the deadline. A change may have been made: look before asking again.
    Deadline,
    /// No address could be resolved or reached: check the addresses and the network.
    Unreachable,
    /// A node was reached, but not trusted, or it did not let this client in: `Tls::last_failure` says why.
    TlsFailed,
    /// The node refused: [`Refusal::retry`] says whether to ask again.
    Refused(Refusal),
    /// The peer broke the protocol: check that the address is a Tiderace port of a compatible version.
    Violation(Violation),
    /// As many requests wait as may: ask again when one is answered.
    TooMany,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the client is closed"),
            Self::Deadline => f.write_str("no answer within the deadline; it may have been done"),
            Self::Unreachable => f.write_str("no node could be reached"),
            Self::TlsFailed => f.write_str("no TLS connection could be made with the node"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Violation(violation) => violation.fmt(f),
            Self::TooMany => f.write_str("too many requests wait for an answer"),
        }
    }
}

/// Why a record was not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The producer was closed: make a new one.
    Closed,
    /// Not acknowledged within the deadline. `maybe_stored` says whether it may have been stored nevertheless.
    Deadline {
        /// False: it was certainly not stored, sending it again is safe. True: sending it again may store it twice.
        maybe_stored: bool,
    },
    /// The node refused it for good. It is not stored, with two exceptions by the refusal's code: with `DuplicateForgotten`
    /// it is, and only its place is forgotten, so do not send it again; with `SequenceReused` nobody can tell, because
    /// somebody else writes with this producer id. Otherwise mend the record or the request.
    Refused(Refusal),
    /// The answer to this batch was lost, and the node can no longer tell whether it is stored: it has forgotten producers
    /// meanwhile, or another session writes with this producer's id. Look at the stream before sending it again.
    OutcomeUnknown,
    /// The partition lost records that had been acknowledged (a fail-over that its durability allows). This record is
    /// not stored. Decide what to send again, beginning with the lost batches.
    AckedLost(AckedLost),
    /// A producer with the same id and a higher epoch took over: this one must not write any more.
    Fenced,
    /// This producer has begun again on this partition as often as a session can, 65535 times, each after a refusal: make
    /// a new one. This record is not stored.
    RestartsSpent,
    /// A record larger than a batch may be, or a key larger than a key may be: split it.
    TooLarge,
    /// The stream has no such partition.
    NoSuchPartition,
    /// The stream could not be found or reached.
    Stream(RequestError),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the producer is closed"),
            Self::Deadline { maybe_stored: true } => {
                f.write_str("not acknowledged within the deadline; it may be stored")
            }
            Self::Deadline {
                maybe_stored: false,
            } => f.write_str("not sent within the deadline; it is not stored"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::OutcomeUnknown => {
                f.write_str("the node cannot tell any more; the record may be stored")
            }
            Self::AckedLost(lost) => lost.fmt(f),
            Self::Fenced => f.write_str("a newer session of this producer took over"),
            Self::RestartsSpent => {
                f.write_str("the producer has begun again too often: make a new one")
            }
            Self::TooLarge => f.write_str("the record is larger than a batch may be"),
            Self::NoSuchPartition => f.write_str("the stream has no such partition"),
            Self::Stream(error) => error.fmt(f),
        }
    }
}

/// Batches that were acknowledged and are gone. Numbers are the producer's own, within one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AckedLost {
    /// Where.
    pub partition: PartitionIndex,
    /// The first lost batch.
    pub from_seq: u64,
    /// The last lost batch.
    pub to_seq: u64,
}

impl fmt::Display for AckedLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "partition {} lost acknowledged batches {} to {} of this producer",
            self.partition, self.from_seq, self.to_seq
        )
    }
}

/// Why a consumer cannot go on with a partition by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsumeError {
    /// The client was closed.
    Closed,
    /// What was read at the end of `partition` is no longer what the stream holds: the log of the older epoch ended at
    /// `end`. Undo what came at or after `end`, then seek there.
    Diverged {
        /// Where.
        partition: PartitionIndex,
        /// The epoch that now leads.
        epoch: Epoch,
        /// The first offset at which the two logs may differ.
        end: Offset,
    },
    /// A delivery skipped offsets without saying why. The consumer stopped before it: seek to go on.
    Jump {
        /// Where.
        partition: PartitionIndex,
        /// What should have come.
        expected: Offset,
        /// What came.
        found: Offset,
    },
    /// A batch whose checksums or body do not hold, here or on the node's disk. The consumer stopped before it: seek to read
    /// it again or to skip it.
    Damaged {
        /// Where.
        partition: PartitionIndex,
        /// The offset wanted from that batch.
        at: Offset,
    },
    /// The wanted offset is no longer, or not yet, in the partition: seek.
    OutOfRange {
        /// Where.
        partition: PartitionIndex,
        /// The refused position, as the node explained it.
        refusal: Refusal,
    },
    /// The node refused the subscription for good.
    Refused {
        /// Where.
        partition: PartitionIndex,
        /// Why.
        refusal: Refusal,
    },
    /// A batch with a codec that this client does not read: use a client that does.
    Codec {
        /// Where.
        partition: PartitionIndex,
        /// The first offset of that batch.
        at: Offset,
    },
    /// The stream could not be found or reached.
    Stream(RequestError),
}

impl fmt::Display for ConsumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the client is closed"),
            Self::Diverged {
                partition,
                epoch,
                end,
            } => write!(
                f,
                "partition {partition} diverged: epoch {epoch} leads and shares the log up to {end}"
            ),
            Self::Jump {
                partition,
                expected,
                found,
            } => write!(
                f,
                "partition {partition} skipped from {expected} to {found} without a gap"
            ),
            Self::Damaged { partition, at } => {
                write!(f, "partition {partition} holds a damaged batch at {at}")
            }
            Self::OutOfRange { partition, refusal } | Self::Refused { partition, refusal } => {
                write!(f, "partition {partition}: {refusal}")
            }
            Self::Codec { partition, at } => {
                write!(f, "partition {partition} holds an unknown codec at {at}")
            }
            Self::Stream(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}
impl std::error::Error for Violation {}
impl std::error::Error for RequestError {}
impl std::error::Error for SendError {}
impl std::error::Error for AckedLost {}
impl std::error::Error for ConsumeError {}

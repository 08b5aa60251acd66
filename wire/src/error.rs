//! Every error that crosses a link, with its number, what the peer should do and whether the connection ends. A
//! violation of framing, order or credit ends it; anything wrong with one request costs that request only.

use crate::layout::coded;
use core::fmt;

coded!(
    /// What a peer may do after an error.
    pub enum Retry: u8 {
        /// Nothing: the same request fails again.
        Never = 0,
        /// Send the same request again, later or after what the message asks for.
        Later = 1,
        /// Ask for the metadata again, then send the request to where it says.
        Refresh = 2,
        /// Connect again.
        Reconnect = 3,
    }
);

macro_rules! codes {
    ($( $name:ident = $code:literal, $retry:ident, $end:ident, $meaning:literal; )*) => {
        coded!(
            /// Why a request was refused or a connection ended.
            pub enum ErrorCode: u16 {
                $( #[doc = $meaning] $name = $code, )*
            }
        );

        impl ErrorCode {
            /// What the peer may do.
            #[must_use]
            pub const fn retry(self) -> Retry {
                match self {
                    $( Self::$name => Retry::$retry, )*
                }
            }

            /// Whether the connection ends behind it.
            #[must_use]
            pub const fn is_fatal(self) -> bool {
                // P-50
                match self {
                    $( Self::$name => codes!(@ $end), )*
                }
            }
        }
    };
    (@ ends) => { true };
    (@ stays) => { false };
}

codes! {
    BadMagic = 1, Never, ends, "What arrived is not a link header: the peer speaks another protocol.";
    BadVersion = 2, Never, ends, "No common version of the protocol: upgrade the older side.";
    BadChecksum = 3, Reconnect, ends, "A link header or control section is damaged: connect again.";
    BadLength = 4, Never, ends, "A length is outside the bounds of its kind.";
    BadKind = 5, Never, ends, "A kind that is unknown, or that this side may not send now.";
    BadFlags = 6, Never, ends, "A flag or reserved bit that means nothing in this version.";
    BadControl = 7, Never, stays, "A control section that is not one of its kind.";
    NotReady = 8, Reconnect, ends, "The first frame must be a hello.";
    HandshakeTimeout = 9, Reconnect, ends, "The hello was not complete in time.";
    NoCredit = 10, Reconnect, ends, "More was sent than was granted: a sender that overspends lies about its ledger.";
    TooManyOutstanding = 11, Later, stays, "More uncredited requests are waiting than the limit: wait for an answer first.";
    TooManyConnections = 12, Reconnect, ends, "The shard has as many connections as it may: try another shard, or later.";
    MessageIdOrder = 13, Reconnect, ends, "A message id is not greater than the one before.";
    UnknownStream = 20, Refresh, stays, "There is no such stream here.";
    UnknownPartition = 21, Refresh, stays, "The stream has no such partition.";
    NotLeader = 22, Refresh, stays, "Another node leads the partition: ask for the metadata again.";
    FencedEpoch = 23, Refresh, stays, "The request carries an epoch that has ended.";
    StreamExists = 24, Never, stays, "The path belongs to a stream with other properties.";
    BadPath = 25, Never, stays, "A path is empty, too long, or holds what paths do not have.";
    BadPartitions = 26, Never, stays, "A stream has between one partition and the limit.";
    TooManyStreams = 27, Never, stays, "The zone holds as many streams as it may.";
    Busy = 28, Later, stays, "Too much is waiting here already: send it again a little later.";
    BatchHeader = 30, Never, stays, "A batch header that contradicts itself, is unknown, or claims a place.";
    BatchChecksum = 31, Later, stays, "A batch is damaged: send it again.";
    BatchBody = 32, Never, stays, "The body is not an archive of as many records as the header says.";
    BatchTooLarge = 33, Never, stays, "The body is empty or larger than the limit: send smaller batches.";
    SequenceGap = 34, Later, stays, "A batch of this producer is missing: detail_a is the sequence that is expected next.";
    ProducerUnknown = 35, Never, stays, "The producer is not known here, or may have been forgotten: go on under a new producer epoch, from sequence 0. detail_a is the offset to name as since.";
    ProducerFenced = 36, Never, stays, "A higher epoch of this producer has begun: this session of it has ended.";
    DuplicateForgotten = 37, Never, stays, "A number so old that its acknowledgement is no longer known: a batch of this number was appended once.";
    ReadOnly = 38, Later, stays, "The disk is full: free some; it recovers by itself.";
    CodecRefused = 39, Never, stays, "The stream does not take this codec: send the body uncompressed.";
    OffsetBelowStart = 40, Never, stays, "The offset is no longer kept: detail_a is the first that is.";
    OffsetBeyondEnd = 41, Never, stays, "The offset does not exist yet: detail_a is the end.";
    SubscriptionExists = 42, Never, stays, "The connection has a subscription of this number: choose another.";
    UnknownSubscription = 43, Never, stays, "The connection has no subscription of this number.";
    TooManySubscriptions = 44, Never, stays, "The connection, or its shard, has as many subscriptions as it may.";
    Damaged = 45, Later, stays, "Records cannot be read here: detail_a to detail_b are the offsets; another replica may have them.";
    Draining = 46, Reconnect, stays, "The node is going away: connect to another.";
    DurabilityUnavailable = 47, Later, stays, "Too few replicas are reachable for the stream's durability.";
    CatalogueUnavailable = 49, Later, stays, "Nobody leads the zone's catalogue with a majority of its voters behind it, or the answer was lost: the change may have been made or not. Ask again.";
    SequenceReused = 48, Never, stays, "Another batch was appended under this number: somebody else writes with this producer id and epoch. Take another id.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.meaning())
    }
}

impl core::error::Error for ErrorCode {}

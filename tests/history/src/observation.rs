//! What was seen from outside: by the clients, over the wire, and by whoever watches the nodes come and go. Properties
//! judge nothing else, so that they hold for any program that speaks the protocol, and so that a test can plant a
//! history that must not be. The names here are those of the history format (docs/consistency.md).

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use tiderace_base::catalogue::Durability;
use tiderace_base::ids::PartitionKey;

/// A batch, as its producer names it: retries carry the same name. Whoever keeps no batches names what it sends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchName {
    /// Where it belongs.
    #[serde(with = "text::partition")]
    pub partition: PartitionKey,
    /// Who made it.
    #[serde(with = "text::hex128")]
    pub producer: u128,
    /// The producer's own fence.
    pub producer_epoch: u32,
    /// Its number within these.
    pub seq: u64,
}

impl BatchName {
    /// Whether its producer has no id, and so numbers nothing: then `seq` is the digest of its content, and each sending of
    /// it may be appended. P-13
    #[must_use]
    pub const fn is_nameless(&self) -> bool {
        self.producer == 0
    }
}

/// One subscription of one connection: it starts somewhere and reads on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reader(#[serde(with = "text::hex64")] pub u64);

/// Whose spending a ledger bounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The node grants, the client spends on batches that it produces.
    Produce,
    /// The client grants, the node spends on batches that it delivers to this subscription.
    Deliver(u32),
}

/// A credit ledger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// The connection, by a number of its own.
    pub link: u32,
    /// Which of its ledgers.
    pub scope: Scope,
}

/// Bytes and batches; cumulative where a total is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credit {
    /// In bytes.
    pub bytes: u64,
    /// In batches.
    pub batches: u64,
}

/// Declares the observations and, beside them, their kinds.
macro_rules! observations {
    ($($(#[$meta:meta])* $name:ident $({ $($body:tt)* })?,)*) => {
        /// What was seen.
        #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case", deny_unknown_fields)]
        pub enum Observation {
            $($(#[$meta])* $name $({ $($body)* })?,)*
        }

        /// What kind of thing was seen.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Kind {
            $(#[doc = concat!("See [`Observation::", stringify!($name), "`].")] $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }

        impl Observation {
            /// Its kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$name { .. } => Kind::$name,)*
                }
            }
        }
    };
}

observations! {
    /// A node's process started to serve, or at least to run.
    NodeStarted {
        /// Which node.
        node: u16,
    },
    /// A node's process ended.
    NodeDied {
        /// Which node.
        node: u16,
        /// Whether its power was lost.
        power: bool,
        /// Whether it ended in order, because it was asked to.
        stopped: bool,
    },
    /// A connection was lost and nobody saw why: the node's process may have ended.
    LinkLost {
        /// Which node.
        node: u16,
    },
    /// A node was asked to end in order.
    StopAsked {
        /// Which node.
        node: u16,
        /// When, in nanoseconds of the history's clock.
        at_ns: u64,
    },
    /// A node said goodbye to a subscriber, and then the connection ended.
    DrainedTo {
        /// The subscriber.
        reader: Reader,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// The next offset that it would have had.
        next: u64,
        /// When it heard the end, in nanoseconds of the history's clock.
        at_ns: u64,
        /// Whether it was one: everything that was sent had arrived.
        in_order: bool,
    },
    /// Faults ended.
    Healed,
    /// A node was asked what it holds of streams that its catalogue does not know.
    Strangers {
        /// Which node.
        node: u16,
        /// Partitions.
        partitions: u64,
    },
    /// A node was asked what one of its parts holds of its share of the memory.
    MemoryHeld {
        /// Which node.
        node: u16,
        /// Which of its shards.
        shard: u16,
        /// Which part: a name that ends in its unit.
        part: Cow<'static, str>,
        /// How much it holds.
        held: u64,
        /// The most that it may hold.
        budget: u64,
    },
    /// A stream exists.
    StreamKnown {
        /// Its id.
        stream: u64,
        /// What its acknowledgements promise.
        #[serde(with = "text::durability")]
        durability: Durability,
        /// Whether old records may go away.
        trims: bool,
    },
    /// How old an answer about a stream's end may be. Without it, an answer is never old.
    StalenessDeclared {
        /// The stream.
        stream: u64,
        /// Nanoseconds.
        staleness_ns_max: u64,
    },
    /// What a stream keeps at the least. Both zero: everything.
    RetentionDeclared {
        /// The stream.
        stream: u64,
        /// Bytes of the newest batches of each partition; zero for no bound.
        bytes: u64,
        /// Milliseconds since a batch was appended; zero for no bound.
        age_ms: u64,
    },
    /// A node's wall clock was set to another time. Without it, clocks only tick.
    ClockSet {
        /// Which node.
        node: u16,
    },
    /// A stream belongs to a tenant.
    StreamOwned {
        /// The stream.
        stream: u64,
        /// Its tenant.
        tenant: u32,
    },
    /// A reader has shown whose it is, by an identity that was verified.
    ReaderOwned {
        /// Who.
        reader: Reader,
        /// Its tenant.
        tenant: u32,
    },
    /// A producer sent a batch, for the first time or again.
    Submitted {
        /// The batch.
        batch: BatchName,
        /// The slot epoch that the producer claims to know; zero for none.
        epoch: u32,
        /// How many records it has.
        records: u32,
        /// A digest of its content.
        #[serde(with = "text::hex64")]
        digest: u64,
    },
    /// How many bytes a batch is in its partition. Before it is sent for the first time.
    BatchWeighed {
        /// The batch.
        batch: BatchName,
        /// Bytes, header and body.
        bytes: u64,
    },
    /// A producer was told that its batch is safe.
    Acknowledged {
        /// The batch.
        batch: BatchName,
        /// The offset of its first record.
        offset: u64,
        /// The slot epoch in which it was accepted.
        epoch: u32,
        /// The node had it already.
        duplicate: bool,
    },
    /// A producer was told that one sending of its batch was not appended, for certain.
    Refused {
        /// The batch.
        batch: BatchName,
    },
    /// A producer has given up on a batch and does not know what became of it. No failure: it may be there.
    Indeterminate {
        /// The batch.
        batch: BatchName,
    },
    /// A reader asks to be positioned: what it will be told is no older than this.
    Asked {
        /// Who.
        reader: Reader,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
    },
    /// A subscription begins, or begins anew.
    Positioned {
        /// Who.
        reader: Reader,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// The offset that comes first.
        next: u64,
        /// The oldest offset that is kept.
        start: u64,
        /// The end of what may be seen.
        end: u64,
    },
    /// A batch was delivered.
    Delivered {
        /// To whom.
        reader: Reader,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// The batch; `None` when its producer has no name, or is not one of the history.
        batch: Option<BatchName>,
        /// The offset of its first record.
        offset: u64,
        /// How many records it has.
        records: u32,
        /// A digest of its content.
        #[serde(with = "text::hex64")]
        digest: u64,
        /// The epoch in which it was accepted.
        epoch: u32,
        /// When it was appended, by the node's wall clock.
        append_time_us: u64,
    },
    /// A subscriber was told that a range is gone.
    GapTold {
        /// Who.
        reader: Reader,
        /// The first offset that is gone.
        from: u64,
        /// The first that is not.
        to: u64,
    },
    /// A reader has reached the end and reports what it has read from where it began.
    ReadThrough {
        /// Who.
        reader: Reader,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// The end that it reached.
        end: u64,
    },
    /// A ledger begins with nothing granted and nothing spent.
    LedgerOpened {
        /// Which.
        ledger: Ledger,
        /// The most that may be granted and not yet spent.
        window: Credit,
    },
    /// A grant, as a total since the ledger began.
    Granted {
        /// Which ledger.
        ledger: Ledger,
        /// The total.
        total: Credit,
    },
    /// Something was spent, as a total since the ledger began.
    Spent {
        /// Which ledger.
        ledger: Ledger,
        /// The total.
        total: Credit,
    },
    /// Everything that was sent has been answered: what is left must let the sender go on.
    Settled {
        /// Which ledger.
        ledger: Ledger,
        /// The least that must be left.
        least: Credit,
    },
    /// A node said something that the protocol does not allow.
    ProtocolBroken {
        /// What.
        what: String,
    },
    /// A node says that it holds a batch, and not where.
    Stored {
        /// Which.
        batch: BatchName,
    },
    /// A node no longer knows what it had acknowledged to a producer.
    Forgotten {
        /// The newest batch that was acknowledged.
        batch: BatchName,
    },
    /// A reader was told that its past is another one, or that records it may have seen are gone.
    PastChanged {
        /// Who.
        reader: Reader,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// Where the pasts part.
        from: u64,
    },
    /// A group's member asks to move the group's position, forwards or back.
    GroupMoveAsked {
        /// The group.
        #[serde(with = "text::hex128")]
        group: u128,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// Names this wish.
        wish: u64,
        /// The next offset that the group wants.
        offset: u64,
    },
    /// The group's position is moved as asked.
    GroupMoved {
        /// The group.
        #[serde(with = "text::hex128")]
        group: u128,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// Which wish.
        wish: u64,
    },
    /// A member was told where its group stands, having asked after everything before in the history.
    GroupStands {
        /// The group.
        #[serde(with = "text::hex128")]
        group: u128,
        /// Of what.
        #[serde(with = "text::partition")]
        partition: PartitionKey,
        /// The next offset that the group wants.
        offset: u64,
    },
    /// The run is over.
    Finished {
        /// What clients still wait for.
        waiting: Vec<String>,
    },
}

mod text {
    //! How ids look in a history: numbers that may need more than 53 bits are hexadecimal texts, a partition is
    //! `stream/partition`, a durability its name.

    macro_rules! hex {
        ($name:ident, $number:ty) => {
            pub(super) mod $name {
                //! A number as a hexadecimal text without a prefix.

                use serde::{Deserialize, Deserializer, Serializer, de::Error};
                use std::borrow::Cow;
                pub(crate) fn serialize<S: Serializer>(
                    number: &$number,
                    to: S,
                ) -> Result<S::Ok, S::Error> {
                    to.collect_str(&format_args!("{number:x}"))
                }

                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                    from: D,
                ) -> Result<$number, D::Error> {
                    let text = Cow::<str>::deserialize(from)?;
                    <$number>::from_str_radix(&text, 16)
                        .map_err(|_| D::Error::custom(format!("{text:?} is no hexadecimal number")))
                }
            }
        };
    }

    hex!(hex64, u64);
    hex!(hex128, u128);

    pub(super) mod partition {
        //! A partition as `stream/partition`, both decimal.

        use serde::{Deserialize, Deserializer, Serializer, de::Error};
        use std::borrow::Cow;
        use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};

        pub(crate) fn serialize<S: Serializer>(
            key: &PartitionKey,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            to.collect_str(key)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<PartitionKey, D::Error> {
            let text = Cow::<str>::deserialize(from)?;
            let parse = || {
                let (stream, partition) = text.split_once('/')?;
                Some(PartitionKey {
                    stream: StreamId::new(stream.parse().ok()?),
                    partition: PartitionIndex::new(partition.parse().ok()?),
                })
            };
            parse().ok_or_else(|| D::Error::custom(format!("{text:?} is no partition")))
        }
    }

    pub(super) mod durability {
        //! A durability by its name.

        use serde::{Deserialize, Deserializer, Serializer, de::Error};
        use std::borrow::Cow;
        use tiderace_base::catalogue::Durability;

        const NAMES: [(Durability, &str); 3] = [
            (Durability::Memory, "memory"),
            (Durability::Local, "local"),
            (Durability::Quorum, "quorum"),
        ];
        pub(crate) fn serialize<S: Serializer>(
            durability: &Durability,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            let named = NAMES.iter().find(|(named, _)| named == durability);
            to.serialize_str(named.map_or("", |(_, name)| name))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Durability, D::Error> {
            let text = Cow::<str>::deserialize(from)?;
            NAMES
                .iter()
                .find(|(_, name)| *name == text)
                .map(|(named, _)| *named)
                .ok_or_else(|| D::Error::custom(format!("{text:?} is no durability")))
        }
    }
}

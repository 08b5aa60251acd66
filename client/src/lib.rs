//! The Rust SDK of Tiderace: a [`core`] without IO that holds every rule of the session, and a tokio driver around it.
//!
//! ```no_run
//! use tiderace_client::{Client, From, Item, Options, ProducerOptions, Record, StreamOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("127.0.0.1:7600", Options::default()).await?;
//! client.create_stream("shop/orders", StreamOptions { partitions: 8, ..Default::default() }).await?;
//!
//! let producer = client.producer("shop/orders", ProducerOptions::default());
//! let ack = producer.send(Record::new("paid").key("order-17")).await?;
//! println!("stored in partition {} at offset {}", ack.partition, ack.offset);
//!
//! let mut consumer = client.subscribe("shop/orders", From::Earliest).start();
//! while let Some(item) = consumer.next().await {
//!     if let Item::Batch(batch) = item? {
//!         for record in batch.records()? {
//!             println!("{:?} = {:?}", record.key(), record.value());
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//!
//! - An acknowledged record is stored as the stream's durability says. A record is stored once, however often the
//!   connection broke on its way; where that cannot be known the error says so.
//! - Records of one partition are stored in the order in which they were accepted, and read in the order of their
//!   offsets, without holes that are not told.
//! - Everything is bounded: what waits has a deadline, what is held has a limit, and a sender at its limit waits
//!   ([`Producer::send`]) or is told ([`Producer::try_send`]).
//!
//! # Runtimes
//!
//! Any tokio runtime, with one thread or many. All futures may be dropped at any time.
#![forbid(unsafe_code)]

pub mod core;
mod driver;
pub mod error;
mod record;

pub use crate::core::backoff::Backoff;
pub use crate::core::batch::{Batch, RecordView, Records};
pub use crate::core::consumer::{From, Item};
pub use crate::core::engine::Place;
pub use crate::core::producer::SessionEpoch;
pub use driver::{
    Ack, AckFuture, Client, Consumer, Options, Partition, Producer, ProducerOptions, StreamInfo,
    StreamOptions, Subscribe, Tls, TlsError, TrySendError,
};
pub use error::{AckedLost, ConsumeError, Refusal, RequestError, SendError, Violation};
pub use record::Record;
pub use tiderace_base::catalogue::{Durability, Retention, Stream};
pub use tiderace_base::ids::{PartitionIndex, ProducerId, StreamId, TenantId};
pub use tiderace_base::position::{Epoch, Offset};
pub use tiderace_wire::body::BodyError;
pub use tiderace_wire::error::{ErrorCode, Retry};

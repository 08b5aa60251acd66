//! Streams: create, describe, list, delete, and where their partitions stand. Each call is one request or, where an answer
//! comes in pages or from several shards, as many as it takes.

use super::Client;
use crate::core::connection::Answer;
use crate::core::engine::{Place, Reply, Request};
use crate::error::{Refusal, RequestError, Violation};
use std::collections::BTreeMap;
use tiderace_base::catalogue::{Durability, Retention, Stream};
use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId, TenantId};
use tiderace_base::position::{Epoch, Offset};
use tiderace_wire::error::ErrorCode;

const OUT_OF_PLACE: RequestError = RequestError::Violation(Violation::OutOfPlace);

/// How a stream is created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamOptions {
    /// How many partitions, from 1 on. Never changes.
    pub partitions: u32,
    /// What an acknowledgement promises; `None` takes the zone's default.
    pub durability: Option<Durability>,
    /// Who pays.
    pub tenant: TenantId,
    /// How much is kept.
    pub retention: Retention,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            partitions: 1,
            durability: None,
            tenant: TenantId::new(0),
            retention: Retention::default(),
        }
    }
}

/// A partition as its leader described it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Partition {
    /// Which.
    pub partition: PartitionIndex,
    /// Where it is led; `None`: nowhere, for now.
    pub place: Option<Place>,
    /// The first offset that is kept, and one past the last visible one; `None` when its leader could not be asked.
    pub offsets: Option<(Offset, Offset)>,
}

/// A stream and its partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamInfo {
    /// The stream.
    pub stream: Stream,
    /// By number.
    pub partitions: Vec<Partition>,
}

impl Client {
    /// Creates a stream. Creating the same stream again is no error.
    ///
    /// # Errors
    /// [`RequestError::Refused`] names what is wrong with the path or the options.
    pub async fn create_stream(
        &self,
        path: &str,
        options: StreamOptions,
    ) -> Result<Stream, RequestError> {
        let request = Request::Create {
            path: path.into(),
            partitions: options.partitions,
            durability: options.durability,
            tenant: options.tenant,
            retention: options.retention,
        };
        match self.ask(request).await?.answer {
            Answer::Created(stream) => Ok(*stream),
            _ => Err(OUT_OF_PLACE),
        }
    }

    /// Deletes a stream, by the id that [`Client::create_stream`] or a listing gave.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn delete_stream(&self, stream: StreamId) -> Result<(), RequestError> {
        match self.ask(Request::Delete { stream }).await?.answer {
            Answer::Deleted => Ok(()),
            _ => Err(OUT_OF_PLACE),
        }
    }

    /// A page of streams in the order of their paths: those after `after` (empty: from the first), at most `limit`; and
    /// whether more follow.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn list_streams(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<(Vec<Stream>, bool), RequestError> {
        let request = Request::List {
            after: after.into(),
            limit,
        };
        match self.ask(request).await?.answer {
            Answer::Listing(page) => Ok((page.streams, page.more)),
            _ => Err(OUT_OF_PLACE),
        }
    }

    /// A stream and where its partitions are led, without asking their leaders.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn metadata(&self, path: &str) -> Result<StreamInfo, RequestError> {
        let mut first = 0;
        let mut found: Option<Stream> = None;
        let mut partitions = Vec::new();
        loop {
            let request = Request::Metadata {
                path: path.into(),
                first_partition: PartitionIndex::new(first),
            };
            let Reply { link, answer } = self.ask(request).await?;
            let Answer::Metadata(page) = answer else {
                return Err(OUT_OF_PLACE);
            };
            let places = self.shared.lock().engine.places_in(link, &page);
            let next = places.last().map(|(partition, _)| partition.get() + 1);
            partitions.extend(places.into_iter().map(|(partition, place)| Partition {
                partition,
                place,
                offsets: None,
            }));
            let more = page.more;
            found = page.stream.or(found);
            match next {
                // A page that does not advance would be asked for without end.
                Some(next) if more && next > first => first = next,
                _ => break,
            }
        }
        let stream = found.ok_or(OUT_OF_PLACE)?;
        Ok(StreamInfo { stream, partitions })
    }

    /// A stream with its partitions' offsets, asked of every shard that leads one.
    ///
    /// # Errors
    /// [`RequestError`] when the stream cannot be read at all. A leader that does not answer leaves its partitions'
    /// offsets unknown.
    pub async fn describe_stream(&self, path: &str) -> Result<StreamInfo, RequestError> {
        let mut info = self.metadata(path).await?;
        let mut shards = BTreeMap::new();
        for partition in &info.partitions {
            if let Some(place) = partition.place {
                shards.entry((place.node, place.shard)).or_insert(place);
            }
        }
        for place in shards.into_values() {
            let mut first = 0;
            loop {
                let request = Request::Describe {
                    path: path.into(),
                    first_partition: PartitionIndex::new(first),
                };
                let answered = self
                    .asking(|engine, now| engine.request_at(now, place, request))
                    .await;
                let page = match answered {
                    Ok(Reply {
                        answer: Answer::Description(page),
                        ..
                    }) => page,
                    Ok(_) => return Err(OUT_OF_PLACE),
                    Err(error @ (RequestError::Closed | RequestError::Violation(_))) => {
                        return Err(error);
                    }
                    Err(_) => break,
                };
                for row in &page.partitions {
                    let index = row.partition.get() as usize;
                    if let Some(partition) = info.partitions.get_mut(index) {
                        partition.offsets = Some((row.start, row.end));
                    }
                }
                match page.partitions.last() {
                    Some(last) if page.more && last.partition.get() >= first => {
                        first = last.partition.get() + 1;
                    }
                    _ => break,
                }
            }
        }
        Ok(info)
    }

    /// The first offset of a partition that was appended at or after `time_us` (microseconds since 1970), with its time
    /// and epoch. Where everything is older: the end, without a time.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn offset_by_time(
        &self,
        path: &str,
        partition: PartitionIndex,
        time_us: u64,
    ) -> Result<(Offset, Option<u64>, Epoch), RequestError> {
        let info = self.metadata(path).await?;
        let refused = |code| {
            RequestError::Refused(Refusal {
                code,
                detail_a: 0,
                detail_b: 0,
            })
        };
        let row = info
            .partitions
            .get(partition.get() as usize)
            .ok_or(refused(ErrorCode::UnknownPartition))?;
        let place = row.place.ok_or(refused(ErrorCode::NotLeader))?;
        let request = Request::OffsetByTime {
            key: PartitionKey {
                stream: info.stream.id,
                partition,
            },
            time_us,
        };
        let reply = self
            .asking(|engine, now| engine.request_at(now, place, request))
            .await?;
        match reply.answer {
            Answer::OffsetOfTime {
                offset,
                append_time_us,
                epoch,
            } => Ok((offset, append_time_us, epoch)),
            _ => Err(OUT_OF_PLACE),
        }
    }
}

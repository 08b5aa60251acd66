//! Which partition the next batch goes to, where that is not simply the next one: by the key that its first record has,
//! and by the stream. What is drawn is drawn before the load begins, from the seed, and then used round and round, so that
//! sending draws nothing and allocates nothing. Each draw knows the next one of the same partition: the records of a batch
//! take the keys that really belong together.

use crate::setup::{Place, Target};
use clap::ValueEnum;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tiderace_base::hash::partition_of_key;
use tiderace_base::prng::Prng;

/// Bytes of each record's key.
pub(crate) const KEY_BYTES: usize = 16;
/// Draws at least: with fewer the tail of a distribution would be missing.
const DRAWS_MIN: usize = 1 << 16;
/// Draws at most: 64 MiB of them.
const DRAWS_MAX: usize = 1 << 22;
/// Draws for each partition, within these bounds.
const DRAWS_PER_PLACE: usize = 16;
/// Keys or streams that a distribution may be over.
pub(crate) const RANKS_MAX: u64 = 10_000_000;

/// How records are keyed, and so how batches are spread over the partitions of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Keys {
    /// Every record has a random key; the partitions take turns.
    Even,
    /// Every key is drawn as often; the key decides the partition, as the client does it.
    Uniform,
    /// The key of rank k is drawn in proportion to 1 / k^theta; the key decides the partition.
    Zipf,
    /// No record has a key; the partitions take turns.
    Unkeyed,
}

impl Keys {
    /// Whether records have keys.
    #[must_use]
    pub(crate) const fn keyed(self) -> bool {
        !matches!(self, Self::Unkeyed)
    }

    const fn decides(self) -> bool {
        matches!(self, Self::Uniform | Self::Zipf)
    }
}

/// How batches are spread over streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Spread {
    /// All as often.
    Even,
    /// The stream of rank k in proportion to 1 / k^theta.
    Zipf,
}

/// What decides where batches go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Choice {
    pub(crate) keys: Keys,
    /// How many there are.
    pub(crate) key_count: u64,
    /// Of the keys' distribution.
    pub(crate) key_theta: f64,
    pub(crate) spread: Spread,
    /// Of the streams' distribution.
    pub(crate) stream_theta: f64,
}

impl Choice {
    /// Whether the places simply take turns.
    #[must_use]
    pub(crate) const fn takes_turns(self) -> bool {
        !self.keys.decides() && matches!(self.spread, Spread::Even)
    }
}

/// Numbers from 0, of which the first is the most frequent.
#[derive(Clone, Debug)]
pub(crate) enum Ranks {
    /// All as often.
    Uniform(u64),
    /// The sums of the weights up to each.
    Weighted(Vec<f64>),
}

impl Ranks {
    /// `count` ranks, weighed 1 / k^theta; zero weighs all the same.
    ///
    /// # Panics
    /// When there are none, or more than [`RANKS_MAX`].
    #[must_use]
    pub(crate) fn zipf(count: u64, theta: f64) -> Self {
        assert!((1..=RANKS_MAX).contains(&count), "ranks are bounded");
        let mut sum = 0.0;
        Self::Weighted(
            (1..=count)
                .map(|rank| {
                    sum += (rank as f64).powf(-theta);
                    sum
                })
                .collect(),
        )
    }

    /// Draws one.
    pub(crate) fn draw(&self, prng: &mut Prng) -> u64 {
        match self {
            Self::Uniform(count) => prng.below(*count),
            Self::Weighted(sums) => {
                let total = sums.last().copied().unwrap_or(0.0);
                let at = (prng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
                let rank = sums.partition_point(|sum| *sum <= at);
                rank.min(sums.len() - 1) as u64
            }
        }
    }
}

/// The key of a rank. Any number makes another.
#[must_use]
pub(crate) fn key(rank: u64) -> [u8; KEY_BYTES] {
    Prng::new(rank).next_u128().to_le_bytes()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Draw {
    /// Which of the places.
    lane: u32,
    /// The next draw of the same lane, round and round.
    next: u32,
    /// The key's rank; `None`: the batch keeps the keys that it was made with.
    rank: Option<u64>,
}

/// The draws of one shard, and the places that they are for.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    draws: Vec<Draw>,
    places: Vec<Place>,
    /// Of all draws of the run, this shard's.
    share: f64,
}

impl Draws {
    /// Those of every shard that a draw falls on, in the order of their addresses.
    #[must_use]
    pub(crate) fn all(choice: Choice, target: &Target, seed: u64) -> Vec<Self> {
        let count = (target.places.len() * DRAWS_PER_PLACE).clamp(DRAWS_MIN, DRAWS_MAX);
        let streams = target.places.len() as u64 / u64::from(target.partitions);
        let stream_ranks = match choice.spread {
            Spread::Even => Ranks::Uniform(streams),
            Spread::Zipf => Ranks::zipf(streams, choice.stream_theta),
        };
        let key_ranks = match choice.keys {
            Keys::Even | Keys::Unkeyed => None,
            Keys::Uniform => Some(Ranks::Uniform(choice.key_count)),
            Keys::Zipf => Some(Ranks::zipf(choice.key_count, choice.key_theta)),
        };
        let mut shards: BTreeMap<SocketAddr, Self> = BTreeMap::new();
        // Of each place of the target its lane in its shard.
        let mut lanes: Vec<u32> = Vec::with_capacity(target.places.len());
        for place in &target.places {
            let shard = shards.entry(place.address).or_insert_with(|| Self {
                draws: Vec::new(),
                places: Vec::new(),
                share: 0.0,
            });
            lanes.push(shard.places.len() as u32);
            shard.places.push(*place);
        }
        let mut prng = Prng::new(seed);
        for _ in 0..count {
            let stream = stream_ranks.draw(&mut prng);
            let rank = key_ranks.as_ref().map(|ranks| ranks.draw(&mut prng));
            let partition = match rank {
                Some(rank) => u64::from(partition_of_key(&key(rank), target.partitions).get()),
                None => prng.below(u64::from(target.partitions)),
            };
            let place = (stream * u64::from(target.partitions) + partition) as usize;
            if let Some(shard) = shards.get_mut(&target.places[place].address) {
                shard.draws.push(Draw {
                    lane: lanes[place],
                    next: 0,
                    rank,
                });
            }
        }
        shards.retain(|_, shard| !shard.draws.is_empty());
        for shard in shards.values_mut() {
            link(&mut shard.draws, shard.places.len());
            shard.share = shard.draws.len() as f64 / count as f64;
        }
        shards.into_values().collect()
    }

    /// The shard's share of the load.
    #[must_use]
    pub(crate) const fn share(&self) -> f64 {
        self.share
    }

    /// How many.
    #[must_use]
    pub(crate) const fn len(&self) -> usize {
        self.draws.len()
    }

    /// The places.
    #[must_use]
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Which place the draw is for.
    #[must_use]
    pub(crate) fn lane(&self, at: usize) -> usize {
        self.draws[at].lane as usize
    }

    /// The keys of a batch that begins with this draw, without end; none where the batch keeps its own.
    pub(crate) fn keys(&self, at: usize) -> impl Iterator<Item = [u8; KEY_BYTES]> {
        let mut at = at as u32;
        std::iter::from_fn(move || {
            let draw = self.draws[at as usize];
            at = draw.next;
            draw.rank.map(key)
        })
    }
}

/// Ties each draw to the next one of its lane, and the last to the first.
fn link(draws: &mut [Draw], lanes: usize) {
    let mut following: Vec<Option<u32>> = vec![None; lanes];
    let mut last: Vec<u32> = vec![0; lanes];
    for (at, draw) in draws.iter().enumerate() {
        last[draw.lane as usize] = at as u32;
    }
    for at in (0..draws.len()).rev() {
        let lane = draws[at].lane as usize;
        let first_seen = following[lane].replace(at as u32);
        draws[at].next = first_seen.unwrap_or(u32::MAX);
    }
    // Now `following` holds each lane's first.
    for (lane, first) in following.iter().enumerate() {
        if let Some(first) = first {
            draws[last[lane] as usize].next = *first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiderace_base::ids::{PartitionIndex, PartitionKey, StreamId};
    use tiderace_base::position::Epoch;

    const SHARDS: u16 = 2;

    fn address(shard: u16) -> SocketAddr {
        ([127, 0, 0, 1], 7000 + shard).into()
    }

    fn target(streams: u64, partitions: u32) -> Target {
        let place = |at: u64| Place {
            key: PartitionKey {
                stream: StreamId::new(1 + at / u64::from(partitions)),
                partition: PartitionIndex::new((at % u64::from(partitions)) as u32),
            },
            address: address((at % u64::from(SHARDS)) as u16),
            epoch: Epoch::new(1),
        };
        Target {
            tls: None,
            durability: tiderace_base::catalogue::Durability::Local,
            partitions,
            places: (0..streams * u64::from(partitions)).map(place).collect(),
        }
    }

    fn choice(keys: Keys, spread: Spread) -> Choice {
        Choice {
            keys,
            key_count: 1000,
            key_theta: 1.0,
            spread,
            stream_theta: 1.0,
        }
    }

    fn of(choice: Choice, target: &Target, shard: u16, seed: u64) -> Draws {
        Draws::all(choice, target, seed)
            .into_iter()
            .find(|draws| draws.places()[0].address == address(shard))
            .expect("draws fall on every shard")
    }

    #[test]
    fn zipf_follows_its_law_and_theta_zero_is_uniform() {
        let mut prng = Prng::new(3);
        let count = 400_000;
        for (theta, expected) in [(1.0, [0.34142, 0.17071, 0.11381]), (0.0, [0.1, 0.1, 0.1])] {
            let ranks = Ranks::zipf(10, theta);
            let mut seen = [0_u32; 10];
            for _ in 0..count {
                seen[ranks.draw(&mut prng) as usize] += 1;
            }
            for (rank, expected) in expected.into_iter().enumerate() {
                let share = f64::from(seen[rank]) / f64::from(count);
                assert!(
                    (share - expected).abs() < 0.004,
                    "{theta} {rank}: {share} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_key_goes_where_the_client_sends_it_and_a_batch_holds_keys_of_one_partition() {
        let target = target(1, 8);
        let choice = choice(Keys::Zipf, Spread::Even);
        let mut shares = 0.0;
        for shard in 0..SHARDS {
            let draws = of(choice, &target, shard, 1);
            shares += draws.share();
            for at in 0..draws.len() {
                let place = draws.places()[draws.lane(at)];
                assert_eq!(place.address, address(shard));
                for key in draws.keys(at).take(5) {
                    assert_eq!(partition_of_key(&key, 8), place.key.partition);
                }
            }
        }
        // Every draw falls on exactly one shard.
        assert!((shares - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_keys_of_a_lane_come_round_each_once() {
        let target = target(1, 4);
        let draws = of(choice(Keys::Uniform, Spread::Even), &target, 0, 1);
        let of_lane = (0..draws.len())
            .filter(|at| draws.lane(*at) == draws.lane(0))
            .count();
        let mut at = 0;
        for step in 1..=of_lane {
            at = draws.draws[at].next as usize;
            assert_eq!(at == 0, step == of_lane);
        }
    }

    #[test]
    fn streams_are_drawn_by_their_rank() {
        let target = target(100, 2);
        let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
        let mut total = 0;
        for shard in 0..SHARDS {
            let draws = of(choice(Keys::Even, Spread::Zipf), &target, shard, 1);
            assert_eq!(draws.keys(0).next(), None);
            for at in 0..draws.len() {
                let stream = draws.places()[draws.lane(at)].key.stream.get();
                *seen.entry(stream).or_default() += 1;
                total += 1;
            }
        }
        // The first of a hundred has 1 / H(100) of all.
        let share = seen[&1] as f64 / f64::from(total);
        assert!((share - 0.19278).abs() < 0.01, "{share}");
        assert!(seen[&1] > seen[&2] && seen[&2] > seen[&10]);
    }

    #[test]
    fn a_seed_decides_the_draws() {
        let target = target(1, 8);
        let of = |seed| of(choice(Keys::Zipf, Spread::Even), &target, 0, seed).draws;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}

//! Where partitions are led. A route is learnt page by page on first use, corrected by redirects, and learnt again when a
//! node or a lost link says that it is out of date. Lanes and parts that cannot go on without it wait here.

use super::requests::{Owner, Request};
use super::{Engine, Timer, Waiter};
use crate::core::connection::Answer;
use crate::error::{Refusal, RequestError};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tiderace_base::catalogue::Stream;
use tiderace_base::ids::{NodeId, PartitionIndex, PartitionKey, ShardId};
use tiderace_base::limits::PARTITIONS_MAX;
use tiderace_base::position::Epoch;
use tiderace_base::time::Now;
use tiderace_wire::error::{ErrorCode, Retry};
use tiderace_wire::frame::Metadata;

/// Where a partition is led.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// The shard of that node.
    pub shard: ShardId,
    /// The slot's epoch.
    pub epoch: Epoch,
    /// Where that shard listens.
    pub address: SocketAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Freshness {
    /// Being asked for; a page of it may be here.
    Asking,
    /// To be asked for when a wait is over.
    Waiting,
    /// As the node said.
    Known,
    /// There is no such stream, or it cannot be read.
    Failed,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: Arc<str>,
    pub(super) stream: Option<Stream>,
    pub(super) places: Vec<Option<Place>>,
    freshness: Freshness,
    attempt: u32,
    waiters: BTreeSet<Waiter>,
}

impl Engine {
    /// The route of a path; asked for when it is new.
    pub(super) fn route_of(&mut self, now: Now, path: &str) -> u32 {
        let known = self
            .routes
            .iter()
            .position(|route| &*route.path == path && route.freshness != Freshness::Failed);
        if let Some(index) = known {
            return index as u32;
        }
        let fresh = Route {
            path: path.into(),
            stream: None,
            places: Vec::new(),
            freshness: Freshness::Waiting,
            attempt: 0,
            waiters: BTreeSet::new(),
        };
        // A failed route has told all its users; its cell serves the next stream.
        let index = match self
            .routes
            .iter()
            .position(|route| route.freshness == Freshness::Failed && !self.route_in_use(route))
        {
            Some(index) => {
                self.routes[index] = fresh;
                index as u32
            }
            None => {
                self.routes.push(fresh);
                (self.routes.len() - 1) as u32
            }
        };
        self.ask_route(now, index);
        index
    }

    fn route_in_use(&self, route: &Route) -> bool {
        let index = self
            .routes
            .iter()
            .position(|other| core::ptr::eq(other, route))
            .map(|index| index as u32);
        self.producers
            .iter()
            .flatten()
            .any(|entry| Some(entry.route) == index)
            || self
                .consumers
                .iter()
                .flatten()
                .any(|entry| Some(entry.route) == index)
    }

    fn ask_route(&mut self, now: Now, index: u32) {
        let route = &mut self.routes[index as usize];
        route.freshness = Freshness::Asking;
        let path = route.path.clone();
        self.ask(
            now,
            Owner::Route(index),
            Request::Metadata {
                path,
                first_partition: PartitionIndex::new(0),
            },
        );
    }

    pub(super) fn route_due(&mut self, now: Now, index: u32) {
        if self.routes[index as usize].freshness == Freshness::Waiting {
            self.ask_route(now, index);
        }
    }

    /// The route is out of date: `waiter` goes on when it was learnt again.
    pub(super) fn refresh(&mut self, now: Now, index: u32, waiter: Waiter) {
        let wait = {
            let route = &mut self.routes[index as usize];
            route.waiters.insert(waiter);
            if route.freshness != Freshness::Known {
                return;
            }
            route.freshness = Freshness::Waiting;
            let attempt = route.attempt;
            route.attempt = attempt.saturating_add(1);
            if attempt == 0 {
                0
            } else {
                self.settings.backoff.wait_ns(attempt - 1, &mut self.prng)
            }
        };
        if wait == 0 {
            self.ask_route(now, index);
        } else {
            self.arm(now.mono.after_ns(wait), Timer::Route(index));
        }
    }

    /// The link that led there is gone: the route is learnt again.
    pub(super) fn route_stale(&mut self, now: Now, index: u32) {
        let route = &mut self.routes[index as usize];
        if route.freshness == Freshness::Known {
            route.freshness = Freshness::Waiting;
            self.ask_route(now, index);
        }
    }

    /// The place for which a lane or part waited is gone: it waits for the route instead.
    pub(super) fn place_lost(&mut self, now: Now, waiter: Waiter) {
        if let Some(route) = self.waiter_route(waiter) {
            self.refresh(now, route, waiter);
        }
    }

    /// Something was done at the place that the route names: the next refresh is not a repeated one.
    pub(super) fn route_works(&mut self, index: u32) {
        self.routes[index as usize].attempt = 0;
    }

    /// A page of metadata, or why there is none.
    pub(super) fn route_answered(
        &mut self,
        now: Now,
        index: u32,
        from: Option<u32>,
        result: Result<Answer, RequestError>,
    ) {
        match result {
            Ok(Answer::Metadata(metadata)) => self.route_page(now, index, from, &metadata),
            Ok(_) => self.route_failed(
                index,
                RequestError::Violation(crate::error::Violation::OutOfPlace),
            ),
            Err(error @ RequestError::Refused(Refusal { code, .. }))
                if code == ErrorCode::UnknownStream || code.retry() == Retry::Never =>
            {
                self.route_failed(index, error);
            }
            Err(error) if self.routes[index as usize].stream.is_none() => {
                self.route_failed(index, error);
            }
            Err(_) => {
                // The stream was there before: its producers' and consumers' own deadlines end the wait.
                self.routes[index as usize].freshness = Freshness::Waiting;
                let wait = self.settings.backoff.longest_ns;
                self.arm(now.mono.after_ns(wait), Timer::Route(index));
            }
        }
    }

    fn route_page(&mut self, now: Now, index: u32, from: Option<u32>, metadata: &Metadata) {
        let Some(row) = &metadata.stream else {
            self.route_failed(
                index,
                RequestError::Violation(crate::error::Violation::OutOfPlace),
            );
            return;
        };
        // A stream has partitions, no more than the limit, and never fewer than before; a page tells of no others. Room is
        // taken and places are looked up on the word of these numbers.
        let known = self.routes[index as usize].places.len();
        let partitions = row.partitions as usize;
        let is_possible = (known.max(1)..=PARTITIONS_MAX as usize).contains(&partitions)
            && metadata
                .partitions
                .iter()
                .all(|place| place.partition.get() < row.partitions);
        let is_same = self.routes[index as usize]
            .stream
            .as_ref()
            .is_none_or(|old| old.id == row.id);
        if is_same && !is_possible {
            self.route_failed(
                index,
                RequestError::Violation(crate::error::Violation::Frame(ErrorCode::BadControl)),
            );
            return;
        }
        let reached = from
            .and_then(|link| self.links.get(link as usize))
            .map(|link| link.address.ip());
        let mut asks_on = None;
        {
            let route = &mut self.routes[index as usize];
            if route.stream.as_ref().is_some_and(|old| old.id != row.id) {
                // The path belongs to another stream now: its users keep to the one they began with.
                self.route_failed(
                    index,
                    RequestError::Refused(Refusal {
                        code: ErrorCode::UnknownStream,
                        detail_a: 0,
                        detail_b: 0,
                    }),
                );
                return;
            }
            route.stream = Some(row.clone());
            route.places.resize(partitions, None);
            for partition in &metadata.partitions {
                let place = place_of(
                    metadata,
                    partition.node,
                    partition.shard,
                    partition.epoch,
                    reached,
                );
                if let (Some(cell), Some(place)) = (
                    route.places.get_mut(partition.partition.get() as usize),
                    place,
                ) && cell.is_none_or(|old| old.epoch <= place.epoch)
                {
                    *cell = Some(place);
                }
            }
            let last = metadata
                .partitions
                .iter()
                .map(|row| row.partition.get())
                .max();
            if let (true, Some(last)) = (metadata.more, last) {
                asks_on = Some((route.path.clone(), last + 1));
            } else {
                route.freshness = Freshness::Known;
            }
        }
        if let Some((path, first)) = asks_on {
            self.ask(
                now,
                Owner::Route(index),
                Request::Metadata {
                    path,
                    first_partition: PartitionIndex::new(first),
                },
            );
            return;
        }
        self.producers_begin(index);
        self.consumers_begin(index);
        let waiters = core::mem::take(&mut self.routes[index as usize].waiters);
        for waiter in waiters {
            self.waiter_due(waiter);
        }
        self.leave_lost_links(index);
    }

    /// What waits for a link that is not open looks again where to go: the new route may lead elsewhere.
    fn leave_lost_links(&mut self, route: u32) {
        for link in 0..self.links.len() {
            if self.links[link].state == super::LinkState::Open {
                continue;
            }
            let (leaves, stays) = core::mem::take(&mut self.links[link].waiters)
                .into_iter()
                .partition(|waiter| self.waiter_route(*waiter) == Some(route));
            self.links[link].waiters = stays;
            let leaves: BTreeSet<Waiter> = leaves;
            self.due.extend(leaves);
        }
    }

    fn waiter_route(&self, waiter: Waiter) -> Option<u32> {
        match waiter {
            Waiter::Lane { producer, .. } => self.producers[producer as usize]
                .as_ref()
                .map(|entry| entry.route),
            Waiter::Part { consumer, .. } => self.consumers[consumer as usize]
                .as_ref()
                .map(|entry| entry.route),
        }
    }

    fn route_failed(&mut self, index: u32, error: RequestError) {
        let route = &mut self.routes[index as usize];
        route.freshness = Freshness::Failed;
        route.waiters.clear();
        self.producers_fail(index, error);
        self.consumers_fail(index, error);
    }

    /// A node named the leader of a partition.
    pub(super) fn redirected(
        &mut self,
        from: u32,
        key: PartitionKey,
        epoch: Epoch,
        node: NodeId,
        shard: ShardId,
        address: &str,
    ) {
        let reached = self.links[from as usize].address.ip();
        let Some(address) = resolve(address, Some(reached)) else {
            return;
        };
        for route in &mut self.routes {
            if route.stream.as_ref().is_none_or(|row| row.id != key.stream) {
                continue;
            }
            if let Some(cell) = route.places.get_mut(key.partition.get() as usize)
                && cell.is_none_or(|old| old.epoch <= epoch)
            {
                *cell = Some(Place {
                    node,
                    shard,
                    epoch,
                    address,
                });
            }
        }
    }

    /// Where a page of metadata, received over this link, says that its partitions are led; `None` for one that no
    /// reachable node leads.
    #[must_use]
    pub fn places_in(
        &self,
        link: u32,
        metadata: &Metadata,
    ) -> Vec<(PartitionIndex, Option<Place>)> {
        let reached = self.links.get(link as usize).map(|link| link.address.ip());
        metadata
            .partitions
            .iter()
            .map(|row| {
                (
                    row.partition,
                    place_of(metadata, row.node, row.shard, row.epoch, reached),
                )
            })
            .collect()
    }

    pub(super) fn place(&self, route: u32, partition: u32) -> Option<Place> {
        *self.routes[route as usize].places.get(partition as usize)?
    }

    /// The link over which a place is reached: one to the same shard, or to the same address, or a new one. When there
    /// may be no more links, one to the same node, whose mesh carries the frame on, or any.
    pub(super) fn link_to(&mut self, place: Place) -> u32 {
        let wanted = Some((place.node, place.shard));
        let open = self
            .links
            .iter()
            .position(|link| link.place == wanted && link.state == super::LinkState::Open);
        let same = open.or_else(|| {
            self.links
                .iter()
                .position(|link| link.address == place.address)
        });
        if let Some(index) = same {
            return index as u32;
        }
        if self.links.len() < self.settings.links_max {
            return self.add_link(place.address, false);
        }
        let near = self.links.iter().position(|link| {
            link.state == super::LinkState::Open
                && link.place.is_some_and(|(node, _)| node == place.node)
        });
        // A link that nothing uses makes room for one that is needed.
        let spare = || {
            self.links.iter().position(|link| {
                !link.seed
                    && link.waiters.is_empty()
                    && matches!(
                        link.state,
                        super::LinkState::Idle | super::LinkState::Waiting { .. }
                    )
            })
        };
        if let Some(index) = near {
            return index as u32;
        }
        if let Some(index) = spare() {
            let link = &mut self.links[index];
            link.address = place.address;
            link.place = None;
            link.attempt = 0;
            link.state = super::LinkState::Idle;
            return index as u32;
        }
        self.open_link().unwrap_or(0)
    }

    /// Partitions of a route that the shards reached so far lead.
    pub(super) fn reached_partitions(&self, route: u32) -> Vec<PartitionIndex> {
        let places = &self.routes[route as usize].places;
        (0..places.len())
            .filter(|index| {
                places[*index].is_some_and(|place| {
                    self.links.iter().any(|link| {
                        link.state == super::LinkState::Open
                            && link.place == Some((place.node, place.shard))
                    })
                })
            })
            .map(|index| PartitionIndex::new(index as u32))
            .collect()
    }
}

fn place_of(
    metadata: &Metadata,
    node: NodeId,
    shard: ShardId,
    epoch: Epoch,
    reached: Option<IpAddr>,
) -> Option<Place> {
    let row = metadata.nodes.iter().find(|row| row.id == node)?;
    let address = row
        .shards
        .get(usize::from(shard.get()))
        .unwrap_or(&row.shared);
    Some(Place {
        node,
        shard,
        epoch,
        address: resolve(address, reached)?,
    })
}

/// An address as a node writes it. A node that listens on every interface says so with an unspecified host: it is then
/// where it was reached.
fn resolve(text: &str, reached: Option<IpAddr>) -> Option<SocketAddr> {
    let mut address: SocketAddr = text.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(reached?);
    }
    Some(address)
}

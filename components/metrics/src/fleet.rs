//! What is known of the workers: who is there, by discovery, and what they told, by their news.
//! Pure; time is an argument and only grows.
//!
//! The two sources come each in its own time. News of a publisher that discovery has not named
//! yet are kept until the publisher is gone, so that its first snapshot is not lost.
//!
//! Invariants
//! - A worker counts for an endpoint exactly while discovery names it there.
//! - Counters of an endpoint never fall while the endpoint is known: they take up what is heard,
//!   and keep it when a worker leaves.
//! - At most [`Bounds::max_endpoints`] endpoints are known, and of each no more than discovery
//!   names and [`MAX_RANKS`] ranks of each worker.

#[cfg(test)]
mod model;
mod publisher;
#[cfg(test)]
mod tests;

pub use publisher::{Heard, KvCounts, MAX_RANKS, Rank, State};
pub(crate) use publisher::{Progress, Publisher};

use crate::scope::Present;
use dynamo_routing::news::news_endpoint;
use dynamo_runtime::discovery::EndpointId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What the fleet keeps to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Endpoints that are known.
    pub max_endpoints: usize,
    /// Ranks of workers that are shown by themselves.
    pub max_workers: usize,
    /// How long a worker may be silent until it is stale.
    pub stale_after: Duration,
}

/// The workers and what was heard of them.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) bounds: Bounds,
    pub(crate) endpoints: BTreeMap<EndpointId, Endpoint>,
    /// By the endpoint of the component's news.
    pub(crate) components: BTreeMap<EndpointId, BTreeMap<u64, Publisher>>,
    pub(crate) counts: Counts,
    next_seat: u64,
}

/// An endpoint and its workers.
#[derive(Debug, Default)]
pub(crate) struct Endpoint {
    /// Where the workers tell their news.
    news: Option<EndpointId>,
    /// When each worker came, counted over all: who came first is shown by itself.
    pub(crate) seats: BTreeMap<u64, u64>,
    pub(crate) progress: Progress,
    /// Since when nobody is there.
    empty_since: Duration,
}

/// What belongs to no endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Whether discovery's view may be outdated.
    pub discovery_stale: bool,
    /// Endpoints for which there is no room.
    pub left_out_endpoints: usize,
    /// Workers of endpoints for which there is no room.
    pub left_out_workers: usize,
    /// Pieces of news heard.
    pub news: u64,
    /// Pieces of news that could not be read.
    pub unreadable_news: u64,
    /// Times that a worker's news broke off.
    pub losses: u64,
}

impl Fleet {
    /// Nobody is known yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            endpoints: BTreeMap::new(),
            components: BTreeMap::new(),
            counts: Counts::default(),
            next_seat: 0,
        }
    }

    /// Takes over who is there, in place of who was.
    pub fn set_present(&mut self, present: &Present, discovery_stale: bool, now: Duration) {
        self.counts.discovery_stale = discovery_stale;
        for (name, endpoint) in &mut self.endpoints {
            let is_empty = present.get(name).is_none_or(BTreeSet::is_empty);
            if is_empty && !endpoint.seats.is_empty() {
                endpoint.seats.clear();
                endpoint.empty_since = now;
            }
        }
        let (mut endpoints, mut workers) = (0, 0);
        for (name, ids) in present {
            if ids.is_empty() {
                continue;
            }
            if self.make_room(name, present) {
                self.seat(name, ids, now);
            } else {
                endpoints += 1;
                workers += ids.len();
            }
        }
        self.counts.left_out_endpoints = endpoints;
        self.counts.left_out_workers = workers;
        self.forget();
    }

    /// Where news are to be followed: of each component with a worker.
    pub fn followed(&self) -> BTreeSet<EndpointId> {
        let inhabited = self.endpoints.values().filter(|it| !it.seats.is_empty());
        inhabited.filter_map(|it| it.news.clone()).collect()
    }

    /// A publisher of a component tells something.
    pub fn hear(&mut self, news: &EndpointId, publisher: u64, heard: &Heard, now: Duration) {
        let Some(publishers) = self.components.get_mut(news) else {
            return; // Nobody of the component is there any more.
        };
        if let Heard::Snapshot(events) | Heard::Events(events) = heard {
            self.counts.news += events.len() as u64;
        }
        self.counts.losses += u64::from(*heard == Heard::Lost);
        let told = publishers
            .entry(publisher)
            .or_insert_with(|| Publisher::new(now));
        let progress = told.hear(heard, now);
        if *heard == Heard::Gone {
            self.forget();
            return;
        }
        for endpoint in self.endpoints.values_mut() {
            let is_there = endpoint.seats.contains_key(&publisher);
            if is_there && endpoint.news.as_ref() == Some(news) {
                endpoint.progress += progress;
            }
        }
    }

    /// So many pieces of news could not be read.
    pub fn could_not_read(&mut self, pieces: u64) {
        self.counts.unreadable_news += pieces;
    }

    /// Whether the endpoint is known or can be, if need be in place of the one that is empty for
    /// the longest time.
    fn make_room(&mut self, name: &EndpointId, present: &Present) -> bool {
        if self.endpoints.contains_key(name) || self.endpoints.len() < self.bounds.max_endpoints {
            return true;
        }
        let empty = self
            .endpoints
            .iter()
            .filter(|(it, endpoint)| endpoint.seats.is_empty() && !present.contains_key(it))
            .min_by_key(|(it, endpoint)| (endpoint.empty_since, (*it).clone()))
            .map(|(it, _)| it.clone());
        empty.is_some_and(|empty| self.endpoints.remove(&empty).is_some())
    }

    fn seat(&mut self, name: &EndpointId, ids: &BTreeSet<u64>, now: Duration) {
        let endpoint = self.endpoints.entry(name.clone()).or_default();
        // A component's name that is one has a name for its news.
        endpoint.news = news_endpoint(name).ok();
        endpoint.seats.retain(|id, _| ids.contains(id));
        for id in ids {
            if endpoint.seats.contains_key(id) {
                continue;
            }
            endpoint.seats.insert(*id, self.next_seat);
            self.next_seat += 1;
            if let Some(news) = &endpoint.news {
                let publishers = self.components.entry(news.clone()).or_default();
                publishers.entry(*id).or_insert_with(|| Publisher::new(now));
            }
        }
    }

    /// Forgets publishers that are neither there nor heard, and components without workers.
    fn forget(&mut self) {
        let mut seated: BTreeMap<&EndpointId, BTreeSet<u64>> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            if let Some(news) = &endpoint.news
                && !endpoint.seats.is_empty()
            {
                let ids = endpoint.seats.keys().copied();
                seated.entry(news).or_default().extend(ids);
            }
        }
        self.components.retain(|news, publishers| {
            let Some(seated) = seated.get(news) else {
                return false;
            };
            publishers.retain(|id, publisher| publisher.is_heard() || seated.contains(id));
            true
        });
    }

    /// What was heard of a worker of an endpoint.
    pub(crate) fn publisher(&self, endpoint: &Endpoint, worker: u64) -> Option<&Publisher> {
        self.components.get(endpoint.news.as_ref()?)?.get(&worker)
    }
}

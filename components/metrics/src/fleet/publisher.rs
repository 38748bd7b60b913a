//! What was heard of one worker, rank by rank.
//!
//! Invariants
//! - Whatever a worker says, it costs no more than [`MAX_RANKS`] ranks.
//! - Counters of a rank only grow while the rank is told of.

use dynamo_protocols::kv::{KvEvent, KvEventBatch};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};
use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

/// Data-parallel ranks of a worker that are heard: what the largest engines have. News of further
/// ones are passed over.
pub const MAX_RANKS: u32 = 1_024;

/// What is heard of a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// All that is so, in place of everything heard before.
    Snapshot(Vec<WorkerEvent>),
    /// What happened since.
    Events(Vec<WorkerEvent>),
    /// It cannot be reached for now.
    Lost,
    /// It is no more.
    Gone,
}

/// A worker's KV events in numbers, since it was first heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvCounts {
    /// Blocks told to be stored.
    pub stored_blocks: u64,
    /// Blocks told to be removed.
    pub removed_blocks: u64,
    /// Times that the whole cache was told to be cleared.
    pub clears: u64,
    /// Times that events were missing.
    pub gaps: u64,
    /// Events that were missing.
    pub missed_events: u64,
}

/// What counters of an endpoint go up by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) kv: KvCounts,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_prompt_tokens: u64,
}

/// What was heard of a data-parallel rank.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rank {
    /// What it did last, once it said so.
    pub load: Option<LoadReport>,
    /// Its KV events.
    pub kv: KvCounts,
    /// The id of the next event.
    next_event: Option<u64>,
}

/// What was heard of a worker.
#[derive(Debug)]
pub(crate) struct Publisher {
    link: Link,
    /// Since when the link is like that.
    since: Duration,
    last_news: Option<Duration>,
    pub(crate) ranks: BTreeMap<u32, Rank>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Not heard, or not any more.
    Silent,
    Following,
    Lost,
}

/// How a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It has told its load, and its news are followed.
    Reporting,
    /// It has told no load yet, and there was little time to.
    Starting,
    /// It has told nothing or was out of reach for too long.
    Stale,
}

// === impl Publisher ===

impl Publisher {
    /// One that has told nothing by `now`.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            link: Link::Silent,
            since: now,
            last_news: None,
            ranks: BTreeMap::new(),
        }
    }

    /// Whether its news come, or came until it was out of reach.
    pub(crate) fn is_heard(&self) -> bool {
        self.link != Link::Silent
    }

    /// How it is.
    pub(crate) fn state(&self, stale_after: Duration, now: Duration) -> State {
        let has_load = self.ranks.values().any(|rank| rank.load.is_some());
        let is_well = self.link == Link::Following && has_load;
        if !is_well && now.saturating_sub(self.since) >= stale_after {
            State::Stale
        } else if has_load {
            State::Reporting
        } else {
            State::Starting
        }
    }

    /// How long ago it last told anything.
    pub(crate) fn news_age(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.last_news?))
    }

    /// Takes in what is heard. Gives back what counters go up by.
    pub(crate) fn hear(&mut self, heard: &Heard, now: Duration) -> Progress {
        match heard {
            Heard::Snapshot(events) => {
                self.link(Link::Following, now);
                self.last_news = Some(now);
                self.snapshot(events)
            }
            Heard::Events(events) => {
                self.link(Link::Following, now);
                self.last_news = Some(now);
                self.events(events)
            }
            Heard::Lost => {
                self.link(Link::Lost, now);
                Progress::default()
            }
            Heard::Gone => {
                *self = Self::new(now);
                Progress::default()
            }
        }
    }

    fn link(&mut self, link: Link, now: Duration) {
        if self.link != link {
            self.link = link;
            self.since = now;
        }
    }

    fn events(&mut self, events: &[WorkerEvent]) -> Progress {
        let mut progress = Progress::default();
        for event in events {
            let Some(rank) = self.rank(event.dp_rank) else {
                continue;
            };
            match &event.news {
                WorkerNews::Kv(batch) => {
                    let mut kv = rank.expect(batch.first_event_id);
                    kv += counts(batch);
                    rank.next_event = Some(after(batch));
                    rank.kv += kv;
                    progress.kv += kv;
                }
                WorkerNews::Load(load) => rank.load(load, &mut progress),
            }
        }
        progress
    }

    /// The events of a snapshot say what is so, and not what happened: they are not counted, but
    /// for those that were missed before.
    fn snapshot(&mut self, events: &[WorkerEvent]) -> Progress {
        let mut progress = Progress::default();
        let mut next_events: BTreeMap<u32, u64> = BTreeMap::new();
        let mut named: Vec<u32> = Vec::new();
        for event in events {
            let Some(rank) = self.rank(event.dp_rank) else {
                continue;
            };
            named.push(event.dp_rank);
            match &event.news {
                WorkerNews::Kv(batch) => {
                    let next = next_events.entry(event.dp_rank).or_default();
                    *next = (*next).max(after(batch));
                }
                WorkerNews::Load(load) => rank.load(load, &mut progress),
            }
        }
        named.sort_unstable();
        self.ranks.retain(|id, _| named.binary_search(id).is_ok());
        for (id, next) in next_events {
            if let Some(rank) = self.rank(id) {
                let missed = rank.expect(next);
                rank.next_event = Some(next);
                rank.kv += missed;
                progress.kv += missed;
            }
        }
        progress
    }

    fn rank(&mut self, id: u32) -> Option<&mut Rank> {
        (id < MAX_RANKS).then(|| self.ranks.entry(id).or_default())
    }
}

// === impl Rank ===

impl Rank {
    /// What is missing before the event with this id.
    fn expect(&self, id: u64) -> KvCounts {
        let missed = id.saturating_sub(self.next_event.unwrap_or(id));
        KvCounts {
            gaps: u64::from(missed > 0),
            missed_events: missed,
            ..KvCounts::default()
        }
    }

    fn load(&mut self, load: &LoadReport, progress: &mut Progress) {
        // The first report says what was before anybody listened.
        let before = self.load.as_ref().unwrap_or(load);
        progress.prompt_tokens += load.prompt_tokens.saturating_sub(before.prompt_tokens);
        progress.cached_prompt_tokens += load
            .cached_prompt_tokens
            .saturating_sub(before.cached_prompt_tokens);
        self.load = Some(load.clone());
    }
}

/// The id after those of a batch.
fn after(batch: &KvEventBatch) -> u64 {
    batch
        .first_event_id
        .saturating_add(batch.events.len() as u64)
}

fn counts(batch: &KvEventBatch) -> KvCounts {
    let mut counts = KvCounts::default();
    for event in &batch.events {
        match event {
            KvEvent::Stored { blocks, .. } => counts.stored_blocks += blocks.len() as u64,
            KvEvent::Removed { blocks } => counts.removed_blocks += blocks.len() as u64,
            KvEvent::Cleared => counts.clears += 1,
        }
    }
    counts
}

impl AddAssign for KvCounts {
    fn add_assign(&mut self, other: Self) {
        self.stored_blocks += other.stored_blocks;
        self.removed_blocks += other.removed_blocks;
        self.clears += other.clears;
        self.gaps += other.gaps;
        // Ids are what a worker says; those of a broken one may be anything.
        self.missed_events = self.missed_events.saturating_add(other.missed_events);
    }
}

impl AddAssign for Progress {
    fn add_assign(&mut self, other: Self) {
        self.kv += other.kv;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_prompt_tokens = self
            .cached_prompt_tokens
            .saturating_add(other.cached_prompt_tokens);
    }
}

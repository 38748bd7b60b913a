//! Requests that wait in the router while every worker that could take them is saturated.
//!
//! Order, from the outside in
//! 1. strict priority: a higher one goes first, always
//! 2. tenants: the one that was served the fewest prompt tokens goes next. Each tenant has a
//!    virtual time that its own served tokens move on; who comes back after a rest starts at the
//!    present one. This is start-time fair queueing: like deficit round robin by tokens, without
//!    a quantum to choose and without rounds to walk
//! 3. within a tenant: the policy
//!
//! Bounds: in all, per tenant, and in time. A full queue still takes a request of a tenant that
//! has fewer waiting than the heaviest one, whose last request is displaced: who floods the queue
//! crowds out only itself.
//!
//! It holds whatever the caller wants back (`T`), asks it nothing, and starts nothing by itself.

mod turns;

use crate::recency::Recency;
use crate::request::Standing;
use dynamo_config::choices;
use dynamo_protocols::{ErrorCode, RequestError};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
pub use turns::Served;
use turns::Turns;
use xxhash_rust::xxh3::xxh3_64;

choices! {
    /// Who goes first of one tenant's waiting requests.
    pub enum QueuePolicy {
        /// Who came first; a point of priority counts like a second of waiting.
        Fcfs = "fcfs",
        /// Who came last.
        Lcfs = "lcfs",
        /// The shortest uncached prompt, in relation to priority: the least mean wait.
        Wspt = "wspt",
    }
}

/// Heads of tenants' queues that one admission looks at. Only requests that few workers can take
/// (an adapter, a pinned worker) stand in the way of others at all; behind sixteen tenants with
/// such ones the rest waits until one of them goes or gives up.
const MAX_ASKED: usize = 16;

/// Tenants without a waiting request whose served tokens are remembered.
const MAX_RESTING_TENANTS: usize = 4_096;

/// Keeps fractions of a token when a length is divided by a priority.
const WSPT_SCALE: u64 = 1_000;

/// What bounds the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests in all.
    pub requests: usize,
    /// Requests of one tenant.
    pub requests_per_tenant: usize,
    /// How long a request waits.
    pub wait: Duration,
}

/// What the queue has to know of a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Waiting<'a> {
    /// Whose it is, and what it may go before.
    pub standing: Standing<'a>,
    /// Prompt tokens that no worker has cached.
    pub uncached_tokens: u64,
}

/// A place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(u64);

/// A request that got into the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued<T> {
    /// Its place.
    pub place: Place,
    /// The request that had to leave for it, and the place that it had. It is to be refused with
    /// [`QueueRefusal::Displaced`].
    pub displaced: Option<(Place, T)>,
}

/// A request whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted<T> {
    /// The place that it had.
    pub place: Place,
    /// What was put in.
    pub item: T,
    /// When that was.
    pub arrived: Duration,
    /// What other replicas have to know of it.
    pub served: Served,
}

/// The first request of a queue, as it stands among those of other replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its level.
    pub strict_priority: u32,
    /// Its tenant's virtual time.
    pub time: u64,
    /// When it came, by this replica's clock.
    pub arrived: Duration,
}

/// Why a request cannot wait, or can wait no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QueueRefusal {
    /// The queue is full and this tenant holds its share of it.
    #[error("all workers are saturated and {limit} requests wait already; try again later")]
    Full {
        /// [`QueueLimits::requests`].
        limit: usize,
    },
    /// The tenant's part of the queue is full.
    #[error("{limit} requests of this tenant wait already; send fewer at once")]
    TenantFull {
        /// [`QueueLimits::requests_per_tenant`].
        limit: usize,
    },
    /// The queue was full, and this tenant had the most in it.
    #[error("the queue is full and this tenant has the most requests in it; send fewer at once")]
    Displaced,
    /// Its time is up.
    #[error("no worker had room within {}s; try again later", limit.as_secs_f64())]
    TimedOut {
        /// [`QueueLimits::wait`].
        limit: Duration,
    },
}

impl From<QueueRefusal> for RequestError {
    fn from(refusal: QueueRefusal) -> Self {
        let code = match refusal {
            QueueRefusal::Full { .. } => ErrorCode::NoCapacity,
            QueueRefusal::TenantFull { .. } | QueueRefusal::Displaced => ErrorCode::RateLimited,
            QueueRefusal::TimedOut { .. } => ErrorCode::QueueTimeout,
        };
        Self::new(code, refusal.to_string())
    }
}

/// A tenant's name as a number, so that memory does not depend on what clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Tenant(u64);

#[derive(Debug)]
struct Entry<T> {
    item: T,
    tenant: Tenant,
    strict_priority: u32,
    rank: u64,
    tokens: u64,
    arrived: Duration,
}

/// The requests of one strict priority.
#[derive(Debug, Default)]
struct Level {
    /// Virtual time: where the tenant served last stood.
    clock: u64,
    /// Tenants that wait, by their virtual time.
    order: BTreeSet<(u64, Tenant)>,
    /// Tenants that rest and are ahead of the clock, by their virtual time.
    resting: BTreeSet<(u64, Tenant)>,
    tenants: BTreeMap<Tenant, Line>,
}

/// One tenant's requests of one strict priority.
#[derive(Debug, Default)]
struct Line {
    time: u64,
    requests: BTreeSet<(u64, Place)>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Queue<T> {
    policy: QueuePolicy,
    limits: QueueLimits,
    next: u64,
    /// In the order of arrival.
    waiting: Recency<Place, Entry<T>>,
    levels: BTreeMap<Reverse<u32>, Level>,
    counts: BTreeMap<Tenant, usize>,
    tokens: u64,
    turns: Turns,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(policy: QueuePolicy, limits: QueueLimits) -> Self {
        Self {
            policy,
            limits,
            next: 0,
            waiting: Recency::default(),
            levels: BTreeMap::new(),
            counts: BTreeMap::new(),
            tokens: 0,
            turns: Turns::default(),
        }
    }

    /// Puts a request in, or says why not and gives it back.
    pub fn offer(
        &mut self,
        item: T,
        waiting: &Waiting<'_>,
        now: Duration,
    ) -> Result<Queued<T>, (T, QueueRefusal)> {
        let standing = &waiting.standing;
        let tenant = Tenant(standing.tenant.map_or(0, |name| xxh3_64(name.as_bytes())));
        let held = self.counts.get(&tenant).copied().unwrap_or(0);
        let limit = self.limits.requests_per_tenant;
        if held >= limit {
            return Err((item, QueueRefusal::TenantFull { limit }));
        }
        let mut displaced = None;
        if self.waiting.len() >= self.limits.requests {
            displaced = self.displace_for(held);
            if displaced.is_none() {
                let limit = self.limits.requests;
                return Err((item, QueueRefusal::Full { limit }));
            }
        }
        let place = Place(self.next);
        self.next += 1;
        // A request without uncached tokens is not free.
        let tokens = waiting.uncached_tokens.max(1);
        let entry = Entry {
            item,
            tenant,
            strict_priority: standing.strict_priority,
            rank: rank(self.policy, standing.priority, tokens, now),
            tokens,
            arrived: now,
        };
        self.line_up(place, &entry);
        self.waiting.insert(place, entry);
        Ok(Queued { place, displaced })
    }

    /// Takes out the next request for which some workers have room, `room` says how many, if it is
    /// this replica's turn. It is asked of the first one of each tenant, in order, a few times at
    /// most.
    pub fn admit(&mut self, now: Duration, mut room: impl FnMut(&T) -> u32) -> Option<Admitted<T>> {
        let waiting = &self.waiting;
        let in_order = self.levels.values().flat_map(|level| {
            let lines = level.order.iter();
            lines.filter_map(|(_, tenant)| level.tenants.get(tenant)?.requests.first())
        });
        let ready = in_order.take(MAX_ASKED).find_map(|(_, place)| {
            let entry = waiting.get(place)?;
            let room = room(&entry.item);
            (room > 0).then_some((*place, room))
        });
        let Some((place, room)) = ready else {
            self.turns.rest();
            return None;
        };
        let head = self.head_of(place)?;
        if !self.turns.take(head, room, now) {
            return None;
        }
        let entry = self.take(place)?;
        if let Some(level) = self.levels.get_mut(&Reverse(entry.strict_priority)) {
            level.serve(entry.tenant, entry.tokens);
        }
        self.tidy(entry.strict_priority);
        Some(Admitted {
            place,
            item: entry.item,
            arrived: entry.arrived,
            served: Served {
                tenant: entry.tenant.0,
                strict_priority: entry.strict_priority,
                time: head.time,
                tokens: entry.tokens,
            },
        })
    }

    /// Tells what an admitted request really costs its tenant. When it came, and that was what it
    /// was admitted for, other blocks were cached.
    pub fn correct(&mut self, served: &mut Served, uncached_tokens: u64) {
        let tokens = uncached_tokens.max(1);
        if let Some(level) = self.levels.get_mut(&Reverse(served.strict_priority)) {
            level.correct(Tenant(served.tenant), served.tokens, tokens);
        }
        served.tokens = tokens;
    }

    /// The first request, if any waits.
    pub fn head(&self) -> Option<Head> {
        let level = self.levels.values().find(|it| !it.order.is_empty())?;
        let (_, tenant) = level.order.first()?;
        let (_, place) = level.tenants.get(tenant)?.requests.first()?;
        self.head_of(*place)
    }

    /// What another replica says of its first request.
    pub fn hear_head(&mut self, origin: u64, head: Option<Head>) {
        self.turns.hear(origin, head);
    }

    /// Another replica has let a request of a tenant go.
    pub fn hear_served(&mut self, served: Served) {
        if let Some(level) = self.levels.get_mut(&Reverse(served.strict_priority)) {
            level.serve_elsewhere(Tenant(served.tenant), served.time, served.tokens);
        }
    }

    /// Whether requests wait at other replicas.
    pub fn others_wait(&self) -> bool {
        self.turns.others_wait()
    }

    fn head_of(&self, place: Place) -> Option<Head> {
        let entry = self.waiting.get(&place)?;
        let level = self.levels.get(&Reverse(entry.strict_priority))?;
        Some(Head {
            strict_priority: entry.strict_priority,
            time: level.tenants.get(&entry.tenant)?.time,
            arrived: entry.arrived,
        })
    }

    /// Takes a request out whose client went away.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        let entry = self.take(place)?;
        self.tidy(entry.strict_priority);
        Some(entry.item)
    }

    /// Takes out a request that has waited for too long; to be called until there is none.
    pub fn pop_expired(&mut self, now: Duration) -> Option<(Place, T, QueueRefusal)> {
        let (place, entry) = self.waiting.oldest()?;
        let limit = self.limits.wait;
        if entry.arrived + limit > now {
            return None;
        }
        let place = *place;
        let item = self.remove(place)?;
        Some((place, item, QueueRefusal::TimedOut { limit }))
    }

    /// When the next request will have waited for too long, or for other replicas for long enough.
    pub fn next_expiry(&self) -> Option<Duration> {
        let (_, entry) = self.waiting.oldest()?;
        let expiry = entry.arrived + self.limits.wait;
        let turn = self.turns.held_until();
        Some(turn.map_or(expiry, |turn| turn.min(expiry)))
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Uncached prompt tokens that wait.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Tenants with waiting requests.
    pub fn tenants(&self) -> usize {
        self.counts.len()
    }

    fn line_up(&mut self, place: Place, entry: &Entry<T>) {
        *self.counts.entry(entry.tenant).or_default() += 1;
        self.tokens = self.tokens.saturating_add(entry.tokens);
        let level = self.levels.entry(Reverse(entry.strict_priority));
        let level = level.or_default();
        // Where others are, so that who comes here has not waited longer than who waits there.
        level.clock = level.clock.max(self.turns.floor(entry.strict_priority));
        level.line_up(entry.tenant, (entry.rank, place));
    }

    fn take(&mut self, place: Place) -> Option<Entry<T>> {
        let entry = self.waiting.remove(&place)?;
        self.tokens = self.tokens.saturating_sub(entry.tokens);
        if let Some(count) = self.counts.get_mut(&entry.tenant) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&entry.tenant);
            }
        }
        if let Some(level) = self.levels.get_mut(&Reverse(entry.strict_priority)) {
            level.leave(entry.tenant, (entry.rank, place));
        }
        Some(entry)
    }

    /// A level that nobody waits in has nobody to be fair to.
    fn tidy(&mut self, strict_priority: u32) {
        let key = Reverse(strict_priority);
        if self.levels.get(&key).is_some_and(|it| it.order.is_empty()) {
            self.levels.remove(&key);
        }
    }

    /// Makes room for a tenant with `held` waiting requests by taking the last one of the tenant
    /// that has the most, if that is more than the other would have.
    fn displace_for(&mut self, held: usize) -> Option<(Place, T)> {
        let heaviest = self.counts.iter().max_by_key(|(_, count)| **count);
        let tenant = heaviest
            .filter(|(_, count)| **count > held + 1)
            .map(|(tenant, _)| *tenant)?;
        let mut lines = self.levels.values().rev();
        let line = lines.find_map(|level| level.tenants.get(&tenant))?;
        let (_, place) = *line.requests.last()?;
        Some((place, self.remove(place)?))
    }
}

impl Level {
    fn line_up(&mut self, tenant: Tenant, request: (u64, Place)) {
        let line = self.tenants.entry(tenant).or_default();
        if line.requests.is_empty() {
            self.resting.remove(&(line.time, tenant));
            line.time = line.time.max(self.clock);
            self.order.insert((line.time, tenant));
        }
        line.requests.insert(request);
    }

    fn leave(&mut self, tenant: Tenant, request: (u64, Place)) {
        let Some(line) = self.tenants.get_mut(&tenant) else {
            return;
        };
        line.requests.remove(&request);
        if line.requests.is_empty() {
            self.order.remove(&(line.time, tenant));
            self.resting.insert((line.time, tenant));
            self.forget_rested();
        }
    }

    /// Moves a tenant's time on by what was served to it.
    fn serve(&mut self, tenant: Tenant, tokens: u64) {
        if let Some(before) = self.move_time(tenant, |time| time.saturating_add(tokens)) {
            self.clock = self.clock.max(before);
            self.forget_rested();
        }
    }

    /// Takes back what was said to be served to a tenant last, for what was.
    fn correct(&mut self, tenant: Tenant, said: u64, tokens: u64) {
        self.move_time(tenant, |time| {
            time.saturating_sub(said).saturating_add(tokens)
        });
        self.forget_rested();
    }

    /// Changes a tenant's time. Answers what it was.
    fn move_time(&mut self, tenant: Tenant, to: impl FnOnce(u64) -> u64) -> Option<u64> {
        let line = self.tenants.get_mut(&tenant)?;
        let before = line.time;
        line.time = to(before);
        if self.order.remove(&(before, tenant)) {
            self.order.insert((line.time, tenant));
        } else if self.resting.remove(&(before, tenant)) {
            self.resting.insert((line.time, tenant));
        }
        Some(before)
    }

    /// Moves a tenant's time on by what another replica served to it.
    fn serve_elsewhere(&mut self, tenant: Tenant, time: u64, tokens: u64) {
        let line = self.tenants.entry(tenant).or_default();
        let before = line.time;
        let after = before.max(time).saturating_add(tokens);
        line.time = after;
        if self.order.remove(&(before, tenant)) {
            self.order.insert((after, tenant));
        } else {
            self.resting.remove(&(before, tenant));
            self.resting.insert((after, tenant));
        }
        self.clock = self.clock.max(time);
        self.forget_rested();
    }

    /// Who rests and is not ahead of the clock starts anew like anybody.
    fn forget_rested(&mut self) {
        while let Some((time, tenant)) = self.resting.first().copied()
            && (time < self.clock || self.resting.len() > MAX_RESTING_TENANTS)
        {
            self.resting.remove(&(time, tenant));
            self.tenants.remove(&tenant);
        }
    }
}

/// Less goes first.
fn rank(policy: QueuePolicy, priority: i32, tokens: u64, now: Duration) -> u64 {
    let jump = u64::from(priority.max(0).unsigned_abs());
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    // Times from the middle of the range on, so that a jump before the start is one.
    let time = (u64::MAX / 2).saturating_add(millis);
    match policy {
        QueuePolicy::Fcfs => time.saturating_sub(jump * 1_000),
        QueuePolicy::Lcfs => u64::MAX - time.saturating_add(jump * 1_000),
        QueuePolicy::Wspt => tokens.saturating_mul(WSPT_SCALE) / (1 + jump),
    }
}

#[cfg(test)]
mod tests;

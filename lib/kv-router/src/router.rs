//! The router as one value: workers, bookings, choices, the queue, and what is remembered of them.
//!
//! A thin shell holds it under a lock, tells it what happens, and does what it answers
//! - workers: [`Router::put_worker`], [`Router::observe`], [`Router::remove_worker`],
//!   [`Router::cache_cleared`], [`Router::set_events`]
//! - a request: [`Router::submit`], then for each ticket [`Router::first_token`],
//!   [`Router::block_filled`] and [`Router::end`]; [`Router::cancel`] while it waits
//! - the queue: [`Router::tick`] until it answers `None`, whenever a request has waited, got its
//!   first token or ended, a worker changed, or [`Router::next_expiry`] has come
//! - replicas: [`Router::take_changes`] and [`Router::snapshot`] out, [`Router::apply`] and
//!   [`Router::apply_snapshot`] in
//!
//! What it does not do: look into the index. Overlaps are passed in; so are slots, which index and
//! router share, and which their owner gives out and takes back.
//!
//! Invariants
//! - a request that got through [`Router::submit`] or [`Router::tick`] is booked, logged and
//!   counted; nothing else books
//! - while one request waits, later ones line up: none passes it unless the queue lets it

mod absent;
mod answer;
mod exchange;
mod replicas;

use crate::approximate::Approximate;
use crate::book::{Book, BookChange};
use crate::choice::{Choice, Chooser, NoChoice, Situation};
use crate::config::RouterOptions;
use crate::cost::WorkerOverlap;
use crate::decision_log::{DecisionLog, Outcome};
use crate::explain::Explanation;
use crate::filter::BusyThresholds;
use crate::fleet::{Fleet, WorkerState};
use crate::hit_rate::HitRate;
use crate::mode::{Random, RouterMode};
use crate::queue::{Head, Place, Queue, QueueRefusal, Waiting};
use crate::request::{KeptRequest, RouteRequest};
use crate::worker::{Slot, WorkerKey};
use absent::Absent;
pub use answer::{Placed, Refusal, Released, Submitted, Ticket};
use dynamo_protocols::kv::SequenceHash;
use dynamo_protocols::load::LoadReport;
use exchange::Outbox;
pub use exchange::{Change, Changes, WaitingHead};
use std::num::NonZeroU32;
use std::time::Duration;

/// Finds what workers have cached of a prompt and puts it into the list, which is empty.
pub type FindOverlaps<'a> = &'a mut dyn FnMut(&[SequenceHash], &mut Vec<WorkerOverlap>);

/// See the module's description.
#[derive(Debug)]
pub struct Router {
    options: RouterOptions,
    fleet: Fleet,
    book: Book,
    chooser: Chooser,
    approximate: Option<Approximate>,
    queue: Queue<KeptRequest>,
    log: DecisionLog,
    hit_rate: HitRate,
    outbox: Option<Outbox>,
    absent: Absent,
    /// What other replicas were told last of the queue.
    told_head: Option<Head>,
    /// Overlaps of the prompt at hand; kept for its memory.
    overlaps: Vec<WorkerOverlap>,
}

impl Router {
    /// A router without workers for a model with blocks of this size. Replicas of one router have
    /// an `origin` each.
    pub fn new(options: &RouterOptions, block_size: NonZeroU32, origin: u64) -> Self {
        Self {
            fleet: Fleet::default(),
            book: Book::new(origin),
            chooser: Chooser::new(options.policy(block_size, false)),
            approximate: options.forgetting().map(Approximate::new),
            queue: Queue::new(options.router_queue_policy, options.queue_limits()),
            log: DecisionLog::default(),
            hit_rate: HitRate::default(),
            outbox: options.router_replica_sync.then(Outbox::default),
            absent: Absent::default(),
            told_head: None,
            overlaps: Vec::new(),
            options: options.clone(),
        }
    }

    // === workers ===

    /// Adds a worker, or replaces what is known of it. With another slot than before it is another
    /// worker under the same name, and what was given to the former one is forgotten.
    pub fn put_worker(&mut self, worker: WorkerState) {
        let former = self.fleet.get(worker.key).map(|it| it.slot);
        if former.is_some_and(|slot| slot != worker.slot) {
            self.remove_worker(worker.key);
        }
        if let (Some(approximate), Some(blocks)) = (&mut self.approximate, worker.total_blocks) {
            approximate.set_capacity(worker.slot, blocks);
        }
        let (key, slot) = (worker.key, worker.slot);
        self.fleet.put(worker);
        if former != Some(slot) {
            self.book_absent(key, slot);
        }
    }

    /// Takes a worker out with all that was given to it. Its slot may be given to another worker
    /// as soon as the index has forgotten it too.
    pub fn remove_worker(&mut self, key: WorkerKey) -> Option<Slot> {
        let slot = self.fleet.remove(key)?.slot;
        self.book.remove_worker(slot);
        self.cache_cleared(slot);
        Some(slot)
    }

    /// A worker tells how it is doing.
    pub fn observe(&mut self, key: WorkerKey, report: &LoadReport) {
        let Some(worker) = self.fleet.get_mut(key) else {
            return;
        };
        worker.observe(report);
        if let (Some(approximate), Some(blocks)) = (&mut self.approximate, worker.total_blocks) {
            approximate.set_capacity(worker.slot, blocks);
        }
    }

    /// Says whether a worker takes new work.
    pub fn set_draining(&mut self, key: WorkerKey, draining: bool) {
        if let Some(worker) = self.fleet.get_mut(key) {
            worker.draining = draining;
        }
    }

    /// A worker's cache is empty: what was sent to it counts no more.
    pub fn cache_cleared(&mut self, slot: Slot) {
        if let Some(approximate) = &mut self.approximate {
            approximate.clear(slot);
        }
    }

    /// Says whether any worker tells what its cache holds, on which the mode `auto` depends.
    pub fn set_events(&mut self, any_events: bool) {
        self.chooser.set_mode(self.options.mode(any_events));
    }

    /// Sets from which load on workers are busy.
    pub fn set_busy_thresholds(&mut self, busy: BusyThresholds) {
        self.chooser.set_busy_thresholds(busy);
    }

    // === requests ===

    /// Finds a worker for a request, or lets it wait. `overlaps` is what workers have cached of
    /// its prompt; those with nothing may be left out.
    pub fn submit(
        &mut self,
        request: &RouteRequest<'_>,
        overlaps: &[WorkerOverlap],
        now: Duration,
        random: Random<'_>,
    ) -> Result<Submitted, Refusal> {
        self.expire(now);
        if self.queue.is_empty() && !self.queue.others_wait() {
            self.load_overlaps(request.hashes, |list| list.extend_from_slice(overlaps));
            match self.place(request, now, Duration::ZERO, random) {
                Ok(placed) => return Ok(Submitted::Placed(placed)),
                Err(NoChoice::Saturated { .. }) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(self.park(request, overlaps, now)?)
    }

    /// Lets a request go that has waited, if one can, or refuses one that has waited for too long.
    /// To be called until it answers `None`.
    pub fn tick(
        &mut self,
        now: Duration,
        random: Random<'_>,
        find: FindOverlaps<'_>,
    ) -> Option<Released> {
        self.expire(now);
        if let Some((place, _, refusal)) = self.queue.pop_expired(now) {
            let result = Err(refusal.into());
            return Some(Released { place, result });
        }
        let situation = Situation {
            fleet: &self.fleet,
            overlaps: &[],
            now,
        };
        // What may go to any worker waits if another such request does.
        let mut do_plain_wait = false;
        let admitted = self.queue.admit(now, |kept| {
            if do_plain_wait && kept.is_plain() {
                return 0;
            }
            let chooser = &mut self.chooser;
            let room = chooser.room(&self.book, &situation, &kept.as_request());
            do_plain_wait |= room == 0 && kept.is_plain();
            room
        })?;
        let waited = now.saturating_sub(admitted.arrived);
        let request = admitted.item.as_request();
        self.load_overlaps(request.hashes, |list| find(request.hashes, list));
        let placed = self.place(&request, now, waited, random);
        let mut served = admitted.served;
        if let Ok(placed) = &placed {
            let ticket = &placed.ticket;
            let tokens = ticket.isl_tokens.saturating_sub(ticket.predicted_tokens);
            self.queue.correct(&mut served, tokens);
        }
        self.publish(|| Change::Served(served));
        Some(Released {
            place: admitted.place,
            result: placed.map_err(Refusal::from),
        })
    }

    /// When [`tick`](Self::tick) has something to do at the latest.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.queue.next_expiry()
    }

    /// The client of a waiting request went away. Answers whether it still waited.
    pub fn cancel(&mut self, place: Place) -> bool {
        self.queue.remove(place).is_some()
    }

    /// A request has its first token.
    pub fn first_token(&mut self, ticket: &Ticket, now: Duration) {
        self.book.first_token(ticket.booking, now);
        self.log.first_token(ticket.decision, now);
        self.publish(|| Change::Booking(BookChange::FirstToken(ticket.booking)));
    }

    /// A request has filled a block with output. This is also what shows that it still runs, so it
    /// is to be called whether or not output blocks count.
    pub fn block_filled(
        &mut self,
        ticket: &Ticket,
        hash: Option<SequenceHash>,
        generated_tokens: u32,
        now: Duration,
    ) {
        let id = ticket.booking;
        if !self.options.router_track_output_blocks {
            self.book.touch(id, now);
            self.publish(|| Change::Booking(BookChange::Alive(id)));
            return;
        }
        let hash = hash.filter(|_| self.options.router_assume_kv_reuse);
        self.book.block(id, hash, generated_tokens, now);
        self.publish(|| {
            Change::Booking(BookChange::Block {
                id,
                hash,
                generated_tokens,
            })
        });
    }

    /// A request has ended on its worker, however it did.
    pub fn end(&mut self, ticket: &Ticket, outcome: Outcome) {
        self.book.end(ticket.booking);
        if let Some(cached) = outcome.cached_tokens {
            let predicted = ticket.predicted_tokens;
            self.hit_rate.served(ticket.isl_tokens, predicted, cached);
        }
        self.log.conclude(ticket.decision, outcome);
        self.publish(|| Change::Booking(BookChange::Ended(ticket.booking)));
    }

    /// A session has ended: its next request is free to go anywhere.
    pub fn end_session(&mut self, session: &str) {
        if let Some(affinity) = self.chooser.affinity_mut() {
            affinity.end(session);
            self.publish(|| Change::session(session, None));
        }
    }

    /// Explains where a request would go, and changes nothing.
    pub fn explain(
        &mut self,
        request: &RouteRequest<'_>,
        overlaps: &[WorkerOverlap],
        now: Duration,
        random: Random<'_>,
    ) -> Explanation {
        self.expire(now);
        self.load_overlaps(request.hashes, |list| list.extend_from_slice(overlaps));
        let situation = Situation {
            fleet: &self.fleet,
            overlaps: &self.overlaps,
            now,
        };
        self.chooser
            .explain(&self.book, &situation, request, random)
    }

    // === what it knows ===

    /// How workers are picked.
    pub fn mode(&self) -> RouterMode {
        self.chooser.policy().mode
    }

    /// The workers.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// What they have been given.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The last decisions.
    pub fn decisions(&self) -> &DecisionLog {
        &self.log
    }

    /// How much was found in caches.
    pub fn hit_rate(&self) -> &HitRate {
        &self.hit_rate
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Their uncached prompt tokens.
    pub fn waiting_tokens(&self) -> u64 {
        self.queue.tokens()
    }

    /// Chooses for a request whose overlaps are loaded, and enters the choice everywhere.
    fn place(
        &mut self,
        request: &RouteRequest<'_>,
        now: Duration,
        waited: Duration,
        random: Random<'_>,
    ) -> Result<Placed, NoChoice> {
        let situation = Situation {
            fleet: &self.fleet,
            overlaps: &self.overlaps,
            now,
        };
        let book = &mut self.book;
        let choice = self
            .chooser
            .pick_and_book(book, &situation, request, random)?;
        if let Some(approximate) = &mut self.approximate {
            approximate.send(choice.slot, request.hashes, now);
        }
        self.hit_rate.routed(request.hashes, &choice);
        if let Some(outbox) = &mut self.outbox {
            outbox.push(Change::Booking(self.chooser.booked(request, &choice)));
            if let Some(session) = request.session.filter(|_| self.chooser.binds()) {
                outbox.push(Change::session(session, Some(choice.worker)));
            }
        }
        Ok(self.enter(choice, now, waited))
    }

    fn enter(&mut self, choice: Choice, now: Duration, waited: Duration) -> Placed {
        let placed = Placed {
            ticket: Ticket {
                booking: choice.booking,
                decision: self.log.next_number(),
                isl_tokens: choice.basis.isl_tokens,
                predicted_tokens: choice.cached_tokens,
            },
            worker: choice.worker,
            slot: choice.slot,
            mode: choice.mode,
            rule: choice.rule,
            facts: choice.facts,
            parts: choice.parts,
        };
        self.log.record(choice, now, waited);
        placed
    }

    fn park(
        &mut self,
        request: &RouteRequest<'_>,
        overlaps: &[WorkerOverlap],
        now: Duration,
    ) -> Result<Submitted, QueueRefusal> {
        let block_size = u64::from(self.chooser.policy().block_size.get());
        let cached = overlaps.iter().map(WorkerOverlap::total).max();
        let cached_tokens = u64::from(cached.unwrap_or(0)) * block_size;
        let waiting = Waiting {
            standing: request.standing,
            uncached_tokens: request.isl_tokens.saturating_sub(cached_tokens),
        };
        let offered = self.queue.offer(KeptRequest::new(request), &waiting, now);
        let queued = offered.map_err(|(_, refusal)| refusal)?;
        Ok(Submitted::Waits {
            place: queued.place,
            displaced: queued.displaced.map(|(place, _)| place),
        })
    }

    /// Puts what workers have of a prompt, or should have by what was sent, where choices find it.
    fn load_overlaps(
        &mut self,
        prompt: &[SequenceHash],
        find: impl FnOnce(&mut Vec<WorkerOverlap>),
    ) {
        self.overlaps.clear();
        find(&mut self.overlaps);
        if let Some(approximate) = &mut self.approximate {
            approximate.raise(prompt, &mut self.overlaps);
        }
    }

    /// Forgets whatever is too old by now.
    fn expire(&mut self, now: Duration) {
        self.book.expire(now);
        if let Some(approximate) = &mut self.approximate {
            approximate.expire(now);
        }
        if let Some(affinity) = self.chooser.affinity_mut() {
            affinity.expire(now);
        }
    }
}

#[cfg(test)]
mod tests;

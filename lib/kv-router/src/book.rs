//! The book of active requests: what each worker has been given and not yet finished.
//!
//! Per slot it keeps the prompt tokens that wait for their first token, the distinct KV blocks in
//! use (prefixes that requests share count once), and the number of requests. A choice reads it
//! and is entered into it in one step, so that a burst does not see an idle worker twice.
//!
//! Life of a booking: booked by a choice, [`Book::first_token`], [`Book::block`] for each
//! full block of output, [`Book::end`]. Replicas of a router send each other the same steps as
//! [`BookChange`]s.
//!
//! Invariants
//! - the load of a slot is what its bookings add up to, in any order of steps; steps of bookings
//!   that are not there change nothing
//! - bookings are bounded twice: in number, and in time without a sign of life

mod change;

use crate::recency::Recency;
use crate::trie::{ROOT, Trie};
use crate::worker::{Slot, WorkerKey};
use dynamo_protocols::kv::SequenceHash;
use serde::{Deserialize, Serialize};
use std::time::Duration;

pub use change::BookChange;

/// Bookings at once: 2,500 workers with a hundred requests each. Past it the one longest without
/// a sign of life makes room: it is more likely forgotten than running.
pub const MAX_BOOKINGS: usize = 262_144;

/// How long a booking lasts without a sign of life. A request that still runs gives one with
/// every block; one whose end was lost (a replica that died) must not weigh for ever.
pub const STALE_AFTER: Duration = Duration::from_secs(300);

/// Most tokens and most blocks of one booking: more than any prompt has, and little enough that
/// sums over [`MAX_BOOKINGS`] stay far from overflow whatever a peer tells.
const MOST_OF_ONE: u64 = 1 << 32;

/// Discounts are kept in thousandths of a block, so that what is added is exactly taken away.
const MILLI: u64 = 1_000;

/// A booking's name among all replicas of a router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BookingId {
    /// The replica that made it.
    pub origin: u64,
    /// Its number there.
    pub number: u64,
}

/// What a worker has to do for one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work<'a> {
    /// Prompt tokens that the worker does not have cached.
    pub prefill_tokens: u64,
    /// The prompt's full blocks that may be shared with other requests.
    pub blocks: &'a [SequenceHash],
    /// Blocks that are shared with nobody.
    pub own_blocks: u64,
    /// Tokens the answer is expected to have.
    pub expected_output_tokens: Option<u32>,
}

/// What a slot's bookings come to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Prompt tokens of requests without a first token yet.
    pub prefill_tokens: u64,
    /// Distinct blocks in use.
    pub blocks: u64,
    /// Requests in flight.
    pub requests: u32,
    /// Thousandths of blocks that are soon free, because their requests near their end.
    discount: u64,
}

impl Load {
    /// Blocks in use, those of requests that near their end counted in part.
    #[inline]
    pub fn active_blocks(&self) -> f64 {
        if self.discount == 0 {
            return self.blocks as f64;
        }
        self.blocks as f64 - self.discount as f64 / MILLI as f64
    }
}

#[derive(Debug)]
struct Booking {
    slot: Slot,
    leaf: u32,
    prefill_tokens: u64,
    own_blocks: u64,
    expected_output_tokens: Option<u32>,
    discount: u64,
    seen: Duration,
}

/// Bookings that were ended by the book itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Without a sign of life for [`STALE_AFTER`].
    pub stale: u64,
    /// Over [`MAX_BOOKINGS`].
    pub displaced: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct Book {
    origin: u64,
    next: u64,
    bookings: Recency<BookingId, Booking>,
    loads: Vec<Load>,
    trie: Trie,
    dropped: Dropped,
}

impl Book {
    /// An empty book of the replica `origin`.
    pub fn new(origin: u64) -> Self {
        Self {
            origin,
            next: 0,
            bookings: Recency::default(),
            loads: Vec::new(),
            trie: Trie::default(),
            dropped: Dropped::default(),
        }
    }

    /// Enters a request that goes to `slot`. Who does this outside of a choice defeats its purpose.
    pub(crate) fn book(&mut self, slot: Slot, work: Work<'_>, now: Duration) -> BookingId {
        let id = BookingId {
            origin: self.origin,
            number: self.next,
        };
        self.next += 1;
        self.enter(id, slot, work, now);
        id
    }

    /// The first token is there: nothing of the prompt is left to compute.
    pub fn first_token(&mut self, id: BookingId, now: Duration) {
        let Some(booking) = self.bookings.touch(&id) else {
            return;
        };
        booking.seen = now;
        let tokens = std::mem::take(&mut booking.prefill_tokens);
        let slot = booking.slot;
        self.load_mut(slot).prefill_tokens -= tokens;
    }

    /// The request still runs.
    pub fn touch(&mut self, id: BookingId, now: Duration) {
        if let Some(booking) = self.bookings.touch(&id) {
            booking.seen = now;
        }
    }

    /// A block of output is full. With its hash it counts as shared with whoever continues the
    /// same sequence.
    pub fn block(
        &mut self,
        id: BookingId,
        hash: Option<SequenceHash>,
        generated_tokens: u32,
        now: Duration,
    ) {
        let Some(booking) = self.bookings.touch(&id) else {
            return;
        };
        booking.seen = now;
        let slot = booking.slot;
        let mut added = 1;
        if let Some(hash) = hash {
            (booking.leaf, added) = self.trie.lengthen(booking.leaf, hash, slot);
        } else {
            booking.own_blocks += 1;
        }
        let own = booking.own_blocks + self.trie.exclusive(booking.leaf, slot);
        let progress = match booking.expected_output_tokens {
            Some(expected) => {
                let expected = u64::from(expected.max(1));
                u64::from(generated_tokens).min(expected) * MILLI / expected
            }
            None => 0,
        };
        let discount = own * progress;
        let before = std::mem::replace(&mut booking.discount, discount);
        let load = self.load_mut(slot);
        load.blocks += added;
        load.discount = load.discount - before + discount;
    }

    /// The request has ended, however it did. Answers whether it was there.
    pub fn end(&mut self, id: BookingId) -> bool {
        let Some(booking) = self.bookings.remove(&id) else {
            return false;
        };
        let removed = self.trie.release(booking.leaf, booking.slot) + booking.own_blocks;
        let load = self.load_mut(booking.slot);
        load.prefill_tokens -= booking.prefill_tokens;
        load.blocks -= removed;
        load.discount -= booking.discount;
        load.requests -= 1;
        true
    }

    /// Ends every booking of a worker that is gone; answers how many there were. To be called
    /// before the slot is used again.
    pub fn remove_worker(&mut self, slot: Slot) -> usize {
        self.end_where(|_, booking| booking.slot == slot)
    }

    /// Ends every booking of a replica that is gone; answers how many there were.
    pub fn remove_replica(&mut self, origin: u64) -> usize {
        self.end_where(|id, _| id.origin == origin)
    }

    /// Ends what has given no sign of life for [`STALE_AFTER`]; answers how many.
    pub fn expire(&mut self, now: Duration) -> usize {
        let mut ended = 0;
        while let Some((id, booking)) = self.bookings.oldest()
            && booking.seen + STALE_AFTER <= now
        {
            let id = *id;
            self.end(id);
            ended += 1;
            self.dropped.stale += 1;
        }
        ended
    }

    /// Takes over a step of another replica. Its workers are known here by `slot_of`; bookings of
    /// workers that are not known here are left out, and so are steps of bookings made here.
    pub fn apply(
        &mut self,
        change: &BookChange,
        slot_of: impl FnOnce(WorkerKey) -> Option<Slot>,
        now: Duration,
    ) {
        if change.id().origin == self.origin {
            return;
        }
        match change {
            BookChange::Booked {
                id,
                worker,
                prefill_tokens,
                blocks,
                own_blocks,
                expected_output_tokens,
            } => {
                let work = Work {
                    prefill_tokens: *prefill_tokens,
                    blocks,
                    own_blocks: *own_blocks,
                    expected_output_tokens: *expected_output_tokens,
                };
                if let Some(slot) = slot_of(*worker) {
                    self.enter(*id, slot, work, now);
                }
            }
            BookChange::FirstToken(id) => self.first_token(*id, now),
            BookChange::Block {
                id,
                hash,
                generated_tokens,
            } => self.block(*id, *hash, *generated_tokens, now),
            BookChange::Alive(id) => self.touch(*id, now),
            BookChange::Ended(id) => {
                self.end(*id);
            }
        }
    }

    /// The bookings as steps that make the same loads elsewhere, for a replica that starts. Only
    /// how near requests are to their ends is left out until their next blocks.
    pub fn snapshot(
        &self,
        key_of: impl Fn(Slot) -> Option<WorkerKey>,
    ) -> impl Iterator<Item = BookChange> {
        self.bookings.iter().filter_map(move |(id, booking)| {
            Some(BookChange::Booked {
                id: *id,
                worker: key_of(booking.slot)?,
                prefill_tokens: booking.prefill_tokens,
                blocks: self.trie.chain(booking.leaf),
                own_blocks: booking.own_blocks,
                expected_output_tokens: booking.expected_output_tokens,
            })
        })
    }

    /// The replica whose book this is.
    pub fn origin(&self) -> u64 {
        self.origin
    }

    /// What a slot's bookings come to.
    #[inline]
    pub fn load(&self, slot: Slot) -> Load {
        self.loads.get(index(slot)).copied().unwrap_or_default()
    }

    /// For each slot that holds some of a prompt's first blocks for active requests: how many.
    /// Slots come in no particular order and may come again with a larger number, which counts.
    pub fn shared_blocks(&self, prompt: &[SequenceHash], mut visit: impl FnMut(Slot, u32)) {
        self.trie.walk(prompt, |holders, depth| {
            for (slot, _) in holders {
                visit(*slot, depth);
            }
        });
    }

    /// Bookings in the book.
    pub fn len(&self) -> usize {
        self.bookings.len()
    }

    /// Whether nothing is booked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the book had to end by itself.
    pub fn dropped(&self) -> Dropped {
        self.dropped
    }

    fn end_where(&mut self, is_over: impl Fn(&BookingId, &Booking) -> bool) -> usize {
        let over = self.bookings.iter().filter(|(id, held)| is_over(id, held));
        let ids: Vec<BookingId> = over.map(|(id, _)| *id).collect();
        for id in &ids {
            self.end(*id);
        }
        ids.len()
    }

    fn enter(&mut self, id: BookingId, slot: Slot, work: Work<'_>, now: Duration) {
        // A replica that tells the same booking twice means the later one.
        self.end(id);
        if self.bookings.len() >= MAX_BOOKINGS
            && let Some(oldest) = self.bookings.oldest().map(|(id, _)| *id)
        {
            self.end(oldest);
            self.dropped.displaced += 1;
        }
        let prefill_tokens = work.prefill_tokens.min(MOST_OF_ONE);
        let own_blocks = work.own_blocks.min(MOST_OF_ONE);
        let (leaf, added) = match work.blocks {
            [] => (ROOT, 0),
            blocks => self.trie.hold(ROOT, blocks, slot),
        };
        let load = self.load_mut(slot);
        load.prefill_tokens += prefill_tokens;
        load.blocks += added + own_blocks;
        load.requests += 1;
        let booking = Booking {
            slot,
            leaf,
            prefill_tokens,
            own_blocks,
            expected_output_tokens: work.expected_output_tokens,
            discount: 0,
            seen: now,
        };
        self.bookings.insert(id, booking);
    }

    fn load_mut(&mut self, slot: Slot) -> &mut Load {
        let at = index(slot);
        if at >= self.loads.len() {
            self.loads.resize(at + 1, Load::default());
        }
        &mut self.loads[at]
    }
}

fn index(slot: Slot) -> usize {
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;

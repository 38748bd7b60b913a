//! What workers should have cached, by what was sent to them: for engines that do not tell, and
//! for the moments until engines that do have told.
//!
//! A prompt counts as cached where it was sent, until it is forgotten: after a time, or when the
//! worker would be full, the prompt sent longest ago first. A prefix that a later prompt shares
//! stays for as long as that one.
//!
//! Bounded in prompts and in blocks, whatever the way of forgetting.

use crate::cost::WorkerOverlap;
use crate::recency::Recency;
use crate::trie::{ROOT, Trie};
use crate::worker::Slot;
use dynamo_config::choices;
use dynamo_protocols::kv::SequenceHash;
use std::collections::VecDeque;
use std::time::Duration;

choices! {
    /// Which blocks no longer count as cached.
    pub enum CachePolicy {
        /// Those sent long ago.
        Ttl = "ttl",
        /// Those sent longest ago, once the worker is full.
        Lru = "lru",
    }
}

/// When a prompt no longer counts as cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgetting {
    /// This long after it was sent.
    After(Duration),
    /// When the worker's blocks are full of later ones.
    WhenFull,
}

/// Prompts remembered: two minutes of 2,000 requests a second. Past it the oldest is forgotten.
pub const MAX_PROMPTS: usize = 262_144;

/// Distinct blocks remembered: at 8 bytes each, 128 MiB. Past it the oldest prompts are forgotten.
pub const MAX_BLOCKS: u64 = 1 << 24;

/// Blocks of a worker that has not said how many it has.
const ASSUMED_BLOCKS: u64 = 16_384;

#[derive(Debug)]
struct Sent {
    slot: Slot,
    leaf: u32,
    at: Duration,
}

#[derive(Debug)]
struct Worker {
    /// Distinct blocks that count as cached.
    blocks: u64,
    capacity: u64,
    /// What was sent to it, in order.
    sent: VecDeque<u64>,
}

impl Default for Worker {
    fn default() -> Self {
        Self {
            blocks: 0,
            capacity: ASSUMED_BLOCKS,
            sent: VecDeque::new(),
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Approximate {
    forgetting: Forgetting,
    trie: Trie,
    next: u64,
    sent: Recency<u64, Sent>,
    workers: Vec<Worker>,
    /// By slot: where its overlap stands in the list being raised, from 1. All 0 between calls.
    places: Vec<u32>,
}

impl Approximate {
    /// Nothing sent yet.
    pub fn new(forgetting: Forgetting) -> Self {
        Self {
            forgetting,
            trie: Trie::default(),
            next: 0,
            sent: Recency::default(),
            workers: Vec::new(),
            places: Vec::new(),
        }
    }

    /// How many blocks a worker has.
    pub fn set_capacity(&mut self, slot: Slot, blocks: u64) {
        self.worker(slot).capacity = blocks;
        self.make_room(slot);
    }

    /// A prompt was sent to a worker.
    pub fn send(&mut self, slot: Slot, prompt: &[SequenceHash], now: Duration) {
        if prompt.is_empty() {
            return;
        }
        let (leaf, added) = self.trie.hold(ROOT, prompt, slot);
        let number = self.next;
        self.next += 1;
        let sent = Sent {
            slot,
            leaf,
            at: now,
        };
        self.sent.insert(number, sent);
        let worker = self.worker(slot);
        worker.blocks += added;
        worker.sent.push_back(number);
        self.make_room(slot);
        while (self.sent.len() > MAX_PROMPTS || self.trie.stored() > MAX_BLOCKS)
            && let Some(oldest) = self.sent.oldest().map(|(number, _)| *number)
        {
            self.forget(oldest);
        }
    }

    /// Forgets what was sent too long ago. To be called before questions are asked.
    pub fn expire(&mut self, now: Duration) {
        let Forgetting::After(time_to_live) = self.forgetting else {
            return;
        };
        while let Some((number, sent)) = self.sent.oldest()
            && sent.at + time_to_live <= now
        {
            let number = *number;
            self.forget(number);
        }
    }

    /// Forgets everything of a worker: it is gone, or its cache was cleared.
    pub fn clear(&mut self, slot: Slot) {
        let numbers = std::mem::take(&mut self.worker(slot).sent);
        for number in numbers {
            self.forget(number);
        }
    }

    /// Raises overlaps to what should be cached by now, and adds those of workers that are not
    /// among them. What goes beyond what a worker told counts as in device memory.
    pub fn raise(&mut self, prompt: &[SequenceHash], overlaps: &mut Vec<WorkerOverlap>) {
        self.places.resize(self.workers.len(), 0);
        for (place, overlap) in (1_u32..).zip(overlaps.iter()) {
            if let Some(entry) = self.places.get_mut(index(overlap.slot)) {
                *entry = place;
            }
        }
        let places = &mut self.places;
        self.trie.walk(prompt, |holders, depth| {
            for (slot, _) in holders {
                let place = &mut places[index(*slot)];
                if *place == 0 {
                    overlaps.push(WorkerOverlap::none(*slot));
                    *place = u32::try_from(overlaps.len()).unwrap_or(u32::MAX);
                }
                let overlap = &mut overlaps[usize::try_from(*place - 1).unwrap_or(usize::MAX)];
                overlap.device += depth.saturating_sub(overlap.total());
            }
        });
        for overlap in overlaps.iter() {
            if let Some(entry) = places.get_mut(index(overlap.slot)) {
                *entry = 0;
            }
        }
    }

    /// Prompts remembered.
    pub fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks that count as cached on a worker.
    pub fn blocks(&self, slot: Slot) -> u64 {
        self.workers.get(index(slot)).map_or(0, |it| it.blocks)
    }

    /// Forgets a worker's oldest prompts while it would hold more than it can. The last one
    /// stays, however long it is.
    fn make_room(&mut self, slot: Slot) {
        if self.forgetting != Forgetting::WhenFull {
            return;
        }
        loop {
            let worker = self.worker(slot);
            if worker.blocks <= worker.capacity || worker.sent.len() < 2 {
                return;
            }
            let oldest = worker.sent[0];
            self.forget(oldest);
        }
    }

    fn forget(&mut self, number: u64) {
        let Some(sent) = self.sent.remove(&number) else {
            return;
        };
        let removed = self.trie.release(sent.leaf, sent.slot);
        let worker = self.worker(sent.slot);
        worker.blocks -= removed;
        // In both ways of forgetting it is the worker's oldest one.
        if worker.sent.front() == Some(&number) {
            worker.sent.pop_front();
        }
    }

    fn worker(&mut self, slot: Slot) -> &mut Worker {
        let at = index(slot);
        if at >= self.workers.len() {
            self.workers.resize_with(at + 1, Worker::default);
        }
        &mut self.workers[at]
    }
}

fn index(slot: Slot) -> usize {
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn found(approximate: &mut Approximate, prompt: &[u64]) -> Vec<(u32, u32)> {
        let mut overlaps = Vec::new();
        approximate.raise(prompt, &mut overlaps);
        let mut found: Vec<_> = overlaps.iter().map(|it| (it.slot.0, it.device)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_prompt_counts_where_it_was_sent_until_its_time_is_up() {
        let mut approximate = Approximate::new(Forgetting::After(seconds(10)));
        approximate.send(Slot(0), &[1, 2, 3], seconds(0));
        approximate.send(Slot(1), &[1, 2, 9], seconds(5));
        approximate.expire(seconds(9));
        assert_eq!(found(&mut approximate, &[1, 2, 3, 4]), [(0, 3), (1, 2)]);
        approximate.expire(seconds(10));
        assert_eq!(found(&mut approximate, &[1, 2, 3, 4]), [(1, 2)]);
        approximate.expire(seconds(15));
        assert!(approximate.is_empty());
    }

    #[test]
    fn a_full_worker_forgets_its_oldest_and_keeps_what_later_ones_share() {
        let mut approximate = Approximate::new(Forgetting::WhenFull);
        approximate.set_capacity(Slot(0), 5);
        approximate.send(Slot(0), &[1, 2, 3], seconds(0));
        approximate.send(Slot(0), &[1, 2, 9], seconds(1));
        assert_eq!(approximate.blocks(Slot(0)), 4);
        approximate.send(Slot(0), &[7, 8], seconds(2));
        assert_eq!(found(&mut approximate, &[1, 2, 3]), [(0, 2)]);
        approximate.set_capacity(Slot(0), 1);
        assert_eq!(found(&mut approximate, &[7, 8]), [(0, 2)]);
        assert_eq!((approximate.len(), approximate.blocks(Slot(0))), (1, 2));
    }

    #[test]
    fn what_a_worker_told_is_raised_and_never_lowered() {
        let mut approximate = Approximate::new(Forgetting::WhenFull);
        approximate.send(Slot(0), &[1, 2, 3], seconds(0));
        approximate.send(Slot(1), &[1], seconds(0));
        let told = |slot, device, host| WorkerOverlap {
            device,
            host,
            ..WorkerOverlap::none(Slot(slot))
        };
        let mut overlaps = vec![told(1, 2, 0), told(0, 1, 1), told(7, 4, 0)];
        approximate.raise(&[1, 2, 3], &mut overlaps);
        assert_eq!(overlaps, [told(1, 2, 0), told(0, 2, 1), told(7, 4, 0)]);
        approximate.clear(Slot(0));
        assert_eq!(found(&mut approximate, &[1, 2, 3]), [(1, 1)]);
    }

    proptest! {
        #[test]
        fn overlaps_equal_those_of_the_prompts_not_yet_forgotten(
            sent in prop::collection::vec((0_u32..3, 0_u64..4, 1_u64..6), 1..60),
            asked in 0_u64..4,
        ) {
            // Prompts of tree `n`: equal in their first two blocks, apart after.
            let prompt = |tree: u64, len: u64| -> Vec<u64> {
                (0..len).map(|at| if at < 2 { at } else { 100 * tree + at }).collect()
            };
            let mut approximate = Approximate::new(Forgetting::After(seconds(8)));
            for (now, (slot, tree, len)) in (0_u64..).zip(&sent) {
                approximate.expire(seconds(now));
                approximate.send(Slot(*slot), &prompt(*tree, *len), seconds(now));
            }
            let wanted = prompt(asked, 6);
            let now = sent.len() - 1;
            let mut expected = std::collections::BTreeMap::new();
            for (slot, tree, len) in &sent[(now + 1).saturating_sub(8)..] {
                let held = prompt(*tree, *len);
                let common = held.iter().zip(&wanted).take_while(|(a, b)| a == b).count() as u32;
                let depth = expected.entry(*slot).or_insert(0);
                *depth = common.max(*depth);
            }
            let expected: Vec<_> = expected.into_iter().collect();
            prop_assert_eq!(found(&mut approximate, &wanted), expected);
        }
    }
}

//! Tests of the index: examples, and any order of events against sets of hashes.

use super::{Index, Matches, SharedIndex, TierEvent};
use crate::worker::{Slot, Tier};
use dynamo_protocols::kv::{Block, KvEvent, SequenceHash};
use dynamo_tokens::chain;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

/// Distinct chains of the tests; they share prefixes like branches of a tree.
const CHAINS: u64 = 12;

const SLOTS: u32 = 6;

/// A small generator: millions of steps must not cost proptest's bookkeeping.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn slot(&mut self) -> Slot {
        Slot(self.below(u64::from(SLOTS)) as u32)
    }

    fn tier(&mut self) -> Tier {
        Tier::ALL[self.below(8).saturating_sub(4) as usize]
    }
}

/// Block hashes of a chain: it parts from the chain of half its number at a block of its own.
fn block_hashes(number: u64, length: usize) -> Vec<u64> {
    let mut owner = vec![number; length];
    let mut branch = number;
    while branch > 0 {
        let parts_at = (branch as usize * 7) % length;
        branch /= 2;
        owner[..parts_at].fill(branch);
    }
    // Chains repeat block hashes, also each other's: only the sequence tells them apart.
    owner
        .iter()
        .zip(0..)
        .map(|(owner, at): (_, u64)| 1 + owner * 3 + at % 5)
        .collect()
}

fn chain_of(block_hashes: &[u64]) -> Vec<Block> {
    let mut parent = None;
    let block = |&block_hash| {
        let sequence_hash = parent.map_or(block_hash, |parent| chain(parent, block_hash));
        parent = Some(sequence_hash);
        Block {
            block_hash,
            sequence_hash,
        }
    };
    block_hashes.iter().map(block).collect()
}

fn stored(blocks: &[Block], from: usize, to: usize) -> KvEvent {
    KvEvent::Stored {
        parent: from
            .checked_sub(1)
            .map(|before| blocks[before].sequence_hash),
        blocks: blocks[from..to].to_vec(),
    }
}

fn removed(hashes: impl Iterator<Item = SequenceHash>) -> KvEvent {
    KvEvent::Removed {
        blocks: hashes.collect(),
    }
}

/// The index as sets.
#[derive(Default)]
struct Model {
    held: BTreeMap<(u32, Tier), BTreeSet<SequenceHash>>,
}

impl Model {
    fn apply(&mut self, slot: Slot, tier: Tier, event: &KvEvent) {
        let held = self.held.entry((slot.0, tier)).or_default();
        match event {
            KvEvent::Stored { blocks, .. } => {
                held.extend(blocks.iter().map(|block| block.sequence_hash));
            }
            KvEvent::Removed { blocks } => blocks.iter().for_each(|hash| {
                held.remove(hash);
            }),
            KvEvent::Cleared => self.held.retain(|(it, _), _| *it != slot.0),
        }
    }

    fn overlaps(&self, hashes: &[SequenceHash]) -> Vec<(u32, [u32; 4])> {
        let mut overlaps = Vec::new();
        for slot in 0..SLOTS {
            let mut counts = [0; 4];
            for hash in hashes {
                let has = |tier: &&Tier| {
                    let held = self.held.get(&(slot, **tier));
                    held.is_some_and(|held| held.contains(hash))
                };
                match Tier::ALL.iter().find(has) {
                    Some(tier) => counts[tier.index()] += 1,
                    None => break,
                }
            }
            if counts != [0; 4] {
                overlaps.push((slot, counts));
            }
        }
        overlaps
    }

    fn blocks(&self) -> u64 {
        self.held.values().map(|held| held.len() as u64).sum()
    }

    fn distinct(&self) -> usize {
        let all: BTreeSet<_> = self.held.values().flatten().collect();
        all.len()
    }
}

fn found(matches: &Matches) -> Vec<(u32, [u32; 4])> {
    let overlaps = matches.overlaps().iter();
    overlaps
        .map(|it| (it.slot.0, [it.device, it.host, it.disk, it.external]))
        .collect()
}

/// Chains of a test, and one index beside its model.
struct Pair {
    hashes: Vec<Vec<u64>>,
    chains: Vec<Vec<Block>>,
    index: Index,
    model: Model,
    matches: Matches,
}

impl Pair {
    fn new(length: usize) -> Self {
        let hashes: Vec<_> = (0..CHAINS).map(|it| block_hashes(it, length)).collect();
        Self {
            chains: hashes.iter().map(|it| chain_of(it)).collect(),
            hashes,
            index: Index::default(),
            model: Model::default(),
            matches: Matches::new(),
        }
    }

    fn apply(&mut self, slot: Slot, tier: Tier, event: &KvEvent) -> usize {
        self.index.apply(slot, tier, event);
        self.model.apply(slot, tier, event);
        match event {
            KvEvent::Stored { blocks, .. } => blocks.len(),
            KvEvent::Removed { blocks } => blocks.len(),
            KvEvent::Cleared => 1,
        }
    }

    fn step(&mut self, random: &mut Random) -> usize {
        let slot = random.slot();
        let tier = random.tier();
        let blocks = &self.chains[random.below(CHAINS) as usize];
        let length = blocks.len() as u64;
        let from = random.below(length) as usize;
        let some = from + 1 + random.below(length - from as u64) as usize;
        let few = blocks.len().min(from + 1 + random.below(4) as usize);
        let hash_of = |block: &Block| block.sequence_hash;
        let event = match random.below(100) {
            0..15 => stored(blocks, 0, some),
            15..30 => stored(blocks, from, some),
            30..45 => stored(blocks, from, few),
            45..60 => removed(blocks[from..few].iter().map(hash_of)),
            60..70 => removed(blocks[from..some].iter().map(hash_of)),
            70..75 => removed(blocks[..some].iter().map(hash_of)),
            75..85 => removed(blocks[from..some].iter().rev().map(hash_of)),
            85..95 => removed(blocks.iter().skip(from % 3).step_by(3).map(hash_of)),
            95..97 => removed((0..5).map(|_| random.next())),
            97 => KvEvent::Cleared,
            98 => stored(blocks, 0, blocks.len()),
            _ => return self.move_worker(slot),
        };
        self.apply(slot, tier, &event)
    }

    /// A worker's blocks leave in a snapshot and come back.
    fn move_worker(&mut self, slot: Slot) -> usize {
        let events = self.index.snapshot(slot);
        let orphans = self.orphans(slot, &events);
        let held = self.index.blocks_of(slot);
        self.index.clear(slot);
        assert_eq!(self.index.blocks_of(slot), 0);
        let mut alone = Index::default();
        alone.restore(slot, &events);
        assert_eq!(alone.counters().duplicate, 0);
        assert_eq!(alone.blocks(), held);
        assert!(alone.counters().orphan_stores <= orphans);
        assert_eq!(alone.snapshot(slot).len() as u64 > 0, held > 0);
        self.index.restore(slot, &events);
        events.len()
    }

    /// Events of a snapshot whose parent the worker does not hold in that tier.
    fn orphans(&self, slot: Slot, events: &[TierEvent]) -> u64 {
        let is_orphan = |it: &&TierEvent| match &it.event {
            KvEvent::Stored {
                parent: Some(parent),
                ..
            } => {
                let held = self.model.held.get(&(slot.0, it.tier));
                !held.is_some_and(|held| held.contains(parent))
            }
            _ => false,
        };
        events.iter().filter(is_orphan).count() as u64
    }

    fn check(&mut self, random: &mut Random) {
        let number = random.below(CHAINS) as usize;
        let hashes = &self.hashes[number];
        let length = 1 + random.below(hashes.len() as u64) as usize;
        let sequence: Vec<_> = self.chains[number][..length]
            .iter()
            .map(|block| block.sequence_hash)
            .collect();
        let expected = self.model.overlaps(&sequence);
        self.index.find(&sequence, &mut self.matches);
        assert_eq!(found(&self.matches), expected);
        self.index.find_blocks(&hashes[..length], &mut self.matches);
        assert_eq!(found(&self.matches), expected);
    }

    fn check_counts(&self) {
        assert_eq!(self.index.blocks(), self.model.blocks());
        assert_eq!(self.index.distinct_blocks(), self.model.distinct());
        let counters = self.index.counters();
        let gone = counters.removed + counters.cleared;
        assert_eq!(counters.stored - gone, self.index.blocks());
        assert_eq!(counters.inconsistent + counters.refused, 0);
        for slot in 0..SLOTS {
            let theirs = self
                .model
                .held
                .range((slot, Tier::Device)..(slot + 1, Tier::Device));
            let expected: usize = theirs.map(|(_, held)| held.len()).sum();
            assert_eq!(self.index.blocks_of(Slot(slot)), expected as u64);
        }
    }
}

fn many_steps(seed: u64, length: usize, blocks: usize, looks: u64) {
    let mut random = Random(seed);
    let mut pair = Pair::new(length);
    let mut done = 0;
    let mut steps = 0_u32;
    while done < blocks {
        done += pair.step(&mut random);
        if random.below(looks) == 0 {
            pair.check(&mut random);
        }
        steps += 1;
        if steps.is_multiple_of(64) {
            pair.check_counts();
        }
    }
    for slot in 0..SLOTS {
        pair.index.clear(Slot(slot));
    }
    assert_eq!((pair.index.distinct_blocks(), pair.index.runs()), (0, 0));
    let left = pair.index.memory_bytes() - pair.index.runs.memory_bytes();
    assert!(left < 1024 * 1024, "{left} bytes of nothing");
}

#[test]
fn millions_of_changes_to_short_chains_leave_what_sets_would_hold() {
    for seed in 0..16 {
        many_steps(seed, 10 + 5 * seed as usize, 250_000, 1);
    }
}

#[test]
fn millions_of_changes_to_chains_of_several_runs_leave_what_sets_would_hold() {
    for seed in 100..103 {
        many_steps(seed, 2_500, 1_000_000, 4);
    }
}

proptest! {
    #[test]
    fn short_histories_leave_what_sets_would_hold(seed in any::<u64>(), length in 1_usize..40) {
        let mut random = Random(seed);
        let mut pair = Pair::new(length);
        for _ in 0..30 {
            pair.step(&mut random);
            pair.check(&mut random);
        }
        pair.check_counts();
    }
}

fn overlap(index: &Index, blocks: &[Block]) -> Vec<(u32, [u32; 4])> {
    let mut matches = Matches::new();
    let hashes: Vec<_> = blocks.iter().map(|block| block.sequence_hash).collect();
    index.find(&hashes, &mut matches);
    found(&matches)
}

#[test]
fn a_block_counts_in_its_nearest_tier_and_a_gap_ends_the_count() {
    let blocks = chain_of(&block_hashes(1, 20));
    let mut index = Index::default();
    index.apply(Slot(3), Tier::Device, &stored(&blocks, 0, 4));
    index.apply(Slot(3), Tier::Host, &stored(&blocks, 2, 9));
    index.apply(Slot(3), Tier::Disk, &stored(&blocks, 8, 12));
    index.apply(Slot(3), Tier::Device, &stored(&blocks, 6, 7));
    index.apply(Slot(1), Tier::Device, &stored(&blocks, 1, 20));
    assert_eq!(overlap(&index, &blocks), [(3, [5, 4, 3, 0])]);
    index.apply(
        Slot(3),
        Tier::Host,
        &removed([blocks[5].sequence_hash].into_iter()),
    );
    assert_eq!(overlap(&index, &blocks), [(3, [4, 1, 0, 0])]);
}

#[test]
fn an_orphan_counts_once_its_parents_are_there() {
    let blocks = chain_of(&block_hashes(1, 8));
    let mut index = Index::default();
    index.apply(Slot(0), Tier::Device, &stored(&blocks, 4, 8));
    assert_eq!(overlap(&index, &blocks), []);
    assert_eq!(index.counters().orphan_stores, 1);
    index.apply(Slot(0), Tier::Device, &stored(&blocks, 0, 4));
    assert_eq!(overlap(&index, &blocks), [(0, [8, 0, 0, 0])]);
}

#[test]
fn what_is_told_twice_or_was_never_there_is_counted_and_changes_nothing() {
    let blocks = chain_of(&block_hashes(1, 8));
    let mut index = Index::default();
    let gone =
        |range: std::ops::Range<usize>| removed(blocks[range].iter().map(|it| it.sequence_hash));
    index.apply(Slot(0), Tier::Device, &gone(0..3));
    assert_eq!((index.blocks(), index.counters().unknown_removed), (0, 3));
    index.apply(Slot(0), Tier::Device, &stored(&blocks, 0, 8));
    index.apply(Slot(0), Tier::Device, &stored(&blocks, 2, 6));
    let counters = index.counters();
    assert_eq!(
        (index.blocks(), counters.stored, counters.duplicate),
        (8, 8, 4)
    );
    // Another worker's, and another tier's, are others.
    index.apply(Slot(1), Tier::Device, &gone(0..2));
    index.apply(Slot(0), Tier::Host, &gone(0..2));
    for _ in 0..2 {
        index.apply(Slot(0), Tier::Device, &gone(6..8));
    }
    let counters = index.counters();
    assert_eq!((counters.removed, counters.unknown_removed), (2, 3 + 4 + 2));
    assert_eq!(overlap(&index, &blocks), [(0, [6, 0, 0, 0])]);
}

#[test]
fn hashes_that_form_no_chain_are_refused() {
    let blocks = chain_of(&block_hashes(1, 8));
    let mut index = Index::default();
    let mut spoilt = blocks.clone();
    spoilt[5].block_hash += 1;
    index.apply(Slot(0), Tier::Device, &stored(&spoilt, 0, 8));
    let wrong_parent = KvEvent::Stored {
        parent: Some(7),
        blocks: blocks[1..].to_vec(),
    };
    index.apply(Slot(0), Tier::Device, &wrong_parent);
    let no_parent = KvEvent::Stored {
        parent: None,
        blocks: blocks[1..].to_vec(),
    };
    index.apply(Slot(0), Tier::Device, &no_parent);
    assert_eq!((index.blocks(), index.counters().inconsistent), (0, 3));
}

#[test]
fn what_does_not_fit_is_refused_and_what_is_removed_makes_room() {
    let blocks = chain_of(&block_hashes(1, 8));
    let mut index = Index::new(10);
    index.apply(Slot(0), Tier::Device, &stored(&blocks, 0, 8));
    index.apply(Slot(1), Tier::Device, &stored(&blocks, 0, 8));
    assert_eq!(
        overlap(&index, &blocks),
        [(0, [8, 0, 0, 0]), (1, [2, 0, 0, 0])]
    );
    assert_eq!((index.blocks(), index.counters().refused), (10, 6));
    index.clear(Slot(0));
    index.apply(Slot(1), Tier::Device, &stored(&blocks, 2, 8));
    assert_eq!(overlap(&index, &blocks), [(1, [8, 0, 0, 0])]);
}

#[test]
fn one_live_block_in_each_run_does_not_keep_the_dead_ones() {
    let mut index = Index::default();
    let empty = index.memory_bytes();
    for number in 0..200 {
        let hashes: Vec<u64> = (0..900).map(|at| 1 + number * 1_000 + at).collect();
        let blocks = chain_of(&hashes);
        index.apply(Slot(0), Tier::Device, &stored(&blocks, 0, 900));
        let dead = blocks.iter().zip(0..).filter(|(_, at)| at % 300 != 150);
        let dead = removed(dead.map(|(block, _)| block.sequence_hash));
        index.apply(Slot(0), Tier::Device, &dead);
    }
    assert_eq!(index.blocks(), 600);
    let grown = index.memory_bytes() - empty;
    assert!(grown < 600 * 800, "{grown} bytes for 600 blocks");
}

#[test]
fn readers_see_a_growing_chain_grow_while_other_workers_come_and_go() {
    let hashes: Vec<u64> = (1..3_000).collect();
    let blocks = chain_of(&hashes);
    let index = SharedIndex::default();
    let grow = || {
        for from in (0..blocks.len()).step_by(7) {
            let to = (from + 7).min(blocks.len());
            index.apply(Slot(0), Tier::Device, &stored(&blocks, from, to));
        }
    };
    let come_and_go = || {
        for length in (1..blocks.len()).step_by(100) {
            index.apply(Slot(1), Tier::Host, &stored(&blocks, 0, length));
            let events = index.snapshot(Slot(1));
            index.apply(Slot(1), Tier::Host, &KvEvent::Cleared);
            index.replace(Slot(1), &events);
            index.clear(Slot(1));
        }
    };
    let read = || {
        let mut matches = Matches::new();
        let mut longest = 0;
        while longest < blocks.len() as u32 {
            index.find_blocks(&hashes, &mut matches);
            let theirs = matches.overlaps().iter().find(|it| it.slot == Slot(0));
            let now = theirs.map_or(0, |it| it.device);
            assert!(now >= longest, "{now} blocks after {longest}");
            longest = now;
        }
    };
    thread::scope(|scope| {
        scope.spawn(read);
        scope.spawn(come_and_go);
        grow();
    });
    assert_eq!(index.blocks_of(Slot(0)), blocks.len() as u64);
    assert_eq!(index.blocks(), blocks.len() as u64);
    assert_eq!(index.distinct_blocks(), blocks.len());
}

#[test]
fn events_in_turns_leave_what_they_leave_at_once() {
    let mut random = Random(9);
    let chains: Vec<_> = (0..CHAINS)
        .map(|it| chain_of(&block_hashes(it, 1_500)))
        .collect();
    let (mut whole, turns) = (Index::default(), SharedIndex::default());
    for _ in 0..400 {
        let blocks = &chains[random.below(CHAINS) as usize];
        let (slot, from) = (random.slot(), random.below(1_400) as usize);
        let to = from + 1 + random.below(1_500 - from as u64) as usize;
        let event = match random.below(10) {
            0..6 => stored(blocks, 0, to),
            6..9 => removed(blocks[from..to].iter().map(|block| block.sequence_hash)),
            _ => KvEvent::Cleared,
        };
        whole.apply(slot, Tier::Device, &event);
        turns.apply(slot, Tier::Device, &event);
    }
    for blocks in &chains {
        let hashes: Vec<_> = blocks.iter().map(|block| block.sequence_hash).collect();
        let mut matches = Matches::new();
        turns.find(&hashes, &mut matches);
        assert_eq!(found(&matches), overlap(&whole, blocks));
    }
    assert_eq!(turns.counters(), whole.counters());
    assert_eq!(turns.distinct_blocks(), whole.distinct_blocks());
}

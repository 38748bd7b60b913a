//! From a block's sequence hash to its place, in 6 bytes a slot and without keys.
//!
//! The hash is mixed; its first bits choose a segment, the next ones are the tag, which in turn
//! chooses a bucket of the segment. A bucket is one cache line of tags and places, so that looking
//! for a hash, adding or removing one costs one access to memory and moves no other. What finds
//! its bucket full goes to the segment's spill, which is small and only read for full buckets. A
//! segment grows and shrinks on its own by reading nothing but itself: no write stalls longer than
//! one segment takes. The full hash stands in the run that the place names; the caller compares.
//!
//! Invariant: an entry is in the spill only while its bucket is full.

use std::hint::black_box;

/// Segments: at ten million blocks one holds 5,000, which move in some ten microseconds.
const SEGMENT_BITS: u32 = 11;

/// Bits of the hash that a slot keeps. With the segment's, another place is looked at in vain once
/// in 13 searches at ten million blocks.
const TAG_BITS: u32 = u16::BITS;

/// Bits of an offset within a run.
const OFFSET_BITS: u32 = 10;

/// Blocks that a run can number.
pub(super) const MAX_OFFSETS: u16 = 1 << OFFSET_BITS;

/// Runs that a place can name: four million prompts' own ends.
pub(super) const MAX_RUNS: u32 = 1 << (u32::BITS - OFFSET_BITS);

/// Slots of a bucket: as many as fit in a cache line.
const SLOTS: usize = 10;

/// Buckets for each entry in the spill before their segment grows, beside [`MIN_SPILL`]: they are
/// three quarters full by then.
const BUCKETS_PER_SPILT: usize = 4;

/// Entries in the spill of the smallest segment.
const MIN_SPILL: usize = 4;

/// Odd multiplier (2^64 over the golden ratio) that spreads hashes which are not random.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where a block stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The run, below [`MAX_RUNS`].
    pub(super) run: u32,
    /// The block within it, below [`MAX_OFFSETS`].
    pub(super) offset: u16,
}

#[derive(Debug, Clone, Copy)]
struct Address {
    segment: usize,
    /// Never 0.
    tag: u16,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    segments: Box<[Segment]>,
    used: usize,
}

#[derive(Debug, Default)]
struct Segment {
    buckets: Vec<Bucket>,
    used: u32,
    spill: Vec<(u16, Place)>,
}

/// A cache line.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 where the slot is empty.
    tags: [u16; SLOTS],
    places: [u32; SLOTS],
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            segments: (0..1 << SEGMENT_BITS).map(|_| Segment::default()).collect(),
            used: 0,
        }
    }

    /// The place that has this hash, as `is_it` confirms.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(Place) -> bool) -> Option<Place> {
        let address = address(hash);
        self.segments[address.segment].find(address.tag, is_it)
    }

    /// Adds a hash that the table does not have.
    pub(super) fn insert(&mut self, hash: u64, place: Place) {
        let address = address(hash);
        let segment = &mut self.segments[address.segment];
        if !segment.try_insert(address.tag, place) {
            segment.grow();
            segment.add(address.tag, place);
        }
        self.used += 1;
    }

    /// Takes out the hash that was added with this place.
    pub(super) fn remove(&mut self, hash: u64, place: Place) {
        let address = address(hash);
        let segment = &mut self.segments[address.segment];
        let removed = segment.remove(address.tag, place);
        debug_assert!(removed, "only what is in the table is removed");
        self.used -= usize::from(removed);
        if segment.is_sparse() {
            segment.rebuild(segment.used as usize * 3 / 2 / SLOTS + 1);
        }
    }

    /// Gives the hash another place.
    pub(super) fn relocate(&mut self, hash: u64, from: Place, to: Place) {
        let address = address(hash);
        let segment = &mut self.segments[address.segment];
        let removed = segment.remove(address.tag, from);
        debug_assert!(removed, "only what is in the table moves");
        if removed {
            // Its slot is free now, or that of the one that took it from the spill.
            segment.add(address.tag, to);
        }
    }

    /// Reads the bucket of each hash, all at once, so that what follows finds them in the cache:
    /// one after the other each would wait for memory.
    pub(super) fn touch(&self, hashes: impl Iterator<Item = u64>) {
        let mut seen = 0;
        for hash in hashes {
            let address = address(hash);
            let segment = &self.segments[address.segment];
            let bucket = segment.buckets.get(segment.home(address.tag));
            seen ^= bucket.map_or(0, |bucket| bucket.tags[0]);
        }
        black_box(seen);
    }

    /// How many hashes it has.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let segments = self.segments.iter();
        segments.map(Segment::memory_bytes).sum()
    }
}

impl Segment {
    fn home(&self, tag: u16) -> usize {
        (usize::from(tag) * self.buckets.len()) >> TAG_BITS
    }

    fn find(&self, tag: u16, is_it: impl Fn(Place) -> bool) -> Option<Place> {
        let bucket = self.buckets.get(self.home(tag))?;
        let mut candidates = bucket.having(tag);
        while candidates != 0 {
            let (found, place) = bucket.entry(candidates.trailing_zeros() as usize);
            if found == tag && is_it(place) {
                return Some(place);
            }
            candidates &= candidates - 1;
        }
        if self.spill.is_empty() || bucket.having(0) != 0 {
            return None;
        }
        let mut spilt = self.spill.iter();
        let found = spilt.find(|(found, place)| *found == tag && is_it(*place))?;
        Some(found.1)
    }

    /// False if there is no room.
    fn try_insert(&mut self, tag: u16, place: Place) -> bool {
        let home = self.home(tag);
        let Some(bucket) = self.buckets.get_mut(home) else {
            return false;
        };
        let empty = bucket.having(0);
        if empty != 0 {
            bucket.put(empty.trailing_zeros() as usize, tag, place);
        } else if self.spill.len() < MIN_SPILL + self.buckets.len() / BUCKETS_PER_SPILT {
            self.spill.push((tag, place));
        } else {
            return false;
        }
        self.used += 1;
        true
    }

    /// Inserts whether or not the spill is full.
    fn add(&mut self, tag: u16, place: Place) {
        if !self.try_insert(tag, place) {
            self.spill.push((tag, place));
            self.used += 1;
        }
    }

    fn remove(&mut self, tag: u16, place: Place) -> bool {
        let home = self.home(tag);
        let Some(bucket) = self.buckets.get_mut(home) else {
            return false;
        };
        let mut candidates = bucket.having(tag);
        while candidates != 0 {
            let slot = candidates.trailing_zeros() as usize;
            if bucket.entry(slot) == (tag, place) {
                bucket.tags[slot] = 0;
                self.used -= 1;
                self.refill(home);
                return true;
            }
            candidates &= candidates - 1;
        }
        let spilt = self.spill.iter().position(|it| *it == (tag, place));
        if let Some(at) = spilt {
            self.spill.swap_remove(at);
            self.used -= 1;
        }
        spilt.is_some()
    }

    /// Moves an entry from the spill to a bucket that has a free slot now.
    fn refill(&mut self, home: usize) {
        if self.spill.is_empty() {
            return;
        }
        let spilt = self
            .spill
            .iter()
            .position(|(tag, _)| self.home(*tag) == home);
        if let Some(at) = spilt {
            let (tag, place) = self.spill.swap_remove(at);
            let bucket = &mut self.buckets[home];
            bucket.put(bucket.having(0).trailing_zeros() as usize, tag, place);
        }
    }

    /// Makes room, unless it has enough and only equal tags crowd the spill.
    fn grow(&mut self) {
        let buckets = self.buckets.len();
        if self.used as usize * 2 >= buckets * SLOTS {
            self.rebuild(buckets + buckets / 4 + 1);
        }
    }

    /// Whether it would do with half of its buckets.
    fn is_sparse(&self) -> bool {
        let slots = self.buckets.len() * SLOTS;
        self.buckets.len() > 1 && self.used as usize * 3 < slots
    }

    /// Moves everything into so many buckets. Equal tags stay in the spill, however many.
    fn rebuild(&mut self, buckets: usize) {
        let old = std::mem::take(self);
        self.buckets = vec![Bucket::default(); buckets];
        for bucket in &old.buckets {
            let mut occupied = !bucket.having(0) & ((1 << SLOTS) - 1);
            while occupied != 0 {
                let (tag, place) = bucket.entry(occupied.trailing_zeros() as usize);
                self.add(tag, place);
                occupied &= occupied - 1;
            }
        }
        for (tag, place) in old.spill {
            self.add(tag, place);
        }
    }

    fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.buckets.capacity() * size_of::<Bucket>()
            + self.spill.capacity() * size_of::<(u16, Place)>()
    }
}

impl Bucket {
    /// A bit for each slot with this tag.
    fn having(&self, tag: u16) -> u16 {
        let slots = self.tags.iter().enumerate();
        slots.fold(0, |found, (slot, held)| {
            found | u16::from(*held == tag) << slot
        })
    }

    fn entry(&self, slot: usize) -> (u16, Place) {
        let place = Place {
            run: self.places[slot] >> OFFSET_BITS,
            offset: self.places[slot] as u16 & (MAX_OFFSETS - 1),
        };
        (self.tags[slot], place)
    }

    fn put(&mut self, slot: usize, tag: u16, place: Place) {
        self.tags[slot] = tag;
        self.places[slot] = place.run << OFFSET_BITS | u32::from(place.offset);
    }
}

fn address(hash: u64) -> Address {
    let wide = u128::from(hash) * u128::from(MIX);
    let mixed = (wide as u64) ^ ((wide >> u64::BITS) as u64);
    let tag = (mixed >> (u64::BITS - SEGMENT_BITS - TAG_BITS)) as u16;
    Address {
        segment: (mixed >> (u64::BITS - SEGMENT_BITS)) as usize,
        tag: tag.max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A hash's place in these tests, which also tells the hash.
    fn place_of(hash: u64) -> Place {
        Place {
            run: 1 + (hash / 1000) as u32,
            offset: (hash % 1000) as u16,
        }
    }

    fn has(table: &Table, hash: u64, place: Place) -> bool {
        table.find(hash, |found| found == place) == Some(place)
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(
            steps in prop::collection::vec((0_u8..4, 0_u64..3000), 0..3000),
            scale in prop::sample::select(vec![1, 1 << 40, 0x9e37_79b9_7f4a_7c15]),
        ) {
            let mut table = Table::new();
            let mut model = BTreeMap::new();
            for (kind, number) in steps {
                let hash = number.wrapping_mul(scale);
                match (kind, model.get(&hash).copied()) {
                    (0 | 1, None) => {
                        table.insert(hash, place_of(number));
                        model.insert(hash, place_of(number));
                    }
                    (2, Some(place)) => {
                        table.remove(hash, place);
                        model.remove(&hash);
                    }
                    (3, Some(from)) => {
                        let to = Place { run: from.run + 10_000, ..from };
                        table.relocate(hash, from, to);
                        model.insert(hash, to);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
            }
            for number in 0_u64..3000 {
                let hash = number.wrapping_mul(scale);
                let place = model.get(&hash).copied();
                prop_assert_eq!(has(&table, hash, place.unwrap_or(place_of(number))), place.is_some());
            }
        }
    }

    #[test]
    fn thousands_of_equal_tags_are_told_apart() {
        let mut table = Table::new();
        for number in 0_u64..3000 {
            table.insert(42, place_of(number));
        }
        for number in (0..3000).rev() {
            assert!(has(&table, 42, place_of(number)));
            table.remove(42, place_of(number));
            assert!(!has(&table, 42, place_of(number)));
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn memory_follows_the_number_of_hashes_both_ways() {
        let mut table = Table::new();
        let empty = table.memory_bytes();
        let hash = |number: u64| number.wrapping_mul(0x2545_f491_4f6c_dd1d);
        for number in 0..400_000 {
            table.insert(hash(number), place_of(number));
        }
        let full = table.memory_bytes() - empty;
        assert!(full < 400_000 * 14, "{full} bytes");
        for number in 0..399_000 {
            table.remove(hash(number), place_of(number));
        }
        let left = table.memory_bytes() - empty;
        assert!(left < full / 10, "{left} of {full} bytes");
    }
}

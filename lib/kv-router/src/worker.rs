//! Who holds blocks and takes requests: a worker's data-parallel rank, and the small number that
//! stands for it in every table.
//!
//! Invariant: a [`Slot`] is given to a second worker only after [`Slots::release`], which its
//! owner calls when the index and the book hold nothing of the first one any more.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Slots that fit beside a tier in 32 bits.
pub const MAX_SLOTS: u32 = 1 << (u32::BITS - Tier::BITS);

/// One data-parallel rank of one instance: what a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerKey {
    /// The instance, as discovery names it.
    pub instance: u64,
    /// Its data-parallel rank; 0 where there is one.
    pub dp_rank: u32,
}

/// A worker's dense number, given by [`Slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// Where a block lies, from the nearest place to the farthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Tier {
    /// In the accelerator's memory.
    Device,
    /// In the host's memory.
    Host,
    /// On a disk of the host.
    Disk,
    /// In storage that other hosts reach too.
    External,
}

impl Tier {
    /// Every tier, from the nearest on.
    pub const ALL: [Self; 4] = [Self::Device, Self::Host, Self::Disk, Self::External];

    /// Bits that tell the tiers apart.
    pub(crate) const BITS: u32 = 2;

    /// The tier of an engine's name for a medium. The names are those that published engines use,
    /// in any case; `None` for any other.
    pub fn of_medium(name: &str) -> Option<Self> {
        const NAMES: [(&str, Tier); 15] = [
            ("GPU", Tier::Device),
            ("DEVICE", Tier::Device),
            ("CPU", Tier::Host),
            ("CPU_PINNED", Tier::Host),
            ("CPU_TIER1", Tier::Host),
            ("HOST", Tier::Host),
            ("HOST_PINNED", Tier::Host),
            ("CPU_TIER2", Tier::Disk),
            ("DISK", Tier::Disk),
            ("NVME", Tier::Disk),
            ("STORAGE", Tier::Disk),
            ("EXTERNAL", Tier::External),
            ("NETWORK", Tier::External),
            ("REMOTE", Tier::External),
            ("SHARED", Tier::External),
        ];
        NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, tier)| *tier)
    }

    /// The tier that [`Tier::index`] gave; other numbers give the farthest.
    pub(crate) fn from_index(index: u32) -> Self {
        match index {
            0 => Self::Device,
            1 => Self::Host,
            2 => Self::Disk,
            _ => Self::External,
        }
    }

    /// Its place in [`Tier::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Gives workers their slots.
#[derive(Debug, Clone, Default)]
pub struct Slots {
    by_key: BTreeMap<WorkerKey, Slot>,
    /// By slot; `None` where the slot is retired or free.
    keys: Vec<Option<WorkerKey>>,
    /// Retired slots that something may still refer to.
    retired: Vec<Slot>,
    free: Vec<Slot>,
}

impl Slots {
    /// No workers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The worker's slot, a fresh one if it has none. `None` when [`MAX_SLOTS`] are in use.
    pub fn assign(&mut self, key: WorkerKey) -> Option<Slot> {
        if let Some(slot) = self.by_key.get(&key) {
            return Some(*slot);
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let next = u32::try_from(self.keys.len()).ok();
                let next = next.filter(|next| *next < MAX_SLOTS)?;
                self.keys.push(None);
                Slot(next)
            }
        };
        self.keys[slot.0 as usize] = Some(key);
        self.by_key.insert(key, slot);
        Some(slot)
    }

    /// The worker's slot, if it has one.
    pub fn slot(&self, key: WorkerKey) -> Option<Slot> {
        self.by_key.get(&key).copied()
    }

    /// Whose slot it is; `None` for one that is retired or free.
    pub fn key(&self, slot: Slot) -> Option<WorkerKey> {
        self.keys.get(slot.0 as usize).copied().flatten()
    }

    /// Parts the worker from its slot. The slot is not given out again before
    /// [`release`](Self::release); the worker, should it return, gets another one.
    pub fn retire(&mut self, key: WorkerKey) -> Option<Slot> {
        let slot = self.by_key.remove(&key)?;
        self.keys[slot.0 as usize] = None;
        self.retired.push(slot);
        Some(slot)
    }

    /// Frees a retired slot: nothing refers to it any more. Other slots are left as they are.
    pub fn release(&mut self, slot: Slot) {
        if let Some(position) = self.retired.iter().position(|retired| *retired == slot) {
            self.retired.swap_remove(position);
            self.free.push(slot);
        }
    }

    /// Workers and their slots, by key.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerKey, Slot)> + '_ {
        self.by_key.iter().map(|(key, slot)| (*key, *slot))
    }

    /// How many workers have a slot.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no worker has a slot.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(instance: u64) -> WorkerKey {
        WorkerKey {
            instance,
            dp_rank: 0,
        }
    }

    #[test]
    fn a_worker_keeps_its_slot_and_ranks_have_their_own() {
        let mut slots = Slots::new();
        let first = slots.assign(key(7)).unwrap();
        assert_eq!(slots.assign(key(7)), Some(first));
        let rank = WorkerKey {
            instance: 7,
            dp_rank: 1,
        };
        assert_ne!(slots.assign(rank), Some(first));
        assert_eq!(slots.key(first), Some(key(7)));
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn a_slot_is_given_again_only_after_its_release() {
        let mut slots = Slots::new();
        let first = slots.assign(key(1)).unwrap();
        assert_eq!(slots.retire(key(1)), Some(first));
        assert_eq!(slots.key(first), None);
        let returned = slots.assign(key(1)).unwrap();
        assert_ne!(returned, first);
        slots.release(first);
        slots.release(first);
        assert_eq!(slots.assign(key(2)), Some(first));
        assert_ne!(slots.assign(key(3)), Some(first));
    }

    #[test]
    fn releasing_a_slot_in_use_changes_nothing() {
        let mut slots = Slots::new();
        let first = slots.assign(key(1)).unwrap();
        slots.release(first);
        assert_ne!(slots.assign(key(2)), Some(first));
        assert_eq!(slots.slot(key(1)), Some(first));
    }

    #[test]
    fn media_have_their_published_tiers_in_any_case() {
        assert_eq!(Tier::of_medium("GPU"), Some(Tier::Device));
        assert_eq!(Tier::of_medium("cpu_tier1"), Some(Tier::Host));
        assert_eq!(Tier::of_medium("NVMe"), Some(Tier::Disk));
        assert_eq!(Tier::of_medium("SHARED"), Some(Tier::External));
        assert_eq!(Tier::of_medium("tape"), None);
        for tier in Tier::ALL {
            assert_eq!(Tier::from_index(tier.index() as u32), tier);
        }
    }
}

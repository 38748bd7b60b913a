//! A map that remembers the order of use: what every bounded memory here is made of.
//!
//! Each operation takes constant time. Entries live in one array and are linked through it, from
//! the one used longest ago to the one used last; no order depends on the hash map.
//!
//! What it does not do: bounds and times. Whoever owns one pops the oldest entry when it has to.

use std::collections::HashMap;
use std::hash::Hash;

/// No entry: the end of a list.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Entry<K, V> {
    /// `None` in a free place.
    held: Option<(K, V)>,
    older: u32,
    /// In a free place: the next free one.
    newer: u32,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Recency<K, V> {
    places: HashMap<K, u32>,
    entries: Vec<Entry<K, V>>,
    oldest: u32,
    newest: u32,
    free: u32,
}

impl<K, V> Default for Recency<K, V> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            entries: Vec::new(),
            oldest: NONE,
            newest: NONE,
            free: NONE,
        }
    }
}

impl<K: Hash + Eq + Clone, V> Recency<K, V> {
    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The value, without counting as a use.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let place = *self.places.get(key)?;
        self.entry(place).held.as_ref().map(|(_, value)| value)
    }

    /// The value, which now is the one used last.
    pub(crate) fn touch(&mut self, key: &K) -> Option<&mut V> {
        let place = *self.places.get(key)?;
        self.unlink(place);
        self.link_newest(place);
        self.value_mut(place)
    }

    /// Puts a value in as the one used last; answers what was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(held) = self.touch(&key) {
            return Some(std::mem::replace(held, value));
        }
        let place = self.place_for(key.clone(), value)?;
        self.places.insert(key, place);
        self.link_newest(place);
        None
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.places.remove(key)?;
        self.vacate(place).map(|(_, value)| value)
    }

    /// The entry used longest ago.
    pub(crate) fn oldest(&self) -> Option<(&K, &V)> {
        let entry = self.entries.get(index(self.oldest))?;
        entry.held.as_ref().map(|(key, value)| (key, value))
    }

    /// Takes out the entry used longest ago.
    pub(crate) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let key = self.oldest()?.0.clone();
        let place = self.places.remove(&key)?;
        self.vacate(place)
    }

    /// Every entry, from the one used longest ago to the one used last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut place = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(index(place))?;
            place = entry.newer;
            entry.held.as_ref().map(|(key, value)| (key, value))
        })
    }

    fn entry(&self, place: u32) -> &Entry<K, V> {
        &self.entries[index(place)]
    }

    fn value_mut(&mut self, place: u32) -> Option<&mut V> {
        let entry = &mut self.entries[index(place)];
        entry.held.as_mut().map(|(_, value)| value)
    }

    /// A free place with the entry in it, not yet linked; `None` when places have run out, which
    /// no owner's bound comes near.
    fn place_for(&mut self, key: K, value: V) -> Option<u32> {
        let held = Some((key, value));
        if self.free != NONE {
            let place = self.free;
            let entry = &mut self.entries[index(place)];
            self.free = entry.newer;
            entry.held = held;
            return Some(place);
        }
        let place = u32::try_from(self.entries.len()).ok()?;
        if place == NONE {
            return None;
        }
        self.entries.push(Entry {
            held,
            older: NONE,
            newer: NONE,
        });
        Some(place)
    }

    fn vacate(&mut self, place: u32) -> Option<(K, V)> {
        self.unlink(place);
        let free = self.free;
        let entry = &mut self.entries[index(place)];
        entry.newer = free;
        let held = entry.held.take();
        self.free = place;
        held
    }

    fn unlink(&mut self, place: u32) {
        let (older, newer) = {
            let entry = self.entry(place);
            (entry.older, entry.newer)
        };
        match self.entries.get_mut(index(older)) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(index(newer)) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let newest = self.newest;
        let entry = &mut self.entries[index(place)];
        entry.older = newest;
        entry.newer = NONE;
        match self.entries.get_mut(index(newest)) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
    }
}

/// [`NONE`] is past the end of every array.
fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8, u16),
        Touch(u8),
        Remove(u8),
        PopOldest,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0_u8..12;
        prop_oneof![
            (key.clone(), any::<u16>()).prop_map(|(key, value)| Step::Insert(key, value)),
            key.clone().prop_map(Step::Touch),
            key.prop_map(Step::Remove),
            Just(Step::PopOldest),
        ]
    }

    fn take(model: &mut Vec<(u8, u16)>, key: u8) -> Option<u16> {
        let at = model.iter().position(|(held, _)| *held == key)?;
        Some(model.remove(at).1)
    }

    proptest! {
        #[test]
        fn it_equals_a_list_kept_in_order_of_use(steps in prop::collection::vec(step(), 0..200)) {
            let mut recency = Recency::default();
            let mut model: Vec<(u8, u16)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        prop_assert_eq!(recency.insert(key, value), take(&mut model, key));
                        model.push((key, value));
                    }
                    Step::Touch(key) => {
                        let touched = recency.touch(&key).copied();
                        let expected = take(&mut model, key);
                        prop_assert_eq!(touched, expected);
                        model.extend(expected.map(|value| (key, value)));
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(recency.remove(&key), take(&mut model, key));
                    }
                    Step::PopOldest => {
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        prop_assert_eq!(recency.pop_oldest(), expected);
                    }
                }
                let held: Vec<_> = recency.iter().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(&held, &model);
                prop_assert_eq!(recency.len(), model.len());
            }
        }
    }
}

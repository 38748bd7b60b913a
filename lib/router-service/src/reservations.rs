//! Workers' places that outside users hold. Pure: time is an argument.
//!
//! Bounded in number, and in time without a word of the request: whoever crashes must not weigh
//! on a worker for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Reservations<T> {
    limit: usize,
    timeout: Duration,
    held: BTreeMap<u64, Held<T>>,
    /// The same by the time of their last word.
    by_time: BTreeSet<(Duration, u64)>,
}

#[derive(Debug)]
struct Held<T> {
    heard: Duration,
    value: T,
}

impl<T> Reservations<T> {
    /// None, of at most `limit` for at most `timeout` without a word.
    pub(crate) fn new(limit: usize, timeout: Duration) -> Self {
        Self {
            limit,
            timeout,
            held: BTreeMap::new(),
            by_time: BTreeSet::new(),
        }
    }

    /// Whether there is room for another.
    pub(crate) fn has_room(&self) -> bool {
        self.held.len() < self.limit
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Holds a value under a new id; gives it back if there is no room, or the id is taken.
    pub(crate) fn insert(&mut self, id: u64, value: T, now: Duration) -> Result<(), T> {
        if !self.has_room() || self.held.contains_key(&id) {
            return Err(value);
        }
        self.held.insert(id, Held { heard: now, value });
        self.by_time.insert((now, id));
        Ok(())
    }

    /// A held value, of which there is word now.
    pub(crate) fn get(&mut self, id: u64, now: Duration) -> Option<&mut T> {
        let held = self.held.get_mut(&id)?;
        self.by_time.remove(&(held.heard, id));
        held.heard = now;
        self.by_time.insert((now, id));
        Some(&mut held.value)
    }

    /// Takes a value out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<T> {
        let held = self.held.remove(&id)?;
        self.by_time.remove(&(held.heard, id));
        Some(held.value)
    }

    /// Takes out those whose time is up.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<T> {
        let mut expired = Vec::new();
        while let Some((heard, id)) = self.by_time.first().copied()
            && heard + self.timeout <= now
        {
            expired.extend(self.remove(id));
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 4;
    const TIMEOUT: Duration = Duration::from_secs(10);

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64),
        Word(u64),
        Remove(u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u64..8).prop_map(Step::Insert),
            2 => (0_u64..8).prop_map(Step::Word),
            1 => (0_u64..8).prop_map(Step::Remove),
            1 => (0_u64..7).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn they_equal_a_map_of_last_words(steps in prop::collection::vec(step(), 0..100)) {
            let mut reservations = Reservations::new(LIMIT, TIMEOUT);
            let mut model: BTreeMap<u64, Duration> = BTreeMap::new();
            let mut now = Duration::ZERO;
            for step in steps {
                match step {
                    Step::Insert(id) => {
                        let fits = model.len() < LIMIT && !model.contains_key(&id);
                        let inserted = reservations.insert(id, id, now);
                        prop_assert_eq!(inserted, if fits { Ok(()) } else { Err(id) });
                        model.entry(id).or_insert(now);
                        if !fits && !reservations.held.contains_key(&id) {
                            model.remove(&id);
                        }
                    }
                    Step::Word(id) => {
                        let held = reservations.get(id, now).copied();
                        prop_assert_eq!(held, model.contains_key(&id).then_some(id));
                        model.entry(id).and_modify(|heard| *heard = now);
                    }
                    Step::Remove(id) => {
                        prop_assert_eq!(reservations.remove(id), model.remove(&id).map(|_| id));
                    }
                    Step::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        let mut expired = reservations.expire(now);
                        expired.sort_unstable();
                        let is_over = |heard: &Duration| *heard + TIMEOUT <= now;
                        let over = model.iter().filter(|(_, heard)| is_over(heard));
                        prop_assert_eq!(expired, over.map(|(id, _)| *id).collect::<Vec<_>>());
                        model.retain(|_, heard| !is_over(heard));
                    }
                }
                prop_assert_eq!(reservations.len(), model.len());
                prop_assert_eq!(reservations.by_time.len(), model.len());
            }
        }
    }
}

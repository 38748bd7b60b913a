//! Which instance a call goes to. Pure: time and randomness are arguments.
//!
//! Invariants
//! - Instances are kept and picked in the order of their ids; nothing depends on when or in what
//!   order they were found.
//! - An instance that could not be reached is left out until its time is over, unless nobody
//!   would be left: then all are asked again, because a wrong guess must not refuse a request.
//! - One whose answers fail [`CIRCUIT_FAILURES`] times in a row is left out too, and after its time
//!   at the next failure again, each time for longer. That it is full is no failure.
//! - Round robin goes on from the id it picked last, so that instances that come and go do not
//!   make it favour anybody.

use crate::discovery::{InstanceId, InstanceRecord};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A living instance of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Where it is, and what it says of itself.
    pub record: Arc<InstanceRecord>,
}

/// Answers that fail in a row before their instance is left out. A request that makes every engine
/// fail is given up after four (`MAX_FRUITLESS` of whoever moves answers) and must not take a
/// healthy one out.
pub const CIRCUIT_FAILURES: u32 = 5;

/// Longest time that an instance is left out for its failures: once mended, it is of use again
/// within this time.
pub const LONGEST_OPEN: Duration = Duration::from_secs(60);

/// The instances of an endpoint and who of them may be picked.
#[derive(Debug, Default)]
pub struct Selection {
    instances: BTreeMap<InstanceId, Arc<InstanceRecord>>,
    left_out_until: BTreeMap<InstanceId, Instant>,
    /// Answers that failed, with none that succeeded since.
    failures: BTreeMap<InstanceId, u32>,
    last: Option<InstanceId>,
}

impl Selection {
    /// Takes the instances that live now. What is known of those that stay is kept; one whose
    /// address changed may be asked again.
    pub fn replace(&mut self, instances: BTreeMap<InstanceId, Arc<InstanceRecord>>) {
        let before = std::mem::replace(&mut self.instances, instances);
        let instances = &self.instances;
        let stays = |id: &InstanceId| match (before.get(id), instances.get(id)) {
            (Some(old), Some(new)) => old.address == new.address,
            _ => false,
        };
        self.left_out_until.retain(|id, _| stays(id));
        self.failures.retain(|id, _| stays(id));
    }

    /// All living instances, by id.
    pub fn instances(&self) -> impl Iterator<Item = Instance> {
        self.instances
            .iter()
            .map(|(id, record)| instance(*id, record))
    }

    /// The instance of this id, left out or not.
    pub fn direct(&self, id: InstanceId) -> Option<Instance> {
        self.instances.get(&id).map(|record| instance(id, record))
    }

    /// The next instance in turn.
    pub fn round_robin(&mut self, now: Instant, except: &[InstanceId]) -> Option<Instance> {
        let ids = self.candidates(now, except);
        let next = ids
            .iter()
            .find(|id| self.last.is_none_or(|last| **id > last))
            .or_else(|| ids.first())
            .copied()?;
        self.last = Some(next);
        self.direct(next)
    }

    /// An instance by lot; `bits` are 64 random ones.
    pub fn random(&self, now: Instant, except: &[InstanceId], bits: u64) -> Option<Instance> {
        let ids = self.candidates(now, except);
        // The high half of the product: even enough for any number of instances.
        let index = (u128::from(bits) * ids.len() as u128) >> 64;
        self.direct(*ids.get(usize::try_from(index).ok()?)?)
    }

    /// Those that are left out now, by id.
    pub fn left_out(&self, now: Instant) -> Vec<InstanceId> {
        let left_out = self.left_out_until.iter();
        let left_out = left_out.filter(|(_, until)| **until > now);
        left_out.map(|(id, _)| *id).collect()
    }

    /// Leaves an instance out for a while.
    pub fn leave_out(&mut self, id: InstanceId, until: Instant) {
        if self.instances.contains_key(&id) {
            self.left_out_until.insert(id, until);
        }
    }

    /// An answer of the instance was complete.
    pub fn succeeded(&mut self, id: InstanceId) {
        self.failures.remove(&id);
    }

    /// An answer of the instance failed, for reasons of its own. How long it is left out now, if it
    /// was the last straw; `least` is for the first time.
    pub fn failed(&mut self, id: InstanceId, now: Instant, least: Duration) -> Option<Duration> {
        if !self.instances.contains_key(&id) {
            return None;
        }
        let failures = self.failures.entry(id).or_default();
        *failures = failures.saturating_add(1);
        let over = failures.checked_sub(CIRCUIT_FAILURES)?;
        // Answers that were running when it was left out fail as well: they are the same trouble.
        if self
            .left_out_until
            .get(&id)
            .is_some_and(|until| now < *until)
        {
            *failures = CIRCUIT_FAILURES + over.saturating_sub(1);
            return None;
        }
        let doubled = least.saturating_mul(2_u32.saturating_pow(over));
        let open = doubled.min(LONGEST_OPEN.max(least));
        self.leave_out(id, now + open);
        Some(open)
    }

    /// Who may be picked, by id. `except` were asked already for this call.
    fn candidates(&self, now: Instant, except: &[InstanceId]) -> Vec<InstanceId> {
        let all = self.instances.keys().copied();
        let not_asked: Vec<InstanceId> = all.filter(|id| !except.contains(id)).collect();
        let in_place = |id: &&InstanceId| {
            self.left_out_until
                .get(*id)
                .is_none_or(|until| *until <= now)
        };
        let reachable: Vec<InstanceId> = not_asked.iter().filter(in_place).copied().collect();
        if reachable.is_empty() {
            return not_asked;
        }
        reachable
    }
}

fn instance(id: InstanceId, record: &Arc<InstanceRecord>) -> Instance {
    Instance {
        id,
        record: Arc::clone(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{EndpointId, Metadata};
    use proptest::prelude::*;

    fn record(port: u16) -> Arc<InstanceRecord> {
        Arc::new(InstanceRecord {
            endpoint: EndpointId::new("ns", "comp", "ep").unwrap(),
            address: format!("tcp://127.0.0.1:{port}"),
            metadata: Metadata::new(),
        })
    }

    fn id(id: u64) -> InstanceId {
        InstanceId::new(id).unwrap()
    }

    fn selection(ids: &[u64]) -> Selection {
        let mut selection = Selection::default();
        selection.replace(ids.iter().map(|n| (id(*n), record(1))).collect());
        selection
    }

    fn turns(selection: &mut Selection, now: Instant, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| selection.round_robin(now, &[]).unwrap().id.get())
            .collect()
    }

    #[test]
    fn round_robin_goes_by_id_and_on_from_where_it_was() {
        let now = Instant::now();
        let mut selection = selection(&[9, 2, 5]);
        assert_eq!(turns(&mut selection, now, 4), [2, 5, 9, 2]);
        selection.replace([3, 5, 9].map(|n| (id(n), record(1))).into());
        assert_eq!(turns(&mut selection, now, 4), [3, 5, 9, 3]);
    }

    #[test]
    fn an_unreachable_instance_is_left_out_for_its_time() {
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut selection = selection(&[1, 2, 3]);
        selection.leave_out(id(2), later);
        assert_eq!(turns(&mut selection, now, 4), [1, 3, 1, 3]);
        assert_eq!(turns(&mut selection, later, 3), [1, 2, 3]);
    }

    #[test]
    fn the_only_instance_is_asked_even_if_it_was_unreachable() {
        let now = Instant::now();
        let mut selection = selection(&[1]);
        selection.leave_out(id(1), now + Duration::from_secs(5));
        assert_eq!(turns(&mut selection, now, 1), [1]);
        assert_eq!(selection.round_robin(now, &[id(1)]), None);
    }

    #[test]
    fn an_instance_that_moved_may_be_asked_again() {
        let now = Instant::now();
        let mut selection = selection(&[1, 2]);
        selection.leave_out(id(1), now + Duration::from_secs(5));
        selection.replace([(id(1), record(1)), (id(2), record(1))].into());
        assert_eq!(turns(&mut selection, now, 2), [2, 2]);
        selection.replace([(id(1), record(7)), (id(2), record(1))].into());
        assert_eq!(turns(&mut selection, now, 2), [1, 2]);
    }

    #[test]
    fn an_instance_that_fails_time_and_again_is_left_out_for_longer_each_time() {
        let mut now = Instant::now();
        let least = Duration::from_secs(5);
        let mut selection = selection(&[1, 2]);
        for _ in 1..CIRCUIT_FAILURES {
            assert_eq!(selection.failed(id(1), now, least), None);
        }
        assert_eq!(turns(&mut selection, now, 2), [1, 2]);
        let opened = |selection: &mut Selection, now| selection.failed(id(1), now, least);
        assert_eq!(opened(&mut selection, now), Some(least));
        assert_eq!(turns(&mut selection, now, 2), [2, 2]);
        // What it had begun fails too.
        for _ in 0..100 {
            assert_eq!(opened(&mut selection, now), None);
        }
        now += least;
        assert_eq!(turns(&mut selection, now, 2), [1, 2]);
        assert_eq!(opened(&mut selection, now), Some(2 * least));
        now += 2 * least;
        assert_eq!(opened(&mut selection, now), Some(4 * least));
        now += 4 * least;
        selection.succeeded(id(1));
        assert_eq!(opened(&mut selection, now), None);
    }

    #[test]
    fn it_is_never_left_out_for_longer_than_the_bound() {
        let mut now = Instant::now();
        let mut selection = selection(&[1]);
        for _ in 0..100 {
            let open = selection.failed(id(1), now, Duration::from_secs(5));
            let open = open.unwrap_or_default();
            assert!(open <= LONGEST_OPEN);
            now += open;
        }
        assert_eq!(selection.failed(id(2), now, LONGEST_OPEN), None);
    }

    #[test]
    fn direct_asks_exactly_the_one() {
        let selection = selection(&[1, 2]);
        assert_eq!(selection.direct(id(2)).unwrap().id, id(2));
        assert_eq!(selection.direct(id(3)), None);
    }

    proptest! {
        #[test]
        fn picks_are_living_and_reachable_while_somebody_is(
            ids in proptest::collection::btree_set(1_u64..20, 0..8),
            left_out in proptest::collection::vec(1_u64..20, 0..8),
            except in proptest::collection::vec((1_u64..20).prop_map(id), 0..8),
            bits in proptest::num::u64::ANY,
        ) {
            let now = Instant::now();
            let ids: Vec<u64> = ids.into_iter().collect();
            let mut selection = selection(&ids);
            for n in &left_out {
                selection.leave_out(id(*n), now + Duration::from_secs(1));
            }
            let picks = [
                selection.random(now, &except, bits),
                selection.round_robin(now, &except),
            ];
            let open: Vec<u64> = ids.iter().copied().filter(|n| !except.contains(&id(*n))).collect();
            let reachable = open.iter().any(|n| !left_out.contains(n));
            for pick in picks {
                prop_assert_eq!(pick.is_some(), !open.is_empty());
                let Some(pick) = pick else { continue };
                prop_assert!(open.contains(&pick.id.get()));
                prop_assert!(!reachable || !left_out.contains(&pick.id.get()));
            }
        }

        #[test]
        fn round_robin_is_fair(ids in proptest::collection::btree_set(1_u64..99, 1..9), rounds in 1_usize..5) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let mut selection = selection(&ids);
            let picked = turns(&mut selection, Instant::now(), ids.len() * rounds);
            prop_assert_eq!(picked, ids.repeat(rounds));
        }
    }
}

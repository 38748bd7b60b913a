//! Who is there, and what has been heard of whom. Two sources say so, each in its own time: the
//! endpoint's instances in discovery, and the news of their publishers.
//!
//! Invariants
//! - A rank has a slot from the moment that either source first names it until neither does.
//! - A rank is a candidate while its instance is there, whether or not anything was heard of it.
//! - A slot is released after router and index have forgotten it.

use dynamo_kv_router::fleet::WorkerState;
use dynamo_kv_router::router::Router;
use dynamo_kv_router::{Slot, Slots, WorkerKey};
use dynamo_protocols::load::LoadReport;
use std::collections::BTreeMap;

/// The workers of a router.
#[derive(Debug, Default)]
pub(crate) struct Members {
    slots: Slots,
    instances: BTreeMap<u64, Member>,
}

#[derive(Debug, Default)]
struct Member {
    is_there: bool,
    /// Whether its publisher is there; one that is out of reach for now is.
    is_heard: bool,
    ranks: BTreeMap<u32, Rank>,
}

/// What has been heard of a rank.
#[derive(Debug, Default)]
struct Rank {
    tells_kv: bool,
    load: LoadReport,
}

/// Slots whose owners are gone: to be cleared in the index and then released.
pub(crate) type Leavers = Vec<Slot>;

impl Members {
    /// Takes over who is there, by id.
    pub(crate) fn set_instances(&mut self, router: &mut Router, present: &[u64]) -> Leavers {
        let mut leavers = Leavers::new();
        for instance in present {
            let member = self.instances.entry(*instance).or_default();
            if !member.is_there {
                member.is_there = true;
                member.ranks.entry(0).or_default();
                enroll(&mut self.slots, router, *instance, member);
            }
        }
        for (instance, member) in &mut self.instances {
            if member.is_there && present.binary_search(instance).is_err() {
                member.is_there = false;
                for rank in member.ranks.keys() {
                    router.remove_worker(key(*instance, *rank));
                }
            }
        }
        self.forget(&mut leavers);
        self.tell_events(router);
        leavers
    }

    /// A rank of a publisher is heard of. `None` if there is no room for more workers.
    pub(crate) fn hear(&mut self, router: &mut Router, worker: WorkerKey) -> Option<Slot> {
        let member = self.instances.entry(worker.instance).or_default();
        member.is_heard = true;
        let is_new = !member.ranks.contains_key(&worker.dp_rank);
        member.ranks.entry(worker.dp_rank).or_default();
        if is_new && member.is_there {
            enroll(&mut self.slots, router, worker.instance, member);
        }
        self.slots.assign(worker)
    }

    /// A rank tells what its cache holds.
    pub(crate) fn tells_kv(&mut self, router: &mut Router, worker: WorkerKey) {
        let Some(rank) = self.rank_mut(worker) else {
            return;
        };
        if !rank.tells_kv {
            rank.tells_kv = true;
            self.tell_events(router);
        }
    }

    /// A rank tells how it is doing.
    pub(crate) fn load(&mut self, router: &mut Router, worker: WorkerKey, load: LoadReport) {
        router.observe(worker, &load);
        if let Some(rank) = self.rank_mut(worker) {
            rank.load = load;
        }
    }

    /// A publisher is gone: what was heard of it counts no more.
    pub(crate) fn lose(&mut self, router: &mut Router, instance: u64) -> Leavers {
        let mut leavers = Leavers::new();
        if let Some(member) = self.instances.get_mut(&instance) {
            member.is_heard = false;
            for (rank, heard) in &mut member.ranks {
                heard.tells_kv = false;
                // Its cache is not known any more, also if the worker itself stays.
                leavers.extend(self.slots.slot(key(instance, *rank)));
            }
        }
        // Those that are forgotten now are among them already.
        self.forget(&mut Leavers::new());
        self.tell_events(router);
        leavers
    }

    /// The slots of a publisher's ranks.
    pub(crate) fn slots_of(&self, instance: u64) -> impl Iterator<Item = Slot> + '_ {
        let member = self.instances.get(&instance);
        let ranks = member.into_iter().flat_map(|member| member.ranks.keys());
        ranks.filter_map(move |rank| self.slots.slot(key(instance, *rank)))
    }

    /// Gives cleared slots of those who are gone to whoever comes next.
    pub(crate) fn release(&mut self, slots: &[Slot]) {
        for slot in slots {
            self.slots.release(*slot);
        }
    }

    /// How many instances are there.
    pub(crate) fn present(&self) -> usize {
        let members = self.instances.values();
        members.filter(|member| member.is_there).count()
    }

    /// How many of them tell what their caches hold.
    pub(crate) fn telling(&self) -> usize {
        let members = self.instances.values();
        members
            .filter(|member| member.is_there && member.ranks.values().any(|rank| rank.tells_kv))
            .count()
    }

    /// The last load of every rank that is there.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (WorkerKey, &LoadReport)> + '_ {
        let members = self.instances.iter().filter(|(_, member)| member.is_there);
        members.flat_map(|(instance, member)| {
            let ranks = member.ranks.iter();
            ranks.map(|(rank, heard)| (key(*instance, *rank), &heard.load))
        })
    }

    fn rank_mut(&mut self, worker: WorkerKey) -> Option<&mut Rank> {
        let member = self.instances.get_mut(&worker.instance)?;
        member.ranks.get_mut(&worker.dp_rank)
    }

    fn tell_events(&self, router: &mut Router) {
        router.set_events(self.telling() > 0);
    }

    /// Parts those that neither source names from their slots.
    fn forget(&mut self, leavers: &mut Leavers) {
        let slots = &mut self.slots;
        self.instances.retain(|instance, member| {
            let stays = member.is_there || member.is_heard;
            if !stays {
                let ranks = member.ranks.keys();
                leavers.extend(ranks.filter_map(|rank| slots.retire(key(*instance, *rank))));
            }
            stays
        });
    }
}

/// Makes every known rank of an instance a candidate.
fn enroll(slots: &mut Slots, router: &mut Router, instance: u64, member: &Member) {
    for (rank, heard) in &member.ranks {
        let worker = key(instance, *rank);
        let Some(slot) = slots.assign(worker) else {
            tracing::error!(
                instance,
                rank,
                "there are more workers than the router has room for"
            );
            continue;
        };
        let mut state = WorkerState::new(worker, slot);
        state.observe(&heard.load);
        router.put_worker(state);
    }
}

fn key(instance: u64, dp_rank: u32) -> WorkerKey {
    WorkerKey { instance, dp_rank }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_kv_router::config::RouterOptions;
    use dynamo_kv_router::mode::RouterMode;
    use std::num::NonZeroU32;

    fn start() -> (Members, Router) {
        let block_size = NonZeroU32::new(16).unwrap();
        let router = Router::new(&RouterOptions::default(), block_size, 1);
        (Members::default(), router)
    }

    fn candidates(router: &Router) -> Vec<(u64, u32)> {
        let workers = router.fleet().workers().iter();
        workers
            .map(|it| (it.key.instance, it.key.dp_rank))
            .collect()
    }

    #[test]
    fn either_source_may_be_first() {
        let (mut members, mut router) = start();
        let early = members.hear(&mut router, key(7, 1)).unwrap();
        members.tells_kv(&mut router, key(7, 1));
        assert_eq!(candidates(&router), []);
        assert_eq!(router.mode(), RouterMode::LeastLoaded);
        members.set_instances(&mut router, &[7]);
        assert_eq!(candidates(&router), [(7, 0), (7, 1)]);
        assert_eq!(router.mode(), RouterMode::Kv);
        assert_eq!(members.hear(&mut router, key(7, 1)), Some(early));
        members.set_instances(&mut router, &[7, 8]);
        members.hear(&mut router, key(8, 1)).unwrap();
        assert_eq!(candidates(&router), [(7, 0), (7, 1), (8, 0), (8, 1)]);
    }

    #[test]
    fn a_slot_is_parted_from_its_worker_when_neither_source_names_it() {
        let (mut members, mut router) = start();
        members.set_instances(&mut router, &[7]);
        let slot = members.hear(&mut router, key(7, 0)).unwrap();
        members.tells_kv(&mut router, key(7, 0));
        assert_eq!(members.set_instances(&mut router, &[]), []);
        assert_eq!(candidates(&router), []);
        assert_eq!(members.lose(&mut router, 7), [slot]);
        members.release(&[slot]);
        assert_eq!(members.hear(&mut router, key(9, 0)), Some(slot));
    }

    #[test]
    fn a_worker_whose_news_end_stays_a_candidate_with_nothing_known_of_its_cache() {
        let (mut members, mut router) = start();
        members.set_instances(&mut router, &[7]);
        let slot = members.hear(&mut router, key(7, 0)).unwrap();
        members.tells_kv(&mut router, key(7, 0));
        assert_eq!(members.lose(&mut router, 7), [slot]);
        assert_eq!(candidates(&router), [(7, 0)]);
        assert_eq!(router.mode(), RouterMode::LeastLoaded);
        assert_eq!(members.hear(&mut router, key(7, 0)), Some(slot));
    }
}

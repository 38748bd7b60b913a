//! Every history of the fleet against a model that remembers all of it, and looks through it again
//! for each question.

use super::tests::{endpoint, kv, load, seconds};
use super::{Bounds, Fleet, Heard, KvCounts, State};
use crate::figures::{EndpointFigures, Load};
use crate::scope::Present;
use dynamo_protocols::kv::KvEvent;
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};
use dynamo_runtime::discovery::EndpointId;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

const ENDPOINTS: [&str; 3] = ["a.b.one", "a.b.two", "a.c.one"];
const RANKS: u32 = 2;

/// Room for everybody: what does not fit is tested by example.
const BOUNDS: Bounds = Bounds {
    max_endpoints: 3,
    max_workers: 100,
    stale_after: Duration::from_secs(5),
};

#[derive(Debug, Clone)]
enum Step {
    Present(Present),
    Hear(EndpointId, u64, Heard),
}

/// All that happened, with its times.
struct History<'a>(&'a [(Duration, Step)]);

/// What is to be told of a worker.
#[derive(Debug, PartialEq)]
struct Told {
    state: State,
    loads: Vec<Load>,
    kv: KvCounts,
}

fn news_of(name: &EndpointId) -> EndpointId {
    endpoint(&format!("a.{}.events", name.component()))
}

impl History<'_> {
    /// Who was at an endpoint after so many steps.
    fn seated(&self, steps: usize, name: &EndpointId) -> BTreeSet<u64> {
        let last = self.0[..steps]
            .iter()
            .rev()
            .find_map(|(_, step)| match step {
                Step::Present(present) => Some(present),
                Step::Hear(..) => None,
            });
        last.and_then(|present| present.get(name).cloned())
            .unwrap_or_default()
    }

    /// Who was at any endpoint of a component.
    fn of_component(&self, steps: usize, news: &EndpointId) -> BTreeSet<u64> {
        let names = ENDPOINTS.map(endpoint).into_iter();
        let names = names.filter(|name| news_of(name) == *news);
        names.flat_map(|name| self.seated(steps, &name)).collect()
    }

    /// What was heard of a worker since it was last forgotten, if it is known: with the step's
    /// number, and first when it became known.
    fn heard(&self, steps: usize, news: &EndpointId, id: u64) -> Option<(Duration, Vec<usize>)> {
        let mut known: Option<(Duration, Vec<usize>)> = None;
        for (number, (time, step)) in self.0[..steps].iter().enumerate() {
            let there = self.of_component(number + 1, news);
            match step {
                Step::Present(_) => {
                    let is_heard = known.as_ref().is_some_and(|(_, heard)| !heard.is_empty());
                    if there.is_empty() || (!there.contains(&id) && !is_heard) {
                        known = None;
                    } else if there.contains(&id) && known.is_none() {
                        known = Some((*time, Vec::new()));
                    }
                }
                Step::Hear(of, who, heard) if of == news && *who == id && !there.is_empty() => {
                    match heard {
                        Heard::Gone => {
                            let stays = there.contains(&id);
                            known = stays.then(|| (*time, Vec::new()));
                        }
                        _ => known.get_or_insert((*time, Vec::new())).1.push(number),
                    }
                }
                Step::Hear(..) => {}
            }
        }
        known
    }

    fn step(&self, number: usize) -> (Duration, &Heard) {
        match &self.0[number] {
            (time, Step::Hear(_, _, heard)) => (*time, heard),
            (_, Step::Present(_)) => panic!("only what is heard is asked for"),
        }
    }

    fn events(&self, steps: &[usize], dp_rank: u32) -> Vec<(bool, &WorkerEvent)> {
        let mut events = Vec::new();
        for number in steps {
            let (is_snapshot, of_step) = match self.step(*number).1 {
                Heard::Snapshot(events) => (true, events),
                Heard::Events(events) => (false, events),
                Heard::Lost | Heard::Gone => continue,
            };
            let of_rank = of_step.iter().filter(|it| it.dp_rank == dp_rank);
            events.extend(of_rank.map(|it| (is_snapshot, it)));
        }
        events
    }

    fn loads(&self, steps: &[usize], dp_rank: u32) -> Vec<&LoadReport> {
        let events = self.events(steps, dp_rank).into_iter();
        let loads = events.filter_map(|(_, event)| match &event.news {
            WorkerNews::Load(load) => Some(load),
            WorkerNews::Kv(_) => None,
        });
        loads.collect()
    }

    fn kv(&self, steps: &[usize], dp_rank: u32) -> KvCounts {
        let mut counts = KvCounts::default();
        let mut expected = None;
        for (is_snapshot, event) in self.events(steps, dp_rank) {
            let WorkerNews::Kv(batch) = &event.news else {
                continue;
            };
            let after = batch.first_event_id + batch.events.len() as u64;
            // A snapshot stands for everything before its end.
            let first = if is_snapshot {
                after
            } else {
                batch.first_event_id
            };
            let missed = expected.map_or(0, |it| first.saturating_sub(it));
            counts.gaps += u64::from(missed > 0);
            counts.missed_events += missed;
            expected = Some(after);
            for event in batch.events.iter().filter(|_| !is_snapshot) {
                match event {
                    KvEvent::Stored { blocks, .. } => counts.stored_blocks += blocks.len() as u64,
                    KvEvent::Removed { blocks } => counts.removed_blocks += blocks.len() as u64,
                    KvEvent::Cleared => counts.clears += 1,
                }
            }
        }
        counts
    }

    fn told(&self, steps: usize, news: &EndpointId, id: u64, now: Duration) -> Told {
        let (known_at, heard) = self.heard(steps, news, id).expect("who is there is known");
        let is_lost = |number: &usize| *self.step(*number).1 == Heard::Lost;
        let lost = heard.last().is_some_and(is_lost);
        // The first of those at the end that are all alike.
        let run = heard.iter().rev().take_while(|it| is_lost(it) == lost);
        let since = run.last().map_or(known_at, |number| self.step(*number).0);
        let loads: Vec<Load> = (0..RANKS)
            .filter_map(|rank| self.loads(&heard, rank).last().map(|it| Load::from(*it)))
            .collect();
        let is_well = !heard.is_empty() && !lost && !loads.is_empty();
        let state = match (is_well, now - since >= BOUNDS.stale_after, loads.is_empty()) {
            (false, true, _) => State::Stale,
            (_, _, true) => State::Starting,
            (_, _, false) => State::Reporting,
        };
        let mut kv = KvCounts::default();
        for rank in 0..RANKS {
            kv += self.kv(&heard, rank);
        }
        Told {
            loads: if state == State::Reporting {
                loads
            } else {
                Vec::new()
            },
            state,
            kv,
        }
    }

    /// What an endpoint's counters have come to.
    fn progress(&self, name: &EndpointId) -> (KvCounts, u64) {
        let (mut kv, mut prompt_tokens) = (KvCounts::default(), 0);
        for (number, (time, step)) in self.0.iter().enumerate() {
            let Step::Hear(of, id, heard) = step else {
                continue;
            };
            if *of != news_of(name)
                || !self.seated(number, name).contains(id)
                || *heard == Heard::Gone
            {
                continue;
            }
            let before = self.told(number, of, *id, *time).kv;
            let after = self.told(number + 1, of, *id, *time).kv;
            kv += KvCounts {
                stored_blocks: after.stored_blocks - before.stored_blocks,
                removed_blocks: after.removed_blocks - before.removed_blocks,
                clears: after.clears - before.clears,
                gaps: after.gaps - before.gaps,
                missed_events: after.missed_events - before.missed_events,
            };
            let (_, window) = self.heard(number + 1, of, *id).unwrap();
            for rank in 0..RANKS {
                let earlier = self.loads(&window[..window.len() - 1], rank).len();
                let loads = self.loads(&window, rank);
                let pairs = loads.windows(2).skip(earlier.saturating_sub(1));
                let grown = pairs.map(|it| it[1].prompt_tokens.saturating_sub(it[0].prompt_tokens));
                prompt_tokens += grown.sum::<u64>();
            }
        }
        (kv, prompt_tokens)
    }

    fn check(&self, shown: &EndpointFigures, fleet: &Fleet, now: Duration) {
        let (name, steps) = (&shown.endpoint, self.0.len());
        let workers = self.seated(steps, name);
        let told = |id: &u64| self.told(steps, &news_of(name), *id, now);
        let told: Vec<Told> = workers.iter().map(told).collect();
        let count = |state| told.iter().filter(|it| it.state == state).count();
        assert_eq!(
            (shown.known, shown.reporting, shown.stale),
            (told.len(), count(State::Reporting), count(State::Stale))
        );
        let loads: Vec<Load> = told.iter().flat_map(|it| it.loads.clone()).collect();
        let sum = |of: fn(&Load) -> u64| loads.iter().map(of).sum::<u64>();
        assert_eq!(shown.sum.active_slots, sum(|it| it.active_slots));
        assert_eq!(shown.sum.active_blocks, sum(|it| it.active_blocks));
        assert_eq!(shown.sum.slots, sum(|it| it.slots));
        let most = loads.iter().map(|it| it.active_slots).max();
        assert_eq!(shown.requests.map(|it| it.max), most.map(|it| it as f64));
        assert_eq!((shown.kv, shown.prompt_tokens), self.progress(name));
        let figures = fleet.figures(now);
        for (id, told) in workers.iter().zip(&told) {
            let ranks = figures.workers.iter();
            let mut ranks = ranks.filter(|it| it.endpoint == *name && it.worker == *id);
            let mut kv = KvCounts::default();
            assert!(ranks.clone().all(|it| it.state == told.state));
            assert_eq!(
                ranks.clone().filter_map(|it| it.load).collect::<Vec<_>>(),
                told.loads
            );
            ranks.by_ref().for_each(|it| kv += it.kv);
            assert_eq!(kv, told.kv);
        }
    }
}

fn presents() -> impl Strategy<Value = Step> {
    let ids = || proptest::collection::btree_set(1_u64..4, 0..3);
    let present = (ids(), ids(), ids()).prop_map(|(one, two, three)| {
        let all = ENDPOINTS.map(endpoint).into_iter().zip([one, two, three]);
        Step::Present(all.filter(|(_, ids)| !ids.is_empty()).collect())
    });
    present.boxed()
}

fn events(ranks: std::ops::Range<u32>) -> impl Strategy<Value = Vec<WorkerEvent>> {
    let one = prop_oneof![
        (ranks.clone(), 0_u32..9, 0_u64..500)
            .prop_map(|(rank, active, tokens)| load(rank, active, tokens)),
        (ranks, 0_u64..40, 0_u64..4).prop_map(|(rank, first, stored)| kv(rank, first, stored)),
    ];
    proptest::collection::vec(one, 0..5)
}

/// Snapshots name every rank, as workers' do.
fn snapshots() -> impl Strategy<Value = Vec<WorkerEvent>> {
    (0_u64..40, 0_u32..9, events(0..RANKS)).prop_map(|(first, active, more)| {
        let ranks = (0..RANKS).flat_map(|rank| [kv(rank, first, 1), load(rank, active, 7)]);
        let is_load = |it: &WorkerEvent| matches!(it.news, WorkerNews::Load(_));
        ranks.chain(more.into_iter().filter(is_load)).collect()
    })
}

fn hears() -> impl Strategy<Value = Step> {
    let heard = prop_oneof![
        3 => events(0..RANKS).prop_map(Heard::Events),
        2 => snapshots().prop_map(Heard::Snapshot),
        1 => Just(Heard::Lost),
        1 => Just(Heard::Gone),
    ];
    let news = prop_oneof![Just("a.b.events"), Just("a.c.events")];
    (news, 1_u64..4, heard).prop_map(|(news, id, heard)| Step::Hear(endpoint(news), id, heard))
}

proptest! {
    #[test]
    fn every_history_comes_to_what_a_model_with_all_of_it_says(
        steps in proptest::collection::vec(
            (0_u64..4, prop_oneof![1 => presents(), 3 => hears()]),
            1..30,
        ),
        later in 0_u64..8,
    ) {
        let mut fleet = Fleet::new(BOUNDS);
        let mut history = Vec::new();
        let mut now = Duration::ZERO;
        for (pause, step) in steps {
            now += seconds(pause);
            match &step {
                Step::Present(present) => fleet.set_present(present, false, now),
                Step::Hear(news, id, heard) => fleet.hear(news, *id, heard, now),
            }
            history.push((now, step));
            for shown in fleet.figures(now).endpoints {
                History(&history).check(&shown, &fleet, now);
            }
        }
        let now = now + seconds(later);
        for shown in fleet.figures(now).endpoints {
            History(&history).check(&shown, &fleet, now);
        }
    }
}

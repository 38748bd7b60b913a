//! What must hold of a cluster: at every look, and once it is quiet.

use super::fault::Host;
use super::frontend::{DISPATCH, FIRST_TOKEN, PARTS};
use super::plan::Capacity;
use super::world::{WorkerLife, World};
use super::{Ending, MODEL, Violation};
use dynamo_kv_router::{Slot, WorkerKey};
use dynamo_protocols::ErrorCode;
use dynamo_protocols::error::Blame;
use dynamo_protocols::kv::{KvEvent, SequenceHash};
use dynamo_protocols::load::LoadReport;
use dynamo_routing::WorkerRouter;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Rounding of timers, and the time that messages take.
const SLACK: Duration = Duration::from_secs(2);

/// The longest that a request may be silent before its first token: the deadlines of all parts.
const FIRST_BOUND: Duration = Duration::from_secs(
    PARTS.as_secs() + FIRST_TOKEN.as_secs() + DISPATCH.as_secs() + SLACK.as_secs(),
);

/// The same between two tokens, moves included.
const NEXT_BOUND: Duration = Duration::from_secs(PARTS.as_secs() + SLACK.as_secs());

/// How long a worker that is well may work on what nobody wants any more: the cancellation is on
/// its way, and looks are some time apart.
const CANCEL_BOUND: Duration = Duration::from_secs(1);

/// Looks for requests that hang, and for what is over its bound.
pub(super) fn look(world: &World, now: Duration) {
    let mut hung = Vec::new();
    for (index, state) in world.requests.lock().iter().enumerate() {
        let frontend = world.plan.requests[index].frontend;
        let stopped = world.plan.stopped(frontend, state.heard, now);
        // One that waits for the first token of some choice is not between two tokens.
        let bound = match state.given.contains(&0) {
            true => FIRST_BOUND,
            false => NEXT_BOUND,
        };
        let is_open = state.begun.is_some() && state.ended.is_none();
        if is_open && now.saturating_sub(state.heard) > bound + stopped {
            hung.push(index);
        }
    }
    for index in hung {
        world.ended(index, now, Ending::Hung);
    }
    for (number, life) in lives(world) {
        let LoadReport {
            scheduled,
            queued,
            used_blocks,
            ..
        } = dynamo_protocols::engine::Engine::load(&*life.engine);
        let running = scheduled.num_prefill_requests + scheduled.num_decode_requests;
        let waiting = queued.num_prefill_requests + queued.num_decode_requests;
        world.count(
            "looks at engines that have work waiting",
            u64::from(waiting > 0),
        );
        let Capacity { sequences, blocks } = world.plan.capacity;
        if running > sequences || used_blocks > u64::from(blocks) {
            world.violated(
                now,
                Violation::OverBound {
                    host: Host::Worker(number),
                },
            );
        }
    }
}

/// Looks for work without an owner: on what has ended, and on what another worker works on.
pub(super) fn owners(world: &World, now: Duration, doubled: &mut BTreeMap<usize, Duration>) {
    let begin = now.saturating_sub(CANCEL_BOUND);
    let mut at_work: BTreeMap<usize, usize> = BTreeMap::new();
    for (number, life) in lives(world) {
        let running = life.running.lock().clone();
        for (id, _) in running {
            let Some(index) = world.index_of(&id) else {
                continue;
            };
            let frontend = world.plan.requests[index].frontend;
            let at_ease = |from| world.plan.are_at_ease(frontend, number, (from, now));
            let ended = world.requests.lock()[index].ended;
            match ended {
                Some((ended, _)) if ended < begin && at_ease(ended) => {
                    let (host, id) = (Host::Worker(number), id.to_string());
                    world.violated(now, Violation::Orphan { host, id, ended });
                }
                None if at_ease(begin) => *at_work.entry(index).or_default() += 1,
                _ => {}
            }
        }
    }
    at_work.retain(|index, running| *running > world.plan.requests[*index].choices);
    doubled.retain(|index, _| at_work.contains_key(index));
    for (index, running) in at_work {
        let since = *doubled.entry(index).or_insert(now);
        if since < begin {
            let request = &world.plan.requests[index];
            let (id, choices) = (request.id.clone(), request.choices);
            let violation = Violation::TwiceAtWork {
                id,
                running,
                choices,
            };
            world.violated(now, violation);
        }
    }
}

/// Judges how the requests ended.
pub(super) fn requests(world: &World) {
    let states = world.requests.lock().clone();
    for (request, state) in world.plan.requests.iter().zip(states) {
        let Some((at, ending)) = state.ended else {
            let ending = Ending::Hung;
            let id = request.id.clone();
            world.violated(world.plan.requests[0].at, Violation::Request { id, ending });
            continue;
        };
        let is_promised = world.plan.promises(request, at);
        let may_end_so = match ending {
            Ending::Complete => state.given.iter().all(|given| *given == request.tokens),
            Ending::GivenUp => request.gives_up_after.is_some(),
            Ending::OutOfTime => request.patience.is_some(),
            Ending::Failed(_) if is_promised => false,
            Ending::Failed(ErrorCode::ModelNotFound) => {
                world.plan.is_disturbed(request.frontend, request.at, at)
            }
            Ending::Failed(code) => {
                matches!(code.blame(), Blame::Capacity | Blame::Worker)
            }
            // The frontend was killed: nobody else ends requests so.
            Ending::ConnectionLost | Ending::Refused => true,
            Ending::CutShort | Ending::Hung => false,
        };
        if !may_end_so {
            let id = request.id.clone();
            world.violated(at, Violation::Request { id, ending });
        }
    }
}

/// Judges a cluster in which nothing has happened for a while.
pub(super) fn quiet(world: &World, now: Duration) {
    let lives: BTreeMap<usize, WorkerLife> = lives(world).collect();
    for number in 0..world.workers.len() {
        let host = Host::Worker(number);
        let Some(life) = lives.get(&number) else {
            world.violated(now, Violation::NotBack { host });
            continue;
        };
        let load = dynamo_protocols::engine::Engine::load(&*life.engine);
        let work = [&load.scheduled, &load.queued];
        let busy: u32 = work
            .iter()
            .map(|it| it.num_prefill_requests + it.num_decode_requests)
            .sum();
        if busy > 0 || load.used_blocks != load.cached_blocks {
            world.violated(
                now,
                Violation::WorksForNobody {
                    host,
                    sequences: busy,
                },
            );
        }
    }
    for (number, seat) in world.frontends.iter().enumerate() {
        let host = Host::Frontend(number);
        let registry = seat.lock().registry.clone();
        let model = registry.and_then(|registry| registry.find(MODEL).ok());
        match model.and_then(|model| model.router.clone()) {
            Some(router) => frontend(world, now, host, &router, &lives),
            None => world.violated(now, Violation::NotBack { host }),
        }
    }
}

fn frontend(
    world: &World,
    now: Duration,
    host: Host,
    router: &Arc<WorkerRouter>,
    lives: &BTreeMap<usize, WorkerLife>,
) {
    let (booked, waiting, fleet) = router.with_router(|router| {
        let fleet = router.fleet().workers().iter().map(|it| (it.key, it.slot));
        let fleet: BTreeMap<WorkerKey, Slot> = fleet.collect();
        (router.book().len(), router.waiting(), fleet)
    });
    if booked > 0 || waiting > 0 {
        world.violated(
            now,
            Violation::Booked {
                host,
                booked,
                waiting,
            },
        );
    }
    let known: BTreeSet<u64> = fleet.keys().map(|key| key.instance).collect();
    let living: BTreeSet<u64> = lives.values().map(|life| life.instance).collect();
    if known != living {
        world.violated(
            now,
            Violation::OtherWorkers {
                host,
                known,
                living,
            },
        );
        return;
    }
    let mut blocks = 0;
    for (number, life) in lives {
        let key = WorkerKey {
            instance: life.instance,
            dp_rank: 0,
        };
        let index = held(router, fleet[&key]);
        let cache = life.cache.lock().clone();
        blocks += cache.len() as u64;
        if index != cache {
            world.violated(
                now,
                Violation::OtherBlocks {
                    host,
                    worker: Host::Worker(*number),
                    missing: cache.difference(&index).count(),
                    extra: index.difference(&cache).count(),
                },
            );
        }
    }
    let indexed = router.index().blocks();
    if indexed != blocks {
        world.violated(
            now,
            Violation::ForeignBlocks {
                host,
                indexed,
                blocks,
            },
        );
    }
}

/// The blocks that a router's index has for a worker.
fn held(router: &WorkerRouter, slot: Slot) -> BTreeSet<SequenceHash> {
    let mut held = BTreeSet::new();
    for stored in router.index().snapshot(slot) {
        if let KvEvent::Stored { blocks, .. } = stored.event {
            held.extend(blocks.iter().map(|block| block.sequence_hash));
        }
    }
    held
}

fn lives(world: &World) -> impl Iterator<Item = (usize, WorkerLife)> + '_ {
    let seats = world.workers.iter().enumerate();
    seats.filter_map(|(number, seat)| Some((number, seat.lock().life.clone()?)))
}

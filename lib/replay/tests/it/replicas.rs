//! Replicas of one router in virtual time: eight that tell each other what they book, a little
//! late, do as well as one that sees everything.
//!
//! Routers, index and engines' schedulers are the real ones; the network is a delay.

use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::cost::WorkerOverlap;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::fleet::WorkerState;
use dynamo_kv_router::index::{Index, Matches};
use dynamo_kv_router::mode::RouterMode;
use dynamo_kv_router::queue::Place;
use dynamo_kv_router::request::{RouteRequest, Standing};
use dynamo_kv_router::router::{Change, Placed, Released, Router, Submitted, Ticket};
use dynamo_kv_router::{Slot, Tier, WorkerKey};
use dynamo_mocker::scheduler::{Scheduler, Step};
use dynamo_mocker::{MockModel, MockerOptions};
use dynamo_protocols::engine::{EngineRequest, StopConditions};
use dynamo_protocols::kv::{KvEvent, SequenceHash};
use dynamo_tokens::{HashContext, block_hashes, sequence_hashes};
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const BLOCK: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// How long changes wait for others, and news travel.
const LINGER: Duration = Duration::from_micros(1000);
const DELAY: Duration = Duration::from_micros(500);

/// How many beginnings prompts have, and how long those are.
const BEGINNINGS: usize = 96;
const BEGINNING_TOKENS: u32 = 24 * 64;
const OUTPUT_TOKENS: u32 = 24;

const TENANTS: [&str; 3] = ["flood", "steady", "seldom"];

/// Traffic: how much, whose, and how it is spread over replicas.
#[derive(Clone, Copy)]
struct Traffic {
    workers: u32,
    seconds: u64,
    per_second: f64,
    /// Each tenant's part of the requests.
    tenants: [f64; 3],
    /// Whether each tenant's connections are with two replicas, instead of any.
    is_sticky: bool,
    /// Whether requests wait in the routers while workers are busy.
    queues: bool,
    seed: u64,
}

/// Different requests of the same kind.
const SEEDS: std::ops::Range<u64> = 1..5;

struct Asked {
    at: Duration,
    replica: usize,
    tenant: usize,
    prompt: Arc<[u32]>,
    hashes: Vec<SequenceHash>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives(usize),
    StepEnds(usize),
    HearsBlocks(usize),
    Tells(usize),
    HearsChanges(usize, usize),
    Looks(usize),
}

struct Replica {
    router: Router,
    waiting: HashMap<Place, usize>,
    will_tell: bool,
}

struct Worker {
    scheduler: Scheduler,
    step: Option<Step>,
    news: std::collections::VecDeque<Vec<KvEvent>>,
}

struct Running {
    replica: usize,
    ticket: Ticket,
    tokens: u32,
    next_block: u32,
}

struct Simulation {
    asked: Vec<Asked>,
    replicas: Vec<Replica>,
    index: Index,
    workers: Vec<Worker>,
    running: HashMap<usize, Running>,
    told: Vec<Arc<[Change]>>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    numbers: u64,
    now: Duration,
    random: u64,
    result: Met,
}

/// What came of it.
#[derive(Debug, Default)]
struct Met {
    prompt_tokens: u64,
    cached_tokens: u64,
    /// Prompt tokens that were served while all tenants had requests waiting or running.
    served: [u64; 3],
    refused: [u64; 3],
    finished: usize,
}

impl Met {
    fn hit_rate(&self) -> f64 {
        self.cached_tokens as f64 / self.prompt_tokens as f64
    }

    fn shares(&self) -> [f64; 3] {
        let all: u64 = self.served.iter().sum();
        self.served.map(|tokens| tokens as f64 / all as f64)
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut bits = *state;
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn unit(state: &mut u64) -> f64 {
    (random(state) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Picks by weights.
fn weighted(weights: &[f64], state: &mut u64) -> usize {
    let mut left = unit(state) * weights.iter().sum::<f64>();
    for (nth, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return nth;
        }
    }
    weights.len() - 1
}

/// The same requests at the same times, whatever the number of replicas.
fn requests(traffic: &Traffic, replicas: usize) -> Vec<Asked> {
    let zipf: Vec<f64> = (1..=BEGINNINGS).map(|rank| 1.0 / rank as f64).collect();
    let (mut state, mut at, mut asked) = (traffic.seed, Duration::ZERO, Vec::new());
    while at < Duration::from_secs(traffic.seconds) {
        at += Duration::from_secs_f64(-(1.0 - unit(&mut state)).ln() / traffic.per_second);
        let tenant = weighted(&traffic.tenants, &mut state);
        let beginning = weighted(&zipf, &mut state) as u32;
        let number = asked.len() as u32;
        let own = 64 + (random(&mut state) % 256) as u32;
        let begun = (0..BEGINNING_TOKENS).map(|token| beginning * 7_919 + token);
        let prompt: Arc<[u32]> = begun
            .chain((0..own).map(|token| 1_000_000 + number * 512 + token))
            .collect();
        let blocks = block_hashes(&prompt, BLOCK.get() as usize, &HashContext::new());
        let spread = random(&mut state) as usize;
        let replica = match traffic.is_sticky {
            true => (tenant * 3 + spread % 2) % replicas,
            false => spread % replicas,
        };
        asked.push(Asked {
            at,
            replica,
            tenant,
            hashes: sequence_hashes(&blocks),
            prompt,
        });
    }
    asked
}

fn key(worker: usize) -> WorkerKey {
    WorkerKey {
        instance: worker as u64 + 1,
        dp_rank: 0,
    }
}

impl Simulation {
    fn new(traffic: &Traffic, replicas: usize, sync: bool) -> Self {
        let engine = MockerOptions {
            num_gpu_blocks_override: 512,
            max_num_batched_tokens: 2_048,
            max_num_seqs: 32,
            ..MockerOptions::default()
        };
        let settings = engine.settle(MockModel::default()).unwrap();
        let room = 32 * traffic.workers as usize;
        let options = RouterOptions {
            router_mode: RouterMode::Kv,
            router_replica_sync: sync,
            router_queue_threshold: traffic.queues.then_some(2.0),
            router_queue_limit: room / replicas,
            router_queue_tenant_limit: room / replicas,
            ..RouterOptions::default()
        };
        let make = |origin| {
            let mut router = Router::new(&options, BLOCK, origin);
            router.set_events(true);
            for slot in 0..traffic.workers {
                let mut state = WorkerState::new(key(slot as usize), Slot(slot));
                state.max_batched_tokens = Some(2_048);
                state.total_blocks = Some(512);
                router.put_worker(state);
            }
            Replica {
                router,
                waiting: HashMap::new(),
                will_tell: false,
            }
        };
        let asked = requests(traffic, replicas);
        let mut simulation = Self {
            replicas: (1..=replicas as u64).map(make).collect(),
            index: Index::default(),
            workers: (0..traffic.workers)
                .map(|_| Worker {
                    scheduler: Scheduler::new(settings.scheduler.clone(), settings.timing.clone()),
                    step: None,
                    news: Default::default(),
                })
                .collect(),
            running: HashMap::new(),
            told: Vec::new(),
            events: BinaryHeap::new(),
            numbers: 0,
            now: Duration::ZERO,
            random: 11,
            result: Met::default(),
            asked,
        };
        for number in 0..simulation.asked.len() {
            let at = simulation.asked[number].at;
            simulation.plan(at, Event::Arrives(number));
        }
        simulation
    }

    fn run(mut self, until: Duration) -> Met {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > until {
                break;
            }
            self.now = at;
            self.happens(event);
        }
        self.result
    }

    fn plan(&mut self, at: Duration, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at, self.numbers, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(number) => self.arrives(number),
            Event::StepEnds(worker) => self.step_ends(worker),
            Event::HearsBlocks(worker) => {
                let events = self.workers[worker].news.pop_front().unwrap();
                for event in &events {
                    self.index.apply(Slot(worker as u32), Tier::Device, event);
                }
            }
            Event::Tells(replica) => self.tells(replica),
            Event::HearsChanges(replica, batch) => {
                let changes = Arc::clone(&self.told[batch]);
                for change in &*changes {
                    self.replicas[replica].router.apply(change, self.now);
                }
                self.looks(replica);
            }
            Event::Looks(replica) => self.looks(replica),
        }
    }

    fn arrives(&mut self, number: usize) {
        let asked = &self.asked[number];
        let (at, tenant) = (asked.replica, asked.tenant);
        let mut matches = Matches::new();
        self.index.find(&asked.hashes, &mut matches);
        let request = RouteRequest {
            isl_tokens: asked.prompt.len() as u64,
            hashes: &asked.hashes,
            standing: Standing {
                tenant: Some(TENANTS[tenant]),
                ..Standing::default()
            },
            ..RouteRequest::default()
        };
        let replica = &mut self.replicas[at];
        let mut bits = || random(&mut self.random);
        let submitted = replica
            .router
            .submit(&request, matches.overlaps(), self.now, &mut bits);
        match submitted {
            Ok(Submitted::Placed(placed)) => self.starts(number, &placed),
            Ok(Submitted::Waits { place, displaced }) => {
                replica.waiting.insert(place, number);
                if let Some(displaced) = displaced.and_then(|it| replica.waiting.remove(&it)) {
                    self.result.refused[self.asked[displaced].tenant] += 1;
                }
                self.looks(at);
            }
            Err(_) => self.result.refused[tenant] += 1,
        }
    }

    fn starts(&mut self, number: usize, placed: &Placed) {
        let asked = &self.asked[number];
        let filled = asked.prompt.len() as u32 % BLOCK.get();
        let running = Running {
            replica: asked.replica,
            ticket: placed.ticket,
            tokens: 0,
            next_block: BLOCK.get() - filled,
        };
        let (replica, worker) = (running.replica, placed.slot.0 as usize);
        self.running.insert(number, running);
        let request = EngineRequest {
            prompt_ids: Arc::clone(&asked.prompt),
            stop: StopConditions {
                max_tokens: OUTPUT_TOKENS,
                ignore_eos: true,
                ..StopConditions::default()
            },
            ..EngineRequest::default()
        };
        let held = &mut self.workers[worker];
        held.scheduler.submit(number as u64, &request);
        if held.step.is_none() {
            self.begin_step(worker);
        }
        self.has_changed(replica);
    }

    fn begin_step(&mut self, worker: usize) {
        let step = self.workers[worker].scheduler.step(self.now);
        if !step.is_idle() || !step.kv_events.is_empty() {
            self.plan(step.ends_at, Event::StepEnds(worker));
            self.workers[worker].step = Some(step);
        }
    }

    fn step_ends(&mut self, worker: usize) {
        let step = self.workers[worker].step.take().unwrap();
        let mut concerned = BTreeSet::new();
        for output in &step.outputs {
            let (number, cached) = (output.id as usize, output.cached_tokens);
            concerned.insert(self.token(number, cached, output.finish.is_some()));
        }
        if !step.kv_events.is_empty() {
            self.workers[worker].news.push_back(step.kv_events);
            self.plan(self.now + DELAY, Event::HearsBlocks(worker));
        }
        self.begin_step(worker);
        for replica in concerned {
            self.has_changed(replica);
            self.looks(replica);
        }
    }

    fn token(&mut self, number: usize, cached: Option<u32>, is_last: bool) -> usize {
        let running = self.running.get_mut(&number).unwrap();
        let at = running.replica;
        let router = &mut self.replicas[at].router;
        running.tokens += 1;
        if running.tokens == 1 {
            router.first_token(&running.ticket, self.now);
            let asked = &self.asked[number];
            self.result.prompt_tokens += asked.prompt.len() as u64;
            self.result.cached_tokens += u64::from(cached.unwrap_or(0));
            self.result.served[asked.tenant] += asked.prompt.len() as u64;
        }
        if running.tokens == running.next_block {
            router.block_filled(&running.ticket, None, running.tokens, self.now);
            running.next_block += BLOCK.get();
        }
        if is_last {
            let outcome = Outcome {
                cached_tokens: cached.map(u64::from),
                output_tokens: running.tokens,
                end: End::Finished,
            };
            router.end(&running.ticket, outcome);
            self.running.remove(&number);
            self.result.finished += 1;
        }
        at
    }

    fn has_changed(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        if replica.router.has_changes() && !replica.will_tell {
            replica.will_tell = true;
            self.plan(self.now + LINGER, Event::Tells(at));
        }
    }

    fn tells(&mut self, at: usize) {
        self.replicas[at].will_tell = false;
        let taken = self.replicas[at].router.take_changes(self.now);
        assert!(taken.is_complete);
        self.told.push(taken.changes.into());
        for other in (0..self.replicas.len()).filter(|other| *other != at) {
            let batch = self.told.len() - 1;
            self.plan(self.now + DELAY, Event::HearsChanges(other, batch));
        }
    }

    fn looks(&mut self, at: usize) {
        loop {
            let replica = &mut self.replicas[at];
            if replica.waiting.is_empty() {
                break;
            }
            let mut matches = Matches::new();
            let mut find = |hashes: &[SequenceHash], list: &mut Vec<WorkerOverlap>| {
                self.index.find(hashes, &mut matches);
                list.extend_from_slice(matches.overlaps());
            };
            let mut bits = || random(&mut self.random);
            let released = replica.router.tick(self.now, &mut bits, &mut find);
            let Some(Released { place, result }) = released else {
                if let Some(expiry) = replica.router.next_expiry() {
                    self.plan(expiry, Event::Looks(at));
                }
                break;
            };
            let number = replica.waiting.remove(&place).unwrap();
            match result {
                Ok(placed) => self.starts(number, &placed),
                Err(_) => self.result.refused[self.asked[number].tenant] += 1,
            }
        }
        self.has_changed(at);
    }
}

fn met(traffic: &Traffic, replicas: usize) -> Met {
    let sync = replicas > 1;
    Simulation::new(traffic, replicas, sync).run(Duration::from_secs(traffic.seconds))
}

/// What was found in caches, within two points.
fn assert_hits_agree(one: &Met, many: &Met) {
    let difference = (one.hit_rate() - many.hit_rate()).abs();
    assert!(difference <= 0.02, "{one:?} {many:?}");
}

/// More than the workers can serve, most of it one tenant's.
const FLOOD: Traffic = Traffic {
    workers: 8,
    seconds: 30,
    per_second: 600.0,
    tenants: [0.7, 0.24, 0.06],
    is_sticky: false,
    queues: true,
    seed: 7,
};

#[test]
fn the_hit_rate_of_eight_replicas_is_that_of_one() {
    for seed in SEEDS {
        for per_second in [60.0, 150.0] {
            let traffic = Traffic {
                per_second,
                seed,
                queues: false,
                ..FLOOD
            };
            assert_hits_agree(&met(&traffic, 1), &met(&traffic, 8));
        }
    }
}

#[test]
fn tenants_shares_of_eight_replicas_are_those_of_one() {
    for seed in SEEDS {
        for is_sticky in [false, true] {
            let traffic = Traffic {
                is_sticky,
                seed,
                ..FLOOD
            };
            let (one, eight) = (met(&traffic, 1), met(&traffic, 8));
            assert_hits_agree(&one, &eight);
            for (alone, together) in one.shares().iter().zip(eight.shares()) {
                let ratio = together / alone;
                assert!(
                    (0.95..=1.05).contains(&ratio),
                    "{seed} {is_sticky} {one:?} {eight:?}"
                );
            }
        }
    }
}

#[test]
fn replicas_that_know_nothing_of_each_other_do_worse() {
    let one = met(&FLOOD, 1);
    let apart = Simulation::new(&FLOOD, 8, false).run(Duration::from_secs(FLOOD.seconds));
    assert!(apart.hit_rate() < one.hit_rate() - 0.05, "{apart:?}");
}

#[test]
fn turns_do_not_hold_up_a_large_fleet() {
    let traffic = Traffic {
        workers: 48,
        seconds: 3,
        per_second: 3_600.0,
        ..FLOOD
    };
    let (one, eight) = (met(&traffic, 1), met(&traffic, 8));
    // More than a thousand requests a second leave the queues, with news that take one and a half
    // milliseconds. Caches are cold at first, when to know late costs most: over longer times it
    // is 93 of 100.
    assert!(
        eight.finished * 100 > one.finished * 85,
        "{one:?} {eight:?}"
    );
}

//! The event loop: requests arrive, the router places them, workers make their steps, and what
//! comes of those is told to the router.
//!
//! Invariants
//! - Events happen in the order of their times, and of their numbers where times are equal.
//! - The router hears of a step's outputs and KV events when the step is over, later by the plan's
//!   delay, as over a network.
//! - Every request of the trace ends: answered, or refused.

use crate::result::{Met, Outcome, Percentiles, Targets};
use crate::trace::{Trace, mix};
use crate::worker::Worker;
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::cost::WorkerOverlap;
use dynamo_kv_router::decision_log::{End, Outcome as Ending};
use dynamo_kv_router::fleet::WorkerState;
use dynamo_kv_router::index::{Index, Matches};
use dynamo_kv_router::mode::RouterMode;
use dynamo_kv_router::queue::Place;
use dynamo_kv_router::request::RouteRequest;
use dynamo_kv_router::router::{Placed, Released, Router, Submitted, Ticket};
use dynamo_kv_router::{Slot, Tier, WorkerKey};
use dynamo_mocker::{MockModel, MockerOptions};
use dynamo_protocols::kv::{KvEvent, SequenceHash};
use dynamo_tokens::{HashContext, block_hashes, sequence_hashes};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::num::NonZeroU32;
use std::time::Duration;

/// How often workers tell their load.
const LOAD_INTERVAL: Duration = Duration::from_millis(250);

/// What is replayed, besides the trace.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Workers.
    pub workers: u32,
    /// The router.
    pub router: RouterOptions,
    /// The simulated engines.
    pub engine: MockerOptions,
    /// How long news take from a worker to the router.
    pub news_delay: Duration,
    /// What a good answer is.
    pub targets: Targets,
    /// Decides whatever is random.
    pub seed: u64,
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There is nobody to ask.
    #[error("a replay needs at least one worker")]
    NoWorkers,
    /// The engines' options contradict each other.
    #[error(transparent)]
    Engine(#[from] dynamo_mocker::MockerError),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request comes.
    Arrives(usize),
    /// A worker's step is over.
    StepEnds(usize),
    /// The router hears of a worker's blocks.
    Hears(usize),
    /// The router looks whether somebody has waited for too long.
    Expiry,
}

/// A request on a worker.
#[derive(Debug, Clone, Copy)]
struct Running {
    ticket: Ticket,
    /// Output tokens at which the next block is full.
    next_block: u32,
}

struct Replay<'a> {
    trace: &'a Trace,
    plan: &'a Plan,
    block_size: NonZeroU32,
    context_length: usize,
    router: Router,
    index: Index,
    workers: Vec<Worker>,
    reported: Vec<Duration>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    numbers: u64,
    now: Duration,
    random: u64,
    running: HashMap<u64, Running>,
    waiting: HashMap<Place, usize>,
    news: Vec<std::collections::VecDeque<Vec<KvEvent>>>,
    met: Vec<Met>,
    tokens_of: Vec<u64>,
}

/// Replays a trace.
pub fn replay(trace: &Trace, plan: &Plan) -> Result<Outcome, ReplayError> {
    if plan.workers == 0 {
        return Err(ReplayError::NoWorkers);
    }
    let mut replay = Replay::new(trace, plan)?;
    while let Some(Reverse((at, _, event))) = replay.events.pop() {
        replay.now = at;
        replay.happens(event);
        replay.let_waiting_go();
    }
    Ok(replay.outcome())
}

impl<'a> Replay<'a> {
    fn new(trace: &'a Trace, plan: &'a Plan) -> Result<Self, ReplayError> {
        let settings = plan.engine.settle(MockModel::default())?;
        let size = settings.scheduler.block_size.get();
        let block_size = u32::try_from(size).ok().and_then(NonZeroU32::new);
        let block_size = block_size.unwrap_or(NonZeroU32::MIN);
        let mut router = Router::new(&plan.router, block_size, 1);
        router.set_events(true);
        let workers = 0..plan.workers;
        for number in workers.clone() {
            let mut state = WorkerState::new(key(number as usize), Slot(number));
            let batch = u32::try_from(settings.scheduler.max_batched_tokens);
            state.max_batched_tokens = batch.ok();
            state.max_sequences = u32::try_from(settings.scheduler.max_running).ok();
            state.total_blocks = Some(settings.scheduler.total_blocks as u64);
            router.put_worker(state);
        }
        let make = |_| Worker::new(settings.scheduler.clone(), settings.timing.clone());
        let mut replay = Self {
            trace,
            plan,
            block_size,
            context_length: settings.scheduler.context_length,
            router,
            index: Index::default(),
            workers: workers.clone().map(make).collect(),
            reported: workers.clone().map(|_| Duration::ZERO).collect(),
            events: BinaryHeap::new(),
            numbers: 0,
            now: Duration::ZERO,
            random: plan.seed,
            running: HashMap::new(),
            waiting: HashMap::new(),
            news: workers.clone().map(|_| Default::default()).collect(),
            met: vec![Met::default(); trace.requests.len()],
            tokens_of: workers.map(|_| 0).collect(),
        };
        for (number, request) in trace.requests.iter().enumerate() {
            replay.plan_event(request.at, Event::Arrives(number));
        }
        Ok(replay)
    }

    fn plan_event(&mut self, at: Duration, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at, self.numbers, event)));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(number) => self.arrives(number),
            Event::StepEnds(worker) => self.step_ends(worker),
            Event::Hears(worker) => self.hears(worker),
            Event::Expiry => {}
        }
    }

    fn arrives(&mut self, number: usize) {
        let asked = &self.trace.requests[number];
        let prompt = asked.prompt(number as u64);
        self.met[number].arrived = self.now;
        self.met[number].prompt_tokens = prompt.len() as u64;
        if prompt.len() + asked.output_tokens as usize > self.context_length {
            self.met[number].refused = true;
            return;
        }
        let hashes = self.hashes(&prompt);
        let mut matches = Matches::new();
        self.index.find(&hashes, &mut matches);
        let union = self.index.held_by_anybody(&hashes) as u64;
        self.met[number].union_tokens = union * u64::from(self.block_size.get());
        let request = RouteRequest {
            isl_tokens: prompt.len() as u64,
            hashes: &hashes,
            ..RouteRequest::default()
        };
        let random = &mut self.random;
        let mut bits = || next(random);
        let submitted = self
            .router
            .submit(&request, matches.overlaps(), self.now, &mut bits);
        match submitted {
            Ok(Submitted::Placed(placed)) => self.start(number, &placed),
            Ok(Submitted::Waits { place, displaced }) => {
                self.waiting.insert(place, number);
                if let Some(number) = displaced.and_then(|place| self.waiting.remove(&place)) {
                    self.met[number].refused = true;
                }
                if let Some(expiry) = self.router.next_expiry() {
                    self.plan_event(expiry, Event::Expiry);
                }
            }
            Err(_) => self.met[number].refused = true,
        }
    }

    fn hashes(&self, prompt: &[u32]) -> Vec<SequenceHash> {
        let blocks = block_hashes(prompt, self.block_size.get() as usize, &HashContext::new());
        sequence_hashes(&blocks)
    }

    fn start(&mut self, number: usize, placed: &Placed) {
        let asked = &self.trace.requests[number];
        let worker = placed.slot.0 as usize;
        let filled = asked.input_tokens as u64 % u64::from(self.block_size.get());
        let filled = u32::try_from(filled).unwrap_or(0);
        let running = Running {
            ticket: placed.ticket,
            next_block: self.block_size.get() - filled,
        };
        self.running.insert(number as u64, running);
        self.tokens_of[worker] += asked.input_tokens as u64 + u64::from(asked.output_tokens);
        let prompt = asked.prompt(number as u64);
        let was_idle = self.workers[worker].submit(number as u64, prompt, asked.output_tokens);
        if was_idle {
            self.begin_step(worker);
        }
    }

    fn begin_step(&mut self, worker: usize) {
        if let Some(ends_at) = self.workers[worker].begin(self.now) {
            self.plan_event(ends_at, Event::StepEnds(worker));
        }
    }

    fn step_ends(&mut self, worker: usize) {
        let Some(step) = self.workers[worker].end() else {
            return;
        };
        for output in &step.outputs {
            self.token(output.id, output.cached_tokens, output.finish.is_some());
        }
        if !step.kv_events.is_empty() {
            self.news[worker].push_back(step.kv_events);
            self.plan_event(self.now + self.plan.news_delay, Event::Hears(worker));
        }
        if self.now >= self.reported[worker] + LOAD_INTERVAL {
            self.reported[worker] = self.now;
            let load = self.workers[worker].load();
            self.router.observe(key(worker), &load);
        }
        self.begin_step(worker);
    }

    fn token(&mut self, id: u64, cached: Option<u32>, is_last: bool) {
        let Some(running) = self.running.get_mut(&id) else {
            return;
        };
        let met = &mut self.met[id as usize];
        met.tokens += 1;
        met.last_token = Some(self.now);
        if met.first_token.is_none() {
            met.first_token = Some(self.now);
            met.cached_tokens = cached.map_or(0, u64::from);
            self.router.first_token(&running.ticket, self.now);
        }
        if met.tokens == running.next_block {
            let ticket = running.ticket;
            self.router
                .block_filled(&ticket, None, met.tokens, self.now);
            running.next_block += self.block_size.get();
        }
        if is_last {
            met.finished = true;
            let ending = Ending {
                cached_tokens: Some(met.cached_tokens),
                output_tokens: met.tokens,
                end: End::Finished,
            };
            let ticket = running.ticket;
            self.running.remove(&id);
            self.router.end(&ticket, ending);
        }
    }

    fn hears(&mut self, worker: usize) {
        let Some(events) = self.news[worker].pop_front() else {
            return;
        };
        for event in &events {
            self.index.apply(Slot(worker as u32), Tier::Device, event);
        }
    }

    fn let_waiting_go(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        loop {
            let index = &self.index;
            let mut matches = Matches::new();
            let mut find = |hashes: &[SequenceHash], list: &mut Vec<WorkerOverlap>| {
                index.find(hashes, &mut matches);
                list.extend_from_slice(matches.overlaps());
            };
            let random = &mut self.random;
            let mut bits = || next(random);
            let released = self.router.tick(self.now, &mut bits, &mut find);
            let Some(Released { place, result }) = released else {
                return;
            };
            let Some(number) = self.waiting.remove(&place) else {
                continue;
            };
            match result {
                Ok(placed) => self.start(number, &placed),
                Err(_) => self.met[number].refused = true,
            }
        }
    }

    fn outcome(self) -> Outcome {
        let met = &self.met;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let finished = met.iter().filter(|it| it.finished).count();
        let seconds = self.now.as_secs_f64().max(f64::MIN_POSITIVE);
        let served: Vec<&Met> = met.iter().filter(|it| it.first_token.is_some()).collect();
        let sum = |of: fn(&Met) -> u64| served.iter().map(|it| of(it)).sum::<u64>() as f64;
        let prompts = sum(|it| it.prompt_tokens).max(1.0);
        let busy = self
            .workers
            .iter()
            .map(|it| it.busy().as_secs_f64())
            .sum::<f64>();
        let most = self.tokens_of.iter().max().copied().unwrap_or(0) as f64;
        let all = self.tokens_of.iter().sum::<u64>().max(1) as f64;
        let good = met.iter().filter(|it| it.is_good(&self.plan.targets));
        let totals = self.router.hit_rate().all();
        let latency = |it: &Met| it.last_token.map(|at| ms(at - it.arrived));
        Outcome {
            mode: self.router.mode(),
            finished: finished as u64,
            refused: met.iter().filter(|it| it.refused).count() as u64,
            seconds,
            output_tokens_per_second: sum(|it| u64::from(it.tokens)) / seconds,
            busy: busy / seconds / f64::from(self.plan.workers),
            imbalance: most * f64::from(self.plan.workers) / all,
            ttft_ms: Percentiles::of(met.iter().filter_map(|it| it.ttft().map(ms)).collect()),
            itl_ms: Percentiles::of(met.iter().filter_map(|it| it.itl().map(ms)).collect()),
            latency_ms: Percentiles::of(met.iter().filter_map(latency).collect()),
            goodput: good.count() as f64 / seconds,
            hit_rate: sum(|it| it.cached_tokens) / prompts,
            union_rate: sum(|it| it.union_tokens.min(it.prompt_tokens)) / prompts,
            rates: totals.rates(),
            totals,
        }
    }
}

/// The modes worth comparing.
pub const COMPARED: &[RouterMode] = &[
    RouterMode::Kv,
    RouterMode::KvApproximate,
    RouterMode::RoundRobin,
    RouterMode::LeastLoaded,
    RouterMode::Random,
    RouterMode::PowerOfTwo,
    RouterMode::PrefixHash,
];

fn key(worker: usize) -> WorkerKey {
    WorkerKey {
        instance: worker as u64 + 1,
        dp_rank: 0,
    }
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mix(*state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::TraceRequest;

    fn plan(mode: RouterMode) -> Plan {
        Plan {
            workers: 4,
            router: RouterOptions {
                router_mode: mode,
                ..RouterOptions::default()
            },
            engine: MockerOptions {
                num_gpu_blocks_override: 400,
                ..MockerOptions::default()
            },
            news_delay: Duration::from_millis(2),
            targets: Targets::default(),
            seed: 1,
        }
    }

    /// Conversations that take turns: each request begins with its conversation's.
    fn conversations(count: u64, turns: u64) -> Trace {
        let mut requests = Vec::new();
        for turn in 0..turns {
            for conversation in 0..count {
                let blocks = turn + 2;
                requests.push(TraceRequest {
                    at: Duration::from_millis(requests.len() as u64 * 150),
                    input_tokens: blocks as usize * 512,
                    output_tokens: 20,
                    hash_ids: (0..blocks)
                        .map(|block| conversation * 1_000 + block)
                        .collect(),
                });
            }
        }
        Trace { requests }
    }

    #[test]
    fn every_request_ends_in_every_mode_and_twice_the_same() {
        let trace = conversations(10, 6);
        for mode in COMPARED {
            let once = replay(&trace, &plan(*mode)).unwrap();
            assert_eq!(once.finished, 60, "{mode:?}");
            assert_eq!(once, replay(&trace, &plan(*mode)).unwrap());
        }
    }

    #[test]
    fn routing_by_caches_finds_more_in_them_and_answers_sooner() {
        let trace = conversations(9, 8);
        let kv = replay(&trace, &plan(RouterMode::Kv)).unwrap();
        let turns = replay(&trace, &plan(RouterMode::RoundRobin)).unwrap();
        assert!(
            kv.hit_rate > turns.hit_rate + 0.1,
            "{} {}",
            kv.hit_rate,
            turns.hit_rate
        );
        assert!(
            kv.hit_rate >= 0.95 * kv.union_rate,
            "{} {}",
            kv.hit_rate,
            kv.union_rate
        );
        assert!(kv.ttft_ms.mean < turns.ttft_ms.mean);
    }

    #[test]
    fn saturated_workers_make_requests_wait_and_none_is_lost() {
        let trace = conversations(30, 3).faster(50.0);
        let mut plan = plan(RouterMode::Kv);
        plan.router.router_queue_threshold = Some(0.1);
        let outcome = replay(&trace, &plan).unwrap();
        assert_eq!(outcome.finished + outcome.refused, 90);
        assert_eq!(outcome.refused, 0);
        plan.router.router_queue_limit = 5;
        let bounded = replay(&trace, &plan).unwrap();
        assert!(bounded.refused > 0);
        assert_eq!(bounded.finished + bounded.refused, 90);
    }

    #[test]
    fn a_prompt_beyond_the_cache_is_refused() {
        let mut trace = conversations(1, 1);
        trace.requests[0].input_tokens = 1_000_000;
        let outcome = replay(&trace, &plan(RouterMode::Kv)).unwrap();
        assert_eq!((outcome.finished, outcome.refused), (0, 1));
    }
}

//! What a choice costs: nanoseconds for each request from `Router::submit` to `Router::end`, of
//! fleets of 64 and of 2,500 workers under load. Prints one JSON line per fleet.
//!
//! `cargo run --release -p dynamo-kv-router --example pick_cost [MODE]`
//!
//! Every prompt has 25 full blocks, of which the first 10 are one of 50 beginnings that requests
//! share. Each worker runs 16 requests; a third of the workers have some of the prompt cached.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use dynamo_config::Scalar;
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::cost::WorkerOverlap;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::fleet::WorkerState;
use dynamo_kv_router::mode::RouterMode;
use dynamo_kv_router::request::RouteRequest;
use dynamo_kv_router::router::{Router, Submitted, Ticket};
use dynamo_kv_router::{Slot, WorkerKey};
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

const BLOCK_SIZE: NonZeroU32 = NonZeroU32::new(16).unwrap();
const PROMPT_BLOCKS: u64 = 25;
const SHARED_BLOCKS: u64 = 10;
const BEGINNINGS: u64 = 50;
const REQUESTS_PER_WORKER: u32 = 16;

/// Requests measured of each fleet.
const REQUESTS: u32 = 20_000;

/// Requests in a piece; the fastest piece counts, because other processes only slow it down.
const PIECE: u32 = 1_000;

fn mixed(number: u64) -> u64 {
    let bits = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (bits ^ (bits >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn prompt(number: u64, hashes: &mut Vec<u64>) {
    hashes.clear();
    let beginning = mixed(number) % BEGINNINGS;
    hashes.extend((0..SHARED_BLOCKS).map(|at| mixed(1_000 * beginning + at)));
    let rest = SHARED_BLOCKS..PROMPT_BLOCKS;
    hashes.extend(rest.map(|at| mixed((1 << 40) + 1_000 * number + at)));
}

fn overlaps(number: u64, workers: u32, overlaps: &mut Vec<WorkerOverlap>) {
    overlaps.clear();
    let first = u32::try_from(mixed(number) % BEGINNINGS % 3).unwrap_or(0);
    overlaps.extend((first..workers).step_by(3).map(|slot| WorkerOverlap {
        device: 10,
        ..WorkerOverlap::none(Slot(slot))
    }));
}

struct Load {
    router: Router,
    workers: u32,
    running: VecDeque<Ticket>,
    number: u64,
    hashes: Vec<u64>,
    overlaps: Vec<WorkerOverlap>,
}

impl Load {
    fn new(mode: RouterMode, workers: u32) -> Self {
        let options = RouterOptions {
            router_mode: mode,
            ..RouterOptions::default()
        };
        let mut router = Router::new(&options, BLOCK_SIZE, 0);
        router.set_events(true);
        for slot in 0..workers {
            let key = WorkerKey {
                instance: u64::from(slot),
                dp_rank: 0,
            };
            router.put_worker(WorkerState::new(key, Slot(slot)));
        }
        Self {
            router,
            workers,
            running: VecDeque::new(),
            number: 0,
            hashes: Vec::new(),
            overlaps: Vec::new(),
        }
    }

    /// One request in, and the oldest one out if there are enough. Answers the time of submitting
    /// and of the rest.
    fn turn(&mut self) -> (Duration, Duration) {
        self.number += 1;
        prompt(self.number, &mut self.hashes);
        overlaps(self.number, self.workers, &mut self.overlaps);
        let request = RouteRequest {
            isl_tokens: PROMPT_BLOCKS * 16 + 5,
            hashes: &self.hashes,
            ..RouteRequest::default()
        };
        let now = Duration::from_micros(self.number);
        let mut bits = self.number;
        let mut random = || {
            bits = mixed(bits);
            bits
        };
        let begin = Instant::now();
        let submitted = self
            .router
            .submit(&request, &self.overlaps, now, &mut random);
        let submitting = begin.elapsed();
        if let Ok(Submitted::Placed(placed)) = submitted {
            self.running.push_back(placed.ticket);
        }
        let begin = Instant::now();
        self.retire(now);
        (submitting, begin.elapsed())
    }

    fn retire(&mut self, now: Duration) {
        if u32::try_from(self.running.len()).unwrap_or(u32::MAX)
            <= REQUESTS_PER_WORKER * self.workers
        {
            return;
        }
        let Some(ticket) = self.running.pop_front() else {
            return;
        };
        self.router.first_token(&ticket, now);
        let outcome = Outcome {
            cached_tokens: Some(160),
            output_tokens: 100,
            end: End::Finished,
        };
        self.router.end(&ticket, outcome);
    }
}

fn nanoseconds(time: Duration, requests: u32) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(requests)
}

fn measure(mode: RouterMode, workers: u32) {
    let mut load = Load::new(mode, workers);
    for _ in 0..REQUESTS.max(2 * workers * REQUESTS_PER_WORKER) {
        load.turn();
    }
    let (mut submit, mut rest) = (f64::INFINITY, f64::INFINITY);
    let mut total = Duration::ZERO;
    for _ in 0..REQUESTS / PIECE {
        let mut sums = (Duration::ZERO, Duration::ZERO);
        for _ in 0..PIECE {
            let times = load.turn();
            sums = (sums.0 + times.0, sums.1 + times.1);
        }
        total += sums.0;
        submit = submit.min(nanoseconds(sums.0, PIECE));
        rest = rest.min(nanoseconds(sums.1, PIECE));
    }
    let mean = nanoseconds(total, REQUESTS / PIECE * PIECE);
    println!(
        "{{\"mode\":\"{mode}\",\"workers\":{workers},\"prompt_blocks\":{PROMPT_BLOCKS},\
         \"submit_ns\":{submit:.0},\"submit_mean_ns\":{mean:.0},\
         \"first_token_and_end_ns\":{rest:.0}}}"
    );
}

fn main() {
    let word = std::env::args().nth(1);
    let mode = word.and_then(|word| RouterMode::parse(&word).ok());
    for workers in [64, 2_500] {
        measure(mode.unwrap_or(RouterMode::Kv), workers);
    }
}

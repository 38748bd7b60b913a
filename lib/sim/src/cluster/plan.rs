//! What a seed means for a cluster: who is there, what is asked, and what goes wrong when. Pure.
//!
//! Faults are drawn so that each worker and each frontend has time to recover between two of its
//! own, and that at any time some workers are healthy: [`ClusterPlan::promises`] says of which
//! requests no error is allowed because of that.

use super::fault::{Fault, FaultKind, Host};
use crate::environment::SeededRandom;
use dynamo_protocols::draw::uniform;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// When the first requests are sent: discovery and connections are there by then.
const TRAFFIC_BEGINS: Duration = Duration::from_secs(3);

/// When the last requests are sent and every fault is over.
pub const TRAFFIC_ENDS: Duration = Duration::from_secs(63);

/// When the first fault may begin.
const FAULTS_BEGIN: Duration = Duration::from_secs(5);

/// From the end of a fault to when its host counts as healthy: three seconds in which dead
/// connections are noticed, five for which an unreachable worker is left out, and a restart.
pub const RECOVERY: Duration = Duration::from_secs(9);

/// How long a worker may take to finish what it has when it is asked to end.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Fewest requests of a run.
const LEAST_REQUESTS: u64 = 100;

/// Fewest faults of a run.
const LEAST_FAULTS: usize = 10;

/// The simulator's steps in milliseconds: a run takes less time with longer ones, and less happens
/// at once with shorter ones.
const STEPS: [u64; 4] = [5, 10, 20, 20];

/// Engines that are hardly ever full, and such that are now and then. They must not be so often that
/// requests wait for longer than they may: three of them have room for twice the usual load.
const ROOMY: Capacity = Capacity {
    sequences: 16,
    blocks: 192,
};
pub(super) const NARROW: Capacity = Capacity {
    sequences: 8,
    blocks: 144,
};

/// Draws for one more fault until one fits the others.
const MOST_DRAWS: usize = 400;

/// First of the tokens that the engines draw, and how many there are: printable bytes.
pub const TOKENS: (u32, u32) = (64, 64);

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterPlan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// How many frontends there are.
    pub frontends: usize,
    /// When each worker begins.
    pub workers: Vec<Duration>,
    /// The longest that a message takes on a healthy link.
    pub max_latency: Duration,
    /// The simulator's step, which is also the least that a message takes.
    pub step: Duration,
    /// Whether the frontends tell each other what they book.
    pub replica_sync: bool,
    /// Whether events are broadcast, and not sent to each subscriber.
    pub broadcast_events: bool,
    /// What an engine can hold.
    pub capacity: Capacity,
    /// What goes wrong, by its begin.
    pub faults: Vec<Fault>,
    /// What is asked, by its time.
    pub requests: Vec<RequestPlan>,
}

/// What an engine can hold: work beyond it waits, or is put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Sequences at a time.
    pub sequences: u32,
    /// KV blocks.
    pub blocks: u32,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPlan {
    /// Its id.
    pub id: String,
    /// Which frontend is asked.
    pub frontend: usize,
    /// When.
    pub at: Duration,
    /// The user's message.
    pub prompt: String,
    /// Tokens of each answer.
    pub tokens: usize,
    /// Answers.
    pub choices: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// After how many tokens in all the client leaves, if it does.
    pub gives_up_after: Option<usize>,
    /// How long the whole request may take, if that is bounded.
    pub patience: Option<Duration>,
    /// How long the first token may take, if less than usual.
    pub first_token: Option<Duration>,
}

impl ClusterPlan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let random = SeededRandom::new(seed ^ 0xc1_05_7e_12);
        let frontends = random.between(2..=3) as usize;
        let first = random.between(5..=7) as usize;
        let step = Duration::from_millis(STEPS[random.between(0..=3) as usize]);
        let mut plan = Self {
            seed,
            frontends,
            workers: vec![Duration::ZERO; first],
            max_latency: step + millis(&random, 0..=40),
            step,
            replica_sync: random.once_in(2),
            broadcast_events: random.once_in(2),
            capacity: ROOMY,
            faults: Vec::new(),
            requests: Vec::new(),
        };
        if random.once_in(2) {
            let begins = millis(&random, 8_000..=40_000);
            plan.workers.push(begins);
            plan.faults.push(Fault {
                kind: FaultKind::ScaleUp(first),
                begins,
                ends: begins,
            });
        }
        let faults = LEAST_FAULTS + random.between(0..=6) as usize;
        for _ in 0..MOST_DRAWS {
            if plan.faults.len() >= faults {
                break;
            }
            let fault = plan.draw_fault(&random);
            if plan.fits(&fault) {
                plan.faults.push(fault);
            }
        }
        while plan.faults.len() < LEAST_FAULTS {
            let begins = millis(&random, 5_000..=60_000);
            plan.faults.push(Fault {
                kind: FaultKind::ClockJump(plan.any_host(&random), 3_600),
                begins,
                ends: begins,
            });
        }
        plan.faults.sort_by_key(|fault| fault.begins);
        plan.draw_requests(&random);
        if random.once_in(2) {
            plan.capacity = NARROW;
        }
        plan
    }

    /// Everybody.
    pub fn hosts(&self) -> Vec<Host> {
        let frontends = (0..self.frontends).map(Host::Frontend);
        let workers = (0..self.workers.len()).map(Host::Worker);
        frontends.chain(workers).collect()
    }

    /// Whether a request that ended at this time must not have ended with an error.
    pub fn promises(&self, request: &RequestPlan, ended: Duration) -> bool {
        request.patience.is_none()
            && request.first_token.is_none()
            && !self.is_disturbed(request.frontend, request.at, ended)
    }

    /// Whether the frontend was in trouble of its own between these times, or shortly before.
    pub fn is_disturbed(&self, frontend: usize, from: Duration, to: Duration) -> bool {
        self.faults.iter().any(|fault| {
            let is_own = fault.kind.frontend() == Some(frontend);
            is_own && fault.begins <= to && from <= self.healthy_after(fault)
        })
    }

    /// Whether neither of the two, nor what is between them, was in trouble between these times, or
    /// shortly before.
    pub fn are_at_ease(
        &self,
        frontend: usize,
        worker: usize,
        (from, to): (Duration, Duration),
    ) -> bool {
        let is_troubled = self.faults.iter().any(|fault| {
            let is_own = fault.kind.worker() == Some(worker);
            is_own && fault.begins <= to && from <= self.healthy_after(fault)
        });
        !is_troubled && !self.is_disturbed(frontend, from, to)
    }

    /// For how long a frontend was stopped between these times.
    pub fn stopped(&self, frontend: usize, from: Duration, to: Duration) -> Duration {
        let own = FaultKind::Freeze(Host::Frontend(frontend));
        let stops = self.faults.iter().filter(|fault| fault.kind == own);
        stops
            .map(|fault| fault.ends.min(to).saturating_sub(fault.begins.max(from)))
            .sum()
    }

    fn any_host(&self, random: &SeededRandom) -> Host {
        let hosts = self.hosts();
        hosts[random.between(0..=hosts.len() as u64 - 1) as usize]
    }

    fn draw_fault(&self, random: &SeededRandom) -> Fault {
        let worker = random.between(0..=self.workers.len() as u64 - 1) as usize;
        let frontend = Host::Frontend(random.between(0..=self.frontends as u64 - 1) as usize);
        // Most of the time it is a worker: there are more of them, and more is promised.
        let host = match random.once_in(5) {
            true => frontend,
            false => Host::Worker(worker),
        };
        let forth = random.once_in(2);
        let (from, to) = match forth {
            true => (frontend, Host::Worker(worker)),
            false => (Host::Worker(worker), frontend),
        };
        let jump = random.between(1..=200_000) as i64;
        let (kind, lasts) = match random.between(0..=18) {
            0..=2 => (FaultKind::Crash(Host::Worker(worker)), 300..=6_000),
            3 => {
                let by = millis(random, 500..=5_000);
                (FaultKind::LateAnnouncement(worker, by), 300..=3_000)
            }
            4 => (FaultKind::Crash(frontend), 300..=3_000),
            5..=6 => (FaultKind::Freeze(host), 300..=12_000),
            15 => (FaultKind::Stall(host), 300..=12_000),
            16 => (FaultKind::FrameLost(worker), 0..=0),
            17 => (FaultKind::FrameDoubled(worker), 0..=0),
            7 => (
                FaultKind::Slow(host, millis(random, 80..=600)),
                1_000..=9_000,
            ),
            8 => (FaultKind::Cut(frontend, Host::Worker(worker)), 100..=9_000),
            9 => (FaultKind::Isolate(host), 100..=9_000),
            10 => (FaultKind::OneWay(from, to), 100..=9_000),
            11 => (FaultKind::HalfOpen(host), 100..=9_000),
            12 => (FaultKind::Drain(worker), 6_500..=9_000),
            13 => (FaultKind::LeaseLost(worker), 1_000..=9_000),
            14 => (FaultKind::Outage, 1_000..=9_000),
            _ => {
                let by = if forth { jump } else { -jump };
                (FaultKind::ClockJump(host, by), 0..=0)
            }
        };
        let begins = millis(random, FAULTS_BEGIN.as_millis() as u64..=62_000);
        let ends = begins + millis(random, lasts);
        Fault { kind, begins, ends }
    }

    /// When all is well again after a fault. Discovery that is away meanwhile delays it.
    fn healthy_after(&self, fault: &Fault) -> Duration {
        let late = match fault.kind {
            FaultKind::LateAnnouncement(_, by) => by,
            _ => Duration::ZERO,
        };
        let ends = fault.ends + late;
        let outages = self
            .faults
            .iter()
            .filter(|other| other.kind == FaultKind::Outage && other.begins <= ends + RECOVERY);
        let seen = outages.map(|outage| outage.ends).max().unwrap_or_default();
        ends.max(seen) + RECOVERY
    }

    /// Whether everybody has time to recover, and enough workers are left.
    fn fits(&self, fault: &Fault) -> bool {
        let begins = fault.kind.worker().map(|worker| self.workers[worker]);
        let is_there = begins.is_none_or(|begins| begins <= fault.begins);
        if fault.ends > TRAFFIC_ENDS || !is_there {
            return false;
        }
        let mut with = self.clone();
        with.faults.push(*fault);
        with.leaves_enough()
    }

    fn leaves_enough(&self) -> bool {
        let windows: Vec<(Fault, Duration)> = self
            .faults
            .iter()
            .map(|fault| (*fault, self.healthy_after(fault)))
            .collect();
        let own_times_apart = windows.iter().enumerate().all(|(at, (one, one_ends))| {
            windows[at + 1..].iter().all(|(other, other_ends)| {
                let same = |a: Option<usize>, b: Option<usize>| a.is_some() && a == b;
                let meet = same(one.kind.worker(), other.kind.worker())
                    || same(one.kind.frontend(), other.kind.frontend())
                    || (one.kind == FaultKind::Outage && other.kind == FaultKind::Outage);
                !meet || *one_ends <= other.begins || *other_ends <= one.begins
            })
        });
        let first = self.workers.iter().filter(|it| it.is_zero()).count();
        let most = first.saturating_sub(3).min(3);
        // The number of workers in trouble is greatest when one more begins to be.
        own_times_apart
            && windows.iter().all(|(at, _)| {
                let troubled: BTreeSet<usize> = windows
                    .iter()
                    .filter(|(it, ends)| it.begins <= at.begins && at.begins < *ends)
                    .filter_map(|(it, _)| it.kind.worker().filter(|it| *it < first))
                    .collect();
                troubled.len() <= most
            })
    }

    fn draw_requests(&mut self, random: &SeededRandom) {
        let word = || -> String {
            let length = random.between(3..=9);
            (0..length)
                .map(|_| char::from(b'a' + random.between(0..=25) as u8))
                .collect()
        };
        let text = |words: u64| -> String {
            let words: Vec<String> = (0..words).map(|_| word()).collect();
            words.join(" ")
        };
        let prefixes: Vec<String> = (0..6).map(|_| text(random.between(4..=40))).collect();
        let count = LEAST_REQUESTS + random.between(0..=40);
        for number in 0..count {
            let choices = if random.once_in(6) {
                random.between(2..=3)
            } else {
                1
            };
            let tokens = random.between(1..=100);
            let prefix = &prefixes[random.between(0..=5) as usize];
            let (begins, ends) = (TRAFFIC_BEGINS.as_millis(), TRAFFIC_ENDS.as_millis());
            self.requests.push(RequestPlan {
                id: format!("request-{number}"),
                frontend: random.between(0..=self.frontends as u64 - 1) as usize,
                at: millis(random, begins as u64..=ends as u64),
                prompt: format!("{prefix} {}", text(random.between(1..=8))),
                tokens: tokens as usize,
                choices: choices as usize,
                seed: random.between(0..=1 << 40),
                gives_up_after: random
                    .once_in(8)
                    .then(|| random.between(0..=tokens * choices) as usize),
                patience: random.once_in(12).then(|| millis(random, 100..=8_000)),
                first_token: random.once_in(20).then(|| millis(random, 100..=3_000)),
            });
        }
        self.requests.sort_by_key(|request| request.at);
    }
}

impl RequestPlan {
    /// The byte that an undisturbed engine gives at a position of a choice.
    pub fn expected(&self, choice: u32, position: usize) -> u8 {
        let (first, count) = TOKENS;
        let share = uniform(self.seed, choice, position as u64);
        (first + (share * f64::from(count)) as u32) as u8
    }
}

impl fmt::Display for ClusterPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            frontends,
            workers,
            max_latency,
            step,
            capacity,
            requests,
            ..
        } = self;
        writeln!(
            f,
            "seed {seed}: {frontends} frontends{}, {} workers{} of {} sequences, messages take {step:?} to \
             {max_latency:?}, {} requests",
            if self.replica_sync {
                " that share bookings"
            } else {
                ""
            },
            workers.len(),
            if self.broadcast_events {
                " that broadcast events"
            } else {
                ""
            },
            capacity.sequences,
            requests.len()
        )?;
        self.faults
            .iter()
            .try_for_each(|fault| writeln!(f, "  {fault}"))
    }
}

fn millis(random: &SeededRandom, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(random.between(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_seeds_differ() {
        assert_eq!(ClusterPlan::draw(3), ClusterPlan::draw(3));
        assert_ne!(ClusterPlan::draw(3).faults, ClusterPlan::draw(4).faults);
    }

    #[test]
    fn every_plan_has_what_a_run_must_have() {
        for seed in 0..300 {
            let plan = ClusterPlan::draw(seed);
            assert!(
                plan.requests.len() >= 100 && plan.faults.len() >= 10,
                "{plan}"
            );
            assert!(plan.frontends >= 2 && (5..=8).contains(&plan.workers.len()));
            assert!(plan.faults.iter().all(|fault| fault.ends <= TRAFFIC_ENDS));
            assert!(plan.leaves_enough(), "{plan}");
            assert!(plan.faults.iter().all(|fault| {
                let worker = fault.kind.worker();
                worker.is_none_or(|worker| plan.workers[worker] <= fault.begins)
            }));
        }
    }

    #[test]
    fn all_kinds_of_faults_come_up_and_most_requests_are_promised_an_answer() {
        let plans: Vec<ClusterPlan> = (0..300).map(ClusterPlan::draw).collect();
        let kinds: BTreeSet<&str> = plans
            .iter()
            .flat_map(|plan| plan.faults.iter().map(|fault| fault.kind.name()))
            .collect();
        assert_eq!(kinds.len(), 18, "{kinds:?}");
        let (mut promised, mut all) = (0, 0);
        for plan in &plans {
            all += plan.requests.len();
            let is_promised = |it: &&RequestPlan| plan.promises(it, it.at);
            promised += plan.requests.iter().filter(is_promised).count();
        }
        assert!(promised * 2 > all, "{promised} of {all}");
    }
}

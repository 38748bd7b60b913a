//! Choosing a worker and booking the request with it, in one step.
//!
//! `pick` is pure and private: filters, then whoever must have the request (pinned, or by its
//! session), then the mode. [`Chooser::pick_and_book`] is the only way to a real choice, because
//! a choice that is not booked at once lets a whole burst see the same idle worker.
//!
//! Invariants
//! - the same fleet, book, overlaps, request and random bits give the same choice
//! - a choice allocates nothing that grows with the fleet: its arrays are kept between choices
//! - whatever the mode, a choice tells what it and its rivals would have cost, so that it can be
//!   judged under another policy later

mod survey;

use crate::affinity::Affinity;
use crate::book::{Book, BookChange, BookingId, Work};
use crate::cost::{Basis, CostParams, Facts, Parts, WorkerOverlap};
use crate::filter::{BusyThresholds, Rejections};
use crate::fleet::Fleet;
use crate::mode::{self, Random, RouterMode};
use crate::request::RouteRequest;
use crate::worker::{Slot, WorkerKey};
use dynamo_protocols::{ErrorCode, RequestError};
use serde::Serialize;
use std::num::NonZeroU32;
use std::time::Duration;
pub(crate) use survey::{Question, Survey};

/// The cheapest candidates besides the winner that a choice remembers: whoever replays decisions
/// under another policy needs the close ones, not all. Those with the most in their cache and with
/// the fewest requests come on top, because other policies would look there.
const CHEAPEST_RIVALS: usize = 3;

/// How choices are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How a worker is picked; `auto` resolved.
    pub mode: RouterMode,
    /// Tokens per block.
    pub block_size: NonZeroU32,
    /// Parameters of the cost.
    pub cost: CostParams,
    /// Above which load a worker is no candidate.
    pub busy: BusyThresholds,
    /// Requests wait in the router when more prompt tokens than this many steps' worth wait on
    /// every candidate; `None` never lets them wait.
    pub queue_threshold: Option<f64>,
    /// Whether conversations stay with their workers.
    pub affinity: Option<AffinityPolicy>,
    /// Whether requests of one worker share the blocks of equal prefixes.
    pub assume_kv_reuse: bool,
}

impl Policy {
    /// The published defaults.
    pub fn new(mode: RouterMode, block_size: NonZeroU32) -> Self {
        Self {
            mode,
            block_size,
            cost: CostParams::default(),
            busy: BusyThresholds::default(),
            queue_threshold: None,
            affinity: None,
            assume_kv_reuse: true,
        }
    }
}

/// How conversations stay with their workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AffinityPolicy {
    /// How long a session may rest.
    pub time_to_live: Duration,
    /// Stay for as long as the worker is there; else only until another one is cheaper even
    /// without any of the prompt in its cache.
    pub is_hard: bool,
}

/// What a choice is made from, beside book and request.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The workers.
    pub fleet: &'a Fleet,
    /// What they have cached of the prompt; those that have nothing may be left out.
    pub overlaps: &'a [WorkerOverlap],
    /// Time since the router started.
    pub now: Duration,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The request named the worker.
    Pinned,
    /// The worker served the request's session before.
    Session,
    /// The router's mode.
    Mode(RouterMode),
}

impl Rule {
    /// Its name, in responses and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Session => "session",
            Self::Mode(mode) => mode.as_str(),
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A worker, chosen and booked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// The entry in the book, to be ended with the request.
    #[serde(skip)]
    pub booking: BookingId,
    /// Who.
    pub worker: WorkerKey,
    /// Its place in index and book.
    #[serde(skip)]
    pub slot: Slot,
    /// How workers are picked.
    pub mode: RouterMode,
    /// What decided.
    pub rule: Rule,
    /// What is the same for every candidate.
    #[serde(flatten)]
    pub basis: Basis,
    /// What was known of the worker before the request was booked.
    pub facts: Facts,
    /// What it costs by that.
    pub parts: Parts,
    /// Prompt tokens that it should find in its cache.
    pub cached_tokens: u64,
    /// Leading blocks that the best placed worker of all has.
    pub reachable_blocks: u32,
    /// How many there were to choose from.
    pub candidates: u32,
    /// How many the filters removed.
    pub rejected: u32,
    /// Candidates that were not taken, the cheapest first.
    pub rivals: Vec<Rival>,
}

impl Choice {
    /// How much cheaper it was than the next best one; negative if something else than cost
    /// decided.
    pub fn margin(&self) -> Option<f64> {
        let next = self.rivals.first()?;
        Some(next.logit - self.parts.logit)
    }
}

/// A candidate that was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rival {
    /// Who.
    pub worker: WorkerKey,
    /// What was known of it.
    pub facts: Facts,
    /// What it would have cost.
    pub logit: f64,
}

/// Why there is no choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoChoice {
    /// There are no workers.
    #[error("no worker serves this model; start one, or wait until it is ready")]
    NoWorkers,
    /// The mode is `direct` and the request names no worker.
    #[error(
        "this router sends requests only where they say: name a worker in the \
         x-dynamo-worker-instance-id header"
    )]
    NoTarget,
    /// Every worker fails a filter.
    #[error("no worker can take the request ({0})")]
    NoneEligible(Rejections),
    /// Every candidate has more than enough to compute: the request should wait.
    #[error("all {candidates} workers that can take the request are saturated; try again later")]
    Saturated {
        /// How many could take it.
        candidates: u32,
    },
}

impl NoChoice {
    /// The error that a client sees.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoWorkers => ErrorCode::ModelNotReady,
            Self::NoTarget => ErrorCode::InvalidRequest,
            Self::NoneEligible(rejections) if rejections.any_busy() => ErrorCode::NoCapacity,
            Self::NoneEligible(_) => ErrorCode::ModelNotReady,
            Self::Saturated { .. } => ErrorCode::NoCapacity,
        }
    }
}

impl From<NoChoice> for RequestError {
    fn from(error: NoChoice) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A pick: the place among the survey's candidates, and what decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) nth: usize,
    pub(crate) rule: Rule,
}

/// Makes choices. Holds what has to be remembered from one to the next.
#[derive(Debug)]
pub struct Chooser {
    policy: Policy,
    affinity: Option<Affinity>,
    last: Option<WorkerKey>,
    survey: Survey,
}

impl Chooser {
    /// A chooser that has not chosen yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            affinity: policy.affinity.map(|it| Affinity::new(it.time_to_live)),
            policy,
            last: None,
            survey: Survey::default(),
        }
    }

    /// How choices are made.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Goes over to another mode.
    pub fn set_mode(&mut self, mode: RouterMode) {
        self.policy.mode = mode;
    }

    /// Sets from which load on workers are busy.
    pub fn set_busy_thresholds(&mut self, busy: BusyThresholds) {
        self.policy.busy = busy;
    }

    /// The sessions, if conversations stay with their workers.
    pub(crate) fn affinity(&self) -> Option<&Affinity> {
        self.affinity.as_ref()
    }

    /// Whether conversations stay with their workers.
    pub(crate) fn binds(&self) -> bool {
        self.affinity.is_some()
    }

    /// The sessions, to change them.
    pub fn affinity_mut(&mut self) -> Option<&mut Affinity> {
        self.affinity.as_mut()
    }

    /// Chooses a worker for the request and books the request with it.
    pub fn pick_and_book(
        &mut self,
        book: &mut Book,
        situation: &Situation<'_>,
        request: &RouteRequest<'_>,
        random: Random<'_>,
    ) -> Result<Choice, NoChoice> {
        let memory = self.memory(request, situation.now);
        let question = Question {
            policy: &self.policy,
            book,
            situation,
            request,
        };
        let pick = pick(&question, &memory, &mut self.survey, random)?;
        let choice = describe(&question, &mut self.survey, pick);
        self.last = Some(choice.worker);
        if let (Some(affinity), Some(session)) = (&mut self.affinity, request.session) {
            affinity.bind(session, choice.worker, situation.now);
        }
        let work = self.work(request, choice.cached_tokens);
        Ok(Choice {
            booking: book.book(choice.slot, work, situation.now),
            ..choice
        })
    }

    /// How many workers have room for the request now. A request that is to be refused for good,
    /// or whose own worker has room, has all the room there is: it need not wait any longer.
    pub fn room(
        &mut self,
        book: &Book,
        situation: &Situation<'_>,
        request: &RouteRequest<'_>,
    ) -> u32 {
        let question = Question {
            policy: &self.policy,
            book,
            situation,
            request,
        };
        let memory = self.memory(request, situation.now);
        match narrow(&question, &memory, &mut self.survey) {
            Err(NoChoice::Saturated { .. }) => 0,
            Err(_) | Ok(Some(_)) => u32::MAX,
            Ok(None) => self.survey.with_room(),
        }
    }

    /// What earlier choices have to do with one made now.
    pub(crate) fn memory(&self, request: &RouteRequest<'_>, now: Duration) -> Memory {
        let session = self.affinity.as_ref().zip(request.session);
        Memory {
            bound: session.and_then(|(affinity, session)| affinity.worker(session, now)),
            last: self.last,
        }
    }

    /// A choice as other replicas are told of it.
    pub(crate) fn booked(&self, request: &RouteRequest<'_>, choice: &Choice) -> BookChange {
        let work = self.work(request, choice.cached_tokens);
        BookChange::Booked {
            id: choice.booking,
            worker: choice.worker,
            prefill_tokens: work.prefill_tokens,
            blocks: work.blocks.to_vec(),
            own_blocks: work.own_blocks,
            expected_output_tokens: work.expected_output_tokens,
        }
    }

    fn work<'a>(&self, request: &RouteRequest<'a>, cached_tokens: u64) -> Work<'a> {
        let shares = self.policy.assume_kv_reuse;
        let blocks = u64::try_from(request.hashes.len()).unwrap_or(u64::MAX);
        Work {
            prefill_tokens: request.isl_tokens.saturating_sub(cached_tokens),
            blocks: if shares { request.hashes } else { &[] },
            own_blocks: if shares { 0 } else { blocks },
            expected_output_tokens: request.expected_output_tokens,
        }
    }
}

/// What earlier choices have to do with this one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Who served the request's session.
    pub(crate) bound: Option<WorkerKey>,
    /// Who was chosen last.
    pub(crate) last: Option<WorkerKey>,
}

/// Picks one of the candidates.
pub(crate) fn pick(
    question: &Question<'_>,
    memory: &Memory,
    survey: &mut Survey,
    random: Random<'_>,
) -> Result<Pick, NoChoice> {
    if let Some(rule) = narrow(question, memory, survey)? {
        return Ok(Pick { nth: 0, rule });
    }
    let bound = question.bound_worker(memory);
    if let Some(nth) = bound.and_then(|worker| survey.keeps(question, worker)) {
        return Ok(Pick {
            nth,
            rule: Rule::Session,
        });
    }
    Ok(Pick {
        nth: by_mode(question, memory, survey, random),
        rule: Rule::Mode(question.policy.mode),
    })
}

/// Finds the candidates. Where a rule leaves but one, that rule.
fn narrow(
    question: &Question<'_>,
    memory: &Memory,
    survey: &mut Survey,
) -> Result<Option<Rule>, NoChoice> {
    let policy = question.policy;
    let is_pinned = question.request.target.is_pinned();
    if policy.mode == RouterMode::Direct && !is_pinned {
        return Err(NoChoice::NoTarget);
    }
    if policy.affinity.is_some_and(|it| it.is_hard)
        && let Some(worker) = question.bound_worker(memory)
    {
        survey.take_in_one(question, worker)?;
        return Ok(Some(Rule::Session));
    }
    survey.take_in(question)?;
    Ok((is_pinned && survey.candidates().len() == 1).then_some(Rule::Pinned))
}

fn by_mode(
    question: &Question<'_>,
    memory: &Memory,
    survey: &mut Survey,
    random: Random<'_>,
) -> usize {
    match question.policy.mode {
        RouterMode::Kv | RouterMode::KvApproximate => {
            survey.weigh(question);
            mode::by_cost(survey.candidates(), question.temperature(), random)
        }
        RouterMode::RoundRobin => {
            let candidates = survey.candidates().iter();
            mode::in_turn(candidates.map(|it| question.worker(it).key), memory.last)
        }
        RouterMode::Random => mode::at_random(survey.candidates(), random),
        RouterMode::PowerOfTwo => mode::power_of_two(survey.candidates(), random),
        RouterMode::PrefixHash => {
            let key_of = |it: &mode::Candidate| question.worker(it).key;
            let hashes = question.request.hashes;
            mode::by_prefix(survey.candidates(), key_of, hashes)
                .unwrap_or_else(|| mode::least_loaded(survey.candidates(), random))
        }
        RouterMode::Auto | RouterMode::LeastLoaded | RouterMode::Direct => {
            mode::least_loaded(survey.candidates(), random)
        }
    }
}

/// A pick as a choice, still without its booking.
fn describe(question: &Question<'_>, survey: &mut Survey, pick: Pick) -> Choice {
    survey.weigh(question);
    let winner = &survey.candidates()[pick.nth];
    let worker = question.worker(winner);
    let facts = survey.facts(question, winner);
    let basis = survey.basis(question);
    let cached_tokens = u64::from(facts.overlap.total()) * u64::from(basis.block_size.get());
    let totals = question.situation.overlaps.iter().map(WorkerOverlap::total);
    Choice {
        booking: BookingId {
            origin: 0,
            number: 0,
        },
        worker: worker.key,
        slot: worker.slot,
        mode: question.policy.mode,
        rule: pick.rule,
        basis,
        facts,
        parts: question.cost(&basis).parts(&facts),
        cached_tokens: cached_tokens.min(basis.isl_tokens),
        reachable_blocks: totals.max().unwrap_or(0).min(basis.blocks),
        candidates: u32::try_from(survey.candidates().len()).unwrap_or(u32::MAX),
        rejected: survey.rejections().total(),
        rivals: survey.rivals(question, pick.nth),
    }
}

#[cfg(test)]
mod tests;

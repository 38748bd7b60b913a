//! What one choice has before it: the candidates, and what is known of each by its slot.
//!
//! The arrays are kept from choice to choice and are as long as there are slots.

use super::{CHEAPEST_RIVALS, Memory, NoChoice, Policy, Rival, Situation};
use crate::book::Book;
use crate::cost::{Basis, Cost, CostParams, Facts, MAX_WEIGHT, WorkerOverlap};
use crate::filter::{Rejections, is_saturated, judge};
use crate::fleet::WorkerState;
use crate::mode::Candidate;
use crate::request::RouteRequest;
use crate::worker::{Slot, WorkerKey};

/// Everything that a choice is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) book: &'a Book,
    pub(crate) situation: &'a Situation<'a>,
    pub(crate) request: &'a RouteRequest<'a>,
}

impl<'a> Question<'a> {
    /// The worker of a candidate.
    pub(crate) fn worker(&self, candidate: &Candidate) -> &'a WorkerState {
        &self.situation.fleet.workers()[usize::try_from(candidate.at).unwrap_or(usize::MAX)]
    }

    /// Randomness of a choice by cost.
    pub(crate) fn temperature(&self) -> f64 {
        self.params().temperature
    }

    /// The formula for this request.
    pub(crate) fn cost(&self, basis: &Basis) -> Cost {
        Cost::new(self.params(), basis)
    }

    fn params(&self) -> CostParams {
        self.policy.cost.with(&self.request.overrides)
    }

    /// The worker that the request's session is bound to, if it is there and may serve the
    /// request, however busy it is.
    pub(super) fn bound_worker(&self, memory: &Memory) -> Option<WorkerKey> {
        let worker = self.situation.fleet.get(memory.bound?)?;
        let load = self.book.load(worker.slot);
        let rejection = judge(worker, &load, self.request, &self.policy.busy);
        rejection
            .is_none_or(|it| it.is_busy())
            .then_some(worker.key)
    }
}

/// What is known of a slot for one prompt.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Leading blocks that it has in use for other requests.
    shared: u32,
    /// Where its overlap stands, from 1; 0 is nowhere.
    overlap: u32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    candidates: Vec<Candidate>,
    rejections: Rejections,
    known: Vec<Known>,
    /// The least number of pending prompt tokens among the candidates.
    least_prefill: u64,
    /// How many of the candidates are not saturated.
    with_room: u32,
    is_weighed: bool,
}

impl Survey {
    /// Finds the candidates for a request.
    pub(crate) fn take_in(&mut self, question: &Question<'_>) -> Result<(), NoChoice> {
        self.sift(question, |_| true)
    }

    /// Finds out whether one worker is a candidate.
    pub(crate) fn take_in_one(
        &mut self,
        question: &Question<'_>,
        worker: WorkerKey,
    ) -> Result<(), NoChoice> {
        self.sift(question, |key| key == worker)
    }

    /// Who passed the filters, in the order of keys.
    pub(crate) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// Who did not.
    pub(crate) fn rejections(&self) -> &Rejections {
        &self.rejections
    }

    /// Computes every candidate's cost, once per choice.
    pub(crate) fn weigh(&mut self, question: &Question<'_>) {
        if std::mem::replace(&mut self.is_weighed, true) {
            return;
        }
        self.look_up(question);
        let cost = question.cost(&self.basis(question));
        let mut candidates = std::mem::take(&mut self.candidates);
        for candidate in &mut candidates {
            candidate.logit = cost.parts(&self.facts(question, candidate)).logit;
        }
        self.candidates = candidates;
    }

    /// What is the same for every candidate.
    pub(crate) fn basis(&self, question: &Question<'_>) -> Basis {
        Basis {
            block_size: question.policy.block_size,
            isl_tokens: question.request.isl_tokens,
            blocks: u32::try_from(question.request.hashes.len()).unwrap_or(u32::MAX),
            least_prefill: self.least_prefill,
        }
    }

    /// What is known of a candidate. Only after [`weigh`](Self::weigh).
    #[inline]
    pub(crate) fn facts(&self, question: &Question<'_>, candidate: &Candidate) -> Facts {
        let slot = candidate.slot;
        let load = question.book.load(slot);
        let known = self.known.get(index(slot));
        let known = known.copied().unwrap_or_default();
        let at = usize::try_from(known.overlap).unwrap_or(0).checked_sub(1);
        let worker = question.worker(candidate);
        let overlap = at.and_then(|at| question.situation.overlaps.get(at));
        Facts {
            overlap: overlap.map_or(WorkerOverlap::none(slot), |it| *it),
            prefill_tokens: load.prefill_tokens,
            active_blocks: load.active_blocks(),
            shared_blocks: known.shared,
            requests: load.requests,
            sequences: worker.sequences,
            max_sequences: worker.max_sequences.unwrap_or(0),
            taint_weight: taint_weight(question, candidate),
        }
    }

    /// The place of a bound worker, if no candidate is cheaper by more than the whole prompt.
    pub(super) fn keeps(&mut self, question: &Question<'_>, worker: WorkerKey) -> Option<usize> {
        self.weigh(question);
        let is_bound = |it: &Candidate| question.worker(it).key == worker;
        let nth = self.candidates.iter().position(is_bound)?;
        let costs = self.candidates.iter().map(|it| it.logit);
        let least = costs.fold(f64::INFINITY, f64::min);
        let prompt =
            question.request.isl_tokens as f64 / f64::from(question.policy.block_size.get());
        (self.candidates[nth].logit - least <= prompt).then_some(nth)
    }

    /// The candidates to remember beside the winner, the cheapest first.
    pub(super) fn rivals(&self, question: &Question<'_>, winner: usize) -> Vec<Rival> {
        let mut nearest: Vec<usize> = Vec::with_capacity(CHEAPEST_RIVALS + 2);
        let logit = |nth: usize| self.candidates[nth].logit;
        let others = (0..self.candidates.len()).filter(|nth| *nth != winner);
        for nth in others.clone() {
            if nearest.len() == CHEAPEST_RIVALS {
                if logit(nearest[CHEAPEST_RIVALS - 1]) <= logit(nth) {
                    continue;
                }
                nearest.pop();
            }
            let at = nearest.partition_point(|it| logit(*it) <= logit(nth));
            nearest.insert(at, nth);
        }
        let idlest = others.min_by_key(|nth| self.candidates[*nth].requests);
        let warmest = self.warmest(question, winner);
        for nth in [idlest, warmest].into_iter().flatten() {
            if !nearest.contains(&nth) {
                let at = nearest.partition_point(|it| logit(*it) <= logit(nth));
                nearest.insert(at, nth);
            }
        }
        let rival = |nth: usize| Rival {
            worker: question.worker(&self.candidates[nth]).key,
            facts: self.facts(question, &self.candidates[nth]),
            logit: logit(nth),
        };
        nearest.into_iter().map(rival).collect()
    }

    /// The candidate with the most of the prompt in its cache, if that is not the winner.
    fn warmest(&self, question: &Question<'_>, winner: usize) -> Option<usize> {
        let overlaps = question.situation.overlaps;
        let place_of = |slot: Slot| {
            let candidates = self.candidates.iter();
            let mut numbered = candidates.enumerate();
            let found = numbered.find(|(nth, it)| it.slot == slot && *nth != winner);
            found.map(|(nth, _)| nth)
        };
        let most = overlaps.iter().max_by_key(|it| it.total())?;
        place_of(most.slot)
    }

    /// How many of the candidates are not saturated.
    pub(super) fn with_room(&self) -> u32 {
        self.with_room
    }

    fn sift(
        &mut self,
        question: &Question<'_>,
        concerns: impl Fn(WorkerKey) -> bool,
    ) -> Result<(), NoChoice> {
        self.candidates.clear();
        self.rejections = Rejections::default();
        self.is_weighed = false;
        let policy = question.policy;
        let workers = question.situation.fleet.workers();
        if workers.is_empty() {
            return Err(NoChoice::NoWorkers);
        }
        self.with_room = 0;
        let mut least_prefill = u64::MAX;
        for (at, worker) in (0_u32..).zip(workers) {
            if !concerns(worker.key) {
                continue;
            }
            let load = question.book.load(worker.slot);
            if let Some(reason) = judge(worker, &load, question.request, &policy.busy) {
                self.rejections.count(reason);
                continue;
            }
            self.with_room += u32::from(!is_saturated(worker, &load, policy.queue_threshold));
            least_prefill = least_prefill.min(load.prefill_tokens);
            self.candidates.push(Candidate {
                at,
                slot: worker.slot,
                requests: load.requests,
                logit: 0.0,
            });
        }
        self.least_prefill = least_prefill;
        match u32::try_from(self.candidates.len()).unwrap_or(u32::MAX) {
            0 => Err(NoChoice::NoneEligible(self.rejections)),
            candidates if self.with_room == 0 => Err(NoChoice::Saturated { candidates }),
            _ => Ok(()),
        }
    }

    /// Looks up what caches and book hold of the prompt.
    fn look_up(&mut self, question: &Question<'_>) {
        self.known.fill(Known::default());
        for (at, overlap) in (1_u32..).zip(question.situation.overlaps) {
            known_mut(&mut self.known, overlap.slot).overlap = at;
        }
        if question.policy.assume_kv_reuse {
            let known = &mut self.known;
            let prompt = question.request.hashes;
            question.book.shared_blocks(prompt, |slot, depth| {
                known_mut(known, slot).shared = depth;
            });
        }
    }
}

/// A sum that stays a number, whatever a request brings.
#[inline]
fn taint_weight(question: &Question<'_>, candidate: &Candidate) -> f64 {
    let preferred = question.request.taints.preferred;
    if preferred.is_empty() {
        return 0.0;
    }
    let worker = question.worker(candidate);
    let matching = preferred.iter().filter(|(name, weight)| {
        weight.abs() <= MAX_WEIGHT && worker.taints.iter().any(|it| **it == **name)
    });
    matching.map(|(_, weight)| weight).sum()
}

fn known_mut(known: &mut Vec<Known>, slot: Slot) -> &mut Known {
    let at = index(slot);
    if at >= known.len() {
        known.resize(at + 1, Known::default());
    }
    &mut known[at]
}

fn index(slot: Slot) -> usize {
    usize::try_from(slot.0).unwrap_or(usize::MAX)
}

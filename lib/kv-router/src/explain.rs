//! Why a request goes where it goes: every candidate with its cost in parts, who was removed by
//! which filter, and who wins.
//!
//! It runs the very functions that choose, on the same state, and changes nothing.

use crate::book::Book;
use crate::choice::{Chooser, NoChoice, Question, Rule, Situation, Survey, pick};
use crate::cost::{Basis, Facts, Parts};
use crate::filter::{Rejection, judge};
use crate::mode::{self, Random, RouterMode};
use crate::request::RouteRequest;
use crate::worker::WorkerKey;
use serde::Serialize;

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// How workers are picked.
    pub mode: RouterMode,
    /// What is the same for every candidate.
    #[serde(flatten)]
    pub basis: Basis,
    /// Who could take it, the cheapest first.
    pub candidates: Vec<Weighed>,
    /// Who could not.
    pub rejected: Vec<Rejected>,
    /// Who gets it.
    pub winner: Option<WorkerKey>,
    /// What decided.
    pub rule: Option<Rule>,
    /// How much cheaper the winner is than the cheapest other one; negative if it is not.
    pub margin: Option<f64>,
    /// Why nobody gets it.
    pub refusal: Option<String>,
}

/// A candidate and its cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Weighed {
    /// Who.
    pub worker: WorkerKey,
    /// How likely it is to be taken, where the choice goes by cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What is known of it.
    #[serde(flatten)]
    pub facts: Facts,
    /// Its cost.
    pub cost: Parts,
}

/// A worker that a filter removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Who.
    pub worker: WorkerKey,
    /// The first filter it failed.
    pub reason: Rejection,
}

impl Chooser {
    /// Explains the choice that [`Chooser::pick_and_book`] would make now with the same random
    /// bits.
    pub fn explain(
        &self,
        book: &Book,
        situation: &Situation<'_>,
        request: &RouteRequest<'_>,
        random: Random<'_>,
    ) -> Explanation {
        let policy = self.policy();
        let question = Question {
            policy,
            book,
            situation,
            request,
        };
        let memory = self.memory(request, situation.now);
        let mut survey = Survey::default();
        let picked = pick(&question, &memory, &mut survey, random);
        let winner = picked.as_ref().ok().map(|it| {
            let worker = question.worker(&survey.candidates()[it.nth]);
            (worker.key, it.rule)
        });
        let candidates = weighed(&question, &mut survey);
        let others = candidates
            .iter()
            .filter(|it| Some(it.worker) != winner.map(|it| it.0));
        let next = others.map(|it| it.cost.logit).next();
        let taken = candidates
            .iter()
            .find(|it| Some(it.worker) == winner.map(|it| it.0));
        Explanation {
            mode: policy.mode,
            basis: survey.basis(&question),
            margin: taken.zip(next).map(|(taken, next)| next - taken.cost.logit),
            candidates,
            rejected: rejected(&question),
            winner: winner.map(|it| it.0),
            rule: winner.map(|it| it.1),
            refusal: picked.err().map(|error: NoChoice| error.to_string()),
        }
    }
}

/// Every candidate with its cost, the cheapest first and in the order of keys among equals.
fn weighed(question: &Question<'_>, survey: &mut Survey) -> Vec<Weighed> {
    // Also when the pick needed one candidate alone, or found that all should wait.
    let _ = survey.take_in(question);
    survey.weigh(question);
    let cost = question.cost(&survey.basis(question));
    let by_cost = question.policy.mode.is_by_cost();
    let probabilities = mode::probabilities(survey.candidates(), question.temperature());
    let mut weighed: Vec<Weighed> = survey
        .candidates()
        .iter()
        .zip(probabilities)
        .map(|(candidate, probability)| {
            let facts = survey.facts(question, candidate);
            Weighed {
                worker: question.worker(candidate).key,
                probability: by_cost.then_some(probability),
                facts,
                cost: cost.parts(&facts),
            }
        })
        .collect();
    weighed.sort_by(|a, b| a.cost.logit.total_cmp(&b.cost.logit));
    weighed
}

fn rejected(question: &Question<'_>) -> Vec<Rejected> {
    let workers = question.situation.fleet.workers().iter();
    let judged = workers.filter_map(|worker| {
        let load = question.book.load(worker.slot);
        let reason = judge(worker, &load, question.request, &question.policy.busy)?;
        Some(Rejected {
            worker: worker.key,
            reason,
        })
    });
    judged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::Policy;
    use crate::cost::WorkerOverlap;
    use crate::fleet::{Fleet, WorkerState};
    use crate::mode::RouterMode;
    use crate::request::{Taints, Target};
    use crate::worker::Slot;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn key(instance: u64) -> WorkerKey {
        WorkerKey {
            instance,
            dp_rank: 0,
        }
    }

    fn fleet() -> Fleet {
        let mut fleet = Fleet::default();
        for (slot, instance) in (0..).zip([10, 11, 12]) {
            fleet.put(WorkerState::new(key(instance), Slot(slot)));
        }
        fleet
    }

    #[test]
    fn it_tells_candidates_removed_winner_and_margin() {
        let policy = Policy::new(RouterMode::Kv, NonZeroU32::new(16).unwrap());
        let mut chooser = Chooser::new(policy);
        let mut book = Book::new(0);
        let fleet = fleet();
        let overlaps = [WorkerOverlap {
            device: 4,
            ..WorkerOverlap::none(Slot(1))
        }];
        let situation = Situation {
            fleet: &fleet,
            overlaps: &overlaps,
            now: Duration::ZERO,
        };
        let hashes: Vec<u64> = (0..10).collect();
        let request = RouteRequest {
            isl_tokens: 160,
            hashes: &hashes,
            target: Target {
                excluded: &[12],
                ..Target::default()
            },
            ..RouteRequest::default()
        };
        let told = chooser.explain(&book, &situation, &request, &mut || 0);
        let order: Vec<u64> = told
            .candidates
            .iter()
            .map(|it| it.worker.instance)
            .collect();
        assert_eq!(order, [11, 10]);
        assert_eq!(told.candidates[0].probability, Some(1.0));
        assert_eq!(told.rejected.len(), 1);
        assert_eq!(told.rejected[0].reason, Rejection::Excluded);
        assert_eq!((told.winner, told.margin), (Some(key(11)), Some(4.0)));

        let choice = chooser.pick_and_book(&mut book, &situation, &request, &mut || 0);
        let choice = choice.unwrap();
        assert_eq!(Some(choice.worker), told.winner);
        assert_eq!(choice.parts, told.candidates[0].cost);
        assert_eq!(choice.margin(), told.margin);
    }

    #[test]
    fn a_refusal_is_told_with_everybody_who_was_removed() {
        let policy = Policy::new(RouterMode::Kv, NonZeroU32::new(16).unwrap());
        let chooser = Chooser::new(policy);
        let fleet = fleet();
        let situation = Situation {
            fleet: &fleet,
            overlaps: &[],
            now: Duration::ZERO,
        };
        let required = ["gpu=h200".to_owned()];
        let request = RouteRequest {
            taints: Taints {
                required: &required,
                ..Taints::default()
            },
            ..RouteRequest::default()
        };
        let told = chooser.explain(&Book::new(0), &situation, &request, &mut || 0);
        assert_eq!((told.winner, told.candidates.len()), (None, 0));
        assert_eq!(told.rejected.len(), 3);
        assert!(told.refusal.unwrap().contains("missing_taint: 3"));
    }
}

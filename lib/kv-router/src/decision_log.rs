//! The last decisions: what was known, what was chosen, what came of it.
//!
//! Bounded, and free of payload: lengths, counts and costs, no tokens, no text, no hashes of
//! either. Enough to see why a request went where it went, and to ask where it would have gone
//! under another policy: [`Decision::replay`].

use crate::choice::Choice;
use crate::cost::{Cost, CostParams};
use crate::worker::WorkerKey;
use serde::{Serialize, Serializer};
use std::collections::VecDeque;
use std::time::Duration;

/// Decisions kept: at a kilobyte each with their rivals, four megabytes.
pub const MAX_DECISIONS: usize = 4_096;

/// A decision's number, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DecisionNumber(u64);

/// One decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Its number.
    pub number: DecisionNumber,
    /// When, in time since the router started.
    #[serde(rename = "at_s", serialize_with = "seconds")]
    pub at: Duration,
    /// How long the request had waited in the router's queue.
    #[serde(rename = "waited_s", serialize_with = "seconds")]
    pub waited: Duration,
    /// What was chosen, and what was known.
    #[serde(flatten)]
    pub choice: Choice,
    /// From the decision to the first token, once it is there.
    #[serde(rename = "ttft_s", serialize_with = "optional_seconds")]
    pub time_to_first_token: Option<Duration>,
    /// What came of it, once that is known.
    pub outcome: Option<Outcome>,
}

/// What came of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// Prompt tokens that the engine found in its cache, if it said so.
    pub cached_tokens: Option<u64>,
    /// Tokens generated.
    pub output_tokens: u32,
    /// How the request ended on this worker.
    pub end: End,
}

/// How a request ended on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With a whole answer.
    Finished,
    /// Its client went away.
    Cancelled,
    /// It failed, or went on elsewhere.
    Failed,
}

impl Decision {
    /// The cheapest of the worker that was chosen and its rivals by these parameters of the cost;
    /// of equal ones the one that was chosen, else the cheapest at the time. Temperature is left
    /// out: what would have been drawn nobody can say.
    pub fn replay(&self, params: CostParams) -> WorkerKey {
        let cost = Cost::new(params, &self.choice.basis);
        let mut least = cost.parts(&self.choice.facts).logit;
        let mut worker = self.choice.worker;
        for rival in &self.choice.rivals {
            let logit = cost.parts(&rival.facts).logit;
            if logit < least {
                (least, worker) = (logit, rival.worker);
            }
        }
        worker
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct DecisionLog {
    decisions: VecDeque<Decision>,
    next: u64,
}

impl DecisionLog {
    /// Enters a decision.
    pub fn record(&mut self, choice: Choice, at: Duration, waited: Duration) -> DecisionNumber {
        if self.decisions.len() == MAX_DECISIONS {
            self.decisions.pop_front();
        }
        let number = self.next_number();
        self.next += 1;
        self.decisions.push_back(Decision {
            number,
            at,
            waited,
            choice,
            time_to_first_token: None,
            outcome: None,
        });
        number
    }

    /// The number that the next decision gets.
    pub fn next_number(&self) -> DecisionNumber {
        DecisionNumber(self.next)
    }

    /// The first token of a decision's request is there.
    pub fn first_token(&mut self, number: DecisionNumber, now: Duration) {
        if let Some(decision) = self.get_mut(number) {
            let since = now.saturating_sub(decision.at);
            decision.time_to_first_token.get_or_insert(since);
        }
    }

    /// Enters what came of a decision. Answers whether it was still there.
    pub fn conclude(&mut self, number: DecisionNumber, outcome: Outcome) -> bool {
        let decision = self.get_mut(number);
        let is_there = decision.is_some();
        if let Some(decision) = decision {
            decision.outcome = Some(outcome);
        }
        is_there
    }

    /// A decision, if it is still there.
    pub fn get(&self, number: DecisionNumber) -> Option<&Decision> {
        self.decisions.get(self.place(number)?)
    }

    /// The decisions, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Decision> {
        self.decisions.iter()
    }

    fn get_mut(&mut self, number: DecisionNumber) -> Option<&mut Decision> {
        let at = self.place(number)?;
        self.decisions.get_mut(at)
    }

    fn place(&self, number: DecisionNumber) -> Option<usize> {
        let first = self.decisions.front()?.number;
        usize::try_from(number.0.checked_sub(first.0)?).ok()
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Book, Work};
    use crate::choice::{Chooser, Policy, Situation};
    use crate::cost::{CreditWeights, WorkerOverlap};
    use crate::fleet::{Fleet, WorkerState};
    use crate::mode::RouterMode;
    use crate::request::RouteRequest;
    use crate::worker::Slot;
    use proptest::prelude::*;
    use std::num::NonZeroU32;

    const BLOCK: NonZeroU32 = NonZeroU32::new(16).unwrap();

    /// A choice among one worker for each pair of pending prompt tokens and cached blocks.
    fn choice(policy: Policy, workers: &[(u64, u32)]) -> Choice {
        let mut fleet = Fleet::default();
        let mut book = Book::new(0);
        let mut overlaps = Vec::new();
        for (nth, (prefill_tokens, device)) in (0_u32..).zip(workers) {
            let key = WorkerKey {
                instance: nth.into(),
                dp_rank: 0,
            };
            fleet.put(WorkerState::new(key, Slot(nth)));
            overlaps.push(WorkerOverlap {
                device: *device,
                ..WorkerOverlap::none(Slot(nth))
            });
            let work = Work {
                prefill_tokens: *prefill_tokens,
                ..Work::default()
            };
            book.book(Slot(nth), work, Duration::ZERO);
        }
        let situation = Situation {
            fleet: &fleet,
            overlaps: &overlaps,
            now: Duration::ZERO,
        };
        let request = RouteRequest {
            isl_tokens: 320,
            hashes: &[1; 20],
            ..RouteRequest::default()
        };
        let mut chooser = Chooser::new(policy);
        let chosen = chooser.pick_and_book(&mut book, &situation, &request, &mut || 0);
        chosen.unwrap()
    }

    fn two_idle() -> Choice {
        choice(Policy::new(RouterMode::Kv, BLOCK), &[(0, 0), (0, 0)])
    }

    fn decision(choice: Choice) -> Decision {
        let mut log = DecisionLog::default();
        let number = log.record(choice, Duration::ZERO, Duration::ZERO);
        log.get(number).unwrap().clone()
    }

    const OUTCOME: Outcome = Outcome {
        cached_tokens: Some(16),
        output_tokens: 7,
        end: End::Finished,
    };

    #[test]
    fn the_last_decisions_are_kept_with_what_came_of_them() {
        let mut log = DecisionLog::default();
        let mut record = || log.record(two_idle(), Duration::ZERO, Duration::ZERO);
        let first = record();
        for _ in 1..MAX_DECISIONS {
            record();
        }
        assert!(log.conclude(first, OUTCOME));
        assert_eq!(log.get(first).unwrap().outcome, Some(OUTCOME));
        let last = log.record(two_idle(), Duration::ZERO, Duration::ZERO);
        assert!(!log.conclude(first, OUTCOME));
        assert!(log.conclude(last, OUTCOME));
        assert_eq!(log.iter().count(), MAX_DECISIONS);
        assert_eq!(log.iter().next_back().unwrap().number, last);
    }

    #[test]
    fn a_decision_is_one_object_of_numbers_and_words() {
        let mut log = DecisionLog::default();
        let number = log.record(two_idle(), Duration::from_secs(3), Duration::ZERO);
        log.first_token(number, Duration::from_millis(3_250));
        log.first_token(number, Duration::from_secs(9));
        log.conclude(number, OUTCOME);
        let told = serde_json::to_value(log.get(number).unwrap()).unwrap();
        assert_eq!(told["at_s"], 3.0);
        assert_eq!((&told["mode"], &told["rule"]), (&"kv".into(), &"kv".into()));
        assert_eq!(told["isl_tokens"], 320);
        assert_eq!(told["worker"]["instance"], 0);
        assert_eq!(told["rivals"].as_array().unwrap().len(), 1);
        assert_eq!(told["ttft_s"], 0.25);
        assert_eq!(told["outcome"]["end"], "finished");
        let text = told.to_string();
        assert!(!text.contains("hash") && !text.contains("slot"), "{text}");
    }

    #[test]
    fn decisions_of_any_mode_can_be_replayed_by_another_cost() {
        let turns = Policy::new(RouterMode::RoundRobin, BLOCK);
        // The first has nothing cached, the second much and a little to do, the third is idle.
        let decision = decision(choice(turns, &[(800, 0), (160, 15), (0, 0)]));
        assert_eq!(decision.choice.worker.instance, 0);
        let by = |device| {
            let credit = CreditWeights {
                device,
                ..CostParams::default().credit
            };
            let params = CostParams {
                credit,
                ..CostParams::default()
            };
            decision.replay(params).instance
        };
        assert_eq!((by(1.0), by(0.0)), (1, 2));
    }

    proptest! {
        #[test]
        fn a_replay_under_the_same_cost_gives_the_same_worker(
            workers in prop::collection::vec((0_u64..500, 0_u32..20), 1..12),
        ) {
            let decision = decision(choice(Policy::new(RouterMode::Kv, BLOCK), &workers));
            prop_assert_eq!(decision.replay(CostParams::default()), decision.choice.worker);
        }
    }
}

//! What a seed means: when the network breaks and how, how long messages take, what is asked.
//! Pure.

use crate::environment::SeededRandom;
use std::time::Duration;

/// How long after the repair new requests must succeed: a lost connection is noticed within three
/// seconds, a half-made one within three, and the longest pause before another attempt is one.
pub const RECOVERY_BOUND: Duration = Duration::from_secs(5);

/// Requests that are made while the network may break.
const MOST_REQUESTS: u64 = 10;

/// Requests that are made after the recovery, and must succeed.
const RECOVERY_REQUESTS: u64 = 3;

/// Items of the longest answer.
const MOST_ITEMS: u64 = 60;

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The seed it was drawn from.
    pub seed: u64,
    /// The longest that a message takes; most take much less.
    pub max_latency: Duration,
    /// When and how the network breaks.
    pub partition: Partition,
    /// What is asked, and when.
    pub requests: Vec<RequestPlan>,
}

/// The one partition of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// What happens to messages.
    pub kind: PartitionKind,
    /// When it begins.
    pub begins: Duration,
    /// When it ends.
    pub ends: Duration,
}

/// What a partition does to messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionKind {
    /// They are lost, and with them the connections: the simulated network does not send again.
    Lost,
    /// They wait and arrive when it ends, as TCP's do after a short cut.
    Held,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPlan {
    /// Its id.
    pub id: String,
    /// When it is sent.
    pub at: Duration,
    /// What is to be echoed, one byte an item.
    pub text: Vec<u8>,
    /// How long the worker waits before each item.
    pub pace: Duration,
    /// How long the caller is interested, if it says so.
    pub patience: Option<Duration>,
    /// After how many items the caller drops the stream, if it does.
    pub gives_up_after: Option<usize>,
    /// It is sent after the recovery, and must succeed.
    pub must_succeed: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let random = SeededRandom::new(seed);
        let millis = |range| Duration::from_millis(random.between(range));
        let max_latency = millis(2..=40);
        let begins = millis(200..=3000);
        // From a hiccup that nobody notices to an outage that ends every connection.
        let ends = begins + millis(20..=6000);
        let kind = if random.once_in(2) {
            PartitionKind::Lost
        } else {
            PartitionKind::Held
        };
        let before = random.between(5..=MOST_REQUESTS);
        let mut requests: Vec<_> = (0..before)
            .map(|number| RequestPlan {
                at: Duration::from_millis(random.between(0..=ends.as_millis() as u64)),
                patience: random.once_in(4).then(|| millis(300..=5000)),
                gives_up_after: random
                    .once_in(5)
                    .then(|| random.between(0..=MOST_ITEMS / 2) as usize),
                ..RequestPlan::draw(&random, number)
            })
            .collect();
        requests.extend((0..RECOVERY_REQUESTS).map(|number| RequestPlan {
            at: ends + RECOVERY_BOUND + millis(0..=500),
            must_succeed: true,
            ..RequestPlan::draw(&random, before + number)
        }));
        Self {
            seed,
            max_latency,
            partition: Partition { kind, begins, ends },
            requests,
        }
    }
}

impl RequestPlan {
    fn draw(random: &SeededRandom, number: u64) -> Self {
        let items = random.between(1..=MOST_ITEMS);
        Self {
            id: format!("request-{number}"),
            at: Duration::ZERO,
            text: (0..items).map(|_| random.between(0..=255) as u8).collect(),
            pace: Duration::from_millis(random.between(0..=80)),
            patience: None,
            gives_up_after: None,
            must_succeed: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_seeds_differ() {
        assert_eq!(Plan::draw(3), Plan::draw(3));
        assert_ne!(Plan::draw(3).requests, Plan::draw(4).requests);
    }

    #[test]
    fn plans_cover_what_they_are_for() {
        let plans: Vec<Plan> = (0..50).map(Plan::draw).collect();
        let of_kind = |kind| plans.iter().any(|plan| plan.partition.kind == kind);
        assert!(of_kind(PartitionKind::Lost) && of_kind(PartitionKind::Held));
        let requests = || plans.iter().flat_map(|plan| &plan.requests);
        assert!(requests().any(|request| request.patience.is_some()));
        assert!(requests().any(|request| request.gives_up_after.is_some()));
        assert!(plans.iter().all(|plan| {
            let late = plan.requests.iter().filter(|request| request.must_succeed);
            late.count() as u64 == RECOVERY_REQUESTS
        }));
    }
}

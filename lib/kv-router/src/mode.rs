//! The ways to pick one of the candidates that passed the filters.
//!
//! Each is a pure function of the candidates, of what the rotation was last at, and of random
//! bits that are passed in. Ties are broken by those bits, evenly.

use crate::worker::{Slot, WorkerKey};
use dynamo_config::choices;
use dynamo_protocols::kv::SequenceHash;
use serde::{Serialize, Serializer};

choices! {
    /// How a worker is picked.
    pub enum RouterMode {
        /// `kv` as soon as a worker tells what its cache holds, `least-loaded` until then.
        Auto = "auto",
        /// By what workers say that their caches hold, and by load.
        Kv = "kv",
        /// Like `kv`, for workers that do not tell: by what was sent to them before.
        KvApproximate = "kv-approximate" | "approximate",
        /// In turn.
        RoundRobin = "round-robin",
        /// Evenly at random.
        Random = "random",
        /// The one with fewer requests in flight, of two at random.
        PowerOfTwo = "power-of-two" | "p2c",
        /// The one with the fewest requests in flight.
        LeastLoaded = "least-loaded",
        /// The one that the request names; others are refused.
        Direct = "direct",
        /// Equal beginnings of prompts to equal workers, unless those have far more requests than
        /// others.
        PrefixHash = "prefix-hash",
    }
}

impl RouterMode {
    /// What `auto` comes to, given whether any worker tells what its cache holds. Other modes
    /// stay what they are.
    #[must_use]
    pub fn resolve(self, any_events: bool) -> Self {
        match (self, any_events) {
            (Self::Auto, true) => Self::Kv,
            (Self::Auto, false) => Self::LeastLoaded,
            (other, _) => other,
        }
    }

    /// Whether the choice follows the cost, and so the caches.
    pub fn is_by_cost(self) -> bool {
        matches!(self, Self::Kv | Self::KvApproximate)
    }
}

impl Serialize for RouterMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Random bits. Whoever passes the same ones gets the same choice.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// Leading blocks that prefix hashing looks at: enough to tell system prompts apart, and few
/// enough that the turns of a conversation agree on them.
const PREFIX_BLOCKS: usize = 4;

/// How much busier than the average a worker may be and still be taken by prefix hashing.
const PREFIX_LOAD_FACTOR: f64 = 1.25;

/// A worker that passed the filters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Its place in the fleet.
    pub(crate) at: u32,
    /// Its place in index and book.
    pub(crate) slot: Slot,
    /// Requests in flight.
    pub(crate) requests: u32,
    /// Its cost; 0 until it is weighed.
    pub(crate) logit: f64,
}

/// The least cost at temperature 0, else at random by softmax over the costs, which are scaled to
/// between 0 and 1 first.
pub(crate) fn by_cost(candidates: &[Candidate], temperature: f64, random: Random<'_>) -> usize {
    if temperature == 0.0 {
        return least(candidates, |it| it.logit, random);
    }
    let weights = Softmax::over(candidates, temperature);
    let total: f64 = candidates.iter().map(|it| weights.of(it.logit)).sum();
    // The 53 high bits fill a double's mantissa exactly.
    let mut left = (random() >> 11) as f64 / (1_u64 << 53) as f64 * total;
    for (nth, candidate) in candidates.iter().enumerate() {
        left -= weights.of(candidate.logit);
        if left < 0.0 {
            return nth;
        }
    }
    candidates.len() - 1
}

/// The probability of each candidate to be taken by cost.
pub(crate) fn probabilities(candidates: &[Candidate], temperature: f64) -> Vec<f64> {
    let (least, _) = bounds(candidates);
    let softmax = Softmax::over(candidates, temperature);
    let weight = |candidate: &Candidate| {
        if temperature == 0.0 {
            f64::from(u8::from(candidate.logit == least))
        } else {
            softmax.of(candidate.logit)
        }
    };
    let total: f64 = candidates.iter().map(weight).sum();
    candidates.iter().map(|it| weight(it) / total).collect()
}

/// The one with the fewest requests in flight.
pub(crate) fn least_loaded(candidates: &[Candidate], random: Random<'_>) -> usize {
    least(candidates, |it| f64::from(it.requests), random)
}

/// Evenly at random.
pub(crate) fn at_random(candidates: &[Candidate], random: Random<'_>) -> usize {
    below(candidates.len(), random)
}

/// The one with fewer requests of two different ones.
pub(crate) fn power_of_two(candidates: &[Candidate], random: Random<'_>) -> usize {
    if candidates.len() == 1 {
        return 0;
    }
    let first = below(candidates.len(), random);
    let other = below(candidates.len() - 1, random);
    let second = if other < first { other } else { other + 1 };
    if candidates[second].requests < candidates[first].requests {
        second
    } else {
        first
    }
}

/// The first after the one taken last, in the order of keys: turns stay even while workers come
/// and go.
pub(crate) fn in_turn(keys: impl Iterator<Item = WorkerKey>, last: Option<WorkerKey>) -> usize {
    let Some(last) = last else {
        return 0;
    };
    keys.into_iter().position(|key| key > last).unwrap_or(0)
}

/// The highest by a hash of worker and prefix among those that are not far busier than others;
/// `None` for prompts shorter than a block. Rendezvous hashing: a worker that comes or goes moves
/// only its own share.
pub(crate) fn by_prefix(
    candidates: &[Candidate],
    key_of: impl Fn(&Candidate) -> WorkerKey,
    prompt: &[SequenceHash],
) -> Option<usize> {
    let prefix = *prompt.get(..PREFIX_BLOCKS).unwrap_or(prompt).last()?;
    let requests: u64 = candidates.iter().map(|it| u64::from(it.requests)).sum();
    let average = (requests + 1) as f64 / candidates.len() as f64;
    let most = (average * PREFIX_LOAD_FACTOR).ceil();
    let score = |(_, candidate): &(usize, &Candidate)| {
        let key = key_of(candidate);
        mixed(mixed(prefix ^ mixed(key.instance)) ^ u64::from(key.dp_rank))
    };
    let free = candidates
        .iter()
        .enumerate()
        .filter(|(_, it)| f64::from(it.requests) < most);
    free.max_by_key(score).map(|(nth, _)| nth)
}

/// Weights of a softmax over scaled costs.
struct Softmax {
    least: f64,
    scale: f64,
}

impl Softmax {
    fn over(candidates: &[Candidate], temperature: f64) -> Self {
        let (least, most) = bounds(candidates);
        let spread = (most - least) * temperature;
        Self {
            least,
            scale: if spread > 0.0 { 1.0 / spread } else { 0.0 },
        }
    }

    fn of(&self, logit: f64) -> f64 {
        ((self.least - logit) * self.scale).exp()
    }
}

fn bounds(candidates: &[Candidate]) -> (f64, f64) {
    let start = (f64::INFINITY, f64::NEG_INFINITY);
    candidates.iter().fold(start, |(least, most), it| {
        (least.min(it.logit), most.max(it.logit))
    })
}

/// The least by some measure; evenly at random among several.
fn least(
    candidates: &[Candidate],
    measure: impl Fn(&Candidate) -> f64,
    random: Random<'_>,
) -> usize {
    let mut least = f64::INFINITY;
    let (mut first, mut ties) = (0, 0);
    for (nth, candidate) in candidates.iter().enumerate() {
        let value = measure(candidate);
        if value < least {
            (least, first, ties) = (value, nth, 1);
        } else if value == least {
            ties += 1;
        }
    }
    if ties < 2 {
        return first;
    }
    let chosen = below(ties, random);
    let equal = (first..candidates.len()).filter(|nth| measure(&candidates[*nth]) == least);
    equal.into_iter().nth(chosen).unwrap_or(first)
}

/// A number below `n`, evenly.
fn below(n: usize, random: Random<'_>) -> usize {
    let product = u128::from(random()) * u128::try_from(n).unwrap_or(1);
    usize::try_from(product >> 64).unwrap_or(0)
}

/// Spreads the bits of a number over all of it (the finaliser of splitmix64).
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;

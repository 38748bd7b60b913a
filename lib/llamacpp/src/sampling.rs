//! From logits to a token. Pure: the draw is a function of seed, choice and position.
//!
//! Order: penalties, logit bias and forbidden tokens change logits, and those that a constraint
//! does not allow are taken out; temperature scales them;
//! min-p, top-k and top-p each keep the most likely tokens, top-p by the probabilities among
//! those kept before it; the draw walks the kept tokens in order of their ids. Log probabilities
//! are of the model's own logits, before all of this.
//!
//! Invariants
//! - Equal logits rank by id, lowest first, so that every result is determined.
//! - Greedy without logprobs and without changed logits reads the logits once, allocates nothing
//!   and sorts nothing. The vocabulary can have 262,144 entries.

mod penalties;
#[cfg(test)]
mod tests;

pub use penalties::Seen;

use dynamo_protocols::draw::uniform;
use dynamo_protocols::engine::{SamplingParams, TokenId, TokenLogprobs};
use std::cmp::Ordering;

/// Tokens this many nats (after temperature) below the most likely one are never drawn. Their
/// probability is below 1e-13, and all of a vocabulary's together stay below what a 53-bit draw
/// over single-precision logits can tell from zero.
const NEGLIGIBLE_NATS: f32 = 30.0;

/// Candidates of a first attempt at top-p; each further attempt sorts four times as many.
const TOP_P_FIRST: usize = 256;

/// Logits at a time in the search for the largest: small enough for the cache, large enough to
/// let the compiler use vector instructions.
const ARGMAX_CHUNK: usize = 2_048;

/// What is needed to draw one token, besides the logits.
#[derive(Debug)]
pub struct Draw<'a> {
    /// How to draw.
    pub params: &'a SamplingParams,
    /// Which of the client's choices.
    pub choice: u32,
    /// Position of the token among the generated ones, from 0.
    pub position: u64,
    /// Tokens seen so far.
    pub seen: &'a Seen,
    /// Tokens that must not come now.
    pub forbidden: &'a [TokenId],
    /// The tokens that a constraint allows, a bit for each, from the lowest bit of the first word
    /// on: at least one. `None` allows all.
    pub allowed: Option<&'a [u32]>,
}

/// Draws tokens; keeps its buffers from one to the next.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token that may be drawn, with its scaled logit below the largest.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: TokenId,
    logit: f32,
    weight: f64,
}

impl Sampler {
    /// The next token. `logits` is not empty.
    pub fn sample(&mut self, logits: &[f32], draw: &Draw<'_>) -> TokenId {
        let params = draw.params;
        if !changes_logits(draw) {
            if params.temperature <= 0.0 {
                return argmax(logits);
            }
            return self.draw(logits, draw);
        }
        let mut changed = std::mem::take(&mut self.logits);
        changed.clear();
        changed.extend_from_slice(logits);
        draw.seen.penalise(&mut changed, params);
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = changed.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if let Some(allowed) = draw.allowed {
            take_out_others(&mut changed, allowed);
        }
        // A constraint that leaves nothing else is stronger: its answer is complete.
        let is_complete = draw
            .allowed
            .is_some_and(|allowed| allows_nothing_but(allowed, draw.forbidden));
        for &id in draw.forbidden.iter().filter(|_| !is_complete) {
            if let Some(logit) = changed.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let token = if params.temperature <= 0.0 {
            argmax(&changed)
        } else {
            self.draw(&changed, draw)
        };
        self.logits = changed;
        token
    }

    /// Log probability of `token` and of the `top` most likely tokens.
    pub fn logprobs(&mut self, logits: &[f32], token: TokenId, top: usize) -> TokenLogprobs {
        let largest = logits[argmax(logits) as usize];
        let sum: f64 = logits
            .iter()
            .map(|&logit| f64::from((logit - largest).exp()))
            .sum();
        let logprob = |logit: f32| (f64::from(logit - largest) - sum.ln()) as f32;
        let top = self.most_likely(logits, top);
        TokenLogprobs {
            logprob: logits
                .get(token as usize)
                .map_or(f32::NEG_INFINITY, |&l| logprob(l)),
            top: top.iter().map(|c| (c.id, logprob(c.logit))).collect(),
        }
    }

    fn most_likely(&mut self, logits: &[f32], top: usize) -> &[Candidate] {
        self.candidates.clear();
        if top == 0 {
            return &[];
        }
        self.candidates.extend((0..).zip(logits).map(candidate));
        keep_first(&mut self.candidates, top);
        self.candidates.sort_unstable_by(rank);
        &self.candidates
    }

    /// Draws at a temperature above 0.
    fn draw(&mut self, logits: &[f32], draw: &Draw<'_>) -> TokenId {
        let params = draw.params;
        let best = argmax(logits);
        let largest = logits[best as usize];
        let temperature = params.temperature;
        let floor = match params.min_p {
            p if p > 0.0 => (-NEGLIGIBLE_NATS).max(p.ln()),
            _ => -NEGLIGIBLE_NATS,
        };
        let kept = &mut self.candidates;
        kept.clear();
        for (id, &logit) in (0..).zip(logits) {
            let logit = (logit - largest) / temperature;
            if logit >= floor {
                kept.push(candidate((id, &logit)));
            }
        }
        if params.top_k > 0 {
            keep_first(kept, params.top_k as usize);
        }
        for candidate in kept.iter_mut() {
            candidate.weight = f64::from(candidate.logit).exp();
        }
        if params.top_p < 1.0 {
            keep_top_p(kept, f64::from(params.top_p));
        }
        kept.sort_unstable_by_key(|candidate| candidate.id);
        let total: f64 = kept.iter().map(|candidate| candidate.weight).sum();
        let mut left = uniform(params.seed, draw.choice, draw.position) * total;
        for candidate in kept.iter() {
            left -= candidate.weight;
            if left < 0.0 {
                return candidate.id;
            }
        }
        // Rounding can leave a rest; logits that are not numbers leave no candidates at all.
        kept.last().map_or(best, |candidate| candidate.id)
    }
}

/// Whether logits must be copied and changed before the draw.
fn changes_logits(draw: &Draw<'_>) -> bool {
    draw.seen.matters(draw.params)
        || !draw.params.logit_bias.is_empty()
        || !draw.forbidden.is_empty()
        || draw.allowed.is_some()
}

/// Takes out every token whose bit is not set.
fn take_out_others(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(u32::BITS as usize).zip(words) {
        if word == u32::MAX {
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            } else {
                // One that the model holds for impossible is still better than one that breaks
                // the constraint.
                *logit = logit.max(f32::MIN);
            }
        }
    }
}

/// Whether no token but these is allowed.
fn allows_nothing_but(allowed: &[u32], tokens: &[TokenId]) -> bool {
    let count: u32 = allowed.iter().map(|word| word.count_ones()).sum();
    let is_allowed = |id: TokenId| {
        let word = allowed.get(id as usize / u32::BITS as usize);
        word.is_some_and(|word| word >> (id % u32::BITS) & 1 == 1)
    };
    let mut among: Vec<TokenId> = tokens
        .iter()
        .copied()
        .filter(|id| is_allowed(*id))
        .collect();
    among.sort_unstable();
    among.dedup();
    among.len() == count as usize
}

fn candidate((id, &logit): (TokenId, &f32)) -> Candidate {
    Candidate {
        id,
        logit,
        weight: 0.0,
    }
}

/// Most likely first; of equals the lowest id.
fn rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Keeps the `count` most likely candidates, in no order.
fn keep_first(candidates: &mut Vec<Candidate>, count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, rank);
        candidates.truncate(count);
    }
}

/// Keeps the fewest most likely candidates whose probabilities reach `top_p`, at least one.
fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f64) {
    let goal = top_p * candidates.iter().map(|c| c.weight).sum::<f64>();
    let mut sorted = TOP_P_FIRST;
    loop {
        let count = sorted.min(candidates.len());
        if count < candidates.len() {
            candidates.select_nth_unstable_by(count - 1, rank);
        }
        candidates[..count].sort_unstable_by(rank);
        let mut reached = 0.0;
        let enough = candidates[..count].iter().position(|candidate| {
            reached += candidate.weight;
            reached >= goal
        });
        if let Some(last) = enough {
            candidates.truncate(last + 1);
            return;
        }
        if count == candidates.len() {
            return;
        }
        sorted *= 4;
    }
}

/// Index of the largest logit, the lowest of equals. Values that are not numbers lose.
fn argmax(logits: &[f32]) -> TokenId {
    let mut best = 0;
    let mut largest = f32::NEG_INFINITY;
    for (number, chunk) in logits.chunks(ARGMAX_CHUNK).enumerate() {
        let in_chunk = largest_of(chunk);
        if in_chunk > largest {
            largest = in_chunk;
            let place = chunk.iter().position(|&logit| logit == in_chunk);
            best = number * ARGMAX_CHUNK + place.unwrap_or_default();
        }
    }
    TokenId::try_from(best).unwrap_or_default()
}

/// The largest value, in lanes that the compiler turns into vector instructions.
fn largest_of(chunk: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let pieces = chunk.chunks_exact(LANES);
    let rest = pieces.remainder();
    for piece in pieces {
        for (lane, &logit) in lanes.iter_mut().zip(piece) {
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

//! What serving a request on a worker costs, in KV blocks; the least cost wins.
//!
//! ```text
//! credit       = credit_weight * decay * device + host_weight * host + disk_weight * disk
//!              + shared_multiplier * external
//! decay        = 1 / (1 + credit_decay * (prefill_tokens - least_prefill) / block_size / max(1, blocks))
//! raw_prefill  = (prefill_tokens + isl) / block_size
//! prefill_cost = prefill_load_scale * max(0, raw_prefill - credit)
//! decode_cost  = active blocks of the worker once this request's are among them
//! request_cost = active_request_weight * active_requests
//! wait_cost    = wait_weight * max(0, there + 1 - max_sequences) / max_sequences
//! there        = max(active_requests, sequences)
//! logit        = prefill_cost + decode_cost + request_cost + wait_cost
//! ```
//!
//! `device`, `host`, `disk` and `external` are the leading blocks of the prompt that the worker
//! finds in each tier, each block in its best one; `prefill_tokens` are the prompt tokens that
//! wait on the worker, `least_prefill` the least of them among the candidates. Preferred taints
//! multiply the logit by `exp(-tanh(sum of the matching weights))`.
//!
//! Without prefill tracking (the decode leg of a disaggregated request) `prefill_cost` is 0, and
//! the credit is taken from the decode cost instead: `max(0, decode_cost - credit)`.
//!
//! A worker runs at most `max_sequences` requests at once. One that comes on top waits until
//! enough of them have ended; when every one of them has, `wait_weight` is paid in full. Without
//! this part, one prompt that many share fills the queue of the worker that has it cached, while
//! others have nothing to do. It is 0 where the worker does not tell how many it runs. `sequences`
//! is what the worker said last that it has: routers that do not share their bookings know of each
//! other's requests only by that.
//!
//! All but the wait is the published cost with the published defaults, so that what operators
//! know of its parameters stays true.

use crate::request::Overrides;
use crate::worker::Slot;
use serde::Serialize;
use std::num::NonZeroU32;

/// Largest parameter: far beyond any use, and far from where numbers lose their fractions.
pub const MAX_WEIGHT: f64 = 1e6;

/// Leading blocks of a prompt that a worker holds, each block counted in its best tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WorkerOverlap {
    /// Whose they are.
    #[serde(skip)]
    pub slot: Slot,
    /// In device memory.
    pub device: u32,
    /// In host memory.
    pub host: u32,
    /// On the local disk.
    pub disk: u32,
    /// In a shared or remote cache.
    pub external: u32,
}

impl WorkerOverlap {
    /// No overlap.
    pub fn none(slot: Slot) -> Self {
        Self {
            slot,
            device: 0,
            host: 0,
            disk: 0,
            external: 0,
        }
    }

    /// Blocks in all tiers.
    pub fn total(&self) -> u32 {
        let tiers = [self.host, self.disk, self.external];
        tiers.into_iter().fold(self.device, u32::saturating_add)
    }
}

/// The parameters of the cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CostParams {
    /// Worth of blocks by tier.
    pub credit: CreditWeights,
    /// Cost of a prompt block still to be computed.
    pub prefill_load_scale: f64,
    /// Cost of a request in flight.
    pub active_request_weight: f64,
    /// Cost of waiting until all requests that a worker can run at once have ended.
    pub wait_weight: f64,
    /// 0 takes the least cost; above, the choice is random with a preference for low cost that
    /// weakens as it grows.
    pub temperature: f64,
    /// Whether pending prompt tokens count.
    pub track_prefill_tokens: bool,
    /// Whether active blocks count.
    pub track_active_blocks: bool,
}

/// What a cached block is worth by its tier, as a share of computing it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CreditWeights {
    /// In device memory.
    pub device: f64,
    /// In host memory.
    pub host: f64,
    /// On the local disk.
    pub disk: f64,
    /// In a shared cache.
    pub external: f64,
    /// How fast the worth of device blocks falls with the worker's pending prompt tokens.
    pub decay: f64,
}

impl Default for CostParams {
    fn default() -> Self {
        Self {
            credit: CreditWeights {
                device: 1.0,
                host: 0.75,
                disk: 0.25,
                external: 0.0,
                decay: 0.0,
            },
            prefill_load_scale: 1.0,
            active_request_weight: 0.0,
            wait_weight: 0.0,
            temperature: 0.0,
            track_prefill_tokens: true,
            track_active_blocks: true,
        }
    }
}

impl CostParams {
    /// These parameters with those that a request brings. What is not a number from 0 to
    /// [`MAX_WEIGHT`] is left out: one request must not poison a choice.
    #[must_use]
    pub fn with(mut self, overrides: &Overrides) -> Self {
        let places = [
            (&mut self.credit.device, overrides.overlap_score_credit),
            (&mut self.prefill_load_scale, overrides.prefill_load_scale),
            (&mut self.temperature, overrides.router_temperature),
            (&mut self.credit.external, overrides.shared_cache_multiplier),
        ];
        for (place, value) in places {
            if let Some(value) = value.filter(|it| (0.0..=MAX_WEIGHT).contains(it)) {
                *place = value;
            }
        }
        self
    }
}

/// A cost and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parts {
    /// What the cached blocks are worth.
    pub credit: f64,
    /// What pending prompt tokens have left of the worth of device blocks.
    pub decay: f64,
    /// Blocks of prompt that wait on the worker, this request's among them.
    pub raw_prefill: f64,
    /// Cost of what is to be computed before the first token.
    pub prefill_cost: f64,
    /// Active blocks with this request's among them.
    pub decode_cost: f64,
    /// Cost of the requests in flight.
    pub request_cost: f64,
    /// Cost of waiting for requests that came before to end.
    pub wait_cost: f64,
    /// Factor of the preferred taints.
    pub taint_factor: f64,
    /// The cost: the least wins.
    pub logit: f64,
}

/// What is the same for every candidate of one choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Basis {
    /// Tokens per block.
    pub block_size: NonZeroU32,
    /// Tokens of the prompt.
    pub isl_tokens: u64,
    /// Its full blocks.
    pub blocks: u32,
    /// The least number of prompt tokens that wait on a candidate.
    pub least_prefill: u64,
}

/// What is known of one candidate: all that its cost depends on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Facts {
    /// What it has cached of the prompt.
    pub overlap: WorkerOverlap,
    /// Prompt tokens that wait on it.
    pub prefill_tokens: u64,
    /// Blocks in use.
    pub active_blocks: f64,
    /// Of those, leading blocks of this prompt.
    pub shared_blocks: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Requests that it has, running or waiting, as it said last.
    pub sequences: u32,
    /// Requests that it runs at once; 0 if that is not known.
    pub max_sequences: u32,
    /// Weights of the preferred taints that it has.
    pub taint_weight: f64,
}

/// The formula with everything filled in that is the same for every candidate.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    params: CostParams,
    block_size: f64,
    isl_tokens: f64,
    blocks: f64,
    least_prefill: f64,
}

impl Cost {
    /// The cost of one request.
    pub fn new(params: CostParams, basis: &Basis) -> Self {
        Self {
            params,
            block_size: f64::from(basis.block_size.get()),
            isl_tokens: basis.isl_tokens as f64,
            blocks: f64::from(basis.blocks),
            least_prefill: basis.least_prefill as f64,
        }
    }

    /// What the request costs on one worker.
    #[inline]
    pub fn parts(&self, facts: &Facts) -> Parts {
        let params = &self.params;
        let prefill_tokens = facts.prefill_tokens as f64;
        let decay = self.decay(prefill_tokens);
        let credit = self.credit(&facts.overlap, decay);
        let decode_cost = if params.track_active_blocks {
            facts.active_blocks + self.blocks - f64::from(facts.shared_blocks)
        } else {
            0.0
        };
        let request_cost = params.active_request_weight * f64::from(facts.requests);
        let wait_cost = params.wait_weight * turns_to_wait(facts);
        let (raw_prefill, prefill_cost, computed) = if params.track_prefill_tokens {
            let raw = (prefill_tokens + self.isl_tokens) / self.block_size;
            let prefill = params.prefill_load_scale * (raw - credit).max(0.0);
            (raw, prefill, prefill + decode_cost)
        } else {
            (0.0, 0.0, (decode_cost - credit).max(0.0))
        };
        let taint_factor = if facts.taint_weight == 0.0 {
            1.0
        } else {
            (-facts.taint_weight.tanh()).exp()
        };
        Parts {
            credit,
            decay,
            raw_prefill,
            prefill_cost,
            decode_cost,
            request_cost,
            wait_cost,
            taint_factor,
            logit: (computed + request_cost + wait_cost) * taint_factor,
        }
    }

    #[inline]
    fn decay(&self, prefill_tokens: f64) -> f64 {
        if self.params.credit.decay == 0.0 {
            return 1.0;
        }
        let ahead = (prefill_tokens - self.least_prefill).max(0.0) / self.block_size;
        1.0 / (1.0 + self.params.credit.decay * ahead / self.blocks.max(1.0))
    }

    #[inline]
    fn credit(&self, overlap: &WorkerOverlap, decay: f64) -> f64 {
        let weights = &self.params.credit;
        weights.device * decay * f64::from(overlap.device)
            + weights.host * f64::from(overlap.host)
            + weights.disk * f64::from(overlap.disk)
            + weights.external * f64::from(overlap.external)
    }
}

/// How many times over all requests that the worker runs at once have to end before one that
/// comes now runs.
#[inline]
fn turns_to_wait(facts: &Facts) -> f64 {
    let there = facts.requests.max(facts.sequences);
    if there < facts.max_sequences || facts.max_sequences == 0 {
        return 0.0;
    }
    let ahead = f64::from(there - facts.max_sequences) + 1.0;
    ahead / f64::from(facts.max_sequences)
}

#[cfg(test)]
mod tests;

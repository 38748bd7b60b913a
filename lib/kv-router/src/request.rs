//! What a choice has to know of a request. It borrows everything: a choice copies no prompt. Only
//! a request that has to wait is copied.

use dynamo_protocols::kv::SequenceHash;

/// A request as the router sees it.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteRequest<'a> {
    /// Tokens of the prompt, those of earlier attempts included.
    pub isl_tokens: u64,
    /// Sequence hashes of its full blocks.
    pub hashes: &'a [SequenceHash],
    /// Tokens the answer is expected to have.
    pub expected_output_tokens: Option<u32>,
    /// The conversation it belongs to.
    pub session: Option<&'a str>,
    /// Which workers may serve it.
    pub target: Target<'a>,
    /// What it asks of workers beyond that.
    pub taints: Taints<'a>,
    /// Where it stands among requests that wait.
    pub standing: Standing<'a>,
    /// Parameters of the cost for this request alone.
    pub overrides: Overrides,
}

/// Which workers may serve a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Target<'a> {
    /// Instances to choose from; `None` is all.
    pub allowed: Option<&'a [u64]>,
    /// Instances that failed it already.
    pub excluded: &'a [u64],
    /// The data-parallel rank it is for.
    pub dp_rank: Option<u32>,
}

impl Target<'_> {
    /// Whether the request names its one instance.
    pub fn is_pinned(&self) -> bool {
        self.allowed.is_some_and(|allowed| allowed.len() == 1)
    }
}

/// What a request asks of workers' taints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taints<'a> {
    /// Taints a worker must have.
    pub required: &'a [String],
    /// Taints that make a worker better, by weight, or worse by a negative one.
    pub preferred: &'a [(String, f64)],
}

/// Where a request stands among others that wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing<'a> {
    /// Whose it is; requests of nobody are those of one tenant.
    pub tenant: Option<&'a str>,
    /// Higher goes first, whatever else.
    pub strict_priority: u32,
    /// Higher goes earlier within the tenant; below 0 is 0.
    pub priority: i32,
}

/// Parameters of the cost for one request; `None` leaves what the router was started with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Overrides {
    /// What a cached block is worth.
    pub overlap_score_credit: Option<f64>,
    /// What a prompt block still to be computed costs.
    pub prefill_load_scale: Option<f64>,
    /// Randomness of the choice.
    pub router_temperature: Option<f64>,
    /// What a block in the shared cache is worth.
    pub shared_cache_multiplier: Option<f64>,
}

/// A request that outlives its caller's, to wait in the queue.
#[derive(Debug, Clone)]
pub(crate) struct KeptRequest {
    isl_tokens: u64,
    hashes: Box<[SequenceHash]>,
    expected_output_tokens: Option<u32>,
    session: Option<Box<str>>,
    allowed: Option<Box<[u64]>>,
    excluded: Box<[u64]>,
    dp_rank: Option<u32>,
    required: Box<[String]>,
    preferred: Box<[(String, f64)]>,
    overrides: Overrides,
}

impl KeptRequest {
    /// A copy. Its standing is left to the queue.
    pub(crate) fn new(request: &RouteRequest<'_>) -> Self {
        Self {
            isl_tokens: request.isl_tokens,
            hashes: request.hashes.into(),
            expected_output_tokens: request.expected_output_tokens,
            session: request.session.map(Into::into),
            allowed: request.target.allowed.map(Into::into),
            excluded: request.target.excluded.into(),
            dp_rank: request.target.dp_rank,
            required: request.taints.required.into(),
            preferred: request.taints.preferred.into(),
            overrides: request.overrides,
        }
    }

    /// Whether it may go to any worker, so that what is true of one such request is of all.
    pub(crate) fn is_plain(&self) -> bool {
        let names_nobody = self.allowed.is_none() && self.excluded.is_empty();
        names_nobody && self.required.is_empty() && self.dp_rank.is_none() && self.session.is_none()
    }

    /// As it was, without its standing.
    pub(crate) fn as_request(&self) -> RouteRequest<'_> {
        RouteRequest {
            isl_tokens: self.isl_tokens,
            hashes: &self.hashes,
            expected_output_tokens: self.expected_output_tokens,
            session: self.session.as_deref(),
            target: Target {
                allowed: self.allowed.as_deref(),
                excluded: &self.excluded,
                dp_rank: self.dp_rank,
            },
            taints: Taints {
                required: &self.required,
                preferred: &self.preferred,
            },
            standing: Standing::default(),
            overrides: self.overrides,
        }
    }
}

//! Hard filters: which workers may serve a request at all, and which have no room.
//!
//! A worker that fails a filter is no candidate, however well it would score. The first filter
//! that it fails is the reason that is told. Two further tests look at load: a *busy* worker is
//! filtered out (and if all are busy, the request is refused), a *saturated* one is not, but if
//! every candidate is saturated the request waits in the router's queue.

use crate::book::Load;
use crate::fleet::WorkerState;
use crate::request::RouteRequest;
use serde::Serialize;
use std::fmt;

/// Why a worker is no candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// It takes no new work.
    Draining,
    /// The request is for other workers or another rank.
    NotAllowed,
    /// The request failed on it already.
    Excluded,
    /// It lacks a taint that the request requires.
    MissingTaint,
    /// Too many prompt tokens wait on it.
    PrefillBusy,
    /// Too many of its KV blocks are in use.
    KvBusy,
}

impl Rejection {
    /// Every reason, in the order of the filters.
    pub const ALL: [Self; 6] = [
        Self::Draining,
        Self::NotAllowed,
        Self::Excluded,
        Self::MissingTaint,
        Self::PrefillBusy,
        Self::KvBusy,
    ];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::NotAllowed => "not_allowed",
            Self::Excluded => "excluded",
            Self::MissingTaint => "missing_taint",
            Self::PrefillBusy => "prefill_busy",
            Self::KvBusy => "kv_busy",
        }
    }

    /// Whether the worker could serve the request later as it is.
    pub fn is_busy(self) -> bool {
        matches!(self, Self::PrefillBusy | Self::KvBusy)
    }
}

/// From which load on a worker is busy; `None` never is. They can be changed while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BusyThresholds {
    /// Share of a worker's KV blocks in use.
    pub decode_blocks: Option<f64>,
    /// Prompt tokens that wait for their first token.
    pub prefill_tokens: Option<u64>,
    /// The same as a multiple of what one step works on.
    pub prefill_tokens_frac: Option<f64>,
}

/// How many workers failed each filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rejections([u32; Rejection::ALL.len()]);

impl Rejections {
    /// Counts one.
    pub(crate) fn count(&mut self, reason: Rejection) {
        self.0[reason as usize] += 1;
    }

    /// Workers that failed this filter.
    pub fn of(&self, reason: Rejection) -> u32 {
        self.0[reason as usize]
    }

    /// Workers that failed a filter.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    /// Whether some worker could serve the request later as it is.
    pub fn any_busy(&self) -> bool {
        let mut reasons = Rejection::ALL.into_iter();
        reasons.any(|reason| reason.is_busy() && self.of(reason) > 0)
    }
}

impl fmt::Display for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = Rejection::ALL.into_iter().filter(|it| self.of(*it) > 0);
        for (nth, reason) in met.enumerate() {
            let separator = if nth == 0 { "" } else { ", " };
            write!(f, "{separator}{}: {}", reason.as_str(), self.of(reason))?;
        }
        Ok(())
    }
}

/// The first filter that a worker fails for a request.
#[inline]
pub(crate) fn judge(
    worker: &WorkerState,
    load: &Load,
    request: &RouteRequest<'_>,
    thresholds: &BusyThresholds,
) -> Option<Rejection> {
    let target = &request.target;
    let key = worker.key;
    if worker.draining {
        return Some(Rejection::Draining);
    }
    let is_allowed = target.allowed.is_none_or(|it| it.contains(&key.instance));
    if !is_allowed || target.dp_rank.is_some_and(|rank| rank != key.dp_rank) {
        return Some(Rejection::NotAllowed);
    }
    if target.excluded.contains(&key.instance) {
        return Some(Rejection::Excluded);
    }
    let has_taint = |name: &String| worker.taints.iter().any(|it| **it == **name);
    if !request.taints.required.iter().all(has_taint) {
        return Some(Rejection::MissingTaint);
    }
    judge_load(worker, load, thresholds)
}

#[inline]
fn judge_load(worker: &WorkerState, load: &Load, busy: &BusyThresholds) -> Option<Rejection> {
    let over_tokens = busy
        .prefill_tokens
        .is_some_and(|it| load.prefill_tokens > it);
    if over_tokens || is_saturated(worker, load, busy.prefill_tokens_frac) {
        return Some(Rejection::PrefillBusy);
    }
    let (Some(threshold), Some(total)) = (busy.decode_blocks, worker.total_blocks) else {
        return None;
    };
    // What the worker said last, or what it has been given since, whichever is more.
    let in_use = load.active_blocks().max(worker.busy_blocks as f64);
    (in_use > threshold * total as f64).then_some(Rejection::KvBusy)
}

/// Whether more prompt tokens wait on a worker than `fraction` times what one step works on.
/// A worker that does not say what that is never is saturated.
#[inline]
pub(crate) fn is_saturated(worker: &WorkerState, load: &Load, fraction: Option<f64>) -> bool {
    let (Some(fraction), Some(step)) = (fraction, worker.max_batched_tokens) else {
        return false;
    };
    load.prefill_tokens as f64 > fraction * f64::from(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Book, Work};
    use crate::request::{Taints, Target};
    use crate::worker::{Slot, WorkerKey};
    use std::time::Duration;

    fn worker() -> WorkerState {
        let key = WorkerKey {
            instance: 7,
            dp_rank: 1,
        };
        WorkerState {
            taints: vec!["fast".into(), "eu".into()],
            max_batched_tokens: Some(1_000),
            total_blocks: Some(100),
            ..WorkerState::new(key, Slot(0))
        }
    }

    fn load(prefill_tokens: u64, blocks: u64) -> Load {
        let mut book = Book::new(0);
        let work = Work {
            prefill_tokens,
            own_blocks: blocks,
            ..Work::default()
        };
        book.book(Slot(0), work, Duration::ZERO);
        book.load(Slot(0))
    }

    fn judged(request: &RouteRequest<'_>) -> Option<Rejection> {
        let unbounded = BusyThresholds::default();
        judge(&worker(), &Load::default(), request, &unbounded)
    }

    #[test]
    fn a_plain_request_takes_any_worker_that_does_not_drain() {
        assert_eq!(judged(&RouteRequest::default()), None);
        let draining = WorkerState {
            draining: true,
            ..worker()
        };
        let request = RouteRequest::default();
        let judged = judge(
            &draining,
            &Load::default(),
            &request,
            &BusyThresholds::default(),
        );
        assert_eq!(judged, Some(Rejection::Draining));
    }

    #[test]
    fn target_and_required_taints_must_all_fit() {
        let of = |target: Target<'static>| RouteRequest {
            target,
            ..RouteRequest::default()
        };
        let rank = |dp_rank| Target {
            dp_rank: Some(dp_rank),
            ..Target::default()
        };
        let allowed = |allowed| Target {
            allowed: Some(allowed),
            ..Target::default()
        };
        assert_eq!(judged(&of(rank(1))), None);
        assert_eq!(judged(&of(rank(0))), Some(Rejection::NotAllowed));
        assert_eq!(judged(&of(allowed(&[3, 7]))), None);
        assert_eq!(judged(&of(allowed(&[3]))), Some(Rejection::NotAllowed));
        let excluded = Target {
            excluded: &[7],
            ..Target::default()
        };
        assert_eq!(judged(&of(excluded)), Some(Rejection::Excluded));
        let tainted = |required: &[&str]| {
            let required: Vec<String> = required.iter().map(ToString::to_string).collect();
            judged(&RouteRequest {
                taints: Taints {
                    required: &required,
                    preferred: &[],
                },
                ..RouteRequest::default()
            })
        };
        assert_eq!(tainted(&["eu", "fast"]), None);
        assert_eq!(tainted(&["eu", "us"]), Some(Rejection::MissingTaint));
    }

    #[test]
    fn a_worker_is_busy_above_each_threshold_and_not_at_it() {
        let busy = |load: &Load, busy_blocks, thresholds: BusyThresholds| {
            let worker = WorkerState {
                busy_blocks,
                ..worker()
            };
            judge(&worker, load, &RouteRequest::default(), &thresholds)
        };
        let tokens = BusyThresholds {
            prefill_tokens: Some(500),
            ..BusyThresholds::default()
        };
        assert_eq!(busy(&load(500, 0), 0, tokens), None);
        assert_eq!(busy(&load(501, 0), 0, tokens), Some(Rejection::PrefillBusy));
        let fraction = BusyThresholds {
            prefill_tokens_frac: Some(0.5),
            ..BusyThresholds::default()
        };
        assert_eq!(busy(&load(500, 0), 0, fraction), None);
        assert_eq!(
            busy(&load(501, 0), 0, fraction),
            Some(Rejection::PrefillBusy)
        );
        let blocks = BusyThresholds {
            decode_blocks: Some(0.5),
            ..BusyThresholds::default()
        };
        assert_eq!(busy(&load(0, 50), 50, blocks), None);
        assert_eq!(busy(&load(0, 51), 0, blocks), Some(Rejection::KvBusy));
        assert_eq!(busy(&load(0, 0), 51, blocks), Some(Rejection::KvBusy));
    }
}

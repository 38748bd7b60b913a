//! What a request asks of the choice of its worker, and what was chosen.
//!
//! Both travel with the request's context inside one process: the part that talks to the client
//! fills in the wishes, whoever picks the worker writes down the choice, and engines see neither.
//! To a router that is a process of its own the wishes go with the request.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a request asks of whoever picks its worker. Nothing of it is needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteHints {
    /// The conversation it belongs to.
    pub session: Option<Arc<str>>,
    /// Who sent it: tenants get fair shares where requests wait.
    pub tenant: Option<Arc<str>>,
    /// The worker that is to serve it.
    pub instance: Option<u64>,
    /// The worker that is to compute its prompt, where that is another one's business.
    pub prefill_instance: Option<u64>,
    /// The data-parallel rank that is to serve it.
    pub dp_rank: Option<u32>,
    /// Goes before all requests with less of it.
    pub strict_priority: u32,
    /// Tokens that the answer is expected to have.
    pub expected_output_tokens: Option<u32>,
    /// Taints that its worker must have.
    pub required_taints: Vec<String>,
    /// Taints that make a worker better, by weight, or worse by a negative one.
    pub preferred_taints: Vec<(String, f64)>,
    /// Whether the choice is to be explained.
    pub explain: bool,
}

/// The choice of a worker.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routed {
    /// Who serves the request.
    pub instance: u64,
    /// Which of its data-parallel ranks.
    pub dp_rank: u32,
    /// Who has computed the prompt, if that was another worker.
    pub prefill: Option<PrefillPlace>,
    /// How workers are picked: the name of the mode.
    pub mode: &'static str,
    /// Prompt tokens that the worker should find in its cache.
    pub cached_tokens: u64,
    /// How long the request waited for a worker.
    pub waited: Duration,
    /// Why this worker, if that was asked for.
    pub explanation: Option<serde_json::Value>,
}

/// A worker that computes prompts for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefillPlace {
    /// Its instance.
    pub instance: u64,
    /// Which of its data-parallel ranks.
    pub dp_rank: u32,
}

/// The wishes of a request, and room for what was chosen for it.
#[derive(Default)]
pub struct RouteSlip {
    /// The wishes.
    pub hints: RouteHints,
    routed: Mutex<Option<Routed>>,
}

impl RouteSlip {
    /// A slip on which nothing is chosen yet.
    pub fn new(hints: RouteHints) -> Self {
        Self {
            hints,
            routed: Mutex::default(),
        }
    }

    /// Writes down a choice, in place of an earlier one.
    pub fn write(&self, routed: Routed) {
        *self.routed.lock() = Some(routed);
    }

    /// The choice, if there is one.
    pub fn routed(&self) -> Option<Routed> {
        self.routed.lock().clone()
    }
}

impl fmt::Debug for RouteSlip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Session and tenant are the client's own words: they stay out of logs.
        f.debug_struct("RouteSlip").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_choice_takes_the_place_of_an_earlier_one() {
        let slip = RouteSlip::default();
        assert_eq!(slip.routed(), None);
        for instance in [1, 2] {
            slip.write(Routed {
                instance,
                ..Routed::default()
            });
        }
        assert_eq!(slip.routed().unwrap().instance, 2);
    }

    #[test]
    fn what_the_client_calls_itself_is_not_shown() {
        let slip = RouteSlip::new(RouteHints {
            session: Some("alice".into()),
            ..RouteHints::default()
        });
        assert!(!format!("{slip:?}").contains("alice"));
    }
}

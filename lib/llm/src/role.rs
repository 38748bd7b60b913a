//! What a worker does of a request: all of it, or the prompt, or the answer; and whom it needs for
//! that.
//!
//! Workers that compute prompts for others are announced by cards of a kind of their own: whoever
//! looks for somebody who answers does not see them.

use crate::model_set::MODEL_CARD_KIND;
use dynamo_protocols::engine::BootstrapAddress;
use serde::{Deserialize, Serialize};

/// Kind of the cards of workers that compute prompts for others.
pub const PREFILL_CARD_KIND: &str = "prefill";

/// What a worker does of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerType {
    /// Prompt and answer.
    #[default]
    Aggregated,
    /// The prompt, whose KV state it hands over.
    Prefill,
    /// The answer, to a prompt that another worker has computed.
    Decode,
}

/// What a worker is to those that send it requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// What it does of a request.
    pub worker_type: WorkerType,
    /// Where decode workers find it, if its engine has them meet there.
    pub bootstrap: Option<BootstrapAddress>,
}

impl WorkerType {
    /// Whether workers do both, which goes without saying.
    pub fn is_aggregated(&self) -> bool {
        *self == Self::Aggregated
    }

    /// The kind of the cards of such workers.
    pub fn card_kind(self) -> &'static str {
        match self {
            Self::Prefill => PREFILL_CARD_KIND,
            Self::Aggregated | Self::Decode => MODEL_CARD_KIND,
        }
    }
}

/// Whether workers with such needs answer nothing without a prefill worker. Each group of types is
/// one way to serve: one of them is enough, and all of its types must be there. No group at all is
/// no need.
pub fn need_prefill(needs: &[Vec<WorkerType>]) -> bool {
    let without = |group: &Vec<WorkerType>| !group.contains(&WorkerType::Prefill);
    !needs.is_empty() && !needs.iter().any(without)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_way_without_prefill_workers_is_enough() {
        use WorkerType::{Decode, Prefill};
        assert!(!need_prefill(&[]));
        assert!(need_prefill(&[vec![Prefill]]));
        assert!(need_prefill(&[vec![Prefill, Decode], vec![Prefill]]));
        assert!(!need_prefill(&[vec![Prefill], vec![Decode]]));
        assert!(!need_prefill(&[vec![Prefill], vec![]]));
    }
}

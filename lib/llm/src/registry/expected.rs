//! Which models a registry still lacks. Pure.

use dynamo_protocols::error::{ErrorCode, RequestError};
use std::collections::BTreeSet;
use std::time::Duration;

/// What is on its way. By default nothing: nobody fills the registry from outside.
#[derive(Debug, Default)]
pub(super) struct Expected {
    patience: Duration,
    names: Names,
    is_unsettled: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Names {
    /// Nobody has said yet which models there are.
    Any,
    These(BTreeSet<String>),
}

impl Default for Names {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl Expected {
    pub(super) fn anything(patience: Duration) -> Self {
        Self {
            patience,
            names: Names::Any,
            is_unsettled: true,
        }
    }

    /// Whether that is news.
    pub(super) fn expect(&mut self, names: BTreeSet<String>) -> bool {
        let names = Names::These(names);
        let former = std::mem::replace(&mut self.names, names);
        former != self.names
    }

    /// Whether that is news.
    pub(super) fn settle(&mut self, failed: BTreeSet<String>) -> bool {
        let was_unsettled = std::mem::replace(&mut self.is_unsettled, false);
        self.expect(failed) || was_unsettled
    }

    pub(super) fn has_settled(&self) -> bool {
        !self.is_unsettled
    }

    /// How long requests wait.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// What is to be said of a model that did not come, if it may come.
    pub(super) fn not_ready(&self, name: &str) -> Option<RequestError> {
        let message = match &self.names {
            Names::Any => {
                "this process has not heard yet which models there are; check its discovery options \
                 if it stays so"
            }
            Names::These(names) if names.contains(name) => {
                "the model is announced and not loaded here yet; the log says why if it stays so"
            }
            Names::These(_) => return None,
        };
        let error = RequestError::new(ErrorCode::ModelNotReady, message);
        Some(error.with_param("model"))
    }
}

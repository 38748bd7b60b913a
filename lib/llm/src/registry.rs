//! The models that are served now, by name. Models come and go while requests run: a request
//! keeps the model it found.
//!
//! Models share the process's cache of prompt tokens: they come in with their own tokenizer, and
//! requests find them with one that remembers.
//!
//! A registry that is filled from discovery knows what it still lacks (`expected`): a process
//! that has just started does not say of a model that it is not there, it waits for it.

mod expected;

use crate::model::ServedModel;
use crate::prefill_pools::PrefillPools;
use crate::prompt_tokens::{PromptTokenCache, PromptTokenCounters, PromptTokenCounts};
use dynamo_protocols::error::{ErrorCode, RequestError};
use expected::Expected;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// Names listed in the error for an unknown model. A service with more has a model list to ask.
const LISTED_NAMES: usize = 16;

/// The served models. Cheap to clone; clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct ModelRegistry {
    models: Arc<RwLock<BTreeMap<Arc<str>, Listed>>>,
    changes: watch::Sender<()>,
    prompt_tokens: PromptTokenCache,
    refused_instances: Arc<RwLock<BTreeMap<String, u64>>>,
    prefill_pools: PrefillPools,
    expected: Arc<RwLock<Expected>>,
}

/// A model, and what came of remembering its prompts' tokens, if they are remembered.
#[derive(Debug)]
struct Listed {
    model: Arc<ServedModel>,
    prompt_tokens: Option<Arc<PromptTokenCounters>>,
}

impl ModelRegistry {
    /// An empty registry that remembers no prompts.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty registry whose models' prompts are remembered here.
    pub fn remembering(prompt_tokens: PromptTokenCache) -> Self {
        Self {
            prompt_tokens,
            ..Self::default()
        }
    }

    /// Serves `model` under `name` from now on; answers the one it replaces.
    pub fn add(
        &self,
        name: impl Into<Arc<str>>,
        model: Arc<ServedModel>,
    ) -> Option<Arc<ServedModel>> {
        let listed = Listed::new(model, &self.prompt_tokens);
        let replaced = self.models.write().insert(name.into(), listed);
        self.changes.send_replace(());
        replaced.map(|listed| listed.model)
    }

    /// Stops serving `name`; requests that found it already go on.
    pub fn remove(&self, name: &str) -> Option<Arc<ServedModel>> {
        let removed = self.models.write().remove(name);
        self.changes.send_replace(());
        removed.map(|listed| listed.model)
    }

    /// The model of this name, or an error that lists the known ones.
    pub fn find(&self, name: &str) -> Result<Arc<ServedModel>, RequestError> {
        let models = self.models.read();
        let found = models.get(name).map(|listed| Arc::clone(&listed.model));
        found.ok_or_else(|| {
            let known: Vec<&str> = models.keys().map(AsRef::as_ref).collect();
            unknown_model(name, &known)
        })
    }

    /// The same, after a wait of at most `patience` if the model is on its way. Without a patience
    /// of the request's own it is that of whoever fills the registry.
    pub async fn find_ready(
        &self,
        name: &str,
        patience: Option<Duration>,
    ) -> Result<Arc<ServedModel>, RequestError> {
        let mut changes = self.changes();
        let patience = patience.unwrap_or(self.expected.read().patience());
        let deadline = Instant::now() + patience;
        loop {
            let unknown = match self.find(name) {
                Ok(model) => return Ok(model),
                Err(unknown) => unknown,
            };
            let Some(not_ready) = self.expected.read().not_ready(name) else {
                return Err(unknown);
            };
            // A registry that nobody changes any more ends with its process.
            if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
                return Err(not_ready);
            }
        }
    }

    /// Models will come from outside, and nobody has heard yet which ones. Requests wait for them
    /// for as long as `patience`, if they do not say otherwise.
    pub fn expect_anything(&self, patience: Duration) {
        *self.expected.write() = Expected::anything(patience);
        self.changes.send_replace(());
    }

    /// These models are being taken in.
    pub fn expect(&self, names: BTreeSet<String>) {
        if self.expected.write().expect(names) {
            self.changes.send_replace(());
        }
    }

    /// All that was heard of has been taken in but for these, which are tried again.
    pub fn settle(&self, failed: BTreeSet<String>) {
        if self.expected.write().settle(failed) {
            self.changes.send_replace(());
        }
    }

    /// Whether it has once held all that there was.
    pub fn has_settled(&self) -> bool {
        self.expected.read().has_settled()
    }

    /// Names and models, sorted by name.
    pub fn list(&self) -> Vec<(Arc<str>, Arc<ServedModel>)> {
        let models = self.models.read();
        models
            .iter()
            .map(|(name, listed)| (Arc::clone(name), Arc::clone(&listed.model)))
            .collect()
    }

    /// What came of remembering prompts' tokens, by name of the model; nothing where that is not
    /// done.
    pub fn prompt_tokens(&self) -> Vec<(Arc<str>, PromptTokenCounts)> {
        let models = self.models.read();
        let counts = models.iter().map(|(name, listed)| {
            let counters = listed.prompt_tokens.as_ref();
            let counts = counters.map(|counters| counters.counts());
            (Arc::clone(name), counts.unwrap_or_default())
        });
        counts.collect()
    }

    /// Bytes of prompts that are remembered, of all models.
    pub fn prompt_token_bytes(&self) -> usize {
        self.prompt_tokens.bytes()
    }

    /// Remembers how many instances announce another model under the name of a served one.
    pub fn set_refused_instances(&self, instances: &BTreeMap<String, u64>) {
        self.refused_instances.write().clone_from(instances);
    }

    /// Instances that announce another model under this name, and get no requests.
    pub fn refused_instances(&self, name: &str) -> u64 {
        let refused = self.refused_instances.read();
        refused.get(name).copied().unwrap_or(0)
    }

    /// Who computes prompts for models' workers.
    pub fn prefill_pools(&self) -> &PrefillPools {
        &self.prefill_pools
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Whether no model is served.
    pub fn is_empty(&self) -> bool {
        self.models.read().is_empty()
    }
}

impl Listed {
    fn new(model: Arc<ServedModel>, cache: &PromptTokenCache) -> Self {
        match cache.remembering(&model.tokenizer, model.template.as_deref()) {
            Some((tokenizer, counters)) => Self {
                model: Arc::new(ServedModel {
                    tokenizer,
                    ..(*model).clone()
                }),
                prompt_tokens: Some(counters),
            },
            None => Self {
                model,
                prompt_tokens: None,
            },
        }
    }
}

fn unknown_model(name: &str, known: &[&str]) -> RequestError {
    // The client chose the name; a name of megabytes is not worth repeating.
    let name: String = name.chars().take(128).collect();
    let message = match known {
        [] => format!("model `{name}` is not served, and no other is either yet"),
        _ if known.len() > LISTED_NAMES => format!(
            "model `{name}` is not served; the first of {} models are: {}; see /v1/models",
            known.len(),
            known[..LISTED_NAMES].join(", ")
        ),
        _ => format!(
            "model `{name}` is not served; served models: {}",
            known.join(", ")
        ),
    };
    RequestError::new(ErrorCode::ModelNotFound, message).with_param("model")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echo::EchoOptions;
    use crate::echo_model::echo_model;

    #[test]
    fn an_unknown_model_lists_the_known_ones_within_bounds() {
        let error = unknown_model("x", &["a", "b"]);
        assert_eq!(error.code, ErrorCode::ModelNotFound);
        assert_eq!(
            error.message,
            "model `x` is not served; served models: a, b"
        );
        let many: Vec<String> = (0..1000).map(|i| format!("model-{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = unknown_model(&"x".repeat(1_000_000), &many);
        assert!(error.message.len() < 1_000, "{}", error.message);
        assert!(unknown_model("x", &[]).message.contains("no other"));
    }

    #[test]
    fn whoever_asks_hears_of_models_that_come_and_go() {
        let registry = ModelRegistry::new();
        let mut changes = registry.changes();
        assert!(!changes.has_changed().unwrap());
        let model = echo_model("m", EchoOptions::default()).unwrap();
        registry.add("m", Arc::new(model));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        registry.remove("m");
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_on_its_way_is_waited_for_and_no_other() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let registry = ModelRegistry::new();
        assert!(registry.has_settled());
        let unknown = registry.find_ready("m", None).await.unwrap_err();
        assert_eq!(unknown.code, ErrorCode::ModelNotFound);

        registry.expect_anything(PATIENCE);
        assert!(!registry.has_settled());
        let began = Instant::now();
        let late = registry.find_ready("m", None).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::ModelNotReady);
        assert_eq!(began.elapsed(), PATIENCE);
        let own = Some(Duration::from_secs(1));
        registry.find_ready("m", own).await.unwrap_err();
        assert_eq!(began.elapsed(), PATIENCE + Duration::from_secs(1));

        let (waits, other) = (
            registry.find_ready("m", None),
            registry.find_ready("x", None),
        );
        let comes = async {
            registry.expect(BTreeSet::from(["m".to_owned()]));
            tokio::task::yield_now().await;
            let model = echo_model("m", EchoOptions::default()).unwrap();
            registry.add("m", Arc::new(model));
            registry.settle(BTreeSet::new());
        };
        let (found, other, ()) = tokio::join!(waits, other, comes);
        assert!(found.is_ok() && registry.has_settled());
        assert_eq!(other.unwrap_err().code, ErrorCode::ModelNotFound);
    }

    #[test]
    fn an_empty_registry_finds_nothing() {
        let registry = ModelRegistry::new();
        assert!(registry.is_empty());
        assert_eq!(
            registry.find("x").unwrap_err().code,
            ErrorCode::ModelNotFound
        );
        assert!(registry.remove("x").is_none());
    }
}

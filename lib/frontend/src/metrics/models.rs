//! What is served, as its cards say it. Read from the registry when the metrics are asked for:
//! requests pay nothing for it, and a model that is gone is gone here too.

use super::declare::Declare;
use dynamo_llm::model::ServedModel;
use dynamo_llm::registry::ModelRegistry;
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::sync::Arc;

/// A figure of a model, by its name. Without one the model has no series under this name: a card
/// says only what its worker knows.
type Figure = fn(&ModelRegistry, &str, &ServedModel) -> Option<u64>;

/// Name, meaning and source of each figure.
const FIGURES: &[(&str, &str, Figure)] = &[
    ("model_ready", "Models that are served", |_, _, _| Some(1)),
    (
        "model_refused_instances",
        "Instances that announce another model under the name, and get no requests",
        |models, name, _| Some(models.refused_instances(name)),
    ),
    (
        "model_context_length",
        "Longest sequence of a model, prompt and output together",
        |_, _, model| Some(model.card.context_length.into()),
    ),
    (
        "model_kv_cache_block_size",
        "Tokens per KV block of a model",
        |_, _, model| Some(model.card.kv_block_size.into()),
    ),
    (
        "model_total_kv_blocks",
        "KV blocks of one worker of a model",
        |_, _, model| model.card.runtime.total_kv_blocks,
    ),
    (
        "model_max_num_seqs",
        "Sequences that one worker of a model computes at once",
        |_, _, model| model.card.runtime.max_num_seqs.map(u64::from),
    ),
    (
        "model_max_num_batched_tokens",
        "Tokens that one worker of a model computes in one step",
        |_, _, model| model.card.runtime.max_num_batched_tokens.map(u64::from),
    ),
];

/// The figures of every model in a registry.
struct ModelGauges {
    models: ModelRegistry,
    families: Vec<(Desc, Figure)>,
}

/// Shows what is in `models`, under names that begin with `prefix`.
pub(crate) fn show_models(
    registry: &MetricsRegistry,
    prefix: &str,
    models: ModelRegistry,
) -> Result<(), MetricsError> {
    let by = Declare { registry, prefix };
    let describe = |&(name, help, figure): &(&str, &str, Figure)| {
        let labels = vec!["model".to_owned()];
        let desc = Desc::new(by.name(name), help.to_owned(), labels, HashMap::new())?;
        Ok((desc, figure))
    };
    let families = FIGURES
        .iter()
        .map(describe)
        .collect::<Result<_, MetricsError>>()?;
    registry.register(ModelGauges { models, families })
}

impl Collector for ModelGauges {
    fn desc(&self) -> Vec<&Desc> {
        self.families.iter().map(|(desc, _)| desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let models = self.models.list();
        let family = |(desc, figure): &(Desc, Figure)| {
            let shown = |(name, model): &(Arc<str>, Arc<ServedModel>)| {
                Some(series(name, figure(&self.models, name, model)?))
            };
            let mut family = MetricFamily::default();
            family.set_name(desc.fq_name.clone());
            family.set_help(desc.help.clone());
            family.set_field_type(MetricType::GAUGE);
            family.set_metric(models.iter().filter_map(shown).collect());
            family
        };
        self.families
            .iter()
            .map(family)
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

fn series(model: &str, value: u64) -> Metric {
    let mut label = LabelPair::default();
    label.set_name("model".to_owned());
    label.set_value(model.to_owned());
    let mut gauge = Gauge::default();
    gauge.set_value(value as f64);
    let mut metric = Metric::from_label(vec![label]);
    metric.set_gauge(gauge);
    metric
}

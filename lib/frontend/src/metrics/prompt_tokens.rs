//! How much of the prompts is tokenised anew. Read from the registry when the metrics are asked
//! for: requests pay nothing for it.

use super::declare::Declare;
use dynamo_llm::prompt_tokens::PromptTokenCounts;
use dynamo_llm::registry::ModelRegistry;
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

const HITS: (&str, &str) = (
    "tokenizer_cache_hits_total",
    "Prompts whose beginning was tokenised before and remembered",
);
const MISSES: (&str, &str) = (
    "tokenizer_cache_misses_total",
    "Prompts that are long enough to be remembered and were not",
);
const CACHED: (&str, &str) = (
    "tokenizer_cache_cached_tokens_total",
    "Prompt tokens that were remembered",
);
const UNCACHED: (&str, &str) = (
    "tokenizer_cache_uncached_tokens_total",
    "Prompt tokens that were not remembered",
);
const BYTES: (&str, &str) = (
    "tokenizer_cache_bytes",
    "Memory for remembered prompt tokens, of all models",
);

/// The cache of a registry's models.
struct PromptTokenMetrics {
    models: ModelRegistry,
    hits: Desc,
    misses: Desc,
    cached: Desc,
    uncached: Desc,
    bytes: Desc,
}

/// Shows what came of remembering prompt tokens, under names that begin with `prefix`.
pub(crate) fn show_prompt_tokens(
    registry: &MetricsRegistry,
    prefix: &str,
    models: ModelRegistry,
) -> Result<(), MetricsError> {
    let by = Declare { registry, prefix };
    let describe = |(name, help): (&str, &str), labels: &[&str]| {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(by.name(name), help.to_owned(), labels, HashMap::new())
    };
    registry.register(PromptTokenMetrics {
        models,
        hits: describe(HITS, &["model"])?,
        misses: describe(MISSES, &["model"])?,
        cached: describe(CACHED, &["model"])?,
        uncached: describe(UNCACHED, &["model"])?,
        bytes: describe(BYTES, &[])?,
    })
}

impl Collector for PromptTokenMetrics {
    fn desc(&self) -> Vec<&Desc> {
        vec![
            &self.hits,
            &self.misses,
            &self.cached,
            &self.uncached,
            &self.bytes,
        ]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counts = self.models.prompt_tokens();
        let counter = |desc: &Desc, figure: fn(&PromptTokenCounts) -> u64| {
            let series = counts
                .iter()
                .map(|(model, counts)| count(model, figure(counts)));
            family(desc, MetricType::COUNTER, series.collect())
        };
        let mut bytes = Gauge::default();
        bytes.set_value(self.models.prompt_token_bytes() as f64);
        let mut metric = Metric::default();
        metric.set_gauge(bytes);
        let mut families = vec![family(&self.bytes, MetricType::GAUGE, vec![metric])];
        if !counts.is_empty() {
            families.extend([
                counter(&self.hits, |counts| counts.hits),
                counter(&self.misses, |counts| counts.misses),
                counter(&self.cached, |counts| counts.cached_tokens),
                counter(&self.uncached, |counts| counts.uncached_tokens),
            ]);
        }
        families
    }
}

fn family(desc: &Desc, kind: MetricType, series: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.fq_name.clone());
    family.set_help(desc.help.clone());
    family.set_field_type(kind);
    family.set_metric(series);
    family
}

fn count(model: &str, value: u64) -> Metric {
    let mut label = LabelPair::default();
    label.set_name("model".to_owned());
    label.set_value(model.to_owned());
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(vec![label]);
    metric.set_counter(counter);
    metric
}

//! What is counted of servers, and of the comparison with a balancer. `docs/unmodified-servers.md`
//! lists it.

use crate::health::Trouble;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts};

/// Counters of servers. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    pub(crate) up: IntGaugeVec,
    changes: IntCounterVec,
    poll_failures: IntCounterVec,
    requests: IntCounterVec,
    pub(crate) retries: IntCounter,
    prompts: IntCounterVec,
    kv_refused: IntCounterVec,
    kv_unknown: IntCounterVec,
    shadow: IntCounterVec,
    pub(crate) shadow_predicted: IntCounter,
    pub(crate) shadow_actual: IntCounter,
}

impl BackendMetrics {
    /// Counters at zero.
    pub fn new() -> Result<Self, prometheus::Error> {
        let options = |name: &str, help: &str| Opts::new(format!("dynamo_backends_{name}"), help);
        let counters =
            |name, help, labels: &[&str]| IntCounterVec::new(options(name, help), labels);
        Ok(Self {
            up: IntGaugeVec::new(options("up", "Whether a server is asked"), &["backend"])?,
            changes: counters(
                "changes_total",
                "Times that a server came or went",
                &["backend", "to"],
            )?,
            poll_failures: counters(
                "poll_failures_total",
                "Polls that were not answered with a list of models",
                &["backend", "reason"],
            )?,
            requests: counters(
                "requests_total",
                "Requests sent to a server, by what came of them",
                &["backend", "result"],
            )?,
            retries: IntCounter::with_opts(options(
                "retries_total",
                "Requests that were sent to another server",
            ))?,
            prompts: counters(
                "prompts_total",
                "Prompts that were tokenised for the router, and prompts that could not be",
                &["result"],
            )?,
            kv_refused: counters(
                "kv_events_refused_total",
                "KV events that changed nothing",
                &["backend", "reason"],
            )?,
            kv_unknown: counters(
                "kv_unknown_blocks_total",
                "KV blocks removed or moved that were never told to be stored",
                &["backend"],
            )?,
            shadow: counters(
                "shadow_decisions_total",
                "Choices beside those of the balancer",
                &["result"],
            )?,
            shadow_predicted: IntCounter::with_opts(options(
                "shadow_predicted_tokens_total",
                "Prompt tokens in the cache of the server that the router would have chosen",
            ))?,
            shadow_actual: IntCounter::with_opts(options(
                "shadow_actual_tokens_total",
                "Prompt tokens that answers said came from a cache",
            ))?,
        })
    }

    pub(crate) fn changed(&self, backend: &str, is_in: bool) {
        self.up.with_label_values(&[backend]).set(i64::from(is_in));
        let to = if is_in { "in" } else { "out" };
        self.changes.with_label_values(&[backend, to]).inc();
    }

    pub(crate) fn poll_failed(&self, backend: &str, trouble: &Trouble) {
        let labels = [backend, trouble.as_str()];
        self.poll_failures.with_label_values(&labels).inc();
    }

    pub(crate) fn request(&self, backend: &str, result: &str) {
        self.requests.with_label_values(&[backend, result]).inc();
    }

    pub(crate) fn prompt(&self, is_read: bool) {
        let result = if is_read { "tokenised" } else { "unread" };
        self.prompts.with_label_values(&[result]).inc();
    }

    pub(crate) fn kv_refused(&self, backend: &str, reason: &str) {
        self.kv_refused.with_label_values(&[backend, reason]).inc();
    }

    pub(crate) fn kv_unknown(&self, backend: &str, blocks: u64) {
        if blocks > 0 {
            self.kv_unknown.with_label_values(&[backend]).inc_by(blocks);
        }
    }

    pub(crate) fn shadow(&self, result: &str) {
        self.shadow.with_label_values(&[result]).inc();
    }

    fn all(&self) -> [&dyn Collector; 11] {
        [
            &self.up,
            &self.changes,
            &self.poll_failures,
            &self.requests,
            &self.retries,
            &self.prompts,
            &self.kv_refused,
            &self.kv_unknown,
            &self.shadow,
            &self.shadow_predicted,
            &self.shadow_actual,
        ]
    }
}

impl Collector for BackendMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let all = self.all();
        all.into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_metric_and_no_other() {
        const PAGE: &str = include_str!("../../../docs/unmodified-servers.md");
        let metrics = BackendMetrics::new().unwrap();
        let row = |it: &&Desc| (it.fq_name.clone(), it.variable_labels.join(", "));
        let listed = PAGE
            .lines()
            .filter(|it| it.starts_with("| `dynamo_backends_"));
        let listed: Vec<_> = listed
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                (cells[0].trim_matches('`').to_owned(), cells[1].to_owned())
            })
            .collect();
        assert_eq!(listed, metrics.desc().iter().map(row).collect::<Vec<_>>());
    }
}

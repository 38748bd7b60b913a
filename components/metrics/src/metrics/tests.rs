//! What is shown is what the page lists, and makes a page that Prometheus takes.

use super::family::Kind;
use super::*;
use crate::fleet::{Bounds, Fleet, Heard};
use dynamo_protocols::load::{LoadReport, WorkLoad};
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};
use dynamo_routing::news::news_endpoint;
use std::collections::BTreeSet;
use std::time::Duration;

const PAGE: &str = include_str!("../../../../docs/reference/worker-metrics.md");

fn rows() -> Vec<String> {
    fn of<T>(families: &[Family<T>], labels: Labels) -> impl Iterator<Item = String> {
        families.iter().map(move |it| {
            let kind = match it.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            let labels = labels.join(", ");
            format!(
                "| `{}` | {kind} | {labels} | {} | {} |",
                it.name, it.unit, it.help
            )
        })
    }
    of(ENDPOINT_FIGURES, ENDPOINT_LABELS)
        .chain(of(WORKER_FIGURES, WORKER_LABELS))
        .chain(of(OWN_FIGURES, &[]))
        .chain(of(PUBLISHED_ENDPOINT_FIGURES, PUBLISHED_ENDPOINT_LABELS))
        .chain(of(PUBLISHED_WORKER_FIGURES, PUBLISHED_WORKER_LABELS))
        .map(|row| row.replace("|  |", "| |"))
        .collect()
}

/// Two ranks of one worker, which report, and a worker that has told nothing for too long.
fn page() -> String {
    let endpoint: EndpointId = "ns.back.generate".parse().unwrap();
    let news = news_endpoint(&endpoint).unwrap();
    let mut fleet = Fleet::new(Bounds {
        max_endpoints: 1,
        max_workers: 3,
        stale_after: Duration::from_secs(10),
    });
    let present = BTreeMap::from([(endpoint, BTreeSet::from([0x1f, 0x20]))]);
    fleet.set_present(&present, false, Duration::ZERO);
    let load = LoadReport {
        scheduled: WorkLoad {
            num_decode_requests: 3,
            ..WorkLoad::default()
        },
        used_blocks: 30,
        cached_blocks: 10,
        total_blocks: 100,
        block_size: 16,
        max_sequences: 8,
        prompt_tokens: 200,
        cached_prompt_tokens: 50,
        ..LoadReport::default()
    };
    let told = |dp_rank| WorkerEvent {
        dp_rank,
        sent_at_ms: 0,
        news: WorkerNews::Load(load.clone()),
    };
    let heard = Heard::Snapshot(vec![told(0), told(1)]);
    fleet.hear(&news, 0x1f, &heard, Duration::from_secs(1));
    let registry = MetricsRegistry::new();
    let figures = fleet.figures(Duration::from_secs(11));
    show_fleet(&registry, move || figures.clone()).unwrap();
    registry.encode()
}

#[test]
fn the_page_lists_every_figure_and_no_other() {
    let listed = PAGE.lines().filter(|line| line.starts_with("| `"));
    assert_eq!(
        listed.collect::<Vec<_>>(),
        rows(),
        "\n{}\n",
        rows().join("\n")
    );
}

#[test]
fn every_figure_is_shown_once_a_worker_reports() {
    let page = page();
    let shown = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let shown: BTreeSet<&str> = shown.filter_map(|it| it.split(' ').next()).collect();
    let rows = rows();
    let declared = rows.iter().filter_map(|row| row.split('`').nth(1));
    assert_eq!(shown, declared.collect());
}

#[test]
fn ranks_are_shown_by_themselves_and_workers_and_endpoints_as_sums() {
    let page = page();
    let expected = [
        "dynamo_workers_known{dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\"} 2",
        "dynamo_workers_stale{dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\"} 1",
        "dynamo_workers_active_slots{dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\"} 6",
        "dynamo_worker_active_slots{dp_rank=\"1\",dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\",worker_id=\"1f\"} 3",
        "dynamo_worker_news_age_seconds{dp_rank=\"0\",dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\",worker_id=\"1f\"} 10",
        "dynamo_worker_stale{dp_rank=\"0\",dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\",worker_id=\"20\"} 1",
        "llm_kv_blocks_active{component=\"back\",dynamo_namespace=\"ns\",endpoint=\"generate\",worker_id=\"1f\"} 40",
        "llm_kv_hit_rate_percent{component=\"back\",dynamo_namespace=\"ns\",endpoint=\"generate\",worker_id=\"1f\"} 25",
        "llm_load_avg{component=\"back\",dynamo_namespace=\"ns\",endpoint=\"generate\"} 20",
    ];
    for line in expected {
        assert!(
            page.lines().any(|it| it == line),
            "{line} is not in\n{page}"
        );
    }
    // Nothing is shown of what a stale worker does.
    assert!(!page.contains("dynamo_worker_slots{dp_rank=\"0\",dynamo_component=\"back\",dynamo_endpoint=\"generate\",dynamo_namespace=\"ns\",worker_id=\"20\"}"));
}

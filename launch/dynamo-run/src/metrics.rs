//! `dynamo metrics`: workers' load and KV caches per endpoint, for Prometheus.

use crate::output::print_line;
use crate::process::Process;
use anyhow::Context;
use dynamo_config::Source;
use dynamo_metrics::{BoundPages, MetricsOptions, Scope, SharedFleet, show_fleet};
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::shutdown::ExitStatus;
use dynamo_runtime::status::EndpointStatus;

/// The part of `/health` that says whether discovery has named the workers.
const DISCOVERY: &str = "discovery";

/// Shows workers until asked to end.
pub(crate) async fn metrics(process: Process) -> anyhow::Result<ExitStatus> {
    let options: &MetricsOptions = process.options.get();
    let runtime_options: &RuntimeOptions = process.options.get();
    let source = process.options.source("namespace");
    let scope = Scope::new(
        &runtime_options.namespace,
        !matches!(source, None | Some(Source::Default)),
        options.component.as_deref(),
        options.endpoint.as_deref(),
    )
    .context("--component and --endpoint name no workers")?;
    process.serve_status().await?;
    let fleet = SharedFleet::new(options.bounds());
    let shown = fleet.clone();
    show_fleet(&process.metrics, move || shown.figures())?;
    // Before anybody is told of this process: the port may be taken.
    let pages = BoundPages::bind(options, &process.environment).await?;
    let address = pages.local_addr();
    let health = process.health.clone();
    health.set_endpoint(DISCOVERY, EndpointStatus::NotReady);
    pages.serve(health.clone(), process.metrics.clone(), &process.tasks);
    let runtime = process.join().await?;
    let following = fleet.follow(runtime, scope, move || {
        health.set_endpoint(DISCOVERY, EndpointStatus::Ready);
    });
    process.tasks.spawn_until_cancelled("workers", following);
    tracing::info!(%address, "metrics of workers are shown");
    print_line(&format!("http://{address}"));
    process.serve(std::future::ready(())).await
}

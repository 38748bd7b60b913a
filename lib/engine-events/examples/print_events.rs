//! Prints what an engine publishes, a JSON line per item, until its standard input ends; then the
//! metrics as a last line.
//!
//! ```text
//! cargo run --release -p dynamo-engine-events --example print_events -- \
//!     tcp://127.0.0.1:5557 [--replay tcp://127.0.0.1:5558] [--topic kv]
//! ```
#![expect(clippy::print_stdout, reason = "the events go to stdout")]

use dynamo_engine_events::{
    EngineEvent, EngineEventMetrics, SourceItem, Subscriber, SubscriberOptions,
};
use dynamo_runtime::telemetry::MetricsRegistry;
use dynamo_runtime::{Environment, Tasks};
use serde_json::{Value, json};
use std::error::Error;
use tokio::io::AsyncReadExt;

fn options() -> Result<SubscriberOptions, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let endpoint = arguments.next().ok_or("give the publisher's address")?;
    let mut options = SubscriberOptions {
        endpoint: endpoint.parse()?,
        replay: None,
        topic: String::new(),
    };
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--replay" => options.replay = Some(value.parse()?),
            "--topic" => options.topic = value,
            _ => return Err(format!("unknown argument {name}").into()),
        }
    }
    Ok(options)
}

fn event(event: &EngineEvent) -> Value {
    match event {
        EngineEvent::Stored(stored) => json!({
            "stored": stored.block_hashes,
            "parent": stored.parent,
            "token_ids": stored.token_ids,
            "block_size": stored.block_size,
            "lora_name": stored.lora_name,
            "salt": stored.salt,
            "media": stored.media,
            "medium": stored.medium,
            "eagle": stored.eagle,
        }),
        EngineEvent::Removed(removed) => json!({
            "removed": removed.block_hashes,
            "medium": removed.medium,
        }),
        EngineEvent::Cleared => json!("cleared"),
    }
}

fn item(item: &SourceItem) -> Value {
    match item {
        SourceItem::Batch(batch) => json!({
            "sequence": batch.sequence,
            "timestamp": batch.timestamp,
            "dp_rank": batch.dp_rank,
            "events": batch.events.iter().map(event).collect::<Vec<_>>(),
        }),
        SourceItem::Lost { first, count } => json!({"lost": first, "count": count}),
        SourceItem::Reset => json!("reset"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let tasks = Tasks::root();
    let metrics = EngineEventMetrics::new();
    let registry = MetricsRegistry::new();
    registry.register(metrics.clone())?;
    let mut items = Subscriber::start(options, &Environment::system(), &tasks, &metrics);
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 64];
    loop {
        tokio::select! {
            biased;
            read = input.read(&mut ignored) => if read? == 0 { break },
            next = items.recv() => match next {
                Some(next) => println!("{}", item(&next)),
                None => break,
            },
        }
    }
    println!("{}", json!({"metrics": registry.encode()}));
    tasks.stop().await;
    Ok(())
}

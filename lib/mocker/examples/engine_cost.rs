//! What a token costs: CPU time of the simulated engine with 64 streams that are read as fast as
//! they come, in one process without any transport. Prints one JSON line per speedup ratio.
//!
//! `cargo run --release -p dynamo-mocker --example engine_cost [ROUNDS]`

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use dynamo_mocker::{MockEngine, MockModel, MockerError, MockerOptions};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{Engine, EngineRequest, RequestContext, StopConditions};
use dynamo_runtime::Tasks;
use futures_util::StreamExt;
use std::time::Instant;

/// Streams at once.
const STREAMS: u32 = 64;

/// Tokens of each prompt, half of them shared by all.
const PROMPT: u32 = 400;

/// Tokens of each answer.
const OUTPUT: u32 = 512;

/// Rounds of all streams, unless another number is given.
const ROUNDS: u32 = 100;

/// Nanoseconds of CPU time of all threads that live, as Linux counts them.
fn cpu_nanoseconds() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let of_task = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(of_task).sum()
}

fn request(round: u32, stream: u32) -> EngineRequest {
    let own = round * STREAMS + stream;
    let prompt = (0..PROMPT / 2).chain((0..PROMPT / 2).map(|token| token ^ own));
    EngineRequest {
        prompt_ids: prompt.collect(),
        stop: StopConditions {
            max_tokens: OUTPUT,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }
}

async fn read(engine: &MockEngine, request: EngineRequest) -> Result<u64, RequestError> {
    let mut outputs = engine.generate(request, RequestContext::default()).await?;
    let mut tokens = 0;
    while let Some(output) = outputs.next().await {
        tokens += output?.token_ids.len() as u64;
    }
    Ok(tokens)
}

/// Every consumer is a task of its own, as it is in a worker.
async fn measure(speedup_ratio: f64, rounds: u32) -> Result<(), MockerError> {
    let tasks = Tasks::root();
    let options = MockerOptions {
        speedup_ratio,
        ..MockerOptions::default()
    };
    let engine = MockEngine::start(&options, MockModel::default(), &tasks).await?;
    let engine = std::sync::Arc::new(engine);
    let (start, cpu) = (Instant::now(), cpu_nanoseconds());
    let (sender, mut results) = tokio::sync::mpsc::channel(STREAMS as usize);
    for stream in 0..STREAMS {
        let (engine, sender) = (engine.clone(), sender.clone());
        tasks.spawn("consumer", async move {
            let mut tokens = 0;
            for round in 0..rounds {
                tokens += read(&engine, request(round, stream)).await.unwrap_or(0);
            }
            sender.send(tokens).await.ok();
        });
    }
    drop(sender);
    let mut tokens = 0;
    while let Some(count) = results.recv().await {
        tokens += count;
    }
    let cpu = cpu_nanoseconds() - cpu;
    println!(
        "{{\"speedup_ratio\":{speedup_ratio},\"streams\":{STREAMS},\"tokens\":{tokens},\
         \"cpu_ns_per_token\":{:.1},\"wall_s\":{:.3}}}",
        cpu as f64 / tokens.max(1) as f64,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), MockerError> {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|rounds| rounds.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    for speedup_ratio in [0.0, 10_000.0] {
        measure(speedup_ratio, rounds).await?;
    }
    // Paced: steps of 3 milliseconds and more, each of which wakes every consumer.
    measure(2.0, rounds.div_ceil(ROUNDS)).await
}

//! Tokens per second of the engine itself, with 1 and with 8 streams, as one JSON line.
//!
//! Where the system tells it, also per second of the process's CPU time: the figure to compare on
//! a machine that does other things too (with one thread; more threads spin while they wait).
//!
//! `cargo run --release -p dynamo-llamacpp --example throughput -- MODEL.gguf [THREADS]`

use dynamo_llamacpp::{LlamacppEngine, LlamacppOptions};
use dynamo_protocols::engine::{Engine, EngineRequest, RequestContext, StopConditions};
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::path::Path;
use std::time::Instant;

/// Tokens that each stream generates: long enough for the prompt not to matter.
const OUTPUT_TOKENS: u32 = 128;

/// Tokens of each stream's prompt.
const PROMPT_TOKENS: usize = 16;

/// Tokens of the prefix whose time to first token is measured cold and repeated.
const PREFIX_TOKENS: usize = 1_000;

fn prompt(seed: usize, len: usize) -> Vec<u32> {
    let words = (1..len).map(|i| 1_000 + (i * 7_919 + seed * 104_729) % 20_000);
    let words = words.map(|word| u32::try_from(word).unwrap_or_default());
    std::iter::once(2).chain(words).collect()
}

/// Clock ticks per second of `/proc/self/stat` on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of this process so far; 0 where the system does not tell.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15, counted behind the name, which may contain spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    let ticks: f64 = fields.filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

/// Runs the streams together; tokens per second, and per second of CPU time.
async fn decode(engine: &LlamacppEngine, streams: usize, base: usize) -> (f64, f64) {
    let runs = (0..streams).map(|i| run(engine, prompt(base + i, PROMPT_TOKENS), OUTPUT_TOKENS));
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let tokens: usize = join_all(runs).await.iter().map(|(_, tokens)| tokens).sum();
    let cpu = cpu_seconds() - cpu;
    let tokens = tokens as f64;
    (
        tokens / start.elapsed().as_secs_f64(),
        tokens / cpu.max(0.01),
    )
}

/// Seconds to the first token, and tokens in all.
async fn run(engine: &LlamacppEngine, prompt: Vec<u32>, max_tokens: u32) -> (f64, usize) {
    let request = EngineRequest {
        prompt_ids: prompt.into(),
        stop: StopConditions {
            max_tokens,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    };
    let start = Instant::now();
    let mut first = 0.0;
    let mut tokens = 0;
    let Ok(mut stream) = engine.generate(request, RequestContext::default()).await else {
        return (first, tokens);
    };
    while let Some(Ok(output)) = stream.next().await {
        if tokens == 0 {
            first = start.elapsed().as_secs_f64();
        }
        tokens += output.token_ids.len();
    }
    (first, tokens)
}

#[expect(clippy::print_stdout, reason = "the result is one line on stdout")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments
        .next()
        .ok_or("usage: throughput MODEL.gguf [THREADS]")?;
    let threads: u32 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let options = LlamacppOptions {
        threads: Some(threads),
        ..LlamacppOptions::default()
    };
    let engine = LlamacppEngine::load(Path::new(&model), &options)?;
    let one = decode(&engine, 1, 0).await;
    let eight = decode(&engine, 8, 100).await;
    let (cold, _) = run(&engine, prompt(1_000, PREFIX_TOKENS), 1).await;
    let (warm, _) = run(&engine, prompt(1_000, PREFIX_TOKENS), 1).await;
    let (one, one_cpu) = one;
    let (eight, eight_cpu) = eight;
    let (cold, warm) = (cold * 1e3, warm * 1e3);
    println!(
        "{{\"threads\":{threads},\"tokens_per_second_1\":{one:.1},\
         \"tokens_per_second_8\":{eight:.1},\"tokens_per_cpu_second_1\":{one_cpu:.1},\
         \"tokens_per_cpu_second_8\":{eight_cpu:.1},\"ttft_cold_ms\":{cold:.1},\
         \"ttft_repeated_ms\":{warm:.1}}}"
    );
    Ok(())
}

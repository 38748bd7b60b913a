//! The model, an engine with one thread, and requests.

use dynamo_llamacpp::{GgufTokenizer, LlamacppEngine, LlamacppOptions};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    Engine, EngineOutput, EngineRequest, EngineStream, RequestContext, StopConditions,
};
use dynamo_protocols::tokenizer::Tokenizer;
use futures_util::StreamExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub(crate) fn model_path() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.models")
        .join("gemma-3-270m-q4_k_m.gguf");
    assert!(
        path.exists(),
        "the test model is not there; run make models"
    );
    path
}

/// One thread: tests run beside each other. Small blocks: prompts need not be long.
pub(crate) fn options() -> LlamacppOptions {
    LlamacppOptions {
        threads: Some(1),
        kv_cache_tokens: 4_096,
        kv_cache_block_size: 32,
        ..LlamacppOptions::default()
    }
}

pub(crate) fn engine(options: &LlamacppOptions) -> LlamacppEngine {
    LlamacppEngine::load(&model_path(), options).unwrap()
}

pub(crate) fn tokenize(text: &str) -> Vec<u32> {
    static TOKENIZER: OnceLock<GgufTokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| GgufTokenizer::open(&model_path()).unwrap());
    tokenizer.encode(text, true).unwrap()
}

/// A greedy request that runs for exactly `max_tokens`.
pub(crate) fn request(prompt: &[u32], max_tokens: u32) -> EngineRequest {
    EngineRequest {
        model: "m".into(),
        prompt_ids: prompt.into(),
        stop: StopConditions {
            max_tokens,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }
}

pub(crate) async fn start(engine: &LlamacppEngine, request: EngineRequest) -> EngineStream {
    let started = engine.generate(request, RequestContext::default()).await;
    started.unwrap()
}

pub(crate) async fn outputs(stream: EngineStream) -> Vec<EngineOutput> {
    let outputs: Vec<Result<EngineOutput, RequestError>> = stream.collect().await;
    outputs.into_iter().map(Result::unwrap).collect()
}

pub(crate) fn tokens(outputs: &[EngineOutput]) -> Vec<u32> {
    outputs
        .iter()
        .flat_map(|output| output.token_ids.iter().copied())
        .collect()
}

pub(crate) async fn generate(engine: &LlamacppEngine, request: EngineRequest) -> Vec<u32> {
    tokens(&outputs(start(engine, request).await).await)
}

/// `count` tokens of text that no other `seed` shares.
pub(crate) fn long_prompt(seed: u32, count: usize) -> Vec<u32> {
    let words = (0..count).map(|i| {
        let word = (u32::try_from(i).unwrap() * 7_919 + seed * 104_729) % 20_000;
        1_000 + word
    });
    std::iter::once(2).chain(words).take(count).collect()
}

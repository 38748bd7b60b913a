//! Greedy text against llama.cpp's own loop.

use crate::prompts::{LONGEST, PROMPTS};
use crate::support::{engine, generate, model_path, options, outputs, request, start, tokenize};
use dynamo_llamacpp::LlamacppOptions;
use dynamo_protocols::engine::{Engine, FinishReason};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;

/// Tokens that each prompt is continued by: many enough that a difference in the last bit of some
/// logit has time to become a different text.
const OUTPUT_TOKENS: u32 = 48;

/// llama.cpp's loop: the prompt in one batch, then one token at a time, each by its own greedy
/// sampler.
fn reference(context: &mut LlamaContext<'_>, prompt: &[u32]) -> Vec<u32> {
    context.clear_kv_cache();
    let mut sampler = LlamaSampler::greedy();
    let mut batch = LlamaBatch::new(LONGEST, 1);
    let mut position = 0;
    let mut next: Vec<LlamaToken> = prompt.iter().map(|&id| LlamaToken(id as i32)).collect();
    let mut output = Vec::new();
    while output.len() < OUTPUT_TOKENS as usize {
        batch.clear();
        for (i, &token) in next.iter().enumerate() {
            let last = i + 1 == next.len();
            batch.add(token, position, &[0], last).unwrap();
            position += 1;
        }
        context.decode(&mut batch).unwrap();
        let best = sampler.sample(context, batch.n_tokens() - 1);
        next = vec![best];
        output.push(best.0 as u32);
    }
    output
}

/// llama.cpp's own answers, with a context made as the engine's options say.
fn references(options: &LlamacppOptions, prompts: &[Vec<u32>]) -> Vec<Vec<u32>> {
    // The engine has initialised llama.cpp for this process; it is never taken down.
    let backend = ManuallyDrop::new(LlamaBackend {});
    let params = LlamaModelParams::default();
    let model = LlamaModel::load_from_file(&backend, model_path(), &params).unwrap();
    let threads = options.threads.unwrap() as i32;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(4_096))
        .with_n_batch(options.max_num_batched_tokens)
        .with_n_ubatch(options.max_num_batched_tokens)
        .with_n_threads(threads)
        .with_n_threads_batch(threads);
    let mut context = model.new_context(&backend, params).unwrap();
    let answer = |prompt: &Vec<u32>| reference(&mut context, prompt);
    prompts.iter().map(answer).collect()
}

#[test]
fn the_prompts_are_of_every_length_up_to_the_longest() {
    let mut in_band = [0; LONGEST / 50];
    for prompt in PROMPTS {
        let length = tokenize(prompt).len();
        assert!(length <= LONGEST, "{length} tokens: {prompt}");
        in_band[(length - 1) / 50] += 1;
    }
    assert!(in_band.iter().all(|&prompts| prompts >= 3), "{in_band:?}");
}

#[tokio::test]
async fn greedy_text_equals_llama_cpps_own_loop() {
    let options = LlamacppOptions {
        threads: Some(1),
        ..LlamacppOptions::default()
    };
    let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|text| tokenize(text)).collect();
    let engine = engine(&options);
    let mut ours = Vec::new();
    for prompt in &prompts {
        ours.push(generate(&engine, request(prompt, OUTPUT_TOKENS)).await);
    }
    drop(engine);
    let theirs = references(&options, &prompts);
    let mut different = Vec::new();
    for (prompt, (ours, theirs)) in PROMPTS.iter().zip(ours.iter().zip(&theirs)) {
        assert_eq!(theirs.len(), OUTPUT_TOKENS as usize);
        if ours != theirs {
            different.push((prompt, ours, theirs));
        }
    }
    assert!(different.is_empty(), "{different:#?}");
}

#[tokio::test]
async fn logprobs_of_greedy_tokens_are_the_largest_and_come_in_order() {
    let engine = engine(&options());
    let mut request = request(&tokenize("The capital of France is"), 3);
    request.logprobs = Some(4);
    for output in outputs(start(&engine, request).await).await {
        let logprobs = &output.logprobs.unwrap()[0];
        assert_eq!(logprobs.top[0], (output.token_ids[0], logprobs.logprob));
        assert_eq!(logprobs.top.len(), 4);
        assert!(logprobs.top.is_sorted_by(|a, b| a.1 >= b.1));
        assert!(logprobs.logprob < 0.0);
    }
}

#[tokio::test]
async fn a_continued_request_counts_what_was_generated_before_as_generated() {
    // Deterministic, because only there are the logits of a replayed sequence the same bits.
    let options = LlamacppOptions {
        deterministic: true,
        ..options()
    };
    let engine = engine(&options);
    let mut whole = request(&tokenize("Once upon a time,"), 12);
    whole.sampling.temperature = 0.8;
    whole.sampling.top_k = 40;
    whole.sampling.seed = 11;
    whole.sampling.repetition_penalty = 1.2;
    let all = generate(&engine, whole.clone()).await;
    whole.generated_ids = all[..7].to_vec();
    let rest = generate(&engine, whole).await;
    assert_eq!(rest, all[7..]);
}

#[tokio::test]
async fn the_context_ends_a_sequence_and_stop_tokens_wait_for_min_tokens() {
    let options = LlamacppOptions {
        context_length: Some(64),
        ..options()
    };
    let engine = engine(&options);
    let prompt = tokenize("The capital of France is");
    let output = outputs(start(&engine, request(&prompt, 1_000)).await).await;
    let reason = output.last().unwrap().finish_reason;
    assert_eq!(reason, Some(FinishReason::Length));
    assert_eq!(prompt.len() + output.len(), 64);

    let first = output[0].token_ids[0];
    let mut stopping = request(&prompt, 10);
    stopping.stop.stop_ids = vec![first];
    let stopped = outputs(start(&engine, stopping.clone()).await).await;
    assert_eq!(stopped.len(), 1);
    assert_eq!(
        stopped[0].finish_reason,
        Some(FinishReason::StopToken(first))
    );
    stopping.stop.min_tokens = 4;
    let stopped = outputs(start(&engine, stopping).await).await;
    assert!(stopped.len() > 4);
    assert_ne!(stopped[0].token_ids[0], first);

    let long = vec![2; 64];
    let refused = engine.generate(request(&long, 1), Default::default()).await;
    let error = refused.err().unwrap();
    assert_eq!(error.code.as_str(), "context_length_exceeded");
}

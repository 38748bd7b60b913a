//! Greedy text against llama.cpp's own loop.

use crate::support::{engine, generate, model_path, options, outputs, request, start, tokenize};
use dynamo_llamacpp::LlamacppOptions;
use dynamo_protocols::engine::{Engine, FinishReason};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use std::mem::ManuallyDrop;
use std::num::NonZeroU32;

const PROMPTS: [&str; 20] = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "Water boils at",
    "The three laws of thermodynamics state that",
    "Dear Sir or Madam,\n\nI am writing to",
    "1, 1, 2, 3, 5, 8,",
    "In 1969, the first man",
    "Die Hauptstadt von Deutschland ist",
    "A recipe for apple pie:\n\nIngredients:\n-",
    "The mitochondria is the",
    "SELECT name, age FROM users WHERE",
    "To be, or not to be, that is",
    "El sol sale por",
    "The quick brown fox",
    "Photosynthesis is the process by which plants",
    "#include <stdio.h>\n\nint main(void) {",
    "My favourite colour is blue because",
    "In mathematics, a prime number is a natural number greater than one that has no positive \
     divisors other than one and itself. The first ten prime numbers are two, three, five, seven, \
     eleven, thirteen, seventeen, nineteen, twenty-three and twenty-nine. The sum of the first \
     ten prime numbers is one hundred and twenty-nine. It was known to the ancient Greeks that \
     there are infinitely many of them; the proof goes like this. Suppose that there were only",
    "The history of the steam engine begins long before James Watt. Thomas Savery, Thomas \
     Newcomen and Denis Papin each built machines that turned heat into motion, and each of them \
     found out how hard it was to make a cylinder round enough. The mines of Cornwall were deep \
     and wet, coal was dear, and whoever could raise water with less of it grew rich. What Watt \
     added was a separate condenser, and a partner who knew how to sell. From then on the",
];

const OUTPUT_TOKENS: u32 = 16;

/// llama.cpp's loop: the prompt in one batch, then one token at a time, the largest logit wins.
fn reference(context: &mut LlamaContext<'_>, prompt: &[u32]) -> Vec<u32> {
    context.clear_kv_cache();
    let mut batch = LlamaBatch::new(512, 1);
    let mut position = 0;
    let mut next: Vec<u32> = prompt.to_vec();
    let mut output = Vec::new();
    while output.len() < OUTPUT_TOKENS as usize {
        batch.clear();
        for (i, &token) in next.iter().enumerate() {
            let last = i + 1 == next.len();
            batch
                .add(LlamaToken(token as i32), position, &[0], last)
                .unwrap();
            position += 1;
        }
        context.decode(&mut batch).unwrap();
        let logits = context.get_logits_ith(batch.n_tokens() - 1);
        let mut best = 0;
        for (id, &logit) in logits.iter().enumerate() {
            if logit > logits[best] {
                best = id;
            }
        }
        next = vec![best as u32];
        output.push(best as u32);
    }
    output
}

#[tokio::test]
async fn greedy_text_equals_llama_cpps_own_loop() {
    let defaults = LlamacppOptions {
        threads: Some(1),
        ..LlamacppOptions::default()
    };
    let engine = engine(&defaults);
    let mut ours = Vec::new();
    for prompt in PROMPTS {
        let prompt = tokenize(prompt);
        assert!(prompt.len() <= 200);
        ours.push((
            prompt.clone(),
            generate(&engine, request(&prompt, OUTPUT_TOKENS)).await,
        ));
    }
    drop(engine);
    // The engine has initialised llama.cpp for this process; it is never taken down.
    let backend = ManuallyDrop::new(LlamaBackend {});
    let params = LlamaModelParams::default();
    let model = LlamaModel::load_from_file(&backend, model_path(), &params).unwrap();
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(4_096))
        .with_n_batch(512)
        .with_n_ubatch(512)
        .with_n_threads(1)
        .with_n_threads_batch(1);
    let mut context = model.new_context(&backend, params).unwrap();
    let mut different = Vec::new();
    for (number, (prompt, ours)) in ours.iter().enumerate() {
        let reference = reference(&mut context, prompt);
        if *ours != reference {
            different.push((number, ours.clone(), reference));
        }
    }
    assert!(different.is_empty(), "{different:?}");
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

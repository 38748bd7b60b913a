//! Requests in, engine requests out, with the byte tokenizer.

use super::*;
use crate::byte_tokenizer::ByteTokenizer;
use crate::card::{GenerationDefaults, ModelCard, ModelTypes};
use crate::echo::{EchoEngine, EchoOptions};
use crate::template::{ChatTemplate, SpecialTokens};
use dynamo_protocols::openai::parse;
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_runtime::environment::{ComputePool, Job};
use futures_core::future::BoxFuture;
use serde_json::{Value, json};

/// A compute pool that is always full.
#[derive(Debug)]
struct FullPool;

impl ComputePool for FullPool {
    fn run(&self, _job: Job) -> BoxFuture<'static, Result<(), ComputeError>> {
        Box::pin(async { Err(ComputeError::Full) })
    }
}

fn model(model_types: ModelTypes) -> Arc<ServedModel> {
    let card = ModelCard {
        model_types,
        generation: GenerationDefaults {
            temperature: Some(0.25),
            ..GenerationDefaults::default()
        },
        ..ModelCard::byte_level("m", 100)
    };
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ suffix }}";
    Arc::new(ServedModel {
        card,
        tokenizer: Arc::new(ByteTokenizer),
        template: Some(Arc::new(
            ChatTemplate::new(template, SpecialTokens::new()).unwrap(),
        )),
        engine: Arc::new(EchoEngine::new(EchoOptions::default())),
        router: None,
    })
}

const ALL: ModelTypes = ModelTypes {
    chat: true,
    completions: true,
    embeddings: true,
};

async fn complete(body: Value, environment: &Environment) -> Result<Prepared, RequestError> {
    let mut body = body;
    body["model"] = "m".into();
    let request = parse(body.to_string().as_bytes())?;
    prepare_completion(
        request,
        model(ALL),
        PreprocessLimits::default(),
        environment,
    )
    .await
}

async fn chat(body: Value, types: ModelTypes) -> Result<Prepared, RequestError> {
    let mut body = body;
    body["model"] = "m".into();
    body["messages"] = json!([{"role": "user", "content": "hi"}]);
    let request = parse(body.to_string().as_bytes())?;
    let environment = Environment::system();
    prepare_chat(
        request,
        model(types),
        PreprocessLimits::default(),
        &environment,
    )
    .await
}

#[tokio::test]
async fn choices_share_prompt_and_seed_and_differ_in_their_number() {
    let environment = Environment::system();
    let body = json!({"prompt": ["ab", "c"], "n": 2});
    let prepared = complete(body, &environment).await.unwrap();
    let requests = &prepared.requests;
    assert_eq!(
        requests.iter().map(|r| r.choice).collect::<Vec<_>>(),
        [0, 1, 0, 1]
    );
    assert!(Arc::ptr_eq(
        &requests[0].prompt_ids,
        &requests[1].prompt_ids
    ));
    assert_eq!(&requests[2].prompt_ids[..], [ByteTokenizer::BOS, 99]);
    assert!(
        requests
            .iter()
            .all(|r| r.sampling.seed == requests[0].sampling.seed)
    );
    assert_eq!(prepared.prompt_tokens(), 5);
}

#[tokio::test]
async fn the_answer_may_fill_the_context_unless_the_client_says_less() {
    let environment = Environment::system();
    let prepared = complete(json!({"prompt": "ab"}), &environment)
        .await
        .unwrap();
    let stop = &prepared.requests[0].stop;
    assert_eq!(
        (stop.max_tokens, stop.eos_ids.as_slice()),
        (97, &[ByteTokenizer::EOS][..])
    );
    let body = json!({"prompt": "ab", "max_tokens": 5, "min_tokens": 2});
    let prepared = complete(body, &environment).await.unwrap();
    let stop = &prepared.requests[0].stop;
    assert_eq!((stop.max_tokens, stop.min_tokens), (5, 2));
}

#[tokio::test]
async fn seeds_are_drawn_anew_and_defaults_are_the_models() {
    let environment = Environment::system();
    let first = complete(json!({"prompt": "a"}), &environment)
        .await
        .unwrap();
    let second = complete(json!({"prompt": "a"}), &environment)
        .await
        .unwrap();
    let (first, second) = (&first.requests[0].sampling, &second.requests[0].sampling);
    assert_ne!(first.seed, second.seed);
    assert_eq!(first.temperature.to_bits(), 0.25_f32.to_bits());
}

#[tokio::test]
async fn long_prompts_are_tokenised_on_the_pool_and_refused_when_it_is_full() {
    let environment = Environment {
        compute: Arc::new(FullPool),
        ..Environment::system()
    };
    let short = complete(json!({"prompt": "a"}), &environment).await;
    assert!(short.is_ok());
    let long = "x".repeat(ByteTokenizer.quick_bytes() + 1);
    let refused = complete(json!({"prompt": long}), &environment)
        .await
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoCapacity);
    assert!(refused.retry_after.is_some());
}

#[tokio::test]
async fn variables_for_the_template_go_under_either_name() {
    for name in ["chat_template_kwargs", "chat_template_args"] {
        let mut body = json!({});
        body[name] = json!({"suffix": "!"});
        let prepared = chat(body, ALL).await.unwrap();
        assert_eq!(&prepared.requests[0].prompt_ids[..], [104, 105, 33]);
    }
    let both = json!({"chat_template_kwargs": {}, "chat_template_args": {}});
    assert_eq!(
        chat(both, ALL).await.unwrap_err().code,
        ErrorCode::InvalidRequest
    );
}

#[tokio::test]
async fn two_names_of_one_limit_must_agree() {
    let agree = json!({"max_tokens": 3, "max_completion_tokens": 3});
    assert_eq!(
        chat(agree, ALL).await.unwrap().requests[0].stop.max_tokens,
        3
    );
    let differ = json!({"max_tokens": 3, "max_completion_tokens": 4});
    let error = chat(differ, ALL).await.unwrap_err();
    assert_eq!(error.param.as_deref(), Some("max_completion_tokens"));
}

#[tokio::test]
async fn what_a_model_cannot_do_is_refused() {
    let types = ModelTypes { chat: false, ..ALL };
    let error = chat(json!({}), types).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedParameter);
    assert!(error.message.contains("/v1/completions"), "{error}");
}

#[tokio::test]
async fn extra_facts_go_with_one_choice_and_known_names() {
    let ask = |n: u32, name: &str| json!({"n": n, "nvext": {"extra_fields": [name]}});
    assert!(
        chat(ask(1, "stop_reason"), ALL)
            .await
            .unwrap()
            .extra
            .stop_reason
    );
    let error = chat(ask(2, "stop_reason"), ALL).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
    let error = chat(ask(1, "timing"), ALL).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedParameter);
}

#[tokio::test]
async fn a_constraint_is_never_left_out() {
    let environment = Environment::system();
    // The echo engine cannot keep to any.
    let body = json!({"prompt": "hi", "guided_regex": "a"});
    let error = complete(body, &environment).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::UnsupportedParameter);
    assert_eq!(error.param.as_deref(), Some("guided_regex"));
    assert!(error.message.contains("model `m`"), "{error}");
    let body = json!({"response_format": {"type": "json_object"}});
    let error = chat(body, ALL).await.unwrap_err();
    assert_eq!(error.param.as_deref(), Some("response_format"));
    let body = json!({"prompt": "hi", "response_format": {"type": "text"}});
    let prepared = complete(body, &environment).await.unwrap();
    assert_eq!(prepared.requests[0].sampling.structured, None);
}

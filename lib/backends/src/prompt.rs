//! The tokens of a request's prompt, as its server will have them, so that blocks can be found in
//! caches.
//!
//! A request is the server's to judge: one that this process cannot read is not refused, it is
//! routed by load. What does not change the prompt (and may be an extension of the server's) is
//! left out if it is in the way.

use bytes::Bytes;
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::{Prepared, PreprocessLimits, prepare_chat, prepare_completion};
use dynamo_protocols::RequestError;
use dynamo_protocols::openai::{ChatRequest, CompletionRequest, parse};
use dynamo_protocols::routing::RouteHints;
use dynamo_runtime::Environment;
use serde_json::{Map, Value};
use std::sync::Arc;

/// The fields that make a prompt, and those that the router reads.
const PROMPT_FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "tools",
    "tool_choice",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
    "chat_template_args",
    "reasoning_effort",
    "cache_salt",
    "priority",
    "nvext",
];

/// Bytes of a body that are about one token, where nothing better is known.
const BYTES_PER_TOKEN: usize = 4;

/// Which API a path is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Chat.
    Chat,
    /// Plain completions.
    Completion,
}

/// A prompt in tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptTokens {
    /// The tokens.
    pub ids: Arc<[u32]>,
    /// The cache salt.
    pub salt: Option<Arc<str>>,
    /// Higher goes earlier.
    pub priority: i32,
    /// What the body asks of the choice of a server.
    pub hints: RouteHints,
}

impl Api {
    /// The API of a path, if it has prompts.
    pub fn of_path(path: &str) -> Option<Self> {
        match path.split('?').next() {
            Some("/v1/chat/completions") => Some(Self::Chat),
            Some("/v1/completions") => Some(Self::Completion),
            _ => None,
        }
    }
}

/// About how many tokens a body has.
pub fn estimate(body: &Bytes) -> u64 {
    (body.len() / BYTES_PER_TOKEN).max(1) as u64
}

/// Renders and tokenises a request's first prompt.
pub async fn tokens(
    api: Api,
    body: &[u8],
    model: &Arc<ServedModel>,
    environment: &Environment,
) -> Result<PromptTokens, RequestError> {
    match prepare(api, body, model, environment).await {
        Ok(prepared) => taken(prepared),
        Err(first) => match reduced(body) {
            Some(body) => taken(prepare(api, &body, model, environment).await?),
            None => Err(first),
        },
    }
}

async fn prepare(
    api: Api,
    body: &[u8],
    model: &Arc<ServedModel>,
    environment: &Environment,
) -> Result<Prepared, RequestError> {
    let (model, limits) = (Arc::clone(model), PreprocessLimits::default());
    match api {
        Api::Chat => {
            let request: ChatRequest = parse(body)?;
            prepare_chat(request, model, limits, environment).await
        }
        Api::Completion => {
            let request: CompletionRequest = parse(body)?;
            prepare_completion(request, model, limits, environment).await
        }
    }
}

fn taken(mut prepared: Prepared) -> Result<PromptTokens, RequestError> {
    let hints = std::mem::take(&mut prepared.hints);
    let first = prepared.requests.into_iter().next();
    let first = first.ok_or_else(|| RequestError::invalid("prompt", "there is no prompt"))?;
    Ok(PromptTokens {
        ids: first.prompt_ids,
        salt: first.cache_salt,
        priority: first.priority,
        hints,
    })
}

/// The body with nothing but what makes the prompt, if there is anything else.
fn reduced(body: &[u8]) -> Option<Vec<u8>> {
    let fields: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let before = fields.len();
    let kept = fields.into_iter();
    let kept: Map<String, Value> = kept
        .filter(|(name, _)| PROMPT_FIELDS.contains(&name.as_str()))
        .collect();
    if kept.len() == before {
        return None;
    }
    serde_json::to_vec(&kept).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_llm::echo::EchoOptions;
    use dynamo_llm::echo_model::echo_model;

    async fn ids(api: Api, body: &str) -> Result<Vec<u32>, RequestError> {
        let model = Arc::new(echo_model("m", EchoOptions::default()).unwrap());
        let tokens = tokens(api, body.as_bytes(), &model, &Environment::system()).await?;
        Ok(tokens.ids.to_vec())
    }

    #[tokio::test]
    async fn extensions_of_a_server_do_not_hide_the_prompt() {
        let plain = ids(Api::Completion, r#"{"model":"m","prompt":"hello"}"#)
            .await
            .unwrap();
        let extended = r#"{"model":"m","prompt":"hello","guided_magic":{"a":[1]},"top_p":7}"#;
        assert_eq!(ids(Api::Completion, extended).await.unwrap(), plain);
        let chat = r#"{"model":"m","messages":[{"role":"user","content":"hello"}],"mm":{}}"#;
        assert!(!ids(Api::Chat, chat).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_read_has_no_tokens() {
        for body in [r#"{"model":"m","prompt":{}}"#, r#"{"model":"m"}"#, "[]"] {
            assert!(ids(Api::Completion, body).await.is_err(), "{body}");
        }
    }

    #[test]
    fn paths_with_prompts_are_known() {
        assert_eq!(Api::of_path("/v1/chat/completions?x=1"), Some(Api::Chat));
        assert_eq!(Api::of_path("/v1/completions"), Some(Api::Completion));
        assert_eq!(Api::of_path("/v1/embeddings"), None);
    }
}
